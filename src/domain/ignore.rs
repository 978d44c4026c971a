//! `.dockerignore`: which paths of a build context stay out, by Docker's own rules.
//!
//! These are not the rules of `.gitignore`. A pattern counts from the root of the
//! context and not in any folder, `!` takes a path in again, the last pattern that
//! fits decides, and what fits a folder fits all below it. An exception is found
//! below a folder that is left out only when its own text begins with that
//! folder's path: so the docker command walks a tree, and so it is done here.

use super::archive::shown;

mod glob;

use glob::{Pieces, Shape};

/// Longest line, as the docker command reads them.
const LONGEST_LINE: usize = 64 << 10;
/// Most patterns; the docker command has no limit.
const MOST_PATTERNS: usize = 10_000;
/// Most characters of those with wildcards, together.
const MOST_PIECES: usize = 128 << 10;

/// The patterns of one file, in their order.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
    exceptions: bool,
    /// Characters of those with wildcards.
    pieces: usize,
}

#[derive(Debug, Clone)]
struct Pattern {
    /// Takes in again what fits.
    exception: bool,
    /// In its shortest form.
    text: Vec<u8>,
    fit: Fit,
}

#[derive(Debug, Clone)]
enum Fit {
    Exact,
    /// All that begin so.
    Begin(Vec<u8>),
    /// All that end so, and the path that is the end without its slash.
    End(Vec<u8>),
    Pieces(Pieces),
}

/// What is decided for one path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// It stays out.
    pub ignored: bool,
    /// Which patterns fit it, for what is below.
    fits: Vec<bool>,
}

impl Ignore {
    /// Reads a file. An error names the line and says why.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut ignore = Self::default();
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let wrong = |why: &str| format!("line {}: {why}", number + 1);
            if line.len() >= LONGEST_LINE {
                return Err(wrong("is longer than 64 KiB; split it"));
            }
            // A comment begins in the first column.
            if line.starts_with(b"#") {
                continue;
            }
            if let Some((exception, pattern)) = pattern_of(line) {
                ignore.add(exception, &pattern).map_err(|why| wrong(&why))?;
            }
            if ignore.patterns.len() > MOST_PATTERNS {
                return Err(wrong("is one pattern too many; at most 10000"));
            }
        }
        Ok(ignore)
    }

    /// Takes a path in again when the patterns leave it out: what the build itself
    /// needs is sent all the same.
    pub fn always(&mut self, path: &str) -> Result<(), String> {
        match self.verdict(path.as_bytes(), None).ignored {
            true => self.add(true, path.as_bytes()),
            false => Ok(()),
        }
    }

    fn add(&mut self, exception: bool, pattern: &[u8]) -> Result<(), String> {
        if exception && matches!(pattern, b"" | b"/") {
            return Err("has a \"!\" without a pattern; name what is taken in again".to_owned());
        }
        let shape = Shape::read(pattern).ok_or_else(|| {
            let pattern = shown(pattern);
            format!("\"{pattern}\" is no pattern; see its brackets and its last \"\\\"")
        })?;
        let fit = match shape {
            Shape::Plain => Fit::Exact,
            Shape::Begin(text) => Fit::Begin(text),
            Shape::End(text) => Fit::End(text),
            Shape::Pieces(pieces) => {
                self.pieces += pieces.size();
                if self.pieces > MOST_PIECES {
                    return Err(format!(
                        "has, with the lines before it, more than {MOST_PIECES} characters in \
                         patterns with *, ?, [ or \\; name folders instead"
                    ));
                }
                Fit::Pieces(pieces)
            }
        };
        self.exceptions |= exception;
        self.patterns.push(Pattern { exception, text: pattern.to_vec(), fit });
        Ok(())
    }

    /// Decides for a path, with the verdict for the folder that it is in.
    ///
    /// A pattern that could change nothing is not tried, and so does not count for
    /// what is below either; the docker command does the same.
    pub fn verdict(&self, path: &[u8], folder: Option<&Verdict>) -> Verdict {
        let mut ignored = false;
        let mut fits = vec![false; self.patterns.len()];
        for (at, pattern) in self.patterns.iter().enumerate() {
            let inherited = folder.is_some_and(|folder| folder.fits.get(at) == Some(&true));
            let fit = inherited || {
                if pattern.exception != ignored {
                    continue;
                }
                pattern.fits(path)
                    || (folder.is_none() && folders(path).any(|folder| pattern.fits(folder)))
            };
            fits[at] = fit;
            if fit {
                ignored = !pattern.exception;
            }
        }
        Verdict { ignored, fits }
    }

    /// Whether a folder that is left out must be walked for exceptions below it.
    pub fn has_exception_below(&self, folder: &[u8]) -> bool {
        self.exceptions
            && self.patterns.iter().filter(|pattern| pattern.exception).any(|pattern| {
                let rest = pattern.text.strip_prefix(folder);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
            })
    }
}

impl Pattern {
    fn fits(&self, path: &[u8]) -> bool {
        match &self.fit {
            Fit::Exact => path == self.text,
            Fit::Begin(text) => path.starts_with(text),
            Fit::End(text) => path.ends_with(text) || text.strip_prefix(b"/") == Some(path),
            Fit::Pieces(pieces) => pieces.fits(path),
        }
    }
}

/// A line as a pattern in its shortest form, and whether it is an exception.
fn pattern_of(line: &[u8]) -> Option<(bool, Vec<u8>)> {
    let line = trimmed(line);
    let (exception, text) = match line.strip_prefix(b"!") {
        Some(rest) => (true, trimmed(rest)),
        None => (false, line),
    };
    if text.is_empty() {
        return exception.then(|| (true, Vec::new()));
    }
    let text = shortest_of(text);
    let relative = text.strip_prefix(b"/").filter(|rest| !rest.is_empty()).unwrap_or(&text);
    Some((exception, relative.to_vec()))
}

/// Without white space at both ends; bytes that are no text are none.
fn trimmed(line: &[u8]) -> &[u8] {
    let mut chunks = line.utf8_chunks();
    let Some(first) = chunks.next() else { return line };
    let begin = first.valid().len() - first.valid().trim_start().len();
    let last = chunks.last().unwrap_or(first);
    let end = match last.invalid() {
        [] => last.valid().len() - last.valid().trim_end().len(),
        _ => 0,
    };
    line.get(begin..line.len() - end).unwrap_or_default()
}

/// A path without `.`, `..` and doubled slashes, as far as its text tells.
pub fn shortest(path: &str) -> String {
    // What is cut at slashes stays text.
    String::from_utf8_lossy(&shortest_of(path.as_bytes())).into_owned()
}

fn shortest_of(path: &[u8]) -> Vec<u8> {
    let absolute = path.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => drop(parts.pop()),
            b".." if absolute => {}
            part => parts.push(part),
        }
    }
    match (absolute, parts.join(&b'/')) {
        (true, rest) => [b"/", &rest[..]].concat(),
        (false, rest) if rest.is_empty() => b".".to_vec(),
        (false, rest) => rest,
    }
}

/// The folders that a path is in, the outermost first.
fn folders(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    memchr::memchr_iter(b'/', path).map(|at| &path[..at])
}

#[cfg(test)]
mod tests;
