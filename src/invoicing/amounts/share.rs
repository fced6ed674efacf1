//! Exact division of amounts.

use rust_decimal::Decimal;

/// An exact part of an amount. The denominator is above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fraction {
    pub(super) numerator: i128,
    pub(super) denominator: i128,
}

impl Fraction {
    /// So many percent, 0 to 100.
    pub(super) fn percent(percent: Decimal) -> Self {
        let percent = percent.normalize();
        Self { numerator: percent.mantissa(), denominator: 100 * 10_i128.pow(percent.scale().min(12)) }
    }

    /// This part of an amount, rounded.
    pub(super) fn of(self, amount: i64) -> i128 {
        divide(i128::from(amount) * self.numerator, self.denominator)
    }
}

/// Divides by a denominator above 0 and rounds; half goes away from zero.
pub(super) fn divide(numerator: i128, denominator: i128) -> i128 {
    let (quotient, rest) = (numerator / denominator, numerator % denominator);
    if rest.abs() >= denominator - rest.abs() { quotient + numerator.signum() } else { quotient }
}

/// Shares `total` among amounts, of each of which `part` is meant to be shared: each gets its exact part
/// rounded down; then those with the largest remainders get one more until all of `total` is shared. Of equal
/// remainders the first comes first.
pub(super) fn share(total: i64, amounts: &[i64], part: Fraction) -> Vec<i64> {
    if amounts.is_empty() {
        assert_eq!(total, 0, "an amount needs somebody to share it");
        return Vec::new();
    }
    let exact = amounts.iter().map(|&amount| i128::from(amount) * part.numerator);
    let mut shares: Vec<i64> = Vec::with_capacity(amounts.len());
    let mut remainders: Vec<(i128, usize)> = Vec::with_capacity(amounts.len());
    for (place, exact) in exact.enumerate() {
        shares.push(super::narrow(exact.div_euclid(part.denominator)));
        remainders.push((exact.rem_euclid(part.denominator), place));
    }
    remainders.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let missing = total - shares.iter().sum::<i64>();
    // Rounded parts of a whole miss it by less than one each; a difference of roundings may be below 0.
    let order: Vec<usize> = remainders.into_iter().map(|(_, place)| place).collect();
    let steps = usize::try_from(missing.unsigned_abs()).expect("fewer than amounts");
    for step in 0..steps {
        let place = step % order.len();
        let receiver = if missing > 0 { order[place] } else { order[order.len() - 1 - place] };
        shares[receiver] += missing.signum();
    }
    shares
}
