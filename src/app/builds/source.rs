//! Contexts that come from elsewhere: fetched or uploaded, unpacked into a folder of
//! their own, which goes with the build.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Buf as _, Bytes};
use futures_util::{Stream, StreamExt as _};
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{App, Events, Place, Places, tell};
use crate::{
    domain::{
        Error, Kind, Result, asset,
        build::{BuildEvent, BuildSpec},
        source::{Git, Source, Tarball},
        spec::hex,
    },
    engine::context::{Context, UnpackLimits, unpack},
    fetch::{ASSET_REFUSED, assets::Question},
};

/// Most uploads that wait for their build, those under way counted too.
const MOST: usize = 16;
/// Pieces of an upload that wait to be unpacked.
const AHEAD: usize = 4;
/// How often is looked for uploads that nobody used.
const OFTEN: Duration = Duration::from_secs(1);
/// Where a context is in its folder, and where what was fetched is.
const CONTEXT: &str = "context";
const FETCHED: &str = "fetched";

/// What the configuration decides for sources.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// Most bytes of one, unpacked.
    pub max_bytes: u64,
    /// Least bytes a second of an upload, over `stall`.
    pub min_rate: u64,
    /// How long so little may come of one.
    pub stall: Duration,
    /// How long one may take.
    pub max_time: Duration,
    /// Bytes that stay free on the disk.
    pub min_free: u64,
    /// How long an upload waits for its build.
    pub upload_max_age: Duration,
}

/// Folders for sources, and the uploads that wait.
#[derive(Debug)]
pub struct Sources {
    root: PathBuf,
    places: Places,
    uploads: Mutex<HashMap<String, Upload>>,
}

/// One that waits for its build.
#[derive(Debug)]
struct Upload {
    scratch: Arc<Scratch>,
    since: Instant,
    _place: Place,
}

/// What an upload came to.
#[derive(Debug, Clone)]
pub struct Uploaded {
    /// Names it in a build.
    pub id: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// When it goes, unless a build uses it.
    pub expires_at: Timestamp,
}

/// A folder that goes with the last who has it.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        let remove = move || {
            if let Err(error) = remove(&path) {
                tracing::warn!(%error, path = %path.display(), "a build's source is left behind");
            }
        };
        // It may be large, and who drops it may be in a hurry.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

impl Scratch {
    fn context(&self) -> PathBuf {
        self.0.join(CONTEXT)
    }

    fn fetched(&self) -> PathBuf {
        self.0.join(FETCHED)
    }
}

impl Sources {
    /// Opens the folder. What is in it is of builds that a crash ended.
    pub fn open(data_dir: &Path) -> Result<Self> {
        let root = data_dir.join("sources");
        let opened = remove(&root)
            .and_then(|()| fs::DirBuilder::new().recursive(true).mode(0o700).create(&root));
        opened.map_err(|error| {
            let why = format!("{} cannot be used: {error}; mend that", root.display());
            Error::precondition("PATH_UNUSABLE", why).because(error)
        })?;
        Ok(Self { root, places: Places::default(), uploads: Mutex::default() })
    }

    fn scratch(&self) -> Result<(String, Arc<Scratch>)> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)
            .map_err(|error| Error::internal(format!("no random bytes: {error}")))?;
        let id = hex(&id);
        let scratch = Arc::new(Scratch(self.root.join(&id)));
        for folder in [scratch.0.clone(), scratch.context()] {
            fs::DirBuilder::new().mode(0o755).create(&folder).map_err(|error| {
                match error.kind() {
                    io::ErrorKind::StorageFull => {
                        let why = "the disk of data_dir is full; make room";
                        Error::new(Kind::ResourceExhausted, "DISK_FULL", why)
                    }
                    _ => Error::internal("a folder for a source cannot be made").because(error),
                }
            })?;
        }
        Ok((id, scratch))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Upload>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets uploads go that no build used in time, until the service stops.
pub async fn expire(app: Arc<App>) {
    let mut ticks = tokio::time::interval(OFTEN);
    loop {
        ticks.tick().await;
        let age = app.settings.sources.upload_max_age;
        app.sources.lock().retain(|_, upload| upload.since.elapsed() < age);
    }
}

