//! Bulk delivery: each document gets exactly one final outcome, however often it must be sent.
//!
//! A document is created under an id that is derived from its origin, so a repeat answers 409 and
//! does no harm. Whatever leaves its fate unknown (a cut answer, a time-out, a count that does
//! not fit, a proxy's error page) is therefore simply sent again. What an answer means is decided
//! by status and `error.type` alone, never by the text of a message, which may quote a document:
//!
//! | answer | what becomes of it |
//! |---|---|
//! | no connection, 408, 5xx, no bulk answer | the other hosts, then again, backing off |
//! | time-out | likewise, uncompressed, and in halves once every host took too long |
//! | request 429 | again in halves, after `Retry-After` or a growing wait |
//! | request 413 | in parts half as large; a single document is rejected; the limit is remembered |
//! | request 400 `action_request_validation_exception` | in halves, down to the document that is to blame, which is rejected |
//! | request 401, 403, 3xx, any other 4xx | held: an operator must act; secrets are read anew |
//! | item 2xx | created, or kept in the failure store |
//! | item 409 `version_conflict_engine_exception` | a duplicate |
//! | item 429, 5xx, other 409 | that item alone again |
//! | item 401, 403, 404, `cluster_block_exception`, `index_closed_exception`, `validation_exception` (too many shards), `invalid_index_name_exception` | held: not the document's fault |
//! | any other item 4xx, `fail_processor_exception` | rejected, with type and reason |
//!
//! Held and repeated documents are sent again for as long as it takes; only an [`Interrupter`]
//! makes a delivery give up. All documents of an answer are judged before any is sent again.
//!
//! Memory: a whole body is sent from where it lies. A second copy is made of the documents that
//! go again out of the middle of a body, and of a compressed body.
//!
//! A compressed body that exceeds `http.max_content_length` when unpacked is answered 413 by
//! Elasticsearch 8.17, but never by 9.2.0, which answers the uncompressed one: so whatever follows
//! a failure, or is larger than what is known to pass, goes uncompressed.
//!
//! Absent on purpose: chunked request bodies (OpenSearch warns of them), redirects, sniffing.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use log::{debug, error, info, warn};
use openssl::base64::encode_block;
use ureq::http::{HeaderValue, Response, Uri, header};
use ureq::{Agent, Timeout};

use self::verdict::{Refused, Verdict, excerpt, verdicts};
use crate::config::{ElasticsearchConfig, VerificationMode};
use crate::http::{self, Timeouts};
use crate::secret;
use crate::tls::{Certificate, Settings, Trust};

pub use self::body::BulkBody;
pub use self::verdict::{Outcome, Reject};

mod body;
mod verdict;

/// Asks for what a verdict needs and no more: 26 bytes an item instead of 180, and the entries
/// stay one for one and in order, for each has a status. `error.type` and `error.reason` are
/// those of the whole request.
const BULK: &str = "/_bulk?filter_path=items.*.status,items.*.error.type,\
                    items.*.error.reason,items.*.failure_store,error.type,error.reason";

/// A server that refuses a request for its length may close the connection while it is still sent, and
/// its 413 is lost then. So after a failure it is asked first whether to send so many bytes or more;
/// fewer lie in the buffers of the connection.
/// Source: RFC 9110, section 10.1.1; RFC 9112, section 9.6.
const ASKED_FIRST_LEN: usize = 256 * 1024;

/// A node that takes longer to accept a connection is away; the others are asked meanwhile.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A server's wish to be left alone is granted up to this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// How soon a wait notices that it is to end.
const WAIT_SLICE: Duration = Duration::from_millis(50);

/// Rounds in a row without an outcome after which being busy is worth a warning: a few are
/// ordinary back pressure.
const BUSY_ROUNDS: u32 = 3;

/// How the delivery fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Documents are taken.
    Working,
    /// No node answers; says why the last one did not.
    Unreachable(String),
    /// The nodes are overloaded or fail inside; it passes by itself.
    Busy(Reject),
    /// Refused in a way that only an operator can mend; tried again all the same.
    Blocked(Reject),
}

impl State {
    /// Whether an operator would call both the same; words and index may differ.
    fn same_as(&self, other: &State) -> bool {
        match (self, other) {
            (State::Working, State::Working) => true,
            (State::Unreachable(_), State::Unreachable(_)) => true,
            (State::Busy(a), State::Busy(b)) | (State::Blocked(a), State::Blocked(b)) => {
                (a.status, &a.error_type) == (b.status, &b.error_type)
            }
            _ => false,
        }
    }
}

