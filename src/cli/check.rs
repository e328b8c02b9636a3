//! `shipper check`: is the configuration right, and what does it mean?
//!
//! Reads the configuration, and looks whether files match; opens no socket and writes nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::config::{
    Config, Destination, ElasticsearchConfig, EndpointIdentification, IndexConfig, InputConfig,
    KafkaConfig, Key, Multiline, Problems, RouteConfig, SecurityProtocol, StartAt, TimestampPolicy,
    is_this_host, show_bytes, show_duration,
};

/// What a valid configuration means.
#[derive(Debug)]
pub struct Summary {
    /// The effective configuration in short, several lines.
    pub text: String,
    /// What is allowed but probably not meant, each one line.
    pub warnings: Vec<String>,
}

/// `EX_CONFIG` of sysexits.h: a restart cannot mend it.
pub const EXIT_CONFIG: u8 = 78;

/// A pattern that names more files than this is looked at no further.
const MATCHES_MAX: usize = 10_000;

/// Kafka's own default of `max.message.bytes`.
const MESSAGE_BYTES_MAX: usize = 1_048_588;

/// Checks the file, prints what was found, and returns the exit code.
pub fn run(file: &Path) -> u8 {
    // Nobody is left to tell if the output is closed; the exit code still says what was found.
    match check(file) {
        Ok(summary) => {
            for warning in &summary.warnings {
                let _ = writeln!(io::stderr(), "{}: warning: {warning}", file.display());
            }
            let _ = writeln!(io::stdout(), "{}{}: ok", summary.text, file.display());
            0
        }
        Err(problems) => {
            let _ = writeln!(io::stderr(), "{problems}");
            EXIT_CONFIG
        }
    }
}

/// Loads the file and says what it means.
///
/// Errors: all problems of the file.
pub fn check(file: &Path) -> Result<Summary, Problems> {
    let config = Config::load(file)?;
    Ok(Summary { text: summary(&config), warnings: warnings(&config) })
}

/// Returns what the configuration means, several lines without secrets.
pub fn summary(config: &Config) -> String {
    let kafka = &config.kafka;
    let mut text = format!("host: {}\n", config.host);
    text += &format!("state: {}\n", config.state_dir.display());
    text += &format!("kafka: {}, as {}\n", kafka.bootstrap_servers.join(", "), kafka.client_id);
    if !kafka.bootstrap_servers_fallback.is_empty() {
        text += &format!("  fallback: {}\n", kafka.bootstrap_servers_fallback.join(", "));
    }
    if kafka.security_protocol != SecurityProtocol::Plaintext {
        text += &format!("  security: {}\n", show_security(kafka));
    }
    if !config.input.is_empty() {
        text += "tail:\n";
        for (n, input) in config.input.iter().enumerate() {
            text += &format!("  input[{n}]: {}\n", show_input(input));
        }
        let batch = &config.batch;
        let in_flight = batch.in_flight_max;
        text += &format!(
            "  batch: {}, {} records or {}, {}\n",
            show_bytes(batch.bytes_max),
            batch.count_max,
            show_duration(batch.linger),
            format!("{:?}", batch.compression).to_lowercase()
        );
        let event_bytes_max = config.input.iter().map(|input| input.event_bytes_max).max();
        text += &format!(
            "  memory: {in_flight} batches under way, one beside and as much being filled x {} = {}, and up to {} \
             for each open file\n",
            show_bytes(batch.bytes_max),
            show_bytes((2 * in_flight + 1) * batch.bytes_max),
            show_bytes(event_bytes_max.unwrap_or(0))
        );
    }
    if let Some(index) = &config.index {
        text += "index:\n";
        text += &show_index(config, index);
    }
    text
}

fn show_security(kafka: &KafkaConfig) -> String {
    let mut text = kafka.security_protocol.name().to_owned();
    if let Some(mechanism) = kafka.sasl_mechanism {
        text += &format!(", {}", mechanism.name());
    }
    if let Some(user) = &kafka.sasl_username {
        text += &format!(" as {user}");
    }
    if let (Some(client), Some(url)) =
        (&kafka.sasl_oauthbearer_client_id, &kafka.sasl_oauthbearer_token_endpoint_url)
    {
        text += &format!(" as client {client} of {url}");
    }
    if let Some(file) = &kafka.ssl_certificate_file {
        text += &format!(", with the certificate {}", file.display());
    }
    if !is_named(kafka) {
        text += ", a broker's certificate may name any host";
    }
    text
}

