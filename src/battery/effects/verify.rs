//! What was counted against grants is what the mirrors say, and the ledger has it.

use std::collections::{BTreeMap, BTreeSet};

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable, Numeric, Text};
use rust_decimal::Decimal;

use super::decide::{repeats, returns};
use super::model::clawbacks::CauseAmount;
use super::model::{CauseKind, SaleSource};
use super::{apply, facts, sources};
use crate::billing::markers::Marker;
use crate::error::Error;
use crate::realm::Realm;

/// Sources looked at together.
const PAGE: i64 = 500;

#[derive(QueryableByName)]
struct Claimed {
    #[diesel(sql_type = Text)]
    account: String,
    #[diesel(sql_type = Bool)]
    livemode: bool,
    #[diesel(sql_type = Text)]
    source_kind: String,
    #[diesel(sql_type = Text)]
    source_id: String,
}

#[derive(QueryableByName)]
struct Ledger {
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[diesel(sql_type = BigInt)]
    grant_number: i64,
    #[diesel(sql_type = Nullable<Numeric>)]
    amount: Option<Decimal>,
    /// Effective when it was made: one that was not loses units without an entry.
    #[diesel(sql_type = Bool)]
    at_once: bool,
    #[diesel(sql_type = Numeric)]
    taken: Decimal,
}

/// What the check found.
#[derive(Debug, Default)]
pub struct Report {
    /// Economic sources looked at.
    pub sources: u64,
    pub differences: Vec<String>,
}

/// Reckons every claimed source anew from the mirrors, in one state of the database. Sources that have a
/// marker are left out: what the mirrors say of them is still to be done. `watch` is told how many sources
/// are done.
pub fn verify(conn: &mut PgConnection, mut watch: impl FnMut(u64)) -> Result<Report, Error> {
    conn.build_transaction().repeatable_read().read_only().run(|conn| reckon(conn, &mut watch))
}

fn reckon(conn: &mut PgConnection, watch: &mut dyn FnMut(u64)) -> Result<Report, Error> {
    let marked = marked(conn)?;
    let mut report = Report::default();
    let mut after = (String::new(), String::new(), String::new(), false);
    loop {
        let page: Vec<Claimed> = diesel::sql_query(
            "SELECT DISTINCT source_id, source_kind, account, livemode FROM battery_effects
             WHERE (source_id, source_kind, account, livemode) > ($1, $2, $3, $4) ORDER BY 1, 2, 3, 4
             LIMIT $5",
        )
        .bind::<Text, _>(&after.0)
        .bind::<Text, _>(&after.1)
        .bind::<Text, _>(&after.2)
        .bind::<Bool, _>(after.3)
        .bind::<BigInt, _>(PAGE)
        .load(conn)?;
        let Some(last) = page.last() else { return Ok(report) };
        after = (last.source_id.clone(), last.source_kind.clone(), last.account.clone(), last.livemode);
        watch(report.sources);
        let sources: Result<Vec<SaleSource>, Error> = page
            .into_iter()
            .map(|row| SaleSource::from_columns(row.account, row.livemode, &row.source_kind, row.source_id))
            .collect();
        let mut sources = sources?;
        sources.retain(|source| !marked.contains(source));
        report.sources += u64::try_from(sources.len()).unwrap_or(0);
        compare(conn, &sources, &mut report)?;
    }
}

/// The sources whose markers are not worked on yet.
fn marked(conn: &mut PgConnection) -> Result<BTreeSet<SaleSource>, Error> {
    use crate::schema::battery_effects_queue::dsl as q;
    let mut marked = BTreeSet::new();
    let mut after = i64::MIN;
    loop {
        let page: Vec<(i64, String, bool, String, String)> = q::battery_effects_queue
            .filter(q::effect_id.gt(after))
            .select((q::effect_id, q::account, q::livemode, q::kind, q::object_id))
            .order(q::effect_id)
            .limit(PAGE)
            .load(conn)?;
        let Some(last) = page.last() else { return Ok(marked) };
        after = last.0;
        let marker =
            |(_, account, livemode, kind, id)| Marker { realm: Realm { account, livemode }, kind, id };
        marked.extend(sources::find(conn, &page.into_iter().map(marker).collect())?);
    }
}

