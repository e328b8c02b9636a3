//! Tokens for OAUTHBEARER: from a file that something else keeps fresh, or from the token endpoint
//! of an OpenID provider, in exchange for a client's secret (RFC 6749, section 4.4; KIP-768).
//!
//! All connections of the process share the token of an endpoint. Past [`FRESH_PART`] of its time
//! the next connection asks for another; while none is to be had, the one at hand serves until its
//! end, and only then do connections fail, each with the endpoint's reason. One that a broker
//! refuses is not used again, for the provider may have changed its keys.
//!
//! The secret goes to the endpoint alone, over TLS or within this host (`values::token_endpoint`),
//! and neither it nor a token is ever part of an error.

use std::fmt::{self, Write as _};
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use log::{info, warn};
use openssl::base64::encode_block;
use serde::Deserialize;
use serde_json::Value;
use ureq::Agent;
use ureq::http::header;

use super::Error;
use crate::config::KafkaConfig;
use crate::http::{self, Timeouts};
use crate::secret;
use crate::tls::{self, Settings, Trust};

/// How long a token is used of which nobody says when it ends.
const UNKNOWN_TIME: Duration = Duration::from_secs(60);
/// No token is taken for good for longer, whatever is said of it.
const TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Part of a token's time after which the next one is asked for.
/// Source: librdkafka and Kafka's `sasl.login.refresh.window.factor` do so after 80 %.
const FRESH_PART: f64 = 0.8;
/// How long an endpoint may take: `index` asks on the thread that consumes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Tokens with many claims have some KiB, and a broker takes no request above 512 KiB before it
/// knows who we are.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// Letters of the endpoint's own words that go into the log.
const WORDS_MAX: usize = 200;

/// What a broker takes for a proof of who we are, until it ends.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token {
    text: Arc<str>,
    stale_at: Instant,
    ends_at: Instant,
}

impl Token {
    fn new(text: &str, now: Instant, time: Duration) -> Token {
        Token { text: text.into(), stale_at: now + time.mul_f64(FRESH_PART), ends_at: now + time }
    }

    /// The secret itself.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// How long whoever keeps it may use it without asking again: no longer than a token that a
    /// broker refuses may stand in the way of another.
    pub(super) fn use_time(&self, now: Instant) -> Duration {
        self.ends_at.saturating_duration_since(now).min(UNKNOWN_TIME)
    }
}

/// Secrets stay out of logs, also by mistake.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Where tokens come from.
#[derive(Debug, Clone)]
pub(super) enum TokenSource {
    /// Whatever stands there.
    File(PathBuf),
    /// The provider, and the token that it gave last.
    Endpoint(Arc<Endpoint>),
}

impl TokenSource {
    /// Returns what the configuration names, if it names any; an endpoint is the same one each time.
    pub(super) fn of(kafka: &KafkaConfig) -> Option<TokenSource> {
        let file = || kafka.sasl_token_file.clone().map(TokenSource::File);
        Client::of(kafka).map(|client| TokenSource::Endpoint(Endpoint::of(client))).or_else(file)
    }

    /// Returns a token for the next connection. Blocks, up to 5 s.
    ///
    /// Errors: `Secret` for the token's file, `Token`.
    pub(super) fn token(&self) -> Result<Token, Error> {
        match self {
            TokenSource::File(file) => {
                let text = secret::read(file).map_err(Error::Secret)?;
                Ok(Token::new(&text, Instant::now(), UNKNOWN_TIME))
            }
            TokenSource::Endpoint(endpoint) => endpoint.token(),
        }
    }

    /// A broker does not take this token: it is not given again.
    pub(super) fn is_refused(&self, token: &Token) {
        if let TokenSource::Endpoint(endpoint) = self {
            let mut kept = endpoint.kept.lock().expect("no holder panics");
            kept.token.take_if(|kept| kept == token);
        }
    }
}

/// A provider as this process knows it.
#[derive(Debug)]
pub(super) struct Endpoint {
    client: Client,
    kept: Mutex<Kept>,
}

