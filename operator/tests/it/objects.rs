//! From a resource as a user writes it to the objects that it owns, through the real validation. No cluster.

use std::fs;

use agent::config::Processes;
use agent::config::{LogLevel, NamespaceOverrides, Overrides, StatusCodes};
use jiff::Timestamp;
use operator::api::v1alpha1::HttpStatistics;
use operator::controller::build::{Objects, build};
use operator::controller::claims::{Claim, Remainder};
use operator::controller::raw::Raw;
use operator::controller::validate::{Agents, Error, Selector, validate};
use operator::controller::version::Version;
use serde_json::{Value, json};

/// A resource with `spec` as API servers hand it out: with defaults, which are those of the types (`crd.rs`).
fn resource(spec: &Value) -> Raw {
    let spec: HttpStatistics = serde_json::from_value(json!({
        "apiVersion": "scope-http-statistics.dev/v1alpha1", "kind": "HttpStatistics",
        "metadata": {"name": "default", "uid": "u-1", "generation": 3},
        "spec": spec,
    }))
    .unwrap();
    serde_json::from_value(serde_json::to_value(spec).unwrap()).unwrap()
}

fn agents(spec: &Value) -> Agents {
    validate(&resource(spec)).unwrap()
}

fn objects(spec: &Value) -> Objects {
    build(&agents(spec), &Remainder::Everything, "monitoring", None).unwrap()
}

fn daemon_set(spec: &Value) -> Value {
    serde_json::to_value(objects(spec).daemon_set).unwrap()
}

fn metadata(namespace: Option<&str>) -> Value {
    let mut metadata = json!({
        "name": "scope-http-statistics-agent-default",
        "labels": {
            "app.kubernetes.io/name": "scope-http-statistics",
            "app.kubernetes.io/component": "agent",
            "app.kubernetes.io/instance": "default",
            "app.kubernetes.io/managed-by": "scope-http-statistics-operator",
        },
        "ownerReferences": [{
            "apiVersion": "scope-http-statistics.dev/v1alpha1", "kind": "HttpStatistics",
            "name": "default", "uid": "u-1", "controller": true,
        }],
    });
    if let Some(namespace) = namespace {
        metadata["namespace"] = json!(namespace);
    }
    metadata
}

