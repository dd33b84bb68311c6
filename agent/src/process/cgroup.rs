//! Where processes are: cgroups by id and by path, and the container and pod that these name.
//!
//! A counter carries the id of its process's cgroup in the v2 hierarchy: the inode number of a directory in the cgroup
//! file system, given to no other cgroup until the next boot. So on a host that uses v2 the id tells the container, also
//! that of a process that was gone before anyone could look at it. On hosts that use v1, alone or beside v2 (hybrid),
//! runtimes put containers into the v1 hierarchies and the id is often that of the root: there, `/proc/<pid>/cgroup`
//! tells, while the process lives. An id that is marked with [`V1`] is one of the v1 hierarchy of `pids`, and tells as much
//! as one of v2.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::container::{layers, outermost};
use crate::workload::{ContainerId, Place};

/// How many ids are remembered, the ids of cgroups that could not be found among them.
const MAX_REMEMBERED: usize = 16_384;
/// How many cgroups are looked at in one search.
const MAX_SEARCHED: usize = 65_536;

/// Marks the id of a cgroup in the v1 hierarchy of [`V1_CONTROLLER`].
pub use agent_ebpf::abi::CGROUP_V1 as V1;
/// The controller whose v1 hierarchy is searched for such ids.
const V1_CONTROLLER: &str = "pids";

/// Controllers of cgroup v1 whose hierarchy container runtimes always use, in order of preference.
const V1_HIERARCHIES: [&str; 4] = ["memory", "pids", "cpu", "name=systemd"];

/// What `/proc/<pid>/cgroup` says; see `cgroups(7)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership<'a> {
    /// Path in the cgroup v2 hierarchy. On hosts that use v1 it is usually `/`.
    pub v2: Option<&'a str>,
    /// Paths in the v1 hierarchies, the most telling first, without those that are `/`.
    pub v1: Vec<&'a str>,
    /// Path in the v1 hierarchy of [`V1_CONTROLLER`].
    pids: Option<&'a str>,
    /// Whether there are v1 hierarchies.
    pub has_v1: bool,
}

impl<'a> Membership<'a> {
    /// Reads lines such as `0::/system.slice/nginx.service` (v2) and `5:cpu,cpuacct:/docker/…` (v1). Other lines
    /// are ignored.
    #[must_use]
    pub fn parse(file: &'a str) -> Self {
        let mut v2 = None;
        let mut v1: Vec<(usize, &str)> = Vec::new();
        let mut pids = None;
        let mut has_v1 = false;
        for line in file.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(hierarchy), Some(controllers), Some(path)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            // The cgroup was removed while the process is still in it, as zombies are.
            let path = path.strip_suffix(" (deleted)").unwrap_or(path);
            if hierarchy == "0" && controllers.is_empty() {
                v2 = Some(path);
                continue;
            }
            has_v1 = true;
            if controllers.split(',').any(|name| name == V1_CONTROLLER) {
                pids = Some(path);
            }
            if path != "/" {
                let rank = controllers
                    .split(',')
                    .filter_map(|name| V1_HIERARCHIES.iter().position(|known| *known == name))
                    .min()
                    .unwrap_or(V1_HIERARCHIES.len());
                v1.push((rank, path));
            }
        }
        v1.sort_by_key(|(rank, _)| *rank);
        Self {
            v2,
            v1: v1.into_iter().map(|(_, path)| path).collect(),
            pids,
            has_v1,
        }
    }
}

/// A mounted hierarchy in which cgroups are searched by id.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    /// Whether the node's processes are all below the mount. Not so in a cgroup namespace of our own, unless the host's
    /// file system was mounted into it.
    whole: bool,
    /// [`V1`], or 0 for cgroup v2.
    mark: u64,
    /// Whether all its cgroups were remembered since [`Cgroups::start_reading`].
    searched: bool,
}

