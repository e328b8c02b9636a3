//! Real servers: where they are, and topics, indices and files of a test's own.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log_shipper::kafka::record_batch::partition_for;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use ureq::Agent;

use super::{Record, TopicReader, wait_for};

/// Longest wait for what takes a moment on an idle machine: this one has two cores and five JVMs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Returns the value of a variable that `tests/stack/all.sh up` has written down.
pub fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: see the head of tests/run"))
}

/// Returns `what` with the time behind it, so that tests can run again on the same servers.
pub fn unique(what: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    format!("{what}-{}", now.as_millis())
}

/// Runs `kafka.sh` or `elasticsearch.sh`; panics with what it said if it fails.
pub fn script(script: &str, settings: &[(&str, &str)], arguments: &[&str]) -> Output {
    let output = Command::new(Path::new(&env("SHIPPER_STACK_SCRIPTS")).join(script))
        .args(arguments)
        .env("STACK_DIR", env("SHIPPER_STACK_DIR"))
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("the script starts");
    assert!(
        output.status.success(),
        "{script} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A server of a test's own, which goes with its variable.
pub struct OwnServer {
    script: &'static str,
    name: (&'static str, &'static str),
}

impl OwnServer {
    pub fn up(
        script_name: &'static str,
        name: (&'static str, &'static str),
        settings: &[(&str, &str)],
    ) -> OwnServer {
        let server = OwnServer { script: script_name, name };
        script(script_name, &[&[name], settings].concat(), &["up"]);
        server
    }

    pub fn run(&self, arguments: &[&str]) {
        script(self.script, &[self.name], arguments);
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.run(&["wipe"]);
    }
}

/// Makes a topic with the broker's `num.partitions`, which is 3.
pub fn make_topic(kafka: &str, topic: &str) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", kafka).create().expect("a producer");
    let look = || {
        let metadata = producer.client().fetch_metadata(Some(topic), Duration::from_secs(10));
        let metadata = metadata.ok()?;
        let partitions = metadata.topics()[0].partitions();
        let has_leaders = partitions.iter().all(|partition| partition.leader() >= 0);
        (partitions.len() == N_PARTITIONS as usize && has_leaders).then_some(())
    };
    wait_for(PATIENCE, &format!("topic {topic}"), look, String::new);
}

pub const N_PARTITIONS: i32 = 3;

/// Counts the records of a topic by its offsets.
pub fn count_records(kafka: &str, topic: &str) -> u64 {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", kafka).create().expect("a consumer");
    let count = |partition| {
        let marks = consumer.fetch_watermarks(topic, partition, Duration::from_secs(10));
        let (low, high) = marks.expect("offsets");
        (high - low) as u64
    };
    (0..N_PARTITIONS).map(count).sum()
}

/// Counts the records of a topic that a group has committed.
pub fn count_committed(kafka: &str, group: &str, topic: &str) -> u64 {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka).set("group.id", group);
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, N_PARTITIONS - 1);
    let committed = consumer.committed_offsets(list, Duration::from_secs(10)).expect("offsets");
    let offset = |element: &TopicPartitionListElem<'_>| match element.offset() {
        Offset::Offset(offset) => offset as u64,
        _ => 0,
    };
    committed.elements().iter().map(offset).sum()
}

/// Reads all that a topic holds now.
pub fn read_topic(kafka: &str, topic: &str) -> Vec<Record> {
    let n = count_records(kafka, topic) as usize;
    let mut reader = TopicReader::new(kafka, topic, N_PARTITIONS);
    reader.read(n, PATIENCE);
    assert_eq!(reader.records.len(), n, "{topic} has grown while it was read");
    reader.records
}

/// Documents of one test; deleted with their variable.
pub struct Documents {
    pub url: String,
    /// What the names of their indices begin with.
    pub prefix: String,
    agent: Agent,
    authorization: Option<String>,
}

impl Documents {
    pub fn new(url: &str, prefix: &str) -> Documents {
        let agent = Agent::config_builder().http_status_as_error(false).build().new_agent();
        Documents { url: url.to_owned(), prefix: prefix.to_owned(), agent, authorization: None }
    }

    /// Of a node that is asked by another agent, and wants to know by whom.
    pub fn secured(self, agent: Agent, authorization: String) -> Documents {
        Documents {
            url: self.url.clone(),
            prefix: self.prefix.clone(),
            agent,
            authorization: Some(authorization),
        }
    }

