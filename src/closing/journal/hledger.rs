//! hledger's journal format (<https://hledger.org/hledger.html#journal>).
//!
//! All accounts and currencies are declared at the end, so `hledger check --strict` accepts each file alone,
//! and files of several months together.

use std::collections::BTreeSet;

use super::{
    BookedEntry, Frame, JournalOutput, JournalWriter, PlacedPosting, belongs_to, code, output_failed, title,
};
use crate::error::Error;
use crate::money::{MajorUnits, decimal_places};

pub(super) struct Hledger<'a> {
    out: JournalOutput<'a>,
    accounts: BTreeSet<String>,
    currencies: BTreeSet<String>,
}

impl<'a> Hledger<'a> {
    pub(super) fn new(mut out: JournalOutput<'a>, frame: &Frame) -> Result<Self, Error> {
        let month = frame.month.format("%Y-%m");
        write!(out, "; Coulomb, {month}\ndecimal-mark .\n").map_err(output_failed)?;
        Ok(Self { out, accounts: BTreeSet::new(), currencies: BTreeSet::new() })
    }
}

/// Text on the line of a transaction: `;` begins a comment and `|` ends the payee.
fn line(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() {
                ' '
            } else if matches!(c, ';' | '|') {
                ','
            } else {
                c
            }
        })
        .collect()
}

/// The value of a tag ends at a comma.
fn tag(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || c == ',' { ' ' } else { c }).collect()
}

impl JournalWriter for Hledger<'_> {
    fn transaction(&mut self, entry: &BookedEntry, postings: &[PlacedPosting]) -> Result<(), Error> {
        let out = &mut self.out;
        let (name, title) = (line(&entry.name), line(&title(entry)));
        writeln!(out, "\n{} * {name} | {title}", entry.day).map_err(output_failed)?;
        let mut tags = vec![
            ("entry", entry.id()),
            ("document", tag(&entry.document)),
            ("org", entry.org.clone()),
            ("seller", entry.seller.clone()),
        ];
        tags.extend(belongs_to(entry).map(|month| ("belongs-to", month)));
        let tags: Vec<String> = tags.into_iter().map(|(name, value)| format!("{name}:{value}")).collect();
        writeln!(out, "    ; {}", tags.join(", ")).map_err(output_failed)?;
        let currency = code(&entry.currency);
        for posting in postings {
            let (name, amount) = (&posting.account.name, MajorUnits::new(posting.amount, &entry.currency));
            writeln!(out, "    {name}  {amount} {currency}").map_err(output_failed)?;
            if !self.accounts.contains(name) {
                self.accounts.insert(name.clone());
            }
        }
        self.currencies.insert(entry.currency.clone());
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        let out = &mut self.out;
        writeln!(out).map_err(output_failed)?;
        for currency in &self.currencies {
            let zeros = "0".repeat(usize::from(decimal_places(currency)));
            writeln!(out, "commodity 1000.{zeros} {}", code(currency)).map_err(output_failed)?;
        }
        for account in &self.accounts {
            writeln!(out, "account {account}").map_err(output_failed)?;
        }
        out.flush().map_err(output_failed)
    }
}
