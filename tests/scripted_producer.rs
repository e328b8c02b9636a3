//! The producer against a broker that makes trouble: whatever it does, every record stands in the
//! log once and in order. What each error code comes to is in `producer_errors.rs`.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::broker::{Broker, Trouble};
use common::{batches, config, deliver, numbered, numbers, send};
use crossbeam_channel::unbounded;
use log_shipper::config::{Compression, KafkaConfig};
use log_shipper::kafka::producer::{Delivery, Producer, Receipt};

fn topic() -> Arc<str> {
    "broker-logs".into()
}

fn start(broker: &Broker) -> Producer {
    Producer::start(&config(&broker.address), Compression::None, None).unwrap()
}

/// Sends ten batches, of which the first goes alone and the next five are in flight together
/// before the broker reads the script.
fn deliver_ten(broker: &Broker, config: &KafkaConfig) -> Vec<Receipt> {
    let producer = Producer::start(config, Compression::None, None).unwrap();
    deliver(&producer, &topic(), &batches(1));
    broker.hold(5);
    let more: Vec<_> = batches(11).split_off(1);
    deliver(&producer, &topic(), &more)
}

/// Each trouble befalls the third of five batches in flight.
fn check(trouble: Trouble) -> Vec<Receipt> {
    let broker = Broker::start();
    broker.script([Trouble::None, Trouble::None, Trouble::None, trouble.clone()]);
    let mut config = config(&broker.address);
    config.request_timeout = Duration::from_secs(1);
    let receipts = deliver_ten(&broker, &config);
    assert_eq!(broker.values(0), numbers(0..110), "{trouble:?}");
    assert!(receipts.iter().all(|receipt| !receipt.may_repeat), "{trouble:?}");
    assert!(receipts.iter().all(|receipt| receipt.rejects.is_empty()), "{trouble:?}");
    assert_eq!(broker.producer_ids(0), [1000], "{trouble:?}");
    receipts
}

#[test]
fn five_requests_are_in_flight_and_each_batch_has_its_offset() {
    let receipts = check(Trouble::None);
    let offsets: Vec<_> = receipts.iter().map(|receipt| receipt.base_offset).collect();
    assert_eq!(offsets, (1..11).map(|n| n * 10).collect::<Vec<i64>>());
}

/// Torture: 66, 80.
#[test]
fn a_connection_cut_before_the_answer_is_made_anew_and_nothing_repeated() {
    check(Trouble::Cut);
    check(Trouble::AppendedAndCut);
}

#[test]
fn a_connection_closed_while_idle_is_made_anew() {
    let broker = Broker::start();
    broker.script([Trouble::AnsweredAndHungUp, Trouble::AnsweredAndHungUp]);
    let producer = start(&broker);
    for n in 0..4 {
        deliver(&producer, &topic(), &batches(n + 1)[n..]);
    }
    assert_eq!(broker.values(0), numbers(0..40));
    assert_eq!(broker.n_connections(), 3);
}

#[test]
fn an_answer_that_makes_no_sense_is_treated_as_none() {
    check(Trouble::AppendedAndGarbled);
    check(Trouble::AppendedAndMisnamed);
}

/// Torture: 77, 88.
#[test]
fn a_request_that_is_not_answered_in_time_is_sent_again() {
    check(Trouble::AppendedAndSilent);
}

#[test]
fn what_arrived_before_a_restart_of_the_broker_is_not_repeated() {
    // Two of five arrive, then the broker restarts and remembers only the second.
    let broker = Broker::start();
    broker.script([Trouble::None, Trouble::AppendedWithCode(7)]);
    broker.script([Trouble::AppendedCutAndForgotten]);
    let receipts = deliver_ten(&broker, &config(&broker.address));
    assert_eq!(broker.values(0), numbers(0..110));
    assert_eq!(broker.producer_ids(0), [1000]);
    assert!(receipts.iter().all(|receipt| !receipt.may_repeat));
}

/// Torture: 87.
#[test]
fn a_broker_that_has_lost_our_sequence_gets_the_records_under_a_new_producer_id() {
    let broker = Broker::start();
    broker.script([Trouble::None, Trouble::None, Trouble::Amnesia]);
    let receipts = deliver_ten(&broker, &config(&broker.address));
    assert_eq!(broker.values(0), numbers(0..110));
    assert_eq!(broker.producer_ids(0), [1000, 1001]);
    // Refused, each of them, when first sent: there is no doubt.
    assert!(receipts.iter().all(|receipt| !receipt.may_repeat));
}

