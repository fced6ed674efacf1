//! Control totals: the number of rows and the sums of their main columns, per currency (or kind of entry,
//! or meter). With them the reader of an export can check that nothing is missing.
//!
//! Money of different accounts and modes at Stripe is never summed up together.

use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Nullable, Text};
use serde::ser::{Error as _, Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::ExportKind;
use super::kind::Grouping;
use super::query::Query;
use super::row::Cell;
use super::sum::ExactSum;
use crate::billing::exports::{Column, Type};
use crate::error::Error;

/// Count and sums of some rows. As JSON:
/// `{"of":"invoices","rows":2,"currencies":{"eur":{"rows":2,"total":300,…}}}`, sums in minor units; rows
/// without a currency are under `""`. Rows of several accounts or modes at Stripe:
/// `{"of":"invoices","rows":3,"realms":[{"account":"","livemode":true,"rows":2,"currencies":{…}},…]}`. Of
/// batteries: `{"of":"battery","rows":2,"kinds":{"bonus":{"rows":2,"amount":"12.5"}}}`, decimals as texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    of: ExportKind,
    pub rows: u64,
    /// In the order of [`RealmTotals::place`]. Kinds without accounts and modes have one at most.
    realms: Vec<RealmTotals>,
}

/// The totals of an account and mode at Stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RealmTotals {
    account: String,
    livemode: bool,
    rows: u64,
    /// For each grouping of the kind: the groups by name.
    groupings: Vec<BTreeMap<String, GroupTotals>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct GroupTotals {
    rows: u64,
    /// In the order of the columns that the grouping sums up.
    sums: Vec<ExactSum>,
}

/// The longest header that proxies pass on by default is about 4 KiB, all headers together 8 KiB.
const HEADER_LIMIT: usize = 3_500;

#[derive(QueryableByName)]
struct TotalsRow {
    #[diesel(sql_type = Text)]
    account: String,
    #[diesel(sql_type = Bool)]
    livemode: bool,
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
    let groupings = query.of.groupings().iter().enumerate();
    for ((number, grouping), part) in
        groupings.flat_map(|grouping| query.parts.iter().map(move |part| (grouping, part)))
    {
        for row in query.totals(grouping, part).load::<TotalsRow>(conn)? {
            let rows = u64::try_from(row.rows).unwrap_or(0);
            let sums = row.sums.iter().map(|sum| ExactSum::parse(sum)).collect::<Option<_>>();
            let sums = sums.ok_or_else(|| Error::Internal(format!("sums cannot be read: {:?}", row.sums)))?;
            let realm = totals.realm(&row.account, row.livemode);
            realm.groupings[number].entry(row.name.unwrap_or_default()).or_default().add(rows, sums);
            // Each grouping has every row once.
            if number == 0 {
                realm.rows += rows;
                totals.rows += rows;
            }
        }
    }
    Ok(totals)
}

impl GroupTotals {
    /// Adds rows of another part of the export.
    fn add(&mut self, rows: u64, sums: Vec<ExactSum>) {
        self.rows += rows;
        self.sums.resize(sums.len(), ExactSum::default());
        for (sum, more) in self.sums.iter_mut().zip(sums) {
            *sum += more;
        }
    }
}

impl Totals {
    /// The totals of no rows.
    pub(super) fn none(of: impl Into<ExportKind>) -> Self {
        Self { of: of.into(), rows: 0, realms: Vec::new() }
    }

