//! What a store's failures mean, and what to do about them.

use std::error::Error as StdError;

use object_store::Error;
use object_store::client::HttpError;

/// What a store cannot do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// A folder.
    #[error("cannot {what}: {reason}")]
    Io { what: String, reason: String },
    /// Settings that do not fit together.
    #[error("the settings of the object store cannot be used: {reason}")]
    Settings { reason: String },
    /// The bucket is not there.
    #[error("there is no bucket {bucket:?} at {endpoint}: make it, or check its name, AWS_ENDPOINT_URL and AWS_REGION")]
    NoBucket { bucket: String, endpoint: String },
    /// Nobody said who asks.
    #[error(
        "there are no credentials for {endpoint}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run this where the \
         machine has a role; profiles are not read (aws configure export-credentials --format env prints one as variables)"
    )]
    NoKeys { endpoint: String },
    /// The credentials are none, or no longer.
    #[error(
        "{endpoint} does not accept the credentials ({code}): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if they \
         are temporary ones, AWS_SESSION_TOKEN"
    )]
    WrongKeys { endpoint: String, code: String },
    /// They are, but may not do this.
    #[error(
        "cannot {what}: access was denied; the credentials need s3:GetObject, s3:ListBucket and, for a backup, s3:PutObject \
         and s3:AbortMultipartUpload"
    )]
    Denied { what: String },
    /// The bucket is elsewhere.
    #[error("the bucket {bucket:?} is not in the region {region}: set AWS_REGION{}", expected.as_ref().map_or_else(String::new, |r| format!("={r}")))]
    WrongRegion { bucket: String, region: String, expected: Option<String> },
    /// The clocks differ too much for signatures.
    #[error("{endpoint} refuses requests because this machine's clock is wrong: set it")]
    Clock { endpoint: String },
    /// Plaintext to another machine.
    #[error("{reason}: use https, or accept that everybody on the network can read along with AWS_ALLOW_HTTP=true")]
    Plaintext { reason: String },
    /// Nobody answers.
    #[error("cannot {what}: {endpoint} cannot be reached: {reason}; check AWS_ENDPOINT_URL and AWS_REGION")]
    Unreachable { what: String, endpoint: String, reason: String },
    /// It answers, but cannot now.
    #[error("cannot {what}: {endpoint} is not available ({code}); run the command again later, and it goes on")]
    Busy { what: String, endpoint: String, code: String },
    /// Anything else.
    #[error("cannot {what}: {reason}")]
    Other { what: String, reason: String },
}

impl StoreError {
    pub(super) fn io(what: String, error: &std::io::Error) -> Self {
        Self::Io { what, reason: error.to_string() }
    }

    /// Whether trying again later may help.
    pub(crate) fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Busy { .. })
    }
}

/// What was asked, for what is said about it.
#[derive(Debug, Clone)]
pub(super) enum Whereabouts {
    Folder,
    Bucket { bucket: String, endpoint: String, region: String },
}

/// Where machines in clouds ask who they are.
const METADATA: [&str; 3] = ["169.254.169.254", "169.254.170.", "fd00:ec2::254"];

/// What `error` means, which came of doing `what`.
pub(super) fn explain(what: String, whereabouts: &Whereabouts, error: &Error) -> StoreError {
    let Whereabouts::Bucket { bucket, endpoint, region } = whereabouts else {
        return StoreError::Io { what, reason: innermost(error).to_string() };
    };
    let text = error.to_string();
    let endpoint = endpoint.clone();
    if METADATA.iter().any(|address| text.contains(address)) {
        return StoreError::NoKeys { endpoint };
    }
    if let Some(failure) = find::<HttpError>(error) {
        let reason = innermost(failure).to_string();
        return match find::<std::io::Error>(failure).map(std::io::Error::kind) {
            Some(std::io::ErrorKind::PermissionDenied) => StoreError::Plaintext { reason },
            _ => StoreError::Unreachable { what, endpoint, reason },
        };
    }
    let (code, status) = (element(&text, "Code"), status(&text));
    match (code.unwrap_or_default(), status) {
        ("NoSuchBucket", _) => StoreError::NoBucket { bucket: bucket.clone(), endpoint },
        (
            code @ ("InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "InvalidToken"
            | "ExpiredToken"
            | "NotSignedUp"
            | "TokenRefreshRequired"
            | "InvalidSecurity"),
            _,
        ) => StoreError::WrongKeys { endpoint, code: code.to_owned() },
        ("RequestTimeTooSkewed" | "RequestExpired", _) => StoreError::Clock { endpoint },
        ("AuthorizationHeaderMalformed" | "PermanentRedirect" | "TemporaryRedirect", _) | (_, Some(300..=399)) => {
            let expected = element(&text, "Region").map(str::to_owned);
            StoreError::WrongRegion { bucket: bucket.clone(), region: region.clone(), expected }
        }
        _ if text.contains("redirect without LOCATION") => {
            StoreError::WrongRegion { bucket: bucket.clone(), region: region.clone(), expected: None }
        }
        ("AccessDenied" | "AllAccessDisabled", _) | (_, Some(401 | 403)) => StoreError::Denied { what },
        (code, Some(status @ (429 | 500..))) => {
            let code = if code.is_empty() { status.to_string() } else { code.to_owned() };
            StoreError::Busy { what, endpoint, code }
        }
        (_, _) => StoreError::Other { what, reason: element(&text, "Message").unwrap_or(&text).to_owned() },
    }
}

