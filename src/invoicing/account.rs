//! The account of an org in a currency: entries that never change, and which credit pays which debt. Owns
//! `accounts`, `account_entries` and `account_allocations`.
//!
//! An entry above 0 is a debt of the org (an invoice), below 0 a credit (a payment). An allocation says how
//! much of a credit pays a debt; a change of it is a further row, and what stands is the sum. So what an
//! invoice still asks for, and whether it is paid, is a function of entries and allocations alone.
//!
//! Whoever changes an account holds its row in `accounts` locked until the transaction ends. Locks come in
//! this order: the catalogue (shared), the account, the invoice, coupons, the subscription and its battery,
//! the series of numbers.

pub mod statement;

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::sellers::Seller;
use crate::error::Error;
use crate::metering::{catalog, closings};
use crate::schema::{account_allocations, account_entries, accounts};

/// What an entry books.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = AccountEntryKind)]
pub enum EntryKind {
    /// The total of an invoice.
    Invoice,
    /// Takes back what a void invoice still asked for.
    Void,
    /// Takes back all or part of an invoice.
    CreditNote,
    /// Gives up what an invoice still asked for.
    WriteOff,
    /// Takes back a write-off, because it is paid after all.
    Recovery,
    /// Money that came in.
    Payment,
    /// Money that was given back.
    Refund,
    /// Money that was taken back: a bounced debit, a chargeback.
    Reversal,
    /// A correction by hand.
    Adjustment,
    /// What was owed when the org was taken over from another system.
    OpeningBalance,
}

impl EntryKind {
    /// The name in the database and in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Invoice => "invoice",
            Self::Void => "void",
            Self::CreditNote => "credit_note",
            Self::WriteOff => "write_off",
            Self::Recovery => "recovery",
            Self::Payment => "payment",
            Self::Refund => "refund",
            Self::Reversal => "reversal",
            Self::Adjustment => "adjustment",
            Self::OpeningBalance => "opening_balance",
        }
    }
}

/// An entry to book.
#[derive(Clone, Debug)]
pub(super) struct NewEntry<'a> {
    pub(super) kind: EntryKind,
    /// Public id of what it books.
    pub(super) document: &'a str,
    /// Above 0: the org owes more.
    pub(super) amount: i64,
    pub(super) occurred_at: DateTime<Utc>,
    /// Public id of the invoice or payment that it takes back, all or in part.
    pub(super) corrects: Option<&'a str>,
    /// For people.
    pub(super) description: &'a str,
}

/// An entry of which a part is not allocated.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub(super) struct OpenEntry {
    #[diesel(sql_type = BigInt)]
    pub(super) sequence: i64,
    #[diesel(sql_type = Text)]
    pub(super) kind: String,
    #[diesel(sql_type = Text)]
    pub(super) document_id: String,
    #[diesel(sql_type = Text)]
    pub(super) description: String,
    /// The part that is not allocated, above 0.
    #[diesel(sql_type = BigInt)]
    pub(super) open: i64,
}

/// The account of an org in a currency, locked until the caller commits.
pub(super) struct Account {
    pub(super) org_id: i64,
    pub(super) currency: String,
    last_sequence: i64,
    balance: i64,
    last_allocation: i64,
    now: DateTime<Utc>,
}

impl Account {
    /// Locks the account, after the catalogue: no month is closed until the caller commits.
    pub(super) fn lock(
        conn: &mut PgConnection,
        org_id: i64,
        currency: &str,
        now: DateTime<Utc>,
    ) -> Result<Self, Error> {
        catalog::lock_shared(conn)?;
        let values = (
            accounts::org_id.eq(org_id),
            accounts::currency.eq(currency),
            accounts::last_sequence.eq(0),
            accounts::balance.eq(0),
        );
        diesel::insert_into(accounts::table).values(values).on_conflict_do_nothing().execute(conn)?;
        let row = accounts::table.find((org_id, currency));
        let (last_sequence, balance) =
            row.select((accounts::last_sequence, accounts::balance)).for_update().first(conn)?;
        let last: Option<i64> = account_allocations::table
            .filter(account_allocations::org_id.eq(org_id))
            .filter(account_allocations::currency.eq(currency))
            .select(diesel::dsl::max(account_allocations::allocation))
            .first(conn)?;
        let currency = currency.to_owned();
        Ok(Self { org_id, currency, last_sequence, balance, last_allocation: last.unwrap_or(0), now })
    }

