//! Is a request known? Pure.
//!
//! A request that is sent again is usually the same command. After slots have moved it may be cut into other parts than
//! at first: then each image is looked for by itself.

use std::sync::Arc;

use bytes::Bytes;
use omma_proto::internal::v1::image_command::Command;
use omma_proto::internal::v1::{ImageOutcome, ImageRefusal, StoredAnswer};
use prost::Message;

use super::answers::fits;

/// What is known of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing.
    New,
    /// All of it was answered so.
    Whole(Bytes),
    /// What was answered for each image; `None`: it is new.
    Parts(Vec<Option<Effect>>),
    /// The id was that of another request.
    Other,
}

/// What was done to one image: a put's effect, or whether a delete found it.
pub(super) type Effect = i32;

/// Looks a request up among the `answers` under its id. `may_be_new` says of a part whether an image could be new although
/// others of the request are known. It could, too, where all that is known came with slots from other groups: this group's
/// own part of the request may still be on its way.
pub(super) fn known(
    answers: &[Arc<StoredAnswer>],
    fingerprint: &Bytes,
    parts: &[u64],
    may_be_new: impl Fn(u64) -> bool,
) -> Known {
    if answers.is_empty() {
        return Known::New;
    }
    if let Some(whole) = answers.iter().find(|a| fits(a, fingerprint)) {
        return Known::Whole(whole.outcome.clone());
    }
    let outcomes: Vec<_> = answers.iter().filter_map(effects).collect();
    let effect =
        |part: &u64| outcomes.iter().find_map(|(a, e)| e.get(a.parts.iter().position(|p| p == part)?).copied());
    let found: Vec<_> = parts.iter().map(effect).collect();
    let all_imported = answers.iter().all(|answer| answer.place > 0);
    let is_explained = |part: &u64, effect: &Option<Effect>| effect.is_some() || all_imported || may_be_new(*part);
    let explained = parts.iter().zip(&found).all(|(part, effect)| is_explained(part, effect));
    if explained && !parts.is_empty() { Known::Parts(found) } else { Known::Other }
}

fn effects(answer: &Arc<StoredAnswer>) -> Option<(&StoredAnswer, Vec<Effect>)> {
    let outcome = ImageOutcome::decode(answer.outcome.clone()).ok()?;
    let existed = outcome.existed.iter().map(|e| Effect::from(*e));
    Some((answer, outcome.effects.iter().copied().chain(existed).collect()))
}

/// What is left of a command whose images are known in part.
pub(super) fn unknown(command: Command, known: &[Option<Effect>]) -> Command {
    let mut is_new = known.iter().map(Option::is_none);
    let mut keep = || is_new.next().unwrap_or(true);
    match command {
        Command::Put(mut put) => {
            put.records.retain(|_| keep());
            Command::Put(put)
        }
        Command::Delete(mut delete) => {
            delete.ids.retain(|_| keep());
            Command::Delete(delete)
        }
        other => other,
    }
}

/// The outcome of the whole command, out of what is known and the outcome of what was not.
pub(super) fn complete(outcome: ImageOutcome, known: &[Option<Effect>], is_delete: bool) -> ImageOutcome {
    if outcome.refusal() != ImageRefusal::Unspecified {
        return outcome;
    }
    let mut new = outcome.effects.into_iter().chain(outcome.existed.into_iter().map(Effect::from));
    let all: Vec<Effect> = known.iter().map(|k| k.or_else(|| new.next()).unwrap_or_default()).collect();
    match is_delete {
        true => deleted(all.into_iter().map(|e| e != 0).collect()),
        false => ImageOutcome { effects: all, ..ImageOutcome::default() },
    }
}

/// The outcome of a delete.
pub(super) fn deleted(existed: Vec<bool>) -> ImageOutcome {
    let deleted_count = existed.iter().filter(|e| **e).count() as u32;
    ImageOutcome { deleted_count, existed, ..ImageOutcome::default() }
}

