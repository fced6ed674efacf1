//! Counters of quotas.

use std::collections::BTreeSet;

use chrono::NaiveDate;
use diesel::pg::PgConnection;

use super::super::parts::Part;
use super::super::rules::SlotRule;
use super::super::{CountingRules, orgs};
use super::{Sides, list, own_records, records};
use crate::billing::directory::{Directory, OrgContext};
use crate::error::Error;
use crate::metering::periods::{ALWAYS, CountedDays, Period};
use crate::metering::slots::PeriodKind;
use crate::time::Clock;

/// Past days whose counters are compared at most. Older counters may have been cleaned up.
const COMPARED_DAYS: CountedDays = CountedDays { org: 365, subject: 6 };
/// After the last day that PostgreSQL and people write with four digits of the year.
const END_OF_TIME: NaiveDate = NaiveDate::from_ymd_opt(9999, 1, 1).unwrap();

/// Compares the counters of periods that begin on the days of `part`, from the period that [`first_compared`]
/// gives. Counters of past periods may have been cleaned up: the missing ones are no difference.
pub(super) fn quotas(
    conn: &mut PgConnection,
    rules: &CountingRules,
    part: Part,
) -> Result<Option<Sides>, Error> {
    if rules.slots.is_empty() {
        return Ok(None);
    }
    let compared = ComparedSlots::load(conn, rules, part)?;
    if compared.rows.is_empty() {
        return Ok(None);
    }
    let columns = "(org_id, slot_id, since, running, segment)";
    let slots = format!("(VALUES {}) AS k {columns}", compared.rows.join(", "));
    let counts_if = if rules.past_counters { "true" } else { "(s.used IS NOT NULL OR t.running)" };
    Ok(Some(Sides {
        expected: expected(rules, part, &compared, &slots),
        stored: stored(part, &slots),
        counts_if: counts_if.to_owned(),
    }))
}

/// The slots of orgs that are compared.
struct ComparedSlots {
    /// SQL rows: org, slot, the first period that is compared, the period that is running.
    rows: Vec<String>,
    /// The first day of usage that counters of orgs need.
    first: NaiveDate,
    /// The first day of usage that counters of subjects need.
    first_by_subject: NaiveDate,
    /// The common divisor of all hours and segments of windows, in seconds; 0: there are none.
    instants: i32,
    /// Meters whose totals for ever are compared.
    for_ever: BTreeSet<i32>,
    /// Whether such a total of a subject is among them.
    subjects_for_ever: bool,
}

impl ComparedSlots {
    fn load(conn: &mut PgConnection, rules: &CountingRules, part: Part) -> Result<Self, Error> {
        let now = rules.settings.as_of.now;
        let org_ids = orgs(conn, part.orgs)?;
        let directory = Directory::new(Clock::from_fn(move || now), rules.settings.as_of.grace_days);
        let mut slots = Self {
            rows: Vec::new(),
            first: NaiveDate::MAX,
            first_by_subject: NaiveDate::MAX,
            instants: 0,
            for_ever: BTreeSet::new(),
            subjects_for_ever: false,
        };
        for (_, org) in directory.load(conn, &[], &org_ids)? {
            for slot in rules.slots.iter().filter(|slot| slot.counts(org.org_id)) {
                slots.add(rules, part, &org, slot);
            }
        }
        // A billing period begins in UTC: up to a day after the local day on which it begins.
        let day_before = |day: NaiveDate| day.pred_opt().unwrap_or(day);
        slots.first = day_before(slots.first);
        slots.first_by_subject = day_before(slots.first_by_subject);
        Ok(slots)
    }