    /// Books an entry and returns its sequence.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the balance would not fit 64 bits.
    pub(super) fn enter(
        &mut self,
        conn: &mut PgConnection,
        seller: &Seller,
        entry: &NewEntry<'_>,
    ) -> Result<i64, Error> {
        let balance = self.balance.checked_add(entry.amount).ok_or_else(|| {
            Error::conflict("balance_too_large", "the balance of this account would be too large")
        })?;
        let (day, belongs_to) = self.booking_day(conn, seller, entry)?;
        self.last_sequence += 1;
        self.balance = balance;
        use account_entries as e;
        diesel::insert_into(e::table)
            .values((
                (e::org_id.eq(self.org_id), e::currency.eq(&self.currency)),
                (e::sequence.eq(self.last_sequence), e::seller_id.eq(&seller.id)),
                (e::kind.eq(entry.kind.name()), e::document_id.eq(entry.document)),
                (e::amount.eq(entry.amount), e::balance_after.eq(balance)),
                (e::day.eq(day), e::belongs_to.eq(belongs_to)),
                (e::occurred_at.eq(entry.occurred_at), e::created_at.eq(self.now)),
                e::description.eq(entry.description),
            ))
            .execute(conn)?;
        diesel::update(accounts::table.find((self.org_id, &self.currency)))
            .set((accounts::last_sequence.eq(self.last_sequence), accounts::balance.eq(self.balance)))
            .execute(conn)?;
        Ok(self.last_sequence)
    }

    /// The day of the books on which an entry is booked, and the closed month that it belongs to: in which it
    /// occurred, or else what it corrects. A closed month takes no entries: what occurred in it is booked
    /// today.
    fn booking_day(
        &self,
        conn: &mut PgConnection,
        seller: &Seller,
        entry: &NewEntry<'_>,
    ) -> Result<(NaiveDate, Option<NaiveDate>), Error> {
        let (own, today) = (seller.day(entry.occurred_at), seller.day(self.now));
        let Some(closed) = closings::last_closed(conn, self.org_id)? else { return Ok((own, None)) };
        let month = |day: NaiveDate| day.with_day(1).unwrap_or(day);
        if month(own) <= closed {
            return Ok((today, Some(month(own))));
        }
        let corrected = entry.corrects.map(|document| self.month_of(conn, document)).transpose()?.flatten();
        Ok((own, corrected.map(month).filter(|corrected| *corrected <= closed)))
    }

    /// A day of the month that the invoice or payment belongs to.
    fn month_of(&self, conn: &mut PgConnection, document: &str) -> QueryResult<Option<NaiveDate>> {
        use account_entries as e;
        let entry: Option<(NaiveDate, Option<NaiveDate>)> = e::table
            .filter(e::org_id.eq(self.org_id).and(e::currency.eq(&self.currency)))
            .filter(e::document_id.eq(document))
            .filter(e::kind.eq_any([EntryKind::Invoice.name(), EntryKind::Payment.name()]))
            .select((e::day, e::belongs_to))
            .first(conn)
            .optional()?;
        Ok(entry.map(|(day, belongs_to)| belongs_to.unwrap_or(day)))
    }

    /// Lets a credit pay `amount` of a debt; below 0: so much less than before.
    pub(super) fn allocate(
        &mut self,
        conn: &mut PgConnection,
        (credit, debit): (i64, i64),
        amount: i64,
    ) -> Result<(), Error> {
        self.last_allocation += 1;
        use account_allocations as a;
        diesel::insert_into(a::table)
            .values((
                (a::org_id.eq(self.org_id), a::currency.eq(&self.currency)),
                (a::allocation.eq(self.last_allocation), a::amount.eq(amount), a::at.eq(self.now)),
                (a::credit_sequence.eq(credit), a::debit_sequence.eq(debit)),
            ))
            .execute(conn)?;
        Ok(())
    }

