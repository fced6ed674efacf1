//! Charges for people: lists, counts, and what is tried again.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Nullable, Numeric, Text, Timestamptz};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ChargeState;
use crate::error::Error;
use crate::metering::meters;
use crate::quantity::Quantity;

/// A charge of usage through Stripe.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Charge {
    /// `chg_…`
    pub id: String,
    /// Public id of the org.
    pub org: String,
    /// Key of the meter.
    pub meter: String,
    /// `totals`, `deltas` or `invoice_items`.
    pub way: String,
    /// `waiting`, `planned`, `sent`, `confirmed` or `failed`.
    pub state: String,
    /// Why it waits or failed, as a code of ours or Stripe's.
    pub reason: Option<String>,
    /// Stripe's sentence.
    pub detail: Option<String>,
    /// `acct_…` of a connected account; empty: our own.
    pub account: String,
    /// Stripe's customer; null: not known yet.
    pub customer: Option<String>,
    /// Start of the bucket, or of the billing period of a line.
    pub period_start: DateTime<Utc>,
    /// Its end, not included.
    pub period_end: DateTime<Utc>,
    /// What our books say.
    #[schema(value_type = String)]
    pub quantity: Quantity,
    /// What of it a later bucket charges.
    #[schema(value_type = String)]
    pub moved: Quantity,
    /// What it charges for earlier buckets.
    #[schema(value_type = String)]
    pub carried: Quantity,
    /// What Stripe took of a bucket.
    #[schema(value_type = String)]
    pub delivered: Quantity,
    /// What of it Stripe never invoices: a subscription ended without a last invoice.
    #[schema(value_type = String)]
    pub discarded: Quantity,
    /// The total or delta that is sent now.
    #[schema(value_type = Option<String>)]
    pub sending: Option<Quantity>,
    /// How often a total or delta of the bucket was planned.
    pub sequence: i32,
    /// Of a line: its currency.
    pub currency: Option<String>,
    /// Of a line: minor units.
    pub amount: Option<i64>,
    /// Of a line: the invoice; null: the customer's next one.
    pub invoice: Option<String>,
    /// Of a line: the invoice item (`ii_…`).
    pub invoice_item: Option<String>,
    /// When it was planned.
    pub planned_at: DateTime<Utc>,
    /// When Stripe took it.
    pub sent_at: Option<DateTime<Utc>>,
    /// When Stripe's sums or lines agreed.
    pub confirmed_at: Option<DateTime<Utc>>,
    #[serde(skip)]
    position: ChargePosition,
}

impl Charge {
    /// Its place in the list.
    #[must_use]
    pub fn position(&self) -> ChargePosition {
        self.position.clone()
    }
}

/// The place of a charge in the list: the newest period first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargePosition {
    start: DateTime<Utc>,
    id: String,
}

/// Narrows the list.
#[derive(Clone, Debug, Default)]
pub struct ChargeFilter {
    pub org_id: Option<i64>,
    pub state: Option<ChargeState>,
    /// Key of a meter.
    pub meter: Option<String>,
}

#[derive(QueryableByName)]
struct ChargeRow {
    #[diesel(sql_type = Text)]
    charge_id: String,
    #[diesel(sql_type = Text)]
    org: String,
    #[diesel(sql_type = Text)]
    meter: String,
    #[diesel(sql_type = Text)]
    way: String,
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = Nullable<Text>)]
    reason: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    detail: Option<String>,
    #[diesel(sql_type = Text)]
    account: String,
    #[diesel(sql_type = Nullable<Text>)]
    customer_id: Option<String>,
    #[diesel(sql_type = Timestamptz)]
    period_start: DateTime<Utc>,
    #[diesel(sql_type = Timestamptz)]
    period_end: DateTime<Utc>,
    #[diesel(sql_type = Numeric)]
    quantity: Decimal,
    #[diesel(sql_type = Numeric)]
    moved: Decimal,
    #[diesel(sql_type = Numeric)]
    carried: Decimal,
    #[diesel(sql_type = Numeric)]
    delivered: Decimal,
    #[diesel(sql_type = Numeric)]
    discarded: Decimal,
    #[diesel(sql_type = Nullable<Numeric>)]
    sending: Option<Decimal>,
    #[diesel(sql_type = Integer)]
    sequence: i32,
    #[diesel(sql_type = Text)]
    currency: String,
    #[diesel(sql_type = Nullable<BigInt>)]
    amount: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    invoice_id: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    item_id: Option<String>,
    #[diesel(sql_type = Timestamptz)]
    planned_at: DateTime<Utc>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    sent_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    confirmed_at: Option<DateTime<Utc>>,
}

impl ChargeRow {
    fn shown(self) -> Charge {
        let number = |number: Decimal| Quantity(number.normalize());
        Charge {
            position: ChargePosition { start: self.period_start, id: self.charge_id.clone() },
            id: self.charge_id,
            org: self.org,
            meter: self.meter,
            way: self.way,
            state: self.state,
            reason: self.reason,
            detail: self.detail,
            account: self.account,
            customer: self.customer_id,
            period_start: self.period_start,
            period_end: self.period_end,
            quantity: number(self.quantity),
            moved: number(self.moved),
            carried: number(self.carried),
            delivered: number(self.delivered),
            discarded: number(self.discarded),
            sending: self.sending.map(number),
            sequence: self.sequence,
            currency: Some(self.currency).filter(|currency| !currency.is_empty()),
            amount: self.amount,
            invoice: self.invoice_id,
            invoice_item: self.item_id,
            planned_at: self.planned_at,
            sent_at: self.sent_at,
            confirmed_at: self.confirmed_at,
        }
    }
}

