//! Effects that cannot happen yet. Owns `battery_effects_waiting`.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable, Text, Timestamptz, Untyped};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::facts::Facts;
use super::model::{GRACE, Wait};
use super::{LOCK, SaleSource};
use crate::billing::markers::{self, Marker};
use crate::db::prepared::{Prepared, statement};
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
    /// `no_org`, `unknown_price`, `unknown_pack`, `unknown_quantity`, `unknown_subscription`,
    /// `unknown_period`, `no_grant`, `incomplete_lines`, `already_granted`,
    /// `no_subscription` or `failed`.
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
    /// Public or external id of the org that it is for; left out: as linked.
    #[serde(default)]
    pub org: Option<String>,
    /// The pack that was bought; left out: as named.
    #[serde(default)]
    pub pack: Option<String>,
    /// How many of the pack were bought, 1 or more; left out: as told.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub quantity: Option<i64>,
}

/// Packs assigned at once, at most.
const MOST: i64 = 1_000_000;

/// Reason and line of a marker that failed.
const FAILED: &str = "failed";

/// What waits and is not dismissed, by an index for each row before it; see `each` for OFFSET 0.
macro_rules! waits {
    ($by:literal) => {
        concat!(
            "CROSS JOIN LATERAL (SELECT y.* FROM battery_effects_waiting y WHERE ",
            $by,
            " AND y.dismissed_at IS NULL OFFSET 0) x"
        )
    };
}

const COLUMNS: &str = "SELECT waiting_id AS id, account, livemode, source_kind AS object,
    source_id AS object_id, line, reason, detail, since, customer_id,
    subscription_id, price_id FROM battery_effects_waiting";

/// What waits, oldest first, after `after`.
pub fn list(
    conn: &mut PgConnection,
    reason: Option<&str>,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<WaitingEffect>, Error> {
    let sql = format!(
        "{COLUMNS} WHERE dismissed_at IS NULL AND ($1::text IS NULL OR reason = $1) AND waiting_id > $2
         ORDER BY waiting_id LIMIT $3"
    );
    Ok(diesel::sql_query(sql)
        .bind::<Nullable<Text>, _>(reason)
        .bind::<BigInt, _>(after.unwrap_or(0))
        .bind::<BigInt, _>(limit)
        .load(conn)?)
}

/// How many wait.
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
        "UPDATE battery_effects_waiting SET dismissed_at = $2, dismissed_reason = $3, next_try = NULL
         WHERE waiting_id = $1",
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
/// [`Error::NotFound`] when it does not wait or there is no such org, [`Error::Invalid`] when there is no
/// such pack.
pub fn assign(
    conn: &mut PgConnection,
    id: i64,
    org_id: Option<i64>,
    pack: Option<&str>,
    quantity: Option<i64>,
) -> Result<WaitingEffect, Error> {
    if quantity.is_some_and(|quantity| !(1..=MOST).contains(&quantity)) {
        return Err(Error::invalid("quantity", format!("must be a whole number from 1 to {MOST}")));
    }
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
        "UPDATE battery_effects_waiting
         SET assigned_org = coalesce($2, assigned_org), assigned_pack = coalesce($3, assigned_pack),
             assigned_quantity = coalesce($4, assigned_quantity) WHERE waiting_id = $1",
    )
    .bind::<BigInt, _>(id)
    .bind::<Nullable<BigInt>, _>(org_id)
    .bind::<Nullable<Text>, _>(pack)
    .bind::<Nullable<BigInt>, _>(quantity)
    .execute(conn)?;
    let realm = crate::realm::Realm { account: effect.account.clone(), livemode: effect.livemode };
    let marker = Marker { realm, kind: effect.object.clone(), id: effect.object_id.clone() };
    markers::write(conn, [&marker])?;
    Ok(effect)
}

/// A row of what waits, by source and line.
type Key<'a> = (&'a str, bool, &'a str, &'a str, &'a str);

/// What of some sources waits, and what does no more.
#[derive(Default)]
pub(super) struct Waits<'a> {
    gone: BTreeSet<Key<'a>>,
    rows: BTreeMap<Key<'a>, (&'a Wait, &'a Facts)>,
}

