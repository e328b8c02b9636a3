//! Walk 1: files -> topic. One hub owns all state and holds the control flow.
//!
//! A *stream* is what is written under one path, through all its rotations; it is a queue of
//! *lives*, oldest first. Only the first life of the queue is read. Its successor's first byte is
//! not shipped before it has been read to its end, and that end is looked for once more *after*
//! the successor was seen to hold bytes: whatever the writer put into the old file before it
//! turned to the new one is then read. The old file stays open for `rotate_grace`; what is still
//! appended to it is shipped too, behind its successor's first events: the one stated exception
//! from the order.
//!
//! The hub reads only while a batch can be sealed, so that nothing it does can block: no room
//! means that files wait, where they are safe.

pub mod charset;
mod copies;
mod cut_event;
mod deleted;
pub mod discover;
pub mod encode;
mod feedback;
mod files;
pub mod fingerprint;
mod folders;
pub mod gzip;
mod gzipped;
pub mod harvester;
pub mod journal;
pub mod lines;
pub mod multiline;
mod open_files;
mod policy;
pub mod registry;
mod restored;
mod resume;
mod throttle;
mod too_large;
pub mod trace;
mod waymarks;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fs;
use std::io::{
    self,
    ErrorKind::{QuotaExceeded, StorageFull},
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, never, select, unbounded};

use crate::batch::Batch;
use crate::config::{Config, DropPageCache, InputConfig, show_bytes};
use crate::error::Error;
use crate::kafka::producer::{Delivery, Producer, Receipt};
use crate::kafka::record_batch::{HEADER_LEN, RecordArena, now_ms, partition_for};
use crate::ledger::Ledger;
use crate::metrics::TailCounters;
use crate::planted::{self, Bug};
use crate::record::{BatchId, SourceId, Span};
use crate::rejected::RejectedFile;
use crate::service::Service;
use crate::status::{self, Counts};

use copies::Held;
use cut_event::{CutEvent, Put};
use discover::{Hints, OwnFiles, Patterns};
use encode::Origin;
use feedback::{Feedback, News};
use fingerprint::{Checksum, FileKey, GUARD_BYTES_MAX, Inode, Stat};
use folders::Folders;
use gzipped::Unready;
use harvester::{Harvester, Look, OpenFiles};
use journal::{Journal, Segment, SentBatch};
use multiline::EventBuffer;
use policy::{Filter, Said};
use registry::trouble::SaveTrouble;
use registry::{Entry, Registry, Save, Saved, Saver, Waymark};
use restored::Restored;
use resume::{Arrivals, Arrived, Resume};
use throttle::Throttle;
use waymarks::Waymarks;

/// Bytes that one file may give before others have their turn: 1 MiB, about one batch.
const TURN_BYTES: usize = 1024 * 1024;

/// Sealed batches that the producer has not compressed yet: while it is at one, the next is filled.
/// They are most of the memory of a walk at full rate.
const UNCOMPRESSED_MAX: usize = 1;

/// Files that are passed over, one after the other, for their partitions have enough under way.
const BLOCKED_MAX: usize = 64;

/// Bytes that should be free where the state is: many times what the journal grows by between two
/// saves.
const STATE_ROOM: u64 = 256 * 1024;

/// Reads files and ships them until `stop` has a message or is disconnected, then drains.
///
/// Errors: whatever makes going on unsafe; [`Error::Unfinished`] where the drain took longer than
/// `tail.shutdown_timeout`. The registry is saved in either case.
pub fn run(config: &Config, counters: &TailCounters, stop: &Receiver<()>) -> Result<(), Error> {
    let (registry, entries, replay) = Registry::open(&config.state_dir, &config.host)?;
    RejectedFile::new(&config.state_dir).prepare()?;
    let journal = Journal::new(&config.state_dir, &config.host, replay.last);
    let (kafka, compression) = (&config.kafka, config.batch.compression);
    let producer = Producer::start(kafka, compression, Some(Box::new(journal.clone())))?;
    let saver = registry.into_saver()?;
    let mut hub = Hub::new(config, counters, producer, saver, journal, entries);
    hub.questions = listen(&config.state_dir, &hub.producer);
    hub.needed_journal = replay.first;
    hub.service.is_starting();
    hub.first_scan(&replay);
    hub.begin_resume(replay);
    hub.service.is_ready();
    let walked = hub.walk(stop);
    hub.service.is_stopping();
    hub.drain_and_save(walked)
}

/// Whoever wants to know how the walk is cannot ask, if that fails; the walk goes on.
fn listen(state_dir: &Path, producer: &Producer) -> Receiver<Sender<Counts>> {
    status::listen(state_dir, producer.reporter()).unwrap_or_else(|error| {
        let path = status::socket(state_dir);
        log::warn!("nobody can ask how this tail is: cannot listen at {}: {error}", path.display());
        never()
    })
}

struct Hub<'a> {
    config: &'a Config,
    counters: &'a TailCounters,
    service: Service,
    /// From those who ask for the counts.
    questions: Receiver<Sender<Counts>>,
    /// What the producer, and this thread, had done at the last sign of life.
    rounds_at_sign: (u64, u64),
    producer: Producer,
    replies: Sender<Delivery>,
    deliveries: Receiver<Delivery>,
    hints: Hints,
    saver: Saver,
    journal: Journal,
    rejected: RejectedFile,
    resume: Resume,
    arrivals: Arrivals,

    inputs: Vec<Arc<InputConfig>>,
    patterns: Patterns,
    streams: Vec<Stream>,
    stream_of: HashMap<Arc<Path>, usize>,
    /// Boxed, for a table keeps room for as many again.
    lives: HashMap<SourceId, Box<Life>>,
    by_inode: HashMap<Inode, SourceId>,
    by_name: HashMap<Arc<Path>, SourceId>,
    finished: HashMap<FileKey, Finished>,
    /// What the registry said and no file has been found for yet.
    restored: Restored,
    had_registry: bool,
    folders: Folders,
    held: HashMap<Inode, Held>,
    unready: HashMap<Inode, Unready>,
    /// Files that were born and written later were not there when this process began.
    started_ns: i64,
    /// Names that cannot be read, with when that was last seen.
    refused: HashMap<PathBuf, Instant>,
    open_files: OpenFiles,
    open_files_limit: open_files::Limit,
    n_turns: u64,
    n_scans: u64,
    /// A file was renamed between being found and being opened.
    has_raced: bool,
    /// Notices were lost: the next scan looks at every file.
    look_at_all: bool,
    own_files: OwnFiles,
    /// Shortest time between two scans.
    scan_pause: Duration,
    next_source: u32,

    topics: HashMap<Arc<str>, Option<i32>>,
    /// What the topics take as a batch, where it is known.
    batch_bytes_max: HashMap<Arc<str>, usize>,
    open: Vec<OpenBatch>,
    spare: Vec<RecordArena>,
    ledger: Ledger,
    under_way: usize,
    /// Those of them that this process has sealed.
    sealed: HashMap<BatchId, Sealed>,
    /// Batches of those whose arenas have not come back.
    uncompressed: usize,
    records_under_way: u64,
    next_batch: u64,
    /// Bytes of ground under way that a policy dropped, by the batch that settles it.
    dropped_in: HashMap<BatchId, u64>,

    ready: VecDeque<SourceId>,
    /// Only what is left of deleted files is still read.
    is_stopping: bool,
    timers: BTreeSet<(Instant, SourceId)>,
    room: Vec<u8>,
    room_lent_to: Option<SourceId>,
    /// The life that has its turn, and the one whose event it ends: not among `lives` meanwhile.
    in_turn: Vec<SourceId>,
    scratch: Vec<u8>,
    /// Room for an event's text, where its file is not UTF-8.
    text: Vec<u8>,
    scan_due: Instant,
    throttle: Option<Throttle>,
    throttled_until: Option<Instant>,
    deleted_warning: deleted::Warning,

    dirty: bool,
    /// Lives that are not saved as they are.
    changed: HashSet<SourceId>,
    /// Bytes of the registry when it was last saved.
    registry_len: u64,
    /// The first journal that the registry needs as it was last saved.
    needed_journal: u64,
    saving: bool,
    save_due: Instant,
    save_trouble: SaveTrouble,
}

