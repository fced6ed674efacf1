//! Exports of a closed month: the texts that the manifest's digests are of.
//!
//! CSV after RFC 4180, UTF-8, CRLF, in a fixed order, of columns that never change. So the SHA-256 of a file
//! is the digest in the manifest, for ever. Amounts are in major units of their currency.

use std::collections::BTreeMap;
use std::io::Write;

use ::csv::{Terminator, WriterBuilder};
use chrono::NaiveDate;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, Date, Nullable, Text};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::booked::{ORDER, next_month};
use crate::error::Error;
use crate::export::csv::neutral;
use crate::money::MajorUnits;

const CURSOR: &str = "coulomb_closed";
const PAGE: usize = 2_000;

/// What of a month is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedRows {
    /// Usage records.
    Usage,
    /// Invoices and credit notes as they were issued.
    Documents,
    /// Entries of the orgs' accounts.
    Entries,
}

/// What a column holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cell {
    /// Ids, numbers, days.
    Plain,
    /// What people wrote: may look like a formula.
    Free,
    /// Minor units of the currency in the column `currency`.
    Money,
}
use Cell::{Free, Money, Plain};

type Column = (&'static str, Cell, &'static str);

/// SQL: an instant to the microsecond.
macro_rules! instant {
    ($column:literal) => {
        concat!("to_char(", $column, r#" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#)
    };
}

const USAGE: [Column; 18] = [
    ("day", Plain, "r.day::text"),
    ("org", Plain, "o.public_id"),
    ("occurred_at", Plain, instant!("r.occurred_at")),
    ("received_at", Plain, instant!("r.received_at")),
    ("belongs_to", Plain, "r.own_day::text"),
    ("source", Free, "r.source"),
    ("id", Free, "r.event_id"),
    ("meter", Plain, "m.key"),
    ("correction", Plain, "r.correction::text"),
    ("member", Free, "s.member"),
    ("subject", Free, "r.subject"),
    ("dimensions", Plain, "coalesce(s.dimensions, '{}')::text"),
    ("quantity", Plain, "trim_scale(r.quantity)::text"),
    ("value", Free, "r.value"),
    ("cost", Plain, "trim_scale(r.cost)::text"),
    ("cost_currency", Plain, "k.currency"),
    ("rate_card_version", Plain, "k.version::text"),
    ("battery_units", Plain, "trim_scale(r.battery_units)::text"),
];

const DOCUMENTS: [Column; 13] = [
    ("day", Plain, "e.day::text"),
    ("org", Plain, "o.public_id"),
    ("seller", Plain, "d.seller_id"),
    ("kind", Plain, "d.kind"),
    ("number", Free, "d.number"),
    ("issue_date", Plain, "d.issue_date::text"),
    ("id", Plain, "d.document_id"),
    ("currency", Plain, "d.content::jsonb ->> 'currency'"),
    ("net", Money, "d.content::jsonb #>> '{totals,net}'"),
    ("tax", Money, "d.content::jsonb #>> '{totals,tax}'"),
    ("total", Money, "d.content::jsonb #>> '{totals,total}'"),
    ("series_number", Plain, "d.series_number::text"),
    ("content", Plain, "d.content"),
];

const ENTRIES: [Column; 13] = [
    ("day", Plain, "e.day::text"),
    ("org", Plain, "o.public_id"),
    ("currency", Plain, "e.currency"),
    ("sequence", Plain, "e.sequence::text"),
    ("seller", Plain, "e.seller_id"),
    ("kind", Plain, "e.kind"),
    ("document", Plain, "e.document_id"),
    ("amount", Money, "e.amount::text"),
    ("balance_after", Money, "e.balance_after::text"),
    ("belongs_to", Plain, "to_char(e.belongs_to, 'YYYY-MM')"),
    ("occurred_at", Plain, instant!("e.occurred_at")),
    ("created_at", Plain, instant!("e.created_at")),
    ("description", Free, "e.description"),
];

impl ClosedRows {
    /// Its name on the command line and in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Documents => "documents",
            Self::Entries => "entries",
        }
    }

    /// # Errors
    /// [`Error::Invalid`] for another name.
    pub fn parse(name: &str) -> Result<Self, Error> {
        let found = [Self::Usage, Self::Documents, Self::Entries].into_iter().find(|of| of.name() == name);
        found.ok_or_else(|| Error::invalid("of", "must be usage, documents or entries"))
    }

    fn columns(self) -> &'static [Column] {
        match self {
            Self::Usage => &USAGE,
            Self::Documents => &DOCUMENTS,
            Self::Entries => &ENTRIES,
        }
    }

    fn sql(self) -> String {
        let cells: Vec<&str> = self.columns().iter().map(|(_, _, sql)| *sql).collect();
        let cells = cells.join(", ");
        match self {
            // What was posted to its own day lies in the partitions around the month.
            Self::Usage => format!(
                r#"SELECT r.day, ARRAY[{cells}]::text[] AS cells
                 FROM (SELECT * FROM usage_records WHERE own_day IS NULL AND day >= $1 AND day < $2
                           AND occurred_at >= $1::timestamp - interval '2 days'
                           AND occurred_at < $2::timestamp + interval '2 days'
                       UNION ALL SELECT * FROM usage_records
                       WHERE own_day IS NOT NULL AND day >= $1 AND day < $2) r
                 JOIN orgs o USING (org_id)
                 JOIN meters m USING (meter_id)
                 LEFT JOIN usage_series s ON (s.org_id, s.series_id) = (r.org_id, r.series_id)
                 LEFT JOIN rate_cards k USING (rate_card_id)
                 ORDER BY r.day, o.public_id COLLATE "C", r.occurred_at, r.event_key, m.key COLLATE "C",
                     r.correction"#
            ),
            Self::Documents => format!(
                "SELECT e.day, ARRAY[{cells}]::text[] AS cells
                 FROM account_entries e
                 JOIN orgs o USING (org_id)
                 JOIN own_documents d ON (d.org_id, d.document_id) = (e.org_id, e.document_id)
                 WHERE e.day >= $1 AND e.day < $2 AND e.kind IN ('invoice', 'credit_note') ORDER BY {ORDER}"
            ),
            Self::Entries => format!(
                "SELECT e.day, ARRAY[{cells}]::text[] AS cells
                 FROM account_entries e JOIN orgs o USING (org_id)
                 WHERE e.day >= $1 AND e.day < $2 ORDER BY {ORDER}"
            ),
        }
    }
}

