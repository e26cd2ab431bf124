//! Whether an object may be as it is, beside the others: the decision.

use naru_api::{key_taken, name_taken};
use naru_protocol::worker::v1::Splits;

use super::facts::{Cut, Fact, Facts};

/// Why an object is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Conflict {
    /// The field at fault.
    pub(super) path: String,
    /// What is wrong with it.
    pub(super) message: String,
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// The conflicts that `new` brings; those that `old` had already are nobody's to mend here, or an
/// object that lost could not even be changed or deleted.
pub(super) fn review(new: &Fact, old: Option<&Fact>, facts: &Facts) -> Vec<Conflict> {
    let mut conflicts = conflicts(new, facts);
    if let Some(old) = old {
        let before = self::conflicts(old, facts);
        conflicts
            .retain(|conflict| !before.iter().any(|before| before.message == conflict.message));
    }
    conflicts
}

fn conflicts(fact: &Fact, facts: &Facts) -> Vec<Conflict> {
    match fact {
        Fact::Deployment { key, names, budget, cut } => {
            let taken = names.iter().enumerate().filter_map(|(index, name)| {
                let other = facts.served_by(name, key)?;
                let path = format!("spec.model.names[{index}]");
                Some(Conflict { path, message: name_taken(name, &other.to_string()) })
            });
            let missing = budget.iter().filter(|budget| facts.parent(budget).is_none());
            let missing = missing.map(|budget| Conflict {
                path: "spec.power.budget".to_owned(),
                message: no_budget(budget),
            });
            taken.chain(missing).chain(misfits(cut, facts)).collect()
        }
        Fact::Tenant { name, keys } => {
            let taken = keys.iter().enumerate().filter_map(|(index, sha256)| {
                let other = facts.tenant_with(sha256, name)?;
                let path = format!("spec.keys[{index}].sha256");
                Some(Conflict { path, message: key_taken(other) })
            });
            taken.collect()
        }
        Fact::Budget { name, parent, meaningless } => {
            let message = parent.as_deref().and_then(|parent| parent_fault(name, parent, facts));
            let conflict = |message| Conflict { path: "spec.parent".to_owned(), message };
            let meaningless = meaningless.iter().cloned();
            let meaningless = meaningless.map(|(path, message)| Conflict { path, message });
            message.map(conflict).into_iter().chain(meaningless).collect()
        }
    }
}

/// What of a cut a model is known not to take.
fn misfits(cut: &Cut, facts: &Facts) -> Vec<Conflict> {
    let Some(Splits { tensor, pipeline_max }) = facts.splits(&cut.uri) else { return Vec::new() };
    let conflict =
        |field: &str, message| Conflict { path: format!("spec.parallelism.{field}"), message };
    let mut misfits = Vec::new();
    if !tensor.contains(&cut.tensor) {
        let works: Vec<_> = tensor.iter().map(u32::to_string).collect();
        let works = works.join(", ");
        let message = format!("the model cannot be cut into {}; {works} work", cut.tensor);
        misfits.push(conflict("tensor", message));
    }
    if cut.pipeline > pipeline_max {
        let message = format!("the model has {pipeline_max} layers");
        misfits.push(conflict("pipeline", message));
    }
    misfits
}

fn parent_fault(name: &str, parent: &str, facts: &Facts) -> Option<String> {
    let mut chain = vec![name, parent];
    if parent != name && facts.parent(parent).is_none() {
        return Some(no_budget(parent));
    }
    // A chain that is longer than there are budgets goes round.
    for _ in 0..=facts.budgets() {
        let last = *chain.last()?;
        if last == name {
            return Some(format!("the budget would be part of itself: {}", chain.join(" in ")));
        }
        chain.push(facts.parent(last)??);
    }
    None
}

