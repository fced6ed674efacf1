//! Sums that lose no digit.
//!
//! A `Decimal` has 28 digits and silently rounds what does not fit. A quantity times a price has up to 24
//! decimal places, and the smallest usage has its cost, too. So costs, battery units and totals in memory are
//! a [`Sum`]: a whole number of 10^-12, and the rest as a whole number of 10^-24. Their columns are `numeric`
//! without a scale, which stores every digit.

use diesel::deserialize::{self, FromSql, FromSqlRow};
use diesel::expression::AsExpression;
use diesel::pg::data_types::PgNumeric;
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, Output, ToSql};
use diesel::sql_types::Numeric;
use rust_decimal::Decimal;

use super::{LIMIT, PLACES};

/// The number 1 in units of 10^-12.
const ONE: i128 = 1_000_000_000_000;
/// PostgreSQL writes a `numeric` in digits to this base.
const BASE: i128 = 10_000;
/// Digits to this base after the point: 3 for 12 decimal places, 6 for 24.
const GROUPS: i16 = 3;
const FINE_GROUPS: i16 = 6;
/// Decimal places at most: those of a quantity and those of a price together.
const FINE_PLACES: u32 = 24;
/// Digits to this base of the longest sum: 27 decimal digits before the point, which may begin within a digit
/// to this base, and 24 after it.
const DIGITS: usize = 14;

/// A sum of quantities, costs or battery units, exact.
///
/// Each part has at most 24 decimal places and is below 10^15 ([`Sum::is_bounded`]), so there is room for
/// 10^11 parts. Beyond that the sum stays at the largest number that it can hold: it neither wraps nor
/// panics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromSqlRow, AsExpression)]
#[diesel(sql_type = Numeric)]
pub struct Sum {
    /// Whole number of 10^-12, rounded down.
    units: i128,
    /// The rest, a whole number of 10^-24: at least 0 and below 10^12.
    fine: i64,
}

impl Sum {
    pub const ZERO: Self = Self { units: 0, fine: 0 };

    /// From a whole number of 10^-12.
    const fn from_units(units: i128) -> Self {
        Self { units, fine: 0 }
    }

    /// From a whole number of 10^-24.
    fn from_fine(fine: i128) -> Self {
        let rest = i64::try_from(fine.rem_euclid(ONE)).unwrap_or_default();
        Self { units: fine.div_euclid(ONE), fine: rest }
    }

    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    /// Whether one event may have this amount: between -10^15 and 10^15, with any number of decimal places.
    #[must_use]
    pub fn is_bounded(self) -> bool {
        let limit = Self::from(LIMIT);
        self < limit && self > -limit
    }

    /// A quantity times a price, exact; `None` when it is beyond what a sum holds. Both have at most 12
    /// decimal places.
    #[must_use]
    pub fn product(quantity: Decimal, price: Decimal) -> Option<Self> {
        let (quantity, price) = (quantity.normalize(), price.normalize());
        if let Some(missing) = PLACES.checked_sub(quantity.scale() + price.scale())
            && let Some(product) = quantity.mantissa().checked_mul(price.mantissa())
        {
            return product.checked_mul(10_i128.pow(missing)).map(Self::from_units);
        }
        Self::from(quantity).times(price)
    }

    /// The sum times a price, exact; `None` when it is beyond what a sum holds. Both have at most 12 decimal
    /// places.
    #[must_use]
    pub fn times(self, price: Decimal) -> Option<Self> {
        debug_assert!(self.fine == 0, "{self:?} has more than {PLACES} places");
        let price = Self::from(price).units;
        if let Some(product) = self.units.checked_mul(price) {
            return Some(Self::from_fine(product));
        }
        // (a + b) × (c + d), of which b and d are below one.
        let (a, b) = (self.units.div_euclid(ONE), self.units.rem_euclid(ONE));
        let (c, d) = (price.div_euclid(ONE), price.rem_euclid(ONE));
        let Self { units: rest, fine } = Self::from_fine(b * d);
        let units = a.checked_mul(price)?.checked_add(b.checked_mul(c)?)?.checked_add(rest)?;
        Some(Self { units, fine })
    }

