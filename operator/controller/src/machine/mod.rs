//! One machine: members of replicas are child processes, wishes are files.

mod data_dir;
mod files;
mod logs;
mod member;
mod ports;
mod record;
mod terminal;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use naru_plan::power::BudgetReport;
use naru_plan::{
    Action, Bytes, DeploymentName, Desired, Moment, Observed, ReplicaCount, ReplicaId, Template,
};
use naru_protocol::Endpoint;
use tokio::sync::mpsc;
use tokio::time::sleep_until;

pub use self::data_dir::{DataDir, DataDirError};
pub use self::files::{FilesError, WishFiles};
use self::record::Record;
use self::terminal::Terminal;
use self::worker::{Event, Identity, Log, SpawnError};
use crate::arguments;
use crate::clock::wall_clock;
use crate::power_metrics::PowerMetrics;
use crate::world::{Changed, Decision, Done, Outcome, World};

/// Events of workers not yet looked at; their senders wait beyond it.
const EVENTS_MAX: usize = 1024;
/// Longer than anybody waits.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What the machine world runs on.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// The `naru-worker` executable.
    pub worker: PathBuf,
    /// Cores to divide among replicas that do not say how many threads they want.
    pub cores: NonZeroUsize,
    /// Memory that replicas may ask for together; `None`: it is not counted.
    pub memory: Option<Bytes>,
    /// Whether standard error is a terminal: progress is then a line that moves.
    pub is_terminal: bool,
}

impl MachineConfig {
    /// This machine's cores and memory, and the given worker executable.
    pub fn detect(worker: PathBuf, is_terminal: bool) -> Self {
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self { worker, cores, memory: total_memory(&meminfo), is_terminal }
    }
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total_memory(meminfo: &str) -> Option<Bytes> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Bytes(kibibytes.checked_mul(1024)?))
}

/// The world of child processes.
pub struct Machine {
    config: MachineConfig,
    begun: Instant,
    deployments: BTreeMap<DeploymentName, Deployment>,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    terminal: Terminal,
    power: PowerMetrics,
    runs: u64,
    outcomes: Vec<Outcome<SpawnError>>,
}

struct Deployment {
    wish: Desired,
    created_unix_seconds: u64,
    replicas: BTreeMap<ReplicaId, Record>,
}

impl Machine {
    /// A machine on which nothing runs yet; it counts the watts of power budgets in `power`.
    pub fn new(config: MachineConfig, power: PowerMetrics) -> Self {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let terminal = Terminal::new(config.is_terminal);
        Self {
            config,
            begun: Instant::now(),
            deployments: BTreeMap::new(),
            events,
            sender,
            terminal,
            power,
            runs: 0,
            outcomes: Vec::new(),
        }
    }

    /// Starts the members of a replica that do not run.
    fn start(&mut self, name: &DeploymentName, id: ReplicaId) -> Result<(), SpawnError> {
        let (now, taken) = (self.now(), self.ports());
        let Some(deployment) = self.deployments.get_mut(name) else { return Ok(()) };
        let replicas = deployment.wish.replicas;
        let Some(record) = deployment.replicas.get_mut(&id) else { return Ok(()) };
        if record.needs_links() {
            match ports::find(record.template.parallelism, &taken).map_err(SpawnError::Ports) {
                Ok(links) => record.meets_at(links),
                Err(error) => {
                    record.idle().into_iter().for_each(|it| record.cannot_start(it, &error, now));
                    return Err(error);
                }
            }
        }
        let mut result = Ok(());
        for member in record.idle() {
            self.runs += 1;
            let identity =
                Identity { deployment: name.clone(), replica: id, member, run: self.runs };
            let mut arguments = arguments(&record.template, replicas, self.config.cores);
            arguments.extend(record.arguments(name, id, member));
            let tag = tag(&identity, &record.template);
            let log = Log { tag, hides_progress: self.config.is_terminal };
            record.starts(member, self.runs, now);
            let sender = self.sender.clone();
            match worker::spawn(&self.config.worker, &arguments, identity, log, sender) {
                Ok(handle) => record.runs_as(member, handle),
                Err(error) => {
                    record.cannot_start(member, &error, now);
                    result = Err(error);
                }
            }
        }
        result
    }

    /// The ports that ranks were given, whether they listen yet or not.
    fn ports(&self) -> BTreeSet<u16> {
        self.records().flat_map(Record::ports).collect()
    }

