//! The files of the hub: which are there, which is which, which are new, renamed, gone.
//!
//! The scan is the truth and runs at intervals; notices of the kernel bring it forward. Whatever
//! a file's name, what is remembered of it is found by [`fingerprint`](super::fingerprint) before
//! anything is forgotten.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::discover::{self, Found, Hint, Scan};
use super::encode::Origin;
use super::fingerprint::{Checksum, Inode, Stat};
use super::gzip;
use super::harvester::Harvester;
use super::journal::Replay;
use super::multiline::{EventBuffer, Limits};
use super::open_files::is_exhausted;
use super::policy::{Filter, Said};
use super::registry::{Entry, StoredPath, Waymark};
use super::waymarks::{self, Waymarks};
use super::{Content, Finished, Hub, Life, OpenBatch, Phase, Stream};
use crate::config::{InputConfig, StartAt};
use crate::kafka::record_batch::now_ms;
use crate::planted::{self, Bug};
use crate::record::SourceId;

/// Shortest time between two scans that notices ask for.
const SCAN_PAUSE: Duration = Duration::from_millis(20);

/// Rest after a scan, as a multiple of what looking at the names took: at most a tenth of the time
/// goes into it.
const SCAN_REST: u32 = 10;

/// How long a name that can be read again, or is gone, is not warned of anew.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// Known files that a scan looks at for what no notice told: 1,000 take a millisecond or two.
const STATS_A_SCAN: usize = 1000;

/// How long a gzip'd file that is not ready is known to be so.
const UNREADY_FOR: Duration = Duration::from_secs(3600);

/// Scans after which names of files that are closed are forgotten.
const BY_NAME_SCANS: u64 = 64;

/// Looks at the start, while files are renamed meanwhile.
const RACES_MAX: usize = 20;
/// Looks, at the start, for files that are not read to their ends: one amid a chain of renames may
/// miss some, and younger ones would be read before them.
const LOOKS_FOR_MISSING: usize = 3;

/// Where and as what a life begins.
pub(super) struct Begin {
    pub(super) offset: u64,
    pub(super) number: u32,
    pub(super) file_id: Option<String>,
    /// When it was found, in milliseconds since 1970.
    pub(super) first_seen_ms: i64,
    /// A symbolic link leads to it.
    pub(super) is_linked: bool,
    pub(super) place: Place,
    pub(super) waymarks: Waymarks,
    /// A power cut has left less than was shipped of it.
    pub(super) is_cut: bool,
}

/// When a life has its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// After all of its stream that are older, before all that are younger.
    ByAge,
    /// As the n-th of its stream's queue.
    At(usize),
    /// At once, for it grew after it had been finished.
    Late,
}

impl Begin {
    pub(super) fn at(offset: u64) -> Begin {
        let first_seen_ms = now_ms();
        Begin {
            offset,
            number: 0,
            file_id: None,
            first_seen_ms,
            is_linked: false,
            place: Place::ByAge,
            waymarks: Waymarks::default(),
            is_cut: false,
        }
    }
}

