//! The bulk client against real servers without security: Elasticsearch 8.17 and 9.2, OpenSearch.
//!
//! Built with `--features stack`; the head of `tests/run` lists the variables. Each test makes an index
//! of its own and deletes it.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use log_shipper::config::{Config, ElasticsearchConfig};
use log_shipper::index::elasticsearch::{Bulk, BulkBody, Outcome, State};
use serde_json::{Value, json};
use support::stack::{OwnServer, PATIENCE, env};
use support::wait_for;
use ureq::Agent;

const ALL: [&str; 3] = ["ELASTICSEARCH", "ELASTICSEARCH_9", "OPENSEARCH"];

/// Runs a test on each of these servers; `server` is its URL.
fn on_each(servers: &[&str], test: impl Fn(&str)) {
    for server in servers {
        println!("{server}");
        test(&env(&format!("SHIPPER_STACK_{server}")));
    }
}

fn config(server: &str) -> ElasticsearchConfig {
    let text = format!(
        "kafka.bootstrap_servers = [\"a:1\"]\n[elasticsearch]\nhosts = [{server:?}]\n\
         retry_backoff = \"50ms\"\nretry_backoff_max = \"400ms\"\n"
    );
    let config = Config::parse(&text, Path::new("shipper.toml")).expect("well formed");
    config.elasticsearch.expect("there")
}

/// An index that is deleted with its variable.
struct Index {
    agent: Agent,
    server: String,
    name: String,
}

impl Index {
    fn create(server: &str, name: &str, settings: Value) -> Index {
        let index = Index::named(server, name);
        index.put("", settings);
        index
    }

    /// One that is not there.
    fn named(server: &str, name: &str) -> Index {
        let agent = Agent::config_builder().http_status_as_error(false).build().new_agent();
        let name = format!("shipper-{name}-{}", process::id());
        Index { agent, server: server.to_owned(), name }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{}{path}", self.server, self.name)
    }

    fn put(&self, path: &str, body: Value) {
        self.put_to(&self.url(path), body);
    }

    fn put_to(&self, path: &str, body: Value) {
        let request = self.agent.put(path);
        let answer = request.header("Content-Type", "application/json").send(body.to_string());
        assert!(answer.unwrap().status().is_success(), "PUT {path} {body}");
    }

    fn post(&self, path: &str) -> Value {
        let mut answer = self.agent.post(self.url(path)).send_empty().unwrap();
        assert!(answer.status().is_success(), "POST {path}");
        serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap()
    }

    fn n_documents(&self) -> u64 {
        self.post("/_refresh");
        self.post("/_count")["count"].as_u64().unwrap()
    }

    fn block_writes(&self, block: &str, on: bool) {
        self.put("/_settings", json!({ block: on }));
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        let _ = self.agent.delete(self.url("")).call();
    }
}

fn body(index: &Index, documents: impl IntoIterator<Item = (usize, String)>) -> BulkBody {
    let mut body = BulkBody::new();
    for (id, document) in documents {
        let bytes = body.begin(&index.name, &format!("host-1-{id}"));
        bytes.write_all(document.as_bytes()).unwrap();
        body.end();
    }
    body
}

fn lines(index: &Index, n_lines: usize) -> BulkBody {
    let line = |id| {
        (
            id,
            json!({"@timestamp": "2026-11-22T01:02:03.456Z", "n": id, "message": format!("line {id} ä")})
                .to_string(),
        )
    };
    body(index, (0..n_lines).map(line))
}

/// Delivers; `on_blocked` mends what it hears of, by status and type.
fn deliver(
    bulk: &mut Bulk,
    body: &BulkBody,
    mut on_blocked: impl FnMut(u16, &str),
) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    bulk.deliver(body, &mut outcomes, &mut |state| match state {
        State::Blocked(reject) => on_blocked(reject.status, &reject.error_type),
        State::Working | State::Unreachable(_) | State::Busy(_) => {}
    });
    let outcomes = outcomes.into_iter().map(|outcome| outcome.expect("never interrupted"));
    outcomes.collect()
}

fn never(status: u16, error_type: &str) {
    panic!("blocked: {status} {error_type}");
}

#[test]
fn five_thousand_documents_are_created_once_and_are_duplicates_then() {
    on_each(&ALL, |server| {
        for gzip in [false, true] {
            let index = Index::create(server, &format!("twice-{gzip}"), json!({}));
            let mut bulk = Bulk::new(&ElasticsearchConfig { gzip, ..config(server) }).unwrap();
            let body = lines(&index, 5000);

            let start = Instant::now();
            assert_eq!(deliver(&mut bulk, &body, never), vec![Outcome::Created; 5000]);
            println!(
                "gzip={gzip}: {} of {} bytes sent, {:?}",
                bulk.counters().bytes,
                body.len(),
                start.elapsed()
            );
            assert_eq!(deliver(&mut bulk, &body, never), vec![Outcome::Duplicate; 5000]);

            assert_eq!(index.n_documents(), 5000);
        }
    });
}

