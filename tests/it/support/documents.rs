//! Documents with right sums, for tests of their forms. `Sale` says what is sold; the sums follow from the
//! rules in `docs/`, computed here in decimals and on their own.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use coulomb::documents::content::{
    Address, Allowance, AppliedCredit, Document, DocumentKind, ElectronicAddress, InvoiceReference, Line,
    LineKind, Party, PaymentAccount, TaxCategory, TaxSubtotal, Totals,
};
use coulomb::money::decimal_places;
use rust_decimal::{Decimal, RoundingStrategy};

pub fn date(text: &str) -> NaiveDate {
    text.parse().expect("a date")
}

fn decimal(text: &str) -> Decimal {
    text.parse().expect("a decimal")
}

/// A document in the making.
#[derive(Clone, Debug)]
pub struct Sale {
    document: Document,
    /// Percent and name of discounts on all lines.
    discounts: Vec<(Decimal, String)>,
}

impl Sale {
    /// An invoice of a German seller to a German buyer, in English, without lines.
    pub fn new(currency: &str) -> Self {
        let document = Document {
            id: "inv_1".to_owned(),
            kind: DocumentKind::Invoice,
            number: Some("2026-00042".to_owned()),
            issue_date: date("2026-12-01"),
            due_date: Some(date("2026-12-15")),
            supply_from: Some(date("2026-11-01")),
            supply_to: Some(date("2026-11-30")),
            currency: currency.to_owned(),
            language: "en".to_owned(),
            tax_inclusive: false,
            seller: seller(),
            buyer: buyer(),
            buyer_reference: Some("04011000-12345-34".to_owned()),
            purchase_order: Some("PO-7731".to_owned()),
            invoice: None,
            reason: None,
            lines: Vec::new(),
            allowances: Vec::new(),
            taxes: Vec::new(),
            totals: Totals::default(),
            credits: Vec::new(),
            payment_accounts: vec![account()],
            terms: Some("Payable within 14 days without deduction.".to_owned()),
            note: None,
        };
        Self { document, discounts: Vec::new() }
    }

    /// A line at 19 %: how many, at which price.
    pub fn line(self, description: &str, quantity: &str, price: &str) -> Self {
        self.taxed(description, quantity, price, TaxCategory::S, "19")
    }

    pub fn taxed(
        mut self,
        description: &str,
        quantity: &str,
        price: &str,
        tax_category: TaxCategory,
        percent: &str,
    ) -> Self {
        let number = i32::try_from(self.document.lines.len()).expect("few lines") + 1;
        self.document.lines.push(Line {
            number,
            kind: LineKind::Item,
            description: description.to_owned(),
            quantity: decimal(quantity),
            unit: None,
            unit_price: decimal(price),
            base_quantity: Decimal::ONE,
            amount: 0,
            discount: 0,
            net: 0,
            tax: 0,
            tax_category,
            tax_percent: decimal(percent),
            from: None,
            to: None,
        });
        self
    }

    /// The price of the last line is for so many of these units.
    pub fn per(mut self, base: &str, unit: &str) -> Self {
        let line = self.document.lines.last_mut().expect("a line");
        (line.base_quantity, line.unit, line.kind) = (decimal(base), Some(unit.to_owned()), LineKind::Usage);
        self
    }

    /// The last line is for these days.
    pub fn during(mut self, from: &str, to: &str) -> Self {
        let line = self.document.lines.last_mut().expect("a line");
        (line.from, line.to) = (Some(date(from)), Some(date(to)));
        self
    }

    /// A discount on all lines.
    pub fn discount(mut self, percent: &str, name: &str) -> Self {
        self.discounts.push((decimal(percent), name.to_owned()));
        self
    }

    /// Earlier credit pays so many minor units.
    pub fn credit(mut self, amount: i64) -> Self {
        self.document.credits.push(AppliedCredit { description: "2026-C0007".to_owned(), amount });
        self
    }

    /// Prices include tax.
    pub fn inclusive(mut self) -> Self {
        self.document.tax_inclusive = true;
        self
    }

    pub fn language(mut self, language: &str) -> Self {
        self.document.language = language.to_owned();
        self
    }

    /// It is a credit note.
    pub fn taken_back(mut self) -> Self {
        let document = &mut self.document;
        document.id = "cn_1".to_owned();
        document.kind = DocumentKind::CreditNote;
        document.number = Some("2026-C0008".to_owned());
        (document.due_date, document.terms) = (None, None);
        document.invoice = Some(InvoiceReference {
            id: "inv_1".to_owned(),
            number: "2026-00041".to_owned(),
            issue_date: date("2026-11-01"),
        });
        document.reason = Some("Service was not available for two days".to_owned());
        self
    }

    pub fn with(mut self, change: impl FnOnce(&mut Document)) -> Self {
        change(&mut self.document);
        self
    }

