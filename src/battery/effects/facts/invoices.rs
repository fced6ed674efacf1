//! Invoices with their lines, and what each line buys.

use diesel::pg::PgConnection;
use diesel::prelude::*;

use super::{DocumentRow, DocumentTypes, pack_json, parse_documents};
use super::{named_packs_json, old_money_json, session_json, sold_pack_json};
use crate::battery::effects::model::{Facts, SaleSource};
use crate::battery::effects::sql::{bind_sources_of_one_kind, from_invoices};
use crate::billing::acting_realms::acts;
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;

/// SQL: whether the payment of the invoice `k` granted before its invoice was known.
macro_rules! granted_by_payment {
    () => {
        "EXISTS (
             SELECT
             FROM (
                 SELECT p.payment_intent_id AS id
                 FROM payments p
                 WHERE p.invoice_id = k.id
                     AND p.account IS NOT DISTINCT FROM k.account
                     AND p.livemode IS NOT DISTINCT FROM k.livemode
                 UNION ALL
                 SELECT x.payment_intent_id
                 FROM invoice_payments x
                 WHERE x.invoice_id = k.id
                     AND x.account IS NOT DISTINCT FROM k.account
                     AND x.livemode IS NOT DISTINCT FROM k.livemode
                 UNION ALL
                 SELECT x.payment_intent_id
                 FROM checkout_sessions x
                 WHERE x.invoice_id = k.id
                     AND x.account IS NOT DISTINCT FROM k.account
                     AND x.livemode IS NOT DISTINCT FROM k.livemode
                 UNION ALL
                 SELECT i.payment_intent_id) p
             CROSS JOIN LATERAL (
                 SELECT
                 FROM battery_effects e
                 WHERE e.source_id = p.id
                     AND e.source_kind = 'payment_intent'
                     AND e.account = k.account
                     AND e.livemode = k.livemode
                 OFFSET 0) e)"
    };
}

/// SQL: the plan `m` of the line `l`.
macro_rules! plan_json {
    () => {
        "json_build_object(
             'id', m.plan_id,
             'by_price', m.by_price,
             'licensed_beside', EXISTS (
                 SELECT
                 FROM subscription_items y
                 LEFT JOIN prices p ON p.account = y.account
                     AND p.livemode = y.livemode
                     AND p.id = y.price_id
                 LEFT JOIN plan_stripe_prices bp ON bp.price_id = y.price_id
                 LEFT JOIN plan_stripe_products bo ON bo.product_id = y.product_id
                 WHERE y.account = k.account
                     AND y.livemode = k.livemode
                     AND y.subscription_id = l.subscription_id
                     AND y.id IS DISTINCT FROM l.subscription_item_id
                     AND coalesce(bp.plan_id, bo.plan_id) = m.plan_id
                     AND coalesce(y.usage_type, p.recurring_usage_type) = 'licensed'),
             'moved', (
                 SELECT v.version
                 FROM subscription_moves v
                 WHERE (v.account, v.livemode, v.subscription_id, v.plan_id)
                     = (k.account, k.livemode, l.subscription_id, m.plan_id)),
             'since', (
                 SELECT v.since
                 FROM subscription_prices v
                 WHERE (v.account, v.livemode, v.subscription_id, v.price_id)
                     = (k.account, k.livemode, l.subscription_id, l.price_id)),
             'versions', coalesce((
                 SELECT json_agg(json_build_object(
                         'version', v.version,
                         'created_at', v.created_at,
                         'units', v.battery_units::text,
                         'annual', v.annual_battery_units::text,
                         'trial', v.trial_battery_units::text)
                     ORDER BY v.version)
                 FROM plan_versions v
                 WHERE v.plan_id = m.plan_id), '[]'))"
    };
}

/// SQL: the shortest whole period of the subscription that the time of the prorated line `l` is a part of; of
/// the same item, if there is one.
macro_rules! full_period_json {
    () => {
        "(SELECT json_build_object('start', f.period_start, 'end', f.period_end)
             FROM invoices j
             JOIN invoice_lines f ON f.account = j.account
                 AND f.livemode = j.livemode
                 AND f.invoice_id = j.id
             WHERE j.subscription_id = l.subscription_id
                 AND j.account IS NOT DISTINCT FROM k.account
                 AND j.livemode IS NOT DISTINCT FROM k.livemode
                 AND f.subscription_id = l.subscription_id
                 AND f.proration IS NOT TRUE
                 AND f.type IS DISTINCT FROM 'invoiceitem'
                 AND f.period_start <= l.period_start
                 AND f.period_end >= l.period_end
                 AND f.period_start < f.period_end
             ORDER BY f.subscription_item_id IS NOT DISTINCT FROM l.subscription_item_id DESC,
                 f.period_end - f.period_start,
                 f.period_start
             LIMIT 1)"
    };
}

