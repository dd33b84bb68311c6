//! Tables for terminals: columns aligned by spaces, no colours.

/// Text goes to the left of its column, numbers to the right.
#[derive(Clone, Copy, Debug)]
pub(super) enum Align {
    Left,
    Right,
}

/// A table under construction.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: impl IntoIterator<Item = (impl Into<String>, Align)>) -> Self {
        let columns = columns
            .into_iter()
            .map(|(title, align)| (title.into(), align))
            .collect();
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn render(&self) -> String {
        let titles: Vec<String> = self.columns.iter().map(|(title, _)| title.clone()).collect();
        let lines: Vec<&Vec<String>> = [&titles].into_iter().chain(&self.rows).collect();
        let width = |column: usize| {
            lines
                .iter()
                .filter_map(|cells| cells.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..titles.len()).filter_map(width).collect();
        let mut text = String::new();
        for cells in lines {
            let mut line = String::new();
            for ((cell, width), (_, align)) in cells.iter().zip(&widths).zip(&self.columns) {
                let cell = match align {
                    Align::Left => format!("{cell:<width$}  "),
                    Align::Right => format!("{cell:>width$}  "),
                };
                line.push_str(&cell);
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new([("NAME", Align::Left), ("N", Align::Right)]);
        table.row(["nginx".to_owned(), "12".to_owned()]);
        table.row(["é".to_owned(), "1".to_owned()]);
        assert_eq!(table.render(), "NAME    N\nnginx  12\né       1\n");
    }
}
