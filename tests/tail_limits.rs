//! `shipper tail` as a guest: what it holds, how fast it reads, and what its own work brings about.

mod support;

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::tail::{LIMIT, Scene, covered, lines, numbered};
use support::{Shipper, broker_down, counter, run, shipper_binary, start, wait_for};

/// A scene in which little is under way at once, so that much stays in the file.
fn narrow_scene() -> Scene {
    let mut scene = Scene::new("*.log");
    scene.set("[[input]]", "line_bytes_max", "\"1KiB\"");
    scene.set("[[input]]", "event_bytes_max", "\"1KiB\"");
    scene.set("[batch]", "bytes_max", "\"64KB\"");
    scene.set("[batch]", "in_flight_max", "1");
    scene
}

/// The deleted logs that the process holds open.
fn held_logs(shipper: &Shipper) -> Vec<String> {
    let fds = fs::read_dir(format!("/proc/{}/fd", shipper.pid())).expect("running");
    let links = fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    let links = links.map(|link| link.to_string_lossy().into_owned());
    links.filter(|link| link.ends_with(".log (deleted)")).collect()
}

// ---- deleted files ----

/// Torture: 10.
#[test]
fn a_file_deleted_while_the_broker_is_away_is_held_told_of_and_shipped_whole() {
    let mut scene = narrow_scene();
    broker_down(&scene.cluster, 1);
    let shipper = scene.start();
    scene.logs.append("a.log", lines(0..20_000));
    shipper.wait_for_log("file found", LIMIT);
    scene.logs.remove("a.log");
    let told = shipper.wait_for_log("deleted files are held open", LIMIT);
    assert!(told.contains("files=1") && told.contains("a.log"), "{told}");
    assert_eq!(held_logs(&shipper).len(), 1);

    scene.cluster.broker_up(1).expect("up");
    scene.wait_for_records(20_000, &shipper);
    let is_let_go = || held_logs(&shipper).is_empty().then_some(());
    wait_for(LIMIT, "closed file", is_let_go, || shipper.log());
    assert_eq!(shipper.log().matches("deleted files are held open").count(), 1);
    let counters = scene.stop(shipper);
    assert_eq!(counter(&counters, "files_abandoned"), 0, "{counters}");
    assert_eq!(counter(&counters, "deleted_bytes_held"), 0, "{counters}");
    assert!(scene.values() == numbered(0..20_000));
}

/// Fails unless of a deleted file exactly what was read is shipped, and the rest counted.
fn check_abandoned(key: &'static str, value: &str) {
    let mut scene = narrow_scene();
    scene.set("[tail]", key, value);
    let shipper = scene.start();
    scene.logs.append("b.log", lines(0..10));
    scene.wait_for_records(10, &shipper);
    broker_down(&scene.cluster, 1);
    let bytes = lines(0..200_000);
    scene.logs.append("a.log", &bytes);
    shipper.wait_for_log("a.log", LIMIT);
    scene.logs.remove("a.log");
    let told = shipper.wait_for_log("deleted file given up", LIMIT);
    assert!(told.contains(&format!("bound=tail.{key}")), "{told}");
    let is_let_go = || held_logs(&shipper).is_empty().then_some(());
    wait_for(LIMIT, "closed file", is_let_go, || shipper.log());

    scene.cluster.broker_up(1).expect("up");
    shipper.wait_for_log("file finished", LIMIT);
    let counters = scene.stop(shipper);
    let abandoned = counter(&counters, "bytes_abandoned");
    assert_eq!(counter(&counters, "files_abandoned"), 1, "{counters}");
    assert!(abandoned > 0, "{counters}");
    assert!(told.contains(&format!("from={} to={}", bytes.len() as u64 - abandoned, bytes.len())));
    let records = scene.records();
    let mut shipped = covered(records);
    shipped.sort_unstable();
    let read = bytes.len() as u64 - abandoned;
    assert!(shipped == [70, read] || shipped == [read, 70], "{shipped:?}, {read}");
}

/// Torture: 10.
#[test]
fn a_deleted_file_beyond_the_bound_in_bytes_is_given_up_by_name_and_number() {
    check_abandoned("deleted_bytes_max", "\"1MB\"");
}

/// Torture: 10.
#[test]
fn a_deleted_file_beyond_the_bound_in_time_is_given_up_by_name_and_number() {
    check_abandoned("deleted_hold_max", "\"1s\"");
}

