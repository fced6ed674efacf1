//! What the page of a document shows: all of it as text in the document's language, in the order in which a
//! reader wants it. Templates arrange it; they compute nothing.
//!
//! `docs/templates.md` describes these fields to those who write templates.

use chrono::NaiveDate;
use serde::Serialize;

use super::Error;
use super::content::{
    Allowance, Document, DocumentKind, Line, Party, PaymentAccount, TaxCategory, TaxSubtotal,
};
use super::languages::{Labels, Language};

/// A label with what it names.
#[derive(Debug, Serialize)]
pub(super) struct Fact {
    label: String,
    value: String,
}

impl Fact {
    fn new(label: &str, value: impl Into<String>) -> Self {
        Self { label: label.to_owned(), value: value.into() }
    }

    fn some(label: &str, value: Option<&str>) -> Option<Self> {
        value.filter(|value| !value.is_empty()).map(|value| Self::new(label, value))
    }
}

/// All that a template can show.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    language: String,
    kind: DocumentKind,
    is_draft: bool,
    title: String,
    number: Option<String>,
    seller: Side,
    buyer: Side,
    facts: Vec<Fact>,
    lines: Vec<PageLine>,
    discounts: Vec<Discount>,
    taxes: Vec<Tax>,
    totals: Vec<Total>,
    due: Fact,
    accounts: Vec<Account>,
    payment_reference: Option<Fact>,
    terms: Option<String>,
    note: Option<String>,
    tax_inclusive: Option<String>,
    labels: &'static Labels,
}

/// Seller or buyer.
#[derive(Debug, Serialize)]
struct Side {
    name: String,
    trading_name: Option<String>,
    /// Lines of the postal address.
    address: Vec<String>,
    /// Numbers at authorities.
    numbers: Vec<Fact>,
    /// How to reach it.
    contact: Vec<Fact>,
}

#[derive(Debug, Serialize)]
struct PageLine {
    number: i32,
    description: String,
    period: Option<String>,
    quantity: String,
    unit: Option<String>,
    unit_price: String,
    per: Option<String>,
    tax: String,
    amount: String,
}

#[derive(Debug, Serialize)]
struct Discount {
    name: String,
    percent: Option<String>,
    tax: String,
    amount: String,
}

#[derive(Debug, Serialize)]
struct Tax {
    name: String,
    percent: String,
    base: String,
    amount: String,
    /// Why there is no tax.
    reason: Option<String>,
}

/// A row of the sums.
#[derive(Debug, Serialize)]
struct Total {
    label: String,
    value: String,
    /// Whether it sums up what stands above it.
    is_sum: bool,
}

#[derive(Debug, Serialize)]
struct Account {
    name: String,
    facts: Vec<Fact>,
}

/// Writes values in the language and the currency of a document.
struct Writer<'a> {
    document: &'a Document,
    language: &'static Language,
    labels: &'static Labels,
}

impl Page {
    /// # Errors
    ///
    /// [`Error::UnknownLanguage`].
    pub(super) fn of(document: &Document) -> Result<Self, Error> {
        let language = Language::of(&document.language)?;
        let writer = Writer { document, language, labels: &language.labels };
        let labels = writer.labels;
        let title = match document.kind {
            DocumentKind::Invoice => &labels.invoice,
            DocumentKind::CreditNote => &labels.credit_note,
        };
        let pays = document.kind == DocumentKind::Invoice && document.totals.due > 0;
        let accounts = if pays { document.payment_accounts.as_slice() } else { &[] };
        let reference = document.number.as_deref().filter(|_| !accounts.is_empty());
        Ok(Self {
            language: document.language.clone(),
            kind: document.kind,
            is_draft: document.number.is_none(),
            title: title.clone(),
            number: document.number.clone(),
            seller: writer.side(&document.seller),
            buyer: writer.side(&document.buyer),
            facts: writer.facts(),
            lines: document.lines.iter().map(|line| writer.line(line)).collect(),
            discounts: document.allowances.iter().map(|allowance| writer.discount(allowance)).collect(),
            taxes: document.taxes.iter().map(|tax| writer.tax(tax)).collect(),
            totals: writer.totals(),
            due: writer.due(),
            accounts: accounts.iter().map(|account| writer.account(account)).collect(),
            payment_reference: Fact::some(&labels.payment_reference, reference),
            terms: document.terms.clone(),
            note: document.note.clone(),
            tax_inclusive: document.tax_inclusive.then(|| labels.tax_inclusive.clone()),
            labels,
        })
    }
}

