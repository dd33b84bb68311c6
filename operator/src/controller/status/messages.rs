//! The sentences of conditions.

use super::observation::SurgeState;
use crate::api::v1alpha1::{NodeCounts, UnavailableNode};
use crate::controller::claims::Conflict;

/// Most nodes that a message names.
const MAX_NAMED: usize = 3;

/// `1 node`, `2 nodes`.
fn count_nodes(count: usize) -> String {
    format!("{count} {}", if count == 1 { "node" } else { "nodes" })
}

/// The names, and how many more there are in all.
fn and_more(named: &[String], all: usize, separator: &str) -> String {
    let text = named.join(separator);
    match all - named.len() {
        0 => text,
        more => format!("{text}{separator}and {more} more"),
    }
}

pub(super) fn rollout(nodes: NodeCounts, surge: &SurgeState) -> String {
    let NodeCounts {
        desired,
        updated,
        ready,
        unavailable: _,
    } = nodes;
    match surge {
        SurgeState::Starting { desired: 0, .. } => {
            "new agents are about to start beside the old ones, which stay until those stand by".to_owned()
        }
        SurgeState::Starting {
            desired,
            ready,
            failures,
        } => {
            let mut text = format!(
                "the new agent stands by on {ready} of {}; the old ones stay until it does on all",
                count_nodes(*desired)
            );
            if !failures.is_empty() {
                text.push_str("; ");
                text.push_str(&self::failures(failures));
                text.push_str(": correct the spec, take it back, or make room");
            }
            text
        }
        SurgeState::Present if updated >= desired && ready >= desired => {
            "every agent is of the current spec; those that stood in are leaving".to_owned()
        }
        SurgeState::None | SurgeState::Present if desired == 0 => {
            "Kubernetes has not taken up the change yet".to_owned()
        }
        SurgeState::None => format!("{updated} of {desired} nodes have the current agent, {ready} are ready"),
        SurgeState::Present => format!(
            "{updated} of {desired} nodes have the current agent, {ready} are ready; another one stands in on the others"
        ),
    }
}

pub(super) fn conflict(conflict: &Conflict) -> String {
    let Conflict { older, nodes } = conflict;
    let named = &nodes[..nodes.len().min(MAX_NAMED)];
    format!(
        "{} selected here run the agent of the older {} {}: {}; narrow a nodeSelector, or delete one of the resources",
        count_nodes(nodes.len()),
        if older.len() == 1 {
            "HttpStatistics"
        } else {
            "HttpStatistics resources"
        },
        and_more(&older[..older.len().min(MAX_NAMED)], older.len(), ", "),
        and_more(named, nodes.len(), ", "),
    )
}

pub(super) fn failures(failures: &[UnavailableNode]) -> String {
    let named: Vec<String> = failures
        .iter()
        .take(MAX_NAMED)
        .map(|UnavailableNode { node, message }| format!("{node}: {message}"))
        .collect();
    format!(
        "{} whose agent fails: {}",
        count_nodes(failures.len()),
        and_more(&named, failures.len(), "; ")
    )
}
