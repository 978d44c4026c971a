//! Containers named on the command line, by name or by id.

use super::{Failure, Output, output::warn};

/// What one word can mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// A name or an alias.
    Name(String),
    /// An engine id or the beginning of one.
    Id(String),
}

/// Calls for each word in turn: as a name, and when nothing has that name, as an id.
/// One that fails does not keep the others from their turn.
pub(super) async fn each(
    words: &[String],
    out: Output,
    mut call: impl AsyncFnMut(Target, Output) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut failed = None;
    for word in words {
        let mut result = call(Target::Name(word.clone()), out).await;
        if matches!(&result, Err(failure) if failure.is_not_found() && is_id(word)) {
            result = call(Target::Id(word.clone()), out).await;
        }
        match result {
            Err(failure @ Failure::Refused(_)) if words.len() > 1 => {
                warn(format_args!("error: {word}: {failure}"));
                failed.get_or_insert(failure.code());
            }
            other => other?,
        }
    }
    failed.map_or(Ok(()), |code| Err(Failure::Told(code)))
}

impl Target {
    /// The name and the id, one of them empty, as the requests want them.
    pub(super) fn name_and_id(self) -> (String, String) {
        match self {
            Self::Name(name) => (name, String::new()),
            Self::Id(id) => (String::new(), id),
        }
    }
}

/// The service takes a unique prefix of at least four digits.
pub(super) fn is_id(word: &str) -> bool {
    (4..=64).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The twelve digits by which people know an id.
pub(super) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    #[tokio::test]
    async fn a_word_is_a_name_first_and_an_id_only_when_it_can_be_one() {
        let words = ["cafe".to_owned(), "web".to_owned(), "feed".to_owned()];
        let mut calls = Vec::new();
        let result = each(&words, Output { json: false }, async |target, _| {
            calls.push(target.clone());
            match target {
                Target::Id(_) => Ok(()),
                Target::Name(_) => Err(Status::not_found("no").into()),
            }
        })
        .await;
        assert_eq!(result.map_err(|failure| failure.code()), Err(3));
        let name = |word: &str| Target::Name(word.to_owned());
        let id = |word: &str| Target::Id(word.to_owned());
        assert_eq!(calls, [name("cafe"), id("cafe"), name("web"), name("feed"), id("feed")]);
    }
}
