//! `shipper tail` under load, and what a cluster may be like: a broker with two listeners, brokers
//! of two versions, leaders that move. All arrives, once and in order.
//!
//! Built with `--features stack`; see the head of `tests/run`. Each test has brokers of its own.

mod common;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Instant;

use common::client::{Cluster, PartitionState};
use support::stack::{
    N_PARTITIONS, OwnServer, PATIENCE, Writer, assert_same, env, event, folder_of_each_partition,
    script, seq_of, unique, write_config,
};
use support::{Shipper, TopicReader, counter, shipper_binary, wait_for};

const KAFKA: &str = "kafka-cluster";
const NEW: &str = "4.1.1";
const OLD: &str = "3.9.1";
/// The newest version of Produce of either, as far as the shipper knows it, too.
const PRODUCE_NEW: u32 = 13;
const PRODUCE_OLD: u32 = 11;
const NODES: [i32; 3] = [1, 2, 3];
/// Events a second and file; each partition has a file of its own.
const PER_SECOND: u64 = 200;
const ROTATE_AFTER: usize = 100;
/// Where the second listener of a broker is. The first is at 127.0.0.1.
const OUTSIDE: &str = "127.0.0.2";

/// What the shipper says at level `debug`: behind the address of a broker; behind a partition.
const CONNECTED: &str = ": connected, Produce v";
const SAID_WHO_LEADS: &str = ": has said who leads";
const NAMED_BY_FORMER: &str = "its former leader says that ";

/// Brokers of a test's own.
struct Brokers {
    _server: OwnServer,
    cluster: Cluster,
    port: i32,
}

impl Brokers {
    fn up(version: &str, n_nodes: i32) -> Brokers {
        let port: i32 = env("SHIPPER_STACK_PORT").parse().expect("a port");
        let settings = [
            ("KAFKA_VERSION", version),
            ("KAFKA_NODES", &n_nodes.to_string()),
            ("KAFKA_HEAP", "256m"),
            ("KAFKA_PORT", &port.to_string()),
            ("KAFKA_CONTROLLER_PORT", &(port + 3).to_string()),
            ("KAFKA_OUTSIDE", OUTSIDE),
        ];
        let server = OwnServer::up("kafka.sh", ("KAFKA_NAME", KAFKA), &settings);
        let addresses: Vec<String> =
            (0..n_nodes).map(|n| format!("127.0.0.1:{}", port + n)).collect();
        Brokers { _server: server, cluster: Cluster::new(&addresses.join(",")), port }
    }

    /// Where a node is reached through its first listener.
    fn inside(&self, node: i32) -> String {
        format!("127.0.0.1:{}", self.port + node - 1)
    }

    /// Where a node is reached through its second listener.
    fn outside(&self, node: i32) -> String {
        format!("{OUTSIDE}:{}", self.port + 19 + node)
    }

    /// Runs a command of `kafka.sh`, whose `start` takes the node up in this version.
    fn run(&self, version: &str, arguments: &[&str]) {
        // The log of the shipper tells what it made of that, and when.
        println!("{:.0} {version} kafka.sh {}", jiff::Timestamp::now(), arguments.join(" "));
        script("kafka.sh", &[("KAFKA_NAME", KAFKA), ("KAFKA_VERSION", version)], arguments);
    }
}

/// A tail of as many files as its topic has partitions, each to another, while they are written.
struct Load<'a> {
    brokers: &'a Brokers,
    topic: String,
    tail: Shipper,
    /// Folder of the file that goes to each partition, and who writes it.
    folders: Vec<PathBuf>,
    writers: Vec<Writer>,
    folder: tempfile::TempDir,
}

