//! What each book must say, as SQL over the records.

use chrono::NaiveDate;
use diesel::pg::PgConnection;

use super::parts::Part;
use super::rules::SlotRule;
use super::{DerivedTable, Rules};
use crate::billing::directory::{Directory, OrgContext};
use crate::error::Error;
use crate::metering::levels;
use crate::metering::periods::{ALWAYS, CountedDays, Period};
use crate::metering::rates::play;
use crate::metering::rating::CONDITION;
use crate::metering::slots::PeriodKind;
use crate::time::Clock;

/// Past days in which counters of quotas are compared at most; older ones may have been cleaned away.
const COMPARED: CountedDays = CountedDays { org: 365, subject: 6 };

/// What is compared, as SQL. Only numbers and dates of ours are written into it, never a caller's text.
pub(super) struct Sides {
    /// The rows that the records make.
    pub(super) told: String,
    /// Which rows of the table are meant.
    pub(super) stored: String,
    /// Which of the differences count.
    pub(super) must: String,
}

impl DerivedTable {
    /// `None`: there is nothing to be counted in it.
    pub(super) fn told(
        self,
        conn: &mut PgConnection,
        rules: &Rules,
        part: Part,
    ) -> Result<Option<Sides>, Error> {
        let days = |column: &str, part: Part| {
            let Part { orgs, from, before } = part;
            format!("{} AND {column} >= '{from}' AND {column} < '{before}'", orgs.sql("org_id"))
        };
        let sides = |told: String, stored: String| Sides { told, stored, must: "true".to_owned() };
        Ok(match self {
            Self::Summaries => Some(sides(summaries(rules, part), days("day", part))),
            Self::Uniques => {
                (!rules.uniques.is_empty()).then(|| sides(uniques(rules, part), days("day", part)))
            }
            Self::Rating => part.whole_months().map(|part| Sides {
                told: rating(rules, part),
                stored: format!("{} AND {}", days("period", part), counts()),
                must: "(s.quantity IS NOT NULL OR t.own)".to_owned(),
            }),
            Self::Levels => (!rules.levels.is_empty()).then(|| levels(rules, part)),
            Self::Quotas => quotas(conn, rules, part)?,
            Self::Unpriced => (rules.first_whole_day.is_none() && part.is_all_days())
                .then(|| sides(unpriced(part), part.orgs.sql("org_id"))),
        })
    }
}

/// The records of these meters that were posted to the days of `part`.
fn records(part: Part, ids: &[i32]) -> String {
    records_of(part, "day", ids)
}

/// The records of these meters that belong to the days of `part`, posted there or not; `own` is the day.
fn own_records(part: Part, ids: &[i32]) -> String {
    format!(
        "(SELECT *, coalesce(own_day, day) AS own FROM {} o)",
        records_of(part, "coalesce(own_day, day)", ids)
    )
}

