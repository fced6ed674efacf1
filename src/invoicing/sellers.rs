//! Sellers: the legal entities that issue invoices. Owns `sellers`.

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{checks, numbers};
use crate::documents::content::Party;
use crate::error::Error;
use crate::schema::sellers as t;
use crate::text::{check_key, check_line};

/// A seller as somebody defines it: the whole of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SellerBody {
    /// Name, address and tax numbers, as documents show them.
    pub party: Party,
    /// How it invoices.
    #[serde(default)]
    pub settings: SellerSettings,
    /// Whether customers that name no seller buy from it. One seller at most.
    #[serde(default, rename = "default")]
    pub is_default: bool,
}

/// How a seller invoices. What an org's billing profile says comes first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SellerSettings {
    /// IANA zone of its days: issue dates, due dates and days of the books.
    pub time_zone: String,
    /// What numbers of invoices begin with: `INV-` gives `INV-2026-000001`.
    pub invoice_prefix: String,
    /// What numbers of credit notes begin with. Differs from `invoice_prefix`.
    pub credit_note_prefix: String,
    /// Days from the issue of an invoice until it is due.
    #[schema(minimum = 0, maximum = 365)]
    pub terms_days: i32,
    /// For so many hours a draft that the clock made can be changed before the clock finalises it.
    #[schema(minimum = 0, maximum = 720)]
    pub draft_hours: i32,
    /// So many days before a paid period or a trial ends, the fee of the next period is invoiced.
    #[schema(minimum = 0, maximum = 60)]
    pub advance_days: i32,
    /// Reminders: so many days after an invoice was due, ascending.
    pub reminder_days: Vec<i32>,
    /// Language of documents: en, de, fr, es or id.
    pub language: String,
    /// Key of the tax rate of lines that name none.
    pub tax_rate: Option<String>,
    /// Whether prices include the tax.
    pub tax_inclusive: bool,
    /// Terms of payment, for people.
    pub terms: Option<String>,
    /// A note on every document.
    pub note: Option<String>,
}

impl Default for SellerSettings {
    fn default() -> Self {
        Self {
            time_zone: "UTC".to_owned(),
            invoice_prefix: "INV-".to_owned(),
            credit_note_prefix: "CN-".to_owned(),
            terms_days: 14,
            draft_hours: 24,
            advance_days: 0,
            reminder_days: vec![7, 14, 30],
            language: "en".to_owned(),
            tax_rate: None,
            tax_inclusive: false,
            terms: None,
            note: None,
        }
    }
}

/// A seller.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Seller {
    /// Its key.
    pub id: String,
    /// How it is defined.
    #[serde(flatten)]
    pub body: SellerBody,
    /// When it was made here.
    pub created_at: DateTime<Utc>,
    /// When it was changed last.
    pub updated_at: DateTime<Utc>,
}

impl Seller {
    /// Its time zone.
    #[must_use]
    pub fn zone(&self) -> Tz {
        self.body.settings.time_zone.parse().unwrap_or(Tz::UTC)
    }

    /// Its day at an instant.
    #[must_use]
    pub fn day(&self, at: DateTime<Utc>) -> NaiveDate {
        at.with_timezone(&self.zone()).date_naive()
    }
}

impl SellerBody {
    fn check(&self) -> Result<(), Error> {
        checks::check_party(&self.party)?;
        let settings = &self.settings;
        checks::zone("settings.time_zone", &settings.time_zone)?;
        for (field, prefix) in [
            ("settings.invoice_prefix", &settings.invoice_prefix),
            ("settings.credit_note_prefix", &settings.credit_note_prefix),
        ] {
            if prefix.len() > 20 || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(Error::invalid(field, "must be at most 20 visible ASCII characters"));
            }
        }
        if settings.invoice_prefix == settings.credit_note_prefix {
            let rule = "must differ from invoice_prefix: a number names one document";
            return Err(Error::invalid("settings.credit_note_prefix", rule));
        }
        checks::check_days("settings.terms_days", settings.terms_days, 365)?;
        checks::check_days("settings.draft_hours", settings.draft_hours, 720)?;
        checks::check_days("settings.advance_days", settings.advance_days, 60)?;
        let days = &settings.reminder_days;
        let ascend = days.windows(2).all(|pair| pair[0] < pair[1]);
        if days.len() > 10 || !ascend || !days.iter().all(|days| (0..=365).contains(days)) {
            let rule = "must be at most 10 numbers from 0 to 365, ascending";
            return Err(Error::invalid("settings.reminder_days", rule));
        }
        checks::check_language("settings.language", &settings.language)?;
        for (field, text) in [("settings.terms", &settings.terms), ("settings.note", &settings.note)] {
            if let Some(text) = text {
                check_line(field, text, 1000)?;
            }
        }
        Ok(())
    }
}

