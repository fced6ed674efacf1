//! Quotas of orgs. Owns `quotas`.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::define::{self, SlotDefinition, SlotDefinitionRow, SlotOrgs};
use super::limits::{Enforcement, LimitTerms, LimitTermsRow};
use crate::billing::directory::Directory;
use crate::error::Error;
use crate::ids;
use crate::metering::catalog;
use crate::quantity::{Percent, Quantity, QuantityFromZero};
use crate::schema::{meters, orgs, quota_slots, quotas};

/// An org's own limit on what a meter counts. It stands in place of its plan's.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Quota {
    /// `quo_…`
    pub id: String,
    /// Public id of the org.
    pub org: String,
    /// What is counted.
    #[serde(flatten)]
    pub counted: SlotDefinition,
    /// The limit, and what happens when usage reaches it.
    #[serde(flatten)]
    pub terms: LimitTerms,
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
    #[serde(default, deserialize_with = "given")]
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

/// Tells null (no limit) from a field that is left out.
fn given<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Option<Quantity>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// Row ids of a quota's org and slot.
pub type QuotaKey = (i64, i32);

/// Makes a quota; returns its public id.
///
/// # Errors
/// [`Error::Invalid`] for a bad field; [`Error::Conflict`] when the org already has a
/// quota on the same slot.
pub fn create(
    conn: &mut PgConnection,
    directory: &Directory,
    org_id: i64,
    definition: &SlotDefinition,
    terms: &LimitTerms,
    now: DateTime<Utc>,
) -> Result<String, Error> {
    let slot_id = define::define(conn, directory, definition, SlotOrgs::One(org_id), now)?;
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

/// Narrows a list of quotas.
#[derive(Clone, Debug, Default)]
pub struct QuotaFilter {
    pub id: Option<String>,
    pub org_id: Option<i64>,
    /// Key of a meter.
    pub meter: Option<String>,
    /// Id of the quota after which a page begins.
    pub after: Option<String>,
}

/// Quotas by id, at most `limit`, each with the row ids of its org and slot.
///
/// # Errors
/// [`Error::Invalid`] when the meter does not exist: an empty list would hide a mistyped key.
pub fn list(
    conn: &mut PgConnection,
    filter: &QuotaFilter,
    limit: i64,
) -> Result<Vec<(QuotaKey, Quota)>, Error> {
    type QuotaRow =
        (QuotaKey, (String, String), SlotDefinitionRow, LimitTermsRow, (DateTime<Utc>, DateTime<Utc>));
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
            let (counted, terms) = (SlotDefinition::from_row(counted)?, LimitTerms::from_row(terms)?);
            Ok((key, Quota { id, org, counted, terms, created_at, updated_at }))
        })
        .collect()
}

/// One quota, with the row ids of its org and slot. With `org_id`: only if it is that org's.
///
/// # Errors
/// [`Error::NotFound`] when there is none, or it is not yours.
pub fn find(conn: &mut PgConnection, id: &str, org_id: Option<i64>) -> Result<(QuotaKey, Quota), Error> {
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

/// Deletes a quota: the plan's limit holds again, if there is one. Counting goes on. Returns the org's row
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
