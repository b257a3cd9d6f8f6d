//! Reads Hugging Face's `preprocessor_config.json`.
//!
//! A key that would change the numbers and is not understood is an error, never ignored: a model that is fed slightly
//! wrong pictures still answers, only badly. Keys that say nothing about the numbers (class names, tokenizer settings)
//! are skipped. Every picture is converted to RGB, whatever `do_convert_rgb` says: the models take three channels.

use serde::Deserialize;

use super::preprocess::{Filter, Preprocessing, Resize};

#[derive(Deserialize)]
struct File {
    do_resize: Option<bool>,
    size: Option<Size>,
    resample: Option<u64>,
    crop_pct: Option<f64>,
    do_center_crop: Option<bool>,
    crop_size: Option<Size>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<Vec<f64>>,
    image_std: Option<Vec<f64>>,
    do_pad: Option<bool>,
    do_thumbnail: Option<bool>,
    do_flip_channel_order: Option<bool>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(untagged)]
enum Size {
    Number(u32),
    #[serde(rename_all = "snake_case")]
    Sides {
        shortest_edge: Option<u32>,
        longest_edge: Option<u32>,
        height: Option<u32>,
        width: Option<u32>,
    },
}

/// Largest side that is accepted, so that a typing error does not ask for terabytes.
const MAX_SIDE: u32 = 4096;

/// The meaning of a `preprocessor_config.json`; the error continues "the file …".
pub(super) fn parse(json: &str) -> Result<Preprocessing, String> {
    let file: File = serde_json::from_str(json).map_err(|e| format!("is no valid preprocessor_config.json: {e}"))?;
    for (key, set) in [
        ("do_pad", file.do_pad),
        ("do_thumbnail", file.do_thumbnail),
        ("do_flip_channel_order", file.do_flip_channel_order),
    ] {
        if set == Some(true) {
            return Err(format!("asks for {key}, which is not supported"));
        }
    }
    let (resize, crop) = sizes(&file)?;
    let filter = match (resize, file.resample) {
        (None, _) => Filter::Bicubic,
        (Some(_), Some(n)) => Filter::from_pillow(n).ok_or_else(|| format!("has resample {n}; 0 to 5 are known"))?,
        (Some(_), None) => return Err("has no resample".into()),
    };
    let factor = match file.do_rescale {
        Some(false) => 1.0,
        _ => file.rescale_factor.unwrap_or(1.0 / 255.0),
    };
    let (mean, std) = match file.do_normalize {
        Some(false) => ([0.0; 3], [1.0; 3]),
        _ => (channels(file.image_mean, "image_mean")?, channels(file.image_std, "image_std")?),
    };
    if !factor.is_finite() || mean.iter().chain(&std).any(|x| !x.is_finite()) || std.contains(&0.0) {
        return Err("has numbers to rescale or normalise with that make no sense".into());
    }
    let preprocessing = Preprocessing { resize, filter, crop, factor, mean, std };
    match preprocessing.output() {
        None => Err("does not bring pictures to one size: it needs a centre crop or a size of height and width".into()),
        Some(_) => Ok(preprocessing),
    }
}

/// Width and height.
type Rectangle = (u32, u32);

/// Resize and crop.
fn sizes(file: &File) -> Result<(Option<Resize>, Option<Rectangle>), String> {
    let crop = match (file.do_center_crop, file.crop_size) {
        (Some(false), _) | (None, None) => None,
        (_, Some(size)) => Some(rectangle(size, "crop_size")?),
        (Some(true), None) => return Err("has do_center_crop but no crop_size".into()),
    };
    if file.do_resize == Some(false) {
        return Ok((None, crop));
    }
    let size = file.size.ok_or("has no size")?;
    let resize = match size {
        // A bare number is a square, but for the processors that crop, where it is the short side.
        Size::Number(n) if crop.is_some() => Resize::ShortestEdge(side(n, "size")?),
        Size::Sides { shortest_edge: Some(n), longest_edge: None, .. } => Resize::ShortestEdge(side(n, "size")?),
        Size::Sides { longest_edge: Some(_), .. } => {
            return Err("has a size with longest_edge, which is not supported".into());
        }
        other => {
            let (width, height) = rectangle(other, "size")?;
            Resize::Exact { width, height }
        }
    };
    // ConvNext: below 384 resize to more than is kept, and keep the middle; from 384 on squash.
    match (file.crop_pct, resize, crop) {
        (Some(part), Resize::ShortestEdge(n), None) if part > 0.0 && part <= 1.0 => {
            let square = Resize::Exact { width: n, height: n };
            let larger = Resize::ShortestEdge(side((f64::from(n) / part) as u32, "size")?);
            Ok(if n < 384 { (Some(larger), Some((n, n))) } else { (Some(square), None) })
        }
        (Some(part), _, _) => Err(format!("has crop_pct {part}, which is only supported with a shortest_edge alone")),
        _ => Ok((Some(resize), crop)),
    }
}

