use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header, encode};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};

use super::*;
use crate::access::Role;

struct Issuer {
    pair: KeyPair,
    kid: &'static str,
}

fn b64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

impl Issuer {
    fn new(kid: &'static str) -> Self {
        Self { pair: KeyPair::generate().unwrap(), kid }
    }

    fn jwk(&self) -> Value {
        let point = self.pair.der_bytes();
        json!({ "kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig", "x": b64(&point[1..33]), "y": b64(&point[33..]) })
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.kid.into());
        encode(&header, claims, &EncodingKey::from_ec_der(self.pair.serialized_der())).unwrap()
    }
}

fn config(keys: &Value, name: &str) -> JwtConfig {
    let jwks = std::env::temp_dir().join(format!("omma-jwks-{}-{name}", std::process::id()));
    std::fs::write(&jwks, keys.to_string()).unwrap();
    JwtConfig { issuer: "https://id.example".into(), audience: "omma".into(), jwks }
}

fn claims() -> Value {
    json!({
        "sub": "ann", "iss": "https://id.example", "aud": ["omma", "other"], "exp": now() + 60,
        "omma_roles": ["read", "root"], "omma_collections": ["photos"],
    })
}

#[test]
fn a_token_for_us_says_who_and_what() {
    let issuer = Issuer::new("k1");
    let tokens = config(&json!({ "keys": [issuer.jwk()] }), "good").load().unwrap();
    let caller = tokens.holder(&issuer.sign(&claims())).unwrap();
    assert_eq!(caller.name.as_deref(), Some("jwt:ann"));
    assert!(caller.has(Role::Read).is_ok() && caller.has(Role::Admin).is_err());
    assert!(caller.sees("photos") && !caller.sees("shop"));
    // Says nothing of us: may do nothing.
    let bare = json!({ "sub": "ann", "iss": "https://id.example", "aud": "omma", "exp": now() + 60 });
    let caller = tokens.holder(&issuer.sign(&bare)).unwrap();
    assert!(caller.has(Role::Read).is_err() && !caller.sees("photos"));
}

#[test]
fn tokens_that_are_not_for_us_or_not_in_time_are_refused() {
    let issuer = Issuer::new("k1");
    let tokens = config(&json!({ "keys": [issuer.jwk()] }), "bad").load().unwrap();
    for (claim, value) in [
        ("iss", json!("https://evil.example")),
        ("iss", Value::Null),
        ("aud", json!("other")),
        ("aud", Value::Null),
        ("exp", json!(now() - 120)),
        ("exp", Value::Null),
        ("exp", json!((now() + 60).to_string())),
        ("nbf", json!(now() + 120)),
        ("nbf", json!((now() + 120).to_string())),
        ("nbf", json!([now() + 120])),
        ("sub", json!("")),
        ("sub", json!("a\nb")),
        ("sub", Value::Null),
        ("omma_collections", json!(["*", "photos"])),
    ] {
        let mut claims = claims();
        match &value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(claim)),
            value => claims[claim] = value.clone(),
        }
        assert!(tokens.holder(&issuer.sign(&claims)).is_err(), "{claim} {value}");
    }
}

