//! Which way bytes go.

/// Which way bytes go, as the process that makes the call sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Bytes the process received: requests, if it is a server.
    Received,
    /// Bytes the process sent: responses, if it is a server.
    Sent,
}

/// [`Direction::Received`] as a constant argument: every program handles one direction only, and what it never
/// handles should not cost it instructions.
pub(super) const RECEIVED: bool = true;
/// [`Direction::Sent`] as a constant argument.
pub(super) const SENT: bool = false;
