//! Which cases of the table run on which kernel, when not all do.
//!
//! By risk: the oldest and the newest kernel differ most from what a developer has, so they run all of it. The kernels in
//! between share it, so that each case runs with each hook over each transport on one of them; and one of them, in turn
//! by commit, runs all of it too.

use std::collections::{BTreeMap, BTreeSet};

/// What one kernel runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    Whole,
    Part(BTreeSet<String>),
}

/// `kernels` oldest first; `results` are names of a case, transport and hook together, the hook last.
///
/// A kernel gets as few hooks as can be: to attach takes longer there than a hundred cases.
pub(crate) fn cover(kernels: &[String], results: &[String], turn: usize) -> BTreeMap<String, Selection> {
    let mut selections = BTreeMap::new();
    let (ends, middle): (Vec<_>, Vec<_>) = kernels
        .iter()
        .enumerate()
        .partition(|(index, _)| *index == 0 || *index == kernels.len() - 1);
    for (_, kernel) in ends {
        selections.insert(kernel.clone(), Selection::Whole);
    }
    let mut shared = Vec::new();
    for (number, (_, kernel)) in middle.iter().enumerate() {
        if number == turn % middle.len() {
            selections.insert((*kernel).clone(), Selection::Whole);
        } else {
            shared.push((*kernel).clone());
        }
    }
    let hooks: BTreeSet<&str> = results.iter().map(|name| hook_of(name)).collect();
    let rank = |name: &String| {
        let index = hooks.iter().position(|hook| *hook == hook_of(name));
        (index.unwrap_or(0) + turn) % hooks.len()
    };
    let mut by_hook: Vec<&String> = results.iter().collect();
    by_hook.sort_by_key(|name| rank(name));
    let size = results.len().div_ceil(shared.len().max(1)).max(1);
    let mut parts = by_hook.chunks(size);
    for kernel in shared {
        let part = parts.next().unwrap_or_default();
        selections.insert(
            kernel,
            Selection::Part(part.iter().map(|name| (*name).clone()).collect()),
        );
    }
    selections
}

/// The hook of a result's name.
pub(crate) fn hook_of(name: &str) -> &str {
    name.rsplit_once(", ").map_or(name, |(_, hook)| hook)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|&it| it.to_owned()).collect()
    }

    #[test]
    fn the_oldest_and_the_newest_run_all_of_it_and_so_does_one_in_turn() {
        let kernels = names(&["5.10", "6.1", "6.12", "6.18", "7"]);
        let results: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let mut whole_once = BTreeSet::new();
        for turn in 0..3 {
            let selections = cover(&kernels, &results, turn);
            assert_eq!(selections.len(), 5);
            let whole: BTreeSet<&str> = selections
                .iter()
                .filter(|(_, it)| **it == Selection::Whole)
                .map(|(kernel, _)| kernel.as_str())
                .collect();
            assert_eq!(whole.len(), 3);
            assert!(whole.contains("5.10") && whole.contains("7"));
            whole_once.extend(whole.into_iter().map(str::to_owned));
        }
        assert_eq!(whole_once.len(), 5);
    }

    #[test]
    fn the_others_run_each_result_once_together() {
        let kernels = names(&["5.10", "6.1", "6.12", "6.18", "7"]);
        let results: Vec<String> = (0..101).map(|number| number.to_string()).collect();
        for turn in 0..7 {
            let mut seen = Vec::new();
            for selection in cover(&kernels, &results, turn).into_values() {
                if let Selection::Part(part) = selection {
                    seen.extend(part);
                }
            }
            assert_eq!(seen.len(), 101);
            assert_eq!(seen.into_iter().collect::<BTreeSet<_>>().len(), 101);
        }
    }

    #[test]
    fn two_kernels_share_three_hooks_with_two_each_and_each_hook_is_whole_on_one_in_turn() {
        let kernels = names(&["5.10", "6.1", "6.12", "6.18", "7"]);
        let results: Vec<String> = ["fentry", "kprobe", "tracepoint"]
            .iter()
            .flat_map(|hook| (0..10).map(move |number| format!("row {number}, {hook}")))
            .collect();
        let mut divided = BTreeSet::new();
        for turn in 0..3 {
            let hooks: Vec<BTreeSet<String>> = cover(&kernels, &results, turn)
                .into_values()
                .filter_map(|selection| match selection {
                    Selection::Part(part) => Some(part.iter().map(|it| hook_of(it).to_owned()).collect()),
                    Selection::Whole => None,
                })
                .collect();
            assert_eq!((hooks[0].len(), hooks[1].len()), (2, 2), "{hooks:?}");
            divided.extend(hooks[0].intersection(&hooks[1]).cloned());
        }
        assert_eq!(divided.len(), 3);
    }

    #[test]
    fn few_kernels_run_all_of_it() {
        for kernels in [&["6.1"][..], &["5.10", "7"]] {
            let selections = cover(&names(kernels), &names(&["a", "b"]), 5);
            assert!(selections.values().all(|it| *it == Selection::Whole));
            assert_eq!(selections.len(), kernels.len());
        }
    }
}
