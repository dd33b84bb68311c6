//! What the live table shows now, and what keys do to that. Pure.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::rows::{Listing, Row, Selection};
use crate::overview::Overview;

/// Rows that a page key goes over.
const PAGE: usize = 10;

/// What keys mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Keys {
    #[default]
    Commands,
    /// They are letters of the filter.
    Filter,
}

/// The state of the screen.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) selection: Selection,
    pub(super) keys: Keys,
    pub(super) paused: bool,
    /// Whether there is no agent, and `top` itself is attached.
    pub(super) attached: bool,
    /// Why nothing new comes, if so.
    pub(super) problem: Option<String>,
    overview: Option<Overview>,
    listing: Option<Listing>,
    /// PID, name and place of the selected row: it may move.
    selected: Option<(Option<u32>, String, String)>,
    pub(super) done: bool,
}

impl State {
    pub(super) fn new(selection: Selection, attached: bool) -> Self {
        Self {
            selection,
            attached,
            ..Self::default()
        }
    }

    /// Takes in what is new, unless paused.
    pub(super) fn update(&mut self, overview: Option<Overview>, problem: Option<String>) {
        if self.paused {
            return;
        }
        self.problem = problem;
        if overview.is_some() {
            self.overview = overview;
            self.list();
        }
    }

    pub(super) fn listing(&self) -> Option<&Listing> {
        self.listing.as_ref()
    }

    pub(super) fn selected_index(&self) -> Option<usize> {
        let rows = &self.listing.as_ref()?.rows;
        let selected = self.selected.as_ref()?;
        rows.iter().position(|row| is_selected(row, selected))
    }

    /// The selected row, or else the first.
    pub(super) fn selected(&self) -> Option<&Row> {
        let rows = &self.listing.as_ref()?.rows;
        rows.get(self.selected_index().unwrap_or(0))
    }

    fn list(&mut self) {
        self.listing = self.overview.as_ref().map(|overview| self.selection.of(overview));
    }

    /// Selects the row this many below the selected one.
    fn go(&mut self, by: isize) {
        let Some(rows) = self.listing.as_ref().map(|listing| &listing.rows) else {
            return;
        };
        let index = match self.selected_index() {
            Some(index) => index.saturating_add_signed(by).min(rows.len().saturating_sub(1)),
            None => 0,
        };
        self.selected = rows.get(index).map(|row| {
            let (pid, name, place) = row.key();
            (pid, name.to_owned(), place.to_owned())
        });
    }

    /// A key was pressed.
    pub(super) fn press(&mut self, key: KeyEvent) {
        if key.kind == KeyEventKind::Release {
            return;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            self.done |= matches!(key.code, KeyCode::Char('c' | 'd'));
            return;
        }
        match self.keys {
            Keys::Filter => self.edit(key.code),
            Keys::Commands => self.command(key.code),
        }
        self.list();
    }

    fn edit(&mut self, key: KeyCode) {
        let filter = &mut self.selection.filter;
        match key {
            KeyCode::Enter => self.keys = Keys::Commands,
            KeyCode::Esc => {
                filter.clear();
                self.keys = Keys::Commands;
            }
            KeyCode::Backspace => {
                filter.pop();
            }
            KeyCode::Char(letter) => filter.push(letter),
            _ => {}
        }
    }

    fn command(&mut self, key: KeyCode) {
        let page = PAGE.cast_signed();
        match key {
            KeyCode::Char('q') => self.done = true,
            KeyCode::Esc => {
                self.selection.filter.clear();
                self.selected = None;
            }
            KeyCode::Char('g') | KeyCode::Tab => {
                self.selection.by = self.selection.by.next();
                self.selected = None;
            }
            KeyCode::Char('s') => self.selection.sort = self.selection.sort.next(),
            KeyCode::Char('r') => self.selection.reverse = !self.selection.reverse,
            KeyCode::Char('/') => self.keys = Keys::Filter,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Down | KeyCode::Char('j') => self.go(1),
            KeyCode::Up | KeyCode::Char('k') => self.go(-1),
            KeyCode::PageDown => self.go(page),
            KeyCode::PageUp => self.go(-page),
            KeyCode::Home => self.go(isize::MIN),
            KeyCode::End => self.go(isize::MAX),
            _ => {}
        }
    }
}

