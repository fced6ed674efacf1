//! An org's battery in memory: decisions under the lock of its account. Pure.
//!
//! Invariants of every change: balance = Σ entries = Σ remaining of open grants − debt; there is debt only
//! while nothing remains.

mod changes;

use chrono::{DateTime, NaiveDate, Utc};
use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::entries::{Entry, EntryKind};
use super::grants::{Grant, GrantSource, GrantState};
use crate::ids;
use crate::quantity::Sum;

/// 10^16. Balance, debt and reserved units stay below it: with at most 12 decimal places these are the 28
/// digits that a decimal holds exactly.
const LIMIT: Decimal = Decimal::from_parts(1_874_919_424, 2_328_306, 0, false, 0);

/// What a ledger entry says beside its amount.
#[derive(Clone, Debug, Default)]
pub struct Note {
    /// What caused it: `usage`, `refund`, `dispute`, …
    pub source: String,
    /// Number of the usage batch that it burns.
    pub batch: Option<i64>,
    /// The Stripe object or reservation that it comes from, as `{"object", "id"}`.
    pub link: Option<Value>,
    /// Only where a person made it, as is `actor`.
    pub reason: Option<String>,
    pub actor: Option<String>,
}

impl Note {
    /// A note that names the cause alone.
    #[must_use]
    pub fn new(source: &str) -> Self {
        Self { source: source.to_owned(), ..Self::default() }
    }
}

/// A grant that is about to be made.
#[derive(Clone, Debug)]
pub struct NewGrant {
    pub source: GrantSource,
    /// What it is granted for. An org has one grant a key.
    pub key: String,
    /// Units, above zero.
    pub amount: Decimal,
    /// Lower burns first; `None`: the priority of its source.
    pub priority: Option<i16>,
    /// `None`: now.
    pub effective_at: Option<DateTime<Utc>>,
    /// When what remains expires; `None`: never.
    pub expires_at: Option<DateTime<Utc>>,
    /// The Stripe object that it comes from, as `{"object", "id"}`.
    pub link: Option<Value>,
    /// Only where a person made it, as is `actor`.
    pub reason: Option<String>,
    pub actor: Option<String>,
}

/// An org's battery. The module says what always holds.
#[derive(Clone, Debug)]
pub struct Account {
    pub org_id: i64,
    pub(super) balance: Decimal,
    pub(super) reserved: Decimal,
    /// Usage that is not burned yet, as it is smaller than the ledger's last decimal place: from 0 to below
    /// 10^-12.
    pub(super) carried: Sum,
    /// Usage that this transaction has admitted and not burned yet.
    admitted: Decimal,
    /// Number of the last entry.
    pub(super) sequence: i64,
    /// Number of the last grant.
    pub(super) last_grant: i64,
    /// When the last entry was written.
    pub(super) last_at: Option<DateTime<Utc>>,
    /// The last local day whose allowance was granted.
    pub(super) last_allowance: Option<NaiveDate>,
    pub(super) grants: Vec<Grant>,
    /// Entries since it was read.
    pub(super) new_entries: Vec<Entry>,
    /// Number of the last grant when it was read. Grants after it are new.
    pub(super) last_stored_grant: i64,
    /// Numbers of the stored grants that changed.
    pub(super) changed_grants: Vec<i64>,
    pub(super) is_changed: bool,
    /// Balance, debt or reserved units went over the limit. What was decided since is not exact, and must not
    /// be stored.
    pub(super) is_over_limit: bool,
}

impl Account {
    /// An account from its row, without its grants.
    #[must_use]
    pub(super) fn from_row(
        org_id: i64,
        (balance, reserved, carried): (Decimal, Decimal, Sum),
        (sequence, last_grant): (i64, i64),
        last_at: Option<DateTime<Utc>>,
        last_allowance: Option<NaiveDate>,
    ) -> Self {
        Self {
            org_id,
            balance,
            reserved,
            carried,
            admitted: Decimal::ZERO,
            sequence,
            last_grant,
            last_at,
            last_allowance,
            grants: Vec::new(),
            new_entries: Vec::new(),
            last_stored_grant: last_grant,
            changed_grants: Vec::new(),
            is_changed: false,
            is_over_limit: false,
        }
    }

    /// An account without grants and entries.
    #[must_use]
    pub fn empty(org_id: i64) -> Self {
        Self::from_row(org_id, (Decimal::ZERO, Decimal::ZERO, Sum::ZERO), (0, 0), None, None)
    }

    /// The sum of its entries. Below zero it is debt.
    #[must_use]
    pub fn balance(&self) -> Decimal {
        self.balance
    }

