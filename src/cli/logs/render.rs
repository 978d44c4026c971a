//! Lines as a person, or a program, reads them.

use std::{
    env,
    io::{self, IsTerminal as _},
};

use jiff::Timestamp;

use crate::{
    cli::output::{Json, Target},
    rpc::pb,
};

use super::{Args, Failure, names::Name};

/// Colours that can be read on light and on dark, as the numbers of terminals.
const COLOURS: [u8; 10] = [36, 33, 32, 35, 34, 96, 93, 92, 95, 94];

/// Turns lines into what is written, and where.
pub(super) struct Renderer {
    json: Option<Json>,
    timestamps: bool,
    /// Whether every line of a container is printed, so that the parts of a long
    /// one can be joined again.
    whole: bool,
    /// Whether what was written last to stdout and to stderr is to be continued.
    open: [bool; 2],
    /// Whether stdout and stderr take colours.
    colours: [bool; 2],
    chunks: Vec<(Target, Vec<u8>)>,
}

impl Renderer {
    pub(super) fn new(args: &Args, json: Option<Json>) -> Self {
        let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colours = [io::stdout().is_terminal(), io::stderr().is_terminal()];
        Self {
            json,
            timestamps: args.timestamps,
            whole: args.grep.is_empty() && args.grep_i.is_empty() && args.regex.is_empty(),
            open: [false; 2],
            colours: colours.map(|terminal| terminal && !plain),
            chunks: Vec::new(),
        }
    }

    #[cfg(test)]
    pub(super) fn coloured(mut self) -> Self {
        self.colours = [true; 2];
        self
    }

    /// Takes what is to be written, in its order.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (Target, Vec<u8>)> + use<> {
        std::mem::take(&mut self.chunks).into_iter()
    }

    /// One line, or the place where some are missing.
    pub(super) fn log(&mut self, log: &pb::Log, name: Option<Name<'_>>) -> Result<(), Failure> {
        if let Some(json) = &self.json {
            let text = json.compact(log)?;
            let chunk = self.chunk(Target::Stdout);
            chunk.extend_from_slice(text.as_bytes());
            chunk.push(b'\n');
            return Ok(());
        }
        if let Some(gap) = &log.gap {
            self.note(&missing(gap), name);
            return Ok(());
        }
        let target = match log.stream() {
            pb::LogStream::Stderr => Target::Stderr,
            pb::LogStream::Stdout | pb::LogStream::Unspecified => Target::Stdout,
        };
        if !self.open[target as usize] {
            self.prefix(target, name);
            if let Some(at) = log.created_at.as_ref().filter(|_| self.timestamps) {
                let text = time(at);
                self.chunk(target).extend_from_slice(text.as_bytes());
            }
        }
        // With others in between, the parts of a line must stand on their own.
        let goes_on = log.continues() && self.whole && name.is_none();
        self.open[target as usize] = goes_on;
        let chunk = self.chunk(target);
        chunk.extend_from_slice(log.raw.as_deref().unwrap_or(log.content.as_bytes()));
        if !goes_on {
            chunk.push(b'\n');
        }
        Ok(())
    }

    /// Lines that were left out on the way to us.
    pub(super) fn missed(&mut self, count: Option<i64>, word: Option<&str>) {
        let what = count.map_or("some lines".to_owned(), lines);
        let name = word.map(|text| Name { text, width: 0 });
        self.note(&format!("{what} left out: no longer stored, or read too late"), name);
    }

    /// A word to the person beside the lines, so never among them.
    fn note(&mut self, text: &str, name: Option<Name<'_>>) {
        self.prefix(Target::Stderr, name);
        self.chunk(Target::Stderr).extend_from_slice(format!("--- {text} ---\n").as_bytes());
    }

    fn prefix(&mut self, target: Target, name: Option<Name<'_>>) {
        let Some(Name { text, width }) = name else { return };
        let prefix = match self.colours[target as usize] {
            true => format!("\x1b[{}m{text:width$} |\x1b[0m ", colour(text)),
            false => format!("{text:width$} | "),
        };
        self.chunk(target).extend_from_slice(prefix.as_bytes());
    }

    /// Where to write to next. Both ends of a terminal keep their order, as each
    /// change between them begins a chunk.
    fn chunk(&mut self, target: Target) -> &mut Vec<u8> {
        if self.chunks.last().is_none_or(|(last, _)| *last != target) {
            self.chunks.push((target, Vec::new()));
        }
        let last = self.chunks.len() - 1;
        &mut self.chunks[last].1
    }
}

/// The same for a name on every day.
fn colour(name: &str) -> u8 {
    let hash = name
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    COLOURS[hash as usize % COLOURS.len()]
}

/// To the nanosecond and of one width, as docker prints it.
fn time(at: &prost_types::Timestamp) -> String {
    match Timestamp::new(at.seconds, at.nanos) {
        Ok(at) => format!("{at:.9} "),
        Err(_) => String::new(),
    }
}

fn missing(gap: &pb::LogGap) -> String {
    let count = gap.count.map_or("some lines".to_owned(), lines);
    let why = match gap.reason.as_str() {
        "rotated" => "rotated by the engine",
        "truncated" => "the log was truncated",
        "removed" => "the container was removed before they were read",
        "damaged" => "the engine's log is damaged",
        other => other,
    };
    format!("{count} missing: {why}")
}

fn lines(count: i64) -> String {
    if count == 1 { "1 line".to_owned() } else { format!("{count} lines") }
}
