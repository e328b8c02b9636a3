//! `shipper tail` and what stands in files: every byte arrives as it was, in events that are
//! whole, with headers that prove it.

mod support;

use std::io::Write as _;
use std::time::Duration;

use support::tail::{LIMIT, Scene, covered, lines, numbered};
use support::{broker_down, counter, wait_for};

/// Ships `bytes` in a file that is then rotated away, and returns the values.
fn shipped(scene: &mut Scene, bytes: &[u8]) -> Vec<Vec<u8>> {
    scene.logs.append("server.log", bytes);
    let shipper = scene.start();
    shipper.wait_for_log("file found", LIMIT);
    scene.logs.rename("server.log", "away");
    shipper.wait_for_log("file finished", LIMIT);
    let counters = scene.stop(shipper);
    let acked = counter(&counters, "bytes_acked");
    assert_eq!(counter(&counters, "bytes_read"), acked, "{counters}");
    let records = scene.records();
    assert_eq!(covered(records).iter().sum::<u64>(), acked);
    records.iter().map(|record| record.value.clone()).collect()
}

/// Torture: 32, 33, 34, 35, 38, 40.
#[test]
fn no_byte_of_a_line_is_changed() {
    type Bytes = &'static [u8];
    let cases: [(&str, Bytes, &[Bytes]); 8] = [
        ("lines", b"one\ntwo\n", &[b"one", b"two"]),
        ("CRLF", b"one\r\ntwo\r\n", &[b"one", b"two"]),
        ("a lone CR", b"o\rne\ntwo\r\r\n", &[b"o\rne", b"two\r"]),
        ("empty lines", b"\n\none\n\n", &[b"", b"", b"one", b""]),
        ("NUL", b"o\0ne\n\0\0\n", &[b"o\0ne", b"\0\0"]),
        ("not UTF-8", b"\xff\xfe\xc3\x28\n\xed\xa0\x80\n", &[b"\xff\xfe\xc3\x28", b"\xed\xa0\x80"]),
        ("escapes", b"\x1b[31mred\x1b[0m\x07\n", &[b"\x1b[31mred\x1b[0m\x07"]),
        ("no newline", b"one\ntwo", &[b"one", b"two"]),
    ];
    for (name, bytes, expected) in cases {
        let mut scene = Scene::new("server.log");
        assert_eq!(shipped(&mut scene, bytes), expected, "{name}");
    }
}

/// Torture: 40.
#[test]
fn a_million_bytes_of_noise_arrive_as_they_were() {
    // xorshift64 with a fixed seed: about one byte of 256 ends a line.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    let mut bytes: Vec<u8> = (0..1_000_000).map(|_| noise()).collect();
    bytes.push(b'\n');
    let mut scene = Scene::new("server.log");
    let values = shipped(&mut scene, &bytes);
    let strip = |line: &[u8]| line.strip_suffix(b"\r").unwrap_or(line).to_vec();
    let lines = bytes[..bytes.len() - 1].split(|&byte| byte == b'\n');
    assert!(values == lines.map(strip).collect::<Vec<_>>());
}

/// Torture: 36.
#[test]
fn a_line_of_100_mb_costs_no_memory_and_the_next_one_is_whole() {
    let mut scene = Scene::new("server.log");
    let n_bytes = 100_000_000;
    scene.logs.append("server.log", "before\n");
    let mut writer = scene.logs.open("server.log");
    let piece = vec![b'x'; 1_000_000];
    (0..n_bytes / piece.len()).for_each(|_| writer.write_all(&piece).expect("written"));
    writer.write_all(b"\nafter\n").expect("written");
    let shipper = scene.start();
    let records = scene.wait_for_records(3, &shipper);
    let kept = 256 * 1024;
    assert_eq!(records[1].value, piece[..kept]);
    assert_eq!(records[1].number("cut"), (n_bytes - kept) as u64);
    assert_eq!(records[2].text(), "after");
    assert_eq!(covered(records), [n_bytes as u64 + 14]);
    let peak = shipper.peak_rss();
    assert!(peak < 40 << 20, "{peak} bytes");
    let counters = scene.stop(shipper);
    assert_eq!(counter(&counters, "events_cut"), 1);
    assert_eq!(counter(&counters, "bytes_cut"), (n_bytes - kept) as u64);
}

