//! What stands beside the files of streams.
//!
//! Rotated files that no pattern leads to are found here: those that are known under a new name,
//! and those that were written and renamed between two looks, so that nobody saw them under their
//! path. A folder is listed only when names in it have changed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Hub;
use super::discover::{self, Found};
use super::files::input_for;
use super::fingerprint::{Inode, Stat};
use super::registry::{Entry, StoredPath};
use crate::config::{Config, show_duration};

/// Times of files lag behind the clock by up to a tick of the kernel: 10 ms at 100 Hz.
const TICK: Duration = Duration::from_millis(10);

/// Looks in a row that must miss a finished file before it is forgotten: a look in the middle of a
/// chain of renames sees some files under neither name, and what was forgotten is shipped again.
const ABSENT_LOOKS: u32 = 10;

/// Listings of a folder whose names change, at most, for two in a row to agree.
const LISTINGS_MAX: usize = 5;
/// How long they must have missed it: its gzip'd successor may take a while to be recognised.
const ABSENT_FOR: Duration = Duration::from_secs(60);

/// Folders that hold files of streams.
#[derive(Debug, Default)]
pub(super) struct Folders {
    known: HashMap<PathBuf, Known>,
    /// Those that the scan under way has listed, and their devices.
    listed: HashMap<PathBuf, u64>,
}

/// What is known of a folder.
#[derive(Debug, Default)]
struct Known {
    /// What it was when it was last listed.
    stamp: Option<Stamp>,
    /// It need not be listed as long as it is that.
    is_enough: bool,
}

/// Changes with any name in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: Inode,
    mtime_ns: i64,
}

impl Stamp {
    fn of(folder: &Stat) -> Stamp {
        Stamp { inode: folder.inode, mtime_ns: folder.mtime_ns }
    }
}

impl Folders {
    /// Takes a folder in, unless it is known.
    pub(super) fn add(&mut self, folder: &Path) {
        if !self.known.contains_key(folder) {
            self.known.insert(folder.to_path_buf(), Known::default());
        }
    }

    /// Has the folder of a file listed by the next scan, whether it changes or not.
    pub(super) fn look_again(&mut self, name: &Path) {
        if let Some(known) = name.parent().and_then(|folder| self.known.get_mut(folder)) {
            known.is_enough = false;
        }
    }

    /// Tells whether what stands beside a file is to be listed, for names there have changed or may
    /// have, or a file could not be read.
    pub(super) fn must_list(&self, name: &Path) -> bool {
        let known = name.parent().and_then(|folder| self.known.get(folder));
        known.is_some_and(|known| !known.is_enough) || self.have_changed(name)
    }

    /// Tells whether names beside a file have changed since they were last listed.
    pub(super) fn have_changed(&self, name: &Path) -> bool {
        let known = name.parent().and_then(|folder| Some((folder, self.known.get(folder)?)));
        known.is_some_and(|(folder, known)| {
            let now = fs::metadata(folder).map(|metadata| Stamp::of(&Stat::from(&metadata)));
            known.stamp.is_some_and(|stamp| now.ok() != Some(stamp))
        })
    }

    /// Lists the folders whose names have changed since they were last listed.
    fn list_changed(&mut self) -> Vec<(PathBuf, Stat)> {
        self.listed.clear();
        let mut files = Vec::new();
        for (folder, known) in &mut self.known {
            let Ok(metadata) = fs::metadata(folder) else {
                *known = Known::default();
                continue;
            };
            let stamp = Stamp::of(&Stat::from(&metadata));
            if known.stamp == Some(stamp) && known.is_enough {
                continue;
            }
            // Another change within the same tick would not show.
            let is_old = stamp.mtime_ns < ns_of(SystemTime::now() - 2 * TICK);
            *known = Known::default();
            if let Ok(found) = list_at_rest(folder) {
                files.extend(found);
                *known = Known { stamp: Some(stamp), is_enough: is_old };
                self.listed.insert(folder.clone(), stamp.inode.dev);
            }
        }
        files
    }
}

