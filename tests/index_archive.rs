//! `shipper index` into local files, against librdkafka's mock cluster.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use support::tail::{Scene, lines};
use support::{Shipper, wait_for};

const N_LINES: usize = 6_000;

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

#[test]
fn an_index_that_is_killed_archives_each_record_once() {
    let mut scene = Scene::with_partitions("server.log", 2);
    scene.logs.append("server.log", lines(0..N_LINES));
    let tail = scene.start();
    scene.wait_for_records(N_LINES, &tail);
    scene.stop(tail);

    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("index.toml");
    let text = format!(
        "state_dir = \"{0}/state\"\n[kafka]\nbootstrap_servers = [\"{1}\"]\n\
         [kafka.consumer_options]\n\"session.timeout.ms\" = \"6000\"\n\
         [index]\ntopics = [\"logs\"]\nerror_topic = \"errors\"\ncount_max = 97\nlinger = \"20ms\"\n\
         [archive]\ndir = \"{0}/archive\"\n",
        folder.path().display(),
        scene.cluster.bootstrap_servers()
    );
    fs::write(&config, text).expect("written");

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
