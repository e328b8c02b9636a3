//! What the operator may say: one TOML file for both walks.
//!
//! Each struct is one table of the file and each field one key of it, under the same name. The
//! reader collects every problem of a file before it gives up, each with its line and key.
//!
//! Durations are written `"10ms"`, `"5s"`, `"1m"`, `"1h"` or `"1d"`, and are at most a day unless
//! their key says otherwise; sizes `"16KB"`, `"1MB"` (10^6), `"8MiB"` (2^20) or plain bytes, at
//! most `1GiB`. The modules below follow the way of a file: `reader` takes typed values out of
//! TOML tables, with `values` for what stands in one value, `tables` says which keys each table
//! has, and `relations` what must hold between keys. All of them write into one list of
//! `problems`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use regex::Regex;

use crate::tls::Fingerprint;

mod problems;
mod reader;
mod relations;
mod tables;
mod template;
#[cfg(test)]
mod tests;
mod values;

pub use problems::{Problem, Problems};
pub use template::{Names, Template};
pub(crate) use values::is_this_host;
pub use values::{show_bytes, show_duration};

/// The whole file.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of the registry, its lock, and of records no broker would take. Default:
    /// `/var/lib/shipper`.
    pub state_dir: PathBuf,
    /// Name of this host in keys, headers and documents. Default: the system's host name.
    pub host: String,
    /// The cluster, meant alike for producing and consuming.
    pub kafka: KafkaConfig,
    /// What `tail` follows; at least one table for `tail`.
    pub input: Vec<InputConfig>,
    /// How `tail` looks at files and stops.
    pub tail: TailConfig,
    /// How records are grouped on their way to a topic.
    pub batch: BatchConfig,
    /// What `index` consumes; may be left out.
    pub index: Option<IndexConfig>,
    /// Where `index` puts documents; may be left out.
    pub elasticsearch: Option<ElasticsearchConfig>,
    /// Which event goes where; the first rule that matches wins. Events that none takes are
    /// routed by level: ERROR and FATAL to the error topic, all others to the index, or to the
    /// archive where there is no `[elasticsearch]`.
    pub route: Vec<RouteConfig>,
    /// Local files as a destination; may be left out.
    pub archive: Option<ArchiveConfig>,
}

/// What a configuration may be wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// Files to Kafka.
    Tail,
    /// Kafka to Elasticsearch.
    Index,
}

impl Config {
    /// Reads and validates the file; opens nothing else.
    ///
    /// Errors: every problem of the file at once, or the one that it cannot be read.
    pub fn load(file: &Path) -> Result<Config, Problems> {
        let bytes = fs::read(file).map_err(|error| {
            Problems::of_file(
                file,
                "",
                format!("cannot be read: {error}; shipper.toml.example shows what to write"),
            )
        })?;
        match String::from_utf8(bytes) {
            Ok(text) => Config::parse(&text, file),
            Err(error) => {
                let offset = error.utf8_error().valid_up_to();
                Err(Problems::of_file(
                    file,
                    "",
                    format!("is not UTF-8 from byte {offset} on; TOML must be"),
                ))
            }
        }
    }

    /// Reads and validates the text; `file` only names it in problems.
    ///
    /// Errors: every problem of the text at once; where it is not TOML, only those of the syntax.
    pub fn parse(text: &str, file: &Path) -> Result<Config, Problems> {
        let (document, errors) = toml::de::DeTable::parse_recoverable(text);
        let mut problems = Problems::new(file, text, document.get_ref());
        if !errors.is_empty() {
            for error in errors {
                problems.add_syntax(text, &error);
            }
            return Err(problems);
        }
        let config = reader::read_root(document.get_ref(), &mut problems, tables::config);
        relations::check(&config, &mut problems);
        problems.into_result(config)
    }

    /// Says what the walk lacks in an otherwise valid configuration, read from `file`.
    pub fn require(&self, walk: Walk, file: &Path) -> Result<(), Problems> {
        let (key, missing) = match walk {
            Walk::Tail if self.input.is_empty() => {
                ("input", "missing; tail needs at least one [[input]] with paths and a topic")
            }
            Walk::Index if self.index.is_none() => {
                ("index", "missing; index needs an [index] with the topics to consume")
            }
            _ => return Ok(()),
        };
        Err(Problems::of_file(file, key, missing.to_owned()))
    }
}

