//! Writes which lines wait, and markers that failed.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Nullable, Text, Timestamptz, Untyped};
use serde_json::json;

use crate::auth::PLATFORM;
use crate::battery::effects::model::{Facts, GRACE, LineWait, SaleSource, SourceDecision};
use crate::billing::markers::Marker;
use crate::db::prepared::{Prepared, StatementText as Statement, statement};
use crate::error::Error;
use crate::messages::{self, NewMessage};

/// Reason and line of a marker that failed.
const FAILED: &str = "failed";

/// The key of a row: the source and the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct WaitingKey<'a> {
    account: &'a str,
    livemode: bool,
    kind: &'a str,
    id: &'a str,
    line: &'a str,
}

impl<'a> WaitingKey<'a> {
    fn new(source: &'a SaleSource, line: &'a str) -> Self {
        Self {
            account: &source.realm.account,
            livemode: source.realm.livemode,
            kind: source.kind.name(),
            id: &source.id,
            line,
        }
    }
}

statement!(DeleteWaiting -> Untyped:
    "DELETE FROM battery_effects_waiting w
     USING unnest(?, ?, ?, ?, ?) AS k (account, livemode, kind, id, line)
     WHERE w.source_id = k.id
         AND w.source_kind = k.kind
         AND w.account = k.account
         AND w.livemode = k.livemode
         AND w.line = k.line
         AND w.dismissed_at IS NULL");
// A line that waits already, and for the same reason, keeps `since` and `next_try`.
statement!(PutWaiting -> Untyped:
    "INSERT INTO battery_effects_waiting AS w (account, livemode, source_kind, source_id, line, since,
         reason, detail, next_try, customer_id, org_ref, subscription_id, price_id, product_id)
     SELECT k.account, k.livemode, k.kind, k.id, k.line, ?,
         k.reason, k.detail, k.next_try, k.customer, k.ref, k.subscription, k.price, k.product
     FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) AS k (account, livemode, kind, id, line,
         reason, detail, next_try, customer, ref, subscription, price, product)
     ON CONFLICT (source_id, source_kind, account, livemode, line) DO UPDATE
     SET since = CASE WHEN w.reason = excluded.reason THEN w.since ELSE excluded.since END,
         next_try = CASE WHEN w.reason = excluded.reason THEN w.next_try ELSE excluded.next_try END,
         reason = excluded.reason,
         detail = excluded.detail,
         customer_id = excluded.customer_id,
         org_ref = excluded.org_ref,
         subscription_id = excluded.subscription_id,
         price_id = excluded.price_id,
         product_id = excluded.product_id
     WHERE w.dismissed_at IS NULL
         AND (w.reason, w.detail, w.customer_id, w.org_ref,
             w.subscription_id, w.price_id, w.product_id)
         IS DISTINCT FROM (excluded.reason, excluded.detail, excluded.customer_id, excluded.org_ref,
             excluded.subscription_id, excluded.price_id, excluded.product_id)");

