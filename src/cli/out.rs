//! Standard output of a command: what cannot be written there is an error, and never a panic.

use std::fmt::Display;
use std::io::Write;

use super::Failure;

/// Writes a line.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn line(text: impl Display) -> Result<(), Failure> {
    part(format_args!("{text}\n"))
}

/// Writes text without an end of line.
///
/// # Errors
/// As [`line`].
pub(super) fn part(text: impl Display) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    write!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|error| format!("standard output cannot be written: {error}").into())
}

/// Writes a line about what was done. Whoever cannot read it is told on standard error that it was done, so
/// that nobody does it twice.
///
/// # Errors
/// As [`line`], with `done` in its words.
pub(super) fn line_of(done: &str, text: impl Display) -> Result<(), Failure> {
    line(text).map_err(|error| format!("{done}, but {error}").into())
}
