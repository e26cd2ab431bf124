//! The names users give to things, parsed once so that the inside cannot be wrong.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest name a client may ask for, in bytes; the CRD's schema states the same number.
const SERVED_NAME_BYTES_MAX: usize = 128;
/// Most names one model deployment may serve; the CRD's schema states the same number.
const SERVED_NAMES_MAX: usize = 16;

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// A served name has characters or a length that no client may send.
    #[error(
        "{0:?} is not a served name: 1 to 128 of A-Z a-z 0-9 . _ / : - after a letter or digit"
    )]
    Served(String),
    /// The same served name twice in one model deployment.
    #[error("served name {0:?} is listed twice")]
    ServedTwice(ServedName),
    /// None, or more than sixteen.
    #[error("{0} served names: 1 to 16 are possible")]
    ServedCount(usize),
    /// The name of an object is not a DNS label.
    #[error(
        "{0:?} is not a DNS label: 1 to 63 of a-z 0-9 - that begin and end with a letter or digit"
    )]
    Label(String),
    /// A URI whose scheme the worker does not fetch.
    #[error(
        "{0:?} must start with file:///, hf://, https://, oci://, s3://, pvc:// or sim://, and \
         have no space in it"
    )]
    Uri(String),
    /// A claim that no cluster could have, or a path that leads out of its volume.
    #[error("{0:?} must be of the form pvc://CLAIM/PATH, without .. in the path")]
    Claim(String),
    /// The name of an object that is not made of DNS labels.
    #[error("{0:?} is not the name of an object: DNS labels, apart by dots")]
    Object(String),
    /// A place that no node could be labelled with.
    #[error(
        "{0:?} is not a zone: 1 to 63 of A-Z a-z 0-9 . _ - that begin and end with a letter or \
         digit"
    )]
    Zone(String),
    /// A value that no machine could be labelled with.
    #[error(
        "{0:?} is no value of a label: 1 to 63 of A-Z a-z 0-9 . _ - that begin and end with a \
         letter or digit"
    )]
    LabelValue(String),
    /// A name under which no world counts anything.
    #[error("{0:?} is not the name of a resource: DOMAIN/NAME, as in nvidia.com/gpu")]
    Resource(String),
    /// A checksum that is not 64 hexadecimal digits.
    #[error("{0:?} is not a sha256: 64 of 0-9 a-f")]
    Sha256(String),
}

/// The namespace and name of a model deployment; both are DNS labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeploymentName {
    namespace: String,
    name: String,
}

