//! Whole decisions: tables for each kind, life-cycles as Stripe sends them, and properties over random
//! histories.

mod decisions;
mod kinds;
mod lives;
mod properties;
mod recorded;

use std::borrow::Borrow;

use serde_json::Value;

use super::*;

/// An event that owns its parts.
#[derive(Clone, Debug)]
struct Stored {
    id: String,
    event_type: String,
    created: i64,
    snapshot: Value,
    previous: Option<Value>,
}

/// [`super::choose`] among these events of a kind of object.
fn choose(object: &str, events: &[impl Borrow<Stored>]) -> Verdict {
    let events: Vec<&Stored> = events.iter().map(Borrow::borrow).collect();
    let read: Vec<(Json<'_>, Option<Json<'_>>)> = events
        .iter()
        .map(|event| ((&event.snapshot).into(), event.previous.as_ref().map(Json::from)))
        .collect();
    let candidates = events.iter().zip(&read).map(|(event, (snapshot, previous))| Candidate {
        event_id: &event.id,
        event_type: &event.event_type,
        rank: super::rank(object, &event.event_type, event.created, snapshot),
        snapshot,
        previous: previous.as_ref(),
    });
    super::choose(&candidates.collect::<Vec<_>>())
}

fn rank(object: &str, event_type: &str, created: i64, snapshot: &Value) -> Rank {
    super::rank(object, event_type, created, &snapshot.into())
}

/// The index of the winner, and whether it was a guess.
fn winner(object: &str, events: &[Stored]) -> (usize, bool) {
    let verdict = choose(object, events);
    (verdict.winner, verdict.ambiguous)
}

/// An id that, like Stripe's, says nothing about time.
fn event_id(seed: u64) -> String {
    format!("evt_{:016x}", mix(seed))
}

/// A bijection that scatters (splitmix64).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Calls `visit` with every order of `0..count` (Heap's algorithm).
fn every_order(count: usize, mut visit: impl FnMut(&[usize])) {
    let mut order: Vec<usize> = (0..count).collect();
    let mut swaps = vec![0; count];
    visit(&order);
    let mut at = 0;
    while at < count {
        if swaps[at] < at {
            order.swap(if at % 2 == 0 { 0 } else { swaps[at] }, at);
            visit(&order);
            swaps[at] += 1;
            at = 0;
        } else {
            swaps[at] = 0;
            at += 1;
        }
    }
}
