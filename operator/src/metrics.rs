//! What the operator tells about itself: as `OpenMetrics`, and in the older text format of Prometheus.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Kind {
    kind: String,
}

/// All metrics of the operator. A clone counts into the same ones.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    reconciles: Counter,
    errors: Family<Kind, Counter>,
    own_time: Histogram,
    api_time: Histogram,
    writes: Family<Kind, Counter>,
    resources: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        // 0.1 ms to 1.6 s, and 1 ms to 16 s.
        let own_time = Histogram::new(exponential_buckets(0.0001, 2.0, 15));
        let api_time = Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let (reconciles, errors, writes) = (Counter::default(), Family::default(), Family::default());
        let resources = Gauge::default();
        let mut registry = Registry::with_prefix("scope_http_statistics_operator");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The operator's version", build);
        registry.register(
            "reconciles",
            "Times that a resource was looked at",
            reconciles.clone(),
        );
        registry.register("reconcile_errors", "Times that this failed", errors.clone());
        registry.register_with_unit(
            "reconcile_own",
            "Time that this took, without waiting for the API server",
            Unit::Seconds,
            own_time.clone(),
        );
        registry.register_with_unit(
            "write",
            "Time that the API server took for a write",
            Unit::Seconds,
            api_time.clone(),
        );
        registry.register(
            "writes",
            "Writes to the API server, also refused ones",
            writes.clone(),
        );
        registry.register(
            "resources",
            "HttpStatistics resources that there are",
            resources.clone(),
        );
        Self {
            registry: Arc::new(registry),
            reconciles,
            errors,
            own_time,
            api_time,
            writes,
            resources,
        }
    }
}

impl Metrics {
    /// A resource was reconciled.
    pub(crate) fn reconciled(&self, own_time: Duration) {
        self.reconciles.inc();
        self.own_time.observe(own_time.as_secs_f64());
    }

    /// A reconcile failed. `kind` is one of a few words.
    pub(crate) fn failed(&self, kind: &str) {
        let kind = kind.to_owned();
        self.errors.get_or_create(&Kind { kind }).inc();
    }

    /// An object of `kind` was written, or the API server refused the write.
    pub(crate) fn wrote(&self, kind: &str, time: Duration) {
        let kind = kind.to_owned();
        self.writes.get_or_create(&Kind { kind }).inc();
        self.api_time.observe(time.as_secs_f64());
    }

    /// There are so many resources.
    pub(crate) fn resources(&self, count: usize) {
        self.resources.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// All of it as `OpenMetrics` 1.0.0.
    ///
    /// # Errors
    /// When it cannot be formatted.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// The same in the text format 0.0.4 of Prometheus, for readers that do not know `OpenMetrics`: counters and infos are
/// named as their samples, infos are gauges, and there are neither units nor an end. The agent has the same function.
pub(crate) fn classic(open_metrics: &str) -> String {
    let kinds: HashMap<&str, &str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let mut text = String::with_capacity(open_metrics.len());
    for line in open_metrics.lines() {
        let comment = line.strip_prefix("# ").map(|comment| comment.splitn(3, ' '));
        let words: Vec<&str> = comment.into_iter().flatten().collect();
        match words[..] {
            [] => text.push_str(line),
            [keyword @ ("HELP" | "TYPE"), name, rest] => {
                let kind = kinds.get(name).copied().unwrap_or_default();
                let suffix = match kind {
                    "counter" => "_total",
                    "info" => "_info",
                    _ => "",
                };
                let rest = if keyword == "TYPE" && kind == "info" {
                    "gauge"
                } else {
                    rest
                };
                text.extend(["# ", keyword, " ", name, suffix, " ", rest]);
            }
            _ => continue,
        }
        text.push('\n');
    }
    text
}
