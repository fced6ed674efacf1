use std::collections::BTreeMap;

use proptest::prelude::*;
use rust_decimal::Decimal;

use super::*;
use crate::documents::content::{DocumentKind, LineKind, Party, TaxCategory, TaxSubtotal, Totals};
use crate::invoicing::amounts::{self, Amounts, CreditableLine, Discount, Off, PricedLine};

const KINDS: [LineKind; 5] =
    [LineKind::Fee, LineKind::Usage, LineKind::Minimum, LineKind::Proration, LineKind::Item];

fn group(percent: i64) -> TaxGroup {
    let category = if percent == 0 { TaxCategory::AE } else { TaxCategory::S };
    TaxGroup { category, percent: Decimal::from(percent) }
}

/// A document of computed amounts; `numbers` are those of its lines.
pub(in crate::closing) fn document(
    kind: DocumentKind,
    lines: &[(LineKind, TaxGroup, i64)],
    computed: &Amounts,
    inclusive: bool,
) -> Document {
    let day = NaiveDate::from_ymd_opt(2026, 10, 5).expect("a day");
    let line =
        |((n, &(kind, tax, amount)), own): ((i32, &(LineKind, TaxGroup, i64)), &amounts::LineAmounts)| Line {
            number: n,
            kind,
            description: "a line".to_owned(),
            quantity: Decimal::ONE,
            unit: None,
            unit_price: Decimal::ONE,
            base_quantity: Decimal::ONE,
            amount,
            discount: own.discount,
            net: own.net,
            tax: own.tax,
            tax_category: tax.category,
            // Stored with more digits than the subtotal.
            tax_percent: tax.percent + Decimal::new(0, 2),
            from: None,
            to: None,
        };
    Document {
        id: "inv_1".to_owned(),
        kind,
        number: Some("INV-2026-000001".to_owned()),
        issue_date: day,
        due_date: None,
        supply_from: None,
        supply_to: None,
        currency: "eur".to_owned(),
        language: "en".to_owned(),
        tax_inclusive: inclusive,
        seller: Party::default(),
        buyer: Party { name: "Müller & Söhne".to_owned(), ..Party::default() },
        buyer_reference: None,
        purchase_order: None,
        invoice: None,
        reason: None,
        lines: (1..).zip(lines).zip(&computed.lines).map(line).collect(),
        allowances: Vec::new(),
        taxes: computed
            .taxes
            .iter()
            .map(|tax| TaxSubtotal {
                name: "VAT".to_owned(),
                category: tax.group.category,
                percent: tax.group.percent,
                base: tax.base,
                tax: tax.tax,
                exemption_reason: None,
                exemption_code: None,
            })
            .collect(),
        totals: Totals { ..computed.totals },
        credits: Vec::new(),
        payment_accounts: Vec::new(),
        terms: None,
        note: None,
    }
}

pub(in crate::closing) fn entry(kind: EntryKind, amount: i64) -> BookedEntry {
    BookedEntry {
        org_id: 7,
        org: "org_7".to_owned(),
        name: "Müller & Söhne".to_owned(),
        seller: "main".to_owned(),
        currency: "eur".to_owned(),
        sequence: 3,
        kind,
        document: "inv_1".to_owned(),
        amount,
        day: NaiveDate::from_ymd_opt(2026, 10, 5).expect("a day"),
        belongs_to: None,
        description: "INV-2026-000001".to_owned(),
    }
}

fn sums(postings: &[Posting]) -> BTreeMap<String, i64> {
    let mut sums = BTreeMap::new();
    for posting in postings {
        let place = match &posting.place {
            Place::Revenue { kind, tax, .. } => format!("{kind} {}", tax.percent),
            Place::Tax(tax) => format!("tax {}", tax.percent),
            Place::Money { processor, .. } => format!("money {processor}"),
            Place::ProcessorFee { .. } => "fee".to_owned(),
            other => format!("{other:?}"),
        };
        *sums.entry(place).or_default() += posting.amount;
    }
    sums
}

fn shown(postings: &[Posting]) -> String {
    let all: Vec<String> = sums(postings).into_iter().map(|(place, sum)| format!("{place}: {sum}")).collect();
    all.join(", ")
}

#[test]
fn each_kind_of_entry_has_its_accounts() {
    let money = |fee| Booked::Money { processor: "paypal".to_owned(), payment_account: None, fee };
    for (kind, amount, booked, expected) in [
        (EntryKind::Payment, -1_000, money(Some(30)), "Receivable: -1000, fee: 30, money paypal: 970"),
        (EntryKind::Payment, -1_000, money(None), "Receivable: -1000, money paypal: 1000"),
        (EntryKind::Refund, 400, money(None), "Receivable: 400, money paypal: -400"),
        (EntryKind::Reversal, 400, money(None), "Receivable: 400, money paypal: -400"),
        (EntryKind::WriteOff, -50, Booked::Alone, "Receivable: -50, WriteOff: 50"),
        (EntryKind::Recovery, 50, Booked::Alone, "Receivable: 50, Recovery: -50"),
        (EntryKind::Adjustment, -5, Booked::Alone, "Adjustment: 5, Receivable: -5"),
        (EntryKind::OpeningBalance, 9, Booked::Alone, "OpeningBalance: -9, Receivable: 9"),
    ] {
        let found = postings(&entry(kind, amount), &booked).expect("it balances");
        assert_eq!(shown(&found), expected, "{kind:?}");
    }
}

