//! The accounts file: TOML that says which account of the bookkeeping each posting goes to.
//!
//! Rules of a list are tried in their order, the file's before the built-in ones. A rule fits when everything
//! fits that it names. Account names may hold `{kind}`, `{category}`, `{percent}`, `{processor}` and
//! `{payment_account}`.

use std::collections::BTreeMap;
use std::path::Path;

use rust_decimal::Decimal;
use serde::Deserialize;

use crate::documents::content::TaxCategory;
use crate::error::Error;

/// Which accounts there are.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccountsFile {
    /// What orgs owe; with receivables per org the account above them. DATEV: the debtor of all orgs.
    pub receivable: Option<String>,
    pub write_off: Option<String>,
    /// What was given up and is paid after all; `write_off` when left out.
    pub recovery: Option<String>,
    pub adjustment: Option<String>,
    pub opening_balance: Option<String>,
    pub revenue: Vec<RevenueRule>,
    pub tax: Vec<TaxRule>,
    pub money: Vec<MoneyRule>,
    pub processor_fees: Vec<FeeRule>,
    /// Needed by the format `datev`, refused by the others.
    pub datev: Option<DatevSettings>,
}

/// The account of revenue of a kind of line at a tax rate.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RevenueRule {
    /// fee, usage, minimum, proration or item.
    pub kind: Option<String>,
    pub category: Option<TaxCategory>,
    pub percent: Option<Percent>,
    pub account: String,
    /// DATEV: the amount includes the tax, which DATEV takes out by the account's automatic function or by
    /// `tax_key`.
    pub tax_included: bool,
    /// DATEV: the BU-Schlüssel.
    pub tax_key: Option<String>,
}

/// The account of tax at a rate.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaxRule {
    pub category: Option<TaxCategory>,
    pub percent: Option<Percent>,
    pub account: String,
}

/// The account of money of payments.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MoneyRule {
    /// Key of the payment account on which it arrived.
    pub payment_account: Option<String>,
    pub processor: Option<String>,
    pub account: String,
}

/// The account of what processors keep.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeeRule {
    pub processor: Option<String>,
    pub account: String,
}

/// A rate in percent: 19, or "5.5".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PercentText")]
pub struct Percent(pub Decimal);

#[derive(Deserialize)]
#[serde(untagged)]
enum PercentText {
    Whole(i64),
    Text(String),
}

impl TryFrom<PercentText> for Percent {
    type Error = &'static str;

    fn try_from(text: PercentText) -> Result<Self, Self::Error> {
        match text {
            PercentText::Whole(whole) => Ok(Self(Decimal::from(whole))),
            PercentText::Text(text) => text
                .parse::<Decimal>()
                .map(|percent| Self(percent.normalize()))
                .map_err(|_| "percent must be a number such as 19 or \"5.5\""),
        }
    }
}

/// What a DATEV file says of the books that it is for.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatevSettings {
    /// Beraternummer, 1001 to 9999999.
    pub consultant: u32,
    /// Mandantennummer, 1 to 99999.
    pub client: u32,
    /// First day of the financial year, such as `01-01`.
    #[serde(default = "first_of_january")]
    pub year_start: String,
    /// Sachkontenrahmen, `03` or `04`: which built-in accounts there are.
    #[serde(default = "skr03")]
    pub chart: String,
    /// Sachkontenlänge, 4 to 8; accounts of debtors have a digit more.
    #[serde(default = "four")]
    pub account_length: u8,
    /// Account of the first org, with receivables per org: the orgs follow in the order in which their
    /// accounts began.
    #[serde(default)]
    pub first_debtor: Option<u32>,
    /// Currency of the books.
    #[serde(default = "euro")]
    pub currency: String,
    /// How much of a currency one unit of the books' currency is, such as `usd = "1.0823"`: the rate of the
    /// month by which the tax is declared.
    #[serde(default)]
    pub rates: BTreeMap<String, Decimal>,
    /// Festschreibung: DATEV lets nobody change the postings.
    #[serde(default)]
    pub locked: bool,
}

fn first_of_january() -> String {
    "01-01".to_owned()
}

fn skr03() -> String {
    "03".to_owned()
}

fn four() -> u8 {
    4
}

fn euro() -> String {
    "eur".to_owned()
}

