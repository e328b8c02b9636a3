//! `shipper tail` killed with batches under way, and what becomes of them: whatever happens to the
//! brokers, the topic, the journal or the configuration before it is started again.
//!
//! Built with `--features stack`; the head of `tests/run` lists the variables.

mod common;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use common::client::Cluster;
use log_shipper::tail::registry;
use support::stack::{
    OwnServer, PATIENCE, Writer, assert_same, env, script, seq_of, unique, write_config,
};
use support::{Record, Shipper, TopicReader, counter, wait_for};

const VERSIONS: [&str; 2] = ["4.1.1", "3.9.1"];

/// Forgets producers after two seconds.
const FORGETFUL: &str =
    "producer.id.expiration.ms=2000;producer.id.expiration.check.interval.ms=200";
/// What has an ACL is closed to others, the rest is open.
const GUARDED: &str = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer;\
                       allow.everyone.if.no.acl.found=true";

/// The brokers of one test.
struct Brokers {
    name: &'static str,
    nodes: Vec<String>,
    cluster: Cluster,
    _own: Option<OwnServer>,
}

impl Brokers {
    fn shared() -> [Brokers; 2] {
        let names = [("kafka", "SHIPPER_STACK_KAFKA"), ("kafka-old", "SHIPPER_STACK_KAFKA_OLD")];
        names.map(|(name, variable)| Brokers {
            name,
            nodes: vec!["1".into()],
            cluster: Cluster::new(&env(variable)),
            _own: None,
        })
    }

    fn own(version: &str, n_nodes: u32, extra: &str) -> Brokers {
        let port = env("SHIPPER_STACK_PORT").parse::<u32>().expect("a port");
        let settings = [
            ("KAFKA_VERSION", version),
            ("KAFKA_NODES", &n_nodes.to_string()),
            ("KAFKA_PORT", &port.to_string()),
            ("KAFKA_EXTRA", extra),
        ];
        let name = "kafka-resume";
        let own = OwnServer::up("kafka.sh", ("KAFKA_NAME", name), &settings);
        let address = |n| format!("127.0.0.1:{}", port + n);
        let addresses: Vec<String> = (0..n_nodes).map(address).collect();
        Brokers {
            name,
            nodes: (1..=n_nodes).map(|n| n.to_string()).collect(),
            cluster: Cluster::new(&addresses.join(",")),
            _own: Some(own),
        }
    }

    fn all(&self, command: &str) {
        self.nodes.iter().for_each(|node| self.one(command, node));
    }

    fn one(&self, command: &str, node: &str) {
        script("kafka.sh", &[("KAFKA_NAME", self.name)], &[command, node]);
    }

    /// Lets the brokers take what waits in their sockets.
    fn wake(&self) {
        self.all("resume");
        thread::sleep(Duration::from_secs(1));
    }

    fn leader_node(&self, topic: &str) -> String {
        let leader = self.cluster.leader(topic, 0);
        let mut addresses = self.cluster.bootstrap.split(',').zip(&self.nodes);
        addresses.find(|(address, _)| *address == leader).expect("one of them").1.clone()
    }

    /// Waits until the leader knows no producer any more.
    fn forget(&self, topic: &str) {
        let is_forgotten = || (self.cluster.producers(topic, 0) == Ok(vec![])).then_some(());
        wait_for(PATIENCE, "end of the producer", is_forgotten, String::new);
    }
}

/// A tail whose brokers are paused, and which was killed.
struct Crashed<'a> {
    brokers: &'a Brokers,
    folder: tempfile::TempDir,
    topic: String,
    writer: Option<Writer>,
    reader: TopicReader,
    n_events: usize,
}

/// What came of it.
struct Resumed {
    n_repeated: u64,
    /// The log from its second start on.
    log: String,
    /// The line of the log with the counters.
    counters: String,
}

const N_EVENTS: usize = 40_000;

