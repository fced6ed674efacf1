//! A batch of requests: which rows they need locked, and what becomes of each.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;

use super::{Answers, ReservationRequest};
use crate::billing::directory::{Directory, OrgContext};
use crate::error::Error;
use crate::metering::counters::CounterKey;
use crate::quota::limit_status::{ApplicableLimit, applicable_limits, battery_units, limited_meter};
use crate::quota::orgs::Orgs;
use crate::quota::reservations::{self, ReservationName, ReservationRow};
use crate::quota::rulebook::Rulebook;
use crate::quota::session::LockedState;
use crate::quota::settle::{KeyClaim, SettlingUsage};

/// Requests with what was read about them before anything but the catalogue was locked: enough to know which
/// rows to lock. Those are read again then.
pub(super) struct Batch<'a> {
    requests: &'a [ReservationRequest],
    rules: &'a Rulebook,
    now: DateTime<Utc>,
    orgs: Orgs,
    /// The reservations of the ids in the requests.
    named: Vec<ReservationRow>,
    /// Overdue reservations of the same orgs. They end first, for they take up room.
    overdue: Vec<ReservationRow>,
    /// For each request the reservation that it means; `None`: there is none, or several.
    meant: Vec<Option<ReservationName>>,
}

/// The usage of requests that settle.
pub(super) struct Settlements<'a> {
    pub(super) usage: Vec<SettlingUsage<'a>>,
    /// Its place in `usage` by that of the request. A request whose meter no longer counts has none.
    place_of_request: HashMap<usize, usize>,
}

pub(super) struct Decided {
    /// One for each request.
    pub(super) answers: Answers,
    /// For each usage of [`Settlements`], whether it is to be stored.
    pub(super) stored: Vec<bool>,
}

impl<'a> Batch<'a> {
    pub(super) fn read(
        conn: &mut PgConnection,
        directory: &Directory,
        rules: &'a Rulebook,
        requests: &'a [ReservationRequest],
        mut orgs: Orgs,
        now: DateTime<Utc>,
    ) -> Result<Self, Error> {
        let name = |request: &ReservationRequest| {
            let org_id = request.org().map_or(Some(reservations::ANY_ORG), |org| orgs.id(org))?;
            Some((org_id, request.id().to_owned()))
        };
        let named = reservations::named(conn, &requests.iter().filter_map(name).collect())?;
        orgs.load(conn, directory, named.iter().map(|row| row.org_id))?;
        let overdue = reservations::overdue(conn, &orgs.ids(), now)?;
        let meant = requests.iter().map(|request| meant(request, &orgs, &named)).collect();
        Ok(Self { requests, rules, now, orgs, named, overdue, meant })
    }

    pub(super) fn org(&self, org_id: i64) -> Option<&OrgContext> {
        self.orgs.by_id(org_id).map(|org| &**org)
    }

    fn rows(&self) -> impl Iterator<Item = &ReservationRow> {
        self.overdue.iter().chain(&self.named)
    }

