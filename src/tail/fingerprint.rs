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
