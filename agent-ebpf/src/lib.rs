//! The kernel half of the agent, as far as it can be had without a kernel: the contract between the eBPF
//! programs and user space ([`abi`]) and the HTTP framing engine ([`http`]).
//!
//! This library is compiled twice: into the eBPF programs (`src/main.rs`, `no_std`, no allocation, every loop
//! bounded) and for the host, where it is tested. Nothing in it knows where bytes come from or what a socket is.
#![cfg_attr(target_arch = "bpf", no_std)]
#![expect(
    clippy::inline_always,
    reason = "a call costs an eBPF program more than its copy, and one decides where calls are"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "bytes are taken out of words by casts, and offsets fit"
)]

pub mod abi;
pub mod http;
