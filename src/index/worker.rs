//! Carries one batch to its ends.
//!
//! The order is chosen for the fewest repeats after a crash: first what knows its records again
//! (archive, Elasticsearch), last what does not (error topic, dead letters). A batch counts as
//! settled only when every record of it has come to its end.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::batch::Batch;
use crate::config::{Config, IndexConfig};
use crate::error::Error;
use crate::kafka::producer::{Delivery, Producer};
use crate::kafka::record_batch::{
    Headers, RecordArena, RecordRef, now_ms, partition_for, put_header,
};
use crate::metrics::IndexCounters;
use crate::record::{BatchId, Span};
use crate::rejected::RejectedFile;

use super::archive::{Archive, Stored};
use super::elasticsearch::{Bulk, Counters as BulkCounters, Interrupter, Outcome, Reject};
use super::origin::{DLQ_REASON, Header, ROUTE_NAME};
use super::sort::{Sorted, Sorter};

/// How often a worker that waits looks whether it is to give up.
const GIVE_UP_LOOK: Duration = Duration::from_millis(50);

/// How long a full disk is left alone before the archive tries again.
const ARCHIVE_RETRY: Duration = Duration::from_secs(1);

/// Records of the consumer, in the order of each partition, cut before anything is known of them.
#[derive(Debug, Default)]
pub struct IndexBatch {
    /// Key, value, headers and time of each record.
    pub records: RecordArena,
    /// For each record its ground, as a position in `ground`, and its offset.
    pub offsets: Vec<(u32, u64)>,
    /// What is settled with the batch: one entry for each partition in it.
    pub ground: Vec<Ground>,
}

/// A partition's part of a batch.
#[derive(Debug, Clone)]
pub struct Ground {
    /// The partition's topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// Its offsets, gaps included.
    pub span: Span,
}

impl IndexBatch {
    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.records.clear();
        self.offsets.clear();
        self.ground.clear();
    }

    /// Takes over a record of another batch.
    pub fn copy(&mut self, record: &RecordRef<'_>, ground: &Ground, offset: u64) {
        let source = ground.span.source;
        let known = self.ground.iter().position(|known| known.span.source == source);
        let at = known.unwrap_or_else(|| {
            self.ground.push(ground.clone());
            self.ground.len() - 1
        });
        let headers = Headers { count: record.n_headers, fixed: record.header_bytes, varying: &[] };
        self.records.push(record.timestamp_ms, record.key, record.value, headers);
        self.offsets.push((at as u32, offset));
    }
}

/// What became of a batch.
#[derive(Debug)]
pub struct IndexReceipt {
    /// The batch, to be used again.
    pub batch: IndexBatch,
    /// Whether all of it is settled; an error if going on would break the promise.
    pub settled: Result<bool, Error>,
    /// Records went where a repeat would be seen: the offsets are to be committed at once.
    pub commit_now: bool,
}

/// One thread's means to carry batches.
pub struct Worker {
    producer: Producer,
    replies: Sender<Delivery>,
    deliveries: Receiver<Delivery>,
    n_partitions: HashMap<Arc<str>, i32>,
    next_batch: u64,
    topic_batch_bytes_max: usize,
    error_topic: Option<Arc<str>>,
    dead_letter_topic: Arc<str>,
    rejected: RejectedFile,

    bulk: Option<Bulk>,
    archive: Option<Archive>,

    sorter: Sorter,
    outcomes: Vec<Option<Outcome>>,

    counters: Arc<IndexCounters>,
    given_up: Arc<AtomicBool>,
}

/// What became of records that were sent to a topic.
#[derive(Debug, Default)]
struct Sent {
    /// Batches whose receipt is not there yet.
    n_batches: u64,
    n_acked: u64,
    n_rejected: u64,
}

/// Why a batch is not carried to its end.
enum Stop {
    GivenUp,
    Failed(Error),
}

