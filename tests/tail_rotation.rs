//! `shipper tail` and what rotations do: copies, siblings, folders. Each line arrives once, and in
//! the order in which it was written.

mod support;

use std::fs;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use support::tail::{LIMIT, Scene, covered, lines, numbered};
use support::{counter, wait_for};

/// With the path alone, as for Kafka's own logs, and with a glob that finds rotated files too.
const PATTERNS: [&str; 2] = ["server.log", "server.log*"];

/// Waits until what is made or written next is younger than all that is there.
fn wait_for_tick(scene: &Scene) {
    let probe = scene.state.path().join("tick");
    let write = || fs::write(&probe, "x").and_then(|()| fs::metadata(&probe)?.modified());
    let before = write().expect("written");
    let is_later = || (write().expect("written") > before).then_some(());
    wait_for(LIMIT, "tick of the clock", is_later, String::new);
}

/// Sets a time that is later than all others so far: files of one tick of the clock have no order.
fn date(scene: &Scene, name: &str, n: usize) {
    scene.logs.set_modified(name, SystemTime::now() + Duration::from_secs(n as u64));
}

/// Torture: 32, 39.
#[test]
fn a_trace_whose_last_line_has_no_terminator_is_whole_when_its_file_is_rotated() {
    let mut scene = Scene::new("server.log");
    scene.set("[[input]]", "multiline", "{ profile = \"kafka\" }");
    scene.set("[[input]]", "event_timeout", "\"1s\"");
    scene.set("[tail]", "rotate_grace", "\"2s\"");
    let shipper = scene.start();
    let trace = "2026-01-31 13:00:00 ERROR\n\tat a\n\tat b";
    scene.logs.append("server.log", trace);
    shipper.wait_for_log("file found", LIMIT);
    scene.logs.rename("server.log", "server.log.1");
    scene.logs.append("server.log", "2026-01-31 13:00:01 INFO\n");
    assert_eq!(scene.values_after(2, shipper), [trace, "2026-01-31 13:00:01 INFO"]);
}

/// A trace, cut at a line; and the events before and behind it.
const CUT: [&str; 2] = [
    "2026-01-31 13:00:00 INFO before\n\
     2026-01-31 13:00:01 ERROR it went wrong\njava.io.IOException: no\n\tat a.b(C.java:1)\n",
    "\tat d.e(F.java:2)\nCaused by: g.H\n\t... 12 more\n2026-01-31 13:00:02 INFO behind\n",
];

fn scene_of_traces(pattern: &str) -> Scene {
    let mut scene = Scene::new(pattern);
    scene.set("[[input]]", "multiline", "{ profile = \"kafka\" }");
    scene.set("[[input]]", "event_timeout", "\"2s\"");
    scene.set("[tail]", "rotate_grace", "\"1s\"");
    scene
}

/// Asserts that the trace of [`CUT`] is one record, and that the records cover both files.
fn assert_whole(scene: &mut Scene) {
    let text = CUT.concat();
    let (before, rest) = text.split_at(text.find("2026-01-31 13:00:01").expect("there"));
    let (trace, behind) = rest.split_at(rest.find("2026-01-31 13:00:02").expect("there"));
    let expected = [before, trace, behind].map(|event| event.trim_end_matches('\n'));
    assert_eq!(scene.values(), expected);
    let records = scene.records();
    let ground = |name| records.iter().map(|record| record.number(name)).collect::<Vec<_>>();
    let n_first = before.len() as u64;
    let n_rest = CUT[1].len() as u64 - behind.len() as u64;
    assert_eq!(ground("offset"), [0, n_first, n_rest]);
    assert_eq!(ground("length"), [n_first, CUT[0].len() as u64 - n_first, behind.len() as u64]);
    assert_eq!(records[1].number("rest_length"), n_rest);
    assert_eq!(records[1].header("file_id"), records[0].header("file_id"));
    assert_eq!(records[1].header("rest_file_id"), records[2].header("file_id"));
}

