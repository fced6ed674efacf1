//! The export of customers of our own: the billing profiles of orgs.

use std::sync::LazyLock;

use super::{NO_METADATA, Value, columns};
use crate::billing::acting_realms::acting_mode;
use crate::billing::exports::{BY_CREATED, Definition, Filters, Kind};

pub(super) static CUSTOMERS: LazyLock<Definition> = LazyLock::new(|| Definition {
    name: Kind::Customers.name(),
    columns: columns(Kind::Customers, VALUES),
    from: concat!(
        "(SELECT t.*, t.created_at AS created, p.public_id AS id, ''::text AS account, ",
        acting_mode!(),
        " AS livemode, t.terms ->> 'currency' AS currency
          FROM billing_profiles t JOIN orgs p ON p.org_id = t.org_id) d
        JOIN orgs o ON o.org_id = d.org_id"
    ),
    kept: "true",
    order: BY_CREATED,
    lines_of: None,
    filters: Filters { currency: Some("d.currency"), ..Filters::of_customer("NULL::text") },
});

pub(super) const VALUES: &[Value] = &[
    ("name", "(d.party ->> 'name')"),
    ("email", "(d.party ->> 'email')"),
    ("phone", "(d.party ->> 'phone')"),
    ("address_line1", "(d.party -> 'address' ->> 'line1')"),
    ("address_line2", "(d.party -> 'address' ->> 'line2')"),
    ("address_city", "(d.party -> 'address' ->> 'city')"),
    ("address_postal_code", "(d.party -> 'address' ->> 'postal_code')"),
    ("address_state", "(d.party -> 'address' ->> 'region')"),
    ("country", "(d.party -> 'address' ->> 'country')"),
    (
        "tax_ids",
        concat!(
            "(SELECT string_agg(concat_ws(' ', t.type, t.value), '; ' ORDER BY t.place) FROM ",
            tax_numbers!("d.party"),
            ")"
        ),
    ),
    (
        "tax_id_details",
        concat!(
            "(SELECT coalesce(jsonb_agg(jsonb_build_object('type', t.type, 'value', t.value,
                  'country', NULL, 'verification', NULL) ORDER BY t.place), '[]')::text FROM ",
            tax_numbers!("d.party"),
            ")"
        ),
    ),
    // What open invoices ask for is no balance: the export of invoices has it.
    (
        "balance",
        "(coalesce((SELECT a.balance FROM accounts a
              WHERE (a.org_id, a.currency) = (d.org_id, d.currency)), 0)
          - (SELECT coalesce(sum(i.total - i.amount_paid - i.amount_credited - i.amount_written_off), 0)
             FROM own_invoices i
             WHERE (i.org_id, i.currency) = (d.org_id, d.currency) AND i.status = 'open'))::bigint",
    ),
    ("created", "d.created"),
    ("deleted", "false"),
    ("metadata", NO_METADATA),
];
