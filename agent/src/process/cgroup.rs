//! Which cgroup a process is in, by path.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// How many ids are remembered, the ids of cgroups that could not be found among them.
const MAX_REMEMBERED: usize = 16_384;
/// How many cgroups are looked at in one search.
const MAX_SEARCHED: usize = 65_536;

/// Controllers of cgroup v1 whose hierarchy container runtimes always use, in order of preference.
const V1_HIERARCHIES: [&str; 4] = ["memory", "pids", "cpu", "name=systemd"];

/// What `/proc/<pid>/cgroup` says; see `cgroups(7)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Membership<'a> {
    /// Path in the cgroup v2 hierarchy. On hosts that use v1 it is usually `/`.
    pub v2: Option<&'a str>,
    /// Path in the v1 hierarchy that is most telling, if one is below its root.
    pub v1: Option<&'a str>,
}

impl<'a> Membership<'a> {
    /// Reads lines such as `0::/system.slice/nginx.service` (v2) and `5:cpu,cpuacct:/docker/…` (v1). Other lines
    /// are ignored.
    #[must_use]
    pub fn parse(file: &'a str) -> Self {
        let mut v2 = None;
        let mut v1: Option<(usize, &str)> = None;
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
            } else if path != "/" {
                let rank = controllers
                    .split(',')
                    .filter_map(|name| V1_HIERARCHIES.iter().position(|known| *known == name))
                    .min()
                    .unwrap_or(V1_HIERARCHIES.len());
                if v1.is_none_or(|(best, _)| rank < best) {
                    v1 = Some((rank, path));
                }
            }
        }
        Self {
            v2,
            v1: v1.map(|(_, path)| path),
        }
    }
}

/// Paths of cgroups by id.
#[derive(Debug)]
pub struct Cgroups {
    /// Where the cgroup v2 hierarchy is mounted.
    mount: Option<PathBuf>,
    remembered: HashMap<u64, Option<String>>,
}

impl Cgroups {
    /// The cgroups of the mount table in `proc`.
    #[must_use]
    pub fn new(proc: &Path) -> Self {
        let mount = fs::read_to_string(proc.join("self/mountinfo"))
            .ok()
            .and_then(|table| cgroup2_mount(&table));
        Self {
            mount,
            remembered: HashMap::new(),
        }
    }

    /// The path of the v2 cgroup `id`, of which a process is or was a member; in the v1 hierarchies where the
    /// process is in no v2 cgroup but the root. `membership` is empty for a process that is gone.
    ///
    /// `None`: the cgroup is gone too, and was not asked for before.
    pub fn path(&mut self, id: u64, membership: &Membership<'_>) -> Option<String> {
        let Membership { v2, v1 } = *membership;
        match (v2, v1) {
            (Some("/") | None, Some(v1)) => return Some(v1.to_owned()),
            // The process may have moved since it was counted: only the same inode is the same cgroup.
            (Some(v2), _) if self.inode(v2) == Some(id) => {
                self.remember(id, Some(v2.to_owned()));
                return Some(v2.to_owned());
            }
            _ => {}
        }
        if !self.remembered.contains_key(&id) {
            let found = self.mount.as_deref().and_then(|mount| find(mount, id));
            self.remember(id, found);
        }
        self.remembered
            .get(&id)
            .cloned()
            .flatten()
            .or_else(|| v2.map(str::to_owned))
    }

    /// Whether there may be a cgroup with this path: false for one that was found in the v2 hierarchy and is not there
    /// any more.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        let was_found = || {
            self.remembered
                .values()
                .any(|known| known.as_deref() == Some(path))
        };
        self.inode(path).is_some() || !was_found()
    }

    fn inode(&self, path: &str) -> Option<u64> {
        let directory = self.mount.as_ref()?.join(path.trim_start_matches('/'));
        fs::metadata(directory).ok().map(|metadata| metadata.ino())
    }

    fn remember(&mut self, id: u64, path: Option<String>) {
        if self.remembered.len() >= MAX_REMEMBERED {
            self.remembered.clear();
        }
        self.remembered.insert(id, path);
    }
}

/// The mount point of the cgroup v2 hierarchy in `/proc/self/mountinfo`; see `proc_pid_mountinfo(5)`.
fn cgroup2_mount(table: &str) -> Option<PathBuf> {
    table.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let kind = file_system.split(' ').next()?;
        let point = mount.split(' ').nth(4)?;
        (kind == "cgroup2").then(|| PathBuf::from(unescape(point)))
    })
}

