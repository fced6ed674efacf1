//! Sums that lose no digit.
//!
//! A `Decimal` has 28 digits and rounds what does not fit, without a word. So what is added up in memory and then written is
//! added up here, as a whole number of 10^-12.

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::data_types::PgNumeric;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::Numeric;
use rust_decimal::Decimal;

use super::PLACES;

/// 10^12, what one is made of.
const ONE: i128 = 1_000_000_000_000;
/// Digits to the base of 10,000 after the point.
const GROUPS: i16 = 3;
const BASE: i128 = 10_000;

/// A sum of quantities, costs or battery units, exact.
///
/// Each part has at most 12 decimal places and is below 10^15 ([`super::is_bounded`]), so there is room for 10^11 parts. Beyond
/// that the sum stays at the largest number that it can hold: it neither wraps nor panics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, FromSqlRow, AsExpression)]
#[diesel(sql_type = Numeric)]
pub struct Sum(i128);

impl Sum {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Whether it is nothing.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The same number as a decimal; `None` when it has too many digits for one.
    #[must_use]
    pub fn exact(self) -> Option<Decimal> {
        let mut rest = self.0;
        let mut places = PLACES;
        while places > 0 && rest % 10 == 0 {
            rest /= 10;
            places -= 1;
        }
        Decimal::try_from_i128_with_scale(rest, places).ok()
    }

    /// The number to show: as a decimal, to as many places as that has room for.
    #[must_use]
    pub fn shown(self) -> Decimal {
        let mut rest = self.0;
        let mut places = PLACES;
        loop {
            match Decimal::try_from_i128_with_scale(rest, places) {
                Ok(number) => return number.normalize(),
                Err(_) => (rest, places) = (rest / 10, places.saturating_sub(1)),
            }
        }
    }
}

impl From<Decimal> for Sum {
    fn from(part: Decimal) -> Self {
        debug_assert!(part.normalize().scale() <= PLACES, "{part} has more than {PLACES} places");
        let Some(missing) = PLACES.checked_sub(part.scale()) else {
            return Self::from(part.round_dp(PLACES));
        };
        Self(part.mantissa().saturating_mul(10_i128.pow(missing)))
    }
}

impl std::ops::AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.saturating_add(other.0);
    }
}

impl std::ops::AddAssign<Decimal> for Sum {
    fn add_assign(&mut self, part: Decimal) {
        *self += Self::from(part);
    }
}

impl<T: Into<Self>> std::ops::Add<T> for Sum {
    type Output = Self;

    fn add(mut self, other: T) -> Self {
        self += other.into();
        self
    }
}

impl<T: Into<Self>> std::ops::Sub<T> for Sum {
    type Output = Self;

    fn sub(self, other: T) -> Self {
        Self(self.0.saturating_sub(other.into().0))
    }
}

impl std::ops::Neg for Sum {
    type Output = Self;

    fn neg(self) -> Self {
        Self(self.0.saturating_neg())
    }
}

impl ToSql<Numeric, Pg> for Sum {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        let numeric = self.to_numeric()?;
        ToSql::<Numeric, Pg>::to_sql(&numeric, &mut out.reborrow())
    }
}

impl FromSql<Numeric, Pg> for Sum {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        Self::from_numeric(&PgNumeric::from_sql(value)?).ok_or_else(|| {
            "a number in the database is larger, or has more places, than a sum may have".into()
        })
    }
}

impl Sum {
    fn to_numeric(self) -> Result<PgNumeric, std::num::TryFromIntError> {
        let mut rest = self.0.unsigned_abs();
        let base = BASE.unsigned_abs();
        let mut digits = Vec::with_capacity(10);
        while rest > 0 {
            digits.push(i16::try_from(rest % base)?);
            rest /= base;
        }
        let weight = i16::try_from(digits.len())?.saturating_sub(GROUPS).saturating_sub(1);
        let zeros = digits.iter().take_while(|digit| **digit == 0).count();
        digits.drain(..zeros);
        digits.reverse();
        let scale = u16::try_from(self.places())?;
        let weight = if digits.is_empty() { 0 } else { weight };
        Ok(if self.0 < 0 {
            PgNumeric::Negative { weight, scale, digits }
        } else {
            PgNumeric::Positive { weight, scale, digits }
        })
    }

