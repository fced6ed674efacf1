//! Fills the counters of a new slot in from the records.
//!
//! A quota shows its past periods (`/v1/quotas/{id}/history`), and people expect there what was really used,
//! as Lago's `past_usage` and OpenMeter's entitlement history show it. An empty counter would also become
//! negative when an event of last month is voided. So the past periods of a quota are filled in,
//! [`CountedDays::BY_FIRST_QUOTA`] days back. Nobody sees past periods of a plan's limit, and a plan may have
//! many orgs: there only the running period is filled in, of a rolling window all of its segments.
//!
//! A total for ever is filled in from all that was ever recorded: of an org from the daily summaries, which
//! always stay; of subjects from the records, so usage whose records are gone is missing.
//!
//! So these counters of a slot are right, and `verify` compares them:
//!
//! - of an org that has or had a quota on the slot (`quota_slot_orgs`): those of the last
//!   [`CountedDays::BY_FIRST_QUOTA`] days at least;
//! - of any org that the slot counts: those from the period in which the slot was made.

use std::sync::Arc;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Date, Integer, Jsonb, Timestamptz};

use super::{SlotDefinition, StoredSlot};
use crate::billing::directory::{Directory, OrgContext};
use crate::error::Error;
use crate::metering::meters::{Aggregation, Meter};
use crate::metering::periods::{CountedDays, Period};
use crate::metering::slots::PeriodKind;

pub(super) struct SlotHistory<'a> {
    pub(super) slot: StoredSlot,
    pub(super) meter: &'a Meter,
    pub(super) definition: &'a SlotDefinition,
    pub(super) now: DateTime<Utc>,
}

/// Which periods are filled in.
#[derive(Clone, Copy, Debug)]
pub(super) enum FilledPeriods {
    /// Past ones and the running one (and those ahead: usage may be, a little).
    All,
    /// Those before the one in which the slot was made.
    BeforeSlot,
    /// The one in which the slot was made, and those after it: of a new slot the running one.
    SinceSlot,
}

/// Nothing is counted to this day.
const FAR: NaiveDate = NaiveDate::from_ymd_opt(9999, 1, 1).expect("a date");