/// Mount points have space, tab, newline and backslash as `\` and three octal digits.
fn unescape(field: &str) -> String {
    [(r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", r"\")]
        .iter()
        .fold(field.to_owned(), |text, (escape, plain)| {
            text.replace(escape, plain)
        })
}

/// Searches the hierarchy, widest first, for the directory with this inode number.
fn find(mount: &Path, id: u64) -> Option<String> {
    if fs::metadata(mount).ok()?.ino() == id {
        return Some("/".to_owned());
    }
    let mut level = vec![mount.to_owned()];
    let mut searched = 0;
    while !level.is_empty() {
        let mut below = Vec::new();
        for directory in level {
            // A cgroup that went away meanwhile is not an error.
            let Ok(entries) = fs::read_dir(&directory) else {
                continue;
            };
            for entry in entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            {
                let path = entry.path();
                if entry.ino() == id {
                    let relative = path.strip_prefix(mount).ok()?;
                    return Some(format!("/{}", relative.display()));
                }
                searched += 1;
                if searched >= MAX_SEARCHED {
                    return None;
                }
                below.push(path);
            }
        }
        level = below;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn membership_prefers_telling_hierarchies() {
        let cases = [
            (
                "0::/system.slice/nginx.service\n",
                Some("/system.slice/nginx.service"),
                None,
            ),
            ("0::/\n", Some("/"), None),
            ("0::/a (deleted)\n", Some("/a"), None),
            ("0::/with:colon\n", Some("/with:colon"), None),
            (
                "3:cpuset:/x\n5:cpu,cpuacct:/docker/1\n2:memory:/docker/2\n0::/\n",
                Some("/"),
                Some("/docker/2"),
            ),
            (
                "9:name=systemd:/\n4:memory:/\n1:cpu:/kubepods/pod1/c\n",
                None,
                Some("/kubepods/pod1/c"),
            ),
            ("garbage\n\n", None, None),
            ("", None, None),
        ];
        for (file, v2, v1) in cases {
            assert_eq!(Membership::parse(file), Membership { v2, v1 }, "{file:?}");
        }
    }

    #[test]
    fn mount_table_gives_the_cgroup2_mount() {
        let table = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
                     32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                     41 31 0:38 / /sys/fs/cgroup/a\\040b rw,relatime shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(table), Some(PathBuf::from("/sys/fs/cgroup/a b")));
        assert_eq!(cgroup2_mount("22 27 0:21 / /proc rw - proc proc rw\n"), None);
    }

    /// A tree of plain directories has inode numbers as cgroups do.
    fn tree() -> (tempfile::TempDir, Cgroups) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("kubepods/pod1/c1")).unwrap();
        fs::create_dir_all(root.path().join("system.slice")).unwrap();
        let cgroups = Cgroups {
            mount: Some(root.path().to_owned()),
            remembered: HashMap::new(),
        };
        (root, cgroups)
    }

    fn inode(root: &tempfile::TempDir, path: &str) -> u64 {
        fs::metadata(root.path().join(path)).unwrap().ino()
    }

    #[test]
    fn ids_are_found_in_the_hierarchy_and_remembered_when_it_is_gone() {
        let (root, mut cgroups) = tree();
        let id = inode(&root, "kubepods/pod1/c1");
        let gone = Membership::default();
        assert_eq!(cgroups.path(id, &gone).as_deref(), Some("/kubepods/pod1/c1"));
        fs::remove_dir(root.path().join("kubepods/pod1/c1")).unwrap();
        assert_eq!(cgroups.path(id, &gone).as_deref(), Some("/kubepods/pod1/c1"));
        assert_eq!(cgroups.path(u64::MAX, &gone), None);
        let root_id = inode(&root, "");
        assert_eq!(cgroups.path(root_id, &gone).as_deref(), Some("/"));
    }

    #[test]
    fn a_process_that_moved_is_counted_where_it_was() {
        let (root, mut cgroups) = tree();
        let id = inode(&root, "kubepods/pod1/c1");
        let moved = Membership {
            v2: Some("/system.slice"),
            v1: None,
        };
        assert_eq!(cgroups.path(id, &moved).as_deref(), Some("/kubepods/pod1/c1"));
    }

    #[test]
    fn hybrid_hosts_name_the_v1_cgroup() {
        let (root, mut cgroups) = tree();
        let id = inode(&root, "");
        let hybrid = Membership {
            v2: Some("/"),
            v1: Some("/docker/1"),
        };
        assert_eq!(cgroups.path(id, &hybrid).as_deref(), Some("/docker/1"));
        assert_eq!(
            cgroups
                .path(
                    id,
                    &Membership {
                        v2: Some("/"),
                        v1: None
                    }
                )
                .as_deref(),
            Some("/")
        );
    }
}
