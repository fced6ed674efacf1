//! Which account of the bookkeeping each posting goes to: the accounts file, completed by built-in rules.

use std::collections::BTreeMap;

use rust_decimal::Decimal;

use super::accounts_file::{AccountsFile, DatevSettings, FeeRule, MoneyRule, Percent, RevenueRule, TaxRule};
use super::journal::JournalFormat;
use super::postings::{BookedEntry, Place};
use crate::documents::content::TaxCategory;
use crate::error::Error;
use crate::invoicing::amounts::TaxGroup;

/// Whether each org has a receivable account of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receivables {
    PerOrg,
    Single,
}

impl Receivables {
    /// # Errors
    /// [`Error::Invalid`] for another name.
    pub fn parse(name: &str) -> Result<Self, Error> {
        match name {
            "per-org" => Ok(Self::PerOrg),
            "single" => Ok(Self::Single),
            _ => Err(Error::invalid("receivables", "must be per-org or single")),
        }
    }
}

/// An account, and how DATEV takes the tax out of an amount on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ChartAccount {
    pub(super) name: String,
    pub(super) tax_included: bool,
    pub(super) tax_key: Option<String>,
}

/// All accounts of a journal.
pub struct Chart {
    format: JournalFormat,
    receivables: Receivables,
    accounts: AccountsFile,
    /// Number of each org among debtors, from 1 on, by row id.
    debtors: BTreeMap<i64, u32>,
}

impl Chart {
    /// The accounts of a file, completed.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the format cannot have an account of such a name, or lacks settings.
    pub fn new(
        mut file: AccountsFile,
        format: JournalFormat,
        receivables: Receivables,
        debtors: BTreeMap<i64, u32>,
    ) -> Result<Self, Error> {
        for (place, name) in file.names() {
            check_name(&place, name, format)?;
        }
        match (&file.datev, format) {
            (None, JournalFormat::Datev) => {
                let rule = "must have [datev] with consultant (Beraternummer) and client (Mandantennummer)";
                return Err(Error::invalid("accounts", rule));
            }
            (Some(datev), JournalFormat::Datev) => {
                let built_in = skr(datev);
                file = complete(file, built_in);
            }
            (Some(_), _) => {
                return Err(Error::invalid("accounts", "must not have [datev]: this format is another one"));
            }
            (None, _) => file = complete(file, plain()),
        }
        Ok(Self { format, receivables, accounts: file, debtors })
    }

    /// The settings of DATEV files.
    pub(super) fn datev(&self) -> Result<&DatevSettings, Error> {
        let missing = || Error::Internal("a chart for DATEV without its settings".to_owned());
        self.accounts.datev.as_ref().ok_or_else(missing)
    }

    /// The account that a posting of an entry goes to.
    ///
    /// # Errors
    /// [`Error::Invalid`] when no rule fits.
    pub(super) fn account(&self, place: &Place, entry: &BookedEntry) -> Result<ChartAccount, Error> {
        let file = &self.accounts;
        let named = |name: &Option<String>| name.clone().map(|name| (name, None));
        let found = match place {
            Place::Receivable => return self.receivable(entry),
            Place::Revenue { kind, tax, .. } => file
                .revenue
                .iter()
                .find(|rule| {
                    rule.kind.as_deref().is_none_or(|own| own == *kind)
                        && is_of_rate(*tax, rule.category, rule.percent)
                })
                .map(|rule| (rule.account.clone(), Some(rule))),
            Place::Tax(tax) => file
                .tax
                .iter()
                .find(|rule| is_of_rate(*tax, rule.category, rule.percent))
                .map(|rule| (rule.account.clone(), None)),
            Place::Money { processor, payment_account } => file
                .money
                .iter()
                .find(|rule| {
                    rule.processor.as_ref().is_none_or(|own| own == processor)
                        && (rule.payment_account.is_none() || rule.payment_account == *payment_account)
                        && (payment_account.is_some() || !rule.account.contains("{payment_account}"))
                })
                .map(|rule| (rule.account.clone(), None)),
            Place::ProcessorFee { processor } => file
                .processor_fees
                .iter()
                .find(|rule| rule.processor.as_ref().is_none_or(|own| own == processor))
                .map(|rule| (rule.account.clone(), None)),
            Place::WriteOff => named(&file.write_off),
            Place::Recovery => named(&file.recovery).or_else(|| named(&file.write_off)),
            Place::Adjustment => named(&file.adjustment),
            Place::OpeningBalance => named(&file.opening_balance),
        };
        let (name, rule) = found.ok_or_else(|| lacks(place))?;
        Ok(ChartAccount {
            name: self.fill_in(&name, place)?,
            tax_included: rule.is_some_and(|rule| rule.tax_included),
            tax_key: rule.and_then(|rule| rule.tax_key.clone()),
        })
    }