impl Crashed<'_> {
    /// Runs a tail on a topic of one partition and kills it with batches under way.
    fn new<'a>(brokers: &'a Brokers, topic: &str) -> Crashed<'a> {
        let kafka = &brokers.cluster.bootstrap;
        let folder = tempfile::tempdir().expect("a folder");
        let logs = folder.path().join("logs");
        fs::create_dir(&logs).expect("made");
        let mut reader = TopicReader::new(kafka, topic, 1);
        let config = configure(folder.path(), kafka, topic, "");
        let tail = Shipper::start("tail", &config);
        let writer = Writer::start(&logs, N_EVENTS, 15_000, 10_000);
        writer.wait_for(10_000);
        reader.read(5000, PATIENCE);
        brokers.all("pause");
        // Many more than five batches' time.
        let n_written = writer.n_written();
        writer.wait_for(n_written + 5000);
        tail.kill();
        Crashed {
            brokers,
            folder,
            topic: topic.to_owned(),
            writer: Some(writer),
            reader,
            n_events: N_EVENTS,
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn config(&self, input: &str) -> PathBuf {
        configure(self.path(), &self.brokers.cluster.bootstrap, &self.topic, input)
    }

    /// Reads what the topic holds now, before it is deleted.
    fn read(&mut self) {
        self.reader.read_to_end(PATIENCE);
    }

    /// Starts the tail again, and waits until all is in the topic; asserts that nothing is lost or
    /// out of order.
    fn resume(self, config: &Path) -> Resumed {
        let tail = Shipper::start("tail", config);
        self.finish(tail)
    }

    fn finish(mut self, mut tail: Shipper) -> Resumed {
        self.writer.take().expect("joined once").join(false);
        let bytes = support::stack::bytes_in(&self.path().join("logs"));
        let reader = &mut self.reader;
        let read = || {
            reader.read_for(Duration::from_millis(200));
            (covered(&reader.records).0 >= bytes).then_some(())
        };
        wait_for(PATIENCE, "all events", read, || tail.log());
        tail.signal(rustix::process::Signal::TERM);
        assert!(tail.wait(PATIENCE).success(), "{}", tail.log());
        reader.read_for(Duration::from_millis(500));
        let log = tail.log();
        let (n_bytes, n_repeated) = covered(&reader.records);
        assert_eq!(n_bytes, bytes, "{log}");
        let counters = log.lines().rev().find(|line| line.contains("tail stopped"));
        let counters = counters.expect("the last line").to_owned();
        println!("{n_repeated} records repeated; {counters}");
        Resumed { n_repeated, log, counters }
    }

    /// As `resume`, with the configuration it had; asserts that each event came whole.
    fn resume_as_it_was(self) -> Resumed {
        let (config, n_events) = (self.config(""), self.n_events);
        let topic = self.topic.clone();
        let kafka = self.brokers.cluster.bootstrap.clone();
        let resumed = self.resume(&config);
        let mut reader = TopicReader::new(&kafka, &topic, 1);
        let records = reader.read_to_end(PATIENCE);
        let ours = records.iter().filter(|record| record.header("host") == "h1");
        let mut seqs: Vec<usize> = ours.map(seq_of).collect();
        if resumed.n_repeated > 0 {
            seqs.sort_unstable();
            seqs.dedup();
        }
        assert_same(&seqs, &(0..n_events).collect::<Vec<_>>(), "events in order");
        resumed
    }
}

impl Resumed {
    fn counter(&self, name: &str) -> u64 {
        counter(&self.counters, name)
    }

    /// Asserts that batches were under way, and that none of their records came twice.
    fn is_exact(&self) {
        let names = ["batches_found", "batches_resent", "batches_reread"];
        let n_batches: u64 = names.iter().map(|name| self.counter(name)).sum();
        assert!(n_batches > 0, "nothing was under way: {}", self.log);
        assert_eq!(self.n_repeated, 0, "{}", self.log);
        assert_eq!(self.counter("records_maybe_repeated"), 0, "{}", self.log);
    }

    fn was_read_back(&self) {
        assert!(self.log.contains("read back offsets"), "{}", self.log);
    }
}

fn configure(folder: &Path, kafka: &str, topic: &str, input: &str) -> PathBuf {
    let bootstrap = kafka.replace(',', "\", \"");
    let text = format!(
        "state_dir = {:?}\nhost = \"h1\"\n[kafka]\nbootstrap_servers = [\"{bootstrap}\"]\n\
         [[input]]\npaths = [{:?}]\ntopic = {topic:?}\n{input}\n\
         [tail]\nrotate_grace = \"1s\"\nsave_interval = \"200ms\"\n",
        folder.join("state"),
        folder.join("logs/server.log")
    );
    write_config(folder, "tail.toml", &text)
}

