//! Spans of what is written, for whoever collects traces; without a collector they are nothing.

use naru_plan::DeploymentName;
use opentelemetry::trace::{Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue, global};

use super::apply::ApplyError;

/// What the spans of an operator are filed under.
const SCOPE: &str = "naru-operator";

/// One span; dropping it ends it.
pub(super) struct Span(Context);

impl Span {
    /// Of one decision, a trace of its own; a decision that writes nothing has none.
    pub(super) fn of_decision(name: &DeploymentName, writes: usize) -> Self {
        if writes == 0 {
            return Self(Context::new());
        }
        let attributes = [
            KeyValue::new("naru.deployment", name.to_string()),
            KeyValue::new("naru.writes", i64::try_from(writes).unwrap_or(i64::MAX)),
        ];
        Self::begin("reconcile", attributes.into(), &Context::new())
    }

    /// Of one write within it.
    pub(super) fn of_write(&self, what: &'static str) -> Self {
        Self::begin(what, Vec::new(), &self.0)
    }

    fn begin(what: &'static str, attributes: Vec<KeyValue>, parent: &Context) -> Self {
        let tracer = global::tracer(SCOPE);
        let builder = tracer.span_builder(what).with_attributes(attributes);
        Self(parent.with_span(builder.start_with_context(&tracer, parent)))
    }

    /// Ends it, with what came of it.
    pub(super) fn end<T>(self, result: &Result<T, ApplyError>) {
        if let Err(error) = result {
            self.0.span().set_status(Status::error(crate::reconcile::one_line(error)));
        }
    }
}
