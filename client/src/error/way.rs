//! What went wrong between here and the server, read from the errors below a status.

use std::error::Error;
use std::io::{self, ErrorKind};

use omma_common::tls::Obstacle;
use tonic::TimeoutExpired;

/// Where a call got stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The server's name has no address.
    Name,
    /// Nobody listens at the address.
    Refused,
    /// Nobody answers there, not even with a refusal.
    Unreachable,
    /// The two sides did not agree on TLS.
    Tls,
    /// There was a connection, and it broke.
    Broken,
    /// The connection is there, and nothing comes.
    Silent,
}

impl Failure {
    /// Whether there never was a connection.
    pub(super) fn before_connecting(self) -> bool {
        !matches!(self, Self::Broken | Self::Silent)
    }

    /// What `error` was caused by.
    pub(super) fn of(error: &(dyn Error + 'static)) -> Self {
        causes(error).find_map(|cause| of_io(cause.downcast_ref()?)).unwrap_or(Self::Broken)
    }
}

/// Whether tonic gave the call up, because its deadline passed.
pub(super) fn is_late(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|cause| cause.is::<TimeoutExpired>())
}

fn of_io(error: &io::Error) -> Option<Failure> {
    let obstacle = error.get_ref().and_then(|inner| inner.downcast_ref::<Obstacle>());
    match (obstacle, error.kind()) {
        (Some(Obstacle::Name { .. }), _) => Some(Failure::Name),
        (Some(Obstacle::Tls { .. }), _) => Some(Failure::Tls),
        (None, ErrorKind::ConnectionRefused) => Some(Failure::Refused),
        (None, ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => {
            Some(Failure::Unreachable)
        }
        (None, _) => None,
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// An error and what caused it, without repetitions: "transport error: tcp connect error: Connection refused".
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("wrapped")]
    struct Wrapped(#[source] io::Error);

    #[test]
    fn failures_are_read_from_whatever_is_below() {
        let of = |kind: ErrorKind| Failure::of(&Wrapped(kind.into()));
        assert_eq!(of(ErrorKind::ConnectionRefused), Failure::Refused);
        assert_eq!(of(ErrorKind::TimedOut), Failure::Unreachable);
        assert_eq!(of(ErrorKind::NetworkUnreachable), Failure::Unreachable);
        assert_eq!(of(ErrorKind::ConnectionReset), Failure::Broken);
        let eof = || io::Error::from(ErrorKind::UnexpectedEof);
        let refused = || io::Error::from(ErrorKind::ConnectionRefused);
        assert_eq!(Failure::of(&Wrapped(Obstacle::Tls { source: eof() }.into())), Failure::Tls);
        let name = Obstacle::Name { host: "x".into(), source: refused() };
        assert_eq!(Failure::of(&Wrapped(name.into())), Failure::Name);
        assert!(is_late(&TimeoutExpired(())) && !is_late(&Wrapped(eof())));
    }
}
