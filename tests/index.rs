//! `shipper index` into local files, against librdkafka's mock cluster.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use tempfile::TempDir;

use support::tail::{Scene, lines};
use support::{Shipper, counter, run, shipper_binary, wait_for};

const N_LINES: usize = 6_000;

/// Records of one batch of the topic, where it must not be read at once.
const BATCH_RECORDS: usize = 60;

/// The mock cluster gives one batch a fetch, and only when this is over.
const FETCH_WAIT_MS: usize = 40;

/// Counts how often each line's number stands in the archive's files.
fn archived(folder: &Path) -> BTreeMap<usize, usize> {
    let mut numbers = BTreeMap::new();
    let Ok(partitions) = fs::read_dir(folder.join("logs")) else { return numbers };
    for partition in partitions {
        for file in fs::read_dir(partition.expect("an entry").path()).expect("a folder") {
            let path = file.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "ndjson") {
                count(&fs::read_to_string(path).expect("readable"), &mut numbers);
            }
        }
    }
    numbers
}

fn count(text: &str, numbers: &mut BTreeMap<usize, usize>) {
    for line in text.lines() {
        let document: serde_json::Value = serde_json::from_str(line).expect("a document");
        let message = document["message"].as_str().expect("a message");
        let number = message.rsplit(' ').next().and_then(|word| word.parse().ok());
        *numbers.entry(number.unwrap_or_else(|| panic!("no number in {message}"))).or_default() +=
            1;
    }
}

/// Writes a configuration that archives the topic `logs` below the folder it returns.
fn config(bootstrap_servers: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("index.toml");
    let servers: Vec<String> =
        bootstrap_servers.split(',').map(|server| format!("{server:?}")).collect();
    let text = format!(
        "state_dir = \"{0}/state\"\n[kafka]\nbootstrap_servers = [{1}]\n\
         [kafka.consumer_options]\n\"session.timeout.ms\" = \"6000\"\n\
         \"fetch.wait.max.ms\" = \"{FETCH_WAIT_MS}\"\n\
         [index]\ntopics = [\"logs\"]\nerror_topic = \"errors\"\ncount_max = 97\nlinger = \"20ms\"\n\
         [archive]\ndir = \"{0}/archive\"\n",
        folder.path().display(),
        servers.join(", ")
    );
    fs::write(&path, text).expect("written");
    (folder, path)
}

#[test]
fn a_commit_that_is_refused_is_made_again_although_nothing_more_comes() {
    let mut scene = Scene::new("server.log");
    scene.logs.append("server.log", lines(0..10));
    let tail = scene.start();
    scene.wait_for_records(10, &tail);
    scene.stop(tail);
    scene.cluster.request_errors(
        RDKafkaApiKey::OffsetCommit,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS],
    );

    let (_folder, config) = config(&scene.cluster.bootstrap_servers());
    let index = Shipper::start("index", &config);
    let member: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", scene.cluster.bootstrap_servers())
        .set("group.id", "shipper-index")
        .create()
        .expect("a consumer");
    let mut partition = TopicPartitionList::new();
    partition.add_partition("logs", 0);
    wait_for(
        Duration::from_secs(30),
        "commit of all ten",
        || {
            let committed = member.committed_offsets(partition.clone(), Duration::from_secs(5));
            let offset = committed.ok()?.find_partition("logs", 0)?.offset();
            (offset == Offset::Offset(10)).then_some(())
        },
        || index.log(),
    );
    assert!(index.log().contains("Offset commit (manual) failed"), "{}", index.log());
}

#[test]
fn brokers_that_are_away_are_each_named_once() {
    let (_folder, config) = config("127.0.0.1:1,127.0.0.1:2");
    let index = Shipper::start("index", &config);
    index.wait_for_log("2/2 brokers are down", Duration::from_secs(20));
    // Tried again ten times a second meanwhile.
    thread::sleep(Duration::from_secs(1));
    let log = index.log();
    for broker in ["127.0.0.1:1/bootstrap", "127.0.0.1:2/bootstrap"] {
        let n = log.lines().filter(|line| line.contains(broker)).count();
        assert_eq!(n, 1, "{broker} in {log}");
    }
}

