//! Drafts: what the next invoice of an org says, computed again whenever it is looked at.
//!
//! A draft is made of fees and usage of periods (`invoiced_periods`, which this module owns), of items
//! ([`super::lines`]) and of coupons. It takes no number and books nothing.

mod carry;
mod store;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::amounts::{self, Amounts, Discount, PricedLine};
use super::coupons::{self, Coupon};
use super::lines::{self, DraftLine, ItemBody, no_tax_rate};
use super::profiles::Terms;
use super::tax_rates::{self, TaxRate};
use super::usage_lines;
use crate::billing::directory::OrgContext;
use crate::billing::local_subscriptions::SubscriptionPeriod;
use crate::billing::plans;
use crate::documents::content::LineKind;
use crate::error::Error;
use crate::text::check_line;
pub(super) use store::{
    LATE_USAGE, NewDraft, claim_period, delete, drop_if_empty, insert, is_invoiced, load, recompute,
    release_taken_back, store,
};

/// What people write on an invoice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DraftTexts {
    /// A note; that of the seller when left out.
    pub note: Option<String>,
    /// Terms of payment, for people; those of the seller when left out.
    pub terms: Option<String>,
    /// The buyer's purchase order; that of the billing profile when left out.
    pub purchase_order: Option<String>,
    /// What the buyer wants to find on it; that of the billing profile when left out.
    pub buyer_reference: Option<String>,
}

impl DraftTexts {
    /// # Errors
    /// [`Error::Invalid`] names the field.
    pub fn check(&self) -> Result<(), Error> {
        for (field, text, limit) in [
            ("note", &self.note, 1000),
            ("terms", &self.terms, 1000),
            ("purchase_order", &self.purchase_order, 200),
            ("buyer_reference", &self.buyer_reference, 200),
        ] {
            if let Some(text) = text {
                check_line(field, text, limit)?;
            }
        }
        Ok(())
    }
}

/// A period whose usage is charged. Its plan may ask for a minimum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChargedPeriod {
    pub(super) period: SubscriptionPeriod,
    /// It was invoiced before: only what came late counts, and no minimum.
    pub(super) is_late: bool,
}

/// What a draft is made of.
#[derive(Clone)]
pub(super) struct Basis {
    pub(super) org: Arc<OrgContext>,
    pub(super) terms: Terms,
    pub(super) currency: String,
    /// The draft's id.
    pub(super) invoice: String,
    /// Periods whose fee is charged.
    pub(super) fees: Vec<SubscriptionPeriod>,
    pub(super) usage: Vec<ChargedPeriod>,
    pub(super) items: Vec<ItemBody>,
}

/// A draft as it would be finalised now.
#[derive(Clone, Debug)]
pub(super) struct Computed {
    pub(super) lines: Vec<DraftLine>,
    pub(super) amounts: Amounts,
    /// Coupons that the discounts belong to, by place.
    pub(super) coupons: Vec<Coupon>,
    /// Why it cannot be finalised now, as a code.
    pub(super) waits: Option<&'static str>,
    /// Credit that is more than what it is set off against: items for the next invoice.
    pub(super) carried: Vec<ItemBody>,
}

/// How a computation treats coupons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CouponUse {
    /// As they are now; nothing is used.
    Preview,
    /// Locked until the caller commits, because the draft is finalised now.
    Final,
    /// None: the prices are after discounts.
    Without,
}

/// Computes a draft.
///
/// # Errors
/// [`Error::Conflict`] when a price or a tax rate is missing.
pub(super) fn compute(
    conn: &mut PgConnection,
    basis: &Basis,
    now: DateTime<Utc>,
    coupon_use: CouponUse,
) -> Result<Computed, Error> {
    let usual = basis.terms.tax_rate().map(|id| tax_rates::find(conn, id)).transpose()?;
    let (mut lines, mut waits) = (Vec::new(), None);
    for fee in &basis.fees {
        lines.push(fee_line(conn, fee, &basis.currency, usual.as_ref())?);
    }
    for item in &basis.items {
        lines.push(DraftLine::of_item(conn, item, &basis.currency, usual.as_ref())?);
    }
    for charged in &basis.usage {
        lines.extend(period_lines(conn, basis, charged, usual.as_ref())?);
        waits = waits.or(usage_lines::unpriced(conn, basis.org.org_id, &charged.period)?);
    }
    let subtotal = lines.iter().map(|line| line.amount).fold(0_i64, i64::saturating_add);
    let fits = (basis.currency.as_str(), subtotal);
    let fitting = match coupon_use {
        CouponUse::Without => Vec::new(),
        CouponUse::Preview => coupons::usable(conn, basis.org.org_id, fits, now, false)?,
        CouponUse::Final => coupons::usable(conn, basis.org.org_id, fits, now, true)?,
    };
    let inclusive = basis.terms.tax_inclusive();
    let mut amounts = priced(&lines, &fitting, inclusive)?;
    let mut carried = Vec::new();
    if carry::is_below_zero(&amounts) {
        // An invoice of another system was issued as it is.
        let fits = if coupon_use == CouponUse::Without {
            None
        } else {
            carry::carry(&lines, &amounts, &basis.currency, |lines| priced(lines, &fitting, inclusive))?
        };
        match fits {
            Some(fits) => (lines, amounts, carried) = (fits.lines, fits.amounts, fits.carried),
            None => waits = Some("total_below_zero"),
        }
    }
    Ok(Computed { lines, amounts, coupons: fitting, waits, carried })
}

