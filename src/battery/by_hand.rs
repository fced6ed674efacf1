//! What operators do to batteries: grant, adjust, void a grant, set a debt limit of an org's own. Owns
//! `battery_settings`.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;

use super::account::{NewGrant, Note};
use super::accounts::{Accounts, Depth};
use super::entries::{Entry, EntryKind};
use super::grants::GrantSource;
use super::reads::grants::{self, Granted, Place};
use crate::error::Error;
use crate::ids;
use crate::schema::{battery_grants, battery_settings};

/// What an operator grants.
#[derive(Clone, Debug)]
pub struct ManualGrant {
    /// Units, above zero.
    pub amount: Decimal,
    /// Bonus, adjustment or purchase.
    pub source: GrantSource,
    /// Lower is burned first; none: that of the source.
    pub priority: Option<i16>,
    /// From when on it may be used; none, or in the past: now.
    pub effective_at: Option<DateTime<Utc>>,
    /// When what remains lapses.
    pub expires_at: Option<DateTime<Utc>>,
    pub reason: String,
    /// What it is granted for, once an org; none: nothing that could be repeated.
    pub key: Option<String>,
}

/// Who acts, for which reason.
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

/// Grants units. The caller knows that the amount is above zero.
///
/// # Errors
/// [`Error::Invalid`] for times in the wrong order; [`Error::Conflict`] when the org was granted something
/// under this key.
pub fn grant(
    conn: &mut PgConnection,
    org_id: i64,
    new: &ManualGrant,
    actor: &str,
    now: DateTime<Utc>,
) -> Result<Granted, Error> {
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
    let there: Option<String> = battery_grants::table
        .filter(battery_grants::org_id.eq(org_id).and(battery_grants::source_key.eq(&key)))
        .select(battery_grants::grant_id)
        .first(conn)
        .optional()?;
    if let Some(id) = there {
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
    grants::at(conn, Place { org_id, number })
}

/// Adds units (a grant that never expires) or, below zero, burns them, whatever the debt limit. Gives the
/// number of the entry that did so, and the grant if there is one.
pub fn adjust(
    conn: &mut PgConnection,
    org_id: i64,
    units: Decimal,
    act: Act<'_>,
    now: DateTime<Utc>,
) -> Result<(i64, Option<Granted>), Error> {
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
    let sequence = account.written().last().map(|entry: &Entry| entry.sequence);
    accounts.write(conn)?;
    let sequence = sequence.ok_or_else(|| Error::Internal("an adjustment wrote no entry".to_owned()))?;
    let granted = number.map(|number| grants::at(conn, Place { org_id, number })).transpose()?;
    Ok((sequence, granted))
}

/// Takes away what remains of a grant. Gives the org's row id, the units, and the grant as it is then.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] when nothing remains.
pub fn void(
    conn: &mut PgConnection,
    id: &str,
    act: Act<'_>,
    now: DateTime<Utc>,
) -> Result<(i64, Decimal, Granted), Error> {
    let (place, _) = grants::find(conn, id, None)?;
    let mut accounts = Accounts::lock(conn, [place.org_id], Depth::Live, now)?;
    let account = accounts.get_mut(place.org_id).ok_or(Error::NotFound("grant"))?;
    // Closed ones are not read.
    let taken = account.void(place.number, act.note(), now).filter(|units| !units.is_zero());
    let taken = taken.ok_or_else(|| {
        Error::conflict("nothing_remains", "nothing remains of this grant: it is used, taken back or lapsed")
    })?;
    accounts.write(conn)?;
    Ok((place.org_id, taken, grants::at(conn, place)?))
}

/// Sets how far below zero an org's battery may be used, in place of its plan's word; none: without limit.
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

/// Has the plan's word hold again. The caller has begun a change of the catalogue.
///
/// # Errors
/// [`Error::NotFound`] when the org had no word of its own.
pub fn clear_debt_limit(conn: &mut PgConnection, org_id: i64) -> Result<(), Error> {
    let cleared = diesel::delete(battery_settings::table.find(org_id)).execute(conn)?;
    if cleared == 1 { Ok(()) } else { Err(Error::NotFound("battery setting")) }
}
