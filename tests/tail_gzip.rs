//! `shipper tail` and gzip'd files: what was compressed is the file it was, no more and no less.

mod support;

use std::fs::{self, File};
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::process::Signal;
use support::counter;
use support::tail::{LIMIT, Scene, covered, lines, numbered};

/// With the path alone, as for Kafka's own logs, and with a glob that finds gzip'd files too.
const PATTERNS: [&str; 2] = ["server.log", "server.log*"];

fn gzipped(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes.as_ref()).expect("written");
    encoder.finish().expect("finished")
}

/// Compresses a file as gzip(1) and logrotate do: the last write stays the same, the file goes.
fn gzip(scene: &Scene, name: &str) {
    let path = scene.logs.path(name);
    let modified = fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("there");
    let bytes = fs::read(&path).expect("read");
    scene.logs.append(&format!("{name}.gz"), gzipped(bytes));
    scene.logs.set_modified(&format!("{name}.gz"), modified);
    fs::remove_file(path).expect("removed");
}

// ---- compressed after it was seen ----

/// Torture: 5.
#[test]
fn a_file_that_is_compressed_while_it_is_read_is_shipped_once() {
    for pattern in PATTERNS {
        let mut scene = Scene::new(pattern);
        let shipper = scene.start();
        let mut n = 0;
        for round in 0..3 {
            scene.logs.append("server.log", lines(n..n + 3));
            scene.wait_for_records(n + 3, &shipper);
            shipper.signal(Signal::STOP);
            scene.logs.append("server.log", lines(n + 3..n + 5));
            if round > 0 {
                scene.logs.rename("server.log.1.gz", &format!("server.log.{}.gz", 10 - round));
            }
            scene.logs.rename("server.log", "server.log.1");
            gzip(&scene, "server.log.1");
            shipper.signal(Signal::CONT);
            n += 5;
        }
        scene.logs.append("server.log", lines(n..n + 1));
        scene.wait_for_records(n + 1, &shipper);
        if pattern == "server.log*" {
            let of_last = format!("new_name={}", scene.logs.path("server.log.1.gz").display());
            shipper.wait_for_log(&of_last, LIMIT);
        }
        scene.stop(shipper);
        let shipper = scene.start();
        scene.logs.append("server.log", lines(n + 1..n + 2));
        assert_eq!(scene.values_after(n + 2, shipper), numbered(0..n + 2), "{pattern}");
        assert_eq!(covered(scene.records()).len(), 4, "{pattern}");
    }
}

/// Torture: 5.
#[test]
fn a_file_that_is_compressed_after_it_was_finished_is_not_shipped_again() {
    let mut scene = Scene::new("server.log*");
    let shipper = scene.start();
    for n in 0..6 {
        scene.logs.append("server.log", "the same in each hour\n");
        scene.wait_for_records(n + 1, &shipper);
        let name = format!("server.log.2026-01-31-{n:02}");
        scene.logs.rename("server.log", &name);
        scene.wait_for_entry(&name, "\"done\":true");
        gzip(&scene, &name);
        scene.wait_for_entry(&format!("{name}.gz"), "\"done\":true");
    }
    scene.logs.append("server.log", "and another\n");
    scene.wait_for_records(7, &shipper);
    scene.stop(shipper);
    let shipper = scene.start();
    scene.logs.append("server.log", "and the last\n");
    assert_eq!(scene.values_after(8, shipper)[6..], ["and another", "and the last"]);
    assert_eq!(covered(scene.records()), [22, 22, 22, 22, 22, 22, 25]);
}

/// Torture: 4, 5.
#[test]
fn a_file_that_is_compressed_while_stopped_goes_on_at_its_decompressed_offset() {
    for pattern in PATTERNS {
        for n_rotations in 1..4 {
            let mut scene = Scene::new(pattern);
            let shipper = scene.start();
            scene.logs.append("server.log", lines(0..1000));
            scene.wait_for_records(1000, &shipper);
            scene.wait_for_entry("server.log", "\"offset\":8890");
            shipper.kill();
            let mut n = 1000;
            for rotation in 0..n_rotations {
                scene.logs.append("server.log", lines(n..n + 10));
                let time = SystemTime::now() + Duration::from_secs(rotation);
                scene.logs.set_modified("server.log", time);
                let name = format!("server.log.2026-01-31-{rotation:02}");
                scene.logs.rename("server.log", &name);
                gzip(&scene, &name);
                n += 10;
            }
            scene.logs.append("server.log", lines(n..n + 10));
            let shipper = scene.start();
            scene.wait_for_records(n + 10, &shipper);
            for rotation in 0..n_rotations {
                let name = format!("server.log.2026-01-31-{rotation:02}.gz");
                scene.wait_for_entry(&name, "\"done\":true");
            }
            scene.stop(shipper);
            assert!(scene.values() == numbered(0..n + 10), "{pattern}, {n_rotations}");
            assert_eq!(covered(scene.records()).len(), 1 + n_rotations as usize);
            // And is finished.
            let shipper = scene.start();
            scene.logs.append("server.log", lines(n + 10..n + 11));
            assert!(scene.values_after(n + 11, shipper) == numbered(0..n + 11), "{pattern}");
        }
    }
}

