//! What the steps of a replica of several ranks take on those that are here.

use naru_engine::LinkTime;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts};

use super::Builder;

/// From a sum of a few kilobytes on this machine to a long prompt over a slow network.
const SECONDS: &[f64] = &[
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

pub(super) struct Ranks {
    seconds: HistogramVec,
    bytes: IntCounterVec,
}

/// The steps of one rank.
pub(crate) struct RankSteps {
    compute: Histogram,
    wait: Histogram,
    link: Histogram,
    bytes: IntCounter,
}

impl Ranks {
    pub(super) fn new(build: &Builder<'_>) -> Self {
        let help = "Of each step on a rank, what computing, waiting for other ranks, and the link \
                    took";
        let opts = HistogramOpts::new("naru_rank_step_seconds", help).buckets(SECONDS.to_vec());
        let help = "Bytes of values that a rank gave to others";
        let bytes = Opts::new("naru_rank_sent_bytes_total", help);
        Self {
            seconds: build.keep(HistogramVec::new(opts, &["rank", "part"])),
            bytes: build.keep(IntCounterVec::new(bytes, &["rank"])),
        }
    }

    pub(super) fn of(&self, rank: usize) -> RankSteps {
        let rank = rank.to_string();
        let part = |part: &str| self.seconds.with_label_values(&[&*rank, part]);
        let bytes = self.bytes.with_label_values(&[&*rank]);
        RankSteps { compute: part("compute"), wait: part("wait"), link: part("link"), bytes }
    }
}

impl RankSteps {
    /// Notes what one step took.
    pub(crate) fn observe(&self, spent: LinkTime) {
        self.compute.observe(spent.compute().as_secs_f64());
        self.wait.observe(spent.wait.as_secs_f64());
        self.link.observe(spent.link.as_secs_f64());
        self.bytes.inc_by(spent.bytes);
    }
}
