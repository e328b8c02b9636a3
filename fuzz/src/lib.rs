//! Cuts bytes into events, as a file that grows by steps and as one that is there at once.

use std::io;

use log_shipper::config::{Encoding, LineTooLong, Multiline};
use log_shipper::tail::harvester::ReadAt;
use log_shipper::tail::lines::LineRule;
use log_shipper::tail::multiline::{Event, EventBuffer, Limits};

struct Growing<'a> {
    bytes: &'a [u8],
    written: usize,
}

impl ReadAt for Growing<'_> {
    fn read_at(&mut self, room: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = &self.bytes[..self.written][offset as usize..];
        let n = rest.len().min(room.len());
        room[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

/// Takes limits and a step off the head of the input.
pub fn limits(data: &[u8]) -> Option<(Limits, usize, &[u8])> {
    let (head, bytes) = data.split_at_checked(5)?;
    let encodings =
        [Encoding::Utf8, Encoding::Utf16, Encoding::Utf16Le, Encoding::Utf16Be, Encoding::Latin1];
    let bytes_max = 4 + usize::from(head[0]);
    let line = LineRule {
        bytes_max,
        too_long: if head[1] & 1 == 0 { LineTooLong::Truncate } else { LineTooLong::Split },
        encoding: encodings[usize::from(head[1] >> 1) % encodings.len()],
    };
    let limits = Limits {
        line,
        bytes_max: bytes_max + usize::from(head[2]),
        lines_max: 1 + u32::from(head[3]),
    };
    Some((limits, 1 + usize::from(head[4]), bytes))
}

/// Replaces `0xfe n` by `64 * n` NULs, so that a short input can hold runs of them.
pub fn with_runs(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some((&byte, more)) = rest.split_first() {
        rest = more;
        match (byte, more.split_first()) {
            (0xfe, Some((&n, more))) => {
                out.resize(out.len() + 64 * usize::from(n), 0);
                rest = more;
            }
            _ => out.push(byte),
        }
    }
    out
}

/// Sees that the events are the same however the bytes come, and from any of them on, and that
/// they cover each byte once.
pub fn check(bytes: &[u8], limits: Limits, rule: &Multiline, step: usize) {
    // A long input byte by byte takes too long.
    let step = step.max(bytes.len() / 500);
    let at_once = cut(bytes, 0, false, limits, rule, usize::MAX);
    assert_eq!(cut(bytes, 0, false, limits, rule, step), at_once);
    let mut end = 0;
    for (event, _) in &at_once {
        assert_eq!(event.start, end);
        assert!(event.end > event.start);
        end = event.end;
    }
    assert_eq!(end, bytes.len() as u64);
    if let Some(middle) = at_once.get(at_once.len() / 2) {
        let start = middle.0.start as usize;
        let again = cut(bytes, start, middle.0.continued, limits, rule, usize::MAX);
        assert_eq!(again, at_once[at_once.len() / 2..]);
    }
}

/// Returns events and their text; where content lies in the buffer is left out.
fn cut(
    bytes: &[u8],
    start: usize,
    continued: bool,
    limits: Limits,
    rule: &Multiline,
    step: usize,
) -> Vec<(Event, Vec<u8>)> {
    let mut buffer = EventBuffer::new(start as u64, limits, continued);
    let mut events = Vec::new();
    let mut room = Vec::new();
    let mut written = start;
    while written < bytes.len() {
        written = bytes.len().min(written.saturating_add(step));
        buffer.attach(std::mem::take(&mut room));
        while buffer.read_from(Growing { bytes, written }).expect("no file, no error") > 0 {
            take_events(&mut buffer, rule, &mut events);
        }
        room = buffer.detach();
    }
    loop {
        buffer.finish(rule);
        let n = events.len();
        take_events(&mut buffer, rule, &mut events);
        if events.len() == n {
            return events;
        }
    }
}

fn take_events(buffer: &mut EventBuffer, rule: &Multiline, events: &mut Vec<(Event, Vec<u8>)>) {
    let mut room = Vec::new();
    while let Some(event) = buffer.peek(rule) {
        let text = buffer.text(&event, &mut room).to_vec();
        events.push((Event { content: 0..0, ..event }, text));
        buffer.consume();
    }
}
