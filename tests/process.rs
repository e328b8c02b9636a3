//! `shipper` as a process: exit codes, signals, locks, what it says when something is wrong.

mod support;

use std::collections::HashSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use support::faults::{MemoryGroup, Strace};
use support::tail::{LIMIT, Scene, lines, numbered};
use support::{Shipper, broker_down, counter, shipper_binary, wait_for};

fn run(args: &[&str]) -> Output {
    support::run(Command::new(shipper_binary()).args(args)).expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into()
}

// ---- bad input ----

#[test]
fn wrong_usage_is_64_and_help_is_0() {
    for args in [
        &["tail", "--no-such-option"][..],
        &["no-such-command"],
        &["tail", "-c"],
        &["tail", "extra"],
        &["index", "--config"],
        &[],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(64), "{args:?}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}");
    }
    for args in [&["--help"][..], &["--version"], &["tail", "--help"], &["index", "--help"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_wrong_configuration_is_78_names_its_place_and_touches_nothing() {
    let valid = "state_dir = \"STATE\"\n[kafka]\nbootstrap_servers = [\"127.0.0.1:9\"]\n";
    let input = "[[input]]\npaths = [\"/l/*.log\"]\ntopic = \"t\"\n";
    let index = "[index]\ntopics = [\"t\"]\nerror_topic = \"e\"\n";
    for (walk, more, says) in [
        ("tail", "", "input"),
        ("index", "", "index"),
        ("tail", "[[input]\n", ":4:"),
        ("tail", "[[input]]\npaths = [\"/l/*.log\"]\ntopics = \"t\"\n", "topic"),
        ("tail", "[[input]]\npaths = [\"l/*.log\"]\ntopic = \"t\"\n", "absolute"),
        ("tail", &format!("{input}[tail]\nscan_interval = \"5\"\n"), "tail.scan_interval"),
        ("tail", &format!("{input}[tail]\nscan_interval = \"1ms\"\n"), "50ms"),
        ("tail", &format!("{input}[batch]\nbytes_max = \"16KB\"\n"), "batch.bytes_max"),
        ("tail", &format!("{input}multiline = {{ start = \"(\" }}\n"), "multiline"),
        ("index", index, "elasticsearch"),
        ("index", &format!("{index}[elasticsearch]\nhosts = [\"es:9200\"]\n"), "hosts"),
        (
            "index",
            &format!(
                "{index}[archive]\ndir = \"STATE/a\"\n[[route]]\nname = \"r\"\nto = \"dorp\"\n"
            ),
            "drop",
        ),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        let file = folder.path().join("shipper.toml");
        let text_of = format!("{valid}{more}").replace("STATE", &state.display().to_string());
        fs::write(&file, text_of).expect("written");
        let output = run(&[walk, "-c", file.to_str().expect("UTF-8")]);
        let problems = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{more}: {problems}");
        assert!(problems.contains(says), "{more}: {problems}");
        assert!(problems.contains("shipper.toml"), "{more}: {problems}");
        assert!(!state.exists(), "{more}");
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_78() {
    for walk in ["tail", "index", "check"] {
        let output = run(&[walk, "-c", "/no/such/shipper.toml"]);
        assert_eq!(output.status.code(), Some(78));
        let problem = text(&output.stderr) + &text(&output.stdout);
        assert!(problem.contains("/no/such/shipper.toml"), "{problem}");
        assert!(problem.contains("No such file"), "{problem}");
    }
}

#[test]
fn a_state_folder_that_cannot_be_made_is_74() {
    let mut scene = Scene::new("server.log");
    scene.set("", "state_dir", "\"/proc/shipper\"");
    let output = run(&["tail", "-c", scene.config().to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(74));
    assert!(text(&output.stderr).contains("cannot make /proc/shipper"), "{}", text(&output.stderr));
}

// ---- one state folder ----

/// Torture: 59.
#[test]
fn a_second_process_on_the_same_state_is_75_and_the_first_goes_on() {
    let mut scene = Scene::new("server.log");
    let first = scene.start();
    scene.logs.append("server.log", lines(0..1));
    scene.wait_for_records(1, &first);
    let second = run(&["tail", "-c", scene.config().to_str().expect("UTF-8")]);
    assert_eq!(second.status.code(), Some(75));
    assert!(text(&second.stderr).contains("another shipper works"), "{}", text(&second.stderr));
    scene.logs.append("server.log", lines(1..2));
    assert_eq!(scene.values_after(2, first), numbered(0..2));
}

/// Torture: 56.
#[test]
fn a_damaged_registry_goes_back_one_generation_and_loses_nothing() {
    let mut scene = Scene::new("server.log");
    scene.logs.append("server.log", lines(0..10));
    let shipper = scene.start();
    assert_eq!(scene.values_after(10, shipper), numbered(0..10));
    let registry = scene.state_dir().join("registry.json");
    let mut bytes = fs::read(&registry).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&registry, bytes).expect("written");

    scene.logs.append("server.log", lines(10..12));
    let shipper = scene.start();
    shipper.wait_for_log("going on from", LIMIT);
    let is_there = || scene.values().contains(&"line 11".into()).then_some(());
    wait_for(LIMIT, "the new lines", is_there, || shipper.log());
    scene.stop(shipper);
    let values = scene.values();
    // What only the lost generation knew may be repeated between the two.
    assert_eq!(values[..10], numbered(0..10));
    assert_eq!(values[values.len() - 2..], numbered(10..12));
}

/// Torture: 56.
#[test]
fn a_registry_damaged_twice_is_78_says_what_to_do_and_ships_nothing() {
    let mut scene = Scene::new("server.log");
    scene.logs.append("server.log", lines(0..1));
    let shipper = scene.start();
    assert_eq!(scene.values_after(1, shipper), numbered(0..1));
    for name in ["registry.json", "registry.json.prev"] {
        fs::write(scene.state_dir().join(name), "no registry\n").expect("written");
    }
    scene.logs.append("server.log", lines(1..2));
    let output = run(&["tail", "-c", scene.config().to_str().expect("UTF-8")]);
    let problem = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{problem}");
    let config = scene.config().display().to_string();
    for says in [
        "registry.json",
        "from a backup",
        &format!("shipper checkpoint repair -c {config} --from-start"),
        &format!("shipper checkpoint repair -c {config} --from-end"),
    ] {
        assert!(problem.contains(says), "{problem}");
    }
    assert!(!problem.contains("--accept-prev"), "{problem}");
    assert_eq!(scene.values(), numbered(0..1));
}

// ---- signals ----

/// Torture: 44.
#[test]
fn sigterm_and_sigint_end_both_walks_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut scene = Scene::new("server.log");
        scene.logs.append("server.log", lines(0..3));
        let mut shipper = scene.start();
        scene.wait_for_records(3, &shipper);
        shipper.signal(signal);
        assert_eq!(shipper.wait(LIMIT).code(), Some(0), "{}", shipper.log());

        let archive = scene.state.path().join("archive");
        scene.set("[index]", "topics", "[\"logs\"]");
        scene.set("[index]", "error_topic", "\"logs-errors\"");
        scene.set("[archive]", "dir", &format!("{archive:?}"));
        let mut shipper = Shipper::start("index", &scene.config());
        let is_there = || archive.read_dir().ok()?.next().map(drop);
        wait_for(LIMIT, "documents", is_there, || shipper.log());
        shipper.signal(signal);
        assert_eq!(shipper.wait(LIMIT).code(), Some(0), "{}", shipper.log());
    }
}

/// Torture: 45.
#[test]
fn a_second_signal_ends_at_once_and_loses_nothing() {
    let mut scene = Scene::new("server.log");
    let mut shipper = scene.start();
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    scene.wait_for_entry("server.log", "\"offset\":21");
    broker_down(&scene.cluster, 1);
    scene.logs.append("server.log", lines(3..6));
    shipper.wait_for_log("cannot connect", LIMIT);
    shipper.signal(Signal::TERM);
    shipper.wait_for_log("stopping", LIMIT);
    shipper.signal(Signal::TERM);
    let status = shipper.wait(Duration::from_secs(5));
    assert_eq!(status.code(), Some(128 + 15));
    scene.cluster.broker_up(1).expect("up");
    let shipper = scene.start();
    assert_eq!(scene.values_after(6, shipper), numbered(0..6));
}

/// Torture: 44.
#[test]
fn a_stop_that_cannot_finish_says_how_much_is_left_and_loses_nothing() {
    let mut scene = Scene::new("server.log");
    scene.set("[tail]", "shutdown_timeout", "\"300ms\"");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    broker_down(&scene.cluster, 1);
    scene.logs.append("server.log", lines(3..6));
    shipper.wait_for_log("cannot connect", LIMIT);
    let (status, log) = shipper.stop(LIMIT);
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("3 records will be read again"), "{log}");
    scene.cluster.broker_up(1).expect("up");
    let shipper = scene.start();
    assert_eq!(scene.values_after(6, shipper), numbered(0..6));
}

/// Torture: 47.
#[test]
fn an_interrupted_pipe_of_its_log_does_not_end_it() {
    let mut scene = Scene::new("server.log");
    let config = scene.config();
    // Its log goes to a reader that leaves at once.
    let line = format!("{} tail -c {} 2> >(exit 0)", shipper_binary().display(), config.display());
    let mut command = Command::new("bash");
    let shipper = Shipper::spawn(command.args(["-c", &format!("exec {line}")]));
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    scene.logs.rename("server.log", "server.log.1");
    scene.logs.append("server.log", lines(3..6));
    scene.wait_for_records(6, &shipper);
    let (status, _) = shipper.stop(LIMIT);
    assert_eq!((status.code(), status.signal()), (Some(0), None));
    assert_eq!(scene.values(), numbered(0..6));
}

/// Torture: 44.
#[test]
fn a_stop_waits_for_batches_under_way_and_repeats_nothing() {
    let mut scene = Scene::new("server.log");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    scene.cluster.broker_round_trip_time(1, Duration::from_millis(500)).expect("slow");
    scene.logs.append("server.log", lines(3..300));
    shipper.wait_for_log("file found", LIMIT);
    scene.wait_for_records(4, &shipper);
    scene.logs.append("server.log", lines(300..303));
    let counters = scene.stop(shipper);
    assert_eq!(counter(&counters, "bytes_read"), counter(&counters, "bytes_acked"), "{counters}");
    scene.cluster.broker_round_trip_time(1, Duration::ZERO).expect("fast");
    let shipper = scene.start();
    // All of it is there already: a stop must not come before the process hears it.
    shipper.wait_for_log("file resumed", LIMIT);
    assert_eq!(scene.values_after(303, shipper), numbered(0..303));
}

/// Torture: 46.
#[test]
fn sighup_is_answered_and_ends_nothing() {
    let mut scene = Scene::new("server.log");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    shipper.signal(Signal::HUP);
    shipper.wait_for_log("SIGHUP: the configuration is read at the start only", LIMIT);
    scene.logs.append("server.log", lines(3..6));
    assert_eq!(scene.values_after(6, shipper), numbered(0..6));
}

/// Torture: 47.
#[test]
fn an_answer_that_nobody_reads_is_no_failure() {
    let scene = Scene::new("server.log");
    scene.logs.append("server.log", lines(0..1));
    let config = scene.config();
    for command in ["checkpoint list", "checkpoint list --json", "check", "--help"] {
        let config = if command == "--help" { String::new() } else { format!("-c {config:?}") };
        for output in [">&-", "> >(exit 0)", "| true; exit ${PIPESTATUS[0]}"] {
            let line = format!("{} {command} {config} {output}", shipper_binary().display());
            let output = support::run(Command::new("bash").args(["-c", &line])).expect("bash runs");
            let said = text(&output.stderr);
            assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{line}");
        }
    }
}

/// Torture: 48.
#[test]
fn a_process_that_stood_still_finds_its_files_and_its_broker_again() {
    let mut scene = Scene::new("server.log*");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..10));
    scene.wait_for_records(10, &shipper);
    shipper.signal(Signal::STOP);
    scene.logs.append("server.log", lines(10..20));
    scene.logs.rename("server.log", "server.log.1");
    scene.logs.append("server.log", lines(20..30));
    scene.logs.rename("server.log.1", "server.log.2");
    scene.logs.rename("server.log", "server.log.1");
    scene.logs.append("server.log", lines(30..40));
    // Its connection is gone when it wakes.
    broker_down(&scene.cluster, 1);
    thread::sleep(Duration::from_secs(2));
    scene.cluster.broker_up(1).expect("up");
    shipper.signal(Signal::CONT);
    scene.wait_for_records(40, &shipper);
    let counters = scene.stop(shipper);
    assert_eq!(counter(&counters, "files_truncated"), 0, "{counters}");
    assert_eq!(scene.values(), numbered(0..40));
}

