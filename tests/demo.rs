//! `shipper demo` as a new user runs it.

use std::process::{Command, Output};

fn demo(files: &[&str]) -> Output {
    let binary = env!("CARGO_BIN_EXE_shipper");
    Command::new(binary).arg("demo").args(files).output().expect("the binary runs")
}

fn check(output: &Output, expected: &[&str]) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "no progress in a pipe: {output:?}");
    for expected in expected {
        assert!(text.contains(expected), "no {expected:?} in {text}");
    }
}

#[test]
fn the_demo_writes_rotates_and_reconciles_a_log() {
    let output = demo(&[]);
    check(&output, &["rotated: server.log", "\tat ", "\"log\": {", "All counts reconcile."]);
}

#[test]
fn the_demo_ships_given_files() {
    let log = "tests/data/logs/kafka-4.1-server.log";
    check(&demo(&[log, "tests/data/logs/kafka-3.9-controller.log"]), &["All counts reconcile."]);
}
