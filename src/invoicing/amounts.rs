//! The arithmetic of invoices and credit notes: the one place where their amounts are rounded. It is pure.
//!
//! Rules, with their sources:
//! - A line is quantity × price ÷ base quantity, rounded once to the currency's minor unit. Half goes away
//!   from zero, as people round, so that what is given back is what was charged.
//! - Discounts come in the order in which coupons were applied, each on what the ones before left. Each is
//!   rounded once and shared among the lines by largest remainder.
//! - Tax is computed once per category and rate, on the sum of its lines after discounts (EN 16931, rule
//!   BR-CO-17), never per line: lines of 55.55 and 11.11 at 23 % have 15.33 of tax, not 15.34. The lines show
//!   shares of it by largest remainder, so that the column adds up.
//! - With prices that include the tax, the gross amount is fixed and the tax is what is not net:
//!   gross − round(gross ÷ (1 + rate)). So 90 and 55 with 5 % in them are 145.00, never 144.99.
//! - A credit note gives back the tax of what remained before it less the tax of what remains after it. So
//!   any number of credit notes adds up to the invoice.

mod credit;
mod share;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use rust_decimal::Decimal;

use crate::documents::content::{TaxCategory, Totals};
use crate::error::Error;
pub use credit::{CreditAmounts, CreditableLine, credit};
use share::{Fraction, divide, share};

/// The largest amount of a document, in minor units: sums of many documents still fit 64 bits.
pub const MAX_AMOUNT: i64 = 1_000_000_000_000_000;

/// A category of tax with its rate in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaxGroup {
    pub category: TaxCategory,
    pub percent: Decimal,
}

/// A line before discounts and tax.
#[derive(Clone, Copy, Debug)]
pub struct PricedLine {
    /// Quantity × price, rounded ([`line_amount`]); with tax if prices include it. Below 0: gives back.
    pub amount: i64,
    pub tax: TaxGroup,
}

/// What a coupon takes off.
#[derive(Clone, Debug)]
pub struct Discount {
    pub off: Off,
    /// Which lines it is for, by their places.
    pub lines: Vec<usize>,
}

/// How much a coupon takes off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Off {
    /// So many percent of what its lines come to, above 0 and up to 100.
    Percent(Decimal),
    /// So much, but no more than its lines come to.
    Amount(i64),
}

/// Amounts of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Amounts {
    /// One for each line.
    pub lines: Vec<LineAmounts>,
    pub allowances: Vec<AllowanceAmounts>,
    /// One for each category and rate.
    pub taxes: Vec<TaxAmounts>,
    /// Without the credit that pays a part of it: `credited` is 0.
    pub totals: Totals,
}

/// Amounts of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineAmounts {
    /// Its part of the discounts, as priced.
    pub discount: i64,
    /// Its amount without tax, before discounts.
    pub net: i64,
    /// Its part of the tax, after discounts.
    pub tax: i64,
}

/// What one discount takes off the lines of one tax rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowanceAmounts {
    /// Place of the discount.
    pub discount: usize,
    pub group: TaxGroup,
    /// As priced.
    pub amount: i64,
    /// Without tax.
    pub net: i64,
}

/// The tax of one category and rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaxAmounts {
    pub group: TaxGroup,
    /// Without tax, after discounts.
    pub base: i64,
    pub tax: i64,
}

