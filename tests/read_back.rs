//! Reading back, against librdkafka's mock cluster.

mod common;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::broker::{Broker, Description};
use common::client::{Cluster, producers_at};
use common::{GROUND_LEN, Sample, config, deliver, samples, shipped, unique_topic};
use crossbeam_channel::{bounded, never};
use log_shipper::config::Compression;
use log_shipper::kafka::producer::Producer;
use log_shipper::kafka::read_back::{Beginning, Found, Outcome, ReadBackError, read_back};
use rdkafka::mocking::MockCluster;

/// A topic of two partitions of which the first holds these records.
fn topic_of(cluster: &MockCluster<'_, impl rdkafka::ClientContext>, batches: Batches) -> Arc<str> {
    let topic = unique_topic();
    cluster.create_topic(&topic, 2, 1).unwrap();
    let kafka = config(&cluster.bootstrap_servers());
    let producer = Producer::start(&kafka, Compression::Lz4, None).unwrap();
    let batches: Vec<_> = batches.into_iter().map(|batch| (0, batch)).collect();
    deliver(&producer, &topic, &batches);
    topic
}

type Batches = Vec<Vec<Sample>>;

/// Ours, others', and such as say nothing of where they come from, in turn.
fn mixed(n_batches: usize, len: usize) -> Batches {
    (0..n_batches)
        .map(|n| match n % 4 {
            0 | 2 => shipped("us", "file-1", n / 2 * len, len),
            1 => shipped("them", "file-1", n * len, len),
            _ => samples(n * len, len),
        })
        .collect()
}

fn look(bootstrap: &str, topic: &str, from: i64, bytes_max: u64) -> (Outcome, Vec<Found>) {
    let mut found = Vec::new();
    let mut visit = |one: &Found| found.push(one.clone());
    let kafka = config(bootstrap);
    let outcome = read_back(&kafka, topic, 0, from, "us", bytes_max, &never(), &mut visit);
    (outcome.unwrap(), found)
}

/// What stands at these places of a partition that holds [`mixed`] batches.
fn expected(offsets: std::ops::Range<i64>, len: i64) -> Vec<Found> {
    let found = |at: i64| {
        let (batch, n) = (at / len, at % len);
        let number = (batch / 2 * len + n) as usize;
        let value = &samples(number, 1)[0].value;
        (batch % 2 == 0).then(|| Found {
            file_id: "file-1".into(),
            offset: number as u64 * GROUND_LEN,
            length: GROUND_LEN,
            topic_offset: at,
            value: Some((value.len(), crc32c::crc32c(value))),
        })
    };
    offsets.filter_map(found).collect()
}

#[test]
fn records_of_this_host_are_found_among_those_of_others() {
    let cluster = MockCluster::new(2).unwrap();
    let topic = topic_of(&cluster, mixed(8, 50));
    let bootstrap = cluster.bootstrap_servers();
    for from in [0, 120, 399, 400] {
        let (outcome, found) = look(&bootstrap, &topic, from, u64::MAX);
        assert_eq!(found, expected(from..400, 50));
        assert_eq!((outcome.from, outcome.to), (from, 400));
        assert_eq!((outcome.beginning, outcome.bound_reached), (Beginning::Asked, false));
        assert_eq!(outcome.n_records, 400 - from as u64);
        assert_eq!(outcome.n_found, found.len() as u64);
    }
}

#[test]
fn the_newest_records_are_read_up_to_the_bound() {
    let cluster = MockCluster::new(1).unwrap();
    let n = 20_000; // Several pieces.
    let topic = topic_of(&cluster, mixed(8, n / 8));
    let bootstrap = cluster.bootstrap_servers();
    let sorted = |mut found: Vec<Found>| {
        found.sort_by_key(|one| one.topic_offset);
        found
    };
    let (n, len) = (n as i64, n as i64 / 8);
    // An offset this partition never had tells as little as none.
    let cases = [
        (-1, 0, Beginning::Unknown),
        (n + 1, 0, Beginning::Unknown),
        (0, 0, Beginning::Asked),
        (3000, 3000, Beginning::Asked),
    ];
    for (asked, from, beginning) in cases {
        let (all, found) = look(&bootstrap, &topic, asked, u64::MAX);
        assert_eq!((all.from, all.to), (from, n));
        assert_eq!((all.beginning, all.bound_reached), (beginning, false));
        assert_eq!(all.n_records, (n - from) as u64);
        assert!(sorted(found) == expected(from..n, len), "{all:?}");
        assert_eq!(look(&bootstrap, &topic, asked, all.n_bytes).0, all);

        let (outcome, found) = look(&bootstrap, &topic, asked, all.n_bytes * 3 / 4);
        assert_eq!((outcome.beginning, outcome.bound_reached), (beginning, true));
        assert_eq!(outcome.to, n);
        assert!((from + 1..n).contains(&outcome.from), "{outcome:?}");
        let whole = expected(outcome.from..n, len);
        let found = sorted(found);
        assert!(found.ends_with(&whole), "{} found, {} expected", found.len(), whole.len());

        let (outcome, found) = look(&bootstrap, &topic, asked, 0);
        assert!(outcome.bound_reached && found.is_empty(), "{outcome:?}");
        assert_eq!((outcome.from, outcome.to), (n, n));
    }
}

