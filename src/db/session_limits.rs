//! Time limits of a connection's statements, by what the connection is for.

use std::time::Duration;

use super::watch::Silence;

/// Limits for a connection. A zero duration means no limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionLimits {
    /// The longest statement.
    pub(super) statement: Duration,
    /// The longest wait for a lock.
    pub(super) lock: Duration,
    /// How long the server may be silent.
    pub(super) silence: Silence,
}

/// The longest statement of a thread that works on a batch while callers wait.
pub(super) const SERVING_STATEMENT: Duration = Duration::from_secs(30);

/// Background workers: nobody waits for them, but they must not run for ever.
pub(super) const WORKERS: SessionLimits = SessionLimits {
    statement: Duration::from_secs(1800),
    lock: Duration::from_secs(60),
    silence: Silence { limit: Duration::from_secs(60), ask_server: true },
};

pub(super) const EXPORTS: SessionLimits = SessionLimits { statement: Duration::ZERO, ..WORKERS };

pub(super) const PROBES: SessionLimits = SessionLimits {
    statement: Duration::from_secs(2),
    lock: Duration::from_secs(1),
    silence: Silence { limit: Duration::from_secs(2), ask_server: false },
};

/// Commands at a terminal: the person there stops a command that takes too long.
pub(super) const COMMANDS: SessionLimits =
    SessionLimits { statement: Duration::ZERO, lock: Duration::ZERO, silence: Silence::UNLIMITED };
