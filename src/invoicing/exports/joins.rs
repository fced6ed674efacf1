//! SQL that several kinds share. No join adds rows.

/// SQL: rows `d` of one of our own tables with the columns that mirrors have, and their org `o`. `$more`:
/// further columns over `t`.
macro_rules! rows_of {
    ($table:literal, $id:literal, $more:literal) => {
        concat!(
            "(SELECT t.*, t.created_at AS created, t.",
            $id,
            " AS id, ''::text AS account, ",
            crate::billing::acting_realms::acting_mode!(),
            " AS livemode",
            $more,
            " FROM ",
            $table,
            " t) d
            JOIN orgs o ON o.org_id = d.org_id"
        )
    };
}

/// SQL: the invoices `x` that the payment `$payment` of `d` pays, as `$standing` says; `invoice_id` only if
/// there is one.
macro_rules! invoices_of_payment {
    ($payment:literal, $standing:literal) => {
        concat!(
            "
            CROSS JOIN LATERAL (
                SELECT CASE WHEN count(*) = 1 THEN min(s.invoice_id) END AS invoice_id,
                    string_agg(s.number, '; ' ORDER BY s.number) AS invoice_number,
                    array_agg(s.number) AS numbers, array_agg(s.subscription_id) AS subscriptions
                FROM (
                    SELECT i.invoice_id, i.number, i.subscription_id
                    FROM account_entries c
                    JOIN account_allocations a
                        ON (a.org_id, a.currency, a.credit_sequence) = (c.org_id, c.currency, c.sequence)
                    JOIN account_entries e
                        ON (e.org_id, e.currency, e.sequence) = (a.org_id, a.currency, a.debit_sequence)
                    JOIN own_invoices i ON (i.org_id, i.invoice_id) = (e.org_id, e.document_id)
                    WHERE (c.org_id, c.document_id) = (d.org_id, ",
            $payment,
            ") AND c.kind = 'payment' AND e.kind = 'invoice'
                    GROUP BY i.org_id, i.invoice_id ",
            $standing,
            "
                ) s
            ) x"
        )
    };
}

/// SQL: the tax numbers of a party, each with its type, as rows `t (place, type, value)`.
macro_rules! tax_numbers {
    ($party:literal) => {
        concat!(
            "(SELECT * FROM (VALUES (1, 'vat_id', ",
            $party,
            " ->> 'vat_id'), (2, 'tax_number', ",
            $party,
            " ->> 'tax_number')) v (place, type, value) WHERE v.value IS NOT NULL) t"
        )
    };
}

/// SQL: why a category of tax (UNTDID 5305) is taxed so, in Stripe's words where it has one.
macro_rules! reason_of {
    ($category:literal) => {
        concat!(
            "CASE ",
            $category,
            " WHEN 'S' THEN 'standard_rated' WHEN 'Z' THEN 'zero_rated' WHEN 'E' THEN 'exempt'
                WHEN 'AE' THEN 'reverse_charge' WHEN 'K' THEN 'intra_community' WHEN 'G' THEN 'export'
                WHEN 'O' THEN 'not_subject_to_tax' END"
        )
    };
}
