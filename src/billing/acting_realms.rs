//! Which realms of Stripe act. A realm acts if it has the mode that the settings name, and is our own account
//! or a connected account that they name. Owns `stripe_trust`.
//!
//! Objects of any other realm (test purchases beside live ones, connected accounts whose metadata is not
//! ours) are mirrored, but they link no customer, grant no units and change no plan. Lists, sums and exports
//! leave them out unless the request asks for them. A Connect endpoint with the live secret also gets the
//! test events of connected accounts (<https://docs.stripe.com/connect/webhooks>).
//!
//! A daemon writes its settings into the table's only row when it starts, and every statement reads that row.
//! So all daemons of a database agree.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Text, Timestamptz};
use serde::Deserialize;
use utoipa::ToSchema;

use super::directory;
use crate::error::Error;
use crate::realm::{ActingRealms, Realm};
use crate::schema::stripe_trust as t;

/// SQL: whether the realm of the row `$of` acts.
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

/// SQL: whether the mode that acts is the live mode.
macro_rules! acting_mode {
    () => {
        "coalesce((SELECT r.livemode FROM stripe_trust r), true)"
    };
}
pub(crate) use acting_mode;

/// Which realms a list or export shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShownRealms {
    /// Those that do not act, too.
    All,
}

/// How a start of the daemon changed the realms that act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActingChange {
    None,
    /// No settings were stored before. So every realm acted, and no realm begins to act now.
    First,
    Other,
}

/// The realms that act.
pub fn load(conn: &mut PgConnection) -> QueryResult<ActingRealms> {
    let row: Option<(bool, Vec<Option<String>>)> =
        t::table.select((t::livemode, t::accounts)).first(conn).optional()?;
    Ok(row.map_or_else(ActingRealms::default, |(livemode, accounts)| {
        ActingRealms::new(livemode, accounts.into_iter().flatten())
    }))
}

/// Stores which realms act, in the caller's transaction. From then on customers of other realms belong to no
/// org.
pub fn establish(
    conn: &mut PgConnection,
    acting: &ActingRealms,
    now: DateTime<Utc>,
) -> Result<ActingChange, Error> {
    let before = t::table.count().get_result::<i64>(conn)?;
    let changed = diesel::sql_query(
        "INSERT INTO stripe_trust AS t (livemode, accounts, since) VALUES ($1, $2, $3)
         ON CONFLICT (one) DO UPDATE SET livemode = excluded.livemode, accounts = excluded.accounts,
             since = excluded.since
         WHERE (t.livemode, t.accounts) IS DISTINCT FROM (excluded.livemode, excluded.accounts)",
    )
    .bind::<Bool, _>(acting.livemode())
    .bind::<Array<Text>, _>(acting.accounts())
    .bind::<Timestamptz, _>(now)
    .execute(conn)?;
    if changed == 0 {
        return Ok(ActingChange::None);
    }
    diesel::sql_query(
        "UPDATE stripe_customer_links SET trusted = NOT trusted
         WHERE trusted <> (livemode = $1 AND account = ANY ($2))",
    )
    .bind::<Bool, _>(acting.livemode())
    .bind::<Array<Text>, _>(acting.accounts())
    .execute(conn)?;
    directory::all_changed(conn)?;
    Ok(if before == 0 { ActingChange::First } else { ActingChange::Other })
}

#[derive(QueryableByName)]
struct IdleRealmRow {
    #[diesel(sql_type = Text)]
    account: String,
    #[diesel(sql_type = Bool)]
    livemode: bool,
    #[diesel(sql_type = BigInt)]
    objects: i64,
}

/// The realms that do not act but have sent events, each with the number of its mirrored objects.
pub fn idle(conn: &mut PgConnection) -> QueryResult<Vec<(Realm, i64)>> {
    let rows: Vec<IdleRealmRow> = diesel::sql_query(concat!(
        "SELECT o.account, o.livemode, count(*) AS objects
         FROM stripe_objects o
         WHERE NOT ",
        acts!("o"),
        " GROUP BY 1, 2
         ORDER BY 3 DESC, 1, 2"
    ))
    .load(conn)?;
    Ok(rows
        .into_iter()
        .map(|row| (Realm { account: row.account, livemode: row.livemode }, row.objects))
        .collect())
}
