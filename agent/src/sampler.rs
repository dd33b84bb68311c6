//! The agent's own clockwork: reads the kernel's counters once per interval, and keeps the books.
//!
//! Pollers never touch the kernel: reports and the other [`View`]s are of the latest tick, written when somebody asks and
//! then the same bytes for all until the next. Only totals are read when asked for, because they are compared with other
//! counts.

use std::collections::{HashMap, HashSet};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{self, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::bpf::{self, Counter, CounterKey, Counters, Hook, Loss, Losses, ProgramStatistics};
use crate::cause::chain;
use crate::config::Live;
use crate::host::{self, HostIdentity, Poll};
use crate::metrics::{self, MAX_SERIES, Metrics};
use crate::overview::{Overview, Sources};
use crate::process::Processes;
use crate::report::{Facts, MAX_REPORT, ReportBuilder};
use crate::server::Body;
use crate::stats::{Ledger, Owner, Subject, Window};
use crate::totals::Totals;
use crate::workload::{Directory, Place};

/// Where counters come from.
pub trait Kernel {
    /// Why a reading failed.
    type Error: std::error::Error + 'static;

    /// The hook in use.
    fn hook(&self) -> Hook;

    /// All counters, cumulative since the programs were attached.
    ///
    /// # Errors
    /// When they cannot be read.
    fn counters(&mut self) -> Result<Vec<Counter>, Self::Error>;

    /// Deletes counters; those that do not exist are no error.
    ///
    /// # Errors
    /// When one cannot be deleted; others may have been.
    fn forget(&mut self, keys: &[CounterKey]) -> Result<(), Self::Error>;

    /// What could not be counted, cumulative.
    ///
    /// # Errors
    /// When it cannot be read.
    fn losses(&mut self) -> Result<Losses, Self::Error>;

    /// How often each program ran so far, by name; none where there are no programs.
    fn programs(&self) -> Vec<(&str, ProgramStatistics)> {
        Vec::new()
    }
}

impl Kernel for Counters {
    type Error = bpf::Error;

    fn hook(&self) -> Hook {
        self.hook()
    }

    fn counters(&mut self) -> Result<Vec<Counter>, bpf::Error> {
        self.read()
    }

    fn forget(&mut self, keys: &[CounterKey]) -> Result<(), bpf::Error> {
        self.forget(keys)
    }

    fn losses(&mut self) -> Result<Losses, bpf::Error> {
        self.losses()
    }

    fn programs(&self) -> Vec<(&str, ProgramStatistics)> {
        self.statistics().collect()
    }
}

/// How the latest tick went.
#[derive(Clone, Debug)]
pub struct Published {
    /// When the tick was over.
    pub at: Instant,
    /// When the next one is to be expected after that.
    pub interval: Duration,
    /// Why the counters could not be read in this tick, if so. Views then show what was read before.
    pub failure: Option<String>,
}

/// The counters could not be read, or the sampler has stopped.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the counters cannot be read: {0}")]
pub struct Unavailable(String);

/// One request for totals, and where the answer goes.
type TotalsRequest = oneshot::Sender<Result<Bytes, Unavailable>>;

/// What is told of the latest tick when somebody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// The [`report`](crate::report) as JSON.
    Report,
    /// [`Overview`] as JSON.
    Overview,
    /// [`Metrics`] as `OpenMetrics`.
    OpenMetrics,
    /// The same as [`metrics::classic`] text.
    ClassicMetrics,
}

/// One request for a view, and where the answer goes.
type ViewRequest = (View, oneshot::Sender<Result<Body, Unavailable>>);

/// How many requests of each kind may wait.
const MAX_REQUESTS: usize = 16;

/// How many polls are noted between two ticks. More than one of each probe tell nothing new.
const MAX_POLLS: usize = 16;

/// What servers tell the sampler. Looking into it is left to the sampler, so that no answer waits for `/proc`.
#[derive(Debug, Default)]
struct Notes {
    /// Polls since the last tick, none twice.
    polls: Mutex<Vec<Poll>>,
    /// How many reports were asked for since the last tick by those who take gzip.
    gzip: AtomicUsize,
}

