//! Tar archives, checked as they pass: no entry may lead out of the directory into
//! which the archive is unpacked.
//!
//! Only headers are looked at, and of those only links are remembered, so many at most.
//! What unpacks it is locked in too; this tells a caller what is wrong before anything
//! is done.
//!
//! The same walk through the bytes tells what the entries are, to who unpacks them.

use links::Links;

use super::{Error, Kind, Result};

mod links;

const BLOCK: usize = 512;
/// What a file of gzip begins with.
const GZIP: &[u8] = &[0x1f, 0x8b];
/// The same of bzip2, xz and zstd, which the engine unpacks too.
const PACKED: [&[u8]; 3] = [b"BZh", b"\xfd7zXZ\0", &[0x28, 0xb5, 0x2f, 0xfd]];
/// And of what zstd skips, after a byte of 0x50 to 0x5f.
const SKIPPED: &[u8] = &[0x2a, 0x4d, 0x18];
/// Why a link is refused.
const OUTSIDE: &str = "is outside; links must stay inside";
/// Longest name, or further fields, that an entry may have.
const LONGEST: u64 = 64 << 10;
/// Bytes of a name that an error tells.
const SHOWN: usize = 512;

/// Follows an archive through its bytes.
#[derive(Debug)]
pub struct Checker {
    /// Where the directory is for those who use it: links may name it in full. `None`
    /// where nobody follows a link, so that it may lead anywhere.
    root: Option<Vec<Vec<u8>>>,
    state: State,
    /// What the entry's own extensions say, until its header comes.
    said: Said,
    entries: u64,
    /// No header has been read yet.
    first: bool,
    links: Links,
}

/// What extensions say of an entry. Those of GNU win over those of POSIX, whichever comes
/// first, and the last of POSIX over all of the ones before, as with what unpacks it.
#[derive(Debug, Default)]
struct Said {
    gnu_path: Option<Vec<u8>>,
    gnu_target: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
}

/// What sort of thing an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// A file; its bytes follow.
    File,
    /// Another name of an earlier entry.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A folder.
    Folder,
    /// A named pipe.
    Fifo,
}

/// An entry, as its headers say.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// What it is.
    pub sort: Sort,
    /// Where it belongs: relative, without `..`.
    pub path: &'a [u8],
    /// Where a link leads to.
    pub target: &'a [u8],
    /// Permissions.
    pub mode: u32,
    /// Bytes of a file.
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: u64,
}