#[test]
fn a_document_that_is_not_what_was_booked_is_an_error() {
    let lines = [(LineKind::Fee, group(19), 10_000)];
    let priced = [PricedLine { amount: 10_000, tax: group(19) }];
    let computed = amounts::compute(&priced, &[], false).expect("small");
    let invoice = document(DocumentKind::Invoice, &lines, &computed, false);
    let booked = Booked::Document(Box::new(invoice));
    let found = postings(&entry(EntryKind::Invoice, 11_900), &booked).expect("it balances");
    assert_eq!(shown(&found), "Receivable: 11900, fee 19: -10000, tax 19: -1900");
    let error = postings(&entry(EntryKind::Invoice, 11_901), &booked).expect_err("a cent too much");
    assert!(error.to_string().contains("run `coulomb verify`"), "{error}");
}

proptest! {
    /// Whatever is invoiced, credited and void: each transaction balances, revenue and tax are those of the
    /// document, and a void leaves nothing of its invoice.
    #[test]
    fn every_transaction_adds_up_to_nothing(
        lines in prop::collection::vec((0..5_usize, 0..3_usize, -200_i64..5_000), 1..8),
        off in 0_i64..40,
        parts in prop::collection::vec(0_i64..=100, 8),
        inclusive: bool,
    ) {
        let lines: Vec<(LineKind, TaxGroup, i64)> =
            lines.into_iter().map(|(kind, rate, sum)| (KINDS[kind], group([19, 7, 0][rate]), sum)).collect();
        let priced: Vec<PricedLine> =
            lines.iter().map(|&(_, tax, amount)| PricedLine { amount, tax }).collect();
        let discounts: Vec<Discount> = (off > 0)
            .then(|| Discount { off: Off::Percent(Decimal::from(off)), lines: (0..lines.len()).collect() })
            .into_iter()
            .collect();
        let computed = amounts::compute(&priced, &discounts, inclusive).expect("small");
        let total = computed.totals.total;
        let invoice = document(DocumentKind::Invoice, &lines, &computed, inclusive);
        let booked = Booked::Document(Box::new(invoice.clone()));
        let billed = postings(&entry(EntryKind::Invoice, total), &booked).expect("it balances");
        prop_assert_eq!(billed.iter().map(|posting| posting.amount).sum::<i64>(), 0);
        for tax in &computed.taxes {
            let of = |name: &str| sums(&billed).into_iter().filter(|(place, _)| place == name)
                .map(|(_, sum)| sum).sum::<i64>();
            prop_assert_eq!(-of(&format!("tax {}", tax.group.percent)), tax.tax);
            let earned: i64 = KINDS.iter()
                .map(|kind| of(&format!("{} {}", kind.name(), tax.group.percent))).sum();
            prop_assert_eq!(-earned, tax.base);
        }
        let creditable: Vec<CreditableLine> = (1..).zip(&lines).zip(&computed.lines).zip(&parts)
            .map(|(((number, &(_, tax, amount)), own), part)| CreditableLine {
                number, tax, charged: amount - own.discount, credited: 0,
                credit: (amount - own.discount) * part / 100,
            })
            .collect();
        let mut notes = Vec::new();
        let mut credited = 0;
        if let Ok(note) = amounts::credit(&creditable, inclusive) {
            let own: Vec<(LineKind, TaxGroup, i64)> = lines.iter().zip(&creditable)
                .map(|(&(kind, tax, _), line)| (kind, tax, line.credit)).collect();
            credited = note.totals.total;
            notes.push(document(DocumentKind::CreditNote, &own, &note, inclusive));
            let booked = Booked::Document(Box::new(notes[0].clone()));
            postings(&entry(EntryKind::CreditNote, -credited), &booked).expect("it balances");
        }
        let voided = Booked::Voided { invoice: Box::new(invoice), credit_notes: notes.clone() };
        let taken = postings(&entry(EntryKind::Void, credited - total), &voided).expect("it balances");
        let mut all = sums(&billed);
        let mut add = |more: &[Posting]| for (place, sum) in sums(more) {
            *all.entry(place).or_default() += sum;
        };
        add(&taken);
        for note in notes {
            let booked = Booked::Document(Box::new(note));
            add(&postings(&entry(EntryKind::CreditNote, -credited), &booked).expect("it balances"));
        }
        prop_assert!(all.values().all(|sum| *sum == 0), "{:?}", all);
    }
}
