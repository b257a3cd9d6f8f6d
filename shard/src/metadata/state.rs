//! How metadata commands change the metadata: pure.

use omma_common::ids::{check_collection_name, check_request_id};
use omma_common::limits::{MAX_COLLECTIONS, MAX_DIMENSION};
use omma_proto::internal::v1::metadata_command::Command;
use omma_proto::internal::v1::metadata_outcome::Outcome;
use omma_proto::internal::v1::{
    CollectionEntry, CreateCollection, FormCluster, Metadata, MetadataCommand, MetadataOutcome, MetadataRefusal,
    RemoveCollection,
};
use omma_proto::v1::{Collection, VectorSpace};

use super::rules::{self, REMOVAL_LOOKS_AT_GROUPS};
use super::{groups, moves, nodes};

/// Applies the command at log `index`.
pub(super) fn apply(metadata: &mut Metadata, index: u64, command: MetadataCommand) -> MetadataOutcome {
    let result = match command.command {
        Some(Command::FormCluster(form)) => form_cluster(metadata, form),
        Some(_) if metadata.cluster_id.is_empty() => Err(MetadataRefusal::NoCluster),
        Some(Command::PutNode(put)) => without_collection(nodes::put(metadata, put)),
        Some(Command::CreateCollection(create)) => create_collection(metadata, create),
        Some(Command::MarkCollectionDeleting(mark)) => mark_deleting(metadata, &mark.name),
        Some(Command::RemoveCollection(remove)) => remove_collection(metadata, &remove),
        Some(Command::SetNodeState(set)) => without_collection(nodes::set_state(metadata, &set)),
        Some(Command::RemoveNode(remove)) => without_collection(nodes::remove(metadata, remove.node_id)),
        Some(Command::SetMovesPaused(set)) => {
            let changed = std::mem::replace(&mut metadata.moves_paused, set.paused) != set.paused;
            without_collection(Ok(changed))
        }
        Some(Command::BeginMove(begin)) => without_collection(moves::begin(metadata, begin)),
        Some(Command::EndMove(end)) => without_collection(moves::end(metadata, &end)),
        Some(Command::PreferLeader(prefer)) => without_collection(moves::prefer_leader(metadata, &prefer)),
        Some(Command::SetGroups(set)) => without_collection(groups::set(metadata, &set)),
        Some(Command::AddGroup(add)) => without_collection(groups::add(metadata, add)),
        Some(Command::BeginSlotMove(begin)) => without_collection(groups::begin_move(metadata, begin)),
        Some(Command::SwitchSlots(switch)) => without_collection(groups::switch(metadata, &switch)),
        Some(Command::EndSlotMove(end)) => without_collection(groups::end_move(metadata, end.move_id)),
        Some(Command::RetireGroup(retire)) => without_collection(groups::retire(metadata, &retire)),
        Some(Command::RaiseRules(raise)) => without_collection(Ok(rules::raise(metadata, raise.rules))),
        None => Err(MetadataRefusal::Invalid),
    };
    let outcome = match result {
        Ok(Some((collection, changed))) => {
            if changed {
                metadata.version = index;
            }
            Outcome::Done(collection)
        }
        Ok(None) => {
            metadata.version = index;
            Outcome::Done(Collection::default())
        }
        Err(refusal) => Outcome::Refusal(refusal as i32),
    };
    MetadataOutcome { outcome: Some(outcome), version: metadata.version }
}

/// The collection concerned, and whether anything changed; `None`: changed, but no collection.
type Applied = Result<Option<(Collection, bool)>, MetadataRefusal>;

/// Of a command that concerns none.
fn without_collection(changed: Result<bool, MetadataRefusal>) -> Applied {
    changed.map(|changed| Some((Collection::default(), changed)))
}

fn form_cluster(metadata: &mut Metadata, form: FormCluster) -> Applied {
    if !metadata.cluster_id.is_empty() {
        return Err(MetadataRefusal::ClusterExists);
    }
    if form.cluster_id.is_empty() || form.nodes.is_empty() || form.groups.is_empty() {
        return Err(MetadataRefusal::Invalid);
    }
    metadata.cluster_id = form.cluster_id;
    metadata.nodes = form.nodes;
    metadata.nodes.sort_by_key(|n| n.node_id);
    metadata.groups = form.groups;
    metadata.encoder_space = form.encoder_space;
    metadata.epoch = 1;
    metadata.next_collection_uid = 1;
    Ok(None)
}

fn position(metadata: &Metadata, name: &str) -> Result<usize, usize> {
    metadata.collections.binary_search_by(|e| name_of(e).cmp(name))
}

