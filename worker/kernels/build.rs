//! Embeds the kernels: their sources always, and the machine code that `make kernels` made of
//! exactly these sources, where it is on this machine.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use sha2::{Digest, Sha256};

fn main() {
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-env-changed=NARU_CACHE_DIR");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let sources = sources(&root.join("src"));
    let key = key(&sources);
    let mut text = String::new();
    let of_kind = |kind: &str| -> Vec<_> {
        sources.iter().filter(|path| path.extension().is_some_and(|e| e == kind)).collect()
    };
    list(&mut text, "SOURCES", &of_kind("cu"));
    list(&mut text, "HEADERS", &of_kind("cuh"));
    let mut code: Vec<PathBuf> = Vec::new();
    if let Some(made) = cache().map(|cache| cache.join("kernels")) {
        // What is made later is embedded by the next build: watched is the folder, which must exist
        // for that. Where it cannot be made nothing will be in it either.
        let _ = fs::create_dir_all(&made);
        println!("cargo::rerun-if-changed={}", made.display());
        let folder = made.join(&key);
        if folder.join("complete").exists() {
            let entries = fs::read_dir(&folder).expect("the folder of machine code can be read");
            code = entries.map(|entry| entry.expect("an entry").path()).collect();
            code.retain(|path| path.extension().is_some_and(|e| e == "cubin" || e == "ptx"));
            code.sort();
        }
    }
    list(&mut text, "MACHINE_CODE", &code.iter().collect::<Vec<_>>());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("code.rs"), text).expect("the build's own folder can be written");
}

/// Every file of CUDA C++, by path.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the sources can be read") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "cu" || e == "cuh") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What the machine code of these sources is filed under; `compile.py` computes the same.
fn key(sources: &[PathBuf]) -> String {
    let mut hash = Sha256::new();
    for path in sources {
        hash.update(fs::read(path).expect("a source can be read"));
    }
    hash.finalize()[..8].iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn cache() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("NARU_CACHE_DIR")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("naru")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/naru")))
}

/// A constant of the files' names, `folder/file`, and contents.
fn list(text: &mut String, name: &str, files: &[&PathBuf]) {
    let _ = writeln!(text, "static {name}: &[(&str, &[u8])] = &[");
    for path in files {
        let part = |path: Option<&std::ffi::OsStr>| {
            path.and_then(|part| part.to_str()).expect("names in ASCII").to_owned()
        };
        let folder = part(path.parent().and_then(Path::file_name));
        let file = part(path.file_name());
        let _ = writeln!(text, "    ({:?}, include_bytes!({path:?})),", format!("{folder}/{file}"));
    }
    text.push_str("];\n");
}
