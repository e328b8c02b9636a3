//! The files of the hub: which are there, which is which, which are new, renamed, gone.
//!
//! The scan is the truth and runs at intervals; notices of the kernel bring it forward. Whatever
//! a file's name, what is remembered of it is found by [`fingerprint`](super::fingerprint) before
//! anything is forgotten.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::discover::{self, Found, Hint, Scan};
use super::encode::{self, Origin};
use super::fingerprint::{Checksum, Inode, Stat};
use super::harvester::Harvester;
use super::multiline::EventBuffer;
use super::open_files::is_exhausted;
use super::registry::{Entry, StoredPath};
use super::{Finished, Hub, Life, OpenBatch, Phase, Stream};
use crate::config::StartAt;
use crate::kafka::record_batch::now_ms;
use crate::record::SourceId;

/// Finished lives remembered for each stream whose rotated files no input matches. A later
/// rotated file is known to be unread by its later last write, so few are needed.
const FINISHED_KEPT: usize = 3;

/// Scans in a row that must miss a finished file before it is forgotten: a scan in the middle of a
/// chain of renames sees some files under neither name, and what was forgotten is shipped again.
const ABSENT_SCANS: u64 = 10;

/// Shortest time between two scans that notices ask for.
const SCAN_PAUSE: Duration = Duration::from_millis(20);

/// Rest after a scan, as a multiple of what looking at the names took: at most a tenth of the time
/// goes into it.
const SCAN_REST: u32 = 10;

/// How long a name that can be read again, or is gone, is not warned of anew.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// Known files that a scan looks at for what no notice told: 1,000 take a millisecond or two.
const STATS_A_SCAN: usize = 1000;

/// Scans after which names of files that are closed are forgotten.
const BY_NAME_SCANS: u64 = 64;

/// Where and as what a life begins.
struct Begin {
    offset: u64,
    number: u32,
    file_id: Option<String>,
    /// When it was found, in milliseconds since 1970.
    first_seen_ms: i64,
    /// It grew after it had been finished.
    late: bool,
}

