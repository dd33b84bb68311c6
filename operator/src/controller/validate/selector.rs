//! Which nodes a resource selects.

use std::collections::BTreeMap;

use super::error::Error;
use super::syntax::{is_label_value, is_qualified_name};
use crate::names::OS_LABEL;

/// Labels that a node must carry; always also that it runs Linux.
#[derive(Clone, Debug, PartialEq)]
pub struct Selector(BTreeMap<String, String>);

impl Selector {
    /// The labels, by name.
    pub(crate) fn labels(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// Whether a node with these labels is selected.
    pub(crate) fn selects(&self, node: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(key, value)| node.get(key) == Some(value))
    }

    /// Whether no node can carry the labels of both.
    pub(crate) fn is_disjoint(&self, other: &Self) -> bool {
        self.0
            .iter()
            .any(|(key, value)| other.0.get(key).is_some_and(|others| others != value))
    }

    /// Of labels that Kubernetes has accepted, such as those of a `DaemonSet`.
    #[must_use]
    pub fn of_accepted(mut labels: BTreeMap<String, String>) -> Self {
        labels.insert(OS_LABEL.to_owned(), "linux".to_owned());
        Self(labels)
    }
}

impl TryFrom<BTreeMap<String, String>> for Selector {
    type Error = Error;

    fn try_from(labels: BTreeMap<String, String>) -> Result<Self, Error> {
        for (key, value) in &labels {
            if !is_qualified_name(key) || !is_label_value(value) {
                let (key, value) = (key.clone(), value.clone());
                return Err(Error::Label { key, value });
            }
        }
        match labels.get(OS_LABEL) {
            Some(system) if system != "linux" => Err(Error::OperatingSystem(system.clone())),
            _ => Ok(Self::of_accepted(labels)),
        }
    }
}
