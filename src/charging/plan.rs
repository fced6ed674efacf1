//! Plans buckets: what our books say of each hour or day, and what of it is to be sent. Everything is
//! committed before it is sent.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::Connection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Integer, Nullable, Numeric, Text, Timestamptz};
use rust_decimal::Decimal;

use super::Turn;
use super::buckets::{self, Bucket, OLDEST, Step, cut, window_of};
use super::charges::{self, BucketRow, ChargeState};
use super::facts::{self, CustomerTimes, NO_PRICE};
use super::stripe_meter::{StripeMeter, Window};
use super::ways::{self, MeterWay, Way};
use crate::error::Error;
use crate::realm::Realm;

type At = DateTime<Utc>;

/// A scan looks again at usage that came so long before the last one: its transaction may have committed
/// later. Of that, only buckets whose quantity is no longer that of our books are planned again.
const OVERLAP: TimeDelta = TimeDelta::minutes(10);
/// How long events about periods may come late.
const NEWS: TimeDelta = TimeDelta::days(3);
/// Below zero: what is below is taken off what is used later.
const BELOW_ZERO: &str = "below_zero";
/// The running bucket itself takes nothing: the next one does.
const NEXT_BUCKET: &str = "next_bucket";
/// There is no next bucket.
const WAY_REMOVED: &str = "way_removed";

/// What is known of an org beside its usage.
struct OrgFacts {
    customer: Result<String, &'static str>,
    times: CustomerTimes,
    /// Starts of windows that have another org's totals of the customer.
    taken: BTreeSet<At>,
}

/// A meter's buckets in an account.
pub(super) struct MeterPlan<'a> {
    pub(super) realm: &'a Realm,
    pub(super) way: &'a MeterWay,
    pub(super) at_stripe: &'a StripeMeter,
    pub(super) window: Window,
    pub(super) now: At,
}

impl<'a> MeterPlan<'a> {
    /// `None`: the meter does not go into a meter at Stripe.
    pub(super) fn new(realm: &'a Realm, way: &'a MeterWay, now: At) -> Option<Self> {
        let at_stripe = way.stripe_meter.as_ref()?;
        let window = at_stripe.window();
        Some(Self { realm, way, at_stripe, window, now })
    }
}

impl Turn<'_> {
    /// Plans the buckets of usage that came, or whose circumstances changed, since the last scan.
    pub(super) fn plan(&mut self) -> Result<(), Error> {
        let now = self.now();
        // Usage that is older than Stripe takes would have no bucket to move to.
        let takes = |way: &&MeterWay| !way.is_discarded && way.until.is_none_or(|until| until > now - OLDEST);
        for way in ways::all(self.conn)?.iter().filter(|way| way.account == self.realm.account).filter(takes)
        {
            let now = self.now();
            let Some(plan) = MeterPlan::new(self.realm, way, now) else { continue };
            for (org_id, starts) in plan.changed(self.conn)? {
                if (self.is_stopped)() {
                    return Ok(());
                }
                self.conn.transaction(|conn| plan.plan_org(conn, org_id, &starts))?;
            }
            ways::note_scan(self.conn, way, now)?;
        }
        Ok(())
    }
}

#[derive(QueryableByName)]
struct ChangedRow {
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[diesel(sql_type = Timestamptz)]
    at: At,
}

