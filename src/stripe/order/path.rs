//! The likeliest order of a group whose links are not exact.
//!
//! Something that `previous_attributes` does not tell may differ between two snapshots in a row. Every other
//! field still matches best in the true order. So all pieces of chain are laid one behind the other such that
//! the sum of what differs at the joints is least; the pieces that can then be last are the answer.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    chain::Chain,
    difference::{Cost, difference},
};

/// More pieces than this are not tried: the work doubles with each. Real groups of even one object per second
/// have a few.
const MAX_PIECES: usize = 12;

/// A stretch of exact links, from the node before its first change to the node after its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    from: usize,
    to: usize,
}

/// The nodes among `wanted` with which an order of least cost ends; empty if there are too many pieces.
/// `told` are the fields that some event tells to have changed, see [`told`](super::difference::told).
pub(super) fn last_nodes(chain: &Chain, told: &Value, wanted: &[bool]) -> Vec<usize> {
    let mut pieces = pieces(chain, |_| false);
    if pieces.len() > MAX_PIECES {
        let degrees = chain.graph.degrees();
        pieces = self::pieces(chain, |node| degrees[node] == (1, 1) && !wanted[node]);
    }
    if pieces.is_empty() || pieces.len() > MAX_PIECES {
        return Vec::new();
    }
    let totals = cheapest_orders(chain, told, &pieces);
    let ends = || pieces.iter().zip(&totals).filter(|(piece, _)| wanted[piece.to]);
    let least = ends().map(|(_, &total)| total).min();
    let mut nodes: Vec<usize> =
        ends().filter(|&(_, &total)| Some(total) == least).map(|(piece, _)| piece.to).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

/// The changes, those joined that meet in an `inner` node (entered once and left once), and the nodes without
/// a change.
fn pieces(chain: &Chain, inner: impl Fn(usize) -> bool) -> Vec<Piece> {
    let next: BTreeMap<usize, usize> =
        chain.graph.edges.keys().filter(|(from, _)| inner(*from)).copied().collect();
    let mut pieces = Vec::new();
    for (&(from, mut to), &times) in &chain.graph.edges {
        if inner(from) {
            continue;
        }
        while let Some(&further) = next.get(&to) {
            to = further;
        }
        pieces.extend(std::iter::repeat_n(Piece { from, to }, times));
    }
    let degrees = chain.graph.degrees();
    let alone = (0..degrees.len()).filter(|&node| degrees[node] == (0, 0));
    pieces.extend(alone.map(|node| Piece { from: node, to: node }));
    pieces
}

/// For each piece the least cost of an order of all pieces that ends with it. The creation, if known, comes
/// first.
fn cheapest_orders(chain: &Chain, told: &Value, pieces: &[Piece]) -> Vec<Cost> {
    let count = pieces.len();
    let joint: Vec<Vec<Cost>> = pieces
        .iter()
        .map(|e| pieces.iter().map(|f| difference(told, &chain.nodes[e.to], &chain.nodes[f.from])).collect())
        .collect();
    let born = |piece: &Piece| chain.graph.born[piece.from];
    let any_born = pieces.iter().any(born);

    // best[set][last]: the pieces of `set` (bits) in their cheapest order that ends with `last`.
    let mut best = vec![vec![Cost::MAX; count]; 1 << count];
    for (first, piece) in pieces.iter().enumerate() {
        if born(piece) || !any_born {
            best[1 << first][first] = Cost::default();
        }
    }
    for set in 1..1_usize << count {
        for last in 0..count {
            let so_far = best[set][last];
            if so_far == Cost::MAX {
                continue;
            }
            for next in (0..count).filter(|next| set & 1 << next == 0) {
                let total = &mut best[set | 1 << next][next];
                *total = (*total).min(so_far + joint[last][next]);
            }
        }
    }
    best.pop().unwrap_or_default()
}
