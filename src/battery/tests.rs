//! Compares accounts with a model that keeps only lots, and checks that any history adds up.

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use rust_decimal::Decimal;

use super::account::{Account, NewGrant, Note};
use super::entries::{Entry, EntryKind};
use super::grants::{GrantSource, GrantState};

fn at(hours: i64) -> DateTime<Utc> {
    "2026-01-01T00:00:00Z".parse::<DateTime<Utc>>().expect("a time") + TimeDelta::hours(hours)
}

fn units(text: &str) -> Decimal {
    text.parse().expect("a decimal")
}

fn new(source: GrantSource, key: &str, amount: &str, expires: Option<i64>) -> NewGrant {
    NewGrant {
        source,
        key: key.to_owned(),
        amount: units(amount),
        priority: None,
        effective_at: None,
        expires_at: expires.map(at),
        link: None,
        reason: None,
        actor: None,
    }
}

fn ledger(account: &Account) -> Vec<(i64, EntryKind, String, String)> {
    account
        .new_entries()
        .iter()
        .map(|entry| {
            let text = |units: Decimal| units.normalize().to_string();
            (entry.sequence, entry.kind, text(entry.amount), text(entry.balance_after))
        })
        .collect()
}

fn row(sequence: i64, kind: EntryKind, amount: &str, after: &str) -> (i64, EntryKind, String, String) {
    (sequence, kind, amount.to_owned(), after.to_owned())
}

/// First the day's allowance, then the subscription's month, then what was bought; debt comes last.
#[test]
fn grants_are_burned_in_their_order() {
    let mut account = Account::empty(1);
    account.grant(new(GrantSource::Purchase, "pack", "50", None), at(0));
    account.grant(new(GrantSource::Subscription, "month", "30", Some(720)), at(0));
    account.grant_allowance(at(0).date_naive(), at(24), units("10"), at(0));
    account.burn(EntryKind::Usage, units("25"), Note::new("usage"), at(1));
    let draws = &account.new_entries().last().expect("an entry").draws;
    assert_eq!(draws, &[(3, units("10")), (2, units("15"))]);
    account.burn(EntryKind::Usage, units("70"), Note::new("usage"), at(2));
    let draws = &account.new_entries().last().expect("an entry").draws;
    assert_eq!(draws, &[(2, units("15")), (1, units("50"))]);
    assert_eq!(account.balance(), units("-5"));
    // A grant pays the debt first.
    account.grant(new(GrantSource::Bonus, "bonus", "20", None), at(3));
    assert_eq!(
        (account.balance(), account.granted("bonus").expect("it").remaining),
        (units("15"), units("15"))
    );
    assert_eq!(
        ledger(&account),
        [
            row(1, EntryKind::Grant, "50", "50"),
            row(2, EntryKind::Grant, "30", "80"),
            row(3, EntryKind::Grant, "10", "90"),
            row(4, EntryKind::Usage, "-25", "65"),
            row(5, EntryKind::Usage, "-70", "-5"),
            row(6, EntryKind::Bonus, "20", "15"),
        ]
    );
}

#[test]
fn of_one_priority_the_soonest_to_expire_is_burned_then_the_oldest() {
    let mut account = Account::empty(1);
    account.grant(new(GrantSource::Bonus, "never", "1", None), at(0));
    account.grant(new(GrantSource::Bonus, "late", "1", Some(20)), at(0));
    account.grant(new(GrantSource::Bonus, "soon, older", "1", Some(10)), at(0));
    account.grant(new(GrantSource::Bonus, "soon, newer", "1", Some(10)), at(1));
    account.burn(EntryKind::Usage, units("4"), Note::new("usage"), at(2));
    let order: Vec<i64> =
        account.new_entries().last().expect("an entry").draws.iter().map(|draw| draw.0).collect();
    assert_eq!(order, [3, 4, 2, 1]);
}

/// An expiry has the time when it was due, however late it is written.
#[test]
fn what_is_due_is_written_in_the_order_of_its_times() {
    let mut account = Account::empty(1);
    account.grant(new(GrantSource::Subscription, "a", "10", Some(5)), at(0));
    let later = NewGrant { effective_at: Some(at(3)), ..new(GrantSource::Bonus, "b", "7", Some(8)) };
    account.grant(later, at(0));
    assert_eq!(account.balance(), units("10"));
    account.catch_up(at(100));
    let times: Vec<_> = account.new_entries().iter().map(|entry| (entry.at, entry.kind)).collect();
    assert_eq!(
        times,
        [
            (at(0), EntryKind::Grant),
            (at(3), EntryKind::Bonus),
            (at(5), EntryKind::Expiry),
            (at(8), EntryKind::Expiry)
        ]
    );
    assert_eq!(account.balance(), Decimal::ZERO);
}

