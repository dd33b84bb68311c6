//! The chart and the plain manifests: Kubernetes knows every field in them, and they keep to what Scope asks of a plugin.

mod chart;
mod values;

use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role};
use operator::names::AGENT_ROLE;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

type AgentDaemonSet = (
    Namespace,
    ServiceAccount,
    DaemonSet,
    ClusterRole,
    ClusterRoleBinding,
);

/// A file, from the repository's root.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The documents of a YAML file that are not empty.
fn documents(text: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect()
}

fn agent_daemonset() -> AgentDaemonSet {
    let documents = documents(&fs::read_to_string(repository("deployments/agent-daemonset.yaml")).unwrap());
    let [namespace, account, role, binding, daemon_set] = documents.try_into().unwrap();
    (
        typed(&namespace),
        typed(&account),
        typed(&daemon_set),
        typed(&role),
        typed(&binding),
    )
}

/// Reads `manifest` into its type. A field that the type does not know is lost on the way and so found missing.
fn typed<K: Resource + DeserializeOwned + Serialize>(manifest: &Value) -> K {
    let object: K = serde_json::from_value(manifest.clone()).unwrap();
    assert_eq!(
        &serde_json::to_value(&object).unwrap(),
        manifest,
        "{} has unknown fields",
        K::KIND
    );
    object
}

#[test]
fn the_agents_daemon_set_is_made_of_known_fields_and_hangs_together() {
    let (namespace, account, daemon_set, role, binding) = agent_daemonset();
    assert_eq!(account.metadata.namespace, namespace.metadata.name);
    assert_eq!(daemon_set.metadata.namespace, namespace.metadata.name);
    let spec = daemon_set.spec.unwrap();
    let selected = spec.selector.match_labels.unwrap();
    let labels = spec.template.metadata.unwrap().labels.unwrap();
    assert!(
        selected
            .iter()
            .all(|(name, value)| labels.get(name) == Some(value)),
        "{selected:?} of {labels:?}"
    );
    let pod = spec.template.spec.unwrap();
    assert_eq!(pod.service_account_name, account.metadata.name);
    assert_eq!(pod.automount_service_account_token, Some(true));
    assert_eq!(Some(binding.role_ref.name), role.metadata.name);
    let [subject] = binding.subjects.unwrap().try_into().unwrap();
    assert_eq!(Some(subject.name), account.metadata.name);
    assert_eq!(subject.namespace, account.metadata.namespace);
}

#[test]
fn scope_finds_the_agents_and_takes_them_for_nothing_else() {
    let (_, _, daemon_set, ..) = agent_daemonset();
    let template = daemon_set.spec.unwrap().template;
    assert!(
        !template.metadata.unwrap().labels.unwrap().contains_key("app"),
        "Scope's selectors match `app`"
    );

    let pod = template.spec.unwrap();
    assert_eq!(
        pod.host_pid,
        Some(true),
        "Scope knows processes by the node's PIDs"
    );
    let directory = pod.volumes.unwrap().remove(0).host_path.unwrap();
    assert_eq!(directory.path, "/var/run/scope/plugins");
    assert_eq!(directory.type_.as_deref(), Some("DirectoryOrCreate"));

    let agent = &pod.containers[0];
    assert_eq!(
        agent.volume_mounts.as_ref().unwrap()[0].mount_path,
        directory.path
    );
    let variables = agent.env.as_ref().unwrap();
    let variable = |name: &str| variables.iter().find(|variable| variable.name == name).unwrap();
    assert_eq!(
        variable("SCOPE_HTTP_STATISTICS_PLUGIN_DIR").value.as_deref(),
        Some(&*directory.path)
    );
    let node_name = variable("NODE_NAME")
        .value_from
        .as_ref()
        .unwrap()
        .field_ref
        .as_ref()
        .unwrap();
    assert_eq!(node_name.field_path, "spec.nodeName");
}

