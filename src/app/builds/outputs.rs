//! What the steps of a build wrote last.

use std::collections::VecDeque;

/// Bytes that are kept of a step.
const KEPT: usize = 2048;
/// Steps of which something is kept; what wrote nothing for longest gives way.
const STEPS: usize = 64;

/// The last that each step wrote.
#[derive(Debug, Default)]
pub(super) struct Outputs(VecDeque<(String, Vec<u8>)>);

impl Outputs {
    /// A step wrote this.
    pub(super) fn add(&mut self, vertex: String, data: &[u8]) {
        let before = self.0.iter().position(|(step, _)| *step == vertex);
        let before = before.and_then(|at| self.0.remove(at));
        let mut output = before.map(|(_, output)| output).unwrap_or_default();
        output.extend_from_slice(data);
        let over = output.len().saturating_sub(KEPT);
        output.drain(..over);
        self.0.push_back((vertex, output));
        if self.0.len() > STEPS {
            self.0.pop_front();
        }
    }

    /// The last that this step wrote, when it wrote anything.
    pub(super) fn of(&self, vertex: &str) -> Option<String> {
        let (_, output) = self.0.iter().find(|(step, _)| step == vertex)?;
        let text = String::from_utf8_lossy(output);
        Some(text.trim_end().to_owned()).filter(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_has_its_own_and_those_that_wrote_last_are_kept() {
        let mut outputs = Outputs::default();
        for word in ["one ", "two\n"] {
            outputs.add("a".into(), word.as_bytes());
            outputs.add("b".into(), b"\n");
        }
        assert_eq!((outputs.of("a"), outputs.of("b")), (Some("one two".into()), None));
        outputs.add("b".into(), &[b'x'; 3 * KEPT]);
        assert_eq!(outputs.of("b"), Some("x".repeat(KEPT)));
        for step in 0..STEPS - 1 {
            outputs.add(format!("{step}"), b"more");
        }
        assert_eq!((outputs.of("a"), outputs.0.len()), (None, STEPS));
        assert!(outputs.of("b").is_some() && outputs.of("0").is_some());
    }
}
