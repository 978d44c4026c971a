//! `/metrics`: well formed, true, and guarded as the other pages about the service.

use std::collections::BTreeMap;

use crate::{
    proxy::{Mode, Proxy},
    support::{Service, docker, eventually, image, unique},
};

/// Figures by name and labels as they are written.
type Figures = BTreeMap<String, f64>;

/// Reads the text as its format says and panics where it is not well formed.
fn parse(text: &str) -> Figures {
    let (mut help, mut kinds, mut figures) = (Vec::new(), BTreeMap::new(), Figures::new());
    assert!(text.ends_with('\n'), "the last line ends: {text:?}");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, words) = rest.split_once(' ').expect("a name and words");
            assert!(words.ends_with('.') && !help.contains(&name), "{line}");
            help.push(name);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a kind");
            assert!(["gauge", "counter"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert_eq!(help.last(), Some(&name), "the help comes first: {line}");
            assert_eq!(kinds.insert(name, kind), None, "twice: {line}");
        } else {
            let (key, value) = line.rsplit_once(' ').expect("a key and a value");
            let (name, labels) = key.split_once('{').unwrap_or((key, "}"));
            assert!(word(name) && help.last() == Some(&name), "under its own heading: {line}");
            assert!(kinds.contains_key(name), "has a type: {line}");
            labelled(labels);
            let value: f64 = value.parse().expect("a number");
            assert!(value.is_finite() && value >= 0.0, "{line}");
            assert_eq!(figures.insert(key.to_owned(), value), None, "twice: {line}");
        }
    }
    figures
}

fn word(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.chars().all(fits) && text.starts_with(|c: char| c.is_ascii_alphabetic())
}

/// `key="value",…}` to its end.
fn labelled(text: &str) {
    let mut rest = text;
    while rest != "}" {
        let (key, value) = rest.split_once("=\"").expect("a label");
        assert!(word(key), "{text}");
        let mut escaped = false;
        let end = value.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let after = &value[end.expect("the value ends") + 1..];
        rest = after.strip_prefix(',').unwrap_or(after);
    }
}

async fn figures(service: &Service) -> Figures {
    let (status, head, body) = service.raw("GET", "/metrics", "", &[]).await;
    assert_eq!(status, 200, "{body}");
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    parse(&body)
}

fn containers(figures: &Figures, state: &str, managed: bool) -> f64 {
    figures[&format!("container_svc_containers{{state=\"{state}\",managed=\"{managed}\"}}")]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_figures_are_well_formed_and_true() {
    let service = Service::start().await.synced().await;
    let mut client = service.grpc().await;
    let (runs, ends) = (unique("runs"), unique("ends"));
    client.run_container(service.request(&runs)).await.expect("runs");
    let mut request = service.request(&ends);
    request.command = vec!["true".into()];
    client.run_container(request).await.expect("runs");
    let foreign = unique("foreign");
    // The engine removes it even when this test fails.
    let id = docker(&["run", "-d", "--rm", "--name", &foreign, image(), "sleep", "60"]);
    eventually("the containers are counted", || async {
        let now = figures(&service).await;
        containers(&now, "exited", true) == 1.0
            && containers(&now, "running", true) == 1.0
            && containers(&now, "running", false) >= 1.0
    })
    .await;
    docker(&["rm", "-f", &id]);

    let now = figures(&service).await;
    assert_eq!(containers(&now, "paused", true), 0.0, "what is not there is told as 0");
    assert_eq!(now["container_svc_view_synced"], 1.0);
    assert_eq!(now["container_svc_view_age_seconds"], 0.0);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(now[&format!("container_svc_build_info{{version=\"{version}\"}}")], 1.0);
    let open = std::fs::read_dir("/proc/self/fd").expect("our own files").count();
    let told = now["process_open_fds"];
    assert!(told >= 3.0 && told < 2.0 * open as f64 + 100.0, "{told} of about {open}");
    assert!(now["process_resident_memory_bytes"] > 1e6);
    let since_1970 = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970");
    assert!((since_1970.as_secs_f64() - now["process_start_time_seconds"]).abs() < 3_600.0);
    assert!(now.contains_key("process_cpu_seconds_total"));
    eventually("the engine is asked", || async {
        figures(&service).await["container_svc_engine_reachable"] == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_gone_is_seen_in_the_figures() {
    let proxy = Proxy::start();
    let service = Service::with(|config| config.engine = proxy.address()).await.synced().await;
    proxy.set(Mode::Refuse);
    eventually("the loss is told, and how old the view is", || async {
        let now = figures(&service).await;
        now["container_svc_engine_reachable"] == 0.0
            && now["container_svc_view_synced"] == 0.0
            && now["container_svc_view_age_seconds"] > 0.5
    })
    .await;
    proxy.set(Mode::Pass);
    eventually("the return is told", || async {
        let now = figures(&service).await;
        now["container_svc_engine_reachable"] == 1.0 && now["container_svc_view_age_seconds"] == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_method_than_get_is_answered_as_everywhere() {
    let service = Service::start().await;
    let (status, body) = service.rest("POST", "/metrics", "{}").await;
    assert_eq!((status, body["code"].as_i64()), (404, Some(5)), "{body}");
}
