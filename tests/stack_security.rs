//! `shipper` and secured listeners of a real broker: TLS, certificates, SASL, and what it says
//! where they do not fit.
//!
//! Built with `--features stack`; see the head of `tests/run`.

mod common;
mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::client::Cluster;
use common::shipped;
use crossbeam_channel::{bounded, never, tick};
use log_shipper::config::Config;
use log_shipper::kafka::read_back::{Found, read_back};
use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod};
use support::certificates::{Authority, write_secret};
use support::stack::{OwnServer, PATIENCE, env, script, unique, write_config};
use support::{Shipper, TopicReader, counter, shipper_binary, wait_for};

const KAFKA: &str = "kafka-secured";
const PASSWORD: &str = "shipper-secret";
const TOPIC: i8 = 2;
const ALL: i8 = 2;

/// A broker with the listeners of `KAFKA_SECURED`.
struct Secured {
    /// For the test itself, which may do everything.
    cluster: Cluster,
    authority: Authority,
    folder: tempfile::TempDir,
    port: u32,
    _broker: OwnServer,
}

impl Secured {
    fn up(version: &str, extra: &str) -> Secured {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new("test authority");
        authority.write(&folder.path().join("ca.pem"));
        authority.issue("broker", "localhost", 30).write_both(&folder.path().join("broker.pem"));
        let port: u32 = env("SHIPPER_STACK_PORT").parse().expect("a port");
        let settings = [
            ("KAFKA_VERSION", version),
            ("KAFKA_PORT", &port.to_string()),
            ("KAFKA_SECURED", &folder.path().display().to_string()),
            ("KAFKA_EXTRA", extra),
        ];
        let broker = OwnServer::up("kafka.sh", ("KAFKA_NAME", KAFKA), &settings);
        let cluster = Cluster::new(&format!("127.0.0.1:{port}"));
        Secured { cluster, authority, folder, port, _broker: broker }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Of a listener: `SSL`, `SASL_SSL` or `SASL_PLAINTEXT`.
    fn address(&self, protocol: &str) -> String {
        let n = ["SSL", "SASL_SSL", "SASL_PLAINTEXT"].iter().position(|name| *name == protocol);
        format!("localhost:{}", self.port + 20 + n.expect("one of them") as u32)
    }

    /// What the broker itself says.
    fn log(&self) -> PathBuf {
        Path::new(&env("SHIPPER_STACK_DIR")).join(KAFKA).join("node1/logs/server.log")
    }

    fn restart(&self) {
        for command in ["stop", "start"] {
            script("kafka.sh", &[("KAFKA_NAME", KAFKA)], &[command, "1"]);
        }
    }
}

/// A tail, its log and what it makes of it.
struct Site {
    topic: String,
    log: PathBuf,
    config: PathBuf,
    reader: TopicReader,
    _folder: tempfile::TempDir,
}

impl Site {
    /// `kafka`: the rest of the table.
    fn new(secured: &Secured, protocol: &str, kafka: &str) -> Site {
        let topic = unique("secured");
        secured.cluster.make_topic(&topic, 1, &[]);
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("server.log");
        let config = write_config(
            folder.path(),
            "shipper.toml",
            &format!(
                r#"
                state_dir = "{state}"
                host = "h1"
                [kafka]
                bootstrap_servers = ["{address}"]
                retry_backoff_max = "500ms"
                security_protocol = "{protocol}"
                {kafka}
                [[input]]
                paths = ["{log}"]
                topic = "{topic}"
                multiline = {{ profile = "none" }}
                [tail]
                scan_interval = "100ms"
                [index]
                topics = ["{topic}"]
                error_topic = "{topic}-errors"
                [archive]
                dir = "{archive}"
                "#,
                state = folder.path().join("state").display(),
                address = secured.address(protocol),
                log = log.display(),
                archive = folder.path().join("archive").display(),
            ),
        );
        let reader = TopicReader::new(&secured.cluster.bootstrap, &topic, 1);
        Site { topic, log, config, reader, _folder: folder }
    }