/// The sampler as servers see it.
#[derive(Clone, Debug)]
pub struct Feed {
    published: watch::Receiver<Published>,
    totals: mpsc::Sender<TotalsRequest>,
    views: mpsc::Sender<ViewRequest>,
    notes: Arc<Notes>,
}

impl Feed {
    /// How the latest tick went.
    #[must_use]
    pub fn latest(&self) -> Published {
        self.published.borrow().clone()
    }

    /// Scope's probe has asked for a report.
    pub fn polled(&self, poll: Poll) {
        let mut polls = self.notes.polls.lock().unwrap_or_else(PoisonError::into_inner);
        if polls.len() < MAX_POLLS && !polls.contains(&poll) {
            polls.push(poll);
        }
    }

    /// Somebody who takes gzip has asked for a report.
    pub fn takes_gzip(&self) {
        self.notes.gzip.fetch_add(1, Ordering::Relaxed);
    }

    /// Totals as JSON, read now.
    ///
    /// # Errors
    /// When the kernel cannot be read, or the sampler has stopped.
    pub async fn totals(&self) -> Result<Bytes, Unavailable> {
        let (reply, answer) = oneshot::channel();
        ask(&self.totals, reply, answer).await
    }

    /// A view of the latest tick.
    ///
    /// # Errors
    /// When it cannot be written, or the sampler has stopped.
    pub async fn view(&self, view: View) -> Result<Body, Unavailable> {
        let (reply, answer) = oneshot::channel();
        ask(&self.views, (view, reply), answer).await
    }

    /// Waits for the next tick; `false` if there will be none.
    pub async fn ticked(&mut self) -> bool {
        self.published.changed().await.is_ok()
    }
}

async fn ask<R, T>(
    requests: &mpsc::Sender<R>,
    request: R,
    answer: oneshot::Receiver<Result<T, Unavailable>>,
) -> Result<T, Unavailable> {
    let stopped = || Unavailable("the agent is stopping".to_owned());
    if requests.send(request).await.is_err() {
        return Err(stopped());
    }
    answer.await.unwrap_or_else(|_| Err(stopped()))
}

/// In how many ticks it is looked once whether a process lives that has no traffic in the window.
const IDLE_CHECK_TICKS: u64 = 16;
/// In how many ticks it is looked once what a process is called: `exec` is rare, and a look takes ten times as long as
/// whether it lives.
const NAME_CHECK_TICKS: u64 = 64;
/// At most one line about losses in this time.
const LOSS_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// At most one line about shortened reports in this time.
const SIZE_LOG_INTERVAL: Duration = Duration::from_mins(10);
/// So many who take gzip in one tick are a crowd: for fewer it takes less of the host to copy a report than to compress
/// and unpack it.
const CROWD: usize = 8;
/// Reports are compressed, before anybody asks, for so many ticks after a crowd.
const GZIP_TICKS: u8 = 16;

/// Reads the kernel and keeps the books.
#[derive(Debug)]
pub struct Sampler<K> {
    kernel: K,
    processes: Processes,
    directory: watch::Receiver<Arc<Directory>>,
    ledger: Ledger,
    window: Window,
    builder: ReportBuilder,
    host: HostIdentity,
    /// Where `/proc` is mounted.
    proc: PathBuf,
    live: watch::Receiver<Live>,
    interval: Duration,
    /// The agent's own pid. It serves HTTP on its socket, but nobody asked for that to be measured.
    own_pid: u32,
    /// Ticks so far.
    tick: u64,
    /// When the last tick's counters were read; at first, when the programs were attached.
    last_tick: Instant,
    losses: Losses,
    /// When they last changed.
    losses_changed: Timestamp,
    /// Losses that were logged, and when.
    logged_losses: Losses,
    losses_logged: Option<Instant>,
    /// Whether the latest deletion of counters failed.
    forget_failed: bool,
    /// When it was last logged that reports are shortened.
    size_logged: Option<Instant>,
    notes: Arc<Notes>,
    /// Ticks for which reports are still compressed in advance.
    gzip_ticks: u8,
    metrics: Metrics,
    /// Views that were written since the latest tick.
    views: HashMap<View, Body>,
    published: watch::Sender<Published>,
    requests: mpsc::Receiver<TotalsRequest>,
    view_requests: mpsc::Receiver<ViewRequest>,
}

