//! The `git` program, in an environment of its own: nothing of this machine's
//! configuration, no hooks, no prompts and no proxy.

use std::{ffi::OsString, io, net::IpAddr, path::Path, process::Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, ChildStderr, Command},
};

use crate::domain::{Error, Result};

/// The oldest version that connects to the address it is told.
const OLDEST: (u32, u32) = (2, 37);
/// Last bytes of what the program says that are kept.
pub(super) const SAID: usize = 8 << 10;

/// A program and all that it starts; they end when this is dropped.
pub(super) struct Running(pub(super) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended has no id any more.
        let id = self.0.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            let _ = kill_process_group(id, Signal::KILL);
        }
    }
}

/// What one program is told beside its arguments.
#[derive(Default)]
pub(super) struct Environment {
    pub(super) pairs: Vec<(OsString, OsString)>,
    configured: usize,
    /// Where the program must connect to.
    pub(super) address: Option<IpAddr>,
}

impl Environment {
    /// For a program that connects there.
    pub(super) fn at(address: IpAddr) -> Self {
        Self { address: Some(address), ..Self::default() }
    }

    pub(super) fn set(&mut self, key: &str, value: &str) {
        self.pairs.push((key.into(), value.into()));
    }

    pub(super) fn config(&mut self, key: &str, value: &str) {
        let at = self.configured;
        self.set(&format!("GIT_CONFIG_KEY_{at}"), key);
        self.set(&format!("GIT_CONFIG_VALUE_{at}"), value);
        self.configured += 1;
    }
}

pub(super) fn command(folder: &Path, env: &Environment, args: &[&str]) -> Command {
    let mut all =
        Environment { pairs: env.pairs.clone(), configured: env.configured, address: None };
    for (key, value) in [
        ("core.hooksPath", "/dev/null"),
        ("core.fsmonitor", "false"),
        ("core.askPass", ""),
        ("credential.helper", ""),
        ("protocol.version", "2"),
        ("fetch.unpackLimit", "1"),
        ("fetch.recurseSubmodules", "false"),
        ("gc.auto", "0"),
        ("maintenance.auto", "false"),
        // As a checkout of a usual user has them.
        ("tar.umask", "0022"),
    ] {
        all.config(key, value);
    }
    let mut command = Command::new("git");
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()))
        .env("HOME", folder)
        .env("LC_ALL", "C")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ASKPASS", "")
        .env("GIT_DIR", folder)
        .env("GIT_LITERAL_PATHSPECS", "1")
        .env("GIT_CONFIG_COUNT", all.configured.to_string())
        .envs(all.pairs)
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

pub(super) async fn check_version(folder: &Path) -> Result<()> {
    let out = command(folder, &Environment::default(), &["version"]).output().await;
    let out = out.map_err(|error| missing(&error))?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut parts = said.split_whitespace().nth(2).unwrap_or_default().split('.');
    let mut part = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    if (part(), part()) >= OLDEST {
        return Ok(());
    }
    let (major, minor) = OLDEST;
    let why = format!("sources from git need git {major}.{minor} or newer, and this is {said:?}");
    Err(Error::precondition("GIT_MISSING", why))
}

/// The last that a program says, which is read to its end.
pub(super) async fn last_of(mut stderr: ChildStderr) -> Vec<u8> {
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        said.extend_from_slice(&buffer[..read]);
        let over = said.len().saturating_sub(SAID);
        said.drain(..over);
    }
    said
}

/// Bytes of the files below a folder.
pub(super) fn size_of(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(about) if about.is_dir() => size_of(&entry.path()),
        Ok(about) => about.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// What a program and all that it started have done: time of a processor, in ticks, and
/// bytes read.
pub(super) fn work_of(program: u32) -> u64 {
    let all = procfs::process::all_processes().into_iter().flatten().flatten();
    let work = |process: procfs::process::Process| {
        let stat = process.stat().ok().filter(|stat| u32::try_from(stat.pgrp) == Ok(program))?;
        let read = process.io().map_or(0, |io| io.rchar);
        Some(stat.utime + stat.stime + read)
    };
    all.filter_map(work).sum()
}

pub(super) fn missing(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::precondition(
            "GIT_MISSING",
            "sources from git need the git program; install it where the service runs",
        ),
        _ => Error::internal(format!("git cannot be started: {error}")),
    }
}