impl Worker {
    /// Makes a worker of its own; `archive` is a clone of the one that all workers share.
    ///
    /// Errors: [`Error::Config`] for what only shows when it is used, as an unreadable password.
    pub fn new(
        config: &Config,
        index: &IndexConfig,
        producer: Producer,
        archive: Option<Archive>,
        counters: Arc<IndexCounters>,
        given_up: Arc<AtomicBool>,
    ) -> Result<Worker, Error> {
        let wrong = |problems: String| Error::Config { problems };
        let elasticsearch = config.elasticsearch.as_ref();
        let bulk = elasticsearch.map(Bulk::new).transpose();
        let bulk = bulk.map_err(|error| wrong(format!("elasticsearch: {error}")))?;
        let (replies, deliveries) = unbounded();
        Ok(Worker {
            producer,
            replies,
            deliveries,
            n_partitions: HashMap::new(),
            next_batch: 0,
            topic_batch_bytes_max: config.batch.bytes_max,
            error_topic: index.error_topic.as_deref().map(Arc::from),
            dead_letter_topic: index.dead_letter_topic.as_str().into(),
            rejected: RejectedFile::new(&config.state_dir),
            bulk,
            archive,
            sorter: Sorter::new(config, index).map_err(wrong)?,
            outcomes: Vec::new(),
            counters,
            given_up,
        })
    }

    /// Returns the means to end a request under way, where there is an Elasticsearch.
    pub fn interrupter(&self) -> Option<Interrupter> {
        self.bulk.as_ref().map(Bulk::interrupter)
    }

    /// Carries the batch until all of it is settled, however long that takes, or until told to
    /// give up.
    pub fn carry(&mut self, batch: IndexBatch) -> IndexReceipt {
        let mut commit_now = false;
        let settled = match self.deliver(&batch, &mut commit_now) {
            Ok(()) => Ok(true),
            Err(Stop::GivenUp) => {
                self.counters.given_up.add(batch.offsets.len() as u64);
                Ok(false)
            }
            Err(Stop::Failed(error)) => Err(error),
        };
        IndexReceipt { batch, settled, commit_now }
    }

    fn deliver(&mut self, batch: &IndexBatch, commit_now: &mut bool) -> Result<(), Stop> {
        self.sort(batch);
        let stored = self.archive(batch)?;
        self.bulk()?;
        let records: Vec<RecordRef<'_>> =
            if self.needs_topics() { batch.records.iter().collect() } else { Vec::new() };
        let errors = self.send_errors(batch, &records)?;
        let dead_letters = self.send_dead_letters(batch, &records)?;
        *commit_now = errors.n_acked + dead_letters.n_acked > 0;
        self.count(stored, &errors, &dead_letters);
        Ok(())
    }

    fn count(&self, stored: Stored, errors: &Sent, dead_letters: &Sent) {
        let (mut indexed, mut duplicates) = (0, 0);
        for outcome in self.outcomes.iter().flatten() {
            match outcome {
                Outcome::Created | Outcome::FailureStore => indexed += 1,
                Outcome::Duplicate => duplicates += 1,
                Outcome::Rejected(_) => {}
            }
        }
        let Sorted { dropped, n_errors_also, .. } = &self.sorter.sorted;
        let counters = &self.counters;
        counters.indexed.add(indexed);
        counters.duplicates.add(duplicates);
        counters.archived.add(stored.written);
        counters.archived_before.add(stored.duplicates);
        counters.error_topic.add(errors.n_acked);
        counters.error_topic_also.add(*n_errors_also);
        counters.dead_letter.add(dead_letters.n_acked);
        counters.rejected.add(errors.n_rejected + dead_letters.n_rejected);
        counters
            .drop_by_routes(dropped.iter().map(|route| self.sorter.route_names()[*route].as_str()));
    }

    fn sort(&mut self, batch: &IndexBatch) {
        self.sorter.sorted.clear();
        let mut headers: Vec<Header<'_>> = Vec::new();
        for (at, (record, (ground, offset))) in batch.records.iter().zip(&batch.offsets).enumerate()
        {
            let Ground { topic, partition, .. } = &batch.ground[*ground as usize];
            self.sorter.take(at, &record, (topic, *partition, *offset as i64), &mut headers);
        }
    }

    /// Puts documents on disk; a disk that refuses is waited for.
    fn archive(&mut self, batch: &IndexBatch) -> Result<Stored, Stop> {
        let Sorted { archived, archive_bytes, .. } = &self.sorter.sorted;
        let (mut sum, mut is_failing) = (Stored::default(), false);
        let Some(archive) = &mut self.archive else {
            return Ok(sum);
        };
        for (at, ground) in batch.ground.iter().enumerate() {
            let documents = archived.iter().enumerate().filter_map(|(n, (record, end))| {
                let (of, offset) = batch.offsets[*record];
                let start = if n == 0 { 0 } else { archived[n - 1].1 };
                (of as usize == at).then(|| (offset, &archive_bytes[start..*end]))
            });
            loop {
                match archive.store(&ground.topic, ground.partition, ground.span, documents.clone())
                {
                    Ok(stored) => {
                        sum.written += stored.written;
                        sum.duplicates += stored.duplicates;
                        break;
                    }
                    Err(error) => {
                        if !is_failing {
                            log::error!("archive blocked, tried again until it works: {error}");
                            is_failing = true;
                        }
                        wait(&self.given_up, ARCHIVE_RETRY)?;
                    }
                }
            }
        }
        if is_failing {
            log::info!("archive works again");
        }
        Ok(sum)
    }

