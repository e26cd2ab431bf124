//! One generation of a group: its ranks connect, compute, and part.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use naru_protocol::links::v1::word::Word as Said;
use naru_protocol::links::v1::{Drain, Loss, Purpose};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::control::{Control, Heard, News};
use super::door::{House, Line};
use super::greeting::Guest;
use super::group::{Lost, Report, Told, Ways};
use super::mesh::{Fate, Mesh};
use super::wire::Wire;

/// From the beginning of a generation until all ranks are connected.
const MEETING_MAX: Duration = Duration::from_secs(15);

/// What this rank hears and says while a generation lasts.
pub(super) struct Meeting<'a> {
    house: &'a Arc<House>,
    /// To the others on rank 0, elsewhere to rank 0.
    controls: BTreeMap<usize, Control>,
    news: mpsc::Receiver<News>,
    ways: &'a mut Ways,
    is_leaving: &'a mut bool,
    generation: u64,
    has_begun: bool,
    is_live: bool,
    met: BTreeSet<usize>,
    fate: Option<Arc<Fate>>,
}

impl<'a> Meeting<'a> {
    pub(super) fn new(
        house: &'a Arc<House>,
        controls: BTreeMap<usize, Control>,
        news: mpsc::Receiver<News>,
        ways: &'a mut Ways,
        is_leaving: &'a mut bool,
    ) -> Self {
        Self {
            house,
            controls,
            news,
            ways,
            is_leaving,
            generation: 0,
            has_begun: false,
            is_live: false,
            met: BTreeSet::new(),
            fate: None,
        }
    }

    /// Holds the meeting until a rank is lost.
    pub(super) async fn hold(
        &mut self,
        generation: &watch::Sender<u64>,
        guests: &mut mpsc::Receiver<(Guest, Line)>,
    ) -> Result<Infallible, Lost> {
        let leads = self.house.party.rank == 0;
        if leads {
            self.generation = *generation.borrow();
            self.say(Said::Begin);
        } else {
            let gathering = self.until(None, |meeting| meeting.has_begun);
            gathering.await?;
            generation.send_replace(self.generation);
        }
        let deadline = Instant::now() + MEETING_MAX;
        let (house, number) = (Arc::clone(self.house), self.generation);
        let mesh = tokio::select! {
            mesh = connect(&house, guests, number, deadline) => mesh?,
            lost = self.listen() => return lost,
        };
        self.fate = Some(mesh.fate());
        if leads {
            let others = self.controls.len();
            self.until(Some(deadline), |meeting| meeting.met.len() == others).await?;
            self.say(Said::Live);
        } else {
            self.say(Said::Met);
            self.until(Some(deadline), |meeting| meeting.is_live).await?;
        }
        tracing::info!(generation = number, "the ranks are together");
        self.tell(Told::Met(Box::new(mesh), number));
        self.listen().await
    }

    /// Listens until a rank is lost.
    async fn listen(&mut self) -> Result<Infallible, Lost> {
        loop {
            self.until(None, |_| false).await?;
        }
    }

    /// Ends the meeting for everybody.
    pub(super) fn part(self, lost: &Lost) {
        let Lost { rank, reason } = lost;
        tracing::warn!(generation = self.generation, rank, reason, "the ranks part");
        if let Some(fate) = &self.fate {
            fate.part(*rank, reason);
        }
        let loss = Loss { rank: *rank as u32, reason: reason.clone() };
        self.say(|_| Said::Lost(loss.clone()));
    }

    fn say(&self, word: impl Fn(u64) -> Said) {
        self.controls.values().for_each(|control| control.say(word(self.generation)));
    }

    fn tell(&self, told: Told) {
        // Without a listener the process is ending.
        let _ = self.ways.told.send(told);
    }

