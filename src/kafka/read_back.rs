//! Reading back: which of our records stand in a partition already.
//!
//! For the resume after a crash, where the broker can no longer tell what of the open batches
//! arrived: read the partition, from the offset after our last acknowledged record to its end as
//! of now, and report the records whose headers name our host. What is appended during the call is
//! not looked at: a request of the dead process that is still on its way must have been answered,
//! or have died with its connection, before.
//!
//! Through librdkafka, which knows every codec, for this is rare and far from the hot path. It
//! joins no group and commits nothing, though librdkafka needs the name of one. Records of open and
//! aborted transactions are read, too: ours are never part of one, and waiting for a transaction of
//! others to end could take for ever. Memory is bounded as that of the index walk's consumer, time
//! by `bytes_max`.
//!
//! Needs Read on the topic, and nothing of the group.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode::{GroupAuthorizationFailed, TopicAuthorizationFailed};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use super::consumer::{Context, client_config};
use crate::config::KafkaConfig;
use crate::secret;

/// How long one question to the broker may take, and with it to notice that we are to stop.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);
/// How long is waited for a message before we look whether we are to stop.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// Offsets in the first of the pieces in which a partition is read; each next one is twice as long.
/// Some 2 MB of broker log.
const PIECE_LEN: i64 = 8192;

/// Where one of our records stands, and which ground it covers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Which life of which file.
    pub file_id: String,
    /// First byte of its ground.
    pub offset: u64,
    /// Bytes of its ground.
    pub length: u64,
    /// Its offset in the partition.
    pub topic_offset: i64,
    /// Length and CRC-32C of its value; `None` where that holds the bytes of two files.
    pub value: Option<(usize, u32)>,
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The first offset read; what stood before it was not looked at.
    pub from: i64,
    /// The offset after the last one read: the partition's end as of the start of the call.
    pub to: i64,
    /// How `from` came about.
    pub beginning: Beginning,
    /// What is older was not read, for `bytes_max` is used up.
    pub bound_reached: bool,
    /// Bytes of keys, values and headers read, ours or not.
    pub n_bytes: u64,
    /// Records read, ours or not.
    pub n_records: u64,
    /// Records reported.
    pub n_found: u64,
}

/// How the first offset read came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// It is the one that was asked for.
    Asked,
    /// The one that was asked for is deleted, by retention or by hand: it is the oldest there was.
    /// Or what came after it was deleted while it was read.
    Gone,
    /// None was asked for, or one that this partition never had, as where the topic was made anew
    /// or an unclean election cut its end off: it is the oldest there is.
    Unknown,
}

/// Why a partition cannot be read back.
#[derive(Debug)]
pub enum ReadBackError {
    /// Read on the topic is not granted.
    Denied {
        /// Its name.
        topic: String,
    },
    /// The topic is there, and has no such partition.
    NoPartition {
        /// The topic's name.
        topic: String,
        /// Which it has not.
        partition: i32,
    },
    /// We were to stop.
    Stopped,
    /// A secret cannot be had.
    Secret(io::Error),
    /// librdkafka does not take a property, or has not the resources.
    Client(KafkaError),
}

impl fmt::Display for ReadBackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadBackError::Denied { topic } => {
                write!(f, "cannot read back topic {topic:?}: grant Read on it")
            }
            ReadBackError::NoPartition { topic, partition } => {
                write!(f, "cannot read back: topic {topic:?} has no partition {partition}")
            }
            ReadBackError::Stopped => write!(f, "stopped while reading back"),
            ReadBackError::Secret(source) => write!(f, "cannot read back: {source}"),
            ReadBackError::Client(source) => write!(f, "cannot read back: {source}"),
        }
    }
}

impl std::error::Error for ReadBackError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ReadBackError::Client(source) => Some(source),
            ReadBackError::Secret(source) => Some(source),
            _ => None,
        }
    }
}

