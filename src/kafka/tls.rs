//! TLS to a broker.

use std::io;
use std::net::TcpStream;

use openssl::ssl::SslStream;

use super::Error;
use super::connection::lost;
use crate::config::{EndpointIdentification, KafkaConfig};
use crate::tls::{self, Certificate, Settings, Trust};

/// Shakes hands with the broker that is reached by the name `host`. Blocks as long as `stream` does.
///
/// Errors: `Tls` names the file that will not do, or what is wrong with the broker's certificate;
/// `Secret`; `ClosedAtOnce`; `Connection`.
pub(super) fn connect(
    stream: TcpStream,
    host: &str,
    config: &KafkaConfig,
) -> Result<SslStream<TcpStream>, Error> {
    let at_once = || Error::ClosedAtOnce(config.security_protocol);
    let connected = settings(config).and_then(|settings| tls::connect(stream, host, &settings));
    connected.map_err(|error| match error {
        tls::Error::Secret(source) => Error::Secret(source),
        tls::Error::Unusable(problem) => Error::Tls(problem),
        tls::Error::Certificate(reason) => {
            Error::Tls(format!("the broker's certificate will not do: {reason}"))
        }
        tls::Error::NoTls => Error::Tls("the listener does not speak TLS".to_owned()),
        tls::Error::Failed(reason) => Error::Tls(format!("TLS failed: {reason}")),
        tls::Error::Closed => at_once(),
        tls::Error::Io(source) if source.kind() == io::ErrorKind::TimedOut => {
            Error::Connection(source)
        }
        tls::Error::Io(source) => match lost(source) {
            Error::Closed => at_once(),
            error => error,
        },
    })
}

fn settings(config: &KafkaConfig) -> Result<Settings, tls::Error> {
    let certificate = Certificate::of(
        config.ssl_certificate_file.as_ref(),
        config.ssl_key_file.as_ref(),
        config.ssl_key_password_file.as_ref(),
    );
    let by_name = config.ssl_endpoint_identification_algorithm == EndpointIdentification::Https;
    let trust = Trust::file_or_system(config.ssl_ca_file.as_deref(), "kafka.ssl_ca_file")?;
    Ok(Settings { trust, certificate, by_name })
}
