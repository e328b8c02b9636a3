//! Which file is this, whatever its name.
//!
//! A life of a file is known by its inode and birth time, by a fingerprint of its head that grows
//! with it, and by a guard: a checksum of the bytes right before the stored offset. The inode
//! alone is never a key (ext4 gives it to the next file at once), nor is the head (many logs
//! begin with the same banner). Where any of them contradicts, it is a new life, read from byte 0.
//!
//! Source: vectordotdev/vector#25079, fluent/fluent-bit#8025, elastic/beats#38070.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use serde::{Deserialize, Serialize};

/// Bytes of a head that are fingerprinted at most.
pub const HEAD_BYTES_MAX: u64 = 1024;
/// Bytes before an offset that guard it at most.
pub const GUARD_BYTES_MAX: usize = 64;

/// What the file system says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Device and inode.
    pub inode: Inode,
    /// Birth time in nanoseconds since 1970, where the file system keeps one.
    pub btime_ns: Option<i64>,
    /// Time of the last write in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Bytes.
    pub size: u64,
    /// Names the file has; 0 once it is deleted.
    pub n_links: u64,
    /// A regular file, that can be read from any offset.
    pub is_regular: bool,
}

/// A file among those that exist right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Inode {
    /// Device; may change when the host starts again.
    pub dev: u64,
    /// Number on the device; given to another file once this one is gone.
    pub ino: u64,
}

impl From<&Metadata> for Stat {
    fn from(metadata: &Metadata) -> Stat {
        let since_1970 = |time: std::time::SystemTime| {
            time.duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_nanos() as i64)
        };
        Stat {
            inode: Inode { dev: metadata.dev(), ino: metadata.ino() },
            btime_ns: metadata.created().ok().map(since_1970),
            mtime_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
            size: metadata.len(),
            n_links: metadata.nlink(),
            is_regular: metadata.is_file(),
        }
    }
}

/// A file among all that have existed: a file system gives an inode to another file at once, but
/// not within the tick of its clock in which the birth time is counted.
pub type FileKey = (Inode, Option<i64>);

impl Stat {
    /// Returns what tells the file from all others.
    pub fn key(&self) -> FileKey {
        (self.inode, self.btime_ns)
    }

    /// Looks at an open file.
    pub fn of(file: &File) -> io::Result<Stat> {
        Ok(Stat::from(&file.metadata()?))
    }
}

/// Checksum of some bytes of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    /// Bytes it covers.
    pub len: u32,
    /// Their CRC-32C.
    pub crc32c: u32,
}

impl Checksum {
    /// Returns the checksum of `bytes`.
    pub fn of(bytes: &[u8]) -> Checksum {
        Checksum { len: bytes.len() as u32, crc32c: crc32c::crc32c(bytes) }
    }

    /// Returns the checksum of the first bytes of a file, of all it has up to a limit.
    pub fn of_head(file: &File) -> io::Result<Checksum> {
        Ok(Checksum::of(&read_range(file, 0, HEAD_BYTES_MAX)?))
    }

    /// Returns the checksum of the bytes right before `offset`.
    pub fn before(file: &File, offset: u64) -> io::Result<Checksum> {
        let start = offset.saturating_sub(GUARD_BYTES_MAX as u64);
        Ok(Checksum::of(&read_range(file, start, offset - start)?))
    }

    /// Tells whether the head would grow by another look at a file of `size` bytes.
    pub fn head_can_grow(&self, size: u64) -> bool {
        u64::from(self.len) < size.min(HEAD_BYTES_MAX)
    }

    /// Tells whether the file still has these bytes from `start` on.
    pub fn matches(&self, file: &File, start: u64) -> io::Result<bool> {
        Ok(Checksum::of(&read_range(file, start, u64::from(self.len))?) == *self)
    }
}

/// Checksums of what was read of a file, at some places before the read offset.
///
/// A copy of it may end before that offset, and nobody knows where: of the bytes before each power
/// of two the last few are kept, so that one lies in the second half of any copy that is not much
/// shorter than what was read.
///
/// Boxed, for of ten thousand files most are short.
#[derive(Debug, Clone, Default)]
pub struct Marks(Option<Box<[(u64, Checksum); 3]>>);

impl Marks {
    /// Takes note of bytes that were read, of which `end` is the end in the file.
    pub fn note(&mut self, bytes: &[u8], end: u64) {
        let start = end - bytes.len() as u64;
        let last = self.0.as_ref().map_or(0, |marks| marks[2].0);
        let mut place = (start + GUARD_BYTES_MAX as u64).max(last + 1).next_power_of_two();
        while place <= end {
            let at = (place - start) as usize;
            let checksum = Checksum::of(&bytes[at - GUARD_BYTES_MAX..at]);
            let marks = self.0.get_or_insert_default();
            **marks = [marks[1], marks[2], (place, checksum)];
            place *= 2;
        }
    }

    /// Tells whether a file of `size` bytes holds those that were noted last before that size;
    /// `false` where none were.
    pub fn match_in(&self, file: &File, size: u64) -> io::Result<bool> {
        let fits = |(place, _): &&(u64, Checksum)| (1..=size).contains(place);
        match self.0.iter().flat_map(|marks| marks.iter().rev()).find(fits) {
            Some((place, checksum)) => checksum.matches(file, place - GUARD_BYTES_MAX as u64),
            None => Ok(false),
        }
    }
}

/// Reads `[start, start + len)`, or less where the file ends before.
pub fn read_range(file: &File, start: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    let mut n = 0;
    while n < bytes.len() {
        match file.read_at(&mut bytes[n..], start + n as u64) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(n);
    Ok(bytes)
}

/// Returns the name of a file's life in headers and document ids: inode, birth time, checksum of
/// the head of its first line, and the number of the life where it is not the first.
///
/// It can be found again without the registry, so that a lost registry repeats records with the
/// ids they had; the head keeps the lives of a file that was truncated apart even then.
pub fn file_id(stat: &Stat, life: u32, first_event: &[u8]) -> String {
    let first_line = first_event.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let head = crc32c::crc32c(&first_line[..first_line.len().min(GUARD_BYTES_MAX)]);
    let btime = stat.btime_ns.unwrap_or(0);
    let mut id = format!("{:x}-{btime:x}-{head:x}", stat.inode.ino);
    if life > 0 {
        id.push_str(&format!("-{life}"));
    }
    id
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn marks_tell_a_copy_that_ends_before_what_was_read() {
        let bytes: Vec<u8> =
            (0..40_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for chunk in [1, 7, 64, 100, 4096, 40_000] {
            let mut marks = Marks::default();
            let mut end = 0;
            for chunk in bytes.chunks(chunk) {
                end += chunk.len();
                marks.note(chunk, end as u64);
            }
            for size in [39_999, 32_768, 30_000, 16_384] {
                let mut copy = tempfile::tempfile().expect("a file");
                copy.write_all(&bytes[..size]).expect("written");
                // What was read a byte at a time leaves none, for the bytes before are gone.
                let expected = chunk >= GUARD_BYTES_MAX;
                assert_eq!(
                    marks.match_in(&copy, size as u64).expect("read"),
                    expected,
                    "{chunk} {size}"
                );
            }
        }
    }
}
