//! What kubelet's log directories tell: `/var/log/pods/<namespace>_<name>_<uid>/<container>/` and the links
//! `/var/log/containers/<name>_<namespace>_<container>-<id>.log` into it.
//!
//! kubelet makes a pod's directory before the first of its containers starts and removes it with the pod. None of the
//! parts has a `_`: they are DNS names and ids.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::workload::{Container, ContainerId, Directory, Pod, PodUid};

/// More than a node can have; what stands in a directory beyond that is not read.
const MAX_ENTRIES: usize = 8192;

/// Every so often it is read even if it seems unchanged: two changes at once can leave one time.
const READ_ANYWAY: u32 = 8;

/// kubelet's log directories.
#[derive(Debug)]
pub struct NodeFiles {
    pods: PathBuf,
    containers: PathBuf,
    /// When both were last changed, as last seen.
    seen: [Option<SystemTime>; 2],
    /// How often in a row nothing had changed.
    unchanged: u32,
}

impl Default for NodeFiles {
    /// Where kubelet has them.
    fn default() -> Self {
        Self::below(Path::new("/var/log"))
    }
}

impl NodeFiles {
    /// `pods` and `containers` below `log`.
    #[must_use]
    pub fn below(log: &Path) -> Self {
        Self {
            pods: log.join("pods"),
            containers: log.join("containers"),
            seen: [None; 2],
            unchanged: 0,
        }
    }

    /// Names of pods and containers, if any may have come or gone since the last call.
    pub fn read_if_changed(&mut self) -> Option<Directory> {
        let seen = [&self.pods, &self.containers].map(|path| fs::metadata(path).ok()?.modified().ok());
        if seen == self.seen && (seen == [None; 2] || self.unchanged < READ_ANYWAY) {
            self.unchanged += 1;
            return None;
        }
        self.seen = seen;
        self.unchanged = 0;
        Some(self.read())
    }

    /// What cannot be read is not there.
    fn read(&self) -> Directory {
        let mut pods = HashMap::new();
        for entry in fs::read_dir(&self.pods)
            .into_iter()
            .flatten()
            .flatten()
            .take(MAX_ENTRIES)
        {
            if let Some((uid, pod)) = entry.file_name().to_str().and_then(pod) {
                pods.insert(uid, pod);
            }
        }
        let mut containers = HashMap::new();
        for entry in fs::read_dir(&self.containers)
            .into_iter()
            .flatten()
            .flatten()
            .take(MAX_ENTRIES)
        {
            let name = entry.file_name();
            // The name has no UID, and another pod may have had the same name.
            let uid = fs::read_link(entry.path())
                .ok()
                .and_then(|target| pod_of_log(&target));
            if let Some((id, name)) = name.to_str().and_then(container) {
                containers.insert(id, Container { name, pod: uid });
            }
        }
        Directory { containers, pods }
    }
}

/// `<namespace>_<name>_<uid>`
fn pod(directory: &str) -> Option<(PodUid, Pod)> {
    let [namespace, name, uid] = parts(directory)?;
    let pod = Pod {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        controllers: Vec::new(),
    };
    Some((uid.parse().ok()?, pod))
}

/// `<name>_<namespace>_<container>-<id>.log`
fn container(link: &str) -> Option<(ContainerId, String)> {
    let [_, _, container] = parts(link.strip_suffix(".log")?)?;
    let (name, id) = container.rsplit_once('-')?;
    Some((id.parse().ok()?, name.to_owned()))
}

/// `/var/log/pods/<namespace>_<name>_<uid>/<container>/0.log`
fn pod_of_log(target: &Path) -> Option<PodUid> {
    let directory = target.parent()?.parent()?.file_name()?.to_str()?;
    pod(directory).map(|(uid, _)| uid)
}

fn parts(name: &str) -> Option<[&str; 3]> {
    let parts: Vec<&str> = name.split('_').collect();
    parts
        .try_into()
        .ok()
        .filter(|parts: &[&str; 3]| parts.iter().all(|part| !part.is_empty()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const UID: &str = "8a6f1d5a-0c3b-4e7d-9f21-6b5c4d3e2f10";
    const HASH: &str = "9f1c0dbd5cb4d8a5d6e6ae9d0c9b2b57";

    #[test]
    fn directories_name_pods_and_links_name_containers() {
        let log = tempfile::tempdir().unwrap();
        let mut files = NodeFiles::below(log.path());
        assert_eq!(files.read_if_changed(), None, "there is no kubelet");

        let id = "a".repeat(64);
        let web = log.path().join(format!("pods/shop_web-7f6c9_{UID}"));
        for directory in [
            web.join("nginx"),
            log.path().join(format!(
                "pods/kube-system_kube-apiserver-n1_{HASH}/kube-apiserver"
            )),
            log.path().join("pods/not-a-pod"),
            log.path().join("pods/a_b_c"),
            log.path().join("pods/a_b_c_d"),
            log.path().join("containers"),
        ] {
            fs::create_dir_all(directory).unwrap();
        }
        let link =
            |name: &str| symlink(web.join("nginx/0.log"), log.path().join("containers").join(name)).unwrap();
        link(&format!("web-7f6c9_shop_my-nginx-{id}.log"));
        link("web-7f6c9_shop_nginx-123.log");
        link(&format!("shop_nginx-{id}.log"));

        let found = files.read_if_changed().unwrap();
        let named: Vec<(&str, &str, &str)> = [UID, HASH]
            .iter()
            .map(|uid| {
                let pod = &found.pods[&uid.parse::<PodUid>().unwrap()];
                (*uid, pod.namespace.as_str(), pod.name.as_str())
            })
            .collect();
        assert_eq!(
            named,
            [
                (UID, "shop", "web-7f6c9"),
                (HASH, "kube-system", "kube-apiserver-n1")
            ]
        );
        assert_eq!(found.pods.len(), 2);
        let nginx = Container {
            name: "my-nginx".to_owned(),
            pod: Some(UID.parse().unwrap()),
        };
        assert_eq!(found.containers, HashMap::from([(id.parse().unwrap(), nginx)]));

        for _ in 0..READ_ANYWAY {
            assert_eq!(files.read_if_changed(), None, "nothing changed");
        }
        assert!(files.read_if_changed().is_some());
        fs::remove_dir(web.join("nginx")).unwrap();
        fs::remove_dir(&web).unwrap();
        let found = files.read_if_changed().unwrap();
        assert_eq!(found.pods.len(), 1);
    }
}
