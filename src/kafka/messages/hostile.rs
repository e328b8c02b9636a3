//! Answers as a broken or hostile broker might send them: they are understood or refused, and take
//! no more memory than a small multiple of their own bytes.

use std::mem::size_of;

use kafka_protocol::messages as theirs;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse,
    TopicProduceResponse,
};
use kafka_protocol::protocol::{Encodable, HeaderVersion, StrBytes};

use super::super::mutations;
use super::*;

/// Bytes of memory for each byte of an answer: two bytes say that a string is absent, which takes
/// 24, and a list is given twice the room that it needs.
const MEMORY_PER_BYTE: usize = 32;
/// Room that a list is given for its first item.
const MEMORY_LEAST: usize = 1024;
/// Random answers for each valid one.
const N_RANDOM: usize = 1000;

/// What an answer holds on the heap.
trait Heap {
    fn heap(&self) -> usize;
}

impl Heap for String {
    fn heap(&self) -> usize {
        self.capacity()
    }
}

impl<T: Heap> Heap for Option<T> {
    fn heap(&self) -> usize {
        self.as_ref().map_or(0, T::heap)
    }
}

impl<T: Heap> Heap for Vec<T> {
    fn heap(&self) -> usize {
        self.capacity() * size_of::<T>() + self.iter().map(T::heap).sum::<usize>()
    }
}

/// Of what holds nothing more.
macro_rules! flat {
    ($($of:ty),*) => {$(impl Heap for $of {
        fn heap(&self) -> usize {
            0
        }
    })*};
}

flat!(i16, (i16, i16, i16), PartitionMetadata, ProducerIdAnswer, SaslAnswer<'_>);

impl<A: Heap, B: Heap> Heap for Result<A, B> {
    fn heap(&self) -> usize {
        self.as_ref().map_or_else(B::heap, A::heap)
    }
}

impl Heap for Versions {
    fn heap(&self) -> usize {
        self.0.heap()
    }
}

impl Heap for (i16, Vec<String>) {
    fn heap(&self) -> usize {
        self.1.heap()
    }
}

impl Heap for (i32, Option<String>) {
    fn heap(&self) -> usize {
        self.1.heap()
    }
}

impl Heap for BrokerMetadata {
    fn heap(&self) -> usize {
        self.address.heap()
    }
}

impl Heap for TopicMetadata {
    fn heap(&self) -> usize {
        self.name.heap() + self.partitions.heap()
    }
}

impl Heap for Metadata {
    fn heap(&self) -> usize {
        self.brokers.heap() + self.topics.heap()
    }
}

impl Heap for ProduceOutcome {
    fn heap(&self) -> usize {
        // Of the topic's name its part, as it is shared.
        let name = self.topic.len() / Arc::strong_count(&self.topic);
        name + self.record_errors.heap() + self.message.heap()
    }
}

impl Heap for ProduceAnswer {
    fn heap(&self) -> usize {
        self.items.heap() + self.brokers.heap()
    }
}

impl Heap for MaxMessageBytes {
    fn heap(&self) -> usize {
        self.message.heap()
    }
}

impl Heap for ProducersAnswer<'_> {
    fn heap(&self) -> usize {
        // Nor may it panic when it is asked, whatever it holds.
        self.last_sequence(4711);
        0
    }
}

fn check<'a, T: Heap + 'a>(bytes: &'a [u8], decode: impl Fn(&'a [u8]) -> Result<T, Error>) {
    match decode(bytes) {
        Ok(read) => {
            let heap = read.heap();
            let max = MEMORY_LEAST + MEMORY_PER_BYTE * bytes.len();
            assert!(heap <= max, "{heap} bytes of memory for {bytes:02x?}");
        }
        Err(error) => assert!(matches!(error, Error::Undecodable(_)), "{error}"),
    }
}

/// Encodes an answer as a broker would, without its correlation id.
fn encoded<T: Encodable + HeaderVersion>(answer: &T, version: i16) -> Vec<u8> {
    let mut bytes = Vec::new();
    theirs::ResponseHeader::default().encode(&mut bytes, T::header_version(version)).unwrap();
    answer.encode(&mut bytes, version).unwrap();
    bytes.split_off(4)
}

fn string(string: &str) -> StrBytes {
    StrBytes::from_string(string.to_owned())
}

#[test]
fn no_answer_to_api_versions_does_harm() {
    let known = vec![ApiVersion::default().with_api_key(3).with_max_version(13); 3];
    let answer = theirs::ApiVersionsResponse::default().with_api_keys(known);
    for version in Api::ApiVersions.versions() {
        mutations::each(&encoded(&answer, version), N_RANDOM, |bytes| {
            check(bytes, |bytes| api_versions_answer(version, bytes));
        });
    }
}

