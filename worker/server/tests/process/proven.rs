//! A worker that asks everybody who they are.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use naru_protocol::tls::{Alpn, Connector, Identity, Pem, Role};
use naru_protocol::worker::v1::worker_client::WorkerClient;
use naru_protocol::worker::v1::{DrainRequest, StatusRequest};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Endpoint;

use crate::worker::{Worker, command, fail, model};

const SOON: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are good names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, key()).expect("an authority"))
    }

    /// A certificate for `role`, and trust in `authorities`.
    fn issue(&self, role: Role, authorities: &[&Self]) -> Pem {
        let key = key();
        let params = CertificateParams::new(vec![role.dns_name().to_owned()]).expect("a DNS name");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        let trusted: String = authorities.iter().map(|authority| authority.0.pem()).collect();
        Pem {
            certificate: certificate.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
            authorities: trusted.into_bytes(),
        }
    }

    fn party(&self, role: Role) -> Party {
        Party::new(role, &self.issue(role, &[self]))
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn write(directory: &Path, pem: &Pem) {
    for (name, content) in
        [("tls.crt", &pem.certificate), ("tls.key", &pem.key), ("ca.crt", &pem.authorities)]
    {
        std::fs::write(directory.join(name), content).expect("written");
    }
}

/// Somebody with a certificate.
struct Party(Arc<Identity>);

impl Party {
    fn new(role: Role, pem: &Pem) -> Self {
        Self(Arc::new(Identity::new(role, pem).expect("a good identity")))
    }

    fn connector(&self, alpn: Alpn) -> Connector {
        let (identity, server) = (Some(Arc::clone(&self.0)), Role::Worker);
        Connector { identity, server, alpn, connect: SOON }
    }

    /// Sends on a connection of its own. Errors: what the connection failed by.
    async fn send(
        &self,
        worker: &Worker,
        request: http::request::Builder,
        path: &str,
        body: &Value,
    ) -> Result<(StatusCode, Value), String> {
        let client: Client<_, Full<Bytes>> =
            Client::builder(TokioExecutor::new()).build(self.connector(Alpn::Http1));
        let uri = format!("{}{path}", worker.http.replace("https://", "http://"));
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = request.uri(uri).body(Full::from(body)).expect("a request");
        let response = client.request(request).await.map_err(|error| format!("{error:?}"))?;
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        Ok((status, serde_json::from_slice(&body).expect("JSON")))
    }

    async fn models(&self, worker: &Worker) -> Result<(StatusCode, Value), String> {
        self.send(worker, Request::get("/"), "/v1/models", &Value::Null).await
    }

    async fn complete(&self, worker: &Worker, tenant: &str, prompt: &str) {
        let body = json!({"model": "m", "prompt": prompt, "max_tokens": 1});
        let request = Request::post("/").header("x-naru-tenant", tenant);
        let (status, answer) =
            self.send(worker, request, "/v1/completions", &body).await.expect("an answer");
        assert_eq!(status, StatusCode::OK, "{answer}");
    }

    fn control(&self, worker: &Worker) -> WorkerClient<tonic::transport::Channel> {
        let uri = worker.control.replace("https://", "http://");
        let endpoint = Endpoint::from_shared(uri).expect("an address");
        WorkerClient::new(endpoint.connect_with_connector_lazy(self.connector(Alpn::Http2)))
    }
}

/// A worker with the files in `directory`.
async fn start(directory: &Path) -> Worker {
    let directory = directory.to_str().expect("UTF-8");
    Worker::start(&["--tls-dir", directory, "--ops-listen", "127.0.0.1:0"]).await
}

#[tokio::test]
async fn only_gateways_and_operators_are_answered() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &ours.issue(Role::Worker, &[&ours]));
    let worker = start(directory.path()).await;
    assert!(worker.http.starts_with("https://") && worker.control.starts_with("https://"));

    for role in [Role::Gateway, Role::Operator] {
        let (status, answer) = ours.party(role).models(&worker).await.unwrap();
        assert_eq!((status, &answer["data"][0]["id"]), (StatusCode::OK, &json!("m")), "{role}");
    }
    let (status, answer) = ours.party(Role::Worker).models(&worker).await.unwrap();
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(answer["error"]["code"], "permission_denied", "{answer}");

    let stranger = Party::new(Role::Gateway, &theirs.issue(Role::Gateway, &[&theirs, &ours]));
    stranger.models(&worker).await.expect_err("a client of another authority");
    let bare = reqwest_without_certificate(&ours).get(format!("{}/v1/models", worker.http));
    bare.send().await.expect_err("a client without a certificate");
    let plain = worker.http.replace("https://", "http://");
    let plain = crate::worker::client().get(format!("{plain}/v1/models"));
    plain.send().await.expect_err("a client without TLS");

    // Probes and Prometheus need nothing, and get nothing else.
    assert_eq!(worker.get("/readyz").await.0, 200);
    let metric = "naru_certificate_expiry_timestamp_seconds{role=\"worker\"}";
    assert!(worker.get("/metrics").await.1.contains(metric));
    let response = crate::worker::client().get(format!("{}/v1/models", worker.ops)).send().await;
    assert_eq!(response.unwrap().status().as_u16(), 404);
}

