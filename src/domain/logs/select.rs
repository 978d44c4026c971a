//! Which containers a question is after.

use std::collections::BTreeMap;

/// Filters on the container of a line; an empty one fits all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Id, whole.
    pub container_id: String,
    /// Name or alias.
    pub name: String,
    /// Hash, the caller's or the computed one.
    pub hash: String,
    /// Pattern of a name or alias.
    pub name_pattern: String,
    /// Label, `key` or `key=value`.
    pub label: String,
}

impl Selection {
    /// True when a container with these properties is asked for.
    pub fn fits(
        &self,
        id: &str,
        names: &[String],
        hashes: &[String],
        labels: &BTreeMap<String, String>,
    ) -> bool {
        let label = || match self.label.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|have| have == value),
            None => labels.contains_key(&self.label),
        };
        (self.container_id.is_empty() || self.container_id == id)
            && (self.name.is_empty() || names.contains(&self.name))
            && (self.hash.is_empty() || hashes.contains(&self.hash))
            && (self.name_pattern.is_empty()
                || names.iter().any(|name| glob(&self.name_pattern, name)))
            && (self.label.is_empty() || label())
    }

    /// True when it asks for what must be there: an id, a name or a hash.
    pub fn names_one(&self) -> bool {
        !(self.container_id.is_empty() && self.name.is_empty() && self.hash.is_empty())
    }
}

/// True when the pattern fits the whole text; `*` is any text, `?` one character.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where the last star stands, and how far its text was taken to reach.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(char) if *char == '?' || *char == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match &mut star {
                Some((at, reach)) => {
                    *reach += 1;
                    (p, t) = (*at + 1, *reach);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|char| *char == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_the_whole_name() {
        for (pattern, name, fits) in [
            ("web-*", "web-1", true),
            ("web-*", "my-web-1", false),
            ("*web*", "my-web-1", true),
            ("web-?", "web-12", false),
            ("*-*-1", "a-b-c-1", true),
            ("*", "", true),
            ("?", "", false),
            ("a*b*c", "aXbYbZc", true),
        ] {
            assert_eq!(glob(pattern, name), fits, "{pattern} {name}");
        }
    }
}
