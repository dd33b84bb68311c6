//! All that is known of this node's pods, from whatever source and for as long as it may be needed. Pure.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::object::KnownPod;
use crate::workload::{Container, ContainerId, Controller, Directory, Pod};

/// How long a pod that was deleted keeps its name: longer than the longest history of a report, in which it may have
/// its last requests.
const KEEP: Duration = Duration::from_mins(12);
/// How many such pods are kept: 2 a second for that time, and some.
const MAX_DEPARTED: usize = 2048;
/// How many containers that are no longer in its status a pod keeps. The last requests of a container that was
/// restarted are its own.
const MAX_FORMER: usize = 16;

/// The pods of this node.
///
/// Invariants:
/// - what the API server said goes before what files say, and an object's own UID before one that it claims in an
///   annotation;
/// - a list replaces what was known only when it is complete.
#[derive(Debug, Default)]
pub(super) struct PodIndex {
    /// By the UID of the object.
    pods: HashMap<String, KnownPod>,
    /// Pods whose objects are gone, and since when; the oldest first.
    departed: VecDeque<(Instant, KnownPod)>,
    /// UIDs of objects that came since the list began; `None` if none is under way.
    listed: Option<HashSet<String>>,
    /// Controllers of owners, by the owner's UID.
    controllers: HashMap<String, Controller>,
    files: Directory,
    changed: bool,
}

impl PodIndex {
    /// A list of all pods begins.
    pub(super) fn begin_list(&mut self) {
        self.listed = Some(HashSet::new());
    }

    /// The list is complete: what was not in it is gone.
    pub(super) fn end_list(&mut self, now: Instant) {
        let Some(listed) = self.listed.take() else {
            return;
        };
        let gone: Vec<String> = self
            .pods
            .keys()
            .filter(|uid| !listed.contains(*uid))
            .cloned()
            .collect();
        for uid in gone {
            self.remove(&uid, now);
        }
        // It is not kept up to date while the API server tells.
        self.files = Directory::default();
        self.changed = true;
    }

    /// A pod is there, or has changed.
    pub(super) fn apply(&mut self, mut pod: KnownPod) {
        if let Some(listed) = &mut self.listed {
            listed.insert(pod.api_uid.clone());
        }
        if let Some(before) = self.pods.get(&pod.api_uid) {
            let current: HashSet<ContainerId> = pod.containers.iter().map(|(id, _)| *id).collect();
            let former = before.containers.iter().filter(|(id, _)| !current.contains(id));
            pod.containers.extend(former.take(MAX_FORMER).cloned());
            if *before == pod {
                return;
            }
        }
        self.pods.insert(pod.api_uid.clone(), pod);
        self.changed = true;
    }

    /// A pod's object is gone.
    pub(super) fn remove(&mut self, api_uid: &str, now: Instant) {
        if let Some(pod) = self.pods.remove(api_uid) {
            self.departed.push_back((now, pod));
            if self.departed.len() > MAX_DEPARTED {
                self.departed.pop_front();
                self.changed = true;
            }
        }
    }

    /// The controller of the owner with this UID.
    pub(super) fn set_controller(&mut self, owner: String, controller: Controller) {
        self.controllers.insert(owner, controller);
        self.changed = true;
    }

    /// What the node's files say now.
    pub(super) fn set_files(&mut self, files: Directory) {
        self.changed |= files != self.files;
        self.files = files;
    }

    /// Forgets what nobody can ask for any more.
    pub(super) fn expire(&mut self, now: Instant) {
        let count = self.departed.len();
        while self
            .departed
            .front()
            .is_some_and(|(since, _)| now.duration_since(*since) > KEEP)
        {
            self.departed.pop_front();
        }
        if self.departed.len() == count {
            return;
        }
        self.changed = true;
        let owners: HashSet<&str> = self
            .all()
            .filter_map(|pod| Some(pod.owner.as_ref()?.uid.as_str()))
            .collect();
        let stale: Vec<String> = self
            .controllers
            .keys()
            .filter(|owner| !owners.contains(owner.as_str()))
            .cloned()
            .collect();
        for owner in stale {
            self.controllers.remove(&owner);
        }
    }

    fn all(&self) -> impl Iterator<Item = &KnownPod> {
        self.departed.iter().map(|(_, pod)| pod).chain(self.pods.values())
    }

