//! Against an endpoint that says and does what the test wants.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod};

use super::super::mutations;
use super::super::sasl::Exchange;
use super::*;
use certificates::{Authority, Identity};

#[allow(dead_code)]
#[path = "../../../tests/support/certificates.rs"]
mod certificates;

const SECRET: &str = "hu sh+%";

/// What the endpoint does with one question.
#[derive(Clone)]
enum Play {
    /// Answers with this status line's end and body.
    Answer(&'static str, String),
    /// Says nothing more.
    Hang,
    /// Goes on for ever.
    Flood,
}

/// An endpoint that follows a script, the last line of it for ever.
struct Provider {
    address: String,
    n_asked: Arc<AtomicUsize>,
    questions: Receiver<String>,
    folder: tempfile::TempDir,
}

impl Provider {
    fn start(script: &[Play]) -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let (said, questions) = channel();
        let n_asked = Arc::new(AtomicUsize::new(0));
        let n = Arc::clone(&n_asked);
        let script = script.to_vec();
        thread::spawn(move || {
            let mut open = Vec::new();
            for stream in listener.incoming().flatten() {
                let play = &script[n.fetch_add(1, Ordering::SeqCst).min(script.len() - 1)];
                open.extend(perform(stream, play, |question| drop(said.send(question))));
            }
        });
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("secret");
        fs::write(&file, SECRET).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
        Provider { address, n_asked, questions, folder }
    }

    fn client(&self) -> Client {
        Client {
            url: format!("http://{}/token", self.address),
            id: "shipper:1".to_owned(),
            secret_file: self.folder.path().join("secret"),
            scope: Some("kafka logs".to_owned()),
            ca_file: None,
            timeout: Duration::from_millis(300),
            retry_after: Duration::ZERO,
        }
    }

    fn endpoint(&self) -> Arc<Endpoint> {
        Endpoint::of(self.client())
    }

    fn n_asked(&self) -> usize {
        self.n_asked.load(Ordering::SeqCst)
    }
}

/// Returns the connection if it is to stay open.
fn perform(mut stream: TcpStream, play: &Play, said: impl Fn(String)) -> Option<TcpStream> {
    if !matches!(play, Play::Hang) {
        said(question(&stream)?);
    }
    match play {
        Play::Answer(status, body) => {
            let len = body.len();
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {len}\r\n\r\n{body}");
            None
        }
        Play::Hang => Some(stream),
        Play::Flood => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"access_token\":\"");
            while stream.write_all(&[b'a'; 1024]).is_ok() {}
            None
        }
    }
}

/// Reads a whole request.
fn question(stream: &TcpStream) -> Option<String> {
    let mut reader = BufReader::new(stream);
    let (mut text, mut len) = (String::new(), 0);
    loop {
        let start = text.len();
        reader.read_line(&mut text).ok().filter(|n_read| *n_read > 0)?;
        let line = text[start..].to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            len = value.trim().parse().expect("a length");
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).ok()?;
    Some(text + &String::from_utf8(body).expect("text"))
}

