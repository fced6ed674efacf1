//! The languages of documents: labels, and how numbers, money and dates are written.
//!
//! Each language is one file of `languages/`, and all have the same keys. A new language is a new file and a
//! line in [`FILES`].

use std::collections::BTreeMap;
use std::sync::LazyLock;

use chrono::{Datelike, NaiveDate};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::Error;
use crate::money::{self, MajorUnits};

/// ISO 639-1 code and text of each language.
const FILES: [(&str, &str); 5] = [
    ("de", include_str!("languages/de.toml")),
    ("en", include_str!("languages/en.toml")),
    ("es", include_str!("languages/es.toml")),
    ("fr", include_str!("languages/fr.toml")),
    ("id", include_str!("languages/id.toml")),
];

static LANGUAGES: LazyLock<BTreeMap<&str, Language>> = LazyLock::new(|| {
    let read = |text| toml::from_str(text).expect("languages/ is checked by a test");
    FILES.iter().map(|(code, text)| (*code, read(text))).collect()
});

/// It is as wide as a digit, and no line breaks after it.
const MINUS: &str = "\u{2212}";

/// Codes of the languages that documents can have, in alphabetical order.
pub fn codes() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(code, _)| *code)
}

/// How one language writes documents.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Language {
    numbers: Numbers,
    /// By currency, in lower case. A currency without a symbol shows its code.
    symbols: BTreeMap<String, String>,
    dates: Dates,
    /// Words by key.
    pub labels: Labels,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbers {
    group: String,
    decimal: String,
    percent: String,
    symbol_money: String,
    code_money: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dates {
    date: String,
    day_digits: usize,
    months: [String; 12],
}

macro_rules! labels {
    ($($name:ident)+) => {
        /// The words of a document in one language. `{…}` within a word stands for a value.
        #[derive(Debug, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(missing_docs)]
        pub struct Labels {
            $(pub $name: String,)+
        }
    };
}

labels! {
    invoice credit_note draft bill_to issue_date due_date supply customer_reference purchase_order
    corrects of_date reason vat_id tax_number registration_number email phone contact position description
    quantity unit_price per tax amount subtotal discount net total_tax included_tax total credited due
    credit_total tax_table tax_base tax_amount tax_inclusive zero_rated exempt reverse_charge intra_community
    export out_of_scope payment account_holder bank iban bic account_number payment_reference terms note page
}

impl Language {
    /// The language with this ISO 639-1 code.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownLanguage`], which lists the known codes.
    pub fn of(code: &str) -> Result<&'static Self, Error> {
        LANGUAGES.get(code).ok_or_else(|| Error::UnknownLanguage(code.to_owned()))
    }

    /// An amount in minor units of `currency` (ISO 4217), with all its decimal places and the currency.
    #[must_use]
    pub fn money(&self, minor: i64, currency: &str) -> String {
        self.with_currency(&MajorUnits::new(minor, currency).to_string(), currency)
    }

    /// A price in major units of `currency`: at least its decimal places, and all digits of the price.
    #[must_use]
    pub fn price(&self, price: Decimal, currency: &str) -> String {
        let mut price = price.normalize();
        let places = u32::from(money::decimal_places(currency));
        if price.scale() < places {
            price.rescale(places);
        }
        self.with_currency(&price.to_string(), currency)
    }

    /// A number with all its digits, without zeros at its end.
    #[must_use]
    pub fn number(&self, number: Decimal) -> String {
        let text = number.normalize().to_string();
        let (sign, digits) = split_sign(&text);
        format!("{sign}{}", self.grouped(digits))
    }

    /// A percentage: 19 is 19 %.
    #[must_use]
    pub fn percent(&self, percent: Decimal) -> String {
        self.numbers.percent.replace("{number}", &self.number(percent))
    }

    /// A day, such as `3 May 2026`.
    #[must_use]
    pub fn date(&self, date: NaiveDate) -> String {
        let pattern = &self.dates;
        pattern
            .date
            .replace("{day}", &format!("{:0width$}", date.day(), width = pattern.day_digits))
            .replace("{month}", &pattern.months[date.month0() as usize])
            .replace("{year}", &date.year().to_string())
    }

    /// `number` is exact text with a point, such as `-1234.50`. A minus sign stands before all else.
    fn with_currency(&self, number: &str, currency: &str) -> String {
        let (sign, digits) = split_sign(number);
        let amount = match self.symbols.get(&currency.to_ascii_lowercase()) {
            Some(symbol) => self.numbers.symbol_money.replace("{symbol}", symbol),
            None => self.numbers.code_money.replace("{code}", &currency.to_ascii_uppercase()),
        };
        format!("{sign}{}", amount.replace("{number}", &self.grouped(digits)))
    }

    /// Digits with a point, in groups of three.
    fn grouped(&self, digits: &str) -> String {
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let mut text = String::with_capacity(digits.len() * 2);
        for (at, digit) in whole.char_indices() {
            if at > 0 && (whole.len() - at).is_multiple_of(3) {
                text.push_str(&self.numbers.group);
            }
            text.push(digit);
        }
        if !fraction.is_empty() {
            text.push_str(&self.numbers.decimal);
            text.push_str(fraction);
        }
        text
    }
}

