//! What the projection writes for an object beside its mirror: the link between a Stripe customer and its
//! org, since when a subscription has had its prices, its billing periods, and a marker for the effects on
//! batteries (see [`markers`]).

use std::collections::BTreeSet;

use chrono::{DateTime, Datelike, Utc};
use diesel::pg::PgConnection;

use super::json::Json;
use super::kinds::{self, EffectsMarker};
use super::shape::{self, ObjectRef};
use crate::billing::links::{self, Link};
use crate::billing::markers::{self, Marker};
use crate::billing::subscription_periods::{self, SeenPeriod};
use crate::billing::subscriptions::{self, SeenPrice};
use crate::error::Error;

/// The effects of a batch, collected before they are written.
#[derive(Default)]
pub(super) struct Effects {
    links: Vec<Link>,
    prices: Vec<SeenPrice>,
    periods: Vec<SeenPeriod>,
    markers: BTreeSet<Marker>,
}

impl Effects {
    /// Adds the effects of the winning `snapshot` of an object.
    pub(super) fn add_winner(&mut self, object: &ObjectRef<'_>, snapshot: &Json<'_>) {
        let marker = |kind: &str, id: &str| Marker {
            realm: object.realm.clone(),
            kind: kind.to_owned(),
            id: id.to_owned(),
        };
        match kinds::find(object.object).marker {
            EffectsMarker::None => {}
            EffectsMarker::Object => {
                self.markers.insert(marker(object.object, object.id));
            }
            EffectsMarker::Mapping => {
                self.markers.insert(markers::mapping());
            }
        }
        if let Some(link) = shape::link(object, snapshot) {
            self.markers.insert(marker(markers::CUSTOMER, &link.customer_id));
            self.links.push(link);
        }
    }

    /// Adds what an event of an object shows, whether or not it wins. `created`: the event's unix second, or
    /// that of the read, if the object was `fetched`.
    pub(super) fn add_seen(
        &mut self,
        object: &ObjectRef<'_>,
        snapshot: &Json<'_>,
        created: i64,
        fetched: bool,
    ) {
        let Some(at) = DateTime::from_timestamp(created, 0).filter(|at| (1..=9999).contains(&at.year()))
        else {
            return;
        };
        let prices = shape::subscribed_prices(object, snapshot);
        self.prices.extend(prices.into_iter().map(|(price_id, added)| SeenPrice {
            realm: object.realm.clone(),
            subscription_id: object.id.to_owned(),
            price_id,
            at: added.filter(|_| fetched).unwrap_or(at),
            estimated: fetched,
        }));
        self.periods.extend(shape::billing_periods(object, snapshot, at, fetched));
    }

    /// Writes them, in the caller's transaction.
    pub(super) fn write(
        &self,
        conn: &mut PgConnection,
        org_per_customer: bool,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        subscriptions::write_prices(conn, &self.prices)?;
        subscription_periods::write(conn, &self.periods)?;
        links::write(conn, &self.links, org_per_customer, now)?;
        Ok(markers::write(conn, &self.markers)?)
    }
}