fn records_of(part: Part, day: &str, ids: &[i32]) -> String {
    let Part { orgs, from, before } = part;
    let own = format!(
        "{} AND {day} >= '{from}' AND {day} < '{before}' AND meter_id = ANY ({})",
        orgs.sql("org_id"),
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

/// Records of meters that do not add up, each with whether it stands: what was taken back on the same day
/// does not. What a later day took back, because this one is in a closed month, stands here, and there is
/// nothing to take it from there: that record is left out. It is told by sorting, not by looking for each
/// one's correction: however many share an instant, it takes no longer.
fn standing(part: Part, ids: &[i32]) -> String {
    format!(
        "(SELECT *, correction % 2 = 0 AND next IS DISTINCT FROM correction + 1 AS stands
          FROM (SELECT *, lead(correction) OVER w AS next, lag(correction) OVER w AS last FROM {} r
                WINDOW w AS (PARTITION BY org_id, series_id, day, meter_id, occurred_at, event_key
                    ORDER BY correction)) r
          WHERE correction % 2 = 0 OR last = correction - 1)",
        records(part, ids)
    )
}

/// A way for each aggregation, in which rows are gathered by hashing: of the values and the latest ones, none
/// is sorted.
fn summaries(rules: &Rules, part: Part) -> String {
    const SIGNED: &str = "CASE correction % 2 WHEN 0 THEN 1 ELSE -1 END";
    const BY: &str = "GROUP BY org_id, series_id, day";
    let sums =
        format!("sum({SIGNED})::bigint AS count, sum(cost) AS cost, sum(battery_units) AS battery_units");
    let mut ways = vec![format!(
        "SELECT org_id, series_id, day, sum(quantity) AS quantity, {sums}, NULL::timestamptz AS latest_at
         FROM {} r {BY}",
        records(part, &rules.additive)
    )];
    if !rules.maxima.is_empty() {
        ways.push(format!(
            "SELECT org_id, series_id, day, coalesce(max(quantity) FILTER (WHERE stands), 0), {sums}, NULL
             FROM {} r {BY}",
            standing(part, &rules.maxima)
        ));
    }
    if !rules.uniques.is_empty() {
        ways.push(format!(
            "SELECT org_id, series_id, day, count(value) FILTER (WHERE stands),
                 sum(count)::bigint, sum(cost), sum(battery_units), NULL
             FROM (SELECT org_id, series_id, day, value, bool_or(stands) AS stands, {sums}
                   FROM {} r {BY}, value) r {BY}",
            standing(part, &rules.uniques)
        ));
    }
    if !rules.levels.is_empty() {
        ways.push(format!(
            "SELECT org_id, series_id, day, 0, {sums}, NULL FROM {} r {BY}",
            standing(part, &rules.levels)
        ));
    }
    if !rules.latest.is_empty() {
        // Arrays are compared element by element: the latest, and of those the greatest.
        ways.push(format!(
            "SELECT org_id, series_id, day, coalesce(latest[2], 0), count, cost, battery_units, latest_at
             FROM (SELECT org_id, series_id, day, {sums}, max(occurred_at) FILTER (WHERE stands) AS latest_at,
                       max(ARRAY[extract(epoch FROM occurred_at), quantity]) FILTER (WHERE stands) AS latest
                   FROM {} r {BY}) r",
            standing(part, &rules.latest)
        ));
    }
    ways.join(" UNION ALL ")
}

/// A level hangs on all records since its last set. Where records are no longer kept, those levels are
/// compared whose last set is still there. The days of the part do not matter.
fn levels(rules: &Rules, part: Part) -> Sides {
    let own = part.orgs.sql("r.org_id");
    let standing = levels::valid_records(&format!("{own} AND r.meter_id = ANY ({})", list(&rules.levels)));
    let since = |day: NaiveDate| {
        let whole = format!("('{day}'::date + 1)::timestamp AT TIME ZONE 'UTC'");
        format!("least(t.set_at, s.set_at) >= {whole}")
    };
    Sides {
        told: format!("SELECT * FROM {} t", levels::states(&standing)),
        stored: part.orgs.sql("org_id"),
        must: rules.first_whole_day.map_or_else(|| "true".to_owned(), since),
    }
}

/// The first 16 bytes of a value's SHA-256, as SQL: what `usage_uniques` keeps of a value.
pub const VALUE_DIGEST: &str = "encode(substr(sha256(convert_to(value, 'UTF8')), 1, 16), 'hex')::uuid";

fn uniques(rules: &Rules, part: Part) -> String {
    format!(
        "SELECT org_id, series_id, day, {VALUE_DIGEST} AS value_digest, 1 AS n
         FROM (SELECT org_id, series_id, day, value FROM {} r WHERE stands AND value IS NOT NULL
               GROUP BY org_id, series_id, day, value) r",
        standing(part, &rules.uniques)
    )
}

/// Usage that no rate fits. What was taken back, or priced since, is a record with the negative quantity.
fn unpriced(part: Part) -> String {
    format!(
        "SELECT org_id, series_id, sum(CASE correction % 2 WHEN 0 THEN 1 ELSE -1 END)::bigint AS events,
             sum(quantity) AS quantity, min(occurred_at) AS first_seen, max(occurred_at) AS last_seen
         FROM usage_records WHERE {} AND pricing = 2 GROUP BY org_id, series_id",
        part.orgs.sql("org_id")
    )
}

/// Which rows of the counters of tiers count: a card that prices nothing of the period any more is not asked
/// again.
fn counts() -> String {
    format!(
        "NOT EXISTS (SELECT FROM {cards} c
             WHERE c.rate_card_id = rating_counters.rate_card_id AND NOT {in_play})",
        cards = play::CARDS,
        in_play = play::in_play_sql("c", "rating_counters.period", "rating_counters.began"),
    )
}