fn is_named(kafka: &KafkaConfig) -> bool {
    let by_name = kafka.ssl_endpoint_identification_algorithm == EndpointIdentification::Https;
    by_name || !kafka.security_protocol.has_tls()
}

fn show_input(input: &InputConfig) -> String {
    let mut text = format!("{} to topic {}", input.paths.join(", "), input.topic);
    if !input.exclude.is_empty() {
        let _ = write!(text, ", without {}", input.exclude.join(", "));
    }
    match &input.multiline {
        Multiline::None => text += ", each line an event",
        Multiline::Kafka => text += ", events as Kafka writes them",
        Multiline::Java => text += ", Java stack traces joined",
        Multiline::Python => text += ", Python tracebacks joined",
        Multiline::Start(regex) => {
            let _ = write!(text, ", events begin with /{regex}/");
        }
        Multiline::Continuation(regex) => {
            let _ = write!(text, ", lines with /{regex}/ belong to the event before");
        }
        Multiline::Count(count) => {
            let _ = write!(text, ", {count} lines an event");
        }
    }
    match &input.key {
        Key::File => {}
        Key::Host => text += ", in the partition of the host",
        Key::None => text += ", without a key and in no order",
        Key::Template(template) => {
            let _ = write!(text, ", with the key {template}");
        }
    }
    match input.start_at {
        StartAt::Beginning => text += ", from the beginning",
        StartAt::End => text += ", from the end",
    }
    text
}

fn show_index(config: &Config, index: &IndexConfig) -> String {
    let error_topic = index.error_topic.as_deref().unwrap_or("none");
    let mut text = format!(
        "  topics: {}, as group {}\n  error topic: {error_topic}\n  dead-letter topic: {}\n",
        index.topics.join(", "),
        index.group_id,
        index.dead_letter_topic
    );
    if let Some(es) = &config.elasticsearch {
        text += &format!("  elasticsearch: {}\n", show_elasticsearch(es));
    }
    if let Some(archive) = &config.archive {
        text += &format!("  archive: {}\n", archive.dir.display());
    }
    text += "  routes, the first that matches:\n";
    for (n, route) in config.route.iter().enumerate() {
        text += &format!("    {}. {}\n", n + 1, show_route(route));
    }
    let rest = match config.elasticsearch {
        Some(_) => "index",
        None => "archive",
    };
    let too = if index.index_errors { format!(" and to {rest}") } else { String::new() };
    text += &format!("    else ERROR and FATAL to the error topic{too}, the rest to {rest}\n");
    // A document is about twice its record: the names of its fields, and the escapes.
    let n_batches = index.in_flight_max + 1 + 2 * index.in_flight_max;
    text += &format!(
        "  memory: {} batches under way and one being filled x {}, twice that for documents under \
         way = {}, and 8MiB that are fetched ahead\n",
        index.in_flight_max,
        show_bytes(index.bytes_max),
        show_bytes(n_batches * index.bytes_max)
    );
    text
}

fn show_elasticsearch(es: &ElasticsearchConfig) -> String {
    let who = match es {
        ElasticsearchConfig { username: Some(username), .. } => format!("as {username}"),
        ElasticsearchConfig { api_key_file: Some(_), .. } => "with an API key".to_owned(),
        ElasticsearchConfig { bearer_token_file: Some(_), .. } => "with a bearer token".to_owned(),
        ElasticsearchConfig { ssl_certificate_file: Some(_), .. } => {
            "with a certificate".to_owned()
        }
        _ => "without credentials".to_owned(),
    };
    format!("{}, index {}, {who}", es.hosts.join(", "), es.index)
}

fn show_route(route: &RouteConfig) -> String {
    let mut conditions = Vec::new();
    if !route.level.is_empty() {
        conditions.push(format!("level {}", route.level.join(" or ")));
    }
    for (name, regex) in [("logger", &route.logger), ("message", &route.message)] {
        if let Some(regex) = regex {
            conditions.push(format!("{name} /{regex}/"));
        }
    }
    for (kind, regexes) in [("header", &route.header), ("field", &route.field)] {
        for (name, regex) in regexes {
            conditions.push(format!("{kind} {name} /{regex}/"));
        }
    }
    if conditions.is_empty() {
        conditions.push("everything".to_owned());
    }
    let to = match route.to {
        Destination::ErrorTopic => "to the error topic",
        Destination::Index => "to index",
        Destination::Archive => "to archive",
        Destination::Drop => "dropped",
    };
    format!("{}: {}: {to}", route.name, conditions.join(", "))
}

fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.host == "localhost" {
        warnings.push(
            "host: is localhost, as on every host that has no name of its own: records of two \
             such hosts could not be told apart"
                .to_owned(),
        );
    }
    warn_of_inputs(config, &mut warnings);
    if config.batch.bytes_max > MESSAGE_BYTES_MAX {
        warnings.push(format!(
            "batch.bytes_max: {} is more than Kafka's default max.message.bytes ({MESSAGE_BYTES_MAX}); \
             batches are kept below that of their topic",
            show_bytes(config.batch.bytes_max)
        ));
    }
    warn_of_index_tables(config, &mut warnings);
    warnings
}

fn warn_of_inputs(config: &Config, warnings: &mut Vec<String>) {
    let mut first_to_match: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for (n, input) in config.input.iter().enumerate() {
        if input.timestamp == TimestampPolicy::Event {
            warnings.push(format!(
                "input[{n}].timestamp: with \"event\" Kafka deletes an event that is older than \
                 retention.ms of the topic minutes after it has taken it"
            ));
        }
        for (i, path) in input.paths.iter().enumerate() {
            let key = format!("input[{n}].paths[{i}]");
            if path.ends_with('*') {
                warnings.push(format!(
                    "{key}: {path:?} also matches the names that files get when they are rotated; \
                     these are followed anyway, and a pattern for the name under which they are \
                     written is enough"
                ));
            }
            let matches = glob::glob(path).into_iter().flatten().flatten();
            let mut matches = matches.take(MATCHES_MAX).peekable();
            if matches.peek().is_none() {
                warnings.push(format!("{key}: {path:?} matches no file that can be seen now"));
            }
            for file in matches {
                let first = *first_to_match.entry(file.clone()).or_insert(n);
                if first != n {
                    warnings.push(format!(
                        "{key}: {path:?} matches {file:?}, which input[{first}] has already"
                    ));
                    break;
                }
            }
        }
    }
}

fn warn_of_index_tables(config: &Config, warnings: &mut Vec<String>) {
    if config.index.is_none() {
        let tables = [
            ("elasticsearch", config.elasticsearch.is_some()),
            ("archive", config.archive.is_some()),
            ("route", !config.route.is_empty()),
        ];
        for (table, _) in tables.iter().filter(|(_, present)| *present) {
            warnings.push(format!("{table}: does nothing without [index]"));
        }
    }
    if let Some(es) = &config.elasticsearch {
        warn_of_elasticsearch(es, warnings);
    }
    let takes_all = |route: &RouteConfig| {
        let texts = [&route.logger, &route.message];
        route.level.is_empty()
            && texts.iter().all(|regex| regex.is_none())
            && route.header.is_empty()
            && route.field.is_empty()
    };
    if let Some(n) = config.route.iter().position(takes_all)
        && n + 1 < config.route.len()
    {
        warnings.push(format!(
            "route[{n}]: has no condition and takes everything; the routes below it never match"
        ));
    }
}

