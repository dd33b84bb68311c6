//! The operator: runs the node agents of a cluster as its `HttpStatistics` resources say.
//!
//! [`api`] defines the resource and [`crd`] renders its definition. [`controller`] does the work: resources in, objects
//! and status out; [`lease`] sees to it that no two do. [`default_resource`] brings the one that an installation has.
//! [`server`] and [`metrics`] tell how it does; [`cli`] and [`run`] start and stop it.
#![forbid(unsafe_code)]

pub mod api;
pub mod cli;
pub mod controller;
pub mod crd;
pub mod default_resource;
pub mod lease;
pub mod metrics;
pub mod run;
pub mod server;
