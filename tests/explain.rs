//! `shipper explain` as a person types it; `index.rs` shows that it says what `index` does.

mod support;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use support::{run, shipper_binary, start};

const LOG: &str = "hello\n\
    [2026-01-01 00:00:00,000] ERROR boom (kafka.A)\njava.lang.X: y\n\tat a.b(C.java:1)\n\
    [2026-01-01 00:00:01,000] INFO done (kafka.A)\n";

fn explain(arguments: &[&str]) -> Output {
    run(Command::new(shipper_binary()).arg("explain").args(arguments)).expect("run")
}

fn events(output: &Output) -> Vec<Value> {
    let events = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
    events.map(|event| event.expect("JSON")).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn each_event_has_its_place_its_route_and_its_document() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("server.log");
    fs::write(&log, LOG).expect("written");
    let output = explain(&["--json", text(&log)]);
    assert_eq!(output.status.code(), Some(1), "one event is in no known layout");
    let events = events(&output);
    let places: Vec<_> =
        events.iter().map(|it| [&it["line"], &it["lines"], &it["offset"]]).collect();
    assert_eq!(places, [[1, 1, 0], [2, 3, 6], [5, 1, 86]]);
    let routes: Vec<_> = events.iter().map(|it| &it["route"]).collect();
    assert_eq!(routes, ["default.others", "default.errors", "default.others"]);
    assert_eq!(events[1]["to"], serde_json::json!(["error_topic"]));
    assert_eq!(events[1]["document"]["error"]["type"], "java.lang.X");
    assert_eq!(events[1].get("action"), None);
    assert_eq!(events[2]["action"]["create"]["_index"], "broker-logs-2026.01.01");
    assert_eq!(events[2]["document"]["log"]["file"]["path"], text(&log));

    let shown = explain(&[text(&log)]);
    let shown = String::from_utf8(shown.stdout).expect("UTF-8");
    assert!(
        shown.contains(":2: [2026-01-01 00:00:00,000] ERROR boom (kafka.A) (and 2 lines more)"),
        "{shown}"
    );
    assert!(shown.contains("3 events, 1 of them in no layout that is known"), "{shown}");
    let unknown = explain(&["--json", "--unknown", text(&log)]);
    assert_eq!(self::events(&unknown).len(), 1);
    let summary = explain(&["--summary", text(&log), text(&log)]);
    let summary = String::from_utf8(summary.stdout).expect("UTF-8");
    assert!(
        summary.starts_with("6 events, 2 of them") && summary.contains("2  default.errors"),
        "{summary}"
    );
}

#[test]
fn a_rotated_and_compressed_log_and_the_standard_input_are_logs_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let zipped = folder.path().join("server.log.2026-01-01-00.gz");
    let mut encoder = GzEncoder::new(File::create(&zipped).expect("created"), Compression::fast());
    encoder.write_all(LOG.as_bytes()).expect("written");
    encoder.finish().expect("written");
    let from_file = events(&explain(&["--json", text(&zipped)]));
    assert_eq!(from_file.len(), 3);
    let path = folder.path().join("server.log");
    assert_eq!(from_file[0]["document"]["log"]["file"]["path"], text(&path));

    let mut command = Command::new(shipper_binary());
    let command = command.args(["explain", "--json", "--path", text(&path)]);
    let mut child = start(command.stdin(Stdio::piped()).stdout(Stdio::piped())).expect("it starts");
    // Without its last line end, and without a pause where events end.
    child.stdin.take().expect("piped").write_all(LOG.trim_end().as_bytes()).expect("written");
    let from_stdin = events(&child.wait_with_output().expect("run"));
    let documents = |events: &[Value]| -> Vec<Value> {
        events[1..].iter().map(|event| event["document"].clone()).collect()
    };
    assert_eq!(documents(&from_stdin), documents(&from_file));
}

#[test]
fn the_input_that_would_ship_a_log_says_how_it_is_cut_into_events() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("shipper.toml");
    let inputs = "kafka.bootstrap_servers = [\"a:1\"]\nhost = \"h1\"\n\
        [[input]]\npaths = [\"/logs/server.log\"]\ntopic = \"t1\"\n\
        [[input]]\npaths = [\"/logs/other-*.log\"]\ntopic = \"t2\"\nmultiline = { profile = \"none\" }\n";
    fs::write(&config, inputs).expect("written");
    let log = folder.path().join("log");
    fs::write(&log, LOG).expect("written");
    for (path, topic, n_events) in [("/logs/server.log", "t1", 3), ("/logs/other-1.log", "t2", 5)] {
        let output = explain(&["-c", text(&config), "--path", path, "--json", text(&log)]);
        let events = events(&output);
        assert_eq!(events.len(), n_events, "{path}");
        assert_eq!(events[0]["document"]["kafka"]["topic"], topic);
        assert_eq!(events[0]["document"]["host"]["name"], "h1");
    }
}

#[test]
fn what_cannot_be_read_or_written_is_said_and_never_a_panic() {
    let folder = tempfile::tempdir().expect("a folder");
    for (arguments, code, problem) in [
        (vec!["/none/server.log"], 74, "cannot read /none/server.log: No such file"),
        (vec![text(folder.path())], 74, "Is a directory"),
        (vec!["-c", "/none/shipper.toml"], 78, "cannot be read"),
        (vec!["--json", "--summary"], 64, "cannot be used with"),
    ] {
        let output = explain(&arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(problem), "{error}");
    }
    let log = folder.path().join("server.log");
    fs::write(&log, LOG.repeat(10_000)).expect("written");
    let mut command = Command::new(shipper_binary());
    let command = command.arg("explain").arg(&log).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = start(command).expect("it starts");
    drop(child.stdout.take());
    let mut error = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut error).expect("read");
    assert_eq!((child.wait().expect("run").code(), error.as_str()), (Some(1), ""));
}
