//! A cluster: replicas are StatefulSets with a pod for each member, wishes are custom resources.
//!
//! ```text
//! watches ──► cluster (what was seen) ──► observe (pure) ──► plan
//!                 ▲ wishes ──────────────────────────────────┘ │
//!                 │                                            ▼
//! status streams ─┘              API server ◄── apply ◄── build (pure)
//! ```
//!
//! Nothing is asked of the API server but what the watches tell; it is only written to, and only
//! what is not there already.

mod acting;
mod apply;
mod build;
mod cluster;
mod connect;
mod events;
mod follow;
mod gang;
mod labels;
mod lead;
mod load;
mod metrics;
mod observe;
mod overview;
mod pages;
mod placement;
mod power;
mod roster;
mod settled;
mod shelf;
mod spans;
mod status;
mod tenants;
mod troubles;
mod watch;
mod work;

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use kube::Client;
use naru_api::{ScalingDecision, Wishes};
use naru_plan::power::{BudgetReport, Leftover};
use naru_plan::scaling::Load;
use naru_plan::{DeploymentName, Desired, Moment, Observed};
use naru_protocol::Endpoint;
use naru_protocol::tls::Identity;
use tokio::sync::{mpsc, watch as channel};
use tokio::task::JoinSet;
use tokio::time::sleep;

pub use self::apply::ApplyError;
pub use self::build::{WeightsCache, WorkerImage};
use self::cluster::{Cluster, Refusal, Seen};
pub use self::connect::{Choice, ConnectError, Way, connect, connect_by};
use self::events::Teller;
use self::follow::Members;
pub use self::lead::lead;
pub use self::metrics::Metrics;
pub use self::overview::{LookError, Overview, Scope, Style, look, screen};
pub use self::pages::pages;
use self::work::Ended;
use crate::clock::wall_clock;
use crate::demand::{Demand, Demands};
use crate::models::KnownModels;
use crate::world::{Changed, Decision, Outcome, World};

/// Decisions that are carried out at the same time.
const DECISIONS_AT_ONCE: usize = 16;

/// Decisions that have not been begun by then are made anew: what was seen meanwhile counts.
const DECISION_AGE_MAX: Duration = Duration::from_secs(3);

/// What members get to say how they are before a new leader says anything of them.
const HEAR_WITHIN: Duration = Duration::from_secs(1);

/// What the cluster world runs on.
#[derive(Clone)]
pub struct KubernetesConfig {
    /// How the API server is reached.
    pub client: Client,
    /// What workers are made from.
    pub worker: WorkerImage,
    /// The name of this operator's pod, for events.
    pub instance: Option<String>,
    /// Where it counts.
    pub metrics: Metrics,
    /// Who this operator is to members; `None`: they do not ask.
    pub identity: Option<Arc<Identity>>,
    /// What gateways wait for.
    pub demands: Demands,
    /// Where it notes what workers tell of their models.
    pub models: KnownModels,
}

/// The world of a cluster.
pub struct Kubernetes {
    config: KubernetesConfig,
    cluster: Cluster,
    members: Members,
    teller: Teller,
    wishes: channel::Sender<Arc<Wishes>>,
    refusals: BTreeMap<DeploymentName, Refusal>,
    /// Refused deployments whose status may not say so yet.
    unreported: BTreeSet<DeploymentName>,
    /// Those that could not be told so; it is tried again with the next decisions.
    unreported_again: BTreeSet<DeploymentName>,
    /// Decisions that wait for others, since when.
    waiting: VecDeque<(Instant, Decision)>,
    /// What is being written.
    writing: JoinSet<Ended>,
    outcomes: Vec<Outcome<ApplyError>>,
    /// Power budgets whose status is being written.
    budgets_under_way: BTreeSet<String>,
    /// Groups of members that are being let through or withdrawn, by their StatefulSets.
    groups_under_way: BTreeSet<(String, String)>,
    /// When groups are to be looked at again though nothing has changed.
    group_check: Option<Moment>,
    /// When a request to a deployment was last heard of.
    last_asked: BTreeMap<DeploymentName, Moment>,
    /// The demand that was seen last.
    demand: Arc<Demand>,
    seen: mpsc::Receiver<Seen>,
    _watches: JoinSet<()>,
}

