//! Effects that cannot happen yet. Owns `battery_effects_waiting`.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Nullable, Text, Timestamptz};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::facts::Facts;
use super::targets::{GRACE, Wait};
use super::{LOCK, Source};
use crate::billing::markers::{self, Marker};
use crate::error::Error;
use crate::schema::{battery_effects_waiting, battery_packs};

/// An effect of Stripe that cannot happen yet.
#[derive(Clone, Debug, Serialize, ToSchema, QueryableByName)]
pub struct WaitingEffect {
    /// Its number.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// Connected account, empty for our own.
    #[diesel(sql_type = Text)]
    pub account: String,
    /// Live or test mode.
    #[diesel(sql_type = Bool)]
    pub livemode: bool,
    /// Kind of the Stripe object: `invoice`, `payment_intent`, `checkout_session`; of a failed one any.
    #[diesel(sql_type = Text)]
    pub object: String,
    /// Its id.
    #[diesel(sql_type = Text)]
    pub object_id: String,
    /// The line of the invoice; empty: the object as a whole.
    #[diesel(sql_type = Text)]
    pub line: String,
    /// `no_org`, `unknown_price`, `unknown_pack`, `unknown_subscription`, `unknown_period`, `no_grant`, `incomplete_lines` or `failed`.
    #[diesel(sql_type = Text)]
    pub reason: String,
    /// Why, and what to do, as a sentence.
    #[diesel(sql_type = Text)]
    pub detail: String,
    /// Since when.
    #[diesel(sql_type = Timestamptz)]
    pub since: DateTime<Utc>,
    /// The Stripe customer.
    #[diesel(sql_type = Nullable<Text>)]
    pub customer_id: Option<String>,
    /// The subscription of the line.
    #[diesel(sql_type = Nullable<Text>)]
    pub subscription_id: Option<String>,
    /// The price of the line.
    #[diesel(sql_type = Nullable<Text>)]
    pub price_id: Option<String>,
}

/// What an effect that waits is to be.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// Public id of the org that it is for; left out: as linked.
    #[serde(default)]
    pub org: Option<String>,
    /// The pack that was bought; left out: as named.
    #[serde(default)]
    pub pack: Option<String>,
}

const COLUMNS: &str = "SELECT waiting_id AS id, account, livemode, source_kind AS object, source_id AS object_id, line, reason, detail, since, customer_id,
    subscription_id, price_id FROM battery_effects_waiting";

