//! What can go wrong, in one type that says what to do about it.

mod advice;
mod way;

use std::fmt;
use std::time::Duration;

use omma_common::error::{ApiError, DOMAIN, Reason};
use omma_proto::RpcStatus;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, RpcStatusExt, StatusExt};

use self::advice::{explains_lateness, for_code, for_failure, for_reason};
pub(crate) use self::way::Failure;
use self::way::{chain, is_late};

/// One field of the request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldProblem {
    /// Its path, such as `images[2].id`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Where an error was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// No connection to the server could be made, or it broke.
    Transport,
    /// The server answered so.
    Server,
    /// This library: the request was never sent, or the answer made no sense.
    Client,
}

/// Why a call failed. Its `Display` says what happened and, where something can be done about it, what.
#[derive(Debug, Clone)]
pub struct ClientError(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    origin: Origin,
    code: Code,
    reason: Option<Reason>,
    message: String,
    fields: Vec<FieldProblem>,
    retry_after: Option<Duration>,
    metadata: Vec<(String, String)>,
    failure: Option<Failure>,
    advice: Option<&'static str>,
}

impl ClientError {
    /// The gRPC code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Omma's reason; `None` for errors that no Omma process made (a refused connection, a proxy's answer).
    pub fn reason(&self) -> Option<Reason> {
        self.0.reason
    }

    /// What happened, as the server said it.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The fields that are wrong, if the server named some.
    pub fn fields(&self) -> &[FieldProblem] {
        &self.0.fields
    }

    /// After how long the server thinks that a retry may help; `None`: it will not, or nobody knows.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// A fact from `google.rpc.ErrorInfo.metadata`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.0.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Who made the error.
    pub fn origin(&self) -> Origin {
        self.0.origin
    }

    /// What the caller can do about it, as a sentence; `None` if there is nothing to add to the message.
    pub fn advice(&self) -> Option<&'static str> {
        self.0.advice
    }

    pub(crate) fn transport(failure: Failure, message: impl Into<String>) -> Self {
        let mut error = Self::bare(Origin::Transport, Code::Unavailable, message);
        (error.0.failure, error.0.advice) = (Some(failure), Some(for_failure(failure)));
        error
    }

    /// The same, with another message.
    pub(crate) fn saying(mut self, message: String) -> Self {
        self.0.message = message;
        self
    }

    /// The server's answer lacks something that it must have.
    pub(crate) fn malformed(what: &str) -> Self {
        Self::bare(Origin::Client, Code::Internal, format!("the server's answer has no {what}"))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::bare(Origin::Client, Code::InvalidArgument, message)
    }

    /// The deadline has passed; `last` is why the try before was none.
    pub(crate) fn too_late(message: impl Into<String>, last: Option<Self>) -> Self {
        let mut error = Self::bare(Origin::Client, Code::DeadlineExceeded, message);
        (error.0.reason, error.0.advice) = (Some(Reason::DeadlineExceeded), for_reason(Reason::DeadlineExceeded));
        if let Some(last) = last {
            error.0.message = format!("{}; the try before failed: {}", error.0.message, last.0.message);
            let way = last.0.failure.is_some_and(Failure::before_connecting);
            if way || explains_lateness(last.0.reason) {
                error.0.advice = last.0.advice;
            }
        }
        error
    }

    /// Whether this library gave up when the deadline passed.
    pub(crate) fn is_late(&self) -> bool {
        (self.0.origin, self.0.code) == (Origin::Client, Code::DeadlineExceeded)
    }

    /// The error inside a larger answer; `None` if the status is absent or says OK.
    pub fn from_rpc(status: Option<&RpcStatus>) -> Option<Self> {
        let status = status.filter(|s| s.code != Code::Ok as i32)?;
        let details = status.get_error_details();
        Some(Self::with_details(Origin::Server, Code::from_i32(status.code), status.message.clone(), &details))
    }

    fn bare(origin: Origin, code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            origin,
            code,
            reason: None,
            message: message.into(),
            fields: Vec::new(),
            retry_after: None,
            metadata: Vec::new(),
            failure: None,
            advice: None,
        }))
    }

    fn with_details(origin: Origin, code: Code, message: String, details: &ErrorDetails) -> Self {
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let reason = info.and_then(|i| Reason::ALL.iter().copied().find(|r| r.name() == i.reason));
        let fields = details.bad_request().map(|b| b.field_violations.clone()).unwrap_or_default();
        Self(Box::new(Parts {
            origin,
            code,
            reason,
            message,
            fields: fields.into_iter().map(|f| FieldProblem { field: f.field, problem: f.description }).collect(),
            retry_after: details.retry_info().and_then(|r| r.retry_delay),
            metadata: info.map(|i| i.metadata.clone().into_iter().collect()).unwrap_or_default(),
            failure: None,
            advice: reason.map_or_else(|| for_code(code), for_reason),
        }))
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        for field in self.0.fields.iter().filter(|p| !self.0.message.contains(&p.field)) {
            write!(f, "; {} {}", field.field, field.problem)?;
        }
        match self.0.reason {
            Some(reason) => write!(f, " [{}]", reason.name())?,
            None => write!(f, " [{:?}]", self.0.code)?,
        }
        self.advice().map_or(Ok(()), |advice| write!(f, ": {advice}"))
    }
}