/// Reads a partition from `from_offset` to its end as of now and shows `visit` each record of
/// `host`; one whose event a rotation cut in two for either part. The partition is read backwards
/// piece by piece, the newest piece first, each in the order of the partition: what a process wrote
/// just before it died is at the end.
///
/// Units: `from_offset` is one of the partition, and -1 where none is known. Then, as where it lies
/// beyond the end, all that is there is read. `bytes_max` counts keys, values and headers,
/// decompressed; the record that reaches it is the last.
/// Errors: `Denied`, `NoPartition`, `Client`; `Stopped` within about a second after `stop` has a
/// message or is disconnected. Brokers that are away and a topic that is not there are waited for,
/// and complained of once. What was shown to `visit` before an error does stand in the partition.
#[allow(clippy::too_many_arguments)]
pub fn read_back(
    kafka: &KafkaConfig,
    topic: &str,
    partition: i32,
    from_offset: i64,
    host: &str,
    bytes_max: u64,
    stop: &Receiver<()>,
    visit: &mut dyn FnMut(&Found),
) -> Result<Outcome, ReadBackError> {
    // Before they are read.
    let secrets = secret::Watch::new(kafka.files());
    let mut reader = Reader {
        consumer: open_patiently(kafka, topic, partition, stop)?,
        secrets,
        kafka,
        topic,
        partition,
        host: host.as_bytes(),
        bytes_max,
        stop,
        visit,
        found: Found::default(),
        outcome: Outcome {
            from: from_offset,
            to: 0,
            beginning: Beginning::Asked,
            bound_reached: false,
            n_bytes: 0,
            n_records: 0,
            n_found: 0,
        },
    };
    let (low, high) = reader.watermarks()?;
    reader.outcome.beginning = match from_offset {
        0.. if from_offset > high => Beginning::Unknown,
        0.. if from_offset < low => Beginning::Gone,
        0.. => Beginning::Asked,
        _ => Beginning::Unknown,
    };
    let is_asked = reader.outcome.beginning == Beginning::Asked;
    reader.read_backwards(if is_asked { from_offset } else { low }, high)?;
    Ok(reader.outcome)
}

/// Opens a consumer once the files of secrets can be used, which may be written just now.
fn open_patiently(
    kafka: &KafkaConfig,
    topic: &str,
    partition: i32,
    stop: &Receiver<()>,
) -> Result<BaseConsumer<Context>, ReadBackError> {
    let mut is_said = false;
    loop {
        match open(kafka, topic, partition) {
            Err(error @ (ReadBackError::Secret(_) | ReadBackError::Client(_)))
                if !kafka.files().is_empty() =>
            {
                if !std::mem::replace(&mut is_said, true) {
                    log::warn!("{topic} partition {partition}: {error}; trying again");
                }
                pause(stop, kafka.retry_backoff_max)?;
            }
            opened => return opened,
        }
    }
}

fn pause(stop: &Receiver<()>, time: Duration) -> Result<(), ReadBackError> {
    match stop.recv_timeout(time) {
        Err(RecvTimeoutError::Timeout) => Ok(()),
        Ok(()) | Err(RecvTimeoutError::Disconnected) => Err(ReadBackError::Stopped),
    }
}

fn open(
    kafka: &KafkaConfig,
    topic: &str,
    partition: i32,
) -> Result<BaseConsumer<Context>, ReadBackError> {
    let mut config = client_config(kafka).map_err(ReadBackError::Secret)?;
    config
        .set("group.id", format!("{}-read-back", kafka.client_id))
        .set("allow.auto.create.topics", "false")
        .set("isolation.level", "read_uncommitted")
        // So that retention that overtakes us is seen, and the end of a compacted partition.
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true");
    let about = format!("{topic} partition {partition}, read back");
    let ignored = &[GroupAuthorizationFailed, TopicAuthorizationFailed];
    let context = Context::new(about, ignored, kafka);
    config.create_with_context(context).map_err(ReadBackError::Client)
}

