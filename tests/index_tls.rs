//! TLS to Elasticsearch: whom the bulk client trusts, what it shows of itself, and what it says of
//! nodes whose TLS will not do. The node is played here; `stack_index.rs` has a real one.

#[allow(dead_code)]
#[path = "support/certificates.rs"]
mod certificates;

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;

use certificates::{Authority, Identity, write_secret};
use log_shipper::config::{Config, ElasticsearchConfig};
use log_shipper::index::elasticsearch::{Bulk, BulkBody, Outcome, State};
use openssl::ssl::{SslAcceptor, SslFiletype, SslMethod, SslVerifyMode};

/// Answers each request for one document by 201, on a connection of its own; returns its port.
fn node(answer: impl Fn(TcpStream) -> io::Result<()> + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whether it comes about is for the other side to say.
            let _ = answer(stream);
        }
    });
    port
}

/// The same over TLS: with the certificates in `chain`, and, with `client_ca`, only for clients that
/// this authority vouches for.
fn tls_node(chain: &Path, key: &Path, client_ca: Option<PathBuf>) -> u16 {
    let (chain, key) = (chain.to_path_buf(), key.to_path_buf());
    node(move |stream| {
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
        acceptor.set_certificate_chain_file(&chain)?;
        acceptor.set_private_key_file(&key, SslFiletype::PEM)?;
        if let Some(ca) = &client_ca {
            acceptor.set_ca_file(ca)?;
            acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        }
        let stream = acceptor.build().accept(stream).map_err(io::Error::other)?;
        let mut stream = BufReader::new(stream);
        let (mut line, mut len) = (String::new(), 0);
        while stream.read_line(&mut line)? > 2 {
            let head = line.to_ascii_lowercase();
            if let Some(value) = head.strip_prefix("content-length:") {
                len = value.trim().parse().map_err(io::Error::other)?;
            }
            line.clear();
        }
        stream.read_exact(&mut vec![0; len])?;
        let body = r#"{"items":[{"create":{"status":201}}]}"#;
        let len = body.len();
        write!(
            stream.get_mut(),
            "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}"
        )
    })
}

fn config(port: u16, lines: &str) -> ElasticsearchConfig {
    let text = format!(
        "kafka.bootstrap_servers = [\"a:1\"]\n[elasticsearch]\n\
         hosts = [\"https://localhost:{port}\"]\nrequest_timeout = \"5s\"\n{lines}"
    );
    let config = Config::parse(&text, Path::new("shipper.toml")).expect("well formed");
    config.elasticsearch.expect("there")
}

/// Delivers a document, unless the node cannot be asked: then says why.
fn deliver(bulk: &mut Bulk) -> Result<(), String> {
    let mut body = BulkBody::new();
    body.begin("logs", "1").extend_from_slice(b"{}");
    body.end();
    let (mut outcomes, mut problem) = (Vec::new(), None);
    let interrupter = bulk.interrupter();
    bulk.deliver(&body, &mut outcomes, &mut |state| {
        if let State::Unreachable(why) = state {
            problem = Some(why.clone());
            interrupter.interrupt();
        }
    });
    match problem {
        Some(why) => Err(why),
        None => {
            assert_eq!(outcomes, [Some(Outcome::Created)]);
            Ok(())
        }
    }
}

fn once(port: u16, lines: &str) -> Result<(), String> {
    deliver(&mut Bulk::new(&config(port, lines)).expect("a client"))
}

