//! The way to the API server.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// How long a connection to the API server may take to stand.
const CONNECT: Duration = Duration::from_secs(5);

/// Why there is no way.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a pod says where the API server is.
    #[error("finding the API server: neither KUBECONFIG nor a pod's service account leads to one")]
    Configuration(#[source] Box<kube::config::InferConfigError>),
    /// There is no kubeconfig, and this is no pod.
    #[error(
        "finding the API server: there is no KUBECONFIG, no ~/.kube/config, and this is no pod"
    )]
    Nowhere(#[source] Box<InClusterError>),
    /// There is no kubeconfig that a context could be of.
    #[error("--context {0}: there is no KUBECONFIG and no ~/.kube/config that could have it")]
    NoContexts(String),
    /// The kubeconfig cannot be read, or has no such context.
    #[error("reading {from}")]
    Kubeconfig {
        /// Which.
        from: String,
        /// Why not.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// What they say cannot be used.
    #[error("preparing connections to the API server")]
    Client(#[source] Box<kube::Error>),
}

/// A client for the API server of `KUBECONFIG`, else of the cluster that this process runs in.
pub async fn connect() -> Result<Client, ConnectError> {
    let configuration = |error| ConnectError::Configuration(Box::new(error));
    client(Config::infer().await.map_err(configuration)?)
}

/// Which cluster a person means.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The kubeconfig; `None`: that of `KUBECONFIG`, else of the home directory, else a pod's.
    pub kubeconfig: Option<PathBuf>,
    /// The context in it; `None`: its own choice.
    pub context: Option<String>,
}

/// A way to an API server, and what is known of it.
pub struct Way {
    /// It.
    pub client: Client,
    /// Where it leads.
    pub server: String,
    /// What said so.
    pub from: String,
    /// The namespace that is meant when none is named.
    pub namespace: String,
}

/// The way that a person chose.
pub async fn connect_by(choice: &Choice) -> Result<Way, ConnectError> {
    let (config, from) = match (file(choice), &choice.context) {
        (Some((from, read)), context) => {
            let wrong =
                |error| ConnectError::Kubeconfig { from: from.clone(), source: Box::new(error) };
            let options =
                KubeConfigOptions { context: context.clone(), ..KubeConfigOptions::default() };
            let kubeconfig = read.map_err(wrong)?;
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            (config.map_err(wrong)?, from)
        }
        (None, Some(context)) => return Err(ConnectError::NoContexts(context.clone())),
        (None, None) => {
            let nowhere = |error| ConnectError::Nowhere(Box::new(error));
            (Config::incluster().map_err(nowhere)?, "the pod's service account".to_owned())
        }
    };
    let (server, namespace) = (config.cluster_url.to_string(), config.default_namespace.clone());
    Ok(Way { client: client(config)?, server, from, namespace })
}

/// The kubeconfig that is meant, and what it is called; `None`: there is none.
fn file(choice: &Choice) -> Option<(String, Result<Kubeconfig, KubeconfigError>)> {
    if let Some(path) = &choice.kubeconfig {
        return Some((path.display().to_string(), Kubeconfig::read_from(path)));
    }
    let told = std::env::var("KUBECONFIG").ok().filter(|told| !told.is_empty());
    if let Some(told) = told {
        // Several may be named; they are read as one.
        return Some((format!("KUBECONFIG {told}"), Kubeconfig::read()));
    }
    let path = std::env::home_dir()?.join(".kube/config");
    path.exists().then(|| (path.display().to_string(), Kubeconfig::read_from(&path)))
}

fn client(mut config: Config) -> Result<Client, ConnectError> {
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))
}