/// Trusts our authority, and believes any name: what it lacks is a certificate.
fn reqwest_without_certificate(authority: &Authority) -> reqwest::Client {
    let authority = reqwest::Certificate::from_pem(authority.0.pem().as_bytes());
    let _ = crate::worker::client();
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([authority.expect("PEM")])
        .tls_danger_accept_invalid_hostnames(true)
        .build()
        .expect("a client")
}

#[tokio::test]
async fn only_an_operator_drains() {
    let authority = Authority::new("one");
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &authority.issue(Role::Worker, &[&authority]));
    let mut worker = start(directory.path()).await;
    for role in [Role::Gateway, Role::Operator] {
        let mut control = authority.party(role).control(&worker);
        let mut reports = control.status(StatusRequest {}).await.expect("a stream").into_inner();
        let report = reports.message().await.unwrap().expect("a report");
        assert_eq!(report.model_names, ["m"], "{role}");
    }
    let mut other = authority.party(Role::Worker).control(&worker);
    let refused = other.status(StatusRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    for role in [Role::Gateway, Role::Worker] {
        let mut control = authority.party(role).control(&worker);
        let refused = control.drain(DrainRequest { seconds: 5 }).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{role}: {refused}");
    }
    assert_eq!(worker.get("/readyz").await.0, 200, "nobody who may not has drained it");
    let mut operator = authority.party(Role::Operator).control(&worker);
    operator.drain(DrainRequest { seconds: 5 }).await.expect("a reply");
    assert_eq!(worker.exit_code(), Some(0));
}

#[tokio::test]
async fn only_a_gateway_says_whose_request_it_is() {
    let authority = Authority::new("one");
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &authority.issue(Role::Worker, &[&authority]));
    let worker = start(directory.path()).await;
    let (gateway, operator) = (authority.party(Role::Gateway), authority.party(Role::Operator));
    let prompt = "The ferry leaves at seven and the river is wide. ".repeat(8);
    let hits = "naru_prefix_cache_hits_total";
    gateway.complete(&worker, "saudi", &prompt).await;
    operator.complete(&worker, "saudi", &prompt).await;
    assert_eq!(worker.metric(hits).await, 0.0, "an operator reads no tenant's cache");
    gateway.complete(&worker, "saudi", &prompt).await;
    assert!(worker.metric(hits).await > 0.0);
}

#[tokio::test]
async fn certificates_change_without_a_failed_request() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &old.issue(Role::Worker, &[&old, &new]));
    let worker = start(directory.path()).await;
    let gateway = Party::new(Role::Gateway, &old.issue(Role::Gateway, &[&old, &new]));
    // The worker's next certificate is of the new authority, and it trusts that one alone.
    write(directory.path(), &new.issue(Role::Worker, &[&new]));
    gateway.0.replace(&new.issue(Role::Gateway, &[&old, &new])).unwrap();
    let stale = Party::new(Role::Gateway, &old.issue(Role::Gateway, &[&old, &new]));
    let start = Instant::now();
    while stale.models(&worker).await.is_ok() {
        assert!(start.elapsed() < SOON, "the worker does not take up its new files");
        let (status, _) = gateway.models(&worker).await.expect("no request fails");
        assert_eq!(status, StatusCode::OK);
        tokio::time::sleep(PAUSE).await;
    }
    assert_eq!(gateway.models(&worker).await.expect("an answer").0, StatusCode::OK);
}

#[test]
fn files_that_are_missing_or_wrong_are_named() {
    let model = model();
    let model = model.to_str().unwrap();
    let (code, said) = fail(command(&["--model", model, "--tls-dir", "/nowhere"]));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--ops-listen"), "{said}");
    let with_ops = ["--model", model, "--tls-dir", "/nowhere", "--ops-listen", "127.0.0.1:0"];
    let (code, said) = fail(command(&with_ops));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("/nowhere/tls.crt"), "{said}");
    let authority = Authority::new("one");
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &authority.issue(Role::Gateway, &[&authority]));
    let mut with_wrong = command(&with_ops[..2]);
    with_wrong.arg("--tls-dir").arg(directory.path()).args(["--ops-listen", "127.0.0.1:0"]);
    let (code, said) = fail(with_wrong);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no certificate of a worker"), "{said}");
}
