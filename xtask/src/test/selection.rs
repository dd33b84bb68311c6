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

/// `kernels` oldest first; `results` are names of a case, transport and hook together.
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
    for (number, kernel) in shared.iter().enumerate() {
        let part = results
            .iter()
            .enumerate()
            .filter(|(index, _)| (index + turn) % shared.len() == number)
            .map(|(_, name)| name.clone())
            .collect();
        selections.insert(kernel.clone(), Selection::Part(part));
    }
    selections
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
    fn few_kernels_run_all_of_it() {
        for kernels in [&["6.1"][..], &["5.10", "7"]] {
            let selections = cover(&names(kernels), &names(&["a", "b"]), 5);
            assert!(selections.values().all(|it| *it == Selection::Whole));
            assert_eq!(selections.len(), kernels.len());
        }
    }
}
