//! Quotas of orgs. Owns `quotas`.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::define::{self, Counted, For};
use super::limits::{Enforcement, Terms, TermsRow};
use crate::billing::directory::Directory;
use crate::error::Error;
use crate::ids;
use crate::metering::catalog;
use crate::metering::periods::{CountedDays, Period};
use crate::metering::slots::PeriodKind;
use crate::quantity::{Percent, Quantity, QuantityFromZero};
use crate::schema::{meters, orgs, quota_counters, quota_slots, quotas};
use crate::time::{Day, Moment};

/// An org's own limit on what a meter counts. It stands in place of its plan's.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Quota {
    /// `quo_…`
    pub id: String,
    /// Public id of the org.
    pub org: String,
    /// What is counted.
    #[serde(flatten)]
    pub counted: Counted,
    /// How much, and what then.
    #[serde(flatten)]
    pub terms: Terms,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// Changes to a quota; what is left out stays. What it counts never changes: make another one for that.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuotaPatch {
    /// The limit; null: no limit.
    #[serde(default, deserialize_with = "some")]
    #[schema(value_type = Option<QuantityFromZero>)]
    pub limit: Option<Option<Quantity>>,
    /// What the limit does.
    #[serde(default)]
    pub enforcement: Option<Enforcement>,
    /// Refuse usage over the limit when it is reported.
    #[serde(default)]
    pub refuse_usage: Option<bool>,
    /// Percent of the limit at which a message is sent.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Percent>>, max_items = 10)]
    pub thresholds: Option<Vec<Quantity>>,
}

/// Null is something else than nothing.
fn some<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Option<Quantity>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// Row ids of a quota's org and slot.
pub type Place = (i64, i32);
pub(super) type CountedRow = (String, Value, bool, String);

pub(super) fn counted_of((meter, filter, per_subject, period): CountedRow) -> Result<Counted, Error> {
    let broken = || Error::Internal(format!("a quota slot of meter {meter} cannot be read"));
    let filter: BTreeMap<String, String> = serde_json::from_value(filter).map_err(|_| broken())?;
    let period = PeriodKind::parse(&period).ok_or_else(broken)?;
    Ok(Counted { meter, filter, per_subject, period })
}

/// Makes a quota; returns its public id.
///
/// # Errors
/// [`Error::Invalid`] for a bad field; [`Error::Conflict`] when the org has a quota on the same.
pub fn create(
    conn: &mut PgConnection,
    directory: &Directory,
    org_id: i64,
    counted: &Counted,
    terms: &Terms,
    now: DateTime<Utc>,
) -> Result<String, Error> {
    let slot_id = define::define(conn, directory, counted, For::Org(org_id), now)?;
    let id = ids::fresh("quo");
    diesel::insert_into(quotas::table)
        .values((
            quotas::org_id.eq(org_id),
            quotas::quota_id.eq(&id),
            quotas::slot_id.eq(slot_id),
            quotas::limit_quantity.eq(terms.limit.map(|limit| limit.0)),
            quotas::enforcement.eq(terms.enforcement.name()),
            quotas::refuse_usage.eq(terms.refuse_usage),
            quotas::thresholds.eq(terms.threshold_percents()),
            quotas::created_at.eq(now),
            quotas::updated_at.eq(now),
        ))
        .execute(conn)
        .map_err(|error| {
            let error = Error::from(error);
            match error.constraint() {
                Some("quotas_org_id_slot_id_key") => Error::conflict(
                    "quota_exists",
                    "this org has a quota on the same meter, filter and period: change that one",
                ),
                _ => error,
            }
        })?;
    Ok(id)
}

/// Which quotas.
#[derive(Clone, Debug, Default)]
pub struct QuotaFilter {
    pub id: Option<String>,
    /// Only those of this org.
    pub org_id: Option<i64>,
    /// Only those on this meter.
    pub meter: Option<String>,
    /// Only those after this one in the list.
    pub after: Option<String>,
}