impl Hierarchy {
    /// Of the mounts of one hierarchy the one that reaches highest; not a part of the hierarchy, if there is another.
    /// `init` is the path of process 1 in it.
    fn find<'a>(mounts: impl Iterator<Item = &'a Mount<'a>>, init: Option<&str>, mark: u64) -> Option<Self> {
        let mount = mounts.max_by_key(|mount| (is_root(mount.root), ups(mount.root)))?;
        Some(Self {
            mount: mount.point.clone(),
            whole: is_root(mount.root) && ups(mount.root) >= init.map_or(0, ups),
            mark,
            searched: false,
        })
    }

    /// The id of the cgroup at `path`.
    fn id(&self, path: &str) -> Option<u64> {
        inode(&below(&self.mount, path)).map(|inode| inode | self.mark)
    }
}

/// The cgroups of this node.
#[derive(Debug)]
pub struct Cgroups {
    unified: Option<Hierarchy>,
    pids: Option<Hierarchy>,
    /// Where v1 hierarchies are mounted from their root on.
    v1_mounts: Vec<PathBuf>,
    /// Whether containers are to be found in v1 hierarchies.
    has_v1: bool,
    /// The containers that process 1 is in: the node itself.
    node: Vec<ContainerId>,
    /// Paths by id. Ids are not used again, so what was once true stays true.
    remembered: HashMap<u64, Option<Arc<str>>>,
}

impl Cgroups {
    /// The cgroups that the processes and the mount table in `proc` tell of.
    #[must_use]
    pub fn new(proc: &Path) -> Self {
        let read = |name: &str| fs::read_to_string(proc.join(name)).unwrap_or_default();
        let (table, init) = (read("self/mountinfo"), read("1/cgroup"));
        Self::of(&table, &Membership::parse(&init))
    }

    fn of(table: &str, init: &Membership<'_>) -> Self {
        let mounts: Vec<Mount<'_>> = table.lines().filter_map(Mount::parse).collect();
        let unified = mounts.iter().filter(|mount| mount.kind == "cgroup2");
        let pids = mounts
            .iter()
            .filter(|mount| mount.kind == "cgroup" && mount.has(V1_CONTROLLER));
        let v1_mounts = mounts
            .iter()
            .filter(|mount| mount.kind == "cgroup" && mount.root == "/")
            .map(|mount| mount.point.clone())
            .collect();
        let mut node: Vec<ContainerId> = init
            .v2
            .iter()
            .chain(&init.v1)
            .flat_map(|path| layers(path))
            .filter_map(|layer| layer.container)
            .collect();
        node.sort_unstable();
        node.dedup();
        Self {
            unified: Hierarchy::find(unified, init.v2, 0),
            pids: Hierarchy::find(pids, init.pids, V1),
            v1_mounts,
            has_v1: init.has_v1,
            node,
            remembered: HashMap::new(),
        }
    }

    /// New counters were read: there may be cgroups that no search has seen.
    pub fn start_reading(&mut self) {
        for hierarchy in self.unified.iter_mut().chain(&mut self.pids) {
            hierarchy.searched = false;
        }
    }

    /// The place of a process that was counted in the cgroup `id`, of v2 or marked with [`V1`]. `membership` is that of now; `None` for a process
    /// that is gone.
    pub fn place(&mut self, id: u64, membership: Option<&Membership<'_>>) -> Place {
        let is_v2 = id & V1 == 0;
        let current = membership.and_then(|membership| if is_v2 { membership.v2 } else { membership.pids });
        let path = self.path(id, current);
        if !self.has_v1 {
            return path.map(|path| self.named(path)).unwrap_or_default();
        }
        // Where containers are in v1 hierarchies, the v2 path may be that of the runtime that made them.
        let by_id = path.map(|path| self.named(path)).unwrap_or_default();
        let v1 = membership.map_or(&[] as &[&str], |membership| &membership.v1);
        if is_labelled(&by_id) {
            return by_id;
        }
        // The v2 path of now says nothing of a v2 id that is another's.
        let v2 = membership.and_then(|membership| membership.v2).filter(|_| !is_v2);
        let mut labelled = v1
            .iter()
            .copied()
            .chain(v2)
            .map(|path| self.named(path.into()))
            .filter(is_labelled);
        if let Some(first) = labelled.next()
            && let Some(place) = labelled.try_fold(first, agreed)
        {
            return place;
        }
        // By the id, so that those that live and those that are gone have the same; but that all are in the root says nothing.
        let is_root = by_id.cgroup.as_deref().is_none_or(|path| path == "/");
        let cgroup = match v1.first() {
            Some(path) if is_root => Some((*path).into()),
            // The root of v2 says nothing about a process that is gone: most are there.
            None if is_root && is_v2 && membership.is_none() => None,
            _ => by_id.cgroup,
        };
        Place {
            cgroup,
            ..Place::default()
        }
    }

