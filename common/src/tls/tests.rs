//! Handshakes over real connections, with certificates good and bad.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::issue::{Authority, Issued};
use super::{PeerKind, PeerTls, PublicTls};

const DAY: Duration = Duration::from_secs(86_400);

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("omma-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn peer(&self, name: &str, ca: &Authority, issued: &Issued) -> PeerTls {
        PeerTls {
            cert: self.file(&format!("{name}.pem"), &issued.cert),
            key: self.file(&format!("{name}.key"), &issued.key),
            ca: self.file(&format!("{name}-ca.pem"), ca.cert()),
        }
    }
}

fn issue(ca: &Authority, kind: Option<PeerKind>, host: &str) -> Issued {
    ca.issue("x", kind, &[host.into()], SystemTime::now(), DAY).unwrap()
}

/// One connection to a server with `server`'s certificate at 127.0.0.1, dialled as 127.0.0.1 with `client`'s: whether
/// a byte got to the other side and back.
async fn talk(server: &PeerTls, client: &PeerTls) -> Result<(), String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (server, client) = (server.watch().map_err(|e| e.to_string())?, client.watch().map_err(|e| e.to_string())?);
    let echo = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut stream = tokio_rustls::TlsAcceptor::from(server.get().server.clone()).accept(tcp).await?;
        let byte = stream.read_u8().await?;
        stream.write_u8(byte).await?;
        stream.flush().await
    });
    let dial = async {
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        let name = "127.0.0.1".try_into().unwrap();
        let mut stream = tokio_rustls::TlsConnector::from(client.get().client.clone()).connect(name, tcp).await?;
        stream.write_u8(7).await?;
        stream.read_u8().await
    };
    let answer = dial.await;
    echo.await.unwrap().map_err(|e: std::io::Error| e.to_string())?;
    answer.map(|byte| assert_eq!(byte, 7)).map_err(|e| e.to_string())
}

#[tokio::test]
async fn peers_believe_each_other_by_authority_name_and_kind() {
    let folder = Folder::new("peers");
    let (ca, other) = (Authority::new(DAY).unwrap(), Authority::new(DAY).unwrap());
    let good = |kind| issue(&ca, Some(kind), "127.0.0.1");
    let shard = folder.peer("shard", &ca, &good(PeerKind::Shard));
    let coordinator = folder.peer("coordinator", &ca, &good(PeerKind::Coordinator));
    talk(&shard, &shard).await.unwrap();
    talk(&shard, &coordinator).await.unwrap();

    assert!(talk(&coordinator, &shard).await.is_err(), "a coordinator posed as a shard node");
    let elsewhere = folder.peer("elsewhere", &ca, &issue(&ca, Some(PeerKind::Shard), "10.0.0.1"));
    assert!(talk(&elsewhere, &shard).await.is_err(), "the server's certificate is for another host");
    let strangers = folder.peer("strangers", &other, &issue(&other, Some(PeerKind::Shard), "127.0.0.1"));
    assert!(talk(&strangers, &shard).await.is_err(), "the server's certificate is another authority's");
    assert!(talk(&shard, &strangers).await.is_err(), "the client's certificate is another authority's");
    let hour = Duration::from_secs(3600);
    let old = ca.issue("x", Some(PeerKind::Shard), &["127.0.0.1".into()], SystemTime::now() - hour * 2, hour).unwrap();
    let old = folder.peer("old", &ca, &old);
    assert!(talk(&old, &shard).await.is_err() && talk(&shard, &old).await.is_err(), "an expired certificate");
    let early = SystemTime::now() + hour * 3;
    let early = ca.issue("x", Some(PeerKind::Shard), &["127.0.0.1".into()], early, hour).unwrap();
    let early = folder.peer("early", &ca, &early);
    assert!(talk(&early, &shard).await.is_err() && talk(&shard, &early).await.is_err(), "not valid yet");
}

#[tokio::test]
async fn a_client_of_the_same_authority_is_no_peer() {
    let folder = Folder::new("client");
    let ca = Authority::new(DAY).unwrap();
    let shard = folder.peer("shard", &ca, &issue(&ca, Some(PeerKind::Shard), "127.0.0.1"));
    let plain = folder.peer("plain", &ca, &issue(&ca, None, "127.0.0.1"));
    // The process that has it refuses to start with it; a stranger's would not.
    assert!(plain.watch().is_err());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = shard.watch().unwrap();
    let accepted = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        tokio_rustls::TlsAcceptor::from(server.get().server.clone()).accept(tcp).await.map(drop)
    });
    let (chain, key) = super::files::own(&plain.cert, &plain.key).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(super::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(super::files::authorities(&plain.ca).unwrap())
        .with_client_auth_cert(chain, key)
        .unwrap();
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let _ = connector.connect("127.0.0.1".try_into().unwrap(), tcp).await;
    assert!(accepted.await.unwrap().is_err());
}

#[test]
fn what_is_wrong_with_files_is_said() {
    let folder = Folder::new("files");
    let ca = Authority::new(DAY).unwrap();
    let (one, two) = (issue(&ca, None, "a.example"), issue(&ca, None, "a.example"));
    let (cert, key) = (folder.file("cert", &one.cert), folder.file("key", &one.key));
    let problem = |cert: &Path, key: &Path| {
        let files = PublicTls { cert: cert.to_owned(), key: key.to_owned() };
        files.watch().map(drop).map_err(|e| e.to_string())
    };
    assert_eq!(problem(&cert, &key), Ok(()));
    let gone = folder.0.join("gone");
    for (cert, key, word) in [
        (&gone, &key, "gone"),
        (&cert, &gone, "gone"),
        (&key, &key, "no certificate"),
        (&cert, &folder.file("other", &two.key), "other"),
        (&folder.file("rubbish", "rubbish"), &key, "rubbish"),
    ] {
        let said = problem(cert, key).unwrap_err();
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn an_authority_comes_back_from_its_files() {
    let folder = Folder::new("authority");
    let ca = Authority::new(DAY).unwrap();
    let again = Authority::open(ca.cert().to_owned(), &ca.key()).unwrap();
    let (old, new) =
        (issue(&ca, Some(PeerKind::Shard), "127.0.0.1"), issue(&again, Some(PeerKind::Shard), "127.0.0.1"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (old, new) = (folder.peer("old", &ca, &old), folder.peer("new", &ca, &new));
    runtime.block_on(talk(&old, &new)).unwrap();
}
