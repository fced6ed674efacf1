//! Amounts of a credit note.

use std::collections::BTreeMap;

use super::share::share;
use super::{Amounts, LineAmounts, TaxAmounts, TaxGroup, Totals, tax_fraction, tax_on};
use crate::error::Error;

/// A line of the invoice, and how much of it is to be taken back.
#[derive(Clone, Copy, Debug)]
pub struct CreditableLine {
    /// Number of the line, for errors.
    pub number: i32,
    pub tax: TaxGroup,
    /// What was charged: as priced, after discounts.
    pub charged: i64,
    /// What earlier credit notes took back.
    pub credited: i64,
    /// What this one takes back, with the sign of `charged`.
    pub credit: i64,
}

/// Amounts of a credit note: those of its lines, taxes and totals; it has no discounts.
pub type CreditAmounts = Amounts;

/// Computes a credit note over lines of an invoice. All lines of the invoice are needed: the tax depends on
/// what remains of each rate.
///
/// The notes on an invoice take back at most its total, and of each tax rate at most what the invoice has of
/// it. A line below 0 (a gift, a proration) lowers both. If a note took the lines above 0 alone, the customer
/// would get back what he never paid, and we the tax that we never owed. All that is left is always within
/// these bounds.
///
/// # Errors
/// [`Error::Invalid`] when more would be taken back than was charged, or nothing. It says what is left.
pub fn credit(lines: &[CreditableLine], inclusive: bool) -> Result<CreditAmounts, Error> {
    lines.iter().try_for_each(check_line)?;
    let mut groups: BTreeMap<TaxGroup, Vec<usize>> = BTreeMap::new();
    for (place, line) in lines.iter().enumerate() {
        groups.entry(line.tax).or_default().push(place);
    }
    check_sums(lines, &groups, inclusive)?;
    let mut computed = vec![LineAmounts::default(); lines.len()];
    let mut taxes = Vec::new();
    for (group, members) in groups {
        let credits: Vec<i64> = members.iter().map(|&i| lines[i].credit).collect();
        if credits.iter().all(|credit| *credit == 0) {
            continue;
        }
        let before: i64 = members.iter().map(|&i| lines[i].charged - lines[i].credited).sum();
        let sum: i64 = credits.iter().sum();
        let tax = tax_on(before, group.percent, inclusive) - tax_on(before - sum, group.percent, inclusive);
        let part = tax_fraction(group.percent, inclusive);
        for ((&i, &credit), tax) in members.iter().zip(&credits).zip(share(tax, &credits, part)) {
            computed[i] =
                LineAmounts { discount: 0, net: if inclusive { credit - tax } else { credit }, tax };
        }
        taxes.push(TaxAmounts { group, base: if inclusive { sum - tax } else { sum }, tax });
    }
    let (net, tax) = (taxes.iter().map(|tax| tax.base).sum(), taxes.iter().map(|tax| tax.tax).sum());
    let totals = Totals {
        subtotal: lines.iter().map(|line| line.credit).sum(),
        discount: 0,
        lines_net: net,
        allowances_net: 0,
        net,
        tax,
        total: net + tax,
        credited: 0,
        due: net + tax,
    };
    Ok(Amounts { lines: computed, allowances: Vec::new(), taxes, totals })
}

/// Refuses more than what is left of a line.
fn check_line(line: &CreditableLine) -> Result<(), Error> {
    let left = line.charged - line.credited;
    let (least, most) = (left.min(0), left.max(0));
    if (least..=most).contains(&line.credit) {
        return Ok(());
    }
    let rule = format!("of line {} must be from {least} to {most}: {left} is left of it", line.number);
    Err(Error::invalid("amount", rule))
}

/// Refuses more than what is left of the invoice, or of a tax rate.
fn check_sums(
    lines: &[CreditableLine],
    groups: &BTreeMap<TaxGroup, Vec<usize>>,
    inclusive: bool,
) -> Result<(), Error> {
    let with_tax = |group: &TaxGroup, amount: i64| {
        if inclusive { amount } else { amount + tax_on(amount, group.percent, false) }
    };
    let (mut total_before, mut total_after) = (0, 0);
    let mut of_rate = Ok(());
    for (group, members) in groups {
        let sum = |of: fn(&CreditableLine) -> i64| members.iter().map(|&i| of(&lines[i])).sum::<i64>();
        let charged = sum(|line| line.charged);
        let before = sum(|line| line.charged - line.credited);
        let after = before - sum(|line| line.credit);
        total_before += with_tax(group, before);
        total_after += with_tax(group, after);
        if !(charged.min(0)..=charged.max(0)).contains(&after) && of_rate.is_ok() {
            let percent = group.percent.normalize();
            let rule = format!(
                "must not take back more than there is of the tax rate of {percent} %: {before} is left"
            );
            of_rate = Err(Error::invalid("lines", rule));
        }
    }
    let taken = total_before - total_after;
    if total_before <= 0 {
        return Err(Error::invalid("lines", "must take back something: nothing is left of this invoice"));
    }
    if taken <= 0 || total_after < 0 {
        let rule = format!(
            "must take back more than 0 and at most {total_before} with tax, which is left of this \
             invoice: these come to {taken}. A line below 0 lowers what is left; all of it is taken back \
             when `lines` is left out"
        );
        return Err(Error::invalid("lines", rule));
    }
    of_rate
}
