//! One connection to a broker: handshake, framing, requests in flight.
//!
//! It is opened by a short-lived thread that may block, on a name server that hangs or a broker
//! that does not answer, and then given to the loop, from where on it never blocks.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::ssl::SslStream;

use super::messages::{self, Api, Head, Versions};
use super::record_batch::EncodedBatch;
use super::sasl::Exchange;
use super::verdict::named;
use super::{Error, tls};
use crate::config::KafkaConfig;

/// How long one address may take to accept: three times the kernel asks, after 0, 1 and 3 seconds.
/// It would ask less and less often, and so find a broker that is back seconds later than we do who
/// begin anew.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// How long the other side's kernel may leave unacknowledged what was sent. The path is dead then,
/// or so bad that a new connection is better: the kernel would try again less and less often. A
/// broker that is only slow acknowledges all the same. Source: TCP_USER_TIMEOUT in tcp(7).
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which the kernel asks whether the other side still lives, and between questions.
/// Together with [`KEEPALIVE_COUNT`] a dead idle connection is noticed within a minute.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Questions without an answer after which the connection is dead.
const KEEPALIVE_COUNT: u32 = 3;
/// An answer that claims to be longer is none: Metadata of 100,000 partitions takes some 5 MB.
const ANSWER_LEN_MAX: usize = 64 * 1024 * 1024;
/// How a TLS record begins that says what is wrong: what a TLS listener makes of a request.
/// Source: RFC 8446, section 5.1 and appendix B.1.
const TLS_ALERT: [u8; 2] = [21, 3];
/// What is read at once; answers to Produce take about a hundred bytes. Not less than a TLS record
/// holds, or its rest would wait in OpenSSL, where poll() does not see it.
const READ_LEN: usize = 16 * 1024;
/// Part of a session's lifetime after which a new one begins.
/// Source: KIP-368, whose clients do so after 85 to 95 %.
const SESSION_PART: f64 = 0.85;
/// Pieces given to the kernel at once.
const WRITE_PIECES_MAX: usize = 16;

/// The bytes' way to the broker.
#[derive(Debug)]
pub(super) enum Transport {
    /// TCP as it is.
    Plain(TcpStream),
    /// TLS over it.
    Tls(Box<SslStream<TcpStream>>),
}

impl Transport {
    fn connect(address: SocketAddr, host: &str, config: &KafkaConfig) -> Result<Transport, Error> {
        let timeout = config.request_timeout;
        let stream = connect_tcp(address, timeout).map_err(Error::Connect)?;
        match config.security_protocol.has_tls() {
            true => tls::connect(stream, host, config).map(|tls| Transport::Tls(Box::new(tls))),
            false => Ok(Transport::Plain(stream)),
        }
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Transport::Plain(stream) => stream,
            Transport::Tls(stream) => stream.get_ref(),
        }
    }
}

fn connect_tcp(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, timeout.min(CONNECT_TIMEOUT))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(&stream, KEEPALIVE_INTERVAL)?;
    rustix::net::sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL)?;
    rustix::net::sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_COUNT)?;
    rustix::net::sockopt::set_tcp_user_timeout(&stream, ACKNOWLEDGE_TIMEOUT.as_millis() as u32)?;
    Ok(stream)
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp().as_fd()
    }
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(stream) => stream.read(buffer),
            Transport::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(stream) => stream.write(bytes),
            Transport::Tls(stream) => stream.write(bytes),
        }
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Transport::Plain(stream) => stream.write_vectored(pieces),
            Transport::Tls(stream) => stream.write_vectored(pieces),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection after the handshake, before it belongs to the loop.
#[derive(Debug)]
pub(super) struct Opened {
    transport: Transport,
    versions: Versions,
    /// When the broker wants to hear again who we are.
    expires_at: Option<Instant>,
}

