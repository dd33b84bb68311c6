//! `kretprobe`s of which the kernel keeps enough ready.
//!
//! Each call under way needs one. For a probe that is made by `perf_event_open` alone the kernel keeps two for each CPU, at
//! least ten; without `CONFIG_PREEMPTION`, before Linux 6.2, one for each CPU (`register_kretprobe`, kernel/kprobes.c). A
//! thread that loses its CPU in the probed function keeps the one it has, so where there are few CPUs they run out, and calls
//! go unseen. More can be asked for in the kernel's list of probes, `kprobe_events` in tracefs, and nowhere else.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    path::PathBuf,
    process,
    sync::Arc,
    time::SystemTime,
};

use aya_obj::generated::{perf_event_attr, perf_type_id::PERF_TYPE_TRACEPOINT};

/// Calls under way of one function that are seen; at most 4,096 (`KRETPROBE_MAXACTIVE_MAX`). Enough for every service of a
/// host to wait for a log that does not read. Some 50 KiB of the kernel's memory; since Linux 6.7 also 8 KiB for each CPU.
const READY: u32 = 512;

/// The group of our probes in the list.
const GROUP: &str = "scope_http_statistics";

/// Probes to make before giving up: an agent that starts at the same moment may take ours for one left behind.
const TRIES: u32 = 3;

/// `FSOPEN_CLOEXEC`, `FSCONFIG_CMD_CREATE`, `FSMOUNT_CLOEXEC` (`include/uapi/linux/mount.h`).
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;

/// `PERF_FLAG_FD_CLOEXEC`, `PERF_EVENT_IOC_ENABLE`, `PERF_EVENT_IOC_SET_BPF` (`include/uapi/linux/perf_event.h`).
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
const PERF_EVENT_IOC_ENABLE: libc::Ioctl = 0x2400;
const PERF_EVENT_IOC_SET_BPF: libc::Ioctl = 0x4004_2408;

/// The programs that are attached to returns of kernel functions, as far as the kernel allows it in this way. Dropping
/// them detaches them.
#[derive(Debug, Default)]
pub(super) struct ReturnProbes {
    tracefs: Option<Arc<Tracefs>>,
    probes: Vec<ReturnProbe>,
    refused: Option<String>,
}

impl ReturnProbes {
    /// None as yet.
    pub(super) fn open() -> Self {
        match Tracefs::open() {
            Ok(tracefs) => Self {
                tracefs: Some(Arc::new(tracefs)),
                ..Self::default()
            },
            Err(error) => Self {
                refused: Some(format!("tracefs: {error}")),
                ..Self::default()
            },
        }
    }

    /// Attaches a loaded program of type `BPF_PROG_TYPE_KPROBE`. Returns whether it could be attached.
    pub(super) fn attach(&mut self, program: BorrowedFd<'_>, function: &str) -> bool {
        let Some(tracefs) = &self.tracefs else {
            return false;
        };
        match ReturnProbe::attach(tracefs, program, function) {
            Ok(probe) => self.probes.push(probe),
            Err(error) => {
                self.refused.get_or_insert_with(|| format!("{function}: {error}"));
                return false;
            }
        }
        true
    }

    /// Why the first that could not be attached could not.
    pub(super) fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }
}

/// A tracefs of our own, mounted nowhere: in a container the host's is not there.
#[derive(Debug)]
struct Tracefs {
    root: OwnedFd,
}

impl Tracefs {
    /// Opens it, and takes probes out of the kernel's list that an agent has left which was killed.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`, and on a kernel without kprobes in tracefs.
    fn open() -> io::Result<Self> {
        // SAFETY: the strings end with 0, the descriptors are those just made.
        let tracefs = unsafe {
            let context = owned(libc::syscall(
                libc::SYS_fsopen,
                c"tracefs".as_ptr(),
                FSOPEN_CLOEXEC,
            ))?;
            let created = libc::syscall(
                libc::SYS_fsconfig,
                context.as_raw_fd(),
                FSCONFIG_CMD_CREATE,
                std::ptr::null::<libc::c_char>(),
                std::ptr::null::<libc::c_char>(),
                0,
            );
            if created < 0 {
                return Err(io::Error::last_os_error());
            }
            let root = libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0);
            Self { root: owned(root)? }
        };
        tracefs.remove_stale()?;
        Ok(tracefs)
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.root.as_raw_fd()))
    }

    /// Adds a line to the list of probes.
    fn command(&self, line: &str) -> io::Result<()> {
        let mut list = OpenOptions::new().append(true).open(self.path("kprobe_events"))?;
        list.write_all(line.as_bytes())
    }

    /// The kernel refuses to remove (`EBUSY`) what is in use by an agent that is there.
    fn remove_stale(&self) -> io::Result<()> {
        let list = fs::read_to_string(self.path("kprobe_events"))?;
        for name in names(&list) {
            let _in_use = self.remove(name);
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.command(&format!("-:{GROUP}/{name}\n"))
    }
}