/// Torture: 32, 36.
#[test]
fn an_over_long_line_without_end_is_let_go_of_when_its_file_is_rotated() {
    let mut scene = Scene::new("server.log");
    scene.set("[[input]]", "line_bytes_max", "\"1KiB\"");
    let values = shipped(&mut scene, &[b'x'; 700_000]);
    assert_eq!(values, [[b'x'; 1024]]);
    let record = &scene.records()[0];
    assert_eq!((record.number("cut"), record.header("partial")), (700_000 - 1024, "1".into()));
}

/// Torture: 36, 38.
#[test]
fn a_line_of_100_mb_that_is_split_costs_no_memory_either() {
    let mut scene = Scene::new("server.log");
    scene.set("[[input]]", "line_too_long", "\"split\"");
    let n_bytes = 100_000_000;
    scene.logs.append("server.log", "before\n");
    let mut writer = scene.logs.open("server.log");
    let piece = vec![b'x'; 1_000_000];
    (0..n_bytes / piece.len()).for_each(|_| writer.write_all(&piece).expect("written"));
    writer.write_all(b"\nafter\n").expect("written");
    let shipper = scene.start();
    scene.wait_for_entry("server.log", &format!("\"offset\":{}", n_bytes + 14));
    let peak = shipper.peak_rss();
    assert!(peak < 40 << 20, "{peak} bytes");
    let counters = scene.stop(shipper);
    let n_pieces = n_bytes.div_ceil(256 * 1024) as u64;
    for (name, expected) in [
        ("bytes_acked", n_bytes as u64 + 14),
        ("records_acked", n_pieces + 2),
        ("lines_read", 3),
        ("bytes_cut", 0),
    ] {
        assert_eq!(counter(&counters, name), expected, "{name}: {counters}");
    }
}

/// Torture: 36.
#[test]
fn each_byte_of_a_split_line_stands_in_one_record_also_over_a_kill() {
    let mut scene = Scene::new("server.log");
    scene.set("[[input]]", "line_too_long", "\"split\"");
    scene.set("[[input]]", "line_bytes_max", "\"1KiB\"");
    // Characters of three bytes, so that no piece may be as long as the limit.
    let long: String = (0..40_000).map(|n| ["€", "漢"][n % 2]).collect();
    let shipper = scene.start();
    scene.logs.append("server.log", format!("one\n{}", &long[..60_000]));
    scene.wait_for_records(50, &shipper);
    let offset = scene.records().iter().map(|record| record.number("length")).sum::<u64>();
    scene.wait_for_entry("server.log", &format!("\"offset\":{offset}"));
    shipper.kill();
    scene.logs.append("server.log", format!("{}\r\nlast\n", &long[60_000..]));
    let shipper = scene.start();
    let n_records = 2 + long.len().div_ceil(1023);
    scene.wait_for_records(n_records, &shipper);
    scene.stop(shipper);
    let records = scene.records();
    assert_eq!(covered(records), [4 + long.len() as u64 + 2 + 5]);
    let (first, last) = (&records[0], &records[n_records - 1]);
    assert_eq!((first.text(), last.text()), ("one".into(), "last".into()));
    let pieces = &records[1..n_records - 1];
    assert!(pieces.iter().map(|piece| piece.text()).collect::<String>() == long);
    for (at, piece) in records.iter().enumerate() {
        let is_further = (2..n_records - 1).contains(&at);
        let is_marked = piece.headers.iter().any(|(name, _)| name == "continued");
        assert_eq!(is_marked, is_further, "{at}");
        assert!(piece.value.len() <= 1024);
    }
}

/// Torture: 36.
#[test]
fn what_is_cut_is_logged_once_with_its_range() {
    let mut scene = Scene::new("server.log");
    scene.set("[[input]]", "line_bytes_max", "\"1KiB\"");
    let line = format!("{}\n", "x".repeat(2000));
    scene.logs.append("server.log", format!("one\n{line}{line}two\n"));
    let shipper = scene.start();
    scene.wait_for_records(4, &shipper);
    let (_, log) = shipper.stop(LIMIT);
    let said: Vec<&str> = log.lines().filter(|line| line.contains("longer than")).collect();
    assert_eq!(said.len(), 1, "{log}");
    assert!(said[0].contains("offset=4 length=2001 cut=976"), "{log}");
}

// ---- encodings ----

