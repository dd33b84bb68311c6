//! Writes a report: first all of it but the points of the graphs, then as many of these as there is room for.

use std::fmt;
use std::io::Write as _;

use serde::Serialize;

use super::Rates;
use super::metric::{decimal_len, hundredths, write_decimal};
use super::model::{Date, Node};
use crate::stats::{Series, Window};

/// Samples that stay, whatever the size: a poller that comes every two seconds must not miss any.
const MIN_SAMPLES: usize = 3;

/// What stands around the points of a graph.
const BEFORE_SAMPLES: &str = r#"{"samples":["#;
const BEFORE_MAX: &str = r#"],"min":0.0,"max":"#;

/// This as JSON. What is written here has text as keys and no number that is not finite, so it cannot fail.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// A report without points.
#[derive(Debug)]
pub(super) struct ReportWriter<'a> {
    json: Vec<u8>,
    graphs: Vec<Graph<'a>>,
}

/// A graph of which only the frame is there.
#[derive(Debug)]
struct Graph<'a> {
    /// Where its samples go.
    at: usize,
    /// What it is the sum of.
    parts: Vec<&'a Series>,
}

impl Graph<'_> {
    /// How many ticks it has.
    fn len(&self) -> usize {
        self.parts.iter().map(|part| part.len()).max().unwrap_or(0)
    }
}

impl<'a> ReportWriter<'a> {
    /// One with this as its field `Plugins`.
    pub(super) fn new(plugins: &impl Serialize) -> Self {
        Self {
            json: format!(r#"{{"Plugins":{}"#, json(plugins)).into(),
            graphs: Vec::new(),
        }
    }

    /// Adds a topology: its nodes, which have no metrics yet, each with its rates, and its templates as JSON.
    pub(super) fn topology(
        &mut self,
        name: &str,
        nodes: impl Iterator<Item = (String, Node, Rates<'a>)>,
        templates: &str,
    ) {
        self.text(format_args!(r#","{name}":{{"nodes":{{"#));
        for (number, (id, node, rates)) in nodes.enumerate() {
            if number > 0 {
                self.json.push(b',');
            }
            self.value(&id);
            self.json.push(b':');
            self.value(&node);
            self.metrics(rates);
        }
        self.text(format_args!("}},{templates}}}"));
    }

    /// Puts metrics into the node that was written last.
    fn metrics(&mut self, rates: Rates<'a>) {
        if rates.is_empty() {
            return;
        }
        self.json.pop();
        let mut before = if self.json.ends_with(b"{") {
            r#""metrics":{"#
        } else {
            r#","metrics":{"#
        };
        for (kind, parts) in rates {
            self.text(format_args!(r#"{before}"{kind}":{BEFORE_SAMPLES}"#));
            before = ",";
            self.graphs.push(Graph {
                at: self.json.len(),
                parts,
            });
            self.text(format_args!("{BEFORE_MAX}}}"));
        }
        self.text(format_args!("}}}}"));
    }

    // A vector takes everything.

    fn text(&mut self, text: fmt::Arguments<'_>) {
        let _written = self.json.write_fmt(text);
    }

    fn value(&mut self, value: &impl Serialize) {
        let _written = serde_json::to_writer(&mut self.json, value);
    }

    /// The report, at most `max_size` bytes if that is possible, and how many ticks of the window it shows.
    pub(super) fn finish(mut self, window: &Window, max_size: usize) -> (Vec<u8>, usize) {
        self.json.push(b'}');
        // What stands before the value of a sample.
        let ticks: Vec<String> = window
            .dates()
            .map(|date| format!(r#",{{"date":"{}","value":"#, Date::from(date).as_str()))
            .collect();
        let at_most = self.ticks_at_most(&ticks, max_size);
        let graphs: Vec<(usize, Vec<u64>)> = self
            .graphs
            .iter()
            .map(|graph| {
                let rates = window.rates_of_sum(&graph.parts, at_most);
                (graph.at, rates.map(hundredths).collect())
            })
            .collect();
        let sizes = sizes(self.json.len(), &ticks[ticks.len() - at_most..], &graphs);
        let fitting = sizes.partition_point(|size| *size <= max_size);
        let shown = fitting.max(MIN_SAMPLES.min(ticks.len()));

        let mut report = Vec::with_capacity(shown.checked_sub(1).map_or(self.json.len(), |last| sizes[last]));
        let mut written = 0;
        for (at, values) in &graphs {
            report.extend_from_slice(&self.json[written..*at]);
            let values = &values[values.len().saturating_sub(shown)..];
            let mut comma = 1;
            for (tick, value) in ticks[ticks.len() - values.len()..].iter().zip(values) {
                report.extend_from_slice(&tick.as_bytes()[comma..]);
                comma = 0;
                write_decimal(&mut report, *value);
                report.push(b'}');
            }
            report.extend_from_slice(BEFORE_MAX.as_bytes());
            write_decimal(&mut report, max_of(values.iter().copied().max()));
            written = at + BEFORE_MAX.len();
        }
        report.extend_from_slice(&self.json[written..]);
        (report, shown)
    }

    /// More of the window's ticks than this do not fit, however short the values are.
    fn ticks_at_most(&self, ticks: &[String], max_size: usize) -> usize {
        let shortest = ticks.iter().map(String::len).min().unwrap_or(0) + "0.0}".len();
        let lens: Vec<usize> = self.graphs.iter().map(Graph::len).collect();
        let more: Vec<usize> = (MIN_SAMPLES + 1..=ticks.len()).collect();
        let fits = |shown: &usize| {
            let samples: usize = lens.iter().map(|len| len.min(shown)).sum();
            // Each graph has one comma less, and a `max`.
            self.json.len() + samples * shortest <= max_size
        };
        MIN_SAMPLES.min(ticks.len()) + more.partition_point(fits)
    }
}

/// How long the report is with only the latest tick, with the latest two, and so on. `rest` is all but points.
fn sizes(rest: usize, ticks: &[String], graphs: &[(usize, Vec<u64>)]) -> Vec<usize> {
    let mut sizes = vec![rest; ticks.len()];
    for (_, values) in graphs {
        let mut values = values.iter().rev();
        let (mut samples, mut max) = (0, None);
        for (size, tick) in sizes.iter_mut().zip(ticks.iter().rev()) {
            if let Some(value) = values.next() {
                samples += tick.len() + decimal_len(*value) + "}".len();
                max = max.max(Some(*value));
            }
            // The first has no comma.
            *size += samples.saturating_sub(1) + decimal_len(max_of(max));
        }
    }
    sizes
}

/// The upper end of a graph with this highest value, in hundredths.
fn max_of(highest: Option<u64>) -> u64 {
    highest.filter(|highest| *highest > 0).unwrap_or(EMPTY_MAX)
}

/// More than 0: Scope divides by it.
const EMPTY_MAX: u64 = 100;
