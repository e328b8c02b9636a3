//! The group member of the index walk, through librdkafka.
//!
//! Rebalances are not acted on inside librdkafka's callback: they are handed to the hub as data,
//! which drains what is under way, commits, and only then lets partitions go. librdkafka keeps up
//! the heartbeats meanwhile on threads of its own.
//!
//! Offsets are committed by the hub alone: the settled prefix of each partition, never what was
//! merely polled.

use std::collections::{HashMap, VecDeque};
use std::error::Error as StdError;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer as _, ConsumerContext, RebalanceProtocol,
};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::token::{Token, TokenSource};
use crate::config::{EndpointIdentification, IndexConfig, KafkaConfig};
use crate::error::Error;
use crate::secret;
use crate::tls::ca_file;

/// A partition of a topic.
pub type Partition = (String, i32);

/// What the group decided about this member's partitions.
#[derive(Debug)]
pub enum Rebalance {
    /// These are added.
    Assign(Vec<Partition>),
    /// These go to others; with `lost`, they already have gone and must not be committed.
    Revoke {
        /// Which.
        partitions: Vec<Partition>,
        /// The session had ended.
        lost: bool,
    },
}

/// What one look at the group and its messages gave.
pub enum Polled<'a> {
    /// The next message; its bytes live in librdkafka.
    Message(BorrowedMessage<'a>),
    /// To be answered by [`Consumer::assign`] or [`Consumer::unassign`].
    Rebalance(Rebalance),
    /// Nothing in this time, or something that needs no act.
    Nothing,
    /// No message will come any more, for this reason.
    Fatal(String),
}

/// A member of a consumer group.
pub struct Consumer {
    inner: BaseConsumer<Context>,
}

/// What librdkafka reports without being asked.
#[derive(Default)]
pub(super) struct Context {
    /// Which topics, and as which group or what for: what a complaint is about.
    about: String,
    /// What is none of our business, or said by whoever uses the consumer.
    ignored: &'static [RDKafkaErrorCode],
    /// Of OAUTHBEARER.
    tokens: Option<TokenSource>,
    /// The token that was given last.
    token: Mutex<Option<Token>>,
    rebalances: Mutex<VecDeque<Rebalance>>,
    /// The consumer is being dropped: nobody asks for rebalances any more.
    is_leaving: AtomicBool,
    /// What was complained of, and when: each is logged once, and again while it lasts.
    complaints: Mutex<HashMap<String, Instant>>,
    has_complaints: AtomicBool,
}

/// How often a complaint is logged while its cause lasts.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(600);

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn StdError>> {
        let token = self.tokens.as_ref().ok_or("no token was asked for")?.token()?;
        let use_time = token.use_time(Instant::now());
        let lifetime = SystemTime::now().duration_since(UNIX_EPOCH)? + use_time;
        *self.token.lock().expect("no holder panics") = Some(token.clone());
        Ok(OAuthToken {
            token: token.text().to_owned(),
            // The broker takes the name out of the token.
            principal_name: "shipper".to_owned(),
            lifetime_ms: lifetime.as_millis() as i64,
        })
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // FAIL and ERROR come as errors too.
        if level as i32 > RDKafkaLogLevel::Warning as i32 || matches!(facility, "FAIL" | "ERROR") {
            log::debug!("librdkafka: {facility}: {message}");
        } else if facility == "OFFSET" {
            // The only sign that retention took records before they were read.
            log::warn!("consumer: {message}");
        } else {
            self.complain(facility, message);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code().is_some_and(|code| self.ignored.contains(&code)) {
            return;
        }
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Authentication)
            && let Some(tokens) = &self.tokens
            && let Some(token) = self.token.lock().expect("no holder panics").take()
        {
            tokens.is_refused(&token);
        }
        // A reason begins with the broker it is about, and goes on with changing counts.
        let broker = reason.split(": ").next().unwrap_or_default();
        self.complain(&format!("{:?} {broker}", error.rdkafka_error_code()), reason);
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        if self.is_leaving.load(Ordering::Relaxed) {
            // The group is left only once this is answered.
            let result = unassign(consumer, partitions);
            return self.log_failure("let partitions go", result);
        }
        let partitions: Vec<Partition> = partitions
            .elements()
            .iter()
            .map(|element| (element.topic().to_owned(), element.partition()))
            .collect();
        let rebalance = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Rebalance::Assign(partitions),
            _ => Rebalance::Revoke { partitions, lost: consumer.assignment_lost() },
        };
        self.rebalances.lock().expect("no holder panics").push_back(rebalance);
    }
}

impl Context {
    pub(super) fn new(
        about: String,
        ignored: &'static [RDKafkaErrorCode],
        kafka: &KafkaConfig,
    ) -> Context {
        Context { about, ignored, tokens: TokenSource::of(kafka), ..Context::default() }
    }

