//! `shipper tail` and what happens to files: each line arrives once and in order, whatever is
//! renamed, truncated, deleted or replaced.

mod support;

use std::fs;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use support::tail::{LIMIT, Scene, covered, lines, make_fifo, numbered};
use support::{Shipper, broker_down, counter, wait_for};

/// With the path alone, as for Kafka's own logs, and with a glob that finds rotated files too.
const PATTERNS: [&str; 2] = ["server.log", "server.log*"];

// ---- rotation ----

/// Torture: 1.
#[test]
fn a_renamed_file_is_read_to_its_end_before_its_successor() {
    for pattern in PATTERNS {
        let mut scene = Scene::new(pattern);
        let shipper = scene.start();
        scene.logs.append("server.log", lines(0..2));
        scene.wait_for_records(2, &shipper);
        scene.logs.rename("server.log", "server.log.1");
        scene.logs.append("server.log.1", lines(2..4));
        scene.logs.append("server.log", lines(4..6));
        assert_eq!(scene.values_after(6, shipper), numbered(0..6), "{pattern}");
        assert_eq!(covered(scene.records()).len(), 2);
    }
}

/// Torture: 2.
#[test]
fn three_rotations_between_two_looks_lose_no_file() {
    for pattern in PATTERNS {
        let mut scene = Scene::new(pattern);
        let shipper = scene.start();
        scene.logs.append("server.log", lines(0..2));
        scene.wait_for_records(2, &shipper);
        shipper.signal(Signal::STOP);
        for n in 1..4 {
            for at in (1..n).rev() {
                scene.logs.rename(&format!("server.log.{at}"), &format!("server.log.{}", at + 1));
            }
            // Files of the same moment have no order: a rotation a second.
            scene.logs.append("server.log", lines(2 * n..2 * n + 1));
            scene
                .logs
                .set_modified("server.log", SystemTime::now() + Duration::from_secs(n as u64));
            scene.logs.rename("server.log", "server.log.1");
            scene.logs.append("server.log", lines(2 * n + 1..2 * n + 2));
        }
        shipper.signal(Signal::CONT);
        assert_eq!(scene.values_after(8, shipper), numbered(0..8), "{pattern}");
    }
}

/// Torture: 3.
#[test]
fn a_writer_that_goes_on_in_the_renamed_file_is_followed() {
    for pattern in PATTERNS {
        let mut scene = Scene::new(pattern);
        scene.set("[tail]", "rotate_grace", "\"5s\"");
        let shipper = scene.start();
        let mut writer = scene.logs.open("server.log");
        for n in 0..10 {
            if n == 3 {
                scene.logs.rename("server.log", "server.log.1");
                shipper.wait_for_log("name=", LIMIT);
            }
            writer.write_all(lines(n..n + 1).as_bytes()).expect("written");
            scene.wait_for_records(n + 1, &shipper);
        }
        scene.logs.append("server.log", lines(10..11));
        scene.wait_for_records(11, &shipper);
        writer.write_all(lines(11..12).as_bytes()).expect("written");
        assert_eq!(scene.values_after(12, shipper), numbered(0..12), "{pattern}");
    }
}

/// Torture: 32.
#[test]
fn a_last_line_without_newline_leaves_marked_when_its_file_was_rotated() {
    let mut scene = Scene::new("server.log");
    let shipper = scene.start();
    scene.logs.append("server.log", "whole\nhal");
    scene.wait_for_records(1, &shipper);
    scene.logs.rename("server.log", "server.log.1");
    scene.logs.append("server.log", "next\n");
    assert_eq!(scene.values_after(3, shipper), ["whole", "hal", "next"]);
    let records = scene.records();
    assert_eq!(records[1].header("partial"), "1");
    assert_eq!(covered(records), [9, 5]);
}

