//! RGB pixels to the numbers that a model takes: resize, crop, rescale, normalise; channels first.
//!
//! The arithmetic is that of Hugging Face's image processors on Pillow: resize with antialiasing, centre crop (padded
//! with black where the picture is smaller), `(x · factor − mean) / std`. Resize and crop are one step here: only the
//! part that stays is computed, so that a picture of 1 × 20,000 pixels is no problem.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;

/// Buffers of a resizer that are larger than this are given back after use.
const KEPT_BUFFER_BYTES: usize = 8 << 20;

/// Lanczos's, in pixels of the smaller side of a resize.
const LARGEST_SUPPORT: f64 = 3.0;
/// Most pixels between the two passes of a resize.
const MAX_BETWEEN_PIXELS: u64 = 32_000_000;

/// How the size is brought to the model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resize {
    /// Keeps the aspect ratio.
    ShortestEdge(u32),
    /// Does not.
    Exact {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
}

/// Pillow's resampling filters, by Pillow's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub(super) enum Filter {
    Nearest = 0,
    Lanczos = 1,
    Bilinear = 2,
    Bicubic = 3,
    Box = 4,
    Hamming = 5,
}

/// All that happens between pixels and model. Part of a vector space: see [`Preprocessing::canonical`].
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Preprocessing {
    /// First.
    pub resize: Option<Resize>,
    /// For `resize`.
    pub filter: Filter,
    /// Width and height of what is cut out of the middle, second.
    pub crop: Option<(u32, u32)>,
    /// Multiplied with 0..=255, third.
    pub factor: f64,
    /// Subtracted, per channel, fourth.
    pub mean: [f64; 3],
    /// Divided by, per channel, last. Never zero.
    pub std: [f64; 3],
}

/// One axis of resize and crop: what of the source goes where in the output.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Axis {
    /// First source coordinate, and how many.
    start: f64,
    length: f64,
    /// First output pixel, and how many; the others are padding.
    offset: u32,
    visible: u32,
}

impl Axis {
    fn new(source: u32, resized: u32, output: u32) -> Self {
        let scale = f64::from(source) / f64::from(resized);
        let visible = resized.min(output);
        // Both round as Hugging Face's center_crop: down when cutting, up when padding.
        let start = f64::from((resized - visible) / 2) * scale;
        let offset = (output - visible).div_ceil(2);
        // Rounding must not lead out of the source.
        let length = (f64::from(visible) * scale).min(f64::from(source) - start);
        Self { start, length, offset, visible }
    }

    /// How many source lines the filter may touch, and the first of them.
    fn reach(&self, source: u32) -> (u32, u32) {
        let radius = LARGEST_SUPPORT * (self.length / f64::from(self.visible)).max(1.0) + 1.0;
        let first = (self.start - radius).floor().max(0.0) as u32;
        let end = ((self.start + self.length + radius).ceil() as u32).min(source);
        (end - first, first)
    }
}

impl Preprocessing {
    /// Width and height of what comes out; `None` if that depends on the picture.
    pub(super) fn output(&self) -> Option<(u32, u32)> {
        match (self.crop, self.resize) {
            (Some(crop), _) => Some(crop),
            (None, Some(Resize::Exact { width, height })) => Some((width, height)),
            _ => None,
        }
    }

    /// One text for all configurations that mean the same. Stable: vector spaces are named by its digest.
    pub(super) fn canonical(&self) -> String {
        let resize = match self.resize {
            None => "none".to_owned(),
            Some(Resize::ShortestEdge(n)) => format!("shortest:{n}:{}", self.filter as u8),
            Some(Resize::Exact { width, height }) => format!("exact:{width}x{height}:{}", self.filter as u8),
        };
        let crop = self.crop.map_or("none".to_owned(), |(w, h)| format!("{w}x{h}"));
        let list = |numbers: [f64; 3]| numbers.map(|x| format!("{x:e}")).join(",");
        format!(
            "v1;resize={resize};crop={crop};factor={:e};mean={};std={}",
            self.factor,
            list(self.mean),
            list(self.std)
        )
    }

