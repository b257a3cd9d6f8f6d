//! Tokens of an identity provider (JWT, RFC 7519): signed by one of the keys in a file, for us, by the issuer that we
//! know, and in time. Only signatures with public keys are taken: never `none`, never a shared secret.

use std::collections::BTreeSet;
use std::path::PathBuf;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use omma_common::tls::{Kept, Watched};
use serde::Deserialize;

use super::caller::{Caller, Collections};

/// How far clocks may differ, in seconds.
const LEEWAY: u64 = 30;
/// Largest token that is looked at, in bytes.
const MAX_TOKEN: usize = 8 << 10;
/// Longest subject, in bytes: it goes into logs.
const MAX_SUBJECT: usize = 256;

/// Which tokens are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtConfig {
    /// `iss` must be this.
    pub issuer: String,
    /// `aud` must have this.
    pub audience: String,
    /// File with the issuer's public keys, a JSON Web Key Set (RFC 7517).
    pub jwks: PathBuf,
}

/// The file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    /// It cannot be read.
    #[error("cannot read the key set {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It holds no key that can be used.
    #[error("none of the {keys} keys of the key set {} can be used; the first {problem}", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// How many it holds.
        keys: usize,
        /// Of the first, continues the sentence.
        problem: String,
    },
}

/// A JSON Web Key Set, whatever its keys are.
#[derive(Deserialize)]
struct KeySet {
    keys: Vec<serde_json::Value>,
}

struct TokenKey {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// Checks tokens.
pub(crate) struct Tokens {
    issuer: String,
    audience: String,
    keys: Vec<TokenKey>,
}

#[derive(Debug, Deserialize)]
struct Claims {
    sub: String,
    /// Read here so that it is a number: the library takes one of another type for one that is not there
    /// (CVE-2026-25537). What it must be, the library checks.
    #[serde(default, rename = "nbf")]
    _nbf: Option<f64>,
    #[serde(default)]
    omma_roles: Vec<String>,
    #[serde(default)]
    omma_collections: Vec<String>,
}

impl JwtConfig {
    pub(super) fn watch(&self) -> Result<Watched<Tokens>, JwtError> {
        let config = self.clone();
        Watched::over(Kept::KeySet, vec![self.jwks.clone()], move || config.load())
    }

    fn load(&self) -> Result<Tokens, JwtError> {
        let read = |reason: String| JwtError::Read { path: self.jwks.clone(), reason };
        let text = std::fs::read(&self.jwks).map_err(|e| read(e.to_string()))?;
        let set: KeySet = serde_json::from_slice(&text).map_err(|e| read(e.to_string()))?;
        let (count, mut keys, mut problem) = (set.keys.len(), Vec::new(), None);
        for key in set.keys {
            match token_key(key) {
                Ok(key) => keys.push(key),
                // RFC 7517, 5: keys that are not understood, or meant for something else, are ignored.
                Err(why) => drop(problem.get_or_insert(why)),
            }
        }
        if keys.is_empty() {
            let problem = problem.ok_or_else(|| read("it holds no keys".to_owned()))?;
            return Err(JwtError::NoKey { path: self.jwks.clone(), keys: count, problem });
        }
        if let Some(first) = problem {
            let (file, ignored) = (self.jwks.display(), count - keys.len());
            tracing::warn!(%file, ignored, of = count, "keys of the key set are ignored; the first of them {first}");
        }
        Ok(Tokens { issuer: self.issuer.clone(), audience: self.audience.clone(), keys })
    }
}

/// The key, or why it is none for us: continues "the key …".
fn token_key(key: serde_json::Value) -> Result<TokenKey, String> {
    let jwk: Jwk = serde_json::from_value(key).map_err(|_| "is of a kind that is not known".to_owned())?;
    if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
        return Err("is not for signatures".to_owned());
    }
    let possible = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => {
            use Algorithm::{PS256, PS384, PS512, RS256, RS384, RS512};
            vec![RS256, RS384, RS512, PS256, PS384, PS512]
        }
        AlgorithmParameters::EllipticCurve(p) if p.curve == EllipticCurve::P256 => vec![Algorithm::ES256],
        AlgorithmParameters::EllipticCurve(p) if p.curve == EllipticCurve::P384 => vec![Algorithm::ES384],
        AlgorithmParameters::OctetKeyPair(p) if p.curve == EllipticCurve::Ed25519 => vec![Algorithm::EdDSA],
        AlgorithmParameters::OctetKey(_) => {
            return Err("is a shared secret; only public keys are taken".to_owned());
        }
        _ => return Err("is of a kind that is not supported".to_owned()),
    };
    let named = jwk.common.key_algorithm.as_ref().map(KeyAlgorithm::to_string);
    let algorithms: Vec<_> =
        possible.into_iter().filter(|a| named.as_ref().is_none_or(|name| *name == format!("{a:?}"))).collect();
    if algorithms.is_empty() {
        return Err(format!("says that it is for {}, which does not fit it", named.unwrap_or_default()));
    }
    let key = DecodingKey::from_jwk(&jwk).map_err(|e| format!("cannot be read: {e}"))?;
    Ok(TokenKey { id: jwk.common.key_id.clone(), algorithms, key })
}

impl Tokens {
    /// Whose token it is, or why it is none. The reason is for the log only.
    pub(super) fn holder(&self, token: &str) -> Result<Caller, String> {
        if token.len() > MAX_TOKEN {
            return Err(format!("it is {} bytes long", token.len()));
        }
        let header = decode_header(token).map_err(|e| e.to_string())?;
        let key = self.key(header.kid.as_deref()).ok_or("no key of the set has its kid")?;
        // The key says what may be used with it, not the token.
        if !key.algorithms.contains(&header.alg) {
            return Err(format!("its key is not for {:?}", header.alg));
        }
        let mut rules = Validation::new(header.alg);
        rules.leeway = LEEWAY;
        rules.validate_nbf = true;
        rules.set_issuer(&[&self.issuer]);
        rules.set_audience(&[&self.audience]);
        rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let claims = decode::<Claims>(token, &key.key, &rules).map_err(|e| e.to_string())?.claims;
        if claims.sub.is_empty() || claims.sub.len() > MAX_SUBJECT || claims.sub.chars().any(char::is_control) {
            return Err("its sub is no name".to_owned());
        }
        // Roles of other services may stand beside ours.
        let roles: BTreeSet<_> = claims.omma_roles.iter().filter_map(|role| role.parse().ok()).collect();
        let collections = Collections::parse(claims.omma_collections.iter().map(String::as_str))?;
        Ok(Caller { name: Some(format!("jwt:{}", claims.sub)), roles, collections })
    }

    fn key(&self, id: Option<&str>) -> Option<&TokenKey> {
        match (id, self.keys.as_slice()) {
            (Some(id), keys) => keys.iter().find(|key| key.id.as_deref() == Some(id)),
            // Which one is clear if there is one.
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }
}

#[cfg(test)]
mod tests;
