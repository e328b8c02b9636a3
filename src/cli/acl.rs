//! `shipper acl`: what a configuration needs of the cluster, as commands of Kafka's own tool.
//!
//! Source of the operations: "Authorization and ACLs" in Kafka's documentation. Of the requests
//! that are sent, Produce needs Write on the topic, Metadata Describe, DescribeProducers and Fetch
//! Read, and whoever may write to any topic may have a producer id (KIP-679, Kafka 2.8 and later).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use openssl::x509::X509;

use super::check::EXIT_CONFIG;
use super::{AclArgs, EXIT_USAGE, plain};
use crate::config::{Config, KafkaConfig, SaslMechanism};

/// Operations on one topic, by its name.
type Topics<'a> = BTreeMap<&'a str, Vec<&'static str>>;

/// Prints the commands, and returns the exit code.
pub fn run(args: &AclArgs) -> u8 {
    let file = &args.config.config;
    // Nobody is left to tell if the output is closed; the exit code still says how it went.
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(problems) => {
            let _ = writeln!(io::stderr(), "{problems}");
            return EXIT_CONFIG;
        }
    };
    match commands(&config, args.principal.as_deref()) {
        Ok(text) => {
            let _ = write!(io::stdout(), "{text}");
            0
        }
        Err(problem) => {
            let _ = writeln!(io::stderr(), "{}: {}", file.display(), plain(&problem));
            EXIT_USAGE
        }
    }
}

/// Returns the commands, with what they are for.
///
/// `principal`: as whom the broker knows us, as in `User:shipper`; without it what the
/// configuration tells.
/// Errors: it does not tell, and says what to do.
fn commands(config: &Config, principal: Option<&str>) -> Result<String, String> {
    let principal = match principal {
        Some(principal) => principal.to_owned(),
        None => principal_of(&config.kafka)?,
    };
    let mut lines = Lines { config, principal, text: String::new() };
    if !config.input.is_empty() {
        lines.text += "# tail; Read is for a start after a crash, which looks what had arrived,\n\
                       # DescribeConfigs for max.message.bytes, below which batches are kept\n\
                       # (Kafka before 2.8 also needs --operation IdempotentWrite --cluster)\n";
        let topics: BTreeSet<_> = config.input.iter().map(|input| input.topic.fixed()).collect();
        let needed = lines.to_write(&["Write", "Describe", "Read", "DescribeConfigs"]);
        for (topic, is_whole) in topics {
            match (is_whole, topic) {
                (true, topic) => lines.put(&needed, "topic", topic),
                (false, "") => lines.put(&needed, "topic", "*"),
                (false, topic) => {
                    lines.put(&needed, "resource-pattern-type prefixed --topic", topic);
                }
            }
        }
    }
    if let Some(index) = &config.index {
        lines.text += "# index\n";
        let mut topics = Topics::new();
        let written = index.error_topic.iter().chain([&index.dead_letter_topic]);
        topics.extend(written.map(|topic| (&**topic, lines.to_write(&["Write", "Describe"]))));
        for topic in &index.topics {
            topics.entry(topic).or_insert_with(|| vec!["Describe"]).push("Read");
        }
        topics.iter().for_each(|(topic, operations)| lines.put(operations, "topic", topic));
        lines.put(&["Read"], "group", &index.group_id);
    }
    Ok(lines.text)
}

struct Lines<'a> {
    config: &'a Config,
    principal: String,
    text: String,
}

