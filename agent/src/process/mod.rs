//! Who is behind a counter: command and cgroup of a process, read from `/proc` and the cgroup file system.
//!
//! Only processes that have counters are looked at, and nothing here is done per request.

mod cgroup;
mod container;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::stats::{Identity, Owner, PerTick};
use crate::workload::Place;
pub use cgroup::{Cgroups, Membership, V1};
pub use container::{Layer, layers, outermost};

/// Clock ticks per second in `/proc/<pid>/stat` (`USER_HZ`, the same on every architecture that has eBPF).
const USER_HZ: u64 = 100;
/// Nanoseconds in one clock tick.
const CLOCK_TICK: u64 = 1_000_000_000 / USER_HZ;

/// The file systems that tell about processes.
#[derive(Debug)]
pub struct Processes {
    proc: PathBuf,
    cgroups: Cgroups,
    /// Processes that were alive when last looked at, by pid, with their start time.
    alive: PerTick<u32, (u64, Instance)>,
    /// Reused: one file is read per process and interval.
    buffer: Vec<u8>,
}

/// Tells one directory `/proc/<pid>` from the next of that name: its inode number and when it was made. The kernel hands out
/// these numbers in turn (`get_next_ino`), 2^32 of them, and may give a process another one while it lives, but then the
/// process is only looked at more closely.
type Instance = (u64, i64, i64);

/// What `/proc/<pid>/stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat<'a> {
    /// The command name, at most 15 bytes; may contain anything, also spaces and parentheses.
    pub command: &'a [u8],
    /// Whether its first thread has ended. Others may go on.
    pub is_zombie: bool,
    /// When the process started, in clock ticks since boot.
    start_ticks: u64,
}

impl<'a> Stat<'a> {
    /// Reads the line; see `proc_pid_stat(5)`. `None` if it is not one.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let open = line.iter().position(|byte| *byte == b'(')?;
        let close = line.iter().rposition(|byte| *byte == b')')?;
        let command = line.get(open + 1..close)?;
        // Field 3, the state, comes after the parenthesis; field 22 is starttime.
        let mut fields = line
            .get(close + 1..)?
            .split(u8::is_ascii_whitespace)
            .filter(|field| !field.is_empty());
        let is_zombie = matches!(fields.next()?, b"Z" | b"X");
        let start_ticks = str::from_utf8(fields.nth(22 - 4)?).ok()?.parse().ok()?;
        Some(Self {
            command,
            is_zombie,
            start_ticks,
        })
    }

    /// Whether this is the process that started at `start_time`, in nanoseconds since boot, as exactly as clock
    /// ticks tell.
    #[must_use]
    pub fn started_at(&self, start_time: u64) -> bool {
        start_time / CLOCK_TICK == self.start_ticks
    }
}

impl Processes {
    /// Processes of the `/proc` mounted at `proc`.
    #[must_use]
    pub fn new(proc: &Path) -> Self {
        Self {
            proc: proc.to_owned(),
            cgroups: Cgroups::new(proc),
            alive: PerTick::default(),
            buffer: Vec::with_capacity(1024),
        }
    }

    /// The command name of `owner`'s process if it lives. A zombie lives until it is reaped: its threads may.
    ///
    /// # Errors
    /// When `/proc` cannot be read for another reason than that the process is gone; nothing is known then.
    pub fn command(&mut self, owner: &Owner) -> io::Result<Option<String>> {
        let stat = self.stat(owner)?;
        let command = stat.map(|stat| String::from_utf8_lossy(stat.command).into_owned());
        if command.is_none() {
            self.alive.remove(&owner.pid);
        }
        Ok(command)
    }

