//! Round trips over arbitrary values, through the encoded bytes.

use super::*;
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

fn through<M: Message + Default>(message: M) -> M {
    M::decode(Bytes::from(message.encode_to_vec())).unwrap()
}

fn votes() -> impl Strategy<Value = Vote> {
    (any::<u64>(), any::<u64>(), any::<bool>())
        .prop_map(|(term, node_id, committed)| Vote { leader_id: Leader { term, node_id }, committed })
}

fn log_ids() -> impl Strategy<Value = LogId> {
    (any::<u64>(), any::<u64>(), 0..u64::MAX / 2)
        .prop_map(|(term, node_id, index)| LogId { leader_id: Leader { term, node_id }, index })
}

fn memberships() -> impl Strategy<Value = Membership> {
    let sets = proptest::collection::vec(proptest::collection::btree_set(0..20u64, 1..5), 0..3);
    (sets, proptest::collection::btree_set(20..30u64, 0..3)).prop_map(|(configs, learners)| {
        let ids = configs.iter().flatten().chain(&learners).copied();
        let nodes: BTreeMap<u64, BasicNode> = ids.map(|id| (id, BasicNode::new(format!("host-{id}:7001")))).collect();
        match configs.is_empty() {
            true => Membership::default(),
            false => Membership::new(configs, nodes).unwrap(),
        }
    })
}

fn payloads() -> impl Strategy<Value = EntryPayload<Command, u64, BasicNode>> {
    prop_oneof![
        Just(EntryPayload::Blank),
        proptest::collection::vec(any::<u8>(), 0..200)
            .prop_map(|b| EntryPayload::Normal(Command(b.into(), Trail::default()))),
        memberships().prop_map(EntryPayload::Membership),
    ]
}

fn append_requests() -> impl Strategy<Value = AppendEntriesRequest<Config>> {
    let log = (proptest::option::of(log_ids()), proptest::collection::vec((payloads(), any::<u64>()), 0..6));
    (votes(), log, proptest::option::of(log_ids())).prop_map(|(vote, (prev_log_id, payloads), leader_commit)| {
        let first = prev_log_id.map_or(0, |id| id.index + 1);
        let entries = (first..).zip(payloads).map(|(index, (payload, term))| Entry {
            log_id: LogId { leader_id: Leader { term, node_id: 3 }, index },
            payload,
        });
        AppendEntriesRequest { vote, prev_log_id, entries: entries.collect(), leader_commit }
    })
}

proptest! {
    #[test]
    fn entries(payload in payloads(), log_id in log_ids()) {
        let original = Entry { log_id, payload };
        prop_assert_eq!(read_entry(through(entry(&original))).unwrap(), original);
    }

    #[test]
    fn appends(request in append_requests(), group in any::<u32>()) {
        let sent = through(append_request(group, 8, &request));
        prop_assert_eq!((sent.group_id, sent.to), (group, 8));
        let read = read_append_request(sent).unwrap();
        prop_assert_eq!(read.vote, request.vote);
        prop_assert_eq!(read.prev_log_id, request.prev_log_id);
        prop_assert_eq!(read.leader_commit, request.leader_commit);
        prop_assert_eq!(read.entries, request.entries);
    }

    #[test]
    fn gaps_are_refused(request in append_requests(), at in any::<prop::sample::Index>()) {
        prop_assume!(!request.entries.is_empty());
        let mut sent = append_request(1, 8, &request);
        let at = at.index(sent.entries.len());
        sent.entries[at].log_id.as_mut().unwrap().index += 1;
        prop_assert!(read_append_request(sent).is_err());
    }

    #[test]
    fn append_answers(id in proptest::option::of(log_ids()), other in log_ids(), v in votes()) {
        use AppendEntriesResponse as A;
        for response in [A::Success, A::PartialSuccess(id), A::Conflict, A::HigherVote(v)] {
            prop_assert_eq!(read_append_response(&through(append_response(&response))).unwrap(), response);
        }
        let answers: [StreamAppendResult<Config>; 3] =
            [Ok(id), Err(StreamAppendError::Conflict(other)), Err(StreamAppendError::HigherVote(v))];
        for answer in answers {
            prop_assert_eq!(read_stream_response(&through(stream_response(&answer))).unwrap(), answer);
        }
    }

    #[test]
    fn voting(v in votes(), id in proptest::option::of(log_ids()), a in any::<bool>(), b in any::<bool>()) {
        let mut request = VoteRequest::<Config>::new(v, id);
        request.leadership_transfer = a;
        let sent = through(vote_request(9, 8, &request, b));
        prop_assert_eq!((sent.group_id, sent.to, sent.pre_vote), (9, 8, b));
        prop_assert_eq!(read_vote_request(&sent).unwrap(), request);
        let response = VoteResponse::<Config>::new(v, id, a);
        prop_assert_eq!(read_vote_response(&through(vote_response(&response))).unwrap(), response);
    }

    #[test]
    fn what_was_applied(last in proptest::option::of(log_ids()), at in proptest::option::of(log_ids()), m in memberships(), v in votes()) {
        let meta = SnapshotMeta { last_log_id: last, last_membership: StoredMembership::new(at, m) };
        let stored = through(applied(last.as_ref(), &meta.last_membership));
        prop_assert_eq!(read_applied(&stored).unwrap(), meta.clone());
        let header = through(snapshot_header(4, 8, &v, &meta));
        prop_assert_eq!(read_snapshot_header(&header).unwrap(), (v, meta));
        prop_assert_eq!(read_snapshot_response(&through(snapshot_response(&v))).unwrap(), v);
    }

    #[test]
    fn transfers(v in votes(), w in votes(), to in any::<u64>(), id in proptest::option::of(log_ids()), other in proptest::option::of(log_ids())) {
        let request = TransferLeaderRequest::<Config>::new(v, to, id);
        prop_assert_eq!(read_transfer_request(&through(transfer_request(2, &request))).unwrap(), request);
        let answers: [TransferLeaderResponse<Config>; 3] = [
            Ok(()),
            Err(TransferLeaderError::VoteChanged { expected: v, actual: w }),
            Err(TransferLeaderError::LogNotFlushed { expected: id, actual: other }),
        ];
        for answer in answers {
            prop_assert_eq!(read_transfer_response(&through(transfer_response(&answer))).unwrap(), answer);
        }
    }

    #[test]
    fn any_bytes_decode_to_a_value_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(request) = proto::AppendRequest::decode(bytes.as_slice()) { let _ = read_append_request(request); }
        if let Ok(applied) = proto::RaftApplied::decode(bytes.as_slice()) { let _ = read_applied(&applied); }
    }
}

