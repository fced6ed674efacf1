//! Usage lines: what the usage of a period costs by rate cards.
//!
//! Each usage record has its exact cost (`metering/rating.rs`), and a level is priced over the period
//! (`metering/levels/list.rs`). A line sums up the records of one price and is rounded once. What earlier
//! invoices charged of the same period is subtracted: so usage that comes late, or is corrected, becomes a
//! line of the next invoice, and nothing is charged twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Jsonb, Nullable, Numeric, Text, Timestamptz};
use rust_decimal::Decimal;
use serde_json::Value;

use super::amounts::minor_units;
use super::lines::{DraftLine, UsageSource};
use super::tax_rates::TaxRate;
use crate::billing::directory::OrgContext;
use crate::billing::local_subscriptions::SubscriptionPeriod;
use crate::documents::content::LineKind;
use crate::error::Error;
use crate::metering::levels;
use crate::metering::rating::CONDITION;
use crate::money::decimal_places;

/// Places of quantities and costs on lines.
const PLACES: u32 = 12;

/// Usage of one price in a period that no invoice has yet.
#[derive(Clone, Debug, QueryableByName)]
struct UninvoicedUsage {
    #[diesel(sql_type = Integer)]
    meter_id: i32,
    #[diesel(sql_type = Integer)]
    rate_card_id: i32,
    #[diesel(sql_type = Integer)]
    rate_place: i32,
    #[diesel(sql_type = Text)]
    meter: String,
    #[diesel(sql_type = Text)]
    unit: String,
    #[diesel(sql_type = Nullable<Jsonb>)]
    rate: Option<Value>,
    #[diesel(sql_type = Numeric)]
    quantity: Decimal,
    #[diesel(sql_type = Numeric)]
    cost: Decimal,
}

/// The usage lines of a period in a currency. `invoice`: the draft that they are for, whose own lines do not
/// count as invoiced.
pub(super) fn usage_lines(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    (period, currency): (&SubscriptionPeriod, &str),
    invoice: &str,
    tax_rate: &TaxRate,
) -> Result<Vec<DraftLine>, Error> {
    let mut found = uninvoiced_records(conn, org.org_id, (period, currency), invoice)?;
    found.extend(uninvoiced_levels(conn, org, (period, currency), invoice)?);
    let shown = found.into_iter().filter(|usage| !usage.cost.is_zero() || !usage.quantity.is_zero());
    shown.map(|usage| line(usage, period, currency, tax_rate)).collect()
}

fn uninvoiced_records(
    conn: &mut PgConnection,
    org_id: i64,
    (period, currency): (&SubscriptionPeriod, &str),
    invoice: &str,
) -> Result<Vec<UninvoicedUsage>, Error> {
    let found = diesel::sql_query(format!(
        "WITH used AS (
            SELECT r.series_id, r.meter_id, coalesce(r.rate_card_id, 0) AS rate_card_id,
                sum(r.quantity) AS quantity, sum(r.cost) AS cost
            FROM usage_records r
            WHERE r.org_id = $1 AND r.occurred_at >= $2 AND r.occurred_at < $3
                AND (r.rate_card_id IS NOT NULL OR r.cost <> 0)
            GROUP BY 1, 2, 3),
         priced AS (
            SELECT u.meter_id, u.rate_card_id, coalesce(p.place, 0)::integer AS rate_place,
                sum(u.quantity) AS quantity, sum(u.cost) AS cost
            FROM used u
            JOIN usage_series s ON s.org_id = $1 AND s.series_id = u.series_id
            JOIN meters m ON m.meter_id = u.meter_id
            LEFT JOIN rate_cards c ON c.rate_card_id = u.rate_card_id
            LEFT JOIN LATERAL (
                SELECT e.place FROM jsonb_array_elements(c.rates) WITH ORDINALITY e (rate, place)
                WHERE {CONDITION} ORDER BY e.place LIMIT 1) p ON true
            WHERE coalesce(s.currency, m.currency) = $4
            GROUP BY 1, 2, 3),
         invoiced AS (
            SELECT l.meter_id, l.rate_card_id, l.rate_place, sum(l.quantity) AS quantity, sum(l.cost) AS cost
            FROM own_invoice_lines l JOIN own_invoices i USING (org_id, invoice_id)
            JOIN meters m USING (meter_id)
            WHERE l.org_id = $1 AND l.kind = 'usage' AND l.period_start = $2 AND i.currency = $4
                AND m.aggregation <> 'level'
                AND i.finalized_at IS NOT NULL AND i.voided_at IS NULL AND i.invoice_id <> $5
            GROUP BY 1, 2, 3)
         SELECT meter_id, rate_card_id, rate_place, m.key AS meter, m.unit,
             (SELECT c.rates -> (rate_place - 1) FROM rate_cards c
              WHERE c.rate_card_id = coalesce(p.rate_card_id, d.rate_card_id)) AS rate,
             round(coalesce(p.quantity, 0) - coalesce(d.quantity, 0), {PLACES}) AS quantity,
             round(coalesce(p.cost, 0) - coalesce(d.cost, 0), {PLACES}) AS cost
         FROM priced p FULL JOIN invoiced d USING (meter_id, rate_card_id, rate_place)
         JOIN meters m USING (meter_id)
         ORDER BY m.key, rate_card_id, rate_place"
    ))
    .bind::<BigInt, _>(org_id)
    .bind::<Timestamptz, _>(period.start)
    .bind::<Timestamptz, _>(period.end)
    .bind::<Text, _>(currency)
    .bind::<Text, _>(invoice)
    .load(conn)?;
    Ok(found)
}

