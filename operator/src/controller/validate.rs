//! From a resource as it was written to one that can be built: every rule of the schema once more.
//!
//! The API server checks the schema, but one before 1.25 drops the CEL rules, and one that was given an older
//! definition knows less than this program. What comes out of here cannot hold a bad value.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Resource as _;

use super::raw::Raw;
use super::version::{self, Version};
use crate::api::v1alpha1::{
    AttachMode, HostId, HttpStatistics, HttpStatisticsSpec, LocalReference, LogLevel, Metrics, Namespaces,
    Processes, Resources, SecurityMode, UpdateKind, UpdateStrategy,
};

/// The label that says what a node runs.
pub const OS_LABEL: &str = "kubernetes.io/os";

/// Why a resource cannot be used: the field, what is wrong with it, and what would be right.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum Error {
    /// Not what the API server hands out.
    #[error("metadata.{0} is missing: the API server sets it")]
    Metadata(&'static str),
    /// Cannot be the value of the label by which the agents are selected.
    #[error(
        "metadata.name: `{0}` has more than {MAX_NAME} characters, but labels the agents: choose a shorter one"
    )]
    Name(String),
    /// Missing, or of another type.
    #[error("{path}: {reason}")]
    Shape {
        /// Where in the resource.
        path: String,
        /// What the parser says.
        reason: String,
    },
    /// Not an image reference.
    #[error("spec.image: `{0}` is not an image: write it as in registry.example/agent:0.1.0")]
    Image(String),
    /// Neither key nor value of a label.
    #[error(
        "spec.nodeSelector: `{key}: {value}` is not a label: names and values have at most 63 of A-Z, a-z, 0-9, `-`, `_` and `.`"
    )]
    Label {
        /// Its key.
        key: String,
        /// Its value.
        value: String,
    },
    /// Another system than Linux.
    #[error("spec.nodeSelector: {OS_LABEL} is `{0}`, but agents run on Linux only: leave it out")]
    OperatingSystem(String),
    /// A toleration that Kubernetes refuses.
    #[error("spec.tolerations[{index}]: {reason}")]
    Toleration {
        /// Its place in the list.
        index: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// Not a name.
    #[error("spec.{field}: `{name}` is not a name: use lower case letters, digits, `-`{dot}")]
    ObjectName {
        /// The field.
        field: &'static str,
        /// What it holds.
        name: String,
        /// Whether dots are fine, in words.
        dot: &'static str,
    },
    /// Not an amount.
    #[error("spec.resources.{field}.{name}: `{amount}` is not an amount: write it as in 64Mi or 100m")]
    Quantity {
        /// `requests` or `limits`.
        field: &'static str,
        /// Of what.
        name: String,
        /// The amount.
        amount: String,
    },
    /// No pod could ever be made of it.
    #[error(
        "spec.resources: the request for {name}, {request}, is above its limit, {limit}: raise the limit"
    )]
    RequestAboveLimit {
        /// Of what.
        name: String,
        /// The amount requested.
        request: String,
        /// The limit.
        limit: String,
    },
    /// Not as many nodes as anything.
    #[error("spec.updateStrategy.{field}: `{value}` is neither a number nor 0% to 100%")]
    Pace {
        /// `maxSurge` or `maxUnavailable`.
        field: &'static str,
        /// What it holds.
        value: String,
    },
    /// What Kubernetes refuses.
    #[error(
        "spec.updateStrategy.maxSurge: may not be set when maxUnavailable is not 0: leave one of the two out"
    )]
    SurgeAndUnavailable,
    /// An update that could not begin.
    #[error(
        "spec.updateStrategy.maxUnavailable: cannot be 0 when maxSurge is 0: leave both out, or give one of them"
    )]
    NoPace,
    /// Two agents on one port.
    #[error(
        "spec.updateStrategy.maxSurge: with hostId Hostname the agents are in the node's network, and the port of \
         spec.metrics has room for one: leave one of the three out"
    )]
    SurgeOnNodePort,
    /// It would be dropped or refused.
    #[error(
        "spec.updateStrategy.maxSurge: this API server is of {version}, and {} is the first to know it: leave it out",
        version::MAX_SURGE
    )]
    SurgeUnknown {
        /// The server's.
        version: Version,
    },
    /// Outside its range.
    #[error("spec.{field}: {value} is outside of {min} to {max}")]
    Range {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: i32,
        /// Least.
        min: i32,
        /// Most.
        max: i32,
    },
    /// The window would hold no measurement.
    #[error(
        "spec.historySeconds: {history} is less than intervalSeconds, {interval}: no measurement would be reported"
    )]
    HistoryBelowInterval {
        /// The window, in seconds.
        history: i32,
        /// Time between measurements, in seconds.
        interval: i32,
    },
    /// Not a directory for a socket.
    #[error(
        "spec.pluginDirectory: `{0}` is not usable: give an absolute path of at most {MAX_PLUGIN_DIRECTORY} letters, digits, `-`, `_` and `.`, as in /var/run/scope/plugins"
    )]
    PluginDirectory(String),
}

