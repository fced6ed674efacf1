//! An org's battery in memory: what is decided under the lock of its account. Pure.
//!
//! Every change keeps: balance = Σ entries = Σ remaining of open grants − debt, and debt only while nothing
//! remains.

mod changes;

use chrono::{DateTime, NaiveDate, Utc};
use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::entries::{Entry, EntryKind};
use super::grants::{Grant, GrantSource, GrantState};
use crate::ids;
use crate::quantity::Sum;

/// 10^16. What a battery holds, owes or has set aside stays below it: with the 12 decimal places that units
/// have at most these are 28 digits, all that a decimal holds exactly.
const LIMIT: Decimal = Decimal::from_parts(1_874_919_424, 2_328_306, 0, false, 0);

/// What an entry says beside its amount.
#[derive(Clone, Debug, Default)]
pub struct Note {
    /// What caused it: `usage`, `refund`, `dispute`, …
    pub source: String,
    /// The usage that it burns.
    pub batch: Option<i64>,
    /// What it comes from: a Stripe object as `{"object", "id"}`, or a reservation.
    pub link: Option<Value>,
    /// Why, where a person made it.
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

/// A grant to be made.
#[derive(Clone, Debug)]
pub struct NewGrant {
    /// What it comes from.
    pub source: GrantSource,
    /// What it is granted for: once an org.
    pub key: String,
    /// Units, above zero.
    pub amount: Decimal,
    /// Lower is burned first; none: that of its source.
    pub priority: Option<i16>,
    /// From when on it may be used; none: now.
    pub effective_at: Option<DateTime<Utc>>,
    /// When what remains lapses.
    pub expires_at: Option<DateTime<Utc>>,
    /// What it comes from, for whoever asks later.
    pub link: Option<Value>,
    /// Why, where a person made it.
    pub reason: Option<String>,
    pub actor: Option<String>,
}

/// An org's battery. See the module for what it keeps.
#[derive(Clone, Debug)]
pub struct Account {
    pub org_id: i64,
    pub(super) balance: Decimal,
    pub(super) reserved: Decimal,
    /// Used and not yet burned, as the ledger has no place for it: from 0 to below 10^-12.
    pub(super) carried: Sum,
    /// Admitted in this transaction, and not yet burned.
    pending: Decimal,
    pub(super) sequence: i64,
    pub(super) last_grant: i64,
    pub(super) last_at: Option<DateTime<Utc>>,
    pub(super) daily: Option<NaiveDate>,
    pub(super) grants: Vec<Grant>,
    /// Entries since it was read.
    pub(super) entries: Vec<Entry>,
    /// The number of the last grant that was there when it was read.
    pub(super) known: i64,
    /// Numbers of the grants that changed.
    pub(super) touched: Vec<i64>,
    pub(super) changed: bool,
    /// It was to hold, owe or set aside too much; what was decided since is not exact, and must not be
    /// stored.
    pub(super) full: bool,
}

impl Account {
    /// An account as it is stored. `grants` come in any order.
    #[must_use]
    pub(super) fn stored(
        org_id: i64,
        (balance, reserved, carried): (Decimal, Decimal, Sum),
        (sequence, last_grant): (i64, i64),
        last_at: Option<DateTime<Utc>>,
        daily: Option<NaiveDate>,
    ) -> Self {
        Self {
            org_id,
            balance,
            reserved,
            carried,
            pending: Decimal::ZERO,
            sequence,
            last_grant,
            last_at,
            daily,
            grants: Vec::new(),
            entries: Vec::new(),
            known: last_grant,
            touched: Vec::new(),
            changed: false,
            full: false,
        }
    }

    /// An account that nothing was written to.
    #[must_use]
    pub fn empty(org_id: i64) -> Self {
        Self::stored(org_id, (Decimal::ZERO, Decimal::ZERO, Sum::ZERO), (0, 0), None, None)
    }

    /// The sum of its entries; below zero it is debt.
    #[must_use]
    pub fn balance(&self) -> Decimal {
        self.balance
    }

    /// Set aside by open reservations.
    #[must_use]
    pub fn reserved(&self) -> Decimal {
        self.reserved
    }

    /// What may be used: the balance less what is set aside.
    #[must_use]
    pub fn available(&self) -> Decimal {
        self.balance - self.reserved - self.pending
    }

    /// Whether `units` more fit; `debt_limit` is how far below zero the battery may be used, none: without
    /// limit.
    #[must_use]
    pub fn fits(&self, units: Decimal, debt_limit: Option<Decimal>) -> bool {
        debt_limit.is_none_or(|limit| self.available() - units >= -limit)
    }

    /// The grants that were read, and those made since.
    #[must_use]
    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }

