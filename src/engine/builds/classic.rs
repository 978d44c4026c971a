//! The words of the engine's older builder, read as events.
//!
//! What a step's program writes comes in the same stream as the builder's own
//! words. So these count only where the builder would say them.

use std::collections::{BTreeMap, HashSet};

use super::{Fetch, Message, Next, bounded, fetches};
use crate::{
    domain::{
        build::{BuildEvent, Failure, Step},
        dockerfile::{Instruction, base_images},
        image::ImageRef,
    },
    engine::is_local,
};

/// How the engine colours what was written to stderr.
const RED: &str = "\u{1b}[91m";
const PLAIN: &str = "\u{1b}[0m";

pub(super) struct Classic {
    instructions: Vec<Instruction>,
    /// What steps fetch, as far as no argument is in its name.
    images: Vec<String>,
    step: Option<Step>,
    /// Nothing came after the head of the step yet.
    fresh: bool,
    container: Option<String>,
    /// What the stage at hand came to; a further step begins another one.
    image: Option<String>,
    /// The last image is made; what follows is that it gets its names.
    built: bool,
    fetching: Fetching,
    /// Layers that it works on, by their ids.
    local: HashSet<String>,
}

/// Whether the step fetches an image now.
enum Fetching {
    No,
    /// The builder says nothing before the registry does: it may also copy from an
    /// image that is here.
    Unless(ImageRef),
    Yes,
}

impl Classic {
    pub(super) fn new(instructions: Vec<Instruction>) -> Self {
        Self {
            images: base_images(&instructions, &BTreeMap::new()),
            instructions,
            step: None,
            fresh: false,
            container: None,
            image: None,
            built: false,
            fetching: Fetching::No,
            local: HashSet::new(),
        }
    }

    /// The image that the step waits for.
    pub(super) fn fetch(&self) -> Option<Fetch> {
        let unless_here = match &self.fetching {
            Fetching::No => return None,
            Fetching::Unless(image) => Some(image.clone()),
            Fetching::Yes => None,
        };
        Some(Fetch { step: self.step.clone()?, quiet: !self.local.is_empty(), unless_here })
    }

    pub(super) fn container(&self) -> Option<&str> {
        self.container.as_deref()
    }

    pub(super) fn message(&mut self, message: Message) -> Option<Next> {
        if let Some(detail) = message.error_detail {
            return Some(Next::Failed(Failure {
                exit_code: (detail.code != 0).then_some(detail.code),
                message: bounded(detail.message),
                step: self.step.clone().filter(|_| !self.built),
            }));
        }
        if let Some(id) = message.aux.get("ID").and_then(|id| id.as_str()) {
            self.image = Some(id.to_owned());
            return None;
        }
        if !message.status.is_empty() {
            let (current, total) = message.progress();
            let (id, status) = (message.id, message.status);
            self.status(&id, &status);
            return Some(Next::Event(BuildEvent::Progress { id, status, current, total }));
        }
        self.text(&message.stream)
    }

    /// Of a pull: no other step tells "Pulling from", also where a base image has more
    /// steps for those that build on it.
    fn status(&mut self, id: &str, status: &str) {
        if status.starts_with("Pulling from") {
            self.fetching = Fetching::Yes;
        } else if status.starts_with("Status: ") {
            self.fetching = Fetching::No;
        }
        match is_local(status) {
            true => drop(self.local.insert(id.to_owned())),
            false => drop(self.local.remove(id)),
        }
    }

