//! Values: numbers that are stored as an attribute and as an embedding of their own, so that either tells the other.

use omma_proto::v1::attribute_value::Kind;
use omma_proto::v1::{AttributeValue, Image, NewImage};

use crate::client::vector_image;
use crate::vectors::{generator, unit_vector};

/// Numbers of an embedding.
pub const DIMENSION: usize = 32;
/// Scores from here on are those of the same embedding: others do not come near by chance.
pub const SAME: f32 = 0.999;
const ATTRIBUTE: &str = "value";
/// The generator's part for values.
const PART: u64 = 0x7A1E_0000_0000_0000;

/// The embedding of `value`.
pub fn vector(seed: u64, value: u64) -> Vec<f32> {
    unit_vector(&mut generator(seed, PART ^ value), DIMENSION)
}

/// An image of that value.
pub fn image(seed: u64, id: &str, value: u64) -> NewImage {
    let mut image = vector_image(id, vector(seed, value));
    let kind = Some(Kind::IntegerValue(i64::try_from(value).unwrap_or(i64::MAX)));
    image.attributes.insert(ATTRIBUTE.to_owned(), AttributeValue { kind });
    image
}

/// The value that attributes tell.
pub fn of_attributes<'a>(attributes: impl IntoIterator<Item = (&'a String, &'a AttributeValue)>) -> Option<u64> {
    let (_, found) = attributes.into_iter().find(|(name, _)| *name == ATTRIBUTE)?;
    match found.kind {
        Some(Kind::IntegerValue(value)) => u64::try_from(value).ok(),
        _ => None,
    }
}

/// The value of a stored image; an error if its embedding is another value's.
///
/// # Errors
/// If attributes and embedding are not of one value.
pub fn of_image(seed: u64, image: &Image) -> Result<u64, String> {
    let value = of_attributes(&image.attributes).ok_or_else(|| format!("{image:?} has no value"))?;
    let stored = image.embedding.as_ref().map(|e| e.values.as_slice()).unwrap_or_default();
    match dot(&vector(seed, value), stored) >= SAME {
        true => Ok(value),
        false => Err(format!("{image:?} has another value's embedding")),
    }
}

/// Cosine of unit vectors.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_proto::v1::Embedding;

    #[test]
    fn a_value_is_told_by_both_and_torn_images_are_noticed() {
        let new = image(1, "a", 7);
        let stored = |vector| Image {
            id: "a".to_owned(),
            attributes: new.attributes.clone(),
            embedding: Some(Embedding { values: vector }),
            ..Default::default()
        };
        assert_eq!(of_image(1, &stored(vector(1, 7))), Ok(7));
        assert!(of_image(1, &stored(vector(1, 8))).is_err());
        assert!(of_image(1, &Image::default()).is_err());
    }
}