#[test]
fn an_empty_partition_is_read_at_once() {
    let cluster = MockCluster::new(1).unwrap();
    let topic = unique_topic();
    cluster.create_topic(&topic, 1, 1).unwrap();
    for from in [-1, 0] {
        let (outcome, found) = look(&cluster.bootstrap_servers(), &topic, from, u64::MAX);
        assert_eq!((outcome.from, outcome.to, outcome.n_records), (0, 0, 0));
        assert_eq!(found, []);
    }
}

#[test]
fn a_partition_that_the_topic_has_not_is_an_error() {
    let cluster = MockCluster::new(1).unwrap();
    let topic = topic_of(&cluster, mixed(1, 1));
    let kafka = config(&cluster.bootstrap_servers());
    let outcome = read_back(&kafka, &topic, 2, 0, "us", 1, &never(), &mut |_| {});
    let Err(ReadBackError::NoPartition { partition: 2, .. }) = outcome else {
        panic!("{outcome:?}");
    };
}

#[test]
fn a_broker_that_remembers_producers_can_be_read_back_and_deny_it() {
    let broker = Broker::start();
    let (cluster, topic) = (Cluster::new(&broker.address), unique_topic());
    let id = cluster.producer_id();
    for (batch, base_sequence) in mixed(8, 50).iter().zip((0..).step_by(50)) {
        let offset = cluster.produce((&topic, 0), id, base_sequence, batch);
        assert_eq!(offset, Ok(i64::from(base_sequence)));
    }
    for from in [0, 120] {
        let (outcome, found) = look(&broker.address, &topic, from, u64::MAX);
        assert_eq!(found, expected(from..400, 50));
        assert_eq!((outcome.from, outcome.to), (from, 400));
    }
    broker.read_denied(true);
    let kafka = config(&broker.address);
    let outcome = read_back(&kafka, &topic, 0, 0, "us", 1, &never(), &mut |_| {});
    assert!(matches!(outcome, Err(ReadBackError::Denied { .. })), "{outcome:?}");
    assert_eq!(producers_at(&broker.address, &topic, 0), Err(29));

    broker.read_denied(false).descriptions([Description::Nobody, Description::Last(3, 7)]);
    let describe = || producers_at(&broker.address, &topic, 0);
    assert_eq!(describe(), Ok(vec![]));
    assert_eq!(describe(), Ok(vec![(1000, 3, 7)]));
    assert_eq!(describe(), Ok(vec![(1000, 0, 399)]));
    assert_eq!(broker.n_described(), 4);
}

#[test]
fn a_broker_that_is_away_is_waited_for_until_the_stop() {
    // Nobody listens there.
    let kafka = config("127.0.0.1:1");
    let (sender, stop) = bounded(1);
    let reading = thread::spawn(move || {
        let outcome = read_back(&kafka, "t", 0, 0, "us", 1, &stop, &mut |_| {});
        (outcome, Instant::now())
    });
    thread::sleep(Duration::from_millis(500));
    assert!(!reading.is_finished());
    let stopped_at = Instant::now();
    sender.send(()).unwrap();
    let (outcome, ended_at) = reading.join().unwrap();
    assert!(matches!(outcome, Err(ReadBackError::Stopped)), "{outcome:?}");
    assert!(ended_at - stopped_at < Duration::from_secs(10));
}

#[test]
fn a_broker_that_comes_back_is_read_on() {
    let cluster = MockCluster::new(1).unwrap();
    let topic = topic_of(&cluster, mixed(8, 50));
    let bootstrap = cluster.bootstrap_servers();
    cluster.broker_down(1).unwrap();
    let reading = thread::spawn(move || look(&bootstrap, &topic, 0, u64::MAX));
    thread::sleep(Duration::from_millis(500));
    assert!(!reading.is_finished());
    cluster.broker_up(1).unwrap();
    let (_, found) = reading.join().unwrap();
    assert_eq!(found, expected(0..400, 50));
}
