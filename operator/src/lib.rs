//! The operator: runs the node agents of a cluster as its `HttpStatistics` resources say.
//!
//! [`api`] defines the resource and [`crd`] renders its definition. [`controller`] does the work: resources in, objects
//! and status out; [`leader`] sees to it that no two do. `default_resource` brings the one that an installation has.
//! `server` and [`metrics`] tell how it does; [`cli`] and `run` start and stop it. [`names`], `api_error` and `error_chain` are
//! what several of them need.
#![forbid(unsafe_code)]

pub mod api;
mod api_error;
pub mod cli;
pub mod controller;
pub mod crd;
mod default_resource;
mod error_chain;
pub mod leader;
pub mod metrics;
pub mod names;
mod run;
mod server;
