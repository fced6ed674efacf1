//! How much two snapshots differ that should be equal.

use std::ops::Add;

use serde_json::{Map, Value};

use super::chain::Chain;

/// How many fields differ, the more important count first. A list counts as one field, as in
/// `previous_attributes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    /// Of these, the fields that some event of the group changed. A field counts only if the changes explain
    /// all of its values, or if the two values differ by more than a name or time. If no event changed a
    /// field, its difference says nothing about the order.
    changed: u32,
    /// All fields that differ.
    fields: u32,
}

impl Cost {
    /// More than any difference.
    pub(super) const MAX: Self = Self { changed: u32::MAX, fields: u32::MAX };
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            changed: self.changed.saturating_add(other.changed),
            fields: self.fields.saturating_add(other.fields),
        }
    }
}

/// The fields that the events of a group changed (`previous`: the `previous_attributes` of each event), as
/// nested hashes with a flag at each changed field. `true`: each value that the snapshots have there is the
/// old or the new value of a change. `false`: some snapshot has another value there.
pub(super) fn changed_fields(chain: &Chain, previous: &[Option<&Value>]) -> Value {
    let mut changed = nothing();
    previous.iter().flatten().for_each(|previous| mark(&mut changed, previous));
    explain(&mut changed, &mut Vec::new(), &|path| {
        let changed_here =
            (0..previous.len()).filter(|&at| previous[at].is_some_and(|previous| has(previous, path)));
        let known: Vec<&Value> = changed_here
            .flat_map(|at| [chain.before_of[at], chain.node_of[at]])
            .map(|node| field(&chain.nodes[node], path))
            .collect();
        chain.node_of.iter().all(|&node| known.contains(&field(&chain.nodes[node], path)))
    });
    changed
}

/// Sets a flag at each field that `previous` names.
fn mark(changed: &mut Value, previous: &Value) {
    match (&mut *changed, previous) {
        (Value::Bool(_), _) => {}
        (Value::Object(fields), Value::Object(old)) => {
            old.iter().for_each(|(key, value)| mark(fields.entry(key).or_insert_with(nothing), value));
        }
        _ => *changed = Value::Bool(true),
    }
}

/// Replaces each flag by the result of `explained` for its path.
fn explain(changed: &mut Value, path: &mut Vec<String>, explained: &impl Fn(&[String]) -> bool) {
    match changed {
        Value::Object(fields) => {
            for (key, below) in fields.iter_mut() {
                path.push(key.clone());
                explain(below, path, explained);
                path.pop();
            }
        }
        leaf => *leaf = Value::Bool(explained(path)),
    }
}

fn has(value: &Value, path: &[String]) -> bool {
    path.iter().try_fold(value, |value, key| value.get(key)).is_some()
}

fn field<'a>(value: &'a Value, path: &[String]) -> &'a Value {
    path.iter().fold(value, |value, key| &value[key])
}

fn nothing() -> Value {
    Value::Object(Map::new())
}

/// How much two normalised values differ. `changed` comes from [`changed_fields`].
pub(super) fn difference(changed: &Value, a: &Value, b: &Value) -> Cost {
    let empty = Map::new();
    match (a, b) {
        _ if a == b => Cost::default(),
        (Value::Object(a), Value::Object(b)) => fields(changed, a, b),
        (Value::Object(a), _) => fields(changed, a, &empty),
        (_, Value::Object(b)) => fields(changed, &empty, b),
        _ => {
            let counts = changed.as_bool().is_some_and(|explained| explained || !alike(a, b));
            Cost { changed: counts.into(), fields: 1 }
        }
    }
}

fn fields(changed: &Value, a: &Map<String, Value>, b: &Map<String, Value>) -> Cost {
    let below = |key: &str| if changed.is_boolean() { changed } else { &changed[key] };
    let both = a.iter().map(|(key, value)| difference(below(key), value, b.get(key).unwrap_or(&Value::Null)));
    let only_b = b.iter().filter(|(key, _)| !a.contains_key(*key));
    let only_b = only_b.map(|(key, value)| difference(below(key), &Value::Null, value));
    both.chain(only_b).fold(Cost::default(), Cost::add)
}

/// Whether two values are equal except for names and times.
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| alike(a, b)))
        }
        _ => a == b || (is_name(a) && is_name(b)),
    }
}

/// Whether a value is an id, an address, a text or a time: it may differ although the object is in the same
/// state. Stripe's own terms, such as `past_due`, are lower case; they are not names.
fn is_name(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
        Value::Number(number) => number.as_i64().is_some_and(|number| number >= 1_000_000_000),
        _ => false,
    }
}
