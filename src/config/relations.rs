//! What must hold between keys that are each well by themselves.

use super::problems::Problems;
use super::values::{show_bytes, show_duration, topic};
use super::{
    Config, Destination, ElasticsearchConfig, Encoding, IndexConfig, InputConfig, KafkaConfig, Key,
    SaslMechanism, Template,
};

/// What a record needs besides its value and static fields: key and headers, which hold the path
/// twice (at most 4 KiB each), the host, and numbers.
const OVERHEAD_MAX: usize = 16 << 10;

/// Notes every contradiction.
pub(super) fn check(config: &Config, problems: &mut Problems) {
    check_backoffs(config, problems);
    check_security(&config.kafka, problems);
    if let Some(es) = &config.elasticsearch {
        check_elasticsearch(es, problems);
    }
    check_inputs(config, problems);
    if let Some(index) = &config.index {
        check_index(config, index, problems);
    }
    check_routes(config, problems);
}

fn check_backoffs(config: &Config, problems: &mut Problems) {
    let kafka = &config.kafka;
    let mut tables = vec![("kafka", kafka.retry_backoff, kafka.retry_backoff_max)];
    if let Some(es) = &config.elasticsearch {
        tables.push(("elasticsearch", es.retry_backoff, es.retry_backoff_max));
    }
    for (table, backoff, backoff_max) in tables {
        if backoff_max < backoff {
            let keys = [&*format!("{table}.retry_backoff_max"), &*format!("{table}.retry_backoff")];
            let what = format!(
                "must be at least retry_backoff ({}), not {}",
                show_duration(backoff),
                show_duration(backoff_max)
            );
            problems.add_relation(&keys, what);
        }
    }
}

/// As [`check_security`], for nodes of Elasticsearch.
fn check_elasticsearch(es: &ElasticsearchConfig, problems: &mut Problems) {
    let set = [
        ("ssl_ca_file", es.ssl_ca_file.is_some()),
        ("ssl_ca_trusted_fingerprint", es.ssl_ca_trusted_fingerprint.is_some()),
        ("ssl_certificate_file", es.ssl_certificate_file.is_some()),
        ("ssl_key_file", es.ssl_key_file.is_some()),
        ("ssl_key_password_file", es.ssl_key_password_file.is_some()),
    ];
    let mut note = |key: &str, what: &str| {
        let keys = [&*format!("elasticsearch.{key}"), "elasticsearch.hosts"];
        problems.add_relation(&keys, what.to_owned());
    };
    if !es.hosts.iter().any(|host| host.starts_with("https://")) {
        for (key, _) in set.iter().filter(|(_, is_set)| *is_set) {
            note(key, "of use only where one of hosts begins with https://");
        }
        return;
    }
    let [ca_file, fingerprint, certificate, key, password] = set.map(|(_, is_set)| is_set);
    if ca_file && fingerprint {
        note("ssl_ca_trusted_fingerprint", "cannot stand beside ssl_ca_file; choose");
    }
    if certificate != key {
        let missing = if certificate { "ssl_key_file" } else { "ssl_certificate_file" };
        note(missing, "missing; ssl_certificate_file and ssl_key_file come together");
    } else if password && !key {
        note("ssl_key_password_file", "of use only with ssl_key_file");
    }
}

