//! Every row of the policy, against a server that answers by script.

use std::fs::{self, Permissions};
use std::io::BufReader;
use std::io::prelude::*;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};

use flate2::read::GzDecoder;
use tempfile::TempDir;

use super::*;

/// One request as the server saw it.
#[derive(Debug, Clone)]
struct Seen {
    head: String,
    /// Bytes on the wire.
    len: usize,
    /// After decompression.
    body: String,
    ids: Vec<usize>,
}

/// What the server does with a request.
#[derive(Debug, Clone)]
enum Step {
    Answer(Vec<u8>),
    /// Sends these bytes, perhaps none, and closes the connection.
    Close(Vec<u8>),
    /// Says nothing.
    Hang,
}

struct Node {
    url: String,
    seen: Receiver<Seen>,
}

impl Node {
    fn start(mut handler: impl FnMut(usize, &Seen) -> Step + Send + 'static) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, seen) = mpsc::channel();
        thread::spawn(move || {
            let mut n = 0;
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                while let Some(request) = read_request(&mut stream) {
                    let step = handler(n, &request);
                    n += 1;
                    if sender.send(request).is_err() {
                        return;
                    }
                    let written = match step {
                        Step::Answer(bytes) => stream.get_mut().write_all(&bytes),
                        Step::Close(bytes) => {
                            let _ = stream.get_mut().write_all(&bytes);
                            break;
                        }
                        Step::Hang => Ok(()),
                    };
                    if written.is_err() {
                        break;
                    }
                }
            }
        });
        Node { url, seen }
    }

    /// Answers by `script`, and after its end with success.
    fn scripted(script: Vec<Step>) -> Node {
        Node::start(move |n, seen| script.get(n).cloned().unwrap_or_else(|| all_created(seen)))
    }
}

fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let mut bytes = vec![0; header("content-length")?.parse().ok()?];
    stream.read_exact(&mut bytes).ok()?;
    let mut body = String::new();
    if header("content-encoding").as_deref() == Some("gzip") {
        GzDecoder::new(bytes.as_slice()).read_to_string(&mut body).unwrap();
    } else {
        body = String::from_utf8(bytes.clone()).unwrap();
    }
    let ids = body
        .lines()
        .step_by(2)
        .map(|action| {
            let action: serde_json::Value = serde_json::from_str(action).unwrap();
            action["create"]["_id"].as_str().unwrap().parse().unwrap()
        })
        .collect();
    Some(Seen { head, len: bytes.len(), body, ids })
}

fn answer(status: u16, headers: &str, body: &str) -> Step {
    let len = body.len();
    Step::Answer(
        format!("HTTP/1.1 {status} S\r\nContent-Length: {len}\r\n{headers}\r\n{body}").into_bytes(),
    )
}

