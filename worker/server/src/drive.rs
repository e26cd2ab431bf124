//! The engine's thread: requests in, events out.
//!
//! The engine reads no clock and starts no thread; this gives it both. Requests come in by a queue
//! whose length is bounded by places (one per HTTP request), events go out by one queue per HTTP
//! request whose length is bounded by the tokens it asked for. A client that leaves drops its
//! [`Running`], which cancels.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use naru_engine::{Engine, EngineStats, Event, Refusal, Request, RequestId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::metrics::{Metrics, Timing};
use crate::sim::Pace;

/// HTTP requests in the engine or waiting for it; beyond this a client is told to come back.
const PLACES: usize = 1024;

/// What the engine's thread is told.
enum Command {
    Admit {
        requests: Vec<Request>,
        events: mpsc::UnboundedSender<Event>,
        reply: Reply,
    },
    Cancel(RequestId),
    CancelAll,
    /// Fails every request; the keys and values are no longer what they were.
    Restart {
        why: String,
        done: oneshot::Sender<()>,
    },
}

type Reply = oneshot::Sender<Result<(), Refusal>>;

/// How busy the engine is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Load {
    /// The engine's own counts.
    pub(crate) stats: EngineStats,
    /// Prompt tokens of requests that have not been scheduled yet.
    pub(crate) queued_prompt_tokens: u64,
    /// Requests admitted so far.
    pub(crate) requests_total: u64,
}

/// Why a request is not running.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SubmitError {
    #[error("the engine refused the request")]
    Refused(#[source] Refusal),
    #[error("all {PLACES} places are taken")]
    Full,
    #[error("the engine has stopped")]
    Stopped,
}

/// The way to the engine's thread.
pub(crate) struct Drive {
    commands: mpsc::UnboundedSender<Command>,
    places: Arc<Semaphore>,
    next_id: AtomicU64,
    load: watch::Receiver<Load>,
}

impl Drive {
    /// The way in, and the loop that the engine's thread has to run.
    pub(crate) fn new(engine: Engine, metrics: Arc<Metrics>) -> (Self, Loop) {
        let (commands, inbox) = mpsc::unbounded_channel();
        let start = Load { stats: engine.stats(), ..Load::default() };
        let (load_sender, load) = watch::channel(start);
        let places = Arc::new(Semaphore::new(PLACES));
        let drive = Self { commands, places, next_id: AtomicU64::new(0), load };
        let running = Loop {
            engine,
            pace: None,
            inbox,
            routes: HashMap::new(),
            load: load_sender,
            current: start,
            metrics,
        };
        (drive, running)
    }

    /// A name for a request that no other request has.
    pub(crate) fn next_id(&self) -> RequestId {
        RequestId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Ends whatever is running; its clients get an error.
    pub(crate) fn cancel_all(&self) {
        // The engine's thread being gone, nothing is running.
        let _ = self.commands.send(Command::CancelAll);
    }

    /// Fails every request and forgets every prefix. Returns when that is done.
    pub(crate) async fn restart(&self, why: String) {
        let (done, is_done) = oneshot::channel();
        // The engine's thread being gone, there is nothing to restart.
        if self.commands.send(Command::Restart { why, done }).is_ok() {
            let _ = is_done.await;
        }
    }

    /// How busy the engine is; changes with each step.
    pub(crate) fn load(&self) -> watch::Receiver<Load> {
        self.load.clone()
    }

    /// Has the engine answer `requests`, all or none.
    /// Errors: refused by the engine; too many requests; the engine is gone.
    pub(crate) async fn submit(&self, requests: Vec<Request>) -> Result<Running, SubmitError> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| SubmitError::Full)?;
        let (sender, events) = mpsc::unbounded_channel();
        let unfinished: Vec<RequestId> = requests.iter().map(|request| request.id).collect();
        // Made before the engine is told: a client that leaves while waiting here cancels too.
        let running =
            Running { events, unfinished, commands: self.commands.clone(), _place: place };
        let (reply, answer) = oneshot::channel();
        let command = Command::Admit { requests, events: sender, reply };
        self.commands.send(command).map_err(|_| SubmitError::Stopped)?;
        let admitted = answer.await.map_err(|_| SubmitError::Stopped)?;
        admitted.map_err(SubmitError::Refused)?;
        Ok(running)
    }
}

/// Requests in the engine. Dropping it cancels those that are not over.
pub(crate) struct Running {
    events: mpsc::UnboundedReceiver<Event>,
    unfinished: Vec<RequestId>,
    commands: mpsc::UnboundedSender<Command>,
    _place: OwnedSemaphorePermit,
}

