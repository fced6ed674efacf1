//! Parts of the usage that one statement compares: orgs and days. A part is as large as one pass over the
//! records may be: so the time of a check grows with the number of records, and no statement runs so long
//! that it harms others.

use std::collections::BTreeMap;

use chrono::{Months, NaiveDate};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Nullable};

use super::CountingRules;
use crate::error::Error;
use crate::metering::partitions::{self, month_of};

/// Records of a part: about so many at most, where a part can be made so small.
const RECORDS: u64 = 10_000_000;
/// Orgs of a part of quotas, at most: each org has periods of its own.
const ORGS: usize = 1_000;

/// Orgs by their row ids, from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orgs {
    pub first: i64,
    pub last: i64,
}

impl Orgs {
    pub const ALL: Self = Self { first: i64::MIN, last: i64::MAX };

    #[must_use]
    pub fn one(org_id: i64) -> Self {
        Self { first: org_id, last: org_id }
    }

    /// The SQL condition that a column has one of these orgs.
    pub(super) fn sql(self, column: &str) -> String {
        match self {
            Self::ALL => "true".to_owned(),
            Self { first, last } if first == last => format!("{column} = {first}"),
            Self { first, last } => format!("{column} BETWEEN {first} AND {last}"),
        }
    }
}

/// What was counted to the local days from `from` until before `before` of these orgs.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub orgs: Orgs,
    pub from: NaiveDate,
    pub before: NaiveDate,
}

impl Part {
    /// The same days of one of its orgs.
    #[must_use]
    pub fn of_org(self, org_id: i64) -> Self {
        Self { orgs: Orgs::one(org_id), ..self }
    }

    #[must_use]
    pub(super) fn is_all_days(self) -> bool {
        (self.from, self.before) == (NaiveDate::MIN, NaiveDate::MAX)
    }

    /// The part cut at the months, in order; the first and the last may be incomplete.
    #[must_use]
    pub fn months(self) -> Vec<Self> {
        let next = |month: &NaiveDate| month.checked_add_months(Months::new(1));
        std::iter::successors(Some(month_of(self.from)), next)
            .take_while(|month| *month < self.before)
            .filter_map(|month| {
                Some(Self {
                    orgs: self.orgs,
                    from: month.max(self.from),
                    before: next(&month)?.min(self.before),
                })
            })
            .collect()
    }

    /// Its complete months as one part; `None`: it has no complete month.
    pub(super) fn whole_months(self) -> Option<Self> {
        let first = month_of(self.from);
        let from = if first == self.from { first } else { first.checked_add_months(Months::new(1))? };
        let before = month_of(self.before);
        (from < before).then_some(Self { from, before, ..self })
    }
}

/// What a check compares: everything, or one org, or some days.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckedRange {
    pub org_id: Option<i64>,
    /// From this local day on.
    pub from: Option<NaiveDate>,
    /// Before this local day.
    pub before: Option<NaiveDate>,
}

impl CheckedRange {
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.org_id.is_none() && self.from.is_none() && self.before.is_none()
    }

    #[must_use]
    pub fn orgs(&self) -> Orgs {
        self.org_id.map_or(Orgs::ALL, Orgs::one)
    }
}

/// A part with about the number of its records.
#[derive(Clone, Copy, Debug)]
pub struct SizedPart {
    pub part: Part,
    pub records: u64,
}

#[derive(QueryableByName)]
struct OfOrg {
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[diesel(sql_type = BigInt)]
    records: i64,
}

