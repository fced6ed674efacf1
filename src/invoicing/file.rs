//! The billing file: sellers, tax rates, coupons, payment accounts and billing profiles in one TOML file,
//! each with what its `PUT` takes. All of it is applied, or nothing.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Result as Printed};

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::coupons::{self, CouponBody};
use super::payment_accounts::{self, PaymentAccountBody};
use super::profiles::{self, ProfileBody};
use super::sellers::{self, SellerBody};
use super::tax_rates::{self, TaxRateBody};
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::json::{read_tree, to_tree};
use crate::plans::diff::{FieldChange, write_fields};
use crate::plans::file::read_toml;

/// The content of a billing file. What it does not name stays as it is.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BillingFile {
    /// Tax rates by key.
    pub tax_rates: BTreeMap<String, TaxRateBody>,
    /// Sellers by key.
    pub sellers: BTreeMap<String, SellerBody>,
    /// Payment accounts by key.
    pub payment_accounts: BTreeMap<String, PaymentAccountBody>,
    /// Coupons by code.
    pub coupons: BTreeMap<String, CouponBody>,
    /// Billing profiles by the public or external id of their orgs.
    pub orgs: BTreeMap<String, ProfileBody>,
}

impl BillingFile {
    /// Reads a file's text.
    ///
    /// # Errors
    /// One sentence that names the line or the key.
    pub fn read(text: &str) -> Result<Self, String> {
        read_tree(read_toml(text)?).map_err(|error: Error| error.to_string())
    }
}

/// Something that the file changes.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct SettingChange {
    /// Its table in the file: `sellers`, `tax_rates`, `coupons`, `payment_accounts` or `orgs`.
    pub table: &'static str,
    /// Its key there.
    pub id: String,
    /// It is not there yet.
    pub is_new: bool,
    /// What differs.
    pub fields: Vec<FieldChange>,
}

/// A change for people: what is changed, then a line for each field.
impl Display for SettingChange {
    fn fmt(&self, out: &mut Formatter<'_>) -> Printed {
        let (sign, new) = if self.is_new { ('+', ": new") } else { ('~', "") };
        writeln!(out, "{sign} {}.{}{new}", self.table, self.id)?;
        write_fields(out, &self.fields, self.is_new)
    }
}

/// Applies a file in the caller's transaction, and returns what it changed.
///
/// # Errors
/// Those of each `put`; [`Error::Invalid`] names table, key and field.
pub fn apply(
    conn: &mut PgConnection,
    file: &BillingFile,
    now: DateTime<Utc>,
) -> Result<Vec<SettingChange>, Error> {
    let mut changes = Vec::new();
    for (id, body) in &file.tax_rates {
        let old = found(tax_rates::find(conn, id))?.map(|old| old.body);
        let new = tax_rates::put(conn, id, body, now).map_err(|error| at("tax_rates", id, error))?;
        note(&mut changes, ("tax_rates", id), old.as_ref(), &new.body)?;
    }
    // One seller at most is the default one, so another one gives that up first.
    let (default, others): (Vec<_>, Vec<_>) = file.sellers.iter().partition(|(_, body)| body.is_default);
    for (id, body) in others.into_iter().chain(default) {
        let old = found(sellers::find(conn, id))?.map(|old| old.body);
        let new = sellers::put(conn, id, body, now).map_err(|error| at("sellers", id, error))?;
        note(&mut changes, ("sellers", id), old.as_ref(), &new.body)?;
    }
    for (id, body) in &file.payment_accounts {
        let old = found(payment_accounts::find(conn, id))?.map(|old| old.body);
        let new = payment_accounts::put(conn, id, body, now);
        let new = new.map_err(|error| at("payment_accounts", id, error))?;
        note(&mut changes, ("payment_accounts", id), old.as_ref(), &new.body)?;
    }
    for (code, body) in &file.coupons {
        let old = found(coupons::find(conn, code))?.map(|old| old.body);
        let new = coupons::put(conn, code, body, now).map_err(|error| at("coupons", code, error))?;
        note(&mut changes, ("coupons", code), old.as_ref(), &new.body)?;
    }
    for (name, body) in &file.orgs {
        let unknown = |_| Error::invalid(format!("orgs.{name}"), "must be the id or external id of an org");
        let org_id = OrgName::of_any(name.as_str(), "orgs").row_id(conn).map_err(unknown)?;
        let old = found(profiles::find(conn, org_id))?.map(|old| old.body);
        let new = profiles::put(conn, org_id, body, now).map_err(|error| at("orgs", name, error))?;
        note(&mut changes, ("orgs", name), old.as_ref(), &new.body)?;
    }
    Ok(changes)
}

