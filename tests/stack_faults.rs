//! `shipper tail` under load while something goes wrong between it and three brokers: nothing is
//! lost, repeated or out of order, it goes on within seconds, and it says what is wrong.
//!
//! Built with `--features stack`; see the head of `tests/run`. Needs root, for a network of its
//! own. The brokers are started once, by the first test, and are gone a moment after the last.

mod common;
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::client::{Cluster, PartitionState};
use support::network::{self, Network, Rule};
use support::stack::{
    OwnServer, PATIENCE, Writer, assert_same, env, folder_of_each_partition, seq_of, unique,
    write_config,
};
use support::{Shipper, TopicReader, counter, shipper_binary, start, wait_for};

const KAFKA: &str = "kafka-faults";
const NODES: [u32; 3] = [1, 2, 3];
/// Each with a file of its own.
const N_PARTITIONS: usize = 6;
const PER_SECOND: u64 = 200;
const ROTATE_AFTER: usize = 500;
/// How long after the end of a fault all that was written during it may be on its way, from the
/// moment on at which the brokers take records again.
const RECOVERY: Duration = Duration::from_secs(5);
/// What a fault may add to the resident memory: all batches that may be under way, full.
const MEMORY_ADDED: u64 = 16 << 20;

/// The brokers of all tests of this program, and the network from which they are reached.
struct Brokers {
    server: OwnServer,
    cluster: Cluster,
    network: Network,
    port: u32,
    /// Takes brokers and network away when this process ends, however it does, and with it the
    /// pipe to it.
    _keeper: Child,
}

/// Starts them, the first time; one test has them at a time.
fn brokers() -> MutexGuard<'static, Option<Brokers>> {
    static BROKERS: Mutex<Option<Brokers>> = Mutex::new(None);
    let mut brokers = BROKERS.lock().unwrap_or_else(PoisonError::into_inner);
    brokers.get_or_insert_with(Brokers::up).heal();
    brokers
}

impl Brokers {
    fn up() -> Brokers {
        // It waits for that of an earlier process to be done.
        let wipe = format!(
            "echo ready; exec >/dev/null; read -r _; KAFKA_NAME={KAFKA} {}/kafka.sh wipe; {}",
            env("SHIPPER_STACK_SCRIPTS"),
            Network::REMOVE
        );
        let lock = Path::new(&env("SHIPPER_STACK_DIR")).join("faults.lock");
        let mut keeper = Command::new("setsid");
        keeper.arg("flock").arg(lock).args(["sh", "-c", &wipe]);
        keeper.env("STACK_DIR", env("SHIPPER_STACK_DIR"));
        keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut keeper = start(&mut keeper).expect("it starts");
        let mut ready = [0; 6];
        keeper.stdout.take().expect("piped").read_exact(&mut ready).expect("it runs");

        let network = Network::new();
        // Other tests use the ports before, and may begin while these are being ended.
        let port = env("SHIPPER_STACK_PORT").parse::<u32>().expect("a port") + 30;
        let settings = [
            ("KAFKA_VERSION", "4.1.1"),
            ("KAFKA_NODES", "3"),
            ("KAFKA_HEAP", "300m"),
            ("KAFKA_PORT", &port.to_string()),
            ("KAFKA_CONTROLLER_PORT", &(port + 3).to_string()),
            ("KAFKA_OUTSIDE", network::ADDRESS),
        ];
        let server = OwnServer::up("kafka.sh", ("KAFKA_NAME", KAFKA), &settings);
        let addresses = NODES.map(|node| format!("127.0.0.1:{}", port + node - 1));
        let cluster = Cluster::new(&addresses.join(","));
        Brokers { server, cluster, network, port, _keeper: keeper }
    }

    fn run(&self, command: &str, node: u32) {
        // The log of the shipper tells what it made of that, and when.
        println!("{:.0} kafka.sh {command} {node}", jiff::Timestamp::now());
        self.server.run(&[command, &node.to_string()]);
    }

    /// Undoes what a test has left that failed.
    fn heal(&self) {
        for node in NODES {
            match self.pid(node).and_then(state) {
                None => self.run("start", node),
                Some('T') => self.run("resume", node),
                Some(_) => {}
            }
        }
    }

