//! The command line: one file for each subcommand, over the generated client.

mod assets;
mod build;
mod completions;
mod connect;
mod events;
mod failure;
mod gpus;
mod images;
mod info;
mod inspect;
mod interrupt;
mod keeps;
mod logs;
mod output;
mod parse;
mod progress;
mod ps;
mod pull;
mod push;
mod rm;
mod rmi;
mod run;
mod serve;
mod stop;
mod target;
mod token;
mod watch;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use connect::{Session, open};
use failure::Failure;
use output::Output;

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   failed
  2   the command line is wrong
  3   not found
  4   not permitted, or no valid token
  5   the service, the engine or a registry does not answer
  6   the state forbids it: name taken, port taken, still running, limit reached
  64  the server's configuration is wrong";

/// Runs containers on one node, and asks about them, over a small typed API.
#[derive(Debug, Parser)]
#[command(name = "container-svc", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    command: Command,
}

/// How the client commands reach the service.
#[derive(Debug, Args)]
#[command(next_help_heading = "Client options")]
struct ClientArgs {
    /// Address of the service: http://host:port or unix:///path
    #[arg(
        long,
        global = true,
        env = "CONTAINER_SVC_ADDRESS",
        default_value = "http://127.0.0.1:11337"
    )]
    address: String,
    /// Token; on a shared machine prefer the variable or a file, which ps does not show
    #[arg(long, global = true, env = "CONTAINER_SVC_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// File with the token; for serve, where the admin token is written
    /// [default: admin.token in the data directory]
    #[arg(long, global = true, env = "CONTAINER_SVC_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the answers as JSON, one message a line, as REST gives them
    #[arg(long, global = true)]
    json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API
    Serve(Box<serve::Args>),
    /// Make sure that a container runs
    Run(Box<run::Args>),
    /// Stop containers and keep them
    Stop(stop::Args),
    /// Remove containers that the service made
    Rm(rm::Args),
    /// List containers, newest first
    Ps(ps::Args),
    /// Describe containers as JSON, with their history
    Inspect(inspect::Args),
    /// Build an image from a folder of the service's node
    Build(Box<build::Args>),
    /// List images, newest first
    Images(images::Args),
    /// Fetch an image
    Pull(pull::Args),
    /// Send an image to its registry
    Push(push::Args),
    /// Remove images
    Rmi(rmi::Args),
    /// Print what containers wrote
    Logs(Box<logs::Args>),
    /// List, remove, export and import the data that containers keep
    Keeps(keeps::Args),
    /// List and remove the files that were fetched for containers
    Assets(assets::Args),
    /// Print what happened: created, replaced, died, pulled and so on
    Events(events::Args),
    /// Print containers and their changes as they happen
    Watch(watch::Args),
    /// List the GPUs of the node, and what uses them
    Gpus(gpus::Args),
    /// Describe the node, its engine and the service
    Info,
    /// Make, list and revoke tokens
    Token(token::Args),
    /// Print the completion script of a shell
    Completions(completions::Args),
}

/// Runs the subcommand and prints what it has to say; the result is the exit code.
pub async fn execute(cli: Cli) -> u8 {
    match cli.dispatch().await {
        Ok(()) => 0,
        Err(failure) => failure.report(),
    }
}

impl Cli {
    async fn dispatch(self) -> Result<(), Failure> {
        let out = Output { json: self.client.json };
        let session = || open(&self.client);
        match self.command {
            Command::Serve(args) => serve::serve(*args, self.client.token_file, out).await,
            Command::Completions(args) => completions::completions(&args, out),
            Command::Run(args) => run::run(*args, session().await?, out).await,
            Command::Stop(args) => stop::stop(&args, session().await?, out).await,
            Command::Rm(args) => rm::rm(&args, session().await?, out).await,
            Command::Ps(args) => ps::ps(args, session().await?, out).await,
            Command::Inspect(args) => inspect::inspect(&args, session().await?, out).await,
            Command::Build(args) => build::build(*args, session().await?, out).await,
            Command::Images(args) => images::images(args, session().await?, out).await,
            Command::Pull(args) => pull::pull(args, session().await?, out).await,
            Command::Push(args) => push::push(args, session().await?, out).await,
            Command::Rmi(args) => rmi::rmi(args, session().await?, out).await,
            Command::Logs(args) => logs::logs(*args, session().await?, out).await,
            Command::Keeps(args) => keeps::keeps(args, session().await?, out).await,
            Command::Assets(args) => assets::assets(args, session().await?, out).await,
            Command::Events(args) => events::events(args, session().await?, out).await,
            Command::Watch(args) => watch::watch(args, session().await?, out).await,
            Command::Gpus(args) => gpus::gpus(&args, session().await?, out).await,
            Command::Info => info::info(session().await?, out).await,
            Command::Token(args) => token::token(args, session().await?, out).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn completions_know_every_subcommand() {
        let mut script = Vec::new();
        let bash = clap_complete::Shell::Bash;
        clap_complete::generate(bash, &mut Cli::command(), "container-svc", &mut script);
        let script = String::from_utf8(script).unwrap();
        for command in Cli::command().get_subcommands() {
            assert!(script.contains(&format!("container__svc,{}", command.get_name())));
        }
        assert!(script.contains("--grep-i") && script.contains("--timestamps"));
    }

    #[test]
    fn flags_after_the_image_belong_to_the_container() {
        let cli = Cli::try_parse_from(["container-svc", "run", "nginx", "sh", "--json", "-c"]);
        assert!(!cli.unwrap().client.json);
    }

    #[test]
    fn client_flags_stand_before_or_after_the_subcommand() {
        for line in [["container-svc", "--json", "ps"], ["container-svc", "ps", "--json"]] {
            assert!(Cli::try_parse_from(line).unwrap().client.json);
        }
    }
}
