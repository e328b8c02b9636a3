//! The registry as bytes: a header line, then one JSON object a line for each entry.
//!
//! | format | since | differs by |
//! |---|---|---|
//! | 1 | 0.1.0 before its release | the checksum covers the entries alone; no `written_by`, no times |
//! | 2 | 0.1.0 | the checksum covers the header too; `size` and the `*_ms` of an entry |
//!
//! From format 2 on `crc32c` is the header's last key, and is the checksum of everything before it
//! on its line followed by the entries: of every format yet to come a reader can tell damage from
//! a file that is merely too new for it. A reader ignores keys that it does not know, for
//! `min_reader` says who can do without them. A golden file of each format lies in
//! `tests/data/registry`.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use super::Entry;

/// The format that is written.
pub const FORMAT: u32 = 2;

/// The oldest format whose readers understand what is written.
const MIN_READER: u32 = 2;

const MAGIC: &str = "shipper-registry";

/// What stands before the checksum in the header.
const CRC_KEY: &[u8] = b",\"crc32c\":";

/// A registry as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Grows with each save.
    pub generation: u64,
    /// The format it was written in.
    pub format: u32,
    /// The first journal that tells what has happened since; 0 if there is none.
    pub journal: u64,
    /// What is remembered of each life of a file.
    pub entries: Vec<Entry>,
}

/// Why a registry cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// It is not there.
    Missing,
    /// It is not what was written; holds what is wrong.
    Damaged(String),
    /// It is whole, and this version cannot read it.
    Newer {
        /// Its format.
        format: u32,
        /// The version of shipper that wrote it.
        written_by: String,
    },
    /// It is whole, and belongs to another host.
    Foreign {
        /// The host that wrote it.
        host: String,
    },
}

/// What of a header every version can read.
#[derive(Deserialize)]
struct AnyHeader {
    magic: String,
    format: u32,
    min_reader: u32,
    #[serde(default)]
    written_by: String,
    len: u64,
    crc32c: u32,
}

/// The part of the header that says what the entries are.
#[derive(Deserialize)]
struct Origin {
    generation: u64,
    #[serde(default)]
    journal: u64,
    host: String,
}

/// The header up to its checksum.
#[derive(Serialize)]
struct Header<'a> {
    magic: &'a str,
    /// Layout of what follows.
    format: u32,
    /// Oldest layout whose reader understands this file.
    min_reader: u32,
    /// The version of shipper that wrote it.
    written_by: &'a str,
    generation: u64,
    /// The first journal that tells what has happened since.
    journal: u64,
    /// Who wrote it; a copy on another host must not be taken for its own.
    host: &'a str,
    /// Bytes that follow the header line.
    len: u64,
}

