//! Keys that another program made: we have their SHA-256, never their text. Owns `imported_keys`.

use chrono::{DateTime, Utc};
use diesel::prelude::*;

use super::{ID_LEN, NewKey, check_new, random_text};
use crate::error::Error;
use crate::schema::{api_keys, imported_keys};

/// Shortest and longest key of another program, in bytes.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=512;
/// Longest hint, in characters.
const HINT_LIMIT: usize = 16;

/// Whether this may be the text of a key that another program made.
pub(super) fn has_form(text: &str) -> bool {
    LENGTHS.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Takes over a key; returns its new id. `hint`: how its text begins, for people.
///
/// # Errors
/// [`Error::Conflict`] when the key was taken over before; [`Error::Invalid`] for a bad field.
pub fn import(
    conn: &mut PgConnection,
    new: &NewKey,
    (sha256, hint): (&[u8; 32], &str),
    now: DateTime<Utc>,
) -> Result<String, Error> {
    check_new(new, now)?;
    if hint.is_empty() || hint.chars().count() > HINT_LIMIT || crate::text::has_nul(hint) {
        return Err(Error::invalid(
            "hint",
            format!("must be 1 to {HINT_LIMIT} characters: how the key begins"),
        ));
    }
    let id = random_text(ID_LEN)?;
    let taken = diesel::insert_into(imported_keys::table)
        .values((
            imported_keys::key_sha256.eq(sha256.as_slice()),
            imported_keys::org_id.eq(new.org_id),
            imported_keys::key_id.eq(&id),
        ))
        .on_conflict_do_nothing()
        .execute(conn)?;
    if taken == 0 {
        return Err(Error::conflict(
            "key_exists",
            format!(
                "the key that begins with `{hint}` was imported before: revoke that one, or leave it out"
            ),
        )
        .about("sha256"));
    }
    diesel::insert_into(api_keys::table)
        .values((
            api_keys::org_id.eq(new.org_id),
            api_keys::key_id.eq(&id),
            api_keys::secret_sha256.eq(sha256.as_slice()),
            api_keys::name.eq(&new.name),
            api_keys::scopes.eq(new.scopes.iter().map(|scope| scope.name()).collect::<Vec<_>>()),
            api_keys::created_at.eq(now),
            api_keys::expires_at.eq(new.expires_at),
            api_keys::hint.eq(hint),
            api_keys::requests_per_minute.eq(new.requests_per_minute),
        ))
        .execute(conn)?;
    Ok(id)
}

/// The id of the key with this digest.
pub(super) fn find(conn: &mut PgConnection, sha256: &[u8]) -> QueryResult<Option<String>> {
    imported_keys::table.find(sha256).select(imported_keys::key_id).first(conn).optional()
}
