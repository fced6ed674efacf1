//! Group commit: inputs of many requests share one transaction, and each caller gets its own output after the
//! commit. What arrives during a commit goes into the next one; an input that is alone waits for nobody.
//!
//! [`Batcher::submit`] puts an input into a bounded queue (`queue.rs`). A thread takes what waits
//! (`batcher.rs`), runs the [`Work`] over its own connection (`session.rs`), runs it again where that helps
//! (`retry.rs`), and replies to all callers together (`replies.rs`).

mod batcher;
mod queue;
mod replies;
mod retry;
mod session;

use std::sync::Arc;

pub use self::batcher::Batcher;
pub use self::queue::Gathering;
pub use self::retry::Retry;
pub use self::session::Session;
use crate::error::Error;
use crate::shares::Shares;

/// What a batch is for. Each thread of a [`Batcher`] has its own.
pub trait Work: Send + 'static {
    /// What a caller submits.
    type Input: Send + 'static;
    /// What the caller gets.
    type Output: Send + 'static;

    /// Runs all inputs and returns one output for each, in their order.
    ///
    /// # Errors
    /// Nothing was done, or [`Error::OutcomeUnknown`]. The batcher decides by the error whether it runs the
    /// same inputs again, runs each alone, or gives up.
    fn run(&mut self, session: &mut Session, inputs: &mut [Self::Input]) -> Result<Vec<Self::Output>, Error>;

    /// What an input adds to the weight of a batch, which [`BatchBounds::weight`] limits.
    fn weight(_input: &Self::Input) -> usize {
        1
    }

    /// Whether no other input may share a batch with this one.
    fn goes_alone(_input: &Self::Input) -> bool {
        false
    }

    /// Called when the replies of a successful batch are sent.
    fn after_replies(&mut self) {}
}

/// How a [`Batcher`] works.
pub struct Settings {
    /// Kind of its threads: their name in logs, metrics and probes.
    pub name: &'static str,
    /// How many threads, each with a connection.
    pub threads: usize,
    /// How many inputs may wait.
    pub capacity: usize,
    /// Room for the weight of all inputs without a reply, shared fairly among holders. `None`: only
    /// `capacity` limits them.
    pub places: Option<Arc<Shares>>,
    pub batch: BatchBounds,
    /// Whether a thread waits for more inputs while other threads are busy.
    pub gathering: Option<Gathering>,
    pub retry: Retry,
}

/// The size of a batch. An input that is heavier than a whole batch goes alone.
#[derive(Clone, Copy, Debug)]
pub struct BatchBounds {
    /// Inputs at most.
    pub inputs: usize,
    /// Weight of all of them at most.
    pub weight: usize,
}

/// Why an input has no output.
#[derive(Debug)]
pub enum NotDone {
    /// Too much waits, or too much of this holder.
    Full,
    /// The batcher takes no more inputs.
    Stopping,
    /// Nothing was done: the database is away or busy.
    Away,
    /// The outcome did not come in time, or could not be found out. It may have been done.
    Unknown,
    /// Nothing was done. The input was run alone, and running it again does not help.
    Failed(Error),
}
