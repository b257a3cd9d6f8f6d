//! A message over the limit is refused by the transport, before any handler: this gives it Omma's error.

use omma_common::error::{ApiError, Reason};
use omma_common::limits::MAX_MESSAGE_BYTES;
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::http::Response;

/// What the transport says of it.
const SAYS: &str = "message%20length%20too%20large";

/// Replaces the transport's own refusal; leaves all other answers alone.
pub(crate) fn explain(response: Response<Body>) -> Response<Body> {
    let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let refused = header("grpc-status") == (Code::OutOfRange as i32).to_string()
        && (header("grpc-message").contains(SAYS) || header("grpc-message").contains("message length too large"));
    if !refused {
        return response;
    }
    let message = format!(
        "the message is larger than {MAX_MESSAGE_BYTES} bytes: send fewer images at once, or stream them with IngestImages"
    );
    ApiError::new(Reason::MessageTooLarge, message).with("limit_bytes", MAX_MESSAGE_BYTES).to_status().into_http()
}
