//! What happened since the registry was saved.
//!
//! `journal.N` in the state directory, beside `registry.json`, which names the first that belongs
//! to it. A line is a CRC-32C in hexadecimal, a space and a JSON object, appended by one `write`
//! and not fsync'd: the page cache outlives the process, however it ends. Once in
//! `tail.save_interval` the changed entries are appended and the file is fdatasync'd, which is the
//! save; the registry itself is written anew only when the journal has become longer than it.
//!
//! ```text
//! begin    format, host and boot of what follows
//! file     what is remembered of one life of a file, and the number it has in this journal
//! forget   a finished file that is gone
//! sent     a batch leaves: producer id, epoch, sequence, records, and the ground it covers
//! cut      a batch goes in parts: it cannot be built again
//! void     a batch is not open any more: its ground will be in others
//! settled  all of a batch stands in the topic, and where the next record will stand
//! end      the process stopped with everything settled
//! ```
//!
//! A line that cannot be written ends the journal: it is renamed to `journal.N.broken`, and a start
//! that finds it knows that there is more in the topic than it tells.
//!
//! A new journal first repeats what is open, up to a line `carried`, and is fdatasync'd before the
//! registry names it; one that ends before that line was never in use. So a restart knows each
//! batch that was sent and not settled, can build it again from its ground and send it as the same
//! producer (`resume.rs`).
//!
//! What this guarantees:
//!
//! | the process or host ends by | known afterwards | repeats |
//! |---|---|---|
//! | kill, out of memory, panic, upgrade | everything | none: the broker tells what arrived |
//! | power cut | up to the last fdatasync | none: what arrived since is read back from the topic, and held against the files, which may have lost it; one that lost more is held against the topic from an earlier place on (`waymarks.rs`) |
//! | stop, then a power cut | everything | none: a log that has lost its end is held against the topic |
//! | full disk, then a kill | up to the last line that fitted | none: what arrived since is read back from the topic |
//! | neither the broker nor the topic may be asked | the open batches | those, counted |
//!
//! Source: DESIGN 6.4; the broker's part of it is in [`crate::kafka`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::kafka::producer::SendJournal;
use crate::kafka::record_batch::Stamp;
use crate::record::{BatchId, SourceId};
use crate::tail::fingerprint::Inode;
use crate::tail::registry::Entry;
use crate::tail::registry::folder::give_to_owner_of;

const FORMAT: u32 = 1;

/// Ground of one file that is cut into events by itself: events that were ended by something else
/// than the lines that follow stand last in their segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Whose ground.
    pub source: SourceId,
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// Its first event goes on where the one before was cut short.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub continued: bool,
    /// Its first event is no record, but the end of one: that of the last event before it of this
    /// life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest_of: Option<SourceId>,
}

/// A batch that was sealed, as far as another process must know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentBatch {
    /// Its number in the process that sealed it.
    pub batch: BatchId,
    /// Where it goes.
    pub topic: String,
    /// Where it goes.
    pub partition: i32,
    /// Records in it.
    pub n_records: u32,
    /// Under what it went; `None` where it was cut.
    pub stamp: Option<Stamp>,
    /// The ground it covers.
    pub ground: Vec<Segment>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Begin {
        format: u32,
        host: String,
        boot_id: String,
    },
    File {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<SourceId>,
        entry: Box<Entry>,
    },
    Forget {
        inode: Inode,
        btime_ns: Option<i64>,
    },
    Next {
        topic: String,
        partition: i32,
        offset: i64,
    },
    Carried,
    Sent(SentBatch),
    Cut {
        batch: BatchId,
    },
    Void {
        batch: BatchId,
    },
    Settled {
        batch: BatchId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next_offset: Option<i64>,
    },
    End,
}

/// The journal that is being written, shared by the hub and the producer: each appends what only
/// it knows, and what is open is kept beside it for the next journal's head.
#[derive(Debug, Clone)]
pub struct Journal(Arc<Mutex<Open>>);

#[derive(Debug)]
struct Open {
    folder: PathBuf,
    host: String,
    number: u64,
    /// `None` until the first begins.
    file: Option<File>,
    /// Bytes of whole lines in it.
    len: u64,
    /// Lines are missing: only a new journal is whole again.
    broken: bool,
    /// Those that are not settled, and settled ones that a restart would not find by the offsets.
    batches: BTreeMap<BatchId, Known>,
    next_offsets: BTreeMap<(String, i32), i64>,
    /// What is added to those once doubt has ended; `None` where there is none.
    in_doubt: Option<BTreeMap<(String, i32), i64>>,
    /// The next journal is to be without doubt.
    ends_doubt: bool,
    /// The next journal is to be in doubt of what this one is not.
    begins_doubt: bool,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Known {
    sent: SentBatch,
    /// The producer has had it on its way; before, nobody needs to know of it.
    is_sent: bool,
    is_settled: bool,
}

impl Journal {
    /// Returns a journal that is written nowhere before [`Journal::begin`]; its number will be
    /// greater than `last`.
    pub fn new(folder: &Path, host: &str, last: u64) -> Journal {
        Journal(Arc::new(Mutex::new(Open {
            folder: folder.into(),
            host: host.into(),
            number: last,
            file: None,
            len: 0,
            broken: false,
            batches: BTreeMap::new(),
            next_offsets: BTreeMap::new(),
            in_doubt: None,
            ends_doubt: false,
            begins_doubt: false,
            buffer: Vec::new(),
        })))
    }