impl Running {
    /// Moves the events that have come into `events`, waiting for the first. `false`: all is over,
    /// or (with [`all_over`](Self::all_over) still false) the engine is gone.
    pub(crate) async fn next(&mut self, events: &mut Vec<Event>) -> bool {
        const EVENTS_MAX: usize = 64;
        if self.unfinished.is_empty() || self.events.recv_many(events, EVENTS_MAX).await == 0 {
            return false;
        }
        for event in events {
            if let Event::Finished { id, last: true, .. } | Event::Failed { id, .. } = event {
                self.unfinished.retain(|one| one != id);
            }
        }
        true
    }

    /// Whether every request has got its last event.
    pub(crate) fn all_over(&self) -> bool {
        self.unfinished.is_empty()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for &id in &self.unfinished {
            // Nobody listens any more: the engine is gone, and the request with it.
            let _ = self.commands.send(Command::Cancel(id));
        }
    }
}

/// Where the events of one request go.
struct Route {
    events: mpsc::UnboundedSender<Event>,
    timing: Timing,
    prompt_tokens: u64,
}

/// What the engine's thread runs.
pub(crate) struct Loop {
    engine: Engine,
    /// Of an engine whose model only pretends to compute.
    pace: Option<Pace>,
    inbox: mpsc::UnboundedReceiver<Command>,
    routes: HashMap<RequestId, Route>,
    load: watch::Sender<Load>,
    current: Load,
    metrics: Arc<Metrics>,
}

impl Loop {
    /// The same, with steps that take as long as the engine says they would.
    pub(crate) fn paced(self, pace: Pace) -> Self {
        Self { pace: Some(pace), ..self }
    }

    /// Runs until every [`Drive`] and [`Running`] is gone.
    pub(crate) fn run(mut self) {
        loop {
            if self.engine.is_idle() {
                self.publish();
                if let Some(pace) = &mut self.pace {
                    pace.rest();
                }
                let Some(command) = self.inbox.blocking_recv() else { return };
                self.obey(command);
            }
            while let Ok(command) = self.inbox.try_recv() {
                self.obey(command);
            }
            for event in self.step() {
                self.route(event);
            }
            self.publish();
        }
    }

    fn step(&mut self) -> Vec<Event> {
        let began = Instant::now();
        let events = self.engine.step();
        if let (Some(pace), Some(cost)) = (&mut self.pace, self.engine.simulated_cost()) {
            pace.wait(cost, began);
        }
        events
    }

    fn publish(&mut self) {
        self.current.stats = self.engine.stats();
        let current = self.current;
        self.load.send_if_modified(|load| {
            let changed = *load != current;
            *load = current;
            changed
        });
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Cancel(id) => self.engine.cancel(id),
            Command::CancelAll => {
                for &id in self.routes.keys() {
                    self.engine.cancel(id);
                }
            }
            Command::Restart { why, done } => {
                self.engine.restart(&why);
                // Whoever asked may have gone.
                let _ = done.send(());
            }
            Command::Admit { requests, events, reply } => {
                let result = self.admit(requests, &events);
                // A client that has left already cancels next.
                let _ = reply.send(result);
            }
        }
    }

    fn admit(
        &mut self,
        requests: Vec<Request>,
        events: &mpsc::UnboundedSender<Event>,
    ) -> Result<(), Refusal> {
        let mut admitted = Vec::with_capacity(requests.len());
        for request in requests {
            let id = request.id;
            let prompt_tokens = request.prompt.len() as u64;
            let timing = Timing::start(request.sampling.n as usize);
            if let Err(refusal) = self.engine.admit(request) {
                for id in admitted {
                    self.engine.cancel(id);
                }
                return Err(refusal);
            }
            self.current.queued_prompt_tokens += prompt_tokens;
            self.current.requests_total += 1;
            self.routes.insert(id, Route { events: events.clone(), timing, prompt_tokens });
            admitted.push(id);
        }
        Ok(())
    }

    fn route(&mut self, event: Event) {
        let (id, last) = match &event {
            Event::Finished { id, last, .. } => (*id, *last),
            Event::Failed { id, error, elsewhere: _ } => {
                tracing::error!(request = id.0, %error, "a request failed in the engine");
                (*id, true)
            }
            Event::Scheduled { id, .. } | Event::Prompt { id, .. } | Event::Output { id, .. } => {
                (*id, false)
            }
        };
        let Some(route) = self.routes.get_mut(&id) else { return };
        let was_queued = route.timing.is_queued();
        route.timing.observe(&event, &self.metrics);
        if was_queued && (last || !route.timing.is_queued()) {
            self.current.queued_prompt_tokens -= route.prompt_tokens;
        }
        // A client that has left cancels; until the engine hears of it, events go nowhere.
        let _ = route.events.send(event);
        if last {
            self.routes.remove(&id);
        }
    }
}
