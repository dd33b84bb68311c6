//! Names, labels and owners of objects.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::controller::validate::Identity;
use crate::names::{
    AGENT_COMPONENT, COMPONENT_LABEL, FIELD_MANAGER, INSTANCE_LABEL, SURGE_COMPONENT, object_name, surge_name,
};

/// The labels by which the pods of the resource `name` are selected.
pub(super) fn labels(name: &str, component: &str) -> BTreeMap<String, String> {
    // Never `app: weave-scope`: Scope's own selectors match it.
    [
        ("app.kubernetes.io/name", "scope-http-statistics"),
        (COMPONENT_LABEL, component),
        (INSTANCE_LABEL, name),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// Of an object without a namespace.
pub(super) fn cluster_wide(identity: &Identity) -> ObjectMeta {
    let mut labels = labels(&identity.name, AGENT_COMPONENT);
    labels.insert(
        "app.kubernetes.io/managed-by".to_owned(),
        FIELD_MANAGER.to_owned(),
    );
    ObjectMeta {
        name: Some(object_name(&identity.name)),
        labels: Some(labels),
        owner_references: Some(vec![identity.owner_reference()]),
        ..ObjectMeta::default()
    }
}

/// Of an object in the operator's `namespace`.
pub(super) fn namespaced(identity: &Identity, namespace: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: Some(namespace.to_owned()),
        ..cluster_wide(identity)
    }
}

/// Of the surge `DaemonSet`, which has a name and a component of its own.
pub(super) fn surge(identity: &Identity, namespace: &str) -> ObjectMeta {
    let mut metadata = namespaced(identity, namespace);
    metadata.name = Some(surge_name(&identity.name));
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(COMPONENT_LABEL.to_owned(), SURGE_COMPONENT.to_owned());
    metadata
}
