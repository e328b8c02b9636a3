//! What `shipper tail` says of brokers whose TLS will not do.

mod support;

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use openssl::ssl::{SslAcceptor, SslMethod, SslVersion};
use support::Shipper;
use support::certificates::Authority;
use support::tail::LIMIT;

/// Answers each connection with `serve`; returns its port.
fn broker(serve: impl Fn(TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || listener.incoming().flatten().for_each(serve));
    port
}

/// Shakes hands with a certificate, and says nothing more.
fn tls_broker(pem: &Path, newest: Option<SslVersion>) -> u16 {
    let mut acceptor = SslAcceptor::mozilla_intermediate(SslMethod::tls_server()).expect("TLS");
    acceptor.set_private_key_file(pem, openssl::ssl::SslFiletype::PEM).expect("a key");
    acceptor.set_certificate_chain_file(pem).expect("a certificate");
    acceptor.set_min_proto_version(None).expect("set");
    acceptor.set_max_proto_version(newest).expect("set");
    acceptor.set_security_level(0);
    let acceptor = acceptor.build();
    broker(move |stream| {
        // Whether it comes about is for the other side to say.
        let _ = acceptor.accept(stream);
    })
}

/// Torture: 82.
#[test]
fn tls_that_will_not_do_is_named_and_never_done_without() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    let authority = Authority::new("authority");
    authority.write(&file("ca.pem"));
    authority.issue("broker", "localhost", 30).write_both(&file("good.pem"));
    authority.issue("broker", "localhost", -1).write_both(&file("expired.pem"));
    authority.issue("broker", "elsewhere", 30).write_both(&file("misnamed.pem"));
    Authority::new("another").issue("broker", "localhost", 30).write_both(&file("unknown.pem"));

    let held = std::sync::Mutex::new(Vec::new());
    let cases = [
        (
            tls_broker(&file("expired.pem"), None),
            "certificate will not do: certificate has expired",
        ),
        (tls_broker(&file("misnamed.pem"), None), "certificate will not do: hostname mismatch"),
        (
            tls_broker(&file("unknown.pem"), None),
            "certificate will not do: unable to get local issuer",
        ),
        (tls_broker(&file("good.pem"), Some(SslVersion::TLS1_1)), "TLS failed: "),
        (broker(|mut stream| drop(stream.write_all(b"220 mail\r\n"))), "does not speak TLS"),
        (broker(drop), "does this listener speak kafka.security_protocol = \"SSL\"?"),
        // It never answers.
        (
            broker(move |stream| held.lock().expect("whole").push(stream)),
            "connection lost: timed out",
        ),
    ];
    for (port, problem) in cases {
        let state = tempfile::tempdir().expect("a folder");
        let (config, log) = (state.path().join("shipper.toml"), state.path().join("server.log"));
        fs::write(&log, "line\n").expect("written");
        let text = format!(
            "state_dir = {:?}\nhost = \"h1\"\n[kafka]\nbootstrap_servers = [\"localhost:{port}\"]\n\
             security_protocol = \"SSL\"\nssl_ca_file = {:?}\nrequest_timeout = \"1s\"\n\
             [[input]]\npaths = [{log:?}]\ntopic = \"logs\"\n",
            state.path().join("state"),
            file("ca.pem"),
        );
        fs::write(&config, text).expect("written");
        let tail = Shipper::start("tail", &config);
        let line = tail.wait_for_log(problem, LIMIT);
        assert!(line.contains(&format!("WARN  broker localhost:{port}: ")), "{line}");
    }
}