    fn post(&self, path: &str, body: Value) -> Value {
        let url = format!("{}/{path}", self.url);
        let mut request = self.agent.post(&url).header("Content-Type", "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let sent =
            if body.is_null() { request.send_empty() } else { request.send(body.to_string()) };
        let mut answer = sent.expect("an answer");
        let body = answer.body_mut().with_config().limit(1 << 30).read_to_vec().expect("a body");
        assert!(answer.status().is_success(), "{url}: {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).expect("JSON")
    }

    pub fn count(&self) -> u64 {
        self.post(&format!("{}*/_refresh", self.prefix), Value::Null);
        let counted =
            self.post(&format!("{}*/_count", self.prefix), json!({ "query": { "match_all": {} } }));
        counted["count"].as_u64().expect("a count")
    }

    /// Returns all of them, each with `_id` and these fields of its `_source`.
    pub fn all(&self, fields: &[&str]) -> Vec<Value> {
        self.post(&format!("{}*/_refresh", self.prefix), Value::Null);
        let search = json!({ "size": 10_000, "sort": ["_doc"], "_source": fields });
        let mut page = self.post(&format!("{}*/_search?scroll=1m", self.prefix), search);
        let mut all = Vec::new();
        loop {
            let Some(Value::Array(hits)) = page.pointer_mut("/hits/hits").map(Value::take) else {
                panic!("no hits: {page}");
            };
            if hits.is_empty() {
                return all;
            }
            all.extend(hits);
            let scroll = json!({ "scroll": "1m", "scroll_id": page["_scroll_id"] });
            page = self.post("_search/scroll", scroll);
        }
    }
}

impl Drop for Documents {
    fn drop(&mut self) {
        // By name: a pattern may be forbidden to delete by. What is left hurts no other test.
        let names = self.agent.get(format!("{}/_cat/indices/{}*?h=index", self.url, self.prefix));
        let Ok(mut names) = names.call() else { return };
        for name in names.body_mut().read_to_string().unwrap_or_default().split_whitespace() {
            let _ = self.agent.delete(format!("{}/{name}", self.url)).call();
        }
    }
}

/// Random numbers that a failed test can be run again with: `SHIPPER_SEED`, or the time.
pub struct Random(u64);

impl Random {
    pub fn new() -> Random {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
        let seed = std::env::var("SHIPPER_SEED");
        let seed = seed.map_or(now.as_nanos() as u64, |seed| seed.parse().expect("a number"));
        println!("SHIPPER_SEED={seed}");
        Random(seed)
    }

    pub fn seeded(seed: u64) -> Random {
        Random(seed)
    }

    /// Returns a number in `range`. Source: splitmix64.
    pub fn number(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        range.start + (z ^ (z >> 31)) % (range.end - range.start)
    }

    pub fn milliseconds(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.number(range))
    }
}

/// Every tenth event is an error with its stack trace.
pub fn is_error(seq: usize) -> bool {
    seq % 10 == 7
}

/// Returns the event of this number, without its last line feed.
pub fn event(seq: usize) -> String {
    let padding = "x".repeat(1 + seq % 97);
    if is_error(seq) {
        format!(
            "[2026-01-02 03:04:05,678] ERROR seq={seq} {padding} (w.W)\n\
             java.lang.IllegalStateException: of {seq}\n\tat w.W.write(W.java:{})\n\
             Caused by: java.io.IOException\n\t... 1 more",
            seq % 1000
        )
    } else {
        format!("[2026-01-02 03:04:05,678] INFO seq={seq} {padding} (w.W)")
    }
}

/// Returns the number of an event or of a message, and checks that it is unharmed.
pub fn seq_of(record: &Record) -> usize {
    let text = record.text();
    let seq = seq_in(&text);
    assert_eq!(text, event(seq));
    seq
}

/// Returns the number behind `seq=`.
pub fn seq_in(text: &str) -> usize {
    let (_, rest) = text.split_once("seq=").unwrap_or_else(|| panic!("no number: {text}"));
    let digits = rest.split(|char: char| !char.is_ascii_digit()).next().expect("a first part");
    digits.parse().expect("a number")
}

/// Writes numbered events as log4j does: one file, renamed while it is written.
pub struct Writer {
    n_written: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Writes `n_events` at that pace, and renames `folder/server.log` after each `rotate_after`.
    pub fn start(folder: &Path, n_events: usize, rotate_after: usize, per_second: u64) -> Writer {
        let (n_written, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, stopped) = (Arc::clone(&n_written), Arc::clone(&stop));
        let path = folder.join("server.log");
        let thread = thread::spawn(move || {
            let mut file = File::create_new(&path).expect("made");
            let start = Instant::now();
            for seq in 0..n_events {
                if seq > 0 && seq % rotate_after == 0 {
                    let n = seq / rotate_after;
                    let rotated = format!("server.log.2026-01-{:02}-{:02}", 1 + n / 24, n % 24);
                    fs::rename(&path, path.with_file_name(rotated)).expect("renamed");
                    file = File::create_new(&path).expect("made");
                }
                // In one write, as log4j's own buffer is flushed with each event.
                file.write_all((event(seq) + "\n").as_bytes()).expect("written");
                counter.store(seq + 1, Ordering::Release);
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let due = Duration::from_micros(seq as u64 * 1_000_000 / per_second);
                if let Some(early) = due.checked_sub(start.elapsed())
                    && early > Duration::from_millis(2)
                {
                    thread::sleep(early);
                }
            }
        });
        Writer { n_written, stop, thread: Some(thread) }
    }

    pub fn n_written(&self) -> usize {
        self.n_written.load(Ordering::Acquire)
    }