/// SQL: the grants that hold units of what the prorated line `l` bought and of its time. A grant of a
/// reversed or repeated invoice holds none.
macro_rules! overlapping_grants_json {
    () => {
        "(SELECT coalesce(json_agg(json_build_object(
                     'number', e.grant_number,
                     'start', e.period_start,
                     'end', e.period_end)
                 ORDER BY e.period_start DESC, e.source_id, e.line), '[]')
             FROM battery_effects e
             WHERE e.subscription_id = l.subscription_id
                 AND e.account IS NOT DISTINCT FROM k.account
                 AND e.livemode IS NOT DISTINCT FROM k.livemode
                 AND (e.plan_id = m.plan_id OR e.pack_id = pk.pack_id AND e.price_id = l.price_id)
                 AND e.units > 0
                 AND e.grant_number IS NOT NULL
                 AND e.source_id <> k.id
                 AND e.period_start < l.period_end
                 AND e.period_end > l.period_start
                 AND NOT EXISTS (
                     SELECT
                     FROM battery_returns b
                     WHERE b.org_id = e.org_id
                         AND b.grant_number = e.grant_number
                         AND b.cause_kind = 'invoice'
                         AND b.cause_id IN (e.source_id, e.source_id || ':period')
                         AND b.units > 0)
                 AND EXISTS (
                     SELECT
                     FROM invoices h
                     WHERE h.id = e.source_id
                         AND h.account IS NOT DISTINCT FROM k.account
                         AND h.livemode IS NOT DISTINCT FROM k.livemode
                         AND h.status = 'paid'
                     OFFSET 0)
                 AND e.org_id = coalesce((
                     SELECT min(o.org_id)
                     FROM battery_effects o
                     WHERE o.source_id = k.id
                         AND o.source_kind = 'invoice'
                         AND o.account = k.account
                         AND o.livemode = k.livemode), r.org_id))"
    };
}

/// SQL: the lines of the invoice `k`, in order. `m`: the plan of a line. `pk`: its pack. `c`: what its price
/// says.
macro_rules! lines_json {
    () => {
        concat!(
            "(SELECT json_agg(json_build_object(
                 'id', l.id,
                 'kind', l.type,
                 'amount', l.amount,
                 'quantity', l.quantity,
                 'description', l.description,
                 'start', l.period_start,
                 'end', l.period_end,
                 'price', l.price_id,
                 'product', l.product_id,
                 'subscription', l.subscription_id,
                 'proration', l.proration,
                 'item', l.subscription_item_id,
                 'discount', l.discount_amount,
                 'usage_type', l.usage_type,
                 'price_usage', c.usage_type,
                 'costs', c.costs,
                 'item_usage', (
                     SELECT y.usage_type
                     FROM subscription_items y
                     WHERE y.account = k.account
                         AND y.livemode = k.livemode
                         AND y.subscription_id = l.subscription_id
                         AND y.id = l.subscription_item_id
                         AND y.price_id = l.price_id
                     LIMIT 1),
                 'ignored', EXISTS (
                     SELECT
                     FROM battery_effects_ignored n
                     WHERE (n.kind, n.id) = ('price', l.price_id)
                         OR (n.kind, n.id) = ('product', l.product_id)),
                 'plan', CASE WHEN m.plan_id IS NOT NULL THEN ",
            plan_json!(),
            " END,
                 'pack', (
                     SELECT ",
            pack_json!(),
            "
                     FROM battery_pack_stripe_prices q
                     JOIN battery_packs b USING (pack_id)
                     WHERE q.price_id = l.price_id),
                 'mirrored', (
                     SELECT json_build_object('trial_start', s.trial_start, 'trial_end', s.trial_end)
                     FROM subscriptions s
                     WHERE s.id = l.subscription_id
                         AND s.account IS NOT DISTINCT FROM k.account
                         AND s.livemode IS NOT DISTINCT FROM k.livemode),
                 'full_period', CASE WHEN l.proration THEN ",
            full_period_json!(),
            " END,
                 'overlapping_grants', CASE WHEN l.proration THEN ",
            overlapping_grants_json!(),
            " ELSE '[]' END,
                 'interval', CASE WHEN l.proration THEN (
                     SELECT json_build_array(p.recurring_interval, coalesce(p.recurring_interval_count, 1))
                     FROM prices p
                     WHERE p.id = l.price_id
                         AND p.account = k.account
                         AND p.livemode = k.livemode
                         AND p.recurring_interval IS NOT NULL) END)
                 ORDER BY l.line_number)
             FROM invoice_lines l
             LEFT JOIN LATERAL (
                 SELECT coalesce(by_price, by_product) AS plan_id, by_price IS NOT NULL AS by_price
                 FROM (
                     SELECT (
                             SELECT q.plan_id
                             FROM plan_stripe_prices q
                             WHERE q.price_id = l.price_id) AS by_price,
                         (
                             SELECT q.plan_id
                             FROM plan_stripe_products q
                             WHERE q.product_id = l.product_id) AS by_product) m) m ON true
             LEFT JOIN LATERAL (
                 SELECT q.pack_id
                 FROM battery_pack_stripe_prices q
                 WHERE q.price_id = l.price_id
                 OFFSET 0) pk ON true
             LEFT JOIN LATERAL (
                 SELECT p.recurring_usage_type AS usage_type,
                     coalesce(p.billing_scheme = 'tiered', false)
                         OR coalesce(p.unit_amount_decimal, p.unit_amount) > 0 AS costs
                 FROM prices p
                 WHERE p.id = l.price_id
                     AND p.account = k.account
                     AND p.livemode = k.livemode
                 OFFSET 0) c ON true
             WHERE l.account = k.account
                 AND l.livemode = k.livemode
                 AND l.invoice_id = k.id)"
        )
    };
}

