//! Facts of Stripe's side about an org: which customer is charged, and when its billing periods begin and
//! end.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Nullable, Text, Timestamptz};

use super::buckets::{GRACE, window_of};
use super::stripe_meter::Window;
use crate::realm::Realm;

type At = DateTime<Utc>;

/// Why usage waits, as codes.
pub(super) const NO_CUSTOMER: &str = "no_customer";
pub(super) const SEVERAL_CUSTOMERS: &str = "several_customers";
pub(super) const NO_SUBSCRIPTION: &str = "no_subscription";
pub(super) const NO_PRICE: &str = "no_price";

#[derive(QueryableByName)]
struct CustomerRow {
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[diesel(sql_type = Text)]
    customer_id: String,
    #[diesel(sql_type = Bool)]
    lives: bool,
    #[diesel(sql_type = Bool)]
    subscribed: bool,
}

/// The customer that each org is charged as, or why there is none, as a code.
///
/// Of several customers of an org the only one with a running subscription is charged, else the only one that
/// ever had a subscription: the others were linked and never billed.
pub(super) fn customers(
    conn: &mut PgConnection,
    realm: &Realm,
    org_ids: &[i64],
) -> QueryResult<BTreeMap<i64, Result<String, &'static str>>> {
    let rows: Vec<CustomerRow> = diesel::sql_query(
        "SELECT r.org_id, l.customer_id,
             bool_or(s.id IS NOT NULL AND s.status NOT IN ('canceled', 'incomplete', 'incomplete_expired'))
                 AS lives,
             bool_or(s.id IS NOT NULL AND s.status NOT IN ('incomplete', 'incomplete_expired')) AS subscribed
         FROM org_refs r
         JOIN stripe_customer_links l ON l.ref = r.ref
         LEFT JOIN customers c ON (c.account, c.livemode, c.id) = (l.account, l.livemode, l.customer_id)
         LEFT JOIN subscriptions s
             ON (s.account, s.livemode, s.customer_id) = (l.account, l.livemode, l.customer_id)
         WHERE r.org_id = ANY ($1) AND (l.account, l.livemode) = ($2, $3) AND NOT coalesce(c.deleted, false)
         GROUP BY 1, 2 ORDER BY 1, 2",
    )
    .bind::<Array<BigInt>, _>(org_ids)
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .load(conn)?;
    let mut by_org: BTreeMap<i64, Vec<CustomerRow>> = org_ids.iter().map(|id| (*id, Vec::new())).collect();
    for row in rows {
        by_org.entry(row.org_id).or_default().push(row);
    }
    Ok(by_org.into_iter().map(|(org_id, rows)| (org_id, chosen(&rows))).collect())
}

fn chosen(rows: &[CustomerRow]) -> Result<String, &'static str> {
    let classes: [fn(&&CustomerRow) -> bool; 3] = [|row| row.lives, |row| row.subscribed, |_| true];
    for is_in in classes {
        let found: Vec<&CustomerRow> = rows.iter().filter(is_in).collect();
        match found.as_slice() {
            [] => {}
            [only] => return Ok(only.customer_id.clone()),
            _ => return Err(SEVERAL_CUSTOMERS),
        }
    }
    Err(NO_CUSTOMER)
}

/// Starts of windows in which totals of another org were sent for a customer: it was linked to that org
/// before. A second total would overwrite the first one.
pub(super) fn taken_windows(
    conn: &mut PgConnection,
    realm: &Realm,
    (stripe_meter, window): (&str, Window),
    (org_id, customer): (i64, &str),
    (from, until): (At, At),
) -> QueryResult<BTreeSet<At>> {
    #[derive(QueryableByName)]
    struct Taken {
        #[diesel(sql_type = Timestamptz)]
        period_start: At,
    }
    let rows: Vec<Taken> = diesel::sql_query(
        "SELECT DISTINCT c.period_start FROM stripe_charges c
         WHERE c.customer_id = $3 AND c.period_start >= $6 AND c.period_start < $7
             AND (c.account, c.livemode) = ($1, $2) AND c.stripe_meter_id = $4 AND c.org_id <> $5
             AND c.way = 'totals' AND (c.sent_at IS NOT NULL OR c.tried_at IS NOT NULL)",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Text, _>(customer)
    .bind::<Text, _>(stripe_meter)
    .bind::<BigInt, _>(org_id)
    .bind::<Timestamptz, _>(from)
    .bind::<Timestamptz, _>(until)
    .load(conn)?;
    Ok(rows.into_iter().map(|row| window_of(row.period_start, window).0).collect())
}

/// SQL: whether a subscription has a price that charges usage of a meter at Stripe. Both are SQL; a null
/// meter stands for any. Items, prices and meters of prices that are not known may be those.
pub(super) fn has_price_of(subscription: &str, meter: &str) -> String {
    let (items, is_of_meter) = items_of(subscription, meter);
    format!("coalesce((SELECT bool_or({is_of_meter}) {items}), true)")
}

/// SQL: since when a subscription has had such a price; null: it has none. A price that is added later
/// charges usage from then on
/// (<https://docs.stripe.com/billing/subscriptions/usage-based/manage-billing-setup>). The first items are
/// made with the subscription, and charge from its start, also of one that is backdated.
fn priced_since(subscription: &str, meter: &str) -> String {
    let (items, is_of_meter) = items_of(subscription, meter);
    let started = format!("coalesce({subscription}.start_date, {subscription}.created)");
    format!(
        "(SELECT CASE WHEN count(*) = 0 THEN {started} ELSE min(
                CASE WHEN t.created > {subscription}.created + interval '1 minute' THEN t.created
                    ELSE {started} END) FILTER (WHERE {is_of_meter}) END
            {items})"
    )
}

