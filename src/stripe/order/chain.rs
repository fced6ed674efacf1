//! The snapshots of a group as nodes, the changes between them as edges.
//!
//! `previous_attributes` has the old values of changed keys: nested for hashes, whole for lists, null for a
//! key that did not exist. Written over the snapshot of its event, they give the snapshot before. Sources:
//! <https://docs.stripe.com/api/events/object#event_object-data-previous_attributes>, and real recordings: in
//! them the result equals the snapshot of the event before, except for nulls.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

use super::{GroupEvent, rank::is_creation};

/// Changes between numbered nodes.
pub(super) struct Graph {
    /// For each node: whether a `*.created` event reports it, so that no other node can come before it.
    pub(super) created: Vec<bool>,
    /// How often each change `(from, to)` happened.
    pub(super) edges: BTreeMap<(usize, usize), usize>,
}

impl Graph {
    /// `events` are `(from, to, event type)`; an event without a change has `from == to`.
    ///
    /// A change that two types of event report (`refund.updated` and `charge.refund.updated`) happened once.
    /// A change that one type reports twice happened twice.
    fn new<'a>(nodes: usize, events: impl Iterator<Item = (usize, usize, &'a str)>) -> Self {
        let mut created = vec![false; nodes];
        let mut reports: HashMap<(usize, usize, &str), usize> = HashMap::new();
        for (from, to, event_type) in events {
            created[to] |= is_creation(event_type);
            if from != to {
                *reports.entry((from, to, event_type)).or_default() += 1;
            }
        }
        let mut edges = BTreeMap::new();
        for ((from, to, _), times) in reports {
            let most = edges.entry((from, to)).or_insert(0);
            *most = times.max(*most);
        }
        Self { created, edges }
    }

    /// How many changes enter and leave each node.
    pub(super) fn degrees(&self) -> Vec<(usize, usize)> {
        let mut degrees = vec![(0, 0); self.created.len()];
        for (&(from, to), &times) in &self.edges {
            degrees[from].1 += times;
            degrees[to].0 += times;
        }
        degrees
    }

    /// The nodes that may be the last state.
    ///
    /// A history goes through each change once. So among connected nodes, changes enter the last one more
    /// often than they leave it. If there is no such node, the history went in a circle and ended where it
    /// began; we know that place if the creation is on the circle. A single `true` is proof if no event is
    /// missing.
    pub(super) fn ends(&self) -> Vec<bool> {
        let (component, degrees) = (self.components(), self.degrees());
        let count = self.created.len();
        let (mut has_end, mut has_creation) = (vec![false; count], vec![false; count]);
        for node in 0..count {
            has_end[component[node]] |= degrees[node].0 > degrees[node].1;
            has_creation[component[node]] |= self.created[node];
        }
        (0..count)
            .map(|node| match component[node] {
                whole if has_end[whole] => degrees[node].0 > degrees[node].1,
                whole if has_creation[whole] => self.created[node],
                _ => true,
            })
            .collect()
    }

    /// Whether this possible end is on a circle of changes whose first node is not known.
    pub(super) fn circles_through(&self, end: usize) -> bool {
        let (entered, left) = self.degrees()[end];
        entered == left && left > 0 && !self.created[end]
    }

    /// For each node the node of the lowest number that it is connected with.
    fn components(&self) -> Vec<usize> {
        let mut component: Vec<usize> = (0..self.created.len()).collect();
        for &(from, to) in self.edges.keys() {
            let (a, b) = (component[from], component[to]);
            for mark in &mut component {
                if *mark == a || *mark == b {
                    *mark = a.min(b);
                }
            }
        }
        component
    }
}

/// A group of events with the graph of its snapshots.
pub(super) struct Chain {
    pub(super) graph: Graph,
    /// The normalised snapshot of each node.
    pub(super) nodes: Vec<Value>,
    /// For each event the node that it reports.
    pub(super) node_of: Vec<usize>,
    /// For each event the node before its change; the node itself if it reports no change.
    pub(super) before_of: Vec<usize>,
}

impl Chain {
    pub(super) fn new(events: &[GroupEvent]) -> Self {
        let mut numbers = HashMap::new();
        let mut nodes = Vec::new();
        let mut number = |snapshot: Value| {
            *numbers.entry(snapshot.to_string()).or_insert_with(|| {
                nodes.push(snapshot);
                nodes.len() - 1
            })
        };
        let moves: Vec<(usize, usize)> = events
            .iter()
            .map(|event| {
                let to = number(normalise(&event.snapshot));
                let before = event.previous.as_ref().map(|previous| undo(&event.snapshot, previous));
                let from = before.map_or(to, |before| number(normalise(&before)));
                (from, to)
            })
            .collect();
        let typed = moves.iter().zip(events).map(|(&(from, to), event)| (from, to, event.event.event_type));
        let graph = Graph::new(nodes.len(), typed);
        let (before_of, node_of) = moves.into_iter().unzip();
        Self { graph, nodes, node_of, before_of }
    }
}

