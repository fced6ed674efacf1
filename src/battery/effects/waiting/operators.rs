//! What operators do with waiting effects: list, dismiss, assign.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable, Text, Timestamptz};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::battery::effects::lock;
use crate::billing::markers::{self, Marker};
use crate::error::Error;
use crate::realm::Realm;
use crate::schema::{battery_effects_waiting, battery_packs};

/// An effect of Stripe that cannot happen yet.
#[derive(Clone, Debug, Serialize, ToSchema, QueryableByName)]
pub struct WaitingEffect {
    /// Its number.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// Connected account, empty for our own.
    #[diesel(sql_type = Text)]
    pub account: String,
    /// Live or test mode.
    #[diesel(sql_type = Bool)]
    pub livemode: bool,
    /// Kind of the Stripe object: `invoice`, `payment_intent`, `checkout_session`; of a failed one any.
    #[diesel(sql_type = Text)]
    pub object: String,
    /// Id of the Stripe object.
    #[diesel(sql_type = Text)]
    pub object_id: String,
    /// The line of the invoice; empty: the object as a whole.
    #[diesel(sql_type = Text)]
    pub line: String,
    /// `no_org`, `unknown_price`, `unknown_pack`, `unknown_quantity`, `unknown_subscription`,
    /// `unknown_period`, `no_grant`, `incomplete_lines`, `already_granted`,
    /// `no_subscription` or `failed`.
    #[diesel(sql_type = Text)]
    pub reason: String,
    /// Why, and what to do, as a sentence.
    #[diesel(sql_type = Text)]
    pub detail: String,
    /// Since when it waits for this reason.
    #[diesel(sql_type = Timestamptz)]
    pub since: DateTime<Utc>,
    /// The Stripe customer.
    #[diesel(sql_type = Nullable<Text>)]
    pub customer_id: Option<String>,
    /// The subscription of the line.
    #[diesel(sql_type = Nullable<Text>)]
    pub subscription_id: Option<String>,
    /// The price of the line.
    #[diesel(sql_type = Nullable<Text>)]
    pub price_id: Option<String>,
}

/// What a waiting effect is for.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// Public or external id of the org that gets the units; left out: the org that the customer is linked
    /// to.
    #[serde(default)]
    pub org: Option<String>,
    /// The pack that was bought; left out: the pack that the payment names.
    #[serde(default)]
    pub pack: Option<String>,
    /// How many of the pack were bought, 1 or more; left out: as many as the payment says.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub quantity: Option<i64>,
}

/// Largest quantity of packs that can be assigned.
const MAX_QUANTITY: i64 = 1_000_000;

const WAITING_COLUMNS: &str = "SELECT waiting_id AS id, account, livemode, source_kind AS object,
         source_id AS object_id, line, reason, detail, since, customer_id, subscription_id, price_id
     FROM battery_effects_waiting";

/// Effects that wait, oldest first, after the one of the number `after`. Dismissed ones are left out.
pub fn list(
    conn: &mut PgConnection,
    reason: Option<&str>,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<WaitingEffect>, Error> {
    let sql = format!(
        "{WAITING_COLUMNS}
         WHERE dismissed_at IS NULL
             AND ($1::text IS NULL OR reason = $1)
             AND waiting_id > $2
         ORDER BY waiting_id
         LIMIT $3"
    );
    Ok(diesel::sql_query(sql)
        .bind::<Nullable<Text>, _>(reason)
        .bind::<BigInt, _>(after.unwrap_or(0))
        .bind::<BigInt, _>(limit)
        .load(conn)?)
}

/// How many effects wait. Dismissed ones are left out.
pub fn count(conn: &mut PgConnection) -> QueryResult<i64> {
    let waiting = battery_effects_waiting::table.filter(battery_effects_waiting::dismissed_at.is_null());
    waiting.count().get_result(conn)
}

/// Locks the row of a waiting effect.
fn lock_effect(conn: &mut PgConnection, id: i64) -> Result<WaitingEffect, Error> {
    let sql = format!(
        "{WAITING_COLUMNS}
         WHERE waiting_id = $1
             AND dismissed_at IS NULL
         FOR UPDATE"
    );
    diesel::sql_query(sql)
        .bind::<BigInt, _>(id)
        .get_result(conn)
        .optional()?
        .ok_or(Error::NotFound("waiting effect"))
}

/// Checks the reason that an operator gives.
///
/// # Errors
/// [`Error::Invalid`] for a blank or a too long one.
pub(in crate::battery::effects) fn check_reason(reason: &str) -> Result<(), Error> {
    if reason.trim().is_empty() || reason.chars().count() > 500 || crate::text::has_nul(reason) {
        return Err(Error::invalid("reason", "must be 1 to 500 characters, and not blank"));
    }
    Ok(())
}

/// Dismisses an effect: it never happens. Returns it.
///
/// # Errors
/// [`Error::NotFound`] when it does not wait, [`Error::Invalid`] without a reason.
pub fn dismiss(
    conn: &mut PgConnection,
    id: i64,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<WaitingEffect, Error> {
    check_reason(reason)?;
    lock::hold_alone(conn)?;
    let effect = lock_effect(conn, id)?;
    diesel::sql_query(
        "UPDATE battery_effects_waiting
         SET dismissed_at = $2, dismissed_reason = $3, next_try = NULL
         WHERE waiting_id = $1",
    )
    .bind::<BigInt, _>(id)
    .bind::<Timestamptz, _>(now)
    .bind::<Text, _>(reason)
    .execute(conn)?;
    Ok(effect)
}

/// Assigns an org, a pack or a quantity to an effect, and requeues it. Returns it as it was.
///
/// # Errors
/// [`Error::NotFound`] when it does not wait, [`Error::Invalid`] for a bad quantity or an unknown pack.
pub fn assign(
    conn: &mut PgConnection,
    id: i64,
    org_id: Option<i64>,
    pack: Option<&str>,
    quantity: Option<i64>,
) -> Result<WaitingEffect, Error> {
    if quantity.is_some_and(|quantity| !(1..=MAX_QUANTITY).contains(&quantity)) {
        return Err(Error::invalid("quantity", format!("must be a whole number from 1 to {MAX_QUANTITY}")));
    }
    lock::hold_alone(conn)?;
    let effect = lock_effect(conn, id)?;
    if let Some(pack) = pack {
        let exists: bool =
            diesel::select(diesel::dsl::exists(battery_packs::table.find(pack))).get_result(conn)?;
        if !exists {
            return Err(Error::invalid(
                "pack",
                format!("there is no pack `{}`", crate::text::strip_nul(pack)),
            ));
        }
    }
    diesel::sql_query(
        "UPDATE battery_effects_waiting
         SET assigned_org = coalesce($2, assigned_org),
             assigned_pack = coalesce($3, assigned_pack),
             assigned_quantity = coalesce($4, assigned_quantity)
         WHERE waiting_id = $1",
    )
    .bind::<BigInt, _>(id)
    .bind::<Nullable<BigInt>, _>(org_id)
    .bind::<Nullable<Text>, _>(pack)
    .bind::<Nullable<BigInt>, _>(quantity)
    .execute(conn)?;
    let realm = Realm { account: effect.account.clone(), livemode: effect.livemode };
    let marker = Marker { realm, kind: effect.object.clone(), id: effect.object_id.clone() };
    markers::write(conn, [&marker])?;
    Ok(effect)
}