    fn add(&mut self, rules: &CountingRules, part: Part, org: &OrgContext, slot: &SlotRule) {
        let (since, running) = if slot.period == PeriodKind::Always {
            if !rules.levels.contains(&slot.meter_id) {
                // Only records know subjects.
                if slot.per_subject && rules.first_whole_day.is_some() {
                    return;
                }
                self.subjects_for_ever |= slot.per_subject;
                self.for_ever.insert(slot.meter_id);
            }
            (ALWAYS, ALWAYS)
        } else {
            let since = first_compared(rules, org, slot).max(part.from);
            let first = if slot.per_subject { &mut self.first_by_subject } else { &mut self.first };
            *first = since.min(*first);
            (since, Period::first_seen(slot.period, org, rules.settings.as_of.now))
        };
        let segment = match slot.period {
            PeriodKind::Hour => 3600,
            PeriodKind::Rolling(window) => window.segment_seconds(),
            _ => 0,
        };
        self.instants = common_divisor(self.instants, segment);
        let (org_id, slot_id) = (org.org_id, slot.slot_id);
        self.rows.push(format!("({org_id}, {slot_id}, '{since}'::date, '{running}'::date, {segment})"));
    }
}

fn expected(rules: &CountingRules, part: Part, compared: &ComparedSlots, slots: &str) -> String {
    let counted = Part {
        orgs: part.orgs,
        from: compared.first.min(compared.first_by_subject).min(END_OF_TIME),
        before: END_OF_TIME,
    };
    // The query groups by subject only where a slot counts subjects: there may be as many subjects as
    // records.
    let subject = if compared.first_by_subject >= END_OF_TIME {
        "NULL::text".to_owned()
    } else {
        format!("CASE WHEN own >= '{}' THEN subject END", compared.first_by_subject)
    };
    let instant = match compared.instants {
        0 => "NULL::timestamptz".to_owned(),
        seconds => format!("date_bin('{seconds} seconds', occurred_at, timestamptz 'epoch')"),
    };
    format!(
        "WITH sums AS MATERIALIZED (
             SELECT org_id, series_id, {subject} AS subject, own AS day,
                 date_trunc('month', own::timestamp)::date AS month, billing_period, billing_start,
                 {instant} AS instant, sum(quantity) AS quantity
             FROM {records} r
             GROUP BY 1, 2, 3, 4, billing_period, billing_start, 8)
         SELECT org_id, slot_id, subject, period, began, sum(quantity) AS used,
             bool_or(period >= running) AS running
         FROM (
             SELECT r.org_id, q.slot_id,
                 CASE WHEN q.per_subject THEN coalesce(r.subject, '') ELSE '' END AS subject,
                 k.since, k.running, r.quantity,
                 CASE
                     WHEN k.segment > 0 THEN (b.began AT TIME ZONE 'UTC')::date
                     WHEN q.period = 'day' THEN r.day
                     WHEN q.period = 'week' THEN date_trunc('week', r.day::timestamp)::date
                     WHEN q.period = 'month' THEN r.month
                     ELSE coalesce(r.billing_period, r.month)
                 END AS period,
                 coalesce(CASE WHEN q.period = 'billing' THEN r.billing_start ELSE b.began END, 'epoch')
                     AS began
             FROM sums r
             JOIN usage_series s ON s.org_id = r.org_id AND s.series_id = r.series_id
             JOIN quota_slots q ON q.meter_id = s.meter_id AND s.dimensions @> q.filter
                 AND q.period <> 'always'
             JOIN {slots} ON k.org_id = r.org_id AND k.slot_id = q.slot_id
             CROSS JOIN LATERAL (SELECT CASE WHEN k.segment > 0
                 THEN date_bin(make_interval(secs => k.segment), r.instant, timestamptz 'epoch') END
                 AS began) b) c
         WHERE period >= since AND {begins}
         GROUP BY org_id, slot_id, subject, period, began
         UNION ALL
         SELECT l.org_id, q.slot_id, CASE WHEN q.per_subject THEN l.subject ELSE '' END, '{ALWAYS}'::date,
             timestamptz 'epoch', sum(greatest(l.set_value + l.changes, 0)), true
         FROM usage_levels l
         JOIN usage_series s ON s.org_id = l.org_id AND s.series_id = l.series_id
         JOIN quota_slots q ON q.meter_id = s.meter_id AND q.period = 'always' AND s.dimensions @> q.filter
         JOIN {slots} ON k.org_id = l.org_id AND k.slot_id = q.slot_id
         GROUP BY 1, 2, 3
         {for_ever}",
        for_ever = for_ever(rules, part, compared, slots),
        records = own_records(counted, &rules.additive),
        begins = begins_in(part, "period"),
    )
}