impl std::error::Error for ClientError {}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        match below(&status) {
            Some(cause) if is_late(cause) => Self::too_late("no answer came before the deadline", None),
            Some(cause) => {
                let mut error = Self::transport(Failure::of(cause), chain(cause));
                error.0.code = status.code();
                error
            }
            None => {
                let said = match status.message() {
                    "" => format!("the server said only {:?}", status.code()),
                    message => message.to_owned(),
                };
                Self::with_details(Origin::Server, status.code(), said, &status.get_error_details())
            }
        }
    }
}

impl From<ApiError> for ClientError {
    fn from(error: ApiError) -> Self {
        let mut own = Self::from(error.to_status());
        own.0.origin = Origin::Client;
        own
    }
}

impl From<tonic::transport::Error> for ClientError {
    fn from(error: tonic::transport::Error) -> Self {
        Self::transport(Failure::of(&error), chain(&error))
    }
}

/// What a status was made of that tonic made here, because there was no connection, it broke, or it was too slow. A
/// received one was made of nothing.
fn below(status: &Status) -> Option<&(dyn std::error::Error + 'static)> {
    std::error::Error::source(status).filter(|_| status.details().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_error_keeps_its_details() {
        let status = ApiError::field("images[2].id", "must not be empty").with("limit", 256).to_status();
        let error = ClientError::from(status);
        assert_eq!((error.code(), error.reason()), (Code::InvalidArgument, Some(Reason::InvalidArgument)));
        assert_eq!(error.fields()[0].field, "images[2].id");
        assert_eq!(error.metadata("limit"), Some("256"));
        assert_eq!((error.retry_after(), error.origin()), (None, Origin::Server));
        assert_eq!(error.to_string(), "images[2].id must not be empty [INVALID_ARGUMENT]");
    }

    #[test]
    fn errors_inside_an_answer_are_the_same_as_outside() {
        let api = ApiError::new(Reason::Overloaded, "the queue is full");
        let inside = ClientError::from_rpc(Some(&api.to_rpc_status())).unwrap();
        let outside = ClientError::from(api.to_status());
        assert_eq!((inside.reason(), inside.retry_after()), (outside.reason(), outside.retry_after()));
        assert!(inside.to_string().ends_with("[OVERLOADED]: slow down and try again"), "{inside}");
        assert!(ClientError::from_rpc(Some(&RpcStatus::default())).is_none());
        assert!(ClientError::from_rpc(None).is_none());
    }

    #[test]
    fn foreign_errors_have_no_reason() {
        let error = ClientError::from(Status::permission_denied("no"));
        assert_eq!((error.reason(), error.origin()), (None, Origin::Server));
        assert_eq!(error.to_string(), "no [PermissionDenied]");
        let late = ClientError::from(Status::deadline_exceeded("upstream request timeout"));
        assert!(late.advice().is_some_and(|advice| advice.starts_with("allow more time")), "{late}");
    }

    #[test]
    fn a_deadline_that_tonic_kept_is_no_missing_server() {
        let late = ClientError::from(Status::from_error(Box::new(tonic::TimeoutExpired(()))));
        let expected = (Origin::Client, Code::DeadlineExceeded, Some(Reason::DeadlineExceeded));
        assert_eq!((late.origin(), late.code(), late.reason()), expected);
        assert!(late.advice().is_some_and(|advice| advice.starts_with("allow more time")), "{late}");
        let broken = ClientError::from(Status::from_error(Box::new(std::io::Error::other("gone"))));
        assert_eq!(broken.origin(), Origin::Transport);
        assert!(broken.advice().is_some_and(|advice| advice.starts_with("try again")), "{broken}");
    }

    #[test]
    fn who_was_refused_until_the_deadline_is_told_why() {
        let last = |error: ClientError| ClientError::too_late("no answer within 1s", Some(error));
        let refused = last(ClientError::transport(Failure::Refused, "nobody listens"));
        assert_eq!(refused.code(), Code::DeadlineExceeded);
        assert!(
            refused.to_string().contains("nobody listens") && refused.to_string().contains("omma serve"),
            "{refused}"
        );
        let full = last(ApiError::new(Reason::Overloaded, "the queue is full").into());
        assert!(full.to_string().ends_with("[DEADLINE_EXCEEDED]: slow down and try again"), "{full}");
        let electing = last(ApiError::new(Reason::NotLeader, "another leads").into());
        assert!(electing.advice().is_some_and(|advice| advice.starts_with("allow more time")), "{electing}");
    }
}