#[test]
fn an_index_that_is_killed_archives_each_record_once() {
    let mut scene = Scene::with_partitions("server.log", 2);
    // All of it takes 4 s to read, however fast the machine is.
    scene.set("[batch]", "count_max", &BATCH_RECORDS.to_string());
    scene.logs.append("server.log", lines(0..N_LINES));
    let tail = scene.start();
    scene.wait_for_records(N_LINES, &tail);
    scene.stop(tail);

    let (folder, config) = config(&scene.cluster.bootstrap_servers());
    let archive = folder.path().join("archive");
    for round in 1..=3 {
        let index = Shipper::start("index", &config);
        let wanted = N_LINES * round / 20;
        wait_for(
            Duration::from_secs(60),
            &format!("{wanted} records in the archive"),
            || (archived(&archive).len() >= wanted).then_some(()),
            || index.log(),
        );
        index.kill();
        assert!(archived(&archive).len() < N_LINES, "killed when there was nothing left to do");
    }
    let index = Shipper::start("index", &config);
    wait_for(
        Duration::from_secs(60),
        "whole archive",
        || (archived(&archive).len() == N_LINES).then_some(()),
        || index.log(),
    );
    let (status, log) = index.stop(Duration::from_secs(30));
    assert!(status.success(), "{log}");
    let expected: BTreeMap<usize, usize> = (0..N_LINES).map(|number| (number, 1)).collect();
    assert_eq!(archived(&archive), expected);
}

/// Every event of a real broker's log: what `explain` says of it is what `index` does with it.
#[test]
fn what_explain_says_is_what_index_does() {
    let mut scene = Scene::new("server.log");
    scene.cluster.create_topic("errors", 1, 1).expect("a topic");
    scene.set("[[input]]", "multiline", "{ profile = \"kafka\" }");
    let log = fs::read("tests/data/logs/kafka-4.1-server.log").expect("read");
    scene.logs.append("server.log", log);
    let archive = scene.state.path().join("archive");
    let text = format!(
        "{}\n[index]\ntopics = [\"logs\"]\nerror_topic = \"errors\"\nindex_errors = true\n\
         linger = \"20ms\"\n[archive]\ndir = {archive:?}\n\
         [[route]]\nname = \"loads\"\nlevel = [\"INFO\"]\nmessage = \"^Loading\"\nto = \"drop\"\n\
         [[route]]\nname = \"warnings\"\nlevel = [\"WARN\"]\nto = \"error_topic\"\n",
        fs::read_to_string(scene.config()).expect("written")
    );
    let config = scene.state.path().join("both.toml");
    fs::write(&config, text).expect("written");

    let mut explain = Command::new(shipper_binary());
    let explain = explain.args(["explain", "--json", "-c"]).arg(&config);
    let output = run(explain.arg(scene.logs.path("server.log"))).expect("run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let said: Vec<Value> = said.map(|event| event.expect("JSON")).collect();
    let goes =
        |event: &Value, to: &str| event["to"].as_array().expect("a list").contains(&to.into());
    let expected: Vec<&Value> = said
        .iter()
        .filter(|event| goes(event, "archive"))
        .map(|event| &event["document"])
        .collect();
    let n_errors = said.iter().filter(|event| goes(event, "error_topic")).count();
    let n_dropped = said.iter().filter(|event| event["route"] == "loads").count();
    assert!(n_dropped > 0 && n_errors > n_dropped / 100, "{n_dropped} dropped, {n_errors} errors");
    let warning = said.iter().find(|event| event["route"] == "warnings").expect("one");
    assert_eq!(warning["misses"], serde_json::json!({ "loads": "level" }));

    let tail = scene.start();
    scene.wait_for_records(said.len(), &tail);
    scene.stop(tail);
    assert_eq!(scene.values().len(), said.len());
    let index = Shipper::start("index", &config);
    let mut found = Vec::new();
    let all_there = || {
        found = documents(&archive);
        (found.len() >= expected.len()).then_some(())
    };
    wait_for(Duration::from_secs(60), "whole archive", all_there, || index.log());
    let (status, log) = index.stop(Duration::from_secs(30));
    assert!(status.success(), "{log}");
    let stopped = log.lines().find(|line| line.contains("index stopped:")).expect("the last line");
    assert_eq!(counter(stopped, "error_topic"), n_errors as u64, "{stopped}");
    assert_eq!(counter(stopped, "dropped"), n_dropped as u64, "{stopped}");
    found.sort_by_key(|document| document["kafka"]["offset"].as_u64());
    assert!(found.iter().eq(expected.iter().copied()), "{found:#?}\n{expected:#?}");
}

/// All documents of an archive of the topic `logs`.
fn documents(archive: &Path) -> Vec<Value> {
    let Ok(files) = fs::read_dir(archive.join("logs/0")) else { return Vec::new() };
    let is_whole = |path: &PathBuf| path.extension().is_some_and(|it| it == "ndjson");
    let files = files.map(|file| file.expect("an entry").path()).filter(is_whole);
    let texts = files.map(|path| fs::read_to_string(path).expect("readable"));
    let lines = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>());
    lines.map(|line| serde_json::from_str(&line).expect("a document")).collect()
}
