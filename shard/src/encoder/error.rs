//! What can go wrong between a picture's bytes and its embedding, and what a client is told.

use std::time::Duration;

use omma_common::error::{ApiError, Reason};
use omma_common::vector::InvalidVector;

use super::model::ModelError;
use super::runtime::RuntimeError;

/// Why a picture has no embedding: its own fault, but for the last.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    /// Zero bytes.
    #[error("the picture is empty")]
    Empty,
    /// More bytes than allowed.
    #[error("the picture has {bytes} bytes; at most {limit} are accepted")]
    TooManyBytes {
        /// Given.
        bytes: usize,
        /// Allowed.
        limit: usize,
    },
    /// More pixels than allowed. Found in the header: nothing was decoded.
    #[error("the picture says that it has {width} x {height} pixels; at most {limit} pixels are accepted")]
    TooManyPixels {
        /// From the header.
        width: u32,
        /// From the header.
        height: u32,
        /// Allowed.
        limit: u64,
    },
    /// Longer than any camera or scanner makes them.
    #[error("the picture says that it is {width} x {height}; no side may be longer than {limit} pixels")]
    TooLong {
        /// From the header.
        width: u32,
        /// From the header.
        height: u32,
        /// Allowed.
        limit: u32,
    },
    /// Decoding would need more memory than a picture of the allowed size does.
    #[error("the {format} picture needs more memory to decode than is allowed")]
    TooMuchMemory {
        /// Of the picture.
        format: &'static str,
    },
    /// Decoding was given up.
    #[error("the picture takes longer than {} s to decode", limit.as_secs_f32())]
    TooSlow {
        /// Allowed.
        limit: Duration,
    },
    /// No known picture format.
    #[error("the bytes are no picture of a known format; JPEG, PNG, GIF, WebP, BMP and TIFF are accepted")]
    UnknownFormat,
    /// A known format, or a variant of one, that is not supported.
    #[error("{what} is not supported; JPEG, PNG, GIF, WebP, BMP and TIFF are")]
    Unsupported {
        /// The format or its variant.
        what: String,
    },
    /// Cut off, contradictory or otherwise broken.
    #[error("the {format} picture is damaged: {reason}")]
    Damaged {
        /// Of the picture.
        format: &'static str,
        /// As the decoder says it.
        reason: String,
    },
    /// Other pictures use the memory that decoding may use.
    #[error("the memory for decoding is in use by other pictures; try again")]
    NoRoom,
}

/// Why there is no embedding, or no encoder at all.
#[derive(Debug, thiserror::Error)]
pub enum EncoderError {
    /// The picture cannot be used.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// As many pictures wait as may, or longer than they should.
    #[error("too many pictures wait for the encoder")]
    Overloaded,
    /// The caller's time ran out.
    #[error("the picture was not encoded before the deadline")]
    DeadlineExceeded,
    /// The encoder is being shut down.
    #[error("the encoder has stopped")]
    Stopped,
    /// The ONNX Runtime library is missing or unusable.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The model is incomplete or cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device that was asked for is not there.
    #[error("the model cannot run on {device}: {problem}")]
    Device {
        /// As asked for.
        device: String,
        /// As the runtime says it.
        problem: String,
    },
    /// The runtime failed on an input that it should take.
    #[error("inference failed: {0}")]
    Inference(String),
    /// The model's output is no direction: NaN, infinite or zero.
    #[error("the model's output {0}")]
    Output(#[from] InvalidVector),
    /// No thread could be started.
    #[error("cannot start the encoder's threads: {0}")]
    Threads(std::io::Error),
}

/// The one table from this part's errors to the API's.
impl From<EncoderError> for ApiError {
    fn from(error: EncoderError) -> Self {
        let reason = match &error {
            EncoderError::Picture(picture) => match picture {
                PictureError::Empty | PictureError::UnknownFormat | PictureError::Damaged { .. } => {
                    Reason::InvalidPicture
                }
                PictureError::Unsupported { .. } => Reason::UnsupportedPicture,
                PictureError::TooManyBytes { .. }
                | PictureError::TooManyPixels { .. }
                | PictureError::TooLong { .. }
                | PictureError::TooSlow { .. }
                | PictureError::TooMuchMemory { .. } => Reason::PictureTooLarge,
                PictureError::NoRoom => Reason::Overloaded,
            },
            EncoderError::Overloaded => Reason::Overloaded,
            EncoderError::DeadlineExceeded => Reason::DeadlineExceeded,
            EncoderError::Stopped => Reason::ShuttingDown,
            EncoderError::Runtime(_) | EncoderError::Model(_) | EncoderError::Device { .. } => Reason::NoEncoder,
            EncoderError::Inference(_) | EncoderError::Output(_) | EncoderError::Threads(_) => Reason::Internal,
        };
        let api = ApiError::new(reason, error.to_string());
        match error {
            EncoderError::Picture(PictureError::TooManyBytes { limit, .. }) => api.over("max-picture-bytes", limit),
            EncoderError::Picture(PictureError::TooManyPixels { limit, .. }) => api.over("max-picture-pixels", limit),
            EncoderError::Picture(PictureError::TooLong { limit, .. }) => api.over("picture side", limit),
            EncoderError::Picture(PictureError::TooSlow { limit }) => api.over("max-decode-seconds", limit.as_secs()),
            _ => api,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_can_tell_whose_fault_it_is() {
        let reason = |e: EncoderError| ApiError::from(e).reason;
        assert_eq!(reason(PictureError::Empty.into()), Reason::InvalidPicture);
        assert_eq!(reason(PictureError::Unsupported { what: "AVIF".into() }.into()), Reason::UnsupportedPicture);
        let large = ApiError::from(EncoderError::from(PictureError::TooManyPixels { width: 9, height: 9, limit: 80 }));
        assert_eq!(large.reason, Reason::PictureTooLarge);
        assert_eq!(large.metadata, [("limit_name", "max-picture-pixels".to_owned()), ("limit", "80".to_owned())]);
        assert_eq!(reason(EncoderError::Overloaded), Reason::Overloaded);
        assert_eq!(reason(EncoderError::Inference("x".into())), Reason::Internal);
    }
}
