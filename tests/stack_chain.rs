//! Both walks on real servers: a broker's own logs on their way through that same broker into
//! Elasticsearch, and what outages do to a chain under load.
//!
//! Built with `--features stack`; the head of `tests/run` lists the variables.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use regex::Regex;
use serde_json::Value;
use support::stack::{
    Documents, Outcomes, OwnServer, PATIENCE, Writer, bytes_in, count_committed, count_records,
    covered_bytes, env, make_topic, read_topic, script, unique, write_config,
};
use support::{Record, Shipper, counter, wait_for};

/// Topics, index and configuration of one test.
struct Chain {
    folder: tempfile::TempDir,
    logs: PathBuf,
    kafka: String,
    elasticsearch: String,
    name: String,
}

impl Chain {
    fn new(logs: PathBuf, kafka: String, elasticsearch: String) -> Chain {
        let name = unique("chain");
        for suffix in ["", "-errors", "-errors-again", "-dead-letters"] {
            make_topic(&kafka, &format!("{name}{suffix}"));
        }
        let folder = tempfile::tempdir().expect("a folder");
        Chain { folder, logs, kafka, elasticsearch, name }
    }

    /// One file for both walks; `again` names another group and error topic.
    fn config(&self, again: &str) -> PathBuf {
        let Chain { folder, logs, kafka, elasticsearch, name } = self;
        let text = format!(
            r#"
            state_dir = {state_dir:?}
            host = "h1"
            [kafka]
            bootstrap_servers = ["{kafka}"]
            [[input]]
            paths = [{current:?}, {rotated:?}]
            topic = "{name}"
            [tail]
            rotate_grace = "1s"
            [index]
            topics = ["{name}"]
            group_id = "{name}{again}"
            error_topic = "{name}-errors{again}"
            dead_letter_topic = "{name}-dead-letters"
            bytes_max = "1MB"
            [elasticsearch]
            hosts = ["{elasticsearch}"]
            index = "{name}-{{yyyy.MM.dd}}"
            retry_backoff_max = "5s"
            "#,
            state_dir = folder.path().join(format!("state{again}")),
            current = logs.join("*.log"),
            rotated = logs.join("*.log.*"),
        );
        write_config(folder.path(), &format!("shipper{again}.toml"), &text)
    }

    fn topic(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.name)
    }

    fn documents(&self) -> Documents {
        Documents::new(&self.elasticsearch, &self.name)
    }

    /// Waits until a group has committed all of the topic.
    fn wait_for_group(&self, group: &str, process: &Shipper) {
        let committed = || {
            let n = count_committed(&self.kafka, group, &self.name);
            (n >= count_records(&self.kafka, &self.name)).then_some(())
        };
        wait_for(PATIENCE, "committed end", committed, || process.log());
    }
}

/// Stops a walk and returns the line with its counters.
fn stop(process: Shipper, walk: &str) -> String {
    let (status, log) = process.stop(PATIENCE);
    assert!(status.success(), "{log}");
    let start = format!("{walk} stopped:");
    log.lines().find(|line| line.contains(&start)).unwrap_or_else(|| panic!("{log}")).to_owned()
}

#[test]
fn a_brokers_own_logs_pass_once_through_kafka_4_and_elasticsearch_8() {
    let kafka = env("SHIPPER_STACK_KAFKA");
    check_own_logs("kafka", kafka, env("SHIPPER_STACK_ELASTICSEARCH"));
}

#[test]
fn a_brokers_own_logs_pass_once_through_kafka_3_and_elasticsearch_9() {
    let kafka = env("SHIPPER_STACK_KAFKA_OLD");
    check_own_logs("kafka-old", kafka, env("SHIPPER_STACK_ELASTICSEARCH_9"));
}

