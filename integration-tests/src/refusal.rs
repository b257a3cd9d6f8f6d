//! What a refused request looks like to a client: gRPC code, `ErrorInfo.reason`, the field to blame.

use anyhow::{Context, Result, bail, ensure};
use omma_common::error::{DOMAIN, Reason};
use omma_proto::RpcStatus;
use tonic::{Code, Status};
use tonic_types::{RpcStatusExt, StatusExt};

/// A typed error, out of a call's status or out of one image's or query's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The gRPC code.
    pub code: Code,
    /// `ErrorInfo.reason`.
    pub reason: String,
    /// Field paths of `BadRequest`.
    pub fields: Vec<String>,
    /// For developers.
    pub message: String,
    /// Whether it has `RetryInfo`.
    pub retry: bool,
}

impl Refusal {
    /// Of a whole call.
    ///
    /// # Errors
    /// If the status carries no `ErrorInfo` of Omma's.
    pub fn of(status: &Status) -> Result<Self> {
        let info = status.get_details_error_info().with_context(|| format!("no ErrorInfo in {status:?}"))?;
        ensure!(info.domain == DOMAIN, "ErrorInfo of domain {:?} in {status:?}", info.domain);
        let fields = status.get_details_bad_request().map(|b| b.field_violations).unwrap_or_default();
        Ok(Self {
            code: status.code(),
            reason: info.reason,
            fields: fields.into_iter().map(|f| f.field).collect(),
            message: status.message().to_owned(),
            retry: status.get_details_retry_info().is_some(),
        })
    }

    /// Of one image or query inside a larger answer.
    ///
    /// # Errors
    /// If there is no error, or one without `ErrorInfo` of Omma's.
    pub fn of_part(error: Option<&RpcStatus>) -> Result<Self> {
        let error = error.filter(|e| e.code != 0).context("was not refused")?;
        let info = error.get_details_error_info().with_context(|| format!("no ErrorInfo in {error:?}"))?;
        ensure!(info.domain == DOMAIN, "ErrorInfo of domain {:?} in {error:?}", info.domain);
        let fields = error.get_details_bad_request().map(|b| b.field_violations).unwrap_or_default();
        Ok(Self {
            code: Code::from(error.code),
            reason: info.reason,
            fields: fields.into_iter().map(|f| f.field).collect(),
            message: error.message.clone(),
            retry: error.get_details_retry_info().is_some(),
        })
    }

    /// Of a call that must fail.
    ///
    /// # Errors
    /// If it did not fail, or not with a typed error.
    pub fn of_call<T: std::fmt::Debug>(outcome: Result<T, Status>) -> Result<Self> {
        match outcome {
            Ok(answer) => bail!("was not refused: {answer:?}"),
            Err(status) => Self::of(&status),
        }
    }

    /// Checks reason, the code that goes with it, that the message says something, and that some field path contains
    /// `field` (no field is asked for if it is empty).
    ///
    /// # Errors
    /// If it is not so.
    pub fn is(&self, reason: Reason, field: &str) -> Result<()> {
        ensure!(self.reason == reason.name(), "{} expected: {self:?}", reason.name());
        ensure!(self.code == reason.code(), "code {:?} expected: {self:?}", reason.code());
        ensure!(self.message.len() > 8, "the message says nothing: {self:?}");
        let blamed = field.is_empty() || self.fields.iter().any(|f| f.contains(field));
        ensure!(blamed, "field {field:?} should be blamed: {self:?}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_common::error::ApiError;

    #[test]
    fn reads_both_kinds_and_tells_them_from_foreign_errors() {
        let error = ApiError::field("query.k", "must be at most 1000");
        let of_call = Refusal::of(&error.to_status()).unwrap();
        let of_part = Refusal::of_part(Some(&error.to_rpc_status())).unwrap();
        assert_eq!(of_call, of_part);
        of_call.is(Reason::InvalidArgument, "k").unwrap();
        assert!(of_call.is(Reason::InvalidArgument, "id").is_err());
        assert!(of_call.is(Reason::InvalidPicture, "k").is_err());
        assert!(Refusal::of(&Status::unavailable("tcp")).is_err());
        assert!(Refusal::of_part(None).is_err());
        assert!(Refusal::of_part(Some(&RpcStatus::default())).is_err());
    }
}