/// An authority, what it vouches for, and their files.
struct Files {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Files {
    fn new() -> Files {
        let files = Files {
            folder: tempfile::tempdir().expect("a folder"),
            authority: Authority::new("ca"),
        };
        files.authority.write(&files.path("ca.pem"));
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn issue(&self, name: &str, host: &str, days: i64) -> (PathBuf, PathBuf) {
        self.write(name, &self.authority.issue(name, host, days))
    }

    fn write(&self, name: &str, identity: &Identity) -> (PathBuf, PathBuf) {
        let files = (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key")));
        identity.write(&files.0, &files.1, None);
        files
    }

    /// A node's certificate with the authority's behind it, as Elasticsearch sends them.
    fn with_authority(&self, certificate: &Path) -> PathBuf {
        let chain = certificate.with_extension("chain.pem");
        let pem = fs::read(certificate).expect("read");
        fs::write(&chain, [pem, self.authority.pem()].concat()).expect("written");
        chain
    }

    fn fingerprint(&self) -> String {
        self.authority.fingerprint().iter().map(|byte| format!("{byte:02X}")).collect()
    }
}

#[test]
fn a_node_is_trusted_by_its_authority_or_not_at_all() {
    let files = Files::new();
    let ca = format!("ssl_ca_file = {:?}\n", files.path("ca.pem"));
    let certificate_mode = format!("{ca}ssl_verification_mode = \"certificate\"");
    let stranger = Authority::new("another ca").issue("stranger", "localhost", 30);

    let (pem, key) = files.issue("good", "localhost", 30);
    let good = tls_node(&pem, &key, None);
    let (pem, key) = files.issue("misnamed", "elsewhere", 30);
    let misnamed = tls_node(&pem, &key, None);
    let (pem, key) = files.issue("expired", "localhost", -1);
    let expired = tls_node(&pem, &key, None);
    let (pem, key) = files.write("stranger", &stranger);
    let unknown = tls_node(&pem, &key, None);
    let no_tls = node(|mut stream| stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"));

    assert_eq!(once(good, &ca), Ok(()));
    assert_eq!(once(misnamed, &certificate_mode), Ok(()));
    for (port, lines, problem) in [
        (misnamed, &ca, "its certificate will not do: hostname mismatch"),
        (expired, &ca, "its certificate will not do: certificate has expired"),
        (expired, &certificate_mode, "its certificate will not do: certificate has expired"),
        (unknown, &ca, "its certificate will not do: unable to get local issuer certificate"),
        (no_tls, &ca, "it does not speak TLS"),
        // Those of the system do not know the authority.
        (
            good,
            &String::new(),
            "its certificate will not do: unable to get local issuer certificate",
        ),
        (good, &"ssl_ca_file = \"/none\"".to_owned(), "cannot use authorities /none: "),
    ] {
        let why = once(port, lines).expect_err(problem);
        assert!(why.starts_with(problem), "{why}");
    }
}

#[test]
fn the_fingerprint_of_an_authority_stands_for_its_file() {
    let files = Files::new();
    let (pem, key) = files.issue("node", "localhost", 30);
    let whole = tls_node(&files.with_authority(&pem), &key, None);
    let bare = tls_node(&pem, &key, None);
    let (_, misnamed_key) = files.issue("misnamed", "elsewhere", 30);
    let misnamed = files.with_authority(&files.path("misnamed.pem"));
    let lines = |fingerprint: &str| format!("ssl_ca_trusted_fingerprint = {fingerprint:?}");
    let right = lines(&files.fingerprint());

    assert_eq!(once(whole, &right), Ok(()));
    let forged = Files::new();
    for (port, lines, problem) in [
        (whole, lines(&forged.fingerprint()), "self-signed certificate in certificate chain"),
        (bare, right.clone(), "unable to get local issuer certificate"),
        (tls_node(&misnamed, &misnamed_key, None), right.clone(), "hostname mismatch"),
    ] {
        let why = once(port, &lines).expect_err(problem);
        assert!(why.starts_with(&format!("its certificate will not do: {problem}")), "{why}");
    }
    // Another's certificate with the trusted one behind it: that one has not signed it.
    let (forged_pem, forged_key) = forged.issue("node", "localhost", 30);
    let port = tls_node(&files.with_authority(&forged_pem), &forged_key, None);
    let why = once(port, &right);
    assert!(why.expect_err("forged").starts_with("its certificate will not do: "));
}

#[test]
fn our_own_certificate_is_shown_and_taken_up_anew_when_it_is_rotated() {
    let files = Files::new();
    let (pem, key) = files.issue("node", "localhost", 30);
    let port = tls_node(&pem, &key, Some(files.path("ca.pem")));
    let ca = format!("ssl_ca_file = {:?}\n", files.path("ca.pem"));
    let (own, own_key, password) =
        (files.path("own.pem"), files.path("own.key"), files.path("password"));
    files.authority.issue("shipper", "here", 30).write(&own, &own_key, Some("word"));
    write_secret(&password, b"word\n");
    let lines = format!(
        "{ca}ssl_certificate_file = {own:?}\nssl_key_file = {own_key:?}\n\
         ssl_key_password_file = {password:?}\n"
    );
    let mut bulk = Bulk::new(&config(port, &lines)).expect("a client");
    assert_eq!(deliver(&mut bulk), Ok(()));
    let why = once(port, &ca).expect_err("no certificate");
    assert!(why.contains("certificate required"), "{why}");

    // Each connection reads the files as they are then.
    Authority::new("another ca").issue("shipper", "here", 30).write(&own, &own_key, Some("other"));
    let why = deliver(&mut bulk).expect_err("the password is another");
    assert!(why.starts_with(&format!("cannot use key {}", own_key.display())), "{why}");
    write_secret(&password, b"other\n");
    let why = once(port, &lines).expect_err("a stranger's certificate");
    assert!(why.starts_with("TLS failed: "), "{why}");
    files.authority.issue("shipper", "here", 30).write(&own, &own_key, Some("other"));
    assert_eq!(once(port, &lines), Ok(()));
}
