//! A folder of logs, a topic of a mock cluster, and `shipper tail` between them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use log_shipper::tail::registry;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use tempfile::TempDir;

use super::{Record, Shipper, TopicReader, wait_for};

/// Longest wait for anything; far more than anything takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The host of every scene.
pub const HOST: &str = "h1";

/// The topic of every scene.
pub const TOPIC: &str = "logs";

/// A folder in which a writer and a rotation do what they do.
pub struct LogDir(TempDir);

impl LogDir {
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Opens a file as a writer does that keeps it open.
    pub fn open(&self, name: &str) -> File {
        let mut options = OpenOptions::new();
        options.append(true).create(true).open(self.path(name)).expect("opened")
    }

    pub fn append(&self, name: &str, bytes: impl AsRef<[u8]>) {
        self.open(name).write_all(bytes.as_ref()).expect("written");
    }

    pub fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).expect("renamed");
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).expect("removed");
    }

    pub fn truncate(&self, name: &str) {
        self.open(name).set_len(0).expect("truncated");
    }

    /// Copies a file and empties it, as logrotate's `copytruncate` does.
    pub fn copytruncate(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).expect("copied");
        self.truncate(from);
    }

    /// Sets the time of the last write to so many seconds ago.
    pub fn age(&self, name: &str, seconds: u64) {
        self.set_modified(name, SystemTime::now() - Duration::from_secs(seconds));
    }

    pub fn set_modified(&self, name: &str, time: SystemTime) {
        self.open(name).set_modified(time).expect("aged");
    }
}

/// Where a test plays.
pub struct Scene {
    pub logs: LogDir,
    pub state: TempDir,
    pub cluster: MockCluster<'static, DefaultProducerContext>,
    settings: BTreeMap<(&'static str, &'static str), String>,
    reader: TopicReader,
}

impl Scene {
    /// `pattern` is the glob of the file names to ship; each line is an event, and nothing is
    /// waited for long.
    pub fn new(pattern: &str) -> Scene {
        Scene::with_partitions(pattern, 1)
    }

    pub fn with_partitions(pattern: &str, n_partitions: i32) -> Scene {
        Scene::with_brokers(pattern, 1, n_partitions)
    }

    pub fn with_brokers(pattern: &str, n_brokers: i32, n_partitions: i32) -> Scene {
        let cluster = MockCluster::new(n_brokers).expect("a cluster");
        cluster.create_topic(TOPIC, n_partitions, 1).expect("a topic");
        let reader = TopicReader::new(&cluster.bootstrap_servers(), TOPIC, n_partitions);
        let logs = LogDir(tempfile::tempdir().expect("a folder"));
        let state = tempfile::tempdir().expect("a folder");
        let mut scene = Scene { logs, state, cluster, settings: BTreeMap::new(), reader };
        let state_dir = format!("{:?}", scene.state_dir());
        let bootstrap_servers = scene.cluster.bootstrap_servers();
        let bootstrap_servers = format!("{:?}", bootstrap_servers.split(',').collect::<Vec<_>>());
        let paths = format!("[{:?}]", scene.logs.path(pattern));
        for (table, key, value) in [
            ("", "state_dir", state_dir.as_str()),
            ("", "host", "\"h1\""),
            ("[kafka]", "bootstrap_servers", &bootstrap_servers),
            ("[kafka]", "retry_backoff", "\"10ms\""),
            ("[kafka]", "retry_backoff_max", "\"100ms\""),
            ("[[input]]", "paths", &paths),
            ("[[input]]", "topic", "\"logs\""),
            ("[[input]]", "multiline", "{ profile = \"none\" }"),
            ("[[input]]", "event_timeout", "\"50ms\""),
            ("[tail]", "scan_interval", "\"50ms\""),
            ("[tail]", "rotate_grace", "\"200ms\""),
            ("[tail]", "save_interval", "\"50ms\""),
        ] {
            scene.set(table, key, value);
        }
        scene
    }

    /// Sets a key of a table such as `[tail]`; `value` is TOML.
    pub fn set(&mut self, table: &'static str, key: &'static str, value: &str) {
        self.settings.insert((table, key), value.into());
    }

    pub fn state_dir(&self) -> PathBuf {
        self.state.path().join("state")
    }

