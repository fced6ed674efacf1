//! What takes units from a battery and gives them back.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use super::{Account, Note};
use crate::battery::entries::EntryKind;
use crate::battery::grants::{Grant, GrantSource, GrantState};
use crate::ids;
use crate::quantity::Sum;

impl Account {
    /// Takes note of units that are admitted and will be used up together, later in this transaction.
    pub fn pend(&mut self, units: Decimal) {
        self.pending += units;
    }

    /// They are used up now.
    pub fn forget_pending(&mut self) {
        self.pending = Decimal::ZERO;
    }

    /// Burns units of usage; below zero it gives them back. The ledger has 12 decimal places and usage up to
    /// 24: what is less than the last of them is carried to the next burn, so that no usage is too small to
    /// burn.
    pub fn use_up(&mut self, units: impl Into<Sum>, note: Note, now: DateTime<Utc>) {
        let (whole, carried) = (units.into() + self.carried).split();
        self.changed |= carried != self.carried;
        self.carried = carried;
        let Some(units) = whole.exact() else {
            self.full = true;
            return;
        };
        if units > Decimal::ZERO {
            self.burn(EntryKind::Usage, units, note, now);
        } else if units < Decimal::ZERO {
            self.give_back(EntryKind::Refund, -units, None, note, now);
        }
    }

    /// Takes units from the grants in burn order; what they do not have becomes debt.
    pub fn burn(&mut self, kind: EntryKind, units: Decimal, note: Note, now: DateTime<Utc>) {
        let mut draws = Vec::new();
        self.draw(units, &mut draws);
        self.post(now, kind, -units, None, draws, note);
    }

    /// Takes up to `units` from the open grants in burn order.
    fn draw(&mut self, units: Decimal, draws: &mut Vec<(i64, Decimal)>) {
        let mut open: Vec<usize> = (0..self.grants.len())
            .filter(|place| {
                self.grants[*place].state == GrantState::Open && self.grants[*place].remaining > Decimal::ZERO
            })
            .collect();
        open.sort_by_key(|place| self.grants[*place].burn_order());
        let mut left = units;
        for place in open {
            if left.is_zero() {
                break;
            }
            let grant = &mut self.grants[place];
            let taken = left.min(grant.remaining);
            grant.remaining -= taken;
            grant.burned += taken;
            if grant.remaining.is_zero() {
                grant.state = GrantState::Closed;
            }
            left -= taken;
            let number = grant.number;
            draws.push((number, taken));
            self.touch(number);
        }
    }

    /// Takes back units of a grant: first what remains of it, then what other grants have, then as debt.
    /// Returns false when the grant was not read.
    pub fn claw_back(&mut self, number: i64, units: Decimal, note: Note, now: DateTime<Utc>) -> bool {
        self.take_from(EntryKind::Clawback, number, units, note, now)
    }

    /// Takes away what remains of a grant; returns how much.
    pub fn void(&mut self, number: i64, note: Note, now: DateTime<Utc>) -> Option<Decimal> {
        let remaining = self.grants.iter().find(|grant| grant.number == number)?.remaining;
        self.take_from(EntryKind::Adjustment, number, remaining, note, now).then_some(remaining)
    }

    fn take_from(
        &mut self,
        kind: EntryKind,
        number: i64,
        units: Decimal,
        note: Note,
        now: DateTime<Utc>,
    ) -> bool {
        let Some(place) = self.grants.iter().position(|grant| grant.number == number) else { return false };
        if self.grants[place].state == GrantState::Scheduled {
            // It is in no balance yet: it just becomes less.
            let grant = &mut self.grants[place];
            let taken = units.min(grant.remaining);
            grant.remaining -= taken;
            grant.clawed += taken;
            if grant.remaining.is_zero() {
                grant.state = GrantState::Closed;
            }
            self.touch(number);
            return true;
        }
        let grant = &mut self.grants[place];
        let own = units.min(grant.remaining);
        grant.remaining -= own;
        grant.clawed += own;
        if grant.remaining.is_zero() {
            grant.state = GrantState::Closed;
        }
        let mut draws = if own.is_zero() { Vec::new() } else { vec![(number, own)] };
        self.touch(number);
        self.draw(units - own, &mut draws);
        if !units.is_zero() {
            self.post(now, kind, -units, Some(number), draws, note);
        }
        true
    }