impl<'a> Load<'a> {
    /// Begins, with these brokers to ask first, and waits until all goes well.
    fn start(brokers: &'a Brokers, seeds: &[String]) -> Load<'a> {
        let topic = unique("cluster");
        let folder = tempfile::tempdir().expect("a folder");
        brokers.cluster.make_topic(&topic, N_PARTITIONS, &[]);
        let text = format!(
            "state_dir = {:?}\nhost = \"h1\"\n\
             [kafka]\nbootstrap_servers = {seeds:?}\nretry_backoff_max = \"100ms\"\n\
             [[input]]\npaths = [{:?}]\ntopic = \"{topic}\"\n\
             [[input]]\npaths = [{:?}]\ntopic = \"{topic}-late\"\n\
             [tail]\nrotate_grace = \"1s\"\n",
            folder.path().join("state"),
            folder.path().join("*/server.log"),
            folder.path().join("late.log"),
        );
        let config = write_config(folder.path(), "shipper.toml", &text);
        let folders = folder_of_each_partition(folder.path(), N_PARTITIONS);
        let mut tail = Command::new(shipper_binary());
        tail.env("RUST_LOG", "info,log_shipper::kafka=debug");
        let tail = Shipper::spawn(tail.arg("tail").arg("-c").arg(config));
        let write = |folder: &PathBuf| Writer::start(folder, usize::MAX, ROTATE_AFTER, PER_SECOND);
        let writers = folders.iter().map(write).collect();
        let load = Load { brokers, topic, tail, folders, writers, folder };
        load.go_on();
        load
    }

    fn n_written(&self) -> Vec<usize> {
        self.writers.iter().map(Writer::n_written).collect()
    }

    fn partitions(&self) -> Option<Vec<PartitionState>> {
        self.brokers.cluster.partitions(&self.topic, N_PARTITIONS)
    }

    fn leaders(&self) -> Vec<i32> {
        let found = wait_for(PATIENCE, "leaders", || self.partitions(), || self.tail.log());
        found.iter().map(|partition| partition.leader).collect()
    }

    /// Waits until all partitions are as they should be.
    fn wait_for_partitions(&self, what: &str, is_so: impl Fn(&[PartitionState]) -> bool) {
        let are_so = || is_so(&self.partitions()?).then_some(());
        let found = || format!("{:?}\n{}", self.partitions(), self.tail.log());
        wait_for(PATIENCE, what, are_so, found);
    }

    /// Waits until what has been written by now has arrived.
    fn catch_up(&self) {
        let n_written = self.n_written();
        self.wait_for_partitions(&format!("arrival of {n_written:?}"), |partitions| {
            partitions.iter().zip(&n_written).all(|(found, n)| found.end >= *n as u64)
        });
    }

    /// Waits until each file has got a rotation's worth more, and that has arrived.
    fn go_on(&self) {
        let n_written = self.n_written();
        for (writer, n_written) in self.writers.iter().zip(n_written) {
            writer.wait_for(n_written + ROTATE_AFTER);
        }
        self.catch_up();
    }

    /// Its lines so far.
    fn log(&self) -> Vec<String> {
        self.tail.log().lines().map(str::to_owned).collect()
    }

    /// Moves a partition to these replicas, of which the first leads it then; returns since which
    /// election.
    fn lead(&self, partition: usize, replicas: &[i32]) -> i32 {
        self.brokers.cluster.reassign(&self.topic, partition as i32, replicas);
        let epoch_of = |found: PartitionState| (found.leader == replicas[0]).then_some(found.epoch);
        let epoch = || epoch_of(self.partitions()?[partition]);
        let found = || format!("{:?}\n{}", self.partitions(), self.tail.log());
        wait_for(PATIENCE, &format!("leader {}", replicas[0]), epoch, found)
    }

    /// Does so, and waits until the shipper has learnt it from an answer of the former leader: what
    /// it knew already is no news to it.
    fn lead_and_tell(&self, partition: usize, replicas: &[i32]) {
        let n_lines = self.log().len();
        let epoch = self.lead(partition, replicas);
        let subject = format!("topic {:?} partition {partition}: ", self.topic);
        let news = format!("{subject}{NAMED_BY_FORMER}{} leads since epoch {epoch}", replicas[0]);
        self.tail.wait_for_log(&news, PATIENCE);
        // With the refusal it asks who leads, too: what comes of that must not come amid the next
        // move.
        let is_asked = || {
            let since = self.log().split_off(n_lines);
            let told = since.iter().position(|line| line.contains(&news))?;
            since[told..].iter().any(|line| line.contains(SAID_WHO_LEADS)).then_some(())
        };
        wait_for(PATIENCE, "answer to who leads", is_asked, || self.tail.log());
        self.catch_up();
    }

    /// The brokers that it is connected to.
    fn peers(&self) -> BTreeSet<String> {
        let process = format!("/proc/{}", self.tail.pid());
        let files = fs::read_dir(format!("{process}/fd")).expect("it runs").flatten();
        let sockets: BTreeSet<String> = files
            .filter_map(|file| fs::read_link(file.path()).ok())
            .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.replace(']', "")))
            .collect();
        let table = fs::read_to_string(format!("{process}/net/tcp")).expect("it runs");
        let peer = |line: &str| {
            // Source: proc_pid_net(5); an address is in the order of the machine's bytes.
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (address, port) = fields[2].split_once(':')?;
            let address = u32::from_str_radix(address, 16).ok()?;
            let port = u16::from_str_radix(port, 16).ok()?;
            let is_its = sockets.contains(fields[9]);
            is_its.then(|| format!("{}:{port}", Ipv4Addr::from(address.to_ne_bytes())))
        };
        table.lines().skip(1).filter_map(peer).collect()
    }

    /// Ends the writers; returns how many events each has written.
    fn stop_writing(&mut self) -> Vec<usize> {
        self.writers.drain(..).map(|writer| writer.join(true)).collect()
    }

    /// Ends all; asserts that each event stands in the topic, once and in order. Returns the log.
    fn finish(mut self, n_late: usize) -> Vec<String> {
        let n_written = self.stop_writing();
        let is_written = |(found, n): (&PartitionState, &usize)| found.end >= *n as u64;
        self.wait_for_partitions(&format!("end at {n_written:?}"), |partitions| {
            partitions.iter().zip(&n_written).all(is_written)
        });
        self.tail.signal(rustix::process::Signal::TERM);
        let status = self.tail.wait(PATIENCE);
        let log = self.tail.log();
        assert!(status.success(), "{log}");

        let mut reader =
            TopicReader::new(&self.brokers.cluster.bootstrap, &self.topic, N_PARTITIONS);
        reader.read_to_end(PATIENCE);
        for (partition, folder) in self.folders.iter().enumerate() {
            let its = reader.records.iter().filter(|it| it.partition == partition as i32);
            let is_its = |path: String| PathBuf::from(path).starts_with(folder);
            assert!(its.clone().all(|record| is_its(record.header("path"))), "{partition}");
            let seqs: Vec<usize> = its.map(seq_of).collect();
            assert_same(&seqs, &(0..n_written[partition]).collect::<Vec<_>>(), &log);
        }
        let stopped = log.lines().rev().find(|line| line.contains("tail stopped"));
        let stopped = stopped.expect("the last line");
        let n_events = n_written.iter().sum::<usize>() + n_late;
        assert_eq!(counter(stopped, "records_acked"), n_events as u64, "{log}");
        assert_eq!(counter(stopped, "records_maybe_repeated"), 0, "{log}");
        println!("{n_events} events once and in order");
        self.log()
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        // Before their folders go.
        self.stop_writing();
    }
}

