//! Going on as the same producer after a crash.
//!
//! What the journal says of batches that were sent and not settled is held against what their
//! partition knows, before anything of their streams is read:
//!
//! 1. The partition's leader names the last sequence number it has of our producer id: batches up
//!    to it are appended.
//! 2. The last of those, and all behind it, are built again from their ground and sent under their
//!    old sequence numbers. The broker recognises the one it has, and its answer tells that this
//!    and all before it are replicated: their ground is settled with it. A request of the dead
//!    process that still arrives is likewise a repeat that the broker recognises.
//! 3. Where that cannot be, the partition is read back: the records in it that name this host tell
//!    which ground is settled, and the rest is read as if it had never been sent. That is so where
//!    the broker has forgotten the producer id, or knows of more than the journal does (after a
//!    power cut, or a full disk); where batches had been cut, or their ground is gone or now cut
//!    differently.
//! 4. Where Read is not granted, the batches are sent again on trust. The broker, which remembers
//!    the last five, most likely recognises them; one that has forgotten the producer would not say
//!    so, and therefore all of them are counted as `records_maybe_repeated`.
//!
//! After a power cut or a full disk any partition may hold what the journal does not know: each is
//! read back before anything goes there, and after a power cut each event is compared with what
//! stands there for its ground. Until all that is done the journal is in doubt, so that a crash
//! meanwhile begins with it again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::cut_event;
use super::encode::Rest;
use super::harvester::Look;
use super::journal::{Replay, ReplayedBatch, Segment, SentBatch};
use super::multiline::{Event, EventBuffer, Limits};
use super::policy::Filter;
use super::registry::Entry;
use super::restored::Restored;
use super::{Content, Hub, Life, too_large};
use crate::batch::Batch;
use crate::kafka::producer::LastSequence;
use crate::kafka::read_back::{Beginning, Found, Outcome, ReadBackError, read_back};
use crate::kafka::record_batch::{RecordArena, now_ms, sequence_after};
use crate::metrics::TailCounters;
use crate::record::{BatchId, SourceId, Span};

/// Bytes that are read back of one partition at most: some seconds of work, and more than one host
/// sends between two saves of the registry.
const READ_BACK_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A partition by topic and number.
type PartitionName = (Arc<str>, i32);

/// Ground that stands in the topic, of each life by its file id.
pub(super) type Arrivals = HashMap<String, Arrived>;

/// Ground of a life that stands in the topic.
#[derive(Debug, Default, Clone)]
pub(super) struct Arrived {
    ranges: Ranges,
    /// What is known of the records in it by the first bytes of their ground, where they must be
    /// compared.
    records: HashMap<u64, Known>,
}

/// What is known of a record.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// Bytes of its ground.
    length: u64,
    /// Length and checksum of its value, unless that holds the bytes of another file, too.
    value: Option<(usize, u32)>,
}

impl Arrived {
    fn take(&mut self, other: Arrived) {
        other.ranges.iter().for_each(|(start, end)| self.ranges.insert(start, end));
        self.records.extend(other.records);
    }

    pub(super) fn covers(&self, event: &Event) -> bool {
        self.ranges.covers(event.start, event.end)
    }

    /// Tells whether ground behind an offset stands in the topic.
    pub(super) fn has_more_behind(&self, offset: u64) -> bool {
        self.ranges.iter().next_back().is_some_and(|(_, end)| end > offset)
    }

    /// Tells whether it is to be compared with what the file holds.
    pub(super) fn is_doubtful(&self) -> bool {
        !self.records.is_empty()
    }

    /// Tells whether another event stands in the topic for the ground of this one. One that holds
    /// the first lines of this one is the same: it had waited too long for the others.
    pub(super) fn has_another(&self, event: &Event, text: &[u8]) -> bool {
        let is_same = |record: &Known| match record.value {
            Some((len, crc)) => {
                let is_line_end = matches!(text.get(len), None | Some(b'\r' | b'\n'));
                let start = text.get(..len).filter(|_| is_line_end);
                start.is_some_and(|start| crc32c::crc32c(start) == crc)
            }
            None => record.length == event.end - event.start,
        };
        !self.records.is_empty()
            && self.ranges.covers(event.start, event.start + 1)
            && !self.records.get(&event.start).is_some_and(is_same)
    }
}

/// Ranges of bytes, merged where they meet.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    pub(super) fn insert(&mut self, start: u64, end: u64) {
        let (mut start, mut end) = (start, end);
        while let Some((&other, &other_end)) = self.0.range(..=end).next_back()
            && other_end >= start
        {
            self.0.remove(&other);
            start = start.min(other);
            end = end.max(other_end);
        }
        self.0.insert(start, end);
    }

    /// Whether `[start, end)` lies in one of them.
    pub(super) fn covers(&self, start: u64, end: u64) -> bool {
        self.0.range(..=start).next_back().is_some_and(|(_, covered)| end <= *covered)
    }

    fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> {
        self.0.iter().map(|(start, end)| (*start, *end))
    }
}

