//! Bytes of one file -> lines with measured offsets.
//!
//! Bytes come in as the file system gives them; a line leaves when its terminator has been seen.
//! Offsets are measured, never summed up from line lengths: a line's ground includes its
//! terminator, so that LF and CRLF files resume alike.
//!
//! A line that is longer than the limit keeps its head; the rest is counted and let go while it
//! is read, so that memory stays bounded by the limit and not by the line. What is cut does not
//! depend on how the bytes were divided over reads.

use std::io;
use std::ops::Range;

use memchr::memchr;

use crate::tail::harvester::ReadAt;

/// 256 KiB a read: large enough that system calls vanish beside the work on the bytes, small
/// enough to stay in the second-level cache.
pub const READ_BYTES: usize = 256 * 1024;

/// A complete line; `content` points into the buffer that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where its bytes without the terminator are, cut to the limit.
    pub content: Range<usize>,
    /// First byte in the file.
    pub start: u64,
    /// One past its terminator in the file.
    pub end: u64,
    /// Bytes before the terminator that are not in `content`.
    pub cut: u64,
}

/// The bytes of one file that are still needed, and how far lines have been found in them.
#[derive(Debug)]
pub struct LineBuffer {
    /// Room; only `..filled` holds bytes of the file.
    bytes: Vec<u8>,
    filled: usize,
    /// Offset in the file of `bytes[0]`.
    base: u64,
    /// Bytes before this are not needed any more.
    kept: usize,
    /// Where the next line begins.
    line_start: usize,
    /// No terminator stands in `line_start..searched`.
    searched: usize,
    line_bytes_max: usize,
    /// Set while the rest of an over-long line is let go: bytes let go so far. The head then ends
    /// at `searched`.
    skipped: Option<u64>,
    /// From this index on, offsets are larger by `gap`: bytes before it were let go. Applied to
    /// `base` once everything before is released.
    gap_at: usize,
    gap: u64,
}

impl LineBuffer {
    /// Returns an empty buffer for a file that is read from `offset` on.
    pub fn new(offset: u64, line_bytes_max: usize) -> LineBuffer {
        LineBuffer {
            bytes: Vec::new(),
            filled: 0,
            base: offset,
            kept: 0,
            line_start: 0,
            searched: 0,
            line_bytes_max,
            skipped: None,
            gap_at: 0,
            gap: 0,
        }
    }

    /// Returns the next complete line, or `None` until more bytes are read.
    pub fn next_line(&mut self) -> Option<Line> {
        if self.skipped.is_some() {
            return self.end_of_long_line();
        }
        let Some(at) = memchr(b'\n', &self.bytes[self.searched..self.filled]) else {
            self.searched = self.filled;
            // One byte more than the limit may still be the CR of a terminator.
            if self.searched - self.line_start > self.line_bytes_max + 1 {
                self.skipped = Some(0);
                self.searched = self.line_start + self.line_bytes_max;
                return self.end_of_long_line();
            }
            return None;
        };
        let newline = self.searched + at;
        let content_end = match self.bytes[self.line_start..newline].last() {
            Some(b'\r') => newline - 1,
            _ => newline,
        };
        let kept_end = content_end.min(self.line_start + self.line_bytes_max);
        let line = Line {
            content: self.line_start..kept_end,
            start: self.base + self.line_start as u64,
            end: self.base + newline as u64 + 1,
            cut: (content_end - kept_end) as u64,
        };
        self.line_start = newline + 1;
        self.searched = newline + 1;
        Some(line)
    }

    /// Lets the rest of an over-long line go, up to its terminator.
    fn end_of_long_line(&mut self) -> Option<Line> {
        let head_end = self.searched;
        let skipped = self.skipped.as_mut().expect("called while a line is let go");
        let Some(at) = memchr(b'\n', &self.bytes[head_end..self.filled]) else {
            // The last byte stays: it may be the CR of the terminator.
            let let_go = (self.filled - head_end).saturating_sub(1);
            self.bytes.copy_within(head_end + let_go..self.filled, head_end);
            self.filled -= let_go;
            *skipped += let_go as u64;
            return None;
        };
        let has_cr = at > 0 && self.bytes[head_end + at - 1] == b'\r';
        let before_newline = *skipped + at as u64;
        self.bytes.copy_within(head_end + at + 1..self.filled, head_end);
        self.filled -= at + 1;
        let line = Line {
            content: self.line_start..head_end,
            start: self.base + self.line_start as u64,
            end: self.base + head_end as u64 + before_newline + 1,
            cut: before_newline - u64::from(has_cr),
        };
        self.skipped = None;
        self.gap_at = head_end;
        self.gap = before_newline + 1;
        self.line_start = head_end;
        Some(line)
    }

