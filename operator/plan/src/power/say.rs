//! What to say of an allowance: whether the wish fits, why not, and what would make room.

use super::allot::{Ranked, Round, Shortfall};
use super::schedule::written;
use super::tree::BudgetFault;
use crate::condition::{Reason, Truth};
use crate::units::{Moment, Watts};

/// Holders of watts that a message names at most.
const NAMES_MAX: usize = 3;

/// Whether a wish fits, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether all that is wished fits.
    pub truth: Truth,
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people, and what would make room.
    pub message: String,
}

fn no(reason: Reason, message: String) -> Verdict {
    Verdict { truth: Truth::False, reason, message }
}

fn each(ranked: &Ranked<'_>) -> u64 {
    ranked.consumer.power.watts_per_replica.0
}

fn budget<'a>(ranked: &'a Ranked<'_>) -> &'a str {
    ranked.consumer.power.budget.as_str()
}

/// All of it fits.
pub(super) fn fits(ranked: &Ranked<'_>) -> Verdict {
    let (wished, each, budget) = (ranked.consumer.wished.0, each(ranked), budget(ranked));
    let message = format!("{wished} replicas at {each} W fit into budget {budget}");
    Verdict { truth: Truth::True, reason: Reason::WithinBudget, message }
}

/// Nothing can be told of its budget.
pub(super) fn fault(fault: &BudgetFault) -> Verdict {
    let message = format!("{fault}; what runs goes on, and nothing more is started");
    no(Reason::PowerBudgetInvalid, message)
}

/// What fits waits for what goes.
pub(super) fn waits_for_drains(ranked: &Ranked<'_>) -> Verdict {
    let (each, budget) = (each(ranked), budget(ranked));
    let message = format!(
        "the next replica takes {each} W, and budget {budget} or one above it is charged for \
         replicas that are still to go; it is made when they are gone"
    );
    no(Reason::PowerBudgetFull, message)
}

/// A successor needs watts before its predecessor gives them back.
pub(super) fn cannot_exchange(ranked: &Ranked<'_>) -> Verdict {
    let (each, budget) = (each(ranked), budget(ranked));
    let message = format!(
        "a successor takes {each} W beside the replica that it replaces, and budget {budget} or \
         one above it has less; room comes with more watts, with one replica fewer, or with \
         rollout.strategy InPlace"
    );
    no(Reason::PowerBudgetFull, message)
}

/// Some of what is wished does not fit at a moment.
pub(super) fn too_few(
    round: &Round<'_>,
    ranked: &Ranked<'_>,
    fit: u32,
    at: &Moment,
    shortfall: &Shortfall,
) -> Verdict {
    let supply = round.supply;
    let now = &supply.instants[0];
    let each = each(ranked);
    let when = if *at > now.at { format!(" from {} on", written(*at)) } else { String::new() };
    let name = |node| round.tree.node(node).budget.name.as_str();
    let lack = |(node, watts): &(_, Watts)| format!("budget {} lacks {} W", name(*node), watts.0);
    let lacks: Vec<_> = shortfall.lacking.iter().map(lack).collect();
    let lacks = lacks.join(" and ");
    let wished = ranked.consumer.wished.0;
    let instant = supply.instants.iter().find(|instant| instant.at == *at).unwrap_or(now);
    let is_too_small = |(node, _): &&(_, Watts)| instant.for_devices(*node).0 < each;
    let rise = || match &shortfall.lacking[..] {
        [(node, _)] => supply.rises_after(*node, *at),
        _ => None,
    };
    let rise = rise().map(|at| format!("; its schedule gives more at {}", written(at)));
    let rise = rise.unwrap_or_default();
    if let Some((node, _)) = shortfall.lacking.iter().find(is_too_small) {
        let (watts, overhead) = (supply.watts(*node, *at).0, round.tree.node(*node).overhead.0);
        let message = format!(
            "no replica fits{when}: each takes {each} W, and budget {} has {watts} W, of which \
             overhead takes {overhead} W{rise}",
            name(*node)
        );
        return no(Reason::PowerInfeasible, message);
    }
    let mut names: Vec<_> =
        shortfall.holders.iter().take(NAMES_MAX).map(ToString::to_string).collect();
    let others = shortfall.holders.len().saturating_sub(names.len());
    if others > 0 {
        names.push(format!("{others} more"));
    }
    let less = if names.is_empty() {
        String::new()
    } else {
        format!(", or with fewer replicas of {}", names.join(", "))
    };
    let message = format!(
        "{fit} of {wished} replicas fit{when}: one more takes {each} W, and {lacks}; room comes \
         with that much more{less}{rise}"
    );
    no(Reason::PowerBudgetFull, message)
}
