//! What an answer means, by status and `error.type` alone: the text of a message may quote a
//! document.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;

use super::body::BulkBody;

/// Bytes of a server's reason that are kept: it may quote a whole document.
const REASON_BYTES_MAX: usize = 1024;

/// What finally became of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is indexed now.
    Created,
    /// It was there already.
    Duplicate,
    /// Its index could not take it; the data stream's failure store did (Elasticsearch 9.1).
    FailureStore,
    /// It will never be taken.
    Rejected(Reject),
}

/// What Elasticsearch said against a document or a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// HTTP status of the item or of the request.
    pub status: u16,
    /// Its `error.type`, e.g. `document_parsing_exception`; empty if it gave none.
    pub error_type: String,
    /// Its words, cut to 1 KiB; they may quote the document.
    pub reason: String,
    /// The index the document was meant for; empty if the whole request is meant.
    pub index: String,
}

impl Reject {
    pub(super) fn new(status: u16, error_type: &str, reason: &str, index: String) -> Reject {
        Reject {
            status,
            error_type: error_type.to_owned(),
            reason: excerpt(reason).to_owned(),
            index,
        }
    }
}

/// Returns as much of a foreign text as is kept.
pub(super) fn excerpt(text: &str) -> &str {
    let mut len = text.len().min(REASON_BYTES_MAX);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    &text[..len]
}

/// For logs: nothing of what the server or a document says can forge a line or a colour.
impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status={}", self.status)?;
        if !self.index.is_empty() {
            write!(f, " index={}", self.index.escape_debug())?;
        }
        if !self.error_type.is_empty() {
            write!(f, " type={}", self.error_type.escape_debug())?;
        }
        if !self.reason.is_empty() {
            write!(f, " reason=\"{}\"", self.reason.escape_debug())?;
        }
        Ok(())
    }
}

/// What an answer says of one item.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Final(Outcome),
    /// Send it again: the server was busy or failed.
    Again(Reject),
    /// Send it again, slowly: something else than the document must change first.
    Held(Reject),
}

/// The answer to a whole request that was refused.
#[derive(Default)]
pub(super) struct Refused {
    pub(super) error_type: String,
    pub(super) reason: String,
}

impl Refused {
    /// Takes from an answer what it can; a proxy's page says nothing.
    pub(super) fn parse(answer: &[u8]) -> Refused {
        #[derive(Deserialize)]
        struct Answer {
            error: Problem,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Problem {
            Cause {
                r#type: String,
                #[serde(default)]
                reason: Option<String>,
            },
            Text(String),
        }
        match serde_json::from_slice(answer) {
            Ok(Answer { error: Problem::Cause { r#type, reason } }) => {
                Refused { error_type: r#type, reason: reason.unwrap_or_default() }
            }
            Ok(Answer { error: Problem::Text(reason) }) => {
                Refused { error_type: String::new(), reason }
            }
            Err(_) => Refused::default(),
        }
    }
}

/// The answer to a bulk request.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    items: Vec<Item<'a>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    create: Created<'a>,
}

#[derive(Deserialize)]
struct Created<'a> {
    status: u16,
    #[serde(borrow)]
    error: Option<Cause<'a>>,
    #[serde(borrow)]
    failure_store: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
struct Cause<'a> {
    #[serde(borrow, default)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
}

/// Returns a verdict for each of `items`.
///
/// Errors: the answer cannot be understood, or speaks of another number of items; then nothing
/// is known of any.
pub(super) fn verdicts(
    answer: &[u8],
    body: &BulkBody,
    items: &[usize],
) -> Result<Vec<Verdict>, String> {
    let answer: Answer = serde_json::from_slice(answer)
        .map_err(|problem| format!("no answer to a bulk request: {problem}"))?;
    if answer.items.len() != items.len() {
        return Err(format!(
            "an answer for {} documents to a request of {}",
            answer.items.len(),
            items.len()
        ));
    }
    Ok(answer
        .items
        .into_iter()
        .zip(items)
        .map(|(answer, &item)| verdict(answer.create, || body.index_of(item)))
        .collect())
}

/// The policy: what becomes of an item. `index` is asked for only if something went wrong.
fn verdict(answer: Created, index: impl FnOnce() -> String) -> Verdict {
    let status = answer.status;
    let cause = answer.error.unwrap_or_default();
    let reject = || {
        let reason = cause.reason.as_deref().unwrap_or_default();
        Reject::new(status, &cause.r#type, reason, index())
    };
    match (status, &*cause.r#type) {
        (200..300, _) if answer.failure_store.as_deref() == Some("used") => {
            Verdict::Final(Outcome::FailureStore)
        }
        (200..300, _) => Verdict::Final(Outcome::Created),
        (409, "version_conflict_engine_exception") => Verdict::Final(Outcome::Duplicate),
        // Flood stage answers 429, a write block 403; neither passes by itself.
        (_, "cluster_block_exception") => Verdict::Held(reject()),
        (401 | 403 | 404, _) => Verdict::Held(reject()),
        // Which index there is, and its name, is the configuration's doing; the validation is
        // that of the cluster's shard limit.
        (
            400,
            "index_closed_exception" | "validation_exception" | "invalid_index_name_exception",
        ) => Verdict::Held(reject()),
        // A pipeline refused the document by name: it would do so for ever.
        (500, "fail_processor_exception") => Verdict::Final(Outcome::Rejected(reject())),
        (409 | 429 | 500.., _) => Verdict::Again(reject()),
        (400..500, _) => Verdict::Final(Outcome::Rejected(reject())),
        // 1xx and 3xx mean nothing for an item.
        _ => Verdict::Again(reject()),
    }
}
