//! How many files are open at once.
//!
//! Beyond the limit, those whose last turn is longest ago are parked: closed, to be opened again
//! for their next turn. A file that was deleted is never parked, for nothing else leads to its
//! bytes; nor is one that could not be opened again. A parked file whose name is gone is looked
//! for by its inode in its folder; where three scans have not found it, it is gone, and what had
//! not been read is reported as lost.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{Access, access};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::fingerprint::{Inode, Stat};
use super::harvester::Reopened;
use super::{Content, Hub, Life, Turn, discover};
use crate::record::SourceId;

/// Scans in a row that must miss a parked file: one in the middle of a chain of renames sees some
/// files under no name.
const MISSED_SCANS_MAX: u32 = 3;

/// How many files may be open.
pub(super) struct Limit {
    /// As configured, or what the process may have.
    files_max: usize,
    /// Lower than that while the process or the system runs out of descriptors.
    files_now: usize,
    /// Nothing can be parked until the next scan has looked again.
    is_full: bool,
    /// Warned of already.
    is_said: bool,
}

impl Limit {
    pub(super) fn new(configured: Option<usize>) -> Limit {
        let possible = possible_files();
        let files_max = configured.map_or(possible, |files_max| files_max.min(possible));
        Limit { files_max, files_now: files_max, is_full: false, is_said: false }
    }

    /// After a scan that had what it needed: there may be room again.
    pub(super) fn relax(&mut self) {
        self.is_full = false;
        self.files_now = self.files_max.min(self.files_now + self.files_now / 16 + 1);
    }
}

impl Hub<'_> {
    /// Parks files until one more may be opened; `false` if none can be parked.
    pub(super) fn make_room_for_a_file(&mut self) -> bool {
        let limit = &self.open_files_limit;
        if self.open_files.count() < limit.files_now {
            return true;
        }
        if limit.is_full {
            return false;
        }
        // Several at once, for choosing them means to look at all.
        let n = self.open_files.count() - limit.files_now + limit.files_now / 8 + 1;
        if self.park(n) {
            return true;
        }
        self.open_files_limit.is_full = true;
        self.say_limited();
        false
    }

    /// Makes do with fewer open files: the process or the system has no descriptors left.
    pub(super) fn lower_open_files(&mut self) {
        self.say_limited();
        let n = self.open_files.count();
        self.open_files_limit.files_now = (n - n / 4).max(1);
        self.park(n / 4);
    }

    /// Warns, once, that there are too few descriptors.
    fn say_limited(&mut self) {
        if !self.open_files_limit.is_said {
            self.open_files_limit.is_said = true;
            log::warn!(
                "{} files are open, and no more can be: the others wait for their turn; raise the \
                 limit of open files (LimitNOFILE)",
                self.open_files.count()
            );
        }
    }

    /// Parks up to `n` files; `false` if there was none.
    fn park(&mut self, n: usize) -> bool {
        let open = self.lives.values().filter(|life| !life.harvester.is_parked());
        let mut open: Vec<_> =
            open.map(|life| (life.rotated, life.last_turn, life.source)).collect();
        open.sort_unstable();
        let mut n_parked = 0;
        for (_, _, source) in open {
            let life = self.lives.get_mut(&source).expect("listed above");
            if n_parked < n && life.can_be_opened_again() {
                let offset = self.ledger.settled(source).expect("open while the life is");
                life.note_checksums(offset);
                life.harvester.park();
                // Made again for its next event.
                life.origin = None;
                n_parked += 1;
            }
        }
        n_parked > 0
    }

    /// Opens the file of a life whose turn it is, if it is parked; returns how the turn ends where
    /// that cannot be.
    pub(super) fn reopen(&mut self, life: &mut Life) -> io::Result<Option<Turn>> {
        if !life.harvester.is_parked() || life.gone || life.content != Content::Own {
            return Ok(None);
        }
        let later = Turn::Wait(Some(Instant::now() + self.config.tail.scan_interval));
        if !self.make_room_for_a_file() {
            return Ok(Some(later));
        }
        let read_offset = life.events.read_offset();
        let n_unread = life.n_unread();
        match life.harvester.reopen(&self.open_files, &life.name, read_offset, &life.head) {
            Ok(Reopened::Same) => Ok(None),
            Ok(Reopened::Replaced) => Ok(Some(Turn::Truncated { n_unread })),
            // The scan looks for it under other names.
            Ok(Reopened::Moved) => {
                self.scan_soon();
                Ok(Some(later))
            }
            Err(error) if is_exhausted(&error) => {
                self.lower_open_files();
                Ok(Some(later))
            }
            Err(error) => Err(error),
        }
    }

    /// Looks for parked files that are not found under their names any more.
    pub(super) fn find_astray(&mut self, astray: Vec<SourceId>) {
        type ByInode = HashMap<Inode, (PathBuf, Stat)>;
        let mut folders: HashMap<PathBuf, io::Result<ByInode>> = HashMap::new();
        for source in astray {
            let life = self.lives.get_mut(&source).expect("listed by the scan");
            let folder = life.name.parent().unwrap_or(Path::new("/"));
            let files = folders.entry(folder.to_path_buf()).or_insert_with(|| {
                let files = discover::list(folder)?;
                Ok(files.into_iter().map(|(name, stat)| (stat.inode, (name, stat))).collect())
            });
            // A folder that cannot be read does not make its files gone.
            let Ok(files) = files else { continue };
            let known = life.harvester.stat();
            match files.get(&known.inode).filter(|(_, stat)| stat.btime_ns == known.btime_ns) {
                Some((name, _)) => {
                    log::info!(
                        "file renamed: name={} new_name={} read_offset={}",
                        life.name.display(),
                        name.display(),
                        life.events.read_offset()
                    );
                    life.name = name.as_path().into();
                    life.rotated = true;
                    life.n_missed = 0;
                }
                None => {
                    life.n_missed += 1;
                    if life.n_missed < MISSED_SCANS_MAX {
                        continue;
                    }
                    life.gone = true;
                    life.at_end = true;
                    let (read_offset, size) = (life.events.read_offset(), known.size);
                    self.counters.bytes_lost.add(life.n_unread());
                    log::warn!(
                        "file deleted while it was not open: name={} read_offset={read_offset} \
                         last_size={size}; what was written after read_offset is lost",
                        life.name.display()
                    );
                }
            }
            self.enqueue(source);
        }
    }
}

impl Life {
    /// Tells whether its name leads to it, and it may be read.
    fn can_be_opened_again(&self) -> bool {
        let stat = self.harvester.stat_now();
        let by_name = std::fs::symlink_metadata(&self.name).map(|metadata| Stat::from(&metadata));
        let (Ok(stat), Ok(by_name)) = (stat, by_name) else {
            return false;
        };
        stat.inode == by_name.inode && access(&*self.name, Access::READ_OK).is_ok()
    }
}

/// Tells whether the process, or the system, has no descriptors left.
pub(super) fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

/// Raises the process's limit of open files as far as it may, and returns how many of them may be
/// logs: a backlog that took them all would leave none for the broker and the registry, and
/// nothing could ever be finished.
fn possible_files() -> usize {
    /// Connections, folders, the registry, notices.
    const OTHERS: u64 = 128;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, ..limit };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = raised;
        }
    }
    let n = limit.current.unwrap_or(u64::MAX);
    usize::try_from(n - OTHERS.min(n / 2)).unwrap_or(usize::MAX)
}
