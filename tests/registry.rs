//! What `shipper tail` remembers: shown, changed, repaired, refused.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use log_shipper::tail::registry::Entry;
use log_shipper::tail::registry::format::{decode, encode};
use support::tail::{LIMIT, Scene, lines, numbered};
use support::{Shipper, shipper_binary};

/// The host of every scene.
const HOST: &str = "h1";

/// How a command ended, and what it said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(command: &mut Command) -> Said {
    let output = command.output().expect("the binary starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// Runs `shipper checkpoint ARGS -c CONFIG`.
fn checkpoint(scene: &Scene, args: &[&str]) -> Said {
    run(Command::new(shipper_binary()).arg("checkpoint").args(args).arg("-c").arg(scene.config()))
}

fn registry(scene: &Scene) -> PathBuf {
    scene.state_dir().join("registry.json")
}

fn entries(path: &Path) -> Vec<Entry> {
    decode(&fs::read(path).expect("read"), HOST).expect("whole").entries
}

/// Writes the registry as somebody would who knows how to.
fn edit(scene: &Scene, change: impl FnOnce(&mut Vec<Entry>)) {
    let path = registry(scene);
    let snapshot = decode(&fs::read(&path).expect("read"), HOST).expect("whole");
    let mut entries = snapshot.entries;
    change(&mut entries);
    fs::write(path, encode(snapshot.generation, snapshot.journal, HOST, &mut entries))
        .expect("written");
}

/// Ships ten lines of seven bytes and stops.
fn scene_with_ten_lines_shipped() -> Scene {
    let mut scene = Scene::new("server.log");
    scene.logs.append("server.log", lines(0..10));
    let shipper = scene.start();
    assert_eq!(scene.values_after(10, shipper), numbered(0..10));
    scene
}

fn text_of(path: PathBuf) -> String {
    path.to_str().expect("UTF-8").into()
}

// ---- shipper checkpoint ----

#[test]
fn list_and_show_say_how_far_each_file_is_while_the_tail_runs() {
    let mut scene = Scene::new("server.log*");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    scene.logs.rename("server.log", "server.log.1");
    scene.logs.append("server.log", lines(3..4));
    scene.wait_for_entry("server.log.1", "\"done\":true");
    scene.wait_for_entry("server.log", "\"offset\":7");

    let list = checkpoint(&scene, &["list"]);
    assert_eq!((list.code, list.err.as_str()), (Some(0), ""), "{list:?}");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = list.out.lines().map(words).collect();
    let find = |name: &str| rows.iter().find(|row| row[0] == name).expect("a row");
    assert_eq!(find("server.log")[1..4], ["7", "7", "open"]);
    assert_eq!(find("server.log.1")[1..4], ["21", "21", "done"]);

    let list = checkpoint(&scene, &["list", "--json"]);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&list.out).expect("JSON");
    let of = |row: &serde_json::Value, key: &str| row[key].as_u64().expect("a number");
    let mut sizes: Vec<u64> = rows.iter().map(|row| of(row, "size_now")).collect();
    sizes.sort();
    assert_eq!(sizes, [7, 21]);
    assert!(rows.iter().all(|row| of(row, "first_seen_ms") <= of(row, "last_seen_ms")));

    let name = text_of(scene.logs.path("server.log.1"));
    let show = checkpoint(&scene, &["show", &name]);
    assert_eq!(show.code, Some(0), "{show:?}");
    assert!(show.out.contains("size now      21: 0 bytes to go"), "{}", show.out);
    let show = checkpoint(&scene, &["show", &name, "--json"]);
    let shown: Vec<serde_json::Value> = serde_json::from_str(&show.out).expect("JSON");
    assert_eq!(shown.len(), 1, "{}", show.out);
    let unknown = checkpoint(&scene, &["show", "/no/such.log"]);
    assert_eq!(unknown.code, Some(65));
    assert!(unknown.err.contains("nothing is known of /no/such.log"), "{unknown:?}");
    scene.stop(shipper);
}

