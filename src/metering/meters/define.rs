//! Creates, changes and archives meters. What a meter has counted stays as it is.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Aggregation, Meter, Unpriced, find};
use crate::error::Error;
use crate::metering::rates::RateCard;
use crate::metering::slots;
use crate::metering::{catalog, rates};
use crate::schema::{meter_versions, meters};

/// Dimensions of a meter at most, and labels.
const MAX_DIMENSIONS: usize = 10;
/// Words of `group_by` that are no dimensions.
const RESERVED: [&str; 4] = ["day", "month", "meter", "member"];

/// What a new meter is to be.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMeter {
    /// What callers name it by: lower case letters, digits, `_`, `-`, `.`, at most 100.
    #[schema(min_length = 1, max_length = 100, pattern = "^[a-z0-9][a-z0-9_.-]*$")]
    pub key: String,
    /// What people call it; its key when left out.
    #[serde(default)]
    pub name: Option<String>,
    /// The usage events that it counts.
    #[schema(min_length = 1, max_length = 200)]
    pub event_name: String,
    /// How values become a quantity. Never changes.
    pub aggregation: Aggregation,
    /// Field of `data` that holds the value; left out for `count`.
    #[serde(default)]
    pub value_field: Option<String>,
    /// Field of `data` that holds what a `level` changes by, signed; `value_field` holds what it is. A level
    /// has one of them, or both.
    #[serde(default)]
    pub change_field: Option<String>,
    /// What the quantity is counted in, for people, such as `tokens`. Never changes.
    #[serde(default)]
    pub unit: String,
    /// Fields of `data` kept for grouping, prices and quotas, at most 10: letters, digits, `_`, `-`, `.`;
    /// not `day`, `month`, `meter` or `member`, by which usage is grouped anyway.
    #[serde(default)]
    pub dimensions: Vec<String>,
    /// Fields of `data` kept with each usage record, at most 10, with names like those of dimensions. Take
    /// these for what has many values, such as the id of a job: a dimension makes a series for each value.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Whether a key with the scope `usage:price` may report values below zero.
    #[serde(default)]
    pub allows_negative: bool,
    /// Whether usage that no rate fits is recorded without a price (and told), or rejected. While the meter
    /// has no rate card nothing is rejected.
    #[serde(default)]
    pub unpriced: Unpriced,
}

/// What is to change about a meter; what is left out stays.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MeterPatch {
    /// What people call it.
    #[serde(default)]
    pub name: Option<String>,
    /// The usage events that it counts.
    #[serde(default)]
    pub event_name: Option<String>,
    /// Field of `data` that holds the value.
    #[serde(default)]
    pub value_field: Option<String>,
    /// Field of `data` that holds what a `level` changes by.
    #[serde(default)]
    pub change_field: Option<String>,
    /// All the dimensions to keep.
    #[serde(default)]
    pub dimensions: Option<Vec<String>>,
    /// All the labels to keep.
    #[serde(default)]
    pub labels: Option<Vec<String>>,
    /// Whether a key with the scope `usage:price` may report values below zero.
    #[serde(default)]
    pub allows_negative: Option<bool>,
    /// What becomes of usage that no rate fits.
    #[serde(default)]
    pub unpriced: Option<Unpriced>,
    /// Refused: it never changes.
    #[serde(default)]
    #[schema(ignore)]
    pub aggregation: Option<serde_json::Value>,
    /// Refused: it never changes.
    #[serde(default)]
    #[schema(ignore)]
    pub unit: Option<serde_json::Value>,
}

/// Creates a meter. It counts usage that arrives after the commit.
///
/// # Errors
/// [`Error::Invalid`] for a bad field; [`Error::Conflict`] when another meter, even an archived one, has the
/// key.
pub fn create(conn: &mut PgConnection, new: &NewMeter, now: DateTime<Utc>) -> Result<Meter, Error> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    let begins_well = new.key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if !begins_well || new.key.len() > 100 || !new.key.chars().all(is_allowed) {
        return Err(Error::invalid(
            "key",
            "must be 1 to 100 of a-z, 0-9, `-`, `_`, `.`, and begin with a letter or digit",
        ));
    }
    if !new.unit.is_empty() {
        text("unit", &new.unit, 50)?;
    }
    let meter = Meter {
        meter_id: 0,
        key: new.key.clone(),
        version: 1,
        name: new.name.clone().unwrap_or_else(|| new.key.clone()),
        event_name: new.event_name.clone(),
        aggregation: new.aggregation,
        value_field: new.value_field.clone(),
        change_field: new.change_field.clone(),
        unit: new.unit.clone(),
        currency: None,
        dimensions: new.dimensions.clone(),
        labels: new.labels.clone(),
        allows_negative: new.allows_negative,
        unpriced: new.unpriced,
        created_at: now,
        archived_at: None,
    };
    check(&meter)?;
    catalog::begin_change(conn)?;
    // The lock of the catalogue is ours, so nobody else creates a meter now.
    let last: Option<i32> = meters::table.select(diesel::dsl::max(meters::meter_id)).first(conn)?;
    let meter = Meter { meter_id: last.unwrap_or(0) + 1, ..meter };
    diesel::insert_into(meters::table)
        .values((
            meters::meter_id.eq(meter.meter_id),
            meters::key.eq(&meter.key),
            meters::aggregation.eq(meter.aggregation.name()),
            meters::unit.eq(&meter.unit),
            meters::created_at.eq(now),
        ))
        .execute(conn)
        .map_err(|error| match Error::from(error) {
            error if error.constraint() == Some("meters_key_key") => {
                Error::conflict("meter_key_taken", "another meter, maybe an archived one, has this key")
            }
            error => error,
        })?;
    insert_version(conn, &meter, now)?;
    find(conn, &new.key)
}