#[test]
#[expect(clippy::too_many_lines, reason = "it is one object")]
fn an_image_is_enough_to_run_everywhere() {
    let Objects {
        service_account,
        binding,
        config_map,
        daemon_set,
        surge: _,
    } = objects(&json!({"image": "registry.example/agent:1"}));
    assert_eq!(
        serde_json::to_value(service_account).unwrap(),
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": metadata(Some("monitoring")),
            "automountServiceAccountToken": false,
        })
    );
    assert_eq!(
        serde_json::to_value(binding).unwrap(),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": metadata(None),
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "scope-http-statistics-agent",
            },
            "subjects": [{
                "kind": "ServiceAccount", "name": "scope-http-statistics-agent-default", "namespace": "monitoring",
            }],
        })
    );
    assert_eq!(
        serde_json::to_value(&config_map).unwrap(),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": metadata(Some("monitoring")),
            "data": {"config.yaml": config_map.data.as_ref().unwrap()["config.yaml"]},
        })
    );
    let labels = json!({
        "app.kubernetes.io/name": "scope-http-statistics",
        "app.kubernetes.io/component": "agent",
        "app.kubernetes.io/instance": "default",
    });
    let probe = |command: Value, period: i32, failures: i32| json!({"exec": {"command": command}, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures});
    let alive = json!(["scope-http-statistics-agent", "healthcheck"]);
    let ready = json!(["scope-http-statistics-agent", "healthcheck", "--ready"]);
    assert_eq!(
        serde_json::to_value(daemon_set).unwrap(),
        json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": metadata(Some("monitoring")),
            "spec": {
                "selector": {"matchLabels": labels},
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "serviceAccountName": "scope-http-statistics-agent-default",
                        "automountServiceAccountToken": true,
                        "hostPID": true,
                        "nodeSelector": {"kubernetes.io/os": "linux"},
                        "tolerations": [{"operator": "Exists"}],
                        "terminationGracePeriodSeconds": 15,
                        "initContainers": [{
                            "name": "hook",
                            "image": "registry.example/agent:1",
                            "command": ["scope-http-statistics-agent"],
                            "args": ["hook", "--into", "/dev/termination-log"],
                            "env": [{"name": "SCOPE_HTTP_STATISTICS_HOOK", "value": "auto"}],
                            "resources": {},
                            "securityContext": {"privileged": true, "runAsUser": 0, "readOnlyRootFilesystem": true},
                            "terminationMessagePath": "/dev/termination-log",
                            "terminationMessagePolicy": "FallbackToLogsOnError",
                        }],
                        "containers": [{
                            "name": "agent",
                            "image": "registry.example/agent:1",
                            "command": ["scope-http-statistics-agent"],
                            "args": ["run"],
                            "env": [
                                {"name": "SCOPE_HTTP_STATISTICS_CONFIG",
                                 "value": "/etc/scope-http-statistics/config.yaml"},
                                {"name": "SCOPE_HTTP_STATISTICS_HOOK", "value": "auto"},
                                {"name": "SCOPE_HTTP_STATISTICS_PLUGIN_DIR", "value": "/var/run/scope/plugins"},
                                {"name": "SCOPE_HTTP_STATISTICS_STANDBY_SOCKET", "value": "/standby/agent.sock"},
                                {"name": "SCOPE_HTTP_STATISTICS_NODE_NAME",
                                 "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                                {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                            ],
                            "resources": {},
                            "securityContext": {"privileged": true, "runAsUser": 0, "readOnlyRootFilesystem": true},
                            "startupProbe": probe(alive.clone(), 2, 30),
                            "livenessProbe": probe(alive, 20, 3),
                            "readinessProbe": probe(ready, 10, 3),
                            "terminationMessagePolicy": "FallbackToLogsOnError",
                            "volumeMounts": [
                                {"name": "plugins", "mountPath": "/var/run/scope/plugins"},
                                {"name": "pod-logs", "mountPath": "/var/log/pods", "readOnly": true},
                                {"name": "container-logs", "mountPath": "/var/log/containers", "readOnly": true},
                                {"name": "cgroups", "mountPath": "/host/sys/fs/cgroup", "readOnly": true},
                                {"name": "standby", "mountPath": "/standby"},
                                {"name": "configuration", "mountPath": "/etc/scope-http-statistics", "readOnly": true},
                            ],
                        }],
                        "volumes": [
                            {"name": "plugins",
                             "hostPath": {"path": "/var/run/scope/plugins", "type": "DirectoryOrCreate"}},
                            {"name": "pod-logs",
                             "hostPath": {"path": "/var/log/pods", "type": "DirectoryOrCreate"}},
                            {"name": "container-logs",
                             "hostPath": {"path": "/var/log/containers", "type": "DirectoryOrCreate"}},
                            {"name": "cgroups",
                             "hostPath": {"path": "/sys/fs/cgroup", "type": "DirectoryOrCreate"}},
                            {"name": "standby", "emptyDir": {}},
                            {"name": "configuration", "configMap": {"name": "scope-http-statistics-agent-default"}},
                        ],
                    },
                },
            },
        })
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "it is one table")]
fn every_field_of_the_spec_has_its_effect_and_no_other() {
    let plain = daemon_set(&json!({"image": "agent:1"}));
    let pod = "/spec/template/spec";
    let container = "/spec/template/spec/containers/0";
    let before = "/spec/template/spec/initContainers/0";
    let both = |path: &str, value: Value| {
        [container, before]
            .map(|one| (format!("{one}/{path}"), value.clone()))
            .into()
    };
    let cases: Vec<(Value, Vec<(String, Value)>)> = vec![
        (
            json!({"imagePullSecrets": [{"name": "registry"}, {"name": "mirror.example"}]}),
            vec![(
                format!("{pod}/imagePullSecrets"),
                json!([{"name": "registry"}, {"name": "mirror.example"}]),
            )],
        ),
        (
            json!({"nodeSelector": {"pool": "web"}}),
            vec![(
                format!("{pod}/nodeSelector"),
                json!({"kubernetes.io/os": "linux", "pool": "web"}),
            )],
        ),
        (
            json!({"tolerations": []}),
            vec![(format!("{pod}/tolerations"), Value::Null)],
        ),
        (
            json!({"priorityClassName": "system-node-critical"}),
            vec![(format!("{pod}/priorityClassName"), json!("system-node-critical"))],
        ),
        (
            json!({"resources": {"requests": {"cpu": "10m"}, "limits": {"memory": "256Mi"}}}),
            both(
                "resources",
                json!({"requests": {"cpu": "10m"}, "limits": {"memory": "256Mi"}}),
            ),
        ),
        (
            json!({"updateStrategy": {"type": "OnDelete"}}),
            vec![("/spec/updateStrategy".to_owned(), json!({"type": "OnDelete"}))],
        ),
        (
            json!({"updateStrategy": {"maxUnavailable": 3}}),
            vec![(
                "/spec/updateStrategy/rollingUpdate/maxUnavailable".to_owned(),
                json!(3),
            )],
        ),
        (
            json!({"securityMode": "Capabilities"}),
            both(
                "securityContext",
                json!({
                    "runAsUser": 0, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"], "add": ["BPF", "PERFMON", "SYS_NICE"]},
                    "seccompProfile": {"type": "RuntimeDefault"},
                }),
            ),
        ),
        (
            json!({"attachMode": "Kprobe"}),
            vec![
                (format!("{container}/env/1/value"), json!("kprobe")),
                (format!("{before}/env/0/value"), json!("kprobe")),
            ],
        ),
        (
            json!({"hostId": "Hostname"}),
            vec![
                (format!("{container}/env/5"), Value::Null),
                (format!("{pod}/hostNetwork"), json!(true)),
                (format!("{pod}/dnsPolicy"), json!("ClusterFirstWithHostNet")),
            ],
        ),
        (
            json!({"pluginDirectory": "/run/x"}),
            vec![
                (format!("{container}/env/2/value"), json!("/run/x")),
                (format!("{container}/volumeMounts/0/mountPath"), json!("/run/x")),
                (format!("{pod}/volumes/0/hostPath/path"), json!("/run/x")),
            ],
        ),
        (
            json!({"metrics": {"port": 9999}}),
            vec![(
                format!("{container}/ports"),
                json!([{"name": "metrics", "containerPort": 9999, "protocol": "TCP"}]),
            )],
        ),
        // Taken over by the agents while they run.
        (json!({"intervalSeconds": 2}), vec![]),
        (json!({"historySeconds": 120}), vec![]),
        (json!({"statusCodes": [200]}), vec![]),
        (json!({"namespaces": {"include": ["shop"]}}), vec![]),
        (json!({"processes": "Pods"}), vec![]),
        (json!({"logLevel": "Trace"}), vec![]),
    ];
    for (change, differences) in cases {
        let mut spec = json!({"image": "agent:1"});
        spec.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let mut expected = plain.clone();
        for (path, value) in differences {
            set(&mut expected, &path, value);
        }
        assert_eq!(daemon_set(&spec), expected, "{change}");
    }
}