/// Writes the lines of these sources that wait, and deletes those that wait no more.
pub(super) fn store(
    conn: &mut PgConnection,
    decisions: &[&SourceDecision<'_>],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let mut gone: BTreeSet<WaitingKey<'_>> = BTreeSet::new();
    let mut waits: BTreeMap<WaitingKey<'_>, (&LineWait, &Facts)> = BTreeMap::new();
    for one in decisions {
        let waited = one.facts.waiting.iter().filter(|waiting| !waiting.dismissed);
        gone.extend(waited.map(|waiting| WaitingKey::new(one.source, &waiting.line)));
        for wait in &one.decision.waits {
            let key = WaitingKey::new(one.source, &wait.line);
            gone.remove(&key);
            waits.insert(key, (wait, one.facts));
        }
    }
    if !gone.is_empty() {
        let keys: Vec<WaitingKey<'_>> = gone.into_iter().collect();
        bind_keys(Prepared::<DeleteWaiting>::new(), &keys).execute(conn)?;
    }
    if waits.is_empty() {
        return Ok(());
    }
    let keys: Vec<WaitingKey<'_>> = waits.keys().copied().collect();
    let (waits, facts): (Vec<&LineWait>, Vec<&Facts>) = waits.into_values().unzip();
    let (waits, facts) = (|| waits.iter().copied(), || facts.iter().copied());
    let next_try = |wait: &LineWait| wait.reason.ends_by_itself().then(|| now + GRACE);
    bind_keys(Prepared::<PutWaiting>::new().bind_one::<Timestamptz, _>(now), &keys)
        .bind::<Text, _>(waits().map(|wait| wait.reason.name()).collect::<Vec<_>>())
        .bind::<Text, _>(waits().map(|wait| wait.detail.as_str()).collect::<Vec<_>>())
        .bind::<Nullable<Timestamptz>, _>(waits().map(next_try).collect::<Vec<_>>())
        .bind::<Nullable<Text>, _>(facts().map(|facts| facts.customer_id.as_deref()).collect::<Vec<_>>())
        .bind::<Nullable<Text>, _>(facts().map(|facts| facts.org_ref.as_deref()).collect::<Vec<_>>())
        .bind::<Nullable<Text>, _>(waits().map(|wait| wait.subscription.as_deref()).collect::<Vec<_>>())
        .bind::<Nullable<Text>, _>(waits().map(|wait| wait.price.as_deref()).collect::<Vec<_>>())
        .bind::<Nullable<Text>, _>(waits().map(|wait| wait.product.as_deref()).collect::<Vec<_>>())
        .execute(conn)?;
    let told = keys.iter().zip(waits()).zip(facts()).map(|((key, wait), facts)| message(key, wait, facts));
    messages::write(conn, told.collect(), now)
}

/// The message that a line waits: once for each line and reason.
fn message(key: &WaitingKey<'_>, wait: &LineWait, facts: &Facts) -> NewMessage {
    let reason = wait.reason.name();
    NewMessage {
        org_id: PLATFORM,
        kind: "effect.waiting",
        dedupe_key: format!("effect:{}:{}:{}:{}:{reason}", key.account, key.kind, key.id, key.line),
        data: json!({
            "object": key.kind, "id": key.id, "line": key.line, "reason": reason, "detail": wait.detail,
            "customer": facts.customer_id, "price": wait.price,
        }),
        object: None,
    }
}

/// Binds keys as the columns account, livemode, kind, id, line.
fn bind_keys<'a, Q: Statement>(statement: Prepared<'a, Q>, keys: &[WaitingKey<'a>]) -> Prepared<'a, Q> {
    statement
        .bind::<Text, _>(keys.iter().map(|key| key.account).collect::<Vec<_>>())
        .bind::<Bool, _>(keys.iter().map(|key| key.livemode).collect::<Vec<_>>())
        .bind::<Text, _>(keys.iter().map(|key| key.kind).collect::<Vec<_>>())
        .bind::<Text, _>(keys.iter().map(|key| key.id).collect::<Vec<_>>())
        .bind::<Text, _>(keys.iter().map(|key| key.line).collect::<Vec<_>>())
}

/// Parks a marker that failed too often: it waits for an operator, or for a marker of the same object.
pub(in crate::battery::effects) fn park(
    conn: &mut PgConnection,
    marker: &Marker,
    error: &str,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    diesel::sql_query(
        "INSERT INTO battery_effects_waiting AS w
             (account, livemode, source_kind, source_id, line, reason, detail, since)
         VALUES ($1, $2, $3, $4, $5, $5, $6, $7)
         ON CONFLICT (source_id, source_kind, account, livemode, line) DO UPDATE
         SET detail = excluded.detail
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

// Mostly nothing is parked: the EXISTS answers that at once.
statement!(Unpark -> Untyped:
    "DELETE FROM battery_effects_waiting w
     USING unnest(?, ?, ?, ?, ?) AS k (account, livemode, kind, id, line)
     WHERE EXISTS (
             SELECT
             FROM battery_effects_waiting f
             WHERE f.reason = 'failed')
         AND w.source_id = k.id
         AND w.source_kind = k.kind
         AND w.account = k.account
         AND w.livemode = k.livemode
         AND w.line = k.line
         AND w.dismissed_at IS NULL");

/// Deletes the rows of these markers that say that they failed: they are tried again.
pub(in crate::battery::effects) fn unpark(
    conn: &mut PgConnection,
    markers: &BTreeSet<Marker>,
) -> Result<(), Error> {
    let keys: Vec<WaitingKey<'_>> = markers
        .iter()
        .map(|marker| WaitingKey {
            account: &marker.realm.account,
            livemode: marker.realm.livemode,
            kind: &marker.kind,
            id: &marker.id,
            line: FAILED,
        })
        .collect();
    bind_keys(Prepared::<Unpark>::new(), &keys).execute(conn)?;
    Ok(())
}