/// A record that a card priced counts to each card in play in its period, to the first rate that fits its
/// dimensions, if that has tiers. A counter must be there only if its card priced something (`own`): others
/// begin when it does. Counters of billing periods that began in the days of `part` count usage of later
/// months, too.
fn rating(rules: &Rules, part: Part) -> String {
    let by_month = rating_of(
        &own_records(part, &rules.tiered),
        "NULL::timestamptz AS billing_start, billing_start IS NOT NULL AS has_billing",
        "(c.period = 'month' OR NOT r.has_billing)",
    );
    if rules.tiered_by_billing.is_empty() {
        return by_month;
    }
    let Part { orgs, from, before } = part;
    let by_billing = format!(
        "(SELECT *, coalesce(own_day, day) AS own FROM usage_records
          WHERE {} AND meter_id = ANY ({}) AND occurred_at >= '{from}'::timestamp AT TIME ZONE 'UTC'
              AND billing_start >= '{from}'::timestamp AT TIME ZONE 'UTC'
              AND billing_start < '{before}'::timestamp AT TIME ZONE 'UTC')",
        orgs.sql("org_id"),
        list(&rules.tiered_by_billing),
    );
    let by_billing = rating_of(&by_billing, "billing_start, true AS has_billing", "c.period = 'billing'");
    format!("{by_month} UNION ALL {by_billing}")
}

/// The counters of cards that `counts` says, by `records`, of which `billing` is told. The sums come first,
/// apart from the rest, so that they are planned as what they are: all of the work. The rate is looked up for
/// each sum, and no join, so that it does not blur what the join of the series costs.
fn rating_of(records: &str, billing: &str, counts: &str) -> String {
    format!(
        "(WITH sums AS MATERIALIZED (
             SELECT org_id, series_id, meter_id, rate_card_id, {billing},
                 date_trunc('month', own::timestamp)::date AS month, sum(quantity) AS quantity
             FROM {records} r WHERE rate_card_id IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6, 7)
         SELECT org_id, meter_id, rate_card_id, rate, period, began, sum(quantity) AS quantity,
             bool_or(own) AS own
         FROM (
             SELECT r.org_id, r.meter_id, c.rate_card_id, {period} AS period, {began} AS began, r.quantity,
                 c.rate_card_id = r.rate_card_id AS own, (
                 SELECT CASE WHEN jsonb_typeof(e.rate -> 'tiers') = 'object' THEN (e.place - 1)::smallint END
                 FROM jsonb_array_elements(c.rates) WITH ORDINALITY AS e (rate, place)
                 WHERE {CONDITION}
                 ORDER BY e.place LIMIT 1) AS rate
             FROM sums r JOIN usage_series s ON s.org_id = r.org_id AND s.series_id = r.series_id
             JOIN {cards} c ON c.meter_id = r.meter_id AND c.org_id IN (0, r.org_id)
                 AND {counts} AND {in_play}
             OFFSET 0) r
         WHERE rate IS NOT NULL GROUP BY 1, 2, 3, 4, 5, 6)",
        period = play::PERIOD,
        began = play::BEGAN,
        cards = play::CARDS,
        in_play = play::in_play_sql("c", play::PERIOD, play::BEGAN),
    )
}