    /// Adds a row.
    pub(super) fn add(&mut self, cells: &[Cell<'_>]) {
        let columns = self.of.columns();
        let cell = |name: &str| columns.iter().zip(cells).find(|(column, _)| column.name == name);
        let text = |name: &str| match cell(name) {
            Some((_, Cell::Text(text))) => *text,
            _ => "",
        };
        let livemode = !matches!(cell("livemode"), Some((_, Cell::Boolean(false))));
        self.rows += 1;
        let groupings = self.of.groupings();
        let realm = self.realm(text("account"), livemode);
        realm.rows += 1;
        for (grouping, groups) in groupings.iter().zip(&mut realm.groupings) {
            let name = text(grouping.by);
            if !groups.contains_key(name) {
                let sums = vec![ExactSum::default(); summed(columns, grouping).count()];
                groups.insert(name.to_owned(), GroupTotals { rows: 0, sums });
            }
            let Some(group) = groups.get_mut(name) else { continue };
            group.rows += 1;
            let summed = columns.iter().zip(cells).filter(|(column, _)| grouping.sums(column));
            for (sum, (_, cell)) in group.sums.iter_mut().zip(summed) {
                *sum += match *cell {
                    Cell::Integer(amount) => amount.into(),
                    // An unreadable amount is missing in the sum, so the sum differs from the database's.
                    Cell::Decimal(text) => ExactSum::parse(text).unwrap_or_default(),
                    _ => ExactSum::default(),
                };
            }
        }
    }

    fn realm(&mut self, account: &str, livemode: bool) -> &mut RealmTotals {
        let place = self.realms.binary_search_by(|realm| realm.place().cmp(&(!livemode, account)));
        let place = place.unwrap_or_else(|place| {
            let groupings = self.of.groupings().iter().map(|_| BTreeMap::new()).collect();
            let realm = RealmTotals { account: account.to_owned(), livemode, rows: 0, groupings };
            self.realms.insert(place, realm);
            place
        });
        &mut self.realms[place]
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

impl RealmTotals {
    /// Its place in the order: live mode first, the platform's own account first.
    fn place(&self) -> (bool, &str) {
        (!self.livemode, &self.account)
    }
}

/// The columns that a grouping sums up.
fn summed<'a>(columns: &'a [Column], grouping: &'a Grouping) -> impl Iterator<Item = &'a Column> {
    columns.iter().filter(|column| grouping.sums(column))
}

impl Serialize for Totals {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("of", self.of.name())?;
        map.serialize_entry("rows", &self.rows)?;
        match &*self.realms {
            [] => {
                for grouping in self.of.groupings() {
                    map.serialize_entry(grouping.name, &BTreeMap::<String, u64>::new())?;
                }
            }
            [only] => serialize_groups(&mut map, self.of, only)?,
            realms => {
                let realms: Vec<OfRealm<'_>> = realms.iter().map(|realm| OfRealm(self.of, realm)).collect();
                map.serialize_entry("realms", &realms)?;
            }
        }
        map.end()
    }
}

fn serialize_groups<M: SerializeMap>(
    map: &mut M,
    of: ExportKind,
    realm: &RealmTotals,
) -> Result<(), M::Error> {
    for (grouping, groups) in of.groupings().iter().zip(&realm.groupings) {
        let groups: BTreeMap<&str, OfGroup<'_>> =
            groups.iter().map(|(name, group)| (name.as_str(), OfGroup(of, grouping, group))).collect();
        map.serialize_entry(grouping.name, &groups)?;
    }
    Ok(())
}

/// One of several accounts and modes.
struct OfRealm<'a>(ExportKind, &'a RealmTotals);

impl Serialize for OfRealm<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(of, realm) = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("account", &realm.account)?;
        map.serialize_entry("livemode", &realm.livemode)?;
        map.serialize_entry("rows", &realm.rows)?;
        serialize_groups(&mut map, *of, realm)?;
        map.end()
    }
}

/// Sums under the names of their columns.
struct OfGroup<'a>(ExportKind, &'a Grouping, &'a GroupTotals);

impl Serialize for OfGroup<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(of, grouping, group) = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("rows", &group.rows)?;
        for (column, sum) in summed(of.columns(), grouping).zip(&group.sums) {
            if column.holds == Type::Decimal {
                map.serialize_entry(column.name, &sum.to_string())?;
            } else {
                // Raw digits, since a sum may be larger than serde_json's numbers.
                let digits = RawValue::from_string(sum.to_string()).map_err(S::Error::custom)?;
                map.serialize_entry(column.name, &digits)?;
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests;
