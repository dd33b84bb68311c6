//! A resource after validation.

use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource as _;

use super::configuration::AgentConfiguration;
use super::error::Error;
use super::selector::Selector;
use super::update::Update;
use crate::api::v1alpha1::{AttachMode, HostId, HttpStatistics, LocalReference, SecurityMode};
use crate::controller::version::{MAX_SURGE, Version};

/// A resource that was checked: all that its objects are built from.
#[derive(Clone, Debug, PartialEq)]
pub struct Agents {
    /// Whose agents they are.
    pub(crate) identity: Identity,
    /// The image that their nodes pull.
    pub(crate) image: String,
    /// Where they run.
    pub node_selector: Selector,
    /// Taints they tolerate.
    pub(crate) tolerations: Vec<Toleration>,
    /// Priority class of their pods.
    pub(crate) priority_class: Option<String>,
    /// What they request and may use.
    pub(crate) resources: ResourceRequirements,
    /// Secrets with which their nodes pull the image.
    pub(crate) image_pull_secrets: Vec<LocalReference>,
    /// When they are replaced, and how many at a time.
    pub(crate) update: Update,
    /// Their rights on the node.
    pub(crate) security: SecurityMode,
    /// How they attach to the kernel.
    pub(crate) hook: AttachMode,
    /// By which name they report their host to Scope.
    pub(crate) host_id: HostId,
    /// Scope's plugin directory.
    pub(crate) plugin_directory: String,
    /// The port of their `/metrics`, if they serve it.
    pub(crate) metrics_port: Option<i32>,
    /// What they read from their file.
    pub(crate) configuration: AgentConfiguration,
}

impl Agents {
    /// Checks what depends on the API server's version, if that is known.
    ///
    /// # Errors
    /// When the resource asks for what the server cannot do.
    pub fn fit(self, version: Option<Version>) -> Result<Self, Error> {
        match (&self.update, version) {
            (Update::Surging(_), Some(version)) if version < MAX_SURGE => {
                Err(Error::SurgeUnknown { version })
            }
            _ => Ok(self),
        }
    }
}

/// Which `HttpStatistics` this is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Identity {
    /// Its name, good as the value of a label.
    pub(crate) name: String,
    /// Its uid: another one is another resource, even under the same name.
    pub(crate) uid: String,
    /// Counts the changes of the spec.
    pub(crate) generation: i64,
}

impl Identity {
    /// What makes an object go when the resource goes.
    pub(crate) fn owner_reference(&self) -> OwnerReference {
        let Self {
            name,
            uid,
            generation: _,
        } = self;
        OwnerReference {
            api_version: HttpStatistics::api_version(&()).into_owned(),
            kind: HttpStatistics::kind(&()).into_owned(),
            name: name.clone(),
            uid: uid.clone(),
            controller: Some(true),
            // Blocking would need the right to change the resource's finalizers. A deletion in the foreground would then wait for
            // the pods of dead nodes, too.
            block_owner_deletion: None,
        }
    }
}