    /// Returns what stands after the last terminator as a line of its own, for a file that has
    /// come to its end; `None` where nothing stands there.
    pub fn take_partial(&mut self) -> Option<Line> {
        let skipped = self.skipped.take().unwrap_or(0);
        // While a line is let go, one byte behind its head may be held back: it is cut as well.
        let held_back = if skipped > 0 { self.filled - self.searched } else { 0 };
        let content_end = self.filled - held_back;
        if content_end == self.line_start && skipped == 0 {
            return None;
        }
        let kept_end = content_end.min(self.line_start + self.line_bytes_max);
        let cut = (content_end - kept_end) as u64 + skipped + held_back as u64;
        let line = Line {
            content: self.line_start..kept_end,
            start: self.base + self.line_start as u64,
            end: self.base + kept_end as u64 + cut,
            cut,
        };
        self.filled = kept_end;
        self.line_start = kept_end;
        self.searched = kept_end;
        self.gap_at = kept_end;
        self.gap = cut;
        Some(line)
    }

    /// Returns bytes of the buffer, as named by [`Line::content`].
    pub fn slice(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    /// Tells that bytes before `index` are not needed any more.
    pub fn release(&mut self, index: usize) {
        self.kept = index;
        if self.gap > 0 && index >= self.gap_at {
            self.base += self.gap;
            self.gap = 0;
        }
    }

    /// Offset in the file from which the next read goes on.
    pub fn read_offset(&self) -> u64 {
        self.base + self.filled as u64 + self.gap + self.skipped.unwrap_or(0)
    }

    /// Offset in the file where the next line begins.
    pub fn line_offset(&self) -> u64 {
        self.base + self.line_start as u64 + self.gap
    }

    /// Index in the buffer where the next line begins.
    pub fn line_start(&self) -> usize {
        self.line_start
    }

    /// Tells whether bytes without a terminator are held.
    pub fn has_partial(&self) -> bool {
        self.line_start < self.filled || self.skipped.is_some()
    }

    /// Returns the last `n` of the bytes that the last read gave; to be called right after it.
    pub fn fresh_bytes(&self, n: usize) -> &[u8] {
        &self.bytes[self.filled - n..self.filled]
    }

    /// Reads once and returns how many bytes came and by how much the indices of
    /// kept bytes went down.
    pub fn read_from(&mut self, source: impl ReadAt) -> io::Result<(usize, usize)> {
        let shift = self.make_room();
        let offset = self.read_offset();
        // Not all of the room: it would grow by a read whenever a read's events had to wait.
        let end = self.bytes.len().min(self.filled + READ_BYTES);
        let n = source.read_at(&mut self.bytes[self.filled..end], offset)?;
        self.filled += n;
        Ok((n, shift))
    }

    /// Takes over a large room to read into; kept bytes move there.
    pub fn attach(&mut self, mut room: Vec<u8>) -> usize {
        let n_kept = self.filled - self.kept;
        if room.len() < n_kept + READ_BYTES {
            room.resize(n_kept + READ_BYTES, 0);
        }
        room[..n_kept].copy_from_slice(&self.bytes[self.kept..self.filled]);
        self.bytes = room;
        self.shift_down()
    }

    /// Gives the large room back and keeps only the bytes that are needed.
    pub fn detach(&mut self) -> (Vec<u8>, usize) {
        let rest = self.bytes[self.kept..self.filled].to_vec();
        let room = std::mem::replace(&mut self.bytes, rest);
        (room, self.shift_down())
    }

    fn make_room(&mut self) -> usize {
        if self.kept > 0 {
            self.bytes.copy_within(self.kept..self.filled, 0);
        }
        let shift = self.shift_down();
        if self.bytes.len() < self.filled + READ_BYTES / 4 {
            self.bytes.resize(self.filled + READ_BYTES, 0);
        }
        shift
    }

    /// Accounts for kept bytes having moved to index 0.
    fn shift_down(&mut self) -> usize {
        let shift = self.kept;
        self.filled -= shift;
        self.line_start -= shift;
        self.searched -= shift;
        self.gap_at = self.gap_at.saturating_sub(shift);
        self.base += shift as u64;
        self.kept = 0;
        shift
    }
}
