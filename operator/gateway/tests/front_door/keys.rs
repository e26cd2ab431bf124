//! Keys: who may come, who may use what, and how much at a time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use naru_gateway::{KeyRule, Limits};
use naru_protocol::{Access, KeyDigest, Snapshot, TenantKey, TenantKeys};
use tokio::time::{sleep, timeout};

use crate::scripted::{ANSWER, Answer, Front, Then, Worker, endpoint, events, snapshot};

const SAUDI: &str = "authorization: Bearer naru_saudi\r\n";
const BANK: &str = "authorization: Bearer naru_bank\r\n";

fn tenant(name: &str, concurrent_requests_max: Option<u32>) -> TenantKeys {
    let key = key(&format!("naru_{name}"), None);
    TenantKeys { name: name.into(), keys: vec![key], concurrent_requests_max }
}

fn key(text: &str, expires_unix_seconds: Option<u64>) -> TenantKey {
    TenantKey { name: "prod".into(), sha256: KeyDigest::of(text), expires_unix_seconds }
}

fn only(tenant: &str) -> Access {
    Access::Only([tenant.to_owned()].into())
}

/// `m` for everybody, `s` for saudi alone; two tenants.
fn two_tenants(worker: &Worker) -> Snapshot {
    let at = [endpoint("a", worker)];
    let mut snapshot = snapshot(1, &[("m", &at), ("s", &at)]);
    snapshot.models.get_mut("s").unwrap().access = only("saudi");
    snapshot.tenants = vec![tenant("saudi", None), tenant("bank", None)];
    snapshot
}

async fn front(snapshot: Snapshot) -> Front {
    Front::with(snapshot, KeyRule::Always, Limits::default()).await
}

#[tokio::test]
async fn each_refusal_has_its_status() {
    let worker = Worker::start(ANSWER, Then::Close).await;
    let mut snapshot = two_tenants(&worker);
    snapshot.tenants[1].keys.push(key("naru_old", Some(1_600_000_000)));
    let front = front(snapshot).await;
    let old = "authorization: Bearer naru_old\r\n";
    let unknown = "authorization: Bearer naru_unknown\r\n";
    let rows = [
        ("no key", "", "m", 401, "invalid_api_key"),
        ("nobody's key", unknown, "m", 401, "invalid_api_key"),
        ("a key of yesterday", old, "m", 401, "has expired"),
        ("no key, for a model that is not there", "", "x", 401, "invalid_api_key"),
        ("another's model", BANK, "s", 403, "permission_denied"),
        ("nobody's model", BANK, "x", 404, "model_not_found"),
        ("everybody's model", BANK, "m", 200, "hello"),
        ("its own model", SAUDI, "s", 200, "hello"),
    ];
    for (fact, headers, model, status, words) in rows {
        let answer = front.post_with(headers, &format!("{{\"model\":\"{model}\"}}")).await;
        assert_eq!(answer.status, status, "{fact}: {}", answer.body);
        assert!(answer.body.contains(words), "{fact}: {}", answer.body);
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401, "{fact}");
    }
    assert_eq!(worker.requests().len(), 2, "what was refused reached nobody");
    let page = front.metrics().await;
    for line in [
        "naru_gateway_requests_total{model=\"m\",status=\"200\",tenant=\"bank\"} 1",
        "naru_gateway_requests_total{model=\"s\",status=\"200\",tenant=\"saudi\"} 1",
        "naru_gateway_refusals_total{code=\"permission_denied\",tenant=\"bank\"} 1",
        "naru_gateway_refusals_total{code=\"invalid_api_key\",tenant=\"\"} 4",
    ] {
        assert!(page.contains(line), "{line} is not in {page}");
    }
}

