//! A client for single questions to real brokers, through `kafka-protocol`: what a broker says to
//! somebody else than the code under test.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::thread;
use std::time::{Duration, Instant};

use kafka_protocol::messages::alter_client_quotas_request::{EntityData, EntryData, OpData};
use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    AlterClientQuotasRequest, AlterPartitionReassignmentsRequest, CreateAclsRequest,
    CreatePartitionsRequest, CreateTopicsRequest, DeleteAclsRequest, DeleteRecordsRequest,
    DeleteTopicsRequest, DescribeProducersRequest, ElectLeadersRequest, FetchRequest,
    InitProducerIdRequest, ListOffsetsRequest, MetadataRequest, MetadataResponse, ProduceRequest,
    RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use log_shipper::config::Compression;
use log_shipper::kafka::record_batch::Encoder;

use super::{Sample, arena};

/// How long a leader may take to be elected, and a topic to be made or gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a broker is waited for that may be paused, where another one can answer, too.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a broker is waited for that is asked again and again and may be paused.
const POLL_TIMEOUT: Duration = Duration::from_millis(300);

/// How ListOffsets is asked for the high watermark.
const LATEST: i64 = -1;

/// How long a leader may leave a fetch unanswered that finds nothing, in milliseconds: four times
/// what a follower asks for (`replica.fetch.wait.max.ms`, 500 by default).
const FETCH_WAIT_MS: i32 = 2000;

/// How long the leader waits for the other replicas.
const REPLICATION_TIMEOUT_MS: i32 = 3000;

/// Code of an answer about a topic that is not there (yet).
const UNKNOWN_TOPIC: i16 = 3;
/// Code of an answer by a broker that is not the leader.
const NOT_LEADER: i16 = 6;
/// Code of an answer to who wants to have the leader elected that there is.
const ELECTION_NOT_NEEDED: i16 = 84;
/// No code of a broker's: it did not answer.
const NO_ANSWER: i16 = i16::MIN;

/// Producer id and epoch.
pub type ProducerId = (i64, i16);

/// What a leader knows of a producer: its id, its epoch, and its last sequence number.
pub type KnownProducer = (i64, i32, i32);

/// A partition, as its leader sees it.
#[derive(Debug, Clone, Copy)]
pub struct PartitionState {
    /// Number of its node.
    pub leader: i32,
    /// Number of the election in which it became the leader.
    pub epoch: i32,
    pub n_in_sync: usize,
    /// High watermark: how many records were ever acknowledged.
    pub end: u64,
}

/// A cluster of which these brokers are known, `host:port,host:port`.
pub struct Cluster {
    pub bootstrap: String,
}

impl Cluster {
    pub fn new(bootstrap: &str) -> Cluster {
        Cluster { bootstrap: bootstrap.to_owned() }
    }

    pub fn make_topic(&self, topic: &str, n_partitions: i32, configs: &[(&str, &str)]) {
        let config = |(name, value): &(&str, &str)| {
            CreatableTopicConfig::default().with_name(string(name)).with_value(Some(string(value)))
        };
        let creatable = CreatableTopic::default()
            .with_name(name(topic))
            .with_num_partitions(n_partitions)
            .with_replication_factor(-1)
            .with_configs(configs.iter().map(config).collect());
        let request =
            CreateTopicsRequest::default().with_topics(vec![creatable]).with_timeout_ms(30_000);
        let answer = self.ask_any(&request, 5);
        assert_eq!(answer.topics[0].error_code, 0, "{answer:?}");
        for partition in 0..n_partitions {
            self.leader(topic, partition);
        }
    }

    /// Deletes a topic and waits until no broker knows it.
    pub fn delete_topic(&self, topic: &str) {
        let request = DeleteTopicsRequest::default()
            .with_topic_names(vec![name(topic)])
            .with_timeout_ms(30_000);
        let answer = self.ask_any(&request, 5);
        assert_eq!(answer.responses[0].error_code, 0, "{answer:?}");
        until("topic deleted", || (self.topic_code(topic)? == UNKNOWN_TOPIC).then_some(()));
    }

    fn topic_code(&self, topic: &str) -> Option<i16> {
        Some(ask(self.addresses().next()?, &metadata(topic), 9).ok()?.topics[0].error_code)
    }

