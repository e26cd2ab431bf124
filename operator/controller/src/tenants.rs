//! Tenants as gateways need them: their keys, and whom each model answers.

use naru_plan::{Access, Tenant};
use naru_protocol::{KeyDigest, TenantKey, TenantKeys};

/// Everybody who has keys.
pub(crate) fn keys(tenants: &[Tenant]) -> Vec<TenantKeys> {
    let key = |key: &naru_plan::TenantKey| TenantKey {
        name: key.name.as_str().to_owned(),
        sha256: KeyDigest::parse(key.sha256.as_str()).expect("both are 64 hexadecimal digits"),
        expires_unix_seconds: key.expires_unix_seconds,
    };
    let tenant = |tenant: &Tenant| TenantKeys {
        name: tenant.name.to_string(),
        keys: tenant.keys.iter().map(key).collect(),
        concurrent_requests_max: tenant.concurrent_requests_max,
    };
    tenants.iter().map(tenant).collect()
}

/// Who may use a model, of the tenants there are.
pub(crate) fn access(wished: &Access, tenants: &[Tenant]) -> naru_protocol::Access {
    if *wished == Access::All {
        return naru_protocol::Access::All;
    }
    let allowed = tenants.iter().filter(|tenant| wished.allows(tenant));
    naru_protocol::Access::Only(allowed.map(|tenant| tenant.name.to_string()).collect())
}

#[cfg(test)]
mod tests {
    use naru_api::{Source, check};

    use super::*;

    #[test]
    fn what_gateways_are_told() {
        let digest = KeyDigest::of("naru_k").to_string();
        let text = format!(
            "apiVersion: naru.dev/v1alpha1\nkind: Tenant\n\
             metadata: {{name: saudi, labels: {{region: gulf}}}}\n\
             spec:\n  quota: {{concurrentRequests: 4}}\n  keys:\n  - name: prod\n    \
             sha256: {digest}\n    expires: \"2027-01-01T00:00:00Z\"\n---\n\
             apiVersion: naru.dev/v1alpha1\nkind: Tenant\nmetadata: {{name: bank}}\nspec: {{}}\n"
        );
        let tenants = check(&[Source { file: "a.yaml", text: &text }]).unwrap().tenants;
        let told = keys(&tenants);
        assert_eq!(
            (told.len(), told[0].name.as_str(), told[1].name.as_str()),
            (2, "saudi", "bank")
        );
        assert_eq!(told[0].concurrent_requests_max, Some(4));
        assert_eq!(told[0].keys[0].sha256, KeyDigest::of("naru_k"));
        assert_eq!(told[0].keys[0].expires_unix_seconds, Some(1_798_761_600));
        let only = |names: &[&str]| {
            naru_protocol::Access::Only(names.iter().map(ToString::to_string).collect())
        };
        let saudi = tenants[0].name.clone();
        let gulf = Access::Labels([("region".to_owned(), "gulf".to_owned())].into());
        assert_eq!(access(&Access::All, &tenants), naru_protocol::Access::All);
        assert_eq!(access(&Access::Tenants([saudi].into()), &tenants), only(&["saudi"]));
        assert_eq!(access(&gulf, &tenants), only(&["saudi"]));
        assert_eq!(access(&gulf, &tenants[1..]), only(&[]), "nobody, rather than everybody");
    }
}