    /// Whether `owner`'s process lives. Takes a tenth of what [`command`](Self::command) takes: the kernel writes
    /// `/proc/<pid>/stat` anew for each who reads it, but the directory need only be the same as before.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub fn lives(&mut self, owner: &Owner) -> io::Result<bool> {
        let found = match fs::metadata(self.directory(owner)) {
            Ok(found) => (found.ino(), found.ctime(), found.ctime_nsec()),
            Err(error) if is_gone(&error) => {
                self.alive.remove(&owner.pid);
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let alive = (owner.start_time, found);
        if self.alive.get(&owner.pid) == Some(&alive) {
            return Ok(true);
        }
        let lives = self.stat(owner)?.is_some();
        if lives {
            self.alive.insert(owner.pid, alive);
        } else {
            self.alive.remove(&owner.pid);
        }
        Ok(lives)
    }

    /// Whether `owner`'s process lived when [`lives`](Self::lives) was last asked, and has not ended as far as is known.
    #[must_use]
    pub fn lived(&self, owner: &Owner) -> bool {
        let known = self.alive.get(&owner.pid);
        known.is_some_and(|(start_time, _)| *start_time == owner.start_time)
    }

    fn directory(&self, owner: &Owner) -> PathBuf {
        self.proc.join(owner.pid.to_string())
    }

    fn stat(&mut self, owner: &Owner) -> io::Result<Option<Stat<'_>>> {
        let path = self.directory(owner).join("stat");
        self.buffer.clear();
        match File::open(path).and_then(|mut file| file.read_to_end(&mut self.buffer)) {
            Ok(_) => Ok(Stat::parse(&self.buffer).filter(|stat| stat.started_at(owner.start_time))),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where `/proc` is mounted.
    #[must_use]
    pub fn proc(&self) -> &Path {
        &self.proc
    }

    /// New counters were read, whose owners are to be identified.
    pub fn start_reading(&mut self) {
        self.cgroups.start_reading();
    }

    /// Whether the place may still be there; `false` only if its cgroup is surely gone.
    #[must_use]
    pub fn exists(&self, place: &Place) -> bool {
        self.cgroups.exists(place)
    }

    /// Command and place of an owner seen for the first time.
    pub fn identify(&mut self, owner: &Owner) -> Identity {
        let (gone, command, is_zombie) = match self.stat(owner) {
            Ok(Some(stat)) => {
                let command = String::from_utf8_lossy(stat.command).into_owned();
                (false, Some(command), stat.is_zombie)
            }
            Ok(None) => (true, None, false),
            Err(_) => (false, None, false),
        };
        // The v1 hierarchies have zombies in their roots, wherever they were.
        let file = if gone || is_zombie {
            None
        } else {
            fs::read_to_string(self.directory(owner).join("cgroup")).ok()
        };
        let membership = file.as_deref().map(Membership::parse);
        let place = self.cgroups.place(owner.cgroup, membership.as_ref());
        Identity { gone, command, place }
    }
}

/// `ENOENT`: no such directory; `ESRCH`: the process ended between open and read.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat_line(command: &str, start: u64) -> String {
        format!("42 ({command}) S 1 42 42 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 {start} 1000 200 184467\n")
    }

    #[test]
    fn stat_reads_commands_of_any_form() {
        for command in ["nginx", "", "a b", "a) S 1 (b", "((", "(sd-pam)", "é"] {
            let line = stat_line(command, 77);
            let stat = Stat::parse(line.as_bytes()).unwrap();
            assert_eq!(stat.command, command.as_bytes(), "{line}");
            assert_eq!(stat.start_ticks, 77, "{line}");
            assert!(!stat.is_zombie, "{line}");
            let ended = line.replace(") S 1 42 42", ") Z 1 42 42");
            assert!(Stat::parse(ended.as_bytes()).unwrap().is_zombie, "{ended}");
        }
    }

    #[test]
    fn stat_refuses_what_is_no_stat_line() {
        for line in ["", "42", "42 (nginx", "42 (nginx) S 1 2", "42 (nginx) S", ")("] {
            assert_eq!(Stat::parse(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn start_times_are_compared_by_clock_ticks() {
        let line = stat_line("nginx", 77);
        let stat = Stat::parse(line.as_bytes()).unwrap();
        assert!(stat.started_at(770_000_000));
        assert!(stat.started_at(779_999_999));
        assert!(!stat.started_at(769_999_999));
        assert!(!stat.started_at(780_000_000));
    }

    #[test]
    fn a_live_process_has_a_command_and_a_reused_pid_none() {
        let line = fs::read("/proc/self/stat").unwrap();
        let ticks = Stat::parse(&line).unwrap().start_ticks;
        let mut processes = Processes::new(Path::new("/proc"));
        let owner = Owner {
            pid: std::process::id(),
            start_time: ticks * CLOCK_TICK + 5,
            cgroup: 1,
        };
        assert!(processes.command(&owner).unwrap().is_some());
        assert!(!processes.lived(&owner), "not asked yet");
        assert!(processes.lives(&owner).unwrap());
        assert!(processes.lives(&owner).unwrap(), "as before");
        assert!(processes.lived(&owner));
        assert!(processes.lived(&Owner { cgroup: 2, ..owner }), "the same process");
        let earlier = Owner {
            start_time: owner.start_time - CLOCK_TICK,
            ..owner
        };
        assert!(!processes.lived(&earlier));
        assert_eq!(processes.command(&earlier).unwrap(), None);
        assert!(!processes.lives(&earlier).unwrap());
        assert!(
            !processes.lived(&owner),
            "another process has the pid, as far as is known"
        );
        let absent = Owner {
            pid: u32::MAX,
            ..owner
        };
        assert_eq!(processes.command(&absent).unwrap(), None);
        assert!(!processes.lives(&absent).unwrap());
    }
}
