//! The books of usage against its records: daily summaries, unique values, the counters of tiers and quotas,
//! keys.

use diesel::pg::PgConnection;

use super::Watch;
use crate::db::pass;
use crate::error::Error;
use crate::metering::partitions;
use crate::usage::derived_tables::parts::{self, Part, Scope, Sized};
use crate::usage::derived_tables::{self, DerivedTable, Difference, Given, Rules};

/// Differences told per book and part, at most.
const TOLD: usize = 20;
/// Rows mended in one transaction.
const ROWS: usize = 5_000;
/// Times that a part is looked at again after it was mended.
const TRIES: u32 = 20;

/// What was compared and what was found.
#[derive(Debug, Default)]
pub struct Report {
    pub orgs: u64,
    /// Months.
    pub months: u64,
    pub slots: u64,
    /// Differences of usage, one line each.
    pub usage: Vec<String>,
    /// Differences of quotas, one line each.
    pub quotas: Vec<String>,
    /// Rows that were mended.
    pub mended: u64,
}

/// A look at a part.
#[derive(Clone, Copy)]
enum Look {
    Table(DerivedTable),
    Keys,
}

/// Compares what is in the scope; nothing is changed. Usage may go on being written meanwhile: each look sees
/// one state of it, rules and records and books.
pub fn verify(
    conn: &mut PgConnection,
    given: Given,
    scope: &Scope,
    watch: Watch<'_>,
) -> Result<Report, Error> {
    let rules = Rules::load(conn, given)?;
    let days = parts::by_days(conn, &rules, scope)?;
    let mut looks: Vec<(Look, Sized)> = Vec::new();
    for part in &days {
        looks.extend(
            [DerivedTable::Rating, DerivedTable::Uniques, DerivedTable::Summaries]
                .map(|book| (Look::Table(book), *part)),
        );
    }
    for book in [DerivedTable::Levels, DerivedTable::Quotas] {
        looks.extend(parts::by_org(conn, scope, true)?.into_iter().map(|part| (Look::Table(book), part)));
    }
    for part in parts::by_org(conn, scope, false)? {
        looks.extend([(Look::Keys, part), (Look::Table(DerivedTable::Unpriced), part)]);
    }
    let mut report = Report {
        orgs: as_u64(derived_tables::orgs(conn, scope.orgs())?.len()),
        months: parts::months(conn, scope)?,
        slots: as_u64(rules.slots()),
        ..Report::default()
    };
    let all = looks.iter().map(|(_, part)| part.records.max(1)).sum();
    let mut done = 0;
    for (look, Sized { part, records }) in looks {
        watch(look.name(), done, all);
        let found = look.run(conn, given, part)?;
        let told = if matches!(look, Look::Table(DerivedTable::Quotas)) {
            &mut report.quotas
        } else {
            &mut report.usage
        };
        told.extend(found);
        done += records.max(1);
    }
    Ok(report)
}

impl Look {
    fn name(self) -> &'static str {
        match self {
            Self::Table(book) => book.table(),
            Self::Keys => "usage_keys",
        }
    }

    fn run(self, conn: &mut PgConnection, given: Given, part: Part) -> Result<Vec<String>, Error> {
        loop {
            let (whole, found) = pass::over(conn, |conn| {
                let rules = Rules::load(conn, given)?;
                let found = match self {
                    Self::Table(book) => {
                        let from = rules.first_whole_day.map_or(part.from, |day| day.max(part.from));
                        let found =
                            derived_tables::differences(conn, &rules, book, Part { from, ..part }, TOLD)?;
                        found.iter().map(|found| line(book, found)).collect()
                    }
                    Self::Keys => derived_tables::unmatched_keys(conn, part, TOLD)?,
                };
                Ok((rules.first_whole_day, found))
            })?;
            // Records that were taken away between the snapshot and the look are missed, and that is no
            // difference.
            if found.is_empty() || partitions::first_whole_day(conn)? == whole {
                return Ok(found);
            }
        }
    }
}

/// Counts everything anew from the records and mends what differs. Usage may go on being written meanwhile.
///
/// # Errors
/// When the database fails; what is mended by then stays so.
pub fn rebuild(conn: &mut PgConnection, given: Given, watch: Watch<'_>) -> Result<Report, Error> {
    let (mut rules, scope) = (Rules::load(conn, given)?, Scope::default());
    rules.past_counters = true;
    let days = parts::by_days(conn, &rules, &scope)?;
    let mut looks: Vec<(DerivedTable, Sized)> = Vec::new();
    for part in &days {
        looks.extend(
            [DerivedTable::Rating, DerivedTable::Uniques, DerivedTable::Summaries].map(|book| (book, *part)),
        );
    }
    for book in [DerivedTable::Levels, DerivedTable::Quotas] {
        looks.extend(parts::by_org(conn, &scope, true)?.into_iter().map(|part| (book, part)));
    }
    looks.extend(parts::by_org(conn, &scope, false)?.into_iter().map(|part| (DerivedTable::Unpriced, part)));
    let mut report = Report {
        orgs: as_u64(derived_tables::orgs(conn, scope.orgs())?.len()),
        months: parts::months(conn, &scope)?,
        ..Report::default()
    };
    let all = looks.iter().map(|(_, part)| part.records.max(1)).sum();
    let mut done = 0;
    for (book, Sized { part, records }) in looks {
        watch(book.table(), done, all);
        // Most say what they should: one pass finds those that do not, and these are mended one by one.
        for org_id in pass::over(conn, |conn| derived_tables::orgs_that_differ(conn, &rules, book, part))? {
            let part = part.of(org_id);
            let whole = matches!(book, DerivedTable::Levels | DerivedTable::Quotas | DerivedTable::Unpriced);
            let pieces = if whole { vec![part] } else { part.months() };
            for piece in pieces {
                mend(conn, &rules, book, piece, &mut report)?;
            }
        }
        done += records.max(1);
    }
    Ok(report)
}

fn mend(
    conn: &mut PgConnection,
    rules: &Rules,
    book: DerivedTable,
    part: Part,
    report: &mut Report,
) -> Result<(), Error> {
    for _ in 0..TRIES {
        let found = pass::over(conn, |conn| derived_tables::differences(conn, rules, book, part, ROWS))?;
        let last = found.len() < ROWS;
        report.usage.extend(found.iter().take(TOLD).map(|found| line(book, found)));
        if !found.is_empty() {
            let mended = derived_tables::mend(conn, rules, book, part, &found)?;
            report.mended += as_u64(mended);
        }
        if last {
            return Ok(());
        }
    }
    tracing::warn!(table = book.table(), ?part, "there is more to mend: run it again");
    Ok(())
}

fn as_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn line(book: DerivedTable, difference: &Difference) -> String {
    format!("{} {difference}", book.table())
}
