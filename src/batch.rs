//! A batch of the tail walk: what becomes one RecordBatch of one topic partition.
//!
//! An arena: the records stand encoded, one behind the other, in one buffer that is given back
//! and used again. Nothing is allocated per record.

use std::sync::Arc;

use crate::kafka::record_batch::{RecordArena, RecordRef, Stamp};
use crate::record::{BatchId, Span};

/// Records of one topic partition, and the ground they cover.
#[derive(Debug)]
pub struct Batch {
    /// Its number.
    pub id: BatchId,
    /// Where it goes.
    pub topic: Arc<str>,
    /// Where it goes.
    pub partition: i32,
    /// What goes there, in order; never empty once sealed.
    pub records: RecordArena,
    /// The ground that is settled when this batch is: at most one span a source, in no
    /// particular order. Ground that a policy dropped lies in a span as well.
    pub spans: Vec<Span>,
    /// Under which an earlier process may have sent exactly these records.
    pub stamp: Option<Stamp>,
    /// What is done with a record that the topic does not take for its size; `None`: it is refused.
    pub too_large: Option<TooLarge>,
}

/// Cuts a record that is too large: puts what is to be sent in its place into the arenas, in this
/// order, each in a batch of its own. `None` where that cannot be done.
pub type TooLarge = fn(&RecordRef<'_>, &mut [RecordArena; 2]) -> Option<LeftOut>;

/// What of a batch was not sent, for its records were too large.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Records that lost something.
    pub n_records: u32,
    /// What they lost.
    pub n_bytes: u64,
}

impl LeftOut {
    /// Adds what was left out of another record.
    pub fn add(&mut self, other: LeftOut) {
        self.n_records += other.n_records;
        self.n_bytes += other.n_bytes;
    }
}
