//! Rotation: a new key takes the place of an old one, and both work for a while.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;

use super::{NewKey, Scope, create};
use crate::error::Error;
use crate::schema::api_keys;

/// How long both keys may work at most.
const LONGEST_OVERLAP: TimeDelta = TimeDelta::days(90);

/// A rotated key.
#[derive(Clone, Debug)]
pub struct Rotated {
    /// Id of the new key.
    pub id: String,
    /// Its text, shown once.
    pub text: String,
    /// When the old key stops working.
    pub old_expires_at: DateTime<Utc>,
}

/// What is stored of a key to rotate: org, name, scopes, expiry, revocation, limit.
type Stored = (i64, String, Vec<Option<String>>, Option<DateTime<Utc>>, Option<DateTime<Utc>>, Option<i32>);

/// Makes a key with the rights, the name and the end of the key `id`, which goes on working for `overlap`.
/// `own`: the only org whose keys the caller may see. `may_have`: the scopes of the caller.
///
/// # Errors
/// [`Error::NotFound`] when there is no such key; [`Error::Conflict`] when it works no more, or when it has
/// been rotated; [`Error::Beyond`] when it may do more than the caller.
pub fn rotate(
    conn: &mut PgConnection,
    id: &str,
    (own, may_have): (Option<i64>, &[Scope]),
    overlap: TimeDelta,
    now: DateTime<Utc>,
) -> Result<Rotated, Error> {
    if overlap < TimeDelta::zero() || overlap > LONGEST_OVERLAP {
        let most = LONGEST_OVERLAP.num_seconds();
        return Err(Error::invalid("overlap_s", format!("must be 0 to {most} seconds (90 days)")));
    }
    // The lock keeps two rotations of one key apart.
    let stored: Option<Stored> = api_keys::table
        .filter(api_keys::key_id.eq(id))
        .select((
            api_keys::org_id,
            api_keys::name,
            api_keys::scopes,
            api_keys::expires_at,
            api_keys::revoked_at,
            api_keys::requests_per_minute,
        ))
        .for_update()
        .first(conn)
        .optional()?;
    let stored = stored.filter(|(org_id, ..)| own.is_none_or(|own| own == *org_id));
    let (org_id, name, scopes, expires_at, revoked_at, requests_per_minute) =
        stored.ok_or(Error::NotFound("API key"))?;
    if revoked_at.is_some() || expires_at.is_some_and(|at| at <= now) {
        return Err(Error::conflict("key_ended", "this key works no more: make a new one").about("id"));
    }
    let was_rotated: bool = diesel::select(diesel::dsl::exists(
        api_keys::table.filter(api_keys::replaces.eq(id)).filter(api_keys::revoked_at.is_null()),
    ))
    .get_result(conn)?;
    if was_rotated {
        return Err(Error::conflict(
            "key_rotated",
            "this key has been rotated: rotate the new one, or revoke that first",
        )
        .about("id"));
    }
    let scopes: Vec<Scope> = scopes.iter().flatten().filter_map(|name| Scope::parse(name)).collect();
    Scope::must_be_within(&scopes, may_have, "id")?;
    let new = NewKey { org_id, name, scopes, expires_at, requests_per_minute };
    let (new_id, text) = create(conn, &new, now)?;
    let old_expires_at = expires_at.map_or(now + overlap, |at| at.min(now + overlap));
    diesel::update(api_keys::table.filter(api_keys::key_id.eq(&new_id)))
        .set(api_keys::replaces.eq(id))
        .execute(conn)?;
    diesel::update(api_keys::table.filter(api_keys::key_id.eq(id)))
        .set(api_keys::expires_at.eq(old_expires_at))
        .execute(conn)?;
    Ok(Rotated { id: new_id, text, old_expires_at })
}

/// The org of a key, [`super::PLATFORM`] for the platform's.
///
/// # Errors
/// [`Error::NotFound`] when there is no such key, or when it is not of the org `own`.
pub fn org_of(conn: &mut PgConnection, id: &str, own: Option<i64>) -> Result<i64, Error> {
    let org_id: Option<i64> =
        api_keys::table.filter(api_keys::key_id.eq(id)).select(api_keys::org_id).first(conn).optional()?;
    org_id.filter(|org_id| own.is_none_or(|own| own == *org_id)).ok_or(Error::NotFound("API key"))
}
