use naru_api::{Source, check};
use naru_plan::{Bytes, Failures};
use naru_protocol::worker::v1::{Progress, StatusReport};

use super::*;

/// A replica as cut by `parallelism` whose members have just begun, as processes from 4710 on.
fn record(parallelism: &str) -> Record {
    let text = format!(
        "apiVersion: naru.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {{name: solar}}\nspec: \
         {{model: {{uri: file:///m.gguf}}, parallelism: {parallelism}, \
         engine: {{kvCacheMemory: 1Mi}}, resources: {{requests: {{memory: 2Gi}}}}}}\n"
    );
    let wish = check(&[Source { file: "a.yaml", text: &text }]).unwrap().deployments.remove(0);
    let mut record = Record::new(wish.template, Moment(0));
    start(&mut record, 4710, 0);
    record
}

/// The members that do not run begin, as processes from `process` on.
fn start(record: &mut Record, process: u32, seconds: u64) {
    for (process, member) in (process..).zip(record.idle()) {
        record.starts(member, RUN, Moment(seconds * 1000));
        record.runs_as(member, Handle::of_nobody(process));
    }
}

const RUN: u64 = 7;
const THREE: &str = "{tensor: 3}";

impl Record {
    #[track_caller]
    fn hears(&mut self, member: usize, what: What, seconds: u64) {
        assert!(self.take(member, RUN, what, Moment(seconds * 1000)), "it is the present run");
    }
}

fn listening(port: u16) -> What {
    What::Listening { address: format!("127.0.0.1:{port}") }
}

fn says(state: State) -> What {
    let reason = "its connection broke".to_owned();
    let lost_rank = (state == State::Apart).then_some(1);
    What::Report(StatusReport { state: state.into(), reason, lost_rank, ..StatusReport::default() })
}

fn ended() -> What {
    What::Ended(WorkerFailure::Ended("the worker ended: signal: 9 (SIGKILL)".to_owned()))
}

/// What the planner sees at that time.
fn words(record: &Record, seconds: u64) -> String {
    let now = Moment(seconds * 1000);
    match record.seen(ReplicaId(0), now).phase {
        Phase::Stopped { failure: WorkerFailure::Rank(words), .. } => format!("rank: {words}"),
        Phase::Stopped { failure: WorkerFailure::Config(words), .. } => format!("config: {words}"),
        Phase::Stopped { failure, .. } => format!("stopped: {failure}"),
        Phase::Apart { lost } => format!("apart: {}", lost.unwrap_or("nobody is lost".to_owned())),
        Phase::Silent { since } => format!("silent since {}", since.0 / 1000),
        Phase::Fetching { done: Bytes(done), .. } => format!("fetching: {done}"),
        Phase::Loading => "loading".to_owned(),
        Phase::Ready => "ready".to_owned(),
        Phase::Pending { why } => format!("pending: {why}"),
    }
}

fn all_ready(record: &mut Record, seconds: u64) {
    for (member, port) in [8000, 8001, 8002].into_iter().enumerate() {
        record.hears(member, listening(port), seconds);
        record.hears(member, says(State::Ready), seconds);
    }
}

#[tokio::test]
async fn a_replica_is_ready_when_all_members_are() {
    let mut record = record(THREE);
    assert_eq!(words(&record, 1), "silent since 0");
    for member in [2, 1] {
        record.hears(member, listening(8000), 1);
        record.hears(member, says(State::Ready), 1);
    }
    let fetch = Some(Progress { bytes_done: 5, bytes_total: 9 });
    let fetching = StatusReport { state: State::Fetching.into(), fetch, ..StatusReport::default() };
    record.hears(0, What::Report(fetching), 1);
    assert_eq!(words(&record, 1), "fetching: 5");
    record.hears(0, says(State::Apart), 2);
    assert_eq!(words(&record, 2), "apart: nobody is lost", "they have not met yet");
    record.hears(0, says(State::Ready), 3);
    assert_eq!(words(&record, 3), "ready");
    assert!(!record.endpoint("solar-0".to_owned()).ready, "nobody knows where it is");
    record.hears(0, listening(8001), 3);
    let endpoint = record.endpoint("solar-0".to_owned());
    assert_eq!((endpoint.ready, endpoint.address.as_str()), (true, "127.0.0.1:8001"), "member 0's");
    let seen = record.seen(ReplicaId(0), Moment(4000));
    assert_eq!((seen.ready_since, seen.has_served), (Some(Moment(3000)), true));
    assert_eq!(seen.failures, Failures(0));
    assert_eq!(record.memory(), 3 * (2 << 30), "of all members");
}

#[tokio::test]
async fn whoever_is_lost_is_named_until_it_is_back() {
    let mut record = record(THREE);
    all_ready(&mut record, 1);
    record.hears(1, ended(), 5);
    record.hears(0, says(State::Apart), 5);
    let gone = "rank 1 (process 4711): the worker ended: signal: 9 (SIGKILL)";
    assert_eq!(words(&record, 5), format!("rank: {gone}"));
    assert!(!record.endpoint("solar-0".to_owned()).ready);
    assert_eq!(record.idle(), [1], "the others go on");
    assert!(!record.needs_links(), "and look for it where it was");
    start(&mut record, 4801, 6);
    assert_eq!(words(&record, 6), format!("apart: {gone}"), "not the process that comes");
    record.hears(1, says(State::Loading), 7);
    assert_eq!(words(&record, 7), format!("apart: {gone}"));
    let before = record.seen(ReplicaId(0), Moment(7000));
    assert_eq!((before.ready_since, before.failures), (None, Failures(1)));
    record.hears(1, says(State::Ready), 8);
    record.hears(0, says(State::Ready), 8);
    assert_eq!(words(&record, 8), "ready");
    assert_eq!(record.seen(ReplicaId(0), Moment(9000)).ready_since, Some(Moment(8000)));
    // A link that breaks later is not the fault of that end.
    record.hears(1, says(State::Apart), 9);
    record.hears(0, says(State::Apart), 9);
    assert_eq!(words(&record, 9), "apart: rank 1 (process 4801): its connection broke");
}