#[test]
fn set_ships_from_the_given_line_on_and_says_what_that_repeats_or_skips() {
    let mut scene = scene_with_ten_lines_shipped();
    let name = text_of(scene.logs.path("server.log"));
    let back = checkpoint(&scene, &["set", &name, "--offset", "56"]);
    assert_eq!(back.out, format!("{name}: offset 70 -> 56: 14 bytes are shipped again\n"));
    let shipper = scene.start();
    assert_eq!(scene.values_after(12, shipper)[10..], numbered(8..10));

    scene.logs.append("server.log", lines(10..12));
    let end = 70 + 2 * 8;
    let forth = checkpoint(&scene, &["set", &name, "--offset", "78"]);
    assert_eq!(forth.out, format!("{name}: offset 70 -> 78: 8 bytes are skipped\n"));
    let shipper = scene.start();
    assert_eq!(scene.values_after(13, shipper)[12..], ["line 11"]);
    assert_eq!(entries(&registry(&scene))[0].offset, end);
}

#[test]
fn set_refuses_what_would_tear_a_line_or_cannot_be() {
    let scene = scene_with_ten_lines_shipped();
    let name = text_of(scene.logs.path("server.log"));
    let before = fs::read(registry(&scene)).expect("read");
    for (args, says) in [
        (["set", &name, "--offset", "59"], "inside a line, which begins at 56; the next at 63"),
        (["set", &name, "--offset", "71"], "has 70 bytes"),
        (["set", "/no/such.log", "--offset", "0"], "cannot read /no/such.log"),
    ] {
        let refused = checkpoint(&scene, &args);
        assert_eq!(refused.code, Some(65), "{refused:?}");
        assert!(refused.err.contains(says), "{refused:?}");
    }
    scene.logs.append("other.log", "x\n");
    let other = text_of(scene.logs.path("other.log"));
    let refused = checkpoint(&scene, &["set", &other, "--offset", "0"]);
    assert!(refused.err.contains("no input matches"), "{refused:?}");
    assert_eq!(fs::read(registry(&scene)).expect("read"), before);
}

#[test]
fn forget_ships_a_file_again_from_its_first_byte() {
    let mut scene = scene_with_ten_lines_shipped();
    let name = text_of(scene.logs.path("server.log"));
    let forgotten = checkpoint(&scene, &["forget", &name]);
    assert_eq!(forgotten.code, Some(0), "{forgotten:?}");
    assert!(forgotten.out.contains("forgotten at offset 70: its 70 bytes"), "{forgotten:?}");
    assert_eq!(entries(&registry(&scene)), []);
    let shipper = scene.start();
    assert_eq!(scene.values_after(20, shipper)[10..], numbered(0..10));
}

/// Torture: 59.
#[test]
fn nothing_is_changed_while_a_tail_runs_whatever_the_lock_file_says() {
    let mut scene = scene_with_ten_lines_shipped();
    // What a process that died may have left: the lock is not in the bytes.
    fs::write(scene.state_dir().join("lock"), "12345\n").expect("written");
    let shipper = scene.start();
    shipper.wait_for_log("file resumed", LIMIT);
    let name = text_of(scene.logs.path("server.log"));
    for args in [&["set", &name, "--offset", "0"][..], &["forget", &name], &["repair", "--adopt"]] {
        let refused = checkpoint(&scene, args);
        assert_eq!(refused.code, Some(75), "{refused:?}");
    }
    assert_eq!(scene.values_after(10, shipper), numbered(0..10));
}

