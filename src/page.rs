//! Pages of a list. The cursor of the next page names the last row of this one, so new rows that come between
//! two requests shift nothing.

use std::borrow::Cow;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::error::Error;

/// Rows of a page when the request gives no limit.
pub const DEFAULT_LIMIT: i64 = 50;
/// Rows of a page at most.
pub const MAX_LIMIT: i64 = 500;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The rows.
    pub data: Vec<T>,
    /// `cursor` of the next page; null on the last.
    pub next: Option<String>,
}

/// Which page of a list is asked for.
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
    /// The page of `list` that is asked for. `K` is the sort key of its rows.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the limit is out of range, or the cursor is not one of this list.
    pub fn of<K: DeserializeOwned>(
        &self,
        list: impl Into<Cow<'static, str>>,
    ) -> Result<PageRequest<K>, Error> {
        let (list, limit) = (list.into(), self.limit.unwrap_or(DEFAULT_LIMIT));
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Error::invalid("limit", format!("must be from 1 to {MAX_LIMIT}")));
        }
        let after = self.cursor.as_deref().map(|cursor| decode(&list, cursor)).transpose()?;
        Ok(PageRequest { list, limit, after })
    }
}

/// A page of a list as it was asked for.
#[derive(Clone, Debug)]
pub struct PageRequest<K> {
    list: Cow<'static, str>,
    /// Rows of the page at most.
    pub limit: i64,
    /// Sort key of the row that the page comes after.
    pub after: Option<K>,
}

impl<K: Serialize> PageRequest<K> {
    /// Rows to fetch: one more than the page may have, which tells that another page follows.
    #[must_use]
    pub fn to_fetch(&self) -> i64 {
        self.limit + 1
    }

    /// The page out of the rows that were fetched; `key` gives a row's sort key.
    ///
    /// # Errors
    /// When a key cannot be JSON.
    pub fn page<T>(&self, mut rows: Vec<T>, key: impl Fn(&T) -> K) -> Result<Page<T>, Error> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| encode(&self.list, &key(row))).transpose()?;
        Ok(Page { data: rows, next })
    }
}

impl<K: Serialize + Clone> PageRequest<K> {
    /// As [`Self::page`], of rows that come with their sort keys.
    ///
    /// # Errors
    /// When a key cannot be JSON.
    pub fn page_of_keyed<T>(&self, rows: Vec<(K, T)>) -> Result<Page<T>, Error> {
        let Page { data, next } = self.page(rows, |(key, _)| key.clone())?;
        Ok(Page { data: data.into_iter().map(|(_, row)| row).collect(), next })
    }
}

/// The cursor that names a row of `list` by its sort key.
///
/// # Errors
/// When the key cannot be JSON.
fn encode(list: &str, key: &impl Serialize) -> Result<String, Error> {
    let text = serde_json::to_vec(&(list, key)).map_err(|error| Error::Internal(error.to_string()))?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(text))
}

/// The sort key that a cursor names. A cursor is input from outside, so `T` must read times as
/// [`crate::time::Moment`] and days as [`crate::time::Day`].
///
/// # Errors
/// [`Error::Invalid`] when it is not one of `list`.
fn decode<T: DeserializeOwned>(list: &str, cursor: &str) -> Result<T, Error> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok();
    bytes
        .filter(|bytes| !bytes.windows(6).any(|part| part == b"\\u0000"))
        .and_then(|bytes| serde_json::from_slice::<(String, T)>(&bytes).ok())
        .filter(|(of, _)| of == list)
        .map(|(_, key)| key)
        .ok_or_else(wrong_cursor)
}

/// The error for a cursor that names no row of the list.
#[must_use]
pub fn wrong_cursor() -> Error {
    Error::invalid("cursor", "must be the `next` of an earlier page of this list, unchanged")
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
