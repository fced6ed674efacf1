//! Logs: pretty on a terminal, one JSON object a line otherwise, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Starts logging for the process; a second call changes nothing.
pub fn start(config: &Config) {
    let pretty = match config.log_format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Pretty => true,
        LogFormat::Json => false,
    };
    let filter = EnvFilter::try_new(&config.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error here means that a test has started logging already.
    let _ = if pretty {
        subscriber.compact().try_init()
    } else {
        subscriber.json().flatten_event(true).try_init()
    };
}
