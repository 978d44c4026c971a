//! Takes one commit of a git repository, by the `git` program.
//!
//! The program is given an environment of its own: no configuration of this machine, no
//! hooks, no prompts, no proxy, one protocol, no redirects, and the address that was
//! checked, so that a name cannot change between check and use.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{io::AsyncReadExt as _, process::Command, time::Instant};

use crate::domain::{Error, Kind, Result, asset, asset::Policy, source::Git};

mod files;
mod program;

use files::Files;
use program::{
    Environment, Running, SAID, check_version, command, last_of, missing, size_of, work_of,
};

/// How often the size of what came is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How repositories are asked.
#[derive(Debug, Clone)]
pub struct GitSettings {
    /// Where they may be.
    pub policy: Arc<Policy>,
    /// Further certificate authorities, in PEM.
    pub ca_file: Option<PathBuf>,
    /// Most bytes of what comes, packed.
    pub bytes: u64,
    /// Most time of all.
    pub time: Duration,
    /// How long nothing may come, and the least rate after that.
    pub stall: Duration,
    /// Least bytes a second.
    pub min_rate: u64,
}

/// Takes commits of repositories.
#[derive(Debug, Clone)]
pub struct GitFetcher(Arc<GitSettings>);

impl GitFetcher {
    /// Nothing is asked yet.
    pub fn new(settings: GitSettings) -> Self {
        Self(Arc::new(settings))
    }

    /// Does what a repository is asked for, all of it in the time that it may take.
    pub async fn within<T>(&self, git: &Git, work: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.0.time;
        match tokio::time::timeout(limit, Box::pin(work)).await {
            Ok(done) => done,
            Err(_) => {
                let why =
                    format!("was not there after {} s, the most that it may take", limit.as_secs());
                Err(failed_of(git, "GIT_TOO_SLOW", &why))
            }
        }
    }