    /// Complains no more: the consumer is being dropped.
    pub(super) fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
    }

    fn log_failure(&self, attempt: &str, result: KafkaResult<()>) {
        if let Err(error) = result {
            self.complain(attempt, &format!("cannot {attempt}: {error}"));
        }
    }

    /// Logs what is wrong, once for each kind until messages come again.
    pub(super) fn complain(&self, kind: &str, text: &str) {
        if self.is_leaving.load(Ordering::Relaxed) {
            return;
        }
        let mut complaints = self.complaints.lock().expect("no holder panics");
        let now = Instant::now();
        let is_news = complaints.get(kind).is_none_or(|at| now - *at > COMPLAINT_INTERVAL);
        if is_news {
            complaints.insert(kind.to_owned(), now);
            self.has_complaints.store(true, Ordering::Relaxed);
            log::warn!("consumer of {}: {text}", self.about);
        }
    }

    pub(super) fn recovered(&self) {
        if self.has_complaints.swap(false, Ordering::Relaxed) {
            self.complaints.lock().expect("no holder panics").clear();
            log::info!("consumer of {}: messages come again", self.about);
        }
    }
}

impl Consumer {
    /// Joins the group.
    ///
    /// Errors: a property that librdkafka does not take. A cluster that is away is no error: it is
    /// waited for.
    pub fn new(kafka: &KafkaConfig, index: &IndexConfig) -> Result<Consumer, Error> {
        let mut config = client_config(kafka).map_err(failed)?;
        config
            .set("group.id", &index.group_id)
            .set("auto.offset.reset", "earliest")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("isolation.level", "read_committed")
            .set("allow.auto.create.topics", kafka.allow_auto_create_topics.to_string());
        let about = format!("{} as group {}", index.topics.join(", "), index.group_id);
        let context = Context::new(about, &[], kafka);
        let inner: BaseConsumer<Context> = config.create_with_context(context).map_err(failed)?;
        Ok(Consumer { inner })
    }

    /// Joins the group.
    ///
    /// Errors: librdkafka does not take the names of the topics.
    pub fn join(&self, index: &IndexConfig) -> Result<(), Error> {
        let topics: Vec<&str> = index.topics.iter().map(String::as_str).collect();
        self.inner.subscribe(&topics).map_err(failed)
    }

    /// Serves the group and returns the next message, or a rebalance that is due.
    pub fn poll(&self, timeout: Duration) -> Polled<'_> {
        if let Some(rebalance) = self.next_rebalance() {
            return Polled::Rebalance(rebalance);
        }
        match self.inner.poll(timeout) {
            Some(Ok(message)) => {
                self.inner.context().recovered();
                Polled::Message(message)
            }
            Some(Err(error)) => self.on_error(&error),
            None => self.next_rebalance().map_or(Polled::Nothing, Polled::Rebalance),
        }
    }

    fn next_rebalance(&self) -> Option<Rebalance> {
        self.inner.context().rebalances.lock().expect("no holder panics").pop_front()
    }

    fn on_error(&self, error: &KafkaError) -> Polled<'_> {
        use RDKafkaErrorCode::{
            AllBrokersDown, BrokerTransportFailure, Fatal, Resolve, TopicAuthorizationFailed,
            UnknownTopicOrPartition,
        };
        let code = error.rdkafka_error_code();
        let what_to_do = match code {
            // The error callback has said it, with the broker's name.
            Some(BrokerTransportFailure | AllBrokersDown | Resolve) => return Polled::Nothing,
            Some(Fatal) => {
                let why = self.inner.client().fatal_error();
                let why = why.map_or_else(|| error.to_string(), |(_, why)| why);
                return Polled::Fatal(format!("the group has thrown this member out: {why}"));
            }
            Some(UnknownTopicOrPartition) => {
                "; a topic does not exist: create it, it is waited for"
            }
            Some(TopicAuthorizationFailed) => "; grant READ on the topics",
            _ => "",
        };
        self.inner.context().complain(&format!("{code:?}"), &format!("{error}{what_to_do}"));
        Polled::Nothing
    }

    /// Begins to fetch added partitions from their committed offsets.
    pub fn assign(&self, partitions: &[Partition]) {
        let list = list(partitions);
        let result = match self.inner.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.inner.incremental_assign(&list),
            _ => self.inner.assign(&list),
        };
        self.log_failure("take over partitions", result);
    }

    /// Lets partitions go.
    pub fn unassign(&self, partitions: &[Partition]) {
        self.log_failure("let partitions go", unassign(&self.inner, &list(partitions)));
    }

    /// Stops fetching partitions; polling goes on.
    pub fn pause(&self, partitions: &[Partition]) {
        self.log_failure("pause partitions", self.inner.pause(&list(partitions)));
    }

    /// Fetches paused partitions again.
    pub fn resume(&self, partitions: &[Partition]) {
        self.log_failure("resume partitions", self.inner.resume(&list(partitions)));
    }

    /// Commits offsets, each the next one to be read.
    ///
    /// A failure is logged, and of an asynchronous commit not even told: librdkafka reports it to
    /// a callback only, which rdkafka 0.39 does not set. Commit again.
    pub fn commit(&self, offsets: &[(Partition, u64)], mode: CommitMode) {
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for ((topic, partition), offset) in offsets {
            let offset = Offset::Offset(*offset as i64);
            if let Err(error) = list.add_partition_offset(topic, *partition, offset) {
                log::error!("cannot commit {offset:?} of {topic}-{partition}: {error}");
            }
        }
        self.log_failure("commit offsets", self.inner.commit(&list, mode));
    }

    fn log_failure(&self, attempt: &str, result: KafkaResult<()>) {
        self.inner.context().log_failure(attempt, result);
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.inner.context().leave();
    }
}

