//! What a search or a get asks for: how many, how good, how fresh.

use omma_common::error::ApiError;
use omma_common::limits::DEFAULT_K;
use omma_common::session::Session;
use omma_proto::v1::{Consistency, SessionToken};

use super::count;
use crate::config::Limits;
use crate::scatter::fan_out::Freshness;

/// How many queries one batch has.
pub(crate) fn query_count(queries: usize, limits: &Limits) -> Result<(), ApiError> {
    count("queries", queries, "max-queries", limits.sizes.max_queries)
}

/// Hits wanted: 0 means 10, or as many as are allowed if those are fewer.
pub(crate) fn k(field: &str, k: u32, limits: &Limits) -> Result<usize, ApiError> {
    let most = limits.sizes.max_k;
    match k as usize {
        0 => Ok(most.min(DEFAULT_K as usize)),
        k if k > most => {
            let problem = format!("is {k}; 1 to {most} are allowed, and 0 for {DEFAULT_K}");
            Err(ApiError::field(field, problem).over("max-k", most))
        }
        k => Ok(k),
    }
}

/// A least score: -1 to 1.
pub(crate) fn min_score(field: &str, score: Option<f32>) -> Result<Option<f32>, ApiError> {
    match score {
        Some(s) if !(-1.0..=1.0).contains(&s) => Err(ApiError::field(field, format!("is {s}; -1 to 1 are allowed"))),
        _ => Ok(score),
    }
}

/// Consistency and session tokens of a read.
pub(crate) fn freshness(consistency: i32, tokens: &[SessionToken]) -> Result<Freshness, ApiError> {
    let consistency = Consistency::try_from(consistency)
        .map_err(|_| ApiError::field("consistency", format!("is {consistency}, which is none of the levels")))?;
    let session = Session::from_tokens(tokens).map_err(|problem| ApiError::field("session_tokens", problem))?;
    Ok(Freshness {
        consistency: if consistency == Consistency::Unspecified { Consistency::Linearizable } else { consistency },
        session,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::limits;
    use super::*;

    #[test]
    fn k_and_scores_have_ranges() {
        let of = |wanted| k("query.k", wanted, &limits());
        assert_eq!((of(0).unwrap(), of(1).unwrap(), of(1000).unwrap()), (10, 1, 1000));
        assert_eq!(of(1001).unwrap_err().fields[0].0, "query.k");
        assert!(min_score("s", None).is_ok() && min_score("s", Some(-1.0)).is_ok());
        for bad in [1.01, -1.5, f32::NAN, f32::INFINITY] {
            assert!(min_score("s", Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_say_how_fresh() {
        assert_eq!(freshness(0, &[]).unwrap().consistency, Consistency::Linearizable);
        assert_eq!(freshness(9, &[]).unwrap_err().fields[0].0, "consistency");
        let token = SessionToken { value: vec![9, 9] };
        assert_eq!(freshness(2, &[token]).unwrap_err().fields[0].0, "session_tokens");
    }
}
