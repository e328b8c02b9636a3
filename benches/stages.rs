//! What the pure stages cost, each alone, on one thread.
//!
//! `cargo bench --bench stages` prints a line a stage: CPU time of the fastest of some rounds,
//! over the logs in `tests/data/logs`, so that a busy machine does not show.

use std::fs::{self, File};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;
use log_shipper::config::{Compression, Config, Encoding, IndexConfig, LineTooLong, Multiline};
use log_shipper::index::document::{DocumentWriter, write_string};
use log_shipper::index::elasticsearch::BulkBody;
use log_shipper::index::event::Event;
use log_shipper::index::fields::Fields;
use log_shipper::index::index_name::IndexName;
use log_shipper::index::kafka_log;
use log_shipper::index::origin::{Header, Origin};
use log_shipper::index::route::Router;
use log_shipper::kafka::record_batch::{Encoder, RecordArena};
use log_shipper::tail::encode::Origin as TailOrigin;
use log_shipper::tail::fingerprint::{Checksum, Inode};
use log_shipper::tail::lines::LineRule;
use log_shipper::tail::multiline::{Event as TailEvent, EventBuffer, Limits};
use log_shipper::tail::registry::{Entry, StoredPath, format};
use log_shipper::time::TimeReader;
use rustix::time::{ClockId, clock_gettime};

/// Rounds over all events; the fastest counts.
const N_ROUNDS: u32 = 50;

fn main() {
    split();
    let events = events();
    encode(&events);
    compress(&events);
    parse(&events);
    document(&events);
    route(&events);
    index(&events);
    bulk(&events);
    registry();
}

/// Bytes of files to events: lines found and joined by the `kafka` profile.
fn split() {
    let paths = log_paths();
    let files: Vec<File> = paths.iter().map(|path| File::open(path).expect("a log")).collect();
    let n_bytes: u64 = files.iter().map(|file| file.metadata().expect("its size").len()).sum();
    let line = LineRule {
        bytes_max: 256 << 10,
        too_long: LineTooLong::Truncate,
        encoding: Encoding::Utf8,
    };
    let limits = Limits { line, bytes_max: 512 << 10, lines_max: 10_000 };
    let mut room = Vec::new();
    let mut n_lines = 0;
    let fastest = fastest_round(|| {
        n_lines = 0;
        for file in &files {
            let mut buffer = EventBuffer::new(0, limits, false);
            buffer.attach(std::mem::take(&mut room));
            while buffer.read_from(file).expect("read") > 0 {
                while let Some(event) = buffer.peek(&Multiline::Kafka) {
                    n_lines += u128::from(event.n_lines);
                    black_box(buffer.content(&event));
                    buffer.consume();
                }
            }
            room = buffer.detach();
        }
    });
    let rate = u128::from(n_bytes) * 1000 / fastest.as_nanos();
    let ns = fastest.as_nanos() / n_lines;
    println!(
        "read, split and join: {ns} ns per line, {rate} MB/s, {}-byte lines, warm cache",
        u128::from(n_bytes) / n_lines
    );
}

/// An event to a record in a batch, with key and five headers.
fn encode(events: &[String]) {
    let origin = tail_origin();
    let mut scratch = Vec::new();
    let mut records = RecordArena::with_capacity(BATCH_BYTES);
    measure("encode", events, |event| {
        if records.len() > BATCH_BYTES - event.len() - 1024 {
            records.clear();
        }
        origin.encode(
            1_795_389_596_230,
            &plain_event(event),
            event.as_bytes(),
            &mut scratch,
            &mut records,
        );
    });
}

/// A batch of records to a RecordBatch, by codec.
fn compress(events: &[String]) {
    let origin = tail_origin();
    let mut scratch = Vec::new();
    let mut records = RecordArena::with_capacity(BATCH_BYTES);
    for event in events.iter().cycle() {
        if records.len() > BATCH_BYTES - event.len() - 1024 {
            break;
        }
        origin.encode(
            1_795_389_596_230,
            &plain_event(event),
            event.as_bytes(),
            &mut scratch,
            &mut records,
        );
    }
    let codecs = [Compression::Lz4, Compression::Zstd, Compression::Snappy, Compression::Gzip];
    for codec in codecs {
        let mut encoder = Encoder::new(codec).expect("a codec");
        let mut copies: Vec<RecordArena> = (0..N_ROUNDS).map(|_| records.clone()).collect();
        let mut len = 0;
        let fastest = fastest_round(|| {
            let copy = copies.pop().expect("one for each round");
            let (batch, _) = encoder.encode(copy).expect("compressed");
            len = batch.as_bytes().len();
            encoder.recycle(batch);
        });
        println!(
            "compress with {codec:?}: {} ns per record, {} MB/s, to {:.1} % of {} bytes",
            fastest.as_nanos() / u128::from(records.count()),
            records.len() as u128 * 1000 / fastest.as_nanos(),
            len as f64 * 100.0 / records.len() as f64,
            records.len()
        );
    }
}

