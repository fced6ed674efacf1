//! What follows from commands on local subscriptions: messages to the outside, and units for the battery.

use chrono::{DateTime, Utc};
use diesel::Connection;
use diesel::pg::PgConnection;
use serde_json::json;

use super::unit_grants;
use crate::billing::local_subscriptions::{self, Changed, Ended, LocalSubscription};
use crate::error::Error;
use crate::outbox::{self, NewMessage};

/// Subscriptions ended in one transaction, at most.
const BATCH: i64 = 500;

/// Writes what follows from a command on a subscription of an org (row id and public id), in the command's
/// transaction.
pub fn write_consequences(
    conn: &mut PgConnection,
    (org_id, org): (i64, &str),
    done: Changed,
    now: DateTime<Utc>,
) -> Result<LocalSubscription, Error> {
    let Changed { subscription, owed, ended } = done;
    unit_grants::grant(conn, &owed, now)?;
    let over = ended.iter().chain((subscription.status == "cancelled").then_some(&subscription));
    let messages = over.map(|subscription| ended_message(org_id, org, subscription)).collect();
    outbox::write(conn, messages, now)?;
    Ok(subscription)
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
            "plan": subscription.plan,
            "version": subscription.version,
            "ended_at": subscription.ended_at,
        }),
    }
}

/// Ends subscriptions that are over and writes their messages, a bounded batch at a time. Returns how many.
pub fn end_due(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<usize, Error> {
    conn.transaction(|conn| {
        let ended = local_subscriptions::end_due(conn, now, BATCH)?;
        let message = |Ended { org_id, org, subscription }: &Ended| ended_message(*org_id, org, subscription);
        outbox::write(conn, ended.iter().map(message).collect(), now)?;
        Ok(ended.len())
    })
}
