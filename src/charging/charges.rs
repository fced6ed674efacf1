//! What is charged: buckets of usage and lines of periods. Owns `stripe_charges`.

mod list;
pub mod staying;
mod stripe_sums;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Numeric, SmallInt, Text, Timestamptz};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::list::{Charge, ChargeFilter, ChargePosition, StateCounts, counts, list, retry, retry_all};
pub(super) use self::stripe_sums::{OfOtherOrgs, SentBucket, of_other_orgs, sent_buckets};
use super::buckets::{Bucket, Step};
use super::plan::MeterPlan;
use super::ways::Way;
use crate::error::Error;
use crate::ids;
use crate::realm::Realm;

type At = DateTime<Utc>;

/// The state of a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum ChargeState {
    /// Something is missing; `reason` says what.
    Waiting,
    /// It is stored, and sent next.
    Planned,
    /// Stripe took it.
    Sent,
    /// Stripe's own sums or final lines agree.
    Confirmed,
    /// Stripe refused it; `reason` and `detail` say why.
    Failed,
}

impl ChargeState {
    pub(super) const ALL: [Self; 5] =
        [Self::Waiting, Self::Planned, Self::Sent, Self::Confirmed, Self::Failed];

    /// Its name in the database and on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Planned => "planned",
            Self::Sent => "sent",
            Self::Confirmed => "confirmed",
            Self::Failed => "failed",
        }
    }

    /// The state with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// A row of a bucket.
#[derive(Clone, Debug)]
pub(super) struct BucketRow {
    /// Empty: it is not stored yet.
    pub(super) charge_id: String,
    pub(super) customer: Option<String>,
    pub(super) bucket: Bucket,
    pub(super) sequence: i32,
    pub(super) state: ChargeState,
    pub(super) reason: Option<String>,
    pub(super) sent_at: Option<At>,
    pub(super) is_changed: bool,
    /// As stored, to see whether it changed.
    before: Option<(At, Decimal)>,
}

impl BucketRow {
    /// A new row.
    pub(super) fn of(bucket: Bucket) -> Self {
        Self {
            charge_id: String::new(),
            customer: None,
            bucket,
            sequence: 0,
            state: ChargeState::Waiting,
            reason: None,
            sent_at: None,
            is_changed: false,
            before: None,
        }
    }

    /// Whether anything of it may be at Stripe.
    pub(super) fn is_begun(&self) -> bool {
        self.sent_at.is_some() || self.bucket.is_tried
    }

    pub(super) fn wait(&mut self, reason: &str) {
        self.bucket.sending = None;
        self.become_state(ChargeState::Waiting, Some(reason));
    }

    /// Nothing more is sent of it, because a fact is missing. What Stripe has stays, and an unanswered event
    /// is found out first.
    pub(super) fn lacks(&mut self, reason: &str) {
        match self.bucket.step(false) {
            Step::Unanswered => {}
            Step::Done if self.is_begun() => self.done(),
            Step::Done | Step::Send(_) | Step::Move(_) => self.wait(reason),
        }
    }

    /// Stripe has what it is to have.
    pub(super) fn done(&mut self) {
        self.bucket.sending = None;
        match self.state {
            ChargeState::Waiting | ChargeState::Planned if self.sent_at.is_some() => {
                self.become_state(ChargeState::Sent, None);
            }
            ChargeState::Waiting | ChargeState::Planned => {
                self.become_state(ChargeState::Confirmed, Some("nothing_to_send"));
            }
            ChargeState::Sent | ChargeState::Confirmed | ChargeState::Failed => {}
        }
    }

    /// Plans a total or delta. One that was never tried is replaced; else the next sequence begins.
    pub(super) fn send(&mut self, number: Decimal) {
        if self.state == ChargeState::Planned && self.bucket.sending == Some(number) {
            return;
        }
        if self.bucket.sending.is_none() {
            self.sequence += 1;
        }
        self.bucket.sending = Some(number);
        self.bucket.is_tried = false;
        self.become_state(ChargeState::Planned, None);
        self.is_changed = true;
    }

    fn become_state(&mut self, state: ChargeState, reason: Option<&str>) {
        if self.state != state || self.reason.as_deref() != reason {
            self.is_changed = true;
        }
        (self.state, self.reason) = (state, reason.map(str::to_owned));
    }