#[test]
fn repair_takes_exactly_one_way_and_only_where_one_is_needed() {
    let scene = scene_with_ten_lines_shipped();
    assert_eq!(checkpoint(&scene, &["repair"]).code, Some(64));
    assert_eq!(checkpoint(&scene, &["repair", "--from-end", "--adopt"]).code, Some(64));
    let refused = checkpoint(&scene, &["repair", "--from-start"]);
    assert_eq!(refused.code, Some(65), "{refused:?}");
    assert!(refused.err.contains("needs no repair"), "{refused:?}");
    assert_eq!(entries(&registry(&scene)).len(), 1);
}

/// Torture: 56.
#[test]
fn a_refused_start_names_the_commands_and_each_does_what_it_says() {
    for (way, says, expected) in [
        ("--from-start", "70 bytes", numbered(0..12)),
        ("--from-end", "70 bytes in the 1 files that are there now are skipped", numbered(10..12)),
    ] {
        let mut scene = scene_with_ten_lines_shipped();
        for name in ["registry.json", "registry.json.prev"] {
            fs::write(scene.state_dir().join(name), "no registry\n").expect("written");
        }
        let refused = run(Command::new(shipper_binary()).arg("tail").arg("-c").arg(scene.config()));
        assert_eq!(refused.code, Some(78), "{refused:?}");
        let command = format!("checkpoint repair -c {} {way} ", scene.config().display());
        assert!(refused.err.contains(&command), "{command}: {refused:?}");

        let repaired = checkpoint(&scene, &["repair", way]);
        assert_eq!(repaired.code, Some(0), "{repaired:?}");
        assert!(repaired.out.contains(says), "{repaired:?}");
        for name in ["registry.json.damaged-1", "registry.json.prev.damaged-1"] {
            let kept = scene.state_dir().join(name);
            assert!(repaired.out.contains(&text_of(kept.clone())), "{repaired:?}");
            assert_eq!(fs::read_to_string(kept).expect("kept"), "no registry\n");
        }
        scene.logs.append("server.log", lines(10..12));
        let shipper = scene.start();
        let values = scene.values_after(10 + expected.len(), shipper);
        assert_eq!(values[10..], expected, "{way}");
    }
}

/// Torture: 57.
#[test]
fn a_registry_of_a_newer_version_is_refused_by_its_name_and_the_previous_generation_can_be_taken() {
    let mut scene = scene_with_ten_lines_shipped();
    let path = registry(&scene);
    fs::copy(&path, scene.state_dir().join("registry.json.prev")).expect("copied");
    let newer = as_newer(&fs::read(&path).expect("read"));
    fs::write(&path, &newer).expect("written");

    let refused = run(Command::new(shipper_binary()).arg("tail").arg("-c").arg(scene.config()));
    assert_eq!(refused.code, Some(78), "{refused:?}");
    for says in ["shipper 9.9.9 wrote it in format 99", "--accept-prev", "install 9.9.9"] {
        assert!(refused.err.contains(says), "{says}: {refused:?}");
    }
    assert_eq!(fs::read(&path).expect("read"), newer, "it is left as it is");

    let repaired = checkpoint(&scene, &["repair", "--accept-prev"]);
    assert_eq!(repaired.code, Some(0), "{repaired:?}");
    let kept = scene.state_dir().join("registry.json.damaged-1");
    assert_eq!(fs::read(kept).expect("kept"), newer);
    scene.logs.append("server.log", lines(10..12));
    let shipper = scene.start();
    assert_eq!(scene.values_after(12, shipper), numbered(0..12));
}

/// Writes a registry's header as version 9.9.9 might.
fn as_newer(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().position(|&byte| byte == b'\n').expect("a header");
    let header = std::str::from_utf8(&bytes[..end]).expect("text");
    let header = header.replace("\"format\":2,\"min_reader\":2", "\"format\":99,\"min_reader\":99");
    let ours = format!("\"written_by\":\"{}\"", env!("CARGO_PKG_VERSION"));
    let header = header.replace(&ours, "\"written_by\":\"9.9.9\"");
    let covered = &header[..header.rfind(",\"crc32c\":").expect("a checksum")];
    let body = &bytes[end + 1..];
    let crc32c = crc32c::crc32c_append(crc32c::crc32c(covered.as_bytes()), body);
    [format!("{covered},\"crc32c\":{crc32c}}}\n").as_bytes(), body].concat()
}

