//! Certificates for a test's own brokers and clients.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::symm::Cipher;
use openssl::x509::extension::{
    BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
};
use openssl::x509::{X509, X509Builder, X509NameBuilder};

/// An authority that vouches for whom it is told to.
pub struct Authority {
    certificate: X509,
    key: PKey<Private>,
}

/// A certificate of an authority's, and its key.
pub struct Identity {
    certificate: X509,
    key: PKey<Private>,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let key = new_key();
        let mut builder = begin(name, &key, 365);
        let issuer = builder_name(name);
        builder.set_issuer_name(&issuer).expect("set");
        let constraints = BasicConstraints::new().critical().ca().build().expect("built");
        let usage = KeyUsage::new().critical().key_cert_sign().crl_sign().build().expect("built");
        builder.append_extension(constraints).expect("appended");
        builder.append_extension(usage).expect("appended");
        builder.sign(&key, MessageDigest::sha256()).expect("signed");
        Authority { certificate: builder.build(), key }
    }

    /// Writes the certificate by which others trust it.
    pub fn write(&self, path: &Path) {
        fs::write(path, self.pem()).expect("written");
    }

    /// The certificate by which others trust it, PEM.
    pub fn pem(&self) -> Vec<u8> {
        self.certificate.to_pem().expect("written out")
    }

    /// What others may know the certificate by: its SHA-256.
    pub fn fingerprint(&self) -> [u8; 32] {
        let digest = self.certificate.digest(MessageDigest::sha256()).expect("a digest");
        (*digest).try_into().expect("32 bytes")
    }

    /// Vouches for `name`, reached as `host`, for so many days; less than 0: until yesterday.
    pub fn issue(&self, name: &str, host: &str, days: i64) -> Identity {
        let key = new_key();
        let mut builder = begin(name, &key, days);
        builder.set_issuer_name(self.certificate.subject_name()).expect("set");
        let usage = ExtendedKeyUsage::new().server_auth().client_auth().build().expect("built");
        builder.append_extension(usage).expect("appended");
        let context = builder.x509v3_context(Some(&self.certificate), None);
        let names = SubjectAlternativeName::new().dns(host).build(&context).expect("built");
        builder.append_extension(names).expect("appended");
        builder.sign(&self.key, MessageDigest::sha256()).expect("signed");
        Identity { certificate: builder.build(), key }
    }
}

impl Identity {
    /// The certificate, PEM.
    pub fn pem(&self) -> Vec<u8> {
        self.certificate.to_pem().expect("written out")
    }

    /// Writes key and certificate into one file, as Kafka's `ssl.keystore.location` wants them.
    pub fn write_both(&self, path: &Path) {
        let key = self.key.private_key_to_pem_pkcs8().expect("written out");
        fs::write(path, [key, self.pem()].concat()).expect("written");
    }

    /// Writes certificate and key, which `password` opens, each whole or not at all.
    pub fn write(&self, certificate: &Path, key: &Path, password: Option<&str>) {
        let pem = match password {
            Some(password) => self
                .key
                .private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), password.as_bytes()),
            None => self.key.private_key_to_pem_pkcs8(),
        };
        write_secret(key, &pem.expect("written out"));
        write_secret(certificate, &self.pem());
    }
}

/// Writes what only its owner may read, in place of what is there.
pub fn write_secret(path: &Path, secret: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, secret).expect("written");
    fs::set_permissions(&new, Permissions::from_mode(0o600)).expect("set");
    fs::rename(&new, path).expect("renamed");
}

fn new_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).expect("a curve");
    PKey::from_ec_key(EcKey::generate(&group).expect("a key")).expect("a key")
}

fn builder_name(name: &str) -> openssl::x509::X509Name {
    let mut builder = X509NameBuilder::new().expect("a name");
    builder.append_entry_by_nid(Nid::COMMONNAME, name).expect("appended");
    builder.build()
}

fn begin(name: &str, key: &PKey<Private>, days: i64) -> X509Builder {
    const DAY: i64 = 24 * 60 * 60;
    let now = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_secs() as i64;
    let at = |time: i64| Asn1Time::from_unix(time).expect("a time");
    let mut serial = BigNum::new().expect("a number");
    serial.rand(159, MsbOption::MAYBE_ZERO, false).expect("random");
    let mut builder = X509Builder::new().expect("a builder");
    builder.set_version(2).expect("set");
    builder.set_serial_number(&serial.to_asn1_integer().expect("a number")).expect("set");
    builder.set_subject_name(&builder_name(name)).expect("set");
    builder.set_not_before(&at(now - 10 * DAY)).expect("set");
    builder.set_not_after(&at(now + days * DAY)).expect("set");
    builder.set_pubkey(key).expect("set");
    builder
}