    /// Decimal places that are not zero.
    fn places(self) -> u32 {
        let mut rest = self.0 % ONE;
        if rest == 0 {
            return 0;
        }
        let mut places = PLACES;
        while rest % 10 == 0 {
            rest /= 10;
            places = places.saturating_sub(1);
        }
        places
    }

    fn from_numeric(numeric: &PgNumeric) -> Option<Self> {
        let (sign, weight, digits) = match numeric {
            PgNumeric::Positive { weight, digits, .. } => (1, *weight, digits),
            PgNumeric::Negative { weight, digits, .. } => (-1, *weight, digits),
            PgNumeric::NaN => return None,
        };
        let mut sum = 0_i128;
        let mut power = weight.checked_add(GROUPS)?;
        for digit in digits {
            if *digit != 0 {
                let worth = BASE.checked_pow(u32::try_from(power).ok()?)?;
                sum = sum.checked_add(worth.checked_mul(i128::from(*digit))?)?;
            }
            power = power.checked_sub(1)?;
        }
        Some(Self(sum.checked_mul(sign)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().expect("a decimal")
    }

    /// Ten thousand of the largest have 31 digits; a decimal would drop the last three of them.
    #[test]
    fn a_batch_of_the_largest_loses_no_digit() {
        let largest = decimal("999999999999999.999999999999");
        let mut sum = Sum::ZERO;
        (0..10_000).for_each(|_| sum += largest);
        assert_eq!(sum, Sum(9_999_999_999_999_999_999_999_999_990_000));
        assert_eq!(sum.exact(), Some(decimal("9999999999999999999.99999999")));
        sum += decimal("0.000000000001");
        assert_eq!(sum.exact(), None);
        assert_eq!(sum.shown(), decimal("9999999999999999999.999999990"));
        assert_eq!(sum - Sum::from(decimal("0.000000000001")) - Sum(sum.0 - 1), Sum::ZERO);
    }

    #[test]
    fn it_is_written_and_read_as_postgresql_has_it() {
        for (text, weight, scale, digits) in [
            ("0", 0, 0, vec![]),
            ("1", 0, 0, vec![1]),
            ("-1", 0, 0, vec![1]),
            ("10000", 1, 0, vec![1]),
            ("-120000", 1, 0, vec![12]),
            ("0.5", -1, 1, vec![5000]),
            ("0.0001", -1, 4, vec![1]),
            ("0.00001", -2, 5, vec![1000]),
            ("-0.000000000001", -3, 12, vec![1]),
            ("123456.789", 1, 3, vec![12, 3456, 7890]),
            ("999999999999999.999999999999", 3, 12, vec![999, 9999, 9999, 9999, 9999, 9999, 9999]),
            ("-1000000000000000", 3, 0, vec![1000]),
        ] {
            let sum = Sum::from(decimal(text));
            let numeric = sum.to_numeric().expect("digits");
            let expected = if text.starts_with('-') {
                PgNumeric::Negative { weight, scale, digits }
            } else {
                PgNumeric::Positive { weight, scale, digits }
            };
            assert_eq!(numeric, expected, "{text}");
            assert_eq!(Sum::from_numeric(&numeric), Some(sum), "{text}");
            let of_decimal = PgNumeric::from(decimal(text));
            assert_eq!(Sum::from_numeric(&of_decimal), Some(sum), "{text}, as a decimal writes it");
            assert_eq!(sum.exact(), Some(decimal(text)), "{text}");
        }
        let large = Sum(9_999_999_999_999_999_999_999_999_990_001);
        assert_eq!(Sum::from_numeric(&large.to_numeric().expect("digits")), Some(large));
        let beyond = PgNumeric::Positive { weight: 8, scale: 0, digits: vec![1] };
        let precise = PgNumeric::Positive { weight: -4, scale: 13, digits: vec![1000] };
        assert_eq!((Sum::from_numeric(&beyond), Sum::from_numeric(&precise)), (None, None));
    }

    #[test]
    fn it_stays_at_its_end() {
        let mut sum = Sum(i128::MAX);
        sum += Decimal::MAX.round();
        assert_eq!(sum, Sum(i128::MAX));
        assert_eq!(Sum(i128::MIN) - decimal("1"), Sum(i128::MIN));
        assert!(sum.shown() > decimal("100000000000000000000000000"));
    }
}
