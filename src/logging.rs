//! Logs on standard error: pretty on a terminal, otherwise one JSON object a line.

mod json;
mod lines;

use std::fmt::Display;
use std::io::IsTerminal;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

pub use lines::dropped_lines;

/// How long the process waits at its end until the log is written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Starts logging for the process. A second call changes nothing.
pub fn start(config: &Config) {
    let pretty = match config.log_format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    };
    // Its errors are about connections of strangers who send no HTTP, or do not read the answer.
    let quiet_http = if config.log.contains("actix_http") { "" } else { ",actix_http=off" };
    let filter = EnvFilter::try_new(format!("{}{quiet_http}", config.log));
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("info,actix_http=off"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        // Its own errors would go directly to standard error, and that write may fail.
        .log_internal_errors(false)
        .with_writer(|| lines::Output);
    // This fails only if a test has started logging before.
    let _ = if pretty {
        subscriber.compact().try_init()
    } else {
        subscriber.event_format(json::JsonLines).fmt_fields(json::JsonFields).try_init()
    };
}

/// Prints a line for people on standard error, after everything that was logged. It neither waits nor fails
/// if nobody reads it.
pub fn print_line(message: impl Display) {
    lines::enqueue(format!("coulomb: {message}\n").as_bytes());
}

/// Waits until all lines are written, for a second at most. To be called last before the process ends.
pub fn flush() {
    lines::flush(FLUSH_TIMEOUT);
}
