//! What `shipper tail` does, and says, where brokers are away.

mod support;

use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Output};
use std::time::Duration;

use log_shipper::kafka::record_batch::partition_for;
use serde_json::Value;
use support::tail::{LIMIT, Scene, TOPIC, lines, numbered};
use support::{Shipper, broker_down, run, shipper_binary, wait_for};

/// An address at which nobody listens: nobody is given a port that was just given back.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").to_string()
}

fn status(scene: &Scene, arguments: &[&str]) -> Output {
    let mut command = Command::new(shipper_binary());
    run(command.arg("status").arg("-c").arg(scene.config()).args(arguments)).expect("run")
}

/// Waits until `status --json` is as `is` wants it.
fn wait_for_status(scene: &Scene, shipper: &Shipper, what: &str, is: impl Fn(&Value) -> bool) {
    let look = || {
        let output = status(scene, &["--json"]);
        let value = serde_json::from_slice(&output.stdout).ok()?;
        is(&value).then_some(())
    };
    wait_for(LIMIT, what, look, || shipper.log());
}

/// Torture: 65.
#[test]
fn what_is_wrong_is_told_to_whoever_asks_until_it_is_over() {
    let mut scene = Scene::new("server.log");
    let absent = status(&scene, &[]);
    assert_eq!(absent.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&absent.stderr).contains("no tail works in"));

    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    wait_for_status(&scene, &shipper, "three records", |it| it["counts"]["records_acked"] == 3);
    let well = status(&scene, &[]);
    let text = String::from_utf8_lossy(&well.stdout);
    assert_eq!(well.status.code(), Some(0), "{text}");
    assert!(text.contains("kafka: well; 0 records in 0 batches not acknowledged"), "{text}");
    assert!(text.contains("(node 1): connected, 0 requests in flight"), "{text}");

    broker_down(&scene.cluster, 1);
    scene.logs.append("server.log", lines(3..6));
    wait_for_status(&scene, &shipper, "failures", |it| {
        let trouble = &it["kafka"]["brokers"][0]["trouble"];
        trouble["failures"].as_u64() > Some(3)
            && trouble["reason"].as_str().is_some_and(|it| it.starts_with("cannot connect"))
            && it["kafka"]["records_unacknowledged"] == 3
            && it["kafka"]["oldest_unacknowledged"]["topic"] == "logs"
    });
    assert_eq!(status(&scene, &[]).status.code(), Some(1));
    // Said once, however often it fails.
    assert_eq!(shipper.log().matches("cannot connect").count(), 1, "{}", shipper.log());

    scene.cluster.broker_up(1).expect("up");
    scene.wait_for_records(6, &shipper);
    wait_for_status(&scene, &shipper, "all well", |it| {
        it["kafka"]["brokers"][0]["trouble"].is_null()
            && it["kafka"]["oldest_unacknowledged"].is_null()
    });
    let log = shipper.log();
    assert!(log.contains("well again after ") && log.contains(" failures"), "{log}");
    assert_eq!(scene.values_after(6, shipper), numbered(0..6));
    assert_eq!(status(&scene, &[]).status.code(), Some(69));
}

/// Torture: 65.
#[test]
fn the_fallback_is_asked_where_the_broker_of_this_host_is_down() {
    let mut scene = Scene::new("server.log");
    let (here, others) = (nobody(), scene.cluster.bootstrap_servers());
    scene.set("[kafka]", "bootstrap_servers", &format!("[{here:?}]"));
    scene.set("[kafka]", "bootstrap_servers_fallback", &format!("[{others:?}]"));
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    let log = shipper.log();
    assert!(log.contains(&format!("broker {here}: cannot connect")), "{log}");
    assert_eq!(scene.values_after(3, shipper), numbered(0..3));
}

/// Torture: 81.
#[test]
fn a_name_that_leads_nowhere_keeps_nobody_from_the_others() {
    let mut scene = Scene::new("server.log");
    let others = scene.cluster.bootstrap_servers();
    let servers = format!("[\"nowhere.invalid:9092\", {others:?}]");
    scene.set("[kafka]", "bootstrap_servers", &servers);
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    shipper.wait_for_log("broker nowhere.invalid:9092: cannot resolve its name", LIMIT);
    assert_eq!(scene.values_after(3, shipper), numbered(0..3));
}

