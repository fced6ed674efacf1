//! The SQL that computes the rows of each derived table from the records.

mod quotas;

use chrono::NaiveDate;
use diesel::pg::PgConnection;

use super::parts::Part;
use super::{CountingRules, DerivedTable};
use crate::error::Error;
use crate::metering::levels;
use crate::metering::rates::play;
use crate::metering::rating::CONDITION;

/// The two sides of a comparison, as SQL. It contains only numbers and dates that the daemon made, never text
/// of a caller.
pub(super) struct Sides {
    /// The rows that the records make: a query.
    pub(super) expected: String,
    /// The rows of the table to compare with: a condition.
    pub(super) stored: String,
    /// The differences that count: a condition.
    pub(super) counts_if: String,
}

impl DerivedTable {
    /// `None`: the records of the part make no row of this table.
    pub(super) fn expected(
        self,
        conn: &mut PgConnection,
        rules: &CountingRules,
        part: Part,
    ) -> Result<Option<Sides>, Error> {
        let days = |column: &str, part: Part| {
            let Part { orgs, from, before } = part;
            format!("{} AND {column} >= '{from}' AND {column} < '{before}'", orgs.sql("org_id"))
        };
        let sides =
            |expected: String, stored: String| Sides { expected, stored, counts_if: "true".to_owned() };
        Ok(match self {
            Self::Summaries => Some(sides(summaries(rules, part), days("day", part))),
            Self::Uniques => {
                (!rules.uniques.is_empty()).then(|| sides(uniques(rules, part), days("day", part)))
            }
            Self::Rating => part.whole_months().map(|part| Sides {
                expected: rating(rules, part),
                stored: format!("{} AND {}", days("period", part), counts()),
                counts_if: "(s.quantity IS NOT NULL OR t.own)".to_owned(),
            }),
            Self::Levels => (!rules.levels.is_empty()).then(|| levels(rules, part)),
            Self::Quotas => quotas::quotas(conn, rules, part)?,
            Self::Unpriced => (rules.first_whole_day.is_none() && part.is_all_days())
                .then(|| sides(unpriced(part), part.orgs.sql("org_id"))),
        })
    }
}

/// The records of these meters that are posted to the days of `part`.
fn records(part: Part, ids: &[i32]) -> String {
    records_of(part, "day", ids)
}

/// The records of these meters that occurred on the days of `part` (column `own`), posted there or not.
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

/// Records of meters that do not add up, with a column `stands`: false for a record that was taken back on
/// the same day. Usage of a closed month is taken back on a later day: the record stands on its own day, and
/// the correction, which has nothing to take from on the later day, is left out. Sorting finds the
/// corrections, so the time does not depend on how many records share an instant.
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

/// One query for each aggregation. PostgreSQL groups by hashing; it need not sort values or times.
fn summaries(rules: &CountingRules, part: Part) -> String {
    const SIGNED: &str = "CASE correction % 2 WHEN 0 THEN 1 ELSE -1 END";
    const BY: &str = "GROUP BY org_id, series_id, day";
    let sums =
        format!("sum({SIGNED})::bigint AS count, sum(cost) AS cost, sum(battery_units) AS battery_units");
    let mut queries = vec![format!(
        "SELECT org_id, series_id, day, sum(quantity) AS quantity, {sums}, NULL::timestamptz AS latest_at
         FROM {} r {BY}",
        records(part, &rules.additive)
    )];
    if !rules.maxima.is_empty() {
        queries.push(format!(
            "SELECT org_id, series_id, day, coalesce(max(quantity) FILTER (WHERE stands), 0), {sums}, NULL
             FROM {} r {BY}",
            standing(part, &rules.maxima)
        ));
    }
    if !rules.uniques.is_empty() {
        queries.push(format!(
            "SELECT org_id, series_id, day, count(value) FILTER (WHERE stands),
                 sum(count)::bigint, sum(cost), sum(battery_units), NULL
             FROM (SELECT org_id, series_id, day, value, bool_or(stands) AS stands, {sums}
                   FROM {} r {BY}, value) r {BY}",
            standing(part, &rules.uniques)
        ));
    }
    if !rules.levels.is_empty() {
        queries.push(format!(
            "SELECT org_id, series_id, day, 0, {sums}, NULL FROM {} r {BY}",
            standing(part, &rules.levels)
        ));
    }
    if !rules.latest.is_empty() {
        // PostgreSQL compares arrays element by element: the latest, and of equal times the greatest.
        queries.push(format!(
            "SELECT org_id, series_id, day, coalesce(latest[2], 0), count, cost, battery_units, latest_at
             FROM (SELECT org_id, series_id, day, {sums}, max(occurred_at) FILTER (WHERE stands) AS latest_at,
                       max(ARRAY[extract(epoch FROM occurred_at), quantity]) FILTER (WHERE stands) AS latest
                   FROM {} r {BY}) r",
            standing(part, &rules.latest)
        ));
    }
    queries.join(" UNION ALL ")
}

