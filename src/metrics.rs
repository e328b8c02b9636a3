//! What both walks count.
//!
//! Counters are added to once per buffer or batch, never per line. They obey the conservation
//! laws of the promise, which every end-to-end test asserts:
//!
//! - tail: `bytes_read = bytes_acked + bytes_found + bytes_filtered + bytes_nul_skipped + bytes under
//!   way`, where bytes that were cut off over-long lines, and records that lie in the state
//!   directory, belong to the ground of their event; `events_read = records_acked + records_rejected +
//!   records_found + events_filtered + records under way`;
//! - index: `consumed = indexed + duplicates + archived + archived_before + error_topic -
//!   error_topic_also + dead_letter + rejected + dropped + given_up + records under way`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows, or, where its name says what is held, the last one that was set.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Replaces the sum: for what goes up and down.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Returns the sum of all that was added.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of the tail walk since its start.
#[derive(Debug, Default)]
pub struct TailCounters {
    /// Lives of files that were opened.
    pub files_opened: Counter,
    /// Rotated or deleted files that were read to their end, all of it settled.
    pub files_finished: Counter,
    /// Files that were found shorter than, or other than, what had been read of them.
    pub files_truncated: Counter,
    /// Bytes that were known to be there and were gone before they could be read.
    pub bytes_lost: Counter,
    /// Gzip'd files that end too early or cannot be decompressed to their end.
    pub files_damaged: Counter,
    /// Deleted files that are still open, as of the last scan.
    pub deleted_files_held: Counter,
    /// The bytes that the disk keeps for them.
    pub deleted_bytes_held: Counter,
    /// Deleted files that were given up at a bound the operator set.
    pub files_abandoned: Counter,
    /// Bytes that had not been read of them.
    pub bytes_abandoned: Counter,
    /// Partitions whose files grew because they were shipped.
    pub feedback_loops: Counter,
    /// Names that match an input and cannot be read.
    pub files_refused: Counter,
    /// Paths of the configuration that no file matched at the start.
    pub paths_unmatched: Counter,
    /// Bytes read from files.
    pub bytes_read: Counter,
    /// Lines in the events that were put into batches or filtered.
    pub lines_read: Counter,
    /// Events that were put into batches or filtered.
    pub events_read: Counter,
    /// Events that lost the end of an over-long line.
    pub events_cut: Counter,
    /// Bytes of over-long lines that were cut off.
    pub bytes_cut: Counter,
    /// Events that `include_events` or `exclude_events` left out.
    pub events_filtered: Counter,
    /// Bytes of files in them, as ground.
    pub bytes_filtered: Counter,
    /// Bytes in runs of NULs, which are no text.
    pub bytes_nul_skipped: Counter,
    /// Records that the broker acknowledged.
    pub records_acked: Counter,
    /// Bytes of files that the broker acknowledged, as ground.
    pub bytes_acked: Counter,
    /// Records that the broker can never take; they lie in the state directory.
    pub records_rejected: Counter,
    /// Of the acknowledged records, those that may stand in the topic twice: the broker had
    /// forgotten this producer when it was asked again, or could not be asked after a crash.
    pub records_maybe_repeated: Counter,
    /// Batches that the broker acknowledged.
    pub batches_acked: Counter,
    /// Tries to save the registry that failed.
    pub saves_failed: Counter,
    /// Batches of an earlier process that were found to stand in the topic.
    pub batches_found: Counter,
    /// Batches of an earlier process that were sent again under the sequence numbers they had.
    pub batches_resent: Counter,
    /// Batches of an earlier process that could not be sent again as they were, so that their
    /// ground was read again.
    pub batches_reread: Counter,
    /// Bytes that were read again and not sent, for they were found in the topic.
    pub bytes_found: Counter,
    /// Events in them.
    pub records_found: Counter,
}