/// How many leaders were learnt from answers of the former ones.
fn n_named_by_former(lines: &[String]) -> usize {
    lines.iter().filter(|line| line.contains(NAMED_BY_FORMER)).count()
}

/// The brokers that it was ever connected to, each with the version of Produce of each time.
fn connections(lines: &[String]) -> BTreeMap<String, Vec<u32>> {
    let mut connections: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (subject, version) in lines.iter().filter_map(|line| line.split_once(CONNECTED)) {
        let (_, address) = subject.split_once("broker ").expect("of a broker");
        let version = version.parse().expect("a version");
        connections.entry(address.to_owned()).or_default().push(version);
    }
    connections
}

/// How often another address than the time before was the one of the broker that said who leads.
fn n_changes(lines: &[String]) -> usize {
    let address = |line: &str| {
        let (subject, _) = line.split_once(SAID_WHO_LEADS)?;
        Some(subject.split_once("broker ").expect("of a broker").1.to_owned())
    };
    let mut addresses: Vec<String> = lines.iter().filter_map(|line| address(line)).collect();
    addresses.dedup();
    addresses.len().saturating_sub(1)
}

/// Each listener says that the broker is where that listener is. To whoever is told of both, one
/// node has now this address, now that.
///
/// Torture: 81.
#[test]
fn a_broker_with_two_listeners_is_reached_through_those_that_are_configured() {
    const N_CHANGES: usize = 10;
    let brokers = Brokers::up(NEW, 1);
    let (inside, outside) = (brokers.inside(1), brokers.outside(1));
    let only_inside = Load::start(&brokers, std::slice::from_ref(&inside));
    let only_outside = Load::start(&brokers, std::slice::from_ref(&outside));
    let either = Load::start(&brokers, &[inside.clone(), outside.clone()]);
    let loads = [&only_inside, &only_outside, &either];
    assert_eq!(only_inside.peers(), BTreeSet::from([inside.clone()]));
    assert_eq!(only_outside.peers(), BTreeSet::from([outside.clone()]));

    brokers.run(NEW, &["kill", "1"]);
    brokers.run(NEW, &["start", "1"]);
    loads.iter().for_each(|load| load.go_on());
    // For as long as a topic is missing it asks who leads, again and again.
    fs::write(either.folder.path().join("late.log"), event(0) + "\n").expect("written");
    let began = Instant::now();
    let has_changed = || (n_changes(&either.log()) >= N_CHANGES).then_some(());
    wait_for(PATIENCE, "changes of address", has_changed, || either.tail.log());
    println!("two listeners: {N_CHANGES} changes of address within {:?}", began.elapsed());
    assert_eq!(either.peers(), BTreeSet::from([inside.clone(), outside.clone()]));
    loads.iter().for_each(|load| load.go_on());
    assert_eq!(only_inside.peers(), BTreeSet::from([inside.clone()]));
    assert_eq!(only_outside.peers(), BTreeSet::from([outside.clone()]));
    let late = format!("{}-late", either.topic);
    brokers.cluster.make_topic(&late, 1, &[]);
    let has_arrived = || (brokers.cluster.partitions(&late, 1)?[0].end == 1).then_some(());
    wait_for(PATIENCE, "the late event", has_arrived, || either.tail.log());

    let of = |load: Load<'_>, n_late| {
        let log = load.finish(n_late);
        println!("two listeners: connected to {:?}", connections(&log));
        (connections(&log).into_keys().collect::<Vec<String>>(), n_changes(&log))
    };
    assert_eq!(of(only_inside, 0), (vec![inside.clone()], 0));
    assert_eq!(of(only_outside, 0), (vec![outside.clone()], 0));
    let (addresses, n_changes) = of(either, 1);
    assert_eq!(addresses, [inside, outside]);
    println!("two listeners: {n_changes} changes of address in all");
}

