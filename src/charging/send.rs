//! Sends planned buckets as meter events.
//!
//! There is one call at a time for each customer and meter, and the next one begins when it is answered:
//! Stripe refuses more (<https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api>).

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::Connection;
use diesel::pg::PgConnection;
use futures_util::stream::{FuturesUnordered, StreamExt};
use rust_decimal::Decimal;
use serde::Deserialize;

use super::buckets::{GRACE, IDENTIFIER_KEPT, is_takeable, significant, timestamp, with_sequence};
use super::charges::{self, ChargeKey, DueBucket, OfOtherOrgs};
use super::facts::CustomerTimes;
use super::stripe_meter::StripeMeter;
use super::ways::{self, Way};
use super::{Turn, hold};
use crate::backoff;
use crate::error::Error;
use crate::messages::{self, NewMessage};
use crate::realm::Realm;
use crate::stripe::client::{self, Call, CallError, StripeClient};
use crate::stripe::sync::accounts::{self, Held};

type At = DateTime<Utc>;

/// Buckets of one turn.
const A_TURN: i64 = 1000;
/// Calls at the same time, each for another customer or meter.
const CONCURRENT: usize = 16;
/// How often the hold is renewed while buckets are sent.
const RENEWAL: Duration = Duration::from_secs(10);
/// How long an answer is waited for. Others wait meanwhile, and a repetition is harmless.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How long Stripe's sums may lag behind the events that it took.
pub(super) const LAG: TimeDelta = TimeDelta::minutes(10);

/// What became of a meter event.
pub(super) enum Outcome {
    /// Stripe has it.
    Taken,
    /// Stripe does not have it, and will not take it this way.
    NotTaken,
    /// Try again later.
    Later(String),
    /// Stripe refuses it for good: code and sentence.
    Refused(String, String),
}

