//! The graphs: which there are, what they are called, and what their points are.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::model::MetricTemplate;
use crate::config::StatusCodes;
use crate::stats::Event;

/// A graph of a process, container or pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetricKind {
    /// Requests received per second.
    Requests,
    /// Responses per second with this status code.
    Code(u16),
    /// Responses per second with any other status code.
    Others,
}

impl MetricKind {
    /// Every metric of a configuration, in the order they are shown.
    pub(super) fn all(codes: &StatusCodes) -> impl Iterator<Item = Self> {
        [Self::Requests]
            .into_iter()
            .chain(codes.iter().map(Self::Code))
            .chain([Self::Others])
    }

    /// The metric that shows an event, if one does.
    pub(super) fn of(event: Event, codes: &StatusCodes) -> Option<Self> {
        match event {
            Event::Request => Some(Self::Requests),
            Event::Response(code) if codes.contains(code) => Some(Self::Code(code)),
            Event::Response(_) | Event::UnknownResponse => Some(Self::Others),
            Event::Lost(_) => None,
        }
    }

    /// The metric with this id.
    #[must_use]
    pub fn from_id(id: &str) -> Option<Self> {
        match id {
            "http_requests_per_second" => Some(Self::Requests),
            "http_OTHERS_responses_per_second" => Some(Self::Others),
            _ => {
                let code = id.strip_prefix("http_")?.strip_suffix("_responses_per_second")?;
                code.parse().ok().map(Self::Code)
            }
        }
    }

    pub(super) fn template(self) -> MetricTemplate {
        let (label, priority) = match self {
            Self::Requests => ("HTTP Req/Second".to_owned(), 0.1),
            // 100/1000 is taken by requests, and equal priorities make Scope's rows flicker.
            Self::Code(100) => ("HTTP Resp 100/Second".to_owned(), 0.1005),
            Self::Code(code) => (format!("HTTP Resp {code}/Second"), f64::from(code) / 1000.0),
            Self::Others => ("HTTP Resp OTHERS/Second".to_owned(), 0.999),
        };
        MetricTemplate {
            id: self,
            label,
            priority,
        }
    }
}

/// The id in Scope: the ones of the original plugin, so that what knows those goes on working.
impl fmt::Display for MetricKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requests => f.write_str("http_requests_per_second"),
            Self::Code(code) => write!(f, "http_{code}_responses_per_second"),
            Self::Others => f.write_str("http_OTHERS_responses_per_second"),
        }
    }
}

impl Serialize for MetricKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MetricKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = String::deserialize(deserializer)?;
        Self::from_id(&id).ok_or_else(|| D::Error::custom(format!("`{id}` is no metric")))
    }
}

/// A rate as Scope can show it, in hundredths: it cuts values after two decimals, so that 199.998 would show as 199.99.
pub(super) fn hundredths(rate: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rates are not negative, and no host has 2^64 events in a second"
    )]
    let hundredths = (rate * 100.0).round() as u64;
    // Once in 300 s is not never.
    if rate > 0.0 { hundredths.max(1) } else { hundredths }
}

/// Writes hundredths as JSON: the shortest text that means them, with one decimal at least.
pub(super) fn write_decimal(json: &mut Vec<u8>, hundredths: u64) {
    let mut digits = [0; 24];
    let mut start = digits.len();
    let mut put = |digit: u8| {
        start -= 1;
        digits[start] = digit;
    };
    let last = |number: u64| b'0' + (number % 10) as u8;
    if !hundredths.is_multiple_of(10) {
        put(last(hundredths));
    }
    put(last(hundredths / 10));
    put(b'.');
    let mut whole = hundredths / 100;
    loop {
        put(last(whole));
        whole /= 10;
        if whole == 0 {
            break;
        }
    }
    json.extend_from_slice(&digits[start..]);
}

/// How long that is.
pub(super) fn decimal_len(hundredths: u64) -> usize {
    let digits = (hundredths / 100).checked_ilog10().unwrap_or(0) + 1;
    let decimals = if hundredths.is_multiple_of(10) { 1 } else { 2 };
    digits as usize + 1 + decimals
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_code_has_a_place_of_its_own_before_scopes_metrics() {
        let codes: Vec<u16> = (100..=599).collect();
        let codes = StatusCodes::try_from(codes).unwrap();
        let templates: Vec<MetricTemplate> = MetricKind::all(&codes).map(MetricKind::template).collect();
        assert_eq!(templates.len(), 502);
        let priorities: Vec<f64> = templates.iter().map(|template| template.priority).collect();
        assert!(
            priorities.is_sorted_by(|a, b| a < b),
            "in the order of their codes, none twice"
        );
        assert!(priorities.iter().all(|priority| (0.1..1.0).contains(priority)));
        let labels: BTreeSet<&str> = templates.iter().map(|template| template.label.as_str()).collect();
        assert_eq!(labels.len(), templates.len());
    }

    #[test]
    fn ids_are_read_as_they_are_written() {
        for kind in [MetricKind::Requests, MetricKind::Code(404), MetricKind::Others] {
            assert_eq!(MetricKind::from_id(&kind.to_string()), Some(kind));
        }
        for id in [
            "",
            "http_requests",
            "http_x_responses_per_second",
            "open_files_count",
        ] {
            assert_eq!(MetricKind::from_id(id), None, "{id}");
        }
    }

    fn text(hundredths: u64) -> String {
        let mut json = Vec::new();
        write_decimal(&mut json, hundredths);
        String::from_utf8(json).unwrap()
    }

    #[test]
    fn values_survive_that_scope_cuts_them_after_two_decimals() {
        for (rate, shown) in [
            (0.0, "0.0"),
            (199.998, "200.0"),
            (0.333_333, "0.33"),
            (0.001, "0.01"),
            (0.005, "0.01"),
            (0.5, "0.5"),
            (12.0, "12.0"),
        ] {
            assert_eq!(text(hundredths(rate)), shown, "{rate}");
        }
    }

    proptest! {
        #[test]
        fn a_value_is_the_nearest_number_and_its_length_is_known_before_it_is_written(
            count in prop_oneof![0..100_u64, 0..1_000_000_000_000_u64],
            seconds in prop_oneof![Just(1.0), 0.1..100.0_f64]
        ) {
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let rate = count as f64 / seconds;
            let hundredths = hundredths(rate);
            let text = text(hundredths);
            prop_assert_eq!(decimal_len(hundredths), text.len(), "{}", text);
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let nearest = serde_json::to_string(&(hundredths as f64 / 100.0)).unwrap();
            prop_assert_eq!(&text, &nearest);
            prop_assert!((text.parse::<f64>().unwrap() - rate).abs() <= 0.01 + rate * 1e-12);
        }

        #[test]
        fn no_number_is_too_long(hundredths: u64) {
            prop_assert_eq!(decimal_len(hundredths), text(hundredths).len());
        }
    }
}
