//! `shipper index` against a real Kafka and a real Elasticsearch: killed, and as a group.
//!
//! Built with `--features stack`; the head of `tests/run` lists the variables.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use support::stack::{
    Documents, Outcomes, PATIENCE, Random, assert_same, env, event, make_topic, read_topic, seq_of,
    unique, write_config,
};
use support::{Shipper, counter, wait_for};

/// A topic full of numbered events, and the means to index it.
struct Backlog {
    folder: tempfile::TempDir,
    kafka: String,
    elasticsearch: String,
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
        let Backlog { kafka, elasticsearch, name, .. } = self;
        let text = format!(
            "state_dir = {:?}\n[kafka]\nbootstrap_servers = [\"{kafka}\"]\n\
             consumer_options = {{ \"session.timeout.ms\" = \"6000\", \"heartbeat.interval.ms\" = \"500\" }}\n\
             [index]\ntopics = [\"{name}\"]\ngroup_id = \"{name}\"\n\
             error_topic = \"{name}-errors\"\ndead_letter_topic = \"{name}-dead-letters\"\n\
             count_max = 500\n\
             [elasticsearch]\nhosts = [\"{elasticsearch}\"]\nindex = \"{name}-{{yyyy.MM.dd}}\"\n",
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
