//! A certificate that is shown to anyone: files that will not do, and files that change.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{KeyPair, PKCS_ED25519};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncWriteExt, duplex};
use tokio_rustls::TlsConnector;

use super::tests::{Authority, LOOK, NOW, SOON, write};
use super::{Certificate, CertificateError, CertificateFiles, Change, Handshake, Pem, story};

const NAME: &str = "api.example.com";

fn files(directory: &Path) -> CertificateFiles {
    CertificateFiles { certificate: directory.join("tls.crt"), key: directory.join("tls.key") }
}

fn load(pem: &Pem) -> Result<Certificate, CertificateError> {
    let directory = TempDir::new().unwrap();
    write(directory.path(), pem);
    Certificate::load(files(directory.path()))
}

fn client(authority: &Authority, version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.0.der().clone()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// One handshake: what the server says, and what was agreed on for the inside.
async fn greet(
    certificate: &Certificate,
    client: ClientConfig,
) -> (Result<bool, Handshake>, Option<Vec<u8>>) {
    let (here, there) = duplex(1 << 16);
    let connector = TlsConnector::from(Arc::new(client));
    let name = ServerName::try_from(NAME).unwrap();
    let (server, client) =
        tokio::join!(certificate.accept(here, SOON), connector.connect(name, there));
    let agreed = client.ok().and_then(|c| c.get_ref().1.alpn_protocol().map(<[u8]>::to_vec));
    (server.map(|connection| connection.speaks_http2()), agreed)
}

#[tokio::test]
async fn each_client_gets_the_version_and_the_protocol_that_it_knows() {
    let authority = Authority::new("one");
    let certificate = load(&authority.issue(&[NAME], NOW)).unwrap();
    for version in [&TLS12, &TLS13] {
        let rows: [(&[&str], _, Option<&str>); 4] = [
            (&["h2", "http/1.1"], Ok(true), Some("h2")),
            (&["http/1.1"], Ok(false), Some("http/1.1")),
            (&[], Ok(false), None),
            (&["smtp"], Err(Handshake::NothingInCommon), None),
        ];
        for (offered, expected, agreed) in rows {
            let mut client = client(&authority, version);
            client.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
            let agreed = agreed.map(|name| name.as_bytes().to_vec());
            assert_eq!(greet(&certificate, client).await, (expected, agreed), "{offered:?}");
        }
    }
}

#[tokio::test]
async fn why_a_handshake_came_to_nothing() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let certificate = load(&ours.issue(&[NAME], NOW)).unwrap();
    let (said, _) = greet(&certificate, client(&theirs, &TLS13)).await;
    assert_eq!(said, Err(Handshake::Refused), "it does not trust the authority");
    let cases: [(&[u8], _); 3] = [
        (b"\x16\x03\x01\x00\x05hello", Handshake::Broken),
        (b"\x16\x03", Handshake::Left),
        (b"", Handshake::Left),
    ];
    for (said, expected) in cases {
        let (here, mut there) = duplex(1 << 16);
        there.write_all(said).await.unwrap();
        there.shutdown().await.unwrap();
        let refused = certificate.accept(here, SOON).await.err();
        assert_eq!(refused, Some(expected), "{said:?}");
    }
    let (here, _there) = duplex(1 << 16);
    let refused = certificate.accept(here, Duration::from_millis(10)).await.err();
    assert_eq!(refused, Some(Handshake::TooSlow));
}