#[test]
fn only_signatures_of_the_issuers_keys_are_believed() {
    let (issuer, stranger) = (Issuer::new("k1"), Issuer::new("k1"));
    let tokens = config(&json!({ "keys": [issuer.jwk(), Issuer::new("k2").jwk()] }), "keys").load().unwrap();
    let good = issuer.sign(&claims());
    assert!(tokens.holder(&good).is_ok());
    assert!(tokens.holder(&stranger.sign(&claims())).is_err(), "another key with the same kid");
    assert!(tokens.holder(&Issuer { pair: issuer.pair, kid: "k3" }.sign(&claims())).is_err(), "an unknown kid");

    let parts: Vec<&str> = good.split('.').collect();
    let body = b64(json!({ "sub": "root", "iss": "https://id.example", "aud": "omma", "exp": now() + 60,
        "omma_roles": ["admin"], "omma_collections": ["*"] })
    .to_string()
    .as_bytes());
    let header = |alg: &str| b64(json!({ "alg": alg, "typ": "JWT", "kid": "k1" }).to_string().as_bytes());
    for forged in [
        format!("{}.{body}.{}", parts[0], parts[2]),
        format!("{}.{body}.", header("none")),
        format!("{}.{body}.{}", header("none"), parts[2]),
        format!("{}.{body}.{}", header("RS256"), parts[2]),
        // The public key as a shared secret.
        {
            let secret = EncodingKey::from_secret(tokens.keys[0].id.as_deref().unwrap().as_bytes());
            let header = Header { kid: Some("k1".into()), ..Header::new(Algorithm::HS256) };
            encode(&header, &claims(), &secret).unwrap()
        },
        format!("{}.{}", parts[0], parts[1]),
        String::new(),
        "..".to_owned(),
        format!("{good}{}", "A".repeat(MAX_TOKEN)),
    ] {
        assert!(tokens.holder(&forged).is_err(), "{forged:.80}");
    }
}

#[test]
fn a_new_key_set_is_taken_without_a_restart() {
    let (old, new) = (Issuer::new("k1"), Issuer::new("k2"));
    let config = config(&json!({ "keys": [old.jwk()] }), "rotated");
    let watched = config.watch().unwrap();
    let known = |issuer: &Issuer| watched.get().holder(&issuer.sign(&claims())).is_ok();
    assert!(known(&old) && !known(&new));
    // Another length, so that the change is seen even if the clock of the file system is coarse.
    std::fs::write(&config.jwks, json!({ "keys": [new.jwk(), Issuer::new("k3").jwk()] }).to_string()).unwrap();
    let begin = SystemTime::now();
    while !known(&new) {
        assert!(begin.elapsed().unwrap().as_secs() < 20, "the new key is not known");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(!known(&old), "the old key is still believed");
}

#[test]
fn key_sets_hold_public_keys_for_signatures() {
    let good = Issuer::new("k1").jwk();
    for (name, keys) in [
        ("none", json!({ "keys": [] })),
        ("shared", json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0", "kid": "k1" }] })),
        (
            "other-use",
            json!({ "keys": [{ "kty": "EC", "crv": "P-256", "use": "enc", "x": good["x"], "y": good["y"] }] }),
        ),
        (
            "other-alg",
            json!({ "keys": [{ "kty": "EC", "crv": "P-256", "alg": "RS256", "x": good["x"], "y": good["y"] }] }),
        ),
        ("no-json", json!("x")),
    ] {
        assert!(config(&keys, name).load().is_err(), "{name}");
    }
}

/// RFC 7517, section 5.
#[test]
fn keys_for_something_else_are_ignored() {
    let issuer = Issuer::new("k1");
    let mut encrypts = Issuer::new("k2").jwk();
    encrypts["use"] = json!("enc");
    let mut other_alg = Issuer::new("k3").jwk();
    other_alg["alg"] = json!("ECDH-ES");
    let odd = [
        encrypts,
        other_alg,
        json!({ "kty": "AKP", "alg": "ML-DSA-44", "pub": "AA", "kid": "k4" }),
        json!({ "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA", "kid": "k5" }),
        json!({ "kty": "EC", "crv": "P-256", "kid": "k6" }),
        json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "k7" }),
        json!({ "kid": "k8" }),
        json!("k9"),
    ];
    for (i, key) in odd.iter().enumerate() {
        let set = json!({ "keys": [key, issuer.jwk(), key] });
        let tokens = config(&set, &format!("odd-{i}")).load().unwrap();
        assert_eq!(tokens.keys.len(), 1, "{key}");
        assert!(tokens.holder(&issuer.sign(&claims())).is_ok(), "{key}");
        let alone = config(&json!({ "keys": [key, key] }), &format!("odd-alone-{i}")).load().map(drop);
        assert!(matches!(alone, Err(JwtError::NoKey { keys: 2, .. })), "{key}: {alone:?}");
    }
}