    /// A panic of one holder aborts the process before the other could see half a line.
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a new journal, whose head repeats the batches that are open; `files` are the lives
    /// they have ground in. Returns its number.
    ///
    /// Errors: the disk's; the journal before is then broken.
    pub fn begin(&self, files: Vec<(SourceId, Entry)>) -> io::Result<u64> {
        self.open().begin(files)
    }

    /// Number of the journal in use.
    pub fn number(&self) -> u64 {
        self.open().number
    }

    /// Bytes in the journal in use.
    pub fn len(&self) -> u64 {
        self.open().len
    }

    /// Tells whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells whether a new one must begin: lines are missing, as after a write that failed, or
    /// doubt has ended or begun.
    pub fn must_begin(&self) -> bool {
        let open = self.open();
        open.broken || open.ends_doubt || open.begins_doubt || open.file.is_none()
    }

    /// Notes, before the first journal begins, that it is still to be found out what an earlier
    /// process had sent: a start that comes before [`Journal::end_doubt`] must begin with that
    /// again, as after a power cut.
    pub fn doubt(&self) {
        self.open().in_doubt = Some(BTreeMap::new());
    }

    /// Notes that it is to be found out what an earlier process had sent to a partition from an
    /// offset on; the next journal says so.
    pub fn doubt_from(&self, topic: &str, partition: i32, offset: i64) {
        let mut open = self.open();
        (open.begins_doubt, open.ends_doubt) = (true, false);
        open.in_doubt.get_or_insert_default();
        let next = open.next_offsets.entry((topic.into(), partition)).or_insert(offset);
        *next = offset.min(*next);
    }

    /// Tells whether doubt has not ended.
    pub fn is_in_doubt(&self) -> bool {
        self.open().in_doubt.is_some()
    }

    /// Notes that it is known what stands in the topic; the next journal says so.
    pub fn end_doubt(&self) {
        self.open().ends_doubt = true;
    }

    /// Returns another handle of the file, to fsync without keeping others from writing, and its
    /// path.
    ///
    /// Errors: the process may open no more files, or no journal has begun.
    pub fn file(&self) -> io::Result<(File, PathBuf)> {
        let open = self.open();
        match &open.file {
            Some(file) => Ok((file.try_clone()?, name(&open.folder, open.number))),
            None => Err(io::Error::other("no journal has begun")),
        }
    }

    /// Notes what is remembered of a life; `source` where batches will have its ground.
    pub fn file_changed(&self, source: Option<SourceId>, entry: Entry) {
        self.open().append(&Line::File { source, entry: Box::new(entry) });
    }

    /// Notes that a finished file is gone.
    pub fn forget(&self, inode: Inode, btime_ns: Option<i64>) {
        self.open().append(&Line::Forget { inode, btime_ns });
    }

    /// Notes a batch that is about to be handed to the producer. Nothing is written before it is
    /// sent.
    pub fn sealed(&self, sent: SentBatch) {
        self.open().batches.insert(sent.batch, Known { sent, is_sent: false, is_settled: false });
    }

    /// Takes over a batch that an earlier process had sent.
    pub fn replayed(&self, batch: ReplayedBatch) {
        let ReplayedBatch { sent, is_settled } = batch;
        self.open().batches.insert(sent.batch, Known { sent, is_sent: true, is_settled });
    }

    /// Returns the lives that open batches have ground in: a new journal must know them.
    pub fn sources(&self) -> BTreeSet<SourceId> {
        let open = self.open();
        let ground = open.batches.values().flat_map(|known| &known.sent.ground);
        ground.map(|segment| segment.source).collect()
    }

    /// Notes ground that needs no sending: it stands in the topic, or a policy has dropped it.
    pub fn passed(&self, batch: BatchId, ground: Vec<Segment>) {
        let (topic, partition) = (String::new(), -1);
        let sent = SentBatch { batch, topic, partition, n_records: 0, stamp: None, ground };
        let mut open = self.open();
        open.append(&Line::Sent(sent.clone()));
        open.append(&Line::Settled { batch, next_offset: None });
        open.batches.insert(batch, Known { sent, is_sent: true, is_settled: true });
    }

    /// Takes back what was noted of a batch: its ground will be in others.
    pub fn void(&self, batch: BatchId) {
        let mut open = self.open();
        open.batches.remove(&batch);
        open.append(&Line::Void { batch });
    }

