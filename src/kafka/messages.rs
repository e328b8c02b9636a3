//! The requests of a producer and their answers, as bytes.
//!
//! By hand rather than through `kafka-protocol`, for two reasons: its decoder reserves memory for
//! whatever count an answer names, so that eight broken bytes abort the process, and its encoder
//! copies the records. The tests hold each message against it, version by version.
//!
//! A request is `size i32 | apiKey i16 | apiVersion i16 | correlationId i32 | clientId | body`,
//! an answer `size i32 | correlationId i32 | body`. *Flexible* versions write lengths as unsigned
//! varints, one more than they are, and end each struct with tagged fields, of which we send none
//! and skip all.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::Error;

/// A request there is, by the name Kafka gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::enum_variant_names)]
pub(super) enum Api {
    Produce,
    Metadata,
    ApiVersions,
    InitProducerId,
    SaslHandshake,
    SaslAuthenticate,
    DescribeConfigs,
    /// Kafka 2.8 or later; whoever asks it must do without, too.
    DescribeProducers,
}

impl Api {
    /// Its number in the protocol.
    pub(super) fn key(self) -> i16 {
        match self {
            Api::Produce => 0,
            Api::Metadata => 3,
            Api::SaslHandshake => 17,
            Api::ApiVersions => 18,
            Api::InitProducerId => 22,
            Api::DescribeConfigs => 32,
            Api::SaslAuthenticate => 36,
            Api::DescribeProducers => 61,
        }
    }

    /// The versions written here. Produce v3 is the first with RecordBatch v2, Metadata v4 the
    /// first that can forbid the creation of topics, SaslHandshake v1 the first after which
    /// SaslAuthenticate comes (KIP-152).
    pub(super) fn versions(self) -> RangeInclusive<i16> {
        match self {
            Api::Produce => 3..=13,
            Api::Metadata => 4..=13,
            Api::ApiVersions => 0..=3,
            Api::InitProducerId => 0..=5,
            Api::SaslHandshake => 1..=1,
            Api::SaslAuthenticate => 0..=2,
            Api::DescribeConfigs => 1..=4,
            Api::DescribeProducers => 0..=0,
        }
    }

    fn is_flexible(self, version: i16) -> bool {
        let first = match self {
            Api::Produce | Api::Metadata => 9,
            Api::ApiVersions => 3,
            Api::InitProducerId | Api::SaslAuthenticate => 2,
            Api::DescribeConfigs => 4,
            Api::SaslHandshake => i16::MAX,
            Api::DescribeProducers => 0,
        };
        version >= first
    }
}

/// From this version on Produce names topics by id, not by name.
pub(super) const PRODUCE_BY_ID: i16 = 13;

/// Identifies one life of a topic.
pub(super) type TopicId = [u8; 16];

/// Writes a request; [`Writer::finish`] fills in its size.
struct Writer {
    bytes: Vec<u8>,
    flexible: bool,
}

impl Writer {
    fn new(api: Api, version: i16, correlation_id: i32, client_id: &str) -> Writer {
        let flexible = api.is_flexible(version);
        // The header's client id keeps the old form even where the rest is flexible.
        let mut writer = Writer { bytes: vec![0; 4], flexible: false };
        writer.put(&api.key().to_be_bytes());
        writer.put(&version.to_be_bytes());
        writer.put(&correlation_id.to_be_bytes());
        writer.string(Some(client_id));
        writer.flexible = flexible;
        writer.no_tags();
        writer
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    fn string(&mut self, string: Option<&str>) {
        match (self.flexible, string) {
            (true, None) => self.bytes.push(0),
            (true, Some(string)) => self.unsigned_varint(string.len() as u32 + 1),
            (false, None) => self.put(&(-1i16).to_be_bytes()),
            (false, Some(string)) => self.put(&(string.len() as i16).to_be_bytes()),
        }
        self.put(string.unwrap_or_default().as_bytes());
    }

    /// The length of an array, or of bytes that follow.
    fn len(&mut self, len: usize) {
        if self.flexible {
            self.unsigned_varint(len as u32 + 1);
        } else {
            self.put(&(len as i32).to_be_bytes());
        }
    }

    fn no_tags(&mut self) {
        if self.flexible {
            self.bytes.push(0);
        }
    }

    fn finish(mut self) -> Vec<u8> {
        let size = (self.bytes.len() - 4) as i32;
        self.bytes[..4].copy_from_slice(&size.to_be_bytes());
        self.bytes
    }
}

/// Reads an answer. Every step fails with `Undecodable` where the bytes end too early.
struct Reader<'a> {
    rest: &'a [u8],
    flexible: bool,
    what: &'static str,
}

