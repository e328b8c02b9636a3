//! The bytes of one file of a life.
//!
//! A harvester reads where its [`EventBuffer`] wants to go on, and remembers the last bytes it
//! gave: a file that was truncated or overwritten is noticed by them however long it has become.
//! Offsets are those of the bytes that lines are found in; where they come from is `Bytes`.
//!
//! Of many files only some can be open. The others are *parked*: closed, and opened again for
//! their next turn, when everything that is known of the file is compared with what is there.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{Advice, fadvise};
use rustix::io::preadv;

use super::discover;
use super::fingerprint::{Checksum, GUARD_BYTES_MAX, HEAD_BYTES_MAX, Marks, Stat, read_range};
use super::gzip::GzipReader;
use super::multiline::EventBuffer;
use crate::planted::{self, Bug};

/// Unread bytes from which on a file is a backlog: 8 MiB is far more than anybody writes between
/// two looks.
const BACKLOG_BYTES: u64 = 8 << 20;

/// Bytes whose pages are let go at once.
const DROP_BYTES: u64 = 1 << 20;

/// Bytes that the page cache may hold as one piece.
const FOLIO_BYTES_MAX: u64 = 8 << 20;

/// What lines are found in.
pub trait ReadAt {
    /// Reads some bytes from `offset` on; 0 where they end for now.
    fn read_at(&mut self, room: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for &File {
    fn read_at(&mut self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(*self, room, offset)
    }
}

/// Where the bytes of a life come from.
#[derive(Debug)]
pub(crate) enum Bytes {
    /// The file holds them as they are.
    Plain(File),
    /// The file holds them compressed.
    Gzipped(Box<GzipReader>),
}

impl Bytes {
    pub(crate) fn of(file: File, is_gzipped: bool) -> Bytes {
        match is_gzipped {
            true => Bytes::Gzipped(Box::new(GzipReader::new(file))),
            false => Bytes::Plain(file),
        }
    }

    pub(crate) fn file(&self) -> &File {
        match self {
            Bytes::Plain(file) => file,
            Bytes::Gzipped(reader) => reader.file(),
        }
    }

    /// Reads `[start, end)`, or less where the bytes end before.
    fn read_range(&mut self, start: u64, end: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; (end - start) as usize];
        let mut n = 0;
        while n < bytes.len() {
            match (&mut *self).read_at(&mut bytes[n..], start + n as u64) {
                Ok(0) => break,
                Ok(more) => n += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(n);
        Ok(bytes)
    }
}

impl ReadAt for &mut Bytes {
    fn read_at(&mut self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Bytes::Plain(file) => ReadAt::read_at(&mut &*file, room, offset),
            Bytes::Gzipped(reader) => reader.read_at(room, offset),
        }
    }
}

/// Bytes that end before the file does.
struct Until<'a> {
    bytes: &'a mut Bytes,
    end: u64,
}

impl ReadAt for Until<'_> {
    fn read_at(&mut self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let n_wanted = room.len().min(left);
        self.bytes.read_at(&mut room[..n_wanted], offset)
    }
}

/// Bytes that are read together with those before them, in one call: a file may be truncated, and
/// have grown again, between a look at it and the read that follows, for a process may be stopped
/// there for any time.
struct Guarded<'a> {
    bytes: &'a mut Bytes,
    /// What stood right before.
    last_bytes: &'a [u8],
    /// What it began with, where nothing was read yet.
    head: &'a Checksum,
    /// Where the next bytes are read; others are looked at besides.
    read_offset: u64,
    is_replaced: bool,
}

