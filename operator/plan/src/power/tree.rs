//! The budgets as a tree: which are above which, and what is wrong with those that hang nowhere.

use std::collections::BTreeMap;
use std::fmt;

use super::PowerBudget;
use crate::names::BudgetName;
use crate::units::Watts;

/// Why nothing may be started under a budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BudgetFault {
    /// There is no budget of this name.
    Missing(BudgetName),
    /// It is a part of itself; each of these is in the next, the last one again the first.
    Ring(Vec<BudgetName>),
}

impl fmt::Display for BudgetFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "there is no PowerBudget {:?}", name.as_str()),
            Self::Ring(names) => {
                let names: Vec<_> = names.iter().map(BudgetName::as_str).collect();
                write!(f, "the budget would be part of itself: {}", names.join(" in "))
            }
        }
    }
}

/// The place of a budget in [`Tree::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeIndex(pub(super) usize);

/// One budget in its place.
pub(super) struct Node<'a> {
    pub(super) budget: &'a PowerBudget,
    /// Itself, then those above it, as far as there are any.
    pub(super) path: Vec<NodeIndex>,
    pub(super) fault: Option<BudgetFault>,
    /// What its domain draws beside devices: what it says, and never less than its parts.
    pub(super) overhead: Watts,
}

/// All budgets.
pub(super) struct Tree<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    by_name: BTreeMap<&'a BudgetName, NodeIndex>,
}

impl<'a> Tree<'a> {
    pub(super) fn of(budgets: &'a [PowerBudget]) -> Self {
        let mut by_name = BTreeMap::new();
        let mut known = Vec::new();
        for budget in budgets {
            if !by_name.contains_key(&budget.name) {
                by_name.insert(&budget.name, NodeIndex(known.len()));
                known.push(budget);
            }
        }
        let node = |(index, budget): (usize, &&'a PowerBudget)| {
            let (path, fault) = climb(NodeIndex(index), &known, &by_name);
            Node { budget, path, fault, overhead: budget.overhead }
        };
        let nodes = known.iter().enumerate().map(node).collect();
        let mut tree = Self { nodes, by_name };
        tree.add_overheads_up();
        tree
    }

    /// A budget by its name.
    pub(super) fn find(&self, name: &BudgetName) -> Option<NodeIndex> {
        self.by_name.get(name).copied()
    }

    pub(super) fn node(&self, index: NodeIndex) -> &Node<'a> {
        &self.nodes[index.0]
    }

    /// The deepest first, so that each part is known before its whole.
    fn add_overheads_up(&mut self) {
        let mut order: Vec<_> = (0..self.nodes.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(self.nodes[*index].path.len()));
        let mut of_parts = vec![0_u64; self.nodes.len()];
        for index in order {
            let node = &mut self.nodes[index];
            node.overhead = node.overhead.max(Watts(of_parts[index]));
            let is_in_ring = matches!(node.fault, Some(BudgetFault::Ring(_)));
            if let Some(above) = node.path.get(1).filter(|_| !is_in_ring) {
                of_parts[above.0] = of_parts[above.0].saturating_add(node.overhead.0);
            }
        }
    }
}

/// What is wrong with the place of `budget` among `all` budgets.
pub fn fault(budget: &PowerBudget, all: &[&PowerBudget]) -> Option<BudgetFault> {
    let mut by_name = BTreeMap::new();
    let known: Vec<_> = [budget].into_iter().chain(all.iter().copied()).collect();
    for (index, budget) in known.iter().enumerate() {
        by_name.entry(&budget.name).or_insert(NodeIndex(index));
    }
    climb(NodeIndex(0), &known, &by_name).1
}

/// A budget and those above it, and what is wrong with that.
fn climb(
    from: NodeIndex,
    known: &[&PowerBudget],
    by_name: &BTreeMap<&BudgetName, NodeIndex>,
) -> (Vec<NodeIndex>, Option<BudgetFault>) {
    let mut path = vec![from];
    let mut at = from;
    while let Some(parent) = &known[at.0].parent {
        let Some(above) = by_name.get(parent).copied() else {
            return (path, Some(BudgetFault::Missing(parent.clone())));
        };
        if let Some(begin) = path.iter().position(|seen| *seen == above) {
            let ring = path[begin..].iter().chain([&above]);
            let names = ring.map(|index| known[index.0].name.clone()).collect();
            return (path, Some(BudgetFault::Ring(names)));
        }
        path.push(above);
        at = above;
    }
    (path, None)
}