/// `[kafka]`: how to reach the cluster.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// `host:port` of brokers to ask for the others. No default: must be given.
    pub bootstrap_servers: Vec<String>,
    /// `host:port` of brokers to ask where none of `bootstrap_servers` answers, as while the broker
    /// on this host is down. Default: none.
    pub bootstrap_servers_fallback: Vec<String>,
    /// Name in the broker's logs and quotas. Default: `shipper`.
    pub client_id: String,
    /// How long a broker may take to answer before the connection is made anew; the request is
    /// then sent again, never given up. Default: `30s`. Minimum: `1s`.
    pub request_timeout: Duration,
    /// Wait before the first retry of a request or a connection. Default: `100ms`. Minimum:
    /// `1ms`.
    pub retry_backoff: Duration,
    /// The wait doubles up to this; where somebody must do something first, as grant a right, it is
    /// three times as long. Default: `1s`, as Kafka's own clients. Minimum: `retry_backoff`.
    pub retry_backoff_max: Duration,
    /// Let the broker create a missing topic. Default: `false`: wait for it and say so.
    pub allow_auto_create_topics: bool,
    /// What the brokers' listeners speak: `PLAINTEXT`, `SSL` (that is TLS), `SASL_PLAINTEXT` or
    /// `SASL_SSL`. Default: `PLAINTEXT`.
    pub security_protocol: SecurityProtocol,
    /// PEM file of the authorities that a broker's certificate may come from. Default: those of the
    /// system.
    pub ssl_ca_file: Option<PathBuf>,
    /// `https`: a broker's certificate must name the host by which it is reached; `none`: any name
    /// will do. Default: `https`.
    pub ssl_endpoint_identification_algorithm: EndpointIdentification,
    /// PEM file of our own certificate and those that vouch for it, where brokers ask for one. It
    /// may be replaced at any time, as all files of this table. Default: none.
    pub ssl_certificate_file: Option<PathBuf>,
    /// PEM file of that certificate's key. It is a secret, as are the files of passwords and
    /// tokens: nobody but its owner and group may read it, and a name without a slash is one of
    /// systemd's credentials, in `$CREDENTIALS_DIRECTORY`. Default: none.
    pub ssl_key_file: Option<PathBuf>,
    /// File of the key's password, where the key is encrypted. Default: none.
    pub ssl_key_password_file: Option<PathBuf>,
    /// How to say who we are: `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512` or `OAUTHBEARER`. Default:
    /// none, must be given with `SASL_PLAINTEXT` and `SASL_SSL`.
    pub sasl_mechanism: Option<SaslMechanism>,
    /// Name of the user, but for `OAUTHBEARER`. Default: none.
    pub sasl_username: Option<String>,
    /// File of the user's password. Default: none.
    pub sasl_password_file: Option<PathBuf>,
    /// File of the token for `OAUTHBEARER`, which something else keeps fresh. Default: none.
    pub sasl_token_file: Option<PathBuf>,
    /// In place of `sasl_token_file`: where an OpenID provider gives tokens for a client's secret.
    /// `https://`, its certificate from an authority of `ssl_ca_file`, too; `http://` only where it
    /// does not leave this host (`localhost`, `127.0.0.1`, `[::1]`). Default: none.
    pub sasl_oauthbearer_token_endpoint_url: Option<String>,
    /// Name of the client there. Default: none, must be given with the endpoint.
    pub sasl_oauthbearer_client_id: Option<String>,
    /// File of the client's secret. Default: none, must be given with the endpoint.
    pub sasl_oauthbearer_client_secret_file: Option<PathBuf>,
    /// Scope to ask for. Default: none, and the provider decides.
    pub sasl_oauthbearer_scope: Option<String>,
    /// Let `PLAIN` send the password where no TLS hides it. Default: `false`.
    pub sasl_plain_without_tls: bool,
    /// More librdkafka properties for the consumer of `index`; those that the promise depends on
    /// are refused. Default: none.
    pub consumer_options: BTreeMap<String, String>,
}

impl KafkaConfig {
    /// Returns all addresses that are configured, in librdkafka's way of writing.
    pub fn all_bootstrap_servers(&self) -> String {
        [&*self.bootstrap_servers, &*self.bootstrap_servers_fallback].concat().join(",")
    }

    /// Returns the files of certificates, keys and passwords that are set.
    pub fn files(&self) -> Vec<PathBuf> {
        let files = [
            &self.ssl_ca_file,
            &self.ssl_certificate_file,
            &self.ssl_key_file,
            &self.ssl_key_password_file,
            &self.sasl_password_file,
        ];
        files.into_iter().flatten().cloned().collect()
    }
}

