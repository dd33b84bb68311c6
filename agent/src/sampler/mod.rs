//! The agent's own clockwork: reads the kernel's counters once per interval, and keeps the books.
//!
//! Pollers never touch the kernel: reports and the other [`View`]s are of the latest tick, written when somebody asks and
//! then the same bytes for all until the next. Only totals are read when asked for, because they are compared with other
//! counts.

mod body;
mod books;
mod handle;
mod throttle;
mod views;

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::{self, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

pub use self::body::Body;
pub(crate) use self::body::accepts_gzip;
use self::books::Books;
pub use self::handle::{Feed, Published, Unavailable, View};
use self::handle::{MAX_REQUESTS, Notes, TotalsRequest, ViewRequest};
use self::views::{Views, totals};
use crate::bpf::{self, Counter, CounterKey, Counters, Hook, Losses, ProgramStatistics};
use crate::config::Live;
use crate::error_chain::error_chain;
use crate::host::{self, HostIdentity};
use crate::process::Processes;
use crate::stats::Window;
use crate::workload::Directory;

/// Where counters come from.
pub trait Kernel {
    /// Why a reading failed.
    type Error: std::error::Error + Send + Sync + 'static;

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

/// So many who take gzip in one tick are a crowd: for fewer it takes less of the host to copy a report than to compress
/// and unpack it.
const CROWD: usize = 8;
/// Reports are compressed, before anybody asks, for so many ticks after a crowd.
const GZIP_TICKS: u8 = 16;

/// Reads the kernel and keeps the books.
#[derive(Debug)]
pub struct Sampler<K> {
    books: Books<K>,
    views: Views,
    host: HostIdentity,
    /// Where `/proc` is mounted.
    proc: PathBuf,
    live: watch::Receiver<Live>,
    interval: Duration,
    notes: Arc<Notes>,
    /// Ticks for which reports are still compressed in advance.
    gzip_ticks: u8,
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
        let (views, window, interval) = {
            let live = live.borrow_and_update();
            (
                Views::new(&live, kernel.hook()),
                Window::new(live.history.get(), live.max_samples()),
                live.interval.get(),
            )
        };
        let notes = Arc::<Notes>::default();
        let empty = Published {
            at: Instant::now(),
            interval,
            failure: None,
        };
        let (published, latest) = watch::channel(empty);
        let (totals, requests) = mpsc::channel(MAX_REQUESTS);
        let (view_sender, view_requests) = mpsc::channel(MAX_REQUESTS);
        let proc = processes.proc().to_owned();
        let sampler = Self {
            books: Books::new(kernel, attached, processes, directory, window),
            views,
            host,
            proc,
            live,
            interval,
            notes: Arc::clone(&notes),
            gzip_ticks: 0,
            published,
            requests,
            view_requests,
        };
        (
            sampler,
            Feed {
                published: latest,
                totals,
                views: view_sender,
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
            self.books.window.resize(live.history.get(), live.max_samples());
            self.views.adjust(&live, self.books.kernel.hook());
            self.interval = live.interval.get();
        }
        let interval = self.interval;
        self.published
            .send_modify(|published| published.interval = interval);
    }

    /// Reads the counters, and closes the accounts of processes that are gone.
    pub fn tick(&mut self) {
        let begin = Instant::now();
        self.views.clear();
        let read = self.books.tick(&self.live.borrow().filter());
        match read {
            Ok(measured) => {
                self.look_at_probes(measured);
                self.books.log_losses(measured);
                self.publish();
                self.compress_for_crowd();
                self.books.metrics.ticked(begin.elapsed());
            }
            Err(error) => self.fail(error_chain(&error)),
        }
    }

    fn fail(&self, failure: String) {
        self.books.metrics.failed();
        self.published.send_modify(|published| {
            if published.failure.is_none() {
                error!(failure, "failed to read the counters");
            }
            published.at = Instant::now();
            published.failure = Some(failure);
        });
    }

    fn look_at_probes(&mut self, now: Instant) {
        let mut polls = self.notes.polls.lock().unwrap_or_else(PoisonError::into_inner);
        let polls = std::mem::take(&mut *polls);
        self.host
            .update(polls, now, |pid| host::of_probe(&self.proc, pid));
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

    fn answer(&mut self, request: TotalsRequest) {
        // One reading answers all who wait now. Who comes during it must not get what was read before.
        let mut waiting = vec![request];
        while let Ok(request) = self.requests.try_recv() {
            waiting.push(request);
        }
        let totals = totals(&mut self.books, &self.host);
        for request in waiting {
            // Who does not wait any more needs no answer.
            let _gone = request.send(totals.clone());
        }
    }

    /// A view of the latest tick.
    fn view(&mut self, view: View) -> Result<Body, Unavailable> {
        let failure = self.published.borrow().failure.clone();
        self.views
            .view(view, &mut self.books, &self.host, failure.as_deref())
    }
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
    use crate::bpf::Loss;
    use crate::config::{Overrides, Settings};
    use crate::stats::{Event, Owner};
    use tokio::sync::oneshot;

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
    fn a_loss_is_its_processs_and_none_of_ours_is_told() {
        let mut setup = Setup::new();
        setup.start(NGINX, "nginx");
        setup.kernel.hit(NGINX, Event::Request, 2);
        setup.sampler.tick();
        let ours = Owner {
            pid: std::process::id(),
            ..NGINX
        };
        setup.kernel.hit(NGINX, Event::Lost(Loss::GaveUp), 3);
        setup.kernel.hit(ours, Event::Lost(Loss::GaveUp), 2);
        // One of these is of a socket that went when its process was gone.
        setup.kernel.0.borrow_mut().losses.0[Loss::GaveUp as usize] = 6;
        let totals = setup.totals();
        assert_eq!(totals["losses"]["gave_up"], 4, "{totals}");
        assert_eq!(
            totals["processes"][0]["losses"],
            json!({"gave_up": 3}),
            "{totals}"
        );

        // It has no rate, and goes with its process.
        setup.sampler.tick();
        let node = &setup.report()["Process"]["nodes"]["node-1;7"];
        assert!(!node.to_string().contains("gave_up"), "{node}");
        setup.end(NGINX);
        for _ in 0..3 {
            setup.sampler.tick();
        }
        let totals = setup.totals();
        assert_eq!(totals["exited"][0]["losses"], json!({"gave_up": 3}), "{totals}");
        let left = setup
            .kernel
            .0
            .borrow()
            .counters
            .keys()
            .map(|key| key.pid)
            .collect::<Vec<_>>();
        assert_eq!(left, [ours.pid]);
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
