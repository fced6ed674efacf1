//! Reads the facts: what the mirrors, the catalogue and earlier effects say now. Reads only.

use std::collections::BTreeMap;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Json, Jsonb, Text};
use serde_json::Value;

use super::Facts;
use crate::battery::effects::owners::{invoices, payments};
use crate::battery::effects::sources::{bound, each};
use crate::battery::effects::{Kind, SaleSource, model, returns};
use crate::billing::acting_realms::acts;
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;

// Not jsonb: PostgreSQL would take it apart and put it together again for each object within another.
type DocTypes = (Text, Bool, Text, Text, Json);
type ReturnedTypes = (Text, Bool, Text, Text, Jsonb);
type Doc = (String, bool, String, String, Value);

/// The pack `$p` as JSON.
macro_rules! pack {
    () => {
        "json_build_object('id', b.pack_id, 'units', b.units::text, 'days', b.expires_after_days, 'priority',
             b.priority)"
    };
}

/// The same with what one costs in the currency of the session `s`.
macro_rules! sold_pack {
    ($only:literal) => {
        concat!(
            "json_build_object('id', b.pack_id, 'units', b.units::text, 'days',
                 b.expires_after_days, 'priority', b.priority, ",
            "'has_price', EXISTS (SELECT FROM battery_pack_stripe_prices o WHERE o.pack_id = b.pack_id), ",
            "'prices', (SELECT json_agg(DISTINCT p.unit_amount) FROM battery_pack_stripe_prices o
                 JOIN prices p ON p.id = o.price_id ",
            "WHERE o.pack_id = b.pack_id AND p.account = k.account AND p.livemode = k.livemode
                 AND p.currency = s.currency ",
            "AND p.unit_amount > 0 AND p.recurring_interval IS NULL",
            $only,
            "))"
        )
    };
}

/// What metadata `$m` names.
macro_rules! named {
    ($m:literal, $link:literal, $pack:expr, $priced:expr) => {
        concat!(
            "json_build_object('metadata', ",
            $m,
            ", 'pack', (SELECT ",
            $pack,
            " FROM battery_packs b
                WHERE b.pack_id = ",
            $m,
            "->>'battery_pack'), ",
            "'priced', (SELECT ",
            $priced,
            " FROM battery_pack_stripe_prices m JOIN battery_packs b
                USING (pack_id) ",
            "WHERE m.price_id = coalesce(",
            $m,
            "->>'price', ",
            $m,
            "->>'price_id')), ",
            "'linked', (SELECT ",
            $pack,
            " FROM battery_pack_payment_links m JOIN battery_packs b
                USING (pack_id) WHERE m.payment_link_id = ",
            $link,
            "))"
        )
    };
}

macro_rules! session {
    () => {
        concat!(
            "json_build_object('mode', s.mode, 'payment_status', s.payment_status, 'amount_subtotal',
                 s.amount_subtotal, ",
            "'amount_total', s.amount_total, 'currency', s.currency, 'payment_link', s.payment_link_id, ",
            "'ignored', EXISTS (SELECT FROM battery_effects_ignored n
                 WHERE (n.kind, n.id) = ('payment_link', s.payment_link_id) ",
            "OR (n.kind, n.id) = ('price', coalesce(s.metadata->>'price', s.metadata->>'price_id'))), ",
            "'named', ",
            named!("s.metadata", "s.payment_link_id", sold_pack!(""), sold_pack!(" AND p.id = m.price_id")),
            ")"
        )
    };
}