/// Digests of an export.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RowDigests {
    /// Number of rows.
    pub rows: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// SHA-256 of the lines of each day that has any.
    pub days: BTreeMap<NaiveDate, String>,
}

#[derive(QueryableByName)]
struct ClosedRow {
    #[diesel(sql_type = Date)]
    day: NaiveDate,
    #[diesel(sql_type = Array<Nullable<Text>>)]
    cells: Vec<Option<String>>,
}

/// Writes the rows of a month; returns their digests. The caller holds one snapshot.
///
/// # Errors
/// [`Error::Internal`] when the output fails: then it is incomplete.
pub fn write(
    conn: &mut PgConnection,
    of: ClosedRows,
    month: NaiveDate,
    out: &mut dyn Write,
) -> Result<RowDigests, Error> {
    let columns = of.columns();
    let currency = columns.iter().position(|(name, ..)| *name == "currency");
    let (mut whole, mut digests) = (Sha256::new(), RowDigests::default());
    let head = line(columns.iter().map(|(name, ..)| *name))?;
    whole.update(&head);
    out.write_all(&head).map_err(failed)?;
    let mut today: Option<(NaiveDate, Sha256)> = None;
    diesel::sql_query(format!("DECLARE {CURSOR} NO SCROLL CURSOR FOR {}", of.sql()))
        .bind::<Date, _>(month)
        .bind::<Date, _>(next_month(month))
        .execute(conn)?;
    loop {
        let fetch = format!("FETCH FORWARD {PAGE} FROM {CURSOR}");
        let page: Vec<ClosedRow> = diesel::sql_query(fetch).load(conn)?;
        if page.is_empty() {
            break;
        }
        for row in page {
            let row_line = line(shown(columns, currency, row.cells).iter().map(String::as_str))?;
            whole.update(&row_line);
            out.write_all(&row_line).map_err(failed)?;
            digests.rows += 1;
            match &mut today {
                Some((day, digest)) if *day == row.day => digest.update(&row_line),
                before => {
                    if let Some((day, digest)) = before.take() {
                        digests.days.insert(day, hex::encode(digest.finalize()));
                    }
                    *before = Some((row.day, Sha256::new_with_prefix(&row_line)));
                }
            }
        }
    }
    diesel::sql_query(format!("CLOSE {CURSOR}")).execute(conn)?;
    if let Some((day, digest)) = today {
        digests.days.insert(day, hex::encode(digest.finalize()));
    }
    out.flush().map_err(failed)?;
    digests.sha256 = hex::encode(whole.finalize());
    Ok(digests)
}

fn shown(columns: &[Column], currency: Option<usize>, cells: Vec<Option<String>>) -> Vec<String> {
    let currency = currency.and_then(|place| cells.get(place).cloned().flatten()).unwrap_or_default();
    let show = |((_, kind, _), cell): (&Column, Option<String>)| {
        let text = cell.unwrap_or_default();
        match kind {
            Plain => text,
            // With an apostrophe in front of apostrophes, too, no two texts look alike.
            Free if text.starts_with('\'') => format!("'{text}"),
            Free => neutral(&text).into_owned(),
            Money => match text.parse() {
                Ok(minor) => MajorUnits::new(minor, &currency).to_string(),
                Err(_) => text,
            },
        }
    };
    columns.iter().zip(cells).map(show).collect()
}

fn line<'a>(cells: impl Iterator<Item = &'a str>) -> Result<Vec<u8>, Error> {
    let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(Vec::new());
    writer.write_record(cells).map_err(failed)?;
    writer.into_inner().map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("the output failed: {error}"))
}
