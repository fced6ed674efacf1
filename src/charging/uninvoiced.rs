//! Usage that Stripe took, and that the final invoice of its period does not have.
//!
//! A price can be taken off a subscription within a period, or exchanged for another one. In the billing mode
//! `classic` it then charges nothing of the period. In `flexible` Stripe makes an invoice item for its usage,
//! unless the change has no proration. A price that is added charges usage from then on
//! (<https://docs.stripe.com/billing/subscriptions/usage-based/manage-billing-setup>).
//!
//! If no line has usage of the meter, the buckets of the period fail as `not_invoiced`, and their usage moves
//! when they are tried again. If lines have a part of it, nobody knows of which buckets: people are told both
//! figures.
//!
//! Facts that the rule looks at: final invoices of cycles; the billing periods of metered prices that ended
//! with them; the lines of these periods on any invoice of the customer, with their prices; what Stripe took;
//! trials, which are free; other subscriptions of the customer with a price of the meter.

use chrono::{DateTime, Utc};
use diesel::Connection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Numeric, Text, Timestamptz};
use rust_decimal::Decimal;

use super::Turn;
use super::discarded::{NOT_INVOICED, TIME_FOR_INVOICE};
use super::facts::has_price_of;
use super::last_usage::LOOK_BACK;
use crate::error::Error;
use crate::realm::Realm;
use crate::stripe::sync::drift::{self, DriftKind, NewDrift};

type At = DateTime<Utc>;

/// Usage of a period that its invoice lacks.
#[derive(QueryableByName)]
struct LackingUsage {
    #[diesel(sql_type = Text)]
    invoice_id: String,
    #[diesel(sql_type = Text)]
    customer_id: String,
    #[diesel(sql_type = Integer)]
    meter_id: i32,
    #[diesel(sql_type = Text)]
    meter: String,
    #[diesel(sql_type = Text)]
    stripe_meter_id: String,
    #[diesel(sql_type = Timestamptz)]
    since: At,
    #[diesel(sql_type = Timestamptz)]
    until: At,
    /// What Stripe took.
    #[diesel(sql_type = Numeric)]
    taken: Decimal,
    /// What the lines have; `lines`: how many.
    #[diesel(sql_type = Numeric)]
    invoiced: Decimal,
    #[diesel(sql_type = BigInt)]
    lines: i64,
}

impl Turn<'_> {
    /// Marks usage that the invoice of its period lacks, and tells it.
    pub(super) fn find_uninvoiced(&mut self) -> Result<(), Error> {
        let (realm, now) = (self.realm, self.now());
        self.conn.transaction(|conn| {
            let found = find(conn, realm, now)?;
            for one in found.iter().filter(|one| one.lines == 0) {
                mark(conn, realm, one)?;
            }
            let rows: Vec<NewDrift> = found.into_iter().map(LackingUsage::difference).collect();
            if rows.is_empty() { Ok(()) } else { drift::write(conn, realm, &rows, now) }
        })
    }
}

impl LackingUsage {
    fn difference(self) -> NewDrift {
        let what = if self.lines == 0 {
            "no line has this usage: try its charges again to charge it later"
        } else {
            "its lines have only a part: the price was changed or added within the period, so make an \
             invoice item for the rest"
        };
        NewDrift {
            kind: DriftKind::Usage,
            object: "invoice".to_owned(),
            object_id: self.invoice_id,
            fields: vec!["lines".to_owned(), self.meter.clone()],
            ours: Some(self.taken.normalize().to_string()),
            theirs: Some(self.invoiced.normalize().to_string()),
            detail: format!(
                "the invoice is final, and of what Stripe took of the meter {}, {what}",
                self.meter
            ),
            inbox_id: None,
            run_id: None,
        }
    }
}

