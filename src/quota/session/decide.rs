//! What becomes of one request: to reserve, to settle or to release.

use rust_decimal::Decimal;
use serde_json::json;

use super::LockedState;
use crate::battery::Note;
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::counters::CounterKey;
use crate::metering::meters::{Aggregation, Meter};
use crate::quantity::Sum;
use crate::quota::limit_status::{
    ApplicableLimit, BatteryStatus, applicable_limits, battery_units, limited_meter, no_such_meter,
};
use crate::quota::orgs::Orgs;
use crate::quota::reservation_batch::{NewReservation, ReservationAnswer};
use crate::quota::reservations::{Overrun, ReservationName, ReservationRow, ReservationState};
use crate::quota::settle::{KeyClaim, SettlingUsage};

impl LockedState<'_> {
    pub(in crate::quota) fn reserve(
        &mut self,
        org: &OrgContext,
        new: &NewReservation,
    ) -> Result<ReservationAnswer, Error> {
        let (catalog, usage) = (&self.rules.catalog, &new.usage);
        let meter =
            limited_meter(catalog, &usage.meter).ok_or_else(|| no_such_meter("meter", &usage.meter))?;
        if meter.aggregation == Aggregation::Count && !usage.amount.is_integer() {
            let rule = "must be a whole number, for the meter counts usage events";
            return Err(Error::invalid("amount", rule));
        }
        let units = battery_units(catalog, org, meter.meter_id, usage, self.now)?;
        let limits = applicable_limits(self.rules, org, meter.meter_id, usage, self.now);
        let name = (org.org_id, new.id.clone());
        match self.reservations.get(&name) {
            Some(row) if is_repeat(row, meter, new) => {}
            Some(_) => {
                return Err(Error::conflict(
                    "reservation_id_reused",
                    "this id was used for another reservation: use a fresh one",
                ));
            }
            None => {
                org.standing.admit()?;
                if let Some(refused) = self.refusal(org, meter, &limits, usage.amount, units)? {
                    return Ok(refused);
                }
                self.insert(self.row(org, meter, &limits, units, new));
            }
        }
        let quotas = limits.iter().filter_map(|limit| limit.status(meter, org, self.counts()));
        let battery = self.accounts.get(org.org_id).filter(|_| !units.is_zero());
        let debt_limit = self.rules.limits.battery.debt_limit(org);
        let battery = battery.map(|account| BatteryStatus::new(account, debt_limit, units));
        let row = self.reservation(&name)?;
        Ok(ReservationAnswer::Reservation(Box::new(row.shown(&org.public_id, quotas.collect(), battery))))
    }

    /// The limit or the battery that `amount` more does not fit under.
    fn refusal(
        &self,
        org: &OrgContext,
        meter: &Meter,
        limits: &[ApplicableLimit<'_>],
        amount: Decimal,
        units: Decimal,
    ) -> Result<Option<ReservationAnswer>, Error> {
        if let Some(over) = limits.iter().find(|limit| !limit.fits(self.counts(), amount)) {
            let status = over.status(meter, org, self.counts());
            let no_limit = || Error::Internal("the counter that refused has no limit".to_owned());
            return Ok(Some(ReservationAnswer::Exceeded(Box::new(status.ok_or_else(no_limit)?))));
        }
        let battery = self.exhausted(org, units);
        Ok(battery.map(|battery| ReservationAnswer::Exhausted(Box::new(battery))))
    }

    fn row(
        &self,
        org: &OrgContext,
        meter: &Meter,
        limits: &[ApplicableLimit<'_>],
        battery_units: Decimal,
        new: &NewReservation,
    ) -> ReservationRow {
        let NewReservation { id, usage, member, expires_at } = new;
        ReservationRow {
            org_id: org.org_id,
            id: id.clone(),
            meter_id: meter.meter_id,
            meter: meter.key.clone(),
            amount: usage.amount,
            dimensions: usage.dimensions.clone(),
            subject: usage.subject.clone(),
            member: member.clone(),
            counters: limits.iter().map(ApplicableLimit::reserving_key).collect(),
            state: ReservationState::Open,
            made_at: self.now,
            expires_at: *expires_at,
            ended_at: None,
            settled: None,
            battery_units,
            beyond: None,
        }
    }

    pub(in crate::quota) fn release(
        &mut self,
        name: &ReservationName,
        orgs: &Orgs,
    ) -> Result<ReservationAnswer, Error> {
        if self.reservation(name)?.state == ReservationState::Open {
            self.end(name, ReservationState::Released, None);
        }
        self.answer(name, orgs)
    }

    /// Settles by what became of the usage's key, and says whether the usage is to be stored.
    pub(in crate::quota) fn settle(
        &mut self,
        name: &ReservationName,
        orgs: &Orgs,
        usage: &SettlingUsage<'_>,
        claim: &KeyClaim,
    ) -> Result<(ReservationAnswer, bool), Error> {
        let row = self.reservation(name)?;
        let is_settled = row.state == ReservationState::Settled;
        match claim {
            KeyClaim::Rejected(why) => Err(Error::invalid(why.field.clone(), why.detail.clone())),
            KeyClaim::Conflict | KeyClaim::New { .. } if is_settled => Err(settled_otherwise()),
            KeyClaim::Conflict => Err(Error::conflict(
                "usage_event_conflict",
                "another usage event is recorded under this source and id: the reservation stays",
            )),
            KeyClaim::Duplicate { quantity } if is_settled && row.settled != Some(*quantity) => {
                Err(settled_otherwise())
            }
            KeyClaim::Duplicate { quantity } => {
                if !is_settled {
                    // The usage is counted already.
                    self.end_settled(name, *quantity, Overrun::default());
                }
                Ok((self.answer(name, orgs)?, false))
            }
            KeyClaim::New { quantity, counters, units } => {
                let beyond = Overrun {
                    overage: self.overage(usage, counters),
                    debt: self.debt(name.0, units.rounded_up().unwrap_or(Decimal::MAX)),
                };
                self.end_settled(name, *quantity, beyond);
                self.burn(name, *units);
                for (key, added) in counters {
                    self.add_used(key, *added);
                }
                Ok((self.answer(name, orgs)?, true))
            }
        }
    }

    fn end_settled(&mut self, name: &ReservationName, quantity: Decimal, beyond: Overrun) {
        self.end(name, ReservationState::Settled, Some(quantity));
        if let Some(row) = self.reservations.get_mut(name) {
            row.beyond = Some(beyond);
        }
    }

    fn burn(&mut self, name: &ReservationName, units: Sum) {
        if let Some(account) = self.accounts.get_mut(name.0) {
            let link = Some(json!({ "object": "reservation", "id": name.1 }));
            let note = Note { batch: Some(self.batch), link, ..Note::new("reservation") };
            account.burn_usage(units, note, self.now);
        }
    }

    /// Of usage that is about to be counted, how much goes over the limit that it exceeds the most.
    ///
    /// Usage is counted beyond the limits, too. If it were refused, the customer would have used it for free.
    /// Limits decide what may be reserved or reported, before it is used.
    fn overage(&self, usage: &SettlingUsage<'_>, counters: &[(CounterKey, Decimal)]) -> Decimal {
        let limits = &self.rules.limits;
        let over = counters.iter().filter_map(|(key, added)| {
            let limit = limits.limit(&usage.org, key.slot_id)?.terms.limit?;
            let subject = Some(key.subject.as_str()).filter(|subject| !subject.is_empty()).or(usage.subject);
            let exempt = limits.is_exempt(key.org_id, key.slot_id, subject);
            let beyond = (self.count(key).used + *added - limit.0).max(Sum::ZERO).min(Sum::from(*added));
            (!exempt).then(|| beyond.shown())
        });
        over.max().unwrap_or_default().max(Decimal::ZERO)
    }

    /// Of units that are about to be burned, how many the battery does not have.
    fn debt(&self, org_id: i64, units: Decimal) -> Decimal {
        let balance = self.accounts.get(org_id).map_or(units, |account| account.balance().max(Decimal::ZERO));
        (units - balance).max(Decimal::ZERO)
    }

    /// Answers a settlement whose meter is archived. When the reservation is settled already, it is a repeat.
    pub(in crate::quota) fn settle_without_meter(
        &self,
        name: &ReservationName,
        orgs: &Orgs,
    ) -> Result<ReservationAnswer, Error> {
        let row = self.reservation(name)?;
        if row.state == ReservationState::Settled {
            return self.answer(name, orgs);
        }
        Err(no_such_meter("meter", &row.meter))
    }

    fn reservation(&self, name: &ReservationName) -> Result<&ReservationRow, Error> {
        self.reservations.get(name).ok_or(Error::NotFound("reservation"))
    }

    fn answer(&self, name: &ReservationName, orgs: &Orgs) -> Result<ReservationAnswer, Error> {
        let row = self.reservation(name)?;
        let org = orgs.by_id(row.org_id).ok_or(Error::NotFound("org"))?;
        Ok(ReservationAnswer::Reservation(Box::new(row.shown(&org.public_id, Vec::new(), None))))
    }
}

/// Whether a request with the id of this reservation is the same request again.
fn is_repeat(row: &ReservationRow, meter: &Meter, new: &NewReservation) -> bool {
    let NewReservation { usage, member, .. } = new;
    (row.meter_id, row.amount, &row.dimensions, &row.subject, &row.member)
        == (meter.meter_id, usage.amount, &usage.dimensions, &usage.subject, member)
}

fn settled_otherwise() -> Error {
    Error::conflict("already_settled", "this reservation was settled with other usage, which stays as it is")
}
