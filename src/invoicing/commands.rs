//! What people do with invoices: make, look at, change, finalise, take back, give up.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde::Deserialize;
use utoipa::ToSchema;

use super::account::{Account, EntryKind, NewEntry};
use super::checks::check_booked;
use super::drafts::{self, Basis, ChargedPeriod, CouponUse, DraftTexts, LATE_USAGE, NewDraft};
use super::lines::{self, InvoiceItem, ItemBody};
use super::shown::{self, OwnInvoice};
use super::{amounts, finalise as finalising, invoices, numbers, payments, profiles, settle, undo};
use crate::billing::directory::OrgContext;
use crate::billing::local_subscriptions::{self, SubscriptionPeriod};
use crate::documents::content::Document;
use crate::error::Error;
use crate::ids;
use crate::money;
use crate::schema::own_invoices as t;
use crate::text::check_line;
use crate::time::Moment;

/// An invoice to make by hand.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewInvoice)]
pub struct InvoiceBody {
    /// Public or external id of the org.
    pub org: String,
    /// Its currency; that of the org's billing profile when left out.
    #[serde(default)]
    pub currency: Option<String>,
    /// Lines.
    #[serde(default)]
    pub items: Vec<ItemBody>,
    /// Whether to charge the fee of the next period of the org's local subscription. Its payment extends the
    /// subscription; one that is over begins again.
    #[serde(default)]
    pub renewal: bool,
    /// Whether to charge usage of earlier periods that came after their invoices. The next invoice of a
    /// subscription does that by itself; after the last one, this does.
    #[serde(default)]
    pub late_usage: bool,
    /// Whether it takes the items that wait.
    #[serde(default = "yes")]
    pub take_items: bool,
    /// What people write on it.
    #[serde(default)]
    pub texts: DraftTexts,
    /// Whether to finalise it at once.
    #[serde(default)]
    pub finalize: bool,
}

fn yes() -> bool {
    true
}

/// Changes of a draft: only what is given changes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = InvoiceChanges)]
pub struct DraftPatch {
    /// The texts, as a whole.
    #[serde(default)]
    pub texts: Option<DraftTexts>,
    /// When the clock finalises it.
    #[serde(default)]
    pub finalize_at: Option<Moment>,
    /// True: only people finalise it.
    #[serde(default)]
    pub by_hand: bool,
}

/// A correction of an account by hand.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AccountAdjustment)]
pub struct AdjustmentBody {
    /// In minor units; below 0 it is credit for the org, above 0 the org owes more.
    pub amount: i64,
    /// ISO 4217, lower case.
    pub currency: String,
    /// Why, for people.
    #[schema(min_length = 1, max_length = 200)]
    pub reason: String,
    /// `true`: what was owed, or was credit, when the org was taken over from another system.
    #[serde(default)]
    pub opening_balance: bool,
    /// When, not before 2000-01-01; now when left out.
    #[serde(default)]
    pub at: Option<Moment>,
}

/// Makes a draft, and finalises it if asked to.
///
/// # Errors
/// [`Error::Invalid`] names the field; [`Error::Conflict`] when something is missing.
pub fn create(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    body: &InvoiceBody,
    now: DateTime<Utc>,
) -> Result<OwnInvoice, Error> {
    body.texts.check()?;
    if body.items.len() > 500 {
        return Err(Error::invalid("items", "must be at most 500"));
    }
    org.standing.admit_billing()?;
    let terms = profiles::terms(conn, org.org_id)?;
    let currency = body.currency.clone().unwrap_or_else(|| terms.profile.currency.clone());
    money::check_currency("currency", &currency)?;
    Account::lock(conn, org.org_id, &currency, now)?;
    if body.renewal && body.late_usage {
        let rule =
            "must not stand beside `renewal`, as an invoice of a subscription charges late usage: make two";
        return Err(Error::invalid("late_usage", rule));
    }
    let next = if body.renewal { Some(next_period(conn, org.org_id, now)?) } else { None };
    let draft = NewDraft {
        org_id: org.org_id,
        seller: &terms.seller.id,
        currency: &currency,
        subscription: next.as_ref().map(|next| next.subscription_id.as_str()),
        reason: if body.late_usage { LATE_USAGE } else { "manual" },
        finalize_at: None,
        texts: &body.texts,
    };
    let id = drafts::insert(conn, &draft, now)?;
    if let Some(next) = &next {
        let key = (next.subscription_id.as_str(), "fee", currency.as_str());
        // The clock does not invoice a period again whose invoice somebody took back; people may.
        drafts::release_taken_back(conn, org.org_id, key, next.start)?;
        if !drafts::claim_period(conn, org.org_id, key, (next.start, next.end), &id)? {
            let detail = "another invoice has the fee of the next period: pay it, or take it back (delete a \
                draft; declare an invoice void, or make a credit note over all of it)";
            return Err(Error::conflict("period_invoiced", detail));
        }
    }
    for item in &body.items {
        lines::add_item(conn, org.org_id, (&currency, Some(&id)), item, now)?;
    }
    if body.take_items {
        lines::take_items(conn, org.org_id, &currency, &id)?;
    }
    let row = invoices::lock(conn, org.org_id, &id)?;
    let basis = drafts::load(conn, org, &row)?;
    let computed = drafts::compute(conn, &basis, now, CouponUse::Preview)?;
    drafts::store(conn, (org.org_id, &id), &computed, now)?;
    if body.finalize {
        finalising::finalise(conn, org, &id, now)?;
    }
    shown::show(conn, (org.org_id, &org.public_id), &id)
}