#[tokio::test]
async fn every_path_of_the_api_needs_the_key() {
    let worker = Worker::start(ANSWER, Then::Close).await;
    let front = front(two_tenants(&worker)).await;
    for path in ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"] {
        let post = |headers: &str| {
            format!(
                "POST {path} HTTP/1.1\r\nhost: naru\r\nconnection: close\r\n{headers}\
                 content-length: 13\r\n\r\n{{\"model\":\"m\"}}"
            )
        };
        assert_eq!(front.send(&post("")).await.status, 401, "{path}");
        assert_eq!(front.send(&post(SAUDI)).await.status, 200, "{path}");
    }
    for path in ["/v1/models", "/v1/models/m"] {
        assert_eq!(front.get_with("", path).await.status, 401, "{path}");
        assert_eq!(front.get_with(BANK, path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_tenant_sees_its_models_alone() {
    let worker = Worker::start(ANSWER, Then::Close).await;
    let front = front(two_tenants(&worker)).await;
    let ids = |answer: Answer| {
        let models: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        let models = models["data"].as_array().unwrap().clone();
        models.iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(front.get_with(SAUDI, "/v1/models").await), ["m", "s"]);
    assert_eq!(ids(front.get_with(BANK, "/v1/models").await), ["m"]);
    assert_eq!(front.get_with(BANK, "/v1/models/s").await.status, 403);
    assert_eq!(front.get_with(BANK, "/v1/models/x").await.status, 404);
}

#[tokio::test]
async fn the_worker_is_told_whose_request_it_is() {
    let worker = Worker::start(ANSWER, Then::Close).await;
    let front = front(two_tenants(&worker)).await;
    let pretends = format!("{SAUDI}x-naru-tenant: bank\r\n");
    assert_eq!(front.post_with(&pretends, "{\"model\":\"m\"}").await.status, 200);
    let seen = worker.requests().remove(0).to_lowercase();
    assert!(seen.contains("x-naru-tenant: saudi") && !seen.contains("bank"), "{seen}");
    assert!(!seen.contains("authorization") && !seen.contains("naru_saudi"), "{seen}");
}

#[tokio::test]
async fn without_tenants_this_machine_needs_no_key_and_others_always_do() {
    let worker = Worker::start(ANSWER, Then::Close).await;
    let open = snapshot(1, &[("m", &[endpoint("a", &worker)])]);
    let here = Front::with(open.clone(), KeyRule::OnceTenantsExist, Limits::default()).await;
    assert_eq!(here.post("{\"model\":\"m\"}").await.status, 200);
    here.publish_snapshot(Snapshot { tenants: vec![tenant("saudi", None)], ..open.clone() });
    assert_eq!(here.post("{\"model\":\"m\"}").await.status, 401, "from the first tenant on");
    let there = front(open).await;
    assert_eq!(there.post("{\"model\":\"m\"}").await.status, 401);
    assert_eq!(there.get_with(SAUDI, "/v1/models").await.status, 401, "nobody has keys");
}

#[tokio::test]
async fn a_revoked_key_is_dead_with_the_next_snapshot() {
    let worker = Worker::start(ANSWER, Then::Close).await;
    let front = front(two_tenants(&worker)).await;
    assert_eq!(front.post_with(BANK, "{\"model\":\"m\"}").await.status, 200);
    let mut revoked = (*front.snapshot()).clone();
    revoked.tenants[1].keys.clear();
    front.publish_snapshot(revoked);
    assert_eq!(front.post_with(BANK, "{\"model\":\"m\"}").await.status, 401);
    assert_eq!(front.post_with(SAUDI, "{\"model\":\"m\"}").await.status, 200);
}

#[tokio::test]
async fn a_key_that_is_revoked_while_its_request_waits_is_refused() {
    let worker = Worker::start(ANSWER, Then::Close).await;
    let mut snapshot = two_tenants(&worker);
    snapshot.models.get_mut("m").unwrap().endpoints[0].ready = false;
    let front = front(snapshot.clone()).await;
    let (answer, ()) = tokio::join!(front.post_with(BANK, "{\"model\":\"m\"}"), async {
        front.shows("naru_gateway_requests_waiting 1").await;
        snapshot.models.get_mut("m").unwrap().endpoints[0].ready = true;
        snapshot.tenants[1].keys.clear();
        front.publish_snapshot(snapshot);
    });
    assert_eq!(answer.status, 401, "{}", answer.body);
    assert!(worker.requests().is_empty());
}

#[tokio::test]
async fn a_key_expires_without_a_word_from_the_operator() {
    let worker = Worker::start(ANSWER, Then::Close).await;
    let mut snapshot = two_tenants(&worker);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    snapshot.tenants[1].keys[0].expires_unix_seconds = Some(now + 2);
    let front = front(snapshot).await;
    assert_eq!(front.get_with(BANK, "/v1/models").await.status, 200);
    let expires = async {
        while front.get_with(BANK, "/v1/models").await.status == 200 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(10), expires).await.expect("its day comes");
    let later = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(later >= now + 2, "and not before");
}

#[tokio::test]
async fn a_tenant_has_so_many_requests_at_a_time() {
    let worker = Worker::start(&events(&["data: 1\n\n"]), Then::Hold).await;
    let mut snapshot = two_tenants(&worker);
    snapshot.tenants[0].concurrent_requests_max = Some(2);
    let front = front(snapshot).await;
    let body = "{\"model\":\"m\"}";
    let said = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: naru\r\n{SAUDI}content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let first = front.connect(&said).await;
    let _second = front.connect(&said).await;
    front.shows("naru_gateway_requests_total{model=\"m\",status=\"200\",tenant=\"saudi\"} 2").await;
    let third = front.post_with(SAUDI, body).await;
    assert_eq!((third.status, third.header("retry-after")), (429, Some("1")), "{}", third.body);
    assert!(third.body.contains("rate_limit_exceeded"), "{}", third.body);
    assert_eq!(front.get_with(SAUDI, "/v1/models").await.status, 200, "a list takes no place");
    let _other = front.connect(&said.replace("naru_saudi", "naru_bank")).await;
    front.shows("naru_gateway_requests_total{model=\"m\",status=\"200\",tenant=\"bank\"} 1").await;
    drop(first);
    let freed = async {
        while front.post_with(SAUDI, "{\"model\":\"x\"}").await.status == 429 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(5), freed).await.expect("a client that leaves frees its place");
}
