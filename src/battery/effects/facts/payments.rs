//! Payment intents and sessions.

use diesel::pg::PgConnection;
use diesel::prelude::*;

use super::{
    DocumentRow, DocumentTypes, named_packs_json, old_money_json, pack_json, parse_documents, session_json,
    sold_items_json, sold_pack_json,
};
use crate::battery::effects::model::{Facts, SaleSource};
use crate::battery::effects::sql::{bind_sources, from_payments};
use crate::billing::acting_realms::acts;
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;

statement!(PaymentFacts -> DocumentTypes: concat!(
    "SELECT k.account, k.livemode, k.kind, k.id, json_build_object(
         'intent', CASE WHEN i.id IS NOT NULL THEN json_build_object(
             'status', i.status,
             'amount_received', i.amount_received,
             'currency', i.currency,
             'named', ", named_packs_json!("i.metadata", "NULL", pack_json!(), pack_json!()), ") END,
         'session', CASE WHEN s.id IS NOT NULL THEN ", session_json!(sold_items_json!()), " END,
         'owned_elsewhere', k.kind = 'payment_intent' AND (
             i.invoice_id IS NOT NULL
             OR EXISTS (
                 SELECT
                 FROM checkout_sessions x
                 WHERE x.payment_intent_id = k.id
                     AND x.account IS NOT DISTINCT FROM k.account
                     AND x.livemode IS NOT DISTINCT FROM k.livemode
                     AND x.invoice_id IS NOT NULL
                 OFFSET 0)
             OR EXISTS (
                 SELECT
                 FROM payments p
                 WHERE p.id = k.id
                     AND p.account IS NOT DISTINCT FROM k.account
                     AND p.livemode IS NOT DISTINCT FROM k.livemode
                     AND p.invoice_id IS NOT NULL
                 OFFSET 0)),
         'customer_id', c.id,
         'org_ref', coalesce(l.ref, given.ref),
         'org_id', r.org_id,
         'is_inactive_realm', NOT ", acts!("k"), ",
         'old_money', ", old_money_json!(), ",
         'taken_at', coalesce((
             SELECT min(h.created)
             FROM charges h
             WHERE h.payment_intent_id = i.id
                 AND h.account IS NOT DISTINCT FROM k.account
                 AND h.livemode IS NOT DISTINCT FROM k.livemode
                 AND h.status = 'succeeded'), i.created, s.created))
     ", from_payments!(), "
     WHERE i.id IS NOT NULL
         OR s.id IS NOT NULL"));

/// Facts of those of these sources that are mirrored.
pub(super) fn load(
    conn: &mut PgConnection,
    payments: &[&SaleSource],
) -> Result<Vec<(SaleSource, Facts)>, Error> {
    if payments.is_empty() {
        return Ok(Vec::new());
    }
    parse_documents(bind_sources(Prepared::<PaymentFacts>::new(), payments).load::<DocumentRow>(conn)?)
}
