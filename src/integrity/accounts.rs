//! Own invoices: accounts, allocations, states of invoices and numbers of documents, compared with each
//! other.

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::issued;
use crate::db::full_scan;
use crate::error::Error;
use crate::invoicing::{invoices, numbers};

/// Differences reported for each rule, at most.
const REPORTED: i64 = 20;

/// The rules: each query returns a sentence for each row that breaks its rule.
const RULES: [&str; 5] = [
    // Entries are numbered without gaps, and each has the sum so far.
    "SELECT format('account_entries: org %s, %s, entry %s: number %s, balance after it %s instead of %s',
         o.public_id, e.currency, e.sequence, n, balance_after, sum) AS line
     FROM (SELECT org_id, currency, sequence, balance_after, row_number() OVER w AS n,
             sum(amount) OVER w AS sum
           FROM account_entries WINDOW w AS (PARTITION BY org_id, currency ORDER BY sequence)) e
     JOIN orgs o USING (org_id)
     WHERE sequence <> n OR balance_after <> sum ORDER BY e.org_id, e.currency, e.sequence",
    "SELECT format('accounts: org %s, %s: balance %s, entries %s, but its entries come to %s in %s',
         o.public_id, coalesce(a.currency, e.currency), a.balance, a.last_sequence,
         coalesce(e.sum, 0), coalesce(e.n, 0)) AS line
     FROM accounts a
     FULL JOIN (SELECT org_id, currency, sum(amount) AS sum, count(*) AS n FROM account_entries
         GROUP BY 1, 2) e USING (org_id, currency)
     JOIN orgs o USING (org_id)
     WHERE a.balance IS DISTINCT FROM coalesce(e.sum, 0)
         OR a.last_sequence IS DISTINCT FROM coalesce(e.n, 0)
     ORDER BY o.org_id",
    // Nothing pays more than it is, and no debt is paid more than once.
    "SELECT format('account_allocations: org %s, %s, entry %s of %s: %s of it is allocated', o.public_id,
         e.currency, e.sequence, e.amount, s.allocated) AS line
     FROM account_entries e
     JOIN (SELECT org_id, currency, sequence, sum(amount) AS allocated, bool_or(is_credit) AS is_credit
           FROM (SELECT org_id, currency, credit_sequence AS sequence, amount, true AS is_credit
                     FROM account_allocations
                 UNION ALL SELECT org_id, currency, debit_sequence, amount, false
                     FROM account_allocations) a
           GROUP BY 1, 2, 3) s USING (org_id, currency, sequence)
     JOIN orgs o USING (org_id)
     WHERE s.allocated < 0 OR s.allocated > abs(e.amount) OR s.is_credit <> (e.amount < 0)
     ORDER BY o.org_id, e.sequence",
    // What went back of a payment is what its refunds say.
    "SELECT format('own_payments: %s: %s refunded, %s reversed, but its refunds come to %s and %s',
         p.payment_id, p.amount_refunded, p.amount_reversed, r.refunded, r.reversed) AS line
     FROM own_payments p
     CROSS JOIN LATERAL (SELECT coalesce(sum(amount) FILTER (WHERE kind = 'refund'), 0) AS refunded,
             coalesce(sum(amount) FILTER (WHERE kind = 'reversal'), 0) AS reversed
         FROM own_refunds r WHERE (r.org_id, r.payment_id) = (p.org_id, p.payment_id)) r
     WHERE (p.amount_refunded, p.amount_reversed) <> (r.refunded, r.reversed) ORDER BY 1",
    // A coupon was used by the invoices whose documents have its discount and that are not void.
    "SELECT format('own_coupons: %s: %s uses, but %s invoices have it', c.code, c.uses,
         coalesce(d.uses, 0)) AS line
     FROM own_coupons c
     LEFT JOIN (SELECT a.coupon AS code, count(DISTINCT d.document_id) AS uses
         FROM own_documents d
         JOIN own_invoices i ON (i.org_id, i.invoice_id) = (d.org_id, d.document_id)
             AND i.voided_at IS NULL
         CROSS JOIN LATERAL jsonb_to_recordset(d.content::jsonb -> 'allowances') AS a (coupon text)
         WHERE d.kind = 'invoice' AND d.series_number > 0 GROUP BY 1) d USING (code)
     WHERE c.uses <> coalesce(d.uses, 0) ORDER BY 1",
];

/// What the check compared, and what it found.
pub(super) struct AccountDifferences {
    /// Accounts that were added up.
    pub(super) accounts: i64,
    /// Documents whose digests and numbers were checked.
    pub(super) documents: i64,
    /// One sentence each.
    pub(super) differences: Vec<String>,
}

/// Compares accounts, invoices and documents over one snapshot.
pub(super) fn verify(conn: &mut PgConnection) -> Result<AccountDifferences, Error> {
    use crate::schema::{accounts, own_documents};
    full_scan::in_snapshot(conn, |conn| {
        let mut differences = Vec::new();
        for rule in RULES {
            differences.extend(lines(conn, rule)?);
        }
        let states = invoices::wrong_states(conn, REPORTED)?;
        differences.extend(states.into_iter().map(|wrong| {
            let (id, stored, computed) = (wrong.invoice_id, wrong.stored, wrong.computed);
            format!("own_invoices: {id}: {stored}, but its entries say {computed}")
        }));
        differences.extend(numbers::differences(conn, REPORTED)?);
        differences.extend(issued::differences(conn)?);
        Ok(AccountDifferences {
            accounts: accounts::table.count().get_result(conn)?,
            documents: own_documents::table.count().get_result(conn)?,
            differences,
        })
    })
}

pub(super) fn lines(conn: &mut PgConnection, rule: &str) -> QueryResult<Vec<String>> {
    #[derive(QueryableByName)]
    struct Line {
        #[diesel(sql_type = Text)]
        line: String,
    }
    let found: Vec<Line> = diesel::sql_query(format!("{rule} LIMIT {REPORTED}")).load(conn)?;
    Ok(found.into_iter().map(|found| found.line).collect())
}
