//! Which addresses the gateway may listen on.

use std::net::SocketAddr;

use tokio::net::{TcpListener, lookup_host};

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

/// Listens on `address` (`HOST:PORT`), which must be loopback: there are no tenants yet.
pub async fn bind(address: &str) -> Result<TcpListener, ListenError> {
    let unresolved = |source| ListenError::Address { address: address.to_owned(), source };
    let mut resolved = lookup_host(address).await.map_err(unresolved)?;
    let none = || unresolved(std::io::ErrorKind::AddrNotAvailable.into());
    let address = resolved.next().ok_or_else(none)?;
    if !address.ip().to_canonical().is_loopback() {
        return Err(ListenError::NotLoopback { address });
    }
    TcpListener::bind(address).await.map_err(|source| ListenError::Bind { address, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(fact: &str, address: &str, listens: bool) {
        assert_eq!(bind(address).await.is_ok(), listens, "{fact}");
    }

    #[tokio::test]
    async fn only_this_machine() {
        check("loopback", "127.0.0.1:0", true).await;
        check("all of loopback", "127.8.8.8:0", true).await;
        check("its name", "localhost:0", true).await;
        check("every interface", "0.0.0.0:0", false).await;
        check("every interface of IPv6", "[::]:0", false).await;
        check("another machine's", "192.0.2.1:0", false).await;
        check("no port", "127.0.0.1", false).await;
    }
}