/// What one [`Bulk`] has done since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Documents indexed.
    pub created: u64,
    /// Documents that were there already.
    pub duplicates: u64,
    /// Documents that ended in a failure store.
    pub failure_store: u64,
    /// Documents that will never be taken.
    pub rejected: u64,
    /// Requests sent, answered or not.
    pub requests: u64,
    /// Bytes of request bodies as sent, compressed where they were.
    pub bytes: u64,
    /// Documents that had to be sent again, by reason; one document may count often. Reasons:
    /// `unreachable`, `timeout`, `server_error`, `garbled`, `busy`, `failed` (5xx of an item),
    /// `blocked`, `too_large`, `invalid` (among others that are).
    pub retried: BTreeMap<&'static str, u64>,
}

/// Makes a delivery give up, from any thread.
#[derive(Debug, Clone)]
pub struct Interrupter {
    stopped: Arc<AtomicBool>,
    agent: Agent,
}

impl Interrupter {
    /// Ends the delivery under way, waiting or not, and all later ones of its [`Bulk`].
    ///
    /// What is interrupted has an unknown fate, and must not count as delivered. A connection
    /// being made is the one thing that still takes its time, at most 5 s.
    pub fn interrupt(&self) {
        self.stopped.store(true, Ordering::Release);
        self.agent.clone().shutdown();
    }
}

/// A bulk client with one connection; each worker thread has its own.
#[derive(Debug)]
pub struct Bulk {
    agent: Agent,
    stopped: Arc<AtomicBool>,
    hosts: Vec<Host>,
    /// The host asked last; kept as long as it answers, to use its connection again.
    host: usize,
    credentials: Credentials,
    authorization: Option<HeaderValue>,
    gzip: bool,
    backoff: Duration,
    backoff_max: Duration,
    /// Bytes of a body above which it is split before it is sent: half of what answered 413.
    len_max: usize,
    state: State,
    since: Instant,
    counters: Counters,
    scratch: Vec<u8>,
    zipped: Vec<u8>,
    answer: Vec<u8>,
}

#[derive(Debug)]
struct Host {
    /// For logs, without a path.
    name: String,
    bulk: Uri,
    /// Failures in a row.
    failures: u32,
    /// Not asked before.
    until: Instant,
}

/// Where the secret comes from.
enum Credentials {
    None,
    Basic { username: String, password: PathBuf },
    ApiKey(PathBuf),
    Bearer(PathBuf),
}

/// Secrets stay out of logs, also by mistake.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credentials::None => "None",
            Credentials::Basic { .. } => "Basic",
            Credentials::ApiKey(_) => "ApiKey",
            Credentials::Bearer(_) => "Bearer",
        })
    }
}

/// What one request came to.
enum Reply {
    /// A verdict for each item, in order.
    Items(Vec<Verdict>),
    /// Request 413.
    TooLarge(Reject),
    /// Some item of the request makes all of it unacceptable.
    Invalid(Reject),
    /// Request 429.
    Busy(Reject, Option<Duration>),
    /// The request was refused, whatever is in it.
    Blocked(Reject),
    /// Whether the request arrived is not known, or this host cannot serve it; says why, fit
    /// for a log.
    Failed(Failure, String, Option<Duration>),
}

/// Why the fate of a request is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Unreachable,
    Timeout,
    ServerError,
    Garbled,
}

impl Failure {
    /// Its name in [`Counters::retried`].
    fn as_str(self) -> &'static str {
        match self {
            Failure::Unreachable => "unreachable",
            Failure::Timeout => "timeout",
            Failure::ServerError => "server_error",
            Failure::Garbled => "garbled",
        }
    }
}

/// Why documents are left after a round; the worst reason of all is kept.
enum Trouble {
    Failed(Failure, String),
    Busy(Reject, Option<Duration>),
    Blocked(Reject),
}

