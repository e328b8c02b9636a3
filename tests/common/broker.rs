//! A broker made for trouble: one node, one topic, written against `kafka-protocol`.
//!
//! It keeps a log per partition and remembers producers as a real broker does. A script says, for
//! each Produce request in turn, what goes wrong; without a line in the script nothing does. So
//! does another for each DescribeProducers request. What was produced, uncompressed, can be fetched.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, DescribeProducersRequest, DescribeProducersResponse, FetchRequest,
    FetchResponse, InitProducerIdResponse, ListOffsetsRequest, ListOffsetsResponse,
    MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse, RequestHeader,
    ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use kafka_protocol::records::{Record, RecordBatchDecoder};

/// What goes wrong with one Produce request.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// Nothing.
    None,
    /// It is refused with this code.
    Code(i16),
    /// It is appended and answered with this code all the same.
    AppendedWithCode(i16),
    /// It is refused, these records being to blame.
    Records(i16, Vec<i32>),
    /// The connection is cut before it is appended.
    Cut,
    /// It is appended, and the connection cut instead of an answer.
    AppendedAndCut,
    /// It is appended, and the answer makes no sense.
    AppendedAndGarbled,
    /// It is appended, and the answer names a partition that was not sent.
    AppendedAndMisnamed,
    /// It is appended and never answered.
    AppendedAndSilent,
    /// It is appended and answered, and then the connection closed.
    AnsweredAndHungUp,
    /// It is appended, and the client told to wait.
    Throttle(Duration),
    /// The broker restarts before it: it remembers only the last batch of each partition.
    Forget,
    /// It restarts, remembers the last batch, and answers nothing for the connection is gone.
    AppendedCutAndForgotten,
    /// The topic is made anew: log and memory are empty.
    Recreate,
    /// Nobody knows the producer any more, and sequence numbers must start at 0.
    Amnesia,
}

/// What goes wrong with one DescribeProducers request.
#[derive(Debug, Clone)]
pub enum Description {
    /// Nothing.
    True,
    /// It is refused with this code.
    Code(i16),
    /// Nobody is known.
    Nobody,
    /// Each producer that is known, but with this epoch and last sequence number.
    Last(i32, i32),
    /// It is about another partition.
    Misnamed,
    /// There is no answer.
    Silent,
    /// The connection is cut.
    Cut,
}

/// Base sequence, last sequence and offset of a batch.
type Remembered = (i32, i32, i64);

#[derive(Debug, Default)]
struct State {
    /// For each Produce request that comes.
    script: VecDeque<Trouble>,
    /// Answer nothing before as many Produce requests of one connection are there.
    hold: usize,
    /// For each DescribeProducers request that comes.
    descriptions: VecDeque<Description>,
    n_described: usize,
    describes_producers: bool,
    read_denied: bool,
    logs: BTreeMap<i32, Vec<Record>>,
    /// The same as it came, with the offset it got.
    batches: BTreeMap<i32, Vec<Vec<u8>>>,
    /// The last batches, by partition and producer.
    memory: BTreeMap<(i32, i64), VecDeque<Remembered>>,
    strict: bool,
    next_producer_id: i64,
    /// How often InitProducerId still fails, and with which code.
    failing_producer_ids: (u32, i16),
    topic_exists: bool,
    batch_len_max: usize,
    /// Newest version of ApiVersions; -1 for a broker that hangs up on what it does not know.
    api_versions_max: i16,
    hang_up_on_unknown: bool,
    /// When Produce requests came.
    pub produced_at: Vec<Instant>,
    n_connections: usize,
    n_partitions: i32,
    produce_versions: (i16, i16),
}

/// The broker; its threads end with the process.
#[derive(Clone)]
pub struct Broker {
    pub address: String,
    state: Arc<Mutex<State>>,
}