/// Returns how many bytes of files the records of this host cover, from their first byte on and
/// without a gap, and how many records cover what others do, too.
fn covered(records: &[Record]) -> (u64, u64) {
    let ours = records.iter().filter(|record| record.header("host") == "h1");
    let span = |record: &Record| {
        let (start, length) = (record.number("offset"), record.number("length"));
        (record.header("file_id"), start, start + length)
    };
    let mut spans: Vec<_> = ours.map(span).collect();
    spans.sort();
    let (mut n_bytes, mut n_repeated, mut at) = (0, 0, (String::new(), 0));
    for (file_id, start, end) in spans {
        let reached = if at.0 == file_id { at.1 } else { 0 };
        if start > reached {
            return (0, n_repeated); // A gap: not all is there, or never will be.
        }
        n_repeated += u64::from(start < reached);
        n_bytes += end.saturating_sub(reached);
        at = (file_id, reached.max(end));
    }
    (n_bytes, n_repeated)
}

fn make_topic(brokers: &Brokers) -> String {
    let topic = unique("resume");
    brokers.cluster.make_topic(&topic, 1, &[]);
    topic
}

#[test]
fn batches_under_way_when_the_process_is_killed_come_once() {
    for brokers in Brokers::shared() {
        for _ in 0..3 {
            let crashed = Crashed::new(&brokers, &make_topic(&brokers));
            brokers.all("resume"); // And what was sent arrives while the next process starts.
            crashed.resume_as_it_was().is_exact();
        }
    }
}

#[test]
fn they_come_once_if_the_broker_is_killed_before_the_restart() {
    for brokers in Brokers::shared() {
        let crashed = Crashed::new(&brokers, &make_topic(&brokers));
        brokers.wake();
        brokers.all("kill");
        brokers.all("start");
        crashed.resume_as_it_was().is_exact();
    }
}

#[test]
fn they_come_once_if_another_broker_leads_after_the_restart() {
    for version in VERSIONS {
        let brokers = Brokers::own(version, 3, "");
        let topic = make_topic(&brokers);
        let crashed = Crashed::new(&brokers, &topic);
        brokers.wake();
        brokers.one("kill", &brokers.leader_node(&topic));
        crashed.resume_as_it_was().is_exact();
    }
}

/// The leader has appended what it tells of, but nobody else has.
#[test]
fn they_come_once_if_the_leader_is_lost_with_what_it_had_told_of() {
    for version in VERSIONS {
        let brokers = Brokers::own(version, 3, "");
        let topic = make_topic(&brokers);
        let leader = brokers.leader_node(&topic);
        let crashed = Crashed::new(&brokers, &topic);
        brokers.one("resume", &leader);
        let config = crashed.config("");
        let tail = Shipper::start("tail", &config);
        // It asks, is told, and settles nothing of it, for nobody else has it.
        thread::sleep(Duration::from_secs(5));
        tail.kill();
        brokers.one("kill", &leader);
        for node in brokers.nodes.iter().filter(|node| **node != leader) {
            brokers.one("resume", node);
        }
        let resumed = crashed.resume_as_it_was();
        assert_eq!(resumed.n_repeated, 0, "{}", resumed.log);
    }
}

#[test]
fn they_come_once_if_the_producer_is_forgotten_and_others_write_to_the_partition() {
    for version in VERSIONS {
        let brokers = Brokers::own(version, 1, FORGETFUL);
        let topic = make_topic(&brokers);
        let other = tempfile::tempdir().expect("a folder");
        fs::create_dir(other.path().join("logs")).expect("made");
        let config = configure(other.path(), &brokers.cluster.bootstrap, &topic, "");
        let text = fs::read_to_string(&config).expect("read").replace("\"h1\"", "\"h2\"");
        fs::write(&config, text).expect("written");
        let other_tail = Shipper::start("tail", &config);
        let writer = Writer::start(&other.path().join("logs"), 30_000, 30_000, 10_000);

        let crashed = Crashed::new(&brokers, &topic);
        brokers.wake();
        writer.join(false);
        assert!(other_tail.stop(PATIENCE).0.success());
        brokers.forget(&topic);
        let resumed = crashed.resume_as_it_was();
        resumed.is_exact();
        resumed.was_read_back();
    }
}

#[test]
fn they_come_once_if_the_power_failed_and_took_the_end_of_the_journal() {
    for brokers in Brokers::shared() {
        let crashed = Crashed::new(&brokers, &make_topic(&brokers));
        brokers.wake();
        cut_journals(&crashed.path().join("state"));
        let resumed = crashed.resume_as_it_was();
        assert_eq!((resumed.n_repeated, resumed.counter("records_maybe_repeated")), (0, 0));
        resumed.was_read_back();
    }
}

