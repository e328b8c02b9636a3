//! `shipper index` against a real Kafka and a real Elasticsearch: killed, and as a group.
//!
//! Built with `--features stack`; the head of `tests/run` lists the variables.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use log_shipper::http::{self, Timeouts};
use log_shipper::tls::{Settings, Trust};
use support::certificates::{Authority, write_secret};
use support::stack::{
    Documents, Outcomes, OwnServer, PATIENCE, Random, assert_same, count_committed, env, event,
    make_topic, read_topic, seq_of, unique, write_config,
};
use support::{Shipper, counter, wait_for};

/// A topic full of numbered events, and the means to index it.
struct Backlog {
    folder: tempfile::TempDir,
    kafka: String,
    elasticsearch: String,
    /// More of its table.
    elasticsearch_lines: String,
    name: String,
    n_events: usize,
}

impl Backlog {
    /// Ships events with `tail` from nine files, so that every partition gets some.
    fn ship(name: &str, n_events: usize) -> Backlog {
        let backlog = Backlog {
            folder: tempfile::tempdir().expect("a folder"),
            kafka: env("SHIPPER_STACK_KAFKA"),
            elasticsearch: env("SHIPPER_STACK_ELASTICSEARCH"),
            elasticsearch_lines: String::new(),
            name: unique(name),
            n_events,
        };
        let Backlog { kafka, name, .. } = &backlog;
        for suffix in ["", "-errors", "-dead-letters"] {
            make_topic(kafka, &format!("{name}{suffix}"));
        }
        let path = backlog.folder.path();
        for file in 0..9 {
            let events: String = (file..n_events).step_by(9).map(|seq| event(seq) + "\n").collect();
            fs::write(path.join(format!("server-{file}.log")), events).expect("written");
        }
        let config = format!(
            "state_dir = {:?}\n[kafka]\nbootstrap_servers = [\"{kafka}\"]\n\
             [[input]]\npaths = [{:?}]\ntopic = \"{name}\"\n",
            path.join("state"),
            path.join("*.log")
        );
        let tail = Shipper::start("tail", &write_config(path, "tail.toml", &config));
        let limit = PATIENCE;
        let shipped =
            || (support::stack::count_records(kafka, name) >= n_events as u64).then_some(());
        wait_for(limit, "full topic", shipped, || tail.log());
        let (status, log) = tail.stop(limit);
        assert!(status.success(), "{log}");
        let mut seqs: Vec<usize> = read_topic(kafka, name).iter().map(seq_of).collect();
        seqs.sort_unstable();
        assert_same(&seqs, &(0..n_events).collect::<Vec<_>>(), "events in the topic");
        backlog
    }

    /// Small batches, so that much is under way and much is left to do at any moment; the
    /// shortest session the broker allows, so that a killed member is missed soon.
    fn config(&self) -> PathBuf {
        let Backlog { kafka, elasticsearch, elasticsearch_lines, name, .. } = self;
        let text = format!(
            "state_dir = {:?}\n[kafka]\nbootstrap_servers = [\"{kafka}\"]\n\
             consumer_options = {{ \"session.timeout.ms\" = \"6000\", \"heartbeat.interval.ms\" = \"500\", \
             \"max.poll.interval.ms\" = \"10000\" }}\n\
             [index]\ntopics = [\"{name}\"]\ngroup_id = \"{name}\"\n\
             error_topic = \"{name}-errors\"\ndead_letter_topic = \"{name}-dead-letters\"\n\
             count_max = 500\n\
             [elasticsearch]\nhosts = [\"{elasticsearch}\"]\nindex = \"{name}-{{yyyy.MM.dd}}\"\n\
             {elasticsearch_lines}",
            self.folder.path().join("index-state"),
        );
        write_config(self.folder.path(), "index.toml", &text)
    }

    fn outcomes(&self) -> Outcomes {
        let documents = Documents::new(&self.elasticsearch, &self.name);
        Outcomes::new(documents, &self.kafka, &format!("{}-errors", self.name))
    }

    /// Waits until every event has an outcome, ends the processes, and compares.
    fn finish(&self, mut outcomes: Outcomes, processes: Vec<Shipper>) {
        outcomes.wait_for(self.n_events, 3 * PATIENCE);
        for process in processes {
            let (status, log) = process.stop(PATIENCE);
            assert!(status.success(), "{log}");
            assert_conserved(&log);
        }
        let n_repeats = outcomes.reconcile(self.n_events);
        println!("repeated in the error topic: {n_repeats} of {}", self.n_events.div_ceil(10));
        let dead_letters = format!("{}-dead-letters", self.name);
        assert_eq!(support::stack::count_records(&self.kafka, &dead_letters), 0);
    }
}

/// What was consumed has come to one end each, by the process's own account.
fn assert_conserved(log: &str) {
    let stopped = log.lines().find(|line| line.contains("index stopped:")).expect("the last line");
    let sum: u64 =
        ["indexed", "duplicates", "error_topic"].map(|name| counter(stopped, name)).iter().sum();
    assert_eq!(counter(stopped, "consumed"), sum, "{stopped}");
    for none in ["dead_letter", "rejected", "dropped", "given_up"] {
        assert_eq!(counter(stopped, none), 0, "{stopped}");
    }
}

