//! `stop`: stop containers and keep them.

use crate::rpc::pb;

use super::{Failure, Output, Session, target};

/// Which containers to stop.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(super) async fn stop(args: &Args, session: Session, out: Output) -> Result<(), Failure> {
    let mut client = session.containers();
    target::each(&args.containers, out, async |target, out| {
        let (name, id) = target.name_and_id();
        let label = if name.is_empty() { id.clone() } else { name.clone() };
        let answer = client.stop_container(pb::StopContainerRequest { id, name }).await?;
        if out.json {
            return out.message("StopContainerResponse", answer.get_ref());
        }
        out.line(label)
    })
    .await
}