/// How a connection to a broker is made safe, in Kafka's own terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecurityProtocol {
    /// Not at all.
    Plaintext,
    /// TLS.
    Ssl,
    /// SASL tells the broker who we are.
    SaslPlaintext,
    /// Both.
    SaslSsl,
}

impl SecurityProtocol {
    /// Kafka's name of it.
    pub fn name(self) -> &'static str {
        match self {
            SecurityProtocol::Plaintext => "PLAINTEXT",
            SecurityProtocol::Ssl => "SSL",
            SecurityProtocol::SaslPlaintext => "SASL_PLAINTEXT",
            SecurityProtocol::SaslSsl => "SASL_SSL",
        }
    }

    /// Whether TLS hides what is said.
    pub fn has_tls(self) -> bool {
        matches!(self, SecurityProtocol::Ssl | SecurityProtocol::SaslSsl)
    }

    /// Whether SASL comes before anything else.
    pub fn has_sasl(self) -> bool {
        matches!(self, SecurityProtocol::SaslPlaintext | SecurityProtocol::SaslSsl)
    }
}

/// What a broker's certificate must name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointIdentification {
    /// The host by which the broker is reached.
    Https,
    /// Anything.
    None,
}

/// What the certificate of a node of Elasticsearch must be.
/// Source: `ssl.verification_mode` of Elasticsearch and Beats, without `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerificationMode {
    /// From a trusted authority, and for the host by which the node is reached.
    Full,
    /// From a trusted authority.
    Certificate,
}

/// Ways to say who we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaslMechanism {
    /// The password itself. RFC 4616.
    Plain,
    /// Proof of the password. RFC 5802 and 7677.
    ScramSha256,
    /// The same with a longer hash.
    ScramSha512,
    /// A token. RFC 7628, KIP-255.
    OAuthBearer,
}

impl SaslMechanism {
    /// Its name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            SaslMechanism::Plain => "PLAIN",
            SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
            SaslMechanism::OAuthBearer => "OAUTHBEARER",
        }
    }
}

/// `[[input]]`: some files and what to do with their lines.
#[derive(Debug, Clone)]
pub struct InputConfig {
    /// Globs of absolute paths. No default: must be given.
    pub paths: Vec<String>,
    /// Globs of paths, or of file names where they hold no slash, to leave out. Default: none.
    pub exclude: Vec<String>,
    /// Read what a symbolic link under `paths` leads to, and follow the link when it is switched.
    /// Default: `false`, for whoever may write to the folder could have any file shipped.
    pub follow_symlinks: bool,
    /// The topic for the events. `{host}`, `{file}` and `{folder}` stand for the names of host, file
    /// and its folder, `{NAME}` for one of `fields`; what no topic's name can have becomes `_`. No
    /// default: must be given.
    pub topic: Template,
    /// The key of the records, from which the partition follows: `file`, host and path; `host`;
    /// `none`, no key, and each batch goes to another partition, so that the events of a file are
    /// not in order; or a text with `{host}`, `{file}`, `{folder}`, `{path}` and `{NAME}`. Default:
    /// `file`. Events of a file are in order wherever there is a key.
    pub key: Key,
    /// The time stamp of the records: `read`, when they were read, or `event`, the time that the
    /// event begins with, unless there is none or it has not come yet. Old events can be deleted by
    /// `retention.ms` of the topic as soon as they are there. Default: `read`.
    pub timestamp: TimestampPolicy,
    /// How lines become events: a profile (`kafka`, `java`, `python`, or `none`: each line is one),
    /// `start` (a regular expression: a line that matches starts one), `continuation` (a line that
    /// matches belongs to the one before) or `count` (so many lines are one). Default:
    /// `{ profile = "kafka" }`.
    pub multiline: Multiline,
    /// Where to begin in a file seen for the first time. Default: `beginning`.
    pub start_at: StartAt,
    /// What the bytes of the files stand for. Default: `utf-8`: whatever they are, they leave as
    /// they are. The text of `utf-16` (with a byte order mark, else little-endian), `utf-16le`,
    /// `utf-16be` and `latin-1` leaves as UTF-8; what means nothing in it becomes U+FFFD.
    pub encoding: Encoding,
    /// Bytes of a line in its file; a longer one is `line_too_long`. Default: `256KiB`. Minimum:
    /// `1KiB`.
    pub line_bytes_max: usize,
    /// What becomes of a line that is too long. Default: `truncate`: its head is kept, the rest is
    /// cut, marked and counted. With `split` it leaves whole, in several records that are marked.
    pub line_too_long: LineTooLong,
    /// Bytes of an event in its file; a longer one goes on in a further event, marked. Default:
    /// `512KiB`; `480KiB` of `latin-1`, which is longer as UTF-8. Minimum: `line_bytes_max`.
    pub event_bytes_max: usize,
    /// Lines of an event; a longer one goes on in a further event, marked. Default: `10000`.
    /// Minimum: `1`.
    pub event_lines_max: u32,
    /// How long the last event of a file waits for a further line of its own. Default: `500ms`.
    /// Minimum: `1ms`.
    pub event_timeout: Duration,
    /// Regular expressions; events that match none of them are dropped and counted. Default: none,
    /// and all events are kept.
    pub include_events: Vec<regex::bytes::Regex>,
    /// Regular expressions; events that match any of them are dropped and counted. Default: none.
    pub exclude_events: Vec<regex::bytes::Regex>,
    /// Sent with each record as headers of these names. Default: none.
    pub fields: BTreeMap<String, String>,
}