/// Torture: 10.
#[test]
fn what_is_left_of_a_deleted_file_is_shipped_at_a_stop() {
    let mut scene = narrow_scene();
    scene.set("[[input]]", "multiline", "{ profile = \"kafka\" }");
    scene.set("[[input]]", "event_timeout", "\"10m\"");
    let events = ["2026-01-31 13:00:00 INFO one", "2026-01-31 13:00:01 ERROR two\n\tat a.b"];
    scene.logs.append("a.log", events.join("\n") + "\n");
    let shipper = scene.start();
    scene.wait_for_records(1, &shipper);
    scene.logs.remove("a.log");
    scene.stop(shipper);
    assert_eq!(scene.values(), events);
}

// ---- a guest ----

#[test]
fn a_throttled_backlog_is_read_no_faster_than_allowed_and_without_spinning() {
    let mut scene = narrow_scene();
    scene.set("[tail]", "bytes_per_second_max", "\"1MiB\"");
    let n = 200_000;
    let bytes = lines(0..n);
    scene.logs.append("a.log", &bytes);
    let begun = Instant::now();
    let shipper = scene.start();
    scene.wait_for_records(n, &shipper);
    // What one buffer holds may come at once.
    let due = Duration::from_secs_f64((bytes.len() - (512 << 10)) as f64 / f64::from(1 << 20));
    assert!(begun.elapsed() >= due, "{} bytes in {:?}", bytes.len(), begun.elapsed());
    let n_wakeups = wakeups(&shipper);
    assert!(n_wakeups < 20_000, "{n_wakeups} wake-ups");
    scene.stop(shipper);
    assert!(scene.values() == numbered(0..n));
}