/// The days of the scope in parts, in order, without months whose records are no longer all stored.
pub fn by_days(
    conn: &mut PgConnection,
    rules: &CountingRules,
    scope: &CheckedRange,
) -> Result<Vec<SizedPart>, Error> {
    let Some((first, last)) = span(conn, scope)? else { return Ok(Vec::new()) };
    let whole = rules.first_whole_day.unwrap_or(NaiveDate::MIN);
    let after = last.checked_add_months(Months::new(1)).map_or(last, month_of);
    let from = month_of(first).max(whole).max(scope.from.unwrap_or(NaiveDate::MIN));
    let before = after.min(scope.before.unwrap_or(NaiveDate::MAX));
    let mut parts: Vec<SizedPart> = Vec::new();
    let sizes = sizes(conn, scope)?;
    for part in (Part { orgs: scope.orgs(), from, before }).months() {
        let records = sizes.get(&month_of(part.from)).copied().unwrap_or(0);
        if records > RECORDS && scope.org_id.is_none() {
            let within = by_orgs(conn, scope, Some(part), usize::MAX)?;
            parts.extend(
                within.into_iter().map(|(orgs, records)| SizedPart { part: Part { orgs, ..part }, records }),
            );
            continue;
        }
        match parts.last_mut() {
            Some(last) if last.part.orgs == part.orgs && last.records + records <= RECORDS => {
                last.part.before = part.before;
                last.records += records;
            }
            _ => parts.push(SizedPart { part, records }),
        }
    }
    Ok(parts)
}

/// The orgs of the scope in parts, all days each. Parts of `quotas` have at most [`ORGS`] orgs.
pub fn by_org(conn: &mut PgConnection, scope: &CheckedRange, quotas: bool) -> Result<Vec<SizedPart>, Error> {
    let from = scope.from.unwrap_or(NaiveDate::MIN);
    let before = scope.before.unwrap_or(NaiveDate::MAX);
    let orgs = by_orgs(conn, scope, None, if quotas { ORGS } else { usize::MAX })?;
    Ok(orgs
        .into_iter()
        .map(|(orgs, records)| SizedPart { part: Part { orgs, from, before }, records })
        .collect())
}

/// How many months of the scope have records.
pub fn months(conn: &mut PgConnection, scope: &CheckedRange) -> Result<u64, Error> {
    let from = scope.from.map_or(NaiveDate::MIN, month_of);
    let before = scope.before.unwrap_or(NaiveDate::MAX);
    let sizes = sizes(conn, scope)?;
    Ok(u64::try_from(sizes.range(from..before.max(from)).count()).unwrap_or(u64::MAX))
}

/// Ranges of orgs with about [`RECORDS`] records each, of the days of this part or of all days. There is no
/// gap between them.
fn by_orgs(
    conn: &mut PgConnection,
    scope: &CheckedRange,
    within: Option<Part>,
    most: usize,
) -> Result<Vec<(Orgs, u64)>, Error> {
    let days = within.map_or_else(
        || "true".to_owned(),
        |Part { from, before, .. }| format!("day >= '{from}' AND day < '{before}'"),
    );
    // The number of records only decides the size of a part: the summaries are good enough for that.
    let rows: Vec<OfOrg> = diesel::sql_query(format!(
        "SELECT o.org_id, coalesce(s.records, 0) AS records
         FROM orgs o LEFT JOIN (
             SELECT org_id, least(sum(greatest(count, 0)), 1e15)::bigint AS records
             FROM daily_summaries WHERE {own} AND {days} GROUP BY org_id) s USING (org_id)
         WHERE {own} ORDER BY org_id",
        own = scope.orgs().sql("org_id"),
    ))
    .load(conn)?;
    let mut ranges: Vec<(Orgs, u64)> = Vec::new();
    let mut orgs = 0;
    for row in rows {
        let records = row.records.unsigned_abs();
        match ranges.last_mut() {
            Some((range, sum)) if *sum + records <= RECORDS && orgs < most => {
                range.last = row.org_id;
                *sum += records;
                orgs += 1;
            }
            _ => {
                ranges.push((Orgs::one(row.org_id), records));
                orgs = 1;
            }
        }
    }
    if scope.org_id.is_none() {
        // Rows of orgs that do not exist must be found, too.
        for n in 1..ranges.len() {
            ranges[n - 1].0.last = ranges[n].0.first - 1;
        }
        if let Some((first, _)) = ranges.first_mut() {
            first.first = i64::MIN;
        }
        if let Some((last, _)) = ranges.last_mut() {
            last.last = i64::MAX;
        }
    }
    Ok(ranges)
}