#[test]
fn agents_are_replaced_without_a_gap_where_the_api_server_can_and_as_the_resource_says() {
    let surging = |surge: Value| json!({"maxSurge": surge, "maxUnavailable": 0});
    let replacing = |unavailable: Value| json!({"maxUnavailable": unavailable});
    let on_node_port = json!({"hostId": "Hostname", "metrics": {"port": 9464}});
    // What the resource says → with an API server of 1.22, and with an older one, or one that does not say.
    let cases = [
        (json!({}), surging(json!("10%")), replacing(json!("10%"))),
        (
            json!({"updateStrategy": {"maxUnavailable": 2}}),
            replacing(json!(2)),
            replacing(json!(2)),
        ),
        (
            json!({"updateStrategy": {"maxUnavailable": "50%", "maxSurge": 0}}),
            replacing(json!("50%")),
            replacing(json!("50%")),
        ),
        (
            json!({"updateStrategy": {"maxSurge": "0%"}}),
            replacing(json!("10%")),
            replacing(json!("10%")),
        ),
        (
            json!({"hostId": "Hostname"}),
            surging(json!("10%")),
            replacing(json!("10%")),
        ),
        (on_node_port, replacing(json!("10%")), replacing(json!("10%"))),
        (
            json!({"updateStrategy": {"maxSurge": 3}}),
            surging(json!(3)),
            surging(json!(3)),
        ),
        (
            json!({"updateStrategy": {"maxSurge": "100%", "maxUnavailable": "0%"}}),
            surging(json!("100%")),
            surging(json!("100%")),
        ),
    ];
    let version = |minor| Version { major: 1, minor };
    for (change, new, old) in cases {
        let mut spec = json!({"image": "agent:1"});
        spec.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let strategy = |version| {
            let agents = agents(&spec).fit(version).map_err(|error| error.to_string())?;
            let objects = build(&agents, &Remainder::Everything, "monitoring", version).unwrap();
            let set = serde_json::to_value(objects.daemon_set).unwrap();
            Ok(set["spec"]["updateStrategy"]["rollingUpdate"].clone())
        };
        for minor in [22, 33] {
            assert_eq!(
                strategy(Some(version(minor))),
                Ok(new.clone()),
                "{change} on 1.{minor}"
            );
        }
        // An API server that does not say may know it; one that is older does not.
        assert_eq!(strategy(None), Ok(old.clone()), "{change}");
        let expected = if old.get("maxSurge").is_some() {
            Err(Error::SurgeUnknown { version: version(21) }.to_string())
        } else {
            Ok(old)
        };
        assert_eq!(strategy(Some(version(21))), expected, "{change} on 1.21");
    }
}

