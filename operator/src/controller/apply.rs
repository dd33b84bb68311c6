//! Brings the cluster to what was built, and writes only where it differs.
//!
//! An object is compared with what the API server answered when it was last applied, not with what was built: servers
//! add defaults and write amounts in other units, and webhooks change more, so built and stored are never equal.
//! Whatever someone else changes since shows as a difference to that answer, and one write repairs it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::build::FIELD_MANAGER;
use super::unchecked::Unchecked;
use crate::api::v1alpha1::{HttpStatistics, HttpStatisticsStatus};
use crate::lease::Tenure;
use crate::metrics::Metrics;

/// How long the API server may take for one write.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the cache may lag behind a write of ours until its content counts as someone else's change. Who was told that
/// it lags looks again then.
pub const CACHE_LAG: Duration = Duration::from_secs(5);

/// Why an object could not be written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no JSON.
    #[error("failed to write {kind} {name} as JSON")]
    Json {
        /// What.
        kind: String,
        /// Which.
        name: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The API server said no, or nothing at all.
    #[error("failed to apply {kind} {name}: {}", explain(.source))]
    Api {
        /// What.
        kind: String,
        /// Which.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// It is no longer ours to write.
    #[error("failed to apply {kind} {name}: this operator has lost the lease to write")]
    NoLease {
        /// What.
        kind: String,
        /// Which.
        name: String,
    },
    /// The API server took too long.
    #[error(
        "failed to apply {kind} {name}: the API server did not answer within {WRITE_TIMEOUT:?}; trying again"
    )]
    Timeout {
        /// What.
        kind: String,
        /// Which.
        name: String,
    },
}

/// What went wrong and what a person can do about it, where that can be known.
pub(crate) fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            format!(
                "{}: give the operator the roles of its installation",
                status.message
            )
        }
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        error => error.to_string(),
    }
}

impl Error {
    /// Of a small set, for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Json { .. } => "json",
            Self::NoLease { .. } => "lease",
            Self::Timeout { .. } => "timeout",
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status) => match status.code {
                    403 => "forbidden",
                    404 => "not_found",
                    409 => "conflict",
                    422 => "invalid",
                    429 => "throttled",
                    500.. => "server",
                    _ => "refused",
                },
                _ => "connection",
            },
        }
    }

    /// How long the API server asks to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let Self::Api { source, .. } = self else {
            return None;
        };
        match &**source {
            kube::Error::Api(status) => status
                .details
                .as_ref()
                .map(|details| Duration::from_secs(details.retry_after_seconds.into()))
                .filter(|wait| !wait.is_zero()),
            _ => None,
        }
    }
}

/// What a write of ours took the place of.
#[derive(Clone, Debug, PartialEq)]
enum Replaced {
    /// Nothing: all was as it should be.
    Nothing,
    /// No object.
    NoObject,
    /// This resource version.
    Version(String),
}

/// How an object was left at the last write.
#[derive(Clone, Debug)]
struct Left {
    /// What was asked for.
    asked: u64,
    /// What the API server made of it.
    answered: u64,
    generation: Option<i64>,
    /// What was in the cache then: while it is still there, the cache has not seen the write.
    replaced: Replaced,
    at: Instant,
}

/// How the objects of one resource were left.
#[derive(Clone, Debug, Default)]
pub struct Memory(BTreeMap<String, Left>);

/// An object after [`Applier::apply`].
#[derive(Debug)]
pub struct Applied<K> {
    /// The newest that is known of it.
    pub object: Arc<K>,
    /// Not what the last write made of it: the cache has not seen that yet.
    pub outdated: bool,
}

/// Writes with one field manager.
#[derive(Clone)]
pub struct Applier {
    /// Who is written to.
    pub client: kube::Client,
    /// Counts the writes.
    pub metrics: Metrics,
    /// Until when there may be any.
    pub tenure: Tenure,
}