    /// Takes the commit that is asked for into a new repository in a folder, and answers
    /// with its id. `tell` learns how many bytes have come.
    ///
    /// INVALID_ARGUMENT where a rule refuses the address, FAILED_PRECONDITION where the
    /// repository does not give it, RESOURCE_EXHAUSTED for more than the limits allow.
    pub async fn fetch(
        &self,
        git: &Git,
        folder: &Path,
        tell: &(dyn Fn(u64) + Sync),
    ) -> Result<String> {
        check_version(folder).await?;
        let env = self.environment(git).await?;
        let init = ["init", "--quiet", "--bare", "--template=", "."];
        self.run(git, command(folder, &env, &init), folder, tell).await?;
        // A commit and no history. Every object comes in one pack, which is soon weighed.
        let url = address(git, &env);
        let depth = ["--depth=1"];
        let mut fetched = self.ask(git, folder, &env, &depth, &url, tell).await;
        if matches!(&fetched, Err(error) if error.message().contains("does not support shallow")) {
            fetched = self.ask(git, folder, &env, &[], &url, tell).await;
        }
        fetched?;
        let parse = ["rev-parse", "--verify", "--quiet", "FETCH_HEAD^{commit}"];
        let id = self.run(git, command(folder, &env, &parse), folder, tell).await?;
        let id = String::from_utf8_lossy(&id).trim().to_owned();
        match id.len() >= 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            true => Ok(id),
            false => Err(failed_of(git, "GIT_NOT_FOUND", "names no commit; check ref")),
        }
    }

    async fn ask(
        &self,
        git: &Git,
        folder: &Path,
        env: &Environment,
        more: &[&str],
        url: &str,
        tell: &(dyn Fn(u64) + Sync),
    ) -> Result<Vec<u8>> {
        let mut args = vec!["fetch", "--quiet", "--no-tags", "--no-recurse-submodules"];
        args.extend(more);
        args.extend(["--", url, git.reference.as_str()]);
        self.run(git, command(folder, env, &args), folder, tell).await
    }

    /// The files of a commit that was taken into this folder, or those of its folder.
    ///
    /// RESOURCE_EXHAUSTED for more of them than a context may have.
    pub async fn files(&self, git: &Git, folder: &Path, commit: &str) -> Result<Files> {
        files::files(git, folder, commit).await
    }

    /// Runs it to its end; what came in the folder meanwhile stays below the limit.
    async fn run(
        &self,
        git: &Git,
        mut command: Command,
        folder: &Path,
        tell: &(dyn Fn(u64) + Sync),
    ) -> Result<Vec<u8>> {
        let mut running = Running(command.spawn().map_err(|error| missing(&error))?);
        let lost = || Error::internal("git was lost");
        let id = running.0.id();
        let stdout = running.0.stdout.take().ok_or_else(lost)?;
        let stderr = running.0.stderr.take().ok_or_else(lost)?;
        let mut out = Vec::new();
        let mut stdout = stdout.take(SAID as u64);
        let talk = async {
            let (_, said) = tokio::join!(stdout.read_to_end(&mut out), last_of(stderr));
            (running.0.wait().await, said)
        };
        let (ended, said) = tokio::select! {
            talked = talk => talked,
            error = self.weigh(git, folder, id, tell) => return Err(error),
        };
        match ended {
            Ok(status) if status.success() => match size(folder).await {
                // All of it came between two looks.
                bytes if bytes > self.0.bytes => Err(self.too_large(git, bytes)),
                _ => Ok(out),
            },
            Ok(_) => Err(refusal(git, &said)),
            Err(error) => Err(lost().because(error)),
        }
    }

    /// Looks at what comes; resolves when that is too much, or nothing for too long.
    ///
    /// Curl sees by itself that nothing comes, and the git and ssh protocols do not. What
    /// the program works on may take no more room, but its processor's time, and what a
    /// server says that works is read.
    async fn weigh(
        &self,
        git: &Git,
        folder: &Path,
        program: Option<u32>,
        tell: &(dyn Fn(u64) + Sync),
    ) -> Error {
        let mut ticks = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
        let (mut had, mut since, mut worked) = (0, Instant::now(), 0);
        loop {
            ticks.tick().await;
            let bytes = size(folder).await;
            if bytes > self.0.bytes {
                return self.too_large(git, bytes);
            }
            tell(bytes);
            if bytes != had {
                (had, since) = (bytes, Instant::now());
            }
            if since.elapsed() < self.0.stall {
                continue;
            }
            let works = program.map_or(0, work_of);
            if works == worked {
                let seconds = self.0.stall.as_secs_f32();
                let why = format!("sent nothing for {seconds} s; see whether its server hangs");
                return failed_of(git, "GIT_TOO_SLOW", &why);
            }
            (worked, since) = (works, Instant::now());
        }
    }

    fn too_large(&self, git: &Git, bytes: u64) -> Error {
        let most = self.0.bytes;
        let why = format!(
            "sends {bytes} bytes or more; at most {most} are taken, which \
             build_source_max_bytes decides"
        );
        let told = failed_of(git, "GIT_TOO_LARGE", &why);
        Error::new(Kind::ResourceExhausted, "GIT_TOO_LARGE", told.message())
    }

    /// What the program is told, and the address that it must connect to.
    async fn environment(&self, git: &Git) -> Result<Environment> {
        let settings = &self.0;
        let host = git.url.host_str().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let default = if git.url.scheme() == "git" { 9418 } else { 22 };
        let port = git.url.port_or_known_default().unwrap_or(default);
        let refused = |why: String| Error::field("source.git.url", why);
        let literal: Option<IpAddr> = bare.parse().ok();
        let found = match literal {
            Some(ip) => vec![ip],
            None => {
                let look_up = tokio::net::lookup_host((bare, port));
                let found = match tokio::time::timeout(settings.stall, look_up).await {
                    Ok(found) => found.map(|found| found.map(|found| found.ip()).collect()),
                    Err(late) => Err(late.into()),
                };
                found.map_err(|error| {
                    let why = "cannot be found: check its name and the network";
                    failed_of(git, "GIT_UNREACHABLE", why).because(error)
                })?
            }
        };
        let (mut addresses, mut why) = (Vec::new(), None);
        for ip in found {
            match settings.policy.check_address(ip) {
                Ok(()) => addresses.push(ip),
                Err(rule) => why = Some(format!("{bare}: {rule}")),
            }
        }
        let Some(first) = addresses.first().copied() else {
            return Err(refused(why.unwrap_or_else(|| format!("{bare} has no address"))));
        };
        let mut env = Environment::at(first);
        env.set("GIT_ALLOW_PROTOCOL", git.url.scheme());
        env.config("http.followRedirects", "false");
        env.config("http.sslVerify", "true");
        env.config("http.lowSpeedLimit", &settings.min_rate.to_string());
        env.config("http.lowSpeedTime", &settings.stall.as_secs().max(1).to_string());
        if literal.is_none() {
            let all: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            env.config("http.curloptResolve", &format!("{bare}:{port}:{}", all.join(",")));
        }
        if let Some(file) = &settings.ca_file {
            env.config("http.sslCAInfo", &file.to_string_lossy());
        }
        if let Some(login) = &git.login {
            // In the environment, which no other user reads, and not among the arguments.
            let pair = [login.username.as_bytes(), b":", &login.password.0].concat();
            let header = format!("Authorization: Basic {}", STANDARD.encode(pair));
            env.config("http.extraHeader", &header);
        }
        if git.url.scheme() == "ssh" {
            let seconds = settings.stall.as_secs().max(1);
            env.set(
                "GIT_SSH_COMMAND",
                &format!(
                    "ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=yes -o ProxyCommand=none \
                     -o ConnectTimeout={seconds} -o ServerAliveInterval={seconds} \
                     -o HostName={first} -o HostKeyAlias={bare}"
                ),
            );
            env.set("GIT_SSH_VARIANT", "ssh");
            if let Some(agent) = std::env::var_os("SSH_AUTH_SOCK") {
                env.pairs.push(("SSH_AUTH_SOCK".into(), agent));
            }
        }
        Ok(env)
    }
}

