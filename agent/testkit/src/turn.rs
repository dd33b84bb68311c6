//! Who may use this machine: an agent counts all of it, so tests of different modules must not overlap.

use std::sync::{Condvar, Mutex, PoisonError};

/// The module whose tests run, and how many of them do.
static MACHINE: Mutex<(&str, usize)> = Mutex::new(("", 0));
static FREE: Condvar = Condvar::new();

/// The right to use this machine, beside other tests of the same module at most. Ends when dropped.
#[must_use = "the turn ends when this is dropped"]
pub struct Turn(());

impl Turn {
    /// Waits for the tests of other modules to end. `module` is the caller's `module_path!()`.
    pub fn of(module: &'static str) -> Self {
        let mut running = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        while running.1 > 0 && running.0 != module {
            running = FREE.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        *running = (module, running.1 + 1);
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut running = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        running.1 -= 1;
        drop(running);
        FREE.notify_all();
    }
}
