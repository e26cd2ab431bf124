//! An overview as text for people. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use naru_plan::Moment;

use super::super::observe;
use super::look::Scope;
use super::table::{Cell, Tone, painted, table, wrapped};
use super::{Deployment, Overview, Replica};

/// How the text is to look.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Characters in a line; `None`: as many as it takes.
    pub width: Option<usize>,
    /// Whether whoever reads it sees colours.
    pub has_colours: bool,
    /// Whether more columns are wanted.
    pub is_wide: bool,
}

/// What a condition's message says before the command to try next.
const TRY: &str = "; try: ";

/// Reasons that nobody waits for.
const RESTFUL: [&str; 5] =
    ["Serving", "ScaledToZero", "WeightsLoaded", "ScaledByLoad", "RolledOut"];

/// The overview on one screen.
pub fn screen(overview: &Overview, scope: &Scope, style: Style, now: Moment) -> String {
    let page = Page { style, now };
    let mut sections = match (scope, overview.model_deployments.as_slice()) {
        (Scope::One { .. }, [deployment]) => page.one(deployment),
        (_, []) => vec![nothing(scope)],
        (_, deployments) => vec![page.deployments(deployments), page.waiting(deployments)],
    };
    sections.push(page.budgets(overview));
    let notes = overview.notes.iter().map(|note| wrapped(note, "", style.width));
    sections.push(notes.collect());
    sections.retain(|section| !section.is_empty());
    sections.join("\n")
}

fn nothing(scope: &Scope) -> String {
    match scope {
        Scope::Namespace(namespace) | Scope::One { namespace, .. } => format!(
            "No model deployments in namespace {namespace}; of all namespaces: naru status -A\n"
        ),
        Scope::Everywhere => {
            "No model deployments; to describe a first one: kubectl explain modeldeployment.spec\n"
                .to_owned()
        }
    }
}

/// What all sections need to know.
struct Page {
    style: Style,
    now: Moment,
}

impl Page {
    fn table(&self, heads: &[&str], rows: &[Vec<Cell>]) -> String {
        table(heads, rows, self.style.width.filter(|_| !self.style.is_wide), self.style.has_colours)
    }

    fn heading(&self, text: &str) -> String {
        painted(text, Tone::Heading, self.style.has_colours) + "\n"
    }

    fn deployments(&self, deployments: &[Deployment]) -> String {
        let mut heads = vec!["NAMESPACE", "NAME", "READY", "STATE", "AGE"];
        heads.extend(["RUNNING", "WAITING", "WATTS"]);
        if self.style.is_wide {
            heads.extend(["UPDATED", "BACKEND", "ZONES", "MODEL"]);
        }
        heads.push("SERVES");
        let row = |deployment: &Deployment| {
            let queue = deployment.queue();
            let mut row = vec![
                Cell::plain(&deployment.namespace),
                Cell::plain(&deployment.name),
                Cell::plain(format!("{}/{}", deployment.ready, deployment.wished)),
                Cell::new(&deployment.reason, tone(deployment)),
                self.age(deployment.created.as_ref()),
                Cell::or_dash(queue.map(|queue| queue.running)),
                Cell::or_dash(queue.map(|queue| queue.waiting)),
                Cell::or_dash(deployment.charged_watts),
            ];
            if self.style.is_wide {
                row.push(Cell::or_dash(deployment.updated));
                row.push(Cell::plain(&deployment.backend));
                row.push(listed(&deployment.zones));
                row.push(Cell::plain(&deployment.uri));
            }
            row.push(listed(&deployment.serves));
            row
        };
        self.table(&heads, &deployments.iter().map(row).collect::<Vec<_>>())
    }

    /// What is not as wished, and why.
    fn waiting(&self, deployments: &[Deployment]) -> String {
        let mut text = String::new();
        for deployment in deployments {
            for condition in troubles(deployment) {
                let Deployment { namespace, name, .. } = deployment;
                let since = self.ago(&condition.last_transition_time);
                let (kind, reason) = (&condition.type_, &condition.reason);
                let head = format!("md/{name} -n {namespace}: {kind} {reason} (for {since})");
                text += &wrapped(&head, "  ", self.style.width);
                text += &self.advice(&condition.message, "    ");
            }
        }
        if text.is_empty() { text } else { self.heading("WAITS") + &text }
    }

    /// A message, and the command to try next on a line of its own, which is never broken.
    fn advice(&self, message: &str, indent: &str) -> String {
        let (words, command) = match message.split_once(TRY) {
            Some((words, command)) => (words, Some(command)),
            None => (message, None),
        };
        let mut text = wrapped(words, indent, self.style.width);
        if let Some(command) = command {
            text += &wrapped(&format!("try: {command}"), indent, None);
        }
        text
    }

    fn one(&self, deployment: &Deployment) -> Vec<String> {
        vec![
            self.summary(deployment),
            self.conditions(deployment),
            self.replicas(deployment),
            self.scaling(deployment),
        ]
    }

    fn summary(&self, deployment: &Deployment) -> String {
        let Deployment { namespace, name, ready, wished, updated, .. } = deployment;
        let state = painted(&deployment.reason, tone(deployment), self.style.has_colours);
        let mut text = self.heading(&format!("md/{name} in namespace {namespace}"));
        let mut say = |what: &str, words: String| text += &format!("  {what:<8}  {words}\n");
        say("state", format!("{state}: {ready} of {wished} replicas answer"));
        if let Some(updated) = updated {
            say("rollout", format!("{updated} of {wished} replicas are of the present template"));
        }
        say("serves", deployment.serves.join(", "));
        say("model", format!("{} (backend {})", deployment.uri, deployment.backend));
        if !deployment.zones.is_empty() {
            say("zones", deployment.zones.join(", "));
        }
        if let Some(watts) = deployment.charged_watts {
            say("watts", format!("{watts} charged"));
        }
        if let Some(queue) = deployment.queue() {
            say("requests", format!("{} running, {} waiting", queue.running, queue.waiting));
        }
        text
    }

