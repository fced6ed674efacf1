//! Billing profiles: who an org is on invoices, and on which terms it buys. Owns `billing_profiles`.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::sellers::{self, Seller};
use super::{checks, tax_rates};
use crate::billing::{orgs, standing};
use crate::documents::content::Party;
use crate::error::Error;
use crate::money;
use crate::schema::billing_profiles as t;
use crate::text::check_line;

/// A billing profile as somebody defines it: the whole of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProfileBody {
    /// Key of the seller; the default one when left out.
    #[serde(default)]
    pub seller: Option<String>,
    /// Name, address and tax numbers of the customer, as documents show them.
    pub party: Party,
    /// Currency in which it buys plans, and in which its usage costs where meters have prices in it: ISO
    /// 4217, lower case.
    pub currency: String,
    /// Language of its documents: en, de, fr, es or id; that of the seller when left out.
    #[serde(default)]
    pub language: Option<String>,
    /// Key of the tax rate of its lines; that of the seller when left out.
    #[serde(default)]
    pub tax_rate: Option<String>,
    /// Whether its prices include the tax; as the seller says when left out.
    #[serde(default)]
    pub tax_inclusive: Option<bool>,
    /// Days until its invoices are due; those of the seller when left out.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 365)]
    pub terms_days: Option<i32>,
    /// What it wants to find on its documents, such as a Leitweg-ID.
    #[serde(default)]
    pub buyer_reference: Option<String>,
    /// Its purchase order.
    #[serde(default)]
    pub purchase_order: Option<String>,
    /// Whether its local subscription is invoiced by the clock: the fee in advance, usage in arrears.
    #[serde(default = "yes")]
    pub automatic: bool,
}

fn yes() -> bool {
    true
}

/// A billing profile.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Profile {
    /// How it is defined.
    #[serde(flatten)]
    pub body: ProfileBody,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was changed last.
    pub updated_at: DateTime<Utc>,
}

/// The terms of invoices of an org: its profile, completed by its seller's settings.
#[derive(Clone, Debug)]
pub struct Terms {
    pub seller: Seller,
    pub profile: ProfileBody,
    /// Since when the org has a billing profile. What ended before was billed elsewhere.
    pub since: DateTime<Utc>,
}

impl Terms {
    /// Language of the documents.
    #[must_use]
    pub fn language(&self) -> &str {
        self.profile.language.as_deref().unwrap_or(&self.seller.body.settings.language)
    }

    /// Whether prices include the tax.
    #[must_use]
    pub fn tax_inclusive(&self) -> bool {
        self.profile.tax_inclusive.unwrap_or(self.seller.body.settings.tax_inclusive)
    }

    /// Days until an invoice is due.
    #[must_use]
    pub fn terms_days(&self) -> i32 {
        self.profile.terms_days.unwrap_or(self.seller.body.settings.terms_days)
    }

    /// Key of the tax rate of lines that name none.
    #[must_use]
    pub fn tax_rate(&self) -> Option<&str> {
        self.profile.tax_rate.as_deref().or(self.seller.body.settings.tax_rate.as_deref())
    }
}

impl ProfileBody {
    fn check(&self) -> Result<(), Error> {
        checks::check_party(&self.party)?;
        money::check_currency("currency", &self.currency)?;
        if let Some(language) = &self.language {
            checks::check_language("language", language)?;
        }
        if let Some(days) = self.terms_days {
            checks::check_days("terms_days", days, 365)?;
        }
        for (field, text) in
            [("buyer_reference", &self.buyer_reference), ("purchase_order", &self.purchase_order)]
        {
            if let Some(text) = text {
                check_line(field, text, 200)?;
            }
        }
        Ok(())
    }
}

/// Creates the billing profile of an org, or replaces it. Finalised documents stay as they are.
///
/// # Errors
/// [`Error::Invalid`] names the field.
pub fn put(
    conn: &mut PgConnection,
    org_id: i64,
    body: &ProfileBody,
    now: DateTime<Utc>,
) -> Result<Profile, Error> {
    body.check()?;
    standing::must_not_be_erased(conn, org_id)?;
    let seller = seller_of(conn, body)?;
    let rate = body.tax_rate.as_ref().or(seller.body.settings.tax_rate.as_ref());
    let rate = rate.ok_or_else(|| {
        let rule = "must be the key of a tax rate, as the seller's settings name none; where there is no \
            tax, use a rate of category O or Z";
        Error::invalid("tax_rate", rule)
    })?;
    tax_rates::active(conn, rate, "tax_rate")?;
    let values = (
        (t::seller_id.eq(&seller.id), t::party.eq(crate::json::to_tree(&body.party)?)),
        (t::terms.eq(crate::json::to_tree(body)?), t::automatic.eq(body.automatic)),
        t::updated_at.eq(now),
    );
    diesel::insert_into(t::table)
        .values((t::org_id.eq(org_id), t::created_at.eq(now), values.clone()))
        .on_conflict(t::org_id)
        .do_update()
        .set(values)
        .execute(conn)?;
    orgs::set_currency(conn, org_id, &body.currency)?;
    find(conn, org_id)
}

fn seller_of(conn: &mut PgConnection, body: &ProfileBody) -> Result<Seller, Error> {
    match &body.seller {
        None => sellers::default_seller(conn),
        Some(id) => sellers::find(conn, id).map_err(|error| match error {
            Error::NotFound(_) => Error::invalid("seller", "must be the key of a seller"),
            error => error,
        }),
    }
}

/// # Errors
/// [`Error::NotFound`] when the org has none.
pub fn find(conn: &mut PgConnection, org_id: i64) -> Result<Profile, Error> {
    let row = t::table.find(org_id).select((t::terms, t::created_at, t::updated_at));
    let row: Option<(Value, DateTime<Utc>, DateTime<Utc>)> = row.first(conn).optional()?;
    let (body, created_at, updated_at) = row.ok_or(Error::NotFound("billing profile"))?;
    let broken = |error| Error::Internal(format!("billing profile of org {org_id}: {error}"));
    Ok(Profile { body: serde_json::from_value(body).map_err(broken)?, created_at, updated_at })
}

/// The terms of an org's invoices.
///
/// # Errors
/// [`Error::Conflict`] when it has no billing profile.
pub fn terms(conn: &mut PgConnection, org_id: i64) -> Result<Terms, Error> {
    let profile = find(conn, org_id).map_err(|error| match error {
        Error::NotFound(_) => Error::conflict(
            "no_billing_profile",
            "this org has no billing profile: put one at /v1/orgs/{id}/billing first",
        ),
        error => error,
    })?;
    let seller_id: String = t::table.find(org_id).select(t::seller_id).first(conn)?;
    Ok(Terms { seller: sellers::find(conn, &seller_id)?, profile: profile.body, since: profile.created_at })
}
