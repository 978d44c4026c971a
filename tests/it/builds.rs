//! Images are built from a folder of the node, as the command line builds them.

#![expect(clippy::expect_used, reason = "a test that cannot go on ends")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use container_svc::rpc::pb::{
    self, build_image_stream_response::Event, build_service_client::BuildServiceClient,
};
use prost::Message as _;
use tempfile::TempDir;
use tonic::{Request, Status, Streaming, metadata::MetadataValue, transport::Channel};

use super::support::{Service, docker, image, unique};

mod bad_input;
mod beside_docker;
mod buildkit;
mod cache_from;
pub(crate) mod ends;
mod file_sync;
mod git;
mod hostile;
mod insecure;
mod mute;
mod powers;
mod sources;
mod tells;
mod without_kit;

/// Both builders.
pub(crate) const BUILDERS: [pb::BuilderKind; 2] =
    [pb::BuilderKind::Classic, pb::BuilderKind::Buildkit];

/// A folder with these files, the only one that its service may read; and the
/// images that were built of it, which go with it.
pub(crate) struct Tree {
    dir: TempDir,
    name: String,
}

impl Tree {
    /// A Dockerfile, after a FROM of the test image, and further files.
    pub(crate) fn new(dockerfile: &str, files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let tree = Self { dir, name: format!("{}:1", unique("built")) };
        tree.write("ctx/Dockerfile", &format!("FROM {}\n{dockerfile}", image()));
        for (path, content) in files {
            tree.write(&format!("ctx/{path}"), content);
        }
        tree
    }

    /// Two steps that BuildKit runs at once: line 5 says "the reason" and fails, when the
    /// one of line 2 wrote last.
    pub(crate) fn with_steps_at_once() -> Self {
        let tree = Self::new("", &[]);
        let run = format!("RUN --mount=type=cache,id={},target=/c", unique("at-once"));
        let text = format!(
            "FROM {base} AS sleeps\n\
             {run} until test -e /c/reason; do sleep 0.1; done; echo noise; \\\n  \
                touch /c/noise; sleep 60\n\
             FROM {base} AS fails\n\
             {run} echo the reason >&2; touch /c/reason; \\\n  \
                until test -e /c/noise; do sleep 0.1; done; exit 7\n\
             FROM scratch\nCOPY --from=sleeps / /a\nCOPY --from=fails / /b\n",
            base = image(),
        );
        tree.write("ctx/Dockerfile", &text);
        tree
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self, below: &str) -> String {
        self.root().join(below).display().to_string()
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, content).expect("a file");
    }

    /// A service that may read it.
    pub(crate) async fn service(&self) -> Service {
        let root = self.root().to_owned();
        Service::with(|config| config.build_roots = vec![root]).await.synced().await
    }

    /// A build by the classic builder, whose steps and images can be told beforehand.
    pub(crate) fn request(&self) -> pb::BuildImageRequest {
        pb::BuildImageRequest {
            name: self.name.clone(),
            context_path: self.path("ctx"),
            builder: pb::BuilderKind::Classic.into(),
            ..Default::default()
        }
    }

    /// A build by what the service chooses.
    pub(crate) fn plain(&self) -> pb::BuildImageRequest {
        pb::BuildImageRequest { builder: pb::BuilderKind::Unspecified.into(), ..self.request() }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        docker(&["rmi", "-f", &self.name]);
    }
}

/// Files of a context that go, come as other things, grow and shrink until it is ended.
struct Mover {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Mover {
    fn start(tree: &Tree) -> Self {
        let (stop, root) = (Arc::new(AtomicBool::new(false)), tree.root().join("ctx/moving"));
        fs::create_dir(&root).expect("a folder");
        for file in 0..200 {
            fs::write(root.join(file.to_string()), vec![b'x'; 100_000]).expect("a file");
        }
        let ends = stop.clone();
        let thread = std::thread::spawn(move || {
            // Files go, come as folders and as links that lead out, grow and shrink.
            for turn in 0_usize.. {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let path = root.join((turn % 200).to_string());
                let _ = fs::remove_file(&path);
                let _ = fs::remove_dir(&path);
                match turn % 4 {
                    0 => drop(symlink("/etc/shadow", &path)),
                    1 => drop(fs::create_dir(&path)),
                    2 => drop(fs::write(&path, "short")),
                    _ => drop(fs::write(&path, vec![b'y'; 200_000])),
                }
            }
        });
        Self { stop, thread }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic");
    }
}

/// Begins a build.
pub(crate) async fn begin(
    service: &Service,
    build: pb::BuildImageRequest,
) -> Result<Streaming<pb::BuildImageStreamResponse>, Status> {
    let channel = Channel::from_shared(service.url.clone()).expect("a url").connect().await;
    let mut client = BuildServiceClient::new(channel.expect("it listens"));
    // Both requests have the same fields.
    let build = pb::BuildImageStreamRequest::decode(&*build.encode_to_vec()).expect("the same");
    let mut request = Request::new(build);
    let bearer: MetadataValue<_> = format!("Bearer {}", service.token).parse().expect("ascii");
    request.metadata_mut().insert("authorization", bearer);
    Ok(client.build_image_stream(request).await?.into_inner())
}

/// All events of a build, and how it failed.
pub(crate) async fn build(
    service: &Service,
    request: pb::BuildImageRequest,
) -> (Vec<Event>, Option<Status>) {
    let mut stream = match begin(service, request).await {
        Ok(stream) => stream,
        Err(status) => return (Vec::new(), Some(status)),
    };
    let mut events = Vec::new();
    loop {
        match stream.message().await {
            Ok(Some(message)) => events.push(message.event.expect("an event")),
            Ok(None) => return (events, None),
            Err(status) => return (events, Some(status)),
        }
    }
}

/// The image, when the build made one.
pub(crate) fn finished(told: &(Vec<Event>, Option<Status>)) -> pb::BuildImageResponse {
    match told {
        (events, None) => match events.last() {
            Some(Event::Finished(image)) => image.clone(),
            other => panic!("it ended with {other:?}"),
        },
        (events, Some(status)) => panic!("after {events:?} it failed: {status:?}"),
    }
}

pub(crate) fn count(events: &[Event], is: impl Fn(&Event) -> bool) -> usize {
    events.iter().filter(|event| is(event)).count()
}
