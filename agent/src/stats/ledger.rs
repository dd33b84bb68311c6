//! Totals since the agent started.

use std::collections::{BTreeMap, HashMap};

use super::{Delta, Event, Owner, PerTick, Subject};
use crate::bpf::{Counter, CounterKey};
use crate::workload::Place;

/// How many places are kept apart for processes that are gone. Cgroups come and go with every pod and every session;
/// when there are more, what the longest unchanged did is kept under no place's name.
pub const MAX_EXITED_PLACES: usize = 4096;

/// What is known of the process behind a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Whether the process was gone already.
    pub gone: bool,
    /// The process's command name, if it could be read.
    pub command: Option<String>,
    /// Where it is or was.
    pub place: Place,
}

/// One counter, through any number of resets in the kernel.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// What was counted before the kernel's counter last started again at 0.
    settled: u64,
    /// The kernel's counter when last read.
    last: u64,
}

impl Tally {
    fn total(self) -> u64 {
        self.settled + self.last
    }

    /// Takes a reading and returns what is new.
    fn read(&mut self, value: u64) -> u64 {
        if value < self.last {
            self.settled += self.last;
            self.last = 0;
        }
        let new = value - self.last;
        self.last = value;
        new
    }
}

/// The running account of one process in one cgroup.
#[derive(Clone, Debug)]
pub struct Account {
    command: Option<String>,
    place: Place,
    tallies: BTreeMap<Event, Tally>,
}

impl Account {
    /// The process's command name, if it could be read.
    #[must_use]
    pub fn command(&self) -> Option<&str> {
        self.command.as_deref()
    }

    /// Where the process was counted.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What the process did so far.
    pub fn totals(&self) -> impl Iterator<Item = (Event, u64)> {
        self.tallies.iter().map(|(event, tally)| (*event, tally.total()))
    }
}

/// What all processes of a place did that are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exited {
    totals: BTreeMap<Event, u64>,
    /// [`Ledger::retirements`] when this last changed.
    changed: u64,
}

impl Exited {
    fn add(&mut self, totals: impl Iterator<Item = (Event, u64)>) {
        for (event, count) in totals {
            *self.totals.entry(event).or_default() += count;
        }
    }

    /// What they did.
    pub fn totals(&self) -> impl Iterator<Item = (Event, u64)> {
        self.totals.iter().map(|(event, count)| (*event, *count))
    }
}

/// Accounts of all processes that were ever counted.
///
/// Invariants, whatever the order of exits, readings and deletions in the kernel:
/// - every increment of a kernel counter that was read is in exactly one account;
/// - every increment is in exactly one [`Delta`];
/// - an account is closed only after a reading that began when its process was known to be gone, so it is complete.
///
/// Memory: one account per process with counters in the kernel's map, which is bounded, and
/// [`MAX_EXITED_PLACES`] for the rest.
#[derive(Debug, Default)]
pub struct Ledger {
    live: PerTick<Owner, Account>,
    /// Processes known to be gone whose accounts are still open, and whether they were known to be gone when the
    /// last reading began.
    gone: PerTick<Owner, Final>,
    exited: HashMap<Place, Exited>,
    /// What [`take_deltas`](Self::take_deltas) has not handed out yet.
    pending: PerTick<(Owner, Event), u64>,
    retirements: u64,
}

/// Whether the last reading saw all that a gone process did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Final {
    No,
    Yes,
}

impl Ledger {
    /// Owners of accounts whose processes are not known to be gone.
    pub fn live_owners(&self) -> impl Iterator<Item = Owner> {
        self.live.keys().filter(|owner| self.is_live(owner)).copied()
    }

    /// The account of a process, until it is [retired](Self::retire).
    #[must_use]
    pub fn account(&self, owner: &Owner) -> Option<&Account> {
        self.live.get(owner)
    }

    /// Whether the process has an account and is not known to be gone.
    #[must_use]
    pub fn is_live(&self, owner: &Owner) -> bool {
        self.live.contains_key(owner) && !self.gone.contains_key(owner)
    }

    /// The process lives and this is its command name now; `exec` changes it.
    pub fn rename(&mut self, owner: &Owner, command: &str) {
        if let Some(account) = self.live.get_mut(owner)
            && account.command.as_deref() != Some(command)
        {
            account.command = Some(command.to_owned());
        }
    }

    /// The process is gone. Its account is open until it can be [retired](Self::retirable).
    pub fn mark_gone(&mut self, owner: Owner) {
        if self.live.contains_key(&owner) {
            self.gone.entry(owner).or_insert(Final::No);
        }
    }

