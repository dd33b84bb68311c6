//! Brings the cluster to what was built, and writes only where it differs.
//!
//! An object is compared with what the API server answered when it was last applied, not with what was built: API servers
//! add defaults and write amounts in other units, and webhooks change more, so that built and stored objects never are equal.
//! Whatever someone else changes since then shows as a difference to that answer, and one write repairs it.
//! What a write would make of an object is asked in the same way, by a write that is not kept ([`Applier::replaces_pods`]).

mod error;
mod writes;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

pub(crate) use self::error::Error;
use self::error::{Operation, Verb};
pub(crate) use self::writes::{Applied, CACHE_LAG, Writes};
use super::build::Objects;
use super::raw::Raw;
use crate::api::v1alpha1::{HttpStatistics, HttpStatisticsStatus};
use crate::api_error::ANSWER_TIMEOUT;
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::names::FIELD_MANAGER;

/// Objects of a resource as the caches have them, as far as they exist.
pub(super) struct Cached {
    pub(super) service_account: Option<Arc<ServiceAccount>>,
    pub(super) binding: Option<Arc<ClusterRoleBinding>>,
    pub(super) config_map: Option<Arc<ConfigMap>>,
}

/// Applies what a resource owns, but for its `DaemonSets`: the rollout decides when those may be written. Returns whether a cache
/// has not seen the last write to one of the objects.
///
/// # Errors
/// When one of them cannot be written. The ones before it are as they should be.
pub(super) async fn apply(
    applier: &Applier,
    objects: &Objects,
    cached: &Cached,
    writes: &mut Writes,
) -> Result<bool, Error> {
    let Objects {
        service_account,
        binding,
        config_map,
        daemon_set: _,
        surge: _,
    } = objects;
    let there = cached.service_account.clone();
    let account = applier
        .apply(&applier.api(), service_account, there, writes)
        .await?;
    let bindings = Api::all(applier.client.clone());
    let there = cached.binding.clone();
    let binding = applier.apply(&bindings, binding, there, writes).await?;
    let there = cached.config_map.clone();
    let map = applier.apply(&applier.api(), config_map, there, writes).await?;
    Ok(account.outdated || binding.outdated || map.outdated)
}

/// Writes to the API server, with one field manager, for as long as this operator leads.
#[derive(Clone)]
pub(crate) struct Applier {
    pub(crate) client: kube::Client,
    /// Where the objects of all resources are.
    pub(crate) namespace: String,
    /// Counts the writes.
    pub(crate) metrics: Metrics,
    /// Until when there may be any.
    pub(crate) leadership: Leadership,
}

impl Applier {
    /// The objects of a kind in the operator's namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes sure that `desired` is there. `cached` is what a watch saw last.
    ///
    /// # Errors
    /// When it cannot be written. It is then as it was, or as it should be.
    pub(crate) async fn apply<K>(
        &self,
        api: &Api<K>,
        desired: &K,
        cached: Option<Arc<K>>,
        writes: &mut Writes,
    ) -> Result<Applied<K>, Error>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
    {
        if let Some(applied) = writes.unchanged(desired, cached.as_ref())? {
            return Ok(applied);
        }
        let operation = Operation::on(Verb::Apply, desired);
        let name = desired.meta().name.as_deref().unwrap_or_default();
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(desired);
        let object = self
            .timed(operation, api.patch(name, &parameters, &patch))
            .await?;
        tracing::info!(kind = &*K::kind(&()), name, "applied");
        writes.written(desired, cached.as_ref(), &object)?;
        Ok(Applied {
            object: Arc::new(object),
            outdated: false,
        })
    }

    /// Whether to write `desired` over `live` would change the template of its pods, and so replace them. The API server is
    /// asked, as only it knows its defaults and webhooks: once for each pair.
    ///
    /// # Errors
    /// When there is no answer, or the API server would refuse `desired`.
    pub(crate) async fn replaces_pods(
        &self,
        api: &Api<DaemonSet>,
        desired: &DaemonSet,
        live: &DaemonSet,
        writes: &mut Writes,
    ) -> Result<bool, Error> {
        let (key, known) = writes.replaces_pods(desired, live)?;
        if let Some(replaces) = known {
            return Ok(replaces);
        }
        let operation = Operation::on(Verb::Try, desired);
        let name = desired.metadata.name.as_deref().unwrap_or_default();
        let parameters = PatchParams::apply(FIELD_MANAGER).force().dry_run();
        let patch = Patch::Apply(desired);
        let answer = self.timed(operation, api.patch(name, &parameters, &patch)).await;
        let template = |set: &DaemonSet| set.spec.as_ref().map(|spec| spec.template.clone());
        let replaces = match answer {
            Ok(tried) => template(&tried) != template(live),
            // A webhook that cannot be tried out. To take a harmless write for one that replaces pods only costs some time.
            Err(error) if error.is_status(&[400]) => true,
            Err(error) => return Err(error),
        };
        writes.keep_answer(desired, key, replaces);
        Ok(replaces)
    }

    /// Deletes this very object. Kubernetes deletes its pods.
    ///
    /// # Errors
    /// When the object is still there.
    pub(crate) async fn delete(
        &self,
        api: &Api<DaemonSet>,
        object: &DaemonSet,
        writes: &mut Writes,
    ) -> Result<(), Error> {
        let operation = Operation::on(Verb::Delete, object);
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: object.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::background()
        };
        match self.timed(operation, api.delete(name, &parameters)).await {
            Ok(_) => tracing::info!(kind = &*DaemonSet::kind(&()), name, "deleted"),
            // It is gone, or another one is there by now.
            Err(error) if error.is_status(&[404, 409]) => {}
            Err(error) => return Err(error),
        }
        writes.deleted(object);
        Ok(())
    }

    /// Writes the status. The write names the uid, so that it never lands on another resource of the same name.
    ///
    /// # Errors
    /// When the status cannot be written.
    pub(crate) async fn write_status(
        &self,
        resource: &Raw,
        status: &HttpStatisticsStatus,
    ) -> Result<(), Error> {
        let name = resource.metadata.name.as_deref().unwrap_or_default();
        let operation = Operation::new(Verb::Apply, "HttpStatistics/status", name);
        let patch = Patch::Apply(json!({
            "apiVersion": HttpStatistics::api_version(&()),
            "kind": HttpStatistics::kind(&()),
            "metadata": {"name": name, "uid": resource.metadata.uid},
            "status": status,
        }));
        let api = Api::<Raw>::all(self.client.clone());
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        self.timed(operation, api.patch_status(name, &parameters, &patch))
            .await?;
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
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, request).await;
        if operation.verb != Verb::Try {
            self.metrics.wrote(&operation.kind, start.elapsed());
        }
        match answer {
            Err(_elapsed) => Err(Error::Timeout { operation }),
            Ok(Err(error)) => Err(Error::Api {
                operation,
                source: error.into(),
            }),
            Ok(Ok(object)) => Ok(object),
        }
    }
}