impl Bulk {
    /// Returns a client that has not connected yet.
    ///
    /// Errors: a host that is no `http://` or `https://` address, nobody to trust there, or a secret's
    /// file that cannot be read.
    pub fn new(config: &ElasticsearchConfig) -> io::Result<Bulk> {
        let credentials = Credentials::of(config);
        let hosts = config
            .hosts
            .iter()
            .map(|host| Host::new(host, config.request_timeout))
            .collect::<io::Result<Vec<Host>>>()?;
        if hosts.is_empty() {
            return Err(invalid("elasticsearch.hosts is empty".to_owned()));
        }
        let timeouts = Timeouts { all: config.request_timeout, connect: CONNECT_TIMEOUT };
        let agent = http::agent(timeouts, tls_settings(config)?);
        Ok(Bulk {
            agent,
            stopped: Arc::new(AtomicBool::new(false)),
            // Many shippers, and the workers of one, spread over the nodes.
            host: random() as usize % hosts.len(),
            hosts,
            authorization: credentials.read()?,
            credentials,
            gzip: config.gzip,
            backoff: config.retry_backoff,
            backoff_max: config.retry_backoff_max,
            len_max: usize::MAX,
            state: State::Working,
            since: Instant::now(),
            counters: Counters::default(),
            scratch: Vec::new(),
            zipped: Vec::new(),
            answer: Vec::new(),
        })
    }

    /// Returns the means to end deliveries of this client.
    pub fn interrupter(&self) -> Interrupter {
        Interrupter { stopped: Arc::clone(&self.stopped), agent: self.agent.clone() }
    }

    /// What has been done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Sends `body` until each item has its final outcome, and leaves those in `outcomes`, one
    /// an item in order.
    ///
    /// `on_state` hears of each change of the client's state while it lasts; the change is
    /// logged as well. Errors: none; an item without an outcome (`None`) there is only after
    /// [`Interrupter::interrupt`].
    pub fn deliver(
        &mut self,
        body: &BulkBody,
        outcomes: &mut Vec<Option<Outcome>>,
        on_state: &mut dyn FnMut(&State),
    ) {
        outcomes.clear();
        outcomes.resize(body.n_items(), None);
        let all: Vec<usize> = (0..body.n_items()).collect();
        let mut parts = VecDeque::from(body.split(&all, self.len_max));
        let mut idle_rounds = 0;
        while !parts.is_empty() && !self.stopped() {
            let left_before: usize = parts.iter().map(Vec::len).sum();
            let trouble = self.round(body, &mut parts, outcomes);
            let left: usize = parts.iter().map(Vec::len).sum();
            idle_rounds = if left < left_before { 0 } else { idle_rounds + 1 };
            if self.stopped() {
                break;
            }
            match trouble {
                None => self.set_state(State::Working, on_state),
                Some(Trouble::Failed(failure, why)) => {
                    // More than a node can do in the time it has would time out for ever.
                    if failure == Failure::Timeout
                        && idle_rounds as usize > self.hosts.len()
                        && let Some(part) = parts.pop_front()
                    {
                        prepend(&mut parts, halves(&part));
                    }
                    if self.hosts.iter().all(|host| host.failures > 0) {
                        self.set_state(State::Unreachable(why), on_state);
                    }
                    while let Err(wait) = self.next_host()
                        && self.wait(wait)
                    {}
                }
                Some(Trouble::Busy(reject, retry_after)) => {
                    if idle_rounds >= BUSY_ROUNDS {
                        self.set_state(State::Busy(reject), on_state);
                    } else if idle_rounds == 0 {
                        self.set_state(State::Working, on_state);
                    }
                    let wait = between(Duration::ZERO, self.backoff_after(idle_rounds));
                    self.wait(retry_after.unwrap_or(wait));
                }
                Some(Trouble::Blocked(reject)) => {
                    self.set_state(State::Blocked(reject), on_state);
                    self.wait(between(self.backoff_max / 2, self.backoff_max));
                    self.read_credentials();
                }
            }
        }
    }

