//! Idempotent delivery: one thread, one poll loop, all connections.
//!
//! The journey of a batch: it comes by the channel, is compressed, its arena goes back, and it
//! joins the queue of its partition. Whenever the partition's leader is connected and has fewer
//! than five requests open, one batch of each of its partitions goes out in one request. The
//! answer settles it, or makes the partition recover (`partition.rs`).
//!
//! Nothing here gives a batch up: what may heal is waited for, what is wrong is said once when it
//! changes and once when it is over (`Health`).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use log::{debug, warn};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::Error;
use super::cluster::Cluster;
use super::connection::{self, Answer, Connection, Opened, Piece as Bytes};
use super::health::{BrokerReport, Health, LinkState, Oldest, Report};
use super::messages::{
    self, Api, Leader, PRODUCE_BY_ID, ProduceAnswer, ProduceItem, ProduceOutcome, TopicId,
};
use super::partition::{
    Arrived, Identity, Outcome, Partition, Piece, PieceId, Recovery, Refusal, Taken,
};
use super::record_batch::{EncodedBatch, Encoder, Headers, RecordArena, RecordRef, Stamp};
use super::verdict::{Verdict, explained, named, verdict};
use crate::batch::{Batch, LeftOut, TooLarge};
use crate::config::{Compression, KafkaConfig};
use crate::planted::{self, Bug};
use crate::record::{BatchId, Span};

/// Requests open on one connection: with more the broker no longer recognises repeats.
const REQUESTS_MAX: usize = 5;
/// Bytes of batches after which nothing is added to a request. A single batch may be larger.
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How often leaders are asked for without need, to notice new partitions.
const METADATA_INTERVAL: Duration = Duration::from_secs(300);
/// How long one attempt to connect goes on before the next address is tried beside it.
const CONNECT_STAGGER: Duration = Duration::from_secs(1);
/// A partition that got nothing for this long may have been forgotten by its broker, which keeps
/// producer ids for a day by default, an hour being the least anybody sets.
const TRUST_TIME: Duration = Duration::from_secs(30 * 60);
/// Waits that a partition is held where somebody must do something first.
const HOLD_WAITS: u32 = 3;
/// How often it is looked whether a broker that failed, and to which nothing is to be sent, is there
/// again: what is said of it would be untrue for ever.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// Silence of a broker that owes an answer after which others are asked, and again as often as
/// `retry_backoff_max` says, who leads what it should take. One that is frozen keeps its connections,
/// but not its partitions: a controller that does not hear of it gives them to others after
/// `broker.session.timeout.ms`, 9 s by default.
const DOUBT_TIME: Duration = Duration::from_secs(5);
/// How long no answer has asked us to wait before a quota is said to be felt no more.
const THROTTLE_TIME: Duration = Duration::from_secs(60);
/// Failures in a row after which what a leader's move explains is worth a warning.
const MOVE_FAILURES_MAX: u32 = 2;

/// Delivers batches. Dropping the last handle ends the thread; what is not settled then is
/// not given up but simply not answered.
#[derive(Clone)]
pub struct Producer {
    handle: Arc<Handle>,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Producer")
    }
}

struct Handle {
    line: Line,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.line.say(Command::End);
    }
}

/// The way to the thread: a channel, and what wakes it from its poll.
#[derive(Clone)]
struct Line {
    commands: Sender<Command>,
    waker: Arc<OwnedFd>,
    /// Rounds of the thread's loop.
    n_rounds: Arc<AtomicU64>,
}

impl Line {
    fn say(&self, command: Command) {
        // Neither fails but when the thread is gone, and then nobody is to be woken.
        if self.commands.send(command).is_ok() {
            self.wake();
        }
    }

    fn wake(&self) {
        let _ = rustix::io::write(&self.waker, &1u64.to_ne_bytes());
    }
}

enum Command {
    Send(Batch, Sender<Delivery>),
    Describe(Arc<str>, Sender<Delivery>),
    AskLastSequence(SequenceQuestion),
    AskMaxMessageBytes(SizeQuestion),
    Report(Sender<Report>),
    Opened(Arc<str>, Result<Opened, Error>),
    End,
}

/// What the producer reports.
#[derive(Debug)]
pub enum Delivery {
    /// The topic is known.
    Topic {
        /// Its name.
        topic: Arc<str>,
        /// How many partitions it has; at least one.
        n_partitions: i32,
    },
    /// How large a batch of a topic may be.
    MaxMessageBytes {
        /// Which topic.
        topic: Arc<str>,
        /// Its `max.message.bytes`, or why that is not known.
        known: Result<usize, String>,
    },
    /// What the leader of a partition knows of a producer id.
    LastSequence {
        /// Which topic.
        topic: Arc<str>,
        /// Which partition.
        partition: i32,
        /// What it knows.
        known: LastSequence,
    },
    /// The arena of a batch that is compressed and not needed any more, to be filled again.
    Recycled(RecordArena),
    /// A batch is settled.
    Settled(Receipt),
    /// Going on would break the promise, for this reason; nothing more is sent.
    Fatal(String),
}

/// What a partition knows of a producer id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LastSequence {
    /// The sequence number of the last record that arrived, -1 if none did, and its epoch.
    Known(i16, i32),
    /// Nothing: it would take any sequence number.
    Forgotten,
    /// Its leader does not say, for this reason.
    Untold(String),
}

/// Is told, before a batch leaves, under what it goes, so that another process can go on as the
/// same producer.
pub trait SendJournal: Send {
    /// The batch goes now, under this stamp; whatever was said of it before is void.
    fn sent(&mut self, batch: BatchId, n_records: u32, stamp: Stamp);
    /// The batch goes in parts from now on, or without some of its records.
    fn cut(&mut self, batch: BatchId);
}

/// What became of a batch. All its records stand in the log, except `rejects`.
#[derive(Debug)]
pub struct Receipt {
    /// Which batch.
    pub batch: BatchId,
    /// Where it went.
    pub topic: Arc<str>,
    /// Where it went.
    pub partition: i32,
    /// The ground it covers.
    pub spans: Vec<Span>,
    /// Its records, rejected ones included.
    pub n_records: u32,
    /// Offset of its first record, -1 if unknown.
    pub base_offset: i64,
    /// What the broker can never take, in order.
    pub rejects: Vec<Rejected>,
    /// What was cut off its records.
    pub left_out: LeftOut,
    /// Whether records of it may stand in the log twice, for the broker had forgotten us.
    pub may_repeat: bool,
}

/// A record the broker can never take. It goes to dead letters before its ground is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Unit: milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// The event.
    pub value: Vec<u8>,
    /// Names and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The broker's reason.
    pub reason: String,
    /// The broker's error code.
    pub code: i16,
}

