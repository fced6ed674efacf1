//! Batteries: balances, grants and ledger entries, compared with each other and with usage records.

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::Text;

use crate::db::full_scan;
use crate::error::Error;

/// Differences reported for each rule, at most.
const REPORTED: usize = 20;

/// The rules: each query returns a sentence for each row that breaks its rule.
const RULES: [&str; 7] = [
    // Entries are numbered without gaps, in the order of time, and each has the sum so far.
    "SELECT format('battery_entries: org %s, entry %s: number %s, balance after it %s instead of %s',
         o.public_id, e.sequence, n, balance_after, sum) AS line
     FROM (SELECT org_id, sequence, balance_after, at, row_number() OVER w AS n, sum(amount) OVER w AS sum,
         lag(at) OVER w AS before
           FROM battery_entries WINDOW w AS (PARTITION BY org_id ORDER BY sequence)) e JOIN orgs o
               USING (org_id)
     WHERE sequence <> n OR balance_after <> sum OR at < before ORDER BY e.org_id, e.sequence",
    "SELECT format('battery_accounts: org %s: balance %s, entries %s, but its entries come to %s in %s',
         o.public_id, a.balance, a.entries, coalesce(e.sum, 0), coalesce(e.n, 0)) AS line
     FROM battery_accounts a
     FULL JOIN (SELECT org_id, sum(amount) AS sum, count(*) AS n FROM battery_entries GROUP BY 1) e
         USING (org_id) JOIN orgs o USING (org_id)
     WHERE a.balance IS DISTINCT FROM coalesce(e.sum, 0) OR a.entries IS DISTINCT FROM coalesce(e.n, 0)
     ORDER BY o.org_id",
    // The balance is what remains of the grants, less the debt.
    "SELECT format('battery_grants: org %s: balance %s, but %s remain', o.public_id, a.balance,
         coalesce(g.remaining, 0)) AS line
     FROM battery_accounts a
     LEFT JOIN (SELECT org_id, sum(remaining) FILTER (WHERE state <> 'scheduled') AS remaining
         FROM battery_grants GROUP BY 1) g USING (org_id)
     JOIN orgs o USING (org_id) WHERE coalesce(g.remaining, 0) - greatest(-a.balance, 0) <> a.balance
     ORDER BY o.org_id",
    // What remains of a grant is what its entries added less what they drew.
    "SELECT format('battery_grants: org %s, grant %s: %s remain, but the entries leave %s', o.public_id,
         g.grant_id, g.remaining, coalesce(m.made, 0) - coalesce(d.drawn, 0)) AS line
     FROM battery_grants g JOIN orgs o USING (org_id)
     LEFT JOIN (SELECT org_id, grant_number, sum(amount) AS made FROM battery_entries
                WHERE amount > 0 AND kind IN ('grant', 'bonus', 'adjustment') GROUP BY 1, 2) m
                    USING (org_id, grant_number)
     LEFT JOIN (SELECT e.org_id, (d->>0)::bigint AS grant_number, sum((d->>1)::numeric) AS drawn
                FROM battery_entries e, jsonb_array_elements(e.draws) d GROUP BY 1, 2) d
                    USING (org_id, grant_number)
     WHERE g.state <> 'scheduled' AND coalesce(m.made, 0) - coalesce(d.drawn, 0) <> g.remaining
     ORDER BY g.org_id, g.grant_number",
    "SELECT format('battery_accounts: org %s: %s reserved, but its open reservations hold %s', o.public_id,
         a.reserved, coalesce(r.held, 0)) AS line
     FROM battery_accounts a JOIN orgs o USING (org_id)
     LEFT JOIN (SELECT org_id, sum(battery_units) AS held FROM quota_reservations WHERE state = 'open'
         GROUP BY 1) r USING (org_id)
     WHERE a.reserved <> coalesce(r.held, 0) ORDER BY o.org_id",
    // An entry burned what the records of its batch cost. Batches from before the retention dropped records
    // cannot be compared.
    "WITH kept AS (SELECT coalesce(max(gone_at), '-infinity') AS since,
         coalesce((extract(epoch FROM max(gone_at)) * 1000000)::bigint << 11, 0) AS batch
         FROM usage_months_gone)
     SELECT format('battery_entries: org %s, batch %s: %s burned, but its records come to %s', o.public_id,
         batch, coalesce(e.units, 0), coalesce(r.units, 0)) AS line
     FROM (SELECT org_id, battery_batch AS batch, sum(battery_units) AS units FROM usage_records, kept
           WHERE battery_batch > kept.batch GROUP BY 1, 2 HAVING sum(battery_units) <> 0) r
     FULL JOIN (SELECT e.org_id, e.batch, -sum(e.amount) AS units FROM battery_entries e, kept
         WHERE e.batch > kept.batch GROUP BY 1, 2) e USING (org_id, batch)
     JOIN orgs o USING (org_id) WHERE abs(coalesce(r.units, 0) - coalesce(e.units, 0)) >= 0.000000000001
     ORDER BY org_id, batch",
    // What a batch leaves below the last decimal place is carried to the next batch, so the sums agree.
    "SELECT format('battery_entries: org %s: %s burned and %s carried, but its records come to %s',
         o.public_id, coalesce(e.units, 0), a.carried, coalesce(r.units, 0)) AS line
     FROM battery_accounts a JOIN orgs o USING (org_id)
     LEFT JOIN (SELECT org_id, sum(battery_units) AS units FROM usage_records WHERE battery_batch IS NOT NULL
                GROUP BY 1) r USING (org_id)
     LEFT JOIN (SELECT org_id, -sum(amount) AS units FROM battery_entries WHERE batch IS NOT NULL
         GROUP BY 1) e
         USING (org_id)
     WHERE coalesce(e.units, 0) + a.carried <> coalesce(r.units, 0)
       AND NOT EXISTS (SELECT FROM usage_months_gone) ORDER BY o.org_id",
];

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    line: String,
}

/// What was compared, and what differs.
#[derive(Debug, Default)]
pub struct Report {
    pub accounts: u64,
    /// A sentence each; a bounded number.
    pub differences: Vec<String>,
}

/// Checks all rules in one snapshot; usage may be written meanwhile. `progress` receives the number of rules
/// done and of all rules.
pub fn verify(conn: &mut PgConnection, mut progress: impl FnMut(u64, u64)) -> Result<Report, Error> {
    full_scan::in_snapshot(conn, |conn| {
        let accounts: i64 = crate::schema::battery_accounts::table.count().get_result(conn)?;
        let mut report = Report { accounts: accounts.unsigned_abs(), differences: Vec::new() };
        for (done, rule) in (0..).zip(RULES) {
            progress(done, RULES.len() as u64);
            let lines: Vec<Line> = diesel::sql_query(format!("{rule} LIMIT {REPORTED}")).load(conn)?;
            report.differences.extend(lines.into_iter().map(|row| row.line));
        }
        Ok(report)
    })
}
