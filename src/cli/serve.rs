//! `serve`: read the configuration, start the log, serve until a signal.

use std::{
    env,
    io::{self, IsTerminal},
    path::PathBuf,
};

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::{
    config::{Config, LogFormat, ServeArgs},
    server,
};

use super::{Failure, Output};

/// How to serve.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    settings: ServeArgs,
    /// Check the configuration, print the settings in force as TOML, and exit
    #[arg(long)]
    check_config: bool,
}

pub(super) async fn serve(
    args: Args,
    token_file: Option<PathBuf>,
    out: Output,
) -> Result<(), Failure> {
    let token_file = token_file.map(|path| path.to_string_lossy().into_owned());
    let settings = ServeArgs { token_file, ..args.settings };
    let config = Config::load(&settings, |key| env::var(key).ok())?;
    if args.check_config {
        let database = config.database();
        out.line(format_args!("# would keep its records in {}", database.display()))?;
        return out.line(config.describe().trim_end());
    }
    start_log(&config)?;
    let shutdown = shutdown()?;
    Box::pin(server::run(config, shutdown)).await.map_err(Failure::Server)
}

/// Log lines go to stderr, in colour where a person looks.
fn start_log(config: &Config) -> Result<(), Failure> {
    let filter = EnvFilter::builder()
        .parse(&config.log)
        .map_err(|why| Failure::Other(format!("cannot start the log: {why}")))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    let started = match config.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|why| Failure::Other(format!("cannot start the log: {why}")))
}

/// Ends at SIGTERM or SIGINT. The handlers stand before the server does, so that an
/// early signal still drains.
fn shutdown() -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping");
    })
}
