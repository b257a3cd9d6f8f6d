//! `omma certs`: an authority and certificates, for a cluster that has no other source of them.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use omma_common::tls::PeerKind;
use omma_common::tls::issue::{Authority, IssueError};
use serde_json::json;

use super::Context;
use crate::exit::CliError;

const DAY: u64 = 86_400;
/// How much longer the authority lives than its certificates.
const AUTHORITY_DAYS: u64 = 3650;

/// Makes in FOLDER: ca.pem and ca.key (kept if they are there), and from them shard, coordinator and public, each as
/// .pem and .key.
#[derive(Debug, Args)]
pub(crate) struct CertsArgs {
    /// Where the files go.
    folder: PathBuf,
    /// Names and addresses that the processes are reached at; each certificate is good for all of them.
    #[arg(long, value_name = "HOST,…", value_delimiter = ',', default_value = "localhost,127.0.0.1,::1")]
    hosts: Vec<String>,
    /// How long the certificates are good.
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=3650))]
    days: u64,
}

pub(crate) fn run(context: &Context, args: CertsArgs) -> Result<(), CliError> {
    let failed = |e: IssueError| CliError::Failed(e.to_string());
    std::fs::create_dir_all(&args.folder).map_err(CliError::writing(&args.folder))?;
    let authority = authority(&args.folder)?;
    let kinds = [("shard", Some(PeerKind::Shard)), ("coordinator", Some(PeerKind::Coordinator)), ("public", None)];
    let life = Duration::from_secs(args.days * DAY);
    for (name, kind) in kinds {
        let issued = authority.issue(name, kind, &args.hosts, SystemTime::now(), life).map_err(failed)?;
        // The key first: whoever watches the files never sees a new certificate without its key for long.
        write_secret(&args.folder.join(format!("{name}.key")), &issued.key)?;
        write(&args.folder.join(format!("{name}.pem")), &issued.cert)?;
    }
    let folder = args.folder.display().to_string();
    context.output.result(
        || json!({ "folder": folder, "hosts": args.hosts, "days": args.days }),
        || {
            format!(
                "Certificates for {} are in {folder}, good for {} days. ca.key makes more of them: keep it off the \
                 servers.\nClients: --ca {folder}/ca.pem",
                args.hosts.join(", "),
                args.days
            )
        },
    )
}

/// The folder's, or a new one.
fn authority(folder: &Path) -> Result<Authority, CliError> {
    let failed = |e: IssueError| CliError::Failed(e.to_string());
    let (cert, key) = (folder.join("ca.pem"), folder.join("ca.key"));
    match (cert.exists(), key.exists()) {
        (true, true) => {
            let text = |path: &Path| std::fs::read_to_string(path).map_err(CliError::reading(path));
            Authority::open(text(&cert)?, &text(&key)?).map_err(failed)
        }
        (false, false) => {
            let made = Authority::new(Duration::from_secs(AUTHORITY_DAYS * DAY)).map_err(failed)?;
            write_secret(&key, &made.key())?;
            write(&cert, made.cert())?;
            Ok(made)
        }
        _ => {
            let text = "holds one of ca.pem and ca.key and not the other: restore it, or choose another folder";
            Err(CliError::Usage(format!("{} {text}", folder.display())))
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), CliError> {
    replace(path, text, 0o644)
}

fn write_secret(path: &Path, text: &str) -> Result<(), CliError> {
    replace(path, text, 0o600)
}

/// Written beside and renamed: a server that watches it never reads half of it.
fn replace(path: &Path, text: &str, mode: u32) -> Result<(), CliError> {
    let beside = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
        #[cfg(not(unix))]
        let _ = mode;
        options.open(&beside)?.write_all(text.as_bytes())?;
        std::fs::rename(&beside, path)
    };
    write().map_err(CliError::writing(path))
}

#[cfg(test)]
mod tests {
    use omma_common::tls::args::{peer_dialer, peer_port};
    use omma_common::tls::{PeerTls, Plaintext};

    use super::*;
    use crate::output::Output;

    #[test]
    fn the_files_are_what_servers_take_and_the_authority_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let global = <crate::args::Cli as clap::Parser>::parse_from(["omma", "status"]).global;
        let context = Context { global, output: Output::new(false) };
        let args = || CertsArgs { folder: folder.path().to_owned(), hosts: vec!["localhost".into()], days: 1 };
        run(&context, args()).unwrap();
        let ca = std::fs::read_to_string(path("ca.pem")).unwrap();
        let first = std::fs::read_to_string(path("shard.pem")).unwrap();
        run(&context, args()).unwrap();
        assert_eq!(std::fs::read_to_string(path("ca.pem")).unwrap(), ca);
        assert_ne!(std::fs::read_to_string(path("shard.pem")).unwrap(), first);
        for name in ["shard", "coordinator"] {
            let (cert, key) = (path(&format!("{name}.pem")), path(&format!("{name}.key")));
            let files = PeerTls { cert, key, ca: path("ca.pem") };
            peer_dialer(Some(&files), Plaintext::Loopback, &[]).unwrap();
            peer_port(Some(&files), Plaintext::Loopback, ([0, 0, 0, 0], 1).into()).unwrap();
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(path("ca.key")).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{mode:o}");
        }
        std::fs::remove_file(path("ca.key")).unwrap();
        assert!(matches!(run(&context, args()), Err(CliError::Usage(_))));
    }
}
