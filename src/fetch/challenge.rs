//! Reads `WWW-Authenticate`: which schemes a registry offers, and their parameters.

use std::{iter::Peekable, str::Chars};

/// One offered scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    /// In lowercase, as in `bearer`.
    pub(super) scheme: String,
    params: Vec<(String, String)>,
}

impl Challenge {
    /// The first value of a parameter; `name` in lowercase.
    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// All challenges of one header value (RFC 9110, 11.6.1); what is no challenge is skipped.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = header.chars().peekable();
    while rest.peek().is_some() {
        let word = token(&mut rest);
        if word.is_empty() {
            // A comma, a space, or something that belongs to no challenge.
            rest.next();
            continue;
        }
        skip_spaces(&mut rest);
        match found.last_mut() {
            Some(current) if rest.next_if_eq(&'=').is_some() => {
                skip_spaces(&mut rest);
                let value = value(&mut rest);
                current.params.push((word.to_ascii_lowercase(), value));
            }
            _ => found.push(Challenge { scheme: word.to_ascii_lowercase(), params: Vec::new() }),
        }
    }
    found
}

fn skip_spaces(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|c| matches!(c, ' ' | '\t')).is_some() {}
}

fn token(rest: &mut Peekable<Chars<'_>>) -> String {
    let mut word = String::new();
    while let Some(c) =
        rest.next_if(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(*c))
    {
        word.push(c);
    }
    word
}

fn value(rest: &mut Peekable<Chars<'_>>) -> String {
    if rest.next_if_eq(&'"').is_none() {
        return token(rest);
    }
    let mut text = String::new();
    while let Some(c) = rest.next() {
        match c {
            '"' => break,
            '\\' => text.extend(rest.next()),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::parse;
    use proptest::prelude::*;

    #[test]
    fn a_quoted_comma_does_not_end_a_parameter() {
        let found =
            parse(r#"Bearer realm="https://a/t",service="s",scope="repository:x:pull,push""#);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].scheme, "bearer");
        assert_eq!(found[0].param("realm"), Some("https://a/t"));
        assert_eq!(found[0].param("scope"), Some("repository:x:pull,push"));
        assert_eq!(found[0].param("error"), None);
    }

    #[test]
    fn one_header_may_hold_several_challenges() {
        let found = parse(r#"Negotiate, BASIC Realm = "a \"b\"" , Bearer realm=x, service=y"#);
        let schemes: Vec<_> = found.iter().map(|c| c.scheme.as_str()).collect();
        assert_eq!(schemes, ["negotiate", "basic", "bearer"]);
        assert_eq!(found[1].param("realm"), Some("a \"b\""));
        assert_eq!(found[2].param("service"), Some("y"));
    }

    #[test]
    fn a_broken_header_gives_what_can_be_read() {
        assert!(parse("").is_empty());
        assert!(parse(" ,,= ").is_empty());
        assert_eq!(parse("Basic realm=\"open")[0].param("realm"), Some("open"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_header_makes_it_panic(text in "\\PC*") {
            parse(&text);
        }
    }
}
