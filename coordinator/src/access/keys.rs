//! API keys: a file of hashes, one a line.
//!
//! A key is `omma.ID.SECRET`, where the secret is 256 random bits. The file keeps the SHA-256 of the whole key. A slow,
//! salted hash is for passwords, which can be guessed; 256 random bits cannot, and a fast one costs nothing per call.
//!
//! ```text
//! # id   hash           roles       collections  expires
//! alice  sha256:4f0c…   read,write  photos,shop  2027-06-30T00:00:00Z
//! ops    sha256:99a1…   admin       *            never
//! ```
//!
//! Several lines may have the same id: a new key is added beside the old one, and that is removed later.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use omma_common::ids::check_collection_name;
use omma_common::tls::{Kept, Watched};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::caller::{Caller, Collections, Role};

const PREFIX: &str = "omma.";
const HASH_PREFIX: &str = "sha256:";
/// Largest file, in bytes: some ten thousand keys.
const MAX_FILE: u64 = 2 << 20;

/// A file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// It cannot be read.
    #[error("cannot read the API keys in {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is larger than any such file should be.
    #[error("the file of API keys {} is larger than {MAX_FILE} bytes", .0.display())]
    TooLarge(PathBuf),
    /// A line is none.
    #[error("line {line} of the API keys in {}: {problem}; a line is ID sha256:HASH ROLES COLLECTIONS EXPIRES", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
}

/// A key cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NewKeyError {
    /// Its id.
    #[error("the id {id:?} {problem}")]
    Id {
        /// As given.
        id: String,
        /// Why not.
        problem: omma_common::ids::InvalidName,
    },
    /// Its collections.
    #[error("{0}")]
    Collections(String),
    /// It could do nothing.
    #[error("a key without a role can do nothing: give it read, write or admin")]
    NoRole,
}

/// A new key: what its owner is given, and the line that lets the owner in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// To be kept secret. It cannot be found out again from the line.
    pub key: String,
    /// For the file of keys.
    pub line: String,
}

