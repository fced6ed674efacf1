//! Orgs that are suspended for a while, or archived: what they may still do, and how they come back.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::directory::{self, Change};
use crate::error::Error;
use crate::messages::{self, NewMessage};
use crate::schema::orgs;

/// Longest reason of a suspension, in characters.
const REASON_LIMIT: usize = 500;

/// What becomes of usage while an org is suspended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SuspendedUsage {
    /// It is refused.
    #[default]
    Refuse,
    /// It is recorded as ever. Checks and reservations are refused all the same.
    Record,
}

impl SuspendedUsage {
    fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Record => "record",
        }
    }
}

/// Whether an org may use anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    #[default]
    Active,
    Suspended {
        reason: String,
        usage: SuspendedUsage,
    },
    Archived,
    Erased,
}

impl Standing {
    /// As the SQL of the directory says it: `archived`, `erased`, what becomes of usage, or nothing.
    pub(super) fn read(word: Option<&str>, reason: Option<String>) -> Self {
        let reason = reason.unwrap_or_default();
        match word {
            Some("erased") => Self::Erased,
            Some("archived") => Self::Archived,
            Some("refuse") => Self::Suspended { reason, usage: SuspendedUsage::Refuse },
            Some("record") => Self::Suspended { reason, usage: SuspendedUsage::Record },
            _ => Self::Active,
        }
    }

    /// Why nothing may be used: a stable word, and a sentence.
    #[must_use]
    pub fn refusal(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Active => None,
            Self::Suspended { reason, .. } => {
                Some(("org_suspended", format!("the org is suspended: {reason}")))
            }
            Self::Archived => Some(("org_archived", "the org is archived: restore it first".to_owned())),
            Self::Erased => Some(("org_erased", "the org was erased: make a new one".to_owned())),
        }
    }

    /// Why usage that is reported is refused. A suspension may let it be recorded.
    #[must_use]
    pub fn refusal_of_usage(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Suspended { usage: SuspendedUsage::Record, .. } => None,
            other => other.refusal(),
        }
    }

    /// # Errors
    /// [`Error::Conflict`] when nothing may be used.
    pub fn admit(&self) -> Result<(), Error> {
        self.refusal().map_or(Ok(()), |(code, detail)| Err(Error::conflict(code, detail).about("org")))
    }

    /// # Errors
    /// [`Error::Conflict`] when nothing may be billed: the org is archived or erased.
    pub fn admit_billing(&self) -> Result<(), Error> {
        if matches!(self, Self::Suspended { .. }) { Ok(()) } else { self.admit() }
    }
}

/// How an org stands, as the API shows it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OrgStanding {
    /// `active`, `suspended`, `archived` or `erased`.
    pub status: &'static str,
    /// Since when; null: it is active.
    pub since: Option<DateTime<Utc>>,
    /// Why it is suspended.
    pub reason: Option<String>,
    /// What becomes of its usage while it is suspended: `refuse` or `record`.
    pub usage: Option<String>,
}

/// Suspends an org, or changes why and how.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Suspension {
    /// Why: the org's checks and refused usage are told.
    #[schema(min_length = 1, max_length = 500, pattern = r"\S")]
    pub reason: String,
    /// What becomes of usage meanwhile; `refuse` when left out.
    #[serde(default)]
    pub usage: SuspendedUsage,
}

/// What is stored of how an org stands: since when it is suspended, archived, erased.
type Stored = (Option<DateTime<Utc>>, Option<DateTime<Utc>>, Option<DateTime<Utc>>);

fn lock(conn: &mut PgConnection, org_id: i64) -> Result<Stored, Error> {
    let columns = (orgs::suspended_at, orgs::archived_at, orgs::erased_at);
    let stored: Option<Stored> =
        orgs::table.find(org_id).select(columns).for_update().first(conn).optional()?;
    let stored = stored.ok_or(Error::NotFound("org"))?;
    if stored.2.is_some() {
        return Err(erased());
    }
    Ok(stored)
}

/// As [`must_not_be_erased`], and keeps the row locked: the caller changes it. No lock is raised later, so
/// two callers never wait for each other.
pub(super) fn lock_unerased(conn: &mut PgConnection, org_id: i64) -> Result<(), Error> {
    lock(conn, org_id).map(drop)
}

fn erased() -> Error {
    Error::conflict("org_erased", "the org was erased: nothing of it changes any more").about("org")
}