/// 100 granted, 60 burned, half of the money returned: 50 go back, 40 of them from the grant itself.
#[test]
fn a_claw_back_takes_from_the_grant_then_from_others_then_as_debt() {
    let mut account = Account::empty(1);
    let grant = account.grant(new(GrantSource::Subscription, "month", "100", Some(720)), at(0));
    account.burn(EntryKind::Usage, units("60"), Note::new("usage"), at(1));
    account.grant(new(GrantSource::Purchase, "pack", "4", None), at(2));
    assert!(account.claw_back(grant, units("50"), Note::new("refund"), at(3)));
    assert_eq!(account.balance(), units("-6"));
    assert_eq!(account.granted("month").expect("it").clawed, units("40"));
    // The refund fails: the debt of 6 goes away, the grant gets its 40 back, the pack its 4.
    account.give_back(EntryKind::Clawback, units("50"), Some(grant), Note::new("refund"), at(4));
    let month = account.granted("month").expect("it");
    assert_eq!((month.remaining, month.clawed, month.burned), (units("40"), Decimal::ZERO, units("60")));
    assert_eq!(account.granted("pack").expect("it").remaining, units("4"));
    assert_eq!(account.balance(), units("44"));
}

#[test]
fn what_comes_back_to_an_expired_grant_expires() {
    let mut account = Account::empty(1);
    let grant = account.grant(new(GrantSource::Subscription, "month", "100", Some(10)), at(0));
    account.claw_back(grant, units("30"), Note::new("refund"), at(1));
    account.catch_up(at(10));
    account.give_back(EntryKind::Clawback, units("30"), Some(grant), Note::new("refund"), at(20));
    let kinds: Vec<_> = ledger(&account).into_iter().map(|row| (row.1, row.2)).collect();
    let expected = [
        (EntryKind::Grant, "100"),
        (EntryKind::Clawback, "-30"),
        (EntryKind::Expiry, "-70"),
        (EntryKind::Clawback, "30"),
        (EntryKind::Expiry, "-30"),
    ];
    assert_eq!(kinds, expected.map(|(kind, amount)| (kind, amount.to_owned())));
}

#[test]
fn usage_taken_back_goes_to_what_was_burned_last_and_what_finds_no_room_is_a_grant() {
    let mut account = Account::empty(1);
    account.grant_allowance(at(0).date_naive(), at(24), units("10"), at(0));
    account.burn(EntryKind::Usage, units("8"), Note::new("usage"), at(1));
    account.catch_up(at(24));
    account.grant(new(GrantSource::Purchase, "pack", "5", None), at(25));
    account.burn(EntryKind::Usage, units("2"), Note::new("usage"), at(26));
    account.burn_usage(units("-8"), Note::new("usage"), at(27));
    // The pack has room for 2, the allowance has expired, 6 become a grant that never expires.
    assert_eq!(account.balance(), units("11"));
    let last = account.grants().last().expect("a grant");
    assert_eq!((last.amount, last.expires_at, last.source), (units("6"), None, GrantSource::Adjustment));
}

#[test]
fn a_day_has_one_allowance() {
    let mut account = Account::empty(1);
    let day = at(0).date_naive();
    account.grant_allowance(day, at(24), units("10"), at(0));
    account.grant_allowance(day, at(24), units("10"), at(5));
    // In a zone further west it is still yesterday.
    account.grant_allowance(day.pred_opt().expect("a day"), at(30), units("10"), at(6));
    assert_eq!(account.balance(), units("10"));
    account.catch_up(at(25));
    account.grant_allowance(day.succ_opt().expect("a day"), at(48), units("10"), at(25));
    assert_eq!(account.balance(), units("10"));
}

