//! What finance can export of our own objects: for each kind the columns of Stripe's objects, with SQL over
//! our own tables.
//!
//! A column that our own objects do not have is null. All amounts of a kind mean the same for both origins,
//! so the control totals sum them up together.

#[macro_use]
mod joins;
mod credit_notes;
mod customers;
mod invoices;
mod lines;
mod payments;

use crate::billing::exports::{Column, Definition, Kind, Type};

/// The rows of a kind of our own; `None`: we have none.
#[must_use]
pub fn definition(kind: Kind) -> Option<&'static Definition> {
    match kind {
        Kind::Invoices => Some(&invoices::INVOICES),
        Kind::Lines => Some(&lines::LINES),
        Kind::Payments => Some(&payments::PAYMENTS),
        Kind::Refunds => Some(&payments::REFUNDS),
        Kind::CreditNotes => Some(&credit_notes::CREDIT_NOTES),
        Kind::CreditNoteLines => Some(&credit_notes::CREDIT_NOTE_LINES),
        Kind::Customers => Some(&customers::CUSTOMERS),
        Kind::Disputes => None,
    }
}

/// A column's name, and its SQL over our own rows.
type Value = (&'static str, &'static str);

/// What all kinds have.
const COMMON: [Value; 8] = [
    ("org_id", "o.public_id"),
    ("org_external_id", "o.external_id"),
    ("org_name", "o.name"),
    ("account", "d.account"),
    ("livemode", "d.livemode"),
    ("id", "d.id"),
    ("currency", "d.currency"),
    ("origin", "'own'::text"),
];

/// SQL of an object without metadata.
const NO_METADATA: &str = "'{}'::text";

/// The columns of a kind, made of these values, else of [`COMMON`], else null. Amounts in major units have
/// the SQL of their twins.
fn columns(of: Kind, values: &[Value]) -> &'static [Column] {
    let sql_of = |name: &str| {
        let known = values.iter().chain(&COMMON).find(|(known, _)| *known == name);
        known.map(|(_, sql)| *sql)
    };
    let own = |column: &Column| {
        let name = column.name.strip_suffix("_major").unwrap_or(column.name);
        Column { sql: sql_of(name).unwrap_or(none(column.holds)), ..*column }
    };
    Vec::leak(of.columns().iter().map(own).collect())
}

/// SQL of a missing value.
fn none(holds: Type) -> &'static str {
    match holds {
        Type::Text | Type::Decimal | Type::Json => "NULL::text",
        Type::Integer | Type::Amount | Type::Major => "NULL::bigint",
        Type::Boolean => "NULL::boolean",
        Type::Time => "NULL::timestamptz",
        Type::Day => "NULL::date",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_origins_have_the_same_columns_and_filters() {
        for kind in Kind::ALL {
            let Some(own) = definition(kind) else { continue };
            let stripe = kind.definition();
            let shape = |of: &Definition| {
                let column = |column: &Column| (column.name, column.holds, column.summed);
                of.columns.iter().map(column).collect::<Vec<_>>()
            };
            assert_eq!(shape(own), shape(stripe), "{}", kind.name());
            assert_eq!(stripe.columns.last().map(|column| column.name), Some("origin"));
            assert_eq!((own.name, own.lines_of), (stripe.name, stripe.lines_of));
            let applies = |of: &Definition| {
                let has = &of.filters;
                let filters = [
                    has.currency,
                    has.subscription,
                    has.number,
                    has.issued,
                    has.paid,
                    has.due,
                    has.overdue,
                    has.void,
                ];
                (filters.map(|filter| filter.is_some()), has.statuses)
            };
            assert_eq!(applies(own), applies(stripe), "{}", kind.name());
        }
    }

    #[test]
    fn a_value_is_of_a_column() {
        for (kind, values) in [
            (Kind::Invoices, invoices::VALUES),
            (Kind::Lines, lines::VALUES),
            (Kind::Payments, payments::PAYMENT_VALUES),
            (Kind::Refunds, payments::REFUND_VALUES),
            (Kind::CreditNotes, credit_notes::VALUES),
            (Kind::CreditNoteLines, credit_notes::LINE_VALUES),
            (Kind::Customers, customers::VALUES),
        ] {
            for (index, (name, _)) in values.iter().enumerate() {
                assert!(kind.columns().iter().any(|column| column.name == *name), "{} {name}", kind.name());
                assert!(values[..index].iter().all(|(known, _)| known != name), "{} {name}", kind.name());
            }
        }
    }
}
