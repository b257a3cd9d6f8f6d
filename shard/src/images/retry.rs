//! Is a request known? Pure.
//!
//! A request that is sent again is usually the same command. After slots have moved it may be cut into other parts than
//! at first: then each image is looked for by itself.

use bytes::Bytes;
use omma_proto::internal::v1::image_command::Command;
use omma_proto::internal::v1::{ImageOutcome, ImageRefusal};
use prost::Message;

use super::answers::Answer;

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
/// others of the request are known.
pub(super) fn known(answers: &[Answer], fingerprint: &Bytes, parts: &[u64], may_be_new: impl Fn(u64) -> bool) -> Known {
    if answers.is_empty() {
        return Known::New;
    }
    if let Some(whole) = answers.iter().find(|a| a.fits(fingerprint)) {
        return Known::Whole(whole.outcome.clone());
    }
    let outcomes: Vec<_> = answers.iter().filter_map(effects).collect();
    let effect =
        |part: &u64| outcomes.iter().find_map(|(a, e)| e.get(a.parts.iter().position(|p| p == part)?).copied());
    let found: Vec<_> = parts.iter().map(effect).collect();
    let explained = parts.iter().zip(&found).all(|(part, effect)| effect.is_some() || may_be_new(*part));
    if explained && !parts.is_empty() { Known::Parts(found) } else { Known::Other }
}

fn effects(answer: &Answer) -> Option<(&Answer, Vec<Effect>)> {
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
