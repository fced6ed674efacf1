//! Every night: what Stripe summed, and which items it has, against our books. Differences are for people,
//! with both figures; a total that differs is sent again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveDate, TimeDelta, Timelike, Utc};
use diesel::Connection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Numeric, Text, Timestamptz};
use rust_decimal::Decimal;

use super::buckets::{OLDEST, window_of};
use super::charges::{ChargeKey, SentBucket, sent_buckets};
use super::send::{LAG, as_shown, hourly_sums, sum};
use super::stripe_meter::{StripeMeter, Window};
use super::ways::{self, Way};
use super::{Turn, hold};
use crate::error::Error;
use crate::realm::Realm;
use crate::stripe::client::{Call, CallError, StripeClient};
use crate::stripe::sync::accounts::{self, Held};
use crate::stripe::sync::drift::{self, DriftKind, NewDrift};

type At = DateTime<Utc>;

/// A line is looked for at Stripe when no final invoice shows it after so long, and again after so long.
const LINE_AGE: TimeDelta = TimeDelta::days(1);
/// A line that was seen is looked for again the next night.
const LINE_SEEN: TimeDelta = TimeDelta::hours(20);
/// Lines of one turn.
const LINES: i64 = 1000;
/// How long a turn compares. Then usage is sent again: it may not come late.
const COMPARES_FOR: Duration = Duration::from_secs(60);

#[derive(QueryableByName)]
struct SentLine {
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[diesel(sql_type = Text)]
    charge_id: String,
    #[diesel(sql_type = Integer)]
    sequence: i32,
    #[diesel(sql_type = Text)]
    item_id: String,
    #[diesel(sql_type = BigInt)]
    amount: i64,
}

impl Turn<'_> {
    /// Compares once a night.
    pub(super) fn compare_nightly(&mut self) -> Result<(), Error> {
        let now = self.now();
        let today = now.date_naive();
        let is_due = now.hour() >= self.options.compare_hour
            && hold::compared_on(self.conn, self.realm)?.is_none_or(|on| on < today);
        if !is_due {
            return Ok(());
        }
        if self.compare_buckets(now)? && self.compare_lines(now)? {
            self.find_late_usage()?;
            hold::note_compared(self.conn, self.realm, today)?;
        }
        Ok(())
    }

    /// Compares the sums of buckets that Stripe took. False: it goes on later, because calls fail or it takes
    /// long.
    fn compare_buckets(&mut self, now: At) -> Result<bool, Error> {
        let began = Instant::now();
        let meters = ways::stripe_meters(self.conn, &self.realm.account)?;
        for group in by_call(sent_buckets(self.conn, self.realm, (now - OLDEST, now - LAG))?) {
            let Some(meter) = meters.get(&group[0].stripe_meter_id) else { continue };
            if (self.is_stopped)() || began.elapsed() > COMPARES_FOR {
                return Ok(false);
            }
            let client = self.sync.client().clone();
            let realm = self.realm;
            let sums = match self.wait(sums(&client, realm, meter, &group)) {
                Ok(sums) => sums,
                Err(error) => return self.stop_comparing(&error),
            };
            self.conn.transaction(|conn| {
                let both = group.iter().zip(sums);
                // Stripe sums no part of a minute.
                let mut known = both.filter_map(|(bucket, theirs)| Some((bucket, theirs?)));
                known.try_for_each(|(bucket, theirs)| agree(conn, realm, bucket, theirs, now))
            })?;
        }
        Ok(true)
    }

    fn stop_comparing(&mut self, error: &CallError) -> Result<bool, Error> {
        tracing::warn!(%error, "the nightly comparison of usage stopped; it goes on later");
        if error.is_of_key() {
            accounts::note_error(
                self.conn,
                Held::Charging,
                self.realm,
                Some(&error.to_string()),
                self.now(),
            )?;
            // Without the right to read sums nothing can be compared today.
            return Ok(true);
        }
        Ok(false)
    }

    /// Looks for lines that no final invoice shows. False: it goes on later.
    fn compare_lines(&mut self, now: At) -> Result<bool, Error> {
        let began = Instant::now();
        let lines = sent_lines(self.conn, self.realm, now)?;
        let is_full = lines.len() as i64 == LINES;
        for line in lines {
            if (self.is_stopped)() || began.elapsed() > COMPARES_FOR {
                return Ok(false);
            }
            let client = self.sync.client().clone();
            let call = Call::get(&format!("/v1/invoiceitems/{}", line.item_id), &[]).of(&self.realm.account);
            match self.wait(client.send(&call)) {
                Ok(_) => note_seen(self.conn, &line, now)?,
                Err(error) if error.is_not_found() => {
                    let realm = self.realm;
                    self.conn.transaction(|conn| lost(conn, realm, &line, now))?;
                }
                Err(error) => return self.stop_comparing(&error),
            }
        }
        Ok(!is_full)
    }
}

/// Groups buckets that one call asks for: whole hours of a day, of one customer and meter.
fn by_call(buckets: Vec<SentBucket>) -> Vec<Vec<SentBucket>> {
    let mut hours: BTreeMap<(String, String, NaiveDate), Vec<SentBucket>> = BTreeMap::new();
    let mut groups = Vec::new();
    for bucket in buckets {
        if window_of(bucket.period_start, Window::Hour) == (bucket.period_start, bucket.period_end) {
            let day = bucket.period_start.date_naive();
            let of_day = (bucket.stripe_meter_id.clone(), bucket.customer_id.clone(), day);
            hours.entry(of_day).or_default().push(bucket);
        } else {
            groups.push(vec![bucket]);
        }
    }
    groups.extend(hours.into_values());
    groups
}

