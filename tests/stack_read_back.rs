//! What real brokers know of a producer when somebody asks, and what reading back finds: after
//! restarts, elections, expiry, deletion, retention and compaction, and without Read.
//!
//! Built with `--features stack`; the head of `tests/run` lists the variables.

mod common;
mod support;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use common::client::{Cluster, producers_at, wait_for_fetches};
use common::{GROUND_LEN, Sample, config, deliver, shipped};
use crossbeam_channel::never;
use log_shipper::config::Compression;
use log_shipper::kafka::producer::Producer;
use log_shipper::kafka::read_back::{Beginning, Found, Outcome, ReadBackError, read_back};
use support::stack::{OwnServer, PATIENCE, env, script, unique};
use support::wait_for;

/// Version, name and address of the brokers that all tests share.
fn shared() -> [(&'static str, String); 2] {
    [("kafka", env("SHIPPER_STACK_KAFKA")), ("kafka-old", env("SHIPPER_STACK_KAFKA_OLD"))]
}

const VERSIONS: [&str; 2] = ["4.1.1", "3.9.1"];

/// Starts a cluster of a test's own; returns it with its addresses.
fn own_cluster(version: &str, n_nodes: u32, extra: &str) -> (OwnServer, Cluster) {
    let port = env("SHIPPER_STACK_PORT").parse::<u32>().expect("a port");
    let settings = [
        ("KAFKA_VERSION", version),
        ("KAFKA_NODES", &n_nodes.to_string()),
        ("KAFKA_PORT", &port.to_string()),
        ("KAFKA_EXTRA", extra),
    ];
    let server = OwnServer::up("kafka.sh", ("KAFKA_NAME", "kafka-read-back"), &settings);
    let addresses: Vec<String> = (0..n_nodes).map(|n| format!("127.0.0.1:{}", port + n)).collect();
    (server, Cluster::new(&addresses.join(",")))
}

/// Sends ten batches of ours, with two of another host's among them; returns how many records
/// there are of each.
fn ship(cluster: &Cluster, topic: &str) -> (i32, i32) {
    let topic: Arc<str> = topic.into();
    let kafka = config(&cluster.bootstrap);
    let ours = Producer::start(&kafka, Compression::Lz4, None).expect("started");
    let theirs = Producer::start(&kafka, Compression::Zstd, None).expect("started");
    for n in 0..5 {
        deliver(&ours, &topic, &batches("us", n * 2, 2));
        if n < 2 {
            deliver(&theirs, &topic, &batches("them", n, 1));
        }
    }
    (10 * LEN as i32, 2 * LEN as i32)
}

const LEN: usize = 50;

fn batches(host: &str, first: usize, n: usize) -> Vec<(i32, Vec<Sample>)> {
    (first..first + n).map(|n| (0, shipped(host, "file-1", n * LEN, LEN))).collect()
}

/// The offsets at which [`ship`] puts records of ours, with the offset of each in its file.
fn shipped_places() -> Vec<(i64, u64)> {
    let len = LEN as i64;
    let others = [2 * len..3 * len, 5 * len..6 * len];
    let places = (0..12 * len).filter(|place| !others.iter().any(|them| them.contains(place)));
    places.zip(0..).map(|(place, n)| (place, n * GROUND_LEN)).collect()
}

fn look(cluster: &Cluster, topic: &str, from: i64) -> (Outcome, Vec<(i64, u64)>) {
    let (kafka, mut found) = (config(&cluster.bootstrap), Vec::new());
    let mut visit = |one: &Found| {
        assert_eq!((one.file_id.as_str(), one.length), ("file-1", GROUND_LEN));
        found.push((one.topic_offset, one.offset));
    };
    let outcome = read_back(&kafka, topic, 0, from, "us", u64::MAX, &never(), &mut visit);
    (outcome.expect("read"), found)
}

/// What the leader knows, without the ids: the epoch and last sequence number of each producer.
fn known(cluster: &Cluster, topic: &str) -> Vec<(i32, i32)> {
    let producers = cluster.producers(topic, 0).expect("described");
    let mut known: Vec<_> = producers.iter().map(|(_, epoch, last)| (*epoch, *last)).collect();
    known.sort_unstable();
    known
}

#[test]
fn a_leader_knows_the_last_sequence_of_each_producer_also_after_it_was_killed() {
    for (kafka_name, address) in shared() {
        let cluster = Cluster::new(&address);
        let topic = unique("producers");
        cluster.make_topic(&topic, 1, &[]);
        assert_eq!(known(&cluster, &topic), []);
        let (ours, theirs) = ship(&cluster, &topic);
        let expected = [(0, theirs - 1), (0, ours - 1)];
        assert_eq!(known(&cluster, &topic), expected);
        let (outcome, found) = look(&cluster, &topic, 0);
        assert_eq!(found, shipped_places());
        assert_eq!((outcome.n_records, outcome.to), (600, 600));

        let before = cluster.producers(&topic, 0);
        for command in ["kill", "start"] {
            script("kafka.sh", &[("KAFKA_NAME", kafka_name)], &[command, "1"]);
        }
        assert_eq!(cluster.producers(&topic, 0), before);
        assert_eq!(look(&cluster, &topic, 0).1, shipped_places());
    }
}

#[test]
fn the_leader_elected_after_the_old_one_was_killed_knows_as_much() {
    for version in VERSIONS {
        let (server, cluster) = own_cluster(version, 3, "");
        let topic = unique("producers");
        cluster.make_topic(&topic, 1, &[]);
        ship(&cluster, &topic);
        let (before, leader) = (cluster.producers(&topic, 0), cluster.leader(&topic, 0));
        assert_eq!(before.as_ref().map(Vec::len), Ok(2));

        let (leader_node, others) = nodes(&cluster, &leader);
        for (_, address) in &others {
            // A follower answers, too, with what it knows: only the leader is to be asked.
            let followers = || (producers_at(address, &topic, 0) == before).then_some(());
            wait_for(PATIENCE, "answer of a follower", followers, String::new);
        }
        server.run(&["kill", &leader_node]);
        cluster.leader_but(&topic, 0, &leader);
        assert_eq!(cluster.producers(&topic, 0), before);
        assert_eq!(look(&cluster, &topic, 0).1, shipped_places());
    }
}

/// Returns the number of the leader's node, and number and address of the others.
fn nodes(cluster: &Cluster, leader: &str) -> (String, Vec<(String, String)>) {
    let numbered = cluster.bootstrap.split(',').zip(1..);
    let nodes = numbered.map(|(address, n)| (n.to_string(), address.to_owned()));
    let (leaders, others): (Vec<_>, Vec<_>) = nodes.partition(|(_, address)| address == leader);
    (leaders[0].0.clone(), others)
}

#[test]
fn what_a_leader_lists_may_be_lost_with_it_and_a_resend_tells() {
    for version in VERSIONS {
        let (server, cluster) = own_cluster(version, 3, "");
        let topic = unique("producers");
        cluster.make_topic(&topic, 1, &[]);
        let (id, leader) = (cluster.producer_id(), cluster.leader(&topic, 0));
        let len = LEN as i32;
        let send = |n: i32| {
            let samples = shipped("us", "file-1", n as usize * LEN, LEN);
            cluster.produce((&topic, 0), id, n * len, &samples)
        };
        assert_eq!(send(0), Ok(0));
        let (leader_node, others) = nodes(&cluster, &leader);
        for (node, _) in &others {
            server.run(&["pause", node]);
        }
        wait_for_fetches(&leader, &topic, 0, len as i64);
        assert_eq!(send(1), Err(TIMED_OUT), "appended, not replicated");
        assert_eq!(producers_at(&leader, &topic, 0), Ok(vec![(id.0, 0, 2 * len - 1)]));
        assert_eq!(send(1), Err(TIMED_OUT), "a repeat waits for the replicas, too");

        server.run(&["kill", &leader_node]);
        for (node, _) in &others {
            server.run(&["resume", node]);
        }
        cluster.leader_but(&topic, 0, &leader);
        assert_eq!(cluster.producers(&topic, 0), Ok(vec![(id.0, 0, len - 1)]));
        assert_eq!(send(1), Ok(len as i64));
    }
}

/// Code of an answer where the replicas took too long.
const TIMED_OUT: i16 = 7;

#[test]
fn an_expired_producer_is_not_listed_and_any_sequence_of_it_is_taken() {
    for version in VERSIONS {
        let extra = "producer.id.expiration.ms=5000;producer.id.expiration.check.interval.ms=500";
        let (_server, cluster) = own_cluster(version, 1, extra);
        let topic = unique("producers");
        cluster.make_topic(&topic, 1, &[]);
        let id = cluster.producer_id();
        let send = |base_sequence| {
            let samples = shipped("us", "file-1", base_sequence as usize, LEN);
            cluster.produce((&topic, 0), id, base_sequence, &samples)
        };
        let len = LEN as i32;
        assert_eq!(send(0), Ok(0));
        assert_eq!(send(0), Ok(0), "a repeat is recognised");
        assert_eq!(send(7 * len), Err(45), "a gap is refused");
        assert_eq!(cluster.producers(&topic, 0), Ok(vec![(id.0, 0, len - 1)]));

        let is_forgotten = || (cluster.producers(&topic, 0) == Ok(vec![])).then_some(());
        wait_for(Duration::from_secs(30), "end of the producer", is_forgotten, String::new);
        assert_eq!(send(7 * len), Ok(len as i64), "a gap is taken");
        assert_eq!(cluster.producers(&topic, 0), Ok(vec![(id.0, 0, 8 * len - 1)]));
        wait_for(Duration::from_secs(30), "end of the producer", is_forgotten, String::new);
        assert_eq!(send(0), Ok(2 * len as i64), "a repeat is appended again");
        let (_, found) = look(&cluster, &topic, 0);
        assert_eq!(found.len(), 3 * LEN);
    }
}

#[test]
fn a_producer_expires_by_the_time_stamps_of_its_records_not_by_when_they_came() {
    for version in VERSIONS {
        // An hour: nothing expires here but by its time stamps.
        let extra =
            "producer.id.expiration.ms=3600000;producer.id.expiration.check.interval.ms=500";
        let (_server, cluster) = own_cluster(version, 1, extra);
        let topic = unique("producers");
        cluster.make_topic(&topic, 1, &[]);
        let (id, old_id) = (cluster.producer_id(), cluster.producer_id());
        let mut samples = shipped("us", "file-1", 0, 1);
        assert_eq!(cluster.produce((&topic, 0), id, 0, &samples), Ok(0));
        samples[0].timestamp_ms -= 2 * 3_600_000;
        assert_eq!(cluster.produce((&topic, 0), old_id, 0, &samples), Ok(1));
        let one_is_left = || (cluster.producers(&topic, 0) == Ok(vec![(id.0, 0, 0)])).then_some(());
        wait_for(Duration::from_secs(30), "end of the producer", one_is_left, String::new);
        assert_eq!(cluster.produce((&topic, 0), old_id, 0, &samples), Ok(2), "appended again");
    }
}

#[test]
fn a_topic_made_anew_knows_no_producer() {
    for (_, address) in shared() {
        let cluster = Cluster::new(&address);
        let topic = unique("producers");
        cluster.make_topic(&topic, 1, &[]);
        ship(&cluster, &topic);
        cluster.delete_topic(&topic);
        cluster.make_topic(&topic, 1, &[]);
        assert_eq!(known(&cluster, &topic), []);
        let (outcome, found) = look(&cluster, &topic, 600);
        assert_eq!((outcome.beginning, outcome.from, outcome.to), (Beginning::Unknown, 0, 0));
        assert_eq!(found, []);

        let id = cluster.producer_id();
        let samples = shipped("us", "file-1", 0, LEN);
        assert_eq!(cluster.produce((&topic, 0), id, 4711, &samples), Ok(0), "any sequence");
        let (outcome, found) = look(&cluster, &topic, 600);
        assert_eq!((outcome.beginning, outcome.from, outcome.to), (Beginning::Unknown, 0, 50));
        assert_eq!(found.len(), LEN);
    }
}

#[test]
fn producers_are_known_after_retention_took_their_records() {
    for (kafka_name, address) in shared() {
        let cluster = Cluster::new(&address);
        let topic = unique("producers");
        cluster.make_topic(&topic, 1, &[]);
        let (ours, theirs) = ship(&cluster, &topic);
        let expected = [(0, theirs - 1), (0, ours - 1)];
        for (log_start, n_found) in [(110, 400), (600, 0)] {
            cluster.delete_records(&topic, 0, log_start);
            assert_eq!(known(&cluster, &topic), expected, "from {log_start}");
            let (outcome, found) = look(&cluster, &topic, 10);
            assert_eq!((outcome.beginning, outcome.from), (Beginning::Gone, log_start));
            assert_eq!((outcome.to, found.len()), (600, n_found));
        }
        for command in ["kill", "start"] {
            script("kafka.sh", &[("KAFKA_NAME", kafka_name)], &[command, "1"]);
        }
        assert_eq!(known(&cluster, &topic), expected, "after a restart");
    }
}

#[test]
fn a_compacted_topic_is_read_to_its_end() {
    for (_, address) in shared() {
        let cluster = Cluster::new(&address);
        let topic = unique("producers");
        let configs = [
            ("cleanup.policy", "compact"),
            ("segment.ms", "100"),
            ("min.cleanable.dirty.ratio", "0.0001"),
            ("delete.retention.ms", "100"),
        ];
        cluster.make_topic(&topic, 1, &configs);
        let (ours, theirs) = ship(&cluster, &topic);
        // A segment ends with the first record that is so much younger than its own first ones.
        thread::sleep(Duration::from_secs(1));
        let id = cluster.producer_id();
        let samples = shipped("us", "file-1", ours as usize, 1);
        assert_eq!(cluster.produce((&topic, 0), id, 0, &samples), Ok(600));

        let look = || {
            let (outcome, found) = look(&cluster, &topic, 0);
            assert_eq!((outcome.from, outcome.to), (0, 601));
            // All records of a file have the same key.
            (outcome.n_records < 601).then_some(found)
        };
        let found = wait_for(Duration::from_secs(90), "compaction", look, String::new);
        assert!(found.ends_with(&[(600, ours as u64 * GROUND_LEN)]), "{found:?}");
        let known = known(&cluster, &topic);
        assert_eq!(known, [(0, 0), (0, theirs - 1), (0, ours - 1)]);
    }
}

#[test]
fn where_read_is_denied_neither_way_is_open() {
    const TOPIC: i8 = 2;
    const GROUP: i8 = 3;
    const READ: i8 = 3;
    const WRITE: i8 = 4;
    const DESCRIBE: i8 = 8;
    for version in VERSIONS {
        let extra = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer;\
                     allow.everyone.if.no.acl.found=true";
        let (_server, cluster) = own_cluster(version, 1, extra);
        let (denied, granted) = (unique("denied"), unique("granted"));
        for topic in [&denied, &granted] {
            cluster.make_topic(topic, 1, &[]);
            cluster.allow((TOPIC, topic), "User:ANONYMOUS", WRITE);
            cluster.allow((TOPIC, topic), "User:ANONYMOUS", DESCRIBE);
        }
        cluster.allow((TOPIC, &granted), "User:ANONYMOUS", READ);
        // Nothing of any group is asked of the operator.
        cluster.allow((GROUP, "*"), "User:nobody", READ);
        for topic in [&denied, &granted] {
            ship(&cluster, topic);
        }

        assert_eq!(cluster.producers(&denied, 0), Err(29));
        let kafka = config(&cluster.bootstrap);
        for from in [0, -1] {
            let outcome =
                read_back(&kafka, &denied, 0, from, "us", u64::MAX, &never(), &mut |_| {});
            let Err(ReadBackError::Denied { topic }) = outcome else {
                panic!("{version}: {outcome:?}");
            };
            assert_eq!(topic, denied);
        }
        assert_eq!(cluster.producers(&granted, 0).map(|known| known.len()), Ok(2));
        assert_eq!(look(&cluster, &granted, 0).1, shipped_places());
    }
}
