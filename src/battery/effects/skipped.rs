//! Payments that were skipped while nothing was sold here. Owns `battery_effects_skipped`.
//!
//! While there is no plan with a price and no pack, no payment can do anything. So a payment leaves one row a
//! kind: "some were skipped". Whoever works on the first mapping holds the lock of effects alone: everybody
//! before it has left that row, and everybody after it sees what is sold. It then starts a walk through the
//! mirrors, page by page, which writes a marker for each payment.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Text, Timestamptz, Untyped};

use super::waiting;
use crate::billing::markers::{self, Marker};
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::realm::Realm;

/// Rows of a mirror that one marker walks through.
const PAGE: i64 = 1_000;

/// SQL: walks through a page of `$table`. Writes a marker for each payment, and one for where the page ends.
macro_rules! walk_page {
    ($kind:literal, $table:literal, $paid:literal) => {
        concat!(
            "WITH page AS MATERIALIZED (
                 SELECT y.account, y.livemode, y.id, (",
            $paid,
            ") IS TRUE AS paid
                 FROM ",
            $table,
            " y
                 WHERE (y.account, y.livemode, y.id) > ($1, $2, $3)
                 ORDER BY y.account, y.livemode, y.id
                 LIMIT $4)
             INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
             SELECT account, livemode, '",
            $kind,
            "', id
             FROM page
             WHERE paid
             UNION ALL (
                 SELECT account, livemode, 'skipped_",
            $kind,
            "', id
                 FROM page
                 ORDER BY account DESC, livemode DESC, id DESC
                 LIMIT 1)"
        )
    };
}

/// Kinds of the markers that say how far a mirror is walked through, and the statement for the next page. The
/// id of such a marker is the id of the last row.
const WALKS: [(&str, &str); 3] = [
    ("skipped_invoice", walk_page!("invoice", "invoices", "y.status = 'paid' AND NOT y.deleted")),
    (
        "skipped_checkout_session",
        walk_page!(
            "checkout_session",
            "checkout_sessions",
            "y.payment_status IN ('paid', 'no_payment_required')
                     OR y.status = 'complete'"
        ),
    ),
    (
        "skipped_payment_intent",
        walk_page!(
            "payment_intent",
            "payment_intents",
            "y.status = 'succeeded'
                     AND coalesce(y.metadata->'battery_pack', y.metadata->'battery_units') IS NOT NULL"
        ),
    ),
];

/// SQL: whether there is anything that a payment could buy.
macro_rules! is_anything_sold {
    () => {
        "(EXISTS (SELECT FROM plan_stripe_prices)
             OR EXISTS (SELECT FROM plan_stripe_products)
             OR EXISTS (SELECT FROM battery_packs))"
    };
}

statement!(IsAnythingSold -> Bool: concat!("SELECT ", is_anything_sold!()));
statement!(NoteSkipped -> Untyped:
    "INSERT INTO battery_effects_skipped (kind, since)
     SELECT k.kind, ?
     FROM unnest(?) AS k (kind)
     WHERE NOT EXISTS (
         SELECT
         FROM battery_effects_skipped s
         WHERE s.kind = k.kind)
     ON CONFLICT (kind) DO NOTHING");

/// Whether there is a price or product of a plan, or a pack. The caller holds the lock of effects.
pub(super) fn is_anything_sold(conn: &mut PgConnection) -> Result<bool, Error> {
    Ok(Prepared::<IsAnythingSold>::new().get_result(conn)?)
}

/// Remembers that payments of these kinds were skipped.
pub(super) fn note(
    conn: &mut PgConnection,
    kinds: &BTreeSet<&'static str>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    if !kinds.is_empty() {
        Prepared::<NoteSkipped>::new()
            .bind_one::<Timestamptz, _>(now)
            .bind::<Text, _>(kinds.iter().copied().collect::<Vec<_>>())
            .execute(conn)?;
    }
    Ok(())
}

/// Starts a walk through the skipped payments, if something is sold now. The caller holds the lock of effects
/// alone.
pub(super) fn resume(conn: &mut PgConnection) -> Result<(), Error> {
    diesel::sql_query(concat!(
        "WITH s AS (
             DELETE FROM battery_effects_skipped
             WHERE ",
        is_anything_sold!(),
        "
             RETURNING kind)
         INSERT INTO battery_effects_queue (account, livemode, kind, object_id)
         SELECT '', false, 'skipped_' || kind, ''
         FROM s"
    ))
    .execute(conn)?;
    Ok(())
}

/// Requeues all payments and everything that waits: other realms act now, or other things are ignored.
pub fn requeue_all(conn: &mut PgConnection) -> Result<(), Error> {
    // A walk begins before every row: without an account, in test mode.
    let start = || Realm { account: String::new(), livemode: false };
    let walk = |kind: &str| Marker { realm: start(), kind: kind.to_owned(), id: String::new() };
    let walks: Vec<Marker> = WALKS.iter().map(|(kind, _)| walk(kind)).collect();
    markers::write(conn, &walks)?;
    waiting::requeue_all(conn)
}

/// Goes on with the walks that these markers stand for.
pub(super) fn walk(conn: &mut PgConnection, markers: &BTreeSet<Marker>) -> Result<(), Error> {
    for marker in markers {
        let Some((_, page)) = WALKS.iter().find(|(kind, _)| *kind == marker.kind) else { continue };
        diesel::sql_query(*page)
            .bind::<Text, _>(&marker.realm.account)
            .bind::<Bool, _>(marker.realm.livemode)
            .bind::<Text, _>(&marker.id)
            .bind::<BigInt, _>(PAGE)
            .execute(conn)?;
    }
    Ok(())
}