impl Hub<'_> {
    pub(super) fn first_scan(&mut self, replay: &Replay) {
        (self.resume.may_be_cut, self.resume.is_compared) =
            (replay.is_other_boot, replay.is_rebooted);
        // A file that is renamed while it is looked for is found by another look. What had been
        // sent of it must be known before anything of it is read.
        for n_scans in 1..=RACES_MAX {
            self.has_raced = false;
            self.scan(true);
            let is_missing = |entry: &Entry| self.restored.life(entry).is_some();
            // Others may be gone for good.
            let is_another_missing =
                n_scans < LOOKS_FOR_MISSING && self.restored.iter().any(|entry| !entry.done);
            if !self.has_raced && !is_another_missing && !replay.sources.values().any(is_missing) {
                break;
            }
        }
        self.forget_gone();
        self.forget_unmatched(now_ms());
    }

    /// Looks at all names: new files, renamed files, files that are gone.
    pub(super) fn scan(&mut self, first: bool) {
        self.n_scans += 1;
        self.watch_folders();
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
        if self.n_scans == 1 {
            let unmatched = self.patterns.unmatched();
            self.counters.paths_unmatched.add(unmatched.len() as u64);
            for pattern in unmatched {
                log::warn!("no file yet: path={pattern}; it is read once it is there");
            }
            self.know_restored_streams();
        }
        // By stream in the order of their first sight: a file of two names belongs to the first.
        let mut arrivals: BTreeMap<usize, Vec<Found>> = BTreeMap::new();
        for found in scan.found {
            if !self.is_known(&found) {
                let remembered = self.restored.get(&found.stat);
                let path = remembered.map(|entry| PathBuf::from(&entry.path));
                let path = path.or_else(|| found.link.clone());
                let path = path.unwrap_or_else(|| discover::written_under(&found.path));
                let stream = self.stream_for(&path, found.input);
                // Most streams have one file: room for four would be megabytes for thousands.
                arrivals.entry(stream).or_insert_with(|| Vec::with_capacity(1)).push(found);
            }
        }
        if self.hints.renew() {
            // What came since it was looked for gave no notice.
            self.scan_soon();
        }
        self.find_siblings(&mut arrivals);
        if first {
            self.find_restored_gzipped(&mut arrivals);
        }
        for (stream, mut found) in arrivals {
            let path = &self.streams[stream].path;
            found.sort_by_cached_key(|found| {
                let Found { path: name, link, stat, .. } = found;
                let age = (stat.mtime_ns, stat.btime_ns, discover::rank(name));
                // What may be a copy of the file in place is compared with it.
                (**link.as_ref().unwrap_or(name) != **path, age, name.clone())
            });
            found.dedup_by_key(|found| found.stat.inode);
            self.note_out_of_place(stream);
            if first {
                self.find_restored_copies(stream, &found);
            }
            for found in found {
                let is_in_place = found.is_in_place(&self.streams[stream].path);
                let had_raced = self.has_raced;
                self.add_file(stream, found, first);
                if first && is_in_place && self.has_raced && !had_raced {
                    // Without it the others cannot be told from its copies: all of them wait.
                    self.folders.look_again(&self.streams[stream].path);
                    break;
                }
            }
        }
        self.note_absent(!scan.incomplete);
        self.forget_absent(!scan.incomplete);
        self.held.retain(|_, held| self.lives.contains_key(&held.source));
        self.unready.retain(|_, unready| unready.since.elapsed() < UNREADY_FOR);
        self.look_at_deleted();
        self.look_at_open_files();
        // Deleted or replaced behind us: nothing that was saved is there any more.
        self.dirty |= !self.saver.folder.is_in_place();
    }

    /// Looks for new names, and at known ones as far as notices might not tell of a change.
    fn look_at_names(&mut self) -> Scan {
        let n_scans = self.n_scans;
        // Of very many files each has its turn; notices tell of the others.
        let may_skip = self.hints.is_complete() && !std::mem::take(&mut self.look_at_all);
        let n_groups = match may_skip {
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

    /// Tells whether a found name belongs to a file that is known, and notes the name.
    fn is_known(&mut self, found: &Found) -> bool {
        if let Some(&source) = self.by_inode.get(&found.stat.inode) {
            self.note_found(source, &found.path, found.link.as_deref(), &found.stat);
            let life = self.lives.get_mut(&source).expect("inodes of open lives");
            life.seen_in_scan = self.n_scans;
            let name = match *life.name == *found.path {
                true => Arc::clone(&life.name),
                false => found.path.as_path().into(),
            };
            self.by_name.insert(name, source);
            return true;
        }
        let Some(finished) = self.finished.get_mut(&found.stat.key()) else {
            return false;
        };
        finished.seen_in_scan = self.n_scans;
        finished.is_matched = true;
        let is_unchanged = finished.is_unchanged(&found.stat);
        if is_unchanged {
            finished.entry.name = StoredPath::from(found.path.as_path());
        }
        is_unchanged
    }

    /// Notes under which name a life was found in this scan: of several names the first counts, of
    /// those that it had one after the other the last.
    pub(super) fn note_found(
        &mut self,
        source: SourceId,
        name: &Path,
        link: Option<&Path>,
        stat: &Stat,
    ) {
        let life = self.lives.get_mut(&source).expect("inodes of open lives");
        let known = life.harvester.stat();
        if known.btime_ns != stat.btime_ns {
            // It was deleted while it was parked, and this one has its inode: it is found anew
            // once the old one's account is closed.
            return self.enqueue(source);
        }
        let has_changed = known.size != stat.size || known.mtime_ns != stat.mtime_ns;
        let is_linked = link.is_some() || life.is_linked;
        let is_renamed = !is_linked && discover::is_renamed(stat, &life.name, name);
        if life.seen_in_scan != self.n_scans || is_renamed {
            let path: &Path = &self.streams[life.stream].path;
            let rotated = link.unwrap_or(name) != path;
            if rotated && *life.name != *name {
                log::info!(
                    "file rotated: path={} name={} read_offset={}",
                    path.display(),
                    name.display(),
                    life.events.read_offset()
                );
            }
            life.rotated = rotated;
            life.is_linked = link.is_some();
            life.n_missed = 0;
            if *life.name != *name {
                life.name = name.into();
                self.changed.insert(source);
                self.dirty = true;
            }
        }
        if has_changed {
            self.enqueue(source);
        }
    }

    fn stream_for(&mut self, path: &Path, input: usize) -> usize {
        if let Some(&stream) = self.stream_of.get(path) {
            return stream;
        }
        let input = Arc::clone(&self.inputs[input]);
        let topic: Arc<str> = input.topic.topic(&input.names(&self.config.host, path)).into();
        let folder = path.parent().unwrap_or(Path::new("/"));
        self.folders.add(folder);
        self.hints.want(folder);
        let path: Arc<Path> = path.into();
        self.streams.push(Stream {
            path: Arc::clone(&path),
            input,
            topic: Arc::clone(&topic),
            slot: None,
            n_holds: 0,
            queue: VecDeque::new(),
            cut_event: None,
            read_mtime_ns: self.restored.read_mtime_ns(&path),
        });
        let stream = self.streams.len() - 1;
        self.stream_of.insert(path, stream);
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

    /// Makes the streams that the registry knows, so that files are found that were renamed while
    /// the shipper was stopped, under whatever name.
    fn know_restored_streams(&mut self) {
        // What a link led to stands elsewhere.
        for entry in self.restored.iter() {
            let name = PathBuf::from(&entry.name);
            self.folders.add(name.parent().unwrap_or(Path::new("/")));
        }
        let mut paths: Vec<PathBuf> = self.restored.paths().map(Path::to_path_buf).collect();
        paths.sort();
        for path in paths {
            if let Some(input) = input_for(&self.config.input, &path) {
                self.stream_for(&path, input);
            }
        }
    }

    /// Opens a file that is new, or known from the registry, or grew after it was finished.
    fn add_file(&mut self, stream: usize, found: Found, first: bool) {
        if self.is_done_and_unchanged(&found.stat) {
            let entry = self.restored.take(&found.stat).expect("it was just looked at");
            return self.remember_found(entry, &found);
        }
        if !self.make_room_for_a_file() {
            return self.come_back_to(stream, &found);
        }
        let (file, stat) = match discover::open_renamed(&found.path, found.stat.inode) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Only another look tells what became of it.
                self.has_raced = true;
                return self.scan_soon();
            }
            Err(error) => {
                self.come_back_to(stream, &found);
                return match is_exhausted(&error) {
                    true => self.lower_open_files(),
                    false => self.warn_once(&found.path, &error.to_string()),
                };
            }
        };
        if let Some(reason) = self.own_files.refusal(&found.path, &stat) {
            return self.warn_once(&found.path, reason);
        }
        if self.by_inode.contains_key(&stat.inode) {
            return;
        }
        // One that was compressed between the two looks has the age of its source only now.
        if found.is_sibling && self.stream_of_sibling(&found.path, &stat).is_none() {
            return;
        }
        let has_changed = stat != found.stat;
        let found = Found { stat, ..found };
        match gzip::is_gzipped(&file) {
            Ok(false) if !self.is_refused_as_compressed(stream, &found, &file) => {}
            Ok(false) => return,
            Ok(true) => return self.add_gzipped(stream, found, file, first),
            Err(error) => {
                self.come_back_to(stream, &found);
                return self.warn_once(&found.path, &error.to_string());
            }
        }
        self.refused.remove(&found.path);
        let is_restored = !self.finished.contains_key(&stat.key());
        let known = self.take_entry(&stat);
        let read = known.as_ref().filter(|entry| !entry.is_unread());
        let is_new = read.is_none();
        let identity = read.map_or(Ok(Identity::Other), |entry| compare(entry, &file, &stat));
        if first && has_changed && matches!(identity, Ok(Identity::NewLife)) {
            // It may have been copied and truncated since copies were looked for.
            self.restored.extend(known);
            self.has_raced = true;
            return self.scan_soon();
        }
        if matches!(identity, Ok(Identity::Other | Identity::NewLife))
            && self.is_held(stream, &found, &file)
        {
            self.restored.extend(known);
            return self.come_back_to(stream, &found);
        }
        let identity = match (identity, read) {
            (Ok(Identity::NewLife), Some(entry)) if is_restored => self.cut_at(entry, &file, &stat),
            (identity, _) => identity,
        };
        if let Ok(Identity::Cut(place)) = &identity
            && !self.compare_from(stream, place.partition, place.next_offset)
        {
            self.restored.extend(known);
            return self.come_back_to(stream, &found);
        }
        if is_new {
            match self.moved_from(&found, &file) {
                Some(Moved::Finished(entry)) => return self.remember_found(*entry, &found),
                Some(Moved::Live) => {
                    self.restored.extend(known);
                    return self.come_back_to(stream, &found);
                }
                None => {}
            }
        }
        let begin = match (identity, known) {
            (Ok(Identity::Same), Some(entry)) => {
                if entry.done && entry.offset == stat.size {
                    return self.remember_found(entry, &found);
                }
                log::info!("file resumed: name={} offset={}", found.path.display(), entry.offset);
                // Back under its path it is the current file, not a late one.
                let is_late = entry.done && !found.is_in_place(&self.streams[stream].path);
                Begin {
                    offset: entry.offset,
                    number: entry.life,
                    file_id: entry.file_id,
                    first_seen_ms: entry.first_seen_ms,
                    is_linked: found.link.is_some(),
                    place: if is_late { Place::Late } else { Place::ByAge },
                    waymarks: Waymarks::up_to(entry.waymarks, entry.offset, Instant::now()),
                    is_cut: false,
                }
            }
            (Ok(Identity::Cut(place)), Some(entry)) => {
                log::warn!(
                    "file went back: name={} offset={} size={}: a power cut, or somebody, took its \
                     end; reading it from offset {}, and comparing it with the topic",
                    found.path.display(),
                    entry.offset,
                    stat.size,
                    place.offset
                );
                Begin {
                    number: entry.life,
                    file_id: entry.file_id,
                    first_seen_ms: entry.first_seen_ms,
                    is_linked: found.link.is_some(),
                    waymarks: Waymarks::up_to(entry.waymarks, place.offset, Instant::now()),
                    is_cut: true,
                    ..Begin::at(place.offset)
                }
            }
            (Ok(Identity::NewLife), Some(entry)) => {
                self.log_truncated(&found.path, entry.offset, stat.size);
                let is_linked = found.link.is_some();
                Begin { number: entry.life + 1, is_linked, ..Begin::at(0) }
            }
            (Err(error), known) => {
                // What is known must outlive the error, or the file would be repeated whole.
                self.restored.extend(known);
                self.come_back_to(stream, &found);
                return self.warn_once(&found.path, &error.to_string());
            }
            (Ok(_), _) => {
                let input = &self.streams[stream].input;
                let at_end = input.start_at == StartAt::End || planted::is(Bug::DamageIsNothing);
                let is_old = first && at_end && !self.had_registry;
                let offset = if is_old { stat.size } else { 0 };
                log::info!("file found: name={} offset={offset}", found.path.display());
                Begin { is_linked: found.link.is_some(), ..Begin::at(offset) }
            }
        };
        if begin.is_linked
            && let Some(folder) = found.path.parent()
        {
            // What the link leads to is renamed there.
            self.folders.add(folder);
            self.hints.want(folder);
        }
        let harvester = Harvester::new(&self.open_files, file, stat, begin.offset);
        self.open_life(stream, found.path.into(), harvester, begin);
    }

    /// Tells a file of which a power cut took the end from one that was truncated or overwritten.
    fn cut_at(&self, entry: &Entry, file: &File, stat: &Stat) -> io::Result<Identity> {
        // What was read of it long before the cut was on the disk.
        let is_recent = entry.last_seen_ms + waymarks::RECENT_MS >= self.restored.last_seen_ms();
        let place = match self.resume.may_be_cut && is_recent {
            true => waymarks::last_in(entry, file, stat)?,
            false => None,
        };
        Ok(place.map_or(Identity::NewLife, Identity::Cut))
    }

    /// Has a file that cannot be read yet looked at again by the next scan.
    ///
    /// One that no pattern leads to is remembered meanwhile: younger ones may be read before it,
    /// and after a crash nothing else would tell it from those that were left out.
    pub(super) fn come_back_to(&mut self, stream: usize, found: &Found) {
        self.folders.look_again(&found.path);
        if found.is_sibling && !self.is_remembered(&found.stat) && !self.is_of_left_out(&found.path)
        {
            let entry = Entry::unread(&found.stat, &self.streams[stream].path, &found.path);
            self.journal.file_changed(None, entry.clone());
            self.restored.extend([entry]);
            self.dirty = true;
        }
    }

    fn is_remembered(&self, stat: &Stat) -> bool {
        self.by_inode.contains_key(&stat.inode)
            || self.finished.contains_key(&stat.key())
            || self.restored.get(stat).is_some()
    }

    /// Tells whether a file is just being compressed from one that was left out.
    fn is_of_left_out(&self, name: &Path) -> bool {
        let is_gzipped = name.extension().is_some_and(|extension| extension == "gz");
        let source = name.with_extension("");
        let stat = discover::open(&source).ok().filter(|_| is_gzipped).map(|(_, stat)| stat);
        stat.is_some_and(|stat| {
            !self.is_remembered(&stat) && self.stream_of_sibling(&source, &stat).is_none()
        })
    }

    /// Tells whether a file was read to its end and not written to since: of thousands of rotated
    /// files none need be opened at a start.
    fn is_done_and_unchanged(&self, stat: &Stat) -> bool {
        self.restored.get(stat).is_some_and(|entry| {
            let is_unchanged = entry.btime_ns.is_some() && entry.mtime_ns == stat.mtime_ns;
            entry.done && entry.offset == stat.size && is_unchanged
        })
    }

    /// Tells whether a newcomer is a known file that was moved here from another file system, which
    /// is a copy with the same last write, and the end of the original.
    fn moved_from(&self, found: &Found, file: &File) -> Option<Moved> {
        let stat = &found.stat;
        let is_read = |life: &&Life| {
            let known = life.harvester.stat();
            life.seen_in_scan != self.n_scans
                && (known.size, known.mtime_ns) == (stat.size, stat.mtime_ns)
                && life.head.len > 0
                && life.head.matches(file, 0).unwrap_or(false)
        };
        if self.lives.values().any(|life| is_read(&&**life)) {
            return Some(Moved::Live);
        }
        let is_former = |former: &&Finished| {
            let entry = &former.entry;
            former.seen_in_scan != self.n_scans
                && !entry.gzipped
                && (entry.offset, entry.mtime_ns) == (stat.size, stat.mtime_ns)
                && entry.offset > 0
                && fits(entry, file, stat).unwrap_or(false)
        };
        let former = self.finished.values().find(is_former)?;
        Some(Moved::Finished(Box::new(former.entry.clone())))
    }

    /// Returns, and forgets, what is remembered of a file.
    pub(super) fn take_entry(&mut self, stat: &Stat) -> Option<Entry> {
        let restored = self.restored.take(stat);
        self.finished.remove(&stat.key()).map(|finished| finished.entry).or(restored)
    }

    pub(super) fn open_life(
        &mut self,
        stream: usize,
        name: Arc<Path>,
        harvester: Harvester,
        begin: Begin,
    ) -> SourceId {
        let path = &self.streams[stream].path;
        let name = if name == *path { Arc::clone(path) } else { name };
        let source = SourceId(self.next_source);
        self.next_source += 1;
        self.counters.files_opened.add(1);
        self.ledger.open(source, begin.offset);
        let input = &self.streams[stream].input;
        let rotated = !begin.is_linked && name != self.streams[stream].path;
        let phase = if begin.place == Place::Late { Phase::Lingering } else { Phase::Waiting };
        self.by_inode.insert(harvester.stat().inode, source);
        self.by_name.insert(Arc::clone(&name), source);
        let life = Life {
            source,
            stream,
            phase,
            name,
            rotated,
            is_linked: begin.is_linked,
            events: EventBuffer::new(begin.offset, Limits::of(input), false),
            filter: Filter::default(),
            said: Said::default(),
            harvester,
            number: begin.number,
            file_id: begin.file_id,
            origin: None,
            is_cut: begin.is_cut,
            arrived: None,
            doubtful_end: 0,
            at_end: false,
            successor_seen: false,
            content: Content::Own,
            n_missed: 0,
            gone: false,
            deleted_at: None,
            turn_read: 0,
            last_turn: self.n_turns,
            grown_at: Instant::now(),
            head: Checksum::default(),
            scan_wanted: 0,
            saved_offset: None,
            guard: Checksum::default(),
            waymarks: begin.waymarks,
            first_seen_ms: begin.first_seen_ms,
            last_seen_ms: begin.first_seen_ms,
            journal: 0,
            queued: false,
            deadline: None,
            seen_in_scan: self.n_scans,
        };
        let life = self.lives.entry(source).or_insert(Box::new(life));
        life.note_head();
        if let Some(file_id) = &life.file_id {
            let Stream { path, input, .. } = &self.streams[stream];
            life.origin = Some(Origin::new(input, &self.config.host, path, file_id));
            life.arrived = self.arrivals.remove(file_id).map(Box::new);
        }
        match begin.place {
            Place::ByAge => self.queue_at(self.place_by_age(source), source),
            Place::At(at) => self.queue_at(at, source),
            Place::Late => {}
        }
        self.has_changed(source);
        self.enqueue(source);
        source
    }

    /// Returns the place in the queue before the first life that is younger.
    fn place_by_age(&self, source: SourceId) -> usize {
        let life = &self.lives[&source];
        let is_younger = |other: &SourceId| is_older(life, &self.lives[other]);
        let queue = &self.streams[life.stream].queue;
        queue.iter().position(is_younger).unwrap_or(queue.len())
    }

    /// Puts a life into the queue of its stream.
    ///
    /// One that is already being read waits if it is younger: what was shipped of it cannot be
    /// called back, but the rest comes behind the older file.
    fn queue_at(&mut self, at: usize, source: SourceId) {
        let queue = &mut self.streams[self.lives[&source].stream].queue;
        let first = queue.front().copied();
        queue.insert(at, source);
        if at == 0 {
            if let Some(first) = first {
                self.set_phase(first, Phase::Waiting);
            }
            self.set_phase(source, Phase::Reading);
        }
    }

    /// Begins at byte 0 of a file that was truncated or overwritten.
    pub(super) fn begin_new_life(&mut self, source: SourceId) {
        let old = self.lives.remove(&source).expect("the life had its turn");
        self.timers.retain(|(_, timed)| *timed != source);
        self.by_inode.remove(&old.harvester.stat().inode);
        let size = old.stat_now().map_or(0, |stat| stat.size);
        self.log_truncated(&old.name, old.events.read_offset(), size);
        let stream = old.stream;
        let queue = &mut self.streams[stream].queue;
        // It takes the place of the old life, whatever its age.
        let at = queue.iter().position(|queued| *queued == source);
        let place = at.map_or(Place::Late, |at| {
            queue.remove(at);
            Place::At(at)
        });
        let begin =
            Begin { number: old.number + 1, is_linked: old.is_linked, place, ..Begin::at(0) };
        let newcomer = self.open_life(stream, old.name, old.harvester.begin_again(), begin);
        let life = self.lives.get_mut(&newcomer).expect("opened above");
        life.seen_in_scan = old.seen_in_scan;
        life.rotated = old.rotated;
        self.forget_if_replaced(source);
        self.begin_after_a_scan(newcomer);
    }

    /// Ends the account of a life that another took the place of, once no batch holds its ground.
    pub(super) fn forget_if_replaced(&mut self, source: SourceId) {
        let holds = |open: &OpenBatch| open.spans.iter().any(|span| span.source == source);
        let is_held = !self.ledger.is_settled(source) || self.open.iter().any(holds);
        let is_alive = self.lives.contains_key(&source) || self.in_turn.contains(&source);
        if !is_alive && !is_held {
            self.ledger.close(source);
        }
    }

    pub(super) fn log_truncated(&self, name: &Path, offset: u64, size: u64) {
        self.counters.files_truncated.add(1);
        log::warn!(
            "file truncated or overwritten: name={} read_offset={offset} size={size}; reading it \
             from its first byte; what had been written after read_offset is lost",
            name.display()
        );
    }

    /// Marks the life that its stream's path named, where it does not any more: a scan amid renames
    /// may have missed its new name, and what it has found is not older for that.
    fn note_out_of_place(&mut self, stream: usize) {
        let Some(source) = self.in_place(stream) else {
            return;
        };
        let life = self.lives.get_mut(&source).expect("lives of queues are open");
        if life.seen_in_scan != self.n_scans
            && !life.is_linked
            && !life.harvester.is_parked()
            && !life.has_its_name()
        {
            life.leave_its_place();
        }
    }

    /// Marks lives whose name is gone: renamed to one that no input matches, or deleted.
    fn note_absent(&mut self, is_scan_complete: bool) {
        let mut astray = Vec::new();
        for life in self.lives.values_mut() {
            let is_parked = life.harvester.is_parked();
            if life.seen_in_scan == self.n_scans
                || life.gone
                || (life.rotated && !is_parked)
                || (life.has_its_name() && !(life.is_linked && is_scan_complete))
            {
                continue;
            }
            life.is_linked = false;
            if is_parked {
                astray.push(life.source);
                continue;
            }
            life.leave_its_place();
        }
        self.find_astray(astray);
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

    /// Watches the folders of patterns and of streams, if they are there and whatever they are now.
    fn watch_folders(&mut self) {
        if self.n_scans == 1 {
            let patterns = self.config.input.iter().flat_map(|input| &input.paths);
            for folder in patterns.filter_map(|pattern| discover::folder_of(pattern)) {
                self.hints.want(&folder);
            }
        }
        self.hints.renew();
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
        self.look_at_all |= names_changed;
        let mut written = HashSet::new();
        for hint in std::iter::once(hint).chain(self.hints.receiver.try_iter()) {
            match hint {
                Hint::Names => names_changed = true,
                // One that is not known is of no interest, or so new that the scan which its
                // creation asked for finds it.
                Hint::Written(path) => written.extend(self.by_name.get(&*path)),
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
        if !life.gone {
            let mut entry = self.entry(&mut life, offset);
            entry.done = true;
            entry.mtime_ns = stat.mtime_ns;
            let is_matched = life.seen_in_scan == self.n_scans;
            self.remember(entry, is_matched);
        } else {
            self.journal.forget(stat.inode, stat.btime_ns);
        }
    }

    pub(super) fn remember_found(&mut self, entry: Entry, found: &Found) {
        let Found { path, stat, .. } = found;
        let name = StoredPath::from(path.as_path());
        let Stat { inode, btime_ns, mtime_ns, .. } = *stat;
        let entry = Entry { name, inode, btime_ns, mtime_ns, ..entry };
        self.remember(entry, !found.is_sibling);
    }

    pub(super) fn remember(&mut self, entry: Entry, is_matched: bool) {
        self.journal.file_changed(None, entry.clone());
        let seen_in_scan = self.n_scans;
        self.finished.insert(
            (entry.inode, entry.btime_ns),
            Finished {
                entry,
                is_matched,
                seen_in_scan,
                n_missed: 0,
                missed_since: None,
                is_gzipped_again: false,
            },
        );
        self.dirty = true;
    }
}

impl Finished {
    /// Tells whether the file is as it was when it was finished, as far as the file system tells.
    pub(super) fn is_unchanged(&self, stat: &Stat) -> bool {
        let entry = &self.entry;
        let size = if entry.gzipped { entry.size } else { entry.offset };
        entry.btime_ns == stat.btime_ns && size == stat.size && entry.mtime_ns == stat.mtime_ns
    }
}

impl Life {
    /// Notes that its name does not lead to it any more.
    fn leave_its_place(&mut self) {
        self.rotated = true;
        let is_deleted = self.harvester.stat_now().is_ok_and(|stat| stat.n_links == 0);
        log::info!(
            "file {}: name={} read_offset={}",
            if is_deleted { "deleted" } else { "renamed" },
            self.name.display(),
            self.events.read_offset()
        );
    }
}

/// Tells whether a life is older than another of its stream: what the path names is the youngest.
///
/// Of two others the one that was born first is older: it may be written to for a while after the
/// next was made. A file that was born after its last write was moved here, or unpacked, and a
/// gzip'd one is younger than what it holds: those are as old as their last write.
fn is_older(life: &Life, other: &Life) -> bool {
    if life.rotated != other.rotated {
        return life.rotated;
    }
    let born = |life: &Life| {
        let stat = life.harvester.stat();
        stat.btime_ns.filter(|born| !life.harvester.is_gzipped() && *born <= stat.mtime_ns)
    };
    let age = |life: &Life| {
        let stat = life.harvester.stat();
        (stat.mtime_ns, stat.btime_ns, discover::rank(&life.name))
    };
    match (born(life), born(other)) {
        (Some(born), Some(other_born)) if born != other_born => born < other_born,
        _ => age(life) < age(other),
    }
}

/// What a file was before it was moved to another file system.
enum Moved {
    /// It is being read.
    Live,
    /// It was read to its end.
    Finished(Box<Entry>),
}

/// Returns the input that a path belongs to, whether a file is there or not.
pub(super) fn input_for(inputs: &[InputConfig], path: &Path) -> Option<usize> {
    inputs.iter().position(|input| {
        let matches = |pattern: &String| discover::matches(pattern, path);
        input.paths.iter().any(matches) && !discover::is_excluded(path, &input.exclude)
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Identity {
    Same,
    /// Without its end, but whole up to a place.
    Cut(Waymark),
    NewLife,
    Other,
}

/// Compares a file with what is remembered of one with its inode.
fn compare(entry: &Entry, file: &File, stat: &Stat) -> io::Result<Identity> {
    if planted::is(Bug::InodeAlone) {
        return Ok(Identity::Same);
    }
    if entry.btime_ns != stat.btime_ns
        || (entry.btime_ns.is_none() && !entry.head.matches(file, 0)?)
    {
        return Ok(Identity::Other);
    }
    Ok(if fits(entry, file, stat)? { Identity::Same } else { Identity::NewLife })
}

/// Tells whether a file holds what is remembered of a file.
pub(super) fn fits(entry: &Entry, file: &File, stat: &Stat) -> io::Result<bool> {
    let guard_end = entry.guard_end.unwrap_or(entry.offset);
    let guard_start = guard_end - u64::from(entry.guard.len);
    if planted::is(Bug::NoGuard) {
        return Ok(true);
    }
    Ok(stat.size >= entry.offset
        && entry.head.matches(file, 0)?
        && entry.guard.matches(file, guard_start)?)
}