    /// Width and height after the resize, as Hugging Face rounds them.
    fn resized(&self, width: u32, height: u32) -> (u32, u32) {
        let along = |short: u32, long: u32, n: u32| {
            let long = u64::from(n) * u64::from(long) / u64::from(short);
            u32::try_from(long).unwrap_or(u32::MAX)
        };
        match self.resize {
            None => (width, height),
            Some(Resize::Exact { width, height }) => (width, height),
            Some(Resize::ShortestEdge(n)) if width <= height => (n, along(width, height, n)),
            Some(Resize::ShortestEdge(n)) => (along(height, width, n), n),
        }
    }

    /// The model's input for one picture: 3 × height × width numbers. `resizer` keeps its buffers between calls.
    ///
    /// # Errors
    /// None for a picture with pixels and a configuration that has an [output](Preprocessing::output) size; the
    /// message is the resizer's.
    pub(super) fn apply(&self, picture: &RgbImage, resizer: &mut Resizer) -> Result<Vec<f32>, String> {
        let (width, height) = self.output().ok_or("the output size depends on the picture")?;
        let (resized_width, resized_height) = self.resized(picture.width(), picture.height());
        let x = Axis::new(picture.width(), resized_width, width);
        let y = Axis::new(picture.height(), resized_height, height);
        let part = self.resample(picture, x, y, resizer)?;
        if resizer.size_of_internal_buffers() > KEPT_BUFFER_BYTES {
            resizer.reset_internal_buffers();
        }
        Ok(self.numbers(part.buffer(), x, y, (width as usize, height as usize)))
    }

    /// The visible part: first along x, then along y, as Pillow does it. The order shows, because a filter's overshoot
    /// is cut off at 0 and 255 after each pass.
    fn resample(&self, picture: &RgbImage, x: Axis, y: Axis, resizer: &mut Resizer) -> Result<Image<'static>, String> {
        let (rows, below) = y.reach(picture.height());
        let source = ImageRef::new(picture.width(), picture.height(), picture.as_raw(), PixelType::U8x3)
            .map_err(|e| e.to_string())?;
        let options = ResizeOptions::new().resize_alg(self.filter.algorithm());
        let mut part = Image::new(x.visible, y.visible, PixelType::U8x3);
        if self.filter == Filter::Nearest || u64::from(x.visible) * u64::from(rows) > MAX_BETWEEN_PIXELS {
            // In one step, which is the other order where there is one.
            let whole = options.crop(x.start, y.start, x.length, y.length);
            resizer.resize(&source, &mut part, &whole).map_err(|e| e.to_string())?;
            return Ok(part);
        }
        let mut between = Image::new(x.visible, rows, PixelType::U8x3);
        let along_x = options.crop(x.start, below.into(), x.length, rows.into());
        resizer.resize(&source, &mut between, &along_x).map_err(|e| e.to_string())?;
        let along_y = options.crop(0.0, y.start - f64::from(below), x.visible.into(), y.length);
        resizer.resize(&between, &mut part, &along_y).map_err(|e| e.to_string())?;
        Ok(part)
    }

    /// Pixels `part`, placed by `x` and `y`, as planes of `size`.
    fn numbers(&self, part: &[u8], x: Axis, y: Axis, (width, height): (usize, usize)) -> Vec<f32> {
        let tables = self.tables();
        let mut out = vec![0f32; 3 * width * height];
        for (channel, (plane, table)) in out.chunks_exact_mut(width * height).zip(&tables).enumerate() {
            if (x.visible as usize, y.visible as usize) != (width, height) {
                plane.fill(table[0]);
            }
            let rows = plane.chunks_exact_mut(width).skip(y.offset as usize);
            for (row, pixels) in rows.zip(part.chunks_exact(3 * x.visible as usize)) {
                let row = &mut row[x.offset as usize..][..x.visible as usize];
                for (number, pixel) in row.iter_mut().zip(pixels.chunks_exact(3)) {
                    *number = table[usize::from(pixel[channel])];
                }
            }
        }
        out
    }

    /// Per channel, what each of the 256 values becomes.
    fn tables(&self) -> [[f32; 256]; 3] {
        std::array::from_fn(|channel| {
            std::array::from_fn(|value| ((value as f64 * self.factor - self.mean[channel]) / self.std[channel]) as f32)
        })
    }
}

