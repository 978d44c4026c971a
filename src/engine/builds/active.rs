//! What BuildKit is at, and whether that moves.
//!
//! It tells how far a layer is ten times a second, also when nothing came of it. So
//! what it repeats is no news, but for unpacking, of which it counts nothing.

use std::collections::HashMap;

use super::fetches;

/// Most vertices that go on at once, and most statuses of one, that are told apart.
const MOST: usize = 10_000;

/// Vertices that began and did not end, the longest first.
#[derive(Default)]
pub(super) struct Active(Vec<Working>);

struct Working {
    vertex: String,
    /// Brings an image, and does nothing else.
    fetches: bool,
    /// How far each status is, and whether it ended.
    statuses: HashMap<String, (i64, bool)>,
}

impl Active {
    /// A vertex, by its digest, goes on or does not; true when that is news.
    pub(super) fn vertex(&mut self, vertex: &str, name: &str, goes_on: bool) -> bool {
        let at = self.0.iter().position(|working| working.vertex == vertex);
        match (at, goes_on) {
            (None, true) if self.0.len() < MOST => self.0.push(Working {
                vertex: vertex.to_owned(),
                fetches: fetches(name),
                statuses: HashMap::new(),
            }),
            (Some(at), false) => drop(self.0.remove(at)),
            _ => return false,
        }
        true
    }

    /// A status of a vertex is told; true when it moved.
    pub(super) fn status(&mut self, vertex: &str, id: &str, current: i64, ended: bool) -> bool {
        let working = self.0.iter_mut().find(|working| working.vertex == vertex);
        let Some(Working { statuses, .. }) = working else { return true };
        if statuses.len() >= MOST && !statuses.contains_key(id) {
            return true;
        }
        let before = statuses.insert(id.to_owned(), (current, ended));
        before != Some((current, ended)) || (id.starts_with("extracting ") && !ended)
    }

    /// The vertex that fetches an image for the longest time, when no vertex does
    /// anything else; and whether layers are under way.
    pub(super) fn fetch(&self) -> Option<(&str, bool)> {
        let first = self.0.first().filter(|_| self.0.len() < MOST)?;
        let layers =
            |working: &Working| working.statuses.keys().any(|id| !id.starts_with("resolve "));
        let only = self.0.iter().all(|working| working.fetches);
        only.then(|| (first.vertex.as_str(), self.0.iter().any(layers)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn began(names: &[&str]) -> Active {
        let mut active = Active::default();
        for name in names {
            assert!(active.vertex(name, name, true), "it began");
        }
        active
    }

    #[test]
    fn a_build_fetches_when_nothing_else_goes_on() {
        for name in [
            "FROM a:1@sha256:00",
            "load metadata for a:1",
            "resolve image config for a:1",
            "docker-image://a:1@sha256:00",
            "importing cache manifest from a:1",
        ] {
            let mut active = began(&[name]);
            assert_eq!(active.fetch(), Some((name, false)));
            active.vertex("RUN x", "RUN x", true);
            assert_eq!(active.fetch(), None, "a step runs beside it");
            active.vertex("RUN x", "RUN x", false);
            assert_eq!(active.fetch(), Some((name, false)), "it ended");
            assert!(active.vertex(name, name, false));
            assert_eq!(active.fetch(), None, "nothing goes on");
        }
        assert_eq!(began(&["load build context", "FROM a"]).fetch(), None);
        assert_eq!(began(&["FROM b", "FROM a"]).fetch(), Some(("FROM b", false)), "the longest");
    }

    #[test]
    fn only_news_of_a_vertex_and_changes_of_a_status_are_movement() {
        let mut active = began(&["FROM a"]);
        assert!(!active.vertex("FROM a", "FROM a", true) && !active.vertex("b", "b", false));
        let mut told = |id: &str, current, ended| active.status("FROM a", id, current, ended);
        assert!(told("layer", 0, false) && !told("layer", 0, false), "no byte came");
        assert!(told("layer", 1, false) && !told("layer", 1, false));
        assert!(told("layer", 1, true) && !told("layer", 1, true));
        assert!(told("extracting layer", 0, false) && told("extracting layer", 0, false));
        assert!(told("extracting layer", 0, true) && !told("extracting layer", 0, true));
        assert!(active.status("unknown", "layer", 1, true), "of a vertex that ended");
    }

    #[test]
    fn layers_under_way_are_more_than_a_name_that_is_looked_up() {
        let mut active = began(&["FROM a", "FROM b"]);
        active.status("FROM b", "resolve b", 0, false);
        assert_eq!(active.fetch(), Some(("FROM a", false)));
        active.status("FROM b", "sha256:00", 0, false);
        assert_eq!(active.fetch(), Some(("FROM a", true)));
        active.vertex("FROM b", "FROM b", false);
        active.vertex("FROM b", "FROM b", true);
        assert_eq!(active.fetch(), Some(("FROM a", false)), "it began anew");
    }
}