    fn text(&mut self, text: &str) -> Option<Next> {
        if text.is_empty() {
            return None;
        }
        if text != "\n" {
            self.fetching = Fetching::No;
        }
        if let Some(step) = self.step_of(text) {
            self.fetching = self.begins_with(&step.name);
            self.local.clear();
            self.step = Some(step.clone());
            (self.fresh, self.container, self.image) = (true, None, None);
            return Some(Next::Event(BuildEvent::Step(step)));
        }
        if self.image.is_some() {
            return self.after_image(text);
        }
        if self.fresh && text == "\n" {
            return None;
        }
        let said = text.strip_prefix(" ---> ").and_then(|rest| rest.strip_suffix('\n'));
        match said {
            Some("Using cache") if self.fresh => {
                self.fresh = false;
                return Some(Next::Event(BuildEvent::Cached { vertex: self.vertex() }));
            }
            Some(said) if self.container.is_none() => {
                let container = said.strip_prefix("Running in ").filter(|id| is_id(id));
                if let Some(container) = container.filter(|_| self.fresh) {
                    (self.fresh, self.container) = (false, Some(container.to_owned()));
                    return None;
                }
                if is_id(said) {
                    self.fresh = false;
                    return None;
                }
            }
            _ => {}
        }
        if let Some(container) = &self.container
            && text == format!("Removing intermediate container {container}\n")
        {
            self.container = None;
            return None;
        }
        self.fresh = false;
        let inside = text.strip_prefix(RED).and_then(|rest| rest.strip_suffix(PLAIN));
        Some(Next::Event(BuildEvent::Log {
            vertex: self.vertex(),
            stderr: inside.is_some(),
            data: inside.unwrap_or(text).as_bytes().to_vec(),
        }))
    }

    /// The image, once the engine has nothing more to say.
    pub(super) fn end(&mut self) -> Option<Next> {
        self.image.take().filter(|_| self.built).map(Next::Made)
    }

    /// What follows the image: warnings, and that it is made.
    fn after_image(&mut self, text: &str) -> Option<Next> {
        if let Some(warning) = text.strip_prefix("[Warning] ") {
            return Some(Next::Event(BuildEvent::Warning(warning.trim().to_owned())));
        }
        let last = self.step.as_ref().is_some_and(|step| step.number == step.total);
        self.built |= last && text.starts_with("Successfully built ");
        None
    }

    /// `Step 2/5 : RUN …`, when the second is due.
    fn step_of(&self, text: &str) -> Option<Step> {
        let (count, name) = text.strip_prefix("Step ")?.split_once(" : ")?;
        let (number, total) = count.split_once('/')?;
        let (number, total): (u32, u32) = (number.parse().ok()?, total.parse().ok()?);
        let due = match &self.step {
            Some(step) => number == step.number + 1 && total == step.total,
            None => number == 1,
        };
        if !due || self.container.is_some() || number > total {
            return None;
        }
        let at = usize::try_from(number - 1).ok()?;
        let line = self.instructions.get(at).and_then(|found| u32::try_from(found.line).ok());
        Some(Step {
            vertex: number.to_string(),
            name: name.trim_end().chars().take(1024).collect(),
            number,
            total,
            line: line.unwrap_or(0),
        })
    }

    fn begins_with(&self, step: &str) -> Fetching {
        if fetches(step) {
            return Fetching::Yes;
        }
        let mut words = step.split_whitespace();
        let copies = words.next().is_some_and(|word| word.eq_ignore_ascii_case("COPY"));
        let mut options = words.take_while(|word| copies && word.starts_with("--"));
        let from = options.find_map(|option| option.strip_prefix("--from="));
        let image = from.filter(|from| self.images.iter().any(|image| image == from));
        image.and_then(|image| ImageRef::parse(image).ok()).map_or(Fetching::No, Fetching::Unless)
    }

