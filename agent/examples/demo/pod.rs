//! What kubelet and a container runtime leave of a pod: a cgroup, and the names of its log files. From these, and
//! nothing else, an agent without an API server knows a pod.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, id};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

/// How long processes of a cgroup take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A pod with one container. Removed when dropped.
pub(crate) struct Pod {
    pub(crate) uid: String,
    /// The container's cgroup, and those above it that are ours.
    cgroups: Vec<PathBuf>,
    /// As `/var/log`.
    log: TempDir,
}

impl Pod {
    /// The pod `shop/web-0` with the container `nginx`.
    pub(crate) fn make() -> Result<Self> {
        // No other pod of this host has these ids while this process lives.
        let uid = format!("{:08x}-5ca1-4ab1-8ded-00000c0ffee0", id());
        let container = format!("{:064x}", id());
        let log = tempfile::tempdir()?;
        let of_container = log.path().join(format!("pods/shop_web-0_{uid}/nginx"));
        fs::create_dir_all(&of_container)?;
        fs::create_dir(log.path().join("containers"))?;
        let link = log
            .path()
            .join(format!("containers/web-0_shop_nginx-{container}.log"));
        symlink(of_container.join("0.log"), link)?;

        let mut cgroup = hierarchy().context("there is no cgroup file system")?;
        let mut pod = Self {
            uid: uid.clone(),
            cgroups: Vec::new(),
            log,
        };
        for name in [
            format!("http-statistics-demo-{}", id()),
            "kubepods".to_owned(),
            "burstable".to_owned(),
            format!("pod{uid}"),
            container,
        ] {
            cgroup.push(name);
            fs::create_dir(&cgroup).with_context(|| format!("failed to make {}", cgroup.display()))?;
            pod.cgroups.insert(0, cgroup.clone());
        }
        Ok(pod)
    }

    /// `program`, which will be in the container's cgroup from its beginning.
    pub(crate) fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"echo $$ >"$0/cgroup.procs" && exec "$@""#])
            .arg(&self.cgroups[0])
            .arg(program);
        command
    }

    /// `program`, which will see the pod's log files where kubelet has them.
    pub(crate) fn seen_by(&self, program: &Path) -> Command {
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "sh",
                "-c",
                r#"mount --bind "$0" /var/log && exec "$@""#,
            ])
            .arg(self.log.path())
            .arg(program);
        command
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        for cgroup in &self.cgroups {
            while let Err(error) = fs::remove_dir(cgroup)
                && error.kind() == io::ErrorKind::ResourceBusy
                && Instant::now() < deadline
            {
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Where cgroups are made: with v1 in a hierarchy that runtimes use.
fn hierarchy() -> Option<PathBuf> {
    ["memory", "unified", ""]
        .map(|name| Path::new("/sys/fs/cgroup").join(name))
        .into_iter()
        .find(|directory| directory.join("cgroup.procs").exists())
}
