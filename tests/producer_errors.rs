//! What each error code of a broker comes to: a table, and a broker that answers with each.
//!
//! Each code befalls the third of five batches in flight. Whatever it means, what the broker can
//! take stands in the log once and in order.

mod common;

use std::sync::{Arc, Mutex, Once};
use std::thread;
use std::time::Duration;

use common::broker::{Broker, Trouble};
use common::{batches, config, deliver, numbered, numbers, send};
use crossbeam_channel::unbounded;
use log_shipper::config::Compression;
use log_shipper::kafka::producer::{Delivery, Producer, Receipt};

/// What must come of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It counts as taken, whatever the code.
    Arrives,
    /// It is sent again; ordinary enough to be said only where it lasts.
    Moves,
    /// It was not taken; it is sent again and that is said.
    Waits,
    /// It may have been taken in spite of the code; likewise.
    IsInDoubt,
    /// Likewise, and if it lasts the batch is read again: the producer gives up.
    IsBroken,
    /// Likewise, seldom, until somebody has done something.
    IsHeld,
    /// It is sent in halves; a single record is given up.
    IsHalved,
    /// The records that the broker names are given up, the others sent; without names it is halved.
    IsSorted,
    /// It is sent under a new producer id.
    IsForgotten,
    /// The producer stops.
    IsFenced,
}

use Fate::{
    Arrives, IsBroken, IsFenced, IsForgotten, IsHalved, IsHeld, IsInDoubt, IsSorted, Moves, Waits,
};

