//! What the gateway counts. Label values come from snapshots, never from clients.

use std::time::Instant;

use naru_protocol::tls::Handshake;
use prometheus::{
    Encoder, Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

use crate::fleet::Fleet;
use crate::held::Freshness;

/// From a refused request to a long answer.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 20.0, 60.0, 300.0];

/// Why an attempt at a worker gave nothing. Each is counted from 0 on: a rate does not see the
/// first of a series that was not there before.
const ATTEMPT_FAILURES: [&str; 5] = [
    "could not connect",
    "ended before it answered",
    "ended before its first byte",
    "endpoint is no address",
    "takes no requests now",
];

/// Why a snapshot is not taken, likewise.
const SNAPSHOT_REFUSALS: [&str; 2] = ["stale", "invalid"];

/// The metrics of one gateway.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    refusals: IntCounterVec,
    seconds: HistogramVec,
    first_byte_seconds: HistogramVec,
    in_flight: IntGaugeVec,
    waiting: IntGauge,
    retries: IntCounterVec,
    connections: IntGauge,
    ready: IntGaugeVec,
    held: HeldMetrics,
    certificate: IntGaugeVec,
    handshakes_failed: IntCounterVec,
    certificates_refused: IntCounter,
}

/// What is told of the snapshot that is held.
#[derive(Clone)]
struct HeldMetrics {
    epoch: IntGauge,
    sequence: IntGauge,
    age_seconds: Gauge,
    connected: IntGauge,
    refused: IntCounterVec,
    write_failures: IntCounter,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let named = Named(Registry::new());
        Ok(Self {
            requests: named.counters(
                "requests_total",
                "Requests answered, by model, HTTP status and tenant.",
                &["model", "status", "tenant"],
            )?,
            refusals: named.counters(
                "refusals_total",
                "Requests that the gateway itself refused, by the error's code and tenant.",
                &["code", "tenant"],
            )?,
            seconds: named.seconds(
                "request_seconds",
                "From the head of a request to the end of its answer.",
            )?,
            first_byte_seconds: named.seconds(
                "first_byte_seconds",
                "From the head of a request to the first byte back.",
            )?,
            in_flight: named.gauges(
                "requests_in_flight",
                "Requests that are being answered.",
                &["model"],
            )?,
            waiting: named
                .gauge("requests_waiting", "Requests that wait for a worker to become ready.")?,
            retries: named.counted_from_zero(
                "attempts_failed_total",
                "Attempts at a worker that gave nothing, by reason.",
                &ATTEMPT_FAILURES,
            )?,
            connections: named.gauge("connections", "Connections of clients.")?,
            ready: named.gauges(
                "endpoints_ready",
                "Endpoints that answer, by model.",
                &["model"],
            )?,
            held: HeldMetrics::new(&named)?,
            certificate: named.added(IntGaugeVec::new(
                Opts::new(
                    "naru_certificate_expiry_timestamp_seconds",
                    "When the certificate in use is no longer valid, Unix seconds.",
                ),
                &["role"],
            )?)?,
            handshakes_failed: named.counted_from_zero(
                "handshakes_failed_total",
                "Clients with whom no TLS came about, by reason.",
                &Handshake::ALL.map(Handshake::words),
            )?,
            certificates_refused: named.added(IntCounter::with_opts(Named::opts(
                "certificates_refused_total",
                "Changed files of the certificate for clients that were not taken up.",
            ))?)?,
            registry: named.0,
        })
    }

    /// Until when operators and workers believe who this gateway is.
    pub(crate) fn certificate(&self, expires_unix_seconds: i64) {
        self.certificate.with_label_values(&["gateway"]).set(expires_unix_seconds);
    }

    /// Until when clients believe that this is who they asked for.
    pub(crate) fn door_certificate(&self, expires_unix_seconds: i64) {
        self.certificate.with_label_values(&["door"]).set(expires_unix_seconds);
    }

    /// Changed files were not taken up.
    pub(crate) fn door_certificate_refused(&self) {
        self.certificates_refused.inc();
    }

    /// A client and TLS did not come together.
    pub(crate) fn handshake_failed(&self, reason: Handshake) {
        self.handshakes_failed.with_label_values(&[reason.words()]).inc();
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The Prometheus text page.
    pub(crate) fn page(&self, fleet: &Fleet, freshness: &Freshness) -> Vec<u8> {
        let snapshot = fleet.snapshot();
        self.ready.reset();
        for (model, entry) in &snapshot.models {
            let ready = entry.endpoints.iter().filter(|e| e.ready && !e.draining).count();
            self.ready.with_label_values(&[model]).set(i64::try_from(ready).unwrap_or(i64::MAX));
        }
        self.held.epoch.set(i64::try_from(snapshot.version.epoch).unwrap_or(i64::MAX));
        self.held.sequence.set(i64::try_from(snapshot.version.sequence).unwrap_or(i64::MAX));
        self.held.age_seconds.set(freshness.age().as_secs_f64());
        let mut page = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut page) {
            tracing::error!(%error, "writing the metrics page");
        }
        page
    }

    /// An attempt gave nothing; `reason` is one of the forwarder's own few.
    pub(crate) fn retried(&self, reason: &'static str) {
        debug_assert!(ATTEMPT_FAILURES.contains(&reason), "not counted from 0 on: {reason}");
        self.retries.with_label_values(&[reason]).inc();
    }

    /// The gateway itself said no; `code` is one of the protocol's own.
    pub(crate) fn refused(&self, code: &'static str, tenant: &str) {
        self.refusals.with_label_values(&[code, tenant]).inc();
    }

    /// Counts one more waiting request until the result is dropped.
    pub(crate) fn waiting(&self) -> Counted {
        Counted::one(&self.waiting)
    }

    /// Counts one more connection until the result is dropped.
    pub(crate) fn connection(&self) -> Counted {
        Counted::one(&self.connections)
    }

    /// Whether snapshots are being heard.
    pub(crate) fn operator_connected(&self, is_connected: bool) {
        self.held.connected.set(i64::from(is_connected));
    }

    /// A snapshot was not taken; `reason` is one of the follower's own few.
    pub(crate) fn snapshot_refused(&self, reason: &'static str) {
        debug_assert!(SNAPSHOT_REFUSALS.contains(&reason), "not counted from 0 on: {reason}");
        self.held.refused.with_label_values(&[reason]).inc();
    }

    /// The disk did not take a snapshot.
    pub(crate) fn snapshot_write_failed(&self) {
        self.held.write_failures.inc();
    }

    /// Follows one request until the result is dropped. `model` and `tenant` are "" when there is
    /// none such.
    pub(crate) fn request(&self, model: &str, tenant: &str) -> Timer {
        let in_flight = self.in_flight.with_label_values(&[model]);
        Timer {
            metrics: self.clone(),
            model: model.to_owned(),
            tenant: tenant.to_owned(),
            begun: Instant::now(),
            _in_flight: Counted::one(&in_flight),
        }
    }
}

