//! `shipper demo`: both walks in one process, a broker inside it, documents in local files.
//!
//! The broker is librdkafka's mock cluster: it speaks the protocol over real sockets, but keeps
//! only some megabytes of each partition. So the demo is also the writer of the logs that are
//! shipped, the given files included, and waits for the consumer where that falls behind.

mod broker_log;

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::{Offset, TopicPartitionList};

use crate::cli::DemoArgs;
use crate::config::Config;
use crate::error::Error;
use crate::index;
use crate::metrics::{IndexCounters, TailCounters};
use crate::tail;
use crate::tail::multiline::starts_with_timestamp;

use broker_log::{BrokerLog, rotated_name};

const TOPIC: &str = "broker-logs";
const ERROR_TOPIC: &str = "broker-errors";
const N_PARTITIONS: i32 = 3;

/// Events of a written log: some seconds' worth of a busy broker.
const N_EVENTS: u64 = 20_000;
/// Events that are written between two looks at the consumer.
const N_EVENTS_STEP: u64 = 100;
/// Pause between two steps: 4,000 events a second, so that there is something to watch.
const STEP_PAUSE: Duration = Duration::from_millis(25);
/// Bytes of given files that are copied between two looks at the consumer.
const COPY_BYTES: usize = 64 * 1024;
/// Bytes of given files that are shipped at most: the demo copies them.
const COPY_BYTES_MAX: u64 = 100_000_000;
/// Records that the consumer may be behind: far less than the broker keeps.
const BEHIND_MAX: u64 = 2_000;
/// No progress for this long is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// The defaults of an `[[input]]`, which the demo's configuration leaves as they are.
const LINE_BYTES_MAX: usize = 256 << 10;
const EVENT_BYTES_MAX: usize = 512 << 10;

/// Runs the demo; the counts must reconcile.
///
/// Errors: [`Error::Start`] for a temporary folder or file, [`Error::Kafka`] where counts do not
/// reconcile or nothing moves any more.
pub fn run(args: &DemoArgs) -> Result<(), Error> {
    let folder = std::env::temp_dir().join(format!("shipper-demo-{}", std::process::id()));
    let logs = folder.join("logs");
    // Not one that is there already: it would be another's, and is removed in the end.
    let made = fs::create_dir(&folder).and_then(|()| fs::create_dir(&logs));
    made.map_err(|source| failed("make a temporary folder", source))?;
    let result = Demo::start(&folder).and_then(|demo| demo.show(args, &logs));
    if args.keep {
        println!("\nKept: {}", folder.display());
    } else if let Err(error) = fs::remove_dir_all(&folder) {
        eprintln!("shipper: cannot remove {}: {error}", folder.display());
    }
    result
}

struct Demo {
    folder: PathBuf,
    /// Ends with the demo.
    _cluster: MockCluster<'static, rdkafka::producer::DefaultProducerContext>,
    bootstrap_servers: String,
    tail: Arc<TailCounters>,
    index: Arc<IndexCounters>,
    walks: Vec<Walk>,
    screen: Screen,
}

struct Walk {
    name: &'static str,
    stop: Sender<()>,
    thread: JoinHandle<Result<(), Error>>,
}

/// What was put into the log files.
#[derive(Debug, Default)]
struct Written {
    bytes: u64,
    lines: u64,
    events: u64,
    /// Known for a log that the demo wrote, and not for given files.
    errors: Option<u64>,
}

impl Demo {
    fn start(folder: &Path) -> Result<Demo, Error> {
        let problem = |error| Error::Kafka { problem: format!("cannot start the broker: {error}") };
        let cluster = MockCluster::new(1).map_err(problem)?;
        cluster.create_topic(TOPIC, N_PARTITIONS, 1).map_err(problem)?;
        cluster.create_topic(ERROR_TOPIC, 1, 1).map_err(problem)?;
        let bootstrap_servers = cluster.bootstrap_servers();
        let config = config(folder, &bootstrap_servers)?;
        let (tail, index) = (Arc::new(TailCounters::default()), Arc::new(IndexCounters::default()));

        let (counters, tail_config) = (Arc::clone(&tail), config.clone());
        let tail_walk = Walk::start("tail", move |stop| tail::run(&tail_config, &counters, stop))?;
        let counters = Arc::clone(&index);
        let index_walk = Walk::start("index", move |stop| index::run(&config, &counters, stop))?;
        Ok(Demo {
            folder: folder.to_path_buf(),
            _cluster: cluster,
            bootstrap_servers,
            tail,
            index,
            walks: vec![tail_walk, index_walk],
            screen: Screen::new(),
        })
    }