#[cfg(test)]
mod tests {
    use super::super::answers::Answers;
    use super::*;
    use omma_proto::internal::v1::DeleteRecords;
    use omma_proto::v1::PutEffect;

    fn answers(all: &[(u8, &[u64], &[PutEffect])]) -> Answers {
        let mut answers = Answers::default();
        for (place, (fingerprint, parts, effects)) in (0..).zip(all) {
            let effects = effects.iter().map(|e| *e as i32).collect();
            answers.keep(StoredAnswer {
                index: 7,
                place,
                collection_uid: 1,
                request_id: "r".into(),
                outcome: ImageOutcome { effects, ..ImageOutcome::default() }.encode_to_vec().into(),
                fingerprint: vec![*fingerprint].into(),
                parts: parts.to_vec(),
            });
        }
        answers
    }

    fn look(answers: &Answers, fingerprint: u8, parts: &[u64]) -> Known {
        known(answers.get(1, "r"), &vec![fingerprint].into(), parts, |part| part >= 100)
    }

    #[test]
    fn parts_are_known_wherever_they_were_answered() {
        use PutEffect::{Created, Replaced};
        // What was one request to two groups, that are one now.
        let a = answers(&[(1, &[5, 6], &[Created, Replaced]), (2, &[101], &[Replaced])]);
        assert_eq!(look(&answers(&[]), 1, &[5]), Known::New);
        assert!(matches!(look(&a, 2, &[101]), Known::Whole(_)));
        let effects = |all: &[PutEffect]| Known::Parts(all.iter().map(|e| Some(*e as i32)).collect());
        assert_eq!(look(&a, 3, &[6]), effects(&[Replaced]));
        assert_eq!(look(&a, 3, &[101, 5, 6]), effects(&[Replaced, Created, Replaced]));
        assert_eq!(look(&a, 3, &[5, 102]), Known::Parts(vec![Some(Created as i32), None]), "102 came later");
        assert_eq!(look(&a, 3, &[5, 7]), Known::Other, "7 was always here");
        assert_eq!(look(&a, 3, &[7]), Known::Other);
    }

    #[test]
    fn what_came_from_elsewhere_does_not_shut_out_this_groups_own_part() {
        use PutEffect::{Created, Replaced};
        // 5 came here with its slot, before the part with 7 was written.
        let mut imported = Answers::default();
        let came = answers(&[(1, &[5], &[Created])]).get(1, "r")[0].clone();
        imported.keep(StoredAnswer { place: 1, ..(*came).clone() });
        assert_eq!(look(&imported, 2, &[7]), Known::Parts(vec![None]));
        assert_eq!(look(&imported, 2, &[5, 7]), Known::Parts(vec![Some(Created as i32), None]));
        let own = StoredAnswer { index: 8, place: 0, fingerprint: vec![2].into(), parts: vec![7], ..(*came).clone() };
        imported.keep(own);
        assert!(matches!(look(&imported, 2, &[7]), Known::Whole(_)));
        assert_eq!(look(&imported, 3, &[9]), Known::Other, "this group has answered its part");
        assert_eq!(look(&answers(&[(1, &[5], &[Replaced])]), 2, &[7]), Known::Other);
    }

    #[test]
    fn the_rest_is_carried_out_and_told_in_order() {
        let ids = |command| match command {
            Command::Delete(DeleteRecords { ids }) => ids,
            other => panic!("{other:?}"),
        };
        let delete = Command::Delete(DeleteRecords { ids: vec!["a".into(), "b".into(), "c".into()] });
        let known = [None, Some(1), None];
        assert_eq!(ids(unknown(delete, &known)), ["a", "c"]);
        let whole = complete(deleted(vec![false, true]), &known, true);
        assert_eq!((whole.deleted_count, whole.existed), (2, vec![false, true, true]));
        let refused = ImageOutcome { refusal: ImageRefusal::SlotsMoved.into(), ..ImageOutcome::default() };
        assert_eq!(complete(refused.clone(), &known, true), refused);
    }
}
