//! The state directory in trouble: full, read-only, failing, gone, and killed amid each of its
//! system calls. Shipping goes on, nothing is lost, and no registry is ever refused for it.

mod support;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use log_shipper::tail::registry;
use support::faults::{Namespace, Strace, calls};
use support::tail::{HOST, LIMIT, Scene, lines, numbered};
use support::{Shipper, counter, wait_for};

/// A scene in which each save writes the registry anew.
fn scene() -> Scene {
    let mut scene = Scene::new("server.log");
    scene.set("[tail]", "journal_bytes_max", "0");
    scene
}

/// Returns the offset that a crash now would go on from.
fn saved_offset(folder: &Path) -> Option<u64> {
    let (snapshot, _) = registry::read(folder, HOST).ok()?;
    snapshot?.entries.iter().map(|entry| entry.offset).max()
}

fn wait_for_offset(folder: &Path, offset: u64, shipper: &Shipper) {
    let look = || (saved_offset(folder) == Some(offset)).then_some(());
    wait_for(LIMIT, &format!("saved offset {offset}"), look, || {
        format!("{:?}: {}", saved_offset(folder), shipper.log())
    });
}

/// Waits until the topic holds the first `n` lines, whatever is repeated.
fn wait_for_lines(scene: &mut Scene, n: usize, shipper: &Shipper) {
    let all = numbered(0..n);
    let look = || {
        let values: HashSet<String> = scene.values().into_iter().collect();
        all.iter().all(|line| values.contains(line)).then_some(())
    };
    wait_for(LIMIT, &format!("{n} lines"), look, || shipper.log());
}

/// Fails unless the topic holds the first `n` lines in their order; returns how many are repeated.
fn repeated(scene: &mut Scene, n: usize) -> usize {
    let values = scene.values();
    let mut seen = HashSet::new();
    let firsts: Vec<String> = values.iter().filter(|line| seen.insert(*line)).cloned().collect();
    assert_eq!(firsts, numbered(0..n));
    values.len() - n
}

/// Ships three lines, has `trouble` come, ships three more, and has it `heal`: it must have been
/// said once, as `says`, and be over by itself.
fn ships_through(scene: &mut Scene, place: &Namespace, trouble: &str, says: &str, heal: &str) {
    let folder = place.outside(&scene.state_dir());
    let shipper = place.start(&scene.config());
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    wait_for_offset(&folder, 21, &shipper);
    place.run(trouble);
    scene.logs.append("server.log", lines(3..6));
    scene.wait_for_records(6, &shipper);
    let line = shipper.wait_for_log("cannot save the registry", LIMIT);
    assert!(line.contains(says), "{line}");
    scene.logs.append("server.log", lines(6..9));
    scene.wait_for_records(9, &shipper);
    place.run(heal);
    shipper.wait_for_log("the registry is saved again", LIMIT);
    wait_for_offset(&folder, 63, &shipper);
    assert_eq!(shipper.log().matches("cannot save the registry").count(), 1);
    let counters = scene.stop(shipper);
    assert!(counter(&counters, "saves_failed") > 0, "{counters}");
    assert_eq!(scene.values(), numbered(0..9));
    let shipper = place.start(&scene.config());
    scene.logs.append("server.log", lines(9..10));
    assert_eq!(scene.values_after(10, shipper), numbered(0..10));
}

fn mounted(scene: &Scene, options: &str) -> Option<Namespace> {
    fs::create_dir(scene.state_dir()).expect("made");
    let folder = scene.state_dir();
    Namespace::new(&format!("mount -t tmpfs -o {options} tmpfs {}", folder.display()))
}

/// Torture: 51.
#[test]
fn a_full_disk_stops_no_line_and_heals() {
    let mut scene = scene();
    let Some(place) = mounted(&scene, "size=64k") else { return };
    let fill = scene.state_dir().join("fill");
    let full = format!("dd if=/dev/zero of={} bs=1k 2>/dev/null || true", fill.display());
    ships_through(&mut scene, &place, &full, "No space left", &format!("rm {}", fill.display()));
}

/// Torture: 54.
#[test]
fn a_disk_without_free_inodes_stops_no_line_and_heals() {
    let mut scene = scene();
    let Some(place) = mounted(&scene, "size=1m,nr_inodes=16") else { return };
    let folder = scene.state_dir().display().to_string();
    let full = format!("for n in $(seq 20); do touch {folder}/fill$n 2>/dev/null; done; true");
    let heal = format!("rm {folder}/fill*");
    ships_through(&mut scene, &place, &full, "No space left", &heal);
}

