//! Certificates made at run time, connections over loopback.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{Alpn, Connection, Identity, Pem, Role, TlsError, story};

/// How often the tests look at files.
pub(super) const LOOK: Duration = Duration::from_millis(10);
/// How long something that will happen may take on a busy machine.
pub(super) const SOON: Duration = Duration::from_secs(30);

pub(super) struct Authority(pub(super) CertifiedIssuer<'static, KeyPair>);

/// From and until when, in seconds from now.
pub(super) type Validity = (i64, i64);
pub(super) const NOW: Validity = (-60, 3600);

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(super) fn issue(&self, names: &[&str], validity: Validity) -> Pem {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = at(validity.0).into();
        params.not_after = at(validity.1).into();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pem {
            certificate: certificate.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
            authorities: self.0.pem().into_bytes(),
        }
    }

    fn issue_role(&self, role: Role) -> Pem {
        self.issue(&[role.dns_name()], NOW)
    }

    fn identity(&self, role: Role) -> Arc<Identity> {
        Arc::new(Identity::new(role, &self.issue_role(role)).unwrap())
    }
}

fn at(seconds: i64) -> SystemTime {
    let offset = Duration::from_secs(seconds.unsigned_abs());
    let now = SystemTime::now();
    if seconds < 0 { now - offset } else { now + offset }
}

/// `pem`, trusting others.
fn trusting(pem: &Pem, authorities: &[&Authority]) -> Pem {
    let authorities: String = authorities.iter().map(|authority| authority.0.pem()).collect();
    Pem { authorities: authorities.into_bytes(), ..pem.clone() }
}

/// Puts the files there as a kubelet does: links to links, of which one is replaced at once.
pub(super) fn write(directory: &Path, pem: &Pem) {
    let data = tempfile::tempdir_in(directory).unwrap().keep();
    for (name, content) in
        [("tls.crt", &pem.certificate), ("tls.key", &pem.key), ("ca.crt", &pem.authorities)]
    {
        std::fs::write(data.join(name), content).unwrap();
        // There from the second time on.
        let _ = symlink(Path::new("..data").join(name), directory.join(name));
    }
    symlink(&data, directory.join("..data_tmp")).unwrap();
    std::fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
}