/// Quantity × price ÷ base quantity in minor units of a currency with so many decimal places.
///
/// # Errors
/// [`Error::Invalid`] when the result has too many digits, or is above [`MAX_AMOUNT`].
pub fn line_amount(quantity: Decimal, price: Decimal, base: Decimal, places: u8) -> Result<i64, Error> {
    let too_large = || {
        let rule = "with this price gives an amount that is too large, or has too many digits to be exact";
        Error::invalid("quantity", rule)
    };
    let (quantity, price, base) = (quantity.normalize(), price.normalize(), base.normalize());
    let ten = |exponent: u32| 10_i128.checked_pow(exponent).ok_or_else(too_large);
    let numerator = quantity.mantissa().checked_mul(price.mantissa()).ok_or_else(too_large)?;
    let up = u32::from(places) + base.scale();
    let down = quantity.scale() + price.scale();
    let numerator = numerator.checked_mul(ten(up.saturating_sub(down))?).ok_or_else(too_large)?;
    let denominator = base.mantissa().checked_mul(ten(down.saturating_sub(up))?).ok_or_else(too_large)?;
    if denominator <= 0 {
        return Err(Error::invalid("base_quantity", "must be above 0"));
    }
    let amount = i64::try_from(divide(numerator, denominator)).map_err(|_| too_large())?;
    if amount.unsigned_abs() > MAX_AMOUNT.unsigned_abs() { Err(too_large()) } else { Ok(amount) }
}

/// An amount in major units, rounded to minor units of a currency with so many decimal places.
///
/// # Errors
/// As [`line_amount`].
pub fn minor_units(amount: Decimal, places: u8) -> Result<i64, Error> {
    line_amount(amount, Decimal::ONE, Decimal::ONE, places)
}

/// The part of a fee for the days that are left of a period, `days` of `all`. Days are those of the seller's
/// zone, as people count them on an invoice.
pub(super) fn prorated(fee: i64, days: i64, all: i64) -> i64 {
    let part = Fraction { numerator: i128::from(days), denominator: i128::from(all.max(1)) };
    narrow(part.of(fee))
}

/// The tax on an amount of one category and rate.
fn tax_on(amount: i64, percent: Decimal, inclusive: bool) -> i64 {
    let rate = Fraction::percent(percent);
    let tax = if inclusive {
        let gross = i128::from(amount);
        gross - divide(gross * rate.denominator, rate.denominator + rate.numerator)
    } else {
        rate.of(amount)
    };
    narrow(tax)
}

/// Amounts are bounded by [`MAX_AMOUNT`], so sums and shares of them fit.
fn narrow(amount: i128) -> i64 {
    i64::try_from(amount).expect("a part of bounded amounts fits 64 bits")
}

/// The part of an amount that is tax.
fn tax_fraction(percent: Decimal, inclusive: bool) -> Fraction {
    let rate = Fraction::percent(percent);
    if inclusive {
        Fraction { numerator: rate.numerator, denominator: rate.denominator + rate.numerator }
    } else {
        rate
    }
}

/// Computes a document. `inclusive`: prices include the tax.
///
/// # Errors
/// [`Error::Invalid`] when the sum of the lines is beyond [`MAX_AMOUNT`].
pub fn compute(lines: &[PricedLine], discounts: &[Discount], inclusive: bool) -> Result<Amounts, Error> {
    let gross: i128 = lines.iter().map(|line| i128::from(line.amount).abs()).sum();
    if gross > i128::from(MAX_AMOUNT) {
        return Err(Error::invalid("lines", "come to an amount that is too large for one document"));
    }
    let mut computed = vec![LineAmounts::default(); lines.len()];
    let mut allowances = take_off(lines, discounts, &mut computed);
    let mut taxes = Vec::new();
    for (group, members) in groups(lines) {
        let of = |amount: &dyn Fn(usize) -> i64| members.iter().map(|&i| amount(i)).collect::<Vec<i64>>();
        let before = of(&|i| lines[i].amount);
        let after = of(&|i| lines[i].amount - computed[i].discount);
        let (full, left) = (before.iter().sum::<i64>(), after.iter().sum::<i64>());
        let tax = tax_on(left, group.percent, inclusive);
        let part = tax_fraction(group.percent, inclusive);
        for (&i, tax) in members.iter().zip(share(tax, &after, part)) {
            computed[i].tax = tax;
        }
        let mut net_full = full;
        for (&i, &amount) in members.iter().zip(&before) {
            computed[i].net = amount;
        }
        if inclusive {
            let taxed = tax_on(full, group.percent, true);
            net_full -= taxed;
            for ((&i, &amount), tax) in members.iter().zip(&before).zip(share(taxed, &before, part)) {
                computed[i].net = amount - tax;
            }
        }
        let base = if inclusive { left - tax } else { left };
        share_net(&mut allowances, group, net_full - base, part, inclusive);
        taxes.push(TaxAmounts { group, base, tax });
    }
    let totals = totals(lines, &computed, &allowances, &taxes);
    Ok(Amounts { lines: computed, allowances, taxes, totals })
}