    fn show(mut self, args: &DemoArgs, logs: &Path) -> Result<(), Error> {
        println!(
            "Two walks in one process, with a broker inside it:\n  \
             {}/*.log -> tail -> topic {TOPIC} ({N_PARTITIONS} partitions)\n  \
             {TOPIC} -> index -> errors: topic {ERROR_TOPIC}, all others: documents in local files\n",
            logs.display()
        );
        let written = if args.files.is_empty() {
            self.write_log(logs)?
        } else {
            self.copy_files(&args.files, logs)?
        };
        self.wait_until_shipped(&written)?;
        self.screen.done();
        for walk in std::mem::take(&mut self.walks) {
            walk.stop()?;
        }
        self.report(&written)
    }

    /// Writes a broker's log, and rotates it half-way as Kafka does.
    fn write_log(&mut self, logs: &Path) -> Result<Written, Error> {
        let write_failed = |source| failed("write the log", source);
        let path = logs.join("server.log");
        let mut file = File::create(&path).map_err(write_failed)?;
        let (mut log, mut written, mut text) = (BrokerLog::new(), Written::default(), Vec::new());
        while log.n_events() < N_EVENTS {
            text.clear();
            (0..N_EVENTS_STEP).for_each(|_| log.write(&mut text));
            file.write_all(&text).map_err(write_failed)?;
            written.add(&text);
            if log.n_events() == N_EVENTS / 2 {
                let name = rotated_name("server.log");
                fs::rename(&path, logs.join(&name)).map_err(write_failed)?;
                file = File::create(&path).map_err(write_failed)?;
                self.screen.say(&format!("rotated: server.log is now {name}, a new one began"));
            }
            thread::sleep(STEP_PAUSE);
            self.keep_up()?;
        }
        written.events = log.n_events();
        written.errors = Some(log.n_errors());
        Ok(written)
    }

    /// Appends given files to logs of the same name, as fast as they are consumed.
    fn copy_files(&mut self, files: &[PathBuf], logs: &Path) -> Result<Written, Error> {
        let mut written = Written::default();
        for (number, path) in files.iter().enumerate() {
            let context =
                |source: io::Error| Error::State { attempt: "ship", path: path.clone(), source };
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // Numbered, for files of one name may come from several folders.
            let mut to = OpenOptions::new()
                .append(true)
                .create(true)
                .open(logs.join(format!("{number:03}-{name}.log")))
                .map_err(context)?;
            let mut from = File::open(path).map_err(context)?;
            let (mut counter, mut piece, mut held) =
                (EventCounter::default(), vec![0; COPY_BYTES], Vec::new());
            loop {
                let n = from.read(&mut piece).map_err(context)?;
                if written.bytes + (held.len() + n) as u64 > COPY_BYTES_MAX {
                    self.screen.say(&format!(
                        "{}: the rest is left out, the demo ships {COPY_BYTES_MAX} bytes at most",
                        path.display()
                    ));
                    break;
                }
                held.extend_from_slice(&piece[..n]);
                if n == 0 && !held.is_empty() && !held.ends_with(b"\n") {
                    // A last line without its end would wait for more until the file is rotated.
                    held.push(b'\n');
                }
                // Whole events only: one in two halves, with a wait between, would become two.
                let len = if n == 0 { held.len() } else { last_event_start(&held) };
                to.write_all(&held[..len]).map_err(context)?;
                written.add(&held[..len]);
                counter.add(&held[..len]);
                held.drain(..len);
                self.keep_up()?;
                if n == 0 {
                    break;
                }
            }
            written.events += counter.n_events;
        }
        Ok(written)
    }

    /// Shows how far all is, and waits while the consumer is too far behind.
    fn keep_up(&mut self) -> Result<(), Error> {
        self.wait_while(|demo| demo.tail.records_acked.get() > demo.index.n_ended() + BEHIND_MAX)
    }

    fn wait_until_shipped(&mut self, written: &Written) -> Result<(), Error> {
        let n_bytes = written.bytes;
        self.wait_while(|demo| {
            let (tail, index) = (&demo.tail, &demo.index);
            tail.bytes_acked.get() < n_bytes || index.n_ended() < tail.records_acked.get()
        })
    }