#[test]
fn the_agents_pods_are_those_that_the_operator_makes_but_for_its_own_ways() {
    let (_, account, daemon_set, ..) = agent_daemonset();
    let mut by_hand = serde_json::to_value(daemon_set.spec.unwrap().template.spec.unwrap()).unwrap();
    let mut operators = chart::agents_pod();

    // They are told what to do by flags and variables, not by a file that changes, and nobody asks which hook they take.
    operators.as_object_mut().unwrap().remove("initContainers");
    for list in ["/volumes", "/containers/0/volumeMounts"] {
        let list = operators.pointer_mut(list).unwrap();
        let list = list.as_array_mut().unwrap();
        let before = list.len();
        list.retain(|one| one["name"] != "configuration");
        assert_eq!(list.len(), before - 1);
    }
    assert_eq!(
        by_hand["containers"][0]["args"].take(),
        json!(["run", "--hook", "auto"])
    );
    assert_eq!(operators["containers"][0]["args"].take(), json!(["run"]));
    operators["serviceAccountName"] = json!(account.metadata.name.unwrap());
    let variables = |pod: &mut Value| pod["containers"][0]["env"].take();
    let (by_hand_variables, operators_variables) = (variables(&mut by_hand), variables(&mut operators));
    let operators_variables = operators_variables.as_array().unwrap();
    let (alike, own): (Vec<_>, Vec<_>) = by_hand_variables
        .as_array()
        .unwrap()
        .iter()
        .partition(|variable| operators_variables.contains(variable));
    assert_eq!(alike.len(), 3, "{alike:?} of {operators_variables:?}");
    assert_eq!(
        own,
        [&json!({"name": "SCOPE_HTTP_STATISTICS_METRICS_ADDRESS", "value": "0.0.0.0:9464"})]
    );

    assert_eq!(by_hand, operators);
}

fn operator_manifest() -> String {
    fs::read_to_string(repository("deployments/operator.yaml")).unwrap()
}

#[test]
fn the_operators_rights_are_few_and_each_rule_has_a_reason() {
    let manifest = operator_manifest();
    let documents = documents(&manifest);
    let mut rules: Vec<PolicyRule> = Vec::new();
    let mut names = Vec::new();
    for document in &documents {
        match document["kind"].as_str().unwrap() {
            "ClusterRole" => {
                let role: ClusterRole = typed(document);
                names.push(role.metadata.name.unwrap());
                rules.extend(role.rules.unwrap());
            }
            "Role" => rules.extend(typed::<Role>(document).rules.unwrap()),
            _ => {}
        }
    }
    assert!(names.iter().any(|name| name == AGENT_ROLE), "{names:?}");
    for rule in &rules {
        let words = [
            Some(&rule.verbs),
            rule.api_groups.as_ref(),
            rule.resources.as_ref(),
        ];
        assert!(
            words
                .iter()
                .flatten()
                .all(|words| words.iter().all(|word| word != "*")),
            "{rule:?}"
        );
        // Owner references make Kubernetes delete, but for agents that stood in for others.
        let deletes = rule.verbs.iter().any(|verb| verb.starts_with("delete"));
        let of_daemon_sets = rule.resources == Some(vec!["daemonsets".to_owned()]);
        assert!(!deletes || of_daemon_sets, "{rule:?}");
    }
    // In each role, the line before a rule says why.
    let lines: Vec<&str> = manifest.lines().map(str::trim).collect();
    let reasons = lines
        .windows(2)
        .filter(|pair| pair[1].starts_with("- apiGroups:") && pair[0].starts_with("# "));
    assert_eq!(reasons.count(), rules.len());
}

#[test]
fn there_is_never_a_second_operator_and_it_has_no_rights_on_its_node() {
    let documents = documents(&operator_manifest());
    let document = documents
        .iter()
        .find(|document| document["kind"] == "Deployment")
        .unwrap();
    let spec = typed::<Deployment>(document).spec.unwrap();
    assert_eq!(spec.replicas, Some(1));
    assert_eq!(spec.strategy.unwrap().type_.as_deref(), Some("Recreate"));
    let pod = spec.template.spec.unwrap();
    assert_eq!(pod.security_context.unwrap().run_as_non_root, Some(true));
    let security = pod.containers[0].security_context.clone().unwrap();
    assert_eq!(security.read_only_root_filesystem, Some(true));
    assert_eq!(security.allow_privilege_escalation, Some(false));
    let capabilities = security.capabilities.unwrap();
    assert_eq!(
        (capabilities.drop, capabilities.add),
        (Some(vec!["ALL".to_owned()]), None)
    );
}

#[test]
fn the_example_resources_are_made_of_known_fields_and_would_be_acted_on() {
    let text = fs::read_to_string(repository("deployments/httpstatistics.yaml")).unwrap();
    let examples: Vec<_> = text.split("\n---\n").map(chart::resource).collect();
    let mut names: Vec<_> = examples
        .iter()
        .map(|example| example.metadata.name.as_deref().unwrap())
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), examples.len());
    assert!(examples.len() >= 4);
}

#[test]
fn agents_have_the_same_rights_with_and_without_the_operator() {
    let (_, _, _, role, _) = agent_daemonset();
    let operators = documents(&operator_manifest())
        .into_iter()
        .find(|document| document["kind"] == "ClusterRole" && document["metadata"]["name"] == AGENT_ROLE)
        .unwrap();
    assert_eq!(role.rules, typed::<ClusterRole>(&operators).rules);
}
