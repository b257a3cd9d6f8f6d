//! Pictures drawn by rule, for a machine without a network: families of textures and shapes, the same on every run.

use std::f32::consts::TAU;
use std::path::Path;

use image::{Rgb, RgbImage};

const WIDTH: u32 = 320;
const HEIGHT: u32 = 240;
/// Pictures of each family.
const PER_FAMILY: u32 = 12;

/// What is drawn: a name, and a colour for each point. Points run over 0..1 in both directions.
type Painter = fn(&Look, f32, f32) -> [f32; 3];

/// The families. Each has a look of its own, so that neighbours are recognisable.
const FAMILIES: [(&str, Painter); 10] = [
    ("stripes", stripes),
    ("checkers", checkers),
    ("rings", rings),
    ("discs", discs),
    ("dunes", dunes),
    ("clouds", clouds),
    ("sunsets", sunsets),
    ("hills", hills),
    ("rays", rays),
    ("bricks", bricks),
];

/// What one picture of a family has for itself: drawn from its number.
struct Look {
    first: [f32; 3],
    second: [f32; 3],
    third: [f32; 3],
    /// How fine the pattern is.
    scale: f32,
    /// Turn of the pattern, radians.
    angle: f32,
    /// Where its middle is.
    centre: (f32, f32),
    seed: u32,
}

/// A well-mixed 32-bit hash: "lowbias32", found by Chris Wellons' search over multiply-xorshift hashes.
fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// 0..1, from a seed and a place.
fn chance(seed: u32, n: u32) -> f32 {
    mix(seed ^ mix(n.wrapping_add(0x9e37_79b9))) as f32 / u32::MAX as f32
}

impl Look {
    fn new(family: u32, number: u32) -> Self {
        let seed = mix(family * 1000 + number + 1);
        let hue = chance(seed, 1);
        Self {
            first: colour(hue, 0.75, 0.85),
            second: colour(hue + 0.35 + 0.3 * chance(seed, 2), 0.6, 0.35),
            third: colour(hue + 0.15, 0.3, 0.95),
            scale: 4.0 + 9.0 * chance(seed, 3),
            angle: TAU * chance(seed, 4),
            centre: (0.25 + 0.5 * chance(seed, 5), 0.25 + 0.5 * chance(seed, 6)),
            seed,
        }
    }

    /// A point in the turned coordinates of this picture.
    fn turned(&self, x: f32, y: f32) -> (f32, f32) {
        let (sin, cos) = self.angle.sin_cos();
        (x * cos - y * sin, x * sin + y * cos)
    }
}

/// Hue 0..1 (wraps), saturation and value 0..1.
fn colour(hue: f32, saturation: f32, value: f32) -> [f32; 3] {
    [5.0, 3.0, 1.0].map(|n| {
        let k = (n + hue.rem_euclid(1.0) * 6.0).rem_euclid(6.0);
        value * (1.0 - saturation * k.min(4.0 - k).clamp(0.0, 1.0))
    })
}

fn blend(a: [f32; 3], b: [f32; 3], t: f32) -> [f32; 3] {
    let t = t.clamp(0.0, 1.0);
    [0, 1, 2].map(|i| a[i] + (b[i] - a[i]) * t)
}

fn smooth(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}

/// Value noise over a lattice, in octaves: 0..1.
fn noise(seed: u32, x: f32, y: f32) -> f32 {
    let octave = |seed: u32, x: f32, y: f32| {
        let (column, row) = (x.floor(), y.floor());
        let (u, v) = (smooth(x - column), smooth(y - row));
        let at = |i: f32, j: f32| chance(seed, ((i as i32 as u32) << 16) ^ (j as i32 as u32 & 0xffff));
        let top = at(column, row) * (1.0 - u) + at(column + 1.0, row) * u;
        let bottom = at(column, row + 1.0) * (1.0 - u) + at(column + 1.0, row + 1.0) * u;
        top * (1.0 - v) + bottom * v
    };
    let sum = octave(seed, x, y) + octave(seed ^ 1, x * 2.0, y * 2.0) / 2.0 + octave(seed ^ 2, x * 4.0, y * 4.0) / 4.0;
    sum / 1.75
}

fn stripes(look: &Look, x: f32, y: f32) -> [f32; 3] {
    let (across, _) = look.turned(x, y);
    if (across * look.scale).rem_euclid(1.0) < 0.5 { look.first } else { look.second }
}

fn checkers(look: &Look, x: f32, y: f32) -> [f32; 3] {
    let (u, v) = ((x * look.scale).floor() as i32, (y * look.scale * 0.75).floor() as i32);
    if (u + v) % 2 == 0 { look.third } else { look.second }
}

fn rings(look: &Look, x: f32, y: f32) -> [f32; 3] {
    let distance = (x - look.centre.0).hypot((y - look.centre.1) * 0.75);
    blend(look.first, look.second, 0.5 + 0.5 * (distance * look.scale * TAU).sin())
}

fn discs(look: &Look, x: f32, y: f32) -> [f32; 3] {
    let mut found = look.third;
    for n in 0..9 {
        let middle = (chance(look.seed, 20 + n), chance(look.seed, 40 + n));
        let radius = 0.06 + 0.12 * chance(look.seed, 60 + n);
        if (x - middle.0).hypot((y - middle.1) * 0.75) < radius {
            found = if n % 2 == 0 { look.first } else { look.second };
        }
    }
    found
}