    fn records(&self) -> impl Iterator<Item = &Record> {
        self.deployments.values().flat_map(|deployment| deployment.replicas.values())
    }

    /// The deployment; one that was never met is as old as this moment.
    fn meet(&mut self, desired: &Desired) -> &mut Deployment {
        self.deployments.entry(desired.name.clone()).or_insert_with(|| Deployment {
            wish: desired.clone(),
            created_unix_seconds: wall_clock().0 / 1000,
            replicas: BTreeMap::new(),
        })
    }

    /// Carries one action out.
    async fn act(&mut self, desired: &Desired, action: Action) -> Result<(), SpawnError> {
        let now = self.now();
        let deployment = self.meet(desired);
        deployment.wish = desired.clone();
        let replicas = &mut deployment.replicas;
        let (name, replica) = (desired.name.to_string(), action_replica(action));
        tracing::info!(deployment = name, replica = replica.0, ?action, "acting");
        match action {
            Action::Create(id) => {
                replicas.insert(id, Record::new(desired.template.clone(), now));
                self.start(&desired.name, id)
            }
            Action::Restart(id) => {
                if let Some(record) = replicas.get_mut(&id) {
                    record.make_way(now).await;
                }
                self.start(&desired.name, id)
            }
            Action::Drain(id) => {
                if let Some(record) = replicas.get_mut(&id) {
                    record.drain(desired.drain, now);
                }
                Ok(())
            }
            Action::Remove(id) => {
                if let Some(mut record) = replicas.remove(&id) {
                    record.end().await;
                }
                self.terminal.gone(&format!("{}-{id}", desired.name.name()));
                Ok(())
            }
        }
    }

    /// Takes one event into the records. Events of earlier runs have no meaning any more.
    fn take(&mut self, event: Event) {
        let now = self.now();
        let Identity { deployment, replica, member, run } = event.from;
        let name = format!("{}-{replica}", deployment.name());
        let deployment = self.deployments.get_mut(&deployment);
        let record = deployment.and_then(|deployment| deployment.replicas.get_mut(&replica));
        let Some(record) = record else { return };
        if record.take(member, run, event.what, now) {
            self.terminal.show(&name, &record.phase());
        }
    }

    /// When the next of the silent members will have been so for too long; if never, in a year.
    fn silent_until(&self) -> tokio::time::Instant {
        let now = self.now();
        let next = self.records().filter_map(|record| record.silent_until(now)).min();
        let wait = next.map_or(FOR_EVER, |until| Duration::from_millis(until.since(now).0));
        tokio::time::Instant::now() + wait
    }
}

impl World for Machine {
    type Error = SpawnError;

