//! SASL: how a broker learns who we are, before it answers anything else.
//!
//! `PLAIN` (RFC 4616) and `OAUTHBEARER` (RFC 7628) are one message; `SCRAM` (RFC 5802, RFC 7677) is
//! two, and proves in turn that the broker knows the password, too.

use openssl::hash::{MessageDigest, hash};
use openssl::memcmp;
use openssl::pkcs5::pbkdf2_hmac;
use openssl::pkey::PKey;
use openssl::rand::rand_bytes;
use openssl::sign::Signer;
use openssl::{base64, error::ErrorStack};

use super::Error;
use super::token::{Token, TokenSource};
use crate::config::{KafkaConfig, SaslMechanism};
use crate::secret;

/// Iterations that are taken on. Fewer would let whoever plays the broker try out passwords, more
/// are no broker's wish.
/// Source: RFC 7677, section 4; Kafka's `ScramMechanism` has the same minimum.
const ITERATIONS: std::ops::RangeInclusive<usize> = 4096..=10_000_000;
/// Bytes of our part of the nonce.
const NONCE_LEN: usize = 24;

/// What is said, from our side.
pub(super) enum Exchange {
    /// A user and a password.
    Plain(Vec<u8>),
    /// A token.
    Bearer {
        token: Token,
        source: TokenSource,
        /// The broker has said why it will not do, and waits for our leave to end.
        is_refused: bool,
    },
    /// A proof that goes both ways.
    Scram(Box<Scram>),
}

impl Exchange {
    /// Begins with the secret as it is now.
    ///
    /// Errors: `Secret`, `Token`, `Tls` where OpenSSL has no random numbers.
    pub(super) fn begin(config: &KafkaConfig, mechanism: SaslMechanism) -> Result<Exchange, Error> {
        let read = |file: &Option<_>| {
            let file: &std::path::PathBuf = file.as_ref().expect("seen to by the configuration");
            secret::read(file).map_err(Error::Secret)
        };
        let user = config.sasl_username.as_deref().unwrap_or_default();
        Ok(match mechanism {
            SaslMechanism::Plain => {
                let password = read(&config.sasl_password_file)?;
                Exchange::Plain(format!("\0{user}\0{password}").into_bytes())
            }
            SaslMechanism::OAuthBearer => {
                let source = TokenSource::of(config).expect("seen to by the configuration");
                Exchange::Bearer { token: source.token()?, source, is_refused: false }
            }
            SaslMechanism::ScramSha256 | SaslMechanism::ScramSha512 => {
                let digest = match mechanism {
                    SaslMechanism::ScramSha256 => MessageDigest::sha256(),
                    _ => MessageDigest::sha512(),
                };
                let mut nonce = [0; NONCE_LEN];
                rand_bytes(&mut nonce).map_err(no_crypto)?;
                let password = read(&config.sasl_password_file)?;
                let scram = Scram::new(digest, user, password, base64::encode_block(&nonce));
                Exchange::Scram(Box::new(scram))
            }
        })
    }

    /// Returns the first message.
    pub(super) fn first(&self) -> Vec<u8> {
        match self {
            Exchange::Plain(message) => message.clone(),
            Exchange::Bearer { token, .. } => {
                format!("n,,\x01auth=Bearer {}\x01\x01", token.text()).into_bytes()
            }
            Exchange::Scram(scram) => format!("n,,{}", scram.first_bare).into_bytes(),
        }
    }

    /// The broker has ended it with an error.
    pub(super) fn is_refused(&self) {
        if let Exchange::Bearer { token, source, .. } = self {
            source.is_refused(token);
        }
    }

    /// Takes what the broker says to the last message; `None` once all is said.
    ///
    /// Errors: `Sasl`.
    pub(super) fn next(&mut self, answer: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self {
            Exchange::Plain(_) => Ok(None),
            Exchange::Bearer { .. } if answer.is_empty() => Ok(None),
            // Source: RFC 7628, section 3.2.3.
            Exchange::Bearer { token, source, is_refused } => {
                match std::mem::replace(is_refused, true) {
                    false => {
                        source.is_refused(token);
                        Ok(Some(b"\x01".to_vec()))
                    }
                    true => Err(broken("it goes on after it has refused the token")),
                }
            }
            Exchange::Scram(scram) => scram.next(answer),
        }
    }
}

