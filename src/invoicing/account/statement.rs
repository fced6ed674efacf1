//! What an account stands at, and statements: the entries over a time, with the balance before and after.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Date, Nullable, Text, Timestamptz};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Error;
use crate::page::{Page, PageRequest};
use crate::time::Day;

/// What an org owes in a currency: `open` − `unused_credit` = `balance`. Amounts are minor units.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName, Serialize, ToSchema)]
pub struct AccountBalance {
    /// ISO 4217, lower case.
    #[diesel(sql_type = Text)]
    pub currency: String,
    /// What the org owes; below 0 it has credit.
    #[diesel(sql_type = BigInt)]
    pub balance: i64,
    /// Debts that nothing pays yet: what invoices still ask for, and debts by hand.
    #[diesel(sql_type = BigInt)]
    pub open: i64,
    /// Credit that pays nothing yet: overpayments, credit notes on paid invoices. The next invoice uses it.
    #[diesel(sql_type = BigInt)]
    pub unused_credit: i64,
}

/// What an org owes, by currency.
///
/// # Errors
/// [`Error::Internal`] when an account does not add up.
pub fn balances(conn: &mut PgConnection, org_id: i64) -> Result<Vec<AccountBalance>, Error> {
    let found: Vec<AccountBalance> = diesel::sql_query(
        "SELECT a.currency, a.balance, coalesce(s.open, 0)::bigint AS open,
             coalesce(s.unused, 0)::bigint AS unused_credit
         FROM accounts a
         LEFT JOIN (
             SELECT e.currency,
                 sum(e.amount - coalesce(d.allocated, 0)) FILTER (WHERE e.amount > 0) AS open,
                 sum(-e.amount - coalesce(c.allocated, 0)) FILTER (WHERE e.amount < 0) AS unused
             FROM account_entries e
             LEFT JOIN (SELECT currency, debit_sequence AS sequence, sum(amount) AS allocated
                        FROM account_allocations WHERE org_id = $1 GROUP BY 1, 2) d
                 USING (currency, sequence)
             LEFT JOIN (SELECT currency, credit_sequence AS sequence, sum(amount) AS allocated
                        FROM account_allocations WHERE org_id = $1 GROUP BY 1, 2) c
                 USING (currency, sequence)
             WHERE e.org_id = $1 GROUP BY 1) s USING (currency)
         WHERE a.org_id = $1 ORDER BY 1",
    )
    .bind::<BigInt, _>(org_id)
    .load(conn)?;
    match found.iter().find(|found| found.open - found.unused_credit != found.balance) {
        None => Ok(found),
        Some(wrong) => Err(wrong_account(org_id, &wrong.currency)),
    }
}

fn wrong_account(org_id: i64, currency: &str) -> Error {
    Error::Internal(format!("the account of org {org_id} in {currency} does not add up"))
}

/// Days of the books: `[from, before)`; `None`: from the first entry on, or up to the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days {
    pub from: Option<NaiveDate>,
    pub before: Option<NaiveDate>,
}

/// An account over days of the books: `opening_balance` and the amounts of all entries make
/// `closing_balance`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AccountStatement {
    /// Public id of the org.
    pub org: String,
    /// ISO 4217, lower case. Amounts are in its minor units.
    pub currency: String,
    /// First day; null: that of the first entry.
    pub from: Option<NaiveDate>,
    /// Day after the last one; null: no entry is left out.
    pub before: Option<NaiveDate>,
    /// What the org owed before the first day; below 0 it had credit.
    pub opening_balance: i64,
    /// What it owed after the last day.
    pub closing_balance: i64,
    /// A page of the entries, in the order of their days.
    pub entries: Vec<StatementEntry>,
    /// `cursor` of the next page; null on the last.
    pub next: Option<String>,
}

/// An entry of a statement.
#[derive(Clone, Debug, QueryableByName, Serialize, ToSchema)]
pub struct StatementEntry {
    /// Its number in the account: the order in which entries were booked.
    #[diesel(sql_type = BigInt)]
    pub sequence: i64,
    /// Day of the books, in the seller's zone.
    #[diesel(sql_type = Date)]
    pub day: NaiveDate,
    /// First day of the closed month that it belongs to: in which it occurred, or whose invoice or payment it
    /// corrects. Null: it belongs to its day.
    #[diesel(sql_type = Nullable<Date>)]
    pub belongs_to: Option<NaiveDate>,
    /// What it books.
    #[diesel(sql_type = Text)]
    #[schema(value_type = crate::invoicing::account::EntryKind)]
    pub kind: String,
    /// Id of the invoice, credit note, payment, refund or adjustment.
    #[diesel(sql_type = Text)]
    pub document: String,
    /// Number of the invoice or credit note.
    #[diesel(sql_type = Nullable<Text>)]
    pub number: Option<String>,
    /// For people.
    #[diesel(sql_type = Text)]
    pub description: String,
    /// Above 0: the org owes more.
    #[diesel(sql_type = BigInt)]
    pub amount: i64,
    /// What the org owed after it, in the order of the statement.
    #[diesel(sql_type = BigInt)]
    pub balance_after: i64,
    /// When it happened.
    #[diesel(sql_type = Timestamptz)]
    pub occurred_at: DateTime<Utc>,
    /// When it was booked.
    #[diesel(sql_type = Timestamptz)]
    pub created_at: DateTime<Utc>,
}