/// Bytes of a batch: what the defaults seal.
const BATCH_BYTES: usize = 1_000_000;

fn tail_origin() -> TailOrigin {
    let path = "/var/log/kafka/server.log";
    let text = format!(
        "kafka.bootstrap_servers = [\"a:1\"]\n[[input]]\npaths = [{path:?}]\ntopic = \"broker-logs\""
    );
    let config = Config::parse(&text, Path::new("shipper.toml")).expect("right");
    let (input, path) = (&config.input[0], Path::new(path));
    TailOrigin::new(input, "broker-1.example.org", path, "fd01-a0b1c2-66f0e1d2")
}

fn plain_event(text: &str) -> TailEvent {
    TailEvent {
        content: 0..text.len(),
        start: 123_456_789,
        end: 123_456_790 + text.len() as u64,
        n_lines: 1,
        cut: 0,
        continued: false,
        partial: false,
        is_nuls: false,
        flushed: false,
    }
}

/// An event's text to its fields.
fn parse(events: &[String]) {
    let mut times = TimeReader::new(TimeZone::UTC);
    measure("parse", events, |event| {
        black_box(kafka_log::parse(event, &mut times));
    });
}

/// Fields to JSON, parsing not counted.
fn document(events: &[String]) {
    let mut times = TimeReader::new(TimeZone::UTC);
    let values: Vec<Event> =
        events.iter().map(|event| Event::from_value(event.as_bytes())).collect();
    let parsed: Vec<_> =
        values.iter().map(|event| kafka_log::parse(&event.text, &mut times)).collect();
    let headers = headers();
    let origin = origin(&headers);
    let mut writer = DocumentWriter::new();
    let mut out = Vec::new();
    let mut next = (0..values.len()).cycle();
    measure("document", events, |_| {
        let i = next.next().expect("a cycle goes on");
        out.clear();
        writer.write(&mut out, &Fields { event: &values[i], parsed: &parsed[i], origin: &origin });
        black_box(&out);
    });
}

/// Fields to a destination by the built-in rules, parsing not counted.
fn route(events: &[String]) {
    let mut times = TimeReader::new(TimeZone::UTC);
    let values: Vec<Event> =
        events.iter().map(|event| Event::from_value(event.as_bytes())).collect();
    let parsed: Vec<_> =
        values.iter().map(|event| kafka_log::parse(&event.text, &mut times)).collect();
    let headers = headers();
    let origin = origin(&headers);
    let router = router();
    let mut next = (0..values.len()).cycle();
    measure("route", events, |_| {
        let i = next.next().expect("a cycle goes on");
        black_box(router.route(&Fields { event: &values[i], parsed: &parsed[i], origin: &origin }));
    });
}

/// All that becomes of a record between the consumer and the bulk request: value and headers to
/// index name, id and document.
fn index(events: &[String]) {
    let mut times = TimeReader::new(TimeZone::UTC);
    let headers = headers();
    let router = router();
    let mut index_name = IndexName::new("broker-logs-{yyyy.MM.dd}").expect("a pattern");
    let mut writer = DocumentWriter::new();
    let mut out = Vec::new();
    measure("value to document", events, |event| {
        out.clear();
        let event = Event::from_value(event.as_bytes());
        let parsed = kafka_log::parse(&event.text, &mut times);
        let origin = origin(&headers);
        let fields = Fields { event: &event, parsed: &parsed, origin: &origin };
        if black_box(router.route(&fields)).to.index {
            index_name.write(&mut out, origin.timestamp_ms);
            origin.write_id(&mut out);
            writer.write(&mut out, &fields);
        }
        black_box(&out);
    });
}

fn headers() -> [Header<'static>; 5] {
    [
        ("host", b"broker-1.example.org"),
        ("path", b"/var/log/kafka/server.log"),
        ("file_id", b"fd01-a0b1c2-66f0e1d2"),
        ("offset", b"123456789"),
        ("length", b"228"),
    ]
}

