//! TLS, through the OpenSSL that librdkafka brings: whom a connection trusts, what it shows of itself.
//!
//! Each connection reads the files of authorities, certificate and key anew: what was rotated is
//! taken up by the next one.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::ssl::{
    self, HandshakeError, SslConnector, SslConnectorBuilder, SslMethod, SslOptions, SslStream,
    SslVerifyMode, SslVersion,
};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::{X509StoreContextRef, X509VerifyResult};

use crate::secret;

/// Where systems keep the authorities they trust: Debian, Red Hat, SUSE, Alpine.
/// Source: `rdkafka_ssl.c`, whose `ssl.ca.location=probe` looks at these, too.
const SYSTEM_CA_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What OpenSSL says of a first answer that is no TLS record.
const NO_TLS: &str = "wrong version number";

/// OpenSSL has no words for what the system said: `ERR_SYSTEM_FLAG` of openssl/err.h.
const SYSTEM_FLAG: u64 = 0x8000_0000;

/// A chain that is whole, and whose root nobody has told OpenSSL of: the certificate is its own root,
/// or another one that was sent with it. Source: `X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT` and
/// `X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN` of openssl/x509_vfy.h.
const SELF_SIGNED: [i32; 2] = [18, 19];

/// The SHA-256 of a certificate as it goes over the wire.
pub type Fingerprint = [u8; 32];

/// What TLS to another side is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whom to trust.
    pub trust: Trust,
    /// What we show, where the other side asks.
    pub certificate: Option<Certificate>,
    /// Whether the other side's certificate must name the host by which it is reached.
    pub by_name: bool,
}

/// Whose certificates are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Those of the authorities in a file, PEM.
    File(PathBuf),
    /// Those of the one authority whose own certificate, which the other side must send, has this
    /// fingerprint. Source: `ssl.ca_trusted_fingerprint` of Beats and Logstash.
    Fingerprint(Fingerprint),
}

impl Trust {
    /// Trusts the authorities of a file, or those of the system, if it has any.
    ///
    /// Errors: `Unusable`, where there is no file; says which `key` may name one.
    pub fn file_or_system(file: Option<&Path>, key: &str) -> Result<Trust, Error> {
        match ca_file(file) {
            Some(file) => Ok(Trust::File(file.into())),
            None => {
                let problem = format!("this system has no file of authorities; set {key}");
                Err(Error::Unusable(problem))
            }
        }
    }
}

/// Returns the file of the authorities to trust: those of the system, if it has any, where no others
/// are named.
pub fn ca_file(named: Option<&Path>) -> Option<&Path> {
    named.or_else(|| SYSTEM_CA_FILES.iter().map(Path::new).find(|path| path.exists()))
}

/// A certificate of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate and those that lead to its authority, PEM.
    pub file: PathBuf,
    /// Its key, PEM, a secret.
    pub key_file: PathBuf,
    /// What the key is encrypted with, a secret.
    pub key_password_file: Option<PathBuf>,
}

impl Certificate {
    /// Returns what a configuration names, where it does.
    pub fn of(
        file: Option<&PathBuf>,
        key_file: Option<&PathBuf>,
        key_password_file: Option<&PathBuf>,
    ) -> Option<Certificate> {
        Some(Certificate {
            file: file?.clone(),
            key_file: key_file?.clone(),
            key_password_file: key_password_file.cloned(),
        })
    }
}

/// Why there is no TLS.
#[derive(Debug)]
pub enum Error {
    /// A secret cannot be had.
    Secret(io::Error),
    /// A file will not do, or OpenSSL; says which, and why.
    Unusable(String),
    /// The other side's certificate will not do; says why.
    Certificate(&'static str),
    /// The other side answers, though not with TLS.
    NoTls,
    /// The handshake failed; says why.
    Failed(String),
    /// The connection was closed amid the handshake.
    Closed,
    /// The connection broke, or took too long.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Secret(source) | Error::Io(source) => write!(f, "{source}"),
            Error::Unusable(problem) => f.write_str(problem),
            Error::Certificate(reason) => write!(f, "its certificate will not do: {reason}"),
            Error::NoTls => f.write_str("it does not speak TLS"),
            Error::Failed(reason) => write!(f, "TLS failed: {reason}"),
            Error::Closed => f.write_str("it closed the connection at the first word of TLS"),
        }
    }
}

