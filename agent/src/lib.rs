//! The node agent: counts HTTP requests and responses per process in the kernel and serves the rates to Weave Scope.
//!
//! One direction of flow: [`bpf`] (counters in the kernel) → [`sampler`] (reads them once per interval) → [`stats`]
//! (rates and totals by [`workload`], told by [`process`]) → [`report`], [`totals`], [`overview`] and [`metrics`], with
//! names from [`pods`] → [`server`] (the plugin's socket, and a port for metrics).
//! [`config`] and [`cli`] stand before it, [`reload`] changes what it goes by while it runs, [`client`] asks a running
//! agent.

pub mod bpf;
pub mod cli;
pub mod client;
pub mod config;
mod error_chain;
pub mod host;
pub mod metrics;
pub mod overview;
pub mod pods;
pub mod process;
pub mod reload;
pub mod report;
pub mod run;
pub mod sampler;
pub mod server;
pub mod stats;
pub mod totals;
pub mod workload;
