//! How parties prove to each other who they are: mutual TLS from one internal authority.
//!
//! ```text
//! tls.crt, tls.key, ca.crt ──▶ Identity ──▶ accept ──▶ Connection, and the Role of the peer
//!        (follow: read again)      └──────▶ Connector (to a Role, whatever the address)
//! ```
//!
//! A certificate says what its holder is by one DNS name, [`Role::dns_name`]; addresses prove
//! nothing. Files that change are taken up by [`Identity::follow`]: new connections use the new
//! certificate and the new authorities, running ones go on.
//!
//! A [`Certificate`] is for clients that are none of the parties: it is shown to anyone, and asks
//! nobody for a proof.

mod certificate;
#[cfg(test)]
mod certificate_tests;
mod connection;
mod connector;
mod follow;
mod handshake;
mod identity;
mod incoming;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::PathBuf;

pub use certificate::{Certificate, CertificateError, CertificateFiles, Change, Fault};
pub use connection::{Connection, Peer};
pub use connector::Connector;
pub use handshake::Handshake;
pub use identity::{Alpn, Identity, Pem};
pub use incoming::incoming;

/// What a party is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The controllers.
    Operator,
    /// The front door.
    Gateway,
    /// One member of a replica.
    Worker,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Operator, Self::Gateway, Self::Worker];

    /// The name in the certificate of whoever has this role.
    #[must_use]
    pub const fn dns_name(self) -> &'static str {
        match self {
            Self::Operator => "operator.naru.internal",
            Self::Gateway => "gateway.naru.internal",
            Self::Worker => "worker.naru.internal",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Operator => "operator",
            Self::Gateway => "gateway",
            Self::Worker => "worker",
        })
    }
}

/// Why an identity or a connection is refused.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{file} is no PEM file with what belongs there")]
    Pem {
        /// Which of the three.
        file: &'static str,
        /// What the reader said.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// An authority is no certificate.
    #[error("ca.crt holds a certificate that cannot be used")]
    Authority(#[source] rustls::Error),
    /// No authority to trust.
    #[error("ca.crt holds no certificate that clients could be checked by")]
    Authorities(#[source] rustls::server::VerifierBuilderError),
    /// Key and certificate are not of one pair, or not understood.
    #[error("tls.key is not the key of tls.crt")]
    Key(#[source] rustls::Error),
    /// Peers would refuse this certificate.
    #[error("tls.crt is no certificate of a {role} that ca.crt vouches for now")]
    Certificate {
        /// What it should be a certificate of.
        role: Role,
        /// What is wrong with it.
        #[source]
        source: rustls::Error,
    },
    /// When the certificate expires cannot be read.
    #[error("tls.crt does not say when it expires")]
    Expiry,
    /// The two sides did not agree.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// The other side dawdled.
    #[error("the TLS handshake took too long")]
    TooSlow,
    /// The peer's certificate is of the authority, and not of one role.
    #[error("the certificate of the peer names none of the roles, or several")]
    NoRole,
}

/// An error and what it came from, on one line.
pub(crate) fn story(error: &dyn std::error::Error) -> String {
    let mut story = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        story.push_str(": ");
        story.push_str(&cause.to_string());
        source = cause.source();
    }
    story
}
