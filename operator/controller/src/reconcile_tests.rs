use std::collections::BTreeMap;
use std::time::Duration;

use naru_api::{Source, check};
use naru_plan::power::{MinuteOfDay, PowerBudget, PowerWish, TimeZone, Window};
use naru_plan::scaling::Load;
use naru_plan::{
    Action, BudgetName, DeploymentName, Failures, KeyName, Moment, Observed, Phase, Replica,
    ReplicaCount, ReplicaId, ScalingWish, Sha256, Tenant, TenantKey, TenantName, TokenCount, Watts,
    WorkerFailure,
};
use naru_protocol::Endpoint;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::*;

/// A world without processes: what is started is ready a moment later, what drains stops.
struct Paper {
    begun: Instant,
    replicas: BTreeMap<(DeploymentName, ReplicaId), (Desired, Replica)>,
    /// Actions that still fail before one succeeds.
    failing: u32,
    /// Requests that wait at gateways.
    waiting: watch::Receiver<u32>,
    weather: watch::Receiver<Weather>,
    /// What became of decisions, each told at its time.
    outcomes: Vec<(Instant, Outcome<OutOfPaper>)>,
}

/// What goes wrong in a world.
#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    /// What is begun comes to nothing, after five seconds.
    hangs: bool,
    /// No worker answers.
    is_silent: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("out of paper")]
struct OutOfPaper;

impl Paper {
    fn act(&mut self, desired: &Desired, action: Action) -> Result<(), OutOfPaper> {
        if self.failing > 0 {
            self.failing -= 1;
            return Err(OutOfPaper);
        }
        let now = self.now();
        match action {
            Action::Create(id) => {
                let replica = Replica {
                    id,
                    revision: desired.template.revision(),
                    phase: Phase::Silent { since: now },
                    drain_since: None,
                    has_served: false,
                    failures: Failures(0),
                    created: Moment(0),
                    ready_since: None,
                    displaced: false,
                };
                self.replicas.insert((desired.name.clone(), id), (desired.clone(), replica));
            }
            Action::Drain(id) => {
                let key = (desired.name.clone(), id);
                self.replicas.get_mut(&key).expect("it exists").1.drain_since = Some(now);
            }
            Action::Remove(id) => {
                self.replicas.remove(&(desired.name.clone(), id));
            }
            Action::Restart(_) => unreachable!("nothing fails on paper"),
        }
        Ok(())
    }
}

impl World for Paper {
    type Error = OutOfPaper;

    fn now(&self) -> Moment {
        Moment(u64::try_from(self.begun.elapsed().as_millis()).unwrap())
    }

    /// It is 09:00 when a test begins, in UTC.
    fn wall_clock(&self) -> Moment {
        Moment(1_795_683_600_000 + self.now().0)
    }

    fn deployments(&self) -> Vec<Desired> {
        let mut wishes: Vec<_> = self.replicas.values().map(|(wish, _)| wish.clone()).collect();
        wishes.dedup_by(|a, b| a.name == b.name);
        wishes
    }

    fn observe(&self, name: &DeploymentName) -> Observed {
        let own = self.replicas.iter().filter(|((owner, _), _)| owner == name);
        let replicas = own.map(|(_, (_, replica))| replica.clone()).collect();
        Observed { replicas, memory_free: None }
    }

    async fn apply(&mut self, decisions: Vec<Decision>) {
        for Decision { desired, plan, .. } in decisions {
            let (name, mut told) = (desired.name.clone(), Instant::now());
            assert!(self.outcomes.iter().all(|(_, other)| other.name != name), "one at a time");
            let result = if self.weather.borrow().hangs {
                told += Duration::from_secs(5);
                Err(OutOfPaper)
            } else {
                let acts = plan.actions.into_iter().map(|action| self.act(&desired, action));
                acts.collect::<Result<Vec<()>, _>>().map(|_| Done::WillBeTold)
            };
            self.outcomes.push((told, Outcome { name, result }));
        }
    }

    fn outcomes(&mut self) -> Vec<Outcome<OutOfPaper>> {
        let now = Instant::now();
        self.outcomes.extract_if(.., |(told, _)| *told <= now).map(|(_, outcome)| outcome).collect()
    }

    fn load(&self, desired: &Desired) -> Option<Load> {
        let max_sequences = desired.template.engine.max_sequences;
        let waiting_at_gateways = *self.waiting.borrow();
        Some(Load { max_sequences, waiting_at_gateways, ..Load::default() })
    }

    fn endpoints(&self, desired: &Desired) -> Vec<Endpoint> {
        let own = self.replicas.iter().filter(|((owner, _), _)| *owner == desired.name);
        own.map(|((_, id), (_, replica))| Endpoint {
            replica: format!("{}-{id}", desired.name.name()),
            address: format!("127.0.0.1:{id}"),
            ready: replica.phase == Phase::Ready,
            draining: replica.drain_since.is_some(),
        })
        .collect()
    }

