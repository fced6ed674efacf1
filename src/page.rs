//! Pages of a list: an opaque cursor that names the last row given, so that rows which come meanwhile move nothing.

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

    /// The row that the page comes after.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the cursor is not one of ours.
    pub fn after<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        self.cursor.as_deref().map(decode).transpose()
    }
}

/// The cursor that names a row by its sort key.
///
/// # Errors
/// When the key cannot be JSON.
pub fn encode(key: &impl Serialize) -> Result<String, Error> {
    let text = serde_json::to_vec(key).map_err(|error| Error::Internal(error.to_string()))?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(text))
}

/// The sort key that a cursor names.
///
/// # Errors
/// [`Error::Invalid`] when it is not one of ours.
pub fn decode<T: DeserializeOwned>(cursor: &str) -> Result<T, Error> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok();
    bytes
        .filter(|bytes| !bytes.contains(&0) && !bytes.windows(6).any(|part| part == b"\\u0000"))
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or_else(|| {
            Error::invalid("cursor", "must be the `next` of an earlier page of this list, unchanged")
        })
}

impl<T> Page<T> {
    /// A page out of `limit + 1` fetched rows: the one too many says that there is a next page.
    ///
    /// # Errors
    /// When a key cannot be JSON.
    pub fn of<K: Serialize>(mut rows: Vec<T>, limit: i64, key: impl Fn(&T) -> K) -> Result<Self, Error> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|row| encode(&key(row))).transpose()?;
        Ok(Self { data: rows, next })
    }
}