/// The status at the end of the chain that only the changes of `status` form; `None` unless it has one end.
///
/// This works even if another field breaks the links between whole snapshots, and it notices that `past_due`
/// became `active` again.
pub(super) fn last_status<'a>(events: &'a [GroupEvent]) -> Option<&'a str> {
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut number = |status: &'a str| {
        let next = numbers.len();
        *numbers.entry(status).or_insert(next)
    };
    let moves: Vec<_> = events
        .iter()
        .map(|event| {
            let to = number(status(&event.snapshot));
            let before = event.previous.as_ref().and_then(|previous| previous.get("status"));
            let from = before.map_or(to, |before| number(before.as_str().unwrap_or("")));
            (from, to, event.event.event_type)
        })
        .collect();
    let graph = Graph::new(numbers.len(), moves.into_iter());
    let ends = graph.ends();
    let mut left = numbers.into_iter().filter(|&(_, number)| ends[number]);
    match (left.next(), left.next()) {
        (Some((status, _)), None) => Some(status),
        _ => None,
    }
}

/// The `status` of a snapshot, empty where it has none.
pub(super) fn status(snapshot: &Value) -> &str {
    snapshot["status"].as_str().unwrap_or("")
}

/// The snapshot as it was before the change.
fn undo(snapshot: &Value, previous: &Value) -> Value {
    let (Value::Object(now), Value::Object(old)) = (snapshot, previous) else {
        return previous.clone();
    };
    let mut before = now.clone();
    for (key, value) in old {
        before.insert(key.clone(), undo(snapshot.get(key).unwrap_or(&Value::Null), value));
    }
    Value::Object(before)
}

/// Fields that say nothing about the state: Stripe sets them without an event, or makes them anew for each
/// reader.
const STATELESS: &[&str] = &[
    "client_secret",
    "hosted_invoice_url",
    "invoice_pdf",
    "next_invoice_sequence",
    "receipt_url",
    "webhooks_delivered_at",
];

/// Takes out the fields that say nothing about the state.
pub(crate) fn leave_out_stateless(snapshot: &mut Value) {
    match snapshot {
        Value::Object(fields) => {
            fields.retain(|name, _| !STATELESS.contains(&name.as_str()));
            fields.values_mut().for_each(leave_out_stateless);
        }
        Value::Array(entries) => entries.iter_mut().for_each(leave_out_stateless),
        _ => {}
    }
}

/// Drops what does not distinguish two states: nulls, hashes that have only nulls, and fields that say
/// nothing about the state. Sorts the keys.
pub(in crate::stripe) fn normalise(snapshot: &Value) -> Value {
    let mut normal = match snapshot {
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .filter(|(key, _)| !STATELESS.contains(&key.as_str()))
                .map(|(key, value)| (key.clone(), normalise(value)))
                .filter(|(_, value)| !value.is_null() && !value.as_object().is_some_and(Map::is_empty))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(normalise).collect()),
        scalar => scalar.clone(),
    };
    normal.sort_all_objects();
    normal
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn undo_writes_old_values_over_new_ones() {
        let now = json!({"a": 1, "h": {"x": 1, "y": 2}, "l": [1, 2], "m": {"k": "v"}, "p": null});
        let old = json!({"a": 0, "h": {"x": 7}, "l": [3], "m": {"k": null}, "p": {"q": 1}});
        let before = json!({"a": 0, "h": {"x": 7, "y": 2}, "l": [3], "p": {"q": 1}});
        assert_eq!(normalise(&undo(&now, &old)), before);
    }

    #[test]
    fn normalise_drops_what_distinguishes_nothing() {
        let value = json!({"b": null, "a": {"c": {"d": null}}, "webhooks_delivered_at": 5,
            "l": [null, {"x": null}], "z": 0});
        assert_eq!(normalise(&value), json!({"l": [null, {}], "z": 0}));
    }

    /// A walk is a list of edges such as `AB`; `>A` is the creation. The expected ends are letters.
    #[test]
    fn ends_of_walks() {
        for (walk, expected) in [
            ("AB BC", "C"),
            ("AB BA AB", "B"),
            ("AB BA", "AB"),
            ("AB BA >A", "A"),
            ("AB BC CA AD", "D"),
            ("AB CD", "BD"),
            ("AB CC", "BC"),
            ("AB BC DE ED >D", "CD"),
            ("AA", "A"),
        ] {
            let number = |letter: u8| usize::from(letter - b'A');
            let events: Vec<_> = walk
                .split(' ')
                .map(|step| match step.as_bytes() {
                    [b'>', born] => (number(*born), number(*born), "x.created"),
                    [from, to] => (number(*from), number(*to), "x.updated"),
                    _ => unreachable!(),
                })
                .collect();
            let nodes = walk.bytes().filter(u8::is_ascii_uppercase).max().map_or(0, number) + 1;
            let ends = Graph::new(nodes, events.into_iter()).ends();
            let found: String =
                (b'A'..).zip(ends).filter(|(_, end)| *end).map(|(letter, _)| letter as char).collect();
            assert_eq!(found, expected, "{walk}");
        }
    }

    #[test]
    fn a_change_that_two_types_report_happened_once() {
        let reported = [(0, 1, "refund.updated"), (0, 1, "charge.refund.updated"), (1, 0, "refund.updated")];
        assert_eq!(Graph::new(2, reported.into_iter()).edges, [((0, 1), 1), ((1, 0), 1)].into());
        let reported = [(0, 1, "refund.updated"), (0, 1, "refund.updated"), (1, 0, "refund.updated")];
        assert_eq!(Graph::new(2, reported.into_iter()).edges, [((0, 1), 2), ((1, 0), 1)].into());
    }
}
