//! Requeues lines that wait, when something may unblock them.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Text, Timestamptz, Untyped};

use crate::billing::markers::{self, Marker};
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;

/// SQL: joins the waiting lines `x` for which `$by` holds, by an index. Why `OFFSET 0`: see `sql::each`.
macro_rules! join_waiting {
    ($by:literal) => {
        concat!(
            "
     CROSS JOIN LATERAL (
         SELECT y.*
         FROM battery_effects_waiting y
         WHERE ",
            $by,
            "
             AND y.dismissed_at IS NULL
         OFFSET 0) x"
        )
    };
}

// The same id in two realms requeues twice at most.
statement!(RequeueUnblocked -> Untyped: concat!(
    "INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
     SELECT x.account, x.livemode, x.source_kind, x.source_id
     FROM unnest(?) AS k (id)", join_waiting!("y.customer_id = k.id
             AND y.reason = 'no_org'"), "
     UNION
     SELECT x.account, x.livemode, x.source_kind, x.source_id
     FROM unnest(?) AS k (id)", join_waiting!("y.org_ref = k.id
             AND y.reason = 'no_org'"), "
     UNION
     SELECT x.account, x.livemode, x.source_kind, x.source_id
     FROM unnest(?) AS k (id)
     JOIN stripe_customer_links l ON l.ref = k.id", join_waiting!("y.customer_id = l.customer_id
             AND y.account = l.account
             AND y.livemode = l.livemode
             AND y.reason = 'no_org'"), "
     UNION
     SELECT x.account, x.livemode, x.source_kind, x.source_id
     FROM unnest(?) AS k (id)", join_waiting!("y.subscription_id = k.id")));
statement!(RequeueMapped -> Untyped:
    "INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
     SELECT DISTINCT account, livemode, source_kind, source_id
     FROM battery_effects_waiting w
     WHERE dismissed_at IS NULL
         AND (reason IN ('unknown_pack', 'unknown_quantity')
             OR reason = 'unknown_price'
                 AND (EXISTS (SELECT FROM plan_stripe_prices p WHERE p.price_id = w.price_id)
                     OR EXISTS (SELECT FROM plan_stripe_products p WHERE p.product_id = w.product_id)
                     OR EXISTS (SELECT FROM battery_pack_stripe_prices p WHERE p.price_id = w.price_id)))");
statement!(RequeueOfSubscriptions -> Untyped: concat!(
    "INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
     SELECT DISTINCT x.account, x.livemode, x.source_kind, x.source_id
     FROM unnest(?) AS k (id)", join_waiting!("y.subscription_id = k.id
             AND y.reason IN ('unknown_period', 'no_grant')")));
statement!(RequeueUnusedTime -> Untyped:
    "INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
     SELECT DISTINCT x.account, x.livemode, 'invoice', x.source_id
     FROM unnest(?) AS k (id)
     CROSS JOIN LATERAL (
         SELECT y.*
         FROM battery_effects y
         WHERE y.subscription_id = k.id
             AND y.what = 'proration_back'
         OFFSET 0) x");

/// Requeues everything that these markers of prerequisites may unblock. The caller holds the lock of effects
/// alone.
pub(in crate::battery::effects) fn requeue_unblocked(
    conn: &mut PgConnection,
    markers: &BTreeSet<Marker>,
) -> Result<(), Error> {
    let ids = |kind: &str| -> Vec<&str> {
        markers.iter().filter(|marker| marker.kind == kind).map(|marker| marker.id.as_str()).collect()
    };
    Prepared::<RequeueUnblocked>::new()
        .bind::<Text, _>(ids(markers::CUSTOMER))
        .bind::<Text, _>(ids(markers::ORG))
        .bind::<Text, _>(ids(markers::ORG))
        .bind::<Text, _>(ids("subscription"))
        .execute(conn)?;
    if !ids(markers::MAPPING).is_empty() {
        Prepared::<RequeueMapped>::new().execute(conn)?;
    }
    Ok(())
}

/// Requeues invoices that wait for a grant or a period of these subscriptions.
pub(super) fn requeue_of_subscriptions(
    conn: &mut PgConnection,
    subscriptions: &BTreeSet<String>,
) -> Result<(), Error> {
    if !subscriptions.is_empty() {
        let subscriptions: Vec<&str> = subscriptions.iter().map(String::as_str).collect();
        Prepared::<RequeueOfSubscriptions>::new().bind::<Text, _>(subscriptions).execute(conn)?;
    }
    Ok(())
}

/// Requeues invoices that clawed back unused time of these subscriptions: another grant may hold it now.
pub(super) fn requeue_unused_time(
    conn: &mut PgConnection,
    subscriptions: &BTreeSet<String>,
) -> Result<(), Error> {
    if !subscriptions.is_empty() {
        let subscriptions: Vec<&str> = subscriptions.iter().map(String::as_str).collect();
        Prepared::<RequeueUnusedTime>::new().bind::<Text, _>(subscriptions).execute(conn)?;
    }
    Ok(())
}

/// Requeues up to 100 lines that have waited long enough for a fact that may never come; returns how many
/// markers that makes.
pub(in crate::battery::effects) fn requeue_overdue(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
) -> Result<usize, Error> {
    Ok(diesel::sql_query(
        "WITH due AS (
             UPDATE battery_effects_waiting
             SET next_try = NULL
             WHERE waiting_id = ANY (ARRAY (
                 SELECT waiting_id
                 FROM battery_effects_waiting
                 WHERE next_try <= $1
                 ORDER BY next_try
                 LIMIT 100
                 FOR UPDATE SKIP LOCKED))
             RETURNING account, livemode, source_kind, source_id)
         INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
         SELECT DISTINCT *
         FROM due",
    )
    .bind::<Timestamptz, _>(now)
    .execute(conn)?)
}

/// Requeues every source that waits.
pub fn requeue_all(conn: &mut PgConnection) -> Result<(), Error> {
    diesel::sql_query(
        "INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
         SELECT DISTINCT account, livemode, source_kind, source_id
         FROM battery_effects_waiting
         WHERE dismissed_at IS NULL
             AND source_kind IN ('invoice', 'payment_intent', 'checkout_session')",
    )
    .execute(conn)?;
    Ok(())
}
