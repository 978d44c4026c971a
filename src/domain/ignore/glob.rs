//! One pattern of a `.dockerignore`, turned into what it is matched by.
//!
//! Paths are bytes. Where a pattern has wildcards it is held against characters, and a
//! byte that is part of none counts as U+FFFD on both sides, as with the docker command.

use std::{iter::Peekable, mem};

/// How paths are held against a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    /// Equal to it.
    Plain,
    /// `x**`: beginning with this.
    Begin(Vec<u8>),
    /// `**x`: ending with this.
    End(Vec<u8>),
    /// Piece by piece.
    Pieces(Pieces),
}

/// A pattern with wildcards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pieces {
    pieces: Box<[Piece]>,
    /// What the path ends with in any case; most paths are done with by this.
    end: Vec<u8>,
}

/// A part of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// This character, and whether it was escaped.
    One(char, bool),
    /// `^` beside wildcards: the docker command does not escape it, so it anchors.
    Anchor,
    /// `?`: any character but a slash.
    Any,
    /// `*`: any number of these.
    Star,
    /// `**` or `**/` with something after it: any number of folders.
    Folders,
    /// `**` at the end: everything.
    Rest,
    /// `[…]`: in one of these ranges, or, if so marked, in none.
    Class(bool, Vec<(char, char)>),
}

impl Shape {
    /// `None` for what is no pattern.
    pub(super) fn read(pattern: &[u8]) -> Option<Self> {
        let pieces = pieces(pattern)?;
        let plain = |pieces: &[Piece]| {
            pieces.iter().all(|piece| matches!(piece, Piece::One(_, false) | Piece::Anchor))
        };
        Some(match pieces.as_slice() {
            all if plain(all) => Self::Plain,
            [Piece::Rest] => Self::End(Vec::new()),
            // The text after the stars counts, its slash too; with more stars it is none.
            [Piece::Folders, rest @ ..]
                if plain(rest) && !pattern.iter().skip(2).any(|byte| *byte == b'*') =>
            {
                Self::End(pattern.strip_prefix(b"**").unwrap_or_default().to_vec())
            }
            [begin @ .., Piece::Rest] if plain(begin) => {
                Self::Begin(pattern.strip_suffix(b"**").unwrap_or_default().to_vec())
            }
            _ => Self::Pieces(Pieces::new(pieces)),
        })
    }
}

impl Pieces {
    fn new(pieces: Vec<Piece>) -> Self {
        let one = |piece: &Piece| match piece {
            Piece::One(c, _) if *c != char::REPLACEMENT_CHARACTER => Some(*c),
            _ => None,
        };
        let count = pieces.iter().rev().map_while(one).count();
        let end: String = pieces[pieces.len() - count..].iter().filter_map(one).collect();
        Self { pieces: pieces.into(), end: end.into_bytes() }
    }

    /// How much it takes of the memory, in pieces and ranges.
    pub(super) fn size(&self) -> usize {
        let of = |piece: &Piece| match piece {
            Piece::Class(_, ranges) => 1 + ranges.len(),
            _ => 1,
        };
        self.pieces.iter().map(of).sum()
    }