/// Torture: 67.
#[test]
fn partitions_without_a_leader_do_not_keep_files_of_another_from_being_shipped() {
    const N_PARTITIONS: i32 = 8;
    let mut scene = Scene::with_partitions("*.log", N_PARTITIONS);
    // One small batch after the other, more of them than may be under way.
    scene.set("[batch]", "count_max", "10");
    let name_for = |partition| {
        let goes_there = |name: &String| {
            let key = [b"h1", scene.logs.path(name).as_os_str().as_bytes()].concat();
            partition_for(&key, N_PARTITIONS) == partition
        };
        (0..).map(|n| format!("{n}.log")).find(goes_there).expect("one of many")
    };
    let names: Vec<String> = (0..N_PARTITIONS).map(name_for).collect();
    let (led, others) = names.split_first().expect("eight");
    for partition in 1..N_PARTITIONS {
        scene.cluster.partition_leader(TOPIC, partition, None).expect("taken");
    }
    let shipper = scene.start();
    for name in others {
        scene.logs.append(name, lines(0..500));
    }
    shipper.wait_for_log("has no leader", LIMIT);
    wait_for_status(&scene, &shipper, "batches that wait", |it| {
        it["kafka"]["batches_unacknowledged"].as_u64() >= Some(5)
    });
    for n in 0..5 {
        scene.logs.append(led, lines(n * 100..(n + 1) * 100));
        let records = scene.wait_for_records((n + 1) * 100, &shipper);
        assert!(records.iter().all(|record| record.partition == 0));
    }

    for partition in 1..N_PARTITIONS {
        scene.cluster.partition_leader(TOPIC, partition, Some(1)).expect("given back");
    }
    scene.wait_for_records(500 * names.len(), &shipper);
    scene.stop(shipper);
    for partition in 0..N_PARTITIONS {
        let records = scene.records().iter().filter(|record| record.partition == partition);
        let values: Vec<String> = records.map(support::Record::text).collect();
        assert_eq!(values, numbered(0..500), "partition {partition}");
    }
}

/// Torture: 67.
#[test]
fn what_a_frozen_leader_led_goes_to_the_next_long_before_its_time_is_over() {
    let mut scene = Scene::with_brokers("server.log", 2, 1);
    scene.set("[kafka]", "request_timeout", "\"10m\"");
    scene.cluster.partition_leader(TOPIC, 0, Some(1)).expect("led by 1");
    let shipper = scene.start();
    scene.logs.append("server.log", lines(0..3));
    scene.wait_for_records(3, &shipper);
    // It hears, and says nothing for longer than anybody here waits.
    scene.cluster.broker_round_trip_time(1, 10 * LIMIT).expect("frozen");
    scene.cluster.partition_leader(TOPIC, 0, Some(2)).expect("led by 2");
    scene.logs.append("server.log", lines(3..6));
    wait_for_status(&scene, &shipper, "six records", |it| it["counts"]["records_acked"] == 6);
    let log = shipper.log();
    assert!(log.contains("no answer for 5s, and others lead its partitions"), "{log}");
    scene.read_anew();
    assert_eq!(scene.values_after(6, shipper), numbered(0..6));
}

/// The hub is asked, too: what hangs is said after seconds, in place of nothing.
#[test]
fn a_tail_that_is_stopped_by_a_signal_is_said_not_to_answer() {
    let scene = Scene::new("server.log");
    let shipper = scene.start();
    wait_for_status(&scene, &shipper, "an answer", |it| !it["kafka"].is_null());
    shipper.signal(rustix::process::Signal::STOP);
    let output = status(&scene, &[]);
    shipper.signal(rustix::process::Signal::CONT);
    assert_eq!(output.status.code(), Some(74));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("cannot ask the tail behind"), "{error}");
    let (status, log) = shipper.stop(Duration::from_secs(20));
    assert_eq!(status.code(), Some(0), "{log}");
}
