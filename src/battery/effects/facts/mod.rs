//! Step 3, sources → facts: reads, once, what the mirrors, the catalogue and earlier effects say now. The
//! accounts of the owners are locked. Reads only.
//!
//! Each file of this folder holds one statement. It returns one JSON object a source, whose names are the
//! fields of [`Facts`].

mod effects;
mod invoices;
mod payments;
mod returned;

use std::collections::BTreeMap;

use diesel::pg::PgConnection;
use diesel::sql_types::{Bool, Json, Text};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::model::{Facts, SaleSource, SourceKind};
use crate::error::Error;

/// A source and a JSON object about it. Not `Jsonb`: PostgreSQL would parse and build it again for each
/// object within another.
type DocumentTypes = (Text, Bool, Text, Text, Json);
type DocumentRow = (String, bool, String, String, Value);

/// Reads these sources, and the invoices of the same org that may have sold the same periods.
pub(crate) fn load(
    conn: &mut PgConnection,
    sources: &[SaleSource],
) -> Result<BTreeMap<SaleSource, Facts>, Error> {
    let mut facts = load_sources(conn, sources)?;
    loop {
        let competing: BTreeMap<SaleSource, i64> = facts
            .iter()
            .filter_map(|(source, own)| Some((source, own, own.org()?)))
            .flat_map(|(source, own, org)| {
                let invoice = |id: &String| SaleSource { id: id.clone(), ..source.clone() };
                own.competing_invoices.iter().map(move |id| (invoice(id), org))
            })
            .filter(|(other, _)| !facts.contains_key(other))
            .collect();
        if competing.is_empty() {
            return Ok(facts);
        }
        let mut more = load_sources(conn, &competing.keys().cloned().collect::<Vec<_>>())?;
        for (source, own) in &mut more {
            // An invoice of another org repeats nothing, and neither do those that compete with it.
            if own.org() != Some(competing[source]) {
                *own = Facts::default();
            }
            own.is_competitor = true;
        }
        facts.extend(more);
    }
}

/// Reads these sources alone. A source that is not mirrored has no facts.
fn load_sources(
    conn: &mut PgConnection,
    sources: &[SaleSource],
) -> Result<BTreeMap<SaleSource, Facts>, Error> {
    let (invoices, payments): (Vec<&SaleSource>, Vec<&SaleSource>) =
        sources.iter().partition(|source| source.kind == SourceKind::Invoice);
    let all: Vec<&SaleSource> = sources.iter().collect();
    let mut facts: BTreeMap<SaleSource, Facts> =
        sources.iter().map(|source| (source.clone(), Facts::default())).collect();
    facts.extend(invoices::load(conn, &invoices)?);
    facts.extend(payments::load(conn, &payments)?);
    for (source, done) in effects::load(conn, &all)? {
        if let Some(facts) = facts.get_mut(&source) {
            (facts.effects, facts.waiting) = (done.effects, done.waiting);
        }
    }
    // Without an org nothing was granted that could be clawed back.
    let with_org: Vec<&SaleSource> =
        all.into_iter().filter(|source| facts[*source].org().is_some()).collect();
    for (source, returned) in returned::load(conn, &with_org)? {
        if let Some(facts) = facts.get_mut(&source) {
            facts.returned = returned;
        }
    }
    Ok(facts)
}

fn parse_documents<T: DeserializeOwned>(rows: Vec<DocumentRow>) -> Result<Vec<(SaleSource, T)>, Error> {
    rows.into_iter()
        .map(|(account, livemode, kind, id, document)| {
            let source = SaleSource::from_columns(account, livemode, &kind, id)?;
            let unreadable = |error| Error::Internal(format!("the facts of a sale source: {error}"));
            Ok((source, serde_json::from_value(document).map_err(unreadable)?))
        })
        .collect()
}

/// SQL: the rule for old money of the account of the source `k`.
macro_rules! old_money_json {
    () => {
        "(SELECT json_build_object('since', a.effects_since, 'grant_running', a.grant_running)
          FROM stripe_accounts a
          WHERE a.account IS NOT DISTINCT FROM k.account
              AND a.livemode IS NOT DISTINCT FROM k.livemode)"
    };
}
use old_money_json;