impl App {
    /// Takes an archive over as the context of one later build.
    pub async fn upload_context(
        self: &Arc<Self>,
        archive: impl Stream<Item = Result<Bytes>> + Send,
    ) -> Result<Uploaded> {
        let place = self.sources.places.enter(MOST).ok_or_else(|| {
            let told = format!(
                "{MOST} uploads wait for their builds; build one of them, or try again later"
            );
            Error::new(Kind::ResourceExhausted, "TOO_MANY_UPLOADS", told)
        })?;
        let (id, scratch) = self.sources.scratch()?;
        let (send, receiver) = mpsc::channel(AHEAD);
        let unpacked = self.unpacked(&scratch, Pieces { receiver, now: Bytes::new() });
        let feed = self.feed(archive, send);
        let (bytes, ()) = tokio::join!(unpacked, feed);
        let (bytes, age) = (bytes?, self.settings.sources.upload_max_age);
        let upload = Upload { scratch, since: Instant::now(), _place: place };
        self.sources.lock().insert(id.clone(), upload);
        Ok(Uploaded {
            id,
            bytes,
            expires_at: Timestamp::now().saturating_add(age).unwrap_or(Timestamp::MAX),
        })
    }

    /// Passes on what comes of an upload, and minds how fast it comes.
    async fn feed(
        &self,
        archive: impl Stream<Item = Result<Bytes>> + Send,
        pieces: mpsc::Sender<Result<Bytes>>,
    ) {
        let SourceSettings { min_rate, stall, max_time, .. } = self.settings.sources;
        let least = (min_rate.saturating_mul(stall.as_millis() as u64) / 1000).max(1);
        let mut archive = pin!(archive);
        // Messages may be empty, so it is bytes that count, over a time.
        let (until, mut since, mut came) = (Instant::now() + max_time, Instant::now(), 0);
        loop {
            let next =
                tokio::time::timeout_at(until.min(since + stall).into(), archive.next()).await;
            let mut piece = match next {
                Ok(Some(piece)) => piece,
                Ok(None) => return,
                Err(_) => Ok(Bytes::new()),
            };
            came += piece.as_ref().map_or(0, |piece| piece.len() as u64);
            if since.elapsed() >= stall {
                if piece.is_ok() && came < least {
                    let seconds = stall.as_secs_f32();
                    piece = Err(stalled(format!(
                        "{came} bytes came within {seconds} s, less than the least rate of \
                         {min_rate} a second; upload it again"
                    )));
                }
                (since, came) = (Instant::now(), 0);
            }
            if piece.is_ok() && Instant::now() >= until {
                piece = Err(stalled(format!(
                    "the upload was not whole after {} s, which build_source_max_time decides; \
                     leave something out, or use a faster way",
                    max_time.as_secs()
                )));
            }
            let (ends, asked) = (piece.is_err(), Instant::now());
            if pieces.send(piece).await.is_err() || ends {
                return;
            }
            // That unpacking is slow is no fault of who sends.
            since += asked.elapsed();
        }
    }

    /// An upload, which is this build's from now on.
    pub(super) fn take_upload(&self, source: &Source) -> Result<Option<Arc<Scratch>>> {
        let Source::Upload(id) = source else { return Ok(None) };
        match self.sources.lock().remove(id) {
            Some(upload) => Ok(Some(upload.scratch)),
            None => Err(Error::not_found(
                "UPLOAD_NOT_FOUND",
                format!(
                    "no upload {id:?} waits for a build: it was used, or is too old; upload the \
                     context again"
                ),
            )),
        }
    }

    /// Fetches what a build is of, unless it was uploaded, and opens it. The folder must
    /// be held until the build has ended.
    pub(super) async fn open_source(
        &self,
        spec: &BuildSpec,
        uploaded: Option<Arc<Scratch>>,
        events: &Events,
    ) -> Result<(Context, Arc<Scratch>)> {
        let scratch = match uploaded {
            Some(scratch) => scratch,
            None => self.sources.scratch()?.1,
        };
        let below = match &spec.source {
            Source::Git(git) => {
                self.fetch_git(git, &scratch, events).await?;
                git.subdirectory.as_str()
            }
            Source::Tarball(tarball) => {
                self.fetch_tarball(tarball, &scratch, events).await?;
                tarball.subdirectory.as_str()
            }
            Source::Upload(_) | Source::Path(_) => "",
        };
        // As errors name it, also where a link leads to data_dir.
        let root = tokio::fs::canonicalize(scratch.context()).await;
        let root = root.map_err(|error| Error::internal("a source is lost").because(error))?;
        let folder = root.join(below).to_string_lossy().into_owned();
        let opened = Context::open(vec![root.clone()], folder, spec.dockerfile_path.clone()).await;
        // Where it was unpacked says nothing to a caller.
        let shown = format!("{root:?}");
        let shown = shown.trim_matches('"');
        let context = opened.map_err(|error| match error.violations() {
            [wrong] => {
                let field = match wrong.field.as_str() {
                    "contextPath" => "source",
                    field => field,
                };
                Error::field(field, wrong.description.replace(shown, "(source)"))
            }
            _ => error,
        })?;
        Ok((context, scratch))
    }