    /// Deletes what stands before `offset`, -1 for all, as retention does.
    pub fn delete_records(&self, topic: &str, partition: i32, offset: i64) {
        let records =
            DeleteRecordsPartition::default().with_partition_index(partition).with_offset(offset);
        let records =
            DeleteRecordsTopic::default().with_name(name(topic)).with_partitions(vec![records]);
        let request =
            DeleteRecordsRequest::default().with_topics(vec![records]).with_timeout_ms(30_000);
        let answer = ask(&self.leader(topic, partition), &request, 2).expect("an answer");
        let partition = &answer.topics[0].partitions[0];
        assert_eq!(partition.error_code, 0, "{answer:?}");
        assert!(partition.low_watermark == offset || offset == -1, "{answer:?}");
    }

    /// Allows one operation to one principal, and with it no other where the rule is that what has
    /// no ACL is open to all. The numbers are those of the protocol.
    pub fn allow(&self, resource: (i8, &str), principal: &str, operation: i8) {
        let acl = AclCreation::default()
            .with_resource_type(resource.0)
            .with_resource_name(string(resource.1))
            .with_resource_pattern_type(3)
            .with_principal(string(principal))
            .with_host(string("*"))
            .with_operation(operation)
            .with_permission_type(3);
        let request = CreateAclsRequest::default().with_creations(vec![acl]);
        let answer = self.ask_any(&request, 2);
        assert_eq!(answer.results[0].error_code, 0, "{answer:?}");
    }

    /// Takes back what was allowed.
    pub fn forbid(&self, resource: (i8, &str), principal: &str, operation: i8) {
        let filter = DeleteAclsFilter::default()
            .with_resource_type_filter(resource.0)
            .with_resource_name_filter(Some(string(resource.1)))
            .with_pattern_type_filter(3)
            .with_principal_filter(Some(string(principal)))
            .with_host_filter(Some(string("*")))
            .with_operation(operation)
            .with_permission_type(3);
        let request = DeleteAclsRequest::default().with_filters(vec![filter]);
        let answer = self.ask_any(&request, 2);
        assert_eq!(answer.filter_results[0].matching_acls.len(), 1, "{answer:?}");
    }

    /// Returns the address of the leader, once there is one that can be reached.
    pub fn leader(&self, topic: &str, partition: i32) -> String {
        self.leader_but(topic, partition, "")
    }

    /// Returns the address of the leader, once it is another one.
    pub fn leader_but(&self, topic: &str, partition: i32, former: &str) -> String {
        until("leader", || {
            self.addresses().find_map(|address| {
                let answer = ask_within(METADATA_TIMEOUT, address, &metadata(topic), 9).ok()?;
                let mut partitions = answer.topics[0].partitions.iter();
                let leader =
                    partitions.find(|p| p.partition_index == partition && p.error_code == 0)?;
                let broker = answer.brokers.iter().find(|b| b.node_id == leader.leader_id)?;
                let address = format!("{}:{}", &*broker.host, broker.port);
                (address != former).then_some(())?;
                TcpStream::connect(&address).ok().map(|_| address)
            })
        })
    }

    /// Returns the first `n_partitions` of a topic; `None` where one has no leader that answers at
    /// once.
    pub fn partitions(&self, topic: &str, n_partitions: i32) -> Option<Vec<PartitionState>> {
        let ask_one = |address| ask_within(POLL_TIMEOUT, address, &metadata(topic), 9).ok();
        let answers: Vec<_> = self.addresses().filter_map(ask_one).collect();
        (0..n_partitions).map(|partition| state_of(&answers, topic, partition)).collect()
    }

    /// Has a topic have so many partitions more than it has now.
    pub fn add_partitions(&self, topic: &str, n_partitions: i32) {
        let more = CreatePartitionsTopic::default()
            .with_name(name(topic))
            .with_count(n_partitions)
            .with_assignments(None);
        let request =
            CreatePartitionsRequest::default().with_topics(vec![more]).with_timeout_ms(30_000);
        let answer = self.ask_any(&request, 2);
        assert_eq!(answer.results[0].error_code, 0, "{answer:?}");
        (0..n_partitions).for_each(|partition| drop(self.leader(topic, partition)));
    }