    /// What is known now, if it differs from the last time. During the first list there is nothing to tell yet.
    pub(super) fn take_directory(&mut self) -> Option<Directory> {
        std::mem::take(&mut self.changed).then(|| self.directory())
    }

    fn directory(&self) -> Directory {
        let mut directory = self.files.clone();
        // The last one stays where two claim the same UID: those that live, and of these the UID's own.
        let mut pods: Vec<(bool, bool, &KnownPod)> = (self.departed.iter().map(|(_, pod)| (false, pod)))
            .chain(self.pods.values().map(|pod| (true, pod)))
            .map(|(lives, pod)| (!pod.is_static(), lives, pod))
            .collect();
        pods.sort_by_key(|(own, lives, _)| (*own, *lives));
        for (_, _, pod) in pods {
            directory.pods.insert(pod.uid.clone(), self.pod(pod));
            for (id, name) in &pod.containers {
                let container = Container {
                    name: name.clone(),
                    pod: Some(pod.uid.clone()),
                };
                directory.containers.insert(*id, container);
            }
        }
        directory
    }

    fn pod(&self, pod: &KnownPod) -> Pod {
        let of_owner = pod
            .owner
            .as_ref()
            .and_then(|owner| self.controllers.get(&owner.uid));
        Pod {
            name: pod.name.clone(),
            namespace: pod.namespace.clone(),
            controllers: pod.controllers.iter().chain(of_owner).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::object::{Owner, OwnerKind};
    use super::*;
    use crate::workload::{ControllerKind, PodUid};

    const A: &str = "aaaaaaaa-0c3b-4e7d-9f21-6b5c4d3e2f10";
    const B: &str = "bbbbbbbb-0c3b-4e7d-9f21-6b5c4d3e2f10";
    const HASH: &str = "9f1c0dbd5cb4d8a5d6e6ae9d0c9b2b57";

    fn id(number: usize) -> ContainerId {
        format!("{number:064x}").parse().unwrap()
    }

    fn uid(text: &str) -> PodUid {
        text.parse().unwrap()
    }

    fn pod(api_uid: &str, name: &str, containers: &[usize]) -> KnownPod {
        KnownPod {
            api_uid: api_uid.to_owned(),
            uid: uid(api_uid),
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            containers: containers
                .iter()
                .map(|number| (id(*number), "nginx".to_owned()))
                .collect(),
            controllers: Vec::new(),
            owner: None,
        }
    }

    fn names(index: &mut PodIndex) -> Vec<(String, String)> {
        let directory = index.take_directory().unwrap();
        let mut names: Vec<_> = (directory.pods.iter())
            .map(|(uid, pod)| (uid.to_string(), pod.name.clone()))
            .collect();
        names.sort();
        names
    }

    fn named(uid: &str, name: &str) -> (String, String) {
        (uid.to_owned(), name.to_owned())
    }

    #[test]
    fn a_pod_made_again_under_its_name_is_another_pod() {
        let now = Instant::now();
        let mut index = PodIndex::default();
        index.apply(pod(A, "web-0", &[1]));
        index.remove(A, now);
        index.apply(pod(B, "web-0", &[2]));
        let directory = index.take_directory().unwrap();
        assert_eq!(directory.containers[&id(1)].pod, Some(uid(A)));
        assert_eq!(directory.containers[&id(2)].pod, Some(uid(B)));
        // The old one keeps its name for its last samples, not for ever.
        assert!(directory.pods.contains_key(&uid(A)));
        index.expire(now + KEEP);
        assert_eq!(index.take_directory(), None);
        index.expire(now + KEEP + Duration::from_secs(1));
        assert_eq!(names(&mut index), [named(B, "web-0")]);
    }

    #[test]
    fn a_container_that_was_restarted_stays_known() {
        let mut index = PodIndex::default();
        for number in 0..100 {
            index.apply(pod(A, "web", &[number]));
        }
        let directory = index.take_directory().unwrap();
        assert_eq!(directory.containers.len(), 1 + MAX_FORMER);
        assert!(directory.containers.contains_key(&id(99 - MAX_FORMER)));
        index.apply(pod(A, "web", &[99]));
        assert_eq!(index.take_directory(), None, "nothing new");
    }

    #[test]
    fn only_a_complete_list_says_what_is_gone() {
        let now = Instant::now();
        let mut index = PodIndex::default();
        index.begin_list();
        index.apply(pod(A, "a", &[1]));
        index.end_list(now);
        index.take_directory();

        index.begin_list();
        index.apply(pod(B, "b", &[2]));
        // It broke, and begins again.
        index.begin_list();
        assert_eq!(names(&mut index), [named(A, "a"), named(B, "b")]);
        index.end_list(now);
        assert_eq!(index.departed.len(), 2);
        assert_eq!(names(&mut index).len(), 2, "still named");
        index.expire(now + 2 * KEEP);
        assert_eq!(names(&mut index), []);
    }

    #[test]
    fn deleted_pods_are_bounded() {
        let now = Instant::now();
        let mut index = PodIndex::default();
        for number in 0..MAX_DEPARTED + 10 {
            let api_uid = format!("{number:08x}-0c3b-4e7d-9f21-6b5c4d3e2f10");
            index.apply(pod(&api_uid, "job", &[number]));
            index.remove(&api_uid, now);
        }
        let directory = index.take_directory().unwrap();
        assert_eq!(directory.pods.len(), MAX_DEPARTED);
        assert_eq!(directory.containers.len(), MAX_DEPARTED);
        assert!(directory.containers.contains_key(&id(MAX_DEPARTED + 9)));
    }

    #[test]
    fn a_uid_belongs_to_its_own_object_and_to_the_latest_copy() {
        let now = Instant::now();
        let mut index = PodIndex::default();
        let mirror = |api_uid: &str, of: &str, name: &str| KnownPod {
            uid: uid(of),
            ..pod(api_uid, name, &[])
        };
        // A static pod's copy, deleted and made again.
        index.apply(mirror(A, HASH, "apiserver-old"));
        index.remove(A, now);
        index.apply(mirror(B, HASH, "apiserver"));
        assert_eq!(names(&mut index), [named(HASH, "apiserver")]);
        // Someone claims to be the copy of another pod.
        let liar = "cccccccc-0c3b-4e7d-9f21-6b5c4d3e2f10";
        index.apply(pod(A, "web", &[1]));
        index.apply(mirror(liar, A, "liar"));
        assert_eq!(names(&mut index), [named(HASH, "apiserver"), named(A, "web")]);
    }

    #[test]
    fn owners_controllers_come_later_and_go_with_the_last_pod() {
        let now = Instant::now();
        let mut index = PodIndex::default();
        let replica_set = Owner {
            kind: OwnerKind::ReplicaSet,
            namespace: "shop".to_owned(),
            name: "web-5d4".to_owned(),
            uid: "rs".to_owned(),
        };
        index.apply(KnownPod {
            owner: Some(replica_set),
            ..pod(A, "web-5d4-x", &[])
        });
        let controllers =
            |index: &mut PodIndex| index.take_directory().unwrap().pods[&uid(A)].controllers.clone();
        assert_eq!(controllers(&mut index), []);
        let web = Controller {
            kind: ControllerKind::Deployment,
            uid: "d".to_owned(),
            name: "web".to_owned(),
        };
        index.set_controller("rs".to_owned(), web.clone());
        assert_eq!(controllers(&mut index), [web]);
        index.remove(A, now);
        index.expire(now + 2 * KEEP);
        assert!(index.controllers.is_empty());
    }

    #[test]
    fn files_serve_until_the_api_server_tells() {
        let file_pod = |name: &str| Pod {
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            controllers: Vec::new(),
        };
        let files = Directory {
            pods: HashMap::from([(uid(A), file_pod("file-a")), (uid(B), file_pod("file-b"))]),
            ..Directory::default()
        };
        let mut index = PodIndex::default();
        index.set_files(files.clone());
        assert_eq!(names(&mut index), [named(A, "file-a"), named(B, "file-b")]);
        index.set_files(files);
        assert_eq!(index.take_directory(), None);
        index.begin_list();
        index.apply(pod(A, "a", &[]));
        assert_eq!(names(&mut index), [named(A, "a"), named(B, "file-b")]);
        index.end_list(Instant::now());
        assert_eq!(names(&mut index), [named(A, "a")]);
    }
}
