//! Gzip'd files among the others: which are ready to be read, and which hold what was read before.
//!
//! A rotated file that is compressed is the same file to its readers. It is known by its
//! decompressed head and the bytes before the offset that is remembered of it, and goes on there;
//! one that was read to its end is remembered as finished under its new name, and never read
//! again. What is still being written is waited for. To know a file it is decompressed once, while
//! the hub does nothing else.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::discover::Found;
use super::files::{Begin, Place};
use super::fingerprint::{Checksum, FileKey, Stat, read_range};
use super::folders::ns_of;
use super::gzip::{Problem, Survey};
use super::harvester::Harvester;
use super::registry::{Entry, StoredPath};
use super::waymarks::Waymarks;
use super::{Hub, discover, gzip};
use crate::config::StartAt;

/// How long a gzip'd file must not have changed before it is looked into.
const QUIET: Duration = Duration::from_secs(1);

/// How other ways of compressing begin, by the names they give.
const FOREIGN: [(&str, &[u8]); 6] = [
    ("bz2", b"BZh"),
    ("lz4", &[0x04, 0x22, 0x4d, 0x18]),
    ("xz", &[0xfd, b'7', b'z', b'X', b'Z', 0]),
    ("Z", &[0x1f, 0x9d]),
    ("zip", b"PK\x03\x04"),
    ("zst", &[0x28, 0xb5, 0x2f, 0xfd]),
];

/// A gzip'd file that may still be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unready {
    size: u64,
    mtime_ns: i64,
    pub(super) since: Instant,
}

