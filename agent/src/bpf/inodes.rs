//! Which sockets are new, by their inode numbers.
//!
//! The kernel numbers sockets and pipes upwards (`get_next_ino`, fs/inode.c), each CPU from a batch of its own, and
//! takes batches upwards too. So what comes after a batch that was begun a moment ago is younger than that moment.

use std::{fs::File, io, mem::zeroed, os::linux::fs::MetadataExt as _};

/// `LAST_INO_BATCH` (fs/inode.c).
const BATCH: u32 = 1024;

/// Numbers to draw before giving up: the task may be moved to another CPU, again and again.
const TRIES: u32 = 8 * BATCH;

/// The lowest inode number that only sockets have which are made from now on, modulo 2^32. On CPUs that this thread may
/// not use, sockets made from now on may still have lower ones. Nothing if it cannot be found out.
pub(super) fn first_new() -> Option<u32> {
    let first = (0..TRIES)
        .filter_map(|_| next().ok())
        .find(|number| number % BATCH == 1)?;
    on_each_cpu(|| {
        let mut numbers = (0..BATCH).filter_map(|_| next().ok());
        // What this CPU has left of an older batch.
        numbers.find(|number| number.wrapping_sub(first) < 1 << 31);
    });
    Some(first)
}

/// Does `work` on each CPU that this thread may use.
fn on_each_cpu(work: impl Fn()) {
    const SIZE: usize = size_of::<libc::cpu_set_t>();
    // SAFETY: a set of bits, for which 0 is a value.
    let (mut allowed, mut one): (libc::cpu_set_t, libc::cpu_set_t) = unsafe { (zeroed(), zeroed()) };
    // SAFETY: the pointer is to a live set of that size.
    if unsafe { libc::sched_getaffinity(0, SIZE, &raw mut allowed) } != 0 {
        return;
    }
    for cpu in 0..SIZE * 8 {
        // SAFETY: `cpu` is within the sets, the pointer is to a live one.
        let is_there = unsafe {
            libc::CPU_ZERO(&mut one);
            libc::CPU_SET(cpu, &mut one);
            libc::CPU_ISSET(cpu, &allowed) && libc::sched_setaffinity(0, SIZE, &raw const one) == 0
        };
        if is_there {
            work();
        }
    }
    // SAFETY: as above. If it fails, which it does not where the thread was before, it stays on its CPU.
    unsafe { libc::sched_setaffinity(0, SIZE, &raw const allowed) };
}

/// Draws a number: that of a new pipe, which goes at once.
pub(super) fn next() -> io::Result<u32> {
    let (reader, _writer) = io::pipe()?;
    let file = File::from(std::os::fd::OwnedFd::from(reader));
    let number = file.metadata()?.st_ino();
    // 32 bits, as the kernel counts.
    Ok(u32::try_from(number & u64::from(u32::MAX)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::net::UnixStream;

    #[test]
    fn sockets_made_later_have_higher_numbers() {
        let before = next().expect("a pipe");
        let first = first_new().expect("a batch begins");
        assert!(first.wrapping_sub(before) < 1 << 31);
        on_each_cpu(|| {
            let (socket, _peer) = UnixStream::pair().expect("a socket");
            let file = File::from(std::os::fd::OwnedFd::from(socket));
            let number = file.metadata().expect("a socket's inode").st_ino();
            let number = u32::try_from(number & u64::from(u32::MAX)).expect("32 bits");
            assert!(number.wrapping_sub(first) < 1 << 31, "{number} {first}");
        });
    }
}
