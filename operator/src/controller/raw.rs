//! An `HttpStatistics` as the API server hands it out, whatever is in it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::v1alpha1::{HttpStatistics, HttpStatisticsStatus};

/// Any `HttpStatistics`. If its spec had to be right to be read, one bad resource would break the watch for all.
#[derive(Clone, Debug, Default, Deserialize, Resource, Serialize)]
#[resource(inherit = "HttpStatistics")]
pub struct Raw {
    /// As of any object.
    pub metadata: ObjectMeta,
    /// Not yet a spec.
    #[serde(default)]
    pub spec: Value,
    /// Not yet a status.
    #[serde(default)]
    pub status: Value,
}

impl Raw {
    /// The status that it has; none if nobody wrote one that can be read.
    #[must_use]
    pub fn status(&self) -> HttpStatisticsStatus {
        HttpStatisticsStatus::deserialize(&self.status).unwrap_or_default()
    }
}
