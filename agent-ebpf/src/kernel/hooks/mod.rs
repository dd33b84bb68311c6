//! The ways in: each hook finds transport, direction, result, and where the bytes are, and hands that over.

pub mod fexit;
mod kprobe;
mod tracepoint;
