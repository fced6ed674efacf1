//! The likeliest order of a group whose links are not exact.
//!
//! Something that `previous_attributes` does not tell may differ between two snapshots in a row. Every other field still
//! matches best in the true order. So all pieces of chain are laid one behind the other such that the sum of what differs
//! at the joints is least; the pieces that can then be last are the answer.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::chain::Chain;

/// More pieces than this are not tried: the work doubles with each. Real groups of even one object per second have a few.
const MAX_PIECES: usize = 12;

/// What differs: fields in the high half, and the single leaves inside lists in the low half to tell equals apart.
type Cost = u64;
const FIELD: Cost = 1 << 32;

/// A stretch of exact links, from the node before its first change to the node after its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    from: usize,
    to: usize,
}

/// The nodes among `wanted` with which an order of least cost ends; empty if there are too many pieces.
pub(super) fn last_nodes(chain: &Chain, wanted: &[bool]) -> Vec<usize> {
    let pieces = pieces(chain, wanted);
    if pieces.is_empty() || pieces.len() > MAX_PIECES {
        return Vec::new();
    }
    let totals = cheapest_orders(chain, &pieces);
    let ends = || pieces.iter().zip(&totals).filter(|(piece, _)| wanted[piece.to]);
    let least = ends().map(|(_, &total)| total).min();
    let mut nodes: Vec<usize> =
        ends().filter(|&(_, &total)| Some(total) == least).map(|(piece, _)| piece.to).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

/// Changes joined where a node is entered once and left once, so that nothing else fits between; and nodes without a change.
fn pieces(chain: &Chain, wanted: &[bool]) -> Vec<Piece> {
    let degrees = chain.graph.degrees();
    let inner = |node: usize| degrees[node] == (1, 1) && !wanted[node];
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
    let alone = (0..degrees.len()).filter(|&node| degrees[node] == (0, 0));
    pieces.extend(alone.map(|node| Piece { from: node, to: node }));
    pieces
}

/// For each piece the least cost of an order of all pieces that ends with it. The creation, if known, comes first.
fn cheapest_orders(chain: &Chain, pieces: &[Piece]) -> Vec<Cost> {
    let count = pieces.len();
    let joint: Vec<Vec<Cost>> = pieces
        .iter()
        .map(|e| pieces.iter().map(|f| difference(&chain.nodes[e.to], &chain.nodes[f.from])).collect())
        .collect();
    let born = |piece: &Piece| chain.graph.born[piece.from];
    let any_born = pieces.iter().any(born);

    // best[set][last]: the pieces of `set` (bits) in their cheapest order that ends with `last`.
    let mut best = vec![vec![Cost::MAX; count]; 1 << count];
    for (first, piece) in pieces.iter().enumerate() {
        if born(piece) || !any_born {
            best[1 << first][first] = 0;
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

/// How much two normalised values differ. A list counts as one field, as in `previous_attributes`.
fn difference(a: &Value, b: &Value) -> Cost {
    let nothing = Map::new();
    match (a, b) {
        _ if a == b => 0,
        (Value::Object(a), Value::Object(b)) => fields(a, b),
        (Value::Object(a), _) => fields(a, &nothing),
        (_, Value::Object(b)) => fields(&nothing, b),
        (Value::Array(a), Value::Array(b)) => {
            let leaves = (0..a.len().max(b.len()))
                .map(|at| difference(a.get(at).unwrap_or(&Value::Null), b.get(at).unwrap_or(&Value::Null)))
                .map(|cost| cost / FIELD + cost % FIELD);
            FIELD + leaves.sum::<Cost>()
        }
        _ => FIELD,
    }
}

fn fields(a: &Map<String, Value>, b: &Map<String, Value>) -> Cost {
    let both = a.iter().map(|(key, value)| difference(value, b.get(key).unwrap_or(&Value::Null)));
    let only_b =
        b.iter().filter(|(key, _)| !a.contains_key(*key)).map(|(_, value)| difference(&Value::Null, value));
    both.chain(only_b).sum()
}