/// Code, name in the log, and fate, for each row of the table in `verdict.rs` and a code that it
/// does not hold.
#[rustfmt::skip]
const PRODUCE: &[(i16, &str, Fate)] = &[
    (-1, "UNKNOWN_SERVER_ERROR", IsInDoubt),
    (0, "NONE", Arrives),
    (2, "CORRUPT_MESSAGE", IsBroken),
    (3, "UNKNOWN_TOPIC_OR_PARTITION", Moves),
    (5, "LEADER_NOT_AVAILABLE", Moves),
    (6, "NOT_LEADER_OR_FOLLOWER", Moves),
    (7, "REQUEST_TIMED_OUT", IsInDoubt),
    (10, "MESSAGE_TOO_LARGE", IsHalved),
    (13, "NETWORK_EXCEPTION", IsInDoubt),
    (17, "INVALID_TOPIC_EXCEPTION", IsHeld),
    (18, "RECORD_LIST_TOO_LARGE", IsHalved),
    (19, "NOT_ENOUGH_REPLICAS", Waits),
    (20, "NOT_ENOUGH_REPLICAS_AFTER_APPEND", IsInDoubt),
    (29, "TOPIC_AUTHORIZATION_FAILED", IsHeld),
    (31, "CLUSTER_AUTHORIZATION_FAILED", IsHeld),
    (32, "INVALID_TIMESTAMP", IsHeld),
    (35, "UNSUPPORTED_VERSION", IsHeld),
    (42, "INVALID_REQUEST", IsHeld),
    (43, "UNSUPPORTED_FOR_MESSAGE_FORMAT", IsHeld),
    (44, "POLICY_VIOLATION", IsSorted),
    (45, "OUT_OF_ORDER_SEQUENCE_NUMBER", IsForgotten),
    (46, "DUPLICATE_SEQUENCE_NUMBER", Arrives),
    (47, "INVALID_PRODUCER_EPOCH", IsFenced),
    (53, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED", IsHeld),
    (56, "KAFKA_STORAGE_ERROR", IsInDoubt),
    (59, "UNKNOWN_PRODUCER_ID", IsForgotten),
    (74, "FENCED_LEADER_EPOCH", Moves),
    (75, "UNKNOWN_LEADER_EPOCH", Moves),
    (76, "UNSUPPORTED_COMPRESSION_TYPE", IsHeld),
    (87, "INVALID_RECORD", IsSorted),
    (89, "THROTTLING_QUOTA_EXCEEDED", Waits),
    (90, "PRODUCER_FENCED", IsFenced),
    (100, "UNKNOWN_TOPIC_ID", Moves),
    (103, "INCONSISTENT_TOPIC_ID", Moves),
    (9999, "9999", IsInDoubt),
];

/// Codes with which a broker may refuse a producer id: it is asked again for as long as it takes,
/// and nothing is sent before.
/// Source: Kafka's `InitProducerIdResponse` and `RPCProducerIdManager`. Those that are no answers to
/// what we ask must not stop us either; 47 and 90 are about a producer id that we never name.
#[rustfmt::skip]
const INIT_PRODUCER_ID: &[(i16, &str)] = &[
    (-1, "UNKNOWN_SERVER_ERROR"),
    (5, "LEADER_NOT_AVAILABLE"),
    (7, "REQUEST_TIMED_OUT"),
    (14, "COORDINATOR_LOAD_IN_PROGRESS"),
    (15, "COORDINATOR_NOT_AVAILABLE"),
    (16, "NOT_COORDINATOR"),
    (31, "CLUSTER_AUTHORIZATION_FAILED"),
    (35, "UNSUPPORTED_VERSION"),
    (41, "NOT_CONTROLLER"),
    (42, "INVALID_REQUEST"),
    (51, "CONCURRENT_TRANSACTIONS"),
    (53, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"),
    (9999, "9999"),
];

/// Requests refused in a row, five at a time at most, that are no passing thing.
const N_LASTING: usize = 12;
/// More than any test sends.
const N_ENDLESS: usize = 200;
/// Records of a batch.
const N_RECORDS: i64 = 10;

/// What was logged at `warn` and `info` since the start, of all tests.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Ear;

impl log::Log for Ear {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.level() <= log::Level::Info
    }

    fn log(&self, record: &log::Record) {
        if self.enabled(record.metadata()) {
            SAID.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// To be called before anything else installs a logger.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Ear).expect("the first logger");
        log::set_max_level(log::LevelFilter::Info);
    });
}

fn is_said(parts: &[&str]) -> bool {
    let said = SAID.lock().unwrap();
    said.iter().any(|line| parts.iter().all(|part| line.contains(part)))
}

/// A broker, and a topic whose name tells apart what is said of it.
struct Case {
    broker: Broker,
    topic: Arc<str>,
    subject: String,
}

impl Case {
    fn new(what: &str, troubles: Vec<Trouble>) -> Case {
        let broker = Broker::start();
        broker.script([Trouble::None, Trouble::None, Trouble::None]).script(troubles);
        let topic: Arc<str> = what.into();
        let subject = format!("topic {topic:?} partition 0: ");
        Case { broker, topic, subject }
    }

    fn producer(&self) -> Producer {
        Producer::start(&config(&self.broker.address), Compression::None, None).unwrap()
    }

    /// Sends ten batches, of which the first goes alone and the next five are in flight together
    /// before the broker reads the script.
    fn deliver(&self) -> Vec<Receipt> {
        let producer = self.producer();
        deliver(&producer, &self.topic, &batches(1));
        self.broker.hold(5);
        deliver(&producer, &self.topic, &batches(11).split_off(1))
    }

    /// Returns why the producer stops.
    fn stop(&self) -> String {
        let producer = self.producer();
        let (reply, deliveries) = unbounded();
        for n in 0..6 {
            send(&producer, n, &self.topic, 0, &numbered(n as usize * 10, 10), &reply);
        }
        loop {
            if let Delivery::Fatal(reason) =
                deliveries.recv_timeout(Duration::from_secs(30)).expect("it stops")
            {
                return reason;
            }
        }
    }

    /// Sees that all is there, once and in order, in batches of these lengths beside whole ones.
    fn check(&self, receipts: &[Receipt], producer_ids: &[i64], parts: &[i64]) {
        let topic = &self.topic;
        assert_eq!(self.broker.values(0), numbers(0..110), "{topic}");
        assert_eq!(self.broker.producer_ids(0), producer_ids, "{topic}");
        let lens = self.broker.batch_lens(0).into_iter();
        assert_eq!(lens.filter(|len| *len != N_RECORDS).collect::<Vec<_>>(), parts, "{topic}");
        assert!(receipts.iter().all(|receipt| !receipt.may_repeat), "{topic}");
        assert!(receipts.iter().all(|receipt| receipt.rejects.is_empty()), "{topic}");
    }

    fn says(&self, parts: &[&str]) -> bool {
        is_said(&[&[&*self.subject], parts].concat())
    }

    /// Longest time between two requests.
    fn longest_pause(&self) -> Duration {
        let times = self.broker.produced_at();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().expect("more than one request")
    }
}

fn refused(code: i16, n: usize) -> Vec<Trouble> {
    vec![Trouble::Code(code); n]
}

/// Shows that the batch is sent again until it is taken, and what is said of it.
fn check_sent_again(code: i16, name: &str, fate: Fate) {
    let once = Case::new(&format!("once{code}"), refused(code, 1));
    once.check(&once.deliver(), &[1000], &[]);
    assert_eq!(once.says(&[name, "held and sent again"]), fate != Moves, "{code}");
    if fate == IsHeld {
        let pause = once.longest_pause();
        assert!(pause >= config("a:1").retry_backoff_max, "{code}: {pause:?}");
    }

    if fate == IsInDoubt {
        let taken = Case::new(&format!("taken{code}"), vec![Trouble::AppendedWithCode(code)]);
        taken.check(&taken.deliver(), &[1000], &[]);
    }

    if fate == IsBroken {
        let reason = Case::new(&format!("broken{code}"), refused(code, N_ENDLESS)).stop();
        assert!(reason.contains(name), "{reason}");
        return;
    }
    let lasting = Case::new(&format!("lasting{code}"), refused(code, N_LASTING));
    lasting.check(&lasting.deliver(), &[1000], &[]);
    assert!(lasting.says(&[name, "held and sent again"]), "{code}");
    assert!(lasting.says(&["well again"]), "{code}");
}

fn check_halved(code: i16, name: &str) {
    let case = Case::new(&format!("halved{code}"), refused(code, 1));
    case.check(&case.deliver(), &[1000], &[5, 5]);

    // A single record cannot be halved.
    let case = Case::new(&format!("single{code}"), refused(code, 1));
    let singles: Vec<_> = (0..6).map(|n| (0, numbered(n, 1))).collect();
    let receipts = deliver(&case.producer(), &case.topic, &singles);
    assert_eq!(case.broker.values(0), ["0", "1", "2", "4", "5"], "{code}");
    let rejects: Vec<_> = receipts.iter().flat_map(|receipt| &receipt.rejects).collect();
    let codes: Vec<_> = rejects.iter().map(|reject| (&*reject.value, reject.code)).collect();
    assert_eq!(codes, [(&b"3"[..], code)]);
    assert!(case.says(&["1 record(s) refused for good", name]), "{code}");
}

fn check_sorted(code: i16, name: &str) {
    let case = Case::new(&format!("sorted{code}"), vec![Trouble::Records(code, vec![2, 9])]);
    let receipts = case.deliver();
    let mut expected = numbers(0..110);
    expected.retain(|n| n != "32" && n != "39");
    assert_eq!(case.broker.values(0), expected, "{code}");
    let rejects: Vec<_> = receipts.iter().flat_map(|receipt| &receipt.rejects).collect();
    let values: Vec<_> = rejects.iter().map(|reject| &reject.value[..]).collect();
    assert_eq!(values, [b"32", b"39"], "{code}");
    assert!(rejects.iter().all(|reject| reject.code == code && reject.reason.contains(name)));
    assert!(case.says(&["2 record(s) refused for good", name]), "{code}");

    let case = Case::new(&format!("unnamed{code}"), refused(code, 1));
    case.check(&case.deliver(), &[1000], &[5, 5]);
}

fn check(code: i16, name: &str, fate: Fate) {
    match fate {
        Arrives => {
            let case = Case::new(&format!("taken{code}"), vec![Trouble::AppendedWithCode(code)]);
            let receipts = case.deliver();
            case.check(&receipts, &[1000], &[]);
            // One request a batch: nothing is sent again.
            assert_eq!(case.broker.produced_at().len(), 11, "{code}");
        }
        Moves | Waits | IsInDoubt | IsBroken | IsHeld => check_sent_again(code, name, fate),
        IsHalved => check_halved(code, name),
        IsSorted => check_sorted(code, name),
        IsForgotten => {
            let case = Case::new(&format!("forgotten{code}"), refused(code, 1));
            case.check(&case.deliver(), &[1000, 1001], &[]);
            assert!(case.says(&["the broker has forgotten this producer"]), "{code}");
        }
        IsFenced => {
            let reason = Case::new(&format!("fenced{code}"), refused(code, 1)).stop();
            assert!(reason.contains(name) && reason.contains("another process"), "{reason}");
        }
    }
}

/// Runs all at once, for each waits more than it works, and names those that fail.
fn each<T: Sync>(rows: &[T], check: impl Fn(&T) + Sync) {
    listen();
    thread::scope(|scope| {
        let checks: Vec<_> = rows.iter().map(|row| scope.spawn(|| check(row))).collect();
        let n_failed = checks.into_iter().filter_map(|check| check.join().err()).count();
        assert_eq!(n_failed, 0, "rows failed; see above");
    });
}

/// Torture: 67, 68, 72, 87, 93.
#[test]
fn each_error_code_of_produce_has_the_fate_that_the_table_says() {
    each(PRODUCE, |(code, name, fate)| check(*code, name, *fate));
}

/// The table cannot be asked from here; its text can.
#[test]
fn no_row_of_the_producers_table_is_without_a_case() {
    let source = include_str!("../src/kafka/verdict.rs");
    let rows = source.lines().filter_map(|line| line.trim().strip_prefix("row("));
    let rows: Vec<(i16, &str)> = rows
        .filter_map(|row| {
            let (code, rest) = row.split_once(", \"")?;
            Some((code.parse().ok()?, rest.split_once('"')?.0))
        })
        .collect();
    assert!(rows.len() > 30, "{rows:?}");
    let cases: Vec<(i16, &str)> = PRODUCE.iter().map(|(code, name, _)| (*code, *name)).collect();
    assert_eq!(rows, cases[..cases.len() - 1]);
}

/// Torture: 73.
#[test]
fn nothing_is_sent_before_there_is_a_producer_id_whatever_the_broker_says() {
    each(INIT_PRODUCER_ID, |(code, name)| {
        for (n_failures, is_worth_a_word) in [(2, false), (4, true)] {
            let case = Case::new(&format!("id{code}"), Vec::new());
            case.broker.failing_producer_ids(n_failures, *code);
            let producer = case.producer();
            deliver(&producer, &case.topic, &batches(2));
            assert_eq!(case.broker.values(0), numbers(0..20), "{code}");
            assert_eq!(case.broker.producer_ids(0), [1000], "{code}");
            let asked_at = format!("(asked at {})", case.broker.address);
            let is_said = is_said(&["producer id: ", name, &asked_at]);
            assert_eq!(is_said, is_worth_a_word, "{code} {n_failures} times");
        }
    });
}
