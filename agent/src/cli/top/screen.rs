//! How the live table looks: pure, from its state to a frame of a terminal.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row as Cells, Table, TableState};

use super::rows::{Grouping, Listing, Row};
use super::state::{Keys, State};
use crate::cli::totals::not_counted;

/// Which letters a terminal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Letters {
    /// Also blocks.
    Unicode,
    Ascii,
}

impl Letters {
    /// Nothing to the highest, and nothing at all first.
    const fn levels(self) -> [char; 9] {
        match self {
            Self::Unicode => [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
            Self::Ascii => [' ', '.', '.', ':', '-', '=', '+', '*', '#'],
        }
    }
}

/// Columns of numbers.
const RATE: u16 = 6;
const TOTAL: u16 = 9;
/// A sparkline has a sample for each second of the last minute where there is room for it.
const MAX_SPARKLINE: u16 = 60;

pub(super) fn draw(frame: &mut Frame<'_>, state: &State, letters: Letters) {
    let [header, table, detail, footer] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Min(2),
        Constraint::Length(4),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let listing = state.listing();
    frame.render_widget(Paragraph::new(header_lines(state, listing)), header);
    if let Some(listing) = listing {
        draw_table(frame, table, state, listing, letters);
        if let Some(row) = state.selected() {
            draw_detail(frame, detail, row, letters);
        }
    }
    frame.render_widget(Paragraph::new(footer_line(state)), footer);
}

fn class_color(class: u8) -> Color {
    match class {
        2 => Color::Green,
        3 => Color::Cyan,
        4 => Color::Yellow,
        5 => Color::Red,
        _ => Color::Reset,
    }
}

fn header_lines<'a>(state: &'a State, listing: Option<&'a Listing>) -> Vec<Line<'a>> {
    let mut first = vec!["HTTP statistics".bold()];
    if let Some(listing) = listing {
        let date = listing.date.map(|date| date.strftime("%H:%M:%SZ").to_string());
        first.push(Span::raw(format!(
            "  {}  {}  hook {}  {}  {}",
            listing.host,
            date.unwrap_or_else(|| "no sample yet".to_owned()),
            listing.hook,
            if state.attached {
                "attached by top".to_owned()
            } else {
                format!("agent {}", listing.agent)
            },
            listing.by.plural(),
        )));
    }
    if state.paused {
        first.push("  PAUSED".bold());
    }
    let mut second = Vec::new();
    if let Some(Listing { sum, .. }) = listing {
        second.push(format!("{} req/s ", rate(sum.requests_per_second)).bold());
        for class in 2..=5 {
            let text = format!("  {class}xx {}/s", rate(sum.class_rate(class)));
            second.push(Span::styled(text, class_color(class)));
        }
        second.push(Span::raw(format!("   {} total", sum.requests)));
    }
    let problem = state
        .problem
        .as_deref()
        .or_else(|| listing.and_then(|listing| listing.failure.as_deref()));
    let third = match (problem, listing) {
        (Some(problem), _) => Line::from(problem.to_owned()).fg(Color::Red),
        (None, Some(listing)) => {
            let lost = listing.losses.values().any(|count| *count > 0);
            let style = if lost {
                Style::new().fg(Color::Yellow)
            } else {
                Style::new()
            };
            Line::styled(format!("not counted: {}", not_counted(&listing.losses)), style)
        }
        (None, None) => Line::from("waiting for the first sample"),
    };
    vec![first.into(), second.into(), third]
}

fn footer_line(state: &State) -> Line<'_> {
    if state.keys == Keys::Filter {
        return Line::from(format!(
            "filter: {}_   Enter keep  Esc clear",
            state.selection.filter
        ));
    }
    let mut line = format!(
        "q quit  g group  s sort:{}{}  / filter",
        state.selection.sort.name(),
        if state.selection.reverse {
            " (reversed)"
        } else {
            ""
        },
    );
    if !state.selection.filter.is_empty() {
        line.push(':');
        line.push_str(&state.selection.filter);
    }
    line.push_str("  r reverse  p pause  j k select");
    Line::from(line).dim()
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, state: &State, listing: &Listing, letters: Letters) {
    let process = listing.by == Grouping::Process;
    // What is left after the columns that are always there, and the gaps between them.
    let fixed = RATE + 4 * RATE + TOTAL + 6 + if process { 8 } else { 0 };
    let rest = area.width.saturating_sub(fixed);
    // A command needs 16 columns, a sparkline 10; they share what there is beyond that.
    let spare = rest.saturating_sub(17);
    let sparkline = (spare / 2).max(spare.min(10)).min(MAX_SPARKLINE);
    let names = rest.saturating_sub(sparkline + 1);
    let place = if listing.by == Grouping::Pod || names < 34 {
        0
    } else {
        names - 16
    };
    let mut titles = Vec::new();
    let mut widths = Vec::new();
    let mut column = |title: &'static str, width: u16, right: bool| {
        let title = Line::from(title);
        titles.push(Cell::from(if right { title.right_aligned() } else { title }));
        widths.push(Constraint::Length(width));
    };
    if process {
        column("PID", 7, true);
    }
    let name_title = match listing.by {
        Grouping::Process => "COMMAND",
        Grouping::Container => "CONTAINER",
        Grouping::Pod => "POD",
    };
    column(
        name_title,
        names.saturating_sub(if place > 0 { place + 1 } else { 0 }),
        false,
    );
    if place > 0 {
        column("WHERE", place, false);
    }
    for title in ["REQ/S", "2XX/S", "3XX/S", "4XX/S", "5XX/S"] {
        column(title, RATE, true);
    }
    column("REQUESTS", TOTAL, true);
    column("MINUTE", sparkline, false);

    let cells = |row: &Row| {
        let right = |text: String| Line::from(text).right_aligned();
        let mut cells = Vec::new();
        if process {
            cells.push(Cell::from(right(
                row.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            )));
        }
        cells.push(Cell::from(row.name.clone()));
        if place > 0 {
            // The end of a cgroup's path tells more than its beginning.
            let skip = row.place.chars().count().saturating_sub(place.into());
            cells.push(Cell::from(row.place.chars().skip(skip).collect::<String>()));
        }
        cells.push(Cell::from(right(rate(row.requests_per_second))).bold());
        for class in 2..=5 {
            let value = row.class_rate(class);
            let cell = Cell::from(right(rate(value)));
            cells.push(if value > 0.0 {
                cell.fg(class_color(class))
            } else {
                cell.dim()
            });
        }
        cells.push(Cell::from(right(total(row.requests))));
        cells.push(Cell::from(sparkline_text(
            &row.history,
            sparkline.into(),
            letters,
        )));
        Cells::new(cells)
    };
    let table = Table::new(listing.rows.iter().map(cells), widths)
        .header(Cells::new(titles).bold())
        .column_spacing(1)
        .row_highlight_style(Style::new().reversed());
    let mut table_state = TableState::new().with_selected(state.selected_index());
    frame.render_stateful_widget(table, area, &mut table_state);
}

