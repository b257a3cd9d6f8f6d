//! Which of a graph's outputs is the embedding, and how to read it.

/// An output as far as the choice needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Output {
    /// In the graph.
    pub name: String,
    /// Number of dimensions.
    pub rank: usize,
}

/// How an output of shape `[batch, …]` becomes one vector per picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pooling {
    /// `[batch, d]`: as it is.
    None,
    /// `[batch, tokens, d]`: the first token, which transformers train to stand for the picture.
    FirstToken,
    /// `[batch, d, height, width]`: the mean over the plane, as convolutional networks are pooled.
    MeanPlane,
}

/// Output and pooling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Readout {
    /// Of the graph.
    pub output: String,
    /// Of its numbers.
    pub pooling: Pooling,
}

/// Preferred names: the projection of CLIP-like models, then the pooled state, then what exporters make of either.
const NAMES: [&str; 5] = ["image_embeds", "pooler_output", "image_embedding", "sentence_embedding", "embedding"];

impl Readout {
    /// A preferred name, else the first output of two dimensions, else `last_hidden_state`.
    pub(super) fn choose(outputs: &[Output]) -> Option<Self> {
        let named = |name: &str| outputs.iter().find(|o| o.name == name && (o.rank == 2 || o.rank == 4));
        let chosen = NAMES
            .iter()
            .find_map(|name| named(name))
            .or_else(|| outputs.iter().find(|o| o.rank == 2))
            .or_else(|| outputs.iter().find(|o| o.name == "last_hidden_state"))?;
        let pooling = match chosen.rank {
            2 => Pooling::None,
            3 => Pooling::FirstToken,
            4 => Pooling::MeanPlane,
            _ => return None,
        };
        Some(Self { output: chosen.name.clone(), pooling })
    }

    /// Part of the vector space's name.
    pub(super) fn canonical(&self) -> String {
        format!("{}:{:?}", self.output, self.pooling)
    }

    /// One vector per picture, or what does not fit. `numbers` has the given `shape`, row-major.
    pub(super) fn read(&self, shape: &[i64], numbers: &[f32], batch: usize) -> Result<Vec<Vec<f32>>, String> {
        let unexpected = || format!("output {} has shape {shape:?} for a batch of {batch}", self.output);
        let sides: Option<Vec<usize>> = shape.iter().map(|&n| usize::try_from(n).ok().filter(|&n| n > 0)).collect();
        let sides = sides.filter(|s| s.first() == Some(&batch) && s.iter().product::<usize>() == numbers.len());
        let sides = sides.ok_or_else(unexpected)?;
        // No side is zero, so neither is this.
        let per_picture = numbers.chunks_exact(numbers.len() / batch);
        match (self.pooling, sides.as_slice()) {
            (Pooling::None, [_, _]) => Ok(per_picture.map(<[f32]>::to_vec).collect()),
            (Pooling::FirstToken, &[_, _, d]) => Ok(per_picture.map(|tokens| tokens[..d].to_vec()).collect()),
            (Pooling::MeanPlane, &[_, _, height, width]) => {
                let plane = height * width;
                let mean = |plane: &[f32]| plane.iter().sum::<f32>() / plane.len() as f32;
                Ok(per_picture.map(|planes| planes.chunks_exact(plane).map(mean).collect()).collect())
            }
            _ => Err(unexpected()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(outputs: &[(&str, usize)]) -> Option<(String, Pooling)> {
        let outputs: Vec<Output> = outputs.iter().map(|&(n, rank)| Output { name: n.into(), rank }).collect();
        Readout::choose(&outputs).map(|r| (r.output, r.pooling))
    }

    #[test]
    fn the_best_output_is_chosen() {
        assert_eq!(
            choose(&[("last_hidden_state", 3), ("pooler_output", 2), ("image_embeds", 2)]),
            Some(("image_embeds".into(), Pooling::None))
        );
        assert_eq!(choose(&[("last_hidden_state", 3)]), Some(("last_hidden_state".into(), Pooling::FirstToken)));
        assert_eq!(choose(&[("last_hidden_state", 4)]), Some(("last_hidden_state".into(), Pooling::MeanPlane)));
        assert_eq!(choose(&[("pooler_output", 4)]), Some(("pooler_output".into(), Pooling::MeanPlane)));
        assert_eq!(choose(&[("x", 3), ("logits", 2)]), Some(("logits".into(), Pooling::None)));
        assert_eq!(choose(&[("x", 3)]), None);
        assert_eq!(choose(&[]), None);
    }

    #[test]
    fn shapes_are_read_or_refused() {
        let numbers: Vec<f32> = (0..12u8).map(f32::from).collect();
        let read =
            |pooling, shape: &[i64], batch| Readout { output: "o".into(), pooling }.read(shape, &numbers, batch).ok();
        assert_eq!(read(Pooling::None, &[3, 4], 3).unwrap()[1], [4.0, 5.0, 6.0, 7.0]);
        assert_eq!(read(Pooling::FirstToken, &[2, 3, 2], 2).unwrap(), [[0.0, 1.0], [6.0, 7.0]]);
        assert_eq!(read(Pooling::MeanPlane, &[1, 3, 2, 2], 1).unwrap(), [[1.5, 5.5, 9.5]]);
        for (pooling, shape, batch) in [
            (Pooling::None, &[3, 4][..], 2),
            (Pooling::None, &[3, 5], 3),
            (Pooling::None, &[2, 3, 2], 2),
            (Pooling::FirstToken, &[12], 12),
            (Pooling::None, &[-1, 4], 3),
            (Pooling::None, &[], 1),
            (Pooling::None, &[0, 12], 0),
        ] {
            assert_eq!(read(pooling, shape, batch), None, "{shape:?}");
        }
    }
}