impl<K: Kernel> Sampler<K> {
    /// A sampler of counters that were all 0 at `attached`. Containers and pods are called what `directory` last said,
    /// and `live` may change at any time.
    #[must_use]
    pub fn new(
        kernel: K,
        attached: Instant,
        processes: Processes,
        directory: watch::Receiver<Arc<Directory>>,
        mut live: watch::Receiver<Live>,
        host: HostIdentity,
    ) -> (Self, Feed) {
        let (builder, window, interval) = {
            let live = live.borrow_and_update();
            (
                builder(&live, kernel.hook()),
                Window::new(live.history.get(), live.max_samples()),
                live.interval.get(),
            )
        };
        let notes = Arc::<Notes>::default();
        let ledger = Ledger::default();
        let empty = Published {
            at: Instant::now(),
            interval,
            failure: None,
        };
        let (published, latest) = watch::channel(empty);
        let (totals, requests) = mpsc::channel(MAX_REQUESTS);
        let (views, view_requests) = mpsc::channel(MAX_REQUESTS);
        let proc = processes.proc().to_owned();
        let metrics = Metrics::new(kernel.hook(), MAX_SERIES);
        let sampler = Self {
            kernel,
            processes,
            directory,
            ledger,
            window,
            builder,
            host,
            proc,
            live,
            interval,
            own_pid: std::process::id(),
            tick: 0,
            last_tick: attached,
            losses: Losses::default(),
            losses_changed: Timestamp::now(),
            logged_losses: Losses::default(),
            losses_logged: None,
            forget_failed: false,
            size_logged: None,
            notes: Arc::clone(&notes),
            gzip_ticks: 0,
            metrics,
            views: HashMap::new(),
            published,
            requests,
            view_requests,
        };
        (
            sampler,
            Feed {
                published: latest,
                totals,
                views,
                notes,
            },
        )
    }

    /// Runs until `shutdown`, on a thread of its own: reading a full map takes milliseconds, and neither may that hold up
    /// the server nor the server a tick.
    pub async fn run(self, shutdown: CancellationToken)
    where
        K: Send + 'static,
    {
        let runtime = Handle::current();
        let thread = tokio::task::spawn_blocking(move || runtime.block_on(self.sample(shutdown)));
        if let Err(error) = thread.await
            && let Ok(panic) = error.try_into_panic()
        {
            resume_unwind(panic);
        }
    }

