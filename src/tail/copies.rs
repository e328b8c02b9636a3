//! Copies of files that are truncated behind them, as `copytruncate` of logrotate makes them.
//!
//! The copy comes first and the truncation after it, so a copy is seen in three ways: before the
//! truncation, after it, and at the start, if the shipper was stopped. In each way the life of the
//! truncated file goes on in the copy, where it stands byte for byte: what was written between the
//! last read and the copy is shipped from there, before the file's new bytes, and nothing of the
//! copy is shipped twice.
//!
//! Equal heads alone make no copy, for many logs begin with the same banner. A copy is a file
//! beside the original, under the name of a rotation, born after it, that holds its head and the
//! bytes right before the read offset at their place, or, where it ends before that, others that
//! were read. Of a file of which nothing was read the head alone is enough: whichever it is, it is
//! read once, from its first byte. Anything else is a file of its own.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::discover::{self, Found};
use super::files::{Begin, Place, fits};
use super::fingerprint::{Checksum, HEAD_BYTES_MAX, Inode, Stat, read_range};
use super::folders::list_at_rest;
use super::gzip::{self, Survey};
use super::gzipped::{guard_end, gzipped_entry, is_held_by};
use super::harvester::{Harvester, Look};
use super::registry::{Entry, StoredPath};
use super::{Content, Hub, Life, Phase};
use crate::record::SourceId;

/// Shortest time for which a newcomer that may be a copy waits for the truncation behind it: a
/// rotation truncates as soon as it has copied.
const HOLD: Duration = Duration::from_secs(1);

/// Looks for a copy in a folder whose names change, at most.
const LOOKS_MAX: usize = 5;

/// Time in which a file that was found is not copied and truncated.
const FRESH: Duration = Duration::from_millis(50);
/// How long a file may wait for a look that no other name comes before: in a folder where names
/// come all the time there is none.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// A newcomer that holds nothing but what its stream's current file begins with.
#[derive(Debug)]
pub(super) struct Held {
    /// The life it may be a copy of.
    pub(super) source: SourceId,
    /// Up to here its bytes have been compared.
    size: u64,
    grown_at: Instant,
}

/// A copy of a truncated file, and whether there is more in it than was read.
struct Copy {
    name: PathBuf,
    harvester: Harvester,
    /// Its head, where it cannot be read again at little cost.
    head: Checksum,
    content: Content,
}

