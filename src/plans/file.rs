//! The plans file: TOML with `[[plans]]`, each with an `id` and what `PUT /v1/plans/{id}` takes.
//!
//! TOML has no null: a quota without a limit says `limit = "unlimited"`.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::PlanDefinition;
use super::body::PlanBody;
use crate::error::Error;

/// The plans of a file, in its order.
#[derive(Debug)]
pub struct PlansFile {
    pub plans: Vec<PlanDefinition>,
}

/// The file before its plans are read. An unknown key is refused, for it may be a typing error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlansToml {
    #[serde(default)]
    plans: Vec<toml::Table>,
}

impl PlansFile {
    /// Reads a file's text.
    ///
    /// # Errors
    /// One sentence that names the plan and the key.
    pub fn read(text: &str) -> Result<Self, String> {
        let file: PlansToml = toml::from_str(text).map_err(|error| mistake(text, &error))?;
        let mut plans: Vec<PlanDefinition> = Vec::new();
        for (n, table) in (1..).zip(file.plans) {
            let plan = read_plan(n, table)?;
            if plans.iter().any(|earlier| earlier.id == plan.id) {
                return Err(format!("plan {} is there twice: leave one of them out", plan.id));
            }
            plans.push(plan);
        }
        Ok(Self { plans })
    }
}

/// A mistake in a TOML text as a sentence with its line.
fn mistake(text: &str, error: &toml::de::Error) -> String {
    match error.span() {
        Some(span) => {
            let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
            format!("line {line}: {}", error.message())
        }
        None => error.message().to_owned(),
    }
}

/// Reads a TOML text as the same tree in JSON; dates become text.
///
/// # Errors
/// One sentence that names the line.
pub(crate) fn read_toml(text: &str) -> Result<Value, String> {
    let table: toml::Table = toml::from_str(text).map_err(|error| mistake(text, &error))?;
    Ok(to_json(toml::Value::Table(table)))
}

fn read_plan(n: i32, mut table: toml::Table) -> Result<PlanDefinition, String> {
    let Some(toml::Value::String(id)) = table.remove("id") else {
        return Err(format!("plan number {n} has no id: give it one such as id = \"pro\""));
    };
    let mut body = to_json(toml::Value::Table(table));
    if let Some(Value::Array(quotas)) = body.get_mut("quotas") {
        for limit in quotas.iter_mut().filter_map(|quota| quota.get_mut("limit")) {
            if *limit == "unlimited" {
                *limit = Value::Null;
            }
        }
    }
    let body: PlanBody = crate::json::read_tree(body).map_err(|error| format!("plan {id}: {error}"))?;
    body.into_definition(&id).map_err(|error: Error| format!("plan {id}: {error}"))
}

/// The same value as JSON; dates become text.
fn to_json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(yes) => yes.into(),
        toml::Value::Datetime(at) => at.to_string().into(),
        toml::Value::Array(list) => list.into_iter().map(to_json).collect(),
        toml::Value::Table(table) => {
            Value::Object(table.into_iter().map(|(key, value)| (key, to_json(value))).collect::<Map<_, _>>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_a_sentence_that_names_plan_and_key() {
        for (text, sentence) in [
            ("[[plan]]", "line 1: unknown field `plan`, expected `plans`"),
            ("[[plans]]\nname = \"Pro\"", "plan number 1 has no id: give it one such as id = \"pro\""),
            ("[[plans]]\nid = \"pro\"", "plan pro: name: is missing: it must be given"),
            (
                "[[plans]]\nid = \"pro\"\nname = \"Pro\"\ntrial_days = 900",
                "plan pro: trial_days: must be from 0 to 730",
            ),
            (
                "[[plans]]\nid = \"pro\"\nname = \"Pro\"\n[[plans]]\nid = \"pro\"\nname = \"Pro\"",
                "plan pro is there twice: leave one of them out",
            ),
        ] {
            assert_eq!(PlansFile::read(text).map(|_| ()), Err(sentence.to_owned()), "{text}");
        }
        let unknown = PlansFile::read("[[plans]]\nid = \"pro\"\nname = \"Pro\"\ncolour = 1").map(|_| ());
        let unknown = unknown.expect_err("colour");
        assert!(unknown.starts_with("plan pro: colour: is no field here; those are name,"), "{unknown}");
        let unknown = PlansFile::read(
            "[[plans]]\nid = \"pro\"\nname = \"Pro\"\n[plans.monthly]\namount = 1\ncurrency = \"usd\"\nvat = \
                1",
        );
        let unknown = unknown.map(|_| ()).expect_err("vat");
        assert!(unknown.starts_with("plan pro: monthly.vat: is no field here"), "{unknown}");
    }

    #[test]
    fn no_limit_is_a_word() {
        let text = "[[plans]]\nid = \"pro\"\nname = \"Pro\"\nbattery_units = 10.5\n[[plans.quotas]]\nmeter = \
            \"tokens\"\nperiod = \"month\"\nlimit = \"unlimited\"";
        let file = PlansFile::read(text).expect("reads");
        let quotas = file.plans[0].quotas.as_ref().expect("some");
        assert_eq!((quotas[0].1.limit, quotas[0].0.meter.as_str()), (None, "tokens"));
        assert_eq!(file.plans[0].terms.battery_units.0.to_string(), "10.5");
    }
}
