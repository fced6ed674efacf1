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
/// # Errors
/// [`Error::Invalid`] when more would be taken back than was charged, or nothing.
pub fn credit(lines: &[CreditableLine], inclusive: bool) -> Result<CreditAmounts, Error> {
    for line in lines {
        let (left, credit) = (line.charged - line.credited, line.credit);
        if credit.signum() * left.signum() < 0 || credit.unsigned_abs() > left.unsigned_abs() {
            let number = line.number;
            let rule = format!("of line {number} is more than what is left of it, which is {left}");
            return Err(Error::invalid("amount", rule));
        }
    }
    if lines.iter().map(|line| line.credit).sum::<i64>() <= 0 {
        return Err(Error::invalid("lines", "must take back more than 0 in total"));
    }
    let mut groups: BTreeMap<TaxGroup, Vec<usize>> = BTreeMap::new();
    for (place, line) in lines.iter().enumerate() {
        groups.entry(line.tax).or_default().push(place);
    }
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