impl Writer<'_> {
    fn money(&self, minor: i64) -> String {
        self.language.money(minor, &self.document.currency)
    }

    /// An amount that is taken away.
    fn taken(&self, minor: i64) -> String {
        self.money(minor.saturating_neg())
    }

    /// Days, both included; one day if they are the same.
    fn period(&self, from: Option<NaiveDate>, to: Option<NaiveDate>) -> Option<String> {
        let date = |date| self.language.date(date);
        match (from, to) {
            (Some(from), Some(to)) if from != to => Some(format!("{} – {}", date(from), date(to))),
            (one, other) => one.or(other).map(date),
        }
    }

    /// Addresses name their countries if these are two.
    fn side(&self, party: &Party) -> Side {
        let labels = self.labels;
        let address = &party.address;
        let words = |words: [Option<&str>; 2]| {
            let words: Vec<&str> = words.into_iter().flatten().filter(|word| !word.is_empty()).collect();
            (!words.is_empty()).then(|| words.join(" "))
        };
        let (seller, buyer) = (&self.document.seller.address, &self.document.buyer.address);
        let country = address.country.clone().filter(|_| seller.country != buyer.country);
        let place = words([address.postal_code.as_deref(), address.city.as_deref()]);
        let lines = [address.line1.clone(), address.line2.clone(), place, address.region.clone()];
        let lines = lines.into_iter().chain([country]).flatten();
        let numbers = [
            Fact::some(&labels.vat_id, party.vat_id.as_deref()),
            Fact::some(&labels.tax_number, party.tax_number.as_deref()),
            Fact::some(&labels.registration_number, party.registration_number.as_deref()),
        ];
        let contact = [
            Fact::some(&labels.contact, party.contact.as_deref()),
            Fact::some(&labels.phone, party.phone.as_deref()),
            Fact::some(&labels.email, party.email.as_deref()),
        ];
        Side {
            name: party.name.clone(),
            trading_name: party.trading_name.clone(),
            address: lines.filter(|line| !line.is_empty()).collect(),
            numbers: numbers.into_iter().flatten().collect(),
            contact: contact.into_iter().flatten().collect(),
        }
    }

    fn facts(&self) -> Vec<Fact> {
        let (document, labels) = (self.document, self.labels);
        let supply = self.period(document.supply_from, document.supply_to);
        let due_date = document.due_date.map(|date| self.language.date(date));
        let invoice = document.invoice.as_ref().map(|invoice| {
            let date = labels.of_date.replace("{date}", &self.language.date(invoice.issue_date));
            format!("{} {date}", invoice.number)
        });
        [
            Some(Fact::new(&labels.issue_date, self.language.date(document.issue_date))),
            Fact::some(&labels.supply, supply.as_deref()),
            Fact::some(&labels.due_date, due_date.as_deref()),
            Fact::some(&labels.corrects, invoice.as_deref()),
            Fact::some(&labels.reason, document.reason.as_deref()),
            Fact::some(&labels.customer_reference, document.buyer_reference.as_deref()),
            Fact::some(&labels.purchase_order, document.purchase_order.as_deref()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn line(&self, line: &Line) -> PageLine {
        let with_unit = |number: String| match &line.unit {
            Some(unit) => format!("{number} {unit}"),
            None => number,
        };
        let base =
            (line.base_quantity != 1.into()).then(|| with_unit(self.language.number(line.base_quantity)));
        PageLine {
            number: line.number,
            description: line.description.clone(),
            period: self.period(line.from, line.to),
            quantity: self.language.number(line.quantity),
            unit: line.unit.clone(),
            unit_price: self.language.price(line.unit_price, &self.document.currency),
            per: base.map(|base| self.labels.per.replace("{quantity}", &base)),
            tax: self.language.percent(line.tax_percent),
            amount: self.money(line.amount),
        }
    }

    fn discount(&self, allowance: &Allowance) -> Discount {
        Discount {
            name: allowance.name.clone(),
            percent: allowance.percent.map(|percent| self.language.percent(percent)),
            tax: self.language.percent(allowance.tax_percent),
            amount: self.taken(allowance.amount),
        }
    }

    fn tax(&self, tax: &TaxSubtotal) -> Tax {
        let labels = self.labels;
        let usual = match tax.category {
            TaxCategory::S => None,
            TaxCategory::Z => Some(&labels.zero_rated),
            TaxCategory::E => Some(&labels.exempt),
            TaxCategory::AE => Some(&labels.reverse_charge),
            TaxCategory::K => Some(&labels.intra_community),
            TaxCategory::G => Some(&labels.export),
            TaxCategory::O => Some(&labels.out_of_scope),
        };
        Tax {
            name: tax.name.clone(),
            percent: self.language.percent(tax.percent),
            base: self.money(tax.base),
            amount: self.money(tax.tax),
            reason: tax.exemption_reason.clone().or_else(|| usual.cloned()),
        }
    }

    /// From the lines to the total, and what credit has paid of it.
    fn totals(&self) -> Vec<Total> {
        let (document, labels, sums) = (self.document, self.labels, &self.document.totals);
        let row = |label: &str, value: String| Total { label: label.to_owned(), value, is_sum: false };
        let sum = |label: &str, minor: i64| Total {
            label: label.to_owned(),
            value: self.money(minor),
            is_sum: true,
        };
        let mut rows = Vec::new();
        if sums.discount != 0 {
            rows.push(row(&labels.subtotal, self.money(sums.subtotal)));
            rows.push(row(&labels.discount, self.taken(sums.discount)));
        }
        if document.tax_inclusive {
            rows.push(sum(&labels.total, sums.total));
            rows.push(row(&labels.net, self.money(sums.net)));
            rows.push(row(&labels.included_tax, self.money(sums.tax)));
        } else {
            rows.push(row(&labels.net, self.money(sums.net)));
            rows.push(row(&labels.total_tax, self.money(sums.tax)));
            rows.push(sum(&labels.total, sums.total));
        }
        for credit in &document.credits {
            rows.push(row(
                &format!("{}: {}", labels.credited, credit.description),
                self.taken(credit.amount),
            ));
        }
        rows
    }

    fn due(&self) -> Fact {
        let (label, minor) = match self.document.kind {
            DocumentKind::Invoice => (&self.labels.due, self.document.totals.due),
            DocumentKind::CreditNote => (&self.labels.credit_total, self.document.totals.total),
        };
        Fact::new(label, self.money(minor))
    }

    fn account(&self, account: &PaymentAccount) -> Account {
        let labels = self.labels;
        let iban = account.iban.as_deref().map(in_fours);
        let facts = [
            Fact::some(&labels.account_holder, account.holder.as_deref()),
            Fact::some(&labels.bank, account.bank.as_deref()),
            Fact::some(&labels.iban, iban.as_deref()),
            Fact::some(&labels.bic, account.bic.as_deref()),
            Fact::some(&labels.account_number, account.number.as_deref()),
        ];
        Account { name: account.name.clone(), facts: facts.into_iter().flatten().collect() }
    }
}

/// An IBAN as ISO 13616 prints it: in groups of four.
fn in_fours(iban: &str) -> String {
    let letters: Vec<char> = iban.chars().filter(|letter| !letter.is_whitespace()).collect();
    letters.chunks(4).map(|group| group.iter().collect::<String>()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::documents::samples;

    fn names(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    found.insert(name.clone());
                    if name != "labels" {
                        names(value, found);
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| names(value, found)),
            _ => {}
        }
    }

    #[test]
    fn the_manual_of_templates_names_every_field() {
        let manual = include_str!("../../docs/templates.md");
        let mut found = BTreeSet::new();
        for document in samples::documents() {
            names(&serde_json::to_value(Page::of(&document).unwrap()).unwrap(), &mut found);
        }
        let missing: Vec<&String> =
            found.iter().filter(|name| !manual.contains(&format!("`{name}`"))).collect();
        assert_eq!(missing, [""; 0], "docs/templates.md does not name them");
    }

    #[test]
    fn addresses_name_their_countries_only_if_these_are_two() {
        let mut document = samples::invoice("en");
        let page = Page::of(&document).unwrap();
        assert_eq!(page.seller.address, ["Hafenstraße 7", "20457 Hamburg", "DE"]);
        assert_eq!(page.buyer.address, ["12 rue de l’Exemple", "75011 Paris", "FR"]);
        document.buyer.address.country = Some("DE".to_owned());
        assert_eq!(Page::of(&document).unwrap().seller.address, ["Hafenstraße 7", "20457 Hamburg"]);
    }

    #[test]
    fn accounts_stand_only_where_something_is_to_be_paid() {
        let mut document = samples::invoice("en");
        assert_eq!(Page::of(&document).unwrap().accounts.len(), 2);
        document.totals.due = 0;
        let page = Page::of(&document).unwrap();
        assert!(page.accounts.is_empty() && page.payment_reference.is_none());
    }

    #[test]
    fn sums_of_prices_with_tax_say_how_much_tax_is_in_them() {
        let mut document = samples::invoice("en");
        let rows = |document: &Document| {
            let page = Page::of(document).unwrap();
            let rows = page.totals.iter().map(|row| format!("{} {}", row.label, row.value));
            rows.collect::<Vec<_>>().join("; ")
        };
        let credit = "Paid from credit: 2026-C0007 −€7.77";
        let before = "Subtotal €73.94; Discount −€5.39";
        let net = "Total without tax €68.55; Tax €9.22; Total €77.77";
        assert_eq!(rows(&document), format!("{before}; {net}; {credit}"));
        document.tax_inclusive = true;
        let gross = "Total €77.77; Total without tax €68.55; Included tax €9.22";
        assert_eq!(rows(&document), format!("{before}; {gross}; {credit}"));
    }
}