impl<const N: usize> From<[(u64, u64); N]> for Ranges {
    fn from(ranges: [(u64, u64); N]) -> Ranges {
        Ranges(ranges.into())
    }
}

/// What is still to be found out after a crash.
pub(super) struct Resume {
    partitions: HashMap<PartitionName, Resuming>,
    next_offsets: BTreeMap<(String, i32), i64>,
    /// Batches may have been sent that the journal does not know: each partition is read back
    /// before its streams are read.
    is_incomplete: bool,
    /// The host was started since files were read: they may have lost their ends.
    pub(super) may_be_cut: bool,
    /// What is read back is compared with the files.
    pub(super) is_compared: bool,
    /// Partitions that files which have lost their ends are compared with, and the streams of those.
    suspect: HashMap<PartitionName, HashSet<usize>>,
    /// What an earlier process had under way is known.
    has_begun: bool,
    /// What had arrived before a batch that is sent again, and is settled with it.
    arrived: HashMap<BatchId, Vec<BatchId>>,
    /// Lives of open batches that cannot be read now.
    absent: HashMap<SourceId, Entry>,
    /// Partitions that are done with.
    done: HashSet<PartitionName>,
    read_back: Sender<ReadBack>,
    /// What was read back.
    pub(super) results: Receiver<ReadBack>,
    /// Ends the threads that read back, with the hub.
    stop: (Sender<()>, Receiver<()>),
}

/// One partition that streams wait for.
#[derive(Default)]
struct Resuming {
    batches: Vec<ReplayedBatch>,
    streams: HashSet<usize>,
}

/// What one partition was found to hold.
pub(super) struct ReadBack {
    partition: PartitionName,
    arrivals: Arrivals,
    result: Result<Outcome, ReadBackError>,
}

impl Default for Resume {
    fn default() -> Resume {
        let (read_back, results) = unbounded();
        Resume {
            partitions: HashMap::new(),
            next_offsets: BTreeMap::new(),
            is_incomplete: false,
            may_be_cut: false,
            is_compared: false,
            suspect: HashMap::new(),
            has_begun: false,
            arrived: HashMap::new(),
            absent: HashMap::new(),
            done: HashSet::new(),
            read_back,
            results,
            stop: bounded(0),
        }
    }
}

impl Resume {
    /// Has a partition read back, if it is, from an offset or one before; -1: whole.
    fn read_back_from(&mut self, topic: &str, partition: i32, offset: i64) {
        let from = self.next_offsets.entry((topic.into(), partition)).or_insert(offset);
        *from = offset.min(*from);
    }
}

