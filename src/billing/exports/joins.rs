//! Joins that several kinds share. None adds rows.

/// SQL: the org `o` of a customer of `d`'s account and mode.
macro_rules! org_of {
    ($customer:literal) => {
        concat!(
            "
            LEFT JOIN stripe_customer_links k
                ON (k.account, k.livemode, k.customer_id) = (d.account, d.livemode, ",
            $customer,
            ")
            LEFT JOIN org_refs f ON f.ref = k.ref LEFT JOIN orgs o ON o.org_id = f.org_id"
        )
    };
}

/// SQL: the payment `p` that `d` gives back (of its intent, else of its charge), the payment's invoice `i`,
/// and the org `o`.
macro_rules! payment_and_org {
    () => {
        concat!(
            "
            LEFT JOIN payments p
                ON (p.account, p.livemode, p.id) = (d.account, d.livemode, coalesce(d.payment_intent_id,
                    (SELECT c.payment_intent_id FROM charges c
                     WHERE (c.account, c.livemode, c.id) = (d.account, d.livemode, d.charge_id)),
                    d.charge_id))
            LEFT JOIN invoices i
                ON (i.account, i.livemode, i.id) = (d.account, d.livemode, p.invoice_id)",
            org_of!("coalesce(p.customer_id, i.customer_id)")
        )
    };
}

/// SQL: the taxes `x` of a line `n` of `d`, summed up; nulls where nothing is known of them. A rate's
/// percentage is in the line, or in the rate itself.
macro_rules! taxes_of_line {
    () => {
        "
        CROSS JOIN LATERAL (
            SELECT CASE WHEN bool_and(coalesce(t.tax ->> 'percentage', r.percentage::text) IS NOT NULL)
                    THEN string_agg(
                        coalesce(t.tax ->> 'percentage', trim_scale(r.percentage)::text), '; '
                        ORDER BY t.place)
                END AS tax_percentages,
                CASE WHEN count(DISTINCT t.tax ->> 'taxable_amount') = 1
                        AND bool_and(t.tax ->> 'taxable_amount' IS NOT NULL)
                    THEN min((t.tax ->> 'taxable_amount')::bigint)
                END AS taxable_amount,
                CASE WHEN bool_and((t.tax ->> 'inclusive')::boolean) THEN 'inclusive'
                     WHEN NOT bool_or((t.tax ->> 'inclusive')::boolean) THEN 'exclusive'
                     WHEN bool_or((t.tax ->> 'inclusive')::boolean) THEN 'mixed'
                END AS tax_behavior,
                string_agg(DISTINCT t.tax ->> 'reason', '; ') AS taxability_reason,
                bool_or(t.tax ->> 'reason' = 'reverse_charge') AS reverse_charge
            FROM jsonb_array_elements(n.taxes) WITH ORDINALITY t (tax, place)
            LEFT JOIN tax_rates r
                ON (r.account, r.livemode, r.id) = (d.account, d.livemode, t.tax ->> 'rate_id')
        ) x"
    };
}
