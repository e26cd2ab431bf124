//! The way to the API server.

use std::time::Duration;

use kube::{Client, Config};

/// How long a connection to the API server may take to stand.
const CONNECT: Duration = Duration::from_secs(5);

/// Why there is no way.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a pod says where the API server is.
    #[error("finding the API server: neither KUBECONFIG nor a pod's service account leads to one")]
    Configuration(#[source] Box<kube::config::InferConfigError>),
    /// What they say cannot be used.
    #[error("preparing connections to the API server")]
    Client(#[source] Box<kube::Error>),
}

/// A client for the API server of `KUBECONFIG`, else of the cluster that this process runs in.
pub async fn connect() -> Result<Client, ConnectError> {
    let configuration = |error| ConnectError::Configuration(Box::new(error));
    let mut config = Config::infer().await.map_err(configuration)?;
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))
}
