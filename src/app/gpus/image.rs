//! Which CUDA image a run gets: the newest of its pattern that the driver here runs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::super::{
    App,
    run::{Action, Outcome},
};
use crate::domain::{
    Error, Result,
    event::{Subject, What},
    gpu::cuda::{Host, Pattern, filled, has_place},
    image::ImageRef,
    spec::{RunRequest, RunSpec},
};

/// How long a list of tags is good for, and how many are remembered.
const FRESH: Duration = Duration::from_secs(300);
const REMEMBERED: usize = 64;

/// When a registry told its tags, and which.
type Told = (Instant, Arc<Vec<String>>);

/// Tags that registries told, by repository.
#[derive(Debug, Default)]
pub(in crate::app) struct Tags(Mutex<HashMap<String, Told>>);

/// An image that was chosen in place of the one that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaChoice {
    /// As it was asked for.
    pub asked: String,
    /// What was chosen.
    pub image: String,
    /// Why.
    pub reason: String,
}

impl App {
    /// Puts the image that fits the driver into a request. `None` when the request is
    /// left as it is: it names no version, or one that fits.
    pub(in crate::app) async fn fit_cuda(
        &self,
        request: &mut RunRequest,
    ) -> Result<Option<CudaChoice>> {
        let place = has_place(&request.image);
        let gpu = request.gpu_enabled || request.gpus.is_some();
        if place && request.cuda_off {
            let why = "holds a place for a CUDA version, and cudaPolicy is off; name a version";
            return Err(Error::field("image", why));
        }
        if !place && (!gpu || request.cuda_off) {
            return Ok(None);
        }
        // All else must be right before a driver or a registry is asked.
        let checked = RunRequest { image: filled(&request.image, "0.0"), ..request.clone() };
        let spec = RunSpec::resolve(checked, &self.defaults())?;
        let asked = request.image.clone();
        let tagged = asked.rsplit_once(':').filter(|(_, tag)| !tag.contains(['/', '@']));
        let tagged = tagged.filter(|(name, _)| !has_place(name) && spec.image.digest().is_none());
        let Some((name, tag)) = tagged else {
            let why = "holds a place for a CUDA version outside of its tag; put it into the tag";
            return if place { Err(Error::field("image", why)) } else { Ok(None) };
        };
        let node = self.gpus.look().await;
        let host = match (&node.missing, Host::of(&node)) {
            (None, Some(host)) => host,
            // Without a driver nothing fits; a run that asks for GPUs is refused later.
            _ if !place => return Ok(None),
            (missing, _) => {
                let why = missing.as_deref().unwrap_or("its driver does not tell its version");
                return Err(Error::precondition(
                    "NO_GPU",
                    format!(
                        "no CUDA version can be chosen for {asked}, as this node has no GPU: {why}"
                    ),
                ));
            }
        };
        if let Some(required) = required(request).filter(|required| !host.meets(required)) {
            return Err(Error::precondition(
                "CUDA_REQUIRED",
                format!(
                    "NVIDIA_REQUIRE_CUDA wants \"{required}\", and this node has the {host}; \
                     install a newer driver, or use an older image"
                ),
            ));
        }
        let Some(pattern) = Pattern::read(tag) else { return Ok(None) };
        if pattern.version.as_ref().is_some_and(|version| host.runs(version)) {
            return Ok(None);
        }
        let tags = self.tags(&spec.image).await?;
        let version = pattern.choose(&tags, host);
        let version = version.map_err(|why| Error::precondition("NO_CUDA_IMAGE", why))?;
        let image = format!("{name}:{}", pattern.with(&version));
        let reason = match &pattern.version {
            Some(no) => {
                format!("the {host} does not run {no}; {version} is the newest that it runs")
            }
            None => format!("{version} is the newest published version that the {host} runs"),
        };
        tracing::info!(asked, image, reason, "a CUDA image was chosen");
        request.image.clone_from(&image);
        Ok(Some(CudaChoice { asked, image, reason }))
    }

    /// Tells of a chosen image, when a container was started with it.
    pub(in crate::app) async fn tell_cuda(&self, outcome: &Outcome) {
        let Some(choice) = &outcome.cuda else { return };
        if outcome.action == Action::Unchanged {
            return;
        }
        let Some(container) = self.view.by_id(&outcome.id) else { return };
        let CudaChoice { asked, image, reason } = choice.clone();
        let what = What::CudaChosen { asked, image, reason };
        self.emit(Subject::container(&container), what).await;
    }

    /// Tags of a repository, asked for once in a while. A registry that does not
    /// answer does not make us forget what it told before.
    async fn tags(&self, image: &ImageRef) -> Result<Arc<Vec<String>>> {
        let repository = format!("{}/{}", image.registry(), image.repository());
        let known = self.tags.lock().get(&repository).cloned();
        if let Some((_, tags)) = known.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(tags.clone());
        }
        match (self.registry.tags(image).await, known) {
            (Ok(tags), _) => {
                let tags = Arc::new(tags);
                let mut all = self.tags.lock();
                if all.len() >= REMEMBERED {
                    let oldest = all.iter().min_by_key(|(_, (at, _))| *at);
                    if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                        all.remove(&oldest);
                    }
                }
                all.insert(repository, (Instant::now(), tags.clone()));
                Ok(tags)
            }
            (Err(error), Some((_, tags))) => {
                tracing::warn!(?error, repository, "using the tags that were told before");
                Ok(tags)
            }
            (Err(error), None) => Err(error),
        }
    }
}

impl Tags {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Told>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the caller's environment requires of the driver.
fn required(request: &RunRequest) -> Option<&str> {
    let env = |name: &str| {
        let found = request.envs.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    };
    let off = env("NVIDIA_DISABLE_REQUIRE").is_some_and(|value| matches!(value, "1" | "true"));
    env("NVIDIA_REQUIRE_CUDA").filter(|_| !off)
}