/// Longest value of a label (Kubernetes, `validation.LabelValueMaxLength`).
const MAX_NAME: usize = 63;
/// What a socket's path leaves for it; see the field in the API.
const MAX_PLUGIN_DIRECTORY: usize = 70;

/// Which `HttpStatistics` this is.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// Its name, good as the value of a label.
    pub name: String,
    /// Its uid: another one is another resource, even under the same name.
    pub uid: String,
    /// Which spec this is.
    pub generation: i64,
}

impl Identity {
    /// What makes an object go when the resource goes.
    #[must_use]
    pub fn owner_reference(&self) -> OwnerReference {
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
            // Blocking would need the right to change the resource's finalizers, and who waits for what it owns would wait for
            // dead nodes too.
            block_owner_deletion: None,
        }
    }
}

/// Labels that a node must carry; always also that it runs Linux.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSelector(BTreeMap<String, String>);

impl NodeSelector {
    /// The labels.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// Whether a node with these labels is selected.
    #[must_use]
    pub fn selects(&self, node: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(key, value)| node.get(key) == Some(value))
    }

    /// Whether no node can carry the labels of both.
    #[must_use]
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.0
            .iter()
            .any(|(key, value)| other.0.get(key).is_some_and(|others| others != value))
    }

    /// Of labels that Kubernetes has accepted, such as those of a `DaemonSet`.
    #[must_use]
    pub fn of_accepted(mut labels: BTreeMap<String, String>) -> Self {
        labels.insert(OS_LABEL.to_owned(), "linux".to_owned());
        Self(labels)
    }
}

impl TryFrom<BTreeMap<String, String>> for NodeSelector {
    type Error = Error;

    fn try_from(labels: BTreeMap<String, String>) -> Result<Self, Error> {
        for (key, value) in &labels {
            if !is_qualified_name(key) || !is_label_value(value) {
                let (key, value) = (key.clone(), value.clone());
                return Err(Error::Label { key, value });
            }
        }
        match labels.get(OS_LABEL) {
            Some(system) if system != "linux" => Err(Error::OperatingSystem(system.clone())),
            _ => Ok(Self::of_accepted(labels)),
        }
    }
}

/// What the agents read from their file and take over while they run.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentConfiguration {
    /// Time between measurements.
    pub interval: Duration,
    /// How far back a report reaches.
    pub history: Duration,
    /// Codes with a metric of their own.
    pub status_codes: Vec<i32>,
    /// Which pods are reported.
    pub namespaces: Namespaces,
    /// Which processes are.
    pub processes: Processes,
    /// Where `/metrics` is served.
    pub metrics_port: Option<i32>,
    /// How much is logged.
    pub log_level: LogLevel,
}

/// How agents are replaced.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// When someone deletes them.
    OnDelete,
    /// Node after node, without a gap.
    Rolling {
        /// Whether their port for metrics is one of the node's, where there is room for one.
        on_node_port: bool,
    },
    /// Node after node: the new one takes over from the old one, on so many nodes at a time.
    Surging(IntOrString),
    /// Node after node: the new one comes when the old one has gone, on so many nodes at a time.
    Replacing(IntOrString),
}