    /// Whether it is to be written: it changed, or it is new and not empty.
    fn is_to_write(&self) -> bool {
        let is_empty = self.bucket.quantity.is_zero() && self.bucket.carried.is_zero();
        match self.before {
            None => !is_empty || self.bucket.sending.is_some(),
            Some(before) => self.is_changed || before != (self.bucket.end, self.bucket.quantity),
        }
    }
}

#[derive(QueryableByName)]
struct StoredBucket {
    #[diesel(sql_type = Text)]
    charge_id: String,
    #[diesel(sql_type = Nullable<Text>)]
    customer_id: Option<String>,
    #[diesel(sql_type = Timestamptz)]
    period_start: At,
    #[diesel(sql_type = Timestamptz)]
    period_end: At,
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
    state: String,
    #[diesel(sql_type = Nullable<Text>)]
    reason: Option<String>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    tried_at: Option<At>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    sent_at: Option<At>,
}

/// The stored buckets that begin in these windows, by start, locked.
pub(super) fn buckets(
    conn: &mut PgConnection,
    plan: &MeterPlan<'_>,
    org_id: i64,
    windows: &BTreeSet<(At, At)>,
) -> Result<BTreeMap<At, BucketRow>, Error> {
    let rows: Vec<StoredBucket> = diesel::sql_query(
        "SELECT charge_id, customer_id, period_start, period_end, quantity, moved, carried, delivered,
             discarded, sending, sequence, state, reason, tried_at, sent_at
         FROM stripe_charges
         WHERE org_id = $1 AND meter_id = $2 AND way = $3 AND (account, livemode) = ($4, $5)
             AND stripe_meter_id = $6 AND period_start >= $7 AND period_start < $8
         ORDER BY charge_id FOR UPDATE",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Integer, _>(plan.way.meter_id)
    .bind::<Text, _>(plan.way.way.name())
    .bind::<Text, _>(&plan.realm.account)
    .bind::<Bool, _>(plan.realm.livemode)
    .bind::<Text, _>(&plan.at_stripe.id)
    .bind::<Timestamptz, _>(windows.first().map_or(plan.now, |window| window.0))
    .bind::<Timestamptz, _>(windows.last().map_or(plan.now, |window| window.1))
    .load(conn)?;
    let is_asked = |at: At| windows.range(..=(at, At::MAX_UTC)).last().is_some_and(|window| at < window.1);
    rows.into_iter()
        .filter(|row| is_asked(row.period_start))
        .map(|row| Ok((row.period_start, row.whole(plan.way.way)?)))
        .collect()
}

impl StoredBucket {
    fn whole(self, way: Way) -> Result<BucketRow, Error> {
        let state = ChargeState::named(&self.state);
        Ok(BucketRow {
            charge_id: self.charge_id,
            customer: self.customer_id,
            before: Some((self.period_end, self.quantity)),
            bucket: Bucket {
                way,
                start: self.period_start,
                end: self.period_end,
                quantity: self.quantity,
                moved: self.moved,
                carried: self.carried,
                delivered: self.delivered,
                discarded: self.discarded,
                sending: self.sending,
                is_tried: self.tried_at.is_some() && self.sending.is_some(),
            },
            sequence: self.sequence,
            state: state.ok_or_else(|| Error::Internal(format!("there is no state {}", self.state)))?,
            reason: self.reason,
            sent_at: self.sent_at,
            is_changed: false,
        })
    }
}

/// Writes the buckets of an org that changed.
pub(super) fn write_buckets(
    conn: &mut PgConnection,
    plan: &MeterPlan<'_>,
    org_id: i64,
    rows: &[BucketRow],
) -> QueryResult<()> {
    for row in rows.iter().filter(|row| row.is_to_write()) {
        let (bucket, customer) = (&row.bucket, row.customer.as_deref());
        let identifier = customer.map(|customer| plan.identifier(org_id, customer, bucket.start));
        let charge_id = if row.charge_id.is_empty() { ids::fresh("chg") } else { row.charge_id.clone() };
        diesel::sql_query(
            "INSERT INTO stripe_charges AS c (org_id, charge_id, meter_id, way, account, livemode,
                 stripe_meter_id, customer_id, period_start, period_end, quantity, moved, carried, sending,
                 sequence, identifier, state, reason, planned_at, next_attempt_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
                 $19)
             ON CONFLICT (org_id, charge_id) DO UPDATE SET customer_id = excluded.customer_id,
                 period_end = excluded.period_end, quantity = excluded.quantity, moved = excluded.moved,
                 carried = excluded.carried, sending = excluded.sending, sequence = excluded.sequence,
                 identifier = excluded.identifier, state = excluded.state, reason = excluded.reason,
                 detail = CASE WHEN excluded.state = c.state THEN c.detail END,
                 planned_at = CASE WHEN excluded.sequence > c.sequence THEN excluded.planned_at
                     ELSE c.planned_at END,
                 tried_at = CASE WHEN excluded.sequence > c.sequence THEN NULL ELSE c.tried_at END,
                 attempts = CASE WHEN excluded.sequence > c.sequence THEN 0 ELSE c.attempts END,
                 next_attempt_at = CASE WHEN excluded.sequence > c.sequence THEN excluded.next_attempt_at
                     ELSE c.next_attempt_at END",
        )
        .bind::<BigInt, _>(org_id)
        .bind::<Text, _>(charge_id)
        .bind::<Integer, _>(plan.way.meter_id)
        .bind::<Text, _>(plan.way.way.name())
        .bind::<Text, _>(&plan.realm.account)
        .bind::<Bool, _>(plan.realm.livemode)
        .bind::<Text, _>(&plan.at_stripe.id)
        .bind::<Nullable<Text>, _>(customer)
        .bind::<Timestamptz, _>(bucket.start)
        .bind::<Timestamptz, _>(bucket.end)
        .bind::<Numeric, _>(bucket.quantity)
        .bind::<Numeric, _>(bucket.moved)
        .bind::<Numeric, _>(bucket.carried)
        .bind::<Nullable<Numeric>, _>(bucket.sending)
        .bind::<Integer, _>(row.sequence)
        .bind::<Nullable<Text>, _>(identifier)
        .bind::<Text, _>(row.state.name())
        .bind::<Nullable<Text>, _>(row.reason.as_deref())
        .bind::<Timestamptz, _>(plan.now)
        .execute(conn)?;
    }
    Ok(())
}