/// What is set and would not be used makes a connection less safe than it looks.
fn check_security(kafka: &KafkaConfig, problems: &mut Problems) {
    let protocol = kafka.security_protocol;
    let tokens_by_tls = kafka
        .sasl_oauthbearer_token_endpoint_url
        .as_ref()
        .is_some_and(|url| url.starts_with("https:"));
    let tls_only = [
        ("ssl_ca_file", kafka.ssl_ca_file.is_some() && !tokens_by_tls),
        ("ssl_certificate_file", kafka.ssl_certificate_file.is_some()),
        ("ssl_key_file", kafka.ssl_key_file.is_some()),
        ("ssl_key_password_file", kafka.ssl_key_password_file.is_some()),
    ];
    let mechanism = kafka.sasl_mechanism;
    let by_token = mechanism == Some(SaslMechanism::OAuthBearer);
    let by_password = mechanism.is_some() && !by_token;
    let username = ("sasl_username", kafka.sasl_username.is_some());
    let password = ("sasl_password_file", kafka.sasl_password_file.is_some());
    let token = ("sasl_token_file", kafka.sasl_token_file.is_some());
    let endpoint = (
        "sasl_oauthbearer_token_endpoint_url",
        kafka.sasl_oauthbearer_token_endpoint_url.is_some(),
    );
    let client = ("sasl_oauthbearer_client_id", kafka.sasl_oauthbearer_client_id.is_some());
    let secret = (
        "sasl_oauthbearer_client_secret_file",
        kafka.sasl_oauthbearer_client_secret_file.is_some(),
    );
    let scope = ("sasl_oauthbearer_scope", kafka.sasl_oauthbearer_scope.is_some());
    let mut note = |key: &str, what: String| {
        problems.add_relation(&[&format!("kafka.{key}"), "kafka.security_protocol"], what);
    };
    for (key, _) in tls_only.iter().filter(|(_, is_set)| *is_set && !protocol.has_tls()) {
        let used = "of use only with security_protocol = \"SSL\" or \"SASL_SSL\"";
        note(key, format!("{used}, not {:?}", protocol.name()));
    }
    if protocol.has_tls() {
        let (certificate, key, password) = (tls_only[1].1, tls_only[2].1, tls_only[3].1);
        if certificate != key {
            let missing = if certificate { "ssl_key_file" } else { "ssl_certificate_file" };
            note(missing, "missing; ssl_certificate_file and ssl_key_file come together".into());
        } else if password && !key {
            note("ssl_key_password_file", "of use only with ssl_key_file".into());
        }
    }
    if !protocol.has_sasl() {
        let set = [("sasl_mechanism", mechanism.is_some()), username, password, token];
        let set = set.into_iter().chain([endpoint, client, secret, scope]);
        for (key, _) in set.filter(|(_, is_set)| *is_set) {
            let used = "of use only with security_protocol = \"SASL_SSL\" or \"SASL_PLAINTEXT\"";
            note(key, format!("{used}, not {:?}", protocol.name()));
        }
        return;
    }
    let Some(mechanism) = mechanism else {
        return note("sasl_mechanism", format!("missing; {} needs one", protocol.name()));
    };
    for ((key, is_set), is_usable) in [
        (username, by_password),
        (password, by_password),
        (token, by_token),
        (endpoint, by_token),
        (client, by_token),
        (secret, by_token),
        (scope, by_token),
    ] {
        if by_password && is_usable && !is_set {
            note(key, format!("missing; {} needs it", mechanism.name()));
        } else if is_set && !is_usable {
            note(key, format!("of no use with sasl_mechanism = {:?}", mechanism.name()));
        }
    }
    if mechanism == SaslMechanism::Plain && !protocol.has_tls() && !kafka.sasl_plain_without_tls {
        note(
            "sasl_mechanism",
            "PLAIN would send the password for all to read; use SASL_SSL, or a SCRAM mechanism, or \
             set sasl_plain_without_tls = true"
                .into(),
        );
    }
    if by_token {
        check_tokens(kafka, problems);
    }
}

/// Tokens come from one place, and what only the other needs is of no use.
fn check_tokens(kafka: &KafkaConfig, problems: &mut Problems) {
    const ENDPOINT: &str = "sasl_oauthbearer_token_endpoint_url";
    let has_endpoint = kafka.sasl_oauthbearer_token_endpoint_url.is_some();
    let mut note = |key: &str, what: String| {
        let keys = [&*format!("kafka.{key}"), &*format!("kafka.{ENDPOINT}")];
        problems.add_relation(&keys, what);
    };
    match (kafka.sasl_token_file.is_some(), has_endpoint) {
        (true, true) => note(ENDPOINT, "cannot stand beside sasl_token_file; choose".into()),
        (false, false) => {
            note("sasl_token_file", format!("missing; OAUTHBEARER needs it, or {ENDPOINT}"));
        }
        _ => {}
    }
    for (key, is_set, is_optional) in [
        ("sasl_oauthbearer_client_id", kafka.sasl_oauthbearer_client_id.is_some(), false),
        (
            "sasl_oauthbearer_client_secret_file",
            kafka.sasl_oauthbearer_client_secret_file.is_some(),
            false,
        ),
        ("sasl_oauthbearer_scope", kafka.sasl_oauthbearer_scope.is_some(), true),
    ] {
        if has_endpoint && !is_set && !is_optional {
            note(key, format!("missing; {ENDPOINT} needs it"));
        } else if is_set && !has_endpoint {
            note(key, format!("of use only with {ENDPOINT}"));
        }
    }
}