/// SQL: the items of a subscription, and whether one of them has a price of the meter.
fn items_of(subscription: &str, meter: &str) -> (String, String) {
    let is_of_meter = format!(
        "(coalesce(t.usage_type, r.recurring_usage_type, 'metered') = 'metered'
            AND ({meter} IS NULL OR coalesce(t.stripe_meter_id, r.stripe_meter_id, {meter}) = {meter}))"
    );
    let items = format!(
        "FROM subscription_items t LEFT JOIN prices r
            ON (r.account, r.livemode, r.id) = (t.account, t.livemode, t.price_id)
        WHERE (t.account, t.livemode, t.subscription_id)
            = ({subscription}.account, {subscription}.livemode, {subscription}.id)"
    );
    (items, is_of_meter)
}

/// When a customer's subscriptions ran, and their billing periods.
#[derive(Clone, Debug, Default)]
pub(super) struct CustomerTimes {
    /// Start and end of each subscription that ran (`None`: it runs), with the time since which it has a
    /// price of the usage (`None`: it has none).
    runs: Vec<(At, Option<At>, Option<At>)>,
    /// Billing periods that Stripe showed, with whether their invoice is finalised. Those of prices of the
    /// usage, where there are any: items of one subscription may have periods of their own.
    periods: Vec<(At, At, bool)>,
}

#[derive(QueryableByName)]
struct SpanRow {
    #[diesel(sql_type = Timestamptz)]
    start: At,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    end: Option<At>,
    #[diesel(sql_type = Nullable<Bool>)]
    invoiced: Option<bool>,
    #[diesel(sql_type = Bool)]
    metered: bool,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    priced_since: Option<At>,
}

