//! Everything that runs in the kernel.
//!
//! A hook ([`fexit`], [`kprobe`], [`tracepoint`]) says that a task has moved bytes over a socket and where in its
//! memory they are; [`call`] takes the connection's framing state over them; [`process`] says who is counted.

mod call;
mod connections;
mod fexit;
mod flags;
mod handled;
mod kprobe;
mod memory;
mod process;
mod registers;
mod settings;
mod tracepoint;
