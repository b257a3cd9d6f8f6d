//! What a cluster needs to be locked: an authority, certificates, API keys.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use omma_common::tls::issue::{Authority, Issued};
use omma_common::tls::{Dialer, PeerKind, PeerTls, ServerTrust};
use omma_coordinator::access::Role;
use omma_coordinator::access::keys::new_key;
use tonic::transport::Channel;

const DAY: Duration = Duration::from_secs(86_400);

/// Files of one secured cluster, in its run folder.
#[derive(Debug)]
pub struct Secured {
    folder: PathBuf,
    authority: Authority,
    key: String,
    other: String,
}

impl Secured {
    /// Makes all files in `folder`.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn new(folder: &Path) -> Result<Self> {
        let key = |id: &str| new_key(id, &[Role::Read, Role::Write, Role::Admin], &["*".to_owned()], None);
        let (made, other) = (key("test")?, key("other")?);
        let folder = folder.to_owned();
        let secured = Self { folder, authority: Authority::new(DAY)?, key: made.key, other: other.key };
        std::fs::write(secured.file("ca.pem"), secured.authority.cert())?;
        std::fs::write(secured.file("keys"), format!("{}\n{}\n", made.line, other.line))?;
        for (name, kind) in
            [("shard", Some(PeerKind::Shard)), ("coordinator", Some(PeerKind::Coordinator)), ("public", None)]
        {
            secured.issue(name, kind)?;
        }
        Ok(secured)
    }

    /// A file of the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The API key that may do everything.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The API key of another client that may do everything.
    pub fn other_key(&self) -> &str {
        &self.other
    }

    /// Writes a new certificate for loopback, `NAME.pem` and `NAME.key`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn issue(&self, name: &str, kind: Option<PeerKind>) -> Result<()> {
        self.issue_for(name, kind, "127.0.0.1", SystemTime::now())
    }

    /// An authority that nobody believes yet.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new_authority() -> Result<Authority> {
        Ok(Authority::new(DAY)?)
    }

    /// From now on `ca.pem` holds the first authority, if it is still `believed`, and `new`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn believe(&self, believed: bool, new: &Authority) -> Result<()> {
        let old = if believed { self.authority.cert() } else { "" };
        Ok(std::fs::write(self.file("ca.pem"), format!("{old}{}", new.cert()))?)
    }

    /// As [`Secured::issue`], by another authority.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn issue_by(&self, authority: &Authority, name: &str, kind: Option<PeerKind>) -> Result<()> {
        self.write(name, &authority.issue(name, kind, &["127.0.0.1".to_owned()], SystemTime::now(), DAY)?)
    }

    /// What a thief has: the certificate `name`, and the authority of now, in files of its own.
    ///
    /// # Errors
    /// If they cannot be copied.
    pub fn stolen(&self, name: &str) -> Result<PeerTls> {
        let taken = |file: String| -> Result<PathBuf> {
            let copy = self.file(&format!("stolen-{file}"));
            std::fs::copy(self.file(&file), &copy)?;
            Ok(copy)
        };
        let (cert, key) = (taken(format!("{name}.pem"))?, taken(format!("{name}.key"))?);
        Ok(PeerTls { cert, key, ca: taken("ca.pem".to_owned())? })
    }

    /// As [`Secured::issue`], for another host, and for a day from `begin` on.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn issue_for(&self, name: &str, kind: Option<PeerKind>, host: &str, begin: SystemTime) -> Result<()> {
        self.write(name, &self.authority.issue(name, kind, &[host.to_owned()], begin, DAY)?)
    }

    fn write(&self, name: &str, issued: &Issued) -> Result<()> {
        std::fs::write(self.file(&format!("{name}.key")), &issued.key)?;
        std::fs::write(self.file(&format!("{name}.pem")), &issued.cert)?;
        Ok(())
    }

    /// What a peer with the certificate `name` has.
    pub fn peer(&self, name: &str) -> PeerTls {
        let (cert, key) = (self.file(&format!("{name}.pem")), self.file(&format!("{name}.key")));
        PeerTls { cert, key, ca: self.file("ca.pem") }
    }

    /// Flags that make a process a peer with the certificate `name`.
    pub fn peer_flags(&self, name: &str) -> Vec<String> {
        let files = self.peer(name);
        let pairs = [("--peer-tls-cert", files.cert), ("--peer-tls-key", files.key), ("--peer-tls-ca", files.ca)];
        pairs.iter().flat_map(|(flag, file)| [(*flag).to_owned(), file.display().to_string()]).collect()
    }

    /// Flags of the public port.
    pub fn public_flags(&self) -> Vec<String> {
        let pairs = [("--tls-cert", "public.pem"), ("--tls-key", "public.key"), ("--api-keys", "keys")];
        pairs.iter().flat_map(|(flag, name)| [(*flag).to_owned(), self.file(name).display().to_string()]).collect()
    }

    /// A channel to a coordinator that believes this cluster's authority.
    ///
    /// # Errors
    /// If `address` is none.
    pub fn channel(&self, address: &str) -> Result<Channel> {
        let dialer = Dialer::client(&ServerTrust { ca: Some(self.file("ca.pem")) })?;
        Ok(dialer.endpoint(address)?.connect_timeout(Duration::from_secs(2)).connect_with_connector_lazy(dialer))
    }

    /// A channel to a shard node, as the peer with the certificate `name`.
    ///
    /// # Errors
    /// If `address` is none.
    pub fn peer_channel(&self, name: &str, address: &str) -> Result<Channel> {
        Self::peer_channel_with(&self.peer(name), address)
    }

    /// A channel to a shard node, with these files.
    ///
    /// # Errors
    /// If `address` is none, or the files cannot be used.
    pub fn peer_channel_with(files: &PeerTls, address: &str) -> Result<Channel> {
        let dialer = Dialer::peer(files)?;
        Ok(dialer.endpoint(address)?.connect_timeout(Duration::from_secs(2)).connect_with_connector_lazy(dialer))
    }
}
