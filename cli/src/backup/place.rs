//! Where a backup is: a folder, or a prefix of a bucket.

use std::fmt;
use std::path::{Path, PathBuf};

const BUCKET: &str = "s3://";

/// A folder, or `s3://BUCKET/PREFIX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// On this machine.
    Folder(PathBuf),
    /// In an object store.
    Bucket {
        /// Its name.
        name: String,
        /// What the names of its objects begin with, without slashes at the ends; may be empty.
        prefix: String,
    },
}

/// No place for a backup.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no place for a backup: {why}; write a folder, or s3://BUCKET/PREFIX")]
pub(crate) struct InvalidPlace {
    text: String,
    why: &'static str,
}

impl Place {
    /// What the command line says.
    ///
    /// # Errors
    /// If it is neither.
    pub(crate) fn parse(given: &Path) -> Result<Self, InvalidPlace> {
        let Some(text) = given.to_str().filter(|text| text.contains("://")) else {
            return Ok(Self::Folder(given.to_owned()));
        };
        let invalid = |why| InvalidPlace { text: text.to_owned(), why };
        let rest = text.strip_prefix(BUCKET).ok_or_else(|| invalid("only s3:// is known"))?;
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let fits = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        if name.len() < 3 || name.len() > 255 || !name.chars().all(fits) {
            return Err(invalid("a bucket's name has 3 to 255 letters, digits, dots, hyphens and underscores"));
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let odd = |part: &str| part.is_empty() || part == "." || part == ".." || part.contains(char::is_control);
        if !prefix.is_empty() && prefix.split('/').any(odd) {
            return Err(invalid("a part of its prefix is empty, \".\" or \"..\""));
        }
        Ok(Self::Bucket { name: name.to_owned(), prefix: prefix.to_owned() })
    }

    /// What is called `name` there, for people.
    pub(crate) fn of(&self, name: &str) -> String {
        match self {
            Self::Folder(folder) => folder.join(name).display().to_string(),
            Self::Bucket { .. } => format!("{self}/{name}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "{}", folder.display()),
            Self::Bucket { name, prefix } if prefix.is_empty() => write!(f, "{BUCKET}{name}"),
            Self::Bucket { name, prefix } => write!(f, "{BUCKET}{name}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Place, InvalidPlace> {
        Place::parse(Path::new(text))
    }

    #[test]
    fn folders_and_buckets_are_told_apart() {
        for folder in ["a", "/a/b", "s3", "s3:/a", "./s3:a", "C:\\a"] {
            assert_eq!(parse(folder).unwrap(), Place::Folder(folder.into()), "{folder}");
        }
        for (text, name, prefix, of) in [
            ("s3://abc", "abc", "", "s3://abc/x"),
            ("s3://abc/", "abc", "", "s3://abc/x"),
            ("s3://a.b-c/d", "a.b-c", "d", "s3://a.b-c/d/x"),
            ("s3://abc/d e/f/", "abc", "d e/f", "s3://abc/d e/f/x"),
        ] {
            let place = parse(text).unwrap();
            assert_eq!(place, Place::Bucket { name: name.into(), prefix: prefix.into() }, "{text}");
            assert_eq!(place.of("x"), of);
        }
        assert_eq!(Place::Folder("/a".into()).of("x"), "/a/x");
    }

    #[test]
    fn other_places_are_refused() {
        for text in [
            "s3://",
            "s3:///a",
            "s3://ab",
            "s3://a b c/d",
            "s3://abc//d",
            "s3://abc/../d",
            "s3://abc/d//",
            "s3://abc/d\n",
            "gs://abc",
            "https://abc/d",
            "S3://abc",
            "s3a://abc",
        ] {
            assert!(parse(text).unwrap_err().to_string().contains("s3://BUCKET/PREFIX"), "{text}");
        }
    }
}
