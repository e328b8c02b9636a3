//! What the tail walk may know of Kafka: a producer of its own.
//!
//! A batch is the unit of everything here: one receipt, one sequence number, one resend. From the
//! hub a batch goes by channel to one thread with a poll loop, which owns all connections:
//!
//! ```text
//! record_batch   an arena -> RecordBatch v2 bytes, compressed, checksummed
//! messages       the requests and their answers, as bytes
//! tls            the handshake, certificates
//! token          what OAUTHBEARER shows a broker, and where it comes from
//! sasl           how a broker learns who we are
//! connection     one TCP or TLS connection: framing, requests in flight
//! cluster        brokers, topics, leaders
//! verdict        what each error code means for a batch
//! partition      idempotent delivery: sequences, in flight, recovery
//! health         what is wrong, said once and counted
//! producer       the thread and its loop
//! read_back      which of our records stand in a partition, through librdkafka
//! ```
//!
//! Facts it stands on, seen on Kafka 3.9 and 4.1 where nothing else is said:
//!
//! - The broker remembers, per producer id and partition, the last five batches and answers a
//!   repeat (same epoch, first and last sequence number) with success and the first offset. Hence
//!   five in flight, and hence a batch is resent unchanged or not at all.
//! - It takes nothing out of sequence, except that a partition which knows nothing of a producer
//!   id takes any first sequence number. Hence the first batch under a new producer id, or to a
//!   topic that may have been made anew, goes alone: a second one behind it could overtake it.
//! - A leader that ceases to be one answers NOT_LEADER_OR_FOLLOWER to what it has appended, too. So
//!   does the next one before it is one, to what it has as a replica; the batch behind that, which
//!   comes a moment later, it takes. Hence what is sent again goes alone as well, until it arrives.
//! - After a restart the broker remembers the last batch alone. A resend of the one before is then
//!   answered OUT_OF_ORDER_SEQUENCE_NUMBER; that a later one is answered with success tells that
//!   it had arrived. If none is, nothing is known, and a repeat is better than a loss.
//! - Whoever may read a topic can ask its partitions for the last sequence number of each producer
//!   (DescribeProducers). It survives `kill -9`, elections, and the deletion of all records. But any
//!   replica answers, a follower too, with what it has appended, replicated or not: only the answer
//!   to a batch, or to its repeat, tells that it cannot be lost with the leader any more.
//! - A producer id expires by the newest time stamp of its records, not by when they came.
//! - Sending with producer id -1 is accepted and not idempotent, so an InitProducerId that fails
//!   is repeated for as long as it takes.
//! - LZ4 frames must have independent blocks, Snappy the framing of the Java client. Zstandard
//!   needs Produce v7.
//! - A request of a version the broker does not know closes the connection. ApiVersions is asked
//!   first; a broker that does not know its version answers in version 0, with error 35.
//! - Topics are named by id from Produce v13 on.
//! - A broker that does not lead a partition any more says in its answer who does, from Produce v10
//!   on (KIP-951), often before a broker that is asked for leaders knows it.
//! - The broker closes a connection after ten idle minutes. That is no trouble and not logged.
//! - A throttled client is answered at once and then not read from; it must not send for as long
//!   as the answer says.
//!
//! Absent on purpose: transactions, acks other than `all`, timeouts of a batch, raising the epoch
//! of a producer id (a new id does the same and needs no knowledge of what went before).

mod cluster;
mod connection;
pub mod consumer;
pub mod health;
mod messages;
#[cfg(test)]
mod mutations;
mod partition;
pub mod producer;
pub mod read_back;
pub mod record_batch;
mod sasl;
mod tls;
mod token;
mod verdict;

use std::fmt;
use std::io;
use std::time::Duration;

use crate::config::SecurityProtocol;

/// Why something between us and a broker failed.
#[derive(Debug)]
pub enum Error {
    /// The thread, or what wakes it, cannot be made.
    Start(io::Error),
    /// The codec failed, for want of memory.
    Codec(io::Error),
    /// The name of a broker leads nowhere.
    Resolve(io::Error),
    /// No connection came about.
    Connect(io::Error),
    /// A connection failed.
    Connection(io::Error),
    /// The broker closed the connection.
    Closed,
    /// The broker closed the connection without an answer to the first question.
    ClosedAtOnce(SecurityProtocol),
    /// No TLS comes about; says why.
    Tls(String),
    /// The broker does not take us for who we say we are; says why.
    Sasl(String),
    /// A secret cannot be had.
    Secret(io::Error),
    /// No token is to be had; says from where, and why.
    Token(String),
    /// No answer for this long.
    NoAnswer(Duration),
    /// No answer for this long, and another broker leads what was asked about.
    Replaced(Duration),
    /// Bytes that are no answer to what was asked; names the answer.
    Undecodable(&'static str),
    /// The broker answered the handshake with this code.
    Refused(i16),
    /// The broker knows no version of this request that we know.
    NoCommonVersion(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Start(source) => write!(f, "cannot start the producer: {source}"),
            Error::Codec(source) => write!(f, "cannot compress a batch: {source}"),
            Error::Resolve(source) => write!(f, "cannot resolve its name: {source}"),
            Error::Connect(source) => write!(f, "cannot connect: {source}"),
            Error::Connection(source) => write!(f, "connection lost: {source}"),
            Error::Closed => write!(f, "the broker closed the connection"),
            Error::ClosedAtOnce(protocol) => write!(
                f,
                "the broker closed the connection at the first question: does this listener speak \
                 kafka.security_protocol = {:?}?",
                protocol.name()
            ),
            Error::Tls(problem) => write!(f, "{problem}"),
            Error::Sasl(problem) => write!(f, "not authenticated: {problem}"),
            Error::Secret(source) => write!(f, "{source}"),
            Error::Token(problem) => write!(f, "no token for OAUTHBEARER: {problem}"),
            Error::NoAnswer(time) => write!(f, "no answer for {time:?}"),
            Error::Replaced(time) => {
                write!(f, "no answer for {time:?}, and others lead its partitions")
            }
            Error::Undecodable(what) => write!(f, "cannot decode its {what}"),
            Error::Refused(code) => {
                write!(f, "handshake refused with error {}", verdict::named(*code))
            }
            Error::NoCommonVersion(request) => write!(
                f,
                "it knows no version of {request} that this program knows (Kafka 2.1 or later is \
                 needed)"
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Start(source)
            | Error::Codec(source)
            | Error::Resolve(source)
            | Error::Connect(source)
            | Error::Connection(source)
            | Error::Secret(source) => Some(source),
            _ => None,
        }
    }
}