/// Connects to `address`, `host:port`, trying all addresses of the name, asks what the broker can
/// do and tells it who we are. Blocks, up to `request_timeout` for each step.
///
/// Errors: what went wrong with the last address tried.
pub(super) fn open(address: &str, config: &KafkaConfig) -> Result<Opened, Error> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_matches(['[', ']']);
    let mut error = Error::Resolve(io::ErrorKind::NotFound.into());
    for address in address.to_socket_addrs().map_err(Error::Resolve)? {
        match open_address(address, host, config) {
            Ok(opened) => return Ok(opened),
            Err(failed) => error = failed,
        }
    }
    Err(error)
}

fn open_address(address: SocketAddr, host: &str, config: &KafkaConfig) -> Result<Opened, Error> {
    let mut transport = Transport::connect(address, host, config)?;
    let client_id = &config.client_id;
    let newest = *Api::ApiVersions.versions().end();
    let versions = match handshake(&mut transport, newest, client_id) {
        // It does not know how to refuse a version but by hanging up.
        Err(Error::Closed) => {
            transport = Transport::connect(address, host, config)?;
            handshake(&mut transport, 0, client_id).map_err(|error| match error {
                Error::Closed => Error::ClosedAtOnce(config.security_protocol),
                error => error,
            })?
        }
        versions => versions?,
    };
    for (api, name) in [
        (Api::Produce, "Produce"),
        (Api::Metadata, "Metadata"),
        (Api::InitProducerId, "InitProducerId"),
    ] {
        if versions.newest(api).is_none() {
            return Err(Error::NoCommonVersion(name));
        }
    }
    let expires_at = match config.security_protocol.has_sasl() {
        true => authenticate(&mut transport, &versions, config)?,
        false => None,
    };
    transport.tcp().set_nonblocking(true).map_err(Error::Connection)?;
    Ok(Opened { transport, versions, expires_at })
}

/// Asks with `version` and, if the broker does not know it, with version 0, which all know.
fn handshake(transport: &mut Transport, version: i16, client_id: &str) -> Result<Versions, Error> {
    let mut answer = ask_versions(transport, version, client_id)?;
    if answer == Err(35) && version > 0 {
        answer = ask_versions(transport, 0, client_id)?;
    }
    answer.map_err(Error::Refused)
}

fn ask_versions(
    transport: &mut Transport,
    version: i16,
    client_id: &str,
) -> Result<Result<Versions, i16>, Error> {
    let head = Head { version, correlation_id: 0, client_id };
    let answer = exchange(transport, &messages::api_versions_request(head), "ApiVersions answer")?;
    messages::api_versions_answer(version, &answer)
}

/// Tells the broker who we are; returns when it wants to hear it again.
///
/// Source: KIP-43, KIP-152; the lifetime, and that clients renew it before it ends, KIP-368.
fn authenticate(
    transport: &mut Transport,
    versions: &Versions,
    config: &KafkaConfig,
) -> Result<Option<Instant>, Error> {
    let mechanism = config.sasl_mechanism.expect("seen to by the configuration");
    let version_of = |api, name| versions.newest(api).ok_or(Error::NoCommonVersion(name));
    let head = |version| Head { version, correlation_id: 0, client_id: &config.client_id };

    let request_head = head(version_of(Api::SaslHandshake, "SaslHandshake")?);
    let request = messages::sasl_handshake_request(request_head, mechanism.name());
    let answer = exchange(transport, &request, "SaslHandshake answer")?;
    let (code, mechanisms) = messages::sasl_handshake_answer(&answer)?;
    if code != 0 {
        return Err(Error::Sasl(match mechanisms.is_empty() {
            true => format!("the listener wants none: {}", named(code)),
            false => format!(
                "the listener does not know {}, but {}",
                mechanism.name(),
                mechanisms.join(", ")
            ),
        }));
    }

    let version = version_of(Api::SaslAuthenticate, "SaslAuthenticate")?;
    let mut exchanged = Exchange::begin(config, mechanism)?;
    let mut message = exchanged.first();
    loop {
        let request = messages::sasl_authenticate_request(head(version), &message);
        let answer = exchange(transport, &request, "SaslAuthenticate answer")?;
        let answer = messages::sasl_authenticate_answer(version, &answer)?;
        if answer.code != 0 {
            exchanged.is_refused();
            let problem = answer.problem.map_or_else(|| named(answer.code), str::to_owned);
            return Err(Error::Sasl(problem));
        }
        match exchanged.next(answer.message)? {
            Some(next) => message = next,
            None => return Ok(expires_at(answer.session_lifetime_ms)),
        }
    }
}

