//! Which of several operators acts: the one that holds a Lease object.
//!
//! A candidate measures by its own clock how long the lease has not changed: clocks of two
//! machines are never compared. A leader that could not renew for [`Timing::renew`] stops, well
//! before anybody else may take over after [`Timing::lease`].

mod decide;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use self::decide::{Step, View, decide};

/// How leadership is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A lease that did not change for this long is anybody's.
    pub lease: Duration,
    /// A leader that could not renew for this long stops.
    pub renew: Duration,
    /// The wait between two tries.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let [lease, renew, retry] = [15, 10, 2].map(Duration::from_secs);
        Self { lease, renew, retry }
    }
}

impl Timing {
    /// Why leadership timed so would not be safe; `None` when it is.
    pub fn fault(self) -> Option<&'static str> {
        if self.retry.is_zero() {
            return Some("the retry period must be more than 0");
        }
        if self.renew <= self.retry {
            return Some("the renew deadline must be longer than the retry period");
        }
        (self.lease <= self.renew).then_some(
            "the lease duration must be longer than the renew deadline: a leader must have \
             stopped before another begins",
        )
    }
}

/// Who a candidate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    place: Option<String>,
    process: String,
}

impl Identity {
    /// The identity of this process. `pod` is the pod it runs in, where there is one; only one
    /// process of that name runs at a time.
    pub fn of_process(pod: Option<&str>) -> Self {
        let place = pod.map(|pod| format!("{pod}_"));
        let unique = format!("{:x}-{}", Timestamp::now().as_nanosecond(), std::process::id());
        let process = format!("{}{unique}", place.as_deref().unwrap_or_default());
        Self { place, process }
    }
}

/// One operator that would lead.
pub struct Candidate {
    leases: Api<Lease>,
    name: String,
    identity: Identity,
    timing: Timing,
    /// What was seen last, and when it was seen to have changed.
    seen: Option<(Lease, Instant)>,
    /// The most changes of hands that were ever seen.
    most: i32,
}

/// Whether this operator leads, and the how manieth leader it then is.
pub type Leadership = Option<u64>;

impl Candidate {
    /// A candidate for the lease `name`.
    pub fn new(
        client: Client,
        namespace: &str,
        name: &str,
        identity: Identity,
        timing: Timing,
    ) -> Self {
        let leases = Api::namespaced(client, namespace);
        Self { leases, name: name.to_owned(), identity, timing, seen: None, most: 0 }
    }

    /// Tries to lead, and to go on leading, until `stop` is set; then gives the lease back. Tells
    /// through `leadership` whether it does. The first answer of the API server sets `is_asked`.
    pub async fn run(
        mut self,
        leadership: watch::Sender<Leadership>,
        is_asked: watch::Sender<bool>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut renewed = Instant::now();
        loop {
            let begun = Instant::now();
            // A call that hangs must not outlast the time in which it would still count.
            let leads = leadership.borrow().is_some();
            let left = match *leadership.borrow() {
                Some(_) => self.timing.renew.saturating_sub(renewed.elapsed()),
                None => self.timing.renew,
            };
            let attempt = tokio::select! {
                attempt = timeout(left, self.attempt(leads)) => attempt,
                Ok(_) = stop.wait_for(|stop| *stop) => break,
            };
            match attempt {
                Ok(Ok(leads)) => {
                    is_asked.send_replace(true);
                    if leads.is_some() {
                        renewed = begun;
                    }
                    tell(&leadership, leads);
                }
                Ok(Err(error)) => {
                    let error = crate::reconcile::one_line(&error);
                    tracing::warn!(error, "the lease could not be renewed or taken");
                }
                Err(_) => tracing::warn!("the API server does not answer about the lease"),
            }
            if leadership.borrow().is_some() && renewed.elapsed() >= self.timing.renew {
                tell(&leadership, None);
            }
            tokio::select! {
                () = sleep(self.timing.retry) => {}
                Ok(_) = stop.wait_for(|stop| *stop) => break,
            }
        }
        let led = leadership.borrow().is_some();
        tell(&leadership, None);
        if led {
            self.give_back().await;
        }
    }