    /// Gives a partition these replicas, and has the first of them lead it.
    pub fn reassign(&self, topic: &str, partition: i32, replicas: &[i32]) {
        let nodes = replicas.iter().map(|node| (*node).into()).collect();
        let wanted = ReassignablePartition::default()
            .with_partition_index(partition)
            .with_replicas(Some(nodes));
        let wanted =
            ReassignableTopic::default().with_name(name(topic)).with_partitions(vec![wanted]);
        let request = AlterPartitionReassignmentsRequest::default()
            .with_topics(vec![wanted])
            .with_timeout_ms(30_000);
        let answer = self.ask_any(&request, 0);
        let code = answer.responses.iter().map(|topic| topic.partitions[0].error_code).next();
        assert_eq!((answer.error_code, code), (0, Some(0)), "{answer:?}");
        let has_replicas = |address: &str| {
            let answer = ask_within(METADATA_TIMEOUT, address, &metadata(topic), 9).ok()?;
            let mut partitions = answer.topics.first()?.partitions.iter();
            let found = partitions.find(|found| found.partition_index == partition)?;
            found.replica_nodes.iter().map(|node| **node).eq(replicas.iter().copied()).then_some(())
        };
        until("replicas", || self.addresses().find_map(has_replicas));

        let wanted =
            TopicPartitions::default().with_topic(name(topic)).with_partitions(vec![partition]);
        let request = ElectLeadersRequest::default()
            .with_election_type(0)
            .with_topic_partitions(Some(vec![wanted]))
            .with_timeout_ms(30_000);
        until("election", || {
            let answer = self.ask_any(&request, 2);
            let result = answer.replica_election_results.first()?.partition_result.first()?;
            [0, ELECTION_NOT_NEEDED].contains(&result.error_code).then_some(())
        });
    }

    /// Lets clients of this id send so many bytes a second to each broker, or as many as they want.
    pub fn set_quota(&self, client_id: &str, bytes_per_second: Option<f64>) {
        let entity = EntityData::default()
            .with_entity_type(string("client-id"))
            .with_entity_name(Some(string(client_id)));
        let op = OpData::default()
            .with_key(string("producer_byte_rate"))
            .with_value(bytes_per_second.unwrap_or_default())
            .with_remove(bytes_per_second.is_none());
        let entry = EntryData::default().with_entity(vec![entity]).with_ops(vec![op]);
        let request = AlterClientQuotasRequest::default().with_entries(vec![entry]);
        let answer = self.ask_any(&request, 1);
        assert_eq!(answer.entries[0].error_code, 0, "{answer:?}");
    }

    /// Returns what the leader says it knows, or its error.
    pub fn producers(&self, topic: &str, partition: i32) -> Result<Vec<KnownProducer>, i16> {
        until("known producers", || {
            let known = producers_at(&self.leader(topic, partition), topic, partition);
            (known != Err(NOT_LEADER) && known != Err(NO_ANSWER)).then_some(known)
        })
    }

    pub fn producer_id(&self) -> ProducerId {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        until("producer id", || {
            let answer = self.ask_any(&request, 4);
            (answer.error_code == 0).then_some((*answer.producer_id, answer.producer_epoch))
        })
    }

    /// Sends records under a sequence number of the caller's, with `acks=all`; returns their
    /// offset or the error.
    pub fn produce(
        &self,
        (topic, partition): (&str, i32),
        producer_id: ProducerId,
        base_sequence: i32,
        samples: &[Sample],
    ) -> Result<i64, i16> {
        let batch = stamped(samples, producer_id, base_sequence);
        let data =
            PartitionProduceData::default().with_index(partition).with_records(Some(batch.into()));
        let data =
            TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_transactional_id(None)
            .with_acks(-1)
            .with_timeout_ms(REPLICATION_TIMEOUT_MS)
            .with_topic_data(vec![data]);
        until("place for a batch", || {
            let answer = ask(&self.leader(topic, partition), &request, 9).ok()?;
            let answer = &answer.responses[0].partition_responses[0];
            match answer.error_code {
                0 => Some(Ok(answer.base_offset)),
                NOT_LEADER => None,
                code => Some(Err(code)),
            }
        })
    }

    fn addresses(&self) -> impl Iterator<Item = &str> {
        self.bootstrap.split(',')
    }

    fn ask_any<Q: Request + HeaderVersion>(&self, request: &Q, version: i16) -> Q::Response {
        until("answer", || self.addresses().find_map(|address| ask(address, request, version).ok()))
    }
}

/// Returns what one broker says it knows, or its error.
pub fn producers_at(address: &str, topic: &str, partition: i32) -> Result<Vec<KnownProducer>, i16> {
    let asked =
        TopicRequest::default().with_name(name(topic)).with_partition_indexes(vec![partition]);
    let request = DescribeProducersRequest::default().with_topics(vec![asked]);
    let answer = ask(address, &request, 0).map_err(|_| NO_ANSWER)?;
    let answer = &answer.topics[0].partitions[0];
    if answer.error_code != 0 {
        return Err(answer.error_code);
    }
    let known = answer.active_producers.iter();
    let known = known.map(|one| (*one.producer_id, one.producer_epoch, one.last_sequence));
    let mut known: Vec<KnownProducer> = known.collect();
    known.sort_unstable();
    Ok(known)
}