/// Torture: 59.
#[test]
fn two_configurations_may_not_share_a_state_folder() {
    let mut scene = Scene::new("server.log");
    let first = scene.start();
    scene.logs.append("server.log", lines(0..1));
    scene.wait_for_records(1, &first);
    let other = scene.state.path().join("other.toml");
    let config = fs::read_to_string(scene.config()).expect("read");
    fs::write(&other, config.replace("server.log", "controller.log")).expect("written");
    let second = run(&["tail", "-c", other.to_str().expect("UTF-8")]);
    assert_eq!(second.status.code(), Some(75), "{}", text(&second.stderr));
    // Killed, it leaves no lock behind.
    first.kill();
    let third = scene.start();
    scene.logs.append("server.log", lines(1..2));
    assert_eq!(scene.values_after(2, third), numbered(0..2));
}

// ---- sudden ends ----

/// Torture: 42.
#[test]
fn kills_at_any_moment_lose_nothing_and_keep_the_order() {
    let seed = std::env::var("SHIPPER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("SHIPPER_SEED={seed}");
    let mut random = seed | 1;
    let mut scene = Scene::new("server.log*");
    let mut n = 0;
    for round in 0..10 {
        let shipper = scene.start();
        for _ in 0..10 {
            scene.logs.append("server.log", lines(n..n + 20));
            n += 20;
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            thread::sleep(Duration::from_millis(random % 20));
        }
        if round % 3 == 2 {
            scene.logs.rename("server.log", &format!("server.log.{}", 20 - round));
        }
        shipper.kill();
    }
    scene.logs.append("server.log", lines(n..n + 1));
    n += 1;
    let shipper = scene.start();
    let last = format!("line {}", n - 1);
    let is_there = || scene.values().contains(&last).then_some(());
    wait_for(LIMIT, "the last line", is_there, || shipper.log());
    scene.stop(shipper);
    assert_eq!(first_occurrences(scene.values()), numbered(0..n));
}

fn first_occurrences(values: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    values.into_iter().filter(|line| seen.insert(line.clone())).collect()
}

/// Torture: 49, 75.
#[test]
fn a_broker_that_is_away_lets_no_memory_group_run_over() {
    let Some(group) = MemoryGroup::new(64 << 20) else { return };
    let mut scene = Scene::new("server.log");
    let mut shipper = group.start(&scene.config());
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    broker_down(&scene.cluster, 1);
    // More than the group may hold.
    let padding = "x".repeat(90);
    let bytes: String = (3..1_200_000).map(|n| format!("line {n} {padding}\n")).collect();
    assert!(bytes.len() > 100 << 20);
    scene.logs.append("server.log", bytes);
    shipper.wait_for_log("cannot connect", LIMIT);
    thread::sleep(Duration::from_secs(2));
    assert!(!shipper.has_ended(), "{}", shipper.log());
    assert!(shipper.peak_rss() < 64 << 20, "{} bytes", shipper.peak_rss());
    shipper.signal(Signal::KILL);
    shipper.wait(LIMIT);
}

/// Torture: 49.
#[test]
fn a_process_killed_for_want_of_memory_loses_nothing() {
    let Some(group) = MemoryGroup::new(64 << 20) else { return };
    let mut scene = Scene::new("server.log");
    let mut shipper = group.start(&scene.config());
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    scene.wait_for_entry("server.log", "\"offset\":21");
    // As little as it gets along with now; then it fills the batches that no broker takes.
    for mib in (1..32).rev() {
        let _ = group.set_limit(mib << 20);
    }
    scene.cluster.broker_round_trip_time(1, Duration::from_secs(20)).expect("slow");
    let padding = "x".repeat(2_000);
    let padded: Vec<String> = (3..5_000).map(|n| format!("line {n} {padding}")).collect();
    scene.logs.append("server.log", padded.join("\n") + "\n");
    let status = shipper.wait(LIMIT);
    assert_eq!(status.signal(), Some(9), "{status}: {}", shipper.log());
    scene.cluster.broker_round_trip_time(1, Duration::ZERO).expect("fast");
    let shipper = scene.start();
    let expected = [numbered(0..3), padded].concat();
    scene.wait_for_records(expected.len(), &shipper);
    scene.stop(shipper);
    assert!(first_occurrences(scene.values()) == expected, "all of them, in order");
}

/// A panic of any thread runs the same hook, and the release profile could not even unwind.
///
/// Torture: 62.
#[test]
fn a_panic_ends_the_whole_process_at_once() {
    let mut scene = Scene::new("server.log");
    scene.logs.append("server.log", lines(0..3));
    // The second random number is that of the first hash map; without it std panics.
    let output = scene.state.path().join("trace");
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-e", "trace=getrandom", "-e", "inject=getrandom:error=EIO:when=2"]);
    command.arg("-o").arg(&output).arg(shipper_binary()).arg("tail").arg("-c").arg(scene.config());
    let mut shipper = Shipper::spawn(&mut command);
    let status = shipper.wait(LIMIT);
    assert!(shipper.log().contains("panicked at"), "{}", shipper.log());
    assert_eq!(status.signal(), Some(6), "{status}: {}", shipper.log());
    let shipper = scene.start();
    assert_eq!(scene.values_after(3, shipper), numbered(0..3));

    let manifest = include_str!("../Cargo.toml").parse::<toml::Table>().expect("TOML");
    assert_eq!(manifest["profile"]["release"]["panic"].as_str(), Some("abort"));
}

/// Time without a sign of life after which the service manager would end the process.
const WATCHDOG: Duration = Duration::from_secs(2);

/// Waits for so many signs of life, or, for `None`, until there was none for [`WATCHDOG`].
fn take_signs(manager: &UnixDatagram, shipper: &Shipper, n_wanted: Option<usize>) {
    manager.set_read_timeout(Some(n_wanted.map_or(WATCHDOG, |_| LIMIT))).expect("set");
    let mut message = [0; 64];
    for n in 0.. {
        match (manager.recv(&mut message), n_wanted) {
            (Ok(len), _) => assert_eq!(&message[..len], b"WATCHDOG=1\n", "{}", shipper.log()),
            (Err(_), None) => return,
            (Err(error), Some(_)) => panic!("no sign of life, {error}: {}", shipper.log()),
        }
        assert!(n < 100, "it goes on giving signs of life: {}", shipper.log());
        if n_wanted == Some(n + 1) {
            return;
        }
    }
}

/// The hub reads a log, behind its first bytes, with preadv(2), the producer waits with poll(2).
///
/// Torture: 63, 92.
#[test]
fn a_thread_that_hangs_gives_the_service_manager_no_sign_of_life() {
    for (thread, syscall, said) in
        [("shipper", "preadv", ""), ("kafka-producer", "poll,ppoll", "the producer's thread hangs")]
    {
        let mut scene = Scene::new("server.log");
        let files = match thread {
            "shipper" => vec![scene.logs.path("server.log")],
            _ => Vec::new(),
        };
        scene.logs.append("server.log", lines(0..3));
        let socket = scene.state.path().join("notify");
        let manager = UnixDatagram::bind(&socket).expect("bound");
        let usec = WATCHDOG.as_micros().to_string();
        let mut command = Command::new(shipper_binary());
        command.arg("tail").arg("-c").arg(scene.config());
        command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", usec);
        let shipper = Shipper::spawn(&mut command);
        manager.set_read_timeout(Some(LIMIT)).expect("set");
        let mut message = [0; 64];
        for expected in [&b"EXTEND_TIMEOUT_USEC=3600000000\n"[..], b"READY=1\n"] {
            let len = manager.recv(&mut message).expect("a message");
            assert_eq!(&message[..len], expected);
        }
        scene.wait_for_records(3, &shipper);
        take_signs(&manager, &shipper, Some(3));

        let output = scene.state.path().join("trace");
        let inject = format!("{syscall}:delay_enter=600000000:when=1");
        let Some(strace) = Strace::attach(&shipper, thread, &files, Some(&inject), &output) else {
            return;
        };
        scene.logs.append("server.log", lines(3..6));
        take_signs(&manager, &shipper, None);
        assert!(shipper.log().contains(said), "{}", shipper.log());
        // First, for what it delays does not end before it does.
        drop(strace);
        shipper.kill();

        let shipper = scene.start();
        let values = scene.values_after(6, shipper);
        assert_eq!(first_occurrences(values), numbered(0..6), "{syscall}");
    }
}

/// Torture: 64.
#[test]
fn a_binary_that_is_replaced_while_it_runs_goes_on_and_so_does_its_successor() {
    let mut scene = Scene::new("server.log");
    let binary = scene.state.path().join("shipper");
    copy(&shipper_binary(), &binary);
    let config = scene.config();
    let start = || Shipper::spawn(Command::new(&binary).arg("tail").arg("-c").arg(&config));
    let shipper = start();
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    // As a package manager does: a new file renamed over the old one.
    let newer = scene.state.path().join("shipper.new");
    copy(&shipper_binary(), &newer);
    fs::rename(&newer, &binary).expect("renamed");
    scene.logs.append("server.log", lines(3..6));
    scene.wait_for_records(6, &shipper);
    scene.stop(shipper);
    let shipper = start();
    scene.logs.append("server.log", lines(6..9));
    assert_eq!(scene.values_after(9, shipper), numbered(0..9));
}

/// Copies a program by another process: while this one has it open for writing, a fork of another
/// test holds it too, and it cannot be started.
fn copy(from: &Path, to: &Path) {
    let output = support::run(Command::new("cp").arg(from).arg(to)).expect("cp runs");
    assert!(output.status.success(), "{output:?}");
}

// ---- brokers ----

/// Torture: 65.
#[test]
fn a_broker_that_comes_late_is_waited_for_and_named_once() {
    let mut scene = Scene::new("server.log");
    let (address, open) = late_broker(&scene.cluster.bootstrap_servers());
    scene.set("[kafka]", "bootstrap_servers", &format!("[{address:?}]"));
    scene.logs.append("server.log", lines(0..3));
    let shipper = scene.start();
    shipper.wait_for_log("cannot connect", LIMIT);
    // Tried more often than said: ten times the longest wait between two.
    thread::sleep(Duration::from_secs(1));
    let log = shipper.log();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains(&address) && warnings[0].contains("refused"), "{log}");
    open();
    assert_eq!(scene.values_after(3, shipper), numbered(0..3));
}

