//! Free ports, below the ephemeral range: a killed node's port must still be free when it is started again, and the
//! kernel hands out ephemeral ports to any outgoing connection meanwhile.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

use anyhow::{Context, Result};
use rand::Rng;

const FIRST: u16 = 12_000;
const LAST: u16 = 31_999;
const TRIES: usize = 1_000;

/// Handed out by this process before.
static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A port on loopback that nobody listens on and that this function has not returned before.
///
/// # Errors
/// If none was found in a thousand tries.
pub fn free_port() -> Result<u16> {
    let mut guard = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let taken = guard.get_or_insert_with(HashSet::new);
    let mut rng = rand::rng();
    (0..TRIES)
        .map(|_| rng.random_range(FIRST..=LAST))
        .find(|&port| !taken.contains(&port) && is_free(port))
        .inspect(|&port| {
            taken.insert(port);
        })
        .context("found no free port on loopback")
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_hands_out_a_port_twice() {
        let ports: HashSet<u16> = (0..50).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 50);
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_not_free() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(!is_free(listener.local_addr().unwrap().port()));
    }
}
