//! `inspect`: describe containers as JSON, with their history.

use crate::rpc::pb;

use super::{Failure, Output, Session, target};

/// Which containers to describe.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Names or ids
    #[arg(required_unless_present = "hash", value_name = "CONTAINER")]
    containers: Vec<String>,
    /// By hash, the caller's or the computed one
    #[arg(long, conflicts_with = "containers")]
    hash: Option<String>,
}

pub(super) async fn inspect(args: &Args, session: Session, out: Output) -> Result<(), Failure> {
    let mut client = session.containers();
    if let Some(hash) = args.hash.clone() {
        let request = pb::GetContainerRequest { hash, ..Default::default() };
        return print(client.get_container(request).await?.get_ref(), out);
    }
    target::each(&args.containers, out, async |target, out| {
        let (name, id) = target.name_and_id();
        let request = pb::GetContainerRequest { id, name, ..Default::default() };
        print(client.get_container(request).await?.get_ref(), out)
    })
    .await
}

fn print(answer: &pb::GetContainerResponse, out: Output) -> Result<(), Failure> {
    if out.json {
        return out.message("GetContainerResponse", answer);
    }
    out.pretty("GetContainerResponse", answer)
}