impl Hub<'_> {
    /// Takes over what an earlier process had under way; to be called once, after the first scan.
    pub(super) fn begin_resume(&mut self, replay: Replay) {
        let Replay { batches, sources, next_offsets, is_incomplete, .. } = replay;
        for ((topic, partition), offset) in next_offsets {
            self.resume.read_back_from(&topic, partition, offset);
        }
        for ((topic, partition), offset) in &self.resume.next_offsets {
            self.journal.next_offset(topic, *partition, *offset);
        }
        self.resume.has_begun = true;
        self.resume.is_incomplete = is_incomplete;
        if is_incomplete || !self.resume.suspect.is_empty() {
            self.journal.doubt();
        }
        if is_incomplete {
            log::warn!(
                "the host was started again, or the journal is gone or broken: what was sent last \
                 is read back from the topic"
            );
        }
        let n_open = batches.iter().filter(|batch| !batch.is_settled).count();
        if n_open > 0 {
            log::info!("{n_open} batches were under way when the last process ended");
        }

        let mut translated = HashMap::new();
        for (old, entry) in sources {
            let is_it = |life: &&Life| {
                // One that goes on in its copy has the inode of that.
                let has_its_id = entry.file_id.is_some() && life.file_id == entry.file_id;
                let stat = life.harvester.stat();
                let is_file = (stat.inode.ino, stat.btime_ns) == (entry.inode.ino, entry.btime_ns);
                has_its_id || (is_file && life.number == entry.life)
            };
            let life = self.lives.values().map(Box::as_ref).find(is_it).map(|life| life.source);
            let new = life.unwrap_or_else(|| self.new_source());
            if life.is_none() {
                self.resume.absent.insert(new, entry);
            }
            translated.insert(old, new);
        }
        for mut batch in batches {
            for Segment { source, rest_of, .. } in &mut batch.sent.ground {
                for source in std::iter::once(source).chain(rest_of) {
                    let new = translated.get(source).copied();
                    *source = new.unwrap_or_else(|| self.new_source());
                }
            }
            batch.sent.batch = BatchId(self.next_batch);
            self.next_batch += 1;
            self.journal.replayed(batch.clone());
            self.hold_streams(batch);
        }
        let partitions: Vec<PartitionName> = self.resume.partitions.keys().cloned().collect();
        partitions.into_iter().for_each(|partition| self.ask(partition));
    }

    /// Has a partition read back from an offset on before anything of a stream is read that has a
    /// file of which a power cut took the end; `false` while that partition is being read back.
    pub(super) fn compare_from(&mut self, stream: usize, partition: i32, offset: i64) -> bool {
        let topic = Arc::clone(&self.streams[stream].topic);
        let name = (Arc::clone(&topic), partition);
        if self.resume.partitions.contains_key(&name) {
            return false;
        }
        self.resume.read_back_from(&topic, partition, offset);
        self.resume.is_compared = true;
        self.resume.suspect.entry(name.clone()).or_default().insert(stream);
        self.resume.done.remove(&name);
        if self.resume.has_begun {
            self.journal.doubt_from(&topic, partition, offset);
            (self.dirty, self.save_due) = (true, Instant::now());
        }
        if self.streams[stream].slot.take().is_some() {
            self.hold_if_resuming(stream, &topic, partition);
        }
        true
    }

    /// Whether it is not known yet what of an earlier process's batches had arrived.
    pub(super) fn is_resuming(&self) -> bool {
        !self.resume.partitions.is_empty()
    }

    /// Ends the journal's doubt once all that was read back was held against the files.
    pub(super) fn end_doubt(&mut self) {
        if self.journal.is_in_doubt() && self.is_all_compared() {
            self.journal.end_doubt();
            // All of it lies before what is settled, or is of files that are gone.
            self.lives.values_mut().for_each(|life| life.arrived = None);
            self.arrivals.clear();
        }
    }

    /// Whether nothing that was read back is still to be held against the files, but for those that
    /// are gone.
    fn is_all_compared(&self) -> bool {
        let is_compared = |life: &Life| match life.file_id {
            Some(_) => {
                let offset = self.ledger.settled(life.source).unwrap_or(0);
                life.arrived.as_ref().is_none_or(|arrived| !arrived.has_more_behind(offset))
            }
            None => life.at_end || self.arrivals.is_empty(),
        };
        // Its file may be out of reach, as where its file system is not mounted yet.
        let is_missing = |entry: &Entry| {
            !entry.done
                && match &entry.file_id {
                    Some(file_id) => self
                        .arrivals
                        .get(file_id)
                        .is_some_and(|arrived| arrived.has_more_behind(entry.offset)),
                    None => !self.arrivals.is_empty(),
                }
        };
        // One without a slot waits for its topic, or for its partition to be read back.
        self.streams.iter().all(|stream| stream.slot.is_some())
            && self.lives.values().all(|life| is_compared(life))
            && !self.restored.iter().any(is_missing)
    }

    fn new_source(&mut self) -> SourceId {
        self.next_source += 1;
        SourceId(self.next_source - 1)
    }

    /// Keeps the streams of a batch from being read until its fate is known.
    fn hold_streams(&mut self, batch: ReplayedBatch) {
        let name = (Arc::from(batch.sent.topic.as_str()), batch.sent.partition);
        let resuming = self.resume.partitions.entry(name).or_default();
        for segment in &batch.sent.ground {
            if let Some(life) = self.lives.get(&segment.source)
                && resuming.streams.insert(life.stream)
            {
                self.streams[life.stream].n_holds += 1;
            }
        }
        resuming.batches.push(batch);
    }

    /// Holds a stream, once its partition is known, while it is not known what arrived there, also
    /// if nothing of this stream was under way: what was is sent again as the same producer, and
    /// nothing may go before it as another.
    pub(super) fn hold_if_resuming(&mut self, stream: usize, topic: &Arc<str>, partition: i32) {
        let name = (topic.clone(), partition);
        let is_new = !self.resume.partitions.contains_key(&name);
        let is_suspect = self.resume.is_incomplete || self.resume.suspect.contains_key(&name);
        let must_be_read = is_suspect && !self.resume.done.contains(&name);
        if is_new && !must_be_read {
            return;
        }
        if self.resume.partitions.entry(name.clone()).or_default().streams.insert(stream) {
            self.streams[stream].n_holds += 1;
        }
        if is_new {
            self.read_back(name);
        }
    }

    /// Holds a stream while it is not known what partitions hold that its files are compared with,
    /// of which its own may be another by now.
    pub(super) fn hold_if_suspect(&mut self, stream: usize) {
        let is_it = |streams: &HashSet<usize>| streams.contains(&stream);
        let suspect = self.resume.suspect.iter().filter(|(_, streams)| is_it(streams));
        let names: Vec<PartitionName> = suspect.map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|(topic, partition)| {
            self.hold_if_resuming(stream, topic, *partition);
        });
    }

    /// Begins to find out what of a partition's batches has arrived.
    fn ask(&mut self, name: PartitionName) {
        let batches = &self.resume.partitions[&name].batches;
        let open: Vec<&SentBatch> =
            batches.iter().filter(|batch| !batch.is_settled).map(|batch| &batch.sent).collect();
        let follow = open.windows(2).all(|pair| match (pair[0].stamp, pair[1].stamp) {
            (Some(first), Some(second)) => {
                (first.producer_id, first.epoch) == (second.producer_id, second.epoch)
                    && second.base_sequence
                        == sequence_after(first.base_sequence, pair[0].n_records)
            }
            _ => false,
        });
        match open.first().and_then(|batch| batch.stamp) {
            Some(stamp) if follow && !self.resume.is_incomplete => {
                self.producer.ask_last_sequence(&name.0, name.1, stamp.producer_id, &self.replies);
            }
            _ if open.is_empty() && !self.resume.is_incomplete => {
                self.read_open_again(&name, false);
            }
            _ => self.read_back(name),
        }
    }

    pub(super) fn on_last_sequence(
        &mut self,
        topic: &Arc<str>,
        partition: i32,
        known: LastSequence,
    ) {
        let name = (topic.clone(), partition);
        let Some(resuming) = self.resume.partitions.get(&name) else {
            return;
        };
        let open = || resuming.batches.iter().filter(|batch| !batch.is_settled);
        let stamp_of = |batch: &ReplayedBatch| batch.sent.stamp.expect("asked only where all are");
        let subject = format!("topic {topic:?} partition {partition}");
        match known {
            LastSequence::Known(epoch, last) if last >= 0 => {
                let next = sequence_after(last, 1);
                let is_epoch = open().all(|batch| stamp_of(batch).epoch == epoch);
                // The first that did not arrive follows what did; all arrived, or none, where it
                // is the one behind the last, or the first.
                let starts = open().map(|batch| stamp_of(batch).base_sequence);
                let mut ends = open().map(|batch| {
                    sequence_after(stamp_of(batch).base_sequence, batch.sent.n_records)
                });
                let n_arrived = starts.chain(ends.next_back()).position(|start| start == next);
                let (n_open, producer_id) =
                    (open().count(), open().next().map(|batch| stamp_of(batch).producer_id));
                match n_arrived.filter(|_| is_epoch) {
                    Some(n_arrived) => {
                        log::info!(
                            "{subject}: going on as producer {}, {n_arrived} of {n_open} batches \
                             had arrived",
                            producer_id.unwrap_or(-1)
                        );
                        // The leader has appended them; that they are replicated, too, only the
                        // answer to the last of them tells.
                        if !self.send_open_again(&name, n_arrived.saturating_sub(1)) {
                            self.read_back(name);
                        }
                    }
                    None => {
                        log::warn!(
                            "{subject}: it has records of this producer that the journal does not \
                             know, or has lost some; reading it back"
                        );
                        self.read_back(name);
                    }
                }
            }
            LastSequence::Known(..) | LastSequence::Forgotten => {
                log::info!("{subject}: the broker knows nothing of this producer; reading it back");
                self.read_back(name);
            }
            LastSequence::Untold(reason) => {
                log::warn!(
                    "{subject}: cannot ask which batches had arrived: {reason}; sending them again \
                     and trusting the broker to recognise them"
                );
                // One that has forgotten the producer takes them again, and does not say so.
                let n_records = open().map(|batch| u64::from(batch.sent.n_records)).sum();
                self.counters.records_maybe_repeated.add(n_records);
                if !self.send_open_again(&name, 0) {
                    self.read_back(name);
                }
            }
        }
    }

    /// Begins to read a partition back, on a thread of its own.
    fn read_back(&mut self, partition: PartitionName) {
        let kafka = self.config.kafka.clone();
        let host = self.config.host.clone();
        let key = (partition.0.to_string(), partition.1);
        let from = self.resume.next_offsets.get(&key).copied().unwrap_or(-1);
        let (results, stop) = (self.resume.read_back.clone(), self.resume.stop.1.clone());
        let name = partition.clone();
        let is_compared = self.resume.is_compared;
        let thread = thread::Builder::new().name("read-back".into()).spawn(move || {
            let mut arrivals = Arrivals::default();
            let (topic, number) = (&partition.0, partition.1);
            let mut visit = |record: &Found| {
                let Found { file_id, offset, length, value, .. } = record;
                if !arrivals.contains_key(file_id) {
                    arrivals.insert(file_id.clone(), Arrived::default());
                }
                let arrived = arrivals.get_mut(file_id).expect("seen to above");
                arrived.ranges.insert(*offset, offset + length);
                if is_compared {
                    arrived.records.insert(*offset, Known { length: *length, value: *value });
                }
            };
            let bound = READ_BACK_BYTES_MAX;
            let result = read_back(&kafka, topic, number, from, &host, bound, &stop, &mut visit);
            // Fails only when the hub is gone.
            let _ = results.send(ReadBack { partition, arrivals, result });
        });
        if let Err(error) = thread {
            log::error!("cannot start reading back: {error}");
            self.read_open_again(&name, true);
        }
    }

    pub(super) fn on_read_back(&mut self, read_back: ReadBack) {
        let ReadBack { partition, arrivals, result } = read_back;
        let subject = format!("topic {:?} partition {}", partition.0, partition.1);
        let is_whole = match result {
            Ok(outcome) => {
                log::info!(
                    "{subject}: read back offsets {} to {}: {} of {} records are of this host",
                    outcome.from,
                    outcome.to,
                    outcome.n_found,
                    outcome.n_records
                );
                self.journal.next_offset(&partition.0, partition.1, outcome.to);
                !outcome.bound_reached && outcome.beginning != Beginning::Gone
            }
            Err(ReadBackError::Stopped) => return,
            Err(error) => {
                log::warn!("{subject}: {error}; what was under way is sent again");
                false
            }
        };
        for (file_id, arrived) in arrivals {
            self.arrivals.entry(file_id).or_default().take(arrived);
        }
        let name_of = |life: &Life| life.file_id.clone().map(|file_id| (life.source, file_id));
        let lives: Vec<(SourceId, String)> =
            self.lives.values().map(Box::as_ref).filter_map(name_of).collect();
        for (source, file_id) in lives {
            if let Some(arrived) = self.arrivals.remove(&file_id) {
                self.keep_arrived(source, arrived);
            }
        }
        self.read_open_again(&partition, !is_whole);
    }

    /// Sends the open batches of a partition again, but for the first `n_arrived`, which are
    /// settled with the next; `false`, with nothing done, where one does not come out as it was.
    fn send_open_again(&mut self, name: &PartitionName, n_arrived: usize) -> bool {
        let Some(Resuming { batches, streams }) = self.resume.partitions.remove(name) else {
            return true;
        };
        for batch in &batches {
            self.open_lives(&batch.sent);
        }
        let Some(Rebuilt { arenas, ends }) = self.build_again(&batches, n_arrived) else {
            self.resume.partitions.insert(name.clone(), Resuming { batches, streams });
            return false;
        };
        let mut arenas = arenas.into_iter();
        let (mut n_open, mut arrived, mut spans) = (0, Vec::new(), Vec::new());
        self.go_on_behind(ends);
        for ReplayedBatch { sent, is_settled } in batches {
            put_spans(&sent, &mut spans);
            n_open += usize::from(!is_settled);
            if is_settled {
                // Its ground goes with the next batch, or by itself at the end.
            } else if n_open <= n_arrived {
                arrived.push(sent.batch);
            } else {
                let records = arenas.next().expect("one for each that is sent again");
                self.resume.arrived.insert(sent.batch, std::mem::take(&mut arrived));
                self.send_again(sent, records, std::mem::take(&mut spans));
            }
        }
        self.ledger.take(&spans);
        self.ledger.settle(&spans);
        self.end_resume(name, streams);
        true
    }

    /// Settles, with a batch that was sent again, what had arrived before it.
    pub(super) fn settle_with(&mut self, batch: BatchId) {
        for arrived in self.resume.arrived.remove(&batch).unwrap_or_default() {
            self.journal.settled(arrived, None);
            self.counters.batches_found.add(1);
        }
    }

    /// Lets the ground of the open batches of a partition be read as if they had not been sent.
    /// `in_doubt`: what is sent again may stand in the topic.
    fn read_open_again(&mut self, name: &PartitionName, in_doubt: bool) {
        let Some(Resuming { batches, streams }) = self.resume.partitions.remove(name) else {
            return;
        };
        if in_doubt {
            self.rename_cut(&streams);
        }
        for ReplayedBatch { sent, is_settled } in batches {
            self.journal.void(sent.batch);
            if is_settled {
                for Segment { source, start, end, .. } in sent.ground {
                    match self.resume.absent.get(&source) {
                        Some(entry) => settle_absent(&mut self.restored, entry, start, end),
                        None => {
                            let ranges = Ranges::from([(start, end)]);
                            self.keep_arrived(source, Arrived { ranges, ..Arrived::default() });
                        }
                    }
                }
            } else {
                self.read_again(&sent, in_doubt);
            }
        }
        self.end_resume(name, streams);
    }

    /// Gives files that a power cut has made shorter another name where it is not known what stands
    /// in the topic under the old one: two events of one name would be one document.
    fn rename_cut(&mut self, streams: &HashSet<usize>) {
        let is_it = |life: &&mut Box<Life>| life.is_cut && streams.contains(&life.stream);
        for life in self.lives.values_mut().filter(is_it) {
            log::warn!(
                "{}: what it holds behind {} is shipped again under another file_id",
                life.name.display(),
                life.events.event_offset()
            );
            life.begin_other_name();
        }
    }

    fn end_resume(&mut self, name: &PartitionName, streams: HashSet<usize>) {
        self.resume.done.insert(name.clone());
        for stream in streams {
            self.streams[stream].n_holds -= 1;
            self.release(stream);
        }
    }

    /// Opens the files of a batch that are parked, as far as may be.
    fn open_lives(&mut self, sent: &SentBatch) {
        for segment in &sent.ground {
            let Some(mut life) = self.lives.remove(&segment.source) else {
                continue;
            };
            if let Err(error) = self.reopen(&mut life) {
                log::warn!("{}: cannot be opened again: {error}", life.name.display());
            }
            self.lives.insert(segment.source, life);
        }
    }

    /// Notes ground that is not to be sent again when it is read.
    fn keep_arrived(&mut self, source: SourceId, arrived: Arrived) {
        let Some(life) = self.lives.get_mut(&source) else {
            return;
        };
        let segment =
            |(start, end)| Segment { source, start, end, continued: false, rest_of: None };
        // What must be compared first is passed with what is read.
        if arrived.records.is_empty() {
            let ground = arrived.ranges.iter().map(segment).collect();
            self.journal.passed(BatchId(self.next_batch), ground);
            self.next_batch += 1;
        }
        // Records of a life arrive in order: what is not there before one that is was there, and
        // is compacted or deleted, or was refused.
        let end = arrived.ranges.iter().next_back().map_or(0, |(_, end)| end);
        life.doubtful_end = life.doubtful_end.max(end);
        life.arrived.get_or_insert_default().take(arrived);
    }

    /// Lets the ground of a batch be read as if it had not been sent.
    fn read_again(&mut self, sent: &SentBatch, in_doubt: bool) {
        self.counters.batches_reread.add(1);
        for segment in &sent.ground {
            let is_found = self.is_found(segment);
            match self.lives.get_mut(&segment.source) {
                Some(life) if in_doubt => {
                    life.doubtful_end = life.doubtful_end.max(segment.end);
                }
                Some(_) => {}
                None if is_found => {}
                None => log::warn!(
                    "{} bytes that were under way are gone: their file is deleted, truncated or \
                     out of reach, and it is not known that they had arrived: topic={} \
                     partition={} bytes={}..{}",
                    segment.end - segment.start,
                    sent.topic,
                    sent.partition,
                    segment.start,
                    segment.end
                ),
            }
        }
    }

    /// Whether ground of a life that cannot be read was read back.
    fn is_found(&self, segment: &Segment) -> bool {
        let entry = self.resume.absent.get(&segment.source);
        let arrived = entry.and_then(|entry| self.arrivals.get(entry.file_id.as_ref()?));
        arrived.is_some_and(|arrived| arrived.ranges.covers(segment.start, segment.end))
    }

    fn send_again(&mut self, sent: SentBatch, records: RecordArena, spans: Vec<Span>) {
        // What had arrived before it is settled with it, and was not read by this process.
        let n_bytes: u64 = spans.iter().map(|span| span.end - span.start).sum();
        let n_own: u64 = sent.ground.iter().map(|segment| segment.end - segment.start).sum();
        *self.dropped_in.entry(sent.batch).or_default() += n_bytes - n_own;
        self.ledger.take(&spans);
        self.under_way += 1;
        self.uncompressed += 1;
        self.records_under_way += u64::from(sent.n_records);
        self.counters.batches_resent.add(1);
        let batch = Batch {
            id: sent.batch,
            topic: sent.topic.into(),
            partition: sent.partition,
            records,
            spans,
            stamp: sent.stamp,
            too_large: too_large::rule(self.config.tail.record_too_large),
        };
        self.producer.send(batch, &self.replies);
    }

    /// Sets lives behind the ground of their batches.
    fn go_on_behind(&mut self, ends: HashMap<SourceId, (u64, Vec<u8>)>) {
        for (source, (end, guard)) in ends {
            let life = self.lives.get_mut(&source).expect("build_again() has seen it");
            let input = &self.streams[life.stream].input;
            life.events = EventBuffer::new(end, Limits::of(input), false);
            life.harvester.go_on_behind(guard);
        }
    }

    /// Returns the guards of offsets; fails where what was known of a file before is not in it.
    fn guards_of(
        &mut self,
        offsets: HashMap<SourceId, u64>,
    ) -> io::Result<HashMap<SourceId, (u64, Vec<u8>)>> {
        let mut guards = HashMap::new();
        for (source, offset) in offsets {
            let life = self.lives.get_mut(&source).expect("follows() has seen it");
            guards.insert(source, (offset, life.harvester.guard_of(offset)?));
            // Only now: a file may be truncated, and have grown again, at any time before.
            if life.look()? == Look::Replaced {
                return Err(io::Error::other("the file was truncated"));
            }
        }
        Ok(guards)
    }

    /// Builds batches again from their ground, but for the first `n_arrived` of the open ones;
    /// `None` where one does not come out as it was, or cannot.
    fn build_again(&mut self, batches: &[ReplayedBatch], n_arrived: usize) -> Option<Rebuilt> {
        let mut arenas = Vec::new();
        let mut n_open = 0;
        let mut offsets = HashMap::new();
        let mut tally = Tally::default();
        for ReplayedBatch { sent, is_settled } in batches {
            let subject = format!("topic {:?} partition {}", sent.topic, sent.partition);
            if !self.follows(sent, &mut offsets) {
                log::warn!("{subject}: not all files of a batch that was under way can be read");
                return None;
            }
            n_open += usize::from(!is_settled);
            if *is_settled || n_open <= n_arrived {
                continue;
            }
            match self.build_batch(sent, &mut tally) {
                Ok(records) if records.count() == sent.n_records => arenas.push(records),
                Ok(records) => {
                    log::warn!(
                        "{subject}: a batch of {} records is one of {} now, for the configuration \
                         or the file has changed",
                        sent.n_records,
                        records.count()
                    );
                    return None;
                }
                Err(error) => {
                    log::warn!("{subject}: cannot build a batch again: {error}");
                    return None;
                }
            }
        }
        let ends = self.guards_of(offsets).inspect_err(|error| {
            log::warn!("a batch that was built again is not what it was: {error}");
        });
        let ends = ends.ok()?;
        tally.add_to(self.counters);
        for (batch, n_dropped) in tally.dropped_in {
            *self.dropped_in.entry(batch).or_default() += n_dropped;
        }
        Some(Rebuilt { arenas, ends })
    }

    /// Whether all the ground of a batch comes right behind what is before it; `offsets` is what
    /// came before it of each life.
    fn follows(&self, sent: &SentBatch, offsets: &mut HashMap<SourceId, u64>) -> bool {
        sent.ground.iter().all(|segment| {
            let Some(life) = self.lives.get(&segment.source) else {
                return false;
            };
            let is_readable = !life.harvester.is_parked() && life.content == Content::Own;
            let offset = offsets.entry(life.source).or_insert(life.events.event_offset());
            is_readable && std::mem::replace(offset, segment.end) == segment.start
        })
    }

    fn build_batch(&mut self, sent: &SentBatch, tally: &mut Tally) -> io::Result<RecordArena> {
        let n_dropped_before = tally.n_dropped();
        let mut building = Building {
            records: self.spare.pop().unwrap_or_default(),
            timestamp_ms: now_ms(),
            starts: HashMap::new(),
            tally,
        };
        for (at, segment) in sent.ground.iter().enumerate() {
            let mut later = sent.ground[at + 1..].iter();
            let next = later.find(|later| {
                later.rest_of == Some(segment.source) || later.source == segment.source
            });
            let is_start = next.is_some_and(|next| next.rest_of == Some(segment.source));
            let mut life = self.lives.remove(&segment.source).expect("follows() has seen it");
            let built = self.build_segment(&mut life, segment, is_start, &mut building);
            self.lives.insert(life.source, life);
            built?;
        }
        let records = building.records;
        tally.dropped_in.push((sent.batch, tally.n_dropped() - n_dropped_before));
        Ok(records)
    }

    /// Appends the records of a segment. `is_start`: its last event is the first part of one that
    /// another segment ends.
    fn build_segment(
        &mut self,
        life: &mut Life,
        segment: &Segment,
        is_start: bool,
        building: &mut Building<'_>,
    ) -> io::Result<()> {
        let input = Arc::clone(&self.streams[life.stream].input);
        let mut events = EventBuffer::new(segment.start, Limits::of(&input), segment.continued);
        let (mut filter, mut room) = (Filter::default(), Vec::new());
        while events.event_offset() < segment.end {
            let Some(event) = events.peek(&input.multiline) else {
                if life.harvester.read_again(&mut events, segment.end)? == 0 {
                    if events.read_offset() < segment.end {
                        return Err(io::Error::other("the file is shorter than it was"));
                    }
                    events.finish(&input.multiline);
                    if events.peek(&input.multiline).is_none() {
                        return Err(io::Error::other("its ground ends amid an event"));
                    }
                }
                continue;
            };
            if event.is_nuls {
                life.say_nuls(&event);
                building.tally.bytes_nul_skipped += event.end - event.start;
                events.consume();
                continue;
            }
            building.tally.lines_read += u64::from(event.n_lines);
            if life.origin.is_none() {
                let content = events.content(&event).to_vec();
                self.name_life(life, &content);
            }
            if is_start && event.end == segment.end {
                let text = events.text_with_terminator(&event, &mut room).to_vec();
                building.starts.insert(life.source, Start { event, text, filter });
                events.consume();
                continue;
            }
            let Building { records, timestamp_ms, tally, .. } = building;
            let start = segment.rest_of.filter(|_| event.start == segment.start);
            if let Some(first) = start {
                let start = building.starts.remove(&first);
                let Start { event: start, text: mut whole, filter: of_start } =
                    start.ok_or_else(|| io::Error::other(NO_START))?;
                whole.extend_from_slice(events.text(&event, &mut room));
                let both = cut_event::joined(&start, &event);
                let origin = self.lives.get(&first).and_then(|first| first.origin.as_ref());
                let origin = origin.ok_or_else(|| io::Error::other(NO_START))?;
                filter = of_start;
                if filter.passes(&input, &both, &whole) {
                    let file_id = life.file_id.as_deref().expect("named above");
                    let rest = Some(Rest { file_id, length: event.end - event.start });
                    let scratch = &mut self.scratch;
                    origin.encode_with(*timestamp_ms, &both, rest, &whole, scratch, records);
                } else {
                    life.say_filtered(&event);
                    tally.events_filtered += 1;
                    tally.bytes_filtered += (start.end - start.start) + (event.end - event.start);
                }
            } else {
                let origin = life.origin.as_ref().expect("named above");
                let text = events.text(&event, &mut room);
                if filter.passes(&input, &event, text) {
                    origin.encode(*timestamp_ms, &event, text, &mut self.scratch, records);
                } else {
                    life.say_filtered(&event);
                    tally.events_filtered += 1;
                    tally.bytes_filtered += event.end - event.start;
                }
            }
            tally.events_read += 1;
            events.consume();
        }
        building.tally.bytes_read += segment.end - segment.start;
        Ok(())
    }
}

