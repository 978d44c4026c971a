//! The headers of a tar archive, made so that the same tree gives the same bytes.
//!
//! Owner and group are 0 and unnamed. What the old header cannot hold stands in an
//! extended one before it (POSIX.1-2001, pax), which the engine reads.

use super::walk::{Entry, Sort};

/// Archives are made of blocks.
const BLOCK: usize = 512;
/// What the eleven octal digits of a size hold.
const LARGEST: u64 = 0o77_777_777_777;
/// Lengths of a name and of a link's target.
const NAME: usize = 100;
/// The two empty blocks that end an archive.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Writes the header of an entry.
pub(super) fn header(entry: &Entry<'_>, out: &mut Vec<u8>) {
    let mut path = entry.path.to_vec();
    if entry.sort == Sort::Folder {
        path.push(b'/');
    }
    let size = if entry.sort == Sort::File { entry.size } else { 0 };
    let mut more = Vec::new();
    if path.len() > NAME {
        record(&mut more, "path", &path);
    }
    if entry.link.len() > NAME {
        record(&mut more, "linkpath", entry.link);
    }
    if size > LARGEST {
        record(&mut more, "size", size.to_string().as_bytes());
    }
    if !entry.capability.is_empty() {
        record(&mut more, "SCHILY.xattr.security.capability", entry.capability);
    }
    if !more.is_empty() {
        let size = more.len() as u64;
        block(out, b"pax", b"", b'x', 0o644, size, 0);
        out.extend_from_slice(&more);
        pad(out, size);
    }
    let sort = match entry.sort {
        Sort::File => b'0',
        Sort::HardLink => b'1',
        Sort::Symlink => b'2',
        Sort::Folder => b'5',
        Sort::Fifo => b'6',
    };
    // Times before 1970 have no octal digits.
    let mtime = u64::try_from(entry.mtime).unwrap_or(0).min(LARGEST);
    block(out, &path, entry.link, sort, entry.mode & 0o7777, size, mtime);
}

/// Fills the last block of so many bytes.
pub(super) fn pad(out: &mut Vec<u8>, size: u64) {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    if over > 0 {
        out.resize(out.len() + BLOCK - over, 0);
    }
}

fn block(out: &mut Vec<u8>, path: &[u8], link: &[u8], sort: u8, mode: u32, size: u64, mtime: u64) {
    let mut block = [0; BLOCK];
    put(&mut block[0..NAME], path);
    octal(&mut block[100..108], mode.into());
    octal(&mut block[108..116], 0);
    octal(&mut block[116..124], 0);
    octal(&mut block[124..136], size.min(LARGEST));
    octal(&mut block[136..148], mtime);
    block[156] = sort;
    put(&mut block[157..257], link);
    put(&mut block[257..265], b"ustar\x0000");
    // The sum is taken with spaces in its own place.
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    out.extend_from_slice(&block);
}

fn put(field: &mut [u8], bytes: &[u8]) {
    let length = bytes.len().min(field.len());
    field[..length].copy_from_slice(&bytes[..length]);
}

/// Digits to the last byte but one, which is NUL.
fn octal(field: &mut [u8], mut number: u64) {
    let digits = field.len() - 1;
    for digit in field[..digits].iter_mut().rev() {
        *digit = b'0' + (number & 7) as u8;
        number >>= 3;
    }
    field[digits] = 0;
}

/// `length key=value`, where the length counts itself.
fn record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} {key}=").as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for (length, expected) in [(1, "9"), (2, "11"), (89, "98"), (90, "99"), (91, "101")] {
            let mut out = Vec::new();
            record(&mut out, "path", &vec![b'a'; length]);
            let told = String::from_utf8(out.clone()).unwrap();
            assert!(told.starts_with(&format!("{expected} path=a")), "{told}");
            assert_eq!(out.len().to_string(), expected);
        }
    }

    #[test]
    fn entries_are_whole_blocks_and_say_nothing_of_the_owner() {
        for length in [1, 99, 100, 101, 3000] {
            let (path, mut out) = (vec![b'p'; length], Vec::new());
            let entry = Entry {
                sort: Sort::Symlink,
                path: &path,
                link: &path,
                mode: 0o120_777,
                size: 0,
                mtime: -1,
                nanos: 0,
                capability: b"",
            };
            header(&entry, &mut out);
            assert_eq!(out.len() % BLOCK, 0);
            assert_eq!(out.len() > BLOCK, length > 100);
            let last = &out[out.len() - BLOCK..];
            assert_eq!(&last[100..124], b"0000777\x000000000\x000000000\0");
            assert_eq!(
                (&last[136..148], &last[257..263]),
                (&b"00000000000\0"[..], &b"ustar\0"[..])
            );
        }
    }
}
