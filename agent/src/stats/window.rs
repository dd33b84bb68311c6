//! The last minute, as rates.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Delta, Event, Owner, PerTick, Subject};
use crate::workload::Place;

/// One moment of measurement.
#[derive(Clone, Copy, Debug)]
struct Tick {
    date: Timestamp,
    /// Since the tick before.
    elapsed: Duration,
    /// The most ticks that the window was to have then.
    max_ticks: usize,
}

/// How often something happened in each of the window's latest ticks, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    counts: VecDeque<u64>,
    /// Zeros at the end.
    idle: usize,
}

impl Series {
    /// Begins a tick.
    fn push(&mut self) {
        self.counts.push_back(0);
        self.idle += 1;
    }

    /// Keeps the latest `ticks`.
    fn shorten(&mut self, ticks: usize) {
        let rest = self.counts.len().saturating_sub(ticks);
        self.counts.drain(..rest);
    }

    /// Counts something in the latest tick, the first one if there is none.
    fn add(&mut self, count: u64) {
        match self.counts.back_mut() {
            Some(latest) => *latest += count,
            None => self.counts.push_back(count),
        }
        if count > 0 {
            self.idle = 0;
        }
    }

    fn pop(&mut self) {
        self.counts.pop_back();
        self.idle = self.trailing_zeros();
    }

    fn trailing_zeros(&self) -> usize {
        self.counts.iter().rev().take_while(|count| **count == 0).count()
    }

    /// Adds another series of the same window, tick by tick.
    pub fn merge(&mut self, other: &Self) {
        while self.counts.len() < other.counts.len() {
            self.counts.push_front(0);
        }
        for (sum, count) in self.counts.iter_mut().rev().zip(other.counts.iter().rev()) {
            *sum += count;
        }
        self.idle = self.trailing_zeros();
    }

    /// How many ticks it has.
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a series in a window has at least one"
    )]
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// How many ticks ago something last happened.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.idle
    }

    fn is_idle(&self) -> bool {
        self.idle >= self.counts.len()
    }
}

/// The window of time that reports show.
///
/// All series share the ticks, so their samples carry equal dates. A series begins with the first tick in which
/// something happened, has explicit zeros from then on, and ends when it was idle for the whole window.
#[derive(Debug)]
pub struct Window {
    history: Duration,
    /// The same.
    history_by_clock: SignedDuration,
    /// Bounds memory when ticks come faster than expected.
    max_ticks: usize,
    ticks: VecDeque<Tick>,
    series: PerTick<Subject, BTreeMap<Event, Series>>,
}

impl Window {
    /// A window over the last `history`, in at most `max_ticks` ticks.
    #[must_use]
    pub fn new(history: Duration, max_ticks: usize) -> Self {
        Self {
            history,
            history_by_clock: by_clock(history),
            max_ticks,
            ticks: VecDeque::with_capacity(max_ticks),
            series: PerTick::default(),
        }
    }

    /// Ends a tick: `deltas` happened in the `elapsed` monotonic time (at least 1 ns) before `date`.
    ///
    /// Dates always ascend: when the clock was set back, the samples that are not before `date` are dropped.
    pub fn push(&mut self, date: Timestamp, elapsed: Duration, deltas: &[Delta]) {
        while self.ticks.back().is_some_and(|last| last.date >= date) {
            self.ticks.pop_back();
            self.series
                .values_mut()
                .flat_map(BTreeMap::values_mut)
                .for_each(Series::pop);
        }
        self.ticks.push_back(Tick {
            date,
            elapsed: elapsed.max(Duration::from_nanos(1)),
            max_ticks: self.max_ticks,
        });
        self.series
            .values_mut()
            .flat_map(BTreeMap::values_mut)
            .for_each(Series::push);
        for Delta {
            subject,
            event,
            count,
        } in deltas
        {
            self.series
                .entry(subject.clone())
                .or_default()
                .entry(*event)
                .or_default()
                .add(*count);
        }
        self.forget_old_ticks();
    }

    /// From now on it is one over the last `history`, in at most `max_ticks` ticks; only what is older goes.
    ///
    /// Where fewer, longer ticks are to come, those already there may be more for a while: as long as they are within
    /// `history`.
    pub fn resize(&mut self, history: Duration, max_ticks: usize) {
        self.history = history;
        self.history_by_clock = by_clock(history);
        self.max_ticks = max_ticks;
        self.forget_old_ticks();
    }

