//! What the next invoice of an org will hold, and what a new way would send.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::Connection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Numeric, Text, Timestamptz};
use rust_decimal::Decimal;
use serde::Serialize;
use utoipa::ToSchema;

use super::facts::{self, CustomerTimes};
use super::frozen::{self, NewLine};
use super::plan::MeterPlan;
use super::stripe_meter::StripeMeter;
use super::ways::{self, MeterWay, Span, Way};
use crate::billing::directory::{Directory, OrgContext};
use crate::error::Error;
use crate::quantity::Quantity;
use crate::realm::Realm;

type At = DateTime<Utc>;

/// Buckets and lines that a dry run shows at most.
const SHOWN: usize = 1000;

/// What the next invoice of an org will hold, by our books.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct InvoicePreview {
    /// Public id of the org.
    pub org: String,
    /// Stripe's customer; null: see `problem`.
    pub customer: Option<String>,
    /// Why no usage can be charged, as a code: `no_customer`, `several_customers`, `no_subscription`.
    pub problem: Option<String>,
    /// Start of the running billing period.
    pub period_start: Option<DateTime<Utc>>,
    /// Its end, not included.
    pub period_end: Option<DateTime<Utc>>,
    /// Prices that are paid for the next period in advance.
    pub licensed: Vec<LicensedItem>,
    /// Usage of the running period that Stripe sums itself.
    pub metered: Vec<MeteredUsage>,
    /// Priced usage of the running period, and late usage of earlier ones, which becomes invoice items.
    pub lines: Vec<PreviewLine>,
    /// Lines that are frozen already and on no final invoice.
    pub frozen: Vec<PreviewLine>,
}

/// A licensed price of a running subscription.
#[derive(Clone, Debug, Serialize, ToSchema, QueryableByName)]
pub struct LicensedItem {
    /// Stripe's subscription.
    #[diesel(sql_type = Text)]
    pub subscription: String,
    /// Stripe's price.
    #[diesel(sql_type = Nullable<Text>)]
    pub price: Option<String>,
    /// What people call it.
    #[diesel(sql_type = Nullable<Text>)]
    pub name: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    pub quantity: Option<i64>,
    /// Currency of `amount`.
    #[diesel(sql_type = Nullable<Text>)]
    pub currency: Option<String>,
    /// Quantity × unit amount in minor units; null: the price has tiers, or parts of a minor unit.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub amount: Option<i64>,
}

/// Usage that goes into a meter at Stripe.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MeteredUsage {
    /// Key of the meter.
    pub meter: String,
    /// `totals` or `deltas`.
    pub way: Way,
    /// The meter at Stripe.
    pub stripe_meter: String,
    /// Since when in the running period the meter goes this way.
    pub period_start: DateTime<Utc>,
    /// Until when, not included.
    pub period_end: DateTime<Utc>,
    /// What was used in that time, by our books.
    #[schema(value_type = String)]
    pub used: Quantity,
    /// What Stripe took of the running period, with what was carried into it.
    #[schema(value_type = String)]
    pub sent: Quantity,
    /// What Stripe does not have yet: planned, waiting or failed.
    #[schema(value_type = String)]
    pub not_sent: Quantity,
    /// Charges of the period that wait or failed.
    pub problems: i64,
    /// Why Stripe will charge none of it, as a code: `no_price`; null: it will.
    pub problem: Option<String>,
}

/// A priced line.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PreviewLine {
    /// Key of the meter.
    pub meter: String,
    /// Start of the period.
    pub period_start: DateTime<Utc>,
    /// Its end, not included.
    pub period_end: DateTime<Utc>,
    #[schema(value_type = String)]
    pub quantity: Quantity,
    /// Currency of `amount`.
    pub currency: String,
    /// In minor units.
    pub amount: i64,
    /// Of a frozen line: its state.
    pub state: Option<String>,
    /// Of a frozen line: Stripe's invoice; null: the next one.
    pub invoice: Option<String>,
}

/// What a new way would send now.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DryRun {
    /// The way as it would be stored.
    pub way: MeterWay,
    /// Orgs with usage since then.
    pub orgs: i64,
    /// The first 1,000 buckets; of `invoice_items`: lines of the running periods.
    pub charges: Vec<DryCharge>,
    /// Whether there are more.
    pub more: bool,
}

