//! Ranks as threads and tasks of one process, over loopback.

mod group;

use std::sync::Arc;
use std::thread;

use naru_engine::{Collective, CollectiveError, Parallelism};
use naru_protocol::tls::{Identity, Pem, Role};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::door::House;
use super::greeting::Party;
use super::meeting::connect;
use super::mesh::Mesh;

/// A worker's identity, of an authority of its own for each test.
fn identity() -> Arc<Identity> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let names = vec![Role::Worker.dns_name().to_owned()];
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let pem = Pem {
        certificate: certificate.pem().into_bytes(),
        key: key.serialize_pem().into_bytes(),
        authorities: authority.pem().into_bytes(),
    };
    Arc::new(Identity::new(Role::Worker, &pem).unwrap())
}

fn party(parallelism: Parallelism, rank: usize) -> Party {
    Party { replica: "test".to_owned(), parallelism, rank, model: [1; 32], kv_blocks: 10 }
}

/// Every rank's mesh, in the order of ranks.
async fn meshes(tensor: usize, pipeline: usize, identity: Option<Arc<Identity>>) -> Vec<Mesh> {
    let parallelism = Parallelism::new(tensor, pipeline).unwrap();
    let mut listeners = Vec::new();
    for _ in 0..parallelism.ranks() {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    let addresses: Vec<String> = listeners.iter().map(address).collect();
    let mut joining = Vec::new();
    for (rank, listener) in listeners.into_iter().enumerate() {
        let party = party(parallelism, rank);
        let house =
            Arc::new(House { party, addresses: addresses.clone(), identity: identity.clone() });
        joining.push(tokio::spawn(async move {
            let (sender, mut guests) = mpsc::channel(8);
            let generation = watch::Sender::new(1);
            tokio::spawn(Arc::clone(&house).open(listener, sender, generation.subscribe()));
            let deadline = tokio::time::Instant::now() + super::door::GREETING;
            connect(&house, &mut guests, 1, deadline).await.unwrap()
        }));
    }
    let mut meshes = Vec::new();
    for each in joining {
        meshes.push(each.await.unwrap());
    }
    meshes
}

/// What each rank makes of its mesh, on a thread of its own.
fn each<T: Send + 'static>(
    meshes: Vec<Mesh>,
    act: impl Fn(usize, &mut Mesh) -> T + Send + Sync + 'static,
) -> Vec<T> {
    let act = Arc::new(act);
    let threads: Vec<_> = meshes
        .into_iter()
        .enumerate()
        .map(|(rank, mut mesh)| {
            let act = Arc::clone(&act);
            thread::spawn(move || act(rank, &mut mesh))
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// What `rank` has of a sum of `size` values: such that the order of adding shows in the bits.
fn part(rank: usize, size: usize) -> Vec<f64> {
    let value = |index: usize| (index as f64 + 0.1) * 1.7_f64.powi(rank as i32 * 9);
    (0..size).map(value).collect()
}

/// The sum over `ranks`, in their order.
fn sum(ranks: std::ops::Range<usize>, size: usize) -> Vec<f64> {
    let mut sum = vec![0.0; size];
    for rank in ranks {
        sum.iter_mut().zip(part(rank, size)).for_each(|(sum, value)| *sum += value);
    }
    sum
}

fn check_sums(
    tensor: usize,
    pipeline: usize,
    sizes: &'static [usize],
    identity: Option<Arc<Identity>>,
) {
    let runtime = runtime();
    let meshes = runtime.block_on(meshes(tensor, pipeline, identity));
    let found = each(meshes, |rank, mesh| {
        let add = |size: &usize| {
            let mut values = part(rank, *size);
            mesh.all_reduce_sum(&mut values).unwrap();
            values
        };
        sizes.iter().map(add).collect::<Vec<_>>()
    });
    for (rank, found) in found.into_iter().enumerate() {
        let stage = rank / tensor * tensor;
        for (found, size) in found.iter().zip(sizes) {
            assert_eq!(*found, sum(stage..stage + tensor, *size), "rank {rank}, {size} values");
        }
    }
}

/// Below, at and above what is added in two exchanges, and what is in one message; and more than
/// any socket holds at once.
const SIZES: &[usize] = &[0, 1, 7, 576, 8_191, 8_192, 8_193, 32_768, 32_769, 65_536, 3_000_000];

#[test]
fn a_sum_has_the_same_bits_on_every_rank() {
    check_sums(2, 1, SIZES, None);
    check_sums(3, 1, SIZES, None);
    check_sums(2, 2, SIZES, None);
}

#[test]
fn a_sum_is_the_same_under_tls() {
    check_sums(2, 1, SIZES, Some(identity()));
    check_sums(3, 1, SIZES, Some(identity()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn a_sum_in_parts_is_a_sum(tensor in 2usize..6, size in 8_000usize..10_000) {
        let runtime = runtime();
        let meshes = runtime.block_on(meshes(tensor, 1, None));
        let found = each(meshes, move |rank, mesh| {
            let mut values = part(rank, size);
            mesh.all_reduce_sum(&mut values).unwrap();
            values
        });
        for found in found {
            prop_assert_eq!(found, sum(0..tensor, size));
        }
    }
}

#[test]
fn nobody_waits_to_send() {
    const MESSAGES: usize = 8;
    const VALUES: usize = 1_000_000;
    let runtime = runtime();
    for identity in [None, Some(identity())] {
        let meshes = runtime.block_on(meshes(1, 2, identity));
        // Both send more than any socket holds before either looks at what came.
        let found = each(meshes, |rank, mesh| {
            let other = 1 - rank;
            for message in 0..MESSAGES {
                mesh.send(other, &mut vec![(rank * 100 + message) as f32; VALUES]).unwrap();
            }
            let take = |_| {
                let mut values = vec![0.0; VALUES];
                mesh.receive(other, &mut values).unwrap();
                assert!(values.iter().all(|value| *value == values[0]));
                values[0]
            };
            (0..MESSAGES).map(take).collect::<Vec<_>>()
        });
        let sent_by =
            |rank: usize| (0..MESSAGES).map(|i| (rank * 100 + i) as f32).collect::<Vec<_>>();
        assert_eq!(found, [sent_by(1), sent_by(0)]);
    }
}

#[test]
fn plans_reach_every_rank_in_order() {
    let runtime = runtime();
    let meshes = runtime.block_on(meshes(3, 1, Some(identity())));
    let found = each(meshes, |rank, mesh| {
        let plans = [vec![], b"one".to_vec(), vec![9; 100_000]];
        if rank == 0 {
            plans.iter().for_each(|plan| mesh.broadcast(plan).unwrap());
            return plans.to_vec();
        }
        let mut plan = vec![1, 2, 3];
        let mut next = || {
            mesh.receive_broadcast(&mut plan).unwrap();
            plan.clone()
        };
        vec![next(), next(), next()]
    });
    assert!(found.iter().all(|plans| *plans == found[0]));
}

/// What each rank says when one is lost in a sum.
fn losses(lose: impl Fn(&mut Mesh) + Send + Sync + 'static) -> Vec<Result<(), CollectiveError>> {
    let runtime = runtime();
    let meshes = runtime.block_on(meshes(3, 1, Some(identity())));
    each(meshes, move |rank, mesh| {
        if rank == 1 {
            lose(mesh);
            return Ok(());
        }
        let mut values = part(rank, 100);
        mesh.all_reduce_sum(&mut values)
    })
}

/// An error with its causes, in one line.
fn story(error: CollectiveError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

#[test]
fn a_rank_that_is_gone_is_named() {
    let [first, _, third] = losses(|_| ()).try_into().unwrap();
    let first = story(first.unwrap_err());
    assert!(
        first.starts_with("rank 1 is lost, found while adding with the ranks of a stage"),
        "{first}"
    );
    assert_eq!(third.unwrap_err().rank, 1);
}

#[test]
fn a_rank_that_gives_up_says_why() {
    let [first, _, third] = losses(|mesh| mesh.abort("its weights burnt")).try_into().unwrap();
    for found in [first, third] {
        let found = story(found.unwrap_err());
        assert!(found.contains("rank 1") && found.ends_with("its weights burnt"), "{found}");
    }
}

#[test]
fn ranks_out_of_step_find_out() {
    let runtime = runtime();
    let meshes = runtime.block_on(meshes(2, 1, None));
    let found = each(meshes, |rank, mesh| mesh.all_reduce_sum(&mut vec![1.0; 4 + rank]));
    let first = story(found.into_iter().next().unwrap().unwrap_err());
    assert!(
        first.contains("a frame of kind 2 and 40 bytes came where (Values, 32) was due"),
        "{first}"
    );
}

#[test]
fn whoever_waits_is_told_from_outside() {
    let runtime = runtime();
    let mut meshes = runtime.block_on(meshes(2, 1, Some(identity())));
    let silent = meshes.pop().unwrap();
    let fate = meshes[0].fate();
    let waiting = thread::spawn(move || meshes[0].all_reduce_sum(&mut [1.0]).unwrap_err());
    fate.part(1, "it said nothing for 10 s");
    let found = story(waiting.join().unwrap());
    assert!(found.contains("rank 1") && found.ends_with("it said nothing for 10 s"), "{found}");
    drop(silent);
}
