//! `completions`: print the completion script of a shell.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Failure, Output};

/// For which shell.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Shell
    shell: Shell,
}

pub(super) fn completions(args: &Args, out: Output) -> Result<(), Failure> {
    // Into memory first: the generator panics when a pipe closes.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "container-svc", &mut script);
    out.line(String::from_utf8_lossy(&script).trim_end())
}