/// Returns the bytes of a registry; the entries stand in it sorted by path, inode and life.
pub fn encode(generation: u64, journal: u64, host: &str, entries: &mut [Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(generation, journal, host, entries, &mut bytes).expect("a vector takes all");
    bytes
}

/// Writes a registry, entry by entry: of very many files the whole would be megabytes. Returns
/// its length.
///
/// Errors: those of `out`.
pub fn write(
    generation: u64,
    journal: u64,
    host: &str,
    entries: &mut [Entry],
    out: &mut impl Write,
) -> io::Result<u64> {
    const INFALLIBLE: &str = "structs of texts and numbers are JSON";
    entries.sort_by(|a, b| (&a.path, a.inode.ino, a.life).cmp(&(&b.path, b.inode.ino, b.life)));
    let mut line = Vec::new();
    let mut encode = |entry: &Entry, each: &mut dyn FnMut(&[u8]) -> io::Result<()>| {
        line.clear();
        serde_json::to_writer(&mut line, entry).expect(INFALLIBLE);
        line.push(b'\n');
        each(&line)
    };
    // The header comes first and speaks of what follows.
    let (mut len, mut body_crc32c) = (0, 0);
    for entry in entries.iter() {
        encode(entry, &mut |line| {
            len += line.len();
            body_crc32c = crc32c::crc32c_append(body_crc32c, line);
            Ok(())
        })?;
    }
    let header = Header {
        magic: MAGIC,
        format: FORMAT,
        min_reader: MIN_READER,
        written_by: env!("CARGO_PKG_VERSION"),
        generation,
        journal,
        host,
        len: len as u64,
    };
    let mut bytes = serde_json::to_vec(&header).expect(INFALLIBLE);
    let brace = bytes.pop();
    assert_eq!(brace, Some(b'}'), "a struct is an object");
    let crc32c = crc32c::crc32c_combine(crc32c::crc32c(&bytes), body_crc32c, len);
    bytes.extend_from_slice(CRC_KEY);
    bytes.extend_from_slice(format!("{crc32c}}}\n").as_bytes());
    out.write_all(&bytes)?;
    entries.iter().try_for_each(|entry| encode(entry, &mut |line| out.write_all(line)))?;
    Ok((bytes.len() + len) as u64)
}

/// Reads what [`encode`] of this or an older version wrote on this host.
///
/// Errors: every [`Damage`] but `Missing`.
pub fn decode(bytes: &[u8], host: &str) -> Result<Snapshot, Damage> {
    let damaged = |problem: String| Damage::Damaged(problem);
    let end = memchr::memchr(b'\n', bytes).ok_or(damaged("it has no header line".into()))?;
    let (line, body) = (&bytes[..end], &bytes[end + 1..]);
    let no_header = |error| damaged(format!("its header cannot be read: {error}"));
    let header: AnyHeader = serde_json::from_slice(line).map_err(no_header)?;
    if header.magic != MAGIC {
        return Err(damaged("it is not a registry of shipper".into()));
    }
    let covered = match header.format {
        ..2 => &[],
        2.. => &line[..memchr::memmem::rfind(line, CRC_KEY).unwrap_or(0)],
    };
    let crc32c = crc32c::crc32c_append(crc32c::crc32c(covered), body);
    if body.len() as u64 != header.len || crc32c != header.crc32c {
        return Err(damaged("its checksum is wrong".into()));
    }
    if header.min_reader > FORMAT {
        let AnyHeader { format, written_by, .. } = header;
        return Err(Damage::Newer { format, written_by });
    }
    let origin: Origin = serde_json::from_slice(line).map_err(no_header)?;
    if origin.host != host {
        return Err(Damage::Foreign { host: origin.host });
    }
    let lines = body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let entries: Result<Vec<Entry>, _> = lines.map(serde_json::from_slice).collect();
    let entries = entries.map_err(|error| damaged(format!("an entry cannot be read: {error}")))?;
    let Origin { generation, journal, .. } = origin;
    Ok(Snapshot { generation, format: header.format, journal, entries })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tail::registry::StoredPath;
    use std::path::{Path, PathBuf};

    const FORMAT_1: &[u8] = include_bytes!("../../../tests/data/registry/format-1.json");
    const FORMAT_2: &[u8] = include_bytes!("../../../tests/data/registry/format-2.json");

    fn header_of(bytes: &[u8]) -> &str {
        let end = memchr::memchr(b'\n', bytes).expect("a header line");
        std::str::from_utf8(&bytes[..end]).expect("text")
    }

    /// Writes a golden file's header anew, with another word in it and the right checksum.
    fn with_header(golden: &[u8], from: &str, to: &str) -> Vec<u8> {
        let header = header_of(golden);
        let changed = header.replace(from, to);
        assert_ne!(changed, header, "{from} stands in {header}");
        let covered = &changed[..changed.rfind(",\"crc32c\"").expect("a checksum")];
        let body = &golden[header.len() + 1..];
        let crc32c = crc32c::crc32c_append(crc32c::crc32c(covered.as_bytes()), body);
        let line = format!("{covered},\"crc32c\":{crc32c}}}\n");
        [line.as_bytes(), body].concat()
    }

    /// Torture: 57.
    #[test]
    fn every_format_ever_written_is_read() {
        let one = decode(FORMAT_1, "kafka-1").expect("format 1");
        assert_eq!((one.generation, one.format, one.entries.len()), (2, 1, 3));
        let [rotated, current, not_utf8] = &one.entries[..] else { unreachable!() };
        assert!(rotated.done && rotated.life == 2 && rotated.btime_ns.is_none());
        assert_eq!((current.offset, current.guard.crc32c), (5_000_000_000, 3_528_599_047));
        assert_eq!((current.size, current.first_seen_ms, current.missed_since_ms), (0, 0, None));
        assert!(matches!(not_utf8.path, StoredPath::Bytes(_)));
        assert_eq!(
            PathBuf::from(&rotated.name),
            Path::new("/var/log/kafka/server.log.2026-11-23-04")
        );

        let two = decode(FORMAT_2, "kafka-1").expect("format 2");
        assert_eq!((two.generation, two.format, two.entries.len()), (3, 2, 3));
        assert_eq!(two.entries[1].first_seen_ms, 1_795_389_600_000);
        assert_eq!(two.entries[0].missed_since_ms, Some(1_795_389_700_000));
        assert_eq!(two.entries[1].inode, current.inode);
    }

    /// Who changes what is written gives it a new number, and a golden file of its own.
    #[test]
    fn what_is_written_is_the_golden_file_of_this_format() {
        let golden = decode(FORMAT_2, "kafka-1").expect("format 2");
        let mut entries = golden.entries;
        entries.reverse();
        let mut written = encode(golden.generation, golden.journal, "kafka-1", &mut entries);
        let ours = format!("\"written_by\":\"{}\"", env!("CARGO_PKG_VERSION"));
        if ours != "\"written_by\":\"0.1.0\"" {
            written = with_header(&written, &ours, "\"written_by\":\"0.1.0\"");
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(text(&written), text(FORMAT_2));
    }

    /// Torture: 57.
    #[test]
    fn a_newer_format_is_refused_by_the_name_of_its_writer_unless_it_says_we_may() {
        let newer = with_header(FORMAT_2, "\"format\":2", "\"format\":9");
        let newer = with_header(&newer, "\"written_by\":\"0.1.0\"", "\"written_by\":\"7.3.1\"");
        let readable = decode(&newer, "kafka-1").expect("min_reader is still 2");
        assert_eq!((readable.format, readable.entries.len()), (9, 3));
        let newer = with_header(&newer, "\"min_reader\":2", "\"min_reader\":9");
        let refused = Damage::Newer { format: 9, written_by: "7.3.1".into() };
        assert_eq!(decode(&newer, "kafka-1"), Err(refused));
    }

    /// Torture: 60.
    #[test]
    fn the_registry_of_another_host_is_refused() {
        let refused = Damage::Foreign { host: "kafka-1".into() };
        assert_eq!(decode(FORMAT_2, "kafka-2"), Err(refused.clone()));
        assert_eq!(decode(FORMAT_1, "kafka-2"), Err(refused));
    }

    /// Torture: 56.
    #[test]
    fn no_flipped_bit_and_no_cut_gives_anything_but_damage() {
        for at in 0..FORMAT_2.len() {
            let cut = decode(&FORMAT_2[..at], "kafka-1");
            assert!(matches!(cut, Err(Damage::Damaged(_))), "cut at {at}: {cut:?}");
            for bit in 0..8 {
                let mut flipped = FORMAT_2.to_vec();
                flipped[at] ^= 1 << bit;
                let flipped = decode(&flipped, "kafka-1");
                assert!(matches!(flipped, Err(Damage::Damaged(_))), "{at}.{bit}: {flipped:?}");
            }
        }
        for tail in ["\n", "{}\n", "\0\0\0\0"] {
            let longer = [FORMAT_2, tail.as_bytes()].concat();
            assert!(matches!(decode(&longer, "kafka-1"), Err(Damage::Damaged(_))));
        }
    }
}
