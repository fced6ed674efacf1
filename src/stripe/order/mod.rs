//! Which snapshot of a Stripe object is its state.
//!
//! Stripe delivers events in any order, several events of an object share a second, and event ids are not
//! ordered in time. So the state depends only on the *set* of events. These rules decide, one after another:
//!
//! 1. *Standing*: a terminal status, or a deletion whose id never returns, wins before anything else, even if
//!    another event is later.
//! 2. The event's `created`: the latest wins. Events that are equal so far form a *group*; no event outside
//!    the group can win.
//! 3. *Deletion*: within the group, an event that says that the object is deleted wins.
//! 4. The *chain*: `previous_attributes` written over a snapshot gives the snapshot before. These links
//!    between the events of a group show which snapshots another one followed. If only one had no successor,
//!    it wins.
//! 5. The chain of `status`: if only the changes of `status` form a chain, the status at its end wins.
//! 6. *Stage*: how far the status is in the life of its kind; then the type of the event.
//! 7. The *path*: the order of all events of the group in which neighbours differ least. This helps where the
//!    links are not exact.
//! 8. A guess: what mostly grows, then the event id. The choice is then *ambiguous*: ask Stripe.
//!
//! If a group has a change and its reverse, but no event from before them, the choice is ambiguous, too,
//! whichever rule decides.
//!
//! Rules 1 and 2 need only the [`Rank`] of each event. So a caller may keep the winner and its rank, and call
//! [`choose`] with the whole group only when another event of that group arrives.

mod chain;
mod difference;
mod path;
pub(super) mod progress;
mod rank;

use serde_json::Value;

use super::json::Json;
use chain::Chain;
pub(crate) use chain::leave_out_stateless;
pub(super) use chain::normalise;
pub use rank::{GroupKey, Rank, rank};

/// The parts of an event that the order depends on.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// `id` of the event. The same id twice is the same event.
    pub event_id: &'a str,
    /// `type` of the event, such as `invoice.paid`.
    pub event_type: &'a str,
    /// The result of [`rank()`].
    pub rank: Rank,
    /// `data.object`.
    pub snapshot: &'a Json<'a>,
    /// `data.previous_attributes`: the old values of what changed.
    pub previous: Option<&'a Json<'a>>,
}

/// A candidate of the group. Its JSON is owned, so that it can be changed and compared.
struct GroupEvent<'a> {
    /// Index among the candidates.
    index: usize,
    event: &'a Candidate<'a>,
    snapshot: Value,
    previous: Option<Value>,
}

/// Which candidate is the state of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Index of the winner.
    pub winner: usize,
    /// Only a guess decides between the winner and a snapshot that differs: ask Stripe.
    pub ambiguous: bool,
}

/// The winner among the events of one object. It depends only on the set of events: their order and repeats
/// change nothing.
///
/// # Panics
/// When there are no candidates.
pub fn choose(candidates: &[Candidate]) -> Verdict {
    // In a transaction most objects have one event.
    if let [_] = candidates {
        return Verdict { winner: 0, ambiguous: false };
    }
    let group = group(candidates);
    assert!(!group.is_empty(), "choose needs at least one event of the object");
    if let [winner] = group[..] {
        return Verdict { winner, ambiguous: false };
    }
    choose_in_group(
        &group.into_iter().map(|index| GroupEvent::new(index, &candidates[index])).collect::<Vec<_>>(),
    )
}

/// Rules 4 to 8.
fn choose_in_group(events: &[GroupEvent]) -> Verdict {
    let chain = Chain::new(events);

    // Positions in `events` that may still win. Every step keeps at least one.
    let mut left: Vec<usize> = (0..events.len()).collect();
    let ends = chain.graph.ends();
    keep_if_any(&mut left, |at| ends[chain.node_of[at]]);
    if let Some(status) = chain::last_status(events) {
        keep_if_any(&mut left, |at| chain::status(&events[at].snapshot) == status);
    }
    let progress = |at: usize| (events[at].event.rank.progress, events[at].event.rank.type_rank);
    if !agree(&chain, &left) {
        let top = left.iter().map(|&at| progress(at)).max();
        keep_if_any(&mut left, |at| Some(progress(at)) == top);
    }
    if !agree(&chain, &left) {
        let mut wanted = vec![false; chain.nodes.len()];
        left.iter().for_each(|&at| wanted[chain.node_of[at]] = true);
        let previous: Vec<_> = events.iter().map(|event| event.previous.as_ref()).collect();
        let changed = difference::changed_fields(&chain, &previous);
        let last = path::last_nodes(&chain, &changed, &wanted);
        keep_if_any(&mut left, |at| last.contains(&chain.node_of[at]));
    }
    let event_id = |at: usize| events[at].event.event_id;
    let guess = left.iter().max_by_key(|&&at| (growth(&events[at].snapshot), event_id(at)));
    let node = chain.node_of[*guess.expect("every step keeps at least one event")];
    let ambiguous = !agree(&chain, &left) || chain.graph.circles_through(node);

    // Several events may report the winning snapshot. The choice among them must not depend on their order.
    let reports = (0..events.len()).filter(|&at| chain.node_of[at] == node);
    let winner = reports
        .max_by_key(|&at| (events[at].event.rank.type_rank, delivered_at(&events[at].snapshot), event_id(at)))
        .map_or(0, |at| events[at].index);
    Verdict { winner, ambiguous }
}

impl<'a> GroupEvent<'a> {
    fn new(index: usize, event: &'a Candidate<'a>) -> Self {
        Self { index, event, snapshot: event.snapshot.into(), previous: event.previous.map(Value::from) }
    }
}

/// Rules 1 to 3: the indexes of the candidates that may still win, each event once, in the order of event
/// ids.
fn group(candidates: &[Candidate]) -> Vec<usize> {
    let key = |index: usize| {
        let rank = &candidates[index].rank;
        (rank.group(), rank.deleted)
    };
    let top = (0..candidates.len()).map(key).max();
    let mut group: Vec<usize> = (0..candidates.len()).filter(|&index| Some(key(index)) == top).collect();
    group.sort_unstable_by_key(|&index| (candidates[index].event_id, index));
    group.dedup_by_key(|index| candidates[*index].event_id);
    group
}

/// Keeps the events that fit, unless none does.
fn keep_if_any(left: &mut Vec<usize>, fits: impl Fn(usize) -> bool) {
    if left.iter().any(|&at| fits(at)) {
        left.retain(|&at| fits(at));
    }
}

/// Whether all remaining events report the same snapshot.
fn agree(chain: &Chain, left: &[usize]) -> bool {
    left.iter().all(|&at| chain.node_of[at] == chain.node_of[left[0]])
}

/// What mostly grows during an object's life: when its webhooks were delivered, the start of its period, the
/// number of its values. This is a guess, not evidence.
fn growth(snapshot: &Value) -> (i64, i64, usize) {
    let period = snapshot["current_period_start"].as_i64().unwrap_or(0);
    (delivered_at(snapshot), period, values(snapshot))
}

/// When Stripe had delivered the webhooks of an invoice, in unix seconds; 0 before.
fn delivered_at(snapshot: &Value) -> i64 {
    snapshot["webhooks_delivered_at"].as_i64().unwrap_or(0)
}

fn values(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::Object(fields) => fields.values().map(values).sum(),
        Value::Array(items) => items.iter().map(values).sum(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests;
