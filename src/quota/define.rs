//! Defining what is counted, and filling in what was used before.
//!
//! A slot that is new to an org is filled in from what was recorded, in the transaction that defines it: from
//! then on it is as if it had always been there. Whoever makes a quota for an org sees its past periods
//! (`/v1/quotas/{id}/history`), and expects of them what was really used, as the events say it (Lago's
//! `past_usage`, OpenMeter's entitlement history); a void of last month's event would otherwise leave a
//! counter below zero. So they are filled in, too, [`CountedDays::BY_FIRST_QUOTA`] days back. Nobody sees
//! past periods of what plans limit, and there may be many orgs: of those it is the running period.
//!
//! Which counters of a slot are true, and are compared by `verify`: of an org that has had a quota on it
//! (`quota_slot_orgs`) those of the last [`CountedDays::BY_FIRST_QUOTA`] days at least; of any org for which
//! it counts, those from the period in which the slot was made.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Date, Integer, Jsonb, Timestamptz};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::billing::directory::{Directory, OrgContext};
use crate::error::Error;
use crate::metering::catalog;
use crate::metering::meters::{self, Aggregation};
use crate::metering::periods::{CountedDays, Period};
use crate::metering::slots::PeriodKind;
use crate::schema::{quota_slot_orgs, quota_slots, usage_series};