    fn created_unix_seconds(&self, _: &DeploymentName) -> u64 {
        7
    }

    async fn changed(&mut self) -> Changed {
        sleep(Duration::from_millis(10)).await;
        let (now, is_silent) = (self.now(), self.weather.borrow().is_silent);
        for (_, replica) in self.replicas.values_mut() {
            let failure = WorkerFailure::Ended("exit code 0".into());
            replica.phase = match replica.drain_since {
                Some(_) => Phase::Stopped { at: now, failure },
                None if is_silent => Phase::Silent { since: now },
                None => Phase::Ready,
            };
        }
        Changed::Everything
    }
}

/// The loop over a paper world, with both ends of its channels.
struct Rig {
    wishes: watch::Sender<Arc<Wishes>>,
    stop: watch::Sender<Option<Millis>>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    readiness: watch::Receiver<Readiness>,
    running: JoinHandle<()>,
    waiting: watch::Sender<u32>,
    weather: watch::Sender<Weather>,
}

fn only(deployments: Vec<Desired>) -> Wishes {
    Wishes { deployments, ..Wishes::default() }
}

fn rig(wishes: Vec<Desired>, failing: u32) -> Rig {
    let (wishes, wished) = watch::channel(Arc::new(only(wishes)));
    let (stop, stops) = watch::channel(None);
    let (snapshots, snapshot) = watch::channel(Arc::new(Snapshot::default()));
    let (readiness, ready) = watch::channel(Err("starting".to_owned()));
    let (waiting, waits) = watch::channel(0);
    let (weather, outside) = watch::channel(Weather::default());
    let world = Paper {
        begun: Instant::now(),
        replicas: BTreeMap::new(),
        failing,
        waiting: waits,
        weather: outside,
        outcomes: Vec::new(),
    };
    let controls = Controls { wishes: wished, stop: stops };
    let running = tokio::spawn(run(world, controls, Outputs { snapshots, readiness }));
    Rig { wishes, stop, snapshots: snapshot, readiness: ready, running, waiting, weather }
}

impl Rig {
    /// Waits until the snapshot says this, `model: replica! replica` with `!` for ready ones.
    #[track_caller]
    fn shows(&mut self, fact: &str, expected: &str) -> impl Future<Output = ()> {
        let words = |snapshot: &Arc<Snapshot>| {
            let model = |(name, entry): (&String, &naru_protocol::ModelEndpoints)| {
                let endpoints: Vec<_> = entry
                    .endpoints
                    .iter()
                    .map(|e| format!("{}{}", e.replica, if e.ready { "!" } else { "" }))
                    .collect();
                format!("{name}: {}", endpoints.join(" "))
            };
            snapshot.models.iter().map(model).collect::<Vec<_>>().join(", ")
        };
        let (fact, expected) = (fact.to_owned(), expected.to_owned());
        let mut snapshots = self.snapshots.clone();
        async move {
            let comes = snapshots.wait_for(|snapshot| words(snapshot) == expected);
            let came = timeout(Duration::from_secs(5), comes).await.is_ok();
            assert!(came, "{fact}: it shows {}", words(&snapshots.borrow()));
        }
    }
}

fn wish(name: &str, replicas: u32, names: &str) -> Desired {
    let text = format!(
        "apiVersion: naru.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {{name: {name}}}\n\
         spec: {{model: {{uri: file:///m.gguf, names: {names}}}, replicas: {replicas}}}\n"
    );
    check(&[Source { file: "a.yaml", text: &text }]).unwrap().deployments.remove(0)
}

#[tokio::test(start_paused = true)]
async fn wishes_become_true() {
    let mut rig = rig(vec![wish("a", 1, "[x, y]")], 0);
    rig.shows("one replica under both names", "x: a-0!, y: a-0!").await;
    let both = vec![wish("a", 2, "[x]"), wish("b", 0, "[z]")];
    rig.wishes.send_replace(Arc::new(only(both)));
    rig.shows("replaced for its new names, scaled, and one that sleeps", "x: a-1! a-2!, z: ").await;
    rig.readiness.wait_for(Result::is_ok).await.unwrap();
    rig.wishes.send_replace(Arc::new(only(vec![])));
    rig.shows("nothing is wished, nothing is left", "").await;
}

#[tokio::test(start_paused = true)]
async fn versions_only_rise() {
    let mut rig = rig(vec![wish("a", 1, "[x]")], 0);
    rig.shows("one", "x: a-0!").await;
    let first = rig.snapshots.borrow().version;
    sleep(Duration::from_secs(120)).await;
    assert_eq!(rig.snapshots.borrow().version, first, "quiet passes publish nothing");
    rig.wishes.send_replace(Arc::new(only(vec![wish("a", 2, "[x]")])));
    rig.shows("two", "x: a-0! a-1!").await;
    assert!(rig.snapshots.borrow().version > first);
}

