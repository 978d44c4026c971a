//! The files of a commit: counted, and then given as a tar archive.

use std::{fs::File, os::unix::process::ExitStatusExt as _, path::Path};

use tokio::{
    io::AsyncReadExt as _,
    process::{ChildStderr, ChildStdout},
};

use super::{
    failed, has,
    program::{Environment, Running, command, last_of, missing},
    text,
};
use crate::domain::{
    Error, Result,
    source::{Git, MOST_ENTRIES, too_large},
};

/// Files are given as they are in the commit.
const ATTRIBUTES: &str = "* -export-ignore -export-subst\n";
/// Most bytes of the paths of a commit: git has all of them in memory.
const MOST_PATHS: u64 = 256 << 20;
/// How a program ends whose reader left; that one knows why.
const SIGPIPE: i32 = 13;
/// Bytes that are read at once.
const PIECE: usize = 64 << 10;

/// The files of a commit.
pub struct Files {
    /// As a tar archive.
    pub archive: File,
    /// Whether all of it comes.
    pub end: End,
}

/// The program that makes the archive. Dropping it ends it.
pub struct End {
    running: Running,
    said: ChildStderr,
}

impl End {
    /// Says whether all of it came. It must be polled while the archive is read, else the
    /// program waits for who reads what it says.
    pub async fn wait(self) -> Result<()> {
        let Self { mut running, said } = self;
        let (said, ended) = tokio::join!(last_of(said), running.0.wait());
        match ended {
            Ok(status) if status.success() || status.signal() == Some(SIGPIPE) => Ok(()),
            Ok(_) if has(&said, "did not match any files") => {
                let why = "is not in the commit; see which folders it has";
                Err(Error::field("source.git.subdirectory", why))
            }
            Ok(_) => Err(no_files(&said)),
            Err(error) => Err(lost().because(error)),
        }
    }
}

/// The files of a commit that was taken into this folder, or those of its folder.
pub(super) async fn files(git: &Git, folder: &Path, commit: &str) -> Result<Files> {
    count(folder, commit).await?;
    let mut args = vec!["archive", "--format=tar", commit];
    if !git.subdirectory.is_empty() {
        args.extend(["--", &git.subdirectory]);
    }
    // What a repository leaves out of its releases, a checkout has.
    let info = folder.join("info");
    let written = match tokio::fs::create_dir_all(&info).await {
        Ok(()) => tokio::fs::write(info.join("attributes"), ATTRIBUTES).await,
        failed => failed,
    };
    written.map_err(|error| Error::internal("a repository cannot be used").because(error))?;
    let (running, archive, said) = begin(folder, &args)?;
    let archive = archive.into_owned_fd().map_err(|error| lost().because(error))?;
    Ok(Files { archive: archive.into(), end: End { running, said } })
}

/// Refuses a commit with too many entries. Trees that are in others many times make
/// billions of a few kilobytes, and `git archive` has all of them, those outside of the
/// folder too, in memory before it gives the first byte.
async fn count(folder: &Path, commit: &str) -> Result<()> {
    let args = ["ls-tree", "-r", "-t", "-z", "--name-only", "--full-tree", commit];
    let (mut running, mut names, said) = begin(folder, &args)?;
    let counted = async {
        let (mut entries, mut bytes) = (0, 0);
        let mut buffer = vec![0; PIECE];
        loop {
            let read = names.read(&mut buffer).await.map_err(|error| lost().because(error))?;
            if read == 0 {
                return Ok(());
            }
            entries += memchr::memchr_iter(0, &buffer[..read]).count() as u64;
            bytes += read as u64;
            if entries > MOST_ENTRIES {
                return Err(too_large(&format!("has more than {MOST_ENTRIES} entries")));
            }
            if bytes > MOST_PATHS {
                return Err(too_large("has paths that are too long together"));
            }
        }
    };
    let said = async { Ok(last_of(said).await) };
    let ((), said) = tokio::try_join!(counted, said)?;
    match running.0.wait().await {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(no_files(&said)),
        Err(error) => Err(lost().because(error)),
    }
}

fn begin(folder: &Path, args: &[&str]) -> Result<(Running, ChildStdout, ChildStderr)> {
    let mut command = command(folder, &Environment::default(), args);
    let mut running = Running(command.spawn().map_err(|error| missing(&error))?);
    let stdout = running.0.stdout.take().ok_or_else(lost)?;
    let stderr = running.0.stderr.take().ok_or_else(lost)?;
    Ok((running, stdout, stderr))
}

fn no_files(said: &[u8]) -> Error {
    failed(&format!("gives no files: {}", text(said)))
}

fn lost() -> Error {
    Error::internal("git was lost")
}
