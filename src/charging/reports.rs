//! Reports of Stripe about meter events that it took and could not use. They come as thin events; the whole
//! event names some of the identifiers
//! (<https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api>, "Handle meter event
//! errors"). Owns `stripe_meter_reports`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::Connection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Integer, SmallInt, Text, Timestamptz};
use serde::Deserialize;

use super::charges::ChargeKey;
use super::{Turn, send};
use crate::backoff;
use crate::error::Error;
use crate::realm::Realm;
use crate::stripe::client::{Call, CallError};
use crate::stripe::sync::drift::{self, DriftKind, NewDrift};

/// Types of events that report it.
const TYPES: [&str; 2] = ["v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found"];
/// Reports of one turn.
const A_TURN: i64 = 20;

#[derive(QueryableByName)]
struct DueReport {
    #[diesel(sql_type = Text)]
    event_id: String,
    #[diesel(sql_type = SmallInt)]
    attempts: i16,
}

#[derive(Deserialize)]
struct ReportEvent {
    data: Option<ReportData>,
}

#[derive(Deserialize)]
struct ReportData {
    reason: Option<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    error_count: i32,
    #[serde(default)]
    error_types: Vec<ErrorType>,
}

#[derive(Deserialize)]
struct ErrorType {
    code: String,
    #[serde(default)]
    sample_errors: Vec<SampleError>,
}

#[derive(Deserialize)]
struct SampleError {
    #[serde(default)]
    error_message: String,
    request: Option<SampleRequest>,
}

#[derive(Deserialize)]
struct SampleRequest {
    identifier: Option<String>,
}

impl Turn<'_> {
    /// Reads reports that came, and marks the charges that they name as failed.
    pub(super) fn read_reports(&mut self) -> Result<(), Error> {
        let now = self.now();
        find(self.conn, self.realm, now)?;
        for report in due(self.conn, self.realm, now)? {
            let path = format!("/v2/core/events/{}", report.event_id);
            let call = Call::get(&path, &[]).of(&self.realm.account);
            let client = self.sync.client().clone();
            let read = self.wait(async { client.send(&call).await?.read::<ReportEvent>() });
            let now = self.now();
            match read {
                Ok(event) => {
                    let reason = event.data.and_then(|data| data.reason);
                    let reason = reason.unwrap_or(Reason { error_count: 0, error_types: Vec::new() });
                    let realm = self.realm;
                    self.conn.transaction(|conn| apply(conn, realm, &report.event_id, &reason, now))?;
                }
                Err(error) => postpone(self.conn, self.realm, &report, &error, now)?,
            }
        }
        Ok(())
    }
}