    /// Gives units back: to debt first, then to the grant they were taken back from (`own`), then to the
    /// grants that were burned last; what none of them has room for is a grant of its own.
    pub fn give_back(
        &mut self,
        kind: EntryKind,
        units: Decimal,
        own: Option<i64>,
        note: Note,
        now: DateTime<Utc>,
    ) {
        let units = match own {
            Some(own) => units - self.unclaw_scheduled(own, units, now),
            None => units,
        };
        if units.is_zero() {
            return;
        }
        let mut left = units - units.min((-self.balance).max(Decimal::ZERO));
        let mut draws: Vec<(i64, Decimal)> = Vec::new();
        if let Some(place) = own.and_then(|own| self.grants.iter().position(|grant| grant.number == own)) {
            let grant = &mut self.grants[place];
            let given = left.min(grant.clawed);
            grant.clawed -= given;
            left -= given;
            self.refill(place, given, &mut draws);
        }
        let mut burned: Vec<usize> = (0..self.grants.len())
            .filter(|place| {
                let grant = &self.grants[*place];
                grant.burned > Decimal::ZERO && grant.state != GrantState::Scheduled && !grant.is_over(now)
            })
            .collect();
        burned.sort_by_key(|place| std::cmp::Reverse(self.grants[*place].burn_order()));
        for place in burned {
            let given = left.min(self.grants[place].burned);
            self.grants[place].burned -= given;
            left -= given;
            self.refill(place, given, &mut draws);
        }
        if left > Decimal::ZERO {
            draws.push((self.room_for(left, &note, now), -left));
        }
        self.post(now, kind, units, own, draws, note);
        // What came back to a grant that is over lapses at once.
        self.catch_up(now);
    }

    /// Gives units back to a grant that is not effective yet: it is in no balance, so there is no entry.
    /// Returns how many.
    fn unclaw_scheduled(&mut self, number: i64, units: Decimal, now: DateTime<Utc>) -> Decimal {
        let Some(grant) = self.grants.iter_mut().find(|grant| grant.number == number) else {
            return Decimal::ZERO;
        };
        // One that was taken back as a whole was closed before its time.
        let ahead =
            grant.state == GrantState::Closed && grant.clawed == grant.amount && grant.effective_at > now;
        if grant.state != GrantState::Scheduled && !ahead {
            return Decimal::ZERO;
        }
        let given = units.min(grant.clawed);
        grant.clawed -= given;
        grant.remaining += given;
        grant.state = GrantState::Scheduled;
        self.touch(number);
        given
    }

    fn refill(&mut self, place: usize, given: Decimal, draws: &mut Vec<(i64, Decimal)>) {
        if given.is_zero() {
            return;
        }
        let grant = &mut self.grants[place];
        grant.remaining += given;
        grant.state = GrantState::Open;
        let number = grant.number;
        draws.push((number, -given));
        self.touch(number);
    }

    /// A grant that holds what no other has room for. Its units are in the entry of what is given back.
    fn room_for(&mut self, units: Decimal, note: &Note, now: DateTime<Utc>) -> i64 {
        self.last_grant += 1;
        let number = self.last_grant;
        self.grants.push(Grant {
            number,
            id: ids::fresh("grt"),
            source: GrantSource::Adjustment,
            key: format!("given_back:{}", self.sequence + 1),
            state: GrantState::Open,
            priority: GrantSource::Adjustment.priority(),
            created_at: now,
            effective_at: now,
            expires_at: None,
            amount: units,
            remaining: units,
            burned: Decimal::ZERO,
            clawed: Decimal::ZERO,
            lapsed: Decimal::ZERO,
            link: note.link.clone(),
            reason: Some("given back".to_owned()),
        });
        self.changed = true;
        number
    }
}
