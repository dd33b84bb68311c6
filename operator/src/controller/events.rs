//! Which changes of the status are told as Events: transitions only, each once.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType, Recorder};

use super::status::condition;
use super::unchecked::Unchecked;
use crate::api::v1alpha1::HttpStatisticsStatus;
use kube::Resource as _;

/// Longest note of an Event, in bytes (Kubernetes, `NoteLengthLimit`).
const MAX_NOTE: usize = 1024;

/// An Event could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write an Event")]
pub struct Error(#[from] kube::Error);

/// What to tell when the status changes from `before` to `after`.
#[must_use]
pub fn transitions(before: &HttpStatisticsStatus, after: &HttpStatisticsStatus) -> Vec<Event> {
    let mut events = Vec::new();
    if let Some((now, was)) = changed(before, after, "Degraded") {
        match (now.status == "True", was.map(|was| was.status.as_str())) {
            (true, _) => events.push(event(EventType::Warning, &now.reason, &now.message)),
            (false, Some("True")) => events.push(event(EventType::Normal, "Recovered", &now.message)),
            // It has never been otherwise.
            (false, _) => {}
        }
    }
    if let Some((now, _)) = changed(before, after, "Progressing") {
        match now.reason.as_str() {
            // These are told as what is wrong.
            "InvalidSpec" | "ApplyFailed" => {}
            reason => events.push(event(EventType::Normal, reason, &now.message)),
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
    let (was, now) = (condition(before, kind), condition(after, kind)?);
    let same = was.is_some_and(|was| (&was.status, &was.reason) == (&now.status, &now.reason));
    (!same).then_some((now, was))
}

fn event(kind: EventType, reason: &str, message: &str) -> Event {
    let end = (0..=MAX_NOTE.min(message.len()))
        .rev()
        .find(|end| message.is_char_boundary(*end))
        .unwrap_or(0);
    Event {
        type_: kind,
        reason: reason.to_owned(),
        note: Some(message[..end].to_owned()),
        action: "Reconcile".to_owned(),
        secondary: None,
    }
}

/// Writes `events` about `resource`.
///
/// # Errors
/// The first that the API server refuses.
pub async fn publish(recorder: &Recorder, resource: &Unchecked, events: &[Event]) -> Result<(), Error> {
    let reference = resource.object_ref(&());
    for event in events {
        recorder.publish(event, &reference).await?;
    }
    Ok(())
}