/// Quotas by id, at most `limit`, each with the row ids of its org and slot.
///
/// # Errors
/// [`Error::Invalid`] for a meter that there is not: a mistyped one would look like one without quotas. When
/// the database fails.
pub fn list(conn: &mut PgConnection, filter: &QuotaFilter, limit: i64) -> Result<Vec<(Place, Quota)>, Error> {
    type QuotaRow = (Place, (String, String), CountedRow, TermsRow, (DateTime<Utc>, DateTime<Utc>));
    crate::metering::meters::ids(conn, filter.meter.as_slice())?;
    let mut query = quotas::table
        .inner_join(orgs::table.on(orgs::org_id.eq(quotas::org_id)))
        .inner_join(quota_slots::table.on(quota_slots::slot_id.eq(quotas::slot_id)))
        .inner_join(meters::table.on(meters::meter_id.eq(quota_slots::meter_id)))
        .select((
            (quotas::org_id, quotas::slot_id),
            (quotas::quota_id, orgs::public_id),
            (meters::key, quota_slots::filter, quota_slots::per_subject, quota_slots::period),
            (quotas::limit_quantity, quotas::enforcement, quotas::refuse_usage, quotas::thresholds),
            (quotas::created_at, quotas::updated_at),
        ))
        .order((quotas::quota_id, quotas::org_id))
        .limit(limit)
        .into_boxed();
    if let Some(id) = &filter.id {
        query = query.filter(quotas::quota_id.eq(id));
    }
    if let Some(org_id) = filter.org_id {
        query = query.filter(quotas::org_id.eq(org_id));
    }
    if let Some(meter) = &filter.meter {
        query = query.filter(meters::key.eq(meter));
    }
    if let Some(after) = &filter.after {
        query = query.filter(quotas::quota_id.gt(after));
    }
    let rows: Vec<QuotaRow> = query.load(conn)?;
    rows.into_iter()
        .map(|(key, (id, org), counted, terms, (created_at, updated_at))| {
            let (counted, terms) = (counted_of(counted)?, Terms::from_row(terms)?);
            Ok((key, Quota { id, org, counted, terms, created_at, updated_at }))
        })
        .collect()
}

/// One quota, with the row ids of its org and slot; `org_id` keeps to one org's.
///
/// # Errors
/// [`Error::NotFound`] when there is none, or it is not yours.
pub fn find(conn: &mut PgConnection, id: &str, org_id: Option<i64>) -> Result<(Place, Quota), Error> {
    let filter = QuotaFilter { id: Some(id.to_owned()), org_id, ..QuotaFilter::default() };
    list(conn, &filter, 1)?.pop().ok_or(Error::NotFound("quota"))
}

/// Changes a quota; what was counted stays.
///
/// # Errors
/// [`Error::NotFound`], or [`Error::Invalid`] for a bad field.
pub fn update(
    conn: &mut PgConnection,
    id: &str,
    patch: &QuotaPatch,
    now: DateTime<Utc>,
) -> Result<(i64, Quota), Error> {
    catalog::begin_change(conn)?;
    let ((org_id, _), mut quota) = find(conn, id, None)?;
    let terms = &mut quota.terms;
    terms.limit = patch.limit.unwrap_or(terms.limit);
    terms.enforcement = patch.enforcement.unwrap_or(terms.enforcement);
    terms.refuse_usage = patch.refuse_usage.unwrap_or(terms.refuse_usage);
    if let Some(thresholds) = &patch.thresholds {
        terms.thresholds.clone_from(thresholds);
    }
    terms.check()?;
    diesel::update(quotas::table.find((org_id, id)))
        .set((
            quotas::limit_quantity.eq(terms.limit.map(|limit| limit.0)),
            quotas::enforcement.eq(terms.enforcement.name()),
            quotas::refuse_usage.eq(terms.refuse_usage),
            quotas::thresholds.eq(terms.threshold_percents()),
            quotas::updated_at.eq(now),
        ))
        .execute(conn)?;
    quota.updated_at = now;
    Ok((org_id, quota))
}

