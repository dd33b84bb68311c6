//! Not being interrupted while the kernel keeps programs from running.
//!
//! While a task reads or changes a map the kernel runs no kprobe program on that CPU (`bpf_prog_active`), and on a
//! preemptible kernel the task may lose the CPU just then, to the very tasks whose calls are to be counted.

/// Real-time priority of this thread, until it is dropped.
#[must_use]
pub(super) struct RealTime {
    is_set: bool,
}

impl RealTime {
    /// Takes the lowest real-time priority, which is above that of all ordinary tasks. Where that is not allowed
    /// (`CAP_SYS_NICE`) everything stays as it is: the agent then loses a call now and then, and counts the gap.
    pub(super) fn take() -> Self {
        Self {
            is_set: set(libc::SCHED_FIFO, 1),
        }
    }

    /// Takes nothing: where programs run in spite of a map being read.
    pub(super) fn not_needed() -> Self {
        Self { is_set: false }
    }
}

impl Drop for RealTime {
    fn drop(&mut self) {
        if self.is_set {
            set(libc::SCHED_OTHER, 0);
        }
    }
}

fn set(policy: libc::c_int, priority: libc::c_int) -> bool {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the pointer is to a live `sched_param`; 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) == 0 }
}
