//! Bytes of a picture to the numbers that the model gets.

use std::sync::LazyLock;

use fast_image_resize::Resizer;

use super::decode::{PictureLimits, decode};
use super::model::{Model, ModelSource};

/// Small, so that many pictures fit into a second.
const LIMITS: PictureLimits = PictureLimits { bytes: 1 << 20, pixels: 1 << 18 };

/// Decodes and preprocesses as the built-in model asks. A picture that is taken becomes finite numbers.
///
/// # Panics
/// If it does not.
pub fn picture(bytes: &[u8]) {
    static MODEL: LazyLock<Option<Model>> = LazyLock::new(|| Model::read(&ModelSource::BuiltIn).ok());
    let Some(model) = MODEL.as_ref() else { panic!("the built-in model cannot be read") };
    let Ok(pixels) = decode(bytes, &LIMITS, &mut |_| true) else { return };
    assert!(u64::from(pixels.width()) * u64::from(pixels.height()) <= LIMITS.pixels);
    let numbers = model.preprocessing.apply(&pixels, &mut Resizer::new()).unwrap_or_else(|problem| {
        panic!("{} x {} pixels: {problem}", pixels.width(), pixels.height());
    });
    assert!(numbers.iter().all(|x| x.is_finite()));
}