/// How often the main thread has gone to sleep.
fn wakeups(shipper: &Shipper) -> u64 {
    let path = format!("/proc/{0}/task/{0}/status", shipper.pid());
    let status = fs::read_to_string(Path::new(&path)).expect("running");
    let line = status.lines().find(|line| line.starts_with("voluntary_ctxt")).expect("a line");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

/// How much of a file is in the page cache, in bytes.
fn cached(path: &Path) -> u64 {
    let output = run(Command::new("fincore").args(["-b", "-n", "-o", "RES"]).arg(path));
    let output = output.expect("util-linux is there");
    let text = String::from_utf8(output.stdout).expect("a number");
    text.trim().parse().unwrap_or_else(|_| panic!("{text:?}"))
}

#[test]
fn a_backlog_leaves_the_page_cache_behind_the_reader_and_a_files_end_stays() {
    // On a disk: what lies in memory alone cannot be let go.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let path = folder.path().join("old.log");
    let line = format!("{}\n", "x".repeat(99_999));
    for (value, stays) in [("\"never\"", true), ("\"backlog\"", false)] {
        fs::write(&path, line.repeat(400)).expect("written");
        File::open(&path).and_then(|file| file.sync_all()).expect("on disk");
        assert!(cached(&path) > 30_000_000, "this machine keeps nothing cached");
        let mut scene = Scene::new("*.log");
        scene.set("[[input]]", "paths", &format!("[{path:?}]"));
        scene.set("[tail]", "drop_page_cache", value);
        let shipper = scene.start();
        scene.wait_for_records(400, &shipper);
        let left = cached(&path);
        // What was last read is kept, and with it up to 8 MiB that made it a backlog no more.
        let is_end_kept = left > 4_000_000;
        assert!(if stays { left > 30_000_000 } else { is_end_kept && left < 15_000_000 }, "{left}");
        scene.stop(shipper);
    }
}

/// Torture: 30.
#[test]
fn its_own_log_and_its_state_are_not_shipped() {
    let mut scene = Scene::new("*.log");
    let paths = [scene.logs.path("*.log"), scene.state_dir().join("*")];
    scene.set("[[input]]", "paths", &format!("{paths:?}"));
    let log = scene.logs.open("shipper.log");
    let mut command = Command::new(shipper_binary());
    command.args(["tail", "-c"]).arg(scene.config()).stderr(log);
    let mut child = start(&mut command).expect("started");
    scene.logs.append("a.log", lines(0..3));
    let own_path = scene.logs.path("shipper.log");
    let own_log = || fs::read_to_string(&own_path).unwrap_or_default();
    let is_refused = || {
        let log = own_log();
        let is_said = |name: &str, reason: &str| {
            log.lines().any(|line| line.contains(name) && line.contains(reason))
        };
        (is_said("shipper.log", "own log") && is_said("registry.json", "state directory"))
            .then_some(())
    };
    wait_for(LIMIT, "refusals", is_refused, own_log);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    assert!(child.wait().expect("ended").success());
    assert_eq!(scene.values(), numbered(0..3));
    assert_eq!(own_log().matches("own log").count(), 1, "said once");
}

// ---- fairness ----

#[test]
fn slow_files_have_their_turn_beside_a_busy_one_with_a_backlog() {
    let mut scene = narrow_scene();
    // The broker is the bottleneck: the busy file always has more than is taken.
    scene.cluster.broker_round_trip_time(1, Duration::from_millis(5)).expect("set");
    let busy_line = format!("busy {}\n", "x".repeat(995));
    scene.logs.append("busy.log", busy_line.repeat(10_000));
    for n in 0..20 {
        scene.logs.append(&format!("slow-{n}.log"), "slow\n");
    }
    let shipper = scene.start();
    let is_slow = |record: &support::Record| record.value == b"slow";
    scene.wait_for_records(10_020, &shipper);
    scene.stop(shipper);
    let records = scene.records();
    assert_eq!(records.iter().filter(|record| is_slow(record)).count(), 20);
    let last = records.iter().rposition(is_slow).expect("a slow line");
    // One turn of the busy file and what it reads at once, of its 10 MB.
    let n_busy = last - 19;
    assert!(n_busy <= 1400, "{n_busy} KB of the busy file before the last slow line");
}

// ---- notices ----

/// Starts a shipper in a user namespace of its own, in which `limit` of inotify is `n`.
fn start_with_inotify(scene: &Scene, limit: &str, n: usize) -> Shipper {
    let script = format!("echo {n} > /proc/sys/user/{limit} && exec \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["-r", "sh", "-c", &script, "sh"]).arg(shipper_binary()).args(["tail", "-c"]);
    Shipper::spawn(command.arg(scene.config()))
}

/// Torture: 26, 27.
#[test]
fn without_notices_files_are_looked_at_in_intervals() {
    for (limit, n) in [("max_inotify_instances", 0), ("max_inotify_watches", 0)] {
        let mut scene = Scene::new("*.log");
        scene.logs.append("a.log", lines(0..2));
        let shipper = start_with_inotify(&scene, limit, n);
        shipper.wait_for_log("no notices of", LIMIT);
        scene.wait_for_records(2, &shipper);
        scene.logs.append("a.log", lines(2..4));
        scene.wait_for_records(4, &shipper);
        scene.logs.rename("a.log", "a.log.1");
        scene.logs.append("a.log", lines(4..6));
        assert_eq!(scene.values_after(6, shipper), numbered(0..6), "{limit}");
    }
}

/// Torture: 26.
#[test]
fn notices_that_the_kernel_lost_are_made_up_for_by_looking_at_every_file() {
    let mut scene = Scene::new("*.log");
    // Nothing but the loss itself asks for a look within the time of this test.
    scene.set("[tail]", "scan_interval", "\"1h\"");
    let queued = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("Linux");
    let n_files = queued.trim().parse::<usize>().expect("a number") / 3 + 200;
    scene.logs.append("first.log", lines(0..1));
    let shipper = scene.start();
    scene.wait_for_records(1, &shipper);
    shipper.signal(Signal::STOP);
    // Each is created, written and closed: three notices.
    for n in 0..n_files {
        scene.logs.append(&format!("{n}.log"), format!("file {n}\n"));
    }
    scene.logs.append("first.log", lines(1..2));
    shipper.signal(Signal::CONT);
    shipper.wait_for_log("the kernel lost notices", LIMIT);
    scene.wait_for_records(n_files + 2, &shipper);
    scene.stop(shipper);
    let values: HashSet<String> = scene.values().into_iter().collect();
    assert_eq!(values.len(), n_files + 2);
}

/// Torture: 11.
#[test]
fn a_file_that_came_and_went_between_two_looks_disturbs_nothing() {
    let mut scene = Scene::new("*.log");
    let shipper = scene.start();
    scene.logs.append("a.log", lines(0..1));
    scene.wait_for_records(1, &shipper);
    shipper.signal(Signal::STOP);
    scene.logs.append("b.log", "never seen\n");
    scene.logs.remove("b.log");
    scene.logs.append("a.log", lines(1..2));
    shipper.signal(Signal::CONT);
    let log = shipper.log();
    assert!(!log.contains("b.log"), "{log}");
    assert_eq!(scene.values_after(2, shipper), numbered(0..2));
}

/// As a server of files answers once the file was replaced there: the handle is stale, and the
/// name leads to it again. What only NFS itself does, as attributes that lag, is not shown here.
///
/// Torture: 27.
#[test]
fn a_stale_handle_is_opened_anew_by_its_name() {
    let mut scene = Scene::new("*.log");
    let mut command = Command::new("strace");
    let trace = scene.state.path().join("trace");
    // `-D`: the shipper is the child that is ended with the test, and not strace alone.
    command
        .args(["-D", "-f", "-qq", "-e", "trace=pread64"])
        .arg("-P")
        .arg(scene.logs.path("a.log"));
    command.args(["-e", "inject=pread64:error=ESTALE:when=2..4", "-o"]).arg(&trace);
    command.arg(shipper_binary()).args(["tail", "-c"]);
    scene.logs.append("a.log", lines(0..100));
    let shipper = Shipper::spawn(command.arg(scene.config()));
    scene.wait_for_records(100, &shipper);
    scene.logs.append("a.log", lines(100..200));
    scene.wait_for_records(200, &shipper);
    let is_injected = || {
        let trace = fs::read_to_string(&trace).unwrap_or_default();
        (trace.matches("ESTALE").count() >= 3).then_some(())
    };
    wait_for(LIMIT, "stale handles", is_injected, || shipper.log());
    assert_eq!(scene.values(), numbered(0..200));
}

/// Torture: 29.
#[test]
fn fifty_rotations_a_second_lose_no_line() {
    for pattern in ["server.log", "server.log*"] {
        let mut scene = Scene::new(pattern);
        let shipper = scene.start();
        scene.logs.append("server.log", lines(0..1));
        scene.wait_for_records(1, &shipper);
        let n = 100;
        for rotation in 0..n {
            let to = format!("server.log.2026-01-31-{:02}-{:02}", rotation / 60, rotation % 60);
            scene.logs.rename("server.log", &to);
            scene.logs.append("server.log", lines(rotation + 1..rotation + 2));
            // The storm's own pace.
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(scene.values_after(n + 1, shipper), numbered(0..n + 1), "{pattern}");
    }
}

/// Each rotation renames every file there is, as an index behind the name makes it: whichever file
/// is looked at, or opened, may have another name by then, and some are born in one tick of the
/// clock.
///
/// Torture: 2, 29.
#[test]
fn a_storm_of_rotations_that_rename_all_files_keeps_the_order() {
    const N_ROTATIONS: usize = 150;
    for pattern in ["server.log", "server.log*"] {
        let mut scene = Scene::new(pattern);
        let shipper = scene.start();
        scene.logs.append("server.log", lines(0..1));
        scene.wait_for_records(1, &shipper);
        scene.logs.append("server.log", lines(1..6));
        for n in 1..=N_ROTATIONS {
            for index in (1..n).rev() {
                let name = |index: usize| format!("server.log.{index}");
                scene.logs.rename(&name(index), &name(index + 1));
            }
            scene.logs.rename("server.log", "server.log.1");
            scene.logs.append("server.log", lines(n * 6..n * 6 + 6));
            // The storm's own pace.
            thread::sleep(Duration::from_millis(n as u64 % 5));
        }
        let n_lines = (N_ROTATIONS + 1) * 6;
        assert_eq!(scene.values_after(n_lines, shipper), numbered(0..n_lines), "{pattern}");
    }
}

/// Torture: 30.
#[test]
fn a_log_that_grows_because_it_is_shipped_is_recognised_and_damped() {
    let mut scene = Scene::new("*.log");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..1));
    // A broker that writes a line for each request.
    let mut n = 1;
    let begun = Instant::now();
    while !shipper.log().contains("feedback loop") {
        scene.wait_for_records(n, &shipper);
        scene.logs.append("server.log", lines(n..n + 1));
        n += 1;
        assert!(begun.elapsed() < LIMIT, "not recognised after {n} turns");
    }
    // Three turns of the loop now take more than 10 seconds; before, hundreds.
    let begun = Instant::now();
    for _ in 0..3 {
        scene.wait_for_records(n, &shipper);
        scene.logs.append("server.log", lines(n..n + 1));
        n += 1;
    }
    assert!(begun.elapsed() > Duration::from_secs(8), "{:?}", begun.elapsed());
    scene.wait_for_records(n, &shipper);
    let counters = scene.stop(shipper);
    assert_eq!(counter(&counters, "feedback_loops"), 1, "{counters}");
    assert!(scene.values() == numbered(0..n), "nothing is lost for it");
}