/// The key of a charge and the sequence that an answer is for.
#[derive(Clone, Debug)]
pub(super) struct ChargeKey {
    pub(super) org_id: i64,
    pub(super) charge_id: String,
    pub(super) sequence: i32,
}

/// Notes that a charge is tried now, before it is. False: it changed meanwhile.
pub(super) fn note_try(conn: &mut PgConnection, key: &ChargeKey, now: At) -> QueryResult<bool> {
    let tried = diesel::sql_query(
        "UPDATE stripe_charges SET tried_at = coalesce(tried_at, $4), attempts = least(attempts, 999) + 1
         WHERE org_id = $1 AND charge_id = $2 AND sequence = $3 AND state = 'planned'",
    )
    .bind::<BigInt, _>(key.org_id)
    .bind::<Text, _>(&key.charge_id)
    .bind::<Integer, _>(key.sequence)
    .bind::<Timestamptz, _>(now)
    .execute(conn)?;
    Ok(tried > 0)
}

/// Has a charge tried again at a time.
pub(super) fn postpone(conn: &mut PgConnection, key: &ChargeKey, at: At, detail: &str) -> QueryResult<()> {
    diesel::sql_query(
        "UPDATE stripe_charges SET next_attempt_at = $4, detail = $5
         WHERE org_id = $1 AND charge_id = $2 AND sequence = $3 AND state = 'planned'",
    )
    .bind::<BigInt, _>(key.org_id)
    .bind::<Text, _>(&key.charge_id)
    .bind::<Integer, _>(key.sequence)
    .bind::<Timestamptz, _>(at)
    .bind::<Text, _>(detail)
    .execute(conn)
    .map(drop)
}

/// Notes that Stripe refused a charge for good. What was to be sent is not with Stripe.
pub(super) fn note_failure(
    conn: &mut PgConnection,
    key: &ChargeKey,
    reason: &str,
    detail: &str,
) -> QueryResult<()> {
    diesel::sql_query(
        "UPDATE stripe_charges SET state = 'failed', reason = $4, detail = $5, sending = NULL
         WHERE org_id = $1 AND charge_id = $2 AND sequence = $3",
    )
    .bind::<BigInt, _>(key.org_id)
    .bind::<Text, _>(&key.charge_id)
    .bind::<Integer, _>(key.sequence)
    .bind::<Text, _>(reason)
    .bind::<Text, _>(detail)
    .execute(conn)
    .map(drop)
}

