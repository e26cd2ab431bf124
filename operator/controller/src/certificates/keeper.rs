//! Carries out what is decided: reads what everybody has, makes what is lacking, writes it.

use std::collections::BTreeMap;

use naru_protocol::tls::{Pem, Role};

use super::issue::{self, IssueError, read_leaf};
use super::keys::Keys;
use super::plan::{Leaf, Lifetime, Step, UnixSeconds, Write, plan};

/// A whole replacement of the authority takes fewer steps, and most turns take one.
const STEPS_MAX: usize = 16;

/// Who has a certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holder {
    /// The operator, also to the API server.
    Operator,
    /// The gateways.
    Gateway,
    /// The workers of one namespace.
    Worker {
        /// Its name.
        namespace: String,
    },
}

impl Holder {
    /// What it is to the others.
    #[must_use]
    pub(super) const fn role(&self) -> Role {
        match self {
            Self::Operator => Role::Operator,
            Self::Gateway => Role::Gateway,
            Self::Worker { .. } => Role::Worker,
        }
    }
}

/// What a holder has.
#[derive(Debug, Clone)]
pub(super) struct Held {
    /// The files.
    pub(super) pem: Pem,
    /// They go with those they were made for.
    pub(super) is_owned: bool,
}

/// Where certificates and authorities lie.
pub(super) trait Store: Sync {
    /// Why it cannot be read or written.
    type Error: std::error::Error + Send + Sync + 'static;
    /// By which a write is refused that another one overtook.
    type Version: Send;

    /// The authorities. `None`: there are none, or none that can be used.
    fn keys(
        &self,
    ) -> impl Future<Output = Result<(Option<Keys>, Self::Version), Self::Error>> + Send;
    /// Writes the authorities, if nobody did meanwhile.
    fn put_keys(
        &self,
        keys: &Keys,
        version: Self::Version,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
    /// What a holder has.
    fn held(
        &self,
        holder: &Holder,
    ) -> impl Future<Output = Result<Option<Held>, Self::Error>> + Send;
    /// Gives a holder what it lacks.
    fn give(
        &self,
        holder: &Holder,
        pem: &Pem,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Why a turn was cut short.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeepError<E: std::error::Error + 'static> {
    /// The authorities could not be read or written.
    #[error("reading or writing the authorities")]
    Keys(#[source] E),
    /// A holder's certificate could not be read or written.
    #[error("reading or writing the certificate of {holder:?}")]
    Holder {
        /// Whose.
        holder: Holder,
        /// Why.
        #[source]
        source: E,
    },
    /// A certificate could not be made.
    #[error("issuing a certificate")]
    Issue(#[source] IssueError),
    /// The steps did not come to an end: what was written did not stay.
    #[error("certificates change as soon as they are written: is there a second writer?")]
    Endless,
}

/// After a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turned {
    /// When to look again, if nothing else changes.
    pub(super) look_again: UnixSeconds,
    /// What whoever calls the operator must trust, in PEM.
    pub(super) bundle: String,
}

/// Keeps everybody's certificates.
pub(super) struct Keeper<S> {
    /// Where they lie.
    pub(super) store: S,
    /// How long they are valid.
    pub(super) lifetime: Lifetime,
    /// What the operator is called besides its role.
    pub(super) operator_names: Vec<String>,
}

impl<S: Store> Keeper<S> {
    /// Takes every step that can be taken at `now`, for these holders.
    ///
    /// A holder that cannot be written to does not keep the others from what they lack; the first
    /// such failure is returned.
    pub(super) async fn turn(
        &self,
        holders: &[Holder],
        now: impl Fn() -> UnixSeconds + Sync,
    ) -> Result<Turned, KeepError<S::Error>> {
        for _ in 0..STEPS_MAX {
            let (keys, version) = self.store.keys().await.map_err(KeepError::Keys)?;
            let authorities = keys.as_ref().and_then(Keys::authorities);
            let held = self.held(holders).await?;
            let leaves = held
                .iter()
                .map(|(holder, held)| {
                    let read = |held: &Held| {
                        let leaf = read_leaf(&held.pem, holder.role(), self.names(holder))?;
                        Some(Leaf { is_owned: held.is_owned, ..leaf })
                    };
                    (holder.clone(), held.as_ref().and_then(read))
                })
                .collect();
            let step = plan(authorities.as_ref(), &leaves, now(), self.lifetime);
            match (step, keys) {
                (Step::Wait(look_again), Some(keys)) => {
                    return Ok(Turned { look_again, bundle: keys.bundle() });
                }
                (Step::Write(lacking), Some(keys)) => {
                    self.write(&keys, &lacking, &held, now()).await?;
                }
                (step, keys) => {
                    let keys = match keys {
                        None => Keys::found(now(), self.lifetime),
                        Some(keys) => keys.after(&step, now(), self.lifetime),
                    };
                    let keys = keys.map_err(KeepError::Issue)?;
                    self.store.put_keys(&keys, version).await.map_err(KeepError::Keys)?;
                    tracing::info!(?step, "the internal authority");
                }
            }
        }
        Err(KeepError::Endless)
    }

    async fn held(
        &self,
        holders: &[Holder],
    ) -> Result<BTreeMap<Holder, Option<Held>>, KeepError<S::Error>> {
        let mut held = BTreeMap::new();
        for holder in holders {
            let failed = |source| KeepError::Holder { holder: holder.clone(), source };
            held.insert(holder.clone(), self.store.held(holder).await.map_err(failed)?);
        }
        Ok(held)
    }

    async fn write(
        &self,
        keys: &Keys,
        lacking: &BTreeMap<Holder, Write>,
        held: &BTreeMap<Holder, Option<Held>>,
        now: UnixSeconds,
    ) -> Result<(), KeepError<S::Error>> {
        let bundle = keys.bundle();
        let mut failure = None;
        for (holder, what) in lacking {
            let has = held.get(holder).cloned().flatten().map(|held| held.pem);
            let pem = match (what, has) {
                (Write::Trust, Some(pem)) => {
                    Pem { authorities: bundle.clone().into_bytes(), ..pem }
                }
                _ => {
                    let names = self.names(holder);
                    issue::leaf(keys.signer(), holder.role(), names, &bundle, now, self.lifetime)
                        .map_err(KeepError::Issue)?
                }
            };
            match self.store.give(holder, &pem).await {
                Ok(()) => tracing::info!(?holder, ?what, "gave a certificate"),
                Err(source) => {
                    let failed = KeepError::Holder { holder: holder.clone(), source };
                    failure.get_or_insert(failed);
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn names(&self, holder: &Holder) -> &[String] {
        match holder {
            Holder::Operator => &self.operator_names,
            Holder::Gateway | Holder::Worker { .. } => &[],
        }
    }
}
