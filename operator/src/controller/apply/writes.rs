//! What is remembered of the writes to the objects of one resource, and how an object is compared with what was written.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Resource;
use serde::Serialize;
use serde_json::Value;

use super::error::{Error, kind_and_name};

/// How long the cache may lag behind a write of the operator. After that, what it shows counts as someone else's change. A resource
/// whose caches lag is reconciled again then.
pub(crate) const CACHE_LAG: Duration = Duration::from_secs(5);

/// The newest that is known of an object.
#[derive(Debug)]
pub(crate) struct Applied<K> {
    pub(crate) object: Arc<K>,
    /// Whether the object is older than the last write to it: the cache has not seen that write yet.
    pub(crate) outdated: bool,
}

/// The writes to the objects of one resource. If they are forgotten, each object is written once more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writes {
    /// By kind and name.
    last: BTreeMap<(String, String), Write>,
    /// By name of a `DaemonSet`: whether a write would replace its pods, for the fingerprints of what was to be written and of
    /// what was there.
    replaces_pods: BTreeMap<String, ((u64, u64), bool)>,
    /// The uid of the object that was deleted last. The cache may still have it.
    deleted: Option<String>,
}

/// The last write to an object.
#[derive(Clone, Debug)]
struct Write {
    /// Fingerprint of what was sent.
    sent: u64,
    /// Fingerprint of what the API server made of it.
    stored: u64,
    generation: Option<i64>,
    superseded: Superseded,
    at: Instant,
}

/// What the cache held when an object was written. While it still does, it has not seen the write.
#[derive(Clone, Debug, PartialEq)]
enum Superseded {
    /// Already the result of the write, which therefore changed nothing.
    Nothing,
    NoObject,
    ResourceVersion(String),
}

impl From<Option<String>> for Superseded {
    fn from(version: Option<String>) -> Self {
        version.map_or(Self::NoObject, Self::ResourceVersion)
    }
}

impl Writes {
    /// Whether this very object was deleted.
    pub(crate) fn has_deleted(&self, object: &impl Resource) -> bool {
        self.deleted.is_some() && self.deleted == object.meta().uid
    }

    /// `object` as a watch saw it last, which may have been before the last write to it.
    pub(crate) fn recall<K: Resource<DynamicType = ()>>(&self, object: &Arc<K>) -> Applied<K> {
        let last = self.last.get(&kind_and_name(&**object));
        Applied {
            object: Arc::clone(object),
            outdated: last.is_some_and(|last| object.meta().generation < last.generation),
        }
    }

    /// Nothing if `desired` has to be written. Otherwise the object that makes that unnecessary: because it is as desired, as far
    /// as is known, or because it is being deleted. `cached` is what a watch saw last.
    ///
    /// # Errors
    /// When an object cannot be written as JSON.
    pub(crate) fn unchanged<K>(
        &self,
        desired: &K,
        cached: Option<&Arc<K>>,
    ) -> Result<Option<Applied<K>>, Error>
    where
        K: Resource<DynamicType = ()> + Clone + Serialize,
    {
        if let Some(last) = self.last_of(desired)? {
            let lags =
                last.superseded == Superseded::from(version_of(cached)) && last.at.elapsed() < CACHE_LAG;
            match cached {
                Some(object) if lags || fingerprint(&**object)? == last.stored => {
                    return Ok(Some(Applied {
                        object: Arc::clone(object),
                        outdated: lags || object.meta().generation < last.generation,
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
        // Until it is gone, writing to it is of no use. Its end is an event that starts another reconcile.
        let being_deleted = cached.filter(|object| object.meta().deletion_timestamp.is_some());
        Ok(being_deleted.map(|object| Applied {
            object: Arc::clone(object),
            outdated: true,
        }))
    }

    /// Whether the last write was of `desired`. If the object differs all the same, someone else has changed it.
    ///
    /// # Errors
    /// When `desired` cannot be written as JSON.
    pub(crate) fn was_written<K>(&self, desired: &K) -> Result<bool, Error>
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        Ok(self.last_of(desired)?.is_some())
    }

    /// The last write to the object, if it was of `desired`.
    fn last_of<K>(&self, desired: &K) -> Result<Option<&Write>, Error>
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        let sent = fingerprint(desired)?;
        let last = self.last.get(&kind_and_name(desired));
        Ok(last.filter(|last| last.sent == sent))
    }

    /// `desired` was written over `cached`, and became `stored`.
    pub(super) fn written<K>(&mut self, desired: &K, cached: Option<&Arc<K>>, stored: &K) -> Result<(), Error>
    where
        K: Resource<DynamicType = ()> + Serialize,
    {
        let version = version_of(cached);
        let write = Write {
            sent: fingerprint(desired)?,
            stored: fingerprint(stored)?,
            generation: stored.meta().generation,
            superseded: if version == stored.meta().resource_version {
                Superseded::Nothing
            } else {
                version.into()
            },
            at: Instant::now(),
        };
        self.last.insert(kind_and_name(desired), write);
        Ok(())
    }

    /// What the API server has said of a write of `desired` over `live`, with the key under which its answer is kept.
    pub(super) fn replaces_pods(
        &self,
        desired: &DaemonSet,
        live: &DaemonSet,
    ) -> Result<((u64, u64), Option<bool>), Error> {
        let key = (fingerprint(desired)?, fingerprint(live)?);
        let (_, name) = kind_and_name(desired);
        let known = self.replaces_pods.get(&name).filter(|(of, _)| *of == key);
        Ok((key, known.map(|(_, replaces)| *replaces)))
    }

    pub(super) fn keep_answer(&mut self, desired: &DaemonSet, key: (u64, u64), replaces_pods: bool) {
        let (_, name) = kind_and_name(desired);
        self.replaces_pods.insert(name, (key, replaces_pods));
    }

    pub(super) fn deleted(&mut self, object: &DaemonSet) {
        self.deleted.clone_from(&object.metadata.uid);
        self.last.remove(&kind_and_name(object));
    }
}

fn version_of<K: Resource>(cached: Option<&Arc<K>>) -> Option<String> {
    cached.and_then(|object| object.meta().resource_version.clone())
}

fn fingerprint<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Result<u64, Error> {
    serde_json::to_value(object)
        .map(fingerprint_of)
        .map_err(|source| {
            let (kind, name) = kind_and_name(object);
            Error::Json { kind, name, source }
        })
}

/// Of all that people and programs write: neither of what the API server keeps about an object nor of its status.
fn fingerprint_of(mut value: Value) -> u64 {
    if let Some(object) = value.as_object_mut() {
        object.retain(|key, _| !["apiVersion", "kind", "status"].contains(&key.as_str()));
        if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            metadata.retain(|key, _| ["labels", "annotations", "ownerReferences"].contains(&key.as_str()));
        }
    }
    let mut hasher = DefaultHasher::new();
    value.to_string().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
            fingerprint_of(value)
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