/// Usage that final invoices lack by more than rounding: a line has whole units, or whole packages.
fn find(conn: &mut PgConnection, realm: &Realm, now: At) -> QueryResult<Vec<LackingUsage>> {
    let other_has_price = has_price_of("o", "r.stripe_meter_id");
    diesel::sql_query(format!(
        "WITH ended AS (
            SELECT i.id AS invoice_id, s.customer_id, r.stripe_meter_id, i.period_end AS until,
                min(p.period_start) AS since
            FROM invoices i
            JOIN subscriptions s
                ON (s.account, s.livemode, s.id) = (i.account, i.livemode, i.subscription_id)
            JOIN subscription_periods p
                ON (p.account, p.livemode, p.subscription_id) = (s.account, s.livemode, s.id)
                AND p.period_end = i.period_end
            JOIN prices r ON (r.account, r.livemode, r.id) = (p.account, p.livemode, p.price_id)
            WHERE (i.account, i.livemode) = ($1, $2) AND i.billing_reason = 'subscription_cycle'
                AND i.status IN ('open', 'paid', 'uncollectible') AND NOT i.deleted AND i.lines_complete
                AND i.finalized_at > $3 AND i.finalized_at <= $4
                AND r.recurring_usage_type = 'metered' AND r.stripe_meter_id IS NOT NULL
                AND (s.trial_end IS NULL OR s.trial_end <= p.period_start)
                AND NOT EXISTS (SELECT FROM subscriptions o
                    WHERE (o.account, o.livemode, o.customer_id) = ($1, $2, s.customer_id) AND o.id <> s.id
                        AND o.status NOT IN ('incomplete', 'incomplete_expired')
                        AND coalesce(o.start_date, o.created) < i.period_end
                        AND (o.ended_at IS NULL OR o.ended_at > p.period_start) AND {other_has_price})
            GROUP BY 1, 2, 3, 4),
         taken AS (
            SELECT e.*, c.meter_id, sum(c.delivered - c.discarded) AS taken
            FROM ended e
            JOIN stripe_charges c ON (c.account, c.livemode, c.customer_id) = ($1, $2, e.customer_id)
                AND c.stripe_meter_id = e.stripe_meter_id
                AND c.period_start >= e.since AND c.period_start < e.until
            WHERE c.way <> 'invoice_items' AND c.state IN ('waiting', 'sent', 'confirmed')
            GROUP BY 1, 2, 3, 4, 5, 6)
         SELECT t.*, m.key AS meter, l.invoiced, l.lines
         FROM taken t
         JOIN meters m USING (meter_id)
         CROSS JOIN LATERAL (
            SELECT coalesce(sum(l.quantity * coalesce(r.transform_divide_by, 1)), 0) AS invoiced,
                count(*) AS lines, coalesce(max(r.transform_divide_by), 1) AS package,
                -- A line whose price is not known may have it.
                coalesce(bool_and(r.recurring_usage_type IS NOT NULL AND r.stripe_meter_id IS NOT NULL
                    AND l.quantity IS NOT NULL), true) AS is_known
            FROM invoices j
            JOIN invoice_lines l ON (l.account, l.livemode, l.invoice_id) = (j.account, j.livemode, j.id)
            LEFT JOIN prices r ON (r.account, r.livemode, r.id) = (l.account, l.livemode, l.price_id)
            WHERE (j.account, j.livemode, j.customer_id) = ($1, $2, t.customer_id)
                AND NOT j.deleted AND j.status <> 'void' AND l.price_id IS NOT NULL
                AND l.period_start < t.until AND l.period_end > t.since
                AND coalesce(r.recurring_usage_type, l.usage_type, 'metered') = 'metered'
                AND coalesce(r.stripe_meter_id, t.stripe_meter_id) = t.stripe_meter_id) l
         WHERE l.is_known
            AND t.taken - l.invoiced > CASE l.lines WHEN 0 THEN 0 ELSE l.lines * l.package END
            AND NOT EXISTS (SELECT FROM stripe_drift d
                WHERE (d.account, d.livemode, d.kind, d.object, d.object_id)
                        = ($1, $2, 'usage', 'invoice', t.invoice_id)
                    AND d.fields = ARRAY['lines', m.key] AND d.ours::numeric = t.taken)
         ORDER BY t.invoice_id, m.key",
    ))
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Timestamptz, _>(now - LOOK_BACK)
    .bind::<Timestamptz, _>(now - TIME_FOR_INVOICE)
    .load(conn)
}

/// Fails the buckets of a period that no line has.
fn mark(conn: &mut PgConnection, realm: &Realm, lacking: &LackingUsage) -> QueryResult<()> {
    diesel::sql_query(
        "UPDATE stripe_charges SET state = 'failed', reason = $8, detail = NULL
         WHERE (account, livemode, customer_id) = ($1, $2, $3) AND meter_id = $4 AND stripe_meter_id = $5
             AND period_start >= $6 AND period_start < $7 AND way <> 'invoice_items'
             AND state IN ('waiting', 'sent', 'confirmed') AND delivered <> 0 AND discarded = 0",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Text, _>(&lacking.customer_id)
    .bind::<Integer, _>(lacking.meter_id)
    .bind::<Text, _>(&lacking.stripe_meter_id)
    .bind::<Timestamptz, _>(lacking.since)
    .bind::<Timestamptz, _>(lacking.until)
    .bind::<Text, _>(NOT_INVOICED)
    .execute(conn)?;
    Ok(())
}
