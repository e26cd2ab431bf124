//! What the operator counts.

use std::time::Duration;

use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, IntCounter, IntGauge, Opts, Registry, TextEncoder,
};

use naru_plan::power::BudgetReport;

use crate::power_metrics::PowerMetrics;

/// From a look that changes nothing to a slow API server.
const SECONDS: [f64; 12] =
    [0.000_1, 0.000_5, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The metrics of one operator.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    reconcile_seconds: Histogram,
    reconciles: IntCounter,
    errors: IntCounter,
    depth: IntGauge,
    leader: IntGauge,
    deployments: IntGauge,
    certificate: GaugeVec,
    power: PowerMetrics,
}

impl Metrics {
    /// Nothing counted yet. Errors: a metric of the same name twice, which only a programmer can
    /// bring about.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let metrics = Self {
            reconcile_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "naru_reconcile_duration_seconds",
                    "From a decision about one model deployment to its being carried out.",
                )
                .buckets(SECONDS.to_vec()),
            )?,
            reconciles: IntCounter::new(
                "naru_reconcile_total",
                "Decisions about model deployments that were carried out.",
            )?,
            errors: IntCounter::new(
                "naru_reconcile_errors_total",
                "Decisions about model deployments that could not be carried out.",
            )?,
            depth: IntGauge::new(
                "naru_workqueue_depth",
                "Model deployments that have to be looked at.",
            )?,
            leader: IntGauge::new("naru_operator_leader", "1 while this operator leads.")?,
            deployments: IntGauge::new(
                "naru_model_deployments",
                "Model deployments that are wished.",
            )?,
            certificate: GaugeVec::new(
                Opts::new(
                    "naru_certificate_expiry_timestamp_seconds",
                    "When the certificate in use is no longer valid, Unix seconds.",
                ),
                &["role"],
            )?,
            power: PowerMetrics::register(&registry)?,
            registry,
        };
        let Self {
            registry,
            reconcile_seconds,
            reconciles,
            errors,
            depth,
            leader,
            deployments,
            ..
        } = &metrics;
        registry.register(Box::new(reconcile_seconds.clone()))?;
        registry.register(Box::new(reconciles.clone()))?;
        registry.register(Box::new(errors.clone()))?;
        registry.register(Box::new(depth.clone()))?;
        registry.register(Box::new(leader.clone()))?;
        registry.register(Box::new(deployments.clone()))?;
        registry.register(Box::new(metrics.certificate.clone()))?;
        Ok(metrics)
    }

    /// Where it counts; what is registered here besides is on its page too.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Everything in the text format.
    pub fn page(&self) -> String {
        let mut page = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut page) {
            tracing::error!(%error, "writing the metrics");
        }
        String::from_utf8_lossy(&page).into_owned()
    }

    /// One decision was carried out, or could not be.
    pub(super) fn reconciled(&self, took: Duration, is_good: bool) {
        self.reconcile_seconds.observe(took.as_secs_f64());
        if is_good { self.reconciles.inc() } else { self.errors.inc() }
    }

    pub(super) fn depth(&self, deployments: usize) {
        self.depth.set(i64::try_from(deployments).unwrap_or(i64::MAX));
    }

    pub(super) fn wished(&self, deployments: usize) {
        self.deployments.set(i64::try_from(deployments).unwrap_or(i64::MAX));
    }

    /// Until when peers believe who this operator is.
    pub fn certificate(&self, expires_unix_seconds: i64) {
        self.certificate.with_label_values(&["operator"]).set(expires_unix_seconds as f64);
    }

    /// How the power budgets stand.
    pub(super) fn power(&self, budgets: &[BudgetReport]) {
        self.power.set(budgets);
    }

    /// Whether this operator leads.
    pub fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
    }
}
