//! What each reason means and what to do about it: the one table, which conditions quote and
//! `docs/reference/conditions.md` is made of.

use naru_plan::{DeploymentName, Reason};

/// What a reason means, and what a person does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advice {
    /// What has happened, and what naru does about it by itself.
    pub meaning: &'static str,
    /// What a person does about it; empty: nothing has to be done.
    pub remedy: &'static str,
    /// The command to try next, with NAME and NAMESPACE; empty: none.
    pub command: &'static str,
}

const PODS: &str = "kubectl describe pod -n NAMESPACE -l naru.dev/model-deployment=NAME";
const LOGS: &str =
    "kubectl logs -n NAMESPACE -l naru.dev/model-deployment=NAME --all-containers --tail 50";
const PREVIOUS_LOGS: &str =
    "kubectl logs -n NAMESPACE -l naru.dev/model-deployment=NAME --previous --tail 50";
const EVENTS: &str = "kubectl events -n NAMESPACE --types Warning";
const SPEC: &str = "kubectl edit modeldeployment -n NAMESPACE NAME";
const DECISIONS: &str =
    "kubectl get modeldeployment -n NAMESPACE NAME -o jsonpath='{.status.scaling}'";

const BUDGETS: &str = "kubectl get powerbudgets";

/// Meaning, remedy and command of each reason.
const ROWS: [(Reason, &str, &str, &str); Reason::ALL.len()] = [
    (Reason::Serving, "As many replicas answer as are wished.", "", ""),
    (
        Reason::Starting,
        "Replicas have been made and have not reported yet.",
        "Wait; see what their pods wait for if it takes longer than a minute.",
        PODS,
    ),
    (
        Reason::Fetching,
        "Weights are on their way to the node.",
        "Wait; the log says how far it is.",
        LOGS,
    ),
    (Reason::Loading, "Weights are being read into memory.", "Wait.", LOGS),
    (
        Reason::Replacing,
        "Replicas of an older template answer until their successors do.",
        "Wait; nothing is missing meanwhile.",
        PODS,
    ),
    (Reason::RolledOut, "Every replica is of the present template.", "", ""),
    (
        Reason::RollingOut,
        "Replicas of the present template take over one after another.",
        "Wait.",
        PODS,
    ),
    (
        Reason::CanaryServing,
        "The first replica of the present template has to answer for rollout.canarySeconds before \
         others follow.",
        "Wait, or apply the earlier spec again if its answers are not as they should be.",
        PODS,
    ),
    (
        Reason::RolloutStopped,
        "A replica of the present template does not become ready. No other is exchanged; those \
         of the older template that are left serve on.",
        "Apply the earlier spec again, or correct what the message names.",
        SPEC,
    ),
    (
        Reason::BackingOff,
        "A worker ended by itself. It is started again, each time after a longer wait, at most \
         a minute.",
        "Read its last words.",
        PREVIOUS_LOGS,
    ),
    (
        Reason::OutOfMemoryKilled,
        "A worker wanted more memory than its limit and was killed. It is started again after \
         a wait.",
        "Raise resources.limits.memory, or lower engine.kvCacheMemory.",
        SPEC,
    ),
    (
        Reason::NodeLost,
        "The node of a replica is gone or has said nothing for too long. The replica is started \
         on another.",
        "Bring the node back, or remove it from the cluster.",
        "kubectl get nodes",
    ),
    (
        Reason::RankFailed,
        "A member of a replica ended or cannot be reached. The others keep the weights, answer \
         nothing, and meet it again when it is back; requests of which nothing was streamed go to \
         other replicas.",
        "Read its last words; the message names rank, pod and node.",
        PREVIOUS_LOGS,
    ),
    (
        Reason::Unschedulable,
        "No node has room for a replica, or none that it may run on. It waits.",
        "Add a node or free one, or ask for less: resources.requests, placement.zones, \
         podTemplate.nodeSelector.",
        PODS,
    ),
    (
        Reason::ImageMissing,
        "The worker's image cannot be fetched. It is tried again.",
        "Correct the image that the operator was told, or load it where nodes find it.",
        PODS,
    ),
    (
        Reason::MountMissing,
        "A volume, ConfigMap or Secret of podTemplate does not exist or cannot be attached. It \
         is tried again.",
        "Make it, or correct its name in podTemplate.",
        PODS,
    ),
    (
        Reason::QuotaExceeded,
        "The ResourceQuota of the namespace does not allow another replica. It is tried again.",
        "Raise the quota, or ask for less.",
        "kubectl describe resourcequota -n NAMESPACE",
    ),
    (
        Reason::Refused,
        "The cluster refuses to make a replica (an admission rule, a limit of the namespace, a \
         missing right), or its node to start it (a runtime class whose handler it lacks, a \
         network that fails). It is tried again.",
        "Do what the message asks for.",
        EVENTS,
    ),
    (
        Reason::ConfigRefused,
        "A worker refused its configuration. It is started again after a wait.",
        "Correct what the message names.",
        SPEC,
    ),
    (
        Reason::NoUsableGpu,
        "A worker of backend cuda found no GPU that it can compute on, and says why. It is started \
         again after a wait.",
        "See that the node has NVIDIA's driver and device plugin, and that its containers get the \
         driver: name a RuntimeClass in accelerator.runtimeClassName where it is not every \
         container's. docs/operating.md, \"GPUs\".",
        PODS,
    ),
    (
        Reason::WeightsMissing,
        "There are no weights at model.uri, or none that this worker can use. It is tried again \
         after a wait.",
        "Correct model.uri, or put the weights there.",
        SPEC,
    ),
    (
        Reason::WeightsUnauthorized,
        "Whoever has the weights asks for a token, a key or a login, or does not accept the one \
         that was given. It is tried again after a wait.",
        "Put HF_TOKEN, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a .dockerconfigjson into \
         a Secret, and name it in model.secretName.",
        SPEC,
    ),
    (
        Reason::WeightsUnreachable,
        "Whoever has the weights cannot be reached from the node, is not trusted, or fails. What \
         has come is kept where the cache outlives the pod. It is tried again after a wait.",
        "Let nodes reach the address: DNS, HTTPS_PROXY, SSL_CERT_FILE or HF_ENDPOINT in \
         podTemplate.env.",
        LOGS,
    ),
    (
        Reason::WeightsCorrupt,
        "The weights are other bytes than model.sha256, or their publisher, says, or break off in \
         the middle. What was fetched was thrown away, and is fetched again after a wait.",
        "Correct model.sha256, or upload the weights again.",
        SPEC,
    ),
    (
        Reason::DiskFull,
        "The disk has no room for the weights. It is tried again after a wait.",
        "Free space on the node, or make the claim naru-weights of the namespace larger.",
        "kubectl get persistentvolumeclaim -n NAMESPACE",
    ),
    (Reason::WeightsLoaded, "The weights were fetched and accepted.", "", ""),
    (
        Reason::InsufficientMemory,
        "One more replica would promise more memory than this machine has. It waits.",
        "Lower resources.requests.memory, or the number of replicas.",
        "",
    ),
    (
        Reason::ScaledToZero,
        "No replica is wished, or with scaling: nobody asks. A request wakes one if scaling is \
         given.",
        "Ask for a replica, if there should be one.",
        "kubectl scale modeldeployment -n NAMESPACE NAME --replicas 1",
    ),
    (
        Reason::NameTaken,
        "Another model deployment serves one of the names; the older one keeps it.",
        "Choose another name in model.names.",
        "kubectl get modeldeployments -A \
         -o custom-columns=ns:.metadata.namespace,object:.metadata.name,serves:.spec.model.names",
    ),
    (
        Reason::SpecInvalid,
        "The spec has no meaning, though the API server took it. Its replicas are left as they \
         are, and gateways do not know it.",
        "Correct what the message names.",
        SPEC,
    ),
    (
        Reason::ScaledByLoad,
        "naru chooses the number of replicas by load; spec.replicas is ignored.",
        "",
        DECISIONS,
    ),
    (
        Reason::LimitedByMaximum,
        "The load asks for more replicas than scaling.maxReplicas.",
        "Raise scaling.maxReplicas, or let requests wait.",
        DECISIONS,
    ),
    (
        Reason::WithinBudget,
        "All replicas that are wished fit into the power budget, and into those above it.",
        "",
        "",
    ),
    (
        Reason::PowerBudgetFull,
        "The power budget, or one above it, has no room for another replica now, or will have \
         less soon by its schedule. The replica waits; what no longer fits drains, those of the \
         lowest power.priority and the youngest first.",
        "Do what the message says makes room: more watts, fewer replicas, another power.priority.",
        BUDGETS,
    ),
    (
        Reason::PowerInfeasible,
        "The power budget, or one above it, has fewer watts for devices than one replica takes. \
         None runs.",
        "Raise watts or lower overheadWatts of the budget that the message names, or name another.",
        BUDGETS,
    ),
    (
        Reason::PowerBudgetInvalid,
        "The power budget, or one that it is a part of, does not exist, or is a part of itself. \
         What runs goes on, and nothing more is started.",
        "Make the budget that the message names, or name another.",
        BUDGETS,
    ),
];