fn is_selected(row: &Row, (pid, name, place): &(Option<u32>, String, String)) -> bool {
    row.key() == (*pid, name.as_str(), place.as_str())
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::screen::{Letters, draw};
    use super::*;

    /// `rate` of process 7; process 8 has 5 requests a second.
    fn overview(rate: u64) -> Overview {
        serde_json::from_str(&format!(
            r#"{{"host":"node-1","hook":"kprobe","pid":42,"date":"2026-11-22T16:16:40Z","failure":null,"ticks":2,
                "processes":[
                  {{"pid":7,"command":"nginx","cgroup":"/","container_id":"{}","container":"web","pod_uid":"u",
                    "pod":"shop-1","namespace":"store","requests":90,"responses":{{"200":80,"503":10}},
                    "request_rates":[1,{rate}],"response_rates":{{"200":{rate}}}}},
                  {{"pid":8,"command":"caddy","cgroup":"/caddy.service","requests":70,"responses":{{"404":70}},
                    "request_rates":[5],"response_rates":{{"404":5}}}}],
                "exited":[],"losses":{{"gave_up":2}}}}"#,
            "a".repeat(64)
        ))
        .unwrap()
    }

    fn lines(state: &State, width: u16, letters: Letters) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, 24)).unwrap();
        terminal.draw(|frame| draw(frame, state, letters)).unwrap();
        let text = terminal.backend().to_string();
        // Lines are in quotes.
        text.lines()
            .map(|line| line.trim_matches('"').trim_end().to_owned())
            .collect()
    }

    fn press(state: &mut State, keys: &[KeyCode]) {
        for key in keys {
            state.press(KeyEvent::from(*key));
        }
    }

    fn started() -> State {
        let mut state = State::new(Selection::default(), false);
        state.update(Some(overview(9)), None);
        state
    }

    #[test]
    fn everything_fits_into_eighty_columns() {
        let expected = "\
HTTP statistics  node-1  16:16:40Z  hook kprobe  agent 42  processes
14.0 req/s   2xx 9.0/s  3xx 0.0/s  4xx 5.0/s  5xx 0.0/s   160 total
not counted: gave_up 2
    PID COMMAND           REQ/S  2XX/S  3XX/S  4XX/S  5XX/S  REQUESTS MINUTE
      7 nginx               9.0    9.0    0.0    0.0    0.0        90         ▁█
      8 caddy               5.0    0.0    0.0    5.0    0.0        70          █";
        let lines = lines(&started(), 80, Letters::Unicode);
        assert_eq!(lines[..6].join("\n"), expected);
        assert_eq!(lines[19], "nginx 7  store/shop-1/web");
        assert_eq!(lines[20].trim_start(), "▁█ 9.0 req/s at most");
        assert_eq!(lines[21], "200 9.0/s 80   503 0.0/s 10");
        assert!(lines[23].starts_with("q quit"), "{}", lines[23]);
    }

    #[test]
    fn wide_terminals_show_where_and_narrow_ones_show_what_fits() {
        let wide = lines(&started(), 160, Letters::Unicode);
        assert!(
            wide[4].contains("store/shop-1/web") && wide[5].contains("/caddy.service"),
            "{wide:?}"
        );
        for width in [1, 20, 40, 60] {
            lines(&started(), width, Letters::Ascii);
        }
        let ascii = lines(&started(), 80, Letters::Ascii);
        assert!(ascii[4].ends_with(".#"), "{}", ascii[4]);
    }

    #[test]
    fn keys_group_sort_and_filter() {
        let mut state = started();
        let names = |state: &State| -> Vec<String> {
            let rows = &state.listing().unwrap().rows;
            rows.iter().map(|row| row.name.clone()).collect()
        };
        press(&mut state, &[KeyCode::Char('s'); 3]);
        assert_eq!(names(&state), ["caddy", "nginx"], "by name");
        press(&mut state, &[KeyCode::Char('r')]);
        assert_eq!(names(&state), ["nginx", "caddy"]);
        press(&mut state, &[KeyCode::Char('g')]);
        assert_eq!(names(&state), ["web", "(no container)"]);
        press(&mut state, &[KeyCode::Tab]);
        assert_eq!(names(&state), ["store/shop-1", "(no pod)"]);
        press(&mut state, &[KeyCode::Tab, KeyCode::Char('/')]);
        press(&mut state, &"caqx".chars().map(KeyCode::Char).collect::<Vec<_>>());
        assert!(names(&state).is_empty() && !state.done, "q is a letter here");
        press(
            &mut state,
            &[KeyCode::Backspace, KeyCode::Backspace, KeyCode::Enter],
        );
        assert_eq!(names(&state), ["caddy"]);
        press(&mut state, &[KeyCode::Esc]);
        assert_eq!(names(&state).len(), 2);
        press(&mut state, &[KeyCode::Char('q')]);
        assert!(state.done);
    }

    #[test]
    fn the_selected_row_stays_selected_wherever_it_goes() {
        let mut state = started();
        press(&mut state, &[KeyCode::Down]);
        assert_eq!(state.selected_index(), Some(0));
        state.update(Some(overview(1)), None);
        assert_eq!(state.selected_index(), Some(1));
        assert_eq!(state.selected().unwrap().name, "nginx");
        for (key, index) in [
            (KeyCode::Home, 0),
            (KeyCode::Up, 0),
            (KeyCode::End, 1),
            (KeyCode::PageDown, 1),
        ] {
            press(&mut state, &[key]);
            assert_eq!(state.selected_index(), Some(index), "{key:?}");
        }
    }

    #[test]
    fn nothing_moves_while_paused() {
        let mut state = started();
        press(&mut state, &[KeyCode::Char('p')]);
        let before = lines(&state, 80, Letters::Unicode);
        assert!(before[0].ends_with("PAUSED"), "{}", before[0]);
        state.update(Some(overview(1)), Some("gone".to_owned()));
        assert_eq!(lines(&state, 80, Letters::Unicode), before);
        press(&mut state, &[KeyCode::Char(' ')]);
        state.update(None, Some("the agent is gone".to_owned()));
        let lines = lines(&state, 80, Letters::Unicode);
        assert_eq!(lines[2], "the agent is gone");
        assert!(lines[4].contains("nginx"), "what was known stays");
    }
}
