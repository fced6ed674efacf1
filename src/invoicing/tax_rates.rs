//! Tax rates of our own invoices. Owns `own_tax_rates`.
//!
//! An invoice keeps the rate, category and reason that it was issued with. So a changed rate changes drafts
//! and later invoices alone.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::amounts::TaxGroup;
use crate::documents::content::TaxCategory;
use crate::error::Error;
use crate::quantity::{Quantity, QuantityFromZero};
use crate::schema::own_tax_rates as t;
use crate::text::{check_key, check_line};

/// A tax rate as somebody defines it: the whole of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = OwnTaxRateBody)]
pub struct TaxRateBody {
    /// What people call it: `VAT`, `PPN`.
    pub name: String,
    /// Category of EN 16931: S standard, Z zero, E exempt, AE reverse charge, K supply within the EU,
    /// G export, O outside the scope.
    pub category: TaxCategory,
    /// Percent: above 0 for S, else 0.
    #[schema(value_type = QuantityFromZero)]
    pub percent: Quantity,
    /// Why there is no tax, for people. Categories E, AE, K, G and O need it.
    #[serde(default)]
    pub exemption_reason: Option<String>,
    /// The same as a code of the VATEX list: `VATEX-EU-AE`.
    #[serde(default)]
    pub exemption_code: Option<String>,
    /// Whether new lines may have it.
    #[serde(default = "yes")]
    pub active: bool,
}

fn yes() -> bool {
    true
}

/// A tax rate.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = OwnTaxRate)]
pub struct TaxRate {
    /// Its key.
    pub id: String,
    /// How it is defined.
    #[serde(flatten)]
    pub body: TaxRateBody,
    /// When it was made here.
    pub created_at: DateTime<Utc>,
}

impl TaxRate {
    /// Its category and percentage.
    #[must_use]
    pub fn group(&self) -> TaxGroup {
        TaxGroup { category: self.body.category, percent: self.body.percent.0.normalize() }
    }
}

impl TaxRateBody {
    fn check(&self) -> Result<(), Error> {
        check_line("name", &self.name, 100)?;
        let percent = self.percent.0;
        if percent < Decimal::ZERO || percent > Decimal::ONE_HUNDRED || percent.normalize().scale() > 4 {
            return Err(Error::invalid("percent", "must be from 0 to 100, with at most 4 decimal places"));
        }
        if (self.category == TaxCategory::S) != (percent > Decimal::ZERO) {
            let rule = "must be above 0 in category S, and 0 in every other category";
            return Err(Error::invalid("percent", rule));
        }
        // EN 16931-1: BR-E-10, BR-AE-10, BR-IC-10, BR-G-10, BR-O-10; BR-S-10 and BR-Z-10 forbid a reason.
        let is_taxed = matches!(self.category, TaxCategory::S | TaxCategory::Z);
        if is_taxed && (self.exemption_reason.is_some() || self.exemption_code.is_some()) {
            return Err(Error::invalid("exemption_reason", "is not for categories S and Z: leave it out"));
        }
        if !is_taxed && self.exemption_reason.is_none() {
            let rule = "must say why there is no tax, such as `Reverse charge`";
            return Err(Error::invalid("exemption_reason", rule));
        }
        for (field, text) in
            [("exemption_reason", &self.exemption_reason), ("exemption_code", &self.exemption_code)]
        {
            if let Some(text) = text {
                check_line(field, text, 200)?;
            }
        }
        Ok(())
    }
}

/// Creates a tax rate, or replaces it.
///
/// # Errors
/// [`Error::Invalid`] names the field.
pub fn put(
    conn: &mut PgConnection,
    id: &str,
    body: &TaxRateBody,
    now: DateTime<Utc>,
) -> Result<TaxRate, Error> {
    check_key(id)?;
    body.check()?;
    let values = (
        (t::name.eq(&body.name), t::category.eq(body.category.code()), t::percent.eq(body.percent.0)),
        (t::exemption_reason.eq(&body.exemption_reason), t::exemption_code.eq(&body.exemption_code)),
        t::active.eq(body.active),
    );
    diesel::insert_into(t::table)
        .values((t::tax_rate_id.eq(id), t::created_at.eq(now), values))
        .on_conflict(t::tax_rate_id)
        .do_update()
        .set(values)
        .execute(conn)?;
    find(conn, id)
}

type TaxRateRow = (String, String, String, Decimal, Option<String>, Option<String>, bool, DateTime<Utc>);

fn read(row: TaxRateRow) -> Result<TaxRate, Error> {
    let (id, name, category, percent, exemption_reason, exemption_code, active, created_at) = row;
    let percent = Quantity(percent.normalize());
    let category = category_named(&category)?;
    let body = TaxRateBody { name, category, percent, exemption_reason, exemption_code, active };
    Ok(TaxRate { id, body, created_at })
}

/// The category with this code.
pub(super) fn category_named(code: &str) -> Result<TaxCategory, Error> {
    serde_json::from_value(code.into()).map_err(|_| Error::Internal(format!("tax category {code}")))
}

/// # Errors
/// [`Error::NotFound`] when there is no such rate.
pub fn find(conn: &mut PgConnection, id: &str) -> Result<TaxRate, Error> {
    let row: Option<TaxRateRow> = t::table.find(id).first(conn).optional()?;
    read(row.ok_or(Error::NotFound("tax rate"))?)
}

/// A rate that new lines may have, named by `field`.
///
/// # Errors
/// [`Error::Invalid`] when there is none.
pub(super) fn active(conn: &mut PgConnection, id: &str, field: &'static str) -> Result<TaxRate, Error> {
    let row: Option<TaxRateRow> = t::table.find(id).filter(t::active).first(conn).optional()?;
    read(row.ok_or_else(|| Error::invalid(field, "must be the key of an active tax rate"))?)
}

/// All rates, by key.
pub fn list(conn: &mut PgConnection) -> Result<Vec<TaxRate>, Error> {
    t::table.order(t::tax_rate_id).load::<TaxRateRow>(conn)?.into_iter().map(read).collect()
}
