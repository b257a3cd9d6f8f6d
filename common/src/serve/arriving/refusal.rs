//! What is said to a message that is not taken.

use crate::error::{ApiError, Reason};

/// There is no room for it, or for its answer.
pub(super) fn no_room(most: usize) -> ApiError {
    let mib = most >> 20;
    let text = format!(
        "requests share {mib} MiB until they are answered, and this one's client has its part of them, or this one was the \
         slowest: try again, with less at once"
    );
    ApiError::new(Reason::Overloaded, text).over("max-arriving-mib", mib)
}

/// Its parts would take too much memory.
pub(super) fn too_many_parts(most: usize) -> ApiError {
    let text = format!("the parts of the message take more than {most} bytes of memory: send fewer at once");
    ApiError::new(Reason::MessageTooLarge, text).over("decoded-message-bytes", most)
}

/// It is none.
pub(super) fn no_message() -> ApiError {
    let text = "the message is none of this call's: check that the client has the same version of the protocol";
    ApiError::new(Reason::InvalidArgument, text)
}
