//! Which client a piece of work is for, so that each gets its share: a number that follows the work.

use std::net::SocketAddr;

use omma_common::serve::Origin;

use super::caller::Caller;

tokio::task_local! {
    static CLIENT: Client;
}

/// Tells one client from another: by its name, or where names are not asked for by its address: of IPv6, by what
/// one customer of a provider has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Client(pub(crate) u64);

impl Client {
    pub(crate) fn of(caller: &Caller, address: Option<SocketAddr>) -> Self {
        let text = match (&caller.name, address) {
            (Some(name), _) => name.clone(),
            (None, Some(address)) => Origin::of(address.ip()).to_string(),
            (None, None) => return Self(0),
        };
        let hash = blake3::hash(text.as_bytes());
        let (first, _) = hash.as_bytes().as_chunks::<8>();
        Self(first.first().map_or(0, |bytes| u64::from_le_bytes(*bytes)))
    }

    /// Does `work` for this client.
    pub(crate) fn doing<T>(self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        CLIENT.scope(self, work)
    }
}

/// The client of the work that is under way; 0 if it is nobody's.
pub(crate) fn client_id() -> u64 {
    CLIENT.try_with(|client| client.0).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clients_are_told_apart_by_name_or_else_by_address() {
        let named = |name: &str| Caller { name: Some(name.into()), ..Caller::anyone() };
        let at = |text: &str| Some(text.parse().unwrap());
        assert_eq!(Client::of(&named("a"), at("1.1.1.1:1")), Client::of(&named("a"), at("2.2.2.2:2")));
        assert_ne!(Client::of(&named("a"), None), Client::of(&named("b"), None));
        let anyone = Caller::anyone();
        assert_eq!(Client::of(&anyone, at("1.1.1.1:1")), Client::of(&anyone, at("1.1.1.1:2")));
        assert_ne!(Client::of(&anyone, at("1.1.1.1:1")), Client::of(&anyone, at("1.1.1.2:1")));
        assert_eq!(Client::of(&anyone, at("[2001:db8::1]:1")), Client::of(&anyone, at("[2001:db8::ffff:2]:1")));
        assert_ne!(Client::of(&anyone, at("[2001:db8::1]:1")), Client::of(&anyone, at("[2001:db8:0:1::1]:1")));
        assert_eq!(client_id(), 0);
        assert_eq!(Client(7).doing(async { client_id() }).await, 7);
    }
}
