//! Which containers the words of the command line mean.

use crate::{cli::target, rpc::pb};

use super::{Args, Failure};

/// One stream of lines that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// What one word means: a name, else an id, else a hash.
    Word(String),
    /// Containers of which a name fits.
    Pattern(String),
    /// All that have the label, or all.
    Any,
}

/// One meaning of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum By {
    Name(String),
    Id(String),
    Hash(String),
    Pattern(String),
    Any,
}

impl Args {
    /// The streams that are asked for, at least one.
    pub(super) fn sources(&self) -> Result<Vec<Source>, Failure> {
        let mut sources: Vec<Source> = Vec::new();
        let word = |word: &String| match word.contains(['*', '?']) {
            true => Source::Pattern(word.clone()),
            false => Source::Word(word.clone()),
        };
        for source in self.names.iter().map(word) {
            if source.word().is_empty() {
                return Err(Failure::Usage("a NAME is empty".to_owned()));
            }
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        let pattern = Source::Pattern(self.pattern.clone());
        if !self.pattern.is_empty() && !sources.contains(&pattern) {
            sources.push(pattern);
        }
        if sources.is_empty() {
            if !self.all && self.label.is_empty() {
                return Err(Failure::Usage(
                    "say whose lines: logs NAME..., or --pattern GLOB, or --label KEY=VALUE, \
                     or --all"
                        .to_owned(),
                ));
            }
            sources.push(Source::Any);
        }
        Ok(sources)
    }
}

impl Source {
    /// The word, for messages.
    pub(super) fn word(&self) -> &str {
        match self {
            Self::Word(word) | Self::Pattern(word) => word,
            Self::Any => "all",
        }
    }

    /// The word, where it names one container and its predecessors.
    pub(super) fn exact(&self) -> Option<&str> {
        match self {
            Self::Word(word) => Some(word),
            Self::Pattern(_) | Self::Any => None,
        }
    }

    /// The meanings, in the order in which they are tried.
    pub(super) fn meanings(&self) -> Vec<By> {
        match self {
            Self::Pattern(glob) => vec![By::Pattern(glob.clone())],
            Self::Any => vec![By::Any],
            Self::Word(word) => {
                let of_name = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
                let mut meanings = Vec::new();
                if word.chars().all(of_name) {
                    meanings.push(By::Name(word.clone()));
                }
                if target::is_id(word) {
                    meanings.push(By::Id(word.clone()));
                }
                meanings.push(By::Hash(word.clone()));
                meanings
            }
        }
    }
}

impl By {
    pub(super) fn tail(self, mut request: pb::TailLogsRequest) -> pb::TailLogsRequest {
        match self {
            Self::Name(name) => request.name = name,
            Self::Id(id) => request.container_id = id,
            Self::Hash(hash) => request.hash = hash,
            Self::Pattern(glob) => request.name_pattern = glob,
            Self::Any => {}
        }
        request
    }

    pub(super) fn list(self, mut request: pb::ListLogsRequest) -> pb::ListLogsRequest {
        match self {
            Self::Name(name) => request.name = name,
            Self::Id(id) => request.container_id = id,
            Self::Hash(hash) => request.hash = hash,
            Self::Pattern(glob) => request.name_pattern = glob,
            Self::Any => {}
        }
        request
    }
}

/// Asks with each meaning in turn until one is found; when none is, the answer
/// to the first is told.
pub(super) async fn first_found<T>(
    meanings: Vec<By>,
    mut ask: impl AsyncFnMut(By) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut unknown = None;
    for meaning in meanings {
        match ask(meaning).await {
            Err(failure) if failure.is_not_found() => {
                unknown.get_or_insert(failure);
            }
            other => return other,
        }
    }
    Err(unknown.unwrap_or_else(|| Failure::Other("nothing was asked for".to_owned())))
}
