//! How much two snapshots differ that ought to be equal.

use std::ops::Add;

use serde_json::{Map, Value};

use super::chain::Chain;

/// What differs, the weightier kind first. A list counts as one field, as in `previous_attributes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    /// Fields told to change by some event of the group, where the changes explain all values, or the
    /// difference is more than another name or time. What nobody told to change differs for a reason that
    /// says nothing about order.
    told: u32,
    fields: u32,
}

impl Cost {
    /// More than any difference.
    pub(super) const MAX: Self = Self { told: u32::MAX, fields: u32::MAX };
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { told: self.told.saturating_add(other.told), fields: self.fields.saturating_add(other.fields) }
    }
}

/// The fields that the `previous` of a group name, as nested hashes that end where a field changed: in `true`
/// if every snapshot holds there a value that a change of this field led from or to, in `false` if others
/// turn up, which no change explains.
pub(super) fn told(chain: &Chain, previous: &[Option<&Value>]) -> Value {
    let mut told = nothing();
    previous.iter().flatten().for_each(|previous| mark(&mut told, previous));
    explain(&mut told, &mut Vec::new(), &|path| {
        let told_here =
            (0..previous.len()).filter(|&at| previous[at].is_some_and(|previous| has(previous, path)));
        let led: Vec<&Value> = told_here
            .flat_map(|at| [chain.before_of[at], chain.node_of[at]])
            .map(|node| field(&chain.nodes[node], path))
            .collect();
        chain.node_of.iter().all(|&node| led.contains(&field(&chain.nodes[node], path)))
    });
    told
}

fn mark(told: &mut Value, previous: &Value) {
    match (&mut *told, previous) {
        (Value::Bool(_), _) => {}
        (Value::Object(fields), Value::Object(old)) => {
            old.iter().for_each(|(key, value)| mark(fields.entry(key).or_insert_with(nothing), value));
        }
        _ => *told = Value::Bool(true),
    }
}

/// Puts what `explained` says of its path in the place of each `true`.
fn explain(told: &mut Value, path: &mut Vec<String>, explained: &impl Fn(&[String]) -> bool) {
    match told {
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

/// How much two normalised values differ, `told` being what [`told`] knows of them.
pub(super) fn difference(told: &Value, a: &Value, b: &Value) -> Cost {
    let empty = Map::new();
    match (a, b) {
        _ if a == b => Cost::default(),
        (Value::Object(a), Value::Object(b)) => fields(told, a, b),
        (Value::Object(a), _) => fields(told, a, &empty),
        (_, Value::Object(b)) => fields(told, &empty, b),
        _ => {
            let sure = told.as_bool().is_some_and(|explained| explained || !alike(a, b));
            Cost { told: sure.into(), fields: 1 }
        }
    }
}

fn fields(told: &Value, a: &Map<String, Value>, b: &Map<String, Value>) -> Cost {
    let below = |key: &str| if told.is_boolean() { told } else { &told[key] };
    let both = a.iter().map(|(key, value)| difference(below(key), value, b.get(key).unwrap_or(&Value::Null)));
    let only_b = b.iter().filter(|(key, _)| !a.contains_key(*key));
    let only_b = only_b.map(|(key, value)| difference(below(key), &Value::Null, value));
    both.chain(only_b).fold(Cost::default(), Cost::add)
}

/// Equal but for names and times?
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| alike(a, b)))
        }
        _ => a == b || (is_name(a) && is_name(b)),
    }
}

/// An id, an address, a text or a time: it may be another without the object being in another state. Stripe's
/// own terms, such as `past_due`, are lower case.
fn is_name(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
        Value::Number(number) => number.as_i64().is_some_and(|number| number >= 1_000_000_000),
        _ => false,
    }
}
