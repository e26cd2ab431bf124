//! The front door over TLS: what is answered, who is not waited for, certificates that change.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use naru_gateway::Limits;
use naru_protocol::tls::{Certificate, CertificateFiles};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::scripted::{ANSWER, Answer, Front, Then, Worker, chat, endpoint, events};

const NAME: &str = "api.example.com";
/// How long something that will happen may take on a busy machine.
const SOON: Duration = Duration::from_secs(30);

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Puts a certificate and its key into `folder`.
    fn issue(&self, folder: &Path) -> CertificateFiles {
        let files = files(folder);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        std::fs::write(&files.certificate, params.signed_by(&key, &self.0).unwrap().pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    /// A connection of a client that trusts this authority alone, and offers `alpn`.
    async fn connect(&self, front: &Front, alpn: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let stream = front.connect("").await;
        let name = ServerName::try_from(NAME).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    async fn http1(&self, front: &Front) -> TlsStream<TcpStream> {
        self.connect(front, "http/1.1").await.unwrap()
    }

    async fn http2(&self, front: &Front, window: u32) -> Client {
        let stream = self.connect(front, "h2").await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (ask, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        Client { ask, connection: tokio::spawn(connection) }
    }
}

fn files(folder: &Path) -> CertificateFiles {
    CertificateFiles { certificate: folder.join("tls.crt"), key: folder.join("tls.key") }
}

/// A client of HTTP/2, and its connection.
struct Client {
    ask: http2::SendRequest<Full<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
}

const WINDOW: u32 = 1 << 16;

impl Client {
    async fn chat(&mut self) -> hyper::Result<http::Response<Incoming>> {
        let uri = format!("https://{NAME}/v1/chat/completions");
        let body = Full::from(r#"{"model":"m"}"#);
        self.ask.send_request(Request::post(uri).body(body).unwrap()).await
    }

    /// The status and the whole body of an answer.
    async fn answer(&mut self) -> (u16, String) {
        let answer = self.chat().await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}

/// A gateway in front of `worker` with a certificate of a new authority.
async fn front(worker: &Worker, limits: Limits) -> (Front, Authority, TempDir) {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new("first");
    let certificate = Certificate::load(authority.issue(folder.path())).unwrap();
    let front = Front::over_tls(&[("m", &[endpoint("a", worker)])], limits, certificate).await;
    (front, authority, folder)
}

/// The first event of a stream that goes on.
async fn first(body: &mut Incoming) -> Bytes {
    timeout(SOON, body.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap()
}

#[tokio::test]
async fn answers_are_streamed_by_both_protocols_and_finish_when_the_end_comes() {
    let worker = Worker::start(&events(&["data: 1\n\n"]), Then::Finish).await;
    let (mut front, authority, _folder) = front(&worker, Limits::default()).await;
    let mut old = authority.http1(&front).await;
    old.write_all(chat("m").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"data: 1\n\n\r\n") {
        assert!(old.read_buf(&mut head).await.unwrap() > 0, "{head:?}");
    }
    let mut new = authority.http2(&front, WINDOW).await;
    let answer = new.chat().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.headers().contains_key("x-request-id")),
        (200, true)
    );
    let mut body = answer.into_body();
    assert_eq!(first(&mut body).await, "data: 1\n\n");
    front.stop(SOON);
    while !front.refuses_connections().await {
        sleep(Duration::from_millis(5)).await;
    }
    worker.finish();
    let rest = body.collect().await.unwrap().to_bytes();
    assert_eq!(rest, "data: [DONE]\n\n");
    old.read_to_end(&mut head).await.unwrap();
    assert!(head.ends_with(b"data: [DONE]\n\n\r\n0\r\n\r\n"), "{head:?}");
    timeout(SOON, new.connection).await.unwrap().unwrap().unwrap();
    timeout(SOON, front.ended()).await.expect("it ends when all have finished");
}

#[tokio::test]
async fn many_requests_of_one_connection_are_bounded() {
    let worker = Worker::start(&events(&["data: 1\n\n"]), Then::Hold).await;
    let limits = Limits { connections_max: 2, ..Limits::default() };
    let (front, authority, _folder) = front(&worker, limits).await;
    let mut client = authority.http2(&front, WINDOW).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let answer = client.chat().await.unwrap();
        assert_eq!(answer.status(), 200);
        held.push(answer);
    }
    let (status, body) = client.answer().await;
    assert!(status == 503 && body.contains("overloaded"), "{status}: {body}");
    drop(held);
    let noticed = async {
        while worker.left() < 2 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, noticed).await.expect("a client that leaves a stream is noticed by the worker");
    front.shows("naru_gateway_refusals_total{code=\"overloaded\",tenant=\"\"} 1").await;
}

#[tokio::test]
async fn a_client_that_does_nothing_with_its_connection_is_left() {
    let flood = events(&[&format!("data: {}\n\n", "x".repeat(1 << 20))]);
    let worker = Worker::start(&flood, Then::Hold).await;
    let brief = Duration::from_millis(300);
    let idle = Limits { header_read: brief, ..Limits::default() };
    let (front_idle, authority, _folder) = front(&worker, idle).await;
    let client = authority.http2(&front_idle, WINDOW).await;
    let ended = timeout(SOON, client.connection).await.expect("asks nothing").unwrap();
    assert!(ended.is_ok(), "it was told so first: {ended:?}");
    let stalls = Limits { write_stall: brief, ..Limits::default() };
    let (front_stall, authority, _folder) = front(&worker, stalls).await;
    for window in [0, 1 << 10] {
        let mut client = authority.http2(&front_stall, window).await;
        let _answer = client.chat().await.unwrap();
        let _ = timeout(SOON, client.connection).await.expect("takes nothing");
    }
    let mut client = authority.http2(&front_stall, 1 << 22).await;
    let answer = client.chat().await.unwrap();
    sleep(4 * brief).await;
    assert!(!client.connection.is_finished(), "who takes everything may wait for more");
    drop(answer);
}

#[tokio::test]
async fn who_speaks_no_tls_is_told_so() {
    let worker = Worker::start(ANSWER, Then::Close).await;
    let (front, _authority, _folder) = front(&worker, Limits::default()).await;
    let answer = front.send(&chat("m")).await;
    assert!(answer.status == 400 && answer.is_complete, "{answer:?}");
    assert!(answer.body.contains("tls_needed") && answer.body.contains("https://"), "{answer:?}");
    let long = format!("{}{}", chat("m"), "x".repeat(100_000));
    assert_eq!(front.send(&long).await.status, 400, "with more than it needs");
    assert_eq!(front.send("\u{1}\u{2}\u{3}").await.status, 0, "noise is left");
    front.shows("naru_gateway_handshakes_failed_total{reason=\"spoke no TLS\"} 3").await;
    // Somebody who looks whether the port is open.
    drop(front.connect("").await);
    assert_eq!(front.send("\u{16}\u{3}\u{1}\u{0}\u{5}hello").await.status, 0);
    front.shows("naru_gateway_handshakes_failed_total{reason=\"broke the protocol\"} 1").await;
    front.shows("naru_gateway_handshakes_failed_total{reason=\"left in the middle\"} 0").await;
    front.shows("naru_gateway_connections 1\n").await; // the one that asks for this
    assert!(worker.requests().is_empty());
}

#[tokio::test]
async fn silent_clients_are_dropped_and_others_served() {
    let worker = Worker::start(ANSWER, Then::Close).await;
    let limits = Limits {
        handshake: Duration::from_secs(5),
        handshakes_max: 1,
        header_read: 2 * SOON,
        ..Limits::default()
    };
    let (front, authority, _folder) = front(&worker, limits).await;
    let mut silent = Vec::new();
    for _ in 0..30 {
        silent.push(front.connect("").await);
    }
    let mut client = authority.http2(&front, WINDOW).await;
    assert_eq!(client.answer().await, (200, "hello".to_owned()), "beside thirty silent ones");
    // One that begins and goes no further: it alone has a place, for as long.
    silent.push(front.connect("\u{16}\u{3}").await);
    for mut client in silent {
        let rest = timeout(SOON, Answer::read(&mut client)).await;
        assert_eq!(rest.expect("it is dropped").status, 0);
    }
    front.shows("naru_gateway_handshakes_failed_total{reason=\"took too long\"} 31").await;
    assert_eq!(client.answer().await.0, 200);
}

#[tokio::test]
async fn certificates_change_under_open_streams() {
    let worker = Worker::start(&events(&["data: 1\n\n"]), Then::Finish).await;
    let (front, old, folder) = front(&worker, Limits::default()).await;
    front.shows("naru_certificate_expiry_timestamp_seconds{role=\"door\"}").await;
    let mut streaming = old.http2(&front, WINDOW).await;
    let mut body = streaming.chat().await.unwrap().into_body();
    first(&mut body).await;
    let mut plainer = old.http1(&front).await;
    plainer.write_all(chat("m").as_bytes()).await.unwrap();
    let mut begun = vec![plainer.read_u8().await.unwrap()];

    // A key of another pair: the old certificate is shown on.
    let (new, elsewhere) = (Authority::new("second"), TempDir::new().unwrap());
    let (shown, next) = (files(folder.path()), new.issue(elsewhere.path()));
    std::fs::copy(next.certificate, shown.certificate).unwrap();
    front.shows("naru_gateway_certificates_refused_total 1").await;
    old.http1(&front).await;
    // Its own key.
    std::fs::copy(next.key, shown.key).unwrap();
    let taken = async {
        while new.connect(&front, "h2").await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, taken).await.expect("new connections are shown the new certificate");
    assert!(old.connect(&front, "h2").await.is_err(), "and the old one no more");
    front.shows("naru_gateway_handshakes_failed_total{reason=\"refused by the client\"}").await;

    worker.finish();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "data: [DONE]\n\n");
    while !begun.ends_with(b"0\r\n\r\n") {
        assert!(plainer.read_buf(&mut begun).await.unwrap() > 0, "{begun:?}");
    }
}
