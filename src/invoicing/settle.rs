//! Which credit pays which invoice: explicitly, or the oldest debt first.

use std::collections::BTreeSet;

use diesel::pg::PgConnection;

use super::account::{Account, EntryKind, OpenEntry, Side, StandingAllocation};
use crate::error::Error;

/// Lets credits, oldest first, pay up to `total` of an invoice that was just booked.
pub(super) fn pay_with_credits(
    conn: &mut PgConnection,
    account: &mut Account,
    invoice: &str,
    credits: &[OpenEntry],
    total: i64,
) -> Result<(), Error> {
    let debit = account.entry_of(conn, EntryKind::Invoice, invoice)?;
    let mut left = total;
    for credit in credits {
        let amount = credit.open.min(left);
        if amount > 0 {
            account.allocate(conn, (credit.sequence, debit), amount)?;
            left -= amount;
        }
    }
    Ok(())
}

/// Lets `amount` of a credit pay open debts, oldest first. Returns the invoices that it pays, and what is
/// left.
pub(super) fn pay_oldest(
    conn: &mut PgConnection,
    account: &mut Account,
    credit: i64,
    amount: i64,
) -> Result<(BTreeSet<String>, i64), Error> {
    let (mut left, mut invoices) = (amount, BTreeSet::new());
    for debt in account.open_debts(conn)? {
        let part = debt.open.min(left);
        if part == 0 {
            break;
        }
        account.allocate(conn, (credit, debt.sequence), part)?;
        left -= part;
        if debt.kind == EntryKind::Invoice.name() {
            invoices.insert(debt.document_id);
        }
    }
    Ok((invoices, left))
}

/// Lets all open credits pay the open debts, oldest first on both sides, and returns the invoices that they
/// pay. Whoever leaves a debt open beside credit calls it, so that nobody is asked for money who has some.
pub(super) fn pay_all(conn: &mut PgConnection, account: &mut Account) -> Result<BTreeSet<String>, Error> {
    let mut paid = BTreeSet::new();
    for credit in account.open_credits(conn)? {
        let (invoices, left) = pay_oldest(conn, account, credit.sequence, credit.open)?;
        paid.extend(invoices);
        if left > 0 {
            break;
        }
    }
    Ok(paid)
}

/// Takes up to `amount` back from what a credit pays, or from what pays a debt: the newest first, and only
/// where `may` accepts the other side. Returns the documents of the other side that were touched, and how
/// much was taken back.
pub(super) fn take_back(
    conn: &mut PgConnection,
    account: &mut Account,
    side: Side,
    amount: i64,
    may: impl Fn(&StandingAllocation) -> bool,
) -> Result<(BTreeSet<String>, i64), Error> {
    let (mut left, mut touched) = (amount, BTreeSet::new());
    for standing in account.allocated(conn, side)? {
        let part = standing.amount.min(left);
        if part <= 0 || !may(&standing) {
            continue;
        }
        let pair = match side {
            Side::FromCredit(credit) => (credit, standing.other),
            Side::ToDebt(debt) => (standing.other, debt),
        };
        account.allocate(conn, pair, -part)?;
        left -= part;
        touched.insert(standing.document_id);
    }
    Ok((touched, amount - left))
}

/// Lets open credits that `may` accepts pay up to `amount` of a debt, oldest first. Returns how much they
/// pay.
pub(super) fn pay_from(
    conn: &mut PgConnection,
    account: &mut Account,
    debit: i64,
    amount: i64,
    may: impl Fn(&OpenEntry) -> bool,
) -> Result<i64, Error> {
    let mut left = amount;
    for credit in account.open_credits(conn)?.into_iter().filter(may) {
        let part = credit.open.min(left);
        if part > 0 {
            account.allocate(conn, (credit.sequence, debit), part)?;
            left -= part;
        }
    }
    Ok(amount - left)
}