/// Torture: 35.
#[test]
fn text_of_other_encodings_leaves_as_utf_8_and_offsets_stay_those_of_the_file() {
    let text = "[2026-01-31 13:00:00,001] one é€😀\r\n\tat two\r\n[2026-01-31 13:00:00,002] x\n";
    let events = [
        "[2026-01-31 13:00:00,001] one é€😀\r\n\tat two".to_owned(),
        "[2026-01-31 13:00:00,002] x".to_owned(),
    ];
    let le = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let be = |text: &str| text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>();
    let marked = format!("\u{feff}{text}");
    let latin = text.replace("€😀", "§");
    let latin_bytes: Vec<u8> = latin.chars().map(|c| u8::try_from(c).expect("latin")).collect();
    let latin_events = events.clone().map(|event| event.replace("€😀", "§"));
    for (encoding, bytes, expected) in [
        ("utf-16", le(&marked), &events),
        ("utf-16", be(&marked), &events),
        ("utf-16", le(text), &events),
        ("utf-16le", le(&marked), &events),
        ("utf-16be", be(text), &events),
        ("latin-1", latin_bytes, &latin_events),
    ] {
        let mut scene = Scene::new("server.log");
        scene.set("[[input]]", "encoding", &format!("{encoding:?}"));
        scene.set("[[input]]", "multiline", "{ profile = \"kafka\" }");
        let values = shipped(&mut scene, &bytes);
        let values: Vec<_> = values.iter().map(|value| String::from_utf8_lossy(value)).collect();
        assert_eq!(values, expected, "{encoding}");
        assert_eq!(covered(scene.records()), [bytes.len() as u64]);
    }
}

/// Torture: 35.
#[test]
fn what_is_no_utf_16_is_replaced_and_not_dropped() {
    let mut scene = Scene::new("server.log");
    scene.set("[[input]]", "encoding", "\"utf-16le\"");
    let values = shipped(&mut scene, b"a\0\x3d\xd8\n\0b\0\n\0c\0d");
    assert_eq!(values, ["a\u{fffd}", "b", "c\u{fffd}"].map(|text| text.as_bytes().to_vec()));
}

/// Torture: 35.
#[test]
fn a_file_of_utf_16_is_gone_on_with_in_its_byte_order() {
    let mut scene = Scene::new("server.log");
    scene.set("[[input]]", "encoding", "\"utf-16\"");
    let be = |text: &str| text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>();
    scene.logs.append("server.log", be("\u{feff}one\n"));
    let shipper = scene.start();
    scene.wait_for_records(1, &shipper);
    scene.stop(shipper);
    scene.logs.append("server.log", be("two\n"));
    let shipper = scene.start();
    assert_eq!(scene.values_after(2, shipper), ["one", "two"]);
}

// ---- runs of NULs ----

/// The values, and the ground that no record covers.
fn values_and_gaps(scene: &mut Scene) -> (Vec<String>, Vec<(u64, u64)>) {
    let (mut end, mut gaps) = (0, Vec::new());
    for record in scene.records() {
        let offset = record.number("offset");
        if offset != end {
            gaps.push((end, offset));
        }
        end = offset + record.number("length");
    }
    (scene.values(), gaps)
}

/// Torture: 9, 34.
#[test]
fn a_run_of_nuls_is_skipped_and_the_next_line_is_whole() {
    type Case<'a> = (Vec<u8>, &'a [&'a str], &'a [(u64, u64)]);
    let nuls = |n: usize| vec![0u8; n];
    let cases: [Case; 4] = [
        // A host crashed before the bytes were written.
        ([b"one\n", &nuls(5000)[..], b"two\n"].concat(), &["one", "two"], &[(4, 5004)]),
        // In the middle of a line.
        ([b"one\nha", &nuls(4096)[..], b"two\n"].concat(), &["one", "ha", "two"], &[(6, 4102)]),
        // At the front, and at the end.
        ([&nuls(5001)[..], b"one\n", &nuls(9000)].concat(), &["one"], &[(0, 5001)]),
        // Fewer are data.
        ([b"a", &nuls(4095)[..], b"b\n"].concat(), &[&format!("a{}b", "\0".repeat(4095))], &[]),
    ];
    for (bytes, values, gaps) in cases {
        let mut scene = Scene::new("server.log");
        scene.logs.append("server.log", &bytes);
        let shipper = scene.start();
        scene.wait_for_records(values.len(), &shipper);
        scene.logs.rename("server.log", "away");
        shipper.wait_for_log("file finished", LIMIT);
        let (_, log) = shipper.stop(LIMIT);
        let (found_values, found_gaps) = values_and_gaps(&mut scene);
        assert_eq!(
            (found_values, found_gaps),
            (values.iter().map(|value| value.to_string()).collect(), gaps.to_vec())
        );
        let n_records: u64 = scene.records().iter().map(|record| record.number("length")).sum();
        let counters = log.lines().find(|line| line.contains("tail stopped:")).expect("counters");
        let n_skipped = bytes.len() as u64 - n_records;
        assert_eq!(counter(counters, "bytes_nul_skipped"), n_skipped);
        assert_eq!(counter(counters, "bytes_acked"), n_records);
        assert_eq!(log.matches("run of NULs skipped").count(), usize::from(n_skipped > 0));
    }
}

