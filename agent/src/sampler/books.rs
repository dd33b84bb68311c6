//! The books: what was counted for whom, brought up to date from the kernel's counters, and who is gone.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;
use tracing::{info, warn};

use super::Kernel;
use super::throttle::Throttle;
use crate::bpf::{Loss, Losses};
use crate::config::Filter;
use crate::error_chain::error_chain;
use crate::metrics::{self, MAX_SERIES, Metrics};
use crate::process::Processes;
use crate::stats::{Account, Delta, Event, Ledger, Owner, Subject, Window};
use crate::workload::{Directory, Place};

/// In how many ticks it is looked once whether a process lives that has no traffic in the window.
const IDLE_CHECK_TICKS: u64 = 16;
/// In how many ticks it is looked once what a process is called: `exec` is rare, and a look takes ten times as long as
/// whether it lives.
const NAME_CHECK_TICKS: u64 = 64;
/// At most one line about losses in this time.
const LOSS_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Processes and causes that are kept in mind until the next such line, and told in it.
const UNLOGGED_MAX: usize = 1024;
const LOGGED_PROCESSES: usize = 5;

/// What was counted, and for whom.
#[derive(Debug)]
pub(super) struct Books<K> {
    pub(super) kernel: K,
    processes: Processes,
    pub(super) directory: watch::Receiver<Arc<Directory>>,
    pub(super) ledger: Ledger,
    pub(super) window: Window,
    pub(super) metrics: Metrics,
    pub(super) losses: Losses,
    /// When they last changed.
    pub(super) losses_changed: Timestamp,
    /// Losses that were logged.
    logged_losses: Losses,
    loss_log: Throttle,
    /// Who lost what since that was logged, with the process's command.
    unlogged: BTreeMap<(u32, Loss), (String, u64)>,
    /// The agent's own pid. It serves HTTP on its socket, but nobody asked for that to be measured.
    own_pid: u32,
    /// Ticks so far.
    tick: u64,
    /// When the last tick's counters were read; at first, when the programs were attached.
    last_tick: Instant,
    /// Whether the latest deletion of counters failed.
    forget_failed: bool,
}

impl<K: Kernel> Books<K> {
    /// Empty ones, of counters that were all 0 at `attached`.
    pub(super) fn new(
        kernel: K,
        attached: Instant,
        processes: Processes,
        directory: watch::Receiver<Arc<Directory>>,
        window: Window,
    ) -> Self {
        let metrics = Metrics::new(kernel.hook(), MAX_SERIES);
        Self {
            kernel,
            processes,
            directory,
            ledger: Ledger::default(),
            window,
            metrics,
            losses: Losses::default(),
            losses_changed: Timestamp::now(),
            logged_losses: Losses::default(),
            loss_log: Throttle::new(LOSS_LOG_INTERVAL),
            unlogged: BTreeMap::new(),
            own_pid: std::process::id(),
            tick: 0,
            last_tick: attached,
            forget_failed: false,
        }
    }

    /// Reads the counters into all books, and closes the accounts of processes that are gone. Returns when they were read, or
    /// why they could not be.
    pub(super) fn tick(&mut self, filter: &Filter) -> Result<Instant, K::Error> {
        self.tick = self.tick.wrapping_add(1);
        let (measured, date) = self.read()?;
        let mut deltas = self.ledger.take_deltas();
        self.metrics.take(&metrics::Tick {
            now: measured,
            deltas: &deltas,
            ledger: &self.ledger,
            directory: &self.directory.borrow(),
            filter,
            losses: &self.losses,
        });
        self.note_lost(&deltas);
        // Only what was counted has a rate.
        deltas.retain(|delta| !matches!(delta.event, Event::Lost(_)));
        self.window
            .push(date, measured.duration_since(self.last_tick), &deltas);
        self.last_tick = measured;
        self.retire();
        self.check_alive();
        Ok(measured)
    }

    /// Asks what every process is called that has been counted and lives.
    pub(super) fn look_at_all(&mut self) {
        for owner in self.ledger.live_owners().collect::<Vec<_>>() {
            self.look_at(owner);
        }
    }

    /// Brings the ledger up to date. Returns when the counters were read.
    pub(super) fn read(&mut self) -> Result<(Instant, Timestamp), K::Error> {
        let mut counters = self.kernel.counters()?;
        let measured = (Instant::now(), Timestamp::now());
        let mut losses = self.kernel.losses()?;
        // Of its own requests none is counted, so none can be lost.
        for counter in counters.iter().filter(|counter| counter.key.pid == self.own_pid) {
            if let Event::Lost(loss) = Event::from_code(counter.key.code) {
                let sum = &mut losses.0[loss as usize];
                *sum = sum.saturating_sub(counter.value);
            }
        }
        if losses != self.losses {
            (self.losses, self.losses_changed) = (losses, measured.1);
        }
        counters.retain(|counter| counter.key.pid != self.own_pid);
        self.processes.start_reading();
        self.ledger
            .read(&counters, |owner| self.processes.identify(&owner));
        Ok(measured)
    }