fn expires_at(session_lifetime_ms: i64) -> Option<Instant> {
    let lifetime = u64::try_from(session_lifetime_ms).ok().filter(|ms| *ms > 0)?;
    Some(Instant::now() + Duration::from_millis(lifetime).mul_f64(SESSION_PART))
}

/// Sends a request, while the connection still blocks, and returns the answer behind its head.
fn exchange(
    transport: &mut Transport,
    request: &[u8],
    what: &'static str,
) -> Result<Vec<u8>, Error> {
    transport.write_all(request).map_err(lost)?;
    let mut len = [0; 4];
    transport.read_exact(&mut len).map_err(lost)?;
    if len[..2] == TLS_ALERT {
        let problem =
            "the listener speaks TLS: set kafka.security_protocol to \"SSL\" or \"SASL_SSL\"";
        return Err(Error::Tls(problem.to_owned()));
    }
    let len = u32::from_be_bytes(len) as usize;
    if !(4..=ANSWER_LEN_MAX).contains(&len) {
        return Err(Error::Undecodable(what));
    }
    let mut answer = Vec::new();
    let n_read = transport.take(len as u64).read_to_end(&mut answer).map_err(lost)?;
    if n_read < len {
        return Err(Error::Closed);
    }
    Ok(answer.split_off(4))
}

/// Tells a broker that hung up from a connection that broke, and both from one that is silent.
pub(super) fn lost(error: io::Error) -> Error {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match error.kind() {
        UnexpectedEof | ConnectionReset | BrokenPipe => Error::Closed,
        io::ErrorKind::WouldBlock => Error::Connection(io::ErrorKind::TimedOut.into()),
        _ => crate::tls::alert(&error).map_or(Error::Connection(error), Error::Tls),
    }
}

/// A connection of the loop; `T` is what the loop wants to know when a request is answered.
#[derive(Debug)]
pub(super) struct Connection<T> {
    transport: Transport,
    versions: Versions,
    /// What is still to be written, and how much of its first piece is.
    out: VecDeque<Piece>,
    out_written: usize,
    /// What has been read and is not yet a whole answer.
    input: Vec<u8>,
    /// In the order in which the broker answers.
    pending: VecDeque<Pending<T>>,
    next_correlation_id: i32,
    throttled_until: Option<Instant>,
    /// From when on nothing new may be sent, for another connection is to be made.
    expires_at: Option<Instant>,
    /// When something was last written or answered.
    last_progress: Instant,
}

/// Bytes to be written.
#[derive(Debug)]
pub(super) enum Piece {
    /// Of the request itself.
    Frame(Vec<u8>),
    /// A batch, which its partition keeps for a resend.
    Batch(Arc<EncodedBatch>),
}

impl Piece {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Piece::Frame(bytes) => bytes,
            Piece::Batch(batch) => batch.as_bytes(),
        }
    }
}

#[derive(Debug)]
struct Pending<T> {
    correlation_id: i32,
    version: i16,
    sent_at: Instant,
    what: T,
}

/// An answer and what it answers.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub(super) what: T,
    pub(super) version: i16,
    pub(super) body: Vec<u8>,
}

impl<T> Connection<T> {
    pub(super) fn new(opened: Opened, now: Instant) -> Connection<T> {
        Connection {
            transport: opened.transport,
            versions: opened.versions,
            expires_at: opened.expires_at,
            out: VecDeque::new(),
            out_written: 0,
            input: Vec::new(),
            pending: VecDeque::new(),
            next_correlation_id: 1,
            throttled_until: None,
            last_progress: now,
        }
    }

