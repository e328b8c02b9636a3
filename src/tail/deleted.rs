//! Deleted files that are still open, for not all of them is shipped.
//!
//! While they are open the disk keeps their bytes, which `df` shows and `du` does not. The
//! operator is told, at once and then in growing pauses. Only where a bound was set, by bytes or
//! by time, are files given up: those deleted first go first, and what was not read of them is
//! counted and named.

use std::time::{Duration, Instant};

use super::fingerprint::Stat;
use super::{Hub, Life};
use crate::error::Error;
use crate::record::SourceId;

/// Longest wait for a receipt, at a stop, before it is tried again to read.
const BLOCKED_PAUSE: Duration = Duration::from_millis(20);

/// Pause after the first warning; it doubles up to [`WARN_PAUSE_MAX`].
const WARN_PAUSE: Duration = Duration::from_secs(60);
const WARN_PAUSE_MAX: Duration = Duration::from_secs(3600);

/// When the operator is told next.
#[derive(Debug, Default)]
pub(super) struct Warning {
    due: Option<Instant>,
    pause: Duration,
}

impl Warning {
    /// Tells whether to warn now that there is something to warn of.
    fn is_due(&mut self, now: Instant) -> bool {
        if self.due.is_some_and(|due| now < due) {
            return false;
        }
        self.pause = (2 * self.pause).clamp(WARN_PAUSE, WARN_PAUSE_MAX);
        self.due = Some(now + self.pause);
        true
    }
}

/// A deleted file that is open.
struct Held {
    since: Instant,
    source: SourceId,
    size: u64,
    /// There are bytes in it that are not settled.
    is_behind: bool,
}

impl Hub<'_> {
    /// Counts deleted files that are open, tells of those that are behind, and gives up those
    /// that exceed a bound.
    pub(super) fn look_at_deleted(&mut self) {
        let now = Instant::now();
        let mut held: Vec<Held> = Vec::new();
        for life in self.lives.values_mut() {
            let settled = self.ledger.settled(life.source).expect("open while the life is");
            held.extend(life.held_deleted(settled, now));
        }
        held.sort_by_key(|held| (held.since, held.source));
        let mut bytes: u64 = held.iter().map(|held| held.size).sum();
        self.counters.deleted_files_held.set(held.len() as u64);
        self.counters.deleted_bytes_held.set(bytes);

        let behind: Vec<Held> = held.into_iter().filter(|held| held.is_behind).collect();
        if let Some(first) = behind.first()
            && self.deleted_warning.is_due(now)
        {
            log::warn!(
                "deleted files are held open until they are shipped: files={} bytes={bytes} \
                 first={}; the disk has their bytes until then",
                behind.len(),
                self.lives[&first.source].name.display()
            );
        }
        let (bytes_max, hold_max) =
            (self.config.tail.deleted_bytes_max, self.config.tail.deleted_hold_max);
        for held in behind {
            if bytes_max.is_some_and(|bytes_max| bytes > bytes_max as u64) {
                self.give_up(held.source, "tail.deleted_bytes_max");
                bytes -= held.size;
            } else if hold_max.is_some_and(|hold_max| now >= held.since + hold_max) {
                self.give_up(held.source, "tail.deleted_hold_max");
            }
        }
    }

    /// Puts into batches, at a stop, what is left of deleted files, for no later process can read
    /// it; until `deadline`.
    pub(super) fn read_deleted_to_their_ends(&mut self, deadline: Instant) -> Result<(), Error> {
        for source in std::mem::take(&mut self.ready) {
            if let Some(life) = self.lives.get_mut(&source) {
                life.queued = false;
            }
        }
        self.is_stopping = true;
        let now = Instant::now();
        let mut deleted = Vec::new();
        for life in self.lives.values_mut() {
            let is_deleted = |stat: Stat| stat.n_links == 0;
            if !life.harvester.is_parked() && life.harvester.stat_now().is_ok_and(is_deleted) {
                life.deleted_at.get_or_insert(now);
                deleted.push(life.source);
            }
        }
        deleted.into_iter().for_each(|source| self.enqueue(source));
        while !self.ready.is_empty() && Instant::now() < deadline {
            let pause = if self.read_ready() { Duration::ZERO } else { BLOCKED_PAUSE };
            if let Ok(delivery) = self.deliveries.recv_timeout(pause) {
                self.on_delivery(delivery)?;
            }
        }
        Ok(())
    }

    /// Closes a deleted file; what was read of it is still shipped.
    fn give_up(&mut self, source: SourceId, bound: &str) {
        let life = self.lives.get_mut(&source).expect("listed above");
        let read_offset = life.events.read_offset();
        let size = life.harvester.stat_now().unwrap_or(*life.harvester.stat()).size;
        self.counters.files_abandoned.add(1);
        self.counters.bytes_abandoned.add(size.saturating_sub(read_offset));
        log::warn!(
            "deleted file given up: name={} from={read_offset} to={size} bound={bound}; these \
             bytes are lost",
            life.name.display()
        );
        life.harvester.park();
        life.gone = true;
        life.at_end = true;
        self.enqueue(source);
    }
}

impl Life {
    fn held_deleted(&mut self, settled: u64, now: Instant) -> Option<Held> {
        // One whose name was seen by the scan is not deleted.
        if !self.rotated || self.harvester.is_parked() {
            return None;
        }
        let stat = self.harvester.stat_now().ok().filter(|stat| stat.n_links == 0)?;
        let since = *self.deleted_at.get_or_insert(now);
        let is_behind = settled < stat.size;
        Some(Held { since, source: self.source, size: stat.size, is_behind })
    }
}
