//! Invoices that another system issued: they keep their number and dates, and count as issued then.

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, NaiveTime, TimeZone, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde::Deserialize;
use utoipa::ToSchema;

use super::account::{Account, EntryKind, NewEntry};
use super::checks::check_booked;
use super::drafts::{self, CouponUse, DraftTexts, NewDraft};
use super::lines::{self, ItemBody};
use super::numbers::{self, SeriesPlace};
use super::sellers::Seller;
use super::shown::{self, OwnInvoice};
use super::{finalise, invoices, profiles};
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::money;
use crate::schema::own_invoices as t;
use crate::text::check_line;
use crate::time::Day;

/// An invoice of another system.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ImportedInvoice)]
pub struct ImportBody {
    /// Public or external id of the org.
    pub org: String,
    /// Its number there. A seller has each number once. It must not lie ahead in the seller's own series.
    #[schema(min_length = 1, max_length = 60)]
    pub number: String,
    /// The day of issue, not before 2000-01-01.
    pub issue_date: Day,
    /// The day until which it is to be paid; by the terms when left out.
    #[serde(default)]
    pub due_date: Option<Day>,
    /// Its currency; that of the org's billing profile when left out.
    #[serde(default)]
    pub currency: Option<String>,
    /// Its lines, with the prices after discounts.
    #[schema(min_items = 1)]
    pub lines: Vec<ItemBody>,
    /// Its total with tax, in minor units. It must be what the lines come to.
    pub total: i64,
    /// What people wrote on it.
    #[serde(default)]
    pub texts: DraftTexts,
}

/// Imports an invoice. Its payments are recorded as any payment, with the day on which they were made. The
/// flag is false when it was there already.
///
/// # Errors
/// [`Error::Invalid`] names the field: most of all `total`, when the lines come to something else;
/// [`Error::Conflict`] when the number belongs to another invoice.
pub fn import(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    body: &ImportBody,
    now: DateTime<Utc>,
) -> Result<(OwnInvoice, bool), Error> {
    check_line("number", &body.number, 60)?;
    body.texts.check()?;
    if body.lines.is_empty() || body.lines.len() > 500 {
        return Err(Error::invalid("lines", "must be 1 to 500"));
    }
    let terms = profiles::terms(conn, org.org_id)?;
    let seller = &terms.seller;
    if body.issue_date.0 > seller.day(now) {
        return Err(Error::invalid("issue_date", "must not be in the future"));
    }
    check_booked("issue_date", body.issue_date.0)?;
    if body.due_date.is_some_and(|day| day.0 < body.issue_date.0) {
        return Err(Error::invalid("due_date", "must not be before issue_date"));
    }
    let currency = body.currency.clone().unwrap_or_else(|| terms.profile.currency.clone());
    money::check_currency("currency", &currency)?;
    let mut account = Account::lock(conn, org.org_id, &currency, now)?;
    if let Some(there) = imported(conn, org, &seller.id, body)? {
        return Ok((there, false));
    }
    numbers::must_not_be_ahead(conn, seller, &body.number, seller.day(now))?;
    let draft = NewDraft {
        org_id: org.org_id,
        seller: &seller.id,
        currency: &currency,
        subscription: None,
        reason: "import",
        finalize_at: None,
        texts: &body.texts,
    };
    let id = drafts::insert(conn, &draft, now)?;
    for line in &body.lines {
        lines::add_item(conn, org.org_id, (&currency, Some(&id)), line, now)?;
    }
    let row = invoices::lock(conn, org.org_id, &id)?;
    let basis = drafts::load(conn, org, &row)?;
    let computed = drafts::compute(conn, &basis, now, CouponUse::Without)?;
    let total = computed.amounts.totals.total;
    if total != body.total || total < 0 {
        let rule = format!("must be 0 or more, and what the lines come to with tax: {total}");
        return Err(Error::invalid("total", rule));
    }
    drafts::store(conn, (org.org_id, &id), &computed, now)?;
    let issued_at = noon(seller, body.issue_date.0);
    let mut document = finalise::document(conn, &basis, &computed, &body.texts, issued_at)?;
    document.number = Some(body.number.clone());
    document.due_date = body.due_date.map(|day| day.0).or(document.due_date);
    let place = SeriesPlace { year: 0, number: 0, text: body.number.clone() };
    numbers::keep(conn, org.org_id, &seller.id, (&document, &place), now)?;
    diesel::update(t::table.find((org.org_id, &id)))
        .set((
            (t::number.eq(&body.number), t::finalized_at.eq(issued_at)),
            (t::issue_date.eq(document.issue_date), t::due_date.eq(document.due_date)),
        ))
        .execute(conn)?;
    let entry = NewEntry {
        kind: EntryKind::Invoice,
        document: &id,
        amount: total,
        occurred_at: issued_at,
        corrects: None,
        description: &body.number,
    };
    account.enter(conn, seller, &entry)?;
    invoices::refresh(conn, &account, &id)?;
    Ok((shown::show(conn, (org.org_id, &org.public_id), &id)?, true))
}

/// Noon of a day in the seller's zone: the same day in the books.
fn noon(seller: &Seller, day: NaiveDate) -> DateTime<Utc> {
    let noon = day.and_time(NaiveTime::from_hms_opt(12, 0, 0).unwrap_or_default());
    let local = seller.zone().from_local_datetime(&noon).earliest();
    local.map_or_else(|| noon.and_utc(), |local| local.with_timezone(&Utc))
}

/// The invoice that has the number already, if it is the same.
fn imported(
    conn: &mut PgConnection,
    org: &OrgContext,
    seller: &str,
    body: &ImportBody,
) -> Result<Option<OwnInvoice>, Error> {
    let Some((org_id, id)) = numbers::holder(conn, seller, &body.number)? else { return Ok(None) };
    let taken = || numbers::taken(&body.number);
    if org_id != org.org_id {
        return Err(taken());
    }
    let there = shown::show(conn, (org_id, &org.public_id), &id).map_err(|_| taken())?;
    let is_same = there.total == body.total && there.issue_date == Some(body.issue_date.0);
    if is_same { Ok(Some(there)) } else { Err(taken()) }
}
