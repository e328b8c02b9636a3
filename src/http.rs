//! HTTP to servers that are asked without redirects or proxies, over TLS of our own where it is
//! `https`.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use openssl::ssl::SslStream;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, TcpConnector,
    Transport, TransportAdapter,
};
use ureq::{Agent, Error};

use crate::tls::{self, Settings, Trust};

/// How long a question may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From its beginning to the end of the answer.
    pub all: Duration,
    /// To connect, TLS included.
    pub connect: Duration,
}

/// Returns what asks servers. `tls` is needed for `https://` alone; without it such a server cannot be
/// asked.
///
/// An answer is an answer whatever its status, redirects are not followed, and the proxies of the
/// environment are not used.
pub fn agent(timeouts: Timeouts, tls: Option<Settings>) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("log-shipper/", env!("CARGO_PKG_VERSION")))
        .timeout_global(Some(timeouts.all))
        .timeout_connect(Some(timeouts.connect.min(timeouts.all)));
    let connector = ().chain(TcpConnector::default()).chain(TlsConnector { settings: tls });
    Agent::with_parts(config.build(), connector, DefaultResolver::default())
}

/// Says what went wrong in words for a log.
pub fn words(error: &Error) -> String {
    match error {
        Error::Io(source) => tls::alert(source).unwrap_or_else(|| source.to_string()),
        error => error.to_string(),
    }
}

#[derive(Debug)]
struct TlsConnector {
    settings: Option<Settings>,
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let Some(transport) = chained else {
            return Ok(None);
        };
        if !details.needs_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let settings = self.settings.as_ref().ok_or(Error::TlsRequired)?;
        let host = details.uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let mut stream = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        stream.set_timeout(details.timeout);
        let stream = tls::connect(stream, host, settings).map_err(|error| match error {
            tls::Error::Io(source) => source.into(),
            tls::Error::Certificate(_) if matches!(settings.trust, Trust::Fingerprint(_)) => {
                let hint = "; it must come with its authority's, which has the fingerprint";
                io::Error::other(format!("{error}{hint}")).into()
            }
            error => Error::Io(io::Error::other(error.to_string())),
        })?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Either::B(TlsTransport { buffers, stream })))
    }
}

/// What HTTP goes over where it is `https`.
struct TlsTransport {
    buffers: LazyBuffers,
    stream: SslStream<TransportAdapter>,
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.get_mut().set_timeout(timeout);
        let output = &self.buffers.output()[..amount];
        self.stream.write_all(output).map_err(|error| {
            // It may have said why before it closed.
            let why = self.stream.read(&mut [0]).err().filter(|why| tls::alert(why).is_some());
            closed(why.unwrap_or(error))
        })
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.get_mut().set_timeout(timeout);
        let n_read = self.stream.read(self.buffers.input_append_buf()).map_err(closed)?;
        self.buffers.input_appended(n_read);
        Ok(n_read > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

/// A server that closes without a farewell has closed all the same: how long a message is, HTTP says.
fn closed(error: io::Error) -> Error {
    let is_farewell_missing =
        tls::alert(&error).is_some_and(|reason| reason.contains("unexpected eof"));
    match is_farewell_missing {
        true => Error::Io(io::ErrorKind::UnexpectedEof.into()),
        false => tls::of_system(&error).unwrap_or(error).into(),
    }
}
