//! Closes months and makes their manifests. Owns `month_manifests`.
//!
//! Closing a month and making its manifest are two transactions. The first is short and makes the month a
//! fixed set; the second reads it, while new usage and new entries go on. When the second does not happen,
//! closing again makes up for it. When two make it at once, the first to commit wins, and the other shows
//! that one.

use chrono::{DateTime, Months, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Date, Nullable};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::booked::next_month;
use super::debtors;
use super::manifest::{self, Heading, Previous};
use crate::auth::PLATFORM;
use crate::config::Config;
use crate::error::Error;
use crate::messages::{self, NewMessage};
use crate::metering::closings;
use crate::page::{Page, PageRequest};
use crate::schema::{month_manifests as t, usage_closings};
use crate::signing::SigningKey;
use crate::time::Month;

/// Months that are closed at once, at most, and get a manifest each: fifty years. A day that somebody
/// mistyped must not make manifests for thousands of empty months, which stay for ever.
const MOST_MONTHS: u32 = 600;

/// How manifests are made here.
pub struct Maker {
    /// Signs them; `None`: they are not signed.
    pub key: Option<SigningKey>,
    /// Our own Stripe account (empty) and the connected ones that act.
    pub accounts: Vec<String>,
    pub actor: String,
    pub now: DateTime<Utc>,
}

impl Maker {
    /// As the settings say.
    ///
    /// # Errors
    /// [`Error::Internal`] when the key is malformed, which starting with it would have refused.
    pub fn new(config: &Config, actor: String, now: DateTime<Utc>) -> Result<Self, Error> {
        let read = |key: &SecretString| SigningKey::read(key.expose_secret());
        let key = config.closing_key.as_ref().map(read).transpose();
        let key = key.map_err(|problem| Error::Internal(format!("COULOMB_CLOSING_KEY {problem}")))?;
        Ok(Self { key, accounts: config.acting_realms().accounts().to_vec(), actor, now })
    }
}

/// A stored manifest.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = MonthManifest)]
pub struct StoredManifest {
    /// The month.
    pub month: Month,
    /// When the manifest was made.
    pub created_at: DateTime<Utc>,
    /// SHA-256 of `text`, in hexadecimal.
    pub sha256: String,
    /// Ed25519 public key, in hexadecimal; null: there was no key.
    pub public_key: Option<String>,
    /// Ed25519 signature of `text`, in hexadecimal.
    pub signature: Option<String>,
    /// The manifest, word for word.
    pub text: String,
    /// The same as JSON.
    #[schema(value_type = Object)]
    pub manifest: Value,
}

/// A manifest in a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ListedManifest {
    /// The month.
    pub month: Month,
    /// When the manifest was made.
    pub created_at: DateTime<Utc>,
    /// SHA-256 of its text, in hexadecimal.
    pub sha256: String,
    /// Ed25519 public key, in hexadecimal; null: there was no key.
    pub public_key: Option<String>,
    /// Ed25519 signature of its text, in hexadecimal.
    pub signature: Option<String>,
}

/// A row of `month_manifests`.
#[derive(Clone, Debug, Queryable)]
pub(super) struct ManifestRow {
    pub(super) month: NaiveDate,
    pub(super) content: String,
    pub(super) content_sha256: Vec<u8>,
    pub(super) public_key: Option<Vec<u8>>,
    pub(super) signature: Option<Vec<u8>>,
    pub(super) created_at: DateTime<Utc>,
}

/// When a month was closed for every org; `None`: it is open.
pub(super) fn closed_at(conn: &mut PgConnection, month: NaiveDate) -> QueryResult<Option<DateTime<Utc>>> {
    // Closing a month closes the months before it.
    usage_closings::table
        .filter(usage_closings::org_id.eq(PLATFORM).and(usage_closings::month.ge(month)))
        .select(diesel::dsl::min(usage_closings::closed_at))
        .first(conn)
}

