//! `naru key`: keys for tenants.

use std::io::Write;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use naru_protocol::KeyDigest;

use crate::failure::Failure;

/// By which a key is known for what it is, by people and by scanners for leaked secrets.
const PREFIX: &str = "naru_";
/// As many as its digest has: no more would be safer.
const RANDOM_BYTES: usize = 32;

const EXAMPLES: &str = "\
Examples:
  naru key create --tenant saudi
  naru key create --name test

Prints the key, once: naru keeps nothing but the digest in the Tenant. The lines after it go into
the Tenant's spec.keys.";

/// What `naru key` is told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make a key and the entry that makes it a tenant's
    #[command(after_help = EXAMPLES)]
    Create {
        /// Which of the tenant's keys it will be
        #[arg(long, value_name = "NAME", default_value = "prod", value_parser = label)]
        name: String,
        /// Whose it will be
        #[arg(long, value_name = "TENANT", value_parser = label)]
        tenant: Option<String>,
    },
}

/// Does what was asked.
pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Command::Create { name, tenant } = arguments.command;
    let key = new_key().map_err(Failure::Failed)?;
    let text = describe(&key, &name, tenant.as_deref());
    let written = std::io::stdout().lock().write_all(text.as_bytes());
    written.context("writing the key").map_err(Failure::Failed)
}

fn new_key() -> anyhow::Result<String> {
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random).context("asking the operating system for randomness")?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random)))
}

/// The key on the first line; the rest is YAML.
fn describe(key: &str, name: &str, tenant: Option<&str>) -> String {
    let whose = tenant.map_or("the Tenant".to_owned(), |tenant| format!("the Tenant {tenant}"));
    let digest = KeyDigest::of(key);
    format!(
        "{key}\n\n# The key is shown this once. Into spec.keys of {whose}:\n\
         - name: {name}\n  sha256: {digest}\n"
    )
}

/// Names of tenants and keys are DNS labels.
fn label(text: &str) -> Result<String, String> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_label = (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-');
    let wrong = "1 to 63 of a-z 0-9 - that begin and end with a letter or digit";
    if is_label { Ok(text.to_owned()) } else { Err(wrong.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let (one, two) = (new_key().unwrap(), new_key().unwrap());
        assert_ne!(one, two);
        let random = one.strip_prefix("naru_").unwrap();
        assert_eq!(random.len(), 43);
        assert!(
            random.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)),
            "{random}"
        );
    }

    #[test]
    fn what_is_printed() {
        let text = describe("naru_k", "prod", Some("saudi"));
        let digest = KeyDigest::of("naru_k");
        let expected = format!(
            "naru_k\n\n# The key is shown this once. Into spec.keys of the Tenant saudi:\n\
             - name: prod\n  sha256: {digest}\n"
        );
        assert_eq!(text, expected);
        assert!(label("a\nb").is_err() && label("prod-1").is_ok());
    }
}
