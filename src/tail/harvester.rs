//! The bytes of one file of a life.
//!
//! A harvester reads where its [`EventBuffer`] wants to go on, and remembers the last bytes it
//! gave: a file that was truncated or overwritten is noticed by them however long it has become.
//! Offsets are those of the bytes that lines are found in; where they come from is [`Bytes`].

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::fingerprint::{Checksum, GUARD_BYTES_MAX, Stat, read_range};
use super::multiline::EventBuffer;

/// What lines are found in.
pub trait ReadAt {
    /// Reads some bytes from `offset` on; 0 where they end for now.
    fn read_at(self, room: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for &File {
    fn read_at(self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, room, offset)
    }
}

/// Where the bytes of a life come from.
#[derive(Debug)]
enum Bytes {
    /// The file holds them as they are.
    Plain(File),
}

impl ReadAt for &mut Bytes {
    fn read_at(self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Bytes::Plain(file) => ReadAt::read_at(&*file, room, offset),
        }
    }
}

/// What another look at a file found behind what was read of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Nothing.
    Same,
    /// More bytes.
    Grown,
    /// The bytes that were read are not the file's any more.
    Replaced,
}

/// Reads one file.
#[derive(Debug)]
pub struct Harvester {
    bytes: Bytes,
    /// As last looked at.
    stat: Stat,
    /// The bytes right before the read offset, at most [`GUARD_BYTES_MAX`].
    last_bytes: Vec<u8>,
}

impl Harvester {
    /// Returns a harvester that goes on at `offset`.
    pub fn new(file: File, stat: Stat, offset: u64) -> Harvester {
        let n_last = offset.min(GUARD_BYTES_MAX as u64);
        // Without them a later overwriting is noticed only where the file gets shorter.
        let last_bytes = read_range(&file, offset - n_last, n_last).unwrap_or_default();
        Harvester { bytes: Bytes::Plain(file), stat, last_bytes }
    }

    /// Returns a harvester of the same file that goes on at byte 0.
    pub fn begin_again(self) -> Harvester {
        Harvester { last_bytes: Vec::new(), ..self }
    }

    /// What the file system said when it was last looked at.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// What the file system says now; growth it tells of is still news to [`Harvester::look`].
    pub fn stat_now(&self) -> io::Result<Stat> {
        Stat::of(self.file())
    }

    /// Looks whether the file has changed behind what was read of it, up to `read_offset`.
    pub fn look(&mut self, read_offset: u64) -> io::Result<Look> {
        let now = self.stat_now()?;
        let before = std::mem::replace(&mut self.stat, now);
        if now.size < read_offset {
            return Ok(Look::Replaced);
        }
        if now.size == read_offset && now.mtime_ns == before.mtime_ns {
            return Ok(Look::Same);
        }
        let n_last = self.last_bytes.len() as u64;
        if n_last > 0 && read_range(self.file(), read_offset - n_last, n_last)? != self.last_bytes {
            return Ok(Look::Replaced);
        }
        Ok(if now.size > read_offset { Look::Grown } else { Look::Same })
    }

    /// Reads once into `events`; returns how many bytes came.
    pub fn read_into(&mut self, events: &mut EventBuffer) -> io::Result<usize> {
        let n = events.read_from(&mut self.bytes)?;
        let fresh = events.fresh_bytes(n.min(GUARD_BYTES_MAX));
        let n_old = self.last_bytes.len().min(GUARD_BYTES_MAX - fresh.len());
        self.last_bytes.drain(..self.last_bytes.len() - n_old);
        self.last_bytes.extend_from_slice(fresh);
        Ok(n)
    }

    /// Returns the checksum of the file's head.
    pub fn head(&self) -> io::Result<Checksum> {
        Checksum::of_head(self.file())
    }

    /// Returns the checksum of the bytes right before `offset`.
    pub fn guard(&self, offset: u64) -> io::Result<Checksum> {
        Checksum::before(self.file(), offset)
    }

    fn file(&self) -> &File {
        match &self.bytes {
            Bytes::Plain(file) => file,
        }
    }
}
