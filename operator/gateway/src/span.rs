//! One span per request, for whoever collects traces; without a collector it is nothing.
//!
//! It continues the trace that the client's `traceparent` names (W3C Trace Context), and the
//! worker is told of it in the same header. No text of a request is in it.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::{SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue, global};

/// What the spans of a gateway are filed under.
const SCOPE: &str = "naru-gateway";

/// The span of one request; dropping it ends it.
pub(crate) struct RequestSpan(Context);

impl RequestSpan {
    /// Begins with the head of a request. `path` is one that the gateway serves.
    pub(crate) fn begin(method: &Method, path: &str, headers: &HeaderMap) -> Self {
        let parent = global::get_text_map_propagator(|propagator| {
            propagator.extract_with_context(&Context::new(), &Headers(headers))
        });
        let tracer = global::tracer(SCOPE);
        let attributes = [
            KeyValue::new("http.request.method", method.to_string()),
            KeyValue::new("url.path", path.to_owned()),
        ];
        let span = tracer
            .span_builder(format!("{method} {path}"))
            .with_kind(SpanKind::Server)
            .with_attributes(attributes)
            .start_with_context(&tracer, &parent);
        Self(parent.with_span(span))
    }

    /// Whose request it is, and for what.
    pub(crate) fn is_for(&self, tenant: &str, model: &str, request_id: &HeaderValue) {
        let request_id = request_id.to_str().unwrap_or_default().to_owned();
        self.0.span().set_attributes([
            KeyValue::new("naru.tenant", tenant.to_owned()),
            KeyValue::new("gen_ai.request.model", model.to_owned()),
            KeyValue::new("naru.request_id", request_id),
        ]);
    }

    /// The answer has begun, with this HTTP status.
    pub(crate) fn answered(&self, status: u16) {
        let span = self.0.span();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        if status >= 500 {
            span.set_status(Status::error(""));
        }
    }

    /// The worker ended in the middle of the answer.
    pub(crate) fn broke(&self) {
        self.0.span().set_status(Status::error("the worker ended in the middle of its answer"));
    }

    /// Names this span to the worker. Without a collector the client's own header passes.
    pub(crate) fn pass_on(&self, headers: &mut HeaderMap) {
        let mut headers = HeadersMut(headers);
        global::get_text_map_propagator(|propagator| {
            propagator.inject_context(&self.0, &mut headers);
        });
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct HeadersMut<'a>(&'a mut HeaderMap);

impl Injector for HeadersMut<'_> {
    fn set(&mut self, key: &str, value: String) {
        let name = HeaderName::from_bytes(key.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&value)) {
            self.0.insert(name, value);
        }
    }
}
