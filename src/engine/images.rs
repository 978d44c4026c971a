//! Images: which one a name means, fetching them with progress; the rest below.

use std::time::Duration;

use bollard::{
    auth::DockerCredentials, models::CreateImageInfo, query_parameters::CreateImageOptions,
};
use futures_util::{Stream, StreamExt as _};

mod listed;
mod push;

pub use listed::{ListedImage, Removed};
pub use push::{Pushed, Pushing};

use super::{Engine, errors};
use crate::domain::{Kind, Result, image::ImageRef, source::Login};

/// What opens a registry.
#[derive(Clone, Default)]
pub struct Credential {
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
    /// Identity token, in place of a password.
    pub identity_token: Option<String>,
}

impl From<&Login> for Credential {
    fn from(login: &Login) -> Self {
        let password = String::from_utf8_lossy(&login.password.0).into_owned();
        Self { username: login.username.clone(), password, identity_token: None }
    }
}

/// One message of the engine about one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullStep {
    /// Short id of the layer, or the tag in messages about the image.
    pub id: String,
    /// The engine's words.
    pub status: String,
    /// Bytes done of this step.
    pub current: u64,
    /// Bytes of this step, 0 when not known.
    pub total: u64,
}

/// What the engine's words say of a layer is done here, and no registry is waited for.
pub fn is_local(status: &str) -> bool {
    ["Extracting", "Verifying"].iter().any(|word| status.starts_with(word))
}

/// An image on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalImage {
    /// Content id.
    pub id: String,
    /// Digest under which its registry gave it, empty when built here.
    pub digest: String,
    /// Bytes with all its layers.
    pub size: u64,
    /// How many names with tags it has.
    pub names: usize,
}

impl Engine {
    /// The image that a name means on the node now.
    pub async fn image(&self, image: &ImageRef) -> Result<Option<LocalImage>> {
        match self.inspect_image(&image.familiar(), self.timeout, Some(image)).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The image with this id; NOT_FOUND when there is none.
    pub async fn image_by_id(&self, id: &str) -> Result<LocalImage> {
        self.inspect_image(id, self.timeout, None).await
    }

    /// The image that was just made; its disk may still be busy with it.
    pub async fn made_image(&self, id: &str) -> Result<LocalImage> {
        self.inspect_image(id, self.work_limit(), None).await
    }

    async fn inspect_image(
        &self,
        id: &str,
        limit: Duration,
        of: Option<&ImageRef>,
    ) -> Result<LocalImage> {
        let docker = self.docker().await?;
        let found = self.within(limit, docker.inspect_image(id)).await?;
        Ok(LocalImage {
            id: found.id.unwrap_or_default(),
            digest: digest(&found.repo_digests.unwrap_or_default(), of),
            size: found.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
            names: found.repo_tags.unwrap_or_default().len(),
        })
    }

    /// Fetches an image; dropping the stream gives up.
    pub async fn pull(
        &self,
        image: &ImageRef,
        credential: Option<Credential>,
    ) -> Result<impl Stream<Item = Result<PullStep>> + Send + Unpin + use<>> {
        let docker = self.docker().await?;
        let address = self.address.clone();
        let options =
            CreateImageOptions { from_image: Some(image.familiar()), ..Default::default() };
        let credential = credential.map(|credential| DockerCredentials {
            username: Some(credential.username),
            password: Some(credential.password),
            identitytoken: credential.identity_token,
            serveraddress: Some(image.registry().to_owned()),
            ..Default::default()
        });
        let stream =
            docker.create_image(Some(options), None, credential).map(
                move |message| match message {
                    Ok(message) => step(message),
                    Err(bollard::errors::Error::DockerResponseServerError { message, .. }) => {
                        Err(errors::streamed(&message))
                    }
                    Err(error) => Err(errors::convert(&address, error)),
                },
            );
        Ok(Box::pin(stream))
    }
}

/// The digest by which its registry knows an image: that of the repository that is meant,
/// since the same image may come from several, each with a digest of its own.
fn digest(names: &[String], of: Option<&ImageRef>) -> String {
    if let Some(pinned) = of.and_then(ImageRef::digest) {
        return pinned.to_owned();
    }
    let names = names.iter().filter_map(|name| ImageRef::parse(name).ok());
    let mut names = names.filter(|name| of.is_none_or(|of| name.same_repository(of)));
    names.find_map(|name| name.digest().map(str::to_owned)).unwrap_or_default()
}

fn step(message: CreateImageInfo) -> Result<PullStep> {
    if let Some(error) = message.error_detail {
        return Err(errors::streamed(&error.message.unwrap_or_default()));
    }
    let (current, total) =
        message.progress_detail.map_or((None, None), |detail| (detail.current, detail.total));
    let bytes = |count: Option<i64>| count.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
    Ok(PullStep {
        id: message.id.unwrap_or_default(),
        status: message.status.unwrap_or_default(),
        current: bytes(current),
        total: bytes(total),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_that_of_the_repository_that_is_meant() {
        let of = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let names = [format!("a:5000/x@{}", of("a")), format!("b:5000/x@{}", of("b"))];
        for (asked, expected) in [
            ("a:5000/x:1", of("a")),
            ("b:5000/x:1", of("b")),
            ("c:5000/x:1", String::new()),
            (&format!("c:5000/x@{}", of("c")), of("c")),
        ] {
            let asked = ImageRef::parse(asked).unwrap();
            assert_eq!(digest(&names, Some(&asked)), expected, "{asked}");
        }
        assert_eq!(digest(&names, None), of("a"));
    }
}
