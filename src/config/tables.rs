//! Which keys each table has, with their defaults and minima; the structs' docs say the same.

use std::path::PathBuf;
use std::time::Duration;

use crate::tail::encode::OWN_HEADERS;

use super::reader::Table;
use super::values::{
    absolute_path, bootstrap_server, field, fingerprint, host, http_host, index_pattern, name,
    one_of, path_glob, path_or_name_glob, regex, secret_file, timezone, token_endpoint, topic,
};
use super::{
    ArchiveConfig, BatchConfig, Compression, Config, Destination, DropPageCache,
    ElasticsearchConfig, Encoding, EndpointIdentification, IndexConfig, InputConfig, KafkaConfig,
    Key, LineTooLong, Multiline, RecordTooLarge, RouteConfig, SaslMechanism, SecurityProtocol,
    StartAt, TailConfig, Template, TimestampPolicy, VerificationMode,
};

/// A record's number within a RecordBatch is a signed 32-bit integer.
const COUNT_MAX: u32 = i32::MAX as u32;

/// Each batch under way has its place made ready at start, and in `index` its thread.
const IN_FLIGHT_MAX: u32 = 1000;

const LEVELS: [(&str, &str); 6] = [
    ("TRACE", "TRACE"),
    ("DEBUG", "DEBUG"),
    ("INFO", "INFO"),
    ("WARN", "WARN"),
    ("ERROR", "ERROR"),
    ("FATAL", "FATAL"),
];

const SECURITY_PROTOCOLS: [SecurityProtocol; 4] = [
    SecurityProtocol::Plaintext,
    SecurityProtocol::Ssl,
    SecurityProtocol::SaslPlaintext,
    SecurityProtocol::SaslSsl,
];

const SASL_MECHANISMS: [SaslMechanism; 4] = [
    SaslMechanism::Plain,
    SaslMechanism::ScramSha256,
    SaslMechanism::ScramSha512,
    SaslMechanism::OAuthBearer,
];

/// Properties of the consumer that are not the operator's, and why.
const CONSUMER_OPTIONS_REFUSED: [(&str, &str); 38] = [
    ("bootstrap.servers", "it is kafka.bootstrap_servers"),
    ("metadata.broker.list", "it is kafka.bootstrap_servers"),
    ("client.id", "it is kafka.client_id"),
    ("group.id", "it is index.group_id"),
    ("allow.auto.create.topics", "it is kafka.allow_auto_create_topics"),
    ("enable.auto.commit", COMMITS),
    ("auto.commit.enable", COMMITS),
    ("auto.commit.interval.ms", COMMITS),
    ("enable.auto.offset.store", COMMITS),
    ("offset.store.method", COMMITS),
    ("auto.offset.reset", "anything but the earliest record would skip records in silence"),
    ("isolation.level", "records of aborted transactions must not be indexed"),
    ("partition.assignment.strategy", MEMBERSHIP),
    ("group.protocol", MEMBERSHIP),
    ("group.remote.assignor", MEMBERSHIP),
    ("enable.partition.eof", "the end of a partition is no error here"),
    ("security.protocol", "it is kafka.security_protocol"),
    ("ssl.ca.location", "it is kafka.ssl_ca_file"),
    ("ssl.endpoint.identification.algorithm", "it is kafka.ssl_endpoint_identification_algorithm"),
    ("ssl.certificate.location", "it is kafka.ssl_certificate_file"),
    ("ssl.key.location", "it is kafka.ssl_key_file"),
    ("ssl.key.password", "it is kafka.ssl_key_password_file"),
    ("sasl.mechanism", "it is kafka.sasl_mechanism"),
    ("sasl.mechanisms", "it is kafka.sasl_mechanism"),
    ("sasl.username", "it is kafka.sasl_username"),
    ("sasl.password", "it is kafka.sasl_password_file"),
    ("sasl.oauthbearer.config", TOKENS),
    ("sasl.oauthbearer.method", TOKENS),
    ("sasl.oauthbearer.token.endpoint.url", "it is kafka.sasl_oauthbearer_token_endpoint_url"),
    ("sasl.oauthbearer.client.id", "it is kafka.sasl_oauthbearer_client_id"),
    ("sasl.oauthbearer.client.secret", "it is kafka.sasl_oauthbearer_client_secret_file"),
    ("sasl.oauthbearer.scope", "it is kafka.sasl_oauthbearer_scope"),
    ("enable.ssl.certificate.verification", "a broker's certificate is always looked at"),
    ("ssl.ca.pem", "it is kafka.ssl_ca_file"),
    ("ssl.certificate.pem", "it is kafka.ssl_certificate_file"),
    ("ssl.key.pem", "it is kafka.ssl_key_file"),
    ("ssl.keystore.location", "it is kafka.ssl_certificate_file and ssl_key_file"),
    ("ssl.keystore.password", "it is kafka.ssl_key_password_file"),
];
const TOKENS: &str = "tokens come from kafka.sasl_token_file or a token endpoint";
const COMMITS: &str = "offsets are committed when their records have arrived, never by a timer";
const MEMBERSHIP: &str = "partitions are handed over only after their batches have arrived";

