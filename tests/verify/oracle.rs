//! The oracle: reads the topic with another client and compares with the ledger. Never faulted.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::ledger::Ledger;
use crate::support::stack::{N_PARTITIONS, count_records};
use crate::writer::parse_event;

/// What the run has found so far; each is a violation.
#[derive(Debug, Default, Clone)]
pub struct Findings {
    /// Values that no writer has written: damaged, merged, torn or of another path.
    pub damaged: Vec<String>,
    /// Numbers that no writer has written yet.
    pub invented: Vec<String>,
}

pub struct Oracle {
    ledger: Arc<Ledger>,
    findings: Arc<Mutex<Findings>>,
    n_records: Arc<AtomicU64>,
    /// Lines that a power cut has torn; as many values may be damaged.
    n_torn: usize,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    kafka: String,
    topic: String,
}

impl Oracle {
    /// `paths` are the streams' paths, as they must stand in the header `path`. Writes what it
    /// sees, in short, to `arrived.log` in `folder`.
    pub fn start(
        kafka: &str,
        topic: &str,
        run: u32,
        paths: Vec<String>,
        ledger: &Arc<Ledger>,
        folder: &Path,
    ) -> Oracle {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", kafka)
            .set("group.id", "verify")
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "error")
            .set("reconnect.backoff.max.ms", "500")
            .set("isolation.level", "read_committed")
            .create()
            .expect("a consumer");
        let mut list = TopicPartitionList::new();
        for partition in 0..N_PARTITIONS {
            list.add_partition_offset(topic, partition, Offset::Offset(0)).expect("added");
        }
        consumer.assign(&list).expect("assigned");
        let findings = Arc::new(Mutex::new(Findings::default()));
        let n_records = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (findings, n_records) = (Arc::clone(&findings), Arc::clone(&n_records));
            let (stop, ledger) = (Arc::clone(&stop), Arc::clone(ledger));
            let mut history = History::new(folder, paths.len());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                        let event = judge(&message, run, &paths, &ledger, &findings);
                        if let Some((stream, seq)) = event {
                            history.note(&message, stream, seq);
                        }
                        n_records.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        };
        Oracle {
            ledger: Arc::clone(ledger),
            findings,
            n_records,
            n_torn: 0,
            stop,
            thread: Some(thread),
            kafka: kafka.into(),
            topic: topic.into(),
        }
    }

    pub fn allow_torn(&mut self) {
        self.n_torn += 1;
    }

    pub fn n_records(&self) -> u64 {
        self.n_records.load(Ordering::Relaxed)
    }

    pub fn findings(&self) -> Findings {
        let mut findings = self.findings.lock().expect("the reader has not failed").clone();
        if findings.damaged.len() <= self.n_torn {
            findings.damaged.clear();
        }
        findings
    }

    /// Tells what is wrong already, before anything more arrives; `None` if nothing is.
    ///
    /// A gap counts at once: if its events still came, they would be out of order.
    pub fn violation(&self) -> Option<String> {
        let findings = self.findings();
        if let Some(first) = findings.damaged.first() {
            return Some(format!("{} damaged, the first: {first}", findings.damaged.len()));
        }
        if let Some(first) = findings.invented.first() {
            return Some(format!("{} invented, the first: {first}", findings.invented.len()));
        }
        for (stream, account) in self.ledger.accounts().enumerate() {
            if account.disordered > 0 {
                return Some(format!("stream {stream}: {} out of order", account.disordered));
            }
            let gap: Vec<u64> = account.missing(account.last_seen).take(5).collect();
            if !gap.is_empty() {
                let last = account.last_seen;
                return Some(format!("stream {stream}: {gap:?} passed over, {last} has arrived"));
            }
        }
        None
    }

    /// Tells whether all that stands in the topic has been read.
    pub fn is_at_end(&self) -> bool {
        self.n_records() >= count_records(&self.kafka, &self.topic)
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the reader has been printed; the run fails for what it has not seen.
            let _ = thread.join();
        }
    }
}

/// What has arrived of each stream, one line for each run of events of one file without a gap: to
/// find out how a repeat or a gap came about.
struct History {
    file: File,
    /// Of each stream, where its last event came from, and its number.
    last: Vec<(String, u64)>,
}

impl History {
    fn new(folder: &Path, n_streams: usize) -> History {
        let file = File::create(folder.join("arrived.log")).expect("made");
        History { file, last: vec![(String::new(), 0); n_streams] }
    }

    fn note(&mut self, message: &BorrowedMessage<'_>, stream: usize, seq: u64) {
        let file_id = header(message, "file_id");
        let (last_id, last_seq) = &mut self.last[stream];
        if (&*file_id, seq) != (last_id, *last_seq + 1) {
            let (at, offset) = (message.offset(), header(message, "offset"));
            let text = format!(
                "stream {stream} seq {seq} behind {last_seq} at {at}: file_id {file_id} {offset}\n"
            );
            self.file.write_all(text.as_bytes()).expect("written");
            *last_id = file_id;
        }
        *last_seq = seq;
    }
}

fn header(message: &BorrowedMessage<'_>, key: &str) -> String {
    let mut headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    let value = headers.find(|header| header.key == key).and_then(|header| header.value);
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}

/// Enters a record; returns its stream and number, unless it is damaged.
fn judge(
    message: &BorrowedMessage<'_>,
    run: u32,
    paths: &[String],
    ledger: &Ledger,
    findings: &Mutex<Findings>,
) -> Option<(usize, u64)> {
    let place = || format!("partition {} offset {}", message.partition(), message.offset());
    let note_damage = |what: &str| {
        let value = String::from_utf8_lossy(message.payload().unwrap_or_default());
        let value: String = value.chars().take(400).collect();
        let text = format!("{}: {what}: {value:?}", place());
        findings.lock().expect("no holder panics").damaged.push(text);
        None
    };
    let parsed = parse_event(message.payload().unwrap_or_default());
    let Some((_, stream, seq)) =
        parsed.filter(|(of, stream, _)| *of == run && *stream < paths.len())
    else {
        return note_damage("no event of this run");
    };
    if header(message, "path") != paths[stream] {
        return note_damage("under another path");
    }
    let mut account = ledger.account(stream);
    if seq == 0 || seq > account.begun {
        let text = format!("{}: stream {stream} seq {seq} of {}", place(), account.begun);
        findings.lock().expect("no holder panics").invented.push(text);
        return None;
    }
    if *account.partition.get_or_insert(message.partition()) != message.partition() {
        drop(account);
        return note_damage("in another partition than its stream");
    }
    account.see(seq);
    Some((stream, seq))
}
