//! How ranks reach each other: dialling, and the door at which they are let in.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use naru_protocol::links::v1::{Answer, Hello, Purpose};
use naru_protocol::tls::{Alpn, Connection, Identity, Role};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::sleep;

use super::greeting::{Guest, Party};
use super::message::{read, within, write};

/// Time to be connected and greeted; also how long a rank that is ahead waits at the door.
pub(super) const GREETING: Duration = Duration::from_secs(5);
/// Strangers that may stand at the door at one time.
const STRANGERS_MAX: usize = 256;
/// Pause after the system refused a connection, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection between two ranks that know each other.
pub(super) type Line = Connection<TcpStream>;

/// Why a rank cannot be reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("connecting to rank {rank} at {address}")]
    Connect { rank: usize, address: String, source: io::Error },
    #[error("rank {rank} refuses this one: {reason}")]
    Refused { rank: usize, reason: String },
}

/// What a rank needs to reach the others, and to know them.
pub(super) struct House {
    pub(super) party: Party,
    /// HOST:PORT of each rank.
    pub(super) addresses: Vec<String>,
    pub(super) identity: Option<Arc<Identity>>,
}

impl House {
    /// A connection to `rank` that it has accepted.
    pub(super) async fn dial(
        &self,
        rank: usize,
        purpose: Purpose,
        generation: u64,
    ) -> Result<Line, DialError> {
        let address = &self.addresses[rank];
        let hello = self.party.hello(purpose, generation);
        let greeted = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let mut line = match &self.identity {
                None => Connection::plain(stream),
                Some(identity) => {
                    let line = identity.connect(Alpn::Links, Role::Worker, stream).await;
                    line.map_err(io::Error::other)?
                }
            };
            write(&mut line, &hello).await?;
            let answer: Answer = read(&mut line).await?;
            Ok((line, answer))
        };
        let (line, answer) = within(GREETING * 2, greeted)
            .await
            .map_err(|source| DialError::Connect { rank, address: address.clone(), source })?;
        match answer.refused {
            reason if reason.is_empty() => Ok(line),
            reason => Err(DialError::Refused { rank, reason }),
        }
    }

    /// Lets in who may come, for as long as `guests` are wanted. `generation` is the one that this
    /// rank is in: whoever is of an older one is refused, of a newer one waits a little.
    pub(super) async fn open(
        self: Arc<Self>,
        listener: TcpListener,
        guests: mpsc::Sender<(Guest, Line)>,
        generation: watch::Receiver<u64>,
    ) {
        let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
        loop {
            let place = Arc::clone(&strangers).acquire_owned().await;
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = guests.closed() => return,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection of another rank");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (house, guests) = (Arc::clone(&self), guests.clone());
            let generation = generation.clone();
            tokio::spawn(async move {
                let _place = place;
                match within(GREETING * 2, house.greet(stream, from, generation)).await {
                    // An error: nobody wants guests any more.
                    Ok(Some(guest)) => drop(guests.send(guest).await),
                    Ok(None) => {}
                    Err(error) => tracing::info!(%from, %error, "greeting another rank"),
                }
            });
        }
    }

    /// Hears who it is, and answers. None: nobody who may come in.
    async fn greet(
        &self,
        stream: TcpStream,
        from: SocketAddr,
        generation: watch::Receiver<u64>,
    ) -> io::Result<Option<(Guest, Line)>> {
        stream.set_nodelay(true)?;
        let mut line = match &self.identity {
            None => Connection::plain(stream),
            Some(identity) => {
                identity.accept(Alpn::Links, stream).await.map_err(io::Error::other)?
            }
        };
        if self.identity.is_some() && line.peer().0 != Some(Role::Worker) {
            return Err(io::Error::other("it has not proven to be a worker"));
        }
        let hello: Hello = read(&mut line).await?;
        let admitted = match self.party.admit(&hello) {
            Ok(guest) => wait_for_generation(guest, generation).await,
            Err(refusal) => Err(refusal.to_string()),
        };
        let refused = admitted.as_ref().err().cloned().unwrap_or_default();
        write(&mut line, &Answer { refused: refused.clone() }).await?;
        match admitted {
            Ok(guest) => Ok(Some((guest, line))),
            Err(_) => {
                tracing::warn!(%from, reason = refused, "another rank was refused");
                Ok(None)
            }
        }
    }
}

/// Lets a peer through in its generation. Errors: that one is over, or does not begin here.
async fn wait_for_generation(
    guest: Guest,
    mut generation: watch::Receiver<u64>,
) -> Result<Guest, String> {
    let Guest::Peer { rank, generation: theirs } = guest else { return Ok(guest) };
    let begun = generation.wait_for(|ours| *ours >= theirs);
    let ours = match tokio::time::timeout(GREETING, begun).await {
        Ok(Ok(ours)) => *ours,
        Ok(Err(_)) => return Err("this rank is going away".to_owned()),
        Err(_) => return Err(format!("generation {theirs} of rank {rank} did not begin here")),
    };
    if ours > theirs {
        return Err(format!("generation {theirs} of rank {rank} is over, the ranks are in {ours}"));
    }
    Ok(guest)
}
