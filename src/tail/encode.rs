//! Event -> record: key, value and the headers that say where it came from.
//!
//! | header | UTF-8 text of |
//! |---|---|
//! | `host` | the host's name |
//! | `path` | the path the file is written under, also after its rotation |
//! | `file_id` | this life of this file |
//! | `offset` | the event's first byte in it |
//! | `length` | bytes of ground: content, cut bytes and last terminator |
//! | `cut` | only where a line was too long: bytes of the file that are not in the value |
//! | `continued` | only where a line or event was too long: `1`, it goes on where the one before ended |
//! | `partial` | only at a file's end or before a run of NULs: `1`, the last line has no terminator |
//! | `rest_file_id` | only of an event that a rotation cut in two: the life of the file it goes on in |
//! | `rest_length` | with it: bytes of ground from byte 0 of that file on |
//!
//! Together they prove from the topic alone which bytes of a file arrived; what they leave out are
//! runs of NULs and events that a filter dropped.

use std::cell::RefCell;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use jiff::tz::TimeZone;

use crate::config::{InputConfig, TimestampPolicy};
use crate::kafka::record_batch::{Headers, RecordArena, put_header};
use crate::tail::multiline::Event;
use crate::time::TimeReader;

/// Headers that the walk writes itself; static fields cannot have these names.
pub const OWN_HEADERS: [&str; 10] = [
    "host",
    "path",
    "file_id",
    "offset",
    "length",
    "cut",
    "continued",
    "partial",
    "rest_file_id",
    "rest_length",
];

/// Where the second part of an event is that a rotation cut in two: `[0, length)` of another file.
#[derive(Debug, Clone, Copy)]
pub struct Rest<'a> {
    /// The life of that file.
    pub file_id: &'a str,
    /// Bytes of ground.
    pub length: u64,
}

/// What all records of one life of a file share.
#[derive(Debug)]
pub struct Origin {
    key: Option<Vec<u8>>,
    fixed: Vec<u8>,
    n_fixed: u32,
    /// Reads the times of events, where those are the time stamps; it remembers the hour.
    times: Option<RefCell<TimeReader>>,
}

impl Origin {
    /// Encodes what is the same for all records: the key and the fixed headers.
    pub fn new(input: &InputConfig, host: &str, path: &Path, file_id: &str) -> Origin {
        let mut fixed = Vec::new();
        put_header(&mut fixed, "host", host.as_bytes());
        put_header(&mut fixed, "path", path.as_os_str().as_bytes());
        put_header(&mut fixed, "file_id", file_id.as_bytes());
        for (name, value) in &input.fields {
            put_header(&mut fixed, name, value.as_bytes());
        }
        let has_times = input.timestamp == TimestampPolicy::Event;
        Origin {
            key: input.key.of(&input.names(host, path)),
            fixed,
            n_fixed: 3 + input.fields.len() as u32,
            times: has_times.then(|| RefCell::new(TimeReader::new(TimeZone::system()))),
        }
    }

    /// Appends the event to a batch; `varying` is scratch.
    ///
    /// Units: `timestamp_ms` is the time of reading, in milliseconds since 1970.
    pub fn encode(
        &self,
        timestamp_ms: i64,
        event: &Event,
        content: &[u8],
        varying: &mut Vec<u8>,
        records: &mut RecordArena,
    ) {
        self.encode_with(timestamp_ms, event, None, content, varying, records);
    }

    /// As [`Origin::encode`], of an event that goes on in another file.
    pub fn encode_with(
        &self,
        timestamp_ms: i64,
        event: &Event,
        rest: Option<Rest<'_>>,
        content: &[u8],
        varying: &mut Vec<u8>,
        records: &mut RecordArena,
    ) {
        varying.clear();
        put_number(varying, "offset", event.start);
        put_number(varying, "length", event.end - event.start);
        let mut count = self.n_fixed + 2;
        if event.cut > 0 {
            put_number(varying, "cut", event.cut);
            count += 1;
        }
        if event.continued {
            put_header(varying, "continued", b"1");
            count += 1;
        }
        if event.partial {
            put_header(varying, "partial", b"1");
            count += 1;
        }
        if let Some(rest) = rest {
            put_header(varying, "rest_file_id", rest.file_id.as_bytes());
            put_number(varying, "rest_length", rest.length);
            count += 2;
        }
        let headers = Headers { count, fixed: &self.fixed, varying };
        let timestamp_ms = self.time_of(content).map_or(timestamp_ms, |ms| ms.min(timestamp_ms));
        records.push(timestamp_ms, self.key.as_deref(), content, headers);
    }

    /// Returns the time that an event begins with, where that is its time stamp.
    fn time_of(&self, content: &[u8]) -> Option<i64> {
        let mut times = self.times.as_ref()?.borrow_mut();
        let text = content.strip_prefix(b"[").unwrap_or(content);
        times.read(text).map(|(time, _)| time.ms)
    }

    /// Bytes that a record takes beside its value, at most.
    pub fn overhead(&self) -> usize {
        /// Record head, the varying headers with numbers of 20 digits, and their names.
        const VARYING: usize = 280;
        self.key.as_ref().map_or(0, Vec::len) + self.fixed.len() + VARYING
    }
}

fn put_number(out: &mut Vec<u8>, name: &str, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    put_header(out, name, &digits[at..]);
}
