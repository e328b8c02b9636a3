//! Bytes of one file -> lines with measured offsets.
//!
//! Bytes come in as the file system gives them; a line leaves when its terminator has been seen.
//! Offsets are measured, never summed up from line lengths: a line's ground includes its
//! terminator, so that LF and CRLF files resume alike.
//!
//! A line that is longer than the limit leaves in pieces, or keeps its head; the rest is then
//! counted and let go while it is read, so that memory stays bounded by the limit and not by the
//! line.
//!
//! A run of at least [`NUL_RUN_MIN`] NULs is no text: a crash of the host left it where the
//! file's size was written and its bytes were not, or a writer that did not notice that its file
//! was truncated. It ends the line before it, leaves by itself with its ground and without
//! content, and is not held, so that a hole of any size costs no memory.
//!
//! What is cut depends on the bytes from a line's or piece's start on, and not on how they were
//! divided over reads; whether a line or the next piece of one begins at the offset where reading
//! begins is told by the bytes before it.
//!
//! Source: elastic/beats and vectordotdev/vector ship such NULs as lines of their own.

use std::io;
use std::ops::Range;

use crate::config::{Encoding, InputConfig, LineTooLong};
use crate::tail::charset::Charset;
use crate::tail::harvester::ReadAt;

/// 256 KiB a read: large enough that system calls vanish beside the work on the bytes, small
/// enough to stay in the second-level cache.
pub const READ_BYTES: usize = 256 * 1024;

/// One page, the least that a file system leaves unwritten; fewer NULs are data.
pub const NUL_RUN_MIN: usize = 4096;

/// What decides how bytes are cut into lines, beside the bytes.
#[derive(Debug, Clone, Copy)]
pub struct LineRule {
    /// Bytes of a line, or of a piece of one.
    pub bytes_max: usize,
    /// What becomes of a longer one.
    pub too_long: LineTooLong,
    /// What the bytes stand for.
    pub encoding: Encoding,
}

impl LineRule {
    /// Returns the rule of an input.
    pub fn of(input: &InputConfig) -> LineRule {
        LineRule {
            bytes_max: input.line_bytes_max,
            too_long: input.line_too_long,
            encoding: input.encoding,
        }
    }
}

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
    /// It is a further piece of a line that was too long.
    pub continued: bool,
    /// What stands at its end.
    pub ending: Ending,
}

/// What stands at the end of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its terminator.
    Terminator,
    /// The next piece of the same line.
    Limit,
    /// No terminator: the file's end, or a run of NULs.
    Torn,
    /// It is no line but a run of NULs, without content.
    Nuls,
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
    /// No terminator begins in `line_start..searched`; at a unit's start.
    searched: usize,
    rule: LineRule,
    charset: Charset,
    /// The byte order is known, as far as the file's head tells it.
    order_known: bool,
    /// Whether the first line is a further piece of one is known.
    begun: bool,
    /// The next line is a further piece of one.
    in_line: bool,
    /// Set while bytes are let go.
    let_go: Option<LetGo>,
    /// From this index on, offsets are larger by `gap`: bytes before it were let go. Applied to
    /// `base` once everything before is released.
    gap_at: usize,
    gap: u64,
}

/// What is let go while it is read, and how many bytes of it so far.
#[derive(Debug, Clone, Copy)]
enum LetGo {
    /// The rest of an over-long line, whose head ends at `searched`.
    Rest(u64),
    /// A run of NULs that begins at `line_start`.
    Nuls(u64),
}

impl LineBuffer {
    /// Returns an empty buffer for a file that is read from `offset` on.
    pub fn new(offset: u64, rule: LineRule) -> LineBuffer {
        LineBuffer {
            bytes: Vec::new(),
            filled: 0,
            base: offset,
            kept: 0,
            line_start: 0,
            searched: 0,
            rule,
            charset: Charset::of(rule.encoding, &[]),
            order_known: rule.encoding != Encoding::Utf16,
            // Only where lines leave in pieces can one begin in the middle of a line.
            begun: rule.too_long != LineTooLong::Split,
            in_line: false,
            let_go: None,
            gap_at: 0,
            gap: 0,
        }
    }