    /// How many packages of `size` it fills; a package that is begun counts as a whole one.
    #[must_use]
    pub fn packages(self, size: Decimal) -> Option<Decimal> {
        let size = Self::from(size).units;
        let whole = self.units.checked_div(size)?;
        let begun = i128::from(self.units > whole.checked_mul(size)?);
        Decimal::try_from_i128_with_scale(whole.checked_add(begun)?, 0).ok()
    }

    /// The lesser of two.
    #[must_use]
    pub fn at_most(self, other: Decimal) -> Self {
        self.min(Self::from(other))
    }

    /// The same number rounded up to the 12 places of a quantity; `None` when it has too many digits for a
    /// decimal.
    #[must_use]
    pub fn rounded_up(self) -> Option<Decimal> {
        Self::from_units(self.units.saturating_add(i128::from(self.fine > 0))).exact()
    }

    /// The number rounded down to 12 places, and the rest: at least 0 and below 10^-12.
    #[must_use]
    pub fn split(self) -> (Self, Self) {
        (Self::from_units(self.units), Self { units: 0, fine: self.fine })
    }

    /// The same number as a decimal; `None` when it has too many digits for one.
    #[must_use]
    pub fn exact(self) -> Option<Decimal> {
        let (mut rest, mut places) = if self.fine == 0 {
            (self.units, PLACES)
        } else {
            (self.units.checked_mul(ONE)?.checked_add(i128::from(self.fine))?, FINE_PLACES)
        };
        while places > 0 && rest % 10 == 0 {
            rest /= 10;
            places -= 1;
        }
        Decimal::try_from_i128_with_scale(rest, places).ok()
    }

    /// The number as people see it: a decimal. Places that do not fit are cut off.
    #[must_use]
    pub fn shown(self) -> Decimal {
        let whole = self.units.checked_mul(ONE).and_then(|units| units.checked_add(i128::from(self.fine)));
        let (mut rest, mut places) = whole.map_or((self.units, PLACES), |fine| (fine, FINE_PLACES));
        loop {
            match Decimal::try_from_i128_with_scale(rest, places) {
                Ok(number) => return number.normalize(),
                Err(_) => (rest, places) = (rest / 10, places.saturating_sub(1)),
            }
        }
    }

    /// As PostgreSQL stores it: whether it is negative, the weight of the first digit, the decimal places,
    /// the digits to the base of 10,000, and how many of them count.
    #[must_use]
    pub fn digits(self) -> (bool, i16, u16, [i16; DIGITS], usize) {
        let negative = self.units < 0;
        let Self { units, fine } = if negative { -self } else { self };
        let (mut whole, below) = (units / ONE, (units % ONE, i128::from(fine)));
        let mut digits = [0_i16; DIGITS];
        let digit = |number: i128| i16::try_from(number).unwrap_or_default();
        // From the last place to the first.
        let mut all = [0_i16; DIGITS];
        let mut count = 0;
        for part in [below.1, below.0] {
            let mut rest = part;
            for _ in 0..GROUPS {
                all[count] = digit(rest % BASE);
                rest /= BASE;
                count += 1;
            }
        }
        while whole > 0 && count < DIGITS {
            all[count] = digit(whole % BASE);
            whole /= BASE;
            count += 1;
        }
        while count > 0 && all[count - 1] == 0 {
            count -= 1;
        }
        let zeros = all[..count].iter().take_while(|digit| **digit == 0).count();
        let weight = if count == 0 { 0 } else { i16::try_from(count).unwrap_or_default() - FINE_GROUPS - 1 };
        for (place, from) in (zeros..count).rev().enumerate() {
            digits[place] = all[from];
        }
        (negative, weight, self.places(), digits, count - zeros)
    }

    /// Decimal places that are not zero.
    fn places(self) -> u16 {
        let trimmed = |number: i128, all: u16| {
            let mut rest = u64::try_from(number.rem_euclid(ONE)).unwrap_or_default();
            if rest == 0 {
                return 0;
            }
            let mut places = all;
            while rest % 10 == 0 {
                rest /= 10;
                places -= 1;
            }
            places
        };
        if self.fine == 0 { trimmed(self.units, 12) } else { trimmed(i128::from(self.fine), 24) }
    }
}

