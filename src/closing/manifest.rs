//! The manifest of a month: its totals and digests, as canonical JSON.
//!
//! Everything but the mirrors of Stripe's objects is a fixed set once the month is closed. Mirrors may still
//! change by late webhooks: the manifest states them as they were when it was made, and a later difference is
//! reported, not prevented.

pub mod totals;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::exports::{self, ClosedRows, RowDigests};
use crate::error::Error;
use crate::metering::partitions;
use totals::{BalanceTotal, DocumentTotal, MeterTotal, Movement, Series, StripeTotal};

const FORMAT: &str = "coulomb month manifest 1";

/// What a manifest says. Amounts are in minor units of their currency, unless they are decimals in text.
#[derive(Clone, Debug, Serialize)]
pub struct Manifest {
    /// The form of the manifest.
    pub format: &'static str,
    pub month: String,
    pub closed_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    /// Who made it.
    pub actor: String,
    /// The manifest of the month before; null: this is the first.
    pub previous: Option<Previous>,
    /// Public key of the signature, in hexadecimal; null: it is not signed.
    pub signed_by: Option<String>,
    /// Null: records of this month were dropped or detached before.
    pub usage: Option<UsagePart>,
    pub documents: DocumentsPart,
    pub entries: EntriesPart,
    pub stripe: StripePart,
}

/// Names a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    pub month: String,
    pub sha256: String,
}

/// Usage that was posted to the month.
#[derive(Clone, Debug, Serialize)]
pub struct UsagePart {
    #[serde(flatten)]
    pub digests: RowDigests,
    pub meters: Vec<MeterTotal>,
}

/// Own documents that were booked in the month.
#[derive(Clone, Debug, Serialize)]
pub struct DocumentsPart {
    #[serde(flatten)]
    pub digests: RowDigests,
    pub totals: Vec<DocumentTotal>,
    pub series: Vec<Series>,
}

/// What accounts booked in the month.
#[derive(Clone, Debug, Serialize)]
pub struct EntriesPart {
    #[serde(flatten)]
    pub digests: RowDigests,
    pub movements: Vec<Movement>,
    pub balances: Vec<BalanceTotal>,
}

/// Stripe's mirrored objects of the month (UTC), as they were when the manifest was made.
#[derive(Clone, Debug, Serialize)]
pub struct StripePart {
    /// Our own account (empty) and the connected ones that acted.
    pub accounts: Vec<String>,
    pub seen: Vec<StripeTotal>,
}

/// What a manifest says beside what it computes.
#[derive(Clone, Debug)]
pub struct Heading {
    pub month: NaiveDate,
    pub closed_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub actor: String,
    pub previous: Option<Previous>,
    pub signed_by: Option<String>,
    /// Stripe accounts whose mirrors count.
    pub accounts: Vec<String>,
}

/// Computes a manifest. The caller holds one snapshot.
///
/// # Errors
/// [`Error::Internal`] when the books are broken.
pub fn compute(conn: &mut PgConnection, heading: Heading) -> Result<Manifest, Error> {
    let month = heading.month;
    let digests = |conn: &mut PgConnection, of| exports::write(conn, of, month, &mut std::io::sink());
    let is_whole = partitions::first_whole_day(conn)?.is_none_or(|first| first <= month);
    let usage = if is_whole {
        let digests = digests(conn, ClosedRows::Usage)?;
        Some(UsagePart { digests, meters: totals::meters(conn, month)? })
    } else {
        None
    };
    Ok(Manifest {
        format: FORMAT,
        month: month.format("%Y-%m").to_string(),
        closed_at: heading.closed_at,
        created_at: heading.created_at,
        actor: heading.actor,
        previous: heading.previous,
        signed_by: heading.signed_by,
        usage,
        documents: DocumentsPart {
            digests: digests(conn, ClosedRows::Documents)?,
            totals: totals::documents(conn, month)?,
            series: totals::series(conn, month)?,
        },
        entries: EntriesPart {
            digests: digests(conn, ClosedRows::Entries)?,
            movements: totals::movements(conn, month)?,
            balances: totals::balances(conn, month)?,
        },
        stripe: StripePart {
            seen: totals::stripe(conn, month, &heading.accounts)?,
            accounts: heading.accounts,
        },
    })
}

/// A manifest as a tree.
///
/// # Errors
/// [`Error::Internal`] when it cannot be JSON.
pub fn tree(manifest: &Manifest) -> Result<Value, Error> {
    crate::json::to_tree(manifest)
}

/// The text that is stored, digested and signed: keys sorted, no white space.
///
/// # Errors
/// As [`tree`].
pub fn text(manifest: &Manifest) -> Result<String, Error> {
    // serde_json sorts the keys of trees.
    Ok(tree(manifest)?.to_string())
}

/// SHA-256 of a manifest's text.
#[must_use]
pub fn digest(text: &str) -> Vec<u8> {
    Sha256::digest(text).to_vec()
}
