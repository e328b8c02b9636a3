//! Records to send, ways to send them and to read them back, and a broker that makes trouble.

// Each test file uses a part of it.
#![allow(dead_code)]

pub mod broker;
pub mod client;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Sender, unbounded};
use log_shipper::batch::Batch;
use log_shipper::config::{Config, KafkaConfig};
use log_shipper::kafka::producer::{Delivery, Producer, Receipt};
use log_shipper::kafka::record_batch::{Headers, RecordArena, put_header};
use log_shipper::record::{BatchId, SourceId, Span};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers as _, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

/// A record in plain sight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
    pub headers: Vec<(String, Vec<u8>)>,
}

/// Returns `n` records, numbered from `first` on, of various shapes.
pub fn samples(first: usize, n: usize) -> Vec<Sample> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let sample = |n: usize| Sample {
        // Forwards, backwards, and equal.
        timestamp_ms: now.as_millis() as i64 + [0, 700, -300, 5][n % 4],
        key: (!n.is_multiple_of(3)).then(|| b"host/var/log/kafka/server.log".to_vec()),
        value: match n % 5 {
            0 => Vec::new(),
            1 => vec![0, 0xff, b'\n', n as u8],
            _ => format!(
                "[2026-01-02 03:04:05,{n:03}] INFO [Log partition=orders-{n}] rolled segment \
                 (kafka.log.Log){}",
                "é".repeat(n % 90)
            )
            .into_bytes(),
        },
        headers: (0..n % 4)
            .map(|i| (format!("header-{i}"), format!("{n}:{i}").into_bytes()))
            .collect(),
    };
    (first..first + n).map(sample).collect()
}

/// `n` batches for partition 0 of ten records each, which are numbered throughout.
pub fn batches(n: usize) -> Vec<(i32, Vec<Sample>)> {
    (0..n).map(|n| (0, numbered(n * 10, 10))).collect()
}

pub fn numbered(first: usize, n: usize) -> Vec<Sample> {
    let mut samples = samples(first, n);
    for (n, sample) in samples.iter_mut().enumerate() {
        sample.value = (first + n).to_string().into_bytes();
    }
    samples
}

pub fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// Bytes of ground that each record of [`shipped`] covers.
pub const GROUND_LEN: u64 = 100;

/// Returns `n` records as the tail walk of `host` ships them, from the `first` of a file on.
pub fn shipped(host: &str, file_id: &str, first: usize, n: usize) -> Vec<Sample> {
    let sample = |mut sample: Sample, n: usize| {
        let offset = n as u64 * GROUND_LEN;
        let headers = [
            ("host", host.to_owned()),
            ("path", "/var/log/kafka/server.log".to_owned()),
            ("file_id", file_id.to_owned()),
            ("team", "x".repeat(n % 9)),
            ("offset", offset.to_string()),
            ("length", GROUND_LEN.to_string()),
        ];
        let header = |(name, value): (&str, String)| (name.to_owned(), value.into_bytes());
        sample.headers = headers.map(header).to_vec();
        sample.key = Some(format!("{host}/var/log/kafka/server.log").into_bytes());
        sample
    };
    samples(first, n).into_iter().zip(first..).map(|(s, n)| sample(s, n)).collect()
}

/// Encodes records as the tail walk does.
pub fn arena(samples: &[Sample]) -> RecordArena {
    let mut arena = RecordArena::with_capacity(0);
    for sample in samples {
        let mut fixed = Vec::new();
        let mut varying = Vec::new();
        for (n, (name, value)) in sample.headers.iter().enumerate() {
            put_header(if n == 0 { &mut fixed } else { &mut varying }, name, value);
        }
        let headers =
            Headers { count: sample.headers.len() as u32, fixed: &fixed, varying: &varying };
        arena.push(sample.timestamp_ms, sample.key.as_deref(), &sample.value, headers);
    }
    arena
}

/// Returns a configuration that loses no time; with `RUST_LOG=debug` the tests say what goes on.
pub fn config(bootstrap: &str) -> KafkaConfig {
    let _ = env_logger::builder().is_test(true).try_init();
    let servers: Vec<&str> = bootstrap.split(',').collect();
    let text = format!(
        "[kafka]\nbootstrap_servers = {servers:?}\nclient_id = \"shipper-test\"\n\
         retry_backoff = \"10ms\"\nretry_backoff_max = \"200ms\""
    );
    Config::parse(&text, Path::new("test.toml")).expect("a configuration").kafka
}

pub fn unique_topic() -> Arc<str> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    format!("test-{}", now.as_nanos()).into()
}

pub fn send(
    producer: &Producer,
    id: u64,
    topic: &Arc<str>,
    partition: i32,
    samples: &[Sample],
    reply: &Sender<Delivery>,
) {
    let batch = Batch {
        id: BatchId(id),
        topic: topic.clone(),
        partition,
        records: arena(samples),
        spans: vec![Span::new(SourceId(1), id, id + 1)],
        stamp: None,
        too_large: None,
    };
    producer.send(batch, reply);
}

/// Sends batches and waits until all are settled; the receipts are in the order of the batches.
pub fn deliver(
    producer: &Producer,
    topic: &Arc<str>,
    batches: &[(i32, Vec<Sample>)],
) -> Vec<Receipt> {
    let (reply, deliveries) = unbounded();
    for (id, (partition, samples)) in batches.iter().enumerate() {
        send(producer, id as u64, topic, *partition, samples, &reply);
    }
    let mut receipts = BTreeMap::new();
    let deadline = Instant::now() + Duration::from_secs(60);
    while receipts.len() < batches.len() {
        match deliveries.recv_deadline(deadline) {
            Ok(Delivery::Settled(receipt)) => {
                let former = receipts.insert(receipt.batch, receipt);
                assert!(former.is_none(), "settled twice: {former:?}");
            }
            Ok(Delivery::Fatal(reason)) => panic!("{reason}"),
            Ok(_) => {}
            Err(_) => panic!("{} of {} batches settled", receipts.len(), batches.len()),
        }
    }
    receipts.into_values().collect()
}

/// Reads `n` records of a topic, sorted by partition, and sees that no more are there.
pub fn read_back(bootstrap: &str, topic: &str, n_partitions: i32, n: usize) -> Vec<(i32, Sample)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "none")
        .set("check.crcs", "true")
        .create()
        .unwrap();
    let mut assignment = TopicPartitionList::new();
    for partition in 0..n_partitions {
        let offset = Offset::Beginning;
        assignment.add_partition_offset(topic, partition, offset).unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let mut read = Vec::new();
    let mut deadline = Instant::now() + Duration::from_secs(30);
    let mut is_complete = false;
    while Instant::now() < deadline {
        if read.len() >= n && !is_complete {
            // Whatever is there too many must be given the time to show itself.
            is_complete = true;
            deadline = Instant::now() + Duration::from_millis(500);
        }
        let Some(message) = consumer.poll(Duration::from_millis(50)) else {
            continue;
        };
        let message = message.unwrap();
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            headers
                .iter()
                .map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec()))
                .collect()
        });
        read.push((
            message.partition(),
            Sample {
                timestamp_ms: message.timestamp().to_millis().unwrap(),
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().unwrap_or_default().to_vec(),
                headers,
            },
        ));
    }
    read.sort_by_key(|(partition, _)| *partition);
    read
}
