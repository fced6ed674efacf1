//! Corrections: taking back a usage event (void), or putting another in its place (amend). All of it stays
//! visible. Owns `usage_corrections`.
//!
//! An event is taken back by a *reversal*: a record with the negative quantity. It belongs to the day of the
//! original, whose tiers and quotas it gives back to. It is posted to that day, or to a day of an open month
//! when the original's month is closed. A closed month stays as it is: for meters that do not add up, the
//! reversal of a closed month changes no summary.
//!
//! Usage is written meanwhile. A correction holds the catalogue shared, as all writers of usage do. It locks
//! the event's key, and then every row that it changes, in the common order ([`posting::lock_rows`]). Whoever
//! wrote to such a row before has committed by then; whoever comes later adds to what the correction leaves.
//! The corrections of one org follow each other, so that usage waits for few of them.

pub mod late_pricing;
mod recount;
mod stored_event;
mod tier_cost;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer};

use self::stored_event::StoredEvent;
use crate::battery::Depth;
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::event::{Rejection, UsageEvent};
use crate::metering::levels::Levels;
use crate::metering::posting::{self, Tiers};
use crate::metering::resolve::{Caller, Resolver, Window};
use crate::metering::series::{self, SeriesCache};
use crate::metering::unpriced;
use crate::metering::usage::Usage;
use crate::quota::rulebook::RulebookCache;
use crate::schema::usage_corrections;

/// Advisory locks of corrections, one for each org.
const LOCK: i32 = 2_685_666;
/// The last correction that can be amended: an amendment needs two more numbers in
/// `usage_records.correction`.
const LAST_AMENDABLE: i16 = i16::MAX - 2;

/// Which usage event is corrected, by whom and why.
pub struct Correction<'a> {
    pub org: &'a Arc<OrgContext>,
    pub source: &'a str,
    pub id: &'a str,
    pub reason: &'a str,
    pub actor: &'a str,
}

/// Takes a usage event back. Returns the number of the correction.
///
/// # Errors
/// [`Error::NotFound`] when there is no such event, [`Error::Conflict`] when it was taken back before.
pub fn void(
    conn: &mut PgConnection,
    rules: &RulebookCache,
    series: &SeriesCache,
    correction: &Correction<'_>,
    now: DateTime<Utc>,
) -> Result<i16, Error> {
    lock_org(conn, correction.org.org_id)?;
    let catalog = &rules.lock_shared(conn)?.catalog;
    let event = StoredEvent::find(conn, correction)?;
    let mut reversals = event.reversals(catalog, series, correction, now)?;
    let all: Vec<&Usage> = reversals.iter().collect();
    posting::lock_rows(conn, correction.org.org_id, &all, Depth::All, now)?;
    event.take_back(conn, &mut reversals, correction, now)?;
    Ok(event.correction + 1)
}

/// Puts `event` in the place of the stored event with its key. Returns the number of the correction.
/// `may_set_cost`: the caller may set a cost.
///
/// # Errors
/// As [`void`]; [`Error::Invalid`] when the new event is rejected or has another time.
pub fn amend(
    conn: &mut PgConnection,
    rules: &RulebookCache,
    series: &SeriesCache,
    may_set_cost: bool,
    correction: &Correction<'_>,
    event: &UsageEvent<'_>,
    now: DateTime<Utc>,
) -> Result<i16, Error> {
    lock_org(conn, correction.org.org_id)?;
    let catalog = &rules.lock_shared(conn)?.catalog;
    let stored = StoredEvent::find(conn, correction)?;
    check_amendable(&stored, event)?;
    // Its time was accepted when it was first reported, so no bound applies to it now.
    let caller = Caller { org_id: Some(correction.org.org_id), backfill: true, price: may_set_cost };
    let window =
        Window { back: chrono::Duration::zero(), horizon: None, ahead: chrono::Duration::days(36_500) };
    let resolver = Resolver { catalog, series, caller, window, now };
    let event = UsageEvent { occurred_at: Some(stored.occurred_at), ..event.clone() };
    let mut new = resolver.resolve(&event, correction.org).map_err(invalid)?;
    new.correction = stored.correction + 2;
    stored.put_in_place((catalog, series), &mut new, event.cost.is_some()).map_err(invalid)?;
    // An event without a price may stay so; one that has a price does not lose it.
    if stored.has_price() {
        unpriced::refuse(&new).map_err(invalid)?;
    }
    let mut reversals = stored.reversals(catalog, series, correction, now)?;
    series::store_within(conn, new.metered.iter().map(|metered| &metered.series))?;
    let all: Vec<&Usage> = reversals.iter().chain([&new]).collect();
    posting::lock_rows(conn, correction.org.org_id, &all, Depth::All, now)?;
    let positions = stored.take_back(conn, &mut reversals, correction, now)?;
    let mut tiers = Tiers::raise(conn, [&new])?;
    tier_cost::price_replacement(conn, &mut tiers, &mut new, &positions)?;
    let mut levels = Levels::lock(conn, [&new])?;
    levels.take(&mut new).map_err(invalid)?;
    posting::write(conn, &[&new], 1, burn(now))?;
    levels.write(conn)?;
    insert_corrections(conn, [&new], (correction.actor, correction.reason), now)?;
    Ok(new.correction)
}

