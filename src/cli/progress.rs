//! The progress bar of a long command.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the bar is redrawn without progress, so that its clock keeps running.
const TICK: Duration = Duration::from_millis(500);

/// A bar on a terminal; elsewhere nothing.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("{elapsed:>4} {bar:40} {percent:>3} % {eta:>4} left {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(None, target).with_style(style);
        if terminal {
            bar.enable_steady_tick(TICK);
        }
        Self(bar)
    }

    /// Shows what the command does, and how much of `all` is done.
    pub(super) fn show(&self, what: &'static str, done: u64, all: u64) {
        self.0.set_length(all);
        self.0.set_position(done);
        self.0.set_message(what);
    }

    /// Shows a text that changes, and how much of `all` is done.
    pub(super) fn say(&self, text: String, done: u64, all: u64) {
        self.0.set_length(all);
        self.0.set_position(done);
        self.0.set_message(text);
    }

    /// Removes the bar.
    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}
