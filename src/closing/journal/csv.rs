//! Postings as CSV (RFC 4180, UTF-8): a line for each, for any other bookkeeping.

use ::csv::{Terminator, WriterBuilder};

use super::{BookedEntry, JournalOutput, JournalWriter, PlacedPosting, belongs_to, code, output_failed};
use crate::closing::postings::Place;
use crate::error::Error;
use crate::export::csv::neutral;
use crate::money::MajorUnits;

const COLUMNS: [&str; 15] = [
    "entry",
    "day",
    "seller",
    "org",
    "name",
    "kind",
    "document",
    "description",
    "belongs_to",
    "account",
    "currency",
    "debit",
    "credit",
    "tax_category",
    "tax_percent",
];

pub(super) struct Csv<'a> {
    out: ::csv::Writer<JournalOutput<'a>>,
}

impl<'a> Csv<'a> {
    pub(super) fn new(out: JournalOutput<'a>) -> Result<Self, Error> {
        let mut out = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(out);
        out.write_record(COLUMNS).map_err(output_failed)?;
        Ok(Self { out })
    }
}

impl JournalWriter for Csv<'_> {
    fn transaction(&mut self, entry: &BookedEntry, postings: &[PlacedPosting]) -> Result<(), Error> {
        for posting in postings {
            let (debit, credit) = if posting.amount < 0 {
                (String::new(), exact(posting.amount, &entry.currency).trim_start_matches('-').to_owned())
            } else {
                (exact(posting.amount, &entry.currency), String::new())
            };
            let (category, percent) = match &posting.place {
                Place::Revenue { tax, .. } | Place::Tax(tax) => {
                    (tax.category.code(), tax.percent.to_string())
                }
                _ => ("", String::new()),
            };
            let cells = [
                entry.id(),
                entry.day.to_string(),
                entry.seller.clone(),
                entry.org.clone(),
                neutral(&entry.name).into_owned(),
                entry.kind.name().to_owned(),
                entry.document.clone(),
                neutral(&entry.description).into_owned(),
                belongs_to(entry).unwrap_or_default(),
                neutral(&posting.account.name).into_owned(),
                code(&entry.currency),
                debit,
                credit,
                category.to_owned(),
                percent,
            ];
            self.out.write_record(cells).map_err(output_failed)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        self.out.flush().map_err(output_failed)
    }
}

fn exact(amount: i64, currency: &str) -> String {
    MajorUnits::new(amount, currency).to_string()
}