/// The next period of the org's local subscription.
fn next_period(
    conn: &mut PgConnection,
    org_id: i64,
    now: DateTime<Utc>,
) -> Result<SubscriptionPeriod, Error> {
    local_subscriptions::next_period(conn, org_id, now)?.map(|next| next.period).ok_or_else(|| {
        Error::conflict("no_subscription", "this org never had a local subscription: begin one first")
    })
}

/// What the next invoice of the org says if it is made now: the fee of the next period, usage so far, and the
/// items that wait. Nothing is stored.
///
/// # Errors
/// [`Error::Conflict`] when something is missing.
pub fn preview(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    currency: Option<String>,
    now: DateTime<Utc>,
) -> Result<Document, Error> {
    let terms = profiles::terms(conn, org.org_id)?;
    let currency = currency.unwrap_or_else(|| terms.profile.currency.clone());
    money::check_currency("currency", &currency)?;
    let next = local_subscriptions::next_period(conn, org.org_id, now)?;
    let fees = next.filter(|next| next.goes_on && terms.profile.currency == currency);
    let usage = local_subscriptions::present_period(conn, org.org_id, now)?;
    let usage = usage.map(|period| ChargedPeriod { period, is_late: false });
    let basis = Basis {
        org: Arc::clone(org),
        fees: fees.map(|next| next.period).into_iter().collect(),
        usage: usage.into_iter().collect(),
        items: drafts::item_bodies(conn, org.org_id, &currency, None)?,
        invoice: "preview".to_owned(),
        terms,
        currency,
    };
    let computed = drafts::compute(conn, &basis, now, CouponUse::Preview)?;
    finalising::document(conn, &basis, &computed, &DraftTexts::default(), now)
}

/// Changes a draft.
///
/// # Errors
/// [`Error::Conflict`] when it is finalised; [`Error::Invalid`] names the field.
pub fn change(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    invoice: &str,
    patch: &DraftPatch,
    now: DateTime<Utc>,
) -> Result<OwnInvoice, Error> {
    let (_, row) = invoices::lock_with_account(conn, invoice, now)?;
    row.must_be_draft()?;
    let own = t::table.find((org.org_id, invoice));
    if let Some(texts) = &patch.texts {
        texts.check()?;
        let json = crate::json::to_tree(texts)?;
        diesel::update(own).set(t::draft.eq(json)).execute(conn)?;
    }
    match (patch.finalize_at, patch.by_hand) {
        (Some(_), true) => {
            return Err(Error::invalid("by_hand", "and `finalize_at` exclude each other: leave one out"));
        }
        (Some(at), false) => {
            if at.0 > now + TimeDelta::days(366) {
                return Err(Error::invalid("finalize_at", "must be within a year"));
            }
            diesel::update(own).set(t::finalize_at.eq(at.0)).execute(conn)?;
        }
        (None, true) => {
            diesel::update(own).set(t::finalize_at.eq(None::<DateTime<Utc>>)).execute(conn)?;
        }
        (None, false) => {}
    }
    let row = invoices::lock(conn, org.org_id, invoice)?;
    drafts::recompute(conn, org, &row, now)?;
    shown::show(conn, (org.org_id, &org.public_id), invoice)
}

/// Deletes a draft.
///
/// # Errors
/// [`Error::Conflict`] when it is finalised.
pub fn delete(conn: &mut PgConnection, invoice: &str, now: DateTime<Utc>) -> Result<(), Error> {
    let (_, row) = invoices::lock_with_account(conn, invoice, now)?;
    drafts::delete(conn, &row)
}

/// Finalises a draft; a finalised invoice stays as it is.
///
/// # Errors
/// [`Error::Conflict`] when the draft waits for something, or has no line.
pub fn finalise(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    invoice: &str,
    now: DateTime<Utc>,
) -> Result<OwnInvoice, Error> {
    finalising::finalise(conn, org, invoice, now)?;
    shown::show(conn, (org.org_id, &org.public_id), invoice)
}

/// Declares an open invoice void.
///
/// # Errors
/// [`Error::Conflict`] when it is not open.
pub fn void(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    invoice: &str,
    now: DateTime<Utc>,
) -> Result<OwnInvoice, Error> {
    undo::void(conn, org, invoice, now)?;
    shown::show(conn, (org.org_id, &org.public_id), invoice)
}