/// Torture: 4, 5.
#[test]
fn a_file_whose_offset_only_the_journal_knows_is_known_when_it_was_compressed() {
    let mut scene = Scene::new("server.log*");
    scene.set("[tail]", "save_interval", "\"1h\"");
    scene.logs.append("server.log", lines(0..10));
    let shipper = scene.start();
    scene.wait_for_records(10, &shipper);
    scene.logs.append("server.log", lines(10..1000));
    scene.wait_for_records(1000, &shipper);
    shipper.kill();
    scene.logs.append("server.log", lines(1000..1010));
    scene.logs.rename("server.log", "server.log.1");
    gzip(&scene, "server.log.1");
    scene.logs.append("server.log", lines(1010..1020));
    let shipper = scene.start();
    shipper.wait_for_log("file compressed while stopped", LIMIT);
    scene.wait_for_records(1020, &shipper);
    scene.stop(shipper);
    // What was unanswered when it was killed may stand there twice, but nothing out of order.
    let mut values = scene.values();
    let mut seen = std::collections::HashSet::new();
    values.retain(|value| seen.insert(value.clone()));
    assert!(values == numbered(0..1020));
}

/// Ships lines 0 to 2, and lets a process see two younger files, of which it can ship nothing
/// before it is killed: `server.log.2` with line 3 and `server.log` with line 4.
fn kill_one_that_has_read_nothing(scene: &mut Scene) {
    scene.logs.append("server.log", lines(0..3));
    scene.logs.age("server.log", 20);
    let shipper = scene.start();
    scene.wait_for_records(3, &shipper);
    scene.stop(shipper);
    scene.logs.rename("server.log", "server.log.1");
    scene.logs.append("server.log", lines(3..4));
    scene.logs.age("server.log", 10);

    scene.set("[kafka]", "bootstrap_servers", "[\"127.0.0.1:1\"]");
    let shipper = scene.start();
    scene.wait_for_entry("server.log", "\"offset\":0");
    shipper.signal(Signal::STOP);
    scene.logs.rename("server.log.1", "server.log.3");
    scene.logs.rename("server.log", "server.log.2");
    scene.logs.append("server.log", lines(4..5));
    shipper.signal(Signal::CONT);
    scene.wait_for_entry("server.log.2", "\"offset\":0");
    scene.wait_for_entry("server.log", "\"offset\":0");
    shipper.kill();
    let servers = format!("[{:?}]", scene.cluster.bootstrap_servers());
    scene.set("[kafka]", "bootstrap_servers", &servers);
}

/// Torture: 5, 42.
#[test]
fn a_file_seen_and_not_read_before_a_kill_is_read_once_it_was_compressed() {
    for pattern in PATTERNS {
        let mut scene = Scene::new(pattern);
        kill_one_that_has_read_nothing(&mut scene);
        gzip(&scene, "server.log.2");
        let shipper = scene.start();
        assert_eq!(scene.values_after(5, shipper), numbered(0..5), "{pattern}");
    }
}

/// Torture: 5, 42.
#[test]
fn a_file_that_nobody_saw_before_a_kill_is_read_although_a_younger_one_was_seen() {
    let mut scene = Scene::new("server.log");
    kill_one_that_has_read_nothing(&mut scene);
    // Other bytes than those that were seen, and written between the two.
    scene.logs.remove("server.log.2");
    scene.logs.append("server.log.2.gz", gzipped("never seen\n"));
    scene.logs.age("server.log.2.gz", 5);
    let shipper = scene.start();
    let values = scene.values_after(5, shipper);
    assert_eq!(values, ["line 0", "line 1", "line 2", "never seen", "line 4"]);
}

