//! The resource that an installation brings.
//!
//! Helm cannot install a resource whose definition comes with the same release: it asks the API server for every kind
//! before it writes anything. So the chart hands it to the operator, as a file. An object of the release owns it: when
//! Kubernetes deletes that one, because the release is gone or brings no resource any more, it deletes the resource too.
//!
//! Kubernetes' garbage collector learns of new definitions every 30 s. If a definition comes and goes in between, the garbage
//! collector never deletes what resources of that kind own: privileged pods would stay for ever. So while the resource is young,
//! it has the garbage collector's own finalizer. If it is then deleted along with its definition, both stay until the garbage
//! collector has heard of them. It does not have the finalizer for longer, because that makes a `DaemonSet` wait for its pods, and
//! those of a dead node never go.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::core::ApiResource;
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::api::v1alpha1::HttpStatistics;
use crate::api_error::ApiError;
use crate::error_chain::error_chain;

/// Its field manager: neither the operator's own, nor that of people.
const FIELD_MANAGER: &str = "scope-http-statistics-default";
/// The field manager of the finalizer alone: to take that away must not touch what others have made of the rest meanwhile.
const FINALIZER_MANAGER: &str = "scope-http-statistics-young";
/// The garbage collector's own finalizer, which it removes itself: `FinalizerDeleteDependents` in k8s.io/apimachinery.
const FINALIZER: &str = "foregroundDeletion";
/// How long a resource is young: four times the period in which the garbage collector looks for definitions
/// (`startGarbageCollectorController`).
const YOUTH: Duration = Duration::from_mins(2);
/// The pause between two attempts, at first and at most. Usually it is the definition that is not there yet.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Why a file has no resource to apply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no such file, or the operator may not read it.
    #[error("failed to read the default resource from {}: mount it there, or leave --default-resource out", .path.display())]
    Read { path: PathBuf, source: io::Error },
    /// It is not YAML.
    #[error("failed to read the default resource from {} as YAML: correct it", .path.display())]
    Yaml {
        path: PathBuf,
        source: Box<serde_saphyr::Error>, // it is large
    },
    /// It is no `HttpStatistics` of this version, or has no name.
    #[error("{} has no HttpStatistics of {} with a name: correct it", .path.display(), "scope-http-statistics.dev/v1alpha1")]
    Kind { path: PathBuf },
}

/// A resource to be applied once.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DefaultResource {
    name: String,
    // As it was written: a field that we do not know is for the API server to judge.
    manifest: Value,
    owner: Option<String>,
}

impl DefaultResource {
    /// Reads it from a YAML file. `owner` is the name of the `ClusterRole` that will own it.
    ///
    /// # Errors
    /// When there is no such file, or something else in it.
    pub(crate) fn read(path: &Path, owner: Option<String>) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        let manifest: Value = serde_saphyr::from_str(&text).map_err(|source| Error::Yaml {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        let kind = ApiResource::erase::<HttpStatistics>(&());
        match manifest["metadata"]["name"].as_str() {
            Some(name)
                if manifest["kind"] == kind.kind.as_str()
                    && manifest["apiVersion"] == kind.api_version.as_str() =>
            {
                Ok(Self {
                    name: name.to_owned(),
                    manifest,
                    owner,
                })
            }
            _ => Err(Error::Kind {
                path: path.to_owned(),
            }),
        }
    }

    /// Applies it, over whatever others have made of its fields, and sees it through its youth. Tries until that succeeds.
    pub(crate) async fn apply(self, client: Client) {
        let resource = self
            .persist("apply the default resource", || self.try_apply(&client))
            .await;
        tracing::info!(name = self.name, "applied the default resource");
        let youth = youth_left(resource.creation_timestamp().map(|time| time.0), Timestamp::now());
        if youth.is_zero() && !resource.finalizers().iter().any(|one| one == FINALIZER) {
            return;
        }
        if !youth.is_zero() {
            let end = Instant::now() + youth;
            let set = self.persist("give the default resource its finalizer", || {
                self.set_finalizer(&client, &resource, true)
            });
            // Once the resource is no longer young, the finalizer is of no use.
            let _in_time = timeout_at(end, set).await.is_ok();
            sleep_until(end).await;
        }
        self.persist("take the default resource's finalizer away", || {
            self.set_finalizer(&client, &resource, false)
        })
        .await;
    }

    /// Tries until there is a result: again after a short pause if there is none yet, and after longer and longer ones if there
    /// are errors.
    async fn persist<T, R>(&self, what: &str, attempt: impl Fn() -> R) -> T
    where
        R: Future<Output = kube::Result<Option<T>>>,
    {
        let (first, longest) = PAUSES;
        let (mut pause, mut told) = (first, false);
        loop {
            match attempt().await {
                Ok(Some(done)) => return done,
                Ok(None) => {
                    if !told {
                        tracing::info!(
                            name = self.name,
                            "the default resource of before is being deleted; waiting"
                        );
                    }
                    told = true;
                    sleep(first).await;
                }
                Err(error) => {
                    let error = error_chain(&ApiError::from(error));
                    tracing::warn!(name = self.name, error, "failed to {what}; trying again");
                    sleep(pause).await;
                    pause = longest.min(pause * 2);
                }
            }
        }
    }

    /// Returns nothing if the resource is being deleted: what is applied to it would go with it.
    async fn try_apply(&self, client: &Client) -> kube::Result<Option<DynamicObject>> {
        let owner = match &self.owner {
            Some(name) => Some(Api::<ClusterRole>::all(client.clone()).get(name).await?),
            None => None,
        };
        let parameters = PatchParams {
            field_validation: Some(kube::api::ValidationDirective::Strict),
            ..PatchParams::apply(FIELD_MANAGER).force()
        };
        let manifest = self.owned_by(owner.as_ref());
        let applied = resources(client)
            .patch(&self.name, &parameters, &Patch::Apply(&manifest))
            .await?;
        let stays = applied.metadata.deletion_timestamp.is_none();
        Ok(stays.then_some(applied))
    }

    /// Gives this very resource its finalizer or takes it away, unless it is gone or being deleted: then the finalizer is the
    /// garbage collector's to remove, however long that takes.
    async fn set_finalizer(
        &self,
        client: &Client,
        resource: &DynamicObject,
        there: bool,
    ) -> kube::Result<Option<()>> {
        let resources = resources(client);
        // The operator may list resources, but not get one.
        let by_name = ListParams::default().fields(&format!("metadata.name={}", self.name));
        let Some(now) = resources.list(&by_name).await?.items.pop() else {
            return Ok(Some(()));
        };
        if now.uid() != resource.uid() || now.metadata.deletion_timestamp.is_some() {
            return Ok(Some(()));
        }
        let kind = ApiResource::erase::<HttpStatistics>(&());
        let patch = json!({
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "metadata": {
                "name": self.name,
                "uid": now.uid(),
                "resourceVersion": now.resource_version(),
                "finalizers": if there { vec![FINALIZER] } else { Vec::new() },
            },
        });
        let parameters = PatchParams::apply(FINALIZER_MANAGER).force();
        resources
            .patch(&self.name, &parameters, &Patch::Apply(&patch))
            .await?;
        Ok(Some(()))
    }

    fn owned_by(&self, owner: Option<&ClusterRole>) -> Value {
        let mut manifest = self.manifest.clone();
        if let Some(owner) = owner {
            manifest["metadata"]["ownerReferences"] = json!([{
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRole",
                "name": owner.name_any(),
                "uid": owner.uid(),
            }]);
        }
        manifest
    }
}

fn resources(client: &Client) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &ApiResource::erase::<HttpStatistics>(&()))
}

