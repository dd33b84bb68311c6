//! Totals as a table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::table::{Align, Table};
use crate::totals::{Counts, Totals};

/// One line per process and per cgroup of exited ones, one column per status code, and what was not counted below.
pub(super) fn table(totals: &Totals) -> String {
    let Totals {
        hook,
        host: _,
        processes,
        exited,
        unlabelled,
        losses,
    } = totals;
    let all = processes
        .iter()
        .map(|row| &row.counts)
        .chain(exited.iter().map(|row| &row.counts));
    let codes: BTreeSet<&str> = all
        .flat_map(|counts| counts.responses.keys().map(String::as_str))
        .collect();

    let titles = [
        ("PID", Align::Right),
        ("COMMAND", Align::Left),
        ("CGROUP", Align::Left),
        ("REQUESTS", Align::Right),
    ];
    let mut table = Table::new(
        titles
            .into_iter()
            .chain(codes.iter().map(|code| (*code, Align::Right))),
    );
    let mut row = |pid: String, command: &str, cgroup: Option<&str>, counts: &Counts| {
        let head = [
            pid,
            command.to_owned(),
            cgroup.unwrap_or("?").to_owned(),
            counts.requests.to_string(),
        ];
        let responses = codes
            .iter()
            .map(|code| counts.responses.get(*code).copied().unwrap_or(0).to_string());
        table.row(head.into_iter().chain(responses));
    };
    for process in processes {
        let command = process.command.as_deref().unwrap_or("?");
        row(
            process.pid.to_string(),
            command,
            process.place.cgroup.as_deref(),
            &process.counts,
        );
    }
    for cgroup in exited {
        row(
            "-".to_owned(),
            "(exited)",
            cgroup.place.cgroup.as_deref(),
            &cgroup.counts,
        );
    }

    let mut text = format!(
        "{}\nhook: {hook}\nrequests without a label: {unlabelled}\nnot counted: {}\n",
        table.render(),
        not_counted(losses)
    );
    for process in processes
        .iter()
        .filter(|process| !process.counts.losses.is_empty())
    {
        let command = process.command.as_deref().unwrap_or("?");
        let lost = not_counted(&process.counts.losses);
        let _ = writeln!(text, "  of {command} (pid {}): {lost}", process.pid);
    }
    for cgroup in exited.iter().filter(|cgroup| !cgroup.counts.losses.is_empty()) {
        let path = cgroup.place.cgroup.as_deref().unwrap_or("?");
        let lost = not_counted(&cgroup.counts.losses);
        let _ = writeln!(text, "  of exited processes in {path}: {lost}");
    }
    text
}

/// Losses in words.
pub(super) fn not_counted(losses: &BTreeMap<String, u64>) -> String {
    let lost: Vec<String> = losses
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(cause, count)| format!("{cause} {count}"))
        .collect();
    if lost.is_empty() {
        "nothing".to_owned()
    } else {
        lost.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_column_and_losses_are_told() {
        let totals: Totals = serde_json::from_str(
            r#"{"hook":"kprobe","host":{"id":"h","source":"as configured","probes":[]},
                "processes":[{"pid":12,"command":"nginx","cgroup":"/a","requests":3,"responses":{"200":3},"losses":{"gave_up":1}}],
                "exited":[{"cgroup":null,"requests":1,"responses":{"404":1}}],
                "unlabelled":1,"losses":{"out_of_sync":0,"gave_up":2}}"#,
        )
        .unwrap();
        let expected = "\
PID  COMMAND   CGROUP  REQUESTS  200  404
 12  nginx     /a             3    3    0
  -  (exited)  ?              1    0    1

hook: kprobe
requests without a label: 1
not counted: gave_up 2
  of nginx (pid 12): gave_up 1
";
        assert_eq!(table(&totals), expected);
    }
}
