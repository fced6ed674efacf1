//! One Stripe object during a transaction.

use super::event::{Event, QueueEntry};
use crate::stripe::Realm;
use crate::stripe::order::{self, Candidate, GroupKey};
use crate::stripe::shape::{ObjectRef, ShapeError};

/// Names one Stripe object. Transactions lock objects in the order of these keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectKey {
    pub(super) realm: Realm,
    /// Its kind, such as `invoice`.
    pub(super) object: String,
    pub(super) id: String,
}

impl ObjectKey {
    /// The object as this event shows it.
    pub(super) fn shown_by<'a>(&'a self, event: &'a Event<'_>) -> ObjectRef<'a> {
        ObjectRef {
            realm: &self.realm,
            object: &self.object,
            id: &self.id,
            deleted: event.rank.deleted,
            more: Some(&event.more),
        }
    }
}

/// The winner that `stripe_objects` has for an object when it is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoredWinner {
    /// This transaction has just inserted the row.
    New,
    /// The row names no event: so far no event of the object could be read.
    Nobody,
    Event {
        /// The row of the inbox that has its body.
        content_id: i64,
        group: GroupKey,
    },
}

impl StoredWinner {
    fn group(self) -> Option<GroupKey> {
        match self {
            Self::Event { group, .. } => Some(group),
            Self::New | Self::Nobody => None,
        }
    }

    fn is(self, event: &Event<'_>) -> bool {
        matches!(self, Self::Event { content_id, .. } if content_id == event.content_id)
    }
}

/// The event that wins among some events of an object.
#[derive(Clone, Copy)]
pub(super) struct Choice<'a> {
    pub(super) event: &'a Event<'a>,
    pub(super) ambiguous: bool,
}

/// An object, and what a transaction knows of it so far.
pub(super) struct ProjectedObject<'a> {
    pub(super) key: &'a ObjectKey,
    /// Its events that this transaction claimed, at least one.
    pub(super) events: &'a [&'a Event<'a>],
    /// The winner among these events alone. A new object is inserted with it.
    pub(super) first_choice: Choice<'a>,
    pub(super) stored: StoredWinner,
    /// Events that were projected before and are in the group of the stored winner. They are loaded only if
    /// an event of this transaction is in that group, too.
    pub(super) rivals: &'a [&'a Event<'a>],
    /// Events that cannot be read, with the reason. They cannot win.
    pub(super) rejected: Vec<(QueueEntry, String)>,
    /// The winner among `events` and `rivals`. `None`: the stored winner ranks higher, or all are rejected.
    pub(super) outcome: Option<Choice<'a>>,
}

impl<'a> ProjectedObject<'a> {
    fn new(events: &'a [&'a Event<'a>]) -> Option<Self> {
        let first_choice = winner(events)?;
        Some(Self {
            key: first_choice.event.key.as_ref()?,
            events,
            first_choice,
            stored: StoredWinner::New,
            rivals: &[],
            rejected: Vec::new(),
            outcome: None,
        })
    }

    pub(super) fn is_new(&self) -> bool {
        self.stored == StoredWinner::New
    }

    /// The group of the stored winner, if an event of this transaction is in that group: then all events of
    /// the group must be compared.
    pub(super) fn contested_group(&self) -> Option<GroupKey> {
        let group = self.stored.group()?;
        self.events.iter().any(|event| event.rank.group() == group).then_some(group)
    }

    /// Computes the outcome.
    pub(super) fn choose(&mut self) {
        let best = if self.rivals.is_empty() && self.rejected.is_empty() {
            Some(self.first_choice)
        } else {
            let all = self.events.iter().chain(self.rivals).copied();
            winner(&all.filter(|event| !self.is_rejected(event)).collect::<Vec<_>>())
        };
        self.outcome = best.filter(|best| self.stored.group() <= Some(best.event.rank.group()));
    }

    fn is_rejected(&self, event: &Event<'_>) -> bool {
        self.rejected.iter().any(|(entry, _)| entry.inbox_id == event.entry.inbox_id)
    }

    /// The winner, if the mirrors do not show it yet. If they do, only `ambiguous` may change.
    pub(super) fn new_winner(&self) -> Option<&'a Event<'a>> {
        let Some(Choice { event, .. }) = self.outcome else { return self.queued_again() };
        if self.stored.is(event) { self.queued_again() } else { Some(event) }
    }

    /// The row that has the stored winner's body, if somebody queued it again: then it is mirrored again. The
    /// winner itself may be a fetch that confirms the row; the fetch alone changes nothing.
    fn queued_again(&self) -> Option<&'a Event<'a>> {
        let has_body = |event: &&&Event<'_>| {
            event.content_id == event.entry.inbox_id && self.stored.is(event) && !self.is_rejected(event)
        };
        self.events.iter().find(has_body).copied()
    }

    /// Excludes an event that cannot be read, and chooses again among the others.
    pub(super) fn reject(&mut self, event: &Event<'_>, error: &ShapeError) {
        self.rejected.push((event.entry, error.to_string()));
        self.choose();
    }
}

/// Chooses among events of one object; `None` if there are none.
fn winner<'a>(events: &[&'a Event<'a>]) -> Option<Choice<'a>> {
    let candidates: Vec<Candidate<'_>> = events.iter().map(|event| event.candidate()).collect();
    let verdict = (!candidates.is_empty()).then(|| order::choose(&candidates))?;
    Some(Choice { event: events[verdict.winner], ambiguous: verdict.ambiguous })
}

/// The events that are about an object, in the order of the objects' keys.
pub(super) fn sort_by_object<'a>(events: &'a [Event<'a>]) -> Vec<&'a Event<'a>> {
    let mut sorted: Vec<&Event<'_>> = events.iter().filter(|event| event.key.is_some()).collect();
    sorted.sort_by(|a, b| a.key.cmp(&b.key));
    sorted
}

/// One [`ProjectedObject`] for each object, in the order of keys.
pub(super) fn group_by_object<'a>(sorted: &'a [&'a Event<'a>]) -> Vec<ProjectedObject<'a>> {
    sorted.chunk_by(|a, b| a.key == b.key).filter_map(ProjectedObject::new).collect()
}

/// The events of one object. `sorted`: see [`sort_by_object`].
pub(super) fn events_of<'a, 'b>(sorted: &'b [&'a Event<'a>], key: &ObjectKey) -> &'b [&'a Event<'a>] {
    let from = sorted.partition_point(|event| event.key.as_ref() < Some(key));
    let upto = sorted.partition_point(|event| event.key.as_ref() <= Some(key));
    &sorted[from..upto]
}