/// Gives a meter a new version, which counts usage that arrives after the commit. A patch without a change
/// does nothing.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Invalid`] for a bad field; [`Error::Conflict`] when the meter is archived,
/// or a rate card or a quota uses a dimension that would go.
pub fn update(
    conn: &mut PgConnection,
    key: &str,
    patch: &MeterPatch,
    now: DateTime<Utc>,
) -> Result<Meter, Error> {
    for (field, sent) in [("aggregation", &patch.aggregation), ("unit", &patch.unit)] {
        if sent.is_some() {
            return Err(Error::invalid(
                field,
                "of a meter never changes, as what it has counted would no longer add up: archive it and \
                    make another",
            ));
        }
    }
    catalog::begin_change(conn)?;
    let old = find(conn, key)?;
    if old.archived_at.is_some() {
        return Err(Error::conflict("meter_archived", "this meter is archived: make another"));
    }
    let mut new = old.clone();
    new.name = patch.name.clone().unwrap_or(new.name);
    new.event_name = patch.event_name.clone().unwrap_or(new.event_name);
    new.value_field = patch.value_field.clone().or(new.value_field);
    new.change_field = patch.change_field.clone().or(new.change_field);
    new.dimensions = patch.dimensions.clone().unwrap_or(new.dimensions);
    new.labels = patch.labels.clone().unwrap_or(new.labels);
    new.allows_negative = patch.allows_negative.unwrap_or(new.allows_negative);
    new.unpriced = patch.unpriced.unwrap_or(new.unpriced);
    check(&new)?;
    new.dimensions.sort();
    new.labels.sort();
    for removed in old.dimensions.iter().filter(|name| !new.dimensions.contains(name)) {
        refuse_when_used(conn, old.meter_id, removed, now)?;
    }
    let parts = |meter: &Meter| {
        let kept = (meter.dimensions.clone(), meter.labels.clone());
        let fields = (meter.value_field.clone(), meter.change_field.clone(), kept);
        (meter.name.clone(), meter.event_name.clone(), fields, (meter.allows_negative, meter.unpriced))
    };
    if parts(&old) == parts(&new) {
        return Ok(old);
    }
    new.version += 1;
    insert_version(conn, &new, now)?;
    find(conn, key)
}

/// Archives a meter: it counts no more. What it has counted stays and can be corrected. Archiving twice
/// changes nothing.
pub fn archive(conn: &mut PgConnection, key: &str, now: DateTime<Utc>) -> Result<Meter, Error> {
    catalog::begin_change(conn)?;
    let meter = find(conn, key)?;
    if meter.archived_at.is_some() {
        return Ok(meter);
    }
    diesel::update(meters::table.find(meter.meter_id)).set(meters::archived_at.eq(now)).execute(conn)?;
    Ok(Meter { archived_at: Some(now), ..meter })
}

fn insert_version(conn: &mut PgConnection, meter: &Meter, now: DateTime<Utc>) -> Result<(), Error> {
    let mut dimensions = meter.dimensions.clone();
    dimensions.sort();
    let mut labels = meter.labels.clone();
    labels.sort();
    diesel::insert_into(meter_versions::table)
        .values((
            meter_versions::meter_id.eq(meter.meter_id),
            meter_versions::version.eq(meter.version),
            meter_versions::name.eq(&meter.name),
            meter_versions::event_name.eq(&meter.event_name),
            meter_versions::value_field.eq(&meter.value_field),
            meter_versions::dimensions.eq(dimensions),
            meter_versions::labels.eq(labels),
            meter_versions::created_at.eq(now),
            meter_versions::allows_negative.eq(meter.allows_negative),
            meter_versions::unpriced.eq(meter.unpriced.name()),
            meter_versions::change_field.eq(&meter.change_field),
        ))
        .execute(conn)?;
    Ok(())
}