/// One that naru scales, from none to two replicas.
fn scaled(name: &str) -> Desired {
    let scaling = Some(ScalingWish {
        min: ReplicaCount(0),
        max: ReplicaCount(2),
        queued_tokens_per_replica: TokenCount(1000),
        idle_before_zero: Millis::from_seconds(30),
    });
    Desired { scaling, ..wish(name, 5, "[x]") }
}

#[tokio::test(start_paused = true)]
async fn who_is_deleted_is_not_woken() {
    let mut rig = rig(vec![scaled("a")], 0);
    rig.waiting.send_replace(65);
    rig.shows("asked for by many", "x: a-0! a-1!").await;
    rig.wishes.send_replace(Arc::new(only(vec![])));
    rig.shows("deleted while they still ask", "").await;
    sleep(Duration::from_secs(60)).await;
    rig.shows("and it stays away", "").await;
}

#[tokio::test(start_paused = true)]
async fn who_sleeps_is_woken() {
    let mut rig = rig(vec![scaled("a")], 0);
    rig.shows("nobody asks, whatever replicas says", "x: ").await;
    rig.waiting.send_replace(1);
    rig.shows("somebody does", "x: a-0!").await;
    rig.waiting.send_replace(65);
    rig.shows("more than one replica computes together", "x: a-0! a-1!").await;
    rig.waiting.send_replace(1);
    sleep(Duration::from_secs(61)).await;
    rig.shows("one is enough again, after a while", "x: a-0!").await;
    rig.waiting.send_replace(0);
    sleep(Duration::from_secs(29)).await;
    rig.shows("not asked for a moment", "x: a-0!").await;
    sleep(Duration::from_secs(2)).await;
    rig.shows("not asked for longer", "x: ").await;
}

/// A wish whose replicas are charged 100 W each.
fn powered(name: &str, replicas: u32, priority: i32) -> Desired {
    let budget = BudgetName::parse("hall").unwrap();
    let power = Some(PowerWish { budget, watts_per_replica: Watts(100), priority });
    Desired { power, ..wish(name, replicas, &format!("[{name}]")) }
}

/// A budget of so many watts, with 150 W from this time on for an hour.
fn hall(watts: u64, from: &str) -> Vec<PowerBudget> {
    let window = Window {
        days: Vec::new(),
        from: MinuteOfDay::parse(from).unwrap(),
        to: MinuteOfDay::parse("23:00").unwrap(),
        time_zone: TimeZone::parse("UTC").unwrap(),
        watts: Watts(150),
    };
    let (name, overhead, parent) = (BudgetName::parse("hall").unwrap(), Watts(0), None);
    vec![PowerBudget { name, watts: Watts(watts), overhead, parent, schedule: vec![window] }]
}

impl Rig {
    fn share(&self, deployments: Vec<Desired>, power_budgets: Vec<PowerBudget>) {
        let wishes = Wishes { deployments, power_budgets, ..Wishes::default() };
        self.wishes.send_replace(Arc::new(wishes));
    }
}

#[tokio::test(start_paused = true)]
async fn deployments_share_a_budget() {
    let mut rig = rig(vec![], 0);
    let (a, b) = (|| powered("a", 2, 0), || powered("b", 2, 0));
    rig.share(vec![a(), b()], hall(300, "22:00"));
    rig.shows("both grow at once, and one has to wait", "a: a-0! a-1!, b: b-0!").await;
    rig.share(vec![a(), b()], hall(400, "22:00"));
    rig.shows("until there is more", "a: a-0! a-1!, b: b-0! b-1!").await;
    rig.share(vec![a(), b(), powered("c", 3, 1)], hall(400, "22:00"));
    rig.shows("who ranks higher takes it", "a: a-0!, b: , c: c-0! c-1! c-2!").await;
    rig.share(vec![a(), b()], hall(400, "22:00"));
    rig.shows("and gives it back", "a: a-0! a-1!, b: b-0! b-1!").await;
    rig.share(vec![a(), b()], vec![]);
    sleep(Duration::from_secs(60)).await;
    rig.shows("without a budget nothing that runs goes", "a: a-0! a-1!, b: b-0! b-1!").await;
    rig.share(vec![a(), powered("b", 3, 0)], vec![]);
    sleep(Duration::from_secs(60)).await;
    rig.shows("and nothing comes", "a: a-0! a-1!, b: b-0! b-1!").await;
}

