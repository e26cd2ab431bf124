//! The keeper with real certificates, in a store of memory, and parties that talk meanwhile.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use naru_protocol::tls::{Alpn, Identity, Pem, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::keeper::{Held, Holder, KeepError, Keeper, Store};
use super::keys::Keys;
use super::{Lifetime, now};

/// Secrets without a cluster. Writes to `refuses` fail.
#[derive(Default)]
struct Memory {
    keys: Mutex<(Option<Keys>, u32)>,
    held: Mutex<BTreeMap<Holder, Pem>>,
    refuses: Option<Holder>,
    writes: AtomicU32,
}

#[derive(Debug, thiserror::Error)]
#[error("refused")]
struct Refused;

impl Store for Arc<Memory> {
    type Error = Refused;
    type Version = u32;

    async fn keys(&self) -> Result<(Option<Keys>, u32), Refused> {
        Ok(self.keys.lock().unwrap().clone())
    }

    async fn put_keys(&self, keys: &Keys, version: u32) -> Result<(), Refused> {
        let mut kept = self.keys.lock().unwrap();
        if kept.1 != version {
            return Err(Refused);
        }
        self.writes.fetch_add(1, Ordering::Relaxed);
        *kept = (Some(keys.clone()), version + 1);
        Ok(())
    }

    async fn held(&self, holder: &Holder) -> Result<Option<Held>, Refused> {
        let pem = self.held.lock().unwrap().get(holder).cloned();
        Ok(pem.map(|pem| Held { pem, is_owned: true }))
    }

    async fn give(&self, holder: &Holder, pem: &Pem) -> Result<(), Refused> {
        if self.refuses.as_ref() == Some(holder) {
            return Err(Refused);
        }
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.held.lock().unwrap().insert(holder.clone(), pem.clone());
        Ok(())
    }
}

fn keeper(store: &Arc<Memory>, seconds: u64) -> Keeper<Arc<Memory>> {
    let operator_names = vec!["naru-operator.naru-system.svc".to_owned()];
    let lifetime = Lifetime::new(seconds).unwrap();
    Keeper { store: Arc::clone(store), lifetime, operator_names }
}

fn holders() -> Vec<Holder> {
    vec![Holder::Operator, Holder::Gateway, Holder::Worker { namespace: "serving".to_owned() }]
}

fn identity(store: &Memory, holder: &Holder) -> Identity {
    Identity::new(holder.role(), &store.held.lock().unwrap()[holder]).unwrap()
}

#[tokio::test]
async fn everybody_gets_a_certificate_and_then_nothing_is_written() {
    let store = Arc::new(Memory::default());
    let keeper = keeper(&store, 3600);
    let turned = keeper.turn(&holders(), now).await.unwrap();
    assert!((2300..=2400).contains(&(turned.look_again.0 - now().0)), "{turned:?}");
    for holder in holders() {
        identity(&store, &holder);
    }
    let writes = store.writes.load(Ordering::Relaxed);
    assert_eq!(writes, 4, "an authority and three certificates");
    keeper.turn(&holders(), now).await.unwrap();
    assert_eq!(store.writes.load(Ordering::Relaxed), writes, "a second turn changes nothing");
    store.held.lock().unwrap().remove(&Holder::Gateway);
    keeper.turn(&holders(), now).await.unwrap();
    identity(&store, &Holder::Gateway);
}

#[tokio::test]
async fn one_who_cannot_be_written_to_is_in_nobodys_way() {
    let refuses = Some(Holder::Operator);
    let store = Arc::new(Memory { refuses, ..Memory::default() });
    let error = keeper(&store, 3600).turn(&holders(), now).await.unwrap_err();
    assert!(matches!(&error, KeepError::Holder { holder: Holder::Operator, .. }), "{error}");
    identity(&store, &Holder::Gateway);
    identity(&store, &holders()[2]);
}

#[tokio::test]
async fn of_two_leaders_one_founds() {
    let store = Arc::new(Memory::default());
    let (one, other) = (keeper(&store, 3600), keeper(&store, 3600));
    let (_, version) = store.keys().await.unwrap();
    one.turn(&holders(), now).await.unwrap();
    let late = Keys::found(now(), other.lifetime).unwrap();
    store.put_keys(&late, version).await.expect_err("the first was there before");
    assert_eq!(
        other.turn(&holders(), now).await.unwrap().bundle,
        one.turn(&holders(), now).await.unwrap().bundle
    );
}

/// Takes up what lies in the store, as `follow` does from files.
async fn follow(store: Arc<Memory>, holder: Holder, identity: Arc<Identity>) {
    loop {
        let pem = store.held.lock().unwrap()[&holder].clone();
        if !identity.holds(&pem) {
            identity.replace(&pem).unwrap();
        }
        sleep(Duration::from_millis(200)).await;
    }
}

async fn serve(identity: Arc<Identity>, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let identity = Arc::clone(&identity);
        tokio::spawn(async move {
            let Ok(mut stream) = identity.accept(Alpn::Http1, stream).await else { return };
            while let Ok(byte) = stream.read_u8().await {
                stream.write_u8(byte).await.unwrap();
                stream.flush().await.unwrap();
            }
        });
    }
}

/// Certificates of six seconds are replaced three times while a gateway calls a worker without
/// pause: nothing fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_rotations_under_load() {
    const ROTATIONS: usize = 3;
    let store = Arc::new(Memory::default());
    let keeper = keeper(&store, 6);
    keeper.turn(&holders(), now).await.unwrap();
    let worker_holder = holders().remove(2);
    let worker = Arc::new(identity(&store, &worker_holder));
    let gateway = Arc::new(identity(&store, &Holder::Gateway));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(serve(Arc::clone(&worker), listener));
    tasks.spawn(follow(Arc::clone(&store), worker_holder.clone(), Arc::clone(&worker)));
    tasks.spawn(follow(Arc::clone(&store), Holder::Gateway, Arc::clone(&gateway)));
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let caller = tokio::spawn({
        let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
        async move {
            while !stop.load(Ordering::Relaxed) {
                let stream = TcpStream::connect(address).await.unwrap();
                let mut stream =
                    gateway.connect(Alpn::Http1, Role::Worker, stream).await.expect("trusted");
                stream.write_u8(7).await.unwrap();
                stream.flush().await.unwrap();
                assert_eq!(stream.read_u8().await.expect("an answer"), 7);
                calls.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let mut expiries = vec![worker.expires_unix_seconds()];
    let rotations = async {
        while expiries.len() <= ROTATIONS {
            keeper.turn(&holders(), now).await.unwrap();
            let expiry = worker.expires_unix_seconds();
            if expiries.last() != Some(&expiry) {
                expiries.push(expiry);
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(60), rotations).await.expect("three rotations");
    stop.store(true, Ordering::Relaxed);
    caller.await.expect("no call failed");
    assert!(calls.load(Ordering::Relaxed) > 10, "{calls:?} calls are no load");
}
