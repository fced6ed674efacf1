//! Defining what is counted: makes slots, the rows of `quota_slots` and `quota_slot_orgs`.
//!
//! A slot that is new to an org is filled in from the records, in the transaction that defines it
//! ([`history`]): from then on it is as if it had always been there.

mod history;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use self::history::{FilledPeriods, SlotHistory};
use crate::billing::directory::Directory;
use crate::error::Error;
use crate::metering::catalog;
use crate::metering::meters::{self, Aggregation, Meter};
use crate::metering::slots::PeriodKind;
use crate::schema::{quota_slot_orgs, quota_slots, usage_series};

/// Orgs filled in by one statement.
const CHUNK: usize = 1000;
/// Characters of a value in a filter.
const TEXT_LIMIT: usize = 200;

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Counted)]
pub struct SlotDefinition {
    /// Key of the meter: one of kind `sum`, `count` or `level`.
    pub meter: String,
    /// Dimension to value: only usage that has them all. Empty: all usage of the meter.
    #[serde(default)]
    pub filter: BTreeMap<String, String>,
    /// One counter, and so one limit, for each subject.
    #[serde(default)]
    pub per_subject: bool,
    /// How long a counter runs.
    pub period: PeriodKind,
}

/// Key of the meter, filter, `per_subject` and period, as `meters` and `quota_slots` have them.
pub(super) type SlotDefinitionRow = (String, Value, bool, String);

impl SlotDefinition {
    pub(super) fn from_row((meter, filter, per_subject, period): SlotDefinitionRow) -> Result<Self, Error> {
        let broken = || Error::Internal(format!("a quota slot of meter {meter} cannot be read"));
        let filter: BTreeMap<String, String> = serde_json::from_value(filter).map_err(|_| broken())?;
        let period = PeriodKind::parse(&period).ok_or_else(broken)?;
        Ok(Self { meter, filter, per_subject, period })
    }

    /// The filter as the column has it.
    fn filter_json(&self) -> Value {
        Value::Object(self.filter.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect())
    }

    /// The meter, if it can be counted so.
    fn check(&self, conn: &mut PgConnection) -> Result<Meter, Error> {
        let counts = |meter: &Meter| meter.key == self.meter && meter.archived_at.is_none();
        let meter = meters::all(conn)?.into_iter().find(counts).ok_or_else(|| {
            let rule = format!("`{}` is no meter that counts: /v1/meters lists them", self.meter);
            Error::invalid("meter", rule)
        })?;
        if !meter.aggregation.is_limited() {
            let rule = format!(
                "`{}` has the aggregation {}, but only meters of kind sum, count or level can be limited",
                meter.key,
                meter.aggregation.name()
            );
            return Err(Error::invalid("meter", rule));
        }
        if meter.aggregation == Aggregation::Level && self.period != PeriodKind::Always {
            let rule = "must be `always` for a level: it is how much there is now, in whatever period";
            return Err(Error::invalid("period", rule));
        }
        for (name, value) in &self.filter {
            let field = || format!("filter.{name}");
            if !meter.dimensions.contains(name) {
                let rule = format!("is no dimension of this meter; it has: {}", meter.dimensions.join(", "));
                return Err(Error::invalid(field(), rule));
            }
            if value.chars().count() > TEXT_LIMIT {
                return Err(Error::invalid(field(), format!("must be at most {TEXT_LIMIT} characters")));
            }
        }
        Ok(meter)
    }
}

/// Whom a slot counts for.
#[derive(Clone, Copy, Debug)]
pub enum SlotOrgs {
    /// Every org: plans limit it.
    All,
    /// This one, which has a quota of its own.
    One(i64),
}

