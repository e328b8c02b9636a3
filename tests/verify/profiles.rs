//! What is run: writers, faults, for how long, and the verdict.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::faults::{self, Fault};
use crate::world::{Broker, Setting, World, tool};
use crate::writer::{Plan, Rotation};
use crate::{planted, power};

/// Small batches, so that a small backlog is more than may be under way.
const SMALL_BATCHES: &str = "[batch]\nbytes_max = \"64KB\"\n[tail]\nrotate_grace = \"1s\"\n";

/// What may be resident at most: the batches under way, the open ones, the files.
const RSS_KIB_MAX: u64 = 32 * 1024;
const FDS_MAX: usize = 300;

pub struct Profile {
    pub name: &'static str,
    pub about: &'static str,
    pub minutes: f64,
    pub run: fn(&Bout<'_>) -> Vec<Verdict>,
}

/// One profile, about to run.
pub struct Bout<'a> {
    pub broker: &'a Broker,
    pub name: &'static str,
    pub minutes: f64,
    pub seed: u64,
    pub planted: Option<&'static str>,
    pub repeats_allowed: bool,
}

pub const ALL: [Profile; 11] = [
    Profile { name: "smoke", about: "a bit of each, in CI", minutes: 1.0, run: smoke },
    Profile { name: "rotate", about: "what happens to files", minutes: 10.0, run: rotate },
    Profile { name: "copy", about: "copytruncate amid kills", minutes: 10.0, run: copy },
    Profile { name: "kill", about: "shipper and broker die", minutes: 10.0, run: kill },
    Profile { name: "disk", about: "the state's disk is full", minutes: 5.0, run: disk },
    Profile { name: "power", about: "power cuts: 25 of each kind", minutes: 0.0, run: power::run },
    Profile { name: "steady", about: "6,000 lines/s, ten kills", minutes: 0.0, run: steady },
    Profile { name: "busy", about: "35,000 lines/s, ten kills", minutes: 0.0, run: busy },
    Profile { name: "night", about: "all faults on six logs", minutes: 60.0, run: night },
    Profile { name: "planted", about: "finds each planted bug", minutes: 5.0, run: planted::run },
    Profile { name: "quiet", about: "no fault at all", minutes: 0.5, run: quiet },
];

/// What a run has shown.
pub struct Verdict {
    pub title: String,
    pub checks: Vec<Check>,
    /// Time from the first line until it was known to be red.
    pub took: Duration,
    pub folder: PathBuf,
}

