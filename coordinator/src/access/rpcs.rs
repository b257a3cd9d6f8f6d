//! What each call of the public port needs. A call without a row is denied.

use super::caller::Role;

/// What a caller must have for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: it tells nothing that is worth hiding.
    Nothing,
    /// Any credentials.
    Credentials,
    /// A role.
    Role(Role),
}

use Need::{Credentials, Nothing};

const READ: Need = Need::Role(Role::Read);
const WRITE: Need = Need::Role(Role::Write);
const ADMIN: Need = Need::Role(Role::Admin);

const TABLE: &[(&str, Need)] = &[
    ("/omma.v1.CollectionService/CreateCollection", ADMIN),
    ("/omma.v1.CollectionService/GetCollection", READ),
    ("/omma.v1.CollectionService/ListCollections", READ),
    ("/omma.v1.CollectionService/DeleteCollection", ADMIN),
    ("/omma.v1.ImageService/PutImages", WRITE),
    ("/omma.v1.ImageService/IngestImages", WRITE),
    ("/omma.v1.ImageService/GetImage", READ),
    ("/omma.v1.ImageService/BatchGetImages", READ),
    ("/omma.v1.ImageService/DeleteImages", WRITE),
    ("/omma.v1.SearchService/Search", READ),
    ("/omma.v1.SearchService/BatchSearch", READ),
    ("/omma.v1.BackupService/BeginBackup", ADMIN),
    ("/omma.v1.BackupService/ReadBackup", ADMIN),
    ("/omma.v1.BackupService/RestoreImages", ADMIN),
    ("/omma.v1.ClusterService/GetClusterStatus", ADMIN),
    ("/omma.v1.ClusterService/DrainNode", ADMIN),
    ("/omma.v1.ClusterService/UndrainNode", ADMIN),
    ("/omma.v1.ClusterService/RemoveNode", ADMIN),
    ("/omma.v1.ClusterService/PauseMoves", ADMIN),
    ("/omma.v1.ClusterService/ResumeMoves", ADMIN),
    ("/omma.v1.ClusterService/ListMoves", ADMIN),
    ("/omma.v1.ClusterService/SetGroupCount", ADMIN),
    // Probes of an orchestrator have no credentials.
    ("/grpc.health.v1.Health/Check", Nothing),
    ("/grpc.health.v1.Health/Watch", Credentials),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Credentials),
];

/// What `path` needs; `None`: nobody may call it.
pub(super) fn need(path: &str) -> Option<Need> {
    TABLE.iter().find(|(row, _)| *row == path).map(|(_, need)| *need)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// Path of each method that the public port offers, out of the descriptors.
    fn offered() -> BTreeSet<String> {
        let sets = [
            omma_proto::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        ];
        let mut paths = BTreeSet::new();
        for set in sets {
            for file in FileDescriptorSet::decode(set).unwrap().file {
                if file.package() == "omma.internal.v1" {
                    continue;
                }
                for service in &file.service {
                    let path = |m: &prost_types::MethodDescriptorProto| {
                        format!("/{}.{}/{}", file.package(), service.name(), m.name())
                    };
                    paths.extend(service.method.iter().map(path));
                }
            }
        }
        paths
    }

    #[test]
    fn every_call_has_a_row_and_every_row_a_call() {
        let offered = offered();
        let rows: BTreeSet<String> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert!(offered.contains("/omma.v1.SearchService/Search"), "{offered:?}");
        assert_eq!(offered, rows, "give each call a row, with the least that it needs");
        assert_eq!(rows.len(), TABLE.len(), "a call has two rows");
    }

    #[test]
    fn what_changes_things_needs_more_than_read() {
        for (path, need) in TABLE {
            let changes =
                ["Create", "Delete", "Put", "Ingest", "Drain", "Undrain", "Remove", "Pause", "Resume", "Restore"]
                    .iter()
                    .any(|verb| path.contains(&format!("/{verb}")));
            assert!(!changes || matches!(need, Need::Role(Role::Write | Role::Admin)), "{path}");
        }
        for path in
            ["", "/", "/omma.v1.SearchService/", "/omma.internal.v1.RaftService/Vote", "/omma.v1.SearchService/search"]
        {
            assert_eq!(super::need(path), None, "{path}");
        }
    }
}