/// Each broker is spoken to in the versions that it knows itself, before and behind its upgrade, and
/// leaders move from the old to the new version and back.
///
/// Torture: 66, 67, 90.
#[test]
fn brokers_are_upgraded_one_after_the_other() {
    let brokers = Brokers::up(OLD, 3);
    let load = Load::start(&brokers, &NODES.map(|node| brokers.inside(node)));
    let mut versions = BTreeMap::new();
    for node in NODES {
        load.lead(node as usize - 1, &replicas(node));
        versions.insert(brokers.inside(node), PRODUCE_OLD);
    }
    load.go_on();
    let spoken = |load: &Load<'_>| -> BTreeMap<String, u32> {
        let last = |(address, all): (String, Vec<u32>)| (address, *all.last().expect("one"));
        connections(&load.log()).into_iter().map(last).collect()
    };
    assert_eq!(spoken(&load), versions);

    for node in [3, 2, 1] {
        brokers.run(NEW, &["stop", &node.to_string()]);
        load.go_on();
        brokers.run(NEW, &["start", &node.to_string()]);
        load.wait_for_partitions("replicas", |found| {
            found.iter().all(|partition| partition.n_in_sync == NODES.len())
        });
        // To the new version, from it to the node that is upgraded last, and to it again.
        let partition = node as usize - 1;
        for leader in [node, 1, node] {
            load.lead(partition, &replicas(leader));
            load.catch_up();
        }
        versions.insert(brokers.inside(node), PRODUCE_NEW);
        load.go_on();
        println!("upgrade: leaders {:?}, Produce {:?}", load.leaders(), versions.values());
        assert_eq!(load.leaders(), NODES);
        assert_eq!(spoken(&load), versions);
    }
    let kafka = brokers.cluster.bootstrap.clone();
    let tool = "org.apache.kafka.tools.FeatureCommand";
    let upgrade =
        ["tool", tool, "--bootstrap-server", &kafka, "upgrade", "--release-version", "4.1"];
    brokers.run(NEW, &upgrade);
    load.go_on();
    let elections = NODES.map(|node| load.lead(node as usize - 1, &replicas(node % 3 + 1)));
    load.go_on();

    let log = load.finish(0);
    let (n_elections, n_named) = (elections.iter().sum::<i32>(), n_named_by_former(&log));
    println!("upgrade: {n_elections} elections, {n_named} learnt from the former leader");
    println!("upgrade: connected to {:?}", connections(&log));
    for versions in connections(&log).values() {
        assert!(versions.is_sorted(), "{versions:?}");
        assert_eq!(versions.first().zip(versions.last()), Some((&PRODUCE_OLD, &PRODUCE_NEW)));
    }
}