    /// Follows all ways through the pattern at once, so no pattern takes long.
    pub(super) fn fits(&self, path: &[u8]) -> bool {
        if !path.ends_with(&self.end) {
            return false;
        }
        let (mut now, mut next) = (Places::new(&self.pieces), Places::new(&self.pieces));
        let first = self.pieces.iter().take_while(|piece| **piece == Piece::Anchor).count();
        now.reach(first);
        // What may be empty may have an anchor behind it.
        for at in first..self.pieces.len() {
            match &self.pieces[at] {
                Piece::Anchor if now.seen[at] => now.reach(at + 1),
                Piece::Anchor | Piece::Star | Piece::Folders | Piece::Rest => {}
                _ => break,
            }
        }
        for c in characters(path).map(whole) {
            for &at in &now.list {
                match self.pieces.get(at) {
                    Some(Piece::One(one, _)) if *one == c => next.reach(at + 1),
                    Some(Piece::Any) if c != '/' => next.reach(at + 1),
                    Some(Piece::Class(none, ranges))
                        if ranges.iter().any(|(a, z)| (a..=z).contains(&&c)) != *none =>
                    {
                        next.reach(at + 1);
                    }
                    Some(Piece::Star) if c != '/' => next.reach(at),
                    Some(Piece::Rest) if c != '\n' => next.reach(at),
                    Some(Piece::Folders) if c == '/' => {
                        next.put(at);
                        next.reach(at + 1);
                    }
                    Some(Piece::Folders) if c != '\n' => next.put(at),
                    _ => {}
                }
            }
            now.clear();
            mem::swap(&mut now, &mut next);
            if now.list.is_empty() {
                return false;
            }
        }
        now.seen[self.pieces.len()]
    }
}

/// How far in a pattern a path may be.
struct Places<'a> {
    pieces: &'a [Piece],
    list: Vec<usize>,
    seen: Vec<bool>,
}

impl<'a> Places<'a> {
    fn new(pieces: &'a [Piece]) -> Self {
        Self { pieces, list: Vec::new(), seen: vec![false; pieces.len() + 1] }
    }

    fn put(&mut self, at: usize) {
        if !mem::replace(&mut self.seen[at], true) {
            self.list.push(at);
        }
    }

    /// Puts a place, and those behind it up to which there may be nothing.
    fn reach(&mut self, mut at: usize) {
        self.put(at);
        // No more than two such are beside each other.
        while let Some(Piece::Star | Piece::Folders | Piece::Rest) = self.pieces.get(at) {
            at += 1;
            self.put(at);
        }
    }

    fn clear(&mut self) {
        for at in self.list.drain(..) {
            self.seen[at] = false;
        }
    }
}

/// The characters of a text; `None` is a byte that is part of none.
fn characters(text: &[u8]) -> impl Iterator<Item = Option<char>> {
    text.utf8_chunks().flat_map(|chunk| {
        let broken = chunk.invalid().iter().map(|_| None);
        chunk.valid().chars().map(Some).chain(broken)
    })
}

fn whole(c: Option<char>) -> char {
    c.unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn pieces(pattern: &[u8]) -> Option<Vec<Piece>> {
    let mut rest = characters(pattern).peekable();
    let mut pieces = Vec::new();
    while let Some(c) = rest.next() {
        let piece = match whole(c) {
            '*' if rest.next_if_eq(&Some('*')).is_some() => {
                rest.next_if_eq(&Some('/'));
                if rest.peek().is_some() { Piece::Folders } else { Piece::Rest }
            }
            '*' => Piece::Star,
            '?' => Piece::Any,
            '[' => class(&mut rest)?,
            '\\' => Piece::One(whole(rest.next()?), true),
            '^' => Piece::Anchor,
            c => Piece::One(c, false),
        };
        // Any number of folders, and again any number of them.
        if piece != Piece::Folders || pieces.last() != Some(&piece) {
            pieces.push(piece);
        }
    }
    Some(pieces)
}

/// The rest of a class after its bracket.
fn class(rest: &mut Peekable<impl Iterator<Item = Option<char>>>) -> Option<Piece> {
    let none = rest.next_if_eq(&Some('^')).is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && rest.next_if_eq(&Some(']')).is_some() {
            return Some(Piece::Class(none, ranges));
        }
        let first = end_of_range(rest)?;
        let last = if rest.next_if_eq(&Some('-')).is_some() { end_of_range(rest)? } else { first };
        if first > last {
            return None;
        }
        ranges.push((first, last));
    }
}

/// No broken one, with which the docker command takes no class.
fn end_of_range(rest: &mut impl Iterator<Item = Option<char>>) -> Option<char> {
    match rest.next()?? {
        '-' | ']' => None,
        '\\' => rest.next()?,
        c => Some(c),
    }
}
