//! `shipper tail` and which file is which: links, names, moves, inodes that are used again.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::process::Signal;
use support::counter;
use support::tail::{Scene, covered, lines, numbered};

/// Points a link elsewhere, as `ln -sfn` does.
fn switch(scene: &Scene, target: &str, link: &str) {
    symlink(scene.logs.path(target), scene.logs.path("link.new")).expect("linked");
    scene.logs.rename("link.new", link);
}

/// Torture: 15.
#[test]
fn a_link_that_is_switched_is_followed_once_its_old_target_was_read() {
    let mut scene = Scene::new("server.log");
    scene.set("[[input]]", "follow_symlinks", "true");
    scene.logs.append("x.0", lines(0..2));
    symlink(scene.logs.path("x.0"), scene.logs.path("server.log")).expect("linked");
    let shipper = scene.start();
    for round in 1..6 {
        scene.wait_for_records(4 * round - 2, &shipper);
        shipper.signal(Signal::STOP);
        // Neither what stands before nor what stands behind the switch is lost or early.
        scene.logs.append(&format!("x.{}", round - 1), lines(4 * round - 2..4 * round));
        scene.logs.append(&format!("x.{round}"), lines(4 * round..4 * round + 2));
        switch(&scene, &format!("x.{round}"), "server.log");
        shipper.signal(Signal::CONT);
    }
    assert_eq!(scene.values_after(22, shipper), numbered(0..22));
    let path = scene.logs.path("server.log").display().to_string();
    assert!(scene.records().iter().all(|record| record.header("path") == path));
    assert_eq!(covered(scene.records()).len(), 6);
}

/// Torture: 15.
#[test]
fn a_link_whose_target_is_rotated_or_that_is_switched_while_stopped_is_followed() {
    let mut scene = Scene::new("server.log");
    scene.set("[[input]]", "follow_symlinks", "true");
    fs::create_dir(scene.logs.path("data")).expect("made");
    scene.logs.append("data/app.log", lines(0..2));
    symlink(scene.logs.path("data/app.log"), scene.logs.path("server.log")).expect("linked");
    let shipper = scene.start();
    scene.wait_for_records(2, &shipper);
    scene.logs.append("data/app.log", lines(2..4));
    scene.logs.rename("data/app.log", "data/app.log.1");
    scene.logs.append("data/app.log", lines(4..6));
    scene.wait_for_records(6, &shipper);
    scene.wait_for_entry("data/app.log", "\"offset\":14");
    scene.stop(shipper);
    scene.logs.append("data/app.log", lines(6..8));
    scene.logs.append("data/other.log", lines(8..10));
    switch(&scene, "data/other.log", "server.log");
    let shipper = scene.start();
    assert_eq!(scene.values_after(10, shipper), numbered(0..10));
}

/// Torture: 15.
#[test]
fn a_folder_that_is_a_link_is_followed_when_it_is_switched() {
    for follow in ["true", "false"] {
        let mut scene = Scene::new("current/server.log");
        scene.set("[[input]]", "follow_symlinks", follow);
        for folder in ["x.1", "x.2"] {
            fs::create_dir(scene.logs.path(folder)).expect("made");
        }
        symlink(scene.logs.path("x.1"), scene.logs.path("current")).expect("linked");
        scene.logs.append("x.1/server.log", lines(0..2));
        let shipper = scene.start();
        scene.wait_for_records(2, &shipper);
        shipper.signal(Signal::STOP);
        scene.logs.append("x.1/server.log", lines(2..4));
        scene.logs.append("x.2/server.log", lines(4..6));
        switch(&scene, "x.2", "current");
        shipper.signal(Signal::CONT);
        assert_eq!(scene.values_after(6, shipper), numbered(0..6), "{follow}");
    }
}

