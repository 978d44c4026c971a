//! A build context: the folder, what of it is left out, and the Dockerfile.
//!
//! It is sent to the engine as it is read, without a copy on the disk.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{
    Stream, StreamExt as _,
    stream::{self, BoxStream},
};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::domain::{Error, Result, build::Builder, ignore::Ignore, spec::hex};

mod beneath;
mod tar;
#[cfg(test)]
mod tests;
mod unpack;
mod walk;

pub use unpack::{UnpackLimits, unpack};

use beneath::{Place, Roots, Unusable};
use walk::{Archive, Stop};

const DOCKERFILE: &str = "Dockerfile";
const IGNORE: &str = ".dockerignore";
/// Largest Dockerfile, and largest file of what is left out.
const LARGEST: u64 = 1 << 20;
/// Pieces that wait for the engine.
const AHEAD: usize = 4;
/// Warnings that wait for a reader; what comes beyond is counted by nobody.
const WARNINGS: usize = 64;

/// A context that was opened.
#[derive(Debug)]
pub struct Context {
    folder: OwnedFd,
    /// What is left out, but for the Dockerfile.
    ignore: Ignore,
    /// The same, but for the list itself too, which the classic builder needs.
    classic: Ignore,
    /// The Dockerfile's text.
    pub dockerfile: String,
    /// Where the Dockerfile is found in what is sent.
    pub dockerfile_path: String,
    /// The Dockerfile is not sent from the folder but beside it: it lies outside,
    /// or has a list of its own that the engine would not know of.
    beside: bool,
    /// The Dockerfile is none of what the tree and its list say that steps may copy.
    apart: bool,
    /// The folder's own `.dockerignore`.
    listed: Option<Vec<u8>>,
}

/// A context on its way.
pub struct Sending {
    /// The archive; it ends in an error when it is not whole.
    pub archive: Archived,
    /// What should be told.
    pub warnings: mpsc::Receiver<String>,
    /// How far it is.
    pub state: Arc<State>,
}

/// The bytes of an archive.
pub type Archived = BoxStream<'static, io::Result<Bytes>>;

/// How far a context is.
#[derive(Debug, Default)]
pub struct State {
    sent: AtomicU64,
    failure: Mutex<Option<Error>>,
}

enum Piece {
    Bytes(Bytes),
    /// The archive is whole.
    End,
}

impl Context {
    /// Opens a folder beneath one of the roots. Nothing else is ever read.
    pub async fn open(roots: Vec<PathBuf>, folder: String, dockerfile: String) -> Result<Self> {
        let opening =
            tokio::task::spawn_blocking(move || open(&Roots::new(&roots), &folder, &dockerfile));
        opening.await.map_err(|error| Error::internal("a context was not opened").because(error))?
    }

    /// Begins to read it, on a thread of its own, as its builder wants it.
    pub fn send(self, builder: Builder) -> Sending {
        let (pieces, taken) = mpsc::channel(AHEAD);
        let (warnings, told) = mpsc::channel(WARNINGS);
        let state = Arc::new(State::default());
        let shared = state.clone();
        tokio::task::spawn_blocking(move || {
            let mut take = |bytes: Bytes| {
                shared.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                pieces.blocking_send(Piece::Bytes(bytes)).is_ok()
            };
            let mut tell = |warning| drop(warnings.try_send(warning));
            let wanted = || !pieces.is_closed();
            if builder == Builder::BuildKit && self.apart {
                tell(format!(
                    "BuildKit finds its Dockerfile only in what is sent, so it is sent as {:?} \
                     though it would stay out: a COPY of the whole context takes it along",
                    self.dockerfile_path
                ));
            }
            match self.write(builder, Archive::new(&mut take, &mut tell, &wanted)) {
                Ok(()) => drop(pieces.blocking_send(Piece::End)),
                Err(Stop::Unread) => {}
                Err(Stop::Failed(error)) => {
                    let mut failure = shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
                    *failure = Some(error);
                }
            }
        });
        Sending { archive: body(taken).boxed(), warnings: told, state }
    }

    fn write(self, builder: Builder, mut archive: Archive<'_>) -> Result<(), Stop> {
        // BuildKit reads no list in an archive, and takes nothing out of it.
        let (ignore, listed) = match builder {
            Builder::Classic => (&self.classic, self.beside),
            Builder::BuildKit => (&self.ignore, false),
        };
        let apart = listed.then_some(IGNORE);
        let there = walk::write(self.folder, ignore, apart, &mut archive)?;
        if listed {
            // The engine takes out what this file lists of the two, and no more.
            let name = &self.dockerfile_path;
            let list = match self.listed.filter(|_| there) {
                Some(mut list) => {
                    list.extend_from_slice(format!("\n!{IGNORE}\n{name}\n").as_bytes());
                    list
                }
                None => format!("{IGNORE}\n{name}\n").into_bytes(),
            };
            archive.file(IGNORE, &list)?;
        }
        if self.beside {
            archive.file(&self.dockerfile_path, self.dockerfile.as_bytes())?;
        }
        archive.end()
    }
}

/// The archive. It ends in an error when it is not whole.
fn body(pieces: mpsc::Receiver<Piece>) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold(Some(pieces), |pieces| async move {
        let mut pieces = pieces?;
        match pieces.recv().await {
            Some(Piece::Bytes(bytes)) => Some((Ok(bytes), Some(pieces))),
            Some(Piece::End) => None,
            None => Some((Err(io::Error::other("the context is not whole")), None)),
        }
    })
}