#[test]
fn where_kubernetes_would_leave_an_unwanted_gap_the_same_agents_surge() {
    let on_node_port = json!({"hostId": "Hostname", "metrics": {"port": 9464}});
    let old = [None, Some(20), Some(21)];
    let new = [Some(22), Some(33)];
    // What the resource says → with an API server that is old, or does not say, and with newer ones.
    let cases = [
        (json!({}), true, false),
        (json!({"metrics": {"port": 9464}}), true, false),
        (json!({"hostId": "Hostname"}), true, false),
        (on_node_port, true, true),
        (json!({"updateStrategy": {"type": "OnDelete"}}), false, false),
        (json!({"updateStrategy": {"maxUnavailable": 1}}), false, false),
        (json!({"updateStrategy": {"maxSurge": 0}}), false, false),
        (json!({"updateStrategy": {"maxSurge": 1}}), false, false),
    ];
    for (change, on_old, on_new) in cases {
        let mut spec = json!({"image": "agent:1", "nodeSelector": {"pool": "web"}});
        spec.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let remainder = Remainder::of(
            &agents(&spec).node_selector,
            &[Claim {
                name: "older".to_owned(),
                created: None,
                selector: Selector::of_accepted([("gpu".to_owned(), "yes".to_owned())].into()),
            }],
        );
        let both = old.map(|minor| (minor, on_old)).into_iter();
        for (minor, expected) in both.chain(new.map(|minor| (minor, on_new))) {
            let version = minor.map(|minor| Version { major: 1, minor });
            let objects = build(&agents(&spec), &remainder, "monitoring", version).unwrap();
            assert_eq!(objects.surge.is_some(), expected, "{change} on {minor:?}");
            let Some(surge) = objects.surge else { continue };
            let mut like_agents = serde_json::to_value(&objects.daemon_set).unwrap();
            for labels in [
                "/metadata/labels",
                "/spec/selector/matchLabels",
                "/spec/template/metadata/labels",
            ] {
                let labels = like_agents.pointer_mut(labels).unwrap();
                labels["app.kubernetes.io/component"] = json!("standby");
            }
            set(
                &mut like_agents,
                "/metadata/name",
                json!("scope-http-statistics-standby-default"),
            );
            if change["hostId"] == "Hostname" && change["metrics"].is_object() {
                set(
                    &mut like_agents,
                    "/spec/template/spec/containers/0/ports",
                    Value::Null,
                );
            }
            assert_eq!(
                serde_json::to_value(surge).unwrap(),
                like_agents,
                "{change} on {minor:?}"
            );
        }
    }
}

