//! Builds: each caller has its own, and it ends when the caller leaves.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt as _, stream};
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{App, images::Credential};
use crate::{
    domain::{
        Error, Kind, Result,
        access::Caller,
        build::{BuildEvent, BuildRequest, BuildSpec, Builder, Built, Mask},
        dockerfile::{self, base_images, undeclared},
        event::{Subject, What},
        image::ImageRef,
        source::Source,
    },
    engine::{
        builds::{Given, NewBuild},
        context::{Context, Sending, Sharing},
    },
};

mod follow;
mod outputs;
mod powers;
mod sends;
mod source;
mod stall;

use outputs::Outputs;
use powers::Chosen;
use sends::Sends;
use source::Scratch;
pub use source::{SourceSettings, Sources, Uploaded, expire};

/// Most builds at once.
const MOST: usize = 16;
/// Events that wait for a caller. One that reads slowly slows its own build.
const AHEAD: usize = 64;
/// How often it is told how much of the context was sent.
const TELL: Duration = Duration::from_millis(250);
/// How long a step's container is looked for after the engine went away.
const SWEEP: Duration = Duration::from_secs(300);

type Events = mpsc::Sender<Result<BuildEvent>>;

/// Builds that go on, and when each began.
#[derive(Debug, Default)]
pub struct Builds {
    places: Places,
    began: Mutex<Vec<Weak<Timestamp>>>,
}

impl Builds {
    fn begin(&self) -> Arc<Timestamp> {
        let now = Arc::new(Timestamp::now());
        let mut began = self.began.lock().unwrap_or_else(PoisonError::into_inner);
        began.retain(|build| build.strong_count() > 0);
        began.push(Arc::downgrade(&now));
        now
    }

    /// When the oldest of them began.
    pub(super) fn since(&self) -> Option<Timestamp> {
        let began = self.began.lock().unwrap_or_else(PoisonError::into_inner);
        began.iter().filter_map(Weak::upgrade).map(|began| *began).min()
    }
}

/// How many of something there are.
#[derive(Debug, Default)]
struct Places(Arc<AtomicUsize>);

