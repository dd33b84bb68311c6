//! Everything that runs in the kernel, in the order in which a call comes by.
//!
//! A hook ([`hooks`]) says that a task has moved bytes over a socket and where in its memory they are. [`transfer`] finds the
//! connection ([`connections`], of which [`transport`] knows the socket) and the first byte ([`iovec`]); [`dispatcher`] runs the
//! engine over what [`reader`] copies; [`counters`] count what was found for the process that [`attribution`] names.

mod attribution;
mod connections;
mod counters;
mod dispatcher;
mod flags;
mod hooks;
mod iovec;
mod layout;
mod memory;
mod program;
mod reader;
mod reentry;
mod registers;
mod transfer;
mod transport;