/// Closes a month and all months before it, for every org.
///
/// # Errors
/// [`Error::Invalid`] when it has not ended in every time zone; [`Error::Conflict`] when nothing was recorded
/// until its end (manifests begin with the first month that has anything), or it would close more than
/// [`MOST_MONTHS`].
pub fn close(conn: &mut PgConnection, month: Month, actor: &str, now: DateTime<Utc>) -> Result<(), Error> {
    closings::close(conn, PLATFORM, month, actor, now)?;
    let first = first_month(conn)?.filter(|first| *first <= month.first_day());
    let (Some(_), Some(next)) = (first, next_to_make(conn)?) else {
        let detail = "nothing was recorded in this month or before it: close a later one";
        return Err(Error::conflict("month_is_empty", detail));
    };
    check_count(next, month)
}

/// Refuses more months than are closed at once.
fn check_count(first: NaiveDate, wanted: Month) -> Result<(), Error> {
    let last = first.checked_add_months(Months::new(MOST_MONTHS - 1)).unwrap_or(NaiveDate::MAX);
    if wanted.first_day() <= last {
        return Ok(());
    }
    let (first, last) = (Month::containing(first), Month::containing(last));
    let detail = format!(
        "the first month without a manifest that has anything is {first}, and at most {MOST_MONTHS} \
         months are closed at once: look whether what is booked in it has the right day; if so, close \
         {last} first"
    );
    Err(Error::conflict("too_many_months", detail))
}

/// Makes the manifests of a closed month and of the months before it that have none, from the first month
/// with any record or entry on. Returns that of the month.
///
/// # Errors
/// [`Error::Conflict`] when the month is open; [`Error::NotFound`] when it is before the first manifest.
pub fn complete(conn: &mut PgConnection, month: Month, maker: &Maker) -> Result<StoredManifest, Error> {
    let wanted = month.first_day();
    if closed_at(conn, wanted)?.is_none() {
        return Err(Error::conflict("month_is_open", "this month is open: close it first"));
    }
    let mut next = next_to_make(conn)?.unwrap_or(wanted);
    check_count(next, month)?;
    while next <= wanted {
        make(conn, next, maker)?;
        next = next_month(next);
    }
    find(conn, month)
}

/// The month of the next manifest; `None`: nothing was recorded yet.
fn next_to_make(conn: &mut PgConnection) -> QueryResult<Option<NaiveDate>> {
    let last: Option<NaiveDate> = t::table.select(diesel::dsl::max(t::month)).first(conn)?;
    Ok(match last {
        Some(last) => Some(next_month(last)),
        None => first_month(conn)?,
    })
}

/// The first month that has anything.
fn first_month(conn: &mut PgConnection) -> QueryResult<Option<NaiveDate>> {
    #[derive(QueryableByName)]
    struct First {
        #[diesel(sql_type = Nullable<Date>)]
        month: Option<NaiveDate>,
    }
    let first: First = diesel::sql_query(
        "SELECT date_trunc('month', least((SELECT min(day) FROM account_entries),
             (SELECT min(day) FROM daily_summaries))::timestamp)::date AS month",
    )
    .get_result(conn)?;
    Ok(first.month)
}

