//! A document in the model of EN 16931. The business terms (`BT-…`) and groups (`BG-…`) are those of
//! EN 16931-1, table 2.

use chrono::{Datelike, NaiveDate};
use en16931::invoice::{
    Code, Contact, Delivery, DocumentAllowanceCharge, DocumentTotals, Item, ItemAttribute, LineVat, Period,
    PostalAddress, PrecedingInvoice, PriceDetails, VatBreakdown,
};
use en16931::{Date, DocumentReference, Identifier, Invoice, InvoiceLine, Percentage};
use rust_decimal::Decimal;

use super::amounts::{amount, price};
use super::{Profile, payment};
use crate::documents::Error;
use crate::documents::content::{
    Address, Allowance, Document, DocumentKind, Line, Party, TaxCategory, TaxSubtotal,
};
use crate::documents::languages::{Labels, Language};

/// BT-23 of Peppol: an invoice without an order beforehand.
const PEPPOL_PROCESS: &str = "urn:fdc:peppol.eu:2017:poacc:billing:01:1.0";
/// The scheme of e-mail addresses among electronic addresses.
const EMAIL: &str = "EM";
/// One piece, in the list of units (UN/ECE recommendation 20).
const PIECE: &str = "C62";
/// Units that people name, and their codes.
const UNITS: [(&str, &str); 16] = [
    ("second", "SEC"),
    ("minute", "MIN"),
    ("hour", "HUR"),
    ("day", "DAY"),
    ("week", "WEE"),
    ("month", "MON"),
    ("year", "ANN"),
    ("byte", "AD"),
    ("kb", "2P"),
    ("mb", "4L"),
    ("gb", "E34"),
    ("tb", "E35"),
    ("kwh", "KWH"),
    ("kg", "KGM"),
    ("km", "KMT"),
    ("piece", PIECE),
];

/// The document in the standard's model, whether its rules hold or not.
///
/// # Errors
///
/// [`Error::UnknownLanguage`].
pub(super) fn of(document: &Document, profile: Profile) -> Result<Invoice, Error> {
    let labels = &Language::of(&document.language)?.labels;
    let currency = document.currency.as_str();
    let has_vat_ids = !document.taxes.iter().any(|tax| tax.category == TaxCategory::O);
    let mut invoice = head(document, labels);
    invoice.business_process = (profile != Profile::En16931).then(|| PEPPOL_PROCESS.to_owned());
    invoice.seller = party(&document.seller, profile, has_vat_ids);
    invoice.buyer = party(&document.buyer, profile, has_vat_ids);
    invoice.buyer.tax_registration = None;
    invoice.delivery = delivery(document);
    invoice.invoicing_period = period(document);
    invoice.payment = payment::instructions(document, labels);
    invoice.allowances = document.allowances.iter().map(|one| allowance(one, currency)).collect();
    invoice.vat_breakdown = document.taxes.iter().map(|tax| breakdown(tax, labels, currency)).collect();
    if profile == Profile::XRechnung {
        // BR-DE-14 wants a rate in each row, also of what is outside the scope of VAT.
        for row in &mut invoice.vat_breakdown {
            row.rate = row.rate.or(Some(Percentage::ZERO));
        }
    }
    invoice.lines = document.lines.iter().map(|one| line(one, currency)).collect();
    invoice.totals = totals(document);
    Ok(invoice)
}

/// What stands before the parties.
fn head(document: &Document, labels: &Labels) -> Invoice {
    let mut invoice = Invoice::default();
    invoice.number = document.number.clone();
    invoice.issue_date = day(document.issue_date);
    invoice.currency = Some(Code::new(document.currency.to_ascii_uppercase()));
    invoice.buyer_reference = filled(document.buyer_reference.as_deref());
    invoice.purchase_order_reference = filled(document.purchase_order.as_deref()).map(DocumentReference::new);
    invoice.payment_terms = filled(document.terms.as_deref());
    let notes = [document.reason.as_deref(), document.note.as_deref()];
    invoice.notes = notes.into_iter().filter_map(filled).map(Into::into).collect();
    let before = document.invoice.iter().map(|invoice| PrecedingInvoice {
        reference: DocumentReference::new(&invoice.number),
        issue_date: day(invoice.issue_date),
    });
    invoice.preceding_invoices = before.collect();
    // The types of documents are those of UNTDID 1001.
    match document.kind {
        DocumentKind::Invoice => {
            invoice.kind = en16931::DocumentKind::Invoice;
            invoice.type_code = Some(Code::new("380"));
            invoice.due_date = document.due_date.and_then(day);
        }
        // UBL has no due date for it, and BR-CO-25 wants terms where there is none.
        DocumentKind::CreditNote => {
            invoice.kind = en16931::DocumentKind::CreditNote;
            invoice.type_code = Some(Code::new("381"));
            invoice.payment_terms = invoice.payment_terms.or_else(|| Some(labels.credit_total.clone()));
        }
    }
    invoice
}