fn name_of(entry: &CollectionEntry) -> &str {
    entry.collection.as_ref().map_or("", |c| &c.name)
}

fn create_collection(metadata: &mut Metadata, create: CreateCollection) -> Applied {
    let valid_space = |s: &VectorSpace| !s.id.is_empty() && (1..=MAX_DIMENSION).contains(&s.dimension);
    let space = create.vector_space.filter(valid_space).ok_or(MetadataRefusal::Invalid)?;
    if check_collection_name(&create.name).is_err() || check_request_id(&create.request_id).is_err() {
        return Err(MetadataRefusal::Invalid);
    }
    let at = match position(metadata, &create.name) {
        Ok(at) => return existing(&metadata.collections[at], &create.request_id),
        Err(at) => at,
    };
    if metadata.collections.len() >= MAX_COLLECTIONS {
        return Err(MetadataRefusal::TooManyCollections);
    }
    let collection = Collection {
        name: create.name,
        uid: metadata.next_collection_uid,
        vector_space: Some(space),
        create_time: create.create_time,
        image_count: 0,
        quantization: create.quantization,
    };
    metadata.next_collection_uid += 1;
    let entry =
        CollectionEntry { collection: Some(collection.clone()), deleting: false, request_id: create.request_id };
    metadata.collections.insert(at, entry);
    Ok(Some((collection, true)))
}

/// The name is taken: fine if it was taken by the same request.
fn existing(entry: &CollectionEntry, request_id: &str) -> Applied {
    if entry.deleting {
        return Err(MetadataRefusal::CollectionDeleting);
    }
    match &entry.collection {
        Some(collection) if !request_id.is_empty() && entry.request_id == request_id => {
            Ok(Some((collection.clone(), false)))
        }
        _ => Err(MetadataRefusal::CollectionExists),
    }
}

fn mark_deleting(metadata: &mut Metadata, name: &str) -> Applied {
    let at = position(metadata, name).map_err(|_| MetadataRefusal::CollectionNotFound)?;
    let entry = &mut metadata.collections[at];
    let changed = !std::mem::replace(&mut entry.deleting, true);
    Ok(Some((entry.collection.clone().unwrap_or_default(), changed)))
}