    /// Units of open reservations.
    #[must_use]
    pub fn reserved(&self) -> Decimal {
        self.reserved
    }

    /// What may be used: the balance less reserved units, and less usage that was admitted and not burned
    /// yet.
    #[must_use]
    pub fn available(&self) -> Decimal {
        self.balance - self.reserved - self.admitted
    }

    /// Whether `units` more may be used. `debt_limit`: how far below zero `available` may go; `None`: no
    /// limit.
    #[must_use]
    pub fn fits(&self, units: Decimal, debt_limit: Option<Decimal>) -> bool {
        debt_limit.is_none_or(|limit| self.available() - units >= -limit)
    }

    /// The grants that were read, and those that were made since.
    #[must_use]
    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }

    /// The grant with this key, if it was read.
    #[must_use]
    pub fn granted(&self, key: &str) -> Option<&Grant> {
        self.grants.iter().find(|grant| grant.key == key)
    }

    /// The entries since it was read.
    #[must_use]
    pub fn new_entries(&self) -> &[Entry] {
        &self.new_entries
    }

    /// Activates grants that are effective now, and ends grants that have expired, in the order of their
    /// times. A grant for which the battery has no room stays scheduled until there is room.
    pub fn catch_up(&mut self, now: DateTime<Utc>) {
        loop {
            let due = |grant: &Grant| match grant.state {
                GrantState::Scheduled => Some(grant.effective_at).filter(|_| self.has_room(grant.remaining)),
                GrantState::Open => grant.expires_at,
                GrantState::Closed => None,
            };
            let next = self.grants.iter().enumerate().filter_map(|(place, grant)| {
                due(grant).filter(|at| *at <= now).map(|at| (at, grant.number, place))
            });
            let Some((at, _, place)) = next.min() else { return };
            if self.grants[place].state == GrantState::Scheduled {
                self.activate(place, at, None);
            } else {
                self.expire(place, at);
            }
        }
    }

    fn activate(&mut self, place: usize, at: DateTime<Utc>, actor: Option<String>) {
        // Debt is paid first.
        let debt = (-self.balance).max(Decimal::ZERO);
        let grant = &mut self.grants[place];
        let paid = debt.min(grant.remaining);
        grant.state = if paid == grant.remaining { GrantState::Closed } else { GrantState::Open };
        grant.remaining -= paid;
        grant.burned += paid;
        let (number, amount, source) = (grant.number, grant.amount - grant.clawed, grant.source);
        let note = Note {
            source: source.name().to_owned(),
            batch: None,
            link: grant.link.clone(),
            reason: grant.reason.clone(),
            actor,
        };
        let draws = if paid.is_zero() { Vec::new() } else { vec![(number, paid)] };
        self.note_changed(number);
        self.post(at, source.kind(), amount, Some(number), draws, note);
    }

    fn expire(&mut self, place: usize, at: DateTime<Utc>) {
        let grant = &mut self.grants[place];
        let (number, lost) = (grant.number, grant.remaining);
        (grant.remaining, grant.state) = (Decimal::ZERO, GrantState::Closed);
        grant.lapsed += lost;
        let note = Note { link: grant.link.clone(), ..Note::new(grant.source.name()) };
        self.note_changed(number);
        if !lost.is_zero() {
            self.post(at, EntryKind::Expiry, -lost, Some(number), vec![(number, lost)], note);
        }
    }

    /// Grants the allowance of a local day, unless that day or a later one has it. `end`: when the day ends.
    pub fn grant_allowance(
        &mut self,
        day: NaiveDate,
        end: DateTime<Utc>,
        units: Decimal,
        now: DateTime<Utc>,
    ) {
        let is_granted = self.last_allowance.is_some_and(|last| last >= day);
        if units <= Decimal::ZERO || is_granted || end <= now || !self.has_room(units) {
            return;
        }
        self.last_allowance = Some(day);
        self.is_changed = true;
        let grant = NewGrant {
            source: GrantSource::DailyAllowance,
            key: format!("daily:{day}"),
            amount: units,
            priority: None,
            effective_at: None,
            expires_at: Some(end),
            link: None,
            reason: None,
            actor: None,
        };
        self.grant(grant, now);
    }

    /// Makes a grant; returns its number. The caller checks that the key is new and the amount above zero.
    pub fn grant(&mut self, new: NewGrant, now: DateTime<Utc>) -> i64 {
        let number = self.grant_before_catch_up(new, now);
        // A grant that is made after its end expires at once.
        self.catch_up(now);
        number
    }

    /// The same, but a grant that is made after its end expires only when the account catches up.
    pub fn grant_before_catch_up(&mut self, new: NewGrant, now: DateTime<Utc>) -> i64 {
        assert!(new.amount > Decimal::ZERO, "a grant adds units");
        self.last_grant += 1;
        let number = self.last_grant;
        let effective_at = new.effective_at.unwrap_or(now);
        self.grants.push(Grant {
            number,
            id: ids::fresh("grt"),
            source: new.source,
            key: new.key,
            state: GrantState::Scheduled,
            priority: new.priority.unwrap_or(new.source.priority()),
            created_at: now,
            effective_at,
            expires_at: new.expires_at,
            amount: new.amount,
            remaining: new.amount,
            burned: Decimal::ZERO,
            clawed: Decimal::ZERO,
            lapsed: Decimal::ZERO,
            link: new.link,
            reason: new.reason,
        });
        self.is_changed = true;
        if effective_at <= now {
            self.activate(self.grants.len() - 1, now, new.actor);
        }
        number
    }

    /// Reserves units.
    pub fn reserve(&mut self, units: Decimal) {
        self.reserved += units;
        self.is_over_limit |= self.reserved >= LIMIT;
        self.is_changed |= !units.is_zero();
    }

    /// Releases units that a reservation had reserved.
    pub fn release(&mut self, units: Decimal) {
        self.reserved -= units;
        self.is_changed |= !units.is_zero();
    }

    fn note_changed(&mut self, number: i64) {
        self.is_changed = true;
        if number <= self.last_stored_grant && !self.changed_grants.contains(&number) {
            self.changed_grants.push(number);
        }
    }

    fn post(
        &mut self,
        at: DateTime<Utc>,
        kind: EntryKind,
        amount: Decimal,
        grant: Option<i64>,
        draws: Vec<(i64, Decimal)>,
        note: Note,
    ) {
        // Clocks of replicas differ a little. Times of the ledger never go back.
        let at = self.last_at.map_or(at, |last| last.max(at));
        self.sequence += 1;
        let before = self.balance;
        self.balance += amount;
        // A balance that is over the limit already may come nearer to zero.
        self.is_over_limit |= self.balance.abs() >= LIMIT && self.balance.abs() > before.abs();
        self.last_at = Some(at);
        self.is_changed = true;
        let Note { source, batch, link, reason, actor } = note;
        let sequence = self.sequence;
        let balance_after = self.balance;
        self.new_entries.push(Entry {
            sequence,
            at,
            kind,
            amount,
            balance_after,
            source,
            grant,
            batch,
            draws,
            link,
            reason,
            actor,
        });
        debug_assert!(self.is_over_limit || self.is_sound(), "{self:#?}");
    }

    /// Whether so many units more stay below the limit.
    fn has_room(&self, units: Decimal) -> bool {
        self.balance + units < LIMIT
    }

    /// Whether the invariants hold.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let remaining: Decimal = self
            .grants
            .iter()
            .filter(|grant| grant.state != GrantState::Scheduled)
            .map(|grant| grant.remaining)
            .sum();
        let debt = (-self.balance).max(Decimal::ZERO);
        let adds_up = |grant: &Grant| {
            grant.remaining + grant.burned + grant.clawed + grant.lapsed == grant.amount
                && grant.remaining >= Decimal::ZERO
        };
        remaining - debt == self.balance && self.grants.iter().all(adds_up)
    }
}

