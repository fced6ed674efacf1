//! Usage that Stripe took and never invoices. A subscription that is canceled at once, without
//! `invoice_now`, gets no further invoice, so Stripe discards what was metered since its last one
//! (<https://docs.stripe.com/billing/subscriptions/cancel>; bencherdev/bencher#951,
//! dj-stripe/dj-stripe#1591).
//!
//! Such buckets fail as `not_invoiced`, and people are told. When they are tried again, their usage moves to
//! the running bucket of the org's next subscription.
//!
//! Facts that the rule looks at: the end of the subscription; its invoices that were made then or later; the
//! billing period in which it ended; other subscriptions of the customer with a price of the meter, whose
//! invoices have the usage.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::Connection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Numeric, Text, Timestamptz};
use rust_decimal::Decimal;

use super::Turn;
use super::facts::has_price_of;
use super::last_usage::LOOK_BACK;
use crate::error::Error;
use crate::realm::Realm;
use crate::stripe::sync::drift::{self, DriftKind, NewDrift};

type At = DateTime<Utc>;

/// Why a bucket fails.
pub(super) const NOT_INVOICED: &str = "not_invoiced";
/// The last invoice of a subscription, and the lines of any, are known so long after the end, even if an
/// event was missed.
pub(super) const TIME_FOR_INVOICE: TimeDelta = TimeDelta::hours(1);

#[derive(QueryableByName)]
struct DiscardedUsage {
    #[diesel(sql_type = Text)]
    subscription_id: String,
    #[diesel(sql_type = Text)]
    meter: String,
    #[diesel(sql_type = BigInt)]
    buckets: i64,
    #[diesel(sql_type = Numeric)]
    quantity: Decimal,
}

impl Turn<'_> {
    /// Marks usage that Stripe discarded, and tells it.
    pub(super) fn find_discarded(&mut self) -> Result<(), Error> {
        let (realm, now) = (self.realm, self.now());
        self.conn.transaction(|conn| {
            let found = mark(conn, realm, now)?;
            let rows: Vec<NewDrift> = found.into_iter().map(DiscardedUsage::difference).collect();
            if rows.is_empty() { Ok(()) } else { drift::write(conn, realm, &rows, now) }
        })
    }
}

impl DiscardedUsage {
    fn difference(self) -> NewDrift {
        NewDrift {
            kind: DriftKind::Usage,
            object: "subscription".to_owned(),
            object_id: self.subscription_id,
            fields: vec!["latest_invoice".to_owned()],
            ours: Some(self.quantity.normalize().to_string()),
            theirs: Some("0".to_owned()),
            detail: format!(
                "the subscription ended without a last invoice, so Stripe charges nothing for {} charge(s) \
                 of the meter {}: try them again when the org has another subscription, or make an invoice",
                self.buckets, self.meter
            ),
            inbox_id: None,
            run_id: None,
        }
    }
}

/// Fails the buckets of ended subscriptions that no invoice has; sums them by subscription and meter.
fn mark(conn: &mut PgConnection, realm: &Realm, now: At) -> QueryResult<Vec<DiscardedUsage>> {
    let has_price = has_price_of("o", "c.stripe_meter_id");
    diesel::sql_query(format!(
        "WITH ended AS (
            SELECT s.id, s.customer_id, s.ended_at,
                coalesce(p.of_usage, p.of_any, s.start_date, s.created) AS since
            FROM subscriptions s
            CROSS JOIN LATERAL (SELECT max(p.period_start) AS of_any,
                    max(p.period_start) FILTER (WHERE r.recurring_usage_type = 'metered') AS of_usage
                FROM subscription_periods p
                LEFT JOIN prices r ON (r.account, r.livemode, r.id) = (p.account, p.livemode, p.price_id)
                WHERE (p.account, p.livemode, p.subscription_id) = (s.account, s.livemode, s.id)
                    AND p.period_start < s.ended_at) p
            WHERE (s.account, s.livemode) = ($1, $2) AND s.status = 'canceled'
                AND s.ended_at > $3 AND s.ended_at <= $4
                AND NOT EXISTS (SELECT FROM invoices i
                    WHERE (i.account, i.livemode, i.subscription_id) = (s.account, s.livemode, s.id)
                        AND NOT i.deleted AND i.created >= s.ended_at - interval '1 minute')),
         discarded AS (
            UPDATE stripe_charges c SET state = 'failed', reason = $5, detail = NULL
            FROM ended e
            WHERE (c.account, c.livemode, c.customer_id) = ($1, $2, e.customer_id)
                AND c.way <> 'invoice_items' AND c.state IN ('waiting', 'sent', 'confirmed')
                AND c.delivered <> 0 AND c.discarded = 0
                AND c.period_start >= e.since AND c.period_start < e.ended_at
                -- Another subscription of the customer has the usage on its invoices.
                AND NOT EXISTS (SELECT FROM subscriptions o
                    WHERE (o.account, o.livemode, o.customer_id) = ($1, $2, e.customer_id) AND o.id <> e.id
                        AND o.status NOT IN ('incomplete', 'incomplete_expired')
                        AND coalesce(o.start_date, o.created) <= c.period_start
                        AND (o.ended_at IS NULL OR o.ended_at > e.ended_at) AND {has_price})
            RETURNING e.id, c.meter_id, c.delivered)
         SELECT d.id AS subscription_id, m.key AS meter, count(*) AS buckets, sum(d.delivered) AS quantity
         FROM discarded d JOIN meters m USING (meter_id)
         GROUP BY 1, 2 ORDER BY 1, 2",
    ))
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Timestamptz, _>(now - LOOK_BACK)
    .bind::<Timestamptz, _>(now - TIME_FOR_INVOICE)
    .bind::<Text, _>(NOT_INVOICED)
    .load(conn)
}