    fn receivable(&self, entry: &BookedEntry) -> Result<ChartAccount, Error> {
        let single = self.accounts.receivable.clone().unwrap_or_default();
        let name = match (self.receivables, &self.accounts.datev) {
            (Receivables::Single, _) => single,
            (Receivables::PerOrg, None) => format!("{single}:{}", part(&entry.org)),
            (Receivables::PerOrg, Some(datev)) => {
                let number = self.debtors.get(&entry.org_id).copied().ok_or_else(|| {
                    Error::Internal(format!("org {} has no number among debtors", entry.org))
                })?;
                debtor(datev, number)?
            }
        };
        Ok(ChartAccount { name, ..ChartAccount::default() })
    }

    /// Fills the fields of a posting into the name of its account.
    fn fill_in(&self, name: &str, place: &Place) -> Result<String, Error> {
        if !name.contains('{') {
            return Ok(name.to_owned());
        }
        let rate = |tax: &TaxGroup| {
            [("{category}", tax.category.code().to_owned()), ("{percent}", tax.percent.to_string())]
        };
        let fields: Vec<(&str, String)> = match place {
            Place::Revenue { kind, tax, .. } => {
                let mut fields = vec![("{kind}", (*kind).to_owned())];
                fields.extend(rate(tax));
                fields
            }
            Place::Tax(tax) => rate(tax).into(),
            Place::Money { processor, payment_account } => vec![
                ("{processor}", processor.clone()),
                ("{payment_account}", payment_account.clone().unwrap_or_default()),
            ],
            Place::ProcessorFee { processor } => vec![("{processor}", processor.clone())],
            _ => Vec::new(),
        };
        let mut filled = name.to_owned();
        for (field, value) in fields {
            filled = filled.replace(field, &part(&value));
        }
        if filled.contains('{') {
            let rule = format!("names account `{name}`, whose {{…}} is no field of such a posting");
            return Err(Error::invalid("accounts", rule));
        }
        check_name("accounts", &filled, self.format)?;
        Ok(filled)
    }
}

/// A part of an account's name: letters and digits, the first one upper case. Any other character becomes a
/// dash (Beancount Language Syntax, "Accounts").
fn part(text: &str) -> String {
    let kept = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' });
    let mut part: String = kept.collect();
    match part.chars().next() {
        Some(first) if first.is_ascii_alphabetic() => {
            part.replace_range(..1, &first.to_ascii_uppercase().to_string())
        }
        Some(first) if first.is_ascii_digit() => {}
        _ => part.insert(0, 'X'),
    }
    part
}

fn is_of_rate(tax: TaxGroup, category: Option<TaxCategory>, percent: Option<Percent>) -> bool {
    category.is_none_or(|own| own == tax.category) && percent.is_none_or(|own| own.0 == tax.percent)
}

fn lacks(place: &Place) -> Error {
    let rate = |tax: &TaxGroup| format!("tax {} {} %", tax.category.code(), tax.percent);
    let what = match place {
        Place::Revenue { kind, tax, .. } => format!("a [[revenue]] for {kind} with {}", rate(tax)),
        Place::Tax(tax) => format!("a [[tax]] for {}", rate(tax)),
        Place::Money { processor, .. } => format!("a [[money]] for processor {processor}"),
        Place::ProcessorFee { processor } => format!("[[processor_fees]] for processor {processor}"),
        Place::WriteOff | Place::Recovery => "write_off".to_owned(),
        Place::Adjustment => "adjustment".to_owned(),
        Place::OpeningBalance => "opening_balance".to_owned(),
        Place::Receivable => "receivable".to_owned(),
    };
    Error::invalid("accounts", format!("must have {what}: this month has such postings"))
}

/// Refuses a name that a program of the format would not read as one account.
fn check_name(place: &str, name: &str, format: JournalFormat) -> Result<(), Error> {
    let refuse = |rule: &str| Err(Error::invalid(place.to_owned(), format!("is `{name}`, but {rule}")));
    match format {
        JournalFormat::Datev if !name.bytes().all(|byte| byte.is_ascii_digit()) || name.is_empty() => {
            refuse("must be a number of an account")
        }
        JournalFormat::Beancount if !name.contains('{') && !is_beancount(name) => {
            refuse("must begin with Assets, Liabilities, Equity, Income or Expenses and go on as `:Tax-19`")
        }
        JournalFormat::Hledger | JournalFormat::Csv
            if name.is_empty()
                || name.trim() != name
                || name.contains("  ")
                || name.starts_with(['(', '[', '*', '!', ';', '='])
                || name.chars().any(|c| c.is_control() || c == ';') =>
        {
            refuse("must be a name without double spaces, `;` and brackets in front")
        }
        _ => Ok(()),
    }
}

/// Beancount Language Syntax, "Accounts".
fn is_beancount(name: &str) -> bool {
    let mut parts = name.split(':');
    let root = parts.next().unwrap_or_default();
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_uppercase() || c.is_ascii_digit())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let mut rest = parts.peekable();
    ["Assets", "Liabilities", "Equity", "Income", "Expenses"].contains(&root)
        && rest.peek().is_some()
        && rest.all(is_part)
}