/// Torture: 4.
#[test]
fn rotation_while_stopped_loses_repeats_and_disorders_nothing() {
    for pattern in PATTERNS {
        for n_rotations in 1..3 {
            let mut scene = Scene::new(pattern);
            let shipper = scene.start();
            scene.logs.append("server.log", lines(0..2));
            scene.wait_for_records(2, &shipper);
            scene.stop(shipper);
            let mut n = 2;
            for rotation in 0..n_rotations {
                scene.logs.append("server.log", lines(n..n + 2));
                if rotation == 1 {
                    scene.logs.rename("server.log.1", "server.log.2");
                }
                scene.logs.rename("server.log", "server.log.1");
                n += 2;
            }
            scene.logs.append("server.log", lines(n..n + 2));
            let shipper = scene.start();
            let values = scene.values_after(n + 2, shipper);
            assert_eq!(values, numbered(0..n + 2), "{pattern}, {n_rotations} rotations");
        }
    }
}

/// Torture: 1.
#[test]
fn a_writer_in_a_hurry_that_rotates_often_is_followed_line_by_line() {
    for pattern in PATTERNS {
        let mut scene = Scene::new(pattern);
        let shipper = scene.start();
        let (n_files, n_lines) = (20, 2000);
        for file in 0..n_files {
            let mut writer = scene.logs.open("server.log");
            for n in file * n_lines..(file + 1) * n_lines {
                writer.write_all(lines(n..n + 1).as_bytes()).expect("written");
            }
            // Files that come and go between two looks are another test.
            scene.wait_for_records(file * n_lines + 1, &shipper);
            scene.logs.rename("server.log", &format!("server.log.2026-01-31-{file:02}"));
        }
        let values = scene.values_after(n_files * n_lines, shipper);
        assert!(values == numbered(0..n_files * n_lines), "{pattern}: {}", values.len());
    }
}

#[test]
fn a_file_that_grows_all_the_time_is_never_taken_for_another() {
    let mut scene = Scene::new("server.log");
    let shipper = scene.start();
    let mut writer = scene.logs.open("server.log");
    let n = 50_000;
    for n in 0..n {
        writer.write_all(lines(n..n + 1).as_bytes()).expect("written");
    }
    scene.wait_for_records(n, &shipper);
    let counters = scene.stop(shipper);
    assert_eq!(counter(&counters, "files_truncated"), 0, "{counters}");
    assert!(scene.values() == numbered(0..n));
}

#[test]
fn kill_9_at_any_moment_loses_nothing() {
    let mut scene = Scene::new("server.log*");
    let mut shipper = scene.start();
    for round in 0..5 {
        let first = round * 3000;
        scene.logs.append("server.log", lines(first..first + 1000));
        scene.logs.rename("server.log", &format!("server.log.2026-01-31-{round:02}"));
        scene.logs.append("server.log", lines(first + 1000..first + 3000));
        // Each round a little further.
        scene.wait_for_records(first + round * 500, &shipper);
        shipper.kill();
        shipper = scene.start();
    }
    let expected = numbered(0..15_000);
    let is_there = |scene: &mut Scene| {
        let mut values = scene.values();
        values.sort();
        values.dedup();
        values.len() == expected.len()
    };
    let look = || is_there(&mut scene).then_some(());
    wait_for(LIMIT, "all lines", look, || shipper.log());
    scene.stop(shipper);
}

#[test]
fn a_backlog_goes_out_oldest_first_and_once() {
    let mut scene = Scene::new("server.log*");
    let names = ["server.log.2026-01-30-09", "server.log.2026-01-30-10", "server.log.1"];
    for (at, name) in names.iter().enumerate() {
        scene.logs.append(name, lines(10 * at..10 * at + 10));
        scene.logs.age(name, 1000 - 100 * at as u64);
    }
    scene.logs.append("server.log", lines(30..40));
    let shipper = scene.start();
    scene.wait_for_records(40, &shipper);
    for name in names {
        shipper.wait_for_log(
            &format!("file finished: name={}", scene.logs.path(name).display()),
            LIMIT,
        );
    }
    assert_eq!(scene.values_after(40, shipper), numbered(0..40));

    let shipper = scene.start();
    scene.logs.append("server.log", lines(40..41));
    assert_eq!(scene.values_after(41, shipper), numbered(0..41));
}

/// Torture: 2.
#[test]
fn a_finished_file_is_not_read_again_when_it_is_renamed_again() {
    let mut scene = Scene::new("server.log*");
    let shipper = scene.start();
    for round in 0..30 {
        for at in (1..round).rev() {
            scene.logs.rename(&format!("server.log.{at}"), &format!("server.log.{}", at + 1));
        }
        if round > 0 {
            scene.logs.rename("server.log", "server.log.1");
        }
        scene.logs.append("server.log", lines(round..round + 1));
        scene.wait_for_records(round + 1, &shipper);
    }
    assert_eq!(scene.values_after(30, shipper), numbered(0..30));
}

