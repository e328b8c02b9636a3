//! The pure stages against models that are too simple to be wrong: whatever the bytes, however
//! reads divide them and in whatever order receipts come.

use std::io;

use log_shipper::config::{Encoding, LineTooLong, Multiline};
use log_shipper::ledger::Ledger;
use log_shipper::record::{SourceId, Span};
use log_shipper::tail::charset::Charset;
use log_shipper::tail::fingerprint::Checksum;
use log_shipper::tail::harvester::ReadAt;
use log_shipper::tail::lines::{LineRule, NUL_RUN_MIN};
use log_shipper::tail::multiline::{EventBuffer, Limits, starts_with_timestamp};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// What an event says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    text: Vec<u8>,
    start: usize,
    end: usize,
    cut: usize,
    continued: bool,
    partial: bool,
    is_nuls: bool,
}

// ---- what is under test ----

/// A file that has been written up to `written`, and gives as much at once as the writer wrote.
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

/// Reads `bytes` from `start` on, while they grow by `steps`, and gives all events.
fn cut(
    bytes: &[u8],
    start: usize,
    continued: bool,
    limits: Limits,
    rule: &Multiline,
    steps: &[usize],
) -> Vec<Seen> {
    let mut buffer = EventBuffer::new(start as u64, limits, continued);
    let mut seen = Vec::new();
    let mut room = Vec::new();
    let mut written = start;
    for step in steps.iter().cycle() {
        // A long file byte by byte would take long, too.
        let step = (*step).max(bytes.len() / 150);
        written = bytes.len().min(written + step);
        buffer.attach(std::mem::take(&mut room));
        while buffer.read_from(Growing { bytes, written }).expect("no file, no error") > 0 {
            take_events(&mut buffer, rule, &mut seen);
        }
        assert_eq!(buffer.read_offset(), written as u64);
        room = buffer.detach();
        if written == bytes.len() {
            break;
        }
    }
    loop {
        buffer.finish(rule);
        let n = seen.len();
        take_events(&mut buffer, rule, &mut seen);
        if seen.len() == n {
            assert_eq!(buffer.event_offset(), bytes.len() as u64);
            return seen;
        }
    }
}

fn take_events(buffer: &mut EventBuffer, rule: &Multiline, seen: &mut Vec<Seen>) {
    let mut room = Vec::new();
    while let Some(event) = buffer.peek(rule) {
        seen.push(Seen {
            text: buffer.text(&event, &mut room).to_vec(),
            start: event.start as usize,
            end: event.end as usize,
            cut: event.cut as usize,
            continued: event.continued,
            partial: event.partial,
            is_nuls: event.is_nuls,
        });
        buffer.consume();
    }
}

// ---- the model ----

/// A line of the model: where its content and it itself stand in the file.
#[derive(Debug)]
struct Line {
    start: usize,
    content_end: usize,
    end: usize,
    cut: usize,
    continued: bool,
    is_ended: bool,
    is_torn: bool,
    is_nuls: bool,
}

fn model_lines(bytes: &[u8], rule: LineRule, charset: Charset) -> Vec<Line> {
    let unit = charset.unit_len();
    let newline: &[u8] = match charset {
        Charset::Utf16Le => b"\n\0",
        Charset::Utf16Be => b"\0\n",
        _ => b"\n",
    };
    let cr: Vec<u8> = newline.iter().map(|byte| if *byte == b'\n' { b'\r' } else { 0 }).collect();
    let mut n_nuls = vec![0; bytes.len() + 1];
    for at in (0..bytes.len()).rev() {
        n_nuls[at] = if bytes[at] == 0 { n_nuls[at + 1] + 1 } else { 0 };
    }
    let run_at = |at: usize| {
        let n = n_nuls[at];
        let n = if at + n == bytes.len() { n } else { n - n % unit };
        (n >= NUL_RUN_MIN).then_some(n)
    };
    let mut lines = Vec::new();
    let (mut at, mut continued) = (0, false);
    while at < bytes.len() {
        let mut line = Line {
            start: at,
            content_end: bytes.len(),
            end: bytes.len(),
            cut: 0,
            continued,
            is_ended: true,
            is_torn: true,
            is_nuls: false,
        };
        continued = false;
        if let Some(n) = run_at(at) {
            line = Line {
                end: at + n,
                content_end: at,
                continued,
                is_torn: false,
                is_nuls: true,
                ..line
            };
            at = line.end;
            lines.push(line);
            continue;
        }
        for end in (at..bytes.len()).step_by(unit) {
            if bytes[end..].starts_with(newline) {
                let has_cr = bytes[at..end].ends_with(&cr) && (end - at) >= unit;
                line.content_end = if has_cr { end - unit } else { end };
                line.end = end + unit;
                (line.is_torn, line.is_ended) = (false, false);
                break;
            }
            if bytes[end] == 0 && run_at(end).is_some() {
                (line.content_end, line.end) = (end, end);
                break;
            }
        }
        if line.content_end - at > rule.bytes_max {
            let piece_end = at + charset.fit(&bytes[at..], at as u64, rule.bytes_max);
            match rule.too_long {
                LineTooLong::Truncate => line.cut = line.content_end - piece_end,
                LineTooLong::Split => {
                    line.end = piece_end;
                    line.is_torn = false;
                    continued = true;
                }
            }
            line.content_end = piece_end;
            line.is_ended = true;
        }
        at = line.end;
        lines.push(line);
    }
    lines
}