/// One of them.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Places {
    fn enter(&self, most: usize) -> Option<Place> {
        let place = Place(self.0.clone());
        (self.0.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl App {
    /// Builds an image for its caller and tells how it goes; the last event is
    /// `Finished`, or an error. Dropping the stream ends the build.
    pub async fn build(
        self: &Arc<Self>,
        request: BuildRequest,
        caller: Arc<Caller>,
    ) -> Result<impl Stream<Item = Result<BuildEvent>> + Send + use<>> {
        let spec = BuildSpec::resolve(request, &self.settings.source_rules)?;
        powers::entitle(&spec, &caller)?;
        let place = self.builds.places.enter(MOST).ok_or_else(|| {
            let told = format!("{MOST} builds are under way; try again when one has ended");
            Error::new(Kind::ResourceExhausted, "TOO_MANY_BUILDS", told)
        })?;
        // What is wrong with a folder that is here is told before the stream begins.
        let opened = match &spec.source {
            Source::Path(path) => Some(self.open_path(&spec, path, &caller).await?),
            _ => None,
        };
        let uploaded = self.take_upload(&spec.source)?;
        let (events, receiver) = mpsc::channel(AHEAD);
        let (app, began) = (self.clone(), self.builds.begin());
        self.tasks.background("build", async move {
            let held = (place, began);
            let work = app.work(&spec, &caller, opened, uploaded, &events);
            let end = tokio::select! {
                end = work => end,
                () = events.closed() => return,
            };
            app.note_build(&spec, &end).await;
            // Who reads the end may build again at once.
            drop(held);
            // A caller that left needs no answer.
            let _ = events.send(end).await;
        });
        Ok(stream::unfold((receiver, false), |(mut receiver, ended)| async move {
            if ended {
                return None;
            }
            let stopped =
                || Error::new(Kind::Cancelled, "STOPPING", "the service stops; try again later");
            let next = receiver.recv().await.unwrap_or_else(|| Err(stopped()));
            let ended = matches!(next, Err(_) | Ok(BuildEvent::Finished(_)));
            Some((next, (receiver, ended)))
        }))
    }

    /// Builds an image to its end. An error repeats the last that the failing step
    /// wrote; warnings come with the image.
    pub async fn build_to_end(
        self: &Arc<Self>,
        request: BuildRequest,
        caller: Arc<Caller>,
    ) -> Result<(Built, Vec<String>)> {
        let mut events = Box::pin(self.build(request, caller).await?);
        let (mut warnings, mut outputs, mut last) = (Vec::new(), Outputs::default(), None);
        while let Some(event) = events.next().await {
            match event {
                Ok(BuildEvent::Finished(built)) => return Ok((built, warnings)),
                Ok(BuildEvent::Warning(warning)) if warnings.len() < AHEAD => {
                    warnings.push(warning);
                }
                Ok(BuildEvent::Log { vertex, data, .. }) => outputs.add(vertex, &data),
                Ok(BuildEvent::Failed(failure)) => {
                    last = failure.step.and_then(|step| outputs.of(&step.vertex));
                }
                Ok(_) => {}
                Err(error) => {
                    return Err(match last {
                        Some(last) => error.and(&format!("it wrote last:\n{last}")),
                        None => error,
                    });
                }
            }
        }
        Err(Error::internal("a build ended without saying how"))
    }

    async fn note_build(&self, spec: &BuildSpec, end: &Result<BuildEvent>) {
        let what = match end {
            Ok(BuildEvent::Finished(built)) => What::Built { image_id: built.image_id.clone() },
            Ok(_) => return,
            Err(error) => What::BuildFailed { error: error.message().to_owned() },
        };
        for name in &spec.names {
            self.emit(Subject::image(&name.familiar()), what.clone()).await;
        }
    }

    async fn open_path(
        &self,
        spec: &BuildSpec,
        path: &str,
        caller: &Caller,
    ) -> Result<(Chosen, Context)> {
        let roots = self.settings.build_roots.clone();
        if roots.is_empty() {
            return Err(Error::precondition(
                "NO_BUILD_ROOTS",
                "this service builds from none of its node's folders; name those that it may read in build_roots, or upload the context",
            ));
        }
        let context = Context::open(roots, path.to_owned(), spec.dockerfile_path.clone()).await?;
        Ok((self.choose(spec, &context.dockerfile, caller).await?, context))
    }

    async fn work(
        self: &Arc<Self>,
        spec: &BuildSpec,
        caller: &Caller,
        opened: Option<(Chosen, Context)>,
        uploaded: Option<Arc<Scratch>>,
        events: &Events,
    ) -> Result<BuildEvent> {
        let (chosen, context, _held) = match opened {
            Some((chosen, context)) => (chosen, context, None),
            None => {
                let (context, scratch) = self.open_source(spec, uploaded, events).await?;
                let chosen = self.choose(spec, &context.dockerfile, caller).await?;
                (chosen, context, Some(scratch))
            }
        };
        let Chosen { builder, frontend } = chosen;
        tell(events, BuildEvent::Started(builder)).await;
        let instructions = dockerfile::instructions(&context.dockerfile);
        if builder == Builder::BuildKit {
            // The classic builder says so itself.
            for name in undeclared(&instructions, &spec.args) {
                let why = format!("no ARG of the Dockerfile declares {name:?}; it is not used");
                tell(events, BuildEvent::Warning(why)).await;
            }
        }
        let mut images = base_images(&instructions, &spec.args);
        images.extend(frontend);
        images.extend(spec.cache_from.iter().map(ToString::to_string));
        let credentials = self.credentials(spec, &images, events).await;
        let text = context.dockerfile.clone();
        let new = |dockerfile_path| NewBuild {
            spec,
            dockerfile_path,
            instructions,
            credentials: &credentials,
        };
        if builder == Builder::Classic {
            let path = context.dockerfile_path.clone();
            let Sending { archive, warnings, state } = context.send();
            let sends = Sends { text, warnings, state };
            return self.build_with(new(&path), Given::Archive(archive), sends, events).await;
        }
        if let Err(stalled) = self.hear_caches(spec).await {
            return Err(stalled.tell(events).await);
        }
        let Sharing { shared, dockerfile_name, warnings, state } = context.share();
        let session = self.engine.build_session(spec, &credentials, shared).await?;
        let (given, sends) = (Given::Session(session.id), Sends { text, warnings, state });
        // However slowly the caller reads: the engine waits for no answer of the session.
        tokio::select! {
            end = self.build_with(new(&dockerfile_name), given, sends, events) => end,
            never = session.served => match never {},
        }
    }

    async fn build_with(
        self: &Arc<Self>,
        new: NewBuild<'_>,
        given: Given,
        mut sends: Sends,
        events: &Events,
    ) -> Result<BuildEvent> {
        // Before the engine makes anything: what is older is none of this build.
        let (began, since) = (Instant::now(), Timestamp::now());
        let mask = Mask::new(new.spec.secrets.values());
        let builder = match &given {
            Given::Archive(_) => Builder::Classic,
            Given::Session(_) => Builder::BuildKit,
        };
        let building = tokio::select! {
            building = self.engine.build(new, given) => building,
            never = sends.tell(events) => match never {},
        };
        let mut building = building.map_err(|error| sends.explain(error))?;
        let state = sends.state.clone();
        let followed = match builder {
            Builder::Classic => {
                // It has all before it begins.
                sends.tell_end(events).await;
                self.follow_build(&mut building, mask, since, &state, events).await
            }
            Builder::BuildKit => {
                let followed = tokio::select! {
                    followed = self.follow_build(&mut building, mask, since, &state, events) => followed,
                    never = sends.tell(events) => match never {},
                };
                // A failure comes last of all that is told.
                if followed.is_ok() {
                    sends.tell_end(events).await;
                }
                followed
            }
        };
        let image_id = followed.map_err(|error| sends.explain(error))?;
        let found = self.engine.made_image(&image_id).await?;
        self.images.forget_names();
        Ok(BuildEvent::Finished(Built {
            digest: found.digest,
            size: found.size,
            took: began.elapsed(),
            builder,
            image_id,
        }))
    }

    /// What opens the registries of the images: what the request gives, else what the
    /// node's configuration has.
    async fn credentials(
        &self,
        spec: &BuildSpec,
        images: &[String],
        events: &Events,
    ) -> BTreeMap<String, Credential> {
        // All that is given: an image may be named in a way that only the builder reads.
        let given = spec.logins.iter();
        let mut found: BTreeMap<_, _> =
            given.map(|(registry, login)| (registry.clone(), Credential::from(login))).collect();
        for image in images.iter().filter_map(|image| ImageRef::parse(image).ok()) {
            let registry = image.registry();
            if found.contains_key(registry) {
                continue;
            }
            match self.credential_of(&image).await {
                Ok(Some(credential)) => drop(found.insert(registry.to_owned(), credential)),
                Ok(None) => {}
                // It may not be needed: the image may be here, or be for everybody.
                Err(error) => {
                    let why = format!("{registry} is asked without credentials: {error}");
                    tell(events, BuildEvent::Warning(why)).await;
                }
            }
        }
        found
    }
}

async fn tell(events: &Events, event: BuildEvent) {
    // That nobody listens ends the build elsewhere.
    let _ = events.send(Ok(event)).await;
}