/// Lists a folder again and again until two listings agree: where one cannot be had of one moment, it
/// may show a file that is renamed under none of its names, and its successor would be read first.
pub(super) fn list_at_rest(folder: &Path) -> io::Result<Vec<(PathBuf, Stat)>> {
    let names = |(name, stat): &(PathBuf, Stat)| (name.clone(), stat.inode);
    let mut files = discover::list(folder)?;
    for _ in 1..LISTINGS_MAX {
        let again = discover::list(folder)?;
        let is_same = files.iter().map(names).eq(again.iter().map(names));
        files = again;
        if is_same {
            break;
        }
    }
    Ok(files)
}

/// Returns the time from which on a file must have been born and written to be younger than this
/// process.
pub(super) fn start_ns() -> i64 {
    ns_of(SystemTime::now() - TICK)
}

pub(super) fn ns_of(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

impl Hub<'_> {
    /// Looks at what stands beside the files of streams, where names have changed.
    pub(super) fn find_siblings(&mut self, arrivals: &mut BTreeMap<usize, Vec<Found>>) {
        let files = self.folders.list_changed();
        let inodes = arrivals.values().flatten().map(|found| found.stat.inode);
        let arriving: HashSet<Inode> = inodes.collect();
        let mut names = HashMap::new();
        let mut siblings = Vec::new();
        for (name, stat) in files {
            if self.is_known_sibling(&name, &stat) {
                continue;
            }
            if arriving.contains(&stat.inode) {
                names.insert(stat.inode, name);
                continue;
            }
            if let Some(stream) = self.stream_of_sibling(&name, &stat) {
                let found = Found { path: name, link: None, input: 0, stat, is_sibling: true };
                siblings.push((stream, found));
            }
        }
        // Names tell which file is older, and only those of one moment do.
        for found in arrivals.values_mut().flatten() {
            if let Some(name) = names.get(&found.stat.inode)
                && (discover::is_renamed(&found.stat, &found.path, name) || !found.has_its_name())
            {
                found.path = name.clone();
            }
        }
        for (stream, found) in siblings {
            arrivals.entry(stream).or_default().push(found);
        }
    }

    /// Notes the name of a file that is known and that no pattern led to.
    fn is_known_sibling(&mut self, name: &Path, stat: &Stat) -> bool {
        if let Some(&source) = self.by_inode.get(&stat.inode) {
            self.note_found(source, name, None, stat);
            return true;
        }
        let Some(finished) = self.finished.get_mut(&stat.key()) else {
            return false;
        };
        if finished.seen_in_scan != self.n_scans {
            finished.seen_in_scan = self.n_scans;
            finished.entry.name = StoredPath::from(name);
        }
        finished.is_unchanged(stat)
    }

    /// Returns the stream of a file that no pattern leads to and that is to be read all the same:
    /// it is known and not finished, or was written after all that was read of its stream.
    pub(super) fn stream_of_sibling(&self, name: &Path, stat: &Stat) -> Option<usize> {
        let remembered = self.restored.get(stat);
        let finished = self.finished.get(&stat.key()).map(|file| &file.entry);
        if let Some(entry) = remembered.or(finished) {
            return self.stream_of.get(&*PathBuf::from(&entry.path)).copied();
        }
        let path = discover::written_under(name);
        let stream = *self.stream_of.get(&*path)?;
        let known = &self.streams[stream];
        // What was born and written since this process began was not there to be left out.
        let is_young = stat.btime_ns.unwrap_or(stat.mtime_ns).min(stat.mtime_ns) >= self.started_ns;
        let is_newer = known.read_mtime_ns.is_some_and(|read| stat.mtime_ns >= read);
        let is_rotated = path != name && !discover::is_excluded(name, &known.input.exclude);
        (is_rotated && (is_young || is_newer)).then_some(stream)
    }

    /// Forgets finished files that are gone: those that looks at their folder do not show.
    pub(super) fn forget_absent(&mut self, is_scan_complete: bool) {
        let (n_scans, now) = (self.n_scans, Instant::now());
        let listed = &self.folders.listed;
        let n_before = self.finished.len();
        let journal = &self.journal;
        self.finished.retain(|_, file| {
            if file.seen_in_scan == n_scans {
                (file.n_missed, file.missed_since) = (0, None);
                return true;
            }
            if !file.is_matched && listed.is_empty() {
                return true;
            }
            let name = PathBuf::from(&file.entry.name);
            let folder = name.parent().unwrap_or(Path::new("/"));
            // Where another file system was mounted, or none any more, nothing is gone.
            let device = match listed.get(folder) {
                Some(device) => Some(*device),
                None if file.is_matched && is_scan_complete => {
                    fs::metadata(folder).ok().map(|metadata| Stat::from(&metadata).inode.dev)
                }
                None => None,
            };
            let since = *file.missed_since.get_or_insert(now);
            if device == Some(file.entry.inode.dev) {
                file.n_missed += 1;
            }
            let is_kept = file.n_missed < ABSENT_LOOKS || now < since + ABSENT_FOR;
            if !is_kept {
                journal.forget(file.entry.inode, file.entry.btime_ns);
            }
            is_kept
        });
        self.dirty |= self.finished.len() != n_before;
    }

    /// Forgets, at the start, what the registry said of files that are known to be gone.
    pub(super) fn forget_gone(&mut self) {
        let mut folders = HashMap::new();
        // A file that cannot be opened now, or that no input matches now, is not forgotten.
        let gone = self.restored.split_off(|entry| !is_gone(entry, &mut folders));
        for entry in gone.iter().filter(|entry| !entry.done) {
            log::warn!(
                "file gone while stopped: path={} name={} offset={}; what was written after \
                 this offset is lost",
                PathBuf::from(&entry.path).display(),
                PathBuf::from(&entry.name).display(),
                entry.offset
            );
        }
    }
    /// Says once, at the start, which files no input leads to any more, and forgets those of which
    /// it was said long ago. What an input leads to and cannot be opened now is never forgotten.
    pub(super) fn forget_unmatched(&mut self, now_ms: i64) {
        let Config { input: inputs, tail, .. } = self.config;
        let is_led_to = |entry: &Entry| {
            let is_matched = |path: &StoredPath| input_for(inputs, &PathBuf::from(path)).is_some();
            is_matched(&entry.path) || is_matched(&entry.name)
        };
        let keep_ms = tail.forget_after.as_millis() as i64;
        let expired = self.restored.split_off(|entry| {
            let is_due = entry.missed_since_ms.is_some_and(|since| since + keep_ms <= now_ms);
            !is_due || is_led_to(entry)
        });
        for entry in &expired {
            log::info!(
                "file forgotten, for no input has led to it for {}: name={} offset={}",
                show_duration(tail.forget_after),
                PathBuf::from(&entry.name).display(),
                entry.offset
            );
        }
        self.dirty |= !expired.is_empty();
        for entry in self.restored.iter_mut() {
            if is_led_to(entry) {
                self.dirty |= entry.missed_since_ms.take().is_some();
            } else if entry.missed_since_ms.is_none() {
                log::warn!(
                    "no input leads to a file any more that was shipped: name={} offset={}; it is \
                     read no further, and its offset is remembered for tail.forget_after={}",
                    PathBuf::from(&entry.name).display(),
                    entry.offset,
                    show_duration(tail.forget_after)
                );
                entry.missed_since_ms = Some(now_ms);
                self.dirty = true;
            }
        }
    }
}

/// A folder's device, and inode numbers and birth times of the files in it.
type Contents = (u64, HashSet<(u64, Option<i64>)>);

/// Tells whether a file is known to be gone: its folder is on the device it was on, can be read,
/// and holds no such file.
fn is_gone(entry: &Entry, folders: &mut HashMap<PathBuf, Option<Contents>>) -> bool {
    let name = PathBuf::from(&entry.name);
    let folder = name.parent().unwrap_or(Path::new("/"));
    if !folders.contains_key(folder) {
        folders.insert(folder.to_path_buf(), contents_of(folder).ok());
    }
    folders[folder].as_ref().is_some_and(|(device, files)| {
        *device == entry.inode.dev && !files.contains(&(entry.inode.ino, entry.btime_ns))
    })
}

fn contents_of(folder: &Path) -> io::Result<Contents> {
    let device = Stat::from(&fs::metadata(folder)?).inode.dev;
    let files = discover::list(folder)?.into_iter();
    Ok((device, files.map(|(_, stat)| (stat.inode.ino, stat.btime_ns)).collect()))
}