    fn forget_old_ticks(&mut self) {
        let mut age = Duration::ZERO;
        let newest = self.ticks.back().map(|tick| tick.date);
        let recent = self
            .ticks
            .iter()
            .rev()
            .zip(0..)
            .take_while(|(tick, place)| {
                // By the clock as well: while the host is suspended, and where the clock is set forward, it goes on alone.
                let fresh = age < self.history
                    && newest.is_none_or(|newest| newest.duration_since(tick.date) < self.history_by_clock);
                age += tick.elapsed;
                fresh && *place < tick.max_ticks.max(self.max_ticks)
            })
            .count();
        self.ticks.drain(..self.ticks.len() - recent);
        self.series.retain(|_, by_event| {
            by_event.retain(|_, series| {
                series.shorten(recent);
                !series.is_idle()
            });
            !by_event.is_empty()
        });
    }

    /// The process is gone: what it did is its place's from now on.
    pub fn retire(&mut self, owner: Owner, place: Place) {
        if let Some(by_event) = self.series.remove(&Subject::Process(owner)) {
            let exited = self.series.entry(Subject::Exited(place)).or_default();
            for (event, series) in by_event {
                exited.entry(event).or_default().merge(&series);
            }
        }
    }

    /// How many ticks ago the process last had traffic, 0 for the latest; nothing if it has none in the window.
    #[must_use]
    pub fn idle(&self, owner: &Owner) -> Option<usize> {
        let by_event = self.series.get(&Subject::Process(*owner))?;
        by_event.values().map(Series::idle).min()
    }

    /// When the window's ticks were measured, oldest first; strictly ascending.
    #[must_use]
    pub fn dates(&self) -> impl ExactSizeIterator<Item = Timestamp> + DoubleEndedIterator {
        self.ticks.iter().map(|tick| tick.date)
    }

    /// Everyone with traffic in the window, with what they did.
    pub fn series(&self) -> impl Iterator<Item = (&Subject, &BTreeMap<Event, Series>)> {
        self.series.iter()
    }

    /// The sum of series as rates per second, oldest first, for the last ticks of [`dates`](Self::dates), at most
    /// `ticks`.
    ///
    /// A rate times the time it was measured over is the count: nothing is lost or repeated when ticks are late.
    #[must_use]
    pub fn rates_of_sum(
        &self,
        series: &[&Series],
        ticks: usize,
    ) -> impl ExactSizeIterator<Item = f64> + DoubleEndedIterator {
        let longest = series.iter().map(|series| series.counts.len()).max().unwrap_or(0);
        let mut sums = vec![0; longest.min(ticks)];
        for Series { counts, .. } in series {
            let shown = counts.len().min(sums.len());
            let recent = counts.range(counts.len() - shown..);
            let first = sums.len() - shown;
            sums[first..]
                .iter_mut()
                .zip(recent)
                .for_each(|(sum, count)| *sum += count);
        }
        let ticks = self.ticks.range(self.ticks.len() - sums.len()..);
        ticks.zip(sums).map(|(tick, sum)| per_second(sum, tick.elapsed))
    }
}

fn by_clock(history: Duration) -> SignedDuration {
    SignedDuration::try_from(history).unwrap_or(SignedDuration::MAX)
}

