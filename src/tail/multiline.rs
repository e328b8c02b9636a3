//! Lines -> events.
//!
//! The lines of an event follow each other in the file, so an event is one range of the buffer
//! its lines were found in: joining copies nothing. An event is complete when the first line of
//! the next one is there, when its limit is reached, or when its owner says that no more will
//! come ([`EventBuffer::flush`], [`EventBuffer::finish`]).
//!
//! **Cutting a range again.** What is cut depends on the bytes from an offset on, on the rule and
//! the limits, on whether the event that begins at the offset is `continued`, and on where the
//! owner ended an event by flushing; on nothing else, and not on how reads divided the bytes. (Of
//! a file of UTF-16 the byte order mark is looked at, and where lines are split the bytes before
//! the offset, which say whether a line begins there.) So the events of `[start, end)` come out as
//! before from a buffer made with `start` and the `continued` of the first of them, if each event
//! that was `flushed` is flushed again before any byte behind its end is read. An event that was
//! not flushed ends the same way only where the bytes behind it, which ended it, can still be
//! read.

use std::io;
use std::ops::Range;

use crate::config::{InputConfig, Multiline};
use crate::tail::harvester::ReadAt;
use crate::tail::lines::{Ending, Line, LineBuffer, LineRule};
use crate::tail::trace::Trace;

/// A complete event; `content` points into the buffer that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where its bytes without the last terminator are.
    pub content: Range<usize>,
    /// First byte in the file.
    pub start: u64,
    /// One past its last byte in the file, terminator and cut bytes included.
    pub end: u64,
    /// Lines in it.
    pub n_lines: u32,
    /// Bytes of its last line that are not in `content`.
    pub cut: u64,
    /// It goes on where the event before it reached the limit or was cut.
    pub continued: bool,
    /// Its last line has no terminator: the file came to its end, or to a run of NULs.
    pub partial: bool,
    /// It is no event but a run of NULs, without content.
    pub is_nuls: bool,
    /// Its owner ended it; it was not ended by its limit or by what follows it.
    pub flushed: bool,
}

/// What decides how bytes are cut into events, beside the bytes and the multiline rule.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How lines are found.
    pub line: LineRule,
    /// Bytes of an event in its file.
    pub bytes_max: usize,
    /// Lines of an event.
    pub lines_max: u32,
}

impl Limits {
    /// Returns the limits of an input.
    pub fn of(input: &InputConfig) -> Limits {
        Limits {
            line: LineRule::of(input),
            bytes_max: input.event_bytes_max,
            lines_max: input.event_lines_max,
        }
    }
}

/// What stands before the next event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// An event that is whole, or nothing that is known.
    Whole,
    /// An event that was cut: a line that starts none is its continuation.
    Cut,
    /// An event that the next one is known to continue.
    Continued,
}

/// Finds events in the bytes of one file.
#[derive(Debug)]
pub struct EventBuffer {
    lines: LineBuffer,
    limits: Limits,
    /// The event that further lines may still belong to.
    open: Option<Event>,
    /// Whatever follows, no line belongs to the open event any more.
    is_ended: bool,
    /// Where in a stack trace the open event is.
    trace: Trace,
    /// Complete, shown by [`EventBuffer::peek`] and not yet consumed.
    ready: Option<Event>,
    before: Before,
    /// Room for the text of a line that is not UTF-8.
    text: Vec<u8>,
}

impl EventBuffer {
    /// Returns an empty buffer for a file that is read from `offset` on; `continued` says that the
    /// event that begins there goes on where the one before it was cut or reached its limit.
    pub fn new(offset: u64, limits: Limits, continued: bool) -> EventBuffer {
        EventBuffer {
            lines: LineBuffer::new(offset, limits.line),
            limits,
            open: None,
            is_ended: false,
            trace: Trace::default(),
            ready: None,
            before: if continued { Before::Continued } else { Before::Whole },
            text: Vec::new(),
        }
    }

    /// Returns the next complete event without consuming it.
    pub fn peek(&mut self, rule: &Multiline) -> Option<Event> {
        if self.ready.is_none() {
            self.ready = self.next_event(rule);
        }
        self.ready.clone()
    }

