//! `.dockerignore`: which paths of a build context stay out, by Docker's own rules.
//!
//! These are not the rules of `.gitignore`. A pattern counts from the root of the
//! context and not in any folder, `!` takes a path in again, the last pattern that
//! fits decides, and what fits a folder fits all below it. An exception is found
//! below a folder that is left out only when its own text begins with that
//! folder's path: so the docker command walks a tree, and so it is done here.

use regex::Regex;

mod glob;

use glob::Shape;

/// Longest line, as the docker command reads them.
const LONGEST_LINE: usize = 64 << 10;
/// Most patterns; the docker command has no limit.
const MOST_PATTERNS: usize = 10_000;

/// The patterns of one file, in their order.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
    exceptions: bool,
}

#[derive(Debug, Clone)]
struct Pattern {
    /// Takes in again what fits.
    exception: bool,
    /// In its shortest form.
    text: String,
    fit: Fit,
}

#[derive(Debug, Clone)]
enum Fit {
    Exact,
    /// All that begin so.
    Begin(String),
    /// All that end so, and the path that is the end without its slash.
    End(String),
    Regex(Box<Regex>),
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
            let line = String::from_utf8_lossy(line);
            // A comment begins in the first column.
            if line.starts_with('#') {
                continue;
            }
            if let Some((exception, pattern)) = pattern_of(&line) {
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
        match self.verdict(path, None).ignored {
            true => self.add(true, path),
            false => Ok(()),
        }
    }

    fn add(&mut self, exception: bool, pattern: &str) -> Result<(), String> {
        if exception && matches!(pattern, "" | "/") {
            return Err("has a \"!\" without a pattern; name what is taken in again".to_owned());
        }
        let shape = Shape::read(pattern).ok_or_else(|| {
            format!("\"{pattern}\" is no pattern; see its brackets and its last \"\\\"")
        })?;
        let fit = match shape {
            Shape::Plain => Fit::Exact,
            Shape::Begin(text) => Fit::Begin(text),
            Shape::End(text) => Fit::End(text),
            Shape::Regex(regex) => Fit::Regex(Box::new(
                Regex::new(&regex).map_err(|_| format!("\"{pattern}\" is no pattern"))?,
            )),
        };
        self.exceptions |= exception;
        self.patterns.push(Pattern { exception, text: pattern.to_owned(), fit });
        Ok(())
    }

    /// Decides for a path, with the verdict for the folder that it is in.
    ///
    /// A pattern that could change nothing is not tried, and so does not count for
    /// what is below either; the docker command does the same.
    pub fn verdict(&self, path: &str, folder: Option<&Verdict>) -> Verdict {
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
    pub fn has_exception_below(&self, folder: &str) -> bool {
        self.exceptions
            && self.patterns.iter().filter(|pattern| pattern.exception).any(|pattern| {
                let rest = pattern.text.strip_prefix(folder);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
    }
}

impl Pattern {
    fn fits(&self, path: &str) -> bool {
        match &self.fit {
            Fit::Exact => path == self.text,
            Fit::Begin(text) => path.starts_with(text.as_str()),
            Fit::End(text) => path.ends_with(text.as_str()) || text.strip_prefix('/') == Some(path),
            Fit::Regex(regex) => regex.is_match(path),
        }
    }
}

/// A line as a pattern in its shortest form, and whether it is an exception.
fn pattern_of(line: &str) -> Option<(bool, String)> {
    let line = line.trim();
    let (exception, text) = match line.strip_prefix('!') {
        Some(rest) => (true, rest.trim()),
        None => (false, line),
    };
    if text.is_empty() {
        return exception.then(|| (true, String::new()));
    }
    let text = shortest(text);
    let relative = text.strip_prefix('/').filter(|rest| !rest.is_empty()).unwrap_or(&text);
    Some((exception, relative.to_owned()))
}

/// A path without `.`, `..` and doubled slashes, as far as its text tells.
pub fn shortest(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if absolute => {}
            part => parts.push(part),
        }
    }
    match (absolute, parts.join("/")) {
        (true, rest) => format!("/{rest}"),
        (false, rest) if rest.is_empty() => ".".to_owned(),
        (false, rest) => rest,
    }
}

/// The folders that a path is in, the outermost first.
fn folders(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

#[cfg(test)]
mod tests;