fn no_budget(name: &str) -> String {
    format!("there is no PowerBudget {name:?}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::facts::Key;
    use super::*;
    use crate::models::KnownModels;

    fn key(name: &str) -> Key {
        Key { namespace: "serving".to_owned(), name: name.to_owned() }
    }

    fn owned(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    fn deployment(name: &str, names: &[&str], budget: Option<&str>) -> Fact {
        let (key, names) = (key(name), owned(names));
        let budget = budget.map(str::to_owned);
        Fact::Deployment { key, names, budget, cut: Cut::default() }
    }

    fn tenant(name: &str, keys: &[&str]) -> Fact {
        Fact::Tenant { name: name.to_owned(), keys: owned(keys) }
    }

    fn budget(name: &str, parent: Option<&str>) -> Fact {
        let (name, parent) = (name.to_owned(), parent.map(str::to_owned));
        Fact::Budget { name, parent, meaningless: Vec::new() }
    }

    fn facts() -> Facts {
        let mut facts = Facts::default();
        let known = [
            deployment("solar", &["solar", "solar-open"], Some("hall")),
            tenant("saudi", &["aa", "bb"]),
            budget("site", None),
            budget("hall", Some("site")),
            budget("rack", Some("hall")),
        ];
        for fact in known {
            facts.put(fact, None);
        }
        facts
    }

    #[track_caller]
    fn check(fact: &str, new: &Fact, expected: &[&str]) {
        let said: Vec<_> = review(new, None, &facts()).iter().map(ToString::to_string).collect();
        assert_eq!(said, expected, "{fact}");
    }

    #[test]
    fn served_names_belong_to_one() {
        let taken = r#"spec.model.names[1]: the served name "solar" is taken by serving/solar"#;
        check("another name", &deployment("x", &["x"], None), &[]);
        check("a taken one", &deployment("x", &["x", "solar"], None), &[taken]);
        check("its own", &deployment("solar", &["solar"], None), &[]);
    }

    #[test]
    fn keys_belong_to_one() {
        let taken = "spec.keys[1].sha256: the same key belongs to the tenant saudi";
        check("another key", &tenant("bank", &["cc"]), &[]);
        check("a taken one", &tenant("bank", &["cc", "bb"]), &[taken]);
        check("its own", &tenant("saudi", &["bb"]), &[]);
    }

    #[test]
    fn budgets_form_a_tree() {
        check("a root", &budget("other", None), &[]);
        check("a branch", &budget("other", Some("rack")), &[]);
        let none = r#"spec.parent: there is no PowerBudget "sight""#;
        check("of nothing", &budget("other", Some("sight")), &[none]);
        let round = "spec.parent: the budget would be part of itself: site in rack in hall in site";
        check("a ring", &budget("site", Some("rack")), &[round]);
        let itself = "spec.parent: the budget would be part of itself: site in site";
        check("a ring of one", &budget("site", Some("site")), &[itself]);
        check("a new ring of one", &budget("new", Some("new")), &[&itself.replace("site", "new")]);
        let missing = r#"spec.power.budget: there is no PowerBudget "hell""#;
        check("a deployment's", &deployment("x", &["x"], Some("hall")), &[]);
        check("a deployment's that is missing", &deployment("x", &["x"], Some("hell")), &[missing]);
    }

    #[test]
    fn models_take_some_cuts() {
        let models = KnownModels::default();
        models.note("hf://a/b", &Splits { tensor: vec![1, 3, 9], pipeline_max: 30 });
        let facts = Facts::beside(models.clone());
        let check = |fact: &str, uri: &str, tensor, pipeline, expected: &[&str]| {
            let (key, names) = (key("x"), vec!["x".to_owned()]);
            let cut = Cut { uri: uri.to_owned(), tensor, pipeline };
            let wish = Fact::Deployment { key, names, budget: None, cut };
            let said = review(&wish, None, &facts);
            let said: Vec<_> = said.iter().map(ToString::to_string).collect();
            assert_eq!(said, expected, "{fact}");
        };
        check("one that works", "hf://a/b", 3, 30, &[]);
        let two = "spec.parallelism.tensor: the model cannot be cut into 2; 1, 3, 9 work";
        let many = "spec.parallelism.pipeline: the model has 30 layers";
        check("two that do not", "hf://a/b", 2, 31, &[two, many]);
        check("of a model that nobody has loaded", "hf://a/c", 2, 31, &[]);
        models.keep(&["hf://a/c"].into());
        check("nobody wishes it any more", "hf://a/b", 2, 31, &[]);
    }

    #[test]
    fn clocks_exist() {
        let name = "other".to_owned();
        let meaningless = vec![("spec.schedule[0].timeZone".to_owned(), "nowhere".to_owned())];
        let other = Fact::Budget { name, parent: None, meaningless };
        check("one that does not", &other, &["spec.schedule[0].timeZone: nowhere"]);
    }

    #[test]
    fn what_was_wrong_before_may_stay() {
        let old = deployment("x", &["solar"], Some("hell"));
        let more = deployment("x", &["solar", "solar-open"], Some("hell"));
        assert_eq!(review(&old, Some(&old), &facts()), []);
        let said = review(&more, Some(&old), &facts());
        assert_eq!(said.len(), 1, "{said:?}");
        assert_eq!(said[0].path, "spec.model.names[1]");
    }

    fn word() -> impl Strategy<Value = String> {
        "[a-e]"
    }

    proptest! {
        /// Budgets that were let in one after another form a tree, whatever was tried.
        #[test]
        fn rings_never_come_to_be(
            tried in prop::collection::vec((word(), prop::option::of(word())), 0..40),
        ) {
            let mut facts = Facts::default();
            for (name, parent) in tried {
                let fact = Fact::Budget { name, parent, meaningless: Vec::new() };
                if review(&fact, None, &facts).is_empty() {
                    facts.put(fact, None);
                }
            }
            for name in ["a", "b", "c", "d", "e"] {
                let mut at = name;
                let mut steps = 0;
                while let Some(parent) = facts.parent(at) {
                    let Some(parent) = parent else { break };
                    at = parent;
                    steps += 1;
                    prop_assert!(steps <= 5, "{name} is in a ring");
                }
            }
        }

        /// Names that were let in belong to one, whatever was tried.
        #[test]
        fn names_never_belong_to_two(
            tried in prop::collection::vec((word(), prop::collection::vec(word(), 1..4)), 0..40),
        ) {
            let mut facts = Facts::default();
            for (name, names) in &tried {
                let names: Vec<_> = names.iter().map(String::as_str).collect();
                let fact = deployment(name, &names, None);
                if review(&fact, None, &facts).is_empty() {
                    facts.put(fact, None);
                }
            }
            for (name, _) in &tried {
                if let Some(owner) = facts.served_by(name, &key("")) {
                    prop_assert_eq!(facts.served_by(name, owner), None);
                }
            }
        }
    }
}