fn dunes(look: &Look, x: f32, y: f32) -> [f32; 3] {
    let bend = noise(look.seed, x * 3.0, y * 3.0);
    blend(colour(0.09, 0.5, 0.95), look.second, 0.5 + 0.5 * ((y + bend * 0.5) * look.scale * TAU).sin())
}

fn clouds(look: &Look, x: f32, y: f32) -> [f32; 3] {
    let cover = noise(look.seed, x * look.scale / 2.0, y * look.scale / 2.0);
    blend(colour(0.58, 0.6, 0.55 + 0.4 * (1.0 - y)), [0.97, 0.97, 0.98], (cover - 0.4) * 3.0)
}

fn sunsets(look: &Look, x: f32, y: f32) -> [f32; 3] {
    let horizon = 0.6 + 0.15 * (look.centre.1 - 0.5);
    let sun = (x - look.centre.0).hypot((y - horizon + 0.12) * 0.75);
    match (sun < 0.09, y < horizon) {
        (true, true) => colour(0.13, 0.4, 1.0),
        (_, true) => blend(colour(0.75, 0.6, 0.4), colour(0.05 + 0.05 * look.centre.0, 0.8, 0.95), y / horizon),
        _ => blend(look.second, colour(0.07, 0.6, 0.6), noise(look.seed, x * 4.0, y * 40.0)),
    }
}

fn hills(look: &Look, x: f32, y: f32) -> [f32; 3] {
    let mut found = blend(colour(0.55, 0.35, 0.95), [1.0; 3], y);
    for layer in 0..4u8 {
        let depth = f32::from(layer) / 4.0;
        let ridge = 0.35 + depth * 0.5 - 0.25 * noise(look.seed ^ u32::from(layer), x * (2.0 + look.scale / 4.0), 0.0);
        if y > ridge {
            found = blend(colour(0.55, 0.25, 0.75), colour(0.33, 0.7, 0.3), depth * 1.3);
        }
    }
    found
}

fn rays(look: &Look, x: f32, y: f32) -> [f32; 3] {
    let turn = (y - look.centre.1).atan2(x - look.centre.0) / TAU;
    let rays = (look.scale * 2.0).round();
    if (turn * rays + look.angle).rem_euclid(1.0) < 0.5 { look.first } else { look.third }
}

fn bricks(look: &Look, x: f32, y: f32) -> [f32; 3] {
    let rows = look.scale * 1.2;
    let row = (y * rows).floor();
    let along = x * rows / 2.0 + if row as i32 % 2 == 0 { 0.0 } else { 0.5 };
    let joint = (y * rows).rem_euclid(1.0) < 0.12 || along.rem_euclid(1.0) < 0.06;
    let shade = chance(look.seed, (along.floor() as i32 as u32).wrapping_mul(31) ^ row as u32);
    if joint { [0.8, 0.78, 0.75] } else { colour(0.02 + 0.06 * look.centre.0, 0.65, 0.45 + 0.3 * shade) }
}

/// One picture.
pub(crate) fn draw(family: usize, number: u32) -> RgbImage {
    let (look, paint) = (Look::new(family as u32, number), FAMILIES[family].1);
    RgbImage::from_fn(WIDTH, HEIGHT, |x, y| {
        let point = paint(&look, x as f32 / WIDTH as f32, y as f32 / HEIGHT as f32);
        Rgb(point.map(|c| (c.clamp(0.0, 1.0) * 255.0).round() as u8))
    })
}

/// Draws all families into `folder`, a folder for each; returns how many pictures.
pub(crate) fn draw_all(folder: &Path) -> std::io::Result<usize> {
    let mut drawn = 0;
    for (family, (name, _)) in FAMILIES.iter().enumerate() {
        let place = folder.join(name);
        std::fs::create_dir_all(&place)?;
        for number in 0..PER_FAMILY {
            let path = place.join(format!("{name}-{:02}.png", number + 1));
            draw(family, number).save(path).map_err(std::io::Error::other)?;
            drawn += 1;
        }
    }
    Ok(drawn)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_picture_is_its_own_and_the_same_each_time() {
        let mut seen = HashSet::new();
        for family in 0..FAMILIES.len() {
            for number in 0..PER_FAMILY {
                let picture = draw(family, number);
                assert!(seen.insert(blake3::hash(picture.as_raw())), "{family} {number}");
            }
            assert_eq!(draw(family, 3), draw(family, 3));
        }
        assert_eq!(seen.len(), 120);
    }

    #[test]
    fn colours_are_where_they_belong() {
        assert_eq!(colour(0.0, 1.0, 1.0), [1.0, 0.0, 0.0]);
        let green = colour(1.0 / 3.0, 1.0, 1.0);
        assert!(green[1] > 0.99 && green[0] < 0.01 && green[2] < 0.01);
        assert_eq!(colour(0.4, 0.0, 0.5), [0.5; 3]);
    }

    #[test]
    fn no_picture_is_of_one_colour() {
        for (family, (name, _)) in FAMILIES.iter().enumerate() {
            let picture = draw(family, 0);
            assert!(picture.pixels().collect::<HashSet<_>>().len() > 1, "{name}");
        }
    }
}
