//! What follows from commands on local subscriptions: messages to the outside, and units for the battery.

use chrono::{DateTime, Utc};
use diesel::Connection;
use diesel::pg::PgConnection;
use serde_json::json;

use super::unit_grants;
use crate::billing::directory::OrgContext;
use crate::billing::local_subscriptions::{self, Changed, Ended, LocalSubscription};
use crate::billing::org_plan::AsOf;
use crate::billing::told;
use crate::error::Error;
use crate::messages::{self, NewMessage};

/// Subscriptions ended in one transaction, at most.
const BATCH: i64 = 500;

/// Writes what follows from a command on a subscription of an org, in the command's transaction.
pub fn write_consequences(
    conn: &mut PgConnection,
    org: &OrgContext,
    done: Changed,
    now: DateTime<Utc>,
) -> Result<LocalSubscription, Error> {
    let Changed { subscription, owed, ended } = done;
    unit_grants::grant(conn, &owed, now)?;
    let over = ended.iter().chain((subscription.status == "cancelled").then_some(&subscription));
    let mut messages: Vec<_> =
        over.map(|subscription| ended_message(org.org_id, &org.public_id, subscription)).collect();
    if subscription.status != "cancelled" {
        messages.push(changed_message(org, &subscription, now));
    }
    messages::write(conn, messages, now)?;
    told::write_plan_changes(conn, [org.org_id], AsOf { now, grace_days: org.grace_days })?;
    Ok(subscription)
}

/// The message that a subscription was made or changed. A command commits once, so its time is the key.
fn changed_message(org: &OrgContext, subscription: &LocalSubscription, now: DateTime<Utc>) -> NewMessage {
    let is_new = subscription.created_at == now;
    NewMessage {
        org_id: org.org_id,
        kind: if is_new { "subscription.created" } else { "subscription.updated" },
        dedupe_key: format!("subscription:{}:changed:{}", subscription.id, now.timestamp_micros()),
        data: json!({
            "org": &*org.public_id,
            "subscription": subscription.id,
            "origin": "local",
            "status": subscription.status,
            "items": [],
            "trial_end": subscription.trial_end,
            "cancel_at": null,
            "cancel_at_period_end": subscription.cancel_at_period_end,
            "period_end": subscription.valid_until,
            "ended_at": subscription.ended_at,
            "plan": subscription.plan,
            "version": subscription.version,
        }),
        object: serde_json::to_value(subscription).ok(),
    }
}

/// The message that a subscription has ended; its key keeps a second one out.
fn ended_message(org_id: i64, org: &str, subscription: &LocalSubscription) -> NewMessage {
    NewMessage {
        org_id,
        kind: if subscription.status == "cancelled" {
            "subscription.cancelled"
        } else {
            "subscription.expired"
        },
        dedupe_key: format!("subscription:{}:ended", subscription.id),
        data: json!({
            "org": org,
            "subscription": subscription.id,
            "origin": "local",
            "plan": subscription.plan,
            "version": subscription.version,
            "ended_at": subscription.ended_at,
        }),
        object: None,
    }
}

/// Ends subscriptions that are over and writes their messages, a bounded batch at a time. Returns how many.
pub fn end_due(conn: &mut PgConnection, as_of: AsOf) -> Result<usize, Error> {
    conn.transaction(|conn| {
        let ended = local_subscriptions::end_due(conn, as_of.now, BATCH)?;
        let message = |Ended { org_id, org, subscription }: &Ended| ended_message(*org_id, org, subscription);
        messages::write(conn, ended.iter().map(message).collect(), as_of.now)?;
        told::write_plan_changes(conn, ended.iter().map(|one| one.org_id), as_of)?;
        Ok(ended.len())
    })
}
