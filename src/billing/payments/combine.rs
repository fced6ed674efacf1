//! Computes payments from the stored objects.

use std::collections::BTreeSet;

use diesel::prelude::*;
use diesel::sql_types::{Array, Bool, Text};

use super::{Charge, InvoicePayment, PaymentKey};
use crate::billing::invoices::InvoiceWithLines;

/// Money has moved if one object of the payment says so, even if another does not say so yet: the objects
/// arrive in any order. A succeeded charge that is not captured has only reserved the money.
///
/// Each ORDER BY begins with an expression that no index has. Otherwise the planner, which has no statistics
/// of a new table, might walk the index on `created` through the whole table instead of looking up the key.
const COMBINE: &str = "\
INSERT INTO payments (account, livemode, id, payment_intent_id, charge_id, invoice_payment_id, invoice_id,
    customer_id, status, amount, amount_received, amount_refunded, currency, payment_method_type,
    failure_code, failure_message, disputed, created, paid_at, description, metadata, outside_stripe)
SELECT k.account, k.livemode, k.id, coalesce(pi.id, ch.payment_intent_id, ip.payment_intent_id),
    coalesce(ch.id, pi.latest_charge_id, ip.charge_id), ip.id,
    coalesce(ip.invoice_id, ch.invoice_id, pi.invoice_id, invoice.id),
    coalesce(pi.customer_id, ch.customer_id),
    CASE
        WHEN money.moved THEN 'succeeded'
        WHEN pi.id IS NOT NULL THEN pi.status
        WHEN ch.status = 'succeeded' THEN CASE WHEN ch.refunded THEN 'canceled' ELSE 'requires_capture' END
        WHEN ch.id IS NOT NULL THEN ch.status
        WHEN ip.status = 'open' THEN 'pending'
        ELSE ip.status
    END,
    coalesce(pi.amount, ch.amount, ip.amount_requested),
    greatest(0, pi.amount_received, CASE WHEN money.captured THEN coalesce(ch.amount_captured, ch.amount) END,
        CASE WHEN ip.status = 'paid' THEN ip.amount_paid END),
    CASE WHEN money.moved THEN returned.live + greatest(0, charged.told - returned.known) ELSE 0 END,
    coalesce(pi.currency, ch.currency, ip.currency),
    coalesce(ch.payment_method_type, pi.payment_method_type),
    CASE WHEN NOT money.moved THEN coalesce(ch.failure_code, pi.failure_code) END,
    CASE WHEN NOT money.moved THEN
        CASE WHEN ch.failure_code IS NULL THEN coalesce(pi.failure_message, ch.failure_message)
             ELSE ch.failure_message END
    END,
    coalesce(ch.disputed, false) OR EXISTS (SELECT FROM disputes d
        WHERE (d.payment_intent_id = k.id OR d.payment_intent_id IS NULL AND d.charge_id = ch.id)
          AND d.account = k.account AND d.livemode = k.livemode AND d.status NOT LIKE 'warning%'),
    coalesce(pi.created, ch.created, ip.created),
    CASE WHEN money.moved THEN coalesce(CASE WHEN ip.status = 'paid' THEN ip.paid_at END,
        CASE WHEN money.captured THEN ch.created END, pi.created, ip.created) END,
    coalesce(pi.description, ch.description),
    coalesce(pi.metadata, ch.metadata, '{}'),
    coalesce(ip.payment_record_id IS NOT NULL AND pi.id IS NULL AND ch.id IS NULL, false)
