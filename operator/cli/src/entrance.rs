//! What clients find at the door: plain HTTP, or TLS with a certificate of files.

use std::path::PathBuf;

use naru_gateway::Entrance;
use naru_protocol::tls::{Certificate, CertificateError, CertificateFiles};
use tokio::net::TcpListener;

use crate::failure::Failure;

/// What a command that serves the API is told about it.
#[derive(clap::Args)]
#[group(skip)]
pub(crate) struct Arguments {
    /// PEM file of the certificate that clients are shown, and of those between it and an
    /// authority: then the OpenAI API speaks TLS 1.2 and 1.3, with HTTP/2 and HTTP/1.1; changed
    /// files are taken up
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file of that certificate's key, without a passphrase
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl Arguments {
    /// Errors: the files do not hold a certificate and its key.
    pub(crate) fn certificate(&self) -> Result<Option<Certificate>, Failure> {
        let (Some(certificate), Some(key)) = (self.tls_cert.clone(), self.tls_key.clone()) else {
            return Ok(None);
        };
        let loaded = Certificate::load(CertificateFiles { certificate, key });
        loaded.map(Some).map_err(|error| {
            let flag = match error {
                CertificateError::Certificate { .. } => "--tls-cert",
                CertificateError::Key { .. } => "--tls-key",
            };
            Failure::BadUsage(anyhow::Error::new(error).context(flag))
        })
    }
}

/// The entrance at `listener`, and what its address begins with.
pub(crate) fn at(listener: TcpListener, shown: Option<Certificate>) -> (Entrance, &'static str) {
    let scheme = if shown.is_some() { "https" } else { "http" };
    (Entrance::new(listener, shown), scheme)
}
