//! Logs: pretty on a terminal, one JSON object a line otherwise, on standard error.

mod json;
mod lines;

use std::fmt::Display;
use std::io::IsTerminal;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

pub use lines::dropped;

/// How long the end of the process may wait for whoever reads its standard error.
const PATIENCE: Duration = Duration::from_secs(1);

/// Starts logging for the process; a second call changes nothing.
pub fn start(config: &Config) {
    let pretty = match config.log_format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    };
    // Its errors are about connections: what strangers send that is no HTTP, and what they do not read.
    let quieter = if config.log.contains("actix_http") { "" } else { ",actix_http=off" };
    let filter = EnvFilter::try_new(format!("{}{quieter}", config.log));
    let filter = filter.unwrap_or_else(|_| EnvFilter::new("info,actix_http=off"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        // Its own complaints would go to standard error directly, which may fail.
        .log_internal_errors(false)
        .with_writer(|| lines::Output);
    // An error here means that a test has started logging already.
    let _ = if pretty {
        subscriber.compact().try_init()
    } else {
        subscriber.event_format(json::Json).fmt_fields(json::Members).try_init()
    };
}

/// Says a line to whoever reads standard error, behind what was logged. Nobody may read it, which is no
/// reason to stop or to wait.
pub fn say(message: impl Display) {
    lines::put(format!("coulomb: {message}\n").as_bytes());
}

/// Waits for a second at most until everything that was said is written. The last thing that a process does.
pub fn flush() {
    lines::flush(PATIENCE);
}
