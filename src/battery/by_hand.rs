//! What operators do to batteries: grant, adjust, void a grant, set an org's own debt limit. Writes
//! `battery_settings`, which [`super::terms`] reads.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;

use super::account::{NewGrant, Note};
use super::accounts::{Accounts, Depth};
use super::entries::EntryKind;
use super::grants::GrantSource;
use super::reads::grants::{self, BatteryGrant, GrantPlace};
use crate::billing::standing;
use crate::error::Error;
use crate::ids;
use crate::schema::{battery_grants, battery_settings};

/// A grant by an operator.
#[derive(Clone, Debug)]
pub struct ManualGrant {
    /// Units, above zero.
    pub amount: Decimal,
    /// Bonus, adjustment or purchase.
    pub source: GrantSource,
    /// Lower burns first; `None`: the priority of the source.
    pub priority: Option<i16>,
    /// `None`, or in the past: now.
    pub effective_at: Option<DateTime<Utc>>,
    /// `None`: never.
    pub expires_at: Option<DateTime<Utc>>,
    pub reason: String,
    /// What it is granted for. An org has one grant a key; `None`: a new key.
    pub key: Option<String>,
}

/// Who acts, and why.
#[derive(Clone, Copy, Debug)]
pub struct Act<'a> {
    pub actor: &'a str,
    pub reason: &'a str,
}

impl Act<'_> {
    fn note(self) -> Note {
        Note {
            reason: Some(self.reason.to_owned()),
            actor: Some(self.actor.to_owned()),
            ..Note::new("manual")
        }
    }
}

/// Grants units. The caller checks that the amount is above zero.
///
/// # Errors
/// [`Error::Invalid`] for times in the wrong order; [`Error::Conflict`] when the org has a grant with this
/// key, is archived or was erased.
pub fn grant(
    conn: &mut PgConnection,
    org_id: i64,
    new: &ManualGrant,
    actor: &str,
    now: DateTime<Utc>,
) -> Result<BatteryGrant, Error> {
    standing::must_be_open(conn, org_id)?;
    let effective_at = new.effective_at.filter(|at| *at > now);
    if let Some(expires_at) = new.expires_at {
        if expires_at <= now {
            return Err(Error::invalid("expires_at", "must be in the future"));
        }
        if effective_at.is_some_and(|effective_at| expires_at <= effective_at) {
            return Err(Error::invalid("expires_at", "must be after `effective_at`"));
        }
    }
    let key = match &new.key {
        Some(key) => format!("manual:{key}"),
        None => ids::fresh("manual"),
    };
    let mut accounts = Accounts::lock(conn, [org_id], Depth::Live, now)?;
    let existing: Option<String> = battery_grants::table
        .filter(battery_grants::org_id.eq(org_id).and(battery_grants::source_key.eq(&key)))
        .select(battery_grants::grant_id)
        .first(conn)
        .optional()?;
    if let Some(id) = existing {
        return Err(Error::conflict(
            "already_granted",
            format!("the org was granted {id} under this `key`: nothing is granted twice for the same"),
        ));
    }
    let account = accounts.get_mut(org_id).ok_or(Error::NotFound("org"))?;
    let number = account.grant(
        NewGrant {
            source: new.source,
            key,
            amount: new.amount,
            priority: new.priority,
            effective_at,
            expires_at: new.expires_at,
            link: None,
            reason: Some(new.reason.clone()),
            actor: Some(actor.to_owned()),
        },
        now,
    );
    accounts.write(conn)?;
    grants::at(conn, GrantPlace { org_id, number })
}

/// Adds units as a grant that never expires or, below zero, burns them, whatever the debt limit. Returns the
/// number of the entry, and the grant if there is one.
///
/// # Errors
/// [`Error::Conflict`] when units are added to an org that is archived or was erased.
pub fn adjust(
    conn: &mut PgConnection,
    org_id: i64,
    units: Decimal,
    act: Act<'_>,
    now: DateTime<Utc>,
) -> Result<(i64, Option<BatteryGrant>), Error> {
    if units > Decimal::ZERO {
        standing::must_be_open(conn, org_id)?;
    }
    let mut accounts = Accounts::lock(conn, [org_id], Depth::Live, now)?;
    let account = accounts.get_mut(org_id).ok_or(Error::NotFound("org"))?;
    let number = (units > Decimal::ZERO).then(|| {
        let new = NewGrant {
            source: GrantSource::Adjustment,
            key: ids::fresh("manual"),
            amount: units,
            priority: None,
            effective_at: None,
            expires_at: None,
            link: None,
            reason: Some(act.reason.to_owned()),
            actor: Some(act.actor.to_owned()),
        };
        account.grant(new, now)
    });
    if number.is_none() {
        account.burn(EntryKind::Adjustment, -units, act.note(), now);
    }
    let sequence = account.new_entries().last().map(|entry| entry.sequence);
    accounts.write(conn)?;
    let sequence = sequence.ok_or_else(|| Error::Internal("an adjustment wrote no entry".to_owned()))?;
    let granted = number.map(|number| grants::at(conn, GrantPlace { org_id, number })).transpose()?;
    Ok((sequence, granted))
}

/// Takes away what remains of a grant. Returns the org's row id, the units, and the grant as it is now.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] when nothing remains.
pub fn void(
    conn: &mut PgConnection,
    id: &str,
    act: Act<'_>,
    now: DateTime<Utc>,
) -> Result<(i64, Decimal, BatteryGrant), Error> {
    let (place, _) = grants::find(conn, id, None)?;
    let mut accounts = Accounts::lock(conn, [place.org_id], Depth::Live, now)?;
    let account = accounts.get_mut(place.org_id).ok_or(Error::NotFound("grant"))?;
    // Closed grants are not read, and nothing remains of them.
    let taken = account.void(place.number, act.note(), now).filter(|units| !units.is_zero());
    let taken = taken.ok_or_else(|| {
        Error::conflict("nothing_remains", "nothing remains of this grant: it is used, taken back or expired")
    })?;
    accounts.write(conn)?;
    Ok((place.org_id, taken, grants::at(conn, place)?))
}

/// Sets how far below zero an org's battery may be used, in place of the limit of its plan; `None`: no limit.
/// The caller has begun a change of the catalogue.
pub fn set_debt_limit(
    conn: &mut PgConnection,
    org_id: i64,
    limit: Option<Decimal>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let values = (battery_settings::debt_limit.eq(limit), battery_settings::updated_at.eq(now));
    diesel::insert_into(battery_settings::table)
        .values((battery_settings::org_id.eq(org_id), values))
        .on_conflict(battery_settings::org_id)
        .do_update()
        .set(values)
        .execute(conn)?;
    Ok(())
}

/// Removes an org's own debt limit: the limit of its plan counts again. The caller has begun a change of the
/// catalogue.
///
/// # Errors
/// [`Error::NotFound`] when the org has no limit of its own.
pub fn clear_debt_limit(conn: &mut PgConnection, org_id: i64) -> Result<(), Error> {
    let cleared = diesel::delete(battery_settings::table.find(org_id)).execute(conn)?;
    if cleared == 1 { Ok(()) } else { Err(Error::NotFound("battery setting")) }
}
