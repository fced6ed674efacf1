//! What one event alone tells about its place among the events of its object.

use crate::stripe::json::{Json, field};
use crate::stripe::kinds;

/// The object may still change.
const OPEN: i16 = 0;
/// Its life has ended: only another end can follow.
const TERMINAL: i16 = 1;
/// It is deleted, and its id never names another.
const DELETED: i16 = 2;

/// What one event alone shows of its place in the order. Compared field by field, from the top.
///
/// It is small enough to be stored with the winner. Of two events of one object the one with the greater
/// [`GroupKey`] wins, always; within a group [`choose`](super::choose) has to see all events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    /// 0: may still change; 1: in a terminal status; 2: deleted, and the id never returns. Beats `created`.
    pub standing: i16,
    /// `created` of the Stripe event, in unix seconds.
    pub created: i64,
    /// The event says that the object is deleted.
    pub deleted: bool,
    /// How far the snapshot has come in the life of its kind, as an opaque number; 0 where nothing is known.
    pub progress: i64,
    /// How late this type of event comes in a life: `*.created` first, `*.deleted` last.
    pub type_rank: i16,
}

/// What decides alone: events of one object with an equal key form a *group*.
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
/// second of the event, `snapshot` its `data.object`. Allocates nothing; an unknown kind, type or status
/// ranks low and never fails.
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

/// Does this type of event open the life of its object?
pub(super) fn is_creation(event_type: &str) -> bool {
    event_type.ends_with(".created")
}

/// `customer.subscription.deleted` is no deletion: a subscription stays readable as `canceled`.
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