FROM UNNEST($1, $2, $3) AS k (account, livemode, id)
LEFT JOIN payment_intents pi ON pi.account = k.account AND pi.livemode = k.livemode AND pi.id = k.id
LEFT JOIN LATERAL (
    SELECT * FROM charges c
    WHERE coalesce(c.payment_intent_id, c.id) = k.id AND c.account = k.account AND c.livemode = k.livemode
    ORDER BY c.status = 'succeeded' DESC NULLS LAST, c.created DESC NULLS LAST, c.id DESC LIMIT 1
) ch ON true
LEFT JOIN LATERAL (
    SELECT * FROM invoice_payments p
    WHERE coalesce(p.payment_intent_id, p.charge_id, p.payment_record_id, p.id) = k.id
      AND p.account = k.account AND p.livemode = k.livemode
    ORDER BY p.status = 'paid' DESC NULLS LAST, p.created, p.id LIMIT 1
) ip ON true
LEFT JOIN LATERAL (
    SELECT i.id FROM invoices i
    WHERE coalesce(i.payment_intent_id, i.charge_id) = k.id
      AND i.account = k.account AND i.livemode = k.livemode
    ORDER BY i.created IS NULL, i.created, i.id LIMIT 1
) invoice ON true
CROSS JOIN LATERAL (
    SELECT coalesce(ch.status = 'succeeded' AND ch.captured IS NOT FALSE, false) AS captured
) charge
CROSS JOIN LATERAL (
    SELECT charge.captured, charge.captured OR coalesce(pi.status = 'succeeded', false)
        OR coalesce(ip.status = 'paid', false) AS moved
) money
-- The charge's amount may be older than its refunds. So the stored refunds count, and of the charge's amount
-- only what goes beyond them.
CROSS JOIN LATERAL (
    SELECT CASE WHEN money.captured THEN coalesce(ch.amount_refunded, 0) ELSE 0 END AS told
) charged
CROSS JOIN LATERAL (
    SELECT coalesce(sum(r.amount), 0)::bigint AS known,
        coalesce(
            sum(r.amount) FILTER (WHERE r.status IS NULL OR r.status NOT IN ('failed', 'canceled')),
            0)::bigint AS live
    FROM (
        SELECT * FROM refunds r WHERE r.payment_intent_id = k.id
        UNION ALL
        SELECT * FROM refunds r WHERE r.payment_intent_id IS NULL AND r.charge_id = ch.id) r
    WHERE r.account = k.account AND r.livemode = k.livemode
) returned
WHERE pi.id IS NOT NULL OR ch.id IS NOT NULL OR ip.id IS NOT NULL
ORDER BY k.account, k.livemode, k.id
ON CONFLICT (account, livemode, id) DO UPDATE SET
    payment_intent_id = excluded.payment_intent_id, charge_id = excluded.charge_id,
    invoice_payment_id = excluded.invoice_payment_id, invoice_id = excluded.invoice_id,
    customer_id = excluded.customer_id, status = excluded.status, amount = excluded.amount,
    amount_received = excluded.amount_received, amount_refunded = excluded.amount_refunded,
    currency = excluded.currency, payment_method_type = excluded.payment_method_type,
    failure_code = excluded.failure_code, failure_message = excluded.failure_message,
    disputed = excluded.disputed, created = excluded.created, paid_at = excluded.paid_at,
    description = excluded.description, metadata = excluded.metadata,
    outside_stripe = excluded.outside_stripe";

/// Deletes payments that no object belongs to any more, because an object moved to another payment.
const FORGET: &str = "\
DELETE FROM payments USING UNNEST($1, $2, $3) AS k (account, livemode, id)
WHERE payments.account = k.account AND payments.livemode = k.livemode AND payments.id = k.id
  AND NOT EXISTS (SELECT FROM payment_intents pi
    WHERE pi.account = k.account AND pi.livemode = k.livemode AND pi.id = k.id)
  AND NOT EXISTS (SELECT FROM charges c
    WHERE coalesce(c.payment_intent_id, c.id) = k.id AND c.account = k.account AND c.livemode = k.livemode)
  AND NOT EXISTS (SELECT FROM invoice_payments p
    WHERE coalesce(p.payment_intent_id, p.charge_id, p.payment_record_id, p.id) = k.id
      AND p.account = k.account AND p.livemode = k.livemode)";

const STORED_KEYS: &str = "\
SELECT t.account, t.livemode, coalesce(t.payment_intent_id, t.charge_id) AS id
FROM UNNEST($1, $2, $3) AS k (account, livemode, id)
JOIN invoices t ON t.account = k.account AND t.livemode = k.livemode AND t.id = k.id
WHERE coalesce(t.payment_intent_id, t.charge_id) IS NOT NULL
UNION ALL
SELECT t.account, t.livemode, coalesce(t.payment_intent_id, t.id)
FROM UNNEST($4, $5, $6) AS k (account, livemode, id)
JOIN charges t ON t.account = k.account AND t.livemode = k.livemode AND t.id = k.id
UNION ALL
SELECT t.account, t.livemode, coalesce(t.payment_intent_id, t.charge_id, t.payment_record_id, t.id)
FROM UNNEST($7, $8, $9) AS k (account, livemode, id)
JOIN invoice_payments t ON t.account = k.account AND t.livemode = k.livemode AND t.id = k.id";

