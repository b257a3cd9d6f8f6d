//! What one request may hold: each bound is a flag, and at most what the whole cluster agrees on.

use omma_common::limits::{
    MAX_ATTRIBUTE_BYTES, MAX_ATTRIBUTES, MAX_COLLECTIONS, MAX_ID_BYTES, MAX_IDS, MAX_K, MAX_MESSAGE_BYTES,
    MAX_PUT_IMAGES, MAX_QUERIES,
};

/// Smallest bound of a message's bytes: any request without pictures and embeddings fits.
const LEAST_MESSAGE_BYTES: usize = 64 << 10;

/// Reads a bound of `least` to `most`.
fn within(least: usize, most: usize) -> impl Fn(&str) -> Result<usize, String> + Clone {
    move |text| match text.parse() {
        Ok(n) if (least..=most).contains(&n) => Ok(n),
        _ => Err(format!("{least} to {most} are allowed")),
    }
}

/// Flags about what one request may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub struct SizeArgs {
    /// Largest message, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = MAX_MESSAGE_BYTES,
          value_parser = within(LEAST_MESSAGE_BYTES, MAX_MESSAGE_BYTES))]
    pub max_message_bytes: usize,
    /// Most hits of one query.
    #[arg(long, value_name = "HITS", default_value_t = MAX_K as usize, value_parser = within(1, MAX_K as usize))]
    pub max_k: usize,
    /// Most queries of one batch.
    #[arg(long, value_name = "QUERIES", default_value_t = MAX_QUERIES, value_parser = within(1, MAX_QUERIES))]
    pub max_queries: usize,
    /// Most images of one put.
    #[arg(long, value_name = "IMAGES", default_value_t = MAX_PUT_IMAGES, value_parser = within(1, MAX_PUT_IMAGES))]
    pub max_put_images: usize,
    /// Most ids of one get or delete.
    #[arg(long, value_name = "IDS", default_value_t = MAX_IDS, value_parser = within(1, MAX_IDS))]
    pub max_ids: usize,
    /// Longest id of a new image, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = MAX_ID_BYTES, value_parser = within(1, MAX_ID_BYTES))]
    pub max_id_bytes: usize,
    /// Most attributes of one image.
    #[arg(long, value_name = "ATTRIBUTES", default_value_t = MAX_ATTRIBUTES, value_parser = within(0, MAX_ATTRIBUTES))]
    pub max_attributes: usize,
    /// Most bytes of one image's attributes, names and values together.
    #[arg(long, value_name = "BYTES", default_value_t = MAX_ATTRIBUTE_BYTES,
          value_parser = within(0, MAX_ATTRIBUTE_BYTES))]
    pub max_attribute_bytes: usize,
    /// Most collections; with as many, none is created.
    #[arg(long, value_name = "COLLECTIONS", default_value_t = MAX_COLLECTIONS,
          value_parser = within(1, MAX_COLLECTIONS))]
    pub max_collections: usize,
}

impl Default for SizeArgs {
    fn default() -> Self {
        Self {
            max_message_bytes: MAX_MESSAGE_BYTES,
            max_k: MAX_K as usize,
            max_queries: MAX_QUERIES,
            max_put_images: MAX_PUT_IMAGES,
            max_ids: MAX_IDS,
            max_id_bytes: MAX_ID_BYTES,
            max_attributes: MAX_ATTRIBUTES,
            max_attribute_bytes: MAX_ATTRIBUTE_BYTES,
            max_collections: MAX_COLLECTIONS,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        sizes: SizeArgs,
    }

    #[test]
    fn bounds_can_be_lowered_and_not_raised() {
        assert_eq!(Cli::parse_from(["x"]).sizes, SizeArgs::default());
        assert_eq!(Cli::parse_from(["x", "--max-k", "7"]).sizes, SizeArgs { max_k: 7, ..SizeArgs::default() });
        for [flag, bad] in [["--max-k", "1001"], ["--max-k", "0"], ["--max-queries", "x"], ["--max-message-bytes", "9"]]
        {
            let error = Cli::try_parse_from(["x", flag, bad]).unwrap_err().to_string();
            assert!(error.contains(flag) && error.contains("are allowed"), "{error}");
        }
    }
}
