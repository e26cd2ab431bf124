//! What `naru operator` is told about the weights of workers.

use std::collections::BTreeMap;

use anyhow::anyhow;
use naru_controller::kubernetes::WeightsCache;

/// Where workers keep weights, and how they reach them.
#[derive(clap::Args)]
#[group(skip)]
pub(crate) struct Arguments {
    /// Keep weights in a claim `naru-weights` of each namespace, of this StorageClass; without it
    /// each pod keeps its own
    #[arg(long, value_name = "NAME")]
    weights_cache_storage_class: Option<String>,
    /// How large those claims are
    #[arg(long, value_name = "QUANTITY", default_value = "100Gi")]
    weights_cache_size: String,
    /// How those claims may be mounted
    #[arg(long, value_name = "MODE", default_value = "ReadWriteMany",
          value_parser = ["ReadWriteMany", "ReadWriteOnce"])]
    weights_cache_access_mode: String,
    /// A variable that every worker is given (HTTPS_PROXY, HF_ENDPOINT, AWS_ENDPOINT_URL), unless
    /// its podTemplate says it; may be repeated
    #[arg(long = "worker-env", value_name = "NAME=VALUE", value_parser = variable)]
    worker_env: Vec<(String, String)>,
}

impl Arguments {
    /// Variables of every worker.
    pub(crate) fn env(&self) -> BTreeMap<String, String> {
        self.worker_env.iter().cloned().collect()
    }

    /// `None`: each pod keeps its own weights.
    pub(crate) fn cache(&self) -> Option<WeightsCache> {
        let storage_class = self.weights_cache_storage_class.clone()?;
        (!storage_class.is_empty()).then(|| WeightsCache {
            storage_class,
            size: self.weights_cache_size.clone(),
            access_mode: self.weights_cache_access_mode.clone(),
        })
    }
}

fn variable(text: &str) -> anyhow::Result<(String, String)> {
    let (name, value) = text.split_once('=').ok_or_else(|| anyhow!("expected NAME=VALUE"))?;
    let known = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(known) {
        return Err(anyhow!("{name:?} is no name of a variable"));
    }
    if name.starts_with("NARU_") && name != "NARU_LOG" {
        return Err(anyhow!("{name}: variables that begin with NARU_ are set by naru"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables() {
        #[track_caller]
        fn check(text: &str, expected: Option<(&str, &str)>) {
            let found = variable(text).ok();
            let found = found.as_ref().map(|(name, value)| (name.as_str(), value.as_str()));
            assert_eq!(found, expected, "{text}");
        }
        check("HF_ENDPOINT=https://m/?a=b", Some(("HF_ENDPOINT", "https://m/?a=b")));
        check("NO_PROXY=", Some(("NO_PROXY", "")));
        check("NARU_LOG=debug", Some(("NARU_LOG", "debug")));
        check("NARU_CACHE_DIR=/x", None);
        check("HF_ENDPOINT", None);
        check("A B=c", None);
    }
}
