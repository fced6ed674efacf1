//! Usage that is on no invoice, because it lies in no period that is charged: before the first subscription
//! of an org, after the end of one, or without any. It has a cost, so somebody should decide: begin a
//! subscription, or add an item to the next invoice. A trial is free, so its usage is not among it.
//!
//! Levels are not among it: they have no cost until the end of their period.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Numeric, Text, Timestamptz};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::quantity::Quantity;

/// Days that are looked through: a quarter, so that the query stays small.
pub const DAYS: i64 = 92;

/// Usage of an org that is on no invoice.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct UnchargedUsage {
    /// Public id of the org.
    pub org: String,
    /// Currency of the cost; null: the meter says none.
    pub currency: Option<String>,
    /// How many events.
    pub events: i64,
    /// What they cost, in major units, not rounded.
    #[schema(value_type = String)]
    pub cost: Quantity,
    /// When the first one occurred.
    pub first_at: DateTime<Utc>,
    /// When the last one occurred.
    pub last_at: DateTime<Utc>,
}

/// The place of a row in the list: org and currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnchargedPosition {
    org: String,
    currency: String,
}

impl UnchargedUsage {
    /// Its place in the list.
    #[must_use]
    pub fn position(&self) -> UnchargedPosition {
        UnchargedPosition { org: self.org.clone(), currency: self.currency.clone().unwrap_or_default() }
    }
}

#[derive(QueryableByName)]
struct UnchargedRow {
    #[diesel(sql_type = Text)]
    org: String,
    #[diesel(sql_type = Text)]
    currency: String,
    #[diesel(sql_type = BigInt)]
    events: i64,
    #[diesel(sql_type = Numeric)]
    cost: Decimal,
    #[diesel(sql_type = Timestamptz)]
    first_at: DateTime<Utc>,
    #[diesel(sql_type = Timestamptz)]
    last_at: DateTime<Utc>,
}

/// SQL: the times that no subscription of an org with a billing profile covers.
const OWN: &str = "
    SELECT b.org_id, NULL::integer AS meter_id, u.free
    FROM billing_profiles b
    CROSS JOIN LATERAL (SELECT coalesce(range_agg(c.covered), '{}'::tstzmultirange) AS covered
        FROM local_subscriptions l
        CROSS JOIN LATERAL (SELECT coalesce(l.ended_at, l.valid_until + CASE WHEN l.cancel_at_period_end
            THEN interval '0' ELSE make_interval(days => l.grace_days) END) AS over_at) e
        CROSS JOIN LATERAL (VALUES
            (tstzrange(l.created_at, greatest(l.created_at, least(l.trial_end, e.over_at)))),
            (CASE WHEN l.valid_until > coalesce(l.trial_end, l.created_at)
                THEN tstzrange(l.period_start, greatest(l.period_start, e.over_at)) END)) c (covered)
        WHERE l.org_id = b.org_id AND c.covered IS NOT NULL AND (l.trial_end IS NOT NULL
            OR lower(c.covered) = l.period_start)) t
    CROSS JOIN LATERAL unnest(tstzmultirange(tstzrange($1, $2)) - t.covered) AS u (free)
    WHERE $3 IS NULL OR b.org_id = $3";

/// SQL: the times that no subscription at Stripe covers, of orgs with a customer there, for meters that are
/// charged there by invoice items. (Charges by Stripe's meters wait visibly themselves.)
const STRIPE: &str = "
    SELECT k.org_id, w.meter_id, u.free
    FROM stripe_meters w
    JOIN (SELECT DISTINCT n.org_id, l.account
        FROM org_refs n JOIN stripe_customer_links l USING (ref)
        WHERE $3 IS NULL OR n.org_id = $3) k USING (account)
    CROSS JOIN LATERAL (SELECT coalesce(range_agg(c.covered), '{}'::tstzmultirange) AS covered
        FROM org_refs n JOIN stripe_customer_links l USING (ref)
        JOIN subscriptions s
            ON (s.account, s.livemode, s.customer_id) = (l.account, l.livemode, l.customer_id)
        CROSS JOIN LATERAL (SELECT coalesce(s.start_date, s.created) AS began) b
        CROSS JOIN LATERAL (SELECT CASE WHEN s.ended_at IS NULL THEN tstzrange(b.began, NULL)
            ELSE tstzrange(b.began, greatest(b.began, s.ended_at)) END AS covered) c
        WHERE n.org_id = k.org_id AND l.account = w.account AND b.began IS NOT NULL
            AND s.status NOT IN ('incomplete', 'incomplete_expired')) t
    CROSS JOIN LATERAL (SELECT tstzrange(greatest($1, w.since), least($2, w.until)) AS whole
        WHERE greatest($1, w.since) < least($2, w.until)) d
    CROSS JOIN LATERAL unnest(tstzmultirange(d.whole) - t.covered) AS u (free)
    WHERE w.way = 'invoice_items' AND NOT w.discarded
        AND NOT EXISTS (SELECT FROM billing_profiles b WHERE b.org_id = k.org_id)";

/// Usage with a cost in the last [`DAYS`] days that lies in no charged period, of orgs with a billing
/// profile, and of orgs that Stripe charges by invoice items; by org and currency, at most `limit` rows.
/// `org_id`: only of this one. Only the times that no subscription covers are read.
///
/// # Errors
/// When the database fails.
pub fn list(
    conn: &mut PgConnection,
    org_id: Option<i64>,
    after: Option<&UnchargedPosition>,
    limit: i64,
    now: DateTime<Utc>,
) -> QueryResult<Vec<UnchargedUsage>> {
    let rows: Vec<UnchargedRow> = diesel::sql_query(format!(
        "WITH free AS ({OWN} UNION ALL {STRIPE})
         SELECT o.public_id AS org, coalesce(s.currency, m.currency, '') AS currency,
             count(DISTINCT r.event_key) AS events, sum(r.cost) AS cost, min(r.occurred_at) AS first_at,
             max(r.occurred_at) AS last_at
         FROM free f
         JOIN orgs o USING (org_id)
         JOIN usage_records r ON r.org_id = f.org_id AND r.occurred_at >= lower(f.free)
             AND r.occurred_at < upper(f.free) AND r.cost <> 0
             AND (f.meter_id IS NULL OR r.meter_id = f.meter_id)
         JOIN usage_series s ON s.org_id = r.org_id AND s.series_id = r.series_id
         JOIN meters m ON m.meter_id = r.meter_id
         WHERE o.archived_at IS NULL AND o.erased_at IS NULL
             AND (o.public_id, coalesce(s.currency, m.currency, '')) > ($4, $5)
         GROUP BY 1, 2 HAVING sum(r.cost) <> 0 ORDER BY 1, 2 LIMIT $6",
    ))
    .bind::<Timestamptz, _>(now - TimeDelta::days(DAYS))
    .bind::<Timestamptz, _>(now)
    .bind::<Nullable<BigInt>, _>(org_id)
    .bind::<Text, _>(after.map_or("", |after| after.org.as_str()))
    .bind::<Text, _>(after.map_or("", |after| after.currency.as_str()))
    .bind::<BigInt, _>(limit)
    .load(conn)?;
    let shown = |row: UnchargedRow| UnchargedUsage {
        org: row.org,
        currency: Some(row.currency).filter(|currency| !currency.is_empty()),
        events: row.events,
        cost: Quantity(row.cost.normalize()),
        first_at: row.first_at,
        last_at: row.last_at,
    };
    Ok(rows.into_iter().map(shown).collect())
}