/// Torture: 52.
#[test]
fn a_file_system_that_becomes_read_only_stops_no_line_and_heals() {
    let mut scene = scene();
    let Some(place) = mounted(&scene, "size=1m") else { return };
    let folder = scene.state_dir().display().to_string();
    // The lock is open for writing, so that the mount itself cannot be made read-only.
    let trouble = format!("mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}");
    let heal = format!("umount {folder}");
    ships_through(&mut scene, &place, &trouble, "Read-only file system", &heal);
}

/// Torture: 51, 42.
#[test]
fn a_crash_on_a_full_disk_repeats_and_loses_nothing() {
    let mut scene = scene();
    let Some(place) = mounted(&scene, "size=64k") else { return };
    let folder = place.outside(&scene.state_dir());
    let shipper = place.start(&scene.config());
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    wait_for_offset(&folder, 21, &shipper);
    let fill = scene.state_dir().join("fill");
    place.run(&format!("dd if=/dev/zero of={} bs=1k 2>/dev/null || true", fill.display()));
    scene.logs.append("server.log", lines(3..6));
    scene.wait_for_records(6, &shipper);
    shipper.wait_for_log("cannot save the registry", LIMIT);
    shipper.kill();
    // The disk is still full.
    let shipper = place.start(&scene.config());
    scene.logs.append("server.log", lines(6..9));
    wait_for_lines(&mut scene, 9, &shipper);
    place.run(&format!("rm {}", fill.display()));
    wait_for_offset(&folder, 63, &shipper);
    scene.stop(shipper);
    assert_eq!(repeated(&mut scene, 9), 0);
}

/// Torture: 53.
#[test]
fn an_fsync_that_fails_is_never_repeated_on_the_same_file() {
    let mut scene = scene();
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    wait_for_offset(&scene.state_dir(), 21, &shipper);
    let output = scene.state.path().join("trace");
    let inject = Some("fsync,fdatasync:error=EIO:when=1");
    let files = state_files(&scene);
    let Some(strace) = Strace::attach(&shipper, "registry", &files, inject, &output) else {
        return;
    };
    scene.logs.append("server.log", lines(3..6));
    scene.wait_for_records(6, &shipper);
    let line = shipper.wait_for_log("cannot save the registry", LIMIT);
    assert!(line.contains("Input/output error"), "{line}");
    shipper.wait_for_log("the registry is saved again", LIMIT);
    let trace = strace.detach();
    let calls: Vec<&str> = trace.lines().collect();
    let failed: Vec<usize> =
        (0..calls.len()).filter(|at| calls[*at].contains("INJECTED")).collect();
    assert!(!failed.is_empty(), "{trace}");
    let path_of = |call: &str| call.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
    for at in failed {
        let (path, after) = (path_of(calls[at]), &calls[at + 1..]);
        let is_again = |call: &&str| call.contains("sync(") && path_of(call) == path;
        let is_new = |call: &&str| call.contains(&path) && call.contains("O_CREAT|O_EXCL");
        if let Some(again) = after.iter().position(is_again) {
            assert!(after[..again].iter().any(is_new), "{path}: {trace}");
        }
    }
    assert_eq!(scene.values_after(6, shipper), numbered(0..6));
}

/// Torture: 55.
#[test]
fn a_state_folder_that_is_deleted_or_replaced_is_made_anew_while_nothing_else_happens() {
    let mut scene = Scene::new("server.log");
    scene.logs.append("server.log", lines(0..3));
    let mut n_said = 0;
    for replaced in [false, true] {
        let shipper = scene.start();
        shipper.wait_for_log("server.log offset=", LIMIT);
        wait_for_offset(&scene.state_dir(), 21, &shipper);
        scene.wait_for_records(3, &shipper);
        fs::rename(scene.state_dir(), scene.state.path().join(format!("away-{replaced}")))
            .expect("renamed");
        if replaced {
            fs::create_dir(scene.state_dir()).expect("made");
        }
        shipper.wait_for_log("was deleted or replaced while we worked in it", LIMIT);
        wait_for_offset(&scene.state_dir(), 21, &shipper);
        n_said += shipper.log().matches("was deleted or replaced").count();
        // Nobody else may work in the new one either.
        let second = Shipper::start("tail", &scene.config()).wait(LIMIT);
        assert_eq!(second.code(), Some(75));
        shipper.kill();
    }
    assert_eq!(n_said, 2);
    let shipper = scene.start();
    scene.logs.append("server.log", lines(3..6));
    assert_eq!(scene.values_after(6, shipper), numbered(0..6));
}

// ---- at every system call ----

