//! What can go wrong, in one type that says what to do about it.

use std::fmt;
use std::time::Duration;

use omma_common::error::{ApiError, DOMAIN, Reason};
use omma_proto::RpcStatus;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, RpcStatusExt, StatusExt};

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
        match (self.0.origin, self.0.reason) {
            (_, Some(reason)) => advice_for(reason),
            (Origin::Transport, None) => Some("is an Omma server running at that address? `omma serve` starts one"),
            (_, None) if self.0.code == Code::Unimplemented => {
                Some("the server does not know this call: is it an Omma coordinator of the same version?")
            }
            _ => None,
        }
    }

    pub(crate) fn transport(message: impl Into<String>) -> Self {
        Self::bare(Origin::Transport, Code::Unavailable, message)
    }

    /// The server's answer lacks something that it must have.
    pub(crate) fn malformed(what: &str) -> Self {
        Self::bare(Origin::Client, Code::Internal, format!("the server's answer has no {what}"))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::bare(Origin::Client, Code::InvalidArgument, message)
    }

    pub(crate) fn too_late(message: impl Into<String>) -> Self {
        let mut error = Self::bare(Origin::Client, Code::DeadlineExceeded, message);
        error.0.reason = Some(Reason::DeadlineExceeded);
        error
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
        }))
    }

    fn with_details(origin: Origin, code: Code, message: String, details: &ErrorDetails) -> Self {
        let info = details.error_info().filter(|info| info.domain == DOMAIN);
        let fields = details.bad_request().map(|b| b.field_violations.clone()).unwrap_or_default();
        Self(Box::new(Parts {
            origin,
            code,
            reason: info.and_then(|i| Reason::ALL.iter().copied().find(|r| r.name() == i.reason)),
            message,
            fields: fields.into_iter().map(|f| FieldProblem { field: f.field, problem: f.description }).collect(),
            retry_after: details.retry_info().and_then(|r| r.retry_delay),
            metadata: info.map(|i| i.metadata.clone().into_iter().collect()).unwrap_or_default(),
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
        let message = with_causes(&status);
        let origin = if made_by_transport(&status) { Origin::Transport } else { Origin::Server };
        Self::with_details(origin, status.code(), message, &status.get_error_details())
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
        Self::transport(chain(&error))
    }
}

/// A status that tonic made here, because there was no connection or it broke, has a source; a received one has none.
fn made_by_transport(status: &Status) -> bool {
    std::error::Error::source(status).is_some() && status.details().is_empty()
}

fn with_causes(status: &Status) -> String {
    match std::error::Error::source(status) {
        Some(source) if made_by_transport(status) => chain(source),
        _ if status.message().is_empty() => format!("the server said only {:?}", status.code()),
        _ => status.message().to_owned(),
    }
}

/// An error and what caused it, without repetitions: "transport error: tcp connect error: Connection refused".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

fn advice_for(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::CollectionNotFound => "create the collection first, or list those there are",
        Reason::CollectionExists => "use it, or choose another name",
        Reason::CollectionDeleting => "wait until the old collection is gone, or choose another name",
        Reason::VectorSpaceMismatch => {
            "send embeddings of the collection's own vector space, or use a collection of the encoder's"
        }
        Reason::NoEncoder => "send embeddings, or start the nodes with a model",
        Reason::UnsupportedPicture => "send JPEG, PNG, GIF, WebP, BMP or TIFF",
        Reason::PictureTooLarge | Reason::MessageTooLarge => "send it smaller, or in smaller parts",
        Reason::NotLeader | Reason::UnknownGroup | Reason::GroupUnavailable | Reason::NodeUnreachable => {
            "the cluster may be electing a leader; try again shortly"
        }
        Reason::PartialAnswer => "try again, or allow partial answers",
        Reason::ClusterForming => "the cluster has just started; try again shortly",
        Reason::ShuttingDown => "ask another coordinator, or try again when it is back",
        Reason::Unauthenticated => "give an API key: --api-key, OMMA_API_KEY, or Builder::api_key",
        Reason::PermissionDenied => "use credentials that may do this",
        Reason::Overloaded | Reason::IndexBehind | Reason::RateLimited => "slow down and try again",
        Reason::DiskFull => "make room on the nodes' disks, or add nodes",
        Reason::BackupExpired => "begin the backup of the group again",
        Reason::OutcomeUnknown => "repeat it with the same request id",
        Reason::DeadlineExceeded => "allow more time; a write may still take effect",
        Reason::TooManyCollections => "delete a collection first",
        Reason::DataLoss | Reason::Internal => "see the nodes' logs",
        _ => return None,
    })
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
    }
}
