//! What a search's answer is made of, and whether that will do. Pure.

use std::time::Duration;

use omma_common::error::{ApiError, Reason};
use omma_common::ids::GroupId;
use omma_proto::v1::{Coverage, GroupFailure};

/// How long a caller who accepts a partial answer waits for the groups that are slow.
const PARTIAL_PATIENCE: Duration = Duration::from_secs(2);

/// How much of the time that is left the groups may take: the rest is for the merge and the way back.
pub(crate) fn time_for_groups(left: Duration, allow_partial: bool) -> Duration {
    let most = left.mul_f64(0.9);
    if allow_partial { most.min(PARTIAL_PATIENCE) } else { most }
}

/// The coverage of an answer for which `asked` groups were asked and `failures` did not answer.
pub(crate) fn coverage(asked: usize, failures: &[(GroupId, ApiError)]) -> Coverage {
    Coverage {
        groups_asked: asked as u32,
        groups_answered: (asked - failures.len()) as u32,
        failures: failures
            .iter()
            .map(|(group, error)| GroupFailure {
                group_id: *group,
                code: error.reason.code() as i32,
                message: error.message.clone(),
            })
            .collect(),
    }
}

/// An error unless the answer is whole, or partial and that is allowed and it holds anything at all.
pub(crate) fn accept(asked: usize, failures: &[(GroupId, ApiError)], allow_partial: bool) -> Result<(), ApiError> {
    if failures.is_empty() || (allow_partial && failures.len() < asked) {
        return Ok(());
    }
    // What the caller did wrong is the same in every group; where the time is up there is no use in a retry.
    let told = |reason| failures.iter().find(|(_, e)| e.reason == reason).map(|(_, e)| e.clone());
    let the_callers =
        [Reason::CollectionNotFound, Reason::InvalidArgument, Reason::InvalidEmbedding, Reason::MessageTooLarge];
    if let Some(error) = the_callers.into_iter().find_map(told) {
        return Err(error);
    }
    let groups: Vec<_> = failures.iter().map(|(group, _)| group.to_string()).collect();
    let why: Vec<_> = failures.iter().map(|(group, error)| format!("group {group}: {error}")).collect();
    let text = format!(
        "{} of {asked} shard groups did not answer ({}){}",
        failures.len(),
        why.join("; "),
        if allow_partial { "" } else { "; allow_partial accepts an answer without them" }
    );
    Err(ApiError::new(Reason::PartialAnswer, text).with("group_id", groups.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(groups: &[GroupId], reason: Reason) -> Vec<(GroupId, ApiError)> {
        groups.iter().map(|g| (*g, ApiError::new(reason, "down"))).collect()
    }

    #[test]
    fn says_who_is_missing() {
        let c = coverage(3, &failed(&[2], Reason::GroupUnavailable));
        assert_eq!((c.groups_asked, c.groups_answered), (3, 2));
        assert_eq!((c.failures[0].group_id, c.failures[0].code), (2, tonic::Code::Unavailable as i32));
    }

    #[test]
    fn partial_answers_need_leave_and_something_in_them() {
        let one = failed(&[2], Reason::GroupUnavailable);
        let all = failed(&[1, 2, 3], Reason::GroupUnavailable);
        assert!(accept(3, &[], false).is_ok());
        assert!(accept(3, &one, true).is_ok());
        for (failures, allow) in [(&one, false), (&all, true), (&all, false)] {
            let error = accept(3, failures, allow).unwrap_err();
            assert_eq!(error.reason, Reason::PartialAnswer);
            assert!(error.message.contains("group 2: down"), "{error}");
        }
        for reason in [Reason::CollectionNotFound, Reason::MessageTooLarge] {
            assert_eq!(accept(3, &failed(&[1], reason), false).unwrap_err().reason, reason);
        }
    }

    #[test]
    fn groups_leave_time_for_the_rest() {
        let second = Duration::from_secs(1);
        assert_eq!(time_for_groups(second, false), Duration::from_millis(900));
        assert_eq!(time_for_groups(second * 30, true), PARTIAL_PATIENCE);
        assert_eq!(time_for_groups(second, true), Duration::from_millis(900));
    }
}