/// Adds the ground of a batch.
fn put_spans(sent: &SentBatch, spans: &mut Vec<Span>) {
    for Segment { source, start, end, .. } in &sent.ground {
        match spans.iter_mut().find(|span| span.source == *source) {
            Some(span) => span.end = *end,
            None => spans.push(Span::new(*source, *start, *end)),
        }
    }
}

/// Batches that were built again.
struct Rebuilt {
    arenas: Vec<RecordArena>,
    /// Where their ground ends in each life, and the bytes right before.
    ends: HashMap<SourceId, (u64, Vec<u8>)>,
}

/// Why a batch with a part of an event cannot be built again.
const NO_START: &str = "the first part of an event that was cut by a rotation is missing";

/// A batch that is being built again.
struct Building<'a> {
    records: RecordArena,
    timestamp_ms: i64,
    /// First parts of events that rotations cut in two, by the life they are the last of.
    starts: HashMap<SourceId, Start>,
    tally: &'a mut Tally,
}

struct Start {
    event: Event,
    /// With its terminator.
    text: Vec<u8>,
    filter: Filter,
}

/// What was read to build batches again, which counts once all of them have come out.
#[derive(Debug, Default)]
struct Tally {
    bytes_read: u64,
    events_read: u64,
    lines_read: u64,
    events_filtered: u64,
    bytes_filtered: u64,
    bytes_nul_skipped: u64,
    /// Bytes of ground without records.
    dropped_in: Vec<(BatchId, u64)>,
}

