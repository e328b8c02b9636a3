//! What the registry said and no file has been found for yet.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::fingerprint::Stat;
use super::registry::Entry;
use crate::planted::{self, Bug};

/// Entries that wait for their files.
#[derive(Debug, Default)]
pub(super) struct Restored {
    /// By inode number alone: the device's may be another one since the host was started.
    by_ino: HashMap<u64, Vec<Entry>>,
    /// Of each stream that the registry knew at the start, the last write up to which its lives
    /// were read, or left out.
    read_mtime_ns: HashMap<PathBuf, i64>,
    last_seen_ms: i64,
}

impl Restored {
    pub(super) fn new(entries: Vec<Entry>) -> Restored {
        let read_mtime_ns = read_mtime_ns(&entries);
        let last_seen_ms = entries.iter().map(|entry| entry.last_seen_ms).max().unwrap_or(0);
        let mut restored = Restored { by_ino: HashMap::new(), read_mtime_ns, last_seen_ms };
        restored.extend(entries);
        restored
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.by_ino.values().flatten()
    }

    pub(super) fn extend(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            self.by_ino.entry(entry.inode.ino).or_default().push(entry);
        }
    }

    /// Returns what is remembered of a file, as far as inode and birth time tell.
    pub(super) fn get(&self, stat: &Stat) -> Option<&Entry> {
        self.by_ino.get(&stat.inode.ino)?.iter().find(|entry| is_file(entry, stat))
    }

    /// Returns, and forgets, what is remembered of a file.
    pub(super) fn take(&mut self, stat: &Stat) -> Option<Entry> {
        let entries = self.by_ino.get_mut(&stat.inode.ino)?;
        let at = entries.iter().position(|entry| is_file(entry, stat))?;
        let mut entry = entries.swap_remove(at);
        entry.missed_since_ms = None;
        if entries.is_empty() {
            self.by_ino.remove(&stat.inode.ino);
        }
        Some(entry)
    }

    /// Returns what is remembered of a life of a file.
    pub(super) fn life(&self, of: &Entry) -> Option<&Entry> {
        let entries = self.by_ino.get(&of.inode.ino)?;
        entries.iter().find(|entry| (entry.btime_ns, entry.life) == (of.btime_ns, of.life))
    }

    /// As [`Restored::life`].
    pub(super) fn life_mut(&mut self, of: &Entry) -> Option<&mut Entry> {
        let entries = self.by_ino.get_mut(&of.inode.ino)?;
        entries.iter_mut().find(|entry| (entry.btime_ns, entry.life) == (of.btime_ns, of.life))
    }

    /// Forgets the entries that `keep` does not want, and returns them.
    pub(super) fn split_off(&mut self, mut keep: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        let all: Vec<Entry> = std::mem::take(&mut self.by_ino).into_values().flatten().collect();
        let (kept, gone): (Vec<Entry>, Vec<Entry>) = all.into_iter().partition(|entry| keep(entry));
        self.extend(kept);
        gone
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.by_ino.values_mut().flatten()
    }

    /// Returns when the offset of any life last moved, as the registry said at the start, in
    /// milliseconds since 1970.
    pub(super) fn last_seen_ms(&self) -> i64 {
        self.last_seen_ms
    }

    /// Returns the streams that the registry knew at the start.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.read_mtime_ns.keys().map(PathBuf::as_path)
    }

    /// Returns the last write up to which the lives of a stream were read or left out, as the
    /// registry said: a file that nobody knows and that was written since was never seen.
    pub(super) fn read_mtime_ns(&self, path: &Path) -> Option<i64> {
        self.read_mtime_ns.get(path).copied()
    }
}

/// A life is read only when all that are older have been, so what counts is the youngest of which
/// anything was settled. That a file was seen says nothing: a process that was killed before its
/// turn may not have seen, nor read, the ones before it. Where nothing was settled, what is older
/// than all that was seen was left out.
fn read_mtime_ns(entries: &[Entry]) -> HashMap<PathBuf, i64> {
    let mut streams: HashMap<PathBuf, (Option<i64>, i64)> = HashMap::new();
    for Entry { path, offset, mtime_ns, .. } in entries {
        let stream = streams.entry(PathBuf::from(path));
        let (read, seen) = stream.or_insert((None, *mtime_ns));
        *seen = *mtime_ns.min(seen);
        if *offset > 0 {
            *read = Some(*mtime_ns).max(*read);
        }
    }
    streams.into_iter().map(|(path, (read, seen))| (path, read.unwrap_or(seen))).collect()
}

fn is_file(entry: &Entry, stat: &Stat) -> bool {
    if planted::is(Bug::InodeAlone) {
        return entry.inode.ino == stat.inode.ino;
    }
    entry.inode.ino == stat.inode.ino
        && entry.btime_ns == stat.btime_ns
        && (entry.btime_ns.is_some() || entry.inode.dev == stat.inode.dev)
}
