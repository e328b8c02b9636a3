//! Which topic, partition, key and time stamp a file's records get.

mod support;

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use support::tail::{LIMIT, Scene, lines, numbered};
use support::{Record, TopicReader};

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    now.as_millis() as i64
}

#[test]
fn a_topic_is_named_after_the_file_and_no_byte_of_its_name_does_harm() {
    let mut scene = Scene::new("*.log");
    scene.set("[[input]]", "topic", "\"{env}.{file}\"");
    scene.set("[[input]]", "fields", "{ env = \"prod eu\" }");
    let mut readers = ["prod_eu.server.log", "prod_eu.a__3.log"].map(|topic| {
        scene.cluster.create_topic(topic, 1, 1).expect("a topic");
        TopicReader::new(&scene.cluster.bootstrap_servers(), topic, 1)
    });
    scene.logs.append("server.log", lines(0..3));
    scene.logs.append("a\u{1b}[3.log", lines(3..5));
    let shipper = scene.start();
    let values = |reader: &mut TopicReader, n| {
        reader.read(n, LIMIT).iter().map(Record::text).collect::<Vec<_>>()
    };
    assert_eq!(values(&mut readers[0], 3), numbered(0..3));
    assert_eq!(values(&mut readers[1], 2), numbered(3..5));
    scene.stop(shipper);
}

#[test]
fn the_key_is_what_the_operator_says_and_each_file_keeps_its_order() {
    for (key_is, expected) in
        [("\"file\"", None), ("\"host\"", Some("h1")), ("\"{host}:{file}\"", Some("h1:server.log"))]
    {
        let mut scene = Scene::with_partitions("*.log", 4);
        scene.set("[[input]]", "key", key_is);
        let shipper = scene.start();
        scene.logs.append("server.log", lines(0..300));
        scene.wait_for_records(300, &shipper);
        let expected = expected.map_or_else(
            || format!("h1{}", scene.logs.path("server.log").display()),
            str::to_owned,
        );
        let records = scene.records();
        assert!(records.iter().all(|record| record.key == expected.as_bytes()));
        assert!(records.iter().all(|record| record.partition == records[0].partition));
        assert_eq!(scene.values_after(300, shipper), numbered(0..300));
    }
}

/// Each batch goes to another partition; killed amid it, nothing is lost and nothing repeated.
#[test]
fn without_a_key_batches_go_round_all_partitions_and_a_kill_repeats_none() {
    const N: usize = 20_000;
    let mut scene = Scene::with_partitions("*.log", 4);
    scene.set("[[input]]", "key", "\"none\"");
    scene.set("[batch]", "count_max", "100");
    scene.logs.append("server.log", lines(0..N));
    for n in 1..=4 {
        let shipper = scene.start();
        scene.wait_for_records(n * N / 5, &shipper);
        shipper.kill();
    }
    let shipper = scene.start();
    scene.wait_for_records(N, &shipper);
    scene.stop(shipper);
    let records = scene.records();
    assert!(records.iter().all(|record| record.key.is_empty()));
    let mut by_partition: BTreeMap<i32, usize> = BTreeMap::new();
    records.iter().for_each(|record| *by_partition.entry(record.partition).or_default() += 1);
    assert_eq!(by_partition.len(), 4);
    assert!(by_partition.values().all(|n| (N / 8..N / 2).contains(n)), "{by_partition:?}");
    let mut values = scene.values();
    values.sort();
    let mut expected = numbered(0..N);
    expected.sort();
    assert!(values == expected, "{} records of {N}", values.len());
}

#[test]
fn the_time_stamp_is_the_events_own_where_it_has_one_that_has_come() {
    let began = now_ms();
    let mut scene = Scene::new("server.log");
    scene.set("[[input]]", "timestamp", "\"event\"");
    let shipper = scene.start();
    let events = "[2026-01-02T03:04:05.678Z] INFO a\n2026-01-02 03:04:06+0000 b\nno time\n\
                  [2999-01-01T00:00:00Z] INFO not yet\n";
    scene.logs.append("server.log", events);
    scene.wait_for_records(4, &shipper);
    scene.stop(shipper);
    let times: Vec<i64> = scene.records().iter().map(|record| record.timestamp_ms).collect();
    assert_eq!(times[..2], [1_767_323_045_678, 1_767_323_046_000]);
    let read = began..=now_ms();
    assert!(times[2..].iter().all(|time| read.contains(time)), "{times:?} {read:?}");
}
