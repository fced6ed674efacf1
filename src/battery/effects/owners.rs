//! A look at sources without locks: whose they are, and whether anything can come of them. Reads only.

use std::collections::BTreeSet;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable, Text};

use super::sources::bound;
use super::{Kind, SaleSource};
use crate::billing::acting_realms::acts;
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::realm::Realm;

/// Invoices `i` of `k`, and the orgs `r` that their customers are linked to.
macro_rules! invoices {
    () => {
        "FROM unnest(?, ?, ?) AS k (account, livemode, id)
         LEFT JOIN LATERAL (SELECT * FROM invoices i
             WHERE i.id = k.id AND i.account IS NOT DISTINCT FROM k.account
             AND i.livemode IS NOT DISTINCT FROM k.livemode AND NOT i.deleted OFFSET 0) i ON true
         LEFT JOIN LATERAL (SELECT l.ref FROM stripe_customer_links l
             WHERE l.account = k.account AND l.livemode = k.livemode
             AND l.customer_id = i.customer_id OFFSET 0) link ON true
         LEFT JOIN LATERAL (SELECT o.org_id FROM org_refs o WHERE o.ref = link.ref OFFSET 0) r ON true"
    };
}
pub(super) use invoices;

/// Intents `i` and sessions `s` of `k`, and the orgs `r` that they are for.
macro_rules! payments {
    () => {
        "FROM unnest(?, ?, ?, ?) AS k (account, livemode, kind, id)
         LEFT JOIN LATERAL (SELECT * FROM payment_intents i
             WHERE k.kind = 'payment_intent' AND i.account = k.account AND i.livemode = k.livemode
             AND i.id = k.id OFFSET 0) i ON true
         LEFT JOIN LATERAL (
            SELECT * FROM (
                SELECT x.* FROM checkout_sessions x
                WHERE k.kind = 'payment_intent' AND x.payment_intent_id = k.id
                    AND x.account IS NOT DISTINCT FROM k.account
                    AND x.livemode IS NOT DISTINCT FROM k.livemode
                UNION ALL
                SELECT x.* FROM checkout_sessions x
                WHERE k.kind = 'checkout_session' AND x.id = k.id AND x.account = k.account
                    AND x.livemode = k.livemode) x
            ORDER BY x.payment_status IN ('paid', 'no_payment_required') DESC NULLS LAST, x.created, x.id
            LIMIT 1) s ON true
         CROSS JOIN LATERAL (SELECT coalesce(s.customer_id, i.customer_id)) c (id)
         CROSS JOIN LATERAL (SELECT coalesce(nullif(s.client_reference_id, ''),
             nullif(s.metadata->>'org_id', ''), nullif(i.metadata->>'org_id', ''))) given (ref)
         LEFT JOIN LATERAL (SELECT y.ref FROM stripe_customer_links y
             WHERE y.account = k.account AND y.livemode = k.livemode AND y.customer_id = c.id OFFSET 0) l
             ON true
         LEFT JOIN LATERAL (SELECT o.org_id FROM org_refs o
             WHERE o.ref = coalesce(l.ref, given.ref) OFFSET 0) r ON true"
    };
}
pub(super) use payments;