    async fn sample(mut self, shutdown: CancellationToken) {
        let mut latest = time::Instant::now();
        let mut ticks = ticker(latest, self.interval);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                due = ticks.tick() => {
                    latest = due;
                    self.tick();
                }
                Ok(()) = self.live.changed() => {
                    let before = self.interval;
                    self.adjust();
                    if self.interval != before {
                        ticks = ticker(latest, self.interval);
                    }
                }
                Some(request) = self.requests.recv() => self.answer(request),
                Some((view, reply)) = self.view_requests.recv() => {
                    // Who does not wait any more needs no answer.
                    let _gone = reply.send(self.view(view));
                }
            }
        }
    }

    /// Goes by what is configured now. What was measured stays as it is: the window knows every status code, and each
    /// tick how long it took.
    fn adjust(&mut self) {
        {
            let live = self.live.borrow_and_update();
            self.window.resize(live.history.get(), live.max_samples());
            self.builder = builder(&live, self.kernel.hook());
            self.interval = live.interval.get();
        }
        self.views.clear();
        let interval = self.interval;
        self.published
            .send_modify(|published| published.interval = interval);
    }

    /// Reads the counters, and closes the accounts of processes that are gone.
    pub fn tick(&mut self) {
        let begin = Instant::now();
        self.tick = self.tick.wrapping_add(1);
        self.views.clear();
        let (measured, date) = match self.read() {
            Ok(measured) => measured,
            Err(failure) => return self.fail(failure),
        };
        let deltas = self.ledger.take_deltas();
        self.metrics.take(&metrics::Tick {
            now: measured,
            deltas: &deltas,
            ledger: &self.ledger,
            directory: &self.directory.borrow(),
            filter: &self.live.borrow().filter,
            losses: &self.losses,
        });
        self.window
            .push(date, measured.duration_since(self.last_tick), &deltas);
        self.last_tick = measured;
        self.retire();
        self.check_alive();
        self.look_at_probes(measured);
        self.log_losses(measured);
        self.publish();
        self.compress_for_crowd();
        self.metrics.ticked(begin.elapsed());
    }

    /// Brings the ledger up to date. Returns when the counters were read.
    fn read(&mut self) -> Result<(Instant, Timestamp), String> {
        let mut counters = self.kernel.counters().map_err(|error| chain(&error))?;
        let measured = (Instant::now(), Timestamp::now());
        let losses = self.kernel.losses().map_err(|error| chain(&error))?;
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

    fn fail(&self, failure: String) {
        self.metrics.failed();
        self.published.send_modify(|published| {
            if published.failure.is_none() {
                error!(failure, "failed to read the counters");
            }
            published.at = Instant::now();
            published.failure = Some(failure);
        });
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
                    error = chain(&error),
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

    fn look_at_probes(&mut self, now: Instant) {
        let mut polls = self.notes.polls.lock().unwrap_or_else(PoisonError::into_inner);
        let polls = std::mem::take(&mut *polls);
        self.host
            .update(polls, now, |pid| host::of_probe(&self.proc, pid));
    }

    /// Places in the window that are gone.
    fn places_gone(&self) -> HashSet<Place> {
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

    fn publish(&self) {
        self.published.send_modify(|published| {
            if published.failure.take().is_some() {
                info!("the counters can be read again");
            }
            published.at = Instant::now();
        });
    }

    /// Compressing takes longer than all else, so a crowd finds it done.
    fn compress_for_crowd(&mut self) {
        let takers = self.notes.gzip.swap(0, Ordering::Relaxed);
        self.gzip_ticks = if takers >= CROWD {
            GZIP_TICKS
        } else {
            self.gzip_ticks.saturating_sub(1)
        };
        if self.gzip_ticks > 0
            && let Ok(report) = self.view(View::Report)
        {
            let _compressed = report.gzip();
        }
    }

    fn report(&mut self) -> Vec<u8> {
        let begin = Instant::now();
        let gone = self.places_gone();
        let (report, shown) = self.builder.build(&Facts {
            host_id: &self.host.current().0,
            window: &self.window,
            ledger: &self.ledger,
            gone: &gone,
            directory: &self.directory.borrow(),
            losses: (&self.losses, self.losses_changed),
        });
        self.log_size(shown);
        self.metrics.reported(begin.elapsed());
        report
    }

    fn log_size(&mut self, shown: usize) {
        let ticks = self.window.dates().len();
        let recently = self
            .size_logged
            .is_some_and(|logged| logged.elapsed() < SIZE_LOG_INTERVAL);
        if shown < ticks && !recently {
            info!(
                shown,
                ticks, "reports would be too large; they show less of the past"
            );
            self.size_logged = Some(Instant::now());
        }
    }

    fn answer(&mut self, request: TotalsRequest) {
        // One reading answers all who wait now. Who comes during it must not get what was read before.
        let mut waiting = vec![request];
        while let Ok(request) = self.requests.try_recv() {
            waiting.push(request);
        }
        let totals = match self.read() {
            Ok(_) => {
                for owner in self.ledger.live_owners().collect::<Vec<_>>() {
                    self.look_at(owner);
                }
                serde_json::to_vec(&Totals::new(
                    self.kernel.hook(),
                    &self.host,
                    &self.ledger,
                    &self.directory.borrow(),
                    &self.losses,
                ))
                .map(Bytes::from)
                .map_err(|error| Unavailable(error.to_string()))
            }
            Err(failure) => Err(Unavailable(failure)),
        };
        for request in waiting {
            // Who does not wait any more needs no answer.
            let _gone = request.send(totals.clone());
        }
    }

    /// A view of the latest tick, as it was written for whoever asked first.
    fn view(&mut self, view: View) -> Result<Body, Unavailable> {
        if let Some(body) = self.views.get(&view) {
            return Ok(body.clone());
        }
        let text = match view {
            View::Report => Ok(self.report()),
            View::Overview => serde_json::to_vec(&Overview::new(&Sources {
                host: &self.host.current().0,
                hook: self.kernel.hook(),
                window: &self.window,
                ledger: &self.ledger,
                directory: &self.directory.borrow(),
                losses: &self.losses,
                failure: self.published.borrow().failure.as_deref(),
            }))
            .map_err(|error| Unavailable(error.to_string())),
            View::OpenMetrics => {
                self.metrics.measured(self.kernel.programs().into_iter());
                let text = self.metrics.text();
                text.map(String::into_bytes)
                    .map_err(|error| Unavailable(error.to_string()))
            }
            View::ClassicMetrics => {
                let open_metrics = self.view(View::OpenMetrics)?.plain();
                Ok(metrics::classic(&String::from_utf8_lossy(&open_metrics)).into_bytes())
            }
        };
        let body = Body::from(text?);
        self.views.insert(view, body.clone());
        Ok(body)
    }

    fn log_losses(&mut self, now: Instant) {
        let recently = self
            .losses_logged
            .is_some_and(|logged| now.duration_since(logged) < LOSS_LOG_INTERVAL);
        if recently || self.losses == self.logged_losses {
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
        warn!(causes = causes.join(" "), "not everything could be counted");
        self.logged_losses = self.losses;
        self.losses_logged = Some(now);
    }
}

fn builder(live: &Live, hook: Hook) -> ReportBuilder {
    ReportBuilder::new(live.status_codes.clone(), hook, MAX_REPORT).filtered(live.filter.clone())
}

/// Ticks every `interval`, first that long after `latest`, or at once where that is over.
fn ticker(latest: time::Instant, interval: Duration) -> time::Interval {
    let mut ticks = interval_at((latest + interval).max(time::Instant::now()), interval);
    // The rates are right whenever a tick comes; what is missed need not be made up for.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::rc::Rc;

    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;
    use crate::config::{Overrides, Settings};
    use crate::stats::Event;

    /// Counters in a map that the test fills.
    #[derive(Clone, Debug, Default)]
    struct FakeKernel(Rc<RefCell<FakeMaps>>);

    #[derive(Debug, Default)]
    struct FakeMaps {
        counters: BTreeMap<CounterKey, u64>,
        losses: Losses,
        broken: bool,
        /// When counters were read.
        readings: Vec<time::Instant>,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("the map is gone")]
    struct MapGone;

    impl FakeKernel {
        fn hit(&self, owner: Owner, event: Event, count: u64) {
            *self.0.borrow_mut().counters.entry(owner.key(event)).or_default() += count;
        }
    }

    impl Kernel for FakeKernel {
        type Error = MapGone;

        fn hook(&self) -> Hook {
            Hook::Tracepoint
        }

        fn counters(&mut self) -> Result<Vec<Counter>, MapGone> {
            let mut maps = self.0.borrow_mut();
            maps.readings.push(time::Instant::now());
            if maps.broken {
                return Err(MapGone);
            }
            Ok(maps
                .counters
                .iter()
                .map(|(key, value)| Counter {
                    key: *key,
                    value: *value,
                })
                .collect())
        }

        fn forget(&mut self, keys: &[CounterKey]) -> Result<(), MapGone> {
            self.0.borrow_mut().counters.retain(|key, _| !keys.contains(key));
            Ok(())
        }

        fn losses(&mut self) -> Result<Losses, MapGone> {
            Ok(self.0.borrow().losses)
        }
    }

    const NGINX: Owner = Owner {
        pid: 7,
        start_time: 70_000_000,
        cgroup: 1,
    };

    struct Setup {
        kernel: FakeKernel,
        proc: TempDir,
        sampler: Sampler<FakeKernel>,
        live: watch::Sender<Live>,
        feed: Feed,
    }

    impl Setup {
        fn new() -> Self {
            let kernel = FakeKernel::default();
            let proc = tempfile::tempdir().unwrap();
            let overrides = Overrides {
                host_id: Some("node-1".parse().unwrap()),
                ..Overrides::default()
            };
            let settings = Settings::new(overrides).unwrap();
            let live = watch::Sender::new(settings.live.clone());
            let processes = Processes::new(proc.path());
            let directory = watch::Sender::default();
            let (sampler, feed) = Sampler::new(
                kernel.clone(),
                Instant::now(),
                processes,
                directory.subscribe(),
                live.subscribe(),
                HostIdentity::new((settings.host_id, settings.host_id_source)),
            );
            Self {
                kernel,
                proc,
                sampler,
                live,
                feed,
            }
        }

        fn directory(&self, owner: Owner) -> PathBuf {
            self.proc.path().join(owner.pid.to_string())
        }

        fn start(&self, owner: Owner, command: &str) {
            let Owner { pid, start_time, .. } = owner;
            let directory = self.directory(owner);
            std::fs::create_dir_all(&directory).unwrap();
            let ticks = start_time / 10_000_000;
            let stat = format!("{pid} ({command}) S 1 7 7 0 -1 0 1 0 0 0 1 2 0 0 20 0 1 0 {ticks} 1 1 1\n");
            std::fs::write(directory.join("stat"), stat).unwrap();
            std::fs::write(directory.join("cgroup"), "0::/nginx.service\n").unwrap();
        }

        fn end(&self, owner: Owner) {
            std::fs::remove_dir_all(self.directory(owner)).unwrap();
        }

        fn report(&mut self) -> Value {
            let report = self.sampler.view(View::Report).unwrap();
            serde_json::from_slice(&report.plain()).unwrap()
        }

        fn nodes(&mut self) -> Vec<String> {
            self.report()["Process"]["nodes"]
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect()
        }

        fn totals(&mut self) -> Value {
            let (reply, mut answer) = oneshot::channel();
            self.sampler.answer(reply);
            serde_json::from_slice(&answer.try_recv().unwrap().unwrap()).unwrap()
        }
    }

    #[test]
    fn a_valid_report_is_there_before_the_first_tick() {
        let mut setup = Setup::new();
        assert_eq!(setup.report()["Plugins"][0]["id"], "http-statistics");
        assert_eq!(setup.nodes(), [""; 0]);
    }

    #[test]
    fn totals_are_fresh_and_do_not_disturb_rates() {
        let mut setup = Setup::new();
        setup.start(NGINX, "nginx");
        setup.kernel.hit(NGINX, Event::Request, 2);
        setup.kernel.hit(NGINX, Event::Response(200), 1);
        setup.kernel.hit(NGINX, Event::UnknownResponse, 1);
        let totals = setup.totals();
        assert_eq!(totals["hook"], "tracepoint");
        let row = json!({
            "pid": 7, "command": "nginx", "cgroup": "/nginx.service",
            "requests": 2, "responses": {"200": 1, "unknown": 1}
        });
        assert_eq!(totals["processes"], json!([row]));
        assert_eq!(totals["exited"], json!([]));
        assert_eq!(totals["unlabelled"], 0);
        assert_eq!(totals["losses"]["counters_full"], 0);
        assert_eq!(totals["losses"].as_object().unwrap().len(), Loss::ALL.len());

        setup.kernel.hit(NGINX, Event::Request, 1);
        setup.totals();
        setup.sampler.tick();
        let samples =
            &setup.report()["Process"]["nodes"]["node-1;7"]["metrics"]["http_requests_per_second"]["samples"];
        assert_eq!(samples.as_array().unwrap().len(), 1);
        assert!(samples[0]["value"].as_f64().unwrap() > 0.0);
    }

    #[test]
    fn requests_of_nobody_knows_whom_are_counted_as_such() {
        let mut setup = Setup::new();
        setup.start(NGINX, "nginx");
        setup.kernel.hit(NGINX, Event::Request, 2);
        // Gone before anyone looked, and so is its cgroup.
        let gone = Owner {
            pid: 8,
            cgroup: 4711,
            ..NGINX
        };
        setup.kernel.hit(gone, Event::Request, 3);
        setup.kernel.hit(gone, Event::Response(200), 3);
        setup.sampler.tick();
        let totals = setup.totals();
        assert_eq!(totals["unlabelled"], 3, "{totals}");
        assert_eq!(totals["exited"][0]["cgroup"], Value::Null, "{totals}");
    }

    #[test]
    fn a_process_that_ends_leaves_the_report_and_stays_in_the_totals() {
        let mut setup = Setup::new();
        setup.start(NGINX, "nginx");
        setup.kernel.hit(NGINX, Event::Request, 2);
        setup.sampler.tick();
        assert_eq!(setup.nodes(), ["node-1;7"]);

        setup.kernel.hit(NGINX, Event::Request, 1);
        setup.end(NGINX);
        setup.sampler.tick();
        assert_eq!(setup.nodes(), ["node-1;7"], "it lived when it served this one");
        setup.sampler.tick();
        assert_eq!(setup.nodes(), [""; 0]);
        assert!(
            !setup.kernel.0.borrow().counters.is_empty(),
            "it may have counted after the reading"
        );
        setup.sampler.tick();
        assert!(
            setup.kernel.0.borrow().counters.is_empty(),
            "its counters are forgotten"
        );
        let totals = setup.totals();
        assert_eq!(totals["processes"], json!([]));
        let exited = json!([{"cgroup": "/nginx.service", "requests": 3, "responses": {}}]);
        assert_eq!(totals["exited"], exited);

        setup.kernel.hit(NGINX, Event::Request, 1);
        assert_eq!(
            setup.totals()["exited"].as_array().unwrap().len(),
            2,
            "its cgroup is not known any more"
        );
        let again = Owner {
            start_time: NGINX.start_time + 1_000_000_000,
            ..NGINX
        };
        setup.start(again, "other");
        setup.kernel.hit(again, Event::Request, 5);
        setup.sampler.tick();
        assert_eq!(
            setup.totals()["processes"][0]["requests"],
            5,
            "the pid is another process's now"
        );
        assert_eq!(setup.nodes(), ["node-1;7"]);
    }

    /// Series of workloads and their values.
    fn scrape(setup: &mut Setup) -> BTreeMap<String, u64> {
        let text = setup.sampler.view(View::OpenMetrics).unwrap().plain();
        let text = String::from_utf8(text.to_vec()).unwrap();
        text.lines()
            .filter(|line| line.starts_with("http_server"))
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(series, value)| (series.to_owned(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn metrics_are_of_the_latest_tick_and_never_fall() {
        let mut setup = Setup::new();
        setup.start(NGINX, "nginx");
        setup.kernel.hit(NGINX, Event::Request, 2);
        assert_eq!(scrape(&mut setup).len(), 0);
        setup.totals();
        assert_eq!(scrape(&mut setup).len(), 0, "asking reads nothing");
        setup.sampler.tick();
        let before = scrape(&mut setup);
        assert_eq!(before.values().collect::<Vec<_>>(), [&2]);

        setup.kernel.hit(NGINX, Event::Request, 1);
        setup.end(NGINX);
        for expected in [3, 3, 3] {
            setup.sampler.tick();
            let after = scrape(&mut setup);
            assert!(after.keys().eq(before.keys()), "{after:?}");
            assert_eq!(after.values().collect::<Vec<_>>(), [&expected]);
        }
        // The next one of this name goes on from there.
        let again = Owner {
            start_time: NGINX.start_time + 1_000_000_000,
            ..NGINX
        };
        setup.start(again, "nginx");
        setup.kernel.hit(again, Event::Request, 1);
        setup.sampler.tick();
        assert_eq!(scrape(&mut setup).values().collect::<Vec<_>>(), [&4]);
    }

    #[test]
    fn exec_changes_the_command() {
        let mut setup = Setup::new();
        setup.start(NGINX, "sh");
        setup.kernel.hit(NGINX, Event::Request, 1);
        assert_eq!(setup.totals()["processes"][0]["command"], "sh");
        setup.start(NGINX, "nginx");
        assert_eq!(setup.totals()["processes"][0]["command"], "nginx");
    }

    #[test]
    fn the_agent_does_not_show_itself() {
        let mut setup = Setup::new();
        setup.kernel.hit(
            Owner {
                pid: std::process::id(),
                ..NGINX
            },
            Event::Request,
            1,
        );
        setup.sampler.tick();
        let totals = setup.totals();
        assert_eq!(
            (&totals["processes"], &totals["exited"]),
            (&json!([]), &json!([]))
        );
    }

    /// What the sampler does when it hears of a change.
    fn change(setup: &mut Setup, change: impl FnOnce(&mut Live)) {
        setup.live.send_modify(change);
        setup.sampler.adjust();
    }

    #[test]
    fn status_codes_can_change_and_take_their_past_with_them() {
        let mut setup = Setup::new();
        setup.start(NGINX, "nginx");
        change(&mut setup, |live| live.status_codes = "200,404".parse().unwrap());
        for _ in 0..2 {
            setup.kernel.hit(NGINX, Event::Response(404), 1);
            setup.sampler.tick();
        }
        let shown = |setup: &mut Setup, code: &str| {
            let report = setup.report();
            let id = format!("http_{code}_responses_per_second");
            let template = report["Process"]["metric_templates"].get(&id).is_some();
            let samples = report["Process"]["nodes"]["node-1;7"]["metrics"][&id]["samples"].clone();
            (template, samples)
        };
        let (_, past) = shown(&mut setup, "404");
        assert_eq!(past.as_array().unwrap().len(), 2);

        change(&mut setup, |live| live.status_codes = "200".parse().unwrap());
        assert_eq!(shown(&mut setup, "404"), (false, Value::Null));
        assert_eq!(shown(&mut setup, "OTHERS"), (true, past.clone()));

        change(&mut setup, |live| live.status_codes = "404".parse().unwrap());
        assert_eq!(shown(&mut setup, "404"), (true, past));
        assert_eq!(shown(&mut setup, "OTHERS"), (true, Value::Null));
        assert_eq!(shown(&mut setup, "200"), (false, Value::Null));
        let totals = setup.totals();
        assert_eq!(totals["processes"][0]["responses"], json!({"404": 2}));
    }

    #[test]
    fn a_change_does_not_hide_that_the_counters_cannot_be_read() {
        let mut setup = Setup::new();
        setup.kernel.0.borrow_mut().broken = true;
        setup.sampler.tick();
        change(&mut setup, |live| {
            live.status_codes = "200".parse().unwrap();
            live.interval = "30s".parse().unwrap();
        });
        let latest = setup.feed.latest();
        assert_eq!(latest.failure.as_deref(), Some("the map is gone"));
        assert_eq!(latest.interval, Duration::from_secs(30));
        let report = setup.report();
        let templates = report["Process"]["metric_templates"].as_object().unwrap();
        assert_eq!(templates.len(), 3, "requests, 200, others");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_interval_begins_with_the_latest_tick() {
        let Setup {
            kernel,
            sampler,
            live,
            proc: _proc,
            feed: _feed,
        } = Setup::new();
        let begin = time::Instant::now();
        let second = |second: u64| begin + Duration::from_secs(second);
        let shutdown = CancellationToken::new();
        let changes = async {
            let interval =
                |interval: &str| live.send_modify(|live| live.interval = interval.parse().unwrap());
            interval("10s");
            time::sleep_until(second(25)).await;
            interval("2s");
            time::sleep_until(second(30)).await;
            interval("5s");
            time::sleep_until(second(35)).await;
            live.send_modify(|live| live.status_codes = "200".parse().unwrap());
            time::sleep_until(second(36)).await;
            interval("5s");
            time::sleep_until(second(45)).await;
            shutdown.cancel();
        };
        tokio::join!(changes, sampler.sample(shutdown.clone()));
        let expected: Vec<_> = [10, 20, 25, 27, 29, 34, 39, 44].map(second).into();
        assert_eq!(kernel.0.borrow().readings, expected);
    }

    #[test]
    fn a_failed_reading_is_made_up_for_by_the_next() {
        let mut setup = Setup::new();
        setup.start(NGINX, "nginx");
        setup.kernel.0.borrow_mut().broken = true;
        setup.sampler.tick();
        assert_eq!(setup.feed.latest().failure.as_deref(), Some("the map is gone"));
        setup.kernel.0.borrow_mut().broken = false;
        setup.kernel.hit(NGINX, Event::Request, 1);
        setup.sampler.tick();
        assert_eq!(setup.feed.latest().failure, None);
        assert_eq!(setup.nodes(), ["node-1;7"]);
    }
}
