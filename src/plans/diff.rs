//! What differs between a stored plan and its definition, field by field.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Result as Printed};

use diesel::pg::PgConnection;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::PlanDefinition;
use crate::billing::plans::{self, Facts, PlanTerms};
use crate::error::Error;
use crate::quota::define::{self, SlotDefinition};
use crate::quota::limits::LimitTerms;
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
#[schema(as = Change)]
pub struct PlanChange {
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
impl Display for PlanChange {
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
        write_fields(out, &self.fields, self.is_new)
    }
}

/// Writes a line for each field that differs.
pub(crate) fn write_fields(out: &mut Formatter<'_>, fields: &[FieldChange], is_new: bool) -> Printed {
    for FieldChange { field, old, new } in fields {
        if is_new {
            writeln!(out, "    {field}: {new}")?;
        } else {
            writeln!(out, "    {field}: {old} → {new}")?;
        }
    }
    Ok(())
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
        ("org".to_owned(), json!(facts.org)),
        ("stripe_prices".to_owned(), sorted(&facts.stripe_prices)),
        ("stripe_products".to_owned(), sorted(&facts.stripe_products)),
    ]);
    spread(&mut fields, "metadata", &facts.metadata);
    fields
}

/// What belongs to a version.
fn versioned(terms: &PlanTerms, quotas: Option<&[(SlotDefinition, LimitTerms)]>) -> FieldValues {
    let mut fields = FieldValues::from([
        ("currency".to_owned(), json!(terms.currency)),
        ("monthly.amount".to_owned(), json!(terms.monthly_amount)),
        ("annual.amount".to_owned(), json!(terms.annual_amount)),
        ("prices".to_owned(), json!(terms.prices)),
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
fn quota_name(counted: &SlotDefinition) -> String {
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

/// Fields that differ, by name; null stands for absent.
fn differences(old: &FieldValues, new: &FieldValues) -> Vec<FieldChange> {
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let value = |fields: &FieldValues, name: &str| fields.get(name).cloned().unwrap_or_default();
    names
        .into_iter()
        .map(|name| FieldChange { field: name.clone(), old: value(old, name), new: value(new, name) })
        .filter(|change| change.old != change.new)
        .collect()
}

/// What the definition changes in the stored plan; `None`: nothing.
///
/// # Errors
/// [`Error::Invalid`] for a definition that cannot be.
pub(super) fn plan_change(
    conn: &mut PgConnection,
    definition: &PlanDefinition,
) -> Result<Option<PlanChange>, Error> {
    definition.check()?;
    check_quotas(conn, definition)?;
    let quotas = definition.quotas.as_deref();
    let (new_facts, new_terms) = (shared(&definition.facts), versioned(&definition.terms, quotas));
    let stored = match plans::find(conn, &definition.id) {
        Err(Error::NotFound(_)) => {
            let mut fields = differences(&FieldValues::new(), &new_facts);
            fields.extend(differences(&FieldValues::new(), &new_terms));
            let plan = definition.id.clone();
            return Ok(Some(PlanChange { plan, is_new: true, new_version: Some(1), fields }));
        }
        found => found?,
    };
    let version = stored.version;
    let stored = PlanDefinition::from_plan(stored);
    // Quotas that the definition leaves out stay, and do not differ.
    let stored_quotas: Vec<(SlotDefinition, LimitTerms)> = match quotas {
        None => Vec::new(),
        Some(_) => plan_quotas::list(conn, &definition.id, version)?
            .into_iter()
            .map(|quota| (quota.counted, quota.terms))
            .collect(),
    };
    let mut fields = differences(&shared(&stored.facts), &new_facts);
    let terms = differences(&versioned(&stored.terms, Some(&stored_quotas)), &new_terms);
    let new_version = (!terms.is_empty()).then_some(version + 1);
    fields.extend(terms);
    let change = PlanChange { plan: stored.id, is_new: false, new_version, fields };
    Ok((!change.fields.is_empty()).then_some(change))
}

/// Each quota must count something that can be counted, and no two the same.
fn check_quotas(conn: &mut PgConnection, definition: &PlanDefinition) -> Result<(), Error> {
    let quotas = definition.quotas.as_deref().unwrap_or_default();
    for (n, (slot, _)) in quotas.iter().enumerate() {
        define::existing(conn, slot).map_err(|error| plan_quotas::at_place(n, error))?;
        if quotas[..n].iter().any(|(earlier, _)| earlier == slot) {
            return Err(plan_quotas::counted_twice(n));
        }
    }
    Ok(())
}