#[test]
fn a_broker_that_is_not_needed_is_well_again_once_it_is_there() {
    let mut scene = Scene::new("server.log");
    let broker = scene.cluster.bootstrap_servers();
    let (address, open) = late_broker(&broker);
    scene.set("[kafka]", "bootstrap_servers", &format!("[{address:?}, {broker:?}]"));
    scene.logs.append("server.log", lines(0..3));
    let shipper = scene.start();
    scene.wait_for_records(3, &shipper);
    shipper.wait_for_log(&format!("broker {address}: cannot connect"), LIMIT);
    open();
    shipper.wait_for_log(&format!("broker {address}: well again after "), LIMIT);
    scene.stop(shipper);
}

/// Returns an address nobody listens on, and what makes it lead to the broker.
fn late_broker(broker: &str) -> (String, impl FnOnce() + use<>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let broker = broker.split(',').next().expect("an address").to_owned();
    let open = move || {
        let listener = TcpListener::bind(address).expect("the port is still free");
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(&broker).expect("connected");
                let clone = |stream: &TcpStream| stream.try_clone().expect("cloned");
                let back = (clone(&server), clone(&client));
                thread::spawn(move || pump(back.0, back.1));
                thread::spawn(move || pump(client, server));
            }
        });
    };
    (address.to_string(), open)
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..n]).is_err() {
            return;
        }
    }
}

