//! Results for machines: a JSON object a line, in the file that the variable `TEST_RESULTS` names. `cargo xtask test` reads
//! them (xtask/src/test/results.rs), and misses those that it expects.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::Duration;

use serde_json::json;

/// Whether it held, and if not, why.
pub type Outcome<'a> = Result<(), &'a str>;

/// Tells one result: of a test without libtest's harness, or of one thing of several that hold in a test.
///
/// Without the variable there is nobody to tell.
pub fn record(name: &str, outcome: Outcome<'_>, took: Duration) {
    let Some(path) = env::var_os("TEST_RESULTS") else {
        return;
    };
    let mut line = json!({
        "name": name,
        "outcome": if outcome.is_ok() { "passed" } else { "failed" },
        "seconds": took.as_secs_f64(),
        "message": outcome.err().unwrap_or_default(),
    })
    .to_string();
    line.push('\n');
    // One write: several processes may tell theirs.
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("the file that TEST_RESULTS names can be written");
    file.write_all(line.as_bytes()).expect("room for a result");
}