#[test]
fn commands_are_not_copied() {
    let bytes = Bytes::from(vec![7u8; 1000]);
    let log_id = LogId { leader_id: Leader { term: 1, node_id: 2 }, index: 3 };
    let sent = entry(&Entry { log_id, payload: EntryPayload::Normal(Command(bytes.clone(), Trail::default())) });
    let encoded = Bytes::from(sent.encode_to_vec());
    let range = encoded.as_ptr_range();
    let read = read_entry(proto::RaftEntry::decode(encoded.clone()).unwrap()).unwrap();
    let EntryPayload::Normal(Command(command, _)) = read.payload else { panic!("not a command") };
    assert_eq!(command, bytes);
    assert!(range.contains(&command.as_ptr()), "the command was copied while decoding");
}

/// `bytes`, some of them changed, and cut off somewhere.
fn spoilt(mut bytes: Vec<u8>, hits: &[(proptest::sample::Index, u8)], cut: Option<proptest::sample::Index>) -> Vec<u8> {
    for (at, byte) in hits.iter().filter(|_| !bytes.is_empty()).collect::<Vec<_>>() {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    let end = cut.map_or(bytes.len(), |cut| cut.index(bytes.len() + 1));
    bytes.truncate(end);
    bytes
}

/// Reads `bytes` as each message that a peer may send.
fn read_as_everything(bytes: &[u8]) {
    macro_rules! try_as {
        ($($message:ident => $read:expr;)*) => {
            $(if let Ok(message) = proto::$message::decode(bytes) {
                let _ = $read(message);
            })*
        };
    }
    try_as! {
        AppendRequest => read_append_request;
        RaftEntry => read_entry;
        RaftMembership => |m| read_membership(&m);
        RaftApplied => |m| read_applied(&m);
        VoteRequest => |m| read_vote_request(&m);
        VoteResponse => |m| read_vote_response(&m);
        AppendResponse => |m| (read_append_response(&m).is_ok(), read_stream_response(&m).is_ok());
        SnapshotHeader => |m| read_snapshot_header(&m);
        InstallSnapshotResponse => |m| read_snapshot_response(&m);
        TransferLeaderRequest => |m| read_transfer_request(&m);
        TransferLeaderResponse => |m| read_transfer_response(&m);
    }
}

proptest! {
    #[test]
    fn spoilt_messages_are_refused_or_read_and_never_panic(
        request in append_requests(),
        hits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
        noise in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        read_as_everything(&spoilt(append_request(3, 8, &request).encode_to_vec(), &hits, cut));
        read_as_everything(&noise);
    }
}
