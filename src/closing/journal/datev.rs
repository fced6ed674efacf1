//! DATEV's Buchungsstapel: EXTF 700, category 21, version 13.
//!
//! Source of header, columns and lengths: DATEV, "DATEV-Format", "Einstieg" and "Buchungsstapel"
//! (<https://developer.datev.de/datev/platform/de/dtvf>).
//!
//! A row is a double entry by itself: Konto is the org's debtor, Gegenkonto what the posting is on. DATEV
//! takes the tax out of the amounts on accounts with an automatic function or a key, row by row, so its tax
//! may differ by a cent from the document's. Where the accounts file says so, tax has a row of its own.

use std::collections::BTreeMap;

use chrono::{Datelike, Months, NaiveDate};
use rust_decimal::{Decimal, RoundingStrategy};

use super::windows_1252::encode;
use super::{BookedEntry, Frame, JournalOutput, JournalWriter, PlacedPosting, belongs_to, output_failed};
use crate::closing::accounts_file::DatevSettings;
use crate::closing::chart::{Chart, ChartAccount};
use crate::closing::postings::Place;
use crate::error::Error;
use crate::money::decimal_places;

/// The names of the columns, which stand in the second line.
const COLUMNS: &str = include_str!("datev_columns.txt");
/// Columns of numbers and dates, from 1 on. The others are text, which stands in quotes.
const NUMBERS: [usize; 37] = [
    1, 4, 5, 7, 8, 10, 13, 15, 17, 18, 19, 39, 41, 43, 44, 45, 46, 47, 88, 89, 90, 92, 93, 94, 99, 100, 101,
    104, 106, 108, 111, 113, 114, 115, 116, 117, 119,
];
const WIDTH: usize = 125;

pub(super) struct Datev<'a> {
    out: JournalOutput<'a>,
    settings: DatevSettings,
}

impl<'a> Datev<'a> {
    pub(super) fn new(out: JournalOutput<'a>, frame: &Frame, chart: &Chart) -> Result<Self, Error> {
        let settings = chart.datev()?.clone();
        let mut datev = Self { out, settings };
        let header = datev.header(frame);
        datev.line(&header)?;
        datev.line(COLUMNS.trim_end())?;
        Ok(datev)
    }

    fn header(&self, frame: &Frame) -> String {
        let settings = &self.settings;
        let last = frame.month.checked_add_months(Months::new(1)).and_then(|next| next.pred_opt());
        let day = |day: NaiveDate| day.format("%Y%m%d").to_string();
        let fields = [
            quoted("EXTF"),
            "700".to_owned(),
            "21".to_owned(),
            quoted("Buchungsstapel"),
            "13".to_owned(),
            frame.at.format("%Y%m%d%H%M%S%3f").to_string(),
            String::new(),
            quoted(""),
            quoted("Coulomb"),
            quoted(""),
            settings.consultant.to_string(),
            settings.client.to_string(),
            day(year_start(&settings.year_start, frame.month)),
            settings.account_length.to_string(),
            day(frame.month),
            day(last.unwrap_or(frame.month)),
            quoted(&format!("Coulomb {}", frame.month.format("%Y-%m"))),
            quoted(""),
            // Finanzbuchführung; for every purpose.
            "1".to_owned(),
            "0".to_owned(),
            u8::from(settings.locked).to_string(),
            quoted(&settings.currency.to_ascii_uppercase()),
            String::new(),
            quoted(""),
            String::new(),
            String::new(),
            quoted(&settings.chart),
            String::new(),
            String::new(),
            quoted(""),
            quoted(""),
        ];
        fields.join(";")
    }

    fn line(&mut self, line: &str) -> Result<(), Error> {
        let mut bytes = encode(line);
        bytes.extend(b"\r\n");
        self.out.write_all(&bytes).map_err(output_failed)
    }

    /// A row: the debtor and a posting on `account`.
    fn row(
        &mut self,
        entry: &BookedEntry,
        debtor: &str,
        (account, amount): (&ChartAccount, i64),
    ) -> Result<(), Error> {
        if amount == 0 {
            return Ok(());
        }
        let settings = &self.settings;
        let own_amount = decimal(amount.unsigned_abs(), &entry.currency)?;
        let mut cells: BTreeMap<usize, String> = BTreeMap::new();
        cells.insert(1, money(own_amount)?);
        // A credit on the other account is a debit on the debtor.
        cells.insert(2, if amount < 0 { "S" } else { "H" }.to_owned());
        cells.insert(3, entry.currency.to_ascii_uppercase());
        if entry.currency != settings.currency {
            let rate = settings.rates.get(&entry.currency).copied().ok_or_else(|| {
                let rule = format!("must have datev.rates.{}: this month has such postings", entry.currency);
                Error::invalid("accounts", rule)
            })?;
            let base = own_amount.checked_div(rate).unwrap_or_default();
            let base = base.round_dp_with_strategy(2, RoundingStrategy::MidpointAwayFromZero);
            cells.insert(4, format!("{:.6}", rate.normalize()).replace('.', ","));
            cells.insert(5, money(base)?);
            cells.insert(6, settings.currency.to_ascii_uppercase());
        }
        cells.insert(7, debtor.to_owned());
        cells.insert(8, account.name.clone());
        cells.insert(9, account.tax_key.clone().unwrap_or_default());
        cells.insert(10, entry.day.format("%d%m").to_string());
        cells.insert(11, voucher(entry));
        cells.insert(14, cut(&format!("{} {}", entry.name, entry.description), 60));
        cells.insert(48, "Buchung".to_owned());
        cells.insert(49, cut(&entry.id(), 210));
        if let Some(month) = belongs_to(entry) {
            cells.insert(50, "Gehört zu".to_owned());
            cells.insert(51, month);
        }
        cells.insert(114, u8::from(settings.locked).to_string());
        let line: Vec<String> = (1..=WIDTH)
            .map(|column| {
                let cell = cells.remove(&column).unwrap_or_default();
                if NUMBERS.contains(&column) || column > 121 && column != 123 { cell } else { quoted(&cell) }
            })
            .collect();
        self.line(&line.join(";"))
    }
}