impl Broker {
    pub fn start() -> Broker {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let broker = Broker {
            address: listener.local_addr().unwrap().to_string(),
            state: Arc::new(Mutex::new(State {
                topic_exists: true,
                batch_len_max: usize::MAX,
                next_producer_id: 1000,
                api_versions_max: 4,
                n_partitions: 2,
                describes_producers: true,
                produce_versions: (3, 11),
                ..State::default()
            })),
        };
        let accepting = broker.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let serving = accepting.clone();
                accepting.state.lock().unwrap().n_connections += 1;
                // An error is the client's leaving.
                thread::spawn(move || serving.serve(stream.unwrap()));
            }
        });
        broker
    }

    pub fn script(&self, troubles: impl IntoIterator<Item = Trouble>) -> &Broker {
        self.state.lock().unwrap().script.extend(troubles);
        self
    }

    /// From now on as many requests must be in flight before the first is answered.
    pub fn hold(&self, n_requests: usize) -> &Broker {
        self.state.lock().unwrap().hold = n_requests;
        self
    }

    pub fn batch_len_max(&self, len: usize) -> &Broker {
        self.state.lock().unwrap().batch_len_max = len;
        self
    }

    pub fn produce_versions(&self, min: i16, max: i16) -> &Broker {
        self.state.lock().unwrap().produce_versions = (min, max);
        self
    }

    pub fn api_versions_max(&self, max: i16, hang_up_on_unknown: bool) -> &Broker {
        let mut state = self.state.lock().unwrap();
        state.api_versions_max = max;
        state.hang_up_on_unknown = hang_up_on_unknown;
        drop(state);
        self
    }

    pub fn failing_producer_ids(&self, n: u32, code: i16) -> &Broker {
        self.state.lock().unwrap().failing_producer_ids = (n, code);
        self
    }

    pub fn descriptions(&self, script: impl IntoIterator<Item = Description>) -> &Broker {
        self.state.lock().unwrap().descriptions.extend(script);
        self
    }

    /// Whether it is Kafka 2.8 or later.
    pub fn describes_producers(&self, describes: bool) -> &Broker {
        self.state.lock().unwrap().describes_producers = describes;
        self
    }

    /// Whether Read on the topic is denied to us.
    pub fn read_denied(&self, denied: bool) -> &Broker {
        self.state.lock().unwrap().read_denied = denied;
        self
    }

    /// How many DescribeProducers requests have come.
    pub fn n_described(&self) -> usize {
        self.state.lock().unwrap().n_described
    }

    pub fn topic_exists(&self, exists: bool) -> &Broker {
        self.state.lock().unwrap().topic_exists = exists;
        self
    }

    pub fn n_connections(&self) -> usize {
        self.state.lock().unwrap().n_connections
    }

    /// When Produce requests came.
    pub fn produced_at(&self) -> Vec<Instant> {
        self.state.lock().unwrap().produced_at.clone()
    }

    /// Producer ids in the order of their first record.
    pub fn producer_ids(&self, partition: i32) -> Vec<i64> {
        let state = self.state.lock().unwrap();
        let mut ids = Vec::new();
        for record in state.logs.get(&partition).into_iter().flatten() {
            if !ids.contains(&record.producer_id) {
                ids.push(record.producer_id);
            }
        }
        ids
    }

    /// How many records each batch in the log of a partition has.
    pub fn batch_lens(&self, partition: i32) -> Vec<i64> {
        let state = self.state.lock().unwrap();
        let batches = state.batches.get(&partition).into_iter().flatten();
        let ends: Vec<i64> =
            [0].into_iter().chain(batches.map(|batch| end_offset(batch))).collect();
        ends.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    /// Values in the log of a partition.
    pub fn values(&self, partition: i32) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let log = state.logs.get(&partition);
        let values = log
            .into_iter()
            .flatten()
            .map(|record| String::from_utf8(record.value.as_ref().unwrap().to_vec()).unwrap());
        values.collect()
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut waiting = VecDeque::new();
        loop {
            let mut len = [0; 4];
            stream.read_exact(&mut len)?;
            let mut frame = vec![0; u32::from_be_bytes(len) as usize];
            stream.read_exact(&mut frame)?;
            let key = ApiKey::try_from(i16::from_be_bytes([frame[0], frame[1]])).unwrap();
            if key != ApiKey::Produce {
                if !self.answer(&mut stream, &frame)? {
                    return Ok(());
                }
                continue;
            }
            self.state.lock().unwrap().produced_at.push(Instant::now());
            waiting.push_back(frame);
            let hold = self.state.lock().unwrap().hold;
            if waiting.len() < hold {
                continue;
            }
            self.state.lock().unwrap().hold = 0;
            while let Some(frame) = waiting.pop_front() {
                if !self.answer(&mut stream, &frame)? {
                    return Ok(());
                }
            }
        }
    }

    /// Returns false if the connection is to be closed.
    fn answer(&self, stream: &mut TcpStream, frame: &[u8]) -> std::io::Result<bool> {
        let key = ApiKey::try_from(i16::from_be_bytes([frame[0], frame[1]])).unwrap();
        let version = i16::from_be_bytes([frame[2], frame[3]]);
        let mut rest = bytes(frame);
        let header = RequestHeader::decode(&mut rest, key.request_header_version(version)).unwrap();
        let mut out = vec![0; 4];
        let mut answer_header = ResponseHeader::default();
        answer_header.correlation_id = header.correlation_id;
        answer_header.encode(&mut out, key.response_header_version(version)).unwrap();
        let is_open = match key {
            ApiKey::ApiVersions => self.api_versions(version, &mut out),
            ApiKey::Metadata => {
                let request = MetadataRequest::decode(&mut rest, version).unwrap();
                self.metadata(&request).encode(&mut out, version).unwrap();
                true
            }
            ApiKey::InitProducerId => {
                self.producer_id().encode(&mut out, version).unwrap();
                true
            }
            ApiKey::Produce => {
                let request = ProduceRequest::decode(&mut rest, version).unwrap();
                assert_eq!(request.acks, -1);
                self.produce(&request, version, &mut out)
            }
            ApiKey::DescribeProducers => {
                let request = DescribeProducersRequest::decode(&mut rest, version).unwrap();
                self.describe_producers(&request, version, &mut out)
            }
            ApiKey::ListOffsets => {
                let request = ListOffsetsRequest::decode(&mut rest, version).unwrap();
                self.list_offsets(&request).encode(&mut out, version).unwrap();
                true
            }
            ApiKey::Fetch => {
                let request = FetchRequest::decode(&mut rest, version).unwrap();
                self.fetch(&request).encode(&mut out, version).unwrap();
                true
            }
            other => panic!("not expected: {other:?}"),
        };
        if out.len() > 8 {
            let len = out.len() as u32 - 4;
            out[..4].copy_from_slice(&len.to_be_bytes());
            stream.write_all(&out)?;
        }
        Ok(is_open)
    }

    fn api_versions(&self, version: i16, out: &mut Vec<u8>) -> bool {
        let state = self.state.lock().unwrap();
        if version > state.api_versions_max && state.hang_up_on_unknown {
            out.clear();
            return false;
        }
        let (produce_min, produce_max) = state.produce_versions;
        let mut known = vec![
            (ApiKey::Produce, produce_min, produce_max),
            (ApiKey::Fetch, 4, 4),
            (ApiKey::ListOffsets, 1, 1),
            (ApiKey::Metadata, 0, 12),
            (ApiKey::ApiVersions, 0, state.api_versions_max),
            (ApiKey::InitProducerId, 0, 4),
        ];
        if state.describes_producers {
            known.push((ApiKey::DescribeProducers, 0, 0));
        }
        let known = known.into_iter().map(|(key, min, max)| {
            let mut version = ApiVersion::default();
            (version.api_key, version.min_version, version.max_version) = (key as i16, min, max);
            version
        });
        let mut answer = ApiVersionsResponse::default().with_api_keys(known.collect());
        let mut answer_version = version;
        if version > state.api_versions_max {
            answer.error_code = 35;
            answer_version = 0;
        }
        answer.encode(out, answer_version).unwrap();
        true
    }

    fn metadata(&self, request: &MetadataRequest) -> MetadataResponse {
        let state = self.state.lock().unwrap();
        let (host, port) = self.address.split_once(':').unwrap();
        let mut node = MetadataResponseBroker::default();
        (node.node_id, node.port) = (1.into(), port.parse().unwrap());
        node.host = StrBytes::from_string(host.to_owned());
        let topics = request.topics.iter().flatten().map(|asked| {
            let mut topic = MetadataResponseTopic::default();
            topic.name = asked.name.clone();
            if !state.topic_exists {
                topic.error_code = 3;
                return topic;
            }
            topic.partitions = (0..state.n_partitions)
                .map(|index| {
                    let mut partition = MetadataResponsePartition::default();
                    (partition.partition_index, partition.leader_id) = (index, 1.into());
                    partition
                })
                .collect();
            topic
        });
        MetadataResponse::default().with_brokers(vec![node]).with_topics(topics.collect())
    }

    fn producer_id(&self) -> InitProducerIdResponse {
        let mut state = self.state.lock().unwrap();
        let mut answer = InitProducerIdResponse::default();
        let (n_left, code) = &mut state.failing_producer_ids;
        if *n_left > 0 {
            *n_left -= 1;
            (answer.error_code, answer.producer_id) = (*code, (-1).into());
            return answer;
        }
        answer.producer_id = state.next_producer_id.into();
        state.next_producer_id += 1;
        answer
    }

    /// Returns false if the connection is to be closed.
    fn describe_producers(
        &self,
        request: &DescribeProducersRequest,
        version: i16,
        out: &mut Vec<u8>,
    ) -> bool {
        let mut state = self.state.lock().unwrap();
        state.n_described += 1;
        let denied = state.read_denied.then_some(Description::Code(29));
        let description = denied.or_else(|| state.descriptions.pop_front());
        let description = description.unwrap_or(Description::True);
        if let Description::Silent | Description::Cut = description {
            out.clear();
            return matches!(description, Description::Silent);
        }
        let topics = request.topics.iter().map(|asked| {
            let partitions = asked.partition_indexes.iter().map(|index| {
                let mut answer = PartitionResponse::default().with_partition_index(*index);
                let known = state.memory.iter().filter(|((partition, _), _)| partition == index);
                let known = known.map(|((_, id), memory)| {
                    let last_sequence = memory.back().map_or(-1, |(_, last, _)| *last);
                    ProducerState::default()
                        .with_producer_id((*id).into())
                        .with_last_sequence(last_sequence)
                });
                answer.active_producers = known.collect();
                match description {
                    Description::Code(code) => {
                        answer.error_code = code;
                        answer.active_producers.clear();
                    }
                    Description::Nobody => answer.active_producers.clear(),
                    Description::Last(epoch, last_sequence) => {
                        for producer in &mut answer.active_producers {
                            producer.producer_epoch = epoch;
                            producer.last_sequence = last_sequence;
                        }
                    }
                    Description::Misnamed => answer.partition_index += 1,
                    Description::True | Description::Silent | Description::Cut => {}
                }
                answer
            });
            TopicResponse::default()
                .with_name(asked.name.clone())
                .with_partitions(partitions.collect())
        });
        let answer = DescribeProducersResponse::default().with_topics(topics.collect());
        answer.encode(out, version).unwrap();
        true
    }

    fn list_offsets(&self, request: &ListOffsetsRequest) -> ListOffsetsResponse {
        const EARLIEST: i64 = -2;
        let state = self.state.lock().unwrap();
        let topics = request.topics.iter().map(|asked| {
            let partitions = asked.partitions.iter().map(|asked| {
                let high = state.logs.get(&asked.partition_index).map_or(0, Vec::len) as i64;
                ListOffsetsPartitionResponse::default()
                    .with_partition_index(asked.partition_index)
                    .with_offset(if asked.timestamp == EARLIEST { 0 } else { high })
            });
            ListOffsetsTopicResponse::default()
                .with_name(asked.name.clone())
                .with_partitions(partitions.collect())
        });
        ListOffsetsResponse::default().with_topics(topics.collect())
    }

    fn fetch(&self, request: &FetchRequest) -> FetchResponse {
        // Nobody fetches here but who reads back, and that need not be quick at the end.
        thread::sleep(Duration::from_millis(5));
        let state = self.state.lock().unwrap();
        let topics = request.topics.iter().map(|asked| {
            let partitions = asked.partitions.iter().map(|asked| {
                let high = state.logs.get(&asked.partition).map_or(0, Vec::len) as i64;
                let mut answer = PartitionData::default()
                    .with_partition_index(asked.partition)
                    .with_high_watermark(high)
                    .with_last_stable_offset(high);
                if state.read_denied {
                    return answer.with_error_code(29);
                }
                let batches = state.batches.get(&asked.partition).into_iter().flatten();
                let wanted = batches.filter(|batch| end_offset(batch) > asked.fetch_offset);
                answer.records = Some(wanted.flatten().copied().collect::<Vec<u8>>().into());
                answer
            });
            FetchableTopicResponse::default()
                .with_topic(asked.topic.clone())
                .with_partitions(partitions.collect())
        });
        FetchResponse::default().with_responses(topics.collect())
    }

    fn produce(&self, request: &ProduceRequest, version: i16, out: &mut Vec<u8>) -> bool {
        let mut state = self.state.lock().unwrap();
        let trouble = state.script.pop_front().unwrap_or(Trouble::None);
        match trouble {
            Trouble::Forget => state.forget(),
            Trouble::Recreate => {
                state.logs.clear();
                state.batches.clear();
                state.memory.clear();
            }
            Trouble::Amnesia => {
                state.memory.clear();
                state.strict = true;
            }
            _ => {}
        }
        let mut answer = ProduceResponse::default();
        for topic in &request.topic_data {
            let mut topic_answer = TopicProduceResponse::default().with_name(topic.name.clone());
            for data in &topic.partition_data {
                let records = data.records.clone().unwrap();
                let mut partition = PartitionProduceResponse::default();
                partition.index = data.index;
                let code = match &trouble {
                    Trouble::Code(code) | Trouble::Records(code, _) => Err(*code),
                    Trouble::Cut => Err(0),
                    _ => state.append(data.index, &records),
                };
                match (code, &trouble) {
                    (Ok(_), Trouble::AppendedWithCode(code)) => partition.error_code = *code,
                    (Ok(offset), _) => partition.base_offset = offset,
                    (Err(code), _) => partition.error_code = code,
                }
                if let Trouble::Records(_, indices) = &trouble
                    && version >= 8
                {
                    let error = |i: &i32| {
                        let mut error = BatchIndexAndErrorMessage::default();
                        error.batch_index = *i;
                        error.batch_index_error_message = Some(StrBytes::from_static_str("bad"));
                        error
                    };
                    partition.record_errors = indices.iter().map(error).collect();
                }
                if let Trouble::AppendedAndMisnamed = trouble {
                    partition.index += 1;
                }
                topic_answer.partition_responses.push(partition);
            }
            answer.responses.push(topic_answer);
        }
        if let Trouble::Throttle(time) = trouble {
            answer.throttle_time_ms = time.as_millis() as i32;
        }
        match trouble {
            Trouble::Cut | Trouble::AppendedAndCut => {
                out.clear();
                return false;
            }
            Trouble::AppendedCutAndForgotten => {
                state.forget();
                out.clear();
                return false;
            }
            Trouble::AppendedAndSilent => {
                out.clear();
                return true;
            }
            // Counts that would take all memory.
            Trouble::AppendedAndGarbled => out.extend([0xff, 0xff, 0xff, 0x7f].repeat(5)),
            _ => answer.encode(out, version).unwrap(),
        }
        !matches!(trouble, Trouble::AnsweredAndHungUp)
    }
}