impl Producer {
    /// Starts the thread, which connects at once; it tells `journal` of every batch before that
    /// leaves.
    ///
    /// Errors: `Start` or `Codec`, both for want of the system's resources.
    pub fn start(
        config: &KafkaConfig,
        compression: Compression,
        journal: Option<Box<dyn SendJournal>>,
    ) -> Result<Producer, Error> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let waker = eventfd(0, flags).map_err(|error| Error::Start(error.into()))?;
        let (commands, receiver) = unbounded();
        let line = Line { commands, waker: Arc::new(waker), n_rounds: Arc::default() };
        let encoder = Encoder::new(compression)?;
        let worker = Worker::new(config.clone(), compression, encoder, line.clone(), journal);
        thread::Builder::new()
            .name("kafka-producer".into())
            .spawn(move || worker.run(&receiver))
            .map_err(Error::Start)?;
        Ok(Producer { handle: Arc::new(Handle { line }) })
    }

    /// Hands a batch over. Never blocks: the caller bounds what is under way. The batch gets
    /// exactly one [`Delivery::Settled`] on `reply`, whenever that may be.
    pub fn send(&self, batch: Batch, reply: &Sender<Delivery>) {
        self.handle.line.say(Command::Send(batch, reply.clone()));
    }

    /// Asks how many partitions a topic has. Answered by one [`Delivery::Topic`] once that is
    /// known; until then the log says why it is not.
    pub fn describe(&self, topic: &Arc<str>, reply: &Sender<Delivery>) {
        let command = Command::Describe(topic.clone(), reply.clone());
        self.handle.line.say(command);
    }

    /// Returns how often the thread has gone round its loop, and has it go round once more: one
    /// that is the same some seconds later tells that the thread hangs.
    pub fn ask_for_round(&self) -> u64 {
        self.handle.line.wake();
        self.handle.line.n_rounds.load(Ordering::Relaxed)
    }

    /// Asks how large a batch of a topic may be. Answered by one [`Delivery::MaxMessageBytes`].
    pub fn ask_max_message_bytes(&self, topic: &Arc<str>, reply: &Sender<Delivery>) {
        let (topic, reply) = (topic.clone(), reply.clone());
        let question = Question { wanted: true, ..Question::default() };
        self.handle.line.say(Command::AskMaxMessageBytes(SizeQuestion { topic, reply, question }));
    }

    /// Returns what asks the thread how delivery is, for as long as the producer lives.
    pub fn reporter(&self) -> Reporter {
        Reporter { line: self.handle.line.clone() }
    }

    /// Asks what a partition knows of a producer id. Answered by one [`Delivery::LastSequence`]
    /// once its leader can be asked; to be asked once at a time for a partition.
    pub fn ask_last_sequence(
        &self,
        topic: &Arc<str>,
        partition: i32,
        producer_id: i64,
        reply: &Sender<Delivery>,
    ) {
        let question = Question { wanted: true, ..Question::default() };
        let (topic, reply) = (topic.clone(), reply.clone());
        let question = SequenceQuestion { topic, partition, producer_id, reply, question };
        self.handle.line.say(Command::AskLastSequence(question));
    }
}

/// Asks the producer's thread how delivery is; does not keep it alive.
#[derive(Clone)]
pub struct Reporter {
    line: Line,
}

impl Reporter {
    /// Returns how delivery is now; `None` where the thread has ended or does not answer for
    /// `timeout`.
    pub fn report(&self, timeout: Duration) -> Option<Report> {
        let (reply, report) = bounded(1);
        self.line.say(Command::Report(reply));
        report.recv_timeout(timeout).ok()
    }
}

/// A question about a partition that only its leader answers.
struct SequenceQuestion {
    topic: Arc<str>,
    partition: i32,
    producer_id: i64,
    reply: Sender<Delivery>,
    question: Question,
}

/// A question about a topic that any broker answers.
struct SizeQuestion {
    topic: Arc<str>,
    reply: Sender<Delivery>,
    question: Question,
}

/// What a request on its way was for.
#[derive(Debug)]
enum Request {
    Metadata,
    ProducerId,
    LastSequence(Arc<str>, i32),
    MaxMessageBytes(Arc<str>),
    Produce(Vec<Sent>),
}

/// A batch in a Produce request.
#[derive(Debug)]
struct Sent {
    /// Index into the worker's partitions.
    slot: usize,
    /// Under which id of the topic; zero where brokers give none.
    topic_id: TopicId,
    piece: PieceId,
}

/// The way to one broker.
enum Link {
    /// Nothing; not before the time given may it be tried again.
    Down {
        not_before: Instant,
    },
    /// A thread is at it since.
    Opening {
        since: Instant,
    },
    Up(Connection<Request>),
}

/// Whether a broker has not answered for so long that others are asked in its place.
fn is_silent(connection: &Connection<Request>, now: Instant) -> bool {
    connection.times_out_at(DOUBT_TIME).is_some_and(|time| time <= now)
}

/// A question to any broker that is asked until it is answered.
#[derive(Debug, Default)]
struct Question {
    wanted: bool,
    /// Whose answer is awaited.
    asked: Option<Arc<str>>,
    not_before: Option<Instant>,
    n_failures: u32,
}

impl Question {
    fn is_due(&self, now: Instant) -> bool {
        self.wanted && self.asked.is_none() && self.not_before.is_none_or(|time| time <= now)
    }

    fn ask_again(&mut self, not_before: Instant) {
        self.asked = None;
        self.wanted = true;
        self.not_before = Some(not_before);
        self.n_failures += 1;
    }

    fn is_answered(&mut self) {
        *self = Question::default();
    }
}

/// A partition and where its batches are.
struct Slot {
    topic: Arc<str>,
    index: i32,
    partition: Partition,
    /// Who has what is in flight: what follows must go the same way, or wait.
    home: Option<Arc<str>>,
    not_before: Option<Instant>,
    last_arrival: Option<Instant>,
    is_troubled: bool,
    /// Said once, for where one record is too large others will be.
    has_cut_a_record: bool,
}

impl Slot {
    fn subject(&self) -> String {
        format!("topic {:?} partition {}", self.topic, self.index)
    }
}

/// A batch of the caller's that has pieces in a partition.
struct Origin {
    n_pieces: usize,
    receipt: Receipt,
    reply: Sender<Delivery>,
    /// When it was handed over.
    since: Instant,
    too_large: Option<TooLarge>,
    /// Its pieces are not the whole of it any more.
    is_cut: bool,
}

struct Worker {
    config: KafkaConfig,
    compression: Compression,
    encoder: Encoder,
    line: Line,
    journal: Option<Box<dyn SendJournal>>,
    cluster: Cluster,
    links: BTreeMap<Arc<str>, Link>,
    /// Attempts to reach an address that failed in a row.
    n_link_failures: HashMap<Arc<str>, u32>,
    /// When an answer of an address last asked us to wait.
    throttled_at: HashMap<Arc<str>, Instant>,
    /// Where to look next for a broker that answers.
    next_address: usize,
    slots: Vec<Slot>,
    slot_by_name: HashMap<(Arc<str>, i32), usize>,
    /// Where the next request begins to look for batches, so that no partition starves.
    next_slot: usize,
    origins: HashMap<u64, Origin>,
    /// Number of the next origin or piece.
    next_id: u64,
    /// For partitions that have none.
    identity: Option<Identity>,
    metadata: Question,
    metadata_at: Instant,
    producer_id: Question,
    sequence_questions: Vec<SequenceQuestion>,
    size_questions: Vec<SizeQuestion>,
    waiting: Vec<(Arc<str>, Sender<Delivery>)>,
    health: Health,
    fatal: Option<String>,
    jitter: u64,
    alarm: Alarm,
}

/// When the loop must look again even if nothing happens.
#[derive(Debug, Default)]
struct Alarm(Option<Instant>);

impl Alarm {
    fn by(&mut self, time: Instant) {
        self.0 = Some(self.0.map_or(time, |earlier| earlier.min(time)));
    }
}

impl Worker {
    fn new(
        config: KafkaConfig,
        compression: Compression,
        encoder: Encoder,
        line: Line,
        journal: Option<Box<dyn SendJournal>>,
    ) -> Worker {
        let wanted = || Question { wanted: true, ..Question::default() };
        Worker {
            cluster: Cluster::new(&config),
            config,
            compression,
            encoder,
            line,
            journal,
            links: BTreeMap::new(),
            n_link_failures: HashMap::new(),
            throttled_at: HashMap::new(),
            next_address: 0,
            slots: Vec::new(),
            slot_by_name: HashMap::new(),
            next_slot: 0,
            origins: HashMap::new(),
            next_id: 0,
            identity: None,
            metadata: wanted(),
            metadata_at: Instant::now(),
            producer_id: wanted(),
            sequence_questions: Vec::new(),
            size_questions: Vec::new(),
            waiting: Vec::new(),
            health: Health::default(),
            fatal: None,
            jitter: RandomState::new().build_hasher().finish() | 1,
            alarm: Alarm::default(),
        }
    }

    fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let now = Instant::now();
            self.alarm = Alarm::default();
            while let Ok(command) = commands.try_recv() {
                match command {
                    Command::Send(batch, reply) => self.accept(batch, reply, now),
                    Command::Describe(topic, reply) => self.describe(topic, reply),
                    Command::AskLastSequence(question) => {
                        self.care_about(&question.topic);
                        self.sequence_questions.push(question);
                    }
                    Command::AskMaxMessageBytes(question) => self.size_questions.push(question),
                    // Who asked may be gone.
                    Command::Report(reply) => _ = reply.send(self.report(now)),
                    Command::Opened(address, opened) => self.opened(address, opened, now),
                    Command::End => return,
                }
            }
            if self.fatal.is_none() {
                self.doubt_silent(now);
                self.ask(now);
                self.probe(now);
                self.produce(now);
            }
            self.write(now);
            self.end_silence(now);
            self.end_sessions(now);
            self.end_throttles(now);
            self.remind(now);
            self.line.n_rounds.fetch_add(1, Ordering::Relaxed);
            self.wait();
        }
    }

    /// Returns when to try again after so many failures in a row.
    fn retry_at(&mut self, n_failures: u32, now: Instant) -> Instant {
        let wait =
            self.config.retry_backoff * 2u32.saturating_pow(n_failures.saturating_sub(1).min(20));
        let wait = wait.min(self.config.retry_backoff_max);
        // xorshift64: what many shippers try at once is spread over 80 to 120 %.
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        now + wait.mul_f64(0.8 + 0.4 * (self.jitter % 1000) as f64 / 1000.0)
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    // Commands.

    fn accept(&mut self, batch: Batch, reply: Sender<Delivery>, now: Instant) {
        if let Some(reason) = &self.fatal {
            return tell(&reply, Delivery::Fatal(reason.clone()));
        }
        let origin = self.new_id();
        let n_records = batch.records.count();
        let receipt = Receipt {
            batch: batch.id,
            topic: batch.topic.clone(),
            partition: batch.partition,
            spans: batch.spans,
            n_records,
            base_offset: -1,
            rejects: Vec::new(),
            left_out: LeftOut::default(),
            may_repeat: false,
        };
        let (encoded, arena) = match self.encoder.encode(batch.records) {
            Ok(encoded) => encoded,
            Err(error) => {
                tell(&reply, Delivery::Fatal(error.to_string()));
                return self.stop(error.to_string());
            }
        };
        tell(&reply, Delivery::Recycled(arena));
        let too_large = batch.too_large;
        let (n_pieces, since, is_cut) = (1, now, false);
        let waiting = Origin { n_pieces, receipt, reply, since, too_large, is_cut };
        self.origins.insert(origin, waiting);
        if n_records == 0 {
            return self.finish_piece(origin, -1);
        }
        let slot = self.slot_of(batch.topic, batch.partition);
        let id = PieceId(self.new_id());
        let slot = &mut self.slots[slot];
        if slot.last_arrival.is_some_and(|time| now - time > TRUST_TIME) {
            slot.partition.distrust();
        }
        let piece = Piece::new(id, origin, encoded, n_records);
        match batch.stamp {
            None => slot.partition.push(piece),
            Some(stamp) => {
                if !slot.partition.push_again(piece, stamp) {
                    self.may_repeat(&[origin]);
                }
            }
        }
    }

    fn slot_of(&mut self, topic: Arc<str>, index: i32) -> usize {
        if let Some(slot) = self.slot_by_name.get(&(topic.clone(), index)) {
            return *slot;
        }
        self.care_about(&topic);
        let slot = self.slots.len();
        self.slots.push(Slot {
            topic: topic.clone(),
            index,
            partition: Partition::default(),
            home: None,
            not_before: None,
            last_arrival: None,
            is_troubled: false,
            has_cut_a_record: false,
        });
        self.slot_by_name.insert((topic, index), slot);
        slot
    }

    fn care_about(&mut self, topic: &Arc<str>) {
        if self.cluster.add_topic(topic) {
            self.metadata.wanted = true;
        }
    }

    fn describe(&mut self, topic: Arc<str>, reply: Sender<Delivery>) {
        if let Some(reason) = &self.fatal {
            return tell(&reply, Delivery::Fatal(reason.clone()));
        }
        self.care_about(&topic);
        self.waiting.push((topic, reply));
        self.answer_waiting();
    }

    fn answer_waiting(&mut self) {
        let cluster = &self.cluster;
        self.waiting.retain(|(topic, reply)| {
            let n_partitions = cluster.topic(topic).and_then(|topic| topic.n_partitions());
            if let Some(n_partitions) = n_partitions {
                let topic = topic.clone();
                tell(reply, Delivery::Topic { topic, n_partitions });
            }
            n_partitions.is_none()
        });
    }

    fn opened(&mut self, address: Arc<str>, opened: Result<Opened, Error>, now: Instant) {
        match opened {
            Ok(opened) => {
                let connection = Connection::new(opened, now);
                let version = connection.version(Api::Produce);
                debug!("{}: connected, Produce v{version}", broker_subject(&address));
                self.links.insert(address, Link::Up(connection));
            }
            Err(error) => self.link_failed(address, &error, now),
        }
    }

    // Links.

    fn link_failed(&mut self, address: Arc<str>, error: &Error, now: Instant) {
        let mut reason = error.to_string();
        if matches!(error, Error::Resolve(_) | Error::Connect(_))
            && let Some(node) = self.cluster.advertised_node(&address)
        {
            reason += &format!("; node {node} has this address in its advertised.listeners");
        }
        self.health.is_bad(broker_subject(&address), reason, now);
        let n_failures = self.n_link_failures.entry(address.clone()).or_default();
        *n_failures += 1;
        let n_failures = *n_failures;
        let not_before = self.retry_at(n_failures, now);
        self.links.insert(address, Link::Down { not_before });
        // What it led may have moved.
        self.metadata.wanted = true;
    }

    /// Begins to connect to `address`, unless that is under way or too early.
    fn open(&mut self, address: &Arc<str>, now: Instant) -> bool {
        match self.links.get(address) {
            Some(Link::Down { not_before }) if *not_before > now => {
                let not_before = *not_before;
                self.alarm.by(not_before);
                return false;
            }
            Some(Link::Opening { .. } | Link::Up(_)) => return false,
            Some(Link::Down { .. }) | None => {}
        }
        let line = self.line.clone();
        let config = self.config.clone();
        let name = address.clone();
        let thread = thread::Builder::new().name("kafka-connect".into()).spawn(move || {
            let opened = connection::open(&name, &config);
            line.say(Command::Opened(name, opened));
        });
        if let Err(error) = thread {
            self.link_failed(address.clone(), &Error::Start(error), now);
            return false;
        }
        let link = Link::Opening { since: now };
        self.links.insert(address.clone(), link);
        true
    }

    /// Gives a connection up: what was not answered is unknown.
    fn lose(&mut self, address: &Arc<str>, error: &Error, now: Instant) {
        let idle = Link::Down { not_before: now };
        let Some(Link::Up(connection)) = self.links.insert(address.clone(), idle) else {
            return;
        };
        let was_idle = connection.n_pending() == 0;
        let mut slots = Vec::new();
        for request in connection.into_pending() {
            match request {
                Request::Metadata => self.ask_metadata_again(now),
                Request::ProducerId => self.ask_producer_id_again(now),
                Request::LastSequence(topic, partition) => {
                    self.ask_sequence_again(&topic, partition, now);
                }
                Request::MaxMessageBytes(topic) => self.ask_size_again(&topic, now),
                Request::Produce(batches) => {
                    for sent in batches {
                        self.answered(&sent, Outcome::Unknown, now);
                        slots.push(sent.slot);
                    }
                }
            }
        }
        if was_idle && matches!(error, Error::Closed) {
            debug!("{}: closed while idle", broker_subject(address));
        } else {
            self.link_failed(address.clone(), error, now);
        }
        self.recover(slots, now);
    }

    /// Returns a broker to ask, and connects to one if there is none.
    fn any_broker(&mut self, now: Instant) -> Option<Arc<str>> {
        let mut least_busy: Option<(usize, &Arc<str>)> = None;
        for (address, link) in &self.links {
            let Link::Up(connection) = link else {
                continue;
            };
            if let Some(until) = connection.throttled_until(now) {
                self.alarm.by(until);
            } else if connection.n_pending() < REQUESTS_MAX
                && !connection.has_expired(now)
                && !is_silent(connection, now)
            {
                let candidate = (connection.n_pending(), address);
                least_busy = Some(least_busy.map_or(candidate, |least| least.min(candidate)));
            }
        }
        if let Some((_, address)) = least_busy {
            return Some(address.clone());
        }
        let latest = self.links.values().filter_map(|link| match link {
            Link::Opening { since } => Some(*since),
            _ => None,
        });
        if let Some(since) = latest.max()
            && since + CONNECT_STAGGER > now
        {
            self.alarm.by(since + CONNECT_STAGGER);
            return None;
        }
        let addresses =
            self.cluster.addresses_to_ask(|address| self.n_link_failures.contains_key(address));
        for _ in 0..addresses.len() {
            let address = &addresses[self.next_address % addresses.len()];
            self.next_address = self.next_address.wrapping_add(1);
            if self.open(address, now) {
                self.alarm.by(now + CONNECT_STAGGER);
                break;
            }
        }
        None
    }

    // Questions.

    /// Asks for leaders and a producer id where they are needed.
    fn ask(&mut self, now: Instant) {
        let n_topics = self.cluster.topics().len();
        if n_topics > 0 {
            if now >= self.metadata_at + METADATA_INTERVAL {
                self.metadata.wanted = true;
            }
            self.alarm.by((self.metadata_at + METADATA_INTERVAL).max(now + CONNECT_STAGGER));
        }
        if self.metadata.is_due(now)
            && let Some(address) = self.any_broker(now)
        {
            self.ask_metadata_of(&address, now);
        }
        if self.producer_id.is_due(now)
            && let Some(address) = self.any_broker(now)
            && let Some(Link::Up(connection)) = self.links.get_mut(&address)
        {
            self.producer_id.asked = Some(address);
            let client_id = &self.config.client_id;
            connection.send(
                connection.version(Api::InitProducerId),
                client_id,
                Request::ProducerId,
                now,
                |head, out| {
                    let request = messages::init_producer_id_request(head);
                    out.push_back(Bytes::Frame(request));
                },
            );
        }
        for n in (0..self.sequence_questions.len()).rev() {
            self.ask_leader(n, now);
        }
        for n in (0..self.size_questions.len()).rev() {
            self.ask_size(n, now);
        }
        let sequences = self.sequence_questions.iter().map(|asked| &asked.question);
        let sizes = self.size_questions.iter().map(|asked| &asked.question);
        for question in sequences.chain(sizes).chain([&self.metadata, &self.producer_id]) {
            if question.wanted
                && let Some(time) = question.not_before.filter(|time| *time > now)
            {
                self.alarm.by(time);
            }
        }
    }

    /// Asks others what a broker that is silent should answer, and gives the connection up where it
    /// does not lead any more what it was sent.
    fn doubt_silent(&mut self, now: Instant) {
        let (mut silent, mut former) = (Vec::new(), Vec::new());
        for (address, link) in &self.links {
            let Link::Up(connection) = link else { continue };
            match connection.times_out_at(DOUBT_TIME) {
                Some(time) if time > now => self.alarm.by(time),
                Some(_) if connection.pending().any(|request| self.is_moved(request, address)) => {
                    former.push(address.clone());
                }
                Some(_) => silent.push(address.clone()),
                None => {}
            }
        }
        for address in former {
            self.lose(&address, &Error::Replaced(DOUBT_TIME), now);
        }
        if silent.is_empty() {
            return;
        }
        let sizes = self.size_questions.iter_mut().map(|asked| &mut asked.question);
        for question in [&mut self.metadata, &mut self.producer_id].into_iter().chain(sizes) {
            question.asked.take_if(|address| silent.contains(address));
        }
        match self.metadata_at + self.config.retry_backoff_max {
            time if time > now => self.alarm.by(time),
            _ => self.metadata.wanted = true,
        }
    }

    /// Whether another broker than the one that was asked leads what a request is about.
    fn is_moved(&self, request: &Request, address: &Arc<str>) -> bool {
        let has_another = |topic: &str, partition| {
            let leader = self.cluster.leader(topic, partition);
            leader.is_some_and(|leader| leader != address)
        };
        match request {
            Request::Produce(batches) => batches.iter().any(|sent| {
                let slot = &self.slots[sent.slot];
                has_another(&slot.topic, slot.index)
            }),
            Request::LastSequence(topic, partition) => has_another(topic, *partition),
            Request::Metadata | Request::ProducerId | Request::MaxMessageBytes(_) => false,
        }
    }

    /// Connects to brokers that failed, now and then, and asks them what any broker may be asked:
    /// with the answer they are well again.
    fn probe(&mut self, now: Instant) {
        let failed: Vec<Arc<str>> = self.n_link_failures.keys().cloned().collect();
        for address in failed {
            match self.links.get(&address) {
                Some(Link::Down { not_before }) => match *not_before + PROBE_INTERVAL {
                    due if due <= now => _ = self.open(&address, now),
                    due => self.alarm.by(due),
                },
                Some(Link::Up(connection)) if connection.n_pending() == 0 => {
                    self.ask_metadata_of(&address, now);
                }
                _ => {}
            }
        }
    }

    fn ask_metadata_of(&mut self, address: &Arc<str>, now: Instant) {
        let Some(Link::Up(connection)) = self.links.get_mut(address) else {
            return;
        };
        if connection.has_expired(now) || connection.throttled_until(now).is_some() {
            return;
        }
        self.metadata.asked = Some(address.clone());
        let (config, cluster) = (&self.config, &self.cluster);
        connection.send(
            connection.version(Api::Metadata),
            &config.client_id,
            Request::Metadata,
            now,
            |head, out| {
                let topics = cluster.topics().map(|(name, _)| &**name);
                let allow = config.allow_auto_create_topics;
                let request = messages::metadata_request(head, topics, allow);
                out.push_back(Bytes::Frame(request));
            },
        );
    }

    /// Sends the leader of a partition what is asked about it, unless that is under way.
    fn ask_leader(&mut self, n: usize, now: Instant) {
        let SequenceQuestion { topic, partition, question, .. } = &self.sequence_questions[n];
        if !question.is_due(now) {
            return;
        }
        let (topic, partition) = (topic.clone(), *partition);
        let Some(leader) = self.cluster.leader(&topic, partition).cloned() else {
            self.metadata.wanted = true;
            return;
        };
        self.open(&leader, now);
        let Some(Link::Up(connection)) = self.links.get_mut(&leader) else {
            return;
        };
        if connection.has_expired(now) {
            return;
        }
        let Some(version) = connection.version_if_known(Api::DescribeProducers) else {
            let reason = format!("{leader} is older than Kafka 2.8 and cannot tell");
            return self.answer_sequence(&topic, partition, LastSequence::Untold(reason));
        };
        self.sequence_questions[n].question.asked = Some(leader);
        connection.send(
            version,
            &self.config.client_id,
            Request::LastSequence(topic.clone(), partition),
            now,
            |head, out| {
                let request = messages::describe_producers_request(head, &topic, partition);
                out.push_back(Bytes::Frame(request));
            },
        );
    }

    /// Asks any broker how large a batch of a topic may be, unless that is under way.
    fn ask_size(&mut self, n: usize, now: Instant) {
        if !self.size_questions[n].question.is_due(now) {
            return;
        }
        let Some(address) = self.any_broker(now) else {
            return;
        };
        let Some(Link::Up(connection)) = self.links.get_mut(&address) else {
            return;
        };
        let topic = self.size_questions[n].topic.clone();
        let Some(version) = connection.version_if_known(Api::DescribeConfigs) else {
            let reason = format!("{address} does not know DescribeConfigs");
            return self.answer_size(&topic, Err(reason));
        };
        self.size_questions[n].question.asked = Some(address);
        connection.send(
            version,
            &self.config.client_id,
            Request::MaxMessageBytes(topic.clone()),
            now,
            |head, out| {
                out.push_back(Bytes::Frame(messages::max_message_bytes_request(head, &topic)));
            },
        );
    }

    fn ask_size_again(&mut self, topic: &Arc<str>, now: Instant) {
        let retry_at = now + self.config.retry_backoff_max;
        let mut asked = self.size_questions.iter_mut().filter(|asked| asked.topic == *topic);
        if let Some(asked) = asked.next() {
            asked.question.ask_again(retry_at);
        }
    }

    fn answer_size(&mut self, topic: &Arc<str>, known: Result<usize, String>) {
        if let Some(n) = self.size_questions.iter().position(|asked| asked.topic == *topic) {
            let SizeQuestion { topic, reply, .. } = self.size_questions.swap_remove(n);
            tell(&reply, Delivery::MaxMessageBytes { topic, known });
        }
    }

    fn learn_size(
        &mut self,
        address: &Arc<str>,
        topic: &Arc<str>,
        (version, body): (i16, &[u8]),
        now: Instant,
    ) -> Result<(), Error> {
        let answer = messages::max_message_bytes_answer(version, body)?;
        self.throttle(address, answer.throttle_ms, now);
        match (verdict(answer.code), answer.max_message_bytes) {
            (Verdict::Arrived, Some(bytes)) => self.answer_size(topic, Ok(bytes)),
            (Verdict::Refresh | Verdict::Retry, _) => self.ask_size_again(topic, now),
            _ => {
                let reason = match answer.code {
                    29 => "DescribeConfigs on the topic is not granted".into(),
                    code => explained(code, answer.message.as_deref()),
                };
                self.answer_size(topic, Err(reason));
            }
        }
        Ok(())
    }

    fn ask_sequence_again(&mut self, topic: &Arc<str>, partition: i32, now: Instant) {
        let is_it =
            |asked: &&mut SequenceQuestion| asked.topic == *topic && asked.partition == partition;
        let n_failures = self.sequence_questions.iter_mut().find(is_it).map(|asked| {
            asked.question.asked = None;
            asked.question.n_failures
        });
        let retry_at = self.retry_at(n_failures.unwrap_or(0) + 1, now);
        if let Some(asked) = self.sequence_questions.iter_mut().find(is_it) {
            asked.question.ask_again(retry_at);
        }
    }

    fn answer_sequence(&mut self, topic: &Arc<str>, partition: i32, known: LastSequence) {
        let is_it =
            |asked: &SequenceQuestion| asked.topic == *topic && asked.partition == partition;
        if let Some(n) = self.sequence_questions.iter().position(is_it) {
            let asked = self.sequence_questions.swap_remove(n);
            let topic = asked.topic;
            tell(&asked.reply, Delivery::LastSequence { topic, partition, known });
        }
    }

    fn learn_sequence(
        &mut self,
        address: &Arc<str>,
        (topic, partition): (&Arc<str>, i32),
        body: &[u8],
        now: Instant,
    ) -> Result<(), Error> {
        let answer = messages::describe_producers_answer(body, topic, partition)?;
        self.throttle(address, answer.throttle_ms, now);
        let asked = self.sequence_questions.iter();
        let asked = asked.filter(|asked| asked.topic == *topic && asked.partition == partition);
        let producer_id = asked.map(|asked| asked.producer_id).next();
        let (Some(producer_id), code) = (producer_id, answer.code) else {
            return Ok(());
        };
        let subject = format!("topic {topic:?} partition {partition}");
        match verdict(code) {
            Verdict::Arrived => {
                self.health.is_good(&subject, now);
                let known = match answer.last_sequence(producer_id) {
                    Some((epoch, last_sequence)) => LastSequence::Known(epoch, last_sequence),
                    None => LastSequence::Forgotten,
                };
                self.answer_sequence(topic, partition, known);
            }
            Verdict::Hold => {
                let reason = match code {
                    29 => "Read on the topic is not granted".into(),
                    code => explained(code, answer.message),
                };
                self.answer_sequence(topic, partition, LastSequence::Untold(reason));
            }
            Verdict::Refresh => {
                self.metadata.wanted = true;
                self.ask_sequence_again(topic, partition, now);
            }
            _ => {
                let reason = format!("{} (asked at {address})", explained(code, answer.message));
                self.health.is_bad(subject, reason, now);
                self.ask_sequence_again(topic, partition, now);
            }
        }
        Ok(())
    }

    fn ask_metadata_again(&mut self, now: Instant) {
        let retry_at = self.retry_at(self.metadata.n_failures + 1, now);
        self.metadata.ask_again(retry_at);
    }

    fn ask_producer_id_again(&mut self, now: Instant) {
        let retry_at = self.retry_at(self.producer_id.n_failures + 1, now);
        self.producer_id.ask_again(retry_at);
    }

    fn learn_metadata(
        &mut self,
        address: &Arc<str>,
        version: i16,
        body: &[u8],
        now: Instant,
    ) -> Result<(), Error> {
        let metadata = messages::metadata_answer(version, body)?;
        self.throttle(address, metadata.throttle_ms, now);
        if metadata.code != 0 {
            let reason = explained(metadata.code, None);
            self.health.is_bad("cluster".into(), reason, now);
            self.ask_metadata_again(now);
            return Ok(());
        }
        self.health.is_good("cluster", now);
        self.cluster.update(metadata);
        debug!("{}: has said who leads", broker_subject(address));
        self.forget_brokers_gone();
        self.metadata_at = now;
        self.answer_waiting();

        let mut is_complete = true;
        for (name, topic) in self.cluster.topics() {
            let subject = format!("topic {name:?}");
            let is_new = self.config.allow_auto_create_topics && self.metadata.n_failures < 5;
            match topic.code {
                // Also one that was not asked for yet when this was asked.
                0 if topic.n_partitions().is_none() || topic.lacks_a_leader() => {
                    is_complete = false;
                }
                0 => self.health.is_good(&subject, now),
                // It is being created.
                3 | 5 if is_new => is_complete = false,
                code => {
                    is_complete = false;
                    let reason = match code {
                        3 => format!(
                            "does not exist on the cluster at {address}: create it, or set \
                             kafka.allow_auto_create_topics"
                        ),
                        code => format!("{} (asked at {address})", explained(code, None)),
                    };
                    self.health.is_bad(subject, reason, now);
                }
            }
        }
        for n in 0..self.slots.len() {
            let has_another_leader = self.has_another_leader(n);
            let slot = &mut self.slots[n];
            if has_another_leader {
                slot.not_before = None;
            }
            let leaderless = !slot.partition.is_empty()
                && self.cluster.topic(&slot.topic).is_some_and(|t| t.code == 0)
                && self.cluster.leader(&slot.topic, slot.index).is_none();
            if leaderless {
                is_complete = false;
                slot.is_troubled = true;
                let reason = format!("has no leader, says the broker at {address}");
                self.health.is_bad(slot.subject(), reason, now);
            }
        }
        if is_complete {
            self.metadata.is_answered();
        } else {
            self.ask_metadata_again(now);
        }
        Ok(())
    }

    /// A broker that no longer belongs to the cluster is no trouble any more.
    fn forget_brokers_gone(&mut self) {
        let known = self.cluster.addresses();
        let (health, n_failures) = (&mut self.health, &mut self.n_link_failures);
        self.links.retain(|address, link| {
            let is_gone = matches!(link, Link::Down { .. }) && !known.contains(address);
            if is_gone {
                health.forget(&broker_subject(address));
                n_failures.remove(address);
            }
            !is_gone
        });
    }

    fn learn_producer_id(
        &mut self,
        address: &Arc<str>,
        version: i16,
        body: &[u8],
        now: Instant,
    ) -> Result<(), Error> {
        let answer = messages::init_producer_id_answer(version, body)?;
        self.throttle(address, answer.throttle_ms, now);
        let subject = "producer id";
        if answer.code == 0 && answer.producer_id >= 0 {
            self.health.is_good(subject, now);
            self.producer_id.is_answered();
            self.identity = Some(Identity { producer_id: answer.producer_id, epoch: answer.epoch });
            return Ok(());
        }
        // A broker that has just started says so for a while; that is no trouble.
        if self.producer_id.n_failures >= MOVE_FAILURES_MAX {
            let reason = format!("{} (asked at {address})", explained(answer.code, None));
            self.health.is_bad(subject.into(), reason, now);
        }
        self.ask_producer_id_again(now);
        Ok(())
    }

    fn throttle(&mut self, address: &Arc<str>, time_ms: i32, now: Instant) {
        if let Some(Link::Up(connection)) = self.links.get_mut(address) {
            connection.throttle(time_ms, now);
        }
        if time_ms > 0 {
            let reason = "more is sent than a quota allows: the broker has us wait";
            self.health.is_bad(quota_subject(address), reason.into(), now);
            self.throttled_at.insert(address.clone(), now);
        }
    }

    /// A quota may be felt by one answer and not by the next: it is over once none feels it.
    fn end_throttles(&mut self, now: Instant) {
        let (health, alarm) = (&mut self.health, &mut self.alarm);
        self.throttled_at.retain(|address, last| {
            let end = *last + THROTTLE_TIME;
            match end <= now {
                true => health.is_good(&quota_subject(address), now),
                false => alarm.by(end),
            }
            end > now
        });
    }

    // Batches.

    /// Sends what may be sent.
    fn produce(&mut self, now: Instant) {
        let mut needed: Vec<Arc<str>> = Vec::new();
        for slot in &mut self.slots {
            if slot.partition.is_empty() {
                continue;
            }
            if !slot.partition.has_identity()
                && let Some(identity) = self.identity
            {
                slot.partition.identify(identity);
            }
            if let Some(not_before) = slot.not_before {
                if not_before > now {
                    self.alarm.by(not_before);
                    continue;
                }
                slot.not_before = None;
            }
            if slot.partition.sendable_len().is_none() {
                continue;
            }
            match self.cluster.leader(&slot.topic, slot.index) {
                Some(leader) if !needed.contains(leader) => needed.push(leader.clone()),
                Some(_) => {}
                None => self.metadata.wanted = true,
            }
        }
        for address in needed {
            self.open(&address, now);
            while self.produce_to(&address, now) {}
        }
    }

    /// Sends one request; returns whether there was something to send.
    fn produce_to(&mut self, address: &Arc<str>, now: Instant) -> bool {
        let Some(Link::Up(connection)) = self.links.get_mut(address) else {
            return false;
        };
        if let Some(until) = connection.throttled_until(now) {
            self.alarm.by(until);
            return false;
        }
        if connection.n_pending() >= REQUESTS_MAX || connection.has_expired(now) {
            return false;
        }
        let version = connection.version(Api::Produce);
        if self.compression == Compression::Zstd && version < 7 {
            let reason = "it does not know zstd: set batch.compression to another codec";
            self.health.is_bad(broker_subject(address), reason.into(), now);
            return false;
        }

        let mut taken = Vec::new();
        let mut n_bytes = 0;
        let n_slots = self.slots.len();
        for n in 0..n_slots {
            let index = (self.next_slot + n) % n_slots;
            let slot = &mut self.slots[index];
            let Some(len) = slot.partition.sendable_len() else {
                continue;
            };
            let is_here = self.cluster.leader(&slot.topic, slot.index) == Some(address)
                && (slot.partition.n_in_flight() == 0 || slot.home.as_ref() == Some(address))
                && slot.not_before.is_none();
            if !is_here || (n_bytes > 0 && n_bytes + len > REQUEST_BYTES_MAX) {
                continue;
            }
            let Some(Taken { id, origin, batch, n_records, new_stamp }) = slot.partition.take()
            else {
                continue;
            };
            slot.home = Some(address.clone());
            n_bytes += len;
            if let (Some(journal), Some(stamp)) = (&mut self.journal, new_stamp) {
                let origin = &self.origins[&origin];
                // Of a part of a batch the journal knows that it was cut.
                if !origin.is_cut {
                    journal.sent(origin.receipt.batch, n_records, stamp);
                }
            }
            let topic = self.cluster.topic(&slot.topic);
            let topic_id = topic.map(|topic| topic.id).unwrap_or_default();
            taken.push((Sent { slot: index, topic_id, piece: id }, batch));
        }
        if taken.is_empty() {
            return false;
        }
        self.next_slot = (taken[0].0.slot + 1) % n_slots;
        // Batches of one topic must stand together.
        let slots = &self.slots;
        taken.sort_by(|(a, _), (b, _)| slots[a.slot].topic.cmp(&slots[b.slot].topic));
        let (sent, batches): (Vec<_>, Vec<Arc<EncodedBatch>>) = taken.into_iter().unzip();
        let items: Vec<_> = sent
            .iter()
            .zip(&batches)
            .map(|(sent, batch)| {
                let slot = &slots[sent.slot];
                ProduceItem {
                    topic: &slot.topic,
                    topic_id: sent.topic_id,
                    partition: slot.index,
                    batch_len: batch.as_bytes().len(),
                }
            })
            .collect();
        // While a cluster is upgraded, leaders may come from a broker that names no ids yet.
        let has_ids = items.iter().all(|item| item.topic_id != TopicId::default());
        let version = if has_ids { version } else { version.min(PRODUCE_BY_ID - 1) };
        // The broker gives up on slow replicas before we give up on the broker.
        let timeout_ms = (self.config.request_timeout.as_millis() / 2) as i32;
        let Some(Link::Up(connection)) = self.links.get_mut(address) else {
            return false;
        };
        connection.send(
            version,
            &self.config.client_id,
            Request::Produce(sent),
            now,
            |head, out| {
                let frames = messages::produce_request(head, timeout_ms, &items);
                let mut frames = frames.into_iter().map(Bytes::Frame);
                out.extend(frames.next());
                for (batch, frame) in batches.into_iter().zip(frames) {
                    out.extend([Bytes::Batch(batch), frame]);
                }
            },
        );
        true
    }

    /// Matches the answer to what was sent, and acts on it.
    fn learn_outcomes(
        &mut self,
        address: &Arc<str>,
        sent: Vec<Sent>,
        version: i16,
        body: &[u8],
        now: Instant,
    ) -> Result<(), Error> {
        let answer = messages::produce_answer(version, body).and_then(|answer| {
            self.learn_leaders(&answer);
            let outcomes = self.match_outcomes(&sent, answer.items);
            let outcomes = outcomes.ok_or(Error::Undecodable("Produce answer"))?;
            Ok((answer.throttle_ms, outcomes))
        });
        let slots = sent.iter().map(|sent| sent.slot).collect();
        match answer {
            Ok((throttle_ms, outcomes)) => {
                self.throttle(address, throttle_ms, now);
                for (sent, outcome) in sent.iter().zip(outcomes) {
                    self.answered(sent, outcome, now);
                }
                self.recover(slots, now);
                Ok(())
            }
            Err(error) => {
                for sent in &sent {
                    self.answered(sent, Outcome::Unknown, now);
                }
                self.recover(slots, now);
                Err(error)
            }
        }
    }

    /// Takes over the leaders that an answer names, so that what was refused for it goes there.
    fn learn_leaders(&mut self, answer: &ProduceAnswer) {
        for item in &answer.items {
            if let Some(leader) = item.leader
                && let Some(topic) = self.topic_of(item).cloned()
            {
                let Leader { node, epoch } = leader;
                let partition = item.partition;
                if self.cluster.leader_moved(&topic, partition, leader, &answer.brokers) {
                    let subject = format!("topic {topic:?} partition {partition}");
                    debug!(
                        "{subject}: its former leader says that {node} leads since epoch {epoch}"
                    );
                }
            }
        }
    }

    fn topic_of(&self, item: &ProduceOutcome) -> Option<&Arc<str>> {
        match &*item.topic {
            "" => self.cluster.topic_by_id(item.topic_id),
            name => self.cluster.topics().map(|(topic, _)| topic).find(|t| &***t == name),
        }
    }

    /// `None` unless the answer names what was sent, each once, and nothing else.
    fn match_outcomes(&self, sent: &[Sent], items: Vec<ProduceOutcome>) -> Option<Vec<Outcome>> {
        let mut outcomes: Vec<Option<Outcome>> = vec![None; sent.len()];
        for item in items {
            let position = sent.iter().position(|sent| {
                let slot = &self.slots[sent.slot];
                // Since it was sent the topic may have got another id.
                let is_topic = match &*item.topic {
                    "" => sent.topic_id == item.topic_id,
                    name => &*slot.topic == name,
                };
                slot.index == item.partition && is_topic
            })?;
            let outcome = match verdict(item.code) {
                Verdict::Arrived => Outcome::Arrived(item.base_offset),
                _ => Outcome::Refused(Refusal {
                    code: item.code,
                    message: item.message,
                    records: item.record_errors,
                }),
            };
            if outcomes[position].replace(outcome).is_some() {
                return None;
            }
        }
        outcomes.into_iter().collect()
    }

    fn answered(&mut self, sent: &Sent, outcome: Outcome, now: Instant) {
        let is_wrong = planted::is(Bug::ErrorIsSuccess);
        let outcome = if is_wrong { Outcome::Arrived(-1) } else { outcome };
        let slot = &mut self.slots[sent.slot];
        let mut arrived = Vec::new();
        slot.partition.answered(sent.piece, outcome, &mut arrived);
        self.settle(sent.slot, arrived, now);
    }

    fn settle(&mut self, slot: usize, arrived: Vec<Arrived>, now: Instant) {
        if arrived.is_empty() {
            return;
        }
        let slot = &mut self.slots[slot];
        slot.last_arrival = Some(now);
        if std::mem::take(&mut slot.is_troubled) {
            self.health.is_good(&slot.subject(), now);
        }
        for Arrived { piece, base_offset } in arrived {
            if let Some(batch) = Arc::into_inner(piece.batch) {
                self.encoder.recycle(batch);
            }
            self.finish_piece(piece.origin, base_offset);
        }
    }

    fn finish_piece(&mut self, id: u64, base_offset: i64) {
        let origin = self.origins.get_mut(&id);
        let origin = origin.expect("an origin stays as long as it has pieces");
        if origin.receipt.base_offset < 0 {
            origin.receipt.base_offset = base_offset;
        }
        origin.n_pieces -= 1;
        if origin.n_pieces == 0
            && let Some(origin) = self.origins.remove(&id)
        {
            tell(&origin.reply, Delivery::Settled(origin.receipt));
        }
    }

    /// Lets those of `slots` recover that must and can.
    fn recover(&mut self, slots: Vec<usize>, now: Instant) {
        for index in slots {
            let slot = &mut self.slots[index];
            if !slot.partition.must_recover() {
                continue;
            }
            let mut arrived = Vec::new();
            let recovery = slot.partition.recover(&mut arrived);
            self.settle(index, arrived, now);
            match recovery {
                Recovery::None => {}
                Recovery::Resend(refusal) => self.resend(index, refusal, now),
                Recovery::Cut(piece, refusal) => self.cut(index, *piece, &refusal),
                Recovery::NewIdentity(origins) => self.start_anew(index, &origins, now),
                Recovery::Fatal(refusal) => {
                    let subject = self.slots[index].subject();
                    let reason = explained(refusal.code, refusal.message.as_deref());
                    self.stop(format!("{subject}: {reason}"));
                }
            }
        }
    }

    fn resend(&mut self, index: usize, refusal: Option<Refusal>, now: Instant) {
        let slot = &self.slots[index];
        let n_failures = slot.partition.n_failures;
        let verdict = refusal.as_ref().map(|refusal| verdict(refusal.code));
        let retry_at = match verdict {
            // The connection has a wait of its own.
            None => now,
            // The answer has named another.
            Some(Verdict::Refresh) if self.has_another_leader(index) => now,
            Some(Verdict::Hold) => now + self.config.retry_backoff_max * HOLD_WAITS,
            Some(_) => self.retry_at(n_failures, now),
        };
        if matches!(verdict, Some(Verdict::Refresh | Verdict::Hold)) {
            self.metadata.wanted = true;
        }
        let slot = &mut self.slots[index];
        slot.not_before = Some(retry_at);
        let is_usual = matches!(verdict, Some(Verdict::Refresh | Verdict::OutOfSequence));
        if let Some(refusal) = refusal
            && (!is_usual || n_failures > MOVE_FAILURES_MAX)
        {
            slot.is_troubled = true;
            let at = slot.home.as_deref().unwrap_or("its leader");
            let text = explained(refusal.code, refusal.message.as_deref());
            let reason = format!("{text} (answered by {at}); held and sent again");
            self.health.is_bad(slot.subject(), reason, now);
        }
    }

    /// Whether the leader is known and is not the broker that was sent something last.
    fn has_another_leader(&self, index: usize) -> bool {
        let slot = &self.slots[index];
        let leader = self.cluster.leader(&slot.topic, slot.index);
        leader.is_some() && leader != slot.home.as_ref()
    }

    /// Replaces a piece by its halves, or by what is left without the records that the broker
    /// named.
    fn cut(&mut self, index: usize, piece: Piece, refusal: &Refusal) {
        let arena = match piece.batch.decode() {
            Ok(arena) => arena,
            Err(error) => return self.stop(error.to_string()),
        };
        let mut parts = [RecordArena::default(), RecordArena::default()];
        let mut rejects = Vec::new();
        let reason = explained(refusal.code, refusal.message.as_deref());
        let origin = self.origins.get_mut(&piece.origin);
        let origin = origin.expect("an origin stays as long as it has pieces");
        let is_halved = refusal.records.is_empty() || verdict(refusal.code) == Verdict::Halve;
        for (n, record) in arena.iter().enumerate() {
            let named = refusal.records.iter().find(|(i, _)| *i == n as i32);
            if is_halved && piece.n_records == 1 {
                let too_large =
                    origin.too_large.filter(|_| verdict(refusal.code) == Verdict::Halve);
                match too_large.and_then(|cut| cut(&record, &mut parts)) {
                    Some(left_out) => origin.receipt.left_out.add(left_out),
                    None => rejects.push(rejected(record, reason.clone(), refusal.code)),
                }
            } else if is_halved {
                let half = usize::from(n >= piece.n_records as usize / 2);
                push_again(&mut parts[half], record);
            } else if let Some((_, words)) = named {
                let reason = words.as_deref().or(refusal.message.as_deref());
                rejects.push(rejected(record, explained(refusal.code, reason), refusal.code));
            } else {
                push_again(&mut parts[0], record);
            }
        }
        // Records named that there are not: cut it down to what can be told apart.
        if rejects.is_empty() && !is_halved {
            let whole = Refusal { records: Vec::new(), ..refusal.clone() };
            return self.cut(index, piece, &whole);
        }

        let mut pieces = Vec::new();
        for part in parts {
            let n_records = part.count();
            if n_records == 0 {
                continue;
            }
            match self.encoder.encode(part) {
                Ok((batch, _)) => {
                    let id = PieceId(self.new_id());
                    pieces.push(piece.part(id, batch, n_records));
                }
                Err(error) => return self.stop(error.to_string()),
            }
        }
        let slot = &mut self.slots[index];
        if !rejects.is_empty() {
            let n = rejects.len();
            warn!("{}: {n} record(s) refused for good: {reason}", slot.subject());
        } else if is_halved && piece.n_records == 1 && !slot.has_cut_a_record {
            slot.has_cut_a_record = true;
            let subject = slot.subject();
            warn!("{subject}: a record is cut, and so will others be: {reason}");
        } else {
            debug!("{}: batch cut: {reason}", slot.subject());
        }
        let origin = self.origins.get_mut(&piece.origin);
        let origin = origin.expect("an origin stays as long as it has pieces");
        if let Some(journal) = &mut self.journal {
            journal.cut(origin.receipt.batch);
        }
        origin.is_cut = true;
        origin.n_pieces += pieces.len();
        origin.receipt.rejects.append(&mut rejects);
        slot.partition.put_back(pieces);
        self.finish_piece(piece.origin, -1);
    }

    /// The broker has lost our sequence: a loss would be worse than a repeat.
    fn start_anew(&mut self, index: usize, origins: &[u64], now: Instant) {
        let n_records = self.may_repeat(origins);
        let slot = &mut self.slots[index];
        let n_failures = slot.partition.n_failures;
        warn!(
            "{}: {}: the broker has forgotten this producer; going on under a new producer id, \
             {n_records} record(s) may be there twice",
            slot.subject(),
            named(45),
        );
        self.identity = None;
        self.producer_id.wanted = true;
        let retry_at = self.retry_at(n_failures, now);
        self.slots[index].not_before = Some(retry_at);
    }

    /// Notes that batches may stand in the log twice; returns how many records they have.
    fn may_repeat(&mut self, origins: &[u64]) -> u32 {
        let mut n_records = 0;
        for id in origins {
            if let Some(origin) = self.origins.get_mut(id) {
                origin.receipt.may_repeat = true;
                n_records += origin.receipt.n_records;
            }
        }
        n_records
    }

    fn stop(&mut self, reason: String) {
        for origin in self.origins.values() {
            tell(&origin.reply, Delivery::Fatal(reason.clone()));
        }
        for (_, reply) in &self.waiting {
            tell(reply, Delivery::Fatal(reason.clone()));
        }
        self.fatal = Some(reason);
    }

    // The loop's ends.

    fn write(&mut self, now: Instant) {
        let mut lost = Vec::new();
        for (address, link) in &mut self.links {
            if let Link::Up(connection) = link
                && connection.wants_to_write()
                && let Err(error) = connection.write(now)
            {
                lost.push((address.clone(), error));
            }
        }
        for (address, error) in lost {
            self.lose(&address, &error, now);
            self.alarm.by(now);
        }
    }

    /// Gives up connections on which an answer is overdue.
    fn end_silence(&mut self, now: Instant) {
        let timeout = self.config.request_timeout;
        let mut lost = Vec::new();
        for (address, link) in &self.links {
            if let Link::Up(connection) = link
                && let Some(time) = connection.times_out_at(timeout)
            {
                if time <= now {
                    lost.push(address.clone());
                } else {
                    self.alarm.by(time);
                }
            }
        }
        for address in lost {
            self.lose(&address, &Error::NoAnswer(timeout), now);
            self.alarm.by(now);
        }
    }

    /// Makes connections anew on which the broker wants to hear again who we are, once all is
    /// answered there.
    fn end_sessions(&mut self, now: Instant) {
        for (address, link) in &mut self.links {
            let Link::Up(connection) = link else { continue };
            match connection.expires_at() {
                Some(time) if time > now => self.alarm.by(time),
                Some(_) if connection.n_pending() == 0 => {
                    debug!("{}: its session ends", broker_subject(address));
                    *link = Link::Down { not_before: now };
                    self.alarm.by(now);
                }
                _ => {}
            }
        }
    }

    /// Says again, now and then, what is still wrong.
    fn remind(&mut self, now: Instant) {
        match self.health.reminder_due() {
            Some(due) if due <= now => {
                let oldest = self.oldest();
                self.health.remind(oldest, now);
                self.alarm.by(now);
            }
            Some(due) => self.alarm.by(due),
            None => {}
        }
    }

    fn oldest(&self) -> Option<Oldest> {
        let Origin { receipt, since, .. } = self.origins.values().min_by_key(|it| it.since)?;
        let Receipt { topic, partition, .. } = receipt;
        Some(Oldest { topic: topic.clone(), partition: *partition, since: *since })
    }

    fn report(&self, now: Instant) -> Report {
        let mut troubles = self.health.troubles().clone();
        let brokers = self.cluster.addresses().into_iter().map(|address| {
            let (state, n_requests) = match self.links.get(&address) {
                None => (LinkState::Unused, 0),
                Some(Link::Down { .. }) => (LinkState::NotConnected, 0),
                Some(Link::Opening { .. }) => (LinkState::Connecting, 0),
                Some(Link::Up(link)) if link.throttled_until(now).is_some() => {
                    (LinkState::Throttled, link.n_pending())
                }
                Some(Link::Up(link)) => (LinkState::Connected, link.n_pending()),
            };
            let node = self.cluster.node_at(&address);
            let trouble = troubles.remove(&broker_subject(&address));
            BrokerReport { address, node, state, n_requests, trouble }
        });
        Report {
            brokers: brokers.collect(),
            troubles,
            n_batches: self.origins.len(),
            n_records: self.origins.values().map(|it| u64::from(it.receipt.n_records)).sum(),
            oldest: self.oldest(),
        }
    }

    /// Waits for a command, an answer or the alarm, and takes what has come.
    fn wait(&mut self) {
        let (readable, woken) = {
            let up: Vec<_> = self
                .links
                .iter()
                .filter_map(|(address, link)| match link {
                    Link::Up(connection) => Some((address, connection)),
                    _ => None,
                })
                .collect();
            let mut fds = vec![PollFd::new(&self.line.waker, PollFlags::IN)];
            for (_, connection) in &up {
                let mut flags = PollFlags::IN;
                flags.set(PollFlags::OUT, connection.wants_to_write());
                fds.push(PollFd::from_borrowed_fd(connection.as_fd(), flags));
            }
            let timeout = self.alarm.0.map(|time| {
                let wait = time.saturating_duration_since(Instant::now());
                Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() }
            });
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    // Only for want of memory; the loop goes on at its own pace.
                    warn!("cannot wait for answers: {error}");
                    thread::sleep(Duration::from_millis(100));
                }
            }
            let came = |fd: &PollFd<'_>| fd.revents().intersects(!PollFlags::OUT);
            let readable: Vec<Arc<str>> = up
                .iter()
                .zip(&fds[1..])
                .filter(|(_, fd)| came(fd))
                .map(|((address, _), _)| (*address).clone())
                .collect();
            (readable, came(&fds[0]))
        };
        if woken {
            let mut count = [0; 8];
            // Nonblocking: fails if somebody was faster, which nobody can be.
            let _ = rustix::io::read(self.line.waker.as_fd(), &mut count);
        }
        let now = Instant::now();
        for address in readable {
            self.read(&address, now);
        }
    }

    fn read(&mut self, address: &Arc<str>, now: Instant) {
        let Some(Link::Up(connection)) = self.links.get_mut(address) else {
            return;
        };
        let mut answers = Vec::new();
        let mut result = connection.read(now, &mut answers);
        for answer in answers {
            match self.learn(address, answer, now) {
                Err(error) => result = Err(error),
                // Only now is it well again: one that accepts and never answers is not.
                Ok(()) if self.n_link_failures.remove(address).is_some() => {
                    self.health.is_good(&broker_subject(address), now);
                }
                Ok(()) => {}
            }
        }
        if let Err(error) = result {
            self.lose(address, &error, now);
        }
    }

    fn learn(
        &mut self,
        address: &Arc<str>,
        answer: Answer<Request>,
        now: Instant,
    ) -> Result<(), Error> {
        let Answer { what, version, body } = answer;
        match what {
            Request::Metadata => {
                let learnt = self.learn_metadata(address, version, &body, now);
                if learnt.is_err() {
                    self.ask_metadata_again(now);
                }
                learnt
            }
            Request::ProducerId => {
                let learnt = self.learn_producer_id(address, version, &body, now);
                if learnt.is_err() {
                    self.ask_producer_id_again(now);
                }
                learnt
            }
            Request::LastSequence(topic, partition) => {
                let learnt = self.learn_sequence(address, (&topic, partition), &body, now);
                if learnt.is_err() {
                    self.ask_sequence_again(&topic, partition, now);
                }
                learnt
            }
            Request::MaxMessageBytes(topic) => {
                let learnt = self.learn_size(address, &topic, (version, &body), now);
                if learnt.is_err() {
                    self.ask_size_again(&topic, now);
                }
                learnt
            }
            Request::Produce(sent) => self.learn_outcomes(address, sent, version, &body, now),
        }
    }
}

fn broker_subject(address: &str) -> String {
    format!("broker {address}")
}

fn quota_subject(address: &str) -> String {
    format!("quota of broker {address}")
}

/// A caller that no longer listens is on its way out and needs nothing more.
fn tell(reply: &Sender<Delivery>, delivery: Delivery) {
    let _ = reply.send(delivery);
}

fn push_again(arena: &mut RecordArena, record: RecordRef<'_>) {
    let headers = Headers { count: record.n_headers, fixed: record.header_bytes, varying: &[] };
    arena.push(record.timestamp_ms, record.key, record.value, headers);
}

fn rejected(record: RecordRef<'_>, reason: String, code: i16) -> Rejected {
    let headers = record.headers();
    Rejected {
        timestamp_ms: record.timestamp_ms,
        key: record.key.map(<[u8]>::to_vec),
        value: record.value.to_vec(),
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_vec())).collect(),
        reason,
        code,
    }
}
