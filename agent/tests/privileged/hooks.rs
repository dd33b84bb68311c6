//! The agent against a real nginx, once for each hook: what it has counted must be what nginx has logged.
//!
//! On the host (root, and a kernel with BTF) with the `tracepoint` hook, which any such kernel has. With
//! `VM_KERNELS="5.10 7" cargo test --test privileged -- hooks::` with all three, in a guest for each kernel (`cargo xtask vm`).
//! `TEST_HOOKS="fentry kprobe"` names others.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use testkit::live::{Agent, Nginx, Totals, wait_for};
use testkit::results::record;
use testkit::turn::Turn;

/// More than two of the agent's ticks: what is going to be counted is counted by then.
const SETTLED: Duration = Duration::from_millis(2500);

/// One agent at a time: an emulated machine has no room for more, and it keeps the losses apart.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn for_each_hook(test: impl Fn(&str)) {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    testkit::live::for_each_hook(test);
}

/// The kernel's list of probes that were made by name, as those on returns are (hook `kprobe`).
const PROBES: &str = "/sys/kernel/tracing/kprobe_events";

/// Where agents' names begin in it.
const AGENTS: &str = "scope_http_statistics/";

/// Puts one into that list as an agent leaves it that is killed.
fn leave_a_probe_behind() {
    let mut list = fs::OpenOptions::new().append(true).open(PROBES).expect("tracefs");
    let probe = format!("r:{AGENTS}left_by_{} unix_stream_sendmsg\n", process::id());
    list.write_all(probe.as_bytes()).expect("a probe");
}

/// The probes of that list that are agents', as `rREADY FUNCTION`.
fn return_probes() -> BTreeSet<String> {
    let list = fs::read_to_string(PROBES).unwrap_or_default();
    let of_agents = list.lines().filter_map(|line| line.split_once(AGENTS));
    of_agents
        .map(|(kind, named)| {
            let function = named.split_whitespace().nth(1).unwrap_or_default();
            format!("{} {function}", kind.trim_end_matches(':'))
        })
        .collect()
}

fn totals_agree(hook: &str, connections: usize, requests: usize) {
    let begin = Instant::now();
    let is_kprobe = hook == "kprobe";
    if is_kprobe {
        leave_a_probe_behind();
    }
    let agent = Agent::start(hook);
    let nginx = Nginx::start();
    let workers = nginx.workers();
    let sent = nginx.load(connections, requests);

    let expected = (sent, nginx.logged());
    let seen = |totals: &Totals| totals.of(&workers);
    let deadline = Instant::now() + 4 * SETTLED;
    while seen(&agent.totals()) != expected && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(100));
    }
    // Not only for a moment: what is counted twice may come late.
    thread::sleep(SETTLED);
    let totals = agent.totals();
    // Both at once: what was lost tells why the totals differ.
    assert_eq!(
        (seen(&totals), totals.losses()),
        (expected, Vec::new()),
        "{hook}, {connections} connections: the agent with its losses (left) and nginx's log (right)"
    );

    // Only servers count: not the clients, which are threads of this process, and not nginx's master.
    for (who, pid) in [("the client", process::id()), ("nginx's master", nginx.master())] {
        let (requests, codes) = totals.of(&BTreeSet::from([pid]));
        assert!(
            requests == 0 && codes.is_empty(),
            "{hook}: {who} was counted: {requests} {codes:?}"
        );
    }

    // As many ready as calls may be under way; and what another agent left is gone.
    let mut probes = return_probes();
    probes.remove("r512 unix_stream_sendpage"); // until Linux 6.4
    let expected = [
        "unix_stream_read_actor",
        "unix_stream_sendmsg",
        "unix_stream_splice_actor",
    ];
    let expected = expected.map(|function| format!("r512 {function}"));
    assert_eq!(
        probes,
        expected.into_iter().filter(|_| is_kprobe).collect(),
        "{hook}"
    );

    nginx.stop();
    agent.stop();
    assert_eq!(return_probes(), BTreeSet::new(), "{hook}");
    record(
        &format!("{hook}, {connections} connections"),
        Ok(()),
        begin.elapsed(),
    );
}

#[test]
fn totals_equal_the_access_log_on_one_connection() {
    let _turn = Turn::of(module_path!());
    for_each_hook(|hook| totals_agree(hook, 1, 240));
}

#[test]
fn totals_equal_the_access_log_on_64_connections() {
    let _turn = Turn::of(module_path!());
    for_each_hook(|hook| totals_agree(hook, 64, 36));
}

#[test]
fn what_processes_did_still_counts_when_they_have_exited() {
    let _turn = Turn::of(module_path!());
    for_each_hook(|hook| {
        let agent = Agent::start(hook);
        let nginx = Nginx::start();
        let workers = nginx.workers();
        let sent = nginx.load(3, 24);
        let logged = nginx.logged();
        // Seen alive, else another process could be the one that has exited.
        wait_for("the agent to count", || {
            (agent.totals().of(&workers).0 == sent).then_some(())
        });
        nginx.stop();

        // Others may have exited too: at least what nginx has done.
        wait_for("the agent to move nginx to the exited", || {
            let totals = agent.totals();
            let (requests, codes) = totals.of_exited();
            let is_complete = logged.iter().all(|(code, count)| codes.get(code) >= Some(count));
            (requests >= sent && is_complete && totals.of(&workers).0 == 0).then_some(())
        });
        agent.stop();
    });
}
