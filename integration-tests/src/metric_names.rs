//! Which metrics there are, and which are spoken of.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::admin::get;
use crate::folders::repository;

/// Names of the metrics that a server exposes: each once, however many series it has.
///
/// # Errors
/// If it does not answer.
pub async fn exposed(address: &str) -> Result<BTreeSet<String>> {
    let (_, body) = get(address, "/metrics").await?;
    let typed = body.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    Ok(typed.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

/// The name of a metric of which `name` may be a histogram's part.
pub fn whole(name: &str) -> &str {
    ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

/// Names that begin with `omma_` in any text; those of a histogram's parts become the histogram's.
pub fn spoken_of(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(|c| !is_name(c)).filter(|word| word.starts_with("omma_"));
    words.map(|word| whole(word).to_owned()).collect()
}

/// Names in the first columns of the tables of `docs/observability.md`.
///
/// # Errors
/// If it cannot be read.
pub fn documented() -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(repository().join("docs/observability.md"))?;
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `omma_")?.split('`').next());
    Ok(rows.map(|rest| format!("omma_{rest}")).collect())
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