/// The amounts of lines after the discounts of coupons.
fn priced(lines: &[DraftLine], coupons: &[Coupon], inclusive: bool) -> Result<Amounts, Error> {
    let discounts: Vec<Discount> = coupons.iter().map(|coupon| discount(coupon, lines)).collect();
    let priced: Vec<PricedLine> =
        lines.iter().map(|line| PricedLine { amount: line.amount, tax: line.tax_rate.group() }).collect();
    amounts::compute(&priced, &discounts, inclusive)
}

/// What a coupon takes off: of the fees of its plans, or of every line.
fn discount(coupon: &Coupon, lines: &[DraftLine]) -> Discount {
    let plans = &coupon.body.plans;
    let fits =
        |line: &DraftLine| plans.is_empty() || line.plan.as_ref().is_some_and(|plan| plans.contains(plan));
    let places = lines.iter().enumerate().filter(|(_, line)| fits(line)).map(|(place, _)| place);
    Discount { off: coupon.off(), lines: places.collect() }
}

fn fee_line(
    conn: &mut PgConnection,
    fee: &SubscriptionPeriod,
    currency: &str,
    usual: Option<&TaxRate>,
) -> Result<DraftLine, Error> {
    let (name, terms) = plans::terms_of(conn, &fee.plan_id, fee.version)?;
    let amount = terms.fee(currency, fee.months).ok_or_else(|| no_price(&fee.plan_id, currency))?;
    let tax_rate = usual.cloned().ok_or_else(no_tax_rate)?;
    let line = DraftLine::piece(LineKind::Fee, name, (amount, currency), tax_rate);
    Ok(DraftLine { plan: Some(fee.plan_id.clone()), from: Some(fee.start), to: Some(fee.end), ..line })
}

/// The error for a plan without a price in a currency.
pub(super) fn no_price(plan: &str, currency: &str) -> Error {
    let detail =
        format!("the plan `{plan}` has no price in {currency} for this interval: add one to the plan");
    Error::conflict("plan_has_no_price", detail)
}

/// The usage of a period, and what lacks to its minimum.
fn period_lines(
    conn: &mut PgConnection,
    basis: &Basis,
    charged: &ChargedPeriod,
    usual: Option<&TaxRate>,
) -> Result<Vec<DraftLine>, Error> {
    let (period, currency) = (&charged.period, basis.currency.as_str());
    let Some(tax_rate) = usual else { return Err(no_tax_rate()) };
    let mut lines = usage_lines::usage_lines(conn, &basis.org, (period, currency), &basis.invoice, tax_rate)?;
    if charged.is_late {
        return Ok(lines);
    }
    let (name, terms) = plans::terms_of(conn, &period.plan_id, period.version)?;
    let used: i64 = lines.iter().map(|line| line.amount).sum();
    // A period has one minimum, in the currency of the contract: usage in another currency has an invoice of
    // its own, and nothing is converted, so a second minimum would charge the same promise twice.
    let minimum = terms.price(currency).usage_minimum.filter(|_| basis.terms.profile.currency == currency);
    if let Some(least) = minimum.filter(|least| *least > used) {
        let line = DraftLine::piece(LineKind::Minimum, name, (least - used, currency), tax_rate.clone());
        lines.push(DraftLine { from: Some(period.start), to: Some(period.end), ..line });
    }
    Ok(lines)
}

/// The items of a draft.
pub(super) fn item_bodies(
    conn: &mut PgConnection,
    org_id: i64,
    currency: &str,
    invoice: Option<&str>,
) -> Result<Vec<ItemBody>, Error> {
    let items = lines::items(conn, org_id, Some(currency), invoice)?;
    Ok(items.into_iter().map(|item| item.body).collect())
}
