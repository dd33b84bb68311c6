//! What the programs have counted, read from the kernel. Detaching them is another matter ([`super::attachments`]).

use std::{
    fmt, io,
    ops::Range,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use agent_ebpf::abi::{CounterKey, LOST, Loss, maps};
use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError},
};

use super::{
    Counter, Hook, Losses, error::Error, inodes, priority::RealTime, programs::ProgramSpec, statistics,
    statistics::ProgramStatistics,
};

/// A [`CounterKey`] as `aya` takes it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Key(CounterKey);

// SAFETY: `CounterKey` is `repr(C)`, made of integers, and has no padding (asserted where it is defined).
unsafe impl aya::Pod for Key {}

/// Reads and deletes counters, while the programs are attached and after.
pub struct Counters {
    hook: Hook,
    map: Map,
    lost: Map,
    losses: Array<MapData, u64>,
    first_inode: Array<MapData, u32>,
    programs: Vec<Program>,
}

/// A program as far as the kernel counts its runs.
struct Program {
    name: &'static str,
    descriptor: OwnedFd,
    /// See [`ProgramSpec::counts_misses`].
    counts_misses: bool,
}

impl Counters {
    /// Takes the maps of loaded programs.
    pub(super) fn take(ebpf: &mut Ebpf, hook: Hook, programs: &[ProgramSpec]) -> Result<Self, Error> {
        let mut take = |map| ebpf.take_map(map).ok_or_else(|| Error::missing(map));
        let (counters, lost, losses, first_inode) = (
            take(maps::COUNTERS)?,
            take(maps::LOST)?,
            take(maps::LOSSES)?,
            take(maps::FIRST_INODE)?,
        );
        let programs = programs.iter().filter_map(|spec| {
            let descriptor = ebpf.program(spec.name)?.fd().ok()?;
            Some(Program {
                name: spec.name,
                descriptor: descriptor.as_fd().try_clone_to_owned().ok()?,
                counts_misses: spec.counts_misses,
            })
        });
        Ok(Self {
            hook,
            programs: programs.collect(),
            map: counters,
            lost,
            losses: typed(maps::LOSSES, losses)?,
            first_inode: typed(maps::FIRST_INODE, first_inode)?,
        })
    }

    /// The hook whose programs count.
    #[must_use]
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// Reads all counters: how often each thing happened since the programs were attached, and was lost, as far as some process
    /// has lost it.
    ///
    /// # Errors
    /// When the kernel refuses to read a map.
    pub fn read(&self) -> Result<Vec<Counter>, Error> {
        let mut counters = Vec::new();
        let _uninterrupted = self.uninterrupted();
        for (name, map) in [(maps::COUNTERS, &self.map), (maps::LOST, &self.lost)] {
            let Map::HashMap(map) = map else {
                return Err(Error::missing(name));
            };
            read_all(map.fd().as_fd(), &mut counters).map_err(|source| Error::Read { map: name, source })?;
        }
        Ok(counters)
    }

    /// Deletes counters. A process that counts again later starts at zero.
    ///
    /// # Errors
    /// When the kernel refuses; a counter that is not there is no error.
    pub fn forget(&mut self, keys: &[CounterKey]) -> Result<(), Error> {
        let _uninterrupted = self.uninterrupted();
        let (lost, counted): (Vec<_>, Vec<_>) = keys.iter().copied().partition(|key| key.code >= LOST);
        delete(maps::COUNTERS, &mut self.map, counted)?;
        delete(maps::LOST, &mut self.lost, lost)
    }

    /// Reads how much was not counted, by cause, since the programs were attached.
    ///
    /// # Errors
    /// When the kernel refuses to read the map.
    pub fn losses(&mut self) -> Result<Losses, Error> {
        let _uninterrupted = self.uninterrupted();
        let mut losses = Losses::default();
        for cause in Loss::ALL {
            losses.0[cause as usize] = self
                .losses
                .get(&(cause as u32), 0)
                .map_err(|error| Error::unreadable(maps::LOSSES, error))?;
        }
        losses.0[Loss::ProgramMissed as usize] += self.missed();
        self.renew_first_inode()?;
        Ok(losses)
    }