    /// Ends the event that [`EventBuffer::peek`] showed: its bytes are not needed any more.
    pub fn consume(&mut self) {
        if let Some(event) = self.ready.take() {
            // Up to the open event and not to the content's end, which leaves terminators behind.
            let next = self.open.as_ref().map(|open| open.content.start);
            self.lines.release(next.unwrap_or_else(|| self.lines.line_start()));
            self.before = if event.cut > 0 { Before::Cut } else { Before::Whole };
        }
    }

    /// Returns the bytes of an event as they stand in the file.
    pub fn content(&self, event: &Event) -> &[u8] {
        self.lines.slice(event.content.clone())
    }

    /// Returns the bytes of an event and its last terminator, as UTF-8 where the file's encoding is
    /// another one; `room` is for those. For an event of which nothing was cut.
    pub fn text_with_terminator<'a>(&'a self, event: &Event, room: &'a mut Vec<u8>) -> &'a [u8] {
        let len = (event.end - event.start) as usize;
        let bytes = self.lines.slice(event.content.start..event.content.start + len);
        self.lines.charset().decode(bytes, event.start, room)
    }

    /// Tells whether the first line of the file that follows belongs to the open event.
    ///
    /// More is asked of it than of a line of the same file: what a logger writes at the head of
    /// each new file starts no event either, and belongs to none of the file before.
    pub fn goes_on_with(&self, line: &[u8], rule: &Multiline) -> bool {
        let is_of_trace = || !line.is_empty() && Trace::Outside.goes_on_in_java(line);
        self.open.is_some()
            && match rule {
                Multiline::None | Multiline::Count(_) => false,
                Multiline::Kafka => !starts_with_timestamp(line) && is_of_trace(),
                Multiline::Java => is_of_trace(),
                Multiline::Python => !line.is_empty() && { self.trace }.goes_on_in_python(line),
                Multiline::Start(pattern) => !pattern.is_match(line) && is_of_trace(),
                Multiline::Continuation(pattern) => pattern.is_match(line),
            }
    }

    /// Tells whether the open event, and one of another file that goes on with it, are no more
    /// than one may be.
    pub fn has_room_for(&self, rest: &Event) -> bool {
        self.open.as_ref().is_some_and(|open| {
            let n_bytes = (open.end - open.start) + (rest.end - rest.start);
            n_bytes <= self.limits.bytes_max as u64
                && open.n_lines + rest.n_lines <= self.limits.lines_max
        })
    }

    /// Returns the event that waits for further lines.
    pub fn open_event(&self) -> Option<&Event> {
        self.open.as_ref()
    }

    /// Returns the bytes of an event, as UTF-8 where the file's encoding is another one; `room` is
    /// for those.
    pub fn text<'a>(&'a self, event: &Event, room: &'a mut Vec<u8>) -> &'a [u8] {
        self.lines.charset().decode(self.content(event), event.start, room)
    }

    /// Completes the open event, for no more lines are expected to belong to it.
    pub fn flush(&mut self) {
        if self.ready.is_none() {
            self.ready = self.open.take().map(|event| Event { flushed: true, ..event });
            self.is_ended = false;
        }
    }

    /// Completes everything that was read, also a last line without a terminator: the file has
    /// come to its end. Call again until [`EventBuffer::peek`] shows nothing.
    pub fn finish(&mut self, rule: &Multiline) {
        if self.ready.is_some() {
            return;
        }
        if let Some(line) = self.lines.take_partial() {
            self.ready = self.join(line, rule);
            if let Some(open) = &mut self.open {
                open.flushed = true;
            }
        }
        self.flush();
    }

    /// Tells whether an event waits for further lines.
    pub fn has_open(&self) -> bool {
        self.open.is_some()
    }

    /// Tells whether bytes without a terminator are held.
    pub fn has_partial(&self) -> bool {
        self.lines.has_partial()
    }

    /// Offset in the file up to which bytes have been read.
    pub fn read_offset(&self) -> u64 {
        self.lines.read_offset()
    }

    /// Offset in the file of the first byte that has not left in an event.
    pub fn event_offset(&self) -> u64 {
        let first = self.ready.as_ref().or(self.open.as_ref());
        first.map_or(self.lines.line_offset(), |event| event.start)
    }

    /// Returns the last `n` of the bytes that the last read gave; to be called right after it.
    pub fn fresh_bytes(&self, n: usize) -> &[u8] {
        self.lines.fresh_bytes(n)
    }

