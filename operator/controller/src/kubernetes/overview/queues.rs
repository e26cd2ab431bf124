//! The requests of replicas, as their own metrics have them, read through the API server.

use std::time::Duration;

use futures::{StreamExt, stream};
use http::{Request, StatusCode};
use kube::Client;
use tokio::time::timeout;

use super::super::labels::OPS_PORT;
use super::{Overview, Queue};

/// Replicas that are asked at all, and at the same time; a person does not read more.
const REPLICAS_MAX: usize = 256;
const AT_ONCE: usize = 16;
/// A replica that does not answer by then is not waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a queue is not known.
enum Unknown {
    Forbidden,
    Silent,
}

/// Asks each ready replica. Whoever may not is told so once.
pub(super) async fn fill(client: &Client, overview: &mut Overview) {
    let mut asked = Vec::new();
    for (place, deployment) in overview.model_deployments.iter().enumerate() {
        for (number, replica) in deployment.replicas.iter().enumerate() {
            if replica.phase == "Ready" {
                asked.push((place, number, deployment.namespace.clone(), replica.name.clone()));
            }
        }
    }
    let is_cut = asked.len() > REPLICAS_MAX;
    asked.truncate(REPLICAS_MAX);
    let mut answers = stream::iter(asked)
        .map(|(place, number, namespace, replica)| async move {
            (place, number, ask(client, &namespace, &replica).await)
        })
        .buffer_unordered(AT_ONCE);
    let mut is_forbidden = false;
    while let Some((place, number, answer)) = answers.next().await {
        match answer {
            Ok(queue) => {
                overview.model_deployments[place].replicas[number].queue = Some(queue);
            }
            // The rest would hear the same.
            Err(Unknown::Forbidden) if !is_forbidden => {
                is_forbidden = true;
                break;
            }
            Err(_) => {}
        }
    }
    drop(answers);
    if is_forbidden {
        let note = "RUNNING and WAITING need the right to get pods/proxy; \
                    try: kubectl auth can-i get pods/proxy";
        overview.notes.push(note.to_owned());
    }
    if is_cut {
        let note = format!("RUNNING and WAITING are those of the first {REPLICAS_MAX} replicas");
        overview.notes.push(note);
    }
}

async fn ask(client: &Client, namespace: &str, replica: &str) -> Result<Queue, Unknown> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{replica}-0:{OPS_PORT}/proxy/metrics");
    let request = Request::get(path).body(Vec::new()).map_err(|_| Unknown::Silent)?;
    match timeout(PATIENCE, client.request_text(request)).await {
        Ok(Ok(metrics)) => Ok(queue(&metrics)),
        Ok(Err(kube::Error::Api(status))) if status.code == StatusCode::FORBIDDEN.as_u16() => {
            Err(Unknown::Forbidden)
        }
        _ => Err(Unknown::Silent),
    }
}

/// What a worker's metrics say of its requests.
fn queue(metrics: &str) -> Queue {
    let of = |name: &str| {
        let mut values = metrics.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let is_whole = rest.starts_with(['{', ' ']);
            rest.rsplit(' ').next().filter(|_| is_whole)?.parse::<f64>().ok()
        });
        // Gauges of whole requests, and few.
        values.next().map_or(0, |value| value.max(0.0) as u64)
    };
    Queue { running: of("naru_requests_running"), waiting: of("naru_requests_waiting") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fact: &str, metrics: &str, running: u64, waiting: u64) {
        assert_eq!(queue(metrics), Queue { running, waiting }, "{fact}");
    }

    #[test]
    fn queues() {
        check("nothing", "", 0, 0);
        let plain = "# HELP naru_requests_running x\nnaru_requests_running 3\n\
                     naru_requests_waiting 12\n";
        check("gauges", plain, 3, 12);
        let longer = "naru_requests_running_total 9\nnaru_requests_waiting{model=\"a b\"} 2\n";
        check("of other names, and with labels", longer, 0, 2);
    }
}
