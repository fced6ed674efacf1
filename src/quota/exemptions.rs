//! Exemptions: subjects that a limit leaves out. Owns `quota_exemptions`.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde::Serialize;
use utoipa::ToSchema;

use super::define::{self, SlotDefinition, SlotDefinitionRow};
use crate::error::Error;
use crate::ids;
use crate::metering::catalog;
use crate::schema::{meters, orgs, quota_exemptions, quota_slots};

/// A subject that the limits on this leave out, the org's own and its plan's. Its usage is counted all the
/// same, at the org's counter, too.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Exemption {
    /// `qex_…`
    pub id: String,
    /// Public id of the org.
    pub org: String,
    /// What is counted.
    #[serde(flatten)]
    pub counted: SlotDefinition,
    /// Who is exempt.
    pub subject: String,
    /// Why.
    pub reason: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// Exempts a subject; returns the exemption's public id.
///
/// # Errors
/// [`Error::Invalid`] when no quota counts this; [`Error::Conflict`] when the subject is exempt already.
pub fn create(
    conn: &mut PgConnection,
    org_id: i64,
    definition: &SlotDefinition,
    (subject, reason): (&str, &str),
    now: DateTime<Utc>,
) -> Result<String, Error> {
    catalog::begin_change(conn)?;
    let slot_id = define::existing(conn, definition)?.ok_or_else(|| {
        Error::invalid(
            "meter",
            "no quota of an org or plan counts this meter with this filter, per_subject and period",
        )
    })?;
    let id = ids::fresh("qex");
    diesel::insert_into(quota_exemptions::table)
        .values((
            quota_exemptions::org_id.eq(org_id),
            quota_exemptions::exemption_id.eq(&id),
            quota_exemptions::slot_id.eq(slot_id),
            quota_exemptions::subject.eq(subject),
            quota_exemptions::reason.eq(reason),
            quota_exemptions::created_at.eq(now),
        ))
        .execute(conn)
        .map_err(|error| {
            let error = Error::from(error);
            match error.constraint() {
                Some("quota_exemptions_org_id_slot_id_subject_key") => {
                    Error::conflict("already_exempt", "this subject is exempt already")
                }
                _ => error,
            }
        })?;
    Ok(id)
}

/// Exemptions by id, at most `limit`: of one org or all, of one id or all, after the one of that id.
pub fn list(
    conn: &mut PgConnection,
    org_id: Option<i64>,
    id: Option<&str>,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Exemption>, Error> {
    type ExemptionRow = ((String, String), SlotDefinitionRow, (String, String, DateTime<Utc>));
    let mut query = quota_exemptions::table
        .inner_join(orgs::table.on(orgs::org_id.eq(quota_exemptions::org_id)))
        .inner_join(quota_slots::table.on(quota_slots::slot_id.eq(quota_exemptions::slot_id)))
        .inner_join(meters::table.on(meters::meter_id.eq(quota_slots::meter_id)))
        .select((
            (quota_exemptions::exemption_id, orgs::public_id),
            (meters::key, quota_slots::filter, quota_slots::per_subject, quota_slots::period),
            (quota_exemptions::subject, quota_exemptions::reason, quota_exemptions::created_at),
        ))
        .order((quota_exemptions::exemption_id, quota_exemptions::org_id))
        .limit(limit)
        .into_boxed();
    if let Some(org_id) = org_id {
        query = query.filter(quota_exemptions::org_id.eq(org_id));
    }
    if let Some(id) = id {
        query = query.filter(quota_exemptions::exemption_id.eq(id.to_owned()));
    }
    if let Some(after) = after {
        query = query.filter(quota_exemptions::exemption_id.gt(after.to_owned()));
    }
    let rows: Vec<ExemptionRow> = query.load(conn)?;
    rows.into_iter()
        .map(|((id, org), counted, (subject, reason, created_at))| {
            Ok(Exemption {
                id,
                org,
                counted: SlotDefinition::from_row(counted)?,
                subject,
                reason,
                created_at,
            })
        })
        .collect()
}

/// Ends an exemption; returns the org's row id.
///
/// # Errors
/// [`Error::NotFound`].
pub fn delete(conn: &mut PgConnection, id: &str) -> Result<i64, Error> {
    catalog::begin_change(conn)?;
    let deleted: Option<i64> =
        diesel::delete(quota_exemptions::table.filter(quota_exemptions::exemption_id.eq(id)))
            .returning(quota_exemptions::org_id)
            .get_result(conn)
            .optional()?;
    deleted.ok_or(Error::NotFound("exemption"))
}
