//! Compares the keys of usage events with the records that they were claimed for.

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::parts::Part;
use crate::error::Error;

/// A sentence for each key without its record and for each record without its key, at most `limit` of each.
/// Corrections are not compared, nor keys of months whose records were dropped. Days are days of UTC here.
pub fn unmatched_keys(conn: &mut PgConnection, part: Part, limit: usize) -> Result<Vec<String>, Error> {
    #[derive(QueryableByName)]
    struct Line {
        #[diesel(sql_type = Text)]
        line: String,
    }
    let own = |of: &str| {
        let mut own = part.orgs.sql(&format!("{of}.org_id"));
        for (day, than) in [(part.from, ">="), (part.before, "<")] {
            if (1..=9999).contains(&chrono::Datelike::year(&day)) {
                own.push_str(&format!(" AND {of}.occurred_at {than} '{day}'::timestamp AT TIME ZONE 'UTC'"));
            }
        }
        own
    };
    let at = |of: &str| {
        format!("to_char({of}.occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
    };
    let org = |of: &str| {
        format!("coalesce((SELECT public_id FROM orgs o WHERE o.org_id = {of}.org_id), {of}.org_id::text)")
    };
    let mut lines = Vec::new();
    // Most comparisons find nothing. MATERIALIZED makes PostgreSQL plan for all rows: the plan that finds the
    // first few rows quickly is the slowest for all.
    for sql in [
        format!(
            "WITH k AS MATERIALIZED (
                 SELECT org_id, event_key, occurred_at FROM usage_keys k
                 WHERE {own} AND NOT EXISTS (
                         SELECT FROM usage_records r
                         WHERE {own_records} AND r.correction = 0 AND r.org_id = k.org_id
                             AND r.event_key = k.event_key AND r.occurred_at = k.occurred_at)
                     AND NOT EXISTS (
                         SELECT FROM usage_months_gone g
                         WHERE g.month = date_trunc('month', k.occurred_at AT TIME ZONE 'UTC')::date))
             SELECT format('usage_keys %s %s: of %s, but there is no record of it', {org}, k.event_key,
                 {at}) AS line
             FROM (SELECT * FROM k LIMIT {limit}) k",
            org = org("k"),
            at = at("k"),
            own = own("k"),
            own_records = own("r"),
        ),
        format!(
            "WITH r AS MATERIALIZED (
                 SELECT org_id, event_id, source, occurred_at FROM usage_records r
                 WHERE {own} AND r.correction = 0 AND NOT EXISTS (
                     SELECT FROM usage_keys k
                     WHERE {own_keys} AND k.org_id = r.org_id
                         AND k.event_key = r.event_key AND k.occurred_at = r.occurred_at))
             SELECT DISTINCT format(
                 'usage_records %s event %L of source %L: of %s, but there is no key of it',
                 {org}, r.event_id, r.source, {at}) AS line
             FROM (SELECT * FROM r LIMIT {limit}) r",
            org = org("r"),
            at = at("r"),
            own = own("r"),
            own_keys = own("k"),
        ),
        format!(
            "WITH r AS MATERIALIZED (
                 SELECT DISTINCT org_id, series_id FROM usage_records r WHERE {own}),
             s AS MATERIALIZED (
                 SELECT r.* FROM r LEFT JOIN usage_series s USING (org_id, series_id)
                 WHERE s.meter_id IS NULL)
             SELECT format('usage_records %s: records of the series %s, which is not stored, so that no read \
                 shows them', {org}, s.series_id) AS line
             FROM (SELECT * FROM s LIMIT {limit}) s",
            org = org("s"),
            own = own("r"),
        ),
    ] {
        let rows: Vec<Line> = diesel::sql_query(sql).load(conn)?;
        lines.extend(rows.into_iter().map(|row| row.line));
    }
    Ok(lines)
}