impl Kubernetes {
    /// Watches the cluster; returns once everything that exists has been seen, so that nothing
    /// is taken for missing that is there. The wishes are sent through `wishes` from now on.
    pub async fn start(config: KubernetesConfig, wishes: channel::Sender<Arc<Wishes>>) -> Self {
        let (watches, seen) = watch::all(&config.client);
        let teller = Teller::new(config.client.clone(), config.instance.clone());
        let members = Members::new(config.identity.clone());
        let mut world = Self {
            config,
            cluster: Cluster::new(),
            members,
            teller,
            wishes,
            refusals: BTreeMap::new(),
            unreported: BTreeSet::new(),
            unreported_again: BTreeSet::new(),
            waiting: VecDeque::new(),
            writing: JoinSet::new(),
            outcomes: Vec::new(),
            budgets_under_way: BTreeSet::new(),
            groups_under_way: BTreeSet::new(),
            group_check: None,
            last_asked: BTreeMap::new(),
            demand: Arc::default(),
            seen,
            _watches: watches,
        };
        let mut changed = Changed::nothing();
        while !world.cluster.is_complete() {
            let Some(seen) = world.seen.recv().await else { break };
            changed = changed.and(world.cluster.take(seen));
        }
        world.refresh(&changed);
        world.take_demand();
        world.members.hear_all(HEAR_WITHIN).await;
        world
    }

    /// Follows what the events about these deployments mean: whom to listen to, what is wished.
    fn refresh(&mut self, changed: &Changed) {
        let Changed::Only(names) = changed else { return };
        for name in names {
            let members = self.cluster.members(name);
            self.members.listen(name, &members);
        }
        if self.cluster.take_news() {
            self.take_wishes();
        }
        let refused = names.iter().filter(|name| self.refusals.contains_key(*name));
        self.unreported.extend(refused.cloned());
    }

    /// Takes everything that the watches told by now.
    fn take_seen(&mut self, seen: Seen) -> Changed {
        let mut changed = self.cluster.take(seen);
        while let Ok(seen) = self.seen.try_recv() {
            changed = changed.and(self.cluster.take(seen));
        }
        self.refresh(&changed);
        changed
    }

    /// Takes for whom a member told something.
    fn take_heard(&mut self, names: BTreeSet<DeploymentName>) -> Changed {
        let now = self.now();
        let asked = self.members.take_asked();
        self.last_asked.extend(asked.into_iter().map(|name| (name, now)));
        names.iter().for_each(|name| self.note_models(name));
        Changed::Only(names)
    }

    /// Notes what members of the present template tell of its model.
    fn note_models(&self, name: &DeploymentName) {
        let Some(wish) = self.cluster.wish(name) else { return };
        let uri = wish.template.model.uri.as_str();
        let known = self.config.models.splits(uri);
        // The revision is a hash over the whole template, and hardly ever is there news.
        let revision = LazyCell::new(|| self.config.worker.make(wish.clone()).template.revision());
        for parts in self.cluster.parts(name, &self.members, self.now()) {
            let told = parts.members.iter().filter_map(|member| member.told);
            let splits = told.filter_map(|told| told.report.splits.as_ref());
            let news = splits.filter(|splits| known.as_ref() != Some(splits));
            news.filter(|_| labels::revision_of(parts.set) == Some(*revision))
                .for_each(|splits| self.config.models.note(uri, splits));
        }
    }

    /// Takes what gateways wait for; returns for whom that changed.
    fn take_demand(&mut self) -> Changed {
        let demand = Arc::clone(&self.config.demands.borrow_and_update());
        let before = std::mem::replace(&mut self.demand, demand);
        let now = self.now();
        self.last_asked.extend(self.demand.keys().map(|name| (name.clone(), now)));
        let names = before.keys().chain(self.demand.keys());
        let is_other = |name: &&DeploymentName| before.get(*name) != self.demand.get(*name);
        Changed::Only(names.filter(is_other).cloned().collect())
    }

