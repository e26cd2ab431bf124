//! A rank's place among the others: where they find it, and how it comes together with them.

use std::convert::Infallible;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use naru_engine::ModelFiles;
use naru_protocol::tls::Identity;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::compute::Bench;
use super::settings::RankSettings;
use crate::http::Connections;
use crate::links::{Group, Mesh, Party, Report, Told, Ways};
use crate::member::{Member, Phase};

/// What joins a rank to the others, before there is anything to compute.
pub(crate) struct Seat {
    pub(super) rank: usize,
    pub(super) settings: Arc<RankSettings>,
    listener: TcpListener,
    identity: Option<Arc<Identity>>,
    runtime: Handle,
    /// Keeps the process until nobody needs this rank.
    token: mpsc::Sender<Infallible>,
}

/// Listens for every rank of this member. Errors: an address cannot be had.
pub(crate) async fn open_seats(
    settings: RankSettings,
    identity: Option<&Arc<Identity>>,
    connections: &Connections,
) -> anyhow::Result<Vec<Seat>> {
    let settings = Arc::new(settings);
    let mut seats = Vec::new();
    for (index, rank) in settings.ranks.clone().enumerate() {
        seats.push(Seat {
            rank,
            settings: Arc::clone(&settings),
            listener: crate::bind(settings.listen(index)).await?,
            identity: identity.cloned(),
            runtime: Handle::current(),
            token: connections.token(),
        });
    }
    Ok(seats)
}

impl Seat {
    /// For a rank that has loaded its part of the model with this fingerprint.
    pub(super) fn take(self, model: [u8; 32], kv_blocks: usize) -> (Bench, Joining) {
        let RankSettings { parallelism, ref replica, .. } = *self.settings;
        let (replica, rank) = (replica.clone(), self.rank);
        let party = Party { replica, parallelism, rank, model, kv_blocks: kv_blocks as u64 };
        let (reports, heard) = unbounded_channel();
        let (sender, meshes) = channel();
        let joining =
            Joining { seat: self, party, meshes: sender, reports: reports.clone(), heard };
        (Bench { meshes, reports }, joining)
    }
}

/// A rank that can compute, and has yet to say hello.
pub(super) struct Joining {
    seat: Seat,
    party: Party,
    meshes: Sender<(Mesh, u64)>,
    reports: UnboundedSender<Report>,
    heard: UnboundedReceiver<Report>,
}

impl Joining {
    /// Begins to bring this rank to the others; `together` is told how it goes.
    pub(super) fn join(self, together: Arc<Together>) {
        let Self { seat, party, meshes, reports, heard } = self;
        let Seat { rank, settings, listener, identity, runtime, token } = seat;
        let (teller, told) = unbounded_channel();
        let ways = Ways { told: teller, reports: heard };
        let leads = settings.ranks.contains(&0);
        // The member of rank 0 goes when its last answer is out, as any worker does.
        let token = (!leads).then_some(token);
        runtime.spawn(async move {
            let addresses = settings.addresses.clone();
            let group = Group::open(party, addresses, identity, listener, ways);
            tokio::spawn(group.run());
            Accompany { rank, together, meshes, leave: reports, leads }.run(told).await;
            drop(token);
        });
    }
}

/// Which ranks of a member have met the others: it is ready when all have.
pub(super) struct Together {
    member: Arc<Member>,
    first: usize,
    /// Why each is apart; None: it is not.
    apart: Mutex<Vec<Option<String>>>,
}

impl Together {
    /// No rank of `member` has met the others yet.
    pub(super) fn new(member: Arc<Member>, settings: &RankSettings) -> Self {
        let why = "the ranks have not met yet".to_owned();
        member.enter(Phase::Apart(why.clone()));
        let apart = Mutex::new(vec![Some(why); settings.ranks.len()]);
        Self { member, first: settings.ranks.start, apart }
    }

    /// Notes why `rank` is apart from the others, or that it is not.
    fn note(&self, rank: usize, why: Option<String>) {
        let mut apart = self.apart.lock().unwrap_or_else(PoisonError::into_inner);
        apart[rank - self.first] = why;
        let words = apart.iter().flatten().next().cloned();
        self.member.enter(words.map_or(Phase::Ready, Phase::Apart));
    }
}

/// Passes on between a rank's group and its member.
struct Accompany {
    rank: usize,
    together: Arc<Together>,
    meshes: Sender<(Mesh, u64)>,
    leave: UnboundedSender<Report>,
    /// Rank 0 is in this member.
    leads: bool,
}

impl Accompany {
    async fn run(self, mut told: UnboundedReceiver<Told>) {
        if self.leads {
            while let Some(told) = told.recv().await {
                self.pass(told).await;
            }
            return;
        }
        let member = Arc::clone(&self.together.member);
        let mut changes = member.changes();
        let mut is_leaving = false;
        loop {
            tokio::select! {
                next = told.recv() => match next {
                    None | Some(Told::Over) => return,
                    Some(told) => self.pass(told).await,
                },
                () = changes.ending(), if !is_leaving => {
                    is_leaving = true;
                    let seconds = member.drain_seconds();
                    if self.leave.send(Report::Drain { seconds }).is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn pass(&self, told: Told) {
        let member = &self.together.member;
        match told {
            Told::Apart(words) => self.together.note(self.rank, Some(words)),
            Told::Met(mesh, generation) => {
                if let Some(served) = member.served().filter(|_| self.rank == 0) {
                    served.drive.restart("the ranks have met anew".to_owned()).await;
                }
                // An error: nobody computes any more, and the process is about to end.
                if self.meshes.send((*mesh, generation)).is_ok() {
                    self.together.note(self.rank, None);
                }
            }
            Told::Drain { seconds } => member.drain(Some(seconds)),
            Told::Over => {}
        }
    }
}

/// What tells weights from others without reading all of them: the description of each tensor, and
/// some bytes of each.
pub(super) fn fingerprint(files: &ModelFiles) -> [u8; 32] {
    let mut digest = Sha256::new();
    for sample in files.samples() {
        digest.update((sample.name.len() as u64).to_le_bytes());
        digest.update(sample.name);
        digest.update(sample.format);
        digest.update((sample.shape.len() as u64).to_le_bytes());
        for size in sample.shape {
            digest.update((*size as u64).to_le_bytes());
        }
        digest.update(sample.bytes);
    }
    digest.finalize().into()
}