/// What the last answers came to.
#[derive(Debug, Default)]
struct Kept {
    token: Option<Token>,
    /// Until there is a token again.
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Failure {
    at: Instant,
    problem: String,
}

/// Of one process, for producers and consumers do not know each other. It has one entry for each
/// endpoint that a configuration names.
static ENDPOINTS: Mutex<Vec<Arc<Endpoint>>> = Mutex::new(Vec::new());

impl Endpoint {
    fn of(client: Client) -> Arc<Endpoint> {
        let mut endpoints = ENDPOINTS.lock().expect("no holder panics");
        if let Some(known) = endpoints.iter().find(|endpoint| endpoint.client == client) {
            return Arc::clone(known);
        }
        let endpoint = Arc::new(Endpoint { client, kept: Mutex::default() });
        endpoints.push(Arc::clone(&endpoint));
        endpoint
    }

    /// Returns the token at hand while it is fresh, else asks; all others wait meanwhile.
    fn token(&self) -> Result<Token, Error> {
        let wanted_at = Instant::now();
        let mut kept = self.kept.lock().expect("no holder panics");
        let now = Instant::now();
        let at_hand = kept.token.clone().filter(|token| now < token.ends_at);
        // Who waited while another asked has its answer, too: brokers are many, a hang is long.
        let shared = kept.failure.as_ref().filter(|failure| wanted_at <= failure.at);
        if let Some(token) = &at_hand {
            // Who has a token does not wait for an endpoint that has just failed.
            let has_failed = |failure: &Failure| now < failure.at + self.client.retry_after;
            let is_asked_in_vain =
                shared.is_some() || kept.failure.as_ref().is_some_and(has_failed);
            if now < token.stale_at || is_asked_in_vain {
                return Ok(token.clone());
            }
        } else if let Some(failure) = shared {
            return Err(Error::Token(failure.problem.clone()));
        }
        match self.client.ask() {
            Ok(token) => {
                if kept.failure.take().is_some() {
                    info!("token endpoint {}: well again", self.client.url);
                }
                kept.token = Some(token.clone());
                Ok(token)
            }
            Err(problem) => {
                let at = Instant::now();
                let failure = Failure { at, problem: problem.clone() };
                let is_news = kept.failure.replace(failure).is_none();
                let Some(token) = at_hand.filter(|token| at < token.ends_at) else {
                    return Err(Error::Token(problem));
                };
                if is_news {
                    let left = (token.ends_at - at).as_secs();
                    warn!(
                        "{problem}; trying again; the token at hand is good for another {left} s"
                    );
                }
                Ok(token)
            }
        }
    }
}

/// Who asks, and whom.
#[derive(Debug, PartialEq, Eq)]
struct Client {
    url: String,
    id: String,
    secret_file: PathBuf,
    scope: Option<String>,
    /// Whom to trust.
    ca_file: Option<PathBuf>,
    timeout: Duration,
    /// How soon a failed question is repeated while there is a token.
    retry_after: Duration,
}

/// What an endpoint gives.
/// Source: RFC 6749, section 5.1. Some write the number as a string.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: Option<Value>,
}

/// Why it does not.
/// Source: RFC 6749, section 5.2.
#[derive(Deserialize, Default)]
struct Denied {
    error: Option<String>,
    error_description: Option<String>,
}

impl Client {
    fn of(kafka: &KafkaConfig) -> Option<Client> {
        Some(Client {
            url: kafka.sasl_oauthbearer_token_endpoint_url.clone()?,
            id: kafka.sasl_oauthbearer_client_id.clone()?,
            secret_file: kafka.sasl_oauthbearer_client_secret_file.clone()?,
            scope: kafka.sasl_oauthbearer_scope.clone(),
            ca_file: kafka.ssl_ca_file.clone(),
            timeout: kafka.request_timeout.min(ANSWER_TIMEOUT),
            retry_after: kafka.retry_backoff_max,
        })
    }