    /// Sends all `parts` once, and leaves in them what must be sent again.
    fn round(
        &mut self,
        body: &BulkBody,
        parts: &mut VecDeque<Vec<usize>>,
        outcomes: &mut [Option<Outcome>],
    ) -> Option<Trouble> {
        let mut again = Vec::new();
        let mut trouble: Option<Trouble> = None;
        while let Some(part) = parts.pop_front() {
            let len = body.len_of(&part);
            match self.send(body, &part) {
                Reply::Items(verdicts) => {
                    for (&item, verdict) in part.iter().zip(verdicts) {
                        match verdict {
                            Verdict::Final(outcome) => {
                                self.counters.count(&outcome);
                                outcomes[item] = Some(outcome);
                            }
                            Verdict::Again(reject) => {
                                let reason = if reject.status == 429 { "busy" } else { "failed" };
                                self.counters.retry(reason, 1);
                                again.push(item);
                                if trouble.is_none() {
                                    trouble = Some(Trouble::Busy(reject, None));
                                }
                            }
                            Verdict::Held(reject) => {
                                self.counters.retry("blocked", 1);
                                again.push(item);
                                if !matches!(trouble, Some(Trouble::Blocked(_))) {
                                    trouble = Some(Trouble::Blocked(reject));
                                }
                            }
                        }
                    }
                }
                Reply::TooLarge(reject) | Reply::Invalid(reject) if part.len() == 1 => {
                    let index = body.index_of(part[0]);
                    let outcome = Outcome::Rejected(Reject { index, ..reject });
                    self.counters.count(&outcome);
                    outcomes[part[0]] = Some(outcome);
                }
                Reply::TooLarge(_) => {
                    self.counters.retry("too_large", part.len());
                    self.len_max = self.len_max.min(len / 2);
                    info!("Elasticsearch takes no request of {len} bytes; smaller ones from now");
                    prepend(parts, body.split(&part, self.len_max));
                }
                Reply::Invalid(_) => {
                    self.counters.retry("invalid", part.len());
                    prepend(parts, halves(&part));
                }
                // The other parts would fare alike: the round ends.
                Reply::Busy(reject, retry_after) => {
                    self.counters.retry("busy", part.len());
                    // Indexing pressure counts bytes: what is too much at once may pass in turns.
                    prepend(parts, halves(&part));
                    trouble = Some(match trouble {
                        Some(Trouble::Blocked(reject)) => Trouble::Blocked(reject),
                        _ => Trouble::Busy(reject, retry_after),
                    });
                    break;
                }
                Reply::Blocked(reject) => {
                    self.counters.retry("blocked", part.len());
                    parts.push_front(part);
                    trouble = Some(Trouble::Blocked(reject));
                    break;
                }
                Reply::Failed(failure, why, _) => {
                    self.counters.retry(failure.as_str(), part.len());
                    parts.push_front(part);
                    trouble = Some(Trouble::Failed(failure, why));
                    break;
                }
            }
        }
        if !again.is_empty() {
            again.sort_unstable();
            parts.extend(body.split(&again, self.len_max));
        }
        trouble
    }