impl Turn<'_> {
    /// Sends buckets that are due. Returns whether there may be more.
    pub(super) fn send_buckets(&mut self) -> Result<bool, Error> {
        let due = charges::due_buckets(self.conn, self.realm, A_TURN, self.now())?;
        let is_full = due.len() as i64 == A_TURN;
        let meters = ways::stripe_meters(self.conn, &self.realm.account)?;
        let mut queues: BTreeMap<(String, String), VecDeque<DueBucket>> = BTreeMap::new();
        for bucket in due {
            let of_customer = (bucket.customer_id.clone(), bucket.stripe_meter_id.clone());
            queues.entry(of_customer).or_default().push_back(bucket);
        }
        let mut waiting: VecDeque<VecDeque<DueBucket>> = queues.into_values().collect();
        let (mut calls, mut goes_on, mut renewed) = (FuturesUnordered::new(), true, Instant::now());
        loop {
            if renewed.elapsed() > RENEWAL {
                goes_on &= hold::hold(self.conn, self.realm, self.holder)?;
                renewed = Instant::now();
            }
            while calls.len() < CONCURRENT && goes_on && !(self.is_stopped)() {
                let Some(mut queue) = waiting.pop_front() else { break };
                let Some(bucket) = queue.pop_front() else { continue };
                match self.call(bucket, queue, &meters)? {
                    Ok(call) => calls.push(call),
                    Err(queue) => waiting.push_front(queue),
                }
            }
            let Some((bucket, outcome, queue)) = self.wait(calls.next()) else { break };
            goes_on &= self.note(&bucket, outcome)?;
            // Only now may the customer's next bucket of this meter be sent.
            waiting.push_back(queue);
        }
        Ok(is_full && goes_on)
    }

    /// The call for a bucket; it gives back the buckets that wait for its end. Without a call they come back
    /// at once.
    #[allow(clippy::type_complexity, reason = "it is the answer of one call")]
    fn call(
        &mut self,
        bucket: DueBucket,
        queue: VecDeque<DueBucket>,
        meters: &BTreeMap<String, StripeMeter>,
    ) -> Result<
        Result<
            impl Future<Output = (DueBucket, Result<Outcome, CallError>, VecDeque<DueBucket>)> + use<>,
            VecDeque<DueBucket>,
        >,
        Error,
    > {
        let now = self.now();
        let Some(meter) = meters.get(&bucket.stripe_meter_id).cloned() else { return Ok(Err(queue)) };
        let is_charged = self.is_charged(&bucket, &meter, now)?;
        if is_charged && bucket.tried_at.is_none() {
            // Stripe would take it, and no invoice would have it: the next plan moves it.
            charges::note_not_taken(self.conn, &bucket.key(), "too_late")?;
            return Ok(Err(queue));
        }
        let must_ask = must_ask(&bucket, is_charged, now);
        // The try is committed before the call: after a crash the outcome counts as unknown.
        if !must_ask && !charges::note_try(self.conn, &bucket.key(), now)? {
            return Ok(Err(queue));
        }
        // Read now: the customer's calls before this one changed it.
        let read = must_ask.then(|| charges::of_other_orgs(self.conn, &bucket.key()));
        let of_other_orgs = read.transpose()?;
        let (client, realm) = (self.sync.client().clone(), self.realm.clone());
        Ok(Ok(async move {
            let outcome = match of_other_orgs {
                Some(others) => ask(&client, &realm, &bucket, others, &meter, now).await,
                None => send(&client, &realm, &bucket, &meter, now).await,
            };
            (bucket, outcome, queue)
        }))
    }

    /// Whether an event that is sent now comes too late for the invoice of its period.
    fn is_charged(&mut self, bucket: &DueBucket, meter: &StripeMeter, now: At) -> Result<bool, Error> {
        if bucket.period_end + GRACE > now {
            return Ok(false);
        }
        let (customer, meter) = (&bucket.customer_id, Some(meter.id.as_str()));
        let times = CustomerTimes::read(self.conn, self.realm, customer, meter)?;
        Ok(times.is_charged(bucket.period_start, now))
    }

    /// Stores what became of a bucket's event.
    fn note(&mut self, bucket: &DueBucket, outcome: Result<Outcome, CallError>) -> Result<bool, Error> {
        let (now, key) = (self.now(), bucket.key());
        let outcome = match outcome {
            Ok(outcome) => outcome,
            // The key lacks the right, or is no key: every call fails alike. The buckets stay planned.
            Err(error) => {
                accounts::note_error(self.conn, Held::Charging, self.realm, Some(&error.to_string()), now)?;
                // People mend it: a minute at most, so that it goes on soon after.
                let at = now + backoff::wait(bucket.attempts.min(3));
                charges::postpone(self.conn, &key, at, &error.to_string())?;
                return Ok(!error.is_of_key());
            }
        };
        match outcome {
            Outcome::Taken => {
                charges::note_sent(self.conn, &key, bucket.delivered_after(), now)?;
                accounts::note_error(self.conn, Held::Charging, self.realm, None, now)?;
            }
            Outcome::NotTaken => charges::note_not_taken(self.conn, &key, "too_late")?,
            Outcome::Later(detail) => {
                let at = now + backoff::wait(bucket.attempts.min(4));
                charges::postpone(self.conn, &key, at, &detail)?;
            }
            Outcome::Refused(reason, detail) => {
                self.conn.transaction(|conn| fail(conn, &key, &reason, &detail, now))?;
            }
        }
        Ok(true)
    }
}

/// Whether an unknown outcome is found out by asking for Stripe's sum: the identifier may be forgotten, or
/// the event would come too late for its invoice.
fn must_ask(bucket: &DueBucket, is_charged: bool, now: At) -> bool {
    let is_forgotten = |tried_at: At| bucket.way == Way::Deltas.name() && tried_at + IDENTIFIER_KEPT <= now;
    bucket.tried_at.is_some_and(|tried_at| is_charged || is_forgotten(tried_at))
}

