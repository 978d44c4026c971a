//! Which instruction BuildKit means by `[build 2/5] RUN …`.
//!
//! It counts what makes a layer in a stage, and its FROM where that is an image. It has
//! joined lines, filled in variables and taken quotes away in what it calls a step.

use super::{Instruction, LONGEST};

/// What BuildKit counts in a stage, beside its FROM.
const COUNTED: [&str; 4] = ["RUN", "COPY", "ADD", "WORKDIR"];

/// The stages of a Dockerfile.
#[derive(Debug, Default)]
pub struct Stages(Vec<Stage>);

#[derive(Debug)]
struct Stage {
    /// As BuildKit calls it.
    name: String,
    from: Instruction,
    counted: Vec<Instruction>,
}

impl Stages {
    /// Those of these instructions.
    pub fn of(instructions: Vec<Instruction>) -> Self {
        let mut stages: Vec<Stage> = Vec::new();
        for instruction in instructions {
            let mut words = instruction.text.split_whitespace();
            let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
            if keyword == "FROM" {
                let mut words = words.filter(|word| !word.starts_with("--")).skip(1);
                let named = words.next().is_some_and(|word| word.eq_ignore_ascii_case("AS"));
                let name = words.next().filter(|_| named).map(str::to_ascii_lowercase);
                let name = name.unwrap_or_else(|| format!("stage-{}", stages.len()));
                stages.push(Stage { name, from: instruction, counted: Vec::new() });
            } else if COUNTED.contains(&keyword.as_str())
                && let Some(stage) = stages.last_mut()
            {
                stage.counted.push(instruction);
            }
        }
        Self(stages)
    }

    /// The line of the step of this number, of so many, if it is sure which one that is.
    /// The name of the stage is empty where there is only one.
    pub fn line(&self, stage: &str, number: usize, total: usize, text: &str) -> Option<usize> {
        let only = self.0.len() == 1 && stage.is_empty();
        let named = self.0.iter().filter(|found| only || found.name == stage);
        let mut fitting = named.filter_map(|stage| stage.step(number, total));
        let found = fitting.next()?;
        // A name that two stages have says nothing where both fit.
        (fitting.next().is_none() && fits(&found.text, text)).then_some(found.line)
    }
}

impl Stage {
    fn step(&self, number: usize, total: usize) -> Option<&Instruction> {
        // FROM counts unless it is another stage, or scratch.
        match total.checked_sub(self.counted.len())? {
            0 => self.counted.get(number.checked_sub(1)?),
            1 if number == 1 => Some(&self.from),
            1 => self.counted.get(number.checked_sub(2)?),
            _ => None,
        }
    }
}

/// True where a step of this name can be the instruction: it has the same keyword, and the
/// same text as far as BuildKit leaves that alone. Steps that a base image has for those
/// that build on it are counted too, so a number alone says little.
fn fits(instruction: &str, step: &str) -> bool {
    let split = |text: &str| {
        let (keyword, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let bare: String = rest.chars().filter(|c| !c.is_whitespace()).collect();
        (keyword.to_ascii_uppercase(), bare)
    };
    let ((keyword, written), (of_step, told)) = (split(instruction), split(step));
    if keyword != of_step {
        return false;
    }
    // BuildKit tells the whole name of an image.
    if keyword == "FROM" {
        return true;
    }
    let changed = written.find(['$', '"', '\'', '\\', '`']);
    let end = changed.into_iter().chain(written.find("<<")).min();
    match end {
        Some(end) => told.starts_with(&written[..end]),
        None if instruction.len() >= LONGEST => told.starts_with(&written),
        None => told == written,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::instructions, *};

    const FILE: &str = "ARG base=a\nFROM $base AS One\nARG X\nRUN echo \\\n  \"$X\" && \\\n  # why\n  two\n\
        COPY \"a\" /$X/\nRUN ec\\\nho same\nFROM --platform=x a\ncopy --from=one a \\\n b\n\
        WORKDIR /x\nRUN echo same\nRUN echo same\nRUN <<E\nx\nE\nFROM one\nRUN last\n\
        FROM scratch AS stage-2\nADD a /\nADD b /\nFROM scratch AS stage-2\nCOPY c /\nCOPY d /\n";

    #[test]
    fn each_step_has_the_line_of_its_instruction_however_buildkit_words_it() {
        let stages = Stages::of(instructions(FILE));
        for (stage, number, total, text, line) in [
            ("one", 1, 4, "FROM docker.io/library/a:latest", Some(2)),
            ("one", 2, 4, "RUN echo   \"hello\" &&     two", Some(4)),
            ("one", 3, 4, "COPY a /hello/", Some(8)),
            ("one", 4, 4, "RUN echo same", Some(9)),
            ("stage-1", 2, 6, "COPY --from=one a  b", Some(12)),
            ("stage-1", 3, 6, "WORKDIR /x", Some(14)),
            ("stage-1", 4, 6, "RUN echo same", Some(15)),
            ("stage-1", 5, 6, "RUN echo same", Some(16)),
            ("stage-1", 6, 6, "RUN <<E (x)", Some(17)),
            // It begins with another stage, so its FROM does not count.
            ("stage-2", 1, 1, "RUN last", Some(21)),
            // Nobody knows which of two stages of one name.
            ("stage-2", 1, 2, "ADD a /", None),
            ("", 1, 4, "FROM a", None),
            ("three", 1, 4, "FROM a", None),
        ] {
            assert_eq!(stages.line(stage, number, total, text), line, "{stage} {number} {text}");
        }
        let only = Stages::of(instructions("FROM a AS b\nRUN x\n"));
        assert_eq!(only.line("", 2, 2, "RUN x"), Some(2));
    }

    #[test]
    fn what_does_not_fit_has_no_line() {
        let stages = Stages::of(instructions("FROM a\nRUN x\nRUN echo $Y\nRUN z\n"));
        for (number, total, text) in [
            // Steps that the base image asks for shift the numbers of those that follow.
            (2, 4, "COPY x /"),
            (2, 4, "RUN of the base"),
            (3, 4, "RUN x"),
            (5, 4, "RUN z"),
            (0, 4, "RUN x"),
            (1, 4, "RUN x"),
            // A frontend may count otherwise.
            (2, 5, "RUN x"),
            (2, 2, "RUN x"),
            (2, 4, ""),
        ] {
            assert_eq!(stages.line("", number, total, text), None, "{number}/{total} {text}");
        }
        let long = format!("RUN {}", "x".repeat(2 * LONGEST));
        let stages = Stages::of(instructions(&format!("FROM scratch\n{long}")));
        assert_eq!(stages.line("", 1, 1, &long), Some(2));
    }
}