struct Stream {
    path: Arc<Path>,
    input: Arc<InputConfig>,
    topic: Arc<str>,
    /// Index of its open batch, known with the topic's partitions.
    slot: Option<usize>,
    /// Partitions that must tell what arrived of it before it is read.
    n_holds: usize,
    /// Lives that are not read to their end, oldest first; only the first is read.
    queue: VecDeque<SourceId>,
    /// The last event of a life that goes on in the next.
    cut_event: Option<CutEvent>,
    /// Last write up to which its lives were read or left out, as the registry said at the start.
    read_mtime_ns: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Behind another life of its stream.
    Waiting,
    /// First of its stream.
    Reading,
    /// Its successor is read; late bytes are still shipped.
    Lingering,
    /// Read to its end; waits for receipts.
    Closing,
}

/// What a life's file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// What was read of it, and perhaps more.
    Own,
    /// Something else.
    Replaced,
    /// Nothing that was not read.
    Spent,
}

struct Life {
    source: SourceId,
    stream: usize,
    phase: Phase,
    /// Its name when last seen: most often that of its stream, and one with it.
    name: Arc<Path>,
    /// It is not, or no longer, what its stream's path names.
    rotated: bool,
    /// Its stream's path is a symbolic link to it.
    is_linked: bool,
    harvester: Harvester,
    number: u32,
    file_id: Option<String>,
    origin: Option<Origin>,
    /// It goes on where a power cut has left less than was shipped of it: without what stands in
    /// the topic for its ground, its name says nothing.
    is_cut: bool,
    /// Ground that stands in the topic already, as found there after a crash.
    arrived: Option<Box<Arrived>>,
    /// Before it may lie ground that stands in the topic, though not known to.
    doubtful_end: u64,
    events: EventBuffer,
    filter: Filter,
    said: Said,
    /// The last read found no more bytes.
    at_end: bool,
    /// Its successor was seen to hold bytes before the last read.
    successor_seen: bool,
    content: Content,
    /// Scans in a row that did not find it while it was parked.
    n_missed: u32,
    /// It was deleted while it was parked: nothing more can be read.
    gone: bool,
    /// When it was first seen to be deleted.
    deleted_at: Option<Instant>,
    /// Bytes read in this turn, which goes on where it had to wait for room.
    turn_read: usize,
    /// The number of its last turn.
    last_turn: u64,
    grown_at: Instant,
    head: Checksum,
    /// The scan that must come before its first byte is read; 0: none.
    scan_wanted: u64,
    /// The offset that `guard` guards.
    saved_offset: Option<u64>,
    guard: Checksum,
    waymarks: Waymarks,
    /// When it was found, and when its offset was last seen to have moved, in milliseconds since
    /// 1970.
    first_seen_ms: i64,
    last_seen_ms: i64,
    /// The last journal that knows it.
    journal: u64,
    queued: bool,
    deadline: Option<Instant>,
    seen_in_scan: u64,
}

struct Finished {
    entry: Entry,
    /// A pattern leads to it.
    is_matched: bool,
    /// The last scan that saw it.
    seen_in_scan: u64,
    /// Looks in a row that should have seen it and did not, and when the first of them was.
    n_missed: u32,
    missed_since: Option<Instant>,
    /// A gzip'd file was found to hold what it held.
    is_gzipped_again: bool,
}

/// A batch under way.
struct Sealed {
    /// Which open batch it was.
    slot: usize,
    /// Bytes of its records if it is one beside as many as may be.
    extra_bytes: usize,
}

struct OpenBatch {
    topic: Arc<str>,
    partition: i32,
    /// Partitions that batches go round, one after the other, where records have no key; else 0.
    n_keyless: i32,
    /// Bytes of records after which it is sealed.
    bytes_max: usize,
    /// The next record did not go into it, and it could not be sealed.
    is_full: bool,
    records: RecordArena,
    spans: Vec<Span>,
    /// The same ground, each piece such that it can be cut into events again by itself.
    segments: Vec<Segment>,
    /// The last segment of a source in it ends with an event that was flushed.
    flushed: HashSet<SourceId>,
    /// Bytes of `spans` of which no record stands in `records`.
    bytes_dropped: u64,
    since: Option<Instant>,
    feedback: Feedback,
}

/// How a life's turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Others have their turn; there is more to read.
    More,
    /// No batch can be sealed now.
    Blocked,
    /// Read to its present end; look again at the instant, or when it grows.
    Wait(Option<Instant>),
    /// Read to its end, and its writer has moved on.
    HandOver,
    /// Read to its end for good.
    Over,
    /// The bytes that were read are not the file's any more; so many are known to have been in it
    /// that were not read.
    Truncated { n_unread: u64 },
    /// Everything that was read has left; the file now holds something else.
    Replaced,
}