/// Makes a manifest. The manifest of the month before is there.
fn make(conn: &mut PgConnection, month: NaiveDate, maker: &Maker) -> Result<(), Error> {
    let made = conn.build_transaction().repeatable_read().read_only().run(|conn| {
        let Some(closed_at) = closed_at(conn, month)? else {
            return Err(Error::Internal(format!("{month} is open, yet a later month is closed")));
        };
        let previous = t::table.filter(t::month.lt(month)).order(t::month.desc());
        let previous: Option<(NaiveDate, Vec<u8>)> =
            previous.select((t::month, t::content_sha256)).first(conn).optional()?;
        let heading = Heading {
            month,
            closed_at,
            created_at: maker.now,
            actor: maker.actor.clone(),
            previous: previous.map(|(month, digest)| Previous {
                month: Month::containing(month).to_string(),
                sha256: hex::encode(digest),
            }),
            signed_by: maker.key.as_ref().map(|key| hex::encode(key.public())),
            accounts: maker.accounts.clone(),
        };
        manifest::compute(conn, heading)
    })?;
    crate::panics::panic_if_test_asks("manifest", || "between closing and manifest");
    let text = manifest::text(&made)?;
    conn.transaction(|conn| {
        let row = (
            (t::month.eq(month), t::content.eq(&text), t::content_sha256.eq(manifest::digest(&text))),
            t::public_key.eq(maker.key.as_ref().map(SigningKey::public)),
            t::signature.eq(maker.key.as_ref().map(|key| key.sign(&text))),
            t::created_at.eq(maker.now),
        );
        let inserted = diesel::insert_into(t::table).values(row).on_conflict_do_nothing().execute(conn)?;
        if inserted == 1 {
            debtors::assign(conn)?;
            messages::write(conn, vec![message(month, manifest::digest(&text), maker)], maker.now)?;
        }
        Ok(())
    })
}

/// The message that a month is closed and has its manifest.
fn message(month: NaiveDate, digest: Vec<u8>, maker: &Maker) -> NewMessage {
    let name = Month::containing(month).to_string();
    NewMessage {
        org_id: PLATFORM,
        kind: "month.closed",
        dedupe_key: format!("month:{name}"),
        data: json!({ "month": name, "sha256": hex::encode(digest), "signed": maker.key.is_some() }),
        object: None,
    }
}

/// The manifest of a month.
///
/// # Errors
/// [`Error::NotFound`] when there is none.
pub fn find(conn: &mut PgConnection, month: Month) -> Result<StoredManifest, Error> {
    let row: Option<ManifestRow> = t::table.find(month.first_day()).first(conn).optional()?;
    let row = row.ok_or(Error::NotFound("manifest of a closed month"))?;
    let broken = |error| Error::Internal(format!("the manifest of {month} is no JSON: {error}"));
    Ok(StoredManifest {
        month,
        created_at: row.created_at,
        sha256: hex::encode(row.content_sha256),
        public_key: row.public_key.map(hex::encode),
        signature: row.signature.map(hex::encode),
        manifest: serde_json::from_str(&row.content).map_err(broken)?,
        text: row.content,
    })
}

/// All manifests, the first month first.
pub(super) fn rows(conn: &mut PgConnection) -> QueryResult<Vec<ManifestRow>> {
    t::table.order(t::month).load(conn)
}

/// A page of the manifests, the latest first.
///
/// # Errors
/// [`Error::Database`].
pub fn list(conn: &mut PgConnection, page: &PageRequest<Month>) -> Result<Page<ListedManifest>, Error> {
    type Listed = (NaiveDate, DateTime<Utc>, Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>);
    let mut query = t::table
        .order(t::month.desc())
        .select((t::month, t::created_at, t::content_sha256, t::public_key, t::signature))
        .limit(page.to_fetch())
        .into_boxed();
    if let Some(after) = page.after {
        query = query.filter(t::month.lt(after.first_day()));
    }
    let rows: Vec<Listed> = query.load(conn)?;
    let shown = |(month, created_at, digest, public_key, signature): Listed| ListedManifest {
        month: Month::containing(month),
        created_at,
        sha256: hex::encode(digest),
        public_key: public_key.map(hex::encode),
        signature: signature.map(hex::encode),
    };
    page.page(rows.into_iter().map(shown).collect(), |row| row.month)
}

/// Refuses a month that has no manifest: only those of closed months stay as they are.
///
/// # Errors
/// [`Error::NotFound`]
pub fn must_have_manifest(conn: &mut PgConnection, month: Month) -> Result<(), Error> {
    let there = diesel::select(diesel::dsl::exists(t::table.find(month.first_day()))).get_result(conn)?;
    if there { Ok(()) } else { Err(Error::NotFound("manifest of a closed month")) }
}
