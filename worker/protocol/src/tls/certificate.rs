//! A certificate for clients that are none of the parties: it is shown to whoever connects.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::follow::{LOOK, OfFiles, follow};
use super::{Connection, Handshake, identity};

/// What is spoken inside, in the order in which it is preferred.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// What a PEM file of an encrypted key has, in either of its two forms.
const ENCRYPTED: &[u8] = b"ENCRYPTED";

/// Where a certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM: the certificate, then those between it and an authority.
    pub certificate: PathBuf,
    /// PEM: its key, without a passphrase.
    pub key: PathBuf,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The certificate's file cannot be used.
    #[error("{}", path.display())]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Fault,
    },
    /// The key's file cannot be used, or is another certificate's.
    #[error("{}", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Fault,
    },
}

/// What is wrong with one of the two files.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The system said so.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// Nothing in it is what belongs there.
    #[error("it is no PEM file with what belongs there")]
    Pem(#[source] pem::Error),
    /// It needs a passphrase, and nobody could give it.
    #[error("it is encrypted: try `openssl pkey -in KEY -out PLAIN`")]
    Encrypted,
    /// Key and certificate are not of one pair, or one of them is of an unknown kind.
    #[error("it is not the key of the certificate")]
    NotItsKey(#[source] rustls::Error),
    /// When it ends cannot be read.
    #[error("it does not say from when and until when it is valid")]
    Validity,
    /// Clients would refuse it now.
    #[error("it is valid from {from} to {until} (Unix seconds), which is not now")]
    NotNow {
        /// Its first second.
        from: i64,
        /// Its last.
        until: i64,
    },
}

/// What became of files that had changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// New connections are shown the new certificate.
    TakenUp,
    /// They cannot be used; the certificate before is shown on.
    Refused,
}

/// A certificate that is shown to anyone. Can be replaced while connections are open.
#[derive(Debug)]
pub struct Certificate {
    files: CertificateFiles,
    current: RwLock<Arc<Shown>>,
}

/// What new connections are shown.
#[derive(Debug)]
struct Shown {
    config: Arc<ServerConfig>,
    from_unix_seconds: i64,
    until_unix_seconds: i64,
    pair: Pair,
}

/// The content of both files.
#[derive(Clone, PartialEq, Eq)]
struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl std::fmt::Debug for Pair {
    /// Never shows the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

impl Certificate {
    /// Reads both files. One that is not valid now is taken all the same, and the log says so:
    /// better an answer that clients do not trust than none.
    ///
    /// Errors: a file is missing, holds something else or is encrypted; the two are no pair.
    pub fn load(files: CertificateFiles) -> Result<Self, CertificateError> {
        let read = |path: &Path| fs::read(path).map_err(Fault::Read);
        let certificate = read(&files.certificate).map_err(of_certificate(&files))?;
        let key = read(&files.key).map_err(of_key(&files))?;
        let shown = Shown::new(&files, &Pair { certificate, key })?;
        if let Err(fault) = shown.is_valid_at(now()) {
            tracing::warn!("{}: {fault}", files.certificate.display());
        }
        Ok(Self { current: RwLock::new(Arc::new(shown)), files })
    }

    /// When the certificate that is shown ends.
    #[must_use]
    pub fn expires_unix_seconds(&self) -> i64 {
        self.current().until_unix_seconds
    }

    /// Serves a client, whoever it is. Errors: no handshake within `patience`.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        patience: Duration,
    ) -> Result<Connection<S>, Handshake> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.current().config));
        match timeout(patience, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Ok(Connection::tls(stream, None)),
            Ok(Err(error)) => Err(Handshake::of(&error)),
            Err(_) => Err(Handshake::TooSlow),
        }
    }

    /// Shows what is in the files whenever it has changed, and tells what became of it. Files that
    /// cannot be used, or that clients would refuse now, change nothing. Never returns.
    pub async fn follow(&self, told: impl Fn(Change) + Sync) {
        self.follow_every(LOOK, told).await;
    }

    pub(super) async fn follow_every(&self, pause: Duration, told: impl Fn(Change) + Sync) {
        follow(&Followed { certificate: self, told }, pause).await;
    }

    fn current(&self) -> Arc<Shown> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn of_certificate(files: &CertificateFiles) -> impl Fn(Fault) -> CertificateError {
    |source| CertificateError::Certificate { path: files.certificate.clone(), source }
}