#[test]
fn a_missing_topic_is_named_once_and_waited_for() {
    let mut scene = Scene::new("server.log");
    let error = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    scene.cluster.topic_error("logs", error).expect("set");
    scene.logs.append("server.log", lines(0..3));
    let shipper = scene.start();
    shipper.wait_for_log("topic \"logs\": does not exist", LIMIT);
    thread::sleep(Duration::from_secs(1));
    let log = shipper.log();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("create it, or set kafka.allow_auto_create_topics"), "{log}");
    let none = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
    scene.cluster.topic_error("logs", none).expect("set");
    assert_eq!(scene.values_after(3, shipper), numbered(0..3));
}

#[test]
fn a_stop_while_the_topic_is_missing_succeeds_and_loses_nothing() {
    let mut scene = Scene::new("server.log");
    let error = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    scene.cluster.topic_error("logs", error).expect("set");
    scene.logs.append("server.log", lines(0..3));
    let shipper = scene.start();
    shipper.wait_for_log("does not exist", LIMIT);
    scene.stop(shipper);
    let none = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
    scene.cluster.topic_error("logs", none).expect("set");
    scene.logs.append("server.log", lines(3..6));
    let shipper = scene.start();
    assert_eq!(scene.values_after(6, shipper), numbered(0..6));
}

