//! A session: its reads see its writes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use omma_common::session::Session as Requirements;
use omma_proto::v1::SessionToken;

/// Most tokens kept that cannot be joined into one, because a newer server made them.
const MAX_FOREIGN: usize = 64;

/// Remembers the tokens of writes for later reads. Clones share what they remember.
///
/// Hand one to [`crate::Omma::with_session`], and read with `Consistency::Session`.
#[derive(Debug, Clone, Default)]
pub struct Session(Arc<Mutex<Vec<SessionToken>>>);

impl Session {
    /// A session that has written nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers what a write returned.
    pub fn record(&self, token: Option<&SessionToken>) {
        let Some(token) = token else { return };
        let mut tokens = self.lock();
        tokens.push(token.clone());
        match Requirements::from_tokens(&tokens) {
            Ok(joined) => *tokens = vec![joined.to_token()],
            // Tokens are opaque to old clients of new servers: keep them apart, the newest ones.
            Err(_) if tokens.len() > MAX_FOREIGN => drop(tokens.remove(0)),
            Err(_) => {}
        }
    }

    /// What a read must hand in.
    pub fn tokens(&self) -> Vec<SessionToken> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SessionToken>> {
        // Nothing that holds the lock can leave the list half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(group: u32, index: u64) -> SessionToken {
        let mut requirements = Requirements::default();
        requirements.require(group, index);
        requirements.to_token()
    }

    #[test]
    fn many_writes_make_one_token() {
        let session = Session::new();
        for (group, index) in [(1, 5), (2, 7), (1, 9), (1, 3)] {
            session.record(Some(&token(group, index)));
        }
        session.record(None);
        let tokens = session.clone().tokens();
        let joined = Requirements::from_tokens(&tokens).unwrap();
        assert_eq!((tokens.len(), joined.required(1), joined.required(2)), (1, 9, 7));
    }

    #[test]
    fn tokens_of_another_format_are_kept_but_bounded() {
        let session = Session::new();
        for n in 0..100u8 {
            session.record(Some(&SessionToken { value: vec![200, n] }));
        }
        let tokens = session.tokens();
        assert_eq!((tokens.len(), tokens[MAX_FOREIGN - 1].value[1]), (MAX_FOREIGN, 99));
    }
}