#[test]
fn what_cannot_be_shown_is_refused_with_file_and_reason() {
    #[track_caller]
    fn check(fact: &str, pem: &Pem, file: &str, reason: &str) {
        let error = load(pem).expect_err(fact);
        let is_key = matches!(error, CertificateError::Key { .. });
        assert_eq!(is_key, file == "tls.key", "{fact}");
        let story = story(&error);
        assert!(story.contains(&format!("/{file}: {reason}")), "{fact}: {story}");
    }
    let authority = Authority::new("one");
    let good = authority.issue(&[NAME], NOW);
    load(&good).expect("a good one");
    let other = authority.issue(&[NAME], NOW).key;
    check("another key", &Pem { key: other, ..good.clone() }, "tls.key", "it is not the key");
    let kind = KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_pem().into_bytes();
    check("a key of another kind", &Pem { key: kind, ..good.clone() }, "tls.key", "it is not the");
    check("no key", &Pem { key: Vec::new(), ..good.clone() }, "tls.key", "it is no PEM file");
    for head in [
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIC",
        "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMIIC",
    ] {
        let key = format!("{head}\n-----END PRIVATE KEY-----\n").into_bytes();
        check("an encrypted key", &Pem { key, ..good.clone() }, "tls.key", "it is encrypted: try");
    }
    let key = good.key.clone();
    check("a key alone", &Pem { certificate: key, ..good.clone() }, "tls.crt", "it is no PEM");
    let half = good.certificate[..good.certificate.len() / 2].to_vec();
    check("half of it", &Pem { certificate: half, ..good.clone() }, "tls.crt", "it is no PEM");
    let noise = b"-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n".to_vec();
    check("no certificate", &Pem { certificate: noise, ..good }, "tls.crt", "it does not say");
    let error = Certificate::load(files(Path::new("/nowhere"))).unwrap_err();
    assert!(story(&error).starts_with("/nowhere/tls.crt: it cannot be read: "), "{error:?}");
}

/// A certificate whose files are followed, and what was told of them.
struct Followed {
    certificate: Arc<Certificate>,
    directory: TempDir,
    told: Arc<Mutex<Vec<Change>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Followed {
    fn start(pem: &Pem) -> Self {
        let directory = TempDir::new().unwrap();
        write(directory.path(), pem);
        let certificate = Arc::new(Certificate::load(files(directory.path())).unwrap());
        let told = Arc::<Mutex<Vec<Change>>>::default();
        let (followed, hears) = (Arc::clone(&certificate), Arc::clone(&told));
        let task = tokio::spawn(async move {
            followed.follow_every(LOOK, |change| hears.lock().unwrap().push(change)).await;
        });
        Self { certificate, directory, told, task }
    }

    /// Writes these files, and waits for what is told of them.
    async fn change(&self, pem: &Pem) -> Change {
        self.told.lock().unwrap().clear();
        write(self.directory.path(), pem);
        let told = async {
            loop {
                if let Some(change) = self.told.lock().unwrap().first() {
                    return *change;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(SOON, told).await.expect("changed files are seen")
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn changed_files_are_taken_up_and_wrong_ones_leave_the_old_in_use() {
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let good = first.issue(&[NAME], NOW);
    let followed = Followed::start(&good);
    let certificate = &followed.certificate;
    let trusts = async |authority| greet(certificate, client(authority, &TLS13)).await.0.is_ok();
    let expires = certificate.expires_unix_seconds();
    let next = second.issue(&[NAME], (-60, 7200));
    // Files are read one after the other: of no two neighbours a certificate and a key fit.
    let other_key = Pem { key: good.key.clone(), ..next.clone() };
    let bad = [
        ("another key", other_key.clone()),
        ("no certificate", Pem { certificate: Vec::new(), ..other_key }),
        ("one that has ended", second.issue(&[NAME], (-7200, -3600))),
        ("one that has not begun", second.issue(&[NAME], (3600, 7200))),
    ];
    for (fact, pem) in bad {
        assert_eq!(followed.change(&pem).await, Change::Refused, "{fact}");
        assert!(trusts(&first).await && !trusts(&second).await, "{fact}");
        assert_eq!(certificate.expires_unix_seconds(), expires, "{fact}");
    }
    assert_eq!(followed.change(&next).await, Change::TakenUp);
    assert!(trusts(&second).await && !trusts(&first).await);
    assert!(certificate.expires_unix_seconds() > expires + 3000);
}

#[tokio::test]
async fn one_that_has_ended_is_shown_when_there_was_none_before() {
    let authority = Authority::new("one");
    let ended = load(&authority.issue(&[NAME], (-7200, -3600))).unwrap();
    let (said, _) = greet(&ended, client(&authority, &TLS13)).await;
    assert_eq!(said, Err(Handshake::Refused), "it was shown, and the client did not like it");
}