/// Orgs filled in by one statement.
const CHUNK: usize = 1000;
const TEXT_LIMIT: usize = 200;

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counted {
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

/// Whom it is counted for.
#[derive(Clone, Copy, Debug)]
pub enum For {
    /// Every org, as plans limit it.
    Everybody,
    Org(i64),
}

/// The slot that counts this for them, made and filled in where it is not there. It begins with the
/// catalogue's lock, so call it first in the transaction.
///
/// # Errors
/// [`Error::Invalid`] naming the field that is wrong.
pub fn define(
    conn: &mut PgConnection,
    directory: &Directory,
    counted: &Counted,
    whose: For,
    now: DateTime<Utc>,
) -> Result<i32, Error> {
    catalog::begin_change(conn)?;
    let meter_id = check(conn, counted)?;
    let found = match find(conn, meter_id, counted)? {
        Some(found) => found,
        None => insert(conn, meter_id, counted, now)?,
    };
    let Found { slot_id, everywhere, .. } = found;
    let slot = Fill { found, meter_id, counted, now };
    match whose {
        For::Org(org_id) => {
            let joined = diesel::insert_into(quota_slot_orgs::table)
                .values((quota_slot_orgs::slot_id.eq(slot_id), quota_slot_orgs::org_id.eq(org_id)))
                .on_conflict_do_nothing()
                .execute(conn)?;
            if joined == 1 {
                slot.run(conn, directory, &[org_id], if everywhere { Span::Before } else { Span::All })?;
            }
        }
        For::Everybody if everywhere => {}
        For::Everybody => {
            diesel::update(quota_slots::table.find(slot_id))
                .set(quota_slots::everywhere.eq(true))
                .execute(conn)?;
            let counted = quota_slot_orgs::table
                .filter(quota_slot_orgs::slot_id.eq(slot_id))
                .select(quota_slot_orgs::org_id);
            let org_ids: Vec<i64> = usage_series::table
                .filter(usage_series::meter_id.eq(meter_id).and(usage_series::org_id.ne_all(counted)))
                .select(usage_series::org_id)
                .distinct()
                .order(usage_series::org_id)
                .load(conn)?;
            for chunk in org_ids.chunks(CHUNK) {
                slot.run(conn, directory, chunk, Span::Since)?;
            }
        }
    }
    Ok(slot_id)
}

fn check(conn: &mut PgConnection, counted: &Counted) -> Result<i32, Error> {
    let meter = meters::all(conn)?
        .into_iter()
        .find(|meter| meter.key == counted.meter && meter.archived_at.is_none())
        .ok_or_else(|| {
            Error::invalid(
                "meter",
                format!("`{}` is no meter that counts: /v1/meters lists them", counted.meter),
            )
        })?;
    if !meter.aggregation.is_limited() {
        let kind = meter.aggregation.name();
        return Err(Error::invalid(
            "meter",
            format!(
                "`{}` has the aggregation {kind}, but only meters of kind sum, count or level can be limited",
                meter.key
            ),
        ));
    }
    if (meter.aggregation == Aggregation::Level) != (counted.period == PeriodKind::Always) {
        return Err(Error::invalid(
            "period",
            "must be `always` for a level, which has no period, and for no other meter",
        ));
    }
    for (name, value) in &counted.filter {
        if !meter.dimensions.contains(name) {
            return Err(Error::invalid(
                format!("filter.{name}"),
                format!("is no dimension of this meter; it has: {}", meter.dimensions.join(", ")),
            ));
        }
        if value.chars().count() > TEXT_LIMIT {
            return Err(Error::invalid(
                format!("filter.{name}"),
                format!("must be at most {TEXT_LIMIT} characters"),
            ));
        }
    }
    Ok(meter.meter_id)
}

fn filter_of(counted: &Counted) -> Value {
    Value::Object(counted.filter.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect())
}

/// A slot that is there.
#[derive(Clone, Copy, Debug)]
struct Found {
    slot_id: i32,
    everywhere: bool,
    created_at: DateTime<Utc>,
}

fn find(conn: &mut PgConnection, meter_id: i32, counted: &Counted) -> Result<Option<Found>, Error> {
    let found: Option<(i32, bool, DateTime<Utc>)> = quota_slots::table
        .filter(quota_slots::meter_id.eq(meter_id))
        .filter(quota_slots::filter.eq(filter_of(counted)))
        .filter(quota_slots::per_subject.eq(counted.per_subject))
        .filter(quota_slots::period.eq(counted.period.name()))
        .select((quota_slots::slot_id, quota_slots::everywhere, quota_slots::created_at))
        .first(conn)
        .optional()?;
    Ok(found.map(|(slot_id, everywhere, created_at)| Found { slot_id, everywhere, created_at }))
}

/// The slot that counts this, if there is one.
///
/// # Errors
/// [`Error::Invalid`] for what no slot can count.
pub fn existing(conn: &mut PgConnection, counted: &Counted) -> Result<Option<i32>, Error> {
    let meter_id = check(conn, counted)?;
    Ok(find(conn, meter_id, counted)?.map(|found| found.slot_id))
}

fn insert(
    conn: &mut PgConnection,
    meter_id: i32,
    counted: &Counted,
    now: DateTime<Utc>,
) -> Result<Found, Error> {
    // The catalogue's lock keeps others from taking the same number.
    let last: Option<i32> = quota_slots::table.select(diesel::dsl::max(quota_slots::slot_id)).first(conn)?;
    let slot_id = last.unwrap_or(0) + 1;
    diesel::insert_into(quota_slots::table)
        .values((
            quota_slots::slot_id.eq(slot_id),
            quota_slots::meter_id.eq(meter_id),
            quota_slots::filter.eq(filter_of(counted)),
            quota_slots::per_subject.eq(counted.per_subject),
            quota_slots::period.eq(counted.period.name()),
            quota_slots::everywhere.eq(false),
            quota_slots::created_at.eq(now),
        ))
        .execute(conn)?;
    Ok(Found { slot_id, everywhere: false, created_at: now })
}

/// A slot that is to be filled in.
struct Fill<'a> {
    found: Found,
    meter_id: i32,
    counted: &'a Counted,
    now: DateTime<Utc>,
}

/// Which periods are filled in.
#[derive(Clone, Copy, Debug)]
enum Span {
    /// Past ones and the running one (and what lies ahead: usage may, a little).
    All,
    /// Those before the one in which the slot was made.
    Before,
    /// The one in which the slot was made, and those that came after: of a new slot the running one.
    Since,
}

/// Nothing is counted to this day.
const FAR: NaiveDate = NaiveDate::from_ymd_opt(9999, 1, 1).expect("a date");