// ---- truncation ----

#[test]
fn a_truncated_file_is_read_from_its_first_byte() {
    let mut scene = Scene::new("server.log");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    scene.logs.truncate("server.log");
    scene.logs.append("server.log", lines(3..4));
    scene.wait_for_records(4, &shipper);
    let counters = scene.stop(shipper);
    assert_eq!(counter(&counters, "files_truncated"), 1);
    assert_eq!(scene.values(), numbered(0..4));
    assert_eq!(covered(scene.records()), [21, 7]);
}

/// Torture: 7.
#[test]
fn a_file_that_was_truncated_and_outgrew_its_old_size_unseen_is_read_from_its_first_byte() {
    let mut scene = Scene::new("server.log");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    shipper.signal(Signal::STOP);
    scene.logs.truncate("server.log");
    scene.logs.append("server.log", lines(3..9));
    shipper.signal(Signal::CONT);
    assert_eq!(scene.values_after(9, shipper), numbered(0..9));
}

/// Torture: 7.
#[test]
fn a_quiet_file_that_was_truncated_and_outgrew_its_old_size_is_read_from_its_first_byte() {
    let mut scene = Scene::new("server.log");
    scene.logs.append("server.log", lines(0..3));
    let shipper = scene.start();
    scene.wait_for_records(3, &shipper);
    scene.stop(shipper);
    // It has read nothing itself, and has looked more than once.
    let shipper = scene.start();
    shipper.wait_for_log("file resumed", LIMIT);
    for seconds in [20, 10] {
        scene.logs.age("server.log", seconds);
        std::thread::sleep(Duration::from_millis(120));
    }
    shipper.signal(Signal::STOP);
    scene.logs.truncate("server.log");
    scene.logs.append("server.log", lines(3..9));
    shipper.signal(Signal::CONT);
    assert_eq!(scene.values_after(9, shipper), numbered(0..9));
}

/// Torture: 7.
#[test]
fn a_file_that_was_truncated_while_it_was_behind_is_read_from_its_first_byte() {
    let mut scene = Scene::new("server.log");
    scene.set("[batch]", "in_flight_max", "1");
    scene.set("[batch]", "bytes_max", "\"64KB\"");
    scene.set("[[input]]", "line_bytes_max", "\"1KiB\"");
    scene.set("[[input]]", "event_bytes_max", "\"1KiB\"");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    broker_down(&scene.cluster, 1);
    scene.logs.append("server.log", lines(3..100_000));
    // Neither read to its end nor let go.
    let is_read = || {
        let io = fs::read_to_string(format!("/proc/{}/io", shipper.pid())).expect("running");
        let n: u64 = io.lines().next()?.strip_prefix("rchar: ")?.parse().ok()?;
        (n > 200_000).then_some(())
    };
    wait_for(LIMIT, "bytes read", is_read, || shipper.log());
    shipper.signal(Signal::STOP);
    scene.logs.truncate("server.log");
    scene.logs.append("server.log", lines(200_000..300_000));
    shipper.signal(Signal::CONT);
    scene.cluster.broker_up(1).expect("up");
    let look = || scene.values().ends_with(&["line 299999".into()]).then_some(());
    wait_for(LIMIT, "the last line", look, || shipper.log());
    scene.stop(shipper);
    let values = scene.values();
    let begin = values.iter().position(|value| value == "line 200000").expect("begun anew");
    assert!(values[begin..] == numbered(200_000..300_000));
}

/// Torture: 6.
#[test]
fn copytruncate_ships_each_line_once() {
    let mut scene = Scene::new("server.log");
    let shipper = scene.start();
    for round in 0..3 {
        scene.logs.append("server.log", lines(3 * round..3 * round + 3));
        scene.wait_for_records(3 * round + 3, &shipper);
        scene.logs.copytruncate("server.log", &format!("server.log.{round}"));
        shipper.wait_for_log(
            &format!("name={}", scene.logs.path(&format!("server.log.{round}")).display()),
            LIMIT,
        );
    }
    scene.logs.append("server.log", lines(9..10));
    assert_eq!(scene.values_after(10, shipper), numbered(0..10));
}

