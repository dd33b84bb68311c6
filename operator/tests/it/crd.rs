//! The resource as a Kubernetes user meets it: the generated files, the schema and its defaults.

use std::fs;
use std::path::Path;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::CustomResourceExt;
use operator::api::v1alpha1::{
    AttachMode, DEFAULT_STATUS_CODES, HostId, HttpStatistics, HttpStatisticsSpec, LogLevel, SecurityMode,
    UpdateKind,
};
use operator::controller::validate::validate;
use operator::crd;
use serde_json::{Value, json};

/// The checked-in copies, from the repository's root. The chart has its own, as Helm reads no files outside it.
const FILES: [&str; 2] = [
    "crds/httpstatistics.yaml",
    "charts/scope-http-statistics/files/httpstatistics.yaml",
];

fn schema() -> JSONSchemaProps {
    let version = HttpStatistics::crd().spec.versions.remove(0);
    version.schema.unwrap().open_api_v3_schema.unwrap()
}

/// Calls `visit` with every property of `schema`, at any depth, and its path.
fn for_each_property(schema: &JSONSchemaProps, path: &str, visit: &mut impl FnMut(&str, &JSONSchemaProps)) {
    for (name, property) in schema.properties.iter().flatten() {
        let path = format!("{path}.{name}");
        visit(&path, property);
        for_each_property(property, &path, visit);
        if let Some(JSONSchemaPropsOrArray::Schema(item)) = &property.items {
            for_each_property(item, &format!("{path}[]"), visit);
        }
    }
}

fn parse(spec: Value) -> HttpStatisticsSpec {
    serde_json::from_value(spec).unwrap()
}

#[test]
fn the_checked_in_definition_is_the_generated_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let generated = crd::yaml().unwrap();
    for file in FILES {
        let checked_in = fs::read_to_string(root.join(file)).unwrap_or_default();
        assert!(
            checked_in == generated,
            "{file} is not what the types in operator/src/api say; write it anew with\n    {} > {file}",
            crd::GENERATED_BY,
        );
    }
}

#[test]
fn the_definition_reads_back_as_what_it_was_made_from() {
    let read: CustomResourceDefinition = serde_saphyr::from_str(&crd::yaml().unwrap()).unwrap();
    assert_eq!(read, HttpStatistics::crd());
}

#[test]
fn the_resource_has_the_names_and_the_scope_that_users_type() {
    let spec = HttpStatistics::crd().spec;
    assert_eq!(
        HttpStatistics::crd_name(),
        "httpstatistics.scope-http-statistics.dev"
    );
    assert_eq!(spec.scope, "Cluster");
    assert_eq!(spec.names.plural, "httpstatistics");
    assert_eq!(spec.names.short_names.unwrap(), ["httpstat"]);
    let version = &spec.versions[0];
    assert_eq!(
        (version.name.as_str(), version.served, version.storage),
        ("v1alpha1", true, true)
    );
    assert!(version.subresources.as_ref().unwrap().status.is_some());
    let columns: Vec<_> = version
        .additional_printer_columns
        .iter()
        .flatten()
        .map(|column| column.name.as_str())
        .collect();
    assert_eq!(columns, ["Ready", "Desired", "Available", "Hook", "Image", "Age"]);
}

#[test]
fn every_property_is_explained() {
    for_each_property(&schema(), "", &mut |path, property| {
        assert!(
            property
                .description
                .as_ref()
                .is_some_and(|text| text.ends_with('.')),
            "{path} has no description"
        );
    });
}

#[test]
fn every_value_of_an_enum_is_pascal_case() {
    let mut enums = 0;
    for_each_property(&schema(), "", &mut |path, property| {
        for value in property.enum_.iter().flatten() {
            let value = value.0.as_str().unwrap();
            let pascal = value.starts_with(|c: char| c.is_ascii_uppercase())
                && value.chars().all(char::is_alphanumeric);
            assert!(pascal, "{path}: {value}");
            enums += 1;
        }
    });
    assert!(enums > 0, "no enum was found");
}

#[test]
fn every_number_string_and_list_that_users_write_is_bounded() {
    let schema = schema();
    let spec = &schema.properties.as_ref().unwrap()["spec"];
    for_each_property(spec, "", &mut |path, property| {
        // Kubernetes' own type, checked by Kubernetes when the DaemonSet is written.
        if path.starts_with(".tolerations[]") {
            return;
        }
        let bounded = match property.type_.as_deref() {
            Some("integer") => property.minimum.is_some() && property.maximum.is_some(),
            Some("string") => property.enum_.is_some() || property.max_length.is_some(),
            Some("array") => property.max_items.is_some(),
            _ => true,
        };
        assert!(bounded, "{path} has no bound");
    });
}

/// The API server fills in the schema's defaults, serde those of the types: they must be the same.
#[test]
fn the_defaults_of_the_schema_and_of_the_types_agree() {
    let schema = schema();
    let mut by_server = json!({"image": "agent:1"});
    for (name, property) in schema.properties.as_ref().unwrap()["spec"]
        .properties
        .iter()
        .flatten()
    {
        if let Some(default) = &property.default {
            by_server[name] = default.0.clone();
        }
    }
    assert_eq!(
        serde_json::to_value(parse(json!({"image": "agent:1"}))).unwrap(),
        by_server
    );
}

