//! The contact sheet: one HTML file that needs nothing else, each query beside its nearest images.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A small picture, as JPEG, with what is known about it.
#[derive(Debug, Clone)]
pub(super) struct Tile {
    pub(super) id: String,
    pub(super) score: f32,
    /// None if the stored picture could not be read again.
    pub(super) thumbnail: Option<Vec<u8>>,
    /// It is the picture that the query was made from.
    pub(super) is_original: bool,
}

/// One query with its hits, best first.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// What was done to the picture.
    pub(super) label: String,
    pub(super) original: String,
    pub(super) thumbnail: Vec<u8>,
    /// Where the time went, in words.
    pub(super) timings: String,
    pub(super) hits: Vec<Tile>,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Sheet {
    pub(super) rows: Vec<Row>,
    /// What was seen, in sentences.
    pub(super) facts: Vec<String>,
}

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1d2328; --soft: #66727d; --paper: #f6f5f2; --card: #fff; --line: #e2dfd8;
  --good: #1f7a4d; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e6e1; --soft: #98a2ab; --paper: #15181b; --card: #1e2226; --line: #31373d; --good: #5cc493; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 2.5rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 .3rem; font-size: 1.9rem; letter-spacing: -.02em; }
.lead { margin: 0 0 2rem; color: var(--soft); }
section { margin: 0 0 1.2rem; padding: 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; }
.row { display: flex; gap: 1rem; }
.query { flex: 0 0 200px; padding-right: 1rem; border-right: 1px solid var(--line); }
.hits { flex: 1; display: grid; grid-template-columns: repeat(5, 1fr); gap: .8rem; min-width: 0; }
figure { margin: 0; min-width: 0; }
img, .none { display: block; width: 100%; aspect-ratio: 4 / 3; object-fit: contain; background: var(--paper);
  border-radius: 7px; border: 2px solid transparent; }
.original img { border-color: var(--good); }
figcaption { margin-top: .35rem; font-size: .76rem; color: var(--soft); overflow-wrap: anywhere; }
.score { float: right; font-variant-numeric: tabular-nums; color: var(--ink); font-weight: 600; }
.original .score { color: var(--good); }
h2 { margin: 0 0 .7rem; font-size: 1rem; }
h2 small { font-weight: 400; color: var(--soft); }
ul { margin: 0; padding-left: 1.2rem; }
@media (max-width: 760px) { .row { flex-direction: column; } .query { border: 0; flex-basis: auto; }
  .hits { grid-template-columns: repeat(2, 1fr); } }
";

/// The file's text.
pub(super) fn render(sheet: &Sheet) -> String {
    let rows: String = sheet.rows.iter().map(row).collect();
    let facts: String = sheet.facts.iter().map(|fact| format!("<li>{}</li>\n", escape(fact))).collect();
    let (found, all) =
        (sheet.rows.iter().filter(|r| r.hits.first().is_some_and(|h| h.is_original)).count(), sheet.rows.len());
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Omma: contact sheet</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>Omma: contact sheet</h1>\n\
         <p class=\"lead\">Left: an altered copy of a stored picture. Right: its nearest stored images with their \
         scores; the picture it was made from is framed. {found} of {all} were found at rank 1.</p>\n\
         {rows}<section><h2>What was seen</h2>\n<ul>\n{facts}</ul></section>\n</body>\n</html>\n"
    )
}

fn row(row: &Row) -> String {
    let hits: String = row.hits.iter().map(tile).collect();
    format!(
        "<section>\n<h2>{} <small>{}</small></h2>\n<div class=\"row\">\n<figure class=\"query\">{}\
         <figcaption>made from {}</figcaption></figure>\n<div class=\"hits\">\n{hits}</div>\n</div>\n</section>\n",
        escape(&row.label),
        escape(&row.timings),
        picture(Some(&row.thumbnail), &row.label),
        escape(&row.original),
    )
}

fn tile(tile: &Tile) -> String {
    let class = if tile.is_original { " class=\"original\"" } else { "" };
    format!(
        "<figure{class}>{}<figcaption><span class=\"score\">{:.3}</span>{}</figcaption></figure>\n",
        picture(tile.thumbnail.as_deref(), &tile.id),
        tile.score,
        escape(&tile.id),
    )
}

fn picture(jpeg: Option<&[u8]>, text: &str) -> String {
    match jpeg {
        Some(jpeg) => {
            format!("<img alt=\"{}\" src=\"data:image/jpeg;base64,{}\">", escape(text), STANDARD.encode(jpeg))
        }
        None => "<div class=\"none\"></div>".into(),
    }
}

/// Names of files may hold anything.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet(id: &str) -> Sheet {
        let tile = |is_original| Tile { id: id.into(), score: 0.98765, thumbnail: Some(vec![1, 2, 3]), is_original };
        let row = Row {
            label: "mirrored".into(),
            original: id.into(),
            thumbnail: vec![9],
            timings: "Took 3 ms.".into(),
            hits: vec![tile(true), Tile { thumbnail: None, ..tile(false) }],
        };
        Sheet { rows: vec![row], facts: vec![format!("saw {id}")] }
    }

    #[test]
    fn names_cannot_break_out() {
        let html = render(&sheet("<script>\"'&.jpg"));
        assert!(!html.contains("<script"));
        assert!(html.contains("&lt;script&gt;&quot;&#39;&amp;.jpg"));
    }

    #[test]
    fn the_file_needs_nothing_else() {
        let html = render(&sheet("a.jpg"));
        for reference in ["http", "url(", "@import", "<script", "<link"] {
            assert!(!html.contains(reference), "{reference}");
        }
        assert_eq!(html.matches("src=\"data:image/jpeg;base64,").count(), 2);
        assert!(html.contains("0.988") && html.contains("1 of 1 were found"));
        assert_eq!(html.matches("<figure class=\"original\">").count(), 1);
    }
}
