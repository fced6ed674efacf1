//! Pages of a list: an opaque cursor that names the last row given, so that rows which come meanwhile move
//! nothing.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::error::Error;

/// Rows of a page unless asked otherwise.
pub const DEFAULT_LIMIT: i64 = 50;
/// Rows of a page at most.
pub const MAX_LIMIT: i64 = 500;

/// One page.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The rows.
    pub data: Vec<T>,
    /// `cursor` of the next page; null on the last.
    pub next: Option<String>,
}

/// Which page.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Rows at most, 1 to 500; 50 when left out.
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<i64>,
    /// `next` of the page before.
    pub cursor: Option<String>,
}

impl PageQuery {
    /// The limit asked for.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is out of range.
    pub fn limit(&self) -> Result<i64, Error> {
        match self.limit.unwrap_or(DEFAULT_LIMIT) {
            limit @ 1..=MAX_LIMIT => Ok(limit),
            _ => Err(Error::invalid("limit", format!("must be from 1 to {MAX_LIMIT}"))),
        }
    }

    /// The row of `list` that the page comes after.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the cursor is not one of that list.
    pub fn after<T: DeserializeOwned>(&self, list: &str) -> Result<Option<T>, Error> {
        self.cursor.as_deref().map(|cursor| decode(list, cursor)).transpose()
    }
}

/// The cursor that names a row of `list` by its sort key.
///
/// # Errors
/// When the key cannot be JSON.
pub fn encode(list: &str, key: &impl Serialize) -> Result<String, Error> {
    let text = serde_json::to_vec(&(list, key)).map_err(|error| Error::Internal(error.to_string()))?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(text))
}

/// The sort key that a cursor names. It comes from outside like any other value, so `T` holds times as
/// [`crate::time::Moment`] and days as [`crate::time::Day`].
///
/// # Errors
/// [`Error::Invalid`] when it is not one of `list`.
pub fn decode<T: DeserializeOwned>(list: &str, cursor: &str) -> Result<T, Error> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok();
    bytes
        .filter(|bytes| !bytes.windows(6).any(|part| part == b"\\u0000"))
        .and_then(|bytes| serde_json::from_slice::<(String, T)>(&bytes).ok())
        .filter(|(of, _)| of == list)
        .map(|(_, key)| key)
        .ok_or_else(wrong_cursor)
}

/// What is said of a cursor that names no row of the list.
#[must_use]
pub fn wrong_cursor() -> Error {
    Error::invalid("cursor", "must be the `next` of an earlier page of this list, unchanged")
}

impl<T> Page<T> {
    /// A page of `list` out of `limit + 1` fetched rows: the one too many says that there is a next page.
    ///
    /// # Errors
    /// When a key cannot be JSON.
    pub fn of<K: Serialize>(
        list: &str,
        mut rows: Vec<T>,
        limit: i64,
        key: impl Fn(&T) -> K,
    ) -> Result<Self, Error> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| encode(list, &key(row))).transpose()?;
        Ok(Self { data: rows, next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Moment;

    #[test]
    fn a_cursor_is_taken_by_its_own_list_alone() {
        let at: Moment = "2026-10-01T00:00:00Z".parse().expect("a time");
        let cursor = encode("orgs", &(at, 7)).expect("JSON");
        assert_eq!(decode::<(Moment, i64)>("orgs", &cursor).expect("ours"), (at, 7));
        assert!(decode::<(Moment, i64)>("messages", &cursor).is_err());
        for forged in [
            r#"["orgs",["+262142-01-01T00:00:00Z",7]]"#,
            r#"["orgs",["-200000-01-01T00:00:00Z",7]]"#,
            r#"["orgs",["2026-10-01T00:00:00Z",99999999999999999999]]"#,
            r#"["orgs","\u0000"]"#,
            r#"["orgs"]"#,
            "",
        ] {
            let cursor = BASE64_URL_SAFE_NO_PAD.encode(forged);
            assert!(decode::<(Moment, i64)>("orgs", &cursor).is_err(), "{forged}");
        }
        assert!(decode::<String>("orgs", &BASE64_URL_SAFE_NO_PAD.encode(r#"["orgs","a\u0000"]"#)).is_err());
    }
}
