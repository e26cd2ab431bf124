//! One rank of a replica of several: what its process does beside what every worker does.
//!
//! ```text
//! rank 0       drive ─▶ engine ─▶ ShardedDecoder ─▶ mesh ◀─ serve_rank ◀─ thread     other ranks
//!                                        ▲ a new one whenever the ranks have met again ▲
//!                                        └──────────────── group ──────────────────────┘
//! ```

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::{Context, bail, ensure};
use naru_engine::{
    Batch, Collective, CollectiveError, Decoder, Forward, LinkTime, ModelFiles, Parallelism,
    RankError, Shard, ShardedDecoder, Splits, StepError, serve_rank,
};
use naru_kernels::KvPool;
use naru_protocol::tls::Identity;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::args::{Args, BackendArg};
use crate::links::{Group, Lost, Mesh, Party, Report, Told, Ways};
use crate::member::{Member, Phase};

/// What the command line says of this rank and the others.
#[derive(Clone, Debug)]
pub(crate) struct RankSettings {
    pub(crate) parallelism: Parallelism,
    pub(crate) rank: usize,
    pub(crate) listen: SocketAddr,
    addresses: Vec<String>,
    replica: String,
}

impl RankSettings {
    /// None: this worker is a whole replica. Errors: values that exclude each other.
    pub(crate) fn new(args: &Args) -> anyhow::Result<Option<Self>> {
        let (tensor, pipeline) = (args.tensor.get(), args.pipeline.get());
        let parallelism = Parallelism::new(tensor, pipeline).context("--tensor, --pipeline")?;
        let ranks = parallelism.ranks();
        if ranks == 1 {
            ensure!(args.ranks.is_empty(), "--ranks needs --tensor or --pipeline above 1");
            ensure!(args.rank == 0, "--rank {} needs --tensor or --pipeline above 1", args.rank);
            return Ok(None);
        }
        if args.backend != BackendArg::Cpu {
            bail!("--tensor and --pipeline need --backend cpu; other backends have one rank");
        }
        let found = args.ranks.len();
        ensure!(found == ranks, "--ranks names {found} addresses, and there are {ranks} ranks");
        ensure!(args.rank < ranks, "--rank {} of {ranks} ranks, counted from 0", args.rank);
        Ok(Some(Self {
            parallelism,
            rank: args.rank,
            listen: args.links_listen,
            addresses: args.ranks.clone(),
            replica: args.replica.clone(),
        }))
    }

    /// The part of a model that this rank holds. Errors: the model cannot be cut so, and the splits
    /// that work.
    pub(crate) fn shard(&self, files: &ModelFiles) -> anyhow::Result<Shard> {
        Splits::of(files).check(self.parallelism).context("cutting the model")?;
        Shard::of(files.config(), self.parallelism, self.rank).context("cutting the model")
    }
}

/// What joins this rank to the others, before there is anything to compute.
pub(crate) struct Seat {
    pub(crate) settings: RankSettings,
    pub(crate) listener: TcpListener,
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) runtime: tokio::runtime::Handle,
    /// Keeps the process until nobody needs this rank.
    pub(crate) token: mpsc::Sender<Infallible>,
}

/// Meshes on their way to whoever computes, with their generations.
type Meshes = Receiver<(Mesh, u64)>;

/// What computes takes from its group, and tells it.
pub(crate) struct Bench {
    meshes: Meshes,
    reports: UnboundedSender<Report>,
}

/// A rank that can compute, and has yet to say hello.
pub(crate) struct Joining {
    seat: Seat,
    party: Party,
    meshes: Sender<(Mesh, u64)>,
    reports: UnboundedSender<Report>,
    heard: UnboundedReceiver<Report>,
}

impl Seat {
    /// For a rank that has loaded its part of `files`.
    pub(crate) fn take(self, files: &ModelFiles, kv_blocks: usize) -> (Bench, Joining) {
        let RankSettings { parallelism, rank, ref replica, .. } = self.settings;
        let (replica, model) = (replica.clone(), fingerprint(files));
        let party = Party { replica, parallelism, rank, model, kv_blocks: kv_blocks as u64 };
        let (reports, heard) = unbounded_channel();
        let (sender, meshes) = channel();
        let joining =
            Joining { seat: self, party, meshes: sender, reports: reports.clone(), heard };
        (Bench { meshes, reports }, joining)
    }
}

impl Joining {
    /// Begins to bring the ranks together; `member` is told how it goes.
    pub(crate) fn join(self, member: Arc<Member>) {
        let Self { seat, party, meshes, reports, heard } = self;
        let Seat { settings, listener, identity, runtime, token } = seat;
        let (teller, told) = unbounded_channel();
        let ways = Ways { told: teller, reports: heard };
        let leads = party.rank == 0;
        // Rank 0 goes when its last answer is out, as any worker does.
        let token = (!leads).then_some(token);
        member.enter(Phase::Apart("the ranks have not met yet".to_owned()));
        runtime.spawn(async move {
            let group = Group::open(party, settings.addresses, identity, listener, ways);
            tokio::spawn(group.run());
            Accompany { member, meshes, leave: reports, leads }.run(told).await;
            drop(token);
        });
    }
}

