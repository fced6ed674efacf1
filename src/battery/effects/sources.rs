//! Step 1, markers → sources: which invoice, payment intent or checkout session each marker is about. Reads
//! only.

use std::collections::BTreeSet;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};

use super::model::SaleSource;
use super::sql::each;
use crate::billing::markers::Marker;
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;

// `m`: the markers. `named`: intents and charges that they name. `p`: those as payments, by the intent where
// it is known, else by the charge. `s`: sessions of the markers and of the payments.
statement!(FindSources -> (Text, Bool, Text, Text): concat!(
    "WITH m AS MATERIALIZED (
        SELECT *
        FROM unnest(?, ?, ?, ?) AS m (account, livemode, kind, id)),
     named AS MATERIALIZED (
        SELECT m.account, m.livemode, NULL AS intent, m.id AS charge
        FROM m
        WHERE m.kind = 'charge'
        UNION ALL
        SELECT m.account, m.livemode, x.payment_intent_id, x.charge_id
        FROM ", each!("m", "refunds", "y.id"), "
        WHERE m.kind = 'refund'
        UNION ALL
        SELECT m.account, m.livemode, x.payment_intent_id, x.charge_id
        FROM ", each!("m", "disputes", "y.id"), "
        WHERE m.kind = 'dispute'
        UNION ALL
        SELECT m.account, m.livemode, x.payment_intent_id, x.charge_id
        FROM m
        CROSS JOIN LATERAL (
            SELECT *
            FROM invoice_payments y
            WHERE y.account = m.account
                AND y.livemode = m.livemode
                AND y.id = m.id
            OFFSET 0) x
        WHERE m.kind = 'invoice_payment'),
     p AS MATERIALIZED (
        SELECT account, livemode, id
        FROM m
        WHERE kind = 'payment_intent'
        UNION
        SELECT n.account, n.livemode, coalesce(n.intent, c.payment_intent_id, n.charge)
        FROM named n
        LEFT JOIN LATERAL (
            SELECT y.payment_intent_id
            FROM charges y
            WHERE y.account = n.account
                AND y.livemode = n.livemode
                AND y.id = n.charge
            OFFSET 0) c ON true),
     s AS MATERIALIZED (
        SELECT x.account, x.livemode, x.id, x.invoice_id, x.payment_intent_id
        FROM m
        CROSS JOIN LATERAL (
            SELECT *
            FROM checkout_sessions y
            WHERE y.account = m.account
                AND y.livemode = m.livemode
                AND y.id = m.id
            OFFSET 0) x
        WHERE m.kind IN ('checkout.session', 'checkout_session')
        UNION
        SELECT x.account, x.livemode, x.id, x.invoice_id, x.payment_intent_id
        FROM ", each!("p", "checkout_sessions", "y.payment_intent_id"), ")
     SELECT account, livemode, kind, id
     FROM (
        SELECT account, livemode, 'invoice' AS kind, id
        FROM m
        WHERE m.kind = 'invoice'
        UNION
        SELECT m.account, m.livemode, 'invoice', x.invoice_id
        FROM m
        CROSS JOIN LATERAL (
            SELECT *
            FROM invoice_payments y
            WHERE y.account = m.account
                AND y.livemode = m.livemode
                AND y.id = m.id
            OFFSET 0) x
        WHERE m.kind = 'invoice_payment'
        UNION
        SELECT m.account, m.livemode, 'invoice', x.invoice_id
        FROM ", each!("m", "credit_notes", "y.id"), "
        WHERE m.kind = 'credit_note'
        UNION
        SELECT s.account, s.livemode, 'invoice', s.invoice_id
        FROM s
        UNION
        SELECT p.account, p.livemode, 'invoice', x.invoice_id
        FROM ", each!("p", "payments", "y.id"), "
        UNION
        SELECT p.account, p.livemode, 'invoice', x.invoice_id
        FROM ", each!("p", "invoice_payments",
            "coalesce(y.payment_intent_id, y.charge_id, y.payment_record_id, y.id)"), "
        UNION
        SELECT p.account, p.livemode, 'invoice', x.id
        FROM ", each!("p", "invoices", "coalesce(y.payment_intent_id, y.charge_id)"), "
        UNION
        SELECT account, livemode, 'payment_intent', id
        FROM p
        UNION
        SELECT s.account, s.livemode, 'payment_intent', s.payment_intent_id
        FROM s
        UNION
        SELECT s.account, s.livemode, 'checkout_session', s.id
        FROM s
        WHERE s.payment_intent_id IS NULL
            AND s.invoice_id IS NULL) t
     WHERE id IS NOT NULL"));

/// The sources that these markers are about.
pub(crate) fn find(
    conn: &mut PgConnection,
    markers: &BTreeSet<Marker>,
) -> Result<BTreeSet<SaleSource>, Error> {
    let rows: Vec<(String, bool, String, String)> = Prepared::<FindSources>::new()
        .bind::<Text, _>(markers.iter().map(|marker| &*marker.realm.account).collect::<Vec<_>>())
        .bind::<Bool, _>(markers.iter().map(|marker| marker.realm.livemode).collect::<Vec<_>>())
        .bind::<Text, _>(markers.iter().map(|marker| &*marker.kind).collect::<Vec<_>>())
        .bind::<Text, _>(markers.iter().map(|marker| &*marker.id).collect::<Vec<_>>())
        .load(conn)?;
    rows.into_iter()
        .map(|(account, livemode, kind, id)| SaleSource::from_columns(account, livemode, &kind, id))
        .collect()
}