    /// Returns the next complete line, or `None` until more bytes are read.
    ///
    /// A line that was cut, and a run of NULs, must be released before the next is asked for.
    pub fn next_line(&mut self) -> Option<Line> {
        debug_assert_eq!(self.gap, 0, "a line that was cut is released first");
        match self.let_go {
            Some(LetGo::Rest(n_bytes)) => return self.end_of_long_line(n_bytes),
            Some(LetGo::Nuls(n_bytes)) => return self.end_of_nuls(n_bytes),
            None => {}
        }
        let newline = self.find_newline(self.searched);
        let end = newline.unwrap_or(self.filled);
        if end - self.line_start >= NUL_RUN_MIN
            && let Some(run) = self.find_nuls(self.line_start..end)
        {
            if run == self.line_start {
                return self.end_of_nuls(0);
            }
            return Some(self.take(run, run, Ending::Torn));
        }
        let Some(newline) = newline else {
            self.searched = self.searched.max(self.whole_units());
            return self.begin_long_line();
        };
        self.searched = newline;
        let content_end = self.without_cr(self.line_start..newline);
        Some(self.take(content_end, newline + self.charset.unit_len(), Ending::Terminator))
    }

    /// Takes the line that begins here, or as much of it as may be.
    fn take(&mut self, content_end: usize, end: usize, ending: Ending) -> Line {
        let start = self.line_start;
        let mark_len = match self.offset_of(start) {
            0 => self.charset.mark_len(&self.bytes[start..content_end]),
            _ => 0,
        };
        let mut line = Line {
            content: start + mark_len..content_end,
            start: self.offset_of(start),
            end: self.offset_of(end),
            cut: 0,
            continued: self.in_line,
            ending,
        };
        self.line_start = end;
        if content_end - start > self.rule.bytes_max {
            let piece_end = self.piece_end(start);
            line.content.end = piece_end;
            match self.rule.too_long {
                LineTooLong::Truncate => line.cut = (content_end - piece_end) as u64,
                LineTooLong::Split => {
                    line.end = self.offset_of(piece_end);
                    line.ending = Ending::Limit;
                    self.line_start = piece_end;
                }
            }
        }
        self.searched = self.searched.max(self.line_start);
        self.in_line = line.ending == Ending::Limit;
        line
    }

    /// Looks whether what is held is over-long whatever follows it.
    fn begin_long_line(&mut self) -> Option<Line> {
        // The unit behind the limit may still be the CR of a terminator.
        let limit = self.line_start + self.rule.bytes_max;
        if self.searched < limit + 2 * self.charset.unit_len() {
            return None;
        }
        // NULs from the limit's side of the line on may still be a run, which ends the line.
        let nuls = self.trailing_nuls(self.line_start);
        if nuls < self.filled && nuls <= limit {
            return None;
        }
        match self.rule.too_long {
            LineTooLong::Split => Some(self.take(self.searched, self.searched, Ending::Limit)),
            LineTooLong::Truncate => {
                self.searched = self.piece_end(self.line_start);
                self.end_of_long_line(0)
            }
        }
    }

    /// Lets the rest of an over-long line go, up to its terminator or a run of NULs; `n_before`
    /// bytes of it are gone.
    fn end_of_long_line(&mut self, n_before: u64) -> Option<Line> {
        let head_end = self.searched;
        let newline = self.find_newline(head_end);
        let rest_end = newline.unwrap_or(self.filled);
        let (content_end, end, ending) = match (self.find_nuls(head_end..rest_end), newline) {
            (Some(run), _) => (run, run, Ending::Torn),
            (None, Some(newline)) => {
                let content_end = self.without_cr(head_end..newline);
                (content_end, newline + self.charset.unit_len(), Ending::Terminator)
            }
            (None, None) => {
                // The last unit stays, for it may be the CR of the terminator; so do NULs that
                // may be a run.
                let last = self.whole_units().saturating_sub(self.charset.unit_len());
                let stays = last.min(self.trailing_nuls(head_end)).max(head_end);
                self.remove(head_end..stays);
                self.let_go = Some(LetGo::Rest(n_before + (stays - head_end) as u64));
                return None;
            }
        };
        let cut = n_before + (content_end - head_end) as u64;
        let gone = n_before + (end - head_end) as u64;
        self.remove(head_end..end);
        Some(self.leave_gap(head_end, gone, cut, ending))
    }

