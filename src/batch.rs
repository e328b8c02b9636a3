//! A batch of the tail walk: what becomes one RecordBatch of one topic partition.
//!
//! An arena: the records stand encoded, one behind the other, in one buffer that is given back
//! and used again. Nothing is allocated per record.

use std::sync::Arc;

use crate::kafka::record_batch::{RecordArena, Stamp};
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
}
