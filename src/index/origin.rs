//! Where a record comes from: its place in the topic, and the file its headers name.

use std::borrow::Cow;

use super::event::lossy;
use crate::tail::encode::OWN_HEADERS;

/// A header of a Kafka record; a value of null is empty.
pub type Header<'a> = (&'a str, &'a [u8]);

/// Header that names the route of a record in the error topic.
pub const ROUTE_NAME: &str = "route.name";

/// Header that says why a record is in the dead-letter topic.
pub const DLQ_REASON: &str = "dlq.reason";

/// Where a record comes from.
#[derive(Debug, Clone)]
pub struct Origin<'a> {
    /// The topic it was consumed from.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
    /// The record's timestamp in milliseconds since the epoch; -1 for none.
    pub timestamp_ms: i64,
    /// The host of the file.
    pub host: Option<Cow<'a, str>>,
    /// The path the file had when it was written.
    pub path: Option<Cow<'a, str>>,
    /// Which life of a file it was; stays over renames.
    pub file_id: Option<&'a [u8]>,
    /// Where in the file the event starts, in bytes.
    pub byte_offset: Option<u64>,
    /// How much of the file it covers, in bytes.
    pub length: Option<u64>,
    /// All headers, in their order, those above included.
    pub headers: &'a [Header<'a>],
    /// Some headers are not of the tail walk.
    has_others: bool,
}

impl<'a> Origin<'a> {
    /// Returns the origin of the record at that place, with what `headers` say of its file.
    ///
    /// A name that occurs twice counts with its last value, as in Kafka's `lastHeader`; a number
    /// that is none counts as absent.
    pub fn new(
        topic: &'a str,
        partition: i32,
        offset: i64,
        timestamp_ms: i64,
        headers: &'a [Header<'a>],
    ) -> Origin<'a> {
        let mut origin = Origin {
            topic,
            partition,
            offset,
            timestamp_ms,
            host: None,
            path: None,
            file_id: None,
            byte_offset: None,
            length: None,
            headers,
            has_others: false,
        };
        for (name, value) in headers {
            match *name {
                "host" => origin.host = Some(lossy(value)),
                "path" => origin.path = Some(lossy(value)),
                "file_id" => origin.file_id = Some(value),
                "offset" => origin.byte_offset = number(value),
                "length" => origin.length = number(value),
                _ => origin.has_others = true,
            }
        }
        origin
    }

    /// Returns the last value of the header of that name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        let mut headers = self.headers.iter().rev();
        headers.find(|(n, _)| *n == name).map(|(_, value)| *value)
    }

    /// Returns the headers that say something of the event and not of its way: the static fields
    /// of the tail walk, each name once.
    pub fn fields(&self) -> impl Iterator<Item = Header<'a>> {
        let headers = if self.has_others { self.headers } else { &[] };
        let is_field = |name: &str| {
            !OWN_HEADERS.contains(&name) && !name.starts_with("route.") && !name.starts_with("dlq.")
        };
        headers.iter().enumerate().filter_map(move |(i, header)| {
            let is_last = || !headers[i + 1..].iter().any(|later| later.0 == header.0);
            (is_field(header.0) && is_last()).then_some(*header)
        })
    }

    /// Whether the shipper itself put this record where it was consumed from: such a record
    /// never goes to the error topic again.
    pub fn is_from_shipper(&self) -> bool {
        let is_mark = |name: &str| name == ROUTE_NAME || name == DLQ_REASON;
        self.headers.iter().any(|(name, _)| is_mark(name))
    }

    /// Appends the id of the record's document, the same however often the record is consumed,
    /// and also if the shipper sent the event twice.
    ///
    /// It is `{hash of host and file id}-{byte offset}`, the hash in 16 hexadecimal digits,
    /// where the headers know these; else `{topic}-{partition}-{offset}-{timestamp}`: a topic that
    /// is made anew begins with offset 0 again, but not in the past. Both are ASCII without
    /// anything that JSON would escape, for a topic's name has nothing of the kind.
    pub fn write_id(&self, out: &mut Vec<u8>) {
        let (Some(host), Some(file_id), Some(byte_offset)) =
            (&self.host, self.file_id, self.byte_offset)
        else {
            out.extend_from_slice(self.topic.as_bytes());
            out.push(b'-');
            write_number(out, u64::from(self.partition.unsigned_abs())); // never negative
            out.push(b'-');
            write_number(out, self.offset.unsigned_abs()); // never negative
            out.push(b'-');
            write_number(out, self.timestamp_ms.unsigned_abs());
            return;
        };
        let hash = fnv_1a(fnv_1a(fnv_1a(FNV_BASIS, host.as_bytes()), &[0]), file_id);
        for shift in (0..16).rev() {
            let digit = usize::try_from(hash >> (4 * shift) & 0xf).expect("one digit");
            out.push(b"0123456789abcdef"[digit]);
        }
        out.push(b'-');
        write_number(out, byte_offset);
    }
}

/// Appends `number` in decimal digits.
pub(super) fn write_number(out: &mut Vec<u8>, mut number: u64) {
    let start = out.len();
    loop {
        out.push(b'0' + u8::try_from(number % 10).expect("one digit"));
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out[start..].reverse();
}

fn number(value: &[u8]) -> Option<u64> {
    str::from_utf8(value).ok()?.parse().ok()
}

/// Where FNV-1a of 64 bits starts. Source: RFC 9923.
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// Goes on with the hash over `bytes`.
fn fnv_1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(headers: &[Header<'_>]) -> String {
        let mut out = Vec::new();
        Origin::new("broker-logs", 3, 42, 0, headers).write_id(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        // Source: test vectors of RFC 9923.
        assert_eq!(fnv_1a(FNV_BASIS, b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv_1a(FNV_BASIS, b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv_1a(FNV_BASIS, b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn the_id_is_of_the_file_where_it_is_known_and_else_of_the_topic() {
        let host: Header = ("host", b"broker-1");
        let file_id: Header = ("file_id", b"10-ab");
        let offset: Header = ("offset", b"18446744073709551615");
        let hash = fnv_1a(FNV_BASIS, b"broker-1\x0010-ab");
        let of_file = format!("{hash:016x}-18446744073709551615");
        assert_eq!(id(&[host, file_id, offset, ("path", b"/a")]), of_file);
        for incomplete in [
            &[][..],
            &[host, file_id],
            &[host, offset],
            &[file_id, offset],
            &[host, file_id, ("offset", b"-1")],
            &[host, file_id, ("offset", b"\xff")],
        ] {
            assert_eq!(id(incomplete), "broker-logs-3-42-0");
        }
    }

    #[test]
    fn fields_are_the_headers_that_neither_walk_uses_each_once() {
        let headers: [Header; 8] = [
            ("host", b"broker-1"),
            ("env", b"test"),
            ("length", b"7"),
            ("dlq.reason", b"r"),
            ("route.name", b"n"),
            ("rack", b"r7"),
            ("env", b"prod"),
            ("offset", b"17"),
        ];
        let origin = Origin::new("t", 0, 0, 0, &headers);
        let fields: Vec<Header> = origin.fields().collect();
        assert_eq!(fields, [("rack", &b"r7"[..]), ("env", b"prod")]);
        assert_eq!((origin.byte_offset, origin.length), (Some(17), Some(7)));
        assert_eq!(origin.header("env"), Some(&b"prod"[..]));
        assert!(origin.is_from_shipper());
    }

    #[test]
    fn numbers_are_written_in_full() {
        for number in [0, 7, 10, 1_234_567_890, u64::MAX] {
            let mut out = b"x".to_vec();
            write_number(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), format!("x{number}"));
        }
    }
}
