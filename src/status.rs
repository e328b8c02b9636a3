//! How a walk is, told to whoever asks over a Unix socket in the state directory.
//!
//! Whoever connects gets one [`Status`] as JSON and the end of the stream. A thread of its own
//! listens; it asks the hub, which owns the counts, and the producer's thread, and says what does
//! not answer in place of waiting for it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};

use crate::config::show_duration;
use crate::kafka::health::{self, Report};
use crate::kafka::producer::Reporter;

/// How long a thread of the walk may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long whoever asks may take to read, and to wait for the whole answer.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nobody is let in after that failed.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Longer than any answer: some hundred bytes for each broker and each trouble.
const STATUS_LEN_MAX: u64 = 16 << 20;

/// What a walk has counted, by the names that its last line of log has.
pub type Counts = BTreeMap<String, u64>;

/// How a walk is.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    /// Of the shipper that runs.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Since it began.
    pub running_seconds: u64,
    /// `None` where the hub does not answer.
    pub counts: Option<Counts>,
    /// `None` where the producer's thread does not answer.
    pub kafka: Option<Kafka>,
}

/// How delivery to Kafka is.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kafka {
    /// All that are known.
    pub brokers: Vec<Broker>,
    /// What else is wrong.
    pub troubles: Vec<Trouble>,
    /// Batches that the producer has and the brokers have not acknowledged.
    pub batches_unacknowledged: usize,
    /// Records in them.
    pub records_unacknowledged: u64,
    /// The batch of them that waits longest.
    pub oldest_unacknowledged: Option<Oldest>,
}

/// A broker and the way to it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Broker {
    /// `host:port`.
    pub address: String,
    /// Its node id, where a broker gives this address as its own.
    pub node: Option<i32>,
    /// In words.
    pub state: String,
    /// Not answered yet.
    pub requests_in_flight: usize,
    /// What is wrong with it.
    pub trouble: Option<Trouble>,
}

/// Something that is wrong.
#[derive(Debug, Serialize, Deserialize)]
pub struct Trouble {
    /// With what.
    pub subject: String,
    /// Why.
    pub reason: String,
    /// For how long.
    pub seconds: u64,
    /// How often it has failed in this time.
    pub failures: u64,
}

/// The batch that waits longest for the broker.
#[derive(Debug, Serialize, Deserialize)]
pub struct Oldest {
    /// Where it goes.
    pub topic: String,
    /// Where it goes.
    pub partition: i32,
    /// For how long.
    pub seconds: u64,
}

impl Kafka {
    fn of(report: Report, now: Instant) -> Kafka {
        let seconds = |since| now.saturating_duration_since(since).as_secs();
        let trouble = |subject: String, health::Trouble { reason, since, n_times }| Trouble {
            subject,
            reason,
            seconds: seconds(since),
            failures: n_times,
        };
        let brokers = report.brokers.into_iter().map(|broker| Broker {
            trouble: broker.trouble.map(|it| trouble(format!("broker {}", broker.address), it)),
            address: broker.address.to_string(),
            node: broker.node,
            state: broker.state.name().to_owned(),
            requests_in_flight: broker.n_requests,
        });
        let troubles = report.troubles.into_iter().map(|(subject, it)| trouble(subject, it));
        let oldest = report.oldest.map(|oldest| Oldest {
            topic: oldest.topic.to_string(),
            partition: oldest.partition,
            seconds: seconds(oldest.since),
        });
        Kafka {
            brokers: brokers.collect(),
            troubles: troubles.collect(),
            batches_unacknowledged: report.n_batches,
            records_unacknowledged: report.n_records,
            oldest_unacknowledged: oldest,
        }
    }

    /// All that is wrong.
    pub fn all_troubles(&self) -> impl Iterator<Item = &Trouble> {
        self.brokers.iter().filter_map(|broker| broker.trouble.as_ref()).chain(&self.troubles)
    }
}

/// Where a walk with this state directory is asked.
pub fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join("status.sock")
}

/// Begins to listen; returns what the hub is asked by. It answers each question with its counts.
///
/// Whoever calls it holds the lock of the state directory: a socket that is there is nobody's.
///
/// Errors: whatever keeps it from listening.
pub fn listen(state_dir: &Path, reporter: Reporter) -> io::Result<Receiver<Sender<Counts>>> {
    let path = socket(state_dir);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    let (ask_hub, questions) = bounded(1);
    let started = Instant::now();
    thread::Builder::new().name("status".into()).spawn(move || {
        for asker in listener.incoming() {
            match asker {
                // Who does not listen any more needs nothing more.
                Ok(asker) => _ = tell(asker, &status(started, &ask_hub, &reporter)),
                // For want of descriptors: one may be free again by then.
                Err(_) => thread::sleep(ACCEPT_PAUSE),
            }
        }
    })?;
    Ok(questions)
}

fn status(started: Instant, ask_hub: &Sender<Sender<Counts>>, reporter: &Reporter) -> Status {
    let (reply, counts) = bounded(1);
    let is_asked = ask_hub.send_timeout(reply, ANSWER_TIMEOUT).is_ok();
    let counts = is_asked.then(|| counts.recv_timeout(ANSWER_TIMEOUT).ok()).flatten();
    let report = reporter.report(ANSWER_TIMEOUT);
    let now = Instant::now();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: process::id(),
        running_seconds: now.duration_since(started).as_secs(),
        counts,
        kafka: report.map(|report| Kafka::of(report, now)),
    }
}

fn tell(mut asker: UnixStream, status: &Status) -> io::Result<()> {
    asker.set_write_timeout(Some(READ_TIMEOUT))?;
    asker.write_all(&serde_json::to_vec(status)?)
}

/// Asks the walk that works in the state directory; `None` where none does.
///
/// Errors: it does not answer, or not in this way.
pub fn ask(state_dir: &Path) -> io::Result<Option<Status>> {
    let stream = match UnixStream::connect(socket(state_dir)) {
        Ok(stream) => stream,
        Err(error) => {
            use io::ErrorKind::{ConnectionRefused, NotFound};
            let is_absent = matches!(error.kind(), ConnectionRefused | NotFound);
            return if is_absent { Ok(None) } else { Err(error) };
        }
    };
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    let mut answer = Vec::new();
    stream.take(STATUS_LEN_MAX).read_to_end(&mut answer).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            io::Error::other(format!("no answer for {}", show_duration(READ_TIMEOUT)))
        }
        _ => error,
    })?;
    Ok(Some(serde_json::from_slice(&answer)?))
}