/// The selected row: each status code, and its minute as wide as it goes.
fn draw_detail(frame: &mut Frame<'_>, area: Rect, row: &Row, letters: Letters) {
    let pid = row.pid.map(|pid| format!(" {pid}")).unwrap_or_default();
    let highest = row.history.iter().copied().fold(0.0, f64::max);
    // As many to a line as there is room for.
    let mut codes = vec![Line::default()];
    for (code, count) in &row.responses {
        let now = row.responses_per_second.get(code).copied().unwrap_or(0.0);
        let class = code.bytes().next().map_or(0, |digit| digit.wrapping_sub(b'0'));
        let text = format!(" {}/s {count}   ", rate(now));
        let is_full = codes
            .last()
            .is_some_and(|line| line.width() + code.len() + text.trim_end().len() > area.width.into());
        if is_full {
            codes.push(Line::default());
        }
        if let Some(line) = codes.last_mut() {
            line.push_span(Span::styled(code.clone(), class_color(class)));
            line.push_span(text);
        }
    }
    let width = usize::from(area.width.saturating_sub(20)).min(MAX_SPARKLINE.into());
    let mut lines = vec![
        Line::from(format!("{}{pid}  {}", row.name, row.place)).bold(),
        Line::from(format!(
            "{} {} req/s at most",
            sparkline_text(&row.history, width, letters),
            rate(highest)
        )),
    ];
    lines.extend(codes);
    frame.render_widget(Paragraph::new(lines), area);
}

/// A rate in at most six letters, up to a million.
fn rate(rate: f64) -> String {
    if rate < 9_999.5 {
        format!("{rate:.1}")
    } else {
        format!("{:.1}k", rate / 1000.0)
    }
}

/// A count in at most nine letters.
fn total(count: u64) -> String {
    if count < 1_000_000_000 {
        count.to_string()
    } else {
        format!("{}M", count / 1_000_000)
    }
}

/// The latest values to the right; where there are more than fit, each letter is the highest of some.
fn sparkline_text(history: &[f64], width: usize, letters: Letters) -> String {
    let highest = history.iter().copied().fold(0.0, f64::max);
    if width == 0 || highest <= 0.0 {
        return " ".repeat(width);
    }
    let each = history.len().div_ceil(width);
    let bars: Vec<f64> = history
        .rchunks(each)
        .map(|chunk| chunk.iter().copied().fold(0.0, f64::max))
        .collect();
    let levels = letters.levels();
    let level = |value: &f64| {
        // Anything is more than nothing.
        let steps = (1..levels.len()).filter(|step| {
            #[expect(clippy::cast_precision_loss, reason = "eight levels")]
            let least = (*step as f64 - 1.0) / 8.0;
            *value > least * highest
        });
        levels[steps.count()]
    };
    let text: String = bars.iter().rev().map(level).collect();
    format!("{text:>width$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparklines_are_as_wide_as_they_are_told() {
        for (history, width, expected) in [
            (&[][..], 3, "   "),
            (&[0.0, 0.0], 3, "   "),
            (&[0.0, 4.0, 8.0], 3, " ▄█"),
            (&[0.01, 8.0], 4, "  ▁█"),
            (&[8.0, 0.0, 1.0, 2.0, 0.0, 0.0], 3, "█▂ "),
            (&[1.0, 8.0, 8.0], 2, "▁█"),
        ] {
            assert_eq!(
                sparkline_text(history, width, Letters::Unicode),
                expected,
                "{history:?}"
            );
            assert_eq!(
                sparkline_text(history, width, Letters::Ascii).chars().count(),
                width
            );
        }
    }

    #[test]
    fn numbers_fit_their_columns() {
        for (value, expected) in [
            (0.0, "0.0"),
            (9_999.4, "9999.4"),
            (9_999.5, "10.0k"),
            (123_456.0, "123.5k"),
        ] {
            assert_eq!(rate(value), expected);
        }
        assert_eq!([total(999_999_999), total(1_000_000_000)], ["999999999", "1000M"]);
    }
}