fn items(items: &[(u16, &str)]) -> Step {
    let items: Vec<String> = items
        .iter()
        .map(|(status, error)| match *error {
            "" => format!(r#"{{"create":{{"status":{status}}}}}"#),
            "failure_store" => {
                format!(r#"{{"create":{{"status":{status},"failure_store":"used"}}}}"#)
            }
            error => format!(
                r#"{{"create":{{"status":{status},"error":{{"type":"{error}","reason":"why"}}}}}}"#
            ),
        })
        .collect();
    answer(200, "", &format!(r#"{{"items":[{}]}}"#, items.join(",")))
}

fn refusal(status: u16, error_type: &str) -> Step {
    let body = format!(
        r#"{{"error":{{"root_cause":[],"type":"{error_type}","reason":"why"}},"status":{status}}}"#
    );
    answer(status, "", &body)
}

fn all_created(seen: &Seen) -> Step {
    items(&vec![(201, ""); seen.ids.len()])
}

fn config(hosts: &[&str]) -> ElasticsearchConfig {
    ElasticsearchConfig {
        hosts: hosts.iter().map(|host| host.to_string()).collect(),
        index: String::new(),
        gzip: false,
        username: None,
        password_file: None,
        api_key_file: None,
        bearer_token_file: None,
        ssl_ca_file: None,
        ssl_ca_trusted_fingerprint: None,
        ssl_verification_mode: VerificationMode::Full,
        ssl_certificate_file: None,
        ssl_key_file: None,
        ssl_key_password_file: None,
        request_timeout: Duration::from_secs(30),
        retry_backoff: Duration::from_millis(1),
        retry_backoff_max: Duration::from_millis(4),
    }
}

fn body(n_items: usize) -> BulkBody {
    let mut body = BulkBody::new();
    for id in 0..n_items {
        let document = body.begin("logs", &id.to_string());
        write!(document, r#"{{"message":"line {id}"}}"#).unwrap();
        body.end();
    }
    body
}

/// What a delivery did, in words.
#[derive(Debug, Default, PartialEq)]
struct Run {
    sent: Vec<Vec<usize>>,
    outcomes: Vec<String>,
    states: Vec<String>,
}

fn deliver(bulk: &mut Bulk, body: &BulkBody) -> (Vec<String>, Vec<String>) {
    let mut outcomes = Vec::new();
    let mut states = Vec::new();
    bulk.deliver(body, &mut outcomes, &mut |state| {
        states.push(match state {
            State::Working => "working".to_owned(),
            State::Unreachable(_) => "unreachable".to_owned(),
            State::Busy(reject) => format!("busy {} {}", reject.status, reject.error_type),
            State::Blocked(reject) => format!("blocked {} {}", reject.status, reject.error_type),
        });
    });
    let outcomes = outcomes
        .into_iter()
        .map(|outcome| match outcome {
            None => "none".to_owned(),
            Some(Outcome::Created) => "created".to_owned(),
            Some(Outcome::Duplicate) => "duplicate".to_owned(),
            Some(Outcome::FailureStore) => "failure store".to_owned(),
            Some(Outcome::Rejected(reject)) => {
                assert_eq!(reject.index, "logs");
                format!("rejected {} {}", reject.status, reject.error_type)
            }
        })
        .collect();
    (outcomes, states)
}

fn run(n_items: usize, script: Vec<Step>) -> (Run, Counters) {
    let node = Node::scripted(script);
    let mut bulk = Bulk::new(&config(&[&node.url])).unwrap();
    let (outcomes, states) = deliver(&mut bulk, &body(n_items));
    let sent = node.seen.try_iter().map(|seen| seen.ids).collect();
    let run = Run { sent, outcomes, states };
    (run, bulk.counters.clone())
}

#[track_caller]
fn check(
    n_items: usize,
    script: Vec<Step>,
    sent: &[&[usize]],
    outcomes: &[&str],
    states: &[&str],
) -> Counters {
    let (run, counters) = run(n_items, script);
    let expected = Run {
        sent: sent.iter().map(|ids| ids.to_vec()).collect(),
        outcomes: outcomes.iter().map(|s| s.to_string()).collect(),
        states: states.iter().map(|s| s.to_string()).collect(),
    };
    assert_eq!(run, expected);
    assert_eq!(
        counters.created + counters.duplicates + counters.failure_store + counters.rejected,
        n_items as u64,
        "each document has one outcome"
    );
    assert_eq!(counters.requests, sent.len() as u64);
    counters
}

#[test]
fn created_duplicate_and_failure_store_are_final() {
    let counters = check(
        4,
        vec![items(&[
            (201, ""),
            (409, "version_conflict_engine_exception"),
            (201, "failure_store"),
            (200, ""),
        ])],
        &[&[0, 1, 2, 3]],
        &["created", "duplicate", "failure store", "created"],
        &[],
    );
    assert_eq!(counters.created, 2);
    assert_eq!(counters.duplicates, 1);
    assert_eq!(counters.failure_store, 1);
    assert_eq!(counters.retried, BTreeMap::new());
}

#[test]
fn a_document_that_is_to_blame_is_rejected_alone() {
    for (status, error) in [
        (400, "mapper_parsing_exception"),
        (400, "document_parsing_exception"),
        (400, "strict_dynamic_mapping_exception"),
        (400, "illegal_argument_exception"),
        (413, "some_exception"),
        (500, "fail_processor_exception"),
    ] {
        check(
            3,
            vec![items(&[(201, ""), (status, error), (201, "")])],
            &[&[0, 1, 2]],
            &["created", &format!("rejected {status} {error}"), "created"],
            &[],
        );
    }
}

#[test]
fn only_items_that_were_busy_or_failed_are_sent_again() {
    for (status, error, reason) in [
        (429, "es_rejected_execution_exception", "busy"),
        (429, "rejected_execution_exception", "busy"),
        (429, "circuit_breaking_exception", "busy"),
        (503, "unavailable_shards_exception", "failed"),
        (500, "some_exception", "failed"),
        (409, "some_exception", "failed"),
    ] {
        let counters = check(
            5,
            vec![
                items(&[
                    (201, ""),
                    (status, error),
                    (400, "document_parsing_exception"),
                    (status, error),
                    (201, ""),
                ]),
                items(&[(201, ""), (status, error)]),
                items(&[(409, "version_conflict_engine_exception")]),
            ],
            &[&[0, 1, 2, 3, 4], &[1, 3], &[3]],
            &[
                "created",
                "created",
                "rejected 400 document_parsing_exception",
                "duplicate",
                "created",
            ],
            &[],
        );
        assert_eq!(counters.retried, BTreeMap::from([(reason, 3)]));
    }
}

#[test]
fn lasting_overload_is_a_state_and_ends_by_itself() {
    let busy = || items(&[(429, "es_rejected_execution_exception")]);
    check(
        1,
        vec![busy(), busy(), busy(), busy()],
        &[&[0], &[0], &[0], &[0], &[0]],
        &["created"],
        &["busy 429 es_rejected_execution_exception", "working"],
    );
}

#[test]
fn items_that_are_not_to_blame_are_held_and_never_rejected() {
    for (status, error) in [
        (403, "cluster_block_exception"),
        (429, "cluster_block_exception"),
        (403, "security_exception"),
        (404, "index_not_found_exception"),
        (400, "index_closed_exception"),
        (400, "validation_exception"),
        (400, "invalid_index_name_exception"),
    ] {
        let counters = check(
            3,
            vec![
                items(&[(201, ""), (status, error), (201, "")]),
                items(&[(status, error)]),
                items(&[(status, error)]),
            ],
            &[&[0, 1, 2], &[1], &[1], &[1]],
            &["created", "created", "created"],
            &[&format!("blocked {status} {error}"), "working"],
        );
        assert_eq!(counters.retried, BTreeMap::from([("blocked", 3)]));
    }
}

#[test]
fn a_refused_request_is_held_whole() {
    for (status, error) in [
        (401, "security_exception"),
        (403, "security_exception"),
        (403, "cluster_block_exception"),
        (400, "illegal_argument_exception"),
        (404, ""),
        (405, ""),
        (406, "media_type_header_exception"),
        (415, ""),
    ] {
        check(
            2,
            vec![refusal(status, error), refusal(status, error)],
            &[&[0, 1], &[0, 1], &[0, 1]],
            &["created", "created"],
            &[&format!("blocked {status} {error}"), "working"],
        );
    }
    check(
        1,
        vec![answer(302, "Location: http://127.0.0.1:1/\r\n", "")],
        &[&[0], &[0]],
        &["created"],
        &["blocked 302 ", "working"],
    );
    let text = r#"{"error":"Content-Type header [text/plain] is not supported","status":406}"#;
    check(
        1,
        vec![answer(406, "", text)],
        &[&[0], &[0]],
        &["created"],
        &["blocked 406 ", "working"],
    );
}

#[test]
fn a_failing_or_silent_server_gets_everything_again() {
    let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"items\":[{\"create\"".to_vec();
    let chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n{\"items\":[".to_vec();
    let page = "<html><h1>502 Bad Gateway</h1></html>";
    let unreachable: &[&str] = &["unreachable", "working"];
    for (step, states) in [
        (answer(500, "", ""), unreachable),
        (answer(502, "Content-Type: text/html\r\n", page), unreachable),
        (refusal(503, "cluster_block_exception"), unreachable),
        (answer(504, "", ""), unreachable),
        (answer(408, "", ""), unreachable),
        (answer(200, "Content-Type: text/html\r\n", page), unreachable),
        (answer(200, "", "{}"), unreachable),
        (answer(200, "", r#"{"items":[{"create":{"status":201}}"#), unreachable),
        (answer(200, "", r#"{"items":[{"create":{"error":{"type":"x"}}}]}"#), unreachable),
        (answer(200, "Content-Encoding: gzip\r\n", "no gzip"), unreachable),
        (answer(202, "", ""), unreachable),
        (items(&[(201, "")]), unreachable),
        (items(&[(201, ""), (201, ""), (201, "")]), unreachable),
        (Step::Answer(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec()), unreachable),
        // A connection that is closed once is no trouble worth a word.
        (Step::Close(Vec::new()), &[]),
        (Step::Close(cut), &[]),
        (Step::Close(chunk), &[]),
    ] {
        println!("{step:?}");
        check(2, vec![step], &[&[0, 1], &[0, 1]], &["created", "created"], states);
    }
}

#[test]
fn an_idle_connection_that_the_server_closed_is_no_trouble() {
    let node = Node::start(|_, seen| match all_created(seen) {
        Step::Answer(bytes) => Step::Close(bytes),
        step => step,
    });
    let mut bulk = Bulk::new(&config(&[&node.url])).unwrap();
    for _ in 0..3 {
        let (outcomes, states) = deliver(&mut bulk, &body(1));
        assert_eq!((outcomes, states), (vec!["created".to_owned()], vec![]));
    }
}

#[test]
fn an_endless_answer_is_cut_off() {
    let endless = format!(r#"{{"items":[{}"#, " ".repeat(1024 * 1024));
    check(
        1,
        vec![answer(200, "", &endless)],
        &[&[0], &[0]],
        &["created"],
        &["unreachable", "working"],
    );
}

#[test]
fn a_busy_request_is_sent_again_in_halves() {
    check(
        5,
        vec![
            refusal(429, "es_rejected_execution_exception"),
            refusal(429, "es_rejected_execution_exception"),
        ],
        &[&[0, 1, 2, 3, 4], &[0, 1, 2], &[0, 1], &[2], &[3, 4]],
        &["created"; 5],
        &[],
    );
}

#[test]
fn a_server_that_names_a_time_is_left_alone_that_long() {
    for status in [429, 503] {
        let start = Instant::now();
        let (run, _) = run(1, vec![answer(status, "Retry-After: 1\r\n", "")]);
        assert_eq!(run.outcomes, ["created"]);
        assert!(start.elapsed() >= Duration::from_secs(1), "status {status}");
    }
}

#[test]
fn a_request_that_is_too_large_is_split_down_to_the_document_that_is() {
    let node =
        Node::start(|_, seen| if seen.len > 400 { answer(413, "", "") } else { all_created(seen) });
    let mut bulk = Bulk::new(&config(&[&node.url])).unwrap();
    let mut body = BulkBody::new();
    for id in 0..8 {
        let size = if id == 5 { 1000 } else { 60 };
        let document = body.begin("logs", &id.to_string());
        write!(document, r#"{{"message":"{}"}}"#, "x".repeat(size)).unwrap();
        body.end();
    }

    let (outcomes, states) = deliver(&mut bulk, &body);

    let mut expected = ["created"; 8];
    expected[5] = "rejected 413 ";
    assert_eq!(outcomes, expected);
    assert_eq!(states, [""; 0]);
    let accepted: Vec<Seen> = node.seen.try_iter().filter(|seen| seen.len <= 400).collect();
    let mut ids: Vec<usize> = accepted.iter().flat_map(|seen| seen.ids.clone()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2, 3, 4, 6, 7], "each that fits was taken once");

    // The limit is remembered.
    let (outcomes, _) = deliver(&mut bulk, &self::body(40));
    assert_eq!(outcomes, ["created"; 40]);
    let lens: Vec<usize> = node.seen.try_iter().map(|seen| seen.len).collect();
    assert!(lens.iter().all(|&len| len <= 400), "{lens:?}");
    assert!(lens.len() < 20, "parts are as large as they may be: {lens:?}");
}

#[test]
fn an_item_that_spoils_the_request_is_found_and_rejected() {
    let node = Node::start(|_, seen| {
        if seen.ids.contains(&3) {
            refusal(400, "action_request_validation_exception")
        } else {
            all_created(seen)
        }
    });
    let mut bulk = Bulk::new(&config(&[&node.url])).unwrap();
    let (outcomes, states) = deliver(&mut bulk, &body(6));
    let mut expected = ["created"; 6];
    expected[3] = "rejected 400 action_request_validation_exception";
    assert_eq!(outcomes, expected);
    assert_eq!(states, [""; 0]);
}

#[test]
fn a_dead_host_is_passed_over() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead_url = format!("http://{}", dead.local_addr().unwrap());
    drop(dead);
    let broken = Node::start(|_, _| answer(503, "", ""));
    let node = Node::scripted(vec![]);
    // Whichever comes first by chance.
    for _ in 0..4 {
        let mut bulk = Bulk::new(&ElasticsearchConfig {
            retry_backoff: Duration::from_secs(3600),
            retry_backoff_max: Duration::from_secs(3600),
            ..config(&[&dead_url, &broken.url, &node.url])
        })
        .unwrap();
        let (outcomes, states) = deliver(&mut bulk, &body(2));
        assert_eq!(outcomes, ["created"; 2]);
        assert_eq!(states, [""; 0], "two hosts down is not all of them");
        assert_eq!(node.seen.try_iter().count(), 1);
    }
}

#[test]
fn a_server_that_does_not_answer_in_time_is_asked_again() {
    let node = Node::scripted(vec![Step::Hang]);
    let mut bulk = Bulk::new(&ElasticsearchConfig {
        request_timeout: Duration::from_millis(200),
        ..config(&[&node.url])
    })
    .unwrap();
    let (outcomes, states) = deliver(&mut bulk, &body(1));
    assert_eq!(outcomes, ["created"]);
    assert_eq!(states, ["unreachable", "working"]);
}

/// A 413 that comes while much is still sent is lost with the connection.
#[test]
fn after_a_failure_a_large_request_asks_before_it_sends() {
    let asks = |len: usize| {
        let node = Node::scripted(vec![answer(503, "", "")]);
        let mut bulk = Bulk::new(&config(&[&node.url])).unwrap();
        let mut body = BulkBody::new();
        write!(body.begin("logs", "1"), r#"{{"message":"{}"}}"#, "x".repeat(len)).unwrap();
        body.end();
        assert_eq!(deliver(&mut bulk, &body).0, ["created"]);
        let heads: Vec<String> = node.seen.try_iter().map(|seen| seen.head).collect();
        let asks = heads.iter().map(|head| head.contains("expect: 100-continue\r\n"));
        asks.collect::<Vec<bool>>()
    };
    assert_eq!(asks(1000), [false, false]);
    assert_eq!(asks(ASKED_FIRST_LEN), [false, true]);
}

#[test]
fn what_timed_out_compressed_is_sent_uncompressed() {
    // As Elasticsearch 9.2.0 does: 413, but no answer at all to what is too large unpacked.
    let node = Node::start(|_, seen| {
        if seen.body.len() <= 590 {
            all_created(seen)
        } else if seen.head.contains("content-encoding: gzip") {
            Step::Hang
        } else {
            answer(413, "", "")
        }
    });
    let mut bulk = Bulk::new(&ElasticsearchConfig {
        gzip: true,
        request_timeout: Duration::from_millis(200),
        ..config(&[&node.url])
    })
    .unwrap();
    let mut body = body(8);
    write!(body.begin("logs", "8"), r#"{{"message":"{:560}"}}"#, "").unwrap();
    body.end();

    let (outcomes, _) = deliver(&mut bulk, &body);

    let mut expected = ["created"; 9];
    expected[8] = "rejected 413 ";
    assert_eq!(outcomes, expected);
    assert_eq!(bulk.counters().retried["timeout"], 9, "one time-out in all");
}

#[test]
fn what_is_too_much_for_the_time_is_sent_in_halves() {
    let node =
        Node::start(|_, seen| if seen.ids.len() > 2 { Step::Hang } else { all_created(seen) });
    let mut bulk = Bulk::new(&ElasticsearchConfig {
        request_timeout: Duration::from_millis(100),
        ..config(&[&node.url])
    })
    .unwrap();
    let (outcomes, states) = deliver(&mut bulk, &body(4));
    assert_eq!(outcomes, ["created"; 4]);
    assert_eq!(states, ["unreachable", "working"]);
    let sent: Vec<Vec<usize>> = node.seen.try_iter().map(|seen| seen.ids).collect();
    let all = vec![0, 1, 2, 3];
    assert_eq!(sent, [all.clone(), all, vec![0, 1], vec![2, 3]]);
}

fn write_secret(path: &Path, secret: &str) {
    fs::write(path, secret).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_wrong_password_is_held_until_its_file_is_right() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("password");
    write_secret(&file, "wrong\n");
    let right = format!("authorization: Basic {}\r\n", encode_block("shipper:right: ä".as_bytes()));
    let node = Node::start(move |n, seen| {
        if n == 3 {
            write_secret(&file, "right: ä\n");
        }
        if seen.head.contains(&right) {
            all_created(seen)
        } else {
            refusal(401, "security_exception")
        }
    });
    let mut bulk = Bulk::new(&ElasticsearchConfig {
        username: Some("shipper".to_owned()),
        password_file: Some(dir.path().join("password")),
        ..config(&[&node.url])
    })
    .unwrap();
    let (outcomes, states) = deliver(&mut bulk, &body(2));
    assert_eq!(outcomes, ["created"; 2]);
    assert_eq!(states, ["blocked 401 security_exception", "working"]);
    assert_eq!(node.seen.try_iter().count(), 5);
    let debug = format!("{bulk:?}");
    assert!(!debug.contains("right") && !debug.contains("password"), "{debug}");
}

#[test]
fn keys_and_tokens_are_sent_as_such() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("key");
    write_secret(&file, "a2V5\n");
    let node = Node::scripted(vec![]);
    let with = |change: fn(&mut ElasticsearchConfig, PathBuf)| {
        let mut config = config(&[&node.url]);
        change(&mut config, file.clone());
        deliver(&mut Bulk::new(&config).unwrap(), &body(1));
        node.seen.recv().unwrap().head
    };
    let head = with(|config, file| config.api_key_file = Some(file));
    assert!(head.contains("authorization: ApiKey a2V5\r\n"), "{head}");
    let head = with(|config, file| config.bearer_token_file = Some(file));
    assert!(head.contains("authorization: Bearer a2V5\r\n"), "{head}");
}

#[test]
fn a_body_is_compressed_on_the_wire_where_asked_for() {
    let sent = |gzip| {
        let node = Node::scripted(vec![items(&[(429, "busy"); 100])]);
        let mut bulk = Bulk::new(&ElasticsearchConfig { gzip, ..config(&[&node.url]) }).unwrap();
        deliver(&mut bulk, &body(100));
        let seen: Vec<Seen> = node.seen.try_iter().collect();
        let bytes: usize = seen.iter().map(|seen| seen.len).sum();
        assert_eq!(bulk.counters().bytes, bytes as u64);
        seen
    };
    let plain = sent(false);
    let zipped = sent(true);
    assert_eq!(plain.len(), 2);
    for (plain, zipped) in plain.iter().zip(&zipped) {
        assert_eq!(plain.body, zipped.body);
        assert_eq!(plain.len, plain.body.len());
        assert!(zipped.len < plain.len / 5, "{} of {}", zipped.len, plain.len);
        assert!(zipped.head.contains("content-encoding: gzip\r\n"));
        assert!(plain.head.contains("content-type: application/x-ndjson\r\n"));
        assert!(plain.head.contains("accept-encoding: gzip\r\n"));
    }
}

#[test]
fn a_compressed_answer_is_understood() {
    let Step::Answer(bytes) = items(&[(201, ""), (400, "document_parsing_exception")]) else {
        unreachable!("items() answers");
    };
    let json = bytes.split(|&byte| byte == b'\n').next_back().unwrap();
    let mut zipped = GzEncoder::new(Vec::new(), Compression::fast());
    zipped.write_all(json).unwrap();
    let zipped = zipped.finish().unwrap();
    let head = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length:";
    let mut bytes = format!("{head} {}\r\n\r\n", zipped.len()).into_bytes();
    bytes.extend(zipped);
    check(
        2,
        vec![Step::Answer(bytes)],
        &[&[0, 1]],
        &["created", "rejected 400 document_parsing_exception"],
        &[],
    );
}

#[test]
fn a_request_under_way_can_be_interrupted() {
    let node = Node::scripted(vec![Step::Hang]);
    let mut bulk = Bulk::new(&ElasticsearchConfig {
        request_timeout: Duration::from_secs(3600),
        ..config(&[&node.url])
    })
    .unwrap();
    let interrupter = bulk.interrupter();
    let delivery = thread::spawn(move || deliver(&mut bulk, &body(2)).0);
    node.seen.recv().unwrap();
    interrupter.interrupt();
    assert_eq!(delivery.join().unwrap(), ["none"; 2]);
}

#[test]
fn a_wait_can_be_interrupted_and_keeps_the_outcomes_it_has() {
    let node = Node::scripted(vec![items(&[(201, ""), (403, "cluster_block_exception")])]);
    let mut bulk = Bulk::new(&ElasticsearchConfig {
        retry_backoff_max: Duration::from_secs(3600),
        ..config(&[&node.url])
    })
    .unwrap();
    let interrupter = bulk.interrupter();
    let mut outcomes = Vec::new();
    bulk.deliver(&body(2), &mut outcomes, &mut |state| {
        assert!(matches!(state, State::Blocked(_)));
        interrupter.interrupt();
    });
    assert_eq!(outcomes, [Some(Outcome::Created), None]);
}

#[test]
fn an_empty_body_is_not_sent() {
    check(0, vec![], &[], &[], &[]);
}

#[test]
fn names_are_escaped_and_reasons_cut() {
    let mut body = BulkBody::new();
    body.begin("a\"\n", "b\\\u{1}ä").extend_from_slice(b"{}");
    body.end();
    assert_eq!(
        std::str::from_utf8(body.gather(&[0], &mut Vec::new())).unwrap(),
        "{\"create\":{\"_index\":\"a\\\"\\n\",\"_id\":\"b\\\\\\u0001ä\"}}\n{}\n"
    );
    assert_eq!(body.index_of(0), "a\"\n");

    let reject = Reject::new(400, "x", &"ä\u{1b}[2J\n".repeat(1000), String::new());
    assert!(reject.reason.len() <= 1024);
    assert!(!reject.to_string().contains(['\n', '\u{1b}']));
}

#[test]
fn hosts_and_secrets_that_cannot_work_are_refused_at_once() {
    for (host, problem) in [
        ("ftp://es:9200", "no https://host:port"),
        ("es:9200", "no https://host:port"),
        ("es", "no https://host:port"),
        ("http://user:secret@es:9200", "name and password of es belong in"),
    ] {
        let error = Bulk::new(&config(&[host])).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
        assert!(!error.contains("secret@"), "{error}");
    }
    assert!(Bulk::new(&config(&[])).is_err());
    let config = ElasticsearchConfig {
        api_key_file: Some("/does/not/exist".into()),
        ..config(&["http://es:9200/prefix/"])
    };
    let error = Bulk::new(&config).unwrap_err().to_string();
    assert!(error.contains("/does/not/exist"), "{error}");
    let host = Host::new("http://es:9200/prefix/", Duration::from_secs(60)).unwrap();
    assert!(host.bulk.to_string().starts_with("http://es:9200/prefix/_bulk?"));
}