/// A bucket or line that would be charged.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DryCharge {
    /// Public id of the org.
    pub org: String,
    /// Stripe's customer; null: not known.
    pub customer: Option<String>,
    /// Start of the bucket or period.
    pub period_start: DateTime<Utc>,
    /// Its end, not included.
    pub period_end: DateTime<Utc>,
    /// By our books.
    #[schema(value_type = String)]
    pub quantity: Quantity,
    /// The value that would be sent; null: none.
    #[schema(value_type = Option<String>)]
    pub value: Option<Quantity>,
    /// Of a line: its currency.
    pub currency: Option<String>,
    /// Of a line: minor units.
    pub amount: Option<i64>,
    /// Why it would wait, as a code; null: it would be sent.
    pub reason: Option<String>,
}

/// Shows what the next invoice of an org will hold.
///
/// # Errors
/// When the database fails.
pub fn of_org(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    realm: &Realm,
    now: At,
) -> Result<InvoicePreview, Error> {
    let customer = facts::customers(conn, realm, &[org.org_id])?.remove(&org.org_id);
    let customer = customer.unwrap_or(Err(facts::NO_CUSTOMER));
    let period = org.periods.at(now);
    let mut preview = InvoicePreview {
        org: org.public_id.to_string(),
        customer: customer.as_ref().ok().cloned(),
        problem: customer.as_ref().err().map(|reason| (*reason).to_owned()),
        period_start: period.map(|period| period.0),
        period_end: period.map(|period| period.1),
        licensed: Vec::new(),
        metered: Vec::new(),
        lines: Vec::new(),
        frozen: frozen_lines(conn, org.org_id, realm)?,
    };
    let Ok(customer) = customer else { return Ok(preview) };
    preview.licensed = licensed(conn, realm, &customer)?;
    // The org's periods include those of subscriptions that nobody has paid yet; charging waits for these.
    let runs = CustomerTimes::read(conn, realm, &customer, None)?.covers(now);
    let Some(period) = period.filter(|_| runs) else {
        (preview.period_start, preview.period_end) = (None, None);
        preview.problem = Some(facts::NO_SUBSCRIPTION.to_owned());
        return Ok(preview);
    };
    for way in ways::all(conn)?.iter().filter(|way| way.account == realm.account) {
        if let (Some(at_stripe), Some(span)) = (&way.stripe_meter, way.within(period)) {
            let times = CustomerTimes::read(conn, realm, &customer, Some(&at_stripe.id))?;
            let usage = metered(conn, org.org_id, way, at_stripe, span)?;
            let problem = times.lack(now).map(str::to_owned);
            preview.metered.push(MeteredUsage { problem, ..usage });
        }
    }
    if let Some(currency) = currency(conn, realm, &customer)? {
        let meters = frozen::meters(conn, &realm.account)?;
        let periods = frozen::periods_before(org, period.1);
        let lines = frozen::new_lines(conn, org, &meters, &periods, &currency)?;
        preview.lines = lines.into_iter().map(|line| shown(line, &currency)).collect();
    }
    Ok(preview)
}

fn shown(line: NewLine, currency: &str) -> PreviewLine {
    PreviewLine {
        meter: line.usage.meter,
        period_start: line.start,
        period_end: line.end,
        quantity: Quantity(line.usage.quantity.normalize()),
        currency: currency.to_owned(),
        amount: line.amount,
        state: None,
        invoice: None,
    }
}

