//! Walk 2: topic -> error topic, Elasticsearch, archive. One hub owns all state.
//!
//! The hub polls the consumer, cuts batches before anything is known of their records, and keeps
//! the account of what is settled; workers ([`worker`]) each carry one batch at a time to its ends.
//! The hub never does HTTP and never waits for a worker while there may be something to poll, but
//! for a moment; when all workers are busy for longer, partitions are paused and polling goes on,
//! so that the group keeps its member through any outage.
//!
//! An offset is committed once everything before it is settled: indexed or known there already,
//! acknowledged by the error topic or the dead-letter topic, archived on disk, or dropped by a
//! rule that counts.

pub mod archive;
pub mod document;
pub mod elasticsearch;
pub mod event;
pub mod fields;
pub mod index_name;
pub mod kafka_log;
pub mod origin;
pub mod route;
pub mod sort;
pub mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use rdkafka::consumer::CommitMode;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

use crate::config::{Config, IndexConfig, KafkaConfig};
use crate::error::Error;
use crate::kafka::consumer::{Consumer, Partition, Polled, Rebalance, timestamp_ms};
use crate::kafka::producer::Producer;
use crate::kafka::record_batch::{Headers, put_header};
use crate::ledger::Ledger;
use crate::metrics::IndexCounters;
use crate::record::{SourceId, Span};
use crate::rejected::RejectedFile;
use crate::secret;

use archive::Archive;
use elasticsearch::Interrupter;
use worker::{Ground, IndexBatch, IndexReceipt, Worker};

/// How often the settled prefix is committed while it moves: one request a second is nothing to
/// the coordinator, and what a crash repeats is known to Elasticsearch by its ids.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// How often also what has not moved is committed: an earlier commit may have failed untold, and
/// with no further records nothing else would say it.
const COMMIT_AGAIN_INTERVAL: Duration = Duration::from_secs(10);

/// Longest time without a look at the consumer while all workers are busy. Pausing costs a new
/// fetch of what librdkafka had buffered, so it is not done for a short wait.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// Longest wait for the next message: receipts are looked at in between.
const POLL_WAIT: Duration = Duration::from_millis(20);

/// Consumes and delivers until `stop` has a message or is disconnected, then drains and commits.
///
/// Errors: whatever makes going on unsafe; [`Error::Unfinished`] where batches under way did not
/// settle within `index.shutdown_timeout`: their records are consumed again.
pub fn run(
    config: &Config,
    counters: &Arc<IndexCounters>,
    stop: &Receiver<()>,
) -> Result<(), Error> {
    let index = config.index.as_ref().expect("checked for the index walk: [index] is there");
    RejectedFile::new(&config.state_dir).prepare()?;
    let producer = Producer::start(&config.kafka, config.batch.compression, None)?;
    let workers = Workers::start(config, index, &producer, counters)?;
    // Before they are read.
    let secrets = secret::Watch::new(config.kafka.files());
    let consumer = Consumer::new(&config.kafka, index)?;
    consumer.join(index)?;
    let mut hub = Hub {
        config: index,
        kafka: &config.kafka,
        secrets,
        counters,
        workers,
        consumer,
        intake: Intake::default(),
        under_way: 0,
        records_under_way: 0,
        paused: false,
        busy_since: None,
        commit_due: Instant::now(),
        commit_again_due: Instant::now() + COMMIT_AGAIN_INTERVAL,
    };
    let walked = hub.walk(stop);
    hub.drain_and_commit(walked)
}

struct Hub<'a> {
    config: &'a IndexConfig,
    kafka: &'a KafkaConfig,
    /// What librdkafka reads once: a consumer whose files are replaced is replaced, too.
    secrets: secret::Watch,
    counters: &'a IndexCounters,
    workers: Workers,
    consumer: Consumer,
    intake: Intake,
    under_way: usize,
    records_under_way: u64,
    paused: bool,
    busy_since: Option<Instant>,
    commit_due: Instant,
    commit_again_due: Instant,
}

