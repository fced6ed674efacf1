//! Exact sums of what columns hold: whole numbers, or decimals with up to 24 places. No sum overflows.

use std::fmt;
use std::ops::AddAssign;

/// Decimal places at most: a cost is a quantity times a price, with 12 places each.
const PLACES: usize = 24;
/// The number 1 in units of the last place.
const ONE: i128 = 10_i128.pow(24);

/// A sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ExactSum {
    /// Rounded down.
    whole: i128,
    /// The rest, in units of 10^-24: at least 0 and below [`ONE`].
    rest: i128,
}

impl ExactSum {
    /// The number that a text has; `None` when it is no decimal, or has more places.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || digits.ends_with('.') || !are_digits(whole) || !are_digits(fraction) {
            return None;
        }
        let zeros = "0".repeat(PLACES.checked_sub(fraction.len())?);
        let (whole, rest): (i128, i128) = (whole.parse().ok()?, format!("{fraction}{zeros}").parse().ok()?);
        Some(match (negative, rest) {
            (false, _) => Self { whole, rest },
            (true, 0) => Self { whole: -whole, rest },
            (true, _) => Self { whole: -whole - 1, rest: ONE - rest },
        })
    }
}

impl From<i64> for ExactSum {
    fn from(number: i64) -> Self {
        Self { whole: number.into(), rest: 0 }
    }
}

impl AddAssign for ExactSum {
    fn add_assign(&mut self, other: Self) {
        let rest = self.rest + other.rest;
        self.whole += other.whole + rest / ONE;
        self.rest = rest % ONE;
    }
}

impl fmt::Display for ExactSum {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, whole, rest) = match (self.whole < 0, self.rest) {
            (true, 0) => ("-", -self.whole, 0),
            (true, rest) => ("-", -(self.whole + 1), ONE - rest),
            (false, rest) => ("", self.whole, rest),
        };
        write!(out, "{sign}{whole}")?;
        match format!("{rest:0PLACES$}").trim_end_matches('0') {
            "" => Ok(()),
            digits => write!(out, ".{digits}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(parts: &[&str]) -> String {
        let mut sum = ExactSum::default();
        for part in parts {
            sum += ExactSum::parse(part).expect("a decimal");
        }
        sum.to_string()
    }

    #[test]
    fn decimals_are_summed_exactly() {
        for (parts, expected) in [
            (&["0"][..], "0"),
            (&["12.5"], "12.5"),
            (&["-0.000000000000000000000001"], "-0.000000000000000000000001"),
            (&["-0.5", "0.25"], "-0.25"),
            (&["-1.25", "-1.75"], "-3"),
            (&["0.1", "0.2"], "0.3"),
            (&["-7", "7.5"], "0.5"),
            (&["999999999999999.999999999999999999999999"; 2], "1999999999999999.999999999999999999999998"),
            (&["9223372036854775807"; 3], "27670116110564327421"),
        ] {
            assert_eq!(sum(parts), expected, "{parts:?}");
        }
        let mut whole = ExactSum::from(i64::MIN);
        whole += ExactSum::from(-1);
        assert_eq!(whole.to_string(), "-9223372036854775809");
    }

    #[test]
    fn what_is_no_decimal_is_refused() {
        for text in ["", "-", "NaN", "1.", "1e3", "+1", ".5", "0.0000000000000000000000001"] {
            assert_eq!(ExactSum::parse(text), None, "{text}");
        }
    }
}
