//! `shipper tail` against a real Kafka: killed while its file is rotated, and read by a client
//! of another make.
//!
//! Built with `--features stack`; the head of `tests/run` lists the variables.

mod support;

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use support::stack::{
    N_PARTITIONS, PATIENCE, Random, Writer, assert_same, bytes_in, covered_bytes, env, make_topic,
    script, seq_of, unique, write_config,
};
use support::{Shipper, TopicReader, counter, wait_for};

fn tail_config(folder: &Path, kafka: &str, topic: &str, input: &str) -> std::path::PathBuf {
    let text = format!(
        "state_dir = {:?}\nhost = \"h1\"\n[kafka]\nbootstrap_servers = [\"{kafka}\"]\n{input}\n\
         [tail]\nrotate_grace = \"1s\"\nsave_interval = \"50ms\"\n",
        folder.join("state")
    );
    write_config(folder, "tail.toml", &text.replace("TOPIC", topic))
}

#[test]
fn nothing_is_lost_repeated_or_out_of_order_when_tail_is_killed_ten_times_amid_ten_rotations() {
    const N_EVENTS: usize = 200_000;
    let kafka = env("SHIPPER_STACK_KAFKA");
    let topic = unique("tail-killed");
    make_topic(&kafka, &topic);
    let folder = tempfile::tempdir().expect("a folder");
    let logs = folder.path().join("logs");
    fs::create_dir(&logs).expect("made");
    let input = format!("[[input]]\npaths = [{:?}]\ntopic = \"TOPIC\"", logs.join("server.log"));
    let config = tail_config(folder.path(), &kafka, &topic, &input);
    let mut random = Random::new();

    let mut logs_written = String::new();
    let mut tail = Shipper::start("tail", &config);
    let writer = Writer::start(&logs, N_EVENTS, 20_000, 20_000);
    for n in 0..10 {
        // Somewhere in each tenth, so that each of them falls into the writing.
        writer.wait_for(n * 20_000 + random.number(1000..19_000) as usize);
        logs_written += &tail.log();
        tail.kill();
        // At most one rotation and a half is missed; often none.
        thread::sleep(random.milliseconds(0..1500));
        tail = Shipper::start("tail", &config);
    }
    writer.join(false);

    let mut reader = TopicReader::new(&kafka, &topic, N_PARTITIONS);
    let (mut seqs, mut seen) = (Vec::<usize>::new(), HashSet::<usize>::new());
    let read = || {
        reader.read_for(Duration::from_millis(200));
        let news: Vec<usize> = reader.records[seqs.len()..].iter().map(seq_of).collect();
        seen.extend(&news);
        seqs.extend(news);
        (seen.len() >= N_EVENTS).then_some(())
    };
    wait_for(PATIENCE, "all events", read, || tail.log());
    let (status, log) = tail.stop(PATIENCE);
    assert!(status.success(), "{log}");

    println!(
        "{}",
        log.lines().rev().find(|line| line.contains("tail stopped")).unwrap_or_default()
    );
    let is_exact = seqs.iter().copied().eq(0..N_EVENTS);
    assert!(is_exact, "{logs_written}{log}");
    assert_same(&seqs, &(0..N_EVENTS).collect::<Vec<_>>(), "events");
    assert_eq!(covered_bytes(&reader.records), bytes_in(&logs));
}

#[test]
fn the_java_console_consumer_sees_the_exact_bytes() {
    for (kafka_name, kafka) in
        [("kafka", env("SHIPPER_STACK_KAFKA")), ("kafka-old", env("SHIPPER_STACK_KAFKA_OLD"))]
    {
        for compression in ["none", "gzip", "snappy", "lz4", "zstd"] {
            check_exact_bytes(kafka_name, &kafka, compression);
        }
    }
}

/// Events of `joined.log`: key/value as they must arrive, and what ends them in the file.
const JOINED: [(&[u8], &[u8]); 7] = [
    (b"[2026-01-02 03:04:05,678] INFO plain (w.W)", b"\n"),
    (
        b"[2026-01-02 03:04:05,678] ERROR boom (w.W)\njava.lang.Error: x\n\tat a.B.c(B.java:1)",
        b"\n",
    ),
    (b"[2026-01-02 03:04:05,678] INFO two\r\nlines\r\n\r\nand more (w.W)", b"\r\n"),
    (b"[2026-01-02 03:04:05,678] INFO a\tb\tc \"quoted\" \\n (w.W)", b"\n"),
    ("[2026-01-02 03:04:05,678] INFO ä € 😀 \u{feff}\u{2028} (w.W)".as_bytes(), b"\r\n"),
    (b"[2026-01-02 03:04:05,678] INFO \xff\xfe\xc3( \x00\x1b[31m (w.W)\n\n\n  \nafter", b"\n"),
    (b"[2026-01-02 03:04:05,678] INFO empty lines at the end\n\n", b"\n"),
];

