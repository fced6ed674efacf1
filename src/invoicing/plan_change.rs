//! A change of plan: what was agreed for the old plan is set right for the days that are left.
//!
//! The rule, with its sources. For each period that is left, wholly or in part, and for which money was
//! agreed, the old fee is given back and the new one charged, for the days that are left of it:
//! - A period that an invoice asks for counts, **paid or not**: what its customer owes is money, too. Stripe
//!   prorates so unless one asks it to defer the credit until the invoice is paid
//!   (docs.stripe.com/billing/subscriptions/credit-proration-deferral); Lago makes its credit note on an
//!   invoice that is pending, too (getlago.com/docs/guide/invoicing/credit-notes/overview).
//! - Periods that were **bought ahead** count as a whole. So does the first period after a trial: the trial
//!   itself is free. Chargebee gives back what an advance invoice charged, and charges the new price
//!   (support.chargebee.com, solution 247856).
//! - A period that a **draft** asks for is not prorated: a draft is computed again, by the new plan.
//! - A period that was **bought without an invoice of ours** (an import, `"paid": true`, `activate`) counts
//!   at the price of the plan in the currency of the billing profile. Where a price is unknown, nothing is
//!   prorated and the answer says so (`not_prorated`).
//! - A void invoice asks for nothing, nor does one that was written off or taken back before it was paid.
//!   What credit notes took back of a fee is not given back again.
//!
//! Days are those of the seller's zone, and today counts as left. All waits as items for the next invoice.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Months, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable, Text, Timestamptz};
use rust_decimal::Decimal;
use serde::Serialize;
use utoipa::ToSchema;

use super::account::Account;
use super::amounts::prorated;
use super::drafts::{self, no_price};
use super::invoices;
use super::lines::{self, InvoiceItem, ItemBody, ItemKind};
use super::profiles::{self, Terms};
use crate::billing::directory::OrgContext;
use crate::billing::local_subscriptions::{self, Changed, LocalSubscription};
use crate::billing::plans;
use crate::error::Error;
use crate::money::major_units;
use crate::quantity::Quantity;
use crate::time::Moment;

/// A changed plan, and what that charges.
#[derive(Debug)]
pub struct PlanChange {
    /// The subscription.
    pub changed: Changed,
    /// Items that wait for the next invoice.
    pub prorated: Vec<InvoiceItem>,
    /// Periods that were bought without an invoice, at a price that is not known.
    pub not_prorated: Vec<NotProrated>,
}

/// A period whose price for the old or the new plan is not known: add an item by hand if there is something
/// to charge or to give back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct NotProrated {
    /// Start of the period.
    pub from: DateTime<Utc>,
    /// Its end.
    pub to: DateTime<Utc>,
    /// The plan that has no price for it.
    pub plan: String,
    /// The currency of the billing profile, in which it has none.
    pub currency: String,
}

/// A period that an invoice asks for, or asked for.
#[derive(QueryableByName)]
struct InvoicedPeriod {
    #[diesel(sql_type = Text)]
    currency: String,
    #[diesel(sql_type = Timestamptz)]
    period_start: DateTime<Utc>,
    #[diesel(sql_type = Timestamptz)]
    period_end: DateTime<Utc>,
    #[diesel(sql_type = Text)]
    invoice_id: String,
    /// Whether the invoice is a draft.
    #[diesel(sql_type = Bool)]
    is_draft: bool,
    /// Whether money was agreed: it asks for the fee, or its payment extended the subscription.
    #[diesel(sql_type = Bool)]
    is_agreed: bool,
    /// The fee on the invoice, if no change of plan prorated it since.
    #[diesel(sql_type = Nullable<BigInt>)]
    fee: Option<i64>,
    /// What is left of the fee after credit notes; `None`: they took nothing back.
    #[diesel(sql_type = Nullable<BigInt>)]
    left: Option<i64>,
}

/// A period for which money was agreed.
struct AgreedPeriod {
    currency: String,
    start: DateTime<Utc>,
    end: DateTime<Utc>,
    /// End of the whole interval that the fee is for.
    whole_end: DateTime<Utc>,
    /// The fee of the whole interval, if another one than that of the plan now.
    fee: Option<i64>,
    /// The most that may be given back.
    most: Option<i64>,
    is_invoiced: bool,
}

