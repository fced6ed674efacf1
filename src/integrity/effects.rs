//! Effects: what payments granted and clawed back, compared with the mirrors and with the ledger.

use std::collections::{BTreeMap, BTreeSet};

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Nullable, Numeric, Text};
use rust_decimal::Decimal;

use crate::battery::effects::decide::{repeats, returns};
use crate::battery::effects::model::clawbacks::{CauseAmount, GrantClawbacks};
use crate::battery::effects::model::facts::{Facts, LineEffect};
use crate::battery::effects::model::{CauseKind, SaleSource};
use crate::battery::effects::{apply, facts, sources};
use crate::billing::markers::Marker;
use crate::error::Error;
use crate::realm::Realm;

/// Sources compared at once.
const PAGE: i64 = 500;

/// What was compared, and what differs.
#[derive(Debug, Default)]
pub struct Report {
    /// Economic sources compared.
    pub sources: u64,
    pub differences: Vec<String>,
}

/// Computes every source that granted something again from the mirrors, in one snapshot. Sources with a
/// marker are left out, because the worker has still to act on what changed. `progress` receives the number
/// of sources done.
pub fn verify(conn: &mut PgConnection, mut progress: impl FnMut(u64)) -> Result<Report, Error> {
    conn.build_transaction().repeatable_read().read_only().run(|conn| {
        let marked = marked_sources(conn)?;
        let mut report = Report::default();
        let mut after = None;
        loop {
            let page = sources_with_effects(conn, after.as_ref())?;
            let Some(last) = page.last() else { return Ok(report) };
            after = Some(last.clone());
            progress(report.sources);
            let sources: Vec<SaleSource> =
                page.into_iter().filter(|source| !marked.contains(source)).collect();
            report.sources += u64::try_from(sources.len()).unwrap_or(0);
            compare(conn, &sources, &mut report)?;
        }
    })
}

/// The next sources that have effects, in the order of their keys.
fn sources_with_effects(
    conn: &mut PgConnection,
    after: Option<&SaleSource>,
) -> Result<Vec<SaleSource>, Error> {
    #[derive(QueryableByName)]
    struct SourceRow {
        #[diesel(sql_type = Text)]
        account: String,
        #[diesel(sql_type = Bool)]
        livemode: bool,
        #[diesel(sql_type = Text)]
        source_kind: String,
        #[diesel(sql_type = Text)]
        source_id: String,
    }
    let rows: Vec<SourceRow> = diesel::sql_query(
        "SELECT DISTINCT source_id, source_kind, account, livemode
         FROM battery_effects
         WHERE (source_id, source_kind, account, livemode) > ($1, $2, $3, $4)
         ORDER BY 1, 2, 3, 4
         LIMIT $5",
    )
    .bind::<Text, _>(after.map_or("", |source| &source.id))
    .bind::<Text, _>(after.map_or("", |source| source.kind.name()))
    .bind::<Text, _>(after.map_or("", |source| &source.realm.account))
    .bind::<Bool, _>(after.is_some_and(|source| source.realm.livemode))
    .bind::<BigInt, _>(PAGE)
    .load(conn)?;
    rows.into_iter()
        .map(|row| SaleSource::from_columns(row.account, row.livemode, &row.source_kind, row.source_id))
        .collect()
}

/// The sources whose markers wait.
fn marked_sources(conn: &mut PgConnection) -> Result<BTreeSet<SaleSource>, Error> {
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
    let effects = || {
        let compared = facts.iter().filter(|(_, facts)| !facts.is_competitor);
        compared.flat_map(|(source, facts)| facts.effects.iter().map(move |effect| (source, facts, effect)))
    };
    let grants: BTreeSet<(i64, i64)> =
        effects().filter_map(|(_, _, effect)| Some((effect.org_id, effect.grant?))).collect();
    let mut clawbacks = apply::load_clawbacks(conn, &grants)?;
    let ledger = load_ledger(conn, &grants)?;
    for (source, facts, effect) in effects().filter(|(_, _, effect)| effect.units > Decimal::ZERO) {
        let grant = (effect.org_id, effect.grant.unwrap_or(0));
        let found = match clawbacks.get_mut(&grant) {
            None => vec!["it names no grant".to_owned()],
            Some(clawbacks) => {
                let clawed_back = clawbacks.units()?;
                let is_repeated = repeats.get(source).is_some_and(|lines| lines.contains_key(&effect.line));
                let mut found = compare_with_mirrors(source, facts, effect, is_repeated, clawbacks)?;
                found.extend(compare_with_ledger(effect, clawed_back, ledger.get(&grant)));
                found
            }
        };
        let name = format!("battery effect of {} {} {}", source.kind.name(), source.id, effect.line);
        report.differences.extend(found.into_iter().map(|difference| format!("{name}: {difference}")));
    }
    Ok(())
}