impl TailCounters {
    /// Returns all by their names, in the order of a line of log.
    pub fn all(&self) -> [(&'static str, u64); 31] {
        let counters = [
            ("files_opened", &self.files_opened),
            ("files_finished", &self.files_finished),
            ("files_truncated", &self.files_truncated),
            ("bytes_lost", &self.bytes_lost),
            ("files_damaged", &self.files_damaged),
            ("deleted_files_held", &self.deleted_files_held),
            ("deleted_bytes_held", &self.deleted_bytes_held),
            ("files_abandoned", &self.files_abandoned),
            ("bytes_abandoned", &self.bytes_abandoned),
            ("feedback_loops", &self.feedback_loops),
            ("files_refused", &self.files_refused),
            ("paths_unmatched", &self.paths_unmatched),
            ("bytes_read", &self.bytes_read),
            ("lines_read", &self.lines_read),
            ("events_read", &self.events_read),
            ("events_cut", &self.events_cut),
            ("bytes_cut", &self.bytes_cut),
            ("events_filtered", &self.events_filtered),
            ("bytes_filtered", &self.bytes_filtered),
            ("bytes_nul_skipped", &self.bytes_nul_skipped),
            ("records_acked", &self.records_acked),
            ("bytes_acked", &self.bytes_acked),
            ("records_rejected", &self.records_rejected),
            ("records_maybe_repeated", &self.records_maybe_repeated),
            ("batches_acked", &self.batches_acked),
            ("saves_failed", &self.saves_failed),
            ("batches_found", &self.batches_found),
            ("batches_resent", &self.batches_resent),
            ("batches_reread", &self.batches_reread),
            ("bytes_found", &self.bytes_found),
            ("records_found", &self.records_found),
        ];
        counters.map(|(name, counter)| (name, counter.get()))
    }
}

impl fmt::Display for TailCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_counts(f, &self.all())
    }
}

/// Counters of the index walk since its start.
#[derive(Debug, Default)]
pub struct IndexCounters {
    /// Records in batches that were cut.
    pub consumed: Counter,
    /// Records whose document was made in Elasticsearch.
    pub indexed: Counter,
    /// Records whose document was there already, under the same id.
    pub duplicates: Counter,
    /// Records whose document went to the archive.
    pub archived: Counter,
    /// Records whose document was in the archive already.
    pub archived_before: Counter,
    /// Records that the error topic acknowledged.
    pub error_topic: Counter,
    /// Of those, records that were indexed or archived too, and count there as well.
    pub error_topic_also: Counter,
    /// Records that the dead-letter topic acknowledged.
    pub dead_letter: Counter,
    /// Records that no topic can take; they lie in the state directory.
    pub rejected: Counter,
    /// Records that a route drops, all routes together.
    pub dropped: Counter,
    /// The same by the route's name.
    pub dropped_by_route: Mutex<BTreeMap<String, u64>>,
    /// Records in batches that were given up at a stop; they are consumed again.
    pub given_up: Counter,
    /// Bulk requests to Elasticsearch.
    pub bulk_requests: Counter,
    /// Items of bulk requests that were sent again.
    pub bulk_items_retried: Counter,
}

impl IndexCounters {
    /// Counts records that routes of these names drop.
    pub fn drop_by_routes<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let mut names = names.peekable();
        if names.peek().is_none() {
            return;
        }
        let mut by_route = self.dropped_by_route.lock().expect("no holder panics");
        for name in names {
            self.dropped.add(1);
            match by_route.get_mut(name) {
                Some(n_records) => *n_records += 1,
                None => _ = by_route.insert(name.to_owned(), 1),
            }
        }
    }

    /// Returns how many records have come to their end: all that were consumed, once nothing is
    /// under way.
    pub fn n_ended(&self) -> u64 {
        // Read first: it grows with, and never before, the others.
        let also = self.error_topic_also.get();
        let ends = [
            &self.indexed,
            &self.duplicates,
            &self.archived,
            &self.archived_before,
            &self.error_topic,
            &self.dead_letter,
            &self.rejected,
            &self.dropped,
            &self.given_up,
        ];
        ends.iter().map(|counter| counter.get()).sum::<u64>() - also
    }
}

impl fmt::Display for IndexCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counters = [
            ("consumed", &self.consumed),
            ("indexed", &self.indexed),
            ("duplicates", &self.duplicates),
            ("archived", &self.archived),
            ("archived_before", &self.archived_before),
            ("error_topic", &self.error_topic),
            ("error_topic_also", &self.error_topic_also),
            ("dead_letter", &self.dead_letter),
            ("rejected", &self.rejected),
            ("dropped", &self.dropped),
            ("given_up", &self.given_up),
            ("bulk_requests", &self.bulk_requests),
            ("bulk_items_retried", &self.bulk_items_retried),
        ];
        write_counts(f, &counters.map(|(name, counter)| (name, counter.get())))?;
        for (name, n_records) in &*self.dropped_by_route.lock().expect("no holder panics") {
            write!(f, " dropped[{name}]={n_records}")?;
        }
        Ok(())
    }
}

fn write_counts(f: &mut fmt::Formatter<'_>, counts: &[(&str, u64)]) -> fmt::Result {
    for (at, (name, count)) in counts.iter().enumerate() {
        let space = if at == 0 { "" } else { " " };
        write!(f, "{space}{name}={count}")?;
    }
    Ok(())
}
