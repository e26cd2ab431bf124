//! Which addresses the gateway may listen on, and what it speaks there.

use std::net::SocketAddr;
use std::sync::Arc;

use naru_protocol::tls::Certificate;
use tokio::net::{TcpListener, lookup_host};

use crate::keys::KeyRule;

/// Why the gateway does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The text names no address.
    #[error("{address:?} is no address to listen on: HOST:PORT is needed")]
    Address {
        /// What was given.
        address: String,
        /// Why it could not be resolved.
        #[source]
        source: std::io::Error,
    },
    /// Without tenants there are no keys, and without keys nobody else may reach it.
    #[error(
        "{address} can be reached from other machines, and without a Tenant nobody needs a key; \
         listen on 127.0.0.1 or [::1]"
    )]
    NotLoopback {
        /// The address that was refused.
        address: SocketAddr,
    },
    /// The operating system refused.
    #[error("listening on {address}")]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
}

/// Whom an address may be open to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// This machine: there is no tenant, so nobody needs a key.
    ThisMachine,
    /// Whoever can reach it; they need keys.
    Anywhere,
}

/// Where clients come in.
pub struct Entrance {
    pub(crate) listener: TcpListener,
    pub(crate) certificate: Option<Arc<Certificate>>,
}

impl Entrance {
    /// Over TLS with a certificate, which is followed then; else plain.
    pub fn new(listener: TcpListener, certificate: Option<Certificate>) -> Self {
        Self { listener, certificate: certificate.map(Arc::new) }
    }
}

impl From<TcpListener> for Entrance {
    fn from(listener: TcpListener) -> Self {
        Self::new(listener, None)
    }
}

/// Listens on `address` (`HOST:PORT`), and says who needs a key there.
///
/// Errors: an address that is none, that cannot be listened on, or that reaches too far.
pub async fn bind(address: &str, reach: Reach) -> Result<(TcpListener, KeyRule), ListenError> {
    let unresolved = |source| ListenError::Address { address: address.to_owned(), source };
    let mut resolved = lookup_host(address).await.map_err(unresolved)?;
    let none = || unresolved(std::io::ErrorKind::AddrNotAvailable.into());
    let address = resolved.next().ok_or_else(none)?;
    let is_loopback = address.ip().to_canonical().is_loopback();
    if !is_loopback && reach == Reach::ThisMachine {
        return Err(ListenError::NotLoopback { address });
    }
    let bound = TcpListener::bind(address).await;
    let listener = bound.map_err(|source| ListenError::Bind { address, source })?;
    Ok((listener, if is_loopback { KeyRule::OnceTenantsExist } else { KeyRule::Always }))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(fact: &str, address: &str, reach: Reach, rule: Option<KeyRule>) {
        let bound = bind(address, reach).await;
        assert_eq!(bound.ok().map(|(_, rule)| rule), rule, "{fact}");
    }

    #[tokio::test]
    async fn who_needs_a_key() {
        use KeyRule::{Always, OnceTenantsExist};
        use Reach::{Anywhere, ThisMachine};
        check("loopback", "127.0.0.1:0", ThisMachine, Some(OnceTenantsExist)).await;
        check("all of loopback", "127.8.8.8:0", ThisMachine, Some(OnceTenantsExist)).await;
        check("its name", "localhost:0", ThisMachine, Some(OnceTenantsExist)).await;
        check("every interface", "0.0.0.0:0", ThisMachine, None).await;
        check("every interface of IPv6", "[::]:0", ThisMachine, None).await;
        check("another machine's", "192.0.2.1:0", ThisMachine, None).await;
        check("no port", "127.0.0.1", ThisMachine, None).await;
        check("every interface, with keys", "0.0.0.0:0", Anywhere, Some(Always)).await;
        check("loopback with keys", "127.0.0.1:0", Anywhere, Some(OnceTenantsExist)).await;
    }
}
