//! What each book must say, as SQL over the records.

use std::fmt::Write as _;

use chrono::{DateTime, Days, NaiveDate, Utc};
use diesel::pg::PgConnection;

use super::rules::SlotRule;
use super::{Book, Part, Rules};
use crate::billing::directory::{Directory, OrgContext};
use crate::error::Error;
use crate::quota::slots::PeriodKind;
use crate::usage::partitions::month_of;

/// Past days in which counters of quotas are compared; older ones may have been cleaned away.
const QUOTA_DAYS: u64 = 365;
/// As [`QUOTA_DAYS`], of counters per subject.
const SUBJECT_DAYS: u64 = 6;

/// What is compared, as SQL. Only numbers and dates of ours are written into it, never a caller's text.
pub(super) struct Sides {
    /// The rows that the records make.
    pub(super) told: String,
    /// Which rows of the table are meant.
    pub(super) stored: String,
    /// Which of the differences count.
    pub(super) must: &'static str,
}

impl Book {
    /// `None`: there is nothing to be counted in it.
    pub(super) fn told(
        self,
        conn: &mut PgConnection,
        rules: &Rules,
        part: Part,
    ) -> Result<Option<Sides>, Error> {
        let days = format!("day >= '{}' AND day < '{}'", part.from, part.before);
        let sides = |told: String, stored: String| Some(Sides { told, stored, must: "true" });
        Ok(match self {
            Self::Summaries => sides(summaries(rules, part), days),
            Self::Uniques => (!rules.uniques.is_empty()).then(|| Sides {
                told: uniques(rules, part),
                stored: days,
                must: "true",
            }),
            Self::Rating => sides(rating(rules, part), days.replace("day", "month")),
            Self::Quotas => quotas(conn, rules, part.org_id)?,
        })
    }
}

/// The records that were counted to the days of `part` by these meters (or cards).
fn records(part: Part, column: &str, ids: &[i32]) -> String {
    let Part { org_id, from, before } = part;
    let own = format!(
        "org_id = {org_id} AND day >= '{from}' AND day < '{before}' AND {column} = ANY ({})",
        list(ids)
    );
    let instant = |days: &str| format!("(({days})::timestamp AT TIME ZONE 'UTC')");
    let (start, end) = (instant(&format!("'{from}'::date - 1")), instant(&format!("'{before}'::date + 1")));
    format!(
        "(SELECT * FROM usage_records WHERE {own} AND occurred_at >= {start} AND occurred_at < {end}
          UNION ALL
          SELECT * FROM usage_records WHERE {own} AND occurred_at < {start} AND moved)"
    )
}

fn list(ids: &[i32]) -> String {
    let ids: Vec<String> = ids.iter().map(i32::to_string).collect();
    format!("'{{{}}}'::integer[]", ids.join(","))
}

/// Records of meters that do not add up, each with whether it stands: what was taken back on the same day does not. What a later
/// day took back, because this one is in a closed month, stands here, and there is nothing to take it from there.
fn standing(part: Part, ids: &[i32]) -> String {
    format!(
        "(SELECT *, correction % 2 = 0 AND coalesce(lead(correction) OVER (PARTITION BY series_id, day, meter_id, occurred_at, event_key
                ORDER BY correction) <> correction + 1, true) AS stands FROM {} r)",
        records(part, "meter_id", ids)
    )
}

fn summaries(rules: &Rules, part: Part) -> String {
    const COUNT: &str = "sum(CASE correction % 2 WHEN 0 THEN 1 ELSE -1 END)::bigint AS count, sum(cost) AS cost, sum(battery_units) AS battery_units";
    let mut told = format!(
        "SELECT series_id, day, sum(quantity) AS quantity, {COUNT}, NULL::timestamptz AS latest_at FROM {} r GROUP BY series_id, day",
        records(part, "meter_id", &rules.additive)
    );
    if !rules.others.is_empty() {
        let _ = write!(
            told,
            " UNION ALL SELECT series_id, day, CASE m.aggregation
                WHEN 'max' THEN coalesce(max(quantity) FILTER (WHERE stands), 0)
                WHEN 'unique' THEN count(DISTINCT value) FILTER (WHERE stands)
                ELSE coalesce((array_agg(quantity ORDER BY occurred_at DESC, quantity DESC) FILTER (WHERE stands))[1], 0) END,
                {COUNT}, CASE m.aggregation WHEN 'latest' THEN max(occurred_at) FILTER (WHERE stands) END
             FROM {} r JOIN meters m USING (meter_id) GROUP BY series_id, day, m.aggregation",
            standing(part, &rules.others)
        );
    }
    told
}

/// The first 16 bytes of a value's SHA-256, as SQL: what `usage_uniques` keeps of a value.
pub const VALUE_DIGEST: &str = "encode(substr(sha256(convert_to(value, 'UTF8')), 1, 16), 'hex')::uuid";