    /// Reads once; returns how many bytes came.
    ///
    /// To be called only when [`EventBuffer::peek`] shows nothing: what it showed would move.
    pub fn read_from(&mut self, source: impl ReadAt) -> io::Result<usize> {
        let (n, shift) = self.lines.read_from(source)?;
        self.shift_down(shift);
        Ok(n)
    }

    /// Takes over a large room to read into.
    pub fn attach(&mut self, room: Vec<u8>) {
        let shift = self.lines.attach(room);
        self.shift_down(shift);
    }

    /// Gives the large room back and keeps only the bytes of events that have not left.
    pub fn detach(&mut self) -> Vec<u8> {
        let (room, shift) = self.lines.detach();
        self.shift_down(shift);
        room
    }

    fn next_event(&mut self, rule: &Multiline) -> Option<Event> {
        loop {
            if self.is_ended {
                self.is_ended = false;
                return self.open.take();
            }
            let line = self.lines.next_line()?;
            if let Some(event) = self.join(line, rule) {
                return Some(event);
            }
        }
    }

    /// Adds a line to the open event, or opens a new one and returns the one it completes.
    fn join(&mut self, line: Line, rule: &Multiline) -> Option<Event> {
        let belongs = self.belongs(&line, rule);
        let n_lines = u32::from(!line.continued && line.ending != Ending::Nuls);
        let continued = match &mut self.open {
            None => belongs,
            Some(_) if !belongs => false,
            Some(open) if has_no_room(open, &line, &self.limits) => true,
            Some(open) => {
                open.content.end = line.content.end;
                open.end = line.end;
                open.cut = line.cut;
                open.n_lines += n_lines;
                open.partial = line.ending == Ending::Torn;
                self.is_ended = ends_event(open, line.ending, rule);
                return None;
            }
        };
        if continued {
            self.trace = Trace::Inside;
        }
        self.before = Before::Whole;
        let event = Event {
            content: line.content,
            start: line.start,
            end: line.end,
            n_lines,
            cut: line.cut,
            continued,
            partial: line.ending == Ending::Torn,
            is_nuls: line.ending == Ending::Nuls,
            flushed: false,
        };
        self.is_ended = ends_event(&event, line.ending, rule);
        self.open.replace(event)
    }

    /// Tells whether a line belongs to the event before it.
    fn belongs(&mut self, line: &Line, rule: &Multiline) -> bool {
        if line.ending == Ending::Nuls {
            return false;
        }
        if line.continued {
            return true;
        }
        if self.open.is_none() {
            // What was before is known no more than it is after a restart.
            self.trace = if self.before == Before::Whole { Trace::Before } else { Trace::Inside };
        }
        let content = self.lines.slice(line.content.clone());
        let line = match rule {
            Multiline::None => content,
            _ => self.lines.charset().decode(content, line.start, &mut self.text),
        };
        let n_lines = self.open.as_ref().map_or(0, |open| open.n_lines);
        let belongs = match rule {
            Multiline::None => false,
            Multiline::Kafka => !starts_with_timestamp(line),
            Multiline::Java => self.trace.goes_on_in_java(line),
            Multiline::Python => self.trace.goes_on_in_python(line),
            Multiline::Start(pattern) => !pattern.is_match(line),
            Multiline::Continuation(pattern) => pattern.is_match(line),
            Multiline::Count(count) => n_lines < *count,
        };
        match (&self.open, self.before) {
            (None, Before::Whole) => false,
            (None, Before::Continued) => true,
            _ => belongs,
        }
    }

    fn shift_down(&mut self, shift: usize) {
        for event in self.open.iter_mut().chain(self.ready.iter_mut()) {
            event.content.start -= shift;
            event.content.end -= shift;
        }
    }
}

fn has_no_room(open: &Event, line: &Line, limits: &Limits) -> bool {
    line.content.end - open.content.start > limits.bytes_max || open.n_lines >= limits.lines_max
}

/// Tells whether an event is complete whatever follows its last line.
fn ends_event(event: &Event, ending: Ending, rule: &Multiline) -> bool {
    let is_full = match rule {
        Multiline::None => true,
        Multiline::Count(count) => event.n_lines >= *count,
        _ => false,
    };
    is_full || event.cut > 0 || ending != Ending::Terminator
}