    async fn fetch_git(&self, git: &Git, scratch: &Arc<Scratch>, events: &Events) -> Result<()> {
        let repository = scratch.fetched();
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&repository)
            .map_err(|error| Error::internal("a repository cannot be made").because(error))?;
        let told = |bytes| told(events, asset::shown(git.url.as_str()), bytes, 0);
        let work = async {
            let commit = self.git.fetch(git, &repository, &told).await?;
            let done = format!("Fetched commit {commit}");
            tell(
                events,
                BuildEvent::Progress { id: "source".into(), status: done, current: 0, total: 0 },
            )
            .await;
            let files = self.git.files(git, &repository, &commit).await?;
            let unpacked = self.unpacked(scratch, files.archive);
            // What the program says explains an archive that is not whole.
            match tokio::join!(unpacked, files.end.wait()) {
                (Err(error), _) if error.kind() != Kind::InvalidArgument => Err(error),
                (unpacked, Ok(())) => unpacked.map(drop),
                (_, Err(error)) => Err(error),
            }
        };
        self.git.within(git, work).await
    }

    async fn fetch_tarball(
        &self,
        tarball: &Tarball,
        scratch: &Arc<Scratch>,
        events: &Events,
    ) -> Result<()> {
        let file = scratch.fetched();
        let told = |bytes, total| told(events, asset::shown(&tarball.url), bytes, total);
        let checked = !tarball.sha256.is_empty();
        let question = Question { url: &tarball.url, have: None, fresh: true, checked };
        let content = self.tarballs.fetch(question, &file, None, &told).await;
        let content = content.map_err(|error| match error.reason() {
            ASSET_REFUSED => Error::field("source.tarball.url", error.message()),
            _ => Error::new(error.kind(), "SOURCE_NOT_FETCHED", error.message()),
        })?;
        let content = content.ok_or_else(|| Error::internal("nothing was fetched"))?;
        if !tarball.sha256.is_empty() && tarball.sha256 != content.sha256 {
            let (got, asked) = (&content.sha256, &tarball.sha256);
            let why = format!(
                "{} has the sha256 {got}, and {asked} was asked for; correct the checksum or the \
                 URL",
                asset::shown(&tarball.url)
            );
            return Err(Error::precondition("SOURCE_CHECKSUM", why));
        }
        let archive = fs::File::open(&file);
        let archive =
            archive.map_err(|error| Error::internal("a tarball is lost").because(error))?;
        self.unpacked(scratch, archive).await.map(drop)
    }

    /// Unpacks on a thread of its own, which ends soon when nobody else has the folder
    /// any more.
    async fn unpacked(
        &self,
        scratch: &Arc<Scratch>,
        archive: impl Read + Send + 'static,
    ) -> Result<u64> {
        let SourceSettings { max_bytes, min_free, .. } = self.settings.sources;
        let mine = scratch.clone();
        let work = tokio::task::spawn_blocking(move || {
            let limits = UnpackLimits { bytes: max_bytes, min_free };
            let wanted = || Arc::strong_count(&mine) > 1;
            unpack(archive, &mine.context(), limits, &wanted)
        });
        work.await.map_err(|error| Error::internal("unpacking ended early").because(error))?
    }
}

fn stalled(why: String) -> Error {
    Error::new(Kind::DeadlineExceeded, "UPLOAD_STALLED", why)
}

/// How far fetching is. What the caller is too slow to read is left out.
fn told(events: &Events, status: String, current: u64, total: u64) {
    let progress = BuildEvent::Progress { id: "source".to_owned(), status, current, total };
    drop(events.try_send(Ok(progress)));
}

/// The pieces of an upload, as who unpacks reads them.
struct Pieces {
    receiver: mpsc::Receiver<Result<Bytes>>,
    now: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.now = piece.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let length = self.now.len().min(buffer.len());
        self.now.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// Removes a folder, those in it too that are closed to their owner.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path)
        }
        done => done,
    }
}

fn open_up(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}
