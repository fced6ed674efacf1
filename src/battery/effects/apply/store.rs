//! Reads what was clawed back before, and writes what was done. Owns `battery_effects` and `battery_returns`.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Jsonb, Numeric, Text, Untyped};
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::Value;

use super::{ChangedCause, ClawbacksByGrant, GrantPlace, Posting};
use crate::battery::effects::model::clawbacks::CauseAmount;
use crate::battery::effects::model::facts::PaidAmount;
use crate::battery::effects::model::{CauseKind, GrantClawbacks, SaleSource};
use crate::battery::effects::sql::bind_sources;
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;

statement!(Grants -> (BigInt, BigInt, Numeric, BigInt):
    "SELECT e.org_id, e.grant_number, e.units, e.paid_minor
     FROM unnest(?, ?) AS k (o, n)
     JOIN battery_effects e ON e.org_id = k.o
         AND e.grant_number = k.n
     WHERE e.units > 0");
statement!(Causes -> (BigInt, BigInt, Text, Text, BigInt, Numeric):
    "SELECT r.org_id, r.grant_number, r.cause_kind, r.cause_id, r.minor, r.units
     FROM unnest(?, ?) AS k (o, n)
     JOIN battery_returns r ON r.org_id = k.o
         AND r.grant_number = k.n");
statement!(UpdatePaid -> Untyped:
    "UPDATE battery_effects e
     SET paid_minor = k.paid
     FROM unnest(?, ?, ?, ?, ?) AS k (account, livemode, kind, id, paid)
     WHERE (e.source_id, e.source_kind, e.account, e.livemode) = (k.id, k.kind, k.account, k.livemode)");

/// The clawbacks of these grants. Grants that no effect made are left out.
pub(crate) fn load_clawbacks(
    conn: &mut PgConnection,
    grants: &BTreeSet<GrantPlace>,
) -> Result<ClawbacksByGrant, Error> {
    let mut clawbacks = BTreeMap::new();
    if grants.is_empty() {
        return Ok(clawbacks);
    }
    let orgs = || grants.iter().map(|(org, _)| *org).collect::<Vec<_>>();
    let numbers = || grants.iter().map(|(_, number)| *number).collect::<Vec<_>>();
    let rows: Vec<(i64, i64, Decimal, i64)> =
        Prepared::<Grants>::new().bind::<BigInt, _>(orgs()).bind::<BigInt, _>(numbers()).load(conn)?;
    for (org, number, granted, paid) in rows {
        clawbacks.insert((org, number), GrantClawbacks::new(granted, paid));
    }
    let rows: Vec<(i64, i64, String, String, i64, Decimal)> =
        Prepared::<Causes>::new().bind::<BigInt, _>(orgs()).bind::<BigInt, _>(numbers()).load(conn)?;
    for (org, number, kind, id, minor, units) in rows {
        if let Some(of_grant) = clawbacks.get_mut(&(org, number)) {
            of_grant.causes.insert((CauseKind::parse(&kind)?, id), CauseAmount { minor, units });
        }
    }
    Ok(clawbacks)
}

/// A row of `battery_effects`, in JSON for `jsonb_populate_recordset`.
#[derive(Debug, Default, Serialize)]
pub(super) struct EffectRow {
    pub(super) account: String,
    pub(super) livemode: bool,
    pub(super) source_kind: &'static str,
    pub(super) source_id: String,
    pub(super) line: String,
    pub(super) org_id: i64,
    pub(super) what: &'static str,
    pub(super) grant_number: Option<i64>,
    pub(super) units: Decimal,
    pub(super) paid_minor: i64,
    pub(super) currency: Option<String>,
    pub(super) plan_id: Option<String>,
    pub(super) plan_version: Option<i32>,
    pub(super) pack_id: Option<String>,
    pub(super) subscription_id: Option<String>,
    pub(super) price_id: Option<String>,
    pub(super) quantity: i64,
    pub(super) period_start: Option<DateTime<Utc>>,
    pub(super) period_end: Option<DateTime<Utc>>,
    pub(super) created_at: DateTime<Utc>,
}

impl EffectRow {
    /// A row that names its line, and not yet what the line did.
    pub(super) fn new(
        source: &SaleSource,
        line: &str,
        org_id: i64,
        paid: &PaidAmount,
        now: DateTime<Utc>,
    ) -> Self {
        Self {
            account: source.realm.account.clone(),
            livemode: source.realm.livemode,
            source_kind: source.kind.name(),
            source_id: source.id.clone(),
            line: line.to_owned(),
            org_id,
            paid_minor: paid.minor,
            currency: paid.currency.clone(),
            created_at: now,
            ..Self::default()
        }
    }
}

impl Posting {
    pub(super) fn store(self, conn: &mut PgConnection) -> Result<(), Error> {
        insert_effects(conn, &self.new_effects)?;
        update_moved_effects(conn, &self.moved_effects)?;
        update_paid(conn, &self.changed_paid)?;
        store_causes(conn, &self.changed_causes, &self.clawbacks)
    }
}

/// The primary key refuses a second effect of the same line.
fn insert_effects(conn: &mut PgConnection, effects: &[EffectRow]) -> Result<(), Error> {
    if effects.is_empty() {
        return Ok(());
    }
    diesel::sql_query(
        "INSERT INTO battery_effects
         SELECT *
         FROM jsonb_populate_recordset(NULL::battery_effects, $1)",
    )
    .bind::<Jsonb, _>(to_json(effects)?)
    .execute(conn)?;
    Ok(())
}

fn update_moved_effects(conn: &mut PgConnection, effects: &[EffectRow]) -> Result<(), Error> {
    if effects.is_empty() {
        return Ok(());
    }
    diesel::sql_query(
        "UPDATE battery_effects e
         SET grant_number = n.grant_number
         FROM jsonb_populate_recordset(NULL::battery_effects, $1) n
         WHERE (e.source_id, e.source_kind, e.account, e.livemode, e.line)
             = (n.source_id, n.source_kind, n.account, n.livemode, n.line)",
    )
    .bind::<Jsonb, _>(to_json(effects)?)
    .execute(conn)?;
    Ok(())
}

fn to_json(effects: &[EffectRow]) -> Result<Value, Error> {
    serde_json::to_value(effects).map_err(|error| Error::Internal(format!("a battery effect: {error}")))
}

fn update_paid(conn: &mut PgConnection, changed: &[(SaleSource, i64)]) -> Result<(), Error> {
    if changed.is_empty() {
        return Ok(());
    }
    let (sources, paid): (Vec<&SaleSource>, Vec<i64>) =
        changed.iter().map(|(source, paid)| (source, *paid)).unzip();
    bind_sources(Prepared::<UpdatePaid>::new(), &sources).bind::<BigInt, _>(paid).execute(conn)?;
    Ok(())
}

fn store_causes(
    conn: &mut PgConnection,
    changed: &BTreeSet<ChangedCause>,
    clawbacks: &ClawbacksByGrant,
) -> Result<(), Error> {
    if changed.is_empty() {
        return Ok(());
    }
    let amounts: Vec<CauseAmount> =
        changed.iter().map(|cause| clawbacks[&cause.grant].amount_of(cause.kind, &cause.id)).collect();
    diesel::sql_query(
        "INSERT INTO battery_returns (org_id, grant_number, cause_kind, cause_id, minor, units)
         SELECT *
         FROM unnest(
             $1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bigint[], $6::numeric[])
         ON CONFLICT (org_id, grant_number, cause_kind, cause_id) DO UPDATE
         SET minor = excluded.minor, units = excluded.units",
    )
    .bind::<Array<BigInt>, _>(changed.iter().map(|cause| cause.grant.0).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(changed.iter().map(|cause| cause.grant.1).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(changed.iter().map(|cause| cause.kind.name()).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(changed.iter().map(|cause| cause.id.as_str()).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(amounts.iter().map(|amount| amount.minor).collect::<Vec<_>>())
    .bind::<Array<Numeric>, _>(amounts.iter().map(|amount| amount.units).collect::<Vec<_>>())
    .execute(conn)?;
    Ok(())
}
