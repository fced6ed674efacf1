use proptest::prelude::*;
use rust_decimal::Decimal;

use super::*;

fn decimal(text: &str) -> Decimal {
    text.parse().expect("a decimal")
}

fn standard(percent: &str) -> TaxGroup {
    TaxGroup { category: TaxCategory::S, percent: decimal(percent) }
}

fn line(amount: i64, percent: &str) -> PricedLine {
    PricedLine { amount, tax: standard(percent) }
}

fn percent_off(percent: &str, lines: &[PricedLine]) -> Discount {
    Discount { off: Off::Percent(decimal(percent)), lines: (0..lines.len()).collect() }
}

/// Subtotal, discount, net, tax, total.
fn sums(lines: &[PricedLine], discounts: &[Discount], inclusive: bool) -> [i64; 5] {
    let Totals { subtotal, discount, net, tax, total, .. } =
        compute(lines, discounts, inclusive).expect("computable").totals;
    [subtotal, discount, net, tax, total]
}

#[test]
fn lines_are_rounded_once() {
    for (quantity, price, base, places, amount) in [
        ("2.25", "64.22", "1", 2, 14450),   // 144.495: half goes up
        ("-2.25", "64.22", "1", 2, -14450), // and what is given back is what was charged
        ("16", "348.35", "1", 2, 557_360),
        ("1234567", "0.40", "1000000", 2, 49), // 0.4938: a price below a cent keeps its digits
        ("1250000", "0.40", "1000000", 2, 50),
        ("3", "0.005", "1", 2, 2), // 0.015
        ("1", "0.5", "1", 0, 1),
        ("1.005", "1", "1", 3, 1005),
        ("0.000000000001", "1000000000000", "1", 2, 100),
    ] {
        let computed = line_amount(decimal(quantity), decimal(price), decimal(base), places);
        assert_eq!(computed.expect("fits"), amount, "{quantity} x {price} / {base}");
    }
    let huge = line_amount(decimal("99999999999999999999"), decimal("9999999"), Decimal::ONE, 2);
    assert_eq!(huge.expect_err("too large").field(), Some("quantity"));
}

/// What people reported of other systems, with the values that a hand computes.
#[test]
fn documents_come_to_what_a_hand_computes() {
    let fee = [line(49_900_000, "11")];
    // 499,000.00 − 20 % = 399,200.00; + 11 % = 443,112.00
    assert_eq!(
        sums(&fee, &[percent_off("20", &fee)], false),
        [49_900_000, 9_980_000, 39_920_000, 4_391_200, 44_311_200]
    );
    // odoo #36675. Two lines at one rate: the tax of the sum, 66.66 × 23 % = 15.3318, not the sum of 12.78
    // and 2.56.
    assert_eq!(sums(&[line(5555, "23"), line(1111, "23")], &[], false), [6666, 0, 6666, 1533, 8199]);
    // invoiceninja #10856. 8,500 less 7,500 is 1,000, and 1,190 with 19 %.
    let lines = [line(850_000, "19"), line(-750_000, "19")];
    assert_eq!(sums(&lines, &[], false), [100_000, 0, 100_000, 19_000, 119_000]);
    // odoo #37896. 348.35 × 16 − 4 % at 22 %: 5,573.60 − 222.94 = 5,350.66; + 1,177.15.
    let lines = [line(557_360, "22")];
    assert_eq!(
        sums(&lines, &[percent_off("4", &lines)], false),
        [557_360, 22_294, 535_066, 117_715, 652_781]
    );
    // invoiceninja #3195. A discount of everything leaves nothing, not a cent below it.
    let lines = [line(14450, "20")];
    assert_eq!(sums(&lines, &[percent_off("100", &lines)], false), [14450, 14450, 0, 0, 0]);
    // erpnext #42523. Prices with tax in them: 90 + 55 with 5 % stays 145.00.
    assert_eq!(sums(&[line(9000, "5"), line(5500, "5")], &[], true), [14500, 0, 13810, 690, 14500]);
    // odoo #155833. Ten prices of 3.80 with 5.5 % in them are 38.00.
    assert_eq!(sums(&[line(380, "5.5"); 10], &[], true), [3800, 0, 3602, 198, 3800]);
    // No decimals: 1,000 JPY with 10 % in it: 1000 ÷ 1.1 = 909.09.
    assert_eq!(sums(&[line(1000, "10")], &[], true), [1000, 0, 909, 91, 1000]);
}

