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

use crate::domain::{Error, Result, ignore::Ignore, spec::hex};

mod archive;
mod beneath;
mod kept;
mod only;
mod pieces;
mod sync;
mod tar;
#[cfg(test)]
mod tests;
mod unpack;
mod walk;

pub use sync::{Part, Request, Shared};
pub use unpack::{UnpackLimits, unpack};

use archive::Archive;
use beneath::{Place, Roots, Unusable};
use pieces::Pieces;
use walk::{Stop, Wanted};

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
    /// What is left out.
    ignore: Ignore,
    /// The same, but for what an archive must hold: the Dockerfile and the list.
    archived: Ignore,
    /// The Dockerfile's text.
    pub dockerfile: String,
    /// Where the Dockerfile is found in the archive.
    pub dockerfile_path: String,
    /// How the Dockerfile is called.
    name: String,
    /// The Dockerfile is not sent from the folder but beside it: it lies outside,
    /// or has a list of its own that the engine would not know of.
    beside: bool,
    /// The folder's own `.dockerignore`.
    listed: Option<Vec<u8>>,
    /// That of the Dockerfile alone.
    own: Option<Vec<u8>>,
    /// Names the folder in the engine.
    key: String,
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

/// A context that is asked for.
pub struct Sharing {
    /// What answers.
    pub shared: Arc<Shared>,
    /// How the Dockerfile is called.
    pub dockerfile_name: String,
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

    /// Begins to read it as an archive, on a thread of its own.
    pub fn send(self) -> Sending {
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
            match self.write(Archive(Pieces::new(&mut take, &mut tell, &wanted))) {
                Ok(()) => drop(pieces.blocking_send(Piece::End)),
                Err(Stop::Unread) => {}
                Err(Stop::Failed(error)) => shared.fail(error),
            }
        });
        Sending { archive: body(taken).boxed(), warnings: told, state }
    }

    /// Makes it ready for BuildKit, which asks for what it lacks.
    pub fn share(self) -> Sharing {
        let (warnings, told) = mpsc::channel(WARNINGS);
        let state = Arc::new(State::default());
        let mut definition = vec![(self.name.clone(), self.dockerfile.into_bytes())];
        definition.extend(self.own.map(|own| (format!("{}{IGNORE}", self.name), own)));
        let shared = Shared {
            folder: self.folder,
            ignore: self.ignore,
            definition,
            key: self.key,
            warnings,
            state: state.clone(),
            places: Shared::places(),
        };
        let (shared, dockerfile_name) = (Arc::new(shared), self.name);
        Sharing { shared, dockerfile_name, warnings: told, state }
    }

    fn write(self, mut archive: Archive<'_>) -> Result<(), Stop> {
        let apart = self.beside.then_some(IGNORE);
        let wanted = Wanted { ignore: &self.archived, only: None, apart };
        let there = walk::walk(self.folder, wanted, &mut archive)?;
        if self.beside {
            // The engine takes out what this file lists of the two, and no more.
            let name = &self.dockerfile_path;
            let list = match self.listed.filter(|_| there) {
                Some(mut list) => {
                    list.extend_from_slice(format!("\n!{IGNORE}\n{name}\n").as_bytes());
                    list
                }
                None => format!("{IGNORE}\n{name}\n").into_bytes(),
            };
            archive.file_of(IGNORE, &list)?;
            archive.file_of(&self.dockerfile_path, self.dockerfile.as_bytes())?;
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

    /// Takes down why it cannot be sent; what comes first explains the rest.
    fn fail(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
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
    let own = own_list(roots, &place, &given)?;
    let listed = list(roots, &place, &place.path.join(IGNORE))?;
    let patterns = own.as_ref().or(listed.as_ref());
    let wrong = |why: String| {
        let name = if own.is_some() { "the Dockerfile's own .dockerignore" } else { IGNORE };
        Error::precondition("DOCKERIGNORE", format!("{name} cannot be used: {why}"))
    };
    let bytes = patterns.map(Vec::as_slice).unwrap_or_default();
    let ignore = Ignore::parse(bytes).map_err(wrong)?;
    let inside = named.path.strip_prefix(&place.path).ok().and_then(Path::to_str);
    let mut archived = ignore.clone();
    let (beside, dockerfile_path) = match inside {
        Some(path) if own.is_none() => {
            // The engine needs both, and takes out itself what is listed.
            archived.always(path).map_err(wrong)?;
            archived.always(IGNORE).map_err(wrong)?;
            (false, path.to_owned())
        }
        _ => (true, format!(".dockerfile.{}", &hex(&Sha256::digest(&text))[..20])),
    };
    // As the engine's steps tell it, and as it can name it in a header.
    let name = given.file_name().and_then(|name| name.to_str());
    let name = name.filter(|name| name.bytes().all(|byte| byte.is_ascii_graphic()));
    let name = name.unwrap_or(DOCKERFILE).to_owned();
    Ok(Context {
        key: sync::key(&opened, &place.path),
        folder: opened,
        ignore,
        archived,
        dockerfile: text,
        dockerfile_path,
        name,
        beside,
        listed,
        own,
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
fn own_list(roots: &Roots, context: &Place, dockerfile: &Path) -> Result<Option<Vec<u8>>> {
    let mut path = dockerfile.as_os_str().to_owned();
    path.push(IGNORE);
    list(roots, context, Path::new(&path))
}

fn list(roots: &Roots, context: &Place, path: &Path) -> Result<Option<Vec<u8>>> {
    // Where the context is says nothing to a caller from elsewhere.
    let name = path.strip_prefix(&context.path).unwrap_or(path);
    let unreadable = |why: io::Error| {
        let told = format!("{name:?} cannot be read: {why}; make it a file, or leave it out");
        Error::precondition("DOCKERIGNORE", told).because(why)
    };
    match roots.find(path) {
        Ok(place) => place.read(LARGEST).map(Some).map_err(unreadable),
        Err(Unusable::Io(why)) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(Unusable::Io(why)) => Err(unreadable(why)),
        Err(Unusable::Outside | Unusable::LeadsOut) => {
            let told = format!("{name:?} leads out of what builds may read; make it a file");
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
