//! Vector spaces of collections, and what they are kept as.

use omma_common::error::{ApiError, Reason};
use omma_common::ids::{InvalidName, check_request_id};
use omma_common::limits::MAX_DIMENSION;
use omma_proto::v1::{Quantization, VectorSpace};

use super::named;
use crate::routing::Collection;

/// A vector space of the caller's choice; the encoder's name stands for the encoder's dimension.
pub(crate) fn vector_space(space: &VectorSpace, encoder: Option<&VectorSpace>) -> Result<(), ApiError> {
    named("vector_space.id", "vector space id bytes", check_request_id(&space.id))?;
    if space.id.is_empty() {
        return Err(ApiError::field("vector_space.id", InvalidName::Empty));
    }
    if !(1..=MAX_DIMENSION).contains(&space.dimension) {
        let problem = format!("is {}; 1 to {MAX_DIMENSION} are allowed", space.dimension);
        return Err(ApiError::field("vector_space.dimension", problem).over("dimension", MAX_DIMENSION));
    }
    if let Some(encoder) = encoder.filter(|e| e.id == space.id && e.dimension != space.dimension) {
        let problem = format!("is {}; the encoder's space of this id has {}", space.dimension, encoder.dimension);
        return Err(ApiError::field("vector_space.dimension", problem).with("expected", encoder.dimension));
    }
    Ok(())
}

/// One that this version knows.
pub(crate) fn quantization(value: i32) -> Result<(), ApiError> {
    match Quantization::try_from(value) {
        Ok(_) => Ok(()),
        Err(_) => Err(ApiError::field("quantization", format!("is {value}, which this server does not know"))),
    }
}

/// Pictures can be used in a collection only if its vector space is the encoder's.
pub(crate) fn encodable(field: &str, collection: &Collection, encoder: Option<&VectorSpace>) -> Result<(), ApiError> {
    match encoder {
        Some(space) if Some(space) != collection.entry.vector_space.as_ref() => {
            let problem = format!(
                "cannot be encoded: the collection is in the vector space {:?}, the encoder's is {:?}; send an embedding",
                collection.space_id(),
                space.id
            );
            Err(ApiError::bad_field(Reason::VectorSpaceMismatch, field, problem))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::collection;
    use super::*;

    #[test]
    fn unknown_quantizations_are_refused() {
        assert!(quantization(0).is_ok() && quantization(Quantization::I8.into()).is_ok());
        assert!(quantization(99).is_err());
    }

    #[test]
    fn vector_spaces_have_names_and_dimensions() {
        let space = |id: &str, dimension| vector_space(&VectorSpace { id: id.into(), dimension }, None);
        assert!(space("clip", 512).is_ok() && space("x", 8192).is_ok());
        assert!(
            space("", 5).is_err() && space("x", 0).is_err() && space("x", 8193).is_err() && space("a b", 4).is_err()
        );
        let encoder = VectorSpace { id: "enc".into(), dimension: 3 };
        assert!(vector_space(&encoder, Some(&encoder)).is_ok());
        assert!(vector_space(&VectorSpace { dimension: 4, ..encoder.clone() }, Some(&encoder)).is_err());
        let ours = collection(2);
        assert!(encodable("f", &ours, None).is_ok());
        assert!(encodable("f", &ours, ours.entry.vector_space.as_ref()).is_ok());
        let other = VectorSpace { id: "t".into(), dimension: 2 };
        assert_eq!(encodable("f", &ours, Some(&other)).unwrap_err().reason, Reason::VectorSpaceMismatch);
    }
}
