//! The producer against librdkafka's mock cluster, a second implementation of a broker, with
//! librdkafka reading back what arrived.

mod common;

use std::time::Duration;

use common::{Sample, config, deliver, read_back, samples, send, unique_topic};
use crossbeam_channel::unbounded;
use log_shipper::config::Compression;
use log_shipper::kafka::producer::{Delivery, Producer};
use log_shipper::kafka::record_batch::partition_for;
use rdkafka::mocking::MockCluster;

fn by_partition(batches: &[(i32, Vec<Sample>)]) -> Vec<(i32, Sample)> {
    let samples = |(partition, samples): &(i32, Vec<Sample>)| {
        let partition = *partition;
        let pairs = samples.iter().map(move |sample| (partition, sample.clone()));
        pairs.collect::<Vec<_>>()
    };
    let mut expected: Vec<_> = batches.iter().flat_map(samples).collect();
    expected.sort_by_key(|(partition, _)| *partition);
    expected
}

fn batches(n_partitions: i32) -> Vec<(i32, Vec<Sample>)> {
    (0..24)
        .map(|n| {
            let key = format!("host/{n}");
            (partition_for(key.as_bytes(), n_partitions), samples(n * 100, 100))
        })
        .collect()
}

#[test]
fn records_of_several_partitions_on_three_brokers_arrive_as_they_were_sent() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let cluster = MockCluster::new(3).unwrap();
        let topic = unique_topic();
        cluster.create_topic(&topic, 7, 1).unwrap();
        let bootstrap = cluster.bootstrap_servers();
        let producer = Producer::start(&config(&bootstrap), compression, None).unwrap();
        let batches = batches(7);
        deliver(&producer, &topic, &batches);
        let read = read_back(&bootstrap, &topic, 7, 2400);
        assert!(read == by_partition(&batches), "{compression:?}");
    }
}

/// Torture: 66.
#[test]
fn a_broker_that_goes_and_comes_back_loses_nothing() {
    let cluster = MockCluster::new(2).unwrap();
    let topic = unique_topic();
    cluster.create_topic(&topic, 1, 1).unwrap();
    cluster.partition_leader(&topic, 0, Some(2)).unwrap();
    let bootstrap = cluster.bootstrap_servers();
    let producer = Producer::start(&config(&bootstrap), Compression::Lz4, None).unwrap();
    let sent = [(0, samples(0, 100)), (0, samples(100, 100))];
    deliver(&producer, &topic, &sent[..1]);

    cluster.broker_down(2).unwrap();
    let (reply, deliveries) = unbounded();
    send(&producer, 1, &topic, 0, &sent[1].1, &reply);
    let recycled = deliveries.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(matches!(recycled, Delivery::Recycled(_)), "{recycled:?}");
    let settled = deliveries.recv_timeout(Duration::from_millis(500));
    assert!(settled.is_err(), "{settled:?}");

    cluster.partition_leader(&topic, 0, Some(1)).unwrap();
    let settled = deliveries.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(matches!(settled, Delivery::Settled(_)), "{settled:?}");
    cluster.broker_up(2).unwrap();
    assert_eq!(read_back(&bootstrap, &topic, 1, 200), by_partition(&sent));
}
