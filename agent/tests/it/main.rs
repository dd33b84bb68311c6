//! What needs neither root nor programs in the kernel: the library from outside, with all that is real but the kernel.

mod pods;
mod report;
mod scope;
mod socket;