/// From which period on counters are true is told by [`since`]. Past ones may have been cleaned away: of
/// those only what is there is compared. Of the days of `part`, periods that begin on them are compared.
fn quotas(conn: &mut PgConnection, rules: &Rules, part: Part) -> Result<Option<Sides>, Error> {
    if rules.slots.is_empty() {
        return Ok(None);
    }
    let now = rules.given.as_of.now;
    let org_ids = super::orgs(conn, part.orgs)?;
    let directory = Directory::new(Clock::from_fn(move || now), rules.given.as_of.grace_days);
    let (mut lines, mut first, mut first_by_subject) = (Vec::new(), NaiveDate::MAX, NaiveDate::MAX);
    for (_, org) in directory.load(conn, &[], &org_ids)? {
        for slot in rules.slots.iter().filter(|slot| slot.counts(org.org_id)) {
            if slot.period == PeriodKind::Always {
                lines.push(format!("({}, {}, '{ALWAYS}'::date, '{ALWAYS}'::date)", org.org_id, slot.slot_id));
                continue;
            }
            let since = since(rules, &org, slot).max(part.from);
            let earliest = if slot.per_subject { &mut first_by_subject } else { &mut first };
            *earliest = since.min(*earliest);
            let running = Period::at(slot.period, &org, now).label;
            lines.push(format!("({}, {}, '{since}'::date, '{running}'::date)", org.org_id, slot.slot_id));
        }
    }
    if lines.is_empty() {
        return Ok(None);
    }
    // A billing period begins by UTC, up to a day after the local day on which it does.
    let day_before = |day: NaiveDate| day.pred_opt().unwrap_or(day);
    let (subjects_from, ever) = (day_before(first_by_subject), NaiveDate::from_ymd_opt(9999, 1, 1));
    let counted = Part {
        orgs: part.orgs,
        from: day_before(first).min(subjects_from).min(ever.unwrap_or(NaiveDate::MAX)),
        before: ever.unwrap_or(NaiveDate::MAX),
    };
    let begins = |column: &str| match ever.filter(|ever| part.before < *ever) {
        Some(_) => format!("{column} < '{}'", part.before),
        None => "true".to_owned(),
    };
    // Subjects are told apart where a slot counts them, as there may be as many as there are records.
    let subject = if first_by_subject == NaiveDate::MAX {
        "NULL::text".to_owned()
    } else {
        format!("CASE WHEN own >= '{subjects_from}' THEN subject END")
    };
    let told = format!(
        "WITH sums AS MATERIALIZED (
             SELECT org_id, series_id, {subject} AS subject,
                 own AS day, date_trunc('month', own::timestamp)::date AS month, billing_period,
                     billing_start,
                 sum(quantity) AS quantity
             FROM {records} r GROUP BY 1, 2, 3, 4, billing_period, billing_start)
         SELECT org_id, slot_id, subject, period, began, sum(quantity) AS used,
             bool_or(period >= running) AS running FROM (
             SELECT r.org_id, q.slot_id, CASE WHEN q.per_subject THEN coalesce(r.subject, '') ELSE ''
                 END AS subject,
                 k.since, k.running, r.quantity,
                 CASE q.period WHEN 'day' THEN r.day WHEN 'month' THEN r.month
                     ELSE coalesce(r.billing_period, r.month) END AS period,
                 coalesce(CASE q.period WHEN 'billing' THEN r.billing_start END, 'epoch') AS began
             FROM sums r JOIN usage_series s ON s.org_id = r.org_id AND s.series_id = r.series_id
             JOIN quota_slots q ON q.meter_id = s.meter_id AND s.dimensions @> q.filter
             JOIN {slots} ON k.org_id = r.org_id AND k.slot_id = q.slot_id) c
         WHERE period >= since AND {begins} GROUP BY org_id, slot_id, subject, period, began
         UNION ALL
         SELECT l.org_id, q.slot_id, CASE WHEN q.per_subject THEN l.subject ELSE '' END, '{ALWAYS}'::date,
             timestamptz 'epoch', sum(greatest(l.set_value + l.changes, 0)), true
         FROM usage_levels l JOIN usage_series s ON s.org_id = l.org_id AND s.series_id = l.series_id
         JOIN quota_slots q ON q.meter_id = s.meter_id AND q.period = 'always' AND s.dimensions @> q.filter
         JOIN {slots} ON k.org_id = l.org_id AND k.slot_id = q.slot_id
         GROUP BY 1, 2, 3",
        records = own_records(counted, &rules.additive),
        slots = slots(&lines),
        begins = begins("period"),
    );
    let stored = format!(
        "{own} AND {begins} AND EXISTS (
             SELECT FROM {slots} WHERE (k.org_id, k.slot_id) = (quota_counters.org_id, quota_counters.slot_id)
                 AND quota_counters.period >= k.since)",
        own = part.orgs.sql("org_id"),
        begins = begins("quota_counters.period"),
        slots = slots(&lines),
    );
    let must = if rules.past_counters { "true" } else { "(s.used IS NOT NULL OR t.running)" };
    Ok(Some(Sides { told, stored, must: must.to_owned() }))
}

fn slots(lines: &[String]) -> String {
    format!("(VALUES {}) AS k (org_id, slot_id, since, running)", lines.join(", "))
}

/// The first period in which the counters of a slot are to be compared: what is true of them says
/// [`crate::quota::define`].
fn since(rules: &Rules, org: &OrgContext, slot: &SlotRule) -> NaiveDate {
    // A correction makes a counter anew that has been cleaned away: it is not compared.
    let kept = rules.given.kept;
    let compared = CountedDays {
        org: COMPARED.org.min(kept.org.saturating_sub(1)),
        subject: COMPARED.subject.min(kept.subject.saturating_sub(1)),
    };
    let kept = compared.first_label(slot.period, slot.per_subject, org, rules.given.as_of.now);
    let made = || Period::at(slot.period, org, slot.created_at).label;
    let since = if slot.orgs.contains(&org.org_id) { kept } else { made().max(kept) };
    since.max(rules.first_whole_day.unwrap_or(NaiveDate::MIN))
}