fn split_sign(number: &str) -> (&'static str, &str) {
    number.strip_prefix('-').map_or(("", number), |digits| (MINUS, digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All keys, such as `labels.due`.
    fn keys(table: &toml::Table) -> Vec<String> {
        let of = |(name, value): (&String, &toml::Value)| match value {
            toml::Value::Table(table) => keys(table).into_iter().map(|key| format!("{name}.{key}")).collect(),
            _ => vec![name.clone()],
        };
        table.iter().flat_map(of).collect()
    }

    #[test]
    fn all_languages_have_the_same_keys_and_placeholders() {
        let tables: Vec<(&str, toml::Table)> =
            FILES.iter().map(|(code, text)| (*code, toml::from_str(text).expect(code))).collect();
        let (_, first) = &tables[0];
        for (code, table) in &tables {
            assert_eq!(keys(table), keys(first), "{code}");
            Language::of(code).expect("it can be read");
            let word = |table: &toml::Table, key: &str| table["labels"][key].as_str().unwrap().to_owned();
            for (key, value) in [("per", "{quantity}"), ("of_date", "{date}"), ("page", "{pages}")] {
                assert!(word(table, key).contains(value), "{code}: {key} lacks {value}");
            }
            for (key, text) in table["labels"].as_table().unwrap() {
                assert!(!text.as_str().unwrap().trim().is_empty(), "{code}: {key} is empty");
            }
        }
    }

    /// A no-break space is shown as `_`, a narrow one as `~`.
    fn visible(text: &str) -> String {
        text.replace('\u{a0}', "_").replace('\u{202f}', "~")
    }

    #[test]
    fn money_has_the_places_of_its_currency_and_the_manner_of_its_language() {
        for (code, minor, currency, expected) in [
            ("en", 123_456_789, "usd", "$1,234,567.89"),
            ("en", -500, "eur", "−€5.00"),
            ("en", 44_311_200, "idr", "IDR_443,112.00"),
            ("en", 999, "jpy", "JPY_999"),
            ("en", 1_234_567, "kwd", "KWD_1,234.567"),
            ("de", 123_456, "eur", "1.234,56_€"),
            ("de", -5, "EUR", "−0,05_€"),
            ("de", 12_345, "chf", "123,45_CHF"),
            ("fr", 123_456_789, "eur", "1~234~567,89_€"),
            ("es", 100_000, "eur", "1.000,00_€"),
            ("id", 44_311_200, "idr", "IDR_443.112,00"),
            ("de", i64::MIN, "eur", "−92.233.720.368.547.758,08_€"),
        ] {
            let text = Language::of(code).unwrap().money(minor, currency);
            assert_eq!(visible(&text), expected, "{code} {minor} {currency}");
        }
    }

    #[test]
    fn numbers_and_prices_lose_no_digit() {
        let (en, de) = (Language::of("en").unwrap(), Language::of("de").unwrap());
        let decimal = |text: &str| text.parse::<Decimal>().unwrap();
        for (number, expected) in [
            ("1234567.000000000001", "1,234,567.000000000001"),
            ("1000.500", "1,000.5"),
            ("0.00", "0"),
            ("-0.5", "−0.5"),
            ("79228162514264337593543950335", "79,228,162,514,264,337,593,543,950,335"),
        ] {
            assert_eq!(en.number(decimal(number)), expected);
        }
        assert_eq!(visible(&de.price(decimal("0.000015"), "eur")), "0,000015_€");
        assert_eq!(visible(&de.price(decimal("12"), "eur")), "12,00_€");
        assert_eq!(en.price(decimal("0.4000"), "usd"), "$0.40");
        assert_eq!(visible(&en.price(decimal("1200.00"), "jpy")), "JPY_1,200");
        assert_eq!(visible(&de.percent(decimal("7.50"))), "7,5_%");
        assert_eq!(en.percent(decimal("19.00")), "19%");
    }

    #[test]
    fn dates_have_the_manner_of_their_language() {
        let date = NaiveDate::from_ymd_opt(2026, 5, 3).unwrap();
        for (code, expected) in [
            ("en", "3 May 2026"),
            ("de", "03.05.2026"),
            ("fr", "03/05/2026"),
            ("es", "03/05/2026"),
            ("id", "3 Mei 2026"),
        ] {
            assert_eq!(Language::of(code).unwrap().date(date), expected);
        }
    }

    #[test]
    fn an_unknown_language_is_an_error_that_lists_the_known() {
        let error = Language::of("xx").unwrap_err().to_string();
        assert_eq!(error, "The language `xx` is not known. Documents can have: de, en, es, fr, id.");
    }
}