/// Torture: 43.
#[test]
fn a_kill_after_any_call_of_a_save_leaves_a_registry_that_is_taken() {
    at_every_call_of_a_save("signal=KILL");
}

/// Torture: 43, 53.
#[test]
fn an_input_output_error_at_any_call_of_a_save_loses_nothing() {
    at_every_call_of_a_save("error=EIO");
}

/// Torture: 43, 51.
#[test]
fn a_full_disk_at_any_call_of_a_save_loses_nothing() {
    at_every_call_of_a_save("error=ENOSPC");
}

/// Torture: 43.
#[test]
fn a_full_quota_at_any_call_of_a_save_loses_nothing() {
    at_every_call_of_a_save("error=EDQUOT");
}

/// The threads that write to the state directory: the hub, and the one that waits for the disk;
/// and after how many bytes of the journal the registry is written.
const WAYS: [(&str, &str); 3] = [("shipper", "1MiB"), ("registry", "1MiB"), ("registry", "0")];

/// System calls that change what is on disk, or make sure that it stays there.
const CHANGES: [&str; 14] = [
    "openat",
    "write",
    "pwrite64",
    "writev",
    "fsync",
    "fdatasync",
    "rename",
    "link",
    "linkat",
    "unlink",
    "ftruncate",
    "fallocate",
    "mkdir",
    "close",
];

/// Returns the paths of all that may lie in the state directory, and its own.
fn state_files(scene: &Scene) -> Vec<PathBuf> {
    let folder = scene.state_dir();
    let mut names = ["lock", "registry.json", "registry.json.tmp", "registry.json.prev"]
        .map(str::to_owned)
        .to_vec();
    names.extend((0..10).map(|n| format!("journal.{n}")));
    let mut files: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
    files.push(folder);
    files
}

/// Has `fault` happen at each system call of a save in turn, on either thread, and goes on.
fn at_every_call_of_a_save(fault: &str) {
    let (mut n_calls, mut n_hit) = (0, 0);
    for (thread, journal_bytes_max) in WAYS {
        let Some((_, trace)) = save_under(thread, journal_bytes_max, None) else { return };
        let is_change = |(name, _): &(String, usize)| CHANGES.contains(&name.as_str());
        for (name, nth) in calls(&trace).into_iter().filter(is_change) {
            let at = format!("{fault} at {name} {nth} of {thread}");
            let inject = format!("{name}:{fault}:when={nth}");
            let (mut scene, trace) =
                save_under(thread, journal_bytes_max, Some(&inject)).expect("strace");
            n_calls += 1;
            n_hit += usize::from(is_hit(&trace));

            let shipper = scene.start();
            scene.logs.append("server.log", lines(6..7));
            wait_for_lines(&mut scene, 7, &shipper);
            let (status, log) = shipper.stop(LIMIT);
            assert!(status.success(), "{at}: {log}");
            // The lines of the save that did not come about, at most.
            assert!(repeated(&mut scene, 7) <= 3, "{at}: {trace}");
            assert_eq!(saved_offset(&scene.state_dir()), Some(49), "{at}");
        }
    }
    assert!(n_calls >= 8, "a save writes, syncs, links and renames");
    // A save may come a moment earlier or later, and then with a call less.
    assert!(n_hit * 10 >= n_calls * 8, "{n_hit} of {n_calls} calls were hit");
}

fn is_hit(trace: &str) -> bool {
    trace.contains("INJECTED") || trace.contains("killed by SIGKILL")
}

/// Ships three lines, then three more, and stops, with the thread under strace; returns what that
/// saw.
fn save_under(
    thread: &str,
    journal_bytes_max: &str,
    inject: Option<&str>,
) -> Option<(Scene, String)> {
    let mut scene = Scene::new("server.log");
    scene.set("[tail]", "journal_bytes_max", &format!("{journal_bytes_max:?}"));
    let mut shipper = scene.start();
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    wait_for_offset(&scene.state_dir(), 21, &shipper);
    let output = scene.state.path().join("trace");
    let files = state_files(&scene);
    let strace = Strace::attach(&shipper, thread, &files, inject, &output)?;
    scene.logs.append("server.log", lines(3..6));
    let folder = scene.state_dir();
    let is_over = || (is_hit(&strace.seen()) || saved_offset(&folder) == Some(42)).then_some(());
    wait_for(LIMIT, "save", is_over, || shipper.log());
    // A process that was killed hears nothing more.
    shipper.signal(rustix::process::Signal::TERM);
    shipper.wait(LIMIT);
    Some((scene, strace.detach()))
}
