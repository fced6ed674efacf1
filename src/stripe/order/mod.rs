//! Which snapshot of a Stripe object is its state.
//!
//! Stripe delivers events in any order, several of one object share a second, and event ids are not ordered
//! in time. So the state is a function of the *set* of events, decided by, in this order:
//!
//! 1. *standing*: a terminal status or a deletion for good beats anything else, whatever the clock says;
//! 2. `created` of the event. The events equal so far are the *group*; nothing outside it matters any more;
//! 3. a tombstone;
//! 4. the chain: `previous_attributes` undone gives the snapshot before, so exact links between the events of
//!    the group show which snapshots were left again. If one remains, it wins;
//! 5. where the changes of `status` alone form a chain, the status at its end;
//! 6. the level of the status in the life of its kind, then the type of event;
//! 7. the path through all events of the group that contradicts itself least, for links that are not exact;
//! 8. what tends to grow, then the event id: the choice is then `ambiguous`, and Stripe should be asked.
//!
//! A change and its reverse within one group, without what came before, are `ambiguous` as well, whatever
//! decides.
//!
//! The rank of one event ([`rank()`]) carries what needs no comparison. Since 1 and 2 decide alone, a caller
//! may keep only the winner and its rank, and call [`choose`] for the group when an event with equal standing
//! and second arrives.

mod chain;
mod difference;
mod path;
mod rank;

use serde_json::Value;

use super::json::Json;
use chain::Chain;
pub use rank::{GroupKey, Rank, rank};

/// One stored event of an object, as far as the order depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// `id` of the event. The same id twice is the same event.
    pub event_id: &'a str,
    /// `type` of the event, such as `invoice.paid`.
    pub event_type: &'a str,
    /// What [`rank()`] makes of it.
    pub rank: Rank,
    /// `data.object`.
    pub snapshot: &'a Json<'a>,
    /// `data.previous_attributes`: the old values of what changed.
    pub previous: Option<&'a Json<'a>>,
}

/// A candidate of the group, with its JSON as what can be changed and compared.
struct Member<'a> {
    /// Index of the candidate.
    index: usize,
    event: &'a Candidate<'a>,
    snapshot: Value,
    previous: Option<Value>,
}

/// Which candidate holds the state of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Index of the winner.
    pub winner: usize,
    /// Nothing but a guess separates the winner from another, differing snapshot: Stripe should be asked.
    pub ambiguous: bool,
}

/// The winner among the events of one object. The answer depends on the set of events alone: their order and
/// repeats change nothing.
///
/// # Panics
/// Where there are no candidates: nothing can win.
pub fn choose(candidates: &[Candidate]) -> Verdict {
    // By far the most objects of a transaction have one event in it.
    if let [_] = candidates {
        return Verdict { winner: 0, ambiguous: false };
    }
    let group = group(candidates);
    assert!(!group.is_empty(), "choose needs at least one event of the object");
    if let [winner] = group[..] {
        return Verdict { winner, ambiguous: false };
    }
    among(&group.into_iter().map(|index| Member::new(index, &candidates[index])).collect::<Vec<_>>())
}

/// [`choose`], for the events of the group.
fn among(events: &[Member]) -> Verdict {
    let chain = Chain::new(events);

    // Positions in `events` that may still win; every step keeps at least one.
    let mut left: Vec<usize> = (0..events.len()).collect();
    let ends = chain.graph.ends();
    narrow(&mut left, |at| ends[chain.node_of[at]]);
    if let Some(status) = chain::last_status(events) {
        narrow(&mut left, |at| chain::status(&events[at].snapshot) == status);
    }
    let degree = |at: usize| (events[at].event.rank.progress, events[at].event.rank.type_rank);
    if !agree(&chain, &left) {
        let top = left.iter().map(|&at| degree(at)).max();
        narrow(&mut left, |at| Some(degree(at)) == top);
    }
    if !agree(&chain, &left) {
        let mut wanted = vec![false; chain.nodes.len()];
        left.iter().for_each(|&at| wanted[chain.node_of[at]] = true);
        let previous: Vec<_> = events.iter().map(|event| event.previous.as_ref()).collect();
        let told = difference::told(&chain, &previous);
        let last = path::last_nodes(&chain, &told, &wanted);
        narrow(&mut left, |at| last.contains(&chain.node_of[at]));
    }
    let event_id = |at: usize| events[at].event.event_id;
    let guess = left.iter().max_by_key(|&&at| (growth(&events[at].snapshot), event_id(at)));
    let node = chain.node_of[*guess.expect("no step leaves nothing")];
    let ambiguous = !agree(&chain, &left) || chain.graph.circles_through(node);

    // Several events may report the winning snapshot; which of them stands for it must not depend on their
    // order.
    let reports = (0..events.len()).filter(|&at| chain.node_of[at] == node);
    let winner = reports
        .max_by_key(|&at| (events[at].event.rank.type_rank, delivered_at(&events[at].snapshot), event_id(at)))
        .map_or(0, |at| events[at].index);
    Verdict { winner, ambiguous }
}

impl<'a> Member<'a> {
    fn new(index: usize, event: &'a Candidate<'a>) -> Self {
        Self { index, event, snapshot: event.snapshot.into(), previous: event.previous.map(Value::from) }
    }
}

/// The candidates that standing, `created` and tombstone leave, each event once: their indexes, by event id.
fn group(candidates: &[Candidate]) -> Vec<usize> {
    let above = |index: usize| {
        let rank = &candidates[index].rank;
        (rank.group(), rank.deleted)
    };
    let top = (0..candidates.len()).map(above).max();
    let mut group: Vec<usize> = (0..candidates.len()).filter(|&index| Some(above(index)) == top).collect();
    group.sort_unstable_by_key(|&index| (candidates[index].event_id, index));
    group.dedup_by_key(|index| candidates[*index].event_id);
    group
}

/// Keeps what fits, unless nothing does.
fn narrow(left: &mut Vec<usize>, fits: impl Fn(usize) -> bool) {
    if left.iter().any(|&at| fits(at)) {
        left.retain(|&at| fits(at));
    }
}

/// Do all that are left report the same snapshot?
fn agree(chain: &Chain, left: &[usize]) -> bool {
    left.iter().all(|&at| chain.node_of[at] == chain.node_of[left[0]])
}

/// What mostly grows while an object lives: when its webhooks were delivered, its period, the number of
/// values it holds. A guess, no evidence.
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