/// What comes in, and how far each partition is done.
#[derive(Default)]
struct Intake {
    /// Partitions of this member; the source is known with the first message.
    assigned: HashMap<Partition, Option<SourceId>>,
    sources: HashMap<SourceId, Source>,
    /// The partition of the last message: the next one is mostly of the same.
    last: Option<SourceId>,
    ledger: Ledger,
    open: IndexBatch,
    open_since: Option<Instant>,
    next_source: u32,
    scratch: Vec<u8>,
}

/// One assignment of a partition.
struct Source {
    topic: Arc<str>,
    partition: i32,
    /// The first offset that came.
    start: u64,
    /// One past the last offset that is in a batch.
    taken: u64,
    committed: u64,
}

impl Hub<'_> {
    fn walk(&mut self, stop: &Receiver<()>) -> Result<(), Error> {
        while !is_stopped(stop) {
            self.take_receipts()?;
            self.seal_if_due();
            self.commit_if_due();
            if self.secrets.has_changed(Instant::now()) {
                self.rejoin()?;
            }
            if self.is_full() {
                self.wait_for_room()?;
            } else if self.paused {
                self.resume();
            } else {
                self.poll(self.poll_wait())?;
            }
        }
        Ok(())
    }

    fn poll_wait(&self) -> Duration {
        // Without a free worker nothing can be sealed, however long it has lingered.
        if self.under_way >= self.config.in_flight_max {
            return POLL_WAIT;
        }
        let linger_over = self.intake.open_since.map(|since| since + self.config.linger);
        let left = linger_over.map(|over| over.saturating_duration_since(Instant::now()));
        left.map_or(POLL_WAIT, |left| left.min(POLL_WAIT))
    }

    fn poll(&mut self, wait: Duration) -> Result<(), Error> {
        match self.consumer.poll(wait) {
            Polled::Message(message) => {
                self.intake.take(&message);
                Ok(())
            }
            Polled::Rebalance(rebalance) => self.on_rebalance(rebalance),
            Polled::Nothing => Ok(()),
            Polled::Fatal(problem) => Err(Error::Kafka { problem }),
        }
    }

    /// Tells whether the open batch is complete and no worker is free for it.
    fn is_full(&self) -> bool {
        self.is_complete() && self.under_way >= self.config.in_flight_max
    }

    fn is_complete(&self) -> bool {
        let open = &self.intake.open;
        open.records.len() >= self.config.bytes_max || open.offsets.len() >= self.config.count_max
    }

    fn seal_if_due(&mut self) {
        let since = self.intake.open_since;
        let has_lingered = since.is_some_and(|since| since.elapsed() >= self.config.linger);
        if (has_lingered || self.is_complete()) && self.under_way < self.config.in_flight_max {
            self.seal();
        }
    }

    fn seal(&mut self) {
        let spare = self.workers.spare.pop().unwrap_or_default();
        let batch = std::mem::replace(&mut self.intake.open, spare);
        self.intake.open_since = None;
        if batch.offsets.is_empty() {
            return;
        }
        self.under_way += 1;
        self.records_under_way += batch.offsets.len() as u64;
        self.counters.consumed.add(batch.offsets.len() as u64);
        for ground in &batch.ground {
            self.intake.ledger.take(&[ground.span]);
        }
        self.workers.batches.send(batch).expect("workers live as long as the hub");
    }

    /// Waits for a receipt; pauses the partitions when it takes longer than a moment.
    fn wait_for_room(&mut self) -> Result<(), Error> {
        let since = *self.busy_since.get_or_insert_with(Instant::now);
        if since.elapsed() < BUSY_WAIT {
            if let Ok(receipt) = self.workers.receipts.recv_timeout(POLL_WAIT) {
                self.on_receipt(receipt)?;
            }
            return Ok(());
        }
        if !self.paused {
            self.paused = true;
            self.consumer.pause(&self.partitions());
        }
        // Only rebalances can come; a message that was on its way already is taken as well.
        self.poll(POLL_WAIT)
    }

    fn resume(&mut self) {
        self.paused = false;
        self.consumer.resume(&self.partitions());
    }

    fn partitions(&self) -> Vec<Partition> {
        self.intake.assigned.keys().cloned().collect()
    }

    fn take_receipts(&mut self) -> Result<(), Error> {
        while let Ok(receipt) = self.workers.receipts.try_recv() {
            self.on_receipt(receipt)?;
        }
        Ok(())
    }

    fn on_receipt(&mut self, receipt: IndexReceipt) -> Result<(), Error> {
        let IndexReceipt { mut batch, settled, commit_now } = receipt;
        self.busy_since = None;
        self.under_way -= 1;
        self.records_under_way -= batch.offsets.len() as u64;
        if settled? {
            let spans: Vec<Span> = batch.ground.iter().map(|ground| ground.span).collect();
            self.intake.ledger.settle(&spans);
        }
        if commit_now {
            self.commit(CommitMode::Async, |_| true);
        }
        batch.clear();
        self.workers.spare.push(batch);
        Ok(())
    }

    fn commit_if_due(&mut self) {
        let now = Instant::now();
        if now >= self.commit_due {
            self.commit_due = now + COMMIT_INTERVAL;
            if now >= self.commit_again_due {
                self.commit_again_due = now + COMMIT_AGAIN_INTERVAL;
                let sources = self.intake.sources.values_mut();
                sources.for_each(|source| source.committed = source.start);
            }
            self.commit(CommitMode::Async, |_| true);
        }
    }

    /// Commits the settled prefix of each wanted source that has moved. The last word before a
    /// partition goes, which waits for its answer, repeats what an earlier commit may have failed
    /// to say.
    fn commit(&mut self, mode: CommitMode, is_wanted: impl Fn(&Partition) -> bool) {
        let mut offsets = Vec::new();
        let Intake { sources, ledger, .. } = &mut self.intake;
        for (id, source) in sources {
            let settled = ledger.settled(*id).expect("open while it is assigned");
            let partition = (source.topic.to_string(), source.partition);
            let said = match mode {
                CommitMode::Sync => source.start,
                CommitMode::Async => source.committed,
            };
            if settled > said && is_wanted(&partition) {
                source.committed = settled;
                offsets.push((partition, settled));
            }
        }
        if !offsets.is_empty() {
            self.consumer.commit(&offsets, mode);
        }
    }

    fn on_rebalance(&mut self, rebalance: Rebalance) -> Result<(), Error> {
        match rebalance {
            Rebalance::Assign(partitions) => {
                log::info!("partitions assigned: {}", names(&partitions));
                self.consumer.assign(&partitions);
                if self.paused {
                    self.consumer.pause(&partitions);
                }
                let partitions = partitions.into_iter().map(|partition| (partition, None));
                self.intake.assigned.extend(partitions);
            }
            Rebalance::Revoke { partitions, lost } => {
                let how = if lost { "lost" } else { "revoked" };
                log::info!("partitions {how}: {}", names(&partitions));
                if !lost {
                    self.drain(Instant::now() + self.config.shutdown_timeout)?;
                    self.commit(CommitMode::Sync, |partition| partitions.contains(partition));
                }
                self.intake.forget(&partitions);
                self.consumer.unassign(&partitions);
            }
        }
        Ok(())
    }

    /// Goes on as another member of the group, which has read the files of secrets as they are now.
    fn rejoin(&mut self) -> Result<(), Error> {
        let consumer = match Consumer::new(self.kafka, self.config) {
            Ok(consumer) => consumer,
            Err(error) => {
                log::warn!("certificates or passwords have changed and cannot be used: {error}");
                return Ok(());
            }
        };
        log::info!("certificates or passwords have changed: joining the group anew");
        self.drain(Instant::now() + self.config.shutdown_timeout)?;
        self.commit(CommitMode::Sync, |_| true);
        let partitions = self.partitions();
        self.intake.forget(&partitions);
        self.paused = false;
        self.consumer = consumer;
        self.consumer.join(self.config)
    }

    /// Hands over the open batch and waits until nothing is under way, or the deadline.
    fn drain(&mut self, deadline: Instant) -> Result<(), Error> {
        loop {
            if self.under_way < self.config.in_flight_max {
                self.seal();
            }
            if self.under_way == 0 {
                return Ok(());
            }
            match self.workers.receipts.recv_deadline(deadline) {
                Ok(receipt) => self.on_receipt(receipt)?,
                Err(_) => return Ok(()),
            }
        }
    }

    /// Commits what is settled; unless the walk has failed, waits for what is under way before.
    fn drain_and_commit(mut self, walked: Result<(), Error>) -> Result<(), Error> {
        let deadline = Instant::now() + self.config.shutdown_timeout;
        let ended = walked.and_then(|()| self.drain(deadline));
        self.workers.give_up();
        self.commit(CommitMode::Sync, |_| true);
        let n_records = self.records_under_way + self.intake.open.offsets.len() as u64;
        log::info!("index stopped: {} under_way={}", self.counters, self.records_under_way);
        ended?;
        if n_records > 0 {
            return Err(Error::Unfinished { n_records });
        }
        Ok(())
    }
}

