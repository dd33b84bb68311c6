//! What agents request and may use, and which amounts Kubernetes accepts.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::error::Error;
use crate::api::v1alpha1::Resources;

/// Checks each amount, and that no request is above its limit.
pub(super) fn check(resources: Resources) -> Result<ResourceRequirements, Error> {
    let Resources { requests, limits } = resources;
    for (field, amounts) in [("requests", &requests), ("limits", &limits)] {
        for (name, Quantity(amount)) in amounts {
            if Amount::parse(amount).is_none() {
                let (name, amount) = (name.clone(), amount.clone());
                return Err(Error::Quantity { field, name, amount });
            }
        }
    }
    for (name, Quantity(request)) in &requests {
        let Some(Quantity(limit)) = limits.get(name) else {
            continue;
        };
        if Amount::parse(request) > Amount::parse(limit) {
            return Err(Error::RequestAboveLimit {
                name: name.clone(),
                request: request.clone(),
                limit: limit.clone(),
            });
        }
    }
    let set = |amounts: BTreeMap<_, _>| (!amounts.is_empty()).then_some(amounts);
    Ok(ResourceRequirements {
        claims: None,
        limits: set(limits),
        requests: set(requests),
    })
}

/// A quantity as a number, to compare: exact enough below 2^53 of its smallest unit.
#[derive(PartialEq, PartialOrd)]
struct Amount(f64);

impl Amount {
    fn parse(text: &str) -> Option<Self> {
        const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        const DECIMAL: [(&str, i32); 9] = [
            ("n", -9),
            ("u", -6),
            ("m", -3),
            ("k", 3),
            ("M", 6),
            ("G", 9),
            ("T", 12),
            ("P", 15),
            ("E", 18),
        ];
        let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
        let (digits, unit) = text.split_at(end.unwrap_or(text.len()));
        if !digits.starts_with(|letter: char| letter.is_ascii_digit()) || digits.ends_with('.') {
            return None;
        }
        let number: f64 = digits.parse().ok()?;
        let power = |unit: &&str| i32::try_from(BINARY.iter().position(|known| known == unit)? + 1).ok();
        if unit.is_empty() {
            Some(Self(number))
        } else if let Some(power) = power(&unit) {
            Some(Self(number * 1024_f64.powi(power)))
        } else if let Some((_, power)) = DECIMAL.iter().find(|(known, _)| *known == unit) {
            Some(Self(number * 10_f64.powi(*power)))
        } else {
            let exponent: i32 = unit.strip_prefix(['e', 'E'])?.parse().ok()?;
            Some(Self(number * 10_f64.powi(exponent)))
        }
    }
}