/// Takes a quota away: the plan's limit holds again, if there is one. Counting goes on. Returns the org's row
/// id.
///
/// # Errors
/// [`Error::NotFound`].
pub fn delete(conn: &mut PgConnection, id: &str) -> Result<i64, Error> {
    catalog::begin_change(conn)?;
    let ((org_id, _), _) = find(conn, id, None)?;
    diesel::delete(quotas::table.find((org_id, id))).execute(conn)?;
    Ok(org_id)
}

/// What was used in one period.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PeriodUsage {
    /// Where a page goes on after it.
    #[serde(skip)]
    pub cursor: HistoryCursor,
    /// First day of the period: local; of a subscription's period by UTC.
    pub period: NaiveDate,
    /// When it began: a local day or month by the zone that the org has now.
    pub start: DateTime<Utc>,
    /// When it ended or will end.
    pub end: DateTime<Utc>,
    /// The subject, where each has a counter; empty: usage that named none.
    pub subject: Option<String>,
    /// Usage counted.
    pub used: Quantity,
    /// Set aside by reservations that are open, or whose end was not seen yet.
    pub reserved: Quantity,
}

/// Where a page of the history goes on: period (first day, and when a subscription's began) and subject of
/// the last row given.
pub type HistoryCursor = (Day, Option<Moment>, String);

/// Periods of a quota's counters, newest first, at most `limit`; the running one included. What is older than
/// `kept`, or than what was filled in when the quota was made, is not shown: late usage and corrections may
/// have made such a counter anew, and it would say what they alone come to.
///
/// # Errors
/// [`Error::NotFound`] when there is no such quota, or it is not yours.
pub fn history(
    conn: &mut PgConnection,
    directory: &Directory,
    (id, org_id): (&str, Option<i64>),
    subject: Option<&str>,
    (after, limit): (Option<HistoryCursor>, i64),
    (kept, now): (CountedDays, DateTime<Utc>),
) -> Result<Vec<PeriodUsage>, Error> {
    let ((org_id, slot_id), quota) = find(conn, id, org_id)?;
    let org = directory.find(conn, org_id)?;
    let first =
        |days: CountedDays, at| days.first_label(quota.counted.period, quota.counted.per_subject, &org, at);
    let first = first(kept, now).max(first(CountedDays::BY_FIRST_QUOTA, quota.created_at));
    let mut query = quota_counters::table
        .filter(quota_counters::org_id.eq(org_id).and(quota_counters::slot_id.eq(slot_id)))
        .filter(quota_counters::period.ge(first))
        .order((quota_counters::period.desc(), quota_counters::began.desc(), quota_counters::subject))
        .select((
            (quota_counters::period, quota_counters::began),
            quota_counters::subject,
            quota_counters::used,
            quota_counters::reserved,
        ))
        .limit(limit)
        .into_boxed();
    if let Some(subject) = subject {
        query = query.filter(quota_counters::subject.eq(subject));
    }
    if let Some((Day(label), began, subject)) = after {
        let (label, began) = Period { label, began: began.map(|Moment(began)| began) }.to_row();
        let same = quota_counters::began.eq(began).and(quota_counters::subject.gt(subject));
        let on_that_day = quota_counters::period.eq(label).and(quota_counters::began.lt(began).or(same));
        query = query.filter(quota_counters::period.lt(label).or(on_that_day));
    }
    type QuotaRow = ((NaiveDate, DateTime<Utc>), String, Decimal, Decimal);
    let rows: Vec<QuotaRow> = query.load(conn)?;
    let per_subject = quota.counted.per_subject;
    let shown = rows.into_iter().map(|(period, subject, used, reserved)| {
        let period = Period::from_row(period);
        let (start, end) = period.bounds(quota.counted.period, &org);
        let subject = per_subject.then_some(subject);
        let cursor = (Day(period.label), period.began.map(Moment), subject.clone().unwrap_or_default());
        let period = period.label;
        PeriodUsage {
            cursor,
            period,
            start,
            end,
            subject,
            used: Quantity(used),
            reserved: Quantity(reserved),
        }
    });
    Ok(shown.collect())
}