    /// Whether the place may still be there; `false` only if its cgroup is surely gone.
    #[must_use]
    pub fn exists(&self, place: &Place) -> bool {
        let Some(path) = place.cgroup.as_deref().filter(|path| ups(path) == 0) else {
            return true;
        };
        let unified = self.unified.as_ref().filter(|unified| unified.whole);
        let mut mounts = unified
            .map(|unified| &unified.mount)
            .into_iter()
            .chain(&self.v1_mounts)
            .peekable();
        mounts.peek().is_none() || mounts.any(|mount| below(mount, path).exists())
    }

    /// The path of the cgroup `id`. `current` is where the process is now; it may have moved since it was counted.
    fn path(&mut self, id: u64, current: Option<&str>) -> Option<Arc<str>> {
        if let Some(known) = self.remembered.get(&id) {
            return known.clone();
        }
        let hierarchy = if id & V1 == 0 {
            &mut self.unified
        } else {
            &mut self.pids
        };
        let Some(hierarchy) = hierarchy.as_mut().filter(|hierarchy| hierarchy.whole) else {
            // Nothing to compare with: the node's cgroups are not visible.
            return current.map(Arc::from);
        };
        // Only the same inode is the same cgroup.
        let current = current.filter(|path| hierarchy.id(path) == Some(id));
        if let Some(path) = current {
            let path: Arc<str> = path.into();
            self.remember(id, Some(Arc::clone(&path)));
            return Some(path);
        }
        if !std::mem::replace(&mut hierarchy.searched, true) {
            let hierarchy = hierarchy.clone();
            self.remember_all(&hierarchy, id);
        }
        let found = self.remembered.get(&id).cloned().flatten();
        self.remember(id, found.clone());
        found
    }

    fn named(&self, path: Arc<str>) -> Place {
        let layer = outermost(&path, &self.node);
        Place {
            cgroup: Some(path),
            container: layer.as_ref().and_then(|layer| layer.container),
            pod: layer.and_then(|layer| layer.pod),
        }
    }

    fn remember(&mut self, id: u64, path: Option<Arc<str>>) {
        if self.remembered.len() >= MAX_REMEMBERED {
            self.remembered.clear();
        }
        self.remembered.insert(id, path);
    }

    /// Walks over the hierarchy, widest first, and remembers all cgroups; `wanted` also if there are too many.
    fn remember_all(&mut self, hierarchy: &Hierarchy, wanted: u64) {
        let Hierarchy { mount, mark, .. } = hierarchy;
        // One half for what comes later, so that not every new cgroup means a search.
        if self.remembered.len() >= MAX_REMEMBERED / 2 {
            self.remembered.clear();
        }
        if let Some(id) = hierarchy.id("/") {
            self.remember(id, Some("/".into()));
        }
        let mut searched = 0;
        let mut level = vec![String::new()];
        while !level.is_empty() && searched < MAX_SEARCHED {
            let mut next = Vec::new();
            for parent in level {
                // A cgroup that went away meanwhile is not an error.
                let Ok(entries) = fs::read_dir(below(mount, &parent)) else {
                    continue;
                };
                for entry in entries
                    .flatten()
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                {
                    searched += 1;
                    let name = entry.file_name();
                    let Some(name) = name.to_str() else { continue };
                    let path = format!("{parent}/{name}");
                    let id = entry.ino() | mark;
                    if self.remembered.len() < MAX_REMEMBERED || id == wanted {
                        self.remember(id, Some(path.as_str().into()));
                    }
                    next.push(path);
                }
            }
            level = next;
        }
    }
}

fn is_labelled(place: &Place) -> bool {
    place.container.is_some() || place.pod.is_some()
}

