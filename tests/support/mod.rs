//! Shared by the tests that drive the real binary: processes, topics, waits.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod certificates;
pub mod faults;
#[cfg(feature = "stack")]
pub mod network;
#[cfg(feature = "stack")]
pub mod stack;
pub mod tail;

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

/// Polls until `look` gives something; panics with what `describe` says after `limit`.
pub fn wait_for<T>(
    limit: Duration,
    what: &str,
    mut look: impl FnMut() -> Option<T>,
    describe: impl FnOnce() -> String,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        if Instant::now() > deadline {
            panic!("no {what} within {limit:?}: {}", describe());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The binary under test: `SHIPPER_BIN`, or the one that cargo built for this test.
pub fn shipper_binary() -> PathBuf {
    std::env::var_os("SHIPPER_BIN").map_or(env!("CARGO_BIN_EXE_shipper").into(), PathBuf::from)
}

/// Held while a process is started, and while the port of a mock broker must be free for a moment:
/// a process that is not yet another program has a copy of every socket.
static STARTING: Mutex<()> = Mutex::new(());

/// Starts a process: in no other way where brokers are taken away.
pub fn start(command: &mut Command) -> io::Result<Child> {
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// Runs a process to its end.
pub fn run(command: &mut Command) -> io::Result<Output> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    start(command)?.wait_with_output()
}

/// Takes a mock broker away: it listens anew at once, and is not to be reached.
pub fn broker_down(cluster: &MockCluster<'_, impl ClientContext>, id: i32) {
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    cluster.broker_down(id).expect("down");
}

/// A running `shipper`; killed when dropped.
pub struct Shipper {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Shipper {
    /// Starts `shipper WALK -c CONFIG`.
    pub fn start(walk: &str, config: &Path) -> Shipper {
        Shipper::spawn(Command::new(shipper_binary()).arg(walk).arg("-c").arg(config))
    }

    /// Starts a command that is, or becomes, a `shipper`.
    pub fn spawn(command: &mut Command) -> Shipper {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = start(command).expect("the binary starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let sink = Arc::clone(&log);
        let reader = thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                sink.lock().expect("not poisoned").push(line);
            }
        });
        Shipper { child, log, reader: Some(reader) }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard error so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("not poisoned").join("\n")
    }

    /// Waits until its log holds `text`.
    pub fn wait_for_log(&self, text: &str, limit: Duration) -> String {
        let find = || {
            let log = self.log.lock().expect("not poisoned");
            log.iter().find(|line| line.contains(text)).cloned()
        };
        wait_for(limit, &format!("{text:?} in the log"), find, || self.log())
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("signalled");
    }

    /// `kill -9`; returns how the process ended.
    pub fn kill(mut self) -> ExitStatus {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited for")
    }

    /// SIGTERM, and waits; returns the status and the log.
    pub fn stop(mut self, limit: Duration) -> (ExitStatus, String) {
        self.signal(rustix::process::Signal::TERM);
        let status = self.wait(limit);
        (status, self.log())
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("waited for").is_some()
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let log = Arc::clone(&self.log);
        let child = &mut self.child;
        let status = wait_for(
            limit,
            "end of the process",
            || child.try_wait().expect("waited for"),
            || log.lock().expect("not poisoned").join("\n"),
        );
        if let Some(reader) = self.reader.take() {
            // The last lines may still be on their way through the pipe.
            reader.join().expect("the reader does not panic");
        }
        status
    }

    /// Highest resident memory so far, in bytes.
    pub fn peak_rss(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// A field of its status such as `RssAnon:`, in bytes.
    pub fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("running");
        let line = status.lines().find(|line| line.starts_with(field)).expect(field);
        let kib = line.split_whitespace().nth(1).expect("a number");
        kib.parse::<u64>().expect("a number") * 1024
    }
}

impl Drop for Shipper {
    fn drop(&mut self) {
        // Ended already, or to be ended now: nothing is left to do about a failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the value of a counter in a line such as `tail stopped: a=1 b=2`.
pub fn counter(line: &str, name: &str) -> u64 {
    let start = format!("{name}=");
    let word = line.split_whitespace().find_map(|word| word.strip_prefix(&start));
    word.unwrap_or_else(|| panic!("no {name} in {line}")).parse().expect("a number")
}

/// A record as another client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Record {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.value).into()
    }

    pub fn header(&self, name: &str) -> String {
        let found = self.headers.iter().find(|(header, _)| header == name);
        let (_, value) = found.unwrap_or_else(|| panic!("no header {name}: {:?}", self.headers));
        String::from_utf8_lossy(value).into()
    }

    pub fn number(&self, name: &str) -> u64 {
        self.header(name).parse().expect("a number")
    }
}

/// Reads a topic from its beginning with librdkafka.
pub struct TopicReader {
    consumer: BaseConsumer,
    topic: String,
    n_partitions: i32,
    pub records: Vec<Record>,
}

impl TopicReader {
    /// Begins at the first offset of each partition.
    pub fn new(bootstrap_servers: &str, topic: &str, n_partitions: i32) -> TopicReader {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap_servers)
            .set("group.id", "test-reader")
            .set("enable.auto.commit", "false")
            .set("reconnect.backoff.max.ms", "200")
            // A process of another test may have been started with a copy of the mock broker's end
            // of the connection, which then outlives the broker that closed it.
            .set("socket.timeout.ms", "3000")
            // The mock cluster answers a fetch only when this is over.
            .set("fetch.wait.max.ms", "10")
            .set("isolation.level", "read_committed")
            .create()
            .expect("a consumer");
        let mut list = TopicPartitionList::new();
        for partition in 0..n_partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning).expect("added");
        }
        consumer.assign(&list).expect("assigned");
        TopicReader { consumer, topic: topic.into(), n_partitions, records: Vec::new() }
    }

    /// Takes what comes within `time`.
    pub fn read_for(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            if let Some(Ok(message)) = self.consumer.poll(left) {
                let headers = message.headers().map(|headers| {
                    let pair = |header: rdkafka::message::Header<&[u8]>| {
                        (header.key.to_owned(), header.value.unwrap_or_default().to_vec())
                    };
                    headers.iter().map(pair).collect()
                });
                self.records.push(Record {
                    partition: message.partition(),
                    offset: message.offset(),
                    timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
                    key: message.key().unwrap_or_default().to_vec(),
                    value: message.payload().unwrap_or_default().to_vec(),
                    headers: headers.unwrap_or_default(),
                });
            }
        }
    }

    /// Reads until there are `n` records, and then a moment longer for any that should not come.
    pub fn read(&mut self, n: usize, limit: Duration) -> &[Record] {
        let deadline = Instant::now() + limit;
        while self.records.len() < n && Instant::now() < deadline {
            self.read_for(Duration::from_millis(100));
        }
        assert!(self.records.len() >= n, "{} of {n} records after {limit:?}", self.records.len());
        self.read_for(Duration::from_millis(300));
        &self.records
    }

    /// Reads what the topic holds now to its end.
    pub fn read_to_end(&mut self, limit: Duration) -> &[Record] {
        let deadline = Instant::now() + limit;
        for partition in 0..self.n_partitions {
            let watermarks = self.consumer.fetch_watermarks(&self.topic, partition, limit);
            let (_, end) = watermarks.expect("the broker answers");
            let is_read = |records: &[Record]| {
                let last = records.iter().rev().find(|record| record.partition == partition);
                last.map_or(0, |record| record.offset + 1) >= end
            };
            while !is_read(&self.records) {
                assert!(Instant::now() < deadline, "partition {partition} not read to {end}");
                self.read_for(Duration::from_millis(10));
            }
        }
        &self.records
    }
}