fn check_own_logs(kafka_name: &str, kafka: String, elasticsearch: String) {
    let logs = Path::new(&env("SHIPPER_STACK_DIR")).join(kafka_name).join("node1/logs");
    let chain = Chain::new(logs, kafka, elasticsearch);
    let documents = chain.documents();
    let broker = |arguments: &[&str]| script("kafka.sh", &[("KAFKA_NAME", kafka_name)], arguments);

    let tail = Shipper::start("tail", &chain.config(""));
    let index = Shipper::start("index", &chain.config(""));
    broker(&["provoke", "3"]);
    broker(&["roll", "1"]);
    broker(&["provoke", "2"]);
    // With a feedback loop through the broker's log there would be no such time.
    let n_bytes_when_quiet = wait_until_quiet(&chain);
    let tail_stopped = stop(tail, "tail");

    let records = read_topic(&chain.kafka, &chain.name);
    let n_lines = compare_with_files(&chain.logs, &records);
    let n_bytes = covered_bytes(&records);
    assert!(n_bytes >= n_bytes_when_quiet, "{n_bytes} of {n_bytes_when_quiet} bytes shipped");
    let n_records = records.len() as u64;
    for (name, expected) in [
        ("bytes_read", n_bytes),
        ("bytes_acked", n_bytes),
        ("lines_read", n_lines),
        ("events_read", n_records),
        ("records_acked", n_records),
        ("records_rejected", 0),
        ("events_cut", 0),
        ("files_truncated", 0),
        ("files_refused", 0),
    ] {
        assert_eq!(counter(&tail_stopped, name), expected, "{name} in {tail_stopped}");
    }

    chain.wait_for_group(&chain.name, &index);
    let index_stopped = stop(index, "index");
    let n_errors = compare_errors(&records, &read_topic(&chain.kafka, &chain.topic("-errors")));
    let n_documents = compare_documents(&records, &documents);
    assert_counters(&index_stopped, n_records, n_documents, 0, n_errors);

    let again = Shipper::start("index", &chain.config("-again"));
    chain.wait_for_group(&chain.topic("-again"), &again);
    let again_stopped = stop(again, "index");
    assert_eq!(documents.count(), n_documents);
    assert_counters(&again_stopped, n_records, 0, n_documents, n_errors);
    assert_eq!(count_records(&chain.kafka, &chain.topic("-errors-again")), n_errors);
    assert_eq!(count_records(&chain.kafka, &chain.topic("-dead-letters")), 0);
    println!(
        "{kafka_name}: {n_bytes} bytes, {n_lines} lines, {n_records} events: \
         {n_documents} documents, {n_errors} errors"
    );
}

fn assert_counters(stopped: &str, consumed: u64, indexed: u64, duplicates: u64, errors: u64) {
    for (name, expected) in [
        ("consumed", consumed),
        ("indexed", indexed),
        ("duplicates", duplicates),
        ("error_topic", errors),
        ("error_topic_also", 0),
        ("dead_letter", 0),
        ("rejected", 0),
        ("dropped", 0),
        ("given_up", 0),
    ] {
        assert_eq!(counter(stopped, name), expected, "{name} in {stopped}");
    }
}

/// Waits until neither the files nor the topic have grown for five seconds; returns how many
/// bytes the files held then.
fn wait_until_quiet(chain: &Chain) -> u64 {
    let look = || (bytes_in(&chain.logs), count_records(&chain.kafka, &chain.name));
    let (mut last, mut since) = (look(), Instant::now());
    let quiet = || {
        let now = look();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() >= Duration::from_secs(5)).then_some(now.0)
    };
    wait_for(PATIENCE, "five quiet seconds", quiet, || chain.name.clone())
}

/// An event of a file, as this test understands Kafka's layout.
#[derive(Debug, PartialEq, Eq)]
struct Expected {
    offset: u64,
    length: u64,
    value: String,
}

/// Joins lines: an event starts with a timestamp, and what has none belongs to the one before.
fn join(text: &str) -> Vec<Expected> {
    let start = Regex::new(r"^\[?\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d").expect("a pattern");
    let mut events: Vec<Expected> = Vec::new();
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let length = line.len() as u64;
        match events.last_mut() {
            Some(event) if !start.is_match(line) => {
                event.value += line;
                event.length += length;
            }
            _ => events.push(Expected { offset, length, value: line.to_owned() }),
        }
        offset += length;
    }
    for event in &mut events {
        event.value.pop();
    }
    events
}

