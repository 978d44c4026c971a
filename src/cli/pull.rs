//! `pull`: fetch an image, with a bar for each layer and one for all.

use std::io::{self, Read};

use crate::rpc::pb;

use super::{Failure, Output, Session, progress::View};

/// What to fetch.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Image, as nginx:1.27
    image: String,
    /// User name at the registry [default: the node's Docker config file]
    #[arg(short, long, requires = "password_stdin")]
    username: Option<String>,
    /// Read the password from stdin
    #[arg(long, requires = "username")]
    password_stdin: bool,
}

pub(super) async fn pull(args: Args, session: Session, out: Output) -> Result<(), Failure> {
    let credential = args.username.map(credential).transpose()?;
    let request = pb::PullImageRequest { name: args.image, credential };
    let mut stream = session.images().pull_image(request).await?.into_inner();
    let mut view = View::new(out);
    while let Some(step) = stream.message().await? {
        if out.json {
            out.message("PullImageResponse", &step)?;
        } else if step.done {
            view.clear();
            return out.line(if step.digest.is_empty() { step.image_id } else { step.digest });
        }
        view.pull(&step);
        if step.done {
            return Ok(());
        }
    }
    view.clear();
    Err(Failure::Other("the service ended the pull without saying that it is done".to_owned()))
}

pub(super) fn credential(username: String) -> Result<pb::RegistryCredential, Failure> {
    // A password is short; more than this is a mistake.
    let mut password = String::new();
    io::stdin().lock().take(64 << 10).read_to_string(&mut password)?;
    let password = password.trim_end_matches(['\r', '\n']).to_owned();
    Ok(pb::RegistryCredential { username, password })
}