/// The client's side of SCRAM.
pub(super) struct Scram {
    digest: MessageDigest,
    password: String,
    nonce: String,
    /// The first message without what stands before it for channel binding.
    first_bare: String,
    /// What the broker must sign with, once it is known.
    server_signature: Option<Vec<u8>>,
}

impl Scram {
    fn new(digest: MessageDigest, user: &str, password: String, nonce: String) -> Scram {
        let user = user.replace('=', "=3D").replace(',', "=2C");
        let first_bare = format!("n={user},r={nonce}");
        Scram { digest, password, nonce, first_bare, server_signature: None }
    }

    fn next(&mut self, answer: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let answer = std::str::from_utf8(answer).map_err(|_| broken("it is not UTF-8"))?;
        match self.server_signature.take() {
            None => self.last_message(answer).map(Some),
            Some(signature) => check_signature(answer, &signature).map(|()| None),
        }
    }

    /// Proves the knowledge of the password.
    fn last_message(&mut self, first_answer: &str) -> Result<Vec<u8>, Error> {
        let nonce = attribute(first_answer, 'r')?;
        let salt = base64::decode_block(attribute(first_answer, 's')?)
            .map_err(|_| broken("its salt is not Base64"))?;
        let iterations: Result<usize, _> = attribute(first_answer, 'i')?.parse();
        let iterations = iterations.map_err(|_| broken("its number of iterations is none"))?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(broken("its nonce is not ours"));
        }
        if !ITERATIONS.contains(&iterations) {
            let (min, max) = ITERATIONS.into_inner();
            let problem = format!("it wants {iterations} iterations, not between {min} and {max}");
            return Err(broken(&problem));
        }
        // "biws" is "n,,", that there is no channel binding.
        let without_proof = format!("c=biws,r={nonce}");
        let signed = format!("{},{first_answer},{without_proof}", self.first_bare);
        let (proof, signature) = self.prove(&salt, iterations, &signed).map_err(no_crypto)?;
        self.server_signature = Some(signature);
        Ok(format!("{without_proof},p={}", base64::encode_block(&proof)).into_bytes())
    }

    /// Returns our proof and what the broker's must be, over the same text.
    fn prove(
        &self,
        salt: &[u8],
        iterations: usize,
        signed: &str,
    ) -> Result<(Vec<u8>, Vec<u8>), ErrorStack> {
        let mut salted = vec![0; self.digest.size()];
        pbkdf2_hmac(self.password.as_bytes(), salt, iterations, self.digest, &mut salted)?;
        let client_key = self.hmac(&salted, b"Client Key")?;
        let stored_key = hash(self.digest, &client_key)?;
        let client_signature = self.hmac(&stored_key, signed.as_bytes())?;
        let proof = client_key.iter().zip(&client_signature).map(|(key, sign)| key ^ sign);
        let server_key = self.hmac(&salted, b"Server Key")?;
        Ok((proof.collect(), self.hmac(&server_key, signed.as_bytes())?))
    }

    fn hmac(&self, key: &[u8], text: &[u8]) -> Result<Vec<u8>, ErrorStack> {
        let key = PKey::hmac(key)?;
        let mut signer = Signer::new(self.digest, &key)?;
        signer.sign_oneshot_to_vec(text)
    }
}

fn check_signature(last_answer: &str, expected: &[u8]) -> Result<(), Error> {
    if let Ok(refusal) = attribute(last_answer, 'e') {
        return Err(Error::Sasl(refusal.to_owned()));
    }
    let signature = base64::decode_block(attribute(last_answer, 'v')?).unwrap_or_default();
    match signature.len() == expected.len() && memcmp::eq(&signature, expected) {
        true => Ok(()),
        false => Err(broken("it does not know the password itself")),
    }
}