#[test]
fn a_discount_is_shared_by_tax_rate_and_adds_up() {
    // 10.00 off lines of 33.33 (19 %), 33.33 (7 %) and 33.34 (19 %): shares 3.333, 3.333, 3.334.
    let lines = [line(3333, "19"), line(3333, "7"), line(3334, "19")];
    let off = Discount { off: Off::Amount(1000), lines: vec![0, 1, 2] };
    let computed = compute(&lines, &[off], false).expect("computable");
    let discounts: Vec<i64> = computed.lines.iter().map(|line| line.discount).collect();
    assert_eq!(discounts, [333, 333, 334]);
    let by_rate: Vec<(Decimal, i64)> =
        computed.allowances.iter().map(|a| (a.group.percent, a.amount)).collect();
    assert_eq!(by_rate, [(decimal("7"), 333), (decimal("19"), 667)]);
    // 30.00 at 7 % = 2.10; 60.00 at 19 % = 11.40
    let taxes: Vec<(i64, i64)> = computed.taxes.iter().map(|tax| (tax.base, tax.tax)).collect();
    assert_eq!(taxes, [(3000, 210), (6000, 1140)]);
    // More than there is takes all, and not more.
    let all = Discount { off: Off::Amount(99_999), lines: vec![0, 1, 2] };
    assert_eq!(compute(&lines, &[all], false).expect("computable").totals.total, 0);
}

#[test]
fn a_second_discount_takes_of_what_the_first_left() {
    // 100.00 − 10 % = 90.00; − 10 % = 81.00
    let lines = [line(10_000, "0.1")];
    let twice = [percent_off("10", &lines), percent_off("10", &lines)];
    assert_eq!(sums(&lines, &twice, false)[1..3], [1900, 8100]);
}

#[test]
fn partial_credit_notes_add_up_to_the_invoice() {
    // 33.33 at 21 % = 7.00 (6.9993) of tax. Credited in three parts of 11.11: by the part 2.33 each, 6.99.
    let mut credited = 0;
    let mut taxes = Vec::new();
    for _ in 0..3 {
        let lines =
            [CreditableLine { number: 1, tax: standard("21"), charged: 3333, credited, credit: 1111 }];
        taxes.push(credit(&lines, false).expect("creditable").totals.tax);
        credited += 1111;
    }
    // 7.00 − 4.67 = 2.33; 4.67 − 2.33 = 2.34; 2.33
    assert_eq!(taxes, [233, 234, 233]);
    let more = [CreditableLine { number: 1, tax: standard("21"), charged: 3333, credited, credit: 1 }];
    assert_eq!(credit(&more, false).expect_err("nothing is left").field(), Some("amount"));
}