    /// Waits until the topic holds these lines and nothing else.
    fn check(&mut self, n_lines: usize, tail: &Shipper) {
        let reader = &mut self.reader;
        let is_there = || {
            reader.read_for(Duration::from_millis(100));
            (reader.records.len() >= n_lines).then_some(())
        };
        wait_for(PATIENCE, "the lines", is_there, || tail.log());
        let records = self.reader.read_to_end(PATIENCE);
        let values: String = records.iter().map(|record| record.text() + "\n").collect();
        assert!(values == lines(0..n_lines), "{} records: {}", records.len(), tail.log());
    }
}

impl Site {
    fn n_archived(&self) -> usize {
        let archive = self.config.with_file_name("archive");
        let files = glob::glob(&format!("{}/**/*", archive.display())).expect("a pattern");
        let files = files.flatten().filter(|path| path.is_file());
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        files.map(|path| text(path).lines().count()).sum()
    }

    fn wait_for_archive(&self, n_documents: usize, index: &Shipper) {
        let is_there = || (self.n_archived() >= n_documents).then_some(());
        wait_for(PATIENCE, "the archive", is_there, || index.log());
    }
}

fn lines(range: std::ops::Range<usize>) -> String {
    range.map(|n| format!("line {n:06}\n")).collect()
}

fn append(log: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(log).expect("opened");
    file.write_all(text.as_bytes()).expect("written");
}

fn sasl(mechanism: &str, password_file: &Path) -> String {
    format!(
        "sasl_mechanism = \"{mechanism}\"\nsasl_username = \"shipper\"\nsasl_password_file = {:?}",
        password_file.display().to_string()
    )
}

fn ca(secured: &Secured) -> String {
    format!("ssl_ca_file = {:?}", secured.file("ca.pem").display().to_string())
}

/// A token that Kafka's own validator for tests takes: RFC 7519 without a signature.
fn token(seconds: u64) -> String {
    use openssl::base64::encode_block;
    let now = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_secs();
    let claims = format!(r#"{{"sub":"shipper","iat":{now},"exp":{}}}"#, now + seconds);
    let part = |text: &str| {
        let text = encode_block(text.as_bytes()).replace('+', "-").replace('/', "_");
        text.trim_end_matches('=').to_owned()
    };
    format!("{}.{}.", part(r#"{"alg":"none"}"#), part(&claims))
}

/// An OpenID provider's token endpoint, over TLS.
struct Provider {
    url: String,
    is_up: Arc<AtomicBool>,
    n_given: Arc<AtomicUsize>,
}

impl Provider {
    /// Gives tokens of so many seconds to whoever has `PASSWORD`.
    fn start(secured: &Secured, seconds: u64) -> Provider {
        let (certificate, key) = (secured.file("provider.pem"), secured.file("provider.key"));
        secured.authority.issue("provider", "localhost", 30).write(&certificate, &key, None);
        let mut acceptor = SslAcceptor::mozilla_intermediate(SslMethod::tls()).expect("TLS");
        acceptor.set_certificate_chain_file(&certificate).expect("a certificate");
        acceptor.set_private_key_file(&key, SslFiletype::PEM).expect("its key");
        let acceptor = acceptor.build();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("https://localhost:{}/token", listener.local_addr().expect("it").port());
        let (is_up, n_given) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (up, given) = (Arc::clone(&is_up), Arc::clone(&n_given));
        let authorization = openssl::base64::encode_block(format!("shipper:{PASSWORD}").as_bytes());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let Ok(mut stream) = acceptor.accept(stream) else {
                    continue;
                };
                let mut question = Vec::new();
                while !question.ends_with(b"grant_type=client_credentials") {
                    let mut bytes = [0; 1024];
                    let n_read = stream.read(&mut bytes).expect("a question");
                    assert_ne!(n_read, 0, "{question:?}");
                    question.extend(&bytes[..n_read]);
                }
                let question = String::from_utf8(question).expect("text");
                assert!(question.contains(&format!("Basic {authorization}\r\n")), "{question}");
                let (status, body) = match up.load(Ordering::SeqCst) {
                    true => {
                        given.fetch_add(1, Ordering::SeqCst);
                        let token = token(seconds);
                        (
                            "200 OK",
                            format!(r#"{{"access_token":"{token}","expires_in":{seconds}}}"#),
                        )
                    }
                    false => ("503 Service Unavailable", r#"{"error":"maintenance"}"#.to_owned()),
                };
                let len = body.len();
                write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {len}\r\n\r\n{body}")
                    .and_then(|()| stream.shutdown().map_err(std::io::Error::other))
                    .expect("said");
            }
        });
        Provider { url, is_up, n_given }
    }
}

/// Torture: 85.
#[test]
fn a_provider_may_be_away_until_its_tokens_end_and_what_waits_goes_on_after() {
    // With it the broker ends sessions with their tokens. KIP-368.
    let secured = Secured::up("4.1.1", "connections.max.reauth.ms=3600000");
    let password = secured.file("password");
    write_secret(&password, PASSWORD.as_bytes());
    let provider = Provider::start(&secured, 20);
    let kafka = format!(
        "{}\nsasl_mechanism = \"OAUTHBEARER\"\nsasl_oauthbearer_token_endpoint_url = {:?}\n\
         sasl_oauthbearer_client_id = \"shipper\"\n\
         sasl_oauthbearer_client_secret_file = {password:?}",
        ca(&secured),
        provider.url
    );
    let mut site = Site::new(&secured, "SASL_SSL", &kafka);
    secured.cluster.allow((TOPIC, &site.topic), "User:shipper", ALL);
    append(&site.log, &lines(0..1000));
    let tail = Shipper::start("tail", &site.config);
    let index = Shipper::start("index", &site.config);
    site.check(1000, &tail);
    site.wait_for_archive(1000, &index);
    // One each, whatever the number of connections.
    assert_eq!(provider.n_given.load(Ordering::SeqCst), 2);

    provider.is_up.store(false, Ordering::SeqCst);
    let mut n_lines = 1000;
    let mut ship_until = |text: &str| {
        let is_said = || {
            append(&site.log, &lines(n_lines..n_lines + 10));
            n_lines += 10;
            tail.log().contains(text).then_some(())
        };
        wait_for(PATIENCE, text, is_said, || tail.log());
    };
    let problem = format!("token endpoint {}: status 503: maintenance", provider.url);
    ship_until(&format!("{problem}; trying again; the token at hand is good for another"));
    ship_until(&format!("no token for OAUTHBEARER: {problem}"));
    index.wait_for_log(&problem, PATIENCE);

    provider.is_up.store(true, Ordering::SeqCst);
    site.check(n_lines, &tail);
    site.wait_for_archive(n_lines, &index);
    for shipper in [index, tail] {
        let (status, log) = shipper.stop(PATIENCE);
        assert!(status.success(), "{log}");
        assert!(!log.contains(PASSWORD) && !log.contains(&token(1)[..20]), "{log}");
    }
    assert_eq!(site.n_archived(), n_lines);
}

#[test]
fn both_walks_speak_with_every_listener() {
    for version in ["4.1.1", "3.9.1"] {
        let secured = Secured::up(version, "");
        let (password, token_file) = (secured.file("password"), secured.file("token"));
        write_secret(&password, PASSWORD.as_bytes());
        write_secret(&token_file, token(3600).as_bytes());
        let (certificate, key) = (secured.file("shipper.pem"), secured.file("shipper.key"));
        let identity = secured.authority.issue("shipper", "client", 30);
        identity.write(&certificate, &key, Some("open sesame"));
        let key_password = secured.file("key-password");
        write_secret(&key_password, b"open sesame\n");

        let ca = ca(&secured);
        let mutual = format!(
            "{ca}\nssl_certificate_file = {certificate:?}\nssl_key_file = {key:?}\n\
             ssl_key_password_file = {key_password:?}"
        );
        let bearer = format!("sasl_mechanism = \"OAUTHBEARER\"\nsasl_token_file = {token_file:?}");
        let plain = sasl("PLAIN", &password);
        let cases = [
            ("SSL", mutual),
            ("SASL_SSL", format!("{ca}\n{plain}")),
            ("SASL_SSL", format!("{ca}\n{}", sasl("SCRAM-SHA-256", &password))),
            ("SASL_SSL", format!("{ca}\n{}", sasl("SCRAM-SHA-512", &password))),
            ("SASL_SSL", format!("{ca}\n{bearer}")),
            ("SASL_PLAINTEXT", sasl("SCRAM-SHA-512", &password)),
            ("SASL_PLAINTEXT", format!("{plain}\nsasl_plain_without_tls = true")),
        ];
        for (protocol, kafka) in cases {
            let mut site = Site::new(&secured, protocol, &kafka);
            // Nobody but who we say we are may write, or read.
            let principal = if protocol == "SSL" { "User:CN=shipper" } else { "User:shipper" };
            secured.cluster.allow((TOPIC, &site.topic), principal, ALL);
            append(&site.log, &lines(0..1000));
            let tail = Shipper::start("tail", &site.config);
            site.check(1000, &tail);
            let index = Shipper::start("index", &site.config);
            site.wait_for_archive(1000, &index);
            let (status, log) = index.stop(PATIENCE);
            assert!(status.success(), "{log}");
            let (status, log) = tail.stop(PATIENCE);
            assert!(status.success(), "{log}");
            assert!(!log.contains(PASSWORD) && !log.contains("sesame"), "{log}");
        }
    }
}

/// Torture: 72.
#[test]
fn what_acl_prints_is_enough_where_all_else_is_denied() {
    let secured = Secured::up("4.1.1", "allow.everyone.if.no.acl.found=false");
    let password = secured.file("password");
    write_secret(&password, PASSWORD.as_bytes());
    let kafka = format!("{}\n{}", ca(&secured), sasl("SCRAM-SHA-256", &password));
    let mut site = Site::new(&secured, "SASL_SSL", &kafka);
    let error_topic = format!("{}-errors", site.topic);
    for topic in [&error_topic, &format!("{}-dead-letters", site.topic)] {
        secured.cluster.make_topic(topic, 1, &[]);
    }
    append(&site.log, &lines(0..1000));
    let tail = Shipper::start("tail", &site.config);
    tail.wait_for_log("TOPIC_AUTHORIZATION_FAILED", PATIENCE);

    let output = Command::new(shipper_binary())
        .args(["acl", "-c"])
        .arg(&site.config)
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let commands = text.lines().filter_map(|line| line.strip_prefix("kafka-acls "));
    let commands: Vec<&str> = commands.collect();
    let change = |command: &str| {
        // Of the test's own listener, whose user may change them.
        let command = command.replace(&secured.address("SASL_SSL"), &secured.cluster.bootstrap);
        let words = ["tool", "org.apache.kafka.tools.AclCommand"];
        let words: Vec<&str> = words.into_iter().chain(command.split_whitespace()).collect();
        script("kafka.sh", &[("KAFKA_NAME", KAFKA)], &words);
    };
    commands.iter().for_each(|command| change(command));
    site.check(1000, &tail);
    tail.kill();
    append(&site.log, &lines(1000..2000));
    let tail = Shipper::start("tail", &site.config);
    site.check(2000, &tail);
    let (status, log) = tail.stop(PATIENCE);
    assert!(status.success() && !log.contains("WARN"), "{log}");

    // What was granted is taken back while it ships, and granted again.
    let tail = Shipper::start("tail", &site.config);
    change(&commands[0].replace("--add", "--remove --force"));
    append(&site.log, &lines(2000..2500));
    tail.wait_for_log("TOPIC_AUTHORIZATION_FAILED", PATIENCE);
    append(&site.log, &lines(2500..3000));
    change(commands[0]);
    site.check(3000, &tail);
    tail.wait_for_log("well again", PATIENCE);
    append(&site.log, "[2026-01-31 13:00:00,000] ERROR no (kafka.log.LogManager)\n");

    let index = Shipper::start("index", &site.config);
    let mut errors = TopicReader::new(&secured.cluster.bootstrap, &error_topic, 1);
    errors.read(1, PATIENCE);
    let (status, log) = index.stop(PATIENCE);
    assert!(status.success() && !log.contains("WARN"), "{log}");
    let (status, log) = tail.stop(PATIENCE);
    assert!(status.success(), "{log}");
}

/// Torture: 82.
#[test]
fn what_does_not_fit_is_said_and_nothing_goes_out_before_it_does() {
    let secured = Secured::up("4.1.1", "");
    let password = secured.file("password");
    write_secret(&password, PASSWORD.as_bytes());
    let other = secured.file("other-ca.pem");
    Authority::new("another authority").write(&other);
    let (certificate, key) = (secured.file("other.pem"), secured.file("other.key"));
    Authority::new("another authority").issue("x", "x", 30).write(&certificate, &key, None);

    let ca = ca(&secured);
    let scram = sasl("SCRAM-SHA-512", &password);
    let other_ca = format!("ssl_ca_file = {other:?}");
    let stranger = format!("ssl_certificate_file = {certificate:?}\nssl_key_file = {key:?}");
    let cases = [
        ("SASL_SSL", format!("{other_ca}\n{scram}"), "certificate will not do: "),
        ("SASL_SSL", format!("{ca}\n{}", sasl("SCRAM-SHA-512", &other)), "anybody may read it"),
        ("SSL", ca.clone(), "TLS failed: "),
        ("SSL", format!("{ca}\n{stranger}"), "TLS failed: "),
        (
            "SSL",
            format!("{ca}\nssl_certificate_file = {other:?}\nssl_key_file = {key:?}"),
            "cannot use key",
        ),
    ];
    for (protocol, kafka, problem) in cases {
        let site = Site::new(&secured, protocol, &kafka);
        append(&site.log, &lines(0..10));
        let tail = Shipper::start("tail", &site.config);
        let line = tail.wait_for_log(problem, PATIENCE);
        assert!(line.contains("broker localhost:"), "{line}");
    }

    // The wrong protocol.
    for (protocol, spoken, problem) in [
        ("SASL_SSL", "PLAINTEXT", "the listener speaks TLS"),
        ("SASL_PLAINTEXT", "SASL_SSL", "does this listener speak kafka.security_protocol"),
    ] {
        let kafka = if spoken == "PLAINTEXT" { String::new() } else { format!("{ca}\n{scram}") };
        let site = Site::new(&secured, protocol, &kafka);
        let text = fs::read_to_string(&site.config).expect("there");
        let (from, to) = (format!("\"{protocol}\""), format!("\"{spoken}\""));
        fs::write(&site.config, text.replace(&from, &to)).expect("written");
        append(&site.log, &lines(0..10));
        let tail = Shipper::start("tail", &site.config);
        tail.wait_for_log(problem, PATIENCE);
    }

    // A password that is set right while the tail waits.
    write_secret(&password, b"wrong");
    let mut site = Site::new(&secured, "SASL_SSL", &format!("{ca}\n{scram}"));
    append(&site.log, &lines(0..1000));
    let tail = Shipper::start("tail", &site.config);
    tail.wait_for_log("not authenticated: ", PATIENCE);
    write_secret(&password, PASSWORD.as_bytes());
    site.check(1000, &tail);
    tail.wait_for_log("well again", PATIENCE);

    // The name by which the broker is reached.
    let mut site = Site::new(&secured, "SASL_SSL", &format!("{ca}\n{scram}"));
    let text = fs::read_to_string(&site.config).expect("there");
    fs::write(&site.config, text.replace("localhost:", "127.0.0.1:")).expect("written");
    append(&site.log, &lines(0..1000));
    let tail = Shipper::start("tail", &site.config);
    tail.wait_for_log("certificate will not do: IP address mismatch", PATIENCE);
    drop(tail);
    let any_name =
        "security_protocol = \"SASL_SSL\"\nssl_endpoint_identification_algorithm = \"none\"";
    let text = fs::read_to_string(&site.config).expect("there");
    let text = text.replace("security_protocol = \"SASL_SSL\"", any_name);
    fs::write(&site.config, text).expect("written");
    let tail = Shipper::start("tail", &site.config);
    site.check(1000, &tail);
}

/// Torture: 83, 84.
#[test]
fn a_certificate_that_is_rotated_under_load_is_taken_up() {
    let secured = Secured::up("4.1.1", "");
    let (certificate, key) = (secured.file("shipper.pem"), secured.file("shipper.key"));
    secured.authority.issue("old", "client", 30).write(&certificate, &key, None);
    let kafka =
        format!("{}\nssl_certificate_file = {certificate:?}\nssl_key_file = {key:?}", ca(&secured));
    let mut site = Site::new(&secured, "SSL", &kafka);
    secured.cluster.allow((TOPIC, &site.topic), "User:CN=new", ALL);
    append(&site.log, &lines(0..1000));
    let tail = Shipper::start("tail", &site.config);
    tail.wait_for_log("TOPIC_AUTHORIZATION_FAILED", PATIENCE);
    secured.cluster.allow((TOPIC, &site.topic), "User:CN=old", ALL);
    site.check(1000, &tail);
    let index = Shipper::start("index", &site.config);
    site.wait_for_archive(1000, &index);

    secured.authority.issue("new", "client", 30).write(&certificate, &key, None);
    secured.cluster.forbid((TOPIC, &site.topic), "User:CN=old", ALL);
    let mut n_lines = 1000;
    std::thread::scope(|scope| {
        let restart = scope.spawn(|| secured.restart());
        // 10,000 lines a second while it lasts, and for a moment behind it.
        let mut n_behind = 0;
        for _ in &tick(Duration::from_millis(100)) {
            append(&site.log, &lines(n_lines..n_lines + 1000));
            n_lines += 1000;
            n_behind += usize::from(restart.is_finished());
            if n_behind == 20 {
                break;
            }
        }
    });
    site.check(n_lines, &tail);
    index.wait_for_log("joining the group anew", PATIENCE);
    site.wait_for_archive(n_lines, &index);
    let (status, log) = index.stop(PATIENCE);
    assert!(status.success(), "{log}");
    assert_eq!(site.n_archived(), n_lines, "{log}");
    let (status, log) = tail.stop(PATIENCE);
    assert!(status.success(), "{log}");
    let line = log.lines().find(|line| line.contains("tail stopped")).expect("counters");
    assert_eq!(counter(line, "records_maybe_repeated"), 0, "{log}");
}

#[test]
fn reading_back_waits_for_a_password_that_will_do() {
    let secured = Secured::up("4.1.1", "");
    let topic = unique("secured");
    secured.cluster.make_topic(&topic, 1, &[]);
    let id = secured.cluster.producer_id();
    let records = shipped("h1", "file-1", 0, 50);
    assert_eq!(secured.cluster.produce((&topic, 0), id, 0, &records), Ok(0));
    let password = secured.file("password");
    let text = format!(
        "[kafka]\nbootstrap_servers = [{:?}]\nsecurity_protocol = \"SASL_SSL\"\n{}\n{}",
        secured.address("SASL_SSL"),
        ca(&secured),
        sasl("SCRAM-SHA-256", &password)
    );
    let kafka = Config::parse(&text, Path::new("test.toml")).expect("a configuration").kafka;
    let (done, outcomes) = bounded(1);
    let reader = std::thread::spawn(move || {
        let mut n_found = 0;
        let mut count = |_: &Found| n_found += 1;
        let outcome = read_back(&kafka, &topic, 0, 0, "h1", u64::MAX, &never(), &mut count);
        done.send((outcome.expect("read"), n_found)).expect("heard");
    });
    // No file, then one of a wrong password that has been tried.
    assert!(outcomes.recv_timeout(Duration::from_secs(3)).is_err());
    write_secret(&password, b"wrong");
    let log = secured.log();
    let is_tried = || fs::read_to_string(&log).ok()?.contains("invalid credentials").then_some(());
    wait_for(PATIENCE, "a refusal", is_tried, || fs::read_to_string(&log).unwrap_or_default());
    assert!(outcomes.try_recv().is_err());
    write_secret(&password, PASSWORD.as_bytes());
    let (outcome, n_found) = outcomes.recv_timeout(PATIENCE).expect("it comes to an end");
    assert_eq!((outcome.n_records, n_found), (50, 50));
    reader.join().expect("it ends");
}

#[test]
fn a_session_that_ends_is_begun_anew_without_a_word() {
    let extra = "listener.name.saslssl.scram-sha-512.connections.max.reauth.ms=2000";
    let secured = Secured::up("4.1.1", extra);
    write_secret(&secured.file("password"), PASSWORD.as_bytes());
    // As systemd gives it to a unit with LoadCredential=.
    let kafka = format!("{}\n{}", ca(&secured), sasl("SCRAM-SHA-512", Path::new("password")));
    let mut site = Site::new(&secured, "SASL_SSL", &kafka);
    append(&site.log, "");
    let mut command = Command::new(shipper_binary());
    command.args(["tail", "-c"]).arg(&site.config);
    command.env("CREDENTIALS_DIRECTORY", secured.folder.path()).env("RUST_LOG", "debug");
    let tail = Shipper::spawn(&mut command);
    let mut n_lines = 0;
    while tail.log().matches("its session ends").count() < 4 {
        append(&site.log, &lines(n_lines..n_lines + 1000));
        n_lines += 1000;
        site.check(n_lines, &tail);
    }
    let (status, log) = tail.stop(PATIENCE);
    assert!(status.success() && !log.contains(" WARN "), "{log}");
}