/// Tells whether a line begins with `yyyy-MM-dd HH:mm:ss`, or with a `T` between, optionally
/// after `[`.
///
/// A bracket alone does not start an event: arrays in configuration dumps and messages begin with
/// one too (elastic/beats' `^\[` splits them and glues all layouts without brackets together).
/// Source: Kafka's `config/log4j.properties` and `log4j2.yaml`, `[%d] %p %m (%c)%n`.
pub fn starts_with_timestamp(line: &[u8]) -> bool {
    let line = line.strip_prefix(b"[").unwrap_or(line);
    let Some(head) = line.first_chunk::<19>() else {
        return false;
    };
    const DIGITS: [usize; 14] = [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18];
    head[4] == b'-'
        && head[7] == b'-'
        && head[13] == b':'
        && head[16] == b':'
        && (head[10] == b' ' || head[10] == b'T')
        && DIGITS.iter().all(|&at| head[at].is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;
    use crate::config::{Encoding, LineTooLong};

    /// What an event says of itself, for comparison.
    #[derive(Debug, PartialEq, Eq)]
    struct Seen {
        text: String,
        ground: Range<u64>,
        cut: u64,
        continued: bool,
        partial: bool,
    }

    fn seen(text: &str, ground: Range<u64>) -> Seen {
        Seen { text: text.into(), ground, cut: 0, continued: false, partial: false }
    }

    fn limits_of((line_bytes_max, bytes_max): (usize, usize)) -> Limits {
        let line = LineRule {
            bytes_max: line_bytes_max,
            too_long: LineTooLong::Truncate,
            encoding: Encoding::Utf8,
        };
        Limits { line, bytes_max, lines_max: u32::MAX }
    }

    /// Appends `bytes` to a file in pieces of `step` bytes and reads after each.
    fn events(bytes: &[u8], rule: &Multiline, limits: (usize, usize), step: usize) -> Vec<Seen> {
        let mut file = tempfile::tempfile().expect("a temporary file");
        let mut buffer = EventBuffer::new(0, limits_of(limits), false);
        let mut seen = Vec::new();
        let mut room = Vec::new();
        for piece in bytes.chunks(step) {
            file.write_all(piece).expect("written");
            buffer.attach(std::mem::take(&mut room));
            while buffer.read_from(&file).expect("read") > 0 {
                drain(&mut buffer, rule, &mut seen);
            }
            room = buffer.detach();
        }
        assert_eq!(buffer.read_offset(), bytes.len() as u64);
        loop {
            buffer.finish(rule);
            let n = seen.len();
            drain(&mut buffer, rule, &mut seen);
            if seen.len() == n {
                assert_eq!(buffer.event_offset(), bytes.len() as u64);
                return seen;
            }
        }
    }

    fn drain(buffer: &mut EventBuffer, rule: &Multiline, out: &mut Vec<Seen>) {
        while let Some(event) = buffer.peek(rule) {
            out.push(Seen {
                text: String::from_utf8_lossy(buffer.content(&event)).into(),
                ground: event.start..event.end,
                cut: event.cut,
                continued: event.continued,
                partial: event.partial,
            });
            buffer.consume();
        }
    }

    /// The events must not depend on how the bytes were divided over reads.
    fn check(bytes: &[u8], rule: &Multiline, limits: (usize, usize), expected: &[Seen]) {
        for step in [1, 2, 3, 5, 7, 64, bytes.len().max(1)] {
            assert_eq!(events(bytes, rule, limits, step), expected, "in pieces of {step}");
        }
    }

    const WIDE: (usize, usize) = (1000, 1000);

    /// Torture: 33, 38.
    #[test]
    fn lines_have_measured_offsets_whatever_ends_them() {
        let expected =
            [seen("one", 0..4), seen("two", 4..9), seen("", 9..10), seen("a\rb", 10..14)];
        check(b"one\ntwo\r\n\na\rb\n", &Multiline::None, WIDE, &expected);
    }

    /// Torture: 32.
    #[test]
    fn a_last_line_without_terminator_leaves_marked_when_the_file_ends() {
        let expected = [seen("one", 0..4), Seen { partial: true, ..seen("tw", 4..6) }];
        check(b"one\ntw", &Multiline::None, WIDE, &expected);
    }

    /// Torture: 36.
    #[test]
    fn an_over_long_line_is_cut_and_the_next_one_is_whole() {
        let expected = [
            seen("12345", 0..6),
            Seen { cut: 3, ..seen("abcde", 6..16) },
            seen("ok", 16..19),
            seen("fits!", 19..26),
            Seen { cut: 1, ..seen("xyzxy", 26..34) },
            Seen { cut: 2, partial: true, ..seen("never", 34..41) },
        ];
        let bytes = b"12345\nabcdefgh\r\nok\nfits!\r\nxyzxyz\r\nneverEN";
        check(bytes, &Multiline::None, (5, 100), &expected);
    }

    /// Torture: 40.
    #[test]
    fn a_trace_stays_with_its_event_and_brackets_start_none() {
        let bytes =
            b"[2024-01-01 00:00:00,000] ERROR x (a.B)\njava.lang.E: [1]\n[1, 2]\n\tat a.B\n\
            2024-01-01T00:00:01 INFO y\n[2024-01-01 00:00:02,000] INFO z (c.D)\n";
        let expected = [
            seen(
                "[2024-01-01 00:00:00,000] ERROR x (a.B)\njava.lang.E: [1]\n[1, 2]\n\tat a.B",
                0..72,
            ),
            seen("2024-01-01T00:00:01 INFO y", 72..99),
            seen("[2024-01-01 00:00:02,000] INFO z (c.D)", 99..138),
        ];
        check(bytes, &Multiline::Kafka, WIDE, &expected);
    }

    #[test]
    fn an_event_at_its_limit_goes_on_in_a_marked_one() {
        let start = Multiline::Start(regex::bytes::Regex::new("^#").expect("a pattern"));
        let expected = [
            seen("#12\nab", 0..7),
            Seen { continued: true, ..seen("cd\nef", 7..13) },
            seen("#3", 13..16),
        ];
        check(b"#12\nab\ncd\nef\n#3\n", &start, (6, 6), &expected);
        let expected = [
            Seen { cut: 1, ..seen("#1\nabc", 0..8) },
            Seen { continued: true, ..seen("de", 8..11) },
            seen("#3", 11..14),
        ];
        check(b"#1\nabcd\nde\n#3\n", &start, (3, 20), &expected);
    }

    /// Returns all events of a file that is read from `start` on.
    fn events_from(file: &File, start: u64, continued: bool, limits: (usize, usize)) -> Vec<Event> {
        let mut buffer = EventBuffer::new(start, limits_of(limits), continued);
        while buffer.read_from(file).expect("read") > 0 {}
        let mut events = Vec::new();
        loop {
            while let Some(event) = buffer.peek(&Multiline::Kafka) {
                buffer.consume();
                events.push(event);
            }
            buffer.finish(&Multiline::Kafka);
            if buffer.peek(&Multiline::Kafka).is_none() {
                return events;
            }
        }
    }

    /// Torture: 39.
    #[test]
    fn from_any_event_on_the_same_events_are_cut_again() {
        let line = "2026-01-31 13:00:00 x\n";
        let text = format!("{line}a long one, cut\nsome\nmore\nand more\n{line}\tat\n{line}pa");
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(text.as_bytes()).expect("written");
        let limits = (22, 40);
        let whole = events_from(&file, 0, false, limits);
        let key = |event: &Event| (event.start, event.end, event.continued, event.flushed);
        let whole: Vec<_> = whole.iter().map(key).collect();
        assert!(whole.iter().filter(|event| event.2).count() >= 1, "{whole:?}");
        assert_eq!(whole.iter().filter(|event| event.3).count(), 1, "{whole:?}");
        for at in 0..whole.len() {
            let again = events_from(&file, whole[at].0, whole[at].2, limits);
            assert_eq!(again.iter().map(key).collect::<Vec<_>>(), whole[at..], "from {at}");
        }
    }

    #[test]
    fn the_logs_of_real_brokers_split_into_events_without_a_gap() {
        for path in std::fs::read_dir("tests/data/logs").expect("logs in the repository") {
            let bytes = std::fs::read(path.expect("an entry").path()).expect("a log");
            let whole = events(&bytes, &Multiline::Kafka, (1 << 20, 1 << 20), 100_000);
            let mut end = 0;
            for event in &whole {
                assert_eq!(event.ground.start, end);
                assert!(starts_with_timestamp(event.text.as_bytes()), "{}", event.text);
                end = event.ground.end;
            }
            assert_eq!(end, bytes.len() as u64);
            assert_eq!(whole, events(&bytes, &Multiline::Kafka, (1 << 20, 1 << 20), 997));
        }
    }
}
