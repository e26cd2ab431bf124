//! Amounts as Kubernetes writes them: `500m` of a processor, `2Gi` of memory.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// An amount of processor time: cores (`4`, `0.5`) or thousandths of one (`500m`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "IntOrString", into = "String")]
pub struct CpuQuantity(pub String);

/// An amount of memory: bytes, or with a suffix k M G T (powers of 1000) or Ki Mi Gi Ti (of 1024).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "IntOrString", into = "String")]
pub struct MemoryQuantity(pub String);

impl CpuQuantity {
    /// Thousandths of a core; `None` when it is no amount, or one too large to count.
    pub fn millicores(&self) -> Option<u64> {
        if let Some(thousandths) = self.0.strip_suffix('m') {
            return thousandths.parse().ok();
        }
        scaled(&self.0, 1000)
    }
}

impl MemoryQuantity {
    /// Bytes, rounded down; `None` when it is no amount, or one too large to count.
    pub fn bytes(&self) -> Option<u64> {
        const SUFFIXES: [(&str, u64); 8] = [
            ("Ki", 1 << 10),
            ("Mi", 1 << 20),
            ("Gi", 1 << 30),
            ("Ti", 1 << 40),
            ("k", 1_000),
            ("M", 1_000_000),
            ("G", 1_000_000_000),
            ("T", 1_000_000_000_000),
        ];
        let with_suffix =
            SUFFIXES.iter().find_map(|(suffix, unit)| Some((self.0.strip_suffix(suffix)?, *unit)));
        let (number, unit) = with_suffix.unwrap_or((&self.0, 1));
        scaled(number, unit)
    }
}

/// A decimal number times `unit`, rounded down.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let numerator = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
    let denominator = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = u64::try_from(numerator * u128::from(unit) / denominator).ok()?;
    whole.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(part)
}

/// YAML writes `cpu: 4` and `cpu: "4"`; both mean the same.
#[derive(Deserialize)]
#[serde(untagged)]
enum IntOrString {
    Int(u64),
    Text(String),
}

impl From<IntOrString> for String {
    fn from(value: IntOrString) -> Self {
        match value {
            IntOrString::Int(number) => number.to_string(),
            IntOrString::Text(text) => text,
        }
    }
}

impl From<IntOrString> for CpuQuantity {
    fn from(value: IntOrString) -> Self {
        Self(value.into())
    }
}

impl From<IntOrString> for MemoryQuantity {
    fn from(value: IntOrString) -> Self {
        Self(value.into())
    }
}

impl From<CpuQuantity> for String {
    fn from(value: CpuQuantity) -> Self {
        value.0
    }
}

impl From<MemoryQuantity> for String {
    fn from(value: MemoryQuantity) -> Self {
        value.0
    }
}

/// What the API server itself uses for such amounts; a type beside it would be refused.
fn int_or_string(pattern: &str) -> Schema {
    json_schema!({
        "maxLength": 24,
        "pattern": pattern,
        "x-kubernetes-int-or-string": true,
    })
}

impl JsonSchema for CpuQuantity {
    fn schema_name() -> Cow<'static, str> {
        "CpuQuantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        int_or_string(r"^([0-9]+m|[0-9]+(\.[0-9]{1,3})?)$")
    }
}

impl JsonSchema for MemoryQuantity {
    fn schema_name() -> Cow<'static, str> {
        "MemoryQuantity".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        int_or_string(r"^[0-9]+(\.[0-9]{1,9})?(k|M|G|T|Ki|Mi|Gi|Ti)?$")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn cpu(text: &str, millicores: Option<u64>) {
        assert_eq!(CpuQuantity(text.into()).millicores(), millicores, "{text}");
    }

    #[track_caller]
    fn memory(text: &str, bytes: Option<u64>) {
        assert_eq!(MemoryQuantity(text.into()).bytes(), bytes, "{text}");
    }

    #[test]
    fn amounts() {
        cpu("4", Some(4000));
        cpu("0.5", Some(500));
        cpu("500m", Some(500));
        cpu("", None);
        cpu("-1", None);
        cpu("1e3", None);
        memory("1024", Some(1024));
        memory("2Gi", Some(2 << 30));
        memory("1.5Gi", Some(3 << 29));
        memory("2G", Some(2_000_000_000));
        memory("1.5", Some(1));
        memory("99999999999999999999", None);
        memory("99999999999Ti", None);
        memory("Gi", None);
        memory("1GB", None);
    }

    #[test]
    fn numbers_and_text_are_one() {
        let parse = |json: &str| serde_json::from_str::<CpuQuantity>(json).unwrap();
        assert_eq!(parse("4"), parse("\"4\""));
        assert!(serde_json::from_str::<CpuQuantity>("-4").is_err());
    }
}
