//! What the gateway counts. Label values come from snapshots, never from clients.

use std::time::Instant;

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::fleet::Fleet;

/// From a refused request to a long answer.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 20.0, 60.0, 300.0];

/// The metrics of one gateway.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    seconds: HistogramVec,
    first_byte_seconds: HistogramVec,
    in_flight: IntGaugeVec,
    waiting: IntGauge,
    retries: IntCounterVec,
    connections: IntGauge,
    ready: IntGaugeVec,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let opts = |name: &str, help: &str| Opts::new(format!("naru_gateway_{name}"), help);
        let histogram = |name: &str, help: &str| {
            HistogramOpts::from(opts(name, help)).buckets(SECONDS.to_vec())
        };
        let metrics = Self {
            requests: IntCounterVec::new(
                opts("requests_total", "Requests answered, by model and HTTP status."),
                &["model", "status"],
            )?,
            seconds: HistogramVec::new(
                histogram(
                    "request_seconds",
                    "From the head of a request to the end of its answer.",
                ),
                &["model"],
            )?,
            first_byte_seconds: HistogramVec::new(
                histogram(
                    "first_byte_seconds",
                    "From the head of a request to the first byte back.",
                ),
                &["model"],
            )?,
            in_flight: IntGaugeVec::new(
                opts("requests_in_flight", "Requests that are being answered."),
                &["model"],
            )?,
            waiting: IntGauge::with_opts(opts(
                "requests_waiting",
                "Requests that wait for a worker to become ready.",
            ))?,
            retries: IntCounterVec::new(
                opts("attempts_failed_total", "Attempts at a worker that gave nothing, by reason."),
                &["reason"],
            )?,
            connections: IntGauge::with_opts(opts("connections", "Connections of clients."))?,
            ready: IntGaugeVec::new(
                opts("endpoints_ready", "Endpoints that answer, by model."),
                &["model"],
            )?,
            registry,
        };
        metrics.registry.register(Box::new(metrics.requests.clone()))?;
        metrics.registry.register(Box::new(metrics.seconds.clone()))?;
        metrics.registry.register(Box::new(metrics.first_byte_seconds.clone()))?;
        metrics.registry.register(Box::new(metrics.in_flight.clone()))?;
        metrics.registry.register(Box::new(metrics.waiting.clone()))?;
        metrics.registry.register(Box::new(metrics.retries.clone()))?;
        metrics.registry.register(Box::new(metrics.connections.clone()))?;
        metrics.registry.register(Box::new(metrics.ready.clone()))?;
        Ok(metrics)
    }

    /// The Prometheus text page.
    pub(crate) fn page(&self, fleet: &Fleet) -> Vec<u8> {
        self.ready.reset();
        for (model, entry) in &fleet.snapshot().models {
            let ready = entry.endpoints.iter().filter(|e| e.ready && !e.draining).count();
            self.ready.with_label_values(&[model]).set(i64::try_from(ready).unwrap_or(i64::MAX));
        }
        let mut page = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut page) {
            tracing::error!(%error, "writing the metrics page");
        }
        page
    }

    /// An attempt gave nothing; `reason` is one of the forwarder's own few.
    pub(crate) fn retried(&self, reason: &'static str) {
        self.retries.with_label_values(&[reason]).inc();
    }

    /// Counts one more waiting request until the result is dropped.
    pub(crate) fn waiting(&self) -> Counted {
        Counted::one(&self.waiting)
    }

    /// Counts one more connection until the result is dropped.
    pub(crate) fn connection(&self) -> Counted {
        Counted::one(&self.connections)
    }

    /// Follows one request until the result is dropped. `model` is "" when there is none such.
    pub(crate) fn request(&self, model: &str) -> Timer {
        let in_flight = self.in_flight.with_label_values(&[model]);
        Timer {
            metrics: self.clone(),
            model: model.to_owned(),
            begun: Instant::now(),
            _in_flight: Counted::one(&in_flight),
        }
    }
}

/// Adds one to a gauge while it lives.
pub(crate) struct Counted(IntGauge);

impl Counted {
    fn one(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One request from its head to the end of its answer.
pub(crate) struct Timer {
    metrics: Metrics,
    model: String,
    begun: Instant,
    _in_flight: Counted,
}

impl Timer {
    /// The answer has begun, with this HTTP status.
    pub(crate) fn answered(&self, status: u16) {
        let model = self.model.as_str();
        self.metrics.requests.with_label_values(&[model, &status.to_string()]).inc();
        let seconds = self.begun.elapsed().as_secs_f64();
        self.metrics.first_byte_seconds.with_label_values(&[model]).observe(seconds);
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let seconds = self.begun.elapsed().as_secs_f64();
        self.metrics.seconds.with_label_values(&[&self.model]).observe(seconds);
    }
}