    pub(super) fn settlements(&self) -> Settlements<'_> {
        let (mut usage, mut place_of_request) = (Vec::new(), HashMap::new());
        for (n, (request, meant)) in self.requests.iter().zip(&self.meant).enumerate() {
            let row = meant.as_ref().and_then(|name| self.named.iter().find(|row| row.name() == *name));
            if let (ReservationRequest::Settle { amount, event, .. }, Some(row)) = (request, row)
                && let Some(org) = self.orgs.by_id(row.org_id)
                && let Some(meter) = self.rules.catalog.meters.get(&row.meter_id)
            {
                place_of_request.insert(n, usage.len());
                usage.push(SettlingUsage {
                    org: Arc::clone(org),
                    reservation: &row.id,
                    meter: Arc::clone(meter),
                    amount: amount.unwrap_or(row.amount),
                    dimensions: &row.dimensions,
                    subject: row.subject.as_deref(),
                    member: row.member.as_deref(),
                    event: event.as_deref(),
                    made_at: row.made_at,
                });
            }
        }
        Settlements { usage, place_of_request }
    }

    /// Counters at which reservations have amounts set aside, at which new ones will, and to which usage is
    /// added.
    pub(super) fn counters(&self, claims: &[KeyClaim]) -> BTreeSet<CounterKey> {
        let mut keys: BTreeSet<CounterKey> =
            self.rows().flat_map(|row| row.counters.iter().cloned()).collect();
        for request in self.requests {
            if let ReservationRequest::Reserve { org, new } = request
                && let Some(org) = self.orgs.get(org)
                && let Some(meter) = limited_meter(&self.rules.catalog, &new.usage.meter)
            {
                let limits = applicable_limits(self.rules, org, meter.meter_id, &new.usage, self.now);
                keys.extend(limits.iter().flat_map(ApplicableLimit::keys));
            }
        }
        for claim in claims {
            if let KeyClaim::New { counters, .. } = claim {
                keys.extend(counters.iter().map(|(key, _)| key.clone()));
            }
        }
        keys
    }

    pub(super) fn reservations(&self) -> BTreeSet<ReservationName> {
        self.rows().map(ReservationRow::name).chain(self.meant.iter().flatten().cloned()).collect()
    }

    /// The orgs whose battery the batch may change: for new reservations, for those that have units set aside
    /// (`with_units`), and for usage that burns.
    pub(super) fn battery_users(
        &self,
        with_units: impl Iterator<Item = i64>,
        settlements: &Settlements<'_>,
        claims: &[KeyClaim],
    ) -> Vec<&OrgContext> {
        let reserving = self.requests.iter().filter_map(|request| {
            let ReservationRequest::Reserve { org, new } = request else { return None };
            let (org, catalog) = (self.orgs.get(org)?, &self.rules.catalog);
            let meter = limited_meter(catalog, &new.usage.meter)?;
            let units = battery_units(catalog, org, meter.meter_id, &new.usage, self.now).ok()?;
            (!units.is_zero()).then_some(org.org_id)
        });
        let burning = claims.iter().zip(&settlements.usage).filter(|(claim, _)| claim.burns());
        let burning = burning.map(|(_, usage)| usage.org.org_id);
        let org_ids: BTreeSet<i64> = reserving.chain(with_units).chain(burning).collect();
        org_ids.into_iter().filter_map(|org_id| self.org(org_id)).collect()
    }

    /// Decides the requests in their order, each by what those before it have left.
    pub(super) fn decide(
        &self,
        state: &mut LockedState<'_>,
        settlements: &Settlements<'_>,
        claims: &[KeyClaim],
    ) -> Decided {
        let mut stored = vec![false; claims.len()];
        let mut answers = Vec::with_capacity(self.requests.len());
        for (n, request) in self.requests.iter().enumerate() {
            answers.push(match (request, &self.meant[n]) {
                (ReservationRequest::Reserve { org, new }, _) => match self.orgs.get(org) {
                    Some(org) => state.reserve(org, new),
                    None => Err(Error::UnknownOrg("org".into())),
                },
                (_, None) => Err(self.not_found(request)),
                (ReservationRequest::Release { .. }, Some(name)) => state.release(name, &self.orgs),
                (ReservationRequest::Settle { .. }, Some(name)) => {
                    match settlements.place_of_request.get(&n) {
                        Some(&place) => {
                            let settled =
                                state.settle(name, &self.orgs, &settlements.usage[place], &claims[place]);
                            stored[place] = matches!(&settled, Ok((_, true)));
                            settled.map(|(answer, _)| answer)
                        }
                        None => state.settle_without_meter(name, &self.orgs),
                    }
                }
            });
        }
        Decided { answers, stored }
    }

    fn not_found(&self, request: &ReservationRequest) -> Error {
        if request.org().is_some_and(|org| self.orgs.get(org).is_none()) {
            return Error::UnknownOrg("org".into());
        }
        if request.org().is_none() && self.named.iter().any(|row| row.id == request.id()) {
            return Error::invalid("org", "must be named: several orgs have a reservation of this id");
        }
        Error::NotFound("reservation")
    }
}

/// The reservation that a request means; `None` where there is none, or several.
fn meant(request: &ReservationRequest, orgs: &Orgs, named: &[ReservationRow]) -> Option<ReservationName> {
    if let Some(org) = request.org() {
        return Some((orgs.id(org)?, request.id().to_owned()));
    }
    let mut found = named.iter().filter(|row| row.id == request.id());
    found.next().filter(|_| found.next().is_none()).map(ReservationRow::name)
}