/// Gives up what an open invoice asks for.
///
/// # Errors
/// [`Error::Conflict`] when it is not open.
pub fn write_off(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    invoice: &str,
    now: DateTime<Utc>,
) -> Result<OwnInvoice, Error> {
    undo::write_off(conn, invoice, now)?;
    shown::show(conn, (org.org_id, &org.public_id), invoice)
}

/// Adds an item to a draft, or (`invoice` is `None`) to the next one.
///
/// # Errors
/// [`Error::Invalid`] names the field; [`Error::Conflict`] when the invoice is finalised.
pub fn add_item(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    (currency, invoice): (Option<&str>, Option<&str>),
    item: &ItemBody,
    now: DateTime<Utc>,
) -> Result<InvoiceItem, Error> {
    let Some(invoice) = invoice else {
        let usual = profiles::terms(conn, org.org_id)?.profile.currency;
        let currency = currency.unwrap_or(&usual);
        money::check_currency("currency", currency)?;
        return lines::add_item(conn, org.org_id, (currency, None), item, now);
    };
    let (_, row) = invoices::lock_with_account(conn, invoice, now)?;
    if row.org_id != org.org_id {
        return Err(Error::NotFound("invoice"));
    }
    row.must_be_draft()?;
    if currency.is_some_and(|currency| currency != row.currency) {
        return Err(Error::invalid("currency", "must be that of the invoice"));
    }
    let added = lines::add_item(conn, org.org_id, (&row.currency, Some(invoice)), item, now)?;
    drafts::recompute(conn, org, &row, now)?;
    Ok(added)
}

/// Deletes an item, if no finalised invoice has it.
///
/// # Errors
/// [`Error::NotFound`] when the org has no such item; [`Error::Conflict`] when its invoice is finalised.
pub fn delete_item(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    item: &str,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let Some(invoice) = lines::delete_item(conn, org.org_id, item)? else { return Ok(()) };
    let (_, row) = invoices::lock_with_account(conn, &invoice, now)?;
    row.must_be_draft()?;
    drafts::recompute(conn, org, &row, now)
}

/// Items of an org that wait for an invoice.
pub fn waiting_items(conn: &mut PgConnection, org_id: i64) -> Result<Vec<InvoiceItem>, Error> {
    lines::items(conn, org_id, None, None)
}

/// The document of an invoice or a credit note of an org: as it was issued, or of a draft as it would be now.
///
/// # Errors
/// [`Error::NotFound`] when the org has no such document.
pub fn document(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    id: &str,
    now: DateTime<Utc>,
) -> Result<Document, Error> {
    match numbers::issued(conn, org.org_id, id) {
        Err(Error::NotFound(_)) => {}
        found => return found,
    }
    let row = invoices::find(conn, org.org_id, id)?;
    let texts = serde_json::from_value(row.draft.clone()).unwrap_or_default();
    let basis = drafts::load(conn, org, &row)?;
    let computed = drafts::compute(conn, &basis, now, CouponUse::Preview)?;
    finalising::document(conn, &basis, &computed, &texts, now)
}

/// Corrects an account by hand. Open credit pays the oldest debts; what is left pays the next invoice.
///
/// # Errors
/// [`Error::Invalid`] names the field.
pub fn adjust(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    body: &AdjustmentBody,
    now: DateTime<Utc>,
) -> Result<(String, i64), Error> {
    check_line("reason", &body.reason, 200)?;
    money::check_currency("currency", &body.currency)?;
    let most = amounts::MAX_AMOUNT;
    if body.amount == 0 || !(-most..=most).contains(&body.amount) {
        let rule = format!("must be from -{most} to {most}, and not 0; below 0 it is credit for the org");
        return Err(Error::invalid("amount", rule));
    }
    if let Some(at) = body.at {
        check_booked("at", at.0.date_naive())?;
    }
    if body.at.is_some_and(|at| at.0 > now) {
        return Err(Error::invalid("at", "must not be in the future"));
    }
    let terms = profiles::terms(conn, org.org_id)?;
    let mut account = Account::lock(conn, org.org_id, &body.currency, now)?;
    let (prefix, kind) = if body.opening_balance {
        ("opn", EntryKind::OpeningBalance)
    } else {
        ("adj", EntryKind::Adjustment)
    };
    let id = ids::fresh(prefix);
    let entry = NewEntry {
        kind,
        document: &id,
        amount: body.amount,
        occurred_at: body.at.map_or(now, |at| at.0),
        corrects: None,
        description: &body.reason,
    };
    let sequence = account.enter(conn, &terms.seller, &entry)?;
    let touched = settle::pay_all(conn, &mut account)?;
    payments::refresh_all(conn, org, &account, &touched, now)?;
    Ok((id, sequence))
}