fn licensed(conn: &mut PgConnection, realm: &Realm, customer: &str) -> QueryResult<Vec<LicensedItem>> {
    diesel::sql_query(
        "SELECT s.id AS subscription, i.price_id AS price, p.nickname AS name, i.quantity,
             coalesce(p.currency, s.currency) AS currency,
             CASE WHEN coalesce(p.billing_scheme, 'per_unit') = 'per_unit'
                 AND coalesce(i.quantity, 1) * p.unit_amount_decimal
                     = trunc(coalesce(i.quantity, 1) * p.unit_amount_decimal)
                 THEN (coalesce(i.quantity, 1) * p.unit_amount_decimal)::bigint END AS amount
         FROM subscriptions s
         JOIN subscription_items i
             ON (i.account, i.livemode, i.subscription_id) = (s.account, s.livemode, s.id)
         LEFT JOIN prices p ON (p.account, p.livemode, p.id) = (i.account, i.livemode, i.price_id)
         WHERE (s.account, s.livemode, s.customer_id) = ($1, $2, $3)
             AND s.status IN ('active', 'trialing', 'past_due', 'unpaid')
             AND NOT coalesce(s.cancel_at_period_end, false)
             AND coalesce(i.usage_type, p.recurring_usage_type, 'licensed') <> 'metered'
         ORDER BY s.id, i.item_number",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Text, _>(customer)
    .load(conn)
}

fn metered(
    conn: &mut PgConnection,
    org_id: i64,
    way: &MeterWay,
    at_stripe: &StripeMeter,
    (start, end): Span,
) -> QueryResult<MeteredUsage> {
    #[derive(QueryableByName)]
    struct Sums {
        #[diesel(sql_type = Numeric)]
        used: Decimal,
        #[diesel(sql_type = Numeric)]
        sent: Decimal,
        #[diesel(sql_type = Numeric)]
        due: Decimal,
        #[diesel(sql_type = BigInt)]
        problems: i64,
    }
    let sums: Sums = diesel::sql_query(
        "SELECT u.used, c.sent, u.used + c.moving AS due, c.problems
         FROM (SELECT coalesce(sum(r.quantity), 0) AS used FROM usage_records r
             WHERE r.org_id = $1 AND r.meter_id = $2 AND r.occurred_at >= $3 AND r.occurred_at < $4) u,
             (SELECT coalesce(sum(delivered), 0) AS sent, coalesce(sum(carried - moved), 0) AS moving,
                 count(*) FILTER (WHERE state IN ('waiting', 'failed')) AS problems
              FROM stripe_charges WHERE org_id = $1 AND meter_id = $2 AND way = $5 AND stripe_meter_id = $6
                 AND period_start >= $3 AND period_start < $4) c",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Integer, _>(way.meter_id)
    .bind::<Timestamptz, _>(start)
    .bind::<Timestamptz, _>(end)
    .bind::<Text, _>(way.way.name())
    .bind::<Text, _>(&at_stripe.id)
    .get_result(conn)?;
    Ok(MeteredUsage {
        meter: way.meter.clone(),
        way: way.way,
        stripe_meter: at_stripe.id.clone(),
        period_start: start,
        period_end: end,
        used: Quantity(sums.used.normalize()),
        sent: Quantity(sums.sent.normalize()),
        not_sent: Quantity((sums.due - sums.sent).normalize()),
        problems: sums.problems,
        problem: None,
    })
}

fn frozen_lines(conn: &mut PgConnection, org_id: i64, realm: &Realm) -> QueryResult<Vec<PreviewLine>> {
    #[derive(QueryableByName)]
    struct FrozenRow {
        #[diesel(sql_type = Text)]
        meter: String,
        #[diesel(sql_type = Timestamptz)]
        period_start: At,
        #[diesel(sql_type = Timestamptz)]
        period_end: At,
        #[diesel(sql_type = Numeric)]
        quantity: Decimal,
        #[diesel(sql_type = Text)]
        currency: String,
        #[diesel(sql_type = BigInt)]
        amount: i64,
        #[diesel(sql_type = Text)]
        state: String,
        #[diesel(sql_type = Nullable<Text>)]
        invoice_id: Option<String>,
    }
    let rows: Vec<FrozenRow> = diesel::sql_query(
        "SELECT m.key AS meter, c.period_start, c.period_end, c.quantity, c.currency, c.amount, c.state,
             c.invoice_id
         FROM stripe_charges c JOIN meters m USING (meter_id)
         WHERE c.org_id = $1 AND c.way = 'invoice_items' AND c.state <> 'confirmed'
             AND (c.account, c.livemode) = ($2, $3)
         ORDER BY c.period_start, c.charge_id",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .load(conn)?;
    let shown = |row: FrozenRow| PreviewLine {
        meter: row.meter,
        period_start: row.period_start,
        period_end: row.period_end,
        quantity: Quantity(row.quantity.normalize()),
        currency: row.currency,
        amount: row.amount,
        state: Some(row.state),
        invoice: row.invoice_id,
    };
    Ok(rows.into_iter().map(shown).collect())
}

/// The currency of the customer's invoices: that of its last subscription.
fn currency(conn: &mut PgConnection, realm: &Realm, customer: &str) -> QueryResult<Option<String>> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = Text)]
        currency: String,
    }
    let found: Option<Found> = diesel::sql_query(
        "SELECT currency FROM subscriptions
         WHERE (account, livemode, customer_id) = ($1, $2, $3) AND currency IS NOT NULL
         ORDER BY ended_at DESC NULLS FIRST, created DESC, id LIMIT 1",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Text, _>(customer)
    .get_result(conn)
    .optional()?;
    Ok(found.map(|found| found.currency))
}

