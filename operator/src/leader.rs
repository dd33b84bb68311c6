//! Leader election: of several operators, the one that holds the `Lease` works.
//!
//! Goal: there are never two that write, whatever their clocks say. So no time in the `Lease` is ever read; those are for
//! people. An operator that waits for the `Lease` takes it after having seen it unchanged for [`PATIENCE`], by its own clock. The
//! operator that holds it stops when it could not renew it for [`RENEW_DEADLINE`], which is shorter and counts from before it
//! asked. Two clocks are read for that: one that runs on when someone sets the time, and one that runs on while the machine
//! sleeps. Its work is dropped then. Each write looks once more before it begins ([`Leadership::lasts`]), since a process that was
//! stopped for a while may come back to a write when its leadership is over.
//!
//! Writes of the `Lease` name the version that they replace. So if two operators take it, one of them is refused.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::api_error::ApiError;
use crate::error_chain::error_chain;

/// The `Lease`, in the operator's namespace.
pub const NAME: &str = "scope-http-statistics-operator";
/// How long a `Lease` must stay unchanged to be taken from its holder.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long it is held without being renewed. The time that is left to [`PATIENCE`] is for requests that are under way.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Time between two looks at it.
const PERIOD: Duration = Duration::from_secs(2);
/// For one request: short enough for another attempt within [`RENEW_DEADLINE`].
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// A point in time by two clocks.
#[derive(Clone, Copy, Debug)]
struct Moment {
    /// Nobody can set this clock, but it stands still while the machine sleeps.
    steady: Instant,
    /// Anyone can set this clock, but it runs on while the machine sleeps.
    wall: SystemTime,
}

impl Moment {
    fn now() -> Self {
        Self {
            steady: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// By the clock that says more. A wall clock that was set back says nothing.
    fn elapsed(&self) -> Duration {
        self.steady.elapsed().max(self.wall.elapsed().unwrap_or_default())
    }
}

/// Until when an operator may write.
#[derive(Clone, Debug)]
pub struct Leadership {
    /// The moment before the last renewal; `None` if leadership has no end.
    renewed: Option<Arc<Mutex<Moment>>>,
}

impl Leadership {
    /// The leadership of the only operator that there is.
    #[must_use]
    pub fn unlimited() -> Self {
        Self { renewed: None }
    }

    fn since(moment: Moment) -> Self {
        Self {
            renewed: Some(Arc::new(Mutex::new(moment))),
        }
    }

    /// Whether no other operator can have begun to write.
    pub(crate) fn lasts(&self) -> bool {
        !self.remaining().is_zero()
    }

    fn remaining(&self) -> Duration {
        self.renewed.as_ref().map_or(Duration::MAX, |renewed| {
            let renewed = *renewed.lock().unwrap_or_else(PoisonError::into_inner);
            RENEW_DEADLINE.saturating_sub(renewed.elapsed())
        })
    }

    fn renew(&self, moment: Moment) {
        if let Some(renewed) = &self.renewed {
            *renewed.lock().unwrap_or_else(PoisonError::into_inner) = moment;
        }
    }
}

/// What an operator that wants the `Lease` does about it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Create,
    Take,
    Wait,
}

/// The version of the `Lease` that was seen last, and since when.
#[derive(Debug)]
struct LastSeen {
    version: Option<String>,
    since: Instant,
}

/// Remembers in `seen` what there is, and for how long.
fn step(lease: Option<&Lease>, identity: &str, seen: &mut Option<LastSeen>, now: Instant) -> Step {
    let Some(lease) = lease else {
        return Step::Create;
    };
    match holder(lease) {
        // Given back; or ours, though the answer that said so was lost.
        None => return Step::Take,
        Some(holder) if holder == identity => return Step::Take,
        Some(_) => {}
    }
    let version = &lease.metadata.resource_version;
    match seen {
        Some(seen) if seen.version == *version => {
            if now.duration_since(seen.since) >= PATIENCE {
                return Step::Take;
            }
        }
        _ => {
            *seen = Some(LastSeen {
                version: version.clone(),
                since: now,
            });
        }
    }
    Step::Wait
}

fn holder(lease: &Lease) -> Option<&str> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref()?;
    (!holder.is_empty()).then_some(holder)
}

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the API server did not answer within {REQUEST_TIMEOUT:?}")]
    Timeout,
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl Error {
    fn is(&self, code: u16) -> bool {
        matches!(self, Self::Api(error) if error.is(code))
    }
}