fn check_amendable(stored: &StoredEvent, event: &UsageEvent<'_>) -> Result<(), Error> {
    if stored.correction > LAST_AMENDABLE {
        let detail =
            "this usage event was amended as often as one can be: take it back, and send it under another id";
        return Err(Error::conflict("too_many_corrections", detail));
    }
    if event.occurred_at.is_some_and(|at| at != stored.occurred_at) {
        let rule = "cannot be amended: take the event back and send it under another id";
        return Err(Error::invalid("event.occurred_at", rule));
    }
    Ok(())
}

fn invalid(rejection: Rejection) -> Error {
    Error::invalid(format!("event.{}", rejection.field), format!("{}: {}", rejection.rule, rejection.detail))
}

/// Makes the corrections of an org follow each other. Comes before the lock of the catalogue.
fn lock_org(conn: &mut PgConnection, org_id: i64) -> Result<(), Error> {
    diesel::sql_query("SELECT pg_advisory_xact_lock($1, hashint8($2))")
        .bind::<Integer, _>(LOCK)
        .bind::<BigInt, _>(org_id)
        .execute(conn)?;
    Ok(())
}

/// As [`lock_org`], without waiting. False: another correction of the org is under way.
fn try_lock_org(conn: &mut PgConnection, org_id: i64) -> Result<bool, Error> {
    let lock = diesel::dsl::sql::<Bool>("pg_try_advisory_xact_lock(").bind::<Integer, _>(LOCK);
    let lock = lock.sql(", hashint8(").bind::<BigInt, _>(org_id).sql("))");
    Ok(diesel::select(lock).get_result(conn)?)
}

fn too_large() -> Error {
    Error::conflict("amount_too_large", "what this would cost or give back is too large a number to be kept")
}

/// What a correction gives back may go to any grant.
fn burn(now: DateTime<Utc>) -> posting::Burn<'static> {
    posting::Burn { terms: None, locked: None, depth: Depth::All, now }
}

/// Inserts who corrected and why. An event with several meters may have a row already: each meter's record is
/// corrected for itself.
fn insert_corrections<'a>(
    conn: &mut PgConnection,
    written: impl IntoIterator<Item = &'a Usage>,
    (actor, reason): (&str, &str),
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let row = |usage: &Usage| {
        (
            usage_corrections::org_id.eq(usage.org.org_id),
            usage_corrections::event_key.eq(usage.event_key),
            usage_corrections::correction.eq(usage.correction),
            usage_corrections::at.eq(now),
            usage_corrections::actor.eq(actor.to_owned()),
            usage_corrections::reason.eq(reason.to_owned()),
        )
    };
    let rows: Vec<_> = written.into_iter().map(row).collect();
    diesel::insert_into(usage_corrections::table).values(rows).on_conflict_do_nothing().execute(conn)?;
    Ok(())
}
