//! `shipper tail` and a real topic that takes less than its events have.
//!
//! Built with `--features stack`; the head of `tests/run` lists the variables.

mod support;

use std::fs;
use std::path::Path;

use support::stack::{N_PARTITIONS, PATIENCE, env, make_topic, script, unique, write_config};
use support::{Record, Shipper, TopicReader, counter};

/// What the topic takes.
const MAX_MESSAGE_BYTES: usize = 40_000;
/// An event beyond that, which leaves in eight parts: seven halvings of the largest part.
const LONG: usize = 200_000;

/// Events of which each third is too large; what they hold says where they stand.
fn events() -> Vec<String> {
    let event = |n: usize| match n % 3 {
        1 => format!("{n:06}").repeat(LONG / 6),
        _ => format!("{n:06} short"),
    };
    (0..30).map(event).collect()
}

/// What a tail with this policy makes of the events, its log and its counters.
fn ship(folder: &Path, policy: &str) -> (Vec<Record>, String) {
    let kafka = env("SHIPPER_STACK_KAFKA");
    let topic = unique(&format!("large-{policy}"));
    make_topic(&kafka, &topic);
    let class = "kafka.admin.ConfigCommand";
    let set = format!("max.message.bytes={MAX_MESSAGE_BYTES}");
    let arguments = ["tool", class, "--bootstrap-server", &kafka, "--alter", "--topic", &topic];
    let arguments = [&arguments[..], &["--add-config", &set]].concat();
    script("kafka.sh", &[("KAFKA_NAME", "kafka")], &arguments);

    let log = folder.join(format!("{policy}.log"));
    fs::write(&log, events().join("\n") + "\n").expect("written");
    let text = format!(
        "state_dir = {:?}\nhost = \"h1\"\nkafka.bootstrap_servers = [\"{kafka}\"]\n\
         batch.compression = \"none\"\ntail.record_too_large = {policy:?}\n\
         [[input]]\npaths = [{log:?}]\ntopic = {topic:?}\nmultiline = {{ profile = \"none\" }}\n",
        folder.join(policy)
    );
    let tail = Shipper::start("tail", &write_config(folder, &format!("{policy}.toml"), &text));
    let mut reader = TopicReader::new(&kafka, &topic, N_PARTITIONS);
    let last = events().pop().expect("there are some");
    support::wait_for(
        PATIENCE,
        "the last event",
        || {
            reader.read_for(std::time::Duration::from_millis(100));
            reader.records.iter().any(|record| record.text() == last).then_some(())
        },
        || tail.log(),
    );
    let (status, log) = tail.stop(PATIENCE);
    assert!(status.success(), "{log}");
    assert!(
        log.contains("takes no record larger than 40KB (max.message.bytes)")
            && log.contains("are kept below its max.message.bytes (40KB)"),
        "{log}"
    );
    (reader.records, log)
}

/// Sees that the records cover the file, each byte once and in order.
fn check_ground(records: &[Record], log: &Path) {
    let mut end = 0;
    for record in records {
        assert_eq!(record.number("offset"), end, "{}", record.text());
        end += record.number("length");
    }
    assert_eq!(end, fs::metadata(log).expect("there").len());
}

/// Torture: 37, 74.
#[test]
fn what_a_topic_does_not_take_whole_is_dealt_with_as_the_operator_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);

    let (records, log) = ship(folder.path(), "split");
    check_ground(&records, &file("split.log"));
    let mut whole: Vec<String> = Vec::new();
    for record in &records {
        assert!(record.text().len() < MAX_MESSAGE_BYTES);
        let continued = record.headers.iter().any(|(name, _)| name == "continued");
        match whole.last_mut().filter(|_| continued) {
            Some(event) => *event += &record.text(),
            None => whole.push(record.text()),
        }
    }
    assert!(whole == events(), "{} events of {}", whole.len(), events().len());
    assert_eq!(log.matches("a record is cut, and so will others be").count(), 1, "{log}");

    let (records, log) = ship(folder.path(), "truncate");
    check_ground(&records, &file("truncate.log"));
    let mut n_cut = 0;
    for (record, event) in records.iter().zip(events()) {
        let text = record.text();
        assert!(event.starts_with(&text) && text.len() >= event.len().min(MAX_MESSAGE_BYTES / 2));
        if text.len() < event.len() {
            assert_eq!(record.number("cut") as usize, event.len() - text.len());
            n_cut += event.len() - text.len();
        }
    }
    assert_eq!(records.len(), events().len());
    let stopped = log.lines().rev().find(|line| line.contains("tail stopped")).expect("counters");
    assert_eq!(counter(stopped, "events_cut"), 10, "{stopped}");
    assert_eq!(counter(stopped, "bytes_cut"), n_cut as u64, "{stopped}");

    let (records, log) = ship(folder.path(), "reject");
    let short: Vec<String> = events().into_iter().filter(|event| event.len() < LONG / 2).collect();
    assert_eq!(records.iter().map(Record::text).collect::<Vec<_>>(), short);
    let rejected = fs::read_to_string(file("reject/rejected.ndjson")).expect("there");
    let expected: Vec<String> = events().into_iter().filter(|it| it.len() > LONG / 2).collect();
    assert_eq!(rejected.lines().count(), expected.len());
    for (line, event) in rejected.lines().zip(&expected) {
        assert!(line.contains(&**event) && line.contains("MESSAGE_TOO_LARGE"));
    }
    let stopped = log.lines().rev().find(|line| line.contains("tail stopped")).expect("counters");
    assert_eq!(counter(stopped, "records_rejected"), 10, "{stopped}");
}