struct Reader<'a> {
    consumer: BaseConsumer<Context>,
    /// What the consumer has read.
    secrets: secret::Watch,
    kafka: &'a KafkaConfig,
    topic: &'a str,
    partition: i32,
    host: &'a [u8],
    bytes_max: u64,
    stop: &'a Receiver<()>,
    visit: &'a mut dyn FnMut(&Found),
    /// Filled again for each record.
    found: Found,
    /// What was read so far.
    outcome: Outcome,
}

impl Reader<'_> {
    /// Returns the first offset and the one after the last, asking until there is an answer.
    fn watermarks(&mut self) -> Result<(i64, i64), ReadBackError> {
        let mut backoff = self.kafka.retry_backoff;
        loop {
            let marks =
                self.consumer.fetch_watermarks(self.topic, self.partition, QUESTION_TIMEOUT);
            match marks {
                Ok(marks) => return Ok(marks),
                Err(error) => self.judge(&error)?,
            }
            // The error callback, which names brokers that are away, is served by polling only. A
            // message that comes so is read again: who asks in between assigns anew.
            let _ = self.consumer.poll(Duration::ZERO);
            pause(self.stop, backoff)?;
            self.renew()?;
            backoff = (backoff * 2).min(self.kafka.retry_backoff_max);
        }
    }

    /// Begins anew with the secrets as they are now, if they were replaced; tells whether.
    fn renew(&mut self) -> Result<bool, ReadBackError> {
        let has_changed = self.secrets.has_changed(Instant::now());
        if has_changed {
            self.consumer.context().leave();
            self.consumer = open_patiently(self.kafka, self.topic, self.partition, self.stop)?;
        }
        Ok(has_changed)
    }

    /// Passes on an error that waiting cannot mend, and complains of any other.
    fn judge(&self, error: &KafkaError) -> Result<(), ReadBackError> {
        use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, Resolve, UnknownPartition};
        let topic = self.topic.to_owned();
        let code = error.rdkafka_error_code();
        match code {
            Some(TopicAuthorizationFailed) => return Err(ReadBackError::Denied { topic }),
            Some(UnknownPartition) if self.has_no_partition() => {
                return Err(ReadBackError::NoPartition { topic, partition: self.partition });
            }
            // Said also of one that has no leader just now.
            Some(UnknownPartition) => {}
            // The error callback says it, with the broker's name.
            Some(BrokerTransportFailure | AllBrokersDown | Resolve) => {}
            // librdkafka looks for the coordinator of a group that we never join.
            Some(GroupAuthorizationFailed) => {}
            _ => self.consumer.context().complain(&format!("{code:?}"), &error.to_string()),
        }
        Ok(())
    }

    /// Tells whether the topic is known to have partitions, and not this one.
    fn has_no_partition(&self) -> bool {
        let metadata = self.consumer.fetch_metadata(Some(self.topic), QUESTION_TIMEOUT);
        metadata.is_ok_and(|metadata| {
            metadata.topics().iter().any(|topic| {
                let is_it = topic.name() == self.topic && topic.error().is_none();
                let mut others = topic.partitions().iter();
                is_it && others.len() > 0 && others.all(|other| other.id() != self.partition)
            })
        })
    }

    /// Reads piece by piece from `high` down to `low`.
    fn read_backwards(&mut self, low: i64, high: i64) -> Result<(), ReadBackError> {
        (self.outcome.from, self.outcome.to) = (high, high);
        let mut piece_len = PIECE_LEN;
        while self.outcome.from > low {
            let end = self.outcome.from;
            let start = end.saturating_sub(piece_len).max(low);
            let read_to = self.read(start, end)?;
            if self.outcome.bound_reached {
                break; // Amid this piece, which is not counted as read.
            }
            if end == high {
                self.outcome.to = read_to;
            }
            self.outcome.from = start;
            piece_len = piece_len.saturating_mul(2);
        }
        Ok(())
    }

    /// Reads `[start, end)`; returns the offset after the last one read.
    fn read(&mut self, start: i64, mut end: i64) -> Result<i64, ReadBackError> {
        let mut next = start;
        let mut ended_at = None;
        if next < end {
            self.assign(next)?;
        }
        while next < end {
            if self.outcome.n_bytes >= self.bytes_max {
                self.outcome.bound_reached = true;
                return Ok(next);
            }
            if self.renew()? {
                self.assign(next)?;
            }
            match self.consumer.poll(POLL_TIMEOUT) {
                None => {}
                Some(Ok(message)) => {
                    self.consumer.context().recovered();
                    next = message.offset() + 1;
                    if message.offset() < end {
                        let (found, outcome) = (&mut self.found, &mut self.outcome);
                        look_at(&message, self.host, found, outcome, self.visit);
                    }
                }
                // Nothing is left but what compaction and markers of transactions leave.
                Some(Err(KafkaError::PartitionEOF(_))) if ended_at == Some(next) => break,
                // A leader that has just become one may not yet know how far the others are, and
                // call too early an offset the end. It says where the end is only once it knows.
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    ended_at = Some(next);
                    end = end.min(self.watermarks()?.1);
                    self.assign(next)?;
                }
                Some(Err(error)) if is_out_of_range(&error) => {
                    let (low, high) = self.watermarks()?;
                    if next < low {
                        self.outcome.beginning = Beginning::Gone;
                    }
                    end = end.min(high);
                    next = next.max(low);
                    self.assign(next)?;
                }
                Some(Err(error)) => self.judge(&error)?,
            }
            pause(self.stop, Duration::ZERO)?;
        }
        Ok(end)
    }

    fn assign(&self, offset: i64) -> Result<(), ReadBackError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(self.topic, self.partition, Offset::Offset(offset))
            .and_then(|()| self.consumer.assign(&list))
            .map_err(ReadBackError::Client)
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.consumer.context().leave();
    }
}

