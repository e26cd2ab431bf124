//! What the loop tells of a pass: changed conditions, a snapshot, whether all is ready.

use std::collections::BTreeMap;
use std::sync::Arc;

use naru_plan::{Condition, ConditionKind, DeploymentName, Desired, Reason, Tenant, Truth};
use naru_protocol::{Access, ModelEndpoints, Snapshot, SnapshotVersion};

use crate::agenda::Agenda;
use crate::reconcile::Outputs;
use crate::tenants;
use crate::world::World;

/// Ready, or what is still missing.
pub type Readiness = Result<(), String>;

/// What was told last, so that only news is told.
pub(crate) struct Reports {
    outputs: Outputs,
    conditions: BTreeMap<DeploymentName, Vec<Condition>>,
    models: BTreeMap<DeploymentName, ModelEndpoints>,
    /// Whether something has changed since all was told: there may be thousands to look through.
    has_news: bool,
}

/// Whether a condition says something else than before; how far a fetch is goes to those who look.
fn is_news(before: &[Condition], now: &Condition) -> bool {
    let Some(before) = before.iter().find(|before| before.kind == now.kind) else { return true };
    let is_same = (before.truth, before.reason) == (now.truth, now.reason);
    !is_same || (before.message != now.message && now.reason != Reason::Fetching)
}

impl Reports {
    pub(crate) fn new(outputs: Outputs) -> Self {
        let (conditions, models) = (BTreeMap::new(), BTreeMap::new());
        Self { outputs, conditions, models, has_news: true }
    }

    /// Something else is wished.
    pub(crate) fn wished(&mut self) {
        self.has_news = true;
    }

    /// Keeps the conditions of one deployment and logs those that changed.
    pub(crate) fn conditions(&mut self, desired: &Desired, conditions: Vec<Condition>) {
        let before = self.conditions.remove(&desired.name).unwrap_or_default();
        let now: Vec<_> =
            conditions.into_iter().map(|condition| condition.continuing(&before)).collect();
        let deployment = desired.name.to_string();
        for condition in now.iter().filter(|condition| is_news(&before, condition)) {
            let Condition { kind, truth, reason, message, .. } = condition;
            tracing::info!(deployment, ?kind, status = ?truth, ?reason, "{message}");
        }
        self.has_news |= now != before;
        self.conditions.insert(desired.name.clone(), now);
    }

    /// Keeps where one deployment answers.
    pub(crate) fn endpoints<W: World>(&mut self, world: &W, desired: &Desired) {
        let entry = ModelEndpoints {
            deployment: desired.name.to_string(),
            created_unix_seconds: world.created_unix_seconds(&desired.name),
            access: Access::All, // who may use it is settled when it is published
            wakes: desired.replicas.0 > 0 || desired.scaling.is_some(),
            endpoints: world.endpoints(desired),
        };
        if self.models.get(&desired.name) != Some(&entry) {
            self.models.insert(desired.name.clone(), entry);
            self.has_news = true;
        }
    }

    /// Publishes where everything answers, and whom, if that changed, and whether all is ready.
    pub(crate) fn publish(&mut self, agenda: &Agenda, tenants: &[Tenant]) {
        if !std::mem::take(&mut self.has_news) {
            return;
        }
        self.conditions.retain(|name, _| agenda.knows(name));
        self.models.retain(|name, _| agenda.knows(name));
        let models = self.models(agenda, tenants);
        let tenants = tenants::keys(tenants);
        self.outputs.snapshots.send_if_modified(|snapshot| {
            // The first is told even when there is nothing: gateways wait for one.
            let is_told = snapshot.models == models && snapshot.tenants == tenants;
            if is_told && snapshot.version.sequence > 0 {
                return false;
            }
            let sequence = snapshot.version.sequence + 1;
            let version = SnapshotVersion { sequence, ..snapshot.version };
            *snapshot = Arc::new(Snapshot { version, models, tenants });
            true
        });
        let readiness = self.readiness(agenda);
        self.outputs.readiness.send_if_modified(|told| {
            let is_news = *told != readiness;
            *told = readiness;
            is_news
        });
    }

    /// Ready when every deployment with a replica is.
    fn readiness(&self, agenda: &Agenda) -> Readiness {
        let is_ready = |desired: &&Arc<Desired>| {
            let conditions = self.conditions.get(&desired.name);
            conditions.is_some_and(|conditions| {
                conditions.iter().any(|condition| {
                    condition.kind == ConditionKind::Ready && condition.truth == Truth::True
                })
            })
        };
        let waiting: Vec<_> = agenda
            .desired()
            .filter(|desired| desired.replicas.0 > 0)
            .filter(|desired| !is_ready(desired))
            .map(|desired| desired.name.to_string())
            .collect();
        if waiting.is_empty() { Ok(()) } else { Err(format!("not ready: {}", waiting.join(", "))) }
    }

    /// By served name, where it answers. Who was there first has the name.
    fn models(&self, agenda: &Agenda, tenants: &[Tenant]) -> BTreeMap<String, ModelEndpoints> {
        let known =
            |desired: &Arc<Desired>| Some((self.models.get(&desired.name)?, desired.clone()));
        let mut entries: Vec<_> = agenda.desired().filter_map(known).collect();
        entries.sort_by_key(|(entry, _)| entry.created_unix_seconds);
        let mut models = BTreeMap::new();
        for (entry, desired) in entries {
            let access = tenants::access(&desired.access, tenants);
            let entry = ModelEndpoints { access, ..entry.clone() };
            for name in desired.template.names.iter() {
                models.entry(name.as_str().to_owned()).or_insert_with(|| entry.clone());
            }
        }
        models
    }
}