/// Torture: 9.
#[test]
fn a_writer_that_goes_on_at_its_offset_after_a_truncation_loses_nothing() {
    let mut scene = Scene::new("server.log");
    let shipper = scene.start();
    let mut writer = std::fs::File::create(scene.logs.path("server.log")).expect("created");
    let first = format!("{}\n", "x".repeat(6000));
    writer.write_all(first.as_bytes()).expect("written");
    scene.wait_for_records(1, &shipper);
    scene.logs.truncate("server.log");
    writer.write_all(b"two\nthree\n").expect("written");
    let values = scene.values_after(3, shipper);
    assert_eq!(values, [first.trim_end(), "two", "three"]);
    assert_eq!(scene.records()[1].number("offset"), first.len() as u64);
}

/// Torture: 9, 34.
#[test]
fn a_hole_of_gigabytes_costs_no_memory() {
    let mut scene = Scene::new("server.log");
    let n_bytes = 3 << 30;
    scene.logs.append("server.log", "one\n");
    scene.logs.open("server.log").set_len(4 + n_bytes).expect("made longer");
    scene.logs.append("server.log", "two\n");
    let shipper = scene.start();
    scene.wait_for_records(2, &shipper);
    let peak = shipper.peak_rss();
    assert!(peak < 32 << 20, "{peak} bytes");
    let counters = scene.stop(shipper);
    assert_eq!(counter(&counters, "bytes_nul_skipped"), n_bytes);
    assert_eq!(values_and_gaps(&mut scene).1, [(4, 4 + n_bytes)]);
}

// ---- filters ----

#[test]
fn events_that_a_filter_leaves_out_are_counted_and_the_others_arrive() {
    let mut scene = Scene::new("server.log");
    scene.set("[[input]]", "include_events", "['ERROR', 'WARN']");
    scene.set("[[input]]", "exclude_events", "['^noise']");
    let text = "ERROR one\nINFO two\nWARN three\nnoise ERROR\nERROR last\n";
    scene.logs.append("server.log", text);
    let shipper = scene.start();
    scene.wait_for_records(3, &shipper);
    let counters = scene.stop(shipper);
    assert_eq!(scene.values(), ["ERROR one", "WARN three", "ERROR last"]);
    for (name, expected) in [
        ("events_read", 5),
        ("events_filtered", 2),
        ("records_acked", 3),
        ("bytes_read", text.len() as u64),
        ("bytes_filtered", 9 + 12),
        ("bytes_acked", text.len() as u64 - 9 - 12),
    ] {
        assert_eq!(counter(&counters, name), expected, "{name}: {counters}");
    }
}

#[test]
fn a_file_of_which_nothing_is_kept_moves_its_offset_and_is_finished() {
    let mut scene = Scene::new("server.log");
    scene.set("[[input]]", "exclude_events", "['']");
    scene.logs.append("server.log", lines(0..100));
    let shipper = scene.start();
    let n_bytes = lines(0..100).len() as u64;
    scene.wait_for_entry("server.log", &format!("\"offset\":{n_bytes}"));
    scene.logs.rename("server.log", "away");
    shipper.wait_for_log("file finished", LIMIT);
    let counters = scene.stop(shipper);
    assert_eq!(counter(&counters, "bytes_filtered"), n_bytes);
    assert_eq!(counter(&counters, "bytes_acked"), 0);
    assert_eq!(scene.records().len(), 0);
}

// ---- multiline ----

const FIRST: &str = "[2026-01-31 13:00:00,001] INFO one (kafka.server.KafkaServer)";
const TRACE: &str = "[2026-01-31 13:00:00,002] ERROR two (kafka.server.KafkaApis)\n\
    java.lang.IllegalStateException: [1] no\n\tat kafka.A.b(A.scala:1)\n\n[x]\n\
    Caused by: java.io.IOException\n\t... 3 more";