/// Returns the events of `bytes`, which are all there are.
fn model(bytes: &[u8], limits: Limits, rule: &Multiline) -> Vec<Seen> {
    let charset = Charset::of(limits.line.encoding, bytes);
    let mut events: Vec<Seen> = Vec::new();
    let (mut is_ended, mut n_lines, mut content_start) = (true, 0, 0);
    for line in model_lines(bytes, limits.line, charset) {
        let line_start = line.start + if line.start == 0 { charset.mark_len(bytes) } else { 0 };
        let mut room = Vec::new();
        let content = &bytes[line_start.min(line.content_end)..line.content_end];
        let text = charset.decode(content, line_start as u64, &mut room);
        let belongs = !line.is_nuls
            && (line.continued
                || match rule {
                    Multiline::Kafka => !starts_with_timestamp(text),
                    Multiline::Start(pattern) => !pattern.is_match(text),
                    Multiline::Continuation(pattern) => pattern.is_match(text),
                    Multiline::Count(count) => is_ended || n_lines < *count,
                    _ => false,
                });
        let was_cut = events.last().is_some_and(|event| event.cut > 0) && is_ended;
        let fits = line.content_end - content_start.min(line.content_end) <= limits.bytes_max
            && n_lines < limits.lines_max;
        let counts = u32::from(!line.is_nuls && !line.continued);
        if belongs && !is_ended && fits {
            let event = events.last_mut().expect("open");
            event.end = line.end;
            event.cut = line.cut;
            event.partial = line.is_torn;
            n_lines += counts;
            let mut room = Vec::new();
            let content = &bytes[content_start..line.content_end];
            event.text = charset.decode(content, content_start as u64, &mut room).to_vec();
        } else {
            let continued = belongs && (line.continued || !is_ended || was_cut);
            content_start = line_start;
            n_lines = counts;
            events.push(Seen {
                text: text.to_vec(),
                start: line.start,
                end: line.end,
                cut: line.cut,
                continued,
                partial: line.is_torn,
                is_nuls: line.is_nuls,
            });
        }
        is_ended = line.is_ended
            || match rule {
                Multiline::None => true,
                Multiline::Count(count) => n_lines >= *count,
                _ => false,
            };
    }
    events
}

// ---- what is generated ----

fn regex(pattern: &str) -> regex::bytes::Regex {
    pattern.parse().expect("a pattern")
}

fn rules() -> impl Strategy<Value = Multiline> {
    select(vec![
        Multiline::None,
        Multiline::Kafka,
        Multiline::Start(regex("^#")),
        Multiline::Continuation(regex("^[ \t]")),
        Multiline::Count(3),
        Multiline::Java,
        Multiline::Python,
    ])
}

fn limits() -> impl Strategy<Value = Limits> {
    let encodings = vec![
        Encoding::Utf8,
        Encoding::Utf8,
        Encoding::Latin1,
        Encoding::Utf16,
        Encoding::Utf16Le,
        Encoding::Utf16Be,
    ];
    let too_long = select(vec![LineTooLong::Truncate, LineTooLong::Split]);
    let line_max = prop_oneof![4usize..40, select(vec![4095usize, 4096, 4100, 6000])];
    (line_max, too_long, select(encodings), 0usize..60, 1u32..8).prop_map(
        |(bytes_max, too_long, encoding, more, lines_max)| Limits {
            line: LineRule { bytes_max, too_long, encoding },
            bytes_max: bytes_max + more,
            lines_max,
        },
    )
}

/// Pieces that matter to one stage or another.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&[u8]> = vec![
        b"\n",
        b"\n",
        b"\r\n",
        b"\r",
        b"\n\0",
        b"\0\n",
        b"\r\0\n\0",
        b"\0\r\0\n",
        b"# one",
        b" two",
        b"\tat a.B(C.java:1)\n",
        b"java.io.IOException: no\n",
        b"Caused by: x.Y\n",
        b"Traceback (most recent call last):\n",
        b"ValueError: no\n",
        b"During handling of the above exception, another exception occurred:\n",
        b"2026-01-31 13:00:00 a\n",
        b"\xff\xfe",
        b"\xfe\xff",
        "é€😀".as_bytes(),
        b"\x3d\xd8\x00\xde",
        b"\xd8\x3d\xde\x00",
    ];
    prop_oneof![
        6 => select(words).prop_map(<[u8]>::to_vec),
        2 => vec(any::<u8>(), 0..12),
        1 => select(vec![1usize, 3, 50, 4094, 4095, 4096, 4097, 4098, 9001]).prop_map(|n| vec![0; n]),
        1 => (select(b"x\xa9".to_vec()), select(vec![30usize, 300, 4097, 9000]))
            .prop_map(|(byte, n)| vec![byte; n]),
    ]
}