/// The names of our probes in the kernel's list: lines such as `r512:GROUP/NAME FUNCTION`.
fn names(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter_map(|line| {
        let event = line.split_whitespace().next()?.split_once(':')?.1;
        event.strip_prefix(GROUP)?.strip_prefix('/')
    })
}

/// A program attached to the returns of a kernel function. Dropping it detaches the program and removes the probe.
#[derive(Debug)]
struct ReturnProbe {
    /// `None` once it is closed: what is in use cannot be removed.
    event: Option<OwnedFd>,
    name: String,
    tracefs: Arc<Tracefs>,
}

impl ReturnProbe {
    /// Attaches a loaded program of type `BPF_PROG_TYPE_KPROBE`.
    ///
    /// # Errors
    /// What the kernel says: that there is no such function, or that it does not let the agent.
    fn attach(tracefs: &Arc<Tracefs>, program: BorrowedFd<'_>, function: &str) -> io::Result<Self> {
        let mut tries = 1..TRIES;
        loop {
            match Self::try_attach(tracefs, program, function) {
                Err(_) if tries.next().is_some() => {}
                outcome => return outcome,
            }
        }
    }

    fn try_attach(tracefs: &Arc<Tracefs>, program: BorrowedFd<'_>, function: &str) -> io::Result<Self> {
        let mut probe = Self::add(tracefs, function)?;
        let event = probe.open()?;
        for (request, argument) in [
            (PERF_EVENT_IOC_SET_BPF, program.as_raw_fd()),
            (PERF_EVENT_IOC_ENABLE, 0),
        ] {
            // SAFETY: both take a number, and the descriptors are open.
            if unsafe { libc::ioctl(event.as_raw_fd(), request, argument) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        probe.event = Some(event);
        Ok(probe)
    }

    /// Puts a probe into the kernel's list, where it does nothing yet.
    fn add(tracefs: &Arc<Tracefs>, function: &str) -> io::Result<Self> {
        // Unique among agents, whose PIDs may be the same in namespaces of their own.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let nanoseconds = now.unwrap_or_default().as_nanos();
        let name = format!("{function}_{}_{nanoseconds:x}", process::id());
        tracefs.command(&format!("r{READY}:{GROUP}/{name} {function}\n"))?;
        Ok(Self {
            event: None,
            name,
            tracefs: Arc::clone(tracefs),
        })
    }

    /// Opens the probe in that list as an event, to which programs can be attached.
    fn open(&self) -> io::Result<OwnedFd> {
        let id = self.id()?;
        // SAFETY: a structure of integers, for which 0 is a value.
        let mut attributes: perf_event_attr = unsafe { std::mem::zeroed() };
        attributes.type_ = PERF_TYPE_TRACEPOINT as u32;
        attributes.size = u32::try_from(size_of::<perf_event_attr>()).unwrap_or(u32::MAX);
        attributes.config = id;
        // A program is run for all processes on all CPUs, whatever these two are.
        let (any_process, cpu, no_group): (libc::pid_t, libc::c_int, libc::c_int) = (-1, 0, -1);
        // SAFETY: the attributes outlive the call and have the size given.
        let event = unsafe {
            owned(libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                any_process,
                cpu,
                no_group,
                PERF_FLAG_FD_CLOEXEC,
            ))?
        };
        // From here on nobody can remove it. Until here somebody could, and the kernel give its number to another one.
        if self.id()? == id {
            Ok(event)
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }

    fn id(&self) -> io::Result<u64> {
        let id = fs::read_to_string(self.tracefs.path(&format!("events/{GROUP}/{}/id", self.name)))?;
        id.trim().parse().map_err(io::Error::other)
    }
}

impl Drop for ReturnProbe {
    fn drop(&mut self) {
        drop(self.event.take());
        // If that fails, the next agent does it.
        let _removed = self.tracefs.remove(&self.name);
    }
}

/// The descriptor that a system call has made.
///
/// # Safety
/// `result` is what such a call has just returned.
unsafe fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match libc::c_int::try_from(result) {
        // SAFETY: nobody else has it.
        Ok(descriptor @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_probes_are_told_from_others() {
        let list = "p:kprobes/a tcp_sendmsg\n\
                    r512:scope_http_statistics/unix_stream_sendmsg_1_a unix_stream_sendmsg\n\
                    r:scope_http_statistics/b release_sock ret=$retval\n\
                    r16:scope_http_statistics_2/c release_sock\n";
        let names: Vec<_> = names(list).collect();
        assert_eq!(names, ["unix_stream_sendmsg_1_a", "b"]);
    }
}