    fn wait_while(&mut self, is_waiting: impl Fn(&Demo) -> bool) -> Result<(), Error> {
        let (mut n_ended, mut moved_at) = (self.progress(), Instant::now());
        loop {
            self.screen.progress(&self.tail, &self.index);
            if !is_waiting(self) {
                return Ok(());
            }
            if let Some(walk) = self.walks.iter().position(|walk| walk.thread.is_finished()) {
                return self.walks.remove(walk).stop();
            }
            if self.progress() != n_ended {
                (n_ended, moved_at) = (self.progress(), Instant::now());
            }
            if moved_at.elapsed() > PATIENCE {
                let problem =
                    format!("nothing moved for {PATIENCE:?}: {} {}", self.tail, self.index);
                return Err(Error::Kafka { problem });
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn progress(&self) -> u64 {
        self.tail.records_acked.get() + self.index.n_ended()
    }

    /// Compares every count with what was written, and shows one error and one document.
    fn report(&self, written: &Written) -> Result<(), Error> {
        let reader = TopicReader::new(&self.bootstrap_servers)?;
        let n_topic = reader.count(TOPIC, N_PARTITIONS)?;
        let n_errors = reader.count(ERROR_TOPIC, 1)?;
        let (n_documents, document) = self.documents()?;
        let (tail, index) = (&self.tail, &self.index);
        let rows = [
            ("bytes read", "bytes written", tail.bytes_read.get(), written.bytes),
            ("bytes acknowledged", "bytes written", tail.bytes_acked.get(), written.bytes),
            ("lines read", "lines written", tail.lines_read.get(), written.lines),
            ("records acknowledged", "events written", tail.records_acked.get(), written.events),
            ("records in the topic", "events written", n_topic, written.events),
            ("records consumed", "records in the topic", index.consumed.get(), n_topic),
            ("records ended", "records consumed", index.n_ended(), index.consumed.get()),
            ("errors sent", "records in the error topic", index.error_topic.get(), n_errors),
            (
                "records in the error topic",
                "errors written",
                n_errors,
                written.errors.unwrap_or(n_errors),
            ),
            ("documents on disk", "events - errors", n_documents, written.events - n_errors),
        ];
        println!("{:<28} {:>12}   {:<28} {:>12}", "counted", "", "to be", "");
        let mut n_wrong = 0;
        for (counted, to_be, value, expected) in rows {
            let verdict = if value == expected { "ok" } else { "WRONG" };
            n_wrong += usize::from(value != expected);
            println!("{counted:<28} {value:>12}   {to_be:<28} {expected:>12}   {verdict}");
        }
        if n_errors > 0 {
            println!("\nOne error as it lies in the topic {ERROR_TOPIC}:");
            reader.print_first(ERROR_TOPIC)?;
        }
        if let Some(document) = document {
            println!("\nOne document:\n{document}");
        }
        if n_wrong > 0 {
            return Err(Error::Kafka { problem: format!("{n_wrong} counts do not reconcile") });
        }
        println!("\nAll counts reconcile.");
        Ok(())
    }

    /// Counts the documents in the archive's files, and returns one of them.
    fn documents(&self) -> Result<(u64, Option<String>), Error> {
        let read_failed = |source| failed("read the documents", source);
        let (mut n_documents, mut one) = (0, None);
        for partition in 0..N_PARTITIONS {
            let folder = self.folder.join("documents").join(TOPIC).join(partition.to_string());
            if !folder.exists() {
                continue;
            }
            for entry in fs::read_dir(folder).map_err(read_failed)? {
                let path = entry.map_err(read_failed)?.path();
                let text = fs::read_to_string(path).map_err(read_failed)?;
                n_documents += text.lines().count() as u64;
                one = one.or_else(|| text.lines().next().map(pretty));
            }
        }
        Ok((n_documents, one))
    }
}

impl Walk {
    fn start(
        name: &'static str,
        walk: impl FnOnce(&crossbeam_channel::Receiver<()>) -> Result<(), Error> + Send + 'static,
    ) -> Result<Walk, Error> {
        let (stop, stopped) = bounded(1);
        let thread = thread::Builder::new()
            .name(name.into())
            .spawn(move || walk(&stopped))
            .map_err(|source| failed("start a walk", source))?;
        Ok(Walk { name, stop, thread })
    }

    fn stop(self) -> Result<(), Error> {
        drop(self.stop);
        let died = || Error::Kafka { problem: format!("the {} walk died", self.name) };
        self.thread.join().map_err(|_| died())?
    }
}

impl Written {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.lines += memchr::memchr_iter(b'\n', bytes).count() as u64;
    }
}

/// Counts events the plain way, line by line: what the walk says is compared with it.
#[derive(Debug, Default)]
struct EventCounter {
    n_events: u64,
    /// Bytes of the event so far, line ends included.
    event_len: usize,
    /// The last line was longer than may be, which ends its event.
    was_cut: bool,
}

impl EventCounter {
    /// Counts the events in some whole lines.
    fn add(&mut self, lines: &[u8]) {
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            let content = line.strip_suffix(b"\n").unwrap_or(line);
            let content = content.strip_suffix(b"\r").unwrap_or(content);
            let is_too_long = self.event_len + content.len() > EVENT_BYTES_MAX;
            if self.n_events == 0 || self.was_cut || is_too_long || starts_with_timestamp(line) {
                self.n_events += 1;
                self.event_len = 0;
            }
            self.event_len += line.len();
            self.was_cut = content.len() > LINE_BYTES_MAX;
        }
    }
}

/// Returns where the last event in some bytes begins.
fn last_event_start(bytes: &[u8]) -> usize {
    let starts = memchr::memrchr_iter(b'\n', bytes).map(|newline| newline + 1);
    starts.into_iter().find(|start| starts_with_timestamp(&bytes[*start..])).unwrap_or(0)
}

/// What a person sees meanwhile: one line that changes on a terminal, nothing in a pipe.
struct Screen {
    is_terminal: bool,
    shown_at: Option<Instant>,
}

impl Screen {
    fn new() -> Screen {
        Screen { is_terminal: io::stderr().is_terminal(), shown_at: None }
    }

