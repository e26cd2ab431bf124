//! Tells the API server which authority the webhook's certificate is of.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::certificates::story;

/// Name of the configuration; the chart makes it.
const CONFIGURATION: &str = "naru";
const MANAGER: &str = "naru.dev/certificates";
/// How soon a configuration that came later, or was changed by somebody, is set right.
const LOOK: Duration = Duration::from_secs(30);
/// After a failed attempt.
const RETRY: Duration = Duration::from_secs(2);

/// Writes the newest bundle into the configuration while this operator leads. Never returns.
pub(super) async fn keep(client: Client, mut bundle: watch::Receiver<Option<String>>) {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client);
    loop {
        let Ok(newest) = bundle.wait_for(Option::is_some).await.map(|bundle| bundle.clone()) else {
            return std::future::pending().await;
        };
        let newest = newest.unwrap_or_default();
        let pause = match set(&api, &newest).await {
            Ok(()) => LOOK,
            Err(error) => {
                tracing::warn!(error = story(&error), "telling the API server what to trust");
                RETRY
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            Ok(()) = bundle.changed() => {}
        }
    }
}

async fn set(api: &Api<ValidatingWebhookConfiguration>, bundle: &str) -> kube::Result<()> {
    // Without the configuration there is nobody to tell.
    let Some(configuration) = api.get_opt(CONFIGURATION).await? else { return Ok(()) };
    let Some(patch) = patch(&configuration, bundle) else { return Ok(()) };
    let apply = PatchParams::apply(MANAGER).force();
    api.patch(CONFIGURATION, &apply, &Patch::Apply(patch)).await?;
    tracing::info!(webhooks = configuration.name_any(), "told the API server what to trust");
    Ok(())
}

/// What has to be applied; `None` while every webhook trusts the bundle.
fn patch(
    configuration: &ValidatingWebhookConfiguration,
    bundle: &str,
) -> Option<serde_json::Value> {
    let wanted = ByteString(bundle.as_bytes().to_vec());
    let webhooks = configuration.webhooks.as_deref().unwrap_or_default();
    let differs = |has: &Option<ByteString>| has.as_ref() != Some(&wanted);
    if !webhooks.iter().any(|webhook| differs(&webhook.client_config.ca_bundle)) {
        return None;
    }
    let webhooks: Vec<_> = webhooks
        .iter()
        .map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": wanted}}))
        .collect();
    Some(json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": CONFIGURATION},
        "webhooks": webhooks,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(bundle: Option<&str>) -> ValidatingWebhookConfiguration {
        let ca_bundle = bundle.map(|bundle| ByteString(bundle.as_bytes().to_vec()));
        serde_json::from_value(json!({
            "metadata": {"name": "naru"},
            "webhooks": [{
                "name": "validate.naru.dev",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "clientConfig": {"caBundle": ca_bundle},
            }],
        }))
        .unwrap()
    }

    #[test]
    fn only_what_differs_is_written() {
        assert_eq!(patch(&configuration(Some("new")), "new"), None);
        for old in [None, Some("old")] {
            let patch = patch(&configuration(old), "new").expect("it differs");
            assert_eq!(patch["webhooks"][0]["clientConfig"]["caBundle"], "bmV3");
            assert_eq!(patch["webhooks"][0]["name"], "validate.naru.dev");
        }
        let none: ValidatingWebhookConfiguration =
            serde_json::from_value(json!({"metadata": {"name": "naru"}})).unwrap();
        assert_eq!(patch(&none, "new"), None);
    }
}
