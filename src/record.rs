//! The nouns of both walks.

use serde::{Deserialize, Serialize};

/// One life of a file, or one assignment of a partition.
///
/// Never used again within a process, so that a late receipt cannot move a newcomer's offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SourceId(pub u32);

/// One batch of a walk; numbered in the order in which batches were sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BatchId(pub u64);

/// Ground `[start, end)` of one source.
///
/// Units: bytes of a file's life, or offsets of a partition's assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Whose ground.
    pub source: SourceId,
    /// First byte or offset.
    pub start: u64,
    /// One past the last byte or offset.
    pub end: u64,
}

impl Span {
    /// Returns the span; `start < end` is the caller's duty, for empty ground cannot be settled.
    pub fn new(source: SourceId, start: u64, end: u64) -> Span {
        assert!(start < end, "empty span {start}..{end}");
        Span { source, start, end }
    }
}