    /// Listens until it is `enough`. Errors: a rank was lost, or it was not enough in time.
    async fn until(
        &mut self,
        deadline: Option<Instant>,
        enough: impl Fn(&Self) -> bool,
    ) -> Result<(), Lost> {
        let never = Instant::now() + Duration::from_secs(u32::MAX.into());
        while !enough(self) {
            let next = timeout_at(deadline.unwrap_or(never), async {
                tokio::select! {
                    news = self.news.recv() => (news, None),
                    report = self.ways.reports.recv() => (None, Some(report)),
                }
            });
            match next.await {
                Err(_) => return Err(self.late()),
                Ok((Some((rank, _, heard)), _)) => self.hear(rank, heard)?,
                Ok((None, Some(Some(report)))) => self.take(report)?,
                Ok((None, _)) => {
                    let reason = "its process ends".to_owned();
                    return Err(Lost { rank: self.house.party.rank, reason });
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, rank: usize, heard: Heard) -> Result<(), Lost> {
        match heard {
            Heard::Gone(reason) => return Err(Lost { rank, reason }),
            Heard::Said(Said::Lost(Loss { rank, reason })) => {
                return Err(Lost { rank: rank as usize, reason });
            }
            Heard::Said(Said::Begin(generation)) if !self.has_begun => {
                (self.generation, self.has_begun) = (generation, true);
            }
            Heard::Said(Said::Met(generation)) if generation == self.generation => {
                self.met.insert(rank);
            }
            Heard::Said(Said::Live(generation)) => self.is_live = generation == self.generation,
            Heard::Said(Said::Drain(Drain { seconds })) => self.tell(Told::Drain { seconds }),
            Heard::Said(Said::Begin(_) | Said::Met(_) | Said::Beat(_)) => {}
        }
        Ok(())
    }

    fn take(&mut self, report: Report) -> Result<(), Lost> {
        match report {
            Report::Lost(generation, lost) if generation == self.generation => Err(lost),
            Report::Lost(..) => Ok(()),
            Report::Drain { seconds } => {
                *self.is_leaving = true;
                self.say(|_| Said::Drain(Drain { seconds }));
                Ok(())
            }
        }
    }

    /// Who is it that was not connected in time.
    fn late(&self) -> Lost {
        let late = self.controls.keys().copied().find(|rank| !self.met.contains(rank));
        let reason = format!("the ranks were not connected within {} s", MEETING_MAX.as_secs());
        Lost { rank: late.unwrap_or(0), reason }
    }
}

/// Connects this rank to all others: it dials the lower ones, and lets the higher ones in.
pub(super) async fn connect(
    house: &Arc<House>,
    guests: &mut mpsc::Receiver<(Guest, Line)>,
    generation: u64,
    deadline: Instant,
) -> Result<Mesh, Lost> {
    let party = &house.party;
    let ranks = party.parallelism.ranks();
    let mut lines: BTreeMap<usize, Line> = BTreeMap::new();
    let mut dialling = JoinSet::new();
    for rank in 0..party.rank {
        let house = Arc::clone(house);
        dialling.spawn(async move { (rank, house.dial(rank, Purpose::Values, generation).await) });
    }
    while lines.len() + 1 < ranks {
        let missing = (0..ranks).find(|rank| *rank != party.rank && !lines.contains_key(rank));
        let late = |_| Lost {
            rank: missing.unwrap_or(0),
            reason: format!("it was not connected within {} s", MEETING_MAX.as_secs()),
        };
        let (rank, line) = timeout_at(deadline, async {
            tokio::select! {
                Some(Ok((rank, dialled))) = dialling.join_next() => {
                    dialled.map(|line| (rank, line)).map_err(|error| {
                        Lost { rank, reason: format!("{:#}", anyhow::Error::new(error)) }
                    })
                }
                Some((guest, line)) = next_peer(guests, generation) => Ok((guest, line)),
                else => Err(Lost { rank: party.rank, reason: "its door is closed".to_owned() }),
            }
        })
        .await
        .map_err(late)??;
        lines.insert(rank, line);
    }
    let mut wires: Vec<Option<Wire>> = (0..ranks).map(|_| None).collect();
    for (rank, line) in lines {
        wires[rank] =
            Some(blocking(line).map_err(|error| Lost { rank, reason: error.to_string() })?);
    }
    Ok(Mesh::new(party.rank, party.parallelism, wires))
}

/// The next higher rank of this generation that comes in.
async fn next_peer(
    guests: &mut mpsc::Receiver<(Guest, Line)>,
    generation: u64,
) -> Option<(usize, Line)> {
    loop {
        match guests.recv().await? {
            (Guest::Peer { rank, generation: of }, line) if of == generation => {
                return Some((rank, line));
            }
            // Of an attempt that failed meanwhile.
            _ => {}
        }
    }
}

/// From here on a thread waits on it.
fn blocking(line: Line) -> std::io::Result<Wire> {
    let (stream, session) = line.into_parts();
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(Wire::new(stream, session))
}
