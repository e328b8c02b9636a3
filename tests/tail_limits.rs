//! `shipper tail` as a guest: what it holds, how fast it reads, and what its own work brings about.

mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use support::tail::{LIMIT, Scene, covered, lines, numbered};
use support::{Shipper, counter, wait_for};

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
    scene.cluster.broker_down(1).expect("down");
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
    scene.cluster.broker_down(1).expect("down");
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