/// A level depends on all records since its last set. When the retention has dropped records, only levels
/// whose last set is still stored are compared. The days of the part do not matter.
fn levels(rules: &CountingRules, part: Part) -> Sides {
    let own = part.orgs.sql("r.org_id");
    let standing = levels::standing(&format!("{own} AND r.meter_id = ANY ({})", list(&rules.levels)));
    let since = |day: NaiveDate| {
        let whole = format!("('{day}'::date + 1)::timestamp AT TIME ZONE 'UTC'");
        format!("least(t.set_at, s.set_at) >= {whole}")
    };
    Sides {
        expected: format!("SELECT * FROM {} t", levels::states(&standing)),
        stored: part.orgs.sql("org_id"),
        counts_if: rules.first_whole_day.map_or_else(|| "true".to_owned(), since),
    }
}

/// The SQL of a value's digest in `usage_uniques`: the first 16 bytes of its SHA-256.
pub const VALUE_DIGEST: &str = "encode(substr(sha256(convert_to(value, 'UTF8')), 1, 16), 'hex')::uuid";

fn uniques(rules: &CountingRules, part: Part) -> String {
    format!(
        "SELECT org_id, series_id, day, {VALUE_DIGEST} AS value_digest, 1 AS n
         FROM (SELECT org_id, series_id, day, value FROM {} r WHERE stands AND value IS NOT NULL
               GROUP BY org_id, series_id, day, value) r",
        standing(part, &rules.uniques)
    )
}

/// Usage that no rate fits. Usage that was taken back, or priced later, has a record with the negative
/// quantity.
fn unpriced(part: Part) -> String {
    format!(
        "SELECT org_id, series_id, sum(CASE correction % 2 WHEN 0 THEN 1 ELSE -1 END)::bigint AS events,
             sum(quantity) AS quantity, min(occurred_at) AS first_seen, max(occurred_at) AS last_seen
         FROM usage_records WHERE {} AND pricing = 2 GROUP BY org_id, series_id",
        part.orgs.sql("org_id")
    )
}

/// The condition for counters of tiers that are compared. When a card prices nothing of a period any more,
/// its counter is not used again and may be wrong.
fn counts() -> String {
    format!(
        "NOT EXISTS (SELECT FROM {cards} c
             WHERE c.rate_card_id = rating_counters.rate_card_id AND NOT {in_play})",
        cards = play::CARDS,
        in_play = play::in_play_sql("c", "rating_counters.period", "rating_counters.began"),
    )
}

/// A priced record counts to each card that is in play in its period: to the first rate that fits its
/// dimensions, if that rate has tiers. A counter must exist only if its card priced something (`own`); the
/// others are made when their card first does. The counter of a billing period that began in the days of
/// `part` also counts usage of later months.
fn rating(rules: &CountingRules, part: Part) -> String {
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

/// The counters of the cards that fit `counts`, from `records` with the columns `billing`. The sums are
/// materialized first, because nearly all of the work is there. The rate of each sum is a subquery, not a
/// join: PostgreSQL estimates the other joins well only without it.
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
