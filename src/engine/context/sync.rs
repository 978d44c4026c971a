//! A context as BuildKit asks for it: first what there is, then what it lacks.
//!
//! The engine keeps what it got of a folder and compares names, kinds, modes, sizes and
//! times. So a file that did not change is sent once.

use std::{
    collections::BTreeSet,
    fs::File,
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, mpsc};

use super::{
    State,
    only::Only,
    pieces::{PIECE, Pieces, read},
    walk::{self, Entry, Result, Sink, Sort, Stop, Wanted},
};
use crate::domain::{Error, Kind, ignore::Ignore, spec::hex};

mod files;
mod packet;
#[cfg(test)]
mod tests;

pub use packet::Request;

use files::Files;
use packet::{Packet, Stat};

/// Bytes of a file in one packet.
const CHUNK: u64 = 32 << 10;
/// Most conversations at once; the engine needs two.
const CONVERSATIONS: usize = 4;

/// A context that the engine may ask for.
#[derive(Debug)]
pub struct Shared {
    pub(super) folder: OwnedFd,
    /// What stays out.
    pub(super) ignore: Ignore,
    /// The Dockerfile and a list of its own, by their names.
    pub(super) definition: Vec<(String, Vec<u8>)>,
    /// Names the folder in the engine, which finds by it what it has of that already.
    pub key: String,
    pub(super) warnings: mpsc::Sender<String>,
    pub(super) state: Arc<State>,
    /// How many may ask at once.
    pub places: Arc<Semaphore>,
}

/// What the engine asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The folder.
    Context,
    /// The Dockerfile, which no step can copy from there.
    Definition,
}

/// What is told of a tree, and the files that can be asked for then.
struct Stats<'a, 'b> {
    pieces: &'a mut Pieces<'b>,
    files: Files,
    next: u32,
    /// Folders that are told when something below them is.
    passed: Vec<Stat>,
}

impl Shared {
    pub(super) fn places() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(CONVERSATIONS))
    }

    /// Answers until the engine has what it wants; blocks. Sources, where there are some,
    /// are all that is needed.
    ///
    /// An error is what the engine was told.
    pub fn answer(
        &self,
        part: Part,
        sources: &[String],
        requests: mpsc::Receiver<Request>,
        out: &mpsc::Sender<Bytes>,
    ) -> std::result::Result<(), String> {
        let mut take = |bytes: Bytes| out.blocking_send(bytes).is_ok();
        let mut tell = |warning| drop(self.warnings.try_send(warning));
        let wanted = || !out.is_closed();
        let mut pieces = Pieces::new(&mut take, &mut tell, &wanted);
        let answered = match part {
            Part::Context => self.context(sources, requests, &mut pieces),
            Part::Definition => self.definition(requests, &mut pieces),
        };
        match answered {
            Ok(()) => Ok(()),
            Err(Stop::Unread) => Err("the conversation ended early".to_owned()),
            Err(Stop::Failed(error)) => {
                let told = error.message().to_owned();
                self.state.fail(error);
                // The beginning of a packet may be what is left.
                pieces.buffer.clear();
                Packet::error(&told).write(&mut pieces.buffer);
                let _ = pieces.flush(0);
                Err(told)
            }
        }
    }

    fn context(
        &self,
        sources: &[String],
        requests: mpsc::Receiver<Request>,
        pieces: &mut Pieces<'_>,
    ) -> Result<()> {
        let again = || {
            let folder = self.folder.try_clone();
            folder.map_err(|why| walk::unusable(b"", "cannot be opened", Some(why)))
        };
        let only = Only::read(&self.folder, sources);
        let wanted = Wanted { ignore: &self.ignore, only: only.as_ref(), apart: None };
        let mut stats = Stats { pieces, files: Files::default(), next: 0, passed: Vec::new() };
        walk::walk(again()?, wanted, &mut stats)?;
        let Stats { mut files, .. } = stats;
        end_of_stats(pieces)?;
        answer_each(files.len(), requests, pieces, |id, pieces| {
            let Some((at, (id, path, size))) =
                files.ask(id).and_then(|at| Some((at, files.told(at)?)))
            else {
                return Err(no_file(id));
            };
            let file = files.open(&self.folder, at, &path)?;
            self.content(&file, id, size, &path, pieces)
        })
    }

    fn content(
        &self,
        file: &File,
        id: u32,
        size: u64,
        path: &[u8],
        pieces: &mut Pieces<'_>,
    ) -> Result<()> {
        let mut left = size;
        while left > 0 {
            let wanted = left.min(CHUNK);
            let mut chunk = Vec::new();
            read(file, wanted, (left, size), path, &mut chunk)?;
            Packet::data(id, chunk).write(&mut pieces.buffer);
            self.state.sent.fetch_add(wanted, Ordering::Relaxed);
            left -= wanted;
            pieces.flush(PIECE)?;
        }
        Packet::data(id, Vec::new()).write(&mut pieces.buffer);
        pieces.flush(PIECE)
    }

    fn definition(&self, requests: mpsc::Receiver<Request>, pieces: &mut Pieces<'_>) -> Result<()> {
        for (name, text) in &self.definition {
            // Its time says which text it is.
            let digest = Sha256::digest(text);
            let nanos = digest.iter().take(7).fold(0, |sum, byte| sum << 8 | i64::from(*byte));
            let entry = Entry {
                sort: Sort::File,
                path: name.as_bytes(),
                link: b"",
                mode: 0o600,
                size: text.len() as u64,
                mtime: nanos / 1_000_000_000,
                nanos: u32::try_from(nanos % 1_000_000_000).unwrap_or(0),
                capability: b"",
            };
            Packet::stat(Stat::of(&entry)).write(&mut pieces.buffer);
        }
        end_of_stats(pieces)?;
        let mut asked = BTreeSet::new();
        answer_each(self.definition.len(), requests, pieces, |id, pieces| {
            let found = usize::try_from(id).ok().and_then(|at| self.definition.get(at));
            let Some((_, text)) = found.filter(|_| asked.insert(id)) else {
                return Err(no_file(id));
            };
            for chunk in text.chunks(CHUNK as usize) {
                Packet::data(id, chunk.to_vec()).write(&mut pieces.buffer);
            }
            Packet::data(id, Vec::new()).write(&mut pieces.buffer);
            pieces.flush(PIECE)
        })
    }
}

