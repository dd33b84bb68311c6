//! The resource that an installation brings.
//!
//! Helm cannot install a resource whose definition comes with the same release: it asks the API server for every kind
//! before it writes anything. So the chart hands it to the operator, as a file. An object of the release owns it: when
//! Kubernetes deletes that one, because the release is gone or brings no resource any more, it deletes the resource too.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::api::v1alpha1::HttpStatistics;

/// Its field manager: neither the operator's own, nor that of people.
const FIELD_MANAGER: &str = "scope-http-statistics-default";
/// Between two attempts, at first and at most. Usually it is the definition that is not there yet.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Why a file has no resource to apply.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("failed to read the default resource from {}: mount it there, or leave --default-resource out", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not YAML.
    #[error("failed to read the default resource from {} as YAML: correct it", .path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<serde_saphyr::Error>, // it is large
    },
    /// It is something else.
    #[error("{} has no HttpStatistics of {} with a name: correct it", .path.display(), "scope-http-statistics.dev/v1alpha1")]
    Kind {
        /// The file.
        path: PathBuf,
    },
}

/// A resource to be applied once.
#[derive(Clone, Debug, PartialEq)]
pub struct DefaultResource {
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
    pub fn read(path: &Path, owner: Option<String>) -> Result<Self, Error> {
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

    /// Applies it, over whatever others have made of its fields. Tries until that succeeds.
    pub async fn apply(self, client: Client) {
        let (mut pause, longest) = PAUSES;
        loop {
            match self.try_apply(&client).await {
                Ok(()) => {
                    tracing::info!(name = self.name, "applied the default resource");
                    return;
                }
                Err(error) => {
                    tracing::warn!(name = self.name, %error, "failed to apply the default resource; trying again");
                }
            }
            sleep(pause).await;
            pause = longest.min(pause * 2);
        }
    }

    async fn try_apply(&self, client: &Client) -> Result<(), kube::Error> {
        let owner = match &self.owner {
            Some(name) => Some(Api::<ClusterRole>::all(client.clone()).get(name).await?),
            None => None,
        };
        let kind = ApiResource::erase::<HttpStatistics>(&());
        let resources = Api::<DynamicObject>::all_with(client.clone(), &kind);
        let parameters = PatchParams {
            field_validation: Some(kube::api::ValidationDirective::Strict),
            ..PatchParams::apply(FIELD_MANAGER).force()
        };
        let manifest = self.owned_by(owner.as_ref());
        resources
            .patch(&self.name, &parameters, &Patch::Apply(&manifest))
            .await?;
        Ok(())
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