/// Marks a charge as failed, and tells it.
pub(super) fn fail(
    conn: &mut PgConnection,
    key: &ChargeKey,
    reason: &str,
    detail: &str,
    now: At,
) -> Result<(), Error> {
    charges::note_failure(conn, key, reason, detail)?;
    let told = NewMessage {
        org_id: key.org_id,
        kind: "charge.failed",
        dedupe_key: format!("charge.failed/{}/{}", key.charge_id, key.sequence),
        data: serde_json::json!({ "charge": key.charge_id, "reason": reason, "detail": detail }),
        object: None,
    };
    messages::write(conn, vec![told], now)
}

impl DueBucket {
    pub(super) fn key(&self) -> ChargeKey {
        ChargeKey { org_id: self.org_id, charge_id: self.charge_id.clone(), sequence: self.sequence }
    }

    fn delivered_after(&self) -> Decimal {
        if self.way == Way::Totals.name() { self.sending } else { self.delivered + self.sending }
    }

    /// The time of its event.
    fn timestamp(&self) -> At {
        timestamp(self.period_start, self.period_end, self.sequence)
    }
}

/// Sends a bucket's total or delta as a meter event
/// (<https://docs.stripe.com/api/billing/meter-event/create>).
async fn send(
    client: &StripeClient,
    realm: &Realm,
    bucket: &DueBucket,
    meter: &StripeMeter,
    now: At,
) -> Result<Outcome, CallError> {
    let at = bucket.timestamp();
    if at > now && !is_takeable(at, now) {
        return Ok(Outcome::Later("its time is more than four minutes ahead".to_owned()));
    }
    let identifier = with_sequence(&bucket.identifier, bucket.sequence);
    let (value_key, customer_key) =
        (format!("payload[{}]", meter.value_key), format!("payload[{}]", meter.customer_key));
    let (time, value) = (at.timestamp().to_string(), bucket.sending.normalize().to_string());
    let form = [
        ("event_name", meter.event_name.as_str()),
        ("identifier", &identifier),
        ("timestamp", &time),
        (&customer_key, &bucket.customer_id),
        (&value_key, &value),
    ];
    // The identifier makes a repetition harmless. The key differs by attempt, because Stripe gives the answer
    // 500 again under the same key, whatever became of the first request.
    let call = Call::post("/v1/billing/meter_events", &form, &format!("{identifier}-{}", bucket.attempts));
    let call = call.of(&realm.account).once();
    match client::within(ANSWER_WITHIN, client.send(&call)).await {
        Ok(_) => Ok(Outcome::Taken),
        Err(error) if is_known_identifier(&error) => Ok(Outcome::Taken),
        Err(error) if error.is_of_key() => Err(error),
        Err(error) if error.is_temporary() => Ok(Outcome::Later(error.to_string())),
        Err(error) => {
            let refusal = error.refusal();
            if refusal.is_some_and(|refusal| refusal.code.as_deref() == Some("timestamp_too_far_in_past")) {
                return Ok(Outcome::NotTaken);
            }
            let code = refusal.and_then(|refusal| refusal.code.clone());
            Ok(Outcome::Refused(code.unwrap_or_else(|| "refused".to_owned()), error.to_string()))
        }
    }
}

/// Stripe has an event with this identifier already: the first attempt was taken. Stripe answers 400 with
/// `stripe-should-retry: false` (langfuse/langfuse#16292 took it for a failure and stopped all metering).
fn is_known_identifier(error: &CallError) -> bool {
    error.refusal().is_some_and(|refusal| {
        let code = refusal.code.as_deref();
        refusal.status == 400
            && (matches!(code, Some("resource_already_exists" | "duplicate_meter_event"))
                || refusal.message.starts_with("An event already exists with identifier"))
    })
}

