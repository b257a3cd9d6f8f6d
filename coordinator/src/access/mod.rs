//! Who may do what: credentials become a [`Caller`], a table says what each call needs, and a call's message says in
//! which collection. Everything is denied that is not allowed somewhere.
//!
//! The layer checks credentials and roles before a message is read; `api` checks the collection once it is.

mod audit;
mod caller;
mod client;
mod jwt;
pub mod keys;
mod layer;
mod rpcs;
mod scope;
mod share;

use std::path::PathBuf;
use std::sync::Arc;

use omma_common::error::{ApiError, Reason};
use omma_common::tls::Watched;
use tonic::codegen::http::HeaderMap;

pub(crate) use audit::{Deed, audit};
pub(crate) use caller::Caller;
pub use caller::{Role, UnknownRole};
pub(crate) use client::{Client, client_id};
pub use jwt::{JwtConfig, JwtError};
pub(crate) use layer::Guarded;
pub(crate) use scope::{Scope, Scoped};
pub(crate) use share::{Share, Shared, Shares};

use jwt::Tokens;
use keys::{Keys, KeysError};

/// Who is let in. With neither, everybody is.
#[derive(Debug, Clone, Default)]
pub struct AccessConfig {
    /// File of API keys.
    pub api_keys: Option<PathBuf>,
    /// Tokens of an identity provider.
    pub jwt: Option<JwtConfig>,
}

/// Credentials cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The file of keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Tokens.
    #[error(transparent)]
    Jwt(#[from] JwtError),
}

/// Checks credentials. Clones share the files, which are read anew when they change.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    keys: Option<Watched<Keys>>,
    tokens: Option<Watched<Tokens>>,
    anyone: Arc<Caller>,
}

impl Access {
    pub(crate) fn new(config: &AccessConfig) -> Result<Self, AccessError> {
        let keys = config.api_keys.as_ref().map(|file| Keys::watch(file)).transpose()?;
        let tokens = config.jwt.as_ref().map(JwtConfig::watch).transpose()?;
        Ok(Self { keys, tokens, anyone: Arc::new(Caller::anyone()) })
    }

    /// Whether callers have to say who they are.
    pub(crate) fn asks(&self) -> bool {
        self.keys.is_some() || self.tokens.is_some()
    }

    /// Who sent these headers.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Result<Arc<Caller>, ApiError> {
        if !self.asks() {
            return Ok(self.anyone.clone());
        }
        let credential = bearer(headers).ok_or_else(|| refused("it has no credentials"))?;
        self.holder(credential).map(Arc::new)
    }

    /// Who a credential belongs to.
    pub(crate) fn holder(&self, credential: &str) -> Result<Caller, ApiError> {
        let caller = match (&self.keys, &self.tokens) {
            (Some(keys), _) if keys::is_key(credential) => keys.get().holder(credential),
            (_, Some(tokens)) if !keys::is_key(credential) => tokens
                .get()
                .holder(credential)
                .map_err(|problem| {
                    tracing::debug!(%problem, "refused a token");
                })
                .ok(),
            _ => None,
        };
        // One answer for all: which part was wrong is nothing that a stranger needs to know.
        caller.ok_or_else(|| refused("its credentials are not known here, or have expired"))
    }
}

/// The value of the header `authorization`; `None` if there are several.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all("authorization").iter();
    let (only, None) = (all.next()?, all.next()) else { return None };
    credential(only.to_str().ok()?)
}

/// The credential in `Bearer …`.
pub(crate) fn credential(header: &str) -> Option<&str> {
    let (scheme, credential) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(credential.trim())
}

fn refused(why: &str) -> ApiError {
    let text = format!("the call was refused: {why}; send an API key or a token as the header authorization: Bearer …");
    ApiError::new(Reason::Unauthenticated, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bearer_credential_is_read() {
        let headers = |all: &[&str]| {
            let mut headers = HeaderMap::new();
            for one in all {
                headers.append("authorization", one.parse().unwrap());
            }
            headers
        };
        assert_eq!(bearer(&headers(&["Bearer a.b"])), Some("a.b"));
        assert_eq!(bearer(&headers(&["bearer  x"])), Some("x"));
        for bad in [&[][..], &["Basic x"], &["x"], &["Bearer a", "Bearer b"]] {
            assert_eq!(bearer(&headers(bad)), None, "{bad:?}");
        }
    }
}