fn archived() -> Error {
    let standing = Standing::Archived;
    standing.admit().err().unwrap_or_else(|| Error::Internal("an archived org is admitted".to_owned()))
}

/// Refuses to give an archived or erased org anything by hand, as battery units.
///
/// # Errors
/// [`Error::Conflict`] when the org is archived or was erased.
pub fn must_be_open(conn: &mut PgConnection, org_id: i64) -> Result<(), Error> {
    must_not_be_erased(conn, org_id)?;
    let archived_at = orgs::table.find(org_id).select(orgs::archived_at);
    let archived_at: Option<Option<DateTime<Utc>>> = archived_at.first(conn).optional()?;
    if archived_at.flatten().is_some() { Err(archived()) } else { Ok(()) }
}

/// Refuses to give an erased org anything new: it would get personal data again. Its money still moves:
/// payments, refunds and credit notes of what it was invoiced.
///
/// # Errors
/// [`Error::Conflict`] when the org was erased.
pub fn must_not_be_erased(conn: &mut PgConnection, org_id: i64) -> Result<(), Error> {
    let erased_at = orgs::table.find(org_id).select(orgs::erased_at);
    let erased_at: Option<Option<DateTime<Utc>>> = erased_at.first(conn).optional()?;
    if erased_at.flatten().is_some() { Err(erased()) } else { Ok(()) }
}

/// Suspends an org; of one that is suspended it changes the reason and the usage.
///
/// # Errors
/// [`Error::Invalid`] for a bad reason; [`Error::Conflict`] when the org is archived or was erased.
pub fn suspend(
    conn: &mut PgConnection,
    org_id: i64,
    suspension: &Suspension,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let reason = &suspension.reason;
    if reason.trim().is_empty() || reason.chars().count() > REASON_LIMIT || crate::text::has_nul(reason) {
        let rule = format!("must be 1 to {REASON_LIMIT} characters, and not blank");
        return Err(Error::invalid("reason", rule));
    }
    let (suspended_at, archived_at, _) = lock(conn, org_id)?;
    if archived_at.is_some() {
        return Err(archived());
    }
    diesel::update(orgs::table.find(org_id))
        .set((
            orgs::suspended_at.eq(suspended_at.unwrap_or(now)),
            orgs::suspension_reason.eq(reason),
            orgs::suspension_usage.eq(suspension.usage.name()),
        ))
        .execute(conn)?;
    directory::changed(conn, [Change::Org(org_id)])?;
    if suspended_at.is_none() {
        let data = json!({ "reason": reason, "usage": suspension.usage.name() });
        tell(conn, org_id, "org.suspended", data, now)?;
    }
    Ok(())
}

/// Ends a suspension; does nothing to an org that is not suspended.
///
/// # Errors
/// [`Error::Conflict`] when the org was erased.
pub fn resume(conn: &mut PgConnection, org_id: i64, now: DateTime<Utc>) -> Result<(), Error> {
    let (suspended_at, ..) = lock(conn, org_id)?;
    let Some(since) = suspended_at else { return Ok(()) };
    let none = None::<String>;
    diesel::update(orgs::table.find(org_id))
        .set((
            orgs::suspended_at.eq(None::<DateTime<Utc>>),
            orgs::suspension_reason.eq(&none),
            orgs::suspension_usage.eq(&none),
        ))
        .execute(conn)?;
    directory::changed(conn, [Change::Org(org_id)])?;
    tell(conn, org_id, "org.resumed", json!({ "suspended_at": since }), now)
}

/// Archives an org, or (`false`) restores it. Once more does nothing.
///
/// # Errors
/// [`Error::Conflict`] when the org was erased.
pub fn archive(conn: &mut PgConnection, org_id: i64, on: bool, now: DateTime<Utc>) -> Result<(), Error> {
    let (_, archived_at, _) = lock(conn, org_id)?;
    if archived_at.is_some() == on {
        return Ok(());
    }
    diesel::update(orgs::table.find(org_id)).set(orgs::archived_at.eq(on.then_some(now))).execute(conn)?;
    directory::changed(conn, [Change::Org(org_id)])?;
    Ok(())
}

fn tell(
    conn: &mut PgConnection,
    org_id: i64,
    kind: &'static str,
    data: serde_json::Value,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let dedupe_key = format!("{kind}/{}", now.timestamp_micros());
    messages::write(conn, vec![NewMessage { org_id, kind, dedupe_key, data, object: None }], now)
}
