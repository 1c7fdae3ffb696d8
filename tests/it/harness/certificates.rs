//! Certificates, made for each test.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use tempfile::TempDir;

/// Signs certificates and keeps them, and its own, in files that go with it.
pub struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
    issued: AtomicUsize,
}

/// A certificate with its key, as PEM and in files.
pub struct Issued {
    pub certificate: String,
    pub key: String,
    pub certificate_file: PathBuf,
    pub key_file: PathBuf,
    pub der: Vec<u8>,
}

/// A subject alternative name.
#[derive(Clone, Copy, Debug)]
pub enum San<'a> {
    Uri(&'a str),
    Dns(&'a str),
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        // Of two authorities with one name, a client would take the one for the other and call its signatures
        // broken.
        let name = format!("authority {}", uuid::Uuid::now_v7());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self {
            folder,
            issuer,
            issued: AtomicUsize::new(0),
        }
    }

    /// Its own certificate, PEM.
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    pub fn certificate_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Where its files are; others may be put there.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A server's certificate, for host names and addresses.
    pub fn server(&self, hosts: &[&str]) -> Issued {
        self.server_with(hosts, |_params| {})
    }

    /// A server's certificate that is changed before it is signed.
    pub fn server_with(&self, hosts: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let hosts: Vec<_> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        self.issue("server", params)
    }

    /// A client's certificate.
    pub fn client(&self, names: &[San<'_>]) -> Issued {
        self.client_with(names, |_params| {})
    }

    /// A client's certificate that is changed before it is signed.
    pub fn client_with(&self, names: &[San<'_>], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.iter().map(|name| name.encoded()).collect();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        self.issue("client", params)
    }

    fn issue(&self, role: &str, mut params: CertificateParams) -> Issued {
        params.distinguished_name.push(DnType::CommonName, role);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        let file = |kind: &str| self.folder.path().join(format!("{role}-{number}{kind}.pem"));
        let issued = Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            certificate_file: file(""),
            key_file: file("-key"),
            der: certificate.der().to_vec(),
        };
        fs::write(&issued.certificate_file, &issued.certificate).unwrap();
        fs::write(&issued.key_file, &issued.key).unwrap();
        issued
    }
}

impl San<'_> {
    fn encoded(self) -> SanType {
        match self {
            Self::Uri(uri) => SanType::URI(uri.try_into().unwrap()),
            Self::Dns(name) => SanType::DnsName(name.try_into().unwrap()),
        }
    }
}
