//! Which processes, containers and pods are shown. Pure.
//!
//! Everything is counted in any case; this is about what Scope gets to see.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::values::ValueError;
use crate::workload::{Directory, Place};

/// A namespace's name: a DNS label (RFC 1123).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Namespace(String);

impl Namespace {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Namespace {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let known = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let edge = text.starts_with('-') || text.ends_with('-');
        if (1..=63).contains(&text.len()) && text.bytes().all(known) && !edge {
            Ok(Self(text.to_owned()))
        } else {
            Err(ValueError::Namespace(text.to_owned()))
        }
    }
}

/// Namespaces by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces(BTreeSet<Namespace>);

impl Namespaces {
    /// Whether the list is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them has this name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|namespace| namespace.as_str() == name)
    }

    /// One that is in both lists.
    #[must_use]
    pub fn common<'a>(&'a self, other: &'a Self) -> Option<&'a Namespace> {
        self.0.intersection(&other.0).next()
    }
}

impl TryFrom<Vec<String>> for Namespaces {
    type Error = ValueError;

    fn try_from(names: Vec<String>) -> Result<Self, ValueError> {
        names
            .iter()
            .map(|name| name.parse())
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// With commas.
impl fmt::Display for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(Namespace::as_str).collect();
        f.write_str(&names.join(","))
    }
}

/// A list with commas; empty for none.
impl FromStr for Namespaces {
    type Err = ValueError;

    fn from_str(list: &str) -> Result<Self, ValueError> {
        if list.trim().is_empty() {
            return Ok(Self::default());
        }
        list.split(',')
            .map(|name| name.trim().parse())
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// Whose processes are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Processes {
    /// Everyone's.
    #[default]
    All,
    /// Those of pods, and no others.
    Pods,
}

impl fmt::Display for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::Pods => "pods",
        })
    }
}

impl FromStr for Processes {
    type Err = ValueError;

    fn from_str(word: &str) -> Result<Self, ValueError> {
        match word {
            "all" => Ok(Self::All),
            "pods" => Ok(Self::Pods),
            _ => Err(ValueError::Word {
                word: word.to_owned(),
                what: "choice of processes",
                choices: "all or pods",
            }),
        }
    }
}

/// Pods of which namespaces are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceLists {
    /// Only pods of these namespaces, unless empty.
    pub include: Namespaces,
    /// No pods of these.
    pub exclude: Namespaces,
}

/// What is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Pods of which namespaces.
    pub namespaces: NamespaceLists,
    /// Whose processes.
    pub processes: Processes,
}

impl Filter {
    /// Whether to show what happened in a place.
    ///
    /// The lists of namespaces are about pods only. A pod whose namespace is not known, or not yet, is not shown if
    /// there is any such list: what was excluded must not show for a moment.
    #[must_use]
    pub fn shows(&self, place: &Place, directory: &Directory) -> bool {
        let Self {
            namespaces: NamespaceLists { include, exclude },
            processes,
        } = self;
        let Some(uid) = directory.pod_of(place) else {
            return *processes == Processes::All;
        };
        if include.is_empty() && exclude.is_empty() {
            return true;
        }
        directory.pods.get(uid).is_some_and(|pod| {
            let name = &pod.namespace;
            !exclude.contains(name) && (include.is_empty() || include.contains(name))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Container, Pod};

    #[test]
    fn namespaces_are_dns_labels() {
        for name in ["default", "kube-system", "a", "0", &"a".repeat(63)] {
            assert_eq!(name.parse::<Namespace>().unwrap().as_str(), name);
        }
        for name in ["", "-a", "a-", "A", "a.b", "a b", "ä", &"a".repeat(64)] {
            assert!(name.parse::<Namespace>().is_err(), "{name:?}");
        }
        assert_eq!("".parse::<Namespaces>().unwrap(), Namespaces::default());
        let two: Namespaces = "a, b".parse().unwrap();
        assert!(two.contains("a") && two.contains("b") && !two.contains("c"));
        assert!("a,,b".parse::<Namespaces>().is_err());
    }

    #[test]
    fn namespaces_and_hosts_processes_are_chosen() {
        let id = |digit: &str| digit.repeat(64).parse().unwrap();
        let uid = |digit: &str| digit.repeat(32).parse().unwrap();
        let pod = |namespace: &str| Pod {
            name: "web".to_owned(),
            namespace: namespace.to_owned(),
            controllers: Vec::new(),
        };
        let directory = Directory {
            pods: [(uid("a"), pod("shop")), (uid("b"), pod("kube-system"))].into(),
            containers: [(
                id("c"),
                Container {
                    name: "nginx".to_owned(),
                    pod: Some(uid("a")),
                },
            )]
            .into(),
        };
        let in_pod = |digit: &str| Place {
            pod: Some(uid(digit)),
            ..Place::default()
        };
        let places = [
            in_pod("a"),
            // The same pod, which only the container's name tells.
            Place {
                container: Some(id("c")),
                ..Place::default()
            },
            in_pod("b"),
            // Not known by name.
            in_pod("d"),
            // On the host; in a container without a pod.
            Place::default(),
            Place {
                container: Some(id("e")),
                ..Place::default()
            },
        ];
        let cases = [
            ("", "", Processes::All, [true, true, true, true, true, true]),
            ("", "", Processes::Pods, [true, true, true, true, false, false]),
            ("shop", "", Processes::All, [true, true, false, false, true, true]),
            (
                "shop",
                "",
                Processes::Pods,
                [true, true, false, false, false, false],
            ),
            (
                "",
                "shop",
                Processes::All,
                [false, false, true, false, true, true],
            ),
            (
                "shop,kube-system",
                "other",
                Processes::Pods,
                [true, true, true, false, false, false],
            ),
            (
                "shop,kube-system",
                "shop",
                Processes::Pods,
                [false, false, true, false, false, false],
            ),
        ];
        for (include, exclude, processes, expected) in cases {
            let namespaces = NamespaceLists {
                include: include.parse().unwrap(),
                exclude: exclude.parse().unwrap(),
            };
            let filter = Filter {
                namespaces,
                processes,
            };
            let shown = places.each_ref().map(|place| filter.shows(place, &directory));
            assert_eq!(shown, expected, "{filter:?}");
        }
    }
}