    /// Notes that all of a batch is settled; `next_offset` is the offset behind it in its
    /// partition, where that is known.
    pub fn settled(&self, batch: BatchId, next_offset: Option<i64>) {
        let mut open = self.open();
        let told = next_offset.filter(|_| open.in_doubt.is_none());
        open.append(&Line::Settled { batch, next_offset: told });
        let Some(known) = open.batches.get_mut(&batch) else {
            return;
        };
        known.is_settled = true;
        if let Some(offset) = next_offset {
            let partition = (known.sent.topic.clone(), known.sent.partition);
            open.note_next_offset(partition, offset);
        }
        // One behind a batch that is open is not found by the offsets yet.
        while let Some(first) = open.batches.first_entry()
            && first.get().is_settled
            && first.get().sent.n_records > 0
        {
            first.remove();
        }
    }

    /// Notes how far a partition is known to hold nothing of ours that is not settled.
    pub fn next_offset(&self, topic: &str, partition: i32, offset: i64) {
        self.open().note_next_offset((topic.into(), partition), offset);
    }

    /// Returns the offset behind our last record in a partition, -1 where none is known.
    pub fn next_offset_of(&self, topic: &str, partition: i32) -> i64 {
        self.open().next_offsets.get(&(topic.into(), partition)).copied().unwrap_or(-1)
    }

    /// Takes the journal for broken: what is on disk of it is not known.
    pub fn give_up(&self) {
        self.open().break_off();
    }

    /// Notes that the process ends with everything settled.
    pub fn end(&self) {
        self.open().append(&Line::End);
    }

    /// Removes journals that the registry does not need any more.
    pub fn remove_before(&self, number: u64) {
        let folder = self.open().folder.clone();
        for old in journals(&folder).range(..number).map(|(_, path)| path) {
            // One that stays is removed with the next save, and is not read at a start.
            let _ = fs::remove_file(old);
        }
    }
}

impl SendJournal for Journal {
    fn sent(&mut self, batch: BatchId, n_records: u32, stamp: Stamp) {
        let mut open = self.open();
        let Some(Known { sent, is_sent, .. }) = open.batches.get_mut(&batch) else {
            return;
        };
        *is_sent = true;
        assert_eq!(sent.n_records, n_records, "a batch that is not cut keeps its records");
        sent.stamp = Some(stamp);
        let line = Line::Sent(sent.clone());
        open.append(&line);
    }

    fn cut(&mut self, batch: BatchId) {
        let mut open = self.open();
        if let Some(known) = open.batches.get_mut(&batch) {
            known.sent.stamp = None;
        }
        open.append(&Line::Cut { batch });
    }
}

impl Open {
    fn note_next_offset(&mut self, partition: (String, i32), offset: i64) {
        let offsets = self.in_doubt.as_mut().unwrap_or(&mut self.next_offsets);
        offsets.insert(partition, offset);
    }

    fn begin(&mut self, files: Vec<(SourceId, Entry)>) -> io::Result<u64> {
        self.write_new(files).inspect_err(|_| self.break_off())
    }

    fn write_new(&mut self, files: Vec<(SourceId, Entry)>) -> io::Result<u64> {
        let has_doubt = self.in_doubt.is_some() && !self.ends_doubt;
        // Of no boot, as if the host had been started again since.
        let boot_id = if has_doubt { "in doubt".into() } else { boot_id() };
        let mut next_offsets = self.next_offsets.clone();
        if !has_doubt {
            next_offsets.extend(self.in_doubt.clone().unwrap_or_default());
        }
        let mut head = Vec::new();
        put(&mut head, &Line::Begin { format: FORMAT, host: self.host.clone(), boot_id })?;
        let offsets: HashMap<SourceId, u64> =
            files.iter().map(|(source, entry)| (*source, entry.offset)).collect();
        let is_past = |segment: &Segment| {
            offsets.get(&segment.source).is_none_or(|offset| segment.end <= *offset)
        };
        self.batches.retain(|_, known| !known.is_settled || !known.sent.ground.iter().all(is_past));
        for (source, entry) in files {
            put(&mut head, &Line::File { source: Some(source), entry: Box::new(entry) })?;
        }
        for ((topic, partition), offset) in &next_offsets {
            let (topic, partition, offset) = (topic.clone(), *partition, *offset);
            put(&mut head, &Line::Next { topic, partition, offset })?;
        }
        for (batch, known) in self.batches.iter().filter(|(_, known)| known.is_sent) {
            put(&mut head, &Line::Sent(known.sent.clone()))?;
            if known.is_settled {
                put(&mut head, &Line::Settled { batch: *batch, next_offset: None })?;
            }
        }
        put(&mut head, &Line::Carried)?;
        let number = self.number + 1;
        let path = name(&self.folder, number);
        // One of a number that was never in use: the rest of a try that failed.
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .and_then(|file| file.set_len(0).map(|()| file))?;
        give_to_owner_of(&self.folder, &file)?;
        if let Err(error) = file.write_all(&head) {
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        self.len = head.len() as u64;
        self.file = Some(file);
        self.number = number;
        self.broken = false;
        self.begins_doubt = false;
        if !has_doubt {
            (self.in_doubt, self.ends_doubt) = (None, false);
            self.next_offsets = next_offsets;
        }
        Ok(number)
    }

    fn append(&mut self, line: &Line) {
        let Some(file) = self.file.as_mut().filter(|_| !self.broken) else { return };
        self.buffer.clear();
        let written = put(&mut self.buffer, line).and_then(|()| file.write_all(&self.buffer));
        match written {
            Ok(()) => self.len += self.buffer.len() as u64,
            Err(error) => {
                log::error!(
                    "cannot append to {}: {error}; shipping goes on, and after a crash it is \
                     found out from the topic what had arrived",
                    name(&self.folder, self.number).display()
                );
                self.break_off();
            }
        }
    }

    /// Ends the journal before its time. Nothing is appended any more: behind a gap in it, offsets
    /// would lie that a restart must not read back from.
    fn break_off(&mut self) {
        self.broken = true;
        let path = name(&self.folder, self.number);
        match fs::rename(&path, broken(&path)) {
            Ok(()) => {}
            // It was before, or has not begun, or was taken away with its folder.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => log::warn!(
                "cannot mark {} as broken: {error}; after a crash now, what was sent last is sent \
                 again",
                path.display()
            ),
        }
    }
}

fn put(out: &mut Vec<u8>, line: &Line) -> io::Result<()> {
    let start = out.len();
    out.extend_from_slice(b"00000000 ");
    serde_json::to_writer(&mut *out, line)?;
    let crc = crc32c::crc32c(&out[start + 9..]);
    out[start..start + 8].copy_from_slice(format!("{crc:08x}").as_bytes());
    out.push(b'\n');
    Ok(())
}

fn name(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("journal.{number}"))
}