    /// Writes the configuration and returns its path.
    pub fn config(&self) -> PathBuf {
        let mut text = String::new();
        let mut current = "";
        for ((table, key), value) in &self.settings {
            if *table != current {
                current = table;
                text.push_str(&format!("{table}\n"));
            }
            text.push_str(&format!("{key} = {value}\n"));
        }
        let path = self.state.path().join("shipper.toml");
        fs::write(&path, text).expect("written");
        path
    }

    pub fn start(&self) -> Shipper {
        Shipper::start("tail", &self.config())
    }

    /// Reads the topic over other connections from now on, for those there are may be slow.
    pub fn read_anew(&mut self) {
        self.reader = TopicReader::new(&self.cluster.bootstrap_servers(), TOPIC, 1);
    }

    /// Waits until the topic holds `n` records, and returns all that have been read.
    pub fn wait_for_records(&mut self, n: usize, shipper: &Shipper) -> &[Record] {
        let reader = &mut self.reader;
        let look = || {
            reader.read_for(Duration::from_millis(5));
            (reader.records.len() >= n).then_some(())
        };
        wait_for(LIMIT, &format!("{n} records"), look, || shipper.log());
        &self.reader.records
    }

    /// Stops a shipper, which must succeed, and returns its counters.
    pub fn stop(&self, shipper: Shipper) -> String {
        // Before its first line a signal finds no handler.
        shipper.wait_for_log("config:", LIMIT);
        let (status, log) = shipper.stop(LIMIT);
        assert!(status.success(), "{status}: {log}");
        let counters = log.lines().find(|line| line.contains("tail stopped:"));
        counters.unwrap_or_else(|| panic!("no counters: {log}")).into()
    }

    /// Everything that stands in the topic now.
    pub fn records(&mut self) -> &[Record] {
        self.reader.read_to_end(LIMIT)
    }

    /// The values of everything that stands in the topic now.
    pub fn values(&mut self) -> Vec<String> {
        self.records().iter().map(Record::text).collect()
    }

    /// The lives of files that stand in the topic now, in order of appearance.
    pub fn file_ids(&mut self) -> Vec<String> {
        let mut file_ids: Vec<String> = Vec::new();
        for record in self.records() {
            let file_id = record.header("file_id");
            if !file_ids.contains(&file_id) {
                file_ids.push(file_id);
            }
        }
        file_ids
    }

    /// Waits for `n` records, stops the shipper and returns all values.
    pub fn values_after(&mut self, n: usize, shipper: Shipper) -> Vec<String> {
        self.wait_for_records(n, &shipper);
        self.stop(shipper);
        self.values()
    }

    /// Waits until the registry that is saved, or its journal, says this of a file.
    pub fn wait_for_entry(&self, name: &str, says: &str) {
        let name = format!("\"name\":{:?}", self.logs.path(name));
        let read = || {
            let snapshot = registry::read(&self.state_dir(), HOST).ok().and_then(|read| read.0);
            let entries = snapshot.map(|snapshot| snapshot.entries).unwrap_or_default();
            let line = |entry| serde_json::to_string(entry).expect("JSON") + "\n";
            entries.iter().map(line).collect::<String>()
        };
        let look = || read().lines().any(|l| l.contains(&name) && l.contains(says)).then_some(());
        wait_for(LIMIT, &format!("{says} of {name}"), look, read);
    }
}

/// Fails unless the records of each life of a file cover it from byte 0 on, in order, without a
/// gap; returns how many bytes of each life, in order of appearance.
pub fn covered(records: &[Record]) -> Vec<u64> {
    let mut lives: Vec<(String, u64)> = Vec::new();
    for record in records {
        let file_id = record.header("file_id");
        let at = lives.iter().position(|(id, _)| *id == file_id).unwrap_or_else(|| {
            lives.push((file_id.clone(), 0));
            lives.len() - 1
        });
        let end = &mut lives[at].1;
        assert_eq!(record.number("offset"), *end, "{file_id}: {record:?}");
        *end += record.number("length");
    }
    lives.into_iter().map(|(_, end)| end).collect()
}

/// `numbered(3..5)` is `["line 3", "line 4"]`.
pub fn numbered(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|n| format!("line {n}")).collect()
}

/// The same as the bytes of a file.
pub fn lines(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|n| format!("line {n}\n")).collect()
}

/// Makes a FIFO that nobody writes to.
pub fn make_fifo(path: &Path) {
    rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RUSR).expect("made");
}
