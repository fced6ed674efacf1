//! API keys, and what their bearer may do.
//!
//! A key reads `clb_live_<id>_<secret><crc>`: a public id, a secret of 190 random bits, and a checksum, which
//! finds mistyped and truncated keys without asking the database. Only the SHA-256 of the secret is stored.

mod imported;
pub mod keyring;
mod rotation;
mod scope;
pub mod uses;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use sha2::{Digest, Sha256};

use crate::db::Scope as RowScope;
use crate::error::Error;
use crate::schema::{api_keys, orgs};
pub use imported::import;
pub use rotation::{Rotated, org_of, rotate};
pub use scope::{Principal, Scope};

/// `org_id` of rows that belong to the platform itself.
pub const PLATFORM: i64 = 0;
const PREFIX: &str = "clb_live_";
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const ID_LEN: usize = 16;
const SECRET_LEN: usize = 32;
const CRC_LEN: usize = 6;

/// A key to make.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Row id of its org; [`PLATFORM`]: the platform.
    pub org_id: i64,
    /// A label for people.
    pub name: String,
    pub scopes: Vec<Scope>,
    /// When it stops working; `None`: never.
    pub expires_at: Option<DateTime<Utc>>,
    /// Requests a minute that it may send; `None`: as the settings say.
    pub requests_per_minute: Option<i32>,
}

/// A key as lists show it: everything but the secret.
#[derive(Clone, Debug, Queryable)]
pub struct Key {
    pub key_id: String,
    /// Public id of its org; `None`: the platform's.
    pub org: Option<String>,
    pub name: String,
    pub scopes: Vec<Option<String>>,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
    /// When it was used last, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Id of the key that it was made to follow.
    pub replaces: Option<String>,
    /// How it begins, if another program made it.
    pub hint: Option<String>,
    pub requests_per_minute: Option<i32>,
}

/// Makes a key and returns its id and its full text, which is never shown again.
///
/// # Errors
/// [`Error::Invalid`] when an org's key asks for `admin`, or a key for no scope.
pub fn create(conn: &mut PgConnection, new: &NewKey, now: DateTime<Utc>) -> Result<(String, String), Error> {
    check_new(new, now)?;
    let id = random_text(ID_LEN)?;
    let secret = random_text(SECRET_LEN)?;
    diesel::insert_into(api_keys::table)
        .values((
            api_keys::org_id.eq(new.org_id),
            api_keys::key_id.eq(&id),
            api_keys::secret_sha256.eq(Sha256::digest(&secret).as_slice()),
            api_keys::name.eq(&new.name),
            api_keys::scopes.eq(new.scopes.iter().map(|scope| scope.name()).collect::<Vec<_>>()),
            api_keys::created_at.eq(now),
            api_keys::expires_at.eq(new.expires_at),
            api_keys::requests_per_minute.eq(new.requests_per_minute),
        ))
        .execute(conn)?;
    let text = format!("{PREFIX}{id}_{secret}");
    let crc = checksum(&text);
    Ok((id, text + &crc))
}

/// The new key, bounded by the key that makes it: it ends no later, and may send no more requests.
///
/// # Errors
/// [`Error::Invalid`] when it asks for more.
pub fn bounded(conn: &mut PgConnection, maker: &str, new: NewKey) -> Result<NewKey, Error> {
    let of_maker: (Option<DateTime<Utc>>, Option<i32>) = api_keys::table
        .filter(api_keys::key_id.eq(maker))
        .select((api_keys::expires_at, api_keys::requests_per_minute))
        .first(conn)?;
    let (end, limit) = of_maker;
    if let (Some(end), Some(asked)) = (end, new.expires_at)
        && asked > end
    {
        let rule = format!("must not be after {end}, when the key that makes it ends: leave it out for that");
        return Err(Error::invalid("expires_at", rule));
    }
    if let (Some(limit), Some(asked)) = (limit, new.requests_per_minute)
        && asked > limit
    {
        let rule =
            format!("must be at most {limit}, the limit of the key that makes it: leave it out for that");
        return Err(Error::invalid("requests_per_minute", rule));
    }
    Ok(NewKey {
        expires_at: new.expires_at.or(end),
        requests_per_minute: new.requests_per_minute.or(limit),
        ..new
    })
}

/// Refuses to end a key that may do more than the caller. Anybody may end its own key.
///
/// # Errors
/// [`Error::NotFound`] when there is no such key; [`Error::Beyond`].
pub fn must_be_endable(conn: &mut PgConnection, id: &str, caller: &Principal) -> Result<(), Error> {
    let scopes = api_keys::table.filter(api_keys::key_id.eq(id)).select(api_keys::scopes);
    let scopes: Option<Vec<Option<String>>> = scopes.first(conn).optional()?;
    let scopes = scopes.ok_or(Error::NotFound("API key"))?;
    if id == caller.key_id {
        return Ok(());
    }
    let scopes: Vec<Scope> = scopes.iter().flatten().filter_map(|name| Scope::parse(name)).collect();
    Scope::must_be_within(&scopes, &caller.scopes, "id")
}