impl Update {
    /// On how many nodes at a time, unless the resource says.
    #[must_use]
    pub fn default_pace() -> IntOrString {
        IntOrString::String("10%".to_owned())
    }

    fn of(strategy: UpdateStrategy, on_node_port: bool) -> Result<Self, Error> {
        let UpdateStrategy {
            kind,
            max_surge,
            max_unavailable,
        } = strategy;
        for (field, value) in [("maxSurge", &max_surge), ("maxUnavailable", &max_unavailable)] {
            if let Some(value) = value.as_ref().filter(|value| !is_count_or_percentage(value)) {
                let value = match value {
                    IntOrString::Int(count) => count.to_string(),
                    IntOrString::String(text) => text.clone(),
                };
                return Err(Error::Pace { field, value });
            }
        }
        let some = |value: &Option<IntOrString>| value.clone().filter(|value| !is_none(value));
        let update = match (some(&max_surge), some(&max_unavailable)) {
            (Some(_), Some(_)) => return Err(Error::SurgeAndUnavailable),
            (Some(_), None) if on_node_port => return Err(Error::SurgeOnNodePort),
            (Some(surge), None) => Self::Surging(surge),
            (None, Some(unavailable)) => Self::Replacing(unavailable),
            (None, None) if max_unavailable.is_some() => return Err(Error::NoPace),
            (None, None) if max_surge.is_some() => Self::Replacing(Self::default_pace()),
            (None, None) => Self::Rolling { on_node_port },
        };
        Ok(match kind {
            UpdateKind::RollingUpdate => update,
            UpdateKind::OnDelete => Self::OnDelete,
        })
    }
}

/// What can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct Agents {
    /// Whose agents they are.
    pub identity: Identity,
    /// Their image.
    pub image: String,
    /// Where they run.
    pub node_selector: NodeSelector,
    /// Taints they tolerate.
    pub tolerations: Vec<Toleration>,
    /// Priority class of their pods.
    pub priority_class: Option<String>,
    /// What they request and may use.
    pub resources: ResourceRequirements,
    /// With what their nodes pull it.
    pub image_pull_secrets: Vec<LocalReference>,
    /// When they are replaced, and how many at a time.
    pub update: Update,
    /// Their rights.
    pub security: SecurityMode,
    /// How they attach.
    pub hook: AttachMode,
    /// The name of their host.
    pub host_id: HostId,
    /// Scope's plugin directory.
    pub plugin_directory: String,
    /// Their file.
    pub configuration: AgentConfiguration,
}

impl Agents {
    /// Checks what depends on the API server's version, if that is known.
    ///
    /// # Errors
    /// When the resource asks for what the server cannot do.
    pub fn fit(self, version: Option<Version>) -> Result<Self, Error> {
        match (&self.update, version) {
            (Update::Surging(_), Some(version)) if version < version::MAX_SURGE => {
                Err(Error::SurgeUnknown { version })
            }
            _ => Ok(self),
        }
    }
}

/// Which resource this is, whatever its spec.
///
/// # Errors
/// When it lacks what the API server gives every object, or its name cannot be a label.
pub fn identify(resource: &Raw) -> Result<Identity, Error> {
    let metadata = &resource.metadata;
    let name = metadata.name.clone().ok_or(Error::Metadata("name"))?;
    if name.len() > MAX_NAME {
        return Err(Error::Name(name));
    }
    Ok(Identity {
        name,
        uid: metadata.uid.clone().ok_or(Error::Metadata("uid"))?,
        generation: metadata.generation.ok_or(Error::Metadata("generation"))?,
    })
}