impl Intake {
    /// Puts a message into the open batch.
    fn take(&mut self, message: &BorrowedMessage<'_>) {
        let Some(id) = self.source_of(message) else {
            return;
        };
        self.last = Some(id);
        let source = self.sources.get_mut(&id).expect("found or made above");
        self.open.push(message, id, source, &mut self.scratch);
        self.open_since.get_or_insert_with(Instant::now);
    }

    /// Returns the source of a message's partition; the first message opens it. `None` for a
    /// partition that is not this member's any more: its owner reads the message.
    fn source_of(&mut self, message: &BorrowedMessage<'_>) -> Option<SourceId> {
        let offset = message.offset() as u64;
        if let Some(id) = self.last {
            let source = &self.sources[&id];
            let is_same =
                source.partition == message.partition() && *source.topic == *message.topic();
            if is_same && offset >= source.taken {
                return Some(id);
            }
        }
        let partition = (message.topic().to_owned(), message.partition());
        let known = *self.assigned.get(&partition)?;
        if let Some(id) = known {
            let taken = self.sources[&id].taken;
            if offset >= taken {
                return Some(id);
            }
            log::warn!(
                "offsets of {}-{} went back from {taken} to {offset}: the topic was truncated or \
                 made anew",
                partition.0,
                partition.1
            );
            self.close(id);
        }
        let id = SourceId(self.next_source);
        self.next_source += 1;
        self.ledger.open(id, offset);
        let topic = partition.0.as_str().into();
        let source = Source {
            topic,
            partition: partition.1,
            start: offset,
            taken: offset,
            committed: offset,
        };
        self.sources.insert(id, source);
        self.assigned.insert(partition, Some(id));
        Some(id)
    }

