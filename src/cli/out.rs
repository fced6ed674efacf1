//! Standard output of a command. A failed write is an error, never a panic.

use std::fmt::Display;
use std::io::Write;

use super::Failure;

/// Writes a line.
///
/// # Errors
/// When standard output cannot be written.
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

/// Writes a line about something that was done. When that fails, the error says that it was done, so that
/// nobody does it twice.
///
/// # Errors
/// As [`line`]; the text begins with `done`.
pub(super) fn line_of(done: &str, text: impl Display) -> Result<(), Failure> {
    line(text).map_err(|error| format!("{done}, but {error}").into())
}