/// Makes the journals those of another boot, and cuts the last quarter of their lines off.
fn cut_journals(state: &Path) {
    reboot(state, |lines| lines.len() - lines.len() / 4);
}

/// Makes the journals those of another boot, with so many of their lines.
fn reboot(state: &Path, n_kept: impl Fn(&[&str]) -> usize) {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("read");
    let journals = journal_files(state);
    assert_ne!(journals, [] as [PathBuf; 0]);
    for path in journals {
        let text = fs::read_to_string(&path).expect("read");
        let lines: Vec<&str> = text.lines().collect();
        let mut cut = String::new();
        for line in &lines[..n_kept(&lines)] {
            let (_, json) = line.split_once(' ').expect("a checksum and what it is of");
            let json = json.replace(boot_id.trim(), "another");
            cut += &format!("{:08x} {json}\n", crc32c::crc32c(json.as_bytes()));
        }
        assert!(cut.contains("\"another\""), "{text}");
        fs::write(&path, cut).expect("written");
    }
}

#[test]
fn they_come_once_if_the_configuration_now_cuts_events_differently() {
    for brokers in Brokers::shared() {
        let crashed = Crashed::new(&brokers, &make_topic(&brokers));
        brokers.wake();
        let config = crashed.config("multiline = { profile = \"none\" }");
        let resumed = crashed.resume(&config);
        resumed.is_exact();
        resumed.was_read_back();
    }
}

#[test]
fn they_come_once_if_retention_took_them_and_the_producer_is_known() {
    for brokers in Brokers::shared() {
        let topic = make_topic(&brokers);
        let mut crashed = Crashed::new(&brokers, &topic);
        brokers.wake();
        crashed.read();
        brokers.cluster.delete_records(&topic, 0, -1);
        let config = crashed.config("");
        crashed.resume(&config).is_exact();
    }
}

#[test]
fn what_may_be_repeated_is_counted_if_retention_took_it_and_the_producer_is_forgotten() {
    for version in VERSIONS {
        let brokers = Brokers::own(version, 1, FORGETFUL);
        let topic = make_topic(&brokers);
        let mut crashed = Crashed::new(&brokers, &topic);
        brokers.wake();
        brokers.forget(&topic);
        crashed.read();
        brokers.cluster.delete_records(&topic, 0, -1);
        let config = crashed.config("");
        let resumed = crashed.resume(&config);
        assert!(resumed.n_repeated <= resumed.counter("records_maybe_repeated"), "{}", resumed.log);
    }
}

const TOPIC: i8 = 2;
const WRITE: i8 = 4;
const DESCRIBE: i8 = 8;
const READ: i8 = 3;

/// What has become of a batch before the tail is started again.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Arrived,
    Lost,
    /// It has arrived, and the journal does not tell of it.
    Forgotten,
}

/// A topic of one partition, and what a tail needs to ship to it.
struct Site {
    logs: PathBuf,
    state: PathBuf,
    config: PathBuf,
    reader: TopicReader,
    _folder: tempfile::TempDir,
}

impl Site {
    fn new(brokers: &Brokers, input: &str) -> Site {
        let topic = make_topic(brokers);
        let folder = tempfile::tempdir().expect("a folder");
        let (logs, state) = (folder.path().join("logs"), folder.path().join("state"));
        fs::create_dir(&logs).expect("made");
        let kafka = &brokers.cluster.bootstrap;
        let config = configure(folder.path(), kafka, &topic, input);
        let reader = TopicReader::new(kafka, &topic, 1);
        Site { logs, state, config, reader, _folder: folder }
    }
}

/// Each line is an event.
const LINES: &str = "multiline = { profile = \"none\" }";

fn lines(name: &str, range: std::ops::Range<usize>) -> String {
    range.map(|n| format!("{name} {n:06}\n")).collect()
}

fn change(config: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(config).expect("there");
    assert!(text.contains(from), "{text}");
    fs::write(config, text.replace(from, to)).expect("written");
}

