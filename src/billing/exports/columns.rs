//! Columns: name, SQL, meaning, unit; and those that all kinds share.

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Text,
    Integer,
    /// An amount in minor units of the row's `currency`, unless its meaning names another column.
    Amount,
    /// An amount in major units: the column of the same name without `_major` has it in minor units.
    Major,
    /// A number with decimal places, exact, as text.
    Decimal,
    Boolean,
    /// An instant in UTC.
    Time,
    /// A day of a calendar.
    Day,
    Json,
}

impl Type {
    /// Its unit or form, for the documentation.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "integer",
            Self::Amount => "minor units",
            Self::Major => "major units",
            Self::Decimal => "decimal",
            Self::Boolean => "true, false",
            Self::Time => "time, UTC",
            Self::Day => "day",
            Self::Json => "JSON",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Never changes: files of other programs depend on it.
    pub name: &'static str,
    pub holds: Type,
    pub meaning: &'static str,
    /// Whether the control totals have its sum.
    pub summed: bool,
    /// SQL over the rows of [`super::Definition::from`].
    pub sql: &'static str,
}

/// A column that is not summed.
pub(crate) const fn column(
    holds: Type,
    name: &'static str,
    sql: &'static str,
    meaning: &'static str,
) -> Column {
    Column { name, holds, meaning, summed: false, sql }
}

/// A column of texts.
pub(crate) const fn text(name: &'static str, sql: &'static str, meaning: &'static str) -> Column {
    column(Type::Text, name, sql, meaning)
}

pub(super) const fn integer(name: &'static str, sql: &'static str, meaning: &'static str) -> Column {
    column(Type::Integer, name, sql, meaning)
}

pub(super) const fn amount(name: &'static str, sql: &'static str, meaning: &'static str) -> Column {
    column(Type::Amount, name, sql, meaning)
}

pub(super) const fn summed(name: &'static str, sql: &'static str, meaning: &'static str) -> Column {
    Column { summed: true, ..amount(name, sql, meaning) }
}

pub(super) const fn major(name: &'static str, sql: &'static str, meaning: &'static str) -> Column {
    column(Type::Major, name, sql, meaning)
}

pub(super) const fn time(name: &'static str, sql: &'static str, meaning: &'static str) -> Column {
    column(Type::Time, name, sql, meaning)
}

pub(super) const fn boolean(name: &'static str, sql: &'static str, meaning: &'static str) -> Column {
    column(Type::Boolean, name, sql, meaning)
}

pub(super) const ORG_ID: Column =
    text("org_id", "o.public_id", "The org billed (`org_…`); empty when the customer has none");
pub(super) const ORG_EXTERNAL_ID: Column =
    text("org_external_id", "o.external_id", "The org's id in your own systems");
pub(super) const ORG_NAME: Column = text("org_name", "o.name", "The org's name");
pub(super) const ACCOUNT: Column =
    text("account", "d.account", "Connected Stripe account; empty for the platform's own");
pub(super) const LIVEMODE: Column = boolean("livemode", "d.livemode", "False for Stripe's test mode");
pub(super) const CURRENCY: Column =
    text("currency", "d.currency", "ISO 4217 code, lower case, of the amounts in this row");
/// The last column of each kind that our own objects have, too.
pub(super) const ORIGIN: Column =
    text("origin", "'stripe'::text", "stripe: mirrored from Stripe; own: made or recorded here");
/// The taxes of a line, of the rows `x` and `n` of `taxes_of_line!`.
pub(super) const TAX_PERCENTAGES: Column = text(
    "tax_percentages",
    "x.tax_percentages",
    "Percentages of the taxes, separated by semicolons; empty where one is not known",
);
pub(super) const TAXABLE_AMOUNT: Column = amount(
    "taxable_amount",
    "x.taxable_amount",
    "What the taxes are computed of; empty where it is not known, or differs between taxes",
);
pub(super) const TAX_BEHAVIOR: Column = text(
    "tax_behavior",
    "x.tax_behavior",
    "inclusive: the amount contains the tax; exclusive: it does not; mixed: some taxes are contained",
);
pub(super) const TAXABILITY_REASON: Column = text(
    "taxability_reason",
    "x.taxability_reason",
    "Why it is taxed so: standard_rated, reverse_charge, not_collecting, …",
);
pub(super) const REVERSE_CHARGE_OF_LINE: Column = boolean(
    "reverse_charge",
    "x.reverse_charge",
    "Whether the customer owes the tax; empty where the line says nothing of taxes",
);
pub(super) const TAXES: Column = column(
    Type::Json,
    "taxes",
    "n.taxes::text",
    "The taxes, a list of `{amount, taxable_amount, inclusive, reason, rate_id, percentage}`",
);
pub(super) const METADATA: Column =
    column(Type::Json, "metadata", "d.metadata::text", "Metadata at Stripe, an object of texts");

#[cfg(test)]
mod tests {
    use crate::billing::exports::{Kind, Type};

    #[test]
    fn each_kind_has_its_currency_before_its_major_amounts_and_each_of_those_its_twin() {
        for kind in Kind::ALL {
            let columns = kind.columns();
            let at = |name: &str| columns.iter().position(|column| column.name == name);
            let currency = at("currency").expect("a currency");
            assert!(columns.iter().filter(|column| column.name == "currency").count() == 1);
            for (index, column) in columns.iter().enumerate() {
                assert_eq!(at(column.name), Some(index), "{} twice", column.name);
                assert!(!column.summed || column.holds == Type::Amount);
                if column.holds == Type::Major {
                    let twin = at(column.name.strip_suffix("_major").expect("named so")).expect("a twin");
                    assert_eq!(columns[twin].sql, column.sql);
                    assert!(currency < index);
                }
            }
        }
    }

    #[test]
    fn a_column_has_the_name_of_what_it_holds() {
        for column in Kind::ALL.iter().flat_map(|kind| kind.columns()) {
            let source = column.sql.trim_end_matches("::text").trim_end_matches("::bigint");
            let Some((_, source)) = source.split_once('.').filter(|_| !source.contains('(')) else {
                continue;
            };
            let name = column.name.trim_end_matches("_major");
            let name = name.strip_prefix("org_").unwrap_or(name).to_owned();
            let named = [
                source.to_owned(),
                format!("invoice_{source}"),
                format!("credit_note_{source}"),
                format!("payment_{source}"),
                source.replace("public_", ""),
                format!("{source}_requested"),
            ];
            assert!(named.contains(&name), "{} is {}", column.name, column.sql);
        }
    }
}