/// The name of a folder in the engine: another folder of the same path has another one.
pub(super) fn key(folder: &OwnedFd, path: &std::path::Path) -> String {
    let which = rustix::fs::fstat(folder).map(|stat| (stat.st_dev, stat.st_ino));
    hex(&Sha256::digest(format!("container-svc:{which:?}:{}", path.display())))
}

fn end_of_stats(pieces: &mut Pieces<'_>) -> Result<()> {
    Packet::no_more_stats().write(&mut pieces.buffer);
    pieces.flush(0)
}

/// Answers one request after the other, the lowest number of those at hand first.
fn answer_each(
    files: usize,
    mut requests: mpsc::Receiver<Request>,
    pieces: &mut Pieces<'_>,
    mut answer: impl FnMut(u32, &mut Pieces<'_>) -> Result<()>,
) -> Result<()> {
    let mut waiting = BTreeSet::new();
    loop {
        let mut next = match waiting.pop_first() {
            Some(id) => {
                pieces.go_on()?;
                answer(id, pieces)?;
                requests.try_recv().ok()
            }
            None => {
                pieces.flush(0)?;
                Some(requests.blocking_recv().ok_or(Stop::Unread)?)
            }
        };
        while let Some(request) = next {
            match request {
                Request::File(id) if waiting.len() < files && waiting.insert(id) => {}
                Request::File(id) => return Err(no_file(id)),
                Request::Done if waiting.is_empty() => {
                    Packet::fin().write(&mut pieces.buffer);
                    return pieces.flush(0);
                }
                Request::Done => return Err(garbled("to end before it had all")),
                // Another step may have ended the build.
                Request::GaveUp(why) if why.contains("context canceled") => {
                    return Err(Stop::Unread);
                }
                Request::GaveUp(why) => return Err(gave_up(&why)),
                Request::Broken(why) => return Err(garbled(&format!("by {why}"))),
            }
            next = requests.try_recv().ok();
        }
    }
}

/// Its own words at the end of the build say only that it ended.
fn gave_up(why: &str) -> Stop {
    let (kind, reason) = match why.contains("no space left on device") {
        true => (Kind::ResourceExhausted, "NO_SPACE"),
        false => (Kind::FailedPrecondition, "BUILD_FAILED"),
    };
    let why = format!("the engine could not take the build context: {why}");
    Stop::Failed(Error::new(kind, reason, why))
}

fn no_file(id: u32) -> Stop {
    garbled(&format!("for file {id}, which there is not or was asked for already"))
}

fn garbled(how: &str) -> Stop {
    let why = format!(
        "the engine asked {how} as it took the build context; build again, and look into the \
         engine's log"
    );
    Stop::Failed(Error::new(Kind::Unavailable, "ENGINE_GARBLED", why))
}

impl Stats<'_, '_> {
    fn stat(&mut self, stat: Stat) -> Result<u32> {
        self.passed.retain(|passed| passed.holds(&stat));
        for stat in std::mem::take(&mut self.passed).into_iter().chain([stat]) {
            Packet::stat(stat).write(&mut self.pieces.buffer);
            self.next += 1;
        }
        self.pieces.flush(PIECE)?;
        Ok(self.next - 1)
    }
}

impl Sink for Stats<'_, '_> {
    fn go_on(&self) -> Result<()> {
        self.pieces.go_on()
    }

    fn tell(&mut self, warning: String) {
        self.pieces.tell(warning);
    }

    fn folder(&mut self, entry: &Entry<'_>, kept: bool) -> Result<()> {
        let stat = Stat::of(entry);
        if kept {
            return self.stat(stat).map(drop);
        }
        // Those that it is not in are done with.
        self.passed.retain(|passed| passed.holds(&stat));
        self.passed.push(stat);
        Ok(())
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.stat(Stat::of(entry)).map(drop)
    }

    fn file(&mut self, entry: &Entry<'_>, _: &File) -> Result<()> {
        let id = self.stat(Stat::of(entry))?;
        self.files.push(id, entry.path, entry.size)
    }
}
