//! The chart, rendered by Helm 3 and by Helm 4.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use operator::api::v1alpha1::HttpStatistics;
use operator::controller::build::build;
use operator::controller::claims::Remainder;
use operator::controller::validate::{Agents, validate};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::manifests::{documents, repository, typed};

pub(crate) const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/scope-http-statistics");
/// Where `.ci/setup test` puts them.
const HELMS: [&str; 2] = ["helm3", "helm"];

fn helm(version: &str, arguments: &[&str]) -> Output {
    let cache = std::env::var_os("SCOPE_HTTP_STATISTICS_CACHE").map_or_else(
        || {
            let home = std::env::var_os("XDG_CACHE_HOME").map_or_else(
                || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"),
                PathBuf::from,
            );
            home.join("scope-http-statistics")
        },
        PathBuf::from,
    );
    let program = cache.join("bin").join(version);
    assert!(
        program.exists(),
        "{} is missing: run `.ci/setup test`",
        program.display()
    );
    Command::new(program).args(arguments).output().unwrap()
}

/// Renders the chart; `Err` is what Helm says.
fn template(version: &str, arguments: &[&str]) -> Result<String, String> {
    let fixed = ["template", "test", DIRECTORY, "--namespace=scope-http-statistics"];
    let output = helm(version, &[&fixed[..], arguments].concat());
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

fn scenarios() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(Path::new(DIRECTORY).join("ci"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    files
}

/// A monitor of Prometheus' operator, as far as we use it. Its types are in no crate.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Monitor {
    api_version: String,
    kind: String,
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    spec: MonitorSpec,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct MonitorSpec {
    selector: k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
    #[serde(default)]
    pod_metrics_endpoints: Vec<Endpoint>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Endpoint {
    port: String,
    path: String,
    interval: String,
}

/// Reads a document into its type: every field is known.
fn check(document: &Value) {
    match document["kind"].as_str().unwrap() {
        "Namespace" => drop(typed::<Namespace>(document)),
        "ServiceAccount" => drop(typed::<ServiceAccount>(document)),
        "ClusterRole" => drop(typed::<ClusterRole>(document)),
        "ClusterRoleBinding" => drop(typed::<ClusterRoleBinding>(document)),
        "Role" => drop(typed::<Role>(document)),
        "RoleBinding" => drop(typed::<RoleBinding>(document)),
        "Deployment" => drop(typed::<Deployment>(document)),
        "Service" => drop(typed::<Service>(document)),
        "NetworkPolicy" => drop(typed::<NetworkPolicy>(document)),
        "Pod" => drop(typed::<Pod>(document)),
        "CustomResourceDefinition" => {
            let read: CustomResourceDefinition = serde_json::from_value(document.clone()).unwrap();
            let mut expected =
                serde_json::to_value(<HttpStatistics as kube::CustomResourceExt>::crd()).unwrap();
            let mut read = serde_json::to_value(read).unwrap();
            for one in [&mut expected, &mut read] {
                one["metadata"] = json!({"name": one["metadata"]["name"]});
            }
            assert_eq!(read, expected);
        }
        "ConfigMap" => {
            let map: ConfigMap = typed(document);
            if map.metadata.name.as_deref() == Some("scope-http-statistics-default") {
                resource(&map.data.unwrap()["httpstatistics.yaml"]);
            } else if let Some(dashboard) = map.data.unwrap_or_default().get("scope-http-statistics.json") {
                let dashboard: Value = serde_json::from_str(dashboard).unwrap();
                assert!(!dashboard["panels"].as_array().unwrap().is_empty());
            }
        }
        "ServiceMonitor" | "PodMonitor" => {
            let monitor: Monitor = serde_json::from_value(document.clone()).unwrap();
            assert_eq!(
                monitor.spec.endpoints.len() + monitor.spec.pod_metrics_endpoints.len(),
                1
            );
        }
        // What the rules say is tested with promtool: agent/tests/privileged/metrics.rs.
        "PrometheusRule" => {
            let spec = document["spec"].as_object().unwrap();
            assert_eq!(spec.keys().collect::<Vec<_>>(), ["groups"]);
            assert!(!spec["groups"].as_array().unwrap().is_empty());
        }
        kind => unreachable!("the chart has no {kind}"),
    }
}

/// Reads a manifest of an HttpStatistics: every field is known, and the operator would act on it.
pub(crate) fn resource(manifest: &str) -> HttpStatistics {
    let document: Value = serde_saphyr::from_str(manifest).unwrap();
    let resource: HttpStatistics = serde_json::from_value(document.clone()).unwrap();
    let known = serde_json::to_value(&resource).unwrap();
    assert_known(&document, &known, "");
    agents(document);
    resource
}

/// What the operator makes of a resource, once the API server has it.
fn agents(mut document: Value) -> Agents {
    document["metadata"]["uid"] = json!("1234");
    document["metadata"]["generation"] = json!(1);
    validate(&serde_json::from_value(document).unwrap()).unwrap()
}

/// Everything in `document` is in `known` as well, which has defaults besides.
fn assert_known(document: &Value, known: &Value, path: &str) {
    match document {
        Value::Object(fields) => {
            for (name, value) in fields {
                assert_known(value, &known[name], &format!("{path}.{name}"));
            }
        }
        _ => assert_eq!(document, known, "{path}"),
    }
}

#[test]
fn it_lints_without_a_warning() {
    for version in HELMS {
        for scenario in scenarios() {
            let values = format!("--values={}", scenario.display());
            let output = helm(version, &["lint", "--strict", DIRECTORY, &values]);
            assert!(output.status.success(), "{version} {values}: {output:?}");
        }
    }
}

#[test]
fn every_scenario_is_made_of_known_fields() {
    for version in HELMS {
        let mut kinds = BTreeMap::<String, usize>::new();
        for scenario in scenarios() {
            let values = format!("--values={}", scenario.display());
            let rendered = template(version, &[&values]).unwrap();
            for document in documents(&rendered) {
                check(&document);
                *kinds
                    .entry(document["kind"].as_str().unwrap().to_owned())
                    .or_default() += 1;
            }
        }
        for kind in [
            "NetworkPolicy",
            "Pod",
            "PodMonitor",
            "PrometheusRule",
            "Service",
            "ServiceMonitor",
        ] {
            assert!(kinds.contains_key(kind), "no scenario has a {kind}");
        }
    }
}

#[test]
fn the_default_resources_agents_serve_metrics_unless_told_not_to() {
    for version in HELMS {
        let port = |values: &[&str]| {
            let rendered = documents(&template(version, values).unwrap());
            let manifest = rendered
                .iter()
                .find_map(|document| document["data"]["httpstatistics.yaml"].as_str());
            let metrics = resource(manifest.unwrap()).spec.metrics;
            metrics.map(|metrics| metrics.port)
        };
        assert_eq!(port(&[]), Some(9464), "{version}");
        assert_eq!(
            port(&["--set", "httpStatistics.spec.metrics.port=9999"]),
            Some(9999),
            "{version}"
        );
        let none = [
            "--set",
            "httpStatistics.spec.metrics=null",
            "--set",
            "networkPolicy.enabled=true",
        ];
        assert_eq!(port(&none), None, "{version}");
    }
}

#[test]
fn nobody_may_ask_for_metrics_of_agents_that_serve_none() {
    let ingress = |values: &[&str]| {
        let values = [&["--set", "networkPolicy.enabled=true"], values].concat();
        let rendered = documents(&template("helm", &values).unwrap());
        let policy = rendered
            .iter()
            .find(|document| {
                document["kind"] == "NetworkPolicy"
                    && document["metadata"]["name"] == "scope-http-statistics-agent"
            })
            .unwrap();
        policy["spec"]["ingress"].clone()
    };
    let on = |port: u16| json!([{"ports": [{"port": port, "protocol": "TCP"}]}]);
    assert_eq!(ingress(&[]), on(9464));
    assert_eq!(
        ingress(&["--set", "httpStatistics.spec.metrics.port=9465"]),
        on(9465)
    );
    assert_eq!(
        ingress(&["--set", "httpStatistics.spec.metrics=null"]),
        Value::Null
    );
}

#[test]
fn the_charts_test_runs_where_agents_do_and_pulls_as_they_do() {
    let pod = |values: &[&str]| {
        let rendered = documents(&template("helm", values).unwrap());
        let pod = rendered
            .into_iter()
            .find(|document| document["kind"] == "Pod")
            .unwrap();
        typed::<Pod>(&pod);
        pod["spec"].clone()
    };
    let default = pod(&[]);
    assert_eq!(default["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(default["imagePullSecrets"], Value::Null);
    let other = pod(&[
        "--set-json",
        r#"httpStatistics.spec={"tolerations": [], "imagePullSecrets": [{"name": "mirror"}]}"#,
    ]);
    assert_eq!(other["tolerations"], json!([]));
    assert_eq!(other["imagePullSecrets"], json!([{"name": "mirror"}]));
}

/// The pods of the default resource's agents, as the operator makes them.
pub(crate) fn agents_pod() -> Value {
    let rendered = documents(&template("helm", &[]).unwrap());
    let manifest = rendered
        .iter()
        .find_map(|document| document["data"]["httpstatistics.yaml"].as_str())
        .unwrap();
    let agents = agents(serde_json::to_value(resource(manifest)).unwrap());
    let objects = build(&agents, &Remainder::Everything, "scope-http-statistics", None).unwrap();
    let set = serde_json::to_value(objects.daemon_set).unwrap();
    set["spec"]["template"]["spec"].clone()
}

#[test]
fn both_versions_of_helm_render_the_same() {
    for scenario in scenarios() {
        let values = format!("--values={}", scenario.display());
        let [old, new] = HELMS.map(|version| {
            let mut documents = documents(&template(version, &[&values]).unwrap());
            documents
                .sort_by_key(|document| format!("{}/{}", document["kind"], document["metadata"]["name"]));
            documents
        });
        assert_eq!(old, new, "{values}");
    }
}

#[test]
fn values_that_mean_nothing_are_refused() {
    let wrong = [
        "operater.log=info",
        "operator.logs=info",
        "operator.logFormat=yaml",
        "crds.enable=true",
        "httpStatistics.spec.intervalSecond=2",
        "httpStatistics.spec.intervalSeconds=0",
        "httpStatistics.spec.intervalSeconds=two",
        "httpStatistics.spec.securityMode=privileged",
        "httpStatistics.spec.pluginDirectory=relative/plugins",
        "httpStatistics.spec.statusCodes={99}",
        "httpStatistics.spec.updateStrategy.maxUnavailable=101%",
        "httpStatistics.spec.updateStrategy.maxSurge=-1",
        "httpStatistics.spec.namespaces.includes={shop}",
        "httpStatistics.name=Default",
        "operator.image.digest=latest",
        "metrics.service.port=0",
        "metrics.serviceMonitor.enabled=true", // without the Service that it needs
        "networkPolicy.apiServerPorts={https}",
    ];
    for version in HELMS {
        for value in wrong {
            assert!(
                template(version, &["--set", value]).is_err(),
                "{version} accepts {value}"
            );
        }
    }
}

#[test]
fn digests_come_before_tags_and_no_registry_means_none() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let image = |arguments: &[&str]| {
        let arguments: Vec<&str> = arguments
            .iter()
            .flat_map(|value| ["--set-string", value])
            .collect();
        let rendered = documents(&template("helm", &arguments).unwrap());
        let deployment = rendered
            .iter()
            .find(|document| document["kind"] == "Deployment")
            .unwrap();
        deployment["spec"]["template"]["spec"]["containers"][0]["image"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        image(&[]),
        "registry.example/scope-http-statistics-operator:0.1.0"
    );
    assert_eq!(
        image(&["image.registry=", "image.tag=7"]),
        "scope-http-statistics-operator:7"
    );
    assert_eq!(
        image(&["image.tag=7", &format!("operator.image.digest={digest}")]),
        format!("registry.example/scope-http-statistics-operator@{digest}")
    );
}

#[test]
fn the_definition_is_kept_only_if_that_is_asked_for() {
    let definition = |keep: &str| {
        let rendered = documents(&template("helm", &["--set", &format!("crds.keep={keep}")]).unwrap());
        rendered
            .into_iter()
            .find(|document| document["kind"] == "CustomResourceDefinition")
            .unwrap()
    };
    let policy = |definition: Value| definition["metadata"]["annotations"]["helm.sh/resource-policy"].clone();
    assert_eq!(policy(definition("true")), "keep");
    assert_eq!(policy(definition("false")), Value::Null);
    let without = documents(&template("helm", &["--set", "crds.enabled=false"]).unwrap());
    assert!(
        without
            .iter()
            .all(|document| document["kind"] != "CustomResourceDefinition")
    );
}

/// Those refuse what they do not know, and Helm with them.
#[test]
fn api_servers_before_1_25_get_no_rules() {
    let has_rules = |version: &str| {
        let rendered = template("helm", &["--kube-version", version]).unwrap();
        rendered.contains("x-kubernetes-validations")
    };
    assert!(!has_rules("1.24.17"));
    assert!(has_rules("1.25.0"));
}

const PLAIN: &str = "deployments/operator.yaml";
const HEADER: &str = "\
# The operator, the definition of HttpStatistics and one such resource: an agent on every Linux node.
#
#   kubectl apply -f deployments/operator.yaml      # start
#   kubectl delete -f deployments/operator.yaml     # stop; removes everything, resources of your own too
#
# The operator reads the resource `default` below, in a ConfigMap, when it starts. After a change there:
#   kubectl rollout restart deployment/scope-http-statistics-operator --namespace scope-http-statistics
#
# Before Kubernetes 1.25, add --validate=false: kubectl there refuses the rules in the definition.
# There are no published images yet: build them (`make images`), push them to a registry of your own, and replace
# `registry.example` below. Made of the chart, by operator/tests/it/manifests/chart.rs; change that one.
apiVersion: v1
kind: Namespace
metadata:
  name: scope-http-statistics
  labels:
    app.kubernetes.io/name: scope-http-statistics
    # The agents' pods are privileged.
    pod-security.kubernetes.io/enforce: privileged
";

#[test]
fn the_plain_manifest_is_the_charts() {
    let rendered = template("helm", &["--skip-tests", "--set=crds.keep=false"]).unwrap();
    // Nothing here is Helm's.
    let lines = rendered.lines().filter(|line| {
        let line = line.trim();
        !line.starts_with("# Source: ")
            && line != "app.kubernetes.io/managed-by: Helm"
            && !line.starts_with("helm.sh/chart: ")
    });
    let mut expected = HEADER.to_owned();
    for line in lines {
        expected += line.trim_end();
        expected.push('\n');
    }
    let file = repository(PLAIN);
    let checked_in = fs::read_to_string(&file).unwrap();
    if std::env::var_os("SCOPE_HTTP_STATISTICS_WRITE").is_some() {
        fs::write(&file, &expected).unwrap();
        return;
    }
    assert!(
        checked_in == expected,
        "{PLAIN} is not what the chart says; write it anew with\n    \
         SCOPE_HTTP_STATISTICS_WRITE=1 cargo test -p scope-http-statistics-operator --test it"
    );
    for document in documents(&checked_in) {
        check(&document);
    }
}