/// Torture: 39.
#[test]
fn a_trace_that_is_cut_by_a_rotation_is_one_event() {
    for pattern in ["server.log", "server.log*"] {
        let mut scene = scene_of_traces(pattern);
        let shipper = scene.start();
        scene.logs.append("server.log", CUT[0]);
        scene.wait_for_records(1, &shipper);
        scene.logs.rename("server.log", "server.log.1");
        scene.logs.append("server.log", CUT[1]);
        scene.wait_for_records(3, &shipper);
        let counters = scene.stop(shipper);
        assert_whole(&mut scene);
        assert_eq!(counter(&counters, "events_read"), 3, "{counters}");
        assert_eq!(counter(&counters, "lines_read"), 8, "{counters}");
        let n_bytes = CUT.concat().len() as u64;
        assert_eq!(counter(&counters, "bytes_acked"), n_bytes, "{counters}");
    }
}

/// Torture: 39, 4.
#[test]
fn a_trace_that_is_cut_by_a_rotation_is_one_event_over_a_stop_and_a_kill() {
    for kills in [false, true] {
        let mut scene = scene_of_traces("server.log");
        scene.logs.append("server.log", CUT[0]);
        let shipper = scene.start();
        scene.wait_for_records(1, &shipper);
        match kills {
            true => drop(shipper.kill()),
            false => drop(scene.stop(shipper)),
        }
        scene.logs.rename("server.log", "server.log.1");
        scene.logs.append("server.log", CUT[1]);
        let shipper = scene.start();
        scene.wait_for_records(3, &shipper);
        scene.stop(shipper);
        assert_whole(&mut scene);
    }
}

/// Torture: 39.
#[test]
fn what_begins_a_file_and_is_no_part_of_a_trace_stays_with_it() {
    let mut scene = scene_of_traces("server.log");
    let shipper = scene.start();
    scene.logs.append("server.log", "2026-01-31 13:00:00 INFO before\n");
    shipper.wait_for_log("file found", LIMIT);
    scene.logs.rename("server.log", "server.log.1");
    scene.logs.append("server.log", "# opened at 14:00\n2026-01-31 14:00:00 INFO behind\n");
    let expected =
        ["2026-01-31 13:00:00 INFO before", "# opened at 14:00", "2026-01-31 14:00:00 INFO behind"];
    assert_eq!(scene.values_after(3, shipper), expected);
}

/// Torture: 39.
#[test]
fn a_trace_whose_rest_is_too_much_for_one_event_leaves_in_two() {
    let mut scene = scene_of_traces("server.log");
    scene.set("[[input]]", "event_lines_max", "5");
    let shipper = scene.start();
    scene.logs.append("server.log", CUT[0]);
    scene.wait_for_records(1, &shipper);
    scene.logs.rename("server.log", "server.log.1");
    scene.logs.append("server.log", CUT[1]);
    let values = scene.values_after(4, shipper);
    assert_eq!(
        values[1],
        "2026-01-31 13:00:01 ERROR it went wrong\njava.io.IOException: no\n\tat a.b(C.java:1)"
    );
    assert_eq!(values[2], "\tat d.e(F.java:2)\nCaused by: g.H\n\t... 12 more");
    assert_eq!(scene.records()[2].header("continued"), "1");
    let ends: Vec<u64> = CUT.iter().map(|part| part.len() as u64).collect();
    assert_eq!(covered(scene.records()), ends);
}

/// Torture: 39.
#[test]
fn a_cut_trace_is_filtered_as_the_one_event_it_is() {
    for (filter, n_records) in [("exclude_events", 2), ("include_events", 1)] {
        let mut scene = scene_of_traces("server.log");
        // Stands in the second part only.
        scene.set("[[input]]", filter, "[\"Caused by\"]");
        let shipper = scene.start();
        scene.logs.append("server.log", CUT[0]);
        shipper.wait_for_log("file found", LIMIT);
        scene.logs.rename("server.log", "server.log.1");
        scene.logs.append("server.log", CUT[1]);
        scene.wait_for_records(n_records, &shipper);
        scene.wait_for_entry("server.log", &format!("\"offset\":{}", CUT[1].len()));
        let counters = scene.stop(shipper);
        let traces = scene.values().iter().filter(|value| value.contains("went wrong")).count();
        assert_eq!((scene.values().len(), traces), (n_records, n_records % 2), "{counters}");
        let n_kept = counter(&counters, "bytes_acked") + counter(&counters, "bytes_filtered");
        assert_eq!(n_kept, CUT.concat().len() as u64, "{counters}");
    }
}

