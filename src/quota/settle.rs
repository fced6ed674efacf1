//! Usage that settles a reservation: resolved, claimed and stored in the transaction that settles it.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use rust_decimal::Decimal;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::catalog::Catalog;
use crate::metering::counters::CounterKey;
use crate::metering::digest::event_key;
use crate::metering::event::{self, BodyFormat, Outcome, Rejection};
use crate::metering::levels::{CHANGE, Levels};
use crate::metering::meters::{Aggregation, Meter};
use crate::metering::resolve::{Caller, Resolver, Window, priced};
use crate::metering::usage::Usage as Recorded;
use crate::metering::{posting, series};
use crate::quantity::Sum;

/// Source of usage events that are made for a settlement; their id is the reservation's.
const SOURCE: &str = "coulomb:reservation";

/// Usage that takes a reservation's place.
pub(super) struct SettlingUsage<'a> {
    pub org: Arc<OrgContext>,
    /// The reservation's id: that of the usage event where the caller sent none.
    pub reservation: &'a str,
    pub meter: Arc<Meter>,
    /// The actual amount; used where the caller sent no event.
    pub amount: Decimal,
    /// The reservation's dimensions, for the same case.
    pub dimensions: &'a [(String, String)],
    /// For the same case, as `member`.
    pub subject: Option<&'a str>,
    pub member: Option<&'a str>,
    /// The usage event that the caller sent, in the native form of `POST /v1/usage`.
    pub event: Option<&'a RawValue>,
    /// When the reservation was made: what was used under it happened about then, or later.
    pub made_at: DateTime<Utc>,
}

/// What claiming a usage event's key came to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum KeyClaim {
    New {
        /// Quantity on the reserved meter.
        quantity: Decimal,
        /// What it adds to counters, on whatever meter.
        counters: Vec<(CounterKey, Decimal)>,
        /// Battery units that it burns.
        units: Sum,
    },
    /// The event is recorded already.
    Duplicate {
        /// Its quantity on the reserved meter.
        quantity: Decimal,
    },
    /// Another event is recorded under its key.
    Conflict,
    /// It cannot be recorded.
    Rejected(Rejection),
}

impl KeyClaim {
    /// Whether it may change the battery.
    pub(super) fn burns(&self) -> bool {
        matches!(self, Self::New { units, .. } if !units.is_zero())
    }
}

/// Usage whose keys are claimed and which is not yet stored.
pub(super) struct ClaimedUsage {
    /// One for each usage, in their order.
    claims: Vec<KeyClaim>,
    /// What would be stored of each; `None`: its key is not ours.
    recorded: Vec<Option<Recorded>>,
    levels: Levels,
}

