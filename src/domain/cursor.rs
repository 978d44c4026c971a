//! A place among all lines, or all events, of the node, as text.

use crate::domain::{Error, Result};

/// Makes the text: the number of the store and that of the line or event.
pub fn write(store: u64, seq: u64) -> String {
    format!("{store:x}-{seq:x}")
}

/// Reads the text; INVALID_ARGUMENT when it is broken or of another store.
pub fn read(field: &str, cursor: &str, store: u64) -> Result<u64> {
    let wrong = |why: &str| Error::field(field, format!("\"{cursor}\" {why}; begin without it"));
    let number = |text: &str| {
        let plain = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
    };
    let parts = cursor.split_once('-').and_then(|(of, seq)| Some((number(of)?, number(seq)?)));
    match parts {
        Some((of, seq)) if of == store => Ok(seq),
        Some(_) => Err(wrong("is of a store that is gone")),
        None => Err(wrong("is no cursor")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_is_read_back_and_only_by_its_own_store(store: u64, seq: u64) {
            let text = write(store, seq);
            prop_assert_eq!(read("cursor", &text, store).ok(), Some(seq));
            prop_assert!(read("cursor", &text, store.wrapping_add(1)).is_err());
        }

        #[test]
        fn no_text_makes_it_fall(text: String) {
            let _ = read("cursor", &text, 7);
        }
    }
}
