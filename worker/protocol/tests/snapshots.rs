//! Snapshots over the wire and on disk: what is said arrives, and nonsense is refused.
#![allow(clippy::unwrap_used)] // all of this is a test, also what is no #[test] function

use naru_protocol::control::v1;
use naru_protocol::{
    Access, Endpoint, KeyDigest, ModelEndpoints, Snapshot, SnapshotVersion, TenantKey, TenantKeys,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9][a-z0-9.-]{0,20}"
}

prop_compose! {
    fn endpoint()(replica in name(), ip: [u8; 4], port in 0..9_u16, ready: bool, draining: bool)
        -> Endpoint {
        let [a, b, c, d] = ip;
        let address = if port == 0 { String::new() } else { format!("{a}.{b}.{c}.{d}:{port}") };
        Endpoint { replica, ready: ready && !address.is_empty(), address, draining }
    }
}

prop_compose! {
    fn model()(
        namespace in name(), name in name(), created_unix_seconds: u64, wakes: bool,
        endpoints in vec(endpoint(), 0..4), only in option::of(btree_set(name(), 0..4)),
    ) -> ModelEndpoints {
        let access = only.map_or(Access::All, Access::Only);
        let deployment = format!("{namespace}/{name}");
        ModelEndpoints { deployment, created_unix_seconds, access, wakes, endpoints }
    }
}

prop_compose! {
    fn key()(name in name(), sha256: [u8; 32], expires_unix_seconds in option::of(any::<u64>()))
        -> TenantKey {
        TenantKey { name, sha256: KeyDigest::from_bytes(sha256), expires_unix_seconds }
    }
}

prop_compose! {
    fn snapshot()(
        epoch: u64, sequence: u64, models in btree_map(name(), model(), 0..5),
        tenants in btree_map(name(), (vec(key(), 0..3), option::of(any::<u32>())), 0..4),
    ) -> Snapshot {
        let version = SnapshotVersion { epoch, sequence };
        let tenant = |(name, (keys, concurrent_requests_max))| {
            TenantKeys { name, keys, concurrent_requests_max }
        };
        Snapshot { version, models, tenants: tenants.into_iter().map(tenant).collect() }
    }
}

proptest! {
    #[test]
    fn what_is_said_arrives(snapshot in snapshot()) {
        let message = v1::Snapshot::from(&snapshot);
        prop_assert_eq!(&Snapshot::try_from(message).unwrap(), &snapshot);
        let text = serde_json::to_string(&snapshot).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Snapshot>(&text).unwrap(), &snapshot);
    }

    /// Whatever bytes arrive: a snapshot that keeps the rules, or a refusal; never a panic.
    #[test]
    fn no_bytes_do_harm(snapshot in snapshot(), at: prop::sample::Index, byte: u8, cut: bool) {
        let mut bytes = prost::Message::encode_to_vec(&v1::Snapshot::from(&snapshot));
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        let decoded = <v1::Snapshot as prost::Message>::decode(bytes.as_slice());
        if let Ok(snapshot) = decoded.map(Snapshot::try_from).unwrap_or_else(|_| Ok(snapshot)) {
            prop_assert_eq!(snapshot.check(), Ok(()));
        }
    }
}

fn sound() -> v1::Snapshot {
    let endpoint = v1::Endpoint { address: "[::1]:80".into(), ..endpoint_of("a-0") };
    let model = v1::Model {
        deployment: "default/a".into(),
        endpoints: vec![endpoint],
        access: Some(v1::Access { all: true, tenants: vec![] }),
        ..v1::Model::default()
    };
    v1::Snapshot {
        version: Some(v1::Version { epoch: 1, sequence: 1 }),
        models: [("a".to_owned(), model)].into(),
        tenants: vec![tenant("saudi")],
    }
}

fn endpoint_of(replica: &str) -> v1::Endpoint {
    v1::Endpoint { replica: replica.into(), ..v1::Endpoint::default() }
}

fn tenant(name: &str) -> v1::Tenant {
    let key = v1::Key { name: "prod".into(), sha256: vec![7; 32], ..v1::Key::default() };
    v1::Tenant { name: name.into(), keys: vec![key], ..v1::Tenant::default() }
}

#[track_caller]
fn check(fact: &str, spoil: impl FnOnce(&mut v1::Snapshot), words: &str) {
    let mut message = sound();
    spoil(&mut message);
    let refused = Snapshot::try_from(message).expect_err(fact).to_string();
    assert!(refused.contains(words), "{fact}: {refused}");
}

#[test]
fn nonsense_is_refused() {
    fn model(message: &mut v1::Snapshot) -> &mut v1::Model {
        message.models.get_mut("a").unwrap()
    }
    Snapshot::try_from(sound()).unwrap();
    let mut starting = sound();
    model(&mut starting).endpoints[0] = endpoint_of("a-0");
    Snapshot::try_from(starting).expect("a replica that starts has no address yet");
    check("no version", |m| m.version = None, "no version");
    check("no word on access", |m| model(m).access = None, "no access of a model");
    let both = Some(v1::Access { all: true, tenants: vec!["saudi".into()] });
    check("all and some", |m| model(m).access = both, "no access");
    check("a name as address", |m| model(m).endpoints[0].address = "a:80".into(), "no address");
    let nowhere = |m: &mut v1::Snapshot| {
        model(m).endpoints[0] = v1::Endpoint { ready: true, ..endpoint_of("a-0") };
    };
    check("ready, and nowhere", nowhere, "no address");
    check("no deployment", |m| model(m).deployment = String::new(), "no model deployment");
    check("a tenant that splits a header", |m| m.tenants[0].name = "a\r\nb".into(), "no tenant");
    check("a tenant twice", |m| m.tenants.push(tenant("saudi")), "listed twice");
    check("half a digest", |m| m.tenants[0].keys[0].sha256 = vec![7; 16], "no sha256");
    let many = |m: &mut v1::Snapshot| model(m).endpoints = vec![endpoint_of("a-0"); 5000];
    check("too many endpoints", many, "at most 4096");
    let long = "x".repeat(129);
    check("a long name", |m| m.models = [(long, v1::Model::default())].into(), "no access");
}

#[test]
fn access() {
    let only = Access::Only(["saudi".to_owned()].into());
    assert!(Access::All.allows(None) && Access::All.allows(Some("bank")));
    assert!(only.allows(Some("saudi")) && !only.allows(Some("bank")) && !only.allows(None));
}