#[test]
fn one_mapping_conflict_in_five_thousand_rejects_one() {
    on_each(&ALL, |server| {
        let index = Index::create(
            server,
            "conflict",
            json!({"mappings": {"properties": {"n": {"type": "long"}}}}),
        );
        let mut bulk = Bulk::new(&config(server)).unwrap();
        let line = |id| {
            let n = if id == 1234 { json!("no number") } else { json!(id) };
            (id, json!({ "n": n }).to_string())
        };

        let outcomes = deliver(&mut bulk, &body(&index, (0..5000).map(line)), never);

        for (id, outcome) in outcomes.iter().enumerate() {
            match outcome {
                Outcome::Rejected(reject) if id == 1234 => {
                    assert_eq!(reject.status, 400);
                    assert!(
                        ["document_parsing_exception", "mapper_parsing_exception"]
                            .contains(&reject.error_type.as_str()),
                        "{reject}"
                    );
                    assert!(reject.reason.contains("[n]"), "{reject}");
                    assert_eq!(reject.index, index.name);
                }
                outcome => assert_eq!((id, outcome), (id, &Outcome::Created)),
            }
        }
        assert_eq!(index.n_documents(), 4999);
    });
}

#[test]
fn a_closed_index_holds_documents_until_it_is_open() {
    on_each(&ALL, |server| {
        let index = Index::create(server, "closed", json!({}));
        index.post("/_close");
        let mut bulk = Bulk::new(&config(server)).unwrap();
        let mut blocked = Vec::new();

        let outcomes = deliver(&mut bulk, &lines(&index, 100), |status, error_type| {
            blocked.push((status, error_type.to_owned()));
            index.post("/_open?wait_for_active_shards=1");
        });

        assert_eq!(outcomes, vec![Outcome::Created; 100]);
        assert_eq!(blocked, [(400, "index_closed_exception".to_owned())]);
        assert_eq!(index.n_documents(), 100);
    });
}

#[test]
fn a_write_block_holds_documents_until_it_is_removed() {
    on_each(&ALL, |server| {
        for (block, status) in
            [("index.blocks.write", 403), ("index.blocks.read_only_allow_delete", 429)]
        {
            let index = Index::create(server, &format!("block-{status}"), json!({}));
            index.block_writes(block, true);
            let mut bulk = Bulk::new(&config(server)).unwrap();
            let mut blocked = Vec::new();

            let outcomes = deliver(&mut bulk, &lines(&index, 100), |status, error_type| {
                blocked.push((status, error_type.to_owned()));
                index.block_writes(block, false);
            });

            assert_eq!(outcomes, vec![Outcome::Created; 100]);
            assert_eq!(blocked, [(status, "cluster_block_exception".to_owned())]);
            assert_eq!(index.n_documents(), 100);
        }
    });
}

#[test]
fn a_document_beyond_the_limit_of_the_server_is_rejected_alone() {
    // 9.2.0 never answers the compressed one, and keeps its memory: a small node is of no use then.
    on_each(&["ELASTICSEARCH", "OPENSEARCH"], |server| {
        for gzip in [false, true] {
            let index = Index::create(
                server,
                &format!("large-{gzip}"),
                json!({"mappings": {"dynamic": false}}),
            );
            let mut bulk = Bulk::new(&ElasticsearchConfig { gzip, ..config(server) }).unwrap();
            // The default of http.max_content_length is 100 MiB, and it counts what it unpacks.
            let line = |id| {
                let len = if id == 5 { 101 * 1024 * 1024 } else { 1000 };
                (id, json!({ "message": "x".repeat(len) }).to_string())
            };

            let outcomes = deliver(&mut bulk, &body(&index, (0..10).map(line)), never);

            for (id, outcome) in outcomes.iter().enumerate() {
                match outcome {
                    Outcome::Rejected(reject) if id == 5 => assert_eq!(reject.status, 413),
                    outcome => assert_eq!((id, outcome), (id, &Outcome::Created)),
                }
            }
            assert_eq!(index.n_documents(), 9);
        }
    });
}