#[test]
fn a_registry_that_cannot_be_saved_is_said_once_and_healed() {
    let mut scene = Scene::new("server.log");
    scene.set("[tail]", "journal_bytes_max", "0");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    scene.wait_for_entry("server.log", "\"offset\":21");
    let in_the_way = scene.state_dir().join("registry.json.tmp");
    fs::create_dir(&in_the_way).expect("made");
    scene.logs.append("server.log", lines(3..6));
    scene.wait_for_records(6, &shipper);
    shipper.wait_for_log("cannot save the registry", LIMIT);
    fs::remove_dir(&in_the_way).expect("removed");
    shipper.wait_for_log("the registry is saved again", LIMIT);
    assert_eq!(shipper.log().matches("cannot save the registry").count(), 1);
    assert_eq!(scene.values_after(6, shipper), numbered(0..6));
    scene.wait_for_entry("server.log", "\"offset\":42");
}

// ---- records that no broker takes ----

/// Torture: 37.
#[test]
fn a_record_that_no_broker_takes_is_kept_in_a_file_and_the_others_arrive() {
    let mut scene = Scene::new("server.log");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..1));
    scene.wait_for_records(1, &shipper);
    refuse_the_next(&scene);
    scene.logs.append("server.log", lines(1..2));
    shipper.wait_for_log("records that the broker cannot take", LIMIT);
    scene.logs.append("server.log", lines(2..3));
    assert_eq!(scene.values_after(2, shipper), ["line 0", "line 2"]);
    let kept = fs::read_to_string(scene.state_dir().join("rejected.ndjson")).expect("kept");
    assert_eq!(kept.lines().count(), 1, "{kept}");
    for says in ["\"value\":\"line 1\"", "\"offset\":\"7\"", "\"topic\":\"logs\"", "\"code\":10"] {
        assert!(kept.contains(says), "{says}: {kept}");
    }
}

#[test]
fn a_record_that_can_be_kept_nowhere_stops_the_walk_and_is_read_again() {
    let mut scene = Scene::new("server.log");
    let mut shipper = scene.start();
    scene.logs.append("server.log", lines(0..1));
    scene.wait_for_records(1, &shipper);
    let in_the_way = scene.state_dir().join("rejected.ndjson");
    fs::create_dir(&in_the_way).expect("made");
    refuse_the_next(&scene);
    scene.logs.append("server.log", lines(1..2));
    assert_eq!(shipper.wait(LIMIT).code(), Some(74), "{}", shipper.log());
    assert!(shipper.log().contains("cannot append a rejected record to"), "{}", shipper.log());
    fs::remove_dir(&in_the_way).expect("removed");
    let shipper = scene.start();
    assert_eq!(scene.values_after(2, shipper), numbered(0..2));
}

/// Answers the next Produce request as if its one record were too large.
fn refuse_the_next(scene: &Scene) {
    let too_large = rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    scene.cluster.request_errors(rdkafka::types::RDKafkaApiKey::Produce, &[too_large]);
}