    /// Keeps the first new inode number less than half of all numbers behind: they start again after the last.
    fn renew_first_inode(&mut self) -> Result<(), Error> {
        const BEHIND: u32 = 1 << 30;
        // Less is behind `first`: this CPU has numbers left of an older batch.
        const AHEAD: Range<u32> = BEHIND + 1..1 << 31;
        let unreadable = |error| Error::unreadable(maps::FIRST_INODE, error);
        let first = self.first_inode.get(&0, 0).map_err(unreadable)?;
        // If no pipe can be had, the next time will do.
        if let Ok(next) = inodes::next()
            && first != 0
            && AHEAD.contains(&next.wrapping_sub(first))
        {
            self.first_inode
                .set(0, next.wrapping_sub(BEHIND), 0)
                .map_err(unreadable)?;
        }
        Ok(())
    }

    /// Calls that no program saw, at most. What the programs themselves notice is in the map.
    fn missed(&self) -> u64 {
        let watched = self.programs.iter().filter(|program| program.counts_misses);
        watched
            .filter_map(|program| statistics::of_program(program.descriptor.as_fd()).ok())
            .map(|statistics| statistics.misses)
            .sum()
    }

    /// What the kernel has counted for each program, by name.
    pub fn statistics(&self) -> impl Iterator<Item = (&'static str, ProgramStatistics)> {
        self.programs.iter().filter_map(|program| {
            let statistics = statistics::of_program(program.descriptor.as_fd()).ok()?;
            Some((program.name, statistics))
        })
    }

    fn uninterrupted(&self) -> RealTime {
        match self.hook {
            Hook::Kprobe => RealTime::take(),
            Hook::Fentry | Hook::Tracepoint => RealTime::not_needed(),
        }
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counters")
            .field("hook", &self.hook)
            .finish_non_exhaustive()
    }
}

fn delete(name: &'static str, map: &mut Map, keys: Vec<CounterKey>) -> Result<(), Error> {
    let unreadable = |error| Error::unreadable(name, error);
    let mut map: HashMap<_, Key, u64> = HashMap::try_from(map).map_err(unreadable)?;
    for key in keys {
        match map.remove(&Key(key)) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
    Ok(())
}

/// A map as what it is.
fn typed<T: TryFrom<Map, Error = MapError>>(name: &'static str, map: Map) -> Result<T, Error> {
    T::try_from(map).map_err(|error| Error::unreadable(name, error))
}

/// `BPF_MAP_LOOKUP_BATCH` (include/uapi/linux/bpf.h), since Linux 5.6.
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// Counters asked for at a time, at least as many as one hash bucket may hold.
const BATCH: usize = 1024;

/// The part of `union bpf_attr` that batch commands use.
#[repr(C)]
struct BatchAttributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Reads every counter of the map, in addition to those that were read.
fn read_all(map: BorrowedFd<'_>, counters: &mut Vec<Counter>) -> io::Result<()> {
    let empty = CounterKey {
        cgroup: 0,
        start_time: 0,
        pid: 0,
        code: 0,
        reserved: 0,
    };
    let mut keys = vec![empty; BATCH];
    let mut values = vec![0_u64; BATCH];
    let (mut position, mut next) = (0_u64, 0_u64);
    let mut first = true;
    loop {
        let mut attributes = BatchAttributes {
            in_batch: if first { 0 } else { &raw mut position as u64 },
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
            map_fd: u32::try_from(map.as_raw_fd()).unwrap_or(u32::MAX),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: every address in `attributes` is that of a live buffer of at least the size that the kernel fills:
        // `count` keys and values of the map's types, and four bytes of position.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                &raw mut attributes,
                size_of::<BatchAttributes>(),
            )
        };
        let error = (result < 0).then(io::Error::last_os_error);
        let ended = match error.as_ref().and_then(io::Error::raw_os_error) {
            None => false,
            Some(libc::ENOENT) => true,
            Some(libc::ENOSPC) => {
                // One bucket has more than fits.
                keys.resize(keys.len() * 2, empty);
                values.resize(keys.len(), 0);
                continue;
            }
            Some(_) => return Err(error.unwrap_or_else(io::Error::last_os_error)),
        };
        let count = (attributes.count as usize).min(keys.len());
        counters.extend(keys[..count].iter().zip(&values).map(|(key, value)| Counter {
            key: *key,
            value: *value,
        }));
        if ended {
            return Ok(());
        }
        position = next;
        first = false;
    }
}