/// Stripe's sum of each bucket of a group. `None`: Stripe sums no part of a minute.
async fn sums(
    client: &StripeClient,
    realm: &Realm,
    meter: &StripeMeter,
    group: &[SentBucket],
) -> Result<Vec<Option<Decimal>>, CallError> {
    if let [only] = group {
        let span = (only.period_start, only.period_end);
        return Ok(vec![sum(client, realm, meter, &only.customer_id, span).await?]);
    }
    let Some((first, last)) = group.first().zip(group.last()) else { return Ok(Vec::new()) };
    let span = (first.period_start, last.period_end);
    let by_hour = hourly_sums(client, realm, meter, &first.customer_id, span).await?;
    let of_hour = |bucket: &SentBucket| by_hour.get(&bucket.period_start.timestamp()).copied();
    Ok(group.iter().map(|bucket| Some(of_hour(bucket).unwrap_or_default())).collect())
}

/// Compares one bucket with Stripe's sum.
fn agree(
    conn: &mut PgConnection,
    realm: &Realm,
    bucket: &SentBucket,
    theirs: Decimal,
    now: At,
) -> Result<(), Error> {
    let ours = as_shown(bucket.delivered + bucket.of_other_orgs);
    let key = bucket.key();
    if ours == theirs {
        return Ok(settle(conn, &key, "confirmed", None, None, now)?);
    }
    let differs = NewDrift {
        kind: DriftKind::Usage,
        object: "stripe_charge".to_owned(),
        object_id: bucket.charge_id.clone(),
        fields: vec!["delivered".to_owned()],
        ours: Some(ours.to_string()),
        theirs: Some(theirs.to_string()),
        detail: format!(
            "Stripe's sum of {} from {} until {} differs from what was sent",
            bucket.customer_id, bucket.period_start, bucket.period_end
        ),
        inbox_id: None,
        run_id: None,
    };
    drift::write(conn, realm, &[differs], now)?;
    let theirs = theirs - bucket.of_other_orgs;
    if bucket.way == Way::Totals.name() {
        // An absolute total may be sent any number of times.
        settle(conn, &key, "waiting", Some("sum_differs"), Some(theirs), now)?;
    } else {
        settle(conn, &key, "failed", Some("sum_differs"), Some(theirs), now)?;
    }
    Ok(())
}

/// Stores what a comparison found. `delivered`: what Stripe really has.
fn settle(
    conn: &mut PgConnection,
    key: &ChargeKey,
    state: &str,
    reason: Option<&str>,
    delivered: Option<Decimal>,
    now: At,
) -> QueryResult<()> {
    diesel::sql_query(
        "UPDATE stripe_charges SET state = $4, reason = $5, delivered = coalesce($6, delivered),
             confirmed_at = CASE WHEN $4 = 'confirmed' THEN $7 END
         WHERE org_id = $1 AND charge_id = $2 AND sequence = $3 AND state = 'sent'",
    )
    .bind::<BigInt, _>(key.org_id)
    .bind::<Text, _>(&key.charge_id)
    .bind::<Integer, _>(key.sequence)
    .bind::<Text, _>(state)
    .bind::<diesel::sql_types::Nullable<Text>, _>(reason)
    .bind::<diesel::sql_types::Nullable<Numeric>, _>(delivered)
    .bind::<Timestamptz, _>(now)
    .execute(conn)
    .map(drop)
}

/// An item that Stripe does not have any more: somebody deleted it.
fn lost(conn: &mut PgConnection, realm: &Realm, line: &SentLine, now: At) -> Result<(), Error> {
    let key = ChargeKey { org_id: line.org_id, charge_id: line.charge_id.clone(), sequence: line.sequence };
    settle(conn, &key, "failed", Some("deleted_at_stripe"), None, now)?;
    let gone = NewDrift {
        kind: DriftKind::Usage,
        object: "invoiceitem".to_owned(),
        object_id: line.item_id.clone(),
        fields: Vec::new(),
        ours: Some(line.amount.to_string()),
        theirs: None,
        detail: "Stripe does not have the item any more: its usage is not charged".to_owned(),
        inbox_id: None,
        run_id: None,
    };
    drift::write(conn, realm, &[gone], now)?;
    Ok(())
}

/// Notes that Stripe has the item of a line, so that others are looked for next.
fn note_seen(conn: &mut PgConnection, line: &SentLine, now: At) -> QueryResult<()> {
    diesel::sql_query(
        "UPDATE stripe_charges SET next_attempt_at = $3
         WHERE org_id = $1 AND charge_id = $2 AND state = 'sent'",
    )
    .bind::<BigInt, _>(line.org_id)
    .bind::<Text, _>(&line.charge_id)
    .bind::<Timestamptz, _>(now + LINE_SEEN)
    .execute(conn)
    .map(drop)
}

/// Lines that Stripe took a day ago, that no final invoice shows, and that were not looked for this night.
fn sent_lines(conn: &mut PgConnection, realm: &Realm, now: At) -> QueryResult<Vec<SentLine>> {
    diesel::sql_query(
        "SELECT org_id, charge_id, sequence, item_id, amount FROM stripe_charges
         WHERE state = 'sent' AND way = 'invoice_items' AND (account, livemode) = ($1, $2)
             AND sent_at <= $3 AND next_attempt_at <= $4 AND item_id IS NOT NULL
         ORDER BY sent_at, charge_id LIMIT $5",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Timestamptz, _>(now - LINE_AGE)
    .bind::<Timestamptz, _>(now)
    .bind::<BigInt, _>(LINES)
    .load(conn)
}
