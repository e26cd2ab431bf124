//! What was compared, and how near it came.

use serde_json::json;

/// One comparison of a kernel with its reference in f64.
#[derive(Debug)]
pub struct Outcome {
    /// The op.
    pub op: &'static str,
    /// Which sizes and kinds.
    pub case: String,
    /// The largest error of an element as a share of its own bound; above 1 is a failure.
    pub worst: f64,
    /// ‖found − expected‖ / ‖expected‖.
    pub relative: f64,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// How fast a kernel was.
#[derive(Debug)]
pub struct Timing {
    /// The op.
    pub op: &'static str,
    /// Which sizes and kinds, as the peers' script names them.
    pub case: String,
    /// The median of a launch.
    pub seconds: f64,
    /// Bytes that had to move.
    pub bytes: f64,
    /// Operations that had to be done.
    pub flop: f64,
}

/// Everything of one run.
#[derive(Debug, Default)]
pub struct Report {
    /// In the order they were made.
    pub outcomes: Vec<Outcome>,
    /// Likewise.
    pub timings: Vec<Timing>,
}

impl Report {
    /// Holds each element of `found` against `expected`, give or take its `bound`. NaN is never
    /// near, unless NaN is expected.
    pub fn compare(
        &mut self,
        op: &'static str,
        case: String,
        found: &[f64],
        expected: &[f64],
        bound: impl Fn(usize) -> f64,
    ) {
        assert_eq!(found.len(), expected.len(), "{op} {case}");
        let mut outcome = Outcome { op, case, worst: 0.0, relative: 0.0, failure: None };
        let (mut wrong, mut size) = (0.0, 0.0);
        for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
            let same = found == expected || (found.is_nan() && expected.is_nan());
            if same {
                size += if expected.is_finite() { expected * expected } else { 0.0 };
                continue;
            }
            let share = (found - expected).abs() / bound(i);
            wrong += (found - expected) * (found - expected);
            size += expected * expected;
            if share > outcome.worst || share.is_nan() {
                outcome.worst = if share.is_nan() { f64::INFINITY } else { share };
            }
            let is_near = share <= 1.0;
            if !is_near && outcome.failure.is_none() {
                let failure = format!("element {i} is {found}, not {expected} ± {:e}", bound(i));
                outcome.failure = Some(failure);
            }
        }
        outcome.relative = if wrong == 0.0 { 0.0 } else { (wrong / size).sqrt() };
        self.outcomes.push(outcome);
    }

    /// Notes that a launch did not succeed.
    pub fn fail(&mut self, op: &'static str, case: String, failure: String) {
        let failure = Some(failure);
        self.outcomes.push(Outcome {
            op,
            case,
            worst: f64::INFINITY,
            relative: f64::INFINITY,
            failure,
        });
    }

    /// Everything, as the page of results keeps it.
    pub fn to_json(&self, machine: &str) -> String {
        let outcome = |one: &Outcome| {
            json!({
                "op": one.op, "case": one.case, "worst_share_of_bound": one.worst,
                "relative_error": one.relative, "passed": one.failure.is_none(),
            })
        };
        let timing = |one: &Timing| {
            json!({
                "op": one.op, "case": one.case, "seconds": one.seconds, "bytes": one.bytes,
                "flop": one.flop,
            })
        };
        let outcomes: Vec<_> = self.outcomes.iter().map(outcome).collect();
        let timings: Vec<_> = self.timings.iter().map(timing).collect();
        json!({"device": machine, "comparisons": outcomes, "timings": timings}).to_string()
    }
}