    /// Ends assignments: receipts that still come for them move nothing.
    fn forget(&mut self, partitions: &[Partition]) {
        for partition in partitions {
            if let Some(Some(id)) = self.assigned.remove(partition) {
                self.close(id);
            }
        }
    }

    fn close(&mut self, id: SourceId) {
        self.last = None;
        self.sources.remove(&id);
        self.ledger.close(id);
        self.open.remove(id);
        if self.open.offsets.is_empty() {
            self.open_since = None;
        }
    }
}

impl IndexBatch {
    /// Copies a message into the batch and extends its partition's ground to it.
    fn push(
        &mut self,
        message: &BorrowedMessage<'_>,
        id: SourceId,
        source: &mut Source,
        scratch: &mut Vec<u8>,
    ) {
        scratch.clear();
        let mut count = 0;
        if let Some(headers) = message.headers() {
            for header in headers.iter() {
                put_header(scratch, header.key, header.value.unwrap_or_default());
                count += 1;
            }
        }
        let headers = Headers { count, fixed: scratch, varying: &[] };
        let value = message.payload().unwrap_or_default();
        self.records.push(timestamp_ms(message), message.key(), value, headers);

        let offset = message.offset() as u64;
        let at = match self.ground.iter().rposition(|ground| ground.span.source == id) {
            Some(at) => {
                self.ground[at].span.end = offset + 1;
                at
            }
            None => {
                // From where the batch before ended: compaction and transactions leave gaps.
                let span = Span::new(id, source.taken, offset + 1);
                let topic = Arc::clone(&source.topic);
                self.ground.push(Ground { topic, partition: source.partition, span });
                self.ground.len() - 1
            }
        };
        source.taken = offset + 1;
        self.offsets.push((at as u32, offset));
    }

