//! Certificates for clients that will not do, told at the start.

use std::fs;

use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use crate::naru;

#[test]
fn a_pair_that_is_none_is_exit_code_2_with_its_flag() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let certificate = CertificateParams::new(vec!["n".to_owned()]).unwrap().self_signed(&key);
    fs::write(path("tls.crt"), certificate.unwrap().pem()).unwrap();
    fs::write(path("other.key"), other.serialize_pem()).unwrap();
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIC\n-----END ENCRYPTED PRIVATE KEY-----\n";
    fs::write(path("locked.key"), locked).unwrap();
    let rows = [
        ("tls.crt", "other.key", "--tls-key: ", "other.key: it is not the key of the certificate"),
        ("tls.crt", "locked.key", "--tls-key: ", "locked.key: it is encrypted: try `openssl pkey"),
        ("tls.crt", "none.key", "--tls-key: ", "none.key: it cannot be read: No such file"),
        ("none.crt", "other.key", "--tls-cert: ", "none.crt: it cannot be read: No such file"),
        ("other.key", "other.key", "--tls-cert: ", "other.key: it is no PEM file with what"),
    ];
    let commands: [&[&str]; 2] =
        [&["gateway", "--operator", "127.0.0.1:1"], &["up", "--file", "/nowhere.yaml"]];
    for command in commands {
        for (certificate, key, flag, reason) in rows {
            let (certificate, key) = (path(certificate), path(key));
            let files = ["--tls-cert", &certificate, "--tls-key", &key];
            let addresses = ["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"];
            let ended = naru(&[command, &addresses, &files].concat());
            let said = String::from_utf8(ended.stderr).unwrap();
            let line = said.lines().last().unwrap_or_default();
            assert_eq!(ended.status.code(), Some(2), "{said}");
            assert!(line.starts_with(&format!("naru: {flag}")) && line.contains(reason), "{line}");
        }
        let alone = naru(&[command, &["--tls-cert", "tls.crt"]].concat());
        assert_eq!(alone.status.code(), Some(2), "{alone:?}");
        assert!(String::from_utf8_lossy(&alone.stderr).contains("--tls-key"), "{alone:?}");
    }
}