const DAY: Duration = s(24 * 60 * 60);

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Reads the whole file.
pub(super) fn config(t: &mut Table) -> Config {
    Config {
        state_dir: t
            .string("state_dir", absolute_path)
            .unwrap_or_else(|| PathBuf::from("/var/lib/shipper")),
        host: t.string("host", host).unwrap_or_else(|| system_host(t)),
        kafka: t.table_or_empty("kafka", "[kafka]", kafka),
        input: t.tables("input", "[[input]]", input),
        tail: t.table_or_empty("tail", "[tail]", tail),
        batch: t.table_or_empty("batch", "[batch]", batch),
        index: t.table("index", "[index]", index),
        elasticsearch: t.table("elasticsearch", "[elasticsearch]", elasticsearch),
        route: t.tables("route", "[[route]]", route),
        archive: t.table("archive", "[archive]", archive),
    }
}

fn system_host(t: &mut Table) -> String {
    let uname = rustix::system::uname();
    let system = uname.nodename().to_string_lossy();
    match host(&system) {
        Ok(host) => host,
        Err(_) if t.has("host") => String::new(),
        Err(_) => {
            t.problem("host", format!("the system's name {system:?} will not do; set host"));
            String::new()
        }
    }
}

fn kafka(t: &mut Table) -> KafkaConfig {
    t.require("bootstrap_servers", r#"bootstrap_servers = ["localhost:9092"]"#);
    KafkaConfig {
        bootstrap_servers: t.list("bootstrap_servers", bootstrap_server),
        bootstrap_servers_fallback: t.list("bootstrap_servers_fallback", bootstrap_server),
        client_id: t.string("client_id", name).unwrap_or_else(|| "shipper".to_owned()),
        request_timeout: t.duration("request_timeout", s(30), s(1)),
        retry_backoff: t.duration("retry_backoff", ms(100), ms(1)),
        retry_backoff_max: t.duration("retry_backoff_max", s(1), ms(1)),
        allow_auto_create_topics: t.bool("allow_auto_create_topics", false),
        security_protocol: t
            .one_of("security_protocol", &SECURITY_PROTOCOLS.map(|one| (one.name(), one)))
            .unwrap_or(SecurityProtocol::Plaintext),
        ssl_ca_file: t.string("ssl_ca_file", absolute_path),
        ssl_endpoint_identification_algorithm: t
            .one_of(
                "ssl_endpoint_identification_algorithm",
                &[("https", EndpointIdentification::Https), ("none", EndpointIdentification::None)],
            )
            .unwrap_or(EndpointIdentification::Https),
        ssl_certificate_file: t.string("ssl_certificate_file", absolute_path),
        ssl_key_file: t.string("ssl_key_file", secret_file),
        ssl_key_password_file: t.string("ssl_key_password_file", secret_file),
        sasl_mechanism: t.string("sasl_mechanism", sasl_mechanism),
        sasl_username: t.string("sasl_username", name),
        sasl_password_file: t.string("sasl_password_file", secret_file),
        sasl_token_file: t.string("sasl_token_file", secret_file),
        sasl_oauthbearer_token_endpoint_url: t
            .string("sasl_oauthbearer_token_endpoint_url", token_endpoint),
        sasl_oauthbearer_client_id: t.string("sasl_oauthbearer_client_id", name),
        sasl_oauthbearer_client_secret_file: t
            .string("sasl_oauthbearer_client_secret_file", secret_file),
        sasl_oauthbearer_scope: t.string("sasl_oauthbearer_scope", name),
        sasl_plain_without_tls: t.bool("sasl_plain_without_tls", false),
        consumer_options: t.map("consumer_options", |name, value| {
            match CONSUMER_OPTIONS_REFUSED.iter().find(|(refused, _)| *refused == name) {
                Some((_, reason)) => Err(format!("cannot be set: {reason}")),
                None => Ok(value.to_owned()),
            }
        }),
    }
}

fn sasl_mechanism(text: &str) -> Result<SaslMechanism, String> {
    if text == "GSSAPI" {
        return Err("GSSAPI (Kerberos) is not built in: it needs the Cyrus SASL and Kerberos \
                    libraries of the host; use SCRAM-SHA-512 over TLS, or a TLS certificate"
            .to_owned());
    }
    one_of(text, &SASL_MECHANISMS.map(|one| (one.name(), one)))
}

fn input(t: &mut Table) -> InputConfig {
    t.require("paths", r#"paths = ["/var/log/kafka/server.log"]"#);
    t.require("topic", r#"topic = "broker-logs""#);
    let encoding = t
        .one_of(
            "encoding",
            &[
                ("utf-8", Encoding::Utf8),
                ("utf-16", Encoding::Utf16),
                ("utf-16le", Encoding::Utf16Le),
                ("utf-16be", Encoding::Utf16Be),
                ("latin-1", Encoding::Latin1),
            ],
        )
        .unwrap_or(Encoding::Utf8);
    // As UTF-8 it must still fit a batch of the default size.
    let event_bytes_max = if encoding == Encoding::Latin1 { 480 << 10 } else { 512 << 10 };
    InputConfig {
        paths: t.list("paths", path_glob),
        exclude: t.list("exclude", path_or_name_glob),
        follow_symlinks: t.bool("follow_symlinks", false),
        topic: t.string("topic", topic_template).unwrap_or_else(no_topic),
        key: t.string("key", key).unwrap_or(Key::File),
        timestamp: t
            .one_of(
                "timestamp",
                &[("read", TimestampPolicy::Read), ("event", TimestampPolicy::Event)],
            )
            .unwrap_or(TimestampPolicy::Read),
        multiline: t
            .table(
                "multiline",
                r#"{ profile = "kafka" }, { start = "REGEX" }, { continuation = "REGEX" } or { count = 2 }"#,
                multiline,
            )
            .unwrap_or(Multiline::Kafka),
        start_at: t
            .one_of("start_at", &[("beginning", StartAt::Beginning), ("end", StartAt::End)])
            .unwrap_or(StartAt::Beginning),
        encoding,
        line_bytes_max: t.bytes("line_bytes_max", 256 << 10, 1 << 10),
        line_too_long: t
            .one_of(
                "line_too_long",
                &[("truncate", LineTooLong::Truncate), ("split", LineTooLong::Split)],
            )
            .unwrap_or(LineTooLong::Truncate),
        event_bytes_max: t.bytes("event_bytes_max", event_bytes_max, 1 << 10),
        event_lines_max: t.count("event_lines_max", 10_000, COUNT_MAX),
        event_timeout: t.duration("event_timeout", ms(500), ms(1)),
        include_events: t.list("include_events", regex),
        exclude_events: t.list("exclude_events", regex),
        fields: t.map("fields", |key, value| {
            name(key)?;
            if OWN_HEADERS.contains(&key) || key.starts_with("route.") || key.starts_with("dlq.") {
                return Err("is a header that shipper writes itself; choose another name".into());
            }
            Ok(value.to_owned())
        }),
    }
}

/// Stands for a topic that was not given, which is a problem already.
fn no_topic() -> Template {
    Template::parse("").expect("no brace")
}

/// Reads the name of a topic, with or without names in braces.
fn topic_template(text: &str) -> Result<Template, String> {
    let template = Template::parse(text)?;
    // What stands in for names is made legal; what stands beside them must be.
    let without_names = template.show_with("x");
    match topic(&without_names) {
        Ok(_) => Ok(template),
        Err(_) if without_names == text => topic(text).map(|_| template),
        Err(_) => Err(format!(
            "must be 1 to 249 letters, digits, dots, underscores and dashes beside names in \
             braces, not {text:?}"
        )),
    }
}

fn key(text: &str) -> Result<Key, String> {
    match text {
        "file" => Ok(Key::File),
        "host" => Ok(Key::Host),
        "none" => Ok(Key::None),
        text if text.contains(['{', '}']) => Template::parse(text).map(Key::Template),
        text => Err(format!(
            "must be file, host, none, or a text with names in braces as \"{{host}}/{{file}}\", not \
             {text:?}"
        )),
    }
}

fn multiline(t: &mut Table) -> Multiline {
    let given = ["profile", "start", "continuation", "count"].map(|key| t.has(key));
    if given.into_iter().filter(|is_given| *is_given).count() != 1 {
        t.problem("profile", "give either profile, start, continuation or count");
    }
    let profile = t.string("profile", |text| match text {
        "kafka" => Ok(Multiline::Kafka),
        "java" => Ok(Multiline::Java),
        "python" => Ok(Multiline::Python),
        "none" => Ok(Multiline::None),
        _ => Err(format!("must be one of kafka, java, python, none, not {text:?}")),
    });
    let start = t.string("start", regex).map(Multiline::Start);
    let continuation = t.string("continuation", regex).map(Multiline::Continuation);
    let count = t.count("count", 1, COUNT_MAX);
    let custom = start.or(continuation).or(t.has("count").then_some(Multiline::Count(count)));
    profile.or(custom).unwrap_or(Multiline::Kafka)
}

fn tail(t: &mut Table) -> TailConfig {
    let [has_files, has_bytes, has_hold, has_rate] =
        ["open_files_max", "deleted_bytes_max", "deleted_hold_max", "bytes_per_second_max"]
            .map(|key| t.has(key));
    let open_files_max = t.count("open_files_max", 1, COUNT_MAX) as usize;
    let deleted_bytes_max = t.bytes("deleted_bytes_max", 1_000_000, 1_000_000);
    let deleted_hold_max = t.duration("deleted_hold_max", s(1), s(1));
    let bytes_per_second_max = t.bytes("bytes_per_second_max", 64 << 10, 64 << 10);
    TailConfig {
        scan_interval: t.duration("scan_interval", s(1), ms(50)),
        rotate_grace: t.duration("rotate_grace", s(5), s(0)),
        open_files_max: has_files.then_some(open_files_max),
        deleted_bytes_max: has_bytes.then_some(deleted_bytes_max),
        deleted_hold_max: has_hold.then_some(deleted_hold_max),
        drop_page_cache: t
            .one_of(
                "drop_page_cache",
                &[("backlog", DropPageCache::Backlog), ("never", DropPageCache::Never)],
            )
            .unwrap_or(DropPageCache::Backlog),
        record_too_large: t
            .one_of(
                "record_too_large",
                &[RecordTooLarge::Split, RecordTooLarge::Truncate, RecordTooLarge::Reject]
                    .map(|policy| (policy.name(), policy)),
            )
            .unwrap_or(RecordTooLarge::Split),
        bytes_per_second_max: has_rate.then_some(bytes_per_second_max),
        save_interval: t.duration("save_interval", s(1), ms(50)),
        journal_bytes_max: t.bytes("journal_bytes_max", 1 << 20, 0),
        forget_after: t.duration_up_to("forget_after", 30 * DAY, s(3600), 3650 * DAY),
        shutdown_timeout: t.duration("shutdown_timeout", s(30), s(0)),
    }
}

fn batch(t: &mut Table) -> BatchConfig {
    BatchConfig {
        bytes_max: t.bytes("bytes_max", 1_000_000, 16_000),
        count_max: t.count("count_max", 50_000, COUNT_MAX),
        linger: t.duration("linger", ms(10), ms(0)),
        in_flight_max: t.count("in_flight_max", 5, IN_FLIGHT_MAX) as usize,
        compression: t
            .one_of(
                "compression",
                &[
                    ("none", Compression::None),
                    ("gzip", Compression::Gzip),
                    ("snappy", Compression::Snappy),
                    ("lz4", Compression::Lz4),
                    ("zstd", Compression::Zstd),
                ],
            )
            .unwrap_or(Compression::Lz4),
    }
}

fn index(t: &mut Table) -> IndexConfig {
    t.require("topics", r#"topics = ["broker-logs"]"#);
    // The default routing leads there, whatever the routes before it take.
    t.require("error_topic", r#"error_topic = "broker-errors"; ERROR and FATAL events go there"#);
    let topics = t.list("topics", topic);
    let first_topic = topics.first().map(String::as_str).unwrap_or_default();
    let dead_letter_topic = match t.string("dead_letter_topic", topic) {
        Some(topic) => topic,
        None => format!("{first_topic}-dead-letters"),
    };
    IndexConfig {
        group_id: t.string("group_id", name).unwrap_or_else(|| "shipper-index".to_owned()),
        error_topic: t.string("error_topic", topic),
        dead_letter_topic,
        topics,
        index_errors: t.bool("index_errors", false),
        timezone: t.string("timezone", timezone).unwrap_or(jiff::tz::TimeZone::UTC),
        bytes_max: t.bytes("bytes_max", 4_000_000, 16_000),
        count_max: t.count("count_max", 5_000, COUNT_MAX) as usize,
        linger: t.duration("linger", ms(200), ms(0)),
        in_flight_max: t.count("in_flight_max", 2, IN_FLIGHT_MAX) as usize,
        shutdown_timeout: t.duration("shutdown_timeout", s(20), s(0)),
    }
}

fn elasticsearch(t: &mut Table) -> ElasticsearchConfig {
    t.require("hosts", r#"hosts = ["http://localhost:9200"]"#);
    if t.has("username") != t.has("password_file") {
        let missing = if t.has("username") { "password_file" } else { "username" };
        t.problem(missing, "missing; username and password_file come together");
    }
    let has_password = t.has("username") || t.has("password_file");
    if t.has("api_key_file") && has_password {
        t.problem("api_key_file", "cannot stand beside username and password_file; choose");
    }
    if t.has("bearer_token_file") && (has_password || t.has("api_key_file")) {
        let problem = "cannot stand beside api_key_file, or username and password_file; choose";
        t.problem("bearer_token_file", problem);
    }
    ElasticsearchConfig {
        hosts: t.list("hosts", http_host),
        index: t
            .string("index", index_pattern)
            .unwrap_or_else(|| "broker-logs-{yyyy.MM.dd}".to_owned()),
        gzip: t.bool("gzip", false),
        username: t.string("username", |text| match text.contains(':') {
            true => Err("must not hold a colon, which ends it in basic authentication".to_owned()),
            false => name(text),
        }),
        password_file: t.string("password_file", secret_file),
        api_key_file: t.string("api_key_file", secret_file),
        bearer_token_file: t.string("bearer_token_file", secret_file),
        ssl_ca_file: t.string("ssl_ca_file", absolute_path),
        ssl_ca_trusted_fingerprint: t.string("ssl_ca_trusted_fingerprint", fingerprint),
        ssl_verification_mode: t
            .one_of(
                "ssl_verification_mode",
                &[("full", VerificationMode::Full), ("certificate", VerificationMode::Certificate)],
            )
            .unwrap_or(VerificationMode::Full),
        ssl_certificate_file: t.string("ssl_certificate_file", absolute_path),
        ssl_key_file: t.string("ssl_key_file", secret_file),
        ssl_key_password_file: t.string("ssl_key_password_file", secret_file),
        request_timeout: t.duration("request_timeout", s(60), s(1)),
        retry_backoff: t.duration("retry_backoff", ms(200), ms(1)),
        retry_backoff_max: t.duration("retry_backoff_max", s(30), ms(1)),
    }
}

fn route(t: &mut Table) -> RouteConfig {
    t.require("name", r#"name = "noise""#);
    t.require("to", r#"to = "drop""#);
    RouteConfig {
        name: t
            .string("name", |text| match text.starts_with("default.") {
                true => Err("begins with default., as the names of the built-in routes".into()),
                false => name(text),
            })
            .unwrap_or_default(),
        level: t.list("level", |text| one_of(text, &LEVELS).map(str::to_owned)),
        logger: t.string("logger", regex),
        message: t.string("message", regex),
        header: t.map("header", |_, value| regex(value)),
        field: t.map("field", |name, value| {
            field(name)?;
            regex(value)
        }),
        to: t
            .one_of(
                "to",
                &[
                    ("error_topic", Destination::ErrorTopic),
                    ("index", Destination::Index),
                    ("archive", Destination::Archive),
                    ("drop", Destination::Drop),
                ],
            )
            .unwrap_or(Destination::Drop),
    }
}

fn archive(t: &mut Table) -> ArchiveConfig {
    t.require("dir", r#"dir = "/var/lib/shipper/archive""#);
    ArchiveConfig {
        dir: t.string("dir", absolute_path).unwrap_or_default(),
        gzip: t.bool("gzip", false),
    }
}