/// Puts the org's local subscription on another plan and prorates what was agreed for the old one.
///
/// # Errors
/// As [`local_subscriptions::change`]; [`Error::Conflict`] when the new plan has no price in the currency of
/// an invoice.
pub fn change(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    plan_id: &str,
    now: DateTime<Utc>,
) -> Result<PlanChange, Error> {
    let terms = match profiles::terms(conn, org.org_id) {
        Err(Error::Conflict { .. }) => None,
        terms => Some(terms?),
    };
    let Some(terms) = terms else {
        let changed = local_subscriptions::change(conn, org.org_id, plan_id, now)?;
        return Ok(PlanChange { changed, prorated: Vec::new(), not_prorated: Vec::new() });
    };
    let main = terms.profile.currency.clone();
    // Under this lock nobody else changes the plan, finalises or pays.
    Account::lock(conn, org.org_id, &main, now)?;
    let before = local_subscriptions::current(conn, org.org_id, now).or_else(|_| {
        // There is none: it says so.
        local_subscriptions::change(conn, org.org_id, plan_id, now).map(|changed| changed.subscription)
    })?;
    lock_others(conn, org.org_id, &before.id, &main, now)?;
    let invoiced = invoiced(conn, org.org_id, &before.id, now)?;
    let drafts: BTreeSet<String> =
        invoiced.iter().filter(|period| period.is_draft).map(|period| period.invoice_id.clone()).collect();
    let drafts =
        drafts.iter().map(|id| invoices::lock(conn, org.org_id, id)).collect::<Result<Vec<_>, _>>()?;
    let agreed = agreed(conn, org.org_id, &before, (invoiced, &main), now)?;
    let changed = local_subscriptions::change(conn, org.org_id, plan_id, now)?;
    let mut done = PlanChange { changed, prorated: Vec::new(), not_prorated: Vec::new() };
    for period in &agreed {
        prorate(conn, org.org_id, (&before, period), &terms, &mut done, now)?;
    }
    for draft in &drafts {
        drafts::recompute(conn, org, draft, now)?;
    }
    Ok(done)
}

/// Locks the accounts of the invoices of a subscription in other currencies.
fn lock_others(
    conn: &mut PgConnection,
    org_id: i64,
    subscription: &str,
    main: &str,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    use crate::schema::invoiced_periods as p;
    let others: Vec<String> = p::table
        .filter(p::org_id.eq(org_id).and(p::subscription_id.eq(subscription)))
        .filter(p::what.eq("fee").and(p::currency.ne(main)))
        .select(p::currency)
        .distinct()
        .order(p::currency)
        .load(conn)?;
    for currency in others {
        Account::lock(conn, org_id, &currency, now)?;
    }
    Ok(())
}