impl JournalWriter for Datev<'_> {
    fn transaction(&mut self, entry: &BookedEntry, postings: &[PlacedPosting]) -> Result<(), Error> {
        let Some((receivable, postings)) = postings.split_first() else { return Ok(()) };
        let debtor = &receivable.account.name;
        let mut included: BTreeMap<_, i64> = BTreeMap::new();
        for posting in postings {
            let amount = match &posting.place {
                Place::Revenue { tax, tax_part, .. } if posting.account.tax_included => {
                    *included.entry(*tax).or_default() += tax_part;
                    posting.amount + tax_part
                }
                // Taxes follow the revenue of their rate.
                Place::Tax(tax) => posting.amount - included.get(tax).copied().unwrap_or(0),
                _ => posting.amount,
            };
            self.row(entry, debtor, (&posting.account, amount))?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        self.out.flush().map_err(output_failed)
    }
}

fn quoted(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("\"{}\"", plain.replace('"', "\"\""))
}

fn cut(text: &str, length: usize) -> String {
    text.chars().take(length).collect()
}

/// Belegfeld 1: a document's number, else the public id of what was booked. It has letters, digits and
/// `$%&*+-/` only, at most 36.
fn voucher(entry: &BookedEntry) -> String {
    use crate::invoicing::account::EntryKind as Kind;
    let has_number =
        matches!(entry.kind, Kind::Invoice | Kind::CreditNote | Kind::Void | Kind::WriteOff | Kind::Recovery);
    let text = if has_number && !entry.description.is_empty() { &entry.description } else { &entry.document };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "$%&*+-/_".contains(c);
    text.chars().map(|c| if is_plain(c) { c } else { '-' }).take(36).collect()
}

/// An amount in major units; DATEV has two decimal places.
fn decimal(minor: u64, currency: &str) -> Result<Decimal, Error> {
    let places = decimal_places(currency);
    if places > 2 {
        let rule = format!("must be another one: DATEV has no third decimal place, which {currency} has");
        return Err(Error::invalid("format", rule));
    }
    let minor = i128::from(minor);
    Ok(Decimal::from_i128_with_scale(minor, u32::from(places)))
}

fn money(amount: Decimal) -> Result<String, Error> {
    if amount >= Decimal::from(10_000_000_000_i64) {
        let rule = format!("must be another one: {amount} has more than DATEV's 10 digits");
        return Err(Error::invalid("format", rule));
    }
    Ok(format!("{amount:.2}").replace('.', ","))
}

/// First day of the financial year that a month is in.
fn year_start(month_and_day: &str, month: NaiveDate) -> NaiveDate {
    let start = |year: i32| format!("{year:04}-{month_and_day}").parse::<NaiveDate>().ok();
    let this = start(month.year()).filter(|start| *start <= month);
    this.or_else(|| start(month.year() - 1)).unwrap_or(month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_in_the_financial_year_that_began_last() {
        let day = |text: &str| text.parse::<NaiveDate>().expect("a day");
        for (start, month, expected) in [
            ("01-01", "2026-01-01", "2026-01-01"),
            ("01-01", "2026-12-01", "2026-01-01"),
            ("07-01", "2026-06-01", "2025-07-01"),
            ("07-01", "2026-07-01", "2026-07-01"),
        ] {
            assert_eq!(year_start(start, day(month)), day(expected), "{start} {month}");
        }
    }

    #[test]
    fn amounts_have_a_comma_and_two_places() {
        for (minor, currency, expected) in
            [(5, "eur", "0,05"), (123_456, "usd", "1234,56"), (500, "jpy", "500,00")]
        {
            assert_eq!(money(decimal(minor, currency).expect("two places")).expect("small"), expected);
        }
        assert!(decimal(1, "kwd").is_err(), "three places");
        assert!(money(decimal(1_000_000_000_000, "eur").expect("two places")).is_err(), "eleven digits");
    }
}
