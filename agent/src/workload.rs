//! Who a process works for: the container and pod that its cgroup names, and what is known about those. Plain data.
//!
//! Two halves that are learned at different times. A [`Place`] is read once from a process's cgroup and never changes,
//! so counts are booked under it, also those of processes that are gone. A [`Directory`] says what containers and pods
//! are called; it may come later, change, or never come, and is looked at only when a report is written.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why a word is no id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not a container's.
    #[error("`{0}` is no container id: it has 64 hexadecimal digits in lower case")]
    Container(String),
    /// Not a pod's.
    #[error("`{0}` is no pod UID: it has hexadecimal digits in lower case, and dashes")]
    Pod(String),
}

/// A container's id: 64 hexadecimal digits in lower case, as container runtimes give out and Scope uses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId([u8; 32]);

impl FromStr for ContainerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let no_id = || IdError::Container(text.to_owned());
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return Err(no_id());
        }
        let mut id = [0; 32];
        for (byte, [high, low]) in id.iter_mut().zip(pairs) {
            *byte = (digit(*high).ok_or_else(no_id)? << 4) | digit(*low).ok_or_else(no_id)?;
        }
        Ok(Self(id))
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not by the formatter, byte by byte: a report has thousands of them.
        let digit = |half: u8| b"0123456789abcdef"[usize::from(half)];
        let mut digits = [0; 64];
        for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(self.0) {
            *pair = [digit(byte >> 4), digit(byte & 0xf)];
        }
        f.write_str(str::from_utf8(&digits).unwrap_or_default())
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A pod's UID as Scope knows it: with dashes as in the API; the 32 digits of `kubernetes.io/config.hash` for a static
/// pod, whose cgroups are named so too.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodUid(Arc<str>);

impl PodUid {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PodUid {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let known = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
        // A UUID with and without dashes.
        if matches!(text.len(), 32 | 36) && text.bytes().all(known) {
            Ok(Self(text.into()))
        } else {
            Err(IdError::Pod(text.to_owned()))
        }
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a process was counted. What cannot be told is absent, never guessed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Path of the cgroup below the cgroup file system's root, as in `/kubepods.slice/…`. Absent if the cgroup was gone
    /// before its path could be read.
    pub cgroup: Option<Arc<str>>,
    /// The container it is.
    pub container: Option<ContainerId>,
    /// The pod it belongs to, if the path says so.
    pub pod: Option<PodUid>,
}

/// What is known of the containers and pods of this node now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// By id.
    pub containers: HashMap<ContainerId, Container>,
    /// By UID.
    pub pods: HashMap<PodUid, Pod>,
}

impl Directory {
    /// The pod of a place: the one that its cgroup names, or else the container's.
    #[must_use]
    pub fn pod_of<'a>(&'a self, place: &'a Place) -> Option<&'a PodUid> {
        place
            .pod
            .as_ref()
            .or_else(|| self.containers.get(place.container.as_ref()?)?.pod.as_ref())
    }

    /// Whether a name should be there and is not: of a place's pod, or of a place of which nothing is known. The host's own
    /// processes lack none.
    #[must_use]
    pub fn lacks_label(&self, place: &Place) -> bool {
        match self.pod_of(place) {
            Some(uid) => !self.pods.contains_key(uid),
            None => place.cgroup.is_none(),
        }
    }
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its name in its pod, or the runtime's.
    pub name: String,
    /// Its pod.
    pub pod: Option<PodUid>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// What made it, as far as that is known: Scope's `parents` of the pod.
    pub controllers: Vec<Controller>,
}

/// What makes pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// What it is.
    pub kind: ControllerKind,
    /// Its UID.
    pub uid: String,
    /// Its name.
    pub name: String,
}

/// The kinds of controllers that Scope shows. It has no replica sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ControllerKind {
    /// Through the replica sets it makes.
    Deployment,
    /// One pod on each node.
    DaemonSet,
    /// Pods with names that last.
    StatefulSet,
    /// Through the jobs it makes.
    CronJob,
    /// Pods that run once.
    Job,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_ids_are_64_digits() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(id.parse::<ContainerId>().unwrap().to_string(), id);
        let cases = [
            String::new(),
            "0123456789ABCDEF".repeat(4),
            "0".repeat(63),
            "0".repeat(65),
            "0".repeat(66),
            format!("{}g", "0".repeat(63)),
            "é".repeat(32),
        ];
        for text in cases {
            assert_eq!(text.parse::<ContainerId>(), Err(IdError::Container(text)));
        }
    }

    #[test]
    fn pod_uids_are_uuids_or_hashes() {
        for uid in [
            "11111111-2222-3333-4444-5555aaaabbbb",
            "9f1c0dbd5cb4d8a5d6e6ae9d0c9b2b57",
        ] {
            assert_eq!(uid.parse::<PodUid>().unwrap().to_string(), uid);
        }
        for text in [
            "",
            "pod",
            "11111111_2222_3333_4444_5555aaaabbbb",
            "9F1C0DBD5CB4D8A5D6E6AE9D0C9B2B57",
        ] {
            assert_eq!(text.parse::<PodUid>(), Err(IdError::Pod(text.to_owned())));
        }
    }

    #[test]
    fn the_cgroup_names_the_pod_or_else_the_container_does() {
        let container: ContainerId = "ab".repeat(32).parse().unwrap();
        let pod = |digit: &str| Some(digit.repeat(32).parse::<PodUid>().unwrap());
        let mut directory = Directory::default();
        let mut place = Place {
            container: Some(container),
            ..Place::default()
        };
        assert_eq!(directory.pod_of(&place), None);
        let known = Container {
            name: "nginx".to_owned(),
            pod: pod("1"),
        };
        directory.containers.insert(container, known);
        assert_eq!(directory.pod_of(&place), pod("1").as_ref());
        place.pod = pod("2");
        assert_eq!(directory.pod_of(&place), pod("2").as_ref());
    }

    #[test]
    fn a_pod_without_a_name_and_a_process_of_nowhere_lack_a_label_and_the_host_does_not() {
        let uid: PodUid = "1".repeat(32).parse().unwrap();
        let in_pod = Place {
            cgroup: Some("/kubepods/pod".into()),
            pod: Some(uid.clone()),
            ..Place::default()
        };
        let of_host = Place {
            cgroup: Some("/system.slice/sshd.service".into()),
            ..Place::default()
        };
        let mut directory = Directory::default();
        assert!(directory.lacks_label(&Place::default()));
        assert!(directory.lacks_label(&in_pod));
        assert!(!directory.lacks_label(&of_host));
        let pod = Pod {
            name: "web-0".to_owned(),
            namespace: "shop".to_owned(),
            controllers: Vec::new(),
        };
        directory.pods.insert(uid, pod);
        assert!(!directory.lacks_label(&in_pod));
    }
}