fn uniques(rules: &Rules, part: Part) -> String {
    format!(
        "SELECT DISTINCT series_id, day, {VALUE_DIGEST} AS value_digest, 1 AS n FROM {} r WHERE stands AND value IS NOT NULL",
        standing(part, &rules.uniques)
    )
}

/// A record counts to the first rate of its card that fits its dimensions, if that has tiers.
fn rating(rules: &Rules, part: Part) -> String {
    let org_id = part.org_id;
    format!(
        "SELECT r.meter_id, r.rate_card_id, p.rate, r.month, sum(r.quantity) AS quantity
         FROM (SELECT series_id, meter_id, rate_card_id, date_trunc('month', day::timestamp)::date AS month, sum(quantity) AS quantity
               FROM {} r GROUP BY 1, 2, 3, 4) r
         JOIN usage_series s ON s.org_id = {org_id} AND s.series_id = r.series_id
         CROSS JOIN LATERAL (
             SELECT (e.place - 1)::smallint AS rate, coalesce(jsonb_typeof(e.rate -> 'tiers') = 'object', false) AS tiered
             FROM rate_cards c, jsonb_array_elements(c.rates) WITH ORDINALITY AS e (rate, place)
             WHERE c.rate_card_id = r.rate_card_id AND s.dimensions @> coalesce(e.rate -> 'when', '{{}}') ORDER BY e.place LIMIT 1) p
         WHERE p.tiered GROUP BY 1, 2, 3, 4",
        records(part, "rate_card_id", &rules.tiered_cards)
    )
}

/// Slots are filled in for the period in which they are defined, so counters are true from that period on. Past ones may have been
/// cleaned away: of those only what is there is compared.
fn quotas(conn: &mut PgConnection, rules: &Rules, org_id: i64) -> Result<Option<Sides>, Error> {
    let counted = |slot: &&SlotRule| slot.orgs.as_ref().is_none_or(|orgs| orgs.contains(&org_id));
    let slots: Vec<&SlotRule> = rules.slots.iter().filter(counted).collect();
    if slots.is_empty() {
        return Ok(None);
    }
    let org = Directory::default().find(conn, org_id)?;
    let now = Utc::now();
    let (mut lines, mut first) = (Vec::new(), NaiveDate::MAX);
    for slot in slots {
        let days = if slot.per_subject { SUBJECT_DAYS } else { QUOTA_DAYS };
        let kept = now.checked_sub_days(Days::new(days)).unwrap_or(now);
        let mut since = label(&org, slot.period, slot.created_at).max(label(&org, slot.period, kept));
        if let Some(whole) = rules.first_whole_day {
            since = since.max(whole);
        }
        first = first.min(since);
        lines.push(format!("({}, '{since}'::date, '{}'::date)", slot.slot_id, label(&org, slot.period, now)));
    }
    // A billing period begins by UTC, up to a day after the local day on which it does.
    let part = Part {
        org_id,
        from: first.pred_opt().unwrap_or(first),
        before: NaiveDate::from_ymd_opt(9999, 1, 1).unwrap_or(first),
    };
    let slots = format!("(VALUES {}) AS k (slot_id, since, running)", lines.join(", "));
    let meters: &[i32] = &rules.additive;
    let told = format!(
        "SELECT slot_id, subject, period, sum(quantity) AS used, bool_or(period >= running) AS running FROM (
             SELECT q.slot_id, CASE WHEN q.per_subject THEN coalesce(r.subject, '') ELSE '' END AS subject, k.since, k.running, r.quantity,
                 CASE q.period WHEN 'day' THEN r.day WHEN 'month' THEN r.month ELSE coalesce(r.billing_period, r.month) END AS period
             FROM (SELECT series_id, subject, day, date_trunc('month', day::timestamp)::date AS month, billing_period, sum(quantity) AS quantity
                   FROM {records} r GROUP BY series_id, subject, day, billing_period) r
             JOIN usage_series s ON s.org_id = {org_id} AND s.series_id = r.series_id
             JOIN quota_slots q ON q.meter_id = s.meter_id AND s.dimensions @> q.filter
             JOIN {slots} USING (slot_id)) c
         WHERE period >= since GROUP BY slot_id, subject, period",
        records = records(part, "meter_id", meters)
    );
    let stored = format!(
        "EXISTS (SELECT FROM {slots} WHERE k.slot_id = quota_counters.slot_id AND quota_counters.period >= k.since)"
    );
    let must = if rules.past_counters { "true" } else { "(s.used IS NOT NULL OR t.running)" };
    Ok(Some(Sides { told, stored, must }))
}

fn label(org: &OrgContext, kind: PeriodKind, at: DateTime<Utc>) -> NaiveDate {
    let day = org.day(at);
    match kind {
        PeriodKind::Day => day,
        PeriodKind::Month => month_of(day),
        PeriodKind::Billing => org.billing_period(at).unwrap_or_else(|| month_of(day)),
    }
}