/// The place of an entry in a statement: its day and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryPlace(Day, i64);

/// The figures of a statement. All entries up to `last` count, so that pages and figures agree while others
/// book.
#[derive(QueryableByName)]
struct Figures {
    #[diesel(sql_type = BigInt)]
    last: i64,
    #[diesel(sql_type = BigInt)]
    opening: i64,
    #[diesel(sql_type = BigInt)]
    closing: i64,
    #[diesel(sql_type = Bool)]
    adds_up: bool,
}

/// A page of the statement of an account. An account that has no entry has a balance of 0.
///
/// # Errors
/// [`Error::Internal`] when the account does not add up.
pub fn statement(
    conn: &mut PgConnection,
    (org_id, org): (i64, &str),
    currency: &str,
    days: Days,
    page: &PageRequest<EntryPlace>,
) -> Result<AccountStatement, Error> {
    let figures: Figures = diesel::sql_query(
        "SELECT coalesce(max(e.sequence), 0) AS last,
             coalesce(sum(e.amount) FILTER (WHERE e.day < coalesce($3, '-infinity')), 0)::bigint AS opening,
             coalesce(sum(e.amount) FILTER (WHERE e.day < coalesce($4, 'infinity')), 0)::bigint AS closing,
             coalesce(sum(e.amount), 0) = coalesce(max(a.balance), 0)
                 AND count(e.sequence) = coalesce(max(a.last_sequence), 0) AS adds_up
         FROM accounts a LEFT JOIN account_entries e USING (org_id, currency)
         WHERE a.org_id = $1 AND a.currency = $2",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Text, _>(currency)
    .bind::<Nullable<Date>, _>(days.from)
    .bind::<Nullable<Date>, _>(days.before)
    .get_result(conn)?;
    if !figures.adds_up {
        return Err(wrong_account(org_id, currency));
    }
    let rows = entries(conn, (org_id, currency), days, &figures, page)?;
    let Page { data: entries, next } = page.page(rows, |row| EntryPlace(Day(row.day), row.sequence))?;
    Ok(AccountStatement {
        org: org.to_owned(),
        currency: currency.to_owned(),
        from: days.from,
        before: days.before,
        opening_balance: figures.opening,
        closing_balance: figures.closing,
        entries,
        next,
    })
}

/// The entries of a page, and one more.
fn entries(
    conn: &mut PgConnection,
    (org_id, currency): (i64, &str),
    days: Days,
    figures: &Figures,
    page: &PageRequest<EntryPlace>,
) -> QueryResult<Vec<StatementEntry>> {
    let (day, sequence) =
        page.after.map_or((None, 0), |EntryPlace(Day(day), sequence)| (Some(day), sequence));
    diesel::sql_query(
        "SELECT s.*, coalesce(i.number, n.number) AS number
         FROM (SELECT e.sequence, e.day, e.belongs_to, e.kind, e.document_id AS document, e.description,
                   e.amount, e.occurred_at, e.created_at,
                   ($5 + sum(e.amount) OVER (ORDER BY e.day, e.sequence))::bigint AS balance_after
               FROM account_entries e
               WHERE e.org_id = $1 AND e.currency = $2 AND e.sequence <= $6
                   AND e.day >= coalesce($3, '-infinity') AND e.day < coalesce($4, 'infinity')) s
         LEFT JOIN own_invoices i ON i.org_id = $1 AND i.invoice_id = s.document
         LEFT JOIN own_credit_notes n ON n.org_id = $1 AND n.credit_note_id = s.document
         WHERE (s.day, s.sequence) > (coalesce($7, '-infinity'), $8)
         ORDER BY s.day, s.sequence LIMIT $9",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Text, _>(currency)
    .bind::<Nullable<Date>, _>(days.from)
    .bind::<Nullable<Date>, _>(days.before)
    .bind::<BigInt, _>(figures.opening)
    .bind::<BigInt, _>(figures.last)
    .bind::<Nullable<Date>, _>(day)
    .bind::<BigInt, _>(sequence)
    .bind::<BigInt, _>(page.to_fetch())
    .load(conn)
}
