//! Where connections may go without TLS.

use std::net::{IpAddr, SocketAddr};

/// Which connections may be plain TCP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Plaintext {
    /// Those that do not leave this machine.
    #[default]
    Loopback,
    /// All: somebody asked for it by name.
    Anywhere,
}

/// A process would speak plaintext with other machines, and nobody asked for that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {address} is not on loopback and has no TLS: give {flags} (`omma certs new` makes certificates), or accept \
     that everybody on the network can read and write with --insecure-plaintext"
)]
pub struct PlaintextRefused {
    what: &'static str,
    address: String,
    flags: &'static str,
}

impl Plaintext {
    /// As the flag `--insecure-plaintext` says.
    pub fn from_flag(insecure: bool) -> Self {
        if insecure { Self::Anywhere } else { Self::Loopback }
    }

    /// Whether plain TCP may go to or come from `address`.
    pub fn allows(self, address: IpAddr) -> bool {
        self == Self::Anywhere || address.to_canonical().is_loopback()
    }

    /// Whether a port at `address` may be open without TLS. `flags` are those that would give it.
    ///
    /// # Errors
    /// If it may not, with what to do.
    pub fn check_listen(self, address: SocketAddr, flags: &'static str) -> Result<(), PlaintextRefused> {
        match self.allows(address.ip()) {
            true => Ok(()),
            false => Err(PlaintextRefused { what: "the listening address", address: address.to_string(), flags }),
        }
    }

    /// Whether `address` (`host:port`) may be dialled without TLS. Only `localhost` and literal addresses are known to
    /// be on loopback before they are resolved.
    ///
    /// # Errors
    /// If it may not, with what to do.
    pub fn check_dial(self, address: &str, flags: &'static str) -> Result<(), PlaintextRefused> {
        if self == Self::Anywhere || is_loopback(address) {
            return Ok(());
        }
        Err(PlaintextRefused { what: "the shard node", address: address.to_owned(), flags })
    }
}

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_stays_at_home_unless_it_is_asked_for() {
        for (address, home) in [
            ("127.0.0.1:1", true),
            ("localhost:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
            ("127.0.0.1.evil.example:1", false),
            ("shard-0:1", false),
        ] {
            assert_eq!(Plaintext::Loopback.check_dial(address, "").is_ok(), home, "{address}");
            assert!(Plaintext::Anywhere.check_dial(address, "").is_ok());
            if let Ok(address) = address.parse::<SocketAddr>() {
                assert_eq!(Plaintext::Loopback.check_listen(address, "").is_ok(), home, "{address}");
            }
        }
        let error = Plaintext::Loopback.check_listen(([0, 0, 0, 0], 7700).into(), "--tls-cert and --tls-key");
        let text = error.unwrap_err().to_string();
        assert!(text.contains("0.0.0.0:7700") && text.contains("--tls-cert") && text.contains("--insecure-plaintext"));
    }
}