/// What [`apply`] would change. Nothing is changed.
///
/// # Errors
/// As [`apply`].
pub fn changes(
    conn: &mut PgConnection,
    file: &BillingFile,
    now: DateTime<Utc>,
) -> Result<Vec<SettingChange>, Error> {
    let mut found = None;
    let tried = conn.transaction::<(), Error, _>(|conn| {
        found = Some(apply(conn, file, now)?);
        Err(diesel::result::Error::RollbackTransaction.into())
    });
    match (found, tried) {
        (Some(changes), _) => Ok(changes),
        (None, tried) => tried.map(|()| Vec::new()),
    }
}

/// What is stored; `None`: nothing.
fn found<T>(stored: Result<T, Error>) -> Result<Option<T>, Error> {
    match stored {
        Err(Error::NotFound(_)) => Ok(None),
        found => found.map(Some),
    }
}

/// The error of a `put`, which names the place in the file.
fn at(table: &str, id: &str, error: Error) -> Error {
    match error {
        Error::Invalid { field, rule } => Error::invalid(format!("{table}.{id}.{field}"), rule),
        error => error,
    }
}

fn note<T: Serialize>(
    changes: &mut Vec<SettingChange>,
    (table, id): (&'static str, &str),
    old: Option<&T>,
    new: &T,
) -> Result<(), Error> {
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    if let Some(old) = old {
        spread(&mut before, "", to_tree(old)?);
    }
    spread(&mut after, "", to_tree(new)?);
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let value = |fields: &BTreeMap<String, Value>, name: &str| fields.get(name).cloned().unwrap_or_default();
    let change = |name: &&String| {
        let (old, new) = (value(&before, name), value(&after, name));
        (old != new).then(|| FieldChange { field: (*name).clone(), old, new })
    };
    let fields: Vec<FieldChange> = names.iter().filter_map(change).collect();
    if !fields.is_empty() {
        changes.push(SettingChange { table, id: id.to_owned(), is_new: old.is_none(), fields });
    }
    Ok(())
}

/// Fields by their dotted names; absent ones are left out.
fn spread(fields: &mut BTreeMap<String, Value>, name: &str, value: Value) {
    match value {
        Value::Object(parts) => {
            for (key, part) in parts {
                let name = if name.is_empty() { key } else { format!("{name}.{key}") };
                spread(fields, &name, part);
            }
        }
        Value::Null => {}
        value => {
            fields.insert(name.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::BillingFile;

    #[test]
    fn every_mistake_is_a_sentence_that_names_its_place() {
        for (text, begins) in [
            ("[seller.blazz]", "seller: is no field here"),
            ("[sellers.blazz]", "sellers.blazz.party: is missing"),
            ("[tax_rates.vat]\nname = 1", "tax_rates.vat.name: must be"),
            ("[coupons.C]\nname = \"C\"\npercent = 10\ncolour = 1", "coupons.C.colour: is no field here"),
            ("[coupons.C", "line 1: "),
        ] {
            let mistake = BillingFile::read(text).map(|_| ()).expect_err(text);
            assert!(mistake.starts_with(begins), "{text}: {mistake}");
        }
        let file = "[tax_rates.vat]\nname = \"VAT\"\ncategory = \"S\"\npercent = 8.1";
        let file = BillingFile::read(file).expect("reads");
        assert_eq!(file.tax_rates["vat"].percent.0.to_string(), "8.1");
    }
}