/// Returns the name of a journal of which lines are missing.
fn broken(name: &Path) -> PathBuf {
    let mut broken = name.as_os_str().to_owned();
    broken.push(format!(".{BROKEN}"));
    broken.into()
}

const BROKEN: &str = "broken";

/// Returns all journals that are there, by number.
fn journals(folder: &Path) -> BTreeMap<u64, PathBuf> {
    let Ok(files) = fs::read_dir(folder) else {
        return BTreeMap::new();
    };
    let paths = files.flatten().map(|file| file.path());
    let number = |path: &Path| -> Option<u64> {
        let name = path.file_name()?.to_str()?.strip_prefix("journal.")?;
        let number = name.strip_suffix(BROKEN).and_then(|name| name.strip_suffix('.'));
        number.unwrap_or(name).parse().ok()
    };
    paths.filter_map(|path| Some((number(&path)?, path))).collect()
}

/// Changes with each start of the host; empty where the kernel does not say.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().into()
}

fn last(journals: &BTreeMap<u64, PathBuf>) -> u64 {
    journals.last_key_value().map_or(0, |(number, _)| *number)
}

/// Begins a journal that tells of nothing, for a registry that is to count alone; returns its
/// number.
///
/// Errors: the disk's.
pub fn begin_anew(folder: &Path, host: &str) -> io::Result<u64> {
    let last = last(&journals(folder));
    let journal = Journal::new(folder, host, last);
    let number = journal.begin(Vec::new())?;
    journal.end();
    Ok(number)
}

/// Makes sure that what was appended to a journal survives a power cut, and can be found.
///
/// Errors: the disk's; another file, or none, is where the journal was.
pub fn sync(file: &File, path: &Path) -> io::Result<()> {
    file.sync_data()?;
    let there = fs::metadata(path).or_else(|_| fs::metadata(broken(path)))?;
    let ours = file.metadata()?;
    if (ours.dev(), ours.ino()) != (there.dev(), there.ino()) {
        return Err(io::Error::other("the state directory is not the one it was"));
    }
    Ok(())
}

/// What the journals say about the time since the registry was saved.
#[derive(Debug, Default)]
pub struct Replay {
    /// Number of the first journal that the registry needs, 0 where it needs none.
    pub first: u64,
    /// Number of the last journal that is there.
    pub last: u64,
    /// Batches that were sent and not settled, and settled ones behind them, in order.
    pub batches: Vec<ReplayedBatch>,
    /// The lives their ground is of.
    pub sources: HashMap<SourceId, Entry>,
    /// Offsets behind our last record that is known, by topic and partition.
    pub next_offsets: BTreeMap<(String, i32), i64>,
    /// What was sent last may be missing here: the topic must be read back.
    pub is_incomplete: bool,
    /// The host was started again, perhaps after a power cut: files may hold less than what was
    /// shipped of them, or other bytes. `sources` and the entries are as they were last saved, with
    /// their guards, and batches that were settled since are left out.
    pub is_rebooted: bool,
    /// The host was started again, though the last process may have ended well before.
    pub is_other_boot: bool,
}

/// A batch of an earlier process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayedBatch {
    /// What was noted of it.
    pub sent: SentBatch,
    /// All of it stands in the topic.
    pub is_settled: bool,
}

