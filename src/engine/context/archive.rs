//! A context as one tar archive.

use std::fs::File;

use super::{
    pieces::{PIECE, Pieces, read},
    tar,
    walk::{Entry, Result, Sink, Sort},
};

/// The archive that is being written.
pub(super) struct Archive<'a>(pub(super) Pieces<'a>);

impl Archive<'_> {
    /// Adds a file that is not on the disk.
    pub(super) fn file_of(&mut self, path: &str, content: &[u8]) -> Result<()> {
        let size = content.len() as u64;
        let entry = Entry {
            sort: Sort::File,
            path: path.as_bytes(),
            link: b"",
            mode: 0o600,
            size,
            mtime: 0,
            nanos: 0,
            capability: b"",
        };
        tar::header(&entry, &mut self.0.buffer);
        self.0.buffer.extend_from_slice(content);
        tar::pad(&mut self.0.buffer, size);
        self.0.flush(PIECE)
    }

    /// Ends it.
    pub(super) fn end(mut self) -> Result<()> {
        self.0.buffer.extend_from_slice(&tar::END);
        self.0.flush(0)
    }
}

impl Sink for Archive<'_> {
    fn go_on(&self) -> Result<()> {
        self.0.go_on()
    }

    fn tell(&mut self, warning: String) {
        self.0.tell(warning);
    }

    fn folder(&mut self, entry: &Entry<'_>, kept: bool) -> Result<()> {
        if kept { self.entry(entry) } else { Ok(()) }
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        tar::header(entry, &mut self.0.buffer);
        self.0.flush(PIECE)
    }

    fn file(&mut self, entry: &Entry<'_>, file: &File) -> Result<()> {
        tar::header(entry, &mut self.0.buffer);
        let mut left = entry.size;
        while left > 0 {
            self.0.flush(PIECE)?;
            let wanted = left.min((PIECE - self.0.buffer.len()) as u64);
            read(file, wanted, (left, entry.size), entry.path, &mut self.0.buffer)?;
            left -= wanted;
        }
        tar::pad(&mut self.0.buffer, entry.size);
        self.0.flush(PIECE)
    }
}
