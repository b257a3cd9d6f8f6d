//! What a message is about. A message that does not say cannot be served: the compiler asks for it.

use omma_proto::v1 as pb;

/// What a call touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope<'a> {
    /// One collection, which need not exist.
    Collection(&'a str),
    /// The cluster as a whole.
    Cluster,
    /// What is told later in a stream, or only what the caller may see.
    Later,
}

impl Scope<'_> {
    /// For the audit log.
    pub(crate) fn collection(&self) -> &str {
        match self {
            Scope::Collection(name) => name,
            Scope::Cluster | Scope::Later => "",
        }
    }
}

/// A message of the public API.
pub(crate) trait Scoped {
    /// What it is about.
    fn scope(&self) -> Scope<'_>;
}

macro_rules! about {
    ($($message:ident: $field:ident,)*) => {
        $(impl Scoped for pb::$message {
            fn scope(&self) -> Scope<'_> { Scope::Collection(&self.$field) }
        })*
    };
}

about! {
    CreateCollectionRequest: name,
    GetCollectionRequest: name,
    DeleteCollectionRequest: name,
    PutImagesRequest: collection,
    GetImageRequest: collection,
    BatchGetImagesRequest: collection,
    DeleteImagesRequest: collection,
    SearchRequest: collection,
    BatchSearchRequest: collection,
    BeginBackupRequest: collection,
    ReadBackupRequest: collection,
    RestoreImagesRequest: collection,
}

impl Scoped for pb::ListCollectionsRequest {
    fn scope(&self) -> Scope<'_> {
        Scope::Later
    }
}

macro_rules! about_the_cluster {
    ($($message:ident,)*) => {
        $(impl Scoped for pb::$message {
            fn scope(&self) -> Scope<'_> { Scope::Cluster }
        })*
    };
}

about_the_cluster! {
    GetClusterStatusRequest,
    DrainNodeRequest,
    UndrainNodeRequest,
    RemoveNodeRequest,
    PauseMovesRequest,
    ResumeMovesRequest,
    ListMovesRequest,
    SetGroupCountRequest,
}