/// Torture: 39, 42.
#[test]
fn an_event_that_a_rotation_cut_in_two_comes_whole_and_once() {
    let parts = [
        "2026-01-31 13:00:00 INFO before\n2026-01-31 13:00:01 ERROR no\n\tat a.b(C.java:1)\n",
        "\tat d.e(F.java:2)\n2026-01-31 13:00:02 INFO behind\n",
    ];
    let trace = "2026-01-31 13:00:01 ERROR no\n\tat a.b(C.java:1)\n\tat d.e(F.java:2)";
    let events = ["2026-01-31 13:00:00 INFO before", trace, "2026-01-31 13:00:02 INFO behind"];
    for (brokers, fate) in Brokers::shared().iter().flat_map(|brokers| {
        [Fate::Arrived, Fate::Lost, Fate::Forgotten].map(|fate| (brokers, fate))
    }) {
        let Site { logs, state, config, mut reader, _folder } =
            Site::new(brokers, "event_timeout = \"3s\"");
        let log = logs.join("server.log");
        fs::write(&log, parts[0]).expect("written");
        let tail = Shipper::start("tail", &config);
        reader.read(1, PATIENCE);
        brokers.all("pause");
        fs::rename(&log, log.with_extension("log.1")).expect("renamed");
        fs::write(&log, parts[1]).expect("written");
        let is_sent = || journals(&state).contains("rest_of").then_some(());
        wait_for(PATIENCE, "sent batch with both parts", is_sent, || tail.log());
        tail.kill();
        match fate {
            Fate::Arrived => brokers.wake(),
            Fate::Lost => {
                brokers.all("kill");
                brokers.all("start");
            }
            Fate::Forgotten => {
                brokers.wake();
                cut_journals(&state);
            }
        }

        let mut tail = Shipper::start("tail", &config);
        reader.read(3, PATIENCE);
        let is_settled = || {
            let snapshot = registry::read(&state, "h1").ok()?.0?;
            let offsets: u64 = snapshot.entries.iter().map(|entry| entry.offset).sum();
            (offsets == parts.concat().len() as u64).then_some(())
        };
        wait_for(PATIENCE, "all of it settled", is_settled, || tail.log());
        tail.signal(rustix::process::Signal::TERM);
        assert!(tail.wait(PATIENCE).success(), "{}", tail.log());
        let records = reader.read_to_end(PATIENCE);
        let values: Vec<String> = records.iter().map(Record::text).collect();
        assert_eq!(values, events, "{fate:?}: {}", tail.log());
        assert_eq!(records[1].number("rest_length"), records[2].number("offset"));
        assert_eq!(records[1].header("rest_file_id"), records[2].header("file_id"));
    }
}

/// The log's file system has lost the end of what was shipped, and its writer goes on there.
#[test]
fn what_takes_the_place_of_lines_that_a_power_cut_took_back_is_shipped() {
    for brokers in Brokers::shared() {
        let Site { logs, state, config, mut reader, _folder } = Site::new(&brokers, LINES);
        let log = logs.join("server.log");
        change(&config, "200ms", "10m");
        fs::write(&log, lines("event", 0..2000)).expect("written");
        let tail = Shipper::start("tail", &config);
        reader.read(2000, PATIENCE);
        let end = format!("\"end\":{}", lines("event", 0..2000).len());
        let is_settled = || {
            let journals = journals(&state);
            let n = |what: &str| journals.matches(what).count();
            (journals.contains(&end) && n("{\"sent\"") == n("{\"settled\"")).then_some(())
        };
        wait_for(PATIENCE, "settled batches", is_settled, || tail.log());
        tail.kill();
        reboot(&state, |lines| lines.len());
        let file = fs::OpenOptions::new().write(true).open(&log).expect("there");
        file.set_len(lines("event", 0..1500).len() as u64).expect("cut");
        append(&log, &lines("other", 0..800));

        let mut tail = Shipper::start("tail", &config);
        reader.read(2800, PATIENCE);
        tail.signal(rustix::process::Signal::TERM);
        assert!(tail.wait(PATIENCE).success(), "{}", tail.log());
        let records = reader.read_to_end(PATIENCE);
        let values: String = records.iter().map(|record| record.text() + "\n").collect();
        let expected = lines("event", 0..2000) + &lines("other", 0..800);
        assert!(values == expected, "{} records: {}", records.len(), tail.log());
        // Of one file and one offset there is one record.
        assert_ne!(records[0].header("file_id"), records[2000].header("file_id"));
        assert_eq!(records[1500].number("offset"), records[2000].number("offset"));
    }
}

