//! Quantities on the wire: decimals as strings. A number that people set (limit, grant, price) is exact or it
//! is refused; one that a program measured is rounded to 12 places ([`Amount`]).

use std::borrow::Cow;

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};

mod read;
mod sum;

pub use self::read::{Amount, NumberError, number_text, read_rounded};
pub use self::sum::Sum;

/// Decimal places of a quantity at most.
pub const PLACES: u32 = 12;
/// 10^15. Every single quantity, cost and number of battery units stays below it, whatever its sign. With
/// [`PLACES`] it has 27 digits at most, which a decimal (28 digits) holds exactly; a [`Sum`] holds all places
/// of what is added up, and does not overflow.
pub const LIMIT: Decimal = Decimal::from_parts(2_764_472_320, 232_830, 0, false, 0);
/// The largest whole number below [`LIMIT`].
const LARGEST: i64 = 999_999_999_999_999;
/// Digits that a JSON number carries through a double without loss.
const EXACT_DIGITS: usize = 15;

/// A quantity of a meter or of battery units: at most 12 decimal places, below 10^15.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(pub Decimal);

/// Whether a single event, price or grant may have this number: below [`LIMIT`], with [`PLACES`] at most.
#[must_use]
pub fn is_bounded(number: Decimal) -> bool {
    number.abs() < LIMIT && (number.scale() <= PLACES || number.normalize().scale() <= PLACES)
}

impl Quantity {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.'));
        let parsed = if plain { Decimal::from_str_exact(text) } else { Decimal::from_scientific(text) };
        let number = parsed.map_err(|_| "must be a decimal such as \"12.5\"")?.normalize();
        if !is_bounded(number) {
            return Err("must be a decimal of at most 12 places, below 10^15");
        }
        Ok(Self(number))
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0.normalize())
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Sent<'a> {
            Text(#[serde(borrow)] Cow<'a, str>),
            Number(serde_json::Number),
        }
        let parsed = match Sent::deserialize(from) {
            Ok(Sent::Text(text)) => Self::parse(&text),
            Ok(Sent::Number(number)) => {
                let text = number.to_string();
                let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
                let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
                if number.is_f64() && digits > EXACT_DIGITS + 1 {
                    Err("must be a string: a number with so many digits may not be exact")
                } else {
                    Self::parse(&text)
                }
            }
            Err(_) => Err("must be a decimal such as \"12.5\""),
        };
        parsed.map_err(serde::de::Error::custom)
    }
}

/// A quantity in the API's description: a decimal as a string, or a whole number.
fn number_schema(text: &str, pattern: &str, least: i64) -> RefOr<Schema> {
    let kinds = SchemaType::from_iter([Type::String, Type::Integer]);
    let description = format!("{text}. Answers have a string; a JSON number that is exact is taken too.");
    let object =
        ObjectBuilder::new().schema_type(kinds).pattern(Some(pattern)).description(Some(description));
    object.minimum(Some(least)).maximum(Some(LARGEST)).into()
}

macro_rules! number_schemas {
    ($(#[$doc:meta] $name:ident: $text:literal, $pattern:literal, $least:expr;)+) => {
        $(
            #[$doc]
            #[allow(dead_code, reason = "describes a field")]
            pub struct $name;

            impl utoipa::PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    number_schema($text, $pattern, $least)
                }
            }

            impl utoipa::ToSchema for $name {}
        )+
    };
}

number_schemas! {
    /// Describes a [`Quantity`] that is 0 or more.
    QuantityFromZero: "A decimal, 0 or more, of at most 12 places, below \
        10^15", r"^[0-9]{1,15}(\.[0-9]{1,12})?$", 0;
    /// Describes a [`Quantity`] above 0.
    QuantityAboveZero: "A decimal above 0, of at most 12 places, below \
        10^15", r"^([1-9][0-9]{0,14}(\.[0-9]{1,12})?|0\.[0-9]{0,11}[1-9])$", 1;
    /// Describes a [`Quantity`] of battery units that is 0 or more.
    UnitsFromZero: "Units, 0 or more, of at most 9 decimal places, below \
        10^15", r"^[0-9]{1,15}(\.[0-9]{1,9})?$", 0;
    /// Describes a [`Quantity`] of battery units above 0.
    UnitsAboveZero: "Units above 0, of at most 9 decimal places, below \
        10^15", r"^([1-9][0-9]{0,14}(\.[0-9]{1,9})?|0\.[0-9]{0,8}[1-9])$", 1;
    /// Describes a [`Quantity`] of battery units that are added or taken.
    UnitsNotZero: "Units, not 0, of at most 9 decimal places, below 10^15 either \
        way", r"^-?([1-9][0-9]{0,14}(\.[0-9]{1,9})?|0\.[0-9]{0,8}[1-9])$", -LARGEST;
    /// Describes a percentage of a limit.
    Percent: "Percent, above 0 and at most 1000, of at most 12 decimal \
        places", r"^([1-9][0-9]{0,2}(\.[0-9]{1,12})?|1000|0\.[0-9]{0,11}[1-9])$", 1;
}

impl utoipa::PartialSchema for Quantity {
    fn schema() -> RefOr<Schema> {
        let text = "A decimal of at most 12 places, below 10^15 either way";
        number_schema(text, r"^-?[0-9]{1,15}(\.[0-9]{1,12})?$", -LARGEST)
    }
}

impl utoipa::ToSchema for Quantity {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_what_it_says() {
        assert_eq!(LIMIT, Decimal::from(10_i64.pow(15)));
        assert_eq!(LIMIT, Decimal::from(LARGEST) + Decimal::ONE);
    }

    #[test]
    fn what_is_exact_is_taken_and_nothing_else() {
        for (sent, kept) in [
            ("\"12.50\"", Some("12.5")),
            ("12", Some("12")),
            ("0.1", Some("0.1")),
            ("-3", Some("-3")),
            ("1e3", Some("1000")),
            ("\"0.000000000001\"", Some("0.000000000001")),
            ("\"0.0000000000001\"", None),
            ("\"999999999999999.999999999999\"", Some("999999999999999.999999999999")),
            ("\"1000000000000000\"", None),
            ("0.12345678901234567", None),
            ("\"NaN\"", None),
            ("\"\"", None),
            ("1e400", None),
            ("true", None),
            ("null", None),
        ] {
            let quantity = serde_json::from_str::<Quantity>(sent).ok();
            let text = quantity.map(|quantity| serde_json::to_value(quantity).expect("text"));
            assert_eq!(text.as_ref().and_then(|text| text.as_str()), kept, "{sent}");
        }
    }
}
