//! Where a run plays: a broker of its own, a topic, logs, state, and the shipper between them.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::ledger::Ledger;
use crate::oracle::Oracle;
use crate::support::stack::{OwnServer, Random, count_records, env, make_topic, unique};
use crate::support::{Shipper, counter, shipper_binary};
use crate::writer::{Log, Plan, Stream};

/// Longest wait for what was written to arrive, once nothing is faulted: a broker that was
/// killed takes some ten seconds to come back on a busy machine.
const CATCH_UP: Duration = Duration::from_secs(60);

/// Longest wait for a fresh event, once all before it has arrived.
const FRESH: Duration = Duration::from_secs(5);

/// Longest wait for a stop: `shutdown_timeout`, and some.
const STOP: Duration = Duration::from_secs(45);

/// A broker that belongs to this program alone.
pub struct Broker {
    server: OwnServer,
    pub address: String,
}

impl Broker {
    /// The first ten of the forty ports are other tests'.
    pub fn up() -> Broker {
        let port = env("SHIPPER_STACK_PORT").parse::<u16>().expect("a port") + 16;
        let settings = [("KAFKA_PORT", port.to_string())];
        let settings = settings.each_ref().map(|(key, value)| (*key, value.as_str()));
        let server = OwnServer::up("kafka.sh", ("KAFKA_NAME", "verify"), &settings);
        Broker { server, address: format!("127.0.0.1:{port}") }
    }

    /// `kill`, `start`, `pause` or `resume`.
    pub fn run(&self, command: &str) {
        self.server.run(&[command, "1"]);
    }

    pub fn pid(&self) -> u32 {
        let path = Path::new(&env("SHIPPER_STACK_DIR")).join("verify/node1/pid");
        let pid = fs::read_to_string(path).expect("a broker is up");
        pid.trim().parse().expect("a pid")
    }
}

/// What a run is made of.
pub struct Setting {
    pub plans: Vec<Plan>,
    /// More lines of the configuration, whole tables.
    pub config: &'static str,
    /// Names a planted bug.
    pub planted: Option<&'static str>,
    pub seed: u64,
}

/// Highest use of what must stay bounded.
#[derive(Debug, Default, Clone, Copy)]
pub struct Peak {
    pub rss_kib: u64,
    pub fds: usize,
}

pub struct World<'a> {
    pub broker: &'a Broker,
    pub folder: PathBuf,
    pub state: PathBuf,
    config: PathBuf,
    planted: Option<&'static str>,
    pub random: Random,
    pub ledger: Arc<Ledger>,
    pub oracle: Oracle,
    pub streams: Vec<Stream>,
    tail: Option<Shipper>,
    /// How often the host was started again, as the shipper sees it.
    n_boots: u64,
    topic: String,
    began: Instant,
    pub peak: Peak,
    /// Sum of `records_maybe_repeated` over all that could say it.
    pub maybe_repeated: u64,
    /// What is wrong beyond what the oracle sees.
    pub failures: Vec<String>,
}

