//! What a build is of: a folder here, which is sent, or a URL that the service fetches.

use std::path::PathBuf;

use futures_util::{StreamExt as _, stream};

use super::Args;
use crate::{
    cli::{Failure, Session, output::warn},
    domain,
    engine::context::{Context, Sending},
    rpc::pb::{self, build_source::Source},
};

/// What is fetched, where the argument is a URL.
pub(super) fn of_url(args: &Args) -> Result<Option<pb::BuildSource>, Failure> {
    let schemes = ["https://", "http://", "git://", "ssh://"];
    if !schemes.iter().any(|scheme| args.path.starts_with(scheme)) {
        return Ok(None);
    }
    let password = match &args.source_password_file {
        None => String::new(),
        Some(file) => std::fs::read_to_string(file)?.trim_end_matches(['\r', '\n']).to_owned(),
    };
    let given = !args.source_user.is_empty() || !password.is_empty();
    let credential =
        given.then(|| pb::RegistryCredential { username: args.source_user.clone(), password });
    Ok(Some(read(&args.path, credential)))
}

/// `URL#ref:folder`, as the docker command takes it; a tarball by the end of its name.
fn read(text: &str, credential: Option<pb::RegistryCredential>) -> pb::BuildSource {
    let (url, rest) = text.split_once('#').unwrap_or((text, ""));
    let (reference, subdirectory) = rest.split_once(':').unwrap_or((rest, ""));
    let (url, subdirectory) = (url.to_owned(), subdirectory.to_owned());
    let name = url.split('?').next().unwrap_or_default();
    let ends = [".tar", ".tar.gz", ".tgz", ".tar.zst"];
    let source = match ends.iter().any(|end| name.ends_with(end)) {
        true => Source::Tarball(pb::TarballSource { url, subdirectory, ..Default::default() }),
        false => {
            let r#ref = reference.to_owned();
            Source::Git(pb::GitSource { url, r#ref, subdirectory, credential })
        }
    };
    pb::BuildSource { source: Some(source) }
}

/// Sends a folder of this machine, less what is left out of it.
pub(super) async fn upload(
    session: &Session,
    args: &Args,
    request: &mut pb::BuildImageStreamRequest,
) -> Result<(), Failure> {
    let path = std::path::absolute(&args.path)?;
    let folder = path.to_string_lossy().into_owned();
    // The whole machine is its user's to read.
    let context = Context::open(vec![PathBuf::from("/")], folder, args.file.clone()).await;
    let context = context.map_err(|error| here(&error))?;
    request.dockerfile_path = context.dockerfile_path.clone();
    // With the list, which the service needs to leave out the same.
    let Sending { archive, mut warnings, state } = context.send();
    let whole = archive.take_while(|piece| std::future::ready(piece.is_ok()));
    let pieces = whole.filter_map(|piece| {
        let data = piece.ok().map(Into::into);
        std::future::ready(data.map(|data| pb::UploadBuildContextRequest { data }))
    });
    let pieces = stream::once(std::future::ready(Default::default())).chain(pieces);
    let answered = session.builds().upload_build_context(pieces).await;
    // What is wrong here explains what the service says of it.
    if let Some(failure) = state.failure() {
        return Err(here(&failure));
    }
    request.source =
        Some(pb::BuildSource { source: Some(Source::UploadId(answered?.into_inner().upload_id)) });
    while let Ok(warning) = warnings.try_recv() {
        warn(format!("warning: {warning}"));
    }
    Ok(())
}

fn here(error: &domain::Error) -> Failure {
    Failure::Other(error.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_repository_with_ref_and_folder_or_a_tarball() {
        let Some(Source::Git(git)) = read("https://h/a.git#v1:b/c", None).source else { panic!() };
        assert_eq!((git.url.as_str(), git.r#ref.as_str()), ("https://h/a.git", "v1"));
        assert_eq!(git.subdirectory, "b/c");
        let Some(Source::Git(git)) = read("ssh://git@h/a", None).source else { panic!() };
        assert_eq!((git.r#ref.as_str(), git.subdirectory.as_str()), ("", ""));
        for url in ["https://h/a.tgz", "https://h/a.tar.gz?sig=x#:sub", "https://h/a.tar"] {
            let source = read(url, None).source;
            assert!(matches!(source, Some(Source::Tarball(_))), "{url}: {source:?}");
        }
    }
}