/// Where git connects to: its own protocol takes no address beside the URL.
fn address(git: &Git, env: &Environment) -> String {
    let mut url = git.url.clone();
    if let Some(ip) = env.address.filter(|_| url.scheme() == "git") {
        let host = match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        // A host that cannot be set stays what it was, and was checked.
        let _ = url.set_host(Some(&host));
    }
    url.into()
}

/// What the program says, in the words of an error. No secret may be in it.
fn refusal(git: &Git, said: &[u8]) -> Error {
    let mut told = text(said).replace(git.url.as_str(), &asset::shown(git.url.as_str()));
    if let Some(query) = git.url.query().filter(|query| !query.is_empty()) {
        told = told.replace(query, "[redacted]");
    }
    if let Some(login) = &git.login {
        let password = String::from_utf8_lossy(&login.password.0);
        if !password.is_empty() {
            told = told.replace(&*password, "[redacted]");
        }
    }
    let is = |words: &[&str]| words.iter().any(|word| has(said, word));
    let (reason, advice) = if is(&["couldn't find remote ref", "not our ref"]) {
        ("GIT_NOT_FOUND", "check ref")
    } else if is(&["Authentication failed", "could not read Username", "Permission denied", "403"])
    {
        ("GIT_REFUSED", "give a credential that may read it")
    } else if is(&["redirect", "returned error: 30"]) {
        ("GIT_REDIRECTED", "use the URL that it leads to")
    } else if is(&["not found", "does not exist", "not appear to be a git repository"]) {
        ("GIT_NOT_FOUND", "check the URL, and whether it takes a credential")
    } else {
        ("GIT_FAILED", "check the URL, the network and its certificate")
    };
    failed_of(git, reason, &format!("cannot be fetched: {told}; {advice}"))
}

fn has(said: &[u8], words: &str) -> bool {
    memchr::memmem::find(said, words.as_bytes()).is_some()
}

/// On one line, without what a terminal would take for commands.
fn text(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<_> = lines.map(|line| line.replace(char::is_control, "?")).collect();
    lines.join("; ").chars().take(1000).collect()
}

fn failed_of(git: &Git, reason: &'static str, what: &str) -> Error {
    let url = asset::shown(git.url.as_str());
    Error::precondition(reason, format!("{url} at \"{}\" {what}", git.reference)).with("url", url)
}

async fn size(folder: &Path) -> u64 {
    let folder = folder.to_owned();
    tokio::task::spawn_blocking(move || size_of(&folder)).await.unwrap_or(0)
}

fn failed(what: &str) -> Error {
    Error::precondition("GIT_FAILED", format!("the repository {what}"))
}