    /// Looks at the lease, and takes or renews it when that may be.
    async fn attempt(&mut self, leads: bool) -> Result<Leadership, kube::Error> {
        let live = self.leases.get_opt(&self.name).await?;
        let now = Instant::now();
        let is_same = |seen: &Lease, live: &Lease| {
            seen.metadata.resource_version == live.metadata.resource_version
        };
        self.seen = match (self.seen.take(), live) {
            (_, None) => None,
            (Some((seen, since)), Some(live)) if is_same(&seen, &live) => Some((live, since)),
            (_, Some(live)) => Some((live, now)),
        };
        let spec = self.seen.as_ref().and_then(|(lease, _)| lease.spec.as_ref());
        self.most = spec.and_then(|spec| spec.lease_transitions).unwrap_or(0).max(self.most);
        let unchanged = self.seen.as_ref().map_or(Duration::ZERO, |(_, since)| now - *since);
        let view = View {
            identity: &self.identity.process,
            leads,
            place: self.identity.place.as_deref(),
            unchanged,
            lease: self.timing.lease,
            now: Timestamp::now().as_second(),
            most: self.most,
        };
        match decide(spec, view) {
            Step::Wait => Ok(None),
            Step::Take { transitions } => {
                let acquired = Timestamp::now();
                self.write(self.spec(acquired, transitions)).await
            }
            Step::Renew { transitions } => {
                let acquired = spec.and_then(|spec| spec.acquire_time.as_ref());
                let acquired = acquired.map_or_else(Timestamp::now, |time| time.0);
                self.write(self.spec(acquired, transitions)).await
            }
        }
    }

    fn spec(&self, acquired: Timestamp, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.process.clone()),
            lease_duration_seconds: i32::try_from(self.timing.lease.as_secs()).ok(),
            acquire_time: Some(MicroTime(acquired)),
            renew_time: Some(MicroTime(Timestamp::now())),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// Writes over exactly the lease that was seen; somebody who was faster wins.
    async fn write(&mut self, spec: LeaseSpec) -> Result<Leadership, kube::Error> {
        let transitions = spec.lease_transitions.unwrap_or(0);
        let epoch = u64::try_from(transitions).unwrap_or(0) + 1;
        let params = PostParams::default();
        let answer = match &self.seen {
            Some((seen, _)) => {
                let lease = Lease { metadata: seen.metadata.clone(), spec: Some(spec) };
                self.leases.replace(&self.name, &params, &lease).await
            }
            None => {
                let metadata =
                    ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(spec) };
                self.leases.create(&params, &lease).await
            }
        };
        match answer {
            Ok(lease) => {
                self.most = self.most.max(transitions);
                self.seen = Some((lease, Instant::now()));
                Ok(Some(epoch))
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lets the next one begin at once.
    async fn give_back(&mut self) {
        let Some((seen, _)) = &self.seen else { return };
        let spec = seen.spec.clone().unwrap_or_default();
        let spec = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..spec
        };
        let lease = Lease { metadata: seen.metadata.clone(), spec: Some(spec) };
        let params = PostParams::default();
        let giving = self.leases.replace(&self.name, &params, &lease);
        match timeout(self.timing.retry, giving).await {
            Ok(Ok(_)) => tracing::info!("the lease is given back"),
            _ => tracing::warn!("the lease could not be given back; it runs out by itself"),
        }
    }
}

fn tell(leadership: &watch::Sender<Leadership>, leads: Leadership) {
    leadership.send_if_modified(|led| {
        let is_news = *led != leads;
        match leads {
            Some(epoch) if is_news => tracing::info!(epoch, "this operator leads"),
            None if is_news => tracing::info!("this operator does not lead any more"),
            _ => {}
        }
        *led = leads;
        is_news
    });
}
