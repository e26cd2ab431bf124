//! Operator, gateway and worker that prove to each other who they are, while their certificates
//! and their authority change.

use std::sync::Arc;
use std::time::Duration;

use naru_controller::Publisher;
use naru_gateway::KeyRule;
use naru_protocol::tls::{Alpn, Identity, Pem, Role};
use naru_protocol::{Endpoint, ModelEndpoints, Snapshot, SnapshotVersion};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use crate::door::{Door, listen};

const PATIENCE: Duration = Duration::from_secs(30);
const BODY: &str = r#"{"model":"m","prompt":"Hi"}"#;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, role: Role, trusts: &[&Self]) -> Pem {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![role.dns_name().to_owned()]).unwrap();
        let trusted: String = trusts.iter().map(|authority| authority.0.pem()).collect();
        Pem {
            certificate: params.signed_by(&key, &self.0).unwrap().pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
            authorities: trusted.into_bytes(),
        }
    }

    fn identity(&self, role: Role) -> Arc<Identity> {
        Arc::new(Identity::new(role, &self.issue(role, &[self])).unwrap())
    }
}

/// A worker that answers whoever is a gateway, each request on its own connection. Its address.
async fn worker(identity: Arc<Identity>) -> String {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let identity = Arc::clone(&identity);
            tokio::spawn(async move {
                let Ok(mut stream) = identity.accept(Alpn::Http1, stream).await else { return };
                if stream.peer().0 != Some(Role::Gateway) {
                    return;
                }
                let mut request = Vec::new();
                while !request.ends_with(BODY.as_bytes()) {
                    if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
    });
    address
}

/// An operator that publishes one model at `worker`. Its address.
async fn operator(identity: Arc<Identity>, worker: String) -> String {
    let (listener, address) = listen().await;
    let endpoint =
        Endpoint { replica: "m-0".into(), address: worker, ready: true, draining: false };
    let deployment = "default/m".to_owned();
    let model =
        ModelEndpoints { deployment, endpoints: vec![endpoint], ..ModelEndpoints::default() };
    let snapshot = Snapshot {
        version: SnapshotVersion { epoch: 1, sequence: 1 },
        models: [("m".to_owned(), model)].into(),
        ..Snapshot::default()
    };
    tokio::spawn(async move {
        let (_kept, snapshots) = watch::channel(Arc::new(snapshot));
        let publisher = Publisher::new(snapshots).with_identity(identity);
        publisher.serve(listener, std::future::pending()).await.unwrap();
    });
    address
}

async fn open(operator: String, identity: Option<Arc<Identity>>) -> Door {
    Door::open(vec![operator], KeyRule::OnceTenantsExist, identity).await
}

async fn is_told(door: &Door, within: Duration) -> bool {
    door.serves(within, |snapshot| snapshot.version.sequence > 0).await
}

async fn complete(door: &Door) -> String {
    door.answer("POST /v1/completions", "", BODY).await
}

#[tokio::test]
async fn only_a_gateway_is_told_and_answered() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let worker = worker(ours.identity(Role::Worker)).await;
    let operator = operator(ours.identity(Role::Operator), worker).await;
    let told = open(operator.clone(), Some(ours.identity(Role::Gateway))).await;
    assert!(is_told(&told, PATIENCE).await);
    let answer = complete(&told).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hi"), "{answer}");
    let strangers = [
        ("another role", Some(ours.identity(Role::Worker))),
        ("another authority", Some(theirs.identity(Role::Gateway))),
        ("nobody", None),
    ];
    for (who, identity) in strangers {
        let stranger = open(operator.clone(), identity).await;
        // What a gateway is told at once is not told to this one in many attempts.
        assert!(!is_told(&stranger, Duration::from_secs(1)).await, "{who} was told");
    }
}

#[tokio::test]
async fn an_operator_is_believed_only_as_such() {
    let ours = Authority::new("ours");
    let worker = worker(ours.identity(Role::Worker)).await;
    // A worker that would be an operator: its key is real, its role is not.
    let (listener, address) = listen().await;
    let (_kept, snapshots) = watch::channel(Arc::new(Snapshot {
        version: SnapshotVersion { epoch: 1, sequence: 1 },
        ..Snapshot::default()
    }));
    let publisher = Publisher::new(snapshots).with_identity(ours.identity(Role::Worker));
    tokio::spawn(publisher.serve(listener, std::future::pending()));
    let door = open(address, Some(ours.identity(Role::Gateway))).await;
    assert!(!is_told(&door, Duration::from_secs(1)).await);
    let good = operator(ours.identity(Role::Operator), worker).await;
    assert!(is_told(&open(good, Some(ours.identity(Role::Gateway))).await, PATIENCE).await);
}

#[tokio::test]
async fn requests_go_on_while_the_authority_changes() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let parties = [Role::Operator, Role::Gateway, Role::Worker].map(|role| old.identity(role));
    let [operator_identity, gateway, worker_identity] = &parties;
    let worker = worker(Arc::clone(worker_identity)).await;
    let operator = operator(Arc::clone(operator_identity), worker).await;
    let door = open(operator, Some(Arc::clone(gateway))).await;
    assert!(is_told(&door, PATIENCE).await);
    let both = [&old, &new];
    let steps: [(&Authority, &[&Authority]); 3] =
        [(&old, &both), (&new, &both), (&new, &both[1..])];
    for (signer, trusts) in steps {
        for (party, role) in parties.iter().zip([Role::Operator, Role::Gateway, Role::Worker]) {
            party.replace(&signer.issue(role, trusts)).unwrap();
            let answer = complete(&door).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{role}: {answer}");
        }
    }
}
