//! Ingest: usage of many requests in few commits. No request gets its reply before the commit.
//!
//! - `accept.rs` takes a request: it finds the orgs of its events (`event_orgs.rs`) and resolves each event
//!   by the catalogue, which says what it counts and costs.
//! - `batch.rs` puts the request into the queue of a group commit, where it shares a batch with others.
//! - `commit.rs` stores the events of a batch in one transaction, or finds the event that cannot be stored.
//! - `reply.rs` gives each request the outcomes of its own events.

mod accept;
mod batch;
mod commit;
mod event_orgs;
mod reply;
mod request;

pub use self::accept::Ingest;
pub use self::request::IngestOptions;
