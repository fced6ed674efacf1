//! Money that was returned: refunds, disputes, credit notes, and what charges report as refunded.

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Jsonb, Text};

use super::{DocumentRow, parse_documents};
use crate::battery::effects::model::SaleSource;
use crate::battery::effects::model::facts::ReturnedMoney;
use crate::battery::effects::sql::{bind_sources, each};
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;

/// SQL: the rows of `$table` about the payments `n`, as `$document`.
macro_rules! returned_by {
    ($cause:literal, $table:literal, $by:literal, $document:expr) => {
        concat!(
            "
        SELECT n.account, n.livemode, n.kind, n.source, '",
            $cause,
            "' AS cause, x.id, x.created,
            ",
            $document,
            " AS doc
        FROM ",
            each!("n", $table, $by)
        )
    };
}

macro_rules! refund_json {
    () => {
        "jsonb_build_object(
                'amount', x.amount,
                'status', x.status)"
    };
}

macro_rules! dispute_json {
    () => {
        "jsonb_build_object(
                'amount', x.amount,
                'status', x.status,
                'currency', x.currency,
                'funds_withdrawn', x.funds_withdrawn,
                'funds_currency', x.funds_currency)"
    };
}

type ReturnedTypes = (Text, Bool, Text, Text, Jsonb);

// `k`: the sources. `paid`: the intents and charges that paid them. `n`: those with the charges of the
// intents, as a refund names its intent or its charge alone, and a charge belongs to an intent or stands
// alone. A charge counts for what it reports beyond its mirrored refunds.
statement!(Returned -> ReturnedTypes: concat!(
    "WITH k AS MATERIALIZED (
        SELECT *
        FROM unnest(?, ?, ?, ?) AS k (account, livemode, kind, id)),
     paid AS MATERIALIZED (
        SELECT account, livemode, kind, id AS source, id
        FROM k
        WHERE kind = 'payment_intent'
        UNION
        SELECT k.account, k.livemode, k.kind, k.id, x.id
        FROM ", each!("k", "payments", "y.invoice_id"), "
        WHERE k.kind = 'invoice'
        UNION
        SELECT k.account, k.livemode, k.kind, k.id, coalesce(x.payment_intent_id, x.charge_id)
        FROM ", each!("k", "invoice_payments", "y.invoice_id"), "
        WHERE k.kind = 'invoice'
        UNION
        SELECT k.account, k.livemode, k.kind, k.id, coalesce(x.payment_intent_id, x.charge_id)
        FROM ", each!("k", "invoices", "y.id"), "
        WHERE k.kind = 'invoice'
        UNION
        SELECT k.account, k.livemode, k.kind, k.id, x.payment_intent_id
        FROM ", each!("k", "checkout_sessions", "y.invoice_id"), "
        WHERE k.kind = 'invoice'),
     n AS MATERIALIZED (
        SELECT *
        FROM paid
        WHERE id IS NOT NULL
        UNION
        SELECT paid.account, paid.livemode, paid.kind, paid.source, x.id
        FROM ", each!("paid", "charges", "coalesce(y.payment_intent_id, y.id)"), "),
     causes AS (",
        returned_by!("refund", "refunds", "y.payment_intent_id", refund_json!()), "
        UNION",
        returned_by!("refund", "refunds", "y.charge_id", refund_json!()), "
        UNION",
        returned_by!("dispute", "disputes", "y.payment_intent_id", dispute_json!()), "
        UNION",
        returned_by!("dispute", "disputes", "y.charge_id", dispute_json!()), "
        UNION
        SELECT n.account, n.livemode, n.kind, n.source, 'charge', x.id, x.created,
            jsonb_build_object('amount', greatest(0, x.amount_refunded
                - (
                    SELECT coalesce(sum(r.amount), 0)
                    FROM (
                        SELECT y.*
                        FROM refunds y
                        WHERE y.charge_id = x.id
                            AND y.account IS NOT DISTINCT FROM x.account
                            AND y.livemode IS NOT DISTINCT FROM x.livemode
                        OFFSET 0) r)
                - (
                    SELECT coalesce(sum(r.amount), 0)
                    FROM (
                        SELECT y.*
                        FROM refunds y
                        WHERE y.payment_intent_id = x.payment_intent_id
                            AND y.charge_id IS NULL
                            AND y.account IS NOT DISTINCT FROM x.account
                            AND y.livemode IS NOT DISTINCT FROM x.livemode
                        OFFSET 0) r)))
        FROM ", each!("n", "charges", "y.id"), "
        WHERE x.amount_refunded > 0
        UNION
        SELECT k.account, k.livemode, k.kind, k.id, 'credit_note', x.id, x.created,
            jsonb_build_object(
                'amount', coalesce(x.total, x.amount),
                'status', x.status,
                'type', x.type,
                'out_of_band', x.out_of_band_amount,
                'refunds', jsonb_array_length(x.refund_ids),
                'after', x.post_payment_amount,
                'refunded', x.refund_amount,
                'known', (
                    SELECT coalesce(sum(y.amount), 0)
                    FROM jsonb_array_elements_text(x.refund_ids) r (id)
                    JOIN refunds y ON y.account = x.account
                        AND y.livemode = x.livemode
                        AND y.id = r.id))
        FROM ", each!("k", "credit_notes", "y.invoice_id"), "
        WHERE k.kind = 'invoice')
     SELECT account, livemode, kind, source,
         jsonb_agg(doc || jsonb_build_object('cause', cause, 'id', id, 'created', created))
     FROM causes
     GROUP BY 1, 2, 3, 4"));

/// What was returned of these sources, in no order.
pub(super) fn load(
    conn: &mut PgConnection,
    sources: &[&SaleSource],
) -> Result<Vec<(SaleSource, Vec<ReturnedMoney>)>, Error> {
    if sources.is_empty() {
        return Ok(Vec::new());
    }
    parse_documents(bind_sources(Prepared::<Returned>::new(), sources).load::<DocumentRow>(conn)?)
}
