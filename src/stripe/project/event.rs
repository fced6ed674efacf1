//! Events as the projection reads them.

use std::borrow::Cow;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Bool, Nullable, SmallInt, Text};

use super::object::ObjectKey;
use crate::stripe::Realm;
use crate::stripe::event::{self, Contents, Envelope};
use crate::stripe::inbox::Filed;
use crate::stripe::json::Json;
use crate::stripe::order::{self, Candidate, Rank};

/// What the queue knows of an event.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueEntry {
    pub(super) inbox_id: i64,
    /// Attempts that failed.
    pub(super) attempts: i16,
    /// Whether the queue has a row for it.
    pub(super) queued: bool,
}

impl QueueEntry {
    /// For an event that was filed just now: it needs no row on the queue unless it fails.
    pub(super) fn new(inbox_id: i64) -> Self {
        Self { inbox_id, attempts: 0, queued: false }
    }
}

/// An event of the inbox, read for the projection. It borrows the body.
pub(super) struct Event<'a> {
    pub(super) entry: QueueEntry,
    /// The object that it is about; `None` if it names none.
    pub(super) key: Option<ObjectKey>,
    pub(super) rank: Rank,
    /// Why its body cannot be read.
    pub(super) unreadable: Option<String>,
    /// Whether the daemon read the object at Stripe; no event told it.
    pub(super) fetched: bool,
    /// The row of the inbox that has the body: the event itself, or the row that a fetch confirms.
    pub(super) content_id: i64,
    event_id: Cow<'a, str>,
    event_type: Cow<'a, str>,
    pub(super) snapshot: Json<'a>,
    /// Entries of the object's lists that Stripe gives separately, by the name of the list.
    pub(super) more: Json<'a>,
    previous: Option<Json<'a>>,
}

impl<'a> Event<'a> {
    fn new(entry: QueueEntry, named: EventNames<'a>, contents: Contents<'a>) -> Self {
        let Contents { snapshot, more, previous, unreadable } = contents;
        let EventNames { event_id, event_type, created, key, fetched, body_of } = named;
        let key = key.filter(|_| snapshot.is_object());
        let kind = key.as_ref().map_or("", |key| &key.object);
        Self {
            entry,
            rank: order::rank(kind, &event_type, created, &snapshot),
            key,
            unreadable,
            fetched,
            content_id: body_of.unwrap_or(entry.inbox_id),
            event_id,
            event_type,
            snapshot,
            more,
            // A fetch reports no change, whatever the event reported whose object it confirms.
            previous: previous.filter(|previous| previous.is_object() && !fetched),
        }
    }

    pub(super) fn candidate(&self) -> Candidate<'_> {
        Candidate {
            event_id: &self.event_id,
            event_type: &self.event_type,
            rank: self.rank,
            snapshot: &self.snapshot,
            previous: self.previous.as_ref(),
        }
    }
}

/// An event without its snapshot.
struct EventNames<'a> {
    event_id: Cow<'a, str>,
    event_type: Cow<'a, str>,
    created: i64,
    key: Option<ObjectKey>,
    fetched: bool,
    body_of: Option<i64>,
}

/// A row of the inbox with what the queue knows of it.
#[derive(QueryableByName)]
pub(super) struct StoredEvent {
    #[diesel(sql_type = BigInt)]
    inbox_id: i64,
    #[diesel(sql_type = SmallInt)]
    attempts: i16,
    #[diesel(sql_type = Text)]
    account: String,
    #[diesel(sql_type = Bool)]
    livemode: bool,
    #[diesel(sql_type = Text)]
    event_id: String,
    #[diesel(sql_type = Text)]
    event_type: String,
    #[diesel(sql_type = BigInt)]
    created: i64,
    #[diesel(sql_type = Nullable<Text>)]
    object: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    object_id: Option<String>,
    #[diesel(sql_type = Bool)]
    fetched: bool,
    #[diesel(sql_type = Nullable<BigInt>)]
    body_of: Option<i64>,
    #[diesel(sql_type = Binary)]
    body: Vec<u8>,
}

impl StoredEvent {
    pub(super) fn entry(&self) -> QueueEntry {
        QueueEntry { inbox_id: self.inbox_id, attempts: self.attempts, queued: true }
    }
}

impl<'a> From<&'a StoredEvent> for Event<'a> {
    fn from(row: &'a StoredEvent) -> Self {
        let realm = Realm { account: row.account.clone(), livemode: row.livemode };
        let key = key(realm, row.object.clone().zip(row.object_id.clone()));
        let contents = event::contents(&row.body, key.is_some());
        let (event_id, event_type) = (row.event_id.as_str().into(), row.event_type.as_str().into());
        let (created, fetched, body_of) = (row.created, row.fetched, row.body_of);
        Self::new(row.entry(), EventNames { event_id, event_type, created, key, fetched, body_of }, contents)
    }
}

impl<'a> From<Filed<'a>> for Event<'a> {
    fn from(filed: Filed<'a>) -> Self {
        let Envelope { realm, event_id, event_type, created, object, object_id, .. } = filed.opened.envelope;
        let key = key(realm, object.zip(object_id));
        let (event_id, event_type) = (event_id.into(), event_type.into());
        let named = EventNames { event_id, event_type, created, key, fetched: false, body_of: None };
        Self::new(QueueEntry::new(filed.inbox_id), named, filed.opened.contents)
    }
}

/// The key of the object that an event names. The preview of an invoice (`upcoming_…`, since 2025-03-31) is
/// not an object: Stripe does not store it, and nobody can fetch it
/// (<https://docs.stripe.com/api/invoices/create_preview>).
fn key(realm: Realm, named: Option<(String, String)>) -> Option<ObjectKey> {
    let is_stored = |(object, id): &(String, String)| object != "invoice" || !id.starts_with("upcoming_");
    named.filter(is_stored).map(|(object, id)| ObjectKey { realm, object, id })
}