#[test]
fn an_image_is_all_that_must_be_given() {
    let spec = parse(json!({"image": "agent:1"}));
    assert_eq!(spec.security_mode, SecurityMode::Privileged);
    assert_eq!(spec.attach_mode, AttachMode::Auto);
    assert_eq!(spec.update_strategy.kind, UpdateKind::RollingUpdate);
    assert_eq!(spec.host_id, HostId::NodeName);
    assert_eq!(spec.log_level, LogLevel::Info);
    assert_eq!((spec.interval_seconds, spec.history_seconds), (1, 60));
    assert_eq!(spec.status_codes, DEFAULT_STATUS_CODES);
    assert_eq!(spec.plugin_directory, "/var/run/scope/plugins");
    assert_eq!(spec.metrics, None);
    assert!(spec.namespaces.is_everything() && spec.resources.is_unset());

    let error = serde_json::from_value::<HttpStatisticsSpec>(json!({})).unwrap_err();
    assert_eq!(error.to_string(), "missing field `image`");
}

#[test]
fn a_full_spec_keeps_every_field() {
    let spec = json!({
        "image": "registry.example/agent@sha256:0123",
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"kubernetes.io/os": "linux", "pool": "web"},
        "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "web", "effect": "NoSchedule"}],
        "priorityClassName": "system-node-critical",
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "updateStrategy": {"type": "OnDelete", "maxSurge": "0%", "maxUnavailable": 2},
        "securityMode": "Capabilities",
        "attachMode": "Tracepoint",
        "intervalSeconds": 2,
        "historySeconds": 120,
        "statusCodes": [200, 404],
        "namespaces": {"include": ["shop"], "exclude": ["kube-system"]},
        "processes": "Pods",
        "hostId": "Hostname",
        "pluginDirectory": "/var/run/other/plugins",
        "metrics": {"port": 9999},
        "logLevel": "Debug",
    });
    assert_eq!(serde_json::to_value(parse(spec.clone())).unwrap(), spec);
}

#[test]
fn whole_numbers_are_quantities_too() {
    let spec = parse(json!({"image": "agent:1", "resources": {"limits": {"cpu": 1}}}));
    assert_eq!(spec.resources.limits["cpu"].0, "1");
}

#[test]
fn status_lists_conditions_by_type() {
    let schema = schema();
    let status = &schema.properties.as_ref().unwrap()["status"];
    let conditions = &status.properties.as_ref().unwrap()["conditions"];
    assert_eq!(conditions.x_kubernetes_list_type.as_deref(), Some("map"));
    assert_eq!(
        conditions.x_kubernetes_list_map_keys.as_deref(),
        Some(&["type".to_owned()][..])
    );
}

/// API servers from 1.25 on refuse a definition with a rule that they cannot compile.
#[test]
fn every_rule_compiles_and_the_validation_knows_it_too() {
    let schema = serde_json::to_value(schema()).unwrap();
    let rules = kube_cel::compile_schema(&schema);
    let spec = &rules.properties["spec"];
    let strategy = &spec.properties["updateStrategy"];
    assert!(!rules.has_errors() && !spec.has_errors() && !strategy.has_errors());
    assert_eq!(
        (
            rules.validations.len(),
            spec.validations.len(),
            strategy.validations.len()
        ),
        (1, 2, 1)
    );
    let long = "x".repeat(64);
    let cases = [
        ("default", json!({}), true),
        (&long, json!({}), false),
        (&long[1..], json!({}), true),
        (
            "default",
            json!({"intervalSeconds": 30, "historySeconds": 30}),
            true,
        ),
        (
            "default",
            json!({"intervalSeconds": 30, "historySeconds": 29}),
            false,
        ),
        ("default", json!({"nodeSelector": {"pool": "web"}}), true),
        (
            "default",
            json!({"nodeSelector": {"kubernetes.io/os": "linux"}}),
            true,
        ),
        (
            "default",
            json!({"nodeSelector": {"kubernetes.io/os": "windows"}}),
            false,
        ),
        ("default", json!({"updateStrategy": {"maxSurge": 1}}), true),
        ("default", json!({"updateStrategy": {"maxSurge": "0%"}}), true),
        (
            "default",
            json!({"updateStrategy": {"maxUnavailable": "10%"}}),
            true,
        ),
        (
            "default",
            json!({"updateStrategy": {"maxSurge": 1, "maxUnavailable": 0}}),
            true,
        ),
        (
            "default",
            json!({"updateStrategy": {"maxSurge": 0, "maxUnavailable": "100%"}}),
            true,
        ),
        (
            "default",
            json!({"updateStrategy": {"maxSurge": 1, "maxUnavailable": 1}}),
            false,
        ),
        (
            "default",
            json!({"updateStrategy": {"maxSurge": "0%", "maxUnavailable": 0}}),
            false,
        ),
        (
            "default",
            json!({"updateStrategy": {"maxUnavailable": "0%"}}),
            false,
        ),
    ];
    for (name, change, good) in cases {
        let mut spec = json!({"image": "agent:1"});
        spec.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let spec = serde_json::to_value(parse(spec)).unwrap();
        let resource = json!({"metadata": {"name": name, "uid": "u", "generation": 1}, "spec": spec});
        let by_rules = kube_cel::validate(&schema, &resource, None);
        assert_eq!(by_rules.is_ok(), good, "{name} {change}: {by_rules:?}");
        let by_operator = validate(&serde_json::from_value(resource).unwrap());
        assert_eq!(by_operator.is_ok(), good, "{name} {change}: {by_operator:?}");
    }
}