/// SQL: the pack `b` as JSON.
macro_rules! pack_json {
    () => {
        "json_build_object(
             'id', b.pack_id,
             'units', b.units::text,
             'days', b.expires_after_days,
             'priority', b.priority)"
    };
}
use pack_json;

/// SQL: the same with what one pack costs in the currency of the session `s`.
macro_rules! sold_pack_json {
    ($only:literal) => {
        concat!(
            "json_build_object(
                 'id', b.pack_id,
                 'units', b.units::text,
                 'days', b.expires_after_days,
                 'priority', b.priority,
                 'has_price', EXISTS (
                     SELECT
                     FROM battery_pack_stripe_prices o
                     WHERE o.pack_id = b.pack_id),
                 'prices', (
                     SELECT json_agg(DISTINCT p.unit_amount)
                     FROM battery_pack_stripe_prices o
                     JOIN prices p ON p.id = o.price_id
                     WHERE o.pack_id = b.pack_id
                         AND p.account = k.account
                         AND p.livemode = k.livemode
                         AND p.currency = s.currency
                         AND p.unit_amount > 0
                         AND p.recurring_interval IS NULL",
            $only,
            "))"
        )
    };
}
use sold_pack_json;

/// SQL: [`NamedPacks`](super::model::facts::NamedPacks) of the metadata `$m` and the payment link `$link`.
macro_rules! named_packs_json {
    ($m:literal, $link:literal, $pack:expr, $priced:expr) => {
        concat!(
            "json_build_object(
                 'metadata', ",
            $m,
            ",
                 'by_id', (
                     SELECT ",
            $pack,
            "
                     FROM battery_packs b
                     WHERE b.pack_id = ",
            $m,
            "->>'battery_pack'),
                 'by_price', (
                     SELECT ",
            $priced,
            "
                     FROM battery_pack_stripe_prices m
                     JOIN battery_packs b USING (pack_id)
                     WHERE m.price_id = coalesce(",
            $m,
            "->>'price', ",
            $m,
            "->>'price_id')),
                 'by_link', (
                     SELECT ",
            $pack,
            "
                     FROM battery_pack_payment_links m
                     JOIN battery_packs b USING (pack_id)
                     WHERE m.payment_link_id = ",
            $link,
            "))"
        )
    };
}
use named_packs_json;

/// SQL: the session `s` as JSON, with these line items.
macro_rules! session_json {
    ($items:expr) => {
        concat!(
            "json_build_object(
                 'mode', s.mode,
                 'payment_status', s.payment_status,
                 'amount_subtotal', s.amount_subtotal,
                 'amount_total', s.amount_total,
                 'currency', s.currency,
                 'payment_link', s.payment_link_id,
                 'ignored', EXISTS (
                     SELECT
                     FROM battery_effects_ignored n
                     WHERE (n.kind, n.id) = ('payment_link', s.payment_link_id)
                         OR (n.kind, n.id)
                             = ('price', coalesce(s.metadata->>'price', s.metadata->>'price_id'))),
                 'named', ",
            named_packs_json!(
                "s.metadata",
                "s.payment_link_id",
                sold_pack_json!(""),
                sold_pack_json!(" AND p.id = m.price_id")
            ),
            ",
                 'items', ",
            $items,
            ")"
        )
    };
}
use session_json;

/// SQL: the line items of the session `s`, if all are known.
macro_rules! sold_items_json {
    () => {
        concat!(
            "CASE WHEN s.line_items_complete THEN coalesce((
                     SELECT json_agg(json_build_object(
                             'id', t.id,
                             'price', t.price_id,
                             'quantity', t.quantity,
                             'ignored', EXISTS (
                                 SELECT
                                 FROM battery_effects_ignored n
                                 WHERE (n.kind, n.id) = ('price', t.price_id)
                                     OR (n.kind, n.id) = ('product', t.product_id)),
                             'pack', (
                                 SELECT ",
            pack_json!(),
            "
                                 FROM battery_pack_stripe_prices m
                                 JOIN battery_packs b USING (pack_id)
                                 WHERE m.price_id = t.price_id))
                         ORDER BY t.line_number)
                     FROM checkout_line_items t
                     WHERE t.account = s.account
                         AND t.livemode = s.livemode
                         AND t.session_id = s.id), '[]') END"
        )
    };
}
use sold_items_json;
