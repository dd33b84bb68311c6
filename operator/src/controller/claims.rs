//! Which resource runs its agent on a node that several select: the oldest.
//!
//! A newer resource leaves such nodes out by node affinity, which is made of the selectors alone. So Kubernetes itself
//! decides node by node, also when labels change, and the operator need not be there in time.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm};

use super::validate::Selector;
use crate::names::OS_LABEL;

/// Most alternatives in one affinity: beyond, it is simpler and safer to run nowhere.
const MAX_TERMS: usize = 64;

/// A resource's claim to nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The resource's name.
    pub name: String,
    /// When the resource was created: the older claim holds.
    pub created: Option<Timestamp>,
    /// The nodes that the resource selects.
    pub selector: Selector,
}

impl Claim {
    /// Older first. The API server counts in seconds, so the name decides between twins.
    pub(crate) fn by_age(&self, other: &Self) -> Ordering {
        let key = |claim: &Self| claim.created.unwrap_or(Timestamp::MAX);
        (key(self), &self.name).cmp(&(key(other), &other.name))
    }
}

/// What older claims leave of a selector.
#[derive(Clone, Debug, PartialEq)]
pub enum Remainder {
    /// All its nodes: no older claim can select one of them.
    Everything,
    /// Nodes that match one of these alternatives.
    Nodes(Vec<Vec<Without>>),
    /// No node, or too many alternatives to tell which.
    Nothing,
}

/// A label that a node must not have with this value.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Without {
    /// The label's name.
    pub key: String,
    /// The value that the older claim selects.
    pub value: String,
}

impl Remainder {
    /// Takes `older` claims away from `own`: for each of them, some label of it must be missing.
    #[must_use]
    pub fn of(own: &Selector, older: &[Claim]) -> Self {
        let mut alternatives: BTreeSet<BTreeSet<Without>> = [BTreeSet::new()].into();
        for claim in older.iter().filter(|claim| !claim.selector.is_disjoint(own)) {
            // A label that both select is there on every node that `own` selects, so it cannot be the one that is missing.
            let missing: Vec<Without> = claim
                .selector
                .labels()
                .iter()
                .filter(|(key, _)| !own.labels().contains_key(*key))
                .map(|(key, value)| Without {
                    key: key.clone(),
                    value: value.clone(),
                })
                .collect();
            alternatives = alternatives
                .iter()
                .flat_map(|labels| {
                    missing.iter().map(|label| {
                        let mut labels = labels.clone();
                        labels.insert(label.clone());
                        labels
                    })
                })
                .collect();
            if alternatives.is_empty() || alternatives.len() > MAX_TERMS {
                return Self::Nothing;
            }
        }
        let alternatives: Vec<Vec<Without>> = alternatives
            .into_iter()
            .map(|labels| labels.into_iter().collect())
            .collect();
        if alternatives.iter().any(Vec::is_empty) {
            Self::Everything
        } else {
            Self::Nodes(alternatives)
        }
    }

    /// As node affinity: one of the terms must match. `None` where no affinity is needed.
    pub(crate) fn terms(&self) -> Option<Vec<NodeSelectorTerm>> {
        let not_in = |key: &str, value: &str| NodeSelectorRequirement {
            key: key.to_owned(),
            operator: "NotIn".to_owned(),
            values: Some(vec![value.to_owned()]),
        };
        let term = |requirements| NodeSelectorTerm {
            match_expressions: Some(requirements),
            match_fields: None,
        };
        match self {
            Self::Everything => None,
            Self::Nodes(alternatives) => Some(
                alternatives
                    .iter()
                    .map(|labels| {
                        term(
                            labels
                                .iter()
                                .map(|label| not_in(&label.key, &label.value))
                                .collect(),
                        )
                    })
                    .collect(),
            ),
            // The selector asks for Linux, so this matches no node.
            Self::Nothing => Some(vec![term(vec![not_in(OS_LABEL, "linux")])]),
        }
    }
}

/// Nodes that a resource selects and that an older one has.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Conflict {
    /// The older resources, by age.
    pub(crate) older: Vec<String>,
    /// The nodes, by name.
    pub(crate) nodes: Vec<String>,
}