impl<'a> Reader<'a> {
    fn new(answer: &'a [u8], flexible: bool, what: &'static str) -> Reader<'a> {
        Reader { rest: answer, flexible, what }
    }

    fn broken(&self) -> Error {
        Error::Undecodable(self.what)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let broken = self.broken();
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(broken)?;
        self.rest = rest;
        Ok(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        Ok(self.take(N)?.try_into().expect("take gives N bytes"))
    }

    fn i16(&mut self) -> Result<i16, Error> {
        self.chunk().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, Error> {
        self.chunk().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, Error> {
        self.chunk().map(i64::from_be_bytes)
    }

    fn unsigned_varint(&mut self) -> Result<u32, Error> {
        let mut value = 0;
        for n in 0..5 {
            let [byte] = self.chunk()?;
            value |= u32::from(byte & 0x7f) << (7 * n);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.broken())
    }

    fn string(&mut self) -> Result<Option<&'a str>, Error> {
        let len = if self.flexible {
            i64::from(self.unsigned_varint()?) - 1
        } else {
            i64::from(self.i16()?)
        };
        if len == -1 {
            return Ok(None);
        }
        let len = usize::try_from(len).map_err(|_| self.broken())?;
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map(Some).map_err(|_| self.broken())
    }

    /// Reads bytes, absent ones as none.
    fn bytes(&mut self) -> Result<&'a [u8], Error> {
        let len = if self.flexible {
            i64::from(self.unsigned_varint()?) - 1
        } else {
            i64::from(self.i32()?)
        };
        match usize::try_from(len) {
            Ok(len) => self.take(len),
            Err(_) if len == -1 => Ok(&[]),
            Err(_) => Err(self.broken()),
        }
    }

    /// Reads an array, an absent one as empty. Memory grows with what is read, not with the
    /// count that is named.
    fn array<T>(
        &mut self,
        mut item: impl FnMut(&mut Reader<'a>) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let len = if self.flexible {
            i64::from(self.unsigned_varint()?) - 1
        } else {
            i64::from(self.i32()?)
        };
        let mut items = Vec::new();
        for _ in 0..len {
            if self.rest.is_empty() {
                return Err(self.broken());
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Skips the tagged fields of a struct.
    fn tags(&mut self) -> Result<(), Error> {
        self.tag_zero(|_| Ok(())).map(drop)
    }

    /// Reads the tagged field 0 of a struct, if it is there, and skips the others.
    fn tag_zero<T>(
        &mut self,
        read: impl Fn(&mut Reader<'a>) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let mut found = None;
        if self.flexible {
            for _ in 0..self.unsigned_varint()? {
                let tag = self.unsigned_varint()?;
                let len = self.unsigned_varint()?;
                let field = Reader { rest: self.take(len as usize)?, ..*self };
                if tag == 0 {
                    found = Some(read(&mut { field })?);
                }
            }
        }
        Ok(found)
    }
}

/// Whom a request comes from and which it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) version: i16,
    pub(super) correlation_id: i32,
    pub(super) client_id: &'a str,
}

impl Head<'_> {
    fn write(self, api: Api) -> Writer {
        Writer::new(api, self.version, self.correlation_id, self.client_id)
    }
}

/// What a broker can do: the versions of each request, by its key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Versions(Vec<(i16, i16, i16)>);

impl Versions {
    /// Returns the newest version that the broker and this program know.
    pub(super) fn newest(&self, api: Api) -> Option<i16> {
        let (_, min, max) = self.0.iter().find(|(key, _, _)| *key == api.key())?;
        let ours = api.versions();
        let newest = *max.min(ours.end());
        (newest >= *min.max(ours.start())).then_some(newest)
    }
}

/// Asks which versions the broker knows.
pub(super) fn api_versions_request(head: Head<'_>) -> Vec<u8> {
    let mut writer = head.write(Api::ApiVersions);
    if head.version >= 3 {
        writer.string(Some("log-shipper"));
        writer.string(Some(env!("CARGO_PKG_VERSION")));
        writer.no_tags();
    }
    writer.finish()
}

/// Returns what the broker can do, or the code with which it refuses to say so.
///
/// Code 35 means that it does not know `version`; what follows then differs from broker to broker
/// (version 0, nothing, librdkafka's mock something of its own) and is not looked at.
pub(super) fn api_versions_answer(
    version: i16,
    body: &[u8],
) -> Result<Result<Versions, i16>, Error> {
    let flexible = Api::ApiVersions.is_flexible(version);
    let mut reader = Reader::new(body, flexible, "ApiVersions answer");
    let code = reader.i16()?;
    if code != 0 {
        return Ok(Err(code));
    }
    let versions = reader.array(|reader| {
        let entry = (reader.i16()?, reader.i16()?, reader.i16()?);
        reader.tags()?;
        Ok(entry)
    })?;
    Ok(Ok(Versions(versions)))
}

/// Names the way in which we are going to say who we are.
pub(super) fn sasl_handshake_request(head: Head<'_>, mechanism: &str) -> Vec<u8> {
    let mut writer = head.write(Api::SaslHandshake);
    writer.string(Some(mechanism));
    writer.finish()
}

/// Returns the code of the answer and the mechanisms that the listener knows.
pub(super) fn sasl_handshake_answer(body: &[u8]) -> Result<(i16, Vec<String>), Error> {
    let mut reader = Reader::new(body, false, "SaslHandshake answer");
    let code = reader.i16()?;
    let mechanisms = reader.array(|reader| Ok(reader.string()?.unwrap_or_default().to_owned()))?;
    Ok((code, mechanisms))
}

/// Carries a message of the mechanism.
pub(super) fn sasl_authenticate_request(head: Head<'_>, message: &[u8]) -> Vec<u8> {
    let mut writer = head.write(Api::SaslAuthenticate);
    writer.len(message.len());
    writer.put(message);
    writer.no_tags();
    writer.finish()
}

/// The broker's side of an exchange.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SaslAnswer<'a> {
    pub(super) code: i16,
    /// The broker's words.
    pub(super) problem: Option<&'a str>,
    pub(super) message: &'a [u8],
    /// After which the broker wants to hear it again; 0: never.
    pub(super) session_lifetime_ms: i64,
}

pub(super) fn sasl_authenticate_answer(version: i16, body: &[u8]) -> Result<SaslAnswer<'_>, Error> {
    let flexible = Api::SaslAuthenticate.is_flexible(version);
    let mut reader = Reader::new(body, flexible, "SaslAuthenticate answer");
    reader.tags()?;
    Ok(SaslAnswer {
        code: reader.i16()?,
        problem: reader.string()?,
        message: reader.bytes()?,
        session_lifetime_ms: if version >= 1 { reader.i64()? } else { 0 },
    })
}

