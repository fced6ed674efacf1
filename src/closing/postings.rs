//! Double entries of what accounts of orgs booked. It is pure.
//!
//! Rules:
//! - The posting on receivables is the account's entry, with its sign. So receivables at the end of a month
//!   are the sum of all accounts' balances on that day. Credit that pays nothing yet stays in receivables.
//! - Revenue is what a line comes to after its discounts, without tax: discounts lower revenue (IFRS 15.47;
//!   HGB § 277 (1)).
//! - Tax is that of the document for each category and rate.
//! - A void takes back what credit notes left of its invoice.
//! - A write-off books all that is owed, tax included, as a loss. Whether and when the tax comes back differs
//!   between countries: the accountant books that.
//! - What a processor kept of a payment is a cost; the account of the processor gets the rest.

use std::collections::BTreeMap;

use chrono::NaiveDate;

use crate::documents::content::{Document, Line};
use crate::error::Error;
use crate::invoicing::account::EntryKind;
use crate::invoicing::amounts::TaxGroup;

/// What a posting is on. The accounts file says which account that is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// What the org owes.
    Receivable,
    /// What was earned with a kind of line (`fee`, `usage`, …) at a tax rate.
    Revenue {
        kind: &'static str,
        tax: TaxGroup,
        /// The part of the tax of this rate that belongs to these lines, with the posting's sign.
        tax_part: i64,
    },
    /// Tax that is owed.
    Tax(TaxGroup),
    /// Where money of a payment is: at its processor, or on the account on which it arrived.
    Money { processor: String, payment_account: Option<String> },
    /// What a processor kept.
    ProcessorFee { processor: String },
    /// What was given up.
    WriteOff,
    /// What was given up, and was paid after all.
    Recovery,
    /// Corrections by hand.
    Adjustment,
    /// What was owed when the org was taken over from another system.
    OpeningBalance,
}

/// A part of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posting {
    pub place: Place,
    /// In minor units; above 0: debit, below 0: credit.
    pub amount: i64,
}

/// What a transaction is about; it never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookedEntry {
    pub org_id: i64,
    /// Public id of the org.
    pub org: String,
    /// The org's name on its last document until then; its public id before the first.
    pub name: String,
    /// Key of the seller.
    pub seller: String,
    /// ISO 4217, lower case.
    pub currency: String,
    /// Number of the entry in the account.
    pub sequence: i64,
    pub kind: EntryKind,
    /// Public id of what was booked.
    pub document: String,
    /// Above 0: the org owes more.
    pub amount: i64,
    pub day: NaiveDate,
    /// First day of the closed month that it corrects.
    pub belongs_to: Option<NaiveDate>,
    /// For people: a document's number, a processor's reference, a reason.
    pub description: String,
}

impl BookedEntry {
    /// Its name in journals: `org_…/eur/12`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}/{}", self.org, self.currency, self.sequence)
    }
}

/// What an entry books, beside itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Booked {
    /// An invoice or a credit note.
    Document(Box<Document>),
    /// A void invoice, and the credit notes that took parts of it back before.
    Voided { invoice: Box<Document>, credit_notes: Vec<Document> },
    /// A payment, or money that went back of it.
    Money { processor: String, payment_account: Option<String>, fee: Option<i64> },
    /// Nothing else.
    Alone,
}

/// Amounts of a document by tax rate and kind of line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Earned {
    /// Without tax, after discounts.
    net: i64,
    tax: i64,
}

type EarnedByRate = BTreeMap<(TaxGroup, &'static str), Earned>;

/// Its rate; 19 and 19.00 are the same.
fn rate(line: &Line) -> TaxGroup {
    TaxGroup { category: line.tax_category, percent: line.tax_percent.normalize() }
}

/// Adds a document's lines, times `sign`.
fn add_lines(earned: &mut EarnedByRate, document: &Document, sign: i64) {
    for line in &document.lines {
        let charged = line.amount - line.discount;
        let net = if document.tax_inclusive { charged - line.tax } else { charged };
        let sum = earned.entry((rate(line), line.kind.name())).or_default();
        sum.net += sign * net;
        sum.tax += sign * line.tax;
    }
}

/// The tax of a document by category and rate: base and tax, times `sign`.
pub(super) fn add_taxes(sums: &mut BTreeMap<TaxGroup, (i64, i64)>, document: &Document, sign: i64) {
    for tax in &document.taxes {
        let group = TaxGroup { category: tax.category, percent: tax.percent.normalize() };
        let sum = sums.entry(group).or_default();
        sum.0 += sign * tax.base;
        sum.1 += sign * tax.tax;
    }
}

/// The postings of an entry, which add up to 0; the first is on receivables. Others of 0 are left out.
///
/// # Errors
/// [`Error::Internal`] when the document does not come to the entry's amount: the books are broken.
pub fn postings(entry: &BookedEntry, booked: &Booked) -> Result<Vec<Posting>, Error> {
    let mut postings = vec![Posting { place: Place::Receivable, amount: entry.amount }];
    match booked {
        Booked::Document(document) => {
            let mut earned = EarnedByRate::new();
            // An invoice raises what is owed and earned; a credit note lowers both.
            let sign = if entry.kind == EntryKind::CreditNote { 1 } else { -1 };
            add_lines(&mut earned, document, sign);
            postings.extend(earnings(&earned));
        }
        Booked::Voided { invoice, credit_notes } => {
            let mut earned = EarnedByRate::new();
            add_lines(&mut earned, invoice, 1);
            for note in credit_notes {
                add_lines(&mut earned, note, -1);
            }
            postings.extend(earnings(&earned));
        }
        Booked::Money { processor, payment_account, fee } => {
            let fee = fee.unwrap_or(0);
            let (processor, payment_account) = (processor.clone(), payment_account.clone());
            let cost = Place::ProcessorFee { processor: processor.clone() };
            let money = Place::Money { processor, payment_account };
            postings.push(Posting { place: money, amount: -entry.amount - fee });
            postings.push(Posting { place: cost, amount: fee });
        }
        Booked::Alone => {
            let place = match entry.kind {
                EntryKind::WriteOff => Place::WriteOff,
                EntryKind::Recovery => Place::Recovery,
                EntryKind::OpeningBalance => Place::OpeningBalance,
                _ => Place::Adjustment,
            };
            postings.push(Posting { place, amount: -entry.amount });
        }
    }
    let sum: i128 = postings.iter().map(|posting| i128::from(posting.amount)).sum();
    if sum != 0 {
        let what = format!(
            "entry {} books {}, but {} differs from that by {sum}: run `coulomb verify`",
            entry.id(),
            entry.amount,
            entry.document
        );
        return Err(Error::Internal(what));
    }
    postings.retain(|posting| posting.amount != 0 || posting.place == Place::Receivable);
    Ok(postings)
}

/// Revenue and tax, by rate.
fn earnings(earned: &EarnedByRate) -> Vec<Posting> {
    let mut postings = Vec::new();
    let mut taxes: BTreeMap<TaxGroup, i64> = BTreeMap::new();
    for (&(tax, kind), sum) in earned {
        let place = Place::Revenue { kind, tax, tax_part: sum.tax };
        postings.push(Posting { place, amount: sum.net });
        *taxes.entry(tax).or_default() += sum.tax;
    }
    postings.extend(taxes.into_iter().map(|(tax, amount)| Posting { place: Place::Tax(tax), amount }));
    postings
}

#[cfg(test)]
mod tests;