/// Torture: 60.
#[test]
fn a_copied_registry_is_refused_on_another_host_until_it_is_adopted() {
    let mut scene = scene_with_ten_lines_shipped();
    scene.logs.append("server.log", lines(10..12));
    scene.set("", "host", "\"h2\"");
    let refused = run(Command::new(shipper_binary()).arg("tail").arg("-c").arg(scene.config()));
    assert_eq!(refused.code, Some(78), "{refused:?}");
    for says in ["written on host \"h1\", and this is \"h2\"", "--adopt"] {
        assert!(refused.err.contains(says), "{says}: {refused:?}");
    }
    let adopted = checkpoint(&scene, &["repair", "--adopt"]);
    assert_eq!(adopted.code, Some(0), "{adopted:?}");
    assert!(adopted.out.contains("taken over from host \"h1\" with 1 files"), "{adopted:?}");
    let shipper = scene.start();
    assert_eq!(scene.values_after(12, shipper), numbered(0..12));
}

// ---- what is found at the start ----

#[test]
fn a_registry_that_vanished_is_damage_and_only_an_empty_folder_is_a_first_start() {
    let mut scene = scene_with_ten_lines_shipped();
    for name in ["registry.json", "registry.json.prev"] {
        fs::remove_file(scene.state_dir().join(name)).expect("removed");
    }
    let refused = run(Command::new(shipper_binary()).arg("tail").arg("-c").arg(scene.config()));
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.err.contains("it is gone"), "{refused:?}");
    fs::remove_dir_all(scene.state_dir()).expect("removed");
    let shipper = scene.start();
    assert_eq!(scene.values_after(20, shipper)[10..], numbered(0..10));
}

/// Torture: 58.
#[test]
fn an_offset_beyond_the_end_of_its_file_is_warned_of_and_the_file_read_anew() {
    let mut scene = scene_with_ten_lines_shipped();
    edit(&scene, |entries| entries[0].offset = 1_000_000);
    let shipper = scene.start();
    shipper.wait_for_log("file truncated or overwritten", LIMIT);
    assert_eq!(scene.values_after(20, shipper)[10..], numbered(0..10));
}

/// Torture: 57, 64.
#[test]
fn an_upgrade_goes_on_where_the_old_version_stopped_and_keeps_its_registry() {
    let mut scene = scene_with_ten_lines_shipped();
    scene.logs.append("server.log", lines(10..12));
    let old = as_format_1(&entries(&registry(&scene)));
    fs::write(registry(&scene), &old).expect("written");
    fs::remove_file(scene.state_dir().join("registry.json.prev")).expect("removed");
    let shipper = scene.start();
    assert_eq!(scene.values_after(12, shipper), numbered(0..12));
    let kept = scene.state_dir().join("registry.json.v1");
    assert_eq!(fs::read_to_string(kept).expect("kept"), old);
}

/// What the version before format 2 would have written.
fn as_format_1(entries: &[Entry]) -> String {
    let mut body = String::new();
    for entry in entries {
        let mut entry = serde_json::to_value(entry).expect("JSON");
        let fields = entry.as_object_mut().expect("an object");
        for newer in ["size", "first_seen_ms", "last_seen_ms"] {
            fields.remove(newer).expect("there");
        }
        body += &format!("{entry}\n");
    }
    let crc32c = crc32c::crc32c(body.as_bytes());
    let header = serde_json::json!({
        "magic": "shipper-registry", "format": 1, "min_reader": 1, "generation": 5,
        "host": HOST, "len": body.len(), "crc32c": crc32c,
    });
    format!("{header}\n{body}")
}