impl HeldMetrics {
    fn new(named: &Named) -> Result<Self, prometheus::Error> {
        Ok(Self {
            epoch: named.gauge("snapshot_epoch", "Leader whose snapshot is served by.")?,
            sequence: named
                .gauge("snapshot_sequence", "Number of that snapshot, of its leader.")?,
            age_seconds: named.added(Gauge::with_opts(Named::opts(
                "snapshot_age_seconds",
                "Seconds for which the snapshot may be out of date; 0 while changes are heard.",
            ))?)?,
            connected: named
                .gauge("operator_connected", "1 while an operator's snapshots are followed.")?,
            refused: named.counted_from_zero(
                "snapshots_refused_total",
                "Snapshots that were not taken: stale or invalid.",
                &SNAPSHOT_REFUSALS,
            )?,
            write_failures: named.added(IntCounter::with_opts(Named::opts(
                "snapshot_write_failures_total",
                "Snapshots that could not be kept on disk.",
            ))?)?,
        })
    }
}

/// Makes metrics with the gateway's prefix, and registers them.
struct Named(Registry);

impl Named {
    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(format!("naru_gateway_{name}"), help)
    }

    fn added<T>(&self, metric: T) -> Result<T, prometheus::Error>
    where
        T: prometheus::core::Collector + Clone + 'static,
    {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.added(IntGauge::with_opts(Self::opts(name, help))?)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, prometheus::Error> {
        self.added(IntGaugeVec::new(Self::opts(name, help), labels)?)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        self.added(IntCounterVec::new(Self::opts(name, help), labels)?)
    }

    /// Counters by reason, where all reasons are known.
    fn counted_from_zero(
        &self,
        name: &str,
        help: &str,
        reasons: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        let counters = self.counters(name, help, &["reason"])?;
        for reason in reasons {
            counters.with_label_values(&[reason]);
        }
        Ok(counters)
    }

    /// Durations by model.
    fn seconds(&self, name: &str, help: &str) -> Result<HistogramVec, prometheus::Error> {
        let opts = HistogramOpts::from(Self::opts(name, help)).buckets(SECONDS.to_vec());
        self.added(HistogramVec::new(opts, &["model"])?)
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
    tenant: String,
    begun: Instant,
    _in_flight: Counted,
}

impl Timer {
    /// The answer has begun, with this HTTP status.
    pub(crate) fn answered(&self, status: u16) {
        let (model, status, tenant) = (&self.model, &status.to_string(), &self.tenant);
        self.metrics.requests.with_label_values(&[model, status, tenant]).inc();
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