/// How much longer a resource is young that was created then.
fn youth_left(created: Option<Timestamp>, now: Timestamp) -> Duration {
    let age = created.map_or(Duration::ZERO, |created| {
        // A negative age means that the API server's clock is ahead.
        Duration::try_from(now.duration_since(created)).unwrap_or_default()
    });
    YOUTH.saturating_sub(age)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const MANIFEST: &str = "apiVersion: scope-http-statistics.dev/v1alpha1
kind: HttpStatistics
metadata: {name: default}
spec: {image: 'agent:1', notYetKnown: 1}
";

    fn read(text: &str) -> Result<DefaultResource, Error> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        DefaultResource::read(file.path(), Some("owner".to_owned()))
    }

    #[test]
    fn it_is_applied_as_written_with_its_owner() {
        let mut owner = ClusterRole::default();
        owner.metadata.name = Some("owner".to_owned());
        owner.metadata.uid = Some("1234".to_owned());
        let resource = read(MANIFEST).unwrap();
        assert_eq!(
            resource.owned_by(Some(&owner)),
            json!({
                "apiVersion": "scope-http-statistics.dev/v1alpha1",
                "kind": "HttpStatistics",
                "metadata": {
                    "name": "default",
                    "ownerReferences": [{
                        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                        "name": "owner", "uid": "1234",
                    }],
                },
                "spec": {"image": "agent:1", "notYetKnown": 1},
            })
        );
        assert_eq!(resource.owned_by(None), resource.manifest);
    }

    #[test]
    fn youth_ends_two_minutes_after_the_creation() {
        let created: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let left = |seconds: i64| {
            let now = created + jiff::SignedDuration::from_secs(seconds);
            youth_left(Some(created), now).as_secs()
        };
        assert_eq!(left(0), 120);
        assert_eq!(left(50), 70);
        assert_eq!(left(120), 0);
        assert_eq!(left(1_000_000), 0);
        // The API server's clock is ahead. Behind, there is less youth: at two minutes none.
        assert_eq!(left(-1000), 120);
        assert_eq!(youth_left(None, created), YOUTH);
    }

    #[test]
    fn files_with_something_else_are_refused() {
        for other in [
            "kind: [",
            "",
            &MANIFEST.replace("HttpStatistics", "ConfigMap"),
            &MANIFEST.replace("v1alpha1", "v2"),
            &MANIFEST.replace("name: default", ""),
        ] {
            assert!(read(other).is_err(), "{other}");
        }
        let missing = DefaultResource::read(Path::new("/does/not/exist"), None).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "failed to read the default resource from /does/not/exist: mount it there, or leave --default-resource out"
        );
    }
}
