//! BuildKit's own telling of a build, read as events.
//!
//! Its messages are those of `moby.buildkit.v1`; the fields that are not needed are
//! left out, which protobuf allows.

use std::collections::{HashMap, VecDeque};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::Message as _;

use super::{Fetch, Next, active::Active, bounded};
use crate::{
    domain::{
        build::{BuildEvent, Failure, Step},
        dockerfile::{Instruction, Stages},
    },
    engine::lines::Message,
};

/// What the engine calls these messages.
const TRACE: &str = "moby.buildkit.trace";
/// Most steps that are told apart.
const MOST: usize = 10_000;
/// Most steps whose failure is remembered; the images of layers are fewer.
const MOST_FAILED: usize = 512;
/// Bytes at the end of an error by which it is known again.
const LONGEST_END: usize = 512;

/// A change of the graph of steps.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Status {
    #[prost(message, repeated, tag = "1")]
    vertexes: Vec<Vertex>,
    #[prost(message, repeated, tag = "2")]
    statuses: Vec<VertexStatus>,
    #[prost(message, repeated, tag = "3")]
    logs: Vec<VertexLog>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Vertex {
    #[prost(string, tag = "1")]
    digest: String,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(bool, tag = "4")]
    cached: bool,
    #[prost(message, optional, tag = "5")]
    started: Option<prost_types::Timestamp>,
    #[prost(message, optional, tag = "6")]
    completed: Option<prost_types::Timestamp>,
    #[prost(string, tag = "7")]
    error: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct VertexStatus {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    vertex: String,
    #[prost(int64, tag = "4")]
    current: i64,
    #[prost(int64, tag = "5")]
    total: i64,
    #[prost(message, optional, tag = "8")]
    completed: Option<prost_types::Timestamp>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct VertexLog {
    #[prost(string, tag = "1")]
    vertex: String,
    #[prost(int64, tag = "3")]
    stream: i64,
    #[prost(bytes = "vec", tag = "4")]
    data: Vec<u8>,
}

/// What was told so far.
pub(super) struct Trace {
    stages: Stages,
    /// Steps that began, and whether it was told that the cache had them.
    steps: HashMap<String, (Step, bool)>,
    active: Active,
    /// Steps that failed by themselves, and how their errors end.
    failed: Vec<(Step, String)>,
    image: Option<String>,
    waiting: VecDeque<Next>,
}

impl Trace {
    pub(super) fn new(instructions: Vec<Instruction>) -> Self {
        Self {
            stages: Stages::of(instructions),
            steps: HashMap::new(),
            active: Active::default(),
            failed: Vec::new(),
            image: None,
            waiting: VecDeque::new(),
        }
    }

    /// What was read and not told yet.
    pub(super) fn waiting(&mut self) -> Option<Next> {
        self.waiting.pop_front()
    }

    /// The image that the build waits for, when it waits for nothing else.
    pub(super) fn fetch(&self) -> Option<Fetch> {
        // Of layers the engine tells each mebibyte, however slowly it comes, and not
        // that it checks them.
        let (vertex, quiet) = self.active.fetch()?;
        let step = self.steps.get(vertex)?.0.clone();
        Some(Fetch { step, quiet, unless_here: None })
    }

    /// The image, once the engine has nothing more to say.
    pub(super) fn end(&mut self) -> Option<Next> {
        self.image.take().map(Next::Made)
    }

    pub(super) fn message(&mut self, message: &Message) {
        if let Some(detail) = &message.error_detail {
            return self.fail(&detail.message);
        }
        if let Some(id) = message.aux.get("ID").and_then(|id| id.as_str()) {
            return self.made(id.to_owned());
        }
        if message.id != TRACE {
            return;
        }
        // What cannot be read tells nothing; the build goes on without.
        let bytes = message.aux.as_str().and_then(|text| STANDARD.decode(text).ok());
        if let Some(status) = bytes.and_then(|bytes| Status::decode(&*bytes).ok()) {
            self.status(status);
        }
    }

    /// The build failed.
    pub(super) fn fail(&mut self, message: &str) {
        self.waiting.push_back(Next::Failed(Failure {
            exit_code: exit_code(message),
            message: bounded(message.to_owned()),
            step: self.failed(message).cloned(),
        }));
    }

    /// The image of this id was made.
    pub(super) fn made(&mut self, id: String) {
        self.image = Some(id);
    }

    /// The graph of steps changed.
    pub(super) fn status(&mut self, status: Status) {
        let (told, mut moved) = (self.waiting.len(), false);
        for vertex in status.vertexes {
            moved |= self.vertex(vertex);
        }
        for status in status.statuses {
            let (current, ended) = (status.current, status.completed.is_some());
            if !self.active.status(&status.vertex, &status.id, current, ended) {
                continue;
            }
            let bytes = |count: i64| u64::try_from(count).unwrap_or(0);
            let vertex = self.steps.get(&status.vertex).map(|(step, _)| step.name.clone());
            self.waiting.push_back(Next::Event(BuildEvent::Progress {
                id: status.id,
                status: vertex.unwrap_or_default(),
                current: bytes(status.current),
                total: bytes(status.total),
            }));
        }
        for log in status.logs {
            self.waiting.push_back(Next::Event(BuildEvent::Log {
                vertex: log.vertex,
                stderr: log.stream == 2,
                data: log.data,
            }));
        }
        if moved && self.waiting.len() == told {
            self.waiting.push_back(Next::Moved);
        }
    }

    /// True when it begins or ends.
    fn vertex(&mut self, vertex: Vertex) -> bool {
        if vertex.started.is_none() && !vertex.cached {
            return false;
        }
        let goes_on = vertex.started.is_some() && vertex.completed.is_none();
        let moved = self.active.vertex(&vertex.digest, halves(&vertex.name).1, goes_on);
        let room = self.steps.len() < MOST;
        let step = match self.steps.get_mut(&vertex.digest) {
            Some((step, cached)) => {
                if vertex.cached && !*cached {
                    *cached = true;
                    let vertex = step.vertex.clone();
                    self.waiting.push_back(Next::Event(BuildEvent::Cached { vertex }));
                }
                step.clone()
            }
            None if room => {
                let step = step(&vertex, &self.stages);
                self.waiting.push_back(Next::Event(BuildEvent::Step(step.clone())));
                if vertex.cached {
                    let vertex = step.vertex.clone();
                    self.waiting.push_back(Next::Event(BuildEvent::Cached { vertex }));
                }
                self.steps.insert(vertex.digest, (step.clone(), vertex.cached));
                step
            }
            None => return moved,
        };
        // With the first that fails, all that runs is cancelled.
        let cancelled = vertex.error.ends_with("context canceled");
        if !vertex.error.is_empty() && !cancelled && self.failed.len() < MOST_FAILED {
            self.failed.push((step, end_of(&vertex.error).to_owned()));
        }
        moved
    }

    /// The step of which this failure is. Others may have failed before without ending the
    /// build: that an image of layers cannot be had is no reason to.
    fn failed(&self, failure: &str) -> Option<&Step> {
        let its = self.failed.iter().find(|(_, error)| failure.trim_end().ends_with(error));
        its.or(self.failed.first()).map(|(step, _)| step)
    }
}

/// `[build 2/5] RUN …`: the second of five of the stage "build".
fn step(vertex: &Vertex, stages: &Stages) -> Step {
    let (head, name) = halves(&vertex.name);
    let count = head.and_then(|head| {
        let mut words = head.split_whitespace().rev();
        let (number, total) = words.next()?.split_once('/')?;
        // Before the name of the stage, or in its place, a platform may stand.
        let stage = words.next().filter(|word| !word.contains('/')).unwrap_or_default();
        Some((stage, number.parse().ok()?, total.parse().ok()?))
    });
    let (stage, number, total) = count.unwrap_or(("", 0, 0));
    let line = usize::try_from(number).ok().zip(usize::try_from(total).ok());
    let line = line.and_then(|(number, total)| stages.line(stage, number, total, name));
    Step {
        vertex: vertex.digest.clone(),
        name: name.chars().take(1024).collect(),
        number,
        total,
        line: line.and_then(|line| u32::try_from(line).ok()).unwrap_or(0),
    }
}

/// `[build 2/5]` and what it does; nothing stands before some.
fn halves(name: &str) -> (Option<&str>, &str) {
    let split = name.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    split.map_or((None, name), |(head, rest)| (Some(head), rest))
}

/// The end of an error, which says how a step ended; before it stands its command.
fn end_of(error: &str) -> &str {
    let mut from = error.trim_end().len().saturating_sub(LONGEST_END);
    while !error.is_char_boundary(from) {
        from += 1;
    }
    error[from..].trim_end()
}

fn exit_code(message: &str) -> Option<i32> {
    let (_, code) = message.rsplit_once("exit code: ")?;
    code.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::dockerfile::instructions;

    fn told(trace: &mut Trace, status: &Status) -> Vec<Next> {
        trace.message(&Message {
            id: TRACE.to_owned(),
            aux: STANDARD.encode(status.encode_to_vec()).into(),
            ..Default::default()
        });
        std::iter::from_fn(|| trace.waiting()).collect()
    }

    #[test]
    fn a_step_is_told_once_with_its_line_and_that_the_cache_had_it() {
        let mut trace = Trace::new(instructions("FROM a\n\nRUN \\\n  x\n"));
        let mut vertex =
            Vertex { digest: "d".into(), name: "[ 2/2] RUN x".into(), ..Default::default() };
        let of = |vertex: &Vertex| Status { vertexes: vec![vertex.clone()], ..Default::default() };
        assert_eq!(told(&mut trace, &of(&vertex)).len(), 0, "it did not begin");
        vertex.started = Some(prost_types::Timestamp::default());
        let first = told(&mut trace, &of(&vertex));
        let [Next::Event(BuildEvent::Step(step))] = &first[..] else { panic!("{first:?}") };
        assert_eq!((step.number, step.total, step.line, step.name.as_str()), (2, 2, 3, "RUN x"));
        vertex.cached = true;
        assert_eq!(told(&mut trace, &of(&vertex)).len(), 1);
        vertex.error = "executor failed: exit code: 7".into();
        assert_eq!(told(&mut trace, &of(&vertex)).len(), 0);
        let detail = r#"{"errorDetail":{"message":"executor failed: exit code: 7"}}"#;
        trace.message(&serde_json::from_str(detail).unwrap());
        let Some(Next::Failed(failure)) = trace.waiting() else { panic!("it failed") };
        assert_eq!((failure.exit_code, failure.step.unwrap().line), (Some(7), 3));
    }

    #[test]
    fn the_step_that_failed_is_the_one_of_the_failure() {
        let mut trace = Trace::new(instructions("FROM a AS x\nRUN x\nFROM a AS y\nRUN y\n"));
        for (digest, name, error) in [
            ("c", "importing cache manifest from a", "no route to host"),
            ("y", "[y 2/2] RUN y", "executor failed running [y]: exit code: 7"),
            ("z", "[z 1/1] RUN z", "container process is already dead"),
            ("x", "[x 2/2] RUN x", "executor failed running [x]: context canceled"),
        ] {
            let vertex = Vertex {
                digest: digest.into(),
                name: name.into(),
                started: Some(prost_types::Timestamp::default()),
                error: error.into(),
                ..Default::default()
            };
            told(&mut trace, &Status { vertexes: vec![vertex], ..Default::default() });
        }
        for (message, line) in [
            ("failed to solve: executor failed running [y]: exit code: 7", Some(4)),
            ("something else", Some(0)),
        ] {
            let detail = serde_json::json!({"errorDetail": {"message": message}});
            trace.message(&serde_json::from_value(detail).unwrap());
            let Some(Next::Failed(failure)) = trace.waiting() else { panic!("it failed") };
            assert_eq!(failure.step.map(|step| step.line), line, "{message}");
        }
    }

    #[test]
    fn what_moves_is_told_and_what_is_repeated_is_not() {
        let mut trace = Trace::new(instructions("FROM a\n"));
        let time = || Some(prost_types::Timestamp::default());
        let name = "[internal] load metadata for a:1".to_owned();
        let mut vertex = Vertex { digest: "d".into(), name, started: time(), ..Default::default() };
        let of = |vertex: &Vertex| Status { vertexes: vec![vertex.clone()], ..Default::default() };
        assert_eq!(told(&mut trace, &of(&vertex)).len(), 1, "the step");
        let fetch = trace.fetch().unwrap();
        assert_eq!((fetch.step.name.as_str(), fetch.quiet), ("load metadata for a:1", false));
        assert_eq!(told(&mut trace, &of(&vertex)).len(), 0, "no news");
        let layer = VertexStatus { id: "l".into(), vertex: "d".into(), ..Default::default() };
        let layer = Status { statuses: vec![layer], ..Default::default() };
        assert!(matches!(
            &told(&mut trace, &layer)[..],
            [Next::Event(BuildEvent::Progress { .. })]
        ));
        assert!(trace.fetch().is_some_and(|fetch| fetch.quiet));
        assert_eq!(told(&mut trace, &layer).len(), 0, "nothing came");
        vertex.completed = time();
        assert!(matches!(&told(&mut trace, &of(&vertex))[..], [Next::Moved]), "it ended");
        assert!(trace.fetch().is_none());
    }

    #[test]
    fn what_cannot_be_read_tells_nothing() {
        let mut trace = Trace::new(Vec::new());
        for aux in [serde_json::Value::Null, "?".into(), "AAAA".into(), 5.into()] {
            trace.message(&Message { id: TRACE.to_owned(), aux, ..Default::default() });
        }
        assert!(trace.waiting().is_none() && trace.end().is_none());
    }
}
