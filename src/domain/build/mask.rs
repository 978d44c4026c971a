//! Hides the secrets of a build in what its steps print.

use std::collections::BTreeMap;

use memchr::memmem;

use super::{BuildEvent, Failure, Secret, Step};

/// Shorter lines of a secret are not hidden: they may stand in any text.
const SHORTEST: usize = 6;
/// Longer ones are hidden piece by piece.
const LONGEST: usize = 4096;
/// Most lines that are looked for, the shortest first, and bytes of them.
const MOST: usize = 1000;
const MOST_BYTES: usize = 64 << 10;
const HIDDEN: &[u8] = b"[redacted]";

/// Looks for the lines of secrets, also over the borders of pieces.
#[derive(Debug, Default)]
pub struct Mask {
    lines: Vec<Secret>,
    /// By step, and whether it is of standard error.
    held: BTreeMap<(String, bool), Held>,
}

/// What may become a secret; so it is shorter than the longest of them.
#[derive(Debug, Default)]
struct Held {
    data: Vec<u8>,
    /// So many first bytes are of secrets that were told as hidden.
    hidden: usize,
}

impl Mask {
    /// Hides these.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let all = secrets.into_iter().flat_map(|secret| secret.0.split(|byte| *byte == b'\n'));
        let pieces = all.flat_map(|line| line.trim_ascii().chunks(LONGEST));
        let mut lines: Vec<_> = pieces.filter(|line| line.len() >= SHORTEST).collect();
        lines.sort_unstable_by_key(|line| (line.len(), *line));
        lines.dedup();
        let mut bytes = 0;
        let fits = lines.into_iter().take(MOST).take_while(|line| {
            bytes += line.len();
            bytes <= MOST_BYTES
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
                let Held { data: mut all, hidden } = self.held.remove(&key).unwrap_or_default();
                all.extend(data);
                let to = all.len() - self.begun(&all);
                let (data, end) = hide(&all[..to], hidden, &self.found(&all));
                if to < all.len() {
                    // A secret may end with what another begins with.
                    let held = Held { data: all.split_off(to), hidden: end.saturating_sub(to) };
                    self.held.insert(key.clone(), held);
                }
                let (vertex, stderr) = key;
                let some = (!data.is_empty()).then_some(BuildEvent::Log { vertex, stderr, data });
                some.into_iter().collect()
            }
            BuildEvent::Warning(why) => vec![BuildEvent::Warning(self.text(&why))],
            BuildEvent::Step(step) => vec![BuildEvent::Step(self.step(step))],
            BuildEvent::Progress { id, status, current, total } => {
                let (id, status) = (self.text(&id), self.text(&status));
                vec![BuildEvent::Progress { id, status, current, total }]
            }
            BuildEvent::Failed(failure) => vec![BuildEvent::Failed(self.failure(failure))],
            other @ (BuildEvent::Started(_)
            | BuildEvent::Cached { .. }
            | BuildEvent::Finished(_)) => vec![other],
        }
    }

    /// What may be told of a failure.
    pub fn failure(&self, failure: Failure) -> Failure {
        let (message, step) = (self.text(&failure.message), failure.step);
        Failure { message, step: step.map(|step| self.step(step)), ..failure }
    }

    fn step(&self, step: Step) -> Step {
        Step { name: self.text(&step.name), ..step }
    }

    /// What may be told of what was held back; nothing more comes.
    pub fn rest(&mut self) -> Vec<BuildEvent> {
        let held = std::mem::take(&mut self.held).into_iter();
        let told = held.map(|((vertex, stderr), Held { data, hidden })| BuildEvent::Log {
            vertex,
            stderr,
            data: hide(&data, hidden, &self.found(&data)).0,
        });
        told.filter(|event| !matches!(event, BuildEvent::Log { data, .. } if data.is_empty()))
            .collect()
    }

    fn text(&self, text: &str) -> String {
        let told = hide(text.as_bytes(), 0, &self.found(text.as_bytes())).0;
        String::from_utf8_lossy(&told).into_owned()
    }

    /// Where secrets stand, from their beginnings to their ends.
    fn found(&self, text: &[u8]) -> Vec<(usize, usize)> {
        let of = |line: &Secret| {
            let length = line.0.len();
            memmem::find_iter(text, &line.0).map(move |begin| (begin, begin + length)).collect()
        };
        let mut found: Vec<_> = self.lines.iter().flat_map(|line| -> Vec<_> { of(line) }).collect();
        found.sort_unstable();
        found
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

/// The text without the secrets that begin in it, in order, and where the last of them
/// ends. So many bytes at its beginning were told as hidden.
fn hide(text: &[u8], hidden: usize, found: &[(usize, usize)]) -> (Vec<u8>, usize) {
    let (mut told, mut to, mut begun) = (Vec::with_capacity(text.len()), hidden, hidden > 0);
    for &(begin, end) in found.iter().take_while(|(begin, _)| *begin < text.len()) {
        // Those that overlap, or follow at once, are hidden as one.
        if begin > to || !begun {
            told.extend_from_slice(&text[to..begin]);
            told.extend_from_slice(HIDDEN);
        }
        (to, begun) = (to.max(end), true);
    }
    told.extend_from_slice(text.get(to..).unwrap_or_default());
    (told, to)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
                mask.rest().into_iter().filter(
                    |event| !matches!(event, BuildEvent::Log { vertex, .. } if vertex == "b"),
                ),
            );
            let got = told(events);
            assert_eq!(got.replace("[redacted][redacted]", "[redacted]"), whole, "{cut}");
            assert!(!got.contains("hunter2"));
        }
    }

    #[test]
    fn a_secret_that_ends_as_another_begins_is_hidden() {
        for (secrets, text) in [
            (&["abc123a"][..], "abc123a"),
            (&["\"tok-123\""], "\"tok-123\""),
            (&["hunter2", "2fast4u"], "hunter2"),
            (&["hunter2", "2fast4u"], "hunter2fast4u"),
            (&["hunter2-more", "hunter2"], "hunter2"),
            (&["hunter2-more", "hunter2"], "hunter2-more"),
            (&["aaaaaaa"], "aaaaaaaaaaaaaaa"),
        ] {
            let secrets: Vec<_> = secrets.iter().map(|it| Secret(it.as_bytes().to_vec())).collect();
            for cut in 0..=text.len() {
                let mut mask = Mask::new(&secrets);
                let mut events = mask.pass(log("a", &text.as_bytes()[..cut]));
                events.extend(mask.pass(log("a", &text.as_bytes()[cut..])));
                events.extend(mask.rest());
                let got = told(events);
                for secret in &secrets {
                    let secret = String::from_utf8_lossy(&secret.0);
                    assert!(!got.contains(&*secret), "{text} cut at {cut}: {got}");
                }
                assert!(got.starts_with("[redacted]"), "{text} cut at {cut}: {got}");
            }
        }
    }

    #[test]
    fn a_long_secret_leaves_no_short_one_in_sight() {
        let secrets = [Secret(vec![b'x'; 300 << 10]), Secret(b"hunter2".to_vec())];
        let mut mask = Mask::new(&secrets);
        let mut events = mask.pass(log("a", b"it is hunter2"));
        events.extend(mask.rest());
        assert_eq!(told(events), "it is [redacted]");
    }

    #[test]
    fn what_only_begins_like_a_secret_comes_at_the_end() {
        let mut mask = Mask::new([&Secret(b"hunter2".to_vec())]);
        assert_eq!(told(mask.pass(log("a", b"the hunt"))), "the ");
        assert_eq!(told(mask.rest()), "hunt");
        assert_eq!(told(mask.rest()), "");
    }

    #[test]
    fn secrets_that_overlap_without_end_hold_nothing_back() {
        let secrets = [Secret(b"ababab".to_vec()), Secret(b"bababa".to_vec())];
        let mut mask = Mask::new(&secrets);
        let mut events = mask.pass(log("a", b"it is "));
        for _ in 0..10_000 {
            events.extend(mask.pass(log("a", b"ababa")));
            events.extend(mask.pass(log("a", b"b")));
            assert!(mask.held.values().all(|held| held.data.len() < 6));
        }
        events.extend(mask.pass(log("a", b"!")));
        events.extend(mask.rest());
        assert_eq!(told(events), "it is [redacted]!");
    }

    #[test]
    fn steps_progress_and_failures_tell_no_secret() {
        let mut mask = Mask::new([&Secret(b"hunter2".to_vec())]);
        let text = "RUN echo hunter2".to_owned();
        let step = Step { name: text.clone(), vertex: "a".into(), ..Step::default() };
        let failure = Failure { message: text.clone(), step: Some(step.clone()), exit_code: None };
        for event in [
            BuildEvent::Step(step),
            BuildEvent::Progress { id: text.clone(), status: text.clone(), current: 1, total: 2 },
            BuildEvent::Warning(text),
            BuildEvent::Failed(failure.clone()),
            BuildEvent::Failed(mask.failure(failure)),
        ] {
            let told = format!("{:?}", mask.pass(event));
            assert!(!told.contains("hunter2") && told.contains("echo [redacted]"), "{told}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn fuzz_no_secret_is_told_and_all_else_is(
            secrets in prop::collection::vec("[ab]{6,9}", 1..4),
            pieces in prop::collection::vec("[ab]{0,9}|[abc]{0,4}", 0..20),
        ) {
            let all: Vec<_> = secrets.iter().map(|it| Secret(it.clone().into_bytes())).collect();
            let mut mask = Mask::new(&all);
            let mut events = Vec::new();
            for piece in &pieces {
                events.extend(mask.pass(log("a", piece.as_bytes())));
            }
            events.extend(mask.rest());
            let (got, text) = (told(events), pieces.concat());
            for part in got.split("[redacted]") {
                prop_assert!(secrets.iter().all(|secret| !part.contains(secret)), "{}", got);
                prop_assert!(text.contains(part), "{}", got);
            }
            if secrets.iter().all(|secret| !text.contains(secret)) {
                prop_assert_eq!(got, text);
            }
        }
    }
}