impl DeploymentName {
    /// Parses both halves; `InvalidName::Label` names the one that is not a DNS label.
    pub fn parse(namespace: &str, name: &str) -> Result<Self, InvalidName> {
        for label in [namespace, name] {
            if !is_dns_label(label) {
                return Err(InvalidName::Label(label.to_owned()));
            }
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// The namespace alone.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name alone.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for DeploymentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

fn is_dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// The name of a tenant: a DNS label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TenantName(String);

impl TenantName {
    /// Parses a DNS label; `InvalidName::Label` otherwise.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        if is_dns_label(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::Label(text.to_owned()))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of one key of a tenant, by which people tell their keys apart: a DNS label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyName(String);

impl KeyName {
    /// Parses a DNS label; `InvalidName::Label` otherwise.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        TenantName::parse(text).map(|TenantName(text)| Self(text))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a power budget: a DNS label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BudgetName(String);

impl BudgetName {
    /// Parses a DNS label; `InvalidName::Label` otherwise.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        TenantName::parse(text).map(|TenantName(text)| Self(text))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A place inside one jurisdiction, as the machines in it are labelled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ZoneName(String);

impl ZoneName {
    /// Parses a zone; `InvalidName::Zone` when no machine could bear it.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        if is_label_value(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::Zone(text.to_owned()))
        }
    }

    /// The zone as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_label_value(text: &str) -> bool {
    let outer = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let ends_well = outer(text.bytes().next()) && outer(text.bytes().last());
    ends_well && text.len() <= 63 && text.bytes().all(inner)
}

/// What a machine's label may say of it; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelValue(String);

impl LabelValue {
    /// Parses a value; `InvalidName::LabelValue` when no machine could bear it.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        if is_label_value(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::LabelValue(text.to_owned()))
        }
    }

    /// The value as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name under which a world counts devices: `DOMAIN/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceName(String);

impl ResourceName {
    /// Parses a name; `InvalidName::Resource` when no device is counted under such.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let is_sound = text.len() <= 253
            && text.split_once('/').is_some_and(|(domain, name)| {
                domain.split('.').all(is_dns_label) && is_label_value(name)
            });
        if is_sound { Ok(Self(text.to_owned())) } else { Err(InvalidName::Resource(text.into())) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name a client puts into `model`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServedName(String);

impl ServedName {
    /// Parses one name; `InvalidName::Served` when a client could not send it.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b"._/:-".contains(&b);
        let starts_well = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        if starts_well && text.len() <= SERVED_NAME_BYTES_MAX && text.bytes().all(inner) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::Served(text.to_owned()))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The names of one model deployment: at least one, none twice, the first is the canonical one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServedNames(Vec<ServedName>);

impl ServedNames {
    /// Checks count and uniqueness.
    pub fn new(names: Vec<ServedName>) -> Result<Self, InvalidName> {
        if names.is_empty() || names.len() > SERVED_NAMES_MAX {
            return Err(InvalidName::ServedCount(names.len()));
        }
        for (index, name) in names.iter().enumerate() {
            if names[..index].contains(name) {
                return Err(InvalidName::ServedTwice(name.clone()));
            }
        }
        Ok(Self(names))
    }

    /// The names in the order they were written.
    pub fn iter(&self) -> impl Iterator<Item = &ServedName> {
        self.0.iter()
    }
}

/// Where weights come from: `file:///path`, `hf://owner/repository…` or `https://…`; from
/// nowhere: `sim://profile`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelUri(String);

impl ModelUri {
    /// Checks the scheme and that something follows it; `InvalidName::Uri` otherwise, or
    /// `InvalidName::Claim`.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let known = ["file:///", "hf://", "https://", "oci://", "s3://", "pvc://", "sim://"]
            .iter()
            .any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
        let clean = !text.chars().any(|c| c.is_whitespace() || c.is_control());
        if !known || !clean {
            return Err(InvalidName::Uri(text.into()));
        }
        let uri = Self(text.to_owned());
        let is_sound = uri.claimed().is_none_or(|ClaimedPath { claim, path }| {
            ObjectName::parse(claim).is_ok() && path.split('/').all(|part| part != "..")
        });
        if is_sound { Ok(uri) } else { Err(InvalidName::Claim(text.into())) }
    }

    /// Where it leads, if that is into a claimed volume.
    pub fn claimed(&self) -> Option<ClaimedPath<'_>> {
        let rest = self.0.strip_prefix("pvc://")?;
        let (claim, path) = rest.split_once('/').unwrap_or((rest, ""));
        Some(ClaimedPath { claim, path })
    }

    /// The URI as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The place of weights in a claimed volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimedPath<'a> {
    /// The claim.
    pub claim: &'a str,
    /// The path in its volume; empty: all of it.
    pub path: &'a str,
}

/// The name of an object of a cluster beside the deployment: DNS labels, apart by dots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectName(String);

impl ObjectName {
    /// Parses a DNS subdomain; `InvalidName::Object` otherwise.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        if text.len() <= 253 && text.split('.').all(is_dns_label) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::Object(text.to_owned()))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A checksum of weights, as 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sha256(String);

impl Sha256 {
    /// Parses 64 lower-case hexadecimal digits; `InvalidName::Sha256` otherwise.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 64 && text.bytes().all(digit) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::Sha256(text.to_owned()))
        }
    }

    /// The digits as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(fact: &str, holds: bool) {
        assert!(holds, "{fact}");
    }

    #[test]
    fn names() {
        check("a maker and a model are one name", ServedName::parse("Qwen/Qwen2.5-0.5B").is_ok());
        check("a name is not empty", ServedName::parse("").is_err());
        check("a name has no spaces", ServedName::parse("a b").is_err());
        check("a name starts with a letter or digit", ServedName::parse("/etc").is_err());
        check("128 bytes fit", ServedName::parse(&"a".repeat(128)).is_ok());
        check("129 bytes do not", ServedName::parse(&"a".repeat(129)).is_err());
        let name = ServedName::parse("a").unwrap();
        check("one name is enough", ServedNames::new(vec![name.clone()]).is_ok());
        check("no name is too few", ServedNames::new(vec![]).is_err());
        check("a name is listed once", ServedNames::new(vec![name.clone(), name]).is_err());
        check("labels are lower case", DeploymentName::parse("default", "Solar").is_err());
        check("labels do not end in a dash", DeploymentName::parse("default", "a-").is_err());
        check("a label is a label", DeploymentName::parse("default", "solar-2").is_ok());
        check("so is a tenant", TenantName::parse("saudi").is_ok());
        check("and a key", KeyName::parse("Prod").is_err());
    }

    #[test]
    fn zones() {
        check("a zone is a place", ZoneName::parse("sa-riyadh-1").is_ok());
        check("a cloud's may have capitals", ZoneName::parse("AZ_1.b").is_ok());
        check("not empty", ZoneName::parse("").is_err());
        check("without a dash at the end", ZoneName::parse("a-").is_err());
        check("a product", LabelValue::parse("NVIDIA-H100-80GB-HBM3").is_ok());
        check("not as people write it", LabelValue::parse("NVIDIA H100").is_err());
        check("GPUs", ResourceName::parse("nvidia.com/gpu").is_ok());
        check("parts of GPUs", ResourceName::parse("nvidia.com/mig-1g.10gb").is_ok());
        check("nobody's devices", ResourceName::parse("gpu").is_err());
        check("nor somebody's none", ResourceName::parse("nvidia.com/").is_err());
        check("a domain", ResourceName::parse("NVIDIA/gpu").is_err());
        check("63 characters fit", ZoneName::parse(&"a".repeat(63)).is_ok());
        check("64 do not", ZoneName::parse(&"a".repeat(64)).is_err());
    }

    #[test]
    fn sources() {
        check("a file is an absolute path", ModelUri::parse("file:///models/a.gguf").is_ok());
        check("a relative file has no meaning", ModelUri::parse("file://a.gguf").is_err());
        check("the hub is a source", ModelUri::parse("hf://upstage/Solar@main").is_ok());
        check("plain http is not", ModelUri::parse("http://a/b").is_err());
        check("a scheme alone is nothing", ModelUri::parse("https://").is_err());
        check("an artifact", ModelUri::parse("oci://r.example/m:v1").is_ok());
        let claimed = ModelUri::parse("pvc://models/llm/m.gguf").unwrap();
        let place = ClaimedPath { claim: "models", path: "llm/m.gguf" };
        check("a claimed volume", claimed.claimed() == Some(place));
        let claimed = ModelUri::parse("pvc://models").unwrap();
        check("all of it", claimed.claimed().unwrap().path.is_empty());
        check("no way out of it", ModelUri::parse("pvc://models/../m.gguf").is_err());
        check("a claim has a name", ModelUri::parse("pvc:///m.gguf").is_err());
        check("an object's name", ObjectName::parse("hub-token.v1").is_ok());
        check("not every text", ObjectName::parse("Hub").is_err());
        check("a checksum has 64 digits", Sha256::parse(&"0f".repeat(32)).is_ok());
        check("not 63", Sha256::parse(&"0f".repeat(32)[1..]).is_err());
        check("and none in upper case", Sha256::parse(&"0F".repeat(32)).is_err());
    }
}