/// Charges, the newest period first, at most `limit`.
///
/// # Errors
/// [`Error::NotFound`] for a meter that does not exist: an empty list would look like a meter whose usage
/// needs no charge.
pub fn list(
    conn: &mut PgConnection,
    filter: &ChargeFilter,
    after: Option<&ChargePosition>,
    limit: i64,
) -> Result<Vec<Charge>, Error> {
    if let Some(meter) = &filter.meter {
        meters::find(conn, meter)?;
    }
    let rows: Vec<ChargeRow> = diesel::sql_query(
        "SELECT c.*, o.public_id AS org, m.key AS meter
         FROM stripe_charges c JOIN orgs o USING (org_id) JOIN meters m USING (meter_id)
         WHERE ($1 IS NULL OR c.org_id = $1) AND ($2 IS NULL OR c.state = $2) AND ($3 IS NULL OR m.key = $3)
             AND ($4 IS NULL OR (c.period_start, c.charge_id) < ($4, $5))
         ORDER BY c.period_start DESC, c.charge_id DESC LIMIT $6",
    )
    .bind::<Nullable<BigInt>, _>(filter.org_id)
    .bind::<Nullable<Text>, _>(filter.state.map(ChargeState::name))
    .bind::<Nullable<Text>, _>(filter.meter.as_deref())
    .bind::<Nullable<Timestamptz>, _>(after.map(|after| after.start))
    .bind::<Nullable<Text>, _>(after.map(|after| after.id.as_str()))
    .bind::<BigInt, _>(limit)
    .load(conn)?;
    Ok(rows.into_iter().map(ChargeRow::shown).collect())
}

/// How many charges are not confirmed, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, QueryableByName)]
pub struct StateCounts {
    #[diesel(sql_type = BigInt)]
    pub waiting: i64,
    #[diesel(sql_type = BigInt)]
    pub planned: i64,
    #[diesel(sql_type = BigInt)]
    pub sent: i64,
    #[diesel(sql_type = BigInt)]
    pub failed: i64,
    /// Age in seconds of the oldest planned one; 0: there is none.
    #[diesel(sql_type = BigInt)]
    pub oldest_s: i64,
}

/// Counts the charges that are not confirmed.
///
/// # Errors
/// When the database fails.
pub fn counts(conn: &mut PgConnection, now: DateTime<Utc>) -> QueryResult<StateCounts> {
    diesel::sql_query(
        "SELECT count(*) FILTER (WHERE state = 'waiting') AS waiting,
             count(*) FILTER (WHERE state = 'planned') AS planned,
             count(*) FILTER (WHERE state = 'sent') AS sent,
             count(*) FILTER (WHERE state = 'failed') AS failed,
             greatest(coalesce(extract(epoch FROM $1 - min(planned_at) FILTER (WHERE state = 'planned')),
                 0), 0)::bigint AS oldest_s
         FROM stripe_charges WHERE state <> 'confirmed'",
    )
    .bind::<Timestamptz, _>(now)
    .get_result(conn)
}

/// What is tried again: a bucket is decided anew, under the next sequence; a line is looked for, then sent
/// again. What Stripe did not invoice is discarded there, so it moves to the running bucket.
const RETRY: &str = "UPDATE stripe_charges
    SET discarded = CASE WHEN reason = 'not_invoiced' THEN delivered ELSE discarded END,
        state = CASE WHEN way = 'invoice_items' THEN 'planned' ELSE 'waiting' END,
        reason = 'retry', detail = NULL, sending = NULL, attempts = 0, next_attempt_at = $1,
        tried_at = CASE WHEN way = 'invoice_items' THEN tried_at END,
        sequence = CASE WHEN way = 'invoice_items' THEN sequence + 1 ELSE sequence END
    WHERE state = 'failed'";

/// Has a failed charge tried again. Returns the row id of its org.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] when it did not fail.
pub fn retry(conn: &mut PgConnection, charge_id: &str, now: DateTime<Utc>) -> Result<i64, Error> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = BigInt)]
        org_id: i64,
    }
    let found: Option<Found> = diesel::sql_query("SELECT org_id FROM stripe_charges WHERE charge_id = $1")
        .bind::<Text, _>(charge_id)
        .get_result(conn)
        .optional()?;
    let org_id = found.ok_or(Error::NotFound("charge"))?.org_id;
    let retried = diesel::sql_query(format!("{RETRY} AND org_id = $2 AND charge_id = $3"))
        .bind::<Timestamptz, _>(now)
        .bind::<BigInt, _>(org_id)
        .bind::<Text, _>(charge_id)
        .execute(conn)?;
    if retried == 0 {
        return Err(Error::conflict("charge_not_failed", "only a failed charge can be tried again"));
    }
    Ok(org_id)
}

/// Has all failed charges tried again; returns how many.
///
/// # Errors
/// When the database fails.
pub fn retry_all(conn: &mut PgConnection, now: DateTime<Utc>) -> QueryResult<usize> {
    diesel::sql_query(RETRY).bind::<Timestamptz, _>(now).execute(conn)
}