/// Answers each byte with the number of its client's role; ends with the test.
struct Echo {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Echo {
    async fn start(identity: Arc<Identity>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let identity = Arc::clone(&identity);
                tokio::spawn(async move {
                    let Ok(mut stream) = identity.accept(Alpn::Http1, stream).await else { return };
                    let role = stream.peer().0.unwrap();
                    while stream.read_u8().await.is_ok() {
                        stream.write_u8(role as u8).await.unwrap();
                        stream.flush().await.unwrap();
                    }
                });
            }
        });
        Self { address, task }
    }

    async fn call(&self, identity: &Identity, server: Role) -> Result<u8, String> {
        let mut stream = self.open(identity, server).await?;
        ask(&mut stream).await
    }

    async fn open(
        &self,
        identity: &Identity,
        server: Role,
    ) -> Result<Connection<TcpStream>, String> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        identity.connect(Alpn::Http1, server, stream).await.map_err(|error| story(&error))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn ask(stream: &mut Connection<TcpStream>) -> Result<u8, String> {
    stream.write_u8(1).await.map_err(|error| error.to_string())?;
    stream.flush().await.map_err(|error| error.to_string())?;
    stream.read_u8().await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn each_side_proves_its_role() {
    let authority = Authority::new("one");
    let echo = Echo::start(authority.identity(Role::Worker)).await;
    for role in Role::ALL {
        let client = authority.identity(role);
        assert_eq!(echo.call(&client, Role::Worker).await, Ok(role as u8), "{role}");
    }
}

#[tokio::test]
async fn a_server_of_another_role_is_not_talked_to() {
    let authority = Authority::new("one");
    let echo = Echo::start(authority.identity(Role::Worker)).await;
    let error = echo.call(&authority.identity(Role::Gateway), Role::Operator).await.unwrap_err();
    assert!(error.contains("NotValidForName") || error.contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn strangers_are_refused_by_both_sides() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let echo = Echo::start(ours.identity(Role::Worker)).await;
    let error = echo.call(&theirs.identity(Role::Gateway), Role::Worker).await.unwrap_err();
    assert!(error.contains("UnknownIssuer") || error.contains("unknown issuer"), "{error}");
    // A client that would trust the server, and is not trusted by it.
    let stranger = theirs.issue_role(Role::Gateway);
    let stranger = Identity::new(Role::Gateway, &trusting(&stranger, &[&theirs, &ours])).unwrap();
    let error = echo.call(&stranger, Role::Worker).await.unwrap_err();
    assert!(error.contains("UnknownCA") || error.contains("unknown CA"), "{error}");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let authority = Authority::new("one");
    let echo = Echo::start(authority.identity(Role::Worker)).await;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.0.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(echo.address).await.unwrap();
    let name = Role::Worker.dns_name().try_into().unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    let error = stream.read_u8().await.unwrap_err().to_string();
    assert!(error.contains("CertificateRequired"), "{error}");
    // Who speaks no TLS at all gets nowhere either.
    let mut plain = TcpStream::connect(echo.address).await.unwrap();
    plain.write_all(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // The server may reset rather than end.
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test]
async fn a_client_whose_certificate_expires_is_refused_from_then_on() {
    let authority = Authority::new("one");
    let echo = Echo::start(authority.identity(Role::Worker)).await;
    let brief = authority.issue(&[Role::Gateway.dns_name()], (-60, 2));
    let client = Identity::new(Role::Gateway, &brief).unwrap();
    assert_eq!(echo.call(&client, Role::Worker).await, Ok(Role::Gateway as u8));
    let mut running = echo.open(&client, Role::Worker).await.unwrap();
    let refused = async {
        loop {
            if let Err(error) = echo.call(&client, Role::Worker).await {
                return error;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let error = tokio::time::timeout(SOON, refused).await.unwrap();
    assert!(error.contains("CertificateExpired") || error.contains("expired"), "{error}");
    assert_eq!(ask(&mut running).await, Ok(Role::Gateway as u8), "open connections go on");
}

#[test]
fn what_peers_would_refuse_is_refused_at_once() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    #[track_caller]
    fn check(fact: &str, pem: &Pem, expected: &str) {
        let error = Identity::new(Role::Gateway, pem).expect_err(fact);
        let story = story(&error);
        assert!(story.contains(expected), "{fact}: {story}");
    }
    let good = ours.issue_role(Role::Gateway);
    Identity::new(Role::Gateway, &good).expect("a good one");
    let expired = ours.issue(&[Role::Gateway.dns_name()], (-7200, -3600));
    check("expired", &expired, "expired");
    let early = ours.issue(&[Role::Gateway.dns_name()], (3600, 7200));
    check("not yet valid", &early, "not valid yet");
    check("another role's", &ours.issue_role(Role::Worker), "a gateway that ca.crt vouches");
    let both = ours.issue(&[Role::Gateway.dns_name(), Role::Worker.dns_name()], NOW);
    check("two roles", &both, "none of the roles, or several");
    check("another authority's", &trusting(&good, &[&theirs]), "ca.crt vouches for");
    let other = ours.issue_role(Role::Gateway);
    check("another key", &Pem { key: other.key, ..good.clone() }, "not the key of tls.crt");
    check("no key", &Pem { key: Vec::new(), ..good.clone() }, "tls.key is no PEM");
    check("no authority", &Pem { authorities: Vec::new(), ..good.clone() }, "ca.crt is no PEM");
    let half = good.certificate[..good.certificate.len() / 2].to_vec();
    check("half written", &Pem { certificate: half, ..good }, "tls.crt is no PEM");
}

#[test]
fn an_identity_says_when_it_expires() {
    let authority = Authority::new("one");
    let pem = authority.issue(&[Role::Worker.dns_name()], (-60, 1000));
    let identity = Identity::new(Role::Worker, &pem).unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let left = identity.expires_unix_seconds() - now.cast_signed();
    assert!((900..=1000).contains(&left), "{left}");
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let error = Identity::load(Role::Worker, Path::new("/nowhere")).unwrap_err();
    assert!(matches!(error, TlsError::Read { .. }));
    assert_eq!(error.to_string(), "reading /nowhere/tls.crt");
}

/// A party whose files are followed.
struct Followed {
    identity: Arc<Identity>,
    directory: tempfile::TempDir,
    task: JoinHandle<()>,
}

impl Followed {
    fn start(role: Role, pem: &Pem) -> Self {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), pem);
        let identity = Arc::new(Identity::load(role, directory.path()).unwrap());
        let (path, followed) = (directory.path().to_owned(), Arc::clone(&identity));
        let task = tokio::spawn(async move { followed.follow_every(&path, LOOK).await });
        Self { identity, directory, task }
    }

    /// Writes files, and waits until they are in use.
    async fn take(&self, pem: &Pem) {
        write(self.directory.path(), pem);
        let taken = async {
            while !self.identity.holds(pem) {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(SOON, taken).await.expect("changed files are seen");
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn wrong_files_leave_the_old_in_use() {
    let authority = Authority::new("one");
    let good = authority.issue_role(Role::Worker);
    let server = Followed::start(Role::Worker, &good);
    let echo = Echo::start(Arc::clone(&server.identity)).await;
    let client = authority.identity(Role::Gateway);
    let mut half = authority.issue(&[Role::Worker.dns_name()], (-60, 7200));
    let key = std::mem::take(&mut half.key);
    write(server.directory.path(), &half);
    // Long enough for the files to be looked at: the answer must not depend on it.
    for _ in 0..20 {
        assert_eq!(echo.call(&client, Role::Worker).await, Ok(Role::Gateway as u8));
        tokio::time::sleep(LOOK).await;
    }
    std::fs::remove_file(server.directory.path().join("ca.crt")).unwrap();
    assert_eq!(echo.call(&client, Role::Worker).await, Ok(Role::Gateway as u8));
    server.take(&Pem { key, ..half }).await;
    assert_eq!(echo.call(&client, Role::Worker).await, Ok(Role::Gateway as u8));
}

/// The authority is replaced in the order that keeps everybody trusted, three times, while clients
/// call without pause: trust both, change certificates, trust the new one alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_authorities_change_under_load() {
    const CLIENTS: usize = 8;
    let mut old = Authority::new("0");
    let mut worker_pem = old.issue_role(Role::Worker);
    let mut gateway_pem = old.issue_role(Role::Gateway);
    let worker = Followed::start(Role::Worker, &worker_pem);
    let gateway = Followed::start(Role::Gateway, &gateway_pem);
    let echo = Arc::new(Echo::start(Arc::clone(&worker.identity)).await);
    let mut kept = echo.open(&gateway.identity, Role::Worker).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (echo, stop) = (Arc::clone(&echo), Arc::clone(&stop));
        let identity = Arc::clone(&gateway.identity);
        calls.spawn(async move {
            let mut count = 0u32;
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(echo.call(&identity, Role::Worker).await, Ok(Role::Gateway as u8));
                count += 1;
            }
            count
        });
    }
    for round in 1..=3 {
        let new = Authority::new(&round.to_string());
        // One side after the other, as files reach their holders at different times.
        worker.take(&trusting(&worker_pem, &[&old, &new])).await;
        gateway.take(&trusting(&gateway_pem, &[&old, &new])).await;
        gateway_pem = new.issue_role(Role::Gateway);
        gateway.take(&trusting(&gateway_pem, &[&old, &new])).await;
        worker_pem = new.issue_role(Role::Worker);
        worker.take(&trusting(&worker_pem, &[&old, &new])).await;
        worker.take(&trusting(&worker_pem, &[&new])).await;
        gateway.take(&trusting(&gateway_pem, &[&new])).await;
        let stale = trusting(&old.issue_role(Role::Gateway), &[&old, &new]);
        let stale = Identity::new(Role::Gateway, &stale).unwrap();
        echo.call(&stale, Role::Worker).await.expect_err("the old authority is trusted no more");
        assert_eq!(ask(&mut kept).await, Ok(Role::Gateway as u8), "an open connection goes on");
        old = new;
    }
    stop.store(true, Ordering::Relaxed);
    let mut total = 0;
    while let Some(count) = calls.join_next().await {
        total += count.expect("no call failed");
    }
    assert!(total > CLIENTS as u32, "{total} calls are no load");
}