impl Lines<'_> {
    fn to_write(&self, needed: &[&'static str]) -> Vec<&'static str> {
        let create = self.config.kafka.allow_auto_create_topics.then_some("Create");
        needed.iter().copied().chain(create).collect()
    }

    fn put(&mut self, operations: &[&str], resource: &str, name: &str) {
        let servers = quoted(&self.config.kafka.bootstrap_servers.join(","));
        let principal = quoted(&self.principal);
        let operations: String =
            operations.iter().map(|operation| format!(" --operation {operation}")).collect();
        self.text += &format!(
            "kafka-acls --bootstrap-server {servers} --add --allow-principal {principal}\
             {operations} --{resource} {}\n",
            quoted(name)
        );
    }
}

/// Returns as whom the broker knows us.
fn principal_of(kafka: &KafkaConfig) -> Result<String, String> {
    match (kafka.sasl_mechanism, &kafka.sasl_username, &kafka.ssl_certificate_file) {
        (Some(SaslMechanism::OAuthBearer), _, _) => {
            Err("who a token is for, the broker decides: give it as --principal User:NAME".into())
        }
        (Some(_), Some(user), _) => Ok(format!("User:{user}")),
        (_, _, Some(file)) => subject(file).map(|name| format!("User:{name}")),
        _ => Ok("User:ANONYMOUS".to_owned()),
    }
}

/// Returns the subject of a certificate as Java writes it, the last part first.
///
/// Source: RFC 2253, `javax.security.auth.x500.X500Principal.getName()`, which Kafka's
/// `ssl.principal.mapping.rules` are given.
fn subject(file: &Path) -> Result<String, String> {
    const NAMES: [&str; 9] = ["CN", "L", "ST", "O", "OU", "C", "street", "DC", "UID"];
    let told = |problem: String| {
        format!("certificate {}: {problem}; give who it is for as --principal", file.display())
    };
    let pem = fs::read(file).map_err(|error| told(error.to_string()))?;
    let certificate = X509::from_pem(&pem).map_err(|_| told("it is no PEM".into()))?;
    let mut parts = Vec::new();
    for entry in certificate.subject_name().entries() {
        let name = entry.object().nid().short_name().unwrap_or_default();
        let value = entry.data().to_string().map_err(|_| told("its subject is no text".into()))?;
        if !NAMES.contains(&name) || value.contains(|c: char| ",+\"\\<>;#=".contains(c)) {
            return Err(told(format!("its subject has {name}={value}")));
        }
        parts.push(format!("{}={value}", name.to_uppercase()));
    }
    parts.reverse();
    Ok(parts.join(","))
}

/// Quotes for a shell what needs it.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-:,=/@[]".contains(c);
    match text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(kafka: &str, rest: &str) -> Config {
        let text = format!("[kafka]\nbootstrap_servers = [\"a:1\", \"b:2\"]\n{kafka}\n{rest}");
        Config::parse(&text, Path::new("shipper.toml")).unwrap()
    }

    const SCRAM: &str = "security_protocol = \"SASL_SSL\"\nsasl_mechanism = \"SCRAM-SHA-512\"\n\
                         sasl_username = \"log shipper\"\nsasl_password_file = \"/p\"";

    #[test]
    fn each_walk_is_given_what_it_needs_and_no_more() {
        let both = "[[input]]\npaths = [\"/a\"]\ntopic = \"logs\"\n\
                    [[input]]\npaths = [\"/b\"]\ntopic = \"logs\"\n\
                    [index]\ntopics = [\"logs\"]\nerror_topic = \"errors\"\n\
                    [archive]\ndir = \"/archive\"";
        let add = "kafka-acls --bootstrap-server a:1,b:2 --add --allow-principal";
        let expected = format!(
            "# tail; Read is for a start after a crash, which looks what had arrived,\n\
             # DescribeConfigs for max.message.bytes, below which batches are kept\n\
             # (Kafka before 2.8 also needs --operation IdempotentWrite --cluster)\n\
             {add} 'User:log shipper' --operation Write --operation Describe --operation Read \
             --operation DescribeConfigs --topic logs\n\
             # index\n\
             {add} 'User:log shipper' --operation Write --operation Describe --topic errors\n\
             {add} 'User:log shipper' --operation Describe --operation Read --topic logs\n\
             {add} 'User:log shipper' --operation Write --operation Describe \
             --topic logs-dead-letters\n\
             {add} 'User:log shipper' --operation Read --group shipper-index\n"
        );
        assert_eq!(commands(&config(SCRAM, both), None).unwrap(), expected);

        let tail = "[[input]]\npaths = [\"/a\"]\ntopic = \"logs\"";
        let text = commands(&config("allow_auto_create_topics = true", tail), None).unwrap();
        assert!(text.contains("User:ANONYMOUS"), "{text}");
        assert!(
            text.contains("--operation DescribeConfigs --operation Create --topic logs\n"),
            "{text}"
        );
        let text = commands(&config("", tail), Some("User:it's")).unwrap();
        assert!(text.contains(r"'User:it'\''s'"), "{text}");
        for (topic, resource) in [
            ("logs.{file}", "--resource-pattern-type prefixed --topic logs.\n"),
            ("{host}.logs", "--topic '*'\n"),
        ] {
            let tail = format!("[[input]]\npaths = [\"/a\"]\ntopic = {topic:?}");
            let text = commands(&config("", &tail), None).unwrap();
            assert!(text.ends_with(&format!("--operation DescribeConfigs {resource}")), "{text}");
        }
    }

    #[test]
    fn who_we_are_is_asked_for_where_only_the_broker_knows() {
        let token = "security_protocol = \"SASL_SSL\"\nsasl_mechanism = \"OAUTHBEARER\"\n\
                     sasl_token_file = \"/t\"";
        let problem = commands(&config(token, ""), None).unwrap_err();
        assert!(problem.contains("--principal"), "{problem}");
        let certificate = "security_protocol = \"SSL\"\nssl_certificate_file = \"/none\"\n\
                           ssl_key_file = \"/none\"";
        let problem = commands(&config(certificate, ""), None).unwrap_err();
        assert!(problem.contains("/none") && problem.contains("--principal"), "{problem}");
    }
}
