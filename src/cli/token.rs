//! `token`: make, list and revoke the tokens that open the service.

use crate::rpc::pb;

use super::{Failure, Output, Session, info::time, output::warn, parse};

/// What to do with tokens.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a token and print its text, once and never again
    Create(Create),
    /// List the tokens, without their text
    List,
    /// End tokens at once
    Revoke(Revoke),
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Name, 1 to 64 of [a-zA-Z0-9_.-]
    name: String,
    /// A named set of permissions
    #[arg(long = "as", value_name = "SET", required_unless_present = "permissions")]
    #[arg(value_parser = ["model-svc", "deploy-svc", "admin", "viewer"])]
    grant_set: Option<String>,
    /// A permission more, as container-svc:image:pull; repeatable
    #[arg(long = "permission", value_name = "PERMISSION")]
    permissions: Vec<String>,
    /// How long it lives, as 12h or 30d [default: until it is revoked]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    ttl: Option<prost_types::Duration>,
}

#[derive(Debug, clap::Args)]
struct Revoke {
    /// Names of the tokens
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Also the last one that may manage tokens
    #[arg(long)]
    force: bool,
}

pub(super) async fn token(args: Args, session: Session, out: Output) -> Result<(), Failure> {
    match args.command {
        Command::Create(args) => create(args, &session, out).await,
        Command::List => list(&session, out).await,
        Command::Revoke(args) => revoke(args, &session, out).await,
    }
}

async fn create(args: Create, session: &Session, out: Output) -> Result<(), Failure> {
    let request = pb::CreateTokenRequest {
        name: args.name,
        grant_set: args.grant_set.unwrap_or_default(),
        permissions: args.permissions,
        ttl: args.ttl,
    };
    let answer = session.tokens().create_token(request).await?.into_inner();
    if out.json {
        return out.message("CreateTokenResponse", &answer);
    }
    if let Some(token) = &answer.token {
        let ends = token.expires_at.as_ref().and_then(time);
        let ends = ends.map_or("until it is revoked".to_owned(), |at| format!("until {at}"));
        // On stderr, so that the secret can be caught alone.
        warn(format_args!("{}: {} {ends}; shown this once:", token.name, may(token)));
    }
    out.line(answer.secret)
}

async fn list(session: &Session, out: Output) -> Result<(), Failure> {
    let answer = session.tokens().list_tokens(pb::ListTokensRequest {}).await?.into_inner();
    if out.json {
        return out.message("ListTokensResponse", &answer);
    }
    let rows: Vec<_> = answer.tokens.iter().map(row).collect();
    out.table(["NAME", "CREATED", "EXPIRES", "PERMISSIONS"], &rows)
}

async fn revoke(args: Revoke, session: &Session, out: Output) -> Result<(), Failure> {
    let mut client = session.tokens();
    for name in args.names {
        let request = pb::RevokeTokenRequest { name: name.clone(), force: args.force };
        let answer = client.revoke_token(request).await?;
        if out.json {
            out.message("RevokeTokenResponse", answer.get_ref())?;
        } else {
            out.line(name)?;
        }
    }
    Ok(())
}

fn row(token: &pb::Token) -> [String; 4] {
    let at = |at: Option<&prost_types::Timestamp>| at.and_then(time);
    [
        token.name.clone(),
        at(token.created_at.as_ref()).unwrap_or_default(),
        at(token.expires_at.as_ref()).unwrap_or_else(|| "never".to_owned()),
        may(token),
    ]
}

/// The permissions without the prefix that all of them share.
fn may(token: &pb::Token) -> String {
    let short = |name: &String| name.trim_start_matches("container-svc:").to_owned();
    token.permissions.iter().map(short).collect::<Vec<_>>().join(",")
}