statement!(Forget -> Untyped:
    "DELETE FROM battery_effects_waiting w
         USING unnest(?, ?, ?, ?, ?) AS k (account, livemode, kind, id, line)
     WHERE w.source_id = k.id AND w.source_kind = k.kind AND w.account = k.account
         AND w.livemode = k.livemode AND w.line = k.line AND w.dismissed_at IS NULL");
// One that waits already keeps the time since when, and when it is tried again for the same reason.
statement!(Put -> Untyped:
    "INSERT INTO battery_effects_waiting AS w (account, livemode, source_kind, source_id, line, since,
         reason, detail, next_try, customer_id, org_ref,
         subscription_id, price_id, product_id)
     SELECT k.account, k.livemode, k.kind, k.id, k.line, ?, k.reason, k.detail, k.next_try, k.customer,
         k.ref, k.subscription, k.price, k.product
     FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AS k (account, livemode, kind, id, line, reason,
         detail, next_try, customer, ref, subscription, price, product)
     ON CONFLICT (source_id, source_kind, account, livemode, line) DO UPDATE SET
         since = CASE WHEN w.reason = excluded.reason THEN w.since ELSE excluded.since END,
         next_try = CASE WHEN w.reason = excluded.reason THEN w.next_try ELSE excluded.next_try END,
         reason = excluded.reason, detail = excluded.detail, customer_id = excluded.customer_id,
             org_ref = excluded.org_ref,
         subscription_id = excluded.subscription_id, price_id = excluded.price_id,
             product_id = excluded.product_id
     WHERE w.dismissed_at IS NULL
         AND (w.reason, w.detail, w.customer_id, w.org_ref, w.subscription_id, w.price_id, w.product_id)
         IS DISTINCT FROM (excluded.reason, excluded.detail, excluded.customer_id, excluded.org_ref,
             excluded.subscription_id, excluded.price_id, excluded.product_id)");

impl<'a> Waits<'a> {
    /// Adds what of a source waits.
    pub(super) fn add(&mut self, source: &'a SaleSource, facts: &'a Facts, waits: &'a [Wait]) {
        let key = |line: &'a str| {
            (
                source.realm.account.as_str(),
                source.realm.livemode,
                source.kind.name(),
                source.id.as_str(),
                line,
            )
        };
        let known = facts.waiting.iter().filter(|known| !known.dismissed);
        self.gone.extend(known.map(|known| key(&known.line)));
        for wait in waits {
            self.gone.remove(&key(&wait.line));
            self.rows.insert(key(&wait.line), (wait, facts));
        }
    }

    /// Writes what waits, and forgets what does no more.
    pub(super) fn write(&self, conn: &mut PgConnection, now: DateTime<Utc>) -> Result<(), Error> {
        if !self.gone.is_empty() {
            keyed(Prepared::<Forget>::new(), self.gone.iter()).execute(conn)?;
        }
        if self.rows.is_empty() {
            return Ok(());
        }
        let waits = || self.rows.values().map(|(wait, _)| *wait);
        let facts = || self.rows.values().map(|(_, facts)| *facts);
        let next_try = |wait: &Wait| wait.reason.passes().then(|| now + GRACE);
        keyed(Prepared::<Put>::new().bind_one::<Timestamptz, _>(now), self.rows.keys())
            .bind::<Text, _>(waits().map(|wait| wait.reason.name()).collect::<Vec<_>>())
            .bind::<Text, _>(waits().map(|wait| wait.detail.as_str()).collect::<Vec<_>>())
            .bind::<Nullable<Timestamptz>, _>(waits().map(next_try).collect::<Vec<_>>())
            .bind::<Nullable<Text>, _>(facts().map(|facts| facts.customer_id.as_deref()).collect::<Vec<_>>())
            .bind::<Nullable<Text>, _>(facts().map(|facts| facts.org_ref.as_deref()).collect::<Vec<_>>())
            .bind::<Nullable<Text>, _>(waits().map(|wait| wait.subscription.as_deref()).collect::<Vec<_>>())
            .bind::<Nullable<Text>, _>(waits().map(|wait| wait.price.as_deref()).collect::<Vec<_>>())
            .bind::<Nullable<Text>, _>(waits().map(|wait| wait.product.as_deref()).collect::<Vec<_>>())
            .execute(conn)?;
        Ok(())
    }
}

/// Binds keys as columns.
fn keyed<'a, Q: crate::db::prepared::StatementText>(
    statement: Prepared<'a, Q>,
    keys: impl Iterator<Item = &'a Key<'a>> + Clone,
) -> Prepared<'a, Q> {
    statement
        .bind::<Text, _>(keys.clone().map(|key| key.0).collect::<Vec<_>>())
        .bind::<Bool, _>(keys.clone().map(|key| key.1).collect::<Vec<_>>())
        .bind::<Text, _>(keys.clone().map(|key| key.2).collect::<Vec<_>>())
        .bind::<Text, _>(keys.clone().map(|key| key.3).collect::<Vec<_>>())
        .bind::<Text, _>(keys.map(|key| key.4).collect::<Vec<_>>())
}

/// Lets a marker wait that fails again and again.
pub(super) fn park(
    conn: &mut PgConnection,
    marker: &Marker,
    error: &str,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    diesel::sql_query(
        "INSERT INTO battery_effects_waiting AS w (account, livemode, source_kind, source_id, line, reason,
             detail, since) VALUES ($1, $2, $3, $4, $5, $5, $6, $7)
         ON CONFLICT (source_id, source_kind, account, livemode, line) DO UPDATE SET detail = excluded.detail
         WHERE w.dismissed_at IS NULL",
    )
    .bind::<Text, _>(&marker.realm.account)
    .bind::<Bool, _>(marker.realm.livemode)
    .bind::<Text, _>(&marker.kind)
    .bind::<Text, _>(&marker.id)
    .bind::<Text, _>(FAILED)
    .bind::<Text, _>(error)
    .bind::<Timestamptz, _>(now)
    .execute(conn)?;
    Ok(())
}