/// Totals of all that was ever recorded. Of days whose records are gone the daily summaries say it.
fn for_ever(rules: &CountingRules, part: Part, compared: &ComparedSlots, slots: &str) -> String {
    if compared.for_ever.is_empty() {
        return String::new();
    }
    let meters: Vec<i32> = compared.for_ever.iter().copied().collect();
    let from = rules.first_whole_day.unwrap_or(ALWAYS);
    let records = records(Part { orgs: part.orgs, from, before: END_OF_TIME }, &meters);
    let subject = if compared.subjects_for_ever { "subject" } else { "NULL::text" };
    format!(
        "UNION ALL
         SELECT r.org_id, q.slot_id, CASE WHEN q.per_subject THEN coalesce(r.subject, '') ELSE '' END,
             '{ALWAYS}'::date, timestamptz 'epoch', sum(r.quantity), true
         FROM (SELECT org_id, series_id, {subject} AS subject, sum(quantity) AS quantity
               FROM {records} a GROUP BY 1, 2, 3
               UNION ALL
               SELECT org_id, series_id, NULL, sum(quantity)
               FROM daily_summaries
               WHERE {own} AND day < '{from}'
               GROUP BY 1, 2) r
         JOIN usage_series s ON s.org_id = r.org_id AND s.series_id = r.series_id
         JOIN quota_slots q ON q.meter_id = s.meter_id AND q.period = 'always' AND s.dimensions @> q.filter
         JOIN {slots} ON k.org_id = r.org_id AND k.slot_id = q.slot_id
         WHERE s.meter_id = ANY ({meters})
         GROUP BY 1, 2, 3",
        own = part.orgs.sql("org_id"),
        meters = list(&meters),
    )
}

fn common_divisor(a: i32, b: i32) -> i32 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

fn stored(part: Part, slots: &str) -> String {
    format!(
        "{own} AND {begins} AND EXISTS (
             SELECT FROM {slots}
             WHERE (k.org_id, k.slot_id) = (quota_counters.org_id, quota_counters.slot_id)
                 AND quota_counters.period >= k.since)",
        own = part.orgs.sql("org_id"),
        begins = begins_in(part, "quota_counters.period"),
    )
}

/// The condition that a period begins before the end of the part.
fn begins_in(part: Part, column: &str) -> String {
    if part.before < END_OF_TIME { format!("{column} < '{}'", part.before) } else { "true".to_owned() }
}

/// The first period whose counters are compared: from when on a slot counts, [`crate::quota::define`] says.
fn first_compared(rules: &CountingRules, org: &OrgContext, slot: &SlotRule) -> NaiveDate {
    // A correction may recreate a counter that was cleaned up: such a counter is not compared.
    let kept = rules.settings.kept;
    let compared = CountedDays {
        org: COMPARED_DAYS.org.min(kept.org.saturating_sub(1)),
        subject: COMPARED_DAYS.subject.min(kept.subject.saturating_sub(1)),
    };
    let kept = compared.first_label(slot.period, slot.per_subject, org, rules.settings.as_of.now);
    let made = || Period::first_seen(slot.period, org, slot.created_at);
    let since = if slot.orgs.contains(&org.org_id) { kept } else { made().max(kept) };
    since.max(rules.first_whole_day.unwrap_or(NaiveDate::MIN))
}
