//! Usage that settles a reservation, recorded in the transaction that settles it.

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
use crate::metering::event::{self, Form, Outcome, Rejection};
use crate::metering::levels::{CHANGE, Levels};
use crate::metering::meters::{Aggregation, Meter};
use crate::metering::resolve::{Caller, Resolver, Window, priced};
use crate::metering::usage::Usage as Recorded;
use crate::metering::{posting, series};
use crate::quantity::Sum;

/// Source of usage events that are made for a settlement; their id is the reservation's.
pub const SOURCE: &str = "coulomb:reservation";

/// Usage that is to take a reservation's place.
pub struct Usage<'a> {
    pub org: Arc<OrgContext>,
    /// The reservation's id: that of the usage event where the caller sent none.
    pub reservation: &'a str,
    pub meter: Arc<Meter>,
    /// The actual amount; used where the caller sent no event.
    pub amount: Decimal,
    /// The reservation's dimensions, for the same case.
    pub dimensions: &'a [(String, String)],
    /// The reservation's subject, likewise.
    pub subject: Option<&'a str>,
    /// The reservation's member, likewise.
    pub member: Option<&'a str>,
    /// The usage event that the caller sent, in the native form of `POST /v1/usage`.
    pub event: Option<&'a RawValue>,
    /// When the reservation was made: what was used under it happened about then, or later.
    pub made_at: DateTime<Utc>,
}

/// What the claim of a usage event's key came to.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyClaim {
    New {
        /// Quantity on the reserved meter.
        quantity: Decimal,
        /// What it adds to counters, on whatever meter.
        counters: Vec<(CounterKey, Decimal)>,
        /// What it burns of the battery.
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
    #[must_use]
    pub fn burns(&self) -> bool {
        matches!(self, Self::New { units, .. } if !units.is_zero())
    }
}

/// Usage whose keys are claimed and which is not yet stored. The transaction claims first, then locks
/// counters, then stores: the order that all who write usage keep.
pub struct Recorder {
    /// What was claimed; none where it was not.
    claimed: Vec<Option<Recorded>>,
    levels: Levels,
}

impl Recorder {
    /// Claims the keys of usage, one answer for each, and prices it. The caller holds the catalogue.
    pub fn claim(
        conn: &mut PgConnection,
        series: &series::SeriesCache,
        catalog: &Catalog,
        usages: &[Usage<'_>],
        now: DateTime<Utc>,
    ) -> Result<(Self, Vec<KeyClaim>), Error> {
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
        let (mut claims, mut claimed) = (Vec::new(), Vec::new());
        for (one, usage) in resolved.into_iter().zip(usages) {
            let (claim, kept) = match one {
                Err(rejection) => (KeyClaim::Rejected(rejection), None),
                Ok(mut one) => {
                    let quantity = quantity(&one, &usage.meter);
                    match outcomes.next().expect("one outcome for each") {
                        Outcome::Accepted => match tiers.price(&mut one).and_then(|()| levels.take(&mut one))
                        {
                            Ok(()) => {
                                let (counters, units) =
                                    (posting::counted(&one).collect(), posting::units(&one));
                                (KeyClaim::New { quantity, counters, units }, Some(one))
                            }
                            Err(rejection) => {
                                too_large.push(one);
                                (KeyClaim::Rejected(rejection), None)
                            }
                        },
                        Outcome::Duplicate => (KeyClaim::Duplicate { quantity }, None),
                        Outcome::Conflict | Outcome::Rejected(_) => (KeyClaim::Conflict, None),
                    }
                }
            };
            claims.push(claim);
            claimed.push(kept);
        }
        give_back(conn, &too_large.iter().collect::<Vec<_>>())?;
        Ok((Self { claimed, levels }, claims))
    }

    /// Whether the price of any of it, or what it moves, hangs on what is stored before it.
    #[must_use]
    pub fn hangs_together(&self) -> bool {
        !self.levels.is_empty()
            || self.claimed.iter().flatten().any(|one| one.metered.iter().any(|metered| metered.tiered))
    }

    /// Stores the usage that is `kept` and gives back the keys (and tiers) of the rest. Counters and
    /// batteries are the caller's.
    pub fn store(self, conn: &mut PgConnection, kept: &[bool], batch: i64) -> Result<(), Error> {
        let claimed = || self.claimed.iter().zip(kept).filter_map(|(one, kept)| Some((one.as_ref()?, *kept)));
        give_back(conn, &claimed().filter(|(_, kept)| !kept).map(|(one, _)| one).collect::<Vec<_>>())?;
        let kept: Vec<&Recorded> = claimed().filter(|(_, kept)| *kept).map(|(one, _)| one).collect();
        let series = kept.iter().flat_map(|one| one.metered.iter().map(|metered| &metered.series));
        series::store_within(conn, series)?;
        // Where one is given back that others may hang on, they are settled one by one.
        if claimed().all(|(_, kept)| kept) {
            self.levels.write(conn)?;
        }
        posting::write_rows(conn, &kept, 1, batch)
    }
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

/// What is to be recorded: the caller's event, or one made of the reservation.
fn resolve(
    series: &series::SeriesCache,
    catalog: &Catalog,
    usage: &Usage<'_>,
    now: DateTime<Utc>,
) -> Result<Recorded, Rejection> {
    let caller = Caller { org_id: Some(usage.org.org_id), backfill: false, price: false };
    // An event says when it happened; one of the future, or of long before, does not settle what was
    // reserved.
    let back = (now - usage.made_at).max(chrono::Duration::zero()) + chrono::Duration::days(1);
    let window = Window { back, horizon: None, ahead: chrono::Duration::minutes(5) };
    let resolver = Resolver { catalog, series, caller, window, now };
    let in_event =
        |rejection: Rejection| Rejection { field: format!("event.{}", rejection.field).into(), ..rejection };
    let Some(event) = usage.event else {
        return made(&resolver, usage);
    };
    let read = event::parse(event.get().as_bytes(), &Form::Json, 1, false);
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

/// A usage event of the reserved meter alone.
fn made(resolver: &Resolver<'_>, usage: &Usage<'_>) -> Result<Recorded, Rejection> {
    let org = &usage.org;
    let dimensions: Vec<(&str, &str)> =
        usage.dimensions.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let series = resolver.series.get(resolver.catalog, org.org_id, &usage.meter, usage.member, &dimensions);
    // What was set aside of a level comes on top of it.
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
        day: resolver.open_day(org, resolver.now),
        own_day: org.day(resolver.now),
        billing_period: org.billing_period(resolver.now),
        event_id: usage.reservation.into(),
        source: SOURCE.into(),
        subject: usage.subject.map(Into::into),
        correction: 0,
        elsewhere: false,
        metered: [priced(series, usage.amount, org, resolver.now, changes.then(|| CHANGE.into()))?].into(),
    })
}