const LAST: &str = "[2026-01-31 13:00:00,003] WARN three (kafka.log.LogCleaner)";

#[test]
fn a_stack_trace_is_one_event() {
    let mut scene = Scene::new("server.log");
    scene.set("[[input]]", "multiline", "{ profile = \"kafka\" }");
    let text = format!("{FIRST}\n{TRACE}\n{LAST}\n");
    let values = shipped(&mut scene, text.as_bytes());
    assert_eq!(values, [FIRST, TRACE, LAST].map(|event| event.as_bytes().to_vec()));
}

/// Torture: 31.
#[test]
fn a_trace_that_is_written_in_two_pieces_is_one_event() {
    let mut scene = Scene::new("server.log");
    scene.set("[[input]]", "multiline", "{ profile = \"kafka\" }");
    scene.set("[[input]]", "event_timeout", "\"10s\"");
    let shipper = scene.start();
    let (head, tail) = TRACE.split_at(130);
    scene.logs.append("server.log", format!("{FIRST}\n{head}"));
    // It has been read: what is before it has left.
    scene.wait_for_records(1, &shipper);
    scene.logs.append("server.log", format!("{tail}\n{LAST}\n"));
    scene.wait_for_records(2, &shipper);
    assert_eq!(scene.values_after(2, shipper), [FIRST, TRACE]);
}

#[test]
fn the_last_event_leaves_after_the_timeout_and_what_follows_is_an_event() {
    let mut scene = Scene::new("server.log");
    scene.set("[[input]]", "multiline", "{ profile = \"kafka\" }");
    scene.logs.append("server.log", format!("{TRACE}\n"));
    let shipper = scene.start();
    scene.wait_for_records(1, &shipper);
    scene.logs.append("server.log", "\tat too.Late(A.scala:2)\n");
    assert_eq!(scene.values_after(2, shipper), [TRACE, "\tat too.Late(A.scala:2)"]);
    assert_eq!(covered(scene.records()).len(), 1);
}

/// Torture: 31, 39.
#[test]
fn an_event_that_was_open_at_a_stop_is_whole_after_the_restart() {
    let mut scene = Scene::new("server.log");
    scene.set("[[input]]", "multiline", "{ profile = \"kafka\" }");
    scene.set("[[input]]", "event_timeout", "\"30s\"");
    let (head, tail) = TRACE.split_at(130);
    scene.logs.append("server.log", format!("{FIRST}\n{head}"));
    let shipper = scene.start();
    scene.wait_for_records(1, &shipper);
    scene.stop(shipper);
    scene.logs.append("server.log", format!("{tail}\n{LAST}\n"));
    let shipper = scene.start();
    assert_eq!(scene.values_after(2, shipper), [FIRST, TRACE]);
}

#[test]
fn a_pattern_starts_events_and_the_profile_none_makes_each_line_one() {
    let text = "# one\n more\n# two\n";
    for (multiline, expected) in [
        ("{ start = '^#' }", vec!["# one\n more", "# two"]),
        ("{ profile = \"none\" }", vec!["# one", " more", "# two"]),
        ("{ profile = \"kafka\" }", vec!["# one\n more\n# two"]),
        ("{ profile = \"java\" }", vec!["# one\n more", "# two"]),
        ("{ profile = \"python\" }", vec!["# one\n more", "# two"]),
        ("{ continuation = '^#' }", vec!["# one", " more\n# two"]),
        ("{ count = 2 }", vec!["# one\n more", "# two"]),
    ] {
        let mut scene = Scene::new("server.log");
        scene.set("[[input]]", "multiline", multiline);
        let values = shipped(&mut scene, text.as_bytes());
        let expected: Vec<_> = expected.iter().map(|event| event.as_bytes().to_vec()).collect();
        assert_eq!(values, expected, "{multiline}");
    }
}

// ---- records ----

#[test]
fn records_say_where_they_came_from() {
    let mut scene = Scene::new("server.log");
    scene.set("[[input]]", "fields", "{ cluster = \"east\", rack = \"7\" }");
    shipped(&mut scene, b"one\r\ntwo\n");
    let path = scene.logs.path("server.log").display().to_string();
    let records = scene.records();
    let names: Vec<_> = records[0].headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["host", "path", "file_id", "cluster", "rack", "offset", "length"]);
    for (record, offset, length) in [(&records[0], 0, 5), (&records[1], 5, 4)] {
        assert_eq!(record.key, format!("h1{path}").into_bytes());
        assert_eq!(record.header("host"), "h1");
        assert_eq!(record.header("path"), path);
        assert_eq!(record.header("cluster"), "east");
        assert_eq!(record.header("rack"), "7");
        assert_eq!((record.number("offset"), record.number("length")), (offset, length));
    }
}