impl ClaimedUsage {
    /// Claims the keys of usage and prices it. The caller has locked the catalogue.
    pub(super) fn claim(
        conn: &mut PgConnection,
        series: &series::SeriesCache,
        catalog: &Catalog,
        usages: &[SettlingUsage<'_>],
        now: DateTime<Utc>,
    ) -> Result<Self, Error> {
        let resolved: Vec<Result<Recorded, Rejection>> =
            usages.iter().map(|usage| resolve(series, catalog, usage, now)).collect();
        let good: Vec<Recorded> = resolved.iter().flatten().cloned().collect();
        let outcomes = posting::claim(conn, &good.iter().collect::<Vec<_>>())?;
        let ours = good.iter().zip(&outcomes).filter(|(_, outcome)| **outcome == Outcome::Accepted);
        let ours: Vec<&Recorded> = ours.map(|(one, _)| one).collect();
        let mut tiers = posting::Tiers::raise(conn, ours.iter().copied())?;
        let mut levels = Levels::lock(conn, ours.iter().copied())?;
        let mut outcomes = outcomes.into_iter();
        let mut too_large = Vec::new();
        let (mut claims, mut recorded) = (Vec::new(), Vec::new());
        for (resolved, usage) in resolved.into_iter().zip(usages) {
            let mut one = match resolved {
                Ok(one) => one,
                Err(rejection) => {
                    claims.push(KeyClaim::Rejected(rejection));
                    recorded.push(None);
                    continue;
                }
            };
            let quantity = quantity(&one, &usage.meter);
            let (claim, kept) = match outcomes.next().expect("one outcome for each") {
                Outcome::Accepted => match tiers.price(&mut one).and_then(|()| levels.take(&mut one)) {
                    Ok(()) => (new_claim(&one, quantity), Some(one)),
                    Err(rejection) => {
                        too_large.push(one);
                        (KeyClaim::Rejected(rejection), None)
                    }
                },
                Outcome::Duplicate => (KeyClaim::Duplicate { quantity }, None),
                Outcome::Conflict | Outcome::Rejected(_) => (KeyClaim::Conflict, None),
            };
            claims.push(claim);
            recorded.push(kept);
        }
        give_back(conn, &too_large.iter().collect::<Vec<_>>())?;
        Ok(Self { claims, recorded, levels })
    }

    pub(super) fn claims(&self) -> &[KeyClaim] {
        &self.claims
    }

    /// Whether the answer for usage that is `stored` depends on usage that is not. A key that is given back
    /// may have made another request's event look like a repeat; its tiers and levels may have changed what
    /// others cost.
    pub(super) fn depends_on_rejected(&self, stored: &[bool]) -> bool {
        let is_new = |claim: &KeyClaim| matches!(claim, KeyClaim::New { .. });
        let is_repeat = |claim: &KeyClaim| matches!(claim, KeyClaim::Duplicate { .. } | KeyClaim::Conflict);
        let gives_back = self.claims.iter().zip(stored).any(|(claim, stored)| is_new(claim) && !stored);
        let tiered = || self.recorded.iter().flatten().any(|one| one.metered.iter().any(|one| one.tiered));
        gives_back && (self.claims.iter().any(is_repeat) || !self.levels.is_empty() || tiered())
    }

    /// Stores the usage that is marked in `stored`, and gives back the keys (and tiers) of the rest. Counters
    /// and batteries are the caller's.
    pub(super) fn store(self, conn: &mut PgConnection, stored: &[bool], batch: i64) -> Result<(), Error> {
        let ours = self.recorded.iter().zip(stored).filter_map(|(one, stored)| Some((one.as_ref()?, stored)));
        let (stored, left_out): (Vec<_>, Vec<_>) = ours.partition(|(_, stored)| **stored);
        let stored: Vec<&Recorded> = stored.into_iter().map(|(one, _)| one).collect();
        let left_out: Vec<&Recorded> = left_out.into_iter().map(|(one, _)| one).collect();
        give_back(conn, &left_out)?;
        let series = stored.iter().flat_map(|one| one.metered.iter().map(|metered| &metered.series));
        series::store_within(conn, series)?;
        // Usage that is left out moved the levels; a request that depends on them is done alone.
        if left_out.is_empty() {
            self.levels.write(conn)?;
        }
        posting::write_rows(conn, &stored, 1, batch)
    }
}

fn new_claim(usage: &Recorded, quantity: Decimal) -> KeyClaim {
    KeyClaim::New { quantity, counters: posting::counted(usage).collect(), units: posting::units(usage) }
}

/// Gives back the keys and tiers of usage that is not stored.
fn give_back(conn: &mut PgConnection, usage: &[&Recorded]) -> Result<(), Error> {
    posting::Tiers::lower(conn, usage.iter().copied())?;
    posting::unclaim(conn, usage.iter().map(|one| posting::key(one)).collect())
}

/// Its quantity on the reserved meter.
fn quantity(usage: &Recorded, meter: &Meter) -> Decimal {
    let on_meter = usage.metered.iter().filter(|metered| metered.series.meter.meter_id == meter.meter_id);
    on_meter.map(|metered| metered.quantity).sum()
}

/// What would be stored: the caller's event, or one made of the reservation.
fn resolve(
    series: &series::SeriesCache,
    catalog: &Catalog,
    usage: &SettlingUsage<'_>,
    now: DateTime<Utc>,
) -> Result<Recorded, Rejection> {
    let caller = Caller { org_id: Some(usage.org.org_id), backfill: false, price: false };
    // An event from the future, or from long before the reservation, does not settle it.
    let back = (now - usage.made_at).max(chrono::Duration::zero()) + chrono::Duration::days(1);
    let window = Window { back, horizon: None, ahead: chrono::Duration::minutes(5) };
    let resolver = Resolver { catalog, series, caller, window, now };
    let in_event =
        |rejection: Rejection| Rejection { field: format!("event.{}", rejection.field).into(), ..rejection };
    let Some(event) = usage.event else {
        return event_of_reservation(&resolver, usage);
    };
    let read = event::parse(event.get().as_bytes(), &BodyFormat::Json, 1, false);
    let read = read.ok().and_then(|mut read| read.events.pop());
    let event = read
        .map_or_else(|| Err(Rejection::new("", "malformed", "must be one usage event")), |read| read.event);
    let event = event.map_err(in_event)?;
    if event.org.as_deref().is_some_and(|name| !usage.org.is_called(name)) {
        return Err(Rejection::new(
            "event.org",
            "another_org",
            "must be left out, or be the id or external id of the reservation's org",
        ));
    }
    let resolved = resolver.resolve(&event, &usage.org).map_err(in_event)?;
    let counted =
        resolved.metered.iter().any(|metered| metered.series.meter.meter_id == usage.meter.meter_id);
    if !counted {
        let detail = format!("the reserved meter {} does not count this event", usage.meter.key);
        return Err(Rejection::new("event.event_name", "another_meter", detail));
    }
    Ok(resolved)
}

/// A usage event of the reserved meter alone, made of the reservation.
fn event_of_reservation(resolver: &Resolver<'_>, usage: &SettlingUsage<'_>) -> Result<Recorded, Rejection> {
    let org = &usage.org;
    let dimensions: Vec<(&str, &str)> =
        usage.dimensions.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let series = resolver.series.get(resolver.catalog, org.org_id, &usage.meter, usage.member, &dimensions);
    // An amount reserved of a level is added to the level.
    let changes = usage.meter.aggregation == Aggregation::Level;
    let mut content = [0; 8];
    content.copy_from_slice(&Sha256::digest(usage.amount.normalize().to_string())[..8]);
    Ok(Recorded {
        org: Arc::clone(org),
        event_key: event_key(SOURCE, usage.reservation),
        content: i64::from_be_bytes(content),
        names_time: false,
        occurred_at: resolver.now,
        received_at: resolver.now,
        day: resolver.posting_day(org, resolver.now),
        own_day: org.day(resolver.now),
        billing_period: org.billing_period(resolver.now),
        event_id: usage.reservation.into(),
        source: SOURCE.into(),
        subject: usage.subject.map(Into::into),
        correction: 0,
        elsewhere: false,
        metered: [priced(
            (resolver.catalog, resolver.series),
            series,
            usage.amount,
            (org, resolver.now),
            changes.then(|| CHANGE.into()),
        )?]
        .into(),
    })
}
