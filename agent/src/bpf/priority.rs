//! Not being interrupted while the kernel keeps programs from running.
//!
//! While a task reads or changes a map the kernel runs no kprobe program on that CPU (`bpf_prog_active`), and on a
//! preemptible kernel the task may lose the CPU just then, to the very tasks whose calls are to be counted.

/// Real-time priority of this thread, until it is dropped.
#[must_use]
pub(super) struct RealTime {
    /// Policy and priority before, if they were changed.
    before: Option<(libc::c_int, libc::c_int)>,
}

impl RealTime {
    /// Takes the lowest real-time priority, which is above that of all ordinary tasks. Where that is not allowed
    /// (`CAP_SYS_NICE`) everything stays as it is: the agent then loses a call now and then, and counts the gap.
    pub(super) fn take() -> Self {
        let before = current().filter(|_| set(libc::SCHED_FIFO, 1));
        Self { before }
    }

    /// Takes nothing: where programs run in spite of a map being read.
    pub(super) fn not_needed() -> Self {
        Self { before: None }
    }
}

impl Drop for RealTime {
    fn drop(&mut self) {
        if let Some((policy, priority)) = self.before {
            set(policy, priority);
        }
    }
}

/// Policy and priority of the calling thread.
fn current() -> Option<(libc::c_int, libc::c_int)> {
    let mut parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a live `sched_param`; 0 is the calling thread.
    let policy = unsafe {
        if libc::sched_getparam(0, &raw mut parameters) != 0 {
            return None;
        }
        libc::sched_getscheduler(0)
    };
    (policy >= 0).then_some((policy, parameters.sched_priority))
}

fn set(policy: libc::c_int, priority: libc::c_int) -> bool {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the pointer is to a live `sched_param`; 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_its_own_policy_again() {
        // Where neither is allowed there is nothing to see.
        if set(libc::SCHED_BATCH, 0) {
            let before = current();
            assert_eq!(before, Some((libc::SCHED_BATCH, 0)));
            let taken = RealTime::take();
            if taken.before.is_some() {
                assert_eq!(current(), Some((libc::SCHED_FIFO, 1)));
            }
            drop(taken);
            assert_eq!(current(), before);
        }
    }
}