impl<'a> Hub<'a> {
    fn new(
        config: &'a Config,
        counters: &'a TailCounters,
        producer: Producer,
        saver: Saver,
        journal: Journal,
        restored: Vec<Entry>,
    ) -> Hub<'a> {
        // Unbounded, yet never fuller than the batches under way: the bound is the ledger's.
        let (replies, deliveries) = unbounded();
        let now = Instant::now();
        Hub {
            config,
            counters,
            service: Service::of_environment(),
            questions: never(),
            rounds_at_sign: (u64::MAX, 0),
            producer,
            replies,
            deliveries,
            hints: Hints::listen(),
            saver,
            journal,
            rejected: RejectedFile::new(&config.state_dir),
            resume: Resume::default(),
            arrivals: Arrivals::new(),
            inputs: config.input.iter().cloned().map(Arc::new).collect(),
            patterns: Patterns::new(&config.input),
            streams: Vec::new(),
            stream_of: HashMap::new(),
            lives: HashMap::new(),
            by_inode: HashMap::new(),
            by_name: HashMap::new(),
            finished: HashMap::new(),
            had_registry: !restored.is_empty(),
            restored: Restored::new(restored),
            folders: Folders::default(),
            held: HashMap::new(),
            unready: HashMap::new(),
            started_ns: folders::start_ns(),
            refused: HashMap::new(),
            open_files: OpenFiles::default(),
            open_files_limit: open_files::Limit::new(config.tail.open_files_max),
            n_turns: 0,
            n_scans: 0,
            has_raced: false,
            look_at_all: false,
            own_files: OwnFiles::new(&config.state_dir),
            scan_pause: Duration::ZERO,
            next_source: 0,
            topics: HashMap::new(),
            batch_bytes_max: HashMap::new(),
            open: Vec::new(),
            spare: Vec::new(),
            ledger: Ledger::default(),
            under_way: 0,
            sealed: HashMap::new(),
            uncompressed: 0,
            records_under_way: 0,
            next_batch: 0,
            dropped_in: HashMap::new(),
            ready: VecDeque::new(),
            is_stopping: false,
            timers: BTreeSet::new(),
            room: Vec::new(),
            room_lent_to: None,
            in_turn: Vec::new(),
            scratch: Vec::new(),
            text: Vec::new(),
            scan_due: now,
            throttle: config.tail.bytes_per_second_max.map(|rate| Throttle::new(rate, now)),
            throttled_until: None,
            deleted_warning: deleted::Warning::default(),
            // The journal begins with the first save.
            dirty: true,
            changed: HashSet::new(),
            registry_len: 0,
            needed_journal: 0,
            saving: false,
            save_due: now,
            save_trouble: SaveTrouble::default(),
        }
    }

    // ---- the walk ----

    fn walk(&mut self, stop: &Receiver<()>) -> Result<(), Error> {
        loop {
            while let Ok(delivery) = self.deliveries.try_recv() {
                self.on_delivery(delivery)?;
            }
            let now = Instant::now();
            self.on_timers(now);
            self.seal_lingering(now);
            if now >= self.scan_due {
                self.scan(false);
            }
            self.save_if_due(now);
            let blocked = !self.read_ready();
            self.give_sign_of_life(now, blocked);

            let wait = if blocked || self.ready.is_empty() {
                self.next_deadline().saturating_duration_since(Instant::now())
            } else {
                Duration::ZERO
            };
            let hints = self.hints.receiver.clone();
            let questions = self.questions.clone();
            let saved = if self.saving { self.saver.results.clone() } else { never() };
            select! {
                recv(self.deliveries) -> delivery => {
                    self.on_delivery(delivery.expect("the hub holds a sender"))?;
                }
                recv(hints) -> hint => if let Ok(hint) = hint { self.on_hint(hint) },
                recv(saved) -> result => self.on_saved(result),
                recv(questions) -> reply => match reply {
                    Ok(reply) => self.tell_counts(&reply),
                    Err(_) => self.questions = never(),
                },
                recv(self.resume.results) -> read_back => {
                    self.on_read_back(read_back.expect("the hub holds a sender"));
                }
                recv(stop) -> _ => return Ok(()),
                default(wait) => {}
            }
        }
    }

    fn tell_counts(&self, reply: &Sender<Counts>) {
        let counts = self.counters.all();
        // Who asked may have given up.
        let _ = reply.send(counts.map(|(name, n)| (name.to_owned(), n)).into());
    }

    /// Tells the service manager that this process lives: the producer's thread goes round its
    /// loop, and this one reads where there is something to read and room for it.
    fn give_sign_of_life(&mut self, now: Instant, blocked: bool) {
        let Hub { producer, counters, ready, .. } = self;
        let last = &mut self.rounds_at_sign;
        self.service.give_sign(now, || {
            let done =
                (producer.ask_for_round(), counters.bytes_read.get() + counters.events_read.get());
            let (producer_last, read_last) = std::mem::replace(last, done);
            if done.0 == producer_last {
                return Some("the producer's thread hangs".into());
            }
            let is_stuck = !blocked && !ready.is_empty() && done.1 == read_last;
            is_stuck.then(|| format!("{} files are ready and nothing is read", ready.len()))
        });
    }

    /// Gives each ready file a turn; `false` if no batch could be sealed.
    fn read_ready(&mut self) -> bool {
        let mut n_blocked = 0;
        let n_ready = self.ready.len();
        for _ in 0..n_ready {
            let Some(source) = self.ready.pop_front() else {
                break;
            };
            let throttle = self.throttle.as_mut();
            self.throttled_until =
                throttle.and_then(|throttle| throttle.closed_until(Instant::now()));
            if self.throttled_until.is_some() {
                self.ready.push_front(source);
                return false;
            }
            if self.must_wait(source) {
                n_blocked += 1;
                if self.is_blocked_for_all(n_blocked) {
                    self.ready.push_front(source);
                    return false;
                }
                self.ready.push_back(source);
                continue;
            }
            let Some(mut life) = self.lives.remove(&source) else {
                continue;
            };
            life.queued = false;
            if !life.is_read() || self.streams[life.stream].slot.is_none() {
                // It was put behind older files while it was ready, or its stream is held.
                self.lives.insert(source, life);
                continue;
            }
            self.timers_remove(&mut life);
            self.lend_room(&mut life);
            self.in_turn.push(source);
            let turn =
                self.turn(&mut life).unwrap_or_else(|error| self.on_read_error(&mut life, &error));
            self.in_turn.pop();
            if turn != Turn::Blocked {
                life.turn_read = 0;
                self.take_room_back(&mut life);
            }
            self.lives.insert(source, life);
            let is_blocked = turn == Turn::Blocked;
            self.after_turn(source, turn);
            if is_blocked {
                n_blocked += 1;
                if self.is_blocked_for_all(n_blocked) {
                    self.put_last_first();
                    return false;
                }
            }
        }
        n_blocked == 0 || n_blocked < n_ready
    }

    /// Whether what keeps so many files from being read keeps the others, too: it is not what their
    /// partitions have under way, or they would have had their turn.
    fn is_blocked_for_all(&self, n_blocked: usize) -> bool {
        !self.is_full() || self.uncompressed >= UNCOMPRESSED_MAX || n_blocked >= BLOCKED_MAX
    }

    /// Whether nothing of a life can be put into a batch: that of its partition is full, or all
    /// together are, and cannot be sealed.
    fn must_wait(&mut self, source: SourceId) -> bool {
        let is_over = !self.bound_open_batches();
        let stream = self.lives.get(&source).map(|life| &self.streams[life.stream]);
        let slot = stream.and_then(|stream| stream.slot);
        slot.is_some_and(|slot| (is_over || self.open[slot].is_full) && !self.can_send(slot))
    }

    /// Gives the file the room to read into. One that had to stop amid its events kept it, for
    /// they need not move then, and it is the first to go on.
    fn lend_room(&mut self, life: &mut Life) {
        if self.room_lent_to == Some(life.source) {
            return;
        }
        if let Some(mut other) = self.room_lent_to.and_then(|source| self.lives.remove(&source)) {
            self.take_room_back(&mut other);
            self.lives.insert(other.source, other);
        }
        life.events.attach(std::mem::take(&mut self.room));
        self.room_lent_to = Some(life.source);
    }

    fn take_room_back(&mut self, life: &mut Life) {
        self.room = life.events.detach();
        self.room_lent_to = None;
    }

    fn on_read_error(&mut self, life: &mut Life, error: &io::Error) -> Turn {
        self.expect_no_rest_in(life);
        // A server of files has another file under the handle's number: only the name helps.
        if error.kind() == io::ErrorKind::StaleNetworkFileHandle {
            life.harvester.park();
        }
        self.warn_once(&life.name, &format!("cannot be read: {error}"));
        Turn::Wait(Some(Instant::now() + self.config.tail.scan_interval))
    }

    /// Reads one file for a while and puts its events into batches.
    fn turn(&mut self, life: &mut Life) -> io::Result<Turn> {
        self.n_turns += 1;
        life.last_turn = self.n_turns;
        if let Some(turn) = self.reopen(life)? {
            return Ok(turn);
        }
        let is_deleted = || life.harvester.stat_now().is_ok_and(|stat| stat.n_links == 0);
        if planted::is(Bug::CloseDeleted) && is_deleted() {
            return Ok(Turn::Over);
        }
        let input = Arc::clone(&self.streams[life.stream].input);
        let now = Instant::now();
        let timestamp_ms = now_ms();
        if let Some(until) = self.waits_for_scan(life, now) {
            return Ok(Turn::Wait(Some(until)));
        }
        // Where reading is throttled, after each buffer.
        let turn_bytes = if self.throttle.is_some() { 1 } else { TURN_BYTES };
        // A file that was overwritten while much of it was unread may be longer again than what
        // was read: the bytes that follow are another file's.
        let n_unread = life.n_unread();
        if !life.at_end && matches!(life.look()?, Look::Replaced) {
            return Ok(Turn::Truncated { n_unread });
        }
        loop {
            if !self.put_events(life, &input, timestamp_ms, now) {
                return Ok(Turn::Blocked);
            }
            if life.turn_read >= turn_bytes {
                return Ok(Turn::More);
            }
            if !life.at_end {
                let Some(n) = life.harvester.read_into(&mut life.events, &life.head)? else {
                    let n_unread = n_unread.saturating_sub(life.turn_read as u64);
                    return Ok(Turn::Truncated { n_unread });
                };
                life.at_end = n == 0;
                if n > 0 {
                    life.turn_read += n;
                    if self.config.tail.drop_page_cache == DropPageCache::Backlog {
                        life.harvester.drop_read_pages(life.events.read_offset());
                    }
                    if let Some(throttle) = &mut self.throttle {
                        throttle.take(n);
                    }
                    self.counters.bytes_read.add(n as u64);
                    life.grown_at = now;
                    // While it can be had: it tells whose copy a file is that was truncated.
                    let is_plain = !life.harvester.is_gzipped();
                    // It may have grown since it was looked at.
                    let size = life.harvester.stat().size.max(life.events.read_offset());
                    if is_plain && life.head.head_can_grow(size) {
                        life.head = life.harvester.head()?;
                    }
                }
                continue;
            }
            if life.content == Content::Own && !life.gone {
                match life.look()? {
                    Look::Same => {}
                    Look::Grown => {
                        life.at_end = false;
                        continue;
                    }
                    Look::Replaced => return Ok(Turn::Truncated { n_unread: 0 }),
                }
            }
            if life.has_lost_its_end()
                && let Some(slot) = self.streams[life.stream].slot
            {
                if !self.begin_other_content(life, slot, life.events.event_offset()) {
                    return Ok(Turn::Blocked);
                }
                // At once: what follows must not get the names of what stands in the topic.
                self.journal_life(life, self.journal.number());
            }
            match self.at_end(life, &input, now) {
                Some(turn) => return Ok(turn),
                None => continue,
            }
        }
    }

    /// Decides about a file that was read to its present end; `None` if there is more to put into
    /// batches or to read.
    fn at_end(&self, life: &mut Life, input: &InputConfig, now: Instant) -> Option<Turn> {
        let grace_over = life.grown_at + self.config.tail.rotate_grace;
        let is_last_chance = self.is_stopping && life.deleted_at.is_some();
        let is_over = life.gone || is_last_chance || (life.rotated && now >= grace_over);
        if let Some(until) = self.waits_for_rest(life, now).filter(|_| !is_last_chance) {
            return Some(Turn::Wait(Some(until)));
        }
        if life.content != Content::Own || is_over {
            let has_more = life.events.has_open() || life.events.has_partial();
            if has_more && !planted::is(Bug::NoPartial) {
                life.events.finish(&input.multiline);
                return None;
            }
            let is_replaced = life.content == Content::Replaced;
            return Some(if is_replaced { Turn::Replaced } else { Turn::Over });
        }
        if life.phase == Phase::Reading && self.successor_has_bytes(life) {
            if !life.successor_seen {
                life.successor_seen = true;
                life.at_end = false;
                return None;
            }
            if !life.events.has_partial() {
                if life.events.has_open() && !self.is_cut(life, input) {
                    life.events.flush();
                    return None;
                }
                return Some(Turn::HandOver);
            }
        }
        let mut deadline = life.rotated.then_some(grace_over);
        // The last line of a rotated file, where it has no terminator, belongs to its last event.
        let waits_for_end = life.rotated && life.events.has_partial();
        if life.events.has_open() && !waits_for_end {
            let event_over = life.grown_at + input.event_timeout;
            if now >= event_over {
                life.events.flush();
                return None;
            }
            deadline = Some(deadline.map_or(event_over, |grace| grace.min(event_over)));
        }
        Some(Turn::Wait(deadline))
    }

    fn successor_has_bytes(&self, life: &Life) -> bool {
        let successor =
            self.streams[life.stream].queue.get(1).and_then(|next| self.lives.get(next));
        successor.is_some_and(|next| next.stat_now().is_ok_and(|stat| stat.size > 0))
    }

    /// Acts on how a turn ended.
    fn after_turn(&mut self, source: SourceId, turn: Turn) {
        match turn {
            Turn::More | Turn::Blocked => self.enqueue(source),
            Turn::Wait(deadline) => self.timers_set(source, deadline),
            Turn::HandOver => {
                self.set_phase(source, Phase::Lingering);
                self.expect_rest(source);
                self.next_life(source);
                self.enqueue(source);
            }
            Turn::Over => {
                if self.lives[&source].phase == Phase::Reading {
                    self.next_life(source);
                }
                self.set_phase(source, Phase::Closing);
                self.close_if_settled(source);
            }
            Turn::Truncated { n_unread } => self.on_truncated(source, n_unread),
            Turn::Replaced => self.begin_new_life(source),
        }
    }

    fn set_phase(&mut self, source: SourceId, phase: Phase) {
        self.lives.get_mut(&source).expect("the life had its turn").phase = phase;
    }

    /// Takes a life off its stream's queue and begins to read the next.
    fn next_life(&mut self, source: SourceId) {
        let stream = &mut self.streams[self.lives[&source].stream];
        let first = stream.queue.pop_front();
        assert_eq!(first, Some(source), "only the first of a queue is read");
        if let Some(&next) = stream.queue.front() {
            self.set_phase(next, Phase::Reading);
            self.enqueue(next);
        }
    }

    /// Puts complete events into the stream's open batch; `false` if no batch could be sealed.
    fn put_events(
        &mut self,
        life: &mut Life,
        input: &InputConfig,
        timestamp_ms: i64,
        now: Instant,
    ) -> bool {
        let slot = self.streams[life.stream].slot.expect("only streams with a partition are read");
        let (mut n_events, mut n_lines, mut has_room) = (0, 0, true);
        let journal = self.journal.number();
        let mut room = std::mem::take(&mut self.text);
        'events: while let Some(event) = life.events.peek(&input.multiline) {
            if self.streams[life.stream].cut_event.is_some() {
                match self.put_cut_event(life, &event, timestamp_ms, now) {
                    Put::Blocked => {
                        has_room = false;
                        break;
                    }
                    Put::WithIt => {
                        n_events += 1;
                        n_lines += u64::from(event.n_lines);
                        life.events.consume();
                        continue;
                    }
                    Put::Without => {}
                }
            }
            if event.is_nuls {
                self.drop_nuls(life, slot, &event, now);
                continue;
            }
            self.make_known(life, &event, journal);
            while let Some(arrived) = &life.arrived
                && arrived.has_another(&event, life.events.text(&event, &mut room))
            {
                if !self.begin_other_content(life, slot, event.start) {
                    has_room = false;
                    break 'events;
                }
                self.make_known(life, &event, journal);
            }
            if life.has_arrived(&event) {
                if !self.pass_over(slot, life.source, &event, now) {
                    has_room = false;
                    break;
                }
                n_events += 1;
                n_lines += u64::from(event.n_lines);
                life.events.consume();
                continue;
            }
            let origin = life.origin.as_ref().expect("named above");
            let text = life.events.text(&event, &mut room);
            let passes = life.filter.passes(input, &event, text);
            if passes && !self.make_room(slot, text.len() + origin.overhead()) {
                has_room = false;
                break;
            }
            n_events += 1;
            n_lines += u64::from(event.n_lines);
            if !passes {
                self.drop_filtered(life, slot, &event, now);
                continue;
            }
            if event.start < life.doubtful_end {
                self.counters.records_maybe_repeated.add(1);
            }
            let batch = &mut self.open[slot];
            batch.since.get_or_insert(now);
            origin.encode(timestamp_ms, &event, text, &mut self.scratch, &mut batch.records);
            batch.cover(life.source, &event);
            if event.cut > 0 {
                self.note_cut(life, &event);
            }
            life.events.consume();
        }
        self.text = room;
        let batch = &mut self.open[slot];
        if let Some(since) = batch.since.filter(|_| n_events > 0) {
            batch.feedback.on_grown(since, now);
        }
        self.counters.events_read.add(n_events);
        self.counters.lines_read.add(n_lines);
        has_room
    }

    /// Names a life by its first event, and tells the journal of this number of it before a batch
    /// with its ground is sealed, while it is out of its place.
    fn make_known(&mut self, life: &mut Life, event: &multiline::Event, journal: u64) {
        if life.origin.is_none() {
            let content = life.events.content(event).to_vec();
            self.name_life(life, &content);
        }
        self.journal_life(life, journal);
    }

    /// Seals the open batch of a slot unless it takes a record of so many bytes; `false` if it
    /// could not be sealed.
    fn make_room(&mut self, slot: usize, size: usize) -> bool {
        if self.open[slot].has_only_passed() {
            self.settle_passed(slot);
        }
        let has_room = self.open[slot].has_room(size, self.config) || self.seal(slot);
        self.open[slot].is_full = !has_room;
        has_room
    }

    /// Puts an event that stands in the topic already into a batch without records; `false` if
    /// what is before it could not be sealed.
    fn pass_over(
        &mut self,
        slot: usize,
        source: SourceId,
        event: &multiline::Event,
        now: Instant,
    ) -> bool {
        if !self.open[slot].records.is_empty() && !self.seal(slot) {
            return false;
        }
        let batch = &mut self.open[slot];
        batch.since.get_or_insert(now);
        batch.cover(source, event);
        self.counters.bytes_found.add(event.end - event.start);
        self.counters.records_found.add(1);
        true
    }

    /// Gives a life another name from an offset on, for what stands in the topic for its ground
    /// behind that is not in it: a power cut took that back, and the writer goes on from there.
    /// `false` while what lies before is not settled, under the name that it has in the topic.
    fn begin_other_content(&mut self, life: &mut Life, slot: usize, offset: u64) -> bool {
        if self.open[slot].since.is_some() && !self.seal(slot) {
            return false;
        }
        if self.ledger.settled(life.source) != Some(offset) {
            return false;
        }
        log::warn!(
            "file went back: name={} offset={offset}: what was shipped of it behind this offset is \
             not in it any more, after a power cut; what follows is shipped under another file_id",
            life.name.display()
        );
        life.begin_other_name();
        true
    }

    /// Gives a life its name, which follows from its first event.
    fn name_life(&mut self, life: &mut Life, content: &[u8]) {
        let stream = &self.streams[life.stream];
        let file_id = life.file_id.get_or_insert_with(|| {
            fingerprint::file_id(life.harvester.stat(), life.number, content)
        });
        let Stream { input, path, .. } = stream;
        life.origin = Some(Origin::new(input, &self.config.host, path, file_id));
        // Whatever the journal says of it, it does not say this.
        life.journal = 0;
        if let Some(arrived) = self.arrivals.remove(file_id) {
            life.arrived = Some(Box::new(arrived));
        }
    }

    // ---- batches ----

    /// Whether the open batch of a slot may be sealed: few enough are under way, and not yet
    /// compressed. Of a partition with none under way one may go beside those, as long as these are
    /// not more than a batch together: partitions whose leader is away must not stop the others.
    fn can_send(&self, slot: usize) -> bool {
        let open = &self.open[slot];
        let is_extra = || {
            let n_bytes = self.sealed.values().map(|sealed| sealed.extra_bytes).sum::<usize>()
                + open.records.len();
            open.feedback.is_all_acked() && n_bytes <= self.config.batch.bytes_max
        };
        self.uncompressed < UNCOMPRESSED_MAX && (!self.is_full() || is_extra())
    }

    /// Whether as many batches are under way as may be of any partitions.
    fn is_full(&self) -> bool {
        self.under_way >= self.config.batch.in_flight_max
    }

    /// Sends the open batch of a slot; `false` while as many as may be are under way.
    fn seal(&mut self, slot: usize) -> bool {
        if self.open[slot].has_only_passed() {
            self.settle_passed(slot);
            return true;
        }
        if !self.can_send(slot) {
            return false;
        }
        let extra_bytes = if self.is_full() { self.open[slot].records.len() } else { 0 };
        self.sealed.insert(BatchId(self.next_batch), Sealed { slot, extra_bytes });
        let spare = self.spare.pop();
        let fresh =
            spare.unwrap_or_else(|| RecordArena::with_capacity(self.config.batch.bytes_max));
        let open = &mut self.open[slot];
        open.is_full = false;
        let batch = Batch {
            id: BatchId(self.next_batch),
            topic: Arc::clone(&open.topic),
            partition: open.partition,
            records: std::mem::replace(&mut open.records, fresh),
            spans: std::mem::take(&mut open.spans),
            stamp: None,
            too_large: too_large::rule(self.config.tail.record_too_large),
        };
        if open.bytes_dropped > 0 {
            self.dropped_in.insert(batch.id, std::mem::take(&mut open.bytes_dropped));
        }
        let since = open.since.take();
        let news = since.and_then(|since| open.feedback.on_sealed(since, Instant::now()));
        let sent = SentBatch {
            batch: batch.id,
            topic: batch.topic.to_string(),
            partition: batch.partition,
            n_records: batch.records.count(),
            stamp: None,
            ground: open.take_segments(),
        };
        if open.n_keyless > 0 {
            open.partition = (open.partition + 1) % open.n_keyless;
        }
        if let Some(news) = news {
            self.tell_of_feedback(news, &batch.spans);
        }
        self.next_batch += 1;
        self.under_way += 1;
        self.uncompressed += 1;
        self.records_under_way += u64::from(batch.records.count());
        self.ledger.take(&batch.spans);
        self.journal_files(&batch.spans);
        self.journal.sealed(sent);
        self.producer.send(batch, &self.replies);
        true
    }

    /// Settles a batch that holds no records.
    fn settle_passed(&mut self, slot: usize) {
        let open = &mut self.open[slot];
        open.since = None;
        open.bytes_dropped = 0;
        let (spans, ground) = (std::mem::take(&mut open.spans), open.take_segments());
        self.ledger.take(&spans);
        self.journal_files(&spans);
        self.journal.passed(BatchId(self.next_batch), ground);
        self.next_batch += 1;
        self.ledger.settle(&spans);
        self.note_settled(&spans);
    }

    /// Tells the journal of the lives that it does not know yet.
    fn journal_files(&mut self, spans: &[Span]) {
        let number = self.journal.number();
        for span in spans {
            // One whose turn it is has been told of, and one that was replaced cannot be read again.
            if let Some(mut life) = self.lives.remove(&span.source) {
                self.journal_life(&mut life, number);
                self.lives.insert(span.source, life);
            }
        }
    }

    /// Tells the journal of a life, unless that is the last one that knows it.
    fn journal_life(&self, life: &mut Life, journal: u64) {
        if life.journal != journal {
            life.journal = journal;
            let offset = self.ledger.settled(life.source).expect("open while the life is");
            let entry = self.entry(life, offset);
            self.journal.file_changed(Some(life.source), entry);
        }
    }

    /// Returns what is to be remembered of a life, with `offset` as the end of settled ground.
    fn entry(&self, life: &mut Life, offset: u64) -> Entry {
        let stream = &self.streams[life.stream];
        let open = stream.slot.map(|slot| &self.open[slot]);
        life.entry(&stream.path, offset, || {
            let OpenBatch { topic, partition, .. } = open?;
            Some((*partition, self.journal.next_offset_of(topic, *partition)))
        })
    }

    fn tell_of_feedback(&self, news: News, spans: &[Span]) {
        let lives = spans.iter().filter_map(|span| self.lives.get(&span.source));
        let names: Vec<String> =
            lives.take(3).map(|life| life.name.display().to_string()).collect();
        match news {
            News::Loop => {
                self.counters.feedback_loops.add(1);
                log::warn!(
                    "feedback loop: what is shipped of {} makes it grow again; its batches are \
                     sent seconds apart from now on; have the broker log less for this client, or \
                     leave the file out",
                    names.join(", ")
                );
            }
            News::NoLoop => log::info!("no feedback loop any more: {}", names.join(", ")),
        }
    }

    /// Seals the largest open batch while all of them together hold more than may be under way;
    /// `false` if that cannot be.
    fn bound_open_batches(&mut self) -> bool {
        let bytes_max = self.config.batch.in_flight_max * self.config.batch.bytes_max;
        while self.open.iter().map(|open| open.records.len()).sum::<usize>() > bytes_max {
            let largest = (0..self.open.len()).max_by_key(|&slot| self.open[slot].records.len());
            if !self.seal(largest.expect("their sum is not zero")) {
                return false;
            }
        }
        true
    }

    /// Seals batches whose first record has waited long enough, as far as there is room.
    fn seal_lingering(&mut self, now: Instant) {
        let linger = self.config.batch.linger;
        for slot in 0..self.open.len() {
            let is_due = self.open[slot].due(linger).is_some_and(|due| now >= due);
            if is_due {
                self.seal(slot);
            }
        }
    }

    fn on_delivery(&mut self, delivery: Delivery) -> Result<(), Error> {
        match delivery {
            Delivery::Topic { topic, n_partitions } => self.on_topic(&topic, n_partitions),
            Delivery::MaxMessageBytes { topic, known } => self.on_max_message_bytes(&topic, known),
            Delivery::Recycled(mut records) => {
                self.uncompressed -= 1;
                records.clear();
                self.spare.push(records);
            }
            Delivery::LastSequence { topic, partition, known } => {
                self.on_last_sequence(&topic, partition, known);
            }
            Delivery::Settled(receipt) => self.on_receipt(receipt)?,
            Delivery::Fatal(problem) => return Err(Error::Kafka { problem }),
        }
        Ok(())
    }

    fn on_receipt(&mut self, receipt: Receipt) -> Result<(), Error> {
        // Before its ground is settled, or a crash between the two would lose the record.
        self.rejected.append(&receipt)?;
        let n_rejected = receipt.rejects.len() as u64;
        if let Some(Sealed { slot, .. }) = self.sealed.remove(&receipt.batch) {
            self.open[slot].feedback.on_acked(Instant::now());
        }
        self.under_way -= 1;
        self.records_under_way -= u64::from(receipt.n_records);
        let next_offset = receipt.base_offset + i64::from(receipt.n_records);
        let is_known = receipt.base_offset >= 0 && receipt.rejects.is_empty();
        self.settle_with(receipt.batch);
        self.journal.settled(receipt.batch, is_known.then_some(next_offset));
        self.ledger.settle(&receipt.spans);
        self.counters.records_rejected.add(n_rejected);
        self.counters.events_cut.add(u64::from(receipt.left_out.n_records));
        self.counters.bytes_cut.add(receipt.left_out.n_bytes);
        let n_acked = u64::from(receipt.n_records) - n_rejected;
        self.counters.records_acked.add(n_acked);
        if receipt.may_repeat {
            self.counters.records_maybe_repeated.add(n_acked);
        }
        let n_bytes: u64 = receipt.spans.iter().map(|span| span.end - span.start).sum();
        let n_dropped = self.dropped_in.remove(&receipt.batch).unwrap_or(0);
        self.counters.bytes_acked.add(n_bytes - n_dropped);
        self.counters.batches_acked.add(1);
        self.note_settled(&receipt.spans);
        Ok(())
    }

    fn note_settled(&mut self, spans: &[Span]) {
        for span in spans {
            self.has_changed(span.source);
            self.close_if_settled(span.source);
            self.forget_if_replaced(span.source);
        }
    }

    fn on_topic(&mut self, topic: &Arc<str>, n_partitions: i32) {
        self.topics.insert(Arc::clone(topic), Some(n_partitions));
        self.producer.ask_max_message_bytes(topic, &self.replies);
        for at in 0..self.streams.len() {
            if self.streams[at].topic == *topic {
                self.assign_slot(at, n_partitions);
            }
        }
        let lives: Vec<_> = self.lives.keys().copied().collect();
        lives.into_iter().for_each(|source| self.enqueue(source));
    }

    /// Keeps batches below what the topic takes, and says which events may be cut.
    fn on_max_message_bytes(&mut self, topic: &Arc<str>, known: Result<usize, String>) {
        let max = match known {
            Ok(max) => max,
            Err(reason) => {
                log::info!(
                    "topic {topic:?}: its max.message.bytes is not known ({reason}): a batch that \
                     is too large is halved when it is refused"
                );
                return;
            }
        };
        let Config { batch, tail, .. } = self.config;
        if batch.bytes_max > max {
            log::info!(
                "topic {topic:?}: its batches are kept below its max.message.bytes ({}), not \
                 batch.bytes_max ({})",
                show_bytes(max),
                show_bytes(batch.bytes_max)
            );
        }
        for (n, input) in self.inputs.iter().enumerate() {
            let is_its = self
                .streams
                .iter()
                .any(|stream| stream.topic == *topic && Arc::ptr_eq(&stream.input, input));
            if is_its && input.event_bytes_max > max {
                log::warn!(
                    "topic {topic:?}: takes no record larger than {} (max.message.bytes), \
                     compressed, and input[{n}].event_bytes_max is {}: what is larger is dealt with \
                     by tail.record_too_large ({})",
                    show_bytes(max),
                    show_bytes(input.event_bytes_max),
                    tail.record_too_large.name()
                );
            }
        }
        let max = max.saturating_sub(HEADER_LEN);
        self.batch_bytes_max.insert(Arc::clone(topic), max);
        for open in self.open.iter_mut().filter(|open| open.topic == *topic) {
            open.bytes_max = open.bytes_max.min(max);
        }
    }

    fn assign_slot(&mut self, at: usize, n_partitions: i32) {
        let topic = Arc::clone(&self.streams[at].topic);
        let Stream { input, path, .. } = &self.streams[at];
        let key = input.key.of(&input.names(&self.config.host, path));
        // Batches without a key go round all partitions; this host's begin at one of its own.
        let by = key.as_deref().unwrap_or(self.config.host.as_bytes());
        let partition = partition_for(by, n_partitions);
        let is_keyless = key.is_none();
        if is_keyless {
            (0..n_partitions).for_each(|partition| self.hold_if_resuming(at, &topic, partition));
        } else {
            self.hold_if_resuming(at, &topic, partition);
        }
        self.hold_if_suspect(at);
        let stream = &mut self.streams[at];
        if stream.n_holds > 0 {
            return;
        }
        let known_max = self.batch_bytes_max.get(&stream.topic).copied().unwrap_or(usize::MAX);
        let bytes_max = self.config.batch.bytes_max.min(known_max);
        let n_keyless = if is_keyless { n_partitions } else { 0 };
        let same = |open: &OpenBatch| {
            open.topic == stream.topic
                && open.n_keyless == n_keyless
                && (is_keyless || open.partition == partition)
        };
        stream.slot = Some(self.open.iter().position(same).unwrap_or_else(|| {
            self.open.push(OpenBatch {
                topic: Arc::clone(&stream.topic),
                partition,
                n_keyless,
                bytes_max,
                is_full: false,
                records: RecordArena::default(),
                spans: Vec::new(),
                segments: Vec::new(),
                flushed: HashSet::new(),
                bytes_dropped: 0,
                since: None,
                feedback: Feedback::default(),
            });
            self.open.len() - 1
        }));
    }

    /// Lets a stream be read that waited for the last of its holds.
    fn release(&mut self, stream: usize) {
        let topic = &self.streams[stream].topic;
        if let Some(Some(n_partitions)) = self.topics.get(topic).copied() {
            self.assign_slot(stream, n_partitions);
            let lives = self.lives.values().filter(|life| life.stream == stream);
            let lives: Vec<_> = lives.map(|life| life.source).collect();
            lives.into_iter().for_each(|source| self.enqueue(source));
        }
    }

    // ---- turns and timers ----

    fn enqueue(&mut self, source: SourceId) {
        let Some(life) = self.lives.get_mut(&source) else {
            return;
        };
        // At a stop nothing is begun that another process can read.
        let may_be_read = !self.is_stopping || life.deleted_at.is_some();
        if may_be_read && life.is_read() && !life.queued && self.streams[life.stream].slot.is_some()
        {
            life.queued = true;
            self.ready.push_back(source);
        }
    }

    /// Has the file that was made ready last go on first: it had to stop amid its events.
    fn put_last_first(&mut self) {
        if let Some(last) = self.ready.pop_back() {
            self.ready.push_front(last);
        }
    }

    fn timers_set(&mut self, source: SourceId, deadline: Option<Instant>) {
        let life = self.lives.get_mut(&source).expect("the life had its turn");
        life.deadline = deadline;
        if let Some(deadline) = deadline {
            self.timers.insert((deadline, source));
        }
    }

    fn timers_remove(&mut self, life: &mut Life) {
        if let Some(deadline) = life.deadline.take() {
            self.timers.remove(&(deadline, life.source));
        }
    }

    fn on_timers(&mut self, now: Instant) {
        while let Some(&(deadline, source)) = self.timers.first() {
            if deadline > now {
                return;
            }
            self.timers.pop_first();
            if let Some(life) = self.lives.get_mut(&source) {
                life.deadline = None;
            }
            self.enqueue(source);
        }
    }

    fn next_deadline(&self) -> Instant {
        let linger = self.config.batch.linger;
        let due = |slot: usize| self.open[slot].due(linger).filter(|_| self.can_send(slot));
        let batches = (0..self.open.len()).filter_map(due);
        let save = (self.dirty && !self.saving).then_some(self.save_due);
        let timer = self.timers.first().map(|(deadline, _)| *deadline);
        let others = batches.chain(save).chain(timer).chain(self.throttled_until);
        let others = others.chain(self.service.due());
        others.fold(self.scan_due, Instant::min)
    }

    // ---- registry ----

    fn save_if_due(&mut self, now: Instant) {
        if !self.dirty || self.saving || now < self.save_due {
            return;
        }
        self.end_doubt();
        // All there is, once that is the shorter way or the journal is not whole.
        let journal_max = match self.config.tail.journal_bytes_max as u64 {
            0 => 0,
            bytes_max => bytes_max.max(2 * self.registry_len),
        };
        let len = self.journal.len();
        let is_snapshot = self.journal.must_begin()
            || len > journal_max
            || (len > self.registry_len && self.room_is_low());
        let save = if is_snapshot { self.snapshot() } else { self.save_changes() };
        self.save(save);
    }

    /// Tells whether the journal, which needs to be there until the registry is written anew, may
    /// soon leave no room for that.
    fn room_is_low(&self) -> bool {
        let room = rustix::fs::statvfs(&self.config.state_dir);
        let needed = STATE_ROOM.max(4 * self.registry_len);
        room.is_ok_and(|room| room.f_bavail.saturating_mul(room.f_frsize) < needed)
    }

    /// Notes that what is to be remembered of a life is not what was last saved.
    fn has_changed(&mut self, source: SourceId) {
        self.changed.insert(source);
        self.dirty = true;
    }

    fn save(&mut self, save: Save) {
        self.dirty = false;
        self.saving = true;
        self.saver.saves.send(save).expect("the registry's thread lives as long as the hub");
    }

    fn snapshot(&mut self) -> Save {
        self.changed.clear();
        let open = self.journal.sources();
        let (mut entries, mut files) = (Vec::new(), Vec::new());
        let mut lives = std::mem::take(&mut self.lives);
        for life in lives.values_mut() {
            let offset = self.ledger.settled(life.source).expect("open while the life is");
            let entry = self.entry(life, offset);
            if open.contains(&life.source) {
                files.push((life.source, entry.clone()));
            }
            entries.push(entry);
        }
        self.lives = lives;
        let finished = self.finished.values().map(|finished| &finished.entry);
        entries.extend(finished.chain(self.restored.iter()).cloned());
        let known: Vec<SourceId> = files.iter().map(|(source, _)| *source).collect();
        // Where no new one can begin, what the old one says is the last that is known.
        let journal = self.journal.begin(files).unwrap_or_else(|error| {
            log::warn!("cannot begin a new journal: {error}");
            self.journal.number()
        });
        for source in known {
            self.lives.get_mut(&source).expect("seen above").journal = journal;
        }
        let head = self.journal.file().ok().map(|(file, _)| file);
        Save::Registry { entries, journal, head }
    }

    fn save_changes(&mut self) -> Save {
        for source in std::mem::take(&mut self.changed) {
            let Some(mut life) = self.lives.remove(&source) else {
                continue;
            };
            // Also if the journal knows it: as it was.
            life.journal = 0;
            self.journal_life(&mut life, self.journal.number());
            self.lives.insert(source, life);
        }
        match self.journal.file() {
            Ok((file, path)) => Save::Journal(file, path),
            Err(error) => Save::Failed(error),
        }
    }

    fn on_saved(&mut self, result: Result<io::Result<Saved>, crossbeam_channel::RecvError>) {
        self.saving = false;
        let saved = result.unwrap_or_else(|_| Err(io::Error::other("the registry's thread died")));
        let now = Instant::now();
        let mut pause = self.config.tail.save_interval;
        match saved {
            Ok(saved) => {
                if matches!(saved, Saved::Journal) && self.journal.must_begin() {
                    // What is in doubt meanwhile is said at once.
                    pause = Duration::ZERO;
                }
                if let Saved::Registry { journal, len } = saved {
                    self.registry_len = len;
                    let before = std::mem::replace(&mut self.needed_journal, journal);
                    // The generation before keeps its journals, should this one be damaged.
                    self.journal.remove_before(if self.room_is_low() { journal } else { before });
                }
                // The folder may have been made anew just now, without a journal.
                self.dirty |= self.journal.must_begin();
                self.save_trouble.succeeded(now);
            }
            Err(error) => {
                self.counters.saves_failed.add(1);
                if matches!(error.kind(), StorageFull | QuotaExceeded) {
                    self.journal.remove_before(self.needed_journal);
                }
                // What a failed fsync was to write is not to be had by another.
                self.journal.give_up();
                self.dirty = true;
                let wait = self.save_trouble.failed(&self.config.state_dir, &error, now);
                pause = pause.max(wait);
            }
        }
        self.save_due = now + pause;
    }

    // ---- the end ----

    /// Sends what is in open batches and waits for all receipts, unless the walk has failed, and
    /// saves the registry in either case.
    fn drain_and_save(&mut self, walked: Result<(), Error>) -> Result<(), Error> {
        let deadline = Instant::now() + self.config.tail.shutdown_timeout;
        let result = walked
            .and_then(|()| self.read_deleted_to_their_ends(deadline))
            .and_then(|()| self.drain(deadline));
        while self.saving {
            let result = self.saver.results.recv();
            self.on_saved(result);
        }
        // Their descriptors may be the last there are, and saving needs some.
        for life in self.lives.values_mut() {
            let offset = self.ledger.settled(life.source).expect("open while the life is");
            life.note_checksums(offset);
            life.harvester.park();
        }
        self.end_doubt();
        let save = self.snapshot();
        self.save(save);
        let saved = self.saver.results.recv();
        self.on_saved(saved);
        if result.is_ok() && !self.is_resuming() && !self.journal.is_in_doubt() {
            self.journal.end();
        }
        log::info!("tail stopped: {}", self.counters);
        if self.save_trouble.is_on() {
            return result.and(Err(Error::Unsaved { path: self.config.state_dir.clone() }));
        }
        result
    }

    fn drain(&mut self, deadline: Instant) -> Result<(), Error> {
        loop {
            for slot in 0..self.open.len() {
                if self.open[slot].since.is_some() {
                    self.seal(slot);
                }
            }
            if self.under_way == 0 {
                return Ok(());
            }
            match self.deliveries.recv_deadline(deadline) {
                Ok(delivery) => self.on_delivery(delivery)?,
                Err(_) => return Err(self.unfinished()),
            }
        }
    }

    fn unfinished(&self) -> Error {
        let open: u64 = self.open.iter().map(|open| u64::from(open.records.count())).sum();
        Error::Unfinished { n_records: self.records_under_way + open }
    }
}

