//! A change of plan within a period that our own invoices charged: the rest of the period is prorated.
//!
//! The old fee is given back, and the new one charged, for the days that are left of the period, of all of
//! its days. Days are those of the seller's zone, and today counts as left. Both wait as items for the next
//! invoice.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use rust_decimal::Decimal;

use super::amounts::prorated;
use super::drafts::{self, no_price};
use super::lines::{self, ItemBody, ItemKind};
use super::profiles::{self, Terms};
use crate::billing::directory::OrgContext;
use crate::billing::local_subscriptions::{self, Changed, SubscriptionPeriod};
use crate::billing::plans;
use crate::error::Error;
use crate::money::major_units;
use crate::quantity::Quantity;
use crate::time::Moment;

/// Puts the org's local subscription on another plan and prorates the period, if an invoice of ours has its
/// fee.
///
/// # Errors
/// As [`local_subscriptions::change`]; [`Error::Conflict`] when the new plan has no price in the currency of
/// the invoices.
pub fn change(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    plan_id: &str,
    now: DateTime<Utc>,
) -> Result<Changed, Error> {
    let before = local_subscriptions::present_period(conn, org.org_id, now)?;
    let changed = local_subscriptions::change(conn, org.org_id, plan_id, now)?;
    let Some(before) = before else { return Ok(changed) };
    let terms = match profiles::terms(conn, org.org_id) {
        Err(Error::Conflict { .. }) => return Ok(changed),
        terms => terms?,
    };
    let currency = terms.profile.currency.clone();
    let key = (before.subscription_id.as_str(), "fee", currency.as_str());
    if !drafts::is_invoiced(conn, org.org_id, key, before.start)? {
        return Ok(changed);
    }
    let (old_name, old) = plans::terms_of(conn, &before.plan_id, before.version)?;
    let now_on = &changed.subscription;
    let (new_name, new) = plans::terms_of(conn, &now_on.plan, now_on.version)?;
    let new_fee = new.fee(&currency, before.months).ok_or_else(|| no_price(&now_on.plan, &currency))?;
    for (name, fee, sign) in
        [(old_name, old.fee(&currency, before.months).unwrap_or(0), -1), (new_name, new_fee, 1)]
    {
        let rest = rest_of(fee, &before, &terms, now);
        if rest != 0 {
            let item = item(name, (rest, sign), &currency, (now, before.end));
            lines::add_item(conn, org.org_id, (&currency, None), &item, now)?;
        }
    }
    Ok(changed)
}

/// The part of a fee for the days of a period that are left.
fn rest_of(fee: i64, period: &SubscriptionPeriod, terms: &Terms, now: DateTime<Utc>) -> i64 {
    let day = |at| terms.seller.day(at);
    let (start, end, today) = (day(period.start), day(period.end), day(now));
    prorated(fee, (end - today).num_days().max(0), (end - start).num_days())
}

fn item(
    description: String,
    (amount, sign): (i64, i64),
    currency: &str,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
) -> ItemBody {
    ItemBody {
        description,
        quantity: Quantity(Decimal::from(sign)),
        unit: None,
        unit_price: Quantity(major_units(amount, currency)),
        base_quantity: Quantity(Decimal::ONE),
        tax_rate: None,
        from: Some(Moment(from)),
        to: Some(Moment(to)),
        kind: ItemKind::Proration,
    }
}