/// Account of a debtor by its number among debtors.
fn debtor(datev: &DatevSettings, number: u32) -> Result<String, Error> {
    let ten = 10_u32.pow(u32::from(datev.account_length) - 4);
    let first = datev.first_debtor.unwrap_or(10_000 * ten + 1);
    // Debtors are 10000 to 69999, or as many digits more (DATEV, "Personenkonten").
    let account = first.checked_add(number - 1).filter(|account| *account < 70_000 * ten);
    account.map(|account| account.to_string()).ok_or_else(|| {
        Error::invalid("receivables", "must be single: there are more orgs than accounts of debtors")
    })
}

/// The file's rules before the built-in ones.
fn complete(mut file: AccountsFile, built_in: AccountsFile) -> AccountsFile {
    file.receivable = file.receivable.or(built_in.receivable);
    file.recovery = file.recovery.or_else(|| file.write_off.clone()).or(built_in.recovery);
    file.write_off = file.write_off.or(built_in.write_off);
    file.adjustment = file.adjustment.or(built_in.adjustment);
    file.opening_balance = file.opening_balance.or(built_in.opening_balance);
    file.revenue.extend(built_in.revenue);
    file.tax.extend(built_in.tax);
    file.money.extend(built_in.money);
    file.processor_fees.extend(built_in.processor_fees);
    file
}

/// The built-in accounts of plain text formats.
fn plain() -> AccountsFile {
    let money = |account: &str| MoneyRule { account: account.to_owned(), ..MoneyRule::default() };
    let some = |name: &str| Some(name.to_owned());
    AccountsFile {
        receivable: some("Assets:Receivable"),
        write_off: some("Expenses:Bad-Debts"),
        recovery: some("Expenses:Bad-Debts"),
        adjustment: some("Income:Adjustments"),
        opening_balance: some("Equity:Opening-Balances"),
        revenue: vec![RevenueRule { account: "Income:{kind}".to_owned(), ..RevenueRule::default() }],
        tax: vec![TaxRule {
            account: "Liabilities:Tax:{category}-{percent}".to_owned(),
            ..TaxRule::default()
        }],
        money: vec![money("Assets:Accounts:{payment_account}"), money("Assets:Processors:{processor}")],
        processor_fees: vec![FeeRule {
            account: "Expenses:Processor-Fees:{processor}".to_owned(),
            ..FeeRule::default()
        }],
        datev: None,
    }
}

/// The built-in accounts of DATEV's charts SKR03 and SKR04. 8400, 8300, 4400 and 4300 take the tax out of an
/// amount by themselves (Automatikkonten), so they get no key.
fn skr(datev: &DatevSettings) -> AccountsFile {
    let is_03 = datev.chart == "03";
    // Accounts of the charts have 4 digits; longer books have zeros behind them.
    let zeros = "0".repeat(usize::from(datev.account_length) - 4);
    let one = |skr03: &str, skr04: &str| format!("{}{zeros}", if is_03 { skr03 } else { skr04 });
    let revenue = |category, percent: Option<i64>, account: String| RevenueRule {
        category: Some(category),
        percent: percent.map(|percent| Percent(Decimal::from(percent))),
        account,
        tax_included: percent.is_some(),
        ..RevenueRule::default()
    };
    let tax = |percent: i64, account: String| TaxRule {
        category: Some(TaxCategory::S),
        percent: Some(Percent(Decimal::from(percent))),
        account,
    };
    AccountsFile {
        receivable: Some(format!("10000{zeros}")),
        write_off: Some(one("2400", "6930")),
        recovery: Some(one("2400", "6930")),
        adjustment: Some(one("8700", "4700")),
        opening_balance: Some(one("9008", "9008")),
        revenue: vec![
            revenue(TaxCategory::S, Some(19), one("8400", "4400")),
            revenue(TaxCategory::S, Some(7), one("8300", "4300")),
            revenue(TaxCategory::AE, None, one("8336", "4336")),
            revenue(TaxCategory::K, None, one("8125", "4125")),
            revenue(TaxCategory::G, None, one("8120", "4120")),
            revenue(TaxCategory::E, None, one("8100", "4100")),
            revenue(TaxCategory::O, None, one("8338", "4338")),
        ],
        tax: vec![tax(19, one("1776", "3806")), tax(7, one("1771", "3801"))],
        money: vec![
            MoneyRule {
                processor: Some("bank_transfer".to_owned()),
                account: one("1200", "1800"),
                ..MoneyRule::default()
            },
            MoneyRule { account: one("1360", "1460"), ..MoneyRule::default() },
        ],
        processor_fees: vec![FeeRule { account: one("4970", "6855"), ..FeeRule::default() }],
        datev: None,
    }
}

#[cfg(test)]
mod tests {
    use super::{is_beancount, part};

    #[test]
    fn any_text_becomes_a_part_of_a_name() {
        for (text, expected) in
            [("bank_transfer", "Bank-transfer"), ("5.5", "5-5"), ("Überweisung", "X-berweisung"), ("", "X")]
        {
            assert_eq!(part(text), expected);
            assert!(is_beancount(&format!("Assets:{}", part(text))), "{text}");
        }
        for wrong in ["Assets", "Debtors:A", "Assets:a", "Assets::A", "Assets:A_B", "Assets:"] {
            assert!(!is_beancount(wrong), "{wrong}");
        }
    }
}