/// SQL: invoices that granted, or wait to grant, what begins when a period of a line of `k` does.
macro_rules! competing_invoices_json {
    () => {
        "(SELECT json_agg(DISTINCT x.id)
             FROM invoice_lines l
             CROSS JOIN LATERAL (
                 SELECT e.source_id AS id
                 FROM battery_effects e
                 WHERE e.subscription_id = l.subscription_id
                     AND e.source_kind = 'invoice'
                     AND e.account IS NOT DISTINCT FROM k.account
                     AND e.livemode IS NOT DISTINCT FROM k.livemode
                     AND e.price_id IS NOT DISTINCT FROM l.price_id
                     AND e.period_start IS NOT DISTINCT FROM l.period_start
                     AND e.units > 0
                 UNION ALL
                 SELECT w.source_id
                 FROM battery_effects_waiting w
                 WHERE w.subscription_id = l.subscription_id
                     AND w.source_kind = 'invoice'
                     AND w.account IS NOT DISTINCT FROM k.account
                     AND w.livemode IS NOT DISTINCT FROM k.livemode
                     AND w.price_id IS NOT DISTINCT FROM l.price_id
                     AND w.reason = 'already_granted'
                     AND w.dismissed_at IS NULL
                 OFFSET 0) x
             WHERE l.account = k.account
                 AND l.livemode = k.livemode
                 AND l.invoice_id = k.id
                 AND l.proration IS NOT TRUE
                 AND x.id <> k.id)"
    };
}

// Look-ups by one column do not compare the account with `=`: see `sql::each`.
statement!(InvoiceFacts -> DocumentTypes: concat!(
    "SELECT k.account, k.livemode, 'invoice', k.id, json_build_object(
         'invoice', json_build_object(
             'status', i.status,
             'billing_reason', i.billing_reason,
             'currency', i.currency,
             'amount_paid', i.amount_paid,
             'total', i.total,
             'reduced', i.pre_payment_credit_notes_amount,
             'reduced_by_notes', (
                 SELECT sum(n.pre_payment_amount)
                 FROM credit_notes n
                 WHERE n.invoice_id = k.id
                     AND n.account IS NOT DISTINCT FROM k.account
                     AND n.livemode IS NOT DISTINCT FROM k.livemode
                     AND n.status IS DISTINCT FROM 'void'),
             'created', i.created,
             'paid_at', coalesce(i.paid_at, i.finalized_at, i.created),
             'lines_complete', i.lines_complete),
         'customer_id', i.customer_id,
         'org_ref', link.ref,
         'org_id', r.org_id,
         'is_inactive_realm', NOT ", acts!("k"), ",
         'old_money', ", old_money_json!(), ",
         'owned_elsewhere', ", granted_by_payment!(), ",
         'session', (
             SELECT ", session_json!("NULL"), "
             FROM checkout_sessions s
             WHERE s.invoice_id = k.id
                 AND s.account IS NOT DISTINCT FROM k.account
                 AND s.livemode IS NOT DISTINCT FROM k.livemode
             ORDER BY s.payment_status IN ('paid', 'no_payment_required') DESC NULLS LAST, s.created, s.id
             LIMIT 1),
         'lines', coalesce(", lines_json!(), ", '[]'),
         'competing_invoices', coalesce(", competing_invoices_json!(), ", '[]'))
     ", from_invoices!(), "
     WHERE i.id IS NOT NULL"));

/// Facts of those of these sources that are mirrored. All are invoices.
pub(super) fn load(
    conn: &mut PgConnection,
    invoices: &[&SaleSource],
) -> Result<Vec<(SaleSource, Facts)>, Error> {
    if invoices.is_empty() {
        return Ok(Vec::new());
    }
    let statement = bind_sources_of_one_kind(Prepared::<InvoiceFacts>::new(), invoices);
    parse_documents(statement.load::<DocumentRow>(conn)?)
}
