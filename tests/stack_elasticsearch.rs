//! The bulk client against a real Elasticsearch or OpenSearch without security.
//!
//! `SHIPPER_STACK_ELASTICSEARCH=http://127.0.0.1:9200 cargo test --features stack
//! --test stack_elasticsearch`. Each test makes an index of its own and deletes it.

use std::env;
use std::io::Write;
use std::path::Path;
use std::process;
use std::time::{Duration, Instant};

use log_shipper::config::{Config, ElasticsearchConfig};
use log_shipper::index::elasticsearch::{Bulk, BulkBody, Outcome, State};
use serde_json::{Value, json};
use ureq::Agent;

fn address() -> String {
    env::var("SHIPPER_STACK_ELASTICSEARCH")
        .expect("SHIPPER_STACK_ELASTICSEARCH is the address of a server, http://host:port")
}

fn config() -> ElasticsearchConfig {
    let text = format!(
        "kafka.bootstrap_servers = [\"a:1\"]\n[elasticsearch]\nhosts = [{:?}]\n\
         retry_backoff = \"50ms\"\nretry_backoff_max = \"400ms\"\n",
        address()
    );
    let config = Config::parse(&text, Path::new("shipper.toml")).expect("well formed");
    config.elasticsearch.expect("there")
}

/// An index that is deleted with its variable.
struct Index {
    agent: Agent,
    name: String,
}

impl Index {
    fn create(name: &str, settings: Value) -> Index {
        let agent = Agent::config_builder().http_status_as_error(false).build().new_agent();
        let name = format!("shipper-{name}-{}", process::id());
        let index = Index { agent, name };
        index.put("", settings);
        index
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{}{path}", address(), self.name)
    }

    fn put(&self, path: &str, body: Value) {
        let request = self.agent.put(self.url(path));
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
    for gzip in [false, true] {
        let index = Index::create(&format!("twice-{gzip}"), json!({}));
        let mut bulk = Bulk::new(&ElasticsearchConfig { gzip, ..config() }).unwrap();
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
}

#[test]
fn one_mapping_conflict_in_five_thousand_rejects_one() {
    let index =
        Index::create("conflict", json!({"mappings": {"properties": {"n": {"type": "long"}}}}));
    let mut bulk = Bulk::new(&config()).unwrap();
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
}

#[test]
fn a_closed_index_holds_documents_until_it_is_open() {
    let index = Index::create("closed", json!({}));
    index.post("/_close");
    let mut bulk = Bulk::new(&config()).unwrap();
    let mut blocked = Vec::new();

    let outcomes = deliver(&mut bulk, &lines(&index, 100), |status, error_type| {
        blocked.push((status, error_type.to_owned()));
        index.post("/_open?wait_for_active_shards=1");
    });

    assert_eq!(outcomes, vec![Outcome::Created; 100]);
    assert_eq!(blocked, [(400, "index_closed_exception".to_owned())]);
    assert_eq!(index.n_documents(), 100);
}

#[test]
fn a_write_block_holds_documents_until_it_is_removed() {
    for (block, status) in
        [("index.blocks.write", 403), ("index.blocks.read_only_allow_delete", 429)]
    {
        let index = Index::create(&format!("block-{status}"), json!({}));
        index.block_writes(block, true);
        let mut bulk = Bulk::new(&config()).unwrap();
        let mut blocked = Vec::new();

        let outcomes = deliver(&mut bulk, &lines(&index, 100), |status, error_type| {
            blocked.push((status, error_type.to_owned()));
            index.block_writes(block, false);
        });

        assert_eq!(outcomes, vec![Outcome::Created; 100]);
        assert_eq!(blocked, [(status, "cluster_block_exception".to_owned())]);
        assert_eq!(index.n_documents(), 100);
    }
}

#[test]
fn a_document_beyond_the_limit_of_the_server_is_rejected_alone() {
    for gzip in [false, true] {
        let index =
            Index::create(&format!("large-{gzip}"), json!({"mappings": {"dynamic": false}}));
        let mut bulk = Bulk::new(&ElasticsearchConfig {
            gzip,
            // 9.2.0 lets the compressed one time out.
            request_timeout: Duration::from_secs(10),
            ..config()
        })
        .unwrap();
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
}

#[test]
fn an_id_that_is_too_long_spoils_no_other_document() {
    let index = Index::create("id", json!({}));
    let mut bulk = Bulk::new(&config()).unwrap();
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
}
