//! The catalogue: everything that decides how a usage event is counted, under one version.
//!
//! No usage is counted by an older catalogue than the committed one. A transaction that changes a meter, a
//! rate card, a slot or a closing takes the lock alone and raises the version ([`begin_change`]). A
//! transaction that writes usage takes the lock shared ([`lock_shared`]) and learns the version that is in
//! force until it commits. In memory it is part of the rulebook (`quota/rulebook.rs`).

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;

use super::meters::{self, Meter};
use super::rates::choose::{self, Buyer};
use super::rates::{self, RateCard};
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::slots::{self, Slot};
use crate::metering::windows::Window;
use crate::schema::{catalog, usage_closings};

/// Advisory lock of the catalogue: shared while usage is written, exclusive while the catalogue changes.
const LOCK: i64 = 2_685_664;
const NAME: &str = "metering";

/// The catalogue at one version.
#[derive(Debug, Default)]
pub struct Catalog {
    /// Grows with every change.
    pub version: i64,
    /// Meters by id, also archived ones: their usage can still be corrected.
    pub meters: HashMap<i32, Arc<Meter>>,
    /// Meters that are not archived, by event name, in the order of their ids.
    pub by_event_name: HashMap<String, Vec<Arc<Meter>>>,
    /// Rate cards of a meter that belong to it or to a plan, sorted by [`RateCard::order`].
    shared_rate_cards: HashMap<i32, Vec<Arc<RateCard>>>,
    /// Rate cards of a meter that belong to an org, sorted likewise.
    org_rate_cards: HashMap<(i32, i64), Vec<Arc<RateCard>>>,
    /// Slots by meter.
    pub slots: HashMap<i32, Vec<Arc<Slot>>>,
    /// The windows of those slots that count by one.
    pub windows: HashMap<i32, Window>,
    /// The last closed month by org; 0: of every org. Usage of a closed month is posted to an open one.
    pub closed: HashMap<i64, NaiveDate>,
}

impl Catalog {
    /// The rate cards of a meter that may price usage of an org, for any plan, in the order of precedence.
    pub fn rate_cards(&self, meter_id: i32, org_id: i64) -> impl Iterator<Item = &Arc<RateCard>> {
        let own = self.org_rate_cards.get(&(meter_id, org_id));
        own.into_iter().chain(self.shared_rate_cards.get(&meter_id)).flatten()
    }

    /// The card that prices usage of an org with these dimensions at that time, and the index of its rate;
    /// `None` for the rate: none of the card's rates fits.
    #[must_use]
    pub fn price(
        &self,
        meter_id: i32,
        org: &OrgContext,
        dimensions: &[(String, String)],
        at: DateTime<Utc>,
    ) -> Option<(&RateCard, Option<usize>)> {
        let cards = self.rate_cards(meter_id, org.org_id).map(|card| &**card);
        let currency = self.meters.get(&meter_id).and_then(|meter| meter.currency.as_deref());
        choose::price(cards, dimensions, (Buyer::new(org, at), currency), at)
    }

    /// The last month closed for this org.
    #[must_use]
    pub fn closed_month(&self, org_id: i64) -> Option<NaiveDate> {
        self.closed.get(&org_id).copied().max(self.closed.get(&0).copied())
    }
}

/// Starts a change of the catalogue in the caller's transaction: takes the lock alone, as
/// [`lock_exclusive`] does, and raises the version.
pub fn begin_change(conn: &mut PgConnection) -> Result<(), Error> {
    lock_exclusive(conn)?;
    diesel::update(catalog::table.find(NAME)).set(catalog::version.eq(catalog::version + 1)).execute(conn)?;
    Ok(())
}

/// Locks the catalogue against changes until the caller's transaction ends, and returns its version. Any
/// number of transactions may have this lock at once.
pub fn lock_shared(conn: &mut PgConnection) -> Result<i64, Error> {
    // Two statements: the second must not see the state from before the wait.
    conn.batch_execute(&format!("SELECT pg_advisory_xact_lock_shared({LOCK})"))?;
    version(conn)
}

/// Locks the catalogue alone until the caller's transaction ends. It waits for transactions that write usage,
/// and new ones wait for it.
pub fn lock_exclusive(conn: &mut PgConnection) -> Result<(), Error> {
    Ok(conn.batch_execute(&format!("SELECT pg_advisory_xact_lock({LOCK})"))?)
}

/// The committed version.
pub fn version(conn: &mut PgConnection) -> Result<i64, Error> {
    Ok(catalog::table.find(NAME).select(catalog::version).first(conn)?)
}

/// Reads the whole catalogue. The caller has one snapshot, or the lock.
pub(crate) fn read(conn: &mut PgConnection) -> Result<Catalog, Error> {
    let mut loaded = Catalog { version: version(conn)?, ..Catalog::default() };
    let mut all = meters::all(conn)?;
    all.sort_by_key(|meter| meter.meter_id);
    for meter in all {
        let meter = Arc::new(meter);
        if meter.archived_at.is_none() {
            loaded.by_event_name.entry(meter.event_name.clone()).or_default().push(Arc::clone(&meter));
        }
        loaded.meters.insert(meter.meter_id, meter);
    }
    for card in rates::all(conn)? {
        let cards = match card.org_id {
            0 => loaded.shared_rate_cards.entry(card.meter_id).or_default(),
            org_id => loaded.org_rate_cards.entry((card.meter_id, org_id)).or_default(),
        };
        cards.push(Arc::new(card));
    }
    for cards in loaded.shared_rate_cards.values_mut().chain(loaded.org_rate_cards.values_mut()) {
        cards.sort_by(|one, other| one.order().cmp(&other.order()));
    }
    for slot in slots::all(conn)? {
        loaded.windows.extend(slot.period.window().map(|window| (slot.slot_id, window)));
        loaded.slots.entry(slot.meter_id).or_default().push(Arc::new(slot));
    }
    loaded.closed = usage_closings::table
        .group_by(usage_closings::org_id)
        .select((usage_closings::org_id, diesel::dsl::max(usage_closings::month)))
        .load::<(i64, Option<NaiveDate>)>(conn)?
        .into_iter()
        .filter_map(|(org_id, month)| Some((org_id, month?)))
        .collect();
    Ok(loaded)
}
