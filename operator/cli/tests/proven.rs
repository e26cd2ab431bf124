//! Operator, gateway and worker that prove to each other who they are, while their certificates
//! and their authority change.
#![allow(clippy::unwrap_used)] // all of this is a test, also what is no #[test] function

use std::sync::Arc;
use std::time::Duration;

use naru_controller::Publisher;
use naru_gateway::{FollowConfig, Follower, Gateway, KeyRule, Limits, serve};
use naru_protocol::tls::{Alpn, Identity, Pem, Role};
use naru_protocol::{Endpoint, ModelEndpoints, Snapshot, SnapshotVersion};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

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
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
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
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
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

/// A gateway that follows `operator`.
struct Door {
    address: String,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    _data_dir: TempDir,
    _stop: watch::Sender<Option<Duration>>,
}

impl Door {
    async fn open(operator: String, identity: Option<Arc<Identity>>) -> Self {
        let data_dir = TempDir::new().unwrap();
        let (follower, snapshots) = Follower::new(FollowConfig {
            operators: vec![operator],
            name: "gateway".into(),
            data_dir: data_dir.path().to_owned(),
        });
        let (rule, limits) = (KeyRule::OnceTenantsExist, Limits::default());
        let gateway = Gateway::with_identity(snapshots.clone(), rule, limits, identity).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stops) = watch::channel(None);
        tokio::spawn(serve(gateway.clone(), gateway.router(), listener, stops));
        tokio::spawn(follower.run(gateway));
        Self { address, snapshots, _data_dir: data_dir, _stop: stop }
    }

    async fn is_told(&self, within: Duration) -> bool {
        let mut snapshots = self.snapshots.clone();
        let comes = snapshots.wait_for(|snapshot| snapshot.version.sequence > 0);
        timeout(within, comes).await.is_ok()
    }

    async fn complete(&self) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let head = "POST /v1/completions HTTP/1.1\r\nhost: n\r\nconnection: close\r\n";
        let request = format!("{head}content-length: {}\r\n\r\n{BODY}", BODY.len());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

#[tokio::test]
async fn only_a_gateway_is_told_and_answered() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let worker = worker(ours.identity(Role::Worker)).await;
    let operator = operator(ours.identity(Role::Operator), worker).await;
    let told = Door::open(operator.clone(), Some(ours.identity(Role::Gateway))).await;
    assert!(told.is_told(PATIENCE).await);
    let answer = told.complete().await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hi"), "{answer}");
    let strangers = [
        ("another role", Some(ours.identity(Role::Worker))),
        ("another authority", Some(theirs.identity(Role::Gateway))),
        ("nobody", None),
    ];
    for (who, identity) in strangers {
        let stranger = Door::open(operator.clone(), identity).await;
        // What a gateway is told at once is not told to this one in many attempts.
        assert!(!stranger.is_told(Duration::from_secs(1)).await, "{who} was told");
    }
}

#[tokio::test]
async fn an_operator_is_believed_only_as_such() {
    let ours = Authority::new("ours");
    let worker = worker(ours.identity(Role::Worker)).await;
    // A worker that would be an operator: its key is real, its role is not.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (_kept, snapshots) = watch::channel(Arc::new(Snapshot {
        version: SnapshotVersion { epoch: 1, sequence: 1 },
        ..Snapshot::default()
    }));
    let publisher = Publisher::new(snapshots).with_identity(ours.identity(Role::Worker));
    tokio::spawn(publisher.serve(listener, std::future::pending()));
    let door = Door::open(address, Some(ours.identity(Role::Gateway))).await;
    assert!(!door.is_told(Duration::from_secs(1)).await);
    let good = operator(ours.identity(Role::Operator), worker).await;
    assert!(Door::open(good, Some(ours.identity(Role::Gateway))).await.is_told(PATIENCE).await);
}

#[tokio::test]
async fn requests_go_on_while_the_authority_changes() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let parties = [Role::Operator, Role::Gateway, Role::Worker].map(|role| old.identity(role));
    let [operator_identity, gateway, worker_identity] = &parties;
    let worker = worker(Arc::clone(worker_identity)).await;
    let operator = operator(Arc::clone(operator_identity), worker).await;
    let door = Door::open(operator, Some(Arc::clone(gateway))).await;
    assert!(door.is_told(PATIENCE).await);
    let both = [&old, &new];
    let steps: [(&Authority, &[&Authority]); 3] =
        [(&old, &both), (&new, &both), (&new, &both[1..])];
    for (signer, trusts) in steps {
        for (party, role) in parties.iter().zip([Role::Operator, Role::Gateway, Role::Worker]) {
            party.replace(&signer.issue(role, trusts)).unwrap();
            let answer = door.complete().await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{role}: {answer}");
        }
    }
}
