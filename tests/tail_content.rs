//! `shipper tail` and what stands in files: every byte arrives as it was, in events that are
//! whole, with headers that prove it.

mod support;

use std::io::Write as _;
use std::time::Duration;

use support::tail::{LIMIT, Scene, covered, lines, numbered};
use support::{counter, wait_for};

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

#[test]
fn an_over_long_line_without_end_is_let_go_of_when_its_file_is_rotated() {
    let mut scene = Scene::new("server.log");
    scene.set("[[input]]", "line_bytes_max", "\"1KiB\"");
    let values = shipped(&mut scene, &[b'x'; 700_000]);
    assert_eq!(values, [[b'x'; 1024]]);
    let record = &scene.records()[0];
    assert_eq!((record.number("cut"), record.header("partial")), (700_000 - 1024, "1".into()));
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
    scene.cluster.broker_down(1).expect("down");
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