/// Finds out by Stripe's sum of the bucket whether an event was taken.
async fn ask(
    client: &StripeClient,
    realm: &Realm,
    bucket: &DueBucket,
    others: OfOtherOrgs,
    meter: &StripeMeter,
    now: At,
) -> Result<Outcome, CallError> {
    if bucket.tried_at.is_some_and(|tried_at| tried_at + LAG > now) {
        return Ok(Outcome::Later("it is not known whether Stripe took it: its sum is asked for".to_owned()));
    }
    let span = (bucket.period_start, bucket.period_end);
    let without = bucket.delivered + others.delivered;
    let with = bucket.delivered_after() + others.delivered;
    // Stripe may have taken an unanswered delta of another org as well.
    let is_sum = |sum: Decimal, ours: Decimal| [ours, ours + others.unknown].map(as_shown).contains(&sum);
    match sum(client, realm, meter, &bucket.customer_id, span).await {
        Ok(Some(sum)) if is_sum(sum, with) => Ok(Outcome::Taken),
        Ok(Some(sum)) if is_sum(sum, without) => Ok(Outcome::NotTaken),
        Ok(Some(sum)) => {
            let detail =
                format!("Stripe's sum is {sum}: neither {without} (without the event) nor {with} (with it)");
            Ok(Outcome::Refused("sum_differs".to_owned(), detail))
        }
        Ok(None) => {
            let detail = "it is not known whether Stripe took it, and Stripe sums no part of a minute";
            Ok(Outcome::Refused("outcome_unknown".to_owned(), detail.to_owned()))
        }
        Err(error) if error.is_of_key() => Err(error),
        Err(error) => Ok(Outcome::Later(error.to_string())),
    }
}

#[derive(Deserialize)]
struct Summaries {
    data: Vec<Summary>,
}

#[derive(Deserialize)]
struct Summary {
    aggregated_value: serde_json::Number,
    start_time: i64,
}

/// Stripe's sum of a customer's events in a time; `None`: it is no whole number of minutes
/// (<https://docs.stripe.com/api/billing/meter-event-summary/list>).
pub(super) async fn sum(
    client: &StripeClient,
    realm: &Realm,
    meter: &StripeMeter,
    customer: &str,
    (start, end): (At, At),
) -> Result<Option<Decimal>, CallError> {
    let is_whole = |at: At| at.timestamp() % 60 == 0 && at.timestamp_subsec_nanos() == 0;
    if !is_whole(start) || !is_whole(end) {
        return Ok(None);
    }
    let summaries = summaries(client, realm, meter, customer, (start, end), &[]).await?;
    summaries.into_iter().map(|summary| number(&summary.aggregated_value)).sum::<Result<_, _>>().map(Some)
}

/// Stripe's sum of each hour of a customer's events in a time of whole hours, by its first second. Hours
/// without events are left out. A page has a hundred hours: no more may be asked for.
pub(super) async fn hourly_sums(
    client: &StripeClient,
    realm: &Realm,
    meter: &StripeMeter,
    customer: &str,
    span: (At, At),
) -> Result<BTreeMap<i64, Decimal>, CallError> {
    let by_hour = [("value_grouping_window", "hour"), ("limit", "100")];
    let summaries = summaries(client, realm, meter, customer, span, &by_hour).await?;
    let of_hour = |summary: Summary| Ok((summary.start_time, number(&summary.aggregated_value)?));
    summaries.into_iter().map(of_hour).collect()
}

async fn summaries(
    client: &StripeClient,
    realm: &Realm,
    meter: &StripeMeter,
    customer: &str,
    (start, end): (At, At),
    more: &[(&str, &str)],
) -> Result<Vec<Summary>, CallError> {
    let (start, end) = (start.timestamp().to_string(), end.timestamp().to_string());
    let mut query = vec![("customer", customer), ("start_time", start.as_str()), ("end_time", end.as_str())];
    query.extend(more);
    let call = Call::get(&format!("/v1/billing/meters/{}/event_summaries", meter.id), &query);
    let shown: Summaries = client.send(&call.of(&realm.account)).await?.read()?;
    Ok(shown.data)
}

/// A number of Stripe's JSON, with the digits that a double surely has.
pub(super) fn number(number: &serde_json::Number) -> Result<Decimal, CallError> {
    let text = number.to_string();
    let parsed = text.parse().or_else(|_| Decimal::from_scientific(&text));
    parsed.map(significant).map_err(|_| CallError::Unreadable(format!("{text} is no number of ours")))
}

/// A number of ours as Stripe shows it.
pub(super) fn as_shown(number: Decimal) -> Decimal {
    significant(number)
}
