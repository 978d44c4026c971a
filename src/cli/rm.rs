//! `rm`: remove containers that the service made.

use crate::rpc::pb;

use super::{Failure, Output, Session, target};

/// Which containers to remove.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Stop them first when they run
    #[arg(short, long)]
    force: bool,
}

pub(super) async fn rm(args: &Args, session: Session, out: Output) -> Result<(), Failure> {
    let mut client = session.containers();
    target::each(&args.containers, out, async |target, out| {
        let (name, id) = target.name_and_id();
        let label = if name.is_empty() { id.clone() } else { name.clone() };
        let request = pb::RemoveContainerRequest { id, name, force: args.force };
        let answer = client.remove_container(request).await?;
        if out.json {
            return out.message("RemoveContainerResponse", answer.get_ref());
        }
        out.line(label)
    })
    .await
}