fn gives(token: &str, expires_in: &str) -> Play {
    let body = format!(r#"{{"access_token":"{token}","expires_in":{expires_in}}}"#);
    Play::Answer("200 OK", body)
}

fn denies(status: &'static str, body: &str) -> Play {
    Play::Answer(status, body.to_owned())
}

/// Makes the token at hand older than it is.
fn change(endpoint: &Endpoint, change: impl FnOnce(&mut Token)) {
    change(endpoint.kept.lock().expect("no holder panics").token.as_mut().expect("a token"));
}

fn text(endpoint: &Endpoint) -> Result<String, String> {
    endpoint.token().map(|token| token.text().to_owned()).map_err(|error| error.to_string())
}

#[test]
fn a_token_is_asked_for_with_the_clients_credentials_and_shared_while_it_is_fresh() {
    let provider = Provider::start(&[gives("a.b-c_d~+/=", "3600")]);
    for _ in 0..3 {
        assert_eq!(text(&provider.endpoint()).as_deref(), Ok("a.b-c_d~+/="));
    }
    assert_eq!(provider.n_asked(), 1);
    let question = provider.questions.recv().expect("asked");
    assert!(question.starts_with("POST /token HTTP/1.1\r\n"), "{question}");
    let body = "\r\n\r\ngrant_type=client_credentials&scope=kafka%20logs";
    assert!(question.ends_with(body), "{question}");
    let credentials = encode_block(b"shipper%3A1:hu%20sh%2B%25");
    assert!(question.contains(&format!("authorization: Basic {credentials}\r\n")), "{question}");
}

#[test]
fn a_token_that_is_no_longer_fresh_or_was_refused_is_replaced() {
    let provider = Provider::start(&[gives("first", "3600"), gives("second", "\"3600\"")]);
    let endpoint = provider.endpoint();
    assert_eq!(text(&endpoint).as_deref(), Ok("first"));
    let now = Instant::now();
    change(&endpoint, |token| token.stale_at = now);
    assert_eq!(text(&endpoint).as_deref(), Ok("second"));
    assert_eq!(text(&endpoint).as_deref(), Ok("second"));
    assert_eq!(provider.n_asked(), 2);

    let source = TokenSource::Endpoint(Arc::clone(&endpoint));
    let second = source.token().expect("at hand");
    source.is_refused(&Token::new("another", Instant::now(), UNKNOWN_TIME));
    assert_eq!(text(&endpoint).as_deref(), Ok("second"));
    assert_eq!(provider.n_asked(), 2);
    source.is_refused(&second);
    assert_eq!(text(&endpoint).as_deref(), Ok("second"));
    assert_eq!(provider.n_asked(), 3);
}

/// Torture: 85.
#[test]
fn while_the_endpoint_is_down_the_token_at_hand_serves_until_its_end() {
    let down = denies("503 Service Unavailable", "<html>");
    let provider = Provider::start(&[gives("first", "3600"), down, gives("second", "3600")]);
    let endpoint = Endpoint::of(Client { retry_after: UNKNOWN_TIME, ..provider.client() });
    assert_eq!(text(&endpoint).as_deref(), Ok("first"));
    let now = Instant::now();
    change(&endpoint, |token| token.stale_at = now);
    for _ in 0..3 {
        assert_eq!(text(&endpoint).as_deref(), Ok("first"));
    }
    assert_eq!(provider.n_asked(), 2, "it is left alone for a while");
    change(&endpoint, |token| token.ends_at = now);
    assert_eq!(text(&endpoint).as_deref(), Ok("second"), "what has ended does not wait");
    assert_eq!(provider.n_asked(), 3);
}

#[test]
fn who_waited_for_an_endpoint_that_hangs_does_not_wait_again() {
    let provider = Provider::start(&[Play::Hang]);
    let timeout = Duration::from_secs(1);
    let endpoint = Endpoint::of(Client { timeout, ..provider.client() });
    let begun = Instant::now();
    let others = [(); 8].map(|()| {
        let endpoint = Arc::clone(&endpoint);
        thread::spawn(move || text(&endpoint))
    });
    for other in others {
        let problem = other.join().expect("no panic").expect_err("no token");
        let url = &endpoint.client.url;
        let expected = format!("no token for OAUTHBEARER: token endpoint {url}: no answer for 1s");
        assert_eq!(problem, expected);
    }
    assert!(begun.elapsed() < 4 * timeout, "{:?}", begun.elapsed());
    let n_asked = provider.n_asked();
    assert!(text(&endpoint).is_err());
    assert_eq!(provider.n_asked(), n_asked + 1, "who comes later asks anew");
}

#[test]
fn what_an_endpoint_says_instead_of_a_token_is_said_and_where_to_look() {
    let id = "look at kafka.sasl_oauthbearer_client_id and its secret";
    let escapes = r#"{"error":"server_error","error_description":"a\nb\u001b[31m hu sh+%"}"#;
    let long = format!(r#"{{"error":"{}"}}"#, "x".repeat(5000));
    for (play, problem) in [
        (
            denies("400 Bad Request", r#"{"error":"invalid_client","error_description":"no"}"#),
            &*format!("status 400: invalid_client: no; {id}"),
        ),
        (denies("401 Unauthorized", "nothing"), &format!("status 401; {id}")),
        (
            denies("400 Bad Request", r#"{"error":"invalid_scope","error_description":null}"#),
            "status 400: invalid_scope; look at kafka.sasl_oauthbearer_scope",
        ),
        (denies("302 Found", ""), "status 302; look at kafka.sasl_oauthbearer_token_endpoint_url"),
        (denies("500 Oh", escapes), "status 500: server_error: a b [31m ***"),
        (denies("500 Oh", &long), &format!("status 500: {}", "x".repeat(200))),
        (denies("500 Oh", r#"{"error":5}"#), "status 500"),
        (denies("200 OK", "<html>"), "its answer holds no access_token"),
        (denies("200 OK", r#"{"access_token":5}"#), "its answer holds no access_token"),
        (denies("200 OK", &"[".repeat(10_000)), "its answer holds no access_token"),
        (Play::Flood, "its answer holds no access_token"),
        (denies("200 OK", r#"{"access_token":""}"#), "its access_token is no bearer token"),
        (gives(r"a\u0001b", "60"), "its access_token is no bearer token"),
        (gives("a", "0"), "its token has ended already: expires_in is 0"),
        (gives("a", "-3"), "its token has ended already: expires_in is -3"),
    ] {
        let provider = Provider::start(&[play]);
        let found = provider.client().ask().expect_err("no token");
        assert_eq!(found, format!("token endpoint http://{}/token: {problem}", provider.address));
    }
    // No HTTP at all.
    let provider = Provider::start(&[denies("what", "")]);
    assert!(provider.client().ask().is_err());
}

#[test]
fn no_word_of_an_endpoint_about_the_time_does_harm() {
    for (expires_in, seconds) in
        [("null", 60), ("\"soon\"", 60), ("\"NaN\"", 60), ("[]", 60), ("1e300", 86_400), ("90", 90)]
    {
        let now = Instant::now();
        let body = format!(r#"{{"access_token":"a","expires_in":{expires_in}}}"#);
        let token = granted(body.as_bytes(), now).expect("a token");
        assert_eq!(token.ends_at - now, Duration::from_secs(seconds), "{expires_in}");
        assert!(token.stale_at < token.ends_at);
        assert!(token.use_time(now) <= UNKNOWN_TIME);
    }
}

#[test]
fn an_endpoint_that_cannot_be_trusted_or_reached_gets_no_secret() {
    let provider = Provider::start(&[Play::Hang]);
    let ca_file = provider.folder.path().join("ca.pem");
    let client = || Client {
        url: format!("https://{}/token", provider.address),
        ca_file: Some(ca_file.clone()),
        ..provider.client()
    };
    let problem = client().ask().expect_err("no authorities");
    assert!(problem.contains("ca.pem: no such file"), "{problem}");
    Authority::new("an authority").write(&ca_file);
    let problem = client().ask().expect_err("a handshake that hangs");
    assert!(problem.ends_with("no answer for 300ms"), "{problem}");
    let away = Client { url: "http://127.0.0.1:1/token".to_owned(), ..client() };
    assert!(away.ask().expect_err("nobody is there").contains("refused"));

    fs::remove_file(provider.folder.path().join("secret")).expect("removed");
    let problem = provider.client().ask().expect_err("no secret");
    assert!(problem.starts_with("secret /") && problem.contains("No such file"), "{problem}");
}

/// Answers one question over TLS, as `identity`; returns its port.
fn answer_once(identity: &Identity, folder: &Path) -> u16 {
    let (certificate, key) = (folder.join("it.pem"), folder.join("it.key"));
    identity.write(&certificate, &key, None);
    let mut acceptor = SslAcceptor::mozilla_intermediate(SslMethod::tls()).expect("TLS");
    acceptor.set_certificate_chain_file(&certificate).expect("a certificate");
    acceptor.set_private_key_file(&key, SslFiletype::PEM).expect("its key");
    let acceptor = acceptor.build();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        if let Ok(mut stream) = acceptor.accept(stream) {
            // All of it, or closing would reset the connection.
            let mut question = Vec::new();
            while !question.ends_with(b"&scope=kafka%20logs") {
                let mut bytes = [0; 1024];
                let n_read = stream.read(&mut bytes).expect("a question");
                question.extend_from_slice(&bytes[..n_read]);
            }
            let body = r#"{"access_token":"a"}"#;
            let len = body.len();
            let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n{body}");
        }
    });
    port
}

#[test]
fn only_a_trusted_endpoint_of_the_right_name_is_asked() {
    let provider = Provider::start(&[Play::Hang]);
    let folder = provider.folder.path();
    let authority = Authority::new("an authority");
    authority.write(&folder.join("ca.pem"));
    let ask = |identity: Identity, host: &str| {
        let client = Client {
            url: format!("https://{host}:{}/token", answer_once(&identity, folder)),
            ca_file: Some(folder.join("ca.pem")),
            timeout: Duration::from_secs(10),
            ..provider.client()
        };
        client.ask().map(|token| token.text().to_owned())
    };
    assert_eq!(ask(authority.issue("it", "localhost", 30), "localhost").as_deref(), Ok("a"));
    let stranger = Authority::new("another authority");
    for (identity, host, problem) in [
        (stranger.issue("it", "localhost", 30), "localhost", "unable to get local issuer"),
        (authority.issue("it", "other.example.org", 30), "localhost", "mismatch"),
        (authority.issue("it", "localhost", 30), "127.0.0.1", "mismatch"),
        (authority.issue("it", "localhost", -1), "localhost", "expired"),
    ] {
        let found = ask(identity, host).expect_err("not trusted");
        assert!(found.contains("its certificate will not do"), "{found}");
        assert!(found.contains(problem), "{found}, expected {problem}");
    }
}

#[test]
fn a_token_that_a_broker_refuses_is_not_shown_again() {
    let provider = Provider::start(&[gives("old", "3600"), gives("new", "3600")]);
    let source = TokenSource::Endpoint(provider.endpoint());
    let token = source.token().expect("a token");
    let mut exchange = Exchange::Bearer { token, source, is_refused: false };
    assert_eq!(exchange.first(), b"n,,\x01auth=Bearer old\x01\x01");
    let answer = exchange.next(br#"{"status":"invalid_token"}"#).expect("it goes on");
    assert_eq!(answer.as_deref(), Some(&b"\x01"[..]));
    assert_eq!(text(&provider.endpoint()).as_deref(), Ok("new"));
    // Nor does the end of it touch what has come since.
    exchange.is_refused();
    assert_eq!(text(&provider.endpoint()).as_deref(), Ok("new"));
    assert_eq!(provider.n_asked(), 2);
}

#[test]
fn neither_secret_nor_token_shows() {
    let provider = Provider::start(&[gives("very-secret", "60")]);
    let endpoint = provider.endpoint();
    let token = endpoint.token().expect("a token");
    let shown =
        format!("{endpoint:?} {token:?} {:?}", TokenSource::Endpoint(Arc::clone(&endpoint)));
    assert!(!shown.contains("very-secret") && !shown.contains(SECRET), "{shown}");
}

#[test]
fn no_answer_of_an_endpoint_does_harm() {
    for body in [
        &br#"{"access_token":"a.b","expires_in":3600,"token_type":"Bearer"}"#[..],
        br#"{"error":"invalid_client","error_description":"who?"}"#,
    ] {
        mutations::each(body, 10_000, |body| {
            if let Ok(token) = granted(body, Instant::now()) {
                assert!(token.text().bytes().all(|byte| byte.is_ascii_graphic()));
            }
            let problem = denied(400, body, SECRET);
            assert!(!problem.contains(char::is_control), "{problem}");
        });
    }
}
