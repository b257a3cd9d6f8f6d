//! Tables of text, aligned by what characters take on a terminal.

use unicode_width::UnicodeWidthStr;

use crate::text::printable;

/// Where a column's cells stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows under headings; columns two spaces apart.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Missing cells are empty; those beyond the columns are dropped.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut row: Vec<String> = cells.into_iter().map(|cell| printable(&cell).replace('\n', "\u{fffd}")).collect();
        row.resize(self.columns.len(), String::new());
        self.rows.push(row);
    }

    /// As text, with a line end after each row.
    pub(crate) fn render(&self) -> String {
        let headings: Vec<String> = self.columns.iter().map(|(name, _)| name.to_uppercase()).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|i| self.rows.iter().chain([&headings]).map(|row| row[i].width()).max().unwrap_or(0))
            .collect();
        let mut out = String::new();
        for row in [&headings].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for ((cell, &width), (_, align)) in row.iter().zip(&widths).zip(&self.columns) {
                let pad = " ".repeat(width - cell.width());
                match align {
                    Align::Left => line.extend([cell.as_str(), &pad, "  "]),
                    Align::Right => line.extend([pad.as_str(), cell, "  "]),
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_by_display_width() {
        let mut table = Table::new(&[("id", Align::Left), ("n", Align::Right)]);
        table.row(["猫".into(), "1".into()]);
        table.row(["e\u{301}".into(), "23".into()]);
        table.row(["long one".into()]);
        assert_eq!(table.render(), "ID         N\n猫         1\ne\u{301}         23\nlong one\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let mut table = Table::new(&[("id", Align::Left)]);
        table.row(["a\u{1b}[2Jb\n".into()]);
        assert_eq!(table.render(), "ID\na\u{fffd}[2Jb\u{fffd}\n");
    }

    #[test]
    fn a_table_without_rows_is_its_headings() {
        assert_eq!(Table::new(&[("a", Align::Right), ("b", Align::Left)]).render(), "A  B\n");
    }
}