/// Torture: 16, 17.
#[test]
fn links_that_lead_nowhere_or_to_no_file_are_left_out_with_one_warning() {
    let mut scene = Scene::new("*.log");
    scene.set("[[input]]", "follow_symlinks", "true");
    symlink(scene.logs.path("a.log"), scene.logs.path("a.log")).expect("linked");
    symlink(scene.logs.path("nothing"), scene.logs.path("b.log")).expect("linked");
    symlink("/dev/null", scene.logs.path("c.log")).expect("linked");
    symlink("/", scene.logs.path("d.log")).expect("linked");
    let shipper = scene.start();
    for n in 0..5 {
        scene.logs.append(&format!("f{n}.log"), lines(n..n + 1));
        scene.wait_for_records(n + 1, &shipper);
    }
    let log = shipper.log();
    let counters = scene.stop(shipper);
    assert_eq!(counter(&counters, "files_refused"), 4, "{log}");
    assert_eq!(log.matches("left out").count(), 4, "{log}");
    assert_eq!(scene.values(), numbered(0..5));
}

/// Torture: 20.
#[test]
fn a_file_that_shrinks_by_a_few_bytes_is_a_new_life_and_is_so_once() {
    let mut scene = Scene::new("server.log");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..5));
    scene.wait_for_records(5, &shipper);
    scene.logs.open("server.log").set_len(28).expect("shrunk");
    scene.wait_for_records(9, &shipper);
    scene.logs.append("server.log", lines(4..6));
    scene.wait_for_records(11, &shipper);
    let counters = scene.stop(shipper);
    assert_eq!(counter(&counters, "files_truncated"), 1, "{counters}");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(6..7));
    let expected = [numbered(0..5), numbered(0..7)].concat();
    assert_eq!(scene.values_after(12, shipper), expected);
    assert_eq!(covered(scene.records()), [35, 49]);
}

/// Torture: 11, 12.
#[test]
fn files_that_come_and_go_with_the_inodes_of_others_are_files_of_their_own() {
    let mut scene = Scene::new("*.log");
    let shipper = scene.start();
    for n in 0..50 {
        // Gone before anybody can have looked; what remains may have its inode.
        scene.logs.append("gone.log", "never seen, or seen whole\n");
        scene.logs.remove("gone.log");
        scene.logs.append("server.log", lines(n..n + 1));
        scene.wait_for_records(n + 1, &shipper);
        scene.logs.remove("server.log");
    }
    scene.stop(shipper);
    let mut values = scene.values();
    values.retain(|value| !value.starts_with("never seen"));
    assert_eq!(values, numbered(0..50));
}

/// Torture: 41.
#[test]
fn names_of_any_bytes_are_shipped_and_known_after_a_restart_and_a_rotation() {
    let mut scene = Scene::new("*.log");
    let names: [&[u8]; 6] = [
        b"new\nline.log",
        b"a blank.log",
        b"100%s%n.log",
        b"\xff\xfe.log",
        b"\"'\\.log",
        b"[x]*?.log",
    ];
    let paths = names.map(|name| scene.logs.path("").join(Path::new(OsStr::from_bytes(name))));
    for path in &paths {
        fs::write(path, lines(0..2)).expect("written");
    }
    let shipper = scene.start();
    scene.wait_for_records(12, &shipper);
    scene.stop(shipper);
    for path in &paths {
        let mut rotated = path.clone().into_os_string();
        rotated.push(".1");
        fs::rename(path, &rotated).expect("renamed");
        fs::write(&rotated, lines(0..3)).expect("written");
        fs::write(path, lines(3..4)).expect("written");
    }
    let shipper = scene.start();
    scene.wait_for_records(24, &shipper);
    let log = shipper.log();
    scene.stop(shipper);
    for path in &paths {
        let of_path = |record: &&support::Record| {
            let (_, value) =
                record.headers.iter().find(|(name, _)| name == "path").expect("a path");
            value == path.as_os_str().as_bytes()
        };
        let values: Vec<_> = scene.records().iter().filter(of_path).map(|r| r.text()).collect();
        assert_eq!(values, numbered(0..4), "{path:?}: {log}");
    }
}
