//! Draws the README's pictures from what was captured (`make pictures`): a terminal as `tmux capture-pane -e` saw it, and
//! the details of a process as Weave Scope draws them, from a report.
//!
//! `pictures CAPTURE REPORT DIRECTORY` writes `top.svg` and `scope.svg`.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a tool that cannot go on has failed, and writing to a string cannot fail"
)]

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use agent::report::MetricKind;
use agent::report::model::{Metric, Node, Report};

/// Of a letter of the terminal, in pixels.
const WIDTH: usize = 8;
const HEIGHT: usize = 17;

/// What the escape sequences so far say.
#[derive(Clone, Copy, Default)]
struct Style {
    color: Option<&'static str>,
    bold: bool,
    dim: bool,
    reversed: bool,
}

impl Style {
    /// Takes in one number of a sequence `ESC [ … m`.
    fn set(&mut self, code: u32) {
        match code {
            0 => *self = Self::default(),
            1 => self.bold = true,
            2 => self.dim = true,
            7 => self.reversed = true,
            22 => (self.bold, self.dim) = (false, false),
            27 => self.reversed = false,
            31 => self.color = Some("#ff6b6b"),
            32 => self.color = Some("#6bd968"),
            33 => self.color = Some("#e5c07b"),
            36 => self.color = Some("#56c8d8"),
            39 => self.color = None,
            _ => {}
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn begin(width: usize, height: usize, background: &str, family: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"{family}\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{background}\"/>\n"
    )
}

fn terminal(capture: &str) -> String {
    let lines: Vec<&str> = capture.trim_end().lines().collect();
    let columns = lines.iter().map(|line| runs(line).1).max().unwrap_or(0);
    let (width, height) = ((columns + 2) * WIDTH, (lines.len() + 1) * HEIGHT);
    let mut svg = begin(width, height, "#1b1f27", "monospace");
    for (number, line) in lines.iter().enumerate() {
        let y = (number + 1) * HEIGHT;
        for (column, text, style) in runs(line).0 {
            let length = text.chars().count() * WIDTH;
            let x = (column + 1) * WIDTH;
            let (mut color, mut weight) = (style.color.unwrap_or("#d7dae0"), "normal");
            if style.reversed {
                let top = y - HEIGHT + 4;
                writeln!(
                    svg,
                    "<rect x=\"{x}\" y=\"{top}\" width=\"{length}\" height=\"{HEIGHT}\" fill=\"#d7dae0\"/>"
                )
                .unwrap();
                color = "#1b1f27";
            }
            if style.bold {
                weight = "bold";
            }
            let opacity = if style.dim { "0.6" } else { "1" };
            writeln!(
                svg,
                "<text x=\"{x}\" y=\"{y}\" font-size=\"13\" textLength=\"{length}\" lengthAdjust=\"spacingAndGlyphs\" \
                 xml:space=\"preserve\" fill=\"{color}\" font-weight=\"{weight}\" opacity=\"{opacity}\">{}</text>",
                escape(&text)
            )
            .unwrap();
        }
    }
    svg + "</svg>\n"
}

/// Column, text and style of each part of a line that looks alike, and how long the line is.
fn runs(line: &str) -> (Vec<(usize, String, Style)>, usize) {
    let (mut runs, mut style, mut column) = (Vec::new(), Style::default(), 0);
    for (number, part) in line.split("\u{1b}[").enumerate() {
        let mut text = part;
        if number > 0
            && let Some((codes, rest)) = part.split_once('m')
        {
            // `38;5;2` is `32`.
            for code in codes.replace("38;5;", "3").split(';') {
                style.set(code.parse().unwrap_or(0));
            }
            text = rest;
        }
        if !text.trim().is_empty() {
            runs.push((column, text.to_owned(), style));
        }
        column += text.chars().count();
    }
    (runs, column)
}

/// The latest value of a graph, cut as Scope does.
fn latest(metric: &Metric) -> f64 {
    metric
        .samples
        .last()
        .map_or(0.0, |sample| (sample.value * 100.0).floor() / 100.0)
}

/// Points of a graph in a box, oldest left.
fn points(metric: &Metric, width: f64, height: f64) -> String {
    let count = f64::from(u32::try_from(metric.samples.len().max(2) - 1).unwrap());
    let points = metric.samples.iter().zip(0_u32..).map(|(sample, number)| {
        let x = f64::from(number) / count * width;
        let y = height - (sample.value - metric.min) / (metric.max - metric.min) * height;
        format!("{x:.1},{y:.1}")
    });
    points.collect::<Vec<_>>().join(" ")
}

/// The details of the process with most requests: its graphs by priority, and its rows.
fn scope(report: &Report) -> String {
    let requests = |node: &Node| node.metrics.get(&MetricKind::Requests).map_or(0.0, latest);
    let (id, node) = report
        .process
        .nodes
        .iter()
        .max_by(|(_, a), (_, b)| requests(a).total_cmp(&requests(b)))
        .unwrap();
    let (host, pid) = id.rsplit_once(';').unwrap();
    let mut metrics: Vec<_> = node
        .metrics
        .iter()
        .map(|(kind, metric)| (&report.process.metric_templates[kind], metric))
        .collect();
    metrics.sort_by(|(a, _), (b, _)| a.priority.total_cmp(&b.priority));
    let rows: Vec<(&str, &str)> = report
        .process
        .metadata_templates
        .iter()
        .filter_map(|(key, template)| Some((&*template.label, node.latest.get(key)?.value.as_str())))
        .collect();

    let columns = 3;
    let top = 70;
    let tiles = metrics.len().div_ceil(columns) * 96;
    let height = top + tiles + 40 + rows.len() * 20;
    let mut svg = begin(480, height, "#ffffff", "sans-serif");
    writeln!(
        svg,
        "<rect width=\"480\" height=\"52\" rx=\"6\" fill=\"#4b5d8e\"/>\n\
         <text x=\"20\" y=\"24\" font-size=\"18\" fill=\"#ffffff\">process {pid}</text>\n\
         <text x=\"20\" y=\"42\" font-size=\"12\" fill=\"#d5dcf0\">{}</text>",
        escape(host)
    )
    .unwrap();
    for (number, (template, metric)) in metrics.iter().enumerate() {
        let (x, y) = (20 + number % columns * 150, top + number / columns * 96);
        writeln!(
            svg,
            "<g transform=\"translate({x},{y})\">\n\
             <polyline points=\"{}\" transform=\"translate(0,4)\" fill=\"none\" stroke=\"#7d7da8\" stroke-width=\"1.5\"/>\n\
             <text x=\"65\" y=\"62\" font-size=\"17\" fill=\"#32324b\" text-anchor=\"middle\">{:.2}</text>\n\
             <text x=\"65\" y=\"79\" font-size=\"11\" fill=\"#8383ac\" text-anchor=\"middle\">{}</text>\n</g>",
            points(metric, 130.0, 36.0),
            latest(metric),
            escape(&template.label)
        )
        .unwrap();
    }
    for (number, (label, value)) in rows.iter().enumerate() {
        let y = top + tiles + 24 + number * 20;
        writeln!(
            svg,
            "<text x=\"150\" y=\"{y}\" font-size=\"12\" fill=\"#8383ac\" text-anchor=\"end\">{}</text>\n\
             <text x=\"162\" y=\"{y}\" font-size=\"12\" fill=\"#32324b\">{}</text>",
            escape(label),
            escape(value)
        )
        .unwrap();
    }
    svg + "</svg>\n"
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [capture, report, directory] = &arguments[..] else {
        panic!("usage: pictures CAPTURE REPORT DIRECTORY")
    };
    let directory = Path::new(directory);
    fs::create_dir_all(directory).unwrap();
    fs::write(
        directory.join("top.svg"),
        terminal(&fs::read_to_string(capture).unwrap()),
    )
    .unwrap();
    let report = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    fs::write(directory.join("scope.svg"), scope(&report)).unwrap();
}