// Look-ups by one column do not compare the account with `=`: see `each`.
statement!(Invoices -> DocTypes: concat!(
    "SELECT k.account, k.livemode, 'invoice', k.id, json_build_object(
        'invoice', json_build_object('status', i.status, 'billing_reason', i.billing_reason, 'currency',
            i.currency, 'amount_paid', i.amount_paid,
            'total', i.total, 'reduced', i.pre_payment_credit_notes_amount,
            'notes', (SELECT sum(n.pre_payment_amount) FROM credit_notes n
                WHERE n.invoice_id = k.id AND n.account IS NOT DISTINCT FROM k.account
                AND n.livemode IS NOT DISTINCT FROM k.livemode AND n.status IS DISTINCT FROM 'void'),
            'created', i.created, 'paid_at',
                coalesce(i.paid_at, i.finalized_at, i.created), 'lines_complete', i.lines_complete),
        'customer_id', i.customer_id, 'org_ref', link.ref, 'org_id', r.org_id, 'idle', NOT ", acts!("k"), ",
        'owned_elsewhere', EXISTS (
            SELECT FROM (
                SELECT p.payment_intent_id AS id FROM payments p
                WHERE p.invoice_id = k.id AND p.account IS NOT DISTINCT FROM k.account
                    AND p.livemode IS NOT DISTINCT FROM k.livemode
                UNION ALL SELECT x.payment_intent_id FROM invoice_payments x
                WHERE x.invoice_id = k.id AND x.account IS NOT DISTINCT FROM k.account
                    AND x.livemode IS NOT DISTINCT FROM k.livemode
                UNION ALL SELECT x.payment_intent_id FROM checkout_sessions x
                WHERE x.invoice_id = k.id AND x.account IS NOT DISTINCT FROM k.account
                    AND x.livemode IS NOT DISTINCT FROM k.livemode
                UNION ALL SELECT i.payment_intent_id) p
            CROSS JOIN LATERAL (SELECT FROM battery_effects e
                WHERE e.source_id = p.id AND e.source_kind = 'payment_intent' AND e.account = k.account
                AND e.livemode = k.livemode OFFSET 0) e),
        'session', (SELECT ", session!(), " FROM checkout_sessions s
            WHERE s.invoice_id = k.id AND s.account IS NOT DISTINCT FROM k.account
            AND s.livemode IS NOT DISTINCT FROM k.livemode
            ORDER BY s.payment_status IN ('paid', 'no_payment_required') DESC NULLS LAST, s.created, s.id
            LIMIT 1),
        'lines', coalesce((SELECT
            json_agg(json_build_object('id', l.id, 'kind', l.type, 'amount', l.amount, 'quantity',
            l.quantity, 'description', l.description,
            'start', l.period_start, 'end', l.period_end, 'price', l.price_id, 'product',
                l.product_id, 'subscription', l.subscription_id, 'proration', l.proration,
            'item', l.subscription_item_id, 'discount', l.discount_amount, 'usage_type',
                l.usage_type, 'price_usage', c.usage_type, 'costs', c.costs,
            'item_usage', (SELECT y.usage_type FROM subscription_items y
                WHERE y.account = k.account AND y.livemode = k.livemode
                AND y.subscription_id = l.subscription_id AND y.id = l.subscription_item_id
                    AND y.price_id = l.price_id LIMIT 1),
            'ignored', EXISTS (SELECT FROM battery_effects_ignored n
                WHERE (n.kind, n.id) = ('price', l.price_id) OR (n.kind, n.id) = ('product', l.product_id)),
            'plan', CASE WHEN m.plan_id IS NOT NULL
                THEN json_build_object('id', m.plan_id, 'by_price', m.by_price,
                'licensed_beside', EXISTS (SELECT FROM subscription_items y
                    LEFT JOIN prices p ON p.account = y.account AND p.livemode = y.livemode
                        AND p.id = y.price_id
                    LEFT JOIN plan_stripe_prices bp ON bp.price_id = y.price_id
                    LEFT JOIN plan_stripe_products bo ON bo.product_id = y.product_id
                    WHERE y.account = k.account AND y.livemode = k.livemode
                        AND y.subscription_id = l.subscription_id
                      AND y.id IS DISTINCT FROM l.subscription_item_id
                          AND coalesce(bp.plan_id, bo.plan_id) = m.plan_id
                      AND coalesce(y.usage_type, p.recurring_usage_type) = 'licensed'),
                'moved', (SELECT v.version FROM subscription_moves v
                    WHERE (v.account, v.livemode, v.subscription_id, v.plan_id) = (k.account, k.livemode,
                    l.subscription_id, m.plan_id)),
                'since', (SELECT v.since FROM subscription_prices v
                    WHERE (v.account, v.livemode, v.subscription_id, v.price_id) = (k.account, k.livemode,
                    l.subscription_id, l.price_id)),
                'versions', coalesce((SELECT
                    json_agg(json_build_object('version', v.version, 'created_at', v.created_at, 'units',
                    v.battery_units::text,
                    'annual', v.annual_battery_units::text, 'trial', v.trial_battery_units::text)
                    ORDER BY v.version)
                    FROM plan_versions v WHERE v.plan_id = m.plan_id), '[]')) END,
            'pack', (SELECT ", pack!(), " FROM battery_pack_stripe_prices q JOIN battery_packs b
                USING (pack_id) WHERE q.price_id = l.price_id),
            'mirrored', (SELECT json_build_object('trial_start', s.trial_start, 'trial_end', s.trial_end)
                FROM subscriptions s
                WHERE s.id = l.subscription_id AND s.account IS NOT DISTINCT FROM k.account
                    AND s.livemode IS NOT DISTINCT FROM k.livemode),
            'full', CASE WHEN l.proration
                THEN (SELECT json_build_object('start', f.period_start, 'end', f.period_end)
                FROM invoices j JOIN invoice_lines f ON f.account = j.account AND f.livemode = j.livemode
                    AND f.invoice_id = j.id
                WHERE j.subscription_id = l.subscription_id AND j.account IS NOT DISTINCT FROM k.account
                  AND j.livemode IS NOT DISTINCT FROM k.livemode
                  AND f.subscription_id = l.subscription_id AND f.proration IS NOT TRUE
                      AND f.type IS DISTINCT FROM 'invoiceitem'
                  AND f.period_start <= l.period_start AND f.period_end >= l.period_end
                      AND f.period_start < f.period_end
                ORDER BY f.subscription_item_id IS NOT DISTINCT FROM l.subscription_item_id DESC,
                    f.period_end - f.period_start, f.period_start LIMIT 1) END,
            'holders', CASE WHEN l.proration
                THEN (SELECT coalesce(json_agg(json_build_object('number', e.grant_number, 'start',
                e.period_start, 'end', e.period_end)
                    ORDER BY e.period_start DESC, e.source_id, e.line), '[]') FROM battery_effects e
                WHERE e.subscription_id = l.subscription_id AND e.account IS NOT DISTINCT FROM k.account
                    AND e.livemode IS NOT DISTINCT FROM k.livemode
                  AND (e.plan_id = m.plan_id OR e.pack_id = pk.pack_id AND e.price_id = l.price_id)
                      AND e.units > 0 AND e.grant_number IS NOT NULL
                  AND e.source_id <> k.id AND e.period_start < l.period_end AND e.period_end > l.period_start
                  AND NOT EXISTS (SELECT FROM battery_returns b
                      WHERE b.org_id = e.org_id AND b.grant_number = e.grant_number
                      AND b.cause_kind = 'invoice' AND b.cause_id IN (e.source_id, e.source_id || ':period')
                          AND b.units > 0)
                  AND EXISTS (SELECT FROM invoices h
                      WHERE h.id = e.source_id AND h.account IS NOT DISTINCT FROM k.account
                      AND h.livemode IS NOT DISTINCT FROM k.livemode AND h.status = 'paid' OFFSET 0)
                  AND e.org_id = coalesce((SELECT min(o.org_id) FROM battery_effects o
                      WHERE o.source_id = k.id AND o.source_kind = 'invoice'
                      AND o.account = k.account AND o.livemode = k.livemode), r.org_id)) ELSE '[]' END,
            'interval', CASE WHEN l.proration
                THEN (SELECT json_build_array(p.recurring_interval, coalesce(p.recurring_interval_count, 1))
                FROM prices p
                WHERE p.id = l.price_id AND p.account = k.account AND p.livemode = k.livemode
                    AND p.recurring_interval IS NOT NULL) END
            ) ORDER BY l.line_number)
            FROM invoice_lines l
            LEFT JOIN LATERAL (SELECT coalesce(by_price, by_product) AS plan_id,
                by_price IS NOT NULL AS by_price
                FROM (SELECT (SELECT q.plan_id FROM plan_stripe_prices q
                    WHERE q.price_id = l.price_id) AS by_price,
                    (SELECT q.plan_id FROM plan_stripe_products q
                        WHERE q.product_id = l.product_id) AS by_product) m) m ON true
            LEFT JOIN LATERAL (SELECT q.pack_id FROM battery_pack_stripe_prices q
                WHERE q.price_id = l.price_id OFFSET 0) pk ON true
            LEFT JOIN LATERAL (SELECT p.recurring_usage_type AS usage_type,
                    coalesce(p.billing_scheme = 'tiered', false)
                        OR coalesce(p.unit_amount_decimal, p.unit_amount) > 0 AS costs
                FROM prices p WHERE p.id = l.price_id AND p.account = k.account
                    AND p.livemode = k.livemode OFFSET 0) c ON true
            WHERE l.account = k.account AND l.livemode = k.livemode AND l.invoice_id = k.id), '[]'),
        'others', coalesce((SELECT json_agg(DISTINCT x.id) FROM invoice_lines l
            CROSS JOIN LATERAL (
                SELECT e.source_id AS id FROM battery_effects e
                WHERE e.subscription_id = l.subscription_id AND e.source_kind = 'invoice'
                    AND e.account IS NOT DISTINCT FROM k.account
                        AND e.livemode IS NOT DISTINCT FROM k.livemode
                    AND e.price_id IS NOT DISTINCT FROM l.price_id
                    AND e.period_start IS NOT DISTINCT FROM l.period_start AND e.units > 0
                UNION ALL SELECT w.source_id FROM battery_effects_waiting w
                WHERE w.subscription_id = l.subscription_id AND w.source_kind = 'invoice'
                    AND w.account IS NOT DISTINCT FROM k.account
                        AND w.livemode IS NOT DISTINCT FROM k.livemode
                    AND w.price_id IS NOT DISTINCT FROM l.price_id
                    AND w.reason = 'already_granted' AND w.dismissed_at IS NULL OFFSET 0) x
            WHERE l.account = k.account AND l.livemode = k.livemode AND l.invoice_id = k.id
                AND l.proration IS NOT TRUE AND x.id <> k.id), '[]'))
    ", invoices!(), " WHERE i.id IS NOT NULL"));

statement!(Payments -> DocTypes: concat!(
    "SELECT k.account, k.livemode, k.kind, k.id, json_build_object(
        'intent', CASE WHEN i.id IS NOT NULL
            THEN json_build_object('status', i.status, 'amount_received', i.amount_received, 'currency',
            i.currency,
            'named', ", named!("i.metadata", "NULL", pack!(), pack!()), ") END,
        'session', CASE WHEN s.id IS NOT NULL THEN ", session!(), " END,
        'owned_elsewhere', k.kind = 'payment_intent' AND (i.invoice_id IS NOT NULL
            OR EXISTS (SELECT FROM checkout_sessions x
                WHERE x.payment_intent_id = k.id AND x.account IS NOT DISTINCT FROM k.account
                AND x.livemode IS NOT DISTINCT FROM k.livemode AND x.invoice_id IS NOT NULL OFFSET 0)
            OR EXISTS (SELECT FROM payments p
                WHERE p.id = k.id AND p.account IS NOT DISTINCT FROM k.account
                AND p.livemode IS NOT DISTINCT FROM k.livemode AND p.invoice_id IS NOT NULL OFFSET 0)),
        'customer_id', c.id, 'org_ref', coalesce(l.ref, given.ref), 'org_id', r.org_id, 'idle',
            NOT ", acts!("k"), ")
    ", payments!(), " WHERE i.id IS NOT NULL OR s.id IS NOT NULL"));

// Of those of which there is anything.
statement!(LimitStatus -> DocTypes: concat!(
    "SELECT k.account, k.livemode, k.kind, k.id,
         json_build_object('claims', coalesce(c.claims, '[]'), 'waiting', coalesce(w.waiting, '[]'))
     FROM unnest(?, ?, ?, ?) AS k (account, livemode, kind, id)
     CROSS JOIN LATERAL (SELECT
         json_agg(json_build_object('line', e.line, 'org_id', e.org_id, 'grant', e.grant_number, 'units',
         e.units::text, 'what', e.what,
            'start', e.period_start, 'end', e.period_end, 'paid', e.paid_minor, 'quantity', e.quantity)
            ORDER BY e.line) AS claims
        FROM battery_effects e
        WHERE e.source_id = k.id AND e.source_kind = k.kind AND e.account = k.account
            AND e.livemode = k.livemode) c
     CROSS JOIN LATERAL (SELECT
         json_agg(json_build_object('line', w.line, 'since', w.since, 'dismissed',
         w.dismissed_at IS NOT NULL, 'org', w.assigned_org,
            'quantity', w.assigned_quantity, 'pack',
                (SELECT ", pack!(), " FROM battery_packs b
                WHERE b.pack_id = w.assigned_pack))) AS waiting
        FROM battery_effects_waiting w
        WHERE w.source_id = k.id AND w.source_kind = k.kind AND w.account = k.account
            AND w.livemode = k.livemode) w
     WHERE c.claims IS NOT NULL OR w.waiting IS NOT NULL"));

/// What a refund or a dispute says.
macro_rules! returned {
    ($cause:literal, $table:literal, $by:literal, $doc:literal) => {
        concat!(
            "SELECT n.account, n.livemode, n.kind, n.source, '",
            $cause,
            "' AS cause, x.id, x.created, ",
            $doc,
            " AS doc FROM ",
            each!("n", $table, $by)
        )
    };
}

// A refund names its intent, or its charge alone; a charge belongs to an intent or stands alone.
statement!(Returned -> ReturnedTypes: concat!(
    "WITH k AS MATERIALIZED (SELECT * FROM unnest(?, ?, ?, ?) AS k (account, livemode, kind, id)),
     paid AS MATERIALIZED (
        SELECT account, livemode, kind, id AS source, id FROM k WHERE kind = 'payment_intent'
        UNION SELECT k.account, k.livemode, k.kind, k.id, x.id
        FROM ", each!("k", "payments", "y.invoice_id"), " WHERE k.kind = 'invoice'
        UNION SELECT k.account, k.livemode, k.kind, k.id, coalesce(x.payment_intent_id, x.charge_id)
        FROM ", each!("k", "invoice_payments", "y.invoice_id"), " WHERE k.kind = 'invoice'
        UNION SELECT k.account, k.livemode, k.kind, k.id, coalesce(x.payment_intent_id, x.charge_id)
        FROM ", each!("k", "invoices", "y.id"), " WHERE k.kind = 'invoice'
        UNION SELECT k.account, k.livemode, k.kind, k.id, x.payment_intent_id
        FROM ", each!("k", "checkout_sessions", "y.invoice_id"), " WHERE k.kind = 'invoice'),
     n AS MATERIALIZED (
        SELECT * FROM paid WHERE id IS NOT NULL
        UNION SELECT paid.account, paid.livemode, paid.kind, paid.source, x.id
        FROM ", each!("paid", "charges", "coalesce(y.payment_intent_id, y.id)"), "),
     causes AS (",
        returned!("refund", "refunds", "y.payment_intent_id", "jsonb_build_object('amount', x.amount, \
            'status', x.status)"), " UNION ",
        returned!("refund", "refunds", "y.charge_id", "jsonb_build_object('amount', x.amount, 'status', \
            x.status)"), " UNION ",
        returned!("dispute", "disputes", "y.payment_intent_id", "jsonb_build_object('amount', x.amount, \
            'status', x.status, 'currency', x.currency, 'funds_withdrawn', x.funds_withdrawn, \
            'funds_currency', x.funds_currency)"), " UNION ",
        returned!("dispute", "disputes", "y.charge_id", "jsonb_build_object('amount', x.amount, 'status', \
            x.status, 'currency', x.currency, 'funds_withdrawn', x.funds_withdrawn, 'funds_currency', \
            x.funds_currency)"), "
        UNION SELECT n.account, n.livemode, n.kind, n.source, 'charge', x.id, x.created,
            jsonb_build_object('amount', greatest(0, x.amount_refunded -
               (SELECT coalesce(sum(r.amount), 0)
                   FROM (SELECT y.* FROM refunds y
                   WHERE y.charge_id = x.id AND y.account IS NOT DISTINCT FROM x.account
                    AND y.livemode IS NOT DISTINCT FROM x.livemode OFFSET 0) r) -
               (SELECT coalesce(sum(r.amount), 0)
                   FROM (SELECT y.* FROM refunds y
                   WHERE y.payment_intent_id = x.payment_intent_id AND y.charge_id IS NULL
                    AND y.account IS NOT DISTINCT FROM x.account
                        AND y.livemode IS NOT DISTINCT FROM x.livemode OFFSET 0) r)))
            FROM ", each!("n", "charges", "y.id"), " WHERE x.amount_refunded > 0
        UNION SELECT k.account, k.livemode, k.kind, k.id, 'credit_note', x.id, x.created,
            jsonb_build_object('amount', coalesce(x.total, x.amount), 'status', x.status,
               'type', x.type, 'out_of_band', x.out_of_band_amount, 'refunds',
                   jsonb_array_length(x.refund_ids),
               'after', x.post_payment_amount, 'refunded', x.refund_amount,
               'known', (SELECT coalesce(sum(y.amount), 0) FROM jsonb_array_elements_text(x.refund_ids) r (id)
                   JOIN refunds y ON y.account = x.account AND y.livemode = x.livemode AND y.id = r.id))
            FROM ", each!("k", "credit_notes", "y.invoice_id"), " WHERE k.kind = 'invoice')
     SELECT account, livemode, kind, source,
         jsonb_agg(doc || jsonb_build_object('cause', cause, 'id', id, 'created', created)) FROM causes
     GROUP BY 1, 2, 3, 4"));

/// Reads these sources, and beside them the invoices of the same org that may have sold the same periods.
pub(in crate::battery::effects) fn load(
    conn: &mut PgConnection,
    sources: &[SaleSource],
) -> Result<BTreeMap<SaleSource, Facts>, Error> {
    let mut facts = read_all(conn, sources)?;
    loop {
        let other = |source: &SaleSource, id: &String| SaleSource { id: id.clone(), ..source.clone() };
        let others: BTreeMap<SaleSource, Option<i64>> = facts
            .iter()
            .flat_map(|(source, own)| {
                own.others.iter().map(move |id| (other(source, id), model::org_of(own)))
            })
            .filter(|(other, org)| org.is_some() && !facts.contains_key(other))
            .collect();
        if others.is_empty() {
            return Ok(facts);
        }
        let mut more = read_all(conn, &others.keys().cloned().collect::<Vec<_>>())?;
        for (source, own) in &mut more {
            own.beside = true;
            // It is no other sale of the same, and neither are those beside it.
            if model::org_of(own) != others[source] {
                *own = Facts { beside: true, ..Facts::default() };
            }
        }
        facts.extend(more);
    }
}

/// Reads these sources. Those that no mirror knows are as good as empty.
fn read_all(conn: &mut PgConnection, sources: &[SaleSource]) -> Result<BTreeMap<SaleSource, Facts>, Error> {
    let (invoices, payments): (Vec<&SaleSource>, Vec<&SaleSource>) =
        sources.iter().partition(|source| source.kind == Kind::Invoice);
    let all: Vec<&SaleSource> = sources.iter().collect();
    let mut docs: Vec<Doc> = Vec::new();
    if !invoices.is_empty() {
        docs.extend(bound(Prepared::<Invoices>::new(), &invoices, false).load::<Doc>(conn)?);
    }
    if !payments.is_empty() {
        docs.extend(bound(Prepared::<Payments>::new(), &payments, true).load::<Doc>(conn)?);
    }
    let mut facts: BTreeMap<SaleSource, Facts> =
        sources.iter().map(|source| (source.clone(), Facts::default())).collect();
    for doc in docs {
        let (source, value) = named(doc)?;
        facts.insert(source, read(value)?);
    }
    for doc in bound(Prepared::<LimitStatus>::new(), &all, true).load::<Doc>(conn)? {
        let (source, value) = named(doc)?;
        let standing: Facts = read(value)?;
        if let Some(facts) = facts.get_mut(&source) {
            (facts.claims, facts.waiting) = (standing.claims, standing.waiting);
        }
    }
    // Of what has no org nothing was granted that could be taken back.
    let with_org: Vec<&SaleSource> =
        all.into_iter().filter(|source| model::org_of(&facts[*source]).is_some()).collect();
    if with_org.is_empty() {
        return Ok(facts);
    }
    for doc in bound(Prepared::<Returned>::new(), &with_org, true).load::<Doc>(conn)? {
        let (source, value) = named(doc)?;
        if let Some(facts) = facts.get_mut(&source) {
            let returned: Vec<returns::Returned> = read(value)?;
            facts.returned = returns::causes(&returned);
            facts.returned.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        }
    }
    Ok(facts)
}

fn named((account, livemode, kind, id, value): Doc) -> Result<(SaleSource, Value), Error> {
    let realm = crate::realm::Realm { account, livemode };
    Ok((SaleSource { realm, kind: Kind::parse(&kind)?, id }, value))
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(|error| Error::Internal(format!("facts of an effect: {error}")))
}