/// The slot that counts this for these orgs, made and filled in where it is not there. It begins with the
/// catalogue's lock, so call it first in the transaction.
///
/// # Errors
/// [`Error::Invalid`] naming the field that is wrong.
pub fn define(
    conn: &mut PgConnection,
    directory: &Directory,
    definition: &SlotDefinition,
    orgs: SlotOrgs,
    now: DateTime<Utc>,
) -> Result<i32, Error> {
    catalog::begin_change(conn)?;
    let meter = definition.check(conn)?;
    let meter_id = meter.meter_id;
    let slot = match find(conn, meter_id, definition)? {
        Some(slot) => slot,
        None => insert(conn, meter_id, definition, now)?,
    };
    let StoredSlot { slot_id, everywhere, .. } = slot;
    let history = SlotHistory { slot, meter: &meter, definition, now };
    match orgs {
        SlotOrgs::One(org_id) => {
            let joined = diesel::insert_into(quota_slot_orgs::table)
                .values((quota_slot_orgs::slot_id.eq(slot_id), quota_slot_orgs::org_id.eq(org_id)))
                .on_conflict_do_nothing()
                .execute(conn)?;
            if joined == 1 {
                let periods = if everywhere { FilledPeriods::BeforeSlot } else { FilledPeriods::All };
                history.fill(conn, directory, &[org_id], periods)?;
            }
        }
        SlotOrgs::All if everywhere => {}
        SlotOrgs::All => {
            diesel::update(quota_slots::table.find(slot_id))
                .set(quota_slots::everywhere.eq(true))
                .execute(conn)?;
            let with_quota = quota_slot_orgs::table
                .filter(quota_slot_orgs::slot_id.eq(slot_id))
                .select(quota_slot_orgs::org_id);
            let org_ids: Vec<i64> = usage_series::table
                .filter(usage_series::meter_id.eq(meter_id).and(usage_series::org_id.ne_all(with_quota)))
                .select(usage_series::org_id)
                .distinct()
                .order(usage_series::org_id)
                .load(conn)?;
            for chunk in org_ids.chunks(CHUNK) {
                history.fill(conn, directory, chunk, FilledPeriods::SinceSlot)?;
            }
        }
    }
    Ok(slot_id)
}

/// What is used of a row of `quota_slots`.
#[derive(Clone, Copy, Debug)]
struct StoredSlot {
    slot_id: i32,
    everywhere: bool,
    created_at: DateTime<Utc>,
}

fn find(
    conn: &mut PgConnection,
    meter_id: i32,
    definition: &SlotDefinition,
) -> Result<Option<StoredSlot>, Error> {
    let found: Option<(i32, bool, DateTime<Utc>)> = quota_slots::table
        .filter(quota_slots::meter_id.eq(meter_id))
        .filter(quota_slots::filter.eq(definition.filter_json()))
        .filter(quota_slots::per_subject.eq(definition.per_subject))
        .filter(quota_slots::period.eq(definition.period.name()))
        .select((quota_slots::slot_id, quota_slots::everywhere, quota_slots::created_at))
        .first(conn)
        .optional()?;
    Ok(found.map(|(slot_id, everywhere, created_at)| StoredSlot { slot_id, everywhere, created_at }))
}

/// The slot that counts this, if there is one.
///
/// # Errors
/// [`Error::Invalid`] for what no slot can count.
pub fn existing(conn: &mut PgConnection, definition: &SlotDefinition) -> Result<Option<i32>, Error> {
    let meter_id = definition.check(conn)?.meter_id;
    Ok(find(conn, meter_id, definition)?.map(|slot| slot.slot_id))
}

fn insert(
    conn: &mut PgConnection,
    meter_id: i32,
    definition: &SlotDefinition,
    now: DateTime<Utc>,
) -> Result<StoredSlot, Error> {
    // The catalogue's lock keeps others from taking the same number.
    let last: Option<i32> = quota_slots::table.select(diesel::dsl::max(quota_slots::slot_id)).first(conn)?;
    let slot_id = last.unwrap_or(0) + 1;
    diesel::insert_into(quota_slots::table)
        .values((
            quota_slots::slot_id.eq(slot_id),
            quota_slots::meter_id.eq(meter_id),
            quota_slots::filter.eq(definition.filter_json()),
            quota_slots::per_subject.eq(definition.per_subject),
            quota_slots::period.eq(definition.period.name()),
            quota_slots::everywhere.eq(false),
            quota_slots::created_at.eq(now),
        ))
        .execute(conn)?;
    Ok(StoredSlot { slot_id, everywhere: false, created_at: now })
}
