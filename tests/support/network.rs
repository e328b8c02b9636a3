//! A network of a test's own: a namespace joined by one cable to the machine, and what goes wrong
//! between the two. Needs root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::{run, wait_for};

/// The machine's end of the cable.
/// Source: RFC 2544, which keeps 198.18.0.0/15 for tests.
pub const ADDRESS: &str = "198.18.57.1";
const ADDRESS_INSIDE: &str = "198.18.57.2";
const NAME: &str = "shipper-faults";
const CABLE: &str = "shfaults0";
const CABLE_INSIDE: &str = "shfaults1";

/// A network namespace. It outlives its variable: [`Network::REMOVE`] takes it away.
pub struct Network;

impl Network {
    /// A shell command that ends what runs inside and leaves nothing of it.
    pub const REMOVE: &str = "ip netns pids shipper-faults | xargs -r kill -9; \
                              ip netns delete shipper-faults; ip link delete shfaults0; \
                              rm -rf /etc/netns/shipper-faults";

    /// Makes it, in place of what an earlier one has left.
    pub fn new() -> Network {
        let _ = run(Command::new("sh").args(["-c", Network::REMOVE]));
        fs::create_dir_all(etc()).expect("made: tests run as root");
        // `ip netns exec` puts them over those in /etc. No name server listens there.
        fs::write(etc().join("hosts"), "127.0.0.1 localhost\n").expect("written");
        let name_server = format!("nameserver {ADDRESS}\noptions timeout:1 attempts:1\n");
        fs::write(etc().join("resolv.conf"), name_server).expect("written");
        for words in [
            format!("netns add {NAME}"),
            format!("link add {CABLE} type veth peer name {CABLE_INSIDE} netns {NAME}"),
            format!("addr add {ADDRESS}/30 dev {CABLE}"),
            format!("link set {CABLE} up"),
            format!("-n {NAME} addr add {ADDRESS_INSIDE}/30 dev {CABLE_INSIDE}"),
            format!("-n {NAME} link set {CABLE_INSIDE} up"),
            format!("-n {NAME} link set lo up"),
        ] {
            must(Command::new("ip").args(words.split(' ')));
        }
        Network
    }

    /// A command that runs inside; it has the process id that the program will have.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", NAME]).arg(program.as_ref());
        command
    }

    /// Says where names lead, inside, besides `localhost`: lines of `hosts`.
    pub fn set_hosts(&self, lines: &str) {
        // In place: the namespace sees this inode.
        fs::write(etc().join("hosts"), format!("127.0.0.1 localhost\n{lines}")).expect("written");
    }

    /// Breaks every TCP connection there is; returns how many.
    pub fn reset_all(&self) -> usize {
        let killed = must(self.command("ss").args(["-K", "-H", "-t", "dst", ADDRESS]));
        killed.lines().count()
    }

    /// Has what leaves the namespace leave at this rate, which `tc-tbf(8)` explains.
    pub fn slow(&self, rate: &str) -> SlowLink<'_> {
        let words = format!("qdisc add dev {CABLE_INSIDE} root tbf {rate}");
        must(self.command("tc").args(words.split(' ')));
        SlowLink(self)
    }

    fn iptables(&self, words: &str) -> String {
        must(self.command("iptables").arg("-w").args(words.split(' ')))
    }
}

/// A rule of the packet filter inside, as long as its variable lives.
pub struct Rule<'a> {
    network: &'a Network,
    chain: &'static str,
    words: String,
    name: String,
}

impl<'a> Rule<'a> {
    /// `words` as of iptables: what it matches, and what is done with it.
    pub fn new(network: &'a Network, chain: &'static str, words: &str) -> Rule<'a> {
        static N_MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("rule-{}", N_MADE.fetch_add(1, Ordering::Relaxed));
        let words = format!("{chain} -m comment --comment {name} {words}");
        network.iptables(&format!("-A {words}"));
        Rule { network, chain, words, name }
    }

    /// Drops packets between the namespace and a port of the machine, each with this probability.
    pub fn drop_both_ways(network: &'a Network, port: u32, probability: f64) -> [Rule<'a>; 2] {
        let chance = match probability {
            1.0 => String::new(),
            chance => format!("-m statistic --mode random --probability {chance} "),
        };
        [("OUTPUT", "dport"), ("INPUT", "sport")].map(|(chain, end)| {
            Rule::new(network, chain, &format!("-p tcp --{end} {port} {chance}-j DROP"))
        })
    }

    /// How many packets it was applied to.
    pub fn n_packets(&self) -> u64 {
        let list = self.network.iptables(&format!("-v -S {}", self.chain));
        let is_it = |line: &&str| line.split(' ').any(|word| word.trim_matches('"') == self.name);
        let line = list.lines().find(is_it).expect("it is there");
        let (_, counters) = line.split_once(" -c ").expect("counted");
        counters.split(' ').next().expect("a word").parse().expect("a number")
    }
}

impl Drop for Rule<'_> {
    fn drop(&mut self) {
        self.network.iptables(&format!("-D {}", self.words));
    }
}

/// A link that is slow as long as its variable lives.
pub struct SlowLink<'a>(&'a Network);

impl SlowLink<'_> {
    fn show(&self) -> String {
        must(self.0.command("tc").args(["-s", "qdisc", "show", "dev", CABLE_INSIDE]))
    }

    /// How many packets had to wait.
    pub fn n_delayed(&self) -> u64 {
        let shown = self.show();
        let (_, rest) = shown.split_once("overlimits ").expect("counted");
        rest.split(' ').next().expect("a word").parse().expect("a number")
    }
}

impl Drop for SlowLink<'_> {
    fn drop(&mut self) {
        // What waits in it leaves first: that it is lost is another fault.
        let words =
            format!("qdisc change dev {CABLE_INSIDE} root tbf rate 10gbit burst 10mb latency 3s");
        must(self.0.command("tc").args(words.split(' ')));
        let is_empty = || self.show().contains(" backlog 0b ").then_some(());
        wait_for(Duration::from_secs(10), "an empty queue", is_empty, || self.show());
        must(self.0.command("tc").args(["qdisc", "delete", "dev", CABLE_INSIDE, "root"]));
    }
}

fn etc() -> PathBuf {
    Path::new("/etc/netns").join(NAME)
}

fn must(command: &mut Command) -> String {
    let output = run(command).expect("it starts");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}