/// Torture: 5, 42.
#[test]
fn a_file_that_was_still_being_compressed_at_a_kill_is_read_once_it_is_whole() {
    let mut scene = Scene::new("server.log");
    scene.logs.append("server.log", lines(0..3));
    scene.logs.age("server.log", 20);
    let shipper = scene.start();
    scene.wait_for_records(3, &shipper);
    scene.stop(shipper);
    scene.logs.rename("server.log", "server.log.2");
    let bytes = gzipped(lines(3..6));
    scene.logs.append("server.log.1.gz", &bytes[..bytes.len() - 4]);
    scene.logs.append("server.log", lines(6..7));

    let shipper = scene.start();
    scene.wait_for_records(4, &shipper);
    scene.wait_for_entry("server.log", "\"offset\":7");
    shipper.kill();
    scene.logs.append("server.log.1.gz", &bytes[bytes.len() - 4..]);
    // As gzip(1) does.
    scene.logs.age("server.log.1.gz", 10);
    let shipper = scene.start();
    let values = scene.values_after(7, shipper);
    let in_order = [numbered(0..3), numbered(6..7), numbered(3..6)].concat();
    assert_eq!(values, in_order, "what could not be read in its turn comes late");
}

/// Torture: 5.
#[test]
fn an_archive_that_was_left_out_stays_so_while_it_is_compressed() {
    let mut scene = Scene::new("server.log");
    scene.logs.append("server.log.1", "old\n");
    scene.logs.age("server.log.1", 100);
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..1));
    scene.wait_for_records(1, &shipper);
    let bytes = gzipped("old\n");
    scene.logs.append("server.log.1.gz", &bytes[..bytes.len() - 4]);
    // A look at the folder that finds this one has found that one.
    scene.logs.append("server.log.2", lines(1..2));
    scene.wait_for_records(2, &shipper);
    // As gzip(1) does.
    scene.logs.append("server.log.1.gz", &bytes[bytes.len() - 4..]);
    scene.logs.age("server.log.1.gz", 100);
    scene.logs.remove("server.log.1");
    scene.logs.append("server.log.3", lines(2..3));
    scene.wait_for_records(3, &shipper);
    scene.stop(shipper);
    let shipper = scene.start();
    scene.logs.append("server.log", lines(3..4));
    assert_eq!(scene.values_after(4, shipper), numbered(0..4));
}

/// Torture: 5.
#[test]
fn a_file_that_is_compressed_under_an_unrelated_name_while_stopped_is_known() {
    let mut scene = Scene::new("server.log");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..100));
    scene.wait_for_records(100, &shipper);
    scene.stop(shipper);
    scene.logs.append("server.log", lines(100..200));
    // As log4j2 does with filePattern="server-%d.log.gz": the last write is the compression.
    let bytes = fs::read(scene.logs.path("server.log")).expect("read");
    scene.logs.append("server-2026-01-31.log.gz", gzipped(bytes));
    scene.logs.remove("server.log");
    scene.logs.append("server.log", lines(200..300));
    let shipper = scene.start();
    assert_eq!(scene.values_after(300, shipper), numbered(0..300));
}

// ---- as inputs ----

/// Torture: 5.
#[test]
fn gzipped_files_are_shipped_by_their_lines_oldest_first_and_once() {
    let mut scene = Scene::new("server.log*");
    for (age, name) in [(300, "server.log.3.gz"), (200, "server.log.2.gz")] {
        let first = 10 * (300 - age);
        // Of two members, parted within a line.
        let bytes = lines(first..first + 1000);
        let (head, tail) = bytes.split_at(4321);
        scene.logs.append(name, [gzipped(head), gzipped(tail)].concat());
        scene.logs.age(name, age as u64);
    }
    scene.logs.append("server.log.1", lines(2000..3000));
    scene.logs.age("server.log.1", 100);
    scene.logs.append("server.log", lines(3000..4000));
    let shipper = scene.start();
    scene.wait_for_records(4000, &shipper);
    for name in ["server.log.3.gz", "server.log.2.gz", "server.log.1"] {
        scene.wait_for_entry(name, "\"done\":true");
    }
    scene.stop(shipper);
    assert!(scene.values() == numbered(0..4000));
    let path = scene.logs.path("server.log").display().to_string();
    assert!(scene.records().iter().all(|record| record.header("path") == path));
    assert_eq!(covered(scene.records()).len(), 4);

    let shipper = scene.start();
    scene.logs.append("server.log", lines(4000..4001));
    assert!(scene.values_after(4001, shipper) == numbered(0..4001));
}