/// Asserts that the records of each stream are the events of its files, oldest file first;
/// returns how many lines these have. A file may have grown, and newer ones may have come, since
/// the topic was read.
fn compare_with_files(logs: &Path, records: &[Record]) -> u64 {
    let mut streams: BTreeMap<String, BTreeMap<String, PathBuf>> = BTreeMap::new();
    for file in fs::read_dir(logs).expect("read") {
        let path = file.expect("read").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8");
        let (stream, rotated) = name.split_once(".log").expect("*.log or *.log.*");
        // `~` is behind every digit: the current file is the newest.
        let order = if rotated.is_empty() { "~" } else { rotated };
        streams.entry(format!("{stream}.log")).or_default().insert(order.to_owned(), path.clone());
    }
    let (mut n_lines, mut n_compared) = (0, 0);
    for (stream, files) in streams {
        let key = format!("h1{}", logs.join(&stream).display());
        let records: Vec<&Record> =
            records.iter().filter(|record| record.key == key.as_bytes()).collect();
        n_compared += records.len();
        assert!(records.windows(2).all(|pair| pair[0].partition == pair[1].partition));
        let lives: Vec<&[&Record]> =
            records.chunk_by(|a, b| a.header("file_id") == b.header("file_id")).collect();
        let texts = files.values().map(|path| fs::read_to_string(path).expect("UTF-8"));
        let texts: Vec<String> = texts.filter(|text| !text.is_empty()).collect();
        assert!(lives.len() <= texts.len(), "{stream}: more lives than files");
        for (at, (life, text)) in lives.iter().zip(&texts).enumerate() {
            let last = life.last().expect("chunks are not empty");
            let end = (last.number("offset") + last.number("length")) as usize;
            assert!(end == text.len() || at == lives.len() - 1, "{stream}: end of file {at}");
            let expected = join(&text[..end]);
            let found = life.iter().map(|record| Expected {
                offset: record.number("offset"),
                length: record.number("length"),
                value: String::from_utf8(record.value.clone()).expect("UTF-8"),
            });
            assert_eq!(found.collect::<Vec<_>>(), expected, "{stream}, file {at}");
            n_lines += text[..end].lines().count() as u64;
        }
    }
    assert_eq!(n_compared, records.len(), "records of no file");
    n_lines
}

fn level(record: &Record) -> String {
    let text = record.text();
    let (_, rest) = text.split_once("] ").expect("[time] LEVEL");
    rest.split(' ').next().expect("a first word").to_owned()
}

fn is_error(record: &Record) -> bool {
    matches!(level(record).as_str(), "ERROR" | "FATAL")
}

/// Where a record lies in the topic.
type Place = (i32, i64);

/// Returns the records that are, or are not, errors.
fn select(records: &[Record], errors: bool) -> BTreeMap<Place, &Record> {
    let wanted = records.iter().filter(|record| is_error(record) == errors);
    wanted.map(|record| ((record.partition, record.offset), record)).collect()
}

/// Asserts that the error topic holds each error once and whole; returns how many there are.
fn compare_errors(records: &[Record], errors: &[Record]) -> u64 {
    let expected = select(records, true);
    let mut seen = BTreeSet::new();
    for error in errors {
        let number = |name: &str| error.number(&format!("route.origin.{name}"));
        let place = (number("partition") as i32, number("offset") as i64);
        let record = expected.get(&place).unwrap_or_else(|| panic!("{place:?} is no error"));
        assert_eq!((&error.key, &error.value), (&record.key, &record.value));
        assert!(error.headers.starts_with(&record.headers), "{:?}", error.headers);
        assert!(seen.insert(place), "{place:?} twice");
    }
    assert_eq!(seen.len(), expected.len());
    let n_with_frames = errors.iter().filter(|error| error.text().contains("\n\tat ")).count();
    // `provoke` gives five errors each time, four of them with a stack trace.
    assert!(errors.len() >= 25 && n_with_frames >= 20, "{} {n_with_frames}", errors.len());
    errors.len() as u64
}

/// Asserts that every record but the errors is one document that says the same; returns how many.
fn compare_documents(records: &[Record], documents: &Documents) -> u64 {
    let expected = select(records, false);
    let mut seen = BTreeSet::new();
    for document in documents.all(&["*"]) {
        let source = &document["_source"];
        let number = |path: &str| source.pointer(path).and_then(Value::as_u64).expect(path);
        let text = |path: &str| source.pointer(path).and_then(Value::as_str).expect(path);
        let place = (number("/kafka/partition") as i32, number("/kafka/offset") as i64);
        let record = expected.get(&place).unwrap_or_else(|| panic!("{place:?} is an error"));
        assert!(seen.insert(place), "{place:?} twice");

        let event = record.text();
        let time = event[1..24].replace(' ', "T").replace(',', ".") + "Z";
        assert_eq!(text("/@timestamp"), time, "{event}");
        assert_eq!(text("/log/level"), level(record), "{event}");
        assert_eq!(text("/log/file/path"), record.header("path"));
        assert_eq!(number("/log/offset"), record.number("offset"));
        assert_eq!(text("/host/name"), "h1");
        // Nothing but layout is missing: what the fields hold together is the event.
        let component = source.pointer("/kafka/log/component").and_then(Value::as_str);
        let trace = source.pointer("/error/stack_trace").and_then(Value::as_str);
        let parts = [component, Some(text("/message")), Some(text("/log/logger")), trace];
        let mut rest = event.split_once(&format!("] {} ", level(record))).expect("seen above").1;
        for part in parts.into_iter().flatten() {
            let (before, after) =
                rest.split_once(part).unwrap_or_else(|| panic!("{part} in {event}"));
            assert!(before.chars().all(|char| " []():\n".contains(char)), "{before} in {event}");
            rest = after;
        }
        assert!(rest.chars().all(|char| " )\n".contains(char)), "{rest} in {event}");
    }
    assert_eq!(seen.len(), expected.len());
    assert_eq!(documents.count(), expected.len() as u64);
    expected.len() as u64
}