    fn progress(&mut self, tail: &TailCounters, index: &IndexCounters) {
        const INTERVAL: Duration = Duration::from_millis(100);
        if !self.is_terminal || self.shown_at.is_some_and(|at| at.elapsed() < INTERVAL) {
            return;
        }
        self.shown_at = Some(Instant::now());
        eprint!(
            "\r\x1b[Kread {} lines | in the topic {} | errors {} | documents {}",
            tail.lines_read.get(),
            tail.records_acked.get(),
            index.error_topic.get(),
            index.archived.get()
        );
    }

    fn say(&mut self, text: &str) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
        println!("{text}");
    }

    fn done(&mut self) {
        if self.is_terminal {
            eprintln!("\r\x1b[K");
        }
    }
}

/// Looks at topics with librdkafka, which had no part in writing them.
struct TopicReader {
    consumer: BaseConsumer,
}

impl TopicReader {
    const TIMEOUT: Duration = Duration::from_secs(5);

    fn new(bootstrap_servers: &str) -> Result<TopicReader, Error> {
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap_servers)
            .set("group.id", "demo-reader")
            .create()
            .map_err(cannot_read)?;
        Ok(TopicReader { consumer })
    }

    fn count(&self, topic: &str, n_partitions: i32) -> Result<u64, Error> {
        let mut n_records = 0;
        for partition in 0..n_partitions {
            let watermarks = self.consumer.fetch_watermarks(topic, partition, Self::TIMEOUT);
            n_records += watermarks.map_err(cannot_read)?.1 as u64;
        }
        Ok(n_records)
    }

    fn print_first(&self, topic: &str) -> Result<(), Error> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, 0, Offset::Beginning).map_err(cannot_read)?;
        self.consumer.assign(&list).map_err(cannot_read)?;
        let message = match self.consumer.poll(Self::TIMEOUT) {
            Some(message) => message.map_err(cannot_read)?,
            None => {
                return Err(Error::Kafka { problem: "the error topic gives nothing".into() });
            }
        };
        println!("key: {}", text(message.key()));
        for header in message.headers().iter().flat_map(|headers| headers.iter()) {
            println!("{}: {}", header.key, text(header.value));
        }
        println!("{}", text(message.payload()));
        Ok(())
    }
}

fn cannot_read(error: rdkafka::error::KafkaError) -> Error {
    Error::Kafka { problem: format!("cannot read a topic back: {error}") }
}

/// Log bytes are data: control characters but line ends and tabs do not reach the terminal.
fn text(bytes: Option<&[u8]>) -> String {
    let text = String::from_utf8_lossy(bytes.unwrap_or_default());
    text.chars().filter(|char| !char.is_control() || matches!(char, '\n' | '\t')).collect()
}

fn pretty(line: &str) -> String {
    let value = serde_json::from_str::<serde_json::Value>(line);
    value.and_then(|value| serde_json::to_string_pretty(&value)).unwrap_or_else(|_| line.into())
}

fn failed(attempt: &'static str, source: io::Error) -> Error {
    Error::Start { attempt, source }
}

/// The configuration of both walks, such as an operator would write it.
fn config(folder: &Path, bootstrap_servers: &str) -> Result<Config, Error> {
    let folder = folder.display();
    let servers: Vec<String> =
        bootstrap_servers.split(',').map(|server| format!("{server:?}")).collect();
    let text = format!(
        "state_dir = \"{folder}/state\"\n\
         [kafka]\nbootstrap_servers = [{}]\n\
         [[input]]\npaths = [\"{folder}/logs/*.log\"]\ntopic = \"{TOPIC}\"\n\
         [tail]\nscan_interval = \"200ms\"\n\
         [index]\ntopics = [\"{TOPIC}\"]\nerror_topic = \"{ERROR_TOPIC}\"\n\
         [archive]\ndir = \"{folder}/documents\"\n",
        servers.join(", ")
    );
    Config::parse(&text, Path::new("demo.toml"))
        .map_err(|problems| Error::Config { problems: problems.to_string() })
}
