//! The real agent with programs in the kernel of this machine, or of a guest (`VM_KERNELS`, `cargo xtask vm`). As root.
//!
//! An agent counts all of the machine, so tests of two modules never overlap ([`testkit::turn`]), and `cargo xtask test` runs a
//! module at a time: `cargo test --test privileged -- top::`.

mod cli;
mod containers;
mod hooks;
mod log;
mod metrics;
mod pid_namespace;
mod reload;
mod saturation;
mod servers;
mod standby;
mod top;
mod verifier;