#[test]
fn an_id_that_is_too_long_spoils_no_other_document() {
    on_each(&ALL, |server| {
        let index = Index::create(server, "id", json!({}));
        let mut bulk = Bulk::new(&config(server)).unwrap();
        let mut body = BulkBody::new();
        for id in ["a".to_owned(), "b".repeat(513), "c".to_owned(), "d".repeat(512)] {
            body.begin(&index.name, &id).extend_from_slice(b"{}");
            body.end();
        }
        let outcomes = deliver(&mut bulk, &body, never);
        assert!(
            matches!(
                outcomes.as_slice(),
                [Outcome::Created, Outcome::Rejected(_), Outcome::Created, Outcome::Created]
            ),
            "{outcomes:?}"
        );
    });
}

#[test]
fn an_index_that_is_missing_and_not_made_by_itself_is_waited_for() {
    on_each(&ALL, |server| {
        let index = Index::named(server, "missing");
        let allow = |pattern: Value| {
            let setting = json!({ "persistent": { "action.auto_create_index": pattern } });
            index.put_to(&format!("{server}/_cluster/settings"), setting);
        };
        allow(json!("-shipper-missing*,*"));
        let mut bulk = Bulk::new(&config(server)).unwrap();
        let mut blocked = Vec::new();

        let outcomes = deliver(&mut bulk, &lines(&index, 100), |status, error_type| {
            blocked.push((status, error_type.to_owned()));
            index.put("", json!({}));
        });

        allow(Value::Null);
        assert_eq!(outcomes, vec![Outcome::Created; 100]);
        assert_eq!(blocked, [(404, "index_not_found_exception".to_owned())]);
        assert_eq!(index.n_documents(), 100);
    });
}

/// A node of a test's own, for what would hurt others.
fn own_node(extra: &str) -> (OwnServer, String) {
    let port: u32 = env("SHIPPER_STACK_PORT").parse().expect("a port");
    let settings = [
        ("ES_PORT", &*port.to_string()),
        ("ES_TRANSPORT_PORT", &(port + 1).to_string()),
        ("ES_EXTRA", extra),
    ];
    let node = OwnServer::up("elasticsearch.sh", ("ES_NAME", "elasticsearch-own"), &settings);
    (node, format!("http://127.0.0.1:{port}"))
}

/// It refuses all of a request that is larger than what it may hold at once, with 429.
#[test]
fn what_is_too_much_for_a_node_at_once_goes_in_parts() {
    let (_node, server) = own_node("indexing_pressure.memory.limit: 256kb");
    let index = Index::create(&server, "pressure", json!({}));
    let mut bulk = Bulk::new(&config(&server)).unwrap();
    let body = lines(&index, 5000);
    assert!(body.len() > 512 * 1024, "{}", body.len());

    assert_eq!(deliver(&mut bulk, &body, never), vec![Outcome::Created; 5000]);

    assert!(bulk.counters().retried["busy"] > 0, "{:?}", bulk.counters());
    assert_eq!(index.n_documents(), 5000);
}

#[test]
fn a_node_that_is_killed_amid_bulk_requests_has_each_document_once() {
    const N_BODIES: usize = 100;
    const N_DOCUMENTS: usize = 1000;
    let (node, server) = own_node("");
    let index = Index::create(&server, "killed", json!({}));
    let mut bulk = Bulk::new(&config(&server)).unwrap();
    let n_bodies = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..N_BODIES {
                let ids = n * N_DOCUMENTS..(n + 1) * N_DOCUMENTS;
                let body = body(&index, ids.map(|id| (id, json!({ "n": id }).to_string())));
                for outcome in deliver(&mut bulk, &body, never) {
                    assert!(
                        matches!(outcome, Outcome::Created | Outcome::Duplicate),
                        "{outcome:?}"
                    );
                }
                n_bodies.fetch_add(1, Ordering::Relaxed);
            }
        });
        for n_before in [N_BODIES / 4, N_BODIES / 2] {
            let is_there = || (n_bodies.load(Ordering::Relaxed) >= n_before).then_some(());
            wait_for(PATIENCE, "part of the documents", is_there, String::new);
            node.run(&["kill"]);
            let is_gone = || TcpStream::connect(&server["http://".len()..]).is_err().then_some(());
            wait_for(PATIENCE, "a port that is free", is_gone, String::new);
            assert!(n_bodies.load(Ordering::Relaxed) < N_BODIES, "killed when all was done");
            node.run(&["up"]);
        }
    });
    let failed = &bulk.counters().retried;
    assert!(failed.get("unreachable").is_some_and(|n| *n > 0), "{failed:?}");
    assert_eq!(index.n_documents(), (N_BODIES * N_DOCUMENTS) as u64);
}
