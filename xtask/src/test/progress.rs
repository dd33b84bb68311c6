//! What a person sees while tests run: what has ended, and twice a minute what runs, how far it is and what is left.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::results;

const BEAT: Duration = Duration::from_secs(30);

/// Shared by all workers.
pub(crate) struct Progress {
    begin: Instant,
    state: Mutex<State>,
    over: Condvar,
}

#[derive(Default)]
struct State {
    running: BTreeMap<String, Running>,
    /// Not yet begun.
    left: usize,
    is_over: bool,
}

struct Running {
    since: Instant,
    /// Where its results appear.
    directory: PathBuf,
    /// Results that were there before it, of others.
    before: usize,
    expected: usize,
}

impl Progress {
    pub(crate) fn new(begin: Instant) -> Self {
        Self {
            begin,
            state: Mutex::new(State::default()),
            over: Condvar::new(),
        }
    }

    /// A line, with the time since the beginning.
    pub(crate) fn say(&self, what: &str) {
        let seconds = self.begin.elapsed().as_secs();
        let _ = writeln!(
            std::io::stdout().lock(),
            "[{:02}:{:02}] {what}",
            seconds / 60,
            seconds % 60
        );
    }

    pub(crate) fn expect(&self, count: usize) {
        self.locked().left += count;
    }

    pub(crate) fn start(&self, label: &str, directory: PathBuf, expected: usize) {
        let before = count(&directory);
        let mut state = self.locked();
        state.left = state.left.saturating_sub(1);
        let running = Running {
            since: Instant::now(),
            directory,
            before,
            expected,
        };
        state.running.insert(label.to_owned(), running);
    }

    pub(crate) fn finish(&self, label: &str) {
        self.locked().running.remove(label);
    }

    /// Until [`Progress::end`].
    pub(crate) fn beat(&self) {
        let mut state = self.locked();
        loop {
            let (next, wait) = self
                .over
                .wait_timeout(state, BEAT)
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
            if state.is_over {
                return;
            }
            if wait.timed_out() {
                let running: Vec<String> = state.running.iter().map(|(label, it)| it.line(label)).collect();
                self.say(&format!("… {}; {} to come", running.join(", "), state.left));
            }
        }
    }

    pub(crate) fn end(&self) {
        self.locked().is_over = true;
        self.over.notify_all();
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn line(&self, label: &str) -> String {
        let seconds = self.since.elapsed().as_secs();
        if self.expected > 1 {
            let count = count(&self.directory).saturating_sub(self.before);
            format!("{label} {count} of {} ({seconds} s)", self.expected)
        } else {
            format!("{label} ({seconds} s)")
        }
    }
}

/// Results in a directory so far.
fn count(directory: &Path) -> usize {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .map(|path| match path.extension().and_then(|it| it.to_str()) {
            Some("jsonl") => results::records(&path).map_or(0, |it| it.len()),
            Some("stdout") => results::libtest_events(&path).map_or(0, |it| it.len()),
            _ => 0,
        })
        .sum()
}
