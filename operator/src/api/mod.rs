//! The Kubernetes API of group `scope-http-statistics.dev`, one module per version.

pub mod v1alpha1;