/// Asks for the brokers and the leaders of `topics`.
pub(super) fn metadata_request<'a>(
    head: Head<'_>,
    topics: impl ExactSizeIterator<Item = &'a str>,
    allow_auto_create_topics: bool,
) -> Vec<u8> {
    let mut writer = head.write(Api::Metadata);
    writer.len(topics.len());
    for topic in topics {
        if head.version >= 10 {
            writer.put(&TopicId::default());
        }
        writer.string(Some(topic));
        writer.no_tags();
    }
    writer.put(&[u8::from(allow_auto_create_topics)]);
    if (8..=10).contains(&head.version) {
        writer.put(&[0]); // No list of what we may do with the cluster,
    }
    if head.version >= 8 {
        writer.put(&[0]); // nor with each topic.
    }
    writer.no_tags();
    writer.finish()
}

/// The answer to Metadata, as far as a producer needs it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) throttle_ms: i32,
    pub(super) brokers: Vec<BrokerMetadata>,
    pub(super) topics: Vec<TopicMetadata>,
    /// From v13 on: the whole request failed.
    pub(super) code: i16,
}

/// One broker of the cluster.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BrokerMetadata {
    pub(super) node: i32,
    /// `host:port`.
    pub(super) address: String,
}

/// One topic that was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TopicMetadata {
    pub(super) code: i16,
    pub(super) name: String,
    /// Zero before v10.
    pub(super) id: TopicId,
    pub(super) partitions: Vec<PartitionMetadata>,
}

/// One partition of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PartitionMetadata {
    pub(super) code: i16,
    pub(super) index: i32,
    /// Who leads it; the node is -1 for none.
    pub(super) leader: Leader,
}

/// Who leads a partition, and since which election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leader {
    pub(super) node: i32,
    /// Grows with each election of the partition; -1 where the broker does not say.
    pub(super) epoch: i32,
}

/// Reads the address of a broker and the rest of the struct that it stands in.
fn broker(reader: &mut Reader<'_>) -> Result<BrokerMetadata, Error> {
    let node = reader.i32()?;
    let host = reader.string()?.ok_or_else(|| reader.broken())?;
    let port = reader.i32()?;
    let _rack = reader.string()?;
    reader.tags()?;
    let address =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    Ok(BrokerMetadata { node, address })
}

pub(super) fn metadata_answer(version: i16, body: &[u8]) -> Result<Metadata, Error> {
    let flexible = Api::Metadata.is_flexible(version);
    let mut reader = Reader::new(body, flexible, "Metadata answer");
    reader.tags()?;
    let throttle_ms = reader.i32()?;
    let brokers = reader.array(broker)?;
    let _cluster_id = reader.string()?;
    let _controller = reader.i32()?;
    let topics = reader.array(|reader| {
        let code = reader.i16()?;
        let name = reader.string()?.unwrap_or_default().to_owned();
        let id = if version >= 10 { reader.chunk()? } else { TopicId::default() };
        let _is_internal = reader.take(1)?;
        let partitions = reader.array(|reader| {
            let code = reader.i16()?;
            let index = reader.i32()?;
            let node = reader.i32()?;
            let epoch = if version >= 7 { reader.i32()? } else { -1 };
            let n_lists = if version >= 5 { 3 } else { 2 }; // Replicas, in sync, offline.
            for _ in 0..n_lists {
                reader.array(Reader::i32)?;
            }
            reader.tags()?;
            Ok(PartitionMetadata { code, index, leader: Leader { node, epoch } })
        })?;
        if version >= 8 {
            let _authorized_operations = reader.i32()?;
        }
        reader.tags()?;
        Ok(TopicMetadata { code, name, id, partitions })
    })?;
    if (8..=10).contains(&version) {
        let _authorized_operations = reader.i32()?;
    }
    let code = if version >= 13 { reader.i16()? } else { 0 };
    reader.tags()?;
    Ok(Metadata { throttle_ms, brokers, topics, code })
}

/// Asks for a producer id of our own, without a transactional id.
pub(super) fn init_producer_id_request(head: Head<'_>) -> Vec<u8> {
    let mut writer = head.write(Api::InitProducerId);
    writer.string(None);
    writer.put(&i32::MAX.to_be_bytes()); // Timeout of transactions; there are none.
    if head.version >= 3 {
        writer.put(&(-1i64).to_be_bytes());
        writer.put(&(-1i16).to_be_bytes());
    }
    writer.no_tags();
    writer.finish()
}

/// The answer to InitProducerId.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProducerIdAnswer {
    pub(super) throttle_ms: i32,
    pub(super) code: i16,
    /// -1 with an error.
    pub(super) producer_id: i64,
    pub(super) epoch: i16,
}

pub(super) fn init_producer_id_answer(
    version: i16,
    body: &[u8],
) -> Result<ProducerIdAnswer, Error> {
    let flexible = Api::InitProducerId.is_flexible(version);
    let mut reader = Reader::new(body, flexible, "InitProducerId answer");
    reader.tags()?;
    Ok(ProducerIdAnswer {
        throttle_ms: reader.i32()?,
        code: reader.i16()?,
        producer_id: reader.i64()?,
        epoch: reader.i16()?,
    })
}

/// Asks the leader of a partition which producers it knows there. Needs Read on the topic.
///
/// Any replica answers it, with what it knows itself, so that a former leader that does not know
/// better is not found out by its answer.
pub(super) fn describe_producers_request(head: Head<'_>, topic: &str, partition: i32) -> Vec<u8> {
    let mut writer = head.write(Api::DescribeProducers);
    writer.len(1);
    writer.string(Some(topic));
    writer.len(1);
    writer.put(&partition.to_be_bytes());
    writer.no_tags();
    writer.no_tags();
    writer.finish()
}