#[test]
fn a_gzipped_file_goes_on_at_its_decompressed_offset_after_kill_9() {
    let mut scene = Scene::new("*.gz");
    scene.set("[batch]", "bytes_max", "\"64KB\"");
    scene.set("[[input]]", "line_bytes_max", "\"1KiB\"");
    scene.set("[[input]]", "event_bytes_max", "\"1KiB\"");
    scene.set("[tail]", "bytes_per_second_max", "\"1MB\"");
    let n = 200_000;
    scene.logs.append("server.log.1.gz", gzipped(lines(0..n)));
    scene.logs.age("server.log.1.gz", 100);
    let shipper = scene.start();
    scene.wait_for_records(n / 10, &shipper);
    shipper.kill();
    let n_before = scene.values().len();
    assert!(n_before < n, "it was killed too late: {n_before}");
    let shipper = scene.start();
    let resumed = shipper.wait_for_log("file resumed: name=", LIMIT);
    assert!(counter(&resumed, "offset") > 0, "{resumed}");
    scene.wait_for_entry("server.log.1.gz", "\"done\":true");
    scene.stop(shipper);
    let mut values = scene.values();
    let repeated = values.len() - n;
    assert!(values[n_before..] == numbered(n_before - repeated..n));
    values.truncate(n_before);
    assert!(values == numbered(0..n_before));
}

/// Torture: 5.
#[test]
fn a_gzipped_file_that_is_still_written_is_waited_for() {
    let mut scene = Scene::new("server.log*");
    scene.set("[tail]", "rotate_grace", "\"30s\"");
    scene.logs.append("server.log", lines(2000..2001));
    let shipper = scene.start();
    scene.wait_for_records(1, &shipper);
    let whole = gzipped(lines(0..2000));
    let mut writer = File::create(scene.logs.path("server.log.1.gz")).expect("made");
    for (at, piece) in whole.chunks(whole.len() / 4 + 1).enumerate() {
        writer.write_all(piece).expect("written");
        // Longer than a writer that is at it pauses.
        std::thread::sleep(Duration::from_millis(if at < 2 { 1500 } else { 100 }));
    }
    drop(writer);
    scene.wait_for_records(2001, &shipper);
    let counters = scene.stop(shipper);
    assert_eq!(counter(&counters, "files_damaged"), 0, "{counters}");
    assert!(scene.values() == [numbered(2000..2001), numbered(0..2000)].concat());
}

/// Torture: 5.
#[test]
fn of_a_damaged_file_what_can_be_read_is_shipped_and_the_rest_is_reported_once() {
    let mut scene = Scene::new("*.gz");
    let whole = gzipped(lines(0..20_000));
    scene.logs.append("cut.log.gz", &whole[..whole.len() / 2]);
    scene.logs.append("text.log.gz", "not gzip'd\n");
    for name in ["cut.log.gz", "text.log.gz"] {
        scene.logs.age(name, 100);
    }
    let shipper = scene.start();
    shipper.wait_for_log("file left out", LIMIT);
    scene.wait_for_entry("cut.log.gz", "\"done\":true");
    let counters = scene.stop(shipper);
    assert_eq!(counter(&counters, "files_damaged"), 1, "{counters}");
    assert_eq!(counter(&counters, "files_refused"), 1, "{counters}");
    let n = scene.values().len();
    assert!(n > 1000 && n < 20_000, "{n}");
    assert!(scene.values()[..n - 1] == numbered(0..n - 1));
    let shipper = scene.start();
    shipper.wait_for_log("file left out", LIMIT);
    let counters = scene.stop(shipper);
    assert_eq!(counter(&counters, "files_damaged"), 0, "{counters}");
    assert_eq!(scene.values().len(), n);
}

#[test]
fn files_compressed_in_other_ways_are_left_out_with_a_warning() {
    let mut scene = Scene::new("*.log*");
    for (name, magic) in [("a.log.xz", &b"\xfd7zXZ\0"[..]), ("b.log.zst", b"\x28\xb5\x2f\xfd")] {
        scene.logs.append(name, [magic, b"anything\n"].concat());
    }
    scene.logs.append("c.log", lines(0..1));
    let shipper = scene.start();
    scene.wait_for_records(1, &shipper);
    let log = shipper.log();
    let counters = scene.stop(shipper);
    assert_eq!(counter(&counters, "files_refused"), 2, "{log}");
    assert_eq!(scene.values(), numbered(0..1));
}