impl Fill<'_> {
    /// The labels of the periods of an org that are filled in, `[from, before)`.
    fn labels(&self, org: &OrgContext, span: Span) -> (NaiveDate, NaiveDate) {
        let Counted { period, per_subject, .. } = *self.counted;
        let first = CountedDays::BY_FIRST_QUOTA.first_label(period, per_subject, org, self.now);
        let made = Period::at(period, org, self.found.created_at).label;
        match span {
            Span::All => (first, FAR),
            Span::Before => (first, made),
            Span::Since => (first.max(made), FAR),
        }
    }

    /// Sets the counters of these orgs to what was recorded.
    fn run(
        &self,
        conn: &mut PgConnection,
        directory: &Directory,
        org_ids: &[i64],
        span: Span,
    ) -> Result<(), Error> {
        let orgs: Vec<(String, Arc<OrgContext>)> = directory.load(conn, &[], org_ids)?;
        let labels: Vec<_> = orgs.iter().map(|(_, org)| (org.org_id, self.labels(org, span))).collect();
        let Some(earliest) = labels.iter().map(|(_, (from, _))| *from).min() else { return Ok(()) };
        // Days are local, and a billing period begins by UTC.
        let earliest = earliest.checked_sub_days(Days::new(2)).unwrap_or(earliest);
        diesel::sql_query(self.sql())
            .bind::<Array<BigInt>, _>(labels.iter().map(|(org_id, _)| *org_id).collect::<Vec<_>>())
            .bind::<Array<Date>, _>(labels.iter().map(|(_, (from, _))| *from).collect::<Vec<_>>())
            .bind::<Array<Date>, _>(labels.iter().map(|(_, (_, before))| *before).collect::<Vec<_>>())
            .bind::<Integer, _>(self.found.slot_id)
            .bind::<Integer, _>(self.meter_id)
            .bind::<Jsonb, _>(filter_of(self.counted))
            .bind::<Timestamptz, _>(earliest.and_time(NaiveTime::MIN).and_utc())
            .execute(conn)?;
        Ok(())
    }

    /// The summaries know the day of all usage, but neither its subject nor its billing period: those are
    /// read off the records.
    fn sql(&self) -> String {
        let records = self.counted.per_subject || self.counted.period == PeriodKind::Billing;
        // What was posted here and belongs elsewhere is told by its records.
        let table = if records {
            "(SELECT *, coalesce(own_day, day) AS own FROM usage_records
              WHERE org_id = ANY ($1) AND meter_id = $5 AND occurred_at >= $7
              UNION ALL SELECT *, coalesce(own_day, day) AS own FROM usage_records
              WHERE org_id = ANY ($1) AND meter_id = $5 AND occurred_at < $7 AND moved)"
        } else {
            "(SELECT org_id, series_id, day AS own, quantity FROM daily_summaries
              WHERE org_id = ANY ($1) AND day >= ($7 AT TIME ZONE 'UTC')::date
              UNION ALL SELECT org_id, series_id, day, -quantity FROM usage_records
              WHERE org_id = ANY ($1) AND own_day IS NOT NULL
              UNION ALL SELECT org_id, series_id, own_day, quantity FROM usage_records
              WHERE org_id = ANY ($1) AND own_day IS NOT NULL)"
        };
        let subject = if self.counted.per_subject { "coalesce(u.subject, '')" } else { "''::text" };
        let label = match self.counted.period {
            PeriodKind::Day => "u.own",
            PeriodKind::Month => "date_trunc('month', u.own)::date",
            PeriodKind::Billing => "coalesce(u.billing_period, date_trunc('month', u.own)::date)",
            PeriodKind::Always => "k.since",
        };
        let began = match self.counted.period {
            PeriodKind::Day | PeriodKind::Month | PeriodKind::Always => "timestamptz 'epoch'",
            PeriodKind::Billing => "coalesce(u.billing_start, 'epoch')",
        };
        let (table, quantity) = match self.counted.period {
            PeriodKind::Always => ("usage_levels", "greatest(u.set_value + u.changes, 0)"),
            _ => (table, "u.quantity"),
        };
        format!(
            "INSERT INTO quota_counters AS c (org_id, slot_id, subject, period, began, used, reserved)
             SELECT u.org_id, $4, {subject}, {label}, {began}, sum({quantity}), 0
             FROM unnest($1, $2, $3) AS k (org_id, since, before)
             JOIN usage_series s ON s.org_id = k.org_id
             JOIN {table} u ON u.org_id = s.org_id AND u.series_id = s.series_id
                 AND {label} >= k.since AND {label} < k.before
             WHERE s.meter_id = $5 AND s.dimensions @> $6
             GROUP BY 1, 2, 3, 4, 5
             ON CONFLICT (org_id, slot_id, subject, period, began) DO UPDATE SET used = excluded.used"
        )
    }
}