fn rectangle(size: Size, key: &str) -> Result<Rectangle, String> {
    match size {
        Size::Number(n) => Ok((side(n, key)?, side(n, key)?)),
        Size::Sides { height: Some(h), width: Some(w), .. } => Ok((side(w, key)?, side(h, key)?)),
        Size::Sides { .. } => Err(format!("has a {key} without height and width")),
    }
}

fn side(n: u32, key: &str) -> Result<u32, String> {
    if (1..=MAX_SIDE).contains(&n) { Ok(n) } else { Err(format!("has a {key} of {n}; 1 to {MAX_SIDE} are accepted")) }
}

fn channels(numbers: Option<Vec<f64>>, key: &str) -> Result<[f64; 3], String> {
    let numbers = numbers.ok_or_else(|| format!("has no {key}"))?;
    numbers.try_into().map_err(|n: Vec<f64>| format!("has {} numbers in {key}; 3 are needed", n.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = r#""resample": 3, "image_mean": [0.5,0.5,0.5], "image_std": [0.5,0.5,0.5]"#;

    fn with(keys: &str) -> Result<Preprocessing, String> {
        parse(&format!("{{{keys}, {REST}}}"))
    }

    #[test]
    fn sizes_in_all_their_forms() {
        let clip =
            with(r#""size": 224, "do_center_crop": true, "crop_size": 224, "feature_extractor_type": "x""#).unwrap();
        assert_eq!((clip.resize, clip.crop), (Some(Resize::ShortestEdge(224)), Some((224, 224))));
        let vit = with(r#""size": 224"#).unwrap();
        assert_eq!((vit.resize, vit.crop), (Some(Resize::Exact { width: 224, height: 224 }), None));
        let siglip = with(r#""size": {"height": 256, "width": 128}"#).unwrap();
        assert_eq!(siglip.resize, Some(Resize::Exact { width: 128, height: 256 }));
        let dino = with(r#""size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 220}"#).unwrap();
        assert_eq!((dino.resize, dino.crop), (Some(Resize::ShortestEdge(256)), Some((220, 224))));
        let convnext = with(r#""size": {"shortest_edge": 224}, "crop_pct": 0.875"#).unwrap();
        assert_eq!((convnext.resize, convnext.crop), (Some(Resize::ShortestEdge(256)), Some((224, 224))));
        assert!((clip.factor - 1.0 / 255.0).abs() < 1e-12);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (keys, named) in [
            (r#""size": {"longest_edge": 512}"#, "longest_edge"),
            (r#""size": {"shortest_edge": 256}"#, "one size"),
            (r#""size": 224, "do_pad": true"#, "do_pad"),
            (r#""do_center_crop": true, "size": 3"#, "crop_size"),
            (r#""size": 0"#, "size of 0"),
            (r#""size": 1000000"#, "size of 1000000"),
        ] {
            let error = with(keys).unwrap_err();
            assert!(error.contains(named), "{keys}: {error}");
        }
        for (json, named) in [
            (r#"{"size": 224, "resample": 9}"#, "resample 9"),
            (r#"{"size": 224, "resample": 3}"#, "image_mean"),
            (r#"{"size": 224, "resample": 3, "image_mean": [1], "image_std": [1,1,1]}"#, "1 numbers in image_mean"),
            (r#"{"size": 224, "resample": 3, "image_mean": [1,1,1], "image_std": [1,0,1]}"#, "no sense"),
            ("{", "no valid"),
            (r#"{"size": "big"}"#, "no valid"),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(named), "{json}: {error}");
        }
    }
}