    fn pid(&self, node: u32) -> Option<u32> {
        let path = Path::new(&env("SHIPPER_STACK_DIR")).join(KAFKA).join(format!("node{node}/pid"));
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    /// Where the shipper finds a node.
    fn port(&self, node: u32) -> u32 {
        self.port + 19 + node
    }

    /// The same under the node's name.
    fn named_port(&self, node: u32) -> u32 {
        self.port + 22 + node
    }

    /// How the shipper knows a node.
    fn address(&self, node: u32) -> String {
        format!("{}:{}", network::ADDRESS, self.port(node))
    }

    /// As what the log calls it.
    fn subject(&self, node: u32) -> String {
        format!("broker {}: ", self.address(node))
    }

    fn seeds(&self) -> String {
        format!("bootstrap_servers = {:?}", NODES.map(|node| self.address(node)))
    }

    fn command(&self, config: &Path) -> Command {
        let mut command = self.network.command(shipper_binary());
        command.arg("tail").arg("-c").arg(config);
        command
    }
}

/// The letter of a process's state; `None` if there is no such process.
fn state(pid: u32) -> Option<char> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("State:"))?;
    line.trim().chars().next()
}

/// A tail of as many files as its topic has partitions, each to another, while they are written.
struct Load<'a> {
    brokers: &'a Brokers,
    topic: String,
    config: PathBuf,
    tail: Shipper,
    /// Folder of the file that goes to each partition, and who writes it.
    folders: Vec<PathBuf>,
    writers: Vec<Writer>,
    peak_before: u64,
    recovered_in: Vec<Duration>,
    _folder: tempfile::TempDir,
}

/// What has come of it.
struct Outcome {
    log: String,
    counters: String,
}

