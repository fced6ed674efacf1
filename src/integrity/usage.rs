//! Usage: the tables that are computed from usage records, and the keys of events, compared with the records.

use diesel::pg::PgConnection;

use super::Progress;
use super::derived_tables::parts::{self, CheckedRange, Part, SizedPart};
use super::derived_tables::{self, CountingRules, CountingSettings, DerivedTable, Difference};
use crate::db::full_scan;
use crate::error::Error;
use crate::metering::partitions;

/// Differences reported for each table and part, at most.
const REPORTED: usize = 20;
/// Rows repaired in one transaction.
const REPAIRED_ROWS: usize = 5_000;
/// How often a part is compared again after a repair.
const TRIES: u32 = 20;

/// What was compared, and the differences, one sentence each.
#[derive(Debug, Default)]
pub struct Report {
    pub orgs: u64,
    pub months: u64,
    pub slots: u64,
    /// Differences of usage.
    pub usage: Vec<String>,
    /// Differences of counters of quotas.
    pub quotas: Vec<String>,
    pub repaired_rows: u64,
}

impl Report {
    /// An empty report of this scope.
    fn of_scope(conn: &mut PgConnection, scope: &CheckedRange) -> Result<Self, Error> {
        let orgs = as_u64(derived_tables::orgs(conn, scope.orgs())?.len());
        Ok(Self { orgs, months: parts::months(conn, scope)?, ..Self::default() })
    }

    fn add(&mut self, table: DerivedTable, differences: impl Iterator<Item = String>) {
        let found = if table == DerivedTable::Quotas { &mut self.quotas } else { &mut self.usage };
        found.extend(differences);
    }
}

/// Compares the tables and keys of the scope, and changes nothing. Usage may be written meanwhile: each
/// comparison reads rules, records and derived rows in one snapshot.
pub fn verify(
    conn: &mut PgConnection,
    settings: CountingSettings,
    scope: &CheckedRange,
    progress: Progress<'_>,
) -> Result<Report, Error> {
    let rules = CountingRules::load(conn, settings)?;
    let tables = comparisons(conn, &rules, scope)?;
    let keys = parts::by_org(conn, scope, false)?;
    let mut report = Report { slots: as_u64(rules.slot_count()), ..Report::of_scope(conn, scope)? };
    let all = tables.iter().map(|(_, part)| part).chain(&keys).map(|part| part.records.max(1)).sum();
    let mut done = 0;
    for (table, SizedPart { part, records }) in tables {
        progress(table.sql_name(), done, all);
        let found = while_records_stay(conn, settings, |conn, rules| {
            let from = rules.first_whole_day.map_or(part.from, |day| day.max(part.from));
            derived_tables::differences(conn, rules, table, Part { from, ..part }, REPORTED)
        })?;
        report.add(table, found.iter().map(|difference| sentence(table, difference)));
        done += records.max(1);
    }
    for SizedPart { part, records } in keys {
        progress("usage_keys", done, all);
        report.usage.extend(while_records_stay(conn, settings, |conn, _| {
            derived_tables::unmatched_keys(conn, part, REPORTED)
        })?);
        done += records.max(1);
    }
    Ok(report)
}

/// The tables and the parts of them that a scope has.
fn comparisons(
    conn: &mut PgConnection,
    rules: &CountingRules,
    scope: &CheckedRange,
) -> Result<Vec<(DerivedTable, SizedPart)>, Error> {
    let mut all = Vec::new();
    for part in parts::by_days(conn, rules, scope)? {
        all.extend(
            [DerivedTable::Rating, DerivedTable::Uniques, DerivedTable::Summaries].map(|table| (table, part)),
        );
    }
    for table in [DerivedTable::Levels, DerivedTable::Quotas] {
        all.extend(parts::by_org(conn, scope, true)?.into_iter().map(|part| (table, part)));
    }
    all.extend(parts::by_org(conn, scope, false)?.into_iter().map(|part| (DerivedTable::Unpriced, part)));
    Ok(all)
}

/// Compares in one snapshot. When the retention has dropped records between the snapshot and the comparison,
/// missing records are no difference, so the comparison is done again.
fn while_records_stay<T>(
    conn: &mut PgConnection,
    settings: CountingSettings,
    mut compare: impl FnMut(&mut PgConnection, &CountingRules) -> Result<Vec<T>, Error>,
) -> Result<Vec<T>, Error> {
    loop {
        let (first_whole_day, found) = full_scan::in_snapshot(conn, |conn| {
            let rules = CountingRules::load(conn, settings)?;
            Ok((rules.first_whole_day, compare(conn, &rules)?))
        })?;
        if found.is_empty() || partitions::first_whole_day(conn)? == first_whole_day {
            return Ok(found);
        }
    }
}

/// Computes every derived table again from the records and repairs what differs. Usage may be written
/// meanwhile.
///
/// # Errors
/// When the database fails; rows repaired before that stay repaired.
pub fn rebuild(
    conn: &mut PgConnection,
    settings: CountingSettings,
    progress: Progress<'_>,
) -> Result<Report, Error> {
    let (mut rules, scope) = (CountingRules::load(conn, settings)?, CheckedRange::default());
    rules.past_counters = true;
    let tables = comparisons(conn, &rules, &scope)?;
    let mut report = Report::of_scope(conn, &scope)?;
    let all = tables.iter().map(|(_, part)| part.records.max(1)).sum();
    let mut done = 0;
    for (table, SizedPart { part, records }) in tables {
        progress(table.sql_name(), done, all);
        // Most orgs are right. One pass finds the others, and these are repaired one by one.
        for org_id in
            full_scan::in_snapshot(conn, |conn| derived_tables::orgs_that_differ(conn, &rules, table, part))?
        {
            let part = part.of_org(org_id);
            let is_whole =
                matches!(table, DerivedTable::Levels | DerivedTable::Quotas | DerivedTable::Unpriced);
            for piece in if is_whole { vec![part] } else { part.months() } {
                repair(conn, &rules, table, piece, &mut report)?;
            }
        }
        done += records.max(1);
    }
    Ok(report)
}

fn repair(
    conn: &mut PgConnection,
    rules: &CountingRules,
    table: DerivedTable,
    part: Part,
    report: &mut Report,
) -> Result<(), Error> {
    for _ in 0..TRIES {
        let found = full_scan::in_snapshot(conn, |conn| {
            derived_tables::differences(conn, rules, table, part, REPAIRED_ROWS)
        })?;
        let is_last = found.len() < REPAIRED_ROWS;
        report.usage.extend(found.iter().take(REPORTED).map(|difference| sentence(table, difference)));
        if !found.is_empty() {
            report.repaired_rows += as_u64(derived_tables::repair(conn, rules, table, part, &found)?);
        }
        if is_last {
            return Ok(());
        }
    }
    tracing::warn!(table = table.sql_name(), ?part, "more rows are wrong: run the rebuild again");
    Ok(())
}

fn sentence(table: DerivedTable, difference: &Difference) -> String {
    format!("{} {difference}", table.sql_name())
}

fn as_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
