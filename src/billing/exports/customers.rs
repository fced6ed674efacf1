//! The export of customers.

use super::columns::{
    ACCOUNT, Column, LIVEMODE, METADATA, ORG_EXTERNAL_ID, ORG_ID, ORG_NAME, ORIGIN, Type, boolean, column,
    major, summed, text, time,
};
use super::{BY_CREATED, Definition, Filters};

pub(super) static CUSTOMERS: Definition = Definition {
    name: "customers",
    columns: CUSTOMER_COLUMNS,
    from: concat!("customers d", org_of!("d.id")),
    kept: "true",
    order: BY_CREATED,
    lines_of: None,
    filters: Filters { currency: Some("d.currency"), ..Filters::of_customer("d.id") },
};

const CUSTOMER_COLUMNS: &[Column] = &[
    ORG_ID,
    ORG_EXTERNAL_ID,
    ORG_NAME,
    ACCOUNT,
    LIVEMODE,
    text("id", "d.id", "Stripe's id (`cus_…`); of our own that of the org (`org_…`)"),
    text("name", "d.name", "Full name, or name of the business"),
    text("email", "d.email", "E-mail address"),
    text("phone", "d.phone", "Phone number"),
    text("address_line1", "(d.address ->> 'line1')", "Street, or post office box"),
    text("address_line2", "(d.address ->> 'line2')", "Flat, floor, building"),
    text("address_city", "(d.address ->> 'city')", "Town"),
    text("address_postal_code", "(d.address ->> 'postal_code')", "Postal code"),
    text("address_state", "(d.address ->> 'state')", "State, county or province"),
    text("country", "d.country", "Two letters (ISO 3166-1)"),
    text(
        "tax_ids",
        "(SELECT string_agg(concat_ws(' ', t.type, t.value), '; ' ORDER BY t.created, t.id) \
             FROM customer_tax_ids t \
             WHERE (t.account, t.livemode, t.customer_id) = (d.account, d.livemode, d.id) AND NOT t.deleted)",
        "All tax ids, each with its type: `eu_vat DE123456789; …`; of our own `vat_id`, `tax_number`",
    ),
    column(
        Type::Json,
        "tax_id_details",
        "(SELECT coalesce(jsonb_agg(jsonb_build_object('type', t.type, 'value', t.value, \
                 'country', t.country, 'verification', t.verification_status) \
                 ORDER BY t.created, t.id), '[]') \
             FROM customer_tax_ids t \
             WHERE (t.account, t.livemode, t.customer_id) = (d.account, d.livemode, d.id) \
                 AND NOT t.deleted)::text",
        "The same, a list of `{type, value, country, verification}`",
    ),
    text("tax_exempt", "d.tax_exempt", "none, exempt, or reverse: the customer owes the tax"),
    boolean("reverse_charge", "(d.tax_exempt = 'reverse')", "Whether `tax_exempt` is reverse"),
    text("currency", "d.currency", "Currency that the customer is charged in, lower case; empty until then"),
    summed(
        "balance",
        "d.balance",
        "Balance without what invoices ask for: below zero it is credit for the next invoice",
    ),
    major("balance_major", "d.balance", "`balance`"),
    boolean("delinquent", "d.delinquent", "Whether the latest charge or invoice failed"),
    time("created", "d.created", "When it was made"),
    boolean("deleted", "d.deleted", "Whether it was deleted at Stripe"),
    text("description", "d.description", "Text of the account's staff"),
    METADATA,
    ORIGIN,
];
