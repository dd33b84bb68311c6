//! Brings the cluster to what was built, and writes only where it differs.
//!
//! An object is compared with what the API server answered when it was last applied, not with what was built: servers
//! add defaults and write amounts in other units, and webhooks change more, so built and stored are never equal.
//! Whatever someone else changes since shows as a difference to that answer, and one write repairs it.
//! What a write would make of an object is asked in the same way, by a write that is not kept ([`Applier::replaces_pods`]).

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::build::FIELD_MANAGER;
use super::raw::Raw;
use crate::api::v1alpha1::{HttpStatistics, HttpStatisticsStatus};
use crate::lease::Leadership;
use crate::metrics::Metrics;

/// How long the API server may take for one write.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the cache may lag behind a write of ours until its content counts as someone else's change. Who was told that
/// it lags looks again then.
pub const CACHE_LAG: Duration = Duration::from_secs(5);

/// What is asked of the API server: `apply DaemonSet x`.
#[derive(Clone, Debug)]
pub struct Operation {
    verb: Verb,
    kind: String,
    name: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Verb {
    Apply,
    /// Only to see what would come of it.
    Try,
    Delete,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { verb, kind, name } = self;
        let verb = match verb {
            Verb::Apply => "apply",
            Verb::Try => "try out",
            Verb::Delete => "delete",
        };
        write!(f, "{verb} {kind} {name}")
    }
}

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
    #[error("failed to {operation}: {}", explain(.source))]
    Api {
        /// What.
        operation: Operation,
        /// Why.
        source: Box<kube::Error>,
    },
    /// It is no longer ours to write.
    #[error("failed to {operation}: this operator has lost the lease to write")]
    NoLease {
        /// What.
        operation: Operation,
    },
    /// The API server took too long.
    #[error("failed to {operation}: the API server did not answer within {WRITE_TIMEOUT:?}; trying again")]
    Timeout {
        /// What.
        operation: Operation,
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

/// How the objects of one resource were left. Whoever forgets it, asks once more.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// By kind and name.
    left: BTreeMap<(String, String), Left>,
    /// Whether what was asked for, of what was there, replaces pods; by name.
    replaces: BTreeMap<String, ((u64, u64), bool)>,
    /// The uid of what was deleted last: the cache may not have seen it.
    deleted: Option<String>,
}

impl Memory {
    /// Whether this very object was deleted.
    #[must_use]
    pub fn has_deleted(&self, object: &impl Resource) -> bool {
        self.deleted.is_some() && self.deleted == object.meta().uid
    }

    /// `object` as a watch saw it last, which may have been before the last write to it.
    #[must_use]
    pub fn recall<K: Resource<DynamicType = ()>>(&self, object: &Arc<K>) -> Applied<K> {
        let left = self.left.get(&key(&**object));
        Applied {
            object: Arc::clone(object),
            outdated: left.is_some_and(|left| object.meta().generation < left.generation),
        }
    }
}

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
    pub leadership: Leadership,
}

impl Applier {
    /// Whether `desired` is there already, as far as is known; then nothing is to be written. `cached` is what a watch saw last.
    ///
    /// # Errors
    /// When it is no JSON.
    pub fn unchanged<K>(
        &self,
        desired: &K,
        cached: Option<&Arc<K>>,
        memory: &Memory,
    ) -> Result<Option<Applied<K>>, Error>
    where
        K: Resource<DynamicType = ()> + Clone + Serialize,
    {
        let (kind, name) = key(desired);
        let asked = fingerprint_of(desired)?;
        let left = memory.left.get(&(kind, name)).filter(|left| left.asked == asked);
        if let Some(left) = left {
            let version = cached.and_then(|object| object.meta().resource_version.clone());
            let lags = left.replaced == replaced(version) && left.at.elapsed() < CACHE_LAG;
            match cached {
                Some(object) if lags || fingerprint_of(&**object)? == left.answered => {
                    return Ok(Some(Applied {
                        object: Arc::clone(object),
                        outdated: lags || object.meta().generation < left.generation,
                    }));
                }
                None if lags => {
                    return Ok(Some(Applied {
                        object: Arc::new(desired.clone()),
                        outdated: true,
                    }));
                }
                _ => {}
            }
        }
        // Until it is gone, there is no use in writing to it; its end is an event that brings us here again.
        Ok(cached
            .filter(|object| object.meta().deletion_timestamp.is_some())
            .map(|object| Applied {
                object: Arc::clone(object),
                outdated: true,
            }))
    }