/// Torture: 8.
#[test]
fn a_file_that_was_truncated_while_stopped_is_read_from_its_first_byte() {
    // Shorter than before, as long, longer.
    for n_lines in [1, 3, 6] {
        let mut scene = Scene::new("server.log");
        let shipper = scene.start();
        scene.logs.append("server.log", lines(0..3));
        scene.wait_for_records(3, &shipper);
        scene.stop(shipper);
        scene.logs.truncate("server.log");
        scene.logs.append("server.log", lines(3..3 + n_lines));
        let shipper = scene.start();
        assert_eq!(scene.values_after(3 + n_lines, shipper), numbered(0..3 + n_lines));
        // And only once.
        let shipper = scene.start();
        shipper.wait_for_log("file resumed", LIMIT);
        scene.logs.append("server.log", lines(3 + n_lines..4 + n_lines));
        assert_eq!(scene.values_after(4 + n_lines, shipper), numbered(0..4 + n_lines));
    }
}

// ---- deletion, replacement ----

/// Torture: 10.
#[test]
fn a_file_that_is_deleted_while_it_is_behind_is_read_to_its_end() {
    let mut scene = Scene::new("server.log");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    broker_down(&scene.cluster, 1);
    scene.logs.append("server.log", lines(3..100_000));
    scene.logs.remove("server.log");
    shipper.wait_for_log("file deleted", LIMIT);
    scene.logs.append("server.log", lines(100_000..100_003));
    scene.cluster.broker_up(1).expect("up");
    let values = scene.values_after(100_003, shipper);
    assert!(values == numbered(0..100_003), "{}", values.len());
}

/// Torture: 12, 19.
#[test]
fn a_file_that_takes_the_place_of_another_is_read_from_its_first_byte() {
    let mut scene = Scene::new("server.log");
    let shipper = scene.start();
    for round in 0..20 {
        let first = 3 * round;
        if round % 2 == 0 {
            // The file system is free to use the inode again.
            scene.logs.append("server.log", lines(first..first + 3));
        } else {
            scene.logs.append("new", lines(first..first + 3));
            scene.logs.rename("new", "server.log");
        }
        scene.wait_for_records(first + 3, &shipper);
        if round % 2 == 1 {
            scene.logs.remove("server.log");
        }
    }
    assert_eq!(scene.values_after(60, shipper), numbered(0..60));
}

/// Torture: 13.
#[test]
fn two_files_of_the_same_content_are_both_shipped() {
    let mut scene = Scene::new("*.log");
    scene.logs.append("a.log", lines(0..3));
    scene.logs.append("b.log", lines(0..3));
    let shipper = scene.start();
    scene.wait_for_records(6, &shipper);
    scene.stop(shipper);
    assert_eq!(covered(scene.records()), [21, 21]);
    let mut values = scene.values();
    values.sort();
    assert_eq!(
        values,
        [
            numbered(0..1),
            numbered(0..1),
            numbered(1..2),
            numbered(1..2),
            numbered(2..3),
            numbered(2..3)
        ]
        .concat()
    );
}

/// Torture: 14.
#[test]
fn a_file_of_two_names_is_shipped_once_under_the_first() {
    for _ in 0..8 {
        let mut scene = Scene::new("*.log");
        scene.logs.append("a.log", lines(0..3));
        fs::hard_link(scene.logs.path("a.log"), scene.logs.path("b.log")).expect("linked");
        let shipper = scene.start();
        scene.wait_for_records(3, &shipper);
        scene.logs.append("b.log", lines(3..6));
        assert_eq!(scene.values_after(6, shipper), numbered(0..6));
        let path = scene.logs.path("a.log").display().to_string();
        assert!(scene.records().iter().all(|record| record.header("path") == path));
    }
}

