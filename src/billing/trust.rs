//! Which of Stripe's realms act: one mode, our own account, and connected accounts that are named. Owns
//! `stripe_trust`.
//!
//! What happens in any other realm (test purchases beside live ones, connected accounts whose metadata is not
//! ours) is mirrored, and links, grants and changes nothing; lists, sums and exports leave it out unless it
//! is asked for. A Connect endpoint with the live secret also gets the connected accounts' test events
//! (<https://docs.stripe.com/connect/webhooks>).
//!
//! The settings say it when a daemon starts, the row says it to every statement: all daemons of a database
//! act alike.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Text, Timestamptz};
use serde::Deserialize;
use utoipa::ToSchema;

use super::directory;
use crate::error::Error;
use crate::realm::{Realm, Trusted};
use crate::schema::stripe_trust as t;

/// SQL: whether the realm of `$of` acts.
macro_rules! acts {
    ($of:literal) => {
        concat!(
            "coalesce((SELECT t.livemode = ",
            $of,
            ".livemode AND ",
            $of,
            ".account = ANY (t.accounts) FROM stripe_trust t), ",
            $of,
            ".livemode AND ",
            $of,
            ".account = '')"
        )
    };
}
pub(crate) use acts;

/// Which realms a list or export shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShownRealms {
    /// Those that do not act, too.
    All,
}

/// What became of the realms that act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// They are as they were.
    None,
    /// It was not said before: all acted. None does that did not.
    Said,
    Other,
}

/// The realms that act.
pub fn load(conn: &mut PgConnection) -> QueryResult<Trusted> {
    let row: Option<(bool, Vec<Option<String>>)> =
        t::table.select((t::livemode, t::accounts)).first(conn).optional()?;
    Ok(row.map_or_else(Trusted::default, |(livemode, accounts)| {
        Trusted::new(livemode, accounts.into_iter().flatten())
    }))
}

/// Lets these realms act and no others, in the caller's transaction: customers of the others belong to nobody
/// from now on.
pub fn establish(conn: &mut PgConnection, trusted: &Trusted, now: DateTime<Utc>) -> Result<Change, Error> {
    let before = t::table.count().get_result::<i64>(conn)?;
    let changed = diesel::sql_query(
        "INSERT INTO stripe_trust AS t (livemode, accounts, since) VALUES ($1, $2, $3)
         ON CONFLICT (one) DO UPDATE SET livemode = excluded.livemode, accounts = excluded.accounts,
             since = excluded.since
         WHERE (t.livemode, t.accounts) IS DISTINCT FROM (excluded.livemode, excluded.accounts)",
    )
    .bind::<Bool, _>(trusted.livemode())
    .bind::<Array<Text>, _>(trusted.accounts())
    .bind::<Timestamptz, _>(now)
    .execute(conn)?;
    if changed == 0 {
        return Ok(Change::None);
    }
    diesel::sql_query(
        "UPDATE stripe_customer_links SET trusted = NOT trusted
         WHERE trusted <> (livemode = $1 AND account = ANY ($2))",
    )
    .bind::<Bool, _>(trusted.livemode())
    .bind::<Array<Text>, _>(trusted.accounts())
    .execute(conn)?;
    directory::all_changed(conn)?;
    Ok(if before == 0 { Change::Said } else { Change::Other })
}

#[derive(QueryableByName)]
struct Known {
    #[diesel(sql_type = Text)]
    account: String,
    #[diesel(sql_type = Bool)]
    livemode: bool,
    #[diesel(sql_type = BigInt)]
    objects: i64,
}

/// Realms that Stripe has told of and that do not act, with how many objects are mirrored of each.
pub fn idle(conn: &mut PgConnection) -> QueryResult<Vec<(Realm, i64)>> {
    let rows: Vec<Known> = diesel::sql_query(concat!(
        "SELECT o.account, o.livemode, count(*) AS objects FROM stripe_objects o WHERE NOT ",
        acts!("o"),
        " GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"
    ))
    .load(conn)?;
    Ok(rows
        .into_iter()
        .map(|row| (Realm { account: row.account, livemode: row.livemode }, row.objects))
        .collect())
}