/// A log that was saved as settled up to its end is shorter than that, and its writer goes on before
/// or after the tail has found it so.
#[test]
fn a_log_that_a_power_cut_made_shorter_goes_on_where_it_ends_now() {
    let cases = [
        (1500, true, false, true),
        (1500, false, false, true),
        (0, true, false, true),
        (0, false, false, true),
        (1500, false, true, true),
        (0, true, true, true),
        (1500, true, false, false),
        (1500, false, true, false),
    ];
    for (brokers, (n_kept, is_late, is_mounted_late, is_killed)) in
        Brokers::shared().iter().flat_map(|brokers| cases.map(|case| (brokers, case)))
    {
        let Site { logs, state, config, mut reader, _folder } = Site::new(brokers, LINES);
        let log = logs.join("server.log");
        let len = lines("event", 0..2000).len() as u64;
        fs::write(&log, lines("event", 0..1000)).expect("written");
        let mut tail = Shipper::start("tail", &config);
        reader.read(1000, PATIENCE);
        append(&log, &lines("event", 1000..2000));
        let is_saved = || {
            let entries = registry::read(&state, "h1").ok()?.0?.entries;
            entries.iter().any(|e| e.offset == len && e.guard_end.is_none()).then_some(())
        };
        wait_for(PATIENCE, "saved offset", is_saved, || tail.log());
        if is_killed {
            tail.kill();
        } else {
            tail.signal(rustix::process::Signal::TERM);
            assert!(tail.wait(PATIENCE).success(), "{}", tail.log());
        }
        reboot(&state, |lines| lines.len());
        let file = fs::OpenOptions::new().write(true).open(&log).expect("there");
        file.set_len(lines("event", 0..n_kept).len() as u64).expect("cut");
        let other = lines("other", 0..3000);
        if !is_late {
            append(&log, &other);
        }
        let elsewhere = logs.with_extension("elsewhere");
        if is_mounted_late {
            fs::rename(&logs, &elsewhere).expect("away");
        }
        let mut tail = Shipper::start("tail", &config);
        if is_mounted_late {
            let is_ready = if is_killed { "read back offsets" } else { "no file yet" };
            tail.wait_for_log(is_ready, PATIENCE);
            fs::rename(&elsewhere, &logs).expect("back");
        }
        tail.wait_for_log("took its end", PATIENCE);
        if is_late {
            tail.wait_for_log("what follows is shipped under another file_id", PATIENCE);
            append(&log, &other);
        }
        reader.read(5000, PATIENCE);
        tail.signal(rustix::process::Signal::TERM);
        assert!(tail.wait(PATIENCE).success(), "{}", tail.log());
        let records = reader.read_to_end(PATIENCE);
        let values: String = records.iter().map(|record| record.text() + "\n").collect();
        let expected = lines("event", 0..2000) + &other;
        assert!(values == expected, "{} records: {}", records.len(), tail.log());
        // Of one file and one offset there is one record.
        assert_ne!(records[0].header("file_id"), records[2000].header("file_id"));
        assert_eq!(records[n_kept].number("offset"), records[2000].number("offset"));
    }
}

#[test]
fn a_kill_while_a_log_is_compared_with_the_topic_after_a_power_cut_repeats_nothing() {
    // So that they are many times what is read at once.
    let long = |name: &str, range| lines(name, range).replace(name, &format!("{name:x<100}"));
    for brokers in Brokers::shared() {
        let Site { logs, state, config, mut reader, _folder } = Site::new(&brokers, LINES);
        let log = logs.join("server.log");
        let all = long("event", 0..20_000);
        let saved = || {
            let entries = registry::read(&state, "h1").ok()?.0?.entries;
            entries.first().map(|entry| entry.offset)
        };
        fs::write(&log, &all).expect("written");
        let tail = Shipper::start("tail", &config);
        reader.read(20_000, PATIENCE);
        let is_whole = || saved().filter(|offset| *offset == all.len() as u64);
        wait_for(PATIENCE, "saved offset", is_whole, || tail.log());
        tail.kill();
        reboot(&state, |lines| lines.len());
        let kept = long("event", 0..15_000);
        let file = fs::OpenOptions::new().write(true).open(&log).expect("there");
        file.set_len(kept.len() as u64).expect("cut");
        let other = long("other", 0..20_000);
        append(&log, &other);

        change(&config, "[tail]", "[tail]\nbytes_per_second_max = \"256KiB\"");
        let tail = Shipper::start("tail", &config);
        tail.wait_for_log("took its end", PATIENCE);
        let is_amid = || saved().filter(|offset| (1..kept.len() as u64).contains(offset));
        wait_for(PATIENCE, "offset amid what is compared", is_amid, || tail.log());
        tail.kill();
        change(&config, "bytes_per_second_max = \"256KiB\"", "");
        let mut tail = Shipper::start("tail", &config);
        reader.read(40_000, PATIENCE);
        // Once all is compared, there is no doubt any more.
        let is_over = || {
            let journals = journals(&state);
            let (_, newest) = journals.rsplit_once("\"boot_id\":\"")?;
            (!newest.starts_with("in doubt")).then_some(())
        };
        wait_for(PATIENCE, "end of doubt", is_over, || journals(&state));
        tail.signal(rustix::process::Signal::TERM);
        assert!(tail.wait(PATIENCE).success(), "{}", tail.log());
        let records = reader.read_to_end(PATIENCE);
        let values: String = records.iter().map(|record| record.text() + "\n").collect();
        assert!(values == all + &other, "{} records: {}", records.len(), tail.log());
    }
}

