//! What is read of a pod's object. Pure.

use std::borrow::Cow;
use std::fmt;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod as FullPod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use serde::Deserialize;

use crate::workload::{ContainerId, Controller, ControllerKind, PodUid};

/// Marks the API server's copy of a static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// What kubelet and the container runtime know a static pod by; the copy has another UID.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// Why an object is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ObjectError {
    #[error("it has no {0}")]
    Missing(&'static str),
    #[error("its UID is none that kubelet gives to cgroups")]
    Uid,
}

/// What may own pods and have a controller itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum OwnerKind {
    ReplicaSet,
    Job,
}

impl OwnerKind {
    pub(super) fn resource(self) -> &'static str {
        match self {
            Self::ReplicaSet => "replicasets.apps",
            Self::Job => "jobs.batch",
        }
    }
}

/// A pod's owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub(super) kind: OwnerKind,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.resource(), self.namespace, self.name)
    }
}

/// A pod without its spec.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct PodObject {
    metadata: ObjectMeta,
    #[serde(default)]
    status: Option<PodStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    #[serde(rename = "containerStatuses")]
    ordinary: Option<Vec<ContainerStatus>>,
    #[serde(rename = "initContainerStatuses")]
    init: Option<Vec<ContainerStatus>>,
    #[serde(rename = "ephemeralContainerStatuses")]
    ephemeral: Option<Vec<ContainerStatus>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    /// `<runtime>://<id>`
    #[serde(rename = "containerID")]
    container_id: Option<String>,
    #[serde(default)]
    state: Option<ContainerState>,
    #[serde(default)]
    last_state: Option<ContainerState>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerState {
    terminated: Option<Terminated>,
}

#[derive(Clone, Debug, Deserialize)]
struct Terminated {
    #[serde(rename = "containerID")]
    container_id: Option<String>,
}

/// As of the whole pod: the same objects, of which less is read.
impl Resource for PodObject {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        FullPod::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        FullPod::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        FullPod::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        FullPod::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What is kept of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KnownPod {
    /// The object's UID.
    pub(super) api_uid: String,
    /// The UID in cgroups, and in Scope; another one for static pods.
    pub(super) uid: PodUid,
    pub(super) name: String,
    pub(super) namespace: String,
    /// Containers of all kinds with their names, the newest of each first.
    pub(super) containers: Vec<(ContainerId, String)>,
    /// The controllers that the object itself names.
    pub(super) controllers: Vec<Controller>,
    /// What may have a controller of its own.
    pub(super) owner: Option<Owner>,
}

impl KnownPod {
    /// Whether this is a static pod's copy.
    pub(super) fn is_static(&self) -> bool {
        self.api_uid != self.uid.as_str()
    }
}

impl TryFrom<PodObject> for KnownPod {
    type Error = ObjectError;

