use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use naru_api::{Source, check};
use naru_plan::{Observed, plan};
use opentelemetry::global;
use opentelemetry::trace::{SpanId, Status};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};

use super::super::build;
use super::*;

/// An API server that takes what it is given, but for statuses. Its address.
async fn api_server() -> String {
    let take = async |method: Method, uri: axum::http::Uri, body: Bytes| -> Response {
        if uri.path().ends_with("/status") {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        assert_eq!(method, Method::PATCH, "{uri}");
        let kind = HeaderValue::from_static("application/json");
        ([(header::CONTENT_TYPE, kind)], body).into_response()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(take)).await });
    address
}

fn work() -> Work {
    let text = "apiVersion: naru.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {name: solar}\n\
                spec: {model: {uri: file:///m.gguf}}\n";
    let mut wishes = check(&[Source { file: "a.yaml", text }]).unwrap();
    let desired = Arc::new(wishes.deployments.remove(0));
    let (owner, observed) = (OwnerReference::default(), Observed::default());
    let service = Write::Service(Box::new(build::service(&desired, &owner)));
    let steps = [service, Write::Status(Box::default())].map(|write| Step { write, action: None });
    let plan = plan(&desired, &observed, None, Moment(0));
    let decision = Decision { desired, observed, plan, scaling: Vec::new(), power: None };
    Work { decision, owner, steps: steps.into(), before: Vec::new() }
}

#[tokio::test]
async fn a_decision_is_one_trace_of_its_writes() {
    let spans = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build();
    global::set_tracer_provider(provider);
    let config = kube::Config::new(api_server().await.parse().unwrap());
    let client = Client::try_from(config).unwrap();
    let teller = Teller::new(client.clone(), None);
    let tools = Tools { client, teller, metrics: Metrics::new().unwrap() };
    let Ended::Decision(outcome, written) = work().carry_out(tools).await else {
        panic!("it was a decision")
    };
    assert!(outcome.result.is_err() && written.len() == 1, "{outcome:?}");
    let spans = spans.get_finished_spans().unwrap();
    let names: Vec<_> = spans.iter().map(|span| span.name.as_ref()).collect();
    assert_eq!(names, ["apply Service", "report status", "reconcile"]);
    let root = &spans[2];
    assert_eq!(root.parent_span_id, SpanId::INVALID);
    for write in &spans[..2] {
        assert_eq!(write.parent_span_id, root.span_context.span_id());
        assert_eq!(write.span_context.trace_id(), root.span_context.trace_id());
    }
    assert_eq!(spans[0].status, Status::Unset);
    let failed = |status: &Status| match status {
        Status::Error { description } => description.contains("solar"),
        Status::Ok | Status::Unset => false,
    };
    assert!(failed(&spans[1].status) && failed(&root.status), "{root:?}");
}