/// Torture: 39.
#[test]
fn a_cut_trace_of_a_backlog_that_begins_with_what_is_filtered_is_whole() {
    let mut scene = scene_of_traces("server.log*");
    scene.set("[[input]]", "include_events", "[\"Caused by\"]");
    scene.logs.append("server.log.1", CUT[0]);
    scene.logs.age("server.log.1", 10);
    scene.logs.append("server.log", CUT[1]);
    let shipper = scene.start();
    scene.wait_for_records(1, &shipper);
    scene.wait_for_entry("server.log", &format!("\"offset\":{}", CUT[1].len()));
    let counters = scene.stop(shipper);
    assert_eq!(counter(&counters, "events_filtered"), 2, "{counters}");
    let trace = scene.values().remove(0);
    assert!(trace.lines().count() == 6 && trace.ends_with("12 more"), "{trace}");
}

/// Torture: 39.
#[test]
fn a_trace_over_three_files_comes_in_order() {
    let mut scene = scene_of_traces("server.log*");
    let parts = [CUT[0], "\tat x.y(Z.java:3)\n", CUT[1]];
    let names = [("server.log.2", 20), ("server.log.1", 10), ("server.log", 0)];
    for ((name, age), part) in names.into_iter().zip(parts) {
        scene.logs.append(name, part);
        scene.logs.age(name, age);
    }
    let shipper = scene.start();
    let values = scene.values_after(4, shipper);
    let expected = [CUT[0], parts[1], CUT[1]].concat();
    assert_eq!(values.join("\n") + "\n", expected);
    assert!(values[1].ends_with("(Z.java:3)"), "{values:?}");
}

/// Torture: 39, 31.
#[test]
fn a_trace_does_not_wait_for_a_line_that_is_not_ended() {
    let mut scene = scene_of_traces("server.log");
    let shipper = scene.start();
    scene.logs.append("server.log", CUT[0]);
    scene.wait_for_records(1, &shipper);
    scene.logs.rename("server.log", "server.log.1");
    let (torn, end) = CUT[1].split_at(5);
    scene.logs.append("server.log", torn);
    scene.wait_for_records(2, &shipper);
    scene.logs.append("server.log", end);
    let values = scene.values_after(4, shipper);
    assert_eq!(values.join("\n") + "\n", CUT.concat());
}

// ---- copytruncate ----

/// Torture: 6.
#[test]
fn a_copy_that_a_pattern_matches_is_not_shipped_again() {
    for pattern in PATTERNS {
        let mut scene = Scene::new(pattern);
        let shipper = scene.start();
        for round in 0..4 {
            for at in (1..=round).rev() {
                scene.logs.rename(&format!("server.log.{at}"), &format!("server.log.{}", at + 1));
            }
            scene.logs.append("server.log", lines(3 * round..3 * round + 3));
            scene.wait_for_records(3 * round + 3, &shipper);
            scene.logs.copytruncate("server.log", "server.log.1");
            shipper.wait_for_log(&format!("read_offset={}; going on in its copy", 21), LIMIT);
        }
        scene.logs.append("server.log", lines(12..13));
        assert_eq!(scene.values_after(13, shipper), numbered(0..13), "{pattern}");
        // Nor after a restart.
        let shipper = scene.start();
        scene.logs.append("server.log", lines(13..14));
        assert_eq!(scene.values_after(14, shipper), numbered(0..14), "{pattern}");
        assert_eq!(scene.file_ids().len(), 5, "{pattern}");
    }
}

/// Torture: 6.
#[test]
fn what_was_written_between_the_last_read_and_the_copy_is_shipped_from_the_copy() {
    for pattern in PATTERNS {
        let mut scene = Scene::new(pattern);
        let shipper = scene.start();
        scene.logs.append("server.log", lines(0..3));
        scene.wait_for_records(3, &shipper);
        shipper.signal(Signal::STOP);
        scene.logs.append("server.log", lines(3..6));
        scene.logs.copytruncate("server.log", "server.log.1");
        // Longer than before: only the bytes tell of the truncation.
        scene.logs.append("server.log", lines(6..20));
        shipper.signal(Signal::CONT);
        assert_eq!(scene.values_after(20, shipper), numbered(0..20), "{pattern}");
        assert_eq!(covered(scene.records()), [42, 108], "{pattern}");
    }
}

