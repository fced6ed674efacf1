//! Faults of the world around the daemon, each against the built binary: nothing acknowledged is lost or doubled, the daemon is
//! back within ten seconds of the fault's end, and SIGTERM ends it throughout.

mod amounts;
mod clock;
mod corrections;
mod flood;
mod log;
mod panics;
mod verify;