    /// Sends `items` to the host whose turn it is, and keeps the book on hosts.
    fn send(&mut self, body: &BulkBody, items: &[usize]) -> Reply {
        let host = self.next_host().unwrap_or(self.host);
        self.host = host;
        let mut scratch = std::mem::take(&mut self.scratch);
        let bytes = body.gather(items, &mut scratch);
        let mut answer = self.request(bytes, items.len());
        // A node may close an idle connection in the very moment it is used again.
        if self.hosts[host].failures == 0 && answer.as_ref().is_err_and(was_closed) {
            debug!("the connection was closed; sending again on a new one");
            answer = self.request(bytes, items.len());
        }
        let reply = match answer {
            Ok(response) => self.judge(&response, body, items),
            Err(problem) => {
                let failure = match problem {
                    ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                        Failure::Unreachable
                    }
                    ureq::Error::Timeout(_) => Failure::Timeout,
                    _ => Failure::Unreachable,
                };
                Reply::Failed(failure, printable(&http::words(&problem)), None)
            }
        };
        self.scratch = scratch;
        if self.stopped() {
            return reply;
        }
        let attempt = self.hosts[host].failures;
        let backoff = self.backoff_after(attempt);
        let host = &mut self.hosts[host];
        match &reply {
            Reply::Failed(_, why, retry_after) => {
                host.failures += 1;
                let wait = between(backoff / 2, backoff).max(retry_after.unwrap_or_default());
                host.until = Instant::now() + wait;
                if attempt == 0 {
                    warn!("Elasticsearch host={} fails: {why}; sending again", host.name);
                }
            }
            _ if attempt > 0 => {
                info!("Elasticsearch host={} answers again", host.name);
                host.failures = 0;
            }
            _ => {}
        }
        reply
    }

    /// Makes one request; the answer's body stands in `self.answer`.
    fn request(&mut self, bytes: &[u8], n_items: usize) -> Result<Response<()>, ureq::Error> {
        let host = &self.hosts[self.host];
        let mut request =
            self.agent.post(&host.bulk).header(header::CONTENT_TYPE, "application/x-ndjson");
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let sent = if self.gzip && host.failures == 0 && bytes.len() <= self.len_max {
            self.zipped.clear();
            let mut encoder = GzEncoder::new(&mut self.zipped, Compression::fast());
            encoder.write_all(bytes)?;
            encoder.finish()?;
            request = request.header(header::CONTENT_ENCODING, "gzip");
            self.zipped.as_slice()
        } else {
            bytes
        };
        if host.failures > 0 && sent.len() >= ASKED_FIRST_LEN {
            request = request.header(header::EXPECT, "100-continue");
        }
        self.counters.requests += 1;
        self.counters.bytes += sent.len() as u64;
        let (parts, answer) = request.send(sent)?.into_parts();
        // Reasons may quote documents, and JSON may double their length.
        let answer_max = 64 * 1024 + 1024 * n_items + 2 * bytes.len();
        self.answer.clear();
        answer
            .into_with_config()
            .limit(answer_max as u64)
            .reader()
            .read_to_end(&mut self.answer)?;
        Ok(Response::from_parts(parts, ()))
    }

    /// Says what an answer means; its body stands in `self.answer`.
    fn judge(&self, response: &Response<()>, body: &BulkBody, items: &[usize]) -> Reply {
        let status = response.status().as_u16();
        if status == 200 {
            return match verdicts(&self.answer, body, items) {
                Ok(verdicts) => Reply::Items(verdicts),
                Err(problem) => Reply::Failed(Failure::Garbled, printable(&problem), None),
            };
        }
        let refused = Refused::parse(&self.answer);
        let reject = Reject::new(status, &refused.error_type, &refused.reason, String::new());
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
        match status {
            413 => Reply::TooLarge(reject),
            429 => Reply::Busy(reject, retry_after),
            400 if reject.error_type == "action_request_validation_exception" => {
                Reply::Invalid(reject)
            }
            408 | 500.. => Reply::Failed(Failure::ServerError, reject.to_string(), retry_after),
            ..300 => Reply::Failed(Failure::Garbled, reject.to_string(), None),
            _ => Reply::Blocked(reject),
        }
    }

    /// Returns the host to ask, or how long all are still set aside.
    fn next_host(&self) -> Result<usize, Duration> {
        let now = Instant::now();
        let turn = |n: usize| (self.host + n) % self.hosts.len();
        (0..self.hosts.len()).map(turn).find(|&host| self.hosts[host].until <= now).ok_or_else(
            || {
                let until = self.hosts.iter().map(|host| host.until).min();
                until.expect("there are hosts").duration_since(now)
            },
        )
    }

    fn backoff_after(&self, attempts: u32) -> Duration {
        self.backoff.saturating_mul(2_u32.saturating_pow(attempts)).min(self.backoff_max)
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Sleeps; returns whether it slept to the end.
    fn wait(&self, duration: Duration) -> bool {
        let until = Instant::now() + duration;
        while !self.stopped() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(WAIT_SLICE));
        }
        false
    }

    /// Takes over a secret that has changed since; a file that cannot be read changes nothing.
    fn read_credentials(&mut self) {
        match self.credentials.read() {
            Ok(authorization) => self.authorization = authorization,
            Err(problem) => warn!("keeping the old secret: {problem}"),
        }
    }

    fn set_state(&mut self, state: State, on_state: &mut dyn FnMut(&State)) {
        if self.state.same_as(&state) {
            return;
        }
        match &state {
            State::Working => {
                info!("Elasticsearch takes documents again after={:.1?}", self.since.elapsed())
            }
            State::Unreachable(why) => {
                warn!("no host of Elasticsearch answers: {why}");
            }
            State::Busy(reject) => warn!("Elasticsearch is busy: {reject}; sending again"),
            State::Blocked(reject) => error!(
                "Elasticsearch host={} refuses, and nothing goes on before that is mended: {reject}",
                self.hosts[self.host].name
            ),
        }
        self.state = state;
        self.since = Instant::now();
        on_state(&self.state);
    }
}