impl ReadAt for &mut Guarded<'_> {
    fn read_at(&mut self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        let is_next = offset == self.read_offset && room.len() >= HEAD_BYTES_MAX as usize;
        let Bytes::Plain(file) = &self.bytes else {
            return self.bytes.read_at(room, offset);
        };
        if !is_next {
            return FileExt::read_at(file, room, offset);
        }
        if offset == 0 {
            let n = FileExt::read_at(file, room, 0)?;
            let head = room[..n].get(..self.head.len as usize);
            self.is_replaced = head.is_none_or(|head| Checksum::of(head) != *self.head);
            return Ok(if self.is_replaced { 0 } else { n });
        }
        let n_last = self.last_bytes.len();
        let mut guard = [0; GUARD_BYTES_MAX];
        let guard = &mut guard[..n_last];
        let mut slices = [IoSliceMut::new(guard), IoSliceMut::new(room)];
        let n = preadv(file, &mut slices, offset - n_last as u64)?;
        let n = n.saturating_sub(n_last);
        self.is_replaced = n > 0 && *guard != *self.last_bytes && !planted::is(Bug::NoGuard);
        Ok(if self.is_replaced { 0 } else { n })
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

/// Counts the files that harvesters hold open.
#[derive(Debug, Default)]
pub struct OpenFiles(Rc<()>);

impl OpenFiles {
    /// Returns how many are open.
    pub fn count(&self) -> usize {
        Rc::strong_count(&self.0) - 1
    }
}

/// What became of a parked file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reopened {
    /// It is open, and what was read of it is still in it.
    Same,
    /// It is open, and it is not the file, or holds not the bytes, that were read.
    Replaced,
    /// The name leads to no file, or to one with another inode.
    Moved,
}

/// Reads one file.
#[derive(Debug)]
pub struct Harvester {
    /// `None` while it is parked.
    open: Option<(Bytes, Rc<()>)>,
    /// Pages before this were let go, or are to stay.
    dropped_to: u64,
    is_gzipped: bool,
    /// As last looked at.
    stat: Stat,
    /// The bytes right before the read offset, at most [`GUARD_BYTES_MAX`].
    last_bytes: Vec<u8>,
    marks: Marks,
}

impl Harvester {
    /// Returns a harvester that goes on at `offset`.
    pub fn new(open_files: &OpenFiles, file: File, stat: Stat, offset: u64) -> Harvester {
        let n_last = offset.min(GUARD_BYTES_MAX as u64);
        // Without them a later overwriting is noticed only where the file gets shorter.
        let last_bytes = read_range(&file, offset - n_last, n_last).unwrap_or_default();
        let open = Some((Bytes::Plain(file), Rc::clone(&open_files.0)));
        let marks = Marks::default();
        Harvester { open, dropped_to: offset, is_gzipped: false, stat, last_bytes, marks }
    }

    /// Returns a harvester of the bytes that a gzip'd file holds; offsets are decompressed ones.
    pub fn gzipped(open_files: &OpenFiles, file: File, stat: Stat) -> Harvester {
        let open = Some((Bytes::of(file, true), Rc::clone(&open_files.0)));
        let (last_bytes, marks) = (Vec::new(), Marks::default());
        Harvester { open, dropped_to: 0, is_gzipped: true, stat, last_bytes, marks }
    }

    /// Tells whether the file is gzip'd: its size says nothing of offsets.
    pub fn is_gzipped(&self) -> bool {
        self.is_gzipped
    }

    /// Returns a harvester of the same file that goes on at byte 0.
    pub fn begin_again(self) -> Harvester {
        // A later look compares with what it holds now, not with what it held before.
        let stat = self.stat_now().unwrap_or(self.stat);
        Harvester { stat, last_bytes: Vec::new(), marks: Marks::default(), dropped_to: 0, ..self }
    }

    /// What the file system said when it was last looked at.
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// What the file system says now; growth it tells of is still news to [`Harvester::look`].
    ///
    /// Errors: the file system's; or it is parked.
    pub fn stat_now(&self) -> io::Result<Stat> {
        Stat::of(self.file()?)
    }

    /// Tells whether the file is closed for the while.
    pub fn is_parked(&self) -> bool {
        self.open.is_none()
    }

    /// Closes the file; only for one whose name leads to it.
    pub fn park(&mut self) {
        self.open = None;
    }