    /// Takes a reading of the kernel's counters that began after the last call of [`mark_gone`](Self::mark_gone).
    /// A counter that is missing from it is unchanged. `identify` is asked once for each new account.
    pub fn read(&mut self, counters: &[Counter], mut identify: impl FnMut(Owner) -> Identity) {
        for state in self.gone.values_mut() {
            *state = Final::Yes;
        }
        for Counter { key, value } in counters {
            let owner = Owner::from(*key);
            let event = Event::from_code(key.code);
            let account = self.live.entry(owner).or_insert_with(|| {
                let Identity { gone, command, place } = identify(owner);
                if gone {
                    // It may have gone on counting after the reading: only the next one is its last.
                    self.gone.insert(owner, Final::No);
                }
                Account {
                    command,
                    place,
                    tallies: BTreeMap::new(),
                }
            });
            let new = account.tallies.entry(event).or_default().read(*value);
            if new > 0 {
                *self.pending.entry((owner, event)).or_default() += new;
            }
        }
    }

    /// Owners whose accounts are complete, and their counters' keys in the kernel, to be deleted before
    /// [`retire`](Self::retire).
    #[must_use]
    pub fn retirable(&self) -> (Vec<Owner>, Vec<CounterKey>) {
        let owners: Vec<Owner> = self
            .gone
            .iter()
            .filter(|(_, state)| **state == Final::Yes)
            .map(|(owner, _)| *owner)
            .collect();
        let keys = owners
            .iter()
            .filter_map(|owner| Some((owner, self.live.get(owner)?)))
            .flat_map(|(owner, account)| account.tallies.keys().map(|event| owner.key(*event)))
            .collect();
        (owners, keys)
    }

    /// What happened since the last call.
    pub fn take_deltas(&mut self) -> Vec<Delta> {
        self.pending
            .drain()
            .map(|((owner, event), count)| Delta {
                subject: Subject::Process(owner),
                event,
                count,
            })
            .collect()
    }

    /// Closes the account of a process whose counters were deleted in the kernel and moves its sums to its place.
    /// Returns that place; `None` if there is no such account. [`Delta`]s not taken yet must be taken before.
    pub fn retire(&mut self, owner: &Owner) -> Option<Place> {
        debug_assert!(
            !self.pending.keys().any(|(pending, _)| pending == owner),
            "deltas were not taken"
        );
        self.gone.remove(owner);
        let account = self.live.remove(owner)?;
        self.retirements += 1;
        let exited = self.exited.entry(account.place.clone()).or_default();
        exited.changed = self.retirements;
        exited.add(account.totals());
        if self.exited.len() > MAX_EXITED_PLACES {
            self.merge_oldest_exited();
        }
        Some(account.place)
    }

    /// Halves the number of places kept for processes that are gone, so that this is rare.
    fn merge_oldest_exited(&mut self) {
        let mut ages: Vec<u64> = self.exited.values().map(|exited| exited.changed).collect();
        let middle = ages.len() / 2;
        let (_, cutoff, _) = ages.select_nth_unstable(middle);
        let cutoff = *cutoff;
        let mut nameless = self.exited.remove(&Place::default()).unwrap_or_default();
        self.exited.retain(|_, exited| {
            let keep = exited.changed >= cutoff;
            if !keep {
                nameless.add(exited.totals());
            }
            keep
        });
        nameless.changed = self.retirements;
        self.exited.insert(Place::default(), nameless);
    }

    /// Accounts of live processes, by owner.
    #[must_use]
    pub fn processes(&self) -> BTreeMap<Owner, &Account> {
        self.live
            .iter()
            .filter(|(owner, _)| !self.gone.contains_key(owner))
            .map(|(owner, account)| (*owner, account))
            .collect()
    }

