//! Payments that were passed over while nothing was sold. Owns `battery_effects_skipped`.
//!
//! Without any price of a plan and without any pack nothing comes of a payment, so it leaves nothing but the
//! word that there were some. Whoever works on the first mapping holds the lock alone: all that looked before
//! have left that word, all that look later see what is sold. It then has the mirrors walked through, page by
//! page, a marker for each payment in them.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Text, Timestamptz, Untyped};

use crate::billing::markers::{self, Marker};
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::realm::Realm;

/// Rows of a mirror that are walked through in a step.
const PAGE: i64 = 1_000;

/// A page of `$table`: its payments, then the place where it ends.
macro_rules! walk {
    ($kind:literal, $table:literal, $paid:literal) => {
        concat!(
            "WITH page AS MATERIALIZED (SELECT y.account, y.livemode,
                 y.id, (",
            $paid,
            ") IS TRUE AS paid \
                FROM ",
            $table,
            " y
                WHERE (y.account, y.livemode, y.id) > ($1, $2, $3) ORDER BY y.account, y.livemode, y.id
                LIMIT $4)
             INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
             SELECT account, livemode, '",
            $kind,
            "', id FROM page WHERE paid
             UNION ALL (SELECT account,
                 livemode, 'skipped_",
            $kind,
            "', id FROM page ORDER BY account DESC, livemode DESC, id DESC LIMIT 1)"
        )
    };
}

/// Kinds of the markers that say how far the mirrors are walked through; their id is that of the last row.
const WALKS: [(&str, &str); 3] = [
    ("skipped_invoice", walk!("invoice", "invoices", "y.status = 'paid' AND NOT y.deleted")),
    (
        "skipped_checkout_session",
        walk!(
            "checkout_session",
            "checkout_sessions",
            "y.payment_status IN ('paid', 'no_payment_required') OR y.status = 'complete'"
        ),
    ),
    (
        "skipped_payment_intent",
        walk!(
            "payment_intent",
            "payment_intents",
            "y.status = 'succeeded' AND coalesce(y.metadata->'battery_pack', y.metadata->'battery_units') IS \
                NOT NULL"
        ),
    ),
];

/// Whether there is anything that a payment could buy.
macro_rules! sells {
    () => {
        "(EXISTS (SELECT FROM plan_stripe_prices) OR EXISTS (SELECT FROM plan_stripe_products)
             OR EXISTS (SELECT FROM battery_packs))"
    };
}

statement!(Sells -> Bool: concat!("SELECT ", sells!()));
statement!(Note -> Untyped:
    "INSERT INTO battery_effects_skipped (kind, since) SELECT k.kind, ? FROM unnest(?) AS k (kind)
     WHERE NOT EXISTS (SELECT FROM battery_effects_skipped s WHERE s.kind = k.kind) ON CONFLICT (kind)
         DO NOTHING");

/// Whether there is any price of a plan, or any pack. The caller holds the lock of effects.
pub(super) fn sells(conn: &mut PgConnection) -> Result<bool, Error> {
    Ok(Prepared::<Sells>::new().get_result(conn)?)
}

/// Keeps in mind that payments of these kinds were passed over.
pub(super) fn note(
    conn: &mut PgConnection,
    kinds: &BTreeSet<&'static str>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    if !kinds.is_empty() {
        Prepared::<Note>::new()
            .bind_one::<Timestamptz, _>(now)
            .bind::<Text, _>(kinds.iter().copied().collect::<Vec<_>>())
            .execute(conn)?;
    }
    Ok(())
}

/// Has all payments looked at that were passed over, if something is sold now. The caller holds the lock of
/// effects alone.
pub(super) fn resume(conn: &mut PgConnection) -> Result<(), Error> {
    diesel::sql_query(concat!(
        "WITH s AS (DELETE FROM battery_effects_skipped WHERE ",
        sells!(),
        " RETURNING kind)
         INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
         SELECT '', false, 'skipped_' || kind, '' FROM s"
    ))
    .execute(conn)?;
    Ok(())
}

/// Has all payments looked at again, and all that waits: what acts, or what is ignored, is something else
/// now.
pub fn look_again(conn: &mut PgConnection) -> Result<(), Error> {
    // A walk begins before every row: without an account, in test mode.
    let start = || Realm { account: String::new(), livemode: false };
    let walk = |kind: &str| Marker { realm: start(), kind: kind.to_owned(), id: String::new() };
    let walks: Vec<Marker> = WALKS.iter().map(|(kind, _)| walk(kind)).collect();
    markers::write(conn, &walks)?;
    try_waiting_again(conn)
}

/// Has all that waits tried again.
pub fn try_waiting_again(conn: &mut PgConnection) -> Result<(), Error> {
    diesel::sql_query(
        "INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
         SELECT DISTINCT account, livemode, source_kind, source_id FROM battery_effects_waiting
         WHERE dismissed_at IS NULL AND source_kind IN ('invoice', 'payment_intent', 'checkout_session')",
    )
    .execute(conn)?;
    Ok(())
}

/// Walks on through a mirror, if that is what the marker is for: markers for a page of payments, and one for
/// the rest.
pub(super) fn walk(conn: &mut PgConnection, marker: &Marker) -> Result<(), Error> {
    let Some((_, page)) = WALKS.iter().find(|(kind, _)| *kind == marker.kind) else { return Ok(()) };
    diesel::sql_query(*page)
        .bind::<Text, _>(&marker.realm.account)
        .bind::<Bool, _>(marker.realm.livemode)
        .bind::<Text, _>(&marker.id)
        .bind::<BigInt, _>(PAGE)
        .execute(conn)?;
    Ok(())
}
