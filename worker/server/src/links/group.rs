//! How the ranks of a replica come together, part when one is lost, and come together again.
//!
//! ```text
//! rank k                         rank 0
//!   hello (control) ───────────▶ all are here
//!   ◀──────────────── begin 7    generation 7
//!   connect to lower ranks, let higher ones in
//!   met 7 ─────────────────────▶ all have met
//!   ◀───────────────── live 7    steps
//!   …                            a rank is lost: everybody hears which, and begins anew
//! ```
//!
//! Rank 0 counts generations: one more than the highest that any rank has seen, so that neither a
//! restarted rank 0 nor a rank of an earlier generation mixes two. Whoever is healthy goes on
//! living; its weights stay where they are, its keys and values are forgotten.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use naru_protocol::links::v1::Purpose;
use naru_protocol::tls::Identity;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::control::{Control, Heard, News};
use super::door::{House, Line};
use super::greeting::{Guest, Party};
use super::meeting::Meeting;
use super::mesh::Mesh;

/// Before a rank that found nobody, or was refused, tries again: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Guests and words that nobody has looked at yet.
const QUEUE_MAX: usize = 256;

/// A rank that is lost, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rank {rank} is lost: {reason}")]
pub(crate) struct Lost {
    pub(crate) rank: usize,
    pub(crate) reason: String,
}

/// Why ranks are not together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parted {
    pub(crate) words: String,
    /// The rank that was lost last; `None`: none was, they have not met yet.
    pub(crate) lost: Option<usize>,
}

/// What a group tells its member.
pub(crate) enum Told {
    /// The ranks are not together, and why.
    Apart(Parted),
    /// All ranks are connected, under this generation.
    Met(Box<Mesh>, u64),
    /// Another rank was asked to go, so this one shall drain.
    Drain { seconds: u32 },
    /// This member was asked to go, and nobody needs it any more.
    Over,
}

/// What a member tells its group.
pub(crate) enum Report {
    /// A rank was lost in a step of this generation.
    Lost(u64, Lost),
    /// This member was asked to go.
    Drain { seconds: u32 },
}

/// The two ways between a group and its member.
pub(crate) struct Ways {
    pub(crate) told: mpsc::UnboundedSender<Told>,
    pub(crate) reports: mpsc::UnboundedReceiver<Report>,
}

/// One rank's view of its group.
pub(crate) struct Group {
    house: Arc<House>,
    generation: watch::Sender<u64>,
    guests: mpsc::Receiver<(Guest, Line)>,
    ways: Ways,
    /// This member was asked to go.
    is_leaving: bool,
    /// The rank that was lost last.
    lost: Option<usize>,
    /// Connections of control so far.
    controls: u64,
}

impl Group {
    /// Opens the door of a rank at `listener`. `addresses` are HOST:PORT of all ranks.
    pub(crate) fn open(
        party: Party,
        addresses: Vec<String>,
        identity: Option<Arc<Identity>>,
        listener: TcpListener,
        ways: Ways,
    ) -> Self {
        let house = Arc::new(House { party, addresses, identity });
        let (sender, guests) = mpsc::channel(QUEUE_MAX);
        let generation = watch::Sender::new(0);
        tokio::spawn(Arc::clone(&house).open(listener, sender, generation.subscribe()));
        Self { house, generation, guests, ways, is_leaving: false, lost: None, controls: 0 }
    }

    /// Brings the ranks together as often as they part. Ends when this member was asked to go and
    /// nobody needs it, or nobody listens any more.
    pub(crate) async fn run(mut self) {
        let mut pause = PAUSES.0;
        while !self.ways.told.is_closed() {
            let begun = Instant::now();
            let Err(lost) = self.attempt().await;
            if self.is_leaving {
                break;
            }
            self.lost = Some(lost.rank);
            self.apart(lost.to_string());
            // Who was together for long begins anew at once, who never gets together slowly.
            pause = if begun.elapsed() > PAUSES.1 { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
            tokio::select! {
                () = sleep(pause) => {}
                report = self.ways.reports.recv() => {
                    if !matches!(report, Some(Report::Lost(..))) {
                        break;
                    }
                }
            }
        }
        self.tell(Told::Over);
    }

    fn apart(&self, words: String) {
        self.tell(Told::Apart(Parted { words, lost: self.lost }));
    }

    fn tell(&self, told: Told) {
        // Without a listener the process is ending.
        let _ = self.ways.told.send(told);
    }

    /// From the first hello to the loss of a rank.
    async fn attempt(&mut self) -> Result<Infallible, Lost> {
        let (sender, mut news) = mpsc::channel(QUEUE_MAX);
        let controls = if self.house.party.rank == 0 {
            self.gather(&sender, &mut news).await?
        } else {
            BTreeMap::from([(0, self.join(&sender).await?)])
        };
        drop(sender);
        let Self { house, generation, guests, ways, is_leaving, .. } = self;
        let mut meeting = Meeting::new(house, controls, news, ways, is_leaving);
        let Err(lost) = meeting.hold(generation, guests).await;
        meeting.part(&lost);
        Err(lost)
    }

    /// Rank 0 waits until every other rank has said hello, and begins the next generation.
    async fn gather(
        &mut self,
        sender: &mpsc::Sender<News>,
        news: &mut mpsc::Receiver<News>,
    ) -> Result<BTreeMap<usize, Control>, Lost> {
        let ranks = self.house.party.parallelism.ranks();
        let mut here: BTreeMap<usize, (u64, Control)> = BTreeMap::new();
        let mut highest = *self.generation.borrow();
        while here.len() + 1 < ranks {
            let missing: Vec<_> = (1..ranks).filter(|rank| !here.contains_key(rank)).collect();
            self.apart(format!("waiting for ranks {missing:?} of {ranks}"));
            tokio::select! {
                guest = self.guests.recv() => {
                    // Peers of an earlier meeting are let go.
                    let Some((Guest::Led { rank, generation }, line)) = guest else { continue };
                    highest = highest.max(generation);
                    self.controls += 1;
                    let control = Control::start(line, (rank, self.controls), sender.clone());
                    here.insert(rank, (self.controls, control));
                }
                heard = news.recv() => {
                    let Some((rank, number, Heard::Gone(_))) = heard else { continue };
                    if here.get(&rank).is_some_and(|(of, _)| *of == number) {
                        here.remove(&rank);
                    }
                }
                report = self.ways.reports.recv() => if report.is_none() {
                    return Err(Lost { rank: 0, reason: "its process ends".to_owned() });
                }
            }
        }
        self.generation.send_replace(highest + 1);
        Ok(here.into_iter().map(|(rank, (_, control))| (rank, control)).collect())
    }

    /// Another rank says hello to rank 0.
    async fn join(&mut self, sender: &mpsc::Sender<News>) -> Result<Control, Lost> {
        let generation = *self.generation.borrow();
        let dialled = self.house.dial(0, Purpose::Control, generation).await;
        let line = dialled.map_err(|error| Lost {
            rank: 0,
            reason: format!("{:#}", anyhow::Error::new(error)),
        })?;
        self.controls += 1;
        Ok(Control::start(line, (0, self.controls), sender.clone()))
    }
}