impl Applier {
    /// Makes sure that `desired` is there. `cached` is what a watch saw last.
    ///
    /// # Errors
    /// When it cannot be written; it is then as it was, or as it should be.
    pub async fn apply<K>(
        &self,
        api: &Api<K>,
        desired: &K,
        cached: Option<Arc<K>>,
        memory: &mut Memory,
    ) -> Result<Applied<K>, Error>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
    {
        let kind = K::kind(&()).into_owned();
        let name = desired.meta().name.clone().unwrap_or_default();
        let json = |source| Error::Json {
            kind: kind.clone(),
            name: name.clone(),
            source,
        };
        let asked = fingerprint(desired).map_err(json)?;
        let left = memory.0.get(&kind).filter(|left| left.asked == asked);
        if let Some(left) = left {
            let version = cached
                .as_ref()
                .and_then(|object| object.meta().resource_version.clone());
            let lags = left.replaced == replaced(version) && left.at.elapsed() < CACHE_LAG;
            match &cached {
                Some(object) if lags || fingerprint(&**object).map_err(json)? == left.answered => {
                    return Ok(Applied {
                        object: Arc::clone(object),
                        outdated: lags || object.meta().generation < left.generation,
                    });
                }
                None if lags => {
                    return Ok(Applied {
                        object: Arc::new(desired.clone()),
                        outdated: true,
                    });
                }
                _ => {}
            }
        }
        // Until it is gone, there is no use in writing to it; its end is an event that brings us here again.
        if let Some(object) = &cached
            && object.meta().deletion_timestamp.is_some()
        {
            return Ok(Applied {
                object: Arc::clone(object),
                outdated: true,
            });
        }
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let object = self
            .timed(
                &kind,
                &name,
                api.patch(&name, &parameters, &Patch::Apply(desired)),
            )
            .await?;
        let answered = fingerprint(&object).map_err(json)?;
        tracing::info!(kind, name, "applied");
        let version = cached.and_then(|cached| cached.meta().resource_version.clone());
        let left = Left {
            asked,
            answered,
            generation: object.meta().generation,
            replaced: if version == object.meta().resource_version {
                Replaced::Nothing
            } else {
                replaced(version)
            },
            at: Instant::now(),
        };
        memory.0.insert(kind, left);
        Ok(Applied {
            object: Arc::new(object),
            outdated: false,
        })
    }

    /// Writes the status. It names the uid, so that it never lands on another resource of the same name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn write_status(
        &self,
        resource: &Unchecked,
        status: &HttpStatisticsStatus,
    ) -> Result<(), Error> {
        let kind = "HttpStatistics/status";
        let name = resource.metadata.name.clone().unwrap_or_default();
        let patch = Patch::Apply(json!({
            "apiVersion": HttpStatistics::api_version(&()),
            "kind": HttpStatistics::kind(&()),
            "metadata": {"name": name, "uid": resource.metadata.uid},
            "status": status,
        }));
        let api = Api::<Unchecked>::all(self.client.clone());
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let write = api.patch_status(&name, &parameters, &patch);
        self.timed(kind, &name, write).await?;
        Ok(())
    }

    async fn timed<T>(
        &self,
        kind: &str,
        name: &str,
        write: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        if !self.tenure.lasts() {
            let (kind, name) = (kind.to_owned(), name.to_owned());
            return Err(Error::NoLease { kind, name });
        }
        let start = Instant::now();
        let answer = tokio::time::timeout(WRITE_TIMEOUT, write).await;
        self.metrics.wrote(kind, start.elapsed());
        let (kind, name) = (kind.to_owned(), name.to_owned());
        match answer {
            Err(_elapsed) => Err(Error::Timeout { kind, name }),
            Ok(Err(source)) => Err(Error::Api {
                kind,
                name,
                source: Box::new(source),
            }),
            Ok(Ok(object)) => Ok(object),
        }
    }
}

fn replaced(version: Option<String>) -> Replaced {
    version.map_or(Replaced::NoObject, Replaced::Version)
}

/// Of everything that people and programs write: not what the server keeps about it, and not the status.
fn fingerprint(object: &impl Serialize) -> Result<u64, serde_json::Error> {
    let mut value = serde_json::to_value(object)?;
    if let Some(object) = value.as_object_mut() {
        object.retain(|key, _| !["apiVersion", "kind", "status"].contains(&key.as_str()));
        if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            metadata.retain(|key, _| ["labels", "annotations", "ownerReferences"].contains(&key.as_str()));
        }
    }
    let mut hasher = DefaultHasher::new();
    value.to_string().hash(&mut hasher);
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_keeps_is_no_difference_but_any_other_change_is() {
        let object = |change: &dyn Fn(&mut Value)| {
            let mut value = json!({
                "metadata": {"name": "a", "labels": {"a": "b"}, "resourceVersion": "1", "uid": "u"},
                "spec": {"replicas": 1},
                "status": {"ready": 0},
            });
            change(&mut value);
            fingerprint(&value).unwrap()
        };
        let same = object(&|_| ());
        assert_eq!(
            same,
            object(&|value| value["metadata"]["resourceVersion"] = json!("2"))
        );
        assert_eq!(
            same,
            object(&|value| value["metadata"]["managedFields"] = json!([{}]))
        );
        assert_eq!(same, object(&|value| value["status"]["ready"] = json!(3)));
        assert_ne!(
            same,
            object(&|value| value["metadata"]["labels"]["a"] = json!("c"))
        );
        assert_ne!(
            same,
            object(&|value| value["metadata"]["ownerReferences"] = json!([]))
        );
        assert_ne!(same, object(&|value| value["spec"]["replicas"] = json!(2)));
        assert_ne!(same, object(&|value| value["data"] = json!({})));
    }
}