#[test]
fn a_stream_stays_in_its_partition_and_streams_spread() {
    let mut scene = Scene::with_partitions("*.log*", 8);
    let names: Vec<String> = (0..16).map(|n| format!("{n}.log")).collect();
    let shipper = scene.start();
    for (at, name) in names.iter().enumerate() {
        scene.logs.append(name, lines(at..at + 1));
    }
    scene.wait_for_records(16, &shipper);
    for (at, name) in names.iter().enumerate() {
        scene.logs.rename(name, &format!("{name}.1"));
        scene.logs.append(&format!("{name}.1"), lines(100 + at..101 + at));
        scene.logs.append(name, lines(200 + at..201 + at));
    }
    scene.wait_for_records(48, &shipper);
    scene.stop(shipper);
    let mut streams = std::collections::BTreeMap::<_, (Vec<String>, Vec<i32>)>::new();
    for record in scene.records() {
        let (values, partitions) = streams.entry(record.header("path")).or_default();
        values.push(record.text());
        partitions.push(record.partition);
    }
    let mut used: Vec<i32> = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let (values, partitions) = &streams[&scene.logs.path(name).display().to_string()];
        let expected = [at, 100 + at, 200 + at].map(|n| format!("line {n}"));
        assert_eq!(*values, expected, "{name}");
        assert_eq!(*partitions, [partitions[0]; 3], "{name}");
        used.push(partitions[0]);
    }
    used.sort_unstable();
    used.dedup();
    assert!(used.len() > 3, "{used:?}");
}

#[test]
fn what_was_read_was_acknowledged_when_a_stop_succeeds() {
    let mut scene = Scene::new("*.log");
    for at in 0..4 {
        scene.logs.append(&format!("{at}.log"), lines(1000 * at..1000 * at + 1000));
    }
    let shipper = scene.start();
    scene.wait_for_records(4000, &shipper);
    let counters = scene.stop(shipper);
    let n_bytes = lines(0..4000).len() as u64;
    for (name, expected) in [
        ("files_opened", 4),
        ("files_truncated", 0),
        ("bytes_read", n_bytes),
        ("bytes_acked", n_bytes),
        ("lines_read", 4000),
        ("events_read", 4000),
        ("records_acked", 4000),
        ("records_rejected", 0),
        ("bytes_cut", 0),
    ] {
        assert_eq!(counter(&counters, name), expected, "{name}: {counters}");
    }
    assert_eq!(covered(scene.records()).iter().sum::<u64>(), n_bytes);
}

// ---- back-pressure ----

#[test]
fn while_the_broker_is_away_files_wait_and_not_memory() {
    let mut scene = Scene::new("server.log");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..1));
    scene.wait_for_records(1, &shipper);
    broker_down(&scene.cluster, 1);
    let padding = "x".repeat(1000);
    let mut writer = scene.logs.open("server.log");
    for n in 1..30_000 {
        writeln!(writer, "line {n} {padding}").expect("written");
    }
    let is_full = || {
        let log = shipper.log();
        log.contains("cannot connect").then_some(())
    };
    wait_for(LIMIT, "a warning", is_full, || shipper.log());
    let (before, cpu_before) = (shipper.peak_rss(), cpu_ticks(shipper.pid()));
    std::thread::sleep(Duration::from_secs(1));
    let (after, cpu_after) = (shipper.peak_rss(), cpu_ticks(shipper.pid()));
    assert!(after < 64 << 20, "{before} and then {after} bytes");
    assert!(cpu_after - cpu_before < 50, "{} ticks of 100 in a second", cpu_after - cpu_before);
    scene.cluster.broker_up(1).expect("up");
    let n = scene.wait_for_records(30_000, &shipper).len();
    scene.stop(shipper);
    assert_eq!(n, 30_000);
    let values = scene.values();
    let numbers: Vec<String> =
        values.iter().map(|v| v.trim_end_matches(['x', ' ']).into()).collect();
    assert!(numbers == numbered(0..30_000));
}

/// CPU time of a process so far, in hundredths of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("running");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a field").split_whitespace().collect();
    let field = |at: usize| fields[at].parse::<u64>().expect("a number");
    field(11) + field(12)
}