/// The answer to DescribeProducers about one partition.
#[derive(Debug)]
pub(super) struct ProducersAnswer<'a> {
    pub(super) throttle_ms: i32,
    pub(super) code: i16,
    /// The broker's words.
    pub(super) message: Option<&'a str>,
    /// The array of producers, decoded once and known to be whole.
    producers: &'a [u8],
}

impl ProducersAnswer<'_> {
    /// Returns the epoch of a producer and the sequence number of the last record it has in the
    /// partition, -1 where the broker knows of it but of no record. `None`: it does not know it.
    ///
    /// The leader has appended that record. Whether it is replicated only an answer to `acks=all`
    /// tells: a batch listed here can still be lost with the leader. The last one is recognised
    /// for sure when it is sent again, and success then stands for all before it, too.
    pub(super) fn last_sequence(&self, producer_id: i64) -> Option<(i16, i32)> {
        let mut found = None;
        let mut reader = Reader::new(self.producers, true, PRODUCERS_ANSWER);
        let producers = reader.array(|reader| {
            let (id, epoch, last_sequence) = active_producer(reader)?;
            if id == producer_id {
                found = Some((epoch, last_sequence));
            }
            Ok(())
        });
        producers.expect("describe_producers_answer has decoded them");
        found
    }
}

const PRODUCERS_ANSWER: &str = "DescribeProducers answer";

/// Errors: `Undecodable`, also where it is not about this partition alone.
pub(super) fn describe_producers_answer<'a>(
    body: &'a [u8],
    topic: &str,
    partition: i32,
) -> Result<ProducersAnswer<'a>, Error> {
    let mut reader = Reader::new(body, true, PRODUCERS_ANSWER);
    reader.tags()?;
    let throttle_ms = reader.i32()?;
    let mut answers = reader.array(|reader| {
        let name = reader.string()?;
        let partitions = reader.array(|reader| {
            let is_asked = (name, reader.i32()?) == (Some(topic), partition);
            let code = reader.i16()?;
            let message = reader.string()?;
            let before = reader.rest;
            // Nothing is kept of them, whatever count the answer names.
            reader.array(|reader| active_producer(reader).map(drop))?;
            let producers = &before[..before.len() - reader.rest.len()];
            reader.tags()?;
            let answer = ProducersAnswer { throttle_ms, code, message, producers };
            is_asked.then_some(answer).ok_or_else(|| reader.broken())
        })?;
        reader.tags()?;
        Ok(partitions)
    })?;
    reader.tags()?;
    match answers.as_mut_slice() {
        [partitions] if partitions.len() == 1 => Ok(partitions.remove(0)),
        _ => Err(reader.broken()),
    }
}

/// Reads a producer: its id, epoch, and last sequence number.
fn active_producer(reader: &mut Reader<'_>) -> Result<(i64, i16, i32), Error> {
    let id = reader.i64()?;
    let epoch = i16::try_from(reader.i32()?).map_err(|_| reader.broken())?;
    let last_sequence = reader.i32()?;
    let _last_timestamp = reader.i64()?;
    let _coordinator_epoch = reader.i32()?;
    let _transaction_start = reader.i64()?;
    reader.tags()?;
    Ok((id, epoch, last_sequence))
}

/// Kafka's number of a topic among the things that have a configuration.
const TOPIC_RESOURCE: u8 = 2;
const MAX_MESSAGE_BYTES: &str = "max.message.bytes";

/// Asks how many bytes a batch of a topic may have. Needs DescribeConfigs on it.
pub(super) fn max_message_bytes_request(head: Head<'_>, topic: &str) -> Vec<u8> {
    let mut writer = head.write(Api::DescribeConfigs);
    writer.len(1);
    writer.put(&[TOPIC_RESOURCE]);
    writer.string(Some(topic));
    writer.len(1);
    writer.string(Some(MAX_MESSAGE_BYTES));
    writer.no_tags();
    writer.put(&[0]); // No synonyms,
    if head.version >= 3 {
        writer.put(&[0]); // and no documentation.
    }
    writer.no_tags();
    writer.finish()
}

/// The answer about one topic.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MaxMessageBytes {
    pub(super) throttle_ms: i32,
    pub(super) code: i16,
    /// The broker's words.
    pub(super) message: Option<String>,
    /// `None` with an error.
    pub(super) max_message_bytes: Option<usize>,
}

pub(super) fn max_message_bytes_answer(
    version: i16,
    body: &[u8],
) -> Result<MaxMessageBytes, Error> {
    let flexible = Api::DescribeConfigs.is_flexible(version);
    let mut reader = Reader::new(body, flexible, "DescribeConfigs answer");
    reader.tags()?;
    let throttle_ms = reader.i32()?;
    let mut answers = reader.array(|reader| {
        let code = reader.i16()?;
        let message = reader.string()?.map(str::to_owned);
        let _resource_type = reader.take(1)?;
        let _topic = reader.string()?;
        let values = reader.array(|reader| config_value(reader, version))?;
        reader.tags()?;
        let max_message_bytes = values.into_iter().flatten().next();
        Ok(MaxMessageBytes { throttle_ms, code, message, max_message_bytes })
    })?;
    reader.tags()?;
    match answers.len() {
        1 => Ok(answers.remove(0)),
        _ => Err(reader.broken()),
    }
}

/// Reads a key of a configuration; returns its value if it is the one that was asked for.
fn config_value(reader: &mut Reader<'_>, version: i16) -> Result<Option<usize>, Error> {
    let name = reader.string()?;
    let value = reader.string()?;
    let _read_only_source_and_sensitive = reader.take(3)?;
    reader.array(|reader| {
        let (_name, _value) = (reader.string()?, reader.string()?);
        let _source = reader.take(1)?;
        reader.tags()
    })?;
    if version >= 3 {
        let _type = reader.take(1)?;
        let _documentation = reader.string()?;
    }
    reader.tags()?;
    let value = value.filter(|_| name == Some(MAX_MESSAGE_BYTES));
    Ok(value.and_then(|value| value.parse().ok()))
}