/// The periods of a subscription with a fee on an invoice that end after `now`.
fn invoiced(
    conn: &mut PgConnection,
    org_id: i64,
    subscription: &str,
    now: DateTime<Utc>,
) -> QueryResult<Vec<InvoicedPeriod>> {
    diesel::sql_query(
        "SELECT p.currency, p.period_start, p.period_end, p.invoice_id, i.finalized_at IS NULL AS is_draft,
             i.finalized_at IS NOT NULL AND i.voided_at IS NULL
                 AND (p.paid_for_at IS NOT NULL OR i.status = 'open') AS is_agreed,
             CASE WHEN NOT EXISTS (SELECT FROM invoice_items t
                 WHERE t.org_id = p.org_id AND t.currency = p.currency AND t.created_at >= i.finalized_at
                     AND t.line ->> 'kind' = 'proration'
                     AND (t.line ->> 'to')::timestamptz = p.period_end) THEN l.amount END AS fee,
             CASE WHEN n.credited >= l.amount - l.discount THEN 0 ELSE l.amount - n.credited END AS left
         FROM invoiced_periods p
         JOIN own_invoices i USING (org_id, invoice_id)
         LEFT JOIN own_invoice_lines l ON (l.org_id, l.invoice_id) = (p.org_id, p.invoice_id)
             AND l.kind = 'fee' AND l.period_start = p.period_start
         LEFT JOIN LATERAL (SELECT sum(n.amount)::bigint AS credited FROM own_credit_note_lines n
             WHERE (n.org_id, n.invoice_id, n.line_number) = (l.org_id, l.invoice_id, l.line_number)) n
             ON true
         WHERE p.org_id = $1 AND p.subscription_id = $2 AND p.what = 'fee' AND p.period_end > $3
         ORDER BY p.period_start, p.currency",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Text, _>(subscription)
    .bind::<Timestamptz, _>(now)
    .load(conn)
}

/// The periods for which money was agreed: on invoices, and bought without one.
fn agreed(
    conn: &mut PgConnection,
    org_id: i64,
    before: &LocalSubscription,
    (invoiced, main): (Vec<InvoicedPeriod>, &str),
    now: DateTime<Utc>,
) -> Result<Vec<AgreedPeriod>, Error> {
    let months = Months::new(u32::try_from(before.interval_months).unwrap_or(1));
    let mut agreed = Vec::new();
    for bought in local_subscriptions::bought_periods(conn, org_id, now)? {
        if invoiced.iter().any(|period| period.period_start == bought.start) {
            continue;
        }
        // Less than an interval may have been paid for, at its part of the price.
        let interval_end = bought.start.checked_add_months(months).unwrap_or(bought.end);
        agreed.push(AgreedPeriod {
            currency: main.to_owned(),
            start: bought.start,
            end: bought.end,
            whole_end: bought.end.max(interval_end),
            fee: None,
            most: None,
            is_invoiced: false,
        });
    }
    agreed.extend(invoiced.into_iter().filter(|period| period.is_agreed).map(|period| AgreedPeriod {
        currency: period.currency,
        start: period.period_start,
        end: period.period_end,
        whole_end: period.period_end,
        fee: period.fee,
        most: period.left,
        is_invoiced: true,
    }));
    agreed.sort_by_key(|period| period.start);
    Ok(agreed)
}

/// Adds the items of a period.
fn prorate(
    conn: &mut PgConnection,
    org_id: i64,
    (before, period): (&LocalSubscription, &AgreedPeriod),
    terms: &Terms,
    done: &mut PlanChange,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let (after, currency) = (&done.changed.subscription, period.currency.as_str());
    if (&before.plan, before.version) == (&after.plan, after.version) {
        return Ok(());
    }
    let (old_name, old) = plans::terms_of(conn, &before.plan, before.version)?;
    let (new_name, new) = plans::terms_of(conn, &after.plan, after.version)?;
    let old_fee = period.fee.or_else(|| old.fee(currency, before.interval_months));
    let new_fee = new.fee(currency, before.interval_months);
    let (old_fee, new_fee) = match (old_fee, new_fee) {
        (Some(old_fee), Some(new_fee)) => (old_fee, new_fee),
        (_, None) if period.is_invoiced => return Err(no_price(&after.plan, currency)),
        (old_fee, _) => {
            let plan = if old_fee.is_none() { &before.plan } else { &after.plan };
            done.not_prorated.push(NotProrated {
                from: period.start,
                to: period.end,
                plan: plan.clone(),
                currency: currency.to_owned(),
            });
            return Ok(());
        }
    };
    let back = rest_of(old_fee, period, terms, now).min(period.most.unwrap_or(i64::MAX));
    let charged = rest_of(new_fee, period, terms, now);
    if back == charged {
        return Ok(());
    }
    for (name, amount, sign) in [(old_name, back, -1), (new_name, charged, 1)] {
        if amount != 0 {
            let item = item(name, (amount, sign), currency, (now.max(period.start), period.end));
            done.prorated.push(lines::add_item(conn, org_id, (currency, None), &item, now)?);
        }
    }
    Ok(())
}

/// The part of a fee for the days of a period that are left.
fn rest_of(fee: i64, period: &AgreedPeriod, terms: &Terms, now: DateTime<Utc>) -> i64 {
    let day = |at| terms.seller.day(at);
    let (start, end, whole_end) = (day(period.start), day(period.end), day(period.whole_end));
    let from = day(now).max(start);
    prorated(fee, (end - from).num_days().max(0), (whole_end - start).num_days())
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
