//! `push`: send an image to its registry, with the bars of a pull.

use crate::rpc::pb;

use super::{Failure, Output, Session, progress::View, pull::credential};

/// What to send.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Image, as localhost:5000/team/app:1
    image: String,
    /// User name at the registry [default: the node's Docker config file]
    #[arg(short, long, requires = "password_stdin")]
    username: Option<String>,
    /// Read the password from stdin
    #[arg(long, requires = "username")]
    password_stdin: bool,
}

pub(super) async fn push(args: Args, session: Session, out: Output) -> Result<(), Failure> {
    let credential = args.username.map(credential).transpose()?;
    let request = pb::PushImageRequest { name: args.image, credential };
    let mut stream = session.images().push_image(request).await?.into_inner();
    let mut view = View::new(out);
    loop {
        let step = match stream.message().await {
            Ok(Some(step)) => step,
            Ok(None) => break,
            Err(status) => {
                view.clear();
                return Err(status.into());
            }
        };
        if out.json {
            out.message("PushImageResponse", &step)?;
        } else if step.done {
            view.clear();
            return out.line(step.digest);
        }
        if step.done {
            return Ok(());
        }
        view.pull(&shown(step));
    }
    view.clear();
    Err(Failure::Other("the service ended the push without saying that it is done".to_owned()))
}

/// A push looks like a pull.
fn shown(step: pb::PushImageResponse) -> pb::PullImageResponse {
    let progress = step.progress.map(|all| pb::PullProgress {
        current_bytes: all.current_bytes,
        total_bytes: all.total_bytes,
        layers_done: all.layers_done,
        layers_total: all.layers_total,
    });
    pb::PullImageResponse { progress, layer: step.layer, ..Default::default() }
}