/// The row of one reason.
pub fn advice(reason: Reason) -> Advice {
    let row = ROWS.iter().find(|row| row.0 == reason).expect("a test finds each reason a row");
    Advice { meaning: row.1, remedy: row.2, command: row.3 }
}

/// `message` of a condition of the model deployment `name`, and what to try next where something
/// has to be done.
pub fn advised(reason: Reason, message: &str, name: &DeploymentName) -> String {
    let Advice { remedy, command, .. } = advice(reason);
    if remedy.is_empty() || command.is_empty() {
        return message.to_owned();
    }
    let command = command.replace("NAMESPACE", name.namespace()).replace("NAME", name.name());
    format!("{message}; try: {command}")
}

/// The table as the page `docs/reference/conditions.md`.
pub fn conditions_page() -> String {
    let mut page = String::from(
        "# Reasons of conditions\n\n\
         What `status.conditions` of a ModelDeployment may say, what it means, and what to try \
         next. In the commands\nNAME and NAMESPACE are those of the model deployment. This page \
         is made from the program:\n`UPDATE=1 cargo test -p naru-api` writes it.\n\n\
         | reason | what it means | what to do | command |\n| --- | --- | --- | --- |\n",
    );
    for reason in Reason::ALL {
        let Advice { meaning, remedy, command } = advice(reason);
        let remedy = if remedy.is_empty() { "Nothing." } else { remedy };
        let command = if command.is_empty() { String::new() } else { format!("`{command}`") };
        page += &format!("| `{reason:?}` | {meaning} | {remedy} | {command} |\n");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_say_what_to_try() {
        let name = DeploymentName::parse("serving", "solar").unwrap();
        let message = |reason| advised(reason, "words", &name);
        assert_eq!(
            message(Reason::Unschedulable),
            "words; try: kubectl describe pod -n serving -l naru.dev/model-deployment=solar"
        );
        assert_eq!(message(Reason::Serving), "words", "nothing has to be done");
        assert_eq!(message(Reason::InsufficientMemory), "words", "no command helps");
    }

    #[test]
    fn what_needs_doing_says_what() {
        for reason in Reason::ALL {
            let Advice { meaning, remedy, .. } = advice(reason);
            assert!(meaning.ends_with('.'), "{reason:?}");
            use Reason::{RolledOut, ScaledByLoad, Serving, WeightsLoaded, WithinBudget};
            let is_fine =
                matches!(reason, Serving | RolledOut | WeightsLoaded | ScaledByLoad | WithinBudget);
            assert_eq!(remedy.is_empty(), is_fine, "{reason:?}");
        }
    }
}