/// One batch of a Produce request.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProduceItem<'a> {
    pub(super) topic: &'a str,
    pub(super) topic_id: TopicId,
    pub(super) partition: i32,
    /// Bytes of its RecordBatch.
    pub(super) batch_len: usize,
}

/// Returns the pieces of a Produce request between which the batches belong: `pieces[n]` comes
/// before the batch of `items[n]`, the last piece after all of them.
///
/// `items` of one topic must stand together, for a broker takes the last of two equal topics.
pub(super) fn produce_request(
    head: Head<'_>,
    timeout_ms: i32,
    items: &[ProduceItem<'_>],
) -> Vec<Vec<u8>> {
    let mut writer = head.write(Api::Produce);
    let mut pieces = Vec::with_capacity(items.len() + 1);
    writer.string(None); // No transaction.
    writer.put(&(-1i16).to_be_bytes()); // acks=all.
    writer.put(&timeout_ms.to_be_bytes());
    let by_topic = || items.chunk_by(|a, b| a.topic == b.topic);
    writer.len(by_topic().count());
    for items in by_topic() {
        if head.version >= PRODUCE_BY_ID {
            writer.put(&items[0].topic_id);
        } else {
            writer.string(Some(items[0].topic));
        }
        writer.len(items.len());
        for item in items {
            writer.put(&item.partition.to_be_bytes());
            writer.len(item.batch_len);
            pieces.push(std::mem::take(&mut writer.bytes));
            writer.no_tags();
        }
        writer.no_tags();
    }
    writer.no_tags();
    pieces.push(writer.bytes);

    let n_bytes = pieces.iter().map(Vec::len).sum::<usize>()
        + items.iter().map(|item| item.batch_len).sum::<usize>();
    pieces[0][..4].copy_from_slice(&((n_bytes - 4) as i32).to_be_bytes());
    pieces
}

/// The answer to Produce.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProduceAnswer {
    pub(super) throttle_ms: i32,
    pub(super) items: Vec<ProduceOutcome>,
    /// Where the leaders are that `items` name.
    pub(super) brokers: Vec<BrokerMetadata>,
}

/// What became of one batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProduceOutcome {
    /// Empty from v13 on. One for all partitions: a broken answer must not multiply it.
    pub(super) topic: Arc<str>,
    /// Zero before v13.
    pub(super) topic_id: TopicId,
    pub(super) partition: i32,
    pub(super) code: i16,
    pub(super) base_offset: i64,
    /// The records that are to blame, by their number in the batch, with the reason. From v8 on.
    pub(super) record_errors: Vec<(i32, Option<String>)>,
    /// From v8 on.
    pub(super) message: Option<String>,
    /// Who leads the partition now, where it is not the broker that was asked. From v10 on,
    /// KIP-951.
    pub(super) leader: Option<Leader>,
}

