//! `watch`: print containers and their changes as they happen.

use tonic::Code;

use crate::rpc::pb;

use super::{Failure, Output, Session, interrupt, output::warn, target::short};

/// What to watch; all containers by default.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only the container with this name or alias
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Only containers with this label, KEY or KEY=VALUE
    #[arg(short, long, default_value = "", hide_default_value = true)]
    label: String,
    /// Only containers that the service made
    #[arg(long)]
    managed: bool,
    /// Continue after this cursor, which --json prints
    #[arg(long, default_value = "", hide_default_value = true)]
    cursor: String,
}

pub(super) async fn watch(args: Args, session: Session, out: Output) -> Result<(), Failure> {
    let mut request = pb::WatchContainersRequest {
        cursor: args.cursor,
        name: args.name,
        label: args.label,
        managed_only: args.managed,
    };
    interrupt::ends_well()?;
    loop {
        let before = request.cursor.clone();
        match follow(&session, &mut request, out).await {
            // We read too slowly; nothing is lost if we go on from the last cursor.
            Err(Failure::Refused(status))
                if status.code() == Code::ResourceExhausted && request.cursor != before =>
            {
                warn("fell behind; continuing after the last change that was printed");
            }
            other => return other,
        }
    }
}

/// Prints until the stream ends; keeps the last cursor in the request.
async fn follow(
    session: &Session,
    request: &mut pb::WatchContainersRequest,
    out: Output,
) -> Result<(), Failure> {
    let mut stream = session.containers().watch_containers(request.clone()).await?.into_inner();
    while let Some(change) = stream.message().await? {
        if out.json {
            out.message("WatchContainersResponse", &change)?;
        } else {
            out.line(line(&change))?;
        }
        request.cursor = change.cursor;
    }
    Ok(())
}

fn line(change: &pb::WatchContainersResponse) -> String {
    let kind = match change.r#type() {
        pb::WatchEventType::Unspecified => "unknown",
        pb::WatchEventType::Added => "added",
        pb::WatchEventType::Changed => "changed",
        pb::WatchEventType::Removed => "removed",
        pb::WatchEventType::Synced => "synced",
        pb::WatchEventType::Reset => "reset",
    };
    let Some(container) = &change.container else {
        return kind.to_owned();
    };
    let names = container.names.join(",");
    let id = short(&container.id);
    format!("{kind:<8} {id:<12} {:<10} {names} {}", container.status, container.image)
        .replace(char::is_control, "?")
}