/// Sets what is at a JSON pointer; `null` removes it.
fn set(object: &mut Value, path: &str, value: Value) {
    let (parent, last) = path.rsplit_once('/').unwrap();
    match object.pointer_mut(parent).unwrap() {
        Value::Array(items) if value.is_null() => {
            items.remove(last.parse().unwrap());
        }
        Value::Array(items) => items[last.parse::<usize>().unwrap()] = value,
        Value::Object(fields) if value.is_null() => {
            fields.remove(last).unwrap();
        }
        Value::Object(fields) => {
            fields.insert(last.to_owned(), value);
        }
        other => unreachable!("{path} is in {other}"),
    }
}

fn file(spec: &Value) -> String {
    objects(spec)
        .config_map
        .data
        .unwrap()
        .remove("config.yaml")
        .unwrap()
}

#[test]
fn the_agents_file_is_what_the_agent_reads() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    let plain = Overrides {
        interval: Some("1s".parse().unwrap()),
        history: Some("60s".parse().unwrap()),
        status_codes: Some(StatusCodes::default()),
        log_level: Some(LogLevel::Info),
        ..Overrides::default()
    };
    let cases = [
        (json!({}), plain.clone()),
        (
            json!({"intervalSeconds": 2, "historySeconds": 120, "statusCodes": [418, 200], "logLevel": "Debug"}),
            Overrides {
                interval: Some("2s".parse().unwrap()),
                history: Some("120s".parse().unwrap()),
                status_codes: Some("200,418".parse().unwrap()),
                log_level: Some(LogLevel::Debug),
                ..Overrides::default()
            },
        ),
        (
            json!({"namespaces": {"include": ["shop", "web"], "exclude": ["kube-system"]}, "processes": "Pods"}),
            Overrides {
                namespaces: NamespaceOverrides {
                    include: Some("shop,web".parse().unwrap()),
                    exclude: Some("kube-system".parse().unwrap()),
                },
                processes: Some(Processes::Pods),
                ..plain.clone()
            },
        ),
        (
            json!({"metrics": {"port": 9999}}),
            Overrides {
                metrics_address: Some("0.0.0.0:9999".parse().unwrap()),
                ..plain.clone()
            },
        ),
    ];
    for (change, expected) in cases {
        let mut spec = json!({"image": "agent:1"});
        spec.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        fs::write(&path, file(&spec)).unwrap();
        assert_eq!(Overrides::from_file(&path).unwrap(), expected, "{change}");
    }
}

/// An older image may be meant to run, and agents refuse what they do not know.
#[test]
fn what_was_not_asked_for_is_not_in_the_agents_file() {
    let plain: Value = serde_saphyr::from_str(&file(&json!({"image": "agent:1"}))).unwrap();
    let keys: Vec<&String> = plain.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["history", "interval", "logLevel", "statusCodes"]);

    let full = file(&json!({
        "image": "agent:1",
        "namespaces": {"include": ["shop"], "exclude": ["kube-system"]}, "processes": "Pods", "metrics": {"port": 9999},
    }));
    let full: Value = serde_saphyr::from_str(&full).unwrap();
    assert_eq!(
        full["namespaces"],
        json!({"include": ["shop"], "exclude": ["kube-system"]})
    );
    assert_eq!(full["processes"], json!("pods"));
    assert_eq!(full["metricsAddress"], json!("0.0.0.0:9999"));
}