impl<'a> World<'a> {
    /// Makes everything below `folder` but starts neither writers nor the shipper. The state
    /// directory and that of the logs may be there already: file systems of their own.
    pub fn new(broker: &'a Broker, folder: &Path, setting: &Setting) -> World<'a> {
        let mut random = Random::seeded(setting.seed);
        let run = random.number(1..1 << 32) as u32;
        let (state, logs) = (folder.join("state"), folder.join("logs"));
        for made in [&state, &logs] {
            fs::create_dir_all(made).expect("made");
        }
        let topic = unique(&format!("verify-{run:08x}"));
        make_topic(&broker.address, &topic);
        let ledger = Arc::new(Ledger::new(setting.plans.len()));
        let paths: Vec<PathBuf> =
            (0..setting.plans.len()).map(|n| logs.join(format!("server-{n}.log"))).collect();
        let config = folder.join("shipper.toml");
        fs::write(&config, config_text(broker, &state, &paths, &topic, setting)).expect("written");
        let stream = |(n, plan): (usize, &Plan)| {
            let log = Log::new(paths[n].clone(), *plan, n, run, &ledger);
            Stream::new(log)
        };
        let streams = setting.plans.iter().enumerate().map(stream).collect();
        let names = paths.iter().map(|path| path.display().to_string()).collect();
        let oracle = Oracle::start(&broker.address, &topic, run, names, &ledger, folder);
        World {
            broker,
            folder: folder.into(),
            state,
            config,
            planted: setting.planted,
            random,
            ledger,
            oracle,
            streams,
            tail: None,
            n_boots: 0,
            topic,
            began: Instant::now(),
            peak: Peak::default(),
            maybe_repeated: 0,
            failures: Vec::new(),
        }
    }

    /// A planted bug may hide what a fault would show otherwise.
    pub fn has_planted(&self) -> bool {
        self.planted.is_some()
    }

    pub fn start_writers(&mut self) {
        self.streams.iter_mut().for_each(Stream::start);
    }

    /// Notes what is done to whom, with its time, in `faults.log`.
    pub fn note(&self, what: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        append(&self.folder.join("faults.log"), &format!("{seconds:8.3} {what}\n"));
    }

    // ---- the shipper ----

    pub fn start_tail(&mut self) {
        let binary = match self.planted {
            None => shipper_binary(),
            Some(_) => env("SHIPPER_PLANTED_BIN").into(),
        };
        let mut command = match self.n_boots {
            0 => Command::new(binary),
            _ => {
                let mut command = Command::new("unshare");
                let as_booted =
                    "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
                command.args(["-m", "sh", "-c", as_booted]).arg(self.boot_id()).arg(binary);
                command
            }
        };
        if let Some(bug) = self.planted {
            command.env("SHIPPER_PLANTED", bug);
        }
        command.arg("tail").arg("-c").arg(&self.config);
        self.tail = Some(Shipper::spawn(&mut command));
    }

    /// Has the shipper see from its next start on that the host was started again.
    pub fn reboot(&mut self) {
        self.n_boots += 1;
        fs::write(self.boot_id(), format!("{:032x}\n", self.n_boots)).expect("written");
    }

    fn boot_id(&self) -> PathBuf {
        self.folder.join("boot_id")
    }

    pub fn tail(&self) -> &Shipper {
        self.tail.as_ref().expect("started")
    }

    /// `kill -9`; tells whether that is what ended it.
    pub fn kill_tail(&mut self) -> bool {
        use std::os::unix::process::ExitStatusExt as _;
        let tail = self.take_tail();
        self.note("kill -9 shipper");
        tail.kill().signal() == Some(9)
    }

    /// SIGTERM; tells whether it ended well, with counters that balance.
    pub fn stop_tail(&mut self, nothing_is_left: bool) {
        let tail = self.take_tail();
        self.note("stop shipper");
        let (status, log) = tail.stop(STOP);
        if !status.success() {
            let last = log.lines().last().unwrap_or_default();
            self.failures.push(format!("a stop ended with {status}: {last}"));
            return;
        }
        let Some(line) = log.lines().find(|line| line.contains("tail stopped:")) else {
            self.failures.push("a stop that says nothing of its counters".into());
            return;
        };
        append(&self.folder.join("tail.log"), &format!("{line}\n"));
        let count = |name: &str| counter(line, name);
        self.maybe_repeated += count("records_maybe_repeated");
        let n_settled = ["records_acked", "records_rejected", "records_found"].map(count);
        let events = (count("events_read"), n_settled.iter().sum::<u64>());
        let bytes = (count("bytes_read"), count("bytes_acked") + count("bytes_found"));
        // Amid writing, half an event may be held, and what a truncation took away is read and
        // never acknowledged.
        if events.0 != events.1 || (nothing_is_left && bytes.0 < bytes.1) {
            self.failures
                .push(format!("events {events:?}, bytes {bytes:?} do not balance: {line}"));
        }
    }

    fn take_tail(&mut self) -> Shipper {
        self.look_at_resources();
        let tail = self.tail.take().expect("started");
        let log = format!("---- pid {}\n{}\n", tail.pid(), tail.log());
        append(&self.folder.join("tail.log"), &log);
        tail
    }

    pub fn look_at_resources(&mut self) {
        let Some(tail) = &self.tail else { return };
        let proc = PathBuf::from(format!("/proc/{}", tail.pid()));
        let status = fs::read_to_string(proc.join("status")).unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let rss = rss.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        self.peak.rss_kib = self.peak.rss_kib.max(rss.unwrap_or(0));
        let fds = fs::read_dir(proc.join("fd")).map_or(0, Iterator::count);
        self.peak.fds = self.peak.fds.max(fds);
    }

    /// Tells whether it is gone though nobody has ended it.
    fn has_ended(&self) -> bool {
        let Some(tail) = &self.tail else { return false };
        state_of(tail.pid()) == Some('Z')
    }

    // ---- waiting ----

    /// Polls until `look` holds; `false` after `limit`, or once the run has failed anyway.
    pub fn wait(&self, limit: Duration, mut look: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            if look() {
                return true;
            }
            if Instant::now() > deadline || self.oracle.violation().is_some() || self.has_ended() {
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until all that was written to a stream has arrived. Its writer should be held.
    pub fn wait_for_stream(&self, stream: usize) -> bool {
        let has_arrived = || {
            let account = self.ledger.account(stream);
            account.missing(account.written).next().is_none()
        };
        self.wait(CATCH_UP, has_arrived)
    }

    /// Waits until all that has been written by now has arrived.
    pub fn catch_up(&mut self) {
        let written: Vec<u64> = self.ledger.accounts().map(|account| account.written).collect();
        let missing = || -> u64 {
            let accounts = self.ledger.accounts().zip(&written);
            accounts.map(|(account, last)| account.missing(*last).count() as u64).sum()
        };
        if self.wait(CATCH_UP, || missing() == 0) || self.oracle.violation().is_some() {
            return;
        }
        let missing = missing();
        let last = self.tail().log().lines().last().unwrap_or_default().to_owned();
        let failure = match self.has_ended() {
            true => format!("the shipper has ended by itself: {last}"),
            false => format!("{missing} events not there after {CATCH_UP:?}"),
        };
        self.failures.push(failure);
    }

    /// Waits until the saved registry has stayed the same for half a second, which is longer than
    /// a save takes, and returns it.
    pub fn settled_registry(&self) -> Vec<u8> {
        let read = || fs::read(self.state.join("registry.json")).unwrap_or_default();
        let mut last = (read(), Instant::now());
        while last.1.elapsed() < Duration::from_millis(500) {
            thread::sleep(Duration::from_millis(20));
            let now = read();
            if now != last.0 {
                last = (now, Instant::now());
            }
        }
        last.0
    }

    pub fn has_failed(&self) -> bool {
        !self.failures.is_empty() || self.oracle.violation().is_some()
    }

    /// Ends a run: all must have arrived, a fresh event must still come at once, and a stop must
    /// balance its books.
    pub fn finish(&mut self) {
        self.note("the end: writers stop");
        self.streams.iter_mut().for_each(Stream::stop);
        if !self.has_failed() {
            self.catch_up();
        }
        if !self.has_failed() {
            self.streams.iter().for_each(|stream| stream.hold().write());
            let n = self.streams.len();
            if !self.wait(FRESH, || (0..n).all(|n| self.is_complete(n))) {
                self.failures.push(format!("a fresh event had not arrived after {FRESH:?}"));
            }
        }
        if self.tail.is_some() {
            let clean = !self.has_failed();
            self.stop_tail(clean);
        }
        if !self.has_failed() && !self.wait(CATCH_UP, || self.oracle.is_at_end()) {
            let n = count_records(&self.broker.address, &self.topic);
            let n_read = self.oracle.n_records();
            self.failures.push(format!("the oracle has read {n_read} of {n} records"));
        }
    }

    /// Copies what the broker has of the topic, for whoever wants to know how a repeat came there.
    pub fn keep_topic(&self) {
        let data = Path::new(&env("SHIPPER_STACK_DIR")).join("verify/node1/data");
        for entry in fs::read_dir(data).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&self.topic) {
                let to = self.folder.join(&name);
                tool("cp", &["-r", &entry.path().display().to_string(), &to.display().to_string()]);
            }
        }
    }

    fn is_complete(&self, stream: usize) -> bool {
        let account = self.ledger.account(stream);
        account.missing(account.written).next().is_none()
    }
}

fn config_text(
    broker: &Broker,
    state: &Path,
    paths: &[PathBuf],
    topic: &str,
    setting: &Setting,
) -> String {
    let mut text = format!(
        "state_dir = {state:?}\nhost = \"verify\"\n{}\n[kafka]\nbootstrap_servers = [\"{}\"]\n\
         request_timeout = \"3s\"\nretry_backoff_max = \"500ms\"\n",
        setting.config, broker.address
    );
    for (path, plan) in paths.iter().zip(&setting.plans) {
        // Kafka's own logs are named by their path alone; a pattern finds rotated files too.
        let pattern = format!("{}{}", path.display(), plan.pattern);
        text.push_str(&format!(
            "[[input]]\npaths = [{pattern:?}]\ntopic = \"{topic}\"\nline_bytes_max = \"8KiB\"\n\
             event_bytes_max = \"16KiB\"\n"
        ));
    }
    text
}

fn append(path: &Path, text: &str) {
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("written");
}

/// The letter of a process's state, as ps(1) has it.
pub fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// Runs a tool as root's hand would; panics with what it said if it fails.
pub fn tool(name: &str, arguments: &[&str]) {
    let output = Command::new(name).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{name}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {said}");
}