    /// Credits that pay nothing yet, oldest first.
    pub(super) fn open_credits(&self, conn: &mut PgConnection) -> QueryResult<Vec<OpenEntry>> {
        self.open_entries(conn, "e.amount < 0", "credit_sequence")
    }

    /// Debts that are not paid, oldest first.
    pub(super) fn open_debts(&self, conn: &mut PgConnection) -> QueryResult<Vec<OpenEntry>> {
        self.open_entries(conn, "e.amount > 0", "debit_sequence")
    }

    fn open_entries(&self, conn: &mut PgConnection, side: &str, column: &str) -> QueryResult<Vec<OpenEntry>> {
        let sql = format!(
            "SELECT e.sequence, e.kind, e.document_id, e.description,
                    (abs(e.amount) - coalesce(a.allocated, 0))::bigint AS open
             FROM account_entries e
             LEFT JOIN (SELECT {column} AS sequence, sum(amount) AS allocated
                        FROM account_allocations WHERE org_id = $1 AND currency = $2 GROUP BY 1) a
                 USING (sequence)
             WHERE e.org_id = $1 AND e.currency = $2 AND {side}
                 AND abs(e.amount) > coalesce(a.allocated, 0)
             ORDER BY e.sequence"
        );
        diesel::sql_query(sql).bind::<BigInt, _>(self.org_id).bind::<Text, _>(&self.currency).load(conn)
    }

    /// What stands allocated from a credit (`from`) to debts, or to a debt from credits, the newest first:
    /// the sequence of the other side, its kind, and how much.
    pub(super) fn allocated(
        &self,
        conn: &mut PgConnection,
        side: Side,
    ) -> QueryResult<Vec<StandingAllocation>> {
        let (own, other, sequence) = match side {
            Side::FromCredit(sequence) => ("credit_sequence", "debit_sequence", sequence),
            Side::ToDebt(sequence) => ("debit_sequence", "credit_sequence", sequence),
        };
        let sql = format!(
            "SELECT a.{other} AS other, e.kind, e.document_id, sum(a.amount)::bigint AS amount
             FROM account_allocations a
             JOIN account_entries e ON (e.org_id, e.currency, e.sequence) = (a.org_id, a.currency, a.{other})
             WHERE a.org_id = $1 AND a.currency = $2 AND a.{own} = $3
             GROUP BY 1, 2, 3 HAVING sum(a.amount) <> 0 ORDER BY max(a.allocation) DESC"
        );
        diesel::sql_query(sql)
            .bind::<BigInt, _>(self.org_id)
            .bind::<Text, _>(&self.currency)
            .bind::<BigInt, _>(sequence)
            .load(conn)
    }

    /// The sequence of the entry of a kind that books a document.
    pub(super) fn entry_of(
        &self,
        conn: &mut PgConnection,
        kind: EntryKind,
        document: &str,
    ) -> QueryResult<i64> {
        account_entries::table
            .filter(account_entries::org_id.eq(self.org_id))
            .filter(account_entries::currency.eq(&self.currency))
            .filter(account_entries::kind.eq(kind.name()))
            .filter(account_entries::document_id.eq(document))
            .order(account_entries::sequence.desc())
            .select(account_entries::sequence)
            .first(conn)
    }
}

/// One side of allocations: a credit or a debt, by its sequence.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    FromCredit(i64),
    ToDebt(i64),
}

/// How much of a credit and a debt is allocated to each other.
#[derive(Clone, Debug, QueryableByName)]
pub(super) struct StandingAllocation {
    /// Sequence of the other side.
    #[diesel(sql_type = BigInt)]
    pub(super) other: i64,
    #[diesel(sql_type = Text)]
    pub(super) kind: String,
    #[diesel(sql_type = Text)]
    pub(super) document_id: String,
    #[diesel(sql_type = BigInt)]
    pub(super) amount: i64,
}