impl Conflict {
    /// Of the nodes that there are, by name and labels.
    pub(crate) fn of<'a>(
        own: &Selector,
        older: &[Claim],
        nodes: impl Iterator<Item = (&'a str, &'a BTreeMap<String, String>)>,
    ) -> Self {
        let mut names = Vec::new();
        let mut in_conflict = vec![false; older.len()];
        for (name, labels) in nodes.filter(|(_, labels)| own.selects(labels)) {
            let mut claimed = false;
            for (in_conflict, claim) in in_conflict.iter_mut().zip(older) {
                if claim.selector.selects(labels) {
                    (*in_conflict, claimed) = (true, true);
                }
            }
            if claimed {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        let older = in_conflict
            .iter()
            .zip(older)
            .filter(|(in_conflict, _)| **in_conflict);
        Self {
            older: older.map(|(_, claim)| claim.name.clone()).collect(),
            nodes: names,
        }
    }

    /// Whether no node is in conflict.
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(labels: &[(&str, &str)]) -> Selector {
        labels_of(labels).try_into().unwrap()
    }

    fn labels_of(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
        labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn claim(name: &str, second: i64, labels: &[(&str, &str)]) -> Claim {
        Claim {
            name: name.to_owned(),
            created: Some(Timestamp::from_second(second).unwrap()),
            selector: selector(labels),
        }
    }

    /// What Kubernetes does with the affinity.
    fn matches(remainder: &Remainder, node: &BTreeMap<String, String>) -> bool {
        let Some(terms) = remainder.terms() else {
            return true;
        };
        terms.iter().any(|term| {
            term.match_expressions.iter().flatten().all(|requirement| {
                assert_eq!(requirement.operator, "NotIn");
                let values = requirement.values.as_ref().unwrap();
                node.get(&requirement.key)
                    .is_none_or(|value| !values.contains(value))
            })
        })
    }

    #[test]
    fn separate_pools_leave_each_other_alone() {
        let older = [
            claim("web", 1, &[("pool", "web")]),
            claim("db", 2, &[("pool", "db")]),
        ];
        assert_eq!(
            Remainder::of(&selector(&[("pool", "batch")]), &older),
            Remainder::Everything
        );
    }

    #[test]
    fn of_an_older_claim_to_all_nodes_nothing_remains() {
        let remainder = Remainder::of(&selector(&[("pool", "web")]), &[claim("all", 1, &[])]);
        assert_eq!(remainder, Remainder::Nothing);
        assert!(!matches(
            &remainder,
            &labels_of(&[(OS_LABEL, "linux"), ("pool", "web")])
        ));
    }

    /// Over all nodes that can be told apart, the affinity does what the claims say.
    #[test]
    fn a_node_is_left_out_exactly_if_an_older_one_selects_it() {
        let keys = ["a", "b", "c"];
        let values = [None, Some("1"), Some("2")];
        let nodes: Vec<BTreeMap<String, String>> = (0..27)
            .map(|number| {
                let mut labels = labels_of(&[(OS_LABEL, "linux")]);
                for (place, key) in keys.iter().enumerate() {
                    if let Some(value) = values[number / 3_usize.pow(u32::try_from(place).unwrap()) % 3] {
                        labels.insert((*key).to_owned(), value.to_owned());
                    }
                }
                labels
            })
            .collect();
        let selectors: Vec<Selector> = nodes
            .iter()
            .map(|node| node.clone().try_into().unwrap())
            .collect();
        for own in &selectors {
            for first in &selectors {
                for second in &selectors {
                    let older = [first, second].map(|selector| Claim {
                        name: String::new(),
                        created: None,
                        selector: selector.clone(),
                    });
                    let remainder = Remainder::of(own, &older);
                    for node in nodes.iter().filter(|node| own.selects(node)) {
                        let free = !first.selects(node) && !second.selects(node);
                        assert_eq!(
                            matches(&remainder, node),
                            free,
                            "{own:?} without {older:?} on {node:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn an_affinity_has_a_bounded_size() {
        let older: Vec<Claim> = (0..7)
            .map(|number| {
                let (one, other) = (format!("{number}a"), format!("{number}b"));
                claim("older", number, &[(&one, "x"), (&other, "x")])
            })
            .collect();
        assert!(matches!(
            Remainder::of(&selector(&[]), &older[..6]),
            Remainder::Nodes(alternatives) if alternatives.len() == 64
        ));
        assert_eq!(Remainder::of(&selector(&[]), &older), Remainder::Nothing);
    }

    #[test]
    fn a_conflict_names_the_older_resources_and_the_nodes() {
        let linux = |name: &'static str, pool| (name, labels_of(&[(OS_LABEL, "linux"), ("pool", pool)]));
        let nodes = [linux("n3", "web"), linux("n1", "web"), linux("n2", "db")];
        let older = [
            claim("web", 1, &[("pool", "web")]),
            claim("gpu", 2, &[("gpu", "yes")]),
        ];
        let conflict = Conflict::of(
            &selector(&[]),
            &older,
            nodes.iter().map(|(name, labels)| (*name, labels)),
        );
        assert_eq!(
            (conflict.older, conflict.nodes),
            (vec!["web".to_owned()], vec!["n1".to_owned(), "n3".to_owned()])
        );
    }

    #[test]
    fn age_decides_and_the_name_between_twins() {
        let mut claims = [claim("b", 5, &[]), claim("c", 4, &[]), claim("a", 5, &[])];
        claims.sort_by(Claim::by_age);
        assert_eq!(claims.map(|claim| claim.name), ["c", "a", "b"]);
    }
}
