//! Control totals: how many rows, and the sums of their main amounts per currency, so that the other end can check that
//! nothing is missing.

use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable, Text};
use serde::ser::{Error as _, Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::query::Query;
use super::row::Cell;
use crate::billing::exports::Kind;
use crate::error::Error;

/// Count and sums of some rows. As JSON: `{"of":"invoices","rows":2,"currencies":{"eur":{"rows":2,"total":300,…}}}`, sums in
/// minor units; rows without a currency are under `""`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    kind: Kind,
    /// How many rows.
    pub rows: u64,
    by_currency: BTreeMap<String, Sums>,
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
struct Row {
    #[diesel(sql_type = Nullable<Text>)]
    currency: Option<String>,
    #[diesel(sql_type = BigInt)]
    rows: i64,
    #[diesel(sql_type = Array<Text>)]
    sums: Vec<String>,
}

/// Has PostgreSQL compute the totals of a query.
pub(super) fn compute(conn: &mut PgConnection, query: &Query) -> Result<Totals, Error> {
    let mut totals = Totals::none(query.kind);
    for row in query.totals().load::<Row>(conn)? {
        let rows = u64::try_from(row.rows).unwrap_or(0);
        let sums = row.sums.iter().map(|sum| sum.parse()).collect::<Result<_, _>>();
        let sums = sums.map_err(|error| Error::Internal(format!("a sum cannot be read: {error}")))?;
        totals.rows += rows;
        totals.by_currency.insert(row.currency.unwrap_or_default(), Sums { rows, sums });
    }
    Ok(totals)
}

impl Totals {
    /// Of no rows.
    pub(super) fn none(kind: Kind) -> Self {
        Self { kind, rows: 0, by_currency: BTreeMap::new() }
    }

    /// Adds a row.
    pub(super) fn add(&mut self, cells: &[Cell<'_>]) {
        let columns = self.kind.columns();
        let currency = columns.iter().zip(cells).find_map(|(column, cell)| match (column.name, cell) {
            ("currency", Cell::Text(currency)) => Some(*currency),
            _ => None,
        });
        let currency = currency.unwrap_or("");
        if !self.by_currency.contains_key(currency) {
            let sums = vec![0; columns.iter().filter(|column| column.summed).count()];
            self.by_currency.insert(currency.to_owned(), Sums { rows: 0, sums });
        }
        self.rows += 1;
        let Some(sums) = self.by_currency.get_mut(currency) else { return };
        sums.rows += 1;
        let summed = columns.iter().zip(cells).filter(|(column, _)| column.summed);
        for (sum, (_, cell)) in sums.sums.iter_mut().zip(summed) {
            if let Cell::Integer(amount) = cell {
                *sum += i128::from(*amount);
            }
        }
    }

    /// Compares what was written with what had to be.
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
    /// Never in practice: when they cannot be JSON.
    pub fn json(&self) -> Result<String, Error> {
        serde_json::to_string(self).map_err(|error| Error::Internal(error.to_string()))
    }

    /// As JSON for a header: with very many currencies only the number of rows.
    ///
    /// # Errors
    /// As [`Totals::json`].
    pub fn header(&self) -> Result<String, Error> {
        let whole = self.json()?;
        // A currency is ASCII at Stripe; a header must be.
        if whole.len() <= HEADER_LIMIT && whole.is_ascii() {
            return Ok(whole);
        }
        Ok(format!(r#"{{"of":"{}","rows":{}}}"#, self.kind.name(), self.rows))
    }
}

impl Serialize for Totals {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("of", self.kind.name())?;
        map.serialize_entry("rows", &self.rows)?;
        let currencies: BTreeMap<&str, Named<'_>> = self
            .by_currency
            .iter()
            .map(|(currency, sums)| (currency.as_str(), Named(self.kind, sums)))
            .collect();
        map.serialize_entry("currencies", &currencies)?;
        map.end()
    }
}

/// Sums under the names of their columns.
struct Named<'a>(Kind, &'a Sums);

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(kind, sums) = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("rows", &sums.rows)?;
        for (column, sum) in kind.columns().iter().filter(|column| column.summed).zip(&sums.sums) {
            // Digits as they are: a sum may be wider than serde_json's numbers.
            let digits = RawValue::from_string(sum.to_string()).map_err(S::Error::custom)?;
            map.serialize_entry(column.name, &digits)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            r#"{"of":"refunds","rows":3,"currencies":{"":{"rows":1,"amount":-3},"eur":{"rows":2,"amount":18446744073709551614}}}"#
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
}