impl From<Decimal> for Sum {
    fn from(part: Decimal) -> Self {
        let part = if part.scale() > PLACES { part.normalize() } else { part };
        let Some(missing) = PLACES.checked_sub(part.scale()) else {
            // The rest of a product: up to 24 places, few digits.
            return match FINE_PLACES.checked_sub(part.scale()) {
                Some(missing) => match part.mantissa().checked_mul(10_i128.pow(missing)) {
                    Some(fine) => Self::from_fine(fine),
                    None => Self::from(part.round_dp(PLACES)),
                },
                None => Self::from(part.round_dp(FINE_PLACES)),
            };
        };
        Self::from_units(part.mantissa().saturating_mul(10_i128.pow(missing)))
    }
}

impl std::ops::AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        let fine = i128::from(self.fine) + i128::from(other.fine);
        let carried = i128::from(fine >= ONE);
        self.units = self.units.saturating_add(other.units).saturating_add(carried);
        self.fine = i64::try_from(fine - carried * ONE).unwrap_or_default();
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
        self + -other.into()
    }
}

impl std::ops::Neg for Sum {
    type Output = Self;

    fn neg(self) -> Self {
        if self.fine == 0 {
            return Self::from_units(self.units.saturating_neg());
        }
        let fine = i64::try_from(ONE - i128::from(self.fine)).unwrap_or_default();
        Self { units: (-1_i128).saturating_sub(self.units), fine }
    }
}

impl std::iter::Sum for Sum {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::ZERO, |sum, part| sum + part)
    }
}

impl ToSql<Numeric, Pg> for Sum {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        ToSql::<Numeric, Pg>::to_sql(&self.to_numeric(), &mut out.reborrow())
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
    fn to_numeric(self) -> PgNumeric {
        let (negative, weight, scale, digits, count) = self.digits();
        let digits = digits[..count].to_vec();
        if negative {
            PgNumeric::Negative { weight, scale, digits }
        } else {
            PgNumeric::Positive { weight, scale, digits }
        }
    }

    fn from_numeric(numeric: &PgNumeric) -> Option<Self> {
        let (negative, weight, digits) = match numeric {
            PgNumeric::Positive { weight, digits, .. } => (false, *weight, digits),
            PgNumeric::Negative { weight, digits, .. } => (true, *weight, digits),
            PgNumeric::NaN => return None,
        };
        let (mut units, mut fine) = (0_i128, 0_i128);
        let mut place = weight;
        for digit in digits.iter().map(|digit| i128::from(*digit)) {
            if digit != 0 {
                let worth = |groups: i16| BASE.checked_pow(u32::try_from(place.checked_add(groups)?).ok()?);
                match worth(GROUPS) {
                    Some(worth) => units = units.checked_add(worth.checked_mul(digit)?)?,
                    None if place >= 0 => return None,
                    None => fine = fine.checked_add(worth(FINE_GROUPS)?.checked_mul(digit)?)?,
                }
            }
            place = place.checked_sub(1)?;
        }
        let sum = Self { units, fine: i64::try_from(fine).ok()? };
        Some(if negative { -sum } else { sum })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().expect("a decimal")
    }

    /// The sum of ten thousand of the largest has 31 digits; a decimal would drop the last three.
    #[test]
    fn a_batch_of_the_largest_loses_no_digit() {
        let largest = decimal("999999999999999.999999999999");
        let mut sum = Sum::ZERO;
        (0..10_000).for_each(|_| sum += largest);
        assert_eq!(sum, Sum::from_units(9_999_999_999_999_999_999_999_999_990_000));
        assert_eq!(sum.exact(), Some(decimal("9999999999999999999.99999999")));
        sum += decimal("0.000000000001");
        assert_eq!(sum.exact(), None);
        assert_eq!(sum.shown(), decimal("9999999999999999999.999999990"));
        assert_eq!(sum - Sum::from(decimal("0.000000000001")) - Sum::from_units(sum.units - 1), Sum::ZERO);
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
            ("0.0000000000001", -4, 13, vec![1000]),
            ("-0.000000000000000000000001", -6, 24, vec![1]),
            ("1234.000000000000000000000005", 0, 24, vec![1234, 0, 0, 0, 0, 0, 5]),
            ("123456.789", 1, 3, vec![12, 3456, 7890]),
            ("999999999999999.999999999999", 3, 12, vec![999, 9999, 9999, 9999, 9999, 9999, 9999]),
            ("-1000000000000000", 3, 0, vec![1000]),
        ] {
            let sum = Sum::from(decimal(text));
            let numeric = sum.to_numeric();
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
        let large = Sum::from_units(9_999_999_999_999_999_999_999_999_990_001);
        assert_eq!(Sum::from_numeric(&large.to_numeric()), Some(large));
        let beyond = PgNumeric::Positive { weight: 8, scale: 0, digits: vec![1] };
        let precise = PgNumeric::Positive { weight: -7, scale: 25, digits: vec![1000] };
        assert_eq!((Sum::from_numeric(&beyond), Sum::from_numeric(&precise)), (None, None));
    }