pub(super) fn produce_answer(version: i16, body: &[u8]) -> Result<ProduceAnswer, Error> {
    let flexible = Api::Produce.is_flexible(version);
    let mut reader = Reader::new(body, flexible, "Produce answer");
    reader.tags()?;
    let topics = reader.array(|reader| {
        let (topic, topic_id) = if version >= PRODUCE_BY_ID {
            ("".into(), reader.chunk()?)
        } else {
            let topic: Arc<str> = reader.string()?.unwrap_or_default().into();
            (topic, TopicId::default())
        };
        let outcomes = reader.array(|reader| {
            let partition = reader.i32()?;
            let code = reader.i16()?;
            let base_offset = reader.i64()?;
            let _log_append_time = reader.i64()?;
            if version >= 5 {
                let _log_start_offset = reader.i64()?;
            }
            let mut record_errors = Vec::new();
            let mut message = None;
            if version >= 8 {
                record_errors = reader.array(|reader| {
                    let index = reader.i32()?;
                    let reason = reader.string()?.map(str::to_owned);
                    reader.tags()?;
                    Ok((index, reason))
                })?;
                message = reader.string()?.map(str::to_owned);
            }
            let leader = reader.tag_zero(|reader| {
                let leader = Leader { node: reader.i32()?, epoch: reader.i32()? };
                reader.tags()?;
                Ok(leader)
            })?;
            Ok(ProduceOutcome {
                topic: topic.clone(),
                topic_id,
                partition,
                code,
                base_offset,
                record_errors,
                message,
                leader: leader.filter(|leader| leader.node >= 0),
            })
        })?;
        reader.tags()?;
        Ok(outcomes)
    })?;
    let throttle_ms = reader.i32()?;
    let brokers = reader.tag_zero(|reader| reader.array(broker))?.unwrap_or_default();
    Ok(ProduceAnswer { throttle_ms, items: topics.into_iter().flatten().collect(), brokers })
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use super::*;
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
    use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};

    fn head(version: i16) -> Head<'static> {
        Head { version, correlation_id: 17, client_id: "shipper" }
    }

    /// Decodes a request as a broker would, and sees that nothing is left over.
    fn request<T: Decodable + HeaderVersion>(api: Api, version: i16, bytes: &[u8]) -> T {
        let (len, mut rest) = bytes.split_first_chunk::<4>().unwrap();
        assert_eq!(u32::from_be_bytes(*len) as usize, rest.len());
        let header_version = T::header_version(version);
        let header = theirs::RequestHeader::decode(&mut rest, header_version).unwrap();
        assert_eq!(header.request_api_key, api.key());
        assert_eq!(header.request_api_version, version);
        assert_eq!(header.correlation_id, 17);
        assert_eq!(header.client_id.as_deref(), Some("shipper"));
        let request = T::decode(&mut rest, version).unwrap();
        assert!(rest.is_empty(), "{} bytes too many", rest.len());
        request
    }

    /// Encodes an answer as a broker would, without its correlation id.
    fn answer<T: Encodable + HeaderVersion>(answer: &T, version: i16) -> Vec<u8> {
        let mut bytes = Vec::new();
        let header_version = T::header_version(version);
        let header = theirs::ResponseHeader::default();
        header.encode(&mut bytes, header_version).unwrap();
        answer.encode(&mut bytes, version).unwrap();
        bytes.split_off(4)
    }

    /// Sees that no shortened answer is taken for whole, or brings the decoder down.
    fn check_shortened<T>(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, Error>) {
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "{len} of {}", bytes.len());
        }
        for at in 0..bytes.len() {
            for byte in [0x00, 0x7f, 0x80, 0xff] {
                let mut bytes = bytes.to_vec();
                bytes[at] = byte;
                let _ = decode(&bytes);
            }
        }
    }

    fn string(string: &str) -> StrBytes {
        StrBytes::from_string(string.to_owned())
    }

    #[test]
    fn api_versions_is_understood_by_others() {
        for version in Api::ApiVersions.versions() {
            let bytes = api_versions_request(head(version));
            let read: theirs::ApiVersionsRequest = request(Api::ApiVersions, version, &bytes);
            if version >= 3 {
                assert_eq!(&*read.client_software_name, "log-shipper");
            }

            let mut produce = ApiVersion::default();
            (produce.min_version, produce.max_version) = (5, 20);
            let mut metadata = ApiVersion::default();
            (metadata.api_key, metadata.min_version, metadata.max_version) = (3, 14, 15);
            let sent =
                theirs::ApiVersionsResponse::default().with_api_keys(vec![produce, metadata]);
            let bytes = answer(&sent, version);
            let versions = api_versions_answer(version, &bytes).unwrap().unwrap();
            assert_eq!(versions.newest(Api::Produce), Some(13));
            assert_eq!(versions.newest(Api::Metadata), None);
            assert_eq!(versions.newest(Api::InitProducerId), None);
            assert_eq!(versions.newest(Api::DescribeProducers), None);
        }
    }

    #[test]
    fn sasl_is_understood_by_others() {
        let bytes = sasl_handshake_request(head(1), "SCRAM-SHA-256");
        let read: theirs::SaslHandshakeRequest = request(Api::SaslHandshake, 1, &bytes);
        assert_eq!(&*read.mechanism, "SCRAM-SHA-256");
        let mechanisms = vec![string("PLAIN"), string("SCRAM-SHA-512")];
        let sent = theirs::SaslHandshakeResponse::default()
            .with_error_code(33)
            .with_mechanisms(mechanisms);
        let bytes = answer(&sent, 1);
        let (code, mechanisms) = sasl_handshake_answer(&bytes).unwrap();
        assert_eq!((code, mechanisms.join(" ").as_str()), (33, "PLAIN SCRAM-SHA-512"));
        check_shortened(&bytes, sasl_handshake_answer);

        for version in Api::SaslAuthenticate.versions() {
            let bytes = sasl_authenticate_request(head(version), b"\0user\0password");
            let read: theirs::SaslAuthenticateRequest =
                request(Api::SaslAuthenticate, version, &bytes);
            assert_eq!(&read.auth_bytes[..], b"\0user\0password");

            let lifetime = if version >= 1 { 3_600_000 } else { 0 };
            let sent = theirs::SaslAuthenticateResponse::default()
                .with_error_code(58)
                .with_error_message(Some(string("no")))
                .with_auth_bytes(b"v=1"[..].into())
                .with_session_lifetime_ms(lifetime);
            let bytes = answer(&sent, version);
            let expected = SaslAnswer {
                code: 58,
                problem: Some("no"),
                message: b"v=1",
                session_lifetime_ms: lifetime,
            };
            assert_eq!(sasl_authenticate_answer(version, &bytes).unwrap(), expected);
            // The tags at the end are not looked at.
            let whole = bytes.len() - usize::from(version >= 2);
            check_shortened(&bytes[..whole], |bytes| {
                sasl_authenticate_answer(version, bytes).map(|_| ())
            });
        }
    }

    #[test]
    fn a_refusal_of_api_versions_is_understood_whatever_follows() {
        for rest in [&[][..], &[0, 0, 0, 0], &[1, 0, 18, 0, 0, 0, 2, 0, 0, 0, 0]] {
            let bytes = [&[0, 35], rest].concat();
            assert_eq!(api_versions_answer(3, &bytes).unwrap(), Err(35), "{rest:?}");
        }
    }

    #[test]
    fn metadata_is_understood_by_others() {
        for version in Api::Metadata.versions() {
            let bytes = metadata_request(head(version), ["a", "b"].into_iter(), true);
            let read: theirs::MetadataRequest = request(Api::Metadata, version, &bytes);
            let names: Vec<_> = read.topics.iter().flatten().map(|t| t.name.clone()).collect();
            assert_eq!(names, [Some(string("a").into()), Some(string("b").into())]);
            assert!(read.allow_auto_topic_creation);

            let mut broker = MetadataResponseBroker::default();
            (broker.node_id, broker.port) = (7.into(), 9092);
            broker.host = string("fe80::1");
            broker.rack = Some(string("rack"));
            let mut partition = MetadataResponsePartition::default();
            (partition.partition_index, partition.leader_id) = (1, 7.into());
            partition.replica_nodes = vec![7.into(), 8.into()];
            let epoch = if version >= 7 { 3 } else { -1 };
            if version >= 7 {
                partition.leader_epoch = epoch;
            }
            let leader = Leader { node: 7, epoch };
            let mut topic = MetadataResponseTopic::default();
            topic.name = Some(string("a").into());
            topic.partitions = vec![partition];
            let mut missing = MetadataResponseTopic::default();
            (missing.name, missing.error_code) = (Some(string("b").into()), 3);
            let mut sent = theirs::MetadataResponse::default()
                .with_throttle_time_ms(5)
                .with_brokers(vec![broker])
                .with_topics(vec![topic, missing]);
            let id = if version >= 10 { [9; 16] } else { [0; 16] };
            if version >= 10 {
                sent.topics[0].topic_id = uuid_of(id);
            }
            let bytes = answer(&sent, version);
            let expected = Metadata {
                throttle_ms: 5,
                brokers: vec![BrokerMetadata { node: 7, address: "[fe80::1]:9092".into() }],
                topics: vec![
                    TopicMetadata {
                        code: 0,
                        name: "a".into(),
                        id,
                        partitions: vec![PartitionMetadata { code: 0, index: 1, leader }],
                    },
                    TopicMetadata {
                        code: 3,
                        name: "b".into(),
                        id: [0; 16],
                        partitions: Vec::new(),
                    },
                ],
                code: 0,
            };
            assert_eq!(metadata_answer(version, &bytes).unwrap(), expected);
            check_shortened(&bytes, |bytes| metadata_answer(version, bytes));
        }
    }

    /// Spares a dependency only to name the type of a field.
    fn uuid_of<T: Default + std::str::FromStr>(id: TopicId) -> T {
        let text: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        text.parse().unwrap_or_default()
    }

    #[test]
    fn init_producer_id_is_understood_by_others() {
        for version in Api::InitProducerId.versions() {
            let bytes = init_producer_id_request(head(version));
            let read: theirs::InitProducerIdRequest = request(Api::InitProducerId, version, &bytes);
            assert_eq!(read.transactional_id, None);
            assert_eq!((read.producer_id, read.producer_epoch), ((-1).into(), -1));

            let sent = theirs::InitProducerIdResponse::default()
                .with_throttle_time_ms(5)
                .with_producer_id(4711.into())
                .with_producer_epoch(3);
            let bytes = answer(&sent, version);
            let expected =
                ProducerIdAnswer { throttle_ms: 5, code: 0, producer_id: 4711, epoch: 3 };
            assert_eq!(init_producer_id_answer(version, &bytes).unwrap(), expected);
        }
    }

    fn producer(id: i64, epoch: i32, last_sequence: i32) -> ProducerState {
        ProducerState::default()
            .with_producer_id(id.into())
            .with_producer_epoch(epoch)
            .with_last_sequence(last_sequence)
            .with_last_timestamp(1 << 41)
            .with_coordinator_epoch(-1)
            .with_current_txn_start_offset(-1)
    }

    fn producers_answer(topic: &str, partitions: Vec<PartitionResponse>) -> Vec<u8> {
        let topic = TopicResponse::default().with_name(string(topic).into());
        let sent = theirs::DescribeProducersResponse::default()
            .with_throttle_time_ms(5)
            .with_topics(vec![topic.with_partitions(partitions)]);
        answer(&sent, 0)
    }

    #[test]
    fn describe_producers_is_understood_by_others() {
        assert_eq!(Api::DescribeProducers.versions(), 0..=0);
        let bytes = describe_producers_request(head(0), "a", 7);
        let read: theirs::DescribeProducersRequest = request(Api::DescribeProducers, 0, &bytes);
        let asked: Vec<_> =
            read.topics.iter().map(|topic| (&*topic.name, &*topic.partition_indexes)).collect();
        assert_eq!(asked, [(&string("a"), &[7][..])]);

        let producers = vec![producer(4711, 3, i32::MAX), producer(4712, 0, -1)];
        let partition =
            PartitionResponse::default().with_partition_index(7).with_active_producers(producers);
        let bytes = producers_answer("a", vec![partition]);
        let read = describe_producers_answer(&bytes, "a", 7).unwrap();
        assert_eq!((read.throttle_ms, read.code, read.message), (5, 0, None));
        assert_eq!(read.last_sequence(4711), Some((3, i32::MAX)));
        assert_eq!(read.last_sequence(4712), Some((0, -1)));
        assert_eq!(read.last_sequence(4713), None);
        check_shortened(&bytes, |bytes| {
            let read = describe_producers_answer(bytes, "a", 7)?;
            Ok(read.last_sequence(4711))
        });
    }

    #[test]
    fn a_refusal_to_describe_producers_is_understood() {
        let partition = PartitionResponse::default()
            .with_partition_index(7)
            .with_error_code(29)
            .with_error_message(Some(string("denied")));
        let bytes = producers_answer("a", vec![partition]);
        let read = describe_producers_answer(&bytes, "a", 7).unwrap();
        assert_eq!((read.code, read.message), (29, Some("denied")));
        assert_eq!(read.last_sequence(4711), None);
    }

    #[test]
    fn an_answer_about_other_producers_than_those_asked_for_is_none() {
        let partition = |index| PartitionResponse::default().with_partition_index(index);
        for (topic, partitions) in [
            ("b", vec![partition(7)]),
            ("a", vec![partition(8)]),
            ("a", vec![partition(7), partition(7)]),
            ("a", vec![]),
        ] {
            let bytes = producers_answer(topic, partitions);
            assert!(describe_producers_answer(&bytes, "a", 7).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_count_of_producers_that_are_not_there_is_no_answer() {
        let partition = PartitionResponse::default().with_partition_index(7);
        let mut bytes = producers_answer("a", vec![partition]);
        // Behind the count, 1 for none, stand the tagged fields of three structs.
        let count = bytes.len() - 4;
        bytes.splice(count..=count, [0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert!(describe_producers_answer(&bytes, "a", 7).is_err());
    }

    #[test]
    fn a_question_for_the_size_of_batches_is_understood_by_others() {
        for version in Api::DescribeConfigs.versions() {
            let bytes = max_message_bytes_request(head(version), "a");
            let read: theirs::DescribeConfigsRequest =
                request(Api::DescribeConfigs, version, &bytes);
            let resource = &read.resources[0];
            assert_eq!((resource.resource_type, &*resource.resource_name), (2, "a"));
            assert_eq!(resource.configuration_keys, Some(vec![string("max.message.bytes")]));

            let mut config = DescribeConfigsResourceResult::default();
            config.name = string("max.message.bytes");
            config.value = Some(string("65536"));
            config.config_source = 1;
            let mut result = DescribeConfigsResult::default();
            (result.resource_name, result.error_message) = (string("a"), None);
            result.configs = vec![config];
            let mut sent = theirs::DescribeConfigsResponse::default()
                .with_throttle_time_ms(5)
                .with_results(vec![result]);
            let bytes = answer(&sent, version);
            let expected = MaxMessageBytes {
                throttle_ms: 5,
                code: 0,
                message: None,
                max_message_bytes: Some(65536),
            };
            assert_eq!(max_message_bytes_answer(version, &bytes).unwrap(), expected);
            check_shortened(&bytes, |bytes| max_message_bytes_answer(version, bytes));

            sent.results[0].configs.clear();
            (sent.results[0].error_code, sent.results[0].error_message) = (29, Some(string("no")));
            let read = max_message_bytes_answer(version, &answer(&sent, version)).unwrap();
            let refused = (read.code, read.message.as_deref(), read.max_message_bytes);
            assert_eq!(refused, (29, Some("no"), None));
            sent.results.clear();
            assert!(max_message_bytes_answer(version, &answer(&sent, version)).is_err());
        }
    }

    #[test]
    fn produce_is_understood_by_others() {
        let id = [9; 16];
        let item =
            |topic, partition, batch_len| ProduceItem { topic, topic_id: id, partition, batch_len };
        let items = [item("a", 0, 3), item("a", 5, 300), item("b", 1, 0)];
        for version in Api::Produce.versions() {
            let pieces = produce_request(head(version), 15_000, &items);
            let mut bytes = Vec::new();
            for (n, piece) in pieces.iter().enumerate() {
                bytes.extend_from_slice(piece);
                if let Some(item) = items.get(n) {
                    bytes.resize(bytes.len() + item.batch_len, n as u8);
                }
            }
            let read: theirs::ProduceRequest = request(Api::Produce, version, &bytes);
            assert_eq!((read.acks, read.timeout_ms), (-1, 15_000));
            assert_eq!(read.transactional_id, None);
            let mut seen = Vec::new();
            for topic in &read.topic_data {
                for data in &topic.partition_data {
                    let records = data.records.clone().unwrap().to_vec();
                    seen.push((
                        topic.name.to_string(),
                        *topic.topic_id.as_bytes(),
                        data.index,
                        records,
                    ));
                }
            }
            let expected: Vec<_> = items
                .iter()
                .enumerate()
                .map(|(n, item)| {
                    let (name, id) = if version >= 13 { ("", id) } else { (item.topic, [0; 16]) };
                    (name.to_owned(), id, item.partition, vec![n as u8; item.batch_len])
                })
                .collect();
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn an_answer_to_produce_is_understood() {
        for version in Api::Produce.versions() {
            let mut endpoints = Vec::new();
            let mut partition = PartitionProduceResponse::default();
            (partition.index, partition.error_code, partition.base_offset) = (4, 87, 1 << 40);
            let mut expected = ProduceOutcome {
                topic: "a".into(),
                topic_id: [0; 16],
                partition: 4,
                code: 87,
                base_offset: 1 << 40,
                record_errors: Vec::new(),
                message: None,
                leader: None,
            };
            let mut brokers = Vec::new();
            if version >= 10 {
                let mut leader = LeaderIdAndEpoch::default();
                (leader.leader_id, leader.leader_epoch) = (2.into(), 8);
                partition.current_leader = leader;
                expected.leader = Some(Leader { node: 2, epoch: 8 });
                let mut endpoint = NodeEndpoint::default();
                (endpoint.node_id, endpoint.host, endpoint.port) = (2.into(), string("b"), 9092);
                endpoints = vec![endpoint];
                brokers = vec![BrokerMetadata { node: 2, address: "b:9092".into() }];
            }
            if version >= 8 {
                let mut error = BatchIndexAndErrorMessage::default();
                error.batch_index = 2;
                error.batch_index_error_message = Some(string("too old"));
                partition.record_errors = vec![error];
                partition.error_message = Some(string("one is bad"));
                expected.record_errors = vec![(2, Some("too old".into()))];
                expected.message = Some("one is bad".into());
            }
            let mut topic = TopicProduceResponse::default();
            topic.partition_responses = vec![partition];
            if version >= 13 {
                topic.topic_id = uuid_of([9; 16]);
                (expected.topic, expected.topic_id) = ("".into(), [9; 16]);
            } else {
                topic.name = string("a").into();
            }
            let sent = theirs::ProduceResponse::default()
                .with_responses(vec![topic])
                .with_node_endpoints(endpoints)
                .with_throttle_time_ms(5);
            let bytes = answer(&sent, version);
            let expected = ProduceAnswer { throttle_ms: 5, items: vec![expected], brokers };
            assert_eq!(produce_answer(version, &bytes).unwrap(), expected);
            check_shortened(&bytes, |bytes| produce_answer(version, bytes));
        }
    }
}
