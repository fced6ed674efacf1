//! Amounts of money as text: minor units become major units exactly, never through a float.
//!
//! Source of the table: Stripe, "Supported currencies": zero-decimal currencies, three-decimal currencies and
//! special cases (<https://docs.stripe.com/currencies>). It says how Stripe *sends* amounts, which is not
//! always how a country counts.

use std::fmt;

use rust_decimal::{Decimal, RoundingStrategy};

use crate::error::Error;

/// Decimal places of the battery units that are granted, and taken back.
pub const UNIT_PLACES: u32 = 9;

/// Rounds to [`UNIT_PLACES`]; half goes to the even neighbour.
#[must_use]
pub fn round_units(units: Decimal) -> Decimal {
    units.round_dp_with_strategy(UNIT_PLACES, RoundingStrategy::MidpointNearestEven)
}

/// Amounts in these are whole units already.
const ZERO_DECIMAL: [&str; 15] =
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"];
/// A thousand minor units make one unit.
const THREE_DECIMAL: [&str; 5] = ["bhd", "jod", "kwd", "omr", "tnd"];

/// How many decimal places Stripe's amounts in `currency` have: 0, 2 or 3. `currency` is an ISO 4217 code in
/// either case.
///
/// ISK and UGX have no subunit in use, yet Stripe goes on sending them with two places ("special cases").
#[must_use]
pub fn decimal_places(currency: &str) -> u8 {
    let is = |known: &&'static str| known.eq_ignore_ascii_case(currency);
    if ZERO_DECIMAL.iter().any(is) {
        0
    } else if THREE_DECIMAL.iter().any(is) {
        3
    } else {
        2
    }
}

/// The active currencies of ISO 4217, list one, as of 2026-01-01 (so without `bgn`). SIX keeps the list:
/// <https://www.six-group.com/en/products-services/financial-information/data-standards.html>.
/// Left out is what nobody pays an invoice with: units of account and funds (`clf`, `uyi`, `xdr`), metals
/// (`xau`), `xts` for tests and `xxx` for none.
const ACTIVE: &str = "\
    aed afn all amd aoa ars aud awg azn bam bbd bdt bhd bif bmd bnd bob brl bsd btn bwp byn bzd cad cdf \
    chf clp cny cop crc cup cve czk djf dkk dop dzd egp ern etb eur fjd fkp gbp gel ghs gip gmd gnf gtq \
    gyd hkd hnl htg huf idr ils inr iqd irr isk jmd jod jpy kes kgs khr kmf kpw krw kwd kyd kzt lak lbp \
    lkr lrd lsl lyd mad mdl mga mkd mmk mnt mop mru mur mvr mwk mxn myr mzn nad ngn nio nok npr nzd omr \
    pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr sdg sek sgd shp sle sos srd ssp stn svc \
    syp szl thb tjs tmt tnd top try ttd twd tzs uah ugx usd uyu uzs ved ves vnd vuv wst xaf xcd xcg xof \
    xpf yer zar zmw zwg";

/// Whether a text is the code of an active currency of ISO 4217, in lower case.
#[must_use]
pub fn is_currency(code: &str) -> bool {
    ACTIVE.split(' ').any(|active| active == code)
}

/// Checks the currency of something that is told to us: an active one of ISO 4217, in lower case, so that a
/// mistyped code does not become an account of its own. What Stripe sends is not checked: it is as it is.
///
/// # Errors
/// [`Error::Invalid`] naming `field`.
pub fn check_currency(field: &'static str, code: &str) -> Result<(), Error> {
    if is_currency(code) {
        return Ok(());
    }
    Err(Error::invalid(
        field,
        "must be the code of an active currency (ISO 4217), in lower case, such as usd",
    ))
}

/// An amount in minor units as a number of major units.
#[must_use]
pub fn major_units(minor: i64, currency: &str) -> Decimal {
    Decimal::new(minor, u32::from(decimal_places(currency)))
}

/// An amount in major units of its currency. Its text is exact: `-12.30`, `500`, `1.005`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MajorUnits {
    /// Amount in minor units.
    pub minor: i64,
    /// Decimal places of the currency, as [`decimal_places`] says.
    pub places: u8,
}

impl MajorUnits {
    #[must_use]
    pub fn new(minor: i64, currency: &str) -> Self {
        Self { minor, places: decimal_places(currency) }
    }
}

impl fmt::Display for MajorUnits {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.minor < 0 { "-" } else { "" };
        let units = self.minor.unsigned_abs();
        let scale = 10_u64.pow(u32::from(self.places));
        match self.places {
            0 => write!(out, "{sign}{units}"),
            places => {
                write!(out, "{sign}{}.{:0width$}", units / scale, units % scale, width = usize::from(places))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_units_are_exact_text() {
        for (minor, currency, text) in [
            (1050, "usd", "10.50"),
            (-5, "eur", "-0.05"),
            (0, "gbp", "0.00"),
            (500, "jpy", "500"),
            (-500, "XOF", "-500"),
            (5120, "kwd", "5.120"),
            (500, "isk", "5.00"),
            (500, "ugx", "5.00"),
            (1000, "huf", "10.00"),
            (i64::MIN, "usd", "-92233720368547758.08"),
            (9_007_199_254_740_993, "usd", "90071992547409.93"),
        ] {
            assert_eq!(MajorUnits::new(minor, currency).to_string(), text, "{minor} {currency}");
        }
    }

    #[test]
    fn only_active_currencies_are_taken() {
        for code in "usd eur gbp jpy idr kwd xaf xcg zwg sle ved".split(' ') {
            assert!(is_currency(code), "{code}");
        }
        // Nothing, upper case, unknown, of no country, metals, funds, and those that were given up.
        for code in " us USD usdd btc xyz eru xxx xts xau xag xdr clf che uyi hrk bgn ang zwl sll".split(' ')
        {
            assert!(!is_currency(code), "{code}");
        }
        assert_eq!(ACTIVE.split(' ').count(), 155);
        assert!(ZERO_DECIMAL.iter().chain(&THREE_DECIMAL).all(|code| is_currency(code)));
    }

    #[test]
    fn every_listed_currency_has_its_places() {
        let zero = "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF";
        for (places, currencies) in [(0, zero), (3, "BHD JOD KWD OMR TND"), (2, "USD EUR ISK UGX HUF TWD")] {
            for currency in currencies.split(' ') {
                assert_eq!(decimal_places(currency), places, "{currency}");
            }
        }
    }
}