impl InputConfig {
    /// Returns what names in templates stand for.
    pub fn names<'a>(&'a self, host: &'a str, path: &'a Path) -> Names<'a> {
        Names { host, path, fields: &self.fields }
    }
}

/// The key of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// Host and path.
    File,
    /// The host.
    Host,
    /// None.
    None,
    /// What the operator says.
    Template(Template),
}

impl Key {
    /// Returns the key of what is written under a path, `None` for none.
    pub fn of(&self, names: &Names<'_>) -> Option<Vec<u8>> {
        use std::os::unix::ffi::OsStrExt;
        match self {
            Key::File => Some([names.host.as_bytes(), names.path.as_os_str().as_bytes()].concat()),
            Key::Host => Some(names.host.as_bytes().to_vec()),
            Key::None => None,
            Key::Template(template) => Some(template.render(names)),
        }
    }
}

/// The time stamp of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampPolicy {
    /// When they were read.
    Read,
    /// When the event says it happened.
    Event,
}

/// How lines become events.
#[derive(Debug, Clone)]
pub enum Multiline {
    /// `{ profile = "none" }`: each line is an event.
    None,
    /// `{ profile = "kafka" }`: an event starts with a timestamp at column 0, optionally after
    /// `[`.
    Kafka,
    /// `{ profile = "java" }`: a stack trace belongs to the line before it, and so does what is
    /// indented.
    Java,
    /// `{ profile = "python" }`: a traceback, with those it is chained to, belongs to the line
    /// before it, and so does what is indented.
    Python,
    /// `{ start = "REGEX" }`: an event starts with a line that matches.
    Start(regex::bytes::Regex),
    /// `{ continuation = "REGEX" }`: a line that matches belongs to the event before it.
    Continuation(regex::bytes::Regex),
    /// `{ count = N }`: so many lines are an event.
    Count(u32),
}

/// What the bytes of a file stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Bytes that leave as they are.
    Utf8,
    /// UTF-16 of the byte order that its mark says, little-endian without one.
    Utf16,
    /// UTF-16, little-endian.
    Utf16Le,
    /// UTF-16, big-endian.
    Utf16Be,
    /// ISO 8859-1.
    Latin1,
}

/// What becomes of a line that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineTooLong {
    /// Its end is cut.
    Truncate,
    /// It leaves in pieces.
    Split,
}

/// Where to begin in a file seen for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// At its first byte.
    Beginning,
    /// At its end as found.
    End,
}

