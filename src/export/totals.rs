//! Control totals: the number of rows and the sums of their main amounts per currency. With them the reader
//! of an export can check that nothing is missing.

use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable, Text};
use serde::ser::{Error as _, Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::ExportKind;
use super::query::Query;
use super::row::Cell;
use crate::billing::exports::{Column, Type};
use crate::error::Error;

/// Count and sums of some rows. As JSON:
/// `{"of":"invoices","rows":2,"currencies":{"eur":{"rows":2,"total":300,…}}}`, sums in minor units; rows
/// without a currency are under `""`. Of batteries:
/// `{"of":"battery","rows":2,"kinds":{"bonus":{"rows":2,"amount":"12.5"}}}`, decimals as texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    of: ExportKind,
    pub rows: u64,
    by_name: BTreeMap<String, Sums>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sums {
    rows: u64,
    /// In the order of the summed columns. Wider than a column, so that no sum overflows.
    sums: Vec<i128>,
}

/// The longest header that proxies pass on by default is about 4 KiB, all headers together 8 KiB.
const HEADER_LIMIT: usize = 3_500;

#[derive(QueryableByName)]
struct TotalsRow {
    #[diesel(sql_type = Nullable<Text>)]
    name: Option<String>,
    #[diesel(sql_type = BigInt)]
    rows: i64,
    #[diesel(sql_type = Array<Text>)]
    sums: Vec<String>,
}

/// Lets PostgreSQL compute the totals of a query.
pub(super) fn compute(conn: &mut PgConnection, query: &Query) -> Result<Totals, Error> {
    let mut totals = Totals::none(query.of);
    for row in query.totals().load::<TotalsRow>(conn)? {
        let rows = u64::try_from(row.rows).unwrap_or(0);
        let summed = query.of.columns().iter().filter(|column| column.summed);
        let sums = summed.zip(&row.sums).map(|(column, sum)| scaled(sum, places(column)));
        let sums = sums.collect::<Option<_>>();
        let sums = sums.ok_or_else(|| Error::Internal(format!("sums cannot be read: {:?}", row.sums)))?;
        totals.rows += rows;
        totals.by_name.insert(row.name.unwrap_or_default(), Sums { rows, sums });
    }
    Ok(totals)
}

impl Totals {
    /// The totals of no rows.
    pub(super) fn none(of: impl Into<ExportKind>) -> Self {
        Self { of: of.into(), rows: 0, by_name: BTreeMap::new() }
    }

    /// Adds a row.
    pub(super) fn add(&mut self, cells: &[Cell<'_>]) {
        let columns = self.of.columns();
        let (by, _) = self.of.summed_by();
        let name = columns.iter().zip(cells).find_map(|(column, cell)| match cell {
            Cell::Text(name) if column.name == by => Some(*name),
            _ => None,
        });
        let name = name.unwrap_or("");
        if !self.by_name.contains_key(name) {
            let sums = vec![0; columns.iter().filter(|column| column.summed).count()];
            self.by_name.insert(name.to_owned(), Sums { rows: 0, sums });
        }
        self.rows += 1;
        let Some(sums) = self.by_name.get_mut(name) else { return };
        sums.rows += 1;
        let summed = columns.iter().zip(cells).filter(|(column, _)| column.summed);
        for (sum, (column, cell)) in sums.sums.iter_mut().zip(summed) {
            *sum += match *cell {
                Cell::Integer(amount) => i128::from(amount),
                // An unreadable amount is missing in the sum, so the sum differs from the database's.
                Cell::Decimal(text) => scaled(text, places(column)).unwrap_or(0),
                _ => 0,
            };
        }
    }

    /// Fails when the rows written do not add up to the expected totals.
    pub(super) fn must_be(&self, expected: &Self) -> Result<(), Error> {
        if self == expected {
            return Ok(());
        }
        Err(Error::Internal(format!(
            "the export does not add up: written {}, in the database {}",
            self.json()?,
            expected.json()?
        )))
    }

    /// As JSON on one line.
    ///
    /// # Errors
    /// When they cannot be JSON, which does not happen.
    pub fn json(&self) -> Result<String, Error> {
        serde_json::to_string(self).map_err(|error| Error::Internal(error.to_string()))
    }

    /// As JSON for a header. With very many currencies it holds the number of rows only.
    ///
    /// # Errors
    /// As [`Totals::json`].
    pub fn header(&self) -> Result<String, Error> {
        let whole = self.json()?;
        // A header must be ASCII; Stripe's currencies are.
        if whole.len() <= HEADER_LIMIT && whole.is_ascii() {
            return Ok(whole);
        }
        Ok(format!(r#"{{"of":"{}","rows":{}}}"#, self.of.name(), self.rows))
    }
}

/// Decimal places of a column's sums.
fn places(column: &Column) -> u32 {
    if column.holds == Type::Decimal { 12 } else { 0 }
}

/// A decimal in units of 10^-`places`; `None` when it has more places, or is not a decimal.
fn scaled(text: &str, places: u32) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let missing = usize::try_from(places).ok()?.checked_sub(fraction.len())?;
    format!("{whole}{fraction}{}", "0".repeat(missing)).parse().ok()
}

/// The text of a number that [`scaled`] read.
fn unscaled(sum: i128, places: u32) -> String {
    let one = 10_u128.pow(places);
    let (whole, fraction) = (sum.unsigned_abs() / one, sum.unsigned_abs() % one);
    let sign = if sum < 0 { "-" } else { "" };
    let digits = format!("{fraction:0places$}", places = places as usize);
    match digits.trim_end_matches('0') {
        "" => format!("{sign}{whole}"),
        digits => format!("{sign}{whole}.{digits}"),
    }
}

impl Serialize for Totals {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("of", self.of.name())?;
        map.serialize_entry("rows", &self.rows)?;
        let named: BTreeMap<&str, Named<'_>> =
            self.by_name.iter().map(|(name, sums)| (name.as_str(), Named(self.of, sums))).collect();
        map.serialize_entry(self.of.summed_by().1, &named)?;
        map.end()
    }
}

/// Sums under the names of their columns.
struct Named<'a>(ExportKind, &'a Sums);

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(of, sums) = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("rows", &sums.rows)?;
        for (column, sum) in of.columns().iter().filter(|column| column.summed).zip(&sums.sums) {
            // Raw digits, since a sum may be larger than serde_json's numbers.
            match places(column) {
                0 => {
                    let digits = RawValue::from_string(sum.to_string()).map_err(S::Error::custom)?;
                    map.serialize_entry(column.name, &digits)?;
                }
                places => map.serialize_entry(column.name, &unscaled(*sum, places))?,
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::billing::exports::Kind;

    fn refund(currency: Option<&'static str>, amount: i64) -> Vec<Cell<'static>> {
        let columns = Kind::Refunds.columns();
        columns
            .iter()
            .map(|column| match column.name {
                "currency" => currency.map_or(Cell::Null, Cell::Text),
                "amount" => Cell::Integer(amount),
                _ => Cell::Null,
            })
            .collect()
    }

    #[test]
    fn sums_are_per_currency_and_wider_than_a_column() {
        let mut totals = Totals::none(Kind::Refunds);
        for row in [refund(Some("eur"), i64::MAX), refund(Some("eur"), i64::MAX), refund(None, -3)] {
            totals.add(&row);
        }
        assert_eq!(
            totals.json().expect("json"),
            concat!(
                r#"{"of":"refunds","rows":3,"currencies":{"":{"rows":1,"amount":-3},"#,
                r#""eur":{"rows":2,"amount":18446744073709551614}}}"#
            )
        );
    }

    #[test]
    fn a_missing_row_and_a_wrong_amount_are_noticed() {
        let mut expected = Totals::none(Kind::Refunds);
        expected.add(&refund(Some("eur"), 5));
        assert!(Totals::none(Kind::Refunds).must_be(&expected).is_err());
        let mut written = Totals::none(Kind::Refunds);
        written.add(&refund(Some("eur"), 4));
        assert!(written.must_be(&expected).is_err());
        assert!(expected.clone().must_be(&expected).is_ok());
    }

    #[test]
    fn a_header_stays_short() {
        let mut totals = Totals::none(Kind::Refunds);
        for code in 0..200 {
            let mut row = refund(Some("eur"), 1);
            let name: &'static str = Box::leak(format!("c{code:03}").into_boxed_str());
            for (column, cell) in Kind::Refunds.columns().iter().zip(&mut row) {
                if column.name == "currency" {
                    *cell = Cell::Text(name);
                }
            }
            totals.add(&row);
        }
        assert_eq!(totals.header().expect("json"), r#"{"of":"refunds","rows":200}"#);
    }

    #[test]
    fn decimals_are_summed_exactly() {
        for (text, shown) in [
            ("0", "0"),
            ("12.5", "12.5"),
            ("-0.000000000001", "-0.000000000001"),
            ("999999999999999.999999999", "999999999999999.999999999"),
            ("-7", "-7"),
        ] {
            assert_eq!(scaled(text, 12).map(|sum| unscaled(sum, 12)).as_deref(), Some(shown));
        }
        assert_eq!(
            scaled("0.1", 12).expect("read") + scaled("0.2", 12).expect("read"),
            scaled("0.3", 12).expect("read")
        );
        assert_eq!((scaled("0.0000000000001", 12), scaled("NaN", 12), scaled("1.5", 0)), (None, None, None));
    }
}
