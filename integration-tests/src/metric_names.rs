//! Which metrics there are, and which are spoken of.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::admin::get;

/// Names of the metrics that a server exposes: each once, however many series it has.
///
/// # Errors
/// If it does not answer.
pub async fn exposed(address: &str) -> Result<BTreeSet<String>> {
    let (_, body) = get(address, "/metrics").await?;
    let typed = body.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    Ok(typed.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

/// Names that begin with `omma_` in any text; those of a histogram's parts become the histogram's.
pub fn spoken_of(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(|c| !is_name(c)).filter(|word| word.starts_with("omma_"));
    words
        .map(|word| {
            ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word).to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_names_in_expressions() {
        let text = r#"sum(rate(omma_a_seconds_bucket{x="1"}[5m])) / omma_b_total - on (group) (omma_c == 1) somma_d"#;
        assert_eq!(spoken_of(text).into_iter().collect::<Vec<_>>(), ["omma_a_seconds", "omma_b_total", "omma_c"]);
    }
}