    pub fn wait_for(&self, n_events: usize) {
        let written = || (self.n_written() >= n_events).then_some(());
        wait_for(PATIENCE, "lines", written, || format!("{} written", self.n_written()));
    }

    /// Stops, or waits for its end; returns how many events there are.
    pub fn join(mut self, early: bool) -> usize {
        self.stop.store(early, Ordering::Relaxed);
        self.thread.take().expect("joined once").join().expect("the writer has not failed");
        self.n_written()
    }
}

/// Makes a folder for each partition: the `server.log` in it, of host `h1`, goes there.
pub fn folder_of_each_partition(root: &Path, n_partitions: i32) -> Vec<PathBuf> {
    let folder = |partition| {
        let path = |n| root.join(format!("log-{n}"));
        let key = |path: &Path| [b"h1", path.join("server.log").as_os_str().as_bytes()].concat();
        let goes_there = |path: &PathBuf| partition_for(&key(path), n_partitions) == partition;
        let folder = (0..).map(path).find(goes_there).expect("one of many");
        fs::create_dir(&folder).expect("made");
        folder
    };
    (0..n_partitions).map(folder).collect()
}

/// Asserts that the records of each file, repeats aside, cover it from its first byte on without
/// a gap; returns how many bytes that is, all files together.
pub fn covered_bytes(records: &[Record]) -> u64 {
    let span = |record: &Record| {
        let (start, length) = (record.number("offset"), record.number("length"));
        (record.header("file_id"), start, start + length)
    };
    let mut spans: Vec<_> = records.iter().map(span).collect();
    spans.sort();
    spans.dedup();
    for pair in spans.windows(2) {
        let [(file, _, end), (next_file, start, _)] = pair else { unreachable!("pairs") };
        let expected = if file == next_file { *end } else { 0 };
        assert_eq!(*start, expected, "behind {file} {end} comes {next_file} {start}");
    }
    assert!(spans.first().is_none_or(|(_, start, _)| *start == 0));
    spans.iter().map(|(_, start, end)| end - start).sum()
}

/// Returns how many bytes the files of a folder hold.
pub fn bytes_in(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).expect("read");
    files.map(|file| file.expect("read").metadata().expect("read").len()).sum()
}

/// The two ends of the index walk, as other clients see them.
pub struct Outcomes {
    pub documents: Documents,
    errors: TopicReader,
}

impl Outcomes {
    pub fn new(documents: Documents, kafka: &str, error_topic: &str) -> Outcomes {
        Outcomes { documents, errors: TopicReader::new(kafka, error_topic, N_PARTITIONS) }
    }

    /// Counts events, repeats in the error topic aside.
    pub fn count(&mut self) -> usize {
        self.errors.read_for(Duration::from_millis(300));
        self.error_seqs().len() + self.documents.count() as usize
    }

    fn error_seqs(&self) -> HashSet<usize> {
        self.errors.records.iter().map(seq_of).collect()
    }

    pub fn wait_for(&mut self, n_events: usize, limit: Duration) {
        let mut n_seen = 0;
        let deadline = Instant::now() + limit;
        while n_seen < n_events {
            assert!(Instant::now() < deadline, "{n_seen} of {n_events} outcomes after {limit:?}");
            n_seen = self.count();
        }
    }

    /// Asserts that each of `n_events` has exactly one outcome, the one of its level, and no
    /// event two documents; returns how many repeats the error topic holds.
    pub fn reconcile(&mut self, n_events: usize) -> usize {
        let documents = self.documents.all(&["message"]);
        let seq = |document: &Value| {
            let message = document["_source"]["message"].as_str().expect("a message");
            let seq = seq_in(message);
            assert!(event(seq).contains(&format!(" {message} (")), "{message}");
            seq
        };
        let mut indexed: Vec<usize> = documents.iter().map(seq).collect();
        indexed.sort_unstable();
        let expected: Vec<usize> = (0..n_events).filter(|seq| !is_error(*seq)).collect();
        assert_same(&indexed, &expected, "documents");

        self.errors.read_for(Duration::from_secs(1));
        let mut errors: Vec<usize> = self.errors.records.iter().map(seq_of).collect();
        let n_errors = errors.len();
        errors.sort_unstable();
        errors.dedup();
        let expected: Vec<usize> = (0..n_events).filter(|seq| is_error(*seq)).collect();
        assert_same(&errors, &expected, "records in the error topic");
        n_errors - errors.len()
    }
}

/// Compares long sorted lists without printing them whole.
pub fn assert_same(found: &[usize], expected: &[usize], what: &str) {
    let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
    let at = differs.unwrap_or(found.len().min(expected.len()));
    let around = |list: &[usize]| list[at.saturating_sub(2)..(at + 3).min(list.len())].to_vec();
    assert!(
        found == expected,
        "{} {what}, {} expected; at {at}: {:?} and {:?}",
        found.len(),
        expected.len(),
        around(found),
        around(expected)
    );
}

/// Writes a configuration into a folder and returns its path.
pub fn write_config(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).expect("written");
    path
}
