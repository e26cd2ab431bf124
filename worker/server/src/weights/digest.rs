//! SHA-256 of files and directories.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

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
        false => hex(&of_file(path).map_err(failed)?.finalize()),
    };
    if actual == expected {
        return Ok(());
    }
    let (path, expected) = (path.to_owned(), expected.to_owned());
    Err(FetchError::WrongDigest { path, expected, actual })
}

/// The state after a whole file, so that what is still to come can be added.
pub(super) fn of_file(path: &Path) -> io::Result<Sha256> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let bytes = file.read(&mut buffer)?;
        if bytes == 0 {
            return Ok(hasher);
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
        let digest = hex(&of_file(&directory.join(&name))?.finalize());
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