impl AccountsFile {
    /// Reads a file's text.
    ///
    /// # Errors
    /// One sentence that names the line, or the key.
    pub fn read(text: &str) -> Result<Self, String> {
        let file: Self = toml::from_str(text).map_err(|error| match error.span() {
            Some(span) => {
                let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
                format!("line {line}: {}", error.message().replace('\n', " "))
            }
            None => error.message().replace('\n', " "),
        })?;
        file.check()?;
        Ok(file)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Invalid`], one sentence that names the file.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let refused = |what: String| Error::invalid("accounts", format!("{}: {what}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
        Self::read(&text).map_err(refused)
    }

    fn check(&self) -> Result<(), String> {
        const KINDS: [&str; 5] = ["fee", "usage", "minimum", "proration", "item"];
        for (n, rule) in self.revenue.iter().enumerate() {
            if let Some(kind) = &rule.kind
                && !KINDS.contains(&kind.as_str())
            {
                return Err(format!("revenue.{n}.kind is `{kind}`, but must be one of {}", KINDS.join(", ")));
            }
            if let Some(key) = &rule.tax_key
                && (key.is_empty() || key.len() > 4 || !key.bytes().all(|byte| byte.is_ascii_digit()))
            {
                return Err(format!("revenue.{n}.tax_key is `{key}`, but must be 1 to 4 digits"));
            }
        }
        self.datev.as_ref().map_or(Ok(()), DatevSettings::check)
    }

    /// Every account name of the file, with its place.
    pub(super) fn names(&self) -> Vec<(String, &str)> {
        let alone = [
            ("receivable", &self.receivable),
            ("write_off", &self.write_off),
            ("recovery", &self.recovery),
            ("adjustment", &self.adjustment),
            ("opening_balance", &self.opening_balance),
        ];
        let mut names: Vec<(String, &str)> = alone
            .into_iter()
            .filter_map(|(place, name)| Some((place.to_owned(), name.as_deref()?)))
            .collect();
        for (n, rule) in self.revenue.iter().enumerate() {
            names.push((format!("revenue.{n}.account"), &rule.account));
        }
        for (n, rule) in self.tax.iter().enumerate() {
            names.push((format!("tax.{n}.account"), &rule.account));
        }
        for (n, rule) in self.money.iter().enumerate() {
            names.push((format!("money.{n}.account"), &rule.account));
        }
        for (n, rule) in self.processor_fees.iter().enumerate() {
            names.push((format!("processor_fees.{n}.account"), &rule.account));
        }
        names
    }
}

impl DatevSettings {
    fn check(&self) -> Result<(), String> {
        if !(1001..=9_999_999).contains(&self.consultant) {
            return Err("datev.consultant must be the Beraternummer, 1001 to 9999999".to_owned());
        }
        if !(1..=99_999).contains(&self.client) {
            return Err("datev.client must be the Mandantennummer, 1 to 99999".to_owned());
        }
        if !matches!(self.chart.as_str(), "03" | "04") {
            return Err(format!("datev.chart is `{}`, but must be \"03\" or \"04\"", self.chart));
        }
        if !(4..=8).contains(&self.account_length) {
            return Err("datev.account_length must be 4 to 8".to_owned());
        }
        let year_start = format!("2023-{}", self.year_start);
        if self.year_start.len() != 5 || year_start.parse::<chrono::NaiveDate>().is_err() {
            return Err("datev.year_start must be a month and a day, such as \"01-01\"".to_owned());
        }
        let plain = |code: &str| code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_lowercase());
        if !plain(&self.currency) || !self.rates.keys().all(|code| plain(code)) {
            return Err("datev.currency and datev.rates must name currencies as `eur`".to_owned());
        }
        // Formatbeschreibung Buchungsstapel, field 4: 1 to 4 digits and up to 6 decimal places.
        let fits = |rate: &Decimal| {
            *rate > Decimal::ZERO && *rate < Decimal::from(10_000) && rate.normalize().scale() <= 6
        };
        if !self.rates.values().all(fits) {
            let rule = "datev.rates must be above 0 and below 10000, with at most 6 decimal places";
            return Err(rule.to_owned());
        }
        let digits = self.first_debtor.map_or(0, |first| first.to_string().len());
        if self.first_debtor.is_some() && digits != usize::from(self.account_length) + 1 {
            return Err("datev.first_debtor must have one digit more than datev.account_length".to_owned());
        }
        Ok(())
    }
}
