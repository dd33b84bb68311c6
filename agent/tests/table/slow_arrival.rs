//! The kernel, slowed down in the middle of queueing what arrives on a TCP socket.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::{env, process};

const TRACEFS: &str = "/sys/kernel/tracing";

/// What `tcp_rcv_nxt_update` calls after it has added to `tcp_sock.bytes_received`, and before it sets `rcv_nxt`.
const FUNCTION: &str = "tcp_rcv_sne_update";

/// The kernels of .ci/vm-runner that have it: it is of Linux 6.7, with `CONFIG_TCP_AO`.
const KERNELS: [&str; 2] = ["6.18", "7"];

const EVENT: &str = "accuracy_table/arrival";

/// A probe that writes down the stack each time, while it lives.
pub(crate) struct SlowArrival {
    /// A buffer of its own, so that nobody else's tracing is changed.
    instance: PathBuf,
}

impl SlowArrival {
    /// In virtual machines that can: whoever's machine it is otherwise may have it in use.
    pub(crate) fn where_possible() -> Option<Self> {
        let kernel = env::var("TEST_KERNEL").ok()?;
        if !KERNELS.contains(&kernel.as_str()) {
            return None;
        }
        let slow = Self {
            instance: Path::new(TRACEFS).join(format!("instances/accuracy-{}", process::id())),
        };
        slow.begin()
            .unwrap_or_else(|error| panic!("{FUNCTION} cannot be slowed down: {error}"));
        Some(slow)
    }

    fn begin(&self) -> io::Result<()> {
        tell(&kprobe_events(), &format!("p:{EVENT} {FUNCTION}"))?;
        fs::create_dir(&self.instance)?;
        tell(&self.instance.join("options/stacktrace"), "1")?;
        tell(&self.switch(), "1")
    }

    /// True if there was something to slow down.
    pub(crate) fn has_happened(&self) -> bool {
        let trace = fs::read_to_string(self.instance.join("trace")).unwrap_or_default();
        trace.contains(FUNCTION)
    }

    fn switch(&self) -> PathBuf {
        self.instance.join("events").join(EVENT).join("enable")
    }
}

impl Drop for SlowArrival {
    fn drop(&mut self) {
        let steps = [
            tell(&self.switch(), "0"),
            fs::remove_dir(&self.instance),
            tell(&kprobe_events(), &format!("-:{EVENT}")),
        ];
        for error in steps.into_iter().filter_map(Result::err) {
            let _ = writeln!(io::stderr(), "{FUNCTION} may stay slow: {error}");
        }
    }
}

fn kprobe_events() -> PathBuf {
    Path::new(TRACEFS).join("kprobe_events")
}

fn tell(file: &Path, what: &str) -> io::Result<()> {
    OpenOptions::new()
        .append(true)
        .open(file)
        .and_then(|mut it| it.write_all(what.as_bytes()))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))
}