/// Refuses to remove a dimension that a rate card or a slot asks for: it would silently price or count
/// nothing.
fn refuse_when_used(
    conn: &mut PgConnection,
    meter_id: i32,
    dimension: &str,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let in_use = |by: &str| {
        let detail = format!("the dimension `{dimension}` is used by {by}: replace that first");
        Err(Error::conflict("dimension_in_use", detail))
    };
    let mut cards = rates::of_meter(conn, meter_id)?;
    cards.sort_by(|one, other| one.order().cmp(&other.order()));
    let mut current: Option<&RateCard> = None;
    for card in &cards {
        // Of the cards that began, only the latest one of each owner and currency still prices usage.
        if card.valid_from <= now {
            if current.is_some_and(|current| current.is_of_same_list(card)) {
                continue;
            }
            current = Some(card);
        }
        if card.rates.iter().any(|rate| rate.when.contains_key(dimension)) {
            return in_use(&format!("version {} of its rate cards", card.version));
        }
    }
    let slots = slots::all(conn)?;
    if slots.iter().any(|slot| slot.meter_id == meter_id && slot.filter.contains_key(dimension)) {
        return in_use("a quota");
    }
    Ok(())
}

fn check(meter: &Meter) -> Result<(), Error> {
    text("name", &meter.name, 200)?;
    text("event_name", &meter.event_name, 200)?;
    check_fields(meter)?;
    check_names("dimensions", &meter.dimensions)?;
    check_names("labels", &meter.labels)?;
    if let Some(both) = meter.labels.iter().find(|label| meter.dimensions.contains(label)) {
        return Err(Error::invalid("labels", format!("has `{both}`, which is a dimension: leave it out")));
    }
    Ok(())
}

fn check_fields(meter: &Meter) -> Result<(), Error> {
    match (meter.aggregation, &meter.value_field) {
        (Aggregation::Count, Some(_)) => {
            return Err(Error::invalid(
                "value_field",
                "is not for `count`, which counts events: leave it out",
            ));
        }
        (Aggregation::Count | Aggregation::Unique, _) if meter.allows_negative => {
            return Err(Error::invalid(
                "allows_negative",
                "is for meters whose values are numbers: leave it out for `count` and `unique`",
            ));
        }
        (Aggregation::Level, _) if meter.allows_negative => {
            return Err(Error::invalid(
                "allows_negative",
                "is not for `level`, whose changes have a sign anyway and which is 0 at least: leave it out",
            ));
        }
        (Aggregation::Count, None) => {}
        (Aggregation::Level, None) if meter.change_field.is_some() => {}
        (Aggregation::Level, None) => {
            let rule =
                "must name the field of `data` that holds the level, or `change_field` what it changes by";
            return Err(Error::invalid("value_field", rule));
        }
        (_, None) => {
            return Err(Error::invalid("value_field", "must name the field of `data` that holds the value"));
        }
        (_, Some(name)) => text("value_field", name, 100)?,
    }
    match (meter.aggregation, &meter.change_field) {
        (_, None) => Ok(()),
        (Aggregation::Level, Some(name)) if meter.value_field.as_ref() != Some(name) => {
            text("change_field", name, 100)
        }
        (Aggregation::Level, Some(_)) => {
            Err(Error::invalid("change_field", "must be another field than `value_field`"))
        }
        _ => Err(Error::invalid("change_field", "is for `level` alone: leave it out")),
    }
}

fn check_names(field: &'static str, names: &[String]) -> Result<(), Error> {
    if names.len() > MAX_DIMENSIONS {
        return Err(Error::invalid(field, format!("must be at most {MAX_DIMENSIONS}")));
    }
    let mut seen = HashSet::new();
    for name in names {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 100 || !name.chars().all(is_allowed) {
            return Err(Error::invalid(field, "must each be 1 to 100 letters, digits, `_`, `-` or `.`"));
        }
        if RESERVED.contains(&name.as_str()) {
            return Err(Error::invalid(
                field,
                format!("must not be `{name}`: usage is grouped by that word anyway"),
            ));
        }
        if !seen.insert(name) {
            return Err(Error::invalid(field, format!("has `{name}` twice")));
        }
    }
    Ok(())
}

fn text(field: &'static str, text: &str, limit: usize) -> Result<(), Error> {
    if text.trim().is_empty() || text.chars().count() > limit || text.chars().any(char::is_control) {
        return Err(Error::invalid(
            field,
            format!("must be 1 to {limit} characters, not blank, without control characters"),
        ));
    }
    Ok(())
}
