//! Hides the secrets of a build in what its steps print.

use std::collections::BTreeMap;

use memchr::memmem;

use super::{BuildEvent, Failure, Secret};

/// Shorter lines of a secret are not hidden: they may stand in any text.
const SHORTEST: usize = 6;
/// Most bytes of secrets that are looked for.
const MOST: usize = 256 << 10;
const HIDDEN: &[u8] = b"[redacted]";

/// Looks for the lines of secrets, also over the borders of pieces.
#[derive(Debug, Default)]
pub struct Mask {
    lines: Vec<Secret>,
    /// By step, and whether it is of standard error: what may become a secret.
    held: BTreeMap<(String, bool), Vec<u8>>,
}

impl Mask {
    /// Hides these.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let all = secrets.into_iter().flat_map(|secret| secret.0.split(|byte| *byte == b'\n'));
        let lines = all.map(<[u8]>::trim_ascii).filter(|line| line.len() >= SHORTEST);
        let mut room = MOST;
        let fits = lines.take_while(|line| {
            let fits = line.len() <= room;
            room = room.saturating_sub(line.len());
            fits
        });
        Self { lines: fits.map(|line| Secret(line.to_vec())).collect(), held: BTreeMap::new() }
    }

    /// What may be told of an event, in order.
    pub fn pass(&mut self, event: BuildEvent) -> Vec<BuildEvent> {
        if self.lines.is_empty() {
            return vec![event];
        }
        match event {
            BuildEvent::Log { vertex, stderr, data } => {
                let key = (vertex, stderr);
                let mut all = self.held.remove(&key).unwrap_or_default();
                all.extend(data);
                let (told, held) = all.split_at(all.len() - self.begun(&all));
                let data = self.hide(told);
                if !held.is_empty() {
                    self.held.insert(key.clone(), held.to_vec());
                }
                let (vertex, stderr) = key;
                let some = (!data.is_empty()).then_some(BuildEvent::Log { vertex, stderr, data });
                some.into_iter().collect()
            }
            BuildEvent::Warning(why) => vec![BuildEvent::Warning(self.text(&why))],
            other => vec![other],
        }
    }

    /// What may be told of a failure.
    pub fn failure(&self, failure: Failure) -> Failure {
        Failure { message: self.text(&failure.message), ..failure }
    }

    /// What was held back and became no secret; nothing more comes.
    pub fn rest(&mut self) -> impl Iterator<Item = BuildEvent> + use<> {
        let log = |((vertex, stderr), data)| BuildEvent::Log { vertex, stderr, data };
        std::mem::take(&mut self.held).into_iter().map(log)
    }

    fn text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.hide(text.as_bytes())).into_owned()
    }

    fn hide(&self, text: &[u8]) -> Vec<u8> {
        let found = self.lines.iter().flat_map(|line| {
            memmem::find_iter(text, &line.0).map(|begin| (begin, begin + line.0.len()))
        });
        let mut found: Vec<_> = found.collect();
        found.sort_unstable();
        let (mut told, mut to) = (Vec::with_capacity(text.len()), 0);
        for (begin, end) in found {
            // Those that overlap are hidden as one.
            if begin >= to && (begin > to || to == 0) {
                told.extend_from_slice(&text[to..begin]);
                told.extend_from_slice(HIDDEN);
            }
            to = to.max(end);
        }
        told.extend_from_slice(&text[to..]);
        told
    }

    /// How many last bytes may be the beginning of a secret.
    fn begun(&self, text: &[u8]) -> usize {
        let of = |line: &Secret| {
            let most = text.len().min(line.0.len() - 1);
            (1..=most).rev().find(|length| text.ends_with(&line.0[..*length])).unwrap_or(0)
        };
        self.lines.iter().map(of).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(vertex: &str, data: &[u8]) -> BuildEvent {
        BuildEvent::Log { vertex: vertex.into(), stderr: false, data: data.to_vec() }
    }

    fn told(events: impl IntoIterator<Item = BuildEvent>) -> String {
        let data = events.into_iter().filter_map(|event| match event {
            BuildEvent::Log { data, .. } => Some(data),
            _ => None,
        });
        String::from_utf8(data.flatten().collect()).expect("text")
    }

    #[test]
    fn a_secret_is_hidden_wherever_it_is_cut() {
        let secret = Secret(b"hunter2\nab\nsecond line\n".to_vec());
        let text = b"x hunter2hunter2 ab hunt\nsecond line.";
        let whole = "x [redacted] ab hunt\n[redacted].";
        for cut in 0..text.len() {
            let mut mask = Mask::new([&secret]);
            let mut events = mask.pass(log("a", &text[..cut]));
            events.extend(mask.pass(log("b", b"hunter")));
            events
                .retain(|event| !matches!(event, BuildEvent::Log { vertex, .. } if vertex == "b"));
            events.extend(mask.pass(log("a", &text[cut..])));
            events.extend(
                mask.rest().filter(
                    |event| !matches!(event, BuildEvent::Log { vertex, .. } if vertex == "b"),
                ),
            );
            let got = told(events);
            assert_eq!(got.replace("[redacted][redacted]", "[redacted]"), whole, "{cut}");
            assert!(!got.contains("hunter2"));
        }
    }

    #[test]
    fn what_only_begins_like_a_secret_comes_at_the_end() {
        let mut mask = Mask::new([&Secret(b"hunter2".to_vec())]);
        assert_eq!(told(mask.pass(log("a", b"the hunt"))), "the ");
        assert_eq!(told(mask.rest()), "hunt");
        assert_eq!(told(mask.rest()), "");
    }
}