impl Hub<'_> {
    /// Tells whether a newcomer is to be left alone for now, for it may be the copy of a file
    /// that is about to be truncated, or the truncation has not been acted on.
    pub(super) fn is_held(&mut self, stream: usize, found: &Found, file: &File) -> bool {
        let Some(source) = self.in_place(stream) else {
            return false;
        };
        let life = &self.lives[&source];
        let stat = &found.stat;
        if *found.path == *life.name || !is_born_after(stat, life.harvester.stat()) {
            return false;
        }
        if self.awaits_truncation(stream) {
            return true;
        }
        let original = discover::open(&self.lives[&source].name);
        if !original.is_ok_and(|(original, _)| holds_start_of(file, stat.size, &original)) {
            // It may have been truncated between the two looks.
            if self.awaits_truncation(stream) {
                return true;
            }
            self.held.remove(&stat.inode);
            return false;
        }
        self.hold(source, found)
    }

    /// Tells whether what a stream's path names was truncated, and this has not been acted on:
    /// whether a newcomer is its copy is found out in its turn.
    pub(super) fn awaits_truncation(&mut self, stream: usize) -> bool {
        let Some(source) = self.in_place(stream) else {
            return false;
        };
        let can_send = self.streams[stream].slot.is_some_and(|slot| self.can_send(slot));
        let life = self.lives.get_mut(&source).expect("lives of queues are open");
        let look = match life.harvester.is_parked() {
            true => life.stat_now().map(|now| match now.size < life.events.read_offset() {
                true => Look::Replaced,
                false => Look::Same,
            }),
            false => life.look(),
        };
        if !matches!(look, Ok(Look::Replaced)) {
            return false;
        }
        // One that has a name was read by an earlier process.
        let is_unread = life.events.read_offset() == 0 && life.file_id.is_none();
        let has_turns = life.phase == Phase::Reading && can_send;
        if is_unread && !has_turns {
            // Its copies are files of their own then, and opened before they are gone.
            life.note_head();
            return false;
        }
        self.enqueue(source);
        true
    }

    /// Holds a newcomer until it has not grown for a while.
    fn hold(&mut self, source: SourceId, found: &Found) -> bool {
        let now = Instant::now();
        let size = found.stat.size;
        let held = self.held.entry(found.stat.inode).or_insert_with(|| {
            log::info!("file held: name={} may be a copy", found.path.display());
            Held { source, size, grown_at: now }
        });
        if (held.source, held.size) != (source, size) {
            *held = Held { source, size, grown_at: now };
        }
        self.lives.get_mut(&source).expect("lives of queues are open").note_head();
        // One that no pattern leads to holds nothing that is not read where a pattern leads.
        found.is_sibling || now < held.grown_at + self.config.tail.rotate_grace.max(HOLD)
    }

    /// Returns the life that its stream's path names.
    pub(super) fn in_place(&self, stream: usize) -> Option<SourceId> {
        let queue = &self.streams[stream].queue;
        queue.iter().rev().copied().find(|source| !self.lives[source].rotated)
    }

    /// Acts on a file that is not any more what was read of it: its life goes on in its copy, if
    /// there is one, and else ends with what was read.
    pub(super) fn on_truncated(&mut self, source: SourceId, n_unread: u64) {
        match self.copy_of(source) {
            Some(copy) => self.move_to_copy(source, copy),
            None => {
                self.counters.bytes_lost.add(n_unread);
                let life = self.lives.get_mut(&source).expect("the life had its turn");
                life.content = Content::Replaced;
                life.at_end = true;
            }
        }
        self.enqueue(source);
    }

    fn copy_of(&self, source: SourceId) -> Option<Copy> {
        let life = &self.lives[&source];
        let path: &Path = &self.streams[life.stream].path;
        if life.rotated || *life.name != *path {
            return None;
        }
        let folder = path.parent()?;
        for _ in 0..LOOKS_MAX {
            let files = list_at_rest(folder).ok()?;
            let names = |files: &[(PathBuf, Stat)]| -> Vec<(PathBuf, Inode)> {
                files.iter().map(|(name, stat)| (name.clone(), stat.inode)).collect()
            };
            let seen = names(&files);
            let copy = self.copy_among(source, files);
            // One that was renamed meanwhile may have been missed.
            if copy.is_some() || discover::list(folder).is_ok_and(|files| names(&files) == seen) {
                return copy;
            }
        }
        None
    }

    fn copy_among(&self, source: SourceId, files: Vec<(PathBuf, Stat)>) -> Option<Copy> {
        let life = &self.lives[&source];
        let path: &Path = &self.streams[life.stream].path;
        files.into_iter().find_map(|(name, stat)| {
            // A copy may be written over the one before.
            let is_new = !self.by_inode.contains_key(&stat.inode)
                && self.finished.get(&stat.key()).is_none_or(|file| !file.is_unchanged(&stat));
            let is_candidate = is_new
                && name != *path
                && discover::written_under(&name) == *path
                && is_born_after(&stat, life.harvester.stat());
            if !is_candidate {
                return None;
            }
            let (file, stat) = discover::open(&name).ok()?;
            let held = self.held.get(&stat.inode);
            let is_compared =
                held.is_some_and(|held| held.source == source && held.size == stat.size);
            if gzip::is_gzipped(&file).ok()? {
                let survey = life.survey(&file).ok()?;
                let content = life.gzipped_in(&survey)?;
                let harvester = Harvester::gzipped(&self.open_files, file, stat);
                return Some(Copy { name, harvester, head: survey.head.checksum(), content });
            }
            let content = life.copied_in(&file, &stat, is_compared).ok()??;
            let read_offset = life.events.read_offset();
            let head = Checksum::of_head(&file).ok()?;
            let harvester = Harvester::new(&self.open_files, file, stat, read_offset);
            Some(Copy { name, harvester, head, content })
        })
    }

    fn move_to_copy(&mut self, source: SourceId, copy: Copy) {
        self.counters.files_truncated.add(1);
        let life = self.lives.get_mut(&source).expect("the life had its turn");
        let read_offset = life.events.read_offset();
        log::warn!(
            "file truncated: name={} read_offset={read_offset}; going on in its copy: name={} \
             size={}; what was written after either and before the truncation is lost",
            life.name.display(),
            copy.name.display(),
            copy.harvester.stat().size
        );
        let stat = *copy.harvester.stat();
        let copy_name: Arc<Path> = copy.name.into();
        self.held.remove(&stat.inode);
        self.finished.remove(&stat.key());
        self.restored.take(&stat);
        self.by_inode.insert(stat.inode, source);
        self.by_name.insert(Arc::clone(&copy_name), source);
        let original = std::mem::replace(&mut life.harvester, copy.harvester);
        let name = std::mem::replace(&mut life.name, copy_name);
        life.rotated = true;
        life.at_end = copy.content == Content::Spent;
        life.content = copy.content;
        life.head = copy.head;
        life.guard = Checksum::default();
        life.saved_offset = None;
        life.successor_seen = false;
        life.grown_at = Instant::now();
        life.journal = 0;
        self.changed.insert(source);
        self.dirty = true;
        let (stream, number) = (life.stream, life.number + 1);
        let queue = &self.streams[stream].queue;
        let at = queue.iter().position(|queued| *queued == source);
        let place = at.map_or(Place::ByAge, |at| Place::At(at + 1));
        let begin = Begin { number, place, ..Begin::at(0) };
        let newcomer = self.open_life(stream, name, original.begin_again(), begin);
        self.begin_after_a_scan(newcomer);
    }

    /// Tells until when the file at a stream's path is not begun: names beside it have changed
    /// since they were last looked at, and one of them may be a copy of what it held before.
    pub(super) fn waits_for_scan(&mut self, life: &mut Life, now: Instant) -> Option<Instant> {
        if life.events.read_offset() > 0 || life.rotated || self.is_stopping {
            return None;
        }
        // One that is found and read at once was looked for just now.
        let is_fresh = now < life.grown_at + FRESH;
        if life.scan_wanted == 0 && !is_fresh && self.folders.must_list(&life.name) {
            life.scan_wanted = self.n_scans + 1;
        }
        // What it held before may have been copied and truncated since that scan.
        let has_waited = life.scan_wanted > 0 && life.scan_wanted <= self.n_scans;
        let may_wait = now < life.grown_at + WAIT_MAX;
        if has_waited && may_wait && self.folders.have_changed(&life.name) {
            life.scan_wanted = self.n_scans + 1;
        }
        if life.scan_wanted <= self.n_scans {
            life.scan_wanted = 0;
            return None;
        }
        self.scan_soon();
        Some(self.scan_due)
    }

    /// Has a life begin only after a look for files that were written before it, such as copies of
    /// which the originals were never read: those go out first.
    pub(super) fn begin_after_a_scan(&mut self, source: SourceId) {
        let life = self.lives.get_mut(&source).expect("just opened");
        life.scan_wanted = self.n_scans + 1;
        self.folders.look_again(&life.name);
        self.scan_soon();
    }

    /// Finds, at the start, files that were truncated behind a copy while the shipper was
    /// stopped: what is remembered of the file is then remembered of its copy.
    pub(super) fn find_restored_copies(&mut self, stream: usize, found: &[Found]) {
        let path = Arc::clone(&self.streams[stream].path);
        let Some(current) = found.iter().find(|found| *found.path == *path) else {
            return;
        };
        let Some(entry) = self.restored.get(&current.stat).cloned() else {
            return;
        };
        let is_unchanged = |file: &File| fits(&entry, file, &current.stat).unwrap_or(true);
        if entry.head.len == 0 || discover::open(&path).is_ok_and(|(file, _)| is_unchanged(&file)) {
            return;
        }
        let candidates = found.iter().filter(|other| {
            *other.path != *path
                && self.restored.get(&other.stat).is_none_or(Entry::is_unread)
                && is_born_after(&other.stat, &current.stat)
        });
        let mut copies = candidates.filter_map(|other| Some((other, moved_entry(&entry, other)?)));
        let Some((copy, moved)) = copies.next() else {
            return;
        };
        log::warn!(
            "file truncated while stopped: name={} offset={}; going on in its copy {}; what was \
             written between the copy and the truncation is lost",
            path.display(),
            entry.offset,
            copy.path.display()
        );
        self.counters.files_truncated.add(1);
        let original = self.restored.take(&current.stat).expect("seen above");
        self.restored.take(&copy.stat);
        let begun_anew = Entry {
            life: original.life + 1,
            file_id: None,
            head: Checksum::default(),
            offset: 0,
            guard: Checksum::default(),
            guard_end: None,
            waymarks: Vec::new(),
            done: false,
            gzipped: false,
            spent: false,
            ..original
        };
        self.restored.extend([begun_anew, moved]);
    }
}

