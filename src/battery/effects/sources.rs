//! Traces markers to economic sources. Reads only.

use std::collections::BTreeSet;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};

use super::{Kind, SaleSource};
use crate::billing::markers::Marker;
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::realm::Realm;

/// A look-up by one column for each row of `$of`. OFFSET 0 keeps the planner at one index look-up for each,
/// also before it has statistics; and it must not take the account, which is the same for all rows, for a
/// good key.
macro_rules! each {
    ($of:literal, $table:literal, $by:literal) => {
        concat!(
            $of,
            " CROSS JOIN LATERAL (SELECT y.* FROM ",
            $table,
            " y WHERE ",
            $by,
            " = ",
            $of,
            ".id AND y.account IS NOT DISTINCT FROM ",
            $of,
            ".account AND y.livemode IS NOT DISTINCT FROM ",
            $of,
            ".livemode OFFSET 0) x"
        )
    };
}
pub(super) use each;

// What a marker is about, by the names of its payments where it is about those.
statement!(Trace -> (Text, Bool, Text, Text): concat!(
    "WITH m AS MATERIALIZED (SELECT * FROM unnest(?, ?, ?, ?) AS m (account, livemode, kind, id)),
     named AS MATERIALIZED (
        SELECT m.account, m.livemode, NULL AS intent, m.id AS charge FROM m WHERE m.kind = 'charge'
        UNION ALL SELECT m.account, m.livemode, x.payment_intent_id, x.charge_id
        FROM ", each!("m", "refunds", "y.id"), " WHERE m.kind = 'refund'
        UNION ALL SELECT m.account, m.livemode, x.payment_intent_id, x.charge_id
        FROM ", each!("m", "disputes", "y.id"), " WHERE m.kind = 'dispute'
        UNION ALL SELECT m.account, m.livemode, x.payment_intent_id, x.charge_id FROM m
        CROSS JOIN LATERAL (SELECT * FROM invoice_payments y
            WHERE y.account = m.account AND y.livemode = m.livemode AND y.id = m.id OFFSET 0) x
            WHERE m.kind = 'invoice_payment'),
     p AS MATERIALIZED (
        SELECT account, livemode, id FROM m WHERE kind = 'payment_intent'
        UNION SELECT n.account, n.livemode, coalesce(n.intent, c.payment_intent_id, n.charge) FROM named n
        LEFT JOIN LATERAL (
            SELECT y.payment_intent_id FROM charges y
            WHERE y.account = n.account AND y.livemode = n.livemode AND y.id = n.charge OFFSET 0) c ON true),
     s AS MATERIALIZED (
        SELECT x.account, x.livemode, x.id, x.invoice_id, x.payment_intent_id FROM m
        CROSS JOIN LATERAL (SELECT * FROM checkout_sessions y
            WHERE y.account = m.account AND y.livemode = m.livemode AND y.id = m.id OFFSET 0) x
            WHERE m.kind IN ('checkout.session', 'checkout_session')
        UNION SELECT x.account, x.livemode, x.id, x.invoice_id, x.payment_intent_id
        FROM ", each!("p", "checkout_sessions", "y.payment_intent_id"), ")
     SELECT account, livemode, kind, id FROM (
        SELECT account, livemode, 'invoice' AS kind, id FROM m WHERE m.kind = 'invoice'
        UNION SELECT m.account, m.livemode, 'invoice', x.invoice_id FROM m
        CROSS JOIN LATERAL (SELECT * FROM invoice_payments y
            WHERE y.account = m.account AND y.livemode = m.livemode AND y.id = m.id OFFSET 0) x
            WHERE m.kind = 'invoice_payment'
        UNION SELECT m.account, m.livemode, 'invoice', x.invoice_id
        FROM ", each!("m", "credit_notes", "y.id"), " WHERE m.kind = 'credit_note'
        UNION SELECT s.account, s.livemode, 'invoice', s.invoice_id FROM s
        UNION SELECT p.account, p.livemode, 'invoice', x.invoice_id FROM ", each!("p", "payments", "y.id"), "
        UNION SELECT p.account, p.livemode, 'invoice', x.invoice_id
        FROM ", each!("p", "invoice_payments", "coalesce(y.payment_intent_id, y.charge_id,
            y.payment_record_id, y.id)"), "
        UNION SELECT p.account, p.livemode, 'invoice', x.id
        FROM ", each!("p", "invoices", "coalesce(y.payment_intent_id, y.charge_id)"), "
        UNION SELECT account, livemode, 'payment_intent', id FROM p
        UNION SELECT s.account, s.livemode, 'payment_intent', s.payment_intent_id FROM s
        UNION SELECT s.account, s.livemode, 'checkout_session', s.id FROM s
        WHERE s.payment_intent_id IS NULL AND s.invoice_id IS NULL) t
     WHERE id IS NOT NULL"));

/// The sources that these markers are about.
pub(super) fn sources(
    conn: &mut PgConnection,
    markers: &BTreeSet<Marker>,
) -> Result<BTreeSet<SaleSource>, Error> {
    let rows: Vec<(String, bool, String, String)> = Prepared::<Trace>::new()
        .bind::<Text, _>(markers.iter().map(|marker| &*marker.realm.account).collect::<Vec<_>>())
        .bind::<Bool, _>(markers.iter().map(|marker| marker.realm.livemode).collect::<Vec<_>>())
        .bind::<Text, _>(markers.iter().map(|marker| &*marker.kind).collect::<Vec<_>>())
        .bind::<Text, _>(markers.iter().map(|marker| &*marker.id).collect::<Vec<_>>())
        .load(conn)?;
    rows.into_iter()
        .map(|(account, livemode, kind, id)| {
            Ok(SaleSource { realm: Realm { account, livemode }, kind: Kind::parse(&kind)?, id })
        })
        .collect()
}

/// Binds sources as columns.
pub(super) fn bound<'a, Q: crate::db::prepared::StatementText>(
    statement: Prepared<'a, Q>,
    sources: &[&'a SaleSource],
    kinds: bool,
) -> Prepared<'a, Q> {
    let statement = statement
        .bind::<Text, _>(sources.iter().map(|source| &*source.realm.account).collect::<Vec<_>>())
        .bind::<Bool, _>(sources.iter().map(|source| source.realm.livemode).collect::<Vec<_>>());
    let statement = if kinds {
        statement.bind::<Text, _>(sources.iter().map(|source| source.kind.name()).collect::<Vec<_>>())
    } else {
        statement
    };
    statement.bind::<Text, _>(sources.iter().map(|source| &*source.id).collect::<Vec<_>>())
}
