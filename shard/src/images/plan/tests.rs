use omma_proto::internal::v1::DropRecords;
use omma_proto::v1::PutEffect;

use super::*;

/// A view of nothing: all state is in the plan itself.
struct Empty;
impl View for Empty {
    fn slots(&self) -> Arc<Slots> {
        Arc::default()
    }
    fn collection(&self, _: u64) -> Option<StoredCollection> {
        None
    }
    fn key_of(&self, _: u64, _: &str) -> Result<Option<RecordKey>, StateError> {
        Ok(None)
    }
    fn record(&self, _: u64, _: RecordKey) -> Result<Option<StoredRecord>, StateError> {
        Ok(None)
    }
    fn embedding(&self, _: u64, _: RecordKey) -> Result<Option<Vec<f32>>, StateError> {
        Ok(None)
    }
}

fn put(request_id: &str, ids: &[&str], x: f32) -> Bytes {
    let records = ids
        .iter()
        .map(|id| PutRecord {
            id: (*id).to_owned(),
            embedding: omma_common::vector::to_bytes(&[x, 0.0]),
            ..PutRecord::default()
        })
        .collect();
    let command = Some(Command::Put(PutRecords { dimension: 2, records, ..PutRecords::default() }));
    ImageCommand { request_id: request_id.to_owned(), collection_uid: 1, command }.encode_to_vec().into()
}

fn delete(ids: &[&str]) -> Bytes {
    let ids = ids.iter().map(|id| (*id).to_owned()).collect();
    let command = Some(Command::Delete(DeleteRecords { ids }));
    ImageCommand { collection_uid: 1, command, ..ImageCommand::default() }.encode_to_vec().into()
}

fn run(planner: &mut Planner<'_, Empty>, index: u64, command: &Bytes) -> ImageOutcome {
    ImageOutcome::decode(planner.command(index, command).unwrap()).unwrap()
}

#[test]
fn puts_are_created_replaced_or_unchanged() {
    let mut answers = Answers::default();
    let mut p = Planner::new(&Empty, &mut answers);
    let effects = |o: ImageOutcome| o.effects().collect::<Vec<_>>();
    assert_eq!(effects(run(&mut p, 1, &put("", &["a", "b"], 1.0))), [PutEffect::Created; 2]);
    assert_eq!(effects(run(&mut p, 2, &put("", &["a"], 1.0))), [PutEffect::Unchanged]);
    assert_eq!(effects(run(&mut p, 3, &put("", &["a"], -1.0))), [PutEffect::Replaced]);
    assert_eq!(run(&mut p, 4, &delete(&["a", "x"])).deleted_count, 1);
    assert_eq!(p.collections[&1].image_count, 1);
}

#[test]
fn a_retry_has_no_second_effect() {
    let mut answers = Answers::default();
    let mut p = Planner::new(&Empty, &mut answers);
    let first = run(&mut p, 1, &put("r", &["a"], 1.0));
    run(&mut p, 2, &delete(&["a"]));
    assert_eq!(run(&mut p, 3, &put("r", &["a"], 1.0)), first);
    assert_eq!(p.collections[&1].image_count, 0);
}

#[test]
fn a_request_id_stands_for_one_request() {
    let mut answers = Answers::default();
    let mut p = Planner::new(&Empty, &mut answers);
    run(&mut p, 1, &put("r", &["a"], 1.0));
    let delete = Command::Delete(DeleteRecords { ids: vec!["a".into()] });
    let others = [put("r", &["b"], 1.0), put("r", &["a"], -1.0), crate::images::command::encode("r", 1, delete)];
    for (other, index) in others.iter().zip(2..) {
        assert_eq!(run(&mut p, index, other).refusal(), ImageRefusal::RequestIdReused);
    }
    assert_eq!(p.collections[&1].image_count, 1);
}

#[test]
fn applying_again_changes_nothing() {
    let mut answers = Answers::default();
    let mut p = Planner::new(&Empty, &mut answers);
    let log = [put("", &["a"], 1.0), put("", &["a", "b"], -1.0), delete(&["b"]), put("", &["b"], 1.0)];
    log.iter().zip(1..).for_each(|(c, i)| drop(run(&mut p, i, c)));
    let (before, keys) = (p.collections[&1].clone(), p.ids.clone());
    log.iter().zip(1..).for_each(|(c, i)| drop(run(&mut p, i, c)));
    assert_eq!((&p.collections[&1], &p.ids), (&before, &keys));
}

#[test]
fn a_dropped_collection_refuses_for_ever() {
    let mut answers = Answers::default();
    let mut p = Planner::new(&Empty, &mut answers);
    run(&mut p, 1, &put("", &["a"], 1.0));
    let command = Some(Command::Drop(DropRecords {}));
    let drop = ImageCommand { collection_uid: 1, command, ..ImageCommand::default() }.encode_to_vec().into();
    assert_eq!(run(&mut p, 2, &drop).deleted_count, 1);
    assert_eq!(run(&mut p, 3, &put("", &["a"], 1.0)).refusal(), ImageRefusal::CollectionDropped);
    assert_eq!(run(&mut p, 4, &delete(&["a"])).refusal(), ImageRefusal::CollectionDropped);
    assert!(p.index.is_empty());
}

#[test]
fn malformed_commands_are_refused() {
    let mut answers = Answers::default();
    let mut p = Planner::new(&Empty, &mut answers);
    assert_eq!(run(&mut p, 1, &Bytes::from_static(&[0xff; 7])).refusal(), ImageRefusal::Invalid);
    assert_eq!(run(&mut p, 2, &Bytes::new()).refusal(), ImageRefusal::Invalid);
    run(&mut p, 3, &put("", &["a"], 1.0));
    let other = PutRecords {
        dimension: 1,
        records: vec![PutRecord { id: "a".into(), embedding: vec![0; 4].into(), ..PutRecord::default() }],
        ..PutRecords::default()
    };
    let wrong = ImageCommand { collection_uid: 1, command: Some(Command::Put(other)), ..ImageCommand::default() };
    assert_eq!(run(&mut p, 4, &wrong.encode_to_vec().into()).refusal(), ImageRefusal::Dimension);
}