impl State {
    /// Appends as a broker does, and returns the offset, or an error code.
    fn append(&mut self, partition: i32, batch: &[u8]) -> Result<i64, i16> {
        if batch.len() > self.batch_len_max {
            return Err(10);
        }
        let records = RecordBatchDecoder::decode(&mut bytes(batch)).unwrap().records;
        let first = &records[0];
        assert!(first.producer_id >= 0, "sent without a producer id");
        let n_records = records.len() as i32;
        let last_sequence = ((first.sequence as u32 + n_records as u32 - 1) & 0x7fff_ffff) as i32;
        let log = self.logs.entry(partition).or_default();
        let key = (partition, first.producer_id);
        if self.strict && !self.memory.contains_key(&key) && first.sequence != 0 {
            return Err(59);
        }
        let memory = self.memory.entry(key).or_default();
        if let Some((_, _, offset)) =
            memory.iter().find(|(base, last, _)| (*base, *last) == (first.sequence, last_sequence))
        {
            return Ok(*offset);
        }
        if let Some((_, last, _)) = memory.back()
            && first.sequence != (last.wrapping_add(1) & 0x7fff_ffff)
        {
            return Err(45);
        }
        let offset = log.len() as i64;
        memory.push_back((first.sequence, last_sequence, offset));
        if memory.len() > 5 {
            memory.pop_front();
        }
        log.extend(records);
        let mut batch = batch.to_vec();
        batch[..8].copy_from_slice(&offset.to_be_bytes());
        self.batches.entry(partition).or_default().push(batch);
        Ok(offset)
    }

    fn forget(&mut self) {
        for memory in self.memory.values_mut() {
            let n_old = memory.len() - 1;
            memory.drain(..n_old);
        }
    }
}

/// Returns the offset after the last record of a batch.
fn end_offset(batch: &[u8]) -> i64 {
    let base_offset = i64::from_be_bytes(batch[..8].try_into().unwrap());
    let last_delta = i32::from_be_bytes(batch[23..27].try_into().unwrap());
    base_offset + i64::from(last_delta) + 1
}

fn bytes(slice: &[u8]) -> std::io::Cursor<Vec<u8>> {
    std::io::Cursor::new(slice.to_vec())
}
