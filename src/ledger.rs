//! How far each source is safely done.
//!
//! **The ground law.** Batch n+1 starts where batch n ended, for every source; all ground lies in
//! exactly one batch (shipped, dead-lettered, or dropped by name and counted); a checkpoint is the
//! end of the settled prefix. Batches may settle in any order: the prefix moves only while its own
//! head is settled, so that a crash never leaves a hole behind a checkpoint.
//!
//! Pure arithmetic: no clock, no disk, no channel.

use std::collections::{HashMap, VecDeque};

use crate::planted::{self, Bug};
use crate::record::{SourceId, Span};

/// The ground of all sources that is under way, and the settled prefix of each.
#[derive(Debug, Default)]
pub struct Ledger {
    sources: HashMap<SourceId, Progress>,
}

#[derive(Debug)]
struct Progress {
    /// End of the settled prefix.
    settled: u64,
    /// End of the ground that batches have taken.
    taken: u64,
    /// Ground between `settled` and `taken`, in order and without gaps.
    pending: VecDeque<Piece>,
}

#[derive(Debug)]
struct Piece {
    start: u64,
    end: u64,
    settled: bool,
}

impl Ledger {
    /// Begins the account of a source whose ground before `start` is settled.
    pub fn open(&mut self, source: SourceId, start: u64) {
        let fresh = Progress { settled: start, taken: start, pending: VecDeque::new() };
        let known = self.sources.insert(source, fresh);
        assert!(known.is_none(), "{source:?} opened twice: ids are never used again");
    }

    /// Enters the ground of a sealed batch.
    ///
    /// Panics where a span does not begin at the end of the one before it: that would be a hole
    /// or a repeat, and nothing after it could be trusted.
    pub fn take(&mut self, spans: &[Span]) {
        for span in spans {
            let progress =
                self.sources.get_mut(&span.source).expect("sources are open while they are read");
            assert_eq!(
                progress.taken, span.start,
                "ground law: {:?} was taken to {} and goes on at {}",
                span.source, progress.taken, span.start
            );
            progress.taken = span.end;
            progress.pending.push_back(Piece { start: span.start, end: span.end, settled: false });
        }
    }

    /// Marks the ground of a batch as settled and moves the prefixes it completes.
    ///
    /// Ground of a source that has been closed meanwhile is ignored: a late receipt says nothing
    /// about a newcomer.
    pub fn settle(&mut self, spans: &[Span]) {
        for span in spans {
            let Some(progress) = self.sources.get_mut(&span.source) else {
                continue;
            };
            let at = progress.pending.partition_point(|piece| piece.start < span.start);
            let piece = progress.pending.get_mut(at).filter(|piece| piece.end == span.end);
            piece.expect("a receipt speaks of ground that was taken").settled = true;
            while progress.pending.front().is_some_and(|piece| piece.settled) {
                let piece = progress.pending.pop_front().expect("seen by front()");
                progress.settled = piece.end;
            }
            if progress.pending.is_empty() {
                // Of many sources few have ground under way: the others keep no room for it.
                progress.pending = VecDeque::new();
            }
        }
    }

    /// Returns the checkpoint of an open source: the end of its settled prefix.
    pub fn settled(&self, source: SourceId) -> Option<u64> {
        let ahead = planted::is(Bug::CommitBeforeAck);
        let end = |progress: &Progress| if ahead { progress.taken } else { progress.settled };
        self.sources.get(&source).map(end)
    }

    /// Tells whether all ground that was taken from the source is settled.
    pub fn is_settled(&self, source: SourceId) -> bool {
        self.sources.get(&source).is_none_or(|progress| progress.pending.is_empty())
    }

    /// Ends the account of a source; receipts that still come for it are ignored.
    pub fn close(&mut self, source: SourceId) {
        self.sources.remove(&source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SourceId = SourceId(1);
    const B: SourceId = SourceId(2);

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.open(A, 100);
        ledger.open(B, 0);
        ledger
    }

    #[test]
    fn the_checkpoint_is_the_end_of_the_settled_prefix() {
        let mut ledger = ledger();
        let (first, second, third) =
            (Span::new(A, 100, 110), Span::new(A, 110, 130), Span::new(A, 130, 131));
        ledger.take(&[first]);
        ledger.take(&[second, Span::new(B, 0, 5)]);
        ledger.take(&[third]);

        ledger.settle(&[second, Span::new(B, 0, 5)]);
        assert_eq!((ledger.settled(A), ledger.settled(B)), (Some(100), Some(5)));
        ledger.settle(&[first]);
        assert_eq!(ledger.settled(A), Some(130));
        assert!(!ledger.is_settled(A));
        ledger.settle(&[third]);
        assert_eq!(ledger.settled(A), Some(131));
        assert!(ledger.is_settled(A));
    }

    #[test]
    fn a_late_receipt_of_a_closed_source_moves_nothing() {
        let mut ledger = ledger();
        ledger.take(&[Span::new(A, 100, 110)]);
        ledger.close(A);
        ledger.settle(&[Span::new(A, 100, 110)]);
        assert_eq!(ledger.settled(A), None);
    }

    #[test]
    #[should_panic(expected = "ground law")]
    fn a_hole_in_the_ground_is_refused() {
        let mut ledger = ledger();
        ledger.take(&[Span::new(A, 101, 110)]);
    }
}
