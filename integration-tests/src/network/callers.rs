//! Which process owns the other end of a connection, by Linux's `/proc`.

use std::path::Path;

use super::Party;

/// Who connected from `port` to `our_port`, both on 127.0.0.1. `run_folder` has the pid files.
pub(super) fn caller(run_folder: &Path, port: u16, our_port: u16) -> Option<Party> {
    let sockets = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = inode(&sockets, port, our_port)?;
    let files = std::fs::read_dir(run_folder).ok()?.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let party = Party::named(name.strip_suffix(".pid")?)?;
        let pid = std::fs::read_to_string(entry.path()).ok()?.trim().parse().ok()?;
        Some((party, pid))
    });
    let mut parties = std::iter::once((Party::Test, std::process::id())).chain(files);
    parties.find(|(_, pid)| owns(*pid, inode)).map(|(party, _)| party)
}

/// The inode of the socket from `local` to `remote` in a table like `/proc/net/tcp`.
fn inode(table: &str, local: u16, remote: u16) -> Option<u64> {
    let port_of = |address: &str| u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok();
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (here, there, inode) = (fields.get(1)?, fields.get(2)?, fields.get(9)?);
        ((port_of(here)?, port_of(there)?) == (local, remote)).then(|| inode.parse().ok())?
    })
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
    fn reads_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 x\n\
             1: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 222 1 x\n\
             2: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 333 1 x\n";
        assert_eq!(inode(table, 50_000, 8080), Some(222));
        assert_eq!(inode(table, 8080, 50_000), Some(333));
        assert_eq!(inode(table, 50_001, 8080), None);
    }

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
