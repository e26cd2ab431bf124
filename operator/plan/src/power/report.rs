//! How each budget stands.

use super::supply::Supply;
use super::tree::{BudgetFault, NodeIndex, Tree};
use crate::names::BudgetName;
use crate::units::{Moment, Watts};

/// One budget as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetReport {
    /// Which one.
    pub name: BudgetName,
    /// What its domain may draw now.
    pub watts: Watts,
    /// What its domain draws beside devices: what it says, and never less than its parts.
    pub overhead: Watts,
    /// What the replicas in it are charged.
    pub charged: Watts,
    /// What is left for more.
    pub headroom: Watts,
    /// Whether it holds.
    pub state: BudgetState,
}

/// Whether a budget holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BudgetState {
    /// Charges and overhead are within its watts.
    Holds,
    /// They are not: it was lowered without notice, and what no longer fits drains.
    Exceeded,
    /// Its overhead alone takes all of its watts.
    Infeasible,
    /// It hangs nowhere.
    Broken(BudgetFault),
}

/// All budgets; `held` is what is charged to each now.
pub(super) fn budgets(
    tree: &Tree<'_>,
    supply: &Supply,
    held: &[u64],
    now: Moment,
) -> Vec<BudgetReport> {
    let report = |(index, charged): (usize, &u64)| {
        let node = tree.node(NodeIndex(index));
        let (watts, charged) = (supply.watts(NodeIndex(index), now), Watts(*charged));
        let for_devices = watts.less(node.overhead);
        let state = match &node.fault {
            Some(fault) => BudgetState::Broken(fault.clone()),
            None if for_devices.0 == 0 => BudgetState::Infeasible,
            None if charged > for_devices => BudgetState::Exceeded,
            None => BudgetState::Holds,
        };
        BudgetReport {
            name: node.budget.name.clone(),
            watts,
            overhead: node.overhead,
            charged,
            headroom: for_devices.less(charged),
            state,
        }
    };
    held.iter().enumerate().map(report).collect()
}