/// Returns what is known of a partition from what several brokers say.
fn state_of(answers: &[MetadataResponse], topic: &str, partition: i32) -> Option<PartitionState> {
    let found = answers.iter().filter_map(|answer| {
        let mut partitions = answer.topics.first()?.partitions.iter();
        Some((answer, partitions.find(|found| found.partition_index == partition)?))
    });
    // One that has slept does not know yet who leads.
    let (answer, newest) = found.max_by_key(|(_, found)| found.leader_epoch)?;
    let leader = answer.brokers.iter().find(|broker| broker.node_id == newest.leader_id)?;
    let end = end_at(&format!("{}:{}", &*leader.host, leader.port), topic, partition)?;
    let (leader, epoch) = (*newest.leader_id, newest.leader_epoch);
    Some(PartitionState { leader, epoch, n_in_sync: newest.isr_nodes.len(), end })
}

/// Returns the high watermark; `None` if this is not the leader.
fn end_at(address: &str, topic: &str, partition: i32) -> Option<u64> {
    let latest =
        ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(LATEST);
    let latest = ListOffsetsTopic::default().with_name(name(topic)).with_partitions(vec![latest]);
    let request =
        ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![latest]);
    let answer = ask_within(POLL_TIMEOUT, address, &request, 4).ok()?;
    let answer = &answer.topics[0].partitions[0];
    (answer.error_code == 0).then(|| u64::try_from(answer.offset).ok())?
}

/// Waits until a leader has answered every fetch that its followers, paused by now, had sent:
/// until it answers one that came later and may wait for longer, with nothing. What is appended
/// from then on is not sent to them.
pub fn wait_for_fetches(leader: &str, topic: &str, partition: i32, end: i64) {
    let from = FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(end)
        .with_partition_max_bytes(1 << 20);
    let from = FetchTopic::default().with_topic(name(topic)).with_partitions(vec![from]);
    let request = FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(FETCH_WAIT_MS)
        .with_min_bytes(1)
        .with_topics(vec![from]);
    let answer = ask(leader, &request, 11).expect("an answer");
    let answer = &answer.responses[0].partitions[0];
    let n_bytes = answer.records.as_ref().map_or(0, |records| records.len());
    assert_eq!((answer.error_code, n_bytes), (0, 0), "{answer:?}");
}

fn metadata(topic: &str) -> MetadataRequest {
    let topic = MetadataRequestTopic::default().with_name(Some(name(topic)));
    MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false)
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what} within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn ask<Q: Request>(address: &str, request: &Q, version: i16) -> io::Result<Q::Response> {
    ask_within(PATIENCE, address, request, version)
}

fn ask_within<Q: Request>(
    limit: Duration,
    address: &str,
    request: &Q,
    version: i16,
) -> io::Result<Q::Response> {
    let mut frame = vec![0; 4];
    let header = RequestHeader::default()
        .with_request_api_key(Q::KEY)
        .with_request_api_version(version)
        .with_client_id(Some(string("test")));
    header.encode(&mut frame, Q::header_version(version)).expect("encoded");
    request.encode(&mut frame, version).expect("encoded");
    let len = frame.len() as u32 - 4;
    frame[..4].copy_from_slice(&len.to_be_bytes());

    // One that is paused may have its queue full, and let nobody in.
    let address = address.to_socket_addrs()?.next().expect("an address");
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(&frame)?;
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let mut answer = vec![0; u32::from_be_bytes(len) as usize];
    stream.read_exact(&mut answer)?;
    let mut rest = io::Cursor::new(answer);
    ResponseHeader::decode(&mut rest, Q::Response::header_version(version)).expect("a header");
    Ok(Q::Response::decode(&mut rest, version).expect("an answer"))
}

fn string(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn name(topic: &str) -> TopicName {
    string(topic).into()
}

/// Returns a RecordBatch with this stamp, as another process would resend it.
fn stamped(samples: &[Sample], (id, epoch): ProducerId, base_sequence: i32) -> Vec<u8> {
    let mut encoder = Encoder::new(Compression::None).expect("an encoder");
    let (batch, _) = encoder.encode(arena(samples)).expect("encoded");
    let mut bytes = batch.as_bytes().to_vec();
    bytes[43..51].copy_from_slice(&id.to_be_bytes());
    bytes[51..53].copy_from_slice(&epoch.to_be_bytes());
    bytes[53..57].copy_from_slice(&base_sequence.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}