fn compare(conn: &mut PgConnection, sources: &[SaleSource], report: &mut Report) -> Result<(), Error> {
    let facts = facts::load(conn, sources)?;
    let repeats = repeats::find(facts.iter().map(|(source, facts)| (source, facts, None)));
    let claims = || {
        let asked = facts.iter().filter(|(_, facts)| !facts.is_competitor);
        asked.flat_map(|(source, facts)| facts.effects.iter().map(move |claim| (source, facts, claim)))
    };
    let numbers: BTreeSet<(i64, i64)> =
        claims().filter_map(|(_, _, claim)| Some((claim.org_id, claim.grant?))).collect();
    let mut book = apply::load_clawbacks(conn, &numbers)?;
    let ledger = ledger(conn, &numbers)?;
    for (source, facts, claim) in claims().filter(|(_, _, claim)| claim.units > Decimal::ZERO) {
        let place = (claim.org_id, claim.grant.unwrap_or(0));
        let name = format!("battery effect of {} {} {}", source.kind.name(), source.id, claim.line);
        let Some(counted) = book.get_mut(&place) else {
            report.differences.push(format!("{name}: it names no grant"));
            continue;
        };
        let stored = counted.units()?;
        let settled = facts.paid().minor;
        if claim.paid != settled {
            report
                .differences
                .push(format!("{name}: {} is counted as settled, the mirror says {settled}", claim.paid));
        }
        let undone = if facts.is_reversed() { claim.units } else { Decimal::ZERO };
        if counted.set_cause(CauseKind::Invoice, &source.id, CauseAmount::from_units(undone))?.is_some() {
            report.differences.push(format!(
                "{name}: whether anything of the sale is left is not counted as the mirror says"
            ));
        }
        let repeated = repeats.get(source).is_some_and(|lines| lines.contains_key(&claim.line));
        let twice = if repeated { claim.units } else { Decimal::ZERO };
        if counted
            .set_cause(CauseKind::Invoice, &source.repeated_period_cause(), CauseAmount::from_units(twice))?
            .is_some()
        {
            report.differences.push(format!(
                "{name}: whether another invoice stands for its period is not counted as the mirror says"
            ));
        }
        for cause in &returns::causes(&facts.returned) {
            let counted_so = counted.amount_of(cause.kind, &cause.id).minor;
            if counted.set_cause(cause.kind, &cause.id, CauseAmount::from_money(cause.minor))?.is_some()
                && counted_so != cause.minor
            {
                report.differences.push(format!(
                    "{name}: {} {} is counted with {counted_so}, the mirror says {}",
                    cause.kind.name(),
                    cause.id,
                    cause.minor
                ));
            }
        }
        match ledger.get(&place) {
            None => report.differences.push(format!("{name}: its grant is not there")),
            Some(row) if row.amount != Some(claim.units) => {
                report
                    .differences
                    .push(format!("{name}: its grant is not of {} units", claim.units.normalize()));
            }
            Some(row) if row.at_once && row.taken != stored => report.differences.push(format!(
                "{name}: {} units are taken back, the ledger says {}",
                stored.normalize(),
                row.taken.normalize()
            )),
            Some(_) => {}
        }
    }
    Ok(())
}

fn ledger(
    conn: &mut PgConnection,
    numbers: &BTreeSet<(i64, i64)>,
) -> Result<BTreeMap<(i64, i64), Ledger>, Error> {
    let rows: Vec<Ledger> = diesel::sql_query(
        "SELECT k.o AS org_id, k.n AS grant_number, g.amount, g.effective_at <= g.created_at AS at_once,
                coalesce((SELECT -sum(e.amount) FROM battery_entries e
                    WHERE e.org_id = k.o AND e.grant_number = k.n AND e.kind = 'clawback'
                        AND e.source IN ('refund', 'charge', 'dispute', 'credit_note', 'proration', 'invoice',
                            'payment_intent', 'checkout_session')), 0) AS taken
         FROM unnest($1::bigint[], $2::bigint[]) AS k (o, n)
         JOIN battery_grants g ON g.org_id = k.o AND g.grant_number = k.n",
    )
    .bind::<diesel::sql_types::Array<BigInt>, _>(numbers.iter().map(|(org, _)| *org).collect::<Vec<_>>())
    .bind::<diesel::sql_types::Array<BigInt>, _>(
        numbers.iter().map(|(_, number)| *number).collect::<Vec<_>>(),
    )
    .load(conn)?;
    Ok(rows.into_iter().map(|row| ((row.org_id, row.grant_number), row)).collect())
}