/// The payments of charges: a refund or dispute may name the charge, but no intent.
const OF_CHARGES: &str = "\
SELECT t.account, t.livemode, t.payment_intent_id AS id
FROM UNNEST($1, $2, $3) AS k (account, livemode, id)
JOIN charges t ON t.account = k.account AND t.livemode = k.livemode AND t.id = k.id
WHERE t.payment_intent_id IS NOT NULL";

#[derive(QueryableByName)]
struct StoredKey {
    #[diesel(sql_type = Text)]
    account: String,
    #[diesel(sql_type = Bool)]
    livemode: bool,
    #[diesel(sql_type = Text)]
    id: String,
}

/// For keys that are ids of charges: the payments of these charges, if the charges are stored and have an
/// intent.
pub(in crate::billing) fn of_charges<'a>(
    conn: &mut PgConnection,
    keys: impl Iterator<Item = &'a PaymentKey> + Clone,
) -> QueryResult<BTreeSet<PaymentKey>> {
    let charges = keys.filter(|key| !key.id.starts_with("pi_"));
    if charges.clone().next().is_none() {
        return Ok(BTreeSet::new());
    }
    let found: Vec<StoredKey> = diesel::sql_query(OF_CHARGES)
        .bind::<Array<Text>, _>(charges.clone().map(|key| &*key.account).collect::<Vec<_>>())
        .bind::<Array<Bool>, _>(charges.clone().map(|key| key.livemode).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(charges.map(|key| &*key.id).collect::<Vec<_>>())
        .load(conn)?;
    Ok(found.into_iter().map(Into::into).collect())
}

impl From<StoredKey> for PaymentKey {
    fn from(row: StoredKey) -> Self {
        Self { account: row.account, livemode: row.livemode, id: row.id }
    }
}

/// Recomputes these payments from the stored objects. The caller has locked each key.
pub(in crate::billing) fn combine(conn: &mut PgConnection, keys: &BTreeSet<PaymentKey>) -> QueryResult<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut all = of_charges(conn, keys.iter())?;
    all.extend(keys.iter().cloned());
    let keys = &all;
    for statement in [FORGET, COMBINE] {
        diesel::sql_query(statement)
            .bind::<Array<Text>, _>(keys.iter().map(|key| &*key.account).collect::<Vec<_>>())
            .bind::<Array<Bool>, _>(keys.iter().map(|key| key.livemode).collect::<Vec<_>>())
            .bind::<Array<Text>, _>(keys.iter().map(|key| &*key.id).collect::<Vec<_>>())
            .execute(conn)?;
    }
    Ok(())
}

/// The payments that these objects belong to as they are stored now.
pub(in crate::billing) fn stored_keys(
    conn: &mut PgConnection,
    invoices: &[InvoiceWithLines],
    charges: &[Charge],
    invoice_payments: &[InvoicePayment],
) -> QueryResult<BTreeSet<PaymentKey>> {
    if invoices.is_empty() && charges.is_empty() && invoice_payments.is_empty() {
        return Ok(BTreeSet::new());
    }
    let stored: Vec<StoredKey> = diesel::sql_query(STORED_KEYS)
        .bind::<Array<Text>, _>(invoices.iter().map(|row| &*row.invoice.account).collect::<Vec<_>>())
        .bind::<Array<Bool>, _>(invoices.iter().map(|row| row.invoice.livemode).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(invoices.iter().map(|row| &*row.invoice.id).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(charges.iter().map(|row| &*row.account).collect::<Vec<_>>())
        .bind::<Array<Bool>, _>(charges.iter().map(|row| row.livemode).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(charges.iter().map(|row| &*row.id).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(invoice_payments.iter().map(|row| &*row.account).collect::<Vec<_>>())
        .bind::<Array<Bool>, _>(invoice_payments.iter().map(|row| row.livemode).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(invoice_payments.iter().map(|row| &*row.id).collect::<Vec<_>>())
        .load(conn)?;
    Ok(stored.into_iter().map(Into::into).collect())
}