    /// Whether the last write was of `desired`: if something else is there, it is the work of others.
    ///
    /// # Errors
    /// When it is no JSON.
    pub fn was_written<K>(&self, desired: &K, memory: &Memory) -> Result<bool, Error>
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        let asked = fingerprint_of(desired)?;
        Ok(memory
            .left
            .get(&key(desired))
            .is_some_and(|left| left.asked == asked))
    }

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
        if let Some(applied) = self.unchanged(desired, cached.as_ref(), memory)? {
            return Ok(applied);
        }
        let (kind, name) = key(desired);
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let object = self
            .timed(
                operation(Verb::Apply, desired),
                api.patch(&name, &parameters, &Patch::Apply(desired)),
            )
            .await?;
        tracing::info!(kind, name, "applied");
        let version = cached.and_then(|cached| cached.meta().resource_version.clone());
        let left = Left {
            asked: fingerprint_of(desired)?,
            answered: fingerprint_of(&object)?,
            generation: object.meta().generation,
            replaced: if version == object.meta().resource_version {
                Replaced::Nothing
            } else {
                replaced(version)
            },
            at: Instant::now(),
        };
        memory.left.insert((kind, name), left);
        Ok(Applied {
            object: Arc::new(object),
            outdated: false,
        })
    }

    /// Whether to write `desired` over `live` would change the template of its pods, and so replace them. The API server is
    /// asked, as only it knows its defaults and webhooks: once for each of both.
    ///
    /// # Errors
    /// When there is no answer, or it would refuse `desired`.
    pub async fn replaces_pods(
        &self,
        api: &Api<DaemonSet>,
        desired: &DaemonSet,
        live: &DaemonSet,
        memory: &mut Memory,
    ) -> Result<bool, Error> {
        let asked = (fingerprint_of(desired)?, fingerprint_of(live)?);
        let (_, name) = key(desired);
        if let Some((of, replaces)) = memory.replaces.get(&name)
            && *of == asked
        {
            return Ok(*replaces);
        }
        let parameters = PatchParams::apply(FIELD_MANAGER).force().dry_run();
        let answer = self
            .timed(
                operation(Verb::Try, desired),
                api.patch(&name, &parameters, &Patch::Apply(desired)),
            )
            .await;
        let template = |set: &DaemonSet| set.spec.as_ref().map(|spec| spec.template.clone());
        let replaces = match answer {
            Ok(answered) => template(&answered) != template(live),
            // A webhook that cannot be tried out. To take a harmless write for one that is not costs some time only.
            Err(Error::Api { source, .. }) if matches!(&*source, kube::Error::Api(status) if status.code == 400) => {
                true
            }
            Err(error) => return Err(error),
        };
        memory.replaces.insert(name, (asked, replaces));
        Ok(replaces)
    }

    /// Deletes this very object; Kubernetes deletes its pods.
    ///
    /// # Errors
    /// When it is still there.
    pub async fn delete(
        &self,
        api: &Api<DaemonSet>,
        object: &DaemonSet,
        memory: &mut Memory,
    ) -> Result<(), Error> {
        let (kind, name) = key(object);
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: object.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::background()
        };
        let answer = self
            .timed(operation(Verb::Delete, object), api.delete(&name, &parameters))
            .await;
        match answer {
            Ok(_) => tracing::info!(kind, name, "deleted"),
            // It is gone, or another one is there.
            Err(Error::Api { source, .. }) if matches!(&*source, kube::Error::Api(status) if [404, 409].contains(&status.code)) =>
                {}
            Err(error) => return Err(error),
        }
        memory.deleted.clone_from(&object.metadata.uid);
        memory.left.remove(&(kind, name));
        Ok(())
    }

    /// Writes the status. It names the uid, so that it never lands on another resource of the same name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn write_status(&self, resource: &Raw, status: &HttpStatisticsStatus) -> Result<(), Error> {
        let name = resource.metadata.name.clone().unwrap_or_default();
        let operation = Operation {
            verb: Verb::Apply,
            kind: "HttpStatistics/status".to_owned(),
            name: name.clone(),
        };
        let patch = Patch::Apply(json!({
            "apiVersion": HttpStatistics::api_version(&()),
            "kind": HttpStatistics::kind(&()),
            "metadata": {"name": name, "uid": resource.metadata.uid},
            "status": status,
        }));
        let api = Api::<Raw>::all(self.client.clone());
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let write = api.patch_status(&name, &parameters, &patch);
        self.timed(operation, write).await?;
        Ok(())
    }

    async fn timed<T>(
        &self,
        operation: Operation,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        if !self.leadership.lasts() {
            return Err(Error::NoLease { operation });
        }
        let start = Instant::now();
        let answer = tokio::time::timeout(WRITE_TIMEOUT, request).await;
        if operation.verb != Verb::Try {
            self.metrics.wrote(&operation.kind, start.elapsed());
        }
        match answer {
            Err(_elapsed) => Err(Error::Timeout { operation }),
            Ok(Err(source)) => Err(Error::Api {
                operation,
                source: Box::new(source),
            }),
            Ok(Ok(object)) => Ok(object),
        }
    }
}

/// Kind and name.
fn key<K: Resource<DynamicType = ()>>(object: &K) -> (String, String) {
    (
        K::kind(&()).into_owned(),
        object.meta().name.clone().unwrap_or_default(),
    )
}

fn operation(verb: Verb, object: &impl Resource<DynamicType = ()>) -> Operation {
    let (kind, name) = key(object);
    Operation { verb, kind, name }
}

fn replaced(version: Option<String>) -> Replaced {
    version.map_or(Replaced::NoObject, Replaced::Version)
}

fn fingerprint_of<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Result<u64, Error> {
    fingerprint(object).map_err(|source| {
        let (kind, name) = key(object);
        Error::Json { kind, name, source }
    })
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
