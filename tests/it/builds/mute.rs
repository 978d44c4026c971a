//! Builds whose registries say nothing any more end, and those that only take long do not.

use std::time::{Duration, Instant};

use container_svc::{config::Config, rpc::pb};
use pb::{BuilderKind, build_image_stream_response::Event};
use serde_json::json;
use tonic::{Code, Status};

use super::{Tree, build, count, finished};
use crate::{
    registry::{
        Registry,
        fault_proxy::{Fault, FaultProxy},
    },
    support::{Service, docker, image, unique},
};

const BOTH: [BuilderKind; 2] = [BuilderKind::Classic, BuilderKind::Buildkit];
const BLOBS: &str = "/blobs/";
const MANIFESTS: &str = "/manifests/";
/// How long nothing may come, where a build shall end for that.
const PATIENCE: Duration = Duration::from_secs(2);
/// Where one shall not: an engine that is busy says nothing for a while.
const LONGER: Duration = Duration::from_secs(6);
/// Most builds at once.
const PLACES: usize = 16;

/// A registry that can go mute, a folder, and a service that builds from it.
struct Stage {
    registry: Registry,
    proxy: FaultProxy,
    tree: Tree,
    service: Service,
    /// One that waits as long as it takes.
    patient: Service,
}

impl Stage {
    async fn set(patience: Duration) -> Self {
        let registry = Registry::start(false).await;
        let proxy = FaultProxy::before(&registry.host).await;
        let tree = Tree::new("", &[]);
        let with = async |patience| {
            let (nobody, root) = (registry.config_of("nobody"), tree.root().to_owned());
            let service = Service::with(|config: &mut Config| {
                config.docker_config = Some(nobody);
                config.build_roots = vec![root];
                config.pull_stall_timeout = patience;
            });
            service.await.synced().await
        };
        let (service, patient) = (with(patience).await, with(Duration::from_secs(300)).await);
        Self { registry, proxy, tree, service, patient }
    }

    /// A further image, which the node has not; by the name that it has at the proxy.
    fn image(&self) -> String {
        self.proxy.name(&self.registry.push(&unique("mute")))
    }

    fn request(&self, builder: BuilderKind, dockerfile: &str) -> pb::BuildImageRequest {
        self.tree.write("ctx/Dockerfile", dockerfile);
        pb::BuildImageRequest { builder: builder.into(), ..self.tree.request() }
    }

    async fn build(&self, builder: BuilderKind, dockerfile: &str) -> (Vec<Event>, Option<Status>) {
        build(&self.service, self.request(builder, dockerfile)).await
    }

    /// A build that ends well, however long nothing comes.
    async fn succeeds(&self, builder: BuilderKind, dockerfile: &str) {
        finished(&build(&self.patient, self.request(builder, dockerfile)).await);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let mine = format!("reference={}/**", self.proxy.host);
        let found = docker(&["images", "--filter", &mine, "--format", "{{.Repository}}:{{.Tag}}"]);
        for name in found.lines() {
            docker(&["rmi", "-f", name]);
        }
    }
}