    #[test]
    fn it_stays_at_its_end() {
        let mut sum = Sum::from_units(i128::MAX);
        sum += Decimal::MAX.round();
        assert_eq!(sum, Sum::from_units(i128::MAX));
        assert_eq!(Sum::from_units(i128::MIN) - decimal("1"), Sum::from_units(i128::MIN));
        assert!(sum.shown() > decimal("100000000000000000000000000"));
    }

    /// Computed by hand: the part of a product below 10^-12 is kept, carried and borrowed.
    #[test]
    fn products_are_exact() {
        for (quantity, price, product) in [
            ("5", "0.00000000009", "0.00000000045"),
            ("0.5", "0.000000000001", "0.0000000000005"),
            ("-0.5", "0.000000000001", "-0.0000000000005"),
            ("0.000000000001", "0.000000000001", "0.000000000000000000000001"),
            ("-0.000000000003", "0.000000000007", "-0.000000000000000000000021"),
            ("12.345678901234", "0.000000000003", "0.000000000037037036703702"),
            ("1000000", "0.00000015", "0.15"),
        ] {
            let made = Sum::product(decimal(quantity), decimal(price));
            assert_eq!(made, Some(Sum::from(decimal(product))), "{quantity} × {price}");
            assert_eq!(Sum::from(decimal(quantity)).times(decimal(price)), made, "{quantity} × {price}");
            assert_eq!(made.and_then(Sum::exact), Some(decimal(product)), "{quantity} × {price}");
            let numeric = made.expect("small").to_numeric();
            assert_eq!(Sum::from_numeric(&numeric), made, "{quantity} × {price}");
        }
        // (10^15 − 10^-12)² = 10^30 − 2000 + 10^-24 is above the limit of 10^26; a thousand times the
        // smallest is not.
        let largest = decimal("999999999999999.999999999999");
        assert_eq!(Sum::product(largest, largest), None);
        let tiny = Sum::product(largest, decimal("0.000000000001")).expect("small");
        assert_eq!(tiny, Sum { units: 999_999_999_999_999, fine: 999_999_999_999 });
        assert_eq!(tiny - tiny, Sum::ZERO);
        let mut sum = Sum::ZERO;
        (0..1_000_000)
            .for_each(|_| sum += Sum::product(decimal("0.4"), decimal("0.000000000001")).expect("small"));
        assert_eq!(sum.exact(), Some(decimal("0.0000004")));
    }

    #[test]
    fn what_a_battery_takes_and_what_is_left() {
        for (sum, whole, left, up) in [
            ("0.0000000000005", "0", "0.0000000000005", "0.000000000001"),
            ("-0.0000000000005", "-0.000000000001", "0.0000000000005", "0"),
            ("1.000000000001", "1.000000000001", "0", "1.000000000001"),
        ] {
            let sum = Sum::from(decimal(sum));
            assert_eq!(sum.split(), (Sum::from(decimal(whole)), Sum::from(decimal(left))));
            assert_eq!(sum.rounded_up(), Some(decimal(up)));
        }
        assert_eq!(Sum::from(decimal("3.01")).packages(decimal("1.5")), Some(decimal("3")));
        assert_eq!(Sum::from(decimal("3")).packages(decimal("1.5")), Some(decimal("2")));
    }
}