    /// Asks for a token with the secret as it is now.
    ///
    /// Errors: says which endpoint has none, why, and where that can be mended.
    fn ask(&self) -> Result<Token, String> {
        let secret = secret::read(&self.secret_file).map_err(|error| error.to_string())?;
        let now = Instant::now();
        let agent =
            self.agent().map_err(|error| format!("token endpoint {}: {error}", self.url))?;
        let problem = match self.request(&agent, &secret) {
            Ok((200, body)) => match granted(&body, now) {
                Ok(token) => return Ok(token),
                Err(problem) => problem,
            },
            Ok((status, body)) => denied(status, &body, &secret),
            Err(ureq::Error::Timeout(_)) => format!("no answer for {:?}", self.timeout),
            Err(error) => printable(&http::words(&error)),
        };
        Err(format!("token endpoint {}: {problem}", self.url))
    }

    /// Returns status and body of the answer, the body not beyond what a token needs.
    fn request(&self, agent: &Agent, secret: &str) -> Result<(u16, Vec<u8>), ureq::Error> {
        let pair = format!("{}:{}", form_encoded(&self.id), form_encoded(secret));
        let mut form = "grant_type=client_credentials".to_owned();
        if let Some(scope) = &self.scope {
            form += &format!("&scope={}", form_encoded(scope));
        }
        let answer = agent
            .post(&self.url)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .header(header::AUTHORIZATION, format!("Basic {}", encode_block(pair.as_bytes())))
            .send(form)?;
        let (parts, body) = answer.into_parts();
        let mut bytes = Vec::new();
        body.into_reader().take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok((parts.status.as_u16(), bytes))
    }

    /// A connection of its own for each question: one in minutes.
    ///
    /// Errors: nobody to trust.
    fn agent(&self) -> Result<Agent, tls::Error> {
        let settings = match self.url.starts_with("https:") {
            true => {
                let trust = Trust::file_or_system(self.ca_file.as_deref(), "kafka.ssl_ca_file")?;
                Some(Settings { trust, certificate: None, by_name: true })
            }
            false => None,
        };
        let timeouts = Timeouts { all: self.timeout, connect: self.timeout };
        Ok(http::agent(timeouts, settings))
    }
}

/// Takes the token out of an answer to a question that was asked at `now`.
fn granted(body: &[u8], now: Instant) -> Result<Token, String> {
    let Ok(Granted { access_token, expires_in }) = serde_json::from_slice(body) else {
        return Err("its answer holds no access_token".to_owned());
    };
    // Anything else could end the message to the broker before its end. RFC 6750, section 2.1.
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if access_token.is_empty() || !access_token.bytes().all(is_legal) {
        return Err("its access_token is no bearer token".to_owned());
    }
    let seconds = match &expires_in {
        Some(Value::String(text)) => text.parse().ok(),
        Some(value) => value.as_f64(),
        None => None,
    };
    let time = match seconds.filter(|seconds: &f64| seconds.is_finite()) {
        Some(seconds) if seconds <= 0.0 => {
            return Err(format!("its token has ended already: expires_in is {seconds}"));
        }
        Some(seconds) => Duration::from_secs_f64(seconds.min(TIME_MAX.as_secs_f64())),
        None => UNKNOWN_TIME,
    };
    Ok(Token::new(&access_token, now, time))
}

/// Says what an answer without a token means.
fn denied(status: u16, body: &[u8], secret: &str) -> String {
    let Denied { error, error_description } = serde_json::from_slice(body).unwrap_or_default();
    let mut text = format!("status {status}");
    for words in [&error, &error_description].into_iter().flatten() {
        // Whatever it says, the secret is no part of what we say.
        let _ = write!(text, ": {}", printable(&words.replace(secret, "***")));
    }
    let advice = match (status, error.as_deref()) {
        (_, Some("invalid_scope")) => "; look at kafka.sasl_oauthbearer_scope",
        (401, _) | (_, Some("invalid_client" | "unauthorized_client")) => {
            "; look at kafka.sasl_oauthbearer_client_id and its secret"
        }
        (300..=399 | 404 | 405, _) => "; look at kafka.sasl_oauthbearer_token_endpoint_url",
        _ => "",
    };
    text + advice
}

/// Whatever a server says can neither forge a line of the log nor fill it.
fn printable(text: &str) -> String {
    text.chars().take(WORDS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Source: RFC 6749, section 2.3.1 and appendix B; a space as `%20`, which every reader takes.
fn form_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' => {
                encoded.push(byte.into())
            }
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests;