    /// The newest version of `api` that both sides know.
    pub(super) fn version(&self, api: Api) -> i16 {
        let newest = self.versions.newest(api);
        newest.expect("open refuses brokers without a common version")
    }

    /// As [`Connection::version`] of a request that not every broker knows.
    pub(super) fn version_if_known(&self, api: Api) -> Option<i16> {
        self.versions.newest(api)
    }

    /// Requests not yet answered.
    pub(super) fn n_pending(&self) -> usize {
        self.pending.len()
    }

    /// What they were for.
    pub(super) fn pending(&self) -> impl Iterator<Item = &T> {
        self.pending.iter().map(|pending| &pending.what)
    }

    /// Until when nothing may be sent, if it is not over.
    pub(super) fn throttled_until(&self, now: Instant) -> Option<Instant> {
        self.throttled_until.filter(|until| *until > now)
    }

    /// When the broker wants to hear again who we are, if ever.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        self.expires_at
    }

    /// Whether it has come to that: nothing may be sent any more.
    pub(super) fn has_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|time| time <= now)
    }

    /// Sends nothing for a while, as an answer asked for.
    pub(super) fn throttle(&mut self, time_ms: i32, now: Instant) {
        if let Ok(time_ms @ 1..) = u64::try_from(time_ms) {
            let until = now + Duration::from_millis(time_ms);
            self.throttled_until = Some(self.throttled_until.map_or(until, |t| t.max(until)));
        }
    }

    /// Queues a request, which `request` writes with the head it is given.
    pub(super) fn send(
        &mut self,
        version: i16,
        client_id: &str,
        what: T,
        now: Instant,
        request: impl FnOnce(Head<'_>, &mut VecDeque<Piece>),
    ) {
        let head = Head { version, correlation_id: self.next_correlation_id, client_id };
        self.next_correlation_id = self.next_correlation_id.checked_add(1).unwrap_or(0);
        self.pending.push_back(Pending {
            correlation_id: head.correlation_id,
            version: head.version,
            sent_at: now,
            what,
        });
        request(head, &mut self.out);
    }

    /// Whether something is left to be written.
    pub(super) fn wants_to_write(&self) -> bool {
        !self.out.is_empty()
    }

    /// Writes as much as the socket takes.
    pub(super) fn write(&mut self, now: Instant) -> Result<(), Error> {
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITE_PIECES_MAX];
            let mut n_slices = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.out) {
                let written = if n_slices == 0 { self.out_written } else { 0 };
                *slice = IoSlice::new(&piece.as_bytes()[written..]);
                n_slices += 1;
            }
            match self.transport.write_vectored(&slices[..n_slices]) {
                Ok(n_written) => {
                    self.last_progress = now;
                    self.advance(n_written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(lost(error)),
            }
        }
        Ok(())
    }

    fn advance(&mut self, n_written: usize) {
        self.out_written += n_written;
        while let Some(piece) = self.out.front() {
            let len = piece.as_bytes().len();
            if self.out_written < len {
                break;
            }
            self.out_written -= len;
            self.out.pop_front();
        }
    }

    /// Reads what has come and passes on the answers that are whole.
    ///
    /// Errors: `Closed`, also if answers came before it; an answer to something else than the
    /// oldest request. Answers before the error are passed on.
    pub(super) fn read(&mut self, now: Instant, answers: &mut Vec<Answer<T>>) -> Result<(), Error> {
        loop {
            let len = self.input.len();
            self.input.resize(len + READ_LEN, 0);
            let read = self.transport.read(&mut self.input[len..]);
            self.input.truncate(len + read.as_ref().copied().unwrap_or(0));
            match read {
                Ok(0) => return Err(Error::Closed),
                Ok(n_read) => {
                    self.last_progress = now;
                    self.take_answers(answers)?;
                    if n_read < READ_LEN {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(lost(error)),
            }
        }
    }

    fn take_answers(&mut self, answers: &mut Vec<Answer<T>>) -> Result<(), Error> {
        let mut taken = 0;
        while let Some((len, rest)) = self.input[taken..].split_first_chunk::<4>() {
            let len = u32::from_be_bytes(*len) as usize;
            if !(4..=ANSWER_LEN_MAX).contains(&len) {
                return Err(Error::Undecodable("answer's length"));
            }
            let Some((id, body)) = rest.get(..len).and_then(<[u8]>::split_first_chunk::<4>) else {
                break;
            };
            let expected = self.pending.front().map(|pending| pending.correlation_id);
            if expected != Some(i32::from_be_bytes(*id)) {
                return Err(Error::Undecodable("answer's correlation id"));
            }
            let pending = self.pending.pop_front().expect("it has a correlation id");
            answers.push(Answer {
                what: pending.what,
                version: pending.version,
                body: body.to_vec(),
            });
            taken += 4 + len;
        }
        self.input.drain(..taken);
        Ok(())
    }

    /// When the oldest request has waited for too long: `timeout` after it was sent, but not
    /// while there is progress, for five large requests may take long on a slow line, nor while
    /// the broker throttles us.
    pub(super) fn times_out_at(&self, timeout: Duration) -> Option<Instant> {
        let since = self.pending.front()?.sent_at.max(self.last_progress);
        let since = self.throttled_until.map_or(since, |t| t.max(since));
        Some(since + timeout)
    }

    /// Gives up the connection and returns what was not answered.
    pub(super) fn into_pending(self) -> impl Iterator<Item = T> {
        self.pending.into_iter().map(|pending| pending.what)
    }
}

impl<T> AsFd for Connection<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::mutations;
    use super::*;

    /// Returns a connection with three requests open.
    fn connection(listener: &TcpListener) -> Connection<usize> {
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("accepted");
        let transport = Transport::Plain(stream);
        let opened = Opened { transport, versions: Versions::default(), expires_at: None };
        let mut connection = Connection::new(opened, Instant::now());
        for n in 0..3 {
            connection.send(0, "shipper", n, Instant::now(), |_, _| {});
        }
        connection
    }

    fn answers() -> Vec<u8> {
        let answer = |id: u8, body: &[u8]| {
            [&[0, 0, 0, 4 + body.len() as u8, 0, 0, 0, id][..], body].concat()
        };
        [answer(1, b"one"), answer(2, b""), answer(3, &[3; 40])].concat()
    }

    #[test]
    fn answers_are_cut_out_of_what_comes_however_it_is_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let bytes = answers();
        for cut in 0..=bytes.len() {
            let mut connection = connection(&listener);
            let mut taken = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                connection.input.extend_from_slice(part);
                connection.take_answers(&mut taken).expect("well formed");
            }
            let bodies: Vec<_> = taken.iter().map(|answer| (answer.what, &*answer.body)).collect();
            assert_eq!(bodies, [(0, &b"one"[..]), (1, b""), (2, &[3; 40])]);
            assert!(connection.input.is_empty() && connection.pending.is_empty());
        }
    }

    #[test]
    fn no_bytes_of_a_broker_are_taken_for_an_answer_that_nobody_waits_for() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut connection = connection(&listener);
        mutations::each(&answers(), 5000, |bytes| {
            connection.input = bytes.to_vec();
            connection.pending.clear();
            for n in 0..3 {
                let (correlation_id, sent_at) = (n as i32 + 1, Instant::now());
                connection.pending.push_back(Pending {
                    correlation_id,
                    version: 0,
                    sent_at,
                    what: n,
                });
            }
            let mut taken = Vec::new();
            let result = connection.take_answers(&mut taken);
            let order: Vec<usize> = taken.iter().map(|answer| answer.what).collect();
            assert_eq!(order, (0..taken.len()).collect::<Vec<_>>());
            let n_bytes: usize = taken.iter().map(|answer| 8 + answer.body.len()).sum();
            match result {
                Ok(()) => assert_eq!(connection.input, bytes[n_bytes..]),
                Err(error) => assert!(matches!(error, Error::Undecodable(_)), "{error}"),
            }
        });
    }
}
