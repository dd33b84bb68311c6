//! What is known of that over which bytes go: identity, positions, how it ends.

pub mod socket;
