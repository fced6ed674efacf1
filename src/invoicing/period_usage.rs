//! What the usage of a period costs by rate cards, and how much of it was not charged yet.
//!
//! Each usage record has its exact cost (`metering/rating.rs`), and a level is priced over the period
//! (`metering/levels/list.rs`). The records of one price are summed up. What was charged of the same period
//! is subtracted: so usage that comes late, or is corrected, is charged later, and nothing is charged
//! twice. Own invoices and charges through Stripe take this rule from here, each with what it charged
//! before.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Jsonb, Nullable, Numeric, Text, Timestamptz};
use rust_decimal::Decimal;
use serde_json::Value;

use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::levels;
use crate::metering::rating::CONDITION;

/// Places of quantities and costs.
const PLACES: u32 = 12;

/// Usage of one price in a period that was not charged yet.
#[derive(Clone, Debug, QueryableByName)]
pub struct UnchargedPrice {
    #[diesel(sql_type = Integer)]
    pub meter_id: i32,
    /// 0: a level, or usage with a price of its own.
    #[diesel(sql_type = Integer)]
    pub rate_card_id: i32,
    /// The place of the rate on the card, from 1; 0: as above.
    #[diesel(sql_type = Integer)]
    pub rate_place: i32,
    /// Key of the meter.
    #[diesel(sql_type = Text)]
    pub meter: String,
    #[diesel(sql_type = Text)]
    pub unit: String,
    #[diesel(sql_type = Nullable<Jsonb>)]
    pub rate: Option<Value>,
    /// Below zero: more was charged than was used.
    #[diesel(sql_type = Numeric)]
    pub quantity: Decimal,
    /// In major units, not rounded.
    #[diesel(sql_type = Numeric)]
    pub cost: Decimal,
}

/// A period in a currency.
#[derive(Clone, Copy, Debug)]
pub struct PeriodUsage<'a> {
    pub org: &'a Arc<OrgContext>,
    pub start: DateTime<Utc>,
    /// Not included.
    pub end: DateTime<Utc>,
    pub currency: &'a str,
}

/// What was charged before: a query of `meter_id, rate_card_id, rate_place, quantity, cost`, summed up by the
/// first three. `$1` is the org, `$2` the start of the period, `$4` the currency, `$5` what does not count
/// (the document that is being made).
#[derive(Clone, Copy, Debug)]
pub struct ChargedBefore<'a> {
    pub sql: &'static str,
    pub except: &'a str,
}

impl PeriodUsage<'_> {
    /// What was used and not charged yet, by meter and price.
    ///
    /// # Errors
    /// The database fails, or a level is too large to be exact.
    pub fn uncharged(
        &self,
        conn: &mut PgConnection,
        charged: ChargedBefore<'_>,
    ) -> Result<Vec<UnchargedPrice>, Error> {
        let mut found = self.records(conn, charged)?;
        found.extend(self.levels(conn, charged)?);
        found.retain(|usage| !usage.cost.is_zero() || !usage.quantity.is_zero());
        Ok(found)
    }

    fn records(
        &self,
        conn: &mut PgConnection,
        charged: ChargedBefore<'_>,
    ) -> Result<Vec<UnchargedPrice>, Error> {
        let before = charged.sql;
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
             charged AS (
                SELECT b.* FROM ({before}) b JOIN meters m USING (meter_id) WHERE m.aggregation <> 'level')
             SELECT meter_id, rate_card_id, rate_place, m.key AS meter, m.unit,
                 (SELECT c.rates -> (rate_place - 1) FROM rate_cards c
                  WHERE c.rate_card_id = coalesce(p.rate_card_id, d.rate_card_id)) AS rate,
                 round(coalesce(p.quantity, 0) - coalesce(d.quantity, 0), {PLACES}) AS quantity,
                 round(coalesce(p.cost, 0) - coalesce(d.cost, 0), {PLACES}) AS cost
             FROM priced p FULL JOIN charged d USING (meter_id, rate_card_id, rate_place)
             JOIN meters m USING (meter_id)
             ORDER BY m.key, rate_card_id, rate_place"
        ))
        .bind::<BigInt, _>(self.org.org_id)
        .bind::<Timestamptz, _>(self.start)
        .bind::<Timestamptz, _>(self.end)
        .bind::<Text, _>(self.currency)
        .bind::<Text, _>(charged.except)
        .load(conn)?;
        Ok(found)
    }

    /// Levels cost what their average or peak over the period costs.
    fn levels(
        &self,
        conn: &mut PgConnection,
        charged: ChargedBefore<'_>,
    ) -> Result<Vec<UnchargedPrice>, Error> {
        let mut by_meter: BTreeMap<String, (Decimal, Decimal)> = BTreeMap::new();
        for cost in levels::costs(conn, self.org, (self.start, self.end))? {
            if cost.currency == self.currency {
                let sums = by_meter.entry(cost.meter).or_default();
                sums.0 += cost.quantity;
                sums.1 += cost.cost;
            }
        }
        let before = charged.sql;
        let mut found = Vec::new();
        for (meter, (quantity, cost)) in by_meter {
            let usage: UnchargedPrice = diesel::sql_query(format!(
                "SELECT m.meter_id, 0 AS rate_card_id, 0 AS rate_place, m.key AS meter, m.unit,
                     NULL::jsonb AS rate, $6 - coalesce(sum(b.quantity), 0) AS quantity,
                     $7 - coalesce(sum(b.cost), 0) AS cost
                 FROM meters m LEFT JOIN ({before}) b ON b.meter_id = m.meter_id
                 WHERE m.key = $3 GROUP BY 1, 4, 5"
            ))
            .bind::<BigInt, _>(self.org.org_id)
            .bind::<Timestamptz, _>(self.start)
            .bind::<Text, _>(&meter)
            .bind::<Text, _>(self.currency)
            .bind::<Text, _>(charged.except)
            .bind::<Numeric, _>(quantity.round_dp(PLACES))
            .bind::<Numeric, _>(cost.round_dp(PLACES))
            .get_result(conn)?;
            found.push(usage);
        }
        Ok(found)
    }
}

impl UnchargedPrice {
    /// Quantity, price and base quantity of a line: the price of the rate where quantity × price is the cost;
    /// else (tiers, several prices) the cost as the price of the whole quantity. A price is never below 0:
    /// the quantity has the sign.
    #[must_use]
    pub fn price(&self) -> (Decimal, Decimal, Decimal) {
        let (quantity, cost) = (self.quantity.normalize(), self.cost.normalize());
        let unit_cost = self.rate.as_ref().and_then(|rate| rate.get("unit_cost")).and_then(Value::as_str);
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
            (
                if cost.is_sign_negative() { Decimal::NEGATIVE_ONE } else { Decimal::ONE },
                cost.abs(),
                Decimal::ONE,
            )
        }
    }
}