    fn take_wishes(&mut self) {
        let (wishes, refusals) = self.cluster.wishes();
        let wishes: Vec<_> = wishes.into_iter().map(|wish| self.config.worker.make(wish)).collect();
        self.config.metrics.wished(wishes.len());
        let is_new = |(name, refusal): &(&DeploymentName, &Refusal)| {
            self.refusals.get(*name) != Some(refusal)
        };
        let new = refusals.iter().filter(is_new).map(|(name, _)| name.clone());
        self.unreported.extend(new);
        self.refusals = refusals;
        let scaled = wishes.iter().filter(|wish| wish.scaling.is_some());
        self.members.watch_load(scaled.map(|wish| wish.name.clone()).collect());
        let is_wished = |name: &DeploymentName| wishes.iter().any(|wish| wish.name == *name);
        self.last_asked.retain(|name, _| is_wished(name));
        let uris = wishes.iter().map(|wish| wish.template.model.uri.as_str()).collect();
        self.config.models.keep(&uris);
        let (tenants, power_budgets) = (self.cluster.tenants.all(), self.cluster.power.all());
        let cluster_fields = BTreeMap::new();
        let new = Wishes { deployments: wishes, tenants, power_budgets, cluster_fields };
        self.wishes.send_if_modified(|old| {
            let is_news = **old != new;
            if is_news {
                *old = Arc::new(new);
            }
            is_news
        });
    }
}

impl World for Kubernetes {
    type Error = ApplyError;

    fn now(&self) -> Moment {
        wall_clock()
    }

    /// None: what a deleted deployment owned, the cluster's garbage collector clears away.
    fn deployments(&self) -> Vec<Desired> {
        Vec::new()
    }

    fn observe(&self, name: &DeploymentName) -> Observed {
        self.cluster.observe(name, &self.members, self.now())
    }

    async fn apply(&mut self, decisions: Vec<Decision>) {
        decisions.iter().for_each(|decision| self.order_drains(&decision.desired));
        let now = Instant::now();
        self.waiting.extend(decisions.into_iter().map(|decision| (now, decision)));
        self.unreported.append(&mut self.unreported_again);
        self.begin_more();
        self.place_groups();
    }

    fn outcomes(&mut self) -> Vec<Outcome<ApplyError>> {
        std::mem::take(&mut self.outcomes)
    }

    fn load(&self, desired: &Desired) -> Option<Load> {
        let name = &desired.name;
        let parts = self.cluster.parts(name, &self.members, self.now());
        let waiting = self.demand.get(name).map_or(0, |wanted| wanted.waiting);
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        Some(load::load(desired, parts, waiting, self.last_asked.get(name).copied()))
    }

    fn scaling_history(&self, name: &DeploymentName) -> Vec<ScalingDecision> {
        self.live_status(name).scaling
    }

    fn leftovers(&self, wished: &BTreeSet<&DeploymentName>) -> Vec<Leftover> {
        power::leftovers(self.cluster.sets.all(), self.cluster.pods.all(), wished)
    }

    fn report_budgets(&mut self, budgets: &[BudgetReport]) {
        self.config.metrics.power(budgets);
        self.write_budgets(budgets);
    }

    fn endpoints(&self, desired: &Desired) -> Vec<Endpoint> {
        self.cluster.endpoints(desired, &self.members, self.now())
    }

    fn created_unix_seconds(&self, name: &DeploymentName) -> u64 {
        self.cluster.created(name).0 / 1000
    }

    async fn changed(&mut self) -> Changed {
        while self.outcomes.is_empty() {
            let check = self.group_check.map(|at| Duration::from_millis(at.since(self.now()).0));
            tokio::select! {
                () = sleep(check.unwrap_or_default()), if check.is_some() => {
                    self.group_check = None;
                    return Changed::nothing();
                }
                Some(seen) = self.seen.recv() => return self.take_seen(seen),
                names = self.members.changed() => return self.take_heard(names),
                Ok(()) = self.config.demands.changed() => return self.take_demand(),
                Some(ended) = self.writing.join_next() => self.take_ended(ended),
            }
        }
        Changed::nothing()
    }
}
