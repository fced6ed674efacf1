//! The export of batteries: columns, tables and order of its rows. A row is a ledger entry.
//!
//! `docs/exports.md` and the API's description are made from this file.

use crate::billing::exports::{Column, Type, column, text};

/// The name of the export on the wire.
pub const NAME: &str = "battery";

/// The columns of a row, in order.
pub const COLUMNS: &[Column] = &[
    text("org_id", "o.public_id", "The org (`org_…`)"),
    text("org_external_id", "o.external_id", "The org's id in your own systems"),
    column(Type::Integer, "sequence", "d.sequence", "1, 2, 3, … for each org, without gaps"),
    column(Type::Time, "at", "d.at", "When; never before the entry before it"),
    text("kind", "d.kind", "grant, usage, expiry, clawback, refund, bonus or adjustment"),
    Column {
        summed: true,
        ..column(
            Type::Decimal,
            "amount",
            "trim_scale(d.amount)::text",
            "Units; below zero they leave the battery",
        )
    },
    column(
        Type::Decimal,
        "balance_after",
        "trim_scale(d.balance_after)::text",
        "What the battery holds after it; below zero it is debt",
    ),
    text("source", "d.source", "What caused it: the source of a grant, or usage, refund, dispute, …"),
    text("grant_id", "g.grant_id", "The grant that it makes, takes from or ends (`grt_…`)"),
    column(
        Type::Json,
        "draws",
        "(SELECT coalesce(jsonb_agg(jsonb_build_object('grant', w.grant_id, 'units', x.draw ->> 1)
             ORDER BY x.place), '[]')
          FROM jsonb_array_elements(d.draws) WITH ORDINALITY AS x (draw, place)
          JOIN battery_grants w ON (w.org_id, w.grant_number) = (d.org_id, (x.draw ->> 0)::bigint))::text",
        "What the grants lost by it, a list of `{grant, units}`; below zero they got it back",
    ),
    text("batch", "d.batch::text", "The usage that it burns: `battery_batch` of its usage records"),
    text("link_object", "d.link ->> 'object'", "Kind of the object that it comes from, such as invoice"),
    text("link_id", "d.link ->> 'id'", "Id of that object"),
    text("reason", "d.reason", "Why, where a person made it"),
    text("actor", "d.actor", "Who made it"),
    text("org_name", "o.name", "The org's name"),
];

/// SQL: `FROM …`. Each join finds at most one row.
pub const FROM: &str = "battery_entries d JOIN orgs o ON o.org_id = d.org_id
     LEFT JOIN battery_grants g ON (g.org_id, g.grant_number) = (d.org_id, d.grant_number)";

/// SQL: the order of the rows. It is that of the primary key, so no sort is needed, and no two rows are
/// equal.
pub const ORDER: &str = "d.org_id, d.sequence";