/// The first and the last local day to which records or derived rows of the scope may be counted.
fn span(conn: &mut PgConnection, scope: &CheckedRange) -> Result<Option<(NaiveDate, NaiveDate)>, Error> {
    #[derive(QueryableByName)]
    struct Span {
        #[diesel(sql_type = Nullable<Date>)]
        first: Option<NaiveDate>,
        #[diesel(sql_type = Nullable<Date>)]
        last: Option<NaiveDate>,
    }
    let own = scope.orgs().sql("org_id");
    // Usage of a closed month is counted to a later one, up to the month after the last closed one.
    let span: Span = diesel::sql_query(format!(
        "SELECT least(s.first, c.first) AS first, greatest(s.last, c.last, m.last) AS last
         FROM (SELECT min(day) AS first, max(day) AS last FROM daily_summaries WHERE {own}) s,
             (SELECT min(period) AS first, max(period) AS last FROM rating_counters WHERE {own}) c,
             (SELECT max(day) AS last FROM usage_records WHERE {own} AND moved) m"
    ))
    .get_result(conn)?;
    let records: Span = match scope.org_id {
        Some(_) => diesel::sql_query(format!(
            "SELECT (min(occurred_at) AT TIME ZONE 'UTC')::date - 1 AS first,
                 (max(occurred_at) AT TIME ZONE 'UTC')::date + 1 AS last
             FROM usage_records WHERE {own}"
        ))
        .get_result(conn)?,
        None => {
            let months = partitions::sizes(conn)?;
            Span {
                first: months.keys().next().and_then(|month| month.pred_opt()),
                last: months.keys().next_back().and_then(|month| month.checked_add_months(Months::new(1))),
            }
        }
    };
    let first = [span.first, records.first].into_iter().flatten().min();
    Ok(first.zip([span.last, records.last].into_iter().flatten().max()))
}

/// About the number of records of each month.
fn sizes(conn: &mut PgConnection, scope: &CheckedRange) -> Result<BTreeMap<NaiveDate, u64>, Error> {
    #[derive(QueryableByName)]
    struct OfMonth {
        #[diesel(sql_type = Date)]
        month: NaiveDate,
        #[diesel(sql_type = BigInt)]
        records: i64,
    }
    let Some(org_id) = scope.org_id else { return partitions::sizes(conn) };
    let rows: Vec<OfMonth> = diesel::sql_query(
        "SELECT date_trunc('month', day::timestamp)::date AS month,
             least(sum(greatest(count, 0)), 1e15)::bigint AS records
         FROM daily_summaries WHERE org_id = $1 GROUP BY 1",
    )
    .bind::<BigInt, _>(org_id)
    .load(conn)?;
    Ok(rows.into_iter().map(|row| (row.month, row.records.unsigned_abs())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().expect("a day")
    }

    #[test]
    fn a_part_falls_into_months() {
        let part = Part { orgs: Orgs::one(1), from: day("2026-01-15"), before: day("2026-04-01") };
        let months: Vec<(NaiveDate, NaiveDate)> =
            part.months().iter().map(|part| (part.from, part.before)).collect();
        let wanted =
            [("2026-01-15", "2026-02-01"), ("2026-02-01", "2026-03-01"), ("2026-03-01", "2026-04-01")];
        assert_eq!(months, wanted.map(|(from, before)| (day(from), day(before))));
        let whole = part.whole_months().expect("two of them");
        assert_eq!((whole.from, whole.before), (day("2026-02-01"), day("2026-04-01")));
        assert!(Part { before: day("2026-02-28"), ..part }.whole_months().is_none());
    }
}