    fn try_from(object: PodObject) -> Result<Self, ObjectError> {
        let PodObject { metadata, status } = object;
        let api_uid = metadata.uid.ok_or(ObjectError::Missing("UID"))?;
        let name = metadata.name.ok_or(ObjectError::Missing("name"))?;
        let namespace = metadata.namespace.ok_or(ObjectError::Missing("namespace"))?;
        let annotation = |key: &str| metadata.annotations.as_ref()?.get(key);
        let uid = match annotation(CONFIG_HASH).filter(|_| annotation(MIRROR).is_some()) {
            Some(hash) => hash.parse(),
            None => api_uid.parse(),
        };
        let uid = uid.map_err(|_no_uid| ObjectError::Uid)?;
        let (controllers, owner) = made_by(metadata.owner_references.unwrap_or_default(), &namespace);
        Ok(Self {
            api_uid,
            uid,
            name,
            namespace,
            containers: status.map(containers).unwrap_or_default(),
            controllers,
            owner,
        })
    }
}

fn containers(status: PodStatus) -> Vec<(ContainerId, String)> {
    let PodStatus {
        ordinary,
        init,
        ephemeral,
    } = status;
    let mut containers = Vec::new();
    for status in [ordinary, init, ephemeral].into_iter().flatten().flatten() {
        let ContainerStatus {
            name,
            container_id,
            state,
            last_state,
        } = status;
        // While a container waits for its restart, only these have the last one's id.
        let ended = [state, last_state]
            .into_iter()
            .filter_map(|state| state?.terminated?.container_id);
        for text in container_id.into_iter().chain(ended) {
            let id = text.split_once("://").and_then(|(_, id)| id.parse().ok());
            if let Some(id) = id
                && !containers.iter().any(|(known, _)| *known == id)
            {
                containers.push((id, name.clone()));
            }
        }
    }
    containers
}

/// The pod's controller, if it is one that Scope shows, and what to ask for the controller's own.
fn made_by(references: Vec<OwnerReference>, namespace: &str) -> (Vec<Controller>, Option<Owner>) {
    let reference = references
        .into_iter()
        .find(|reference| reference.controller == Some(true));
    let Some(OwnerReference {
        api_version,
        kind,
        name,
        uid,
        ..
    }) = reference
    else {
        return (Vec::new(), None);
    };
    // Others define kinds with the same names.
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let owner = |kind| {
        Some(Owner {
            kind,
            namespace: namespace.to_owned(),
            name: name.clone(),
            uid: uid.clone(),
        })
    };
    let controller = |kind| {
        vec![Controller {
            kind,
            uid: uid.clone(),
            name: name.clone(),
        }]
    };
    match (group, kind.as_str()) {
        ("apps", "DaemonSet") => (controller(ControllerKind::DaemonSet), None),
        ("apps", "StatefulSet") => (controller(ControllerKind::StatefulSet), None),
        ("apps", "ReplicaSet") => (Vec::new(), owner(OwnerKind::ReplicaSet)),
        ("batch", "Job") => (controller(ControllerKind::Job), owner(OwnerKind::Job)),
        _ => (Vec::new(), None),
    }
}

/// The controller of an owner's own metadata, if it is one that Scope shows.
pub(super) fn controller_of(kind: OwnerKind, metadata: &ObjectMeta) -> Option<Controller> {
    let (group, name, kind) = match kind {
        OwnerKind::ReplicaSet => ("apps/", "Deployment", ControllerKind::Deployment),
        OwnerKind::Job => ("batch/", "CronJob", ControllerKind::CronJob),
    };
    metadata
        .owner_references
        .iter()
        .flatten()
        .find(|reference| reference.controller == Some(true))
        .filter(|reference| reference.api_version.starts_with(group) && reference.kind == name)
        .map(|reference| Controller {
            kind,
            uid: reference.uid.clone(),
            name: reference.name.clone(),
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const UID: &str = "8a6f1d5a-0c3b-4e7d-9f21-6b5c4d3e2f10";
    const HASH: &str = "9f1c0dbd5cb4d8a5d6e6ae9d0c9b2b57";

    fn id(digit: &str) -> String {
        digit.repeat(64)
    }

    fn read(object: Value) -> Result<KnownPod, ObjectError> {
        serde_json::from_value::<PodObject>(object).unwrap().try_into()
    }

    fn metadata(more: &Value) -> Value {
        let mut metadata = json!({"name": "web-0", "namespace": "shop", "uid": UID});
        metadata
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!({ "metadata": metadata })
    }

    #[test]
    fn a_pod_has_containers_of_all_kinds_and_of_before_the_restart() {
        let mut object = metadata(&json!({}));
        object["spec"] = json!({"containers": [{"name": "nginx", "image": "nginx"}]});
        object["status"] = json!({
            "phase": "Running",
            "containerStatuses": [
                {"name": "nginx", "containerID": format!("containerd://{}", id("a")), "ready": true,
                 "state": {"running": {"startedAt": "2026-11-22T16:16:40Z"}},
                 "lastState": {"terminated": {"exitCode": 1, "containerID": format!("containerd://{}", id("b"))}}},
                {"name": "waiting", "state": {"waiting": {"reason": "ImagePullBackOff"}}, "lastState": {}},
                {"name": "strange", "containerID": "rkt://1"},
                {"name": "sidecar", "containerID": format!("docker://{}", id("c"))},
            ],
            "initContainerStatuses": [
                {"name": "setup", "containerID": format!("cri-o://{}", id("d")),
                 "state": {"terminated": {"exitCode": 0, "containerID": format!("cri-o://{}", id("d"))}}},
            ],
            "ephemeralContainerStatuses": [{"name": "debugger", "containerID": format!("containerd://{}", id("e"))}],
        });
        let pod = read(object).unwrap();
        let expected = [
            ("a", "nginx"),
            ("b", "nginx"),
            ("c", "sidecar"),
            ("d", "setup"),
            ("e", "debugger"),
        ]
        .map(|(digit, name)| (id(digit).parse().unwrap(), name.to_owned()));
        assert_eq!(pod.containers, expected);
        assert_eq!((pod.namespace.as_str(), pod.name.as_str()), ("shop", "web-0"));
        assert_eq!(pod.uid.as_str(), UID);
        assert!(!pod.is_static());
    }

    #[test]
    fn a_pod_without_statuses_is_a_pod() {
        for status in [json!(null), json!({}), json!({"containerStatuses": null})] {
            let mut object = metadata(&json!({}));
            object["status"] = status;
            assert_eq!(read(object).unwrap().containers, []);
        }
        assert!(read(metadata(&json!({}))).is_ok());
    }

    #[test]
    fn static_pods_go_by_their_hash() {
        let mirror = json!({"annotations": {MIRROR: HASH, CONFIG_HASH: HASH}});
        let pod = read(metadata(&mirror)).unwrap();
        assert_eq!(pod.uid.as_str(), HASH);
        assert!(pod.is_static());
        // Anyone may write annotations; without the mark this is an ordinary pod.
        let pod = read(metadata(&json!({"annotations": {CONFIG_HASH: HASH}}))).unwrap();
        assert_eq!(pod.uid.as_str(), UID);
    }

    #[test]
    fn objects_that_cannot_be_named_are_refused() {
        let without = |field: &str| {
            let mut object = metadata(&json!({}));
            object["metadata"].as_object_mut().unwrap().remove(field);
            read(object)
        };
        assert_eq!(without("uid"), Err(ObjectError::Missing("UID")));
        assert_eq!(without("name"), Err(ObjectError::Missing("name")));
        assert_eq!(without("namespace"), Err(ObjectError::Missing("namespace")));
        let odd = json!({"annotations": {MIRROR: "x", CONFIG_HASH: "../../x"}});
        assert_eq!(read(metadata(&odd)), Err(ObjectError::Uid));
    }

    fn reference(api_version: &str, kind: &str, controller: bool) -> Value {
        json!({"apiVersion": api_version, "kind": kind, "name": "n", "uid": "u", "controller": controller})
    }

    #[test]
    fn controllers_are_told_by_group_and_kind() {
        let controller = |kind| Controller {
            kind,
            uid: "u".to_owned(),
            name: "n".to_owned(),
        };
        let owner = |kind| {
            Some(Owner {
                kind,
                namespace: "shop".to_owned(),
                name: "n".to_owned(),
                uid: "u".to_owned(),
            })
        };
        let cases = [
            (
                "apps/v1",
                "DaemonSet",
                vec![controller(ControllerKind::DaemonSet)],
                None,
            ),
            (
                "apps/v1",
                "StatefulSet",
                vec![controller(ControllerKind::StatefulSet)],
                None,
            ),
            ("apps/v1", "ReplicaSet", vec![], owner(OwnerKind::ReplicaSet)),
            (
                "batch/v1",
                "Job",
                vec![controller(ControllerKind::Job)],
                owner(OwnerKind::Job),
            ),
            ("apps.kruise.io/v1", "StatefulSet", vec![], None),
            ("v1", "Node", vec![], None),
            ("v1", "ReplicationController", vec![], None),
        ];
        for (api_version, kind, controllers, owner) in cases {
            let pod = read(metadata(&json!({
                "ownerReferences": [reference("v1", "Other", false), reference(api_version, kind, true)]
            })))
            .unwrap();
            assert_eq!((pod.controllers, pod.owner), (controllers, owner), "{kind}");
        }
        let pod = read(metadata(
            &json!({"ownerReferences": [reference("apps/v1", "DaemonSet", false)]}),
        ))
        .unwrap();
        assert_eq!((pod.controllers, pod.owner), (vec![], None));
    }

    #[test]
    fn owners_have_controllers_of_their_own() {
        let cases = [
            (
                OwnerKind::ReplicaSet,
                "apps/v1",
                "Deployment",
                Some(ControllerKind::Deployment),
            ),
            (OwnerKind::ReplicaSet, "argoproj.io/v1alpha1", "Rollout", None),
            (
                OwnerKind::Job,
                "batch/v1",
                "CronJob",
                Some(ControllerKind::CronJob),
            ),
            (OwnerKind::Job, "apps/v1", "Deployment", None),
        ];
        for (owner, api_version, kind, expected) in cases {
            let metadata: ObjectMeta =
                serde_json::from_value(json!({"ownerReferences": [reference(api_version, kind, true)]}))
                    .unwrap();
            let found = controller_of(owner, &metadata).map(|controller| controller.kind);
            assert_eq!(found, expected, "{kind}");
        }
    }
}
