//! The corpora, read by every test run; and the seeds that they began with.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use image::{ImageFormat, RgbImage};
use omma_proto::internal::v1 as node;
use omma_proto::internal::v1::metadata_command::Command;
use omma_proto::internal::v1::raft_entry::Payload;
use omma_proto::internal::v1::snapshot_item::Item;
use omma_proto::v1 as pb;
use parking_lot::RwLock;
use prost::Message;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::attributes::{AttributeIndex, export, tests::attributes as some_attributes};
use crate::index::{IndexConfig, LiveIndex, Storage};
use crate::store::Store;

/// The slowest of the corpora takes a hundredth of it; more would be a way to keep a thread busy.
const MOST_TIME: Duration = Duration::from_secs(5);

/// Gives `bytes` to the target of that name.
fn run(store: &Store, target: &str, bytes: &[u8]) {
    match target {
        "attributes" => attributes(bytes),
        "graph" => graph(bytes),
        "metadata" => metadata(bytes),
        "picture" => picture(bytes),
        "raft" => raft(bytes),
        "snapshot" => snapshot(store, bytes),
        "stored" => stored(bytes),
        _ => panic!("there is no target {target}"),
    }
}

fn store(folder: &Path) -> Store {
    Store::open(folder, 16 << 20, Duration::from_secs(1)).unwrap()
}

#[test]
fn every_file_of_the_corpora_is_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let corpora = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../integration-tests/fuzz/corpus");
    for target in ["attributes", "graph", "metadata", "picture", "raft", "snapshot", "stored"] {
        let mut files = 0;
        for entry in std::fs::read_dir(corpora.join(target)).unwrap() {
            let path = entry.unwrap().path();
            let (bytes, begin) = (std::fs::read(&path).unwrap(), Instant::now());
            run(&store, target, &bytes);
            assert!(begin.elapsed() < MOST_TIME, "{} took {:?}", path.display(), begin.elapsed());
            files += 1;
        }
        assert!(files > 0, "the corpus of {target} is empty");
    }
}

/// Writes them below `OMMA_FUZZ_SEEDS`, if that is set.
#[test]
fn every_seed_is_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let into = std::env::var_os("OMMA_FUZZ_SEEDS").map(PathBuf::from);
    for (n, (target, bytes)) in seeds().into_iter().enumerate() {
        run(&store, target, &bytes);
        if let Some(into) = &into {
            std::fs::create_dir_all(into.join(target)).unwrap();
            std::fs::write(into.join(target).join(format!("seed-{n}")), bytes).unwrap();
        }
    }
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds = Vec::new();
    for storage in 0..4u8 {
        seeds.push(("graph", [vec![storage], a_graph(storage)].concat()));
    }
    seeds.extend(pictures().into_iter().map(|bytes| ("picture", bytes)));
    seeds.push(("attributes", an_attribute_index()));
    seeds.push(("metadata", a_cluster().iter().flat_map(Message::encode_length_delimited_to_vec).collect()));
    seeds.push(("snapshot", a_snapshot().iter().flat_map(Message::encode_length_delimited_to_vec).collect()));
    seeds.extend(messages().into_iter().zip(0u8..).map(|(bytes, kind)| ("raft", [vec![kind], bytes].concat())));
    seeds.extend(records().into_iter().zip(0u8..).map(|(bytes, kind)| ("stored", [vec![kind], bytes].concat())));
    seeds
}

/// One of each format; of JPEGs and animations there are better ones among the corpus.
fn pictures() -> Vec<Vec<u8>> {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, Tiff, WebP};
    let pixels = RgbImage::from_fn(9, 7, |x, y| image::Rgb([x as u8 * 20, y as u8 * 30, 90]));
    let encode = |format| {
        let mut out = Cursor::new(Vec::new());
        pixels.write_to(&mut out, format).unwrap();
        out.into_inner()
    };
    [Bmp, Gif, Jpeg, Png, Tiff, WebP].map(encode).into()
}

fn a_graph(storage: u8) -> Vec<u8> {
    let storage = [Storage::F32, Storage::F16, Storage::Bf16, Storage::I8][usize::from(storage)];
    let small =
        IndexConfig { storage, connectivity: 4, expansion_add: 16, expansion_search: 16, threads: 4, dimension: 4 };
    let index = LiveIndex::new(small).unwrap();
    for i in 1..=12u16 {
        let angle = f32::from(i);
        index.insert(u64::from(i) << 12, [angle.sin() * 0.6, angle.cos() * 0.6, 0.8, 0.0]);
    }
    while index.drain(100).unwrap() > 0 {}
    index.export().unwrap().bytes
}

fn an_attribute_index() -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut index = AttributeIndex::default();
    (1..20).for_each(|n| index.insert(n << 12, &some_attributes(&mut rng)));
    export(&RwLock::new(index), u64::MAX)
}

fn space() -> Option<pb::VectorSpace> {
    Some(pb::VectorSpace { id: "s".into(), dimension: 2 })
}

