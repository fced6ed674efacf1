//! The books of usage against its records: daily summaries, unique values, the counters of tiers and quotas, keys.

use diesel::pg::PgConnection;

use crate::error::Error;
use crate::usage::books::{self, Book, Difference, Part, Rules};

/// Differences told per book and part, at most.
const TOLD: usize = 20;
/// Rows mended in one transaction.
const ROWS: usize = 5_000;
/// Times that a part is looked at again after it was mended.
const TRIES: u32 = 20;

/// What was compared and what was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Orgs.
    pub orgs: u64,
    /// Months of orgs.
    pub months: u64,
    /// One line each.
    pub differences: Vec<String>,
    /// Rows that were mended.
    pub mended: u64,
}

/// Compares everything; nothing is changed. Usage may go on being written meanwhile: each statement sees one state of it.
///
/// # Errors
/// When the database fails.
pub fn verify(conn: &mut PgConnection) -> Result<Report, Error> {
    let mut report = Report::default();
    let rules = Rules::load(conn)?;
    for org_id in books::orgs(conn)? {
        report.orgs += 1;
        for (book, part) in parts(conn, &rules, org_id)? {
            report.months += u64::from(book == Book::Summaries);
            let found = books::differences(conn, &rules, book, part, TOLD)?;
            report.differences.extend(found.iter().map(|found| line(book, found)));
        }
        report.differences.extend(books::unmatched_keys(conn, org_id, TOLD)?);
    }
    Ok(report)
}

/// Counts everything anew from the records and mends what differs, org by org; `progress` is told how many of how many orgs are done.
/// Usage may go on being written meanwhile.
///
/// # Errors
/// When the database fails; what is mended by then stays so.
pub fn rebuild(conn: &mut PgConnection, mut progress: impl FnMut(u64, u64)) -> Result<Report, Error> {
    let mut report = Report::default();
    let mut rules = Rules::load(conn)?;
    rules.past_counters = true;
    let orgs = books::orgs(conn)?;
    let all = u64::try_from(orgs.len()).unwrap_or(u64::MAX);
    for org_id in orgs {
        progress(report.orgs, all);
        for (book, part) in parts(conn, &rules, org_id)? {
            report.months += u64::from(book == Book::Summaries);
            mend(conn, &rules, book, part, &mut report)?;
        }
        report.orgs += 1;
    }
    progress(report.orgs, all);
    Ok(report)
}

fn mend(
    conn: &mut PgConnection,
    rules: &Rules,
    book: Book,
    part: Part,
    report: &mut Report,
) -> Result<(), Error> {
    for _ in 0..TRIES {
        let found = books::differences(conn, rules, book, part, ROWS)?;
        let last = found.len() < ROWS;
        report.differences.extend(found.iter().take(TOLD).map(|found| line(book, found)));
        if !found.is_empty() {
            let mended = books::mend(conn, rules, book, part, &found)?;
            report.mended += u64::try_from(mended).unwrap_or_default();
        }
        if last {
            return Ok(());
        }
    }
    tracing::warn!(table = book.table(), ?part, "there is more to mend: run it again");
    Ok(())
}

/// What is looked at of an org: its months, and its quotas as a whole.
fn parts(conn: &mut PgConnection, rules: &Rules, org_id: i64) -> Result<Vec<(Book, Part)>, Error> {
    let months = books::months(conn, rules, org_id)?;
    let mut parts: Vec<(Book, Part)> = Vec::with_capacity(3 * months.len() + 1);
    for part in &months {
        parts.extend([Book::Rating, Book::Uniques, Book::Summaries].map(|book| (book, *part)));
    }
    let never = chrono::NaiveDate::MIN;
    parts.push((Book::Quotas, Part { org_id, from: never, before: never }));
    Ok(parts)
}

fn line(book: Book, difference: &Difference) -> String {
    format!("{}: {difference}", book.table())
}
