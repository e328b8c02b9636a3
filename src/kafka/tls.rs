//! TLS to a broker, through the OpenSSL that librdkafka brings.
//!
//! Each connection reads the files of authorities, certificate and key anew: what was rotated is
//! taken up by the next one.

use std::io;
use std::net::TcpStream;
use std::path::Path;

use openssl::error::ErrorStack;
use openssl::pkey::PKey;
use openssl::ssl::{
    self, HandshakeError, SslConnector, SslConnectorBuilder, SslMethod, SslOptions, SslStream,
    SslVersion,
};
use openssl::x509::X509VerifyResult;
use openssl::x509::store::X509StoreBuilder;

use super::Error;
use super::connection::lost;
use crate::config::{EndpointIdentification, KafkaConfig};
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

/// Shakes hands with the broker that is reached by the name `host`. Blocks as long as `stream` does.
///
/// Errors: `Tls` names the file that will not do, or what is wrong with the broker's certificate;
/// `Secret`; `ClosedAtOnce`; `Connection`.
pub(super) fn connect(
    stream: TcpStream,
    host: &str,
    config: &KafkaConfig,
) -> Result<SslStream<TcpStream>, Error> {
    let by_name = config.ssl_endpoint_identification_algorithm == EndpointIdentification::Https;
    let connector = connector(config)?;
    let configuration = connector.configure().map_err(|error| unusable("TLS", &error))?;
    configuration.verify_hostname(by_name).connect(host, stream).map_err(|error| match error {
        HandshakeError::SetupFailure(error) => unusable("TLS", &error),
        HandshakeError::WouldBlock(_) => Error::Connection(io::ErrorKind::TimedOut.into()),
        HandshakeError::Failure(handshake) => {
            let verified = handshake.ssl().verify_result();
            if verified != X509VerifyResult::OK {
                let reason = verified.error_string();
                return Error::Tls(format!("the broker's certificate will not do: {reason}"));
            }
            let error = handshake.into_error();
            match error.ssl_error().map(reasons) {
                // The broker answered with something that is no TLS.
                Some(reason) if reason.contains(NO_TLS) => {
                    Error::Tls("the listener does not speak TLS".to_owned())
                }
                Some(reason) => Error::Tls(format!("TLS failed: {reason}")),
                None => match error.into_io_error().map_or(Error::Closed, lost) {
                    Error::Closed => Error::ClosedAtOnce(config.security_protocol),
                    error => error,
                },
            }
        }
    })
}

/// Returns what the other side says is wrong, where an error is that: after the handshake too, for
/// there brokers look at our certificate.
pub(super) fn alert(error: &io::Error) -> Option<String> {
    let error: &ssl::Error = error.get_ref()?.downcast_ref()?;
    Some(format!("TLS failed: {}", reasons(error.ssl_error()?)))
}

/// Returns the file of the authorities to trust: those of the system, if it has any, where no
/// others are named.
pub(super) fn ca_file(config: &KafkaConfig) -> Option<&Path> {
    let of_system = || SYSTEM_CA_FILES.iter().map(Path::new).find(|path| path.exists());
    config.ssl_ca_file.as_deref().or_else(of_system)
}

fn connector(config: &KafkaConfig) -> Result<SslConnector, Error> {
    let mut builder =
        SslConnector::builder(SslMethod::tls_client()).map_err(|error| unusable("TLS", &error))?;
    builder
        .set_min_proto_version(Some(SslVersion::TLS1_2))
        .map_err(|error| unusable("TLS", &error))?;
    // A write would have to wait for a read.
    builder.set_options(SslOptions::NO_RENEGOTIATION);
    trust(&mut builder, ca_file(config))?;
    if let (Some(certificate), Some(key)) = (&config.ssl_certificate_file, &config.ssl_key_file) {
        let key_pem = secret::read(key).map_err(Error::Secret)?;
        let password = match &config.ssl_key_password_file {
            Some(file) => secret::read(file).map_err(Error::Secret)?,
            None => String::new(),
        };
        builder
            .set_certificate_chain_file(certificate)
            .map_err(|error| unusable(&in_file("certificate", certificate), &error))?;
        // With a password it is not asked for on the terminal, not even an empty one.
        PKey::private_key_from_pem_passphrase(key_pem.as_bytes(), password.as_bytes())
            .and_then(|key| builder.set_private_key(&key))
            .and_then(|()| builder.check_private_key())
            .map_err(|error| unusable(&in_file("key", key), &error))?;
    }
    Ok(builder.build())
}

/// Trusts these authorities and no others.
fn trust(builder: &mut SslConnectorBuilder, ca_file: Option<&Path>) -> Result<(), Error> {
    let Some(file) = ca_file else {
        let problem = "this system has no file of authorities; set kafka.ssl_ca_file";
        return Err(Error::Tls(problem.to_owned()));
    };
    let none = X509StoreBuilder::new().map_err(|error| unusable("TLS", &error))?.build();
    builder.set_cert_store(none);
    builder.set_ca_file(file).map_err(|error| unusable(&in_file("authorities", file), &error))
}

fn in_file(what: &str, file: &Path) -> String {
    format!("{what} {}", file.display())
}

fn unusable(what: &str, errors: &ErrorStack) -> Error {
    Error::Tls(format!("cannot use {what}: {}", reasons(errors)))
}

fn reasons(errors: &ErrorStack) -> String {
    let reasons: Vec<&str> = errors.errors().iter().filter_map(|error| error.reason()).collect();
    reasons.join(", ")
}