    /// Indexes documents; `outcomes` then says what became of each.
    fn bulk(&mut self) -> Result<(), Stop> {
        self.outcomes.clear();
        let Some(bulk) = &mut self.bulk else {
            return Ok(());
        };
        if self.sorter.sorted.items.is_empty() {
            return Ok(());
        }
        let before = bulk.counters().clone();
        bulk.deliver(&self.sorter.sorted.body, &mut self.outcomes, &mut |_| {});
        let after = bulk.counters();
        let n_retried = |counters: &BulkCounters| counters.retried.values().sum::<u64>();
        self.counters.bulk_requests.add(after.requests - before.requests);
        self.counters.bulk_items_retried.add(n_retried(after) - n_retried(&before));
        if self.outcomes.iter().any(Option::is_none) {
            return Err(Stop::GivenUp);
        }
        Ok(())
    }

    fn needs_topics(&self) -> bool {
        let is_rejected = |outcome: &Option<Outcome>| matches!(outcome, Some(Outcome::Rejected(_)));
        !self.sorter.sorted.errors.is_empty() || self.outcomes.iter().any(is_rejected)
    }

    /// Sends records for the error topic, as they came and with the headers of their route.
    fn send_errors(&mut self, batch: &IndexBatch, records: &[RecordRef<'_>]) -> Result<Sent, Stop> {
        if self.sorter.sorted.errors.is_empty() {
            return Ok(Sent::default());
        }
        let topic = self.error_topic.clone().expect("checked: routes there need error_topic");
        let errors = std::mem::take(&mut self.sorter.sorted.errors);
        let names = self.sorter.route_names().to_vec();
        let added = errors.iter().map(|(at, route)| {
            let mut headers = vec![(ROUTE_NAME.to_owned(), names[*route].clone())];
            headers.extend(origin_headers("route.origin", batch, *at, &records[*at]));
            (*at, headers)
        });
        self.send(&topic, batch, records, added)
    }

    /// Sends what Elasticsearch will never take to the dead-letter topic, with its reason.
    fn send_dead_letters(
        &mut self,
        batch: &IndexBatch,
        records: &[RecordRef<'_>],
    ) -> Result<Sent, Stop> {
        let outcomes = self.sorter.sorted.items.iter().zip(&self.outcomes);
        let rejected: Vec<(usize, Reject)> = outcomes
            .filter_map(|(at, outcome)| match outcome {
                Some(Outcome::Rejected(reject)) => Some((*at, reject.clone())),
                _ => None,
            })
            .collect();
        let Some((_, first)) = rejected.first() else {
            return Ok(Sent::default());
        };
        let topic = Arc::clone(&self.dead_letter_topic);
        log::warn!("{} documents rejected, sent to topic={topic}: first: {first}", rejected.len());
        let added = rejected.iter().map(|(at, reject)| {
            let mut headers = vec![
                (DLQ_REASON.to_owned(), reject.reason.clone()),
                ("dlq.error.type".to_owned(), reject.error_type.clone()),
                ("dlq.status".to_owned(), reject.status.to_string()),
                ("dlq.index".to_owned(), reject.index.clone()),
            ];
            headers.extend(origin_headers("dlq.origin", batch, *at, &records[*at]));
            (*at, headers)
        });
        self.send(&topic, batch, records, added)
    }

    /// Puts records into batches of a topic's partitions, sends them and waits for all receipts.
    fn send(
        &mut self,
        topic: &Arc<str>,
        batch: &IndexBatch,
        records: &[RecordRef<'_>],
        added: impl Iterator<Item = (usize, Vec<(String, String)>)>,
    ) -> Result<Sent, Stop> {
        let n_partitions = self.n_partitions(topic)?;
        let now_ms = now_ms();
        let (mut sent, mut n_records) = (Sent::default(), 0);
        let mut open: HashMap<i32, RecordArena> = HashMap::new();
        let mut encoded = Vec::new();
        for (at, added) in added {
            let record = &records[at];
            n_records += 1;
            encoded.clear();
            for (name, value) in &added {
                put_header(&mut encoded, name, value.as_bytes());
            }
            let count = record.n_headers + added.len() as u32;
            let partition = match record.key {
                Some(key) => partition_for(key, n_partitions),
                None => batch.ground[batch.offsets[at].0 as usize].partition % n_partitions,
            };
            let arena = open.entry(partition).or_default();
            // The time of routing: with that of the event, retention could delete it at once.
            let headers = Headers { count, fixed: record.header_bytes, varying: &encoded };
            arena.push(now_ms, record.key, record.value, headers);
            if arena.len() >= self.topic_batch_bytes_max / 2 {
                let full = std::mem::take(arena);
                self.send_arena(topic, partition, full);
                sent.n_batches += 1;
            }
        }
        for (partition, arena) in open.into_iter().filter(|(_, arena)| !arena.is_empty()) {
            self.send_arena(topic, partition, arena);
            sent.n_batches += 1;
        }
        while sent.n_batches > 0 {
            sent.n_rejected += self.next_delivery()?;
            sent.n_batches -= 1;
        }
        sent.n_acked = n_records - sent.n_rejected;
        Ok(sent)
    }

    fn send_arena(&mut self, topic: &Arc<str>, partition: i32, records: RecordArena) {
        self.next_batch += 1;
        let id = BatchId(self.next_batch);
        let batch = Batch {
            id,
            topic: Arc::clone(topic),
            partition,
            records,
            spans: Vec::new(),
            stamp: None,
            too_large: None,
        };
        self.producer.send(batch, &self.replies);
    }

    fn n_partitions(&mut self, topic: &Arc<str>) -> Result<i32, Stop> {
        if let Some(n_partitions) = self.n_partitions.get(topic) {
            return Ok(*n_partitions);
        }
        self.producer.describe(topic, &self.replies);
        while !self.n_partitions.contains_key(topic) {
            self.next_delivery()?;
        }
        Ok(self.n_partitions[topic])
    }

    /// Waits for a topic's partitions or a receipt; returns how many records no topic takes.
    fn next_delivery(&mut self) -> Result<u64, Stop> {
        loop {
            match self.deliveries.recv_timeout(GIVE_UP_LOOK) {
                Ok(Delivery::Settled(receipt)) => {
                    self.rejected.append(&receipt).map_err(Stop::Failed)?;
                    return Ok(receipt.rejects.len() as u64);
                }
                Ok(Delivery::Topic { topic, n_partitions }) => {
                    self.n_partitions.insert(topic, n_partitions);
                    return Ok(0);
                }
                // Nothing is asked of a producer that has had no other before it.
                Ok(
                    Delivery::Recycled(_)
                    | Delivery::LastSequence { .. }
                    | Delivery::MaxMessageBytes { .. },
                ) => {}
                Ok(Delivery::Fatal(problem)) => return Err(Stop::Failed(Error::Kafka { problem })),
                Err(RecvTimeoutError::Timeout) if !self.given_up.load(Ordering::Relaxed) => {}
                Err(_) => return Err(Stop::GivenUp),
            }
        }
    }
}

/// Where a record was consumed, as headers whose names begin with `prefix`.
fn origin_headers(
    prefix: &str,
    batch: &IndexBatch,
    at: usize,
    record: &RecordRef<'_>,
) -> [(String, String); 4] {
    let (ground, offset) = batch.offsets[at];
    let Ground { topic, partition, .. } = &batch.ground[ground as usize];
    [
        (format!("{prefix}.topic"), topic.to_string()),
        (format!("{prefix}.partition"), partition.to_string()),
        (format!("{prefix}.offset"), offset.to_string()),
        (format!("{prefix}.timestamp"), record.timestamp_ms.to_string()),
    ]
}

fn wait(given_up: &AtomicBool, time: Duration) -> Result<(), Stop> {
    let mut left = time;
    while !left.is_zero() {
        if given_up.load(Ordering::Relaxed) {
            return Err(Stop::GivenUp);
        }
        let slice = left.min(GIVE_UP_LOOK);
        std::thread::sleep(slice);
        left -= slice;
    }
    Ok(())
}
