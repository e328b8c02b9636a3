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

#[test]
fn the_demo_counts_events_and_lines_that_are_too_long() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("long.log");
    let mut text = String::new();
    for n in 0..1_000 {
        text.push_str(&format!(
            "[2026-01-02 03:04:05,678] ERROR event {n} (a.B)\njava.lang.X: y\n"
        ));
        text.push_str(&"\tat a.b.C(C.java:1)\n".repeat(n % 100));
    }
    text.push_str(&"\tat a.b.TheLongestOfAllTraces(C.java:1)\n".repeat(20_000));
    text.push_str(&format!("{}\nand on\nwithout an end", "x".repeat(300_000)));
    std::fs::write(&path, text).expect("written");
    check(&demo(&[path.to_str().expect("text")]), &["All counts reconcile."]);
}