fn any_line() -> impl Strategy<Value = PricedLine> {
    let rates = prop::sample::select(vec!["0.5", "5.5", "7", "11", "19", "21", "23"]);
    (1_i64..5_000_000, rates).prop_map(|(amount, percent)| line(amount, percent))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_column_adds_up(
        lines in prop::collection::vec(any_line(), 1..12),
        percent in prop::option::of(1_u32..=10_000),
        fixed in prop::option::of(1_i64..3_000_000),
        inclusive: bool,
    ) {
        let mut discounts = Vec::new();
        discounts.extend(percent.map(|p| Discount {
            off: Off::Percent(Decimal::new(i64::from(p), 2)),
            lines: (0..lines.len()).collect(),
        }));
        discounts.extend(fixed.map(|amount| Discount {
            off: Off::Amount(amount),
            lines: (0..lines.len()).step_by(2).collect(),
        }));
        let computed = compute(&lines, &discounts, inclusive).expect("computable");
        let totals = computed.totals;
        let sum = |of: &dyn Fn(&LineAmounts) -> i64| computed.lines.iter().map(of).sum::<i64>();
        prop_assert_eq!(totals.subtotal, lines.iter().map(|line| line.amount).sum::<i64>());
        prop_assert_eq!(totals.discount, sum(&|line| line.discount));
        prop_assert_eq!(totals.discount, computed.allowances.iter().map(|a| a.amount).sum::<i64>());
        prop_assert_eq!(totals.tax, sum(&|line| line.tax));
        prop_assert_eq!(totals.net + totals.tax, totals.total);
        let charged = totals.subtotal - totals.discount;
        prop_assert_eq!(charged + if inclusive { 0 } else { totals.tax }, totals.total);
        for tax in &computed.taxes {
            let own = |place: &usize| lines[*place].tax == tax.group;
            let nets: i64 = (0..lines.len()).filter(own).map(|i| computed.lines[i].net).sum();
            let off: i64 = computed.allowances.iter().filter(|a| a.group == tax.group).map(|a| a.net).sum();
            prop_assert_eq!(nets - off, tax.base);
        }
        for (line, of) in lines.iter().zip(&computed.lines) {
            prop_assert!(of.discount >= 0 && of.discount <= line.amount);
            prop_assert!(of.tax >= 0);
        }
    }

    #[test]
    fn any_split_into_credit_notes_adds_up(
        lines in prop::collection::vec(any_line(), 1..8),
        parts in prop::collection::vec(prop::collection::vec(0_u32..=100, 8), 1..6),
        inclusive: bool,
    ) {
        let invoice = compute(&lines, &[], inclusive).expect("computable");
        let mut credited = vec![0_i64; lines.len()];
        let (mut total, mut tax) = (0, 0);
        // The last note takes all that is left.
        for note in parts.iter().chain([&vec![100; 8]]) {
            let wanted: Vec<CreditableLine> = lines.iter().enumerate().map(|(i, line)| CreditableLine {
                number: 1,
                tax: line.tax,
                charged: line.amount,
                credited: credited[i],
                credit: (line.amount - credited[i]) * i64::from(note[i]) / 100,
            }).collect();
            if wanted.iter().all(|line| line.credit == 0) {
                continue;
            }
            let amounts = credit(&wanted, inclusive).expect("creditable");
            prop_assert_eq!(amounts.totals.tax, amounts.lines.iter().map(|line| line.tax).sum::<i64>());
            total += amounts.totals.total;
            tax += amounts.totals.tax;
            for (place, line) in wanted.iter().enumerate() {
                credited[place] += line.credit;
            }
        }
        prop_assert_eq!((total, tax), (invoice.totals.total, invoice.totals.tax));
    }

    /// With lines below 0, credit notes never come to more than the invoice, and all that is left is one
    /// credit note, whatever was taken back before.
    #[test]
    fn credit_notes_stay_within_the_invoice_and_the_rest_is_one(
        lines in prop::collection::vec((any_line(), 0_u8..3), 1..8),
        parts in prop::collection::vec(prop::collection::vec(0_u32..=100, 8), 0..6),
        inclusive: bool,
    ) {
        let signed = lines.into_iter().map(|(line, sign)| {
            PricedLine { amount: if sign == 0 { -line.amount } else { line.amount }, ..line }
        });
        let lines: Vec<PricedLine> = signed.collect();
        let invoice = compute(&lines, &[], inclusive).expect("computable");
        // No other draft becomes an invoice.
        prop_assume!(invoice.totals.total > 0 && invoice.totals.net >= 0);
        let mut credited = vec![0_i64; lines.len()];
        let (mut total, mut tax) = (0, 0);
        let mut rest_is_taken = false;
        for note in parts.iter().chain([&vec![100; 8]]) {
            let wanted: Vec<CreditableLine> = lines.iter().enumerate().map(|(i, line)| CreditableLine {
                number: 1,
                tax: line.tax,
                charged: line.amount,
                credited: credited[i],
                credit: (line.amount - credited[i]) * i64::from(note[i]) / 100,
            }).collect();
            let is_rest = note.iter().all(|part| *part == 100);
            let left = invoice.totals.total - total;
            let Ok(amounts) = credit(&wanted, inclusive) else {
                prop_assert!(!is_rest || left == 0, "{left} is left, and stuck");
                continue;
            };
            rest_is_taken |= is_rest;
            prop_assert_eq!(amounts.totals.tax, amounts.lines.iter().map(|line| line.tax).sum::<i64>());
            prop_assert!((1..=left).contains(&amounts.totals.total), "{} of {left}", amounts.totals.total);
            total += amounts.totals.total;
            tax += amounts.totals.tax;
            for (place, line) in wanted.iter().enumerate() {
                credited[place] += line.credit;
            }
        }
        prop_assert_eq!(total, invoice.totals.total);
        prop_assert!(!rest_is_taken || tax == invoice.totals.tax);
    }
}