/// All three nodes, this one first.
fn replicas(leader: i32) -> [i32; 3] {
    [leader, leader % 3 + 1, (leader + 1) % 3 + 1]
}

/// A former leader says in its refusal who leads now (KIP-951), whether it still has a copy or not.
/// The new one may not know it yet, and refuse what it has a copy of.
///
/// Torture: 67.
#[test]
fn a_leader_that_moves_is_learnt_from_the_answer_of_the_former_one() {
    const N_STORM: i32 = 20;
    let brokers = Brokers::up(NEW, 3);
    let load = Load::start(&brokers, &NODES.map(|node| brokers.inside(node)));
    let (n_before, mut n_moves) = (n_named_by_former(&load.log()), 0);
    // Where `has_copy` is not, the former leader loses its copy.
    for has_copy in [true, false] {
        for partition in 0..N_PARTITIONS as usize {
            let replicas = replicas(load.leaders()[partition] % 3 + 1);
            load.lead_and_tell(partition, if has_copy { &replicas } else { &replicas[..2] });
            n_moves += 1;
        }
    }
    let n_told = n_named_by_former(&load.log()) - n_before;
    println!("moves: {n_moves}, {n_told} learnt from the former leader");
    assert_eq!(n_told, n_moves);
    let began = Instant::now();
    let storm = |partition: i32| {
        for n in 0..N_STORM {
            let replicas = replicas((partition + n) % 3 + 1);
            brokers.cluster.reassign(&load.topic, partition, &replicas);
        }
    };
    thread::scope(|scope| {
        (0..N_PARTITIONS).for_each(|partition| drop(scope.spawn(move || storm(partition))));
    });
    println!("moves: {} more within {:?}", N_STORM * N_PARTITIONS, began.elapsed());
    let log = load.finish(0);
    println!("moves: {} learnt from the former leader in all", n_named_by_former(&log));
}
