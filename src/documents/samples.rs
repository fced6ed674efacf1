//! Documents that show all that a template can meet. A new template is checked with them.

use chrono::NaiveDate;
use rust_decimal::Decimal;

use super::content::{
    Address, Allowance, AppliedCredit, Document, DocumentKind, InvoiceReference, Line, LineKind, Party,
    PaymentAccount, TaxCategory, TaxSubtotal, Totals,
};
use super::languages;

/// An invoice and a credit note in each language, a draft, and one without anything that may lack.
pub(super) fn documents() -> Vec<Document> {
    let mut documents: Vec<Document> =
        languages::codes().flat_map(|language| [invoice(language), credit_note(language)]).collect();
    documents.push(Document { number: None, tax_inclusive: true, ..invoice("en") });
    documents.push(bare());
    documents
}

fn date(year: i32, month: u32, day: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(year, month, day).unwrap_or_default()
}

/// Two rates, a discount, an earlier credit, and a price below a cent.
pub(super) fn invoice(language: &str) -> Document {
    let standard = (TaxCategory::S, Decimal::from(19));
    Document {
        id: "inv_sample".to_owned(),
        kind: DocumentKind::Invoice,
        number: Some("2026-00042".to_owned()),
        issue_date: date(2026, 12, 1),
        due_date: Some(date(2026, 12, 15)),
        supply_from: Some(date(2026, 11, 1)),
        supply_to: Some(date(2026, 11, 30)),
        currency: "eur".to_owned(),
        language: language.to_owned(),
        tax_inclusive: false,
        seller: seller(),
        buyer: buyer(),
        buyer_reference: Some("04011000-12345-34".to_owned()),
        purchase_order: Some("PO-7731".to_owned()),
        invoice: None,
        reason: None,
        lines: vec![
            Line {
                from: Some(date(2026, 12, 1)),
                to: Some(date(2026, 12, 31)),
                ..line(1, "Pro", 4900, standard)
            },
            Line {
                kind: LineKind::Usage,
                quantity: Decimal::from(12_345_678),
                unit: Some("tokens".to_owned()),
                unit_price: Decimal::new(40, 2),
                base_quantity: Decimal::from(1_000_000),
                discount: 49,
                ..line(2, "Tokens", 494, standard)
            },
            line(3, "Handbook", 2000, (TaxCategory::Z, Decimal::ZERO)),
        ],
        allowances: vec![Allowance {
            coupon: "WELCOME".to_owned(),
            name: "Welcome".to_owned(),
            percent: Some(Decimal::TEN),
            amount: 539,
            net: 539,
            tax_category: standard.0,
            tax_percent: standard.1,
        }],
        taxes: vec![tax(standard, 4855, 922), tax((TaxCategory::Z, Decimal::ZERO), 2000, 0)],
        totals: Totals {
            subtotal: 7394,
            discount: 539,
            lines_net: 7394,
            allowances_net: 539,
            net: 6855,
            tax: 922,
            total: 7777,
            credited: 777,
            due: 7000,
        },
        credits: vec![AppliedCredit { description: "2026-C0007".to_owned(), amount: 777 }],
        payment_accounts: vec![
            PaymentAccount {
                name: "SEPA".to_owned(),
                holder: Some("Beispiel GmbH".to_owned()),
                bank: Some("Beispielbank".to_owned()),
                iban: Some("DE02120300000000202051".to_owned()),
                bic: Some("BYLADEM1001".to_owned()),
                number: None,
            },
            PaymentAccount {
                name: "PayPal".to_owned(),
                holder: None,
                bank: None,
                iban: None,
                bic: None,
                number: Some("pay@seller.example".to_owned()),
            },
        ],
        terms: Some("14 days.".to_owned()),
        note: Some("<b>Thank you & see you</b>".to_owned()),
    }
}

/// It takes back a line of [`invoice`].
pub(super) fn credit_note(language: &str) -> Document {
    let reverse = (TaxCategory::AE, Decimal::ZERO);
    Document {
        id: "cn_sample".to_owned(),
        kind: DocumentKind::CreditNote,
        number: Some("2026-C0008".to_owned()),
        due_date: None,
        invoice: Some(InvoiceReference {
            id: "inv_sample".to_owned(),
            number: "2026-00042".to_owned(),
            issue_date: date(2026, 12, 1),
        }),
        reason: Some("SLA".to_owned()),
        lines: vec![line(1, "Pro", 4900, reverse)],
        allowances: Vec::new(),
        taxes: vec![tax(reverse, 4900, 0)],
        totals: Totals {
            subtotal: 4900,
            lines_net: 4900,
            net: 4900,
            total: 4900,
            due: 4900,
            ..Totals::default()
        },
        credits: Vec::new(),
        payment_accounts: Vec::new(),
        terms: None,
        note: None,
        ..invoice(language)
    }
}

/// It has only what every document has.
fn bare() -> Document {
    Document {
        due_date: None,
        supply_from: None,
        supply_to: None,
        seller: Party { name: "Seller".to_owned(), ..Party::default() },
        buyer: Party { name: "Buyer".to_owned(), ..Party::default() },
        buyer_reference: None,
        purchase_order: None,
        invoice: None,
        reason: None,
        lines: Vec::new(),
        taxes: Vec::new(),
        totals: Totals::default(),
        ..credit_note("en")
    }
}

fn line(
    number: i32,
    description: &str,
    amount: i64,
    (tax_category, tax_percent): (TaxCategory, Decimal),
) -> Line {
    Line {
        number,
        kind: LineKind::Item,
        description: description.to_owned(),
        quantity: Decimal::ONE,
        unit: None,
        unit_price: Decimal::new(amount, 2),
        base_quantity: Decimal::ONE,
        amount,
        discount: 0,
        net: amount,
        tax: 0,
        tax_category,
        tax_percent,
        from: None,
        to: None,
    }
}

fn tax((category, percent): (TaxCategory, Decimal), base: i64, tax: i64) -> TaxSubtotal {
    let (exemption_reason, exemption_code) = (None, None);
    TaxSubtotal { name: "VAT".to_owned(), category, percent, base, tax, exemption_reason, exemption_code }
}

fn seller() -> Party {
    Party {
        name: "Beispiel GmbH".to_owned(),
        trading_name: Some("Beispiel Cloud".to_owned()),
        address: address("Hafenstraße 7", "20457", "Hamburg", "DE"),
        vat_id: Some("DE123456789".to_owned()),
        tax_number: Some("22/815/08154".to_owned()),
        registration_number: Some("HRB 12345".to_owned()),
        email: Some("billing@seller.example".to_owned()),
        phone: Some("+49 40 1234560".to_owned()),
        contact: Some("Erika Muster".to_owned()),
        electronic_address: None,
    }
}

fn buyer() -> Party {
    Party {
        name: "Exemple S.A.S.".to_owned(),
        address: address("12 rue de l’Exemple", "75011", "Paris", "FR"),
        vat_id: Some("FR12345678901".to_owned()),
        ..Party::default()
    }
}

fn address(street: &str, postal_code: &str, city: &str, country: &str) -> Address {
    Address {
        line1: Some(street.to_owned()),
        line2: None,
        postal_code: Some(postal_code.to_owned()),
        city: Some(city.to_owned()),
        region: None,
        country: Some(country.to_owned()),
    }
}