impl Life {
    /// Tells whether its name still leads to it, as far as can be known: a folder that cannot be
    /// read does not make its files gone, nor does it keep those of others.
    fn has_its_name(&self) -> bool {
        match fs::symlink_metadata(&self.name) {
            Ok(metadata) => Stat::from(&metadata).inode == self.harvester.stat().inode,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Tells whether another look may find more, or other, bytes.
    fn has_changed(&self) -> bool {
        let before = self.harvester.stat();
        let now = self.harvester.stat_now().unwrap_or(*before);
        now.size != before.size || now.mtime_ns != before.mtime_ns
    }

    fn is_read(&self) -> bool {
        matches!(self.phase, Phase::Reading | Phase::Lingering)
    }

    /// Gives up its name, and what is known of the records under it.
    fn begin_other_name(&mut self) {
        self.number += 1;
        (self.file_id, self.origin, self.doubtful_end) = (None, None, 0);
        (self.arrived, self.journal) = (None, 0);
        self.waymarks = Waymarks::default();
    }

    /// Tells whether behind all that is in the file something stands in the topic for its ground.
    fn has_lost_its_end(&self) -> bool {
        // An open event is compared once it is whole; the last line may have been torn.
        let is_compared = self.content == Content::Own && !self.events.has_open();
        let arrived = self.arrived.as_ref().filter(|arrived| arrived.is_doubtful());
        is_compared
            && arrived.is_some_and(|arrived| arrived.has_more_behind(self.events.read_offset()))
    }

    /// Tells whether another event stands in the topic for the ground of this one.
    fn has_another(&self, event: &multiline::Event) -> bool {
        let text = || self.events.text(event, &mut Vec::new()).to_vec();
        self.arrived.as_ref().is_some_and(|arrived| arrived.has_another(event, &text()))
    }

    /// Tells whether an event stands in the topic already.
    fn has_arrived(&self, event: &multiline::Event) -> bool {
        self.arrived.as_ref().is_some_and(|arrived| arrived.covers(event))
    }

    /// Bytes that were last seen and not read, as far as the file's size tells.
    fn n_unread(&self) -> u64 {
        match self.harvester.is_gzipped() {
            true => 0,
            false => self.harvester.stat().size.saturating_sub(self.events.read_offset()),
        }
    }

    /// Looks whether a file has changed behind what was read of it, or, if nothing was read, is
    /// another than when it was found.
    fn look(&mut self) -> io::Result<Look> {
        let read_offset = self.events.read_offset();
        let size_before = self.harvester.stat().size;
        let look = self.harvester.look(read_offset)?;
        if read_offset == 0 && !self.harvester.is_gzipped() && look != Look::Replaced {
            let is_shorter = self.harvester.stat().size < size_before;
            if is_shorter || !self.harvester.has_head(&self.head)? {
                return Ok(Look::Replaced);
            }
        }
        Ok(look)
    }

    /// Takes note of the head of a file of which nothing was read: it may be copied and truncated
    /// before anything is.
    fn note_head(&mut self) {
        let is_plain = !self.harvester.is_gzipped() && !self.harvester.is_parked();
        let is_known = self.file_id.is_some() && self.head.len > 0;
        if is_plain && self.events.read_offset() == 0 && !is_known {
            // Without it a truncation is noticed only where the file gets shorter.
            self.head = self.harvester.head().unwrap_or_default();
        }
    }

    /// What the file system says of it now, by its name where it is parked.
    fn stat_now(&self) -> io::Result<Stat> {
        if !self.harvester.is_parked() {
            return self.harvester.stat_now();
        }
        let stat = Stat::from(&fs::symlink_metadata(&self.name)?);
        match stat.inode == self.harvester.stat().inode {
            true => Ok(stat),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Brings the head, and the guard of `offset`, up to date; returns the offset to be remembered.
    ///
    /// An error in reading them leaves them as they were; the next save tries again, and a guard
    /// that does not fit its offset would only begin a new life.
    fn note_checksums(&mut self, offset: u64) -> u64 {
        if self.harvester.is_gzipped() {
            if self.saved_offset != Some(offset) {
                self.last_seen_ms = now_ms();
            }
            self.saved_offset = Some(offset);
            return offset;
        }
        // A copy may end before what was read of the original.
        let is_spent = self.content == Content::Spent;
        let offset = if is_spent { offset.min(self.harvester.stat().size) } else { offset };
        let can_grow = self.head.head_can_grow(self.harvester.stat().size);
        if self.gone || (!can_grow && self.saved_offset == Some(offset)) {
            return offset;
        }
        let read_offset = (!is_spent).then(|| self.events.read_offset());
        if let Ok((head, guard)) =
            self.harvester.checksums(&self.name, offset, read_offset, &self.head)
            && u64::from(guard.len) == offset.min(GUARD_BYTES_MAX as u64)
        {
            if self.saved_offset != Some(offset) {
                self.last_seen_ms = now_ms();
            }
            (self.head, self.guard, self.saved_offset) = (head, guard, Some(offset));
        }
        offset
    }

    /// Returns what is to be remembered, with `offset` as the end of settled ground.
    ///
    /// `partition`: where its records go, and the offset behind our last one there.
    fn entry(
        &mut self,
        path: &Path,
        offset: u64,
        partition: impl FnOnce() -> Option<(i32, i64)>,
    ) -> Entry {
        let offset = offset + u64::from(planted::is(Bug::OneByteMore));
        let offset = self.note_checksums(offset);
        // Where the file cannot be read, or was overwritten, the guard is an older one.
        let saved_offset = self.saved_offset.unwrap_or(0);
        // What was read back stands in the topic before what is settled by now.
        let is_ahead = self.arrived.as_ref().is_some_and(|there| there.has_more_behind(offset));
        if self.saved_offset == Some(offset) && !self.harvester.is_gzipped() && !is_ahead {
            let guard = self.guard;
            self.waymarks.note(Instant::now(), || {
                let (partition, next_offset) = partition()?;
                Some(Waymark { offset, guard, partition, next_offset })
            });
        }
        let stat = self.harvester.stat();
        Entry {
            path: path.into(),
            name: self.name.as_ref().into(),
            inode: stat.inode,
            btime_ns: stat.btime_ns,
            mtime_ns: stat.mtime_ns,
            life: self.number,
            file_id: self.file_id.clone(),
            head: self.head,
            offset,
            guard: self.guard,
            guard_end: (saved_offset != offset).then_some(saved_offset),
            waymarks: self.waymarks.to_vec(),
            done: false,
            size: stat.size,
            spent: self.content == Content::Spent,
            gzipped: self.harvester.is_gzipped(),
            first_seen_ms: self.first_seen_ms,
            last_seen_ms: self.last_seen_ms,
            missed_since_ms: None,
        }
    }
}

impl OpenBatch {
    /// When it has waited long enough for more records.
    fn due(&self, linger: Duration) -> Option<Instant> {
        self.since.map(|since| since + self.feedback.linger(linger))
    }

    fn has_room(&self, size: usize, config: &Config) -> bool {
        self.records.is_empty()
            || (self.records.len() + size <= self.bytes_max
                && self.records.count() < config.batch.count_max)
    }

    /// Extends the ground of a source by an event.
    fn cover(&mut self, source: SourceId, event: &multiline::Event) {
        let &multiline::Event { start, end, continued, .. } = event;
        self.extend_span(source, start, end);
        let is_whole = !self.flushed.is_empty() && self.flushed.remove(&source);
        match self.segments.iter_mut().rev().find(|segment| segment.source == source) {
            Some(segment) if !is_whole => segment.end = end,
            _ => self.segments.push(Segment { source, start, end, continued, rest_of: None }),
        }
        if event.flushed {
            self.flushed.insert(source);
        }
    }

    /// Extends the ground of a source by the second part of an event, the first of which is the
    /// last event of another source.
    fn cover_rest(&mut self, source: SourceId, rest: &multiline::Event, first: SourceId) {
        let &multiline::Event { start, end, continued, .. } = rest;
        self.extend_span(source, start, end);
        let rest_of = Some(first);
        self.segments.push(Segment { source, start, end, continued, rest_of });
        if rest.flushed {
            self.flushed.insert(source);
        }
    }

    fn extend_span(&mut self, source: SourceId, start: u64, end: u64) {
        // The last span is nearly always the one: a file gives many events in its turn.
        match self.spans.iter_mut().rev().find(|span| span.source == source) {
            Some(span) => span.end = end,
            None => self.spans.push(Span::new(source, start, end)),
        }
    }

    fn take_segments(&mut self) -> Vec<Segment> {
        self.flushed.clear();
        std::mem::take(&mut self.segments)
    }

    /// Whether it is about ground without records.
    fn has_only_passed(&self) -> bool {
        self.records.is_empty() && !self.spans.is_empty()
    }
}
