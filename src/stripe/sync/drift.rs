//! Where the mirrors differed from Stripe, and which input repaired it. Owns `stripe_drift`.
//!
//! A repair is a new input, never a change of a mirror: so the mirrors stay a function of their inputs.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Nullable, Text, Timestamptz};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::auth::PLATFORM;
use crate::error::Error;
use crate::messages::{self, NewMessage};
use crate::realm::Realm;

/// What kind of difference it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum DriftKind {
    /// A change of which no event came.
    MissedEvent,
    /// Events did not tell which of several states was the last.
    AmbiguousResolved,
    /// Events had only some entries of a list.
    IncompleteLines,
    /// An event only named the object.
    ThinEvent,
    /// Stripe does not have the object any more.
    Deleted,
    /// The two are in shapes of different versions, so nothing can be said.
    UnknownVersion,
    /// Stripe shows a state that cannot follow ours.
    Impossible,
    /// What Stripe's list showed is older than the newest event.
    TheirsOlder,
    /// Usage at Stripe is another figure than ours.
    Usage,
}

impl DriftKind {
    /// Its name in the database and on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MissedEvent => "missed_event",
            Self::AmbiguousResolved => "ambiguous_resolved",
            Self::IncompleteLines => "incomplete_lines",
            Self::ThinEvent => "thin_event",
            Self::Deleted => "deleted",
            Self::UnknownVersion => "unknown_version",
            Self::Impossible => "impossible",
            Self::TheirsOlder => "theirs_older",
            Self::Usage => "usage",
        }
    }

    /// Whether something went wrong. The others are what reading objects one by one is for.
    fn is_alarming(self) -> bool {
        matches!(self, Self::MissedEvent | Self::Deleted | Self::Impossible | Self::Usage)
    }
}

/// A difference to note.
#[derive(Clone, Debug)]
pub(crate) struct NewDrift {
    pub(crate) kind: DriftKind,
    pub(crate) object: String,
    pub(crate) object_id: String,
    pub(crate) fields: Vec<String>,
    pub(crate) ours: Option<String>,
    pub(crate) theirs: Option<String>,
    /// One sentence for people.
    pub(crate) detail: String,
    pub(crate) inbox_id: Option<i64>,
    pub(crate) run_id: Option<i64>,
}

#[derive(QueryableByName)]
struct Id {
    #[diesel(sql_type = BigInt)]
    drift_id: i64,
}

/// Notes differences, in the caller's transaction. Those that operators must know of make one message.
pub(crate) fn write(
    conn: &mut PgConnection,
    realm: &Realm,
    drift: &[NewDrift],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let mut alarming: Vec<(i64, &NewDrift)> = Vec::new();
    for one in drift {
        let Id { drift_id } = insert(conn, realm, one, now)?;
        if one.kind.is_alarming() {
            alarming.push((drift_id, one));
        }
    }
    let Some((first_id, first)) = alarming.first() else { return Ok(()) };
    let message = NewMessage {
        org_id: PLATFORM,
        kind: "drift.found",
        dedupe_key: format!("drift:stripe:{first_id}"),
        data: json!({ "check": "stripe", "differences": alarming.len(), "first": first.detail }),
        object: None,
    };
    messages::write(conn, vec![message], now)
}

fn insert(conn: &mut PgConnection, realm: &Realm, one: &NewDrift, now: DateTime<Utc>) -> QueryResult<Id> {
    diesel::sql_query(
        "INSERT INTO stripe_drift (account, livemode, kind, object, object_id, fields, ours, theirs,
                 detail, inbox_id, run_id, found_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
             RETURNING drift_id",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Text, _>(one.kind.name())
    .bind::<Text, _>(&one.object)
    .bind::<Text, _>(&one.object_id)
    .bind::<Array<Text>, _>(&one.fields)
    .bind::<Nullable<Text>, _>(one.ours.as_deref())
    .bind::<Nullable<Text>, _>(one.theirs.as_deref())
    .bind::<Text, _>(&one.detail)
    .bind::<Nullable<BigInt>, _>(one.inbox_id)
    .bind::<Nullable<BigInt>, _>(one.run_id)
    .bind::<Timestamptz, _>(now)
    .get_result(conn)
}

/// A difference between the mirrors and Stripe.
#[derive(Clone, Debug, Serialize, ToSchema, QueryableByName)]
pub struct Drift {
    /// Its number.
    #[diesel(sql_type = BigInt)]
    pub drift_id: i64,
    /// `acct_…` of a connected account; empty: our own.
    #[diesel(sql_type = Text)]
    pub account: String,
    /// Live or test mode.
    #[diesel(sql_type = Bool)]
    pub livemode: bool,
    /// `missed_event`, `ambiguous_resolved`, `incomplete_lines`, `thin_event`, `deleted`, `unknown_version`,
    /// `impossible`, `theirs_older` or `usage`.
    #[diesel(sql_type = Text)]
    pub kind: String,
    /// Kind of the object, such as `invoice`.
    #[diesel(sql_type = Text)]
    pub object: String,
    /// Id of the object.
    #[diesel(sql_type = Text)]
    pub object_id: String,
    /// Paths of the fields that differed, at most 20; empty: the object as a whole.
    #[diesel(sql_type = Array<Text>)]
    pub fields: Vec<String>,
    /// SHA-256 of what the mirror showed, or our figure.
    #[diesel(sql_type = Nullable<Text>)]
    pub ours: Option<String>,
    /// SHA-256 of what Stripe showed, or Stripe's figure.
    #[diesel(sql_type = Nullable<Text>)]
    pub theirs: Option<String>,
    /// A sentence for people.
    #[diesel(sql_type = Text)]
    pub detail: String,
    /// The entry of the inbox that repaired it.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub inbox_id: Option<i64>,
    /// The backfill or comparison that found it.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub run_id: Option<i64>,
    /// When it was found.
    #[diesel(sql_type = Timestamptz)]
    pub found_at: DateTime<Utc>,
}

/// Narrows the list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DriftFilter {
    /// Only of this kind, such as `missed_event`.
    #[param(inline)]
    pub kind: Option<DriftKind>,
    /// Only of this kind of object, such as `invoice`.
    pub object: Option<String>,
    /// Only of this object.
    pub object_id: Option<String>,
}

/// Differences, the newest first, with a number below `before`, at most `limit`.
pub fn list(
    conn: &mut PgConnection,
    filter: &DriftFilter,
    before: Option<i64>,
    limit: i64,
) -> QueryResult<Vec<Drift>> {
    diesel::sql_query(
        "SELECT drift_id, account, livemode, kind, object, object_id, fields, ours, theirs, detail, inbox_id,
             run_id, found_at
         FROM stripe_drift
         WHERE drift_id < $1 AND ($2 IS NULL OR kind = $2) AND ($3 IS NULL OR object = $3)
             AND ($4 IS NULL OR object_id = $4)
         ORDER BY drift_id DESC LIMIT $5",
    )
    .bind::<BigInt, _>(before.unwrap_or(i64::MAX))
    .bind::<Nullable<Text>, _>(filter.kind.map(DriftKind::name))
    .bind::<Nullable<Text>, _>(filter.object.as_deref())
    .bind::<Nullable<Text>, _>(filter.object_id.as_deref())
    .bind::<BigInt, _>(limit)
    .load(conn)
}