    fn now(&self) -> Moment {
        Moment(u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn deployments(&self) -> Vec<Desired> {
        let with_replicas = |deployment: &&Deployment| !deployment.replicas.is_empty();
        self.deployments.values().filter(with_replicas).map(|d| d.wish.clone()).collect()
    }

    fn observe(&self, name: &DeploymentName) -> Observed {
        let now = self.now();
        let promised: u64 = self.records().map(Record::memory).fold(0, u64::saturating_add);
        let memory_free = self.config.memory.map(|Bytes(all)| Bytes(all.saturating_sub(promised)));
        let replicas = self.deployments.get(name).map(|deployment| {
            deployment.replicas.iter().map(|(id, record)| record.seen(*id, now)).collect()
        });
        Observed { replicas: replicas.unwrap_or_default(), memory_free }
    }

    async fn apply(&mut self, decisions: Vec<Decision>) {
        for Decision { desired, plan, .. } in decisions {
            self.meet(&desired); // also one that has to wait: who waited longer is the older
            let has_acted = !plan.actions.is_empty();
            let mut result = Ok(if has_acted { Done::LookAgain } else { Done::WillBeTold });
            for action in plan.actions {
                if let Err(error) = self.act(&desired, action).await {
                    result = Err(error);
                }
            }
            self.outcomes.push(Outcome { name: desired.name.clone(), result });
        }
    }

    fn outcomes(&mut self) -> Vec<Outcome<SpawnError>> {
        std::mem::take(&mut self.outcomes)
    }

    fn report_budgets(&mut self, budgets: &[BudgetReport]) {
        self.power.set(budgets);
    }

    fn endpoints(&self, desired: &Desired) -> Vec<Endpoint> {
        let Some(deployment) = self.deployments.get(&desired.name) else { return Vec::new() };
        let names = &desired.template.names;
        let serving = deployment.replicas.iter().filter(|(_, r)| r.template.names == *names);
        serving
            .map(|(id, record)| record.endpoint(format!("{}-{id}", desired.name.name())))
            .collect()
    }

    fn created_unix_seconds(&self, name: &DeploymentName) -> u64 {
        self.deployments.get(name).map_or(0, |deployment| deployment.created_unix_seconds)
    }

    async fn changed(&mut self) -> Changed {
        if !self.outcomes.is_empty() {
            return Changed::nothing();
        }
        let silent_until = self.silent_until();
        let event = tokio::select! {
            // The machine holds a sender itself, so the channel never closes.
            event = self.events.recv() => event,
            () = sleep_until(silent_until) => None,
        };
        if let Some(event) = event {
            self.take(event);
        }
        while let Ok(event) = self.events.try_recv() {
            self.take(event);
        }
        Changed::Everything // replicas share the memory of one machine
    }
}

/// Whose lines these are: a replica's (`solar-0`), or one of its members' (`solar-0-1`), as their
/// pods would be called.
fn tag(identity: &Identity, template: &Template) -> String {
    let Identity { deployment, replica, member, .. } = identity;
    let name = deployment.name();
    match template.parallelism.members() {
        1 => format!("{name}-{replica}"),
        _ => format!("{name}-{replica}-{member}"),
    }
}

/// The command line of a member of one of `replicas`.
///
/// Without threads of its own each member of each gets an equal part of `cores`, at least one.
fn arguments(template: &Template, replicas: ReplicaCount, cores: NonZeroUsize) -> Vec<String> {
    let members = replicas.0.max(1).saturating_mul(template.parallelism.members());
    let share = cores.get() / (members as usize);
    let threads = template.resources.threads.map_or(share, |threads| threads.0.get());
    let (model, threads) = (template.model.uri.as_str(), threads.clamp(1, cores.get()));
    let mut arguments = arguments::of_worker(template, model, Some(threads));
    for flag in ["--listen", "--control-listen", "--ops-listen"] {
        arguments.extend([flag.to_owned(), "127.0.0.1:0".to_owned()]);
    }
    arguments.push("--exit-with-stdin".to_owned());
    arguments
}

fn action_replica(action: Action) -> ReplicaId {
    match action {
        Action::Create(id) | Action::Restart(id) | Action::Drain(id) | Action::Remove(id) => id,
    }
}

#[cfg(test)]
mod tests {
    use naru_api::{Source, check};

    use super::*;

    #[test]
    fn memory_of_a_machine() {
        let meminfo = "MemTotal:       16 kB\nMemFree:         8 kB\n";
        assert_eq!(total_memory(meminfo), Some(Bytes(16384)));
        assert_eq!(total_memory(""), None);
        assert_eq!(total_memory("MemTotal: many kB"), None);
    }

    /// The threads of one of `replicas` on four cores.
    #[track_caller]
    fn check_threads(fact: &str, spec: &str, replicas: u32, threads: &str) {
        let text = format!(
            "apiVersion: naru.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {{name: solar}}\n\
             spec: {{model: {{uri: file:///m.gguf}}, {spec}}}\n"
        );
        let wish = check(&[Source { file: "a.yaml", text: &text }]).unwrap().deployments.remove(0);
        let cores = NonZeroUsize::new(4).unwrap();
        let arguments = arguments(&wish.template, ReplicaCount(replicas), cores);
        let place = arguments.iter().position(|argument| argument == "--threads").unwrap();
        assert_eq!(arguments[place + 1], threads, "{fact}");
    }

    #[test]
    fn threads() {
        check_threads("one replica has all cores", "", 1, "4");
        check_threads("three share them", "", 3, "1");
        check_threads("many have one each", "", 9, "1");
        let pair = "parallelism: {tensor: 2, pipeline: 2, devicesPerMember: 2}";
        check_threads("members share them", pair, 1, "2");
        check_threads("of all replicas", pair, 2, "1");
        check_threads("a limit counts", "resources: {limits: {cpu: 2}}", 9, "2");
        let many = "resources: {limits: {cpu: 200}}";
        check_threads("as far as there are cores", many, 1, "4");
    }
}
