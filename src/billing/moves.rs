//! Stripe subscriptions that an operator moved to another version of their plan. Owns `subscription_moves`.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Integer, Text, Timestamptz};

use super::directory::{self, Change};
use super::links;
use super::org_plan::{clock, stripe_plans};
use super::plans;
use crate::error::Error;
use crate::realm::{Realm, RealmSelector, UnclearRealm};
use crate::schema::{subscription_moves, subscriptions};

/// Moves a Stripe subscription to a version of a plan. While it is on this plan, it has that version instead
/// of the one that it bought.
///
/// # Errors
/// [`Error::NotFound`] when there is no such subscription, or the plan has no such version.
pub fn one(
    conn: &mut PgConnection,
    selector: &RealmSelector,
    subscription_id: &str,
    (plan_id, version): (&str, i32),
    now: DateTime<Utc>,
) -> Result<Realm, Error> {
    let known: Vec<(String, bool)> = subscriptions::table
        .filter(subscriptions::id.eq(subscription_id))
        .select((subscriptions::account, subscriptions::livemode))
        .order((subscriptions::account, subscriptions::livemode))
        .load(conn)?;
    let known = known.into_iter().map(|(account, livemode)| Realm { account, livemode });
    let realm = selector.select(known).map_err(|unclear| match unclear {
        UnclearRealm::Nowhere => Error::NotFound("subscription"),
        unclear => links::which(unclear),
    })?;
    plans::check_version(conn, plan_id, version)?;
    diesel::insert_into(subscription_moves::table)
        .values((
            subscription_moves::account.eq(&realm.account),
            subscription_moves::livemode.eq(realm.livemode),
            subscription_moves::subscription_id.eq(subscription_id),
            subscription_moves::plan_id.eq(plan_id),
            subscription_moves::version.eq(version),
            subscription_moves::moved_at.eq(now),
        ))
        .on_conflict((
            subscription_moves::account,
            subscription_moves::livemode,
            subscription_moves::subscription_id,
            subscription_moves::plan_id,
        ))
        .do_update()
        .set((subscription_moves::version.eq(version), subscription_moves::moved_at.eq(now)))
        .execute(conn)?;
    let moved = Change::Subscription(realm.account.clone(), realm.livemode, subscription_id.to_owned());
    directory::changed(conn, [moved])?;
    Ok(realm)
}

const ALL: &str = concat!(
    "WITH ",
    clock!("$1", "$2"),
    " INSERT INTO subscription_moves AS m (account, livemode, subscription_id, plan_id, version, moved_at)
     SELECT s.account, s.livemode, s.id, p.plan_id, $5, clock.now FROM ",
    // Paused and unpaid subscriptions move, too: they may become active again.
    stripe_plans!("subscriptions s", "s.status NOT IN ('canceled', 'incomplete_expired')"),
    " WHERE p.plan_id = $3 AND p.version = $4
     ON CONFLICT (account, livemode, subscription_id, plan_id)
     DO UPDATE SET version = excluded.version, moved_at = excluded.moved_at"
);

/// Moves every Stripe subscription that has not ended from version `from` of a plan to version `to`; returns
/// how many.
///
/// # Errors
/// [`Error::NotFound`] when the plan has no such version.
pub fn all(
    conn: &mut PgConnection,
    plan_id: &str,
    (from, to): (i32, i32),
    now: DateTime<Utc>,
) -> Result<usize, Error> {
    plans::check_version(conn, plan_id, from)?;
    plans::check_version(conn, plan_id, to)?;
    let moved = diesel::sql_query(ALL)
        .bind::<Timestamptz, _>(now)
        .bind::<Integer, _>(0)
        .bind::<Text, _>(plan_id)
        .bind::<Integer, _>(from)
        .bind::<Integer, _>(to)
        .execute(conn)?;
    directory::all_changed(conn)?;
    Ok(moved)
}