/// Once no group holds images of it, and none can be given any: those that come later take over from groups that have
/// dropped it.
fn remove_collection(metadata: &mut Metadata, remove: &RemoveCollection) -> Applied {
    let RemoveCollection { collection_uid: uid, last_group_id: last } = *remove;
    let is_it = |e: &CollectionEntry| e.deleting && e.collection.as_ref().is_some_and(|c| c.uid == uid);
    let looks = last != 0 && metadata.rules >= REMOVAL_LOOKS_AT_GROUPS;
    match metadata.collections.iter().position(is_it) {
        Some(_) if looks && metadata.groups.iter().any(|g| g.group_id > last) => Err(MetadataRefusal::StaleEpoch),
        Some(at) => Ok(Some((metadata.collections.remove(at).collection.unwrap_or_default(), true))),
        // Whoever deleted it beside us was first.
        None => Ok(Some((Collection::default(), false))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_proto::internal::v1::{Group, MarkCollectionDeleting, Node, PutNode, RaiseRules};

    fn node(node_id: u64, address: &str) -> Node {
        Node { node_id, address: address.into(), ..Node::default() }
    }

    fn formed() -> Metadata {
        let mut metadata = Metadata::default();
        let form = FormCluster {
            cluster_id: "c".into(),
            nodes: vec![node(2, "b"), node(1, "a")],
            groups: vec![Group { group_id: 1, ..Group::default() }],
            encoder_space: None,
        };
        let outcome = run(&mut metadata, 1, Command::FormCluster(form.clone()));
        assert!(matches!(outcome, Outcome::Done(_)));
        assert_eq!(run(&mut metadata, 2, Command::FormCluster(form)), refusal(MetadataRefusal::ClusterExists));
        metadata
    }

    fn run(metadata: &mut Metadata, index: u64, command: Command) -> Outcome {
        apply(metadata, index, MetadataCommand { command: Some(command) }).outcome.unwrap()
    }

    fn refusal(why: MetadataRefusal) -> Outcome {
        Outcome::Refusal(why as i32)
    }

    fn create(name: &str, request_id: &str) -> Command {
        Command::CreateCollection(CreateCollection {
            name: name.into(),
            vector_space: Some(VectorSpace { id: "s".into(), dimension: 4 }),
            create_time: None,
            request_id: request_id.into(),
            quantization: 0,
        })
    }

    fn uid(outcome: Outcome) -> u64 {
        match outcome {
            Outcome::Done(collection) => collection.uid,
            Outcome::Refusal(why) => panic!("refused: {why}"),
        }
    }

    #[test]
    fn names_are_taken_once_and_uids_never_again() {
        let mut m = formed();
        assert_eq!(uid(run(&mut m, 2, create("b", "r1"))), 1);
        assert_eq!(uid(run(&mut m, 3, create("a", ""))), 2);
        assert_eq!(uid(run(&mut m, 4, create("b", "r1"))), 1, "a retry");
        assert_eq!(run(&mut m, 5, create("b", "r2")), refusal(MetadataRefusal::CollectionExists));
        assert_eq!(run(&mut m, 5, create("a", "")), refusal(MetadataRefusal::CollectionExists));
        assert_eq!(m.collections.iter().map(name_of).collect::<Vec<_>>(), ["a", "b"]);

        let mark = || Command::MarkCollectionDeleting(MarkCollectionDeleting { name: "b".into() });
        assert_eq!((uid(run(&mut m, 6, mark())), uid(run(&mut m, 7, mark()))), (1, 1));
        assert_eq!(run(&mut m, 8, create("b", "r1")), refusal(MetadataRefusal::CollectionDeleting));
        let remove = |collection_uid| RemoveCollection { collection_uid, last_group_id: 1 };
        run(&mut m, 9, Command::RemoveCollection(remove(1)));
        run(&mut m, 9, Command::RemoveCollection(remove(2)));
        assert_eq!(m.collections.len(), 1, "only what is marked is removed");
        assert_eq!(uid(run(&mut m, 10, create("b", "r3"))), 3);
    }

    #[test]
    fn a_deletion_ends_once_every_group_has_dropped_the_collection() {
        let mut m = formed();
        run(&mut m, 2, create("a", ""));
        run(&mut m, 3, Command::MarkCollectionDeleting(MarkCollectionDeleting { name: "a".into() }));
        // Added after the groups of that moment were told.
        m.groups.push(Group { group_id: 2, ..Group::default() });
        let remove = |last_group_id| Command::RemoveCollection(RemoveCollection { collection_uid: 1, last_group_id });
        let raise = |rules| Command::RaiseRules(RaiseRules { rules });
        let mut older = m.clone();
        assert_eq!(uid(run(&mut older, 4, remove(1))), 1, "as replicas of an older version apply it");

        run(&mut m, 4, raise(1));
        assert_eq!((m.rules, m.version), (1, 4));
        assert_eq!(run(&mut m, 5, remove(1)), refusal(MetadataRefusal::StaleEpoch));
        assert_eq!(m.collections.len(), 1);
        run(&mut m, 6, raise(0));
        assert_eq!((m.rules, m.version), (1, 4), "never lowered");
        assert_eq!(uid(run(&mut m, 7, remove(2))), 1);
        assert!(m.collections.is_empty());
        assert_eq!(uid(run(&mut m, 8, remove(1))), 0, "again, late");
    }

    #[test]
    fn the_version_grows_with_changes_only() {
        let mut m = formed();
        run(&mut m, 5, create("a", "r"));
        assert_eq!(m.version, 5);
        run(&mut m, 6, create("a", "r"));
        run(&mut m, 7, Command::PutNode(PutNode { node: Some(node(1, "a")) }));
        assert_eq!((m.version, m.epoch), (5, 1));
        run(&mut m, 8, Command::PutNode(PutNode { node: Some(node(1, "moved")) }));
        run(&mut m, 9, Command::PutNode(PutNode { node: Some(node(3, "c")) }));
        assert_eq!((m.version, m.epoch, m.nodes.len()), (9, 3, 3));
    }

    #[test]
    fn nothing_happens_before_there_is_a_cluster() {
        let mut m = Metadata::default();
        assert_eq!(run(&mut m, 1, create("a", "")), refusal(MetadataRefusal::NoCluster));
        assert_eq!(m, Metadata::default());
    }

    #[test]
    fn nonsense_is_refused() {
        let mut m = formed();
        assert_eq!(run(&mut m, 2, create("Not Valid", "")), refusal(MetadataRefusal::Invalid));
        let no_space = CreateCollection { name: "a".into(), ..CreateCollection::default() };
        assert_eq!(run(&mut m, 3, Command::CreateCollection(no_space)), refusal(MetadataRefusal::Invalid));
        assert_eq!(run(&mut m, 4, Command::PutNode(PutNode { node: None })), refusal(MetadataRefusal::Invalid));
    }
}