/// Makes a key for `id` that expires at `expires`, if at all. `collections` are names, or `*` alone.
///
/// # Errors
/// If the id or a collection is no name, or there is no role.
pub fn new_key(
    id: &str,
    roles: &[Role],
    collections: &[String],
    expires: Option<SystemTime>,
) -> Result<NewKey, NewKeyError> {
    check_collection_name(id).map_err(|problem| NewKeyError::Id { id: id.to_owned(), problem })?;
    if roles.is_empty() {
        return Err(NewKeyError::NoRole);
    }
    Collections::parse(collections.iter().map(String::as_str)).map_err(NewKeyError::Collections)?;
    let secret: [u8; 32] = rand::random();
    let key = format!("{PREFIX}{id}.{}", URL_SAFE_NO_PAD.encode(secret));
    let roles: Vec<&str> = roles.iter().map(|role| role.name()).collect();
    let expires =
        expires.map_or_else(|| "never".to_owned(), |time| humantime::format_rfc3339_seconds(time).to_string());
    let hash = hash(&key).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    let line = format!("{id} {HASH_PREFIX}{hash} {} {} {expires}", roles.join(","), collections.join(","));
    Ok(NewKey { key, line })
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// Whether a credential looks like a key, and not like a token.
pub(super) fn is_key(credential: &str) -> bool {
    credential.starts_with(PREFIX)
}

#[derive(Debug)]
struct Entry {
    id: String,
    hash: [u8; 32],
    expires: Option<SystemTime>,
    caller: Caller,
}

/// All keys of a file.
#[derive(Debug, Default)]
pub(crate) struct Keys(Vec<Entry>);

impl Keys {
    pub(super) fn watch(path: &Path) -> Result<Watched<Self>, KeysError> {
        let file = path.to_owned();
        Watched::over(Kept::ApiKeys, vec![path.to_owned()], move || Self::load(&file))
    }

    fn load(path: &Path) -> Result<Self, KeysError> {
        let read = |source| KeysError::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(read)?.len() > MAX_FILE {
            return Err(KeysError::TooLarge(path.to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        Self::parse(&text).map_err(|(line, problem)| KeysError::Line { path: path.to_owned(), line, problem })
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut entries = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                entries.push(entry(line).map_err(|problem| (i + 1, problem))?);
            }
        }
        Ok(Self(entries))
    }

    /// Whose key it is; `None` if nobody's, or if it has expired.
    pub(super) fn holder(&self, key: &str) -> Option<Caller> {
        let (id, _) = key.strip_prefix(PREFIX)?.split_once('.')?;
        let given = hash(key);
        let mut found = None;
        // Ids are no secret. Hashes are compared in constant time, all of them.
        for entry in self.0.iter().filter(|entry| entry.id == id) {
            if bool::from(entry.hash.ct_eq(&given)) {
                found = Some(entry);
            }
        }
        found.filter(|entry| entry.expires.is_none_or(|expires| SystemTime::now() < expires)).map(|e| e.caller.clone())
    }
}

fn entry(line: &str) -> Result<Entry, String> {
    let mut columns = line.split_whitespace();
    let mut next = |what: &str| columns.next().ok_or_else(|| format!("it has no {what}"));
    let (id, digest, roles, collections, expires) =
        (next("id")?, next("hash")?, next("roles")?, next("collections")?, next("time of expiry (or never)")?);
    if let Some(more) = columns.next() {
        return Err(format!("it goes on with {more:?}"));
    }
    check_collection_name(id).map_err(|problem| format!("its id {id:?} {problem}"))?;
    let digest = digest.strip_prefix(HASH_PREFIX).and_then(unhex).ok_or("its hash is not sha256: and 64 hex digits")?;
    let roles =
        roles.split(',').map(str::parse).collect::<Result<_, super::UnknownRole>>().map_err(|e| e.to_string())?;
    let collections = Collections::parse(collections.split(','))?;
    let expires = match expires {
        "never" => None,
        time => Some(humantime::parse_rfc3339(time).map_err(|e| format!("{time:?} is no time: {e}"))?),
    };
    let caller = Caller { name: Some(format!("key:{id}")), roles, collections };
    Ok(Entry { id: id.to_owned(), hash: digest, expires, caller })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let digit = |byte: u8| (byte as char).to_digit(16).map(|d| d as u8);
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(id: &str, expires: Option<SystemTime>) -> NewKey {
        new_key(id, &[Role::Read, Role::Write], &["photos".into()], expires).unwrap()
    }

    #[test]
    fn a_key_is_known_by_its_line_alone() {
        let (one, two, again) = (key("a", None), key("b", None), key("a", None));
        let keys = Keys::parse(&format!("# keys\n\n{}\n{}  # the second\n", one.line, two.line)).unwrap();
        let caller = keys.holder(&one.key).unwrap();
        assert_eq!(caller.name.as_deref(), Some("key:a"));
        assert!(caller.has(Role::Write).is_ok() && caller.has(Role::Admin).is_err());
        assert!(caller.sees("photos") && !caller.sees("shop"));
        assert_eq!(keys.holder(&two.key).unwrap().name.as_deref(), Some("key:b"));
        assert_eq!(keys.holder(&again.key), None, "same id, other secret");
        for bad in ["", "omma.", "omma.a", "omma.a.", "omma.a.x", &one.key[..one.key.len() - 1], &one.line] {
            assert_eq!(keys.holder(bad), None, "{bad}");
        }
        assert!(!one.line.contains(one.key.rsplit('.').next().unwrap()), "the line must not hold the secret");
    }

    #[test]
    fn an_old_and_a_new_key_of_one_id_are_both_good() {
        let (old, new) = (key("a", None), key("a", None));
        let keys = Keys::parse(&format!("{}\n{}", old.line, new.line)).unwrap();
        assert!(keys.holder(&old.key).is_some() && keys.holder(&new.key).is_some());
    }

    #[test]
    fn expired_keys_are_nobodys() {
        let now = SystemTime::now();
        let (gone, good) =
            (key("a", Some(now - Duration::from_secs(60))), key("b", Some(now + Duration::from_secs(60))));
        let keys = Keys::parse(&format!("{}\n{}", gone.line, good.line)).unwrap();
        assert!(keys.holder(&gone.key).is_none() && keys.holder(&good.key).is_some());
    }

    #[test]
    fn a_bad_line_is_named() {
        let good = key("a", None).line;
        let mut columns: Vec<&str> = good.split(' ').collect();
        for (column, bad) in [(0, "A"), (1, "sha256:00"), (1, "00"), (2, "root"), (3, "*,x"), (3, "A"), (4, "soon")] {
            let kept = std::mem::replace(&mut columns[column], bad);
            let (line, problem) = Keys::parse(&format!("{good}\n{}", columns.join(" "))).unwrap_err();
            assert_eq!(line, 2, "{problem}");
            columns[column] = kept;
        }
        for short in [1, 2, 3, 4] {
            assert!(Keys::parse(&columns[..short].join(" ")).is_err());
        }
        assert!(Keys::parse(&format!("{good} more")).is_err());
    }

    #[test]
    fn keys_that_make_no_sense_are_not_made() {
        assert!(matches!(new_key("A b", &[Role::Read], &["*".into()], None), Err(NewKeyError::Id { .. })));
        assert_eq!(new_key("a", &[], &["*".into()], None), Err(NewKeyError::NoRole));
        assert!(matches!(new_key("a", &[Role::Read], &["A".into()], None), Err(NewKeyError::Collections(_))));
    }
}