/// Torture: 6.
#[test]
fn copies_made_while_stopped_or_killed_go_on_where_the_original_was_left() {
    for pattern in PATTERNS {
        for n_rounds in 1..3 {
            let mut scene = Scene::new(pattern);
            let shipper = scene.start();
            scene.logs.append("server.log", lines(0..3));
            scene.wait_for_records(3, &shipper);
            scene.wait_for_entry("server.log", "\"offset\":21");
            shipper.kill();
            let mut n = 3;
            for round in 0..n_rounds {
                scene.logs.append("server.log", lines(n..n + 3));
                if round == 1 {
                    scene.logs.rename("server.log.1", "server.log.2");
                }
                scene.logs.copytruncate("server.log", "server.log.1");
                date(&scene, "server.log.1", round);
                n += 3;
            }
            scene.logs.append("server.log", lines(n..n + 3));
            let shipper = scene.start();
            let values = scene.values_after(n + 3, shipper);
            assert_eq!(values, numbered(0..n + 3), "{pattern}, {n_rounds} rounds");
            let shipper = scene.start();
            scene.logs.append("server.log", lines(n + 3..n + 4));
            let values = scene.values_after(n + 4, shipper);
            assert_eq!(values, numbered(0..n + 4), "{pattern}, {n_rounds} rounds");
        }
    }
}

/// Torture: 6.
#[test]
fn a_copy_seen_before_its_truncation_is_held_until_then() {
    let mut scene = Scene::new("server.log*");
    scene.set("[tail]", "rotate_grace", "\"30s\"");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    fs::copy(scene.logs.path("server.log"), scene.logs.path("server.log.1")).expect("copied");
    shipper.wait_for_log("may be a copy", LIMIT);
    // Read from the original before it was truncated, and not in the copy.
    scene.logs.append("server.log", lines(3..6));
    scene.wait_for_records(6, &shipper);
    scene.logs.truncate("server.log");
    scene.logs.append("server.log", lines(6..7));
    scene.wait_for_records(7, &shipper);
    scene.stop(shipper);
    let shipper = scene.start();
    shipper.wait_for_log("file resumed", LIMIT);
    scene.logs.append("server.log", lines(7..8));
    assert_eq!(scene.values_after(8, shipper), numbered(0..8));
    assert_eq!(covered(scene.records()), [42, 14]);
}

/// Torture: 6.
#[test]
fn a_copy_that_is_written_over_the_one_before_is_not_shipped_again() {
    for pattern in PATTERNS {
        let mut scene = Scene::new(pattern);
        let shipper = scene.start();
        for round in 0..4 {
            scene.logs.append("server.log", lines(10 * round..10 * round + 10));
            scene.wait_for_records(10 * round + 10, &shipper);
            scene.logs.copytruncate("server.log", "server.log.1");
            scene.wait_for_entry("server.log.1", &format!("\"life\":{round}"));
            scene.wait_for_entry("server.log.1", "\"done\":true");
        }
        scene.logs.append("server.log", lines(40..41));
        assert_eq!(scene.values_after(41, shipper), numbered(0..41), "{pattern}");
    }
}

/// Torture: 13.
#[test]
fn a_copy_whose_original_goes_on_is_a_file_of_its_own() {
    let mut scene = Scene::new("*.log*");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    // Another stream: at once. The same stream: once it has waited.
    for (copy, n) in [("other.log", 6), ("server.log.1", 9)] {
        fs::copy(scene.logs.path("server.log"), scene.logs.path(copy)).expect("copied");
        scene.wait_for_records(n, &shipper);
    }
    scene.logs.append("server.log", lines(3..4));
    scene.wait_for_records(10, &shipper);
    scene.stop(shipper);
    assert_eq!(covered(scene.records()), [28, 21, 21]);
}

/// Torture: 13.
#[test]
fn files_that_begin_alike_are_not_taken_for_copies() {
    let mut scene = Scene::new("server.log*");
    let banner = "the same banner\n".repeat(200);
    let shipper = scene.start();
    for round in 0..4 {
        scene.logs.append("server.log", &banner);
        scene.logs.append("server.log", lines(round..round + 1));
        scene.wait_for_records(201 * (round + 1), &shipper);
        if round % 2 == 0 {
            scene.logs.rename("server.log", &format!("server.log.{round}"));
        } else {
            // Truncated without a copy.
            scene.logs.truncate("server.log");
        }
    }
    scene.stop(shipper);
    assert_eq!(covered(scene.records()), [3207; 4]);
}