/// Reads the journals from number `first` on and brings `entries` up to date.
///
/// Reading ends at the first line that is not whole: it was being written when the process or the
/// host ended. A journal of another host is left alone.
pub fn replay(folder: &Path, host: &str, first: u64, entries: &mut Vec<Entry>) -> Replay {
    let there = journals(folder);
    let mut replay = Replay { first, last: last(&there), ..Replay::default() };
    let mut state = State::new(std::mem::take(entries));
    let mut was_ended = first == 0;
    let mut boot = None;
    let mut is_missing = first > 0;
    // What was known of the partitions when the first of them broke.
    let mut at_gap = None;
    for (number, path) in there.range(first.max(1)..) {
        let bytes = fs::read(path).unwrap_or_default();
        let lines: Vec<Line> = lines(&bytes).collect();
        let Some(Line::Begin { format: FORMAT, host: of, boot_id }) = lines.first() else {
            continue;
        };
        if of != host || !lines.iter().any(|line| matches!(line, Line::Carried)) {
            continue;
        }
        is_missing &= *number != first;
        boot = Some(boot_id.clone());
        was_ended = matches!(lines.last(), Some(Line::End));
        state.begin();
        lines.into_iter().for_each(|line| state.take(line));
        if path.extension().is_some_and(|extension| extension == BROKEN) {
            at_gap.get_or_insert_with(|| state.next_offsets.clone());
        }
    }
    if is_missing {
        at_gap = Some(BTreeMap::new());
    }
    // Only a power cut leaves one that the registry needs without its head.
    let is_headless = is_missing && there.contains_key(&first);
    replay.is_other_boot = is_headless || boot.is_some_and(|boot| boot != boot_id());
    replay.is_rebooted = replay.is_other_boot && !was_ended;
    replay.is_incomplete = replay.is_rebooted || at_gap.is_some();
    if replay.is_rebooted {
        state.go_back();
    }
    for (partition, offset) in state.next_offsets.iter_mut().filter(|_| at_gap.is_some()) {
        let known = at_gap.as_ref().and_then(|known| known.get(partition)).copied();
        *offset = known.unwrap_or(-1).min(*offset);
    }
    state.finish(&mut replay, entries);
    replay
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = Line> {
    bytes.split_inclusive(|byte| *byte == b'\n').map_while(|line| {
        let line = line.strip_suffix(b"\n")?;
        let (crc, json) = line.split_at_checked(9)?;
        let crc = std::str::from_utf8(crc).ok()?.trim_end();
        let is_whole = u32::from_str_radix(crc, 16) == Ok(crc32c::crc32c(json));
        is_whole.then(|| serde_json::from_slice(json).ok())?
    })
}

type FileKey = (Inode, Option<i64>);

fn key(entry: &Entry) -> FileKey {
    (entry.inode, entry.btime_ns)
}

/// What the lines read so far come to.
struct State {
    entries: HashMap<FileKey, Entry>,
    sources: HashMap<SourceId, Entry>,
    batches: BTreeMap<BatchId, ReplayedBatch>,
    next_offsets: BTreeMap<(String, i32), i64>,
    /// Where settled batches begin in their partitions.
    base_offsets: HashMap<BatchId, i64>,
    /// Where the first settled batch begins, in each partition, whose ground no entry was saved
    /// behind.
    unsaved_from: BTreeMap<(String, i32), i64>,
}

impl State {
    fn new(entries: Vec<Entry>) -> State {
        State {
            entries: entries.into_iter().map(|entry| (key(&entry), entry)).collect(),
            sources: HashMap::new(),
            batches: BTreeMap::new(),
            next_offsets: BTreeMap::new(),
            base_offsets: HashMap::new(),
            unsaved_from: BTreeMap::new(),
        }
    }

    fn note_unsaved(&mut self) {
        for (id, batch) in &self.batches {
            let is_saved = |segment: &Segment| {
                let entry = self.sources.get(&segment.source);
                // A file that cannot be read any more is saved with the guard that it had.
                entry.is_some_and(|entry| segment.end <= entry.guard_end.unwrap_or(entry.offset))
            };
            if !batch.is_settled || batch.sent.ground.iter().all(is_saved) {
                continue;
            }
            if let Some(base) = self.base_offsets.get(id) {
                let partition = (batch.sent.topic.clone(), batch.sent.partition);
                let from = self.unsaved_from.entry(partition).or_insert(*base);
                *from = (*from).min(*base);
            }
        }
    }

    /// Leaves out what was settled since a life was last saved, so that it is read back and
    /// compared with what the file holds now.
    fn go_back(&mut self) {
        self.note_unsaved();
        for (partition, from) in std::mem::take(&mut self.unsaved_from) {
            let next = self.next_offsets.entry(partition).or_insert(from);
            *next = (*next).min(from);
        }
        self.batches.retain(|_, batch| !batch.is_settled);
        for entry in self.entries.values_mut().chain(self.sources.values_mut()) {
            entry.offset = entry.guard_end.take().unwrap_or(entry.offset);
        }
    }

    /// The head of a journal repeats what is open, under the numbers of its own process.
    fn begin(&mut self) {
        self.note_unsaved();
        self.settle();
        self.sources.clear();
        self.batches.clear();
        self.base_offsets.clear();
    }

    fn take(&mut self, line: Line) {
        match line {
            Line::Begin { .. } | Line::Carried | Line::End => {}
            Line::File { source, entry } => {
                if let Some(source) = source {
                    self.sources.insert(source, (*entry).clone());
                }
                self.entries.insert(key(&entry), *entry);
            }
            Line::Forget { inode, btime_ns } => {
                self.entries.remove(&(inode, btime_ns));
            }
            Line::Next { topic, partition, offset } => {
                self.next_offsets.insert((topic, partition), offset);
            }
            Line::Sent(sent) => {
                self.batches.insert(sent.batch, ReplayedBatch { sent, is_settled: false });
            }
            Line::Cut { batch } => {
                if let Some(batch) = self.batches.get_mut(&batch) {
                    batch.sent.stamp = None;
                }
            }
            Line::Void { batch } => {
                self.batches.remove(&batch);
            }
            Line::Settled { batch, next_offset } => {
                if let Some(batch) = self.batches.get_mut(&batch) {
                    batch.is_settled = true;
                    if let Some(offset) = next_offset {
                        let partition = (batch.sent.topic.clone(), batch.sent.partition);
                        self.next_offsets.insert(partition, offset);
                        let base = (offset - i64::from(batch.sent.n_records)).max(0);
                        self.base_offsets.insert(batch.sent.batch, base);
                    }
                }
            }
        }
    }

    /// Moves the offsets of entries over settled ground and lets go of batches that lie before
    /// them.
    fn settle(&mut self) {
        let mut stopped = BTreeSet::new();
        for batch in self.batches.values() {
            for segment in &batch.sent.ground {
                let Some(entry) = self.sources.get_mut(&segment.source) else {
                    continue;
                };
                let follows = segment.start <= entry.offset && !stopped.contains(&segment.source);
                if !batch.is_settled || !follows {
                    stopped.insert(segment.source);
                } else if segment.end > entry.offset {
                    entry.offset = segment.end;
                }
            }
        }
        for entry in self.sources.values() {
            // A file that was truncated since is another life, with an entry of its own.
            if let Some(known) = self.entries.get_mut(&key(entry))
                && known.life == entry.life
                && known.offset < entry.offset
            {
                known.guard_end.get_or_insert(known.offset);
                known.offset = match known.spent {
                    // What lies behind the copy's end was read of the original.
                    true => entry.offset.min(known.size.max(known.offset)),
                    false => entry.offset,
                };
            }
        }
        self.batches.retain(|_, batch| {
            let sources = &self.sources;
            let is_past = |segment: &Segment| {
                sources.get(&segment.source).is_none_or(|entry| segment.end <= entry.offset)
            };
            !batch.is_settled || !batch.sent.ground.iter().all(is_past)
        });
    }

    fn finish(mut self, replay: &mut Replay, entries: &mut Vec<Entry>) {
        self.settle();
        entries.extend(self.entries.into_values());
        entries.sort_by(|a, b| (&a.path, a.inode.ino, a.life).cmp(&(&b.path, b.inode.ino, b.life)));
        replay.sources = self.sources;
        replay.batches = self.batches.into_values().collect();
        replay.next_offsets = self.next_offsets;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tail::fingerprint::Checksum;
    use crate::tail::registry::StoredPath;

    const TOPIC: &str = "logs";

    fn entry(ino: u64, offset: u64) -> Entry {
        let path = StoredPath::from(Path::new("/l/server.log"));
        Entry {
            path: path.clone(),
            name: path,
            inode: Inode { dev: 1, ino },
            btime_ns: Some(5),
            mtime_ns: 6,
            life: 0,
            file_id: Some(format!("{ino}")),
            head: Checksum::of(b"head"),
            offset,
            guard: Checksum::of(b"guard"),
            guard_end: None,
            waymarks: Vec::new(),
            done: false,
            gzipped: false,
            spent: false,
            size: offset,
            first_seen_ms: 7,
            last_seen_ms: 8,
            missed_since_ms: None,
        }
    }

    fn ground(source: u32, start: u64, end: u64) -> Segment {
        Segment { source: SourceId(source), start, end, continued: false, rest_of: None }
    }

    fn stamp(base_sequence: i32) -> Stamp {
        Stamp { producer_id: 9, epoch: 0, base_sequence }
    }

    /// Seals and sends a batch of ten records.
    fn send(journal: &mut Journal, batch: u64, base_sequence: i32, ground: &[Segment]) {
        journal.sealed(SentBatch {
            batch: BatchId(batch),
            topic: TOPIC.into(),
            partition: 0,
            n_records: 10,
            stamp: None,
            ground: ground.to_vec(),
        });
        journal.sent(BatchId(batch), 10, stamp(base_sequence));
    }

    /// A journal that has begun with one file, of which 100 bytes are settled.
    fn begun(folder: &Path) -> Journal {
        let journal = Journal::new(folder, "h", 0);
        journal.begin(Vec::new()).expect("begun");
        journal.file_changed(Some(SourceId(0)), entry(1, 100));
        journal
    }

    fn replayed(folder: &Path, first: u64) -> (Replay, Vec<Entry>) {
        let mut entries = Vec::new();
        let replay = replay(folder, "h", first, &mut entries);
        entries.sort_by_key(|entry| entry.inode.ino);
        (replay, entries)
    }

    fn open_batches(replay: &Replay) -> Vec<(u64, Option<i32>)> {
        let open = replay.batches.iter().filter(|batch| !batch.is_settled);
        let of = |batch: &ReplayedBatch| {
            (batch.sent.batch.0, batch.sent.stamp.map(|stamp| stamp.base_sequence))
        };
        open.map(of).collect()
    }

    #[test]
    fn settled_ground_moves_the_offset_and_open_batches_are_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = begun(folder.path());
        send(&mut journal, 0, 0, &[ground(0, 100, 200)]);
        send(&mut journal, 1, 10, &[ground(0, 200, 300)]);
        send(&mut journal, 2, 20, &[ground(0, 300, 400)]);
        journal.settled(BatchId(0), Some(4711));

        let (replay, entries) = replayed(folder.path(), 1);
        // The guard is still of the bytes that were hashed.
        assert_eq!(entries, [Entry { offset: 200, guard_end: Some(100), ..entry(1, 100) }]);
        assert_eq!(open_batches(&replay), [(1, Some(10)), (2, Some(20))]);
        assert_eq!(replay.next_offsets[&(TOPIC.to_string(), 0)], 4711);
        assert!(!replay.is_incomplete);
        assert_eq!(replay.last, 1);
    }

    #[test]
    fn ground_settled_behind_an_open_batch_is_kept_until_the_offset_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = begun(folder.path());
        send(&mut journal, 0, 0, &[ground(0, 100, 200)]);
        send(&mut journal, 1, 10, &[ground(0, 200, 300)]);
        journal.settled(BatchId(1), None);
        for first in [1, 2] {
            let (replay, entries) = replayed(folder.path(), first);
            assert_eq!(entries[0].offset, 100);
            let settled = |batch: &ReplayedBatch| (batch.sent.batch.0, batch.is_settled);
            assert_eq!(
                replay.batches.iter().map(settled).collect::<Vec<_>>(),
                [(0, false), (1, true)]
            );
            journal.begin(vec![(SourceId(0), entry(1, 100))]).expect("the next journal");
        }
        journal.settled(BatchId(0), None);
        let (replay, entries) = replayed(folder.path(), 3);
        assert_eq!((entries[0].offset, replay.batches.len()), (300, 0));
    }

    #[test]
    fn the_next_journal_says_all_that_is_open_and_one_that_is_not_whole_says_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = begun(folder.path());
        send(&mut journal, 0, 0, &[ground(0, 100, 200)]);
        send(&mut journal, 1, 10, &[ground(0, 200, 300)]);
        journal.settled(BatchId(0), None);
        let before = replayed(folder.path(), 1);
        assert_eq!(journal.begin(vec![(SourceId(0), entry(1, 200))]).expect("begun"), 2);
        // The registry still names the first, or already the second.
        for first in [1, 2] {
            let (replay, entries) = replayed(folder.path(), first);
            assert_eq!(entries[0].offset, 200);
            assert_eq!(open_batches(&replay), [(1, Some(10))]);
        }
        let path = name(folder.path(), 2);
        let whole = fs::read(&path).expect("read");
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).expect("written");
            let (replay, entries) = replayed(folder.path(), 1);
            assert_eq!((&entries, &replay.batches), (&before.1, &before.0.batches), "{len}");
        }
    }

    #[test]
    fn a_line_that_is_not_whole_ends_what_is_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = begun(folder.path());
        let mut ends = Vec::new();
        for n in 0..5 {
            let start = 100 + 10 * n;
            send(&mut journal, n, 10 * n as i32, &[ground(0, start, start + 10)]);
            journal.settled(BatchId(n), None);
            ends.push(journal.len());
        }
        let path = name(folder.path(), 1);
        let whole = fs::read(&path).expect("read");
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            for damaged in [&whole[..at], &flipped] {
                fs::write(&path, damaged).expect("written");
                let (_, entries) = replayed(folder.path(), 1);
                let n_whole = ends.iter().filter(|end| **end <= at as u64).count() as u64;
                let offset = entries.first().map_or(100, |entry| entry.offset);
                assert_eq!(offset, 100 + 10 * n_whole, "byte {at}");
            }
        }
    }

    #[test]
    fn a_batch_that_was_cut_has_no_stamp_and_a_void_one_is_not_open() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = begun(folder.path());
        send(&mut journal, 0, 0, &[ground(0, 100, 200)]);
        send(&mut journal, 1, 10, &[ground(0, 200, 300)]);
        journal.cut(BatchId(0));
        journal.void(BatchId(1));
        assert_eq!(open_batches(&replayed(folder.path(), 1).0), [(0, None)]);
    }

    #[test]
    fn of_a_copy_that_ends_early_nothing_behind_its_end_is_remembered() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = begun(folder.path());
        let copy = Entry { spent: true, size: 150, ..entry(1, 100) };
        journal.file_changed(Some(SourceId(0)), copy.clone());
        send(&mut journal, 0, 0, &[ground(0, 100, 200)]);
        journal.settled(BatchId(0), None);
        let (_, entries) = replayed(folder.path(), 1);
        assert_eq!(entries, [Entry { offset: 150, guard_end: Some(100), ..copy }]);
    }

    #[test]
    fn finished_files_come_and_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = begun(folder.path());
        journal.file_changed(None, entry(2, 50));
        journal.file_changed(None, entry(3, 60));
        journal.forget(entry(2, 50).inode, Some(5));
        let inodes: Vec<u64> =
            replayed(folder.path(), 1).1.iter().map(|entry| entry.inode.ino).collect();
        assert_eq!(inodes, [1, 3]);
    }

    /// Makes a journal that of another boot.
    fn reboot(path: &Path) {
        let text = fs::read_to_string(path).expect("read");
        let mut bytes = Vec::new();
        let begin = Line::Begin { format: FORMAT, host: "h".into(), boot_id: "another".into() };
        put(&mut bytes, &begin).expect("written");
        let rest = text.split_once('\n').expect("lines").1;
        fs::write(path, [&bytes, rest.as_bytes()].concat()).expect("written");
    }

    #[test]
    fn after_a_power_cut_all_is_read_back_that_was_settled_since_the_registry_was_saved() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = begun(folder.path());
        send(&mut journal, 0, 0, &[ground(0, 100, 200)]);
        journal.settled(BatchId(0), Some(4711));
        send(&mut journal, 1, 10, &[ground(0, 200, 300)]);
        journal.settled(BatchId(1), Some(4800));
        journal.begin(Vec::new()).expect("the next journal");
        reboot(&name(folder.path(), 1));
        reboot(&name(folder.path(), 2));
        let check = |first, next_offset| {
            let (replay, entries) = replayed(folder.path(), first);
            assert!(replay.is_rebooted);
            assert_eq!(replay.next_offsets[&(TOPIC.to_string(), 0)], next_offset);
            assert!(entries.iter().all(|entry| entry.offset == 100), "{entries:?}");
        };
        check(1, 4701);
        check(2, 4800);

        let unreadable = Entry { guard_end: Some(100), ..entry(1, 300) };
        let mut journal = begun(folder.path());
        send(&mut journal, 0, 0, &[ground(0, 100, 200)]);
        journal.settled(BatchId(0), Some(4711));
        journal.file_changed(Some(SourceId(0)), unreadable);
        reboot(&name(folder.path(), 1));
        check(1, 4701);
    }

    #[test]
    fn what_may_be_missing_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = begun(folder.path());
        let path = name(folder.path(), 1);
        assert!(!replayed(folder.path(), 1).0.is_incomplete);
        reboot(&path);
        assert!(replayed(folder.path(), 1).0.is_incomplete, "the host was started again");
        journal.end();
        let ended = replayed(folder.path(), 1).0;
        assert!(!ended.is_incomplete && !ended.is_rebooted, "after it had ended well");
        assert!(ended.is_other_boot, "files may have lost their ends since");
        fs::write(&path, "").expect("emptied");
        let without_head = replayed(folder.path(), 1).0;
        assert!(without_head.is_incomplete && without_head.is_rebooted);
        fs::remove_file(&path).expect("removed");
        let gone = replayed(folder.path(), 1).0;
        assert!(gone.is_incomplete && !gone.is_rebooted);
        assert!(!replayed(folder.path(), 0).0.is_incomplete, "there never was one");
    }

    #[test]
    fn a_broken_journal_takes_no_more_and_is_known_as_such_until_the_registry_needs_it_no_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut journal = begun(folder.path());
        send(&mut journal, 0, 0, &[ground(0, 100, 200)]);
        journal.settled(BatchId(0), Some(10));
        journal.give_up();
        send(&mut journal, 1, 10, &[ground(0, 200, 300)]);
        journal.settled(BatchId(1), Some(20));
        assert!(journal.must_begin());
        let check = |first, is_incomplete, offset, next_offset| {
            let (replay, entries) = replayed(folder.path(), first);
            assert_eq!(replay.is_incomplete, is_incomplete, "from {first}");
            assert_eq!(entries[0].offset, offset, "from {first}");
            assert_eq!(replay.next_offsets[&(TOPIC.to_string(), 0)], next_offset, "from {first}");
        };
        check(1, true, 200, 10);
        assert_eq!(journal.begin(vec![(SourceId(0), entry(1, 300))]).expect("begun"), 2);
        check(1, true, 300, 10);
        check(2, false, 300, 20);
        journal.remove_before(2);
        assert_eq!(journals(folder.path()).into_keys().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn the_journal_of_another_host_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        begun(folder.path());
        let mut entries = vec![entry(7, 1)];
        replay(folder.path(), "other", 0, &mut entries);
        assert_eq!(entries, [entry(7, 1)]);
    }
}