fn attribute(message: &str, name: char) -> Result<&str, Error> {
    let is_it = |part: &&str| part.starts_with(name) && part[name.len_utf8()..].starts_with('=');
    let found = message.split(',').find(is_it);
    found.map(|part| &part[2..]).ok_or_else(|| broken(&format!("it has no {name}=")))
}

fn broken(what: &str) -> Error {
    Error::Sasl(format!("the broker's answer will not do: {what}"))
}

fn no_crypto(errors: ErrorStack) -> Error {
    Error::Tls(format!("OpenSSL failed: {errors}"))
}

#[cfg(test)]
mod tests {
    use super::super::mutations;
    use super::*;

    /// Source: RFC 7677, section 3.
    #[test]
    fn the_example_of_the_rfc_comes_out() {
        let mut scram = Scram::new(
            MessageDigest::sha256(),
            "user",
            "pencil".to_owned(),
            "rOprNGfwEbeRWgbNEkqO".to_owned(),
        );
        assert_eq!(scram.first_bare, "n=user,r=rOprNGfwEbeRWgbNEkqO");
        let answer = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                       s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let message = scram.next(answer).unwrap().unwrap();
        assert_eq!(
            String::from_utf8(message).unwrap(),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let signed = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(scram.next(signed).unwrap(), None);
    }

    #[test]
    fn a_broker_that_does_not_play_by_the_rules_is_left() {
        let first = |answer: &[u8]| {
            let digest = MessageDigest::sha512();
            let mut scram = Scram::new(digest, "a=b,c", "p".to_owned(), "abc".to_owned());
            assert_eq!(scram.first_bare, "n=a=3Db=2Cc,r=abc");
            scram.next(answer).map(|_| scram).map_err(|error| error.to_string())
        };
        for (answer, problem) in [
            (&b"r=abcd,s=AAAA,i=1"[..], "1 iterations"),
            (b"r=abcd,s=AAAA,i=99999999999", "iterations"),
            (b"r=abcd,s=AAAA,i=x", "number of iterations"),
            (b"r=abc,s=AAAA,i=4096", "nonce"),
            (b"r=xabcd,s=AAAA,i=4096", "nonce"),
            (b"r=abcd,s=?,i=4096", "salt"),
            (b"s=AAAA,i=4096", "no r="),
            (b"r=abcd,s=AAAA,\xff", "UTF-8"),
            (b"", "no r="),
        ] {
            let error = first(answer).err().expect("refused");
            assert!(error.contains(problem), "{error}, expected {problem}");
        }
        for (answer, problem) in [
            (&b"e=invalid-proof"[..], "invalid-proof"),
            (b"v=AAAA", "does not know the password"),
            (b"v=?", "does not know the password"),
            (b"x", "no v="),
        ] {
            let mut scram = first(b"r=abcd,s=AAAA,i=4096").expect("taken");
            let error = scram.next(answer).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}, expected {problem}");
        }
    }

    /// More is waited for by the rules, but not in a test.
    fn has_few_iterations(answer: &[u8]) -> bool {
        let answer = String::from_utf8_lossy(answer);
        let iterations = attribute(&answer, 'i').ok().and_then(|text| text.parse().ok());
        iterations.is_none_or(|iterations: usize| iterations < 5000)
    }

    #[test]
    fn no_message_of_a_broker_does_harm() {
        let scram =
            || Scram::new(MessageDigest::sha256(), "user", "pencil".to_owned(), "abc".to_owned());
        mutations::each(b"r=abcd,s=W22Z,i=4096", 200, |answer| {
            if has_few_iterations(answer) {
                // Nothing but the proof that was asked for, or a reason.
                match scram().next(answer) {
                    Ok(message) => assert!(message.expect("a proof").starts_with(b"c=biws,r=abc")),
                    Err(error) => assert!(matches!(error, Error::Sasl(_)), "{error}"),
                }
            }
        });
        for last in [&b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="[..], b"e=other-error"] {
            mutations::each(last, 10_000, |answer| {
                let mut scram = scram();
                scram.server_signature = Some(vec![7; 32]);
                assert!(scram.next(answer).is_err(), "nobody knows the password");
            });
        }
    }
}
