//! How long the paths of a context may be, and how much of them memory holds.

/// Longest path, as the kernel takes them.
pub(super) const LONGEST: usize = 4096;
/// What one takes of the memory beside its bytes.
pub(super) const BESIDE: usize = 64;
/// Most bytes that are held of one context; few in tests, so that they come there soon.
const MOST: usize = if cfg!(test) { 4 << 20 } else { 128 << 20 };

/// Counts what is held.
#[derive(Debug, Default)]
pub(super) struct Kept(usize);

impl Kept {
    /// False when there is no room for so many bytes more.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        self.0 = self.0.saturating_add(bytes);
        self.0 <= MOST
    }
}
