//! Servers whose certificate only a private authority vouches for.
//!
//! `authority.pem`, `server.pem` and `server.key.pem` were made with openssl for 127.0.0.1 and are
//! of no use anywhere else.

use std::path::PathBuf;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::{BODY, Bench, answer, content};
use crate::weights::{FetchError, ModelUri};

const SERVER: &[u8] = include_bytes!("server.pem");
const KEY: &[u8] = include_bytes!("server.key.pem");

/// Serves what `bench` serves, over TLS. Its address.
async fn serve(bench: &Bench) -> String {
    let certificate = CertificateDer::from_pem_slice(SERVER).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(KEY).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("known versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate that fits the key");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let router = axum::Router::new().fallback(answer).with_state(Arc::clone(&bench.script));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(router.clone());
            // A client that does not trust us breaks off here.
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    });
    format!("https://{address}/m.gguf")
}

#[tokio::test]
async fn a_private_authority_is_trusted_where_it_is_named() {
    let bench = Bench::start().await;
    let uri = ModelUri::Http(serve(&bench).await);
    let error = bench.fetcher(|_| {}).obtain(&uri).await.expect_err("nobody vouches for it");
    assert!(matches!(error, FetchError::Certificate { .. }), "{error:?}");
    assert!(error.to_string().contains("--ca-file"), "{error}");
    let authority =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/weights/tests/authority.pem");
    let fetcher = bench.fetcher(|sources| sources.ca_file = Some(authority));
    assert_eq!(content(&fetcher.obtain(&uri).await.expect("trusted")), BODY);
    let missing = bench.fetcher(|sources| sources.ca_file = Some("/nowhere/ca.pem".into()));
    let error = missing.obtain(&uri).await.expect_err("no such file");
    assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
}