/// `[tail]`: how files are looked at.
#[derive(Debug, Clone)]
pub struct TailConfig {
    /// How often folders and files are looked at even if no notice of a change came. Default:
    /// `1s`. Minimum: `50ms`.
    pub scan_interval: Duration,
    /// How long a renamed or deleted file is still read after its last byte. Default: `5s`.
    /// Minimum: `0s`.
    pub rotate_grace: Duration,
    /// Log files open at once; the others are opened again for their turn. Default: what the
    /// process may open (LimitNOFILE) less 128, or half of it where that is less than 256.
    /// Minimum: `1`.
    pub open_files_max: Option<usize>,
    /// Bytes of deleted files that are held open until they are shipped; beyond, those deleted
    /// first are given up, counted and named. Default: none, nothing is given up. Minimum: `1MB`.
    pub deleted_bytes_max: Option<usize>,
    /// How long a deleted file is held open until it is shipped; then it is given up, counted and
    /// named. Default: none, nothing is given up. Minimum: `1s`.
    pub deleted_hold_max: Option<Duration>,
    /// Bytes a second that are read of all files together, lest a backlog hurt the host. Default:
    /// none, as fast as the broker takes them. Minimum: `64KiB`.
    pub bytes_per_second_max: Option<usize>,
    /// When pages of what was read leave the page cache: `backlog`, while a file has more than
    /// 8 MiB unread, lest old logs push out what the broker serves; or `never`. Default:
    /// `backlog`.
    pub drop_page_cache: DropPageCache,
    /// How often the registry is saved while it changes. Default: `1s`. Minimum: `50ms`.
    pub save_interval: Duration,
    /// Bytes that the journal may have before the registry is written anew, or twice those of the
    /// registry if that is more. Default: `1MiB`. Minimum: `0`: it is written with each save.
    pub journal_bytes_max: usize,
    /// What becomes of a record that is larger than its topic takes, `max.message.bytes`: `split`, it
    /// leaves in parts that are marked as those of an over-long line; `truncate`, its head is kept,
    /// the rest is cut, marked and counted; or `reject`, it goes to `rejected.ndjson` in `state_dir`,
    /// as does what cannot be cut. Default: `split`.
    pub record_too_large: RecordTooLarge,
    /// How long the offset of a file is remembered that no input leads to any more, counted from the
    /// first start that missed it. Default: `30d`. Minimum: `1h`. Maximum: `3650d`.
    pub forget_after: Duration,
    /// How long a stop waits for the broker to acknowledge what was read. Default: `30s`.
    /// Minimum: `0s`.
    pub shutdown_timeout: Duration,
}

/// What becomes of a record that is larger than its topic takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordTooLarge {
    /// It leaves in parts.
    Split,
    /// Its end is cut.
    Truncate,
    /// It goes to the state directory.
    Reject,
}

impl RecordTooLarge {
    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            RecordTooLarge::Split => "split",
            RecordTooLarge::Truncate => "truncate",
            RecordTooLarge::Reject => "reject",
        }
    }
}

/// When pages of what was read leave the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropPageCache {
    /// While much of the file is unread.
    Backlog,
    /// Not for us.
    Never,
}

/// `[batch]`: what goes to the broker at once.
#[derive(Debug, Clone)]
pub struct BatchConfig {
    /// Bytes of uncompressed records after which a batch is sealed, or the topic's
    /// `max.message.bytes` if that is less and known. Default: `1MB`. Minimum: `16KB`.
    pub bytes_max: usize,
    /// Records after which a batch is sealed. Default: `50000`. Minimum: `1`.
    pub count_max: u32,
    /// How long the first record of a batch waits for others. Default: `10ms`. Minimum: `0ms`.
    pub linger: Duration,
    /// Sealed batches under way at once, over all partitions; memory grows with it. One batch's
    /// worth beside them goes to partitions that have none, so that one without a leader does not
    /// stop the others. Default: `5`. Minimum: `1`.
    pub in_flight_max: usize,
    /// Codec of a batch. Default: `lz4`. One of `none`, `gzip`, `snappy`, `lz4`, `zstd`.
    pub compression: Compression,
}

/// Codecs of a RecordBatch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Records as they are.
    None,
    /// Deflate.
    Gzip,
    /// Snappy in the framing of the Java client.
    Snappy,
    /// LZ4 frames with independent blocks.
    Lz4,
    /// Zstandard, from Produce v7 on.
    Zstd,
}

/// `[index]`: what is consumed, and how it is grouped.
#[derive(Debug, Clone)]
pub struct IndexConfig {
    /// Topics to consume. No default: must be given.
    pub topics: Vec<String>,
    /// The consumer group. Default: `shipper-index`.
    pub group_id: String,
    /// Topic for what is routed `to = "error_topic"`. No default: must be given where a route
    /// or the default routing leads there.
    pub error_topic: Option<String>,
    /// Topic for what Elasticsearch refuses for good. Default: the first topic of `topics` with
    /// `-dead-letters` behind it.
    pub dead_letter_topic: String,
    /// Index ERROR and FATAL events too, besides sending them to the error topic. Default:
    /// `false`.
    pub index_errors: bool,
    /// Time zone of timestamps that name none: an IANA name. Default: `UTC`.
    pub timezone: jiff::tz::TimeZone,
    /// Bytes of records after which a batch is sealed. Default: `4MB`. Minimum: `16KB`.
    pub bytes_max: usize,
    /// Records after which a batch is sealed. Default: `5000`. Minimum: `1`.
    pub count_max: usize,
    /// How long the first record of a batch waits for others. Default: `200ms`. Minimum: `0ms`.
    pub linger: Duration,
    /// Batches under way at once, each with a thread and a connection of its own. Default: `2`.
    /// Minimum: `1`.
    pub in_flight_max: usize,
    /// How long a stop, or a partition that goes to another member, waits for batches under way.
    /// Default: `20s`. Minimum: `0s`.
    pub shutdown_timeout: Duration,
}