/// Checks everything that can be known without the cluster.
///
/// # Errors
/// The first field that cannot be used.
pub fn validate(resource: &Raw) -> Result<Agents, Error> {
    let identity = identify(resource)?;
    let spec: HttpStatisticsSpec = serde_path_to_error::deserialize(&resource.spec).map_err(|error| {
        let path = match error.path().to_string().as_str() {
            "." => "spec".to_owned(),
            path => format!("spec.{path}"),
        };
        let reason = error.into_inner().to_string();
        Error::Shape { path, reason }
    })?;
    let HttpStatisticsSpec {
        image,
        image_pull_secrets,
        node_selector,
        tolerations,
        priority_class_name,
        resources,
        update_strategy,
        security_mode: security,
        attach_mode: hook,
        interval_seconds,
        history_seconds,
        status_codes,
        namespaces,
        processes,
        host_id,
        plugin_directory,
        metrics,
        log_level,
    } = spec;

    if image.is_empty() || image.len() > 1024 || !image.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::Image(image));
    }
    if let Some(secret) = image_pull_secrets
        .iter()
        .find(|secret| !is_subdomain(&secret.name))
    {
        return Err(Error::ObjectName {
            field: "imagePullSecrets",
            name: secret.name.clone(),
            dot: " and `.`",
        });
    }
    for (index, toleration) in tolerations.iter().enumerate() {
        check_toleration(toleration).map_err(|reason| Error::Toleration { index, reason })?;
    }
    if let Some(name) = priority_class_name.as_ref().filter(|name| !is_subdomain(name)) {
        return Err(Error::ObjectName {
            field: "priorityClassName",
            name: name.clone(),
            dot: " and `.`",
        });
    }
    in_range("intervalSeconds", interval_seconds, 1, 60)?;
    in_range("historySeconds", history_seconds, 1, 600)?;
    if history_seconds < interval_seconds {
        return Err(Error::HistoryBelowInterval {
            history: history_seconds,
            interval: interval_seconds,
        });
    }
    for code in &status_codes {
        in_range("statusCodes", *code, 100, 599)?;
    }
    check_namespaces(&namespaces)?;
    if !is_plugin_directory(&plugin_directory) {
        return Err(Error::PluginDirectory(plugin_directory));
    }
    let metrics_port = match metrics {
        Some(Metrics { port }) => Some(in_range("metrics.port", port, 1, 65_535)?),
        None => None,
    };
    let on_node_port = host_id == HostId::Hostname && metrics_port.is_some();

    Ok(Agents {
        identity,
        image,
        node_selector: node_selector.try_into()?,
        tolerations,
        priority_class: priority_class_name,
        resources: check_resources(resources)?,
        image_pull_secrets,
        update: Update::of(update_strategy, on_node_port)?,
        security,
        hook,
        host_id,
        plugin_directory,
        configuration: AgentConfiguration {
            interval: seconds(interval_seconds),
            history: seconds(history_seconds),
            status_codes,
            namespaces,
            processes,
            metrics_port,
            log_level,
        },
    })
}

fn seconds(count: i32) -> Duration {
    Duration::from_secs(u64::from(count.unsigned_abs()))
}

fn in_range(field: &'static str, value: i32, min: i32, max: i32) -> Result<i32, Error> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(Error::Range {
        field,
        value,
        min,
        max,
    })
}

fn check_namespaces(namespaces: &Namespaces) -> Result<(), Error> {
    let Namespaces { include, exclude } = namespaces;
    for (field, names) in [("namespaces.include", include), ("namespaces.exclude", exclude)] {
        if let Some(name) = names.iter().find(|name| !is_dns_label(name)) {
            return Err(Error::ObjectName {
                field,
                name: name.clone(),
                dot: "",
            });
        }
    }
    Ok(())
}

/// What Kubernetes asks of a toleration (`validateTolerations`).
fn check_toleration(toleration: &Toleration) -> Result<(), &'static str> {
    let Toleration {
        effect,
        key,
        operator,
        toleration_seconds,
        value,
    } = toleration;
    let key = key.as_deref().unwrap_or_default();
    match operator.as_deref() {
        Some("Exists") if value.as_deref().is_some_and(|value| !value.is_empty()) => {
            return Err("operator Exists takes no value: leave one of the two out");
        }
        None | Some("" | "Equal") if key.is_empty() => {
            return Err("without a key it must have operator Exists");
        }
        None | Some("" | "Equal" | "Exists") => {}
        Some(_) => return Err("operator must be Exists or Equal"),
    }
    if !key.is_empty() && !is_qualified_name(key) {
        return Err("key is not the name of a taint");
    }
    if !value.as_deref().is_none_or(is_label_value) {
        return Err("value is not that of a taint");
    }
    match effect.as_deref() {
        None | Some("" | "NoExecute") => {}
        Some("NoSchedule" | "PreferNoSchedule") if toleration_seconds.is_none() => {}
        Some("NoSchedule" | "PreferNoSchedule") => {
            return Err("tolerationSeconds needs effect NoExecute");
        }
        Some(_) => return Err("effect must be NoSchedule, PreferNoSchedule or NoExecute"),
    }
    Ok(())
}