/// Whether the offset to be read next is not there, and with `auto.offset.reset` none is chosen.
fn is_out_of_range(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{AutoOffsetReset, OffsetOutOfRange};
    matches!(error.rdkafka_error_code(), Some(AutoOffsetReset | OffsetOutOfRange))
}

/// Counts a record and shows it to `visit` if it is one of ours.
fn look_at(
    message: &BorrowedMessage<'_>,
    host: &[u8],
    found: &mut Found,
    outcome: &mut Outcome,
    visit: &mut dyn FnMut(&Found),
) {
    outcome.n_records += 1;
    outcome.n_bytes += (message.key_len() + message.payload_len()) as u64;
    let Some(headers) = message.headers() else { return };
    let (mut is_ours, mut has_file) = (false, false);
    let (mut offset, mut length) = (None, None);
    let (mut rest_file_id, mut rest_length) = (None, None);
    for header in headers.iter() {
        let value = header.value.unwrap_or_default();
        outcome.n_bytes += (header.key.len() + value.len()) as u64;
        match header.key {
            "host" => is_ours = value == host,
            "file_id" => {
                found.file_id.clear();
                has_file = std::str::from_utf8(value).map(|id| found.file_id.push_str(id)).is_ok();
            }
            "offset" => offset = number(value),
            "length" => length = number(value),
            "rest_file_id" => rest_file_id = std::str::from_utf8(value).ok(),
            "rest_length" => rest_length = number(value),
            _ => {}
        }
    }
    if let (true, true, Some(offset), Some(length)) = (is_ours, has_file, offset, length) {
        (found.offset, found.length, found.topic_offset) = (offset, length, message.offset());
        let value = message.payload().unwrap_or_default();
        found.value = rest_file_id.is_none().then(|| (value.len(), crc32c::crc32c(value)));
        outcome.n_found += 1;
        visit(found);
        if let (Some(file_id), Some(length)) = (rest_file_id, rest_length) {
            visit(&Found { file_id: file_id.into(), offset: 0, length, ..*found });
        }
    }
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok().and_then(|text| u64::from_str(text).ok())
}
