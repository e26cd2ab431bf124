//! A certificate, its key, and the authorities that its holder trusts.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, version::TLS13};

use super::{Role, TlsError};

/// The names of the three files in a directory.
pub(super) const FILES: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

/// The name of the links' protocol, as TLS is told it.
const LINKS: &[u8] = b"naru-links";

/// The protocol spoken inside; both sides must mean the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// OpenAI's API.
    Http1,
    /// gRPC.
    Http2,
    /// The links between the ranks of a replica.
    Links,
}

/// The content of `tls.crt`, `tls.key` and `ca.crt`.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    /// `tls.crt`: the certificate, then those between it and an authority.
    pub certificate: Vec<u8>,
    /// `tls.key`.
    pub key: Vec<u8>,
    /// `ca.crt`: each certificate in it is trusted.
    pub authorities: Vec<u8>,
}

impl Pem {
    /// Reads the three files. Errors: one cannot be read.
    pub fn read(directory: &Path) -> Result<Self, TlsError> {
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read(&path).map_err(|source| TlsError::Read { path, source })
        };
        let [certificate, key, authorities] = FILES;
        Ok(Self {
            certificate: read(certificate)?,
            key: read(key)?,
            authorities: read(authorities)?,
        })
    }
}

impl fmt::Debug for Pem {
    /// Never shows the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pem").finish_non_exhaustive()
    }
}

/// Who this process is, and whom it believes. Can be replaced while connections are open.
pub struct Identity {
    role: Role,
    current: RwLock<Arc<Current>>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("role", &self.role).finish_non_exhaustive()
    }
}

/// What new connections use.
pub(super) struct Current {
    pub(super) server_http1: Arc<ServerConfig>,
    pub(super) server_http2: Arc<ServerConfig>,
    /// Asks nobody who they are: for clients that are none of ours.
    pub(super) server_open: Arc<ServerConfig>,
    pub(super) client_http1: Arc<ClientConfig>,
    pub(super) client_http2: Arc<ClientConfig>,
    pub(super) server_links: Arc<ServerConfig>,
    pub(super) client_links: Arc<ClientConfig>,
    expires_unix_seconds: i64,
    pem: Pem,
}

impl Identity {
    /// The identity of a `role`. Errors: the parts do not fit, or peers would refuse them now.
    pub fn new(role: Role, pem: &Pem) -> Result<Self, TlsError> {
        let current = RwLock::new(Arc::new(Current::new(role, pem)?));
        Ok(Self { role, current })
    }

    /// The same, from the files of a directory.
    pub fn load(role: Role, directory: &Path) -> Result<Self, TlsError> {
        Self::new(role, &Pem::read(directory)?)
    }

    /// From now on new connections use these. Errors as of [`Identity::new`]; the old stay.
    pub fn replace(&self, pem: &Pem) -> Result<(), TlsError> {
        let current = Arc::new(Current::new(self.role, pem)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
        Ok(())
    }

    /// When the certificate in use is no longer valid.
    #[must_use]
    pub fn expires_unix_seconds(&self) -> i64 {
        self.current().expires_unix_seconds
    }

    /// These are the ones in use.
    #[must_use]
    pub fn holds(&self, pem: &Pem) -> bool {
        self.current().pem == *pem
    }

    pub(super) fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Current {
    fn new(role: Role, pem: &Pem) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(authorities(&pem.authorities)?);
        let chain = certificates("tls.crt", &pem.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&pem.key)
            .map_err(|source| TlsError::Pem { file: "tls.key", source })?;
        check(role, &chain, &key, &roots, &provider)?;
        let expires_unix_seconds = chain.first().and_then(expiry).ok_or(TlsError::Expiry)?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(TlsError::Authorities)?;
        let server = || {
            ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[&TLS13])
                .map_err(TlsError::Key)
        };
        let server_http1 = server()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(TlsError::Key)?;
        let server_open = server()?
            .with_no_client_auth()
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(TlsError::Key)?;
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(TlsError::Key)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(TlsError::Key)?;
        // A resumed session would prove what was true under the old authorities.
        client.resumption = Resumption::disabled();
        Ok(Self {
            server_http1: serving(&server_http1, b"http/1.1"),
            server_http2: serving(&server_http1, b"h2"),
            server_open: serving(&server_open, b"http/1.1"),
            client_http1: calling(&client, b"http/1.1"),
            client_http2: calling(&client, b"h2"),
            server_links: serving(&server_http1, LINKS),
            client_links: calling(&client, LINKS),
            expires_unix_seconds,
            pem: pem.clone(),
        })
    }
}

fn serving(config: &ServerConfig, alpn: &[u8]) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

fn calling(config: &ClientConfig, alpn: &[u8]) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

fn certificates(file: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.map_err(|source| TlsError::Pem { file, source })?;
    if read.is_empty() {
        let source = rustls::pki_types::pem::Error::NoItemsFound;
        return Err(TlsError::Pem { file, source });
    }
    Ok(read)
}

fn authorities(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates("ca.crt", pem)? {
        roots.add(authority).map_err(TlsError::Authority)?;
    }
    Ok(roots)
}

/// Errors: this is not what a peer with the same authorities would accept as `role` now.
fn check(
    role: Role,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<(), TlsError> {
    CertifiedKey::from_der(chain.to_vec(), key.clone_key(), provider).map_err(TlsError::Key)?;
    let refused = |source| TlsError::Certificate { role, source };
    let (leaf, between) = chain.split_first().ok_or(TlsError::Expiry)?;
    WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
        .build()
        .map_err(TlsError::Authorities)?
        .verify_server_cert(leaf, between, &server_name(role), &[], UnixTime::now())
        .map_err(refused)?;
    if role_of(leaf) == Some(role) { Ok(()) } else { Err(TlsError::NoRole) }
}

/// The name that a server of this role must prove.
pub(super) fn server_name(role: Role) -> ServerName<'static> {
    ServerName::try_from(role.dns_name()).expect("each role's name is a DNS name")
}

/// The one role that `certificate` names.
pub(super) fn role_of(certificate: &CertificateDer<'_>) -> Option<Role> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    let names = |role: &Role| verify_server_name(&parsed, &server_name(*role)).is_ok();
    let mut roles = Role::ALL.into_iter().filter(names);
    let role = roles.next()?;
    roles.next().is_none().then_some(role)
}

fn expiry(certificate: &CertificateDer<'static>) -> Option<i64> {
    validity(certificate).map(|(_, until)| until)
}

/// The first and the last second in which `certificate` is valid, Unix time.
pub(super) fn validity(certificate: &CertificateDer<'static>) -> Option<(i64, i64)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let validity = parsed.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}