    /// Lets a run of NULs go; `n_before` bytes of it are gone.
    fn end_of_nuls(&mut self, n_before: u64) -> Option<Line> {
        let start = self.line_start;
        let run_end = start + leading_nuls(&self.bytes[start..self.filled]);
        // Of a unit that is cut in two by the end of what was read, nothing is known yet.
        let whole = self.charset.whole_units(&self.bytes[start..run_end], self.offset_of(start));
        let ends = run_end < self.filled;
        self.remove(start..start + whole);
        let n_bytes = n_before + whole as u64;
        if !ends {
            self.let_go = Some(LetGo::Nuls(n_bytes));
            return None;
        }
        Some(self.leave_gap(start, n_bytes, 0, Ending::Nuls))
    }

    /// Returns the line whose kept bytes end at `at`, where `gone` bytes of its ground are missing.
    fn leave_gap(&mut self, at: usize, gone: u64, cut: u64, ending: Ending) -> Line {
        let start = self.line_start;
        let mark_len = match self.offset_of(start) {
            0 => self.charset.mark_len(&self.bytes[start..at]),
            _ => 0,
        };
        let line = Line {
            content: start + mark_len..at,
            start: self.offset_of(start),
            end: self.offset_of(at) + gone,
            cut,
            continued: self.in_line && ending != Ending::Nuls,
            ending,
        };
        self.let_go = None;
        self.in_line = false;
        self.gap_at = at;
        self.gap = gone;
        self.line_start = at;
        self.searched = at;
        line
    }

    /// Returns what stands after the last terminator as a line of its own, for a file that has
    /// come to its end; `None` where nothing stands there. To be called, again and again, when
    /// [`LineBuffer::next_line`] gives nothing.
    pub fn take_partial(&mut self) -> Option<Line> {
        let (at, n_before, ending) = match self.let_go {
            Some(LetGo::Rest(n_before)) => (self.searched, n_before, Ending::Torn),
            Some(LetGo::Nuls(n_before)) => (self.line_start, n_before, Ending::Nuls),
            None if self.line_start == self.filled => return None,
            None => return Some(self.take(self.filled, self.filled, Ending::Torn)),
        };
        let gone = n_before + (self.filled - at) as u64;
        self.filled = at;
        let cut = if ending == Ending::Torn { gone } else { 0 };
        Some(self.leave_gap(at, gone, cut, ending))
    }

    // ---- places in the buffer ----

    fn offset_of(&self, index: usize) -> u64 {
        self.base + index as u64
    }

    fn find_newline(&self, from: usize) -> Option<usize> {
        let bytes = &self.bytes[from..self.filled];
        self.charset.find_newline(bytes, self.offset_of(from)).map(|at| from + at)
    }

    fn without_cr(&self, range: Range<usize>) -> usize {
        match self.charset.ends_with(&self.bytes[range.clone()], b'\r') {
            true => range.end - self.charset.unit_len(),
            false => range.end,
        }
    }

    /// Returns where a piece ends that begins at `start` and has more behind it than may be.
    fn piece_end(&self, start: usize) -> usize {
        let bytes = &self.bytes[start..self.filled];
        start + self.charset.fit(bytes, self.offset_of(start), self.rule.bytes_max)
    }

    /// Returns the end of the last whole unit.
    fn whole_units(&self) -> usize {
        let held = &self.bytes[self.line_start..self.filled];
        self.line_start + self.charset.whole_units(held, self.offset_of(self.line_start))
    }

    /// Returns the first unit that begins at or after `index`.
    fn unit_from(&self, index: usize) -> usize {
        index + (self.offset_of(index) % self.charset.unit_len() as u64) as usize
    }