#[test]
fn what_a_power_cut_left_in_doubt_is_known_also_of_a_log_that_is_mounted_late() {
    // A journal without its head was made right before.
    for (brokers, has_head) in
        Brokers::shared().iter().flat_map(|brokers| [true, false].map(|head| (brokers, head)))
    {
        let Site { logs, state, config, mut reader, _folder } = Site::new(brokers, LINES);
        let log = logs.join("server.log");
        fs::write(&log, lines("event", 0..1000)).expect("written");
        let tail = Shipper::start("tail", &config);
        reader.read(1000, PATIENCE);
        let saved = || {
            let entries = registry::read(&state, "h1").ok()?.0?.entries;
            entries.first().map(|entry| entry.offset)
        };
        let len = lines("event", 0..1000).len() as u64;
        wait_for(PATIENCE, "offset", || saved().filter(|at| *at == len), || tail.log());
        tail.kill();
        change(&config, "200ms", "10m");
        let tail = Shipper::start("tail", &config);
        append(&log, &lines("event", 1000..2000));
        reader.read(1000, PATIENCE);
        tail.kill();
        // What was settled since the last save is lost.
        reboot(&state, |lines| {
            let last = lines.iter().position(|line| line.contains("\"carried\""));
            last.expect("a head") + usize::from(has_head)
        });
        assert_eq!(saved(), Some(len));

        let elsewhere = logs.with_extension("elsewhere");
        fs::rename(&logs, &elsewhere).expect("away");
        let journal_before = journal_files(&state).pop();
        let tail = Shipper::start("tail", &config);
        tail.wait_for_log("read back offsets", PATIENCE);
        let is_saved = || (journal_files(&state).pop() > journal_before).then_some(());
        wait_for(PATIENCE, "a save", is_saved, || tail.log());
        tail.kill();
        fs::rename(&elsewhere, &logs).expect("back");
        append(&log, &lines("event", 2000..3000));

        let mut tail = Shipper::start("tail", &config);
        reader.read(1000, PATIENCE);
        tail.signal(rustix::process::Signal::TERM);
        assert!(tail.wait(PATIENCE).success(), "{}", tail.log());
        let records = reader.read_to_end(PATIENCE);
        let values: String = records.iter().map(|record| record.text() + "\n").collect();
        assert!(values == lines("event", 0..3000), "{} records: {}", records.len(), tail.log());
    }
}

/// What goes to a partition before the batches that are sent again would take their place.
#[test]
fn a_log_of_which_nothing_was_under_way_waits_for_the_others_of_its_partition() {
    for brokers in Brokers::shared() {
        let Site { logs, state, config, mut reader, _folder } = Site::new(&brokers, LINES);
        change(&config, "server.log", "*.log");
        fs::write(logs.join("server.log"), lines("event", 0..1000)).expect("written");
        let tail = Shipper::start("tail", &config);
        reader.read(1000, PATIENCE);
        brokers.all("pause");
        append(&logs.join("server.log"), &lines("event", 1000..2000));
        let end = format!("\"end\":{}", lines("event", 0..2000).len());
        let is_sent = || journals(&state).contains(&end).then_some(());
        wait_for(PATIENCE, "sent batches", is_sent, || tail.log());
        tail.kill();
        fs::write(logs.join("other.log"), lines("other", 0..2000)).expect("written");
        let mut tail = Shipper::start("tail", &config);
        tail.wait_for_log("batches were under way", PATIENCE);
        brokers.all("resume");
        reader.read(4000, PATIENCE);
        tail.signal(rustix::process::Signal::TERM);
        assert!(tail.wait(PATIENCE).success(), "{}", tail.log());
        let records = reader.read_to_end(PATIENCE);
        for (name, last) in [("event", 2000), ("other", 2000)] {
            let ours = records.iter().map(|record| record.text() + "\n");
            let ours: String = ours.filter(|text| text.starts_with(name)).collect();
            assert!(ours == lines(name, 0..last), "{} records: {}", records.len(), tail.log());
        }
    }
}