fn file() -> impl Strategy<Value = Vec<u8>> {
    vec(pieces(), 0..25).prop_map(|pieces| pieces.concat())
}

fn steps() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1usize..9, 1000usize..6000], 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..Default::default() })]

    /// Torture: 31, 32, 33, 34, 36, 38, 40.
    #[test]
    fn events_are_those_of_the_model_however_the_bytes_come(
        bytes in file(),
        limits in limits(),
        rule in rules(),
        steps in steps(),
    ) {
        let events = cut(&bytes, 0, false, limits, &rule, &steps);
        let expected = match rule {
            // Their rules are tested by examples; here only that they do not depend on reads.
            Multiline::Java | Multiline::Python => cut(&bytes, 0, false, limits, &rule, &[1 << 20]),
            _ => model(&bytes, limits, &rule),
        };
        prop_assert_eq!(&events, &expected);
        let mut end = 0;
        for event in &events {
            prop_assert_eq!(event.start, end);
            prop_assert!(event.end > event.start);
            end = event.end;
        }
        prop_assert_eq!(end, bytes.len());
    }

    /// Torture: 39.
    #[test]
    fn from_any_event_on_the_same_events_are_cut_again(
        bytes in file(),
        limits in limits(),
        rule in rules(),
        at in any::<prop::sample::Index>(),
    ) {
        let whole = cut(&bytes, 0, false, limits, &rule, &[1 << 20]);
        prop_assume!(!whole.is_empty());
        let rest = &whole[at.index(whole.len())..];
        let again = cut(&bytes, rest[0].start, rest[0].continued, limits, &rule, &[700]);
        prop_assert_eq!(again, rest);
    }

    #[test]
    fn nothing_is_lost_of_lines_that_are_split(bytes in file(), limits in limits()) {
        let line =
            LineRule { too_long: LineTooLong::Split, encoding: Encoding::Utf8, ..limits.line };
        let events = cut(&bytes, 0, false, Limits { line, ..limits }, &Multiline::None, &[4000]);
        for event in events.iter().filter(|event| !event.is_nuls) {
            let ground = &bytes[event.start..event.end];
            let terminator = ground.strip_prefix(&*event.text).expect("a value is its ground");
            prop_assert!([&b""[..], b"\n", b"\r\n"].contains(&terminator), "{:?}", event);
            prop_assert!(event.cut == 0 && event.text.len() <= line.bytes_max);
        }
    }

    #[test]
    fn the_prefix_is_what_has_settled_without_a_gap(
        lens in vec(1u64..100, 1..30),
        order in vec(any::<prop::sample::Index>(), 30),
        start in 0u64..1000,
    ) {
        let source = SourceId(7);
        let mut ledger = Ledger::default();
        ledger.open(source, start);
        let mut under_way = Vec::new();
        let mut end = start;
        for len in &lens {
            under_way.push(Span::new(source, end, end + len));
            end += len;
        }
        ledger.take(&under_way);
        let mut settled = Vec::new();
        for at in order.iter().take(lens.len()) {
            prop_assert!(!ledger.is_settled(source));
            let span = under_way.swap_remove(at.index(under_way.len()));
            ledger.settle(&[span]);
            settled.push(span);
            settled.sort_by_key(|span| span.start);
            let prefix = settled.iter().fold(start, |prefix, span| {
                if span.start == prefix { span.end } else { prefix }
            });
            prop_assert_eq!(ledger.settled(source), Some(prefix));
        }
        prop_assert!(ledger.is_settled(source));
        prop_assert_eq!(ledger.settled(source), Some(end));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    /// Torture: 7, 8.
    #[test]
    fn a_checksum_holds_while_its_bytes_stay_whatever_is_appended(
        bytes in vec(any::<u8>(), 1..3000),
        more in vec(any::<u8>(), 0..2000),
        offset in any::<prop::sample::Index>(),
        flipped in any::<prop::sample::Index>(),
    ) {
        let write = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().expect("a temporary file");
            io::Write::write_all(&mut file, bytes).expect("written");
            file
        };
        let offset = offset.index(bytes.len()) as u64 + 1;
        let file = write(&bytes);
        let head = Checksum::of_head(&file).expect("read");
        let guard = Checksum::before(&file, offset).expect("read");
        let guard_start = offset - u64::from(guard.len);
        let grown = write(&[&bytes[..], &more].concat());
        prop_assert!(head.matches(&grown, 0).expect("read"));
        prop_assert!(guard.matches(&grown, guard_start).expect("read"));
        // One bit changed, in what each covers and elsewhere.
        let at = flipped.index(bytes.len());
        let mut other = bytes.clone();
        other[at] ^= 1 << (at % 8);
        let other = write(&other);
        prop_assert_eq!(head.matches(&other, 0).expect("read"), at >= head.len as usize);
        let is_guarded = (guard_start..offset).contains(&(at as u64));
        prop_assert_eq!(guard.matches(&other, guard_start).expect("read"), !is_guarded);
        // Cut off inside of what is guarded.
        let shorter = write(&bytes[..offset as usize - 1]);
        prop_assert!(!guard.matches(&shorter, guard_start).expect("read"));
    }
}