impl Hub<'_> {
    /// Tells whether a file that is not gzip'd is none to take lines from all the same.
    pub(super) fn is_refused_as_compressed(
        &mut self,
        stream: usize,
        found: &Found,
        file: &File,
    ) -> bool {
        let Some(extension) = found.path.extension().and_then(|extension| extension.to_str())
        else {
            return false;
        };
        if extension == "gz" {
            self.come_back_to(stream, found);
            // One that is begun gets its first bytes soon.
            if self.has_been_quiet(found, QUIET) {
                self.warn_once(&found.path, "it is named .gz and is not gzip'd");
            }
            return true;
        }
        let is_foreign = FOREIGN.iter().any(|(name, magic)| {
            let has_magic = || read_range(file, 0, magic.len() as u64).is_ok_and(|b| b == *magic);
            *name == extension && has_magic()
        });
        if is_foreign {
            self.warn_once(&found.path, "it is compressed, and not by gzip");
        }
        is_foreign
    }

    /// Tells whether a file has not changed for a while.
    fn has_been_quiet(&mut self, found: &Found, time: Duration) -> bool {
        let Stat { inode, size, mtime_ns, .. } = found.stat;
        let now = Instant::now();
        let unready = self.unready.entry(inode).or_insert(Unready { size, mtime_ns, since: now });
        if (unready.size, unready.mtime_ns) != (size, mtime_ns) {
            *unready = Unready { size, mtime_ns, since: now };
        }
        now >= unready.since + time || mtime_ns < ns_of(SystemTime::now() - time)
    }

    /// Opens a gzip'd file, unless it holds what was read, or is not ready.
    pub(super) fn add_gzipped(&mut self, stream: usize, found: Found, file: File, first: bool) {
        let known = self.take_entry(&found.stat);
        if let Some(entry) = known.clone().filter(|entry| is_unchanged(entry, &found.stat)) {
            if entry.done {
                return self.remember_found(entry, &found);
            }
            return self.resume_gzipped(stream, found, file, entry);
        }
        let looked_into = self.look_into(stream, &found, &file);
        let (survey, finished) = match looked_into {
            Ok(Some(looked_into)) => looked_into,
            Ok(None) => {
                self.restored.extend(known);
                return self.come_back_to(stream, &found);
            }
            Err(error) => {
                self.restored.extend(known);
                self.come_back_to(stream, &found);
                return self.warn_once(&found.path, &error.to_string());
            }
        };
        self.unready.remove(&found.stat.inode);
        // It has grown by another member, or was finished too early.
        let goes_on = |entry: &Entry| {
            entry.gzipped
                && entry.btime_ns == found.stat.btime_ns
                && survey.head.begins_with(&entry.head)
                && survey.len >= entry.offset
        };
        if let Some(entry) = known.clone().filter(goes_on) {
            return self.resume_gzipped(stream, found, file, entry);
        }
        if let Some(former) = finished {
            return self.know_gzipped_again(stream, found, file, &survey, former);
        }
        if let Some(problem) = &survey.problem {
            self.counters.files_damaged.add(1);
            log::warn!(
                "file damaged: name={} offset={}: {problem}; what follows this offset is lost",
                found.path.display(),
                survey.len
            );
        }
        let input = &self.streams[stream].input;
        let is_old = first && input.start_at == StartAt::End && !self.had_registry;
        let offset = if is_old { survey.len } else { 0 };
        log::info!("file found: name={} offset={offset}", found.path.display());
        let is_same = |entry: &Entry| entry.btime_ns == found.stat.btime_ns && !entry.is_unread();
        let number = known.filter(is_same);
        let number = number.map_or(0, |entry| entry.life + 1);
        let begin = Begin { number, ..Begin::at(offset) };
        self.open_gzipped(stream, found, file, survey.head.checksum(), begin);
    }

    /// Decompresses a file once; also returns the finished file whose bytes it holds. `None` while
    /// it is not ready.
    fn look_into(
        &mut self,
        stream: usize,
        found: &Found,
        file: &File,
    ) -> io::Result<Option<(Survey, Option<FileKey>)>> {
        // One that is whole is ready; the pause spares looking at one that grows again and again.
        if self.unready.contains_key(&found.stat.inode) && !self.has_been_quiet(found, QUIET) {
            return Ok(None);
        }
        let head = gzip::head_of(file.try_clone()?)?;
        let is_live = self.lives.values().any(|life| {
            // Not, or not any more, what the path names.
            let is_rotated = life.rotated || life.seen_in_scan != self.n_scans;
            let is_candidate = life.stream == stream && is_rotated && life.head.len > 0;
            is_candidate && head.begins_with(&life.head)
        });
        if is_live || self.awaits_truncation(stream) {
            // What holds its bytes is still being read.
            return Ok(None);
        }
        let path = self.streams[stream].path.clone();
        let is_of_stream = |entry: &Entry| *PathBuf::from(&entry.path) == *path;
        let finished = self.finished.values().filter(|file| !file.is_gzipped_again);
        let offsets = finished.map(|file| &file.entry).filter(|entry| is_of_stream(entry));
        let survey = Survey::of(file.try_clone()?, offsets.map(guard_end).collect())?;
        let stalled = self.config.tail.rotate_grace.max(QUIET);
        let source = found.path.with_extension("");
        if survey.problem == Some(Problem::Cut)
            && (!self.has_been_quiet(found, stalled) || source.exists())
        {
            return Ok(None);
        }
        let is_other_write = |entry: &Entry| entry.mtime_ns != found.stat.mtime_ns;
        let mut matching: Vec<_> = self
            .finished
            .iter()
            .filter(|(_, file)| !file.is_gzipped_again && is_of_stream(&file.entry))
            .filter(|(_, file)| is_held_by(&file.entry, &survey))
            .map(|(key, file)| (is_other_write(&file.entry), file.entry.mtime_ns, *key))
            .collect();
        matching.sort_unstable_by_key(|(is_other, mtime_ns, (inode, _))| {
            (*is_other, *mtime_ns, inode.ino)
        });
        Ok(Some((survey, matching.first().map(|(_, _, key)| *key))))
    }

    /// Remembers a gzip'd file as the finished one it was made of; what had been written to that
    /// since is shipped.
    fn know_gzipped_again(
        &mut self,
        stream: usize,
        found: Found,
        file: File,
        survey: &Survey,
        former: FileKey,
    ) {
        let finished = self.finished.get_mut(&former).expect("found above");
        finished.is_gzipped_again = true;
        let entry = gzipped_entry(finished.entry.clone(), &found, survey);
        log::info!(
            "file compressed: name={} new_name={} offset={}",
            PathBuf::from(&finished.entry.name).display(),
            found.path.display(),
            entry.offset
        );
        match entry.done {
            true => self.remember_found(entry, &found),
            false => self.resume_gzipped(stream, found, file, Entry { done: true, ..entry }),
        }
    }

    fn resume_gzipped(&mut self, stream: usize, found: Found, file: File, entry: Entry) {
        log::info!("file resumed: name={} offset={}", found.path.display(), entry.offset);
        let begin = Begin {
            offset: entry.offset,
            number: entry.life,
            file_id: entry.file_id,
            first_seen_ms: entry.first_seen_ms,
            is_linked: false,
            place: if entry.done { Place::Late } else { Place::ByAge },
            waymarks: Waymarks::default(),
            is_cut: false,
        };
        self.open_gzipped(stream, found, file, entry.head, begin);
    }

    fn open_gzipped(
        &mut self,
        stream: usize,
        found: Found,
        file: File,
        head: Checksum,
        begin: Begin,
    ) {
        let harvester = Harvester::gzipped(&self.open_files, file, found.stat);
        let source = self.open_life(stream, found.path.into(), harvester, begin);
        self.lives.get_mut(&source).expect("opened above").head = head;
    }

    /// Finds, at the start, files that were compressed while the shipper was stopped, whatever
    /// their names are: what is remembered of the file is then remembered of the gzip'd one.
    pub(super) fn find_restored_gzipped(&mut self, arrivals: &mut BTreeMap<usize, Vec<Found>>) {
        let mut folders: HashMap<PathBuf, Folder> = HashMap::new();
        let mut streams: BTreeMap<PathBuf, Vec<Entry>> = BTreeMap::new();
        for entry in self.restored.iter().filter(|entry| !entry.gzipped) {
            let path = PathBuf::from(&entry.path);
            let folder = path.parent().unwrap_or(Path::new("/"));
            if !folders.contains_key(folder) {
                folders.insert(folder.to_path_buf(), Folder::list(folder));
            }
            if !folders[folder].keys.contains(&(entry.inode.ino, entry.btime_ns)) {
                streams.entry(path).or_default().push(entry.clone());
            }
        }
        for (path, mut absent) in streams {
            let Some(&stream) = self.stream_of.get(&*path) else { continue };
            let files = &folders[path.parent().unwrap_or(Path::new("/"))].files;
            absent.sort_by_key(|entry| entry.mtime_ns);
            let mut gzipped: Vec<&(PathBuf, Stat)> = files
                .iter()
                .filter(|(name, _)| name.extension().is_some_and(|extension| extension == "gz"))
                .collect();
            gzipped.sort_by_key(|(name, stat)| (stat.mtime_ns, name.clone()));
            for (name, stat) in gzipped {
                if self.restored.get(stat).is_some_and(|entry| !entry.is_unread()) {
                    continue;
                }
                let Some(survey) = survey_of(name, &absent) else { continue };
                // A head alone is that of many files: an older one may have been left out.
                let is_it = |entry: &&Entry| {
                    is_held_by(entry, &survey)
                        && (entry.offset > 0 || entry.mtime_ns <= stat.mtime_ns)
                };
                let matching = absent.iter().filter(is_it);
                let is_other_write = |entry: &&Entry| entry.mtime_ns != stat.mtime_ns;
                let Some(entry) = matching.min_by_key(is_other_write).cloned() else { continue };
                absent.retain(|other| *other != entry);
                let found = Found {
                    path: name.clone(),
                    link: None,
                    input: 0,
                    stat: *stat,
                    is_sibling: true,
                };
                self.restore_gzipped(entry, &found, &survey);
                let arriving = arrivals.entry(stream).or_default();
                if arriving.iter().all(|other| other.stat.inode != stat.inode) {
                    arriving.push(found);
                }
            }
        }
    }

    fn restore_gzipped(&mut self, entry: Entry, found: &Found, survey: &Survey) {
        let former = Stat { inode: entry.inode, btime_ns: entry.btime_ns, ..found.stat };
        self.restored.take(&former);
        self.restored.take(&found.stat);
        log::info!(
            "file compressed while stopped: name={} new_name={} offset={}",
            PathBuf::from(&entry.name).display(),
            found.path.display(),
            entry.offset
        );
        self.restored.extend([gzipped_entry(entry, found, survey)]);
    }
}

