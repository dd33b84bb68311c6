//! What needs no cluster: the library from outside, with files and a mock API server in a cluster's place.
#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in test functions, not in those they call"
)]

mod crd;
mod faults;
mod manifests;
mod objects;