impl CustomerTimes {
    /// Reads them from the mirrors, for usage of a meter at Stripe. `None`: Stripe does not sum the usage,
    /// it gets items.
    pub(super) fn read(
        conn: &mut PgConnection,
        realm: &Realm,
        customer: &str,
        meter: Option<&str>,
    ) -> QueryResult<Self> {
        let priced_since = priced_since("s", "$4");
        let rows: Vec<SpanRow> = diesel::sql_query(format!(
            r#"WITH mine AS (
                SELECT s.account, s.livemode, s.id, coalesce(s.start_date, s.created) AS started, s.ended_at,
                    {priced_since} AS priced_since
                FROM subscriptions s
                WHERE (s.account, s.livemode, s.customer_id) = ($1, $2, $3)
                    AND s.status NOT IN ('incomplete', 'incomplete_expired'))
             SELECT started AS start, ended_at AS "end", NULL::boolean AS invoiced, false AS metered,
                 priced_since
             FROM mine
             WHERE started IS NOT NULL
             UNION ALL
             SELECT p.period_start, least(p.period_end, m.ended_at),
                 EXISTS (SELECT FROM invoices i
                     WHERE (i.account, i.livemode, i.subscription_id) = (m.account, m.livemode, m.id)
                         AND i.finalized_at IS NOT NULL AND i.billing_reason = 'subscription_cycle'
                         AND i.period_end = p.period_end),
                 coalesce(r.recurring_usage_type = 'metered', false)
                     AND ($4 IS NULL OR coalesce(r.stripe_meter_id, $4) = $4),
                 NULL
             FROM mine m JOIN subscription_periods p
                 ON (p.account, p.livemode, p.subscription_id) = (m.account, m.livemode, m.id)
             LEFT JOIN prices r ON (r.account, r.livemode, r.id) = (p.account, p.livemode, p.price_id)
             WHERE m.ended_at IS NULL OR p.period_start < m.ended_at"#,
        ))
        .bind::<Text, _>(&realm.account)
        .bind::<Bool, _>(realm.livemode)
        .bind::<Text, _>(customer)
        .bind::<Nullable<Text>, _>(meter)
        .load(conn)?;
        let mut times = Self::default();
        let is_period = |row: &SpanRow| row.invoiced.is_some();
        let any_metered = rows.iter().any(|row| is_period(row) && row.metered);
        for row in rows {
            match (row.invoiced, row.end) {
                (Some(_), _) if any_metered && !row.metered => {}
                (Some(invoiced), Some(end)) => times.periods.push((row.start, end, invoiced)),
                (_, end) => times.runs.push((row.start, end, row.priced_since)),
            }
        }
        Ok(times)
    }

    /// Every instant at which a period or a subscription begins or ends, or a price begins.
    pub(super) fn edges(&self) -> impl Iterator<Item = At> + '_ {
        let runs = self.runs.iter().flat_map(|(start, end, since)| [Some(*start), *end, *since]).flatten();
        runs.chain(self.periods.iter().flat_map(|(start, end, _)| [*start, *end]))
    }

    /// Whether a subscription ran at an instant.
    pub(super) fn covers(&self, at: At) -> bool {
        self.runs_at(at).next().is_some()
    }

    /// Why Stripe would charge no usage of an instant; `None`: it charges it.
    pub(super) fn lack(&self, at: At) -> Option<&'static str> {
        if self.runs_at(at).any(|since| since.is_some_and(|since| since <= at)) {
            None
        } else if self.covers(at) {
            Some(NO_PRICE)
        } else {
            Some(NO_SUBSCRIPTION)
        }
    }

    /// Since when each subscription that ran at an instant has a price of the usage.
    fn runs_at(&self, at: At) -> impl Iterator<Item = Option<At>> + '_ {
        let runs = self.runs.iter();
        let ran = runs.filter(move |(start, end, _)| *start <= at && end.is_none_or(|end| at < end));
        ran.map(|(_, _, since)| *since)
    }

    /// Whether the invoice of the period that contains an instant is finalised, or will be before an event
    /// that is sent now counts. Then usage of it is charged later.
    pub(super) fn is_charged(&self, at: At, now: At) -> bool {
        let contains = |(start, end, _): &&(At, At, bool)| *start <= at && at < *end;
        self.periods.iter().filter(contains).any(|(_, end, invoiced)| *invoiced || *end + GRACE <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> At {
        format!("2026-{text}:00Z").parse().expect("a time")
    }

    fn customer(id: &str, lives: bool, subscribed: bool) -> CustomerRow {
        CustomerRow { org_id: 1, customer_id: id.to_owned(), lives, subscribed }
    }

    #[test]
    fn the_customer_with_the_running_subscription_is_charged() {
        for (rows, expected) in [
            (vec![], Err(NO_CUSTOMER)),
            (vec![customer("a", false, false)], Ok("a")),
            (vec![customer("a", false, false), customer("b", false, true)], Ok("b")),
            (vec![customer("a", true, true), customer("b", false, true)], Ok("a")),
            (vec![customer("a", true, true), customer("b", true, true)], Err(SEVERAL_CUSTOMERS)),
            (vec![customer("a", false, false), customer("b", false, false)], Err(SEVERAL_CUSTOMERS)),
        ] {
            assert_eq!(chosen(&rows).as_deref(), expected.as_deref());
        }
    }

    #[test]
    fn a_period_takes_usage_until_its_invoice_is_final() {
        let periods = vec![
            (at("10-01T00:00"), at("11-01T00:00"), false),
            (at("11-01T00:00"), at("12-01T00:00"), false),
        ];
        let start = at("10-01T00:00");
        let runs = vec![(start, Some(at("11-20T00:00")), Some(start))];
        let times = CustomerTimes { runs, periods };
        for (usage, now, charged) in [
            ("10-31T23:00", "10-31T23:30", false),
            ("10-31T23:00", "11-01T00:54", false),
            ("10-31T23:00", "11-01T00:55", true),
            ("11-01T00:00", "11-01T00:55", false),
            // No period is known: nothing is charged.
            ("09-30T00:00", "11-01T00:55", false),
        ] {
            assert_eq!(times.is_charged(at(usage), at(now)), charged, "{usage} {now}");
        }
        let invoiced = CustomerTimes { periods: vec![(at("10-01T00:00"), at("11-01T00:00"), true)], ..times };
        assert!(invoiced.is_charged(at("10-31T23:00"), at("11-01T00:01")));
        for (usage, covered) in
            [("09-30T23:59", false), ("10-01T00:00", true), ("11-19T23:59", true), ("11-20T00:00", false)]
        {
            assert_eq!(invoiced.covers(at(usage)), covered, "{usage}");
        }
    }
}
