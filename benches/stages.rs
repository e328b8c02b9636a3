//! What the pure stages cost, each alone, on one thread.
//!
//! `cargo bench --bench stages` prints a line a stage: CPU time of the fastest of some rounds,
//! over the logs in `tests/data/logs`, so that a busy machine does not show.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use jiff::tz::TimeZone;
use log_shipper::config::IndexConfig;
use log_shipper::index::document::DocumentWriter;
use log_shipper::index::event::Event;
use log_shipper::index::fields::Fields;
use log_shipper::index::index_name::IndexName;
use log_shipper::index::kafka_log;
use log_shipper::index::origin::{Header, Origin};
use log_shipper::index::route::Router;
use log_shipper::index::time::TimeReader;
use rustix::time::{ClockId, clock_gettime};

/// Rounds over all events; the fastest counts.
const N_ROUNDS: u32 = 50;

fn main() {
    let events = events();
    parse(&events);
    document(&events);
    route(&events);
    index(&events);
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
    let values: Vec<Event> = events
        .iter()
        .map(|event| Event::from_value(event.as_bytes()))
        .collect();
    let parsed: Vec<_> = values
        .iter()
        .map(|event| kafka_log::parse(&event.text, &mut times))
        .collect();
    let headers = headers();
    let origin = origin(&headers);
    let mut writer = DocumentWriter::new();
    let mut out = Vec::new();
    let mut next = (0..values.len()).cycle();
    measure("document", events, |_| {
        let i = next.next().expect("a cycle goes on");
        out.clear();
        writer.write(
            &mut out,
            &Fields {
                event: &values[i],
                parsed: &parsed[i],
                origin: &origin,
            },
        );
        black_box(&out);
    });
}

/// Fields to a destination by the built-in rules, parsing not counted.
fn route(events: &[String]) {
    let mut times = TimeReader::new(TimeZone::UTC);
    let values: Vec<Event> = events
        .iter()
        .map(|event| Event::from_value(event.as_bytes()))
        .collect();
    let parsed: Vec<_> = values
        .iter()
        .map(|event| kafka_log::parse(&event.text, &mut times))
        .collect();
    let headers = headers();
    let origin = origin(&headers);
    let router = router();
    let mut next = (0..values.len()).cycle();
    measure("route", events, |_| {
        let i = next.next().expect("a cycle goes on");
        black_box(router.route(&Fields {
            event: &values[i],
            parsed: &parsed[i],
            origin: &origin,
        }));
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
        let fields = Fields {
            event: &event,
            parsed: &parsed,
            origin: &origin,
        };
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

/// Returns the events of the logs; in these, each starts with `[2`, the first digit of its year.
fn events() -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/logs");
    let mut events: Vec<String> = Vec::new();
    for entry in fs::read_dir(dir).expect("the logs are there") {
        let log = fs::read_to_string(entry.expect("an entry").path()).expect("a log");
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

/// Runs `stage` over all events and prints what one of them cost.
fn measure(name: &str, events: &[String], mut stage: impl FnMut(&str)) {
    let cpu_time = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::try_from(time).expect("CPU time is not negative")
    };
    let rounds = (0..N_ROUNDS).map(|_| {
        let start = cpu_time();
        events.iter().for_each(|event| stage(event));
        cpu_time() - start
    });
    let fastest = rounds.min().expect("at least one round");
    let n_events = u128::try_from(events.len()).expect("a count");
    let ns = fastest.as_nanos() / n_events;
    let event_len = events.iter().map(String::len).sum::<usize>() / events.len();
    println!("{name}: {ns} ns per event, {event_len}-byte events");
}