#[test]
fn no_answer_to_sasl_does_harm() {
    let mechanisms = vec![string("PLAIN"), string("OAUTHBEARER")];
    let answer = theirs::SaslHandshakeResponse::default().with_mechanisms(mechanisms);
    mutations::each(&encoded(&answer, 1), N_RANDOM, |bytes| check(bytes, sasl_handshake_answer));

    for version in Api::SaslAuthenticate.versions() {
        let answer = theirs::SaslAuthenticateResponse::default()
            .with_error_message(Some(string("no")))
            .with_auth_bytes(b"v=1"[..].into());
        mutations::each(&encoded(&answer, version), N_RANDOM, |bytes| {
            check(bytes, |bytes| sasl_authenticate_answer(version, bytes));
        });
    }
}

#[test]
fn no_answer_to_metadata_does_harm() {
    let broker = MetadataResponseBroker::default().with_host(string("::1")).with_port(9092);
    let partition = MetadataResponsePartition::default()
        .with_replica_nodes(vec![1.into(), 2.into()])
        .with_isr_nodes(vec![1.into()]);
    let topic = MetadataResponseTopic::default()
        .with_name(Some(string("broker-logs").into()))
        .with_partitions(vec![partition; 2]);
    let answer = theirs::MetadataResponse::default()
        .with_brokers(vec![broker; 2])
        .with_cluster_id(Some(string("c")))
        .with_topics(vec![topic; 2]);
    for version in Api::Metadata.versions() {
        mutations::each(&encoded(&answer, version), N_RANDOM, |bytes| {
            check(bytes, |bytes| metadata_answer(version, bytes));
        });
    }
}

#[test]
fn no_answer_to_init_producer_id_does_harm() {
    let answer = theirs::InitProducerIdResponse::default().with_producer_id(4711.into());
    for version in Api::InitProducerId.versions() {
        mutations::each(&encoded(&answer, version), N_RANDOM, |bytes| {
            check(bytes, |bytes| init_producer_id_answer(version, bytes));
        });
    }
}

#[test]
fn no_answer_to_describe_producers_does_harm() {
    let producers = vec![ProducerState::default().with_producer_id(4711.into()); 3];
    let partition =
        PartitionResponse::default().with_partition_index(7).with_active_producers(producers);
    let topic =
        TopicResponse::default().with_name(string("a").into()).with_partitions(vec![partition]);
    let answer = theirs::DescribeProducersResponse::default().with_topics(vec![topic]);
    mutations::each(&encoded(&answer, 0), N_RANDOM, |bytes| {
        check(bytes, |bytes| describe_producers_answer(bytes, "a", 7));
    });
}

fn produce(version: i16, topic: &str, n_partitions: usize) -> Vec<u8> {
    let mut partition = PartitionProduceResponse::default().with_base_offset(5);
    let mut endpoints = Vec::new();
    if version >= 10 {
        let leader = LeaderIdAndEpoch::default().with_leader_id(2.into()).with_leader_epoch(7);
        partition.current_leader = leader;
        endpoints = vec![NodeEndpoint::default().with_host(string("b")).with_port(9092)];
    }
    if version >= 8 {
        let error = BatchIndexAndErrorMessage::default()
            .with_batch_index_error_message(Some(string("too old")));
        partition.record_errors = vec![error; 2];
        partition.error_message = Some(string("one is bad"));
    }
    let topic = TopicProduceResponse::default()
        .with_name(if version >= PRODUCE_BY_ID { Default::default() } else { string(topic).into() })
        .with_partition_responses(vec![partition; n_partitions]);
    let answer = theirs::ProduceResponse::default().with_responses(vec![topic; 2]);
    encoded(&answer.with_node_endpoints(endpoints), version)
}

#[test]
fn no_answer_to_describe_configs_does_harm() {
    let config = DescribeConfigsResourceResult::default()
        .with_name(string("max.message.bytes"))
        .with_value(Some(string("1048588")));
    let result = DescribeConfigsResult::default().with_configs(vec![config; 3]);
    let answer = theirs::DescribeConfigsResponse::default().with_results(vec![result]);
    for version in Api::DescribeConfigs.versions() {
        let bytes = encoded(&answer, version);
        check(&bytes, |bytes| max_message_bytes_answer(version, bytes));
    }
}

#[test]
fn no_answer_to_produce_does_harm() {
    for version in Api::Produce.versions() {
        mutations::each(&produce(version, "broker-logs", 2), N_RANDOM, |bytes| {
            check(bytes, |bytes| produce_answer(version, bytes));
        });
        // A long name, and many partitions that share it.
        check(&produce(version, &"x".repeat(10_000), 500), |bytes| produce_answer(version, bytes));
    }
}

#[test]
fn noise_is_no_answer_and_does_no_harm() {
    // Nothing but small numbers: many lists within lists, each nearly empty.
    for fill in [0, 1, 2, 3] {
        let bytes = vec![fill; 20_000];
        for version in Api::Metadata.versions() {
            check(&bytes, |bytes| metadata_answer(version, bytes));
        }
        for version in Api::Produce.versions() {
            check(&bytes, |bytes| produce_answer(version, bytes));
        }
    }
    mutations::each(&[0; 64], 20_000, |bytes| {
        check(bytes, |bytes| metadata_answer(9, bytes));
        check(bytes, |bytes| produce_answer(9, bytes));
        check(bytes, |bytes| describe_producers_answer(bytes, "a", 7));
    });
}