/// Returns what is remembered of a file, for the copy that holds it; `None` if it does not.
fn moved_entry(entry: &Entry, copy: &Found) -> Option<Entry> {
    let (file, stat) = discover::open(&copy.path).ok()?;
    if gzip::is_gzipped(&file).ok()? {
        let survey = Survey::of(file, vec![guard_end(entry)]).ok()?;
        return is_held_by(entry, &survey).then(|| gzipped_entry(entry.clone(), copy, &survey));
    }
    // It was read further than it had been copied: up to its end nothing is left of it.
    let is_spent = stat.size < entry.offset;
    let offset = entry.offset.min(stat.size);
    let holds_guard = guard_end(entry) <= offset && (!is_spent || entry.guard.len > 0);
    let moved = Entry {
        name: StoredPath::from(copy.path.as_path()),
        inode: stat.inode,
        btime_ns: stat.btime_ns,
        mtime_ns: stat.mtime_ns,
        guard_end: Some(guard_end(entry)),
        offset,
        size: stat.size,
        done: entry.done || is_spent,
        spent: entry.spent || is_spent,
        ..entry.clone()
    };
    (holds_guard && fits(&moved, &file, &stat).ok()?).then_some(moved)
}

impl Life {
    /// Decompresses a file that may be the copy of this one.
    fn survey(&self, file: &File) -> io::Result<Survey> {
        let offsets = [Some(self.events.read_offset()), self.saved_offset];
        Survey::of(file.try_clone()?, offsets.into_iter().flatten().collect())
    }

