//! Tests that need more than one crate: import rules, tidiness, and agreement with llama.cpp.
//!
//! What is here is only what those tests share; the tests themselves are in `tests/*.rs`. Tests
//! that talk to running processes are written in Python, for the sake of the official OpenAI
//! client: `clients/` and `processes/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The root of the repository.
pub fn repository() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}

/// Paths, from the root of the repository, of every file that git tracks or would add.
///
/// Errors: git is not there, or this is not a checkout.
pub fn tracked_files() -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"])
        .current_dir(repository())
        .output()
        .context("running git ls-files")?;
    ensure!(output.status.success(), "git ls-files ended with {}", output.status);
    let names = String::from_utf8(output.stdout).context("reading file names from git")?;
    Ok(names.lines().map(str::to_owned).filter(|name| repository().join(name).is_file()).collect())
}