fn start(config: &Path) -> Shipper {
    Shipper::start("index", config)
}

#[test]
fn every_record_has_one_outcome_when_index_is_killed_ten_times() {
    let backlog = Backlog::ship("index-killed", 250_000);
    let config = backlog.config();
    let mut outcomes = backlog.outcomes();
    let mut random = Random::new();

    for n in 1..=10 {
        let index = start(&config);
        index.wait_for_log(&format!("partitions assigned: {}-", backlog.name), PATIENCE);
        thread::sleep(random.milliseconds(100..1500));
        index.kill();
        let n_outcomes = outcomes.count();
        println!("kill {n}: {n_outcomes} of {} have their outcome", backlog.n_events);
        assert!(n_outcomes < backlog.n_events, "killed after all was done, which shows nothing");
    }
    let index = start(&config);
    backlog.finish(outcomes, vec![index]);
}

#[test]
fn a_group_of_three_loses_and_repeats_nothing_when_one_is_killed_and_one_is_added() {
    let backlog = Backlog::ship("index-group", 150_000);
    let config = backlog.config();
    let mut outcomes = backlog.outcomes();

    let [killed, second, third] = [0; 3].map(|_| start(&config));
    let assigned = format!("partitions assigned: {}-", backlog.name);
    for index in [&killed, &second, &third] {
        index.wait_for_log(&assigned, PATIENCE);
    }
    outcomes.wait_for(backlog.n_events / 10, PATIENCE);
    killed.kill();
    outcomes.wait_for(backlog.n_events / 5, PATIENCE);
    let added = start(&config);
    added.wait_for_log("partitions assigned:", PATIENCE);
    let n_outcomes = outcomes.count();
    assert!(n_outcomes < backlog.n_events, "the group had nothing left to share");
    println!("{n_outcomes} of {} have their outcome when a member is added", backlog.n_events);
    backlog.finish(outcomes, vec![second, third, added]);
}

/// A real Elasticsearch over TLS, known by its authority's fingerprint. While the password is wrong
/// nothing is committed and nobody leaves the group, though that lasts longer than a member may go
/// without a poll; with the right one all goes on by itself.
#[test]
fn a_wrong_password_holds_all_until_it_is_right() {
    const WRONG_FOR: Duration = Duration::from_secs(12);
    let node = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("test authority");
    authority.write(&node.path().join("ca.pem"));
    let identity = authority.issue("node", "localhost", 30);
    identity.write(&node.path().join("node.pem"), &node.path().join("node.key"), None);
    fs::write(node.path().join("node.pem"), [identity.pem(), authority.pem()].concat())
        .expect("written");
    let port: u32 = env("SHIPPER_STACK_PORT").parse().expect("a port");
    let settings = [
        ("ES_PORT", &*port.to_string()),
        ("ES_TRANSPORT_PORT", &(port + 1).to_string()),
        ("ES_SECURED", &node.path().display().to_string()),
    ];
    let _server =
        OwnServer::up("elasticsearch.sh", ("ES_NAME", "elasticsearch-secured"), &settings);

    let mut backlog = Backlog::ship("index-secured", 30_000);
    let fingerprint: String =
        authority.fingerprint().iter().map(|byte| format!("{byte:02x}")).collect();
    let password = backlog.folder.path().join("password");
    write_secret(&password, b"wrong\n");
    backlog.elasticsearch = format!("https://localhost:{port}");
    backlog.elasticsearch_lines = format!(
        "username = \"elastic\"\npassword_file = {password:?}\nretry_backoff_max = \"500ms\"\n\
         ssl_ca_trusted_fingerprint = \"{fingerprint}\"\n"
    );
    let limit = Duration::from_secs(60);
    let trust = Trust::Fingerprint(authority.fingerprint());
    let settings = Settings { trust, certificate: None, by_name: true };
    let agent = http::agent(Timeouts { all: limit, connect: limit }, Some(settings));
    let pair = openssl::base64::encode_block(b"elastic:elastic-secret");
    let documents = Documents::new(&backlog.elasticsearch, &backlog.name);
    let documents = documents.secured(agent, format!("Basic {pair}"));
    let outcomes = Outcomes::new(documents, &backlog.kafka, &format!("{}-errors", backlog.name));

    let index = start(&backlog.config());
    let refuses = "refuses, and nothing goes on before that is mended: status=401";
    index.wait_for_log(refuses, PATIENCE);
    let begun = Instant::now();
    while begun.elapsed() < WRONG_FOR {
        assert_eq!(outcomes.documents.count(), 0);
        assert_eq!(count_committed(&backlog.kafka, &backlog.name, &backlog.name), 0);
    }
    write_secret(&password, b"elastic-secret\n");
    index.wait_for_log("Elasticsearch takes documents again", PATIENCE);
    let log = index.log();
    assert_eq!(log.matches("partitions assigned").count(), 1, "{log}");
    assert!(!log.contains("revoked") && !log.contains("lost"), "{log}");
    backlog.finish(outcomes, vec![index]);
}