/// Operations on a battery.
#[derive(Clone, Debug)]
enum Deed {
    Wait(i64),
    Grant { source: u8, amount: u32, starts_in: Option<i64>, lasts: Option<i64> },
    Allow(u32),
    Use(u32),
    TakeBackUsage(u32),
    ClawBack { which: usize, share: u32 },
    Restore { which: usize },
    Void(usize),
    Reserve(u32),
    Settle { which: usize, share: u32 },
    Release(usize),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        (0_i64..30).prop_map(Deed::Wait),
        (0_u8..5, 1_u32..1000, prop::option::of(0_i64..20), prop::option::of(1_i64..40))
            .prop_map(|(source, amount, starts_in, lasts)| Deed::Grant { source, amount, starts_in, lasts }),
        (1_u32..50).prop_map(Deed::Allow),
        (1_u32..600).prop_map(Deed::Use),
        (1_u32..600).prop_map(Deed::Use),
        (1_u32..100).prop_map(Deed::TakeBackUsage),
        (0_usize..20, 1_u32..=100).prop_map(|(which, share)| Deed::ClawBack { which, share }),
        (0_usize..20).prop_map(|which| Deed::Restore { which }),
        (0_usize..20).prop_map(Deed::Void),
        (1_u32..300).prop_map(Deed::Reserve),
        (0_usize..10, 0_u32..200).prop_map(|(which, share)| Deed::Settle { which, share }),
        (0_usize..10).prop_map(Deed::Release),
    ]
}

/// A history in progress: the account, its open reservations, and the clawbacks of each grant.
struct History {
    account: Account,
    now: i64,
    debt_limit: Decimal,
    held: Vec<Decimal>,
    clawed: Vec<(i64, Decimal)>,
}

impl History {
    fn run(&mut self, n: usize, deed: &Deed) -> Result<(), TestCaseError> {
        let now = at(self.now);
        let thousandths = |amount: u32| Decimal::new(i64::from(amount), 3);
        match *deed {
            Deed::Wait(hours) => {
                self.now += hours;
                self.account.catch_up(at(self.now));
            }
            Deed::Grant { source, amount, starts_in, lasts } => {
                let source = [
                    GrantSource::Subscription,
                    GrantSource::Purchase,
                    GrantSource::DailyAllowance,
                    GrantSource::Bonus,
                    GrantSource::Adjustment,
                ][usize::from(source)];
                let effective_at = starts_in.map(|hours| at(self.now + hours));
                let expires_at = lasts.map(|hours| at(self.now + starts_in.unwrap_or(0) + hours));
                let grant = NewGrant {
                    amount: thousandths(amount),
                    effective_at,
                    expires_at,
                    ..new(source, &format!("g{n}"), "1", None)
                };
                self.account.grant(grant, now);
            }
            Deed::Allow(amount) => {
                let day = now.date_naive();
                let end = day.succ_opt().expect("a day").and_time(chrono::NaiveTime::MIN).and_utc();
                self.account.grant_allowance(day, end, thousandths(amount), now);
            }
            Deed::Use(amount) => self.admit(thousandths(amount), |account, units| {
                account.burn_usage(units, Note::new("usage"), now);
            })?,
            Deed::TakeBackUsage(amount) => {
                self.account.burn_usage(-thousandths(amount), Note::new("usage"), now);
            }
            Deed::ClawBack { which, share } => {
                let count = self.account.grants().len().max(1);
                if let Some(grant) = self.account.grants().get(which % count) {
                    let (number, scheduled) = (grant.number, grant.state == GrantState::Scheduled);
                    let units = grant.amount * Decimal::new(i64::from(share), 2);
                    self.account.claw_back(number, units, Note::new("refund"), now);
                    if !scheduled {
                        self.clawed.push((number, units));
                    }
                }
            }
            Deed::Restore { which } if !self.clawed.is_empty() => {
                let (number, units) = self.clawed.remove(which % self.clawed.len());
                self.account.give_back(EntryKind::Clawback, units, Some(number), Note::new("refund"), now);
            }
            Deed::Void(which) => {
                let count = self.account.grants().len().max(1);
                if let Some(number) = self.account.grants().get(which % count).map(|grant| grant.number) {
                    self.account.void(number, Note::new("adjustment"), now);
                }
            }
            Deed::Reserve(amount) => {
                let mut held = false;
                self.admit(thousandths(amount), |account, units| {
                    account.reserve(units);
                    held = true;
                })?;
                if held {
                    self.held.push(thousandths(amount));
                }
            }
            Deed::Settle { which, share } if !self.held.is_empty() => {
                let units = self.held.remove(which % self.held.len());
                self.account.release(units);
                // A settlement up to the reserved amount always succeeds; more must fit.
                let actual = units * Decimal::new(i64::from(share), 2);
                if actual <= units {
                    self.account.burn_usage(actual, Note::new("reservation"), now);
                } else {
                    self.admit(actual, |account, units| {
                        account.burn_usage(units, Note::new("reservation"), now);
                    })?;
                }
            }
            Deed::Release(which) if !self.held.is_empty() => {
                let units = self.held.remove(which % self.held.len());
                self.account.release(units);
            }
            Deed::Restore { .. } | Deed::Settle { .. } | Deed::Release(_) => {}
        }
        Ok(())
    }