fn failed(error: impl StdError) -> Error {
    Error::Kafka { problem: format!("cannot consume: {error}") }
}

/// Returns what is the same for all that consume; the operator's own options are among it, for they
/// can be none of what the callers set.
///
/// Errors: a secret that cannot be had.
pub(super) fn client_config(kafka: &KafkaConfig) -> io::Result<ClientConfig> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", kafka.all_bootstrap_servers())
        .set("client.id", &kafka.client_id)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // The client's own buffer is part of the memory bound. Its limits are checked before
        // a fetch, which is limited in compressed bytes and comes out many times as large:
        // with 100,000 messages, 8 MiB and 1 MiB of each partition it held 60 MB.
        .set("queued.max.messages.kbytes", "8192")
        .set("queued.min.messages", "5000")
        .set("fetch.max.bytes", "1048576")
        .set("fetch.message.max.bytes", "131072")
        // A full buffer is soon empty again; by default it is not looked at for a second.
        .set("fetch.queue.backoff.ms", "5")
        .set("topic.metadata.refresh.interval.ms", "30000")
        .set("socket.keepalive.enable", "true")
        .set_log_level(RDKafkaLogLevel::Info);
    secure(kafka, &mut config)?;
    for (name, value) in &kafka.consumer_options {
        config.set(name, value);
    }
    Ok(config)
}

fn secure(kafka: &KafkaConfig, config: &mut ClientConfig) -> io::Result<()> {
    let protocol = kafka.security_protocol;
    config.set("security.protocol", protocol.name());
    if protocol.has_tls() {
        let by_name = match kafka.ssl_endpoint_identification_algorithm {
            EndpointIdentification::Https => "https",
            EndpointIdentification::None => "none",
        };
        config.set("ssl.endpoint.identification.algorithm", by_name);
        match ca_file(kafka.ssl_ca_file.as_deref()) {
            Some(file) => config.set("ssl.ca.location", path(file)?),
            None => config.set("ssl.ca.location", "probe"),
        };
        if let Some(file) = &kafka.ssl_certificate_file {
            config.set("ssl.certificate.location", path(file)?);
        }
        if let Some(file) = &kafka.ssl_key_file {
            config.set("ssl.key.pem", secret::read(file)?);
        }
        if let Some(file) = &kafka.ssl_key_password_file {
            config.set("ssl.key.password", secret::read(file)?);
        }
    }
    if let Some(mechanism) = kafka.sasl_mechanism {
        config.set("sasl.mechanism", mechanism.name());
    }
    if let Some(user) = &kafka.sasl_username {
        config.set("sasl.username", user);
    }
    if let Some(file) = &kafka.sasl_password_file {
        config.set("sasl.password", secret::read(file)?);
    }
    Ok(())
}

fn path(file: &Path) -> io::Result<&str> {
    let problem = || io::Error::other(format!("{} is not UTF-8", file.display()));
    file.to_str().ok_or_else(problem)
}

fn unassign(consumer: &BaseConsumer<Context>, list: &TopicPartitionList) -> KafkaResult<()> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
        _ => consumer.unassign(),
    }
}

fn list(partitions: &[Partition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        list.add_partition(topic, *partition);
    }
    list
}

/// Returns the time of a message in milliseconds since 1970; 0 where it has none.
pub fn timestamp_ms(message: &BorrowedMessage<'_>) -> i64 {
    message.timestamp().to_millis().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feature names of the crates say little: `static-linking` of rdkafka-sys 4.10 does nothing,
    /// and what librdkafka really has in it only it can tell.
    #[test]
    fn librdkafka_has_what_secured_and_compressed_topics_need() {
        let native = ClientConfig::new().create_native_config().expect("a configuration");
        let features = native.get("builtin.features").expect("librdkafka's own property");
        let features: Vec<&str> = features.split(',').map(str::trim).collect();
        for needed in [
            "gzip",
            "snappy",
            "lz4",
            "zstd",
            "ssl",
            "sasl",
            "sasl_plain",
            "sasl_scram",
            "sasl_oauthbearer",
        ] {
            assert!(features.contains(&needed), "no {needed} in {features:?}");
        }
    }
}
