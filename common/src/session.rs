//! Session tokens: which applied indexes a later read must reach, as opaque bytes.

use std::collections::BTreeMap;

use omma_proto::v1::SessionToken;

use crate::ids::GroupId;

/// First byte of a token. Tokens are short-lived, but old clients may hold one over an upgrade.
const FORMAT: u8 = 1;
const PAIR: usize = 12;
/// Tokens longer than this are refused: a cluster has fewer groups.
const MAX_PAIRS: usize = 4096;

/// A token that this version cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a session token that a write returned")]
pub struct InvalidToken;

/// Group → applied index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session(BTreeMap<GroupId, u64>);

impl Session {
    /// Requires `group` to have applied `index`.
    pub fn require(&mut self, group: GroupId, index: u64) {
        let seen = self.0.entry(group).or_default();
        *seen = index.max(*seen);
    }

    /// The applied index that a read of `group` must reach; 0 if any will do.
    pub fn required(&self, group: GroupId) -> u64 {
        self.0.get(&group).copied().unwrap_or(0)
    }

    /// Joins the tokens of several writes.
    pub fn from_tokens(tokens: &[SessionToken]) -> Result<Self, InvalidToken> {
        let mut session = Self::default();
        for token in tokens {
            let (&format, pairs) = token.value.split_first().ok_or(InvalidToken)?;
            if format != FORMAT || pairs.len() % PAIR != 0 || pairs.len() / PAIR > MAX_PAIRS {
                return Err(InvalidToken);
            }
            for pair in pairs.as_chunks::<PAIR>().0 {
                let (group, index) = pair.split_at(4);
                let group = group.try_into().map(u32::from_le_bytes).map_err(|_| InvalidToken)?;
                let index = index.try_into().map(u64::from_le_bytes).map_err(|_| InvalidToken)?;
                session.require(group, index);
            }
        }
        Ok(session)
    }

    /// As a write returns it.
    pub fn to_token(&self) -> SessionToken {
        let mut value = vec![FORMAT];
        for (group, index) in &self.0 {
            value.extend(group.to_le_bytes());
            value.extend(index.to_le_bytes());
        }
        SessionToken { value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn joins_to_the_largest(pairs in prop::collection::vec((0u32..5, any::<u64>()), 0..20)) {
            let tokens: Vec<_> = pairs.iter().map(|&(g, i)| { let mut s = Session::default(); s.require(g, i); s.to_token() }).collect();
            let joined = Session::from_tokens(&tokens).unwrap();
            for g in 0..5 {
                let max = pairs.iter().filter(|p| p.0 == g).map(|p| p.1).max().unwrap_or(0);
                prop_assert_eq!(joined.required(g), max);
            }
        }

        #[test]
        fn random_bytes_never_panic(value in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Session::from_tokens(&[SessionToken { value }]);
        }
    }
}