/// It ended because nothing came, and names the step, the image and how long.
fn is_stalled(told: &(Vec<Event>, Option<Status>), image: &str, patience: Duration) {
    let (events, Some(status)) = told else { panic!("it ended well: {told:?}") };
    assert_eq!(status.code(), Code::Unavailable, "{status:?} after {events:?}");
    let nothing = format!("nothing came from its registry for {} s", patience.as_secs());
    for word in [image, &nothing, "build again"] {
        assert!(status.message().contains(word), "{word}: {status:?} after {events:?}");
    }
    let Some(Event::Failed(failed)) = events.last() else { panic!("{events:?}") };
    assert!(failed.step.as_ref().is_some_and(|step| step.name.contains(image)), "{failed:?}");
    assert!(failed.message.contains(&nothing), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_ends_when_the_registry_of_any_of_its_images_is_mute() {
    let stage = Stage::set(PATIENCE).await;
    let (base, mute) = (image(), stage.image());
    let from = format!("FROM {mute}\nRUN true\n");
    let copied = format!("FROM {base}\nRUN true\nCOPY --from={mute} /noise /x\n");
    let frontend = format!("# syntax={mute}\nFROM {base}\n");
    stage.proxy.set(MANIFESTS, Fault::Mute, usize::MAX);
    for (builder, dockerfile) in [
        (BuilderKind::Classic, &from),
        (BuilderKind::Buildkit, &from),
        (BuilderKind::Classic, &copied),
        (BuilderKind::Buildkit, &copied),
        (BuilderKind::Buildkit, &frontend),
    ] {
        let began = Instant::now();
        is_stalled(&stage.build(builder, dockerfile).await, &mute, PATIENCE);
        assert!(began.elapsed() >= PATIENCE, "{builder:?}: {:?}", began.elapsed());
    }
    stage.tree.write("ctx/Dockerfile", &from);
    let body = json!({
        "name": stage.tree.name(), "contextPath": stage.tree.path("ctx"),
        "builder": "BUILDER_KIND_CLASSIC",
    });
    let (status, told) = stage.service.rest("PUT", "/container-svc/image", &body.to_string()).await;
    let reason = (status, &told["details"][0]["reason"], &told["details"][0]["metadata"]["line"]);
    assert_eq!(reason, (503, &"PULL_STALLED".into(), &"1".into()), "{told}");

    stage.proxy.pass();
    for builder in BOTH {
        for dockerfile in [&from, &copied] {
            stage.succeeds(builder, dockerfile).await;
        }
        docker(&["rmi", "-f", &mute]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_that_end_so_give_their_places_back() {
    let patience = LONGER * 2;
    let stage = Stage::set(patience).await;
    let (mute, base) = (stage.image(), image());
    stage.proxy.set(MANIFESTS, Fault::Mute, usize::MAX);
    let at_once = async |request: pb::BuildImageRequest| {
        let builds = (0..PLACES).map(|_| build(&stage.service, request.clone()));
        futures_util::future::join_all(builds).await
    };
    for builder in BOTH {
        for told in at_once(stage.request(builder, &format!("FROM {mute}\n"))).await {
            is_stalled(&told, &mute, patience);
        }
        // All places at once are free again, though the registry is as mute as before.
        for told in at_once(stage.request(builder, &format!("FROM {base}\n"))).await {
            finished(&told);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_of_which_no_more_comes_ends_the_build_and_the_next_one_gets_it() {
    let stage = Stage::set(PATIENCE).await;
    // BuildKit tells of a layer each mebibyte, and is given more time for one.
    for (builder, patience) in BOTH.into_iter().zip([PATIENCE, PATIENCE * 10]) {
        let mute = stage.image();
        let dockerfile = format!("FROM {mute}\nRUN true\n");
        stage.proxy.set(BLOBS, Fault::StallLayer, usize::MAX);
        is_stalled(&stage.build(builder, &dockerfile).await, &mute, patience);
        stage.proxy.pass();
        stage.succeeds(builder, &dockerfile).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_comes_slowly_is_waited_for() {
    let stage = Stage::set(LONGER).await;
    for builder in BOTH {
        let slow = stage.image();
        let piece = LONGER / 6;
        stage.proxy.set(BLOBS, Fault::SlowLayer(piece), usize::MAX);
        let began = Instant::now();
        finished(&stage.build(builder, &format!("FROM {slow}\n")).await);
        assert!(began.elapsed() >= piece * 9, "{builder:?}: {:?}", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_prints_nothing_for_long_is_never_ended_by_this() {
    let stage = Stage::set(LONGER).await;
    let (base, mute, slept) = (image(), stage.image(), unique("slept"));
    let longer = LONGER.as_secs() + 2;
    // Those that a base image has for who builds on it run while FROM does.
    let triggers = Tree::new(&format!("ONBUILD RUN sleep {longer}\n"), &[]);
    let service = triggers.service().await;
    finished(&build(&service, triggers.request()).await);
    stage.proxy.set(MANIFESTS, Fault::Mute, usize::MAX);
    for builder in BOTH {
        let dockerfile = format!("FROM {base}\nRUN sleep {longer} # {}\n", unique("quiet"));
        finished(&stage.build(builder, &dockerfile).await);
        let request = stage.request(builder, &format!("FROM {}\n", triggers.name()));
        let request = pb::BuildImageRequest { no_cache: true, ..request };
        finished(&build(&stage.service, request).await);

        // Nor while an image is waited for beside it, which ends the build afterwards.
        let dockerfile = format!(
            "FROM {base}\nRUN sleep {longer}; echo {slept}-{builder:?}\nCOPY --from={mute} /noise /\n"
        );
        let told = stage.build(builder, &dockerfile).await;
        is_stalled(&told, &mute, LONGER);
        let ended = |event: &Event| matches!(event, Event::Log(log) if String::from_utf8_lossy(&log.data).contains(&slept));
        assert_eq!(count(&told.0, ended), 1, "{builder:?}: {told:?}");
    }
}

/// BuildKit would wait for it for ever, with all builds of the node.
#[tokio::test(flavor = "multi_thread")]
async fn a_mute_registry_of_layers_to_take_ends_the_build_before_buildkit_asks_it() {
    let stage = Stage::set(PATIENCE).await;
    let (base, mute) = (image(), stage.image());
    let mine = stage.request(BuilderKind::Buildkit, &format!("FROM {base}\nRUN true\n"));
    let from = pb::BuildImageRequest { cache_from: vec![mute.clone()], ..mine.clone() };
    stage.proxy.set(MANIFESTS, Fault::Mute, usize::MAX);
    is_stalled(&build(&stage.service, from.clone()).await, &mute, PATIENCE);
    assert_eq!(stage.proxy.seen(MANIFESTS, false), 1, "the engine asks it too");
    finished(&build(&stage.patient, mine).await);
    // One that says no is left to the engine, which builds without.
    stage.proxy.set(MANIFESTS, Fault::Answer(404, ""), usize::MAX);
    finished(&build(&stage.patient, from).await);
}
