//! Page tokens: where the next page begins, bound to the query it belongs to.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use super::error::{Error, Result};

/// Makes the token of the page that begins after `last`.
pub fn token(query: &str, last: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}{last}", tag(query)))
}

/// Reads a token; INVALID_ARGUMENT when it is broken or of another query.
pub fn read(token: &str, query: &str) -> Result<String> {
    let wrong = |why: &str| Error::field("pageToken", format!("{why}; begin without a token"));
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| wrong("is not a page token"))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("is not a page token"))?;
    match text.split_at_checked(16) {
        Some((have, last)) if have == tag(query) => Ok(last.to_owned()),
        Some(_) => Err(wrong("belongs to another query")),
        None => Err(wrong("is not a page token")),
    }
}

fn tag(query: &str) -> String {
    super::spec::hex(&Sha256::digest(query)[..8])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_token_is_read_back_and_only_by_its_own_query(
            query: String, other: String, last: String,
        ) {
            let made = token(&query, &last);
            prop_assert_eq!(read(&made, &query).ok(), Some(last));
            prop_assert_eq!(read(&made, &other).is_ok(), query == other);
        }

        #[test]
        fn no_text_makes_it_fall(text: String, bytes: Vec<u8>) {
            prop_assert!(read(&text, "a").is_err());
            prop_assert!(read(&URL_SAFE_NO_PAD.encode(bytes), "a").is_err());
        }
    }

    #[test]
    fn a_token_opens_only_its_own_query() {
        let made = token("a", "last");
        assert_eq!(read(&made, "a").expect("own"), "last");
        assert!(read(&made, "b").is_err());
        for broken in ["", "!", "AAAA", &made[1..]] {
            assert!(read(broken, "a").is_err(), "{broken}");
        }
    }
}
