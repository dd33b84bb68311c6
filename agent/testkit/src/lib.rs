//! What the agent's tests and benches share. A function that cannot go on has failed the test, and panics.
#![allow(
    missing_docs,
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    clippy::must_use_candidate,
    clippy::new_without_default,
    clippy::return_self_not_must_use,
    clippy::unwrap_used,
    clippy::panic,
    reason = "part of tests"
)]

pub mod apiserver;
pub mod bench;
pub mod containers;
pub mod live;
pub mod results;
pub mod turn;
pub mod world;