    /// Looks which processes are gone. After the reading, so that the report shows none of them; the next reading is
    /// then their last. Who is in the report must be alive, or have been when it served in this tick and not only begun
    /// in it: those that serve one request and end must not fill the report. Of others, and what they are called, it is
    /// enough to notice some time.
    fn check_alive(&mut self) {
        let tick = self.tick;
        let due = |owner: &Owner, ticks: u64| u64::from(owner.pid) % ticks == tick % ticks;
        for owner in self.ledger.live_owners().collect::<Vec<_>>() {
            if due(&owner, NAME_CHECK_TICKS) {
                self.look_at(owner);
                continue;
            }
            let must_live = match self.window.idle(&owner) {
                Some(0) => !self.processes.lived(&owner),
                Some(_) => true,
                None => due(&owner, IDLE_CHECK_TICKS),
            };
            if must_live && matches!(self.processes.lives(&owner), Ok(false)) {
                self.ledger.mark_gone(owner);
            }
        }
    }

    fn look_at(&mut self, owner: Owner) {
        match self.processes.command(&owner) {
            Ok(Some(command)) => self.ledger.rename(&owner, &command),
            Ok(None) => self.ledger.mark_gone(owner),
            // Not known: ask again later.
            Err(_) => {}
        }
    }

    fn retire(&mut self) {
        let (owners, keys) = self.ledger.retirable();
        if keys.is_empty() {
            return;
        }
        let forgotten = self.kernel.forget(&keys);
        let failed_before = std::mem::replace(&mut self.forget_failed, forgotten.is_err());
        if let Err(error) = forgotten {
            // Closing the accounts now would count twice what is still in the map.
            if !failed_before {
                warn!(
                    error = error_chain(&error),
                    "failed to delete counters of processes that are gone; trying again"
                );
            }
            return;
        }
        if failed_before {
            info!("counters of processes that are gone can be deleted again");
        }
        for owner in owners {
            if let Some(place) = self.ledger.retire(&owner) {
                self.window.retire(owner, place);
            }
        }
    }

    /// Places in the window that are gone.
    pub(super) fn places_gone(&self) -> HashSet<Place> {
        let live: HashSet<&Place> = self
            .ledger
            .live_owners()
            .filter_map(|owner| Some(self.ledger.account(&owner)?.place()))
            .collect();
        let in_window = self.window.series().filter_map(|(subject, _)| match subject {
            Subject::Process(owner) => Some(self.ledger.account(owner)?.place()),
            Subject::Exited(place) => Some(place),
        });
        let doubtful: HashSet<&Place> = in_window.filter(|place| !live.contains(place)).collect();
        doubtful
            .into_iter()
            .filter(|place| !self.processes.exists(place))
            .cloned()
            .collect()
    }

    /// Keeps in mind what is to be told of who lost something.
    fn note_lost(&mut self, deltas: &[Delta]) {
        for delta in deltas {
            let (Event::Lost(loss), Subject::Process(owner)) = (delta.event, &delta.subject) else {
                continue;
            };
            if self.unlogged.len() < UNLOGGED_MAX || self.unlogged.contains_key(&(owner.pid, loss)) {
                let command = self.ledger.account(owner).and_then(Account::command);
                let (_, count) = self
                    .unlogged
                    .entry((owner.pid, loss))
                    .or_insert_with(|| (command.unwrap_or("?").to_owned(), 0));
                *count += delta.count;
            }
        }
    }

    /// Says what was lost since that was last said.
    pub(super) fn log_losses(&mut self, now: Instant) {
        if !self.loss_log.is_open(now) || self.losses == self.logged_losses {
            return;
        }
        let causes: Vec<String> = Loss::ALL
            .iter()
            .zip(self.losses.0.iter().zip(self.logged_losses.0))
            .filter(|(_, (count, before))| **count != *before)
            .map(|(loss, (count, before))| {
                format!("{}={count} (+{})", loss.name(), count.saturating_sub(before))
            })
            .collect();
        let mut lost: Vec<_> = std::mem::take(&mut self.unlogged).into_iter().collect();
        lost.sort_by_key(|(_, (_, count))| std::cmp::Reverse(*count));
        let lost_by: Vec<String> = lost
            .iter()
            .take(LOGGED_PROCESSES)
            .map(|((pid, loss), (command, count))| format!("{command} (pid {pid}): {}+{count}", loss.name()))
            .collect();
        warn!(
            causes = causes.join(" "),
            lost_by = lost_by.join(", "),
            "not everything could be counted"
        );
        self.logged_losses = self.losses;
        self.loss_log.close(now);
    }
}
