//! Programs that the benches and the demo start and stop.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};

/// An error as soon as somebody wants this to stop.
pub async fn stop_signal<T>() -> Result<T> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    bail!("stopped before the end")
}

/// Start and stop take no longer.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A child that is stopped politely when dropped, with all it has started.
pub struct Process(pub Child);

impl Process {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// An error, with what it wrote, if it has ended.
    pub fn check(&mut self, log: &Path) -> Result<()> {
        if let Some(status) = self.0.try_wait()? {
            let said = fs::read_to_string(log).unwrap_or_default();
            bail!("it ended with {status}: {}", said.trim());
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = self.pid().to_string();
        let asked = Command::new("kill")
            .args(["-TERM", &pid])
            .stderr(Stdio::null())
            .status();
        let deadline = Instant::now() + PATIENCE;
        while asked.is_ok() && Instant::now() < deadline {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}
