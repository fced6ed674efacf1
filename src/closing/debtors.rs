//! Numbers of orgs among debtors, which bookkeeping with numbered accounts needs. Owns `debtor_numbers`.
//!
//! Orgs are numbered in the order in which their accounts began. Closing a month gives the numbers for good;
//! before that, a journal shows those that closing would give.

use std::collections::BTreeMap;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer};

use crate::error::Error;

/// SQL: the orgs with an account that have no number, and the number that each gets.
const NEXT: &str = "
    SELECT org_id, (coalesce((SELECT max(number) FROM debtor_numbers), 0)
        + row_number() OVER (ORDER BY began, org_id))::integer AS number
    FROM (SELECT a.org_id, min(e.created_at) AS began FROM accounts a
          JOIN account_entries e ON (e.org_id, e.currency, e.sequence) = (a.org_id, a.currency, 1)
          WHERE NOT EXISTS (SELECT FROM debtor_numbers n WHERE n.org_id = a.org_id)
          GROUP BY 1) new";

/// The number of each org, by its row id.
pub(super) fn numbers(conn: &mut PgConnection) -> Result<BTreeMap<i64, u32>, Error> {
    #[derive(QueryableByName)]
    struct Numbered {
        #[diesel(sql_type = BigInt)]
        org_id: i64,
        #[diesel(sql_type = Integer)]
        number: i32,
    }
    let all: Vec<Numbered> =
        diesel::sql_query(format!("SELECT org_id, number FROM debtor_numbers UNION ALL {NEXT}"))
            .load(conn)?;
    let numbers = all.into_iter().map(|row| Some((row.org_id, u32::try_from(row.number).ok()?)));
    let numbers: Option<BTreeMap<i64, u32>> = numbers.collect();
    numbers.ok_or_else(|| Error::Internal("debtor_numbers has a number below 0".to_owned()))
}

/// Gives numbers to the orgs that have none. The caller holds the lock of closing.
pub(super) fn assign(conn: &mut PgConnection) -> QueryResult<usize> {
    diesel::sql_query(format!("INSERT INTO debtor_numbers (org_id, number) {NEXT}")).execute(conn)
}
