//! Traces: told by OTLP to the collector that the environment names, or to nobody.

use std::time::Duration;

use anyhow::Context;
use opentelemetry::global;
use opentelemetry_otlp::{
    OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, SpanExporter,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;

use crate::failure::Failure;

/// How long the end of a process may wait for a collector.
const FLUSH: Duration = Duration::from_secs(2);

/// The traces of this process; nothing is recorded where no collector is named.
pub(crate) struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Begins to tell, within a runtime, as `service` unless OTEL_SERVICE_NAME says otherwise.
    ///
    /// Errors: the collector's address is none.
    pub(crate) fn begin(service: &'static str) -> Result<Self, Failure> {
        let names = [OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT];
        let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let Some(name) = names.into_iter().find(is_set) else { return Ok(Self(None)) };
        let exporter = SpanExporter::builder().with_tonic().build();
        let exporter = exporter.context(name).map_err(Failure::BadUsage)?;
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none_or(|name| name.is_empty()) {
            resource = resource.with_service_name(service);
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        global::set_text_map_propagator(TraceContextPropagator::new());
        global::set_tracer_provider(provider.clone());
        Ok(Self(Some(provider)))
    }

    /// Tells the last spans, within [`FLUSH`].
    pub(crate) async fn end(self) {
        let Some(provider) = self.0 else { return };
        // It waits for the thread that tells, which needs this runtime.
        let end = move || provider.shutdown_with_timeout(FLUSH);
        match tokio::task::spawn_blocking(end).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last spans could not be told"),
            Err(error) => tracing::error!(%error, "telling the last spans"),
        }
    }
}
