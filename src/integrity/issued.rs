//! What was issued is the proof. A finalised document is stored with its digest and never changes
//! (`own_documents`); exports, the API and journals read the tables beside it. So each row that a document
//! stands for is compared with it: a row that says something else, is lost, or has no document, was forged or
//! lost. Payments and refunds are compared with their entries, periods with the lines that charge them.
//!
//! The days of entries are those of the zone of their seller. If that seller was changed after an entry was
//! made, its zone may have been another one then: a day to either side is no difference.

use diesel::pg::PgConnection;

use super::accounts::lines;
use crate::error::Error;

/// Documents with their content.
const DOCUMENTS: &str = "
    (SELECT org_id, document_id, kind, seller_id, number, issue_date, content::jsonb AS c
     FROM own_documents)";

/// A rule: a table, and a query of its rows. Each row has a `name`, and as JSON objects what is `stored` and
/// what was `said`; null where there is nothing.
struct Rule {
    table: &'static str,
    rows: &'static str,
}

/// The rules, `{documents}` being [`DOCUMENTS`].
const RULES: [Rule; 9] = [
    Rule {
        table: "own_documents",
        rows: "
        SELECT document_id AS name,
            jsonb_build_object('id', document_id, 'kind', kind, 'number', number, 'issue_date', issue_date)
                AS stored,
            jsonb_build_object('id', c -> 'id', 'kind', c -> 'kind', 'number', c -> 'number',
                'issue_date', c -> 'issue_date') AS said
        FROM {documents} d",
    },
    // Number and total are compared where numbers are.
    Rule {
        table: "own_invoices",
        rows: "
        SELECT d.document_id AS name,
            CASE WHEN i.invoice_id IS NOT NULL THEN jsonb_build_object('seller', i.seller_id,
                'currency', i.currency, 'issue_date', i.issue_date, 'due_date', i.due_date,
                'subtotal', i.subtotal, 'discount', i.discount_total, 'net', i.net_total,
                'tax', i.tax_total) END AS stored,
            jsonb_build_object('seller', d.seller_id, 'currency', c -> 'currency',
                'issue_date', c -> 'issue_date', 'due_date', c -> 'due_date',
                'subtotal', c #> '{totals,subtotal}', 'discount', c #> '{totals,discount}',
                'net', c #> '{totals,net}', 'tax', c #> '{totals,tax}') AS said
        FROM {documents} d
        LEFT JOIN own_invoices i ON (i.org_id, i.invoice_id) = (d.org_id, d.document_id)
            AND i.finalized_at IS NOT NULL
        WHERE d.kind = 'invoice'",
    },
    Rule {
        table: "own_invoice_lines",
        rows: "
        SELECT format('%s, line %s', coalesce(l.invoice_id, x.document_id),
                coalesce(l.line_number, x.line_number)) AS name,
            CASE WHEN l.invoice_id IS NOT NULL THEN jsonb_build_object('kind', l.kind,
                'description', l.description, 'quantity', l.quantity, 'unit', l.unit,
                'unit_price', l.unit_price, 'base_quantity', l.base_quantity, 'amount', l.amount,
                'discount', l.discount, 'net', l.net, 'tax', l.tax, 'tax_category', l.tax_category,
                'tax_percent', l.tax_percent, 'from', CASE WHEN abs(l.day - (line ->> 'from')::date) <= 1
                    THEN line ->> 'from' ELSE l.day::text END) END AS stored,
            CASE WHEN x.document_id IS NOT NULL THEN jsonb_build_object('kind', line -> 'kind',
                'description', line -> 'description', 'quantity', (line ->> 'quantity')::numeric,
                'unit', line -> 'unit', 'unit_price', (line ->> 'unit_price')::numeric,
                'base_quantity', (line ->> 'base_quantity')::numeric, 'amount', line -> 'amount',
                'discount', line -> 'discount', 'net', line -> 'net', 'tax', line -> 'tax',
                'tax_category', line -> 'tax_category', 'tax_percent', (line ->> 'tax_percent')::numeric,
                'from', line -> 'from') END AS said
        FROM (SELECT l.*, (l.period_start AT TIME ZONE 'UTC')::date AS day
              FROM own_invoice_lines l JOIN own_invoices i USING (org_id, invoice_id)
              WHERE i.finalized_at IS NOT NULL) l
        FULL JOIN (SELECT d.org_id, d.document_id, line, (line ->> 'number')::integer AS line_number
                   FROM {documents} d CROSS JOIN jsonb_array_elements(c -> 'lines') AS line
                   WHERE d.kind = 'invoice') x
            ON (x.org_id, x.document_id, x.line_number) = (l.org_id, l.invoice_id, l.line_number)",
    },
    // What a usage line cost before it was rounded decides what later usage is charged.
    Rule {
        table: "own_invoice_lines",
        rows: "
        SELECT format('%s, line %s', l.invoice_id, l.line_number) AS name,
            jsonb_build_object('cost', round(l.cost, 8)) AS stored,
            jsonb_build_object('cost', round(l.quantity * l.unit_price / l.base_quantity, 8)) AS said
        FROM own_invoice_lines l JOIN own_invoices i USING (org_id, invoice_id)
        WHERE i.finalized_at IS NOT NULL AND l.cost IS NOT NULL",
    },
    Rule {
        table: "own_credit_notes",
        rows: "
        SELECT coalesce(n.credit_note_id, d.document_id) AS name,
            CASE WHEN n.credit_note_id IS NOT NULL THEN jsonb_build_object('seller', n.seller_id,
                'invoice', n.invoice_id, 'currency', n.currency, 'number', n.number, 'reason', n.reason,
                'issue_date', n.issue_date, 'net', n.net_total, 'tax', n.tax_total, 'total', n.total) END
                AS stored,
            CASE WHEN d.document_id IS NOT NULL THEN jsonb_build_object('seller', d.seller_id,
                'invoice', c #> '{invoice,id}', 'currency', c -> 'currency', 'number', c -> 'number',
                'reason', c -> 'reason', 'issue_date', c -> 'issue_date', 'net', c #> '{totals,net}',
                'tax', c #> '{totals,tax}', 'total', c #> '{totals,total}') END AS said
        FROM own_credit_notes n
        FULL JOIN (SELECT * FROM {documents} d WHERE kind = 'credit_note') d
            ON (d.org_id, d.document_id) = (n.org_id, n.credit_note_id)",
    },
    Rule {
        table: "own_credit_note_lines",
        rows: "
        SELECT format('%s, line %s', coalesce(l.credit_note_id, x.document_id),
                coalesce(l.line_number, x.line_number)) AS name,
            CASE WHEN l.credit_note_id IS NOT NULL THEN jsonb_build_object('invoice', l.invoice_id,
                'amount', l.amount, 'net', l.net, 'tax', l.tax) END AS stored,
            CASE WHEN x.document_id IS NOT NULL THEN jsonb_build_object('invoice', invoice,
                'amount', line -> 'amount', 'net', line -> 'net', 'tax', line -> 'tax') END AS said
        FROM own_credit_note_lines l
        FULL JOIN (SELECT d.org_id, d.document_id, c #> '{invoice,id}' AS invoice, line,
                       (line ->> 'number')::integer AS line_number
                   FROM {documents} d CROSS JOIN jsonb_array_elements(c -> 'lines') AS line
                   WHERE d.kind = 'credit_note') x
            ON (x.org_id, x.document_id, x.line_number) = (l.org_id, l.credit_note_id, l.line_number)",
    },
    // Each number was given once, to a document that there is.
    Rule {
        table: "issued_numbers",
        rows: "
        SELECT format('%s of %s', number, seller_id) AS name,
            CASE WHEN n.document_id IS NOT NULL
                THEN jsonb_build_object('org', n.org_id, 'document', n.document_id) END AS stored,
            CASE WHEN d.document_id IS NOT NULL
                THEN jsonb_build_object('org', d.org_id, 'document', d.document_id) END AS said
        FROM issued_numbers n FULL JOIN own_documents d USING (seller_id, number)",
    },
    Rule {
        table: "account_entries",
        rows: "
        SELECT coalesce(e.document_id, d.document_id) AS name,
            CASE WHEN e.document_id IS NOT NULL THEN jsonb_build_object('seller', e.seller_id,
                'currency', e.currency, 'amount', e.amount, 'occurred_at', e.occurred_at) END AS stored,
            CASE WHEN d.document_id IS NOT NULL THEN jsonb_build_object('seller', d.seller_id,
                'currency', c -> 'currency',
                'amount', (c #>> '{totals,total}')::bigint * CASE d.kind WHEN 'invoice' THEN 1 ELSE -1 END,
                'occurred_at', coalesce(i.finalized_at, n.created_at)) END AS said
        FROM (SELECT * FROM account_entries WHERE kind IN ('invoice', 'credit_note')) e
        FULL JOIN {documents} d ON (d.org_id, d.document_id, d.kind) = (e.org_id, e.document_id, e.kind)
        LEFT JOIN own_invoices i ON (i.org_id, i.invoice_id) = (d.org_id, d.document_id)
        LEFT JOIN own_credit_notes n ON (n.org_id, n.credit_note_id) = (d.org_id, d.document_id)",
    },
    // Money that came or went is booked as it is recorded, under the processor's reference.
    Rule {
        table: "own_payments, own_refunds",
        rows: "
        SELECT coalesce(p.id, e.document_id) AS name,
            CASE WHEN p.id IS NOT NULL THEN jsonb_build_object('kind', p.kind, 'seller', p.seller_id,
                'currency', p.currency, 'amount', p.amount, 'at', p.at, 'reference', p.reference) END
                AS stored,
            CASE WHEN e.document_id IS NOT NULL THEN jsonb_build_object('kind', e.kind,
                'seller', e.seller_id, 'currency', e.currency, 'amount', abs(e.amount),
                'at', e.occurred_at, 'reference', r.reference) END AS said
        FROM (SELECT org_id, payment_id AS id, 'payment' AS kind, seller_id, currency, amount, paid_at AS at,
                  jsonb_build_array(processor, reference) AS reference FROM own_payments
              UNION ALL SELECT r.org_id, r.refund_id, r.kind, p.seller_id, r.currency, r.amount,
                  r.refunded_at, CASE WHEN r.reference IS NOT NULL
                      THEN jsonb_build_array(p.processor, r.reference) END
              FROM own_refunds r JOIN own_payments p USING (org_id, payment_id)) p
        FULL JOIN (SELECT * FROM account_entries WHERE kind IN ('payment', 'refund', 'reversal')) e
            ON (e.org_id, e.document_id) = (p.org_id, p.id)
        LEFT JOIN (SELECT org_id, own_id, jsonb_build_array(processor, reference) AS reference
                   FROM payment_references) r ON (r.org_id, r.own_id) = (e.org_id, e.document_id)",
    },
];

/// Rules that no document tells: each query returns a sentence for each row that breaks its rule.
const FURTHER: [&str; 3] = [
    // A period that is charged is marked, so that no other invoice charges it. A void invoice, and one that
    // credit notes took back as a whole, charge nothing: another one may have the period.
    "SELECT format('invoiced_periods: %s, line %s: the %s from %s on is charged, but not marked as invoiced',
         l.invoice_id, l.line_number, w.what, l.period_start) AS line
     FROM own_invoice_lines l
     JOIN own_invoices i USING (org_id, invoice_id)
     CROSS JOIN LATERAL (SELECT CASE l.kind WHEN 'fee' THEN 'fee' ELSE 'usage' END AS what) w
     WHERE i.finalized_at IS NOT NULL AND i.voided_at IS NULL AND l.kind IN ('fee', 'usage', 'minimum')
         AND l.period_start IS NOT NULL
         AND NOT EXISTS (SELECT FROM invoiced_periods p
             WHERE p.org_id = l.org_id AND p.what = w.what AND p.currency = i.currency
                 AND p.period_start = l.period_start AND p.period_end = l.period_end
                 AND (p.invoice_id = l.invoice_id OR w.what = 'usage'))
         AND (l.kind <> 'fee' OR i.total > (SELECT coalesce(sum(n.total), -1) FROM own_credit_notes n
             WHERE (n.org_id, n.invoice_id) = (i.org_id, i.invoice_id)))
     ORDER BY l.invoice_id, l.line_number",
    "SELECT format('invoiced_periods: the %s from %s on of %s: invoice %s does not charge it', p.what,
         p.period_start, p.subscription_id, p.invoice_id) AS line
     FROM invoiced_periods p
     LEFT JOIN own_invoices i USING (org_id, invoice_id)
     WHERE p.invoice_id <> '' AND (i.invoice_id IS NULL
         OR p.what = 'fee' AND i.finalized_at IS NOT NULL AND NOT EXISTS (SELECT FROM own_invoice_lines l
             WHERE (l.org_id, l.invoice_id, l.kind) = (p.org_id, p.invoice_id, 'fee')
                 AND l.period_start = p.period_start))
     ORDER BY p.subscription_id, p.period_start",
    // An entry has the day on which it occurred; what occurred in a closed month has the day of its making,
    // and names the month.
    "SELECT format('account_entries: %s %s of %s: its day is %s, but it occurred on %s', e.kind, e.sequence,
         e.document_id, e.day, t.own) AS line
     FROM account_entries e
     JOIN sellers s USING (seller_id)
     CROSS JOIN LATERAL (SELECT coalesce(s.settings ->> 'time_zone', 'UTC') AS zone,
         CASE WHEN e.created_at < s.updated_at THEN 1 ELSE 0 END AS days) z
     CROSS JOIN LATERAL (SELECT (e.occurred_at AT TIME ZONE zone)::date AS own,
         (e.created_at AT TIME ZONE zone)::date AS made) t
     WHERE abs(e.day - t.own) > z.days
         AND NOT (e.belongs_to IS NOT NULL AND abs(e.day - t.made) <= z.days
             AND e.belongs_to IN (date_trunc('month', t.own - z.days)::date,
                 date_trunc('month', t.own + z.days)::date))
     ORDER BY e.org_id, e.currency, e.sequence",
];

/// One sentence for each row that is not what was issued; some for each rule, at most.
pub(super) fn differences(conn: &mut PgConnection) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for rule in &RULES {
        let rows = rule.rows.replace("{documents}", DOCUMENTS);
        found.extend(lines(
            conn,
            &format!(
                "SELECT format('{table}: %s: %s', r.name, CASE WHEN r.stored IS NULL THEN 'it is lost'
                     WHEN r.said IS NULL THEN 'nothing was issued or booked that says so'
                     ELSE d.fields END) AS line
                 FROM ({rows}) r
                 CROSS JOIN LATERAL (
                     SELECT string_agg(format('%s is %s instead of %s', key, s.value, c.value), ', '
                         ORDER BY key) AS fields
                     FROM jsonb_each(r.stored) s JOIN jsonb_each(r.said) c USING (key)
                     WHERE s.value IS DISTINCT FROM c.value) d
                 WHERE r.stored IS NULL OR r.said IS NULL OR d.fields IS NOT NULL ORDER BY r.name",
                table = rule.table,
            ),
        )?);
    }
    for rule in FURTHER {
        found.extend(lines(conn, rule)?);
    }
    Ok(found)
}