/// Levels cost what their average or peak over the period costs.
fn uninvoiced_levels(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    (period, currency): (&SubscriptionPeriod, &str),
    invoice: &str,
) -> Result<Vec<UninvoicedUsage>, Error> {
    let mut by_meter: BTreeMap<String, (Decimal, Decimal)> = BTreeMap::new();
    for cost in levels::costs(conn, org, (period.start, period.end))? {
        if cost.currency == currency {
            let sums = by_meter.entry(cost.meter).or_default();
            sums.0 += cost.quantity;
            sums.1 += cost.cost;
        }
    }
    let mut found = Vec::new();
    for (meter, (quantity, cost)) in by_meter {
        let usage: UninvoicedUsage = diesel::sql_query(
            "SELECT m.meter_id, 0 AS rate_card_id, 0 AS rate_place, m.key AS meter, m.unit,
                 NULL::jsonb AS rate, $3 - coalesce(sum(l.quantity), 0) AS quantity,
                 $4 - coalesce(sum(l.cost), 0) AS cost
             FROM meters m
             LEFT JOIN (own_invoice_lines l JOIN own_invoices i ON i.org_id = l.org_id
                     AND i.invoice_id = l.invoice_id AND i.finalized_at IS NOT NULL AND i.voided_at IS NULL
                     AND i.invoice_id <> $6 AND i.currency = $7)
                 ON l.org_id = $1 AND l.kind = 'usage' AND l.period_start = $5 AND l.meter_id = m.meter_id
             WHERE m.key = $2 GROUP BY 1, 4, 5",
        )
        .bind::<BigInt, _>(org.org_id)
        .bind::<Text, _>(&meter)
        .bind::<Numeric, _>(quantity.round_dp(PLACES))
        .bind::<Numeric, _>(cost.round_dp(PLACES))
        .bind::<Timestamptz, _>(period.start)
        .bind::<Text, _>(invoice)
        .bind::<Text, _>(currency)
        .get_result(conn)?;
        found.push(usage);
    }
    Ok(found)
}

fn line(
    usage: UninvoicedUsage,
    period: &SubscriptionPeriod,
    currency: &str,
    tax_rate: &TaxRate,
) -> Result<DraftLine, Error> {
    let amount = minor_units(usage.cost, decimal_places(currency))?;
    let (quantity, unit_price, base_quantity) = price_of(&usage);
    Ok(DraftLine {
        kind: LineKind::Usage,
        description: usage.meter,
        quantity,
        unit: Some(usage.unit).filter(|unit| !unit.is_empty()),
        unit_price,
        base_quantity,
        amount,
        tax_rate: tax_rate.clone(),
        plan: None,
        from: Some(period.start),
        to: Some(period.end),
        usage: Some(UsageSource {
            meter_id: usage.meter_id,
            rate_card_id: usage.rate_card_id,
            rate_place: usage.rate_place,
            cost: usage.cost.normalize(),
        }),
    })
}

