//! The compiled programs.

/// The programs, compiled by the build script.
#[cfg(not(bpf_stub))]
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/http-statistics"));

/// Nothing: the build script found no BPF toolchain.
#[cfg(bpf_stub)]
pub(super) static OBJECT: &[u8] = &[];