impl Hub<'_> {
    pub(super) fn first_scan(&mut self) {
        self.scan(true);
        let left = std::mem::take(&mut self.restored);
        let (gone, kept): (Vec<Entry>, Vec<Entry>) = left.into_iter().partition(is_gone);
        // A file that cannot be opened now, or that no input matches now, is not forgotten.
        self.restored = kept;
        for entry in gone {
            if !entry.done {
                log::warn!(
                    "file gone while stopped: path={} name={} offset={}; what was written after \
                     this offset is lost",
                    PathBuf::from(&entry.path).display(),
                    PathBuf::from(&entry.name).display(),
                    entry.offset
                );
            }
        }
    }

    /// Looks at all names: new files, renamed files, files that are gone.
    pub(super) fn scan(&mut self, first: bool) {
        self.n_scans += 1;
        let begun = Instant::now();
        let scan = self.look_at_names();
        // However many files there are, looking at their names takes little of the time.
        self.scan_pause = SCAN_PAUSE.max(SCAN_REST * begun.elapsed());
        self.scan_due = Instant::now() + self.config.tail.scan_interval.max(self.scan_pause);
        match scan.exhausted {
            true => self.lower_open_files(),
            false => self.open_files_limit.relax(),
        }
        for (path, reason) in &scan.refused {
            self.warn_once(path, reason);
        }
        let kept_for = REFUSED_FOR.max(SCAN_REST * self.config.tail.scan_interval);
        self.refused.retain(|_, seen| seen.elapsed() < kept_for);
        if first {
            let unmatched = self.patterns.unmatched();
            self.counters.paths_unmatched.add(unmatched.len() as u64);
            for pattern in unmatched {
                log::warn!("no file yet: path={pattern}; it is read once it is there");
            }
        }
        // By stream in the order of their first sight: a file of two names belongs to the first.
        let mut arrivals: BTreeMap<usize, Vec<Found>> = BTreeMap::new();
        for found in scan.found {
            if self.is_known(&found) {
                continue;
            }
            let stream = self.stream_for(&discover::written_under(&found.path), found.input);
            arrivals.entry(stream).or_default().push(found);
        }
        if first {
            self.find_restored(&mut arrivals);
        }
        self.watch_folders(&arrivals);
        for (stream, mut found) in arrivals {
            self.add_missed_siblings(stream, &mut found);
            let path = &self.streams[stream].path;
            found.sort_by_cached_key(|found| {
                let Found { path: name, stat, .. } = found;
                let age = (stat.mtime_ns, discover::rank(name), stat.btime_ns);
                (name == path, age, name.clone())
            });
            found.dedup_by_key(|found| found.stat.inode);
            for found in found {
                self.add_file(stream, found, first);
            }
        }
        self.note_absent();
        if !scan.incomplete {
            self.forget_absent();
        }
        self.look_at_deleted();
        self.look_at_open_files();
        // Deleted or replaced behind us: nothing that was saved is there any more.
        self.dirty |= !self.saver.folder.is_in_place();
    }

    /// Looks for new names, and at known ones as far as notices might not tell of a change.
    fn look_at_names(&mut self) -> Scan {
        let n_scans = self.n_scans;
        // Of very many files each has its turn; notices tell of the others.
        let n_groups = match self.hints.is_complete() {
            true => self.lives.len().div_ceil(STATS_A_SCAN) as u64,
            false => 1,
        };
        if n_scans.is_multiple_of(BY_NAME_SCANS) {
            self.by_name.retain(|_, source| self.lives.contains_key(source));
        }
        let is_known = |path: &Path, inode: Inode| {
            let Some(source) = self.by_inode.get(&inode) else {
                return false;
            };
            let life = self.lives.get_mut(source).expect("inodes of open lives");
            let is_due = (u64::from(source.0) + n_scans).is_multiple_of(n_groups);
            if is_due || life.name.as_os_str() != path.as_os_str() {
                return false;
            }
            life.seen_in_scan = n_scans;
            true
        };
        self.patterns.scan(is_known)
    }

    /// Tells whether a found name belongs to a life that is known, and notes the name.
    fn is_known(&mut self, found: &Found) -> bool {
        if let Some(&source) = self.by_inode.get(&found.stat.inode) {
            let life = self.lives.get_mut(&source).expect("inodes of open lives");
            let known = life.harvester.stat();
            if known.btime_ns != found.stat.btime_ns {
                // It was deleted while it was parked, and this one has its inode: it is found
                // anew once the old one's account is closed.
                self.enqueue(source);
                return true;
            }
            let has_changed =
                known.size != found.stat.size || known.mtime_ns != found.stat.mtime_ns;
            if life.seen_in_scan != self.n_scans {
                let rotated = found.path != self.streams[life.stream].path;
                if rotated && life.name != found.path {
                    log::info!(
                        "file rotated: path={} name={} read_offset={}",
                        self.streams[life.stream].path.display(),
                        found.path.display(),
                        life.events.read_offset()
                    );
                }
                life.seen_in_scan = self.n_scans;
                life.rotated = rotated;
                life.n_missed = 0;
                life.name.clone_from(&found.path);
            }
            self.by_name.insert(found.path.clone(), source);
            if has_changed {
                self.enqueue(source);
            }
            return true;
        }
        if let Some(finished) = self.finished.get_mut(&found.stat.inode) {
            finished.seen_in_scan = self.n_scans;
            let entry = &mut finished.entry;
            if entry.btime_ns == found.stat.btime_ns && entry.offset == found.stat.size {
                entry.name = StoredPath::from(found.path.as_path());
                return true;
            }
        }
        false
    }

    fn stream_for(&mut self, path: &Path, input: usize) -> usize {
        if let Some(&stream) = self.stream_of.get(path) {
            return stream;
        }
        let input = Arc::clone(&self.inputs[input]);
        let topic: Arc<str> = input.topic.as_str().into();
        let newest = self.restored.iter().filter(|entry| PathBuf::from(&entry.path) == path);
        self.streams.push(Stream {
            path: path.to_path_buf(),
            input,
            topic: Arc::clone(&topic),
            key: encode::key(&self.config.host, path.as_os_str().as_bytes()),
            slot: None,
            queue: VecDeque::new(),
            newest_mtime_ns: newest.map(|entry| entry.mtime_ns).max(),
            finished: VecDeque::new(),
        });
        let stream = self.streams.len() - 1;
        self.stream_of.insert(path.to_path_buf(), stream);
        match self.topics.get(&topic) {
            Some(Some(n_partitions)) => self.assign_slot(stream, *n_partitions),
            Some(None) => {}
            None => {
                self.topics.insert(Arc::clone(&topic), None);
                self.producer.describe(&topic, &self.replies);
            }
        }
        stream
    }

    /// Finds what the registry knows under names that no input matches: files that were renamed
    /// while the shipper was stopped.
    fn find_restored(&mut self, arrivals: &mut BTreeMap<usize, Vec<Found>>) {
        let mut paths: Vec<PathBuf> =
            self.restored.iter().map(|entry| PathBuf::from(&entry.path)).collect();
        paths.sort();
        paths.dedup();
        for path in paths {
            let Some(input) = self.input_for(&path) else {
                continue;
            };
            let Ok(neighbours) = discover::neighbours(&path) else {
                continue;
            };
            let stream = self.stream_for(&path, input);
            let found = arrivals.entry(stream).or_default();
            let entries: Vec<&Entry> =
                self.restored.iter().filter(|entry| PathBuf::from(&entry.path) == path).collect();
            for (name, stat) in neighbours {
                let is_entry = |entry: &&Entry| {
                    entry.inode.ino == stat.inode.ino && entry.btime_ns == stat.btime_ns
                };
                let is_new = found.iter().all(|found| found.stat.inode != stat.inode);
                if is_new && entries.iter().any(is_entry) {
                    found.push(Found { path: name, input, stat });
                }
            }
        }
    }

    /// Returns the input that a path belongs to, whether a file is there or not.
    fn input_for(&self, path: &Path) -> Option<usize> {
        self.config.input.iter().position(|input| {
            let matches = |pattern: &String| discover::matches(pattern, path);
            input.paths.iter().any(matches) && !discover::is_excluded(path, &input.exclude)
        })
    }

    /// Adds rotated files that were created and renamed between two looks: those of the stream
    /// that were written to later than every life that is known.
    fn add_missed_siblings(&mut self, stream: usize, found: &mut Vec<Found>) {
        let mut newest = self.streams[stream].newest_mtime_ns;
        for life in self.lives.values().filter(|life| life.stream == stream) {
            let mtime = life.stat_now().unwrap_or(*life.harvester.stat()).mtime_ns;
            newest = newest.max(Some(mtime));
        }
        let Some(newest) = newest else { return };
        let Stream { path, input, .. } = &self.streams[stream];
        let Ok(neighbours) = discover::neighbours(path) else {
            return;
        };
        for (name, stat) in neighbours {
            let is_sibling = name != *path && discover::written_under(&name) == *path;
            let is_known = self.by_inode.contains_key(&stat.inode)
                || self.finished.contains_key(&stat.inode)
                || found.iter().any(|found| found.stat.inode == stat.inode);
            if is_sibling
                && !is_known
                && stat.mtime_ns >= newest
                && !discover::is_excluded(&name, &input.exclude)
            {
                found.push(Found { path: name, input: 0, stat });
            }
        }
    }

    /// Opens a file that is new, or known from the registry, or grew after it was finished.
    fn add_file(&mut self, stream: usize, found: Found, first: bool) {
        if !self.make_room_for_a_file() {
            return;
        }
        let (file, stat) = match discover::open(&found.path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) if is_exhausted(&error) => return self.lower_open_files(),
            Err(error) => return self.warn_once(&found.path, &error.to_string()),
        };
        if stat.inode != found.stat.inode {
            // Renamed since it was found: only another look tells what became of either file.
            self.scan_soon();
            return;
        }
        if self.by_inode.contains_key(&stat.inode) {
            return;
        }
        self.refused.remove(&found.path);
        let known = self.take_entry(&stat);
        let first_seen_ms = now_ms();
        let mut begin = Begin { offset: 0, number: 0, file_id: None, first_seen_ms, late: false };
        match known.as_ref().map(|entry| compare(entry, &file, &stat)) {
            Some(Ok(Identity::Same)) => {
                let entry = known.expect("compared");
                if entry.done && entry.offset == stat.size {
                    let entry = Entry { name: found.path.as_path().into(), ..entry };
                    self.remember(stream, entry, stat.inode, self.n_scans);
                    return;
                }
                log::info!("file resumed: name={} offset={}", found.path.display(), entry.offset);
                begin.offset = entry.offset;
                begin.number = entry.life;
                begin.file_id = entry.file_id;
                begin.first_seen_ms = entry.first_seen_ms;
                // Back under its path it is the current file, not a late one.
                begin.late = entry.done && found.path != self.streams[stream].path;
            }
            Some(Ok(Identity::NewLife)) => {
                let entry = known.expect("compared");
                self.log_truncated(&found.path, entry.offset, stat.size);
                begin.number = entry.life + 1;
            }
            Some(Err(error)) => {
                // What is known must outlive the error, or the file would be repeated whole.
                self.restored.extend(known);
                return self.warn_once(&found.path, &error.to_string());
            }
            Some(Ok(Identity::Other)) | None => {
                let input = &self.streams[stream].input;
                if first && input.start_at == StartAt::End && !self.had_registry {
                    begin.offset = stat.size;
                }
                log::info!("file found: name={} offset={}", found.path.display(), begin.offset);
            }
        }
        let harvester = Harvester::new(&self.open_files, file, stat, begin.offset);
        self.open_life(stream, found.path, harvester, begin);
    }

    /// Returns, and forgets, what is remembered of a file.
    fn take_entry(&mut self, stat: &Stat) -> Option<Entry> {
        if let Some(finished) = self.finished.remove(&stat.inode) {
            return Some(finished.entry);
        }
        // The device's number may be another one since the host was started again.
        let is_file = |entry: &Entry| {
            entry.inode.ino == stat.inode.ino
                && entry.btime_ns == stat.btime_ns
                && (entry.btime_ns.is_some() || entry.inode.dev == stat.inode.dev)
        };
        let at = self.restored.iter().position(is_file)?;
        Some(self.restored.swap_remove(at))
    }

    fn open_life(&mut self, stream: usize, name: PathBuf, harvester: Harvester, begin: Begin) {
        let source = SourceId(self.next_source);
        self.next_source += 1;
        self.counters.files_opened.add(1);
        self.ledger.open(source, begin.offset);
        let input = &self.streams[stream].input;
        let rotated = name != self.streams[stream].path;
        let phase = match (begin.late, self.streams[stream].queue.is_empty()) {
            (true, _) => Phase::Lingering,
            (false, true) => Phase::Reading,
            (false, false) => Phase::Waiting,
        };
        self.by_inode.insert(harvester.stat().inode, source);
        self.by_name.insert(name.clone(), source);
        let life = Life {
            source,
            stream,
            phase,
            name,
            rotated,
            events: EventBuffer::new(
                begin.offset,
                input.line_bytes_max,
                input.event_bytes_max,
                false,
            ),
            harvester,
            number: begin.number,
            file_id: begin.file_id,
            origin: None,
            at_end: false,
            successor_seen: false,
            replaced: false,
            n_missed: 0,
            gone: false,
            deleted_at: None,
            last_turn: self.n_turns,
            grown_at: Instant::now(),
            head: Checksum::default(),
            saved_offset: None,
            guard: Checksum::default(),
            first_seen_ms: begin.first_seen_ms,
            last_seen_ms: begin.first_seen_ms,
            queued: false,
            deadline: None,
            seen_in_scan: self.n_scans,
        };
        let life = self.lives.entry(source).or_insert(life);
        if let Some(file_id) = &life.file_id {
            let Stream { path, input, .. } = &self.streams[stream];
            let path = path.as_os_str().as_bytes();
            life.origin = Some(Origin::new(&self.config.host, path, file_id, &input.fields));
        }
        if phase != Phase::Lingering {
            self.streams[stream].queue.push_back(source);
        }
        self.dirty = true;
        self.enqueue(source);
    }

    /// Begins at byte 0 of a file that was truncated or overwritten.
    pub(super) fn begin_new_life(&mut self, source: SourceId) {
        let old = self.lives.remove(&source).expect("the life had its turn");
        self.timers.retain(|(_, timed)| *timed != source);
        self.by_inode.remove(&old.harvester.stat().inode);
        let size = old.stat_now().map_or(0, |stat| stat.size);
        self.log_truncated(&old.name, old.events.read_offset(), size);
        let stream = old.stream;
        let at = self.streams[stream].queue.iter().position(|queued| *queued == source);
        let begin = Begin {
            offset: 0,
            number: old.number + 1,
            file_id: None,
            first_seen_ms: now_ms(),
            late: at.is_none(),
        };
        let seen_in_scan = old.seen_in_scan;
        self.open_life(stream, old.name, old.harvester.begin_again(), begin);
        if let Some(at) = at {
            // It takes the place of the old life, not one behind all others.
            let queue = &mut self.streams[stream].queue;
            let newcomer = queue.pop_back().expect("opened above");
            queue[at] = newcomer;
            let life = self.lives.get_mut(&newcomer).expect("opened above");
            life.phase = old.phase;
            life.seen_in_scan = seen_in_scan;
            life.rotated = old.rotated;
            self.enqueue(newcomer);
        }
        self.forget_if_replaced(source);
    }

    /// Ends the account of a life that another took the place of, once no batch holds its ground.
    pub(super) fn forget_if_replaced(&mut self, source: SourceId) {
        let holds = |open: &OpenBatch| open.spans.iter().any(|span| span.source == source);
        let is_held = !self.ledger.is_settled(source) || self.open.iter().any(holds);
        if !self.lives.contains_key(&source) && !is_held {
            self.ledger.close(source);
        }
    }

    fn log_truncated(&self, name: &Path, offset: u64, size: u64) {
        self.counters.files_truncated.add(1);
        log::warn!(
            "file truncated or overwritten: name={} read_offset={offset} size={size}; reading it \
             from its first byte; what had been written after read_offset is lost",
            name.display()
        );
    }

    /// Marks lives whose name is gone: renamed to one that no input matches, or deleted.
    fn note_absent(&mut self) {
        let mut astray = Vec::new();
        for life in self.lives.values_mut() {
            let is_parked = life.harvester.is_parked();
            if life.seen_in_scan == self.n_scans
                || life.gone
                || (life.rotated && !is_parked)
                || life.has_its_name()
            {
                continue;
            }
            if is_parked {
                astray.push(life.source);
                continue;
            }
            life.rotated = true;
            let is_deleted = life.harvester.stat_now().is_ok_and(|stat| stat.n_links == 0);
            log::info!(
                "file {}: name={} read_offset={}",
                if is_deleted { "deleted" } else { "renamed" },
                life.name.display(),
                life.events.read_offset()
            );
        }
        self.find_astray(astray);
    }

    /// Forgets finished files that an input matched and that are gone.
    fn forget_absent(&mut self) {
        let n_scans = self.n_scans;
        let n_before = self.finished.len();
        self.finished
            .retain(|_, file| file.seen_in_scan == 0 || file.seen_in_scan + ABSENT_SCANS > n_scans);
        self.dirty |= self.finished.len() != n_before;
    }

    /// Finds growth and loss that no notice told of.
    fn look_at_open_files(&mut self) {
        let mut changed = Vec::new();
        for (source, life) in &self.lives {
            // What the scan saw of a file needs no second look.
            let is_new = life.seen_in_scan != self.n_scans && life.has_changed();
            // A rotated file needs a turn to reach its end for good.
            if is_new || (life.rotated && life.deadline.is_none()) {
                changed.push(*source);
            }
        }
        changed.into_iter().for_each(|source| self.enqueue(source));
        for at in 0..self.streams.len() {
            if self.streams[at].queue.len() > 1 {
                let first = self.streams[at].queue[0];
                self.enqueue(first);
            }
        }
    }

    fn watch_folders(&mut self, arrivals: &BTreeMap<usize, Vec<Found>>) {
        if self.n_scans == 1 {
            let patterns = self.config.input.iter().flat_map(|input| &input.paths);
            for folder in patterns.filter_map(|pattern| discover::folder_of(pattern)) {
                self.hints.watch(&folder);
            }
        }
        for found in arrivals.values().flatten() {
            if let Some(folder) = found.path.parent() {
                self.hints.watch(folder);
            }
        }
    }

    pub(super) fn scan_soon(&mut self) {
        self.scan_due = self.scan_due.min(Instant::now() + self.scan_pause);
    }

    pub(super) fn warn_once(&mut self, path: &Path, reason: &str) {
        if self.refused.insert(path.to_path_buf(), Instant::now()).is_none() {
            self.counters.files_refused.add(1);
            log::warn!("file left out: name={}: {reason}", path.display());
        }
    }

    pub(super) fn on_hint(&mut self, hint: Hint) {
        let mut names_changed = self.hints.take_missed();
        let mut written = HashSet::new();
        for hint in std::iter::once(hint).chain(self.hints.receiver.try_iter()) {
            match hint {
                Hint::Names => names_changed = true,
                // One that is not known is of no interest, or so new that the scan which its
                // creation asked for finds it.
                Hint::Written(path) => written.extend(self.by_name.get(&path)),
            }
        }
        if names_changed {
            self.scan_soon();
        }
        written.into_iter().for_each(|source| self.enqueue(source));
    }

    /// Closes a life that was read to its end, once all of it is settled.
    pub(super) fn close_if_settled(&mut self, source: SourceId) {
        let Some(life) = self.lives.get(&source) else {
            return;
        };
        let offset = life.events.event_offset();
        // What lies in an open batch has left the file and is not in the ledger yet.
        if life.phase != Phase::Closing || self.ledger.settled(source) != Some(offset) {
            return;
        }
        self.ledger.close(source);
        let mut life = self.lives.remove(&source).expect("seen above");
        self.timers_remove(&mut life);
        self.by_inode.remove(&life.harvester.stat().inode);
        self.counters.files_finished.add(1);
        self.dirty = true;
        log::info!("file finished: name={} offset={offset}", life.name.display());
        let stat = life.stat_now().unwrap_or(*life.harvester.stat());
        let stream = &mut self.streams[life.stream];
        stream.newest_mtime_ns = stream.newest_mtime_ns.max(Some(stat.mtime_ns));
        if stat.n_links > 0 && !life.gone {
            let mut entry = life.entry(&stream.path, offset);
            entry.done = true;
            entry.mtime_ns = stat.mtime_ns;
            // Not matched by the last scan: no input's pattern leads to it any more.
            let seen = if life.seen_in_scan == self.n_scans { self.n_scans } else { 0 };
            self.remember(life.stream, entry, stat.inode, seen);
        }
    }

    fn remember(&mut self, stream: usize, entry: Entry, inode: Inode, seen_in_scan: u64) {
        let stream = &mut self.streams[stream];
        stream.newest_mtime_ns = stream.newest_mtime_ns.max(Some(entry.mtime_ns));
        self.finished.insert(inode, Finished { entry, seen_in_scan });
        stream.finished.push_back(inode);
        while stream.finished.len() > FINISHED_KEPT {
            let oldest = stream.finished.pop_front().expect("longer than its limit");
            if self.finished.get(&oldest).is_some_and(|file| file.seen_in_scan == 0) {
                self.finished.remove(&oldest);
            }
        }
        self.dirty = true;
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Identity {
    Same,
    NewLife,
    Other,
}

/// Compares a file with what is remembered of one with its inode.
fn compare(entry: &Entry, file: &File, stat: &Stat) -> io::Result<Identity> {
    let head_matches = entry.head.matches(file, 0)?;
    if entry.btime_ns != stat.btime_ns || (entry.btime_ns.is_none() && !head_matches) {
        return Ok(Identity::Other);
    }
    let guard_start = entry.offset - u64::from(entry.guard.len);
    let is_same =
        stat.size >= entry.offset && head_matches && entry.guard.matches(file, guard_start)?;
    Ok(if is_same { Identity::Same } else { Identity::NewLife })
}

/// Tells whether a file is known to be gone: its folder can be read and holds no such file.
fn is_gone(entry: &Entry) -> bool {
    let is_entry =
        |stat: &Stat| stat.inode.ino == entry.inode.ino && stat.btime_ns == entry.btime_ns;
    discover::neighbours(&PathBuf::from(&entry.path))
        .is_ok_and(|neighbours| !neighbours.iter().any(|(_, stat)| is_entry(stat)))
}
