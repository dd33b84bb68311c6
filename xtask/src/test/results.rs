//! What a test says of itself, for machines: one JSON object a line, in two dialects.
//!
//! - **Records** ([`Record`]): what is appended to the file that the variable `TEST_RESULTS` names. Tests without libtest's
//!   harness write one for each of theirs; others write them for what holds inside of a test, such as each hook.
//! - **libtest's events**: what a test binary prints with `--format json`. Unstable, and unchanged for years; editors
//!   read it too. Both become [`Record`]s.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Whether a test held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Passed,
    Failed,
    /// Not run, by its own decision.
    Skipped,
}

/// One result.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Record {
    /// Unique in its step.
    pub(crate) name: String,
    /// Whether it held.
    pub(crate) outcome: Outcome,
    /// How long it took.
    #[serde(default)]
    pub(crate) seconds: f64,
    /// Why it failed, or a figure that it has found.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) message: String,
}

/// The records in a file; none if there is no such file.
pub(crate) fn records(path: &Path) -> Result<Vec<Record>> {
    lines(path)?
        .lines()
        .map(|line| {
            serde_json::from_str(line)
                .with_context(|| format!("{} has a line that is no record: {line}", path.display()))
        })
        .collect()
}

/// The results in what a test binary has printed with `--format json`. Lines that are no events are the tests' own.
pub(crate) fn libtest_events(path: &Path) -> Result<Vec<Record>> {
    Ok(lines(path)?
        .lines()
        .filter_map(|line| serde_json::from_str::<Event>(line).ok())
        .filter(|event| event.kind == "test")
        .filter_map(|event| {
            let outcome = match event.what.as_str() {
                "ok" => Outcome::Passed,
                "failed" => Outcome::Failed,
                "ignored" => Outcome::Skipped,
                // "started"; "timeout": it takes more than a minute, and goes on.
                _ => return None,
            };
            Some(Record {
                name: event.name,
                outcome,
                seconds: event.exec_time,
                message: event.stdout,
            })
        })
        .collect())
}

/// Of libtest: <https://doc.rust-lang.org/nightly/unstable-book/compiler-flags/> has nothing on it; library/test/src/formatters/json.rs has.
#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "event")]
    what: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    exec_time: f64,
    #[serde(default)]
    stdout: String,
}

/// A line that is not finished belongs to a program that died, or still runs.
fn lines(path: &Path) -> Result<String> {
    match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            Ok(text.rsplit_once('\n').map_or("", |(whole, _)| whole).to_owned())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("failed to read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn libtests_events_are_results_whatever_stands_between_them() {
        let printed = file(concat!(
            r#"{ "type": "suite", "event": "started", "test_count": 3 }"#,
            "\n",
            r#"{ "type": "test", "event": "started", "name": "a" }"#,
            "\nprinted by a test\n",
            r#"{ "type": "test", "event": "timeout", "name": "a" }"#,
            "\n",
            r#"{ "type": "test", "name": "a", "event": "ok", "exec_time": 0.5 }"#,
            "\n",
            r#"{ "type": "test", "name": "b", "event": "failed", "stdout": "why\n" }"#,
            "\n",
            r#"{ "type": "test", "name": "c", "event": "ignored" }"#,
            "\n",
            r#"{ "type": "suite", "event": "failed", "passed": 1, "failed": 1, "ignored": 1 }"#,
            "\n",
        ));
        let found: Vec<_> = libtest_events(printed.path())
            .unwrap()
            .into_iter()
            .map(|it| (it.name, it.outcome, it.message))
            .collect();
        let expected = [
            ("a", Outcome::Passed, ""),
            ("b", Outcome::Failed, "why\n"),
            ("c", Outcome::Skipped, ""),
        ];
        assert_eq!(
            found,
            expected.map(|(name, outcome, message)| (name.to_owned(), outcome, message.to_owned()))
        );
    }

    #[test]
    fn a_record_that_is_half_written_does_not_count() {
        let written = file("{\"name\":\"a\",\"outcome\":\"passed\"}\n{\"name\":\"b\",\"outco");
        let names: Vec<_> = records(written.path())
            .unwrap()
            .into_iter()
            .map(|it| it.name)
            .collect();
        assert_eq!(names, ["a"]);
    }

    #[test]
    fn a_record_of_another_shape_is_an_error_and_no_file_is_no_record() {
        assert!(records(file("{\"name\":\"a\"}\n").path()).is_err());
        assert_eq!(records(Path::new("/nowhere")).unwrap(), []);
    }
}