fn a_cluster() -> Vec<node::MetadataCommand> {
    let one = |n: u64| node::Node { node_id: n, address: format!("n{n}:7701"), ..Default::default() };
    let group = node::Group {
        group_id: 1,
        slots: vec![node::SlotRange { first: 0, last: 4095 }],
        replicas: vec![1, 2],
        ..Default::default()
    };
    let (nodes, groups) = (vec![one(1), one(2)], vec![group]);
    let move_to = node::ReplicaMove { from_node_id: 1, to_node_id: 3, ..Default::default() };
    let commands = [
        Command::FormCluster(node::FormCluster { cluster_id: "c".into(), nodes, groups, encoder_space: space() }),
        Command::PutNode(node::PutNode { node: Some(one(3)) }),
        Command::CreateCollection(node::CreateCollection {
            name: "photos".into(),
            vector_space: space(),
            request_id: "r".into(),
            ..Default::default()
        }),
        Command::BeginMove(node::BeginMove { group_id: 1, r#move: Some(move_to), epoch: 2 }),
        Command::EndMove(node::EndMove { group_id: 1, to_node_id: 3, done: true, epoch: 3 }),
        Command::PreferLeader(node::PreferLeader { group_id: 1, node_id: 2, epoch: 4 }),
        Command::SetNodeState(node::SetNodeState { node_id: 1, state: 2 }),
        Command::RemoveNode(node::RemoveNode { node_id: 1 }),
        Command::SetMovesPaused(node::SetMovesPaused { paused: true }),
        Command::MarkCollectionDeleting(node::MarkCollectionDeleting { name: "photos".into() }),
        Command::RaiseRules(node::RaiseRules { rules: 1 }),
        Command::RemoveCollection(node::RemoveCollection { collection_uid: 1, last_group_id: 1 }),
    ];
    commands.into_iter().map(|c| node::MetadataCommand { command: Some(c) }).collect()
}

fn a_record() -> node::StoredRecord {
    let value = pb::AttributeValue { kind: Some(pb::attribute_value::Kind::IntegerValue(7)) };
    node::StoredRecord {
        id: "cat.jpg".into(),
        attributes: [("size".to_owned(), value)].into(),
        content_digest: vec![1; 32].into(),
        record_digest: vec![2; 16].into(),
    }
}

fn an_answer() -> node::StoredAnswer {
    node::StoredAnswer { index: 3, collection_uid: 1, request_id: "r".into(), ..Default::default() }
}

fn a_collection() -> node::StoredCollection {
    node::StoredCollection { uid: 1, dimension: 2, ..Default::default() }
}

fn a_snapshot() -> Vec<node::SnapshotItem> {
    let start =
        node::SnapshotStart { format: 2, collections: vec![a_collection()], applied_index: 9, ..Default::default() };
    let embedding = [0.6f32, 0.8].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>().into();
    let record = node::SnapshotRecord { collection_uid: 1, key: 5 << 12, record: Some(a_record()), embedding };
    let end = node::SnapshotEnd { records: 1, settled_index: 11 };
    let items = [Item::Start(start), Item::Answer(an_answer()), Item::Record(record), Item::End(end)];
    items.into_iter().map(|item| node::SnapshotItem { item: Some(item) }).collect()
}

/// In the order of the kinds of `raft`.
fn messages() -> Vec<Vec<u8>> {
    let id = |index| Some(node::RaftLogId { term: 2, node_id: 1, index });
    let vote = Some(node::RaftVote { term: 2, node_id: 1, committed: true });
    let members = node::RaftMembership {
        configs: vec![node::NodeSet { node_ids: vec![1, 2] }],
        nodes: (1..4).map(|n| node::RaftNode { node_id: n, address: format!("n{n}:1") }).collect(),
    };
    let entry = |index, payload| node::RaftEntry { log_id: id(index), payload: Some(payload) };
    let entries =
        vec![entry(8, Payload::Command(vec![1, 2, 3].into())), entry(9, Payload::Membership(members.clone()))];
    let applied = node::RaftApplied {
        last_applied: id(7),
        membership: Some(node::RaftStoredMembership { log_id: id(1), membership: Some(members.clone()) }),
    };
    let ask = node::VoteRequest { group_id: 1, vote, last_log_id: id(7), to: 2, ..Default::default() };
    let append = node::AppendRequest { group_id: 1, vote, prev_log_id: id(7), leader_commit: id(6), entries, to: 2 };
    let header = node::SnapshotHeader { group_id: 1, vote, applied: Some(applied), to: 2 };
    use node::append_response::Result as R;
    let answer = |result| node::AppendResponse { result: Some(result) }.encode_to_vec();
    let changed = node::TransferVoteChanged { expected: vote, actual: vote };
    vec![
        ask.encode_to_vec(),
        node::VoteResponse { vote, vote_granted: true, last_log_id: id(7) }.encode_to_vec(),
        append.encode_to_vec(),
        answer(R::PartialSuccess(node::PartialSuccess { matching: id(7) })),
        answer(R::StreamSuccess(node::PartialSuccess { matching: id(7) })),
        header.encode_to_vec(),
        node::InstallSnapshotResponse { vote }.encode_to_vec(),
        node::TransferLeaderRequest { group_id: 1, from: vote, to: 2, last_log_id: id(7) }.encode_to_vec(),
        node::TransferLeaderResponse { refusal: Some(node::transfer_leader_response::Refusal::VoteChanged(changed)) }
            .encode_to_vec(),
        entry(9, Payload::Membership(members)).encode_to_vec(),
        node::InstallSnapshotRequest { message: Some(node::install_snapshot_request::Message::Header(header)) }
            .encode_to_vec(),
        entry(8, Payload::Blank(node::RaftBlank {})).encode_to_vec(),
    ]
}

/// In the order of the kinds of `stored`.
fn records() -> Vec<Vec<u8>> {
    let manifest = node::CheckpointManifest {
        collection_uid: 1,
        generation: 3,
        watermark: 4096,
        graph_count: 1,
        bytes: 100,
        chunks: 1,
        digest: vec![3; 32].into(),
        dimension: 2,
        attribute_bytes: 10,
        attribute_chunks: 1,
        attribute_digest: vec![4; 32].into(),
    };
    vec![
        a_record().encode_to_vec(),
        a_collection().encode_to_vec(),
        an_answer().encode_to_vec(),
        [0.6f32, 0.8].iter().flat_map(|x| x.to_le_bytes()).collect(),
        vec![0, 0, 0, 0, 0, 0, 0, 7],
        manifest.encode_to_vec(),
    ]
}
