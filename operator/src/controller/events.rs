//! Which changes of the status are told as Events: transitions only, each once.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use kube::api::PostParams;
use kube::{Api, Client, Resource as _, ResourceExt as _};

use super::raw::Raw;
use crate::api::v1alpha1::HttpStatisticsStatus;
use crate::names::FIELD_MANAGER;

/// Where Events about objects without a namespace are, and where `kubectl describe` finds them.
const NAMESPACE: &str = "default";
/// Longest message of an Event, in bytes (Kubernetes, `NoteLengthLimit`).
const MAX_MESSAGE: usize = 1024;

/// A change of a condition that is told as an Event.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Transition {
    /// Whether someone should do something about it.
    pub(super) warning: bool,
    /// The reason of the condition, or `Recovered`.
    pub(super) reason: String,
    /// The message of the condition.
    pub(super) message: String,
}

/// What to tell when the status changes from `before` to `after`.
pub(super) fn transitions(before: &HttpStatisticsStatus, after: &HttpStatisticsStatus) -> Vec<Transition> {
    let tell = |warning, reason: &str, message: &str| Transition {
        warning,
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    let mut events = Vec::new();
    if let Some((now, was)) = changed(before, after, "Degraded") {
        match (now.status == "True", was.map(|was| was.status.as_str())) {
            (true, _) => events.push(tell(true, &now.reason, &now.message)),
            (false, Some("True")) => events.push(tell(false, "Recovered", &now.message)),
            // It has never been otherwise.
            (false, _) => {}
        }
    }
    if let Some((now, _)) = changed(before, after, "Progressing") {
        match now.reason.as_str() {
            // These are told as what is wrong.
            "InvalidSpec" | "ApplyFailed" => {}
            reason => events.push(tell(false, reason, &now.message)),
        }
    }
    events
}

/// The condition `kind`, if its status or reason is another than before, and the one before.
fn changed<'a>(
    before: &'a HttpStatisticsStatus,
    after: &'a HttpStatisticsStatus,
    kind: &str,
) -> Option<(&'a Condition, Option<&'a Condition>)> {
    let (was, now) = (before.condition(kind), after.condition(kind)?);
    let same = was.is_some_and(|was| (&was.status, &was.reason) == (&now.status, &now.reason));
    (!same).then_some((now, was))
}

/// An Event as the API server takes it. It is of the core group: before 1.21, the group `events.k8s.io` does not let Events about
/// objects without a namespace into the namespace `default`.
fn event(resource: &Raw, transition: &Transition, now: Timestamp) -> Event {
    let Transition {
        warning,
        reason,
        message,
    } = transition;
    let end = (0..=MAX_MESSAGE.min(message.len()))
        .rev()
        .find(|end| message.is_char_boundary(*end))
        .unwrap_or(0);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", resource.name_any(), now.as_nanosecond())),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: resource.object_ref(&()),
        type_: Some(if *warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(reason.clone()),
        message: Some(message[..end].to_owned()),
        source: Some(EventSource {
            component: Some(FIELD_MANAGER.to_owned()),
            host: None,
        }),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}

/// Writes Events about `resource`.
///
/// # Errors
/// The first that the API server refuses.
pub(super) async fn publish(
    client: &Client,
    resource: &Raw,
    transitions: &[Transition],
) -> Result<(), kube::Error> {
    let api = Api::<Event>::namespaced(client.clone(), NAMESPACE);
    for transition in transitions {
        let event = event(resource, transition, Timestamp::now());
        api.create(&PostParams::default(), &event).await?;
    }
    Ok(())
}