    fn vertex(&self) -> String {
        self.step.as_ref().map(|step| step.vertex.clone()).unwrap_or_default()
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::dockerfile::instructions;

    fn read(dockerfile: &str, stream: &[&str]) -> Vec<Next> {
        let mut classic = Classic::new(instructions(dockerfile));
        let message = |text: &&str| match text.starts_with('{') {
            true => serde_json::from_str(text).unwrap(),
            false => Message { stream: (*text).to_owned(), ..Default::default() },
        };
        let mut told: Vec<_> =
            stream.iter().filter_map(|text| classic.message(message(text))).collect();
        told.extend(classic.end());
        told
    }

    #[test]
    fn a_build_is_told_as_steps_logs_and_an_image() {
        let told = read(
            "FROM a\n\nRUN x\nRUN y\n",
            &[
                "Step 1/3 : FROM a",
                "\n",
                r#"{"status":"Downloading","id":"l","progressDetail":{"current":1,"total":2}}"#,
                " ---> 970f85668e83\n",
                "Step 2/3 : RUN x",
                "\n",
                " ---> Using cache\n",
                " ---> d316fa2b8b4d\n",
                "Step 3/3 : RUN y",
                "\n",
                " ---> Running in ca5809c1f124\n",
                "out",
                "\u{1b}[91merr\n\u{1b}[0m",
                "Step 4/3 : fake",
                "Removing intermediate container 000000000000\n",
                "Removing intermediate container ca5809c1f124\n",
                " ---> 0b98d1830727\n",
                r#"{"aux":{"ID":"sha256:0b98"}}"#,
                "[Warning] One or more build-args [BAR] were not consumed\n",
                "Successfully built 0b98d1830727\n",
                "Successfully tagged a:1\n",
            ],
        );
        let mut text = String::new();
        for next in told {
            text += &match next {
                Next::Event(BuildEvent::Step(step)) => {
                    format!("{}/{}@{} {}|", step.number, step.total, step.line, step.name)
                }
                Next::Event(BuildEvent::Cached { vertex }) => format!("cached {vertex}|"),
                Next::Event(BuildEvent::Log { vertex, stderr, data }) => {
                    format!("{vertex} {stderr} {:?}|", String::from_utf8(data).unwrap())
                }
                Next::Event(BuildEvent::Progress { id, current, total, .. }) => {
                    format!("{id} {current}/{total}|")
                }
                Next::Event(BuildEvent::Warning(warning)) => format!("{warning}|"),
                Next::Made(id) => id,
                other => format!("{other:?}"),
            };
        }
        assert_eq!(
            text,
            "1/3@1 FROM a|l 1/2|2/3@3 RUN x|cached 2|3/3@4 RUN y|3 false \"out\"|3 true \"err\\n\"|\
             3 false \"Step 4/3 : fake\"|3 false \"Removing intermediate container 000000000000\\n\"|\
             One or more build-args [BAR] were not consumed|sha256:0b98"
        );
    }

    #[test]
    fn each_stage_has_an_image_and_the_last_one_is_the_builds() {
        let told = read(
            "FROM a AS x\nFROM b\nRUN y\n",
            &[
                "Step 1/3 : FROM a AS x",
                " ---> 970f85668e83\n",
                r#"{"aux":{"ID":"sha256:970f"}}"#,
                "Step 2/3 : FROM b",
                " ---> 970f85668e84\n",
                "Step 3/3 : RUN y",
                " ---> Running in ca5809c1f124\n",
                "Successfully built 970f85668e83\n",
                "Removing intermediate container ca5809c1f124\n",
                " ---> 0b98d1830727\n",
                r#"{"aux":{"ID":"sha256:0b98"}}"#,
                "Successfully built 0b98d1830727\n",
            ],
        );
        let steps = |next: &&Next| matches!(next, Next::Event(BuildEvent::Step(_)));
        assert_eq!(told.iter().filter(steps).count(), 3);
        assert!(matches!(&told[3], Next::Event(BuildEvent::Log { .. })), "{told:?}");
        let [.., Next::Made(id)] = &told[..] else { panic!("{told:?}") };
        assert_eq!((id.as_str(), told.len()), ("sha256:0b98", 5));
    }

    #[test]
    fn a_failure_names_its_step_and_exit_code() {
        let told = read(
            "FROM a",
            &["Step 1/1 : FROM a", r#"{"errorDetail":{"code":3,"message":"no"},"error":"no"}"#],
        );
        let [_, Next::Failed(failure)] = &told[..] else { panic!("{told:?}") };
        assert_eq!((failure.exit_code, failure.step.as_ref().unwrap().number), (Some(3), 1));
    }

    #[test]
    fn an_image_that_gets_no_name_is_no_success_and_no_fault_of_a_step() {
        let made = ["Step 1/1 : FROM a", r#"{"aux":{"ID":"sha256:970f"}}"#];
        let built = [&made[..], &["Successfully built 970f85668e83\n"]].concat();
        let refused = r#"{"errorDetail":{"message":"no such name"},"error":"no such name"}"#;
        let told = read("FROM a", &[&built[..], &[refused]].concat());
        let [_, Next::Failed(failure), ..] = &told[..] else { panic!("{told:?}") };
        assert_eq!((failure.message.as_str(), &failure.step), ("no such name", &None));
        assert!(matches!(&read("FROM a", &built)[..], [_, Next::Made(_)]));
        assert_eq!(read("FROM a", &made).len(), 1, "it ended too early");
    }

    /// The number of the step that fetches, whether the engine works on a layer, and the
    /// image on the node that would mean that it copies; after each message.
    fn fetches(dockerfile: &str, stream: &[&str]) -> Vec<Option<(u32, bool, Option<String>)>> {
        let mut classic = Classic::new(instructions(dockerfile));
        let after = |text: &&str| {
            let message = match text.strip_prefix("status ") {
                Some(status) => {
                    let (id, status) = status.split_once(' ').unwrap();
                    Message { id: id.into(), status: status.into(), ..Default::default() }
                }
                None => Message { stream: (*text).to_owned(), ..Default::default() },
            };
            classic.message(message);
            let fetch = classic.fetch()?;
            let unless = fetch.unless_here.map(|image| image.familiar());
            Some((fetch.step.number, fetch.quiet, unless))
        };
        stream.iter().map(after).collect()
    }

    #[test]
    fn a_base_image_is_fetched_until_the_builder_says_anything_else() {
        let told = fetches(
            "FROM a\nRUN x\n",
            &[
                "Step 1/2 : FROM a",
                "\n",
                "status 1 Pulling from library/a",
                "status l Downloading",
                "status l Verifying Checksum",
                "status l Download complete",
                "status l Extracting",
                "status l Pull complete",
                " ---> 970f85668e83\n",
                "Step 2/2 : RUN x",
                "\n",
                " ---> Running in ca5809c1f124\n",
            ],
        );
        let quiet: Vec<_> = told.iter().map_while(|fetch| Some(fetch.as_ref()?.1)).collect();
        assert_eq!(quiet, [false, false, false, false, true, false, true, false]);
        assert!(told[8..].iter().all(Option::is_none), "{told:?}");
        let told = fetches(
            "FROM a\n",
            &["Step 1/1 : FROM a", "# Executing 1 build trigger\n", "status 1 Pulling from b"],
        );
        assert_eq!(told, [Some((1, false, None)), None, Some((1, false, None))], "a trigger");
    }

    #[test]
    fn an_image_that_is_copied_from_is_fetched_when_it_is_not_there() {
        let b = || Some((2, false, Some("b:1".to_owned())));
        let told = fetches(
            "FROM a AS one\nCOPY --from=b:1 /x /\nCOPY --from=one /x /\nCOPY --from=0 /x /\nCOPY x --from=b:1\n",
            &[
                "Step 1/5 : FROM a AS one",
                " ---> 970f85668e83\n",
                "Step 2/5 : COPY --from=b:1 /x /",
                "\n",
                "status 1 Pulling from library/b",
                "status  Status: Downloaded newer image for b:1",
                " ---> 970f85668e84\n",
                "Step 3/5 : COPY --from=one /x /",
                "Step 4/5 : COPY --from=0 /x /",
                "Step 5/5 : COPY x --from=b:1",
            ],
        );
        assert_eq!(told[..4], [Some((1, false, None)), None, b(), b()]);
        assert_eq!(told[4..6], [Some((2, false, None)), None], "it copies");
        assert!(told[6..].iter().all(Option::is_none), "{told:?}");
    }
}