fn per_second(count: u64, elapsed: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 in one tick")]
    let count = count as f64;
    count / elapsed.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HISTORY: Duration = Duration::from_mins(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn owner(pid: u32) -> Owner {
        Owner {
            pid,
            start_time: 1,
            cgroup: 1,
        }
    }

    fn delta(pid: u32, count: u64) -> Delta {
        Delta {
            subject: Subject::Process(owner(pid)),
            event: Event::Request,
            count,
        }
    }

    fn start() -> Timestamp {
        "2026-11-22T16:00:00Z".parse().unwrap()
    }

    fn requests(window: &Window, pid: u32) -> Option<Vec<f64>> {
        let series = window
            .series
            .get(&Subject::Process(owner(pid)))?
            .get(&Event::Request)?;
        Some(window.rates_of_sum(&[series], usize::MAX).collect())
    }

    /// A window after ticks of one second with these counts.
    fn window(counts: &[u64]) -> Window {
        let mut window = Window::new(HISTORY, 60);
        for (tick, count) in (1..).zip(counts) {
            let deltas = if *count > 0 {
                vec![delta(1, *count)]
            } else {
                vec![]
            };
            window.push(start() + SignedDuration::from_secs(tick), SECOND, &deltas);
        }
        window
    }

    #[test]
    fn zeros_between_hits_are_explicit() {
        assert_eq!(
            requests(&window(&[0, 0, 3, 0, 0, 1]), 1),
            Some(vec![3.0, 0.0, 0.0, 1.0])
        );
    }

    #[test]
    fn a_series_ends_when_it_was_idle_for_the_whole_window() {
        let mut counts = vec![1];
        counts.resize(60, 0);
        assert_eq!(requests(&window(&counts), 1).map(|rates| rates.len()), Some(60));
        counts.push(0);
        let window = window(&counts);
        assert_eq!(requests(&window, 1), None);
        assert_eq!(window.series().count(), 0);
    }

    #[test]
    fn rates_are_counts_over_measured_time() {
        let mut window = Window::new(HISTORY, 60);
        window.push(start(), Duration::from_millis(2500), &[delta(1, 5)]);
        assert_eq!(requests(&window, 1), Some(vec![2.0]));
    }

    #[test]
    fn late_ticks_shorten_the_window_to_its_time() {
        let mut window = Window::new(HISTORY, 60);
        for tick in 1..=20 {
            window.push(
                start() + SignedDuration::from_secs(tick * 7),
                7 * SECOND,
                &[delta(1, 7)],
            );
        }
        // Ages 0, 7, … 56 s.
        assert_eq!(window.dates().len(), 9);
        assert_eq!(requests(&window, 1), Some(vec![1.0; 9]));
    }

    #[test]
    fn dates_ascend_when_the_clock_is_set_back() {
        let mut window = window(&[1, 2, 3, 4]);
        window.push(start() + SignedDuration::from_secs(3), SECOND, &[delta(1, 5)]);
        assert_eq!(requests(&window, 1), Some(vec![1.0, 2.0, 5.0]));
        window.push(start() - SignedDuration::from_hours(1), SECOND, &[delta(1, 6)]);
        assert_eq!(requests(&window, 1), Some(vec![6.0]));
        assert_eq!(window.dates().len(), 1);
    }

    #[test]
    fn while_the_host_is_suspended_only_the_clock_goes_on() {
        let mut window = window(&[1, 2, 3]);
        window.push(start() + SignedDuration::from_secs(50), SECOND, &[delta(1, 4)]);
        assert_eq!(requests(&window, 1), Some(vec![1.0, 2.0, 3.0, 4.0]));
        window.push(start() + SignedDuration::from_hours(1), SECOND, &[delta(1, 5)]);
        assert_eq!(
            requests(&window, 1),
            Some(vec![5.0]),
            "the rest is from before the history"
        );
        assert_eq!(window.dates().len(), 1);
    }

    #[test]
    fn a_shorter_history_drops_what_is_older_and_a_longer_one_fills_up() {
        let mut window = window(&[1, 2, 3, 4, 5, 6]);
        window.resize(3 * SECOND, 3);
        assert_eq!(requests(&window, 1), Some(vec![4.0, 5.0, 6.0]));
        window.resize(HISTORY, 60);
        window.push(start() + SignedDuration::from_secs(7), SECOND, &[delta(1, 7)]);
        assert_eq!(requests(&window, 1), Some(vec![4.0, 5.0, 6.0, 7.0]));
    }

    #[test]
    fn who_was_idle_in_what_is_left_has_no_series() {
        let mut window = window(&[1, 0, 0]);
        window.resize(2 * SECOND, 2);
        assert_eq!((requests(&window, 1), window.series().count()), (None, 0));
        assert_eq!(window.dates().len(), 2);
    }

    #[test]
    fn a_new_interval_leaves_the_past_as_it_was_measured() {
        let mut window = window(&[1; 60]);
        let mut clock = start() + SignedDuration::from_mins(1);
        let mut push = |window: &mut Window, seconds: u32, times: usize| {
            for _ in 0..times {
                clock += SignedDuration::from_secs(seconds.into());
                window.push(clock, seconds * SECOND, &[delta(1, seconds.into())]);
            }
        };
        // Of 10 s: the new one, and what is less than 60 s older than it.
        window.resize(HISTORY, 6);
        assert_eq!(requests(&window, 1), Some(vec![1.0; 60]));
        push(&mut window, 10, 1);
        assert_eq!(requests(&window, 1), Some(vec![1.0; 51]));
        push(&mut window, 10, 9);
        assert_eq!(requests(&window, 1), Some(vec![1.0; 6]));
        // And back: 50 of 1 s, one of 10 s.
        window.resize(HISTORY, 60);
        push(&mut window, 1, 1);
        assert_eq!(requests(&window, 1), Some(vec![1.0; 7]));
        push(&mut window, 1, 49);
        assert_eq!(requests(&window, 1), Some(vec![1.0; 51]));
        push(&mut window, 1, 50);
        assert_eq!(requests(&window, 1), Some(vec![1.0; 60]));
    }

    #[test]
    fn a_process_that_is_gone_leaves_its_past_to_its_place() {
        let mut window = Window::new(HISTORY, 60);
        window.push(start(), SECOND, &[delta(1, 1), delta(2, 10)]);
        window.push(start() + SECOND, SECOND, &[delta(1, 2)]);
        let place = Place {
            cgroup: Some("/a".into()),
            ..Place::default()
        };
        window.retire(owner(1), place.clone());
        window.retire(owner(2), place.clone());
        assert_eq!(requests(&window, 1), None);
        let series = &window.series[&Subject::Exited(place)][&Event::Request];
        assert_eq!(
            window.rates_of_sum(&[series], usize::MAX).collect::<Vec<_>>(),
            [11.0, 2.0]
        );
    }

    /// Milliseconds: mostly small ones, at times an hour back or forth.
    fn clock_step() -> impl Strategy<Value = i64> {
        prop_oneof![
            30 => -2_000..5_000_i64,
            1 => Just(3_600_000),
            1 => Just(-3_600_000),
        ]
    }

    /// At times another history and number of ticks, in seconds.
    fn resize() -> impl Strategy<Value = Option<(u64, usize)>> {
        prop_oneof![
            10 => Just(None),
            1 => (1..61_u64, 1..61_usize).prop_map(Some),
        ]
    }

    proptest! {
        #[test]
        fn rate_times_time_is_the_count(
            ticks in prop::collection::vec((1..5_000_u64, clock_step(), 0..10_000_u64, resize()), 1..200)
        ) {
            let mut window = Window::new(HISTORY, 60);
            let mut clock = start();
            for (elapsed, step, count, resize) in ticks {
                if let Some((history, max_ticks)) = resize {
                    window.resize(Duration::from_secs(history), max_ticks);
                }
                let elapsed = Duration::from_millis(elapsed);
                clock += SignedDuration::from_millis(step);
                let deltas = if count > 0 { vec![delta(1, count)] } else { vec![] };
                window.push(clock, elapsed, &deltas);

                let rates = requests(&window, 1).unwrap_or_default();
                let latest = rates.last().copied().unwrap_or(0.0) * elapsed.as_secs_f64();
                #[expect(clippy::cast_precision_loss, reason = "small")]
                let count = count as f64;
                prop_assert!((latest - count).abs() < 1e-6, "{latest} for {count}");
                prop_assert!(rates.iter().all(|rate| *rate >= 0.0));
                prop_assert!(rates.is_empty() || rates.iter().any(|rate| *rate > 0.0));
                let dates: Vec<_> = window.dates().collect();
                prop_assert!(dates.is_sorted_by(|a, b| a < b));
                prop_assert!(dates.len() <= 60 && rates.len() <= dates.len());
                prop_assert_eq!(dates.last(), Some(&clock));
                let span = clock.duration_since(dates[0]);
                prop_assert!(span < SignedDuration::from_mins(1), "{}", span);
            }
        }
    }

    #[test]
    fn a_process_is_idle_since_its_latest_event_of_any_kind() {
        let mut window = window(&[1, 0, 0]);
        assert_eq!(window.idle(&owner(1)), Some(2));
        assert_eq!(window.idle(&owner(2)), None);
        let answered = Delta {
            event: Event::Response(200),
            ..delta(1, 1)
        };
        let third = start() + SignedDuration::from_secs(3);
        window.push(third + SignedDuration::from_secs(1), SECOND, &[answered]);
        assert_eq!(window.idle(&owner(1)), Some(0));
        // The clock was set back: what came after is forgotten.
        window.push(third, SECOND, &[]);
        assert_eq!(window.idle(&owner(1)), Some(2));
    }
}