// ---- siblings ----

/// Torture: 2.
#[test]
fn a_file_that_was_never_seen_under_its_path_is_found_without_another_arrival() {
    for pattern in PATTERNS {
        let mut scene = Scene::new(pattern);
        let shipper = scene.start();
        scene.logs.append("server.log", lines(0..2));
        scene.wait_for_records(2, &shipper);
        shipper.signal(Signal::STOP);
        for n in 1..3 {
            scene.logs.rename("server.log", &format!("server.log.2026-01-31-{n:02}"));
            scene.logs.append("server.log", lines(2 * n..2 * n + 2));
            date(&scene, "server.log", n);
        }
        // Nothing stands under the path.
        scene.logs.rename("server.log", "server.log.2026-01-31-03");
        shipper.signal(Signal::CONT);
        assert_eq!(scene.values_after(6, shipper), numbered(0..6), "{pattern}");
    }
}

/// Torture: 29.
#[test]
fn a_storm_of_rotations_loses_no_file_and_no_order() {
    for pattern in PATTERNS {
        let mut scene = Scene::new(pattern);
        let shipper = scene.start();
        shipper.wait_for_log("no file yet", LIMIT);
        let n_files = 200;
        for n in 0..n_files {
            scene.logs.append("server.log", lines(n..n + 1));
            // 50 a second, each in a tick of its own.
            std::thread::sleep(Duration::from_millis(20));
            scene.logs.rename("server.log", &format!("server.log.2026-01-31-{n:03}"));
        }
        assert_eq!(scene.values_after(n_files, shipper), numbered(0..n_files), "{pattern}");
    }
}

/// As with `create` of logrotate, where the writer has not got its signal yet.
#[test]
fn a_file_that_is_written_to_after_the_next_was_made_goes_out_before_it() {
    for pattern in PATTERNS {
        let mut scene = Scene::new(pattern);
        let shipper = scene.start();
        scene.logs.append("server.log", lines(0..1));
        scene.wait_for_records(1, &shipper);
        shipper.signal(Signal::STOP);
        let names = ["server.log.2026-01-31-01", "server.log.2026-01-31-02"];
        scene.logs.rename("server.log", "server.log.2026-01-31-00");
        for name in names {
            scene.logs.append(&format!("{name}-held"), "");
            wait_for_tick(&scene);
        }
        // Each in a tick of its own, the older one last.
        for (at, name) in names.iter().enumerate().rev() {
            scene.logs.append(&format!("{name}-held"), lines(1 + at..2 + at));
            wait_for_tick(&scene);
            scene.logs.rename(&format!("{name}-held"), name);
        }
        scene.logs.append("server.log", lines(3..4));
        shipper.signal(Signal::CONT);
        assert_eq!(scene.values_after(4, shipper), numbered(0..4), "{pattern}");
    }
}

#[test]
fn archives_that_no_pattern_names_stay_where_they_are() {
    let mut scene = Scene::new("server.log");
    for n in 1..4 {
        scene.logs.append(&format!("server.log.{n}"), "old\n");
        scene.logs.age(&format!("server.log.{n}"), 100 * n);
    }
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..1));
    scene.wait_for_records(1, &shipper);
    for at in (1..4).rev() {
        scene.logs.rename(&format!("server.log.{at}"), &format!("server.log.{}", at + 1));
    }
    scene.logs.rename("server.log", "server.log.1");
    scene.logs.append("server.log", lines(1..2));
    assert_eq!(scene.values_after(2, shipper), numbered(0..2));
    let shipper = scene.start();
    scene.logs.append("server.log", lines(2..3));
    assert_eq!(scene.values_after(3, shipper), numbered(0..3));
}

/// Torture: 21.
#[test]
fn an_older_file_that_is_moved_in_goes_out_before_what_is_left_of_the_current_one() {
    let mut scene = Scene::new("server.log*");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(100..102));
    scene.wait_for_records(2, &shipper);
    for n in 0..3 {
        let name = format!("server.log.{}", 3 - n);
        scene.logs.append("aside", lines(10 * n..10 * n + 10));
        scene.logs.age("aside", 1000 - 100 * n as u64);
        shipper.signal(Signal::STOP);
        scene.logs.rename("aside", &name);
        scene.logs.append("server.log", lines(102 + n..103 + n));
        shipper.signal(Signal::CONT);
        scene.wait_for_records(2 + 11 * (n + 1), &shipper);
    }
    scene.stop(shipper);
    let values = scene.values();
    let of = |numbers: std::ops::Range<usize>| {
        let is_of = |value: &&String| numbered(numbers.clone()).contains(value);
        values.iter().filter(is_of).cloned().collect::<Vec<_>>()
    };
    assert_eq!(of(0..30), numbered(0..30));
    assert_eq!(of(100..105), numbered(100..105));
    assert_eq!(values.len(), 35);
}