fn origin<'a>(headers: &'a [Header<'a>]) -> Origin<'a> {
    Origin::new("broker-logs", 3, 123_456_789, 1_795_389_596_230, headers)
}

fn router() -> Router {
    let index = IndexConfig {
        topics: vec!["broker-logs".to_owned()],
        group_id: "shipper-index".to_owned(),
        error_topic: Some("broker-errors".to_owned()),
        dead_letter_topic: "broker-logs-dead-letters".to_owned(),
        index_errors: true,
        timezone: TimeZone::UTC,
        bytes_max: 4_000_000,
        count_max: 5000,
        linger: Duration::from_millis(200),
        in_flight_max: 2,
        shutdown_timeout: Duration::from_secs(20),
    };
    Router::new(&[], &index, true).expect("no rules, no errors")
}

fn log_paths() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/logs");
    let entries = fs::read_dir(dir).expect("the logs are there");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

/// Returns the events of the logs; in these, each starts with `[2`, the first digit of its year.
fn events() -> Vec<String> {
    let mut events: Vec<String> = Vec::new();
    for path in log_paths() {
        let log = fs::read_to_string(path).expect("a log");
        for line in log.lines() {
            match events.last_mut() {
                Some(event) if !line.starts_with("[2") => {
                    event.push('\n');
                    event.push_str(line);
                }
                _ => events.push(line.to_owned()),
            }
        }
    }
    events
}

/// A document to an item of a bulk request body.
fn bulk(events: &[String]) {
    let mut body = BulkBody::new();
    measure("bulk body", events, |event| {
        if body.len() > 4_000_000 {
            body.clear();
        }
        let document = body.begin("broker-logs-2026.11.23", "0123456789abcdef-123456789");
        document.extend_from_slice(b"{\"message\":");
        write_string(document, event);
        document.push(b'}');
        body.end();
    });
    black_box(&body);
}

/// What is remembered of 100,000 files, to bytes and back.
fn registry() {
    const N_ENTRIES: u64 = 100_000;
    let mut entries: Vec<Entry> = (0..N_ENTRIES).map(known_file).collect();
    let mut bytes = Vec::new();
    let encoded = fastest_of(10, || bytes = format::encode(1, 1, "kafka-1", &mut entries));
    let decoded = fastest_of(10, || {
        black_box(format::decode(&bytes, "kafka-1").expect("whole"));
    });
    println!(
        "registry of {N_ENTRIES} entries, {} MB: written in {} ms, read in {} ms",
        bytes.len() / 1_000_000,
        encoded.as_millis(),
        decoded.as_millis()
    );
}

fn known_file(n: u64) -> Entry {
    let path = StoredPath::Text(format!("/var/log/kafka/server.log.{n}"));
    Entry {
        path: path.clone(),
        name: path,
        inode: Inode { dev: 65025, ino: 1_311_234 + n },
        btime_ns: Some(1_795_389_596_230_000_001),
        mtime_ns: 1_795_389_696_230_000_002,
        life: 0,
        file_id: Some("140202-18ea8a5c5b2d4e81-7d1c0f2a".into()),
        head: Checksum::of(&n.to_le_bytes()),
        offset: 5_000_000_000 + n,
        guard: Checksum::of(&n.to_le_bytes()),
        guard_end: None,
        waymarks: Vec::new(),
        gzipped: false,
        spent: false,
        done: n.is_multiple_of(2),
        size: 5_000_000_000 + n,
        first_seen_ms: 1_795_389_596_230,
        last_seen_ms: 1_795_389_696_230,
        missed_since_ms: None,
    }
}

/// Runs `stage` over all events and prints what one of them cost.
fn measure(name: &str, events: &[String], mut stage: impl FnMut(&str)) {
    let fastest = fastest_round(|| events.iter().for_each(|event| stage(event)));
    let n_events = u128::try_from(events.len()).expect("a count");
    let ns = fastest.as_nanos() / n_events;
    let event_len = events.iter().map(String::len).sum::<usize>() / events.len();
    println!("{name}: {ns} ns per event, {event_len}-byte events");
}

/// Returns the CPU time of the fastest round.
fn fastest_round(round: impl FnMut()) -> Duration {
    fastest_of(N_ROUNDS, round)
}

fn fastest_of(n_rounds: u32, mut round: impl FnMut()) -> Duration {
    let cpu_time = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::try_from(time).expect("CPU time is not negative")
    };
    let rounds = (0..n_rounds).map(|_| {
        let start = cpu_time();
        round();
        cpu_time() - start
    });
    rounds.min().expect("at least one round")
}
