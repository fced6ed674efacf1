//! A request for usage as the four steps see it: its options, and the events that wait to be committed.

use crate::metering::usage::Usage;

/// What a request asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct IngestOptions {
    /// Store nothing when one event is rejected or in conflict.
    pub all_or_nothing: bool,
    /// With `all_or_nothing`: store nothing when one event was stored before, either.
    pub new_only: bool,
}

/// The events of a request that were not rejected. Its weight is their number.
pub(super) struct PendingRequest {
    pub(super) events: Vec<PendingEvent>,
    /// Version of the catalogue that resolved them.
    pub(super) catalog_version: i64,
    pub(super) options: IngestOptions,
}

/// An event on its way to the database.
pub(super) struct PendingEvent {
    pub(super) usage: Usage,
    /// An earlier attempt at this batch has committed it, so it is new and no repeat.
    pub(super) is_committed: bool,
}
