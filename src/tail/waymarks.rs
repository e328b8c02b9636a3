//! Where to go on in a file of which a power cut took the end.
//!
//! What a writer does not fsync is on the disk about a minute later: the kernel writes pages out
//! that are 30 seconds old, and the file system's own log follows within another 30. So of each
//! file that grows the places are remembered up to which it was settled in the last minutes, with
//! the offset that its partition had then. A file that holds less than what was shipped of it is
//! read again from the last of these that is still in it, and the partition is read back from that
//! offset: what stands there is compared with the file, event by event.
//!
//! Source: `vm.dirty_expire_centisecs` (Documentation/admin-guide/sysctl/vm.rst), `commit` (ext4(5)),
//! `fs.xfs.xfssyncd_centisecs` (Documentation/admin-guide/xfs.rst).

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use super::fingerprint::Stat;
use super::registry::{Entry, Waymark};

/// Time between two places.
const EVERY: Duration = Duration::from_secs(30);
/// Places of one file: the oldest is two minutes old or more, twice what may be lost.
const WAYMARKS_MAX: usize = 5;
/// Milliseconds between the last growth of a file and that of any file, in the registry, beyond
/// which a power cut cannot have taken the end of it.
pub(super) const RECENT_MS: i64 = WAYMARKS_MAX as i64 * 30_000;

/// The places of one file, oldest first.
#[derive(Debug, Default)]
pub(super) struct Waymarks {
    places: Vec<Waymark>,
    noted_at: Option<Instant>,
}

impl Waymarks {
    /// Returns those that are remembered up to one of them. The next is due some time from now, or
    /// processes that end soon, one after the other, would leave no old one.
    pub(super) fn up_to(mut places: Vec<Waymark>, offset: u64, now: Instant) -> Waymarks {
        places.retain(|place| place.offset <= offset);
        let noted_at = (!places.is_empty()).then_some(now);
        Waymarks { places, noted_at }
    }

    /// Adds the present place, where it is time for one.
    pub(super) fn note(&mut self, now: Instant, place: impl FnOnce() -> Option<Waymark>) {
        if self.noted_at.is_some_and(|noted_at| now < noted_at + EVERY) {
            return;
        }
        let Some(place) = place() else { return };
        self.noted_at = Some(now);
        self.places.retain(|other| other.offset < place.offset);
        if self.places.len() == WAYMARKS_MAX {
            self.places.remove(0);
        }
        // Of ten thousand files most never have more than one.
        self.places.reserve_exact(1);
        self.places.push(place);
    }

    pub(super) fn to_vec(&self) -> Vec<Waymark> {
        self.places.clone()
    }
}

/// Returns the last remembered place that is still in a file of the entry's inode.
pub(super) fn last_in(entry: &Entry, file: &File, stat: &Stat) -> io::Result<Option<Waymark>> {
    for place in entry.waymarks.iter().rev().filter(|place| place.offset <= stat.size) {
        let has_head = place.offset < u64::from(entry.head.len) || entry.head.matches(file, 0)?;
        let guard_start = place.offset - u64::from(place.guard.len);
        if has_head && place.guard.matches(file, guard_start)? {
            return Ok(Some(*place));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::tail::discover;
    use crate::tail::fingerprint::Checksum;

    fn place(file: &File, offset: u64) -> Waymark {
        let guard = Checksum::before(file, offset).expect("read");
        Waymark { offset, guard, partition: 0, next_offset: offset as i64 * 10 }
    }

    #[test]
    fn a_file_that_was_cut_goes_on_at_the_last_place_that_is_in_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("server.log");
        let text: Vec<u8> = (0..500).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        fs::write(&path, &text).expect("written");
        let (file, stat) = discover::open(&path).expect("opened");
        let mut entry = Entry::of(&file, &stat, &path, Path::new("x"), stat.size).expect("read");
        let offsets = [0, 20, 1200, 2000, 3000];
        entry.waymarks = offsets.map(|offset| place(&file, offset)).into();
        let check = |bytes: &[u8], expected: Option<u64>| {
            fs::write(&path, bytes).expect("written");
            let (file, stat) = discover::open(&path).expect("opened");
            let last = last_in(&entry, &file, &stat).expect("read");
            assert_eq!(last.map(|place| place.offset), expected, "{} bytes", bytes.len());
        };
        check(&text[..2999], Some(2000));
        check(&text[..100], Some(20));
        check(b"", Some(0));
        // It has grown again since.
        check(&[&text[..1500], &[b'x'; 3000]].concat(), Some(1200));
        check(&[b'x'; 3000], Some(0));
    }

    #[test]
    fn places_are_noted_at_intervals_and_the_last_ones_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("server.log");
        fs::write(&path, [b'x'; 100]).expect("written");
        let file = File::open(&path).expect("opened");
        let offsets = |waymarks: &Waymarks| -> Vec<u64> {
            waymarks.to_vec().iter().map(|place| place.offset).collect()
        };
        let mut waymarks = Waymarks::default();
        let mut now = Instant::now();
        for offset in [0, 0, 7, 8, 9, 10, 11, 12, 13, 13] {
            waymarks.note(now, || Some(place(&file, offset)));
            waymarks.note(now + EVERY / 2, || panic!("too early"));
            now += EVERY;
        }
        assert_eq!(offsets(&waymarks), [9, 10, 11, 12, 13]);
        let mut restored = Waymarks::up_to(waymarks.to_vec(), 11, now);
        assert_eq!(offsets(&restored), [9, 10, 11]);
        restored.note(now + EVERY / 2, || panic!("too early"));
        now += EVERY;
        restored.note(now, || None);
        restored.note(now, || Some(place(&file, 12)));
        assert_eq!(offsets(&restored), [9, 10, 11, 12]);
    }
}
