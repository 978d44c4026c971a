//! The program is killed between every two steps of a removal, of what takes old assets
//! away, and of a restart: nothing is left half done, and each is told once.

use super::{
    failpoints::{Cutting, Left},
    steps::{Steps, described, files, paths, told},
    *,
};
use crate::assets::{lenient, source::Source};

/// Everything that a run makes, and how it is removed.
fn removals(name: &str, source: &Source) -> [String; 3] {
    [
        format!("/container-svc/container?name={name}&force=true"),
        format!("/container-svc/keep?name={name}&path=/data"),
        format!("/container-svc/asset?url={}", source.url(&format!("/{name}"))),
    ]
}

/// Removes all of it, until a call is not answered well.
async fn remove(service: &Service, name: &str, source: &Source) {
    for path in removals(name, source) {
        if service.rest("DELETE", &path, "").await.0 != 200 {
            return;
        }
    }
}

/// A call of its own, that needs no service to be there.
fn asking(
    service: &Service,
    method: &'static str,
    path: &str,
) -> impl Fn(&str) -> tokio::process::Command + use<> {
    let bearer = format!("Authorization: Bearer {}", service.token);
    let url = format!("{}{path}", service.url);
    move |body| {
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-s", "-f", "--max-time", "60", "-X", method, "-H", &bearer, "-d", body, &url]);
        curl
    }
}

/// After a retry nothing is left, and each thing went once.
async fn all_is_gone(service: &Service, name: &str, source: &Source, what: &str) {
    for path in removals(name, source) {
        let (status, body) = service.rest("DELETE", &path, "").await;
        assert!(matches!(status, 200 | 404), "{what}: {path}: {body}");
    }
    let nothing = Left { containers: [].into(), volumes: 0 };
    assert_eq!(Left::of(service), nothing, "{what}");
    no_asset(service, what).await;
    for (kind, of) in [
        ("EVENT_KIND_REMOVED", name),
        ("EVENT_KIND_KEEP_REMOVED", name),
        ("EVENT_KIND_ASSET_REMOVED", &format!("/{name}")),
    ] {
        eventually(&format!("{kind} is told, {what}"), || async {
            told(service, kind, of).await > 0
        })
        .await;
        assert_eq!(told(service, kind, of).await, 1, "{kind} {what}");
    }
}