/// Shakes hands with the other side, which is reached by the name `host`. Blocks as long as `stream`
/// does.
pub fn connect<S: Read + Write>(
    stream: S,
    host: &str,
    settings: &Settings,
) -> Result<SslStream<S>, Error> {
    let connector = connector(settings)?;
    let configuration = connector.configure().map_err(|error| unusable("TLS", &error))?;
    configuration.verify_hostname(settings.by_name).connect(host, stream).map_err(|error| {
        match error {
            HandshakeError::SetupFailure(error) => unusable("TLS", &error),
            HandshakeError::WouldBlock(_) => Error::Io(io::ErrorKind::TimedOut.into()),
            HandshakeError::Failure(handshake) => {
                let verified = handshake.ssl().verify_result();
                if verified != X509VerifyResult::OK {
                    return Error::Certificate(verified.error_string());
                }
                let error = handshake.into_error();
                match error.ssl_error().map(reasons) {
                    Some(reason) if reason.contains(NO_TLS) => Error::NoTls,
                    Some(reason) => Error::Failed(reason),
                    None => error.into_io_error().map_or(Error::Closed, Error::Io),
                }
            }
        }
    })
}

/// Returns what the other side says is wrong, where an error is that: after the handshake too, for
/// there servers look at our certificate.
pub fn alert(error: &io::Error) -> Option<String> {
    let error: &ssl::Error = error.get_ref()?.downcast_ref()?;
    let reasons = reasons(error.ssl_error()?);
    (!reasons.is_empty()).then(|| format!("TLS failed: {reasons}"))
}

fn connector(settings: &Settings) -> Result<SslConnector, Error> {
    let mut builder =
        SslConnector::builder(SslMethod::tls_client()).map_err(|error| unusable("TLS", &error))?;
    builder
        .set_min_proto_version(Some(SslVersion::TLS1_2))
        .map_err(|error| unusable("TLS", &error))?;
    // A write would have to wait for a read.
    builder.set_options(SslOptions::NO_RENEGOTIATION);
    trust(&mut builder, &settings.trust)?;
    if let Some(certificate) = &settings.certificate {
        show(&mut builder, certificate)?;
    }
    Ok(builder.build())
}

/// Trusts these authorities and no others.
fn trust(builder: &mut SslConnectorBuilder, trust: &Trust) -> Result<(), Error> {
    let none = X509StoreBuilder::new().map_err(|error| unusable("TLS", &error))?.build();
    builder.set_cert_store(none);
    match trust {
        Trust::File(file) => {
            let problem = |error| unusable(&in_file("authorities", file), &error);
            builder.set_ca_file(file).map_err(problem)?;
        }
        Trust::Fingerprint(fingerprint) => {
            let fingerprint = *fingerprint;
            builder.set_verify_callback(SslVerifyMode::PEER, move |is_good, chain| {
                is_good || is_trusted_root(chain, &fingerprint)
            });
        }
    }
    Ok(())
}

/// Whether all that is wrong with a chain is that nobody has told OpenSSL of its root, which is the
/// one that is trusted. Whether the root has signed the rest is looked at by OpenSSL afterwards.
fn is_trusted_root(chain: &mut X509StoreContextRef, fingerprint: &Fingerprint) -> bool {
    let is_unknown = SELF_SIGNED.contains(&chain.error().as_raw());
    let digest = chain.current_cert().and_then(|root| root.digest(MessageDigest::sha256()).ok());
    let is_trusted = is_unknown && digest.is_some_and(|digest| *digest == *fingerprint);
    if is_trusted {
        chain.set_error(X509VerifyResult::OK);
    }
    is_trusted
}

fn show(builder: &mut SslConnectorBuilder, certificate: &Certificate) -> Result<(), Error> {
    let key_pem = secret::read(&certificate.key_file).map_err(Error::Secret)?;
    let password = match &certificate.key_password_file {
        Some(file) => secret::read(file).map_err(Error::Secret)?,
        None => String::new(),
    };
    builder
        .set_certificate_chain_file(&certificate.file)
        .map_err(|error| unusable(&in_file("certificate", &certificate.file), &error))?;
    // With a password it is not asked for on the terminal, not even an empty one.
    PKey::private_key_from_pem_passphrase(key_pem.as_bytes(), password.as_bytes())
        .and_then(|key| builder.set_private_key(&key))
        .and_then(|()| builder.check_private_key())
        .map_err(|error| unusable(&in_file("key", &certificate.key_file), &error))
}

fn in_file(what: &str, file: &Path) -> String {
    format!("{what} {}", file.display())
}

fn unusable(what: &str, errors: &ErrorStack) -> Error {
    Error::Unusable(format!("cannot use {what}: {}", reasons(errors)))
}

/// Returns what the system said, where an error is that and OpenSSL kept its number alone.
pub fn of_system(error: &io::Error) -> Option<io::Error> {
    let error: &ssl::Error = error.get_ref()?.downcast_ref()?;
    let mut codes = error.ssl_error()?.errors().iter().map(|error| error.code());
    let code = codes.rfind(|code| code & SYSTEM_FLAG > 0)?;
    Some(io::Error::from_raw_os_error((code & !SYSTEM_FLAG) as i32))
}

fn reasons(errors: &ErrorStack) -> String {
    let reasons: Vec<&str> = errors.errors().iter().filter_map(|error| error.reason()).collect();
    reasons.join(", ")
}