#[test]
fn older_files_that_are_moved_in_together_keep_their_order() {
    let mut scene = Scene::new("server.log*");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(100..102));
    scene.wait_for_records(2, &shipper);
    shipper.signal(Signal::STOP);
    for n in [1, 0, 2] {
        scene.logs.append("aside", lines(10 * n..10 * n + 10));
        scene.logs.age("aside", 1000 - 100 * n as u64);
        scene.logs.rename("aside", &format!("server.log.{}", 3 - n));
    }
    shipper.signal(Signal::CONT);
    scene.wait_for_records(32, &shipper);
    scene.logs.append("server.log", lines(102..103));
    let expected = [numbered(100..102), numbered(0..30), numbered(102..103)].concat();
    assert_eq!(scene.values_after(33, shipper), expected);
}

/// Torture: 3.
#[test]
fn a_finished_file_that_no_pattern_names_stays_known_while_it_is_there() {
    let mut scene = Scene::new("server.log");
    let shipper = scene.start();
    for n in 0..12 {
        scene.logs.append("server.log", lines(n..n + 1));
        scene.wait_for_records(n + 1, &shipper);
        scene.logs.rename("server.log", &format!("server.log.2026-01-31-{n:02}"));
    }
    for n in 0..12 {
        let name = format!("server.log.2026-01-31-{n:02}");
        scene.wait_for_entry(&name, "\"done\":true");
        // As a backup does.
        date(&scene, &name, 10 + n);
    }
    scene.stop(shipper);
    let shipper = scene.start();
    scene.logs.append("server.log", lines(12..13));
    assert_eq!(scene.values_after(13, shipper), numbered(0..13));
}

// ---- folders ----

/// Torture: 22.
#[test]
fn a_folder_that_is_removed_renamed_or_replaced_is_watched_again_at_once() {
    let mut scene = Scene::new("a/b/server.log");
    // Notices alone bring it to look.
    scene.set("[tail]", "scan_interval", "\"30s\"");
    let shipper = scene.start();
    let mut n = 0;
    let mut step = |scene: &mut Scene, what: &str| {
        fs::create_dir_all(scene.logs.path("a/b")).expect("made");
        scene.logs.append("a/b/server.log", lines(n..n + 1));
        n += 1;
        let begun = std::time::Instant::now();
        scene.wait_for_records(n, &shipper);
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}: {:?}", begun.elapsed());
    };
    step(&mut scene, "made");
    fs::remove_dir_all(scene.logs.path("a/b")).expect("removed");
    step(&mut scene, "removed and made again");
    fs::remove_dir_all(scene.logs.path("a")).expect("removed");
    step(&mut scene, "removed with the one above");
    scene.logs.rename("a/b", "a/c");
    step(&mut scene, "renamed");
    assert_eq!(scene.values_after(4, shipper), numbered(0..4));
}

/// Torture: 22.
#[test]
fn a_folder_that_is_renamed_with_the_one_above_and_back_loses_and_repeats_nothing() {
    let mut scene = Scene::new("a/b/server.log*");
    fs::create_dir_all(scene.logs.path("a/b")).expect("made");
    let shipper = scene.start();
    scene.logs.append("a/b/server.log", lines(0..1));
    scene.wait_for_records(1, &shipper);
    scene.logs.rename("a", "old");
    scene.logs.append("old/b/server.log", lines(1..2));
    fs::create_dir_all(scene.logs.path("a/b")).expect("made");
    scene.logs.append("a/b/server.log", lines(2..3));
    scene.wait_for_records(3, &shipper);
    shipper.wait_for_log("file finished", LIMIT);
    fs::remove_dir_all(scene.logs.path("a")).expect("removed");
    scene.logs.rename("old", "a");
    scene.logs.append("a/b/server.log", lines(3..4));
    assert_eq!(scene.values_after(4, shipper), numbered(0..4));
}

