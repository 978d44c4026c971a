//! One pattern of a `.dockerignore`, turned into what it is matched by.

use std::{iter::Peekable, str::Chars};

/// How paths are held against a pattern.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Equal to it.
    Plain,
    /// `x**`: beginning with this.
    Begin(String),
    /// `**x`: ending with this.
    End(String),
    /// This regular expression.
    Regex(String),
}

/// A part of a pattern.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    /// This character, and whether it was escaped.
    One(char, bool),
    /// `?`: any character but a slash.
    Any,
    /// `*`: any number of these.
    Star,
    /// `**` or `**/` with something after it: any number of folders.
    Folders,
    /// `**` at the end: everything.
    Rest,
    /// `[…]`, as a regular expression writes it.
    Class(String),
}

impl Shape {
    /// `None` for what is no pattern.
    pub(super) fn read(pattern: &str) -> Option<Self> {
        let pieces = pieces(pattern)?;
        let plain = |pieces: &[Piece]| {
            let one = |piece: &Piece| match piece {
                Piece::One(c, false) => Some(*c),
                _ => None,
            };
            pieces.iter().map(one).collect::<Option<String>>()
        };
        Some(match pieces.as_slice() {
            all if plain(all).is_some() => Self::Plain,
            [Piece::Rest] => Self::End(String::new()),
            // The text after the stars counts, its slash too.
            [Piece::Folders, rest @ ..] if plain(rest).is_some() => {
                Self::End(pattern.strip_prefix("**").unwrap_or_default().to_owned())
            }
            [begin @ .., Piece::Rest] if plain(begin).is_some() => {
                Self::Begin(plain(begin).unwrap_or_default())
            }
            all => Self::Regex(format!("^{}$", all.iter().map(Piece::regex).collect::<String>())),
        })
    }
}

impl Piece {
    fn regex(&self) -> String {
        match self {
            // The docker command does not escape it, so it anchors.
            Self::One('^', false) => "^".to_owned(),
            Self::One(c, _) => regex::escape(&c.to_string()),
            Self::Any => "[^/]".to_owned(),
            Self::Star => "[^/]*".to_owned(),
            Self::Folders => "(?:.*/)?".to_owned(),
            Self::Rest => ".*".to_owned(),
            Self::Class(class) => class.clone(),
        }
    }
}

fn pieces(pattern: &str) -> Option<Vec<Piece>> {
    let mut rest = pattern.chars().peekable();
    let mut pieces = Vec::new();
    while let Some(c) = rest.next() {
        pieces.push(match c {
            '*' if rest.next_if_eq(&'*').is_some() => {
                rest.next_if_eq(&'/');
                if rest.peek().is_some() { Piece::Folders } else { Piece::Rest }
            }
            '*' => Piece::Star,
            '?' => Piece::Any,
            '[' => Piece::Class(class(&mut rest)?),
            '\\' => Piece::One(rest.next()?, true),
            c => Piece::One(c, false),
        });
    }
    Some(pieces)
}

/// The rest of a class after its bracket.
fn class(rest: &mut Peekable<Chars<'_>>) -> Option<String> {
    let mut regex = String::from("[");
    if rest.next_if_eq(&'^').is_some() {
        regex.push('^');
    }
    let mut ranges = 0;
    loop {
        if ranges > 0 && rest.next_if_eq(&']').is_some() {
            regex.push(']');
            return Some(regex);
        }
        let first = end_of_range(rest)?;
        let last = if rest.next_if_eq(&'-').is_some() { end_of_range(rest)? } else { first };
        if first > last {
            return None;
        }
        regex.push_str(&format!("\\x{{{:x}}}-\\x{{{:x}}}", u32::from(first), u32::from(last)));
        ranges += 1;
    }
}

fn end_of_range(rest: &mut Peekable<Chars<'_>>) -> Option<char> {
    match rest.next()? {
        '-' | ']' => None,
        '\\' => rest.next(),
        c => Some(c),
    }
}