/// `[elasticsearch]`: where documents go; OpenSearch is meant as well.
#[derive(Debug, Clone)]
pub struct ElasticsearchConfig {
    /// `https://host:port` or `http://host:port` of nodes, tried in turn. No default: must be given.
    pub hosts: Vec<String>,
    /// Index name; `{yyyy}`, `{MM}`, `{dd}` and `{HH}`, also as in `{yyyy.MM.dd}`, are the time
    /// of the record in UTC. Default: `broker-logs-{yyyy.MM.dd}`.
    pub index: String,
    /// Compress request bodies. Default: `false`.
    pub gzip: bool,
    /// For basic authentication, with `password_file`. Default: none.
    pub username: Option<String>,
    /// File that holds the password, a secret as `kafka.ssl_key_file`. Default: none.
    pub password_file: Option<PathBuf>,
    /// File that holds the value for `Authorization: ApiKey`, a secret, too. Default: none.
    pub api_key_file: Option<PathBuf>,
    /// File that holds the value for `Authorization: Bearer`, a secret, too. Default: none.
    pub bearer_token_file: Option<PathBuf>,
    /// PEM file of the authorities whose certificates are trusted at `https` hosts. Default: those of
    /// the system.
    pub ssl_ca_file: Option<PathBuf>,
    /// In its place the SHA-256 of the authority's certificate in hexadecimal, as Elasticsearch prints
    /// it when it is set up. Default: none.
    pub ssl_ca_trusted_fingerprint: Option<Fingerprint>,
    /// Whether a certificate must also name the host by which the node is reached (`full`), or only
    /// come from a trusted authority (`certificate`). Default: `full`.
    pub ssl_verification_mode: VerificationMode,
    /// PEM file of our own certificate and those that lead to its authority. Default: none.
    pub ssl_certificate_file: Option<PathBuf>,
    /// PEM file of its key, a secret as `kafka.ssl_key_file`. Default: none.
    pub ssl_key_file: Option<PathBuf>,
    /// File that holds the password of the key, a secret, too. Default: none.
    pub ssl_key_password_file: Option<PathBuf>,
    /// How long a node may take to answer a bulk request. Default: `60s`. Minimum: `1s`.
    pub request_timeout: Duration,
    /// Wait before the first retry. Default: `200ms`. Minimum: `1ms`.
    pub retry_backoff: Duration,
    /// The wait doubles up to this. Default: `30s`. Minimum: `retry_backoff`.
    pub retry_backoff_max: Duration,
}

/// `[[route]]`: all conditions that are given must hold.
#[derive(Debug, Clone)]
pub struct RouteConfig {
    /// Name in counters and headers. No default: must be given, each once.
    pub name: String,
    /// Levels, any of which may be the event's. Default: any, also none.
    pub level: Vec<String>,
    /// Matches the logger's full name. Default: any.
    pub logger: Option<Regex>,
    /// Matches the message. Default: any.
    pub message: Option<Regex>,
    /// Kafka headers by name and what their value must match. Default: any.
    pub header: BTreeMap<String, Regex>,
    /// Fields of the document by name, as in `"kafka.log.component"`, and what their value must
    /// match. Default: any.
    pub field: BTreeMap<String, Regex>,
    /// What becomes of the event. No default: must be given.
    pub to: Destination,
}

/// What becomes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To `index.error_topic`, as it came.
    ErrorTopic,
    /// To Elasticsearch.
    Index,
    /// To a local file.
    Archive,
    /// Nowhere; counted under the route's name.
    Drop,
}

/// `[archive]`: local files of newline-delimited JSON documents.
#[derive(Debug, Clone)]
pub struct ArchiveConfig {
    /// Folder of the files; made if missing. No default: must be given.
    pub dir: PathBuf,
    /// Compress the files, and name them `.ndjson.gz`. Default: `false`.
    pub gzip: bool,
}