fn check_new(new: &NewKey, now: DateTime<Utc>) -> Result<(), Error> {
    if new.scopes.is_empty() {
        return Err(Error::invalid("scopes", "must name at least one scope"));
    }
    if new.expires_at.is_some_and(|at| at <= now) {
        return Err(Error::invalid("expires_at", "must lie in the future: the key would never work"));
    }
    if new.org_id != PLATFORM && new.scopes.contains(&Scope::Admin) {
        let rule = "`admin` is for the platform's keys: leave `org` out or drop the scope";
        return Err(Error::invalid("scopes", rule));
    }
    if new.requests_per_minute.is_some_and(|number| number < 1) {
        return Err(Error::invalid(
            "requests_per_minute",
            "must be at least 1: leave it out for no own limit",
        ));
    }
    Ok(())
}

/// All keys, newest first; with `org_id` only those of one org.
pub fn list(conn: &mut PgConnection, org_id: Option<i64>) -> Result<Vec<Key>, Error> {
    let mut query = api_keys::table
        .left_join(orgs::table.on(orgs::org_id.eq(api_keys::org_id)))
        .select((
            api_keys::key_id,
            orgs::public_id.nullable(),
            api_keys::name,
            api_keys::scopes,
            api_keys::created_at,
            api_keys::expires_at,
            api_keys::revoked_at,
            api_keys::last_used_at,
            api_keys::replaces,
            api_keys::hint,
            api_keys::requests_per_minute,
        ))
        .order((api_keys::created_at.desc(), api_keys::key_id))
        .into_boxed();
    if let Some(org_id) = org_id {
        query = query.filter(api_keys::org_id.eq(org_id));
    }
    Ok(query.load(conn)?)
}

/// Revokes a key; revoking twice changes nothing.
///
/// # Errors
/// [`Error::NotFound`] when there is no such key.
pub fn revoke(conn: &mut PgConnection, key_id: &str, now: DateTime<Utc>) -> Result<(), Error> {
    let revoked_at = diesel::dsl::sql::<diesel::sql_types::Nullable<diesel::sql_types::Timestamptz>>(
        "coalesce(revoked_at, ",
    )
    .bind::<diesel::sql_types::Timestamptz, _>(now)
    .sql(")");
    let changed = diesel::update(api_keys::table.filter(api_keys::key_id.eq(key_id)))
        .set(api_keys::revoked_at.eq(revoked_at))
        .execute(conn)?;
    if changed == 0 { Err(Error::NotFound("API key")) } else { Ok(()) }
}

/// Sets how many requests a minute a key may send; `None`: as the settings say.
///
/// # Errors
/// [`Error::NotFound`] when there is no such key; [`Error::Invalid`] for a number below 1.
pub fn set_limit(conn: &mut PgConnection, key_id: &str, per_minute: Option<i32>) -> Result<(), Error> {
    if per_minute.is_some_and(|number| number < 1) {
        return Err(Error::invalid("requests_per_minute", "must be at least 1, or null for no own limit"));
    }
    let changed = diesel::update(api_keys::table.filter(api_keys::key_id.eq(key_id)))
        .set(api_keys::requests_per_minute.eq(per_minute))
        .execute(conn)?;
    if changed == 0 { Err(Error::NotFound("API key")) } else { Ok(()) }
}

/// True when no key was ever made: this is the first start. Locks until the transaction ends, so that of two
/// daemons that start on an empty database only one gets true.
pub fn none_yet(conn: &mut PgConnection) -> Result<bool, Error> {
    diesel::sql_query("SELECT pg_advisory_xact_lock($1)").bind::<BigInt, _>(FIRST_KEY_LOCK).execute(conn)?;
    Ok(!diesel::select(diesel::dsl::exists(api_keys::table.select(api_keys::key_id)))
        .get_result::<bool>(conn)?)
}

/// The advisory lock for making the first key.
const FIRST_KEY_LOCK: i64 = 2_685_667;

/// Public id and external id of a key's org. Neither ever changes.
type Names = (String, Option<String>);
/// A stored key: org, digest of the secret, scopes, expiry, revocation, limit, names of the org.
type Stored = (
    i64,
    Vec<u8>,
    Vec<Option<String>>,
    Option<DateTime<Utc>>,
    Option<DateTime<Utc>>,
    Option<i32>,
    Option<Names>,
);

/// A valid key.
#[derive(Clone, Debug)]
pub struct ValidKey {
    pub principal: Principal,
    /// When it stops working; `None`: never.
    pub expires_at: Option<DateTime<Utc>>,
    /// Requests a minute that it may send; `None`: as the settings say.
    pub requests_per_minute: Option<u32>,
}

const NO_KEY: Error = Error::Unauthorized(
    "this is not a Coulomb API key (clb_live_…), or it was cut off or mistyped: copy it again",
);

const REVOKED: &str = "this API key was revoked";
const EXPIRED: &str = "this API key has expired";

/// Why a key is not valid, in a word, of what [`Error::Unauthorized`] says.
#[must_use]
pub fn why_invalid(told: &str) -> &'static str {
    match told {
        REVOKED => "revoked",
        EXPIRED => "expired",
        _ => "unknown",
    }
}

