//! Which socket has a connection: asks the kernel for the one (`sock_diag(7)`). Its table `/proc/net/tcp` takes
//! milliseconds to read, however few connections there are.

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, send, socket};

const HEADER: usize = 16;
/// Bytes of `inet_diag_req_v2`.
const REQUEST: usize = 56;
/// Where an answer has the inode: behind the header, at the end of `inet_diag_msg`.
const INODE: std::ops::Range<usize> = HEADER + 68..HEADER + 72;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const IS_REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const TCP: u8 = 6;

/// The inode of the TCP socket from `local` to `remote`, both on 127.0.0.1; `None` if there is none.
pub(super) fn inode(local: u16, remote: u16) -> Option<u64> {
    let netlink = socket(AddressFamily::NETLINK, SocketType::DGRAM, Some(netlink::SOCK_DIAG)).ok()?;
    send(&netlink, &question(local, remote), SendFlags::empty()).ok()?;
    let mut answer = [0; 1 << 12];
    // The kernel has answered already, or never will.
    let (_, length) = recv(&netlink, &mut answer, RecvFlags::DONTWAIT).ok()?;
    let answer = answer.get(..length)?;
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let inode = u32::from_ne_bytes(answer.get(INODE)?.try_into().ok()?);
    (kind == SOCK_DIAG_BY_FAMILY && inode != 0).then_some(inode.into())
}

/// `nlmsghdr` and `inet_diag_req_v2`: numbers as this machine writes them, ports and addresses as the network does.
fn question(local: u16, remote: u16) -> Vec<u8> {
    let loopback = [127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    bytes.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(IS_REQUEST.to_ne_bytes());
    // Sequence number and sender: there is but one question.
    bytes.extend([0; 8]);
    bytes.extend([AF_INET, TCP, 0, 0]);
    // In any state.
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(local.to_be_bytes());
    bytes.extend(remote.to_be_bytes());
    bytes.extend(loopback);
    bytes.extend(loopback);
    // Any interface, no cookie.
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend([u8::MAX; 8]);
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn both_ends_of_a_connection_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let (here, there) = (client.local_addr().unwrap().port(), client.peer_addr().unwrap().port());
        for (socket, from, to) in [(&client, here, there), (&server, there, here)] {
            let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
            assert_eq!(link.to_str().unwrap(), format!("socket:[{}]", inode(from, to).unwrap()));
        }
        drop((client, server));
        assert_eq!(inode(1, there), None);
    }
}