    /// What processes did that are gone, by place.
    #[must_use]
    pub fn exited(&self) -> BTreeMap<Place, BTreeMap<Event, u64>> {
        let mut sums: BTreeMap<Place, BTreeMap<Event, u64>> = BTreeMap::new();
        let mut add = |place: &Place, totals: &mut dyn Iterator<Item = (Event, u64)>| {
            let sum = sums.entry(place.clone()).or_default();
            for (event, count) in totals {
                *sum.entry(event).or_default() += count;
            }
        };
        for (place, exited) in &self.exited {
            add(place, &mut exited.totals());
        }
        for account in self.gone.keys().filter_map(|owner| self.live.get(owner)) {
            add(&account.place, &mut account.totals());
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Subject;
    use super::*;

    fn place(cgroup: u64) -> Place {
        Place {
            cgroup: Some(format!("/{cgroup}").into()),
            ..Place::default()
        }
    }

    /// The kernel's map, the process table, and the truth about both.
    #[derive(Default)]
    struct World {
        map: HashMap<CounterKey, u64>,
        ended: Vec<Owner>,
        /// Deleted by a deletion that failed then.
        half_deleted: Vec<CounterKey>,
        truth: BTreeMap<Event, u64>,
    }

    impl World {
        fn hit(&mut self, owner: Owner, event: Event, count: u64) {
            let key = owner.key(event);
            // Such a counter cannot be told from one that was not deleted. It takes two things at once that are
            // each not to be expected: a failed deletion and a late hit.
            if self.half_deleted.contains(&key) {
                return;
            }
            *self.map.entry(key).or_default() += count;
            *self.truth.entry(event).or_default() += count;
        }

        fn identify(&self, owner: Owner) -> Identity {
            let gone = self.ended.contains(&owner);
            let command = (!gone).then(|| format!("server-{}", owner.pid));
            Identity {
                gone,
                command,
                place: place(owner.cgroup),
            }
        }

        /// Looks who is gone, then takes a reading.
        fn read(&self, ledger: &mut Ledger) {
            for owner in ledger.live_owners().collect::<Vec<_>>() {
                if self.ended.contains(&owner) {
                    ledger.mark_gone(owner);
                }
            }
            let counters: Vec<Counter> = self
                .map
                .iter()
                .map(|(key, value)| Counter {
                    key: *key,
                    value: *value,
                })
                .collect();
            ledger.read(&counters, |owner| self.identify(owner));
        }

        /// The rest of a tick. `deleted` counters are deleted before the deletion fails, if it does.
        fn retire(&mut self, ledger: &mut Ledger, deleted: Option<usize>) -> Vec<Delta> {
            let deltas = ledger.take_deltas();
            let (owners, keys) = ledger.retirable();
            for key in keys.iter().take(deleted.unwrap_or(usize::MAX)) {
                self.map.remove(key);
                if deleted.is_some() {
                    self.half_deleted.push(*key);
                }
            }
            if deleted.is_none() {
                self.half_deleted.clear();
                for owner in owners {
                    assert!(ledger.retire(&owner).is_some());
                }
            }
            deltas
        }
    }

    fn sum(ledger: &Ledger) -> BTreeMap<Event, u64> {
        let mut sum = BTreeMap::new();
        let processes = ledger.processes();
        let live = processes.values().flat_map(|account| account.totals());
        for (event, count) in live.chain(ledger.exited().into_values().flatten()) {
            *sum.entry(event).or_default() += count;
        }
        sum
    }

    #[derive(Clone, Debug)]
    enum Step {
        Hit(Owner, Event, u64),
        End(Owner),
        Read,
        Tick { deleted: Option<usize> },
    }

    /// Few of everything, so that pids and cgroups are used again.
    fn owner() -> impl Strategy<Value = Owner> {
        (1..4_u32, 1..4_u64, 1..3_u64).prop_map(|(pid, start_time, cgroup)| Owner {
            pid,
            start_time,
            cgroup,
        })
    }

    fn step() -> impl Strategy<Value = Step> {
        let event = prop_oneof![
            Just(Event::Request),
            (200..203_u16).prop_map(Event::Response),
            Just(Event::UnknownResponse)
        ];
        prop_oneof![
            6 => (owner(), event, 1..1000_u64).prop_map(|(owner, event, count)| Step::Hit(owner, event, count)),
            2 => owner().prop_map(Step::End),
            2 => Just(Step::Read),
            3 => Just(Step::Tick { deleted: None }),
            1 => (0..4_usize).prop_map(|deleted| Step::Tick { deleted: Some(deleted) }),
        ]
    }

    proptest! {
        /// Hits of a process that has ended are late ones: they come before or after its counters were deleted.
        #[test]
        fn totals_and_deltas_equal_what_happened_in_whatever_order(
            steps in prop::collection::vec(step(), 0..80)
        ) {
            let mut world = World::default();
            let mut ledger = Ledger::default();
            let mut delivered: BTreeMap<Event, u64> = BTreeMap::new();
            let mut deliver = |deltas: Vec<Delta>| {
                for delta in deltas {
                    assert!(delta.count > 0);
                    *delivered.entry(delta.event).or_default() += delta.count;
                }
            };
            for step in steps {
                match step {
                    Step::Hit(owner, event, count) => world.hit(owner, event, count),
                    Step::End(owner) => world.ended.push(owner),
                    Step::Read => {
                        world.read(&mut ledger);
                        prop_assert_eq!(&sum(&ledger), &world.truth);
                    }
                    Step::Tick { deleted } => {
                        world.read(&mut ledger);
                        deliver(world.retire(&mut ledger, deleted));
                        prop_assert_eq!(&sum(&ledger), &world.truth);
                    }
                }
                prop_assert!(ledger.processes().keys().all(|owner| ledger.is_live(owner)));
            }
            // One tick sees who has ended, the next one closes the accounts.
            for _ in 0..2 {
                world.read(&mut ledger);
                deliver(world.retire(&mut ledger, None));
            }
            prop_assert_eq!(&sum(&ledger), &world.truth);
            prop_assert_eq!(&delivered, &world.truth);
            prop_assert!(ledger.processes().keys().all(|owner| !world.ended.contains(owner)));
            prop_assert!(world.map.keys().all(|key| !world.ended.contains(&Owner::from(*key))));
        }
    }

    const NGINX: Owner = Owner {
        pid: 7,
        start_time: 70,
        cgroup: 1,
    };

    #[test]
    fn a_process_that_ends_moves_to_its_place_with_a_last_reading() {
        let mut world = World::default();
        let mut ledger = Ledger::default();
        world.hit(NGINX, Event::Request, 5);
        world.read(&mut ledger);
        let deltas = world.retire(&mut ledger, None);
        assert_eq!(
            deltas,
            [Delta {
                subject: Subject::Process(NGINX),
                event: Event::Request,
                count: 5
            }]
        );
        assert_eq!(ledger.processes()[&NGINX].command(), Some("server-7"));

        world.hit(NGINX, Event::Request, 2);
        world.ended.push(NGINX);
        world.read(&mut ledger);
        assert!(ledger.processes().is_empty());
        assert_eq!(ledger.exited()[&place(1)], BTreeMap::from([(Event::Request, 7)]));
        world.retire(&mut ledger, None);
        assert!(world.map.is_empty());
        assert_eq!(ledger.exited()[&place(1)], BTreeMap::from([(Event::Request, 7)]));
    }

    #[test]
    fn who_a_process_is_is_asked_once_for_each_cgroup_however_much_it_does() {
        let mut ledger = Ledger::default();
        let moved = Owner { cgroup: 2, ..NGINX };
        let mut asked = Vec::new();
        for value in 1..=10 {
            let counters = [
                (NGINX, Event::Request),
                (NGINX, Event::Response(200)),
                (NGINX, Event::Response(404)),
                (moved, Event::Request),
            ];
            let counters = counters.map(|(owner, event)| Counter {
                key: owner.key(event),
                value,
            });
            ledger.read(&counters, |owner| {
                asked.push(owner);
                World::default().identify(owner)
            });
        }
        assert_eq!(asked, [NGINX, moved]);
    }

    #[test]
    fn a_process_first_seen_when_gone_is_read_once_more_before_it_is_forgotten() {
        let mut world = World::default();
        let mut ledger = Ledger::default();
        world.ended.push(NGINX);
        world.hit(NGINX, Event::Request, 1);
        world.read(&mut ledger);
        world.retire(&mut ledger, None);
        assert!(!world.map.is_empty(), "it may have counted after the reading");
        world.hit(NGINX, Event::Request, 1);
        world.read(&mut ledger);
        world.retire(&mut ledger, None);
        assert!(world.map.is_empty());
        assert_eq!(ledger.exited()[&place(1)], BTreeMap::from([(Event::Request, 2)]));
    }

    #[test]
    fn the_number_of_places_is_bounded_and_nothing_is_lost() {
        let mut world = World::default();
        let mut ledger = Ledger::default();
        let cgroups = 3 * MAX_EXITED_PLACES as u64;
        for cgroup in 0..cgroups {
            let owner = Owner { cgroup, ..NGINX };
            world.ended.push(owner);
            ledger.read(
                &[Counter {
                    key: owner.key(Event::Request),
                    value: 1,
                }],
                |_| Identity {
                    gone: true,
                    command: None,
                    place: place(cgroup),
                },
            );
            ledger.read(&[], |_| unreachable!());
            ledger.take_deltas();
            ledger.retire(&owner);
            assert!(ledger.exited.len() <= MAX_EXITED_PLACES + 1);
        }
        assert_eq!(sum(&ledger), BTreeMap::from([(Event::Request, cgroups)]));
        let newest = place(cgroups - 1);
        assert_eq!(ledger.exited()[&newest], BTreeMap::from([(Event::Request, 1)]));
    }
}