/// Lines of `single.log`, each an event.
const SINGLE: [(&[u8], &[u8]); 6] = [
    (b"", b"\n"),
    (b"\t", b"\n"),
    (b"", b"\r\n"),
    (b"\xff", b"\r\n"),
    (b"a\rb", b"\n"),
    (b"", b"\n"),
];

fn check_exact_bytes(kafka_name: &str, kafka: &str, compression: &str) {
    let topic = unique("tail-bytes");
    make_topic(kafka, &topic);
    let folder = tempfile::tempdir().expect("a folder");
    let (joined, single) = (folder.path().join("joined.log"), folder.path().join("single.log"));
    fs::write(&joined, JOINED.map(|(value, end)| [value, end].concat()).concat()).expect("written");
    fs::write(&single, SINGLE.map(|(value, end)| [value, end].concat()).concat()).expect("written");
    let input = format!(
        "[[input]]\npaths = [{joined:?}]\ntopic = \"TOPIC\"\nfields = {{ env = \"tést\" }}\n\
         [[input]]\npaths = [{single:?}]\ntopic = \"TOPIC\"\nmultiline = {{ profile = \"none\" }}\n\
         [batch]\ncompression = \"{compression}\"\n"
    );
    let config = tail_config(folder.path(), kafka, &topic, &input);
    let before = unix_ms();
    let n_records = JOINED.len() + SINGLE.len();

    let tail = Shipper::start("tail", &config);
    let mut reader = TopicReader::new(kafka, &topic, N_PARTITIONS);
    reader.read(n_records, PATIENCE);
    let (status, log) = tail.stop(PATIENCE);
    assert!(status.success(), "{log}");
    let stopped = log.lines().find(|line| line.contains("tail stopped:")).expect("the last line");
    assert_eq!(counter(stopped, "records_acked"), n_records as u64);
    let after = unix_ms();

    let (field, end) = ("<|field|>", "<|end|>");
    let max_messages = n_records.to_string();
    let mut arguments = vec![
        "tool",
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        "--bootstrap-server",
        kafka,
        "--topic",
        &topic,
        "--from-beginning",
        "--max-messages",
        &max_messages,
    ];
    let separators = format!("key.separator={field}");
    let properties = [
        "print.timestamp=true",
        "print.headers=true",
        "print.key=true",
        "headers.separator=<|header|>",
        &separators,
        &format!("line.separator={end}"),
    ];
    arguments.extend(properties.iter().flat_map(|property| ["--property", property]));
    let output = script("kafka.sh", &[("KAFKA_NAME", kafka_name)], &arguments).stdout;

    let records: Vec<&[u8]> = split(&output, end.as_bytes());
    let (last, records) = records.split_last().expect("one at least");
    assert_eq!(last, b"");
    for (path, events, more) in
        [(&joined, &JOINED[..], "<|header|>env:tést"), (&single, &SINGLE[..], "")]
    {
        let key = format!("h1{}", path.display());
        let mut offset = 0;
        let mut found = records
            .iter()
            .map(|record| split(record, field.as_bytes()))
            .filter(|fields| fields.len() == 4 && fields[2] == key.as_bytes());
        for (value, end) in events {
            let fields = found.next().unwrap_or_else(|| panic!("no record at {offset} of {key}"));
            let text = |at: usize| str::from_utf8(fields[at]).expect("UTF-8");
            let time: i64 =
                text(0).strip_prefix("CreateTime:").expect("a time").parse().expect("ms");
            assert!((before..=after).contains(&time), "{time} in {before}..{after}");
            let length = value.len() + end.len();
            let headers = text(1);
            let start = format!("host:h1<|header|>path:{}<|header|>file_id:", path.display());
            let rest = headers.strip_prefix(&start).unwrap_or_else(|| panic!("{headers}"));
            let (_, rest) = rest.split_once("<|header|>").expect("more headers");
            let rest = format!("<|header|>{rest}");
            assert_eq!(rest, format!("{more}<|header|>offset:{offset}<|header|>length:{length}"));
            assert_eq!(fields[3].escape_ascii().to_string(), value.escape_ascii().to_string());
            offset += length;
        }
        assert!(found.next().is_none(), "more records than events of {key}");
    }
}

fn split<'a>(bytes: &'a [u8], separator: &[u8]) -> Vec<&'a [u8]> {
    let (mut parts, mut start) = (Vec::new(), 0);
    for at in memchr::memmem::find_iter(bytes, separator) {
        parts.push(&bytes[start..at]);
        start = at + separator.len();
    }
    parts.push(&bytes[start..]);
    parts
}

fn unix_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as i64
}
