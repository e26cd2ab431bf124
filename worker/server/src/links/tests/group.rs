//! Groups that come together, part and come together again.

use std::time::Duration;

use naru_engine::{Collective, Parallelism};
use naru_protocol::tls::Identity;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::group::{Group, Lost, Report, Told, Ways};
use super::super::mesh::Mesh;
use super::{identity, party};

/// How long something that will happen may take on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// One member, as its process would have it.
struct Member {
    told: mpsc::UnboundedReceiver<Told>,
    reports: mpsc::UnboundedSender<Report>,
    running: JoinHandle<()>,
}

impl Member {
    fn start(
        rank: usize,
        parallelism: Parallelism,
        addresses: &[String],
        listener: TcpListener,
        identity: Option<Arc<Identity>>,
    ) -> Self {
        Self::of(party(parallelism, rank), addresses, listener, identity)
    }

    fn of(
        party: super::Party,
        addresses: &[String],
        listener: TcpListener,
        identity: Option<Arc<Identity>>,
    ) -> Self {
        let ((teller, told), (reports, heard)) =
            (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let ways = Ways { told: teller, reports: heard };
        let group = Group::open(party, addresses.to_vec(), identity, listener, ways);
        Self { told, reports, running: tokio::spawn(group.run()) }
    }

    async fn next(&mut self) -> Told {
        timeout(SOON, self.told.recv()).await.expect("told in time").expect("the group goes on")
    }

    /// The mesh of the next meeting, and its generation.
    async fn met(&mut self) -> (Mesh, u64) {
        loop {
            if let Told::Met(mesh, generation) = self.next().await {
                return (*mesh, generation);
            }
        }
    }

    /// Waits to hear something of this kind.
    async fn apart(&mut self, words: &str) -> String {
        loop {
            match self.next().await {
                Told::Apart(why) if why.words.contains(words) => return why.words,
                _ => {}
            }
        }
    }

    /// As if its process had been killed.
    fn kill(self) {
        self.running.abort();
    }
}

async fn listeners(count: usize) -> (Vec<TcpListener>, Vec<String>) {
    let mut listeners = Vec::new();
    for _ in 0..count {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    let addresses = listeners.iter().map(address).collect();
    (listeners, addresses)
}

fn tensor(ranks: usize) -> Parallelism {
    Parallelism::new(ranks, 1).unwrap()
}

/// A process that comes after another listens where that one did.
async fn again(address: &str) -> TcpListener {
    let bind = async {
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(SOON, bind).await.expect("the address is free again")
}

async fn group(ranks: usize, identity: Option<Arc<Identity>>) -> (Vec<Member>, Vec<String>) {
    let (listeners, addresses) = listeners(ranks).await;
    let start = |(rank, listener)| {
        Member::start(rank, tensor(ranks), &addresses, listener, identity.clone())
    };
    (listeners.into_iter().enumerate().map(start).collect(), addresses)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_left_meets_whoever_comes_back() {
    let identity = Some(identity());
    let (mut members, addresses) = group(3, identity.clone()).await;
    let mut generation = 0;
    // Each rank in turn, rank 0 too.
    for lost in [1, 2, 0] {
        let mut meshes = Vec::new();
        for member in &mut members {
            let (mesh, of) = member.met().await;
            assert!(of > generation, "{of} after {generation}");
            meshes.push((mesh, of));
        }
        assert!(meshes.iter().all(|(_, of)| *of == meshes[0].1), "one generation for all");
        generation = meshes[0].1;
        members.remove(lost).kill();
        drop(meshes.remove(lost));
        for member in &mut members {
            member.apart(&format!("rank {lost} is lost")).await;
        }
        // What was waited for on the old connections has an end.
        tokio::task::spawn_blocking(move || {
            for (mesh, _) in &mut meshes {
                mesh.all_reduce_sum(&mut [1.0]).unwrap_err();
            }
        })
        .await
        .unwrap();
        let listener = again(&addresses[lost]).await;
        let back = Member::start(lost, tensor(3), &addresses, listener, identity.clone());
        members.insert(lost, back);
    }
    for member in &mut members {
        assert!(member.met().await.1 > generation);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rank_that_finds_a_loss_parts_all() {
    let (mut members, _) = group(3, None).await;
    let mut generations = Vec::new();
    let mut meshes = Vec::new();
    for member in &mut members {
        let (mesh, of) = member.met().await;
        generations.push(of);
        meshes.push(mesh);
    }
    let lost = Lost { rank: 2, reason: "the connection broke".to_owned() };
    members[1].reports.send(Report::Lost(generations[1], lost.clone())).unwrap();
    for member in &mut members {
        assert_eq!(member.apart("rank 2").await, lost.to_string());
    }
    // An old report changes nothing in the new generation.
    for member in &mut members {
        let (mesh, of) = member.met().await;
        assert!(of > generations[0]);
        meshes.push(mesh);
    }
    members[1].reports.send(Report::Lost(generations[1], lost)).unwrap();
    members[1].reports.send(Report::Drain { seconds: 3 }).unwrap();
    let Told::Drain { seconds: 3 } = members[0].next().await else { panic!("it was to drain") };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_asked_to_go_goes_when_rank_0_does() {
    let (mut members, _) = group(2, None).await;
    let mut meshes = Vec::new();
    for member in &mut members {
        meshes.push(member.met().await.0);
    }
    members[1].reports.send(Report::Drain { seconds: 600 }).unwrap();
    let Told::Drain { seconds: 600 } = members[0].next().await else { panic!("it was to drain") };
    let last = members.pop().unwrap();
    members.pop().unwrap().kill();
    let mut told = last.told;
    loop {
        match timeout(SOON, told.recv()).await.expect("told in time") {
            Some(Told::Over) => break,
            Some(_) => {}
            None => panic!("it ended without a word"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_weights_are_refused_by_name() {
    let (listeners, addresses) = listeners(2).await;
    let [zero, one] = <[TcpListener; 2]>::try_from(listeners).unwrap();
    let mut leader = Member::start(0, tensor(2), &addresses, zero, None);
    let other = super::Party { model: [9; 32], ..party(tensor(2), 1) };
    let mut member = Member::of(other, &addresses, one, None);
    let why = member.apart("other weights").await;
    assert_eq!(
        why,
        "rank 0 is lost: rank 0 refuses this one: rank 1 has other weights: fingerprint \
         090909090909, here 010101010101"
    );
    leader.apart("waiting for ranks [1] of 2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_and_a_silent_one_hold_nobody_up() {
    let (listeners, addresses) = listeners(2).await;
    let mut strangers = Vec::new();
    for _ in 0..20 {
        strangers.push(TcpStream::connect(&addresses[0]).await.unwrap());
        let mut rude = TcpStream::connect(&addresses[0]).await.unwrap();
        rude.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        strangers.push(rude);
    }
    let identity = Some(identity());
    let start =
        |(rank, listener)| Member::start(rank, tensor(2), &addresses, listener, identity.clone());
    let mut members: Vec<Member> = listeners.into_iter().enumerate().map(start).collect();
    for member in &mut members {
        member.met().await;
    }
}

/// Passes on what comes at `listener`, to `to`; each connection is cut after some bytes, but for
/// the first `whole` of them.
async fn cut(listener: TcpListener, to: String, whole: usize, bytes: u64) {
    let mut count = 0;
    while let Ok((mut from, _)) = listener.accept().await {
        let to = to.clone();
        let is_whole = count < whole;
        count += 1;
        tokio::spawn(async move {
            let Ok(mut to) = TcpStream::connect(to).await else { return };
            if is_whole {
                let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                return;
            }
            let (mut read, mut write) = from.split();
            let (mut answers, mut asks) = to.split();
            let mut read = (&mut read).take(bytes);
            tokio::select! {
                _ = tokio::io::copy(&mut read, &mut asks) => {}
                _ = tokio::io::copy(&mut answers, &mut write) => {}
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_cut_in_the_middle_of_a_frame_is_an_error() {
    let (listeners, mut addresses) = listeners(2).await;
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let through = proxy.local_addr().unwrap().to_string();
    // The connection of control is the first, that of values the second.
    tokio::spawn(cut(proxy, addresses[0].clone(), 1, 2_000));
    addresses[0] = through;
    let start = |(rank, listener)| Member::start(rank, tensor(2), &addresses, listener, None);
    let mut members: Vec<Member> = listeners.into_iter().enumerate().map(start).collect();
    let (mut first, _) = members[0].met().await;
    let (mut second, _) = members[1].met().await;
    let sums = tokio::task::spawn_blocking(move || {
        let other = std::thread::spawn(move || second.all_reduce_sum(&mut vec![1.0; 1_000]));
        (first.all_reduce_sum(&mut vec![1.0; 1_000]), other.join().unwrap())
    });
    let (first, _) = timeout(SOON, sums).await.expect("nobody hangs").unwrap();
    let error = first.expect_err("half a frame is none");
    assert_eq!(error.rank, 1);
}
