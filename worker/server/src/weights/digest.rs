//! SHA-256 of files and directories.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;

use sha2::{Digest, Sha256};

use super::error::FetchError;

const BUFFER_BYTES: usize = 1 << 20;

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Errors: `path` has another SHA-256 than `expected`, or cannot be read.
pub(super) fn check(path: &Path, expected: &str) -> Result<(), FetchError> {
    let failed = |source| FetchError::Read { path: path.to_owned(), source };
    let actual = match path.is_dir() {
        true => of_directory(path).map_err(failed)?,
        false => of_file(path).map_err(failed)?,
    };
    if actual == expected {
        return Ok(());
    }
    let (path, expected) = (path.to_owned(), expected.to_owned());
    Err(FetchError::WrongDigest { path, expected, actual })
}

/// Of the file at `path` that is still being written: follows `prefixes`, which say how much of
/// its beginning is there, until they end.
pub(super) fn along(path: &Path, prefixes: &Receiver<u64>) -> Result<String, FetchError> {
    let failed = |source| FetchError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut hashed = 0;
    for prefix in prefixes {
        while hashed < prefix {
            let bytes = usize::try_from(prefix - hashed).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
            file.read_exact(&mut buffer[..bytes]).map_err(failed)?;
            hasher.update(&buffer[..bytes]);
            hashed += bytes as u64;
        }
    }
    Ok(hex(&hasher.finalize()))
}

fn of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let bytes = file.read(&mut buffer)?;
        if bytes == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..bytes]);
    }
}

/// What `(cd DIRECTORY && sha256sum * | sort | sha256sum)` prints; files in subdirectories count
/// with their path, hidden ones do not.
fn of_directory(directory: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    visit(directory, Path::new(""), &mut files)?;
    let mut lines = Vec::new();
    for name in files {
        let digest = of_file(&directory.join(&name))?;
        lines.push(format!("{digest}  {}\n", name.display()));
    }
    lines.sort();
    Ok(hex(&Sha256::digest(lines.concat().as_bytes())))
}

fn visit(root: &Path, inside: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in root.join(inside).read_dir()? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let name = inside.join(entry.file_name());
        // Follows links: caches are often made of them.
        if root.join(&name).metadata()?.is_dir() {
            visit(root, &name, files)?;
        } else {
            files.push(name);
        }
    }
    Ok(())
}
