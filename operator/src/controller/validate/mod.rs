//! From a resource as it was written to one that can be built: every rule of the schema once more.
//!
//! The API server checks the schema. But one before 1.25 drops the CEL rules, and one that was given an older definition knows
//! less than this program. What comes out of here cannot hold a bad value.

mod agents;
mod configuration;
mod error;
mod resources;
mod selector;
mod syntax;
mod tolerations;
mod update;

pub use self::agents::Agents;
pub(crate) use self::agents::Identity;
pub(crate) use self::configuration::AgentConfiguration;
pub use self::error::Error;
pub use self::selector::Selector;
use self::syntax::{MAX_NAME, is_dns_label, is_plugin_directory, is_subdomain};
pub use self::tolerations::TolerationError;
pub(crate) use self::update::Update;
use super::raw::Raw;
use crate::api::v1alpha1::{HostId, HttpStatisticsSpec, MetricsEndpoint, Namespaces, Processes};

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
        Error::Shape {
            path,
            source: error.into_inner(),
        }
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
        tolerations::check(toleration).map_err(|source| Error::Toleration { index, source })?;
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
        Some(MetricsEndpoint { port }) => Some(in_range("metrics.port", port, 1, 65_535)?),
        None => None,
    };
    let on_node_port = host_id == HostId::Hostname && metrics_port.is_some();

    Ok(Agents {
        identity,
        image,
        node_selector: node_selector.try_into()?,
        tolerations,
        priority_class: priority_class_name,
        resources: resources::check(resources)?,
        image_pull_secrets,
        update: Update::of(update_strategy, on_node_port)?,
        security,
        hook,
        host_id,
        plugin_directory,
        metrics_port,
        configuration: AgentConfiguration {
            interval: format!("{interval_seconds}s"),
            history: format!("{history_seconds}s"),
            status_codes,
            namespaces,
            processes: (processes != Processes::All).then_some(processes),
            metrics_address: metrics_port.map(|port| format!("0.0.0.0:{port}")),
            log_level,
        },
    })
}

fn identify(resource: &Raw) -> Result<Identity, Error> {
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
    match include.iter().find(|name| exclude.contains(name)) {
        Some(name) => Err(Error::NamespaceTwice(name.clone())),
        None => Ok(()),
    }
}
