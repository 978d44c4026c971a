//! Which tags of a repository a registry has.

use reqwest::{
    Response, Url,
    header::{ACCEPT, HeaderMap, HeaderValue, LINK},
};
use serde::Deserialize;

use super::{
    http::{Rules, UNREACHABLE},
    registry::Registry,
};
use crate::domain::{Error, Result, image::ImageRef};

/// Most bytes of one page, pages, and tags that are read.
const PAGE_MAX: usize = 4 << 20;
const PAGES_MAX: usize = 32;
const TAGS_MAX: usize = 100_000;

#[derive(Deserialize)]
struct Page {
    /// `null` for a repository without tags.
    tags: Option<Vec<String>>,
}

impl Registry {
    /// All tags of the repository of an image. NOT_FOUND when there is no such
    /// repository, or none for our credentials.
    pub async fn tags(&self, image: &ImageRef) -> Result<Vec<String>> {
        let rules = self.rules(image, false);
        match tokio::time::timeout(self.timeout(), Box::pin(self.tags_somehow(image))).await {
            Ok(answer) => answer,
            Err(_) => Err(rules.late()),
        }
    }

    async fn tags_somehow(&self, image: &ImageRef) -> Result<Vec<String>> {
        let mut answer = Ok(Vec::new());
        for scheme in self.schemes(image) {
            answer = self.tags_by(scheme, image).await;
            if !matches!(&answer, Err(error) if error.reason() == UNREACHABLE) {
                break;
            }
        }
        answer
    }

    async fn tags_by(&self, scheme: &str, image: &ImageRef) -> Result<Vec<String>> {
        let rules = self.rules(image, scheme == "http");
        let mut next = Some(first_page(scheme, image)?);
        let (mut tags, mut pages) = (Vec::new(), 0);
        while let Some(url) = next.take() {
            let headers =
                HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
            let answer = self.get(&rules, image, &url, headers).await?;
            if matches!(answer.status().as_u16(), 401 | 403 | 404) {
                return Err(Error::not_found(
                    "REPOSITORY_NOT_FOUND",
                    format!(
                        "Registry {} has no repository {} for us; check its name, and the \
                         credentials for the registry.",
                        image.registry(),
                        image.repository()
                    ),
                ));
            }
            if !answer.status().is_success() {
                return Err(rules.unusable(&answer));
            }
            next = next_page(&answer, &url);
            let page = page(&rules, answer).await?;
            pages += 1;
            tags.extend(page);
            if tags.len() > TAGS_MAX || (pages == PAGES_MAX && next.is_some()) {
                return Err(rules.unavailable("has too many tags of this repository to choose"));
            }
        }
        Ok(tags)
    }
}

fn first_page(scheme: &str, image: &ImageRef) -> Result<Url> {
    let (host, path) = (image.registry_host(), image.repository());
    Url::parse(&format!("{scheme}://{host}/v2/{path}/tags/list?n=10000")).map_err(|cause| {
        let host = image.registry();
        Error::field("image", format!("has the registry {host:?}, which is no host name"))
            .because(cause)
    })
}

/// The page after this one, as `Link: </v2/…>; rel="next"` names it.
fn next_page(answer: &Response, here: &Url) -> Option<Url> {
    let link = answer.headers().get(LINK)?.to_str().ok()?;
    let (target, rest) = link.strip_prefix('<')?.split_once('>')?;
    rest.contains("next").then(|| here.join(target).ok())?
}

async fn page(rules: &Rules, mut answer: Response) -> Result<Vec<String>> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|cause| rules.failed(cause))? {
        if body.len() + chunk.len() > PAGE_MAX {
            return Err(rules.unavailable("sent a list of tags of more than 4 MiB"));
        }
        body.extend_from_slice(&chunk);
    }
    let page: Page = serde_json::from_slice(&body)
        .map_err(|cause| rules.unavailable("sent a list of tags that is none").because(cause))?;
    Ok(page.tags.unwrap_or_default())
}