#[tokio::test(start_paused = true)]
async fn what_is_being_made_is_charged() {
    let mut rig = rig(vec![], 0);
    rig.weather.send_replace(Weather { hangs: true, ..Weather::default() });
    rig.share(vec![powered("a", 2, 0)], hall(200, "22:00"));
    sleep(Duration::from_secs(1)).await;
    rig.weather.send_replace(Weather::default());
    rig.share(vec![powered("a", 0, 0), powered("b", 2, 0)], hall(200, "22:00"));
    sleep(Duration::from_secs(2)).await;
    rig.shows("watts of what may still come are nobody else's", "a: , b: ").await;
    sleep(Duration::from_secs(3)).await;
    rig.shows("until it is known that it does not", "a: , b: b-0! b-1!").await;
}

#[tokio::test(start_paused = true)]
async fn a_load_grows_as_far_as_there_is_power() {
    let mut rig = rig(vec![], 0);
    let scaling = Some(ScalingWish {
        min: ReplicaCount(1),
        max: ReplicaCount(5),
        queued_tokens_per_replica: TokenCount(1000),
        idle_before_zero: Millis::from_seconds(30),
    });
    let wish = || Desired { scaling, ..powered("a", 1, 0) };
    rig.waiting.send_replace(3 * 64);
    rig.share(vec![wish()], hall(200, "22:00"));
    rig.shows("two of three", "a: a-0! a-1!").await;
    sleep(Duration::from_secs(120)).await;
    rig.shows("for as long as there is no more", "a: a-0! a-1!").await;
    rig.share(vec![wish()], hall(300, "22:00"));
    rig.shows("then all that the load asks for", "a: a-0! a-1! a-2!").await;
}

#[tokio::test(start_paused = true)]
async fn a_step_is_met_before_it_begins() {
    let mut rig = rig(vec![], 0);
    rig.share(vec![powered("a", 3, 0)], hall(300, "09:10"));
    rig.shows("as many as fit before", "a: a-0! a-1! a-2!").await;
    // A drain takes up to 60 s, and begins 25 s sooner than that.
    sleep(Duration::from_secs(600 - 85 - 1)).await;
    rig.shows("they stay for as long as they can", "a: a-0! a-1! a-2!").await;
    sleep(Duration::from_secs(2)).await;
    rig.shows("as many as fit then", "a: a-0!").await;
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again() {
    let mut rig = rig(vec![wish("a", 1, "[x]")], 3);
    rig.shows("the fourth try", "x: a-0!").await;
}

/// A tenant with so many keys.
fn tenant(keys: u8) -> Vec<Tenant> {
    let key = |digit: u8| TenantKey {
        name: KeyName::parse(&format!("k{digit}")).unwrap(),
        sha256: Sha256::parse(&digit.to_string().repeat(64)).unwrap(),
        expires_unix_seconds: None,
    };
    vec![Tenant {
        name: TenantName::parse("saudi").unwrap(),
        labels: BTreeMap::new(),
        keys: (0..keys).map(key).collect(),
        concurrent_requests_max: None,
    }]
}

#[tokio::test(start_paused = true)]
async fn gateways_hear_while_a_write_hangs() {
    let mut rig = rig(vec![wish("a", 1, "[x]")], 0);
    let wishes = |replicas, keys| {
        let deployments = vec![wish("a", replicas, "[x]")];
        Arc::new(Wishes { deployments, tenants: tenant(keys), ..Wishes::default() })
    };
    rig.wishes.send_replace(wishes(1, 2));
    rig.shows("all is well", "x: a-0!").await;
    rig.weather.send_replace(Weather { hangs: true, is_silent: false });
    rig.wishes.send_replace(wishes(2, 2));
    sleep(Duration::from_millis(500)).await;
    let (begun, mut snapshots) = (Instant::now(), rig.snapshots.clone());
    rig.wishes.send_replace(wishes(2, 1));
    let revoked = |snapshot: &Arc<Snapshot>| snapshot.tenants[0].keys.len() == 1;
    snapshots.wait_for(revoked).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(100), "revoked after {:?}", begun.elapsed());
    rig.weather.send_replace(Weather { hangs: true, is_silent: true });
    rig.shows("nor does a worker's silence wait", "x: a-0").await;
    assert!(begun.elapsed() < Duration::from_secs(1), "silent after {:?}", begun.elapsed());
    rig.weather.send_replace(Weather::default());
    sleep(Duration::from_secs(6)).await;
    rig.shows("what came to nothing is done again", "x: a-0! a-1!").await;
}

#[tokio::test(start_paused = true)]
async fn the_end_drains_everything() {
    let mut rig = rig(vec![wish("a", 2, "[x]"), wish("b", 1, "[y]")], 0);
    rig.shows("all are there", "x: a-0! a-1!, y: b-0!").await;
    rig.stop.send_replace(Some(Millis::from_seconds(5)));
    timeout(Duration::from_secs(10), rig.running).await.expect("it ends").unwrap();
}