const UNKNOWN_KEY: Error = Error::Unauthorized("this API key is not known here");

/// Checks the form and the checksum of a key, without the database.
///
/// # Errors
/// [`Error::Unauthorized`] when it cannot be a key.
pub fn check_form(text: &str) -> Result<(), Error> {
    if split(text).is_some() || (!text.starts_with(PREFIX) && imported::has_form(text)) {
        Ok(())
    } else {
        Err(NO_KEY)
    }
}

/// Finds whose key this is.
///
/// # Errors
/// [`Error::Unauthorized`] says whether the text is no key, unknown, expired or revoked.
pub fn authenticate(conn: &mut PgConnection, text: &str, now: DateTime<Utc>) -> Result<ValidKey, Error> {
    check_form(text)?;
    let (id, digest) = match split(text) {
        Some((id, secret)) => (id.to_owned(), Sha256::digest(secret)),
        None => {
            let digest = Sha256::digest(text);
            (imported::find(conn, &digest)?.ok_or(UNKNOWN_KEY)?, digest)
        }
    };
    let rows: Vec<Stored> = api_keys::table
        .left_join(orgs::table.on(orgs::org_id.eq(api_keys::org_id)))
        .filter(api_keys::key_id.eq(&id))
        .select((
            api_keys::org_id,
            api_keys::secret_sha256,
            api_keys::scopes,
            api_keys::expires_at,
            api_keys::revoked_at,
            api_keys::requests_per_minute,
            (orgs::public_id, orgs::external_id).nullable(),
        ))
        .load(conn)?;
    let found = rows.into_iter().find(|(_, stored, ..)| is_same(stored, &digest));
    let Some((org_id, _, scopes, expires_at, revoked_at, per_minute, org)) = found else {
        return Err(UNKNOWN_KEY);
    };
    if revoked_at.is_some() {
        return Err(Error::Unauthorized(REVOKED));
    }
    if expires_at.is_some_and(|at| at <= now) {
        return Err(Error::Unauthorized(EXPIRED));
    }
    let scopes = scopes.iter().flatten().filter_map(|name| Scope::parse(name)).collect();
    let rows = if org_id == PLATFORM { RowScope::Platform } else { RowScope::Org(org_id) };
    let (org, external_id) = org.unzip();
    let (external_id, state) = (external_id.flatten(), Arc::default());
    let principal = Principal { key_id: id, rows, org, external_id, scopes, state };
    let requests_per_minute = per_minute.and_then(|number| u32::try_from(number).ok());
    Ok(ValidKey { principal, expires_at, requests_per_minute })
}

/// Compares two digests in a time that does not depend on where they differ.
fn is_same(stored: &[u8], digest: &[u8]) -> bool {
    let difference = stored.iter().zip(digest).fold(0, |all, (one, other)| all | (one ^ other));
    stored.len() == digest.len() && std::hint::black_box(difference) == 0
}

/// Id and secret of a well-formed key.
fn split(text: &str) -> Option<(&str, &str)> {
    let body = text.strip_prefix(PREFIX)?;
    if !text.is_ascii() || body.len() != ID_LEN + 1 + SECRET_LEN + CRC_LEN {
        return None;
    }
    let (start, crc) = text.split_at(text.len() - CRC_LEN);
    if checksum(start) != crc {
        return None;
    }
    let (id, secret) = body[..body.len() - CRC_LEN].split_once('_')?;
    (id.len() == ID_LEN).then_some((id, secret))
}

/// CRC-32 of the key's text so far, in six letters.
fn checksum(text: &str) -> String {
    let mut rest = crc32fast::hash(text.as_bytes()) as usize;
    let mut letters = [0_u8; CRC_LEN];
    for letter in letters.iter_mut().rev() {
        *letter = ALPHABET[rest % ALPHABET.len()];
        rest /= ALPHABET.len();
    }
    letters.iter().map(|&letter| char::from(letter)).collect()
}

fn random_text(len: usize) -> Result<String, Error> {
    let mut text = String::with_capacity(len);
    let mut bytes = [0_u8; 64];
    while text.len() < len {
        getrandom::fill(&mut bytes)
            .map_err(|error| Error::Internal(format!("no random numbers: {error}")))?;
        // 248 = 4 × 62: bytes above would make some letters likelier.
        let letters = bytes
            .iter()
            .filter(|&&byte| byte < 248)
            .map(|&byte| char::from(ALPHABET[usize::from(byte) % 62]));
        text.extend(letters.take(len - text.len()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_with_one_letter_changed_is_no_key() {
        let start = format!(
            "{PREFIX}{}_{}",
            random_text(ID_LEN).expect("random"),
            random_text(SECRET_LEN).expect("random")
        );
        let key = format!("{start}{}", checksum(&start));
        assert!(split(&key).is_some());
        for at in 0..key.len() {
            let mut bytes = key.clone().into_bytes();
            bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
            assert_eq!(split(&String::from_utf8(bytes).expect("ascii")), None, "position {at}");
        }
        assert_eq!(split(&key[..key.len() - 1]), None);
    }
}