impl<'a> Load<'a> {
    /// Begins, and waits until all goes well.
    fn start(brokers: &'a Brokers) -> Load<'a> {
        Load::start_with(brokers, &brokers.seeds())
    }

    fn start_with(brokers: &'a Brokers, kafka: &str) -> Load<'a> {
        let mut load = Load::prepare(brokers, kafka);
        load.warm_up();
        load
    }

    /// `kafka`: the table of the configuration.
    fn prepare(brokers: &'a Brokers, kafka: &str) -> Load<'a> {
        let topic = unique("faults");
        let folder = tempfile::tempdir().expect("a folder");
        brokers.cluster.make_topic(&topic, N_PARTITIONS as i32, &[]);
        let text = format!(
            "state_dir = {:?}\nhost = \"h1\"\n[kafka]\n{kafka}\n\
             [[input]]\npaths = [{:?}]\ntopic = \"{topic}\"\n\
             [tail]\nrotate_grace = \"1s\"\n",
            folder.path().join("state"),
            folder.path().join("*/server.log"),
        );
        let config = write_config(folder.path(), "shipper.toml", &text);
        let folders = folder_of_each_partition(folder.path(), N_PARTITIONS as i32);
        let tail = Shipper::spawn(&mut brokers.command(&config));
        let writers = folders.iter().map(|folder| write(folder)).collect();
        let recovered_in = Vec::new();
        let peak_before = 0;
        Load {
            brokers,
            topic,
            config,
            tail,
            folders,
            writers,
            peak_before,
            recovered_in,
            _folder: folder,
        }
    }

    fn warm_up(&mut self) {
        // Two rotations of each file.
        for writer in &self.writers {
            writer.wait_for(2 * ROTATE_AFTER + 100);
        }
        self.catch_up(&self.all(), PATIENCE);
        self.peak_before = self.tail.peak_rss();
    }

    fn all(&self) -> Vec<usize> {
        (0..N_PARTITIONS).collect()
    }

    /// Waits until each file has got what is written to it in this time.
    fn write_for(&self, time: Duration) {
        let n_events = (PER_SECOND as f64 * time.as_secs_f64()) as usize;
        for (writer, n_written) in self.writers.iter().zip(self.n_written()) {
            writer.wait_for(n_written + n_events);
        }
    }

    fn n_written(&self) -> Vec<usize> {
        self.writers.iter().map(Writer::n_written).collect()
    }

    fn partitions(&self) -> Option<Vec<PartitionState>> {
        self.brokers.cluster.partitions(&self.topic, N_PARTITIONS as i32)
    }

    /// What each broker is sent: measured for a while, as it depends on how busy the machine is.
    fn bytes_per_second(&self) -> f64 {
        let data = Path::new(&env("SHIPPER_STACK_DIR")).join(KAFKA).join("node1/data");
        let pattern = format!("{}/{}-*/*.log", data.display(), self.topic);
        let len = |path: PathBuf| path.metadata().expect("there").len();
        let n_bytes = || glob::glob(&pattern).expect("a pattern").flatten().map(len).sum::<u64>();
        let (began, before) = (Instant::now(), n_bytes());
        self.write_for(seconds(5));
        (n_bytes() - before) as f64 / began.elapsed().as_secs_f64() / NODES.len() as f64
    }

    fn leader(&self, partition: usize) -> u32 {
        self.partitions().expect("all is well")[partition].leader as u32
    }

    /// Waits until what has been written by now to the files of these partitions has arrived.
    fn catch_up(&self, partitions: &[usize], limit: Duration) -> Duration {
        let (began, n_written) = (Instant::now(), self.n_written());
        let mut n_arrived = Vec::new();
        let has_arrived = || {
            n_arrived = self.partitions()?.iter().map(|partition| partition.end).collect();
            partitions.iter().all(|p| n_arrived[*p] >= n_written[*p] as u64).then_some(())
        };
        let what = format!("arrival in partitions {partitions:?} of {n_written:?}");
        wait_for(limit, &what, has_arrived, || self.tail.log());
        began.elapsed()
    }

    /// Waits until there are leaders and replicas enough, none of them `gone`, and from then on
    /// until all that has been written by then has arrived.
    fn recover(&mut self, gone: &[u32]) {
        let is_whole = |partition: &PartitionState| {
            partition.n_in_sync >= 2 && !gone.contains(&(partition.leader as u32))
        };
        let are_whole = || self.partitions()?.iter().all(is_whole).then_some(());
        wait_for(PATIENCE, "leaders", are_whole, || format!("{:?}", self.partitions()));
        let time = self.catch_up(&self.all(), PATIENCE);
        self.recovered_in.push(time);
    }

    /// Waits until every replica is in sync.
    fn wait_for_replicas(&self) {
        let is_whole = |partition: &PartitionState| partition.n_in_sync == NODES.len();
        let are_whole = || self.partitions()?.iter().all(is_whole).then_some(());
        wait_for(PATIENCE, "replicas", are_whole, || format!("{:?}", self.partitions()));
    }

    /// Ends the writers; returns how many events each has written.
    fn stop_writing(&mut self) -> Vec<usize> {
        self.writers.drain(..).map(|writer| writer.join(true)).collect()
    }

    /// Reads the topic: the numbers of each file's events, by partition.
    fn read(&self, n_partitions: usize) -> BTreeMap<usize, Vec<(usize, Vec<usize>)>> {
        let kafka = &self.brokers.cluster.bootstrap;
        let mut reader = TopicReader::new(kafka, &self.topic, n_partitions as i32);
        reader.read_to_end(PATIENCE);
        let mut files: BTreeMap<usize, BTreeMap<usize, Vec<usize>>> = BTreeMap::new();
        for record in &reader.records {
            let path = PathBuf::from(record.header("path"));
            let file = self.folders.iter().position(|folder| path.starts_with(folder));
            let partitions = files.entry(file.expect("one of ours")).or_default();
            partitions.entry(record.partition as usize).or_default().push(seq_of(record));
        }
        files.into_iter().map(|(file, read)| (file, read.into_iter().collect())).collect()
    }

    /// Ends all; asserts that each event stands in the topic, once and in order, that memory stayed
    /// flat, and that it went on in time.
    fn finish(mut self, what: &str) -> Outcome {
        let n_written = self.stop_writing();
        self.wait_for_end(&n_written);
        let peak = self.tail.peak_rss();
        let outcome = self.stop();
        for (file, read) in self.read(N_PARTITIONS) {
            let expected: Vec<usize> = (0..n_written[file]).collect();
            let [(partition, seqs)] = &read[..] else { panic!("{what}: of one file: {read:?}") };
            assert_eq!(*partition, file, "{what}");
            assert_same(seqs, &expected, &format!("{what}: events of a file\n{}", outcome.log));
        }
        let n_written: usize = n_written.iter().sum();
        assert_eq!(counter(&outcome.counters, "records_acked"), n_written as u64, "{what}");
        self.report(what, n_written, peak, &outcome);
        outcome
    }

    fn wait_for_end(&self, n_written: &[usize]) {
        let has_arrived = || {
            let ends = self.partitions()?.into_iter().map(|partition| partition.end as usize);
            ends.eq(n_written.iter().copied()).then_some(())
        };
        let found = || format!("{:?}\n{}", self.partitions(), self.tail.log());
        wait_for(PATIENCE, &format!("{n_written:?}"), has_arrived, found);
    }

    fn stop(&mut self) -> Outcome {
        self.tail.signal(rustix::process::Signal::TERM);
        let status = self.tail.wait(PATIENCE);
        let log = self.tail.log();
        assert!(status.success(), "{log}");
        let counters = log.lines().rev().find(|line| line.contains("tail stopped"));
        let counters = counters.expect("the last line").to_owned();
        assert_eq!(counter(&counters, "records_maybe_repeated"), 0, "{log}");
        Outcome { log, counters }
    }

    fn report(&self, what: &str, n_written: usize, peak: u64, outcome: &Outcome) {
        let (before, after) = (self.peak_before >> 20, peak >> 20);
        println!(
            "{what}: {n_written} events once and in order; went on within {:?}; \
             peak of memory {before} MiB before, {after} MiB behind it",
            self.recovered_in
        );
        outcome.words().iter().for_each(|line| println!("    {line}"));
        assert!(peak <= self.peak_before + MEMORY_ADDED, "{what}: {before} MiB, then {after} MiB");
        let slowest = self.recovered_in.iter().max().expect("measured");
        assert!(*slowest <= RECOVERY, "{what}: went on after {slowest:?}: {}", outcome.log);
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        // Before their folders go.
        self.stop_writing();
    }
}

impl Outcome {
    /// What it said beside the usual.
    fn words(&self) -> Vec<&str> {
        let lines = self.log.lines().filter(|l| l.contains(" WARN ") || l.contains("well again"));
        lines.collect()
    }

    /// Asserts that a warning about this holds one of these words.
    fn assert_says(&self, subject: &str, words: &[&str]) {
        let mut lines = self.log.lines().filter(|l| l.contains(" WARN ") && l.contains(subject));
        let says = lines.any(|line| words.iter().any(|words| line.contains(words)));
        assert!(says, "no {words:?} of {subject} in {}", self.log);
    }
}

fn write(folder: &Path) -> Writer {
    Writer::start(folder, usize::MAX, ROTATE_AFTER, PER_SECOND)
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Torture: 66, 67.
#[test]
fn a_rolling_restart_of_all_brokers() {
    let brokers = &brokers();
    let brokers = brokers.as_ref().expect("up");
    let mut load = Load::start(brokers);
    for node in NODES {
        let pid = brokers.pid(node);
        brokers.run("stop", node);
        load.recover(&[node]);
        brokers.run("start", node);
        load.wait_for_replicas();
        assert_ne!(brokers.pid(node), pid);
    }
    load.recover(&[]);
    load.finish("rolling restart");
}

/// Torture: 66, 67.
#[test]
fn kill_9_of_a_leader() {
    let brokers = &brokers();
    let brokers = brokers.as_ref().expect("up");
    let mut load = Load::start(brokers);
    let node = load.leader(0);
    let pid = brokers.pid(node);
    brokers.run("kill", node);
    load.recover(&[node]);
    brokers.run("start", node);
    load.wait_for_replicas();
    assert_ne!(brokers.pid(node), pid);
    load.recover(&[]);
    load.finish("kill -9").assert_says(&brokers.subject(node), &["cannot connect", "closed"]);
}

/// Torture: 67, 76, 77.
#[test]
fn a_leader_that_is_stopped_for_a_minute() {
    let brokers = &brokers();
    let brokers = brokers.as_ref().expect("up");
    let mut load = Load::start(brokers);
    let node = load.leader(0);
    let began = Instant::now();
    brokers.run("pause", node);
    let is_stopped = || (brokers.pid(node).and_then(state)? == 'T').then_some(());
    wait_for(PATIENCE, "stop", is_stopped, String::new);
    load.recover(&[node]);
    let elsewhere = load.recovered_in[0];
    println!("stopped leader: all had arrived {elsewhere:?} after others led");
    // The fault's own length.
    thread::sleep(seconds(60).saturating_sub(began.elapsed()));
    brokers.run("resume", node);
    load.recover(&[]);
    load.wait_for_replicas();
    load.finish("stopped leader")
        .assert_says(&brokers.subject(node), &["others lead its partitions"]);
}

/// Torture: 66, 67, 68.
#[test]
fn two_brokers_of_three_down_for_a_minute() {
    let brokers = &brokers();
    let brokers = brokers.as_ref().expect("up");
    let mut load = Load::start(brokers);
    let pids = NODES.map(|node| brokers.pid(node));
    brokers.run("kill", 2);
    brokers.run("kill", 3);
    let (began, n_arrived) = (Instant::now(), load.n_written());
    // The fault's own length.
    thread::sleep(seconds(60));
    assert!(load.partitions().is_none(), "{n_arrived:?} {:?}", load.partitions());
    thread::scope(|scope| {
        scope.spawn(|| brokers.run("start", 2));
        scope.spawn(|| brokers.run("start", 3));
    });
    println!("two down: up again {:?} later", began.elapsed());
    load.recover(&[]);
    load.wait_for_replicas();
    assert!(NODES.iter().zip(pids).filter(|(node, pid)| brokers.pid(**node) != *pid).count() == 2);
    let outcome = load.finish("two down");
    outcome.assert_says(&brokers.subject(2), &["cannot connect: Connection refused"]);
    outcome.assert_says(&brokers.subject(3), &["cannot connect: Connection refused"]);
}

/// Torture: 70.
#[test]
fn a_quiet_topic_that_is_deleted_and_made_anew() {
    let brokers = &brokers();
    let brokers = brokers.as_ref().expect("up");
    let mut load = Load::start(brokers);
    let n_written = load.stop_writing();
    load.wait_for_end(&n_written);
    for (file, read) in load.read(N_PARTITIONS) {
        assert_same(&read[0].1, &(0..n_written[file]).collect::<Vec<_>>(), "before: events");
    }
    let n_before: usize = n_written.iter().sum();
    brokers.cluster.delete_topic(&load.topic);
    for folder in &load.folders {
        fs::rename(folder.join("server.log"), folder.join("server.log.last")).expect("renamed");
        load.writers.push(write(folder));
    }
    let log = load.tail.wait_for_log("does not exist", PATIENCE);
    println!("{log}");
    brokers.cluster.make_topic(&load.topic, N_PARTITIONS as i32, &[]);
    load.recover(&[]);

    let n_written = load.stop_writing();
    load.wait_for_end(&n_written);
    let peak = load.tail.peak_rss();
    let outcome = load.stop();
    for (file, read) in load.read(N_PARTITIONS) {
        assert_same(&read[0].1, &(0..n_written[file]).collect::<Vec<_>>(), "behind: events");
    }
    let n_written = n_before + n_written.iter().sum::<usize>();
    assert_eq!(counter(&outcome.counters, "records_acked"), n_written as u64, "{}", outcome.log);
    load.report("quiet topic made anew", n_written, peak, &outcome);
}

/// What the old topic has is acknowledged or not; what is not must be in the new one.
///
/// Torture: 70.
#[test]
fn a_topic_that_is_deleted_and_made_anew_with_records_under_way() {
    let brokers = &brokers();
    let brokers = brokers.as_ref().expect("up");
    let mut load = Load::start(brokers);
    // No answer arrives any more, so nothing more than this is acknowledged.
    let silence = NODES.map(|node| {
        let words = format!("-p tcp --sport {} -j DROP", brokers.port(node));
        Rule::new(&brokers.network, "INPUT", &words)
    });
    let mut ends = Vec::new();
    let is_still = || {
        load.write_for(seconds(1));
        let now: Vec<u64> = load.partitions()?.iter().map(|partition| partition.end).collect();
        let is_still = now == ends;
        ends = now;
        is_still.then_some(())
    };
    wait_for(PATIENCE, "standstill", is_still, || load.tail.log());
    assert!(silence.iter().any(|rule| rule.n_packets() > 0), "nothing was dropped");
    let before = load.read(N_PARTITIONS);
    brokers.cluster.delete_topic(&load.topic);
    drop(silence);
    println!("{}", load.tail.wait_for_log("does not exist", PATIENCE));
    brokers.cluster.make_topic(&load.topic, N_PARTITIONS as i32, &[]);
    // The offsets begin anew; the numbers of the events do not.
    let is_written = || {
        let states = load.partitions()?;
        states.iter().all(|partition| partition.end > 0).then_some(())
    };
    let began = Instant::now();
    wait_for(PATIENCE, "records", is_written, || load.tail.log());
    load.recovered_in.push(began.elapsed());

    let n_written = load.stop_writing();
    let are_last = || {
        let read = load.read(N_PARTITIONS);
        let is_last = |file: usize| read.get(&file)?[0].1.last().map(|seq| seq + 1);
        (0..N_PARTITIONS).all(|file| is_last(file) == Some(n_written[file])).then_some(())
    };
    wait_for(PATIENCE, "the last events", are_last, || load.tail.log());
    let peak = load.tail.peak_rss();
    let outcome = load.stop();
    let mut n_twice = 0;
    for (file, read) in load.read(N_PARTITIONS) {
        let (old, new) = (&before[&file][0].1, &read[0].1);
        assert_same(old, &(0..old.len()).collect::<Vec<_>>(), "events of the old topic");
        assert!(new[0] <= old.len(), "{} to {} lost: {}", old.len(), new[0], outcome.log);
        assert_same(new, &(new[0]..n_written[file]).collect::<Vec<_>>(), "events of the new topic");
        n_twice += old.len() - new[0];
    }
    // An answer about the old topic is one, too.
    assert!(!outcome.log.contains("cannot decode"), "{}", outcome.log);
    println!("topic made anew: {n_twice} events that were never acknowledged stood in the old one");
    load.report("topic made anew", n_written.iter().sum(), peak, &outcome);
}

/// Each file stays in its partition for as long as the shipper runs, and may move when it is
/// started again.
///
/// Torture: 71.
#[test]
fn partitions_that_are_added() {
    let brokers = &brokers();
    let brokers = brokers.as_ref().expect("up");
    let mut load = Load::start(brokers);
    brokers.cluster.add_partitions(&load.topic, 2 * N_PARTITIONS as i32);
    load.write_for(seconds(2));
    load.recover(&[]);
    let is_used = |read: &BTreeMap<usize, Vec<(usize, Vec<usize>)>>| {
        read.iter().all(|(file, read)| read.len() == 1 && read[0].0 == *file)
    };
    assert!(is_used(&load.read(2 * N_PARTITIONS)), "pinned while it runs");
    let peak = load.tail.peak_rss();

    load.tail.signal(rustix::process::Signal::KILL);
    load.tail.wait(PATIENCE);
    let log = load.tail.log();
    load.tail = Shipper::spawn(&mut brokers.command(&load.config));
    load.write_for(seconds(2));
    let n_written = load.stop_writing();
    let n_all: usize = n_written.iter().sum();
    let has_arrived = || {
        let states = brokers.cluster.partitions(&load.topic, 2 * N_PARTITIONS as i32)?;
        let n_arrived: u64 = states.iter().map(|partition| partition.end).sum();
        (n_arrived >= n_all as u64).then_some(())
    };
    wait_for(PATIENCE, "all", has_arrived, || load.tail.log());
    let mut outcome = load.stop();
    outcome.log = log + "\n" + &outcome.log;
    let mut n_moved = 0;
    for (file, read) in load.read(2 * N_PARTITIONS) {
        // The old partition first: the number of a new one is higher.
        let seqs: Vec<usize> = read.iter().flat_map(|(_, seqs)| seqs).copied().collect();
        assert_same(&seqs, &(0..n_written[file]).collect::<Vec<_>>(), "events of a file");
        n_moved += usize::from(read.len() > 1);
    }
    println!("partitions added: {n_moved} of {N_PARTITIONS} files moved at the restart");
    load.report("partitions added", n_all, peak, &outcome);
}

/// Torture: 80.
#[test]
fn connections_that_are_reset_and_refused() {
    let brokers = &brokers();
    let brokers = brokers.as_ref().expect("up");
    let mut load = Load::start(brokers);
    for _ in 0..10 {
        // Those that were made anew meanwhile.
        let reset = || (brokers.network.reset_all() > 0).then_some(());
        wait_for(PATIENCE, "a connection to reset", reset, || load.tail.log());
    }
    load.recover(&[]);
    let words = format!("-p tcp -d {} -j REJECT --reject-with tcp-reset", network::ADDRESS);
    let refusal = Rule::new(&brokers.network, "OUTPUT", &words);
    let is_refused = || (refusal.n_packets() > 30).then_some(());
    wait_for(PATIENCE, "attempts that are refused", is_refused, || load.tail.log());
    drop(refusal);
    load.recover(&[]);
    load.finish("reset").assert_says("broker ", &["cannot connect: Connection refused"]);
}

/// Torture: 77.
#[test]
fn connections_that_are_half_open() {
    let brokers = &brokers();
    let brokers = brokers.as_ref().expect("up");
    let kafka = format!("{}\nrequest_timeout = \"5s\"", brokers.seeds());
    let mut load = Load::start_with(brokers, &kafka);
    let node = load.leader(0);
    let silence = Rule::drop_both_ways(&brokers.network, brokers.port(node), 1.0);
    load.tail.wait_for_log(&format!("{}no answer for 5s", brokers.subject(node)), PATIENCE);
    // Connecting fails as well.
    load.tail.wait_for_log(&format!("{}cannot connect", brokers.subject(node)), PATIENCE);
    assert!(silence[0].n_packets() > 0, "nothing was dropped");
    drop(silence);
    load.recover(&[]);
    load.finish("half-open");
}

/// Torture: 78.
#[test]
fn answers_that_are_lost_and_requests_that_are_not() {
    let brokers = &brokers();
    let brokers = brokers.as_ref().expect("up");
    let kafka = format!("{}\nrequest_timeout = \"5s\"", brokers.seeds());
    let mut load = Load::start_with(brokers, &kafka);
    let node = load.leader(0);
    let words = format!("-p tcp --sport {} -j DROP", brokers.port(node));
    let silence = Rule::new(&brokers.network, "INPUT", &words);
    load.tail.wait_for_log(&format!("{}no answer for 5s", brokers.subject(node)), PATIENCE);
    assert!(silence.n_packets() > 0, "nothing was dropped");
    drop(silence);
    load.recover(&[]);
    load.finish("one way");
}

/// Torture: 79.
#[test]
fn packets_that_are_lost() {
    let brokers = &brokers();
    let brokers = brokers.as_ref().expect("up");
    let mut load = Load::start(brokers);
    for percent in [1, 10, 30] {
        let lossy = |node: &u32| {
            Rule::drop_both_ways(&brokers.network, brokers.port(*node), f64::from(percent) / 100.0)
        };
        let lossy: Vec<_> = NODES.iter().map(lossy).collect();
        load.write_for(seconds(5));
        let n_lost: u64 = lossy.iter().flatten().map(Rule::n_packets).sum();
        assert!(n_lost > 0, "{percent} %");
        drop(lossy);
        load.recover(&[]);
        println!("lost packets: {n_lost} at {percent} %");
    }
    load.finish("lost packets");
}

/// Torture: 76.
#[test]
fn a_link_that_is_slower_than_the_load() {
    let brokers = &brokers();
    let brokers = brokers.as_ref().expect("up");
    let mut load = Load::start(brokers);
    let slow = brokers.network.slow("rate 64kbit burst 4kb latency 3s");
    load.write_for(seconds(15));
    let states = load.partitions().expect("the brokers are well");
    let n_arrived: u64 = states.iter().map(|partition| partition.end).sum();
    let n_written: usize = load.n_written().iter().sum();
    println!("slow link: {n_arrived} of {n_written} after 15 s, {} delayed", slow.n_delayed());
    assert!(slow.n_delayed() > 0);
    assert!(n_written as u64 - n_arrived > 3 * PER_SECOND * N_PARTITIONS as u64, "not slow");
    drop(slow);
    // What the link has lost, TCP sends again after a time that it has learnt from the slow link; if
    // that is more than 10 s, the shipper makes the connection anew.
    let time = load.catch_up(&load.all(), seconds(10) + RECOVERY);
    println!("slow link: all had arrived {time:?} after its end");
    load.recover(&[]);
    let outcome = load.finish("slow link");
    assert!(!outcome.log.contains("no answer"), "{}", outcome.log);
}

/// Torture: 91.
#[test]
fn a_quota_below_the_load() {
    /// How long a broker has a client wait that has sent for so long what it may not.
    const WAIT_MAX: Duration = Duration::from_secs(15);
    let brokers = &brokers();
    let brokers = brokers.as_ref().expect("up");
    let client_id = unique("client");
    let kafka = format!("{}\nclient_id = {client_id:?}", brokers.seeds());
    let mut load = Load::start_with(brokers, &kafka);
    // The broker counts the ten seconds before, too, and makes wait for what was too much in them.
    brokers.cluster.set_quota(&client_id, Some((load.bytes_per_second() / 1.5).floor()));
    let is_throttled = || {
        let mut status = Command::new(shipper_binary());
        let told = support::run(status.args(["status", "--json", "-c"]).arg(&load.config)).ok()?;
        String::from_utf8_lossy(&told.stdout).contains("\"state\": \"throttled\"").then_some(())
    };
    wait_for(PATIENCE, "a broker that throttles", is_throttled, || load.tail.log());
    // All files go on meanwhile, in larger batches, which take less.
    load.write_for(seconds(15));
    let n_arrived: u64 = load.partitions().expect("well").iter().map(|it| it.end).sum();
    println!("quota: {n_arrived} of {:?} arrived while it holds", load.n_written());
    brokers.cluster.set_quota(&client_id, None);
    // What the brokers asked for before holds.
    let began = Instant::now();
    load.catch_up(&load.all(), WAIT_MAX + RECOVERY);
    println!("quota: all had arrived {:?} after its end", began.elapsed());
    load.recover(&[]);
    let outcome = load.finish("quota");
    assert!(outcome.log.contains(": more is sent than a quota allows"), "{}", outcome.log);
    assert!(!outcome.log.contains("no answer"), "{}", outcome.log);
}

/// Torture: 69, 81.
#[test]
fn brokers_that_cannot_be_reached_but_for_the_seed() {
    let brokers = &brokers();
    let brokers = brokers.as_ref().expect("up");
    let rules = [2, 3].map(|node| Rule::drop_both_ways(&brokers.network, brokers.port(node), 1.0));
    let began = Instant::now();
    let seeds = format!("bootstrap_servers = [{:?}]", brokers.address(1));
    let mut load = Load::prepare(brokers, &seeds);
    for node in [2, 3] {
        let line = load.tail.wait_for_log(&brokers.subject(node), seconds(30));
        assert!(line.contains("cannot connect: "), "{line}");
    }
    println!("unreachable: named within {:?}", began.elapsed());
    load.keep_up_while(1, seconds(10));
    assert!(rules.iter().flatten().any(|rule| rule.n_packets() > 0));
    load.peak_before = load.tail.peak_rss();
    drop(rules);
    load.recover(&[]);
    load.finish("unreachable");
}

/// Torture: 81.
#[test]
fn a_broker_whose_name_leads_nowhere() {
    let brokers = &brokers();
    let brokers = brokers.as_ref().expect("up");
    let host = |node: u32| format!("{} node{node}.kafka.test\n", network::ADDRESS);
    brokers.network.set_hosts(&[host(1), host(3)].concat());
    // The query leaves, and nobody says that there is no name server.
    let silence = Rule::new(&brokers.network, "INPUT", "-p icmp -j DROP");
    let seeds = format!("bootstrap_servers = [\"node1.kafka.test:{}\"]", brokers.named_port(1));
    let mut load = Load::prepare(brokers, &seeds);
    load.keep_up_while(1, seconds(10));
    let subject = format!("broker node2.kafka.test:{}", brokers.named_port(2));
    println!("{}", load.tail.wait_for_log(&subject, PATIENCE));
    assert!(silence.n_packets() > 0);
    load.peak_before = load.tail.peak_rss();
    brokers.network.set_hosts(&[host(1), host(2), host(3)].concat());
    load.recover(&[]);
    load.finish("no name").assert_says(&subject, &["cannot resolve its name"]);
}

impl Load<'_> {
    /// Asserts that for so long the files of a leader are shipped as they are written.
    fn keep_up_while(&self, node: u32, time: Duration) {
        let is_its = |p: &usize| self.leader(*p) == node;
        let its: Vec<usize> = self.all().into_iter().filter(is_its).collect();
        assert!(!its.is_empty() && its.len() < N_PARTITIONS, "{its:?}");
        let began = Instant::now();
        while began.elapsed() < time {
            self.catch_up(&its, RECOVERY);
            self.write_for(Duration::from_millis(500));
        }
    }
}
