//! `info`: describe the node, its engine and the service.

use jiff::Timestamp;

use crate::rpc::pb;

use super::{Failure, Output, Session};

pub(super) async fn info(session: Session, out: Output) -> Result<(), Failure> {
    let answer = session.node().get_node(pb::GetNodeRequest {}).await?.into_inner();
    if out.json {
        return out.message("GetNodeResponse", &answer);
    }
    let node = answer.node.unwrap_or_default();
    lines(&node).iter().try_for_each(|(key, value)| out.line(format_args!("{key:<12}{value}")))
}

/// What is known, as names and values.
fn lines(node: &pb::Node) -> Vec<(&'static str, String)> {
    let mut lines = vec![("Node", node.id.clone()), ("Version", node.version.clone())];
    if let Some(url) = &node.self_url {
        lines.push(("URL", url.clone()));
    }
    if let Some(id) = &node.own_container_id {
        lines.push(("Container", id.clone()));
    }
    let running = node.containers_running;
    lines.push(("Containers", format!("{running} running, {} in all", node.containers_total)));
    if let Some(range) = &node.port_range {
        lines.push(("Ports", format!("{}-{}", range.first, range.last)));
    }
    if let Some(engine) = &node.engine {
        lines.push(("Engine", engine.address.clone()));
        if !engine.version.is_empty() {
            let version = format!("{} (API {})", engine.version, engine.api_version);
            lines.push(("  Version", version));
            lines.push(("  Platform", engine.platform.clone()));
        }
        lines.push(("  Synced", synced(engine)));
        if let Some(error) = &engine.error {
            lines.push(("  Error", error.clone()));
        }
    }
    lines
}

fn synced(engine: &pb::Engine) -> String {
    let since = engine.synced_at.as_ref().and_then(time).map(|at| format!("since {at}"));
    match (engine.synced, since) {
        (true, Some(since)) => since,
        (true, None) => "yes".to_owned(),
        (false, _) => "no".to_owned(),
    }
}

/// A time in whole seconds, as RFC 3339 writes it.
pub(super) fn time(at: &prost_types::Timestamp) -> Option<String> {
    Timestamp::from_second(at.seconds).ok().map(|at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_never_answered_has_an_error_and_no_version() {
        let engine = pb::Engine {
            address: "unix:///run/x".into(),
            error: Some("refused".into()),
            ..Default::default()
        };
        let node = pb::Node { engine: Some(engine), ..Default::default() };
        let keys: Vec<_> = lines(&node).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["Node", "Version", "Containers", "Engine", "  Synced", "  Error"]);
    }
}
