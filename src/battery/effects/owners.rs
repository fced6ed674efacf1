//! Step 2, sources → owners: the orgs whose batteries the sources may change, so that they can be locked. A
//! source that can do nothing is left out. Reads only, without locks; step 3 reads everything again.

use std::collections::BTreeSet;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable, Text};

use super::model::{SaleSource, SourceKind};
use super::sql::{bind_sources, bind_sources_of_one_kind, from_invoices, from_payments};
use crate::billing::trust::acts;
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;

/// Joins what the sources `k` did before: the org of their first effect as `e`, and their waiting lines as
/// `w`.
macro_rules! done_before {
    ($kind:literal) => {
        concat!(
            "
             LEFT JOIN LATERAL (
                 SELECT y.org_id
                 FROM battery_effects y
                 WHERE y.source_id = k.id
                     AND y.source_kind = ",
            $kind,
            "
                     AND y.account = k.account
                     AND y.livemode = k.livemode
                 ORDER BY y.line
                 LIMIT 1) e ON true
             LEFT JOIN LATERAL (
                 SELECT true AS waits, min(y.assigned_org) AS org_id
                 FROM battery_effects_waiting y
                 WHERE y.source_id = k.id
                     AND y.source_kind = ",
            $kind,
            "
                     AND y.account = k.account
                     AND y.livemode = k.livemode
                 HAVING count(*) > 0) w ON true"
        )
    };
}

/// Whether the metadata of `$of` names a pack or units.
macro_rules! is_opted_in {
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

/// The source, its org, whether it can do something, and whether it can do so even if nothing is sold here.
/// It can if it did something before, or waits, or is paid in a realm that acts.
type OwnerTypes = (Text, Bool, Text, Text, Nullable<BigInt>, Bool, Bool);
type OwnerRow = (String, bool, String, String, Option<i64>, bool, bool);

statement!(InvoiceOwners -> OwnerTypes: concat!(
    "SELECT k.account, k.livemode, 'invoice', k.id,
         coalesce(e.org_id, w.org_id, r.org_id),
         (coalesce(i.status = 'paid' OR s.paid, false)
                 OR e.org_id IS NOT NULL
                 OR w.waits IS NOT NULL)
             AND (e.org_id IS NOT NULL
                 OR w.waits IS NOT NULL
                 OR ", acts!("k"), "),
         e.org_id IS NOT NULL
             OR w.waits IS NOT NULL
             OR coalesce(s.named, false)
     ", from_invoices!(), done_before!("'invoice'"), "
     LEFT JOIN LATERAL (
         SELECT bool_or(y.payment_status = 'paid') AS paid,
             bool_or(", is_opted_in!("y"), ") AS named
         FROM checkout_sessions y
         WHERE y.invoice_id = k.id
             AND y.account IS NOT DISTINCT FROM k.account
             AND y.livemode IS NOT DISTINCT FROM k.livemode) s ON true"));

statement!(PaymentOwners -> OwnerTypes: concat!(
    "SELECT k.account, k.livemode, k.kind, k.id,
         coalesce(e.org_id, w.org_id, r.org_id),
         (coalesce(s.payment_status IN ('paid', 'no_payment_required'), false)
                 OR coalesce(i.status = 'succeeded', false)
                     AND (s.id IS NOT NULL OR ", is_opted_in!("i"), ")
                 OR e.org_id IS NOT NULL
                 OR w.waits IS NOT NULL)
             AND (e.org_id IS NOT NULL
                 OR w.waits IS NOT NULL
                 OR ", acts!("k"), "),
         e.org_id IS NOT NULL
             OR w.waits IS NOT NULL
             OR ", is_opted_in!("s"), "
             OR ", is_opted_in!("i"), "
     ", from_payments!(), done_before!("k.kind")));

/// Sources that can do something, and the orgs that own them.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// In order, also those without an org.
    pub(super) sources: Vec<SaleSource>,
    pub(super) orgs: BTreeSet<i64>,
    /// Kinds of the sources that were left out because nothing is sold here.
    pub(super) skipped: BTreeSet<&'static str>,
}

/// Finds the owners of these sources. `sells`: whether there is any plan or pack that a payment could buy.
pub(super) fn find(
    conn: &mut PgConnection,
    sources: &BTreeSet<SaleSource>,
    sells: bool,
) -> Result<Owners, Error> {
    let (invoices, payments): (Vec<&SaleSource>, Vec<&SaleSource>) =
        sources.iter().partition(|source| source.kind == SourceKind::Invoice);
    let mut rows: Vec<OwnerRow> = Vec::new();
    if !invoices.is_empty() {
        let statement = Prepared::<InvoiceOwners>::new();
        rows.extend(bind_sources_of_one_kind(statement, &invoices).load::<OwnerRow>(conn)?);
    }
    if !payments.is_empty() {
        rows.extend(bind_sources(Prepared::<PaymentOwners>::new(), &payments).load::<OwnerRow>(conn)?);
    }
    let mut owners = Owners::default();
    for (account, livemode, kind, id, org_id, can_do, can_do_unsold) in rows {
        let source = SaleSource::from_columns(account, livemode, &kind, id)?;
        if can_do && (sells || can_do_unsold) {
            owners.sources.push(source);
            owners.orgs.extend(org_id);
        } else if can_do {
            let is_invoice = source.kind == SourceKind::Invoice;
            owners.skipped.insert(if is_invoice { "invoice" } else { "checkout_session" });
        }
    }
    owners.sources.sort_unstable();
    Ok(owners)
}