    /// The same as [`Life::copied_in`], for a copy that was compressed.
    fn gzipped_in(&self, survey: &Survey) -> Option<Content> {
        let read_offset = self.events.read_offset();
        let is_whole = survey.problem.is_none();
        if read_offset == 0 || !is_whole || !survey.head.begins_with(&self.head) {
            return None;
        }
        if survey.len >= read_offset {
            let last = self.harvester.last_checksum();
            return survey.has_guard(read_offset, &last).then_some(Content::Own);
        }
        let offset = self.saved_offset.filter(|offset| *offset > 0)?;
        survey.has_guard(offset, &self.guard).then_some(Content::Spent)
    }

    /// Tells what a file beside this one, which was truncated, holds of what it had been; `None`
    /// where it is no copy. `is_compared` tells that it was seen to hold nothing else.
    fn copied_in(
        &self,
        file: &File,
        stat: &Stat,
        is_compared: bool,
    ) -> io::Result<Option<Content>> {
        let read_offset = self.events.read_offset();
        let has_head = stat.size < u64::from(self.head.len) || self.head.matches(file, 0)?;
        if !has_head {
            return Ok(None);
        }
        if read_offset == 0 {
            let is_whole = self.head.len > 0 && stat.size >= u64::from(self.head.len);
            return Ok(is_whole.then_some(Content::Own));
        }
        if stat.size >= read_offset {
            let goes_on = self.harvester.last_bytes_match(file, read_offset, stat.size)?;
            return Ok(goes_on.then_some(Content::Own));
        }
        // It was read further than it had been copied.
        let is_start = is_compared
            || self.harvester.last_bytes_match(file, read_offset, stat.size)?
            || self.has_its_guard(file, stat.size)?
            || self.harvester.marks_match(file, stat.size)?;
        Ok(is_start.then_some(Content::Spent))
    }

    /// Tells whether a file of `size` bytes has the bytes before the offset last saved.
    fn has_its_guard(&self, file: &File, size: u64) -> io::Result<bool> {
        match self.saved_offset {
            Some(offset) if offset > 0 && offset <= size => {
                self.guard.matches(file, offset - u64::from(self.guard.len))
            }
            _ => Ok(false),
        }
    }
}

/// Tells whether a file of `size` bytes holds what another begins with, by its head and its end.
fn holds_start_of(file: &File, size: u64, original: &File) -> bool {
    let len = HEAD_BYTES_MAX.min(size);
    [0, size - len].into_iter().all(|start| {
        let bytes = read_range(file, start, len).ok();
        bytes.is_some() && bytes == read_range(original, start, len).ok()
    })
}

/// Without birth times nothing is known to be a copy.
fn is_born_after(stat: &Stat, original: &Stat) -> bool {
    stat.btime_ns.zip(original.btime_ns).is_some_and(|(copy, original)| copy > original)
}
