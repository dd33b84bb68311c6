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
    /// The API server's own part: always there, and always right.
    pub metadata: ObjectMeta,
    /// Whatever was written; [`super::validate`] makes a spec of it.
    #[serde(default)]
    pub spec: Value,
    /// Whatever was written, usually by this operator.
    #[serde(default)]
    pub status: Value,
}

impl Raw {
    /// The status that was written last; an empty one if there is none that can be read.
    pub(crate) fn status(&self) -> HttpStatisticsStatus {
        HttpStatisticsStatus::deserialize(&self.status).unwrap_or_default()
    }
}