async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
    match timeout(REQUEST_TIMEOUT, request).await {
        Ok(answer) => Ok(answer.map_err(ApiError::from)?),
        Err(_elapsed) => Err(Error::Timeout),
    }
}

/// An operator that works while it holds the `Lease`.
#[derive(Debug)]
pub struct Candidate {
    leases: Api<Lease>,
    /// Names this process; no other process ever has the same.
    identity: String,
}

impl Candidate {
    /// A candidate for the `Lease` in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str) -> Self {
        // The name of the pod.
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "operator".to_owned());
        let random = RandomState::new().hash_one(std::process::id());
        Self {
            leases: Api::namespaced(client, namespace),
            identity: format!("{host}-{random:016x}"),
        }
    }

    /// Does `work` while it holds the `Lease`, again and again, until `stop`; then gives it back. `work` must end soon after
    /// `stop`, and write nothing after it was dropped. An operator that stands by is ready: it waits for nothing.
    pub async fn run<W: Future<Output = ()>>(
        &self,
        waiting_for: &watch::Sender<Option<&'static str>>,
        stop: &CancellationToken,
        work: impl Fn(Leadership) -> W,
    ) {
        while let Some((mut lease, since)) = stop.run_until_cancelled(self.acquire(waiting_for)).await {
            tracing::info!(identity = self.identity, "this operator has the lease and works");
            let leadership = Leadership::since(since);
            let ended = tokio::select! {
                () = work(leadership.clone()) => true,
                () = self.keep(&mut lease, &leadership) => false,
            };
            if ended {
                if let Err(error) = self.give_back(&leadership).await {
                    tracing::warn!(
                        error = error_chain(&error),
                        "the lease was not given back; others wait until it is {PATIENCE:?} old"
                    );
                }
                return;
            }
            tracing::warn!("this operator has lost the lease and stands by");
        }
    }

    /// Returns the `Lease`, and the moment before it was asked for.
    async fn acquire(&self, waiting_for: &watch::Sender<Option<&'static str>>) -> (Lease, Moment) {
        let mut seen = None;
        let mut told = String::new();
        loop {
            let since = Moment::now();
            let news = match self.attempt(&mut seen).await {
                Ok(Ok(lease)) => return (lease, since),
                Ok(Err(other)) => {
                    waiting_for.send_replace(None);
                    format!("{other} has the lease; standing by")
                }
                Err(error) => format!("waiting for the lease {NAME}: {}", error_chain(&error)),
            };
            if news != told {
                tracing::info!("{news}");
                told = news;
            }
            sleep(PERIOD).await;
        }
    }

    /// The `Lease`, if it could be had; otherwise the operator that has it.
    async fn attempt(&self, seen: &mut Option<LastSeen>) -> Result<Result<Lease, String>, Error> {
        let lease = within(self.leases.get_opt(NAME)).await?;
        let parameters = PostParams::default();
        let answer = match step(lease.as_ref(), &self.identity, seen, Instant::now()) {
            Step::Wait => {
                let other = lease.as_ref().and_then(holder).unwrap_or_default();
                return Ok(Err(other.to_owned()));
            }
            Step::Create => within(self.leases.create(&parameters, &self.taken(&Lease::default()))).await,
            Step::Take => {
                let taken = self.taken(&lease.unwrap_or_default());
                within(self.leases.replace(NAME, &parameters, &taken)).await
            }
        };
        match answer {
            Ok(lease) => Ok(Ok(lease)),
            Err(error) if error.is(409) => Ok(Err("another".to_owned())),
            Err(error) => Err(error),
        }
    }

    /// `lease` with this operator as the holder.
    fn taken(&self, lease: &Lease) -> Lease {
        let before = lease.spec.clone().unwrap_or_default();
        let now = MicroTime(Timestamp::now());
        Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                ..lease.metadata.clone()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(PATIENCE.as_secs()).ok(),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(before.lease_transitions.unwrap_or(0).saturating_add(1)),
                ..before
            }),
        }
    }

    /// Renews the `Lease`; returns when it is lost.
    async fn keep(&self, lease: &mut Lease, leadership: &Leadership) {
        loop {
            sleep(PERIOD.min(leadership.remaining())).await;
            let since = Moment::now();
            // The request is given up with the lease.
            let Ok(answer) = timeout(leadership.remaining(), self.renew(lease)).await else {
                return;
            };
            match answer {
                Ok(true) if leadership.lasts() => leadership.renew(since),
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(
                        error = error_chain(&error),
                        "the lease was not renewed; trying again"
                    );
                }
            }
        }
    }

    /// `false` if someone else has it.
    async fn renew(&self, lease: &mut Lease) -> Result<bool, Error> {
        if let Some(spec) = &mut lease.spec {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let parameters = PostParams::default();
        match within(self.leases.replace(NAME, &parameters, lease)).await {
            Ok(renewed) => *lease = renewed,
            Err(error) if error.is(404) => return Ok(false),
            Err(error) if error.is(409) => {
                let Some(current) = within(self.leases.get_opt(NAME)).await? else {
                    return Ok(false);
                };
                if holder(&current) != Some(&self.identity) {
                    return Ok(false);
                }
                // Someone changed something else in it, or the answer to a renewal was lost.
                *lease = current;
                return Err(error);
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Gives the `Lease` back, so that no other operator needs to wait until it is old.
    async fn give_back(&self, leadership: &Leadership) -> Result<(), Error> {
        let Some(mut lease) = within(self.leases.get_opt(NAME)).await? else {
            return Ok(());
        };
        if leadership.lasts()
            && holder(&lease) == Some(&self.identity)
            && let Some(spec) = &mut lease.spec
        {
            spec.holder_identity = None;
            within(self.leases.replace(NAME, &PostParams::default(), &lease)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        let long_ago: Timestamp = "1970-01-01T00:00:00Z".parse().unwrap();
        Lease {
            metadata: ObjectMeta {
                resource_version: Some(version.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                renew_time: Some(MicroTime(long_ago)),
                lease_duration_seconds: Some(1),
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn a_lease_is_taken_after_it_was_seen_unchanged_and_not_by_the_times_in_it() {
        let start = Instant::now();
        let mut seen = None;
        let mut at = |seconds: u64, lease: Option<&Lease>| {
            step(lease, "me", &mut seen, start + Duration::from_secs(seconds))
        };
        assert_eq!(at(0, None), Step::Create);
        // By its own account it is half a century over.
        assert_eq!(at(0, Some(&lease("other", "1"))), Step::Wait);
        assert_eq!(at(14, Some(&lease("other", "1"))), Step::Wait);
        // It lives, and the time begins anew, also when someone else takes it.
        assert_eq!(at(16, Some(&lease("other", "2"))), Step::Wait);
        assert_eq!(at(30, Some(&lease("third", "3"))), Step::Wait);
        assert_eq!(at(44, Some(&lease("third", "3"))), Step::Wait);
        assert_eq!(at(45, Some(&lease("third", "3"))), Step::Take);
        assert_eq!(at(46, Some(&lease("", "4"))), Step::Take);
        assert_eq!(at(46, Some(&lease("me", "5"))), Step::Take);
    }

    #[test]
    fn leadership_ends_by_whichever_clock_says_so() {
        let ago = |steady: u64, wall: u64| Moment {
            steady: Instant::now().checked_sub(Duration::from_secs(steady)).unwrap(),
            wall: SystemTime::now() - Duration::from_secs(wall),
        };
        assert!(Leadership::unlimited().lasts());
        assert!(Leadership::since(Moment::now()).lasts());
        assert!(!Leadership::since(ago(11, 0)).lasts());
        // The machine slept.
        assert!(!Leadership::since(ago(0, 11)).lasts());
        // Someone set the time back.
        let mut back = ago(0, 0);
        back.wall += Duration::from_hours(1);
        assert!(Leadership::since(back).lasts());

        let leadership = Leadership::since(ago(11, 11));
        let of_others = leadership.clone();
        leadership.renew(Moment::now());
        assert!(of_others.lasts());
        assert!(RENEW_DEADLINE + REQUEST_TIMEOUT < PATIENCE);
    }
}