/// The tail finds a file that holds, at the offset it was settled at, bytes of another one.
#[test]
fn what_is_copied_and_truncated_while_a_crash_is_resolved_comes_once() {
    let lines = |range| lines("event", range);
    for brokers in Brokers::shared() {
        let Site { logs, state, config, mut reader, _folder } = Site::new(&brokers, LINES);
        let log = logs.join("server.log");
        fs::write(&log, lines(0..1000)).expect("written");
        let tail = Shipper::start("tail", &config);
        reader.read(1000, PATIENCE);
        brokers.all("pause");
        append(&log, &lines(1000..2000));
        let end = format!("\"end\":{}", lines(0..2000).len());
        let is_sent = || journals(&state).contains(&end).then_some(());
        wait_for(PATIENCE, "sent batches", is_sent, || tail.log());
        tail.kill();

        let mut tail = Shipper::start("tail", &config);
        tail.wait_for_log("batches were under way", PATIENCE);
        fs::copy(&log, log.with_extension("log.1")).expect("copied");
        fs::write(&log, lines(2000..5000)).expect("truncated and written");
        brokers.wake();
        reader.read(5000, PATIENCE);
        tail.signal(rustix::process::Signal::TERM);
        assert!(tail.wait(PATIENCE).success(), "{}", tail.log());
        let records = reader.read_to_end(PATIENCE);
        let values: String = records.iter().map(|record| record.text() + "\n").collect();
        assert!(values == lines(0..5000), "{} records: {}", records.len(), tail.log());
    }
}

fn append(path: &Path, text: &str) {
    use std::io::Write as _;
    let file = fs::OpenOptions::new().append(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("written");
}

fn journals(state: &Path) -> String {
    let journals = journal_files(state);
    journals.iter().map(|path| fs::read_to_string(path).expect("read")).collect()
}

/// The journals of a state directory, oldest first.
fn journal_files(state: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(state).expect("a folder").flatten().map(|file| file.path());
    let is_journal = |path: &PathBuf| path.to_string_lossy().contains("/journal.");
    let mut journals: Vec<PathBuf> = files.filter(is_journal).collect();
    journals.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    journals
}

/// Lets the tail write, and later the test read.
fn guard(brokers: &Brokers, topic: &str) {
    for operation in [WRITE, DESCRIBE] {
        brokers.cluster.allow((TOPIC, topic), "User:ANONYMOUS", operation);
    }
}

#[test]
fn they_come_once_if_read_is_denied_and_the_producer_is_known() {
    for version in VERSIONS {
        let brokers = Brokers::own(version, 1, GUARDED);
        let resumed = resume_without_read(&brokers, Duration::ZERO);
        assert_eq!(resumed.n_repeated, 0);
        // Nobody tells that it was known.
        assert!(resumed.counter("records_maybe_repeated") > 0, "{}", resumed.log);
    }
}

#[test]
fn what_may_be_repeated_is_counted_if_read_is_denied_and_the_producer_is_forgotten() {
    for version in VERSIONS {
        let brokers = Brokers::own(version, 1, &format!("{GUARDED};{FORGETFUL}"));
        let resumed = resume_without_read(&brokers, Duration::from_secs(5));
        assert!(resumed.n_repeated <= resumed.counter("records_maybe_repeated"), "{}", resumed.log);
    }
}

fn resume_without_read(brokers: &Brokers, wait: Duration) -> Resumed {
    let topic = make_topic(brokers);
    let crashed = Crashed::new(brokers, &topic);
    brokers.wake();
    guard(brokers, &topic);
    thread::sleep(wait);
    let config = crashed.config("");
    let tail = Shipper::start("tail", &config);
    tail.wait_for_log("Read on the topic is not granted", PATIENCE);
    // Only now may the test read, and with it the tail, which has decided.
    brokers.cluster.allow((TOPIC, &topic), "User:ANONYMOUS", READ);
    crashed.finish(tail)
}
