//! What one event alone shows about its place among the events of its object.

use crate::stripe::json::{Json, field};
use crate::stripe::kinds;

/// The object may still change.
const OPEN: i16 = 0;
/// Its life has ended: only another terminal status or a deletion can follow.
const TERMINAL: i16 = 1;
/// It is deleted, and its id never names another object.
const DELETED: i16 = 2;

/// What one event alone shows of its place in the order. Ranks compare field by field, from the top.
///
/// A rank is small enough to be stored with the winner. Of two events of one object, the one with the greater
/// [`GroupKey`] always wins. Within a group [`choose`](super::choose) must see all events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    /// 0: may still change; 1: in a terminal status; 2: deleted, and the id never returns. It counts before
    /// `created`.
    pub standing: i16,
    /// `created` of the Stripe event, in unix seconds.
    pub created: i64,
    /// Whether the event says that the object is deleted.
    pub deleted: bool,
    /// How far the snapshot has come in the life of its kind, as an opaque number; 0 if nothing is known.
    pub progress: i64,
    /// How late this type of event comes in a life: `*.created` is 0, `*.deleted` is the greatest.
    pub type_rank: i16,
}

/// The part of a [`Rank`] that decides alone. Events of one object with an equal key form a *group*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey {
    /// See [`Rank::standing`].
    pub standing: i16,
    /// See [`Rank::created`].
    pub created: i64,
}

impl Rank {
    /// The group that the event belongs to.
    pub fn group(&self) -> GroupKey {
        GroupKey { standing: self.standing, created: self.created }
    }
}

/// The rank of one event. `object` is the kind (`data.object.object`, such as `invoice`), `created` the unix
/// second of the event, `snapshot` its `data.object`. It allocates nothing and never fails: an unknown kind,
/// type or status ranks low.
pub fn rank(object: &str, event_type: &str, created: i64, snapshot: &Json<'_>) -> Rank {
    let kind = kinds::find(object);
    let deleted = is_deletion(object, event_type, snapshot);
    let progress = kind.progress(snapshot);
    let standing = match deleted {
        true if !kind.id_may_return => DELETED,
        _ if progress.terminal => TERMINAL,
        _ => OPEN,
    };
    Rank { standing, created, deleted, progress: progress.value, type_rank: type_rank(event_type) }
}

/// Whether this type of event begins the life of its object.
pub(super) fn is_creation(event_type: &str) -> bool {
    event_type.ends_with(".created")
}

/// Whether an event says that its object is deleted. `customer.subscription.deleted` does not: Stripe still
/// has the subscription, as `canceled`.
fn is_deletion(object: &str, event_type: &str, snapshot: &Json<'_>) -> bool {
    let says_so = event_type.ends_with(".deleted") || field(snapshot, "deleted").as_bool() == Some(true);
    says_so && object != "subscription"
}

fn type_rank(event_type: &str) -> i16 {
    match event_type.rsplit('.').next() {
        Some("created") => 0,
        Some("attached") => 1,
        Some("detached") => 3,
        Some("deleted") => 4,
        _ => 2,
    }
}