impl MeterPlan<'_> {
    /// Instants in the windows that are to be planned, by org: usage came there, its bucket waits, or a
    /// billing period begins or ends inside its bucket.
    pub(super) fn changed(&self, conn: &mut PgConnection) -> QueryResult<BTreeMap<i64, BTreeSet<At>>> {
        let scanned = self.way.scanned_until.unwrap_or(DateTime::UNIX_EPOCH);
        let since = scanned - OVERLAP;
        let came = self.came(conn, since, scanned)?;
        let waiting: Vec<ChangedRow> = diesel::sql_query(
            "SELECT c.org_id, c.period_start AS at FROM stripe_charges c
             WHERE c.meter_id = $1 AND c.state = 'waiting' AND c.way = $2 AND c.stripe_meter_id = $3
                 AND (c.account, c.livemode) = ($4, $5) AND c.period_start < coalesce($6, 'infinity')",
        )
        .bind::<Integer, _>(self.way.meter_id)
        .bind::<Text, _>(self.way.way.name())
        .bind::<Text, _>(&self.at_stripe.id)
        .bind::<Text, _>(&self.realm.account)
        .bind::<Bool, _>(self.realm.livemode)
        .bind::<Nullable<Timestamptz>, _>(self.way.until)
        .load(conn)?;
        let mut changed: BTreeMap<i64, BTreeSet<At>> = BTreeMap::new();
        for row in came.into_iter().chain(waiting).chain(self.cut_later(conn, since)?) {
            changed.entry(row.org_id).or_default().insert(row.at);
        }
        Ok(changed)
    }

    /// Windows of usage that came since the last scan, and of usage that came in the overlap and is in no
    /// bucket yet.
    fn came(&self, conn: &mut PgConnection, since: At, scanned: At) -> QueryResult<Vec<ChangedRow>> {
        diesel::sql_query(
            "WITH came AS (
                SELECT r.org_id, to_timestamp(floor(extract(epoch FROM r.occurred_at) / $4) * $4) AS at,
                    bool_or(r.received_at >= $5) AS is_new
                FROM usage_records r
                WHERE r.meter_id = $1 AND r.occurred_at >= $2 AND r.received_at >= $3
                    AND r.occurred_at < coalesce($10, 'infinity')
                GROUP BY 1, 2)
             SELECT c.org_id, c.at FROM came c
             WHERE c.is_new OR EXISTS (
                SELECT FROM usage_records r
                LEFT JOIN stripe_charges s ON s.org_id = c.org_id AND s.meter_id = $1 AND s.way = $6
                    AND (s.account, s.livemode, s.stripe_meter_id) = ($7, $8, $9)
                    AND s.period_start >= c.at AND s.period_start <= r.occurred_at
                    AND s.period_end > r.occurred_at
                WHERE r.org_id = c.org_id AND r.meter_id = $1
                    AND r.occurred_at >= greatest(c.at, $2)
                    AND r.occurred_at < least(c.at + make_interval(secs => $4), $10)
                GROUP BY s.charge_id, s.quantity
                HAVING sum(r.quantity) IS DISTINCT FROM s.quantity)",
        )
        .bind::<Integer, _>(self.way.meter_id)
        .bind::<Timestamptz, _>(self.way.since)
        .bind::<Timestamptz, _>(since)
        .bind::<BigInt, _>(self.window.seconds())
        .bind::<Timestamptz, _>(scanned)
        .bind::<Text, _>(self.way.way.name())
        .bind::<Text, _>(&self.realm.account)
        .bind::<Bool, _>(self.realm.livemode)
        .bind::<Text, _>(&self.at_stripe.id)
        .bind::<Nullable<Timestamptz>, _>(self.way.until)
        .load(conn)
    }

    /// Buckets inside which a period begins or ends, as events told after the bucket was planned.
    fn cut_later(&self, conn: &mut PgConnection, since: At) -> QueryResult<Vec<ChangedRow>> {
        diesel::sql_query(
            "WITH news AS (
                SELECT s.customer_id, e.at
                FROM subscription_periods p JOIN subscriptions s
                    ON (s.account, s.livemode, s.id) = (p.account, p.livemode, p.subscription_id)
                CROSS JOIN LATERAL (VALUES (p.period_start), (p.period_end)) e (at)
                WHERE (p.account, p.livemode) = ($4, $5) AND p.shown_at >= $6
                UNION
                SELECT s.customer_id, s.ended_at FROM subscriptions s
                WHERE (s.account, s.livemode) = ($4, $5) AND s.ended_at >= $6)
             SELECT c.org_id, c.period_start AS at
             FROM stripe_charges c JOIN news n ON n.customer_id = c.customer_id
                 AND n.at > c.period_start AND n.at < c.period_end
             WHERE c.meter_id = $1 AND c.way = $2 AND c.stripe_meter_id = $3
                 AND (c.account, c.livemode) = ($4, $5)",
        )
        .bind::<Integer, _>(self.way.meter_id)
        .bind::<Text, _>(self.way.way.name())
        .bind::<Text, _>(&self.at_stripe.id)
        .bind::<Text, _>(&self.realm.account)
        .bind::<Bool, _>(self.realm.livemode)
        .bind::<Timestamptz, _>(since - NEWS)
        .load(conn)
    }

    /// Plans the windows of an org that contain these instants. Belongs in a transaction.
    pub(super) fn plan_org(
        &self,
        conn: &mut PgConnection,
        org_id: i64,
        instants: &BTreeSet<At>,
    ) -> Result<Vec<BucketRow>, Error> {
        let customer = facts::customers(conn, self.realm, &[org_id])?.remove(&org_id);
        let customer = customer.unwrap_or(Err(facts::NO_CUSTOMER));
        let times = match &customer {
            Ok(customer) => CustomerTimes::read(conn, self.realm, customer, Some(&self.at_stripe.id))?,
            Err(_) => CustomerTimes::default(),
        };
        let mut windows: BTreeSet<(At, At)> = instants.iter().map(|at| window_of(*at, self.window)).collect();
        // What moves, moves into the running bucket.
        windows.insert(window_of(self.now, self.window));
        let mut rows = self.with_books(conn, org_id, &windows, &times)?;
        let taken = self.taken(conn, org_id, customer.as_deref().ok(), &windows)?;
        let facts = OrgFacts { customer, times, taken };
        let running = rows.iter().position(|row| row.bucket.start <= self.now && self.now < row.bucket.end);
        for n in 0..rows.len() {
            self.decide(&mut rows, n, running, &facts);
        }
        // The running bucket comes last: now it has all that moved into it.
        if let Some(running) = running {
            self.decide(&mut rows, running, None, &facts);
        }
        charges::write_buckets(conn, self, org_id, &rows)?;
        Ok(rows)
    }

    /// The buckets of these windows with the quantities of our books.
    fn with_books(
        &self,
        conn: &mut PgConnection,
        org_id: i64,
        windows: &BTreeSet<(At, At)>,
        times: &CustomerTimes,
    ) -> Result<Vec<BucketRow>, Error> {
        let known = charges::buckets(conn, self, org_id, windows)?;
        let known_starts: Vec<At> = known.keys().copied().collect();
        let (since, until) = (self.way.since, self.way.until);
        let spans: Vec<(At, At)> = windows
            .iter()
            .flat_map(|window| {
                // A bucket that was sent keeps its start.
                let own = [Some(since), until].into_iter().flatten();
                cut(*window, times.edges().chain(known_starts.iter().copied()).chain(own))
            })
            .filter(|(start, _)| *start >= since && until.is_none_or(|until| *start < until))
            .collect();
        let sums = self.sums(conn, org_id, &spans)?;
        let mut known = known;
        Ok(spans
            .iter()
            .zip(sums)
            .map(|((start, end), quantity)| {
                let mut row =
                    known.remove(start).unwrap_or_else(|| BucketRow::new(self.way.way, *start, *end));
                row.bucket.end = *end;
                row.bucket.quantity = quantity;
                row
            })
            .collect())
    }

    fn taken(
        &self,
        conn: &mut PgConnection,
        org_id: i64,
        customer: Option<&str>,
        windows: &BTreeSet<(At, At)>,
    ) -> QueryResult<BTreeSet<At>> {
        match (customer, windows.first(), windows.last()) {
            (Some(customer), Some(first), Some(last)) if self.way.way == Way::Totals => {
                let of_meter = (self.at_stripe.id.as_str(), self.window);
                facts::taken_windows(conn, self.realm, of_meter, (org_id, customer), (first.0, last.1))
            }
            _ => Ok(BTreeSet::new()),
        }
    }

    fn sums(&self, conn: &mut PgConnection, org_id: i64, spans: &[(At, At)]) -> QueryResult<Vec<Decimal>> {
        #[derive(QueryableByName)]
        struct Total {
            #[diesel(sql_type = Numeric)]
            quantity: Decimal,
        }
        let rows: Vec<Total> = diesel::sql_query(
            "SELECT trim_scale(coalesce(sum(r.quantity), 0)) AS quantity
             FROM unnest($3, $4) WITH ORDINALITY AS b (from_at, to_at, n)
             LEFT JOIN usage_records r ON r.org_id = $1 AND r.meter_id = $2
                 AND r.occurred_at >= b.from_at AND r.occurred_at < b.to_at
             GROUP BY b.n ORDER BY b.n",
        )
        .bind::<BigInt, _>(org_id)
        .bind::<Integer, _>(self.way.meter_id)
        .bind::<Array<Timestamptz>, _>(spans.iter().map(|span| span.0).collect::<Vec<_>>())
        .bind::<Array<Timestamptz>, _>(spans.iter().map(|span| span.1).collect::<Vec<_>>())
        .load(conn)?;
        Ok(rows.into_iter().map(|row| row.quantity).collect())
    }

    /// Decides about one bucket. `running`: the bucket that takes what moves.
    fn decide(&self, rows: &mut [BucketRow], n: usize, running: Option<usize>, facts: &OrgFacts) {
        let row = &rows[n];
        // Somebody must look at it first: `retry` makes it wait again.
        if row.state == ChargeState::Failed {
            return;
        }
        let times = &facts.times;
        let start = row.bucket.start;
        if row.bucket.value().is_zero() && !row.is_begun() {
            return rows[n].done();
        }
        // What was sent belongs to the customer that it was sent for.
        let customer = match (&row.customer, &facts.customer) {
            (Some(customer), _) if row.is_begun() => customer.clone(),
            (_, Ok(customer)) => customer.clone(),
            (_, Err(reason)) => return rows[n].wait(reason),
        };
        rows[n].customer = Some(customer);
        let is_begun = rows[n].is_begun();
        let is_taken = !is_begun && facts.taken.contains(&window_of(start, self.window).0);
        let is_charged = is_taken || times.is_charged(start, self.now) || start <= self.now - OLDEST;
        // A price that is gone charges nothing more in its period, either.
        let counts = |lack: &&str| !is_begun || *lack == NO_PRICE && !is_charged;
        if let Some(lack) = times.lack(start).filter(counts) {
            return rows[n].lacks(lack);
        }
        // A second look: after a move, what is left may be sent.
        for _ in 0..2 {
            match rows[n].bucket.step(is_charged) {
                Step::Unanswered => return,
                Step::Done => return rows[n].done(),
                Step::Send(number) => return rows[n].send(number),
                Step::Move(number) => match running.filter(|running| *running != n) {
                    Some(running) => {
                        if let Some(lack) = times.lack(self.now) {
                            return rows[n].wait(lack);
                        }
                        rows[n].bucket.moved += number;
                        rows[n].is_changed = true;
                        rows[running].bucket.carried += number;
                        rows[running].is_changed = true;
                    }
                    // The next bucket takes it.
                    None if is_charged => {
                        let is_over = self.way.until.is_some();
                        return rows[n].wait(if is_over { WAY_REMOVED } else { NEXT_BUCKET });
                    }
                    None => return self.below_zero(&mut rows[n]),
                },
            }
        }
    }

    /// The running bucket is below zero: Stripe gets 0, the rest waits for later usage.
    fn below_zero(&self, row: &mut BucketRow) {
        let is_sent = row.bucket.way == Way::Deltas || row.bucket.delivered.is_zero();
        if is_sent {
            row.wait(BELOW_ZERO);
        } else {
            row.send(Decimal::ZERO);
        }
    }

    /// The identifier of a bucket's events, without the sequence.
    pub(super) fn identifier(&self, org_id: i64, customer: &str, start: At) -> String {
        buckets::identifier(self.realm, customer, &self.at_stripe.event_name, org_id, start)
    }
}

impl BucketRow {
    fn new(way: Way, start: At, end: At) -> Self {
        let zero = Decimal::ZERO;
        let bucket = Bucket {
            way,
            start,
            end,
            quantity: zero,
            moved: zero,
            carried: zero,
            delivered: zero,
            discarded: zero,
            sending: None,
            is_tried: false,
        };
        Self::of(bucket)
    }
}