fn check_resources(resources: Resources) -> Result<ResourceRequirements, Error> {
    let Resources { requests, limits } = resources;
    for (field, amounts) in [("requests", &requests), ("limits", &limits)] {
        for (name, Quantity(amount)) in amounts {
            if Amount::parse(amount).is_none() {
                let (name, amount) = (name.clone(), amount.clone());
                return Err(Error::Quantity { field, name, amount });
            }
        }
    }
    for (name, Quantity(request)) in &requests {
        let Some(Quantity(limit)) = limits.get(name) else {
            continue;
        };
        if Amount::parse(request) > Amount::parse(limit) {
            return Err(Error::RequestAboveLimit {
                name: name.clone(),
                request: request.clone(),
                limit: limit.clone(),
            });
        }
    }
    let set = |amounts: BTreeMap<_, _>| (!amounts.is_empty()).then_some(amounts);
    Ok(ResourceRequirements {
        claims: None,
        limits: set(limits),
        requests: set(requests),
    })
}

/// A quantity as a number, to compare: exact enough below 2^53 of its smallest unit.
#[derive(PartialEq, PartialOrd)]
struct Amount(f64);

impl Amount {
    fn parse(text: &str) -> Option<Self> {
        const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        const DECIMAL: [(&str, i32); 9] = [
            ("n", -9),
            ("u", -6),
            ("m", -3),
            ("k", 3),
            ("M", 6),
            ("G", 9),
            ("T", 12),
            ("P", 15),
            ("E", 18),
        ];
        let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
        let (digits, unit) = text.split_at(end.unwrap_or(text.len()));
        if !digits.starts_with(|letter: char| letter.is_ascii_digit()) || digits.ends_with('.') {
            return None;
        }
        let number: f64 = digits.parse().ok()?;
        let power = |unit: &&str| i32::try_from(BINARY.iter().position(|known| known == unit)? + 1).ok();
        if unit.is_empty() {
            Some(Self(number))
        } else if let Some(power) = power(&unit) {
            Some(Self(number * 1024_f64.powi(power)))
        } else if let Some((_, power)) = DECIMAL.iter().find(|(known, _)| *known == unit) {
            Some(Self(number * 10_f64.powi(*power)))
        } else {
            let exponent: i32 = unit.strip_prefix(['e', 'E'])?.parse().ok()?;
            Some(Self(number * 10_f64.powi(exponent)))
        }
    }
}

fn is_count_or_percentage(value: &IntOrString) -> bool {
    match value {
        IntOrString::Int(count) => *count >= 0,
        IntOrString::String(text) => text
            .strip_suffix('%')
            .filter(|digits| *digits == "0" || !digits.starts_with(['0', '+']))
            .and_then(|digits| digits.parse::<u8>().ok())
            .is_some_and(|percentage| percentage <= 100),
    }
}

fn is_none(value: &IntOrString) -> bool {
    match value {
        IntOrString::Int(count) => *count == 0,
        IntOrString::String(text) => text == "0%",
    }
}

fn is_plugin_directory(path: &str) -> bool {
    let segment = |segment: &str| {
        !segment.is_empty()
            && !segment.starts_with('.')
            && segment
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    path.len() <= MAX_PLUGIN_DIRECTORY
        && path
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(segment))
}

/// `[prefix/]name` (Kubernetes, `IsQualifiedName`).
fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    prefix.is_none_or(is_subdomain) && !name.is_empty() && is_label_value(name)
}

fn is_label_value(text: &str) -> bool {
    let ends = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && ends(text.bytes().next())
        && ends(text.bytes().last())
}

/// RFC 1123.
fn is_dns_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(|part| part.len() <= 63 && is_dns_label(part))
}
