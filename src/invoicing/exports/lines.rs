//! The export of the lines of our own invoices.

use std::sync::LazyLock;

use super::{NO_METADATA, Value, columns, invoices};
use crate::billing::exports::{Definition, Filters, Kind};

/// SQL: minor units of a major unit of `d`'s currency, as [`crate::money::decimal_places`] says. The decimal
/// places make PostgreSQL divide to 12 places.
macro_rules! minor_units {
    () => {
        "CASE WHEN d.currency IN ('bif', 'clp', 'djf', 'gnf', 'jpy', 'kmf', 'krw', 'mga', 'pyg', 'rwf',
                 'vnd', 'vuv', 'xaf', 'xof', 'xpf') THEN 1.000000000000
             WHEN d.currency IN ('bhd', 'jod', 'kwd', 'omr', 'tnd') THEN 1000.000000000000
             ELSE 100.000000000000 END"
    };
}

/// SQL: whether a line's price contains the tax: then its net amount differs.
macro_rules! inclusive {
    () => {
        "(n.amount <> n.net)"
    };
}

/// SQL: what the tax of a line is computed of.
macro_rules! taxable_amount {
    () => {
        concat!("(n.amount - n.discount - CASE WHEN ", inclusive!(), " THEN n.tax ELSE 0 END)")
    };
}

pub(super) static LINES: LazyLock<Definition> = LazyLock::new(|| Definition {
    name: Kind::Lines.name(),
    columns: columns(Kind::Lines, VALUES),
    from: concat!(
        rows_of!("own_invoices", "invoice_id", ""),
        "
        JOIN own_invoice_lines n ON (n.org_id, n.invoice_id) = (d.org_id, d.id)"
    ),
    kept: "true",
    order: "d.created, d.id, d.account, d.livemode, (n.line_number - 1)",
    lines_of: Some(Kind::Invoices),
    filters: Filters { ..invoices::FILTERS },
});

pub(super) const VALUES: &[Value] = &[
    ("invoice_id", "d.id"),
    ("line_number", "(n.line_number - 1)::bigint"),
    // A line has no id of its own.
    ("id", "NULL::text"),
    ("invoice_number", "d.number"),
    ("invoice_status", "d.status"),
    ("type", "CASE n.kind WHEN 'fee' THEN 'subscription' ELSE 'invoiceitem' END"),
    ("description", "n.description"),
    (
        "quantity",
        "CASE WHEN n.quantity = trunc(n.quantity) AND abs(n.quantity) < 1e18 THEN n.quantity::bigint END",
    ),
    (
        "unit_amount_decimal",
        concat!("trim_scale(round(n.unit_price * ", minor_units!(), " / n.base_quantity, 12))::text"),
    ),
    ("amount", "n.amount"),
    ("discount_amount", "n.discount"),
    ("tax_amount", "n.tax"),
    ("period_start", "n.period_start"),
    ("period_end", "n.period_end"),
    ("subscription_id", "CASE n.kind WHEN 'fee' THEN d.subscription_id END"),
    ("proration", "(n.kind = 'proration')"),
    ("invoice_created", "d.created"),
    ("invoice_finalized_at", "d.finalized_at"),
    ("invoice_paid_at", "d.paid_at"),
    ("invoice_lines_complete", "true"),
    ("metadata", NO_METADATA),
    ("tax_percentages", "trim_scale(n.tax_percent)::text"),
    ("taxable_amount", taxable_amount!()),
    ("tax_behavior", concat!("CASE WHEN ", inclusive!(), " THEN 'inclusive' ELSE 'exclusive' END")),
    ("taxability_reason", reason_of!("n.tax_category")),
    ("reverse_charge", "(n.tax_category = 'AE')"),
    (
        "taxes",
        concat!(
            "jsonb_build_array(jsonb_build_object('amount', n.tax, 'taxable_amount', ",
            taxable_amount!(),
            ", 'inclusive', ",
            inclusive!(),
            ", 'reason', ",
            reason_of!("n.tax_category"),
            ", 'rate_id', n.tax_rate_id, 'percentage', trim_scale(n.tax_percent)::text))::text"
        ),
    ),
];

#[cfg(test)]
mod tests {
    use crate::money::decimal_places;

    #[test]
    fn the_sql_knows_the_places_of_every_currency() {
        let (zero, rest) = minor_units!().split_once("1.0").expect("two lists");
        let letters = || 'a'..='z';
        let codes = letters().flat_map(|a| letters().flat_map(move |b| letters().map(move |c| [a, b, c])));
        for code in codes.map(String::from_iter) {
            let quoted = format!("'{code}'");
            let places = match (zero.contains(&quoted), rest.contains(&quoted)) {
                (true, _) => 0,
                (false, true) => 3,
                (false, false) => 2,
            };
            assert_eq!(places, decimal_places(&code), "{code}");
        }
    }
}
