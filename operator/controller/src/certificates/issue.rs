//! Makes authorities and certificates, and reads what was made.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use naru_protocol::tls::{Identity, Pem, Role};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::pem::Pem as Block;

use super::plan::{Authority, AuthorityId, Leaf, Lifetime, UnixSeconds};

/// Certificates begin this long before they are made: clocks differ.
const BACKDATED_SECONDS: u64 = 300;
/// Authorities are told apart by their common names, which begin like this.
const AUTHORITY: &str = "naru authority";

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssueError {
    /// The library refused.
    #[error("making a certificate")]
    Make(#[source] rcgen::Error),
    /// What was made is not what was meant.
    #[error("a new certificate does not fit its authority")]
    Unfit(#[source] naru_protocol::tls::TlsError),
}

/// A certificate and its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pair {
    /// The certificate.
    pub(super) certificate: String,
    /// Its private key.
    pub(super) key: String,
}

impl std::fmt::Debug for Pair {
    /// Never shows the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

impl Pair {
    /// What is decided on, of an authority. `None`: it is no authority of naru's, or not usable.
    #[must_use]
    pub(super) fn authority(&self) -> Option<Authority> {
        KeyPair::from_pem(&self.key).ok()?;
        read_authority(&self.certificate)
    }
}

/// What is decided on, of an authority whose key need not be there.
#[must_use]
pub(super) fn read_authority(certificate: &str) -> Option<Authority> {
    first(certificate.as_bytes(), |certificate| {
        let expires = UnixSeconds(certificate.validity().not_after.timestamp().try_into().ok()?);
        Some(Authority { id: name(certificate.subject())?, expires })
    })
}

/// A new authority.
pub(super) fn authority(now: UnixSeconds, lifetime: Lifetime) -> Result<Pair, IssueError> {
    let key = key()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = DistinguishedName::new();
    let id: String =
        params.key_identifier(&key).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name.push(DnType::CommonName, format!("{AUTHORITY} {id}"));
    valid(&mut params, now, lifetime.authority());
    let certificate = params.self_signed(&key).map_err(IssueError::Make)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// A new certificate for whoever has `role`, answers to `names` besides, and trusts `authorities`.
pub(super) fn leaf(
    signer: &Pair,
    role: Role,
    names: &[String],
    authorities: &str,
    now: UnixSeconds,
    lifetime: Lifetime,
) -> Result<Pem, IssueError> {
    let signing = KeyPair::from_pem(&signer.key).map_err(IssueError::Make)?;
    let issuer =
        Issuer::from_ca_cert_pem(&signer.certificate, signing).map_err(IssueError::Make)?;
    let key = key()?;
    let mut all = vec![role.dns_name().to_owned()];
    all.extend_from_slice(names);
    let mut params = CertificateParams::new(all).map_err(IssueError::Make)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, role.dns_name());
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    valid(&mut params, now, lifetime.leaf());
    let certificate = params.signed_by(&key, &issuer).map_err(IssueError::Make)?;
    let pem = Pem {
        certificate: certificate.pem().into_bytes(),
        key: key.serialize_pem().into_bytes(),
        authorities: authorities.as_bytes().to_vec(),
    };
    // Nobody is handed what nobody would believe.
    Identity::new(role, &pem).map_err(IssueError::Unfit)?;
    Ok(pem)
}

/// What is decided on, of a certificate. `None`: its holder could not use it.
#[must_use]
pub(super) fn read_leaf(pem: &Pem, role: Role, names: &[String]) -> Option<Leaf> {
    Identity::new(role, pem).ok()?;
    let (signer, expires, held) = first(&pem.certificate, |certificate| {
        let expires = UnixSeconds(certificate.validity().not_after.timestamp().try_into().ok()?);
        Some((name(certificate.issuer())?, expires, dns_names(certificate)))
    })?;
    let wanted: BTreeSet<String> =
        names.iter().cloned().chain([role.dns_name().to_owned()]).collect();
    let mut trusts = BTreeSet::new();
    for block in Block::iter_from_buffer(&pem.authorities) {
        trusts.insert(name(block.ok()?.parse_x509().ok()?.subject())?);
    }
    Some(Leaf { signer, expires, trusts, names_fit: held == wanted, is_owned: true })
}

fn key() -> Result<KeyPair, IssueError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IssueError::Make)
}

fn valid(params: &mut CertificateParams, now: UnixSeconds, seconds: u64) {
    let at = |time: UnixSeconds| SystemTime::UNIX_EPOCH + Duration::from_secs(time.0);
    params.not_before = at(UnixSeconds(now.0.saturating_sub(BACKDATED_SECONDS))).into();
    params.not_after = at(now.plus(seconds)).into();
}

/// Reads the first certificate in `pem`.
fn first<T>(pem: &[u8], read: impl FnOnce(&X509Certificate<'_>) -> Option<T>) -> Option<T> {
    let block = Block::iter_from_buffer(pem).next()?.ok()?;
    read(&block.parse_x509().ok()?)
}

fn name(name: &x509_parser::x509::X509Name<'_>) -> Option<AuthorityId> {
    let common = name.iter_common_name().next()?.as_str().ok()?;
    Some(AuthorityId(common.to_owned()))
}

fn dns_names(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return BTreeSet::new();
    };
    let dns = extension.value.general_names.iter().filter_map(|name| match name {
        x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    dns.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> UnixSeconds {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        UnixSeconds(now.as_secs())
    }

    #[test]
    fn what_was_made_is_read_again() {
        let lifetime = Lifetime::new(3600).unwrap();
        let (one, other) =
            (authority(now(), lifetime).unwrap(), authority(now(), lifetime).unwrap());
        let (first, second) = (one.authority().unwrap(), other.authority().unwrap());
        assert_ne!(first.id, second.id);
        assert!(first.expires.0.abs_diff(now().0 + 30 * 3600) <= 2);

        let names = ["naru-operator.naru-system.svc".to_owned()];
        let both = format!("{}{}", one.certificate, other.certificate);
        let made = leaf(&one, Role::Operator, &names, &both, now(), lifetime).unwrap();
        let read = read_leaf(&made, Role::Operator, &names).unwrap();
        assert_eq!(read.signer, first.id);
        assert!(read.expires.0.abs_diff(now().0 + 3600) <= 2);
        assert_eq!(read.trusts, BTreeSet::from([first.id, second.id]));
        assert!(read.names_fit);
        assert!(!read_leaf(&made, Role::Operator, &[]).unwrap().names_fit, "a name too many");
        assert_eq!(read_leaf(&made, Role::Worker, &names), None, "another role's");
    }

    #[test]
    fn what_nobody_would_believe_is_not_handed_out() {
        let lifetime = Lifetime::new(3600).unwrap();
        let (one, other) =
            (authority(now(), lifetime).unwrap(), authority(now(), lifetime).unwrap());
        let trusted = &other.certificate;
        let error = leaf(&one, Role::Worker, &[], trusted, now(), lifetime).unwrap_err();
        assert!(matches!(error, IssueError::Unfit(_)), "{error}");
        let mixed = Pair { key: other.key, ..one };
        let trusted = mixed.certificate.clone();
        leaf(&mixed, Role::Worker, &[], &trusted, now(), lifetime).unwrap_err();
    }

    #[test]
    fn keys_are_shown_to_nobody() {
        let pair = authority(now(), Lifetime::new(3600).unwrap()).unwrap();
        assert!(!format!("{pair:?}").contains("PRIVATE"));
    }
}