impl State {
    /// Bytes that were read and sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Why it could not be sent as a whole.
    pub fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn open(roots: &Roots, folder: &str, dockerfile: &str) -> Result<Context> {
    let given = Path::new(folder);
    let place = roots.find(given).map_err(|why| refused("contextPath", given, why))?;
    let opened = place.folder().map_err(|why| {
        let told = format!("{given:?} is no folder that can be read: {why}; name a folder");
        Error::field("contextPath", told).because(why)
    })?;
    let (given, named) = find_dockerfile(roots, &place, dockerfile)?;
    let text = read_dockerfile(&named)?;
    let own = own_list(roots, &given)?;
    let listed = list(roots, &place.path.join(IGNORE))?;
    let patterns = own.as_ref().or(listed.as_ref());
    let wrong = |why: String| {
        let name = if own.is_some() { "the Dockerfile's own .dockerignore" } else { IGNORE };
        Error::precondition("DOCKERIGNORE", format!("{name} cannot be used: {why}"))
    };
    let bytes = patterns.map(Vec::as_slice).unwrap_or_default();
    let mut ignore = Ignore::parse(bytes).map_err(wrong)?;
    let inside = named.path.strip_prefix(&place.path).ok().and_then(Path::to_str);
    let (beside, apart, dockerfile_path) = match inside {
        Some(path) if own.is_none() => {
            let apart = ignore.verdict(path, None).ignored;
            // The engine needs it; the classic builder takes it out itself where it is
            // listed.
            ignore.always(path).map_err(wrong)?;
            (false, apart, path.to_owned())
        }
        _ => (true, true, format!(".dockerfile.{}", &hex(&Sha256::digest(&text))[..20])),
    };
    let mut classic = ignore.clone();
    if !beside {
        classic.always(IGNORE).map_err(wrong)?;
    }
    let dockerfile = text;
    Ok(Context {
        folder: opened,
        ignore,
        classic,
        dockerfile,
        dockerfile_path,
        beside,
        apart,
        listed,
    })
}

/// As the docker command: `Dockerfile`, else `dockerfile`, unless one is named.
///
/// Answers with its path as it was given, and where it really is.
fn find_dockerfile(roots: &Roots, context: &Place, given: &str) -> Result<(PathBuf, Place)> {
    let names = match given {
        "" => [DOCKERFILE, "dockerfile"].as_slice(),
        given => &[given],
    };
    let mut first = None;
    for name in names {
        let path = context.path.join(name);
        match roots.find(&path) {
            Ok(place) => return Ok((path, place)),
            Err(why) => drop(first.get_or_insert((path, why))),
        }
    }
    let (path, why) = first.ok_or_else(|| Error::internal("no Dockerfile was looked for"))?;
    Err(refused("dockerfilePath", &path, why))
}

fn read_dockerfile(place: &Place) -> Result<String> {
    let wrong = |why: &dyn std::fmt::Display| {
        let told = format!("the Dockerfile at {:?} cannot be used: {why}", place.path);
        Error::field("dockerfilePath", told)
    };
    let bytes = place.read(LARGEST).map_err(|why| wrong(&why).because(why))?;
    let text = String::from_utf8(bytes).map_err(|why| wrong(&why))?;
    match text.trim().is_empty() {
        true => Err(wrong(&"it is empty; begin it with FROM")),
        false => Ok(text),
    }
}

/// `<Dockerfile>.dockerignore`, which wins; by the name that was given, also where that
/// is a link.
fn own_list(roots: &Roots, dockerfile: &Path) -> Result<Option<Vec<u8>>> {
    let mut path = dockerfile.as_os_str().to_owned();
    path.push(IGNORE);
    list(roots, Path::new(&path))
}

fn list(roots: &Roots, path: &Path) -> Result<Option<Vec<u8>>> {
    let unreadable = |why: io::Error| {
        let told = format!("{path:?} cannot be read: {why}");
        Error::precondition("DOCKERIGNORE", told).because(why)
    };
    match roots.find(path) {
        Ok(place) => place.read(LARGEST).map(Some).map_err(unreadable),
        Err(Unusable::Io(why)) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(Unusable::Io(why)) => Err(unreadable(why)),
        Err(Unusable::Outside | Unusable::LeadsOut) => {
            let told = format!("{path:?} leads out of what builds may read; make it a file");
            Err(Error::precondition("DOCKERIGNORE", told))
        }
    }
}

fn refused(field: &str, path: &Path, why: Unusable) -> Error {
    let told = match why {
        Unusable::Outside if !path.is_absolute() => {
            format!("{path:?} is not absolute; write the whole path on the node")
        }
        Unusable::Outside => format!(
            "{path:?} lies outside of the folders that builds may read; use one below them, or \
             add to build_roots"
        ),
        Unusable::LeadsOut => {
            format!("{path:?} leads by a link out of the folders that builds may read")
        }
        Unusable::Io(why) if why.kind() == io::ErrorKind::NotFound => match field {
            "dockerfilePath" => {
                format!("there is no Dockerfile at {path:?}; make one, or name another")
            }
            _ => format!("there is nothing at {path:?} on this node; name a folder"),
        },
        Unusable::Io(why) => format!("{path:?} cannot be used: {why}"),
    };
    Error::field(field, told)
}