async fn no_asset(service: &Service, what: &str) {
    let (_, listed) = service.get("/container-svc/assets").await;
    assert_eq!(listed["assets"].as_array().map_or(0, Vec::len), 0, "{what}: {listed}");
    assert_eq!((files(service, "files").len(), files(service, "parts").len()), (0, 0), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_any_step_of_removals_on_the_disk_a_retry_ends_them() {
    let kills = Steps::build();
    let source = paths().await;
    let mut service = Service::program_in(kills.environment(), lenient).await.synced().await;
    for step in 1.. {
        let (name, what) = (unique("goes"), format!("before step {step}"));
        run(&service, described(&service, &name, &source)).await;
        kills.kill_at(step);
        remove(&service, &name, &source).await;
        let cut = kills.pass();
        if cut {
            service.kill();
            service.resume().await;
            service = service.synced().await;
        }
        all_is_gone(&service, &name, &source, &what).await;
        if !cut {
            assert!(step > 5, "two records, two files and their place: {step}");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_of_removals_on_the_engine_a_retry_ends_them() {
    let mut cutting = Cutting::with(lenient).await;
    let source = paths().await;
    for (step, done) in (1..).flat_map(|step| [(step, false), (step, true)]) {
        let (name, what) = (unique("goes"), format!("at step {step}, done: {done}"));
        run(&cutting.service, described(&cutting.service, &name, &source)).await;
        let calls = removals(&name, &source).map(|path| asking(&cutting.service, "DELETE", &path));
        let work = async move {
            for call in calls {
                if !call("").output().await.expect("curl").status.success() {
                    return;
                }
            }
        };
        let cut = cutting.kill_at(step, done, work).await;
        all_is_gone(&cutting.service, &name, &source, &what).await;
        if !cut {
            assert!(step > 3, "a stop, a container, a volume: {step}");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_any_step_that_takes_an_old_asset_away_the_next_look_ends_it() {
    let kills = Steps::build();
    let source = paths().await;
    let change = |config: &mut container_svc::config::Config| {
        lenient(config);
        config.asset_max_age = Duration::from_secs(3);
    };
    let mut service = Service::program_in(kills.environment(), change).await.synced().await;
    for step in 1.. {
        let (name, what) = (unique("old"), format!("before step {step}"));
        run(&service, described(&service, &name, &source)).await;
        for path in &removals(&name, &source)[..2] {
            assert_eq!(service.rest("DELETE", path, "").await.0, 200, "{what}: {path}");
        }
        let of = format!("/{name}");
        kills.kill_at(step);
        eventually(&format!("it goes, or the program does, {what}"), || async {
            kills.met() || told(&service, "EVENT_KIND_ASSET_REMOVED", &of).await > 0
        })
        .await;
        let cut = kills.pass();
        if cut {
            service.kill();
            service.resume().await;
            service = service.synced().await;
        }
        eventually(&format!("it is told, {what}"), || async {
            told(&service, "EVENT_KIND_ASSET_REMOVED", &of).await > 0
        })
        .await;
        assert_eq!(told(&service, "EVENT_KIND_ASSET_REMOVED", &of).await, 1, "{what}");
        no_asset(&service, &what).await;
        if !cut {
            assert!(step > 3, "two files, their place, the row: {step}");
            break;
        }
    }
}

/// One that crashes once, when it is told to.
fn crashes(service: &Service, name: &str) -> pb::RunContainerRequest {
    let script = "until rm /crash 2>/dev/null; do sleep 0.1; done; exit 3";
    let millis = |millis| Duration::from_millis(millis).try_into().ok();
    pb::RunContainerRequest {
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        restart: Some(pb::RestartOptions {
            min_backoff: millis(100),
            max_backoff: millis(100),
            max_restarts: Some(10),
            ..Default::default()
        }),
        ..service.request(name)
    }
}

/// It runs again, and that was told; a kill between the start and writing it down may
/// cost the word of it.
async fn it_came_back(service: &Service, name: &str, before: &str, cut: bool, what: &str) {
    eventually(&format!("it runs again, {what}"), || async { came_back(name, before) }).await;
    eventually(&format!("it is watched, {what}"), || async {
        let (_, body) = named(service, name).await;
        body["container"]["restart"]["state"] == "RESTART_STATE_WATCHING"
    })
    .await;
    let least = usize::from(!cut);
    for kind in ["EVENT_KIND_DIED", "EVENT_KIND_BACKING_OFF", "EVENT_KIND_RESTARTED"] {
        let times = told(service, kind, name).await;
        assert!((least..=1).contains(&times), "{kind} {times} times, {what}");
    }
}

fn came_back(name: &str, before: &str) -> bool {
    let now = docker(&["inspect", "-f", "{{.State.Running}} {{.State.StartedAt}}", name]);
    now.strip_prefix("true ").is_some_and(|started| started != before)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_any_step_of_a_restart_on_the_disk_it_comes_back() {
    let kills = Steps::build();
    let mut service = Service::program_in(kills.environment(), |_| {}).await.synced().await;
    for step in 1.. {
        let (name, what) = (unique("back"), format!("before step {step}"));
        run(&service, crashes(&service, &name)).await;
        let before = docker(&["inspect", "-f", "{{.State.StartedAt}}", &name]);
        kills.kill_at(step);
        docker(&["exec", &name, "touch", "/crash"]);
        eventually(&format!("it is restarted, or the program is gone, {what}"), || async {
            kills.met() || told(&service, "EVENT_KIND_RESTARTED", &name).await > 0
        })
        .await;
        let cut = kills.pass();
        if cut {
            service.kill();
            service.resume().await;
            service = service.synced().await;
        }
        it_came_back(&service, &name, &before, cut, &what).await;
        if !cut {
            assert!(step > 2, "its end, its wait, its start: {step}");
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_of_a_restart_on_the_engine_it_comes_back() {
    let mut cutting = Cutting::with(|_| {}).await;
    for (step, done) in (1..).flat_map(|step| [(step, false), (step, true)]) {
        let (name, what) = (unique("back"), format!("at step {step}, done: {done}"));
        run(&cutting.service, crashes(&cutting.service, &name)).await;
        let before = docker(&["inspect", "-f", "{{.State.StartedAt}}", &name]);
        let ask = asking(&cutting.service, "POST", "/container-svc/events");
        let work = {
            let name = name.clone();
            async move {
                docker(&["exec", &name, "touch", "/crash"]);
                let wanted = r#"{"kinds":["EVENT_KIND_RESTARTED"],"pageSize":1000}"#;
                eventually("it is told", || async {
                    ask(wanted)
                        .output()
                        .await
                        .is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains(&name))
                })
                .await;
            }
        };
        let cut = cutting.kill_at(step, done, work).await;
        it_came_back(&cutting.service, &name, &before, cut, &what).await;
        if !cut {
            assert!(step > 1, "its start: {step}");
            break;
        }
    }
}