/// The files of a folder, and what tells each of them from all others on its device.
struct Folder {
    files: Vec<(PathBuf, Stat)>,
    keys: HashSet<(u64, Option<i64>)>,
}

impl Folder {
    /// One that cannot be read has no files.
    fn list(folder: &Path) -> Folder {
        let files = discover::list(folder).unwrap_or_default();
        let keys = files.iter().map(|(_, stat)| (stat.inode.ino, stat.btime_ns)).collect();
        Folder { files, keys }
    }
}

/// Decompresses a file, if it is gzip'd and begins like one of those that are remembered.
fn survey_of(path: &Path, entries: &[Entry]) -> Option<Survey> {
    let (file, _) = discover::open(path).ok()?;
    let head = gzip::head_of(file.try_clone().ok()?).ok()?;
    if !entries.iter().any(|entry| entry.head.len > 0 && head.begins_with(&entry.head)) {
        return None;
    }
    Survey::of(file, entries.iter().map(guard_end).collect()).ok()
}

/// Tells whether a gzip'd file holds the bytes that are remembered of a plain one.
pub(super) fn is_held_by(entry: &Entry, survey: &Survey) -> bool {
    let is_known = !entry.gzipped && entry.head.len > 0;
    is_known
        && survey.len >= entry.offset
        && survey.head.begins_with(&entry.head)
        && survey.has_guard(guard_end(entry), &entry.guard)
}

/// Returns where the bytes that the guard is of end: what the journal says of an offset is younger
/// than the guard that the registry has.
pub(super) fn guard_end(entry: &Entry) -> u64 {
    entry.guard_end.unwrap_or(entry.offset)
}

/// Returns what is remembered of a file after it was compressed.
pub(super) fn gzipped_entry(entry: Entry, found: &Found, survey: &Survey) -> Entry {
    Entry {
        name: StoredPath::from(found.path.as_path()),
        inode: found.stat.inode,
        btime_ns: found.stat.btime_ns,
        mtime_ns: found.stat.mtime_ns,
        head: survey.head.checksum(),
        guard: Checksum::default(),
        guard_end: None,
        waymarks: Vec::new(),
        done: entry.done && entry.offset == survey.len,
        size: found.stat.size,
        gzipped: true,
        spent: false,
        ..entry
    }
}

fn is_unchanged(entry: &Entry, stat: &Stat) -> bool {
    entry.gzipped
        && entry.btime_ns == stat.btime_ns
        && entry.size == stat.size
        && entry.mtime_ns == stat.mtime_ns
}
