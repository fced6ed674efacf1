//! The audit log, read.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::error::Error;

/// SQL: the name of an entry's actor that a person understands. `a` is the entry, `k` its key. An org does
/// not see the names of the platform's keys.
macro_rules! actor_name {
    ($a:literal) => {
        concat!(
            "CASE WHEN k.name IS NOT NULL THEN k.name
             WHEN ",
            $a,
            ".actor LIKE 'key:%' THEN 'a key of the platform'
             WHEN ",
            $a,
            ".actor LIKE 'cli:%' THEN substr(",
            $a,
            ".actor, 5) || ' (command line)'
             ELSE ",
            $a,
            ".actor END"
        )
    };
}
pub(crate) use actor_name;

/// An entry of the audit log.
#[derive(Clone, Debug, Serialize, ToSchema, QueryableByName)]
pub struct LogEntry {
    /// `aud_…`
    #[diesel(sql_type = Text)]
    pub id: String,
    /// When it was done. Of entries that count: when the first was.
    #[diesel(sql_type = Timestamptz)]
    pub at: DateTime<Utc>,
    /// Public id of the org that it concerns; null: the platform.
    #[diesel(sql_type = Nullable<Text>)]
    pub org: Option<String>,
    /// Who did it: `key:<id>`, `cli:<user>`, or `stranger` without a valid key.
    #[diesel(sql_type = Text)]
    pub actor: String,
    /// The name of the key, or of the user of the command line.
    #[diesel(sql_type = Text)]
    pub actor_name: String,
    /// What was done: `noun.verb`, such as `org.create`.
    #[diesel(sql_type = Text)]
    pub action: String,
    /// Public id of what it was done to.
    #[diesel(sql_type = Text)]
    pub target: String,
    /// What else is known of it.
    #[diesel(sql_type = diesel::sql_types::Jsonb)]
    #[schema(value_type = Object)]
    pub detail: Value,
    /// The fields that the command changed, as they were; null: it made the thing, or no fields are kept.
    #[diesel(sql_type = Nullable<diesel::sql_types::Jsonb>)]
    #[schema(value_type = Option<Object>)]
    pub before: Option<Value>,
    /// The same fields as they were after it; null: it deleted the thing, or no fields are kept.
    #[diesel(sql_type = Nullable<diesel::sql_types::Jsonb>)]
    #[schema(value_type = Option<Object>)]
    pub after: Option<Value>,
    /// Id of the request, as in the access log; null: the command line.
    #[diesel(sql_type = Nullable<Text>)]
    pub request_id: Option<String>,
    /// Address of the client. An org sees only those of its own keys.
    #[diesel(sql_type = Nullable<Text>)]
    pub address: Option<String>,
    /// What the client calls itself. An org sees only those of its own keys.
    #[diesel(sql_type = Nullable<Text>)]
    pub user_agent: Option<String>,
    #[diesel(sql_type = BigInt)]
    #[serde(skip)]
    audit_id: i64,
}

impl LogEntry {
    /// Its place in the log.
    #[must_use]
    pub fn place(&self) -> (DateTime<Utc>, i64) {
        (self.at, self.audit_id)
    }
}

/// Which entries to list: those that fulfil every condition given.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Row id of the only org whose entries the caller may see.
    pub own: Option<i64>,
    /// Row id of an org.
    pub org_id: Option<i64>,
    pub actor: Option<String>,
    /// An action, or the noun of several with a dot at its end: `quota.`.
    pub action: Option<String>,
    pub target: Option<String>,
    pub request_id: Option<String>,
    /// Included.
    pub from: Option<DateTime<Utc>>,
    /// Not included.
    pub before: Option<DateTime<Utc>>,
    /// Place of the entry that the page comes after.
    pub after: Option<(DateTime<Utc>, i64)>,
}

/// SQL: entries and who made them. A key's name never changes.
const SELECT: &str = concat!(
    "SELECT 'aud_' || (extract(epoch FROM a.at) * 1000000)::bigint || '_' || a.audit_id AS id, a.at,
         o.public_id AS org, a.actor, ",
    actor_name!("a"),
    " AS actor_name, a.action, a.target, a.detail, a.before, a.after, a.request_id,
         CASE WHEN $9::bigint IS NULL OR k.org_id = $9 THEN a.address END AS address,
         CASE WHEN $9::bigint IS NULL OR k.org_id = $9 THEN a.user_agent END AS user_agent, a.audit_id
     FROM audit_log a
         LEFT JOIN orgs o ON o.org_id = a.org_id
         LEFT JOIN api_keys k ON a.actor = 'key:' || k.key_id
     WHERE ($1::bigint IS NULL OR a.org_id = $1)
         AND ($2::text IS NULL OR a.actor = $2)
         AND ($3::text IS NULL OR a.action = $3 OR (right($3, 1) = '.' AND starts_with(a.action, $3)))
         AND ($4::text IS NULL OR a.target = $4)
         AND ($5::text IS NULL OR a.request_id = $5)
         AND ($6::timestamptz IS NULL OR a.at >= $6)
         AND ($7::timestamptz IS NULL OR a.at < $7)
         AND ($8::timestamptz IS NULL OR (a.at, a.audit_id) < ($8, $10))
     ORDER BY a.at DESC, a.audit_id DESC LIMIT $11"
);

/// Entries, newest first, at most `limit`.
///
/// # Errors
/// The database fails.
pub fn list(conn: &mut PgConnection, filter: &Filter, limit: i64) -> Result<Vec<LogEntry>, Error> {
    let rows = diesel::sql_query(SELECT)
        .bind::<Nullable<BigInt>, _>(filter.own.or(filter.org_id))
        .bind::<Nullable<Text>, _>(&filter.actor)
        .bind::<Nullable<Text>, _>(&filter.action)
        .bind::<Nullable<Text>, _>(&filter.target)
        .bind::<Nullable<Text>, _>(&filter.request_id)
        .bind::<Nullable<Timestamptz>, _>(filter.from)
        .bind::<Nullable<Timestamptz>, _>(filter.before)
        .bind::<Nullable<Timestamptz>, _>(filter.after.map(|(at, _)| at))
        .bind::<Nullable<BigInt>, _>(filter.own)
        .bind::<Nullable<BigInt>, _>(filter.after.map(|(_, id)| id))
        .bind::<BigInt, _>(limit)
        .load(conn)?;
    Ok(rows)
}