pub struct Check {
    pub name: &'static str,
    pub result: Result,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Result {
    Green,
    Inconclusive,
    Red,
}

impl Verdict {
    pub fn result(&self) -> Result {
        self.checks.iter().map(|check| check.result).max().unwrap_or(Result::Inconclusive)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({:.0} s)", self.title, self.took.as_secs_f64())?;
        for check in &self.checks {
            let result = match check.result {
                Result::Green => "ok",
                Result::Inconclusive => "INCONCLUSIVE",
                Result::Red => "RED",
            };
            writeln!(f, "  {result:12} {:13} {}", check.name, check.text)?;
        }
        Ok(())
    }
}

// ---- profiles ----

pub fn plan(rotation: Rotation, per_second: u64, rotate_every: u64) -> Plan {
    let pattern = if rotation == Rotation::Date { "*" } else { "" };
    Plan {
        rotation,
        pattern,
        per_second,
        rotate_every,
        quirks: true,
        sync_every: 0,
        events_max: None,
    }
}

pub fn three_logs() -> Vec<Plan> {
    vec![
        plan(Rotation::Index, 1000, 3000),
        plan(Rotation::Date, 1000, 2500),
        plan(Rotation::Copy, 200, 2000),
    ]
}

/// Torture: 1, 2, 3, 29, 32, 42, 44, 48.
fn smoke(bout: &Bout<'_>) -> Vec<Verdict> {
    use Fault::*;
    let deck = [Kill, Freeze, Restart, Storm, BrokerFreeze, KillUnanswered, Truncate];
    vec![shuffle(bout, three_logs(), &deck)]
}

fn rotate(bout: &Bout<'_>) -> Vec<Verdict> {
    use Fault::*;
    let deck = [Storm, Truncate, Regrow, DeleteBehind, ReuseInode, Freeze, Restart, Kill];
    vec![shuffle(bout, three_logs(), &deck)]
}

/// Torture: 6.
fn copy(bout: &Bout<'_>) -> Vec<Verdict> {
    use Fault::*;
    let deck =
        [Kill, Kill, KillUnanswered, KillUnanswered, Freeze, BrokerFreeze, Restart, Truncate];
    vec![shuffle(bout, vec![plan(Rotation::Copy, 300, 300); 3], &deck)]
}

fn kill(bout: &Bout<'_>) -> Vec<Verdict> {
    use Fault::*;
    let deck = [
        Kill,
        Kill,
        Kill,
        Restart,
        KillUnanswered,
        KillUnanswered,
        KillBoth,
        BrokerKill,
        BrokerFreeze,
        Freeze,
        DamageRegistry,
    ];
    vec![shuffle(bout, three_logs(), &deck)]
}

fn disk(bout: &Bout<'_>) -> Vec<Verdict> {
    vec![shuffle(bout, three_logs(), &[Fault::FullDisk, Fault::Kill, Fault::Storm])]
}

fn night(bout: &Bout<'_>) -> Vec<Verdict> {
    use Fault::*;
    let deck = [
        Kill,
        Kill,
        Freeze,
        Restart,
        Storm,
        BrokerKill,
        BrokerFreeze,
        KillUnanswered,
        KillBoth,
        Truncate,
        Regrow,
        DeleteBehind,
        ReuseInode,
        DamageRegistry,
        FullDisk,
    ];
    vec![shuffle(bout, [three_logs(), three_logs()].concat(), &deck)]
}

fn quiet(bout: &Bout<'_>) -> Vec<Verdict> {
    vec![shuffle(bout, three_logs(), &[])]
}

fn steady(bout: &Bout<'_>) -> Vec<Verdict> {
    ten_kills(bout, 200_000, 6000, 20_000)
}

fn busy(bout: &Bout<'_>) -> Vec<Verdict> {
    ten_kills(bout, 700_000, 35_000, 70_000)
}

// ---- how they run ----

/// Goes through all faults in a random order, again and again until the time is over, and lets
/// everything arrive after each round.
pub fn shuffle(bout: &Bout<'_>, plans: Vec<Plan>, deck: &[Fault]) -> Verdict {
    shuffle_with(bout, plans, deck, SMALL_BATCHES)
}

/// As [`shuffle`], with more lines of the configuration.
pub fn shuffle_with(
    bout: &Bout<'_>,
    plans: Vec<Plan>,
    deck: &[Fault],
    config: &'static str,
) -> Verdict {
    let setting = bout.setting(plans, config);
    let folder = bout.folder("");
    let _disk = deck.contains(&Fault::FullDisk).then(|| SmallDisk::mount(&folder.join("state")));
    let mut world = World::new(bout.broker, &folder, &setting);
    let mut shown = Evidence::default();
    let began = Instant::now();
    let time = Duration::from_secs_f64(bout.minutes * 60.0);
    world.start_tail();
    world.start_writers();
    'rounds: loop {
        for fault in faults::shuffled(deck, &mut world.random) {
            let gap = world.random.milliseconds(300..3000);
            world.wait(gap, || false);
            if world.has_failed() {
                break 'rounds;
            }
            progress(bout, &world, began, &format!("{fault:?}"));
            shown.note(&format!("{fault:?}"), faults::inflict(fault, &mut world));
            world.look_at_resources();
        }
        world.note("all must arrive");
        world.catch_up();
        if deck.is_empty() {
            world.wait(Duration::from_millis(200), || false);
        }
        if world.has_failed() || began.elapsed() >= time {
            break;
        }
    }
    world.finish();
    progress(bout, &world, began, "");
    bout.verdict(world, &shown, bout.name.into(), began.elapsed())
}

/// "It must show" of the tail walk: one log, renamed ten times, and ten kills.
fn ten_kills(bout: &Bout<'_>, events_max: u64, per_second: u64, rotate_every: u64) -> Vec<Verdict> {
    let run = |(rotation, suffix): (Rotation, &str)| {
        let plan = Plan {
            rotation,
            pattern: "",
            per_second,
            rotate_every,
            quirks: false,
            sync_every: 0,
            events_max: Some(events_max),
        };
        let mut world =
            World::new(bout.broker, &bout.folder(suffix), &bout.setting(vec![plan], ""));
        let mut shown = Evidence::default();
        let began = Instant::now();
        let mut slowest = Duration::ZERO;
        world.start_tail();
        world.start_writers();
        for tenth in 0..10 {
            let at = (tenth * 100 + world.random.number(10..90)) * events_max / 1000;
            progress(bout, &world, began, &format!("kill {} of 10", tenth + 1));
            let written = || world.ledger.account(0).written >= at;
            world.wait(Duration::from_secs(120), written);
            if world.has_failed() {
                break;
            }
            shown.note("Kill", world.kill_tail());
            let down = world.random.milliseconds(0..1500);
            thread::sleep(down);
            let (n_before, started) = (world.oracle.n_records(), Instant::now());
            world.start_tail();
            world.wait(Duration::from_secs(30), || world.oracle.n_records() > n_before);
            slowest = slowest.max(started.elapsed());
        }
        world.wait(Duration::from_secs(300), || world.streams[0].is_over());
        world.finish();
        progress(bout, &world, began, "");
        let mut verdict = bout.verdict(
            world,
            &shown,
            format!("{}, {suffix} suffixes", bout.name),
            began.elapsed(),
        );
        let text =
            format!("{:.1} s at most from a start to the next record", slowest.as_secs_f64());
        let result = if slowest < Duration::from_secs(2) { Result::Green } else { Result::Red };
        verdict.checks.push(Check { name: "back again", result, text });
        verdict
    };
    [(Rotation::Index, "index"), (Rotation::Date, "dated")].map(run).into()
}