// Mostly there is none, so that is asked first.
statement!(Unpark -> Untyped:
    "DELETE FROM battery_effects_waiting w
         USING unnest(?, ?, ?, ?, ?) AS k (account, livemode, kind, id, line)
     WHERE EXISTS (SELECT FROM battery_effects_waiting f WHERE f.reason = 'failed')
         AND w.source_id = k.id AND w.source_kind = k.kind AND w.account = k.account
             AND w.livemode = k.livemode AND w.line = k.line AND w.dismissed_at IS NULL");

/// Forgets that these markers failed: they are tried again.
pub(super) fn unpark(conn: &mut PgConnection, markers: &BTreeSet<Marker>) -> Result<(), Error> {
    let keys: Vec<Key<'_>> = markers
        .iter()
        .map(|marker| {
            let realm = &marker.realm;
            (realm.account.as_str(), realm.livemode, marker.kind.as_str(), marker.id.as_str(), FAILED)
        })
        .collect();
    keyed(Prepared::<Unpark>::new(), keys.iter()).execute(conn)?;
    Ok(())
}

// The same id in two realms is woken twice at most.
statement!(Wake -> Untyped: concat!(
    "INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
     SELECT x.account, x.livemode, x.source_kind, x.source_id
     FROM unnest(?) AS k (id) ", waits!("y.customer_id = k.id AND y.reason = 'no_org'"), "
     UNION SELECT x.account, x.livemode, x.source_kind, x.source_id
     FROM unnest(?) AS k (id) ", waits!("y.org_ref = k.id AND y.reason = 'no_org'"), "
     UNION SELECT x.account, x.livemode, x.source_kind, x.source_id FROM unnest(?) AS k (id)
     JOIN stripe_customer_links l ON l.ref = k.id ",
         waits!("y.customer_id = l.customer_id AND y.account = l.account AND y.livemode = l.livemode AND \
             y.reason = 'no_org'"), "
     UNION SELECT x.account, x.livemode, x.source_kind, x.source_id
     FROM unnest(?) AS k (id) ", waits!("y.subscription_id = k.id")));
statement!(WakeMapped -> Untyped:
    "INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
     SELECT DISTINCT account, livemode, source_kind, source_id FROM battery_effects_waiting w
     WHERE dismissed_at IS NULL
         AND (reason IN ('unknown_pack', 'unknown_quantity') OR reason = 'unknown_price' AND (
             EXISTS (SELECT FROM plan_stripe_prices p WHERE p.price_id = w.price_id)
             OR EXISTS (SELECT FROM plan_stripe_products p WHERE p.product_id = w.product_id)
             OR EXISTS (SELECT FROM battery_pack_stripe_prices p WHERE p.price_id = w.price_id)))");
statement!(WakeSubscriptions -> Untyped: concat!(
    "INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
     SELECT DISTINCT x.account, x.livemode, x.source_kind, x.source_id FROM unnest(?) AS k (id) ",
    waits!("y.subscription_id = k.id AND y.reason IN ('unknown_period', 'no_grant')")));

/// Has everything tried again that these markers may let happen. The caller holds the lock alone.
pub(super) fn wake(conn: &mut PgConnection, markers: &BTreeSet<Marker>) -> Result<(), Error> {
    let ids = |kind: &str| -> Vec<&str> {
        markers.iter().filter(|marker| marker.kind == kind).map(|marker| marker.id.as_str()).collect()
    };
    Prepared::<Wake>::new()
        .bind::<Text, _>(ids(markers::CUSTOMER))
        .bind::<Text, _>(ids(markers::ORG))
        .bind::<Text, _>(ids(markers::ORG))
        .bind::<Text, _>(ids("subscription"))
        .execute(conn)?;
    if !ids(markers::MAPPING).is_empty() {
        Prepared::<WakeMapped>::new().execute(conn)?;
    }
    Ok(())
}

/// Has invoices tried again that wait for a grant or a period of these subscriptions.
pub(super) fn wake_subscriptions(conn: &mut PgConnection, subscriptions: Vec<String>) -> Result<(), Error> {
    Prepared::<WakeSubscriptions>::new().bind::<Text, _>(subscriptions).execute(conn)?;
    Ok(())
}

/// Has tried again what has waited long enough for what may never come; returns how many.
pub(super) fn wake_due(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<usize, Error> {
    Ok(diesel::sql_query(
        "WITH due AS (UPDATE battery_effects_waiting SET next_try = NULL WHERE waiting_id = ANY (ARRAY (
             SELECT waiting_id FROM battery_effects_waiting WHERE next_try <= $1 ORDER BY next_try LIMIT 100
             FOR UPDATE SKIP LOCKED))
             RETURNING account, livemode, source_kind, source_id)
         INSERT INTO battery_effects_queue (account, livemode, kind, object_id) SELECT DISTINCT * FROM due",
    )
    .bind::<Timestamptz, _>(now)
    .execute(conn)?)
}