/// Torture: 87.
#[test]
fn a_batch_of_which_nobody_knows_whether_it_arrived_is_rather_repeated_and_said_so() {
    let broker = Broker::start();
    broker.script([Trouble::None, Trouble::AppendedAndCut, Trouble::Amnesia]);
    let producer = start(&broker);
    deliver(&producer, &topic(), &batches(1));
    let receipts = deliver(&producer, &topic(), &batches(2)[1..]);
    assert!(receipts[0].may_repeat);
    let mut expected = numbers(0..20);
    expected.extend(numbers(10..20));
    assert_eq!(broker.values(0), expected);
}

/// Torture: 37.
#[test]
fn a_batch_too_large_is_halved_down_to_the_record_that_is() {
    let broker = Broker::start();
    broker.batch_len_max(1000);
    let mut batches = batches(8);
    batches[4].1[3].value = vec![b'x'; 2000];
    let producer = start(&broker);
    deliver(&producer, &topic(), &batches[..1]);
    broker.hold(5);
    let receipts = deliver(&producer, &topic(), &batches[1..]);

    let rejects: Vec<_> = receipts.iter().flat_map(|receipt| &receipt.rejects).collect();
    assert_eq!(rejects.len(), 1);
    let sent = &batches[4].1[3];
    assert_eq!(rejects[0].value, sent.value);
    assert_eq!(rejects[0].key, sent.key);
    assert_eq!(rejects[0].headers, sent.headers);
    assert_eq!(rejects[0].timestamp_ms, sent.timestamp_ms);
    assert_eq!(rejects[0].code, 10);
    let mut expected = numbers(0..80);
    expected.remove(43);
    assert_eq!(broker.values(0), expected);
    assert_eq!(broker.producer_ids(0), [1000]);
}

#[test]
fn the_records_a_broker_names_are_rejected_and_the_others_sent() {
    for (code, version) in [(87, 11), (44, 8)] {
        let broker = Broker::start();
        broker.produce_versions(3, version);
        let trouble = Trouble::Records(code, vec![2, 9]);
        broker.script([Trouble::None, Trouble::None, trouble]);
        let receipts = deliver_ten(&broker, &config(&broker.address));
        let mut expected = numbers(0..110);
        expected.retain(|n| n != "22" && n != "29");
        assert_eq!(broker.values(0), expected);
        let rejects: Vec<_> = receipts.iter().flat_map(|receipt| &receipt.rejects).collect();
        let values: Vec<_> = rejects.iter().map(|reject| &reject.value[..]).collect();
        assert_eq!(values, [b"22", b"29"]);
        assert!(rejects[0].reason.ends_with(": bad"), "{}", rejects[0].reason);
    }
}

#[test]
fn the_first_batch_under_a_producer_id_goes_alone() {
    // A broker that knows nothing of the producer would take the second batch before the first.
    for code in [19, 10, 7] {
        let broker = Broker::start();
        broker.script([Trouble::Code(code)]);
        let producer = start(&broker);
        deliver(&producer, &topic(), &batches(5));
        assert_eq!(broker.values(0), numbers(0..50), "{code}");
    }
}

/// Torture: 70.
#[test]
fn a_topic_made_anew_gets_what_follows_in_order() {
    let broker = Broker::start();
    let producer = start(&broker);
    deliver(&producer, &topic(), &batches(1));
    broker.hold(4).script(vec![Trouble::Code(3); 4]);
    broker.script([Trouble::Recreate]);
    let more: Vec<_> = batches(5).split_off(1);
    deliver(&producer, &topic(), &more);
    assert_eq!(broker.values(0), numbers(10..50));
}

#[test]
fn a_batch_that_was_refused_while_a_later_one_was_taken_is_not_lost() {
    let broker = Broker::start();
    let producer = start(&broker);
    deliver(&producer, &topic(), &batches(1));
    broker.hold(4).script([Trouble::Code(3), Trouble::Recreate]);
    let more: Vec<_> = batches(5).split_off(1);
    deliver(&producer, &topic(), &more);
    let mut expected = numbers(20..50);
    expected.extend(numbers(10..20));
    assert_eq!(broker.values(0), expected);
    assert_eq!(broker.producer_ids(0), [1000, 1001]);
}