fn of_key(files: &CertificateFiles) -> impl Fn(Fault) -> CertificateError {
    |source| CertificateError::Key { path: files.key.clone(), source }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

impl Shown {
    fn new(files: &CertificateFiles, pair: &Pair) -> Result<Self, CertificateError> {
        let chain = chain(&pair.certificate).map_err(of_certificate(files))?;
        let validity = chain.first().and_then(identity::validity).ok_or(Fault::Validity);
        let (from, until) = validity.map_err(of_certificate(files))?;
        let config = private_key(&pair.key).and_then(|key| config(chain, key));
        Ok(Self {
            config: Arc::new(config.map_err(of_key(files))?),
            from_unix_seconds: from,
            until_unix_seconds: until,
            pair: pair.clone(),
        })
    }

    /// Errors: clients would refuse it at that second.
    fn is_valid_at(&self, unix_seconds: i64) -> Result<(), Fault> {
        let (from, until) = (self.from_unix_seconds, self.until_unix_seconds);
        if (from..=until).contains(&unix_seconds) {
            return Ok(());
        }
        Err(Fault::NotNow { from, until })
    }
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.map_err(Fault::Pem)?;
    if read.is_empty() { Err(Fault::Pem(pem::Error::NoItemsFound)) } else { Ok(read) }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Fault> {
    // The heads of PEM say so; what stands between its blocks may have that word for any reason.
    let is_head = |line: &[u8]| line.starts_with(b"-----BEGIN") || line.starts_with(b"Proc-Type");
    let says_so = |line: &[u8]| line.windows(ENCRYPTED.len()).any(|part| part == ENCRYPTED);
    if pem.split(|byte| *byte == b'\n').any(|line| is_head(line) && says_so(line)) {
        return Err(Fault::Encrypted);
    }
    PrivateKeyDer::from_pem_slice(pem).map_err(Fault::Pem)
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, Fault> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider).map_err(Fault::NotItsKey)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(Fault::NotItsKey)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(Fault::NotItsKey)?;
    config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

/// A certificate, and who is told of changed files.
struct Followed<'a, F> {
    certificate: &'a Certificate,
    told: F,
}

impl<F: Fn(Change) + Sync> OfFiles for Followed<'_, F> {
    type Content = Pair;
    type Error = CertificateError;

    async fn read(&self) -> Result<Pair, CertificateError> {
        let files = &self.certificate.files;
        let certificate = tokio::fs::read(&files.certificate).await.map_err(Fault::Read);
        let certificate = certificate.map_err(of_certificate(files))?;
        let key = tokio::fs::read(&files.key).await.map_err(Fault::Read);
        Ok(Pair { certificate, key: key.map_err(of_key(files))? })
    }

    fn holds(&self, pair: &Pair) -> bool {
        self.certificate.current().pair == *pair
    }

    fn take(&self, pair: &Pair) -> Result<(), CertificateError> {
        let files = &self.certificate.files;
        let shown = Shown::new(files, pair)?;
        shown.is_valid_at(now()).map_err(of_certificate(files))?;
        let current = &self.certificate.current;
        *current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(shown);
        (self.told)(Change::TakenUp);
        Ok(())
    }

    fn expires_unix_seconds(&self) -> i64 {
        self.certificate.expires_unix_seconds()
    }

    fn is_refused(&self) {
        (self.told)(Change::Refused);
    }
}