/// Passes on between a group and its member.
struct Accompany {
    member: Arc<Member>,
    meshes: Sender<(Mesh, u64)>,
    leave: UnboundedSender<Report>,
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
        let mut changes = self.member.changes();
        let mut is_leaving = false;
        loop {
            tokio::select! {
                next = told.recv() => match next {
                    None | Some(Told::Over) => return,
                    Some(told) => self.pass(told).await,
                },
                () = changes.ending(), if !is_leaving => {
                    is_leaving = true;
                    let seconds = self.member.drain_seconds();
                    if self.leave.send(Report::Drain { seconds }).is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn pass(&self, told: Told) {
        match told {
            Told::Apart(words) => self.member.enter(Phase::Apart(words)),
            Told::Met(mesh, generation) => {
                if let Some(served) = self.member.served() {
                    served.drive.restart("the ranks have met anew".to_owned()).await;
                }
                // An error: nobody computes any more, and the process is about to end.
                if self.meshes.send((*mesh, generation)).is_ok() {
                    self.member.enter(Phase::Ready);
                }
            }
            Told::Drain { seconds } => self.member.drain(Some(seconds)),
            Told::Over => {}
        }
    }
}

/// Rank 0's model: computes with whichever ranks have met last.
pub(crate) struct GroupForward {
    decoder: ShardedDecoder,
    bench: Bench,
    generation: u64,
    is_apart: bool,
}

impl GroupForward {
    /// `decoder` must have been made with [`Apart`].
    pub(crate) fn new(decoder: ShardedDecoder, bench: Bench) -> Self {
        Self { decoder, bench, generation: 0, is_apart: true }
    }
}

impl Forward for GroupForward {
    fn vocab_size(&self) -> usize {
        self.decoder.vocab_size()
    }

    fn forward(&mut self, batch: &Batch) -> Result<&[f32], Box<dyn Error + Send + Sync>> {
        if let Some((mesh, generation)) = self.bench.meshes.try_iter().last() {
            self.decoder.rejoin(Box::new(mesh));
            (self.generation, self.is_apart) = (generation, false);
        }
        if self.is_apart {
            return Err("the ranks are apart".into());
        }
        if let Err(error) = self.decoder.forward(batch) {
            if self.decoder.has_parted() {
                self.is_apart = true;
                let lost = blame(0, &*error);
                // An error: the process is ending.
                let _ = self.bench.reports.send(Report::Lost(self.generation, lost));
            }
            return Err(error);
        }
        Ok(self.decoder.logits())
    }

    fn has_parted(&self) -> bool {
        self.is_apart
    }

    fn link_time(&self) -> Option<LinkTime> {
        self.decoder.link_time()
    }
}

/// The rank that an error names; `mine`, if it names none.
fn blame(mine: usize, error: &(dyn Error + 'static)) -> Lost {
    let mut cause = Some(error);
    let mut words = String::new();
    let mut rank = mine;
    while let Some(error) = cause {
        let found = error.downcast_ref::<CollectiveError>();
        let found = found.or_else(|| match error.downcast_ref::<StepError>() {
            Some(StepError::Collective(lost)) => Some(lost),
            _ => None,
        });
        let found = found.or_else(|| match error.downcast_ref::<RankError>() {
            Some(RankError::Collective(lost)) => Some(lost),
            _ => None,
        });
        if let Some(lost) = found {
            rank = lost.rank;
        }
        if !words.is_empty() {
            words.push_str(": ");
        }
        words.push_str(&error.to_string());
        cause = error.source();
    }
    Lost { rank, reason: words }
}

/// What every rank but 0 runs, for as long as the process lives.
pub(crate) fn serve(
    mut decoder: Decoder,
    mut kv: KvPool,
    bench: Bench,
    after_step: &mut dyn FnMut(LinkTime),
) {
    let Bench { meshes, reports } = bench;
    let mine = decoder.shard().rank();
    for (mut mesh, generation) in meshes {
        if let Err(error) = serve_rank(&mut decoder, &mut kv, &mut mesh, after_step) {
            let lost = blame(mine, &error);
            // An error: the process is ending.
            let _ = reports.send(Report::Lost(generation, lost));
        }
    }
}

/// A collective of ranks that have not met.
pub(crate) struct Apart;

impl Apart {
    fn error(rank: usize) -> CollectiveError {
        CollectiveError { rank, doing: "waiting for it", source: "the ranks are apart".into() }
    }
}

impl Collective for Apart {
    fn broadcast(&mut self, _: &[u8]) -> Result<(), CollectiveError> {
        Err(Self::error(1))
    }

    fn receive_broadcast(&mut self, _: &mut Vec<u8>) -> Result<(), CollectiveError> {
        Err(Self::error(0))
    }

    fn all_reduce_sum(&mut self, _: &mut [f32]) -> Result<(), CollectiveError> {
        Err(Self::error(1))
    }

    fn send(&mut self, to: usize, _: &mut Vec<f32>) -> Result<(), CollectiveError> {
        Err(Self::error(to))
    }

    fn receive(&mut self, from: usize, _: &mut Vec<f32>) -> Result<(), CollectiveError> {
        Err(Self::error(from))
    }

    fn abort(&mut self, _: &str) {}
}

/// What tells weights from others without reading all of them: the description of each tensor, and
/// some bytes of each.
pub(crate) fn fingerprint(files: &ModelFiles) -> [u8; 32] {
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

/// What a block of keys and values takes on the rank that has most layers: the number of blocks
/// that follows from it is the same on all.
pub(crate) fn kv_bytes_per_block(decoder: &Decoder) -> u64 {
    let shard = decoder.shard();
    let layers = decoder.config().layers.len().div_ceil(shard.parallelism().pipeline());
    (decoder.kv_bytes_per_block() / shard.layers().len().max(1) * layers) as u64
}