impl Host {
    fn new(url: &str, request_timeout: Duration) -> io::Result<Host> {
        let problem = |what| invalid(format!("elasticsearch.hosts: {what}"));
        let base: Uri =
            url.parse().map_err(|_| problem(format!("{url:?} is no https://host:port")))?;
        let (Some(scheme @ ("https" | "http")), Some(authority)) =
            (base.scheme_str(), base.authority())
        else {
            return Err(problem(format!("{url:?} is no https://host:port")));
        };
        if authority.as_str().contains('@') {
            return Err(problem(format!(
                "name and password of {} belong in username and password_file",
                authority.host()
            )));
        }
        let name = format!("{scheme}://{authority}");
        // Elasticsearch waits a minute for a missing shard; its verdict must come in our time.
        let bulk = format!(
            "{name}{}{BULK}&timeout={}ms",
            base.path().trim_end_matches('/'),
            request_timeout.as_millis() / 2
        );
        Ok(Host {
            bulk: bulk.parse().map_err(|_| problem(format!("bad path in {url:?}")))?,
            name,
            failures: 0,
            until: Instant::now(),
        })
    }
}

impl Credentials {
    fn of(config: &ElasticsearchConfig) -> Credentials {
        match config {
            ElasticsearchConfig { api_key_file: Some(path), .. } => {
                Credentials::ApiKey(path.clone())
            }
            ElasticsearchConfig { bearer_token_file: Some(path), .. } => {
                Credentials::Bearer(path.clone())
            }
            ElasticsearchConfig { username: Some(username), password_file: Some(path), .. } => {
                Credentials::Basic { username: username.clone(), password: path.clone() }
            }
            _ => Credentials::None,
        }
    }

    /// Returns the `Authorization` header, read from the files as they are now.
    fn read(&self) -> io::Result<Option<HeaderValue>> {
        let (path, authorization) = match self {
            Credentials::None => return Ok(None),
            Credentials::Basic { username, password } => {
                let pair = format!("{username}:{}", secret::read(password)?);
                (password, format!("Basic {}", encode_block(pair.as_bytes())))
            }
            Credentials::ApiKey(path) => (path, format!("ApiKey {}", secret::read(path)?)),
            Credentials::Bearer(path) => (path, format!("Bearer {}", secret::read(path)?)),
        };
        let mut value = HeaderValue::from_str(&authorization)
            .map_err(|_| invalid(format!("{} holds no secret for HTTP", path.display())))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// Whom to trust, and what to show, at hosts that want TLS; `None` where there are none.
fn tls_settings(config: &ElasticsearchConfig) -> io::Result<Option<Settings>> {
    if !config.hosts.iter().any(|host| host.starts_with("https://")) {
        return Ok(None);
    }
    let trust = match config.ssl_ca_trusted_fingerprint {
        Some(fingerprint) => Trust::Fingerprint(fingerprint),
        None => Trust::file_or_system(config.ssl_ca_file.as_deref(), "elasticsearch.ssl_ca_file")
            .map_err(|error| invalid(error.to_string()))?,
    };
    let certificate = Certificate::of(
        config.ssl_certificate_file.as_ref(),
        config.ssl_key_file.as_ref(),
        config.ssl_key_password_file.as_ref(),
    );
    let by_name = config.ssl_verification_mode == VerificationMode::Full;
    Ok(Some(Settings { trust, certificate, by_name }))
}

fn invalid(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, problem)
}

impl Counters {
    fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Created => self.created += 1,
            Outcome::Duplicate => self.duplicates += 1,
            Outcome::FailureStore => self.failure_store += 1,
            Outcome::Rejected(_) => self.rejected += 1,
        }
    }

    fn retry(&mut self, reason: &'static str, n_items: usize) {
        *self.retried.entry(reason).or_default() += n_items as u64;
    }
}

fn was_closed(problem: &ureq::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let ureq::Error::Io(problem) = problem else {
        return false;
    };
    matches!(problem.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// What went wrong may quote an answer, and that is anything.
fn printable(problem: &str) -> String {
    excerpt(problem).escape_debug().to_string()
}

fn prepend(parts: &mut VecDeque<Vec<usize>>, first: Vec<Vec<usize>>) {
    for part in first.into_iter().rev() {
        parts.push_front(part);
    }
}

fn halves(items: &[usize]) -> Vec<Vec<usize>> {
    let size = items.len().div_ceil(2).max(1);
    items.chunks(size).map(<[usize]>::to_vec).collect()
}

fn between(low: Duration, high: Duration) -> Duration {
    low + (high - low).mul_f64(random() as f64 / u64::MAX as f64)
}

/// Good enough to keep clients from coming back in step.
fn random() -> u64 {
    RandomState::new().hash_one(())
}

#[cfg(test)]
mod tests;
