//! What the agent says: one line with all that matters when it starts, and nothing for requests or polls.

use serde_json::Value;
use testkit::live::{Agent, Nginx, wait_for};
use testkit::turn::Turn;

/// Lines that tell of the agent; what could not be counted of others is none of them.
fn lines(agent: &Agent) -> Vec<Value> {
    let log = agent.log();
    log.lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON in every line"))
        .filter(|line| line["message"] != "not everything could be counted")
        .collect()
}

#[test]
fn the_log_has_one_line_at_the_start_and_none_for_requests_or_polls() {
    let _turn = Turn::of(module_path!());
    let agent = Agent::start_with("auto", &["--log-format", "json"]);
    let starts: Vec<Value> = lines(&agent)
        .into_iter()
        .filter(|line| line["message"] == "counting HTTP requests")
        .collect();
    let [start] = &starts[..] else {
        panic!("{starts:?}")
    };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    assert_eq!(start["kernel"], release.trim());
    assert_eq!(start["socket"], agent.socket().to_str().expect("text"));
    assert!(start["host_id"].is_string() && start["host_id_source"].is_string());
    // Why it is not the best hook, if it is not.
    assert_eq!(start["hook"] == "fentry", start["rejected"].is_null(), "{start}");

    let nginx = Nginx::start();
    let workers = nginx.workers();
    let sent = nginx.load(3, 48);
    wait_for("the agent to count", || {
        (agent.totals().of(&workers).0 == sent).then_some(())
    });
    let before = lines(&agent);
    for _ in 0..25 {
        agent.report();
        agent.totals();
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    nginx.load(3, 48);
    let after = lines(&agent);
    assert_eq!(before.len(), after.len(), "{after:?}");
    nginx.stop();
    agent.stop();
}