/// Notes reports of the inbox that are not known yet.
fn find(conn: &mut PgConnection, realm: &Realm, now: DateTime<Utc>) -> QueryResult<()> {
    diesel::sql_query(
        "INSERT INTO stripe_meter_reports (account, livemode, event_id, next_attempt_at)
         SELECT $1, $2, i.event_id, $4 FROM stripe_inbox i
         WHERE i.thin AND i.event_type = ANY ($3) AND (i.account, i.livemode) = ($1, $2)
             AND NOT EXISTS (SELECT FROM stripe_meter_reports r
                 WHERE (r.account, r.livemode, r.event_id) = ($1, $2, i.event_id))
         ON CONFLICT DO NOTHING",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Array<Text>, _>(TYPES.to_vec())
    .bind::<Timestamptz, _>(now)
    .execute(conn)
    .map(drop)
}

fn due(conn: &mut PgConnection, realm: &Realm, now: DateTime<Utc>) -> QueryResult<Vec<DueReport>> {
    diesel::sql_query(
        "SELECT event_id, attempts FROM stripe_meter_reports
         WHERE (account, livemode) = ($1, $2) AND done_at IS NULL AND next_attempt_at <= $3
         ORDER BY next_attempt_at, event_id LIMIT $4",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Timestamptz, _>(now)
    .bind::<BigInt, _>(A_TURN)
    .load(conn)
}

fn postpone(
    conn: &mut PgConnection,
    realm: &Realm,
    report: &DueReport,
    error: &CallError,
    now: DateTime<Utc>,
) -> QueryResult<()> {
    tracing::warn!(event = report.event_id, %error, "a report about meter events cannot be read yet");
    diesel::sql_query(
        "UPDATE stripe_meter_reports SET attempts = least(attempts, 99) + 1, next_attempt_at = $4
         WHERE (account, livemode, event_id) = ($1, $2, $3)",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Text, _>(&report.event_id)
    .bind::<Timestamptz, _>(now + backoff::wait(report.attempts))
    .execute(conn)
    .map(drop)
}

/// Marks the charges that a report names as failed. Stripe names samples only: how many others there are is
/// noted, and the nightly comparison finds them.
fn apply(
    conn: &mut PgConnection,
    realm: &Realm,
    event_id: &str,
    reason: &Reason,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    // By identifier of the bucket and sequence.
    let mut named: BTreeMap<(String, String), (&str, &str)> = BTreeMap::new();
    for kind in &reason.error_types {
        for sample in &kind.sample_errors {
            let identifier = sample.request.as_ref().and_then(|request| request.identifier.as_deref());
            if let Some((bucket, sequence)) = identifier.and_then(|identifier| identifier.rsplit_once('-')) {
                let error = (kind.code.as_str(), sample.error_message.as_str());
                named.insert((bucket.to_owned(), sequence.to_owned()), error);
            }
        }
    }
    let mut failed = 0;
    for ((identifier, sequence), (code, detail)) in &named {
        for row in undeliver(conn, realm, identifier, sequence)? {
            failed += 1;
            if row.fails {
                send::fail(conn, &row.key(), code, detail, now)?;
            }
        }
    }
    if reason.error_count > failed || failed == 0 {
        let unnamed = NewDrift {
            kind: DriftKind::Usage,
            object: "v2.core.event".to_owned(),
            object_id: event_id.to_owned(),
            fields: Vec::new(),
            ours: Some(failed.to_string()),
            theirs: Some(reason.error_count.to_string()),
            detail:
                "Stripe could not use more meter events than its report names as ours: see the report in \
                Stripe's dashboard"
                    .to_owned(),
            inbox_id: None,
            run_id: None,
        };
        drift::write(conn, realm, &[unnamed], now)?;
    }
    diesel::sql_query(
        "UPDATE stripe_meter_reports SET done_at = $4, errors = $5, failed = $6
         WHERE (account, livemode, event_id) = ($1, $2, $3)",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Text, _>(event_id)
    .bind::<Timestamptz, _>(now)
    .bind::<Integer, _>(reason.error_count)
    .bind::<Integer, _>(failed)
    .execute(conn)?;
    Ok(())
}

#[derive(QueryableByName)]
struct UndeliveredRow {
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[diesel(sql_type = Text)]
    charge_id: String,
    #[diesel(sql_type = Integer)]
    sequence: i32,
    #[diesel(sql_type = Bool)]
    fails: bool,
}

impl UndeliveredRow {
    fn key(&self) -> ChargeKey {
        ChargeKey { org_id: self.org_id, charge_id: self.charge_id.clone(), sequence: self.sequence }
    }
}

/// Takes the event of this identifier and sequence off what Stripe has of its bucket. Of totals the one
/// before counts again, unless a later one does; of the deltas of a bucket only this one is missing.
///
/// The charge fails, unless a later total counts, or it is not known yet whether Stripe took the present
/// event: that is found out first, and then what is missing is sent.
fn undeliver(
    conn: &mut PgConnection,
    realm: &Realm,
    identifier: &str,
    sequence: &str,
) -> QueryResult<Vec<UndeliveredRow>> {
    diesel::sql_query(
        "UPDATE stripe_charges c
         SET delivered = CASE c.way WHEN 'totals' THEN coalesce(last.value, 0)
                 ELSE c.delivered - coalesce((c.sent_values ->> $4)::numeric, 0) END,
             sent_values = c.sent_values - $4
         FROM stripe_charges b
         LEFT JOIN LATERAL (SELECT v.key::integer AS sequence, v.value::numeric AS value
             FROM jsonb_each_text(b.sent_values - $4) v ORDER BY 1 DESC LIMIT 1) last ON true
         CROSS JOIN LATERAL (SELECT b.state = 'planned' AND b.tried_at IS NOT NULL AS is_open) o
         WHERE b.identifier = $3 AND (b.account, b.livemode) = ($1, $2)
             AND (jsonb_exists(b.sent_values, $4) OR o.is_open AND b.sequence::text = $4)
             AND (c.org_id, c.charge_id) = (b.org_id, b.charge_id)
         RETURNING c.org_id, c.charge_id, c.sequence,
             c.sequence::text = $4 OR NOT o.is_open
                 AND (c.way = 'deltas' OR last.sequence IS NULL OR last.sequence < $4::integer) AS fails",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Text, _>(identifier)
    .bind::<Text, _>(sequence)
    .load(conn)
}
