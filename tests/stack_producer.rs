//! The producer against a real broker, with librdkafka reading back what it wrote.
//!
//! Built with `--features stack`; `SHIPPER_STACK_KAFKA` names the broker, `host:port`.

mod common;

use std::sync::Arc;

use common::{Sample, config, deliver, read_back, samples, unique_topic};
use crossbeam_channel::unbounded;
use log_shipper::config::Compression;
use log_shipper::kafka::producer::{Delivery, Producer};

fn bootstrap() -> String {
    std::env::var("SHIPPER_STACK_KAFKA").expect("SHIPPER_STACK_KAFKA names the broker to test with")
}

fn check(compression: Compression) {
    let bootstrap = bootstrap();
    let topic = unique_topic();
    let mut config = config(&bootstrap);
    config.allow_auto_create_topics = true;
    let producer = Producer::start(&config, compression, None).unwrap();
    let (reply, deliveries) = unbounded();
    producer.describe(&topic, &reply);
    let Ok(Delivery::Topic { n_partitions, .. }) = deliveries.recv() else {
        panic!("not a topic");
    };

    let batches: Vec<(i32, Vec<Sample>)> =
        (0..40).map(|n| (n % n_partitions, samples(n as usize * 500, 500))).collect();
    deliver(&producer, &topic, &batches);

    assert_eq!(read_back(&bootstrap, &topic, n_partitions, 20_000), by_partition(&batches));
}

fn by_partition(batches: &[(i32, Vec<Sample>)]) -> Vec<(i32, Sample)> {
    let mut expected: Vec<_> = batches
        .iter()
        .flat_map(|(partition, samples)| samples.iter().map(|s| (*partition, s.clone())))
        .collect();
    expected.sort_by_key(|(partition, _)| *partition);
    expected
}

#[test]
fn uncompressed_records_arrive_as_they_were_sent() {
    check(Compression::None);
}

#[test]
fn gzip_records_arrive_as_they_were_sent() {
    check(Compression::Gzip);
}

#[test]
fn snappy_records_arrive_as_they_were_sent() {
    check(Compression::Snappy);
}

#[test]
fn lz4_records_arrive_as_they_were_sent() {
    check(Compression::Lz4);
}

#[test]
fn zstd_records_arrive_as_they_were_sent() {
    check(Compression::Zstd);
}

#[test]
fn batches_beyond_the_broker_limit_are_cut_and_a_single_record_comes_back() {
    let bootstrap = bootstrap();
    let topic: Arc<str> = unique_topic();
    let mut config = config(&bootstrap);
    config.allow_auto_create_topics = true;
    let producer = Producer::start(&config, Compression::None, None).unwrap();
    // The broker takes 1,048,588 bytes by default.
    let small = samples(0, 6000);
    let mut large = samples(6000, 3);
    large[1].value = vec![b'x'; 1_100_000];
    let batches = [(0, samples(7000, 10)), (0, small), (0, large), (0, samples(8000, 10))];
    let receipts = deliver(&producer, &topic, &batches);

    let rejects: Vec<_> = receipts.iter().flat_map(|r| &r.rejects).collect();
    assert_eq!(rejects.len(), 1);
    assert_eq!(rejects[0].value.len(), 1_100_000);
    let mut expected = by_partition(&batches);
    expected.retain(|(_, sample)| sample.value.len() < 1_100_000);
    let read = read_back(&bootstrap, &topic, 1, expected.len());
    assert!(read == expected, "{} records read, {} sent", read.len(), expected.len());
}