impl SlotHistory<'_> {
    /// The first days of the periods of an org that are filled in, `[from, before)`.
    fn labels(&self, org: &OrgContext, periods: FilledPeriods) -> (NaiveDate, NaiveDate) {
        let SlotDefinition { period, per_subject, .. } = *self.definition;
        let first = CountedDays::BY_FIRST_QUOTA.first_label(period, per_subject, org, self.now);
        let made = Period::first_seen(period, org, self.slot.created_at);
        match periods {
            FilledPeriods::All => (first, FAR),
            FilledPeriods::BeforeSlot => (first, made),
            FilledPeriods::SinceSlot => (first.max(made), FAR),
        }
    }

    /// Sets the counters of these orgs to what was recorded.
    pub(super) fn fill(
        &self,
        conn: &mut PgConnection,
        directory: &Directory,
        org_ids: &[i64],
        periods: FilledPeriods,
    ) -> Result<(), Error> {
        let orgs: Vec<(String, Arc<OrgContext>)> = directory.load(conn, &[], org_ids)?;
        let labels: Vec<_> = orgs.iter().map(|(_, org)| (org.org_id, self.labels(org, periods))).collect();
        let Some(earliest) = labels.iter().map(|(_, (from, _))| *from).min() else { return Ok(()) };
        // Days are local, and a billing period begins by UTC.
        let earliest = earliest.checked_sub_days(Days::new(2)).unwrap_or(earliest);
        diesel::sql_query(self.sql())
            .bind::<Array<BigInt>, _>(labels.iter().map(|(org_id, _)| *org_id).collect::<Vec<_>>())
            .bind::<Array<Date>, _>(labels.iter().map(|(_, (from, _))| *from).collect::<Vec<_>>())
            .bind::<Array<Date>, _>(labels.iter().map(|(_, (_, before))| *before).collect::<Vec<_>>())
            .bind::<Integer, _>(self.slot.slot_id)
            .bind::<Integer, _>(self.meter.meter_id)
            .bind::<Jsonb, _>(self.definition.filter_json())
            .bind::<Timestamptz, _>(earliest.and_time(NaiveTime::MIN).and_utc())
            .execute(conn)?;
        Ok(())
    }

    /// Daily summaries have neither subject nor billing period nor time; those are read from the records.
    fn sql(&self) -> String {
        let period = self.definition.period;
        let lies_in_records =
            matches!(period, PeriodKind::Billing | PeriodKind::Hour | PeriodKind::Rolling(_));
        let from_records = self.definition.per_subject || lies_in_records;
        // A quota counts usage to its own day (`own_day`), wherever it was posted.
        let table = if from_records {
            "(SELECT *, coalesce(own_day, day) AS own
              FROM usage_records
              WHERE org_id = ANY ($1) AND meter_id = $5 AND occurred_at >= $7
              UNION ALL
              SELECT *, coalesce(own_day, day) AS own
              FROM usage_records
              WHERE org_id = ANY ($1) AND meter_id = $5 AND occurred_at < $7 AND moved)"
        } else {
            "(SELECT org_id, series_id, day AS own, quantity
              FROM daily_summaries
              WHERE org_id = ANY ($1) AND day >= ($7 AT TIME ZONE 'UTC')::date
              UNION ALL
              SELECT org_id, series_id, day, -quantity
              FROM usage_records
              WHERE org_id = ANY ($1) AND own_day IS NOT NULL
              UNION ALL
              SELECT org_id, series_id, own_day, quantity
              FROM usage_records
              WHERE org_id = ANY ($1) AND own_day IS NOT NULL)"
        };
        let subject = if self.definition.per_subject { "coalesce(u.subject, '')" } else { "''::text" };
        let began = match period {
            PeriodKind::Hour => "date_trunc('hour', u.occurred_at, 'UTC')".to_owned(),
            PeriodKind::Rolling(window) => {
                let seconds = window.segment_seconds();
                format!("date_bin('{seconds} seconds', u.occurred_at, timestamptz 'epoch')")
            }
            PeriodKind::Day | PeriodKind::Week | PeriodKind::Month | PeriodKind::Always => {
                "timestamptz 'epoch'".to_owned()
            }
            PeriodKind::Billing => "coalesce(u.billing_start, 'epoch')".to_owned(),
        };
        let label = match period {
            PeriodKind::Hour | PeriodKind::Rolling(_) => format!("({began} AT TIME ZONE 'UTC')::date"),
            PeriodKind::Day => "u.own".to_owned(),
            PeriodKind::Week => "date_trunc('week', u.own::timestamp)::date".to_owned(),
            PeriodKind::Month => "date_trunc('month', u.own)::date".to_owned(),
            PeriodKind::Billing => "coalesce(u.billing_period, date_trunc('month', u.own)::date)".to_owned(),
            PeriodKind::Always => "k.since".to_owned(),
        };
        let (table, quantity) = match self.meter.aggregation {
            Aggregation::Level => ("usage_levels", "greatest(u.set_value + u.changes, 0)"),
            _ => (table, "u.quantity"),
        };
        format!(
            "INSERT INTO quota_counters AS c (org_id, slot_id, subject, period, began, used, reserved)
             SELECT u.org_id, $4, {subject}, {label}, {began}, sum({quantity}), 0
             FROM unnest($1, $2, $3) AS k (org_id, since, before)
             JOIN usage_series s ON s.org_id = k.org_id
             JOIN {table} u ON u.org_id = s.org_id AND u.series_id = s.series_id
                 AND {label} >= k.since AND {label} < k.before
             WHERE s.meter_id = $5 AND s.dimensions @> $6
             GROUP BY 1, 2, 3, 4, 5
             ON CONFLICT (org_id, slot_id, subject, period, began) DO UPDATE SET used = excluded.used"
        )
    }
}