/// Torture: 22.
#[test]
fn what_is_mounted_over_a_folder_is_read_and_nothing_is_forgotten_or_read_twice() {
    let mut scene = Scene::new("a/server.log*");
    fs::create_dir(scene.logs.path("a")).expect("made");
    let shipper = scene.start();
    scene.logs.append("a/server.log", lines(0..1));
    scene.wait_for_records(1, &shipper);
    let mounted = match Mounted::over(&scene.logs.path("a")) {
        Ok(mounted) => mounted,
        Err(problem) => return not_mounted(&problem),
    };
    scene.logs.append("a/server.log", lines(1..2));
    scene.wait_for_records(2, &shipper);
    scene.wait_for_entry("a/server.log", "\"done\":true");
    drop(mounted);
    // More looks than it takes to forget a file.
    std::thread::sleep(Duration::from_secs(1));
    scene.logs.append("a/server.log", lines(2..3));
    scene.wait_for_records(3, &shipper);
    let counters = scene.stop(shipper);
    assert_eq!(counter(&counters, "files_truncated"), 0, "{counters}");
    assert_eq!(scene.values(), numbered(0..3));
}

/// Torture: 21.
#[test]
fn a_file_that_is_moved_to_another_file_system_is_not_shipped_again() {
    let mut scene = Scene::new("*/server.log*");
    for folder in ["a", "b"] {
        fs::create_dir(scene.logs.path(folder)).expect("made");
    }
    let _mounted = match Mounted::over(&scene.logs.path("b")) {
        Ok(mounted) => mounted,
        Err(problem) => return not_mounted(&problem),
    };
    let shipper = scene.start();
    let mut n = 0;
    for round in 1..4 {
        scene.logs.append("a/server.log", lines(n..n + 3));
        scene.wait_for_records(n + 3, &shipper);
        let (from, to) = ("a/server.log", format!("b/server.log.{round}"));
        // While it is read, and once it was finished.
        let from = if round < 3 { from } else { "a/server.log.1" };
        if round == 3 {
            scene.logs.rename("a/server.log", from);
            scene.wait_for_entry(from, "\"done\":true");
        }
        shipper.signal(Signal::STOP);
        if round < 3 {
            scene.logs.append(from, lines(n + 3..n + 5));
        } else {
            scene.logs.append("a/server.log", lines(n + 3..n + 5));
        }
        let status = std::process::Command::new("mv")
            .args([scene.logs.path(from), scene.logs.path(&to)])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "not moved");
        shipper.signal(Signal::CONT);
        n += 5;
        scene.wait_for_records(n, &shipper);
        scene.wait_for_entry(&to, "\"done\":true");
    }
    scene.stop(shipper);
    let shipper = scene.start();
    scene.logs.append("a/server.log", lines(n..n + 1));
    assert_eq!(scene.values_after(n + 1, shipper), numbered(0..n + 1));
}

/// A file system in memory, mounted until dropped.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn over(folder: &std::path::Path) -> Result<Mounted, String> {
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "none"])
            .arg(folder)
            .output()
            .map_err(|error| error.to_string())?;
        match mount.status.success() {
            true => Ok(Mounted(folder.into())),
            false => Err(String::from_utf8_lossy(&mount.stderr).into()),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let umount = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(umount.is_ok_and(|status| status.success()), "not unmounted");
    }
}

/// Only root may mount; where nobody is root, the test says so.
fn not_mounted(problem: &str) {
    assert!(!rustix::process::geteuid().is_root() || problem.contains("permission"), "{problem}");
    eprintln!("NOT TESTED, for nothing can be mounted here: {problem}");
}

#[test]
fn a_writer_that_holds_a_truncated_file_open_goes_on_in_it() {
    let mut scene = Scene::new("server.log*");
    let shipper = scene.start();
    let mut writer = scene.logs.open("server.log");
    for n in 0..30 {
        writer.write_all(lines(n..n + 1).as_bytes()).expect("written");
        scene.wait_for_records(n + 1, &shipper);
        if n % 5 == 4 {
            scene.logs.copytruncate("server.log", &format!("server.log.{}", 100 - n));
        }
    }
    assert_eq!(scene.values_after(30, shipper), numbered(0..30));
}