/// Draws as JSON: `[[grant number, units], …]`.
#[must_use]
pub(super) fn draws_json(draws: &[(i64, Decimal)]) -> Value {
    Value::Array(draws.iter().map(|(number, units)| json!([number, units.normalize().to_string()])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No balance includes a scheduled grant, so a clawback from it writes no entry, and its return writes
    /// none.
    #[test]
    fn a_scheduled_grant_gets_back_what_was_taken_from_it() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().expect("a time");
        let (now, later) = (at("2026-03-01T00:00:00Z"), at("2026-04-01T00:00:00Z"));
        for taken in [40, 100] {
            let mut account = Account::empty(1);
            let grant = NewGrant {
                source: GrantSource::Subscription,
                key: "k".to_owned(),
                amount: 100.into(),
                priority: None,
                effective_at: Some(later),
                expires_at: None,
                link: None,
                reason: None,
                actor: None,
            };
            let number = account.grant(grant, now);
            assert!(account.claw_back(number, taken.into(), Note::new("refund"), now));
            account.give_back(EntryKind::Clawback, taken.into(), Some(number), Note::new("refund"), now);
            assert!(account.is_sound() && account.new_entries().is_empty(), "{account:#?}");
            account.catch_up(later);
            assert_eq!(account.balance(), 100.into());
        }
    }
}