impl Bout<'_> {
    pub fn setting(&self, plans: Vec<Plan>, config: &'static str) -> Setting {
        Setting { plans, config, planted: self.planted, seed: self.seed }
    }

    /// A new, empty folder; it stays if the run is red.
    pub fn folder(&self, more: &str) -> PathBuf {
        let name = format!("verify-{}-{}-{more}{}", self.name, self.seed, std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).expect("made");
        folder
    }

    /// Judges a run that is over.
    pub fn verdict(
        &self,
        world: World<'_>,
        shown: &Evidence,
        title: String,
        took: Duration,
    ) -> Verdict {
        let mut checks = Vec::new();
        let mut check = |name, is_good, text| {
            let result = if is_good { Result::Green } else { Result::Red };
            checks.push(Check { name, result, text });
        };
        let ledger = &world.ledger;
        let n_events = ledger.sum(|account| account.written);
        let lost: Vec<String> = ledger.accounts().enumerate().flat_map(lost).collect();
        let n_may = ledger.sum(|account| account.may.len() as u64);
        let examples = lost.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
        let text = format!("{} of {n_events} ({n_may} might be) {examples}", lost.len());
        check("loss", lost.is_empty() || self.has_stopped_early(&world), text);
        let findings = world.oracle.findings();
        let invented: Vec<String> = [findings.damaged, findings.invented].concat();
        let examples = invented.iter().take(3).cloned().collect::<Vec<_>>().join("\n    ");
        check("invention", invented.is_empty(), format!("{} {examples}", invented.len()));
        let disordered = ledger.sum(|account| account.disordered);
        check("order", disordered == 0, format!("{disordered} out of order"));
        let repeats = ledger.sum(|account| account.repeats);
        let said = world.maybe_repeated;
        let text = format!("{repeats}; the shipper said up to {said}");
        check("repeats", repeats <= said || self.repeats_allowed, text);
        let others = world.failures.join("; ");
        let violation = world.oracle.violation().unwrap_or_default();
        check(
            "liveness",
            others.is_empty() && violation.is_empty(),
            format!("{others}{violation}"),
        );
        let peak = world.peak;
        check(
            "resources",
            peak.rss_kib <= RSS_KIB_MAX && peak.fds <= FDS_MAX,
            format!("{:.1} MiB resident, {} descriptors", peak.rss_kib as f64 / 1024.0, peak.fds),
        );
        let result = if shown.is_complete() { Result::Green } else { Result::Inconclusive };
        checks.push(Check { name: "faults shown", result, text: shown.to_string() });
        let title = format!("verify {title}, seed {}", self.seed);
        let verdict = Verdict { title, checks, took, folder: world.folder.clone() };
        if verdict.result() == Result::Red {
            world.keep_topic();
        }
        verdict
    }

    /// After another violation what had not arrived yet is no loss.
    fn has_stopped_early(&self, world: &World<'_>) -> bool {
        world.has_failed()
    }
}

fn lost(
    (stream, account): (usize, std::sync::MutexGuard<'_, crate::ledger::Account>),
) -> Vec<String> {
    account.missing(account.written).map(|seq| format!("{stream}:{seq}")).collect()
}

/// How often each fault was inflicted, and how often it could be seen.
#[derive(Debug, Default)]
pub struct Evidence(BTreeMap<String, (u32, u32)>);

impl Evidence {
    pub fn note(&mut self, fault: &str, was_seen: bool) {
        let (n, n_seen) = self.0.entry(fault.into()).or_default();
        *n += 1;
        *n_seen += u32::from(was_seen);
    }

    fn is_complete(&self) -> bool {
        self.0.values().all(|(n, n_seen)| n == n_seen)
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (fault, (n, n_seen)) in &self.0 {
            if n == n_seen {
                write!(f, "{fault} {n}  ")?;
            } else {
                write!(f, "{fault} {n_seen} OF {n}  ")?;
            }
        }
        Ok(())
    }
}

/// A file system of a megabyte, for the state.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> SmallDisk {
        std::fs::create_dir_all(at).expect("made");
        tool("mount", &["-t", "tmpfs", "-o", "size=4m", "verify", &at.display().to_string()]);
        SmallDisk(at.into())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        tool("umount", &["-l", &self.0.display().to_string()]);
    }
}

/// Says on a terminal, and only there, what goes on.
pub fn progress(bout: &Bout<'_>, world: &World<'_>, began: Instant, doing: &str) {
    let mut err = std::io::stderr();
    if !err.is_terminal() {
        return;
    }
    let (written, seen) = (world.ledger.sum(|a| a.written), world.ledger.sum(|a| a.n_seen));
    let seconds = began.elapsed().as_secs();
    let line = format!("{} {seconds:4} s  {written} written, {seen} there  {doing}", bout.name);
    // A terminal that is gone is no reason to stop.
    let _ = write!(err, "\r{line:<78}{}", if doing.is_empty() { "\r" } else { "" });
}