    /// Returns where the NULs begin that stand at the end, not before `from`.
    fn trailing_nuls(&self, from: usize) -> usize {
        let last = self.bytes[from..self.filled].iter().rposition(|&byte| byte != 0);
        self.unit_from(last.map_or(from, |at| from + at + 1)).min(self.filled)
    }

    /// Returns where the first run of NULs begins.
    fn find_nuls(&self, range: Range<usize>) -> Option<usize> {
        let bytes = &self.bytes[..range.end];
        // No run can lie between two of these.
        for sample in (range.start + NUL_RUN_MIN - 1..range.end).step_by(NUL_RUN_MIN) {
            if bytes[sample] != 0 {
                continue;
            }
            let before = bytes[range.start..sample].iter().rposition(|&byte| byte != 0);
            let run = self.unit_from(before.map_or(range.start, |at| range.start + at + 1));
            let Some(rest) = bytes.get(sample..run + NUL_RUN_MIN) else {
                continue;
            };
            if leading_nuls(rest) == rest.len() {
                return Some(run);
            }
        }
        None
    }

    fn remove(&mut self, range: Range<usize>) {
        let n = range.len();
        self.bytes.copy_within(range.end..self.filled, range.start);
        self.filled -= n;
    }

    // ---- reading ----

    /// Returns bytes of the buffer, as named by [`Line::content`].
    pub fn slice(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    /// What the bytes stand for; known when some were read.
    pub fn charset(&self) -> Charset {
        self.charset
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
        let let_go = match self.let_go {
            Some(LetGo::Rest(n_bytes) | LetGo::Nuls(n_bytes)) => n_bytes,
            None => 0,
        };
        self.base + self.filled as u64 + self.gap + let_go
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
        self.line_start < self.filled || self.let_go.is_some()
    }

    /// Returns the last `n` of the bytes that the last read gave; to be called right after it.
    pub fn fresh_bytes(&self, n: usize) -> &[u8] {
        &self.bytes[self.filled - n..self.filled]
    }

    /// Reads once and returns how many bytes came and by how much the indices of
    /// kept bytes went down.
    pub fn read_from(&mut self, mut source: impl ReadAt) -> io::Result<(usize, usize)> {
        let shift = self.make_room();
        let offset = self.read_offset();
        self.look_before(&mut source, offset)?;
        // Not all of the room: it would grow by a read whenever a read's events had to wait.
        let end = self.bytes.len().min(self.filled + READ_BYTES);
        let n = source.read_at(&mut self.bytes[self.filled..end], offset)?;
        self.filled += n;
        Ok((n, shift))
    }

    /// Learns from bytes before the first one how to read it.
    fn look_before(&mut self, source: &mut impl ReadAt, offset: u64) -> io::Result<()> {
        if !self.order_known {
            let head = read_full(source, 0, 2)?;
            self.charset = Charset::of(self.rule.encoding, &head);
            self.order_known = head.len() == 2;
        }
        if !self.begun {
            let start = offset.saturating_sub(NUL_RUN_MIN as u64);
            let before = read_full(source, start, (offset - start) as usize)?;
            let is_run = before.len() == NUL_RUN_MIN && leading_nuls(&before) == before.len();
            self.in_line = !before.is_empty() && !is_run && !self.charset.ends_with(&before, b'\n');
            self.begun = true;
        }
        Ok(())
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

/// Returns how many NULs stand at the beginning.
fn leading_nuls(bytes: &[u8]) -> usize {
    /// Compared at once, which is many times faster than one by one.
    const NULS: [u8; 1024] = [0; 1024];
    let n_blocks = bytes.chunks(NULS.len()).take_while(|block| *block == &NULS[..block.len()]);
    let from = n_blocks.map(<[u8]>::len).sum();
    from + bytes[from..].iter().take_while(|&&byte| byte == 0).count()
}

/// Reads `len` bytes from `start` on, or less where they end before.
fn read_full(source: &mut impl ReadAt, start: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let mut n = 0;
    while n < len {
        match source.read_at(&mut bytes[n..], start + n as u64)? {
            0 => break,
            more => n += more,
        }
    }
    bytes.truncate(n);
    Ok(bytes)
}