impl Filter {
    /// From Pillow's number.
    pub(super) fn from_pillow(number: u64) -> Option<Self> {
        use Filter::*;
        [Nearest, Lanczos, Bilinear, Bicubic, Box, Hamming].into_iter().find(|f| *f as u64 == number)
    }

    fn algorithm(self) -> ResizeAlg {
        match self {
            Filter::Nearest => ResizeAlg::Nearest,
            Filter::Lanczos => ResizeAlg::Convolution(FilterType::Lanczos3),
            Filter::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
            // a = -0.5, as Pillow's.
            Filter::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
            Filter::Box => ResizeAlg::Convolution(FilterType::Box),
            Filter::Hamming => ResizeAlg::Convolution(FilterType::Hamming),
        }
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;
    use proptest::prelude::*;

    use super::*;

    fn plain(resize: Option<Resize>, crop: Option<(u32, u32)>) -> Preprocessing {
        Preprocessing { resize, filter: Filter::Bicubic, crop, factor: 1.0, mean: [0.0; 3], std: [1.0; 3] }
    }

    #[test]
    fn crops_the_middle_and_pads_with_black() {
        let picture = RgbImage::from_fn(4, 2, |x, y| Rgb([(10 * y + x) as u8, 100, 200]));
        let numbers = plain(None, Some((2, 4))).apply(&picture, &mut Resizer::new()).unwrap();
        assert_eq!(numbers[..8], [0.0, 0.0, 1.0, 2.0, 11.0, 12.0, 0.0, 0.0]);
        assert_eq!(numbers[8..16], [0.0, 0.0, 100.0, 100.0, 100.0, 100.0, 0.0, 0.0]);
    }

    #[test]
    fn normalises_each_channel() {
        let picture = RgbImage::from_pixel(1, 1, Rgb([0, 127, 255]));
        let mut p = plain(None, Some((1, 1)));
        (p.factor, p.mean, p.std) = (1.0 / 255.0, [0.5; 3], [0.5, 0.25, 0.5]);
        let numbers = p.apply(&picture, &mut Resizer::new()).unwrap();
        assert!((numbers[0] + 1.0).abs() < 1e-6 && (numbers[2] - 1.0).abs() < 1e-6);
        assert!((f64::from(numbers[1]) - (127.0 / 255.0 - 0.5) / 0.25).abs() < 1e-6);
    }

    #[test]
    fn the_short_side_decides() {
        let p = plain(Some(Resize::ShortestEdge(256)), Some((224, 224)));
        assert_eq!(p.resized(640, 480), (341, 256));
        assert_eq!(p.resized(480, 640), (256, 341));
        assert_eq!(p.resized(1, 20_000), (256, 5_120_000));
    }

    #[test]
    fn spaces_differ_where_numbers_would() {
        let base = plain(Some(Resize::ShortestEdge(256)), Some((224, 224)));
        let mut other = base.clone();
        other.std[2] = 1.0000001;
        assert_ne!(base.canonical(), other.canonical());
        assert_eq!(base.canonical(), base.clone().canonical());
    }

    proptest! {
        /// Any size of picture, any sizes of resize and crop: the right count of numbers, all between black and white.
        #[test]
        fn output_has_the_size_it_should(
            (width, height) in (1u32..300, 1u32..300), edge in 1u32..64, (w, h) in (1u32..64, 1u32..64), filter in 0u64..6,
            exact: bool, resize: bool,
        ) {
            let how = if exact { Resize::Exact { width: edge, height: edge } } else { Resize::ShortestEdge(edge) };
            let mut p = plain(resize.then_some(how), Some((w, h)));
            p.filter = Filter::from_pillow(filter).unwrap();
            let numbers = p.apply(&RgbImage::from_pixel(width, height, Rgb([77; 3])), &mut Resizer::new()).unwrap();
            prop_assert_eq!(numbers.len(), (3 * w * h) as usize);
            // A plain picture stays plain, whatever the filter.
            prop_assert!(numbers.iter().all(|&x| x == 77.0 || x == 0.0));
            prop_assert!(numbers.contains(&77.0));
        }
    }
}
