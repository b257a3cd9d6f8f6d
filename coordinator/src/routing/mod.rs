//! Where things are: the cluster map (pure), who leads each group (pure), and the cache that keeps both fresh.

pub(crate) mod cache;
pub(crate) mod leaders;
pub(crate) mod map;

pub(crate) use cache::Routing;
pub(crate) use map::{ClusterMap, Collection};
