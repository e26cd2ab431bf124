//! The authorities with their keys, as they lie in the Secret `naru-ca`.

use std::collections::BTreeMap;

use super::issue::{self, IssueError, Pair, read_authority};
use super::plan::{Authorities, Lifetime, Phase, Step, UnixSeconds};

const SIGNER: [&str; 2] = ["signer.crt", "signer.key"];
const NEXT: [&str; 2] = ["next.crt", "next.key"];
const OLD: &str = "old.crt";
/// When the phase was seen to have reached everybody, in Unix seconds.
const SINCE: &str = "since";

/// The authorities, with what it takes to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keys {
    signer: Pair,
    other: Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Other {
    None,
    Next { pair: Pair, trusted_since: Option<UnixSeconds> },
    Old { certificate: String, moved_since: Option<UnixSeconds> },
}

impl Keys {
    /// A first authority, or a new beginning.
    pub(super) fn found(now: UnixSeconds, lifetime: Lifetime) -> Result<Self, IssueError> {
        Ok(Self { signer: issue::authority(now, lifetime)?, other: Other::None })
    }

    /// The pair that signs.
    #[must_use]
    pub(super) const fn signer(&self) -> &Pair {
        &self.signer
    }

    /// Everything to trust, as `ca.crt` holds it.
    #[must_use]
    pub(super) fn bundle(&self) -> String {
        let other = match &self.other {
            Other::None => "",
            Other::Next { pair, .. } => &pair.certificate,
            Other::Old { certificate, .. } => certificate,
        };
        format!("{}{other}", self.signer.certificate)
    }

    /// What is decided on. `None`: the keys cannot be used.
    #[must_use]
    pub(super) fn authorities(&self) -> Option<Authorities> {
        let phase = match &self.other {
            Other::None => Phase::Steady,
            Other::Next { pair, trusted_since } => {
                Phase::Introducing { next: pair.authority()?, trusted_since: *trusted_since }
            }
            Other::Old { certificate, moved_since } => {
                Phase::Leaving { old: read_authority(certificate)?, moved_since: *moved_since }
            }
        };
        Some(Authorities { signer: self.signer.authority()?, phase })
    }

    /// The keys after a step that is about authorities; the same after any other.
    pub(super) fn after<H>(
        self,
        step: &Step<H>,
        now: UnixSeconds,
        lifetime: Lifetime,
    ) -> Result<Self, IssueError> {
        let Self { signer, other } = self;
        let (signer, other) = match (step, other) {
            (Step::Found, _) => return Self::found(now, lifetime),
            (Step::Introduce, Other::None) => {
                let pair = issue::authority(now, lifetime)?;
                (signer, Other::Next { pair, trusted_since: None })
            }
            (Step::MarkTrusted, Other::Next { pair, .. }) => {
                (signer, Other::Next { pair, trusted_since: Some(now) })
            }
            (Step::Switch, Other::Next { pair, .. }) => {
                (pair, Other::Old { certificate: signer.certificate, moved_since: None })
            }
            (Step::MarkMoved, Other::Old { certificate, .. }) => {
                (signer, Other::Old { certificate, moved_since: Some(now) })
            }
            (Step::Retire, Other::Old { .. }) => (signer, Other::None),
            (_, other) => (signer, other),
        };
        Ok(Self { signer, other })
    }

    /// As a Secret holds them.
    #[must_use]
    pub(super) fn to_data(&self) -> BTreeMap<&'static str, Vec<u8>> {
        let mut data = BTreeMap::new();
        let mut put = |name, text: &str| data.insert(name, text.as_bytes().to_vec());
        put(SIGNER[0], &self.signer.certificate);
        put(SIGNER[1], &self.signer.key);
        let since = match &self.other {
            Other::None => None,
            Other::Next { pair, trusted_since } => {
                put(NEXT[0], &pair.certificate);
                put(NEXT[1], &pair.key);
                *trusted_since
            }
            Other::Old { certificate, moved_since } => {
                put(OLD, certificate);
                *moved_since
            }
        };
        if let Some(since) = since {
            put(SINCE, &since.0.to_string());
        }
        data
    }

    /// From a Secret. `None`: this is not how they are kept.
    #[must_use]
    pub(super) fn from_data(data: &BTreeMap<String, Vec<u8>>) -> Option<Self> {
        let get = |name: &str| String::from_utf8(data.get(name)?.clone()).ok();
        let pair =
            |names: [&str; 2]| Some(Pair { certificate: get(names[0])?, key: get(names[1])? });
        let since = get(SINCE).and_then(|text| text.parse().ok()).map(UnixSeconds);
        let other = match (pair(NEXT), get(OLD)) {
            (None, None) => Other::None,
            (Some(pair), _) => Other::Next { pair, trusted_since: since },
            (None, Some(certificate)) => Other::Old { certificate, moved_since: since },
        };
        let keys = Self { signer: pair(SIGNER)?, other };
        keys.authorities().is_some().then_some(keys)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn keys_come_back_as_they_were_kept() {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let (now, lifetime) = (UnixSeconds(now.as_secs()), Lifetime::new(3600).unwrap());
        let mut keys = Keys::found(now, lifetime).unwrap();
        let first = keys.signer.clone();
        let mut trusted = Vec::new();
        let steps: [Step<()>; 6] = [
            Step::Found,
            Step::Introduce,
            Step::MarkTrusted,
            Step::Switch,
            Step::MarkMoved,
            Step::Retire,
        ];
        for step in &steps[1..] {
            keys = keys.after(step, now, lifetime).unwrap();
            let data = keys.to_data().into_iter().map(|(name, value)| (name.to_owned(), value));
            assert_eq!(Keys::from_data(&data.collect()).as_ref(), Some(&keys), "{step:?}");
            trusted.push(keys.authorities().unwrap().trusted().len());
        }
        assert_eq!(trusted, [2, 2, 2, 2, 1]);
        assert_ne!(keys.signer, first);
        assert!(!keys.bundle().contains(&first.certificate));
        keys = keys.after(&steps[0], now, lifetime).unwrap();
        assert_eq!(keys.authorities().unwrap().phase, Phase::Steady);
    }

    #[test]
    fn what_is_no_authority_is_not_taken_for_one() {
        let data = |pairs: &[(&str, &str)]| -> BTreeMap<String, Vec<u8>> {
            let own =
                |(name, value): &(&str, &str)| ((*name).to_owned(), value.as_bytes().to_vec());
            pairs.iter().map(own).collect()
        };
        assert_eq!(Keys::from_data(&data(&[])), None);
        assert_eq!(Keys::from_data(&data(&[("signer.crt", "x"), ("signer.key", "y")])), None);
    }
}