/// Torture: 61.
#[test]
fn a_file_that_no_input_matches_any_more_is_said_once_and_its_offset_remembered_for_long() {
    let mut scene = scene_with_ten_lines_shipped();
    let paths = |name: &str, scene: &Scene| format!("[{:?}]", scene.logs.path(name));
    let (others, all) = (paths("controller.log", &scene), paths("*.log", &scene));
    scene.logs.append("server.log", lines(10..12));
    scene.logs.append("controller.log", "x\n");
    scene.set("[[input]]", "paths", &others);
    let said = "no input leads to a file any more";
    let shipper = scene.start();
    scene.wait_for_records(11, &shipper);
    assert_eq!(shipper.log().matches(said).count(), 1, "{}", shipper.log());
    scene.stop(shipper);
    let shipper = scene.start();
    shipper.wait_for_log("file resumed", LIMIT);
    assert!(!shipper.log().contains(said), "{}", shipper.log());
    scene.stop(shipper);
    let name = text_of(scene.logs.path("server.log"));
    let show = checkpoint(&scene, &["show", &name]);
    assert!(show.out.contains("missed since  20"), "{show:?}");

    scene.set("[[input]]", "paths", &all);
    let shipper = scene.start();
    let mut expected = numbered(0..10);
    expected.extend(["x".into(), "line 10".into(), "line 11".into()]);
    assert_eq!(scene.values_after(13, shipper), expected);
    let entries = entries(&registry(&scene));
    assert!(entries.iter().all(|entry| entry.missed_since_ms.is_none()), "{entries:?}");
}

/// Torture: 61.
#[test]
fn a_file_that_no_input_has_matched_for_forget_after_is_forgotten() {
    let mut scene = scene_with_ten_lines_shipped();
    scene.logs.append("controller.log", "x\n");
    let paths = format!("[{:?}]", scene.logs.path("controller.log"));
    scene.set("[[input]]", "paths", &paths);
    scene.set("[tail]", "forget_after", "\"2d\"");
    let day_ms = 24 * 60 * 60 * 1000;
    let now_ms = log_shipper::kafka::record_batch::now_ms();
    for (days, is_kept) in [(1, true), (3, false)] {
        edit(&scene, |entries| {
            let entry = entries.iter_mut().find(|entry| entry.offset == 70).expect("known");
            entry.missed_since_ms = Some(now_ms - days * day_ms);
        });
        let shipper = scene.start();
        shipper.wait_for_log("controller.log offset=", LIMIT);
        scene.wait_for_records(11, &shipper);
        scene.stop(shipper);
        let left = entries(&registry(&scene));
        assert_eq!(left.iter().any(|entry| entry.offset == 70), is_kept, "{left:?}");
    }
}

#[test]
fn a_rotated_file_that_is_done_is_not_even_opened_at_a_start() {
    let mut scene = Scene::new("server.log*");
    scene.logs.append("server.log", lines(0..3));
    let shipper = scene.start();
    scene.wait_for_records(3, &shipper);
    scene.logs.rename("server.log", "server.log.1");
    scene.logs.append("server.log", lines(3..6));
    scene.wait_for_entry("server.log.1", "\"done\":true");
    assert_eq!(scene.values_after(6, shipper), numbered(0..6));

    let trace = scene.state.path().join("trace");
    let mut command = Command::new("strace");
    command.args(["-D", "-f", "-e", "trace=openat", "-o"]).arg(&trace);
    command.arg(shipper_binary()).arg("tail").arg("-c").arg(scene.config());
    let shipper = Shipper::spawn(&mut command);
    scene.logs.append("server.log", lines(6..7));
    assert_eq!(scene.values_after(7, shipper), numbered(0..7));
    let trace = fs::read_to_string(trace).expect("strace ran");
    assert!(trace.contains("server.log\""), "{trace}");
    assert!(!trace.contains("server.log.1\""), "{trace}");
}
