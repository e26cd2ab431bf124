//! What is counted of the power budgets. Labels are names of budgets, which people make.

use naru_plan::power::BudgetReport;
use prometheus::{IntGaugeVec, Opts, Registry};

/// One gauge for each watt that a budget tells of.
#[derive(Clone, Debug)]
pub struct PowerMetrics {
    budget: IntGaugeVec,
    charged: IntGaugeVec,
    headroom: IntGaugeVec,
}

impl PowerMetrics {
    /// In this registry. Errors: they are in it already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), &["budget"])?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        Ok(Self {
            budget: gauge(
                "naru_power_budget_watts",
                "Watts that the domain of a power budget may draw now.",
            )?,
            charged: gauge(
                "naru_power_charged_watts",
                "Watts that the replicas in a power budget are charged: their declared maximum.",
            )?,
            headroom: gauge(
                "naru_power_headroom_watts",
                "Watts of a power budget that are left for more replicas.",
            )?,
        })
    }

    /// Tells how these budgets stand, and of no others.
    pub fn set(&self, budgets: &[BudgetReport]) {
        for gauge in [&self.budget, &self.charged, &self.headroom] {
            gauge.reset();
        }
        for report in budgets {
            let set = |gauge: &IntGaugeVec, watts: u64| {
                let gauge = gauge.with_label_values(&[report.name.as_str()]);
                gauge.set(i64::try_from(watts).unwrap_or(i64::MAX));
            };
            set(&self.budget, report.watts.0);
            set(&self.charged, report.charged.0);
            set(&self.headroom, report.headroom.0);
        }
    }
}