/// Sets each cause of a clawback to what the mirrors say; a cause that moves was stored wrongly.
fn compare_with_mirrors(
    source: &SaleSource,
    facts: &Facts,
    effect: &LineEffect,
    is_repeated: bool,
    clawbacks: &mut GrantClawbacks,
) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    let paid = facts.paid().minor;
    if effect.paid != paid {
        found.push(format!("{} is counted as settled, the mirror says {paid}", effect.paid));
    }
    let all_or_none = |all: bool| CauseAmount::from_units(if all { effect.units } else { Decimal::ZERO });
    if clawbacks.set_cause(CauseKind::Invoice, &source.id, all_or_none(facts.is_reversed()))?.is_some() {
        found.push("whether anything of the sale is left is not counted as the mirror says".to_owned());
    }
    let repeated = source.repeated_period_cause();
    if clawbacks.set_cause(CauseKind::Invoice, &repeated, all_or_none(is_repeated))?.is_some() {
        found.push(
            "whether another invoice stands for its period is not counted as the mirror says".to_owned(),
        );
    }
    for cause in &returns::causes(&facts.returned) {
        let stored = clawbacks.amount_of(cause.kind, &cause.id).minor;
        let moved = clawbacks.set_cause(cause.kind, &cause.id, CauseAmount::from_money(cause.minor))?;
        if moved.is_some() && stored != cause.minor {
            let (kind, id, minor) = (cause.kind.name(), &cause.id, cause.minor);
            found.push(format!("{kind} {id} is counted with {stored}, the mirror says {minor}"));
        }
    }
    Ok(found)
}

fn compare_with_ledger(
    effect: &LineEffect,
    clawed_back: Decimal,
    ledger: Option<&LedgerRow>,
) -> Option<String> {
    match ledger {
        None => Some("its grant is not there".to_owned()),
        Some(row) if row.amount != Some(effect.units) => {
            Some(format!("its grant is not of {} units", effect.units.normalize()))
        }
        Some(row) if row.was_effective_at_once && row.clawed_back != clawed_back => Some(format!(
            "{} units are taken back, the ledger says {}",
            clawed_back.normalize(),
            row.clawed_back.normalize()
        )),
        Some(_) => None,
    }
}

#[derive(QueryableByName)]
struct LedgerRow {
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[diesel(sql_type = BigInt)]
    grant_number: i64,
    #[diesel(sql_type = Nullable<Numeric>)]
    amount: Option<Decimal>,
    /// False for a grant that became effective later: it may lose units without an entry.
    #[diesel(sql_type = Bool)]
    was_effective_at_once: bool,
    #[diesel(sql_type = Numeric)]
    clawed_back: Decimal,
}

fn load_ledger(
    conn: &mut PgConnection,
    grants: &BTreeSet<(i64, i64)>,
) -> Result<BTreeMap<(i64, i64), LedgerRow>, Error> {
    let rows: Vec<LedgerRow> = diesel::sql_query(
        "SELECT k.o AS org_id, k.n AS grant_number, g.amount,
             g.effective_at <= g.created_at AS was_effective_at_once,
             coalesce((
                 SELECT -sum(e.amount)
                 FROM battery_entries e
                 WHERE e.org_id = k.o AND e.grant_number = k.n AND e.kind = 'clawback'
                     AND e.source IN ('refund', 'charge', 'dispute', 'credit_note', 'proration', 'invoice',
                         'payment_intent', 'checkout_session')), 0) AS clawed_back
         FROM unnest($1::bigint[], $2::bigint[]) AS k (o, n)
         JOIN battery_grants g ON g.org_id = k.o AND g.grant_number = k.n",
    )
    .bind::<Array<BigInt>, _>(grants.iter().map(|(org_id, _)| *org_id).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(grants.iter().map(|(_, number)| *number).collect::<Vec<_>>())
    .load(conn)?;
    Ok(rows.into_iter().map(|row| ((row.org_id, row.grant_number), row)).collect())
}
