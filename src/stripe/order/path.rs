//! The most likely order of a group whose links are not exact.
//!
//! Two successive snapshots may differ in a field that `previous_attributes` does not name. The other fields
//! still match best in the true order. So we join all pieces of the chain in the order in which neighbours
//! differ least. The result is the pieces that can be last in such an order.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    chain::Chain,
    difference::{Cost, difference},
};

/// With more pieces than this we do not search, because each piece doubles the work. Real groups have few.
const MAX_PIECES: usize = 12;

/// A sequence of exact links, from the node before its first change to the node after its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    from: usize,
    to: usize,
}

/// The `wanted` nodes that can be last in an order of least cost; none if there are too many pieces.
/// `changed` comes from [`changed_fields`](super::difference::changed_fields).
pub(super) fn last_nodes(chain: &Chain, changed: &Value, wanted: &[bool]) -> Vec<usize> {
    let mut pieces = pieces(chain, |_| false);
    if pieces.len() > MAX_PIECES {
        let degrees = chain.graph.degrees();
        pieces = self::pieces(chain, |node| degrees[node] == (1, 1) && !wanted[node]);
    }
    if pieces.is_empty() || pieces.len() > MAX_PIECES {
        return Vec::new();
    }
    let totals = cheapest_orders(chain, changed, &pieces);
    let ends = || pieces.iter().zip(&totals).filter(|(piece, _)| wanted[piece.to]);
    let least = ends().map(|(_, &total)| total).min();
    let mut nodes: Vec<usize> =
        ends().filter(|&(_, &total)| Some(total) == least).map(|(piece, _)| piece.to).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

/// One piece for each change, and one for each node without a change. Two changes that meet in an `inner`
/// node, which one change enters and one leaves, become one piece.
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

/// For each piece the least cost of an order of all pieces that ends with it. If the creation is known, it
/// comes first.
fn cheapest_orders(chain: &Chain, changed: &Value, pieces: &[Piece]) -> Vec<Cost> {
    let count = pieces.len();
    let joint: Vec<Vec<Cost>> = pieces
        .iter()
        .map(|e| {
            pieces.iter().map(|f| difference(changed, &chain.nodes[e.to], &chain.nodes[f.from])).collect()
        })
        .collect();
    let is_created = |piece: &Piece| chain.graph.created[piece.from];
    let any_created = pieces.iter().any(is_created);

    // best[set][last]: the cost of the cheapest order of the pieces of `set` (bits) that ends with `last`.
    let mut best = vec![vec![Cost::MAX; count]; 1 << count];
    for (first, piece) in pieces.iter().enumerate() {
        if is_created(piece) || !any_created {
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