/// Of two that do not contradict each other the one that says more.
fn agreed(one: Place, other: Place) -> Option<Place> {
    let container = one.container.is_none() || other.container.is_none() || one.container == other.container;
    let pod = one.pod.is_none() || other.pod.is_none() || one.pod == other.pod;
    let says = |place: &Place| (place.container.is_some(), place.pod.is_some());
    (container && pod).then(|| if says(&other) > says(&one) { other } else { one })
}

fn below(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

fn inode(directory: &Path) -> Option<u64> {
    fs::metadata(directory).ok().map(|metadata| metadata.ino())
}

/// How many levels above the root of our cgroup namespace a path begins.
fn ups(path: &str) -> usize {
    path.split('/').filter(|name| *name == "..").count()
}

fn is_root(path: &str) -> bool {
    path.split('/').all(|name| matches!(name, "" | ".."))
}

/// A line of `/proc/self/mountinfo`; see `proc_pid_mountinfo(5)`.
#[derive(Debug)]
struct Mount<'a> {
    kind: &'a str,
    /// The directory of the file system that is mounted.
    root: &'a str,
    point: PathBuf,
    /// The file system's, not the mount's: for v1 its controllers.
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let mut file_system = file_system.split(' ');
        Some(Self {
            root: fields.next()?,
            point: PathBuf::from(unescape(fields.next()?)),
            kind: file_system.next()?,
            options: file_system.nth(1).unwrap_or_default(),
        })
    }

    fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|own| own == option)
    }
}

