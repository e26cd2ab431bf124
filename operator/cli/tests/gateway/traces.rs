//! What a collector of traces is told of requests, and that nobody else is told anything.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::{Gateway, PATIENCE, ask, free_port, snapshot};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// Takes what is told, and passes it to the test.
struct Collector(Sender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.send(request.into_inner()).unwrap();
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A collector's address, and what it is told.
fn collector(runtime: &Runtime) -> (String, Receiver<ExportTraceServiceRequest>) {
    let (sender, told) = channel();
    let address = free_port();
    let serving = Server::builder().add_service(TraceServiceServer::new(Collector(sender)));
    runtime.spawn(serving.serve(address.parse().unwrap()));
    (format!("http://{address}"), told)
}

/// Answers every request; passes on what each said.
fn worker() -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, heads) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let count = stream.read(&mut request).unwrap();
            let _ = sender.send(String::from_utf8_lossy(&request[..count]).into_owned());
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
            stream.write_all(answer).unwrap();
        }
    });
    (address, heads)
}

/// One request with a trace of its client's; the `traceparent` that the worker saw.
fn asked(gateway: &Gateway, heads: &Receiver<String>) -> String {
    let body = r#"{"model":"m","prompt":"a secret"}"#;
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: n\r\nconnection: close\r\nx-request-id: r1\r\n\
         authorization: Bearer naru_k\r\ntraceparent: 00-{TRACE}-{PARENT}-01\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = ask(&gateway.api, &request).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let head = heads.recv_timeout(PATIENCE).unwrap();
    let seen = head.lines().find_map(|line| line.strip_prefix("traceparent: "));
    seen.expect("the worker is told of the trace").to_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(span: &Span) -> String {
    let text = |attribute: &opentelemetry_proto::tonic::common::v1::KeyValue| {
        let value = format!("{:?}", attribute.value);
        let value: String = value.chars().filter(char::is_ascii).collect();
        format!("{}={value}", attribute.key)
    };
    span.attributes.iter().map(text).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_request_is_one_span_of_the_clients_trace() {
    let runtime = Runtime::new().unwrap();
    let ((endpoint, told), (worker, heads)) = (collector(&runtime), worker());
    let folder = TempDir::new().unwrap();
    snapshot(folder.path(), &worker, &sha256());
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())];
    let mut gateway = Gateway::start(folder.path(), &[], &environment);
    gateway.waits_for(200);
    let seen = asked(&gateway, &heads);
    gateway.terminate();
    let (code, log) = gateway.ended();
    assert_eq!(code, Some(0), "{log}");
    let told = told.recv_timeout(PATIENCE).expect("what is left is told at the end");
    let [resource] = &told.resource_spans[..] else { panic!("one process: {told:?}") };
    let spans: Vec<_> = resource.scope_spans.iter().flat_map(|scope| &scope.spans).collect();
    let [span] = spans[..] else { panic!("one request, one span: {spans:?}") };
    assert_eq!(span.name, "POST /v1/completions");
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.into(), PARENT.into()));
    assert_eq!(seen, format!("00-{TRACE}-{}-01", hex(&span.span_id)));
    let said = attributes(span);
    for (key, value) in [
        ("gen_ai.request.model", "\"m\""),
        ("naru.tenant", "saudi"),
        ("naru.request_id", "r1"),
        ("http.response.status_code", "200"),
    ] {
        assert!(
            said.split(' ').any(|part| part.starts_with(&format!("{key}=")))
                && said.contains(value),
            "{key}: {said}"
        );
    }
    let all = format!("{told:?}");
    assert!(all.contains("naru-gateway"), "{all}");
    assert!(!all.contains("a secret") && !all.contains("naru_k"), "no text, no key: {all}");
}

#[test]
fn without_a_collector_the_clients_trace_passes() {
    let (worker, heads) = worker();
    let folder = TempDir::new().unwrap();
    snapshot(folder.path(), &worker, &sha256());
    let gateway = Gateway::start(folder.path(), &[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]);
    gateway.waits_for(200);
    assert_eq!(asked(&gateway, &heads), format!("00-{TRACE}-{PARENT}-01"));
}

fn sha256() -> String {
    naru_protocol::KeyDigest::of("naru_k").to_string()
}
