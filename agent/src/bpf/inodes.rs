//! Which sockets are new, by their inode numbers.
//!
//! The kernel numbers sockets and pipes upwards (`get_next_ino`, fs/inode.c), each CPU from a batch of its own, and
//! takes batches upwards too. So what comes after a batch that was begun a moment ago is younger than that moment.

use std::{fs::File, io, os::linux::fs::MetadataExt as _};

/// `LAST_INO_BATCH` (fs/inode.c).
const BATCH: u32 = 1024;

/// Numbers to draw before giving up: the task may be moved to another CPU, again and again.
const TRIES: u32 = 8 * BATCH;

/// The lowest inode number that only sockets have which are made from now on, modulo 2^32. Sockets made from now on may
/// still have lower ones. Nothing if it cannot be found out.
pub(super) fn first_new() -> Option<u32> {
    (0..TRIES)
        .filter_map(|_| next().ok())
        .find(|number| number % BATCH == 1)
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
        // More than all CPUs may still have of their batches.
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let mut last = 0;
        for _ in 0..BATCH as usize * (cpus + 1) {
            let (socket, _peer) = UnixStream::pair().expect("a socket");
            let file = File::from(std::os::fd::OwnedFd::from(socket));
            last = file.metadata().expect("a socket's inode").st_ino();
        }
        let last = u32::try_from(last & u64::from(u32::MAX)).expect("32 bits");
        assert!(last.wrapping_sub(first) < 1 << 31, "{last} {first}");
    }
}
