//! Parameters as Stripe takes them: `items[0][price]=x`, `types[]=y`, `created[gte]=1`.

use serde_json::{Map, Value, json};

/// The parameters of a query string or a form. Every value is a text.
pub fn parse(text: &str) -> Value {
    let mut root = Value::Object(Map::new());
    for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
        let steps: Vec<&str> = name.split('[').map(|step| step.trim_end_matches(']')).collect();
        let mut place = &mut root;
        for step in steps {
            if !place.is_object() {
                *place = Value::Object(Map::new());
            }
            let fields = place.as_object_mut().expect("an object");
            let key = if step.is_empty() { fields.len().to_string() } else { step.to_owned() };
            place = fields.entry(key).or_insert(Value::Null);
        }
        *place = Value::String(value.into_owned());
    }
    with_lists(root, true)
}

/// Makes lists of the objects whose names are numbers.
fn with_lists(value: Value, is_root: bool) -> Value {
    let Value::Object(fields) = value else { return value };
    let numbered = !is_root && !fields.is_empty() && fields.keys().all(|name| name.parse::<usize>().is_ok());
    if !numbered {
        let parts = fields.into_iter().map(|(name, part)| (name, with_lists(part, false)));
        return Value::Object(parts.collect());
    }
    let mut parts: Vec<(usize, Value)> = fields
        .into_iter()
        .map(|(name, part)| (name.parse().unwrap_or_default(), with_lists(part, false)))
        .collect();
    parts.sort_by_key(|(number, _)| *number);
    Value::Array(parts.into_iter().map(|(_, part)| part).collect())
}

/// The texts of a parameter that may be one text or a list.
pub fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

const INTEGERS: &[&str] = &[
    "amount",
    "amount_off",
    "billing_cycle_anchor",
    "cancel_at",
    "created",
    "days_until_due",
    "due_date",
    "duration_in_months",
    "end",
    "expires_at",
    "frozen_time",
    "interval_count",
    "max_redemptions",
    "quantity",
    "redeem_by",
    "start",
    "start_date",
    "trial_end",
    "trial_period_days",
    "unit_amount",
    "balance",
];
const FRACTIONS: &[&str] = &["percent_off", "percentage"];
const BOOLEANS: &[&str] =
    &["active", "auto_advance", "cancel_at_period_end", "discountable", "enabled", "inclusive", "shippable"];

/// Gives texts the types that objects have. An empty text unsets a field. Metadata stay texts.
pub fn typed(value: Value) -> Value {
    let Value::Object(fields) = value else {
        let Value::Array(list) = value else { return value };
        return Value::Array(list.into_iter().map(typed).collect());
    };
    let one = |name: String, part: Value| {
        let Value::String(text) = &part else {
            let part = if name == "metadata" { part } else { typed(part) };
            return (name, part);
        };
        let known = name.as_str();
        let part = match known {
            _ if text.is_empty() => Value::Null,
            _ if INTEGERS.contains(&known) => text.parse::<i64>().map_or(part, |number| json!(number)),
            _ if FRACTIONS.contains(&known) => text.parse::<f64>().map_or(part, |number| json!(number)),
            _ if BOOLEANS.contains(&known) => json!(text == "true"),
            _ => part,
        };
        (name, part)
    };
    Value::Object(fields.into_iter().map(|(name, part)| one(name, part)).collect())
}
