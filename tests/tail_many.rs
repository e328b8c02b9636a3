//! `shipper tail` and many files: however few may be open at once, each line arrives once and in
//! the order of its file.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use support::tail::{LIMIT, Scene};
use support::{Record, Shipper, counter, shipper_binary, wait_for};

/// The name of the n-th file.
fn name(n: usize) -> String {
    format!("app-{n:05}.log")
}

/// Appends a line to each of the files that says which round it is.
fn write_round(scene: &Scene, files: impl Iterator<Item = usize>, round: usize) {
    for n in files {
        scene.logs.append(&name(n), format!("{} round {round}\n", name(n)));
    }
}

/// The lines of each file, in the order of the topic.
fn by_file(records: &[Record]) -> BTreeMap<String, Vec<String>> {
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in records {
        let (file, line) =
            record.text().split_once(' ').map(|(a, b)| (a.into(), b.into())).unwrap();
        files.entry(file).or_default().push(line);
    }
    files
}

/// What each of the files must have given after so many rounds.
fn rounds(n_files: usize, n_rounds: usize) -> BTreeMap<String, Vec<String>> {
    let lines: Vec<String> = (0..n_rounds).map(|round| format!("round {round}")).collect();
    (0..n_files).map(|n| (name(n), lines.clone())).collect()
}

/// How many log files the process holds open.
fn n_open_logs(shipper: &Shipper) -> usize {
    let fds = fs::read_dir(format!("/proc/{}/fd", shipper.pid())).expect("running");
    let links = fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().contains(".log")).count()
}

/// Starts a shipper that may open so few files, with nothing open but its standard streams: what
/// the test itself holds open would be counted.
fn start_with_descriptors(scene: &Scene, n: usize) -> Shipper {
    let close_all =
        "for fd in /proc/self/fd/*; do fd=${fd##*/}; [ $fd -gt 2 ] && eval \"exec $fd>&-\"; done";
    let script = format!("{close_all}; exec prlimit --nofile={n} \"$@\"");
    let mut command = Command::new("bash");
    command.args(["-c", &script, "bash"]).arg(shipper_binary()).args(["tail", "-c"]);
    Shipper::spawn(command.arg(scene.config()))
}

/// Torture: 23.
#[test]
fn of_many_files_few_are_open_and_none_waits_for_ever() {
    let mut scene = Scene::new("*.log");
    scene.set("[tail]", "open_files_max", "8");
    let n_files = 200;
    let shipper = scene.start();
    for round in 0..4 {
        write_round(&scene, 0..n_files, round);
        scene.wait_for_records((round + 1) * n_files, &shipper);
        // Listing them takes a while, in which some are closed and others opened.
        let are_few = || (n_open_logs(&shipper) <= 8).then_some(());
        wait_for(LIMIT, "closed files", are_few, || n_open_logs(&shipper).to_string());
    }
    let counters = scene.stop(shipper);
    assert_eq!(by_file(scene.records()), rounds(n_files, 4));
    assert_eq!(counter(&counters, "bytes_lost"), 0, "{counters}");

    // A restart knows all of them, and repeats none.
    write_round(&scene, 0..n_files, 4);
    let shipper = scene.start();
    scene.wait_for_records(5 * n_files, &shipper);
    scene.stop(shipper);
    assert_eq!(by_file(scene.records()), rounds(n_files, 5));
}

/// Torture: 23.
#[test]
fn more_files_than_may_be_open_begin_at_their_end_when_told_so() {
    let mut scene = Scene::new("*.log");
    scene.set("[tail]", "open_files_max", "4");
    scene.set("[[input]]", "start_at", "\"end\"");
    let n_files = 50;
    for n in 0..n_files {
        scene.logs.append(&name(n), "before the start\n");
    }
    let shipper = scene.start();
    scene.wait_for_entry(&name(n_files - 1), "\"offset\":17");
    write_round(&scene, 0..n_files, 0);
    scene.wait_for_records(n_files, &shipper);
    scene.stop(shipper);
    assert_eq!(by_file(scene.records()), rounds(n_files, 1));
}

/// Torture: 23.
#[test]
fn a_closed_file_that_is_renamed_truncated_or_deleted_meanwhile_is_known_again() {
    let mut scene = Scene::new("*.log");
    scene.set("[tail]", "open_files_max", "2");
    let shipper = scene.start();
    write_round(&scene, 0..4, 0);
    scene.wait_for_records(4, &shipper);
    // The last two turns belong to 8 and 9: all of the others are closed.
    write_round(&scene, 8..10, 0);
    scene.wait_for_records(6, &shipper);
    let is_closed = || (n_open_logs(&shipper) == 2).then_some(());
    wait_for(LIMIT, "closed files", is_closed, || shipper.log());

    shipper.signal(Signal::STOP);
    scene.logs.append(&name(0), format!("{} old\n", name(0)));
    scene.logs.rename(&name(0), &format!("{}.1", name(0)));
    scene.logs.append(&name(0), format!("{} new\n", name(0)));
    scene.logs.truncate(&name(1));
    scene.logs.append(&name(1), format!("{} overwritten and longer than it was\n", name(1)));
    scene.logs.remove(&name(2));
    scene.logs.append(&name(3), format!("{} round 1\n", name(3)));
    shipper.signal(Signal::CONT);

    scene.wait_for_records(10, &shipper);
    shipper.wait_for_log("file deleted while it was not open", LIMIT);
    let counters = scene.stop(shipper);
    assert_eq!(counter(&counters, "bytes_lost"), 0, "all of 2 had been read: {counters}");
    let files = by_file(scene.records());
    assert_eq!(files[&name(0)], ["round 0", "old", "new"]);
    assert_eq!(files[&name(1)], ["round 0", "overwritten and longer than it was"]);
    assert_eq!(files[&name(2)], ["round 0"]);
    assert_eq!(files[&name(3)], ["round 0", "round 1"]);
}

