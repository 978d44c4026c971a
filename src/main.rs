//! Parses the command line, runs one subcommand, exits with its code.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use container_svc::cli::{Cli, execute};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => ExitCode::from(runtime.block_on(execute(cli))),
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "error: cannot start: {why}");
            ExitCode::FAILURE
        }
    }
}