/// Torture: 16, 17, 18.
#[test]
fn what_is_not_a_regular_file_is_left_out_with_one_warning() {
    let mut scene = Scene::new("*.log");
    scene.logs.append("secret", "secret\n");
    std::os::unix::fs::symlink(scene.logs.path("secret"), scene.logs.path("a.log"))
        .expect("linked");
    std::os::unix::fs::symlink(scene.logs.path("b.log"), scene.logs.path("b.log")).expect("linked");
    make_fifo(&scene.logs.path("c.log"));
    fs::create_dir(scene.logs.path("d.log")).expect("made");
    scene.logs.append("e.log", "");
    scene.logs.append("f.log", lines(0..1));
    let shipper = scene.start();
    scene.wait_for_records(1, &shipper);
    // More looks than one.
    for n in 1..4 {
        scene.logs.append(&format!("g{n}.log"), lines(n..n + 1));
        scene.wait_for_records(n + 1, &shipper);
    }
    let log = shipper.log();
    assert_eq!(scene.values_after(4, shipper), numbered(0..4));
    for (name, reason) in [
        ("a.log", "it is a symbolic link"),
        ("b.log", "it is a symbolic link"),
        ("c.log", "it is not a regular file"),
        ("d.log", "it is a folder"),
    ] {
        let warning = format!("file left out: name={}: {reason}", scene.logs.path(name).display());
        assert_eq!(log.matches(&warning).count(), 1, "{log}");
    }
    assert_eq!(log.matches("left out").count(), 4, "{log}");
}

/// Torture: 25.
#[test]
fn a_file_that_may_not_be_read_is_shipped_once_it_may() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut scene = Scene::new("server.log");
    scene.logs.append("server.log", lines(0..3));
    let allow = |mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(scene.logs.path("server.log"), permissions).expect("set");
    };
    allow(0o000);
    let shipper = start_without_privileges(&scene);
    shipper.wait_for_log("file left out", LIMIT);
    allow(0o600);
    scene.wait_for_records(3, &shipper);
    // Taken away again: what is open stays open.
    let allow = |mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(scene.logs.path("server.log"), permissions).expect("set");
    };
    let mut writer = scene.logs.open("server.log");
    allow(0o000);
    writer.write_all(lines(3..4).as_bytes()).expect("written");
    assert_eq!(scene.values_after(4, shipper), numbered(0..4));
}

/// Root may read everything, so root gives that privilege up.
fn start_without_privileges(scene: &Scene) -> Shipper {
    if !rustix::process::geteuid().is_root() {
        return scene.start();
    }
    let mut command = std::process::Command::new("setpriv");
    command.args(["--bounding-set", "-dac_override,-dac_read_search", "--"]);
    command.arg(support::shipper_binary()).args(["tail", "-c"]).arg(scene.config());
    Shipper::spawn(&mut command)
}

#[test]
fn a_folder_that_cannot_be_read_does_not_keep_rotated_files_of_others_open() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut scene = Scene::new("*/server.log*");
    for name in ["a", "b"] {
        fs::create_dir(scene.logs.path(name)).expect("made");
    }
    let closed = fs::Permissions::from_mode(0o000);
    fs::set_permissions(scene.logs.path("b"), closed).expect("set");
    let shipper = start_without_privileges(&scene);
    scene.logs.append("a/server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    scene.logs.remove("a/server.log");
    shipper.wait_for_log("file finished", LIMIT);
    assert_eq!(scene.values_after(3, shipper), numbered(0..3));
}

#[test]
fn more_files_than_may_be_open_are_shipped_one_after_the_other() {
    let mut scene = Scene::new("server.log*");
    for n in 0..400 {
        let name = format!("server.log.{n}");
        scene.logs.append(&name, lines(n..n + 1));
        scene.logs.age(&name, 10_000 - n as u64);
    }
    let mut command = std::process::Command::new("prlimit");
    command.arg("--nofile=256:256").arg(support::shipper_binary()).args(["tail", "-c"]);
    let shipper = Shipper::spawn(command.arg(scene.config()));
    assert_eq!(scene.values_after(400, shipper), numbered(0..400));
}

#[test]
fn a_file_that_is_not_there_is_named_once_and_read_when_it_comes() {
    let mut scene = Scene::new("server.log");
    let shipper = scene.start();
    shipper.wait_for_log("no file yet: path=", LIMIT);
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    let log = shipper.log();
    assert_eq!(log.matches("no file yet").count(), 1, "{log}");
    assert_eq!(counter(&scene.stop(shipper), "paths_unmatched"), 1);
}