fn check_inputs(config: &Config, problems: &mut Problems) {
    let batch_bytes_max = config.batch.bytes_max;
    for (n, input) in config.input.iter().enumerate() {
        let line_key = format!("input[{n}].line_bytes_max");
        let event_key = format!("input[{n}].event_bytes_max");
        if input.event_bytes_max < input.line_bytes_max {
            let what = format!(
                "must be at least line_bytes_max ({}), not {}",
                show_bytes(input.line_bytes_max),
                show_bytes(input.event_bytes_max)
            );
            problems.add_relation(&[&event_key, &line_key], what);
        }
        check_names(n, input, problems);
        let fields = input.fields.iter();
        let fields_bytes: usize = fields.map(|(name, value)| name.len() + value.len()).sum();
        let overhead = OVERHEAD_MAX + fields_bytes;
        let event_bytes_max = utf8_bytes_max(input);
        if event_bytes_max + overhead > batch_bytes_max {
            let what = format!(
                "{} and {} for key and headers do not fit batch.bytes_max ({}); lower the one or \
                 raise the other",
                show_bytes(event_bytes_max),
                show_bytes(overhead),
                show_bytes(batch_bytes_max)
            );
            problems.add_relation(&[&event_key, "batch.bytes_max"], what);
        }
        for (i, path) in input.paths.iter().enumerate() {
            let earlier = config.input[..n].iter().position(|other| other.paths.contains(path));
            if let Some(earlier) = earlier {
                let what = format!("{path:?} belongs to input[{earlier}] already");
                problems.add(&format!("input[{n}].paths[{i}]"), what);
            }
        }
    }
}

/// Names in braces must stand for something.
fn check_names(n: usize, input: &InputConfig, problems: &mut Problems) {
    let mut note = |key: &str, template: &Template| {
        if let Some(name) = template.unknown_name(&input.fields) {
            let what = format!(
                "{{{name}}} is none of {{host}}, {{file}}, {{folder}}, {{path}}, nor one of fields"
            );
            problems.add_relation(&[&format!("input[{n}].{key}")], what);
        }
    };
    note("topic", &input.topic);
    if let Key::Template(template) = &input.key {
        note("key", template);
    }
}

/// Returns how long the text of an event may be as UTF-8.
fn utf8_bytes_max(input: &InputConfig) -> usize {
    match input.encoding {
        Encoding::Utf8 => input.event_bytes_max,
        Encoding::Latin1 => 2 * input.event_bytes_max,
        // Three bytes for a unit of two; half a unit at either end is one character each.
        _ => input.event_bytes_max / 2 * 3 + 6,
    }
}

fn check_index(config: &Config, index: &IndexConfig, problems: &mut Problems) {
    if config.elasticsearch.is_none() && config.archive.is_none() {
        problems.add_relation(
            &["index", "elasticsearch", "archive"],
            "has nowhere to put events; add [elasticsearch] with hosts, or [archive] with dir",
        );
    }
    let topics = &index.topics;
    if let Some(error_topic) = index.error_topic.as_ref().filter(|name| topics.contains(name)) {
        problems.add_relation(
            &["index.error_topic", "index.topics"],
            format!("{error_topic} is one of topics: its records would come back for ever"),
        );
    }
    if topics.contains(&index.dead_letter_topic) {
        problems.add_relation(
            &["index.dead_letter_topic", "index.topics"],
            format!(
                "{} is one of topics: its records would come back for ever",
                index.dead_letter_topic
            ),
        );
    }
    if !topics.is_empty() && topic(&index.dead_letter_topic).is_err() {
        problems.add_relation(
            &["index.dead_letter_topic"],
            "its default would be longer than 249 letters; set it",
        );
    }
}

fn check_routes(config: &Config, problems: &mut Problems) {
    for (n, route) in config.route.iter().enumerate() {
        let name_key = format!("route[{n}].name");
        let earlier = config.route[..n].iter().position(|other| other.name == route.name);
        if let Some(earlier) = earlier {
            let what = format!("{:?} is the name of route[{earlier}] already", route.name);
            problems.add_relation(&[&name_key], what);
        }
        let (lacking, table) = match route.to {
            Destination::Index => (config.elasticsearch.is_none(), "elasticsearch"),
            Destination::Archive => (config.archive.is_none(), "archive"),
            Destination::ErrorTopic | Destination::Drop => (false, ""),
        };
        if lacking {
            let to_key = format!("route[{n}].to");
            problems.add_relation(&[&to_key, table], format!("needs a table [{table}]"));
        }
    }
}