    /// Runs the operation if it fits; then the balance is not below the debt limit.
    fn admit(
        &mut self,
        units: Decimal,
        deed: impl FnOnce(&mut Account, Decimal),
    ) -> Result<(), TestCaseError> {
        if self.account.fits(units, Some(self.debt_limit)) {
            deed(&mut self.account, units);
            prop_assert!(self.account.available() >= -self.debt_limit);
        }
        Ok(())
    }
}

/// Each entry draws on grants in burn order, skipping empty ones. The check replays the entries alone.
fn burn_order_is_respected(account: &Account) -> Result<(), TestCaseError> {
    let order = |number: &i64| {
        let grant = account.grants().iter().find(|grant| grant.number == *number).expect("it is there");
        grant.burn_order()
    };
    let mut remaining: std::collections::BTreeMap<i64, Decimal> = std::collections::BTreeMap::new();
    for entry in account.new_entries() {
        if entry.kind == EntryKind::Usage {
            let mut open: Vec<i64> = remaining
                .iter()
                .filter(|(_, left)| **left > Decimal::ZERO)
                .map(|(number, _)| *number)
                .collect();
            open.sort_by_key(order);
            let drawn: Vec<i64> = entry.draws.iter().map(|draw| draw.0).collect();
            prop_assert_eq!(&open[..drawn.len()], &drawn[..], "{:?}", entry);
            for (number, units) in &entry.draws[..drawn.len().saturating_sub(1)] {
                prop_assert_eq!(
                    remaining[number],
                    *units,
                    "all but the last grant must be empty: {:?}",
                    entry
                );
            }
        }
        replay(entry, &mut remaining);
    }
    for grant in account.grants().iter().filter(|grant| grant.state != GrantState::Scheduled) {
        let left = remaining.get(&grant.number).copied().unwrap_or_default();
        prop_assert_eq!(left, grant.remaining, "grant {}", grant.number);
    }
    Ok(())
}

/// What remains of each grant after an entry.
fn replay(entry: &Entry, remaining: &mut std::collections::BTreeMap<i64, Decimal>) {
    let makes = entry.amount > Decimal::ZERO
        && matches!(entry.kind, EntryKind::Grant | EntryKind::Bonus | EntryKind::Adjustment);
    if let (true, Some(number)) = (makes, entry.grant) {
        *remaining.entry(number).or_default() += entry.amount;
    }
    for (number, units) in &entry.draws {
        *remaining.entry(*number).or_default() -= units;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn any_history_adds_up(
        deeds in prop::collection::vec(deed(), 1..80),
        debt_limit in prop_oneof![Just(0_i64), 0_i64..400],
    ) {
        let mut history = History {
            account: Account::empty(1), now: 0, debt_limit: Decimal::new(debt_limit, 3), held: Vec::new(),
                clawed: Vec::new(),
        };
        // The balance after each operation.
        let mut moments: Vec<(DateTime<Utc>, Decimal)> = Vec::new();
        for (n, deed) in deeds.iter().enumerate() {
            history.run(n, deed)?;
            let account = &history.account;
            prop_assert!(account.is_sound());
            let reserved: Decimal = history.held.iter().sum();
            prop_assert_eq!(account.reserved(), reserved);
            moments.push((at(history.now), account.balance()));
        }
        let entries = history.account.new_entries();
        let mut sum = Decimal::ZERO;
        for (n, entry) in entries.iter().enumerate() {
            sum += entry.amount;
            prop_assert_eq!(entry.sequence, i64::try_from(n).expect("few") + 1);
            prop_assert_eq!(entry.balance_after, sum);
            prop_assert!(n == 0 || entries[n - 1].at <= entry.at);
        }
        prop_assert_eq!(history.account.balance(), sum);
        // The balance at a moment is that of the last entry at or before it. A replay up to the moment gives
        // the same.
        for (n, (moment, balance)) in moments.iter().enumerate() {
            if moments.get(n + 1).is_none_or(|(next, _)| next > moment) {
                let last = entries.iter().rev().find(|entry| entry.at <= *moment);
                prop_assert_eq!(last.map_or(Decimal::ZERO, |entry| entry.balance_after), *balance);
            }
        }
        burn_order_is_respected(&history.account)?;
    }
}