/// What waits, oldest first, after `after`.
///
/// # Errors
/// When the database fails.
pub fn list(
    conn: &mut PgConnection,
    reason: Option<&str>,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<WaitingEffect>, Error> {
    let sql = format!(
        "{COLUMNS} WHERE dismissed_at IS NULL AND ($1::text IS NULL OR reason = $1) AND waiting_id > $2 ORDER BY waiting_id LIMIT $3"
    );
    Ok(diesel::sql_query(sql)
        .bind::<Nullable<Text>, _>(reason)
        .bind::<BigInt, _>(after.unwrap_or(0))
        .bind::<BigInt, _>(limit)
        .load(conn)?)
}

/// How many wait.
///
/// # Errors
/// When the database fails.
pub fn count(conn: &mut PgConnection) -> QueryResult<i64> {
    let waiting = battery_effects_waiting::table.filter(battery_effects_waiting::dismissed_at.is_null());
    waiting.count().get_result(conn)
}

fn find(conn: &mut PgConnection, id: i64) -> Result<WaitingEffect, Error> {
    diesel::sql_query(format!("{COLUMNS} WHERE waiting_id = $1 AND dismissed_at IS NULL FOR UPDATE"))
        .bind::<BigInt, _>(id)
        .get_result(conn)
        .optional()?
        .ok_or(Error::NotFound("waiting effect"))
}

/// Waits until no worker is deciding on what waits.
fn settled(conn: &mut PgConnection) -> Result<(), Error> {
    diesel::sql_query("SELECT pg_advisory_xact_lock($1)").bind::<BigInt, _>(LOCK).execute(conn)?;
    Ok(())
}

/// Lets an effect never happen; returns it.
///
/// # Errors
/// [`Error::NotFound`] when it does not wait, [`Error::Invalid`] without a reason.
pub fn dismiss(
    conn: &mut PgConnection,
    id: i64,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<WaitingEffect, Error> {
    if reason.trim().is_empty() || reason.chars().count() > 500 || reason.contains('\0') {
        return Err(Error::invalid("reason", "must be 1 to 500 characters, and not blank"));
    }
    settled(conn)?;
    let effect = find(conn, id)?;
    diesel::sql_query(
        "UPDATE battery_effects_waiting SET dismissed_at = $2, dismissed_reason = $3, next_try = NULL WHERE waiting_id = $1",
    )
    .bind::<BigInt, _>(id)
    .bind::<Timestamptz, _>(now)
    .bind::<Text, _>(reason)
    .execute(conn)?;
    Ok(effect)
}

/// Says which org or pack an effect is for, and has it tried again; returns it.
///
/// # Errors
/// [`Error::NotFound`] when it does not wait or there is no such org, [`Error::Invalid`] when there is no such pack.
pub fn assign(
    conn: &mut PgConnection,
    id: i64,
    org_id: Option<i64>,
    pack: Option<&str>,
) -> Result<WaitingEffect, Error> {
    settled(conn)?;
    let effect = find(conn, id)?;
    if let Some(pack) = pack {
        let known: bool =
            diesel::select(diesel::dsl::exists(battery_packs::table.find(pack))).get_result(conn)?;
        if !known {
            return Err(Error::invalid("pack", format!("there is no pack `{}`", pack.replace('\0', ""))));
        }
    }
    diesel::sql_query(
        "UPDATE battery_effects_waiting SET assigned_org = coalesce($2, assigned_org), assigned_pack = coalesce($3, assigned_pack) WHERE waiting_id = $1",
    )
    .bind::<BigInt, _>(id)
    .bind::<Nullable<BigInt>, _>(org_id)
    .bind::<Nullable<Text>, _>(pack)
    .execute(conn)?;
    let realm = crate::realm::Realm { account: effect.account.clone(), livemode: effect.livemode };
    let marker = Marker { realm, kind: effect.object.clone(), id: effect.object_id.clone() };
    markers::write(conn, [&marker])?;
    Ok(effect)
}

/// Writes what of a source waits, and forgets what does no more.
pub(super) fn write(
    conn: &mut PgConnection,
    source: &Source,
    facts: &Facts,
    waits: &[Wait],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let gone: Vec<&str> = facts
        .waiting
        .iter()
        .filter(|known| !known.dismissed && waits.iter().all(|wait| wait.line != known.line))
        .map(|known| known.line.as_str())
        .collect();
    if !gone.is_empty() {
        diesel::sql_query(
            "DELETE FROM battery_effects_waiting WHERE source_id = $1 AND source_kind = $2 AND account = $3 AND livemode = $4 AND line = ANY ($5) AND dismissed_at IS NULL",
        )
        .bind::<Text, _>(&source.id)
        .bind::<Text, _>(source.kind.name())
        .bind::<Text, _>(&source.realm.account)
        .bind::<Bool, _>(source.realm.livemode)
        .bind::<Array<Text>, _>(gone)
        .execute(conn)?;
    }
    for wait in waits {
        let row = json!({
            "account": source.realm.account, "livemode": source.realm.livemode, "source_kind": source.kind.name(), "source_id": source.id,
            "line": wait.line, "reason": wait.reason.name(), "detail": wait.detail, "since": now,
            "next_try": wait.reason.passes().then(|| now + GRACE), "customer_id": facts.customer_id, "org_ref": facts.org_ref,
            "subscription_id": wait.subscription, "price_id": wait.price, "product_id": wait.product,
        });
        put(conn, &row)?;
    }
    Ok(())
}

/// One that waits already keeps the time since when, and when it is tried again for the same reason.
fn put(conn: &mut PgConnection, row: &Value) -> Result<(), Error> {
    diesel::sql_query(
        "INSERT INTO battery_effects_waiting AS w (account, livemode, source_kind, source_id, line, reason, detail, since, next_try, customer_id, org_ref,
             subscription_id, price_id, product_id)
         SELECT account, livemode, source_kind, source_id, line, reason, detail, since, next_try, customer_id, org_ref, subscription_id, price_id, product_id
         FROM jsonb_populate_record(NULL::battery_effects_waiting, $1)
         ON CONFLICT (source_id, source_kind, account, livemode, line) DO UPDATE SET
             since = CASE WHEN w.reason = excluded.reason THEN w.since ELSE excluded.since END,
             next_try = CASE WHEN w.reason = excluded.reason THEN w.next_try ELSE excluded.next_try END,
             reason = excluded.reason, detail = excluded.detail, customer_id = excluded.customer_id, org_ref = excluded.org_ref,
             subscription_id = excluded.subscription_id, price_id = excluded.price_id, product_id = excluded.product_id
         WHERE w.dismissed_at IS NULL",
    )
    .bind::<diesel::sql_types::Jsonb, _>(row)
    .execute(conn)?;
    Ok(())
}

/// Lets a marker wait that fails again and again.
pub(super) fn park(
    conn: &mut PgConnection,
    marker: &Marker,
    error: &str,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let row = json!({
        "account": marker.realm.account, "livemode": marker.realm.livemode, "source_kind": marker.kind, "source_id": marker.id, "line": "failed",
        "reason": "failed", "detail": error, "since": now,
    });
    put(conn, &row)
}

/// Forgets that these markers failed: they are tried again.
pub(super) fn unpark(conn: &mut PgConnection, markers: &BTreeSet<Marker>) -> Result<(), Error> {
    diesel::sql_query(
        "DELETE FROM battery_effects_waiting w USING unnest($1::text[], $2::boolean[], $3::text[], $4::text[]) AS k (account, livemode, kind, id)
         WHERE w.source_id = k.id AND w.source_kind = k.kind AND w.account = k.account AND w.livemode = k.livemode AND w.line = 'failed' AND w.dismissed_at IS NULL",
    )
    .bind::<Array<Text>, _>(markers.iter().map(|marker| &*marker.realm.account).collect::<Vec<_>>())
    .bind::<Array<Bool>, _>(markers.iter().map(|marker| marker.realm.livemode).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(markers.iter().map(|marker| &*marker.kind).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(markers.iter().map(|marker| &*marker.id).collect::<Vec<_>>())
    .execute(conn)?;
    Ok(())
}

/// Has everything tried again that these markers may let happen.
pub(super) fn wake(conn: &mut PgConnection, markers: &BTreeSet<Marker>) -> Result<(), Error> {
    let ids = |kind: &str| -> Vec<&str> {
        markers.iter().filter(|marker| marker.kind == kind).map(|marker| marker.id.as_str()).collect()
    };
    // The same id in two realms is woken twice at most.
    diesel::sql_query(
        "INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
         SELECT account, livemode, source_kind, source_id FROM battery_effects_waiting WHERE dismissed_at IS NULL AND customer_id = ANY ($1) AND reason = 'no_org'
         UNION SELECT account, livemode, source_kind, source_id FROM battery_effects_waiting WHERE dismissed_at IS NULL AND org_ref = ANY ($2) AND reason = 'no_org'
         UNION SELECT w.account, w.livemode, w.source_kind, w.source_id FROM stripe_customer_links l
             JOIN battery_effects_waiting w ON w.customer_id = l.customer_id AND w.account = l.account AND w.livemode = l.livemode
             WHERE l.ref = ANY ($2) AND w.dismissed_at IS NULL AND w.reason = 'no_org'
         UNION SELECT account, livemode, source_kind, source_id FROM battery_effects_waiting WHERE dismissed_at IS NULL AND subscription_id = ANY ($3)
         UNION SELECT account, livemode, source_kind, source_id FROM battery_effects_waiting w WHERE $4 AND dismissed_at IS NULL
             AND (reason = 'unknown_pack' OR reason = 'unknown_price' AND (
                 EXISTS (SELECT FROM plan_stripe_prices p WHERE p.price_id = w.price_id)
                 OR EXISTS (SELECT FROM plan_stripe_products p WHERE p.product_id = w.product_id)
                 OR EXISTS (SELECT FROM battery_pack_stripe_prices p WHERE p.price_id = w.price_id)))",
    )
    .bind::<Array<Text>, _>(ids(markers::CUSTOMER))
    .bind::<Array<Text>, _>(ids(markers::ORG))
    .bind::<Array<Text>, _>(ids("subscription"))
    .bind::<Bool, _>(!ids(markers::MAPPING).is_empty())
    .execute(conn)?;
    Ok(())
}

/// Has invoices tried again that wait for a grant or a period of these subscriptions.
pub(super) fn wake_subscriptions(conn: &mut PgConnection, subscriptions: &[String]) -> Result<(), Error> {
    diesel::sql_query(
        "INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
         SELECT DISTINCT account, livemode, source_kind, source_id FROM battery_effects_waiting
         WHERE subscription_id = ANY ($1) AND reason IN ('unknown_period', 'no_grant') AND dismissed_at IS NULL",
    )
    .bind::<Array<Text>, _>(subscriptions)
    .execute(conn)?;
    Ok(())
}

/// Has tried again what has waited long enough for what may never come; returns how many.
pub(super) fn wake_due(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<usize, Error> {
    Ok(diesel::sql_query(
        "WITH due AS (UPDATE battery_effects_waiting SET next_try = NULL WHERE waiting_id = ANY (ARRAY (
             SELECT waiting_id FROM battery_effects_waiting WHERE next_try <= $1 ORDER BY next_try LIMIT 100 FOR UPDATE SKIP LOCKED))
             RETURNING account, livemode, source_kind, source_id)
         INSERT INTO battery_effects_queue (account, livemode, kind, object_id) SELECT DISTINCT * FROM due",
    )
    .bind::<Timestamptz, _>(now)
    .execute(conn)?)
}