#[test]
fn a_minute_without_kafka_and_a_minute_without_elasticsearch_lose_nothing() {
    const OUTAGE: Duration = Duration::from_secs(60);
    /// Times the bytes that may be under way: 60 s hold some 18 MB.
    const PER_SECOND: u64 = 2000;
    let port = |n: u32| (env("SHIPPER_STACK_PORT").parse::<u32>().expect("a port") + n).to_string();
    let kafka_port = port(0);
    let broker =
        OwnServer::up("kafka.sh", ("KAFKA_NAME", "kafka-outage"), &[("KAFKA_PORT", &kafka_port)]);
    let es_port = port(20);
    let search = OwnServer::up(
        "elasticsearch.sh",
        ("ES_NAME", "elasticsearch-outage"),
        &[("ES_PORT", &es_port)],
    );
    let logs = tempfile::tempdir().expect("a folder");
    let chain = Chain::new(
        logs.path().to_owned(),
        format!("127.0.0.1:{kafka_port}"),
        format!("http://127.0.0.1:{es_port}"),
    );
    let mut outcomes = Outcomes::new(chain.documents(), &chain.kafka, &chain.topic("-errors"));
    let tail = Shipper::start("tail", &chain.config(""));
    let index = Shipper::start("index", &chain.config(""));
    let writer = Writer::start(logs.path(), usize::MAX, 20_000, PER_SECOND);
    outcomes.wait_for(10_000, PATIENCE);

    broker.run(&["kill", "1"]);
    thread::sleep(OUTAGE);
    broker.run(&["start", "1"]);
    outcomes.wait_for(writer.n_written(), PATIENCE);

    search.run(&["kill"]);
    thread::sleep(OUTAGE);
    search.run(&["up"]);
    outcomes.wait_for(writer.n_written(), PATIENCE);
    let n_events = writer.join(true);
    outcomes.wait_for(n_events, PATIENCE);

    println!(
        "peak of tail: {} KiB, of index: {} KiB",
        tail.peak_rss() >> 10,
        index.peak_rss() >> 10
    );
    assert!(tail.peak_rss() <= 32 << 20);
    // Two batches under way and an open one of 1 MB, each with a bulk body of some 4 MB at most
    // and what its vectors have in reserve, and 20 MiB.
    assert!(index.peak_rss() <= 40 << 20);
    let tail_stopped = stop(tail, "tail");
    let index_stopped = stop(index, "index");
    let records = read_topic(&chain.kafka, &chain.name);
    println!("{n_events} events, {} records; {tail_stopped}; {index_stopped}", records.len());
    let n_bytes = bytes_in(logs.path());
    assert_eq!(covered_bytes(&records), n_bytes);
    for name in ["bytes_read", "bytes_acked"] {
        assert_eq!(counter(&tail_stopped, name), n_bytes, "{name}");
    }
    let ends = ["indexed", "duplicates", "error_topic"].map(|name| counter(&index_stopped, name));
    assert_eq!(counter(&index_stopped, "consumed"), ends.iter().sum::<u64>());
    // A request that was carried out before the server died comes back as duplicates.
    let n_documents = outcomes.documents.count();
    assert!((ends[0]..=ends[0] + ends[1]).contains(&n_documents), "{n_documents} documents");
    // The process has lived on, and its producer is idempotent.
    assert_eq!(records.len(), n_events);
    // The group's session ends in a minute without a broker: what was under way is consumed again.
    println!("repeated in the error topic: {}", outcomes.reconcile(n_events));
}