    /// The document, with its sums.
    pub fn document(mut self) -> Document {
        let document = &mut self.document;
        let places = u32::from(decimal_places(&document.currency));
        let minor = Decimal::from(10_i64.pow(places));
        for line in &mut document.lines {
            line.amount = rounded(line.quantity * line.unit_price / line.base_quantity * minor);
            line.net = line.amount;
        }
        let mut groups: BTreeMap<(TaxCategory, Decimal), Vec<usize>> = BTreeMap::new();
        for (at, line) in document.lines.iter().enumerate() {
            groups.entry((line.tax_category, line.tax_percent.normalize())).or_default().push(at);
        }
        for ((category, percent), lines) in groups {
            group(document, &self.discounts, category, percent, &lines);
        }
        let totals = &mut document.totals;
        totals.subtotal = document.lines.iter().map(|line| line.amount).sum();
        totals.discount = document.allowances.iter().map(|allowance| allowance.amount).sum();
        totals.lines_net = document.lines.iter().map(|line| line.net).sum();
        totals.allowances_net = document.allowances.iter().map(|allowance| allowance.net).sum();
        totals.net = totals.lines_net - totals.allowances_net;
        totals.tax = document.taxes.iter().map(|tax| tax.tax).sum();
        totals.total = totals.net + totals.tax;
        totals.credited = document.credits.iter().map(|credit| credit.amount).sum();
        totals.due = totals.total - totals.credited;
        self.document
    }
}

/// Discounts, tax and net amounts of the lines of one category and rate.
fn group(
    document: &mut Document,
    discounts: &[(Decimal, String)],
    category: TaxCategory,
    percent: Decimal,
    lines: &[usize],
) {
    let factor = Decimal::ONE + percent / Decimal::ONE_HUNDRED;
    let amount: i64 = lines.iter().map(|at| document.lines[*at].amount).sum();
    let mut left = amount;
    let first = document.allowances.len();
    for (discount, name) in discounts {
        let amount = rounded(Decimal::from(left) * discount / Decimal::ONE_HUNDRED);
        left -= amount;
        document.allowances.push(Allowance {
            coupon: name.to_uppercase(),
            name: name.clone(),
            percent: Some(*discount),
            amount,
            net: amount,
            tax_category: category,
            tax_percent: percent,
        });
    }
    let (base, tax) = if document.tax_inclusive {
        let base = rounded(Decimal::from(left) / factor);
        let net = rounded(Decimal::from(amount) / factor);
        let amounts: Vec<i64> = lines.iter().map(|at| document.lines[*at].amount).collect();
        for (at, part) in lines.iter().zip(shared(net, &amounts)) {
            document.lines[*at].net = part;
        }
        let allowances = &mut document.allowances[first..];
        let amounts: Vec<i64> = allowances.iter().map(|allowance| allowance.amount).collect();
        for (allowance, part) in allowances.iter_mut().zip(shared(net - base, &amounts)) {
            allowance.net = part;
        }
        (base, left - base)
    } else {
        (left, rounded(Decimal::from(left) * percent / Decimal::ONE_HUNDRED))
    };
    document.taxes.push(TaxSubtotal {
        name: "VAT".to_owned(),
        category,
        percent,
        base,
        tax,
        exemption_reason: None,
        exemption_code: None,
    });
}

/// Half away from zero.
fn rounded(number: Decimal) -> i64 {
    let whole = number.round_dp_with_strategy(0, RoundingStrategy::MidpointAwayFromZero);
    i64::try_from(whole).expect("a small amount")
}

/// `whole` in parts that are proportional to `weights`; the last part takes what rounding leaves.
fn shared(whole: i64, weights: &[i64]) -> Vec<i64> {
    let sum: i64 = weights.iter().sum();
    let part = |weight: &i64| match sum {
        0 => 0,
        _ => i64::try_from(i128::from(whole) * i128::from(*weight) / i128::from(sum)).expect("a part"),
    };
    let mut parts: Vec<i64> = weights.iter().map(part).collect();
    let rest = whole - parts.iter().sum::<i64>();
    if let Some(last) = parts.last_mut() {
        *last += rest;
    }
    parts
}

pub fn address(street: &str, postal_code: &str, city: &str, country: &str) -> Address {
    Address {
        line1: Some(street.to_owned()),
        postal_code: Some(postal_code.to_owned()),
        city: Some(city.to_owned()),
        country: Some(country.to_owned()),
        ..Address::default()
    }
}

fn electronic(scheme: &str, id: &str) -> Option<ElectronicAddress> {
    Some(ElectronicAddress { scheme: scheme.to_owned(), id: id.to_owned() })
}

fn seller() -> Party {
    Party {
        name: "Hafenlicht Software GmbH".to_owned(),
        trading_name: Some("Hafenlicht".to_owned()),
        address: address("Hafenstraße 7", "20457", "Hamburg", "DE"),
        vat_id: Some("DE123456789".to_owned()),
        tax_number: Some("22/815/08154".to_owned()),
        registration_number: Some("HRB 12345".to_owned()),
        email: Some("billing@hafenlicht.example".to_owned()),
        phone: Some("+49 40 1234560".to_owned()),
        contact: Some("Erika Muster".to_owned()),
        electronic_address: electronic("9930", "DE123456789"),
    }
}

fn buyer() -> Party {
    Party {
        name: "Żółw & Söhne KG".to_owned(),
        address: address("Marktplatz 2", "80331", "München", "DE"),
        vat_id: Some("DE987654321".to_owned()),
        email: Some("einkauf@zolw.example".to_owned()),
        electronic_address: electronic("9930", "DE987654321"),
        ..Party::default()
    }
}

pub fn account() -> PaymentAccount {
    PaymentAccount {
        name: "Bank transfer".to_owned(),
        holder: Some("Hafenlicht Software GmbH".to_owned()),
        bank: Some("Deutsche Kreditbank".to_owned()),
        iban: Some("DE02120300000000202051".to_owned()),
        bic: Some("BYLADEM1001".to_owned()),
        number: None,
    }
}
