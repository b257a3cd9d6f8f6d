//! A message that is too large, or none at all, is refused by the transport, before any handler: this gives it Omma's
//! error.

use omma_common::error::{ApiError, Reason};
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::http::Response;

/// Replaces the transport's own refusal, where a message may have `most` bytes; leaves all other answers alone.
pub(crate) fn explain(response: Response<Body>, most: usize) -> Response<Body> {
    let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    // The transport writes spaces as %20.
    let says = |code: Code, words: &str| {
        header("grpc-status") == (code as i32).to_string() && header("grpc-message").replace("%20", " ").contains(words)
    };
    if says(Code::OutOfRange, "message length too large") {
        return too_large(most).to_status().into_http();
    }
    if says(Code::Internal, "failed to decode Protobuf message") {
        let message = "the message is none of this call's: check that the client has the same version of the protocol";
        return ApiError::new(Reason::InvalidArgument, message).to_status().into_http();
    }
    response
}

fn too_large(most: usize) -> ApiError {
    let message =
        format!("the message is larger than {most} bytes: send fewer images at once, or stream them with IngestImages");
    ApiError::new(Reason::MessageTooLarge, message).over("max-message-bytes", most)
}

#[cfg(test)]
mod tests {
    use omma_common::error::reason_of;
    use tonic::Status;

    use super::*;

    #[test]
    fn only_the_transports_own_words_are_replaced() {
        let reason = |status: Status| {
            let explained = explain(status.into_http(), 8);
            Status::from_header_map(explained.headers()).and_then(|status| reason_of(&status))
        };
        let large =
            Status::out_of_range("Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes");
        assert_eq!(reason(large), Some(Reason::MessageTooLarge));
        let none = Status::internal("failed to decode Protobuf message: invalid wire type value: 7");
        assert_eq!(reason(none), Some(Reason::InvalidArgument));
        assert_eq!(reason(Status::internal("something else")), None);
        let ours = ApiError::new(Reason::Internal, "a bug").to_status();
        assert_eq!(reason(ours), Some(Reason::Internal));
    }
}