    fn conditions(&self, deployment: &Deployment) -> String {
        if deployment.conditions.is_empty() {
            return self.heading("CONDITIONS")
                + "  The operator has not reported yet; \
                   try: kubectl -n naru-system get pods\n";
        }
        let mut text = self.heading("CONDITIONS");
        let mut told: Vec<&str> = Vec::new();
        for condition in &deployment.conditions {
            let Condition { type_, status, reason, message, .. } = condition;
            let since = self.ago(&condition.last_transition_time);
            text += &wrapped(&format!("{type_} {status} {reason} (for {since})"), "  ", None);
            // Several often have the same words; they are said once.
            if !told.contains(&message.as_str()) {
                text += &self.advice(message, "    ");
                told.push(message);
            }
        }
        text
    }

    fn replicas(&self, deployment: &Deployment) -> String {
        if deployment.replicas.is_empty() {
            return String::new();
        }
        let mut heads = vec!["REPLICA", "PHASE", "NODE", "ZONE", "AGE", "FAILURES"];
        heads.extend(["RUNNING", "WAITING"]);
        if self.style.is_wide {
            heads.extend(["REVISION", "ADDRESS"]);
        }
        heads.push("WHY");
        let row = |replica: &Replica| {
            let is_ready = replica.phase == "Ready";
            let tone = if is_ready { Tone::Good } else { Tone::Waiting };
            let mut row = vec![
                Cell::plain(&replica.name),
                Cell::new(&replica.phase, tone),
                Cell::or_dash(replica.node.as_ref()),
                Cell::or_dash(replica.zone.as_ref()),
                self.age(replica.created.as_ref()),
                Cell::plain(replica.failures.to_string()),
                Cell::or_dash(replica.queue.map(|queue| queue.running)),
                Cell::or_dash(replica.queue.map(|queue| queue.waiting)),
            ];
            if self.style.is_wide {
                row.push(Cell::plain(&replica.revision));
                row.push(Cell::or_dash(replica.address.as_ref()));
            }
            row.push(Cell::plain(&replica.why));
            row
        };
        self.table(&heads, &deployment.replicas.iter().map(row).collect::<Vec<_>>())
    }

    fn scaling(&self, deployment: &Deployment) -> String {
        if deployment.scaling.is_empty() {
            return String::new();
        }
        let mut text = self.heading("SCALING, THE NEWEST FIRST");
        for decision in deployment.scaling.iter().rev() {
            let (from, to) = (decision.from, decision.to);
            let since = self.ago(&decision.time);
            let words = format!("{since} ago, {from} to {to}: {}", decision.message);
            text += &wrapped(&words, "  ", self.style.width);
        }
        text
    }

    fn budgets(&self, overview: &Overview) -> String {
        if overview.power_budgets.is_empty() {
            return String::new();
        }
        let heads = ["POWER BUDGET", "PARENT", "WATTS", "CHARGED", "HEADROOM", "TROUBLE"];
        let rows = overview.power_budgets.iter().map(|budget| {
            vec![
                Cell::plain(&budget.name),
                Cell::or_dash(budget.parent.as_ref()),
                Cell::plain(budget.watts.to_string()),
                Cell::or_dash(budget.charged_watts),
                Cell::or_dash(budget.headroom_watts),
                Cell::new(budget.broken.clone().unwrap_or_default(), Tone::Bad),
            ]
        });
        self.table(&heads, &rows.collect::<Vec<_>>())
    }

    fn age(&self, since: Option<&Time>) -> Cell {
        Cell::or_dash(since.map(|since| self.ago(since)))
    }

    /// How long ago that was, in the one unit that says most.
    fn ago(&self, since: &Time) -> String {
        let seconds = self.now.0.saturating_sub(observe::moment(since).0) / 1000;
        match seconds {
            0..120 => format!("{seconds}s"),
            120..7200 => format!("{}m", seconds / 60),
            7200..172_800 => format!("{}h", seconds / 3600),
            _ => format!("{}d", seconds / 86400),
        }
    }
}

fn tone(deployment: &Deployment) -> Tone {
    match (deployment.is_ready, RESTFUL.contains(&deployment.reason.as_str())) {
        (true, true) => Tone::Good,
        (false, true) => Tone::Plain,
        (true, false) => Tone::Waiting,
        (false, false) => Tone::Bad,
    }
}

/// The conditions that say what is waited for; each reason once.
fn troubles(deployment: &Deployment) -> Vec<&Condition> {
    let mut troubles: Vec<&Condition> = Vec::new();
    for condition in &deployment.conditions {
        let is_trouble = condition.status == "False" || condition.type_ == "Ready";
        let is_known = troubles.iter().any(|known| known.reason == condition.reason);
        if is_trouble && !is_known && !RESTFUL.contains(&condition.reason.as_str()) {
            troubles.push(condition);
        }
    }
    troubles
}

fn listed(words: &[String]) -> Cell {
    Cell::plain(if words.is_empty() { "-".to_owned() } else { words.join(",") })
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
