//! Which process owns the other end of a connection, by Linux's `sock_diag` and `/proc`.

use std::path::Path;

use super::Party;
use super::sockets::inode;

/// Who connected from `port` to `our_port`, both on 127.0.0.1. `run_folder` has the pid files.
pub(super) fn caller(run_folder: &Path, port: u16, our_port: u16) -> Option<Party> {
    let inode = inode(port, our_port)?;
    let files = std::fs::read_dir(run_folder).ok()?.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let party = Party::named(name.strip_suffix(".pid")?)?;
        let pid = std::fs::read_to_string(entry.path()).ok()?.trim().parse().ok()?;
        Some((party, pid))
    });
    let mut parties = std::iter::once((Party::Test, std::process::id())).chain(files);
    parties.find(|(_, pid)| owns(*pid, inode)).map(|(party, _)| party)
}

fn owns(pid: u32, inode: u64) -> bool {
    let wanted = format!("socket:[{inode}]");
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_ourselves() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let from = client.local_addr().unwrap().port();
        let folder = std::env::temp_dir();
        assert_eq!(caller(&folder, from, port), Some(Party::Test));
        drop(client);
        assert_eq!(caller(&folder, 1, port), None);
    }
}