/// The cause of the causes.
pub(super) fn innermost<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut inner = error;
    while let Some(next) = inner.source() {
        inner = next;
    }
    inner
}

/// The operating system's error, if that is what is behind it.
pub(super) fn io(error: &Error) -> Option<std::io::Error> {
    let found = find::<std::io::Error>(error)?;
    Some(found.raw_os_error().map_or_else(|| found.kind().into(), std::io::Error::from_raw_os_error))
}

fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The text of an element of the XML that S3 answers errors with.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once("</").map(|(value, _)| value)
}

/// The status of the answer that an error tells of.
fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket() -> Whereabouts {
        let text = |t: &str| t.to_owned();
        Whereabouts::Bucket { bucket: text("abc"), endpoint: text("http://here"), region: text("r1") }
    }

    fn said(text: &str) -> StoreError {
        let error = Error::Generic { store: "S3", source: text.into() };
        explain("read x".into(), &bucket(), &error)
    }

    fn answered(status: &str, code: &str, more: &str) -> StoreError {
        said(&format!(
            "Error performing GET http://here/abc/x in 1ms - Server returned non-2xx status code: {status}: \
             <Error><Code>{code}</Code><Message>m</Message>{more}</Error>"
        ))
    }

    #[test]
    fn answers_are_told_apart() {
        for (status, code, hint) in [
            ("404 Not Found", "NoSuchBucket", "no bucket \"abc\" at http://here"),
            ("403 Forbidden", "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
            ("403 Forbidden", "SignatureDoesNotMatch", "(SignatureDoesNotMatch)"),
            ("400 Bad Request", "ExpiredToken", "AWS_SESSION_TOKEN"),
            ("403 Forbidden", "AccessDenied", "s3:PutObject"),
            ("403 Forbidden", "", "s3:PutObject"),
            ("403 Forbidden", "RequestTimeTooSkewed", "clock"),
            ("503 Service Unavailable", "SlowDown", "SlowDown"),
            ("502 Bad Gateway", "", "502"),
            ("400 Bad Request", "EntityTooSmall", "cannot read x: m"),
        ] {
            let text = answered(status, code, "").to_string();
            assert!(text.contains(hint), "{status} {code}: {text}");
        }
        let region = answered("400 Bad Request", "AuthorizationHeaderMalformed", "<Region>eu-1</Region>").to_string();
        assert!(region.contains("AWS_REGION=eu-1") && region.contains("r1"), "{region}");
        assert!(answered("301 Moved Permanently", "", "").to_string().contains("AWS_REGION"));
        assert!(said("Received redirect without LOCATION, this").to_string().ends_with("AWS_REGION"));
        assert!(answered("503 x", "", "").is_unavailable() && !answered("404 x", "NoSuchBucket", "").is_unavailable());
    }

    #[test]
    fn nobody_there_is_told_from_nobody_allowed() {
        let http = |kind, text: &str| {
            let source = HttpError::new(object_store::client::HttpErrorKind::Connect, std::io::Error::new(kind, text));
            explain("read x".into(), &bucket(), &Error::Generic { store: "S3", source: Box::new(source) })
        };
        let refused = http(std::io::ErrorKind::ConnectionRefused, "refused");
        assert!(refused.is_unavailable() && refused.to_string().contains("http://here cannot be reached: refused"));
        let plain = http(std::io::ErrorKind::PermissionDenied, "1.2.3.4:9000 is not on loopback");
        assert!(plain.to_string().contains("AWS_ALLOW_HTTP=true"), "{plain}");
        assert!(matches!(said("PUT http://169.254.169.254/latest/api/token"), StoreError::NoKeys { .. }));
        let full = Error::Generic { store: "L", source: std::io::Error::other("no space left").into() };
        let text = explain("write /a/x".into(), &Whereabouts::Folder, &full).to_string();
        assert_eq!(text, "cannot write /a/x: no space left");
    }
}