/// Quantity, price and base quantity of a line: the price of the rate where quantity × price is the cost;
/// else (tiers, several prices) the cost as the price of the whole quantity. A price is never below 0: the
/// quantity has the sign.
fn price_of(usage: &UninvoicedUsage) -> (Decimal, Decimal, Decimal) {
    let (quantity, cost) = (usage.quantity.normalize(), usage.cost.normalize());
    let unit_cost = usage.rate.as_ref().and_then(|rate| rate.get("unit_cost")).and_then(Value::as_str);
    let unit_cost: Option<Decimal> = unit_cost.and_then(|text| text.parse().ok());
    if let Some(price) = unit_cost.map(|price| price.normalize())
        && quantity.checked_mul(price).is_some_and(|product| product == cost)
    {
        let million = Decimal::from(1_000_000);
        return match price.scale() {
            0..=4 => (quantity, price, Decimal::ONE),
            _ => (quantity, (price * million).normalize(), million),
        };
    }
    let has_same_sign = !quantity.is_zero() && quantity.is_sign_negative() == cost.is_sign_negative();
    if has_same_sign || (cost.is_zero() && !quantity.is_zero()) {
        (quantity, cost.abs(), quantity.abs())
    } else {
        (if cost.is_sign_negative() { Decimal::NEGATIVE_ONE } else { Decimal::ONE }, cost.abs(), Decimal::ONE)
    }
}

/// The currencies, apart from `main`, in which the org's usage of a period costs something.
pub(super) fn currencies(
    conn: &mut PgConnection,
    org_id: i64,
    period: &SubscriptionPeriod,
    main: &str,
) -> QueryResult<Vec<String>> {
    #[derive(QueryableByName)]
    struct CurrencyRow {
        #[diesel(sql_type = Text)]
        currency: String,
    }
    let rows: Vec<CurrencyRow> = diesel::sql_query(
        "SELECT DISTINCT coalesce(s.currency, m.currency) AS currency
         FROM usage_series s JOIN meters m USING (meter_id)
         WHERE s.org_id = $1 AND coalesce(s.currency, m.currency) <> $4
             AND EXISTS (SELECT FROM usage_records r
                 WHERE r.org_id = $1 AND r.occurred_at >= $2 AND r.occurred_at < $3
                     AND r.series_id = s.series_id AND r.cost <> 0)
         ORDER BY 1",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Timestamptz, _>(period.start)
    .bind::<Timestamptz, _>(period.end)
    .bind::<Text, _>(main)
    .load(conn)?;
    Ok(rows.into_iter().map(|row| row.currency).collect())
}

/// Why usage of a period cannot be invoiced yet, as a code: it has no price, or its price no currency.
pub(super) fn unpriced(
    conn: &mut PgConnection,
    org_id: i64,
    period: &SubscriptionPeriod,
) -> QueryResult<Option<&'static str>> {
    #[derive(QueryableByName)]
    struct Found {
        #[diesel(sql_type = Bool)]
        unpriced: bool,
        #[diesel(sql_type = Bool)]
        without_currency: bool,
    }
    let found: Found = diesel::sql_query(
        "SELECT EXISTS (SELECT FROM usage_records r
                 WHERE r.org_id = $1 AND r.occurred_at >= $2 AND r.occurred_at < $3 AND r.pricing = 2
                 GROUP BY r.event_key, r.meter_id HAVING sum(r.quantity) <> 0) AS unpriced,
             EXISTS (SELECT FROM usage_records r
                 WHERE r.org_id = $1 AND r.occurred_at >= $2 AND r.occurred_at < $3 AND r.pricing = 1
                     AND r.cost <> 0
                     AND NOT EXISTS (SELECT FROM rate_cards c WHERE c.meter_id = r.meter_id)
                 GROUP BY r.event_key, r.meter_id HAVING sum(r.cost) <> 0) AS without_currency",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Timestamptz, _>(period.start)
    .bind::<Timestamptz, _>(period.end)
    .get_result(conn)?;
    Ok(match found {
        Found { unpriced: true, .. } => Some("usage_unpriced"),
        Found { without_currency: true, .. } => Some("usage_without_currency"),
        _ => None,
    })
}
