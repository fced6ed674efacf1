//! SQL that several steps share.

use diesel::sql_types::{Bool, Text};

use super::model::SaleSource;
use crate::db::prepared::{Prepared, StatementText as Statement};

/// Joins, to each row of `$of`, the rows `x` of `$table` for which `$by` is the row's id.
///
/// The planner must look each id up in the index on `$by`, also before it has statistics: `OFFSET 0` keeps it
/// at one look-up a row. `IS NOT DISTINCT FROM` keeps it from taking the index on the account, which is the
/// same for all rows.
macro_rules! each {
    ($of:literal, $table:literal, $by:literal) => {
        concat!(
            $of,
            "
             CROSS JOIN LATERAL (
                 SELECT y.*
                 FROM ",
            $table,
            " y
                 WHERE ",
            $by,
            " = ",
            $of,
            ".id
                     AND y.account IS NOT DISTINCT FROM ",
            $of,
            ".account
                     AND y.livemode IS NOT DISTINCT FROM ",
            $of,
            ".livemode
                 OFFSET 0) x"
        )
    };
}
pub(super) use each;

/// `FROM`: sources `k`, their invoices `i`, the links `link` of the customers, and the orgs `r` of the links.
macro_rules! from_invoices {
    () => {
        "FROM unnest(?, ?, ?) AS k (account, livemode, id)
         LEFT JOIN LATERAL (
             SELECT *
             FROM invoices i
             WHERE i.id = k.id
                 AND i.account IS NOT DISTINCT FROM k.account
                 AND i.livemode IS NOT DISTINCT FROM k.livemode
                 AND NOT i.deleted
             OFFSET 0) i ON true
         LEFT JOIN LATERAL (
             SELECT l.ref
             FROM stripe_customer_links l
             WHERE l.account = k.account
                 AND l.livemode = k.livemode
                 AND l.customer_id = i.customer_id
             OFFSET 0) link ON true
         LEFT JOIN LATERAL (
             SELECT o.org_id
             FROM org_refs o
             WHERE o.ref = link.ref
             OFFSET 0) r ON true"
    };
}
pub(super) use from_invoices;

/// `FROM`: sources `k`, their intents `i` and sessions `s`, the customers `c`, the links `l` of the
/// customers, the names `given` that the payments carry, and the orgs `r` of link or name.
macro_rules! from_payments {
    () => {
        "FROM unnest(?, ?, ?, ?) AS k (account, livemode, kind, id)
         LEFT JOIN LATERAL (
             SELECT *
             FROM payment_intents i
             WHERE k.kind = 'payment_intent'
                 AND i.account = k.account
                 AND i.livemode = k.livemode
                 AND i.id = k.id
             OFFSET 0) i ON true
         LEFT JOIN LATERAL (
             SELECT *
             FROM (
                 SELECT x.*
                 FROM checkout_sessions x
                 WHERE k.kind = 'payment_intent'
                     AND x.payment_intent_id = k.id
                     AND x.account IS NOT DISTINCT FROM k.account
                     AND x.livemode IS NOT DISTINCT FROM k.livemode
                 UNION ALL
                 SELECT x.*
                 FROM checkout_sessions x
                 WHERE k.kind = 'checkout_session'
                     AND x.id = k.id
                     AND x.account = k.account
                     AND x.livemode = k.livemode) x
             ORDER BY x.payment_status IN ('paid', 'no_payment_required') DESC NULLS LAST, x.created, x.id
             LIMIT 1) s ON true
         CROSS JOIN LATERAL (SELECT coalesce(s.customer_id, i.customer_id)) c (id)
         CROSS JOIN LATERAL (
             SELECT coalesce(
                 nullif(s.client_reference_id, ''),
                 nullif(s.metadata->>'org_id', ''),
                 nullif(i.metadata->>'org_id', ''))) given (ref)
         LEFT JOIN LATERAL (
             SELECT y.ref
             FROM stripe_customer_links y
             WHERE y.account = k.account
                 AND y.livemode = k.livemode
                 AND y.customer_id = c.id
             OFFSET 0) l ON true
         LEFT JOIN LATERAL (
             SELECT o.org_id
             FROM org_refs o
             WHERE o.ref = coalesce(l.ref, given.ref)
             OFFSET 0) r ON true"
    };
}
pub(super) use from_payments;

/// Binds sources as the columns account, livemode, kind, id.
pub(super) fn bind_sources<'a, Q: Statement>(
    statement: Prepared<'a, Q>,
    sources: &[&'a SaleSource],
) -> Prepared<'a, Q> {
    statement
        .bind::<Text, _>(sources.iter().map(|source| &*source.realm.account).collect::<Vec<_>>())
        .bind::<Bool, _>(sources.iter().map(|source| source.realm.livemode).collect::<Vec<_>>())
        .bind::<Text, _>(sources.iter().map(|source| source.kind.name()).collect::<Vec<_>>())
        .bind::<Text, _>(sources.iter().map(|source| &*source.id).collect::<Vec<_>>())
}

/// Binds sources of one kind as the columns account, livemode, id.
pub(super) fn bind_sources_of_one_kind<'a, Q: Statement>(
    statement: Prepared<'a, Q>,
    sources: &[&'a SaleSource],
) -> Prepared<'a, Q> {
    statement
        .bind::<Text, _>(sources.iter().map(|source| &*source.realm.account).collect::<Vec<_>>())
        .bind::<Bool, _>(sources.iter().map(|source| source.realm.livemode).collect::<Vec<_>>())
        .bind::<Text, _>(sources.iter().map(|source| &*source.id).collect::<Vec<_>>())
}
