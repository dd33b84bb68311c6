//! The operator: the `HttpStatistics` resource that describes how the node agents of a cluster should run.
//!
//! This version defines the resource ([`api`]) and generates its `CustomResourceDefinition` ([`crd`]). It has no
//! controller yet: nothing acts on the resource, and the binary says so when it is started without a command.
#![forbid(unsafe_code)]

pub mod api;
pub mod cli;
pub mod crd;