fn warn_of_elasticsearch(es: &ElasticsearchConfig, warnings: &mut Vec<String>) {
    let secrets = [
        ("password_file", &es.password_file),
        ("api_key_file", &es.api_key_file),
        ("bearer_token_file", &es.bearer_token_file),
    ];
    let others = [
        ("ssl_ca_file", &es.ssl_ca_file),
        ("ssl_certificate_file", &es.ssl_certificate_file),
        ("ssl_key_file", &es.ssl_key_file),
        ("ssl_key_password_file", &es.ssl_key_password_file),
    ];
    for (key, file) in secrets.iter().chain(&others) {
        if let Some(Err(error)) = file.as_ref().map(File::open) {
            warnings.push(format!("elasticsearch.{key}: cannot be read by this user: {error}"));
        }
    }
    let has_secret = secrets.iter().any(|(_, file)| file.is_some());
    let is_away = |host: &&String| {
        let address = host.strip_prefix("http://").and_then(|address| address.rsplit_once(':'));
        address.is_some_and(|(host, _)| !is_this_host(host))
    };
    if let Some(host) = es.hosts.iter().find(is_away).filter(|_| has_secret) {
        warnings.push(format!("elasticsearch.hosts: the secret goes to {host} unencrypted"));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn check_text(text: &str) -> Result<Summary, Problems> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("shipper.toml");
        fs::write(&file, text).unwrap();
        check(&file)
    }

    #[test]
    fn the_summary_says_who_gives_the_tokens() {
        let summary = check_text(
            r#"
            [kafka]
            bootstrap_servers = ["a:1"]
            security_protocol = "SASL_SSL"
            sasl_mechanism = "OAUTHBEARER"
            sasl_oauthbearer_token_endpoint_url = "https://login.example.org/token"
            sasl_oauthbearer_client_id = "shipper"
            sasl_oauthbearer_client_secret_file = "kafka-client-secret"
            [[input]]
            paths = ["/a"]
            topic = "t"
            "#,
        );
        let text = summary.unwrap().text;
        let line = "  security: SASL_SSL, OAUTHBEARER as client shipper of \
                    https://login.example.org/token\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn the_summary_says_what_the_example_means() {
        let text = include_str!("../../shipper.toml.example")
            .replace("#host = \"kafka-1.example.org\"", "host = \"kafka-1\"");
        let route = "[[route]]\nname = \"noise\"\nlevel = [\"DEBUG\"]\nlogger = \"^kafka\"\n\
                     to = \"drop\"\n";
        let summary = check_text(&format!("{text}\n{route}")).unwrap();
        assert_eq!(
            summary.text,
            r#"host: kafka-1
state: /var/lib/shipper
kafka: localhost:9092, as shipper
tail:
  input[0]: /var/log/kafka/server.log, /var/log/kafka/controller.log to topic broker-logs, events as Kafka writes them, from the beginning
  batch: 1MB, 50000 records or 10ms, lz4
  memory: 5 batches under way, one beside and as much being filled x 1MB = 11MB, and up to 512KiB for each open file
index:
  topics: broker-logs, as group shipper-index
  error topic: broker-errors
  dead-letter topic: broker-logs-dead-letters
  elasticsearch: http://localhost:9200, index broker-logs-{yyyy.MM.dd}, without credentials
  routes, the first that matches:
    1. noise: level DEBUG, logger /^kafka/: dropped
    else ERROR and FATAL to the error topic, the rest to index
  memory: 2 batches under way and one being filled x 4MB, twice that for documents under way = 28MB, and 8MiB that are fetched ahead
"#
        );
    }

    #[test]
    fn what_is_allowed_but_probably_not_meant_is_a_warning() {
        let logs = tempfile::tempdir().unwrap();
        let logs = logs.path().to_str().unwrap().to_owned();
        fs::create_dir_all(&logs).unwrap();
        fs::write(format!("{logs}/server.log"), "").unwrap();
        let text = format!(
            r#"
            host = "localhost"
            kafka.bootstrap_servers = ["a:1"]
            batch.bytes_max = "2MB"
            elasticsearch.hosts = ["http://a:1"]
            elasticsearch.api_key_file = "{logs}/none"
            input = [
                {{ paths = ["{logs}/*.log"], topic = "t", timestamp = "event" }},
                {{ paths = ["{logs}/server*", "{logs}/gone.log"], topic = "t" }},
            ]
            route = [{{ name = "all", to = "drop" }}, {{ name = "none", to = "drop" }}]
            "#
        );
        let warnings = check_text(&text).unwrap().warnings;
        let expected = [
            "host: is localhost",
            "input[0].timestamp: with \"event\" Kafka deletes",
            "input[1].paths[0]: \"LOGS/server*\" also matches the names that files get",
            "input[1].paths[0]: \"LOGS/server*\" matches \"LOGS/server.log\", which input[0] has",
            "input[1].paths[1]: \"LOGS/gone.log\" matches no file",
            "batch.bytes_max: 2MB is more than",
            "elasticsearch: does nothing without [index]",
            "route: does nothing without [index]",
            "elasticsearch.api_key_file: cannot be read by this user: No such file",
            "elasticsearch.hosts: the secret goes to http://a:1 unencrypted",
            "route[0]: has no condition",
        ];
        assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
        for (warning, expected) in warnings.iter().zip(expected) {
            let expected = expected.replace("LOGS", &logs);
            assert!(warning.starts_with(&expected), "{warning:?} is not {expected:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_one_problem_and_exit_code_78() {
        let missing = Path::new("/nonexistent/shipper.toml");
        assert_eq!(run(missing), EXIT_CONFIG);
        assert_eq!(
            check(missing).unwrap_err().to_string(),
            "/nonexistent/shipper.toml: cannot be read: No such file or directory (os error 2); \
             shipper.toml.example shows what to write"
        );
    }
}