/// Mount points have space, tab, newline and backslash as `\` and three octal digits.
fn unescape(field: &str) -> String {
    [(r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", r"\")]
        .iter()
        .fold(field.to_owned(), |text, (escape, plain)| {
            text.replace(escape, plain)
        })
}

#[cfg(test)]
mod tests {
    use std::path::Display;

    use tempfile::TempDir;

    use super::*;

    /// An id that no cgroup has.
    const ABSENT: u64 = !V1;
    const C1: &str = "3f2a9c0d6b1e48575c2d9a8b7e6f5041322314a5b6c7d8e9f00112233445566a";
    const C2: &str = "b77d4d0e9f8a4c3b2a1908f7e6d5c4b3a29180706f5e4d3c2b1a09f8e7d6c5b4";
    const UID: &str = "8a6f1d5a-0c3b-4e7d-9f21-6b5c4d3e2f10";

    #[test]
    fn membership_orders_v1_hierarchies_by_how_telling_they_are() {
        let cases: [(&str, Option<&str>, &[&str], bool); 7] = [
            (
                "0::/system.slice/nginx.service\n",
                Some("/system.slice/nginx.service"),
                &[],
                false,
            ),
            ("0::/\n", Some("/"), &[], false),
            ("0::/a (deleted)\n", Some("/a"), &[], false),
            ("0::/with:colon\n", Some("/with:colon"), &[], false),
            (
                "3:cpuset:/x\n5:cpu,cpuacct:/docker/1\n2:memory:/docker/2\n0::/\n",
                Some("/"),
                &["/docker/2", "/docker/1", "/x"],
                true,
            ),
            (
                "9:name=systemd:/\n4:memory:/\n1:cpu:/kubepods/pod1/c\n",
                None,
                &["/kubepods/pod1/c"],
                true,
            ),
            ("garbage\n\n", None, &[], false),
        ];
        for (file, v2, v1, has_v1) in cases {
            let expected = Membership {
                v2,
                v1: v1.to_vec(),
                pids: None,
                has_v1,
            };
            assert_eq!(Membership::parse(file), expected, "{file:?}");
        }
        for (file, pids) in [("4:pids:/\n", Some("/")), ("4:cpu,pids:/a\n0::/b\n", Some("/a"))] {
            assert_eq!(Membership::parse(file).pids, pids, "{file:?}");
        }
        assert_eq!(Membership::parse(""), Membership::default());
    }

    /// A tree of plain directories: they have inode numbers as cgroups do.
    struct Tree {
        root: TempDir,
        cgroups: Cgroups,
    }

    /// A path of a container, and the same as [`Place`].
    fn container(id: &str) -> (String, Place) {
        let path = format!("/kubepods/pod{UID}/{id}");
        let place = Place {
            cgroup: Some(path.as_str().into()),
            container: Some(id.parse().unwrap()),
            pod: Some(UID.parse().unwrap()),
        };
        (path, place)
    }

    fn unlabelled(path: &str) -> Place {
        Place {
            cgroup: Some(path.into()),
            ..Place::default()
        }
    }

    impl Tree {
        /// With two containers and a service. Process 1 is `init`.
        fn new(init: &str) -> Self {
            Self::mounted("/", init)
        }

        fn mounted(mount_root: &str, init: &str) -> Self {
            Self::with(init, |point| {
                format!("41 31 0:38 {mount_root} {point} rw,relatime shared:4 - cgroup2 cgroup2 rw\n")
            })
        }

        /// The tree is that of `pids`. In v2 there is what is in its `system.slice`.
        fn hybrid() -> Self {
            Self::with(HYBRID, |point| {
                format!(
                    "41 31 0:38 / {point}/system.slice rw,relatime - cgroup2 cgroup2 rw\n\
                     42 31 0:39 / /nowhere rw,relatime - cgroup cgroup rw,memory\n\
                     43 31 0:40 / {point} rw,relatime - cgroup cgroup rw,pids\n"
                )
            })
        }

        fn with(init: &str, mounts: impl Fn(Display<'_>) -> String) -> Self {
            let root = tempfile::tempdir().unwrap();
            for path in [&*container(C1).0, &*container(C2).0, "/system.slice/a.service"] {
                fs::create_dir_all(below(root.path(), path)).unwrap();
            }
            let mut table = "22 27 0:21 / /proc rw,relatime - proc proc rw\n".to_owned();
            table.push_str(&mounts(root.path().display()));
            let cgroups = Cgroups::of(&table, &Membership::parse(init));
            Self { root, cgroups }
        }

        fn id(&self, path: &str) -> u64 {
            inode(&below(self.root.path(), path)).unwrap()
        }

        fn remove(&self, path: &str) {
            fs::remove_dir(below(self.root.path(), path)).unwrap();
        }

        /// The place of a process in `id` whose `/proc/<pid>/cgroup` is `file`.
        fn place(&mut self, id: u64, file: &str) -> Place {
            self.cgroups.place(id, Some(&Membership::parse(file)))
        }

        fn place_of_gone(&mut self, id: u64) -> Place {
            self.cgroups.place(id, None)
        }
    }

    const UNIFIED: &str = "0::/init.scope\n";
    const HYBRID: &str = "4:memory:/\n1:name=systemd:/init.scope\n0::/\n";

    #[test]
    fn the_id_names_the_container_of_a_process_that_is_gone() {
        let mut tree = Tree::new(UNIFIED);
        let (path, place) = container(C1);
        let id = tree.id(&path);
        assert_eq!(tree.place_of_gone(id), place);
        // Still when the container is gone too, because it was seen; so was the other one.
        let (other, other_place) = container(C2);
        let other_id = tree.id(&other);
        tree.remove(&path);
        tree.remove(&other);
        assert_eq!(tree.place_of_gone(id), place);
        assert_eq!(tree.place_of_gone(other_id), other_place);
        assert_eq!(tree.place_of_gone(tree.id("/")), unlabelled("/"));
    }

    #[test]
    fn a_cgroup_that_nobody_saw_is_unknown() {
        let mut tree = Tree::new(UNIFIED);
        assert_eq!(tree.place_of_gone(ABSENT), Place::default());
        // One search for all that were counted until it.
        let path = "/system.slice/b.service";
        fs::create_dir(below(tree.root.path(), path)).unwrap();
        let id = tree.id(path);
        tree.cgroups.start_reading();
        assert_eq!(tree.place_of_gone(id), unlabelled(path));
    }

    #[test]
    fn a_process_that_moved_is_counted_where_it_was() {
        let mut tree = Tree::new(UNIFIED);
        let (path, place) = container(C1);
        let id = tree.id(&path);
        assert_eq!(tree.place(id, "0::/system.slice/a.service\n"), place);
        let moved = tree.id("/system.slice/a.service");
        assert_eq!(
            tree.place(moved, &format!("0::{path}\n")),
            unlabelled("/system.slice/a.service")
        );
        // Where it was is gone: where it is says nothing.
        assert_eq!(tree.place(ABSENT, &format!("0::{path}\n")), Place::default());
    }

    #[test]
    fn hybrid_hosts_name_containers_in_v1() {
        let mut tree = Tree::new(HYBRID);
        let root = tree.id("/");
        let (path, place) = container(C1);
        for file in [
            format!("4:memory:{path}\n0::/\n"),
            format!("5:misc:/\n4:memory:{path}\n1:name=systemd:{path}\n0::/\n"),
            // The runtime's own cgroup in v2, and a hierarchy that this runtime does not use.
            format!("5:memory:/system.slice/a.service\n4:pids:{path}\n0::/system.slice/a.service\n"),
        ] {
            assert_eq!(tree.place(root, &file), place, "{file}");
        }
        let mut without_v2 = Cgroups::of("", &Membership::parse("4:memory:/\n"));
        let file = format!("4:memory:{path}\n");
        assert_eq!(without_v2.place(1, Some(&Membership::parse(&file))), place);
        assert_eq!(without_v2.place(1, None), Place::default());
        assert_eq!(tree.place(root, "4:memory:/batch\n0::/\n"), unlabelled("/batch"));
        assert_eq!(tree.place(root, "4:memory:/\n0::/\n"), unlabelled("/"));
        assert_eq!(
            tree.place_of_gone(root),
            Place::default(),
            "it may have been anywhere"
        );
    }

    #[test]
    fn a_process_has_the_same_cgroup_alive_and_gone() {
        let mut tree = Tree::new(HYBRID);
        fs::create_dir_all(below(tree.root.path(), "/batch")).unwrap();
        let id = tree.id("/batch");
        // In another place of a hierarchy that has no containers.
        let file = "4:memory:/everybody\n0::/batch\n";
        assert_eq!(tree.place(id, file), unlabelled("/batch"));
        assert_eq!(tree.place_of_gone(id), unlabelled("/batch"));
    }

    #[test]
    fn hierarchies_that_contradict_each_other_give_no_label() {
        let mut tree = Tree::new(HYBRID);
        let root = tree.id("/");
        let (one, two) = (container(C1).0, container(C2).0);
        let file = format!("4:memory:{one}\n3:pids:{two}\n0::/\n");
        assert_eq!(tree.place(root, &file), unlabelled(&one));
        // No contradiction: one says less.
        let file = format!("4:memory:/kubepods/pod{UID}\n3:pids:{two}\n0::/\n");
        assert_eq!(tree.place(root, &file), container(C2).1);
    }

    #[test]
    fn hybrid_hosts_with_containers_in_v2_are_read_by_id() {
        let mut tree = Tree::new(HYBRID);
        let (path, place) = container(C1);
        let id = tree.id(&path);
        assert_eq!(tree.place(id, &format!("4:memory:/\n0::{path}\n")), place);
        assert_eq!(tree.place_of_gone(id), place);
    }

    #[test]
    fn a_marked_id_names_the_container_in_v1_of_a_process_that_is_gone() {
        let mut tree = Tree::hybrid();
        let ((path, place), (other, other_place)) = (container(C1), container(C2));
        let [id, other_id] = [&path, &other].map(|path| tree.id(path) | V1);
        assert_eq!(tree.place_of_gone(id), place);
        // The same number is another cgroup in v2.
        let service = tree.id("/system.slice/a.service");
        assert_eq!(
            tree.place_of_gone(service | V1),
            unlabelled("/system.slice/a.service")
        );
        assert_eq!(tree.place_of_gone(service), unlabelled("/a.service"));
        // Nothing that runs a container leaves it in this root.
        assert_eq!(tree.place_of_gone(tree.id("/") | V1), unlabelled("/"));
        // It lives, and has moved.
        let moved = format!("4:pids:{other}\n0::/\n");
        assert_eq!(tree.place(id, &moved), place);
        assert_eq!(tree.place(other_id, &moved), other_place);

        // In v2 only.
        let in_v2 = format!("4:pids:/\n0::{path}\n");
        assert_eq!(tree.place(tree.id("/") | V1, &in_v2), place);

        tree.remove(&path);
        assert_eq!(tree.place_of_gone(id), place, "it was seen");
        assert_eq!(tree.place_of_gone(ABSENT | V1), Place::default());
        let mut not_mounted = Tree::new(HYBRID);
        assert_eq!(
            not_mounted.place(id, &moved),
            other_place,
            "nothing to compare with"
        );
        assert_eq!(not_mounted.place_of_gone(id), Place::default());
    }

    #[test]
    fn a_node_that_is_a_container_is_not_its_processes_container() {
        let mut tree = Tree::new(&format!("0::/kubepods/pod{UID}/{C2}/init.scope\n"));
        let service = format!("/kubepods/pod{UID}/{C2}/kubelet.service");
        let inner = format!("/kubepods/pod{UID}/{C2}/docker/{C1}");
        for path in [&service, &inner] {
            fs::create_dir_all(below(tree.root.path(), path)).unwrap();
        }
        let (service_id, inner_id) = (tree.id(&service), tree.id(&inner));
        assert_eq!(tree.place_of_gone(service_id), unlabelled(&service));
        assert_eq!(tree.place_of_gone(inner_id).container, Some(C1.parse().unwrap()));
    }

    #[test]
    fn in_a_cgroup_namespace_of_its_own_the_agent_takes_the_path_of_now() {
        // What is mounted is the agent's own cgroup.
        let init = "0::/../../../init.scope\n";
        let mut tree = Tree::mounted("/", init);
        let file = format!(
            "0::/../../kubepods-pod{}.slice/crio-{C1}.scope\n",
            UID.replace('-', "_")
        );
        let place = tree.place(7, &file);
        assert_eq!(place.container, Some(C1.parse().unwrap()));
        assert_eq!(place.pod, Some(UID.parse().unwrap()));
        assert_eq!(tree.place_of_gone(7), Place::default());
        assert!(tree.cgroups.exists(&place), "not known to be gone");

        // With the host's file system mounted, the id tells.
        let mut tree = Tree::mounted("/../../..", init);
        let (path, place) = container(C1);
        let id = tree.id(&path);
        assert_eq!(tree.place(id, &file), place);
        assert_eq!(tree.place_of_gone(id), place);
    }

    #[test]
    fn places_are_gone_when_no_hierarchy_has_them() {
        let tree = Tree::new(UNIFIED);
        let (path, place) = container(C1);
        assert!(tree.cgroups.exists(&place));
        assert!(tree.cgroups.exists(&Place::default()));
        tree.remove(&path);
        assert!(!tree.cgroups.exists(&place));

        let v1 = Tree::new(HYBRID);
        let line = format!(
            "32 31 0:29 / {} rw - cgroup cgroup rw,memory\n",
            v1.root.path().display()
        );
        let cgroups = Cgroups::of(&line, &Membership::parse(HYBRID));
        assert!(cgroups.exists(&place));
        v1.remove(&path);
        assert!(!cgroups.exists(&place));
        let nothing_mounted = Cgroups::of("", &Membership::parse(HYBRID));
        assert!(nothing_mounted.exists(&place), "not known to be gone");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut tree = Tree::new(UNIFIED);
        for id in 0..2 * MAX_REMEMBERED as u64 {
            tree.place_of_gone(ABSENT - id);
            assert!(tree.cgroups.remembered.len() <= MAX_REMEMBERED);
        }
        tree.cgroups.start_reading();
        let (path, place) = container(C1);
        assert_eq!(tree.place_of_gone(tree.id(&path)), place);
    }

    #[test]
    fn mount_points_are_unescaped() {
        let line = "41 31 0:38 / /sys/fs/cgroup/a\\040b rw,relatime shared:4 - cgroup2 cgroup2 rw";
        let mount = Mount::parse(line).unwrap();
        assert_eq!(mount.point, PathBuf::from("/sys/fs/cgroup/a b"));
        assert_eq!((mount.kind, mount.root), ("cgroup2", "/"));
        let line = "42 31 0:39 / /sys/fs/cgroup/pids rw,relatime shared:5 - cgroup cgroup rw,cpu,pids";
        let mount = Mount::parse(line).unwrap();
        assert!(mount.has("pids") && mount.has("cpu") && !mount.has("pid"));
        assert!(Mount::parse("22 27 0:21 / /proc rw").is_none());
    }
}
