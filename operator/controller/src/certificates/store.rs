//! Certificates in Secrets.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::ObjectMeta;
use kube::{Client, Resource, ResourceExt};
use naru_protocol::tls::Pem;
use tokio::sync::{OnceCell, watch};

use super::keeper::{Held, Holder, Store};
use super::keys::Keys;

/// Who writes the fields of these Secrets.
const MANAGER: &str = "naru.dev/certificates";
const AUTHORITIES: &str = "naru-ca";
/// Whoever installed the operator made this; what the operator makes beside it goes with it.
const RELEASE: &str = "naru-operator";

/// The namespaces that have model deployments, each with who owns what is made for all of them.
pub type Namespaces = BTreeMap<String, Vec<OwnerReference>>;

/// The Secrets of a cluster.
pub(super) struct Secrets {
    client: Client,
    /// Where the operator runs.
    namespace: String,
    namespaces: watch::Receiver<Namespaces>,
    release: OnceCell<Option<OwnerReference>>,
}

impl Secrets {
    /// Secrets of the operator's namespace, and of those that have model deployments.
    #[must_use]
    pub(super) fn new(
        client: Client,
        namespace: String,
        namespaces: watch::Receiver<Namespaces>,
    ) -> Self {
        Self { client, namespace, namespaces, release: OnceCell::new() }
    }

    fn place<'a>(&'a self, holder: &'a Holder) -> (&'static str, &'a str) {
        match holder {
            Holder::Operator => ("naru-operator-tls", &self.namespace),
            Holder::Gateway => ("naru-gateway-tls", &self.namespace),
            Holder::Worker { namespace } => ("naru-worker-tls", namespace),
        }
    }

    /// Who owns what is made beside the operator; nobody where it was not installed as a release.
    async fn release(&self) -> kube::Result<Option<Vec<OwnerReference>>> {
        let find = || async {
            let accounts: Api<ServiceAccount> =
                Api::namespaced(self.client.clone(), &self.namespace);
            let account = accounts.get_opt(RELEASE).await?;
            Ok::<_, kube::Error>(account.and_then(|account| account.owner_ref(&())))
        };
        Ok(self.release.get_or_try_init(find).await?.clone().map(|owner| vec![owner]))
    }

    async fn owners(&self, holder: &Holder) -> kube::Result<Option<Vec<OwnerReference>>> {
        match holder {
            Holder::Operator | Holder::Gateway => self.release().await,
            Holder::Worker { namespace } => Ok(self.namespaces.borrow().get(namespace).cloned()),
        }
    }

    fn api(&self, namespace: &str) -> Api<Secret> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

impl Store for Secrets {
    type Error = kube::Error;
    /// The resource version; `None` while there is no such Secret.
    type Version = Option<String>;

    async fn keys(&self) -> kube::Result<(Option<Keys>, Self::Version)> {
        let Some(secret) = self.api(&self.namespace).get_opt(AUTHORITIES).await? else {
            return Ok((None, None));
        };
        let version = secret.resource_version();
        let keys = Keys::from_data(&bytes(secret));
        if keys.is_none() {
            tracing::error!("the Secret {AUTHORITIES} cannot be used: a new authority is made");
        }
        Ok((keys, version))
    }

    async fn put_keys(&self, keys: &Keys, version: Self::Version) -> kube::Result<()> {
        let data = keys.to_data().into_iter();
        let data = data.map(|(name, value)| (name.to_owned(), ByteString(value))).collect();
        let mut secret = Secret {
            metadata: ObjectMeta {
                name: Some(AUTHORITIES.into()),
                namespace: Some(self.namespace.clone()),
                labels: Some(labels()),
                owner_references: self.release().await?,
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".into()),
            data: Some(data),
            ..Secret::default()
        };
        let api = self.api(&self.namespace);
        let Some(version) = version else {
            let create =
                PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
            return api.create(&create, &secret).await.map(drop);
        };
        // Refused when another leader has written meanwhile.
        secret.metadata.resource_version = Some(version);
        let apply = PatchParams::apply(MANAGER).force();
        api.patch(AUTHORITIES, &apply, &Patch::Apply(&secret)).await.map(drop)
    }

    async fn held(&self, holder: &Holder) -> kube::Result<Option<Held>> {
        let (name, namespace) = self.place(holder);
        let Some(secret) = self.api(namespace).get_opt(name).await? else { return Ok(None) };
        let owners = self.owners(holder).await?.unwrap_or_default();
        let has = secret.metadata.owner_references.as_deref().unwrap_or_default();
        let is_owned = owners.iter().all(|owner| has.iter().any(|has| has.uid == owner.uid));
        Ok(pem(secret).map(|pem| Held { pem, is_owned }))
    }

    async fn give(&self, holder: &Holder, pem: &Pem) -> kube::Result<()> {
        let (name, namespace) = self.place(holder);
        let owners = self.owners(holder).await?;
        let data =
            [("tls.crt", &pem.certificate), ("tls.key", &pem.key), ("ca.crt", &pem.authorities)];
        let data = data.map(|(name, value)| (name.to_owned(), ByteString(value.clone())));
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some(namespace.into()),
                labels: Some(labels()),
                owner_references: owners,
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".into()),
            data: Some(data.into()),
            ..Secret::default()
        };
        let apply = PatchParams::apply(MANAGER).force();
        self.api(namespace).patch(name, &apply, &Patch::Apply(&secret)).await.map(drop)
    }
}

/// The operator's own files, for those who do not lead too.
pub(super) async fn own(client: &Client, namespace: &str) -> kube::Result<Option<Pem>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    Ok(api.get_opt("naru-operator-tls").await?.and_then(pem))
}

fn labels() -> BTreeMap<String, String> {
    let labels = [("app.kubernetes.io/name", "naru"), ("app.kubernetes.io/managed-by", "naru")];
    labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

fn bytes(secret: Secret) -> BTreeMap<String, Vec<u8>> {
    secret.data.unwrap_or_default().into_iter().map(|(name, value)| (name, value.0)).collect()
}

fn pem(secret: Secret) -> Option<Pem> {
    let mut data = bytes(secret);
    Some(Pem {
        certificate: data.remove("tls.crt")?,
        key: data.remove("tls.key")?,
        authorities: data.remove("ca.crt")?,
    })
}