    /// Takes the records of a source out again: its partition has gone to another member.
    fn remove(&mut self, source: SourceId) {
        if !self.ground.iter().any(|ground| ground.span.source == source) {
            return;
        }
        let mut rest = IndexBatch::default();
        for (record, (at, offset)) in self.records.iter().zip(&self.offsets) {
            let ground = &self.ground[*at as usize];
            if ground.span.source != source {
                rest.copy(&record, ground, *offset);
            }
        }
        *self = rest;
    }
}

fn names(partitions: &[Partition]) -> String {
    let names: Vec<String> =
        partitions.iter().map(|(topic, partition)| format!("{topic}-{partition}")).collect();
    if names.is_empty() { "none".into() } else { names.join(" ") }
}

fn is_stopped(stop: &Receiver<()>) -> bool {
    !matches!(stop.try_recv(), Err(crossbeam_channel::TryRecvError::Empty))
}

/// The threads that carry batches to their ends.
struct Workers {
    batches: Sender<IndexBatch>,
    receipts: Receiver<IndexReceipt>,
    spare: Vec<IndexBatch>,
    given_up: Arc<AtomicBool>,
    interrupters: Vec<Interrupter>,
}

impl Workers {
    fn start(
        config: &Config,
        index: &IndexConfig,
        producer: &Producer,
        counters: &Arc<IndexCounters>,
    ) -> Result<Workers, Error> {
        let (batches, to_do) = bounded::<IndexBatch>(index.in_flight_max);
        let (done, receipts) = unbounded();
        let given_up = Arc::new(AtomicBool::new(false));
        let archive = config.archive.as_ref().map(Archive::new).transpose();
        let archive =
            archive.map_err(|source| Error::Start { attempt: "open the archive", source })?;
        let mut interrupters = Vec::new();
        for number in 0..index.in_flight_max {
            let (producer, archive) = (producer.clone(), archive.clone());
            let (counters, given_up) = (Arc::clone(counters), Arc::clone(&given_up));
            let mut worker = Worker::new(config, index, producer, archive, counters, given_up)?;
            interrupters.extend(worker.interrupter());
            let (to_do, done) = (to_do.clone(), done.clone());
            thread::Builder::new()
                .name(format!("index-{number}"))
                .spawn(move || {
                    for batch in to_do {
                        if done.send(worker.carry(batch)).is_err() {
                            return;
                        }
                    }
                })
                .map_err(|source| Error::Start { attempt: "start an index thread", source })?;
        }
        Ok(Workers { batches, receipts, spare: Vec::new(), given_up, interrupters })
    }

    /// Tells workers to leave what cannot be settled now.
    fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
        self.interrupters.iter().for_each(Interrupter::interrupt);
    }
}