/// Torture: 10, 23.
#[test]
fn a_deleted_file_stays_open_whatever_the_limit() {
    let mut scene = Scene::new("*.log");
    scene.set("[tail]", "open_files_max", "2");
    scene.set("[tail]", "rotate_grace", "\"60s\"");
    let shipper = scene.start();
    write_round(&scene, 0..1, 0);
    scene.wait_for_records(1, &shipper);
    let mut writer = scene.logs.open(&name(0));
    scene.logs.remove(&name(0));
    shipper.wait_for_log("file deleted", LIMIT);
    write_round(&scene, 1..20, 0);
    scene.wait_for_records(20, &shipper);
    std::io::Write::write_all(&mut writer, format!("{} late\n", name(0)).as_bytes())
        .expect("written");
    scene.wait_for_records(21, &shipper);
    assert_eq!(by_file(scene.records())[&name(0)], ["round 0", "late"]);
}

/// Torture: 24.
#[test]
fn too_few_descriptors_for_the_process_lose_and_repeat_nothing() {
    let mut scene = Scene::new("*.log");
    let n_files = 100;
    for round in 0..3 {
        write_round(&scene, 0..n_files, 2 * round);
        let shipper = start_with_descriptors(&scene, 32);
        scene.wait_for_records((2 * round + 1) * n_files, &shipper);
        write_round(&scene, 0..n_files, 2 * round + 1);
        scene.wait_for_records((2 * round + 2) * n_files, &shipper);
        scene.stop(shipper);
    }
    assert_eq!(by_file(scene.records()), rounds(n_files, 6));
}

/// Torture: 24.
#[test]
fn descriptors_that_are_taken_away_while_running_are_made_do_without() {
    let mut scene = Scene::new("*.log");
    let n_files = 100;
    let shipper = start_with_descriptors(&scene, 1024);
    write_round(&scene, 0..n_files, 0);
    scene.wait_for_records(n_files, &shipper);
    // What is open stays open; nothing more can be, not even a folder, nor the registry.
    let pid = rustix::process::Pid::from_raw(shipper.pid() as i32);
    let few = rustix::process::Rlimit { current: Some(24), maximum: Some(24) };
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, few).expect("lowered");
    write_round(&scene, 0..n_files, 1);
    scene.wait_for_records(2 * n_files, &shipper);
    write_round(&scene, n_files..2 * n_files, 0);
    write_round(&scene, n_files..2 * n_files, 1);
    scene.wait_for_records(4 * n_files, &shipper);
    shipper.wait_for_log("and no more can be", LIMIT);
    scene.stop(shipper);
    assert_eq!(by_file(scene.records()), rounds(2 * n_files, 2));
}

/// Torture: 23.
#[test]
fn ten_thousand_files_of_which_a_hundred_are_active_take_little_memory() {
    let mut scene = Scene::new("*.log");
    scene.set("[tail]", "scan_interval", "\"1s\"");
    let n_files = 10_000;
    write_round(&scene, 0..n_files, 0);
    let shipper = start_with_descriptors(&scene, 1024);
    scene.wait_for_records(n_files, &shipper);
    let active = || (0..n_files).step_by(100);
    for round in 1..10 {
        write_round(&scene, active(), round);
        scene.wait_for_records(n_files + 100 * round, &shipper);
    }
    let n_open = n_open_logs(&shipper);
    assert!(n_open < 1024 - 100, "{n_open} open");
    // The goal is 32 MiB with the pages of the program itself, which are 7 where it is optimised
    // and more where it is not; what it takes besides is a little more then, too.
    let (held, own) = (shipper.memory("VmHWM:"), shipper.memory("RssAnon:"));
    eprintln!("peak {} KiB, now {} KiB of its own, {n_open} open", held >> 10, own >> 10);
    assert!(own < 28 << 20, "{own} bytes");
    scene.stop(shipper);
    let files = by_file(scene.records());
    assert_eq!(files.len(), n_files);
    for n in 0..n_files {
        let n_rounds = if n % 100 == 0 { 10 } else { 1 };
        assert_eq!(files[&name(n)], rounds(1, n_rounds)[&name(0)], "{}", name(n));
    }
}

#[test]
fn the_limit_shows_in_the_configuration() {
    let mut scene = Scene::new("*.log");
    scene.set("[tail]", "open_files_max", "0");
    let mut shipper = scene.start();
    assert_eq!(shipper.wait(Duration::from_secs(20)).code(), Some(78));
    assert!(shipper.log().contains("open_files_max"), "{}", shipper.log());
}