/// What an archive holds, piece by piece.
#[derive(Debug)]
pub enum Part<'a> {
    /// An entry begins, and the one before has ended.
    Entry(Entry<'a>),
    /// Bytes of the file at hand.
    Data(&'a [u8]),
}

#[derive(Debug)]
enum State {
    /// A header, of which so much has come.
    Header(Vec<u8>),
    /// Data of an entry, so many bytes of which are to come, and what fills its last
    /// block.
    Data { left: u64, filling: u64 },
    /// The fields of an extension, and what fills its last block.
    Extension { kind: u8, size: u64, padded: u64, read: Vec<u8> },
    /// The end was there; what follows is filling.
    Ended,
}

impl Checker {
    /// For an archive that is unpacked where this path leads to.
    pub fn new(root: &str) -> Self {
        Self::with(Some(parts(root.as_bytes()).map(<[u8]>::to_vec).collect()))
    }

    /// For an archive of which nobody follows a link.
    pub fn of_any_links() -> Self {
        Self::with(None)
    }

    fn with(root: Option<Vec<Vec<u8>>>) -> Self {
        let state = State::Header(Vec::new());
        let (said, links) = (Said::default(), Links::default());
        Self { root, state, said, entries: 0, first: true, links }
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        self.read(bytes, &mut |_| Ok(()))
    }

    /// Takes the next bytes and tells what they are.
    pub fn read(
        &mut self,
        mut bytes: &[u8],
        tell: &mut dyn FnMut(Part<'_>) -> Result<()>,
    ) -> Result<()> {
        while !bytes.is_empty() {
            let state = std::mem::replace(&mut self.state, State::Ended);
            self.state = match state {
                State::Ended => return Ok(()),
                State::Data { left, filling } => {
                    let up_to = |most: u64, bytes: &[u8]| {
                        usize::try_from(most).unwrap_or(bytes.len()).min(bytes.len())
                    };
                    let (data, rest) = bytes.split_at(up_to(left, bytes));
                    if !data.is_empty() {
                        tell(Part::Data(data))?;
                    }
                    let skip = if data.len() as u64 == left { up_to(filling, rest) } else { 0 };
                    bytes = &rest[skip..];
                    match (left - data.len() as u64, filling - skip as u64) {
                        (0, 0) => State::Header(Vec::new()),
                        (left, filling) => State::Data { left, filling },
                    }
                }
                State::Extension { kind, size, padded, mut read } => {
                    let left = usize::try_from(padded).unwrap_or(0) - read.len();
                    let take = left.min(bytes.len());
                    read.extend_from_slice(&bytes[..take]);
                    bytes = &bytes[take..];
                    if take < left {
                        State::Extension { kind, size, padded, read }
                    } else {
                        read.truncate(usize::try_from(size).unwrap_or(0));
                        self.extend(kind, &read)?;
                        State::Header(Vec::new())
                    }
                }
                State::Header(mut header) => {
                    let take = (BLOCK - header.len()).min(bytes.len());
                    header.extend_from_slice(&bytes[..take]);
                    bytes = &bytes[take..];
                    match header.len() < BLOCK {
                        true => State::Header(header),
                        false => self.header(&header, tell)?,
                    }
                }
            };
        }
        Ok(())
    }

    /// Whether the end of the archive was there.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Says whether it was a whole archive.
    pub fn finish(&self) -> Result<()> {
        match &self.state {
            State::Ended => Ok(()),
            State::Header(header) if header.is_empty() && self.entries == 0 => {
                Err(refused("there is no archive; send a tar"))
            }
            State::Header(header) if self.is_compressed(header) => Err(compressed()),
            _ => Err(refused("the archive is cut short; send all of it")),
        }
    }

    fn header(
        &mut self,
        header: &[u8],
        tell: &mut dyn FnMut(Part<'_>) -> Result<()>,
    ) -> Result<State> {
        if header.iter().all(|byte| *byte == 0) {
            return Ok(State::Ended);
        }
        if self.is_compressed(header) {
            return Err(compressed());
        }
        self.first = false;
        let sum: u64 = header.iter().map(|byte| u64::from(*byte)).sum();
        let sum = sum - header[148..156].iter().map(|byte| u64::from(*byte)).sum::<u64>() + 8 * 32;
        if number(&header[148..156]) != Some(sum) {
            return Err(refused("this is no tar archive, or it is damaged"));
        }
        let size = number(&header[124..136]).ok_or_else(|| refused("an entry has no size"))?;
        let kind = header[156];
        if matches!(kind, b'x' | b'g' | b'L' | b'K') {
            if size > LONGEST {
                return Err(refused("an entry's name or further fields are too long"));
            }
            let padded = size.div_ceil(BLOCK as u64) * BLOCK as u64;
            if kind == b'g' {
                // To what unpacks it this is the entry of which the others spoke.
                self.said = Said::default();
            }
            if padded == 0 {
                self.extend(kind, &[])?;
            }
            return Ok(match padded {
                0 => State::Header(Vec::new()),
                padded => State::Extension { kind, size, padded, read: Vec::new() },
            });
        }
        self.entries += 1;
        let said = std::mem::take(&mut self.said);
        let path = said.gnu_path.or(said.path).unwrap_or_else(|| name(header));
        let target = said.gnu_target.or(said.target);
        let target = target.unwrap_or_else(|| text(&header[157..257]).to_vec());
        let size = said.size.unwrap_or(size);
        let sort = match self.entry(kind, &path, &target)? {
            // In old archives a folder is a file whose name ends so.
            Sort::File if path.ends_with(b"/") && (kind == 0 || size == 0) => Sort::Folder,
            sort => sort,
        };
        // Only files have data, whatever their header says.
        let size = if sort == Sort::File { size } else { 0 };
        let blocks = size.checked_next_multiple_of(BLOCK as u64);
        let blocks = blocks.ok_or_else(|| wrong(&path, "is larger than anything"))?;
        let mode = number(&header[100..108]).and_then(|mode| u32::try_from(mode).ok());
        tell(Part::Entry(Entry {
            sort,
            path: &path,
            target: &target,
            mode: mode.unwrap_or(0) & 0o7777,
            size,
            mtime: number(&header[136..148]).unwrap_or(0),
        }))?;
        Ok(match size {
            0 => State::Header(Vec::new()),
            left => State::Data { left, filling: blocks - size },
        })
    }

    /// What begins so the engine takes for compressed, even where it is a tar.
    fn is_compressed(&self, header: &[u8]) -> bool {
        let packed = PACKED.iter().any(|magic| header.starts_with(magic));
        let skipped = || {
            let (first, rest) = header.split_first()?;
            (first & 0xf0 == 0x50 && rest.starts_with(SKIPPED)).then_some(())
        };
        let by_engine = self.first && self.root.is_some();
        header.starts_with(GZIP) || by_engine && (packed || skipped().is_some())
    }

    fn entry(&mut self, kind: u8, path: &[u8], target: &[u8]) -> Result<Sort> {
        let depth = depth(path).map_err(|why| wrong(path, why))?;
        let link = |why: &str| wrong(path, &format!("links to \"{}\", which {why}", shown(target)));
        if self.links.lead_to(path) {
            return Err(wrong(path, "is behind a link; name where it really is"));
        }
        let from = depth.saturating_sub(1);
        let (sort, ups) = match kind {
            0 | b'0' => (Sort::File, None),
            b'7' if self.root.is_none() => (Sort::File, None),
            b'5' => (Sort::Folder, None),
            b'6' => (Sort::Fifo, None),
            // A hard link names another entry. Where that is a link, it is one too.
            b'1' => {
                self::depth(target).map_err(link)?;
                let ups = self.links.ups(target);
                if self.links.lead_to(target) || ups.is_some_and(|ups| ups > from) {
                    return Err(link("leads outside; links must stay inside"));
                }
                (Sort::HardLink, ups)
            }
            b'2' if self.root.is_none() => (Sort::Symlink, None),
            b'2' if target.starts_with(b"/") => match self.is_inside(target) {
                true => (Sort::Symlink, Some(0)),
                false => return Err(link(OUTSIDE)),
            },
            b'2' => (Sort::Symlink, Some(goes_up(from, target).map_err(link)?)),
            b'3' | b'4' => return Err(wrong(path, "is a device; leave it out")),
            b'S' => {
                return Err(wrong(path, "is a sparse file; make the archive without --sparse"));
            }
            _ => return Err(wrong(path, "is of a kind that is not known; leave it out")),
        };
        if !self.links.note(path, ups) {
            return Err(wrong(path, &format!("is one link too many; at most {} are", links::MOST)));
        }
        Ok(sort)
    }

    /// True for a whole path that stays below the root.
    fn is_inside(&self, target: &[u8]) -> bool {
        let mut parts = parts(target);
        let below = self.root.iter().flatten().all(|part| parts.next() == Some(part));
        below && parts.all(|part| part != b"..")
    }

    fn extend(&mut self, kind: u8, content: &[u8]) -> Result<()> {
        match kind {
            b'L' => self.said.gnu_path = some(text(content)),
            b'K' => self.said.gnu_target = some(text(content)),
            b'x' => {
                let said = &mut self.said;
                (said.path, said.target, said.size) = (None, None, None);
                for (key, value) in records(content)? {
                    match key {
                        b"path" | b"linkpath" if value.contains(&0) => {
                            let why = format!("the name \"{}\" has a NUL byte", shown(value));
                            return Err(refused(&format!("{why}; no file can be called so")));
                        }
                        b"path" => said.path = some(value),
                        b"linkpath" => said.target = some(value),
                        b"size" if value.is_empty() => said.size = None,
                        b"size" => {
                            let size = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                            let why = || refused("an entry has no size");
                            said.size = Some(size.ok_or_else(why)?);
                        }
                        key if key.starts_with(b"GNU.sparse.") => {
                            return Err(refused(
                                "the archive has sparse files; make it without --sparse",
                            ));
                        }
                        _ => {}
                    }
                }
            }
            // What is said of all entries at once names none.
            _ => {}
        }
        Ok(())
    }
}

/// `LENGTH KEY=VALUE\n` each.
fn records(mut content: &[u8]) -> Result<Vec<(&[u8], &[u8])>> {
    let broken = || refused("an entry's further fields are broken");
    let mut found = Vec::new();
    while !content.is_empty() {
        let space = memchr::memchr(b' ', content).ok_or_else(broken)?;
        let length = std::str::from_utf8(&content[..space]).ok().and_then(|n| n.parse().ok());
        let record = length.and_then(|length: usize| content.get(space + 1..length));
        let record = record.and_then(|record| record.strip_suffix(b"\n")).ok_or_else(broken)?;
        let equals = memchr::memchr(b'=', record).ok_or_else(broken)?;
        found.push((&record[..equals], &record[equals + 1..]));
        content = &content[length.unwrap_or(content.len())..];
    }
    Ok(found)
}

/// Octal digits, or bytes after a mark.
fn number(field: &[u8]) -> Option<u64> {
    if field.first().is_some_and(|byte| byte & 0x80 != 0) {
        let (first, rest) = field.split_first()?;
        return rest.iter().try_fold(u64::from(first & 0x7f), |sum, byte| {
            sum.checked_mul(256).map(|sum| sum + u64::from(*byte))
        });
    }
    let digits = std::str::from_utf8(text(field)).ok()?.trim();
    u64::from_str_radix(if digits.is_empty() { "0" } else { digits }, 8).ok()
}

/// The name in a header, which POSIX cuts in two.
fn name(header: &[u8]) -> Vec<u8> {
    let name = text(&header[..100]);
    let prefix = text(&header[345..500]);
    match &header[257..263] == b"ustar\0" && !prefix.is_empty() {
        true => [prefix, b"/", name].concat(),
        false => name.to_vec(),
    }
}

fn text(field: &[u8]) -> &[u8] {
    &field[..memchr::memchr(0, field).unwrap_or(field.len())]
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."))
}

/// How deep a relative path without `..` leads.
fn depth(path: &[u8]) -> Result<usize, &'static str> {
    if path.starts_with(b"/") {
        return Err("is absolute; paths must be relative");
    }
    if parts(path).any(|part| part == b"..") {
        return Err("contains \"..\"; paths must stay inside");
    }
    Ok(parts(path).count())
}

/// How often a relative link goes up from a directory so deep.
fn goes_up(from: usize, target: &[u8]) -> Result<usize, &'static str> {
    let is_up = |part: &&[u8]| *part == b"..";
    let ups = parts(target).take_while(is_up).count();
    if ups > from {
        return Err(OUTSIDE);
    }
    // A name may be another link, from which the way up is another one.
    if parts(target).skip(ups).any(|part| is_up(&part)) {
        return Err("goes up behind a name; links may go up only where they begin");
    }
    Ok(ups)
}

/// A path for an error, which is not as long as paths may be.
pub fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(&path[..path.len().min(SHOWN)]).replace('\0', "\\0");
    if path.len() > SHOWN { text + "..." } else { text }
}

/// What is empty says nothing.
fn some(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty()).then(|| value.to_vec())
}

fn wrong(path: &[u8], why: &str) -> Error {
    refused(&format!("the entry \"{}\" {why}", shown(path)))
}

fn compressed() -> Error {
    refused("the archive is compressed, or begins as if it were; send it as plain tar")
}

fn refused(why: &str) -> Error {
    Error::new(Kind::InvalidArgument, "ARCHIVE_REFUSED", why)
}

#[cfg(test)]
mod tests;