/// Shows what a new way would send. It writes nothing: what is planned is rolled back.
///
/// # Errors
/// When the database fails.
pub fn dry_run(
    conn: &mut PgConnection,
    directory: &Directory,
    livemode: bool,
    way: &MeterWay,
    now: At,
) -> Result<DryRun, Error> {
    let realm = Realm { account: way.account.clone(), livemode };
    let org_ids = orgs_with_usage(conn, way)?;
    let mut run = DryRun { way: way.clone(), orgs: org_ids.len() as i64, charges: Vec::new(), more: false };
    for org_id in org_ids {
        let org = directory.find(conn, org_id)?;
        let found = match MeterPlan::new(&realm, way, now) {
            Some(plan) => dry_buckets(conn, &plan, &org)?,
            None => dry_lines(conn, &realm, way, &org, now)?,
        };
        run.charges.extend(found);
        if run.charges.len() > SHOWN {
            run.charges.truncate(SHOWN);
            run.more = true;
            break;
        }
    }
    Ok(run)
}

fn orgs_with_usage(conn: &mut PgConnection, way: &MeterWay) -> QueryResult<BTreeSet<i64>> {
    #[derive(QueryableByName)]
    struct Org {
        #[diesel(sql_type = BigInt)]
        org_id: i64,
    }
    let rows: Vec<Org> = diesel::sql_query(
        "SELECT DISTINCT org_id FROM usage_records WHERE meter_id = $1 AND occurred_at >= $2",
    )
    .bind::<Integer, _>(way.meter_id)
    .bind::<Timestamptz, _>(way.since)
    .load(conn)?;
    Ok(rows.into_iter().map(|row| row.org_id).collect())
}

/// The buckets of an org as they would be planned.
fn dry_buckets(
    conn: &mut PgConnection,
    plan: &MeterPlan<'_>,
    org: &OrgContext,
) -> Result<Vec<DryCharge>, Error> {
    let starts = plan.changed(conn)?.remove(&org.org_id).unwrap_or_default();
    let mut rows = Vec::new();
    let planned = conn.transaction(|conn| {
        rows = plan.plan_org(conn, org.org_id, &starts)?;
        // Nothing of it stays.
        Err::<(), Error>(Error::Database(diesel::result::Error::RollbackTransaction))
    });
    match planned {
        Err(Error::Database(diesel::result::Error::RollbackTransaction)) | Ok(()) => {}
        Err(error) => return Err(error),
    }
    let rows = rows.into_iter().filter(|row| !row.bucket.quantity.is_zero());
    Ok(rows
        .map(|row| DryCharge {
            org: org.public_id.to_string(),
            customer: row.customer,
            period_start: row.bucket.start,
            period_end: row.bucket.end,
            quantity: Quantity(row.bucket.quantity.normalize()),
            value: row.bucket.sending.map(|value| Quantity(value.normalize())),
            currency: None,
            amount: None,
            reason: row.reason,
        })
        .collect())
}

/// The lines of an org's running period.
fn dry_lines(
    conn: &mut PgConnection,
    realm: &Realm,
    way: &MeterWay,
    org: &Arc<OrgContext>,
    now: At,
) -> Result<Vec<DryCharge>, Error> {
    let customer = facts::customers(conn, realm, &[org.org_id])?.remove(&org.org_id);
    let customer = customer.unwrap_or(Err(facts::NO_CUSTOMER));
    let period = org.periods.at(now);
    let currency = match &customer {
        Ok(customer) => currency(conn, realm, customer)?,
        Err(_) => None,
    };
    let (Some(period), Some(currency)) = (period, currency) else {
        let reason = customer.as_ref().err().copied().unwrap_or(facts::NO_SUBSCRIPTION);
        return Ok(vec![DryCharge {
            org: org.public_id.to_string(),
            customer: customer.as_ref().ok().cloned(),
            period_start: way.since,
            period_end: now,
            quantity: Quantity(Decimal::ZERO),
            value: None,
            currency: None,
            amount: None,
            reason: Some(reason.to_owned()),
        }]);
    };
    let lines = frozen::new_lines(conn, org, std::slice::from_ref(way), &[period], &currency)?;
    Ok(lines
        .into_iter()
        .map(|line| DryCharge {
            org: org.public_id.to_string(),
            customer: customer.as_ref().ok().cloned(),
            period_start: line.start,
            period_end: line.end,
            quantity: Quantity(line.usage.quantity.normalize()),
            value: None,
            currency: Some(currency.clone()),
            amount: Some(line.amount),
            reason: None,
        })
        .collect())
}
