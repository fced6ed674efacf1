//! Batteries with units for tests, and their books.

use coulomb::battery::{Accounts, Depth, GrantSource, NewGrant};
use diesel::Connection;
use rust_decimal::Decimal;

use super::Database;

impl Database {
    /// Grants units to an org (by row id), as a bonus that never expires.
    pub fn grant(&self, org_id: i64, key: &str, units: &str) {
        let (now, amount) = (chrono::Utc::now(), units.parse::<Decimal>().expect("a decimal"));
        let mut conn = self.platform();
        let granted = conn.transaction(|conn| {
            let mut accounts = Accounts::lock(conn, [org_id], Depth::All, now)?;
            let new = NewGrant {
                source: GrantSource::Bonus,
                key: key.to_owned(),
                amount,
                priority: None,
                effective_at: None,
                expires_at: None,
                link: None,
                reason: None,
                actor: None,
            };
            accounts.get_mut(org_id).expect("locked").grant(new, now);
            accounts.write(conn)
        });
        granted.expect("it is granted");
    }

    /// The entries of an org's ledger: `kind amount → balance`.
    pub fn ledger(&self, org_id: i64) -> Vec<String> {
        let lines = self.value(&format!(
            "SELECT string_agg(kind || ' ' || trim_scale(amount) || ' → ' || trim_scale(balance_after),
                 E'\\n' ORDER BY sequence)
             FROM battery_entries WHERE org_id = {org_id}"
        ));
        lines.unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Errors in the batteries' books.
    pub fn unsound_batteries(&self) -> Vec<String> {
        const CHECKS: [(&str, &str); 7] = [
            (
                "usage and the entries that burn it",
                "SELECT count(*) FROM (SELECT org_id, battery_batch AS batch, sum(battery_units) AS units
                     FROM usage_records
                         WHERE battery_batch IS NOT NULL GROUP BY 1, 2 HAVING sum(battery_units) <> 0) r
                     FULL JOIN (SELECT org_id, batch, -sum(amount) AS units FROM battery_entries
                         WHERE batch IS NOT NULL GROUP BY 1, 2) e
                     USING (org_id, batch) WHERE r.units IS DISTINCT FROM e.units",
            ),
            (
                "units without a batch",
                "SELECT count(*) FROM usage_records
                 WHERE (battery_units <> 0) <> (battery_batch IS NOT NULL)",
            ),
            (
                "one entry an org and batch",
                "SELECT count(*) FROM (SELECT FROM battery_entries WHERE source = 'usage'
                     GROUP BY org_id, batch HAVING count(*) > 1) e",
            ),
            (
                "the chain of entries",
                "SELECT count(*) FROM (SELECT sequence, balance_after, at, row_number() OVER w AS n,
                     sum(amount) OVER w AS sum, lag(at) OVER w AS before
                     FROM battery_entries WINDOW w AS (PARTITION BY org_id ORDER BY sequence)) e
                 WHERE sequence <> n OR balance_after <> sum OR at < before",
            ),
            (
                "accounts and entries",
                "SELECT count(*) FROM battery_accounts a
                 FULL JOIN (SELECT org_id, sum(amount) AS sum, count(*) AS n FROM battery_entries
                     GROUP BY 1) e
                     USING (org_id) WHERE a.balance IS DISTINCT FROM coalesce(e.sum, 0)
                         OR a.entries IS DISTINCT FROM coalesce(e.n, 0)",
            ),
            (
                "grants and balances",
                "SELECT count(*) FROM battery_accounts a LEFT JOIN (
                         SELECT org_id, sum(remaining) FILTER (WHERE state <> 'scheduled') AS remaining
                         FROM battery_grants GROUP BY 1) g USING (org_id)
                 WHERE coalesce(g.remaining, 0) - greatest(-a.balance, 0) <> a.balance",
            ),
            (
                "grants and what was drawn",
                "SELECT count(*) FROM battery_grants g LEFT JOIN (
                         SELECT org_id, grant_number, sum(amount) AS made FROM battery_entries
                         WHERE amount > 0 AND kind IN ('grant', 'bonus', 'adjustment') GROUP BY 1, 2) m
                             USING (org_id, grant_number)
                     LEFT JOIN (SELECT e.org_id, (d->>0)::bigint AS grant_number,
                         sum((d->>1)::numeric) AS drawn
                         FROM battery_entries e, jsonb_array_elements(e.draws) d GROUP BY 1, 2) d
                             USING (org_id, grant_number)
                 WHERE g.state <> 'scheduled' AND coalesce(m.made, 0) - coalesce(d.drawn, 0) <> g.remaining",
            ),
        ];
        let wrong = |(name, sql): (&str, &str)| {
            let count = self.number(sql);
            (count != 0).then(|| format!("{name}: {count}"))
        };
        CHECKS.into_iter().filter_map(wrong).collect()
    }
}