    /// Opens a parked file again under its name; `head` is the checksum of its first bytes.
    ///
    /// Errors: it is there and cannot be opened or read.
    pub fn reopen(
        &mut self,
        open_files: &OpenFiles,
        name: &Path,
        read_offset: u64,
        head: &Checksum,
    ) -> io::Result<Reopened> {
        let (file, stat) = match discover::open(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Reopened::Moved),
            opened => opened?,
        };
        if stat.inode != self.stat.inode {
            return Ok(Reopened::Moved);
        }
        let mut bytes = Bytes::of(file, self.is_gzipped);
        let last_start = read_offset - self.last_bytes.len() as u64;
        let is_same = stat.btime_ns == self.stat.btime_ns
            && (self.is_gzipped || stat.size >= read_offset)
            && Checksum::of(&bytes.read_range(0, u64::from(head.len))?) == *head
            && bytes.read_range(last_start, read_offset)? == self.last_bytes;
        self.open = Some((bytes, Rc::clone(&open_files.0)));
        if !is_same {
            self.stat = stat;
            return Ok(Reopened::Replaced);
        }
        Ok(Reopened::Same)
    }

    /// Looks whether the file has changed behind what was read of it, up to `read_offset`.
    pub fn look(&mut self, read_offset: u64) -> io::Result<Look> {
        let now = self.stat_now()?;
        let before = std::mem::replace(&mut self.stat, now);
        if self.is_gzipped {
            return self.look_at_gzipped(&before, read_offset);
        }
        if now.size < read_offset {
            let is_seen = !planted::is(Bug::NoTruncation);
            return Ok(if is_seen { Look::Replaced } else { Look::Same });
        }
        if now.size == read_offset && now.mtime_ns == before.mtime_ns {
            return Ok(Look::Same);
        }
        let n_last = if planted::is(Bug::NoGuard) { 0 } else { self.last_bytes.len() as u64 };
        if n_last > 0 && read_range(self.file()?, read_offset - n_last, n_last)? != self.last_bytes
        {
            return Ok(Look::Replaced);
        }
        Ok(if now.size > read_offset { Look::Grown } else { Look::Same })
    }

    /// The same for a gzip'd file, which grows by whole members, or was still being written.
    fn look_at_gzipped(&mut self, before: &Stat, read_offset: u64) -> io::Result<Look> {
        if (self.stat.size, self.stat.mtime_ns) == (before.size, before.mtime_ns) {
            return Ok(Look::Same);
        }
        let (bytes, _) = self.open.as_mut().ok_or_else(parked)?;
        if let Bytes::Gzipped(reader) = bytes {
            reader.restart();
        }
        let start = read_offset - self.last_bytes.len() as u64;
        let last = bytes.read_range(start, read_offset)?;
        Ok(if last == self.last_bytes { Look::Grown } else { Look::Replaced })
    }

    /// Reads once into `events`; returns how many bytes came, or nothing where the file holds not
    /// what was read of it before, or, if nothing was, does not begin with `head`.
    pub fn read_into(
        &mut self,
        events: &mut EventBuffer,
        head: &Checksum,
    ) -> io::Result<Option<usize>> {
        let (bytes, _) = self.open.as_mut().ok_or_else(parked)?;
        let last_bytes = &self.last_bytes;
        let read_offset = events.read_offset();
        let mut guarded = Guarded { bytes, last_bytes, head, read_offset, is_replaced: false };
        let n = events.read_from(&mut guarded)?;
        if guarded.is_replaced {
            self.stat = self.stat_now()?;
            return Ok(None);
        }
        self.marks.note(events.fresh_bytes(n), events.read_offset());
        let fresh = events.fresh_bytes(n.min(GUARD_BYTES_MAX));
        let n_old = self.last_bytes.len().min(GUARD_BYTES_MAX - fresh.len());
        self.last_bytes.drain(..self.last_bytes.len() - n_old);
        self.last_bytes.extend_from_slice(fresh);
        Ok(Some(n))
    }

    /// Lets go of the pages of what was read, up to `read_offset`, while much is unread.
    ///
    /// A backlog has been out of the cache, or would be soon, and reading it must not push out
    /// what the broker serves from there. At a file's end the pages are those that its writer, and
    /// whoever looks at the log, use too: they stay. Source: fluent/fluent-bit#10713.
    pub fn drop_read_pages(&mut self, read_offset: u64) {
        if self.is_gzipped {
            return; // The offsets are those of other bytes than the file's.
        }
        if self.stat.size < read_offset + BACKLOG_BYTES {
            self.dropped_to = read_offset;
        } else if read_offset - self.dropped_to >= DROP_BYTES {
            if let Ok(file) = self.file() {
                // The kernel keeps a folio that does not lie whole in the range.
                let from = self.dropped_to.saturating_sub(FOLIO_BYTES_MAX);
                // Advice: where it cannot be taken, nothing is wrong.
                let len = NonZeroU64::new(read_offset - from);
                let _ = fadvise(file, from, len, Advice::DontNeed);
            }
            self.dropped_to = read_offset;
        }
    }

    /// Returns the checksums of the file's head and of the bytes right before `offset`.
    ///
    /// A parked file is opened for the while, if its name still leads to it.
    /// Errors: the file system's; or the file does not hold any more what was read of it up to
    /// `read_offset`, where that is to be seen to: they would be of bytes that were never read.
    pub fn checksums(
        &self,
        name: &Path,
        offset: u64,
        read_offset: Option<u64>,
        head: &Checksum,
    ) -> io::Result<(Checksum, Checksum)> {
        let of = |file: &File| {
            let checksums = (Checksum::of_head(file)?, Checksum::before(file, offset)?);
            let n_last = self.last_bytes.len() as u64;
            if let Some(read_offset) = read_offset
                && read_range(file, read_offset - n_last, n_last)? != self.last_bytes
            {
                return Err(io::Error::other("it was overwritten"));
            }
            if read_offset == Some(0) && !head.matches(file, 0)? {
                return Err(io::Error::other("it was overwritten before it was read"));
            }
            Ok(checksums)
        };
        if let Ok(file) = self.file() {
            return of(file);
        }
        let (file, stat) = discover::open(name)?;
        if (stat.inode, stat.btime_ns) != (self.stat.inode, self.stat.btime_ns) {
            return Err(io::Error::other("its name leads to another file"));
        }
        of(&file)
    }

    /// Tells whether the file still begins as it did.
    pub fn has_head(&self, head: &Checksum) -> io::Result<bool> {
        head.matches(self.file()?, 0)
    }

    /// Returns the checksum of the file's head.
    pub fn head(&self) -> io::Result<Checksum> {
        Checksum::of_head(self.file()?)
    }

    /// Tells whether another file of `size` bytes holds the last bytes that were read, up to
    /// `read_offset`, or as many of them as it has.
    pub fn last_bytes_match(&self, other: &File, read_offset: u64, size: u64) -> io::Result<bool> {
        let start = read_offset - self.last_bytes.len() as u64;
        let len = size.min(read_offset).saturating_sub(start);
        let bytes = read_range(other, start, len)?;
        Ok(len > 0 && bytes.len() as u64 == len && self.last_bytes.starts_with(&bytes))
    }

    /// Tells whether another file, which ends before what was read, has bytes that were read at
    /// their places, as far as such are remembered.
    pub fn marks_match(&self, other: &File, size: u64) -> io::Result<bool> {
        self.marks.match_in(other, size)
    }

    /// Reads once into `events`, but nothing from `end` on: to cut ground again as it was cut
    /// before. What the harvester remembers stays as it is.
    pub fn read_again(&mut self, events: &mut EventBuffer, end: u64) -> io::Result<usize> {
        let (bytes, _) = self.open.as_mut().ok_or_else(parked)?;
        events.read_from(Until { bytes, end })
    }

    /// Returns the bytes right before `offset`, as many as guard it.
    pub fn guard_of(&mut self, offset: u64) -> io::Result<Vec<u8>> {
        let (bytes, _) = self.open.as_mut().ok_or_else(parked)?;
        bytes.read_range(offset.saturating_sub(GUARD_BYTES_MAX as u64), offset)
    }

    /// Goes on at the offset that `guard` is the guard of.
    pub fn go_on_behind(&mut self, guard: Vec<u8>) {
        self.last_bytes = guard;
    }

    /// Returns the checksum of the last bytes that were read.
    pub fn last_checksum(&self) -> Checksum {
        Checksum::of(&self.last_bytes)
    }

    fn file(&self) -> io::Result<&File> {
        self.open.as_ref().map(|(bytes, _)| bytes.file()).ok_or_else(parked)
    }
}

fn parked() -> io::Error {
    io::Error::other("it is parked")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_that_is_begun_again_is_compared_with_what_it_is_by_then() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"what was truncated\n").expect("written");
        let (open_files, stat) = (OpenFiles::default(), Stat::of(&file).expect("looked at"));
        let writer = file.try_clone().expect("another handle");
        let harvester = Harvester::new(&open_files, file, stat, 0);
        writer.set_len(5).expect("truncated");
        assert_eq!(harvester.begin_again().stat().size, 5);
    }
}