impl Tally {
    fn n_dropped(&self) -> u64 {
        self.bytes_filtered + self.bytes_nul_skipped
    }

    fn add_to(&self, counters: &TailCounters) {
        counters.bytes_read.add(self.bytes_read);
        counters.events_read.add(self.events_read);
        counters.lines_read.add(self.lines_read);
        counters.events_filtered.add(self.events_filtered);
        counters.bytes_filtered.add(self.bytes_filtered);
        counters.bytes_nul_skipped.add(self.bytes_nul_skipped);
    }
}

/// Moves the offset of what is remembered of a file that cannot be read now over ground that
/// arrived.
fn settle_absent(restored: &mut Restored, of: &Entry, start: u64, end: u64) {
    if let Some(entry) = restored.life_mut(of).filter(|entry| entry.offset == start) {
        entry.guard_end.get_or_insert(entry.offset);
        entry.offset = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_for_the_same_ground_is_told_apart_by_its_bytes() {
        let mut arrived = Arrived::default();
        for (offset, value) in [(0, Some(&b"one"[..])), (4, Some(b"two")), (8, None)] {
            arrived.ranges.insert(offset, offset + 4);
            let value = value.map(|value| (3, crc32c::crc32c(value)));
            arrived.records.insert(offset, Known { length: 4, value });
        }
        let has_another = |text: &[u8], start: u64| {
            let event = Event {
                content: 0..text.len(),
                start,
                end: start + text.len() as u64 + 1,
                n_lines: 1,
                cut: 0,
                continued: false,
                partial: false,
                is_nuls: false,
                flushed: false,
            };
            arrived.has_another(&event, text)
        };
        assert!(!has_another(b"one", 0) && !has_another(b"one\n\tat a.b", 0));
        assert!(has_another(b"ONE", 0) && has_another(b"on", 0) && has_another(b"one more", 0));
        assert!(has_another(b"wo", 5), "amid another");
        assert!(!has_another(b"any", 8), "of two files: only its length is known");
        assert!(has_another(b"more", 8));
        assert!(!has_another(b"new", 12), "behind all of them");
    }

    #[test]
    fn ranges_that_meet_are_one() {
        let mut ranges = Ranges::default();
        for (start, end) in [(10, 20), (30, 40), (20, 30), (50, 60)] {
            ranges.insert(start, end);
        }
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(10, 40), (50, 60)]);
        assert!(ranges.covers(10, 40) && ranges.covers(55, 60));
        assert!(!ranges.covers(9, 11) && !ranges.covers(39, 41) && !ranges.covers(40, 50));
        ranges.insert(0, 100);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(0, 100)]);
    }
}