/// Whether numbers of a seller that is there would begin in another way.
fn changes_prefix(conn: &mut PgConnection, id: &str, new: &SellerSettings) -> Result<bool, Error> {
    let old = match find(conn, id) {
        Err(Error::NotFound(_)) => return Ok(false),
        found => found?.body.settings,
    };
    let prefixes =
        |settings: &SellerSettings| (settings.invoice_prefix.clone(), settings.credit_note_prefix.clone());
    Ok(prefixes(&old) != prefixes(new))
}

/// Creates a seller, or replaces it.
///
/// # Errors
/// [`Error::Invalid`] names the field; [`Error::Conflict`] when another seller is the default one.
pub fn put(
    conn: &mut PgConnection,
    id: &str,
    body: &SellerBody,
    now: DateTime<Utc>,
) -> Result<Seller, Error> {
    check_key(id)?;
    body.check()?;
    if let Some(rate) = &body.settings.tax_rate {
        super::tax_rates::active(conn, rate, "settings.tax_rate")?;
    }
    if changes_prefix(conn, id, &body.settings)? {
        let zone = checks::zone("settings.time_zone", &body.settings.time_zone)?;
        numbers::must_be_free(conn, id, &body.settings, now.with_timezone(&zone).date_naive())?;
    }
    let settings = crate::json::to_tree(&body.settings)?;
    let values = (
        (t::party.eq(crate::json::to_tree(&body.party)?), t::settings.eq(settings)),
        (t::is_default.eq(body.is_default), t::updated_at.eq(now)),
    );
    diesel::insert_into(t::table)
        .values((t::seller_id.eq(id), t::created_at.eq(now), values.clone()))
        .on_conflict(t::seller_id)
        .do_update()
        .set(values)
        .execute(conn)
        .map_err(|error| {
            let error = Error::from(error);
            match error.constraint() {
                Some("sellers_default") => Error::conflict(
                    "default_taken",
                    "another seller is the default one: take `default` from that first",
                ),
                _ => error,
            }
        })?;
    find(conn, id)
}

type SellerRow = (String, Value, Value, bool, DateTime<Utc>, DateTime<Utc>);

fn read((id, party, settings, is_default, created_at, updated_at): SellerRow) -> Result<Seller, Error> {
    let broken = |error: serde_json::Error| Error::Internal(format!("seller {id}: {error}"));
    let body = SellerBody {
        party: serde_json::from_value(party).map_err(broken)?,
        settings: serde_json::from_value(settings).map_err(broken)?,
        is_default,
    };
    Ok(Seller { id, body, created_at, updated_at })
}

/// # Errors
/// [`Error::NotFound`] when there is no such seller.
pub fn find(conn: &mut PgConnection, id: &str) -> Result<Seller, Error> {
    let row: Option<SellerRow> = t::table.find(id).first(conn).optional()?;
    read(row.ok_or(Error::NotFound("seller"))?)
}

/// The seller of customers that name none.
///
/// # Errors
/// [`Error::Invalid`] when no seller is the default one.
pub(super) fn default_seller(conn: &mut PgConnection) -> Result<Seller, Error> {
    let row: Option<SellerRow> = t::table.filter(t::is_default).first(conn).optional()?;
    read(row.ok_or_else(|| Error::invalid("seller", "must name a seller: none is the default one"))?)
}

/// All sellers, by key.
pub fn list(conn: &mut PgConnection) -> Result<Vec<Seller>, Error> {
    t::table.order(t::seller_id).load::<SellerRow>(conn)?.into_iter().map(read).collect()
}