#[test]
fn the_nodes_of_older_resources_are_left_out() {
    let agents = agents(&json!({"image": "agent:1", "nodeSelector": {"pool": "web"}}));
    let older = Claim {
        name: "older".to_owned(),
        created: Some(Timestamp::UNIX_EPOCH),
        selector: Selector::try_from(
            [("disk".to_owned(), "ssd".to_owned())]
                .into_iter()
                .collect::<std::collections::BTreeMap<_, _>>(),
        )
        .unwrap(),
    };
    let remainder = Remainder::of(&agents.node_selector, &[older]);
    let objects = build(&agents, &remainder, "monitoring", None).unwrap();
    assert_eq!(
        serde_json::to_value(objects.daemon_set).unwrap()["spec"]["template"]["spec"]["affinity"],
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "disk", "operator": "NotIn", "values": ["ssd"]}]},
        ]}}})
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "it is one table")]
fn a_bad_spec_is_refused_by_its_field_and_with_a_way_out() {
    let long = "x".repeat(64);
    let cases = [
        (
            json!({"image": null}),
            "spec.image: invalid type: null, expected a string",
        ),
        (json!({"image": ""}), "spec.image: `` is not an image"),
        (
            json!({"image": "an image"}),
            "spec.image: `an image` is not an image",
        ),
        (
            json!({"nodeSelector": {"a b": "c"}}),
            "spec.nodeSelector: `a b: c` is not a label",
        ),
        (json!({"nodeSelector": {"a": long}}), "is not a label"),
        (json!({"nodeSelector": {"/a": "b"}}), "is not a label"),
        (
            json!({"nodeSelector": {"kubernetes.io/os": "windows"}}),
            "agents run on Linux only: leave it out",
        ),
        (
            json!({"tolerations": [{"operator": "Exists"}, {}]}),
            "spec.tolerations[1]: without a key it must have operator Exists",
        ),
        (
            json!({"tolerations": [{"operator": "Exists", "value": "x"}]}),
            "takes no value",
        ),
        (
            json!({"tolerations": [{"operator": "Near", "key": "x"}]}),
            "Exists or Equal",
        ),
        (
            json!({"tolerations": [{"operator": "Exists", "effect": "Never"}]}),
            "NoSchedule, PreferNoSchedule or NoExecute",
        ),
        (
            json!({"tolerations": [{"operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 1}]}),
            "needs effect NoExecute",
        ),
        (
            json!({"tolerations": [{"key": "a b", "value": "x"}]}),
            "key is not",
        ),
        (
            json!({"tolerations": [{"key": "a", "value": "x y"}]}),
            "value is not",
        ),
        (
            json!({"priorityClassName": "Big"}),
            "spec.priorityClassName: `Big` is not a name",
        ),
        (
            json!({"resources": {"limits": {"cpu": "many"}}}),
            "spec.resources.limits.cpu: `many` is not an amount",
        ),
        (
            json!({"resources": {"requests": {"cpu": "1.5"}, "limits": {"cpu": "1500m"}}}),
            "",
        ),
        (
            json!({"resources": {"requests": {"cpu": "1.6"}, "limits": {"cpu": "1500m"}}}),
            "the request for cpu, 1.6, is above its limit, 1500m",
        ),
        (
            json!({"resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "1G"}}}),
            "is above its limit",
        ),
        (
            json!({"resources": {"requests": {"memory": "1e9"}, "limits": {"memory": "1G"}}}),
            "",
        ),
        (
            json!({"imagePullSecrets": [{"name": "registry"}, {"name": "Not one"}]}),
            "spec.imagePullSecrets: `Not one` is not a name",
        ),
        (
            json!({"imagePullSecrets": ["registry"]}),
            "spec.imagePullSecrets[0]: invalid type",
        ),
        (
            json!({"updateStrategy": {"maxUnavailable": 0}}),
            "spec.updateStrategy.maxUnavailable: cannot be 0 when maxSurge is 0",
        ),
        (
            json!({"updateStrategy": {"maxUnavailable": "0%", "maxSurge": 0}}),
            "cannot be 0 when maxSurge is 0",
        ),
        (
            json!({"updateStrategy": {"maxUnavailable": 1, "maxSurge": "10%"}}),
            "spec.updateStrategy.maxSurge: may not be set when maxUnavailable is not 0",
        ),
        (
            json!({"updateStrategy": {"maxSurge": -1}}),
            "spec.updateStrategy.maxSurge: `-1` is neither",
        ),
        (
            json!({"updateStrategy": {"maxSurge": "00%"}}),
            "spec.updateStrategy.maxSurge: `00%` is neither",
        ),
        (
            json!({"updateStrategy": {"maxSurge": 1}, "hostId": "Hostname", "metrics": {}}),
            "spec.metrics has room for one",
        ),
        (
            json!({"updateStrategy": {"maxUnavailable": "101%"}}),
            "`101%` is neither",
        ),
        (
            json!({"updateStrategy": {"maxUnavailable": "10"}}),
            "`10` is neither",
        ),
        (
            json!({"updateStrategy": {"type": "Never"}}),
            "spec.updateStrategy.type: unknown variant `Never`",
        ),
        (
            json!({"securityMode": "None"}),
            "spec.securityMode: unknown variant",
        ),
        (
            json!({"intervalSeconds": 0}),
            "spec.intervalSeconds: 0 is outside of 1 to 60",
        ),
        (
            json!({"intervalSeconds": "1s"}),
            "spec.intervalSeconds: invalid type",
        ),
        (
            json!({"historySeconds": 601}),
            "spec.historySeconds: 601 is outside of 1 to 600",
        ),
        (
            json!({"intervalSeconds": 30, "historySeconds": 20}),
            "spec.historySeconds: 20 is less than intervalSeconds, 30",
        ),
        (
            json!({"namespaces": {"include": ["shop", "web"], "exclude": ["web"]}}),
            "spec.namespaces: `web` is both included and excluded: take it out of one list",
        ),
        (
            json!({"statusCodes": [200, 600]}),
            "spec.statusCodes: 600 is outside of 100 to 599",
        ),
        (
            json!({"namespaces": {"include": ["Shop"]}}),
            "spec.namespaces.include: `Shop` is not a name",
        ),
        (
            json!({"namespaces": {"exclude": ["a.b"]}}),
            "spec.namespaces.exclude: `a.b` is not a name",
        ),
        (
            json!({"pluginDirectory": "run"}),
            "spec.pluginDirectory: `run` is not usable",
        ),
        (json!({"pluginDirectory": "/run/../etc"}), "is not usable"),
        (json!({"pluginDirectory": "/"}), "is not usable"),
        (
            json!({"pluginDirectory": format!("/{}", "x".repeat(70))}),
            "is not usable",
        ),
        (
            json!({"metrics": {"port": 0}}),
            "spec.metrics.port: 0 is outside of 1 to 65535",
        ),
    ];
    for (change, expected) in cases {
        // Not through the types: the API server may know less than they.
        let mut resource = resource(&json!({"image": "agent:1"}));
        resource
            .spec
            .as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        match validate(&resource) {
            Ok(_) => assert_eq!(expected, "", "{change} was accepted"),
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                assert!(
                    !expected.is_empty() && error.contains(expected),
                    "{change}: {error}"
                );
            }
        }
    }
}

#[test]
fn a_name_that_cannot_be_a_label_is_refused() {
    let mut resource = resource(&json!({"image": "agent:1"}));
    resource.metadata.name = Some("x".repeat(64));
    let name = "x".repeat(64);
    assert!(matches!(validate(&resource), Err(Error::Name(refused)) if refused == name));
    resource.metadata.name = Some("x".repeat(63));
    assert!(validate(&resource).is_ok());
}