/// Takes the discounts off the lines, one after the other.
fn take_off(
    lines: &[PricedLine],
    discounts: &[Discount],
    computed: &mut [LineAmounts],
) -> Vec<AllowanceAmounts> {
    let mut allowances = Vec::new();
    for (place, discount) in discounts.iter().enumerate() {
        let left: Vec<i64> = discount.lines.iter().map(|&i| lines[i].amount - computed[i].discount).collect();
        let sum: i64 = left.iter().sum();
        if sum <= 0 {
            continue;
        }
        let part = match discount.off {
            Off::Percent(percent) => Fraction::percent(percent),
            Off::Amount(amount) => {
                Fraction { numerator: i128::from(amount.min(sum)), denominator: i128::from(sum) }
            }
        };
        let mut by_group: BTreeMap<TaxGroup, i64> = BTreeMap::new();
        for (&i, off) in discount.lines.iter().zip(share(narrow(part.of(sum)), &left, part)) {
            computed[i].discount += off;
            *by_group.entry(lines[i].tax).or_default() += off;
        }
        let new = by_group.into_iter().filter(|(_, amount)| *amount != 0);
        allowances.extend(new.map(|(group, amount)| AllowanceAmounts {
            discount: place,
            group,
            amount,
            net: amount,
        }));
    }
    allowances
}

/// Shares the discount without tax of one rate among the allowances of the rate.
fn share_net(allowances: &mut [AllowanceAmounts], group: TaxGroup, net: i64, tax: Fraction, inclusive: bool) {
    if !inclusive {
        return;
    }
    let mut own: Vec<&mut AllowanceAmounts> = allowances.iter_mut().filter(|a| a.group == group).collect();
    let amounts: Vec<i64> = own.iter().map(|allowance| allowance.amount).collect();
    let without = Fraction { numerator: tax.denominator - tax.numerator, denominator: tax.denominator };
    for (allowance, net) in own.iter_mut().zip(share(net, &amounts, without)) {
        allowance.net = net;
    }
}

/// The places of the lines of each category and rate.
fn groups(lines: &[PricedLine]) -> BTreeMap<TaxGroup, Vec<usize>> {
    let mut groups: BTreeMap<TaxGroup, Vec<usize>> = BTreeMap::new();
    for (i, line) in lines.iter().enumerate() {
        groups.entry(line.tax).or_default().push(i);
    }
    groups
}

fn totals(
    lines: &[PricedLine],
    computed: &[LineAmounts],
    allowances: &[AllowanceAmounts],
    taxes: &[TaxAmounts],
) -> Totals {
    let lines_net = computed.iter().map(|line| line.net).sum::<i64>();
    let allowances_net = allowances.iter().map(|allowance| allowance.net).sum::<i64>();
    let net = taxes.iter().map(|tax| tax.base).sum::<i64>();
    assert_eq!(lines_net - allowances_net, net, "lines less discounts are what is taxed");
    let tax = taxes.iter().map(|tax| tax.tax).sum::<i64>();
    Totals {
        subtotal: lines.iter().map(|line| line.amount).sum(),
        discount: computed.iter().map(|line| line.discount).sum(),
        lines_net,
        allowances_net,
        net,
        tax,
        total: net + tax,
        credited: 0,
        due: net + tax,
    }
}
