//! What a caller can do about an error, as a sentence.

use omma_common::error::Reason;
use tonic::Code;

use super::way::Failure;

/// For an error that the server, or this library, gave `reason` for.
pub(super) fn for_reason(reason: Reason) -> Option<&'static str> {
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

/// For a status that no Omma process made, or one of another version.
pub(super) fn for_code(code: Code) -> Option<&'static str> {
    match code {
        Code::Unimplemented => {
            Some("the server does not know this call: is it an Omma coordinator of the same version?")
        }
        Code::DeadlineExceeded => for_reason(Reason::DeadlineExceeded),
        Code::ResourceExhausted => for_reason(Reason::Overloaded),
        _ => None,
    }
}

/// For a call that did not get to the server, or whose answer did not get back.
pub(super) fn for_failure(failure: Failure) -> &'static str {
    match failure {
        Failure::Name => "check the server's name, or give its address",
        Failure::Refused => "is an Omma server running at that address? `omma serve` starts one",
        Failure::Unreachable => "check the address, and whether a firewall is in the way",
        Failure::Tls => {
            "has the server TLS, and a certificate that the system trusts, or one of the authority of --ca?"
        }
        Failure::Broken => "try again; if no call gets through, see whether the server wants TLS (https://)",
        Failure::Silent => "the server may be busy or cut off; allow more time, or send less at once",
    }
}

/// Whether the last try says better than the deadline why there was no answer in time.
pub(super) fn explains_lateness(reason: Option<Reason>) -> bool {
    matches!(reason, Some(Reason::Overloaded | Reason::IndexBehind | Reason::RateLimited | Reason::DiskFull))
}