/// What was done of the sources `k` before: the org `e` of their claims, what waits `w`.
macro_rules! done {
    ($kind:literal) => {
        concat!(
            " LEFT JOIN LATERAL (SELECT y.org_id FROM battery_effects y
                 WHERE y.source_id = k.id AND y.source_kind = ",
            $kind,
            " AND y.account = k.account AND y.livemode = k.livemode ORDER BY y.line LIMIT 1) e ON true
             LEFT JOIN LATERAL (SELECT true AS waits, min(y.assigned_org) AS org_id
                 FROM battery_effects_waiting y WHERE y.source_id = k.id AND y.source_kind = ",
            $kind,
            " AND y.account = k.account AND y.livemode = k.livemode HAVING count(*) > 0) w ON true"
        )
    };
}

/// Whether the metadata of `$of` names a pack or units.
macro_rules! opted_in {
    ($of:literal) => {
        concat!(
            "coalesce(",
            $of,
            ".metadata->'battery_pack', ",
            $of,
            ".metadata->'battery_units') IS NOT NULL"
        )
    };
}

type Types = (Text, Bool, Text, Text, Nullable<BigInt>, Bool, Bool);
type OwnerRow = (String, bool, String, String, Option<i64>, bool, bool);

// The org; whether something was paid, done or let wait, in a realm that acts or did; whether something comes
// of it also where nothing is sold.
statement!(Invoices -> Types: concat!(
    "SELECT k.account, k.livemode, 'invoice', k.id, coalesce(e.org_id, w.org_id, r.org_id),
            (coalesce(i.status = 'paid' OR s.paid, false) OR e.org_id IS NOT NULL OR w.waits IS NOT NULL)
                AND (e.org_id IS NOT NULL OR w.waits IS NOT NULL OR ", acts!("k"), "),
            e.org_id IS NOT NULL OR w.waits IS NOT NULL OR coalesce(s.named, false) ",
    invoices!(), done!("'invoice'"),
    " LEFT JOIN LATERAL (SELECT bool_or(y.payment_status = 'paid') AS paid,
         bool_or(", opted_in!("y"), ") AS named FROM checkout_sessions y
        WHERE y.invoice_id = k.id AND y.account IS NOT DISTINCT FROM k.account
            AND y.livemode IS NOT DISTINCT FROM k.livemode) s ON true"));
statement!(Payments -> Types: concat!(
    "SELECT k.account, k.livemode, k.kind, k.id, coalesce(e.org_id, w.org_id, r.org_id),
            (coalesce(s.payment_status IN ('paid', 'no_payment_required'), false)
                OR coalesce(i.status = 'succeeded', false)
                    AND (s.id IS NOT NULL
                    OR ", opted_in!("i"), ") OR \
                    e.org_id IS NOT NULL OR w.waits IS NOT NULL)
            AND (e.org_id IS NOT NULL OR w.waits IS NOT NULL OR ", acts!("k"), "),
            e.org_id IS NOT NULL OR w.waits IS NOT NULL OR ", opted_in!("s"), " OR ", opted_in!("i"), " ",
    payments!(), done!("k.kind")));

/// Sources of which something may come.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// They, in order.
    pub sources: Vec<SaleSource>,
    pub orgs: BTreeSet<i64>,
    /// Kinds of those that were left out as nothing is sold.
    pub skipped: BTreeSet<&'static str>,
}

/// Looks at these sources. `sells`: whether there is any plan or pack that could be bought.
pub(super) fn look(
    conn: &mut PgConnection,
    sources: &BTreeSet<SaleSource>,
    sells: bool,
) -> Result<Seen, Error> {
    let (invoices, payments): (Vec<&SaleSource>, Vec<&SaleSource>) =
        sources.iter().partition(|source| source.kind == Kind::Invoice);
    let mut rows: Vec<OwnerRow> = Vec::new();
    if !invoices.is_empty() {
        rows.extend(bound(Prepared::<Invoices>::new(), &invoices, false).load::<OwnerRow>(conn)?);
    }
    if !payments.is_empty() {
        rows.extend(bound(Prepared::<Payments>::new(), &payments, true).load::<OwnerRow>(conn)?);
    }
    let mut seen = Seen::default();
    for (account, livemode, kind, id, org_id, _, own) in rows.into_iter().filter(|row| row.5) {
        let kind = Kind::parse(&kind)?;
        if sells || own {
            seen.sources.push(SaleSource { realm: Realm { account, livemode }, kind, id });
            seen.orgs.extend(org_id);
        } else {
            seen.skipped.insert(if kind == Kind::Invoice { "invoice" } else { "checkout_session" });
        }
    }
    seen.sources.sort_unstable();
    Ok(seen)
}
