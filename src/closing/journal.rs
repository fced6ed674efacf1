//! Journals: a month of double entries as a file for bookkeeping.
//!
//! The entries of the month's accounts are read in the order of day, org, currency and number, over one
//! snapshot. The same entries and the same accounts file give the same bytes.

mod beancount;
mod csv;
mod datev;
mod hledger;
mod windows_1252;

use std::io::Write;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;

use super::accounts_file::AccountsFile;
use super::booked;
use super::chart::{Chart, ChartAccount, Receivables};
use super::debtors;
use super::postings::{BookedEntry, Place, postings};
use crate::error::Error;
use crate::time::Month;

/// A format of journals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalFormat {
    /// hledger's journal, which ledger reads too.
    Hledger,
    Beancount,
    /// DATEV's Buchungsstapel: EXTF 700, category 21, version 13.
    Datev,
    /// One line for each posting.
    Csv,
}

impl JournalFormat {
    const ALL: [Self; 4] = [Self::Hledger, Self::Beancount, Self::Datev, Self::Csv];

    /// Its name on the command line and in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hledger => "hledger",
            Self::Beancount => "beancount",
            Self::Datev => "datev",
            Self::Csv => "csv",
        }
    }

    /// # Errors
    /// [`Error::Invalid`] for another name.
    pub fn parse(name: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|format| format.name() == name);
        found.ok_or_else(|| Error::invalid("format", "must be hledger, beancount, datev or csv"))
    }

    /// Name of a file of a month. DATEV's programs want theirs to begin with `EXTF_`.
    #[must_use]
    pub fn file_name(self, month: Month) -> String {
        match self {
            Self::Hledger => format!("{month}.journal"),
            Self::Beancount => format!("{month}.beancount"),
            Self::Datev => format!("EXTF_Buchungsstapel_{month}.csv"),
            Self::Csv => format!("journal_{month}.csv"),
        }
    }

    /// Media type of a file.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Hledger | Self::Beancount => "text/plain; charset=utf-8",
            Self::Datev => "text/csv; charset=windows-1252",
            Self::Csv => "text/csv; charset=utf-8",
        }
    }
}

/// A journal to write.
#[derive(Clone, Debug)]
pub struct JournalRequest {
    pub month: Month,
    pub format: JournalFormat,
    /// Only what this seller booked.
    pub seller: Option<String>,
    pub receivables: Receivables,
    pub accounts: AccountsFile,
}

/// What journals of a format begin with.
struct Frame {
    month: NaiveDate,
    /// When the month was closed; of an open month: now.
    at: DateTime<Utc>,
}

/// A posting and its account.
struct PlacedPosting {
    place: Place,
    account: ChartAccount,
    amount: i64,
}

/// Writes transactions in one format.
trait JournalWriter {
    /// Writes what one entry books. The first posting is on receivables.
    fn transaction(&mut self, entry: &BookedEntry, postings: &[PlacedPosting]) -> Result<(), Error>;
    /// Writes what follows the last transaction.
    fn finish(self: Box<Self>) -> Result<(), Error>;
}

/// Where a journal goes.
pub type JournalOutput<'a> = Box<dyn Write + Send + 'a>;

/// Writes a month's journal; returns the number of entries. The caller holds one snapshot.
///
/// # Errors
/// [`Error::Invalid`] when the accounts file lacks an account, or the format cannot hold the month;
/// [`Error::Internal`] when the output fails, or the books are broken: then the output is incomplete.
pub fn write(
    conn: &mut PgConnection,
    request: &JournalRequest,
    now: DateTime<Utc>,
    out: JournalOutput<'_>,
) -> Result<u64, Error> {
    let month = request.month.first_day();
    let sellers = booked::sellers(conn, month)?;
    match &request.seller {
        Some(seller) if !booked::is_seller(conn, seller)? => {
            return Err(Error::invalid("seller", "must be the key of a seller"));
        }
        None if request.format == JournalFormat::Datev && sellers.len() > 1 => {
            let rule = format!("must be named, for DATEV's books are one seller's: {}", sellers.join(", "));
            return Err(Error::invalid("seller", rule));
        }
        _ => {}
    }
    let numbers = debtors::numbers(conn)?;
    let chart = Chart::new(request.accounts.clone(), request.format, request.receivables, numbers)?;
    let frame = Frame { month, at: super::month::closed_at(conn, month)?.unwrap_or(now) };
    let mut writer: Box<dyn JournalWriter + '_> = match request.format {
        JournalFormat::Hledger => Box::new(hledger::Hledger::new(out, &frame)?),
        JournalFormat::Beancount => Box::new(beancount::Beancount::new(out, &frame)?),
        JournalFormat::Datev => Box::new(datev::Datev::new(out, &frame, &chart)?),
        JournalFormat::Csv => Box::new(csv::Csv::new(out)?),
    };
    let mut entries = 0;
    booked::each(conn, month, request.seller.as_deref(), |entry, content| {
        let mut placed = Vec::new();
        for posting in postings(entry, content)? {
            let account = chart.account(&posting.place, entry)?;
            placed.push(PlacedPosting { place: posting.place, account, amount: posting.amount });
        }
        entries += 1;
        writer.transaction(entry, &placed)
    })?;
    writer.finish()?;
    Ok(entries)
}

fn output_failed(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("the output failed: {error}"))
}

/// A currency as journals write it.
fn code(currency: &str) -> String {
    currency.to_ascii_uppercase()
}

/// What an entry is, for people: `invoice INV-2026-000001`.
fn title(entry: &BookedEntry) -> String {
    let kind = entry.kind.name().replace('_', " ");
    if entry.description.is_empty() { kind } else { format!("{kind} {}", entry.description) }
}

/// The month that an entry corrects, such as `2026-09`.
fn belongs_to(entry: &BookedEntry) -> Option<String> {
    entry.belongs_to.map(|month| Month::containing(month).to_string())
}
