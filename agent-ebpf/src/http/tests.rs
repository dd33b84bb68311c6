//! What is counted, from the outside: only [`advance`](super::advance), [`advance_unseen`](super::advance_unseen)
//! and the [`Connection`](super::Connection) are used, so that the insides may change.
//!
//! The numbers in comments are rows of the accuracy table.

mod bodies;
mod conversation;
mod damage;
mod foreign;
mod losses;
mod messages;
mod middle;
mod parsers;
mod properties;
mod tunnels;
