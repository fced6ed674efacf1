//! What batteries tell the outside: grants, clawbacks, what lapsed, and that a battery is low or spent.
//!
//! The messages follow from the entries that a transaction adds, so they cost nothing while there are none.
//! Entries never change, and their numbers are the keys. Daily allowances come and go silently.

use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::account::Account;
use super::entries::{Entry, EntryKind};
use super::grants::{Grant, GrantSource};
use crate::messages::NewMessage;
use crate::quantity::Quantity;

/// A battery is low when it holds no more than this part of what its grants brought: a fifth.
const LOW: Decimal = Decimal::from_parts(2, 0, 0, false, 1);

/// The messages about new entries of these accounts.
pub(super) fn messages(accounts: &[&Account]) -> Vec<NewMessage> {
    let entries =
        accounts.iter().flat_map(|account| account.new_entries().iter().map(move |one| (account, one)));
    entries.flat_map(|(account, entry)| of_entry(account, entry)).collect()
}

fn of_entry(account: &Account, entry: &Entry) -> Vec<NewMessage> {
    let grant = entry.grant.and_then(|number| account.grants().iter().find(|one| one.number == number));
    let is_daily = grant.is_some_and(|grant| grant.source == GrantSource::DailyAllowance);
    let of_grant = match entry.kind {
        _ if is_daily => None,
        EntryKind::Grant | EntryKind::Bonus => Some("battery.granted"),
        EntryKind::Clawback if entry.amount < Decimal::ZERO => Some("battery.clawed_back"),
        EntryKind::Expiry if !entry.amount.is_zero() => Some("battery.lapsed"),
        _ => None,
    };
    let message = |kind: &'static str| NewMessage {
        org_id: account.org_id,
        kind,
        dedupe_key: format!("battery:{}:{kind}", entry.sequence),
        data: json!({
            "entry": entry.sequence, "amount": Quantity(entry.amount.abs()),
            "balance": Quantity(entry.balance_after), "source": entry.source,
            "grant": grant.map(|grant| &grant.id), "link": entry.link,
        }),
        object: grant.map(object),
    };
    of_grant.into_iter().chain(fallen_to(account, entry)).map(message).collect()
}

/// Whether this entry let the balance fall to the mark of a low battery, or to nothing.
fn fallen_to(account: &Account, entry: &Entry) -> Option<&'static str> {
    let (before, after) = (entry.balance_after - entry.amount, entry.balance_after);
    if after >= before || before <= Decimal::ZERO {
        return None;
    }
    if after <= Decimal::ZERO {
        return Some("battery.spent");
    }
    let lasting = account
        .grants()
        .iter()
        .filter(|grant| grant.source != GrantSource::DailyAllowance && grant.effective_at <= entry.at);
    let mark = lasting.map(|grant| grant.amount).sum::<Decimal>() * LOW;
    (before > mark && after <= mark).then_some("battery.low")
}

fn object(grant: &Grant) -> Value {
    json!({
        "id": grant.id, "source": grant.source.name(), "state": grant.state.name(),
        "amount": Quantity(grant.amount), "remaining": Quantity(grant.remaining),
        "created_at": grant.created_at, "effective_at": grant.effective_at, "expires_at": grant.expires_at,
    })
}