pub(super) fn filled(text: Option<&str>) -> Option<String> {
    text.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn day(date: NaiveDate) -> Option<Date> {
    Date::new(date.year(), u8::try_from(date.month()).ok()?, u8::try_from(date.day()).ok()?).ok()
}

/// BG-4 or BG-7. A document outside the scope of VAT has no VAT ids: BR-O-02.
fn party(party: &Party, profile: Profile, has_vat_ids: bool) -> en16931::invoice::Party {
    let email = || filled(party.email.as_deref()).map(|email| Identifier::schemed(email, EMAIL));
    let electronic = party.electronic_address.as_ref();
    let electronic = electronic.map(|address| Identifier::schemed(&address.id, &address.scheme));
    let electronic = match profile {
        Profile::XRechnung => electronic.or_else(email),
        Profile::En16931 | Profile::Peppol => electronic,
    };
    en16931::invoice::Party {
        name: filled(Some(&party.name)),
        trading_name: filled(party.trading_name.as_deref()),
        legal_registration: filled(party.registration_number.as_deref()).map(Identifier::new),
        vat_identifier: filled(party.vat_id.as_deref()).filter(|_| has_vat_ids),
        tax_registration: filled(party.tax_number.as_deref()),
        electronic_address: electronic,
        address: postal(&party.address),
        contact: Contact {
            name: filled(party.contact.as_deref()),
            phone: filled(party.phone.as_deref()),
            email: filled(party.email.as_deref()),
        },
        ..en16931::invoice::Party::default()
    }
}

fn postal(address: &Address) -> PostalAddress {
    PostalAddress {
        line1: filled(address.line1.as_deref()),
        line2: filled(address.line2.as_deref()),
        line3: None,
        city: filled(address.city.as_deref()),
        post_code: filled(address.postal_code.as_deref()),
        subdivision: filled(address.region.as_deref()),
        country: filled(address.country.as_deref()).map(Code::new),
    }
}

/// BG-13: within the Union, where it is delivered (BR-IC-12).
fn delivery(document: &Document) -> Option<Delivery> {
    let is_in_union = document.taxes.iter().any(|tax| tax.category == TaxCategory::K);
    let address = postal(&document.buyer.address);
    is_in_union.then(|| Delivery { address: Some(address), ..Delivery::default() })
}

/// BG-14: the days of the document and of all its lines, as PEPPOL-EN16931-R110 and -R111 want it.
fn period(document: &Document) -> Option<Period> {
    let lines = || document.lines.iter();
    let from = lines().filter_map(|line| line.from).chain(document.supply_from).min();
    let to = lines().filter_map(|line| line.to).chain(document.supply_to).max();
    (from.is_some() || to.is_some()).then(|| Period { start: from.and_then(day), end: to.and_then(day) })
}

fn vat(category: TaxCategory, percent: Decimal) -> LineVat {
    LineVat { category: Code::new(category.code()), rate: rate(category, percent) }
}

/// What is outside the scope of VAT has no rate, not even 0: BR-O-05.
fn rate(category: TaxCategory, percent: Decimal) -> Option<Percentage> {
    (category != TaxCategory::O).then(|| Percentage::new(percent.normalize()))
}

/// BG-20. The percentage is in the reason: beside a base amount, it would have to make the amount exactly.
fn allowance(allowance: &Allowance, currency: &str) -> DocumentAllowanceCharge {
    let name = if allowance.name.trim().is_empty() { &allowance.coupon } else { &allowance.name };
    let reason = match allowance.percent {
        Some(percent) => format!("{name} ({} %)", percent.normalize()),
        None => name.clone(),
    };
    DocumentAllowanceCharge {
        amount: amount(allowance.net, currency),
        base_amount: None,
        percentage: None,
        vat: vat(allowance.tax_category, allowance.tax_percent),
        reason: Some(reason),
        // UNTDID 5189: discount.
        reason_code: Some(Code::new("95")),
    }
}

/// BG-23. Whoever owes no tax says why (BR-E-10, BR-AE-10 and the like); whoever owes it does not (BR-S-10).
fn breakdown(tax: &TaxSubtotal, labels: &Labels, currency: &str) -> VatBreakdown {
    let (text, code) = match tax.category {
        TaxCategory::S | TaxCategory::Z => (None, None),
        TaxCategory::E => (Some(&labels.exempt), None),
        TaxCategory::AE => (Some(&labels.reverse_charge), Some("VATEX-EU-AE")),
        TaxCategory::K => (Some(&labels.intra_community), Some("VATEX-EU-IC")),
        TaxCategory::G => (Some(&labels.export), Some("VATEX-EU-G")),
        TaxCategory::O => (Some(&labels.out_of_scope), Some("VATEX-EU-O")),
    };
    let own_text = filled(tax.exemption_reason.as_deref());
    let own_code = filled(tax.exemption_code.as_deref());
    VatBreakdown {
        taxable_amount: amount(tax.base, currency),
        tax_amount: amount(tax.tax, currency),
        category: Code::new(tax.category.code()),
        rate: rate(tax.category, tax.percent),
        exemption_reason: text.map(|usual| own_text.unwrap_or_else(|| usual.clone())),
        exemption_reason_code: text.and(own_code).or(code.map(str::to_owned)).map(Code::new),
    }
}

/// BG-25.
fn line(line: &Line, currency: &str) -> InvoiceLine {
    let price = price(line, currency);
    let unit = line.unit.as_deref().map(str::trim).filter(|unit| !unit.is_empty());
    let code = unit.map_or(Some(PIECE), unit_code);
    let code_or_piece = Code::new(code.unwrap_or(PIECE));
    let attributes = match (unit, code) {
        // What the list of units does not know is still to be read.
        (Some(unit), None) => {
            vec![ItemAttribute { name: Some("Unit".to_owned()), value: Some(unit.to_owned()) }]
        }
        _ => Vec::new(),
    };
    let period = (line.from.is_some() || line.to.is_some())
        .then(|| Period { start: line.from.and_then(day), end: line.to.and_then(day) });
    InvoiceLine {
        id: line.number.to_string(),
        quantity: price.quantity,
        unit_code: code_or_piece.clone(),
        net_amount: amount(line.net, currency),
        period,
        price: PriceDetails {
            net_price: price.net_price,
            base_quantity: Some(price.base_quantity),
            base_quantity_code: Some(code_or_piece),
            ..PriceDetails::default()
        },
        vat: vat(line.tax_category, line.tax_percent),
        item: Item { name: filled(Some(&line.description)), attributes, ..Item::default() },
        note: None,
        order_line_reference: None,
        accounting_reference: None,
        object_identifier: None,
        allowances: Vec::new(),
        charges: Vec::new(),
    }
}

/// The code of a unit that people name: `hours` is `HUR`. A code itself is no name, for `GB` is also the code
/// of gallons a day.
fn unit_code(unit: &str) -> Option<&'static str> {
    let name = unit.to_ascii_lowercase();
    let singular = name.strip_suffix('s').unwrap_or(&name);
    UNITS.iter().find(|(known, _)| *known == name || *known == singular).map(|(_, code)| *code)
}

/// BG-22.
fn totals(document: &Document) -> DocumentTotals {
    let sums = &document.totals;
    let amount = |minor| amount(minor, &document.currency);
    let some = |minor: i64| (minor != 0).then(|| amount(minor));
    DocumentTotals {
        line_total: amount(sums.lines_net),
        allowance_total: (!document.allowances.is_empty()).then(|| amount(sums.allowances_net)),
        charge_total: None,
        taxable_total: amount(sums.net),
        vat_total: Some(amount(sums.tax)),
        vat_total_accounting: None,
        gross_total: amount(sums.total),
        paid: some(sums.credited),
        rounding: None,
        due: amount(sums.due),
    }
}
