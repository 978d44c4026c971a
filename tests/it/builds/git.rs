//! Contexts from git repositories, over git's own protocol and over https.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use container_svc::{config::Config, domain::source::GitProtocol, rpc::pb};
use pb::{build_image_stream_response::Event, build_source::Source};
use tempfile::TempDir;
use tonic::Code;

use super::{
    BUILDERS, Tree, build, count, finished,
    sources::{nothing_is_held, of, refusal},
};
use crate::{
    assets::lenient,
    cli::cli,
    support::{DEADLINE, Service, docker, eventually, image, own_loopback, unique},
};

/// A program that ends with the test.
pub(super) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sh(folder: &Path, script: &str) -> String {
    let out = Command::new("sh").args(["-ec", script]).current_dir(folder).output().expect("sh");
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// A repository `app.git` with a tag and a later commit.
pub(super) struct Repository {
    dir: TempDir,
    first: String,
}

impl Repository {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let script = format!(
            "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a \
                    GIT_COMMITTER_EMAIL=a@b HOME=/nonexistent
             git init -q -b main work; cd work; mkdir -p web/d
             printf 'FROM {}\\nCOPY . /x\\n' > web/Dockerfile
             echo one > web/a; ln -s /etc/shadow web/out; chmod 755 web/a
             echo 'd export-ignore # {}' > web/.gitattributes; echo deep > web/d/e
             git add -A; git commit -qm one; git tag v1; git rev-parse HEAD
             echo two > web/a; git commit -qam two
             git clone -q --bare . ../app.git",
            image(),
            unique("word"),
        );
        let first = sh(dir.path(), &script);
        Self { dir, first }
    }

    /// Adds a file to its default branch.
    pub(super) fn commit(&self, path: &str, text: &str) {
        let at = self.dir.path().join("work").join(path);
        fs::create_dir_all(at.parent().expect("a folder")).expect("a folder");
        fs::write(at, text).expect("a file");
        let script = "cd work; export HOME=/nonexistent; git add -A
            git -c user.name=a -c user.email=a@b commit -qm more; git push -q ../app.git main";
        sh(self.dir.path(), script);
    }

    /// Adds a branch whose commit has 10 to the power of `levels` files, in a few kilobytes:
    /// each of its folders is in the one above ten times.
    fn bomb(&self, branch: &str, levels: u32) {
        let script = format!(
            "cd app.git; export HOME=/nonexistent
             ten() {{ for at in 0 1 2 3 4 5 6 7 8 9; do printf \"$1\\t%s\\n\" $at; done | git mktree; }}
             tree=$(ten \"100644 blob $(echo x | git hash-object -w --stdin)\")
             for level in $(seq 2 {levels}); do tree=$(ten \"040000 tree $tree\"); done
             commit=$(git -c user.name=a -c user.email=a@b commit-tree -m bomb $tree)
             git update-ref refs/heads/{branch} $commit"
        );
        sh(self.dir.path(), &script);
    }

    /// Serves it by git's own daemon; answers with its URL.
    pub(super) async fn daemon(&self) -> (Server, String) {
        // Where nobody else listens.
        let probe = std::net::TcpListener::bind((own_loopback(), 0)).expect("a port");
        let address = probe.local_addr().expect("an address");
        drop(probe);
        // `git daemon` would be a process of its own, which outlives the one that is ended.
        let mut daemon = Command::new("sh");
        daemon.args(["-c", "exec \"$(git --exec-path)/git-daemon\" \"$@\"", "sh"]);
        daemon.args(["--reuseaddr", "--export-all"]);
        daemon.arg(format!("--listen={}", address.ip()));
        daemon.arg(format!("--port={}", address.port()));
        daemon.arg(format!("--base-path={}", self.dir.path().display()));
        let daemon = daemon.stderr(Stdio::null()).spawn().expect("git daemon");
        let server = Server(daemon);
        eventually("the daemon listens", || async {
            tokio::net::TcpStream::connect(address).await.is_ok()
        })
        .await;
        (server, format!("git://{address}/app.git"))
    }

    /// Serves it over https for `alice` with the password `sesame`; answers with the port
    /// and the file of the authority.
    fn https(&self) -> (Server, u16, std::path::PathBuf) {
        let at = self.dir.path();
        sh(
            at,
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca.key -out ca.pem \
                -subj /CN=test-ca 2>/dev/null
             openssl req -newkey rsa:2048 -nodes -keyout key.pem -out csr.pem -subj /CN=localhost \
                2>/dev/null
             echo 'subjectAltName=DNS:localhost,IP:127.0.0.1' > ext
             openssl x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                -extfile ext -out cert.pem 2>/dev/null
             cat key.pem cert.pem > server.pem",
        );
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/builds/git_https.py");
        let mut server = Command::new("python3");
        server.arg(script).arg(at).arg(at.join("server.pem")).arg("alice:sesame");
        let mut child = server.stdout(Stdio::piped()).spawn().expect("python3");
        let mut port = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut port).expect("a port");
        let port = port.trim().parse().expect("a port");
        (Server(child), port, at.join("ca.pem"))
    }
}

fn git(url: &str, reference: &str, subdirectory: &str) -> pb::GitSource {
    pb::GitSource {
        url: url.into(),
        r#ref: reference.into(),
        subdirectory: subdirectory.into(),
        credential: None,
    }
}

fn open(config: &mut Config) {
    lenient(config);
    config.git_protocols = GitProtocol::ALL.to_vec();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_a_tag_and_a_commit_are_built_as_a_checkout_has_them() {
    let (repository, tree) = (Repository::new(), Tree::new("", &[]));
    let (_daemon, url) = repository.daemon().await;
    let service = Service::with(open).await.synced().await;
    for builder in BUILDERS {
        let mut seen = Vec::new();
        for (reference, content) in
            [("v1", "one"), ("main", "two"), ("", "two"), (repository.first.as_str(), "one")]
        {
            let source = Source::Git(git(&url, reference, "web"));
            let request = pb::BuildImageRequest { builder: builder.into(), ..of(&tree, source) };
            let told = build(&service, request).await;
            seen.push(finished(&told).image_id);
            assert_eq!(
                docker(&["run", "--rm", tree.name(), "cat", "/x/a"]),
                content,
                "{reference}"
            );
            let fetched = |event: &Event| matches!(event, Event::Progress(p) if p.id == "source" && p.status.starts_with("Fetched commit "));
            assert_eq!(count(&told.0, fetched), 1, "{told:?}");
        }
        let same = (&seen[0], &seen[1]) == (&seen[3], &seen[2]);
        assert!(same, "the same commit is the same image: {seen:?}");
        let look = "readlink /x/out; cat /x/d/e; stat -c %a /x/a; ls -A /x | busybox tr '\\n' ' '";
        let all = docker(&["run", "--rm", tree.name(), "sh", "-c", look]);
        assert_eq!(all, "/etc/shadow\ndeep\n755\n.gitattributes Dockerfile a d out", "a checkout");
    }
    nothing_is_held(&service).await;

    let url = format!("{url}#v1:web");
    cli(&service, &["build", "-q", "-t", tree.name(), &url]).await.done();
    assert_eq!(docker(&["run", "--rm", tree.name(), "cat", "/x/a"]), "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_must_not_or_cannot_be_asked_is_told_why() {
    let (repository, tree) = (Repository::new(), Tree::new("", &[]));
    let (_daemon, url) = repository.daemon().await;
    let service = Service::with(open).await.synced().await;
    let strict = Service::start().await.synced().await;
    let missing = url.replace("app.git", "none.git");
    for (service, source, expected, words) in [
        (&service, git(&url, "nope", "web"), Code::FailedPrecondition, "check ref"),
        (&service, git(&missing, "", ""), Code::FailedPrecondition, "none.git"),
        (&service, git(&url, "", "nope"), Code::InvalidArgument, "source.git.subdirectory"),
        (&service, git(&url, "", ""), Code::InvalidArgument, "no Dockerfile at"),
        (&service, git(&url, "-x", ""), Code::InvalidArgument, "source.git.ref"),
        (&service, git("git://127.0.0.1:1/x", "", ""), Code::FailedPrecondition, "fetched"),
        (&strict, git(&url, "", ""), Code::InvalidArgument, "git_protocols"),
        (&strict, git("https://localhost/x", "", ""), Code::InvalidArgument, "loopback"),
        (&strict, git("file:///etc", "", ""), Code::InvalidArgument, "scheme"),
    ] {
        let (code, told) = refusal(service, of(&tree, Source::Git(source.clone()))).await;
        assert_eq!(code, expected, "{source:?}: {told}");
        assert!(told.contains(words), "{words} in {told}");
    }
    nothing_is_held(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_larger_than_the_limit_is_given_up() {
    let (repository, tree) = (Repository::new(), Tree::new("", &[]));
    sh(
        repository.dir.path(),
        "cd work; head -c 8000000 /dev/urandom > large; git add -A
         git -c user.name=a -c user.email=a@b commit -qm large; git push -q ../app.git main",
    );
    let (_daemon, url) = repository.daemon().await;
    let service = Service::with(|config: &mut Config| {
        open(config);
        config.build_source_max_bytes = 1 << 20;
    });
    let service = service.await.synced().await;
    let (code, told) = refusal(&service, of(&tree, Source::Git(git(&url, "", "web")))).await;
    assert_eq!(code, Code::ResourceExhausted, "{told}");
    assert!(told.contains("build_source_max_bytes"), "{told}");
    nothing_is_held(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_of_which_git_says_much_is_built() {
    let (repository, tree) = (Repository::new(), Tree::new("", &[]));
    // About each of these git warns, in more bytes than a pipe holds.
    let lines: String = (0..1500).map(|at| format!("!a{at} text\n")).collect();
    repository.commit("web/.gitattributes", &lines);
    let (_daemon, url) = repository.daemon().await;
    let service = Service::with(open).await.synced().await;
    let request = of(&tree, Source::Git(git(&url, "", "web")));
    let told = tokio::time::timeout(DEADLINE, build(&service, request)).await;
    finished(&told.expect("in time"));
    assert_eq!(docker(&["run", "--rm", tree.name(), "cat", "/x/a"]), "two");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_more_files_than_can_be_had_is_given_up() {
    let (repository, tree) = (Repository::new(), Tree::new("", &[]));
    repository.bomb("ten-billion", 10);
    repository.bomb("many", 5);
    let (_daemon, url) = repository.daemon().await;
    let service = Service::with(open).await.synced().await;
    let request = of(&tree, Source::Git(git(&url, "ten-billion", "0")));
    let told = tokio::time::timeout(DEADLINE, refusal(&service, request)).await;
    let (code, told) = told.expect("in time");
    assert_eq!(code, Code::ResourceExhausted, "{told}");
    assert!(told.contains("more than 1000000 entries"), "{told}");
    nothing_is_held(&service).await;

    // Fetched within a second, and not unpacked.
    let hasty = Service::with(|config: &mut Config| {
        open(config);
        config.build_source_max_time = std::time::Duration::from_secs(1);
    });
    let hasty = hasty.await.synced().await;
    let (code, told) = refusal(&hasty, of(&tree, Source::Git(git(&url, "many", "")))).await;
    assert_eq!(code, Code::FailedPrecondition, "{told}");
    assert!(told.contains("was not there after 1 s"), "{told}");
    nothing_is_held(&hasty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_repository_opens_over_https_with_its_credential_which_no_error_tells() {
    let (repository, tree) = (Repository::new(), Tree::new("", &[]));
    let (_server, port, ca) = repository.https();
    let service = Service::with(|config: &mut Config| {
        open(config);
        config.git_ca_file = Some(ca);
    });
    let service = service.await.synced().await;
    let with = |url: &str, password: &str| {
        let username = "alice".to_owned();
        let credential = Some(pb::RegistryCredential { username, password: password.into() });
        Source::Git(pb::GitSource { credential, ..git(url, "v1", "web") })
    };
    // By name, which is resolved once, and by address.
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("https://{host}:{port}/app.git");
        let told = build(&service, of(&tree, with(&url, "sesame"))).await;
        finished(&told);
        assert_eq!(docker(&["run", "--rm", tree.name(), "cat", "/x/a"]), "one");
        let (code, told) = refusal(&service, of(&tree, with(&url, "hush-hush"))).await;
        assert_eq!(code, Code::FailedPrecondition, "{told}");
        assert!(told.contains("credential") && !told.contains("hush"), "{told}");
        let (code, told) = refusal(&service, of(&tree, Source::Git(git(&url, "", "web")))).await;
        assert_eq!(code, Code::FailedPrecondition, "{told}");
        assert!(told.contains("credential"), "{told}");
    }
    let moved = format!("https://localhost:{port}/moved/app.git");
    let (code, told) = refusal(&service, of(&tree, with(&moved, "sesame"))).await;
    assert_eq!((code, told.contains("leads to")), (Code::FailedPrecondition, true), "{told}");

    // Without the authority, the certificate is nobody's.
    let stranger = Service::with(open).await.synced().await;
    let url = format!("https://localhost:{port}/app.git");
    let (code, told) = refusal(&stranger, of(&tree, with(&url, "sesame"))).await;
    assert_eq!((code, told.contains("certificate")), (Code::FailedPrecondition, true), "{told}");
    nothing_is_held(&service).await;
    assert!(fs::metadata(repository.dir.path()).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stays_mute_holds_no_build() {
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = mute.local_addr().expect("an address");
    let tree = Tree::new("", &[]);
    let service = Service::with(|config| {
        open(config);
        config.asset_stall_timeout = std::time::Duration::from_secs(1);
    });
    let service = service.await.synced().await;
    let request = of(&tree, Source::Git(git(&format!("git://{address}/app.git"), "main", "")));
    let (code, why) = refusal(&service, request).await;
    assert_eq!(code, Code::FailedPrecondition, "{why}");
    assert!(why.contains("sent nothing for 1 s"), "{why}");
    nothing_is_held(&service).await;
    drop(mute);
}
