//! What differs between a plan as it is and as it is wanted, field by field.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Result as Printed};

use diesel::pg::PgConnection;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::Wanted;
use crate::billing::plans::{self, Facts, PlanTerms};
use crate::error::Error;
use crate::quota::define::{self, Counted};
use crate::quota::limits::Terms;
use crate::quota::plan_quotas;

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct FieldChange {
    /// Its name; within a map or list `name.key`.
    pub field: String,
    /// What it is; null: not there.
    #[schema(value_type = Object)]
    pub old: Value,
    /// What it will be; null: gone.
    #[schema(value_type = Object)]
    pub new: Value,
}

/// A plan that differs from what is wanted.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Change {
    /// The plan's key.
    pub plan: String,
    /// It is not there yet.
    pub is_new: bool,
    /// Number of the version that is made of it; null: only what all versions share differs.
    pub new_version: Option<i32>,
    /// What differs.
    pub fields: Vec<FieldChange>,
}

/// A plan for people: what it is called, then a line for each field.
impl Display for Change {
    fn fmt(&self, out: &mut Formatter<'_>) -> Printed {
        match (self.is_new, self.new_version) {
            (true, _) => writeln!(out, "+ plan {}: new", self.plan)?,
            (false, Some(version)) => writeln!(
                out,
                "~ plan {}: version {version} is made; subscriptions keep the version that they bought",
                self.plan
            )?,
            (false, None) => writeln!(out, "~ plan {}: changes in all its versions", self.plan)?,
        }
        for FieldChange { field, old, new } in &self.fields {
            if self.is_new {
                writeln!(out, "    {field}: {new}")?;
            } else {
                writeln!(out, "    {field}: {old} → {new}")?;
            }
        }
        Ok(())
    }
}

/// Fields by name, each with its value; absent ones are left out.
type FieldValues = BTreeMap<String, Value>;

fn spread(fields: &mut FieldValues, name: &str, map: &Map<String, Value>) {
    fields.extend(map.iter().map(|(key, value)| (format!("{name}.{key}"), value.clone())));
}

/// What all versions share.
fn shared(facts: &Facts) -> FieldValues {
    let sorted = |ids: &[String]| {
        let mut ids = ids.to_vec();
        ids.sort();
        if ids.is_empty() { Value::Null } else { json!(ids) }
    };
    let mut fields = FieldValues::from([
        ("name".to_owned(), json!(facts.name)),
        ("description".to_owned(), json!(facts.description)),
        ("active".to_owned(), json!(facts.active)),
        ("default".to_owned(), json!(facts.is_default)),
        ("rank".to_owned(), json!(facts.rank)),
        ("stripe_prices".to_owned(), sorted(&facts.stripe_prices)),
        ("stripe_products".to_owned(), sorted(&facts.stripe_products)),
    ]);
    spread(&mut fields, "metadata", &facts.metadata);
    fields
}

/// What belongs to a version.
fn versioned(terms: &PlanTerms, quotas: Option<&[(Counted, Terms)]>) -> FieldValues {
    let mut fields = FieldValues::from([
        ("currency".to_owned(), json!(terms.currency)),
        ("monthly.amount".to_owned(), json!(terms.monthly_amount)),
        ("annual.amount".to_owned(), json!(terms.annual_amount)),
        ("trial_days".to_owned(), json!(terms.trial_days)),
        ("grace_days".to_owned(), json!(terms.grace_days)),
        ("battery_units".to_owned(), json!(terms.battery_units)),
        ("annual_battery_units".to_owned(), json!(terms.annual_battery_units)),
        ("trial_battery_units".to_owned(), json!(terms.trial_battery_units)),
        ("daily_battery".to_owned(), json!(terms.daily_battery)),
        ("battery_debt_limit".to_owned(), json!(terms.battery_debt_limit)),
    ]);
    match &terms.features {
        Value::Object(named) => spread(&mut fields, "features", named),
        listed => drop(fields.insert("features".to_owned(), listed.clone())),
    }
    for (counted, terms) in quotas.unwrap_or_default() {
        fields.insert(quota_name(counted), json!(terms));
    }
    fields
}

/// `quotas.tokens per month where model=large, per subject`.
fn quota_name(counted: &Counted) -> String {
    let mut name = format!("quotas.{} per {}", counted.meter, counted.period.name());
    for (n, (dimension, value)) in counted.filter.iter().enumerate() {
        name += if n == 0 { " where " } else { " and " };
        name += &format!("{dimension}={value}");
    }
    if counted.per_subject {
        name += ", per subject";
    }
    name
}

/// Fields that are not alike, by name; null stands for absent.
fn unlike(old: &FieldValues, new: &FieldValues) -> Vec<FieldChange> {
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let value = |fields: &FieldValues, name: &str| fields.get(name).cloned().unwrap_or_default();
    names
        .into_iter()
        .map(|name| FieldChange { field: name.clone(), old: value(old, name), new: value(new, name) })
        .filter(|change| change.old != change.new)
        .collect()
}

/// What making the plan as wanted would change; `None`: nothing.
///
/// # Errors
/// [`Error::Invalid`] for what cannot be.
pub(super) fn change(conn: &mut PgConnection, wanted: &Wanted) -> Result<Option<Change>, Error> {
    wanted.check()?;
    check_quotas(conn, wanted)?;
    let quotas = wanted.quotas.as_deref();
    let present = match plans::find(conn, &wanted.id) {
        Err(Error::NotFound(_)) => {
            let mut fields = unlike(&FieldValues::new(), &shared(&wanted.facts));
            fields.extend(unlike(&FieldValues::new(), &versioned(&wanted.terms, quotas)));
            let plan = wanted.id.clone();
            return Ok(Some(Change { plan, is_new: true, new_version: Some(1), fields }));
        }
        found => found?,
    };
    let held = match quotas {
        None => Vec::new(),
        Some(_) => plan_quotas::list(conn, &wanted.id, present.version)?
            .into_iter()
            .map(|quota| (quota.counted, quota.terms))
            .collect(),
    };
    let facts = Facts {
        name: present.name,
        description: present.description,
        active: present.active,
        is_default: present.is_default,
        rank: present.rank,
        metadata: if let Value::Object(metadata) = present.metadata { metadata } else { Map::new() },
        stripe_prices: present.stripe_prices,
        stripe_products: present.stripe_products,
    };
    let mut fields = unlike(&shared(&facts), &shared(&wanted.facts));
    let terms = unlike(&versioned(&present.terms, Some(&held)), &versioned(&wanted.terms, quotas));
    let new_version = (!terms.is_empty()).then_some(present.version + 1);
    fields.extend(terms);
    let change = Change { plan: wanted.id.clone(), is_new: false, new_version, fields };
    Ok((!change.fields.is_empty()).then_some(change))
}

/// What quotas count must be something that can be counted, each once.
fn check_quotas(conn: &mut PgConnection, wanted: &Wanted) -> Result<(), Error> {
    let quotas = wanted.quotas.as_deref().unwrap_or_default();
    for (n, (counted, _)) in quotas.iter().enumerate() {
        define::existing(conn, counted).map_err(|error| match error {
            Error::Invalid { field, rule } => Error::invalid(format!("quotas.{n}.{field}"), rule),
            other => other,
        })?;
        if quotas[..n].iter().any(|(earlier, _)| earlier == counted) {
            return Err(Error::invalid(
                format!("quotas.{n}"),
                "counts the same as an earlier one: leave one of them out",
            ));
        }
    }
    Ok(())
}