/// Torture: 91.
#[test]
fn a_throttled_producer_waits_for_as_long_as_it_is_told() {
    let broker = Broker::start();
    let time = Duration::from_millis(300);
    broker.script([Trouble::Throttle(time)]);
    let producer = start(&broker);
    deliver(&producer, &topic(), &batches(1));
    let told_at = Instant::now();
    deliver(&producer, &topic(), &batches(2)[1..]);
    let waited = broker.produced_at()[1].duration_since(broker.produced_at()[0]);
    assert!(waited >= time, "{waited:?}");
    assert!(told_at.elapsed() < Duration::from_secs(10));
    let report = producer.reporter().report(Duration::from_secs(10)).expect("it lives");
    let quota = &report.troubles[&format!("quota of broker {}", broker.address)];
    assert_eq!(quota.n_times, 1);
    assert!(quota.reason.contains("more is sent than a quota allows"), "{}", quota.reason);
}

/// Torture: 90.
#[test]
fn brokers_of_any_age_are_spoken_to_in_a_version_they_know() {
    for (api_versions_max, hang_up, produce) in
        [(4, false, 12), (3, false, 9), (2, false, 8), (0, false, 5), (0, true, 3)]
    {
        let broker = Broker::start();
        broker.api_versions_max(api_versions_max, hang_up);
        broker.produce_versions(0, produce);
        let producer = start(&broker);
        deliver(&producer, &topic(), &batches(3));
        assert_eq!(broker.values(0), numbers(0..30), "{api_versions_max} {hang_up} {produce}");
    }
}

/// Torture: 89.
#[test]
fn a_broker_that_does_not_know_the_codec_is_named_and_gets_nothing() {
    let broker = Broker::start();
    broker.produce_versions(3, 6);
    let producer = Producer::start(&config(&broker.address), Compression::Zstd, None).unwrap();
    let (reply, deliveries) = unbounded();
    send(&producer, 0, &topic(), 0, &numbered(0, 10), &reply);
    let reporter = producer.reporter();
    let deadline = Instant::now() + Duration::from_secs(20);
    let reason = loop {
        let report = reporter.report(Duration::from_secs(20)).expect("it answers");
        if let Some(trouble) = report.brokers.into_iter().find_map(|broker| broker.trouble) {
            break trouble.reason;
        }
        assert!(Instant::now() < deadline, "nothing is said");
        std::thread::yield_now();
    };
    assert_eq!(reason, "it does not know zstd: set batch.compression to another codec");
    assert!(broker.values(0).is_empty());
    let settled = deliveries.try_iter().any(|it| matches!(it, Delivery::Settled(_)));
    assert!(!settled, "nothing is given up");
}

/// Torture: 70.
#[test]
fn a_missing_topic_is_waited_for() {
    let broker = Broker::start();
    broker.topic_exists(false);
    let producer = start(&broker);
    let (reply, deliveries) = unbounded();
    producer.describe(&topic(), &reply);
    assert!(deliveries.recv_timeout(Duration::from_millis(100)).is_err());

    broker.topic_exists(true);
    let answer = deliveries.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(matches!(answer, Delivery::Topic { n_partitions: 2, .. }), "{answer:?}");
    deliver(&producer, &topic(), &batches(1));
    assert_eq!(broker.values(0), numbers(0..10));
}

#[test]
fn partitions_share_requests_and_keep_their_order() {
    let broker = Broker::start();
    let producer = start(&broker);
    let batches: Vec<_> = (0..40).map(|n| (n as i32 % 2, numbered(n / 2 * 10, 10))).collect();
    deliver(&producer, &topic(), &batches);
    assert_eq!(broker.values(0), numbers(0..200));
    assert_eq!(broker.values(1), numbers(0..200));
    assert!(broker.produced_at().len() < 40, "{} requests", broker.produced_at().len());
}

#[test]
fn a_bootstrap_server_that_is_away_does_not_matter_while_another_is_there() {
    let broker = Broker::start();
    let mut config = config(&broker.address);
    config.bootstrap_servers.insert(0, "127.0.0.1:1".into());
    config.bootstrap_servers.insert(0, "no-such-host.invalid:9092".into());
    let producer = Producer::start(&config, Compression::None, None).unwrap();
    deliver(&producer, &topic(), &batches(2));
    assert_eq!(broker.values(0), numbers(0..20));
    assert!(broker.n_connections() <= 2, "{} connections", broker.n_connections());
}
