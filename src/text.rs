//! Text from outside: what PostgreSQL can hold, and what people can read.
//!
//! PostgreSQL holds the NUL character neither in `text` nor in `jsonb`.

use std::borrow::Cow;

use crate::error::Error;

/// The rule that a text with the NUL character breaks.
pub const NO_NUL: &str = "must not contain the NUL character";

/// True when the text has the NUL character.
#[must_use]
pub fn has_nul(text: &str) -> bool {
    text.contains('\0')
}

/// Refuses a text with the NUL character.
///
/// # Errors
/// [`Error::Invalid`] naming `field`.
pub fn no_nul(field: impl Into<Cow<'static, str>>, text: &str) -> Result<(), Error> {
    if has_nul(text) { Err(Error::invalid(field, NO_NUL)) } else { Ok(()) }
}

/// The text with U+FFFD in place of each NUL, for texts that must be kept rather than refused.
#[must_use]
pub fn replace_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The text without its NULs, for naming it in an error.
#[must_use]
pub fn strip_nul(text: &str) -> String {
    text.replace('\0', "")
}

/// Refuses a text that cannot be the key that an operator gives something: a plan, a pack, a seller.
///
/// # Errors
/// [`Error::Invalid`] naming the field `id`.
pub fn check_key(key: &str) -> Result<(), Error> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    if key.is_empty() || key.len() > 64 || !key.chars().all(is_allowed) {
        return Err(Error::invalid("id", "must be 1 to 64 of a-z, 0-9, `-`, `_`, `.`"));
    }
    Ok(())
}

/// Refuses a text that is blank, longer than `limit` characters, or has control characters.
///
/// # Errors
/// [`Error::Invalid`] naming `field`.
pub fn check_line(field: impl Into<Cow<'static, str>>, text: &str, limit: usize) -> Result<(), Error> {
    if text.trim().is_empty() || text.chars().count() > limit || text.chars().any(char::is_control) {
        let rule = format!("must be 1 to {limit} characters, not blank, without control characters");
        return Err(Error::invalid(field, rule));
    }
    Ok(())
}