#[tokio::test]
async fn ranks_wait_for_a_silent_member_but_not_for_ever() {
    let mut record = record(THREE);
    all_ready(&mut record, 1);
    record.hears(2, ended(), 5);
    start(&mut record, 4801, 6);
    assert!(words(&record, 35).starts_with("apart: rank 2 ("), "{}", words(&record, 35));
    assert_eq!(record.silent_until(Moment(35_000)), Some(Moment(36_000)));
    assert_eq!(words(&record, 36), "silent since 6");
    assert_eq!(record.silent_until(Moment(36_000)), None, "that has come already");
    record.make_way(Moment(36_000)).await;
    assert_eq!(record.idle(), [2], "nobody else has to begin anew");
    start(&mut record, 4901, 36);
    let expected = "apart: rank 2 (process 4801): it said nothing for 30 s and was killed";
    assert_eq!(words(&record, 37), expected);
}

#[tokio::test]
async fn a_member_that_found_its_place_taken_moves_them_all() {
    let mut record = record("{tensor: 3, pipeline: 2, devicesPerMember: 2}");
    record.end().await;
    assert!(record.needs_links(), "nobody runs yet");
    let links = [8000, 8004, 8008].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    record.meets_at(links.to_vec());
    let ports: Vec<_> = record.ports().collect();
    assert_eq!(ports, [8000, 8001, 8004, 8005, 8008, 8009]);
    let name = DeploymentName::parse("default", "solar").unwrap();
    let arguments = record.arguments(&name, ReplicaId(3), 1).join(" ");
    let expected = "--replica default/solar-3 --member 1 \
                    --members 127.0.0.1:8000,127.0.0.1:8004,127.0.0.1:8008 \
                    --links-listen 127.0.0.1:8004";
    assert_eq!(arguments, expected);
    start(&mut record, 4720, 1);
    record.hears(0, listening(8100), 2);
    record.hears(1, listening(8101), 2);
    record.hears(1, ended(), 3);
    record.make_way(Moment(3000)).await;
    assert_eq!(record.idle(), [1], "one that was there comes back to where it was");
    start(&mut record, 4730, 4);
    record.hears(1, ended(), 5);
    record.make_way(Moment(5000)).await;
    assert_eq!(record.idle(), [0, 1, 2], "one that cannot be there needs another place");
    assert!(record.needs_links());
    let one = self::record("{}");
    assert!(!one.needs_links(), "one rank looks for nobody");
    assert_eq!(one.arguments(&name, ReplicaId(3), 0), [""; 0]);
}

#[tokio::test]
async fn members_have_their_gpus_side_by_side() {
    let mut record = record("{tensor: 4, devicesPerMember: 2}, backend: cuda");
    record.end().await;
    record.meets_at([8000, 8004].map(|port| SocketAddr::from(([127, 0, 0, 1], port))).to_vec());
    let name = DeploymentName::parse("default", "solar").unwrap();
    let device = |member| record.arguments(&name, ReplicaId(0), member)[8..].join(" ");
    assert_eq!([device(0), device(1)], ["--device 0", "--device 2"]);
}

#[tokio::test]
async fn what_a_member_refuses_is_what_is_told() {
    let mut record = record(THREE);
    record.hears(1, listening(8000), 1);
    record.hears(1, says(State::Loading), 1);
    record.hears(1, says(State::Failed), 2);
    let refusal = WorkerFailure::Config("splits that work: 1, 3, 9".to_owned());
    record.hears(1, What::Ended(refusal), 2);
    let expected = "config: rank 1 (process 4711): splits that work: 1, 3, 9";
    assert_eq!(words(&record, 2), expected);
    let mut alone = self::record("{}");
    alone.hears(0, says(State::Failed), 2);
    alone.hears(0, ended(), 2);
    assert_eq!(words(&alone, 2), "stopped: its connection broke", "its own words");
}

#[tokio::test]
async fn whichever_member_is_asked_to_go_the_replica_drains() {
    let mut record = record(THREE);
    all_ready(&mut record, 1);
    record.hears(2, says(State::Draining), 2);
    assert!(record.endpoint("solar-0".to_owned()).draining);
    record.hears(2, ended(), 3);
    assert_eq!(words(&record, 3), "ready", "it is as far as member 0");
    record.hears(0, ended(), 4);
    assert!(words(&record, 4).starts_with("stopped: "), "{}", words(&record, 4));
}

#[tokio::test]
async fn an_earlier_run_says_nothing_any_more() {
    let mut record = record(THREE);
    assert!(!record.take(1, RUN - 1, ended(), Moment(1000)));
    assert!(!record.take(9, RUN, ended(), Moment(1000)), "nor does a member that is none");
    assert_eq!(words(&record, 1), "silent since 0");
}
