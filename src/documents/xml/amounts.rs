//! Amounts and prices as EN 16931 writes them: major units with at most two decimal places, and prices that
//! are never negative.

use en16931::{InvoiceAmount, Quantity, UnitPriceAmount};
use rust_decimal::{Decimal, RoundingStrategy};

use crate::documents::content::Line;
use crate::money::decimal_places;

/// Decimal places of every amount (the rules BR-DEC-…).
const PLACES: u8 = 2;
/// How far quantity × price may be from the amount of a line, in major units: what rounding to two places
/// takes. PEPPOL-EN16931-R120 allows 0.02.
const TOLERANCE: Decimal = Decimal::from_parts(5, 0, 0, false, 3);
/// Decimal places of a price that follows from an amount: the first of these that is exact enough.
const PRICE_PLACES: [u32; 5] = [6, 10, 14, 18, 22];

/// Whether amounts of the currency can be written.
pub(super) fn fit(currency: &str) -> bool {
    decimal_places(currency) <= PLACES
}

/// Minor units of a currency, in major units. An amount beyond the standard's range becomes its greatest, and
/// no sum with it is right any more.
pub(super) fn amount(minor: i64, currency: &str) -> InvoiceAmount {
    let places = PLACES.saturating_sub(decimal_places(currency));
    InvoiceAmount::from_minor_units(minor.saturating_mul(10_i64.pow(u32::from(places))))
}

/// Quantity, net price and for how many units that price is.
pub(super) struct Price {
    pub(super) quantity: Quantity,
    pub(super) net_price: UnitPriceAmount,
    pub(super) base_quantity: Quantity,
}

/// The price of a line without tax. The price of the line itself is taken where it makes the net amount; else
/// (prices with tax, currencies without decimal places) the price follows from the net amount. A negative
/// price gives its sign to the quantity: BR-27.
pub(super) fn price(line: &Line, currency: &str) -> Price {
    let net = amount(line.net, currency).into_decimal();
    let (mut quantity, mut price, base) =
        exact(line, line.unit_price, net).unwrap_or_else(|| derived(line, net));
    if price.is_sign_negative() && !price.is_zero() {
        (quantity, price) = (-quantity, -price);
    }
    Price {
        quantity: Quantity::new(quantity.normalize()),
        net_price: UnitPriceAmount::new(price.normalize()),
        base_quantity: Quantity::new(base.normalize()),
    }
}

/// The line's quantity, `price`, and the line's base quantity, if they make `net`.
fn exact(line: &Line, price: Decimal, net: Decimal) -> Option<(Decimal, Decimal, Decimal)> {
    let product = line.quantity.checked_mul(price)?.checked_div(line.base_quantity)?;
    let is_near = product.checked_sub(net)?.abs() <= TOLERANCE;
    is_near.then_some((line.quantity, price, line.base_quantity))
}

/// A price that makes `net`. If the quantity leaves no such price, one piece costs it all.
fn derived(line: &Line, net: Decimal) -> (Decimal, Decimal, Decimal) {
    let price = net.checked_mul(line.base_quantity).and_then(|product| product.checked_div(line.quantity));
    let rounded = PRICE_PLACES.iter().filter_map(|places| {
        Some(price?.round_dp_with_strategy(*places, RoundingStrategy::MidpointAwayFromZero))
    });
    let found = rounded.into_iter().find_map(|price| exact(line, price, net));
    found.unwrap_or((Decimal::ONE, net, Decimal::ONE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::samples;

    /// A line with its quantity, price, base quantity, and net amount in cents.
    fn line(quantity: &str, price: &str, base: &str, net: i64) -> Line {
        let decimal = |text: &str| text.parse().unwrap();
        let (quantity, unit_price, base_quantity) = (decimal(quantity), decimal(price), decimal(base));
        Line { quantity, unit_price, base_quantity, net, ..samples::invoice("en").lines.remove(0) }
    }

    #[test]
    fn the_price_makes_the_net_amount_and_is_never_negative() {
        for (case, expected) in [
            (line("12345678", "0.40", "1000000", 494), ("12345678", "0.4", "1000000")),
            (line("-1", "14.50", "1", -1450), ("-1", "14.5", "1")),
            (line("1", "-14.50", "1", -1450), ("-1", "14.5", "1")),
            // With 19 % tax in the price.
            (line("3", "9.99", "1", 2518), ("3", "8.393333", "1")),
            (line("1234567", "0.0005", "1", 51873), ("1234567", "0.0004201716", "1")),
            (
                line("123456789012345", "0.000000000001", "1", 10374),
                ("123456789012345", "0.000000000000840294", "1"),
            ),
            (line("0", "0", "1", 500), ("1", "5", "1")),
            (line("0", "5", "1", 0), ("0", "5", "1")),
            (line("79228162514264337593543950335", "2", "1", 1), ("1", "0.01", "1")),
        ] {
            let price = price(&case, "eur");
            let (quantity, base) = (price.quantity.into_decimal(), price.base_quantity.into_decimal());
            let net_price = price.net_price.into_decimal();
            let found = (quantity.to_string(), net_price.to_string(), base.to_string());
            let expected = (expected.0.to_owned(), expected.1.to_owned(), expected.2.to_owned());
            assert_eq!(found, expected, "{case:?}");
            let product = quantity * net_price / base;
            assert!((product - Decimal::new(case.net, 2)).abs() <= TOLERANCE, "{case:?}: {product}");
        }
    }

    #[test]
    fn an_amount_has_two_places_in_every_currency() {
        assert_eq!(amount(1234, "eur").to_string(), "12.34");
        assert_eq!(amount(1234, "jpy").to_string(), "1234.00");
        assert!(fit("idr") && fit("jpy") && !fit("kwd"));
    }
}