    /// The grant that was made for this, if it was read.
    #[must_use]
    pub fn granted(&self, key: &str) -> Option<&Grant> {
        self.grants.iter().find(|grant| grant.key == key)
    }

    /// The entries written since it was read.
    #[must_use]
    pub fn written(&self) -> &[Entry] {
        &self.entries
    }

    /// Writes what has become due: grants that are effective now, and those that have lapsed, in the order of
    /// their times. A grant for which the battery has no room stays scheduled until it has.
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
                self.lapse(place, at);
            }
        }
    }

    fn activate(&mut self, place: usize, at: DateTime<Utc>, actor: Option<String>) {
        // What is owed already is paid first.
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
        self.touch(number);
        self.post(at, source.kind(), amount, Some(number), draws, note);
    }

    fn lapse(&mut self, place: usize, at: DateTime<Utc>) {
        let grant = &mut self.grants[place];
        let (number, lost) = (grant.number, grant.remaining);
        (grant.remaining, grant.state) = (Decimal::ZERO, GrantState::Closed);
        grant.lapsed += lost;
        let note = Note { link: grant.link.clone(), ..Note::new(grant.source.name()) };
        self.touch(number);
        if !lost.is_zero() {
            self.post(at, EntryKind::Expiry, -lost, Some(number), vec![(number, lost)], note);
        }
    }

    /// Grants a local day's allowance, unless that day (or a later one) has had it. `end` is when the day
    /// ends.
    pub fn allow(&mut self, day: NaiveDate, end: DateTime<Utc>, units: Decimal, now: DateTime<Utc>) {
        let had = self.daily.is_some_and(|last| last >= day);
        if units <= Decimal::ZERO || had || end <= now || !self.has_room(units) {
            return;
        }
        self.daily = Some(day);
        self.changed = true;
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

    /// Makes a grant; returns its number. The caller knows that its key is new, and its amount above zero.
    pub fn grant(&mut self, new: NewGrant, now: DateTime<Utc>) -> i64 {
        let number = self.grant_for_now(new, now);
        // One that comes after its end lapses at once.
        self.catch_up(now);
        number
    }

    /// The same, but that one that comes after its end lapses when the account catches up.
    pub fn grant_for_now(&mut self, new: NewGrant, now: DateTime<Utc>) -> i64 {
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
        self.changed = true;
        if effective_at <= now {
            self.activate(self.grants.len() - 1, now, new.actor);
        }
        number
    }

    /// Sets units aside for a reservation.
    pub fn hold(&mut self, units: Decimal) {
        self.reserved += units;
        self.full |= self.reserved >= LIMIT;
        self.changed |= !units.is_zero();
    }

    /// Gives up what a reservation has set aside.
    pub fn release(&mut self, units: Decimal) {
        self.reserved -= units;
        self.changed |= !units.is_zero();
    }

    fn touch(&mut self, number: i64) {
        self.changed = true;
        if number <= self.known && !self.touched.contains(&number) {
            self.touched.push(number);
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
        // Replicas' clocks differ a little; the ledger's time does not go back.
        let at = self.last_at.map_or(at, |last| last.max(at));
        self.sequence += 1;
        let before = self.balance;
        self.balance += amount;
        // What is over the limit already may become less.
        self.full |= self.balance.abs() >= LIMIT && self.balance.abs() > before.abs();
        self.last_at = Some(at);
        self.changed = true;
        let Note { source, batch, link, reason, actor } = note;
        let sequence = self.sequence;
        let balance_after = self.balance;
        self.entries.push(Entry {
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
        debug_assert!(self.full || self.is_sound(), "{self:#?}");
    }

    /// Whether it may hold so many units more.
    fn has_room(&self, units: Decimal) -> bool {
        self.balance + units < LIMIT
    }

    /// Whether what must always hold does.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let remaining: Decimal = self
            .grants
            .iter()
            .filter(|grant| grant.state != GrantState::Scheduled)
            .map(|grant| grant.remaining)
            .sum();
        let debt = (-self.balance).max(Decimal::ZERO);
        let whole = |grant: &Grant| {
            grant.remaining + grant.burned + grant.clawed + grant.lapsed == grant.amount
                && grant.remaining >= Decimal::ZERO
        };
        remaining - debt == self.balance && self.grants.iter().all(whole)
    }
}

/// Draws as they are stored: `[[grant number, units], …]`.
#[must_use]
pub(super) fn draws_json(draws: &[(i64, Decimal)]) -> Value {
    Value::Array(draws.iter().map(|(number, units)| json!([number, units.normalize().to_string()])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is not effective yet is in no balance: taking from it and giving back to it leaves no entry.
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
            assert!(account.is_sound() && account.written().is_empty(), "{account:#?}");
            account.catch_up(later);
            assert_eq!(account.balance(), 100.into());
        }
    }
}