/// So many totals of a bucket are known by their sequence. Stripe tells within minutes which it could not
/// use.
const TOTALS_KEPT: i32 = 200;

/// Notes that Stripe took the present sequence of a bucket, and has `delivered` now. Usage that came while
/// the answer was missing waits for the next plan.
pub(super) fn note_sent(
    conn: &mut PgConnection,
    key: &ChargeKey,
    delivered: Decimal,
    now: At,
) -> QueryResult<()> {
    diesel::sql_query(
        "UPDATE stripe_charges SET detail = NULL, delivered = $4,
             state = CASE WHEN quantity - moved + carried + discarded = $4 THEN 'sent' ELSE 'waiting' END,
             reason = CASE WHEN quantity - moved + carried + discarded <> $4 THEN 'more_usage' END,
             sent_values = (SELECT jsonb_object_agg(v.key, v.value)
                 FROM jsonb_each(sent_values || jsonb_build_object(sequence::text, sending::text)) v
                 WHERE way <> 'totals' OR v.key::integer > sequence - $6),
             sending = NULL, sent_at = $5, confirmed_at = NULL
         WHERE org_id = $1 AND charge_id = $2 AND sequence = $3 AND sending IS NOT NULL",
    )
    .bind::<BigInt, _>(key.org_id)
    .bind::<Text, _>(&key.charge_id)
    .bind::<Integer, _>(key.sequence)
    .bind::<Numeric, _>(delivered)
    .bind::<Timestamptz, _>(now)
    .bind::<Integer, _>(TOTALS_KEPT)
    .execute(conn)
    .map(drop)
}

/// Notes that Stripe does not have the present sequence: it is decided again what to send.
pub(super) fn note_not_taken(conn: &mut PgConnection, key: &ChargeKey, reason: &str) -> QueryResult<()> {
    diesel::sql_query(
        "UPDATE stripe_charges SET state = 'waiting', reason = $4, sending = NULL, tried_at = NULL
         WHERE org_id = $1 AND charge_id = $2 AND sequence = $3 AND state = 'planned'",
    )
    .bind::<BigInt, _>(key.org_id)
    .bind::<Text, _>(&key.charge_id)
    .bind::<Integer, _>(key.sequence)
    .bind::<Text, _>(reason)
    .execute(conn)
    .map(drop)
}

#[derive(QueryableByName)]
pub(super) struct DueBucket {
    #[diesel(sql_type = BigInt)]
    pub(super) org_id: i64,
    #[diesel(sql_type = Text)]
    pub(super) charge_id: String,
    #[diesel(sql_type = Text)]
    pub(super) stripe_meter_id: String,
    #[diesel(sql_type = Text)]
    pub(super) way: String,
    #[diesel(sql_type = Text)]
    pub(super) customer_id: String,
    #[diesel(sql_type = Timestamptz)]
    pub(super) period_start: At,
    #[diesel(sql_type = Timestamptz)]
    pub(super) period_end: At,
    #[diesel(sql_type = Numeric)]
    pub(super) delivered: Decimal,
    #[diesel(sql_type = Numeric)]
    pub(super) sending: Decimal,
    #[diesel(sql_type = Integer)]
    pub(super) sequence: i32,
    #[diesel(sql_type = Text)]
    pub(super) identifier: String,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub(super) tried_at: Option<At>,
    #[diesel(sql_type = SmallInt)]
    pub(super) attempts: i16,
}

/// Planned buckets of an account that are due, the oldest first.
pub(super) fn due_buckets(
    conn: &mut PgConnection,
    realm: &Realm,
    limit: i64,
    now: At,
) -> QueryResult<Vec<DueBucket>> {
    diesel::sql_query(
        "SELECT org_id, charge_id, stripe_meter_id, way, customer_id, period_start, period_end, delivered,
             sending, sequence, identifier, tried_at, attempts
         FROM stripe_charges
         WHERE state = 'planned' AND way <> 'invoice_items' AND (account, livemode) = ($1, $2)
             AND next_attempt_at <= $3 AND customer_id IS NOT NULL AND identifier IS NOT NULL
         ORDER BY period_start, org_id, charge_id LIMIT $4",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Timestamptz, _>(now)
    .bind::<BigInt, _>(limit)
    .load(conn)
}
